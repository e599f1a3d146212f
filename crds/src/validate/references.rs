//! Rules over several objects: what one names exists and fits, and nothing stands twice.
//!
//! An object that breaks a rule is taken out of the snapshot and the rest stays. What needs it goes with it, so the order is: stores,
//! domains, edges, agents, policies. A policy that is refused closes the agents that it selects: nobody can tell what it would have denied.

mod candidate;

pub use candidate::judge_one;

use super::age::{Age, Firsts, age, first_by};
use super::verdict::{Faults, ObjectRef, Verdict};
use crate::core_v1::keys::{KeyError, naming_key, state_keys, token_keys};
use crate::core_v1::users::parse_user;
use crate::core_v1::{ConfigMap, Secret};
use crate::manifest::{ObjectKey, Origin, Problem, ServicePorts, Snapshot, Sourced};
use crate::v1alpha1::{
    BackendKind, ClientAuth, ContactAuthentication, DigestAuthentication, McpAgent, NamespacedRef, Reason,
    SessionStore, SipDomain, SipEdge, StoreKind, TargetKind, TargetRef, WorkloadKind,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Key of the certificate authorities in a ConfigMap.
pub const CA_KEY: &str = "ca.crt";
/// Key of the bearer token in a backend's credential Secret.
pub const TOKEN_KEY: &str = "token";
/// Key of the password in a store's Secret.
pub const PASSWORD_KEY: &str = "password";
/// Key of the ACL user's name in a store's Secret; may be absent.
pub const USERNAME_KEY: &str = "username";

/// A policy that could not be read or breaks a rule, and what it would have been for.
#[derive(Clone, Debug)]
pub struct RefusedPolicy {
    /// `None` where that could not be read: any namespace.
    pub key: Option<ObjectKey>,
    pub origin: Arc<Origin>,
    /// Kind and name of what it selects; `None` where that could not be read: every agent of its namespace, if that is known, and of the domains
    /// that take policies of that namespace.
    pub targets: Option<Vec<(TargetKind, String)>>,
}

impl RefusedPolicy {
    /// The policy would have been for this agent, or may have been: the agent is closed. `domain`: the agent's, where it is known. A policy
    /// that could never have been for it because of its namespace closes nothing.
    pub fn selects(&self, key: &ObjectKey, agent: &McpAgent, domain: Option<&SipDomain>) -> bool {
        let own_namespace = self.key.as_ref().is_none_or(|policy| policy.namespace == key.namespace);
        let taken = match (&self.key, domain) {
            (Some(policy), Some(domain)) => domain.spec.takes_policies_of(&policy.namespace),
            _ => true,
        };
        match &self.targets {
            None => own_namespace || taken,
            Some(targets) => targets.iter().any(|(kind, name)| match kind {
                TargetKind::McpAgent => own_namespace && *name == key.name,
                TargetKind::SipDomain => taken && *name == agent.spec.address.domain_ref.name,
            }),
        }
    }
}

/// Takes every object that breaks a rule out of the snapshot and says why.
pub fn settle(snapshot: &mut Snapshot, refused: &[RefusedPolicy]) -> Vec<Problem> {
    judge(snapshot, refused).iter().map(Verdict::problem).collect()
}

/// The same, with the reason for the status of each object.
pub fn judge(snapshot: &mut Snapshot, refused: &[RefusedPolicy]) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    let name_only = |name: &String| ObjectKey::new("", name);
    sift(&mut verdicts, snapshot, "SessionStore", ObjectKey::clone, |s| &mut s.stores, store);
    let firsts = first_by(&snapshot.domains, |_, domain: &SipDomain| Some(domain.spec.domain.to_ascii_lowercase()));
    sift(
        &mut verdicts,
        snapshot,
        "SipDomain",
        name_only,
        |s| &mut s.domains,
        |s, name, object, out| domain(s, &firsts, name, object, out),
    );
    // Whoever may not be in the domain does not take an address from those who may.
    let permitted = |key: &ObjectKey, agent: &McpAgent| {
        let domain = snapshot.domains.get(&agent.spec.address.domain_ref.name)?;
        snapshot.allows_namespace(domain, &key.namespace).then(|| address_of(agent))
    };
    let firsts = first_by(&snapshot.agents, permitted);
    let judge = |s: &Snapshot, key: &ObjectKey, object: &Sourced<McpAgent>, out: &mut Faults| {
        agent(s, &firsts, key, object, refused, out);
    };
    sift(&mut verdicts, snapshot, "McpAgent", ObjectKey::clone, |s| &mut s.agents, judge);
    let ranks = ranks(snapshot);
    let judge = |s: &Snapshot, key: &ObjectKey, object: &Sourced<McpAgent>, out: &mut Faults| {
        quota(s, &ranks, key, object, out);
    };
    sift(&mut verdicts, snapshot, "McpAgent", ObjectKey::clone, |s| &mut s.agents, judge);
    // Last: what an edge lacks (a certificate, its store) is its own affair, and takes nothing from the agents that it serves.
    sift(&mut verdicts, snapshot, "SipEdge", ObjectKey::clone, |s| &mut s.edges, edge);
    let standing = |kind, key: &ObjectKey, origin: &Arc<Origin>, (reason, field, message)| Verdict {
        object: ObjectRef { kind, key: key.clone() },
        origin: origin.clone(),
        reason,
        field,
        message,
        stands: true,
    };
    for (key, object) in &snapshot.edges {
        let fault = edge_durability(snapshot, key, object);
        verdicts.extend(fault.map(|fault| standing("SipEdge", key, &object.origin, fault)));
    }
    for (key, object) in &snapshot.agents {
        let faults = bearable(snapshot, key, object).into_iter();
        verdicts.extend(faults.map(|fault| standing("McpAgent", key, &object.origin, fault)));
    }
    policies(snapshot, &mut verdicts);
    verdicts
}

