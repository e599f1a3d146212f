//! What runs for each SipEdge: its workload and what belongs to it, its keys, the operator's authority in its namespace, and the one step of a
//! rollout or a scale-down that is to be done now.

use super::{Events, Failure, MANAGER, Rounds, Writer};
use crate::authority::Authority;
use crate::board::State;
use crate::config::AUTHORITY;
use crate::index::keys_of;
use crate::key::{Key, Kind};
use crate::plan::fleet::DrainOrder;
use crate::plan::rollout::{Action, next};
use crate::plan::transition::Note;
use crate::plan::workload::{Installation, Pods, Unmakeable, Workload, keys, selector, workload};
use crate::run::Context;
use crds::manifest::ObjectKey;
use crds::v1alpha1::SipEdge;
use futures_util::future::join_all;
use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::{DaemonSet, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use zeroize::{Zeroize, Zeroizing};

/// Times of drains pass without a change.
const LATEST: Duration = Duration::from_secs(2);
/// What somebody changed by hand, or deleted, is put right again after this time where no watch shows it.
const AGAIN: Duration = Duration::from_secs(300);
/// After a write that failed.
const RETRY: Duration = Duration::from_secs(5);

/// What is remembered of a SipEdge between two rounds. A new holder of the Lease begins with nothing and comes to the same.
#[derive(Debug, Default)]
struct Memory {
    /// Digest of what was applied last, and when.
    applied: Option<([u8; 32], Instant)>,
    /// Not before this time: the last try failed.
    wait: Option<Instant>,
    /// Since when each pod drains, by uid, in seconds of the task's clock.
    began: BTreeMap<String, u64>,
    /// The uid of each pod that was asked to drain, by name.
    ordered: BTreeMap<String, String>,
    /// What was last told of it.
    told: Option<String>,
    /// What was told of its drain.
    long_drain: Option<Note>,
    /// Its keys were made, or were there already; no watch has shown them yet.
    keys_made: bool,
}

/// What is known of the Secret with the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keys {
    /// It is there, or was not looked for yet.
    There,
    /// It never was: it is made.
    Missing,
    /// It was looked for and is not there, and edges may have worked with it. Others in its place would open nothing that these edges left, and no
    /// copy could be put back beside them.
    Lost,
}

/// What one round has to do for a SipEdge.
#[derive(Debug)]
struct Work {
    object: Arc<SipEdge>,
    action: Action,
    /// Name of the pod that the action is about.
    pod: Option<String>,
    /// `spec.replicas` of the StatefulSet as it is to be; `None`: there is none yet, and it is not time to make one.
    replicas: Option<u32>,
    keys: Keys,
}

/// What is to be done for a SipEdge. `None`: it is not there, or is broken, or is being deleted, or not everything is known yet.
fn work(state: &mut State, edge: &ObjectKey, memory: &mut Memory, now: u64) -> Option<Work> {
    let key = Key::new(Kind::SipEdge, edge.clone());
    let index = &state.index;
    // What runs stays as it is while nobody can say what should.
    let readable = index.why_unreadable(&key).is_none();
    let entry = index.edge(edge).filter(|entry| readable && entry.findings.is_empty())?;
    if !state.running.is_complete() || state.leaving.contains_key(&key) {
        return None;
    }
    let object = entry.object.clone();
    let keys = keys_known(state, edge, memory);
    // A pod that came again under its name was asked nothing.
    if let Some(fleet) = state.fleets.get_mut(edge) {
        memory.ordered.retain(|name, uid| {
            let same = state.running.uid_of(&ObjectKey::new(&edge.namespace, &**name)) == Some(uid.as_str());
            if !same {
                fleet.drains.remove(name);
            }
            same
        });
    }
    let fleet = state.fleets.get(edge);
    let draining = state.running.draining(edge, fleet);
    memory.began.retain(|uid, _| draining.contains(uid));
    for uid in draining {
        memory.began.entry(uid).or_insert(now);
    }
    let observed = state.running.observed(edge, &object, fleet, &memory.began, now);
    // What the controller of the workload says of revisions is of another template: wait for it.
    let action = if state.running.is_current(edge, &object) { next(&observed) } else { Action::Wait };
    // None could begin in the place of one that goes.
    let goes = matches!(action, Action::Drain { .. } | Action::Delete { .. });
    // Nor is there any use in a new workload: the pods of a former one may still end, and after them keys can be made.
    let grows = observed.replicas.is_none() && !matches!(action, Action::SetWanted(_));
    let action = if (goes || grows) && keys == Keys::Lost { Action::Wait } else { action };
    let (ordinal, replicas) = match &action {
        Action::Drain { ordinal } | Action::Resume { ordinal } | Action::Delete { ordinal, .. } => {
            (Some(*ordinal), observed.replicas)
        }
        Action::Grow(replicas) | Action::Shrink(replicas) => (None, Some(*replicas)),
        Action::SetWanted(_) | Action::Wait | Action::Nothing => (None, observed.replicas),
    };
    let pod = ordinal.and_then(|ordinal| state.running.pod_name(edge, &object, ordinal));
    Some(Work { object, action, pod, replicas, keys })
}

