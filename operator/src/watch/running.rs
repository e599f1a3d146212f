//! Workloads, pods and Services of our SipEdges.

use super::{FORBIDDEN, Read, Step, Task, Watch, follow};
use crate::board::State;
use crate::index::key_of;
use crate::plan::running::{LABELS, Listed, Thing};
use crate::run::Context;
use futures_util::FutureExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{DaemonSet, StatefulSet};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::Resource;
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// A kind that is watched here.
trait Run: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static {
    const LISTED: Listed;

    fn thing(self: Box<Self>) -> Thing;
}

macro_rules! run {
    ($($type:ident, $listed:ident;)+) => {
        $(impl Run for $type {
            const LISTED: Listed = Listed::$listed;

            fn thing(self: Box<Self>) -> Thing {
                Thing::$type(self)
            }
        })+
    };
}

run! {
    StatefulSet, StatefulSets;
    DaemonSet, DaemonSets;
    Pod, Pods;
    Service, Services;
    Node, Nodes;
}

pub(super) fn tasks(context: &Context) -> Vec<Task> {
    // Only for their addresses, and a Role gives no right to them.
    let nodes = Watch { optional: Some(FORBIDDEN), ..Watch::<Read<Node>>::everywhere("Node", context.client.clone()) };
    vec![
        task(context, "the watch of StatefulSets", ours::<StatefulSet>("StatefulSet", context)),
        task(context, "the watch of DaemonSets", ours::<DaemonSet>("DaemonSet", context)),
        task(context, "the watch of Pods", ours::<Pod>("Pod", context)),
        task(context, "the watch of Services", ours::<Service>("Service", context)),
        task(context, "the watch of Nodes", nodes),
        ("the counter of pods", count(context.clone()).boxed()),
    ]
}

/// Brings to the fleets what runs, after every change.
async fn count(context: Context) {
    let mut revisions = context.board.revisions();
    let mut shutdown = context.shutdown.clone();
    let mut known = None;
    loop {
        let changed = context.board.quietly(|State { running, index, fleets, .. }| {
            let now = (running.revision(), index.revision());
            known.replace(now) != Some(now) && running.count(index, fleets)
        });
        if changed {
            context.board.change(|_| ());
        }
        tokio::select! {
            changed = revisions.changed() => if changed.is_err() { return },
            () = shutdown.requested() => return,
        }
    }
}

fn ours<K: Run + Resource<Scope = NamespaceResourceScope>>(kind: &'static str, context: &Context) -> Watch<Read<K>> {
    Watch::<Read<K>>::namespaced(kind, context).labelled(LABELS)
}

fn task<K: Run>(context: &Context, name: &'static str, watch: Watch<Read<K>>) -> Task {
    let (board, kind) = (context.board.clone(), watch.name);
    let take = move |namespace: Option<&str>, step: Step<Read<K>>| {
        if board.quietly(|state| take(state, namespace, step, kind)) {
            board.change(|_| ());
        }
        false
    };
    (name, follow(context.clone(), watch, take).boxed())
}

/// True where something changed that somebody follows.
fn take<K: Run>(state: &mut State, namespace: Option<&str>, step: Step<Read<K>>, kind: &str) -> bool {
    let thing = |read: Read<K>| match read {
        Read::Whole(object) => Some(object.thing()),
        Read::Broken(broken) => {
            tracing::warn!(
                kind,
                name = broken.metadata.name,
                error = broken.error,
                "does not fit its type and is left out"
            );
            None
        }
    };
    let before = state.running.revision();
    match step {
        Step::Nothing | Step::Forbidden => {}
        Step::Apply(read) => {
            if let Some(thing) = thing(read) {
                state.running.apply(&thing);
            }
        }
        Step::Delete(read) => {
            state.running.delete(K::LISTED, &key_of(read.meta()), read.meta().uid.as_deref());
        }
        Step::Reset(list) => {
            state.running.reset(K::LISTED, None, &list.into_iter().filter_map(thing).collect::<Vec<_>>());
        }
        Step::Again(_, list) => {
            state.running.reset(K::LISTED, namespace, &list.into_iter().filter_map(thing).collect::<Vec<_>>());
        }
    }
    state.running.revision() != before
}
