//! What an edge counts. Plain values: the shell sums its shards and gives them the names of `/metrics`.

use std::collections::BTreeMap;

use sip_proto::time::Mono;

use crate::engine::EngineStats;

/// Gauges and counters of one core.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Gauges.
    pub dialogs: usize,
    pub server_transactions: usize,
    pub client_transactions: usize,
    /// Store operations without a reply yet.
    pub store_operations: usize,
    pub flows: usize,
    /// Callers out of a dialog whose way back is known.
    pub routes: usize,
    /// DNS look-ups that run.
    pub lookups: usize,
    /// Calls and requests between two legs that are not done.
    pub bridges: usize,
    pub timers: usize,
    /// Dialogs that other edges own, as far as this one served them.
    pub copies: usize,
    /// Messages to other edges that may still fail.
    pub mesh_messages: usize,
    /// Operations that wait for the store to be back.
    pub outage_journal: usize,
    /// The store is away, or was not written to again yet.
    pub degraded: bool,
    /// The lease does not hold.
    pub fenced: bool,
    pub draining: bool,
    /// Requests by method; a method that is not registered counts as `other`.
    pub requests: BTreeMap<&'static str, u64>,
    /// Final answers by status.
    pub answers: BTreeMap<u16, u64>,
    /// Responses to requests of ours, by status.
    pub responses: BTreeMap<u16, u64>,
    /// What was dropped in silence, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Refusals by the name of the limit.
    pub limited: BTreeMap<&'static str, u64>,
    /// Credentials that were wrong.
    pub failed_authentications: u64,
    /// Sessions that began, since the start.
    pub sessions: u64,
    /// Sessions by how they ended.
    pub ended: BTreeMap<&'static str, u64>,
    /// What was taken over from other edges, by kind.
    pub adopted: BTreeMap<&'static str, u64>,
    /// Answers that were given without the store (sip.md, section 11), by method.
    pub from_cache: BTreeMap<&'static str, u64>,
    /// Dialogs that were written anew into an emptied store.
    pub restored: u64,
    /// Agents whose address somebody tried to register and was refused for who he is, and when, by `AgentConfig::key`; until one registers.
    pub refused_registrations: BTreeMap<String, Mono>,
    /// Registrations accepted.
    pub registrations: u64,
    /// Store operations that failed.
    pub store_failures: u64,
    /// MCP.
    pub engine: EngineStats,
}

impl Stats {
    pub(crate) fn drop_one(&mut self, reason: &'static str) {
        *self.dropped.entry(reason).or_default() += 1;
    }

    pub(crate) fn adopted(&mut self, kind: &'static str) {
        *self.adopted.entry(kind).or_default() += 1;
    }

    pub(crate) fn limit(&mut self, name: &'static str) {
        *self.limited.entry(name).or_default() += 1;
    }
}
