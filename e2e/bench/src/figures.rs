//! The figures, a file per scenario: which systems run, what is sent to them, what is compared.

pub mod calls;
pub mod latency;
pub mod memory;
pub mod message;
pub mod register;
pub mod smoke;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::load::{self, Push, Sockets};
use crate::pair::{Plan, Sample, describe, figure, publish};
use crate::scenario::register::Registers;
use crate::system::edge::Edge;
use crate::system::{Program, beside, free_port};

/// The domain of every run.
pub const DOMAIN: &str = "bench.example";

/// How a run is made.
pub struct Bench {
    /// Pairs.
    pub runs: usize,
    pub warm: Duration,
    pub window: Duration,
    /// One load point of each, short populations, no waiting for the end of a time to live.
    pub is_smoke: bool,
    pub out: PathBuf,
}

/// What a figure is called.
pub struct Title<'a> {
    pub id: String,
    pub what: &'a str,
    pub load: String,
    pub peer: &'a str,
}

impl Bench {
    pub fn plan(&self) -> Plan {
        Plan { warm: self.warm, window: self.window }
    }

    /// The load points: a rate that leaves both sides half idle, and as much as they take.
    pub fn points(&self, rate: f64, in_flight: usize) -> Vec<(&'static str, Push)> {
        let mut points = vec![("saturated", Push::InFlight(in_flight))];
        if !self.is_smoke {
            points.insert(0, ("paced", Push::Rate(rate)));
        }
        points
    }

    /// Runs the two sides alternately at one load point and publishes the figure.
    ///
    /// # Errors
    /// When a side completes nothing, or the file cannot be written.
    pub fn pairs(
        &self,
        title: &Title<'_>,
        mut ours: impl FnMut() -> Sample,
        mut theirs: impl FnMut() -> Sample,
    ) -> io::Result<()> {
        let Title { id, what, load, peer } = title;
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for turn in 1..=self.runs {
            println!("{id}, {load}: pair {turn} of {}", self.runs);
            a.push(measured(id, "ours", &mut ours)?.micros_per_op);
            b.push(measured(id, peer, &mut theirs)?.micros_per_op);
        }
        publish(&figure(id, what, load, peer, &a, &b), &self.out)
    }
}

/// One sample that completed something. A store that missed its deadline keeps its breaker open for a while: that is waited for, not
/// measured.
pub fn measured(id: &str, name: &str, run: &mut dyn FnMut() -> Sample) -> io::Result<Sample> {
    let mut sample = run();
    println!("{}", describe(name, &sample));
    for _ in 0..3 {
        if sample.seen.operations > 0 {
            break;
        }
        std::thread::sleep(Duration::from_secs(2));
        sample = run();
        println!("{}", describe(name, &sample));
    }
    completed(id, name, &sample)?;
    Ok(sample)
}

/// Nothing is no figure.
fn completed(id: &str, name: &str, sample: &Sample) -> io::Result<()> {
    if sample.seen.operations == 0 {
        return Err(io::Error::other(format!("{id}: {name} completed nothing")));
    }
    if sample.seen.failed_part() > 0.001 {
        println!("  more than 0.1 % failed: this is no capacity of {name}");
    }
    Ok(())
}

/// How a load point is called.
pub fn load_name(push: Push) -> String {
    match push {
        Push::Rate(rate) => format!("paced {rate}/s"),
        Push::InFlight(most) => format!("saturated, {most} in flight"),
    }
}

pub fn loopback() -> io::Result<SocketAddr> {
    Ok(([127, 0, 0, 1], free_port()?).into())
}

/// A folder in another one.
pub fn sub(folder: &Path, name: &str) -> io::Result<PathBuf> {
    let path = folder.join(name);
    std::fs::create_dir_all(&path)?;
    Ok(path)
}

/// The MCP server behind `echo@bench.example`.
pub fn backend(folder: &Path) -> io::Result<(Program, String)> {
    let port = free_port()?;
    let mut command = Command::new(beside("echo-agent"));
    command.args(["--listen", &format!("127.0.0.1:{port}")]);
    let program = Program::start("echo-agent", &mut command, &folder.join("echo.log"))?;
    Ok((program, format!("http://127.0.0.1:{port}/mcp")))
}

/// Registers `u0` at the called side's address, and from there: a binding is reached where it came from.
pub fn register_called(edge: &Edge, called: SocketAddr) -> io::Result<()> {
    let mut work = Registers::new(1, DOMAIN, called).once();
    let sockets = Sockets::bind(called, None)?;
    let window = Duration::from_secs(4);
    let seen = load::run(&mut work, &sockets, &[edge.address], Push::InFlight(1), Duration::ZERO, window, |_| {});
    if seen.done == 0 {
        return Err(io::Error::other("the called side could not register"));
    }
    Ok(())
}
