//! `McpAgent` → `AgentConfig` and the client of its backend.

use std::collections::BTreeMap;
use std::sync::Arc;

use crds::manifest::{ObjectKey, Problem, Snapshot};
use crds::v1alpha1::{
    self, BackendKind, ContactAuthentication, Disclosure, EdgeLimits, InFlight, McpAgent, McpHttp,
    RegistrationProfile as Profile, SipEdge, TargetKind,
};
use crds::validate::references::{CA_KEY, TOKEN_KEY};
use edge_core::config::{
    AgentBackend, AgentConfig, Capabilities, CapabilitySource, DeclaredTool, Failovers, OnFailover,
    RegistrationProfile, SessionLimits, ToolEffect,
};

use super::{Domains, domains};
use crate::backend::{BackendConfig, Bearer};

/// All agents of domains that stand, and the backends of those that have one.
pub fn build(
    objects: &Snapshot,
    edge_key: &ObjectKey,
    edge: &SipEdge,
    domains: &Domains,
    problems: &mut Vec<Problem>,
) -> (Vec<Arc<AgentConfig>>, BTreeMap<String, BackendConfig>) {
    let mut agents = Vec::new();
    let mut backends = BTreeMap::new();
    for (key, object) in &objects.agents {
        let spec = &object.spec;
        // The reader told about an agent without a domain; one that was kept may have lost its domain meanwhile.
        let Some(domain) = domains.get(&spec.address.domain_ref.name) else { continue };
        if !objects.serves(edge_key, edge, key, object) {
            continue;
        }
        let backend = match spec.backend.kind() {
            Some(BackendKind::McpHttp(http)) => {
                backends.insert(key.to_string(), self::backend(objects, key, http, &edge.spec.limits));
                let revisions = http.revisions.iter().map(|revision| revision.as_str().to_owned()).collect();
                AgentBackend::McpHttp { revisions }
            }
            Some(BackendKind::SipContact(contact)) => AgentBackend::SipContact {
                by_certificate: contact.authentication == ContactAuthentication::ClientCertificate,
            },
            None => {
                problems.push(object.origin.problem("spec.backend", "give exactly one of mcpHttp and sipContact"));
                continue;
            }
        };
        agents.push(Arc::new(AgentConfig {
            key: key.to_string(),
            user: spec.address.user.clone(),
            domain: domain.domain.clone(),
            backend,
            capabilities: capabilities(&spec.capabilities),
            registration: registration(object),
            policies: domains::policies(objects, TargetKind::McpAgent, key, problems),
            timeout_ms: u64::from(spec.in_flight.timeout_seconds) * 1000,
            on_failover: failovers(&spec.in_flight),
            session: session(&spec.session),
        }));
    }
    (agents, backends)
}

fn session(written: &v1alpha1::SessionLimits) -> SessionLimits {
    let ms = |length: &Option<v1alpha1::Duration>| Some(length.as_ref()?.seconds()?.saturating_mul(1000));
    SessionLimits {
        max_concurrent: written.max_concurrent.map(|max| max as usize),
        idle_timeout_ms: ms(&written.idle_timeout),
        max_duration_ms: ms(&written.max_duration),
    }
}

fn failovers(written: &InFlight) -> Failovers {
    let tools = written.tools.iter().map(|tool| (tool.name.clone(), on_failover(tool.on_failover)));
    Failovers { default: on_failover(written.default), tools: tools.collect() }
}

fn on_failover(written: v1alpha1::OnFailover) -> OnFailover {
    match written {
        v1alpha1::OnFailover::Replay => OnFailover::Replay,
        v1alpha1::OnFailover::TaskOnly => OnFailover::TaskOnly,
        v1alpha1::OnFailover::FailRetryable => OnFailover::FailRetryable,
    }
}

fn backend(objects: &Snapshot, key: &ObjectKey, http: &McpHttp, limits: &EdgeLimits) -> BackendConfig {
    let near = |name: &str| ObjectKey::new(&key.namespace, name);
    let mut config = BackendConfig::new(http.url_in(&key.namespace).unwrap_or_default());
    if let Some(tls) = &http.tls {
        let bundle = objects.config_maps.get(&near(&tls.ca_bundle_ref.name)).and_then(|map| map.data.get(CA_KEY));
        // An empty bundle is refused by the client; it never becomes "the system's authorities".
        config.ca_bundle = Some(bundle.map(|pem| pem.clone().into_bytes()).unwrap_or_default());
    }
    if let Some(reference) = &http.credential_ref {
        let token = objects.secrets.get(&near(&reference.name)).and_then(|secret| secret.get(TOKEN_KEY));
        // Likewise an empty credential.
        config.bearer = Some(Bearer::new(std::str::from_utf8(token.unwrap_or_default()).unwrap_or_default()));
    }
    config.limits.message_bytes = limits.message_bytes as usize;
    config
}

fn capabilities(written: &v1alpha1::Capabilities) -> Capabilities {
    Capabilities {
        source: match written.source {
            v1alpha1::CapabilitySource::Declared => CapabilitySource::Declared,
            v1alpha1::CapabilitySource::Discovered => CapabilitySource::Discovered,
            v1alpha1::CapabilitySource::Intersect => CapabilitySource::Intersect,
        },
        tools: written
            .tools
            .iter()
            .map(|tool| DeclaredTool {
                name: tool.name.clone(),
                version: tool.version,
                effect: match tool.effect {
                    v1alpha1::ToolEffect::ReadOnly => ToolEffect::ReadOnly,
                    v1alpha1::ToolEffect::Idempotent => ToolEffect::Idempotent,
                    v1alpha1::ToolEffect::Destructive => ToolEffect::Destructive,
                },
            })
            .collect(),
        schemas: written.schemas.clone(),
        disclose_all: written.disclosure == Disclosure::All,
    }
}

fn registration(agent: &McpAgent) -> RegistrationProfile {
    let written = agent.spec.registration.as_ref();
    let profile = written.map_or(Profile::default(), |registration| registration.profile);
    let seconds = profile.seconds();
    let (min, max) = (*seconds.start(), *seconds.end());
    let default = written.and_then(|registration| registration.expires_seconds).unwrap_or(min);
    RegistrationProfile { min, max, default: default.clamp(min, max), jitter: profile == Profile::Pool }
}