fn address_of(agent: &McpAgent) -> (String, String) {
    (agent.spec.address.domain_ref.name.clone(), agent.spec.address.user.clone())
}

/// Judges every object of a kind against the snapshot, then removes those with a fault.
fn sift<K: Ord + Clone, T>(
    verdicts: &mut Vec<Verdict>,
    snapshot: &mut Snapshot,
    kind: &'static str,
    named: impl Fn(&K) -> ObjectKey,
    objects: impl Fn(&mut Snapshot) -> &mut BTreeMap<K, Sourced<T>>,
    judge: impl Fn(&Snapshot, &K, &Sourced<T>, &mut Faults),
) {
    let all = objects(snapshot).clone();
    let mut removed = Vec::new();
    for (key, object) in &all {
        let mut faults = Faults::default();
        judge(snapshot, key, object, &mut faults);
        if !faults.0.is_empty() {
            removed.push(key);
        }
        verdicts.extend(faults.0.into_iter().map(|(reason, field, message)| Verdict {
            object: ObjectRef { kind, key: named(key) },
            origin: object.origin.clone(),
            reason,
            field,
            message,
            stands: false,
        }));
    }
    for key in removed {
        objects(snapshot).remove(key);
    }
}

/// The place of each agent among those of its domain, from 0, the oldest first.
fn ranks(snapshot: &Snapshot) -> BTreeMap<ObjectKey, usize> {
    let mut by_domain: BTreeMap<&str, Vec<Age<ObjectKey>>> = BTreeMap::new();
    for (key, agent) in &snapshot.agents {
        by_domain.entry(&agent.spec.address.domain_ref.name).or_default().push(age(key, agent));
    }
    let ranked = by_domain.into_values().flat_map(|mut ages| {
        ages.sort();
        ages.into_iter().enumerate().map(|(rank, (_, _, key))| (key, rank))
    });
    ranked.collect()
}

/// The domain has room for the agent.
fn quota(
    snapshot: &Snapshot,
    ranks: &BTreeMap<ObjectKey, usize>,
    key: &ObjectKey,
    agent: &Sourced<McpAgent>,
    faults: &mut Faults,
) {
    let name = &agent.spec.address.domain_ref.name;
    let max = snapshot.domains.get(name).and_then(|domain| domain.spec.quota.max_agents);
    if let (Some(max), Some(rank)) = (max, ranks.get(key))
        && *rank >= max as usize
        && !snapshot.chosen
    {
        let message =
            format!("SipDomain {name:?} takes {max} agents (quota.maxAgents) and has as many older ones; raise it");
        faults.add(Reason::QuotaExceeded, "spec.address.domainRef", message);
    }
}

