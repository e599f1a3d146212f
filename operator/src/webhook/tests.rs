use super::*;
use crate::index::{Index, Object};
use crate::key::Kind;
use crate::testing::{agent, domain, domain_policy, edge, index, key, owned_domain, policy, secret, store};
use serde_json::{Value, json};

/// As the API server sends it.
fn request(operation: &str, object: &Object, old: Option<&Object>) -> AdmissionRequest<DynamicObject> {
    let key = object.key();
    let value = |object: &Object| match object {
        Object::Edge(object) => json!(object),
        Object::Store(object) => json!(object),
        Object::Domain(object) => json!(object),
        Object::Agent(object) => json!(object),
        Object::Policy(object) => json!(object),
        other => panic!("{other:?}"),
    };
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "review-1", "operation": operation, "name": key.object.name, "namespace": key.object.namespace, "userInfo": {},
            "kind": {"group": "sipmcp.dev", "version": "v1alpha1", "kind": key.kind.as_str()},
            "resource": {"group": "sipmcp.dev", "version": "v1alpha1", "resource": "any"},
            "object": value(object), "oldObject": old.map(value), "dryRun": false,
        },
    });
    let review: AdmissionReview<DynamicObject> = serde_json::from_value(review).unwrap();
    review.try_into().unwrap()
}

fn create(index: &Index, object: &Object) -> Decision {
    decide(index, &request("CREATE", object, None))
}

fn with(object: Object, change: impl FnOnce(&mut Value)) -> Object {
    let Object::Agent(agent) = object else { panic!("an agent") };
    let mut value = json!(agent);
    change(&mut value);
    Object::Agent(serde_json::from_value(value).unwrap())
}

fn fields(faults: &[Fault]) -> Vec<&str> {
    faults.iter().map(|fault| &*fault.field).collect()
}

#[test]
fn a_second_agent_with_an_address_is_refused_and_an_update_of_the_first_is_not() {
    let first = agent("a0", 1, "d0", None);
    let index = index([domain("d0", 1), edge("e0", 1), first.clone()]);
    let second = with(agent("a1", 1, "d0", None), |value| value["spec"]["address"]["user"] = json!("a0"));
    let decision = create(&index, &second);
    assert_eq!(fields(&decision.faults), ["spec.address"]);
    let response = decision.response(&request("CREATE", &second, None));
    assert!(!response.allowed && response.uid == "review-1");
    assert!(response.result.message.starts_with("spec.address: is the address of McpAgent acme/a0"), "{response:?}");
    assert_eq!(response.result.details.unwrap().causes[0].field, "spec.address");
    let changed = with(first.clone(), |value| value["spec"]["backend"]["mcpHttp"]["url"] = json!("http://other:1/mcp"));
    assert_eq!(decide(&index, &request("UPDATE", &changed, Some(&first))), Decision::default());
    assert_eq!(create(&index, &agent("a2", 1, "d0", None)), Decision::default());
}

#[test]
fn what_is_not_there_yet_is_a_warning() {
    let index = index([edge("e0", 1)]);
    let decision = create(&index, &agent("a0", 1, "nowhere", Some("s0")));
    assert_eq!((decision.faults.len(), fields(&decision.warnings)), (0, vec!["spec.address.domainRef"]));
    let decision = create(&index, &policy("p0", 1, "a0"));
    assert_eq!((decision.faults.len(), fields(&decision.warnings)), (0, vec!["spec.targetRefs[0]"]));
    let response = decision.response(&request("CREATE", &policy("p0", 1, "a0"), None));
    assert!(response.allowed && response.warnings.unwrap()[0].starts_with("spec.targetRefs[0]: "));
}

#[test]
fn a_secret_that_nobody_named_before_is_not_said_to_be_missing() {
    let there = [domain("d0", 1), edge("e0", 1), secret("s0", 1, "token", "x")];
    let mut index = index(there.clone());
    assert_eq!(create(&index, &agent("a0", 1, "d0", Some("s0"))), Decision::default());
    // Somebody names another one, and that is known not to be there.
    index.apply(agent("a1", 1, "d0", Some("s1"))).unwrap();
    crate::testing::serve(&mut index, &there);
    assert!(index.is_complete());
    let decision = create(&index, &agent("a2", 1, "d0", Some("s1")));
    assert_eq!(fields(&decision.warnings), ["spec.backend.mcpHttp.credentialRef"]);
}

