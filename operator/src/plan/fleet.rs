//! The edges that run, as their streams and their reports show them, wherever in the operator they are attached.

use crate::identity::Identity;
use crate::key::{Key, Kind};
use crate::plan::delta::{MAX_HELD, Session};
use crds::manifest::ObjectKey;
use edge_api::control::{AgentReport, DrainReport, DrainState, Registration, Report, StoreHealth, ToolList};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

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
    /// Edges with a stream, by the name of the pod: of each the latest that is known.
    pub edges: BTreeMap<String, Edge>,
    /// Further streams of the same edges, at other replicas: an edge that went over without a word has its former one for a while.
    /// [`Fleet::attach`] and [`Fleet::detach`] say which of them counts.
    pub others: BTreeMap<String, Vec<Edge>>,
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

/// One stream of an edge, among all streams of all replicas.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Attachment {
    /// A stream of this process.
    Here { number: u64 },
    /// Of another replica, under its number there, as one of its mirrors tells.
    There { replica: Arc<str>, mirror: u64, number: u64 },
}

impl Default for Attachment {
    fn default() -> Self {
        Attachment::Here { number: 0 }
    }
}

impl Attachment {
    /// Of which replica it is, where it is of another one.
    #[must_use]
    pub fn replica(&self) -> Option<&Arc<str>> {
        match self {
            Attachment::Here { .. } => None,
            Attachment::There { replica, .. } => Some(replica),
        }
    }
}

/// One edge with a stream.
#[derive(Debug, Default)]
pub struct Edge {
    pub attachment: Attachment,
    /// Since when, in milliseconds of this process's clock; before its beginning where another replica is older.
    pub since_ms: i64,
    /// Changes with what is known of it, for whoever tells it to others.
    pub revision: u64,
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

impl Fleet {
    /// An edge attached, here or elsewhere. What the same replica had of it before is over.
    pub fn attach(&mut self, pod: &str, edge: Edge) {
        let mut all = self.take(pod);
        all.retain(|known| known.attachment.replica() != edge.attachment.replica());
        all.push(edge);
        self.put(pod, all);
    }

    /// Streams ended. True: there were some.
    pub fn detach(&mut self, ended: impl Fn(&str, &Attachment) -> bool) -> bool {
        let known = |(pod, edge): (&String, &Edge)| ended(pod, &edge.attachment).then(|| pod.clone());
        let others = self.others.iter().flat_map(|(pod, edges)| edges.iter().map(move |edge| (pod, edge)));
        let pods: BTreeSet<String> = self.edges.iter().chain(others).filter_map(known).collect();
        for pod in &pods {
            let mut all = self.take(pod);
            all.retain(|edge| !ended(pod, &edge.attachment));
            self.put(pod, all);
        }
        !pods.is_empty()
    }

    /// What is known by one stream, whether it is the latest of its edge or not.
    pub fn attached(&mut self, pod: &str, attachment: &Attachment) -> Option<&mut Edge> {
        let is = |edge: &&mut Edge| edge.attachment == *attachment;
        let other = self.others.get_mut(pod).and_then(|edges| edges.iter_mut().find(is));
        other.or_else(|| self.edges.get_mut(pod).filter(is))
    }

    /// Every stream, of one edge more than one where that is so.
    pub fn streams(&self) -> impl Iterator<Item = (&String, &Edge)> {
        let others = self.others.iter().flat_map(|(pod, edges)| edges.iter().map(move |edge| (pod, edge)));
        self.edges.iter().chain(others)
    }

    /// The same, to be changed.
    pub fn streams_mut(&mut self) -> impl Iterator<Item = &mut Edge> {
        self.edges.values_mut().chain(self.others.values_mut().flatten())
    }

    fn take(&mut self, pod: &str) -> Vec<Edge> {
        let mut all = self.others.remove(pod).unwrap_or_default();
        all.extend(self.edges.remove(pod));
        all
    }

    fn put(&mut self, pod: &str, mut all: Vec<Edge>) {
        let Some(latest) = latest(&all) else { return };
        self.edges.insert(pod.to_owned(), all.swap_remove(latest));
        if !all.is_empty() {
            self.others.insert(pod.to_owned(), all);
        }
    }
}

/// Which stream of one edge is of its process as it lives now: none of an earlier epoch, and of those left the one that began last. A process
/// without an epoch is a new one.
fn latest(all: &[Edge]) -> Option<usize> {
    let epoch = all.iter().map(|edge| edge.epoch).max()?;
    let lives = all.iter().enumerate().filter(|(_, edge)| edge.epoch == 0 || edge.epoch == epoch);
    lives.max_by_key(|(_, edge)| (edge.since_ms, &edge.attachment)).map(|(at, _)| at)
}

/// Edges that are ready and that nobody knows. Where the pods were not listed yet it is not known of how many.
#[must_use]
pub fn unknown(fleets: &Fleets) -> u32 {
    let missing = |fleet: &Fleet| fleet.ready.saturating_sub(u32::try_from(fleet.edges.len()).unwrap_or(u32::MAX));
    fleets.values().map(missing).fold(0, u32::saturating_add)
}

/// Where an edge is attached.
#[must_use]
pub fn whereabouts(fleets: &Fleets, edge: &Identity) -> Option<Attachment> {
    Some(fleets.get(&edge.edge)?.edges.get(&edge.pod)?.attachment.clone())
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
        told | self.stands(sessions, in_flight, store, drain)
    }

