//! What an operator gave to this edge, object by object, and what they are together. Without a clock and without a socket.

mod turned_away;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use crds::core_v1::{ConfigMap, Secret};
use crds::manifest::{ObjectKey, Origin, Problem, Snapshot, Sourced, unknown_fields};
use crds::v1alpha1::{Labels, McpAgent, McpCapabilityPolicy, SessionStore, SipDomain, SipEdge, TargetKind, targets_of};
use crds::validate::references::{RefusedPolicy, judge};
use crds::validate::{self, Finding};
use edge_api::control::{self, Delta, Kind, Upsert, Versioned};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::endpoints::{self, Endpoints};
use turned_away::TurnedAway;

/// Objects at one time, as the contract has it.
pub const MAX_HELD: usize = 131_072;
/// Octets of all objects together, as they travel.
pub const MAX_BYTES: usize = 512 << 20;

const NO_ROOM: &str = "this edge has no room for it";

/// An object. The namespace of one that stands in none is empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub kind: Kind,
    pub object: ObjectKey,
}

/// The kinds of the API by their names there.
const KINDS: [(Kind, &str); 9] = [
    (Kind::SipEdge, "SipEdge"),
    (Kind::SessionStore, "SessionStore"),
    (Kind::SipDomain, "SipDomain"),
    (Kind::McpAgent, "McpAgent"),
    (Kind::McpCapabilityPolicy, "McpCapabilityPolicy"),
    (Kind::Secret, "Secret"),
    (Kind::ConfigMap, "ConfigMap"),
    (Kind::Endpoints, "Endpoints"),
    (Kind::Namespace, "Namespace"),
];

impl Key {
    #[must_use]
    pub fn new(kind: Kind, object: ObjectKey) -> Self {
        Key { kind, object }
    }

    /// As it travels.
    #[must_use]
    pub fn to_message(&self) -> control::Key {
        let ObjectKey { namespace, name } = self.object.clone();
        control::Key { kind: self.kind.into(), namespace, name }
    }

    /// `None`: a kind that is not known here, or no name.
    #[must_use]
    pub fn from_message(message: &control::Key) -> Option<Self> {
        let kind = Kind::try_from(message.kind).ok().filter(|kind| *kind != Kind::Unspecified)?;
        let fits = message.namespace.len() <= 63 && (1..=253).contains(&message.name.len());
        fits.then(|| Key::new(kind, ObjectKey::new(&*message.namespace, &*message.name)))
    }

    fn kind_name(&self) -> &'static str {
        KINDS.iter().find(|(kind, _)| *kind == self.kind).map_or("object", |(_, name)| name)
    }

    /// The object that the file of a [`Problem`] names.
    #[must_use]
    pub fn of_place(place: &Path) -> Option<Self> {
        let (kind, name) = place.to_str()?.split_once(' ')?;
        let (kind, _) = KINDS.iter().find(|(_, known)| *known == kind)?;
        let (namespace, name) = name.split_once('/').unwrap_or(("", name));
        Some(Key::new(*kind, ObjectKey::new(namespace, name)))
    }

    fn origin(&self) -> Arc<Origin> {
        Arc::new(Origin::object(self.kind_name(), &self.object))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.object.namespace {
            "" => write!(f, "{} {}", self.kind_name(), self.object.name),
            _ => write!(f, "{} {}", self.kind_name(), self.object),
        }
    }
}

/// One object in the version that was given last.
struct Object {
    given: Upsert,
    read: Result<Read, Unread>,
    /// What it was when it last could be read; only where it cannot be now.
    good: Option<Upsert>,
    /// Fields of a later release, which have no effect here. A policy with one cannot be read at all.
    unknown: Vec<String>,
}

enum Read {
    Edge(Sourced<SipEdge>, Reach),
    Store(Sourced<SessionStore>),
    Domain(Sourced<SipDomain>),
    Agent(Sourced<McpAgent>),
    Policy(Sourced<McpCapabilityPolicy>),
    Secret(Sourced<Secret>),
    ConfigMap(Sourced<ConfigMap>),
    Namespace(Labels),
    Endpoints(Endpoints),
}

