//! From manifests to what the core and the sockets work with. Built as a whole, each object by itself: what cannot be used is a problem
//! with file, line and field, and what was last good of it stays.

mod agents;
mod domains;
pub mod keys;
mod listeners;
pub mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crds::manifest::{ObjectKey, Problem, Snapshot, Sourced};
use crds::v1alpha1::{AdvertiseFrom, Audit, SipEdge, StoreTtl};
use edge_core::config::{
    Advertise, AgentConfig, Config, DomainConfig, DrainConfig, DrainStrategy, EdgeConfig, Limits, OnOutage, Ttl,
};
use edge_core::lease::Lease;
use tokio_rustls::rustls::sign::CertifiedKey;

use crate::backend::BackendConfig;
use crate::net::listener::Wanted;
use crate::net::verify::{DomainTrust, Trust};
use keys::{Keys, Made};
use store::StoreSpec;

/// Everything that one set of manifests says.
#[derive(Debug)]
pub struct Built {
    /// Without listeners: those are known when they are bound.
    pub config: Config,
    pub listeners: Vec<Wanted>,
    pub backends: BTreeMap<String, BackendConfig>,
    pub trust: Arc<Trust>,
    /// Rules whose decisions leave no audit record: `namespace/policy/rule`.
    pub unaudited: BTreeSet<String>,
    /// The lease of this edge from its next renewal on.
    pub lease: Lease,
    /// Seconds between the signal and the first thing that ends.
    pub settle_seconds: u64,
    /// What cannot be used, beyond what the reader of the manifests found.
    pub problems: Vec<Problem>,
    /// Those of them that leave a listener without a certificate, or all of them without an address to write.
    pub listener_problems: Vec<Problem>,
}

/// Builds configurations for the life of one process and keeps what must not change between them.
#[derive(Debug)]
pub struct Builder {
    edge: ObjectKey,
    epoch: u64,
    /// By domain, as the store gave them: once, and never twice.
    tenants: BTreeMap<String, u16>,
    /// For an edge without a Secret `<edge>-keys`: made once, kept as long as the embedded store lives.
    made: Made,
    /// Other edges use the store, so they must have the same keys.
    shared_store: bool,
    /// The last good ones.
    keys: Option<Keys>,
    /// The store that the process began with.
    store: Option<StoreSpec>,
    /// What was good last to be written into Contact and Via.
    advertise: Option<Advertise>,
    /// By listener.
    certificates: BTreeMap<String, Vec<Arc<CertifiedKey>>>,
    /// By domain.
    anchors: BTreeMap<String, DomainTrust>,
    /// The last one, so that an edge that vanished from the manifests goes on.
    spec: Option<Sourced<SipEdge>>,
}

impl Builder {
    #[must_use]
    pub fn new(edge: ObjectKey, made: Made, shared_store: bool) -> Self {
        Builder {
            edge,
            epoch: 0,
            tenants: BTreeMap::new(),
            made,
            shared_store,
            keys: None,
            store: None,
            advertise: None,
            certificates: BTreeMap::new(),
            anchors: BTreeMap::new(),
            spec: None,
        }
    }

    /// The keys that are in use.
    #[must_use]
    pub fn keys(&self) -> Keys {
        self.keys.clone().unwrap_or_else(|| self.made.keys())
    }

    /// Domains (lower case) without a tenant number: they are left out until [`Builder::numbered`] was told theirs.
    #[must_use]
    pub fn unnumbered(&self, objects: &Snapshot) -> Vec<String> {
        let domains = objects.domains.values().map(|object| object.spec.domain.to_ascii_lowercase());
        domains.filter(|domain| !self.tenants.contains_key(domain)).collect()
    }

    /// The tenant number of a domain.
    pub fn numbered(&mut self, domain: String, tenant: u16) {
        self.tenants.entry(domain).or_insert(tenant);
    }

