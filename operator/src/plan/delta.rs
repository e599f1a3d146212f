//! What each edge should hold, and the messages that bring it there.

mod session;

use crate::index::{Content, Index};
use crate::key::{Key, Kind};
use bytes::Bytes;
use crds::manifest::ObjectKey;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use session::{
    Breach, Fact, MAX_DELTA_BYTES, MAX_ENTRIES, MAX_HELD, MAX_OUTSTANDING, Outcome, Progress, Session, UNANSWERED_MS,
    Verdict,
};

/// One object as an edge should hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Equal versions are equal contents.
    pub version: Arc<str>,
    pub json: Bytes,
    /// Of a SipDomain: the number of its tenant.
    pub tenant: Option<u16>,
}

/// Everything that the edges of one SipEdge should hold.
pub type Wanted = BTreeMap<Key, Item>;

/// What the edges of a SipEdge should hold: itself, its store, the agents that it serves, and what any of these name, the endpoints of
/// backends included. Empty where there is no
/// such SipEdge.
#[must_use]
pub fn wanted(index: &Index, edge: &ObjectKey) -> Wanted {
    let told = index.view().snapshot(index, edge);
    let mut wanted = Wanted::new();
    for key in told.edges.into_keys() {
        if let Some(Content { version, json }) = index.reached(&key) {
            wanted.insert(Key::new(Kind::SipEdge, key), Item { version, json, tenant: None });
        }
    }
    let mut add = |key: Key, tenant: Option<u16>| {
        if let Some(Content { version, json }) = index.content(&key).cloned() {
            wanted.insert(key, Item { version, json, tenant });
        }
    };
    for (name, domain) in &told.domains {
        add(Key::of(Kind::SipDomain, "", &**name), index.tenant(&domain.spec.domain));
    }
    for (key, agent) in &told.agents {
        let http = agent.spec.backend.mcp_http.as_ref();
        if let Some(service) = http.and_then(|http| http.service_ref.as_ref()) {
            add(Key::of(Kind::Endpoints, &*key.namespace, &*service.name), None);
        }
    }
    told.secrets.into_keys().for_each(|key| add(Key::new(Kind::Secret, key), None));
    told.config_maps.into_keys().for_each(|key| add(Key::new(Kind::ConfigMap, key), None));
    told.stores.into_keys().for_each(|key| add(Key::new(Kind::SessionStore, key), None));
    told.policies.into_keys().for_each(|key| add(Key::new(Kind::McpCapabilityPolicy, key), None));
    told.agents.into_keys().for_each(|key| add(Key::new(Kind::McpAgent, key), None));
    wanted
}

/// What every SipEdge should hold, and which of them a change touched.
#[derive(Debug, Default)]
pub struct Wants {
    by_edge: BTreeMap<ObjectKey, Arc<Wanted>>,
    complete: bool,
    /// Revision of the index that was taken in.
    revision: Option<u64>,
}

impl Wants {
    /// Takes in what changed in the index. Returns the SipEdges whose edges have to be told something, those that are gone included. To be
    /// called once for many changes: it looks at everything.
    pub fn update(&mut self, index: &Index) -> BTreeSet<ObjectKey> {
        self.complete = index.is_complete();
        self.revision = Some(index.revision());
        // Of one that could never be read nobody knows what its edges should hold: they keep what they have.
        let edges = index.keys(Kind::SipEdge).into_iter().map(|key| key.object);
        let edges: BTreeSet<ObjectKey> = edges.filter(|edge| index.edge(edge).is_some()).collect();
        let mut touched: BTreeSet<ObjectKey> =
            self.by_edge.keys().filter(|edge| !edges.contains(edge)).cloned().collect();
        self.by_edge.retain(|edge, _| edges.contains(edge));
        for edge in edges {
            let now = wanted(index, &edge);
            if self.by_edge.get(&edge).is_none_or(|before| !same(before, &now)) {
                self.by_edge.insert(edge.clone(), Arc::new(now));
                touched.insert(edge);
            }
        }
        touched
    }

    /// True where nothing changed in the index since the last [`Wants::update`]. Until then nobody can say what is programmed.
    #[must_use]
    pub fn are_current(&self, index: &Index) -> bool {
        self.revision == Some(index.revision())
    }

    /// What the edges of a SipEdge should hold. `None`: there is no such SipEdge.
    #[must_use]
    pub fn of(&self, edge: &ObjectKey) -> Option<&Arc<Wanted>> {
        self.by_edge.get(edge)
    }

    /// True where the index knew everything at the last [`Wants::update`]: what is wanted is all that there is.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete
    }
}

/// By versions: contents are not looked at.
fn same(a: &Wanted, b: &Wanted) -> bool {
    let alike =
        |(a, b): ((&Key, &Item), (&Key, &Item))| (a.0, &a.1.version, a.1.tenant) == (b.0, &b.1.version, b.1.tenant);
    a.len() == b.len() && a.iter().zip(b).all(alike)
}

#[cfg(test)]
mod tests;
