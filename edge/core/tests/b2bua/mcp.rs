//! MCP in a call between two legs: as policy lets it, byte by byte otherwise.

use mcp_sip::policy::MethodSpec;
use sip_proto::message::HeaderId;

use crate::driver::{DOMAIN, allow, deny, text, tool_call};
use crate::fleet::*;

const TAG: &str = "Supported: mcp\r\nRecv-Info: mcp\r\n";

fn envelope(step: &str, role: &str, tools: &str) -> String {
    format!(
        r#"{{ "mcp_version":"1.0","type":"{step}","conversation":"6e2f0a34-1111-4222-8333-444455556666", "payload":{{"role":"{role}","tools":[{tools}],"schemas":[],"x-own":1}} }}"#
    )
}

fn multipart(sdp: &str, mcp: &str, handling: &str) -> String {
    format!(
        "--b1\r\nContent-Type: application/sdp\r\n\r\n{sdp}\r\n--b1\r\nContent-Type: application/mcp+json\r\nContent-Disposition: session;handling={handling}\r\nX-Part: kept\r\n\r\n{mcp}\r\n--b1--\r\n"
    )
}

const MIXED: &str = "Content-Type: multipart/mixed;boundary=b1\r\n";

fn hidden(tool: &str) -> MethodSpec {
    MethodSpec { name: "tools/call".into(), params: vec![tool.into()] }
}

fn start(rules: Vec<mcp_sip::policy::RuleSpec>) -> (Fleet, Phone, Phone) {
    let mut config = bridge_config();
    at_agent(&mut config, "sam", rules);
    let mut fleet = Fleet::with(1, config);
    let mut sam = Phone::new(&mut fleet, 0, "sam");
    sam.register(&mut fleet, "", "");
    let alice = Phone::new(&mut fleet, 0, "alice");
    (fleet, alice, sam)
}

fn invite(fleet: &mut Fleet, alice: &mut Phone, extra: &str, body: &str) {
    alice.invite(fleet, &format!("sip:sam@{DOMAIN}"), extra, body);
}

fn body(message: &sip_proto::message::Message) -> String {
    String::from_utf8(message.body().to_vec()).unwrap()
}

