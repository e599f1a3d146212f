//! P10: what a dialog and a binding take in Redis, beside Kamailio with topos_redis; and that nothing is left after the last time to live.

use std::io;
use std::time::{Duration, Instant};

use super::{Bench, DOMAIN, backend, loopback, register_called, sub};
use crate::load::{Push, Sockets, run as load};
use crate::pair::{Figure, Unit, figure, publish};
use crate::scenario::call::{Calls, Ends};
use crate::scenario::register::Registers;
use crate::system::edge::{Edge, Setup, Store};
use crate::system::kamailio::{Kamailio, Role};
use crate::system::redis::{Persistence, Redis};

/// 64·T1 and a little: the longest life of what a finished call leaves behind.
const REST: Duration = Duration::from_secs(40);

/// # Errors
/// When a system cannot be started or completes nothing.
pub fn run(bench: &Bench) -> io::Result<()> {
    let count = if bench.is_smoke { 20 } else { 2_000 };
    let rest = if bench.is_smoke { Duration::ZERO } else { REST };
    dialogs(bench, count, rest)?;
    bindings(bench, count, rest)
}

fn put(bench: &Bench, figure: Figure, unit: Unit, load: &str) -> io::Result<()> {
    publish(&Figure { unit: Some(unit), load: load.into(), ..figure }, &bench.out)
}

/// Calls between two UAs are held, weighed, and ended.
fn dialogs(bench: &Bench, count: usize, rest: Duration) -> io::Result<()> {
    let folder = tempfile::tempdir()?;
    let (ours, theirs) = (sub(folder.path(), "ours")?, sub(folder.path(), "theirs")?);
    let (redis, their_redis) = (Redis::start(&ours, Persistence::None)?, Redis::start(&theirs, Persistence::None)?);
    let (_agent, url) = backend(&ours)?;
    let (from, called) = (loopback()?, loopback()?);
    let edge = Edge::start(&Setup { users: 1, ..Setup::new(Store::Redis(redis.address), &url) }, &ours)?;
    let kamailio = Kamailio::start(Role::SharedCalls { redis: their_redis.address, to: called }, &theirs)?;
    register_called(&edge, called)?;
    let sockets = Sockets::bind(from, Some(called))?;
    let mut bytes = Vec::new();
    let mut ends = Vec::new();
    for (server, store) in [(edge.address, &redis), (kamailio.address, &their_redis)] {
        let before = store.info("used_memory");
        let mut work = Calls::new(format!("sip:u0@{DOMAIN}"), from, Some(called), "").held(count);
        let most = Duration::from_secs(60);
        load(&mut work, &sockets, &[server], Push::InFlight(16), Duration::ZERO, most, |_| {});
        let held = work.into_held();
        if held.is_empty() {
            return Err(io::Error::other(format!("{server} held no call")));
        }
        // Until the INVITE's guard and the transactions are gone: what is left is the dialogs.
        std::thread::sleep(rest);
        let dialogs = held.len() as f64 * 2.0;
        bytes.push(store.info("used_memory").saturating_sub(before) as f64 / dialogs);
        println!("  {server}: {} calls held, {} keys", held.len(), store.keys());
        ends.push((server, held));
    }
    let what = "bytes in Redis per dialog (a call between two UAs has two), INVITE dropped; peer: topos_redis";
    let load_text = format!("{count} calls held");
    put(
        bench,
        figure("store-bytes-dialog", what, "", "kamailio+topos_redis", &bytes[..1], &bytes[1..]),
        Unit::Bytes,
        &load_text,
    )?;
    for (server, held) in ends {
        let count = held.len();
        let mut work = Ends::new(held, from);
        let most = Duration::from_secs(60);
        let seen = load(&mut work, &sockets, &[server], Push::InFlight(16), Duration::ZERO, most, |_| {});
        println!("  {server}: {} of {count} calls ended", seen.ended);
    }
    // The registration of the called side is taken back, too.
    unregister(&edge, 1, called)?;
    until_gone(&redis, rest)?;
    let left = [redis.keys_of_calls()? as f64, their_redis.keys_of_calls()? as f64];
    if !bench.is_smoke {
        let longest = redis.longest_life()?;
        println!("  keys left: ours {} (longest life {longest} s), theirs {}", left[0], left[1]);
        let what = "keys of calls and registrations 40 s after the last of them ended; nonces of digest live on for their time";
        put(
            bench,
            figure("store-keys-left", what, "", "kamailio+topos_redis", &left[..1], &left[1..]),
            Unit::Keys,
            &load_text,
        )?;
    }
    Ok(())
}

fn until_gone(redis: &Redis, most: Duration) -> io::Result<()> {
    let deadline = Instant::now() + most;
    while Instant::now() < deadline && redis.keys_of_calls()? > 0 {
        std::thread::sleep(Duration::from_millis(500));
    }
    Ok(())
}

/// Users register, are weighed, and take it back.
fn bindings(bench: &Bench, count: usize, rest: Duration) -> io::Result<()> {
    let folder = tempfile::tempdir()?;
    let redis = Redis::start(folder.path(), Persistence::None)?;
    let (_agent, url) = backend(folder.path())?;
    let from = loopback()?;
    let edge = Edge::start(&Setup { users: count, ..Setup::new(Store::Redis(redis.address), &url) }, folder.path())?;
    let sockets = Sockets::bind(from, None)?;
    let before = redis.info("used_memory");
    let mut work = Registers::new(count, DOMAIN, from).once();
    load(&mut work, &sockets, &[edge.address], Push::InFlight(16), Duration::ZERO, Duration::from_secs(60), |_| {});
    let nonces = redis.count("n:")?;
    let registered = redis.count("b:")?;
    if registered == 0 {
        return Err(io::Error::other("nobody registered"));
    }
    let bytes = redis.info("used_memory").saturating_sub(before) as f64 / registered as f64;
    println!("  {registered} bindings, {nonces} nonces");
    let what = "bytes in Redis per binding, the count of its digest nonce included";
    let load_text = format!("{registered} bindings");
    put(bench, figure("store-bytes-binding", what, "", "none", &[bytes], &[]), Unit::Bytes, &load_text)?;
    unregister(&edge, count, from)?;
    // What was removed is remembered for 64·T1.
    until_gone(&redis, rest)?;
    println!("  keys of bindings after they were taken back: {}", redis.count("b:")?);
    Ok(())
}

fn unregister(edge: &Edge, users: usize, contact: std::net::SocketAddr) -> io::Result<()> {
    let mut work = Registers::new(users, DOMAIN, contact).once().leaving();
    let sockets = Sockets::bind(loopback()?, None)?;
    let window = Duration::from_secs(60);
    let seen =
        load(&mut work, &sockets, &[edge.address], Push::InFlight(16.min(users)), Duration::ZERO, window, |_| {});
    if seen.ended == 0 {
        return Err(io::Error::other("no registration could be taken back"));
    }
    Ok(())
}
