//! All objects together, judged.

use super::{Index, References};
use crate::key::{Key, Kind};
use crds::manifest::{ObjectKey, Origin, Snapshot, Sourced};
use crds::v1alpha1::TargetKind;
use crds::validate::Verdict;
use crds::validate::references::{RefusedPolicy, judge};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The objects that stand, and what is wrong with the others.
#[derive(Debug)]
pub struct View {
    /// Those that keep every rule, over all edges.
    pub objects: Snapshot,
    /// Every object that keeps the rules of its own kind, and every SipEdge: what is wrong with one is for its edges to say, which go on as they
    /// were, and takes no agent from them.
    written: Snapshot,
    verdicts: BTreeMap<Key, Vec<Verdict>>,
}

impl View {
    pub(super) fn new(index: &Index) -> View {
        let written = written(index);
        let mut objects = written.clone();
        let mut verdicts = BTreeMap::<Key, Vec<Verdict>>::new();
        for verdict in judge(&mut objects, &refused(index)) {
            let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == verdict.object.kind);
            if let Some(kind) = kind {
                verdicts.entry(Key::new(kind, verdict.object.key.clone())).or_default().push(verdict);
            }
        }
        // They were there for the agents that they serve.
        objects.edges.retain(|key, _| index.edge(key).is_some_and(|entry| entry.findings.is_empty()));
        View { objects, written, verdicts }
    }

    /// Broken rules between objects, of one object, in the order in which they were found.
    #[must_use]
    pub fn verdicts_of(&self, key: &Key) -> &[Verdict] {
        self.verdicts.get(key).map_or(&[], Vec::as_slice)
    }

    /// The listeners of a SipEdge at which an agent answers: an edge does not tell them apart, so all or none.
    #[must_use]
    pub fn listeners_of(&self, agent: &ObjectKey, edge: &ObjectKey) -> BTreeSet<String> {
        match (self.objects.agents.get(agent), self.objects.edges.get(edge)) {
            (Some(object), Some(serving)) if self.objects.serves(edge, serving, agent, object) => {
                serving.spec.listeners.iter().map(|listener| listener.name.clone()).collect()
            }
            _ => BTreeSet::new(),
        }
    }

    /// What one SipEdge is told: itself, its store, the agents that it serves and what these need. The SipEdge and its store are there even
    /// where they were refused, so that the edge says what is wrong with them; everything else only where it stands.
    #[must_use]
    pub fn snapshot(&self, index: &Index, edge: &ObjectKey) -> Snapshot {
        let mut told = Snapshot { chosen: true, ..Snapshot::default() };
        let Some(serving) = self.written.edges.get(edge) else { return told };
        told.edges.insert(edge.clone(), serving.clone());
        let mut names: BTreeSet<&Key> = index.references.named_by(&Key::new(Kind::SipEdge, edge.clone())).collect();
        if let Some(reference) = &serving.spec.session_store_ref {
            let key = ObjectKey::new(&edge.namespace, &reference.name);
            names.extend(index.references.named_by(&Key::new(Kind::SessionStore, key.clone())));
            told.stores.extend(self.written.stores.get(&key).map(|store| (key, store.clone())));
        }
        for (key, agent) in &self.objects.agents {
            let domain = &agent.spec.address.domain_ref.name;
            let Some((name, object)) = self.objects.domains.get_key_value(domain) else { continue };
            // Until the domain has its number no edge can make a token for it.
            if index.tenant(&object.spec.domain).is_none() {
                continue;
            }
            // What the SipEdge itself lacks (a certificate, its store) is for its edges to say; it is no reason to let go of its agents.
            if !self.objects.serves(edge, serving, key, agent) {
                continue;
            }
            told.agents.insert(key.clone(), agent.clone());
            names.extend(index.references.named_by(&Key::new(Kind::McpAgent, key.clone())));
            if !told.domains.contains_key(name) {
                told.domains.insert(name.clone(), object.clone());
                names.extend(index.references.named_by(&Key::of(Kind::SipDomain, "", &**name)));
            }
        }
        for key in told.agents.keys() {
            let target = Key::new(Kind::McpAgent, key.clone());
            self.policies_for(&index.references, &target, |_| true, &mut told.policies);
        }
        for (name, domain) in &told.domains {
            let target = Key::of(Kind::SipDomain, "", &**name);
            let permitted = |namespace: &str| domain.spec.takes_policies_of(namespace);
            self.policies_for(&index.references, &target, permitted, &mut told.policies);
        }
        for Key { kind, object } in names {
            match kind {
                Kind::Secret => copy(&self.objects.secrets, object, &mut told.secrets),
                Kind::ConfigMap => copy(&self.objects.config_maps, object, &mut told.config_maps),
                _ => {}
            }
        }
        told
    }

    fn policies_for(
        &self,
        references: &References,
        target: &Key,
        permitted: impl Fn(&str) -> bool,
        into: &mut Policies,
    ) {
        let of_policy = |key: &&Key| key.kind == Kind::McpCapabilityPolicy && permitted(&key.object.namespace);
        for referrer in references.referrers(target).filter(of_policy) {
            copy(&self.objects.policies, &referrer.object, into);
        }
    }
}

type Objects<T> = std::collections::BTreeMap<ObjectKey, Sourced<T>>;
type Policies = Objects<crds::v1alpha1::McpCapabilityPolicy>;

fn copy<T>(from: &Objects<T>, key: &ObjectKey, into: &mut Objects<T>) {
    into.extend(from.get(key).map(|object| (key.clone(), object.clone())));
}

fn written(index: &Index) -> Snapshot {
    let services = index.services(index.references.named(Kind::Endpoints));
    let mut written = Snapshot { namespaces: index.namespaces.clone(), services, ..Snapshot::default() };
    let api = Arc::new(Origin::api());
    macro_rules! take {
        ($shelf:ident, $into:ident) => {
            for (key, entry) in index.$shelf.iter().filter(|(_, entry)| entry.findings.is_empty()) {
                let origin = api.clone();
                written.$into.insert(key.clone(), Sourced { object: entry.object.clone(), origin });
            }
        };
    }
    written.edges = index
        .edges
        .iter()
        .map(|(key, entry)| (key.clone(), Sourced { object: entry.object.clone(), origin: api.clone() }))
        .collect();
    written.unread_edges = index.unread_edges();
    take!(stores, stores);
    take!(agents, agents);
    take!(policies, policies);
    take!(secrets, secrets);
    take!(config_maps, config_maps);
    for (key, entry) in index.domains.iter().filter(|(_, entry)| entry.findings.is_empty()) {
        let origin = api.clone();
        written.domains.insert(key.name.clone(), Sourced { object: entry.object.clone(), origin });
    }
    written
}

/// Policies that are there and cannot be used: they close what they are for.
fn refused(index: &Index) -> Vec<RefusedPolicy> {
    let kind = Kind::McpCapabilityPolicy;
    let broken = index.policies.iter().filter(|(_, entry)| !entry.findings.is_empty()).map(|(key, entry)| {
        let targets = entry.object.spec.target_refs.iter().map(|target| (target.kind, target.name.clone())).collect();
        (Key::new(kind, key.clone()), Some(targets))
    });
    let unreadable = index.unreadable.iter().filter(|(key, _)| key.kind == kind);
    let unreadable = unreadable.map(|(key, why)| (key.clone(), why.targets.clone()));
    broken
        .chain(unreadable)
        .map(|(key, targets): (Key, Option<Vec<(TargetKind, String)>>)| RefusedPolicy {
            origin: Arc::new(Origin::api()),
            key: Some(key.object),
            targets,
        })
        .collect()
}