fn domain(
    snapshot: &Snapshot,
    firsts: &Firsts<String, String>,
    name: &String,
    object: &Sourced<SipDomain>,
    faults: &mut Faults,
) {
    let spec = &object.spec;
    if let Some((other, first)) = firsts.get(&spec.domain.to_ascii_lowercase()).filter(|((.., first), _)| first != name)
    {
        let place = first.place();
        let message = format!("{} belongs to SipDomain {:?} ({place}); remove one", spec.domain, other.2);
        faults.add(Reason::DomainConflict, "spec.domain", message);
    }
    if let Some(digest) = &spec.authentication.digest {
        users(snapshot, digest, faults);
    }
    if let Some(certificates) = &spec.authentication.client_certificates {
        let NamespacedRef { namespace, name } = &certificates.ca_bundle_ref;
        ca_bundle(snapshot, namespace, name, "spec.authentication.clientCertificates.caBundleRef", faults);
    }
    if let Some(NamespacedRef { namespace, name }) = &spec.data_protection.key_secret_ref {
        let field = "spec.dataProtection.keySecretRef";
        if let Some(secret) = secret(snapshot, namespace, name, field, faults)
            && let Err(error) = state_keys(secret)
        {
            faults.add(Reason::SecretNotFound, field, in_secret(secret, &error));
        }
    }
    durability(snapshot, object, faults);
}

/// Of the edges that allow the domain at least one has a store that can give its class. Those that cannot do not serve it
/// ([`Snapshot::serves`]), and say so themselves ([`edge_durability`]).
fn durability(snapshot: &Snapshot, object: &Sourced<SipDomain>, faults: &mut Faults) {
    let allowing = || snapshot.edges.iter().filter(|(_, edge)| edge.spec.allows_domain(object.labels()));
    if allowing().any(|(key, edge)| snapshot.gives(key, edge, object)) {
        return;
    }
    for (key, edge) in allowing() {
        let message = format!(
            "{} cannot be had: SipEdge {key} ({}) {}; choose one of those or another store",
            object.spec.durability.as_str(),
            edge.origin.place(),
            keeps(snapshot, key, edge)
        );
        faults.add(Reason::DurabilityNotAvailable, "spec.durability", message);
    }
}

/// A domain that an edge allows and cannot serve, because its store cannot give the domain's class. The edge stands, and serves the others.
fn edge_durability(snapshot: &Snapshot, key: &ObjectKey, edge: &SipEdge) -> Option<(Reason, String, String)> {
    let refused =
        |domain: &&Sourced<SipDomain>| edge.spec.allows_domain(domain.labels()) && !snapshot.gives(key, edge, domain);
    let mut all = snapshot.domains.values().filter(refused);
    let first = all.next()?;
    let more = match all.count() {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    let message = format!(
        "does not serve {}{more}, which wants durability {}: it {}; name another store, or narrow the listeners' allowedDomains",
        first.spec.domain,
        first.spec.durability.as_str(),
        keeps(snapshot, key, edge)
    );
    Some((Reason::DurabilityNotAvailable, "spec.sessionStoreRef".to_owned(), message))
}

fn keeps(snapshot: &Snapshot, key: &ObjectKey, edge: &SipEdge) -> &'static str {
    match snapshot.store_kind_of(key, edge) {
        Some(StoreKind::Memory) => "keeps its store in memory, which gives Memory",
        Some(StoreKind::File(_)) => "keeps its store in a file, which gives Memory and Fsync",
        Some(StoreKind::Redis(_)) | None => "has a shared store, which gives every class",
    }
}

fn store(snapshot: &Snapshot, key: &ObjectKey, object: &Sourced<SessionStore>, faults: &mut Faults) {
    let Some(redis) = &object.spec.redis else { return };
    if let Some(reference) = &redis.auth_secret_ref {
        let field = "spec.redis.authSecretRef";
        if let Some(secret) = secret(snapshot, &key.namespace, &reference.name, field, faults) {
            let text =
                |key: &str| secret.get(key).map(|value| std::str::from_utf8(value).is_ok_and(|v| !v.trim().is_empty()));
            let place = secret.origin.place();
            if text(PASSWORD_KEY) != Some(true) {
                let message = format!("Secret {:?} ({place}) has no key {PASSWORD_KEY}", secret.name);
                faults.add(Reason::SecretNotFound, field, message);
            }
            if text(USERNAME_KEY) == Some(false) {
                let message = format!(
                    "Secret {:?} ({place}) has an empty {USERNAME_KEY}; remove it for the default user",
                    secret.name
                );
                faults.add(Reason::SecretNotFound, field, message);
            }
        }
    }
    if let Some(tls) = &redis.tls {
        ca_bundle(snapshot, &key.namespace, &tls.ca_bundle_ref.name, "spec.redis.tls.caBundleRef", faults);
    }
}

