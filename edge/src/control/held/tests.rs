use super::*;
use serde_json::{Value, json};

fn object(kind: &str, namespace: &str, name: &str, spec: Value) -> Value {
    let mut metadata = json!({ "name": name });
    if !namespace.is_empty() {
        metadata["namespace"] = namespace.into();
    }
    json!({"apiVersion": "sipmcp.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec})
}

fn given(held: &mut Held, kind: Kind, object: &Value) -> Taken {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    let key = Key::new(kind, ObjectKey::new(text("namespace"), text("name")));
    let json = serde_json::to_vec(object).unwrap().into();
    let upsert = Upsert { key: Some(key.to_message()), version: "u/1".into(), json, ..Upsert::default() };
    held.take(Delta { upserts: vec![upsert], ..Delta::default() }).remove(0)
}

/// A domain with two agents, in each of two namespaces.
fn held() -> Held {
    let mut held = Held::default();
    given(&mut held, Kind::SipDomain, &object("SipDomain", "", "d", json!({"domain": "d.example"})));
    for (namespace, name) in [("acme", "a"), ("acme", "b"), ("other", "c")] {
        let spec = json!({
            "address": {"user": name, "domainRef": {"name": "d"}},
            "backend": {"mcpHttp": {"url": "http://backend.example/mcp"}},
            "capabilities": {"source": "Discovered"},
        });
        given(&mut held, Kind::McpAgent, &object("McpAgent", namespace, name, spec));
    }
    held
}

/// The agents that are not closed.
fn open(held: &Held) -> Vec<String> {
    held.judge().objects.agents.keys().map(|key| key.name.clone()).collect()
}

/// What is wrong with the policy `acme/p`.
fn problems(held: &Held) -> Vec<String> {
    let of_policy = |problem: &&Problem| problem.file.to_str() == Some("McpCapabilityPolicy acme/p");
    held.judge().problems.iter().filter(of_policy).map(|problem| problem.field.clone()).collect()
}

fn policy(spec: Value) -> Value {
    object("McpCapabilityPolicy", "acme", "p", spec)
}

/// Everybody may call `a`, but for `restriction`.
fn allows(restriction: &Value) -> Value {
    let mut rule = json!({"name": "all", "action": "Allow", "audit": "Metadata"});
    if !restriction.is_null() {
        rule["fromFuture"] = restriction.clone();
    }
    policy(json!({"targetRefs": [{"group": "sipmcp.dev", "kind": "McpAgent", "name": "a"}], "rules": [rule]}))
}

#[test]
fn a_policy_with_a_restriction_of_a_later_release_closes_what_it_selects() {
    let mut held = held();
    given(&mut held, Kind::McpCapabilityPolicy, &allows(&Value::Null));
    assert_eq!(open(&held), ["a", "b", "c"]);
    given(&mut held, Kind::McpCapabilityPolicy, &allows(&json!(["sip:boss@d.example"])));
    assert_eq!(open(&held), ["b", "c"], "without the restriction the rule allows too much");
    assert_eq!(problems(&held), ["spec.rules[0].fromFuture"]);
    given(&mut held, Kind::McpCapabilityPolicy, &allows(&Value::Null));
    assert_eq!(open(&held), ["a", "b", "c"]);
}

#[test]
fn another_object_with_a_field_of_a_later_release_is_in_use_with_a_warning() {
    let mut held = held();
    assert!(held.judge().warnings.is_empty());
    given(&mut held, Kind::SipDomain, &object("SipDomain", "", "d", json!({"domain": "d.example", "greeting": "hi"})));
    assert_eq!(open(&held), ["a", "b", "c"]);
    let judged = held.judge();
    let warnings: Vec<_> = judged.warnings.iter().map(|warning| (warning.file.to_str(), &*warning.field)).collect();
    assert_eq!(warnings, [(Some("SipDomain d"), "spec.greeting")]);
    assert!(judged.problems.is_empty());
}

#[test]
fn a_policy_that_does_not_fit_its_type_closes_what_it_selects_and_nothing_else() {
    let mut held = held();
    let target = json!({"group": "sipmcp.dev", "kind": "McpAgent", "name": "a"});
    let refs = json!([target]);
    given(&mut held, Kind::McpCapabilityPolicy, &policy(json!({"targetRefs": refs, "rules": "all"})));
    assert_eq!(open(&held), ["b", "c"]);
    for unclear in [json!([target, {"kind": "Other", "name": "b"}]), json!([]), json!("a"), Value::Null] {
        given(&mut held, Kind::McpCapabilityPolicy, &policy(json!({"targetRefs": unclear, "rules": "all"})));
        assert_eq!(open(&held), ["c"], "{unclear}: it may be for all of its namespace");
    }
}

#[test]
fn a_policy_without_room_closes_what_it_selects_until_it_has_some() {
    let mut held = held();
    let used = std::mem::replace(&mut held.bytes, MAX_BYTES);
    let taken = given(&mut held, Kind::McpCapabilityPolicy, &allows(&Value::Null));
    assert!(taken.refused.is_some());
    assert_eq!(open(&held), ["b", "c"]);
    // The operator goes on to say what it selects, and what it does not.
    assert_eq!(held.versions().len(), 4, "it is not held");
    held.bytes = used;
    assert!(given(&mut held, Kind::McpCapabilityPolicy, &allows(&Value::Null)).refused.is_none());
    assert_eq!(open(&held), ["a", "b", "c"]);
}

#[test]
fn a_policy_without_room_closes_nothing_any_more_once_it_is_gone() {
    let mut held = held();
    given(&mut held, Kind::McpCapabilityPolicy, &allows(&Value::Null));
    held.take(Delta { initial_done: true, ..Delta::default() });
    let used = std::mem::replace(&mut held.bytes, MAX_BYTES);
    let wider = policy(json!({"targetRefs": [{"kind": "McpAgent", "name": "b"}], "rules": [
        {"name": "all", "action": "Allow", "audit": "Metadata"}, {"name": "more", "action": "Allow"}, {"name": "most", "action": "Allow"},
    ]}));
    assert!(given(&mut held, Kind::McpCapabilityPolicy, &wider).refused.is_some());
    // In its older form it is for another one.
    assert_eq!(open(&held), ["a", "c"]);
    held.bytes = used;
    let key = Key::new(Kind::McpCapabilityPolicy, ObjectKey::new("acme", "p"));
    held.take(Delta { removals: vec![key.to_message()], ..Delta::default() });
    assert_eq!(open(&held), ["a", "b", "c"]);
}

#[test]
fn a_domain_that_cannot_be_read_any_more_keeps_its_number() {
    let mut held = Held::default();
    let domain = |spec: Value, tenant| {
        let json = serde_json::to_vec(&object("SipDomain", "", "d", spec)).unwrap().into();
        let key = Key::new(Kind::SipDomain, ObjectKey::new("", "d")).to_message();
        Upsert { key: Some(key), version: "u/1".into(), json, tenant }
    };
    let numbers = |held: &Held| held.tenants().into_iter().collect::<Vec<_>>();
    let take = |held: &mut Held, upsert| held.take(Delta { upserts: vec![upsert], ..Delta::default() });
    take(&mut held, domain(json!({"domain": "D.example"}), Some(7)));
    assert_eq!(numbers(&held), [("d.example".to_owned(), 7)]);
    // As an edge starts with what was kept: what stood last, then what cannot be read in its place.
    take(&mut held, domain(json!({"domain": "d.example", "authentication": "none"}), None));
    assert_eq!(numbers(&held), [("d.example".to_owned(), 7)]);
    take(&mut held, domain(json!({"domain": "d.example", "authentication": "less"}), Some(7)));
    assert_eq!(numbers(&held), [("d.example".to_owned(), 7)]);
}