#[test]
fn a_quota_counts_those_that_are_there() {
    let limited = |most: u32| {
        let Object::Domain(mut domain) = domain("d0", 1) else { panic!("a domain") };
        domain.spec.quota.max_agents = Some(most);
        Object::Domain(domain)
    };
    let there = agent("a0", 1, "d0", None);
    let refused = index([limited(1), edge("e0", 1), there.clone()]);
    assert_eq!(fields(&create(&refused, &agent("a1", 1, "d0", None)).faults), ["spec.address.domainRef"]);
    let changed = with(there.clone(), |value| value["spec"]["backend"]["mcpHttp"]["url"] = json!("http://other:1/mcp"));
    assert_eq!(decide(&refused, &request("UPDATE", &changed, Some(&there))).faults, []);
    let room = index([limited(2), edge("e0", 1), there]);
    assert_eq!(create(&room, &agent("a1", 1, "d0", None)), Decision::default());
}

#[test]
fn a_domain_that_does_not_allow_the_namespace_is_a_refusal_once_its_labels_are_known() {
    let Object::Domain(mut owned) = domain("d0", 1) else { panic!("a domain") };
    owned.spec.allowed_namespaces =
        serde_json::from_value(json!({"from": "Selector", "selector": {"matchLabels": {"tenant": "acme"}}})).unwrap();
    let namespace = |tenant: &str| {
        let metadata = json!({"name": "acme", "labels": {"tenant": tenant}});
        Object::Namespace(serde_json::from_value(json!({ "metadata": metadata })).unwrap())
    };
    let with = |objects: &[Object]| {
        let there = [Object::Domain(owned.clone()), edge("e0", 1)];
        create(&index(there.into_iter().chain(objects.iter().cloned())), &agent("a0", 1, "d0", None))
    };
    assert_eq!(with(&[namespace("acme")]), Decision::default());
    assert_eq!(fields(&with(&[namespace("other")]).faults), ["spec.address.domainRef"]);
    let unknown = with(&[]);
    assert_eq!((unknown.faults.len(), fields(&unknown.warnings)), (0, vec!["spec.address.domainRef"]));
}

#[test]
fn sec_6_a_policy_for_another_tenants_domain_is_refused() {
    let index = index([owned_domain("d0", 1, &["acme"]), edge("e0", 1)]);
    let decision = create(&index, &domain_policy("evil", "shut", 1, &["d0"]));
    assert_eq!(fields(&decision.faults), ["spec.targetRefs[0]"]);
    assert!(decision.faults[0].message.contains("takes no policies of namespace \"evil\""), "{decision:?}");
    assert_eq!(create(&index, &domain_policy("acme", "ours", 1, &["d0"])), Decision::default());
    let unknown = create(&index, &domain_policy("evil", "early", 1, &["d9"]));
    assert_eq!((unknown.faults.len(), fields(&unknown.warnings)), (0, vec!["spec.targetRefs[0]"]));
}

#[test]
fn a_backend_that_is_not_there_is_a_warning_where_that_is_known() {
    let by_service = with(agent("a0", 1, "d0", None), |value| {
        value["spec"]["backend"]["mcpHttp"] = json!({"serviceRef": {"name": "mcp", "port": 80}});
    });
    let mut index = index([domain("d0", 1), edge("e0", 1)]);
    assert_eq!(create(&index, &by_service), Decision::default());
    index.services_known(true);
    let decision = create(&index, &by_service);
    assert_eq!((decision.faults.len(), fields(&decision.warnings)), (0, vec!["spec.backend.mcpHttp.serviceRef"]));
}

#[test]
fn a_domain_has_one_owner_and_a_durability_that_its_edges_can_give() {
    let index = index([domain("d0", 1), edge("e0", 1)]);
    let named = |name: &str, of: &str, durability: &str| {
        let Object::Domain(object) = domain(name, 1) else { panic!("a domain") };
        let mut value = json!(object);
        value["spec"]["domain"] = json!(of);
        value["spec"]["durability"] = json!(durability);
        Object::Domain(serde_json::from_value(value).unwrap())
    };
    assert_eq!(fields(&create(&index, &named("d9", "D0.example", "Memory")).faults), ["spec.domain"]);
    assert_eq!(fields(&create(&index, &named("d9", "d9.example", "Fsync")).faults), ["spec.durability"]);
    assert_eq!(create(&index, &named("d9", "d9.example", "Memory")), Decision::default());
}

