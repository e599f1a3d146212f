//! `/metrics`: names and labels are API (`sipmcp_edge_…`). What the shell sees is counted as it happens; what the cores and the store
//! hold is read when somebody asks ([`Scrape`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Duration;

use edge_core::audit::{AuditKind, AuditRecord, Outcome};
use edge_core::config::Config;
use edge_core::input::StoreHealth;
use edge_core::stats::Stats;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode, encode_registry};
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use session_store::memory::Counts;
use session_store::op::StoreError;

use crate::audit::outcome;
use crate::control::Standing;

/// Seconds of a tool call.
const CALL_BUCKETS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0];
/// Seconds of a store operation.
const STORE_BUCKETS: [f64; 9] = [0.000_005, 0.000_02, 0.000_1, 0.000_5, 0.002, 0.01, 0.05, 0.15, 1.0];
/// Names that an agent's configuration does not declare and that still get a label: its tools that answered.
const MAX_DISCOVERED: usize = 64;
/// Rules with a label of their own.
const MAX_RULES: usize = 4096;
/// The label of everything without one of its own.
const OTHER: &str = "other";

type Labels = Vec<(&'static str, String)>;

/// The counters of the process.
#[derive(Debug)]
pub struct Metrics {
    tool_calls: Family<Labels, Counter>,
    tool_seconds: Family<Labels, Histogram>,
    decisions: Family<Labels, Counter>,
    store: StoreMetrics,
    store_errors: Family<Labels, Counter>,
    adopted: Family<Labels, Counter>,
    mesh_messages: Family<Labels, Counter>,
    names: Mutex<Names>,
}

/// Time and number of the store's operations. One is looked up by its name's address: a message makes several, and building labels for
/// each would cost more than some of them.
#[derive(Debug)]
struct StoreMetrics {
    seconds: Family<Labels, Histogram>,
    round_trips: Family<Labels, Counter>,
    known: RwLock<Vec<(&'static str, Histogram, Counter)>>,
}

impl Default for StoreMetrics {
    fn default() -> Self {
        StoreMetrics {
            seconds: Family::new_with_constructor(|| Histogram::new(STORE_BUCKETS)),
            round_trips: Family::default(),
            known: RwLock::default(),
        }
    }
}

impl StoreMetrics {
    fn observe(&self, operation: &'static str, took: Duration) {
        let count = |(_, seconds, round_trips): &(&'static str, Histogram, Counter)| {
            seconds.observe(took.as_secs_f64());
            round_trips.inc();
        };
        let is_it = |(name, ..): &&(&'static str, Histogram, Counter)| std::ptr::eq(*name, operation);
        if let Some(known) = self.known.read().unwrap_or_else(PoisonError::into_inner).iter().find(is_it) {
            return count(known);
        }
        let labels = vec![("operation", operation.to_owned())];
        let seconds = self.seconds.get_or_create(&labels).clone();
        let round_trips = self.round_trips.get_or_create(&labels).clone();
        let new = (operation, seconds, round_trips);
        count(&new);
        // Two threads may both add it: both have the same histogram, and names are few.
        self.known.write().unwrap_or_else(PoisonError::into_inner).push(new);
    }
}

/// Labels that may be used: peers choose names, so they must not choose labels.
#[derive(Debug, Default)]
struct Names {
    /// By agent address: tools.
    tools: BTreeMap<String, BTreeSet<String>>,
    rules: BTreeSet<String>,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics {
            tool_calls: Family::default(),
            tool_seconds: Family::new_with_constructor(|| Histogram::new(CALL_BUCKETS)),
            decisions: Family::default(),
            store: StoreMetrics::default(),
            store_errors: Family::default(),
            adopted: Family::default(),
            mesh_messages: Family::default(),
            names: Mutex::default(),
        }
    }
}

impl Metrics {
    /// Takes the agents and tools of a configuration as labels.
    pub fn configure(&self, config: &Config) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let known = std::mem::take(&mut names.tools);
        for agent in config.agents.values() {
            let address = format!("sip:{}@{}", agent.user, agent.domain);
            let mut tools = known.get(&address).cloned().unwrap_or_default();
            tools.extend(agent.capabilities.tools.iter().map(|tool| tool.name.clone()));
            names.tools.insert(address, tools);
        }
    }

    /// Counts what an audit record says.
    pub fn audited(&self, record: &AuditRecord) {
        let (result, _) = outcome(&record.outcome);
        let action = if matches!(record.outcome, Outcome::Denied(_)) { "deny" } else { "allow" };
        let (agent, tool, rule) = self.labels(record);
        self.decisions.get_or_create(&vec![("rule", rule), ("action", action.to_owned())]).inc();
        if record.kind == AuditKind::ToolCall {
            let labels = vec![("agent", agent.clone()), ("tool", tool.clone()), ("result", result.to_owned())];
            self.tool_calls.get_or_create(&labels).inc();
            if let Some(duration) = record.duration_us {
                let seconds = Duration::from_micros(duration).as_secs_f64();
                self.tool_seconds.get_or_create(&vec![("agent", agent), ("tool", tool)]).observe(seconds);
            }
        }
    }

    fn labels(&self, record: &AuditRecord) -> (String, String, String) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let answered = matches!(record.outcome, Outcome::Ok | Outcome::ToolError);
        let wanted = record.tool.as_deref().unwrap_or(OTHER);
        let (agent, tool) = match names.tools.get_mut(&record.agent) {
            Some(tools) => {
                if answered && !tools.contains(wanted) && tools.len() < MAX_DISCOVERED {
                    tools.insert(wanted.to_owned());
                }
                (record.agent.as_str(), if tools.contains(wanted) { wanted } else { OTHER })
            }
            None => (OTHER, OTHER),
        };
        let (agent, tool) = (agent.to_owned(), tool.to_owned());
        if names.rules.len() < MAX_RULES {
            names.rules.insert(record.rule.clone());
        }
        let rule = if names.rules.contains(&record.rule) { record.rule.clone() } else { OTHER.to_owned() };
        (agent, tool, rule)
    }

    /// Counts one operation of the store: each is one round trip.
    pub fn store_operation(&self, operation: &'static str, took: Duration, error: Option<&StoreError>) {
        self.store.observe(operation, took);
        if let Some(error) = error {
            let error = match error {
                StoreError::Unavailable => "unavailable",
                StoreError::Full { .. } => "full",
                StoreError::Unreadable { .. } => "unreadable",
            };
            let labels = vec![("operation", operation.to_owned()), ("error", error.to_owned())];
            self.store_errors.get_or_create(&labels).inc();
        }
    }

    /// Counts what was taken over from another life.
    pub fn adopted(&self, kind: &'static str, count: u64) {
        self.adopted.get_or_create(&vec![("kind", kind.to_owned())]).inc_by(count);
    }

    /// Counts a message of the mesh. `direction`: `in`, `out`.
    pub fn mesh_message(&self, direction: &'static str, kind: &'static str, result: &'static str) {
        let labels = [("direction", direction), ("kind", kind), ("result", result)];
        self.mesh_messages.get_or_create(&labels.map(|(name, value)| (name, value.to_owned())).to_vec()).inc();
    }

    /// The whole text in OpenMetrics form.
    #[must_use]
    pub fn text(&self, mut scrape: Scrape) -> String {
        let mut store = Registry::with_prefix("sipmcp_store");
        const TRIPS: &str = "Round trips to the store by operation";
        match scrape.round_trips.take() {
            None => store.register("round_trips", TRIPS, self.store.round_trips.clone()),
            Some(rows) => {
                let trips = Family::<Labels, Counter>::default();
                for (operation, count) in rows.into_iter().filter(|(_, count)| *count > 0) {
                    trips.get_or_create(&vec![("operation", operation.to_owned())]).inc_by(count);
                }
                store.register("round_trips", TRIPS, trips);
            }
        }
        store.register("errors", "Operations that failed", self.store_errors.clone());
        let mut registry = Registry::with_prefix("sipmcp_edge");
        registry.register("tool_calls", "Tool calls by result", self.tool_calls.clone());
        registry.register("tool_call_seconds", "From a tool call's arrival to its answer", self.tool_seconds.clone());
        registry.register("policy_decisions", "Decisions by rule and action", self.decisions.clone());
        registry.register("store_seconds", "Time of one store operation", self.store.seconds.clone());
        registry.register("adopted", "What was taken over from another life, by kind", self.adopted.clone());
        registry.register("mesh_messages", "Messages between edges", self.mesh_messages.clone());
        registry.register_collector(Box::new(scrape));
        let mut text = String::new();
        // Writing to a String fails only where a label cannot be written, and labels are strings.
        let written = encode_registry(&mut text, &registry).and_then(|()| encode(&mut text, &store));
        if written.is_err() {
            tracing::error!("the metrics could not be written");
        }
        text
    }
}