/// What is wrong with an object by itself.
struct Unread {
    findings: Vec<Finding>,
    /// Of a policy: what it selects; `None` where that cannot be said.
    targets: Option<Vec<(TargetKind, String)>>,
}

/// All objects together.
#[derive(Debug, Default)]
pub struct Judged {
    pub objects: Snapshot,
    /// What is not in `objects` for these reasons; its last good form may stand in its place.
    pub problems: Vec<Problem>,
    /// Policies that cannot be read. What they select is closed, in an older form, too.
    pub refused: Vec<RefusedPolicy>,
    /// What is there all the same.
    pub warnings: Vec<Problem>,
}

/// See the module.
#[derive(Default)]
pub struct Held {
    objects: BTreeMap<Key, Object>,
    /// Policies for which there was no room.
    turned_away: TurnedAway,
    bytes: usize,
    /// To be let go of, once the operator has said everything.
    leaving: BTreeSet<Key>,
    /// It has, in this stream.
    complete: bool,
    /// Rises with every object that came or went.
    changes: u64,
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the objects: some are secret.
        f.debug_struct("Held").field("objects", &self.objects.len()).finish_non_exhaustive()
    }
}

/// One object of a Delta, for the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    pub key: control::Key,
    pub version: String,
    /// Why it is not even held.
    pub refused: Option<String>,
}

impl Held {
    /// A stream begins: nothing is let go of until the operator has said everything on it.
    pub fn begin(&mut self) {
        self.leaving.clear();
        self.turned_away.begin();
        self.complete = false;
    }

    /// What this edge holds, for Hello.
    #[must_use]
    pub fn versions(&self) -> Vec<Versioned> {
        let versioned = |(key, object): (&Key, &Object)| Versioned {
            key: Some(key.to_message()),
            version: object.given.version.clone(),
        };
        self.objects.iter().map(versioned).collect()
    }

    /// The version of an object.
    #[must_use]
    pub fn version(&self, key: &Key) -> Option<&str> {
        self.objects.get(key).map(|object| &*object.given.version)
    }

    /// Every object.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.objects.keys()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Rises with every object that came or went.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// The SessionStore of this edge, where it names one.
    #[must_use]
    pub fn store(&self) -> Option<Key> {
        let edge = |object: &Object| match &object.read {
            Ok(Read::Edge(edge, _)) => edge.spec.session_store_ref.as_ref().map(|reference| reference.name.clone()),
            _ => None,
        };
        let (key, name) = self.objects.iter().find_map(|(key, object)| Some((key, edge(object)?)))?;
        Some(Key::new(Kind::SessionStore, ObjectKey::new(&*key.object.namespace, name)))
    }

    /// Takes what an operator says.
    pub fn take(&mut self, delta: Delta) -> Vec<Taken> {
        let taken = delta.upserts.into_iter().map(|upsert| self.put(upsert)).collect();
        self.leaving.extend(delta.removals.iter().filter_map(Key::from_message));
        self.complete |= delta.initial_done;
        if self.complete {
            for key in std::mem::take(&mut self.leaving) {
                self.remove(&key);
                self.let_in(&key);
            }
            if delta.initial_done && self.turned_away.complete() {
                self.changes += 1;
            }
        }
        taken
    }

