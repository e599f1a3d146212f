//! Journal, forward, answer: one execution, one final answer (mcp.md 5.8, sip.md 7).

use edge_core::engine::DeliveryOutcome;
use edge_core::input::BackendFailure;
use serde_json::json;
use session_store::memory::{Capacity, MemoryStore};

use super::rig::*;

#[test]
fn the_journal_comes_before_the_forward_and_the_audit_before_the_answer() {
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    assert_eq!(rig.send(&leg, Some(X), &call(1, "deploy")), 200);
    let (id, call) = rig.one_call();
    assert_eq!(rig.steps, [Step::Written, Step::Forward(id)]);
    assert_eq!(rig.store.counts().exchanges, 1);
    assert_eq!(call.timeout_ms, TIMEOUT_MS + 1_000);
    rig.steps.clear();
    rig.delivers = false;
    rig.answer(id, &result(1, "done"));
    assert_eq!(rig.steps, [Step::Audit, Step::Deliver]);
    let delivery = rig.deliveries[0].clone();
    let close = delivery.close.as_ref().unwrap();
    assert_eq!(close.answer.as_ref(), Some(&delivery.body), "what is not safe to repeat is stored before it leaves");
    rig.carry(&delivery);
    rig.assert_empty();
}

#[test]
fn nothing_is_forwarded_that_the_store_did_not_take() {
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    rig.store_is_up = false;
    assert_eq!(rig.send(&leg, Some(X), &call(1, "echo")), 503);
    assert_eq!(rig.send(&leg, None, &json!({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"})), 503);
    rig.store = MemoryStore::new(Capacity { exchanges: 0, ..Capacity::default() });
    rig.store_is_up = true;
    assert_eq!(rig.send(&leg, Some(X), &call(1, "echo")), 503);
    assert!(rig.calls.is_empty() && rig.deliveries.is_empty());
    rig.assert_empty();
}

#[test]
fn a_repetition_in_flight_is_silent_and_one_after_the_answer_gets_the_stored_one() {
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    let request = call(1, "deploy");
    assert_eq!(rig.send(&leg, Some(X), &request), 200);
    let (id, _) = rig.one_call();
    assert_eq!(rig.send(&leg, Some(X), &request), 200);
    assert!(rig.calls.is_empty() && rig.deliveries.is_empty());
    rig.answer(id, &result(1, "once"));
    assert_eq!(rig.one_delivery().1, result(1, "once"));
    assert_eq!(rig.send(&leg, Some(X), &request), 200);
    assert_eq!(rig.one_delivery().1, result(1, "once"));
    assert!(rig.calls.is_empty(), "it ran once");
    rig.pass(40_000);
    rig.assert_empty();
}

#[test]
fn a_repetition_at_another_edge_does_not_run_the_tool_again() {
    let mut rig = Rig::default();
    let leg = rig.out_of_dialog("both", "alice");
    let body = call(1, "deploy").to_string();
    assert_eq!(rig.send_in(&leg, None, body.clone(), 5), 200);
    let (id, _) = rig.one_call();
    rig.answer(id, &result(1, "once"));
    let mut other = rig.other_edge();
    assert_eq!(other.send_in(&leg, None, body.clone(), 5), 200);
    assert_eq!(other.one_delivery().1, result(1, "once"));
    assert!(other.calls.is_empty());
    // Another transaction without MCP-Exchange is another request.
    assert_eq!(other.send_in(&leg, None, body, 6), 200);
    other.one_call();
}

#[test]
fn what_is_declared_safe_may_run_again() {
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    let request = call(1, "echo");
    rig.send(&leg, Some(X), &request);
    let (id, _) = rig.one_call();
    rig.delivers = false;
    rig.answer(id, &result(1, "first"));
    let delivery = rig.deliveries.remove(0);
    assert_eq!(delivery.close.as_ref().unwrap().answer, None, "no answer is kept of it");
    rig.carry(&delivery);
    rig.send(&leg, Some(X), &request);
    rig.one_call();
}

#[test]
fn an_annotation_never_makes_a_tool_safe() {
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    // `add` is allowed and not declared: whatever its server says of it, it is not safe to repeat.
    rig.send(&leg, Some(X), &call(1, "add"));
    let (id, _) = rig.one_call();
    rig.delivers = false;
    rig.answer(id, &result(1, "2"));
    assert!(rig.deliveries[0].close.as_ref().unwrap().answer.is_some());
}

#[test]
fn sec_12_an_exchange_and_an_id_name_one_request_whatever_the_header_says() {
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    rig.send(&leg, Some(X), &call(1, "slow"));
    let (id, _) = rig.one_call();
    // The same id in another exchange; another id in the same exchange; the same names with another body.
    for (exchange, body, code) in
        [(Y, call(1, "slow"), -32600), (X, call(2, "slow"), -32020), (X, call(1, "echo"), -32600)]
    {
        assert_eq!(rig.send(&leg, Some(exchange), &body), 200);
        assert_eq!(rig.one_error().0, code, "{exchange} {body}");
    }
    assert_eq!(rig.send(&leg, Some("session;rel=caller"), &call(3, "echo")), 200);
    assert_eq!(rig.one_error().0, -32020, "a request opens an exchange of its own");
    assert!(rig.calls.is_empty());
    // The first one is untouched.
    rig.answer(id, &result(1, "still here"));
    assert_eq!(rig.one_delivery().1, result(1, "still here"));
    rig.assert_empty();
}

#[test]
fn sec_12_the_header_never_selects_a_tool_nor_a_principal() {
    let mut rig = Rig::default();
    let alice = rig.out_of_dialog("both", "alice");
    let mallory = rig.out_of_dialog("both", "mallory");
    rig.send(&alice, Some(X), &call(1, "deploy"));
    let (id, _) = rig.one_call();
    // Another principal with the same exchange, id and body gets its own execution and its own answer.
    rig.send(&mallory, Some(X), &call(1, "deploy"));
    let (other, _) = rig.one_call();
    rig.answer(id, &result(1, "for alice"));
    let delivery = rig.deliveries.remove(0);
    assert_eq!(delivery.leg.principal.as_str(), "sip:alice@demo.example");
    rig.answer(other, &result(1, "for mallory"));
    assert_eq!(rig.deliveries.remove(0).leg.principal.as_str(), "sip:mallory@demo.example");
    // Nor can mallory cancel what is alice's.
    rig.send(&alice, Some(Y), &call(2, "slow"));
    rig.one_call();
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 2}});
    rig.send(&mallory, Some(Y), &cancel);
    assert!(rig.cancelled.is_empty());
    assert_eq!(rig.engine.stats().unmatched, 1);
}

#[test]
fn the_relation_in_which_the_agent_would_be_the_client_has_no_methods() {
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    assert_eq!(rig.send(&leg, Some("xxxxxxxxxxxxxxxxxxxxxx;rel=callee"), &call(1, "echo")), 200);
    let (header, answer) = rig.one_delivery();
    assert_eq!(answer["error"]["code"], -32601);
    assert_eq!(header.as_deref(), Some("xxxxxxxxxxxxxxxxxxxxxx;rel=callee"));
    // Anything else in that relation is dropped and counted.
    rig.send(&leg, Some("xxxxxxxxxxxxxxxxxxxxxx;rel=callee"), &json!({"jsonrpc": "2.0", "id": 1, "result": {}}));
    assert_eq!(rig.engine.stats().unmatched, 1);
    // A peer whose role is callee is the client of that relation.
    let mut record = mcp_record();
    record.peer_role = "callee".into();
    let leg = rig.dialog_with("both", 2, Some(record));
    rig.send(&leg, Some("xxxxxxxxxxxxxxxxxxxxxx;rel=callee"), &call(1, "echo"));
    rig.one_call();
}

#[test]
fn the_in_flight_limit_is_an_error_with_a_time_and_frees_with_an_answer() {
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    for n in 0..4 {
        rig.send(&leg, None, &call(n, "slow"));
    }
    let calls = rig.new_calls();
    assert_eq!(calls.len(), 4);
    assert_eq!(rig.send(&leg, None, &call(9, "slow")), 200);
    assert_eq!(rig.one_error(), (-31002, json!({"limit": "inFlightPerSession", "retryAfterMs": 1000})));
    rig.answer(calls[2].0, &result(2, "x"));
    rig.new_deliveries();
    rig.send(&leg, None, &call(9, "slow"));
    rig.one_call();
    // The store knows what another edge serves of the same session.
    let mut other = rig.other_edge();
    other.send(&leg, None, &call(10, "slow"));
    assert_eq!(other.one_error().0, -31002);
    other.assert_empty();
}

#[test]
fn xch_6_answers_come_in_the_order_in_which_they_complete() {
    for limit in [128_usize, 1000] {
        let mut rig = Rig::default();
        let mut config = (*rig.config).clone();
        config.edge.limits.in_flight_per_session = limit;
        rig.configure(config);
        let leg = rig.dialog("both");
        for n in 0..limit {
            assert_eq!(rig.send(&leg, None, &call(n, "slow")), 200);
        }
        assert_eq!(rig.engine.in_flight(), limit);
        let calls = rig.new_calls();
        assert_eq!(calls.len(), limit);
        assert_eq!(rig.send(&leg, None, &call(limit, "slow")), 200);
        assert_eq!(rig.one_error().0, -31002, "one more than {limit}");
        // First every other one, from the last to the first; then the rest, from the first to the last.
        let order = (0..limit).rev().step_by(2).chain((0..limit).filter(|n| (limit - 1 - n) % 2 == 1));
        for n in order.collect::<Vec<_>>() {
            rig.answer(calls[n].0, &result(n, "x"));
            assert_eq!(rig.one_delivery().1["id"], n);
        }
        rig.assert_empty();
    }
}

#[test]
fn requests_in_flight_weigh_no_more_than_a_few_of_the_largest() {
    let mut rig = Rig::default();
    let mut config = (*rig.config).clone();
    config.edge.limits.in_flight_per_session = 1000;
    config.edge.limits.message_bytes = 2_000;
    rig.configure(config);
    let leg = rig.dialog("both");
    let heavy = |n: i64| modern(n, "tools/call", json!({"name": "slow", "_pad": "x".repeat(1_500)}));
    let mut taken = 0;
    loop {
        assert_eq!(rig.send(&leg, None, &heavy(taken)), 200);
        if !rig.deliveries.is_empty() {
            break;
        }
        taken += 1;
    }
    assert_eq!(rig.one_error(), (-31002, json!({"limit": "inFlightBytesPerSession", "retryAfterMs": 1000})));
    assert!((8..=10).contains(&taken), "{taken}");
    // There is room again when one is over.
    let calls = rig.new_calls();
    rig.answer(calls[0].0, &result(0, "x"));
    rig.new_deliveries();
    rig.send(&leg, None, &heavy(99));
    assert_eq!(rig.new_calls().len(), 1);
}

#[test]
fn every_failure_of_a_backend_has_its_code_and_says_whether_it_ran() {
    use BackendFailure::{
        Deadline, Garbage, Interrupted, Overloaded, SessionGone, Status, TooLarge, Unauthorized, Unreachable,
    };
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    let interrupted = |retry: bool, executed: &str| (-31001, json!({"retry": retry, "executed": executed}));
    for (failure, safe, unsafe_) in [
        (Unreachable, interrupted(true, "no"), interrupted(true, "no")),
        (Deadline, interrupted(true, "unknown"), interrupted(false, "unknown")),
        (Interrupted, interrupted(true, "unknown"), interrupted(false, "unknown")),
        (Garbage, interrupted(true, "unknown"), interrupted(false, "unknown")),
        (SessionGone, interrupted(true, "no"), interrupted(true, "no")),
        (Unauthorized, interrupted(false, "no"), interrupted(false, "no")),
        (Status(404), interrupted(true, "no"), interrupted(false, "no")),
        (Status(502), interrupted(true, "unknown"), interrupted(false, "unknown")),
        (TooLarge, (-31006, json!({"limit": 1_048_576})), (-31006, json!({"limit": 1_048_576}))),
        (
            Overloaded,
            (-31002, json!({"limit": "backend", "retryAfterMs": 1000})),
            (-31002, json!({"limit": "backend", "retryAfterMs": 1000})),
        ),
    ] {
        for (tool, wanted) in [("echo", safe), ("deploy", unsafe_)] {
            assert_eq!(rig.send(&leg, None, &call(1, tool)), 200);
            let (id, _) = rig.one_call();
            rig.failed(id, failure);
            assert_eq!(rig.one_error(), wanted, "{failure:?} {tool}");
            rig.assert_empty();
        }
    }
    assert_eq!(rig.engine.stats().agents["demo/both"].backend_failures, 20);
}

#[test]
fn an_answer_that_ends_in_the_middle_or_is_none_is_an_error_and_the_leg_stays() {
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    let unknown = (-31001, json!({"retry": true, "executed": "unknown"}));
    // Closed without an answer.
    rig.send(&leg, None, &call(1, "echo"));
    let (id, _) = rig.one_call();
    rig.head(id, 200, None);
    rig.done(id);
    assert_eq!(rig.one_error(), unknown);
    // Garbage: the stream is closed.
    rig.send(&leg, None, &call(2, "echo"));
    let (id, _) = rig.one_call();
    rig.head(id, 200, None);
    rig.message_bytes(id, "{\"jsonrpc\":\"2.0\",\"id\":2,\"result\":{},\"error\":{}}");
    assert_eq!(rig.one_error(), unknown);
    assert_eq!(rig.cancelled, [id]);
    // The answer to somebody else's request is dropped and counted; what is missing then is missing.
    rig.send(&leg, None, &call(3, "echo"));
    let (id, _) = rig.one_call();
    rig.message(id, &result(4, "not yours"));
    assert!(rig.deliveries.is_empty());
    rig.done(id);
    assert_eq!(rig.one_error(), unknown);
    assert_eq!(rig.engine.stats().unmatched, 1);
    rig.send(&leg, None, &call(5, "echo"));
    rig.one_call();
}

#[test]
fn an_error_without_an_id_gets_the_callers() {
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    rig.send(&leg, Some(X), &call("a", "echo"));
    let (id, _) = rig.one_call();
    rig.head(id, 400, None);
    let error =
        json!({"code": -32021, "message": "needs sampling", "data": {"requiredCapabilities": {"sampling": {}}}});
    rig.message(id, &json!({"jsonrpc": "2.0", "id": null, "error": error}));
    rig.done(id);
    assert_eq!(rig.one_delivery().1, json!({"jsonrpc": "2.0", "id": "a", "error": error}));
    rig.assert_empty();
}

#[test]
fn a_slow_backend_ends_with_the_deadline_and_hears_so() {
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    rig.send(&leg, Some(X), &call(1, "deploy"));
    let (id, _) = rig.one_call();
    rig.pass(TIMEOUT_MS - 1);
    assert!(rig.deliveries.is_empty());
    rig.pass(1);
    assert_eq!(rig.one_error(), (-31001, json!({"retry": false, "executed": "unknown"})));
    assert_eq!(rig.cancelled, [id]);
    // Whatever comes now comes too late.
    rig.answer(id, &result(1, "late"));
    assert!(rig.deliveries.is_empty());
    rig.assert_empty();
}

#[test]
fn there_is_one_final_answer() {
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    rig.send(&leg, Some(X), &call(1, "echo"));
    let (id, _) = rig.one_call();
    rig.message(id, &result(1, "first"));
    rig.message(id, &result(1, "second"));
    let progress = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": 1}});
    rig.message(id, &progress);
    rig.failed(id, BackendFailure::Interrupted);
    assert_eq!(rig.one_delivery().1, result(1, "first"));
    rig.assert_empty();
}

#[test]
fn a_call_whose_answer_came_and_whose_end_does_not_is_closed() {
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    rig.send(&leg, Some(X), &call(1, "echo"));
    let (id, _) = rig.one_call();
    rig.message(id, &result(1, "first"));
    rig.pass(60_000);
    assert_eq!(rig.cancelled, [id]);
    rig.assert_empty();
}

#[test]
fn a_store_that_is_away_holds_the_answer_back_until_it_is_there() {
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    rig.send(&leg, Some(X), &call(1, "deploy"));
    let (id, _) = rig.one_call();
    rig.store_is_up = false;
    rig.answer(id, &result(1, "done"));
    rig.pass(3_000);
    assert!(rig.deliveries.len() > 1, "tried again, not yet sent");
    rig.store_is_up = true;
    rig.pass(10_000);
    assert!(rig.deliveries.iter().all(|d| d.body == result(1, "done").to_string()));
    rig.assert_empty();

    // It never comes back: the journal entry ends by itself.
    rig.send(&leg, Some(Y), &call(2, "deploy"));
    let (id, _) = rig.calls.pop().unwrap();
    rig.store_is_up = false;
    rig.answer(id, &result(2, "done"));
    rig.pass(120_000);
    assert_eq!(rig.engine.stats().undelivered, 0, "outages of minutes are waited for");
    rig.pass(240_000);
    rig.assert_empty();
    assert_eq!(rig.engine.stats().undelivered, 1);
}

#[test]
fn an_answer_that_waits_for_the_store_leaves_soon_after_its_return() {
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    rig.send(&leg, Some(X), &call(1, "deploy"));
    let (id, _) = rig.one_call();
    rig.store_is_up = false;
    rig.answer(id, &result(1, "done"));
    rig.pass(60_000);
    let tried = rig.deliveries.len();
    rig.store_is_up = true;
    rig.ctx(|engine, ctx| engine.store_is_back(ctx));
    rig.pass(500);
    assert_eq!(rig.deliveries.len(), tried + 1, "its own next try may be four seconds away");
    rig.assert_empty();
}

#[test]
fn who_lost_the_exchange_to_another_owner_stays_silent() {
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    rig.send(&leg, Some(X), &call(1, "deploy"));
    let (id, _) = rig.one_call();
    rig.delivers = false;
    rig.answer(id, &result(1, "done"));
    let delivery = rig.deliveries.remove(0);
    rig.outcome(&delivery, DeliveryOutcome::Fenced);
    assert!(rig.deliveries.is_empty());
    rig.assert_empty();
}

#[test]
fn cancelled_before_its_write_was_answered_it_never_runs() {
    use edge_core::engine::{Inbound, Verdict, Written};
    use session_store::op::{OpenOutcome, StoreOp, StoreReply};
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    let inbound = Inbound {
        leg: leg.clone(),
        exchange: Some(header(X)),
        body: call(1, "deploy").to_string().into(),
        transaction: [1; 16],
        received: rig.now,
    };
    let Verdict::Write { ticket, open: Some(open), .. } = rig.ctx(|engine, ctx| engine.judge(ctx, inbound)) else {
        panic!("a write")
    };
    assert_eq!(rig.engine.in_flight(), 1);
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}});
    assert_eq!(rig.send(&leg, Some(X), &cancel), 200);
    let Ok(StoreReply::Exchange(outcome)) = rig.run(StoreOp::OpenExchange { open, nonce: None }) else { panic!() };
    assert!(matches!(outcome, OpenOutcome::Opened { .. }));
    let answer = rig.ctx(|engine, ctx| engine.written(ctx, ticket, Ok(Written::Exchange(outcome))));
    rig.drain();
    assert_eq!(answer.status, 200);
    assert!(rig.calls.is_empty() && rig.deliveries.is_empty());
    rig.assert_empty();
}

