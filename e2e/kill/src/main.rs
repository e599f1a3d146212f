//! Faults against running edges, and one table of what each cost: three real edges, a real store, clients by UDP, TLS and WSS.

mod args;
mod certificates;
mod edge;
mod faults;
mod manifests;
mod place;
mod process;
mod proxy;
mod redis;
mod resp;
mod roll;
mod run;
mod table;
mod tally;
mod ua;
mod world;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use futures_util::{StreamExt, stream};

use crate::args::{Args, Class, Fault, Topology};
use crate::certificates::Authority;
use crate::run::Journal;
use crate::table::Row;
use crate::tally::Tally;

/// A result whose error is a sentence.
pub type Fallible<T> = Result<T, String>;

/// A run that takes longer has hung.
const LIMIT: Duration = Duration::from_secs(360);

/// What is run, in this order: (topology, faults, classes).
fn plan(args: &Args) -> Vec<Row> {
    let edge_faults = [Fault::Edge, Fault::Zombie, Fault::Each];
    let mut rows = Vec::new();
    let mut add = |fault, class, topology| rows.push(Row { fault, class, topology });
    for fault in edge_faults {
        add(fault, Class::Memory, Topology::Single);
    }
    if !args.quick {
        for class in [Class::Replica, Class::Fsync] {
            for fault in edge_faults {
                add(fault, class, Topology::Single);
            }
        }
    }
    for fault in [Fault::StoreStop, Fault::StoreSlow, Fault::CutStore, Fault::CutMesh, Fault::StoreEmpty] {
        add(fault, Class::Memory, Topology::Single);
    }
    add(Fault::StoreAof, Class::Fsync, Topology::Single);
    add(Fault::NoJournal, Class::Memory, Topology::Single);
    for topology in [Topology::Sentinel, Topology::Cluster] {
        if !args.quick || args.topology == Some(topology) {
            add(Fault::Primary, Class::Replica, topology);
            add(Fault::Primary, Class::Memory, topology);
            add(Fault::Edge, Class::Replica, topology);
        }
    }
    add(Fault::Roll, Class::Memory, Topology::Single);
    if args.topology == Some(Topology::Embedded) {
        add(Fault::None, Class::Memory, Topology::Embedded);
    }
    if args.faults.contains(&Fault::None) {
        add(Fault::None, Class::Memory, args.topology.unwrap_or(Topology::Single));
    }
    rows.retain(|row| {
        (args.faults.is_empty() || args.faults.contains(&row.fault))
            && args.class.is_none_or(|class| class == row.class)
            && args.topology.is_none_or(|topology| topology == row.topology)
    });
    rows.dedup();
    rows
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    tokio::select! {
        code = all(&args) => code,
        // Dropping the work ends every process.
        _ = tokio::signal::ctrl_c() => ExitCode::from(130),
    }
}

async fn all(args: &Args) -> ExitCode {
    let rows = plan(args);
    if rows.is_empty() {
        eprintln!("kill: no row fits; see --help for faults, classes and topologies");
        return ExitCode::from(2);
    }
    let authority = match Authority::new() {
        Ok(authority) => authority,
        Err(error) => {
            eprintln!("kill: {error}");
            return ExitCode::FAILURE;
        }
    };
    let start = Instant::now();
    let work = rows.into_iter().map(|row| one_row(args, &authority, row, start));
    let mut work = stream::iter(work).buffered(usize::from(args.jobs));
    let mut done: Vec<(Row, Tally)> = Vec::new();
    let (mut passed, mut failed) = (0, 0);
    while let Some((row, sum, holds)) = work.next().await {
        if holds {
            passed += 1
        } else {
            failed += 1
        }
        if sum.runs > 0 {
            if let Err(error) = table::append(&args.out, row, &sum) {
                eprintln!("kill: {error}");
                failed += 1;
            }
            done.push((row, sum));
        }
    }
    print!("{}", table::print(&done));
    println!("count: {passed} passed, {failed} failed, 0 skipped");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// All runs of a row, and whether it shows what it must.
async fn one_row(args: &Args, authority: &Authority, row: Row, start: Instant) -> (Row, Tally, bool) {
    let of = match row.fault.is_outage() {
        true => args.long_runs.unwrap_or(args.runs),
        false => args.runs,
    };
    let mut sum = Tally::default();
    let mut broken = 0;
    for run in 0..of {
        let journal = Journal { row, run, of, args, start };
        let one = tokio::time::timeout(LIMIT, run::run(authority, &journal)).await;
        match one.unwrap_or_else(|_| Err(format!("the run did not end within {LIMIT:?}"))) {
            Ok(tally) => sum.add(tally),
            Err(error) => {
                clear();
                eprintln!("{} {:?} run {}: {error}", row.id(), row.class, run + 1);
                broken += 1;
            }
        }
        // What cannot be made three times will not be made a fourth time.
        if broken >= 3 {
            break;
        }
    }
    clear();
    let holds = broken == 0 && row.holds(&sum);
    let word = if holds { "ok" } else { "FAILED" };
    eprintln!(
        "{word:6} {} {:?}: {} of {of} runs, lost {}, silent {}, doubles {}, {:.0} s in all",
        row.id(),
        row.class,
        sum.runs,
        sum.lost,
        sum.silent,
        sum.doubles,
        start.elapsed().as_secs_f64()
    );
    if !holds || args.verbose {
        for note in &sum.notes {
            eprintln!("       {note}");
        }
    }
    (row, sum, holds)
}

/// Makes room where the last line is progress.
fn clear() {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
}
