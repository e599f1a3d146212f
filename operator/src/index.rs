//! The objects of the cluster, fed by one watch loop per kind, and what follows from all of them together.
//!
//! Pure: [`Index::apply`], [`Index::delete`] and [`Index::reset`] take what a watch says, [`Index::view`] judges everything by the rules of
//! `crds`. In whatever order the kinds arrive, the same objects give the same view.
//!
//! Secrets and ConfigMaps are kept only while an object names them, so an operator holds no secret that nobody uses. What becomes
//! named and is not there yet is listed by [`Index::fetches`]: the caller gets it from the API server and applies it.

mod entry;
mod near;
mod references;
mod shelf;
mod view;
mod waiting;

use crate::key::{Key, Kind};
use crate::plan::backends::Endpoints;
use crds::core_v1::{ConfigMap, Secret};
use crds::manifest::{ObjectKey, ServicePorts, Sourced};
use crds::v1alpha1::{Labels, McpAgent, McpCapabilityPolicy, SessionStore, SipDomain, SipEdge, TargetKind};
use crds::validate;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use std::collections::btree_map;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

pub use entry::{Content, Entry, Reach, key_of};
pub use near::Near;
pub use references::{References, keys_of};
pub use shelf::{Full, Limits, MAX_OBJECT_BYTES};
pub use view::View;
pub use waiting::MAX_WAITING;

use shelf::{Put, Shelf};
use waiting::{Waiting, kept_while_named};

/// What each kind may take. An edge is told of at most what [`crate::plan::delta`] can hold of it.
pub const MAX_EDGES: Limits = Limits { objects: 256, bytes: 16 << 20 };
pub const MAX_STORES: Limits = Limits { objects: 256, bytes: 4 << 20 };
pub const MAX_DOMAINS: Limits = Limits { objects: 4096, bytes: 16 << 20 };
pub const MAX_AGENTS: Limits = Limits { objects: 32_768, bytes: 256 << 20 };
pub const MAX_POLICIES: Limits = Limits { objects: 32_768, bytes: 256 << 20 };
pub const MAX_SECRETS: Limits = Limits { objects: 16_384, bytes: 64 << 20 };
pub const MAX_CONFIG_MAPS: Limits = Limits { objects: 16_384, bytes: 64 << 20 };
pub const MAX_ENDPOINTS: Limits = Limits { objects: 32_768, bytes: 64 << 20 };
/// Namespaces whose labels are known. One beyond counts as having its name for its only label.
pub const MAX_NAMESPACES: usize = 16_384;
/// Objects that could not be read, of all kinds together. With one more nothing is told to any edge as complete, so nothing is taken away.
pub const MAX_UNREADABLE: usize = 16_384;

/// An object as a watch delivers it.
#[derive(Clone, Debug)]
pub enum Object {
    Edge(Box<SipEdge>),
    Store(Box<SessionStore>),
    Domain(Box<SipDomain>),
    Agent(Box<McpAgent>),
    Policy(Box<McpCapabilityPolicy>),
    Secret(core::Secret),
    ConfigMap(core::ConfigMap),
    /// Only its labels are kept.
    Namespace(core::Namespace),
    /// Ready endpoints of the Service of this name. All are kept: an agent may name any of them a moment later.
    Endpoints(ObjectKey, Endpoints),
    /// It does not fit its type, or there was no room for it; only its name is known.
    Unreadable(Key, Unreadable),
}

/// Why an object could not be read, and as much of it as could.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    pub error: String,
    /// Of a policy: what it selects. `None`: not known, so everything in its namespace is closed.
    pub targets: Option<Vec<(TargetKind, String)>>,
}

/// What became of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Nothing that anybody is told of has changed.
    Unchanged,
    Changed,
    /// Nobody names it, so it was not kept.
    NotNamed,
}

