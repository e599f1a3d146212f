//! What a replica has to tell of its edges: the difference between what they are and what was told.

use super::contract::{EdgeState, Fact, Left, Word};
use super::{MAX_BYTES, MAX_ENTRIES, pod};
use crate::identity::Identity;
use crate::key::{Key, Kind};
use crate::plan::delta::{self, Outcome, Progress, Verdict};
use crate::plan::fleet::{AgentState, Attachment, Edge, Fleets, MAX_REPORTED};
use crds::manifest::ObjectKey;
use edge_api::control::{self, AgentReport, Report};
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};

/// What was told on one stream to the holder, by edge. Bounded by the edges that are attached here, and by what each has.
#[derive(Debug, Default)]
pub struct Telling {
    edges: BTreeMap<Identity, Told>,
}

#[derive(Debug)]
struct Told {
    number: u64,
    revision: u64,
    facts: BTreeMap<Key, delta::Fact>,
    agents: BTreeMap<ObjectKey, AgentState>,
}

impl Telling {
    /// The edges of this replica of which there is something to tell.
    #[must_use]
    pub fn changed(&self, fleets: &Fleets) -> Vec<Identity> {
        let news = |(edge, number, known): (Identity, u64, &Edge)| {
            let told =
                self.edges.get(&edge).is_some_and(|told| (told.number, told.revision) == (number, known.revision));
            (!told).then_some(edge)
        };
        here(fleets).filter_map(news).collect()
    }

    /// Streams that were told of and are over. One whose edge has another stream here is over when that one is told of.
    pub fn left(&mut self, fleets: &Fleets) -> Vec<Left> {
        let there: BTreeSet<Identity> = here(fleets).map(|(edge, ..)| edge).collect();
        let over: Vec<Identity> = self.edges.keys().filter(|edge| !there.contains(edge)).cloned().collect();
        let left = |edge: Identity| {
            let told = self.edges.remove(&edge)?;
            Some(Left { pod: Some(pod(&edge)), number: told.number })
        };
        over.into_iter().filter_map(left).collect()
    }

    /// The messages about one edge, in their order. From now on it counts as told.
    pub fn edge(&mut self, fleets: &Fleets, identity: &Identity, now_ms: i64) -> Vec<EdgeState> {
        let fleet = fleets.get(&identity.edge);
        let mut streams = fleet.into_iter().flat_map(|fleet| fleet.streams()).filter(|(pod, _)| **pod == identity.pod);
        let known = streams.find_map(|(_, edge)| Some((number(edge)?, edge)));
        let Some((number, edge)) = known else { return Vec::new() };
        let before = self.edges.remove(identity).filter(|told| told.number == number);
        let whole = before.is_none();
        let mut told =
            before.unwrap_or_else(|| Told { number, revision: 0, facts: BTreeMap::new(), agents: BTreeMap::new() });
        told.revision = edge.revision;
        let Progress { initial_done, settled } = edge.session.progress();
        let base = EdgeState {
            pod: Some(pod(identity)),
            number,
            epoch: edge.epoch,
            attached_ms: u64::try_from(now_ms.saturating_sub(edge.since_ms)).unwrap_or(0),
            initial_done,
            settled,
            ..EdgeState::default()
        };
        let mut chunks = Chunks { base, whole, done: Vec::new(), facts: Vec::new(), agents: Vec::new(), bytes: 0 };
        told.facts(edge, &mut chunks);
        told.agents(edge, &mut chunks);
        self.edges.insert(identity.clone(), told);
        chunks.end(edge)
    }
}

/// The streams of this replica.
fn here(fleets: &Fleets) -> impl Iterator<Item = (Identity, u64, &Edge)> {
    fleets.iter().flat_map(|(name, fleet)| {
        fleet.streams().filter_map(move |(pod, edge)| {
            Some((Identity { edge: name.clone(), pod: pod.clone() }, number(edge)?, edge))
        })
    })
}

fn number(edge: &Edge) -> Option<u64> {
    match edge.attachment {
        Attachment::Here { number } => Some(number),
        Attachment::There { .. } => None,
    }
}

