//! P8: how long a 2xx to a request in a dialog takes at half load, per class of durability. Half load: half of what the same machine, with
//! generator and agent on it, completed just before.

use std::io;
use std::time::Duration;

use super::{Bench, DOMAIN, backend, loopback, measured, sub};
use crate::load::{Push, Sockets, quantile_ms};
use crate::pair::{Plan, figure, publish, sample};
use crate::scenario::exchange::{Carrier, Exchanges};
use crate::system::edge::{Edge, Setup, Store};
use crate::system::redis::{Persistence, Redis};

/// Exchanges of one call.
const PER_CALL: u32 = 10;

/// # Errors
/// When a system cannot be started or completes nothing.
pub fn run(bench: &Bench) -> io::Result<()> {
    let classes = [("memory", "Memory"), ("replica", "Replica"), ("fsync", "Fsync")];
    for (name, class) in classes.into_iter().take(if bench.is_smoke { 1 } else { classes.len() }) {
        let folder = tempfile::tempdir()?;
        let persistence = if class == "Fsync" { Persistence::EveryWrite } else { Persistence::None };
        let redis = Redis::start(&sub(folder.path(), "redis")?, persistence)?;
        let _replica = match class {
            "Replica" => Some(redis.replica(&sub(folder.path(), "replica")?)?),
            _ => None,
        };
        let (_agent, url) = backend(folder.path())?;
        let from = loopback()?;
        let setup = Setup { durability: class, ..Setup::new(Store::Redis(redis.address), &url) };
        let edge = Edge::start(&setup, folder.path())?;
        let sockets = Sockets::bind(from, None)?;
        let roots = [edge.program.pid(), redis.program.pid()];
        let work = || Exchanges::new(format!("sip:echo@{DOMAIN}"), from, PER_CALL, Carrier::Info);
        let run = |push, plan: &Plan| sample(work(), &sockets, edge.address, &roots, push, plan);
        let short = Plan { warm: bench.warm, window: bench.window.min(Duration::from_secs(3)) };
        println!("latency-{name}");
        let full = measured(name, "full load", &mut || run(Push::InFlight(64), &short))?;
        let half = full.seen.per_second() / 2.0;
        let mut p99 = Vec::new();
        for _ in 0..bench.runs {
            let push = Push::Rate(half / f64::from(PER_CALL));
            let sample = measured(name, "half load", &mut || run(push, &bench.plan()))?;
            let of = |q| quantile_ms(&sample.seen.in_dialog, q);
            println!(
                "  in dialog: p50 {:.2} ms  p99 {:.2} ms  p99.9 {:.2} ms  max {:.2} ms",
                of(0.5),
                of(0.99),
                of(0.999),
                of(1.0)
            );
            p99.push(of(0.99) * 1000.0);
        }
        let what = format!(
            "p99 of the 2xx to a request in a dialog, its MCP message (INFO) journalled before, class {class}; range of the runs"
        );
        let load = format!("paced {half:.0}/s, half load");
        publish(&figure(&format!("latency-{name}"), &what, &load, "none", &p99, &[]), &bench.out)?;
    }
    Ok(())
}
