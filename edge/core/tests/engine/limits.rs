//! Quotas of a tenant, and limits of rules.

use std::sync::Arc;

use edge_core::audit::Outcome;
use edge_core::engine::{Inbound, Leg, Ticket, Verdict, Written};
use edge_core::input::{BackendFailure, BackendId};
use mcp_sip::policy::RuleLimits;
use serde_json::{Value, json};
use session_store::op::{StoreOp, StoreReply};

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

/// The rule about tools has limits for each caller.
fn with_limits(calls_per_minute: Option<u32>, concurrent: Option<u32>) -> Rig {
    let mut rules = default_rules();
    rules[0].limits = Some(RuleLimits { calls_per_minute, concurrent });
    let mut config = config(vec![agent("both", &[MODERN, LEGACY])], rules);
    config.edge.limits.in_flight_per_session = 128;
    Rig::new(config)
}

/// Time passes until no counter counts anything.
fn quiet(rig: &mut Rig) {
    rig.pass(130_000);
    rig.new_deliveries();
    rig.assert_empty();
    assert_eq!(rig.engine.stats().allowances, 0);
}

#[test]
fn a_caller_may_call_so_often_in_a_minute_and_others_as_often_again() {
    let mut rig = with_limits(Some(3), None);
    let (alice, bob) = (rig.out_of_dialog("both", "alice"), rig.out_of_dialog("both", "bob"));
    for id in 0..3 {
        rig.send(&alice, None, &call(id, "echo"));
        let (call, _) = rig.one_call();
        rig.answer(call, &result(id, "x"));
        rig.one_delivery();
        rig.pass(10_000);
    }
    assert_eq!(rig.send(&alice, None, &call(3, "echo")), 200);
    let (code, data) = rig.one_error();
    assert_eq!((code, &data["limit"]), (-31002, &json!("callsPerMinute")));
    let after_ms = data["retryAfterMs"].as_u64().unwrap();
    assert!((30_000..=31_000).contains(&after_ms), "{after_ms}");
    assert!(rig.new_calls().is_empty());
    let last = rig.audits.last().unwrap();
    assert_eq!((&*last.rule, &last.outcome), ("demo/main/tools", &Outcome::Error(-31002)));
    assert_eq!(rig.engine.stats().limited.get("callsPerMinute"), Some(&1));
    // Another leg of the same caller is the same caller; another caller, another rule and what is only shown are not.
    let dialog = rig.dialog("both");
    rig.send(&dialog, None, &call(4, "echo"));
    assert_eq!(rig.one_error().0, -31002);
    rig.send(&alice, None, &modern(5, "prompts/get", json!({"name": "greet"})));
    rig.send(&alice, None, &modern(6, "tools/list", json!({})));
    rig.send(&bob, None, &call(7, "echo"));
    for (call, _) in rig.new_calls() {
        rig.failed(call, BackendFailure::Unreachable);
    }
    rig.new_deliveries();
    rig.pass(after_ms);
    rig.send(&alice, None, &call(8, "echo"));
    let (call, _) = rig.one_call();
    rig.answer(call, &result(8, "x"));
    quiet(&mut rig);
}

#[test]
fn so_many_calls_of_a_caller_wait_and_whatever_ends_one_makes_room() {
    type End = fn(&mut Rig, &Arc<Leg>, BackendId);
    let ends: [(&str, End); 5] = [
        ("answer", |rig, _, id| rig.answer(id, &result(0, "x"))),
        ("failure", |rig, _, id| rig.failed(id, BackendFailure::Interrupted)),
        ("deadline", |rig, _, _| rig.pass(TIMEOUT_MS + 1)),
        ("cancellation", |rig, leg, _| {
            let params = json!({"requestId": 0});
            let body = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params});
            rig.send(leg, None, &body);
        }),
        ("end of the leg", |rig, leg, _| rig.close(leg)),
    ];
    for (what, end) in ends {
        let mut rig = with_limits(None, Some(1));
        let leg = rig.dialog("both");
        rig.send(&leg, None, &call(0, "deploy"));
        let (id, _) = rig.one_call();
        rig.send(&leg, None, &call(1, "echo"));
        assert_eq!(rig.one_error(), (-31002, json!({"limit": "concurrent", "retryAfterMs": 1000})), "{what}");
        assert!(rig.new_calls().is_empty(), "{what}");
        end(&mut rig, &leg, id);
        rig.new_deliveries();
        rig.send(&leg, None, &call(2, "echo"));
        let (last, _) = rig.one_call();
        rig.answer(last, &result(2, "x"));
        rig.new_deliveries();
        quiet(&mut rig);
    }
}

