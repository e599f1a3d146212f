//! What an object that is about to be written stands beside: as much of the index as its rules look at, and no more.

use super::{Index, Object, Shelf, references};
use crate::key::{Key, Kind};
use crds::manifest::{ObjectKey, Origin, Snapshot, Sourced};
use std::collections::BTreeSet;
use std::sync::Arc;

/// See the module.
#[derive(Debug)]
pub struct Near {
    /// The object itself, in place of the one that is there, and what its rules look at.
    pub snapshot: Snapshot,
    /// Agents of its domain that are there already; `None` where it is none of them, or one that is there.
    pub older: Option<usize>,
    /// It names a Secret or a ConfigMap that nobody named before, so it is not known whether that is there.
    pub unknown: bool,
    /// Its namespace is not known yet, so neither are its labels.
    pub stranger: bool,
}

impl Index {
    /// What belongs to one of our kinds. Everything that is written well counts, also what other rules leave out: whoever is refused
    /// today may stand tomorrow. One pass over the objects of a kind at most.
    #[must_use]
    pub fn near(&self, object: &Object) -> Near {
        let origin = Arc::new(Origin::api());
        let key = object.key();
        let at = &key.object;
        let mut near = Near { snapshot: Snapshot::default(), older: None, unknown: false, stranger: false };
        let snapshot = &mut near.snapshot;
        let names = match object {
            Object::Edge(object) => {
                let names = references::of_edge(at, object);
                if let Some(store) = &object.spec.session_store_ref {
                    let store = ObjectKey::new(&at.namespace, &store.name);
                    put(&self.stores, &store, &mut snapshot.stores, &origin);
                }
                // One that verifies certificates is as good as all.
                let verifies =
                    |object: &crds::v1alpha1::SipDomain| object.spec.authentication.client_certificates.is_some();
                let domain =
                    self.domains.iter().find(|(_, entry)| entry.findings.is_empty() && verifies(&entry.object));
                if let Some((key, entry)) = domain {
                    let object = entry.object.clone();
                    snapshot.domains.insert(key.name.clone(), Sourced { object, origin: origin.clone() });
                }
                snapshot.edges.insert(at.clone(), Sourced { object: Arc::new((**object).clone()), origin });
                names
            }
            Object::Store(object) => {
                snapshot.stores.insert(at.clone(), Sourced { object: Arc::new((**object).clone()), origin });
                references::of_store(at, object)
            }
            Object::Domain(object) => {
                for (key, entry) in self.domains.iter().filter(|(key, entry)| {
                    *key != at && entry.object.spec.domain.eq_ignore_ascii_case(&object.spec.domain)
                }) {
                    let object = entry.object.clone();
                    snapshot.domains.insert(key.name.clone(), Sourced { object, origin: origin.clone() });
                }
                self.put_edges(&mut near.snapshot, &origin, true);
                let domain = Sourced { object: Arc::new((**object).clone()), origin };
                near.snapshot.domains.insert(at.name.clone(), domain);
                references::of_domain(object)
            }
            Object::Agent(object) => {
                let address = &object.spec.address;
                let name = &address.domain_ref.name;
                let mut others = 0;
                for (key, entry) in self.agents.iter() {
                    let other = &entry.object.spec.address;
                    if other.domain_ref.name != *name || key == at || !entry.findings.is_empty() {
                        continue;
                    }
                    others += 1;
                    if other.user == address.user {
                        let object = entry.object.clone();
                        snapshot.agents.insert(key.clone(), Sourced { object, origin: origin.clone() });
                        self.put_namespace(&key.namespace, &mut snapshot.namespaces);
                    }
                }
                near.older = self.agents.get(at).is_none().then_some(others);
                near.stranger = !self.namespaces.contains_key(&at.namespace);
                self.put_namespace(&at.namespace, &mut near.snapshot.namespaces);
                self.put_domain(name, &mut near.snapshot, &origin);
                self.put_edges(&mut near.snapshot, &origin, false);
                near.snapshot.agents.insert(at.clone(), Sourced { object: Arc::new((**object).clone()), origin });
                let mut names = references::of_agent(at, object);
                near.snapshot.services = self.services(names.iter());
                // Its user may be asked for its password.
                if let Some(domain) = self.domain(name) {
                    names.extend(references::of_domain(&domain.object));
                }
                names
            }
            Object::Policy(object) => {
                let names = references::of_policy(at, object);
                for key in &names {
                    match key.kind {
                        Kind::McpAgent => put(&self.agents, &key.object, &mut snapshot.agents, &origin),
                        Kind::SipDomain => self.put_domain(&key.object.name, snapshot, &origin),
                        _ => {}
                    }
                }
                snapshot.policies.insert(at.clone(), Sourced { object: Arc::new((**object).clone()), origin });
                names
            }
            Object::Secret(_)
            | Object::ConfigMap(_)
            | Object::Namespace(_)
            | Object::Endpoints(..)
            | Object::Unreadable(..) => BTreeSet::new(),
        };
        self.put_named(names, &mut near);
        near
    }

    fn put_named(&self, names: BTreeSet<Key>, near: &mut Near) {
        let origin = Arc::new(Origin::api());
        for key in names.into_iter().filter(|key| matches!(key.kind, Kind::Secret | Kind::ConfigMap)) {
            near.unknown |= !self.references.is_named(&key) || self.fetches.contains(&key);
            match key.kind {
                Kind::Secret => put(&self.secrets, &key.object, &mut near.snapshot.secrets, &origin),
                _ => put(&self.config_maps, &key.object, &mut near.snapshot.config_maps, &origin),
            }
        }
    }

    fn put_domain(&self, name: &str, snapshot: &mut Snapshot, origin: &Arc<Origin>) {
        if let Some(entry) = self.domain(name).filter(|entry| entry.findings.is_empty()) {
            let object = entry.object.clone();
            snapshot.domains.insert(name.to_owned(), Sourced { object, origin: origin.clone() });
        }
    }

    fn put_edges(&self, snapshot: &mut Snapshot, origin: &Arc<Origin>, stores: bool) {
        // One that is broken, or cannot be read, is there all the same.
        snapshot.unread_edges = self.unread_edges();
        for (key, entry) in self.edges.iter() {
            let object = entry.object.clone();
            if let Some(store) = object.spec.session_store_ref.as_ref().filter(|_| stores) {
                let store = ObjectKey::new(&key.namespace, &store.name);
                put(&self.stores, &store, &mut snapshot.stores, origin);
            }
            snapshot.edges.insert(key.clone(), Sourced { object, origin: origin.clone() });
        }
    }

    fn put_namespace(&self, name: &str, into: &mut std::collections::BTreeMap<String, crds::v1alpha1::Labels>) {
        into.extend(self.namespaces.get(name).map(|labels| (name.to_owned(), labels.clone())));
    }
}

fn put<T>(
    from: &Shelf<T>,
    key: &ObjectKey,
    into: &mut std::collections::BTreeMap<ObjectKey, Sourced<T>>,
    origin: &Arc<Origin>,
) {
    if let Some(entry) = from.get(key).filter(|entry| entry.findings.is_empty()) {
        into.insert(key.clone(), Sourced { object: entry.object.clone(), origin: origin.clone() });
    }
}
