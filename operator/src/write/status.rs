//! The statuses of our five kinds: computed from the board, compared with what stands, written by server-side apply on `/status`.

use super::queue::Queue;
use super::{COALESCE, Events, Failure, MANAGER, Writer};
use crate::board::{Board, State};
use crate::index::{Entry, Object};
use crate::key::{Key, Kind};
use crate::plan::status::{self, Scene};
use crate::plan::transition::{self, Note};
use crate::run::Context;
use crds::v1alpha1::{
    API_VERSION, McpAgent, McpAgentStatus, McpCapabilityPolicy, McpCapabilityPolicyStatus, SessionStore,
    SessionStoreStatus, SipDomain, SipDomainStatus, SipEdge, SipEdgeStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// Kinds with a status, in the order in which they are looked at.
const KINDS: [Kind; 5] =
    [Kind::SipEdge, Kind::SessionStore, Kind::SipDomain, Kind::McpCapabilityPolicy, Kind::McpAgent];
/// Objects that are looked at under one lock.
const SLICE: usize = 128;
/// Counters change without waking anybody, so everything is looked at again after this time.
const LATEST: Duration = Duration::from_secs(10);
/// While the task that tells the edges has not taken in what changed.
const NOT_CURRENT: Duration = Duration::from_millis(20);

/// A status to be written.
#[derive(Clone, Debug)]
struct Due {
    uid: String,
    namespaced: bool,
    status: Value,
    /// Conditions as they stand; `None`: there is no status yet.
    before: Option<Vec<Condition>>,
    after: Vec<Condition>,
}

/// A status of ours.
trait Conditions: Serialize {
    fn conditions(&self) -> &[Condition];
}

macro_rules! conditions {
    ($($type:ident),+) => {
        $(impl Conditions for $type {
            fn conditions(&self) -> &[Condition] {
                &self.conditions
            }
        })+
    };
}

conditions!(SipEdgeStatus, SessionStoreStatus, SipDomainStatus, McpCapabilityPolicyStatus, McpAgentStatus);

/// What is to be written for an object. `None`: what stands is right, or the object is not there.
fn due(state: &State, key: &Key, now: &Time, counters_due: bool) -> Option<Due> {
    let scene = &Scene { index: &state.index, wants: &state.wants, fleets: &state.fleets, now, counters_due };
    let at = &key.object;
    match key.kind {
        Kind::SipEdge => {
            let entry = state.index.edge(at)?;
            made(entry, entry.object.status.as_ref(), status::edge(scene, at)?, true)
        }
        Kind::SessionStore => {
            let entry = state.index.store(at)?;
            made(entry, entry.object.status.as_ref(), status::store(scene, at)?, true)
        }
        Kind::SipDomain => {
            let entry = state.index.domain(&at.name)?;
            made(entry, entry.object.status.as_ref(), status::domain(scene, &at.name)?, false)
        }
        Kind::McpCapabilityPolicy => {
            let entry = state.index.policy(at)?;
            made(entry, entry.object.status.as_ref(), status::policy(scene, at)?, true)
        }
        Kind::McpAgent => {
            let entry = state.index.agent(at)?;
            made(entry, entry.object.status.as_ref(), status::agent(scene, at)?, true)
        }
        Kind::Secret | Kind::ConfigMap | Kind::Namespace | Kind::Endpoints => None,
    }
}

fn made<T, S: Conditions>(entry: &Entry<T>, before: Option<&S>, after: S, namespaced: bool) -> Option<Due> {
    Some(Due {
        uid: entry.uid.clone(),
        namespaced,
        before: before.map(|before| before.conditions().to_vec()),
        after: after.conditions().to_vec(),
        // A status is made of numbers, texts and lists of them: it has a JSON form.
        status: serde_json::to_value(&after).ok()?,
    })
}

/// Writes until the process ends.
pub(super) async fn run(context: Context, writer: Writer, events: Events) {
    let mut shutdown = context.shutdown.clone();
    let mut pen = context.pen.clone();
    let mut revisions = context.board.revisions();
    let begin = Instant::now();
    let ms = || u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
    let workers = usize::from(context.args.workers);
    let mut queue = Queue::default();
    let mut writing = JoinSet::<(Key, bool, Outcome)>::new();
    // When everything is looked at again, and when at the earliest if something changes before.
    let (mut look, mut earliest) = (begin, begin);
    loop {
        if !pen.writes() && writing.is_empty() {
            // What was written since is what another replica knows.
            queue = Queue::default();
            tokio::select! {
                granted = pen.granted() => if granted.is_err() { return },
                () = shutdown.requested() => return,
            }
            (look, earliest) = (Instant::now(), Instant::now());
        }
        if Instant::now() >= look && pen.writes() {
            revisions.borrow_and_update();
            let started = Instant::now();
            let complete = sweep(&context, &mut queue, ms()).await;
            look = Instant::now() + if complete { LATEST } else { NOT_CURRENT };
            // A look at many objects is followed by a pause as long.
            earliest = Instant::now() + COALESCE.max(started.elapsed());
            context.metrics.queue(queue.len());
        }
        while writing.len() < workers
            && pen.writes()
            && let Some(key) = queue.pop(ms())
        {
            let counters = queue.counters_due(&key, ms());
            let now = Time(Timestamp::now());
            let due = context
                .board
                .quietly(|state| state.wants.are_current(&state.index).then(|| due(state, &key, &now, counters)));
            match due {
                Some(Some(due)) => {
                    let (writer, events) = (writer.clone(), events.clone());
                    writing.spawn(async move {
                        let outcome = write(&writer, &events, &key, due).await;
                        (key, counters, outcome)
                    });
                }
                // It is right by now.
                Some(None) => queue.skipped(&key),
                None => queue.postponed(&key, ms() + 20),
            }
        }
        let next = queue.next_due().filter(|_| writing.len() < workers).map(|due| begin + Duration::from_millis(due));
        // Without the Lease nothing is begun: only the ends of what is on its way are waited for.
        let soonest = Instant::now() + if pen.writes() { Duration::from_millis(1) } else { COALESCE };
        let wake = next.map_or(look, |next| next.min(look)).max(soonest);
        tokio::select! {
            Some(done) = writing.join_next() => {
                // A panic in a write ends the process, as everywhere.
                let Ok((key, counters, outcome)) = done else { return };
                finish(&context.board, &mut queue, &key, counters, outcome, ms());
            }
            changed = revisions.changed() => {
                if changed.is_err() {
                    return;
                }
                look = look.min(earliest.max(Instant::now() + COALESCE));
            }
            () = sleep_until(wake) => {}
            () = shutdown.requested() => return,
        }
    }
}

/// What became of a write.
enum Outcome {
    /// The object as the API server has it now.
    Written(Box<Object>),
    /// The object is gone, or another one has its name: the watch will say so.
    Gone,
    Failed,
}

fn finish(board: &Board, queue: &mut Queue, key: &Key, counters: bool, outcome: Outcome, now: u64) {
    match outcome {
        Outcome::Written(object) => {
            // So that the next look compares with what stands now, and not with what stood before. One that is being deleted meanwhile is the
            // watch's affair.
            let changed = board.quietly(|state| {
                let before = state.index.revision();
                if !state.leaving.contains_key(key) && state.index.content(key).is_some() {
                    // There was room for it before.
                    let _ = state.index.apply(*object);
                }
                state.index.revision() != before
            });
            // It came here before the watch brought it, which will not tell of it any more.
            if changed {
                board.change(|_| ());
            }
            queue.wrote(key, counters, now);
        }
        Outcome::Gone => queue.skipped(key),
        Outcome::Failed => queue.failed(key, now),
    }
}

/// Looks at every object. False: the task that tells the edges was not done, so nobody can say what is programmed.
async fn sweep(context: &Context, queue: &mut Queue, now: u64) -> bool {
    let board = &context.board;
    if !board.quietly(|state| state.wants.are_current(&state.index)) {
        return false;
    }
    let mut keys = BTreeSet::new();
    for kind in KINDS {
        keys.extend(board.quietly(|state| state.index.keys(kind)));
    }
    queue.retain(|key| keys.contains(key));
    let time = Time(Timestamp::now());
    let keys: Vec<Key> =
        KINDS.into_iter().flat_map(|kind| keys.iter().filter(move |key| key.kind == kind)).cloned().collect();
    let mut dropped = 0_u32;
    for slice in keys.chunks(SLICE) {
        let looked = board.quietly(|state| {
            if !state.wants.are_current(&state.index) {
                return false;
            }
            for key in slice {
                let counters = queue.counters_due(key, now);
                if let Some(due) = due(state, key, &time, counters)
                    && queue.push(key, due.before.as_deref(), &due.after, now).is_err()
                {
                    context.metrics.status_dropped();
                    dropped += 1;
                }
            }
            true
        });
        if !looked {
            return false;
        }
        tokio::task::yield_now().await;
    }
    if dropped > 0 {
        tracing::warn!("{dropped} statuses found no room in the queue; they come with the next look");
    }
    true
}

async fn write(writer: &Writer, events: &Events, key: &Key, due: Due) -> Outcome {
    match patch(writer, key, &due).await {
        Ok(object) => {
            for note in notes(key, &due) {
                events.tell(key, &due.uid, &note);
            }
            Outcome::Written(Box::new(object))
        }
        Err(failure) if failure.is_not_found() || failure.is_conflict() => Outcome::Gone,
        Err(failure) => {
            if !matches!(failure, Failure::NoLease) {
                tracing::warn!(error = %failure, "the status of {key} could not be written; it is tried again");
            }
            Outcome::Failed
        }
    }
}

fn notes(key: &Key, due: &Due) -> Vec<Note> {
    transition::notes(due.before.as_deref().unwrap_or_default(), &due.after, key.kind == Kind::SipEdge)
}

async fn patch(writer: &Writer, key: &Key, due: &Due) -> Result<Object, Failure> {
    // The uid: an object that was made anew meanwhile is another one.
    let mut metadata = json!({"name": key.object.name, "uid": due.uid});
    if due.namespaced {
        metadata["namespace"] = json!(key.object.namespace);
    }
    let body =
        json!({"apiVersion": API_VERSION, "kind": key.kind.as_str(), "metadata": metadata, "status": due.status});
    macro_rules! to {
        ($api:expr, $variant:ident) => {{
            let params = PatchParams::apply(MANAGER).force();
            let patch = Patch::Apply(&body);
            let api = $api;
            let patched = api.patch_status(&key.object.name, &params, &patch);
            let mut written = writer.write(key.kind.as_str(), patched).await?;
            written.metadata.managed_fields = None;
            Ok(Object::$variant(Box::new(written)))
        }};
    }
    let client = || -> Client { writer.client.clone() };
    match key.kind {
        Kind::SipEdge => to!(writer.api::<SipEdge>(&key.object.namespace), Edge),
        Kind::SessionStore => to!(writer.api::<SessionStore>(&key.object.namespace), Store),
        Kind::SipDomain => to!(Api::<SipDomain>::all(client()), Domain),
        Kind::McpCapabilityPolicy => to!(writer.api::<McpCapabilityPolicy>(&key.object.namespace), Policy),
        Kind::McpAgent => to!(writer.api::<McpAgent>(&key.object.namespace), Agent),
        // None of these has a status of ours.
        Kind::Secret | Kind::ConfigMap | Kind::Namespace | Kind::Endpoints => Err(Failure::NoLease),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{agent, broken_policy, domain, edge, index, key};

    fn state() -> State {
        let index = index([edge("e", 1), domain("d0", 1), agent("a", 1, "d0", None), broken_policy("p", 1, "a")]);
        let mut state = State { index, ..State::default() };
        state.wants.update(&state.index);
        state
    }

    #[test]
    fn every_kind_gets_its_conditions_and_says_once_what_is_wrong() {
        let state = state();
        let now = Time(Timestamp::UNIX_EPOCH);
        for (kind, name, namespaced) in [
            (Kind::SipEdge, "e", true),
            (Kind::SipDomain, "d0", false),
            (Kind::McpAgent, "a", true),
            (Kind::McpCapabilityPolicy, "p", true),
        ] {
            let key = key(kind, name);
            let due = due(&state, &key, &now, true).expect("a first status");
            assert_eq!((due.namespaced, due.before.is_none()), (namespaced, true), "{kind:?}");
            assert_eq!(due.status["conditions"].as_array().unwrap().len(), due.after.len());
            let told = notes(&key, &due);
            assert_eq!(
                told.iter().any(|note| note.warning),
                !matches!(kind, Kind::SipEdge | Kind::SipDomain),
                "{told:?}"
            );
        }
        assert!(due(&state, &key(Kind::McpAgent, "gone"), &now, true).is_none());
    }

    #[test]
    fn what_was_written_is_compared_with_at_once() {
        let board = Board::default();
        board.change(|all| *all = state());
        let (name, now) = (key(Kind::McpAgent, "a"), Time(Timestamp::UNIX_EPOCH));
        let mut queue = Queue::default();
        let due_now = |board: &Board| board.quietly(|state| due(state, &name, &now, true));
        let first = due_now(&board).unwrap();
        queue.push(&name, None, &first.after, 0).unwrap();
        assert_eq!(queue.pop(0).as_ref(), Some(&name));
        let Object::Agent(mut written) = agent("a", 1, "d0", None) else { panic!("an agent") };
        written.metadata.resource_version = Some("2".into());
        written.status = Some(serde_json::from_value(first.status).unwrap());
        let revision = board.quietly(|state| state.index.revision());
        finish(&board, &mut queue, &name, true, Outcome::Written(Box::new(Object::Agent(written))), 1);
        assert!(due_now(&board).is_none() && queue.is_empty());
        assert_eq!(board.quietly(|state| state.index.revision()), revision, "and nobody is woken");
    }
}
