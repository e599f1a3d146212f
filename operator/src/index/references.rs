//! Who refers to whom.

use crate::key::{Key, Kind};
use crds::manifest::ObjectKey;
use crds::v1alpha1::{
    BackendKind, McpAgent, McpCapabilityPolicy, NamespacedRef, SessionStore, SipDomain, SipEdge, TargetKind,
};
use std::collections::{BTreeMap, BTreeSet};

/// Both directions, always in step. An object that refers to nothing and to which nobody refers takes no room.
#[derive(Debug, Default)]
pub struct References {
    /// By the object that refers.
    names: BTreeMap<Key, BTreeSet<Key>>,
    /// By the object that is referred to, there or not.
    named_by: BTreeMap<Key, BTreeSet<Key>>,
}

/// What came and went by one change.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Moved {
    /// Nobody had named these before.
    pub first: Vec<Key>,
    /// Nobody names these any more.
    pub last: Vec<Key>,
}

impl References {
    /// Who refers to an object, whether it exists or not.
    pub fn referrers(&self, key: &Key) -> impl Iterator<Item = &Key> {
        self.named_by.get(key).into_iter().flatten()
    }

    /// Whether anybody does.
    #[must_use]
    pub fn is_named(&self, key: &Key) -> bool {
        self.named_by.contains_key(key)
    }

    /// Everything of a kind that somebody refers to, there or not.
    pub fn named(&self, kind: Kind) -> impl Iterator<Item = &Key> {
        self.named_by.keys().filter(move |key| key.kind == kind)
    }

    /// What an object refers to.
    pub fn named_by(&self, key: &Key) -> impl Iterator<Item = &Key> {
        self.names.get(key).into_iter().flatten()
    }

    /// From now on `from` refers to exactly these.
    pub(super) fn set(&mut self, from: &Key, to: BTreeSet<Key>) -> Moved {
        let mut moved = Moved::default();
        let before = self.names.remove(from).unwrap_or_default();
        for key in to.difference(&before) {
            let referrers = self.named_by.entry(key.clone()).or_default();
            if referrers.is_empty() {
                moved.first.push(key.clone());
            }
            referrers.insert(from.clone());
        }
        for key in before.difference(&to) {
            if let Some(referrers) = self.named_by.get_mut(key) {
                referrers.remove(from);
                if referrers.is_empty() {
                    self.named_by.remove(key);
                    moved.last.push(key.clone());
                }
            }
        }
        if !to.is_empty() {
            self.names.insert(from.clone(), to);
        }
        moved
    }
}

/// The Secret with the keys that all edges of a SipEdge have in common.
#[must_use]
pub fn keys_of(edge: &ObjectKey) -> ObjectKey {
    ObjectKey::new(&edge.namespace, format!("{}-keys", edge.name))
}

pub(super) fn of_edge(key: &ObjectKey, edge: &SipEdge) -> BTreeSet<Key> {
    let near = |kind, name: &str| Key::of(kind, &*key.namespace, name);
    let certificates = edge.spec.listeners.iter().filter_map(|l| l.tls.as_ref()).flat_map(|tls| &tls.certificate_refs);
    let mut names: BTreeSet<Key> = certificates.map(|reference| near(Kind::Secret, &reference.name)).collect();
    names.extend(edge.spec.session_store_ref.iter().map(|reference| near(Kind::SessionStore, &reference.name)));
    names.insert(Key::new(Kind::Secret, keys_of(key)));
    names
}

pub(super) fn of_store(key: &ObjectKey, store: &SessionStore) -> BTreeSet<Key> {
    let near = |kind, name: &str| Key::of(kind, &*key.namespace, name);
    let Some(redis) = &store.spec.redis else { return BTreeSet::new() };
    let bundle = redis.tls.iter().map(|tls| near(Kind::ConfigMap, &tls.ca_bundle_ref.name));
    bundle.chain(redis.auth_secret_ref.iter().map(|reference| near(Kind::Secret, &reference.name))).collect()
}

pub(super) fn of_domain(domain: &SipDomain) -> BTreeSet<Key> {
    let far = |kind| move |reference: &NamespacedRef| Key::of(kind, &*reference.namespace, &*reference.name);
    let authentication = &domain.spec.authentication;
    let users = authentication.digest.iter().map(|digest| &digest.users_secret_ref);
    let keys = domain.spec.data_protection.key_secret_ref.iter();
    let bundle = authentication.client_certificates.iter().map(|certificates| &certificates.ca_bundle_ref);
    users.chain(keys).map(far(Kind::Secret)).chain(bundle.map(far(Kind::ConfigMap))).collect()
}

pub(super) fn of_agent(key: &ObjectKey, agent: &McpAgent) -> BTreeSet<Key> {
    let near = |kind, name: &str| Key::of(kind, &*key.namespace, name);
    let mut names = BTreeSet::from([Key::of(Kind::SipDomain, "", &*agent.spec.address.domain_ref.name)]);
    names.extend(agent.spec.parent_refs.iter().map(|parent| Key::new(Kind::SipEdge, parent.key(&key.namespace))));
    if let Some(BackendKind::McpHttp(http)) = agent.spec.backend.kind() {
        names.extend(http.tls.iter().map(|tls| near(Kind::ConfigMap, &tls.ca_bundle_ref.name)));
        names.extend(http.credential_ref.iter().map(|reference| near(Kind::Secret, &reference.name)));
        names.extend(http.service_ref.iter().map(|service| near(Kind::Endpoints, &service.name)));
    }
    names
}

pub(super) fn of_policy(key: &ObjectKey, policy: &McpCapabilityPolicy) -> BTreeSet<Key> {
    let target = |kind, name: &String| match kind {
        TargetKind::McpAgent => Key::of(Kind::McpAgent, &*key.namespace, &**name),
        TargetKind::SipDomain => Key::of(Kind::SipDomain, "", &**name),
    };
    policy.spec.target_refs.iter().map(|reference| target(reference.kind, &reference.name)).collect()
}

/// What a policy names, as the policy does.
pub(super) fn target(name: Key) -> Option<(TargetKind, String)> {
    match name.kind {
        Kind::McpAgent => Some((TargetKind::McpAgent, name.object.name)),
        Kind::SipDomain => Some((TargetKind::SipDomain, name.object.name)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_stay_in_step_and_empty_ones_take_no_room() {
        let agent = |name: &str| Key::of(Kind::McpAgent, "acme", name);
        let secret = |name: &str| Key::of(Kind::Secret, "acme", name);
        let mut references = References::default();
        let moved = references.set(&agent("a"), [secret("s"), secret("t")].into());
        assert_eq!(moved.first, [secret("s"), secret("t")]);
        assert_eq!(references.set(&agent("b"), [secret("s")].into()), Moved::default());
        assert_eq!(references.referrers(&secret("s")).collect::<Vec<_>>(), [&agent("a"), &agent("b")]);
        let moved = references.set(&agent("a"), BTreeSet::new());
        assert_eq!(moved.last, [secret("t")]);
        assert_eq!(references.set(&agent("b"), BTreeSet::new()).last, [secret("s")]);
        assert!(references.names.is_empty() && references.named_by.is_empty());
    }
}