/// The store of an edge is there, and with a shared one so are the keys that all edges must have in common.
fn edge_store(snapshot: &Snapshot, key: &ObjectKey, object: &Sourced<SipEdge>, faults: &mut Faults) {
    let field = "spec.sessionStoreRef";
    let Some(reference) = &object.spec.session_store_ref else { return };
    let Some(store) = snapshot.store_of(key, object) else {
        let message = format!(
            "SessionStore {}/{} is not there or was refused; add it or correct it",
            key.namespace, reference.name
        );
        faults.add(Reason::StoreNotFound, field, message);
        return;
    };
    if !store.spec.kind().is_some_and(StoreKind::is_shared) {
        let spec = &object.spec;
        let every_node = spec.workload.kind == WorkloadKind::DaemonSet;
        if every_node || spec.autoscaling.is_some() || spec.replicas.is_some_and(|replicas| replicas > 1) {
            let message = format!(
                "SessionStore {:?} ({}) is embedded, for one edge only; name one with redis, or run one edge",
                reference.name,
                store.origin.place()
            );
            faults.add(Reason::StoreNotShared, field, message);
        }
        return;
    }
    let name = format!("{}-keys", key.name);
    let make = format!("sipmcp keys --edge {} --namespace {}", key.name, key.namespace);
    let Some(secret) = snapshot.secrets.get(&ObjectKey::new(&key.namespace, &name)) else {
        let message = format!(
            "SessionStore {:?} is shared, so every edge needs the same keys: Secret {}/{name} is not there or was refused; \
             where edges have run with it put it back from your copy, else make it with `{make}`",
            reference.name, key.namespace
        );
        faults.add(Reason::SecretNotFound, field, message);
        return;
    };
    if let Err(error) = token_keys(secret) {
        faults.add(Reason::SecretNotFound, field, in_secret(secret, &error));
    }
    match naming_key(secret) {
        Ok(Some(_)) => {}
        Ok(None) => {
            let message = format!(
                "Secret {name:?} ({}) has no key naming, with which the names in a shared store are made; add it with \
                 `{make} --add FILE`",
                secret.origin.place()
            );
            faults.add(Reason::SecretNotFound, field, message);
        }
        Err(error) => faults.add(Reason::SecretNotFound, field, in_secret(secret, &error)),
    }
}

/// What is wrong inside a Secret, for the object that names it.
fn in_secret(secret: &Sourced<Secret>, error: &KeyError) -> String {
    let key = error.key.as_ref().map(|key| format!(" {key:?}")).unwrap_or_default();
    format!("Secret {:?} ({}):{key} {}", secret.name, secret.origin.place(), error.message)
}

/// The users Secret exists, each value is well formed, and each user has a hash for one of the offered algorithms.
fn users(snapshot: &Snapshot, digest: &DigestAuthentication, faults: &mut Faults) {
    let field = "spec.authentication.digest.usersSecretRef";
    let NamespacedRef { namespace, name } = &digest.users_secret_ref;
    let Some(secret) = secret(snapshot, namespace, name, field, faults) else { return };
    let offered = digest.algorithms.iter().map(|algorithm| algorithm.as_str()).collect::<Vec<_>>().join(", ");
    for (user, value) in &secret.data {
        let place = secret.origin.place_of(&format!("data.{user}"));
        match parse_user(value.as_bytes()) {
            Err(error) => faults.add(Reason::SecretNotFound, field, format!("user {user:?} ({place}): {error}")),
            Ok(hashes) if !digest.algorithms.iter().any(|algorithm| hashes.contains_key(algorithm)) => {
                let message =
                    format!("user {user:?} ({place}) has no hash for {offered}; add one or offer another algorithm");
                faults.add(Reason::SecretNotFound, field, message);
            }
            Ok(_) => {}
        }
    }
}