fn keys_known(state: &State, edge: &ObjectKey, memory: &mut Memory) -> Keys {
    let secret = Key::new(Kind::Secret, keys_of(edge));
    if state.index.content(&secret).is_some() {
        memory.keys_made = false;
        return Keys::There;
    }
    let attached = state.fleets.get(edge).is_some_and(|fleet| !fleet.edges.is_empty());
    if state.index.fetches().any(|key| *key == secret) {
        Keys::There
    } else if !state.running.has_run(edge) && !attached {
        Keys::Missing
    } else if memory.keys_made {
        Keys::There
    } else {
        Keys::Lost
    }
}

/// Carries out what needs no API server: the orders to drain. True: somebody has to hear of it.
fn order(state: &mut State, edge: &ObjectKey, work: &Work, memory: &mut Memory) -> bool {
    let Some(name) = &work.pod else { return false };
    let uid = state.running.uid_of(&ObjectKey::new(&edge.namespace, &**name)).map(str::to_owned);
    let fleet = state.fleets.entry(edge.clone()).or_default();
    match (&work.action, uid) {
        (Action::Drain { .. }, Some(uid)) => {
            let seconds = work.object.spec.drain.total_seconds().clamp(1, 86_400);
            let fewer = work.object.spec.replicas.is_some_and(|wanted| work.replicas > Some(wanted));
            let reason = if fewer { "scale-down" } else { "rollout" };
            let order = DrainOrder { deadline_s: u32::try_from(seconds).unwrap_or(86_400), reason: reason.to_owned() };
            memory.ordered.insert(name.clone(), uid);
            fleet.drains.insert(name.clone(), order).is_none()
        }
        (Action::Resume { .. }, _) => {
            memory.ordered.remove(name);
            fleet.drains.remove(name).is_some()
        }
        _ => false,
    }
}

/// Writes until the process ends.
pub(super) async fn run(context: Context, writer: Writer, events: Events) {
    let installation = context.args.installation();
    let mut rounds = Rounds::new(&context, LATEST);
    let mut authority = context.authority.clone();
    let mut memories = BTreeMap::<ObjectKey, Memory>::new();
    let mut namespaces = BTreeMap::<String, Instant>::new();
    let begin = Instant::now();
    while rounds.next().await.is_ok() {
        let edges: Vec<ObjectKey> =
            context.board.quietly(|state| state.index.keys(Kind::SipEdge).into_iter().map(|key| key.object).collect());
        memories.retain(|edge, _| edges.contains(edge));
        // Whoever asks the Admin API looks for it beside the operator.
        let beside = ObjectKey::new(&context.args.namespace, "");
        let places: Vec<ObjectKey> = edges.iter().cloned().chain([beside]).collect();
        namespaces.retain(|namespace, _| places.iter().any(|place| place.namespace == *namespace));
        trust(&writer, &mut authority, &places, &mut namespaces).await;
        let now = begin.elapsed().as_secs();
        let mut changed = false;
        let mut todo = Vec::new();
        for edge in edges {
            let mut memory = memories.remove(&edge).unwrap_or_default();
            if memory.wait.is_some_and(|wait| Instant::now() < wait) {
                memories.insert(edge, memory);
                continue;
            }
            let work = context.board.quietly(|state| {
                let work = work(state, &edge, &mut memory, now);
                if let Some(work) = &work {
                    changed |= order(state, &edge, work, &mut memory);
                }
                work
            });
            match work {
                Some(work) => todo.push((edge, work, memory)),
                None => {
                    memories.insert(edge, memory);
                }
            }
        }
        if changed {
            context.board.change(|_| ());
        }
        let done = todo.into_iter().map(|(edge, work, mut memory)| {
            let (writer, events, installation) = (&writer, &events, &installation);
            async move {
                let result = carry_out(writer, events, &edge, &work, installation, &mut memory).await;
                tell(events, &edge, &work, result, &mut memory);
                (edge, memory)
            }
        });
        memories.extend(join_all(done).await);
    }
}

