//! The edges that run, as their streams and their reports show them.

use crate::key::{Key, Kind};
use crate::plan::delta::Session;
use crds::manifest::ObjectKey;
use edge_api::control::{AgentReport, DrainReport, DrainState, Registration, Report, StoreHealth, ToolList};
use std::collections::BTreeMap;

/// Tools of one agent that are remembered.
pub const MAX_TOOLS: usize = 256;
/// Entries of one report.
pub const MAX_REPORTED: usize = 1024;

/// Every SipEdge with its edges.
pub type Fleets = BTreeMap<ObjectKey, Fleet>;

/// The edges of one SipEdge.
#[derive(Debug, Default)]
pub struct Fleet {
    /// Pods that should be there.
    pub desired: u32,
    /// Pods that are there.
    pub replicas: u32,
    /// Pods that are ready.
    pub ready: u32,
    /// Label selector of the pods.
    pub selector: Option<String>,
    /// Where peers reach them.
    pub addresses: Vec<String>,
    /// Edges with a stream, by the name of the pod.
    pub edges: BTreeMap<String, Edge>,
    /// Pods that are to drain, by name. What stands here is said to the pod on each of its streams; what is taken away is taken back there.
    pub drains: BTreeMap<String, DrainOrder>,
    /// Those of them that a person ordered, with the uid of the pod: they end when that pod does, or when a person takes the order back.
    pub by_hand: BTreeMap<String, String>,
}

/// Why and how long a pod drains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainOrder {
    /// Seconds until everything must be gone, from the moment when the edge hears of it; 1 to 86400.
    pub deadline_s: u32,
    /// For logs and reports.
    pub reason: String,
}

/// One edge with a stream.
#[derive(Debug, Default)]
pub struct Edge {
    /// Which of the streams of this process feeds it.
    pub stream: u64,
    /// The life of the edge's process, as its Hello said; 0: it had taken none.
    pub epoch: u64,
    pub session: Session,
    pub agents: BTreeMap<ObjectKey, AgentState>,
    pub sessions: u32,
    pub in_flight: u32,
    pub store: Option<StoreHealth>,
    pub drain: Option<DrainReport>,
}

/// One agent as an edge last reported it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AgentState {
    pub registration: Registration,
    pub bindings: u32,
    /// Seconds since 1970-01-01T00:00:00Z.
    pub next_expiry: Option<i64>,
    pub sessions: u32,
    pub in_flight: u32,
    pub tools: Option<ToolList>,
}

impl Edge {
    /// Takes in a report. What it says about agents that the edge was not told of is left out, so memory is bounded by what it was told.
    /// True: something else than a counter changed.
    pub fn report(&mut self, report: Report) -> bool {
        let Report { agents, sessions, in_flight, store, drain } = report;
        let mut told = false;
        for agent in agents.into_iter().take(MAX_REPORTED) {
            let Some(key) = agent.agent.as_ref().and_then(Key::from_message) else { continue };
            if key.kind != Kind::McpAgent || agent.gone || self.session.verdict(&key).is_none() {
                told |= self.agents.remove(&key.object).is_some();
                continue;
            }
            told |= !self.agents.contains_key(&key.object);
            told |= self.agents.entry(key.object).or_default().take(agent);
        }
        let Edge { session, agents, .. } = self;
        let before = agents.len();
        agents.retain(|key, _| session.verdict(&Key::new(Kind::McpAgent, key.clone())).is_some());
        told |= agents.len() != before;
        self.sessions = sessions;
        self.in_flight = in_flight;
        if let Some(store) = store {
            // Its latency is a counter like the others.
            let is = |health: &StoreHealth| StoreHealth { latency_us: 0, ..health.clone() };
            told |= self.store.as_ref().map(is) != Some(is(&store));
            self.store = Some(store);
        }
        if let Some(drain) = drain {
            told |= self.drain.as_ref().map(DrainReport::state) != Some(drain.state());
            self.drain = Some(drain);
        }
        told
    }

    /// True from the settling on.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        let state = self.drain.as_ref().map(DrainReport::state);
        matches!(state, Some(DrainState::Settling | DrainState::Draining | DrainState::Drained))
    }

    /// True where nothing is left on it.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.drain.as_ref().is_some_and(|drain| drain.state() == DrainState::Drained)
    }
}

impl AgentState {
    fn take(&mut self, report: AgentReport) -> bool {
        let mut told = self.registration != report.registration() || (self.bindings == 0) != (report.bindings == 0);
        self.registration = report.registration();
        self.bindings = report.bindings;
        self.next_expiry = report.next_expiry;
        self.sessions = report.sessions;
        self.in_flight = report.in_flight;
        if let Some(mut tools) = report.tools {
            tools.tools.truncate(MAX_TOOLS);
            told |= self.tools.as_ref() != Some(&tools);
            self.tools = Some(tools);
        }
        told
    }
}
