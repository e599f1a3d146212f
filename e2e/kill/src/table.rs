//! The rows: one table for a person, one JSON object per row for machines.

use serde_json::json;

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

    /// Whether the row shows what it must: no loss where none is allowed, no unsafe tool run twice, and silence without a journal.
    pub fn holds(self, tally: &Tally) -> bool {
        match self.fault {
            Fault::NoJournal => tally.silent > 0,
            _ if self.is_expected_to_lose() => tally.doubles == 0,
            _ => tally.is_clean(),
        }
    }
}

const COLUMNS: usize = 25;

const HEAD: [&str; COLUMNS] = [
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
    "cancelled",
    "doubles",
    "slowest s",
    "limit s",
    "p50 ms",
    "p99 ms",
    "in-dialog ok",
    "from memory",
    "rss +MiB",
    "503",
    "bare 503",
    "next target",
    "no replicas s",
    "failed calls",
    "stalled ms",
];

fn cells(row: Row, tally: &Tally) -> [String; COLUMNS] {
    let share = |part: u64, all: u64| match all {
        0 => "-".into(),
        // Rounded down: 100 % is all of them.
        all => format!("{:.2} %", (10_000.0 * part as f64 / all as f64).floor() / 100.0),
    };
    let only = |shown: bool, text: String| if shown { text } else { "-".into() };
    let is_roll = row.fault == Fault::Roll;
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
        tally.cancelled.to_string(),
        tally.doubles.to_string(),
        only(!is_roll, format!("{:.1}", tally.slowest.as_secs_f64())),
        only(!is_roll, row.fault.limit().as_secs().to_string()),
        format!("{:.0}", tally.recovery_ms(0.5)),
        format!("{:.0}", tally.recovery_ms(0.99)),
        share(tally.in_dialog - tally.in_dialog_failed, tally.in_dialog),
        only(row.fault.is_outage(), share(tally.from_memory, tally.while_away)),
        only(row.fault.is_outage(), format!("{:.1}", tally.growth as f64 / 1_048_576.0)),
        tally.unavailable.to_string(),
        tally.bare.to_string(),
        tally.failovers.to_string(),
        format!("{:.1}", tally.without_replicas.as_secs_f64()),
        only(is_roll, tally.failed_calls.to_string()),
        tally.stalled.as_millis().to_string(),
    ]
}

/// The whole table, aligned.
pub fn print(rows: &[(Row, &Tally)]) -> String {
    let body: Vec<[String; COLUMNS]> = rows.iter().map(|(row, tally)| cells(*row, tally)).collect();
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

/// One row as a line of JSON.
pub fn line(row: Row, tally: &Tally) -> String {
    json!({
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
        "cancelled": tally.cancelled,
        "slowest_s": (tally.slowest.as_secs_f64() * 10.0).round() / 10.0,
        "limit_s": row.fault.limit().as_secs(),
        "while_away": tally.while_away,
        "from_memory": tally.from_memory,
        "rss_growth_bytes": tally.growth,
        "bare_503": tally.bare,
    })
    .to_string()
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
        let twice = Tally { doubles: 1, ..Tally::default() };
        assert!(!row(Fault::Primary, Class::Memory, Topology::Cluster).holds(&twice));
        assert!(!row(Fault::Primary, Class::Replica, Topology::Cluster).holds(&twice));
        assert!(!row(Fault::StoreEmpty, Class::Memory, Topology::Single).holds(&twice));
    }

    #[test]
    fn the_table_and_the_lines_have_every_column() {
        let tally = Tally { runs: 3, ..Tally::default() };
        let rows = [(row(Fault::Edge, Class::Memory, Topology::Single), &tally)];
        let text = print(&rows);
        assert!(text.lines().next().unwrap().contains("SILENT"));
        assert!(text.lines().nth(1).unwrap().starts_with("kill-edge"));
        let json: serde_json::Value = serde_json::from_str(&line(rows[0].0, rows[0].1)).unwrap();
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
