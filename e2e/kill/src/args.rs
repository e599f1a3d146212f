//! What is asked for.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// What an acknowledgement waits for (`SipDomain.spec.durability`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Class {
    #[value(name = "Memory")]
    Memory,
    #[value(name = "Replica")]
    Replica,
    #[value(name = "Fsync")]
    Fsync,
}

/// How the store stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Topology {
    /// One edge with its own memory: what can be said without a shared store.
    Embedded,
    /// One Redis (with a replica where the class is Replica), reached through a proxy of ours.
    Single,
    /// One primary, two replicas, three sentinels.
    Sentinel,
    /// Three primaries with a replica each.
    Cluster,
}

/// What is done to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Fault {
    /// Nothing: the load alone.
    None,
    /// kill -9 of one edge.
    Edge,
    /// One edge is stopped for longer than its lease, then goes on.
    Zombie,
    /// kill -9 of all edges in turn, each started again.
    Each,
    /// kill -9 of the primary of the store; it comes back after its replica was promoted.
    Primary,
    /// The store is stopped for 60 s (10 s with --quick).
    StoreStop,
    /// kill -9 of the store, which comes back with its append-only file.
    StoreAof,
    /// kill -9 of the store, which comes back empty.
    StoreEmpty,
    /// 750 ms more to and from the store for 60 s (10 s with --quick).
    StoreSlow,
    /// One edge does not reach the store for longer than its lease.
    CutStore,
    /// The edges do not reach one edge.
    CutMesh,
    /// kill -9 of one edge while exchanges are not journalled: shows that the journal is what keeps them.
    NoJournal,
    /// All edges in turn: SIGTERM, drain, start.
    Roll,
}

impl Fault {
    /// Part of the id of its row.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Real edges, a real store, real clients: what a fault loses, counted.
#[derive(Clone, Debug, Parser)]
#[command(version, max_term_width = 120)]
pub struct Args {
    /// How often each fault.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub runs: u32,
    /// How often those that take a minute; without it as --runs.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub long_runs: Option<u32>,
    /// Only these faults.
    #[arg(long, value_name = "FAULT", value_delimiter = ',', value_enum)]
    pub faults: Vec<Fault>,
    /// Only this class.
    #[arg(long, value_enum)]
    pub class: Option<Class>,
    /// Only this topology.
    #[arg(long, value_enum)]
    pub topology: Option<Topology>,
    /// Each fault once on one Redis, outages of 10 s.
    #[arg(long)]
    pub quick: bool,
    /// Runs at one time: each has its own edges, store and addresses. Times of recovery are those of a busy machine then.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=32))]
    pub jobs: u8,
    /// Clients; a third each by UDP, TLS and WSS.
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u16).range(3..=3000))]
    pub clients: u16,
    /// Dialogs of each client.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub dialogs: u16,
    /// The pauses of the load, times this.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = factor)]
    pub pace: f64,
    /// Calls per second during a rolling restart.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub rate: u16,
    /// The server program in place of the PATH's redis-server, for example Valkey's.
    #[arg(long, value_name = "FILE")]
    pub server: Option<PathBuf>,
    /// Where the rows go, one JSON object a line, after what is there; written anew after each run.
    #[arg(long, value_name = "FILE", default_value = "target/bench/kill.jsonl")]
    pub out: PathBuf,
    /// Where the table goes, too; written anew after each run.
    #[arg(long, value_name = "FILE")]
    pub table: Option<PathBuf>,
    /// Keep the folder of a run that lost something, and say where it is.
    #[arg(long)]
    pub keep: bool,
    /// Say what happens, line by line.
    #[arg(long, short)]
    pub verbose: bool,
}

fn factor(text: &str) -> Result<f64, String> {
    let factor: f64 = text.parse().map_err(|_| format!("{text} is no number"))?;
    match (0.01..=1000.0).contains(&factor) {
        true => Ok(factor),
        false => Err("0.01 to 1000".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn arguments_are_consistent() {
        Args::command().debug_assert();
        let args = Args::try_parse_from(["kill", "--faults", "edge,store-aof", "--class", "Replica"]).unwrap();
        assert_eq!(args.faults, [Fault::Edge, Fault::StoreAof]);
        assert_eq!(args.class, Some(Class::Replica));
        assert_eq!(Fault::StoreAof.name(), "store-aof");
        assert!(Args::try_parse_from(["kill", "--faults", "flood"]).is_err());
    }
}
