//! Status of what runs: SipEdge and SessionStore.

use super::{Said, Scene, changed, counts, judged, judged_at, programmed, ready, written};
use crate::key::{Key, Kind};
use crate::plan::fleet::Fleet;
use crds::manifest::ObjectKey;
use crds::v1alpha1::{
    ConditionType, ConnectedEdges, Durability, LatencyBand, ListenerStatus, Reason, SessionCounts, SessionStoreStatus,
    SipEdgeStatus, StoreKind,
};
use edge_api::control::{self, StoreHealth, StoreState};
use std::collections::BTreeMap;

/// `None`: the SipEdge is not there, or its status stands.
#[must_use]
pub fn edge(scene: &Scene<'_>, key: &ObjectKey) -> Option<SipEdgeStatus> {
    let entry = scene.index.edge(key)?;
    let before = entry.object.status.as_ref();
    let reference = Key::new(Kind::SipEdge, key.clone());
    let nobody = Fleet::default();
    let fleet = scene.fleets.get(key).unwrap_or(&nobody);
    let [accepted, resolved] = judged(scene.index, &reference, &entry.findings, Reason::InvalidSpec);
    let (programmed, _) = programmed(scene, &reference, entry.generation);
    let pods = match fleet.ready {
        0 => Said::no(ConditionType::Ready, Reason::NoPod, "no pod is ready"),
        _ => Said::yes(ConditionType::Ready),
    };
    let stores: Vec<&StoreHealth> = fleet.edges.values().filter_map(|edge| edge.store.as_ref()).collect();
    let store = entry.object.spec.session_store_ref.is_some().then(|| reachable(&stores));
    let ready = ready([&accepted, &resolved, &pods].into_iter().chain(&store));
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let sum =
        |counted: fn(&crate::plan::fleet::Edge) -> u32| fleet.edges.values().map(counted).fold(0, u32::saturating_add);
    let sessions = SessionCounts { active: sum(|edge| edge.sessions), in_flight: sum(|edge| edge.in_flight) };
    let listeners = listeners(scene, key, &programmed);
    let status = SipEdgeStatus {
        observed_generation: Some(entry.generation),
        conditions: written(
            vec![accepted, resolved, programmed, ready],
            before.map_or(&[], |before| &before.conditions),
            entry.generation,
            scene.now,
        ),
        addresses: fleet.addresses.clone(),
        replicas: fleet.replicas,
        selector: fleet.selector.clone(),
        ready: fleet.ready,
        draining: count(fleet.edges.values().filter(|edge| edge.is_draining()).count()),
        listeners,
        edges: Some(ConnectedEdges {
            connected: count(fleet.edges.len()),
            programmed: count(fleet.edges.values().filter(|edge| edge.session.is_programmed()).count()),
        }),
        sessions: (!fleet.edges.is_empty())
            .then(|| counts(before.and_then(|before| before.sessions.as_ref()), sessions, scene.counters_due)),
    };
    changed(before, status)
}

/// How many agents answer at each listener, and what holds of it: what is wrong with its own fields, or with the SipEdge as a whole. An edge
/// takes a SipEdge in one piece, so `programmed` is that of all its listeners.
fn listeners(scene: &Scene<'_>, key: &ObjectKey, programmed: &Said) -> Vec<ListenerStatus> {
    let Some(entry) = scene.index.edge(key) else { return Vec::new() };
    let mut attached: BTreeMap<String, u32> = BTreeMap::new();
    let view = scene.index.view();
    for agent in view.objects.agents.keys() {
        for listener in view.listeners_of(agent, key) {
            *attached.entry(listener).or_default() += 1;
        }
    }
    let reference = Key::new(Kind::SipEdge, key.clone());
    let status = |(index, name): (usize, &String)| {
        let own = format!("spec.listeners[{index}]");
        let concerns = |field: &str| field.starts_with(&own) || !field.starts_with("spec.listeners[");
        let [accepted, resolved] = judged_at(scene.index, &reference, &entry.findings, Reason::InvalidSpec, concerns);
        let before = entry.object.status.iter().flat_map(|before| &before.listeners);
        let before = before.filter(|before| before.name == *name).map(|before| &*before.conditions).next();
        ListenerStatus {
            name: name.clone(),
            attached_agents: attached.get(name).copied().unwrap_or(0),
            conditions: written(
                vec![accepted, resolved, programmed.clone()],
                before.unwrap_or_default(),
                entry.generation,
                scene.now,
            ),
        }
    };
    entry.object.spec.listeners.iter().map(|listener| &listener.name).enumerate().map(status).collect()
}