/// What becomes of a failure: a line in the log and an Event, once for each text, and a pause.
fn tell(events: &Events, edge: &ObjectKey, work: &Work, result: Result<(), Trouble>, memory: &mut Memory) {
    let Err(trouble) = result else {
        memory.told = None;
        return;
    };
    memory.wait = Some(Instant::now() + RETRY);
    if matches!(trouble, Trouble::Write(Failure::NoLease)) {
        return;
    }
    let text = trouble.to_string();
    if memory.told.as_ref() == Some(&text) {
        return;
    }
    let key = Key::new(Kind::SipEdge, edge.clone());
    tracing::warn!("{key}: what runs for it could not be brought in order: {text}; it is tried again");
    let reason = match &trouble {
        Trouble::KeysLost(_) => "SecretNotFound",
        Trouble::Write(Failure::Foreign(_)) => "Conflicted",
        Trouble::Make(_) => "UnsupportedValue",
        Trouble::Write(_) | Trouble::Random => "WriteFailed",
    };
    let uid = work.object.metadata.uid.as_deref().unwrap_or_default();
    events.tell(&key, uid, &Note { warning: true, reason: reason.to_owned(), text: text.clone() });
    memory.told = Some(text);
}

/// Why a round did not succeed.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Make(#[from] Unmakeable),
    #[error(transparent)]
    Write(#[from] Failure),
    #[error("the system gives no random octets")]
    Random,
    #[error(
        "Secret {0} with the keys of its edges is not there, or may not be read. No other one is made: it would open nothing that they keep in \
         the store. Edges that run go on, new ones wait for it; put it back from your copy"
    )]
    KeysLost(ObjectKey),
}

/// What nobody expects of a long drain: others give up earlier (Agones, "Controlling disruption").
fn long_drain(seconds: u64) -> Option<Note> {
    let who = match seconds {
        0..=600 => return None,
        601..=3600 => "the cluster autoscaler waits 600 s at most",
        _ => {
            "the cluster autoscaler waits 600 s at most, and some providers honour a PodDisruptionBudget for an hour only"
        }
    };
    let text = format!("spec.drain: takes up to {seconds} s; {who}, and then ends pods that still drain");
    Some(Note { warning: true, reason: "LongDrain".to_owned(), text })
}

async fn carry_out(
    writer: &Writer,
    events: &Events,
    edge: &ObjectKey,
    work: &Work,
    installation: &Installation,
    memory: &mut Memory,
) -> Result<(), Trouble> {
    let owner = work.object.metadata.uid.as_deref().unwrap_or_default();
    if work.keys == Keys::Missing {
        make_keys(writer, edge).await?;
        memory.keys_made = true;
    }
    if let Action::SetWanted(replicas) = work.action {
        return Ok(set_wanted(writer, edge, &work.object, replicas).await?);
    }
    if work.keys == Keys::Lost && work.replicas.is_none() {
        return Err(Trouble::KeysLost(keys_of(edge)));
    }
    let made = workload(edge, &work.object, installation, work.replicas.unwrap_or_default())?;
    let digest = digest(&made);
    let stands = memory.applied.is_some_and(|(last, at)| last == digest && at.elapsed() < AGAIN);
    // Grown is what is not there yet, or was deleted by somebody: whatever was applied before, it is applied again.
    if !stands || matches!(work.action, Action::Grow(_)) {
        memory.applied = None;
        apply(writer, edge, &made, owner).await?;
        memory.applied = Some((digest, Instant::now()));
        let long = long_drain(work.object.spec.drain.total_seconds());
        if memory.long_drain != long
            && let Some(note) = &long
        {
            events.tell(&Key::new(Kind::SipEdge, edge.clone()), owner, note);
        }
        memory.long_drain = long;
    }
    if let (Action::Delete { uid, .. }, Some(pod)) = (&work.action, &work.pod) {
        tracing::info!(pod = %format!("{}/{pod}", edge.namespace), "drained: it is deleted, and comes again with the new revision");
        writer.delete::<Pod>(&edge.namespace, pod, Some(uid)).await?;
    }
    if work.keys == Keys::Lost {
        return Err(Trouble::KeysLost(keys_of(edge)));
    }
    Ok(())
}

