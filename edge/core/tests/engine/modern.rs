//! Modern calls: mirrors, schemas, trace context, streams, cancellation.

use edge_core::audit::Outcome;
use edge_core::input::BackendFailure;
use serde_json::{Value, json};

use super::rig::*;

fn with_arguments(id: i64, tool: &str, arguments: Value) -> Value {
    modern(id, "tools/call", json!({"name": tool, "arguments": arguments}))
}

fn annotated(id: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": {"resultType": "complete", "ttlMs": 60000, "cacheScope": "public", "tools": [
        {"name": "deploy", "inputSchema": {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}},
        {"name": "echo", "inputSchema": {"type": "object"}}]}})
}

#[test]
fn sec_12_the_mirrors_come_from_the_body_alone() {
    let mut rig = Rig::default();
    let leg = rig.dialog("modern");
    rig.send(&leg, Some(X), &modern(1, "resources/read", json!({"uri": "file:///open/é"})));
    let (_, call) = rig.one_call();
    let header = |name: &str| call.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    assert_eq!(header("Mcp-Method"), Some("resources/read"));
    assert_eq!(header("Mcp-Name"), Some("=?base64?ZmlsZTovLy9vcGVuL8Op?="));
    assert_eq!(call.headers.len(), 2);
    assert_eq!(call.protocol_version.as_deref(), Some(MODERN));
    assert_eq!(call.session, None);
}

#[test]
fn the_schema_is_fetched_once_before_the_first_call_with_arguments() {
    let mut rig = Rig::default();
    let leg = rig.dialog("modern");
    rig.send(&leg, Some(X), &with_arguments(1, "deploy", json!({"region": "eu-1"})));
    let (list, call) = rig.one_call();
    let body = body_of(&call);
    assert_eq!(body["method"], "tools/list");
    assert_eq!(body["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"], MODERN);
    assert_eq!(call.headers, [("Mcp-Method".to_owned(), "tools/list".to_owned())]);
    // A second caller does not ask again.
    let other = rig.dialog_with("modern", 2, Some(mcp_record()));
    rig.send(&other, Some(Y), &with_arguments(1, "echo", json!({"text": "x"})));
    assert!(rig.calls.is_empty());
    rig.answer(list, &annotated(&body["id"]));
    let calls = rig.new_calls();
    assert_eq!(calls.len(), 2);
    assert!(calls[0].1.headers.contains(&("Mcp-Param-Region".to_owned(), "eu-1".to_owned())));
    assert_eq!(calls[1].1.headers.len(), 2);
    for (id, _) in calls {
        rig.answer(id, &result(1, "x"));
    }
    rig.send(&leg, Some(Y), &with_arguments(2, "deploy", json!({"region": "us"})));
    let (_, call) = rig.one_call();
    assert!(call.headers.contains(&("Mcp-Param-Region".to_owned(), "us".to_owned())));
}

#[test]
fn a_list_that_cannot_be_had_delays_a_call_and_does_not_stop_it() {
    let mut rig = Rig::default();
    let leg = rig.dialog("modern");
    rig.send(&leg, Some(X), &with_arguments(1, "echo", json!({"text": "x"})));
    let (list, _) = rig.one_call();
    rig.failed(list, BackendFailure::Status(500));
    let (id, call) = rig.one_call();
    assert_eq!(body_of(&call)["method"], "tools/call");
    rig.answer(id, &result(1, "x"));
    assert_eq!(rig.one_delivery().1, result(1, "x"));
    rig.assert_empty();
}

#[test]
fn a_list_that_never_ends_is_given_up() {
    let mut rig = Rig::default();
    let leg = rig.dialog("modern");
    rig.send(&leg, Some(X), &with_arguments(1, "echo", json!({"text": "x"})));
    let (list, _) = rig.one_call();
    rig.pass(11_000);
    assert_eq!(rig.cancelled, [list]);
    let (id, _) = rig.one_call();
    rig.answer(id, &result(1, "x"));
    rig.assert_empty();
}

#[test]
fn mirrors_that_are_found_wrong_are_made_again_once() {
    let mut rig = Rig::default();
    let leg = rig.dialog("modern");
    rig.send(&leg, Some(X), &with_arguments(1, "deploy", json!({"region": "eu"})));
    let (list, call) = rig.one_call();
    rig.answer(list, &json!({"jsonrpc": "2.0", "id": body_of(&call)["id"], "result": {"tools": []}}));
    let mismatch =
        json!({"jsonrpc": "2.0", "id": 1, "error": {"code": -32020, "message": "Mcp-Param-Region is missing"}});
    let (id, _) = rig.one_call();
    rig.answer(id, &mismatch);
    let (list, call) = rig.one_call();
    assert_eq!(body_of(&call)["method"], "tools/list");
    rig.answer(list, &annotated(&body_of(&call)["id"]));
    let (id, call) = rig.one_call();
    assert!(call.headers.iter().any(|(name, _)| name == "Mcp-Param-Region"));
    assert!(rig.deliveries.is_empty());
    // Twice wrong is the caller's to know.
    rig.answer(id, &mismatch);
    assert_eq!(rig.one_error().0, -32020);
    rig.assert_empty();
}

