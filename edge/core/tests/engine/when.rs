//! Conditions over arguments: whatever runs a call asks them.

use std::sync::Arc;

use edge_core::config::Config;
use edge_core::input::BackendId;
use mcp_sip::policy::Phase;
use serde_json::{Value, json};

use super::rig::*;

/// `echo` and `deploy` are shown; they may be called where this holds.
fn only_when(condition: &str) -> Config {
    let tools = || vec![method("tools/call", &["echo", "deploy"])];
    let mut call = allow("call", tools(), &[Phase::Call]);
    call.when = Some(condition.to_owned());
    config(vec![agent("both", &[MODERN, LEGACY])], vec![allow("see", tools(), &[Phase::List]), call])
}

fn in_europe() -> Rig {
    Rig::new(only_when("args.region in ['eu']"))
}

fn call_in(id: i64, tool: &str, region: &str) -> Value {
    modern(id, "tools/call", json!({"name": tool, "arguments": {"region": region}}))
}

/// The call of a tool, once the backend has said which of its arguments belong into headers.
fn tool_call(rig: &mut Rig) -> (BackendId, Value) {
    let (list, asked) = rig.one_call();
    assert_eq!(body_of(&asked)["method"], "tools/list");
    let id = body_of(&asked)["id"].clone();
    let tools = json!([{"name": "echo", "inputSchema": {"type": "object"}}]);
    rig.answer(list, &json!({"jsonrpc": "2.0", "id": id, "result": {"tools": tools, "ttlMs": 600_000}}));
    let (call, asked) = rig.one_call();
    (call, body_of(&asked))
}

#[test]
fn a_call_runs_where_its_arguments_meet_the_condition_and_is_denied_elsewhere() {
    let mut rig = in_europe();
    let leg = rig.dialog("both");
    rig.send(&leg, None, &call_in(1, "echo", "eu"));
    let (id, body) = tool_call(&mut rig);
    assert_eq!(body["params"]["arguments"]["region"], "eu");
    rig.answer(id, &result(1, "x"));
    rig.one_delivery();
    // The tool is visible, this call is not allowed.
    for body in [call_in(2, "echo", "us"), call(3, "echo"), call_in(4, "deploy", "EU")] {
        assert_eq!(rig.send(&leg, None, &body), 200);
        assert_eq!(rig.one_error().0, -31003, "{body}");
        assert!(rig.new_calls().is_empty(), "{body}");
    }
    let last = rig.audits.last().unwrap();
    assert_eq!((last.tool.as_deref(), &*last.rule), (Some("deploy"), "default"));
    rig.assert_empty();
}

#[test]
fn a_notification_is_no_way_around_a_condition() {
    let mut rig = in_europe();
    let leg = rig.dialog("both");
    let unmatched = rig.engine.stats().unmatched;
    let mut body = call_in(1, "echo", "us");
    body.as_object_mut().unwrap().remove("id");
    rig.send(&leg, None, &body);
    assert!(rig.new_calls().is_empty());
    assert_eq!(rig.engine.stats().unmatched, unmatched + 1);
}

#[test]
fn sec_16_a_new_condition_ends_what_runs_against_it() {
    let mut rig = in_europe();
    let leg = rig.dialog("both");
    rig.send(&leg, None, &call_in(1, "echo", "eu"));
    let (id, body) = tool_call(&mut rig);
    assert_eq!(body["params"]["arguments"]["region"], "eu");
    rig.configure(only_when("args.region in ['eu', 'us']"));
    assert!(rig.new_deliveries().is_empty(), "it still holds");
    rig.configure(only_when("args.region in ['us']"));
    assert_eq!(rig.one_error().0, -31003);
    assert!(rig.cancelled.contains(&id));
}

#[test]
fn what_is_taken_over_runs_again_only_where_the_condition_holds() {
    for (condition, runs) in [("args.region in ['eu']", true), ("args.region in ['us']", false)] {
        let mut rig = in_europe();
        rig.has_dialogs = true;
        let leg = rig.dialog("both");
        rig.stored_dialog(&leg);
        rig.send(&leg, Some(X), &call_in(7, "echo", "eu"));
        tool_call(&mut rig);
        let dead = rig.owner;
        let mut heir = rig.other_edge();
        heir.configure(only_when(condition));
        heir.pass(5_500);
        assert_eq!(heir.adopt(dead), 1);
        if runs {
            assert_eq!(tool_call(&mut heir).1["method"], "tools/call");
        } else {
            assert!(heir.new_calls().is_empty());
            assert_eq!(heir.one_error().0, -31003);
        }
    }
}

#[test]
fn what_the_store_says_of_a_leg_is_judged_with_the_arguments_too() {
    let mut rig = in_europe();
    let leg = rig.dialog("both");
    let inbound = edge_core::engine::Inbound {
        leg: leg.clone(),
        exchange: None,
        body: call_in(1, "echo", "eu").to_string().into(),
        transaction: [1; 16],
        received: rig.now,
    };
    let verdict = rig.ctx(|engine, ctx| engine.judge(ctx, inbound));
    let edge_core::engine::Verdict::Write { ticket, open: Some(open), .. } = verdict else { panic!("{verdict:?}") };
    // Between the judgement and the write both the negotiated set and the policy change.
    let mut mcp = mcp_record();
    mcp.option_tag = "x-mcp".into();
    assert!(!rig.engine.reconsider(&ticket, Some(&mcp)));
    rig.config = Arc::new(only_when("args.region in ['us']"));
    let reply = rig.run(session_store::op::StoreOp::OpenExchange { open, nonce: None }).unwrap();
    let session_store::op::StoreReply::Exchange(outcome) = reply else { panic!("{reply:?}") };
    let written = Ok(edge_core::engine::Written::Exchange(outcome));
    rig.ctx(|engine, ctx| engine.written(ctx, ticket, written));
    rig.drain();
    assert_eq!(rig.one_error().0, -31003);
    assert!(rig.new_calls().is_empty());
}