impl Told {
    fn facts(&mut self, edge: &Edge, chunks: &mut Chunks) {
        // Both are in the order of their keys.
        let mut there = edge.session.facts().map(|(key, ..)| key).peekable();
        let is_gone = |key: &&Key| {
            while there.next_if(|next| next < key).is_some() {}
            there.peek() != Some(key)
        };
        let gone: Vec<Key> = self.facts.keys().filter(is_gone).cloned().collect();
        for key in gone {
            self.facts.remove(&key);
            chunks.fact(Fact { key: Some(key.to_message()), ..Fact::default() });
        }
        for (key, held, verdict) in edge.session.facts() {
            let same = |told: &delta::Fact| told.held == *held && told.verdict.as_ref() == verdict;
            if self.facts.get(key).is_some_and(same) {
                continue;
            }
            self.facts.insert(key.clone(), delta::Fact { held: held.clone(), verdict: verdict.cloned() });
            chunks.fact(Fact { key: Some(key.to_message()), held: held.to_string(), word: verdict.map(word) });
        }
    }

    fn agents(&mut self, edge: &Edge, chunks: &mut Chunks) {
        let gone: Vec<ObjectKey> = self.agents.keys().filter(|key| !edge.agents.contains_key(key)).cloned().collect();
        for key in gone {
            self.agents.remove(&key);
            chunks.agent(AgentReport { gone: true, ..AgentReport::default() }, key);
        }
        for (key, agent) in &edge.agents {
            let before = self.agents.get(key);
            if before == Some(agent) {
                continue;
            }
            let tools_told = before.is_some_and(|before| before.tools == agent.tools);
            let report = AgentReport {
                bindings: agent.bindings,
                next_expiry: agent.next_expiry,
                sessions: agent.sessions,
                in_flight: agent.in_flight,
                registration: agent.registration.into(),
                tools: agent.tools.clone().filter(|_| !tools_told),
                ..AgentReport::default()
            };
            self.agents.insert(key.clone(), agent.clone());
            chunks.agent(report, key.clone());
        }
    }
}

fn word(verdict: &Verdict) -> Word {
    let outcome = match verdict.outcome {
        Outcome::Applied => control::Outcome::Applied,
        Outcome::Warned => control::Outcome::AppliedWithWarning,
        Outcome::Rejected => control::Outcome::Rejected,
    };
    Word {
        version: verdict.version.to_string(),
        outcome: outcome.into(),
        field_path: verdict.field.clone(),
        message: verdict.message.clone(),
    }
}

/// Messages that are no larger than they may be.
struct Chunks {
    base: EdgeState,
    /// The next one is the first of a stream.
    whole: bool,
    done: Vec<EdgeState>,
    facts: Vec<Fact>,
    agents: Vec<AgentReport>,
    bytes: usize,
}

impl Chunks {
    fn fact(&mut self, fact: Fact) {
        self.room(fact.encoded_len());
        self.facts.push(fact);
    }

    fn agent(&mut self, report: AgentReport, key: ObjectKey) {
        let report = AgentReport { agent: Some(Key::new(Kind::McpAgent, key).to_message()), ..report };
        self.room(report.encoded_len());
        self.agents.push(report);
    }

    fn room(&mut self, bytes: usize) {
        let full = self.bytes > 0 && self.bytes + bytes > MAX_BYTES;
        if full || self.facts.len() >= MAX_ENTRIES || self.agents.len() >= MAX_REPORTED {
            let agents = std::mem::take(&mut self.agents);
            let message = self.message(Report { agents, ..Report::default() });
            self.done.push(EdgeState { more: true, ..message });
            self.bytes = 0;
        }
        self.bytes += bytes;
    }

    fn message(&mut self, report: Report) -> EdgeState {
        let whole = std::mem::replace(&mut self.whole, false);
        EdgeState { whole, facts: std::mem::take(&mut self.facts), report: Some(report), ..self.base.clone() }
    }

    fn end(mut self, edge: &Edge) -> Vec<EdgeState> {
        let Edge { sessions, in_flight, store, drain, .. } = edge;
        let agents = std::mem::take(&mut self.agents);
        let report = Report { agents, sessions: *sessions, in_flight: *in_flight, store: store.clone(), drain: *drain };
        let last = self.message(report);
        self.done.push(last);
        self.done
    }
}
