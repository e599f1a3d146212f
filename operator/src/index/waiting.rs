//! New versions of objects that are here, until what they newly name was looked for.

use super::{Applied, Index, Object, references};
use crate::key::{Key, Kind};
use std::collections::BTreeSet;

/// Versions that wait for what they newly name; one more takes effect at once.
pub const MAX_WAITING: usize = 4096;

/// A version that waits, and for what.
#[derive(Debug)]
pub(super) struct Waiting {
    object: Object,
    resource_version: Option<u64>,
    names: BTreeSet<Key>,
}

impl Index {
    /// It is older than the version that waits. What cannot be read is never taken for older.
    pub(super) fn is_behind_waiting(&self, key: &Key, object: &Object) -> bool {
        let waiting = self.waiting.get(key).and_then(|waiting| waiting.resource_version);
        matches!((version_of(object), waiting), (Some(new), Some(waiting)) if new < waiting)
    }

    /// What a new version names together with the one that stands, where it names something that was not looked for yet.
    pub(super) fn has_to_wait(&self, key: &Key, object: &Object) -> Option<BTreeSet<Key>> {
        let there = self.meta(key)?;
        let (uid, names) = named_in(object)?;
        let now = self.names_of(key);
        let unknown =
            |name: &Key| kept_while_named(name) && (self.fetches.contains(name) || !self.references.is_named(name));
        let waits = there.uid == uid && names.difference(&now).any(unknown);
        let room = self.waiting.len() < MAX_WAITING || self.waiting.contains_key(key);
        (waits && room && !there.broken).then_some(names)
    }

    pub(super) fn wait(&mut self, key: Key, object: Object, names: BTreeSet<Key>) -> Applied {
        if self.is_behind_waiting(&key, &object) {
            return Applied::Unchanged;
        }
        let resource_version = version_of(&object);
        let both = &names | &self.names_of(&key);
        self.refer(&key, both);
        self.waiting.insert(key, Waiting { object, resource_version, names });
        self.changed()
    }

    /// A Secret or ConfigMap was looked for: whoever waited for nothing else takes effect.
    pub(super) fn look_again(&mut self, looked_for: &Key) {
        if !kept_while_named(looked_for) || self.waiting.is_empty() {
            return;
        }
        let waits = |key: &&Key| self.waiting.get(key).is_some_and(|waiting| waiting.names.is_disjoint(&self.fetches));
        for key in self.references.referrers(looked_for).filter(waits).cloned().collect::<Vec<_>>() {
            if let Some(Waiting { object, .. }) = self.waiting.remove(&key)
                // Where there is no room its kind is short now, and is listed again.
                && let Err(full) = self.take(object)
            {
                debug_assert!(self.is_short(key.kind), "{full}");
            }
        }
    }

    /// What the version that stands names.
    pub(super) fn names_of(&self, key: &Key) -> BTreeSet<Key> {
        let at = &key.object;
        let names = match key.kind {
            Kind::SipEdge => self.edges.get(at).map(|entry| references::of_edge(at, &entry.object)),
            Kind::SessionStore => self.stores.get(at).map(|entry| references::of_store(at, &entry.object)),
            Kind::SipDomain => self.domains.get(at).map(|entry| references::of_domain(&entry.object)),
            Kind::McpAgent => self.agents.get(at).map(|entry| references::of_agent(at, &entry.object)),
            Kind::McpCapabilityPolicy => self.policies.get(at).map(|entry| references::of_policy(at, &entry.object)),
            Kind::Secret | Kind::ConfigMap | Kind::Namespace | Kind::Endpoints => None,
        };
        names.unwrap_or_default()
    }
}

/// Whether the index keeps objects of this kind only while somebody names them.
pub(super) fn kept_while_named(key: &Key) -> bool {
    matches!(key.kind, Kind::Secret | Kind::ConfigMap)
}

/// uid of an object that names others, and what it names.
fn named_in(object: &Object) -> Option<(&str, BTreeSet<Key>)> {
    let key = object.key();
    let (meta, names) = match object {
        Object::Edge(object) => (&object.metadata, references::of_edge(&key.object, object)),
        Object::Store(object) => (&object.metadata, references::of_store(&key.object, object)),
        Object::Domain(object) => (&object.metadata, references::of_domain(object)),
        Object::Agent(object) => (&object.metadata, references::of_agent(&key.object, object)),
        Object::Policy(object) => (&object.metadata, references::of_policy(&key.object, object)),
        Object::Secret(_)
        | Object::ConfigMap(_)
        | Object::Namespace(_)
        | Object::Endpoints(..)
        | Object::Unreadable(..) => return None,
    };
    Some((meta.uid.as_deref().unwrap_or_default(), names))
}

/// The resourceVersion of an object that names others, as a number.
fn version_of(object: &Object) -> Option<u64> {
    let meta = match object {
        Object::Edge(object) => &object.metadata,
        Object::Store(object) => &object.metadata,
        Object::Domain(object) => &object.metadata,
        Object::Agent(object) => &object.metadata,
        Object::Policy(object) => &object.metadata,
        _ => return None,
    };
    meta.resource_version.as_deref()?.parse().ok()
}
