//! NEG and SEC rows that are not about who may call.

use edge_core::input::{Input, Transport};
use mcp_sip::policy::MethodSpec;
use session_store::op::{StoreError, StoreOp};
use sip_proto::message::HeaderId;

use crate::calls::{ECHO, OFFER, SDP, SUPPORTED, both, tls_call};
use crate::driver::*;

fn tls() -> std::sync::Arc<edge_core::input::Flow> {
    stream(Transport::Tls, 1, &["sip:alice@acme.example"])
}

#[test]
fn neg_5_an_answer_without_the_tag_says_nothing_of_mcp() {
    let mut world = World::new(config());
    let mut alice = Ua::new(&mut world, "alice", &tls(), ECHO);
    let response = alice.ask(&mut world, "INVITE", "Supported: timer\r\nContent-Type: application/sdp\r\n", SDP);
    assert_eq!(response.status(), Some(488));
    assert!(!text(&response).to_ascii_lowercase().contains("mcp-"), "{}", text(&response));
    assert!(world.calls.is_empty());
}

#[test]
fn neg_6_after_a_420_the_same_caller_may_try_again_without_require() {
    let mut config = config();
    change_agent(&mut config, |a| {
        a.policies = vec![policy("agent", vec![allow("all", None), deny("none", None, None)])]
    });
    let mut world = World::new(config);
    let mut alice = Ua::new(&mut world, "alice", &tls(), ECHO);
    let response = alice.ask(&mut world, "INVITE", "Require: mcp\r\nContent-Type: application/sdp\r\n", SDP);
    assert_eq!((response.status(), header(&response, HeaderId::Unsupported)), (Some(420), "mcp".into()));
    alice.ack_refusal(&mut world, &response);
    let response = alice.ask(&mut world, "INVITE", "Content-Type: application/sdp\r\n", SDP);
    // The call would go on without MCP; a declared agent has no media to go on with.
    assert_eq!(response.status(), Some(488));
}

