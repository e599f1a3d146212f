//! The circuit breaker of one primary: a machine without a clock of its own.
//!
//! It opens after [`FAILURES`] operations in a row, over at least [`SPAN`], that were not answered in time or whose connection closed (one
//! short stall fails all that is in flight, but not what comes after it), and at once where the server says that it cannot (NOREPLICAS, READONLY, LOADING, CLUSTERDOWN). While it is open only probes are sent, one each
//! [`PROBE_EVERY`]; [`PROBES`] good ones in a row close it in steps of [`STEP`]: 10 %, 50 %, all.

use std::time::{Duration, Instant};

use crate::health::BreakerState;

/// So many in a row open it.
pub(crate) const FAILURES: u32 = 5;
/// For so long, so that one stall is not taken for an outage.
pub(crate) const SPAN: Duration = Duration::from_millis(200);
/// Good probes in a row that end it.
pub(crate) const PROBES: u32 = 2;
/// Between two probes while it is open.
pub(crate) const PROBE_EVERY: Duration = Duration::from_millis(250);
/// Between two probes while it is closed: they also read the store's clock.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long it stays at 10 % and at 50 %.
pub(crate) const STEP: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Breaker {
    state: BreakerState,
    reason: Option<String>,
    failures: u32,
    /// Of the first of them.
    failing_since: Instant,
    good_probes: u32,
    since: Instant,
    next_probe: Instant,
}

impl Breaker {
    /// Open until the first probes.
    pub fn new(now: Instant) -> Breaker {
        let reason = Some("not connected yet".to_owned());
        Breaker {
            state: BreakerState::Open,
            reason,
            failures: 0,
            failing_since: now,
            good_probes: 0,
            since: now,
            next_probe: now,
        }
    }

    /// In use at once: the server was looked at already.
    pub fn close(&mut self, now: Instant) {
        *self =
            Breaker { state: BreakerState::Closed, reason: None, next_probe: now + LOOK_EVERY, ..Breaker::new(now) };
    }

    pub fn state(&self) -> BreakerState {
        self.state
    }

    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// Whether an operation may be sent.
    pub fn admits(&self) -> bool {
        self.state != BreakerState::Open
    }

    /// Whether it is open, or the last operation was not answered.
    pub fn is_failing(&self) -> bool {
        !self.admits() || self.failures > 0
    }

    /// An operation was answered.
    pub fn success(&mut self) {
        self.failures = 0;
    }

    /// An operation was not answered. True if that opened it.
    pub fn failure(&mut self, now: Instant, reason: &str) -> bool {
        if self.failures == 0 {
            self.failing_since = now;
        }
        self.failures = self.failures.saturating_add(1);
        let is_out = self.failures >= FAILURES && now.duration_since(self.failing_since) >= SPAN;
        self.state != BreakerState::Open && is_out && self.open(now, reason)
    }

    /// The server cannot. True if that opened it.
    pub fn open(&mut self, now: Instant, reason: &str) -> bool {
        let opened = self.state != BreakerState::Open;
        if opened || self.reason.as_deref() != Some(reason) {
            self.reason = Some(reason.to_owned());
        }
        if opened {
            (self.state, self.since) = (BreakerState::Open, now);
            self.next_probe = now + PROBE_EVERY;
        }
        self.good_probes = 0;
        opened
    }

    /// Whether a probe is due; the next one is set.
    pub fn probe_due(&mut self, now: Instant) -> bool {
        let due = now >= self.next_probe;
        if due {
            self.next_probe = now + if self.state == BreakerState::Open { PROBE_EVERY } else { LOOK_EVERY };
        }
        due
    }

    /// A probe was answered in time.
    pub fn probed(&mut self, now: Instant) {
        self.failures = 0;
        if self.state == BreakerState::Open {
            self.good_probes += 1;
            if self.good_probes >= PROBES {
                (self.state, self.since) = (BreakerState::Recovering { percent: 10 }, now);
            }
        }
    }

    /// Time passes.
    pub fn tick(&mut self, now: Instant) {
        let BreakerState::Recovering { percent } = self.state else { return };
        if now.duration_since(self.since) < STEP {
            return;
        }
        self.since = now;
        if percent < 50 {
            self.state = BreakerState::Recovering { percent: 50 };
        } else {
            (self.state, self.reason) = (BreakerState::Closed, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(now: Instant) -> Breaker {
        let mut breaker = Breaker::new(now);
        breaker.close(now);
        breaker
    }

    #[test]
    fn five_failures_in_a_row_open_it_and_a_success_between_does_not() {
        let now = Instant::now();
        let mut breaker = closed(now);
        for _ in 0..4 {
            assert!(!breaker.failure(now, "late"));
        }
        breaker.success();
        for _ in 0..100 {
            assert!(!breaker.failure(now, "late"), "one stall");
        }
        assert!(breaker.admits());
        assert!(breaker.failure(now + SPAN, "late"));
        assert!(!breaker.admits());
        assert_eq!(breaker.reason(), Some("late"));
    }

    #[test]
    fn it_closes_in_steps_after_two_good_probes() {
        let now = Instant::now();
        let mut breaker = closed(now);
        assert!(breaker.open(now, "NOREPLICAS"));
        assert!(!breaker.probe_due(now));
        assert!(breaker.probe_due(now + PROBE_EVERY));
        breaker.probed(now);
        assert_eq!(breaker.state(), BreakerState::Open);
        breaker.open(now, "NOREPLICAS");
        breaker.probed(now);
        assert_eq!(breaker.state(), BreakerState::Open, "in a row");
        breaker.probed(now);
        assert_eq!(breaker.state(), BreakerState::Recovering { percent: 10 });
        breaker.tick(now + STEP / 2);
        assert_eq!(breaker.state(), BreakerState::Recovering { percent: 10 });
        breaker.tick(now + STEP);
        assert_eq!(breaker.state(), BreakerState::Recovering { percent: 50 });
        breaker.tick(now + 2 * STEP);
        assert_eq!(breaker.state(), BreakerState::Closed);
        assert_eq!(breaker.reason(), None);
    }

    #[test]
    fn failures_while_it_recovers_open_it_again() {
        let now = Instant::now();
        let mut breaker = closed(now);
        breaker.open(now, "x");
        breaker.probed(now);
        breaker.probed(now);
        assert!((0..FAILURES).any(|n| breaker.failure(now + SPAN * n, "late")));
        assert_eq!(breaker.state(), BreakerState::Open);
    }
}
