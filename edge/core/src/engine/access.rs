//! Who may see and call what at an agent: its declaration ∩ what the leg negotiated ∩ policy. Default deny.

use mcp_sip::errors::RpcError;
use mcp_sip::jsonrpc::{Envelope, ListOf};
use mcp_sip::policy::{self, CallArguments, Decision, Limit, Policies, Request};

use super::exchange::Exchange;
use super::meter::is_of_quota;
use super::types::{Leg, Principal};
use crate::config::{AgentConfig, CapabilitySource, Config, DomainConfig, OnFailover, ToolEffect};

/// One caller at one agent, under the configuration of this moment.
pub(super) struct Access<'a> {
    domain: &'a DomainConfig,
    agent: &'a AgentConfig,
    leg: &'a Leg,
}

/// Why a request is refused.
#[derive(Debug)]
pub(super) struct Refusal {
    pub error: RpcError,
    pub rule: String,
    /// Policy said no; else the request was wrong.
    pub denied: bool,
}

impl Refusal {
    pub(super) fn wrong(error: RpcError) -> Refusal {
        Refusal { error, rule: "default".into(), denied: false }
    }

    pub(super) fn denied(what: &str) -> Refusal {
        Refusal { error: RpcError::denied(what), rule: "default".into(), denied: true }
    }
}

impl<'a> Access<'a> {
    /// What the configuration says now; the leg's own view may be older (SEC-16). `None`: the agent is no more.
    pub(super) fn of(config: &'a Config, leg: &'a Leg) -> Option<Access<'a>> {
        let agent = config.agents.get(&(leg.agent.domain.clone(), leg.agent.user.clone()))?;
        let domain = config.domains.get(&leg.domain.domain)?;
        Some(Access { domain, agent, leg })
    }

    pub(super) fn agent(&self) -> &'a AgentConfig {
        self.agent
    }

    pub(super) fn domain(&self) -> &'a DomainConfig {
        self.domain
    }

    /// The limits that a request counts for, where it is let through.
    pub(super) fn limits(&self, method: &str, subject: Option<&str>, arguments: &CallArguments) -> Vec<Limit<'a>> {
        self.policies().limits(&Request::method(self.principal(), method, subject, arguments.known()))
    }

    /// Whether a message is counted at all where it is let through.
    pub(super) fn is_metered(&self, method: &str, subject: Option<&str>, arguments: &CallArguments) -> bool {
        is_of_quota(self.domain, method) || !self.limits(method, subject, arguments).is_empty()
    }

    /// What a call is called with, as far as a rule asks for it.
    pub(super) fn arguments(&self, call: &Envelope) -> CallArguments {
        self.policies().arguments(call)
    }

    /// The same for a request that runs; not known where nothing is left of the request, or something else is asked in its place.
    pub(super) fn arguments_of(&self, exchange: &Exchange) -> CallArguments {
        let call = exchange.envelope.as_ref().filter(|call| call.method() == Some(&*exchange.about.method));
        call.map_or(CallArguments::Unknown, |call| self.arguments(call))
    }

    /// Judges a request or notification of the caller.
    ///
    /// # Errors
    /// How it is refused: as absent where nothing shows it, else as denied.
    pub(super) fn judge(
        &self,
        method: &str,
        subject: Option<&str>,
        arguments: &CallArguments,
    ) -> Result<String, Refusal> {
        if method == "tools/call" {
            let name = subject.unwrap_or_default();
            if !self.has_tool(name) {
                return Err(Refusal { denied: true, ..Refusal::wrong(RpcError::unknown_tool(name)) });
            }
        }
        let request = Request::method(self.principal(), method, subject, arguments.known());
        let decision = self.policies().evaluate(&request);
        let rule = rule_name(&decision);
        if decision.allowed {
            return Ok(rule);
        }
        let error = match (list_of_entry(method), subject) {
            (Some(list), Some(subject)) if !self.is_disclosed(list, subject) => match list {
                ListOf::Tools => RpcError::unknown_tool(subject),
                ListOf::Prompts => RpcError::invalid_params(format!("Unknown prompt: {}", crate::text::shown(subject))),
                ListOf::Resources | ListOf::ResourceTemplates => {
                    RpcError::invalid_params(format!("Unknown resource: {}", crate::text::shown(subject)))
                }
            },
            (_, subject) => RpcError::denied(subject.unwrap_or(method)),
        };
        Err(Refusal { error, rule, denied: true })
    }

    /// Whether an entry of a list is shown to this caller.
    pub(super) fn shows(&self, list: ListOf, entry: &str) -> bool {
        (list != ListOf::Tools || self.has_tool(entry)) && self.is_disclosed(list, entry)
    }

    /// Whether a second execution is safe: a tool by its declaration alone, another method by what the specification makes of it.
    pub(super) fn is_safe(&self, method: &str, subject: Option<&str>) -> bool {
        match method {
            "tools/call" => self.effect(subject.unwrap_or_default()) != ToolEffect::Destructive,
            _ => is_safe_again(method),
        }
    }

    /// Whether an edge may run the request a second time: it is safe, and nobody asked for an error instead.
    pub(super) fn may_replay(&self, method: &str, subject: Option<&str>) -> bool {
        self.on_failover(method, subject) == OnFailover::Replay && self.is_safe(method, subject)
    }

    /// What becomes of the request when its edge is lost.
    pub(super) fn on_failover(&self, method: &str, subject: Option<&str>) -> OnFailover {
        match method {
            "tools/call" => self.agent.on_failover.of(subject.unwrap_or_default()),
            _ => OnFailover::Replay,
        }
    }

    /// What a second execution of the tool does, by declaration only.
    fn effect(&self, tool: &str) -> ToolEffect {
        let declared = self.agent.capabilities.tools.iter().find(|declared| declared.name == tool);
        declared.map_or(ToolEffect::Destructive, |declared| declared.effect)
    }

    fn is_disclosed(&self, list: ListOf, entry: &str) -> bool {
        self.agent.capabilities.disclose_all
            || self.policies().evaluate(&Request::show(self.principal(), list, entry)).allowed
    }

    /// Whether the tool is in what the agent declares and in what the leg negotiated.
    fn has_tool(&self, name: &str) -> bool {
        let declared = match self.agent.capabilities.source {
            CapabilitySource::Discovered => true,
            CapabilitySource::Declared | CapabilitySource::Intersect => {
                self.agent.capabilities.tools.iter().any(|tool| tool.name == name)
            }
        };
        let negotiated = self.leg.mcp.as_ref().and_then(|mcp| mcp.tools.as_ref());
        declared && negotiated.is_none_or(|tools| tools.iter().any(|tool| name_of(tool) == name))
    }

    fn policies(&self) -> Policies<'a> {
        Policies { agent: &self.agent.policies, domain: &self.domain.policies }
    }

    fn principal(&self) -> policy::Principal<'a> {
        match &self.leg.principal {
            Principal::User(uri) => policy::Principal::User(uri),
            Principal::Anonymous => policy::Principal::Anonymous,
        }
    }

    /// Whether the address is visible to the caller at all.
    pub(super) fn is_visible(&self) -> bool {
        self.policies().visible(self.principal())
    }

    /// Whether a request that runs already may still run.
    pub(super) fn still_allows(&self, method: &str, subject: Option<&str>, arguments: &CallArguments) -> bool {
        let tool_is_there = method != "tools/call" || self.has_tool(subject.unwrap_or_default());
        let request = Request::method(self.principal(), method, subject, arguments.known());
        tool_is_there && self.policies().evaluate(&request).allowed
    }
}