    fn put(&mut self, upsert: Upsert) -> Taken {
        let message = upsert.key.clone().unwrap_or_default();
        let version = upsert.version.clone();
        let refused =
            |why: &str| Taken { key: message.clone(), version: version.clone(), refused: Some(why.to_owned()) };
        let Some(key) = Key::from_message(&message) else {
            return refused("this edge does not know such an object; it is of an earlier release");
        };
        self.leaving.remove(&key);
        let there = self.objects.get(&key).map_or(0, |object| object.given.json.len());
        let is_new = !self.objects.contains_key(&key);
        if self.bytes - there + upsert.json.len() > MAX_BYTES || (is_new && self.objects.len() >= MAX_HELD) {
            if key.kind == Kind::McpCapabilityPolicy {
                self.turned_away.add(&key.object, targets(&upsert.json));
                self.changes += 1;
            }
            return refused(NO_ROOM);
        }
        self.let_in(&key);
        let read = read(&key, &upsert.json);
        let before = self.remove(&key);
        let good = match (&read, before) {
            (Err(_), Some(Object { given, read: Ok(_), .. })) => Some(given),
            (Err(_), Some(Object { good, .. })) => good,
            _ => None,
        };
        self.changes += 1;
        self.bytes += upsert.json.len();
        let unknown = if read.is_ok() { unknown(&key, &upsert.json) } else { Vec::new() };
        self.objects.insert(key, Object { given: upsert, read, good, unknown });
        Taken { key: message, version, refused: None }
    }

    /// A policy is held, or gone.
    fn let_in(&mut self, key: &Key) {
        if key.kind == Kind::McpCapabilityPolicy && self.turned_away.remove(&key.object) {
            self.changes += 1;
        }
    }

    fn remove(&mut self, key: &Key) -> Option<Object> {
        let object = self.objects.remove(key)?;
        self.changes += 1;
        self.bytes -= object.given.json.len();
        Some(object)
    }

    /// The numbers of the tenants, by domain in lower case, as the operator gave them. Also of a domain that cannot be read now: what stood last
    /// may stand in for it, and is to have no other one.
    #[must_use]
    pub fn tenants(&self) -> BTreeMap<String, u16> {
        let domains = self.objects.iter().filter(|(key, _)| key.kind == Kind::SipDomain).map(|(_, object)| object);
        domains.flat_map(|object| object.good.iter().chain([&object.given])).filter_map(numbered).collect()
    }

    /// The address at which peers reach this pod, where its SipEdge asks for one that only the cluster knows.
    #[must_use]
    pub fn reach(&self, pod: &str) -> Option<String> {
        self.objects.values().find_map(|object| match &object.read {
            Ok(Read::Edge(_, reach)) => reach.pods.get(pod).or(reach.service.as_ref()).cloned(),
            _ => None,
        })
    }

    /// Where the Services of backends answer, by the name of the Service.
    #[must_use]
    pub fn endpoints(&self) -> BTreeMap<ObjectKey, Endpoints> {
        let here = |(key, object): (&Key, &Object)| match &object.read {
            Ok(Read::Endpoints(endpoints)) => Some((key.object.clone(), endpoints.clone())),
            _ => None,
        };
        self.objects.iter().filter_map(here).collect()
    }

    /// What is to be kept over a restart: what stood last, then what could not be read instead of some of it.
    #[must_use]
    pub fn kept(&self) -> (Vec<Upsert>, Vec<Upsert>) {
        let (mut settled, mut unread) = (Vec::new(), Vec::new());
        for object in self.objects.values() {
            match &object.read {
                Ok(_) => settled.push(object.given.clone()),
                Err(_) => {
                    settled.extend(object.good.clone());
                    unread.push(object.given.clone());
                }
            }
        }
        (settled, unread)
    }

