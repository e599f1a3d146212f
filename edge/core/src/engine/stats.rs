//! Counters, bounded by what is declared.

use std::collections::BTreeMap;

use sip_proto::time::Now;

use super::about::About;
use crate::audit::Outcome;
use crate::config::Config;

/// Counters and gauges of the engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Gauges.
    pub exchanges: usize,
    pub sessions: usize,
    pub backend_calls: usize,
    pub deliveries: usize,
    /// Writes, store operations and session ends that wait for an answer.
    pub waiting: usize,
    pub timers: usize,
    /// Counters of the limits of rules, and calls on other legs that have a place.
    pub allowances: usize,
    /// Messages dropped because they match nothing (responses, cancellations, progress).
    pub unmatched: u64,
    /// Messages dropped because a bound was reached.
    pub dropped: u64,
    /// Deliveries that no carrier took.
    pub undelivered: u64,
    /// Adopted exchanges whose request was sent again, and those that went on by their task or their stream.
    pub replays: u64,
    pub resumes: u64,
    /// Exchanges and answers that belonged to another owner meanwhile: nothing was said.
    pub fenced: u64,
    /// Requests that were answered 503, because the lease had ended when their write was answered.
    pub lapsed: u64,
    /// Exchanges that were taken over from an owner that had not heard of them, and those of which nobody said whether they are served.
    pub taken_over: u64,
    pub unresolved: u64,
    /// Requests that a quota or a limit of a rule refused, by its name.
    pub limited: BTreeMap<&'static str, u64>,
    /// By `AgentConfig::key`; only agents that the configuration has.
    pub agents: BTreeMap<String, AgentStats>,
}

/// Per agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentStats {
    /// By tool name; what the agent does not declare counts as `other`.
    pub tools: BTreeMap<String, ToolStats>,
    /// Requests other than `tools/call`.
    pub requests: u64,
    /// Backend calls that failed.
    pub backend_failures: u64,
    /// Gauges: legs with something open or a legacy session, and requests that were accepted and not answered.
    pub sessions: usize,
    pub in_flight: usize,
}

/// Per tool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ToolStats {
    pub ok: u64,
    pub tool_errors: u64,
    pub errors: u64,
    pub denied: u64,
    pub cancelled: u64,
    /// Sum over all answered calls, microseconds from arrival to answer.
    pub duration_us: u64,
}

/// What a tool is counted under that no agent declares: peer text never becomes a name of a counter.
const OTHER: &str = "other";

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub unmatched: u64,
    pub dropped: u64,
    pub undelivered: u64,
    pub replays: u64,
    pub resumes: u64,
    pub fenced: u64,
    pub lapsed: u64,
    pub taken_over: u64,
    pub unresolved: u64,
    pub limited: BTreeMap<&'static str, u64>,
    agents: BTreeMap<String, AgentStats>,
}

impl Counters {
    pub(super) fn read(&self) -> EngineStats {
        EngineStats {
            unmatched: self.unmatched,
            dropped: self.dropped,
            undelivered: self.undelivered,
            replays: self.replays,
            resumes: self.resumes,
            fenced: self.fenced,
            lapsed: self.lapsed,
            taken_over: self.taken_over,
            unresolved: self.unresolved,
            limited: self.limited.clone(),
            agents: self.agents.clone(),
            ..EngineStats::default()
        }
    }

    fn agent(&mut self, config: &Config, key: &str) -> Option<&mut AgentStats> {
        if !self.agents.contains_key(key) {
            config.agents.values().find(|agent| agent.key == key)?;
            self.agents.insert(key.to_owned(), AgentStats::default());
        }
        self.agents.get_mut(key)
    }

    pub(super) fn count(&mut self, config: &Config, now: Now, about: &About, outcome: &Outcome) {
        let Some(agent) = self.agent(config, about.agent_key()) else { return };
        if !about.is_tool_call() {
            agent.requests += 1;
            return;
        }
        let tool = about.declared_tool().unwrap_or(OTHER);
        if !agent.tools.contains_key(tool) {
            agent.tools.insert(tool.to_owned(), ToolStats::default());
        }
        let Some(tool) = agent.tools.get_mut(tool) else { return };
        match outcome {
            Outcome::Ok => tool.ok += 1,
            Outcome::ToolError => tool.tool_errors += 1,
            Outcome::Error(_) => tool.errors += 1,
            Outcome::Denied(_) => tool.denied += 1,
            Outcome::Cancelled => tool.cancelled += 1,
        }
        tool.duration_us = tool.duration_us.saturating_add(about.duration_us(now));
    }

    pub(super) fn backend_failed(&mut self, config: &Config, agent: &str) {
        if let Some(agent) = self.agent(config, agent) {
            agent.backend_failures += 1;
        }
    }

    /// Only what the configuration has, so that the counters are as bounded as it is.
    pub(super) fn configure(&mut self, config: &Config) {
        self.agents.retain(|key, stats| {
            let Some(agent) = config.agents.values().find(|agent| agent.key == *key) else { return false };
            stats
                .tools
                .retain(|name, _| name == OTHER || agent.capabilities.tools.iter().any(|tool| tool.name == *name));
            true
        });
    }
}
