//! Status of an McpAgent.

use super::{Said, Scene, changed, counts, judged, programmed, ready, with_field, written};
use crate::key::{Key, Kind};
use crate::plan::fleet::{AgentState, Fleets, MAX_TOOLS};
use crds::manifest::ObjectKey;
use crds::v1alpha1::{
    BackendKind, CapabilitySource, ConditionType, EffectiveCapabilities, McpAgent, McpAgentStatus, Reason,
    RegistrationStatus, SessionCounts,
};
use edge_api::control::{Registration, ToolReport};
use k8s_openapi::jiff::Timestamp;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Tools by name.
pub(super) type Tools<'a> = BTreeMap<&'a str, &'a ToolReport>;

/// `None`: the agent is not there, or its status stands.
#[must_use]
pub fn agent(scene: &Scene<'_>, key: &ObjectKey) -> Option<McpAgentStatus> {
    let entry = scene.index.agent(key)?;
    let before = entry.object.status.as_ref();
    let reference = Key::new(Kind::McpAgent, key.clone());
    let [accepted, resolved] = judged(scene.index, &reference, &entry.findings, Reason::InvalidSpec);
    let (programmed, edges) = programmed(scene, &reference, entry.generation);
    let reports: Vec<&AgentState> =
        scene.fleets.values().flat_map(|fleet| fleet.edges.values()).filter_map(|edge| edge.agents.get(key)).collect();
    let registered = registered(&reports);
    let tools = tools(reports.iter().copied());
    let verified = verified(&entry.object, tools.as_ref());
    // One edge is enough; what the others lack stays in Programmed.
    let somewhere = (edges.programmed == 0).then_some(&programmed);
    let ready = ready([&accepted, &resolved].into_iter().chain(somewhere).chain([&registered]));
    let domain = &entry.object.spec.address.domain_ref.name;
    let uri = scene.index.domain(domain).map(|domain| {
        format!("sip:{}@{}", entry.object.spec.address.user, domain.object.spec.domain.to_ascii_lowercase())
    });
    let sum = |count: fn(&AgentState) -> u32| reports.iter().map(|report| count(report)).fold(0, u32::saturating_add);
    let sessions = SessionCounts { active: sum(|report| report.sessions), in_flight: sum(|report| report.in_flight) };
    let status = McpAgentStatus {
        observed_generation: Some(entry.generation),
        uri,
        backend: backend(&entry.object),
        conditions: written(
            vec![accepted, resolved, programmed, registered, verified, ready],
            before.map_or(&[], |before| &before.conditions),
            entry.generation,
            scene.now,
        ),
        edges: Some(edges),
        capabilities: tools.map(|tools| effective(&entry.object, &tools)),
        registration: registration(&reports),
        sessions: (!reports.is_empty())
            .then(|| counts(before.and_then(|before| before.sessions.as_ref()), sessions, scene.counters_due)),
    };
    changed(before, status)
}

fn registered(reports: &[&AgentState]) -> Said {
    let any = |wanted| reports.iter().any(|report| report.registration == wanted);
    let type_ = ConditionType::Registered;
    if any(Registration::Registered) {
        Said::yes(type_)
    } else if any(Registration::AuthFailed) {
        Said::no(type_, Reason::AuthFailed, "the last one who tried to register was refused")
    } else if any(Registration::Expired) {
        Said::no(type_, Reason::Expired, "the registration ended and was not refreshed")
    } else if reports.is_empty() {
        Said::no(type_, Reason::NoEdge, "no edge has reported it")
    } else {
        Said::no(type_, Reason::NoEdge, "no edge answers for the address yet")
    }
}

/// What edges say of the tools of an agent, by name. `None`: nobody has listed them.
pub(super) fn tools_of<'a>(fleets: &'a Fleets, key: &ObjectKey) -> Option<Tools<'a>> {
    tools(fleets.values().flat_map(|fleet| fleet.edges.values()).filter_map(|edge| edge.agents.get(key)))
}

/// The tools by name; an edge that quarantines one speaks for all. `None`: nobody has listed them.
fn tools<'a>(reports: impl Iterator<Item = &'a AgentState>) -> Option<Tools<'a>> {
    let mut tools = BTreeMap::new();
    let mut listed = false;
    for list in reports.filter_map(|report| report.tools.as_ref()) {
        listed = true;
        for tool in &list.tools {
            let there = tools.entry(&*tool.name).or_insert(tool);
            if there.quarantined.is_empty() {
                *there = tool;
            }
        }
    }
    listed.then_some(tools)
}