#[test]
fn a_repetition_takes_no_place() {
    let mut rig = with_limits(Some(2), Some(1));
    let leg = rig.dialog("both");
    rig.send(&leg, Some(X), &call(7, "deploy"));
    let (id, _) = rig.one_call();
    for _ in 0..5 {
        assert_eq!(rig.send(&leg, Some(X), &call(7, "deploy")), 200);
    }
    assert!(rig.new_deliveries().is_empty());
    rig.answer(id, &result(7, "done"));
    rig.one_delivery();
    rig.send(&leg, None, &call(8, "echo"));
    rig.one_call();
}

/// Judges without writing: the write comes later.
fn judged(rig: &mut Rig, leg: &Arc<Leg>, body: &Value, number: u8) -> (Ticket, StoreOp) {
    let inbound = Inbound {
        leg: leg.clone(),
        exchange: Some(header(X)),
        body: body.to_string().into(),
        transaction: [number; 16],
        received: rig.now,
    };
    let verdict = rig.ctx(|engine, ctx| engine.judge(ctx, inbound));
    let Verdict::Write { ticket, open: Some(open), .. } = verdict else { panic!("{verdict:?}") };
    (ticket, StoreOp::OpenExchange { open, nonce: None })
}

fn written(rig: &mut Rig, (ticket, operation): (Ticket, StoreOp)) {
    let reply = rig.run(operation).unwrap();
    let StoreReply::Exchange(outcome) = reply else { panic!("{reply:?}") };
    rig.ctx(|engine, ctx| engine.written(ctx, ticket, Ok(Written::Exchange(outcome))));
    rig.drain();
}

#[test]
fn a_second_copy_of_what_is_one_too_many_does_not_run_in_its_place() {
    for reversed in [false, true] {
        let mut rig = with_limits(Some(1), None);
        let leg = rig.dialog("both");
        rig.send(&leg, None, &call(1, "echo"));
        rig.one_call();
        let mut copies = [1, 2, 3].map(|number| judged(&mut rig, &leg, &call(7, "deploy"), number));
        if reversed {
            copies.reverse();
        }
        for copy in copies {
            written(&mut rig, copy);
        }
        assert!(rig.new_calls().is_empty(), "{reversed}");
        let told = rig.new_deliveries();
        assert!(!told.is_empty() && told.iter().all(|(_, body)| body["error"]["code"] == -31002), "{told:?}");
        // None of them took anything: when there is room again one runs.
        rig.pass(61_000);
        rig.send(&leg, Some(X), &call(7, "deploy"));
        assert_eq!(rig.new_calls().len(), 1, "{reversed}");
    }
}

#[test]
fn a_counted_call_needs_an_id_and_others_go_on_without() {
    let without_id = |body: Value| {
        let mut body = body;
        body.as_object_mut().unwrap().remove("id");
        body
    };
    let quota = || Rig::new(with_quota(Some(5)));
    for (mut rig, passes) in [(with_limits(None, Some(9)), 0), (quota(), 0), (Rig::new(with_quota(None)), 1)] {
        let leg = rig.dialog("both");
        rig.initialize(&leg, true);
        rig.new_calls();
        rig.send(&leg, None, &without_id(legacy_call(7, "deploy")));
        assert_eq!(rig.new_calls().len(), passes);
        // What every caller may say needs none.
        rig.send(&leg, None, &json!({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}));
        assert_eq!(rig.new_calls().len(), 1);
    }
}

#[test]
fn a_limit_of_the_domain_counts_beside_those_of_the_agent() {
    let mut rules = default_rules();
    rules[0].limits = Some(RuleLimits { calls_per_minute: Some(1), concurrent: None });
    let mut agent = agent("both", &[MODERN]);
    let mut own = allow("own", vec![method("tools/call", &[])], &[]);
    own.limits = Some(RuleLimits { calls_per_minute: Some(5), concurrent: None });
    agent.policies = vec![policy(vec![own])];
    let mut rig = Rig::new(config(vec![agent], rules));
    let leg = rig.dialog("both");
    rig.send(&leg, None, &call(0, "echo"));
    rig.one_call();
    rig.send(&leg, None, &call(1, "echo"));
    assert_eq!(rig.one_error().0, -31002);
}

#[test]
fn what_is_taken_over_has_its_place() {
    let mut rig = with_limits(None, Some(1));
    rig.has_dialogs = true;
    let leg = rig.dialog("both");
    rig.stored_dialog(&leg);
    rig.send(&leg, Some(X), &call(7, "echo"));
    rig.one_call();
    let (mut heir, adopted) = rig.die();
    assert_eq!(adopted, 1);
    let (id, call_again) = heir.one_call();
    heir.send(&leg, None, &call(8, "echo"));
    assert_eq!(heir.one_error().0, -31002);
    heir.answer(id, &result(body_of(&call_again)["id"].clone(), "done"));
    heir.one_delivery();
    heir.send(&leg, None, &call(9, "echo"));
    heir.one_call();
}
