//! A set of objects that belong together, each with the place where it was written.

use super::Problem;
use crate::core_v1::{ConfigMap, Secret};
use crate::v1alpha1::{
    Labels, McpAgent, McpCapabilityPolicy, NAMESPACE_NAME_LABEL, SessionStore, SipDomain, SipEdge, StoreKind,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    pub namespace: String,
    pub name: String,
}

impl ObjectKey {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        ObjectKey { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Where an object was written, and the line of each of its fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    pub file: PathBuf,
    /// Line of the document's first field, from 1.
    pub line: u32,
    /// Line by field path (`spec.listeners[0].port`).
    pub(crate) lines: BTreeMap<String, u32>,
    /// Place in the order of reading, over all files.
    pub(crate) ordinal: u32,
}

impl Origin {
    /// The line of a field, or of the nearest field around it that was written.
    pub fn line_of(&self, field: &str) -> u32 {
        let mut path = field;
        loop {
            if let Some(line) = self.lines.get(path) {
                return *line;
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None => return self.line,
            }
        }
    }

    /// A problem with a field of this object, also for what only the reader finds out, such as a port in use.
    pub fn problem(&self, field: impl Into<String>, message: impl Into<String>) -> Problem {
        let field = field.into();
        Problem { file: self.file.clone(), line: self.line_of(&field), field, message: message.into() }
    }

    /// `FILE:LINE` of the object; `the API`, or its name, for one that comes from no file.
    pub fn place(&self) -> String {
        match (self.file.as_os_str().is_empty(), self.line) {
            (true, _) => "the API".to_owned(),
            (false, 0) => self.file.display().to_string(),
            (false, line) => format!("{}:{line}", self.file.display()),
        }
    }

    /// `FILE:LINE` of a field.
    pub fn place_of(&self, field: &str) -> String {
        if self.line == 0 {
            return self.place();
        }
        format!("{}:{}", self.file.display(), self.line_of(field))
    }

    /// The origin of an object that comes from no file, for whoever knows by itself which object a message is about.
    pub fn api() -> Self {
        Origin::default()
    }

    /// The origin of an object that comes from no file: its messages begin with the object (`McpAgent acme/billing`) in place of a file.
    pub fn object(kind: &str, key: &ObjectKey) -> Self {
        let name = match &*key.namespace {
            "" => format!("{kind} {}", key.name),
            _ => format!("{kind} {key}"),
        };
        Origin { file: name.into(), ..Origin::default() }
    }
}

/// An object with its origin. Cheap to clone. Derefs to the object.
#[derive(Debug)]
pub struct Sourced<T> {
    pub object: Arc<T>,
    pub origin: Arc<Origin>,
}

impl<T> Clone for Sourced<T> {
    fn clone(&self) -> Self {
        Sourced { object: self.object.clone(), origin: self.origin.clone() }
    }
}

impl<T> std::ops::Deref for Sourced<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.object
    }
}

/// What a Service offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServicePorts {
    /// These TCP ports.
    Tcp(BTreeSet<u16>),
    /// Its name leads out of the cluster (`ExternalName`), and any port with it.
    Elsewhere,
}

/// Objects by kind. `SipDomain` is cluster-scoped, so its key is the name alone.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub domains: BTreeMap<String, Sourced<SipDomain>>,
    pub edges: BTreeMap<ObjectKey, Sourced<SipEdge>>,
    /// SipEdges that are there and cannot be read: nobody knows what they allow.
    pub unread_edges: BTreeSet<ObjectKey>,
    pub agents: BTreeMap<ObjectKey, Sourced<McpAgent>>,
    pub policies: BTreeMap<ObjectKey, Sourced<McpCapabilityPolicy>>,
    pub stores: BTreeMap<ObjectKey, Sourced<SessionStore>>,
    pub secrets: BTreeMap<ObjectKey, Sourced<Secret>>,
    pub config_maps: BTreeMap<ObjectKey, Sourced<ConfigMap>>,
    /// Labels of the namespaces, where they are known (not from files).
    pub namespaces: BTreeMap<String, Labels>,
    /// The address at which peers reach this edge's Service or node, as an operator told it. Not from files.
    pub reach: Option<String>,
    /// The Services of backends that are there; one that agents name and that is not here does not exist. `None`: nobody knows (files, edges).
    pub services: Option<BTreeMap<ObjectKey, ServicePorts>>,
    /// True for what an operator chose for one edge: who may be where was judged by it over everything, and other edges and other
    /// agents are not here. Only what an object needs for itself is judged again.
    pub chosen: bool,
}

impl Snapshot {
    /// Whether agents of a namespace may have an address in the domain.
    pub fn allows_namespace(&self, domain: &SipDomain, namespace: &str) -> bool {
        self.chosen || domain.spec.allowed_namespaces.allows(&self.namespace_labels(namespace))
    }

    /// The labels of a namespace; of one that is not known, its name.
    pub fn namespace_labels(&self, namespace: &str) -> Labels {
        let known = self.namespaces.get(namespace).cloned();
        known.unwrap_or_else(|| Labels::from([(NAMESPACE_NAME_LABEL.to_owned(), namespace.to_owned())]))
    }

    /// Whether an agent answers at an edge: the edge allows its domain and has a store that can give the domain's durability, and `parentRefs`
    /// names the edge where it is given.
    pub fn serves(&self, edge_key: &ObjectKey, edge: &SipEdge, agent_key: &ObjectKey, agent: &McpAgent) -> bool {
        let parents = &agent.spec.parent_refs;
        let named = parents.is_empty() || parents.iter().any(|parent| parent.key(&agent_key.namespace) == *edge_key);
        let domain = self.domains.get(&agent.spec.address.domain_ref.name);
        named
            && domain
                .is_some_and(|domain| edge.spec.allows_domain(domain.labels()) && self.gives(edge_key, edge, domain))
    }

    /// Whether the store of an edge can give the durability of a domain. One that is not there is said at the edge, and counts as if it could.
    pub fn gives(&self, key: &ObjectKey, edge: &SipEdge, domain: &SipDomain) -> bool {
        self.store_kind_of(key, edge).is_none_or(|kind| kind.can_give(domain.spec.durability))
    }

    /// What kind of store an edge has; `None` where the one that it names is not there or is none.
    pub fn store_kind_of(&self, key: &ObjectKey, edge: &SipEdge) -> Option<StoreKind<'_>> {
        match &edge.spec.session_store_ref {
            None => Some(StoreKind::Memory),
            Some(_) => self.store_of(key, edge)?.spec.kind(),
        }
    }

    /// The SessionStore that an edge names; `None` where it names none (embedded, in memory) or that is not there.
    pub fn store_of(&self, key: &ObjectKey, edge: &SipEdge) -> Option<&Sourced<SessionStore>> {
        let reference = edge.spec.session_store_ref.as_ref()?;
        self.stores.get(&ObjectKey::new(&key.namespace, &reference.name))
    }
}
