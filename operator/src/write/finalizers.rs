//! Finalizers: put on what needs them, taken away from what may go.

use super::{Events, Failure, MANAGER, Rounds, Writer};
use crate::board::State;
use crate::key::{Key, Kind};
use crate::plan::finalizer::{DEREGISTER, IN_USE, Leaving, Verdict, judge, of_kind};
use crate::plan::transition::Note;
use crate::run::Context;
use crds::v1alpha1::{API_VERSION, McpAgent, SessionStore, SipDomain, SipEdge};
use futures_util::{StreamExt, stream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

/// Objects of one round.
const ROUND: usize = 256;
/// Deadlines pass without a change.
const LATEST: Duration = Duration::from_secs(2);

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Put { uid: String, finalizer: &'static str },
    Take { uid: String },
}

/// Uid, and what is waited for.
type Waits = BTreeMap<Key, (String, String)>;

/// What is to be done, and what is waited for.
fn steps(state: &State, now: i64) -> (Vec<(Key, Step)>, Waits) {
    let (mut steps, mut waits) = (Vec::new(), Waits::new());
    for (key, leaving) in &state.leaving {
        match judge(state, key, leaving, now) {
            Verdict::Go => steps.push((key.clone(), Step::Take { uid: leaving.uid.clone() })),
            Verdict::Wait(why) => {
                waits.insert(key.clone(), (leaving.uid.clone(), why));
            }
            Verdict::NotOurs => {}
        }
    }
    for kind in Kind::ALL {
        let Some(finalizer) = of_kind(kind) else { continue };
        for key in state.index.keys(kind) {
            if let Some(meta) = meta(state, &key)
                && Leaving::of(meta).is_none()
                && !meta.finalizers.iter().flatten().any(|there| there == finalizer)
            {
                let uid = meta.uid.clone().unwrap_or_default();
                steps.push((key, Step::Put { uid, finalizer }));
            }
        }
    }
    (steps, waits)
}

fn meta<'a>(state: &'a State, key: &Key) -> Option<&'a ObjectMeta> {
    let (index, at) = (&state.index, &key.object);
    match key.kind {
        Kind::SipEdge => index.edge(at).map(|entry| &entry.object.metadata),
        Kind::SessionStore => index.store(at).map(|entry| &entry.object.metadata),
        Kind::SipDomain => index.domain(&at.name).map(|entry| &entry.object.metadata),
        Kind::McpAgent => index.agent(at).map(|entry| &entry.object.metadata),
        Kind::McpCapabilityPolicy | Kind::Secret | Kind::ConfigMap | Kind::Namespace | Kind::Endpoints => None,
    }
}

pub(super) async fn run(context: Context, writer: Writer, events: Events) {
    let mut rounds = Rounds::new(&context, LATEST);
    let mut told = Waits::new();
    // What was done in the last round and has not come back by the watch yet is not done again at once.
    let mut done = BTreeMap::<Key, (Step, u32)>::new();
    while rounds.next().await.is_ok() {
        let (steps, waits) = context.board.quietly(|state| steps(state, Timestamp::now().as_second()));
        for (key, (uid, why)) in waits.iter().filter(|(key, wait)| told.get(*key) != Some(*wait)) {
            tracing::info!("{key} is being deleted and stays: {why}");
            let note = Note { warning: false, reason: "Deleting".to_owned(), text: format!("stays: {why}") };
            events.tell(key, uid, &note);
        }
        told = waits;
        done.retain(|key, (step, rounds)| {
            *rounds += 1;
            *rounds < 5 && steps.iter().any(|(other, same)| (other, same) == (key, &*step))
        });
        let todo: Vec<_> = steps.into_iter().filter(|(key, _)| !done.contains_key(key)).take(ROUND).collect();
        let writes = todo.into_iter().map(|(key, step)| {
            let writer = writer.clone();
            async move {
                let result = match key.kind {
                    Kind::SipEdge => {
                        carry_out(&writer, writer.api::<SipEdge>(&key.object.namespace), &key, &step).await
                    }
                    Kind::SessionStore => {
                        carry_out(&writer, writer.api::<SessionStore>(&key.object.namespace), &key, &step).await
                    }
                    Kind::McpAgent => {
                        carry_out(&writer, writer.api::<McpAgent>(&key.object.namespace), &key, &step).await
                    }
                    _ => carry_out(&writer, Api::<SipDomain>::all(writer.client.clone()), &key, &step).await,
                };
                (key, step, result)
            }
        });
        let mut writes = stream::iter(writes).buffer_unordered(usize::from(context.args.workers));
        while let Some((key, step, result)) = writes.next().await {
            match result {
                Ok(()) => {
                    done.insert(key, (step, 0));
                }
                Err(failure) if failure.is_conflict() || failure.is_not_found() => {}
                Err(Failure::NoLease) => {}
                Err(failure) => {
                    tracing::warn!(error = %failure, "the finalizer of {key} could not be written; it is tried again");
                    done.insert(key, (step, 0));
                }
            }
        }
    }
}

