//! The kinds of `sipmcp.dev`, and the labels of namespaces.

use super::{FORBIDDEN, Read, Step, Task, Watch, follow};
use crate::board::State;
use crate::index::{Object, Unreadable, key_of};
use crate::key::{Key, Kind};
use crate::plan::finalizer::Leaving;
use crate::run::Context;
use crds::v1alpha1::{McpAgent, McpCapabilityPolicy, SessionStore, SipDomain, SipEdge};
use futures_util::FutureExt;
use k8s_openapi::api::core::v1::Namespace;
use kube::Resource;
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// A kind that the index keeps whole.
trait Indexed: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static {
    const KIND: Kind;

    fn object(self: Box<Self>) -> Object;
}

macro_rules! indexed {
    ($($type:ident, $variant:ident;)+) => {
        $(impl Indexed for $type {
            const KIND: Kind = Kind::$type;

            fn object(self: Box<Self>) -> Object {
                Object::$variant(self)
            }
        })+
    };
}

indexed! {
    SipEdge, Edge;
    SessionStore, Store;
    SipDomain, Domain;
    McpAgent, Agent;
    McpCapabilityPolicy, Policy;
}

impl Indexed for Namespace {
    const KIND: Kind = Kind::Namespace;

    fn object(self: Box<Self>) -> Object {
        Object::Namespace(*self)
    }
}

pub(super) fn tasks(context: &Context) -> Vec<Task> {
    let client = || context.client.clone();
    // A Role in the watched namespaces gives no right to list namespaces; one that is not known has its name for its only label.
    let optional = (!context.args.watch_namespaces.is_empty()).then_some(FORBIDDEN);
    vec![
        task(context, "the watch of SipEdges", Watch::namespaced("SipEdge", context), index_of::<SipEdge>),
        task(
            context,
            "the watch of SessionStores",
            Watch::namespaced("SessionStore", context),
            index_of::<SessionStore>,
        ),
        task(context, "the watch of SipDomains", Watch::everywhere("SipDomain", client()), index_of::<SipDomain>),
        task(context, "the watch of McpAgents", Watch::namespaced("McpAgent", context), index_of::<McpAgent>),
        task(
            context,
            "the watch of McpCapabilityPolicies",
            Watch::namespaced("McpCapabilityPolicy", context),
            index_of::<McpCapabilityPolicy>,
        ),
        task(
            context,
            "the watch of namespaces",
            Watch { optional, ..Watch::everywhere("Namespace", client()) },
            index_of::<Namespace>,
        ),
    ]
}

/// What a step did to the state.
struct Done {
    changed: bool,
    /// For each object that was turned away, why.
    refused: Vec<String>,
    /// Something has to be listed again.
    short: bool,
}

fn task<K: Indexed>(
    context: &Context,
    name: &'static str,
    watch: Watch<Read<K>>,
    index: fn(&mut State, Option<&str>, Step<Read<K>>) -> Done,
) -> Task {
    let context = context.clone();
    let (board, metrics) = (context.board.clone(), context.metrics.clone());
    let kind = K::KIND.as_str();
    let take = move |namespace: Option<&str>, step: Step<Read<K>>| {
        let done = board.quietly(|state| index(state, namespace, step));
        for reason in done.refused {
            metrics.refused(kind);
            tracing::warn!(kind, "{reason}");
        }
        if done.changed {
            board.change(|_| ());
        }
        done.short
    };
    (name, follow(context, watch, take).boxed())
}

fn index_of<K: Indexed>(state: &mut State, namespace: Option<&str>, step: Step<Read<K>>) -> Done {
    let before = (state.index.revision(), state.leaving.len());
    let mut refused = Vec::new();
    match step {
        Step::Nothing | Step::Forbidden => {}
        Step::Apply(read) => {
            if let Some(object) = prepare(state, read, &mut refused) {
                let key = object.key();
                if let Err(full) = state.index.apply(object) {
                    refused.push(format!("{key} is not taken: {full}"));
                }
            }
        }
        Step::Delete(read) => {
            let key = key(&read);
            state.leaving.remove(&key);
            state.index.delete(&key, read.meta().uid.as_deref());
        }
        Step::Reset(list) => {
            state.leaving.retain(|key, _| key.kind != K::KIND);
            let list = list.into_iter().filter_map(|read| prepare(state, read, &mut refused)).collect();
            if let Err(full) = state.index.reset(K::KIND, list) {
                refused.push(format!("not everything is taken: {full}"));
            }
        }
        Step::Again(_, list) => {
            let here = |key: &Key| namespace.is_none_or(|namespace| key.object.namespace == namespace);
            state.leaving.retain(|key, _| key.kind != K::KIND || !here(key));
            let list = list.into_iter().filter_map(|read| prepare(state, read, &mut refused)).collect();
            let done = match namespace {
                Some(namespace) => state.index.reset_namespace(K::KIND, namespace, list),
                None => state.index.reset(K::KIND, list),
            };
            if let Err(full) = done {
                refused.push(format!("not everything is taken: {full}"));
            }
        }
    }
    let changed = before != (state.index.revision(), state.leaving.len());
    Done { changed, refused, short: state.index.is_short(K::KIND) }
}