/// What the parts of the process hold at the moment of the question.
#[derive(Debug, Default)]
pub struct Scrape {
    /// One per shard that answered in time.
    pub shards: Vec<Stats>,
    pub store: Counts,
    /// By operation; `None` where each operation is one.
    pub round_trips: Option<Vec<(&'static str, u64)>>,
    pub connections: usize,
    pub backend_calls: usize,
    pub refused: Vec<(&'static str, u64)>,
    pub config_version: u64,
    pub rejected: usize,
    pub draining: bool,
    pub ready: bool,
    /// `None`: the configuration comes from files.
    pub control: Option<Standing>,
    pub health: StoreHealth,
    pub epoch: u64,
    pub lease_held: bool,
    /// Edges that live, this one included.
    pub pods: usize,
}

impl Scrape {
    /// A gauge over all shards.
    #[must_use]
    pub fn sum(&self, value: impl Fn(&Stats) -> usize) -> u64 {
        self.shards.iter().map(|stats| value(stats) as u64).sum()
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut gauge = |name: &str, help: &str, value: u64| {
            let value = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            value.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
        };
        gauge("registrations", "Addresses with a live binding", self.store.aors as u64)?;
        gauge("dialogs", "SIP dialogs", self.sum(|stats| stats.dialogs))?;
        gauge("sessions", "MCP sessions", self.store.sessions as u64)?;
        gauge("inflight", "MCP exchanges in flight", self.sum(|stats| stats.engine.exchanges))?;
        gauge("backend_calls", "Calls to backends under way", self.backend_calls as u64)?;
        gauge("connections", "Stream connections", self.connections as u64)?;
        gauge("config_version", "Version of the configuration that is applied", self.config_version)?;
        gauge("rejected_resources", "Problems in the manifests", self.rejected as u64)?;
        gauge("draining", "1 while the edge drains", u64::from(self.draining))?;
        gauge("ready", "1 while traffic may be sent here", u64::from(self.ready))?;
        let (open, admits) = match self.health {
            StoreHealth::Closed => (0, 100),
            StoreHealth::Open => (1, 0),
            StoreHealth::Recovering { percent } => (0, u64::from(percent)),
        };
        gauge("store_breaker_open", "1 while the store is not asked", open)?;
        gauge("store_admits_percent", "Of a hundred new requests, how many are let in", admits)?;
        gauge("epoch", "The life of this edge in its store", self.epoch)?;
        gauge("lease_held", "1 while this edge may run timers and take over", u64::from(self.lease_held))?;
        gauge("pods", "Edges that live in the store, this one included", self.pods as u64)?;

        if let Some(control) = &self.control {
            gauge("stream_connected", "1 while an operator is connected", u64::from(control.connected))?;
            gauge("held_resources", "Objects that an operator gave", control.held as u64)?;
            gauge("refused_resources", "Those of them that are not in use", control.rejected as u64)?;
            let help = "1 while the configuration cannot be kept for a restart without an operator";
            gauge("config_not_kept", help, u64::from(!control.not_kept.is_empty()))?;
            let help = "Octets of configuration that operators sent";
            let counter = encoder.encode_descriptor("config_received_bytes", help, None, MetricType::Counter)?;
            ConstCounter::new(control.received_octets).encode(counter)?;
            let help = "1 for where the configuration is from";
            let mut family = encoder.encode_descriptor("config_source", help, None, MetricType::Gauge)?;
            ConstGauge::new(1_i64).encode(family.encode_family(&[("source", control.source)])?)?;
        }

        let mut counters = |name: &str, help: &str, label: &'static str, values: Vec<(String, u64)>| {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (value, count) in values {
                ConstCounter::new(count).encode(family.encode_family(&[(label, value)])?)?;
            }
            Ok::<(), fmt::Error>(())
        };
        counters(
            "queue_dropped",
            "What a bounded queue or a limit of the shell refused",
            "queue",
            self.refused.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
        )?;
        counters("requests", "Requests by method", "method", self.total(|s| names(&s.requests)))?;
        counters("answers", "Final answers by status", "status", self.total(|s| numbers(&s.answers)))?;
        counters("responses", "Answers to our requests by status", "status", self.total(|s| numbers(&s.responses)))?;
        counters("dropped", "Messages dropped in silence, by reason", "reason", self.total(|s| names(&s.dropped)))?;
        counters("limited", "Refusals by limit of the core", "limit", self.total(|s| names(&s.limited)))?;
        counters("sessions_ended", "Sessions by how they ended", "reason", self.total(|s| names(&s.ended)))
    }
}