async fn carry_out<K>(writer: &Writer, api: Api<K>, key: &Key, step: &Step) -> Result<(), Failure>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let (kind, name) = (key.kind.as_str(), &*key.object.name);
    match step {
        Step::Put { uid, finalizer } => {
            let mut metadata = json!({"name": name, "uid": uid, "finalizers": [finalizer]});
            if !key.object.namespace.is_empty() {
                metadata["namespace"] = json!(key.object.namespace);
            }
            let body = json!({"apiVersion": API_VERSION, "kind": kind, "metadata": metadata});
            let params = PatchParams::apply(MANAGER).force();
            writer.write(kind, api.patch_metadata(name, &params, &Patch::Apply(&body))).await?;
        }
        Step::Take { uid } => {
            let Some(there) = writer.ask(api.get_metadata_opt(name)).await? else { return Ok(()) };
            if there.uid().as_deref() != Some(uid.as_str()) {
                return Ok(());
            }
            let ours = |finalizer: &String| matches!(finalizer.as_str(), DEREGISTER | IN_USE);
            let rest: Vec<_> = there.finalizers().iter().filter(|finalizer| !ours(finalizer)).cloned().collect();
            // With the version that was read: a finalizer that somebody added meanwhile stays.
            let metadata = json!({"resourceVersion": there.resource_version(), "finalizers": rest});
            let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
            let patch = Patch::Merge(json!({"metadata": metadata}));
            writer.write(kind, api.patch_metadata(name, &params, &patch)).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Object;
    use crate::testing::{agent, domain, index, key, policy};

    #[test]
    fn what_needs_a_finalizer_gets_it_once_and_what_may_go_loses_it() {
        let Object::Agent(mut known) = agent("b", 1, "d0", None) else { panic!("an agent") };
        known.metadata.finalizers = Some(vec![DEREGISTER.to_owned(), "someone.else/their".to_owned()]);
        let index = index([domain("d0", 1), agent("a", 1, "d0", None), Object::Agent(known), policy("p", 1, "a")]);
        let mut state = State { index, ..State::default() };
        let leaving = Leaving { uid: "u".into(), since: 0, forced: false, held: true };
        state.leaving.insert(key(Kind::McpAgent, "gone"), leaving.clone());
        state.leaving.insert(key(Kind::SipDomain, "d0"), leaving);
        let (steps, waits) = steps(&state, 5);
        let short: Vec<_> = steps.iter().map(|(key, step)| format!("{key} {step:?}")).collect();
        assert!(short.contains(&"McpAgent acme/gone Take { uid: \"u\" }".to_owned()), "{short:?}");
        assert!(short.iter().any(|line| line.starts_with("McpAgent acme/a Put") && line.contains(DEREGISTER)));
        assert!(!short.iter().any(|line| line.contains("acme/b") || line.contains("Policy")));
        assert_eq!(waits.keys().collect::<Vec<_>>(), [&key(Kind::SipDomain, "d0")]);
    }
}