/// See the module.
#[derive(Debug)]
pub struct Index {
    edges: Shelf<SipEdge>,
    stores: Shelf<SessionStore>,
    domains: Shelf<SipDomain>,
    agents: Shelf<McpAgent>,
    policies: Shelf<McpCapabilityPolicy>,
    secrets: Shelf<Secret>,
    config_maps: Shelf<ConfigMap>,
    endpoints: Shelf<Endpoints>,
    /// Labels, by name.
    namespaces: BTreeMap<String, Labels>,
    unreadable: BTreeMap<Key, Unreadable>,
    /// Every Service is known: one without endpoints here and not in `elsewhere` is not there.
    services_known: bool,
    /// Services whose names lead out of the cluster, which have no endpoints here.
    elsewhere: BTreeSet<ObjectKey>,
    references: References,
    fetches: BTreeSet<Key>,
    /// New versions of objects that are here, until what they newly name was looked for: what they name may well be there, and until that is
    /// known the version before stands. One of each object.
    waiting: BTreeMap<Key, Waiting>,
    synced: BTreeSet<Kind>,
    /// Numbers of the tenants by domain name, lower case.
    tenants: BTreeMap<String, u16>,
    /// By SipEdge that is there, where there is something to say.
    reach: BTreeMap<ObjectKey, Reach>,
    /// The numbers that the tenants have were read.
    numbers_known: bool,
    revision: u64,
    view: OnceLock<View>,
}

impl Default for Index {
    fn default() -> Self {
        Index {
            edges: Shelf::new(MAX_EDGES),
            stores: Shelf::new(MAX_STORES),
            domains: Shelf::new(MAX_DOMAINS),
            agents: Shelf::new(MAX_AGENTS),
            policies: Shelf::new(MAX_POLICIES),
            secrets: Shelf::new(MAX_SECRETS),
            config_maps: Shelf::new(MAX_CONFIG_MAPS),
            endpoints: Shelf::new(MAX_ENDPOINTS),
            namespaces: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            services_known: false,
            elsewhere: BTreeSet::new(),
            references: References::default(),
            fetches: BTreeSet::new(),
            waiting: BTreeMap::new(),
            synced: BTreeSet::new(),
            tenants: BTreeMap::new(),
            reach: BTreeMap::new(),
            numbers_known: false,
            revision: 0,
            view: OnceLock::new(),
        }
    }
}

impl Object {
    #[must_use]
    pub fn key(&self) -> Key {
        match self {
            Object::Edge(object) => Key::new(Kind::SipEdge, key_of(&object.metadata)),
            Object::Store(object) => Key::new(Kind::SessionStore, key_of(&object.metadata)),
            Object::Domain(object) => Key::of(Kind::SipDomain, "", key_of(&object.metadata).name),
            Object::Agent(object) => Key::new(Kind::McpAgent, key_of(&object.metadata)),
            Object::Policy(object) => Key::new(Kind::McpCapabilityPolicy, key_of(&object.metadata)),
            Object::Secret(object) => Key::new(Kind::Secret, key_of(&object.metadata)),
            Object::ConfigMap(object) => Key::new(Kind::ConfigMap, key_of(&object.metadata)),
            Object::Namespace(object) => Key::of(Kind::Namespace, "", key_of(&object.metadata).name),
            Object::Endpoints(key, _) => Key::new(Kind::Endpoints, key.clone()),
            Object::Unreadable(key, _) => key.clone(),
        }
    }
}

impl Index {
    /// Kinds that must be complete before any edge is told that it has everything.
    const NEEDED: [Kind; 7] = [
        Kind::Namespace,
        Kind::SipEdge,
        Kind::SessionStore,
        Kind::SipDomain,
        Kind::McpAgent,
        Kind::McpCapabilityPolicy,
        Kind::Endpoints,
    ];

    /// Takes a new or changed object. A new version of one that is there waits where it names a Secret or ConfigMap that nobody named before, until
    /// that was looked for: the version before stands so long.
    ///
    /// # Errors
    /// There is no room for it. Its kind is then short ([`Index::is_short`]).
    pub fn apply(&mut self, object: Object) -> Result<Applied, Full> {
        let key = object.key();
        if let Some(names) = self.has_to_wait(&key, &object) {
            return Ok(self.wait(key, object, names));
        }
        if self.is_behind_waiting(&key, &object) {
            return Ok(Applied::Unchanged);
        }
        let waited = self.waiting.remove(&key).is_some();
        let applied = self.take(object);
        self.look_again(&key);
        if waited && applied.is_ok() {
            // What only the version that waited named is named no more.
            let names = self.names_of(&key);
            self.refer(&key, names);
            return Ok(self.changed());
        }
        applied
    }

