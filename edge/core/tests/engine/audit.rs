//! OBS-1, SEC-11: one record per call, before its answer; names and ids, never a payload. One trace from the SIP request to the tool.

use edge_core::audit::{AuditKind, Outcome};
use serde_json::json;

use super::rig::*;

#[test]
fn obs_1_one_record_per_call_says_who_what_by_which_rule_and_how_it_ended() {
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    for (tool, answer, outcome) in [
        ("echo", json!({"jsonrpc": "2.0", "id": 1, "result": {"content": []}}), Outcome::Ok),
        ("echo", json!({"jsonrpc": "2.0", "id": 1, "result": {"content": [], "isError": true}}), Outcome::ToolError),
        (
            "deploy",
            json!({"jsonrpc": "2.0", "id": 1, "error": {"code": -32000, "message": "m"}}),
            Outcome::Error(-32000),
        ),
    ] {
        rig.send(&leg, Some(X), &call(1, tool));
        let (id, _) = rig.one_call();
        rig.pass(5);
        rig.steps.clear();
        rig.answer(id, &answer);
        assert_eq!(rig.steps[..2], [Step::Audit, Step::Deliver]);
        let record = rig.audits.pop().unwrap();
        assert_eq!(record.kind, AuditKind::ToolCall);
        assert_eq!(
            (record.principal.as_str(), record.agent.as_str()),
            ("sip:alice@demo.example", "sip:both@demo.example")
        );
        assert_eq!((record.method.as_deref(), record.tool.as_deref()), (Some("tools/call"), Some(tool)));
        assert_eq!((record.rule.as_str(), record.outcome), ("demo/main/tools", outcome));
        assert_eq!((record.call_id.as_str(), record.exchange.as_deref()), ("call-1@caller", Some(X)));
        assert_eq!(record.conversation.as_deref(), Some("0b6f7a9e-3c5d-4f10-9a51-6d1d2f3e4a5b"));
        assert_eq!(record.duration_us, Some(5_000));
        assert!(rig.audits.is_empty());
        rig.pass(40_000);
    }
}

#[test]
fn obs_1_a_refused_call_has_a_record_too() {
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    for (body, outcome) in [
        (call(1, "secret"), Outcome::Denied(-32602)),
        (call(1, "shown"), Outcome::Denied(-31003)),
        (modern(1, "tools/call", json!({})), Outcome::Error(-32602)),
    ] {
        rig.steps.clear();
        rig.send(&leg, Some(X), &body);
        assert_eq!(rig.steps, [Step::Written, Step::Audit, Step::Deliver]);
        let record = rig.audits.pop().unwrap();
        assert_eq!((record.kind, record.outcome), (AuditKind::ToolCall, outcome));
    }
    // Out of a dialog, an unknown legacy session.
    let leg = rig.out_of_dialog("both", "alice");
    rig.send(&leg, Some(X), &legacy_call(1, "echo"));
    assert_eq!(rig.audits.pop().unwrap().outcome, Outcome::Denied(481));
}

#[test]
fn sec_11_no_payload_argument_or_credential_in_records_spans_and_logs() {
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    let hidden = "tell-nobody";
    let mut request = modern(1, "tools/call", json!({"name": "echo", "arguments": {"password": hidden}}));
    request["params"]["_meta"]["x"] = hidden.into();
    rig.send(&leg, Some(X), &request);
    let (list, _) = rig.one_call();
    rig.failed(list, edge_core::input::BackendFailure::Garbage);
    let (id, _) = rig.one_call();
    rig.answer(id, &result(1, hidden));
    rig.send(&leg, Some(Y), &modern(2, "tools/call", json!({"name": "secret", "arguments": {"password": hidden}})));
    let told = format!("{:?} {:?} {:?} {:?}", rig.audits, rig.spans, rig.logs, rig.engine.stats());
    assert!(!told.contains(hidden), "{told}");
    assert!(!rig.audits.is_empty() && !rig.spans.is_empty());
}

#[test]
fn sec_11_names_from_a_peer_are_escaped_and_cut() {
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    let name = format!("bad\n\u{202e}{}", "x".repeat(1_000));
    rig.send(&leg, Some(X), &call(1, &name));
    let tool = rig.audits[0].tool.clone().unwrap();
    assert!(tool.len() <= 256 && !tool.contains(['\n', '\u{202e}']), "{tool}");
}

#[test]
fn one_trace_leads_from_the_caller_to_the_tool() {
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    let mut request = call(1, "echo");
    request["params"]["_meta"]["traceparent"] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into();
    rig.send(&leg, Some(X), &request);
    let (id, call_) = rig.one_call();
    let traceparent = call_.traceparent.unwrap();
    assert!(traceparent.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"));
    rig.answer(id, &result(1, "x"));
    let [client, server] = &rig.spans[..] else { panic!("two spans: {:?}", rig.spans) };
    assert_eq!(client.trace_id, server.trace_id);
    assert_eq!(client.parent, Some(server.span_id));
    assert_eq!(server.parent, Some([0x00, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7]));
    assert!(traceparent.contains(&client.span_id.iter().map(|b| format!("{b:02x}")).collect::<String>()));
    assert_eq!(server.name, "tools/call echo");
    // Without one, a trace begins here; a caller that does not sample is heard.
    rig.spans.clear();
    rig.send(&leg, Some(Y), &call(2, "echo"));
    let (id, call_) = rig.one_call();
    assert!(call_.traceparent.unwrap().ends_with("-01"));
    rig.answer(id, &result(2, "x"));
    assert_eq!(rig.spans.len(), 2);
    let mut request = call(3, "echo");
    request["params"]["_meta"]["traceparent"] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00".into();
    rig.send(&leg, Some(Y), &request);
    let (id, call_) = rig.one_call();
    assert!(call_.traceparent.unwrap().ends_with("-00"));
    rig.answer(id, &result(3, "x"));
    assert_eq!(rig.spans.len(), 2);
}

#[test]
fn counters_are_bounded_by_what_is_declared() {
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    for tool in ["echo", "secret", "x1", "x2", "x3"] {
        rig.send(&leg, None, &call(tool, tool));
    }
    for (id, _) in rig.new_calls() {
        rig.answer(id, &result("echo", "x"));
    }
    let stats = rig.engine.stats();
    let tools = &stats.agents["demo/both"].tools;
    assert_eq!(tools.keys().collect::<Vec<_>>(), ["echo", "other"]);
    assert_eq!((tools["echo"].ok, tools["other"].denied), (1, 4));
}