fn edge(snapshot: &Snapshot, key: &ObjectKey, object: &Sourced<SipEdge>, faults: &mut Faults) {
    edge_store(snapshot, key, object, faults);
    let verifies = |d: &Sourced<SipDomain>| d.spec.authentication.client_certificates.is_some();
    for (index, listener) in object.spec.listeners.iter().enumerate() {
        let Some(tls) = &listener.tls else { continue };
        let field = format!("spec.listeners[{index}].tls");
        if tls.client_auth == ClientAuth::Required && !snapshot.domains.values().any(verifies) {
            let message =
                "nobody could connect: no SipDomain has authentication.clientCertificates; add one or use Optional";
            faults.add(Reason::UnsupportedValue, format!("{field}.clientAuth"), message);
        }
        for (index, reference) in tls.certificate_refs.iter().enumerate() {
            let field = format!("{field}.certificateRefs[{index}]");
            let Some(secret) = secret(snapshot, &key.namespace, &reference.name, &field, faults) else { continue };
            if secret.type_ != Secret::TYPE_TLS {
                let message = format!(
                    "Secret {:?} ({}) has type {}; it must be kubernetes.io/tls",
                    secret.name,
                    secret.origin.place(),
                    secret.type_
                );
                faults.add(Reason::SecretNotFound, &*field, message);
            }
            for (key, begin) in [("tls.crt", "-----BEGIN CERTIFICATE-----"), ("tls.key", "PRIVATE KEY-----")] {
                if !secret.get(key).is_some_and(|value| contains(value, begin.as_bytes())) {
                    let message = format!("Secret {:?} ({}) has no PEM in {key}", secret.name, secret.origin.place());
                    faults.add(Reason::SecretNotFound, &*field, message);
                }
            }
        }
    }
}

fn agent(
    snapshot: &Snapshot,
    firsts: &Firsts<(String, String), ObjectKey>,
    key: &ObjectKey,
    object: &Sourced<McpAgent>,
    refused: &[RefusedPolicy],
    faults: &mut Faults,
) {
    let spec = &object.spec;
    let address = &spec.address;
    let Some(domain) = snapshot.domains.get(&address.domain_ref.name) else {
        let message =
            format!("SipDomain {:?} is not there or was refused; add it or correct it", address.domain_ref.name);
        faults.add(Reason::DomainNotFound, "spec.address.domainRef", message);
        return;
    };
    if snapshot.allows_namespace(domain, &key.namespace) {
        if let Some((other, first)) = firsts.get(&address_of(object)).filter(|((.., first), _)| first != key) {
            let place = first.place();
            let message =
                format!("is the address of McpAgent {} ({place}) too; give one of them another user", other.2);
            faults.add(Reason::AddressConflict, "spec.address", message);
        }
    } else {
        let place = domain.origin.place();
        let (name, namespace) = (&address.domain_ref.name, &key.namespace);
        let message =
            format!("SipDomain {name:?} ({place}) takes no agents of namespace {namespace:?} (allowedNamespaces)");
        faults.add(Reason::DomainNotAllowed, "spec.address.domainRef", message);
    }
    let Attachment { faults: unattached, somewhere } = attachment(snapshot, key, object, domain);
    if !somewhere {
        faults.0.extend(unattached);
    }
    match spec.backend.kind() {
        Some(BackendKind::McpHttp(http)) => {
            if let Some(tls) = &http.tls {
                ca_bundle(
                    snapshot,
                    &key.namespace,
                    &tls.ca_bundle_ref.name,
                    "spec.backend.mcpHttp.tls.caBundleRef",
                    faults,
                );
            }
            if let Some(reference) = &http.credential_ref {
                let field = "spec.backend.mcpHttp.credentialRef";
                if let Some(secret) = secret(snapshot, &key.namespace, &reference.name, field, faults)
                    && secret.get(TOKEN_KEY).is_none_or(<[u8]>::is_empty)
                {
                    let message =
                        format!("Secret {:?} ({}) has no key {TOKEN_KEY}", secret.name, secret.origin.place());
                    faults.add(Reason::SecretNotFound, field, message);
                }
            }
        }
        Some(BackendKind::SipContact(contact)) => {
            let field = "spec.backend.sipContact.authentication";
            let authentication = &domain.spec.authentication;
            match (contact.authentication, &authentication.digest, &authentication.client_certificates) {
                (ContactAuthentication::Digest, None, _) => {
                    let message = format!("SipDomain {:?} has no authentication.digest", address.domain_ref.name);
                    faults.add(Reason::UnsupportedValue, field, message);
                }
                (ContactAuthentication::Digest, Some(digest), _) => {
                    let NamespacedRef { namespace, name } = &digest.users_secret_ref;
                    let users = snapshot.secrets.get(&ObjectKey::new(namespace, name));
                    if !users.is_some_and(|users| users.data.contains_key(&address.user)) {
                        let message = format!(
                            "user {:?} is not in Secret {namespace}/{name}, so it can never register; add it",
                            address.user
                        );
                        faults.add(Reason::SecretNotFound, field, message);
                    }
                }
                (ContactAuthentication::ClientCertificate, _, None) => {
                    let message =
                        format!("SipDomain {:?} has no authentication.clientCertificates", address.domain_ref.name);
                    faults.add(Reason::UnsupportedValue, field, message);
                }
                (ContactAuthentication::ClientCertificate, _, Some(_)) => {}
            }
        }
        None => {}
    }
    for policy in refused.iter().filter(|policy| policy.selects(key, object, Some(domain))) {
        let place = policy.origin.place();
        let name = policy.key.as_ref().map_or_else(|| "a policy".to_owned(), |key| format!("policy {key}"));
        let message =
            format!("is closed, because {name} ({place}) was refused and may deny something here; correct it");
        faults.add(Reason::InvalidPolicy, "spec.address", message);
    }
}

