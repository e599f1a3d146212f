//! The timers of the transaction machines (RFC 3261 Table 4, RFC 6026, RFC 4320) and the small fixed table in which a
//! machine keeps those that run.

use crate::time::Mono;

/// Estimate of the round trip, T1, in milliseconds (RFC 3261 §17.1.1.1).
pub const T1_MS: u64 = 500;
/// Longest interval between retransmissions of a non-INVITE request or an INVITE response, T2, in milliseconds.
pub const T2_MS: u64 = 4_000;
/// How long a message stays in the network, T4, in milliseconds.
pub const T4_MS: u64 = 5_000;
/// Time within which the TU answers an INVITE, else it owes a 100 (RFC 3261 §17.2.1), in milliseconds.
pub const TRYING_MS: u64 = 200;

/// The three base values, in milliseconds. Everything else is computed from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerValues {
    /// Round trip estimate.
    pub t1: u64,
    /// Cap of the retransmission interval.
    pub t2: u64,
    /// Life of a message in the network.
    pub t4: u64,
}

impl Default for TimerValues {
    fn default() -> Self {
        TimerValues { t1: T1_MS, t2: T2_MS, t4: T4_MS }
    }
}

impl TimerValues {
    /// 64·T1: the life of a transaction that gets no answer (Timers B, F, H, J, L, M).
    #[must_use]
    pub fn life(&self) -> u64 {
        self.t1.saturating_mul(64)
    }

    /// Timer D over an unreliable transport: at least 32 s.
    #[must_use]
    pub fn d(&self) -> u64 {
        self.life().max(32_000)
    }

    /// The time that a client's Timer E takes to be reset to T2 (RFC 4320 §4.1): 3.5 s with the default values.
    #[must_use]
    pub fn late_trying(&self) -> u64 {
        let (mut interval, mut passed) = (self.t1.max(1), 0u64);
        while interval < self.t2 {
            passed = passed.saturating_add(interval);
            interval = interval.saturating_mul(2);
        }
        passed
    }
}

/// Which timer. The letters are those of RFC 3261 Table 4; L and M are RFC 6026's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// INVITE request retransmission, unreliable transport only.
    A,
    /// INVITE transaction timeout.
    B,
    /// Proxy INVITE transaction timeout (more than 3 minutes). Owned by the proxy role, not by a machine.
    C,
    /// Wait for retransmitted final responses to an INVITE.
    D,
    /// Non-INVITE request retransmission, unreliable transport only.
    E,
    /// Non-INVITE transaction timeout.
    F,
    /// INVITE response retransmission, unreliable transport only.
    G,
    /// Wait for the ACK.
    H,
    /// Wait for retransmitted ACKs.
    I,
    /// Wait for retransmitted non-INVITE requests.
    J,
    /// Wait for retransmitted non-INVITE responses.
    K,
    /// Wait for retransmitted INVITEs after a 2xx (RFC 6026 §7.1).
    L,
    /// Wait for retransmitted and forked 2xx (RFC 6026 §8.4).
    M,
    /// A server owes a 100: 200 ms for INVITE (RFC 3261 §17.2.1), 3.5 s for the others (RFC 4320 §4.1).
    Trying,
    /// A non-INVITE that the TU never answers: the client gave up after 64·T1, so the server does too (RFC 4320 §4.2).
    Unanswered,
    /// A cancelled INVITE that gets no final response within 64·T1 is over (RFC 3261 §9.1).
    Cancelled,
}

/// How many timers of one machine can run at once (client INVITE in Proceeding: B or Cancelled, A; server: Trying, G, H).
const SLOTS: usize = 4;

/// The running timers of one machine: at most four, no allocation, comparable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Armed {
    slots: [Option<(Timer, Mono)>; SLOTS],
}

impl Armed {
    /// Starts `timer`, or moves it when it runs already.
    pub fn set(&mut self, timer: Timer, at: Mono) {
        self.stop(timer);
        // Four slots are enough for every state of every machine; the model test drives all of them.
        let free = self.slots.iter_mut().find(|slot| slot.is_none());
        debug_assert!(free.is_some(), "a machine runs at most {SLOTS} timers");
        if let Some(slot) = free {
            *slot = Some((timer, at));
        }
    }

    /// Stops `timer`; nothing when it does not run.
    pub fn stop(&mut self, timer: Timer) {
        for slot in &mut self.slots {
            if slot.is_some_and(|(running, _)| running == timer) {
                *slot = None;
            }
        }
    }

    /// Stops all.
    pub fn clear(&mut self) {
        self.slots = [None; SLOTS];
    }

    /// The next deadline and what it is for.
    #[must_use]
    pub fn next(&self) -> Option<(Mono, Timer)> {
        self.slots.iter().flatten().map(|&(timer, at)| (at, timer)).min()
    }

    /// Takes one timer that is due at `now`, the earliest first.
    pub fn take_due(&mut self, now: Mono) -> Option<Timer> {
        let (at, timer) = self.next()?;
        if at > now {
            return None;
        }
        self.stop(timer);
        Some(timer)
    }

    /// Nothing runs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.iter().all(Option::is_none)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timer_e_reaches_t2_after_three_and_a_half_seconds() {
        assert_eq!(TimerValues::default().late_trying(), 3_500);
        assert_eq!(TimerValues { t1: 4_000, t2: 4_000, t4: 0 }.late_trying(), 0);
    }

    #[test]
    fn due_timers_come_in_order_and_once() {
        let mut armed = Armed::default();
        armed.set(Timer::H, Mono(30));
        armed.set(Timer::G, Mono(10));
        armed.set(Timer::G, Mono(20));
        assert_eq!(armed.next(), Some((Mono(20), Timer::G)));
        assert_eq!(armed.take_due(Mono(19)), None);
        assert_eq!(armed.take_due(Mono(40)), Some(Timer::G));
        assert_eq!(armed.take_due(Mono(40)), Some(Timer::H));
        assert_eq!(armed.take_due(Mono(40)), None);
        assert!(armed.is_empty());
    }
}