    fn take(&mut self, object: Object) -> Result<Applied, Full> {
        let key = object.key();
        if matches!(key.kind, Kind::Secret | Kind::ConfigMap) && !self.references.is_named(&key) {
            return Ok(Applied::NotNamed);
        }
        self.fetches.remove(&key);
        let at = &key.object;
        let (put, names) = match object {
            Object::Unreadable(key, why) => return Ok(self.unreadable(key, why)),
            Object::Namespace(object) => {
                return self.namespace(key.object.name, object.metadata.labels.unwrap_or_default());
            }
            Object::Endpoints(_, endpoints) => return self.endpoints(&key, endpoints),
            Object::Edge(object) => {
                let names = references::of_edge(at, &object);
                let entry = custom(&key, &object.metadata, &object.spec, validate::edge(&object.spec));
                (self.edges.put(at, entry.with(object)), names)
            }
            Object::Store(object) => {
                let names = references::of_store(at, &object);
                let entry = custom(&key, &object.metadata, &object.spec, validate::store(&object.spec));
                (self.stores.put(at, entry.with(object)), names)
            }
            Object::Domain(object) => {
                let names = references::of_domain(&object);
                let entry = custom(&key, &object.metadata, &object.spec, validate::domain(&object.spec));
                (self.domains.put(at, entry.with(object)), names)
            }
            Object::Agent(object) => {
                let names = references::of_agent(at, &object);
                let entry = custom(&key, &object.metadata, &object.spec, validate::agent(&object.spec));
                (self.agents.put(at, entry.with(object)), names)
            }
            Object::Policy(object) => {
                let names = references::of_policy(at, &object);
                let entry = custom(&key, &object.metadata, &object.spec, validate::policy(at, &object.spec));
                (self.policies.put(at, entry.with(object)), names)
            }
            Object::Secret(object) => {
                let meta = object.metadata.clone();
                let object = entry::read_secret(object);
                let content = entry::secret(&object);
                (self.secrets.put(at, made(&meta, content).with(Box::new(object))), BTreeSet::new())
            }
            Object::ConfigMap(object) => {
                let meta = object.metadata.clone();
                let object = entry::read_config_map(object);
                let content = entry::config_map(&object);
                (self.config_maps.put(at, made(&meta, content).with(Box::new(object))), BTreeSet::new())
            }
        };
        match put {
            Ok(Put::Same | Put::Stale) => {
                return Ok(if self.unreadable.remove(&key).is_some() { self.changed() } else { Applied::Unchanged });
            }
            Ok(Put::Taken) => self.refer(&key, names),
            Err(full) => {
                self.forget(&key);
                self.changed();
                if key.kind == Kind::McpCapabilityPolicy {
                    // What it would deny is denied, whether there is room for it or not: the agents that it selects are closed.
                    let targets = Some(names.into_iter().filter_map(references::target).collect());
                    self.unreadable(key, Unreadable { error: full.to_string(), targets });
                }
                return Err(full);
            }
        }
        self.unreadable.remove(&key);
        Ok(self.changed())
    }

    /// An object is gone; for one that was to be fetched: it does not exist. `uid`: of the object that is gone, where the caller knows it; one
    /// that was made anew under the same name stays.
    pub fn delete(&mut self, key: &Key, uid: Option<&str>) -> Applied {
        self.fetches.remove(key);
        if let (Some(uid), Some(there)) = (uid, self.meta(key))
            && there.uid != uid
        {
            return Applied::Unchanged;
        }
        // Nobody is told of endpoints that no agent names.
        let told = key.kind != Kind::Endpoints || self.references.is_named(key);
        let gone = self.forget(key) && told;
        self.look_again(key);
        if gone { self.changed() } else { Applied::Unchanged }
    }

