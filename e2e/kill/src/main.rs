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
mod report;
mod resp;
mod roll;
mod run;
mod table;
mod tally;
mod ua;
mod world;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use futures_util::{StreamExt, stream};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{Args, Class, Fault, Topology};
use crate::certificates::Authority;
use crate::report::Report;
use crate::run::Journal;
use crate::table::Row;

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
    let rows = plan(&args);
    if rows.is_empty() {
        eprintln!("kill: no row fits; see --help for faults, classes and topologies");
        return ExitCode::from(2);
    }
    match all(&args, rows).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("kill: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The first run of each row, then the second ones, and so on: whenever it is interrupted, every row has had its share.
async fn all(args: &Args, rows: Vec<Row>) -> Fallible<ExitCode> {
    let authority = Authority::new()?;
    let start = Instant::now();
    let mut report = Report::new(args, rows, start)?;
    let most = report.parts.iter().map(|part| part.of).max().unwrap_or(0);
    let runs: Vec<(usize, Row, u32, u32)> = (0..most)
        .flat_map(|run| report.parts.iter().enumerate().map(move |(place, part)| (place, part.row, run, part.of)))
        .filter(|(_, _, run, of)| run < of)
        .collect();
    let hopeless: Vec<AtomicBool> = report.parts.iter().map(|_| AtomicBool::new(false)).collect();
    let (authority, hopeless) = (&authority, &hopeless);
    let runs = runs.into_iter().map(|(place, row, run, of)| async move {
        if hopeless[place].load(Ordering::Relaxed) {
            return None;
        }
        let journal = Journal { row, run, of, args, start };
        let one = tokio::time::timeout(LIMIT, run::run(authority, &journal)).await;
        let one = one.unwrap_or_else(|_| Err(format!("the run did not end within {LIMIT:?}")));
        if let Err(error) = &one {
            report::clear();
            eprintln!("{} {:?} run {}: {error}", row.id(), row.class, run + 1);
        }
        Some((place, one))
    });
    let mut runs = stream::iter(runs).buffer_unordered(usize::from(args.jobs));
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let was_interrupted = loop {
        tokio::select! {
            next = runs.next() => match next {
                Some(Some((place, one))) => {
                    report.add(place, one)?;
                    // What cannot be made three times will not be made a fourth time.
                    hopeless[place].store(report.parts[place].broken >= 3, Ordering::Relaxed);
                }
                Some(None) => {}
                None => break false,
            },
            _ = tokio::signal::ctrl_c() => break true,
            _ = terminate.recv() => break true,
        }
    };
    // Dropping what runs ends every process.
    drop(runs);
    report::clear();
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for part in &report.parts {
        let (row, sum) = (part.row, &part.sum);
        let word = match (was_interrupted && sum.runs + part.broken == 0, part.holds()) {
            (true, _) => {
                skipped += 1;
                "not run"
            }
            (_, true) => {
                passed += 1;
                "ok"
            }
            (_, false) => {
                failed += 1;
                "FAILED"
            }
        };
        eprintln!("{word:7} {} {:?}: {} of {} runs, {} broken", row.id(), row.class, sum.runs, part.of, part.broken);
        if word == "FAILED" || args.verbose {
            for note in &sum.notes {
                eprintln!("       {note}");
            }
        }
    }
    print!("{}", report.print());
    println!("count: {passed} passed, {failed} failed, {skipped} skipped");
    Ok(match (was_interrupted, failed) {
        (true, _) => ExitCode::from(130),
        (false, 0) => ExitCode::SUCCESS,
        (false, _) => ExitCode::FAILURE,
    })
}
