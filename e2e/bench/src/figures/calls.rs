//! P1 and P2: INVITE, 200, ACK, BYE, 200, the dialogs in Redis, beside Kamailio with topos_redis. Nobody shows credentials.

use std::io;

use super::{Bench, DOMAIN, Title, backend, load_name, loopback, register_called, sub};
use crate::load::Sockets;
use crate::pair::sample;
use crate::scenario::call::Calls;
use crate::system::edge::{Edge, Setup, Store};
use crate::system::kamailio::{Kamailio, Role};
use crate::system::memory_bytes;
use crate::system::redis::{Persistence, Redis};

const PEER: &str = "kamailio+topos_redis";

/// `bridged`: to a registered agent, two legs; else to an agent of ours, one leg.
///
/// # Errors
/// When a system cannot be started or completes nothing.
pub fn run(bench: &Bench, bridged: bool) -> io::Result<()> {
    let folder = tempfile::tempdir()?;
    let (ours, theirs) = (sub(folder.path(), "ours")?, sub(folder.path(), "theirs")?);
    let (redis, their_redis) = (Redis::start(&ours, Persistence::None)?, Redis::start(&theirs, Persistence::None)?);
    let (_agent, url) = backend(&ours)?;
    let (from, called) = (loopback()?, loopback()?);
    let edge = Edge::start(&Setup { users: 1, ..Setup::new(Store::Redis(redis.address), &url) }, &ours)?;
    let kamailio = Kamailio::start(Role::SharedCalls { redis: their_redis.address, to: called }, &theirs)?;
    if bridged {
        register_called(&edge, called)?;
    }
    let sockets = Sockets::bind(from, Some(called))?;
    let (user, more, id, what) = match bridged {
        true => (
            "u0",
            "",
            "shared-call",
            "call between two UAs, both legs in Redis; edge and Redis against Kamailio and Redis",
        ),
        false => (
            "echo",
            "Supported: mcp\r\n",
            "call",
            "call to an agent (one leg in Redis) beside a relayed call (two legs in Redis): other work: one leg against two",
        ),
    };
    let our_roots = [edge.program.pid(), redis.program.pid()];
    let their_roots = [kamailio.program.pid(), their_redis.program.pid()];
    let plan = bench.plan();
    // 400/s: half of what Kamailio with topos_redis holds on one core.
    for (name, push) in bench.points(400.0, 64) {
        let title = Title { id: format!("{id}-{name}"), what, load: load_name(push), peer: PEER };
        let work = |more: &str, user: &str| Calls::new(format!("sip:{user}@{DOMAIN}"), from, Some(called), more);
        let commands = || (redis.function_calls(), their_redis.info("total_commands_processed"));
        let before = commands();
        let (mut x, mut y) = (0, 0);
        bench.pairs(
            &title,
            || {
                let sample = sample(work(more, user), &sockets, edge.address, &our_roots, push, &plan);
                x += sample.seen.ended;
                sample
            },
            || {
                let sample = sample(work("", "u0"), &sockets, kamailio.address, &their_roots, push, &plan);
                y += sample.seen.ended;
                sample
            },
        )?;
        let after = commands();
        println!(
            "  store calls per call: ours {:.1} (of functions), theirs {:.1}; keys now: ours {}, theirs {}; memory: edge {} kB, kamailio {} kB",
            (after.0 - before.0) as f64 / x.max(1) as f64,
            (after.1 - before.1) as f64 / y.max(1) as f64,
            redis.keys(),
            their_redis.keys(),
            memory_bytes(&[edge.program.pid()]) / 1024,
            memory_bytes(&[kamailio.program.pid()]) / 1024
        );
    }
    Ok(())
}
