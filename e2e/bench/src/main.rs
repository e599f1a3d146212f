//! Load and pairs of measurements: CPU per operation of edge and store, beside Kamailio in the same run.

mod load;
mod pair;
mod scenario;
mod system;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::{Parser, Subcommand};
use load::{Push, Sockets};
use pair::{Plan, Sample, describe, figure, publish, sample};
use scenario::call::Calls;
use scenario::exchange::Exchanges;
use scenario::register::Registers;
use system::edge::{Edge, Store};
use system::kamailio::{Kamailio, Role};
use system::redis::Redis;
use system::{Program, beside, free_port, memory_bytes};

/// CPU per operation, beside Kamailio where it does the same work. Every figure is a line of `target/bench/sip.jsonl`.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    what: What,
    /// Pairs per figure
    #[arg(long, default_value_t = 5, global = true)]
    runs: usize,
    /// Seconds of the counted window
    #[arg(long, default_value_t = 5, global = true)]
    seconds: u64,
    /// Where the figures go
    #[arg(long, default_value = "target/bench/sip.jsonl", global = true)]
    out: PathBuf,
}

#[derive(Clone, Copy, Subcommand)]
enum What {
    /// Calls to an agent (one leg, shared in Redis) beside calls relayed by Kamailio with topos_redis (two legs)
    Call,
    /// Calls to a registered agent, both legs shared in Redis, beside Kamailio with topos_redis
    SharedCall,
    /// Refreshes with digest, memory store, beside Kamailio's registrar
    Register,
    /// MCP exchanges by INFO, journalled in Redis before the 200
    Exchange,
    /// All of them
    All,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result =
        std::fs::create_dir_all(args.out.parent().unwrap_or(&PathBuf::from("."))).and_then(|()| match args.what {
            What::Call => calls(&args, false),
            What::SharedCall => calls(&args, true),
            What::Register => register(&args),
            What::Exchange => exchanges(&args),
            What::All => {
                register(&args)?;
                calls(&args, false)?;
                calls(&args, true)?;
                exchanges(&args)
            }
        });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Args {
    fn plan(&self) -> Plan {
        Plan { warm: Duration::from_secs(2), window: Duration::from_secs(self.seconds) }
    }
}

fn loopback() -> io::Result<SocketAddr> {
    Ok(([127, 0, 0, 1], free_port()?).into())
}

/// The MCP server behind `echo@bench.example`.
fn backend(folder: &std::path::Path) -> io::Result<(Program, String)> {
    let port = free_port()?;
    let mut command = Command::new(beside("echo-agent"));
    command.args(["--listen", &format!("127.0.0.1:{port}")]);
    let program = Program::start("echo-agent", &mut command, &folder.join("echo.log"))?;
    Ok((program, format!("http://127.0.0.1:{port}/mcp")))
}

/// Runs the two sides alternately at one load point and publishes the figure.
fn pairs(
    args: &Args,
    (id, what, load, peer): (&str, &str, String, &str),
    mut ours: impl FnMut() -> io::Result<Sample>,
    mut theirs: impl FnMut() -> io::Result<Sample>,
) -> io::Result<()> {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for turn in 1..=args.runs {
        println!("{id}, {load}: pair {turn} of {}", args.runs);
        let sample = ours()?;
        println!("{}", describe("ours", &sample));
        a.push(sample);
        let sample = theirs()?;
        println!("{}", describe(peer, &sample));
        b.push(sample);
    }
    publish(&figure(id, what, &load, peer, &a, &b), &args.out)
}

fn calls(args: &Args, bridged: bool) -> io::Result<()> {
    let folder = tempfile::tempdir()?;
    let (ours, theirs) = (folder.path().join("ours"), folder.path().join("theirs"));
    std::fs::create_dir_all(&ours)?;
    std::fs::create_dir_all(&theirs)?;
    let (redis, their_redis) = (Redis::start(&ours)?, Redis::start(&theirs)?);
    let (_agent, url) = backend(&ours)?;
    let (from, called) = (loopback()?, loopback()?);
    let edge = Edge::start(&Store::Redis(redis.address), &url, 1, &ours)?;
    let kamailio = Kamailio::start(Role::SharedCalls { redis: their_redis.address, to: called }, &theirs)?;
    let sockets = Sockets::bind(from, Some(called))?;
    if bridged {
        register_called(&edge, called)?;
    }
    let (user, more, id, what) = match bridged {
        true => ("u0", "", "shared-call", "call between two UAs, both legs in the store"),
        false => (
            "echo",
            "Supported: mcp\r\n",
            "call",
            "call to an agent (one leg) beside a relayed call (two legs): other work",
        ),
    };
    let plan = args.plan();
    let mut salt = 0;
    for (name, push) in [("paced", Push::Rate(400.0)), ("saturated", Push::InFlight(64))] {
        let load = match push {
            Push::Rate(rate) => format!("paced {rate}/s"),
            Push::InFlight(most) => format!("saturated, {most} in flight"),
        };
        let work = |salt: u64, more: &str, user: &str| Calls {
            target: format!("sip:{user}@bench.example"),
            from,
            called: Some(called),
            more: more.to_owned(),
            salt,
        };
        let our_roots = [edge.program.pid(), redis.program.pid()];
        let their_roots = [kamailio.program.pid(), their_redis.program.pid()];
        let before = redis.info("total_commands_processed");
        salt += 1_000;
        let (mut x, mut y) = (salt, salt + 500);
        pairs(
            args,
            (&format!("{id}-{name}"), what, load, "kamailio+topos_redis"),
            || {
                x += 1;
                Ok(sample(work(x, more, user), &sockets, edge.address, &our_roots, push, &plan, 1))
            },
            || {
                y += 1;
                Ok(sample(work(y, "", "u0"), &sockets, kamailio.address, &their_roots, push, &plan, 1))
            },
        )?;
        println!(
            "  store commands of ours in all: {}; keys now: ours {}, theirs {}; memory of the edge {} kB",
            redis.info("total_commands_processed") - before,
            redis.keys(),
            their_redis.keys(),
            memory_bytes(&[edge.program.pid()]) / 1024
        );
    }
    Ok(())
}

/// Registers `u0` at the called side's address.
fn register_called(edge: &Edge, called: SocketAddr) -> io::Result<()> {
    let mut work = Registers::new(1, "bench.example", called, 7);
    let sockets = Sockets::bind(loopback()?, None)?;
    let plan = Plan { warm: Duration::ZERO, window: Duration::from_millis(50) };
    let seen = load::run(&mut work, &sockets, &[edge.address], Push::InFlight(1), plan.warm, plan.window, |_| {});
    if seen.done == 0 {
        return Err(io::Error::other("the called side could not register"));
    }
    Ok(())
}

fn register(args: &Args) -> io::Result<()> {
    const USERS: usize = 1_000;
    let folder = tempfile::tempdir()?;
    let (ours, theirs) = (folder.path().join("ours"), folder.path().join("theirs"));
    std::fs::create_dir_all(&ours)?;
    std::fs::create_dir_all(&theirs)?;
    let (_agent, url) = backend(&ours)?;
    let from = loopback()?;
    let edge = Edge::start(&Store::Memory, &url, USERS, &ours)?;
    let kamailio = Kamailio::start(Role::Registrar, &theirs)?;
    let sockets = Sockets::bind(from, None)?;
    let plan = args.plan();
    let mut salt = 0;
    for (name, push) in [("paced", Push::Rate(1_000.0)), ("saturated", Push::InFlight(64))] {
        let load = match push {
            Push::Rate(rate) => format!("paced {rate}/s"),
            Push::InFlight(most) => format!("saturated, {most} in flight"),
        };
        salt += 1_000;
        let (mut x, mut y) = (salt, salt + 500);
        pairs(
            args,
            (&format!("register-digest-{name}"), "REGISTER refresh with SHA-256 digest, in memory", load, "kamailio"),
            || {
                x += 1;
                let work = Registers::new(USERS, "bench.example", from, x);
                Ok(sample(work, &sockets, edge.address, &[edge.program.pid()], push, &plan, 1))
            },
            || {
                y += 1;
                let work = Registers::new(USERS, "bench.example", from, y);
                Ok(sample(work, &sockets, kamailio.address, &[kamailio.program.pid()], push, &plan, 1))
            },
        )?;
    }
    Ok(())
}

fn exchanges(args: &Args) -> io::Result<()> {
    const PER_CALL: u32 = 50;
    let folder = tempfile::tempdir()?;
    let redis = Redis::start(folder.path())?;
    let (_agent, url) = backend(folder.path())?;
    let from = loopback()?;
    let edge = Edge::start(&Store::Redis(redis.address), &url, 0, folder.path())?;
    let sockets = Sockets::bind(from, None)?;
    let plan = args.plan();
    let roots = [edge.program.pid(), redis.program.pid()];
    let mut samples = Vec::new();
    let push = Push::InFlight(64);
    for turn in 1..=args.runs {
        println!("exchange-saturated: run {turn} of {}", args.runs);
        let work = Exchanges {
            target: "sip:echo@bench.example".into(),
            from,
            per_call: PER_CALL,
            more: "Supported: mcp\r\nRecv-Info: mcp\r\n".into(),
            tool: "echo".into(),
            arguments: "{\"message\":\"hello\"}".into(),
            salt: 70 + turn as u64,
        };
        let sample = sample(work, &sockets, edge.address, &roots, push, &plan, PER_CALL);
        println!("{}", describe("ours", &sample));
        samples.push(sample);
    }
    let what = format!("MCP exchange by INFO, journalled before the 200, its HTTP call included; {PER_CALL} per call");
    publish(&figure("exchange-saturated", &what, "saturated, 64 calls", "none", &samples, &[]), &args.out)
}