/// Methods that read, and those that set something to the same value again. `initialize` makes a session, and of a method that nobody
/// here knows nobody can say.
fn is_safe_again(method: &str) -> bool {
    matches!(
        method,
        "ping"
            | "server/discover"
            | "tools/list"
            | "prompts/list"
            | "prompts/get"
            | "resources/list"
            | "resources/templates/list"
            | "resources/read"
            | "resources/subscribe"
            | "resources/unsubscribe"
            | "subscriptions/listen"
            | "completion/complete"
            | "logging/setLevel"
            | "tasks/get"
            | "tasks/list"
            | "tasks/result"
            | "tasks/cancel"
    )
}

/// `summarize@1` → `summarize`; a name may hold an `@` of its own where no number follows.
fn name_of(tool: &str) -> &str {
    match tool.rsplit_once('@') {
        Some((name, version)) if version.bytes().all(|b| b.is_ascii_digit() || b == b'.') => name,
        _ => tool,
    }
}

fn list_of_entry(method: &str) -> Option<ListOf> {
    match method {
        "tools/call" => Some(ListOf::Tools),
        "prompts/get" => Some(ListOf::Prompts),
        "resources/read" | "resources/subscribe" | "resources/unsubscribe" => Some(ListOf::Resources),
        _ => None,
    }
}

fn rule_name(decision: &Decision<'_>) -> String {
    match (decision.policy, decision.rule) {
        (Some(policy), Some(rule)) => format!("{policy}/{rule}"),
        _ => "default".into(),
    }
}
