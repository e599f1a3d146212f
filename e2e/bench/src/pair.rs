//! One figure: CPU per operation of ours and of a peer, alternately, in one run.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::load::{Push, Seen, Sockets, Work, quantile_ms, run};
use crate::system::{cpu_micros, load_average};

/// What `ours_us` and `peer_us` are where they are no microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    #[default]
    Microseconds,
    Bytes,
    Keys,
}

impl Unit {
    pub fn name(self) -> &'static str {
        match self {
            Unit::Microseconds => "µs",
            Unit::Bytes => "bytes",
            Unit::Keys => "keys",
        }
    }
}

/// A line of `sip.jsonl`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figure {
    pub id: String,
    pub what: String,
    /// `paced N/s` or `saturated`.
    pub load: String,
    /// CPU per operation, median; or what `unit` says.
    pub ours_us: f64,
    pub peer: String,
    pub peer_us: f64,
    /// Ours ÷ peer, the median of the pairs; 0 without a peer.
    pub ratio: f64,
    /// Lowest and highest ratio of a pair; without a peer, of ours.
    pub lo: f64,
    pub hi: f64,
    pub runs: usize,
    pub transport: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<Unit>,
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

/// Runs `work` once against a system whose processes are `roots`.
pub fn sample<W: Work>(
    mut work: W,
    sockets: &Sockets,
    server: SocketAddr,
    roots: &[u32],
    push: Push,
    plan: &Plan,
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
    let operations = seen.operations.max(1) as f64;
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

/// Figures of pairs; `theirs` is empty where there is no peer.
pub fn figure(id: &str, what: &str, load: &str, peer: &str, ours: &[f64], theirs: &[f64]) -> Figure {
    let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| a / b.max(1e-9)).collect();
    let range = if theirs.is_empty() { ours } else { &ratios };
    Figure {
        id: id.into(),
        what: what.into(),
        load: load.into(),
        ours_us: round(median(ours.iter().copied())),
        peer: peer.into(),
        peer_us: round(median(theirs.iter().copied())),
        ratio: round(median(ratios.iter().copied())),
        lo: round(range.iter().copied().fold(f64::INFINITY, f64::min)),
        hi: round(range.iter().copied().fold(0.0, f64::max)),
        runs: ours.len(),
        transport: "UDP".into(),
        unit: None,
    }
}

fn round(number: f64) -> f64 {
    if number.is_finite() { (number * 1000.0).round() / 1000.0 } else { 0.0 }
}

/// The lines of `file`.
///
/// # Errors
/// When it cannot be read, or a line is no figure.
pub fn read(file: &Path) -> io::Result<Vec<Figure>> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    text.lines().map(|line| serde_json::from_str(line).map_err(io::Error::from)).collect()
}

/// Puts a figure into `file`, in the place of the last one with its id, and shows it.
///
/// # Errors
/// When the file cannot be written.
pub fn publish(figure: &Figure, file: &Path) -> io::Result<()> {
    let unit = figure.unit.unwrap_or_default().name();
    println!(
        "{:<33} {:<24} ours {:>8.1} {unit}   {} {:>8.1} {unit}   ratio {:.3} ({:.3} … {:.3}), {} runs, load average {}",
        figure.id,
        figure.load,
        figure.ours_us,
        figure.peer,
        figure.peer_us,
        figure.ratio,
        figure.lo,
        figure.hi,
        figure.runs,
        load_average()
    );
    let mut all = read(file)?;
    all.retain(|other| other.id != figure.id);
    all.push(figure.clone());
    let lines: Result<Vec<String>, _> = all.iter().map(serde_json::to_string).collect();
    std::fs::write(file, lines?.join("\n") + "\n")
}

/// A line on what a sample saw, for the log of the run.
pub fn describe(name: &str, sample: &Sample) -> String {
    let seen = &sample.seen;
    let refused: String = seen.refused.iter().map(|(status, count)| format!("  {status}: {count}")).collect();
    format!(
        "  {name:<10} {:>8.0}/s  {:>7.1} µs  p50 {:.2} ms  p99 {:.2} ms  failed {}  sent again {}{refused}",
        seen.per_second(),
        sample.micros_per_op,
        quantile_ms(&seen.micros, 0.5),
        quantile_ms(&seen.micros, 0.99),
        seen.failed,
        seen.sent_again,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_ours_by_theirs() {
        let figure = figure("x", "y", "saturated", "peer", &[10.0, 12.0, 11.0], &[40.0, 44.0, 44.0]);
        assert!((figure.ratio - 0.25).abs() < 1e-6, "{figure:?}");
        assert!((figure.lo - 0.25).abs() < 1e-6 && (figure.hi - 0.273).abs() < 1e-6, "{figure:?}");
    }

    #[test]
    fn a_figure_takes_the_place_of_the_last_one_with_its_id() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sip.jsonl");
        for (id, ours) in [("a", 1.0), ("b", 2.0), ("a", 3.0)] {
            publish(&figure(id, "", "", "none", &[ours], &[]), &file).unwrap();
        }
        let all = read(&file).unwrap();
        let seen: Vec<_> = all.iter().map(|figure| (figure.id.as_str(), figure.ours_us, figure.ratio)).collect();
        assert_eq!(seen, [("b", 2.0, 0.0), ("a", 3.0, 0.0)]);
        assert!(!std::fs::read_to_string(&file).unwrap().contains("unit"));
    }
}
