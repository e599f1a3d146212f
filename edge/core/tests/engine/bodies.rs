//! What is refused before anything is written: size, JSON, envelope (mcp.md 5.8, first rows).

use serde_json::json;

use super::rig::*;

#[test]
fn neg_10_a_native_message_is_accepted_and_reaches_the_backend_byte_exact() {
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    let body = format!(
        "{{ \"jsonrpc\" : \"2.0\",\"id\":\"a\\u0062\",\"method\":\"tools/call\",\"x\":[1.50],\"params\":{{\"name\":\"echo\",\"future\":{{}},\
         \"_meta\":{{\"io.modelcontextprotocol/protocolVersion\":\"{MODERN}\",\"io.modelcontextprotocol/clientCapabilities\":{{}}}}}}}}"
    );
    assert_eq!(rig.send_bytes(&leg, Some(X), body.clone()), 200);
    let (id, call) = rig.one_call();
    assert_eq!(call.action, edge_core::effect::BackendAction::Post { body: body.into() });
    let answer = "{\"result\":{\"content\":[],\"new\":1e2},  \"id\":\"a\\u0062\",\"jsonrpc\":\"2.0\"}";
    rig.head(id, 200, None);
    rig.message_bytes(id, answer);
    rig.done(id);
    let delivery = &rig.deliveries[0];
    assert_eq!(delivery.body, answer);
    assert_eq!(delivery.exchange.as_ref().unwrap().to_string(), format!("{X};rel=caller"));
}

#[test]
fn neg_11_malformed_json_or_utf_8_is_400_with_a_phrase() {
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    let deep = format!("{}{}", "[".repeat(65), "]".repeat(65));
    let deep = format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"params\":{{\"x\":{deep}}}}}");
    for body in [&b"{"[..], b"", b"\xff", b"{\"jsonrpc\":\"2.0\",}", b"{}x", deep.as_bytes()] {
        let got = rig.send_phrase(&leg, Some(X), body.to_vec(), 1);
        assert_eq!(got, (400, "Malformed MCP JSON"), "{:?}", String::from_utf8_lossy(body));
    }
    let envelope = |text: &str| text.as_bytes().to_vec();
    for body in [
        envelope("[]"),
        envelope("[{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}]"),
        envelope("{}"),
        envelope("{\"jsonrpc\":\"2.0\",\"id\":null,\"method\":\"ping\"}"),
        envelope("{\"jsonrpc\":\"2.0\",\"id\":1,\"id\":2,\"method\":\"ping\"}"),
        envelope("{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{},\"error\":{\"code\":1,\"message\":\"\"}}"),
        envelope(&format!("{{\"jsonrpc\":\"2.0\",\"id\":\"{}\",\"method\":\"ping\"}}", "i".repeat(256))),
    ] {
        let got = rig.send_phrase(&leg, Some(X), body, 1);
        assert_eq!(got, (400, "Not a JSON-RPC Message"));
    }
    assert!(rig.steps.is_empty(), "nothing is written, nothing leaves");
    rig.assert_empty();
}

#[test]
fn neg_9_the_negotiation_envelope_is_refused_outside_session_establishment() {
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    let offer = json!({"mcp_version": "1.0", "type": "offer", "conversation": "0b6f7a9e-3c5d-4f10-9a51-6d1d2f3e4a5b",
                       "payload": {"role": "caller", "tools": [], "schemas": []}});
    let got = rig.send_phrase(&leg, None, offer.to_string(), 1);
    assert_eq!(got, (400, "MCP Negotiation Envelope Not Allowed Here"));
    rig.assert_empty();
}

#[test]
fn sec_10_a_body_over_the_limit_is_413_and_the_tenants_limit_is_the_lower_one() {
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    let large = call(1, &"e".repeat(65_536)).to_string();
    assert_eq!(rig.send_phrase(&leg, Some(X), large, 1), (413, "Request Entity Too Large"));

    let mut config = (*rig.config).clone();
    let mut domain = (*config.domains["demo.example"]).clone();
    domain.max_payload_bytes = Some(300);
    config.domains.insert("demo.example".into(), domain.into());
    rig.configure(config);
    assert_eq!(rig.send(&leg, Some(X), &call(1, &"e".repeat(200))), 413);
    assert_eq!(rig.send(&leg, Some(X), &call(1, "echo")), 200);
    // An answer that breaks the tenant's limit fits no carrier.
    let (id, _) = rig.one_call();
    let answer = result(1, &"a".repeat(400));
    rig.answer(id, &answer);
    assert_eq!(rig.one_error(), (-31006, json!({"bytes": answer.to_string().len(), "limit": 300})));
}

#[test]
fn neg_12_inside_the_exchange_an_error_is_json_rpc_and_sip_says_200() {
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    let meta = json!({"io.modelcontextprotocol/protocolVersion": MODERN});
    let without_capabilities =
        json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "echo", "_meta": meta}});
    for (body, code) in [
        (modern(1, "tools/call", json!({})), -32602),
        (modern(1, "tools/call", json!({"name": 7})), -32602),
        (modern(1, "resources/read", json!({})), -32602),
        (without_capabilities, -32602),
        (json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": []}), -32602),
        (modern(1, "tools/call", json!({"name": "secret"})), -32602),
        (modern(1, "tools/call", json!({"name": "shown"})), -31003),
        (modern(1, &"m".repeat(300), json!({})), -32601),
    ] {
        assert_eq!(rig.send(&leg, Some(X), &body), 200, "{body}");
        let (header, answer) = rig.one_delivery();
        assert_eq!(answer["error"]["code"], code, "{body}");
        assert_eq!(answer["id"], 1);
        assert_eq!(header.as_deref(), Some("xxxxxxxxxxxxxxxxxxxxxx;rel=caller"));
    }
    assert!(rig.calls.is_empty(), "nothing was forwarded");
    rig.assert_empty();
}

#[test]
fn a_meta_over_8_kib_is_an_error_of_the_request() {
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    let mut body = call(1, "echo");
    body["params"]["_meta"]["padding"] = "x".repeat(8_200).into();
    assert_eq!(rig.send(&leg, Some(X), &body), 200);
    assert_eq!(rig.one_error().0, -32602);
    rig.assert_empty();
}

#[test]
fn a_registered_agent_has_no_backend_here() {
    let mut rig = Rig::default();
    let mut config = (*rig.config).clone();
    let mut phone = agent("phone", &[]);
    phone.backend = edge_core::config::AgentBackend::SipContact { by_certificate: false };
    config.agents.insert(("demo.example".into(), "phone".into()), phone.into());
    rig.configure(config);
    let leg = rig.dialog("phone");
    assert_eq!(rig.send(&leg, Some(X), &call(1, "echo")), 480);
}