fn digest(made: &Workload) -> [u8; 32] {
    // What was made from JSON has a JSON form; the order of its fields is that of its types.
    let Workload { pods, headless, ingress, budget, autoscaler, account, network } = made;
    let pods = match pods {
        Pods::StatefulSet(set) => json!(set),
        Pods::DaemonSet(set) => json!(set),
    };
    let all = json!([pods, headless, ingress, budget, autoscaler, account, network]);
    Sha256::digest(all.to_string()).into()
}

/// Everything that the pods need before the pods; then what this SipEdge has no more.
async fn apply(writer: &Writer, edge: &ObjectKey, made: &Workload, owner: &str) -> Result<(), Failure> {
    let ObjectKey { namespace, name } = edge;
    writer.apply(&made.account, owner).await?;
    writer.apply(&made.headless, owner).await?;
    writer.apply(&made.network, owner).await?;
    match &made.ingress {
        Some(service) => drop(writer.apply(service, owner).await?),
        None => writer.remove::<Service>(namespace, name, owner).await?,
    }
    writer.apply(&made.budget, owner).await?;
    match &made.pods {
        Pods::StatefulSet(set) => {
            writer.remove::<DaemonSet>(namespace, name, owner).await?;
            writer.apply(&**set, owner).await?;
        }
        Pods::DaemonSet(set) => {
            writer.remove::<StatefulSet>(namespace, name, owner).await?;
            writer.apply(&**set, owner).await?;
        }
    }
    match &made.autoscaler {
        Some(autoscaler) => drop(writer.apply(autoscaler, owner).await?),
        None => writer.remove::<HorizontalPodAutoscaler>(namespace, name, owner).await?,
    }
    Ok(())
}

/// Once, where nobody did; from then on it is the user's or the autoscaler's.
async fn set_wanted(writer: &Writer, edge: &ObjectKey, object: &SipEdge, replicas: u32) -> Result<(), Failure> {
    let api = writer.api::<SipEdge>(&edge.namespace);
    // With the version that was read: who sets it in the same moment has it.
    let version = object.metadata.resource_version.as_deref();
    let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"replicas": replicas}});
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    match writer.write("SipEdge", api.patch(&edge.name, &params, &Patch::Merge(&patch))).await {
        Ok(_) => Ok(()),
        Err(failure) if failure.is_conflict() || failure.is_not_found() => Ok(()),
        Err(failure) => Err(failure),
    }
}

/// The keys of a SipEdge, once: what is there is never replaced.
async fn make_keys(writer: &Writer, edge: &ObjectKey) -> Result<(), Trouble> {
    let mut octets = Zeroizing::new([0_u8; 96]);
    getrandom::fill(&mut *octets).map_err(|_| Trouble::Random)?;
    let mut secret = keys(edge, &octets);
    let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    let result = writer.write("Secret", writer.api::<Secret>(&edge.namespace).create(&params, &secret)).await;
    for ByteString(value) in secret.data.iter_mut().flat_map(BTreeMap::values_mut) {
        value.zeroize();
    }
    match result {
        Ok(made) => {
            for ByteString(mut value) in made.data.into_iter().flat_map(BTreeMap::into_values) {
                value.zeroize();
            }
            tracing::info!(
                "keys made: Secret {}; keep a copy, without it nothing in the store can be read again",
                keys_of(edge)
            );
            Ok(())
        }
        // Somebody brought their own, and the watch brings it here.
        Err(failure) if failure.is_conflict() => Ok(()),
        Err(failure) => Err(failure.into()),
    }
}