#[test]
fn an_abandoned_ticket_leaves_nothing() {
    use edge_core::engine::{Inbound, Verdict};
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    for body in [call(1, "deploy"), call(1, "secret"), json!({"jsonrpc": "2.0", "id": 1, "result": {}})] {
        let inbound = Inbound {
            leg: leg.clone(),
            exchange: Some(header(X)),
            body: body.to_string().into(),
            transaction: [1; 16],
            received: rig.now,
        };
        let Verdict::Write { ticket, .. } = rig.ctx(|engine, ctx| engine.judge(ctx, inbound)) else {
            panic!("a write")
        };
        rig.engine.abandon(ticket);
        rig.drain();
        rig.assert_empty();
    }
    assert!(rig.steps.is_empty());
}

#[test]
fn a_store_that_forgot_an_entry_does_not_make_a_call_run_twice() {
    use session_store::op::StoreOp;
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    rig.send(&leg, Some(X), &call(1, "deploy"));
    let (id, _) = rig.one_call();
    rig.run(StoreOp::DropSession { session: leg.session, if_ends_within_ms: None }).unwrap();
    assert_eq!(rig.send(&leg, Some(X), &call(1, "deploy")), 200);
    assert!(rig.calls.is_empty());
    rig.answer(id, &result(1, "once"));
    assert_eq!(rig.one_delivery().1, result(1, "once"));
    rig.assert_empty();
}
