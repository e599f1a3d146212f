//! Whether the measurement itself works: one short pair of each, no goals; every figure has a well-formed line and something was completed.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::{Bench, calls, latency, memory, message, register};
use crate::pair::read;

/// The figures that a smoke run makes.
const EXPECTED: [&str; 8] = [
    "call-saturated",
    "shared-call-saturated",
    "register-digest-saturated",
    "register-digest-shared-saturated",
    "message-saturated",
    "latency-memory",
    "store-bytes-dialog",
    "store-bytes-binding",
];

/// # Errors
/// When one completes nothing, or its line is missing or malformed.
pub fn run(out: &Path) -> io::Result<()> {
    if out.exists() {
        std::fs::remove_file(out)?;
    }
    let bench = Bench {
        runs: 1,
        warm: Duration::from_millis(300),
        window: Duration::from_secs(2),
        is_smoke: true,
        out: out.to_owned(),
    };
    calls::run(&bench, true)?;
    calls::run(&bench, false)?;
    register::run(&bench)?;
    message::run(&bench)?;
    latency::run(&bench)?;
    memory::run(&bench)?;
    let figures = read(out)?;
    let mut failed = 0;
    for id in EXPECTED {
        let found = figures.iter().find(|figure| figure.id == id);
        let is_sound = found.is_some_and(|figure| {
            let compared = figure.peer == "none" || (figure.peer_us > 0.0 && figure.ratio > 0.0);
            figure.ours_us > 0.0 && compared && figure.lo <= figure.hi && figure.runs == 1 && figure.transport == "UDP"
        });
        if !is_sound {
            eprintln!("FAILED {id}: {found:?}");
            failed += 1;
        }
    }
    println!("count: {} passed, {failed} failed, 0 skipped", EXPECTED.len() - failed);
    if failed > 0 {
        return Err(io::Error::other(format!("{failed} figures are missing or malformed")));
    }
    Ok(())
}
