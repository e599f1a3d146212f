//! P6: MCP by MESSAGE in a dialog. Ours: the request journalled in Redis before the 200, the tool called over HTTP, its answer as a MESSAGE.
//! Kamailio: a MESSAGE with such a body relayed statefully, nothing stored. Other work, and more of it on our side.

use std::io;

use super::{Bench, DOMAIN, Title, backend, load_name, loopback, sub};
use crate::load::Sockets;
use crate::pair::sample;
use crate::scenario::exchange::{Carrier, Exchanges};
use crate::scenario::page::Pages;
use crate::system::edge::{Edge, Setup, Store};
use crate::system::kamailio::{Kamailio, Role};
use crate::system::redis::{Persistence, Redis};

/// Exchanges of one call, one after the other.
const PER_CALL: u32 = 50;

/// # Errors
/// When a system cannot be started or completes nothing.
pub fn run(bench: &Bench) -> io::Result<()> {
    let folder = tempfile::tempdir()?;
    let (ours, theirs) = (sub(folder.path(), "ours")?, sub(folder.path(), "theirs")?);
    let redis = Redis::start(&ours, Persistence::None)?;
    let (_agent, url) = backend(&ours)?;
    let (from, called) = (loopback()?, loopback()?);
    let edge = Edge::start(&Setup::new(Store::Redis(redis.address), &url), &ours)?;
    let kamailio = Kamailio::start(Role::Relay { to: called }, &theirs)?;
    let sockets = Sockets::bind(from, Some(called))?;
    let roots = [edge.program.pid(), redis.program.pid()];
    let what = format!(
        "MCP tool call by in-dialog MESSAGE: journal in Redis, 200, HTTP call, answer by MESSAGE, 200; {PER_CALL} per call; beside a \
         relayed MESSAGE that nobody stores: other work"
    );
    let plan = bench.plan();
    // Calls per second, of PER_CALL exchanges each: 1000 exchanges per second.
    for (name, push) in bench.points(1_000.0 / f64::from(PER_CALL), 64) {
        let title = Title { id: format!("message-{name}"), what: &what, load: load_name(push), peer: "kamailio" };
        let relayed = match push {
            crate::load::Push::Rate(rate) => crate::load::Push::Rate(rate * f64::from(PER_CALL)),
            in_flight @ crate::load::Push::InFlight(_) => in_flight,
        };
        bench.pairs(
            &title,
            || {
                let work = Exchanges::new(format!("sip:echo@{DOMAIN}"), from, PER_CALL, Carrier::Message);
                sample(work, &sockets, edge.address, &roots, push, &plan)
            },
            || {
                let work = Pages::new(format!("sip:u0@{DOMAIN}"), from);
                sample(work, &sockets, kamailio.address, &[kamailio.program.pid()], relayed, &plan)
            },
        )?;
    }
    Ok(())
}
