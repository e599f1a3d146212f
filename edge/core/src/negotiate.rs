//! What an address offers to one caller: its declaration, reduced to what policy shows (NEG-1, NEG-3, NEG-7, SEC-6, SEC-11).

use mcp_sip::feature_caps::{CapStyle, FeatureTags};
use mcp_sip::headers::{Capabilities, MAX_BYTES, ToolRef};
use mcp_sip::jsonrpc::ListOf;
use mcp_sip::option_tag::OptionTags;
use mcp_sip::policy::Request as Question;
use sip_proto::message::HeaderId;

use crate::answer::Answer;
use crate::config::{AgentBackend, AgentConfig, CapabilitySource, DomainConfig};
use crate::engine::Principal;
use crate::gate::{policies, policy_principal};
use crate::state::EdgeState;

/// The option tags that a domain accepts. Its own were checked when the configuration was read.
pub(crate) fn option_tags(domain: &DomainConfig) -> OptionTags {
    OptionTags::new(domain.option_tags.iter().map(String::as_str)).unwrap_or_default()
}

/// `Supported`: every MCP tag of the domain (NEG-1), and session timers.
pub(crate) fn supported(domain: &DomainConfig) -> String {
    let tags = option_tags(domain);
    tags.supported().chain(["timer"]).collect::<Vec<_>>().join(", ")
}

/// The MCP versions that the agent's backend speaks, in order of preference.
pub(crate) fn versions(agent: &AgentConfig) -> Vec<&str> {
    match &agent.backend {
        AgentBackend::McpHttp { revisions } => revisions.iter().map(String::as_str).collect(),
        AgentBackend::SipContact { .. } => Vec::new(),
    }
}

/// Whether this caller is shown a tool of that name.
pub(crate) fn shows(agent: &AgentConfig, domain: &DomainConfig, principal: &Principal, tool: &str) -> bool {
    policies(agent, domain).evaluate(&Question::show(policy_principal(principal), ListOf::Tools, tool)).allowed
}

/// The declared tools that this caller is shown; `None` where the backend says which there are (`source: Discovered`).
pub(crate) fn declared(agent: &AgentConfig, domain: &DomainConfig, principal: &Principal) -> Option<Vec<ToolRef>> {
    if agent.capabilities.source == CapabilitySource::Discovered {
        return None;
    }
    let tools = agent.capabilities.tools.iter();
    let shown = tools.filter(|t| agent.capabilities.disclose_all || shows(agent, domain, principal, &t.name));
    Some(shown.map(|t| ToolRef::versioned(t.name.clone(), t.version)).collect())
}

/// `MCP-Capabilities` for one caller, within the limit of the field: what does not fit is left out, because the field only hints.
pub(crate) fn capabilities(agent: &AgentConfig, mut tools: Vec<ToolRef>) -> String {
    let versions = versions(agent);
    loop {
        let value = Capabilities::of(tools.clone(), agent.capabilities.schemas.clone(), &versions).to_string();
        if value.len() <= MAX_BYTES || tools.is_empty() {
            return value;
        }
        tools.truncate(tools.len() / 2);
    }
}

impl EdgeState {
    /// The header fields of a 200 that say what MCP there is: Supported, Recv-Info, Feature-Caps, MCP-Capabilities.
    pub(crate) fn capability_headers(
        &self,
        answer: Answer,
        principal: &Principal,
        domain: &DomainConfig,
        agent: &AgentConfig,
    ) -> Answer {
        let tools = declared(agent, domain, principal).unwrap_or_default();
        answer
            .header(HeaderId::Supported, supported(domain))
            .header(HeaderId::RecvInfo, "mcp")
            .header(HeaderId::FeatureCaps, feature_caps(agent))
            .header(HeaderId::McpCapabilities, capabilities(agent, tools))
    }
}

/// The edge's own abilities (RFC 6809, D1); the tools stay out of it, because it is the same for every caller.
pub(crate) fn feature_caps(agent: &AgentConfig) -> String {
    let mut tags = FeatureTags { mcp: true, ..FeatureTags::default() };
    tags.versions.push(mcp_sip::BINDING_VERSION.to_owned());
    tags.versions.extend(versions(agent).into_iter().map(str::to_owned));
    format!("*{}", tags.to_parameters(CapStyle::Draft))
}
