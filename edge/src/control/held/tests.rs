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
