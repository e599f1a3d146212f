//! One figure: CPU per operation of ours and of a peer, alternately, in one run.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::load::{Push, Seen, Sockets, Work, run};
use crate::system::cpu_micros;

/// A line of `sip.jsonl`.
#[derive(Debug, Serialize)]
pub struct Figure {
    pub id: String,
    pub what: String,
    /// `paced N/s` or `saturated`.
    pub load: String,
    /// CPU per operation, median.
    pub ours_us: f64,
    pub peer: String,
    pub peer_us: f64,
    /// Ours ÷ peer, medians.
    pub ratio: f64,
    /// Lowest and highest ratio of a pair.
    pub lo: f64,
    pub hi: f64,
    pub runs: usize,
    pub transport: String,
}

/// One measured window of one system.
#[derive(Clone, Debug)]
pub struct Sample {
    pub micros_per_op: f64,
    pub seen: Seen,
}

/// How long.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub warm: Duration,
    pub window: Duration,
}

/// Runs `work` once against a system whose processes are `roots`; `per_unit` operations are in a unit.
pub fn sample<W: Work>(
    mut work: W,
    sockets: &Sockets,
    server: SocketAddr,
    roots: &[u32],
    push: Push,
    plan: &Plan,
    per_unit: u32,
) -> Sample {
    let mut cpu = (0, 0);
    let seen = run(&mut work, sockets, &[server], push, plan.warm, plan.window, |begins| {
        let now = cpu_micros(roots);
        if begins {
            cpu.0 = now;
        } else {
            cpu.1 = now;
        }
    });
    let operations = seen.done.max(1) as f64 * f64::from(per_unit);
    Sample { micros_per_op: cpu.1.saturating_sub(cpu.0) as f64 / operations, seen }
}

/// The middle of some numbers.
pub fn median(numbers: impl IntoIterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = numbers.into_iter().collect();
    all.sort_by(f64::total_cmp);
    match all.len() {
        0 => 0.0,
        n if n % 2 == 1 => all[n / 2],
        n => f64::midpoint(all[n / 2 - 1], all[n / 2]),
    }
}

/// Figures of pairs.
pub fn figure(id: &str, what: &str, load: &str, peer: &str, ours: &[Sample], theirs: &[Sample]) -> Figure {
    let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| a.micros_per_op / b.micros_per_op.max(1e-9)).collect();
    let (ours_us, peer_us) =
        (median(ours.iter().map(|s| s.micros_per_op)), median(theirs.iter().map(|s| s.micros_per_op)));
    Figure {
        id: id.into(),
        what: what.into(),
        load: load.into(),
        ours_us: round(ours_us),
        peer: peer.into(),
        peer_us: round(peer_us),
        ratio: if theirs.is_empty() { 0.0 } else { round(ours_us / peer_us.max(1e-9)) },
        lo: round(ratios.iter().copied().fold(f64::INFINITY, f64::min)),
        hi: round(ratios.iter().copied().fold(0.0, f64::max)),
        runs: ours.len(),
        transport: "UDP".into(),
    }
}

fn round(number: f64) -> f64 {
    if number.is_finite() { (number * 1000.0).round() / 1000.0 } else { 0.0 }
}

/// Adds a line to `file`, and shows it.
///
/// # Errors
/// When the file cannot be written.
pub fn publish(figure: &Figure, file: &Path) -> std::io::Result<()> {
    println!(
        "{:<28} {:<22} ours {:>8.1} µs   {} {:>8.1} µs   ratio {:.3} ({:.3} … {:.3}), {} runs",
        figure.id,
        figure.load,
        figure.ours_us,
        figure.peer,
        figure.peer_us,
        figure.ratio,
        figure.lo,
        figure.hi,
        figure.runs
    );
    let mut out = std::fs::OpenOptions::new().create(true).append(true).open(file)?;
    writeln!(out, "{}", serde_json::to_string(figure)?)
}

/// A line on what a sample saw, for the log of the run.
pub fn describe(name: &str, sample: &Sample) -> String {
    let seen = &sample.seen;
    format!(
        "  {name:<10} {:>8.0}/s  {:>7.1} µs  p50 {:.2} ms  p99 {:.2} ms  failed {}  sent again {}  503 {}",
        seen.per_second(),
        sample.micros_per_op,
        seen.quantile_ms(0.5),
        seen.quantile_ms(0.99),
        seen.failed,
        seen.sent_again,
        seen.refused
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_ours_by_theirs() {
        let sample = |micros_per_op| Sample { micros_per_op, seen: Seen::default() };
        let ours = [sample(10.0), sample(12.0), sample(11.0)];
        let theirs = [sample(40.0), sample(44.0), sample(44.0)];
        let figure = figure("x", "y", "saturated", "peer", &ours, &theirs);
        assert!((figure.ratio - 0.25).abs() < 1e-6, "{figure:?}");
        assert!((figure.lo - 0.25).abs() < 1e-6 && (figure.hi - 0.273).abs() < 1e-6, "{figure:?}");
    }
}
