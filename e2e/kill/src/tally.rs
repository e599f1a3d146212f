//! What a fault cost, counted.

use std::time::Duration;

/// Sums over the runs of one row.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub runs: u32,
    /// Registrations, dialogs, ends of dialogs and exchanges that got a 2xx.
    pub acknowledged: u64,
    pub lost: u64,
    pub answered: u64,
    pub replayed: u64,
    pub retryable: u64,
    pub silent: u64,
    /// Exchanges that no edge took: nothing was acknowledged.
    pub refused: u64,
    /// Exchanges whose caller hung up, and was told so, before the store was back.
    pub cancelled: u64,
    /// The latest fate of an exchange, from when it could have been known.
    pub slowest: Duration,
    /// Executions of unsafe calls beyond the first.
    pub doubles: u64,
    /// 503 answers, and how often a client went to a next target.
    pub unavailable: u64,
    pub failovers: u64,
    /// 503 answers to an INVITE without Retry-After.
    pub bare: u64,
    /// In-dialog requests during the fault, and those without a 2xx within 32 s.
    pub in_dialog: u64,
    pub in_dialog_failed: u64,
    /// Of those, the ones sent and due while the fault lasted, and how many of them got their 2xx within 4 s.
    pub while_away: u64,
    pub from_memory: u64,
    /// What the memory of an edge grew by while the fault lasted, bytes; the most.
    pub growth: u64,
    /// Calls that were not complete within 4 s (rolling restart only).
    pub failed_calls: u64,
    /// How long a primary had no replica and refused writes.
    pub without_replicas: Duration,
    /// The longest time for which this program, and so its proxies and clients, did not get the processor.
    pub stalled: Duration,
    pub recovery: Vec<Duration>,
    /// What was lost and why, in words; the first ones.
    pub notes: Vec<String>,
}

const MAX_NOTES: usize = 40;

impl Tally {
    pub fn note(&mut self, text: impl Into<String>) {
        if self.notes.len() < MAX_NOTES {
            self.notes.push(text.into());
        }
    }

    pub fn lose(&mut self, what: impl Into<String>) {
        self.lost += 1;
        self.note(what);
    }

    pub fn add(&mut self, other: Tally) {
        self.runs += other.runs;
        self.acknowledged += other.acknowledged;
        self.lost += other.lost;
        self.answered += other.answered;
        self.replayed += other.replayed;
        self.retryable += other.retryable;
        self.silent += other.silent;
        self.refused += other.refused;
        self.cancelled += other.cancelled;
        self.slowest = self.slowest.max(other.slowest);
        self.bare += other.bare;
        self.while_away += other.while_away;
        self.from_memory += other.from_memory;
        self.growth = self.growth.max(other.growth);
        self.doubles += other.doubles;
        self.unavailable += other.unavailable;
        self.failovers += other.failovers;
        self.in_dialog += other.in_dialog;
        self.in_dialog_failed += other.in_dialog_failed;
        self.failed_calls += other.failed_calls;
        self.without_replicas += other.without_replicas;
        self.stalled = self.stalled.max(other.stalled);
        self.recovery.extend(other.recovery);
        for note in other.notes {
            self.note(note);
        }
    }

    /// Milliseconds of recovery at this quantile (0 to 1), by nearest rank; 0 without a sample.
    pub fn recovery_ms(&self, quantile: f64) -> f64 {
        let mut sorted = self.recovery.clone();
        sorted.sort_unstable();
        let rank = (quantile * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).map_or(0.0, |took| took.as_secs_f64() * 1000.0)
    }

    /// Nothing that was acknowledged is lost, silent or done twice, and no call failed.
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.silent == 0 && self.doubles == 0 && self.failed_calls == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_nearest_rank() {
        let recovery = (1..=100).map(Duration::from_millis).collect();
        let tally = Tally { recovery, ..Tally::default() };
        assert_eq!(tally.recovery_ms(0.5).round(), 50.0);
        assert_eq!(tally.recovery_ms(0.99).round(), 99.0);
        assert_eq!(Tally::default().recovery_ms(0.99), 0.0);
    }

    #[test]
    fn sums_keep_what_was_lost() {
        let mut sum = Tally { runs: 1, ..Tally::default() };
        let mut run = Tally { runs: 1, acknowledged: 7, ..Tally::default() };
        assert!(run.is_clean());
        run.lose("a dialog");
        sum.add(run);
        assert_eq!((sum.runs, sum.acknowledged, sum.lost), (2, 7, 1));
        assert_eq!(sum.notes, ["a dialog"]);
        assert!(!sum.is_clean());
    }
}