    /// The objects as those of files would be, by the same rules.
    #[must_use]
    pub fn judge(&self) -> Judged {
        let mut objects = Snapshot { chosen: true, ..Snapshot::default() };
        let (mut problems, mut refused, mut warnings) = (Vec::new(), Vec::new(), Vec::new());
        for (key, object) in &self.objects {
            let at = key.object.clone();
            if let Some(field) = object.unknown.first() {
                let message = format!("{}; it has no effect here", of_later_release(&object.unknown));
                warnings.push(key.origin().problem(&**field, message));
            }
            match &object.read {
                Ok(Read::Edge(read, _)) => drop(objects.edges.insert(at, read.clone())),
                Ok(Read::Store(read)) => drop(objects.stores.insert(at, read.clone())),
                Ok(Read::Domain(read)) => drop(objects.domains.insert(at.name, read.clone())),
                Ok(Read::Agent(read)) => drop(objects.agents.insert(at, read.clone())),
                Ok(Read::Policy(read)) => drop(objects.policies.insert(at, read.clone())),
                Ok(Read::Secret(read)) => drop(objects.secrets.insert(at, read.clone())),
                Ok(Read::ConfigMap(read)) => drop(objects.config_maps.insert(at, read.clone())),
                Ok(Read::Namespace(labels)) => drop(objects.namespaces.insert(at.name, labels.clone())),
                // Of no rule: see [`Held::endpoints`].
                Ok(Read::Endpoints(_)) => {}
                Err(unread) => {
                    let origin = key.origin();
                    problems.extend(unread.findings.iter().map(|f| origin.problem(&*f.field, &*f.message)));
                    if key.kind == Kind::McpCapabilityPolicy {
                        refused.push(RefusedPolicy { key: Some(at), origin, targets: unread.targets.clone() });
                    }
                }
            }
        }
        for policy in self.turned_away.refused() {
            problems.push(policy.origin.problem("", format!("{NO_ROOM}; what the policy is for is closed")));
            // In an older form it holds no more.
            if let Some(key) = &policy.key {
                objects.policies.remove(key);
            }
            refused.push(policy);
        }
        for verdict in judge(&mut objects, &refused) {
            let to = if verdict.stands { &mut warnings } else { &mut problems };
            to.push(verdict.problem());
        }
        Judged { objects, problems, refused, warnings }
    }
}

/// The number of a domain, whatever else of it can be read.
fn numbered(domain: &Upsert) -> Option<(String, u16)> {
    #[derive(Deserialize)]
    struct Domain {
        spec: Spec,
    }
    #[derive(Deserialize)]
    struct Spec {
        domain: String,
    }
    let number = u16::try_from(domain.tenant?).ok().filter(|number| *number > 0)?;
    let Domain { spec } = serde_json::from_slice(&domain.json).ok()?;
    Some((spec.domain.to_ascii_lowercase(), number))
}

fn unread(field: &str, message: impl Into<String>) -> Unread {
    Unread { findings: vec![Finding { field: field.to_owned(), message: message.into() }], targets: None }
}

fn read(key: &Key, json: &Bytes) -> Result<Read, Unread> {
    match key.kind {
        Kind::SipEdge => {
            let beside: BesideEdge =
                serde_json::from_slice(json).map_err(|error| unread("reach", error.to_string()))?;
            let edge = custom(key, json, |o: &SipEdge| validate::edge(&o.spec))?;
            Ok(Read::Edge(edge, beside.reach))
        }
        Kind::SessionStore => custom(key, json, |o: &SessionStore| validate::store(&o.spec)).map(Read::Store),
        Kind::SipDomain => custom(key, json, |o: &SipDomain| validate::domain(&o.spec)).map(Read::Domain),
        Kind::McpAgent => custom(key, json, |o: &McpAgent| validate::agent(&o.spec)).map(Read::Agent),
        Kind::McpCapabilityPolicy => {
            let read = policy(key, json);
            read.map(|object| Read::Policy(Sourced { object: Arc::new(object), origin: key.origin() }))
        }
        Kind::Secret => {
            // Never the reason: it could hold a part of a value.
            let object = Secret::from_json(json).filter(|secret| names(key, &secret.namespace, &secret.name));
            let object = object.ok_or_else(|| unread("data", "is no Secret that can be read"))?;
            Ok(Read::Secret(Sourced { object: Arc::new(object), origin: key.origin() }))
        }
        Kind::ConfigMap => {
            let object = ConfigMap::from_json(json).map_err(|error| unread("data", error))?;
            if !names(key, &object.namespace, &object.name) {
                return Err(unread("metadata", "is another object"));
            }
            Ok(Read::ConfigMap(Sourced { object: Arc::new(object), origin: key.origin() }))
        }
        Kind::Namespace => {
            let object: Namespace = serde_json::from_slice(json).map_err(|error| unread("", error.to_string()))?;
            Ok(Read::Namespace(object.metadata.labels))
        }
        Kind::Endpoints => {
            endpoints::read(json).map(Read::Endpoints).map_err(|error| unread("ports", error.to_string()))
        }
        // No key has this kind.
        Kind::Unspecified => Err(unread("kind", "is not known to this edge")),
    }
}

