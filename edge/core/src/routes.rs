//! The way back to a caller out of a dialog: the flow of its last request. Each entry ends by itself.

use std::collections::HashMap;
use std::sync::Arc;

use sip_proto::time::Mono;

use crate::engine::LegKey;
use crate::input::Flow;
use crate::timers::{TimerKey, Timers};

/// Most callers at once; above it the answer goes to the registered Contact, or nowhere.
const MAX_ROUTES: usize = 65_536;
/// A legacy session ends after 5 minutes without use (mcp.md, section 5.4); the way back lives a little longer.
const IDLE_MS: u64 = 330_000;

/// One caller.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub flow: Arc<Flow>,
    /// The address is proven: a stream, or a datagram whose sender answered a challenge.
    pub proven: bool,
    /// Of the last request, in the form `Session-ID` has.
    pub session_id: Option<String>,
    until: Mono,
}

/// The table.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    entries: HashMap<LegKey, Route>,
}

impl Routes {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn get(&self, leg: &LegKey) -> Option<&Route> {
        self.entries.get(leg)
    }

    /// Remembers, or refreshes.
    pub fn set(
        &mut self,
        leg: LegKey,
        flow: Arc<Flow>,
        proven: bool,
        session_id: Option<String>,
        now: Mono,
        timers: &mut Timers,
    ) {
        if self.entries.len() >= MAX_ROUTES && !self.entries.contains_key(&leg) {
            return;
        }
        let until = now.plus_millis(IDLE_MS);
        self.entries.insert(leg, Route { flow, proven, session_id, until });
        timers.arm(TimerKey::Route(leg), Some(until));
    }

    /// Its time is over, unless it was refreshed.
    pub fn expire(&mut self, leg: &LegKey, now: Mono, timers: &mut Timers) {
        match self.entries.get(leg) {
            Some(route) if route.until > now => timers.arm(TimerKey::Route(*leg), Some(route.until)),
            _ => {
                self.entries.remove(leg);
            }
        }
    }
}
