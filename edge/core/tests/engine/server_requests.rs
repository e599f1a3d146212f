//! XCH-5: either side may ask. A legacy server's questions reach the caller, its answers the server.

use edge_core::effect::{BackendAction, BackendCall};
use edge_core::engine::DeliveryOutcome;
use edge_core::input::{BackendEvent, BackendId};
use serde_json::{Value, json};

use super::rig::*;

fn question(id: impl Into<Value>) -> Value {
    json!({"jsonrpc": "2.0", "id": id.into(), "method": "elicitation/create", "params": {"message": "name?"}})
}

fn reply(id: impl Into<Value>) -> Value {
    json!({"jsonrpc": "2.0", "id": id.into(), "result": {"action": "accept", "content": {"name": "x"}}})
}

fn posts(calls: &[(BackendId, BackendCall)]) -> Vec<Value> {
    calls.iter().filter(|(_, c)| matches!(c.action, BackendAction::Post { .. })).map(|(_, c)| body_of(c)).collect()
}

#[test]
fn xch_5_a_question_in_a_call_comes_in_its_exchange_and_the_answer_goes_back() {
    let mut rig = Rig::default();
    let leg = rig.dialog("legacy");
    rig.initialize(&leg, true);
    rig.send(&leg, Some(X), &legacy_call(1, "slow"));
    let (id, _) = rig.one_call();
    rig.head(id, 200, None);
    rig.message(id, &question("q"));
    assert_eq!(rig.one_delivery(), (Some(format!("{X};rel=caller")), question("q")));
    // Not in another exchange, not with another id, not twice.
    rig.send(&leg, Some(Y), &reply("q"));
    rig.send(&leg, Some("session;rel=caller"), &reply("q"));
    rig.send(&leg, Some(X), &reply("p"));
    assert!(rig.calls.is_empty());
    assert_eq!(rig.engine.stats().unmatched, 3);
    rig.send(&leg, Some(X), &reply("q"));
    let (post, call) = rig.one_call();
    assert_eq!((body_of(&call), call.session.as_deref()), (reply("q"), Some("backend-1")));
    rig.done(post);
    rig.send(&leg, Some(X), &reply("q"));
    assert!(rig.calls.is_empty());
    rig.message(id, &result(1, "hello x"));
    rig.done(id);
    assert_eq!(rig.one_delivery().1, result(1, "hello x"));
}

#[test]
fn xch_5_a_question_on_the_servers_own_stream_comes_as_session() {
    let mut rig = Rig::default();
    let leg = rig.dialog("legacy");
    let stream = rig.initialize(&leg, true);
    let roots = json!({"jsonrpc": "2.0", "id": 0, "method": "roots/list"});
    rig.message(stream, &roots);
    assert_eq!(rig.one_delivery(), (Some("session;rel=caller".into()), roots));
    rig.send(&leg, Some("session;rel=caller"), &json!({"jsonrpc": "2.0", "id": 0, "result": {"roots": []}}));
    let (_, call) = rig.one_call();
    assert_eq!(body_of(&call)["result"], json!({"roots": []}));
    // Notifications of the session, and progress of an open request wherever the server sends it.
    let changed = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"});
    rig.message(stream, &changed);
    assert_eq!(rig.one_delivery(), (Some("session;rel=caller".into()), changed));
    let mut request = legacy_call(1, "slow");
    request["params"]["_meta"] = json!({"progressToken": 5});
    rig.send(&leg, Some(X), &request);
    let progress =
        json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 5, "progress": 1}});
    rig.message(stream, &progress);
    assert_eq!(rig.one_delivery(), (Some(format!("{X};rel=caller")), progress));
}

#[test]
fn xch_5_a_peer_without_the_header_answers_by_id() {
    let mut rig = Rig::default();
    let leg = rig.dialog("legacy");
    let stream = rig.initialize(&leg, false);
    rig.message(stream, &question(9));
    assert_eq!(rig.one_delivery(), (None, question(9)));
    rig.send(&leg, None, &reply(9));
    let (_, call) = rig.one_call();
    assert_eq!(body_of(&call), reply(9));
}

#[test]
fn an_error_of_the_caller_is_an_answer_too() {
    let mut rig = Rig::default();
    let leg = rig.dialog("legacy");
    let stream = rig.initialize(&leg, true);
    rig.message(stream, &json!({"jsonrpc": "2.0", "id": "s", "method": "sampling/createMessage", "params": {}}));
    rig.new_deliveries();
    let refusal = json!({"jsonrpc": "2.0", "id": "s", "error": {"code": -1, "message": "User rejected sampling"}});
    rig.send(&leg, Some("session;rel=caller"), &refusal);
    let (_, call) = rig.one_call();
    assert_eq!(body_of(&call), refusal);
}