    /// The watch of a kind began again with this list: what is not in it is gone.
    ///
    /// # Errors
    /// The first object for which there was no room; the others were taken.
    pub fn reset(&mut self, kind: Kind, objects: Vec<Object>) -> Result<(), Full> {
        let listed: BTreeSet<Key> = objects.iter().map(Object::key).filter(|key| key.kind == kind).collect();
        self.set_short(kind, false);
        for gone in self.keys(kind).into_iter().filter(|key| !listed.contains(key)).collect::<Vec<_>>() {
            self.delete(&gone, None);
        }
        let mut result = Ok(());
        for object in objects {
            if object.key().kind == kind
                && let Err(full) = self.apply(object)
            {
                result = result.and(Err(full));
            }
        }
        // Whoever waits for everything hears of it, also where there was nothing.
        if self.synced.insert(kind) {
            self.changed();
        }
        result
    }

    /// The watch of a kind began again in one namespace: what is not in this list is gone from there. To be used after the first
    /// [`Index::reset`] of the kind.
    ///
    /// # Errors
    /// The first object for which there was no room; the others were taken.
    pub fn reset_namespace(&mut self, kind: Kind, namespace: &str, objects: Vec<Object>) -> Result<(), Full> {
        let within = |key: &Key| key.kind == kind && key.object.namespace == namespace;
        let listed: BTreeSet<Key> = objects.iter().map(Object::key).collect();
        for gone in self.keys(kind).into_iter().filter(|key| within(key) && !listed.contains(key)).collect::<Vec<_>>() {
            self.delete(&gone, None);
        }
        let mut result = Ok(());
        for object in objects {
            if within(&object.key())
                && let Err(full) = self.apply(object)
            {
                result = result.and(Err(full));
            }
        }
        result
    }

    /// The number of a domain's tenant was given. It never changes.
    pub fn number(&mut self, domain: &str, tenant: u16) {
        if let btree_map::Entry::Vacant(place) = self.tenants.entry(domain.to_ascii_lowercase()) {
            place.insert(tenant);
            self.changed();
        }
    }

    /// The number of a domain's tenant.
    #[must_use]
    pub fn tenant(&self, domain: &str) -> Option<u16> {
        self.tenants.get(&domain.to_ascii_lowercase()).copied()
    }

    /// Whether every Service is known, so that one which is not here is surely not there.
    pub fn services_known(&mut self, known: bool) {
        if std::mem::replace(&mut self.services_known, known) != known {
            self.changed();
        }
    }

    /// Whether the name of a Service leads out of the cluster. The caller bounds how many do.
    pub fn leads_elsewhere(&mut self, service: &ObjectKey, elsewhere: bool) {
        let moved = if elsewhere { self.elsewhere.insert(service.clone()) } else { self.elsewhere.remove(service) };
        if moved && self.references.is_named(&Key::new(Kind::Endpoints, service.clone())) {
            self.changed();
        }
    }

