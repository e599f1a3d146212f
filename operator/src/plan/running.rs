//! What runs in the cluster for our SipEdges: their workloads, pods and Services as the watches last showed them.
//!
//! Only what is labelled as ours comes here, and of it only what a status or a rollout needs.

use crate::index::{Index, Reach};
use crate::plan::fleet::{Edge, Fleet, Fleets};
use crate::plan::rollout::{self, Drain, Observed};
use crate::plan::workload::selector;
use crds::manifest::ObjectKey;
use crds::v1alpha1::{AdvertiseFrom, NetworkMode, SipEdge, WorkloadKind};
use k8s_openapi::api::apps::v1::{DaemonSet, StatefulSet};
use k8s_openapi::api::core::v1::{self as core, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::{BTreeMap, BTreeSet};

/// Label with the name of the SipEdge.
pub const INSTANCE: &str = "app.kubernetes.io/instance";
/// Selects everything that is watched here.
pub const LABELS: &str = "app.kubernetes.io/managed-by=sipmcp-operator,app.kubernetes.io/name=sipmcp-edge";
/// Objects of one kind. With one more it is not seen, so nothing is done with it.
pub const MAX_OBJECTS: usize = 65_536;
/// Addresses in a status.
const MAX_ADDRESSES: usize = 64;
/// Label of a pod of a DaemonSet, and annotation of the DaemonSet, that the DaemonSet controller compares.
const TEMPLATE_GENERATION: &str = "pod-template-generation";
const TEMPLATE_GENERATION_OF_SET: &str = "deprecated.daemonset.template.generation";

/// See the module.
#[derive(Debug, Default)]
pub struct Running {
    sets: BTreeMap<ObjectKey, Set>,
    daemons: BTreeMap<ObjectKey, Set>,
    pods: BTreeMap<ObjectKey, Pod>,
    services: BTreeMap<ObjectKey, Vec<String>>,
    /// Addresses of nodes that are reached from outside, by name.
    nodes: BTreeMap<ObjectKey, Vec<String>>,
    /// Which kinds were listed.
    listed: BTreeSet<Listed>,
    revision: u64,
}

/// The kinds that are watched here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Listed {
    StatefulSets,
    DaemonSets,
    Pods,
    Services,
    Nodes,
}

impl Listed {
    /// Without these nothing is done. Nodes have addresses for a status, and who may not list them goes without.
    const NEEDED: [Listed; 4] = [Listed::StatefulSets, Listed::DaemonSets, Listed::Pods, Listed::Services];
}

/// An object that is watched here.
#[derive(Clone, Debug)]
pub enum Thing {
    StatefulSet(Box<StatefulSet>),
    DaemonSet(Box<DaemonSet>),
    Pod(Box<core::Pod>),
    Service(Box<Service>),
    Node(Box<core::Node>),
}

/// A StatefulSet or DaemonSet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Set {
    /// `spec.replicas`, or the pods that a DaemonSet should have.
    wanted: u32,
    /// What its pods should be of.
    revision: String,
    /// The controller has seen the latest spec: what it says of revisions is true.
    current: bool,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Pod {
    /// Name of its SipEdge.
    edge: String,
    uid: String,
    revision: String,
    ready: bool,
    ending: bool,
    /// It failed or succeeded: its controller makes another one.
    over: bool,
    /// Name of its node, and the address that it has among the nodes.
    node: String,
    host: Option<String>,
}

impl Thing {
    fn meta(&self) -> &ObjectMeta {
        match self {
            Thing::StatefulSet(object) => &object.metadata,
            Thing::DaemonSet(object) => &object.metadata,
            Thing::Pod(object) => &object.metadata,
            Thing::Service(object) => &object.metadata,
            Thing::Node(object) => &object.metadata,
        }
    }

    /// Namespace and name.
    #[must_use]
    pub fn key(&self) -> ObjectKey {
        crate::index::key_of(self.meta())
    }

    #[must_use]
    pub fn listed(&self) -> Listed {
        match self {
            Thing::StatefulSet(_) => Listed::StatefulSets,
            Thing::DaemonSet(_) => Listed::DaemonSets,
            Thing::Pod(_) => Listed::Pods,
            Thing::Service(_) => Listed::Services,
            Thing::Node(_) => Listed::Nodes,
        }
    }
}