fn key<K: Indexed>(read: &Read<K>) -> Key {
    let mut object = key_of(read.meta());
    if matches!(K::KIND, Kind::SipDomain | Kind::Namespace) {
        object.namespace = String::new();
    }
    Key::new(K::KIND, object)
}

/// What the index is to take. `None`: an agent that is being deleted is gone for the edges, so that they take its registration back while it
/// is still there (REG-6); everything else stays until it is gone.
fn prepare<K: Indexed>(state: &mut State, read: Read<K>, refused: &mut Vec<String>) -> Option<Object> {
    let key = key(&read);
    match Leaving::of(read.meta()) {
        Some(leaving) => {
            state.leaving.insert(key.clone(), leaving);
            if K::KIND == Kind::McpAgent {
                state.index.delete(&key, None);
                return None;
            }
        }
        None => {
            state.leaving.remove(&key);
        }
    }
    match read {
        Read::Whole(mut object) => {
            // Nobody reads who wrote what, and it is as large as the rest.
            object.meta_mut().managed_fields = None;
            Some(object.object())
        }
        Read::Broken(broken) => {
            refused.push(format!("{key} does not fit its type and is left out: {}", broken.error));
            Some(Object::Unreadable(key, Unreadable { error: broken.error, targets: broken.targets }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{agent, index};
    use crate::watch::testing::{ApiServer, until};

    fn read(object: Object, deleting: bool) -> Read<McpAgent> {
        let Object::Agent(mut agent) = object else { panic!("an agent") };
        if deleting {
            let time = serde_json::from_value(serde_json::json!("2026-11-20T13:00:00Z")).unwrap();
            agent.metadata.deletion_timestamp = Some(time);
            agent.metadata.finalizers = Some(vec![crate::plan::finalizer::DEREGISTER.to_owned()]);
        }
        Read::Whole(agent)
    }

    #[test]
    fn reg_6_an_agent_that_is_being_deleted_is_gone_for_the_edges_and_still_known() {
        let mut state = State { index: index([agent("a", 1, "d0", None)]), ..State::default() };
        let key = crate::testing::key(Kind::McpAgent, "a");
        let done = index_of(&mut state, None, Step::Apply(read(agent("a", 2, "d0", None), true)));
        assert!(done.changed && state.index.agent(&key.object).is_none() && state.leaving.contains_key(&key));
        index_of(&mut state, None, Step::Again(0, vec![read(agent("a", 2, "d0", None), true)]));
        assert!(state.index.agent(&key.object).is_none() && state.leaving.contains_key(&key));
        let done = index_of(&mut state, None, Step::Delete(read(agent("a", 3, "d0", None), true)));
        assert!(done.changed && state.leaving.is_empty());
        index_of(&mut state, None, Step::Apply(read(agent("a", 1, "d0", None), false)));
        assert!(state.index.agent(&key.object).is_some(), "made anew");
    }

    #[test]
    fn a_status_that_changed_wakes_nobody() {
        let mut state = State { index: index([agent("a", 1, "d0", None)]), ..State::default() };
        assert!(!index_of(&mut state, None, Step::Apply(read(agent("a", 1, "d0", None), false))).changed);
        assert!(index_of(&mut state, None, Step::Apply(read(agent("a", 2, "d0", None), false))).changed);
    }

    #[tokio::test]
    async fn who_may_not_list_namespaces_waits_for_everything_else_only() {
        let api = ApiServer::start().await;
        api.forbid("/api/v1/namespaces");
        let kinds = ["sipedges", "sessionstores", "mcpagents", "mcpcapabilitypolicies"];
        for kind in kinds {
            api.list(&format!("/apis/sipmcp.dev/v1alpha1/namespaces/acme/{kind}"), &[]);
        }
        api.list("/apis/sipmcp.dev/v1alpha1/sipdomains", &[]);
        let context = api.context(&["--watch-namespaces", "acme"]);
        for (_, task) in tasks(&context) {
            tokio::spawn(task);
        }
        let awaited = || context.board.quietly(|state| state.index.awaited());
        until("only backends are awaited", || awaited() == [Kind::Endpoints]).await;
    }
}