    /// Those of these Services that are there; `None`: that is not known.
    pub(crate) fn services<'a>(&self, of: impl Iterator<Item = &'a Key>) -> Option<BTreeMap<ObjectKey, ServicePorts>> {
        if !self.services_known || self.endpoints.short || !self.synced.contains(&Kind::Endpoints) {
            return None;
        }
        let ports = |key: &Key| match self.endpoints.get(&key.object) {
            _ if self.elsewhere.contains(&key.object) => Some((key.object.clone(), ServicePorts::Elsewhere)),
            Some(entry) => Some((key.object.clone(), ServicePorts::Tcp(entry.object.keys().copied().collect()))),
            None => None,
        };
        Some(of.filter(|key| key.kind == Kind::Endpoints).filter_map(ports).collect())
    }

    /// True once every kind of ours was listed, everything that is named was looked for, and the tenants have the numbers that they had: an edge
    /// may be told that it has everything.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let numbered = |domain: &Sourced<SipDomain>| {
            let had = domain.status.as_ref().and_then(|status| status.tenant_number);
            had.is_none() || self.tenant(&domain.spec.domain).is_some()
        };
        Self::NEEDED.iter().all(|kind| self.synced.contains(kind))
            && self.fetches.is_empty()
            && self.numbers_known
            && self.view().objects.domains.values().all(numbered)
    }

    /// The numbers that tenants have were read: a domain without one never had any.
    pub fn numbers_are_known(&mut self) {
        if !std::mem::replace(&mut self.numbers_known, true) {
            self.changed();
        }
    }

    /// Whether they were.
    #[must_use]
    pub fn are_numbers_known(&self) -> bool {
        self.numbers_known
    }

    /// Kinds of ours that were not listed yet, and namespaces and endpoints.
    #[must_use]
    pub fn awaited(&self) -> Vec<Kind> {
        Self::NEEDED.into_iter().filter(|kind| !self.synced.contains(kind)).collect()
    }

    /// Rises with every change of what anybody is told of.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Numbers of all tenants, by domain name.
    pub fn tenants(&self) -> impl Iterator<Item = (&str, u16)> {
        self.tenants.iter().map(|(domain, number)| (&**domain, *number))
    }

    /// True where an object of the kind was turned away since the last [`Index::reset`]: once there is room the kind must be listed again.
    #[must_use]
    pub fn is_short(&self, kind: Kind) -> bool {
        match kind {
            Kind::SipEdge => self.edges.short,
            Kind::SessionStore => self.stores.short,
            Kind::SipDomain => self.domains.short,
            Kind::McpAgent => self.agents.short,
            Kind::McpCapabilityPolicy => self.policies.short,
            Kind::Secret => self.secrets.short,
            Kind::ConfigMap => self.config_maps.short,
            Kind::Endpoints => self.endpoints.short,
            Kind::Namespace => false,
        }
    }

    /// What became named and was neither applied nor deleted since: to be got from the API server, each once.
    pub fn fetches(&self) -> impl Iterator<Item = &Key> {
        self.fetches.iter()
    }

    /// Who refers to what.
    #[must_use]
    pub fn references(&self) -> &References {
        &self.references
    }

    /// Who refers to an object and may: of a SipDomain neither the agents nor the policies of namespaces that it does not allow. Nobody else
    /// keeps it from being deleted.
    pub fn holders<'a>(&'a self, key: &'a Key) -> impl Iterator<Item = &'a Key> {
        let domain = self.domain(&key.object.name).filter(|_| key.kind == Kind::SipDomain).map(|entry| &entry.object);
        self.references.referrers(key).filter(move |referrer| {
            let namespace = &*referrer.object.namespace;
            match (domain, referrer.kind) {
                (Some(domain), Kind::McpAgent) => self.view().objects.allows_namespace(domain, namespace),
                (Some(domain), Kind::McpCapabilityPolicy) => domain.spec.takes_policies_of(namespace),
                _ => true,
            }
        })
    }

    /// What all objects are together, judged by the rules of `crds`; computed at the first use after a change.
    pub fn view(&self) -> &View {
        self.view.get_or_init(|| View::new(self))
    }

    /// Objects of a kind that are there, those that could not be read included.
    #[must_use]
    pub fn keys(&self, kind: Kind) -> BTreeSet<Key> {
        fn keys<T>(kind: Kind, shelf: &Shelf<T>) -> BTreeSet<Key> {
            shelf.iter().map(|(key, _)| Key::new(kind, key.clone())).collect()
        }
        let mut keys = match kind {
            Kind::SipEdge => keys(kind, &self.edges),
            Kind::SessionStore => keys(kind, &self.stores),
            Kind::SipDomain => keys(kind, &self.domains),
            Kind::McpAgent => keys(kind, &self.agents),
            Kind::McpCapabilityPolicy => keys(kind, &self.policies),
            Kind::Secret => keys(kind, &self.secrets),
            Kind::ConfigMap => keys(kind, &self.config_maps),
            Kind::Namespace => self.namespaces.keys().map(|name| Key::of(kind, "", &**name)).collect(),
            Kind::Endpoints => keys(kind, &self.endpoints),
        };
        keys.extend(self.unreadable.keys().filter(|key| key.kind == kind).cloned());
        keys
    }

    #[must_use]
    pub fn edge(&self, key: &ObjectKey) -> Option<&Entry<SipEdge>> {
        self.edges.get(key)
    }

    #[must_use]
    pub fn store(&self, key: &ObjectKey) -> Option<&Entry<SessionStore>> {
        self.stores.get(key)
    }

    /// By the name of the object.
    #[must_use]
    pub fn domain(&self, name: &str) -> Option<&Entry<SipDomain>> {
        self.domains.get(&ObjectKey::new("", name))
    }

    #[must_use]
    pub fn agent(&self, key: &ObjectKey) -> Option<&Entry<McpAgent>> {
        self.agents.get(key)
    }

    #[must_use]
    pub fn policy(&self, key: &ObjectKey) -> Option<&Entry<McpCapabilityPolicy>> {
        self.policies.get(key)
    }

    /// Why an object could not be read.
    #[must_use]
    pub fn why_unreadable(&self, key: &Key) -> Option<&Unreadable> {
        self.unreadable.get(key)
    }

    /// A SipEdge as it travels to its edges: with the addresses at which these are reached.
    #[must_use]
    pub fn reached(&self, edge: &ObjectKey) -> Option<Content> {
        let content = &self.edges.get(edge)?.content;
        Some(self.reach.get(edge).map_or_else(|| content.clone(), |reach| entry::reached(content, reach)))
    }

    /// An object as it travels.
    #[must_use]
    pub fn content(&self, key: &Key) -> Option<&Content> {
        self.meta(key).map(|entry| entry.content)
    }

    fn meta(&self, key: &Key) -> Option<Known<'_>> {
        fn known<T>(entry: Option<&Entry<T>>) -> Option<Known<'_>> {
            entry.map(|entry| Known { uid: &entry.uid, content: &entry.content, broken: !entry.findings.is_empty() })
        }
        let at = &key.object;
        match key.kind {
            Kind::SipEdge => known(self.edges.get(at)),
            Kind::SessionStore => known(self.stores.get(at)),
            Kind::SipDomain => known(self.domains.get(at)),
            Kind::McpAgent => known(self.agents.get(at)),
            Kind::McpCapabilityPolicy => known(self.policies.get(at)),
            Kind::Secret => known(self.secrets.get(at)),
            Kind::ConfigMap => known(self.config_maps.get(at)),
            Kind::Endpoints => known(self.endpoints.get(at)),
            Kind::Namespace => None,
        }
    }

    /// SipEdges that are there and could never be read.
    fn unread_edges(&self) -> BTreeSet<ObjectKey> {
        let unread = self.unreadable.keys().filter(|key| key.kind == Kind::SipEdge && self.edge(&key.object).is_none());
        unread.map(|key| key.object.clone()).collect()
    }

    fn set_short(&mut self, kind: Kind, short: bool) {
        match kind {
            Kind::SipEdge => self.edges.short = short,
            Kind::SessionStore => self.stores.short = short,
            Kind::SipDomain => self.domains.short = short,
            Kind::McpAgent => self.agents.short = short,
            Kind::McpCapabilityPolicy => self.policies.short = short,
            Kind::Secret => self.secrets.short = short,
            Kind::ConfigMap => self.config_maps.short = short,
            Kind::Endpoints => self.endpoints.short = short,
            Kind::Namespace => {}
        }
    }

    /// What was there of it stands no longer: nobody knows what the new one would forbid. A SipEdge stands as it was, for its edges and the agents
    /// at them.
    fn unreadable(&mut self, key: Key, why: Unreadable) -> Applied {
        if self.unreadable.get(&key) == Some(&why) {
            return Applied::Unchanged;
        }
        if key.kind != Kind::SipEdge {
            self.forget(&key);
        }
        if self.unreadable.len() < MAX_UNREADABLE {
            self.unreadable.insert(key, why);
        } else {
            self.set_short(key.kind, true);
            self.synced.remove(&key.kind);
        }
        self.changed()
    }

    /// Where the edges of each SipEdge are reached. Without [`Reach`]: nobody needs to know, or nobody knows.
    pub fn reach(&mut self, reach: BTreeMap<ObjectKey, Reach>) -> Applied {
        if self.reach == reach {
            return Applied::Unchanged;
        }
        self.reach = reach;
        self.changed()
    }

    fn endpoints(&mut self, key: &Key, endpoints: Endpoints) -> Result<Applied, Full> {
        let entry = made(&ObjectMeta::default(), entry::endpoints(&endpoints)).with(Box::new(endpoints));
        let named = self.references.is_named(key);
        let put = self.endpoints.put(&key.object, entry);
        let told = named && !matches!(put, Ok(Put::Same | Put::Stale));
        let applied = if told { self.changed() } else { Applied::Unchanged };
        put.map(|_| applied)
    }

    fn namespace(&mut self, name: String, labels: Labels) -> Result<Applied, Full> {
        if self.namespaces.get(&name) == Some(&labels) {
            return Ok(Applied::Unchanged);
        }
        if self.namespaces.len() >= MAX_NAMESPACES && !self.namespaces.contains_key(&name) {
            return Err(Full::Objects(MAX_NAMESPACES));
        }
        self.namespaces.insert(name, labels);
        Ok(self.changed())
    }

    fn forget(&mut self, key: &Key) -> bool {
        self.waiting.remove(key);
        let unreadable = self.unreadable.remove(key).is_some();
        let there = self.remove(key);
        self.refer(key, BTreeSet::new());
        unreadable || there
    }

    fn remove(&mut self, key: &Key) -> bool {
        let at = &key.object;
        match key.kind {
            Kind::SipEdge => self.edges.remove(at),
            Kind::SessionStore => self.stores.remove(at),
            Kind::SipDomain => self.domains.remove(at),
            Kind::McpAgent => self.agents.remove(at),
            Kind::McpCapabilityPolicy => self.policies.remove(at),
            Kind::Secret => self.secrets.remove(at),
            Kind::ConfigMap => self.config_maps.remove(at),
            Kind::Namespace => self.namespaces.remove(&at.name).is_some(),
            Kind::Endpoints => self.endpoints.remove(at),
        }
    }

    /// From now on an object names these. What nobody names any more is let go of, and with it the memory of a Secret is wiped.
    fn refer(&mut self, key: &Key, names: BTreeSet<Key>) {
        let moved = self.references.set(key, names);
        for key in moved.last.into_iter().filter(kept_while_named) {
            self.fetches.remove(&key);
            self.remove(&key);
        }
        self.fetches.extend(moved.first.into_iter().filter(kept_while_named));
    }

    fn changed(&mut self) -> Applied {
        self.revision = self.revision.wrapping_add(1);
        self.view = OnceLock::new();
        Applied::Changed
    }
}

struct Known<'a> {
    uid: &'a str,
    content: &'a Content,
    broken: bool,
}

/// An entry without its object.
struct Made {
    uid: String,
    resource_version: Option<u64>,
    generation: i64,
    content: Content,
    findings: Vec<validate::Finding>,
}

impl Made {
    fn with<T>(self, object: Box<T>) -> Entry<T> {
        let Made { uid, resource_version, generation, content, findings } = self;
        Entry { object: Arc::from(object), uid, resource_version, generation, content, findings }
    }
}

fn made(meta: &ObjectMeta, content: Content) -> Made {
    Made {
        uid: meta.uid.clone().unwrap_or_default(),
        resource_version: meta.resource_version.as_deref().and_then(|version| version.parse().ok()),
        generation: meta.generation.unwrap_or_default(),
        content,
        findings: Vec::new(),
    }
}

fn custom<S: Serialize>(key: &Key, meta: &ObjectMeta, spec: &S, findings: Vec<validate::Finding>) -> Made {
    let content = entry::custom(key.kind.as_str(), meta, key.kind == Kind::SipDomain, spec);
    Made { findings, ..made(meta, content) }
}

#[cfg(test)]
mod tests;
