//! How often each tool ran: what a test reads to prove that nothing ran twice.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    runs: u64,
    cancelled: u64,
}

/// Shared by all sessions of one agent. Keyed by tool names, which are constants of the program, so it stays small.
#[derive(Debug, Default)]
pub(crate) struct Counters(Mutex<BTreeMap<&'static str, Count>>);

impl Counters {
    /// Notes that `tool` begins to run; returns its number, from 1.
    pub(crate) fn begin(&self, tool: &'static str) -> u64 {
        let mut counts = self.lock();
        let count = counts.entry(tool).or_default();
        count.runs += 1;
        count.runs
    }

    pub(crate) fn cancel(&self, tool: &'static str) {
        self.lock().entry(tool).or_default().cancelled += 1;
    }

    pub(crate) fn runs(&self, tool: &str) -> u64 {
        self.lock().get(tool).map_or(0, |count| count.runs)
    }

    pub(crate) fn cancelled(&self, tool: &str) -> u64 {
        self.lock().get(tool).map_or(0, |count| count.cancelled)
    }

    /// `{"runs": {tool: n}, "cancelled": {tool: n}}`.
    pub(crate) fn report(&self) -> serde_json::Value {
        let counts = self.lock();
        let runs: BTreeMap<_, _> = counts.iter().map(|(tool, count)| (*tool, count.runs)).collect();
        let cancelled: BTreeMap<_, _> = counts
            .iter()
            .filter(|(_, count)| count.cancelled > 0)
            .map(|(tool, count)| (*tool, count.cancelled))
            .collect();
        serde_json::json!({ "runs": runs, "cancelled": cancelled })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Count>> {
        // Plain numbers: a panic elsewhere leaves nothing half written.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