    /// Builds everything from one set of manifests. `None`: the edge is not there and never was.
    pub fn build(&mut self, objects: &Snapshot) -> Option<Built> {
        let mut problems = Vec::new();
        let mut listener_problems = Vec::new();
        match objects.edges.get(&self.edge) {
            Some(edge) => self.spec = Some(edge.clone()),
            None => {
                let gone = self.spec.as_ref()?;
                let message = format!("SipEdge {} is gone; this process goes on as it was", self.edge);
                problems.push(gone.origin.problem("", message));
            }
        }
        let edge = self.spec.clone()?;
        let spec = &edge.spec;
        self.epoch += 1;

        let domains = self.domains(objects, &mut problems);
        let trust = Arc::new(Trust::new(
            domains.values().filter_map(|domain| self.anchors.get(&domain.domain).cloned()).collect(),
            crate::net::tls::provider(),
        ));
        let (agents, backends) = agents::build(objects, &self.edge, &edge, &domains, &mut problems);
        let listeners = self.listeners(objects, &edge, &trust, &mut listener_problems);
        problems.extend(self.read_keys(objects).err());
        let keys = self.keys();
        problems.extend(self.other_store(objects));
        let on_outage = match objects.store_of(&self.edge, &edge).map(|store| store.spec.on_outage) {
            Some(crds::v1alpha1::OnOutage::RejectAll) => OnOutage::RejectAll,
            Some(crds::v1alpha1::OnOutage::KeepExisting) | None => OnOutage::KeepExisting,
        };

        let ttl = objects.store_of(&self.edge, &edge).map(|store| ttl(&store.spec.ttl)).unwrap_or_default();

        match self::advertise(&spec.network.advertise, objects.reach.as_deref()) {
            Ok(advertise) => self.advertise = Some(advertise),
            Err(message) => {
                let problem = edge.origin.problem("spec.network.advertise.from", message);
                // The last good one stays. Without one no peer could come back to what this edge writes, so it does not begin.
                let told = if self.advertise.is_some() { &mut problems } else { &mut listener_problems };
                told.push(problem);
            }
        }
        let advertise = self.advertise.clone().unwrap_or(Advertise::Static(None));
        problems.extend(listener_problems.iter().cloned());
        Some(Built {
            config: Config {
                epoch: self.epoch,
                edge: EdgeConfig {
                    name: self.edge.to_string(),
                    advertise,
                    limits: Limits {
                        sessions_per_pod: spec.limits.sessions_per_pod as usize,
                        in_flight_per_session: spec.limits.in_flight_per_session as usize,
                        sip_body_bytes: spec.limits.sip_body_bytes as usize,
                        message_bytes: spec.limits.message_bytes as usize,
                    },
                    drain: DrainConfig {
                        in_flight_seconds: spec.drain.in_flight_seconds.into(),
                        dialog_seconds: spec.drain.dialog_seconds().into(),
                        strategy: match spec.drain.strategy {
                            crds::v1alpha1::DrainStrategy::Handover => DrainStrategy::Handover,
                            crds::v1alpha1::DrainStrategy::WaitForEnd => DrainStrategy::WaitForEnd,
                            crds::v1alpha1::DrainStrategy::Terminate => DrainStrategy::Terminate,
                        },
                    },
                },
                listeners: Vec::new(),
                domains: domains.into_values().map(|domain| (domain.domain.clone(), domain)).collect(),
                agents: by_address(agents),
                naming_key: keys.naming,
                on_outage,
                ttl,
                token_keys: keys.token_keys,
            },
            listeners,
            backends,
            trust,
            unaudited: unaudited(objects),
            lease: Lease::of_seconds(spec.failover.lease_seconds),
            settle_seconds: spec.drain.settle_seconds.into(),
            problems,
            listener_problems,
        })
    }
}

/// What the edge writes into Contact, Via and Record-Route.
///
/// # Errors
/// The address is one that only a node or a Service has, and nobody has told it: the bound one would be an address of the pod, which no
/// peer reaches.
fn advertise(wanted: &crds::v1alpha1::Advertise, told: Option<&str>) -> Result<Advertise, String> {
    match (&wanted.name, wanted.from, &wanted.address) {
        (Some(name), _, _) => Ok(Advertise::Name(name.to_ascii_lowercase())),

        (None, _, Some(address)) => match address.parse() {
            Ok(address) => Ok(Advertise::Static(Some(address))),
            Err(_) => Err(format!("{address:?} is no IP address; for a host name use advertise.name")),
        },
        (None, None | Some(AdvertiseFrom::Static), None) => Ok(Advertise::Static(None)),
        (None, Some(from), None) => match told {
            // A load balancer may have a name in place of an address.
            Some(told) => Ok(told.parse().map_or_else(
                |_| Advertise::Name(told.to_ascii_lowercase()),
                |address| Advertise::Static(Some(address)),
            )),
            None => Err(format!(
                "the address of {} is not known to this edge (only an operator in a cluster knows it); use from: Static with address, or name",
                from.as_str()
            )),
        },
    }
}

fn ttl(wanted: &StoreTtl) -> Ttl {
    let default = Ttl::default();
    let ms = |length: &crds::v1alpha1::Duration, default| length.seconds().map_or(default, |seconds| seconds * 1000);
    Ttl { idle_ms: ms(&wanted.idle, default.idle_ms), absolute_ms: ms(&wanted.absolute, default.absolute_ms) }
}

/// The lease that the manifests give an edge.
#[must_use]
pub fn lease(objects: &Snapshot, edge: &ObjectKey) -> Lease {
    objects.edges.get(edge).map(|edge| Lease::of_seconds(edge.spec.failover.lease_seconds)).unwrap_or_default()
}

/// By domain and user. Validation refuses two agents with one address; an agent that was kept as it last was gives way.
fn by_address(agents: Vec<Arc<AgentConfig>>) -> BTreeMap<(String, String), Arc<AgentConfig>> {
    let mut map = BTreeMap::new();
    for agent in agents {
        map.entry((agent.domain.clone(), agent.user.clone())).or_insert(agent);
    }
    map
}

fn unaudited(objects: &Snapshot) -> BTreeSet<String> {
    let rules = objects.policies.iter().flat_map(|(key, policy)| {
        let silent = policy.spec.rules.iter().filter(|rule| rule.audit == Audit::None);
        silent.map(move |rule| format!("{key}/{}", rule.name))
    });
    rules.collect()
}

/// A domain by the name of its `SipDomain` object.
type Domains = BTreeMap<String, Arc<DomainConfig>>;
