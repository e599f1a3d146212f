//! The goals (P1 … P10) and the table at the end: reached, or not.

use crate::pair::{Figure, Unit};

/// What a figure is held against.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// Ours ÷ peer, at most.
    Ratio(f64),
    /// Ours, at most, in the figure's unit.
    Ours(f64),
}

/// One goal of one figure.
pub struct Goal {
    pub figure: &'static str,
    /// `P2`.
    pub number: &'static str,
    pub bound: Bound,
    /// What is aimed at beyond the bound.
    pub aim: Option<f64>,
    /// Where the comparison limps.
    pub note: &'static str,
}

const OTHER_LEGS: &str = "other work: one leg against two";
const OTHER_RELAY: &str =
    "other work: journal, the tool's HTTP call and its answer against a relay that stores nothing";
const WITH_DIGEST: &str = "with digest on both sides: no domain admits an anonymous REGISTER";

const fn goal(figure: &'static str, number: &'static str, bound: Bound, aim: Option<f64>, note: &'static str) -> Goal {
    Goal { figure, number, bound, aim, note }
}

/// All of them, in the order of the table. Figures without a goal are shown, too.
pub const GOALS: &[Goal] = &[
    goal("call-saturated", "P1", Bound::Ratio(1.0 / 3.0), None, OTHER_LEGS),
    goal("call-saturated", "P1", Bound::Ours(440.0), None, ""),
    goal("call-paced", "P1", Bound::Ratio(1.0 / 3.0), None, OTHER_LEGS),
    goal("shared-call-saturated", "P2", Bound::Ratio(1.0 / 3.0), Some(0.125), "both legs shared on both sides"),
    goal("shared-call-saturated", "P2", Bound::Ours(800.0), None, ""),
    goal("shared-call-paced", "P2", Bound::Ratio(1.0 / 3.0), Some(0.125), "both legs shared on both sides"),
    goal("register-digest-saturated", "P4", Bound::Ratio(0.7), Some(0.5), WITH_DIGEST),
    goal("register-digest-paced", "P4", Bound::Ratio(0.7), Some(0.5), WITH_DIGEST),
    goal(
        "register-digest-shared-saturated",
        "P4",
        Bound::Ratio(1.0 / 0.6),
        None,
        "ours in Redis, Kamailio's in memory",
    ),
    goal("register-digest-shared-saturated", "P5", Bound::Ours(285.0), None, ""),
    goal("message-saturated", "P6", Bound::Ours(200.0), None, OTHER_RELAY),
    goal("message-paced", "P6", Bound::Ours(200.0), None, OTHER_RELAY),
    goal("latency-memory", "P8", Bound::Ours(5_000.0), None, ""),
    goal("latency-replica", "P8", Bound::Ours(15_000.0), None, ""),
    goal("latency-fsync", "P8", Bound::Ours(30_000.0), None, ""),
    goal("store-bytes-dialog", "P10", Bound::Ours(3_072.0), None, ""),
    goal("store-bytes-binding", "P10", Bound::Ours(3_072.0), None, ""),
    goal("store-keys-left", "P10", Bound::Ours(0.0), None, "after the last time to live"),
];

impl Goal {
    pub fn is_reached(&self, figure: &Figure) -> bool {
        match self.bound {
            Bound::Ratio(most) => figure.ratio > 0.0 && figure.ratio <= most,
            Bound::Ours(most) => figure.ours_us <= most,
        }
    }

    fn says(&self, unit: Unit) -> String {
        let aim = self.aim.map(|aim| format!(", aim {aim}")).unwrap_or_default();
        match self.bound {
            Bound::Ratio(most) => format!("ratio ≤ {most:.2}{aim}"),
            Bound::Ours(most) => format!("≤ {most} {}{aim}", unit.name()),
        }
    }
}

/// The table of a run. A figure that misses its goal has a mark, and stays in it.
pub fn table(figures: &[Figure]) -> String {
    let mut out = format!(
        "{:<33} {:<4} {:>10} {:>10} {:>7} {:>17}  {:<22} \n",
        "figure", "goal", "ours", "peer", "ratio", "range", "wanted"
    );
    for figure in figures {
        let unit = figure.unit.unwrap_or_default();
        let row = |number: &str, wanted: &str, mark: &str, note: &str| {
            let (peer, ratio) = match figure.peer.as_str() {
                "none" => ("–".to_owned(), "–".to_owned()),
                _ => (format!("{:.1}", figure.peer_us), format!("{:.3}", figure.ratio)),
            };
            let range = format!("{:.3} … {:.3}", figure.lo, figure.hi);
            let ours = format!("{:.1}", figure.ours_us);
            format!(
                "{:<33} {number:<4} {ours:>10} {peer:>10} {ratio:>7} {range:>17}  {wanted:<22} {mark:<6} {note}\n",
                figure.id
            )
        };
        let goals: Vec<&Goal> = GOALS.iter().filter(|goal| goal.figure == figure.id).collect();
        if goals.is_empty() {
            out.push_str(&row("", "", "", ""));
        }
        for goal in goals {
            let mark = if goal.is_reached(figure) { "ok" } else { "MISSED" };
            out.push_str(&row(goal.number, &goal.says(unit), mark, goal.note));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(id: &str, ours_us: f64, peer_us: f64) -> Figure {
        Figure {
            id: id.into(),
            what: String::new(),
            load: String::new(),
            ours_us,
            peer: "kamailio".into(),
            peer_us,
            ratio: ours_us / peer_us,
            lo: 0.0,
            hi: 0.0,
            runs: 5,
            transport: "UDP".into(),
            unit: None,
        }
    }

    #[test]
    fn a_goal_that_is_missed_stays_in_the_table_with_a_mark() {
        let text = table(&[figure("shared-call-saturated", 500.0, 1_000.0), figure("other", 1.0, 2.0)]);
        assert_eq!(text.matches("MISSED").count(), 1, "{text}");
        assert!(text.contains("≤ 800 µs") && text.contains("ok"), "{text}");
        let text = table(&[figure("shared-call-saturated", 300.0, 1_000.0)]);
        assert!(!text.contains("MISSED"), "{text}");
    }

    #[test]
    fn a_ratio_without_a_peer_reaches_nothing() {
        assert!(!GOALS[0].is_reached(&figure("call-saturated", 0.0, 1.0)));
    }
}