/// What an operator says of a SipEdge beside its manifest.
#[derive(Deserialize)]
struct BesideEdge {
    #[serde(default)]
    reach: Reach,
}

/// Addresses that only the cluster knows.
#[derive(Deserialize, Default)]
struct Reach {
    service: Option<String>,
    /// Of the node, by pod.
    #[serde(default)]
    pods: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Namespace {
    metadata: NamespaceMeta,
}

#[derive(Deserialize)]
struct NamespaceMeta {
    #[serde(default)]
    labels: Labels,
}

/// The fields that this release does not know.
fn unknown(key: &Key, json: &Bytes) -> Vec<String> {
    match key.kind {
        Kind::SipEdge | Kind::SessionStore | Kind::SipDomain | Kind::McpAgent | Kind::McpCapabilityPolicy => {
            serde_json::from_slice(json).map(|object| unknown_fields(key.kind_name(), &object)).unwrap_or_default()
        }
        _ => Vec::new(),
    }
}

fn of_later_release(unknown: &[String]) -> String {
    let more = match unknown.len() {
        0 | 1 => String::new(),
        fields => format!(" (and {} more)", fields - 1),
    };
    format!("this edge is of release {}, which does not know the field{more}", env!("CARGO_PKG_VERSION"))
}

fn names(key: &Key, namespace: &str, name: &str) -> bool {
    key.object.namespace == namespace && key.object.name == name
}

/// The part of an object that says which one it is.
#[derive(Deserialize)]
struct Named {
    metadata: Meta,
}

#[derive(Deserialize)]
struct Meta {
    #[serde(default)]
    namespace: String,
    name: String,
}

fn typed<T: DeserializeOwned>(key: &Key, json: &Bytes) -> Result<T, Unread> {
    let named: Named = serde_json::from_slice(json).map_err(|error| unread("", error.to_string()))?;
    if !names(key, &named.metadata.namespace, &named.metadata.name) {
        return Err(unread("metadata", "is another object"));
    }
    serde_json::from_slice(json).map_err(|error| unread("spec", error.to_string()))
}

fn custom<T: DeserializeOwned>(
    key: &Key,
    json: &Bytes,
    rules: impl Fn(&T) -> Vec<Finding>,
) -> Result<Sourced<T>, Unread> {
    let object: T = typed(key, json)?;
    let findings = rules(&object);
    if !findings.is_empty() {
        return Err(Unread { findings, targets: None });
    }
    Ok(Sourced { object: Arc::new(object), origin: key.origin() })
}

fn policy(key: &Key, json: &Bytes) -> Result<McpCapabilityPolicy, Unread> {
    let object: McpCapabilityPolicy = typed(key, json).map_err(|unread| Unread { targets: targets(json), ..unread })?;
    let mut findings = validate::policy(&key.object, &object.spec);
    let unknown = unknown(key, json);
    // It may be what restricts a rule.
    findings.extend(unknown.first().map(|field| Finding {
        field: field.clone(),
        message: format!("{}; what the policy is for is closed", of_later_release(&unknown)),
    }));
    if findings.is_empty() {
        return Ok(object);
    }
    Err(Unread { findings, targets: targets(json) })
}

/// What a policy is for, whatever else of it can be read.
fn targets(json: &Bytes) -> Option<Vec<(TargetKind, String)>> {
    serde_json::from_slice(json).ok().and_then(|policy| targets_of(&policy))
}

#[cfg(test)]
mod tests;
