//! The end: long after the last time to live nothing may be left.

use std::collections::BTreeSet;

use super::{EPOCH_MS, SILENCE_MS, World};

impl World {
    /// No key, no map entry, no timer.
    pub(super) fn finish(&mut self) {
        let end = self.now + SILENCE_MS;
        self.now = end;
        for caller in &mut self.callers {
            caller.conclude(&mut self.model);
            let c = caller.counters;
            self.report.calls += c.calls;
            self.report.exchanges += c.exchanges;
            self.report.answers += c.answers;
            self.report.retryable += c.retryable;
            self.report.given_up += c.given_up;
            self.report.requests += c.requests;
            self.report.no_way_back += c.no_way_back;
            self.report.bridged += c.bridged;
            self.report.unheard += c.unheard;
        }
        let counts = self.store.counts(EPOCH_MS + end);
        let mut left = BTreeSet::new();
        for (name, n) in [
            ("aors", counts.aors),
            ("guards", counts.guards),
            ("dialogs", counts.dialogs),
            ("sessions", counts.sessions),
            ("exchanges", counts.exchanges),
            ("once", counts.once),
            ("nonces", counts.nonces),
            ("owned", counts.owned),
        ] {
            if n > 0 {
                left.insert(format!("{n} {name}"));
            }
        }
        self.model.nothing_left("the store", &left);
        for (index, edge) in self.edges.iter().enumerate() {
            let Some(state) = &edge.state else { continue };
            let s = state.stats();
            let mut left = BTreeSet::new();
            for (name, n) in [
                ("dialogs", s.dialogs),
                ("server transactions", s.server_transactions),
                ("client transactions", s.client_transactions),
                ("store operations", s.store_operations),
                ("routes", s.routes),
                ("timers", s.timers),
                ("exchanges", s.engine.exchanges),
                ("sessions", s.engine.sessions),
                ("backend calls", s.engine.backend_calls),
                ("deliveries", s.engine.deliveries),
                ("waiting", s.engine.waiting),
                ("engine timers", s.engine.timers),
            ] {
                if n > 0 {
                    left.insert(format!("{n} {name}"));
                }
            }
            self.model.nothing_left(&format!("edge {index}"), &left);
        }
        self.report.store_operations = self.store.operations;
        self.report.executions = self.model.executions() as u64;
        self.report.from_cache = self.model.from_cache;
        self.report.violations = std::mem::take(&mut self.model.violations);
    }
}
