//! The engine's alarm clock: one alarm per name.

use std::collections::{BTreeSet, HashMap};

use session_store::key::{ExchangeKey, SessionKey};
use sip_proto::time::Mono;

use super::types::DeliveryId;
use crate::input::BackendId;

/// What an alarm is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Timer {
    /// The deadline of an exchange.
    Exchange(u64),
    /// The idle end of a session out of a dialog; in a dialog, when its record is touched.
    Session(SessionKey),
    /// The backend's stream did not open in time, or is asked for again.
    Stream(SessionKey),
    /// The caller owes an answer for too long.
    Asked(SessionKey),
    /// A backend call of our own, or one that is answered but not over.
    Call(BackendId),
    /// A delivery that waits for the store.
    Delivery(DeliveryId),
    /// An adopted exchange that waits for the lease or for the store.
    Orphan(u64),
    /// Whether an exchange is served is asked again.
    Doubt(ExchangeKey),
    /// Counters of rules that count nothing are taken away.
    Allowances,
    /// A call on another leg is not answered.
    Relayed(u64),
}

impl Timer {
    /// Whether its action is one that somebody else may be taking by now, unless the lease says no (sip.md, section 8, rule 2). The others
    /// look at the lease themselves, or only forget.
    pub(super) fn is_continuous(&self) -> bool {
        match self {
            Timer::Exchange(_) | Timer::Session(_) | Timer::Stream(_) | Timer::Asked(_) => true,
            Timer::Call(_) | Timer::Delivery(_) | Timer::Orphan(_) | Timer::Doubt(_) => false,
            Timer::Allowances | Timer::Relayed(_) => false,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Timer::Exchange(_) => "mcp exchange deadline",
            Timer::Session(_) => "mcp session idle",
            Timer::Stream(_) => "mcp server stream",
            Timer::Asked(_) => "mcp server request deadline",
            Timer::Call(_) => "mcp backend call",
            Timer::Delivery(_) => "mcp delivery retry",
            Timer::Orphan(_) => "mcp adopted exchange",
            Timer::Doubt(_) => "mcp exchange in doubt",
            Timer::Allowances => "mcp limits of rules",
            Timer::Relayed(_) => "mcp call on another leg",
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Timers {
    queue: BTreeSet<(Mono, Timer)>,
    at: HashMap<Timer, Mono>,
}

impl Timers {
    /// Sets or moves an alarm.
    pub(super) fn set(&mut self, timer: Timer, at: Mono) {
        self.clear(timer);
        self.queue.insert((at, timer));
        self.at.insert(timer, at);
    }

    pub(super) fn clear(&mut self, timer: Timer) {
        if let Some(at) = self.at.remove(&timer) {
            self.queue.remove(&(at, timer));
        }
    }

    pub(super) fn is_set(&self, timer: Timer) -> bool {
        self.at.contains_key(&timer)
    }

    /// The next alarm that is due.
    pub(super) fn pop(&mut self, now: Mono) -> Option<Timer> {
        let &(at, timer) = self.queue.first().filter(|(at, _)| *at <= now)?;
        self.queue.remove(&(at, timer));
        self.at.remove(&timer);
        Some(timer)
    }

    pub(super) fn next(&self) -> Option<(Mono, &'static str)> {
        self.queue.first().map(|(at, timer)| (*at, timer.reason()))
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }
}