/// What is wrong with an agent that stands all the same.
fn bearable(snapshot: &Snapshot, key: &ObjectKey, agent: &Sourced<McpAgent>) -> Vec<(Reason, String, String)> {
    let domain = snapshot.domains.get(&agent.spec.address.domain_ref.name);
    let attached = domain.map(|domain| attachment(snapshot, key, agent, domain)).filter(|attached| attached.somewhere);
    let unattached = attached.map(|attached| attached.faults).unwrap_or_default();
    unattached.into_iter().chain(backend_fault(snapshot, key, agent)).collect()
}

/// The Service of the backend is there and has the port. The agent stands without it: its address is taken, and calls end as those of a backend
/// that does not answer.
fn backend_fault(snapshot: &Snapshot, key: &ObjectKey, agent: &McpAgent) -> Option<(Reason, String, String)> {
    let services = snapshot.services.as_ref()?;
    let reference = agent.spec.backend.mcp_http.as_ref()?.service_ref.as_ref()?;
    let service = ObjectKey::new(&key.namespace, &reference.name);
    let field = "spec.backend.mcpHttp.serviceRef";
    let fault = |field: String, message| Some((Reason::BackendNotFound, field, message));
    match services.get(&service) {
        None => fault(field.to_owned(), format!("Service {service} is not there; add it or correct the name")),
        Some(ServicePorts::Tcp(ports)) if !ports.contains(&reference.port) => {
            let there: Vec<_> = ports.iter().take(8).map(u16::to_string).collect();
            let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
            let message = format!(
                "Service {service} has no TCP port {}; add it or name one that it has: {there}",
                reference.port
            );
            fault(format!("{field}.port"), message)
        }
        Some(ServicePorts::Tcp(_) | ServicePorts::Elsewhere) => None,
    }
}

/// Where an agent may answer.
#[derive(Debug, Default)]
struct Attachment {
    /// What is wrong with its way to edges.
    faults: Vec<(Reason, String, String)>,
    /// There is an edge for it all the same.
    somewhere: bool,
}

