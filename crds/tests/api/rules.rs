//! What the rules of a manifest say is what the policy does that decides.

use crds::manifest::ObjectKey;
use crds::policy::compile;
use mcp_sip::policy::{Arguments, Policies, Policy, Principal, Request, RuleLimits};
use serde_json::{Value, json};
use std::sync::Arc;

const ALICE: Principal<'static> = Principal::User("sip:alice@acme.example");

fn policy(more: Value) -> [Arc<Policy>; 1] {
    let mut spec = json!({"targetRefs": [{"kind": "McpAgent", "name": "a"}]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    [Arc::new(compile(&ObjectKey::new("acme", "p"), &serde_json::from_value(spec).unwrap()).unwrap())]
}

fn pay(policies: &Policies<'_>, amount: u32) -> bool {
    let arguments = json!({"amount": amount});
    policies.evaluate(&Request::method(ALICE, "tools/call", Some("pay"), Arguments::Known(&arguments))).allowed
}

#[test]
fn a_condition_of_a_manifest_decides_about_the_arguments_and_without_one_they_do_not_matter() {
    let rules = |when: Value| {
        let mut rule = json!({"name": "pay", "methods": [{"name": "tools/call", "params": ["pay"]}], "phases": ["Call"], "action": "Allow"});
        rule.as_object_mut().unwrap().extend(when.as_object().unwrap().clone());
        policy(json!({"rules": [rule]}))
    };
    let small = rules(json!({"when": "args.amount <= 100"}));
    let small = Policies { agent: &small, domain: &[] };
    assert!(pay(&small, 100) && !pay(&small, 101));
    let all = rules(json!({}));
    assert!(pay(&Policies { agent: &all, domain: &[] }, 101));
}

#[test]
fn limits_of_a_manifest_are_those_that_a_call_counts_for() {
    for (limits, wanted) in [
        (json!({"callsPerMinute": 5}), RuleLimits { calls_per_minute: Some(5), concurrent: None }),
        (json!({"concurrent": 2}), RuleLimits { calls_per_minute: None, concurrent: Some(2) }),
    ] {
        let rule = json!({"name": "all", "phases": ["Call"], "limits": limits, "action": "Allow"});
        let limited = policy(json!({"rules": [rule]}));
        let policies = Policies { agent: &limited, domain: &[] };
        let found = policies.limits(&Request::call(ALICE, "pay"));
        let [limit] = &found[..] else { panic!("{} limits", found.len()) };
        assert_eq!((limit.rule, limit.limits), ("all", wanted));
    }
}

#[test]
fn an_agents_policy_stands_beside_its_domains_or_in_its_place_as_the_manifest_says() {
    let allow = json!([{"name": "all", "action": "Allow"}]);
    let domain = policy(
        json!({"rules": [{"name": "some", "methods": [{"name": "tools/call", "params": ["look"]}], "action": "Allow"}]}),
    );
    for (inheritance, allowed) in
        [(json!({}), false), (json!({"inheritance": "Default"}), false), (json!({"inheritance": "Override"}), true)]
    {
        let mut spec = json!({"rules": allow});
        spec.as_object_mut().unwrap().extend(inheritance.as_object().unwrap().clone());
        let agent = policy(spec);
        assert_eq!(pay(&Policies { agent: &agent, domain: &domain }, 1), allowed, "{inheritance}");
    }
    for (action, allowed) in [("Allow", true), ("Deny", false)] {
        let agent = policy(json!({"defaultAction": action}));
        assert_eq!(pay(&Policies { agent: &agent, domain: &[] }, 1), allowed, "{action}");
    }
}
