//! `/metrics` of the operator: names and labels are API (`sipmcp_operator_…`).

use crate::board::Board;
use crate::plan::fleet::{Edge, Fleet};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::time::Duration;

type Labels = Vec<(&'static str, String)>;

/// Seconds from the decision to write until the API server has answered.
const WRITE_BUCKETS: [f64; 9] = [0.002, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 8.0];

/// What the process counts. Cheap to use from every task.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    leader: Gauge,
    edges: Gauge,
    status_dropped: Counter,
    seconds: Family<Labels, Histogram>,
    failed: Family<Labels, Counter>,
    watch_errors: Family<Labels, Counter>,
    turned_away: Family<Labels, Counter>,
    queue: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("sipmcp_operator");
        let metrics = Metrics {
            registry: Registry::default(),
            leader: Gauge::default(),
            edges: Gauge::default(),
            status_dropped: Counter::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(WRITE_BUCKETS)),
            failed: Family::default(),
            watch_errors: Family::default(),
            turned_away: Family::default(),
            queue: Gauge::default(),
        };
        registry.register("leader", "1 where this replica holds the Lease", metrics.leader.clone());
        registry.register("edges_connected", "Edges with a stream to this replica", metrics.edges.clone());
        registry.register("status_dropped", "Statuses for which the queue had no room", metrics.status_dropped.clone());
        registry.register("reconcile_seconds", "Time of a write to the API server", metrics.seconds.clone());
        registry.register("write_failures", "Writes that the API server did not take", metrics.failed.clone());
        registry.register("watch_errors", "Interrupted watches", metrics.watch_errors.clone());
        registry.register("objects_refused", "Objects for which there was no room", metrics.turned_away.clone());
        registry.register("status_queue", "Objects whose status waits to be written", metrics.queue.clone());
        Metrics { registry, ..metrics }
    }
}

impl Metrics {
    /// A write of an object of this kind ended.
    pub fn wrote(&self, kind: &str, took: Duration, ok: bool) {
        let labels = vec![("kind", kind.to_owned())];
        self.seconds.get_or_create(&labels).observe(took.as_secs_f64());
        if !ok {
            self.failed.get_or_create(&labels).inc();
        }
    }

    pub fn watch_failed(&self, kind: &str) {
        self.watch_errors.get_or_create(&vec![("kind", kind.to_owned())]).inc();
    }

    pub fn refused(&self, kind: &str) {
        self.turned_away.get_or_create(&vec![("kind", kind.to_owned())]).inc();
    }

    pub fn status_dropped(&self) {
        self.status_dropped.inc();
    }

    pub fn queue(&self, length: usize) {
        self.queue.set(i64::try_from(length).unwrap_or(i64::MAX));
    }

    /// The text form (OpenMetrics 1.0).
    #[must_use]
    pub fn text(&self, board: &Board, writes: bool) -> String {
        let here = |(_, edge): &(&String, &Edge)| edge.attachment.replica().is_none();
        let edges = board.quietly(|state| state.fleets.values().flat_map(Fleet::streams).filter(here).count());
        self.edges.set(i64::try_from(edges).unwrap_or(i64::MAX));
        self.leader.set(i64::from(writes));
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_the_documented_ones() {
        let metrics = Metrics::default();
        metrics.wrote("McpAgent", Duration::from_millis(3), false);
        metrics.status_dropped();
        let text = metrics.text(&Board::default(), true);
        for line in [
            "sipmcp_operator_leader 1",
            "sipmcp_operator_edges_connected 0",
            "sipmcp_operator_status_dropped_total 1",
            "sipmcp_operator_reconcile_seconds_count{kind=\"McpAgent\"} 1",
            "sipmcp_operator_write_failures_total{kind=\"McpAgent\"} 1",
        ] {
            assert!(text.lines().any(|there| there == line), "{line}\n{text}");
        }
    }
}