#[test]
fn while_the_caller_is_asked_the_clock_of_the_tool_stands() {
    let mut rig = Rig::default();
    let leg = rig.dialog("legacy");
    rig.initialize(&leg, true);
    rig.send(&leg, Some(X), &legacy_call(1, "slow"));
    let (id, _) = rig.one_call();
    rig.pass(TIMEOUT_MS - 5_000);
    rig.message(id, &question("q"));
    rig.new_deliveries();
    rig.pass(5 * 60_000);
    assert!(rig.deliveries.is_empty() && rig.cancelled.is_empty());
    rig.send(&leg, Some(X), &reply("q"));
    rig.pass(4_000);
    assert!(rig.deliveries.is_empty());
    rig.pass(2_000);
    assert_eq!(rig.one_error().0, -31001);
}

#[test]
fn a_question_that_nobody_answers_is_answered_for_the_caller() {
    let mut rig = Rig::default();
    let leg = rig.dialog("legacy");
    let stream = rig.initialize(&leg, true);
    rig.message(stream, &question("q"));
    rig.new_deliveries();
    rig.pass(10 * 60_000);
    let answers = posts(&rig.new_calls());
    assert_eq!(answers.len(), 1);
    assert_eq!((&answers[0]["id"], &answers[0]["error"]["code"]), (&json!("q"), &json!(-31001)));
    rig.send(&leg, Some("session;rel=caller"), &reply("q"));
    assert!(posts(&rig.new_calls()).is_empty(), "too late");
}

#[test]
fn a_caller_that_cannot_be_asked_does_not_keep_the_tool_waiting() {
    for outcome in [
        DeliveryOutcome::Unreachable,
        DeliveryOutcome::Refused { status: 481 },
        DeliveryOutcome::TooLarge { limit: 1300 },
    ] {
        let mut rig = Rig::default();
        let leg = rig.dialog("legacy");
        rig.initialize(&leg, true);
        rig.send(&leg, Some(X), &legacy_call(1, "slow"));
        let (id, _) = rig.one_call();
        rig.delivers = false;
        rig.message(id, &question("q"));
        let delivery = rig.deliveries.remove(0);
        rig.outcome(&delivery, outcome);
        let (_, call) = rig.one_call();
        let answer = body_of(&call);
        assert_eq!(answer["id"], "q");
        assert!(answer["error"]["code"].as_i64().unwrap() < -31000, "{answer}");
    }
}

#[test]
fn a_server_takes_its_question_back() {
    let mut rig = Rig::default();
    let leg = rig.dialog("legacy");
    rig.initialize(&leg, true);
    rig.send(&leg, Some(X), &legacy_call(1, "slow"));
    let (id, _) = rig.one_call();
    rig.message(id, &question("q"));
    rig.new_deliveries();
    let withdrawn = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "q"}});
    rig.message(id, &withdrawn);
    assert_eq!(rig.one_delivery(), (Some(format!("{X};rel=caller")), withdrawn));
    rig.send(&leg, Some(X), &reply("q"));
    assert!(rig.calls.is_empty());
}

#[test]
fn a_question_dies_with_its_call() {
    let mut rig = Rig::default();
    let leg = rig.dialog("legacy");
    rig.initialize(&leg, true);
    rig.send(&leg, Some(X), &legacy_call(1, "slow"));
    let (id, _) = rig.one_call();
    rig.message(id, &question("q"));
    rig.message(id, &result(1, "never mind"));
    rig.done(id);
    rig.new_deliveries();
    rig.send(&leg, Some(X), &reply("q"));
    assert!(rig.calls.is_empty());
    assert_eq!(rig.engine.stats().unmatched, 1);
}

#[test]
fn a_flood_of_questions_is_answered_by_the_edge() {
    let mut rig = Rig::default();
    let leg = rig.dialog("legacy");
    let stream = rig.initialize(&leg, true);
    for n in 0..10 {
        rig.message(stream, &question(n));
    }
    assert_eq!(rig.new_deliveries().len(), 4, "the in-flight limit holds for both sides");
    let answers = posts(&rig.new_calls());
    assert_eq!(answers.len(), 6);
    assert!(answers.iter().all(|answer| answer["error"]["code"] == -31002));
}

#[test]
fn a_question_reaches_nobody_but_the_one_whose_session_it_is() {
    let mut rig = Rig::default();
    let alice = rig.out_of_dialog("legacy", "alice");
    let mallory = rig.out_of_dialog("legacy", "mallory");
    let stream = rig.initialize(&alice, true);
    rig.initialize(&mallory, true);
    rig.message(stream, &question("q"));
    let delivery = rig.deliveries.pop().unwrap();
    assert_eq!(delivery.leg.principal.as_str(), "sip:alice@demo.example");
    rig.send(&mallory, Some("session;rel=caller"), &reply("q"));
    assert!(rig.calls.is_empty(), "nor may anybody else answer it");
}

#[test]
fn what_a_server_sends_that_is_no_message_is_dropped_and_counted() {
    let mut rig = Rig::default();
    let leg = rig.dialog("legacy");
    let stream = rig.initialize(&leg, true);
    rig.event(stream, BackendEvent::Message { body: "{}".into(), event_id: Some("1".into()) });
    rig.message(stream, &json!({"jsonrpc": "2.0", "id": 77, "result": {}}));
    assert!(rig.deliveries.is_empty());
    let stats = rig.engine.stats();
    assert_eq!((stats.dropped, stats.unmatched), (1, 1));
}