    /// Takes in a report that another replica had taken in, as it stands there. True: something else than a counter changed.
    pub fn mirror(&mut self, report: Report) -> bool {
        let Report { agents, sessions, in_flight, store, drain } = report;
        let mut told = false;
        for agent in agents {
            let Some(key) = agent.agent.as_ref().and_then(Key::from_message) else { continue };
            if key.kind != Kind::McpAgent || agent.gone {
                told |= self.agents.remove(&key.object).is_some();
            } else if self.agents.len() < MAX_HELD || self.agents.contains_key(&key.object) {
                told |= !self.agents.contains_key(&key.object);
                told |= self.agents.entry(key.object).or_default().take(agent);
            }
        }
        told | self.stands(sessions, in_flight, store, drain)
    }

    fn stands(
        &mut self,
        sessions: u32,
        in_flight: u32,
        store: Option<StoreHealth>,
        drain: Option<DrainReport>,
    ) -> bool {
        let mut told = false;
        self.revision = self.revision.wrapping_add(1);
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn there(replica: &str, number: u64) -> Attachment {
        Attachment::There { replica: replica.into(), mirror: 1, number }
    }

    fn edge(attachment: Attachment, epoch: u64, since_ms: i64) -> Edge {
        Edge { attachment, epoch, since_ms, ..Edge::default() }
    }

    #[test]
    fn the_later_stream_of_an_edge_counts_and_the_former_one_comes_back_when_it_ends() {
        let mut fleet = Fleet::default();
        let here = Attachment::Here { number: 1 };
        fleet.attach("e-0", edge(here.clone(), 0, 10));
        fleet.attach("e-0", edge(there("b", 1), 0, 20));
        assert_eq!(fleet.edges["e-0"].attachment, there("b", 1));
        assert_eq!(fleet.edges.len(), 1);
        assert!(fleet.attached("e-0", &here).is_some(), "its replica goes on with it until it ends");
        // An earlier life counts for nothing, whenever it is told of.
        fleet.attach("e-0", edge(there("c", 1), 4, 30));
        fleet.attach("e-0", edge(there("d", 1), 3, 40));
        assert_eq!(fleet.edges["e-0"].attachment, there("c", 1));
        assert!(fleet.detach(|_, of| *of == there("c", 1)));
        assert_eq!(fleet.edges["e-0"].attachment, there("d", 1));
        // A new process of the edge has no epoch yet.
        fleet.attach("e-0", edge(Attachment::Here { number: 2 }, 0, 50));
        assert_eq!(fleet.edges["e-0"].attachment, Attachment::Here { number: 2 });
        assert!(fleet.attached("e-0", &here).is_none(), "one stream of each replica");
        assert!(fleet.detach(|_, _| true));
        assert!(fleet.edges.is_empty() && fleet.others.is_empty());
        assert!(!fleet.detach(|_, _| true));
    }

    #[test]
    fn n7_who_is_ready_and_not_attached_is_unknown() {
        let mut fleet = Fleet { ready: 2, ..Fleet::default() };
        fleet.attach("e-0", edge(there("b", 1), 0, 0));
        fleet.attach("e-0", edge(there("c", 1), 0, 1));
        let fleets: Fleets = [(ObjectKey::new("system", "e"), fleet)].into();
        assert_eq!(unknown(&fleets), 1, "two streams are one edge");
    }

    proptest! {
        /// Whatever order they are told in: the same one counts.
        #[test]
        fn the_order_of_telling_does_not_matter(
            edges in proptest::collection::vec((0_u64..4, 0_i64..6), 1..6),
            seed in any::<u64>(),
        ) {
            let all: Vec<_> = (0..).zip(&edges).map(|(at, (epoch, since))| (there(&format!("r{at}"), at), *epoch, *since)).collect();
            let mut shuffled = all.clone();
            let length = shuffled.len();
            for at in 0..length {
                let with = usize::try_from(seed.rotate_left(u32::try_from(at * 7).unwrap()) % length as u64).unwrap();
                shuffled.swap(at, with);
            }
            let counts = |edges: Vec<(Attachment, u64, i64)>| {
                let mut fleet = Fleet::default();
                for (attachment, epoch, since) in edges {
                    fleet.attach("e-0", edge(attachment, epoch, since));
                }
                fleet.edges["e-0"].attachment.clone()
            };
            prop_assert_eq!(counts(all), counts(shuffled));
        }
    }
}