/// The certificate of the operator's authority, in each namespace with a SipEdge and in its own.
async fn trust(
    writer: &Writer,
    authority: &mut watch::Receiver<Option<Arc<Authority>>>,
    edges: &[ObjectKey],
    namespaces: &mut BTreeMap<String, Instant>,
) {
    let Some(authority) = authority.borrow_and_update().clone() else { return };
    for edge in edges {
        if namespaces.get(&edge.namespace).is_some_and(|at| at.elapsed() < AGAIN) {
            continue;
        }
        let map = ConfigMap {
            metadata: ObjectMeta {
                name: Some(AUTHORITY.to_owned()),
                namespace: Some(edge.namespace.clone()),
                labels: Some(selector(edge).into_iter().filter(|(key, _)| key.ends_with("managed-by")).collect()),
                ..ObjectMeta::default()
            },
            data: Some([("ca.crt".to_owned(), authority.pem().to_owned())].into()),
            ..ConfigMap::default()
        };
        let params = PatchParams::apply(MANAGER).force();
        let api = writer.api::<ConfigMap>(&edge.namespace);
        match writer.write("ConfigMap", api.patch(AUTHORITY, &params, &Patch::Apply(&map))).await {
            Ok(_) => {
                namespaces.insert(edge.namespace.clone(), Instant::now());
            }
            Err(Failure::NoLease) => return,
            Err(failure) => {
                tracing::warn!(error = %failure, namespace = edge.namespace, "ConfigMap {AUTHORITY} could not be written; edges there cannot enrol without it");
                // Not with every round.
                let later = Instant::now().checked_sub(AGAIN.saturating_sub(RETRY));
                namespaces.insert(edge.namespace.clone(), later.unwrap_or_else(Instant::now));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::running::{INSTANCE, Listed, Thing};
    use crate::testing::{edge, index, store};

    fn e() -> ObjectKey {
        ObjectKey::new("system", "e")
    }

    fn thing<T: serde::de::DeserializeOwned>(name: &str, uid: &str, revision: &str, rest: serde_json::Value) -> Box<T> {
        let labels = json!({INSTANCE: "e", "controller-revision-hash": revision});
        let mut object =
            json!({"metadata": {"name": name, "namespace": "system", "uid": uid, "generation": 1, "labels": labels}});
        for (key, value) in rest.as_object().unwrap() {
            object[key] = value.clone();
        }
        Box::new(serde_json::from_value(object).unwrap())
    }

    fn set(replicas: u32, revision: &str) -> Thing {
        let spec = json!({"replicas": replicas, "selector": {}, "serviceName": "e-pods", "template": {}});
        let status = json!({"replicas": replicas, "updateRevision": revision, "observedGeneration": 1});
        Thing::StatefulSet(thing("e", "set", revision, json!({"spec": spec, "status": status})))
    }

    fn pod(name: &str, uid: &str, revision: &str) -> Thing {
        let status = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        Thing::Pod(thing(name, uid, revision, json!({"status": status})))
    }

    /// More than one edge needs a store.
    fn shared() -> crds::v1alpha1::LocalRef {
        serde_json::from_value(json!({"name": "main"})).unwrap()
    }

    /// A SipEdge that wants so many pods, and what runs.
    fn state(wanted: Option<u32>, things: &[Thing]) -> State {
        let crate::index::Object::Edge(mut object) = edge("e", 1) else { panic!("an edge") };
        object.spec.replicas = wanted;
        object.spec.session_store_ref = Some(shared());
        let mut secret = keys(&e(), &[7; 96]);
        secret.metadata.uid = Some("keys".into());
        let objects = [crate::index::Object::Edge(object), store("main", 1), crate::index::Object::Secret(secret)];
        let mut state = State { index: index(objects), ..State::default() };
        for listed in [Listed::StatefulSets, Listed::DaemonSets, Listed::Pods, Listed::Services] {
            let of_kind: Vec<_> = things.iter().filter(|thing| thing.listed() == listed).cloned().collect();
            state.running.reset(listed, None, &of_kind);
        }
        state
    }

    /// Somebody deleted the Secret with the keys, or nobody made it yet.
    fn without_keys(mut state: State) -> State {
        state.index.delete(&Key::new(Kind::Secret, keys_of(&e())), None);
        state
    }

    /// One round without the API server.
    fn round(state: &mut State, memory: &mut Memory, now: u64) -> Work {
        let State { running, index, fleets, .. } = &mut *state;
        running.count(index, fleets);
        let work = work(state, &e(), memory, now).expect("a SipEdge that stands");
        order(state, &e(), &work, memory);
        work
    }

    #[test]
    fn a_new_edge_gets_its_number_of_pods_then_its_workload_and_its_keys() {
        let mut memory = Memory::default();
        let first = round(&mut without_keys(state(None, &[])), &mut memory, 0);
        assert_eq!((first.action, first.replicas, first.keys), (Action::SetWanted(1), None, Keys::Missing));
        let second = round(&mut state(Some(1), &[]), &mut memory, 0);
        assert_eq!((second.action, second.replicas), (Action::Grow(1), Some(1)));
    }

    #[test]
    fn sec_6_lost_keys_of_a_fleet_are_not_made_anew_and_no_pod_is_taken_away_without_them() {
        let mut memory = Memory::default();
        // No pod: what an earlier one left in the store is there all the same.
        for things in [vec![set(0, "r1")], vec![pod("e-0", "0", "r1")], vec![set(1, "r2"), pod("e-0", "0", "r1")]] {
            let mut state = without_keys(state(Some(1), &things));
            let work = round(&mut state, &mut memory, 0);
            assert_eq!(work.keys, Keys::Lost, "{things:?}");
            assert!(!matches!(work.action, Action::Drain { .. } | Action::Delete { .. }), "{:?}", work.action);
            assert!(state.fleets[&e()].drains.is_empty());
        }
        let mut attached = without_keys(state(Some(1), &[]));
        attached.fleets.entry(e()).or_default().attach("e-0", crate::plan::fleet::Edge::default());
        assert_eq!(round(&mut attached, &mut memory, 0).keys, Keys::Lost);
        // No watch has shown yet what was made a moment ago.
        memory.keys_made = true;
        assert_eq!(round(&mut attached, &mut memory, 0).keys, Keys::There);
    }

    #[test]
    fn a_pod_is_asked_to_drain_and_deleted_when_its_time_is_over_and_its_successor_is_asked_nothing() {
        let mut state = state(Some(1), &[set(1, "r2"), pod("e-0", "old", "r1")]);
        let mut memory = Memory::default();
        let grace = 60;
        assert_eq!(round(&mut state, &mut memory, 10).action, Action::Drain { ordinal: 0 });
        let order = state.fleets[&e()].drains["e-0"].clone();
        assert_eq!(order, DrainOrder { deadline_s: 55, reason: "rollout".into() });
        assert_eq!(round(&mut state, &mut memory, 10).action, Action::Wait);
        assert_eq!(round(&mut state, &mut memory, 10 + grace - 1).action, Action::Wait);
        let over = round(&mut state, &mut memory, 10 + grace);
        assert_eq!((over.action, over.pod.as_deref()), (Action::Delete { ordinal: 0, uid: "old".into() }, Some("e-0")));
        state.running.apply(&pod("e-0", "new", "r2"));
        assert_eq!(round(&mut state, &mut memory, 80).action, Action::Nothing);
        assert!(state.fleets[&e()].drains.is_empty() && memory.ordered.is_empty() && memory.began.is_empty());
    }

    #[test]
    fn a_scale_down_that_is_taken_back_is_taken_back_at_the_edge() {
        let mut state = state(Some(1), &[set(2, "r1"), pod("e-0", "0", "r1"), pod("e-1", "1", "r1")]);
        let mut memory = Memory::default();
        let work = round(&mut state, &mut memory, 0);
        assert_eq!(
            (work.action, work.replicas),
            (Action::Drain { ordinal: 1 }, Some(2)),
            "no pod is lost before its drain"
        );
        assert_eq!(state.fleets[&e()].drains["e-1"].reason, "scale-down");
        let crate::index::Object::Edge(mut object) = edge("e", 2) else { panic!("an edge") };
        object.spec.replicas = Some(2);
        object.spec.session_store_ref = Some(shared());
        state.index.apply(crate::index::Object::Edge(object)).unwrap();
        assert_eq!(round(&mut state, &mut memory, 1).action, Action::Resume { ordinal: 1 });
        assert!(state.fleets[&e()].drains.is_empty());
    }

    #[test]
    fn a_drain_that_others_do_not_wait_for_is_told_of() {
        assert_eq!(long_drain(600), None);
        assert!(long_drain(601).unwrap().text.contains("autoscaler"));
        assert!(long_drain(3601).unwrap().text.contains("an hour"));
    }

    #[test]
    fn nothing_is_done_before_everything_was_listed_nor_for_what_is_being_deleted() {
        let mut memory = Memory::default();
        let mut half = state(Some(1), &[]);
        half.running = crate::plan::running::Running::default();
        assert!(work(&mut half, &e(), &mut memory, 0).is_none());
        let mut leaving = state(Some(1), &[]);
        let gone = crate::plan::finalizer::Leaving { uid: "u".into(), since: 0, forced: false, held: true };
        leaving.leaving.insert(Key::new(Kind::SipEdge, e()), gone);
        assert!(work(&mut leaving, &e(), &mut memory, 0).is_none());
    }
}
