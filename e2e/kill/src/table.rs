//! The rows: one table for a person, one JSON object per row for machines.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use serde_json::json;

use crate::Fallible;
use crate::args::{Class, Fault, Topology};
use crate::tally::Tally;

/// One row: a fault, a class, a topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub fault: Fault,
    pub class: Class,
    pub topology: Topology,
}

impl Row {
    /// Losses or silence that the design says: a primary without a replica's word, a store that came back empty, no journal.
    pub fn is_expected_to_lose(self) -> bool {
        match self.fault {
            Fault::NoJournal | Fault::StoreEmpty => true,
            Fault::Primary => self.class != Class::Replica,
            _ => false,
        }
    }

    pub fn id(self) -> String {
        let expected = if self.is_expected_to_lose() { "expected-" } else { "" };
        let topology = match self.topology {
            Topology::Single => "",
            Topology::Embedded => "-embedded",
            Topology::Sentinel => "-sentinel",
            Topology::Cluster => "-cluster",
        };
        format!("{expected}kill-{}{topology}", self.fault.name())
    }

    /// Whether the row shows what it must: no loss where none is allowed, and silence without a journal.
    pub fn holds(self, tally: &Tally) -> bool {
        match self.fault {
            Fault::NoJournal => tally.silent > 0,
            _ if self.is_expected_to_lose() => tally.doubles == 0,
            _ => tally.is_clean(),
        }
    }
}

const HEAD: [&str; 19] = [
    "row",
    "class",
    "runs",
    "ackd",
    "lost",
    "answered",
    "replayed",
    "retryable",
    "SILENT",
    "refused",
    "doubles",
    "p50 ms",
    "p99 ms",
    "in-dialog ok",
    "503",
    "next target",
    "no replicas s",
    "failed calls",
    "stalled ms",
];

fn cells(row: Row, tally: &Tally) -> [String; 19] {
    let ok = match tally.in_dialog {
        0 => "-".into(),
        all => format!("{:.1} %", 100.0 * (all - tally.in_dialog_failed) as f64 / all as f64),
    };
    [
        row.id(),
        format!("{:?}", row.class),
        tally.runs.to_string(),
        tally.acknowledged.to_string(),
        tally.lost.to_string(),
        tally.answered.to_string(),
        tally.replayed.to_string(),
        tally.retryable.to_string(),
        tally.silent.to_string(),
        tally.refused.to_string(),
        tally.doubles.to_string(),
        format!("{:.0}", tally.recovery_ms(0.5)),
        format!("{:.0}", tally.recovery_ms(0.99)),
        ok,
        tally.unavailable.to_string(),
        tally.failovers.to_string(),
        format!("{:.1}", tally.without_replicas.as_secs_f64()),
        if row.fault == Fault::Roll { tally.failed_calls.to_string() } else { "-".into() },
        tally.stalled.as_millis().to_string(),
    ]
}

/// The whole table, aligned.
pub fn print(rows: &[(Row, Tally)]) -> String {
    let body: Vec<[String; 19]> = rows.iter().map(|(row, tally)| cells(*row, tally)).collect();
    let head = HEAD.map(str::to_owned);
    let width = |column: usize| body.iter().chain([&head]).map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let mut out = String::new();
    for line in [&head].into_iter().chain(&body) {
        let cells = line.iter().zip(&widths).enumerate().map(|(place, (cell, width))| match place {
            0 | 1 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// Appends one row to the file.
pub fn append(path: &Path, row: Row, tally: &Tally) -> Fallible<()> {
    let words = |error: std::io::Error| format!("{}: {error}", path.display());
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(words)?;
    }
    let line = json!({
        "id": row.id(),
        "class": format!("{:?}", row.class),
        "topology": format!("{:?}", row.topology),
        "acknowledged": tally.acknowledged,
        "lost": tally.lost,
        "answered": tally.answered,
        "replayed": tally.replayed,
        "retryable": tally.retryable,
        "silent": tally.silent,
        "refused": tally.refused,
        "doubles": tally.doubles,
        "p50_ms": (tally.recovery_ms(0.5) * 10.0).round() / 10.0,
        "p99_ms": (tally.recovery_ms(0.99) * 10.0).round() / 10.0,
        "runs": tally.runs,
        "in_dialog": tally.in_dialog,
        "in_dialog_failed": tally.in_dialog_failed,
        "unavailable": tally.unavailable,
        "failovers": tally.failovers,
        "failed_calls": tally.failed_calls,
        "stalled_ms": tally.stalled.as_millis() as u64,
        "no_replicas_s": (tally.without_replicas.as_secs_f64() * 10.0).round() / 10.0,
    });
    let mut file = File::options().create(true).append(true).open(path).map_err(words)?;
    writeln!(file, "{line}").map_err(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(fault: Fault, class: Class, topology: Topology) -> Row {
        Row { fault, class, topology }
    }

    #[test]
    fn ids_say_what_is_expected() {
        assert_eq!(row(Fault::Edge, Class::Memory, Topology::Single).id(), "kill-edge");
        assert_eq!(row(Fault::Primary, Class::Memory, Topology::Cluster).id(), "expected-kill-primary-cluster");
        assert_eq!(row(Fault::Primary, Class::Replica, Topology::Sentinel).id(), "kill-primary-sentinel");
        assert_eq!(row(Fault::NoJournal, Class::Memory, Topology::Single).id(), "expected-kill-no-journal");
    }

    #[test]
    fn a_row_fails_on_loss_and_a_missing_journal_must_show() {
        let silent = Tally { silent: 1, ..Tally::default() };
        let clean = Tally::default();
        assert!(row(Fault::Edge, Class::Memory, Topology::Single).holds(&clean));
        assert!(!row(Fault::Edge, Class::Memory, Topology::Single).holds(&silent));
        assert!(row(Fault::NoJournal, Class::Memory, Topology::Single).holds(&silent));
        assert!(!row(Fault::NoJournal, Class::Memory, Topology::Single).holds(&clean));
    }

    #[test]
    fn the_table_and_the_lines_have_every_column() {
        let rows = [(row(Fault::Edge, Class::Memory, Topology::Single), Tally { runs: 3, ..Tally::default() })];
        let text = print(&rows);
        assert!(text.lines().next().unwrap().contains("SILENT"));
        assert!(text.lines().nth(1).unwrap().starts_with("kill-edge"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/kill.jsonl");
        append(&path, rows[0].0, &rows[0].1).unwrap();
        append(&path, rows[0].0, &rows[0].1).unwrap();
        let text = fs::read_to_string(path).unwrap();
        assert_eq!(text.lines().count(), 2);
        let json: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        for name in [
            "id",
            "class",
            "acknowledged",
            "lost",
            "answered",
            "replayed",
            "retryable",
            "silent",
            "doubles",
            "p50_ms",
            "p99_ms",
            "runs",
        ] {
            assert!(!json[name].is_null(), "{name}");
        }
    }
}
