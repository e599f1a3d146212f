//! What the process tells about itself on `/status`.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use arc_swap::{ArcSwap, ArcSwapOption};
use edge_core::config::{AgentBackend, Config, ListenerConfig};
use edge_core::input::{StoreHealth, Transport};
use edge_core::lease::Membership;
use serde::Serialize;

use crate::control::{Standing, Watch};
use crate::net::listener::name;

/// The part that changes with the configuration and the drain.
#[derive(Debug)]
pub struct Status {
    started: Instant,
    draining: AtomicBool,
    drained: AtomicBool,
    ended: AtomicBool,
    /// What the start waits for; `None` once it is ready.
    waiting: ArcSwapOption<String>,
    now: ArcSwap<Configured>,
    config: ArcSwapOption<Config>,
    /// Where the configuration comes from an operator.
    control: OnceLock<Watch>,
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

/// The store and this edge's lease in it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreReport {
    /// `memory`, `file` or `redis`.
    pub kind: &'static str,
    /// `closed`, `open` or `recovering`.
    pub breaker: &'static str,
    /// Of a hundred new requests, how many are let in.
    pub admits_percent: u8,
    /// Why the breaker is not closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Names the store's content; another one is another store.
    pub generation: String,
    /// This edge among all that share the store.
    pub pod: String,
    pub epoch: u64,
    /// Whether this edge may run timers and take over.
    pub lease_held: bool,
    pub pods: Vec<PodReport>,
}

/// An edge that shares the store.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodReport {
    pub pod: String,
    pub epoch: u64,
    /// Where its mesh listens.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// Milliseconds that its lease ran when this was read; 0: it ended.
    pub lease_left_ms: u64,
    pub draining: bool,
    pub this: bool,
}

impl StoreReport {
    /// What the node and the store know.
    #[must_use]
    pub fn new(kind: &'static str, health: StoreHealth, membership: &Membership, lease_held: bool) -> Self {
        let (breaker, admits_percent) = match health {
            StoreHealth::Closed => ("closed", 100),
            StoreHealth::Open => ("open", 0),
            StoreHealth::Recovering { percent } => ("recovering", percent),
        };
        let owner = membership.owner;
        let pods = membership.pods.iter().map(|pod| PodReport {
            pod: format!("{:016x}", pod.owner.pod),
            epoch: pod.owner.epoch,
            address: pod.address.clone(),
            lease_left_ms: pod.lease_left_ms,
            draining: pod.draining,
            this: pod.owner.pod == owner.pod,
        });
        StoreReport {
            kind,
            breaker,
            admits_percent,
            reason: None,
            generation: membership.generation.iter().map(|octet| format!("{octet:02x}")).collect(),
            pod: format!("{:016x}", owner.pod),
            epoch: owner.epoch,
            lease_held,
            pods: pods.collect(),
        }
    }
}

/// The whole answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub version: &'static str,
    /// `starting`, `running` or `draining`.
    pub state: &'static str,
    /// What the start waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
    pub uptime_seconds: u64,
    /// The id of this edge among those that share the store.
    pub edge_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreReport>,
    /// Where the configuration comes from an operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control: Option<Standing>,
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
        Status {
            started: Instant::now(),
            draining: AtomicBool::new(false),
            drained: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            waiting: ArcSwapOption::from_pointee("the manifests".to_owned()),
            now: ArcSwap::default(),
            config: ArcSwapOption::empty(),
            control: OnceLock::new(),
        }
    }
}

impl Status {
    /// The start waits for something.
    pub fn wait_for(&self, what: String) {
        self.waiting.store(Some(Arc::new(what)));
    }

    /// The start is done.
    pub fn ready(&self) {
        self.waiting.store(None);
    }

    /// What the start waits for; `None` once it is ready.
    #[must_use]
    pub fn waiting(&self) -> Option<Arc<String>> {
        self.waiting.load_full()
    }

    /// The configuration that is applied.
    #[must_use]
    pub fn config(&self) -> Option<Arc<Config>> {
        self.config.load_full()
    }

    /// A configuration was applied.
    pub fn configured(&self, config: &Arc<Config>, open: &[ListenerConfig], problems: Vec<String>) {
        self.config.store(Some(config.clone()));
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
        self.now.store(Arc::new(Configured {
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

    /// All work has ended, or its time.
    pub fn drained(&self) {
        self.drained.store(true, Ordering::Release);
    }

    /// The drain is over: nothing is left, and the lease was given back.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// The configuration comes from an operator.
    pub fn controlled(&self, control: Watch) {
        // Nobody else sets it.
        let _ = self.control.set(control);
    }

    /// How the control stream stands; `None`: the configuration comes from files.
    #[must_use]
    pub fn control(&self) -> Option<Standing> {
        self.control.get().map(Watch::standing)
    }

    /// Whether traffic may be sent here, or why not. An edge with a UDP listener stays ready until it has drained: what routes datagrams
    /// forgets its flows when an edge is not ready, and cuts calls in the middle of their setup (sip.md, section 15).
    ///
    /// # Errors
    /// One sentence: why not.
    pub fn readiness(&self) -> Result<(), String> {
        if let Some(waiting) = self.waiting() {
            return Err(format!("starting: waiting for {waiting}"));
        }
        let udp = self.config().is_some_and(|config| config.listeners.iter().any(|l| l.transport == Transport::Udp));
        match (self.is_draining(), self.drained.load(Ordering::Acquire)) {
            (true, false) if udp => Ok(()),
            (true, _) => Err("draining".to_owned()),
            _ => Ok(()),
        }
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
    pub fn report(&self, edge_id: &str, store: Option<StoreReport>, counts: CountsReport) -> Report {
        let waiting_for = self.waiting().map(|waiting| (*waiting).clone());
        let state = match (self.is_draining(), &waiting_for) {
            (true, _) => "draining",
            (false, Some(_)) => "starting",
            (false, None) => "running",
        };
        Report {
            version: env!("CARGO_PKG_VERSION"),
            state,
            waiting_for,
            edge_id: edge_id.to_owned(),
            store,
            control: self.control(),
            uptime_seconds: self.started.elapsed().as_secs(),
            configured: self.now.load().as_ref().clone(),
            counts,
        }
    }
}
