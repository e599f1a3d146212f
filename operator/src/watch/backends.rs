//! Services and EndpointSlices: where the backends of agents answer (REG-9).

use super::{FORBIDDEN, Read, Step, Task, Watch, follow};
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
    const IS_SERVICE: bool;

    /// These return the Services whose endpoints may be others now.
    fn apply(&self, state: &mut State) -> BTreeSet<ObjectKey>;
    fn delete(key: &ObjectKey, state: &mut State) -> BTreeSet<ObjectKey>;
    fn known(state: &State, namespace: Option<&str>) -> Vec<ObjectKey>;
}

impl Part for Service {
    const IS_SERVICE: bool = true;

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
    const IS_SERVICE: bool = false;

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
    // Who may not list them leaves it to the edges to look the Services up.
    let watch = Watch { optional: Some(FORBIDDEN), ..Watch::<Read<K>>::namespaced(kind, context) };
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
    let whole = matches!(step, Step::Reset(_));
    match &step {
        Step::Forbidden if K::IS_SERVICE => state.backends.hide(namespace),
        Step::Reset(_) if K::IS_SERVICE => state.backends.show(None),
        Step::Again(..) if K::IS_SERVICE => state.backends.show(namespace),
        _ => {}
    }
    match step {
        // What was listed stays.
        Step::Nothing | Step::Forbidden => {}
        Step::Apply(Read::Whole(object)) => changed = object.apply(state),
        // What cannot be read has no endpoints.
        Step::Apply(read @ Read::Broken(_)) | Step::Delete(read) => changed = K::delete(&key_of(read.meta()), state),
        Step::Reset(list) => changed = relist(state, None, list),
        Step::Again(_, list) => changed = relist(state, namespace, list),
    }
    for service in changed {
        tell(state, service);
    }
    if whole && state.backends.listed(K::IS_SERVICE) {
        // Only now an edge may be told that it has everything: what it has of an earlier operator's stays until then.
        let endpoints = |service: ObjectKey| {
            let endpoints = state.backends.endpoints(&service)?;
            Some(Object::Endpoints(service, endpoints))
        };
        let all = state.backends.services_in(None).into_iter().filter_map(endpoints).collect();
        if let Err(full) = state.index.reset(Kind::Endpoints, all) {
            tracing::warn!("not all endpoints are taken: {full}");
        }
    }
    let known = state.backends.are_known();
    state.index.services_known(known);
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
            state.index.leads_elsewhere(&service, false);
            let object = Object::Endpoints(service, endpoints);
            let key = object.key();
            if let Err(full) = state.index.apply(object) {
                tracing::warn!("{key} are not taken: {full}");
            }
        }
        None => {
            let elsewhere = state.backends.leads_elsewhere(&service);
            state.index.leads_elsewhere(&service, elsewhere);
            state.index.delete(&Key::new(Kind::Endpoints, service), None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{agent, domain, edge, index};
    use serde_json::json;

    fn read<K: DeserializeOwned>(value: serde_json::Value) -> Read<K> {
        Read::Whole(Box::new(serde_json::from_value(value).unwrap()))
    }

    fn service(name: &str) -> Read<Service> {
        read(json!({"metadata": {"name": name, "namespace": "acme"}, "spec": {"ports": [{"port": 80}]}}))
    }

    fn slice(service: &str) -> Read<EndpointSlice> {
        let metadata = json!({"name": format!("{service}-x"), "namespace": "acme", "labels": {"kubernetes.io/service-name": service}});
        let endpoints = json!([{"addresses": ["10.0.0.1"]}]);
        read(json!({"metadata": metadata, "addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": endpoints}))
    }

    fn awaited(state: &State) -> bool {
        state.index.awaited().contains(&Kind::Endpoints)
    }

    #[test]
    fn reg_9_endpoints_are_known_when_services_and_slices_are_and_not_before() {
        let mut state = State::default();
        assert!(!take(&mut state, None, Step::Reset(vec![slice("billing")])));
        assert!(awaited(&state), "an edge keeps what it has");
        assert!(take(&mut state, None, Step::Reset(vec![service("billing")])));
        assert!(!awaited(&state));
        let key = Key::of(Kind::Endpoints, "acme", "billing");
        assert!(String::from_utf8_lossy(&state.index.content(&key).unwrap().json).contains("10.0.0.1:8080"));
        // Without any, somebody hears of it all the same.
        let mut none = State::default();
        take(&mut none, None, Step::<Read<Service>>::Reset(Vec::new()));
        assert!(take(&mut none, None, Step::<Read<EndpointSlice>>::Reset(Vec::new())) && !awaited(&none));
    }

    #[test]
    fn edges_are_told_of_endpoints_that_an_agent_names_and_nobody_is_woken_for_others() {
        let Object::Agent(mut billing) = agent("a", 1, "d0", None) else { panic!("an agent") };
        let http = json!({"serviceRef": {"name": "billing", "port": 80}});
        billing.spec.backend = serde_json::from_value(json!({"mcpHttp": http})).unwrap();
        let index = index([edge("e", 1), domain("d0", 1), Object::Agent(billing)]);
        let mut state = State { index, ..State::default() };
        take(&mut state, None, Step::Reset(vec![service("billing"), service("other")]));
        assert!(take(&mut state, None, Step::Apply(slice("billing"))));
        assert!(!take(&mut state, None, Step::Apply(slice("other"))));
        let wanted = crate::plan::delta::wanted(&state.index, &ObjectKey::new("system", "e"));
        let told: Vec<_> = wanted.keys().filter(|key| key.kind == Kind::Endpoints).collect();
        assert_eq!(told, [&Key::of(Kind::Endpoints, "acme", "billing")]);
        assert!(take(&mut state, None, Step::Delete(service("billing"))));
    }

    #[test]
    fn who_may_not_list_any_more_goes_on_with_what_was_listed() {
        let told = |state: &State, service: &str| {
            let content = state.index.content(&Key::of(Kind::Endpoints, "acme", service));
            content.map(|content| String::from_utf8_lossy(&content.json).contains("10.0.0.1:8080"))
        };
        for namespace in [Some("elsewhere"), Some("acme"), None] {
            let mut state = State::default();
            take(&mut state, None, Step::Reset(vec![slice("billing")]));
            take(&mut state, None, Step::Reset(vec![service("billing")]));
            take(&mut state, namespace, Step::<Read<Service>>::Forbidden);
            take(&mut state, namespace, Step::<Read<EndpointSlice>>::Forbidden);
            assert_eq!(told(&state, "billing"), Some(true), "{namespace:?}");
            assert!(!state.backends.are_known(), "one that is not here may be there all the same");
            take(&mut state, namespace, Step::Again(0, Vec::<Read<Service>>::new()));
            let gone = namespace != Some("elsewhere");
            assert_eq!((told(&state, "billing").is_none(), state.backends.are_known()), (gone, true), "{namespace:?}");
        }
    }

    #[test]
    fn a_backend_that_is_not_there_is_said_and_heals_and_nothing_is_said_of_what_nobody_may_see() {
        use crds::v1alpha1::Reason;
        let by_service = |port: u16| {
            let Object::Agent(mut billing) = agent("a", 1, "d0", None) else { panic!("an agent") };
            let http = json!({"serviceRef": {"name": "billing", "port": port}});
            billing.spec.backend = serde_json::from_value(json!({"mcpHttp": http})).unwrap();
            Object::Agent(billing)
        };
        let state = |port: u16| {
            let index = index([edge("e", 1), domain("d0", 1), by_service(port)]);
            State { index, ..State::default() }
        };
        let said = |state: &State| {
            let verdicts = state.index.view().verdicts_of(&Key::of(Kind::McpAgent, "acme", "a")).to_vec();
            let told = state.index.view().snapshot(&state.index, &ObjectKey::new("system", "e"));
            assert_eq!(told.agents.len(), 1, "its address is taken all the same");
            verdicts.into_iter().map(|verdict| (verdict.reason, verdict.field)).collect::<Vec<_>>()
        };
        let lost = |field: &str| vec![(Reason::BackendNotFound, format!("spec.backend.mcpHttp.serviceRef{field}"))];
        let mut one = state(80);
        assert_eq!(said(&one), [], "nobody has listed them");
        take(&mut one, None, Step::<Read<EndpointSlice>>::Reset(Vec::new()));
        take(&mut one, None, Step::Reset(vec![service("other")]));
        assert_eq!(said(&one), lost(""));
        assert!(take(&mut one, None, Step::Apply(service("billing"))));
        assert_eq!(said(&one), []);
        assert!(take(&mut one, None, Step::Delete(service("billing"))));
        assert_eq!(said(&one), lost(""));
        let spec = json!({"type": "ExternalName", "externalName": "outside.example"});
        let outside = read(json!({"metadata": {"name": "billing", "namespace": "acme"}, "spec": spec}));
        assert!(take(&mut one, None, Step::<Read<Service>>::Apply(outside)));
        assert_eq!(said(&one), [], "its name leads elsewhere");
        take(&mut one, None, Step::<Read<Service>>::Forbidden);
        assert_eq!(said(&one), [], "who may not see Services says nothing of them");
        take(&mut one, None, Step::Reset(vec![service("other")]));
        assert_eq!(said(&one), lost(""));

        let mut port = state(81);
        take(&mut port, None, Step::<Read<EndpointSlice>>::Reset(Vec::new()));
        take(&mut port, None, Step::Reset(vec![service("billing")]));
        assert_eq!(said(&port), lost(".port"));
    }
}