fn verified(agent: &McpAgent, tools: Option<&Tools<'_>>) -> Said {
    let type_ = ConditionType::ToolsVerified;
    let Some(tools) = tools else {
        let message = match agent.spec.backend.sip_contact {
            Some(_) => "its tools are those that it registers; only those of an MCP server are listed",
            None => "no edge has listed the tools yet",
        };
        return Said::unknown(type_, Reason::NotDiscovered, message);
    };
    let mut quarantined = tools.values().filter(|tool| !tool.quarantined.is_empty());
    match quarantined.next() {
        None => drifted(agent, tools).map_or_else(|| Said::yes(type_), |why| Said::no(type_, Reason::ToolDrift, why)),
        Some(tool) => {
            let more = quarantined.count();
            let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
            Said::no(type_, Reason::ToolQuarantined, format!("{}: {}{more}", tool.name, tool.quarantined))
        }
    }
}

/// Declared tools that the backend does not have. Where only what is discovered counts, a declaration promises nothing; a list as long as one may
/// be has perhaps more.
fn drifted(agent: &McpAgent, tools: &Tools<'_>) -> Option<String> {
    let capabilities = &agent.spec.capabilities;
    if capabilities.source == CapabilitySource::Discovered || tools.len() >= MAX_TOOLS {
        return None;
    }
    let declared = capabilities.tools.iter().enumerate();
    let mut missing = declared.filter(|(_, tool)| !tools.contains_key(&*tool.name));
    let (index, tool) = missing.next()?;
    let message = format!("the backend has no tool {:?}; remove it here or add it there", tool.name);
    Some(with_field(&format!("spec.capabilities.tools[{index}].name"), &message, 1 + missing.count()))
}

fn effective(agent: &McpAgent, tools: &Tools<'_>) -> EffectiveCapabilities {
    let capabilities = &agent.spec.capabilities;
    let mut offered: Tools<'_> =
        tools.iter().filter(|(_, tool)| tool.quarantined.is_empty()).map(|(name, tool)| (*name, *tool)).collect();
    let declared = |name: &str| capabilities.tools.iter().any(|tool| tool.name == name);
    let unlisted: Vec<ToolReport>;
    match capabilities.source {
        CapabilitySource::Discovered => {}
        CapabilitySource::Intersect => offered.retain(|name, _| declared(name)),
        CapabilitySource::Declared => {
            offered.retain(|name, _| declared(name));
            let unlisted_names = capabilities.tools.iter().filter(|tool| !tools.contains_key(&*tool.name));
            let named = |tool: &crds::v1alpha1::Tool| ToolReport { name: tool.name.clone(), ..ToolReport::default() };
            unlisted = unlisted_names.map(named).collect();
            offered.extend(unlisted.iter().map(|tool| (&*tool.name, tool)));
        }
    }
    let mut hash = Sha256::new();
    let mut count = 0;
    for tool in offered.values() {
        count += 1;
        for part in [tool.name.as_bytes(), &tool.input_schema] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
    }
    let digits = hash.finalize().iter().fold(String::new(), |mut text, octet| {
        let _ = write!(text, "{octet:02x}");
        text
    });
    EffectiveCapabilities { effective: count, hash: Some(format!("sha256:{digits}")) }
}

/// All edges see the bindings of one store, so the most that one of them saw is how many there are.
fn registration(reports: &[&AgentState]) -> Option<RegistrationStatus> {
    let bindings = reports.iter().map(|report| report.bindings).max()?;
    let next = reports.iter().filter_map(|report| report.next_expiry).min();
    let next_expiry = next.and_then(|seconds| Timestamp::from_second(seconds).ok()).map(|time| time.to_string());
    Some(RegistrationStatus { bindings, next_expiry })
}

fn backend(agent: &McpAgent) -> Option<String> {
    match agent.spec.backend.kind()? {
        BackendKind::SipContact(_) => Some("sipContact".to_owned()),
        BackendKind::McpHttp(http) => {
            let service = http.service_ref.as_ref().map(|service| format!("{}:{}", service.name, service.port));
            service.or_else(|| http.url.clone())
        }
    }
}