/// There are edges at which the agent may answer. One that is not among them takes nothing from the others.
fn attachment(
    snapshot: &Snapshot,
    key: &ObjectKey,
    agent: &Sourced<McpAgent>,
    domain: &Sourced<SipDomain>,
) -> Attachment {
    let name = &agent.spec.address.domain_ref.name;
    let mut found = Attachment::default();
    for (index, parent) in agent.spec.parent_refs.iter().enumerate() {
        let field = format!("spec.parentRefs[{index}]");
        let edge_key = parent.key(&key.namespace);
        let fault = match snapshot.edges.get(&edge_key) {
            None if snapshot.chosen || snapshot.unread_edges.contains(&edge_key) => None,
            None => {
                let message = format!("SipEdge {edge_key} is not there; add it or correct it");
                Some((Reason::EdgeNotFound, field, message))
            }
            Some(edge) if edge.spec.allows_domain(domain.labels()) => None,
            Some(edge) => {
                let place = edge.origin.place();
                let message = format!(
                    "the listeners of SipEdge {edge_key} ({place}) do not allow SipDomain {name:?} (allowedDomains)"
                );
                Some((Reason::DomainNotAllowed, field, message))
            }
        };
        found.somewhere |= fault.is_none();
        found.faults.extend(fault);
    }
    let anywhere = |edge: &Sourced<SipEdge>| edge.spec.allows_domain(domain.labels());
    if agent.spec.parent_refs.is_empty() && !snapshot.edges.is_empty() && !snapshot.edges.values().any(anywhere) {
        let message = format!("no listener of any SipEdge allows SipDomain {name:?} (allowedDomains)");
        found.faults.push((Reason::DomainNotAllowed, "spec.address.domainRef".to_owned(), message));
    }
    found
}

/// A policy stays, whatever its targets: it still holds for those that are there and that it may be for.
fn policies(snapshot: &Snapshot, verdicts: &mut Vec<Verdict>) {
    for (key, policy) in &snapshot.policies {
        for (index, target) in policy.spec.target_refs.iter().enumerate() {
            if let Some((reason, message)) = target_fault(snapshot, &key.namespace, target) {
                verdicts.push(Verdict {
                    object: ObjectRef { kind: "McpCapabilityPolicy", key: key.clone() },
                    origin: policy.origin.clone(),
                    reason,
                    field: format!("spec.targetRefs[{index}]"),
                    message,
                    stands: true,
                });
            }
        }
    }
}

/// Why a policy of this namespace has no effect on a target.
fn target_fault(snapshot: &Snapshot, namespace: &str, target: &TargetRef) -> Option<(Reason, String)> {
    let name = &target.name;
    let missing = |what: String| {
        (Reason::TargetNotFound, format!("{what} is not there or was refused; add it or correct the name"))
    };
    match target.kind {
        TargetKind::McpAgent => {
            let found = snapshot.agents.contains_key(&ObjectKey::new(namespace, name));
            (!found).then(|| missing(format!("McpAgent {namespace}/{name}")))
        }
        TargetKind::SipDomain => {
            let Some(domain) = snapshot.domains.get(name) else {
                return Some(missing(format!("SipDomain {name:?}")));
            };
            (!domain.spec.takes_policies_of(namespace)).then(|| {
                let message = format!(
                    "SipDomain {name:?} ({}) takes no policies of namespace {namespace:?}, so this one has no effect on it; \
                     write one for McpAgents, or have the namespace added to the domain's policyNamespaces",
                    domain.origin.place()
                );
                (Reason::RefNotPermitted, message)
            })
        }
    }
}

/// The Secret, or a fault that says that it is missing.
fn secret<'a>(
    snapshot: &'a Snapshot,
    namespace: &str,
    name: &str,
    field: &str,
    faults: &mut Faults,
) -> Option<&'a Sourced<Secret>> {
    let found = snapshot.secrets.get(&ObjectKey::new(namespace, name));
    if found.is_none() {
        let message = format!(
            "Secret {namespace}/{name} is not there or was refused; add it to the manifests or correct the name"
        );
        faults.add(Reason::SecretNotFound, field, message);
    }
    found
}

/// The ConfigMap exists and has PEM certificates under `ca.crt`.
fn ca_bundle(snapshot: &Snapshot, namespace: &str, name: &str, field: &str, faults: &mut Faults) {
    let found: Option<&Sourced<ConfigMap>> = snapshot.config_maps.get(&ObjectKey::new(namespace, name));
    let message = match found {
        None => format!(
            "ConfigMap {namespace}/{name} is not there or was refused; add it to the manifests or correct the name"
        ),
        Some(map) if !map.data.get(CA_KEY).is_some_and(|pem| pem.contains("-----BEGIN CERTIFICATE-----")) => {
            format!("ConfigMap {namespace}/{name} ({}) has no PEM certificates in {CA_KEY}", map.origin.place())
        }
        Some(_) => return,
    };
    faults.add(Reason::ConfigMapNotFound, field, message);
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}
