//! Quotas of a tenant.

use std::sync::Arc;

use edge_core::audit::Outcome;
use serde_json::json;

use super::rig::*;

/// A tenant may call so many tools a second.
fn with_quota(per_second: Option<u32>) -> edge_core::config::Config {
    let mut config = config(vec![agent("both", &[MODERN, LEGACY])], default_rules());
    config.edge.limits.in_flight_per_session = 128;
    for domain in config.domains.values_mut() {
        Arc::make_mut(domain).tool_calls_per_second = per_second;
    }
    config
}

#[test]
fn a_tool_call_beyond_the_quota_is_31002_with_the_time_until_there_is_room() {
    let mut rig = Rig::new(with_quota(Some(2)));
    let leg = rig.dialog("both");
    for id in 0..20 {
        assert_eq!(rig.send(&leg, None, &call(id, "echo")), 200);
    }
    let calls = rig.new_calls();
    assert!(rig.deliveries.is_empty());
    assert_eq!(rig.send(&leg, None, &call(20, "echo")), 200, "a quota is no statement about the server");
    assert_eq!(rig.one_error(), (-31002, json!({"limit": "toolCallsPerSecond", "retryAfterMs": 500})));
    assert!(rig.new_calls().is_empty());
    assert_eq!(rig.audits.last().map(|audit| audit.outcome.clone()), Some(Outcome::Error(-31002)));
    assert_eq!(rig.engine.stats().limited.get("toolCallsPerSecond"), Some(&1));
    // Nothing else counts, and nobody else: neither other methods nor what policy refuses.
    assert_eq!(rig.send(&leg, None, &modern(21, "prompts/get", json!({"name": "greet"}))), 200);
    let (prompt, _) = rig.one_call();
    // The time that was named is long enough.
    rig.pass(500);
    assert_eq!(rig.send(&leg, None, &call(22, "echo")), 200);
    let (last, _) = rig.one_call();
    for (id, call) in calls.into_iter().map(|(id, call)| (id, body_of(&call)["id"].clone())) {
        rig.answer(id, &result(call, "x"));
    }
    rig.answer(prompt, &result(21, "x"));
    rig.answer(last, &result(22, "x"));
    rig.assert_empty();
}

#[test]
fn the_repetition_of_a_call_that_was_taken_is_not_refused_by_a_quota() {
    let mut rig = Rig::new(with_quota(Some(1)));
    let leg = rig.dialog("both");
    rig.send(&leg, Some(X), &call(7, "deploy"));
    let (id, _) = rig.one_call();
    // While it is open.
    rig.send(&leg, Some(X), &call(7, "deploy"));
    rig.answer(id, &result(7, "done"));
    assert_eq!(rig.one_delivery().1, result(7, "done"));
    for n in 0..9 {
        rig.send(&leg, None, &call(100 + n, "echo"));
    }
    rig.send(&leg, None, &call(200, "echo"));
    assert_eq!(rig.one_error().0, -31002);
    rig.new_calls();
    // And after its answer: what is kept, and nothing runs.
    rig.send(&leg, Some(X), &call(7, "deploy"));
    assert_eq!(rig.one_delivery().1, result(7, "done"));
    assert!(rig.new_calls().is_empty());
    assert_eq!(rig.engine.stats().limited.get("toolCallsPerSecond"), Some(&1), "only what was refused");
}

#[test]
fn a_quota_that_is_taken_away_refuses_nobody() {
    let mut rig = Rig::new(with_quota(Some(1)));
    let leg = rig.dialog("both");
    for id in 0..11 {
        rig.send(&leg, None, &call(id, "echo"));
    }
    assert_eq!(rig.one_error().0, -31002);
    rig.configure(with_quota(None));
    rig.new_calls();
    rig.send(&leg, None, &call(11, "echo"));
    rig.one_call();
    // A new one begins with a full bucket.
    rig.configure(with_quota(Some(1)));
    for id in 12..23 {
        rig.send(&leg, None, &call(id, "echo"));
    }
    assert_eq!(rig.one_error().0, -31002);
}