impl Scrape {
    fn total(&self, values: impl Fn(&Stats) -> Vec<(String, u64)>) -> Vec<(String, u64)> {
        let mut total = BTreeMap::<String, u64>::new();
        for (name, count) in self.shards.iter().flat_map(values) {
            *total.entry(name).or_default() += count;
        }
        total.into_iter().collect()
    }
}

fn names(values: &BTreeMap<&'static str, u64>) -> Vec<(String, u64)> {
    values.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

fn numbers(values: &BTreeMap<u16, u64>) -> Vec<(String, u64)> {
    values.iter().map(|(name, count)| (name.to_string(), *count)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sip_proto::time::UnixMillis;

    fn call(agent: &str, tool: &str, outcome: Outcome) -> AuditRecord {
        AuditRecord {
            at: UnixMillis(0),
            kind: AuditKind::ToolCall,
            domain: "demo.example".into(),
            principal: "anonymous".into(),
            agent: agent.into(),
            method: Some("tools/call".into()),
            tool: Some(tool.into()),
            rule: "default/demo/everybody".into(),
            outcome,
            call_id: "a@b".into(),
            exchange: None,
            conversation: None,
            duration_us: Some(20_000),
        }
    }

    #[test]
    fn names_of_peers_never_become_labels() {
        let metrics = Metrics::default();
        metrics.names.lock().unwrap().tools.insert("sip:echo@demo.example".into(), BTreeSet::from(["echo".into()]));
        metrics.audited(&call("sip:echo@demo.example", "echo", Outcome::Ok));
        metrics.audited(&call("sip:echo@demo.example", "no-such-tool", Outcome::Denied(-32001)));
        metrics.audited(&call("sip:echo@demo.example", "listed", Outcome::Ok));
        metrics.audited(&call("sip:nobody@demo.example", "x", Outcome::Denied(404)));
        let text = metrics.text(Scrape { refused: vec![("shard", 3)], ..Scrape::default() });
        let has = |line: &str| assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        has(r#"sipmcp_edge_tool_calls_total{agent="sip:echo@demo.example",tool="echo",result="ok"} 1"#);
        has(r#"sipmcp_edge_tool_calls_total{agent="sip:echo@demo.example",tool="other",result="denied"} 1"#);
        has(r#"sipmcp_edge_tool_calls_total{agent="sip:echo@demo.example",tool="listed",result="ok"} 1"#);
        has(r#"sipmcp_edge_tool_calls_total{agent="other",tool="other",result="denied"} 1"#);
        has(r#"sipmcp_edge_policy_decisions_total{rule="default/demo/everybody",action="deny"} 2"#);
        has(r#"sipmcp_edge_queue_dropped_total{queue="shard"} 3"#);
        has("sipmcp_edge_dialogs 0");
        assert!(!text.contains("no-such-tool") && !text.contains("nobody"));
    }
}