impl Running {
    /// True once everything was listed that a rollout needs: what is not here is not there.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        Listed::NEEDED.iter().all(|listed| self.listed.contains(listed))
    }

    /// Rises with every change.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Takes a new or changed object. False: nothing that matters has changed, or there is no room.
    pub fn apply(&mut self, thing: &Thing) -> bool {
        let key = thing.key();
        let changed = match thing {
            Thing::StatefulSet(set) => put(&mut self.sets, key, stateful(set)),
            Thing::DaemonSet(set) => put(&mut self.daemons, key, daemon(set)),
            Thing::Pod(object) => put(&mut self.pods, key, pod(object)),
            Thing::Service(service) => put(&mut self.services, key, service_addresses(service)),
            Thing::Node(node) => put(&mut self.nodes, key, node_addresses(node)),
        };
        self.revision += u64::from(changed);
        changed
    }

    /// An object is gone. `uid`: of it, so that one that was made anew meanwhile stays.
    pub fn delete(&mut self, listed: Listed, key: &ObjectKey, uid: Option<&str>) -> bool {
        let other = |pod: &Pod| uid.is_some_and(|uid| uid != pod.uid);
        let changed = match listed {
            Listed::StatefulSets => self.sets.remove(key).is_some(),
            Listed::DaemonSets => self.daemons.remove(key).is_some(),
            Listed::Pods => self.pods.get(key).is_some_and(|pod| !other(pod)) && self.pods.remove(key).is_some(),
            Listed::Services => self.services.remove(key).is_some(),
            Listed::Nodes => self.nodes.remove(key).is_some(),
        };
        self.revision += u64::from(changed);
        changed
    }

    /// The watch of a kind, or of one namespace of it, began again with this list.
    pub fn reset(&mut self, listed: Listed, namespace: Option<&str>, things: &[Thing]) {
        let keys: BTreeSet<ObjectKey> =
            things.iter().filter(|thing| thing.listed() == listed).map(Thing::key).collect();
        let stays =
            |key: &ObjectKey| keys.contains(key) || namespace.is_some_and(|namespace| key.namespace != namespace);
        match listed {
            Listed::StatefulSets => self.sets.retain(|key, _| stays(key)),
            Listed::DaemonSets => self.daemons.retain(|key, _| stays(key)),
            Listed::Pods => self.pods.retain(|key, _| stays(key)),
            Listed::Services => self.services.retain(|key, _| stays(key)),
            Listed::Nodes => self.nodes.retain(|key, _| stays(key)),
        }
        for thing in things {
            self.apply(thing);
        }
        self.listed.insert(listed);
        self.revision += 1;
    }

    /// Brings to the fleets what runs. What nothing is left of goes. True: something changed.
    pub fn count(&self, index: &Index, fleets: &mut Fleets) -> bool {
        let mut changed = false;
        let mut edges: BTreeSet<ObjectKey> =
            index.keys(crate::key::Kind::SipEdge).into_iter().map(|key| key.object).collect();
        let exists = edges.clone();
        edges.extend(fleets.keys().cloned());
        for edge in edges {
            if !exists.contains(&edge) && fleets.get(&edge).is_some_and(|fleet| fleet.edges.is_empty()) {
                fleets.remove(&edge);
                changed = true;
                continue;
            }
            changed |= !fleets.contains_key(&edge);
            let fleet = fleets.entry(edge.clone()).or_default();
            let object = index.edge(&edge).map(|entry| &*entry.object);
            let set = object.and_then(|object| self.set(&edge, object));
            let first = object.and_then(|object| object.spec.first_replicas()).unwrap_or(0);
            let pods = || self.pods_of(&edge).filter(|(_, pod)| !pod.over);
            let facts = (
                set.map_or(first, |set| set.wanted),
                count(pods()),
                count(pods().filter(|(_, pod)| pod.ready && !pod.ending)),
                Some(text(&selector(&edge))),
                object.map(|object| self.addresses(&edge, object)).unwrap_or_default(),
            );
            let Fleet { desired, replicas, ready, selector, addresses, .. } = &*fleet;
            changed |= facts != (*desired, *replicas, *ready, selector.clone(), addresses.clone());
            (fleet.desired, fleet.replicas, fleet.ready, fleet.selector, fleet.addresses) = facts;
            // Whoever is gone needs no order any more.
            let Fleet { drains, by_hand, .. } = &mut *fleet;
            drains.retain(|name, _| self.pods.contains_key(&ObjectKey::new(&edge.namespace, name)));
            // A pod that came again under its name was asked nothing.
            by_hand.retain(|name, uid| {
                let same = self.uid_of(&ObjectKey::new(&edge.namespace, &**name)) == Some(uid.as_str());
                if !same {
                    drains.remove(name);
                }
                same
            });
        }
        changed
    }

    /// What a rollout of a SipEdge has to know. `began`: since when each pod drains, by uid, as far as the caller has seen it; `now`: the same
    /// clock, in seconds.
    #[must_use]
    pub fn observed(
        &self,
        edge: &ObjectKey,
        object: &SipEdge,
        fleet: Option<&Fleet>,
        began: &BTreeMap<String, u64>,
        now: u64,
    ) -> Observed {
        let set = self.set(edge, object);
        let grace = object.spec.drain.grace_seconds();
        let drain_of = |name: &str| drain(fleet, name);
        let pods = self.pods_of(edge).filter(|(_, pod)| !pod.over);
        let seen = |name: &str, pod: &Pod| rollout::Pod {
            uid: pod.uid.clone(),
            revision: pod.revision.clone(),
            ready: pod.ready,
            ending: pod.ending,
            drain: drain_of(name),
            overdue: began.get(&pod.uid).is_some_and(|began| now.saturating_sub(*began) >= grace),
            by_hand: fleet.is_some_and(|fleet| fleet.by_hand.contains_key(name)),
        };
        match object.spec.workload.kind {
            WorkloadKind::StatefulSet => Observed {
                wanted: object.spec.replicas,
                first: object.spec.first_replicas().unwrap_or(1),
                replicas: set.map(|set| set.wanted),
                revision: set.map(|set| set.revision.clone()).unwrap_or_default(),
                pods: pods.filter_map(|(name, pod)| Some((ordinal(&edge.name, name)?, seen(name, pod)))).collect(),
            },
            // A DaemonSet has its pods by itself; only their revision is ours. They have no order but that of their names.
            WorkloadKind::DaemonSet => {
                let pods: BTreeMap<u32, rollout::Pod> = (0..).zip(pods.map(|(name, pod)| seen(name, pod))).collect();
                let count = set.map(|set| set.wanted.max(u32::try_from(pods.len()).unwrap_or(u32::MAX)));
                Observed {
                    wanted: Some(count.unwrap_or(0)),
                    first: 0,
                    replicas: count.or(Some(0)),
                    revision: set.map(|set| set.revision.clone()).unwrap_or_default(),
                    pods,
                }
            }
        }
    }

    /// Name of the pod that [`Running::observed`] gave this ordinal.
    #[must_use]
    pub fn pod_name(&self, edge: &ObjectKey, object: &SipEdge, ordinal: u32) -> Option<String> {
        match object.spec.workload.kind {
            WorkloadKind::StatefulSet => Some(format!("{}-{ordinal}", edge.name)),
            WorkloadKind::DaemonSet => {
                let mut pods = self.pods_of(edge).filter(|(_, pod)| !pod.over);
                pods.nth(usize::try_from(ordinal).ok()?).map(|(name, _)| name.to_owned())
            }
        }
    }

    /// The pod that has this name now.
    #[must_use]
    pub fn uid_of(&self, pod: &ObjectKey) -> Option<&str> {
        self.pods.get(pod).map(|pod| &*pod.uid)
    }

    /// True where the controller of the workload has taken the latest spec in, or there is none yet.
    #[must_use]
    pub fn is_current(&self, edge: &ObjectKey, object: &SipEdge) -> bool {
        self.set(edge, object).is_none_or(|set| set.current)
    }

    /// A workload of either kind, or a pod, is there: what edges keep may be in the keys of this SipEdge.
    #[must_use]
    pub fn has_run(&self, edge: &ObjectKey) -> bool {
        self.sets.contains_key(edge) || self.daemons.contains_key(edge) || self.pods_of(edge).next().is_some()
    }

    /// Pods that drain now, by uid.
    #[must_use]
    pub fn draining(&self, edge: &ObjectKey, fleet: Option<&Fleet>) -> BTreeSet<String> {
        let drains = self.pods_of(edge).filter(|(name, _)| drain(fleet, name) != Drain::No);
        drains.map(|(_, pod)| pod.uid.clone()).collect()
    }

    fn set(&self, edge: &ObjectKey, object: &SipEdge) -> Option<&Set> {
        match object.spec.workload.kind {
            WorkloadKind::StatefulSet => self.sets.get(edge),
            WorkloadKind::DaemonSet => self.daemons.get(edge),
        }
    }

    /// By name.
    fn pods_of(&self, edge: &ObjectKey) -> impl Iterator<Item = (&str, &Pod)> {
        let from = ObjectKey::new(&edge.namespace, "");
        let here = self.pods.range(from..).take_while(move |(key, _)| key.namespace == edge.namespace);
        here.filter(move |(_, pod)| pod.edge == edge.name).map(|(key, pod)| (&*key.name, pod))
    }

    /// The addresses that the edges of a SipEdge cannot know by themselves and have to write into what they send.
    #[must_use]
    pub fn reach(&self, edge: &ObjectKey, object: &SipEdge) -> Reach {
        let pods = |address: &dyn Fn(&Pod) -> Option<String>| {
            let pods = self.pods_of(edge).filter(|(_, pod)| !pod.over);
            pods.filter_map(|(name, pod)| Some((name.to_owned(), address(pod)?))).collect()
        };
        match object.spec.network.advertise.from {
            Some(AdvertiseFrom::ServiceAddress) => {
                let service = self.services.get(edge).and_then(|addresses| addresses.first().cloned());
                Reach { service, ..Reach::default() }
            }
            Some(AdvertiseFrom::NodeInternalIP) => Reach { pods: pods(&|pod| pod.host.clone()), ..Reach::default() },
            Some(AdvertiseFrom::NodeExternalIP) => {
                let node = |pod: &Pod| self.nodes.get(&ObjectKey::new("", &*pod.node))?.first().cloned();
                Reach { pods: pods(&node), ..Reach::default() }
            }
            Some(AdvertiseFrom::Static) | None => Reach::default(),
        }
    }

    /// Where peers reach the edges: the advertised name, or addresses.
    fn addresses(&self, edge: &ObjectKey, object: &SipEdge) -> Vec<String> {
        let advertise = &object.spec.network.advertise;
        let one = |address: &Option<String>| address.iter().cloned().collect();
        let pods = || self.pods_of(edge).filter(|(_, pod)| !pod.over).map(|(_, pod)| pod);
        let some = |addresses: BTreeSet<String>| addresses.into_iter().take(MAX_ADDRESSES).collect::<Vec<_>>();
        let inside = || some(pods().filter_map(|pod| pod.host.clone()).collect());
        let outside = || {
            let nodes = pods().filter_map(|pod| self.nodes.get(&ObjectKey::new("", &*pod.node)));
            some(nodes.flatten().cloned().collect())
        };
        match (&advertise.name, advertise.from) {
            (Some(_), _) => one(&advertise.name),
            (None, Some(AdvertiseFrom::Static)) => one(&advertise.address),
            (None, Some(AdvertiseFrom::ServiceAddress)) => self.services.get(edge).cloned().unwrap_or_default(),
            (None, Some(AdvertiseFrom::NodeExternalIP)) => outside(),
            (None, Some(AdvertiseFrom::NodeInternalIP)) => inside(),
            (None, None) => match object.spec.network.mode {
                NetworkMode::HostNetwork => inside(),
                NetworkMode::LoadBalancer | NetworkMode::NodePort | NetworkMode::ClusterIP => {
                    self.services.get(edge).cloned().unwrap_or_default()
                }
            },
        }
    }
}

