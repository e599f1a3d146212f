//! P4 and P5: refreshes with SHA-256 digest on both sides (no domain admits an anonymous REGISTER), the nonce kept by each user. Ours in
//! memory, and ours in Redis, each beside Kamailio's `save()` in memory.

use std::io;

use super::{Bench, DOMAIN, Title, backend, load_name, loopback, sub};
use crate::load::Sockets;
use crate::pair::sample;
use crate::scenario::register::Registers;
use crate::system::edge::{Edge, Setup, Store};
use crate::system::kamailio::{Kamailio, Role};
use crate::system::redis::{Persistence, Redis};

const USERS: usize = 1_000;

/// # Errors
/// When a system cannot be started or completes nothing.
pub fn run(bench: &Bench) -> io::Result<()> {
    let folder = tempfile::tempdir()?;
    let (ours, theirs) = (sub(folder.path(), "ours")?, sub(folder.path(), "theirs")?);
    let (_agent, url) = backend(&ours)?;
    let from = loopback()?;
    let redis = Redis::start(&ours, Persistence::None)?;
    let setup = |store| Setup { users: USERS, ..Setup::new(store, &url) };
    let in_memory = Edge::start(&setup(Store::Memory), &sub(&ours, "memory")?)?;
    let shared = Edge::start(&setup(Store::Redis(redis.address)), &sub(&ours, "shared")?)?;
    let kamailio = Kamailio::start(Role::Registrar, &theirs)?;
    let sockets = Sockets::bind(from, None)?;
    let plan = bench.plan();
    let kinds = [
        ("register-digest", "in memory", &in_memory, vec![in_memory.program.pid()]),
        (
            "register-digest-shared",
            "ours in Redis before the 200, Kamailio's in memory",
            &shared,
            vec![shared.program.pid(), redis.program.pid()],
        ),
    ];
    for (id, where_, edge, roots) in kinds {
        // 2000/s: below half load of the slower side, with the generator on the same two cores.
        for (name, push) in bench.points(2_000.0, 64) {
            let what = format!("REGISTER refresh with SHA-256 digest, {where_}");
            let title = Title { id: format!("{id}-{name}"), what: &what, load: load_name(push), peer: "kamailio" };
            let work = || Registers::new(USERS, DOMAIN, from);
            bench.pairs(
                &title,
                || sample(work(), &sockets, edge.address, &roots, push, &plan),
                || sample(work(), &sockets, kamailio.address, &[kamailio.program.pid()], push, &plan),
            )?;
        }
    }
    Ok(())
}
