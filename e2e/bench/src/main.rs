//! Load and pairs of measurements: CPU per operation of edge and store, beside Kamailio in the same run.

mod figures;
mod goals;
mod load;
mod pair;
mod scenario;
mod system;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use figures::Bench;

/// CPU per operation, beside Kamailio where there is a comparison. Every figure is a line of `target/bench/sip.jsonl`.
#[derive(Parser)]
struct Args {
    /// What is measured
    #[arg(value_enum, default_value_t = What::All)]
    what: What,
    /// Pairs per figure
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Seconds of the counted window
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Where the figures go
    #[arg(long, default_value = "target/bench/sip.jsonl")]
    out: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// P1: calls to an agent (one leg, shared in Redis) beside calls relayed by Kamailio with topos_redis (two legs)
    Call,
    /// P2: calls to a registered agent, both legs shared in Redis, beside Kamailio with topos_redis
    SharedCall,
    /// P4, P5: refreshes with digest, in memory and in Redis, beside Kamailio's registrar in memory
    Register,
    /// P6: MCP by MESSAGE, journalled in Redis before the 200, beside Kamailio's relay of such a MESSAGE
    Message,
    /// P8: p99 of an in-dialog response at half load, per class of durability
    Latency,
    /// P10: store bytes per dialog and per binding, keys after the last time to live
    Memory,
    /// All of them
    All,
    /// Whether the measurement itself works: one short pair of each, without goals
    Smoke,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> io::Result<()> {
    if let Some(folder) = args.out.parent() {
        std::fs::create_dir_all(folder)?;
    }
    if args.what == What::Smoke {
        return figures::smoke::run(&args.out);
    }
    if args.what == What::All && args.out.exists() {
        std::fs::remove_file(&args.out)?;
    }
    let bench = Bench {
        runs: args.runs,
        warm: Duration::from_secs(2),
        window: Duration::from_secs(args.seconds),
        is_smoke: false,
        out: args.out.clone(),
    };
    let all = args.what == What::All;
    if all || args.what == What::SharedCall {
        figures::calls::run(&bench, true)?;
    }
    if all || args.what == What::Call {
        figures::calls::run(&bench, false)?;
    }
    if all || args.what == What::Register {
        figures::register::run(&bench)?;
    }
    if all || args.what == What::Message {
        figures::message::run(&bench)?;
    }
    if all || args.what == What::Latency {
        figures::latency::run(&bench)?;
    }
    if all || args.what == What::Memory {
        figures::memory::run(&bench)?;
    }
    println!("\n{}", goals::table(&pair::read(&args.out)?));
    Ok(())
}