#[test]
fn progress_and_log_messages_stay_in_their_exchange() {
    let mut rig = Rig::default();
    let leg = rig.dialog("modern");
    let mut request = call(1, "slow");
    request["params"]["_meta"]["progressToken"] = "p".into();
    rig.send(&leg, Some(X), &request);
    let (id, _) = rig.one_call();
    let progress = |token: &str| json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": token, "progress": 1}});
    let log = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x"}});
    rig.head(id, 200, None);
    rig.message(id, &progress("p"));
    rig.message(id, &log);
    rig.message(id, &progress("another"));
    rig.message(id, &json!({"jsonrpc": "2.0", "id": 5, "method": "sampling/createMessage", "params": {}}));
    let x = Some(format!("{X};rel=caller"));
    assert_eq!(rig.new_deliveries(), [(x.clone(), progress("p")), (x.clone(), log)]);
    assert_eq!(rig.engine.stats().unmatched, 2, "a foreign token; a request of a modern server");
    rig.message(id, &result(1, "end"));
    rig.done(id);
    assert_eq!(rig.one_delivery(), (x, result(1, "end")));
    rig.assert_empty();
}

#[test]
fn a_flood_of_notes_is_bounded_and_the_answer_comes_all_the_same() {
    let mut rig = Rig::default();
    rig.delivers = false;
    let leg = rig.dialog("modern");
    rig.send(&leg, Some(X), &call(1, "slow"));
    let (id, _) = rig.one_call();
    let log = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x"}});
    for _ in 0..500 {
        rig.message(id, &log);
    }
    assert_eq!((rig.deliveries.len(), rig.engine.stats().dropped), (64, 436));
    rig.message(id, &result(1, "end"));
    rig.done(id);
    assert_eq!(rig.deliveries.len(), 65);
    for delivery in std::mem::take(&mut rig.deliveries) {
        rig.carry(&delivery);
    }
    rig.assert_empty();
}

#[test]
fn cancelling_closes_the_response_stream_and_nobody_answers() {
    let mut rig = Rig::default();
    let leg = rig.dialog("modern");
    rig.send(&leg, Some(X), &call("a", "slow"));
    let (id, _) = rig.one_call();
    let cancel = |id: &str| json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}});
    // Another exchange's cancellation, and one of nothing, do nothing.
    rig.send(&leg, Some(Y), &cancel("a"));
    rig.send(&leg, Some(X), &cancel("b"));
    assert_eq!(rig.engine.stats().unmatched, 2);
    assert!(rig.cancelled.is_empty());
    rig.send(&leg, Some(X), &cancel("a"));
    assert_eq!(rig.cancelled, [id]);
    assert_eq!(rig.audits.last().unwrap().outcome, Outcome::Cancelled);
    assert!(rig.calls.is_empty() && rig.deliveries.is_empty());
    rig.assert_empty();
    assert_eq!(rig.steps.last(), Some(&Step::Store("CloseExchange")));
}

#[test]
fn a_peer_without_the_header_cancels_by_id() {
    let mut rig = Rig::default();
    let leg = rig.dialog("modern");
    rig.send(&leg, None, &call(7, "slow"));
    let (id, _) = rig.one_call();
    rig.send(&leg, None, &json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}}));
    assert_eq!(rig.cancelled, [id]);
    rig.assert_empty();
}

#[test]
fn a_listen_stream_outlives_the_timeout_and_ends_with_its_server() {
    let mut rig = Rig::default();
    let leg = rig.dialog("modern");
    rig.send(&leg, Some(X), &modern("l", "subscriptions/listen", json!({"notifications": {"toolsListChanged": true}})));
    let (id, _) = rig.one_call();
    rig.pass(30 * TIMEOUT_MS);
    let note = |method: &str| json!({"jsonrpc": "2.0", "method": method, "params": {"_meta": {"io.modelcontextprotocol/subscriptionId": "l"}}});
    rig.message(id, &note("notifications/subscriptions/acknowledged"));
    rig.message(id, &note("notifications/tools/list_changed"));
    assert_eq!(rig.new_deliveries().len(), 2);
    let end = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "l"}});
    rig.message(id, &end);
    rig.done(id);
    assert_eq!(rig.one_delivery().1, end);
    rig.assert_empty();
}

#[test]
fn a_plain_call_needs_no_store_beyond_its_journal_entry() {
    let mut rig = Rig::default();
    let leg = rig.dialog("modern");
    rig.send(&leg, Some(X), &call(1, "echo"));
    let (id, _) = rig.one_call();
    rig.answer(id, &result(1, "x"));
    // The last one tells that the caller has the answer; nobody waits for it.
    assert_eq!(rig.steps, [Step::Written, Step::Forward(id), Step::Audit, Step::Deliver, Step::Store("CloseExchange")]);
    assert_eq!(rig.store.counts().sessions, 0);
}