/// A call with MCP that stands.
fn stand(rules: Vec<mcp_sip::policy::RuleSpec>) -> (Fleet, Phone, Phone) {
    let (mut fleet, mut alice, mut sam) = start(rules);
    let offer = multipart(&sdp("a"), &envelope("offer", "caller", r#""echo@1""#), "optional");
    invite(&mut fleet, &mut alice, &format!("{TAG}{MIXED}"), &offer);
    let request = fleet.take(&sam);
    sam.called(&request);
    let answer = multipart(&sdp("s"), &envelope("answer", "callee", r#""echo@1""#), "optional");
    sam.reply(&mut fleet, &request, 200, &format!("{TAG}{MIXED}"), &answer);
    assert!(text(&fleet.take(&sam)).starts_with("ACK "));
    let response = alice.response(&mut fleet);
    alice.established(&response);
    alice.send(&mut fleet, "ACK", "", "");
    (fleet, alice, sam)
}

#[test]
fn d9_what_policy_does_not_change_passes_byte_by_byte_both_ways() {
    let (mut fleet, mut alice, mut sam) = start(vec![allow("all", None)]);
    let offer = multipart(&sdp("alice"), &envelope("offer", "caller", r#""echo@1", "pay@1""#), "optional");
    invite(
        &mut fleet,
        &mut alice,
        &format!("{TAG}{MIXED}MCP-Capabilities: ver=1.0;tools=\"echo@1,pay@1\";x=1\r\n"),
        &offer,
    );
    let request = fleet.take(&sam);
    let ours = origin(sdp("alice").as_bytes());
    let line = body(&request).lines().find(|l| l.starts_with("o=")).unwrap().to_owned();
    assert_eq!(body(&request), offer.replace(&ours, &line));
    assert_eq!(value(&request, HeaderId::McpCapabilities), "ver=1.0;tools=\"echo@1,pay@1\";x=1");
    assert_eq!(value(&request, HeaderId::ContentType), "multipart/mixed;boundary=b1");
    assert!(request.list_has(HeaderId::Supported, "mcp"));
    sam.called(&request);
    let answer = multipart(&sdp("sam"), &envelope("answer", "callee", r#""echo@1""#), "optional");
    sam.reply(&mut fleet, &request, 200, &format!("{TAG}{MIXED}"), &answer);
    let response = alice.response(&mut fleet);
    let line = body(&response).lines().find(|l| l.starts_with("o=")).unwrap().to_owned();
    assert_eq!(body(&response), answer.replace(&origin(sdp("sam").as_bytes()), &line));
    assert!(response.list_has(HeaderId::Supported, "mcp"));
}

#[test]
fn sec_11_an_offer_and_an_answer_name_no_tool_that_policy_hides() {
    let (mut fleet, mut alice, mut sam) = start(vec![allow("all", None), deny("pay", None, Some(vec![hidden("pay")]))]);
    let offer = multipart(&sdp("alice"), &envelope("offer", "caller", r#""echo@1", "pay@1""#), "optional");
    invite(
        &mut fleet,
        &mut alice,
        &format!("{TAG}{MIXED}MCP-Capabilities: ver=1.0;tools=\"echo@1,pay@1\"\r\n"),
        &offer,
    );
    let request = fleet.take(&sam);
    assert!(body(&request).contains("echo@1") && !body(&request).contains("pay@1"), "{}", text(&request));
    assert!(body(&request).contains("x-own") && body(&request).contains("X-Part: kept"), "{}", text(&request));
    assert!(!value(&request, HeaderId::McpCapabilities).contains("pay"));
    sam.called(&request);
    let answer = multipart(&sdp("sam"), &envelope("answer", "callee", r#""echo@1","pay@1""#), "optional");
    sam.reply(
        &mut fleet,
        &request,
        200,
        &format!("{TAG}{MIXED}MCP-Capabilities: ver=1.0;tools=\"echo@1,pay@1\"\r\n"),
        &answer,
    );
    let response = alice.response(&mut fleet);
    assert!(!text(&response).contains("pay@1"), "{}", text(&response));
}

#[test]
fn neg_4_mcp_is_rejected_by_policy_and_the_call_goes_on_as_a_plain_one() {
    let (mut fleet, mut alice, mut sam) = start(vec![allow("all", None), deny("no-mcp", None, None)]);
    let offer = multipart(&sdp("alice"), &envelope("offer", "caller", r#""echo@1""#), "optional");
    invite(&mut fleet, &mut alice, &format!("{TAG}{MIXED}MCP-Capabilities: ver=1.0\r\n"), &offer);
    let request = fleet.take(&sam);
    assert_eq!(value(&request, HeaderId::ContentType), "application/sdp");
    assert_eq!(without_origin(&request.body()), without_origin(sdp("alice").as_bytes()));
    assert!(
        !request.list_has(HeaderId::Supported, "mcp") && !request.has(HeaderId::McpCapabilities),
        "{}",
        text(&request)
    );
    sam.called(&request);
    // An agent that speaks of it all the same is not heard.
    let answer = multipart(&sdp("sam"), &envelope("answer", "callee", ""), "optional");
    sam.reply(&mut fleet, &request, 200, &format!("{TAG}{MIXED}"), &answer);
    fleet.take(&sam);
    let response = alice.response(&mut fleet);
    assert_eq!((response.status(), value(&response, HeaderId::ContentType)), (Some(200), "application/sdp".into()));
    assert!(!response.list_has(HeaderId::Supported, "mcp") && !body(&response).contains("mcp"), "{}", text(&response));
    alice.established(&response);
    alice.send(&mut fleet, "ACK", "", "");
    // NEG-5: nothing about MCP is sent in it afterwards.
    alice.send(&mut fleet, "MESSAGE", "Content-Type: application/mcp+json\r\n", &tool_call(1, "echo"));
    assert_eq!(alice.status(&mut fleet), 415);
}

#[test]
fn neg_4_a_required_body_or_tag_is_refused_instead() {
    let denied = || vec![allow("all", None), deny("no-mcp", None, None)];
    let offer = |handling: &str| multipart(&sdp("alice"), &envelope("offer", "caller", r#""echo@1""#), handling);
    for (extra, body, status) in [
        (format!("Require: mcp\r\n{MIXED}"), offer("optional"), 420),
        (format!("{TAG}{MIXED}"), offer("required"), 488),
        (format!("{TAG}Content-Type: application/mcp+json\r\n"), envelope("offer", "caller", ""), 488),
    ] {
        let (mut fleet, mut alice, sam) = start(denied());
        invite(&mut fleet, &mut alice, &extra, &body);
        let refused = alice.response(&mut fleet);
        assert_eq!(refused.status(), Some(status), "{extra}");
        if status == 420 {
            assert_eq!(value(&refused, HeaderId::Unsupported), "mcp");
        }
        assert!(fleet.try_take(&sam).is_none());
    }
}

#[test]
fn neg_4_an_agent_without_mcp_answers_without_the_tag_and_the_call_goes_on() {
    let (mut fleet, mut alice, mut sam) = start(vec![allow("all", None)]);
    let offer = multipart(&sdp("alice"), &envelope("offer", "caller", r#""echo@1""#), "optional");
    invite(&mut fleet, &mut alice, &format!("{TAG}{MIXED}"), &offer);
    let request = fleet.take(&sam);
    sam.called(&request);
    sam.reply(&mut fleet, &request, 200, "", &sdp("sam"));
    fleet.take(&sam);
    let response = alice.response(&mut fleet);
    assert_eq!((response.status(), response.list_has(HeaderId::Supported, "mcp")), (Some(200), false));
    alice.established(&response);
    alice.send(&mut fleet, "ACK", "", "");
    alice.send(&mut fleet, "MESSAGE", "Content-Type: application/mcp+json\r\n", &tool_call(1, "echo"));
    assert_eq!(alice.status(&mut fleet), 415);
    alice.send(&mut fleet, "INFO", "Content-Type: text/plain\r\n", "plain");
    fleet.take(&sam);
    // What it requires and the agent does not know is the agent's to refuse.
    let mut alice = Phone::new(&mut fleet, 0, "alice");
    let offer = multipart(&sdp("alice"), &envelope("offer", "caller", r#""echo@1""#), "required");
    invite(&mut fleet, &mut alice, &format!("Require: mcp\r\n{MIXED}"), &offer);
    let request = fleet.take(&sam);
    assert_eq!(value(&request, HeaderId::Require), "mcp");
    sam.called(&request);
    sam.reply(&mut fleet, &request, 420, "Unsupported: mcp\r\n", "");
    let refused = alice.response(&mut fleet);
    assert_eq!((refused.status(), value(&refused, HeaderId::Unsupported)), (Some(420), "mcp".into()));
}

#[test]
fn xch_1_messages_pass_by_message_and_info_with_their_exchange() {
    let (mut fleet, mut alice, mut sam) = stand(vec![allow("all", None)]);
    let exchange = "MCP-Exchange: AAAAAAAAAAAAAAAAAAAAAA;rel=caller\r\n";
    for (method, extra) in [("MESSAGE", ""), ("INFO", "Info-Package: mcp\r\nContent-Disposition: Info-Package\r\n")] {
        let call = tool_call(7, "echo");
        alice.send(&mut fleet, method, &format!("{extra}{exchange}Content-Type: application/mcp+json\r\n"), &call);
        let request = fleet.take(&sam);
        assert_eq!((text(&request).starts_with(method), body(&request)), (true, call));
        assert_eq!(value(&request, HeaderId::McpExchange), "AAAAAAAAAAAAAAAAAAAAAA;rel=caller");
        // Its sender hears 200 when the agent has it, not before.
        assert!(fleet.try_take(&alice).is_none());
        sam.reply(&mut fleet, &request, 200, "", "");
        assert_eq!(alice.status(&mut fleet), 200);
        let result = r#"{"jsonrpc":"2.0","id":7,"result":{"content":[]}}"#;
        sam.send(&mut fleet, method, &format!("{extra}{exchange}Content-Type: application/mcp+json\r\n"), result);
        let request = fleet.take(&alice);
        assert_eq!(body(&request), result);
        alice.reply(&mut fleet, &request, 200, "", "");
        assert_eq!(sam.status(&mut fleet), 200);
    }
    alice.send(&mut fleet, "MESSAGE", "Content-Type: application/mcp+json\r\n", "{broken");
    assert_eq!(alice.status(&mut fleet), 400);
    alice.send(&mut fleet, "MESSAGE", "Content-Type: application/mcp+json\r\n", &envelope("offer", "caller", ""));
    assert_eq!(alice.status(&mut fleet), 400);
    fleet.assert_silent();
}

#[test]
fn sec_6_a_denied_call_does_not_reach_the_agent_and_its_caller_hears_a_json_rpc_error() {
    let (mut fleet, mut alice, sam) = stand(vec![allow("all", None), deny("pay", None, Some(vec![hidden("pay")]))]);
    let exchange = "MCP-Exchange: AAAAAAAAAAAAAAAAAAAAAA;rel=caller\r\n";
    alice.send(
        &mut fleet,
        "MESSAGE",
        &format!("{exchange}Content-Type: application/mcp+json\r\n"),
        &tool_call(9, "pay"),
    );
    let mut got = [fleet.take(&alice), fleet.take(&alice)];
    got.sort_by_key(|m| m.is_request());
    let [response, request] = got;
    assert_eq!(response.status(), Some(200));
    // Hidden and absent look alike.
    assert!(body(&request).contains("-32602") && body(&request).contains(r#""id":9"#), "{}", text(&request));
    assert_eq!(value(&request, HeaderId::McpExchange), "AAAAAAAAAAAAAAAAAAAAAA;rel=caller");
    assert!(fleet.try_take(&sam).is_none());
}

#[test]
fn sec_11_a_list_shows_what_policy_shows() {
    let (mut fleet, alice, mut sam) = stand(vec![allow("all", None), deny("pay", None, Some(vec![hidden("pay")]))]);
    let list = r#"{"jsonrpc":"2.0","id":3,"result":{"tools":[ {"name":"echo","inputSchema":{}},{"name":"pay","inputSchema":{}} ],"nextCursor":"x"}}"#;
    sam.send(&mut fleet, "MESSAGE", "Content-Type: application/mcp+json\r\n", list);
    let request = fleet.take(&alice);
    assert!(
        body(&request).contains("echo") && !body(&request).contains("pay") && body(&request).contains("nextCursor"),
        "{}",
        text(&request)
    );
    alice.reply(&mut fleet, &request, 200, "", "");
    assert_eq!(sam.status(&mut fleet), 200);
}

#[test]
fn sec_16_a_revoked_caller_is_hung_up_on_both_legs() {
    let (mut fleet, alice, sam) = stand(vec![allow("all", None)]);
    fleet.reconfigure(|config| {
        at_agent(
            config,
            "sam",
            vec![allow("bob", Some(vec![mcp_sip::policy::Peer::SipIdentity("sip:bob@acme.example".into())]))],
        )
    });
    assert!(text(&fleet.take(&alice)).starts_with("BYE "));
    assert!(text(&fleet.take(&sam)).starts_with("BYE "));
}

#[test]
fn a_plain_call_needs_a_rule_that_allows_one() {
    let echo = MethodSpec { name: "tools/call".into(), params: vec!["echo".into()] };
    let only_echo = mcp_sip::policy::RuleSpec { methods: Some(vec![echo]), ..allow("echo", None) };
    let (mut fleet, mut alice, sam) = start(vec![only_echo]);
    invite(&mut fleet, &mut alice, "", &sdp("a"));
    assert_eq!(alice.status(&mut fleet), 403);
    let mut alice = Phone::new(&mut fleet, 0, "alice");
    invite(&mut fleet, &mut alice, TAG, &sdp("a"));
    fleet.take(&sam);
}

#[test]
fn obs_1_a_request_between_two_legs_has_one_audit_record_that_says_whether_it_was_handed_over() {
    use edge_core::audit::{AuditKind, Outcome};
    let (mut fleet, mut alice, mut sam) = stand(vec![allow("all", None)]);
    let exchange = "MCP-Exchange: AAAAAAAAAAAAAAAAAAAAAA;rel=caller\r\nContent-Type: application/mcp+json\r\n";
    for (status, outcome) in [(200, Outcome::Ok), (415, Outcome::Error(415))] {
        fleet.audit.clear();
        alice.send(&mut fleet, "MESSAGE", exchange, &tool_call(7, "echo"));
        assert!(fleet.audit.is_empty());
        let request = fleet.take(&sam);
        sam.reply(&mut fleet, &request, status, "", "");
        assert_eq!(alice.status(&mut fleet), status);
        let [record] = &fleet.audit[..] else { panic!("{:?}", fleet.audit) };
        assert_eq!(
            (record.kind, record.tool.as_deref(), &record.outcome),
            (AuditKind::ToolCall, Some("echo"), &outcome)
        );
        assert_eq!(
            (record.principal.as_str(), record.agent.as_str()),
            ("sip:alice@acme.example", "sip:sam@acme.example")
        );
        assert_eq!(record.rule, "default/sam/all");
    }
    // The agent asks its caller; answers and notifications have no record.
    fleet.audit.clear();
    let question = r#"{"jsonrpc":"2.0","id":1,"method":"elicitation/create","params":{"message":"?"}}"#;
    for body in [question, r#"{"jsonrpc":"2.0","id":7,"result":{}}"#, r#"{"jsonrpc":"2.0","method":"notifications/x"}"#]
    {
        sam.send(&mut fleet, "MESSAGE", exchange, body);
        let request = fleet.take(&alice);
        alice.reply(&mut fleet, &request, 200, "", "");
        assert_eq!(sam.status(&mut fleet), 200);
    }
    let [record] = &fleet.audit[..] else { panic!("{:?}", fleet.audit) };
    assert_eq!((record.kind, record.method.as_deref()), (AuditKind::McpRequest, Some("elicitation/create")));
    assert_eq!(record.principal, "sip:sam@acme.example");
}