/// `None`: the store is not there, or its status stands.
#[must_use]
pub fn store(scene: &Scene<'_>, key: &ObjectKey) -> Option<SessionStoreStatus> {
    let entry = scene.index.store(key)?;
    let before = entry.object.status.as_ref();
    let reference = Key::new(Kind::SessionStore, key.clone());
    let [accepted, resolved] = judged(scene.index, &reference, &entry.findings, Reason::InvalidSpec);
    let edges = scene.fleets.values().flat_map(|fleet| fleet.edges.values());
    let of_this =
        |health: &&StoreHealth| health.store.as_ref().and_then(Key::from_message).as_ref() == Some(&reference);
    let reports: Vec<&StoreHealth> = edges.filter_map(|edge| edge.store.as_ref()).filter(of_this).collect();
    let status = SessionStoreStatus {
        observed_generation: Some(entry.generation),
        conditions: written(
            vec![accepted, resolved, reachable(&reports), durable(scene, key, &reports), eviction_safe(&reports)],
            before.map_or(&[], |before| &before.conditions),
            entry.generation,
            scene.now,
        ),
        topology: entry.object.spec.kind().map(|kind| match kind {
            StoreKind::Memory => "Memory".to_owned(),
            StoreKind::File(_) => "File".to_owned(),
            StoreKind::Redis(redis) => format!("{:?}", redis.topology),
        }),
        latency_ms: median(&reports).map(|us| band(before.and_then(|before| before.latency_ms.as_ref()), us)),
    };
    changed(before, status)
}

/// The band of so many microseconds. As with other counters, one that was shown stays up to a tenth beyond its ends.
fn band(before: Option<&LatencyBand>, us: u32) -> LatencyBand {
    let tenths = |ms: u32, tenths: u64| u64::from(ms) * tenths * 100;
    let stays = before.filter(|band| {
        u64::from(us) >= tenths(band.from, 9) && band.below.is_none_or(|below| u64::from(us) <= tenths(below, 11))
    });
    stays.cloned().unwrap_or_else(|| LatencyBand::of(us / 1000))
}

/// Of the edges that have measured something.
fn median(reports: &[&StoreHealth]) -> Option<u32> {
    let mut latencies: Vec<u32> = reports
        .iter()
        .filter(|health| health.state() == StoreState::Reachable && health.latency_us > 0)
        .map(|health| health.latency_us)
        .collect();
    latencies.sort_unstable();
    latencies.get(latencies.len().checked_sub(1)? / 2).copied()
}

/// The worst word of any edge.
fn reachable(reports: &[&StoreHealth]) -> Said {
    let type_ = ConditionType::Reachable;
    if reports.is_empty() {
        return Said::unknown(type_, Reason::Unknown, "no edge has reported on it");
    }
    let failed = reports.iter().filter(|health| health.state() != StoreState::Reachable);
    let count = failed.clone().count();
    match failed.min_by_key(|health| health.state) {
        None => Said::yes(type_),
        Some(health) => {
            let reason = match health.state() {
                StoreState::AuthFailed => Reason::AuthFailed,
                StoreState::ProtocolError => Reason::ProtocolError,
                _ => Reason::ConnectFailed,
            };
            Said::no(type_, reason, format!("{count} of {} edges: {}", reports.len(), health.message))
        }
    }
}

/// What the classes of the domains need that the edges of this store serve.
fn durable(scene: &Scene<'_>, key: &ObjectKey, reports: &[&StoreHealth]) -> Said {
    let type_ = ConditionType::Durable;
    let uses = |edge: &&ObjectKey| {
        let store = scene.index.edge(edge).and_then(|entry| entry.object.spec.session_store_ref.as_ref());
        edge.namespace == key.namespace && store.is_some_and(|store| store.name == key.name)
    };
    let wanted =
        scene.fleets.keys().filter(uses).filter_map(|edge| scene.wants.of(edge)).flat_map(|wanted| wanted.keys());
    let classes =
        wanted.filter(|key| key.kind == Kind::SipDomain).filter_map(|key| scene.index.domain(&key.object.name));
    let needs_fsync = classes.map(|entry| entry.object.spec.durability).any(|class| class == Durability::Fsync);
    let can = reports.iter().filter(|health| health.durability.is_some()).map(|health| health.durability()).min();
    match can {
        None => Said::unknown(type_, Reason::Unknown, "no edge has reported what the store keeps"),
        Some(control::Durability::Fsync) => Said::yes(type_),
        Some(control::Durability::Snapshots) if !needs_fsync => Said::yes(type_),
        Some(control::Durability::Snapshots) => Said::no(
            type_,
            Reason::NotPersistent,
            "a domain has durability Fsync: set appendonly yes and appendfsync always",
        ),
        Some(_) => {
            Said::no(type_, Reason::NotPersistent, "nothing survives the store's process: turn on AOF or snapshots")
        }
    }
}

fn eviction_safe(reports: &[&StoreHealth]) -> Said {
    let type_ = ConditionType::EvictionSafe;
    let mut known = reports.iter().filter(|health| health.state() == StoreState::Reachable);
    match known.clone().find(|health| !matches!(&*health.eviction_policy, "" | "noeviction")) {
        Some(health) => {
            let message = format!("maxmemory-policy is {}; it must be noeviction", health.eviction_policy);
            Said::no(type_, Reason::PolicyEvicts, message)
        }
        None if known.next().is_some() => Said::yes(type_),
        None => Said::unknown(type_, Reason::Unknown, "no edge has reached it"),
    }
}