#[test]
fn neg_7_capabilities_are_read_strictly_or_leniently_and_must_not_contradict_the_envelope() {
    let mut world = World::new(config());
    let ask = |world: &mut World, value: &str, body: &str| {
        let mut alice = Ua::new(world, "alice", &tls(), ECHO);
        alice.ask(world, "INVITE", &format!("Supported: mcp\r\nMCP-Capabilities: {value}\r\n{MCP}"), body).status()
    };
    assert_eq!(ask(&mut world, r#"ver=1.0;tools="echo@1,none@1";x=y, ver=2026-07-28"#, OFFER), Some(200));
    assert_eq!(ask(&mut world, r#"ver=1.0;tools="pay@1""#, OFFER), Some(400), "the header says more than the body");
    assert_eq!(ask(&mut world, r#"ver=1.0;tools="echo@1.0""#, OFFER), Some(400), "not the ABNF");
    let long = format!("ver=1.0;x={}", "y".repeat(5000));
    assert_eq!(ask(&mut world, &long, OFFER), Some(400), "over 4 KiB");
    world.reconfigure(|config| change_domain(config, |d| d.lenient_headers = true));
    assert_eq!(ask(&mut world, r#"ver=1.0;tools="echo@1""#, OFFER), Some(200));
}

#[test]
fn neg_8_select_in_the_invite_narrows_the_set() {
    let mut world = World::new(config());
    let mut alice = Ua::new(&mut world, "alice", &tls(), ECHO);
    let headers =
        format!("{SUPPORTED}MCP-Select: tools=\"echo@1\",role=\"assistant\";x=y\r\nContent-Type: application/sdp\r\n");
    alice.call(&mut world, &headers, SDP);
    for (tool, code) in [("pay", true), ("echo", false)] {
        assert_eq!(alice.ask(&mut world, "INFO", MCP, &tool_call(1, tool)).status(), Some(200));
        if code {
            let error = world.request();
            assert!(text(&error.message).contains("-32602"), "{}", text(&error.message));
            let flow = alice.flow.clone();
            world.reply(&flow, &error.message, 200, "");
        } else {
            world.posted();
        }
    }
}

#[test]
fn neg_9_the_bare_envelope_of_a_draft_peer_is_answered_bare_and_a_late_offer_by_its_ack() {
    let mut world = World::new(config());
    let mut alice = Ua::new(&mut world, "alice", &tls(), ECHO);
    let response = alice.call(&mut world, &format!("{SUPPORTED}{MCP}"), OFFER);
    assert!(response.content_type().unwrap().is("application/mcp+json"));
    // Nothing offered: our 2xx offers both, the ACK answers both.
    let mut bob = Ua::new(&mut world, "alice", &tls(), ECHO);
    let accept = "Accept: application/sdp, application/mcp+json, multipart/mixed\r\n";
    let response = bob.ask(&mut world, "INVITE", &format!("{SUPPORTED}{accept}"), "");
    bob.established(&response);
    let body = text(&response);
    assert!(
        body.contains(r#""type":"offer""#) && body.contains(r#""role":"callee""#) && body.contains("v=0"),
        "{body}"
    );
    let conversation = body.split(r#""conversation":""#).nth(1).unwrap()[..36].to_owned();
    let answer = OFFER
        .replace("offer", "answer")
        .replace("11111111-2222-4333-8444-555555555555", &conversation)
        .replace(r#","none@1""#, "");
    let ack = format!(
        "--b\r\nContent-Type: application/sdp\r\n\r\nv=0\r\no=- 1 1 IN IP4 1.1.1.1\r\ns=-\r\nt=0 0\r\n\r\n--b\r\nContent-Type: application/mcp+json\r\n\r\n{answer}\r\n--b--\r\n"
    );
    bob.send(&mut world, "ACK", "Content-Type: multipart/mixed;boundary=b\r\n", &ack);
    // Only what the answer took is there now.
    assert_eq!(bob.ask(&mut world, "INFO", MCP, &tool_call(1, "pay")).status(), Some(200));
    assert!(text(&world.request().message).contains("-32602"));
    // A peer that reads no multipart gets a description alone.
    let mut carol = Ua::new(&mut world, "alice", &tls(), ECHO);
    let response = carol.ask(&mut world, "INVITE", SUPPORTED, "");
    assert!(response.content_type().unwrap().is("application/sdp"), "{}", text(&response));
}

#[test]
fn neg_10_a_native_message_in_the_invite_is_forwarded_after_the_200() {
    let mut world = World::new(config());
    let mut alice = Ua::new(&mut world, "alice", &tls(), ECHO);
    alice.call(&mut world, &format!("{SUPPORTED}{MCP}"), &tool_call(5, "echo"));
    let (id, _, body) = world.posted();
    world.backend_answers(id, &tool_result(&id_of(&body)));
    let answer = world.request();
    assert_eq!(answer.message.cseq().method.as_str(), "INFO");
    let value: serde_json::Value = serde_json::from_slice(&answer.message.body()).unwrap();
    assert_eq!((value["id"].clone(), value["result"]["resultType"].clone()), (5.into(), "complete".into()));
}

/// An INVITE with a tool call is answered 200, and the store is away when the call is to be written.
fn unwritten(tool: &str, is_executed: bool) -> (World, Ua) {
    let mut world = World::new(config());
    let mut alice = Ua::new(&mut world, "alice", &tls(), ECHO);
    let headers = format!("{SUPPORTED}MCP-Exchange: xxxxxxxxxxxxxxxxxxxxxx;rel=caller\r\n{MCP}");
    world.mode = StoreMode::Held;
    alice.send(&mut world, "INVITE", &headers, &tool_call(5, tool));
    while !matches!(world.held.front(), Some((_, StoreOp::OpenExchange { .. }))) {
        assert!(world.release());
    }
    let Some((op, operation)) = world.held.pop_front() else { panic!() };
    if is_executed {
        world.store.execute(world.now.wall.0, operation).unwrap();
    }
    world.mode = StoreMode::Failing(StoreError::Unavailable);
    world.input(Input::Store { op, reply: Err(StoreError::Unavailable) });
    let response = loop {
        let response = world.response();
        if response.status() == Some(200) {
            break response;
        }
    };
    alice.established(&response);
    alice.send(&mut world, "ACK", "", "");
    world.sent.clear();
    (world, alice)
}

#[test]
fn xch_6_a_message_in_an_invite_that_the_journal_did_not_take_is_answered_with_an_error() {
    for (tool, is_executed) in [("echo", false), ("pay", false), ("echo", true), ("pay", true)] {
        let (mut world, alice) = unwritten(tool, is_executed);
        world.advance(5_000);
        world.mode = StoreMode::Prompt;
        world.advance(10_000);
        let error = world.request();
        let value: serde_json::Value = serde_json::from_slice(&error.message.body()).unwrap();
        assert_eq!((value["id"].clone(), value["error"]["code"].clone()), (5.into(), (-31001).into()), "{value}");
        assert_eq!(value["error"]["data"]["executed"], "no", "{value}");
        world.reply(&alice.flow, &error.message, 200, "");
        world.advance(60_000);
        world.assert_silent();
        assert!(world.calls.is_empty(), "it never ran");
        assert_eq!(world.core.stats().engine.deliveries, 0);
    }
}

#[test]
fn xch_6_the_repetition_of_a_message_in_an_invite_runs_and_its_error_is_not_said_any_more() {
    for is_executed in [false, true] {
        let (mut world, mut alice) = unwritten("pay", is_executed);
        world.mode = StoreMode::Prompt;
        let headers = format!("MCP-Exchange: xxxxxxxxxxxxxxxxxxxxxx;rel=caller\r\n{MCP}");
        assert_eq!(alice.ask(&mut world, "INFO", &headers, &tool_call(5, "pay")).status(), Some(200));
        let (id, _, body) = world.posted();
        world.backend_answers(id, &tool_result(&id_of(&body)));
        let answer = world.request();
        assert!(text(&answer.message).contains(r#""result""#), "{}", text(&answer.message));
        world.reply(&alice.flow, &answer.message, 200, "");
        world.advance(60_000);
        world.assert_silent();
    }
}

#[test]
fn neg_11_what_is_no_json_is_400_with_a_phrase() {
    let mut world = World::new(config());
    let (mut in_call, _) = tls_call(&mut world);
    let mut out = Ua::new(&mut world, "alice", &tls(), ECHO);
    for body in [
        "",
        "{",
        "[]",
        "null",
        r#"{"jsonrpc":"2.0"}"#,
        r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#,
    ] {
        for (ua, method) in [(&mut in_call, "INFO"), (&mut out, "MESSAGE")] {
            if body.is_empty() && method == "INFO" {
                continue;
            }
            let response = ua.ask(&mut world, method, MCP, body);
            assert_eq!(response.status(), Some(400), "{method} {body}");
            assert!(!response.reason().unwrap().is_empty());
        }
    }
    // Invalid UTF-8.
    let built = out.build(&mut world, "MESSAGE", MCP, "{\"jsonrpc\":\"2.0\",\"id\":\"@\",\"method\":\"ping\"}");
    let mut bytes = built.into_bytes();
    let at = bytes.iter().rposition(|b| *b == b'@').unwrap();
    bytes[at] = 0xff;
    let flow = out.flow.clone();
    world.arrive(&flow, bytes);
    assert_eq!(world.status(), 400);
    // Broken envelopes and descriptions in an INVITE.
    for (headers, body) in [(MCP, "{"), (MCP, r#"{"type":"offer"}"#), ("Content-Type: application/sdp\r\n", "nonsense")]
    {
        let mut alice = Ua::new(&mut world, "alice", &tls(), ECHO);
        assert_eq!(
            alice.ask(&mut world, "INVITE", &format!("{SUPPORTED}{headers}"), body).status(),
            Some(400),
            "{body}"
        );
    }
    assert!(world.calls.is_empty());
    assert_eq!(in_call.ask(&mut world, "BYE", "", "").status(), Some(200));
}

#[test]
fn neg_12_outcomes_map_to_sip_codes_before_and_to_json_rpc_inside_an_exchange() {
    let mut config = config();
    change_domain(&mut config, |d| d.max_payload_bytes = Some(2000));
    change_agent(&mut config, |a| {
        let pay = vec![MethodSpec { name: "tools/call".into(), params: vec!["pay".into()] }];
        let mut call_only = deny("no-pay", None, Some(pay));
        call_only.phases = vec![mcp_sip::policy::Phase::Call];
        a.policies = vec![policy("agent", vec![allow("all", None), call_only])];
    });
    let mut world = World::new(config);
    let mut alice = Ua::new(&mut world, "alice", &tls(), ECHO);
    alice.call(&mut world, &format!("{SUPPORTED}Content-Type: application/sdp\r\n"), SDP);
    // Visible, but this call is denied: 200, then -31003.
    assert_eq!(alice.ask(&mut world, "INFO", MCP, &tool_call(1, "pay")).status(), Some(200));
    let denied = world.request();
    assert!(text(&denied.message).contains("-31003"), "{}", text(&denied.message));
    let flow = alice.flow.clone();
    world.reply(&flow, &denied.message, 200, "");
    // Too large, another type, broken: 413, 415, 400.
    let large = tool_call(1, "echo").replace("hi", &"x".repeat(2000));
    assert_eq!(alice.ask(&mut world, "INFO", MCP, &large).status(), Some(413));
    assert_eq!(alice.ask(&mut world, "MESSAGE", "Content-Type: text/plain\r\n", "x").status(), Some(415));
    let encoded = alice.ask(&mut world, "MESSAGE", &format!("{MCP}Content-Encoding: gzip\r\n"), "x");
    assert_eq!((encoded.status(), header(&encoded, HeaderId::AcceptEncoding)), (Some(415), "identity".into()));
}

#[test]
fn sec_10_large_bodies_and_too_many_media_lines_are_refused() {
    let mut world = World::new(config());
    let mut alice = Ua::new(&mut world, "alice", &tls(), ECHO);
    let large = tool_call(1, "echo").replace("hi", &"x".repeat(65_536));
    assert_eq!(alice.ask(&mut world, "MESSAGE", MCP, &large).status(), Some(413));
    let large = OFFER.replace("none@1", &"x".repeat(65_536));
    assert_eq!(alice.ask(&mut world, "INVITE", &format!("{SUPPORTED}{MCP}"), &large).status(), Some(413));
    let media = format!("{SDP}{}", "m=audio 1 RTP/AVP 0\r\n".repeat(8));
    let response = alice.ask(&mut world, "INVITE", &format!("{SUPPORTED}Content-Type: application/sdp\r\n"), &media);
    assert_eq!(response.status(), Some(488));
    assert!(world.core.stats().limited["sipBodyBytes"] >= 2);
}

#[test]
fn neg_13_unknown_headers_and_parameters_are_ignored() {
    let mut world = World::new(config());
    let mut alice = Ua::new(&mut world, "alice", &tls(), ECHO);
    let (headers, body) = both();
    let odd = "X-Unknown: \"a;b\", c\r\nP-Strange: 1\r\nUnknown-Header: <sip:x@y>;z\r\n";
    let built = alice.build(&mut world, "INVITE", &format!("{odd}{headers}"), &body);
    let built = built
        .replacen(";rport", ";rport;unknown=\"x\"", 1)
        .replacen(&format!(";tag={}", alice.from_tag), &format!(";tag={};odd=\"q;,\"", alice.from_tag), 1)
        .replacen("Contact: <sip:alice@", "Contact: <sip:alice;odd=1@", 1);
    let flow = alice.flow.clone();
    world.arrive(&flow, built);
    let response = world.response();
    alice.established(&response);
    alice.send(&mut world, "ACK", "", "");
    // Unknown parameters of the MCP fields, too.
    let exchange = "MCP-Exchange: abcdefghijklmnopqrstuv;rel=caller;odd=1\r\n";
    assert_eq!(alice.ask(&mut world, "INFO", &format!("{exchange}{MCP}"), &tool_call(1, "echo")).status(), Some(200));
    let (id, _, sent) = world.posted();
    world.backend_answers(id, &tool_result(&id_of(&sent)));
    let answer = world.request();
    assert!(header(&answer.message, HeaderId::McpExchange).starts_with("abcdefghijklmnopqrstuv;rel=caller"));
    assert!(answer.message.request_uri().unwrap().contains("odd=1"));
}

#[test]
fn sec_12_header_fields_never_change_the_json_that_is_forwarded() {
    let mut forwarded = std::collections::BTreeSet::new();
    for extra in [
        "",
        "Subject: {\"jsonrpc\":\"2.0\"}\r\n",
        "MCP-Capabilities: ver=1.0;tools=\"pay@1\"\r\n",
        "X-Mcp-Tool: pay\r\nMcp-Method: tools/list\r\n",
        "Session-ID: 0123456789abcdef0123456789abcdef\r\n",
        "P-Asserted-Identity: <sip:admin@acme.example>\r\n",
    ] {
        let mut world = World::new(config());
        let (mut alice, _) = tls_call(&mut world);
        let response = alice.ask(&mut world, "INFO", &format!("{extra}{MCP}"), &tool_call(1, "echo"));
        assert_eq!(response.status(), Some(200), "{extra}");
        let (_, call, body) = world.posted();
        // The id towards the backend is the edge's own; the rest is the caller's, byte for byte.
        let id = id_of(&body);
        forwarded.insert(body.replacen(&id, "ID", 1));
        assert!(
            call.headers.iter().any(|(n, v)| n.eq_ignore_ascii_case("Mcp-Name") && v == "echo"),
            "{:?}",
            call.headers
        );
    }
    assert_eq!(forwarded.len(), 1, "{forwarded:#?}");
}

#[test]
fn sec_11_audit_records_hold_no_payload_and_no_credential() {
    let mut world = World::new(config());
    let flow = udp(5062);
    let mut alice = Ua::new(&mut world, "alice", &flow, ECHO);
    let secret = tool_call(1, "echo").replace("hi", "hunter2");
    assert_eq!(alice.ask(&mut world, "MESSAGE", MCP, &secret).status(), Some(200));
    let (id, _, body) = world.posted();
    world.backend_answers(id, &tool_result(&id_of(&body)));
    let all = format!("{:?}", world.audit);
    assert!(!world.audit.is_empty());
    assert!(!all.contains("hunter2") && !all.contains("response="), "{all}");
}
