//! Which MCP a leg speaks: the table of mcp.md 5.1, and mismatches (5.8).

use serde_json::json;

use super::rig::*;

#[test]
fn a_modern_caller_of_a_legacy_agent_hears_what_is_supported() {
    let mut rig = Rig::default();
    let leg = rig.dialog("legacy");
    rig.send(&leg, Some(X), &call(1, "echo"));
    assert_eq!(rig.one_error(), (-32022, json!({"supported": [LEGACY], "requested": MODERN})));
    rig.send(&leg, Some(X), &modern(1, "server/discover", json!({})));
    assert_eq!(rig.one_error().0, -32022);
    // Then it falls back.
    rig.initialize(&leg, true);
}

#[test]
fn a_legacy_caller_of_a_modern_agent_gets_an_error_on_initialize() {
    let mut rig = Rig::default();
    let leg = rig.dialog("modern");
    rig.send(&leg, Some(X), &initialize_request(0));
    assert_eq!(rig.one_error(), (-32602, json!({"supported": [MODERN], "requested": LEGACY})));
    rig.assert_empty();
}

#[test]
fn an_unknown_modern_version_hears_what_is_supported() {
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    let mut body = call(1, "echo");
    body["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] = "2031-01-01".into();
    rig.send(&leg, Some(X), &body);
    assert_eq!(rig.one_error(), (-32022, json!({"supported": [MODERN, LEGACY], "requested": "2031-01-01"})));
}

#[test]
fn a_request_of_neither_era_hears_which_field_is_missing() {
    let mut rig = Rig::default();
    let missing = json!({"missing": "params._meta[\"io.modelcontextprotocol/protocolVersion\"]"});
    for agent in ["modern", "both"] {
        let leg = rig.dialog(agent);
        rig.send(&leg, Some(X), &legacy_call(1, "echo"));
        assert_eq!(rig.one_error(), (-32602, missing.clone()), "{agent}");
        rig.assert_empty();
    }
    assert_eq!(rig.store.counts().sessions, 0);
}

#[test]
fn out_of_a_dialog_an_unknown_legacy_session_is_481() {
    let mut rig = Rig::default();
    let leg = rig.out_of_dialog("both", "alice");
    assert_eq!(rig.send(&leg, Some(X), &legacy_call(1, "echo")), 481);
    assert!(rig.calls.is_empty() && rig.deliveries.is_empty());
    rig.assert_empty();
    // It was no execution: the same request may come again once there is a session.
    rig.initialize(&leg, true);
    assert_eq!(rig.send(&leg, Some(Y), &legacy_call(1, "echo")), 200);
    rig.one_call();
}

#[test]
fn both_eras_of_one_agent_are_served_on_legs_of_their_own() {
    let mut rig = Rig::default();
    let old = rig.dialog_with("both", 1, Some(mcp_record()));
    let new = rig.dialog_with("both", 2, Some(mcp_record()));
    rig.initialize(&old, true);
    rig.send(&old, Some(X), &legacy_call(1, "echo"));
    let (_, call_old) = rig.one_call();
    assert_eq!((call_old.session.as_deref(), call_old.protocol_version.as_deref()), (Some("backend-1"), Some(LEGACY)));
    assert!(call_old.headers.is_empty());
    rig.send(&new, Some(Y), &call(1, "echo"));
    let (_, call_new) = rig.one_call();
    assert_eq!((call_new.session.as_deref(), call_new.protocol_version.as_deref()), (None, Some(MODERN)));
    // A leg keeps its era.
    rig.send(&old, Some(Y), &call(2, "echo"));
    assert_eq!(rig.one_error().0, -32022);
}

#[test]
fn what_was_negotiated_is_the_era() {
    let mut rig = Rig::default();
    let mut record = mcp_record();
    record.versions = vec![MODERN.into()];
    let leg = rig.dialog_with("both", 1, Some(record));
    rig.send(&leg, Some(X), &initialize_request(0));
    assert_eq!(rig.one_error().0, -32602);
    rig.send(&leg, Some(X), &legacy_call(1, "echo"));
    assert_eq!(rig.one_error().0, -32602);
}
