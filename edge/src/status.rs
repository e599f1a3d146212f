//! What the process tells about itself on `/status`.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use edge_core::config::{AgentBackend, Config, ListenerConfig};
use serde::Serialize;

use crate::net::listener::name;

/// The part that changes with the configuration and the drain.
#[derive(Debug)]
pub struct Status {
    started: Instant,
    draining: AtomicBool,
    now: ArcSwap<Configured>,
}

/// What the applied configuration is.
#[derive(Debug, Default, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Configured {
    /// Namespace/name of the SipEdge.
    pub edge: String,
    pub config_version: u64,
    pub listeners: Vec<ListenerStatus>,
    pub domains: Vec<DomainStatus>,
    pub agents: Vec<AgentStatus>,
    /// `FILE:LINE: FIELD: what is wrong; what to do`. Empty: everything in the manifests is applied.
    pub problems: Vec<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct ListenerStatus {
    pub name: String,
    pub transport: &'static str,
    /// The bound address, also where the manifest says port 0.
    pub address: SocketAddr,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DomainStatus {
    pub domain: String,
    pub digest: bool,
    pub client_certificates: bool,
    /// Plain transports that may carry MCP.
    pub allow_plain: Vec<&'static str>,
}

#[derive(Debug, Clone, Serialize)]
pub struct AgentStatus {
    /// Namespace/name.
    pub name: String,
    pub address: String,
    pub backend: &'static str,
}

/// The whole answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub version: &'static str,
    /// `running` or `draining`.
    pub state: &'static str,
    pub uptime_seconds: u64,
    #[serde(flatten)]
    pub configured: Configured,
    pub counts: CountsReport,
}

/// How much there is of everything.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CountsReport {
    pub shards: usize,
    pub connections: usize,
    pub dialogs: u64,
    pub sessions: usize,
    /// MCP exchanges without a final answer.
    pub in_flight: u64,
    /// Addresses with a live binding.
    pub registrations: usize,
    pub backend_calls: usize,
}

impl Default for Status {
    fn default() -> Self {
        Status { started: Instant::now(), draining: AtomicBool::new(false), now: ArcSwap::default() }
    }
}

impl Status {
    /// A configuration was applied.
    pub fn configured(&self, config: &Config, open: &[ListenerConfig], problems: Vec<String>) {
        let listener = |l: &ListenerConfig| ListenerStatus {
            name: l.name.clone(),
            transport: name(l.transport),
            address: l.address,
        };
        let domains = config.domains.values().map(|domain| DomainStatus {
            domain: domain.domain.clone(),
            digest: domain.digest.is_some(),
            client_certificates: domain.client_certificates,
            allow_plain: domain.allow_plain.iter().map(|transport| name(*transport)).collect(),
        });
        let agents = config.agents.values().map(|agent| AgentStatus {
            name: agent.key.clone(),
            address: format!("sip:{}@{}", agent.user, agent.domain),
            backend: match agent.backend {
                AgentBackend::McpHttp { .. } => "mcpHttp",
                AgentBackend::SipContact { .. } => "sipContact",
            },
        });
        self.now.store(std::sync::Arc::new(Configured {
            edge: config.edge.name.clone(),
            config_version: config.epoch,
            listeners: open.iter().map(listener).collect(),
            domains: domains.collect(),
            agents: agents.collect(),
            problems,
        }));
    }

    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    #[must_use]
    pub fn config_version(&self) -> u64 {
        self.now.load().config_version
    }

    #[must_use]
    pub fn problems(&self) -> usize {
        self.now.load().problems.len()
    }

    #[must_use]
    pub fn report(&self, counts: CountsReport) -> Report {
        Report {
            version: env!("CARGO_PKG_VERSION"),
            state: if self.is_draining() { "draining" } else { "running" },
            uptime_seconds: self.started.elapsed().as_secs(),
            configured: self.now.load().as_ref().clone(),
            counts,
        }
    }
}