#[test]
fn a_sip_edge_that_is_not_there_is_said_and_one_that_is_broken_is_there() {
    let Object::Edge(mut broken) = edge("e0", 1) else { panic!("an edge") };
    let twice = crds::v1alpha1::Listener { name: "again".into(), ..broken.spec.listeners[0].clone() };
    broken.spec.listeners.push(twice);
    let index = index([domain("d0", 1), Object::Edge(broken)]);
    let at = |names: &[&str]| {
        let parents: Vec<_> =
            names.iter().map(|name| json!({"kind": "SipEdge", "namespace": "system", "name": name})).collect();
        with(agent("a0", 1, "d0", None), |value| value["spec"]["parentRefs"] = json!(parents))
    };
    assert_eq!(create(&index, &at(&["e0"])), Decision::default());
    let decision = create(&index, &at(&["e0", "e1"]));
    assert_eq!((decision.faults.len(), fields(&decision.warnings)), (0, vec!["spec.parentRefs[1]"]));
}

#[test]
fn the_rules_of_a_kind_hold_with_the_path_of_the_field() {
    let index = index([domain("d0", 1), edge("e0", 1), store("s", 1)]);
    let broken = with(agent("a0", 1, "d0", None), |value| {
        value["spec"]["backend"]["mcpHttp"]["url"] = json!("http://user:pass@a:1/mcp");
    });
    assert_eq!(fields(&create(&index, &broken).faults), ["spec.backend.mcpHttp.url"]);
    let broken = crate::testing::broken_policy("p0", 1, "a0");
    assert_eq!(fields(&create(&index, &broken).faults), ["spec.rules"]);
}

#[test]
fn what_is_being_deleted_or_keeps_its_spec_is_never_refused() {
    let first = agent("a0", 1, "d0", None);
    let index = index([domain("d0", 1), edge("e0", 1), first]);
    let twin = with(agent("a1", 1, "d0", None), |value| value["spec"]["address"]["user"] = json!("a0"));
    let labelled = with(twin.clone(), |value| value["metadata"]["labels"] = json!({"a": "b"}));
    assert_eq!(decide(&index, &request("UPDATE", &labelled, Some(&twin))), Decision::default());
    let going = with(twin.clone(), |value| {
        value["metadata"]["deletionTimestamp"] = json!("2026-11-21T00:00:00Z");
        value["spec"]["backend"]["mcpHttp"]["url"] = json!("http://other:1/mcp");
    });
    assert_eq!(decide(&index, &request("UPDATE", &going, Some(&twin))), Decision::default());
    // A fault that was there before is said, and does not hold up the mending of another one.
    let changed = with(twin.clone(), |value| value["spec"]["backend"]["mcpHttp"]["url"] = json!("http://other:1/mcp"));
    let decision = decide(&index, &request("UPDATE", &changed, Some(&twin)));
    assert_eq!((decision.faults.len(), fields(&decision.warnings)), (0, vec!["spec.address"]));
}

#[test]
fn an_operator_that_knows_nothing_yet_refuses_only_what_is_wrong_by_itself() {
    let empty = Index::default();
    let decision = create(&empty, &agent("a0", 1, "d0", None));
    assert_eq!((decision.faults.len(), decision.warnings.len()), (0, 1));
    assert_eq!(fields(&create(&empty, &crate::testing::broken_policy("p0", 1, "a0")).faults), ["spec.rules"]);
}

#[test]
fn nonsense_is_no_review_and_other_kinds_are_not_judged() {
    let board = Board::default();
    for body in [&b""[..], b"{}", b"[]", br#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}"#] {
        assert!(review(&board, body).is_err(), "{body:?}");
    }
    let mut foreign = request("CREATE", &agent("a0", 1, "d0", None), None);
    foreign.kind.kind = "FederationPeer".into();
    assert_eq!(decide(&Index::default(), &foreign), Decision::default());
    assert_eq!(key(Kind::McpAgent, "a0"), agent("a0", 1, "d0", None).key());
    let mut unreadable = request("CREATE", &agent("a0", 1, "d0", None), None);
    unreadable.object.as_mut().unwrap().data["spec"]["backend"] = json!(7);
    assert_eq!(decide(&Index::default(), &unreadable).faults.len(), 1);
}