/// What is known of a pod's drain: an order that was given, or what its edge says.
fn drain(fleet: Option<&Fleet>, pod: &str) -> Drain {
    let Some(fleet) = fleet else { return Drain::No };
    let edge = fleet.edges.get(pod);
    if edge.is_some_and(Edge::is_drained) {
        Drain::Done
    } else if edge.is_some_and(Edge::is_draining) || fleet.drains.contains_key(pod) {
        Drain::Going
    } else {
        Drain::No
    }
}

fn put<T: PartialEq>(into: &mut BTreeMap<ObjectKey, T>, key: ObjectKey, new: T) -> bool {
    if into.get(&key) == Some(&new) || (into.len() >= MAX_OBJECTS && !into.contains_key(&key)) {
        return false;
    }
    into.insert(key, new);
    true
}

fn count<'a>(pods: impl Iterator<Item = (&'a str, &'a Pod)>) -> u32 {
    u32::try_from(pods.count()).unwrap_or(u32::MAX)
}

fn whole(number: Option<i32>) -> u32 {
    number.and_then(|number| u32::try_from(number).ok()).unwrap_or(0)
}

/// As a label selector is written.
fn text(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

fn ordinal(set: &str, pod: &str) -> Option<u32> {
    let digits = pod.strip_prefix(set)?.strip_prefix('-')?;
    let ordinal = digits.parse().ok()?;
    // `+1` and `01` are numbers and no ordinals.
    (format!("{ordinal}") == digits).then_some(ordinal)
}

fn stateful(set: &StatefulSet) -> Set {
    let status = set.status.clone().unwrap_or_default();
    Set {
        wanted: whole(set.spec.replicas),
        revision: status.update_revision.unwrap_or_default(),
        current: status.observed_generation >= set.metadata.generation,
    }
}

fn daemon(set: &DaemonSet) -> Set {
    let status = set.status.clone().unwrap_or_default();
    let annotations = set.metadata.annotations.as_ref();
    Set {
        wanted: whole(Some(status.desired_number_scheduled)),
        revision: annotations.and_then(|all| all.get(TEMPLATE_GENERATION_OF_SET)).cloned().unwrap_or_default(),
        current: status.observed_generation >= set.metadata.generation,
    }
}

fn pod(pod: &core::Pod) -> Pod {
    let status = pod.status.clone().unwrap_or_default();
    let label = |name: &str| pod.metadata.labels.as_ref().and_then(|labels| labels.get(name)).cloned();
    let is_ready = |condition: &core::PodCondition| condition.type_ == "Ready" && condition.status == "True";
    Pod {
        edge: label(INSTANCE).unwrap_or_default(),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        revision: label(TEMPLATE_GENERATION).or_else(|| label("controller-revision-hash")).unwrap_or_default(),
        ready: status.conditions.iter().flatten().any(is_ready),
        ending: pod.metadata.deletion_timestamp.is_some(),
        over: matches!(status.phase.as_deref(), Some("Failed" | "Succeeded")),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        host: status.host_ip.filter(|address| !address.is_empty()),
    }
}

/// Of its load balancer, else inside the cluster.
fn service_addresses(service: &Service) -> Vec<String> {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.into_iter().flat_map(|balancer| balancer.ingress.iter().flatten());
    let mut addresses: Vec<String> = ingress.filter_map(|place| place.ip.clone().or(place.hostname.clone())).collect();
    if addresses.is_empty() {
        let inside = service.spec.as_ref().and_then(|spec| spec.cluster_ip.clone());
        addresses.extend(inside.filter(|address| !address.is_empty() && address != "None"));
    }
    addresses.truncate(MAX_ADDRESSES);
    addresses
}

fn node_addresses(node: &core::Node) -> Vec<String> {
    let all = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    all.filter(|address| address.type_ == "ExternalIP")
        .map(|address| address.address.clone())
        .take(MAX_ADDRESSES)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::fleet::DrainOrder;
    use crate::plan::rollout::{Action, next};
    use crate::testing::{edge, index};
    use edge_api::control::{DrainReport, DrainState, Report};
    use serde_json::{Value, json};

    fn e() -> ObjectKey {
        ObjectKey::new("system", "e")
    }

    fn meta(name: &str, more: Value) -> Value {
        let mut meta =
            json!({"name": name, "namespace": "system", "uid": format!("uid-{name}"), "labels": {INSTANCE: "e"}});
        for (key, value) in more.as_object().into_iter().flatten() {
            meta[key] = value.clone();
        }
        meta
    }

    fn set(replicas: u32, revision: &str) -> Thing {
        let object = json!({
            "metadata": meta("e", json!({"generation": 2})),
            "spec": {"replicas": replicas, "selector": {}, "serviceName": "e-pods", "template": {}},
            "status": {"replicas": replicas, "updateRevision": revision, "observedGeneration": 2},
        });
        Thing::StatefulSet(serde_json::from_value(object).unwrap())
    }

    fn pod(name: &str, revision: &str, ready: bool) -> Thing {
        let object = json!({
            "metadata": meta(name, json!({"labels": {INSTANCE: "e", "controller-revision-hash": revision}})),
            "status": {"hostIP": "10.0.0.7", "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        });
        Thing::Pod(serde_json::from_value(object).unwrap())
    }

    fn running(things: &[Thing]) -> Running {
        let mut running = Running::default();
        for listed in [Listed::StatefulSets, Listed::DaemonSets, Listed::Pods, Listed::Services] {
            let of_kind: Vec<_> = things.iter().filter(|thing| thing.listed() == listed).cloned().collect();
            running.reset(listed, None, &of_kind);
        }
        assert!(running.is_complete());
        running
    }

    #[test]
    fn the_fleet_is_what_runs() {
        let index = index([edge("e", 1)]);
        let mut fleets = Fleets::new();
        let mut running =
            running(&[set(3, "r1"), pod("e-0", "r1", true), pod("e-1", "r1", false), pod("other-0", "r1", true)]);
        running.count(&index, &mut fleets);
        let fleet = &fleets[&e()];
        assert_eq!((fleet.desired, fleet.replicas, fleet.ready), (3, 3, 2));
        assert_eq!(fleet.addresses, ["sip.example"]);
        assert!(fleet.selector.as_deref().unwrap().contains("app.kubernetes.io/instance=e"));
        assert!(!running.apply(&pod("e-0", "r1", true)), "nothing that matters changed");
        assert!(!running.delete(Listed::Pods, &ObjectKey::new("system", "e-0"), Some("another uid")));
        assert!(running.delete(Listed::Pods, &ObjectKey::new("system", "e-0"), Some("uid-e-0")));
        running.reset(Listed::Pods, Some("elsewhere"), &[]);
        running.count(&index, &mut fleets);
        assert_eq!(fleets[&e()].replicas, 2);
        running.reset(Listed::Pods, Some("system"), &[]);
        running.count(&crate::testing::index([]), &mut fleets);
        assert!(fleets.is_empty(), "nothing is left of it");
    }

    #[test]
    fn a_rollout_takes_what_is_ordered_and_what_the_edges_say() {
        let index = index([edge("e", 1)]);
        let mut object = (*index.edge(&e()).unwrap().object).clone();
        object.spec.replicas = Some(2);
        let running = running(&[set(2, "r2"), pod("e-0", "r1", true), pod("e-1", "r1", true)]);
        let mut fleet = Fleet::default();
        let began = BTreeMap::from([("uid-e-1".to_owned(), 100)]);
        let action = |fleet: &Fleet, now| next(&running.observed(&e(), &object, Some(fleet), &began, now));
        assert_eq!(action(&fleet, 100), Action::Drain { ordinal: 1 });
        assert_eq!(running.pod_name(&e(), &object, 1).as_deref(), Some("e-1"));
        fleet.drains.insert("e-1".into(), DrainOrder { deadline_s: 60, reason: "rollout".into() });
        assert_eq!(action(&fleet, 159), Action::Wait);
        assert_eq!(action(&fleet, 160), Action::Delete { ordinal: 1, uid: "uid-e-1".into() }, "its time is over");
        assert_eq!(running.draining(&e(), Some(&fleet)), ["uid-e-1".to_owned()].into());
        let mut edge = Edge::default();
        let mut drain = DrainReport::default();
        drain.set_state(DrainState::Drained);
        edge.report(Report { drain: Some(drain), ..Report::default() });
        fleet.edges.insert("e-1".into(), edge);
        assert_eq!(action(&fleet, 101), Action::Delete { ordinal: 1, uid: "uid-e-1".into() });
    }

    #[test]
    fn a_drain_by_hand_stays_and_its_pods_successor_was_asked_nothing() {
        let index = index([edge("e", 1)]);
        let mut object = (*index.edge(&e()).unwrap().object).clone();
        object.spec.replicas = Some(2);
        let mut running = running(&[set(2, "r1"), pod("e-0", "r1", true), pod("e-1", "r1", true)]);
        let mut fleets = Fleets::default();
        running.count(&index, &mut fleets);
        let fleet = fleets.get_mut(&e()).unwrap();
        fleet.drains.insert("e-1".into(), DrainOrder { deadline_s: 60, reason: "ordered by alice".into() });
        fleet.by_hand.insert("e-1".into(), "uid-e-1".into());
        running.count(&index, &mut fleets);
        assert_eq!(next(&running.observed(&e(), &object, fleets.get(&e()), &BTreeMap::new(), 0)), Action::Nothing);
        assert!(fleets[&e()].drains.contains_key("e-1"));
        running.delete(Listed::Pods, &ObjectKey::new("system", "e-1"), None);
        let Thing::Pod(mut again) = pod("e-1", "r1", true) else { panic!("a pod") };
        again.metadata.uid = Some("another".into());
        running.apply(&Thing::Pod(again));
        running.count(&index, &mut fleets);
        assert!(fleets[&e()].drains.is_empty() && fleets[&e()].by_hand.is_empty());
    }

    #[test]
    fn a_daemon_set_is_only_rolled() {
        let index = index([edge("e", 1)]);
        let mut object = (*index.edge(&e()).unwrap().object).clone();
        object.spec.workload.kind = WorkloadKind::DaemonSet;
        let daemon = json!({
            "metadata": meta("e", json!({"generation": 5, "annotations": {TEMPLATE_GENERATION_OF_SET: "2"}})),
            "spec": {"selector": {}, "template": {}},
            "status": {"desiredNumberScheduled": 2, "currentNumberScheduled": 2, "numberMisscheduled": 0, "numberReady": 2, "observedGeneration": 4},
        });
        let pod = |name: &str, generation: &str| {
            let labels =
                json!({"labels": {INSTANCE: "e", TEMPLATE_GENERATION: generation, "controller-revision-hash": "x"}});
            let status = json!({"conditions": [{"type": "Ready", "status": "True"}]});
            Thing::Pod(serde_json::from_value(json!({"metadata": meta(name, labels), "status": status})).unwrap())
        };
        let things = [Thing::DaemonSet(serde_json::from_value(daemon).unwrap()), pod("e-abc", "1"), pod("e-xyz", "2")];
        let running = running(&things);
        assert!(!running.is_current(&e(), &object), "its controller has not seen the latest spec");
        let observed = running.observed(&e(), &object, None, &BTreeMap::new(), 0);
        assert_eq!(next(&observed), Action::Drain { ordinal: 0 });
        assert_eq!(running.pod_name(&e(), &object, 0).as_deref(), Some("e-abc"));
        let nothing = Running::default().observed(&e(), &object, None, &BTreeMap::new(), 0);
        assert_eq!(next(&nothing), Action::Nothing);
    }

    #[test]
    fn the_address_is_that_of_the_nodes_or_of_the_balancer_as_the_edge_says() {
        let index = index([edge("e", 1)]);
        let mut object = (*index.edge(&e()).unwrap().object).clone();
        let node = json!({"metadata": {"name": "n1"}, "status": {"addresses": [
            {"type": "InternalIP", "address": "10.0.0.7"}, {"type": "ExternalIP", "address": "192.0.2.7"}]}});
        let placed = json!({"metadata": meta("e-0", json!({})), "spec": {"nodeName": "n1", "containers": []}, "status": {"hostIP": "10.0.0.7"}});
        let service = json!({"metadata": meta("e", json!({})), "spec": {"clusterIP": "10.96.0.9"},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]}}});
        let mut running = running(&[
            Thing::Pod(serde_json::from_value(placed).unwrap()),
            Thing::Service(serde_json::from_value(service).unwrap()),
        ]);
        running.reset(Listed::Nodes, None, &[Thing::Node(serde_json::from_value(node).unwrap())]);
        object.spec.network.advertise.name = None;
        for (from, address) in [
            (AdvertiseFrom::NodeExternalIP, "192.0.2.7"),
            (AdvertiseFrom::NodeInternalIP, "10.0.0.7"),
            (AdvertiseFrom::ServiceAddress, "192.0.2.9"),
        ] {
            object.spec.network.advertise.from = Some(from);
            assert_eq!(running.addresses(&e(), &object), [address]);
            // Its edges are told the same, each that of its own node.
            let Reach { service, pods } = running.reach(&e(), &object);
            assert_eq!(service.as_deref().or(pods.get("e-0").map(|at| &**at)), Some(address));
        }
        object.spec.network.advertise.from = None;
        assert_eq!(running.reach(&e(), &object), Reach::default());
    }

    #[test]
    fn what_is_no_ordinal_is_none() {
        assert_eq!(ordinal("e", "e-12"), Some(12));
        for name in ["e-", "e-01", "e-+1", "f-1", "e-x-1"] {
            assert_eq!(ordinal("e", name), None, "{name}");
        }
    }
}
