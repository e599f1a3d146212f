//! Services and EndpointSlices: where the backends of agents answer (REG-9).

use super::{Read, Step, Task, Watch, follow};
use crate::board::State;
use crate::index::{Object, key_of};
use crate::key::{Key, Kind};
use crate::run::Context;
use crds::manifest::ObjectKey;
use futures_util::FutureExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Resource;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::fmt::Debug;

/// A kind that is watched here.
trait Part:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send + 'static
{
    /// These return the Services whose endpoints may be others now.
    fn apply(&self, state: &mut State) -> BTreeSet<ObjectKey>;
    fn delete(key: &ObjectKey, state: &mut State) -> BTreeSet<ObjectKey>;
    fn known(state: &State, namespace: Option<&str>) -> Vec<ObjectKey>;
}

impl Part for Service {
    fn apply(&self, state: &mut State) -> BTreeSet<ObjectKey> {
        state.backends.apply_service(self).into_iter().collect()
    }

    fn delete(key: &ObjectKey, state: &mut State) -> BTreeSet<ObjectKey> {
        state.backends.delete_service(key).into_iter().collect()
    }

    fn known(state: &State, namespace: Option<&str>) -> Vec<ObjectKey> {
        state.backends.services_in(namespace)
    }
}

impl Part for EndpointSlice {
    fn apply(&self, state: &mut State) -> BTreeSet<ObjectKey> {
        state.backends.apply_slice(self)
    }

    fn delete(key: &ObjectKey, state: &mut State) -> BTreeSet<ObjectKey> {
        state.backends.delete_slice(key)
    }

    fn known(state: &State, namespace: Option<&str>) -> Vec<ObjectKey> {
        state.backends.slices_in(namespace)
    }
}

pub(super) fn tasks(context: &Context) -> Vec<Task> {
    vec![
        task::<Service>(context, "the watch of backends' Services", "Service"),
        task::<EndpointSlice>(context, "the watch of EndpointSlices", "EndpointSlice"),
    ]
}

fn task<K: Part>(context: &Context, name: &'static str, kind: &'static str) -> Task {
    let watch = Watch::<Read<K>>::namespaced(kind, context);
    let board = context.board.clone();
    let take = move |namespace: Option<&str>, step: Step<Read<K>>| {
        if board.quietly(|state| take(state, namespace, step)) {
            board.change(|_| ());
        }
        false
    };
    (name, follow(context.clone(), watch, take).boxed())
}

/// True where an edge has to be told.
fn take<K: Part>(state: &mut State, namespace: Option<&str>, step: Step<Read<K>>) -> bool {
    let before = state.index.revision();
    let mut changed = BTreeSet::new();
    match step {
        Step::Nothing => {}
        Step::Apply(Read::Whole(object)) => changed = object.apply(state),
        // What cannot be read has no endpoints.
        Step::Apply(read @ Read::Broken(_)) | Step::Delete(read) => changed = K::delete(&key_of(read.meta()), state),
        Step::Reset(list) => changed = relist(state, None, list),
        Step::Again(_, list) => changed = relist(state, namespace, list),
    }
    for service in changed {
        tell(state, service);
    }
    state.index.revision() != before
}

fn relist<K: Part>(state: &mut State, namespace: Option<&str>, list: Vec<Read<K>>) -> BTreeSet<ObjectKey> {
    let mut changed = BTreeSet::new();
    let listed: BTreeSet<ObjectKey> = list.iter().map(|read| key_of(read.meta())).collect();
    for gone in K::known(state, namespace).into_iter().filter(|key| !listed.contains(key)) {
        changed.extend(K::delete(&gone, state));
    }
    for read in list {
        if let Read::Whole(object) = read {
            changed.extend(object.apply(state));
        }
    }
    changed
}

/// Brings the endpoints of a Service to the index.
fn tell(state: &mut State, service: ObjectKey) {
    match state.backends.endpoints(&service) {
        Some(endpoints) => {
            let object = Object::Endpoints(service, endpoints);
            let key = object.key();
            if let Err(full) = state.index.apply(object) {
                tracing::warn!("{key} are not taken: {full}");
            }
        }
        None => {
            state.index.delete(&Key::new(Kind::Endpoints, service), None);
        }
    }
}
