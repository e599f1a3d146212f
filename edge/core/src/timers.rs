//! One ordered queue of deadlines. Each owner has at most one entry, the earliest of what it waits for; it re-arms after every event.

use std::collections::{BTreeSet, HashMap};

use session_store::key::DialogKey;
use sip_proto::time::Mono;

use crate::engine::LegKey;

/// Whose deadline it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum TimerKey {
    /// A server transaction.
    Server(u64),
    /// A client transaction.
    Client(u64),
    /// 2xx retransmission, session timer, BYE of a dialog.
    Dialog(DialogKey),
    /// A BYE that another edge was to send and did not hear of.
    ByeAgain(u64),
    /// A message to another edge, of which nothing was heard.
    Meshed(u64),
    /// A tombstone that the store did not take yet.
    Burial(DialogKey),
    /// The way back to a caller out of a dialog.
    Route(LegKey),
    /// The store was away: a step of the recovery.
    Outage,
    /// A call that is set up between two legs, or a request that waits for its peer.
    Bridge(u64),
    /// A step of the drain.
    Drain,
}

impl TimerKey {
    fn reason(self) -> &'static str {
        match self {
            TimerKey::Server(_) => "server transaction",
            TimerKey::Client(_) => "client transaction",
            TimerKey::Dialog(_) => "dialog",
            TimerKey::ByeAgain(_) => "BYE by way of another edge",
            TimerKey::Meshed(_) => "message to another edge",
            TimerKey::Burial(_) => "tombstone",
            TimerKey::Route(_) => "way back to a caller",
            TimerKey::Outage => "recovery of the store",
            TimerKey::Bridge(_) => "bridge",
            TimerKey::Drain => "drain",
        }
    }
}

/// The queue.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    queue: BTreeSet<(Mono, TimerKey)>,
    armed: HashMap<TimerKey, Mono>,
}

impl Timers {
    /// Sets, moves or (with `None`) removes the deadline of `key`.
    pub fn arm(&mut self, key: TimerKey, at: Option<Mono>) {
        let before = match at {
            Some(at) => self.armed.insert(key, at),
            None => self.armed.remove(&key),
        };
        if before == at {
            return;
        }
        if let Some(before) = before {
            self.queue.remove(&(before, key));
        }
        if let Some(at) = at {
            self.queue.insert((at, key));
        }
    }

    /// Arms it for that time, unless it is armed for an earlier one.
    pub fn arm_earlier(&mut self, key: TimerKey, at: Mono) {
        let earliest = self.armed.get(&key).map_or(at, |armed| at.min(*armed));
        self.arm(key, Some(earliest));
    }

    /// The next deadline and what it is for.
    pub fn next(&self) -> Option<(Mono, &'static str)> {
        self.queue.first().map(|(at, key)| (*at, key.reason()))
    }

    /// Takes the earliest deadline that is not after `now`.
    pub fn take_due(&mut self, now: Mono) -> Option<TimerKey> {
        let (at, key) = *self.queue.first()?;
        if at > now {
            return None;
        }
        self.arm(key, None);
        Some(key)
    }

    /// How many deadlines are armed.
    pub fn len(&self) -> usize {
        self.queue.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_owner_has_one_entry_and_they_come_in_order() {
        let mut timers = Timers::default();
        timers.arm(TimerKey::Server(1), Some(Mono(30)));
        timers.arm(TimerKey::Client(2), Some(Mono(20)));
        timers.arm(TimerKey::Server(1), Some(Mono(10)));
        assert_eq!((timers.len(), timers.next()), (2, Some((Mono(10), "server transaction"))));
        assert_eq!(timers.take_due(Mono(9)), None);
        assert_eq!(timers.take_due(Mono(25)), Some(TimerKey::Server(1)));
        assert_eq!(timers.take_due(Mono(25)), Some(TimerKey::Client(2)));
        timers.arm(TimerKey::Drain, Some(Mono(5)));
        timers.arm(TimerKey::Drain, None);
        assert_eq!((timers.len(), timers.next()), (0, None));
    }
}
