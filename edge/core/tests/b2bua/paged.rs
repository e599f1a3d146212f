//! MESSAGE and OPTIONS out of a dialog to somebody who registers.

use mcp_sip::policy::MethodSpec;
use session_store::op::StoreOp;
use sip_proto::message::HeaderId;

use crate::driver::{DOMAIN, allow, deny, text, tool_call};
use crate::fleet::*;

const MCP: &str = "MCP-Exchange: AAAAAAAAAAAAAAAAAAAAAA;rel=caller\r\nContent-Type: application/mcp+json\r\n";

fn sam() -> String {
    format!("sip:sam@{DOMAIN}")
}

#[test]
fn xch_1_a_message_out_of_a_dialog_reaches_a_registered_agent_at_another_edge_and_its_answer_comes_back() {
    let mut fleet = Fleet::new(2);
    let mut agent = Phone::new(&mut fleet, 0, "sam");
    agent.register(&mut fleet, "", "");
    let mut alice = Phone::new(&mut fleet, 1, "alice");
    alice.register(&mut fleet, "", "");
    let before = fleet.operations.len();
    alice.page(&mut fleet, "MESSAGE", &sam(), &format!("{MCP}X-Own: kept\r\n"), &tool_call(7, "echo"));
    let request = fleet.take(&agent);
    assert!(text(&request).starts_with(&format!("MESSAGE {} ", agent.uri())), "{}", text(&request));
    assert_eq!((request.from().uri(), request.to().uri()), (format!("sip:alice@{DOMAIN}").as_str(), sam().as_str()));
    assert_eq!(request.body(), tool_call(7, "echo").as_bytes());
    assert_eq!(value(&request, HeaderId::McpExchange), "AAAAAAAAAAAAAAAAAAAAAA;rel=caller");
    assert!(text(&request).contains("X-Own: kept"), "{}", text(&request));
    assert_eq!(request.max_forwards(), Some(69));
    assert_eq!(request.headers(HeaderId::Via).count(), 1);
    // What its sender hears is the word of the far end; nothing was written for it.
    assert!(fleet.try_take(&alice).is_none());
    let reads = |operation: &StoreOp| matches!(operation, StoreOp::ReadBindings { .. });
    assert!(fleet.operations[before..].iter().all(reads), "{:?}", &fleet.operations[before..]);
    agent.reply(&mut fleet, &request, 200, "", "");
    assert_eq!(alice.status(&mut fleet), 200);
    // The answer is a message of its own.
    let result = r#"{"jsonrpc":"2.0","id":7,"result":{"content":[]}}"#;
    agent.page(&mut fleet, "MESSAGE", &format!("sip:alice@{DOMAIN}"), MCP, result);
    let answer = fleet.take(&alice);
    assert_eq!(answer.body(), result.as_bytes());
    alice.reply(&mut fleet, &answer, 200, "", "");
    assert_eq!(agent.status(&mut fleet), 200);
    // Refusals of the far end are heard; its redirections and challenges are not.
    for (said, heard) in [(415, 415), (480, 480), (503, 500), (302, 480), (401, 480)] {
        alice.page(&mut fleet, "MESSAGE", &sam(), "Content-Type: text/plain\r\n", "hello");
        let request = fleet.take(&agent);
        agent.reply(&mut fleet, &request, said, "", "");
        assert_eq!(alice.status(&mut fleet), heard, "{said}");
    }
    fleet.assert_silent();
    fleet.assert_empty();
}

#[test]
fn a_tool_call_to_a_registered_agent_counts_for_its_tenant() {
    let mut config = bridge_config();
    crate::driver::change_domain(&mut config, |domain| domain.tool_calls_per_second = Some(1));
    let mut fleet = Fleet::with(1, config);
    let mut agent = Phone::new(&mut fleet, 0, "sam");
    agent.register(&mut fleet, "", "");
    let mut alice = Phone::new(&mut fleet, 0, "alice");
    for id in 0..10 {
        alice.page(&mut fleet, "MESSAGE", &sam(), MCP, &tool_call(id, "echo"));
        let request = fleet.take(&agent);
        agent.reply(&mut fleet, &request, 200, "", "");
        assert_eq!(alice.status(&mut fleet), 200);
    }
    alice.page(&mut fleet, "MESSAGE", &sam(), MCP, &tool_call(10, "echo"));
    assert!(fleet.try_take(&agent).is_none());
    assert_eq!(alice.status(&mut fleet), 200);
    let error = fleet.take(&alice);
    assert!(text(&error).contains("-31002") && text(&error).contains("toolCallsPerSecond"), "{}", text(&error));
    // What is no tool call goes on.
    alice.page(&mut fleet, "MESSAGE", &sam(), "Content-Type: text/plain\r\n", "hello");
    fleet.take(&agent);
}

/// A tool call of alice; whether it reached the agent, which took it. Else it is one too many.
fn ask(fleet: &mut Fleet, agent: &Phone, alice: &mut Phone, id: u64) -> bool {
    alice.page(fleet, "MESSAGE", &sam(), MCP, &tool_call(id, "echo"));
    if let Some(request) = fleet.try_take(agent) {
        agent.reply(fleet, &request, 200, "", "");
        assert_eq!(alice.status(fleet), 200);
        return true;
    }
    assert_eq!(alice.status(fleet), 200);
    let error = fleet.take(alice);
    assert!(text(&error).contains("-31002") && text(&error).contains("concurrent"), "{}", text(&error));
    alice.reply(fleet, &error, 200, "", "");
    false
}

#[test]
fn so_many_calls_wait_for_a_registered_agent_until_its_answer_passes_or_its_time_is_over() {
    let mut config = bridge_config();
    let mut own = allow("own", None);
    own.limits = Some(mcp_sip::policy::RuleLimits { calls_per_minute: None, concurrent: Some(1) });
    at_agent(&mut config, "sam", vec![own]);
    let mut fleet = Fleet::with(1, config);
    let mut agent = Phone::new(&mut fleet, 0, "sam");
    agent.register(&mut fleet, "", "");
    let mut alice = Phone::new(&mut fleet, 0, "alice");
    alice.register(&mut fleet, "", "");
    assert!(ask(&mut fleet, &agent, &mut alice, 7));
    assert!(!ask(&mut fleet, &agent, &mut alice, 8));
    let result = r#"{"jsonrpc":"2.0","id":7,"result":{"content":[]}}"#;
    agent.page(&mut fleet, "MESSAGE", &format!("sip:alice@{DOMAIN}"), MCP, result);
    let answer = fleet.take(&alice);
    alice.reply(&mut fleet, &answer, 200, "", "");
    assert_eq!(agent.status(&mut fleet), 200);
    // Nobody answers this one.
    assert!(ask(&mut fleet, &agent, &mut alice, 9));
    assert!(!ask(&mut fleet, &agent, &mut alice, 10));
    fleet.advance(10_000);
    assert!(ask(&mut fleet, &agent, &mut alice, 11));
}

#[test]
fn a_call_without_an_id_passes_only_where_nothing_counts_it() {
    for limit in [None, Some(9)] {
        let mut config = bridge_config();
        let mut own = allow("own", None);
        own.limits = limit.map(|most| mcp_sip::policy::RuleLimits { calls_per_minute: Some(most), concurrent: None });
        at_agent(&mut config, "sam", vec![own]);
        let mut fleet = Fleet::with(1, config);
        let mut agent = Phone::new(&mut fleet, 0, "sam");
        agent.register(&mut fleet, "", "");
        let mut alice = Phone::new(&mut fleet, 0, "alice");
        alice.page(&mut fleet, "MESSAGE", &sam(), MCP, &tool_call(9, "echo").replace(r#""id":9,"#, ""));
        let Some(request) = fleet.try_take(&agent) else {
            assert!(limit.is_some());
            assert_eq!(alice.status(&mut fleet), 403);
            continue;
        };
        assert!(limit.is_none());
        agent.reply(&mut fleet, &request, 200, "", "");
        assert_eq!(alice.status(&mut fleet), 200);
    }
}

#[test]
fn a_condition_over_arguments_holds_for_a_registered_agent_too() {
    let mut config = bridge_config();
    let mut own = allow("own", None);
    own.methods = Some(vec![MethodSpec { name: "tools/call".into(), params: Vec::new() }]);
    own.phases = vec![mcp_sip::policy::Phase::Call];
    own.when = Some("args.text == 'hi'".into());
    at_agent(&mut config, "sam", vec![own]);
    let mut fleet = Fleet::with(1, config);
    let mut agent = Phone::new(&mut fleet, 0, "sam");
    agent.register(&mut fleet, "", "");
    let mut alice = Phone::new(&mut fleet, 0, "alice");
    alice.page(&mut fleet, "MESSAGE", &sam(), MCP, &tool_call(1, "echo"));
    let request = fleet.take(&agent);
    agent.reply(&mut fleet, &request, 200, "", "");
    assert_eq!(alice.status(&mut fleet), 200);
    alice.page(&mut fleet, "MESSAGE", &sam(), MCP, &tool_call(2, "echo").replace("hi", "ho"));
    assert!(fleet.try_take(&agent).is_none());
    assert_eq!(alice.status(&mut fleet), 200);
    assert!(text(&fleet.take(&alice)).contains("error"));
    // Without an id it is no way around it.
    let body = tool_call(3, "echo").replace("hi", "ho").replace(r#""id":3,"#, "");
    alice.page(&mut fleet, "MESSAGE", &sam(), MCP, &body);
    assert!(fleet.try_take(&agent).is_none());
    assert_eq!(alice.status(&mut fleet), 403);
}

#[test]
fn a_copy_at_another_edge_is_the_same_request_to_the_agent() {
    let mut fleet = Fleet::new(2);
    let mut agent = Phone::new(&mut fleet, 0, "sam");
    agent.register(&mut fleet, "", "");
    let mut alice = Phone::new(&mut fleet, 0, "alice");
    let mut twin = alice.moved(&mut fleet, 1);
    alice.page(&mut fleet, "MESSAGE", &sam(), MCP, &tool_call(1, "echo"));
    twin.page(&mut fleet, "MESSAGE", &sam(), MCP, &tool_call(1, "echo"));
    let (one, two) = (fleet.take(&agent), fleet.take(&agent));
    let name =
        |m: &sip_proto::message::Message| (m.call_id().to_owned(), m.from_tag().unwrap().to_owned(), m.cseq().seq);
    assert_eq!(name(&one), name(&two));
    alice.page(&mut fleet, "MESSAGE", &sam(), MCP, &tool_call(1, "echo"));
    assert_ne!(name(&fleet.take(&agent)), name(&one));
}

#[test]
fn one_target_by_q_then_the_next_where_its_flow_has_failed() {
    let mut fleet = Fleet::new(1);
    let mut low = Phone::new(&mut fleet, 0, "sam");
    let mut high = Phone::new(&mut fleet, 0, "sam");
    low.register(&mut fleet, ";q=0.2", "");
    high.register(&mut fleet, ";q=0.8", "");
    let mut alice = Phone::new(&mut fleet, 0, "alice");
    alice.page(&mut fleet, "MESSAGE", &sam(), "Content-Type: text/plain\r\n", "hello");
    let request = fleet.take(&high);
    fleet.assert_silent();
    high.reply(&mut fleet, &request, 430, "", "");
    let request = fleet.take(&low);
    low.reply(&mut fleet, &request, 202, "", "");
    assert_eq!(alice.status(&mut fleet), 202);
    // Nobody answers: nobody is told anything that is not true (RFC 4320).
    alice.page(&mut fleet, "MESSAGE", &sam(), "Content-Type: text/plain\r\n", "hello");
    fleet.take(&high);
    fleet.advance(40_000);
    while let Some(late) = fleet.try_take(&alice) {
        assert_eq!(late.status(), Some(100), "{}", text(&late));
    }
    // Nobody is registered.
    alice.page(&mut fleet, "MESSAGE", &format!("sip:bob@{DOMAIN}"), "Content-Type: text/plain\r\n", "hello");
    assert_eq!(alice.status(&mut fleet), 480);
    fleet.assert_empty();
}

#[test]
fn reg_2_a_message_to_the_domain_goes_to_who_offers_the_capability() {
    let mut fleet = Fleet::new(2);
    let mut agent = Phone::new(&mut fleet, 0, "sam");
    agent.register(&mut fleet, ";+mcp;+mcp.cap=\"echo@1\"", "");
    let mut alice = Phone::new(&mut fleet, 1, "alice");
    let domain = format!("sip:{DOMAIN}");
    let wanted = "Accept-Contact: *;+mcp.cap=\"echo@1\";explicit;require\r\n";
    alice.page(&mut fleet, "MESSAGE", &domain, &format!("{wanted}{MCP}"), &tool_call(1, "echo"));
    let request = fleet.take(&agent);
    assert_eq!(request.to().uri(), sam());
    agent.reply(&mut fleet, &request, 200, "", "");
    assert_eq!(alice.status(&mut fleet), 200);
    let other = wanted.replace("echo", "pay");
    alice.page(&mut fleet, "MESSAGE", &domain, &format!("{other}{MCP}"), &tool_call(2, "pay"));
    assert_eq!(alice.status(&mut fleet), 404);
}

/// A server need not look whether a call has an id: without one it is still a call.
#[test]
fn sec_6_a_call_without_an_id_is_judged_and_a_notification_passes() {
    let hidden = MethodSpec { name: "tools/call".into(), params: vec!["pay".into()] };
    let mut config = bridge_config();
    at_agent(&mut config, "sam", vec![allow("all", None), deny("pay", None, Some(vec![hidden]))]);
    let mut fleet = Fleet::with(1, config);
    let mut agent = Phone::new(&mut fleet, 0, "sam");
    agent.register(&mut fleet, "", "");
    let mut alice = Phone::new(&mut fleet, 0, "alice");
    let without_id = tool_call(9, "pay").replace(r#""id":9,"#, "");
    assert!(!without_id.contains(r#""id""#), "{without_id}");
    alice.page(&mut fleet, "MESSAGE", &sam(), MCP, &without_id);
    assert!(fleet.try_take(&agent).is_none(), "it reached the agent");
    assert_eq!(alice.status(&mut fleet), 403);
    let cancelled = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#;
    alice.page(&mut fleet, "MESSAGE", &sam(), MCP, cancelled);
    let request = fleet.take(&agent);
    assert_eq!(request.body(), cancelled.as_bytes());
    agent.reply(&mut fleet, &request, 200, "", "");
    assert_eq!(alice.status(&mut fleet), 200);
}

#[test]
fn sec_6_sec_11_policy_is_asked_before_and_after() {
    let hidden = MethodSpec { name: "tools/call".into(), params: vec!["pay".into()] };
    let mut config = bridge_config();
    at_agent(&mut config, "sam", vec![allow("all", None), deny("pay", None, Some(vec![hidden]))]);
    let mut fleet = Fleet::with(1, config);
    let mut agent = Phone::new(&mut fleet, 0, "sam");
    agent.register(&mut fleet, "", "");
    let mut alice = Phone::new(&mut fleet, 0, "alice");
    alice.register(&mut fleet, "", "");
    alice.page(&mut fleet, "MESSAGE", &sam(), MCP, &tool_call(9, "pay"));
    let mut got = [fleet.take(&alice), fleet.take(&alice)];
    got.sort_by_key(|m| m.is_request());
    let [response, error] = got;
    assert_eq!(response.status(), Some(200));
    // Hidden and absent look alike.
    assert!(text(&error).contains("-32602") && text(&error).contains(r#""id":9"#), "{}", text(&error));
    assert_eq!(value(&error, HeaderId::McpExchange), "AAAAAAAAAAAAAAAAAAAAAA;rel=caller");
    assert!(fleet.try_take(&agent).is_none());
    alice.reply(&mut fleet, &error, 200, "", "");
    // A list shows what policy shows.
    let list = r#"{"jsonrpc":"2.0","id":3,"result":{"tools":[{"name":"echo","inputSchema":{}},{"name":"pay","inputSchema":{}}]}}"#;
    agent.page(&mut fleet, "MESSAGE", &format!("sip:alice@{DOMAIN}"), MCP, list);
    let shown = fleet.take(&alice);
    assert!(text(&shown).contains("echo") && !text(&shown).contains("pay"), "{}", text(&shown));
    // Not JSON, and nobody may see the address.
    alice.page(&mut fleet, "MESSAGE", &sam(), MCP, "{broken");
    assert_eq!(alice.status(&mut fleet), 400);
    alice.page(&mut fleet, "MESSAGE", &sam(), "Require: nothing\r\nContent-Type: text/plain\r\n", "x");
    assert_eq!(alice.status(&mut fleet), 420);
    alice.page(&mut fleet, "MESSAGE", &format!("sip:nobody@{DOMAIN}"), MCP, &tool_call(9, "pay"));
    assert_eq!(alice.status(&mut fleet), 404);
}

#[test]
fn options_are_answered_by_who_registered() {
    let mut fleet = Fleet::new(2);
    let mut agent = Phone::new(&mut fleet, 0, "sam");
    let mut alice = Phone::new(&mut fleet, 1, "alice");
    alice.page(&mut fleet, "OPTIONS", &sam(), "", "");
    assert_eq!(alice.status(&mut fleet), 480);
    agent.register(&mut fleet, "", "");
    alice.page(&mut fleet, "OPTIONS", &sam(), "Accept: application/sdp\r\n", "");
    let request = fleet.take(&agent);
    assert!(text(&request).starts_with("OPTIONS "), "{}", text(&request));
    agent.reply(&mut fleet, &request, 200, "Accept: application/sdp\r\nSupported: mcp, 100rel\r\nX-Own: 1\r\n", "");
    let answer = alice.response(&mut fleet);
    assert_eq!((answer.status(), value(&answer, HeaderId::Accept)), (Some(200), "application/sdp".to_owned()));
    assert!(answer.list_has(HeaderId::Supported, "mcp") && text(&answer).contains("X-Own: 1"), "{}", text(&answer));
}

#[test]
fn rfc_3428_8_what_is_too_large_for_a_datagram_goes_by_tcp_or_not_at_all() {
    let mut fleet = Fleet::new(1);
    let mut agent = Phone::new(&mut fleet, 0, "sam");
    agent.register(&mut fleet, "", "");
    let mut alice = Phone::new(&mut fleet, 0, "alice");
    let large =
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{}"}}}}"#, "x".repeat(1500));
    alice.page(&mut fleet, "MESSAGE", &sam(), MCP, &large);
    let request = fleet.take(&agent);
    assert_eq!(request.body(), large.as_bytes(), "a stream has no such limit");
    agent.reply(&mut fleet, &request, 200, "", "");
    assert_eq!(alice.status(&mut fleet), 200);
    // Its connection is gone, and its address is one of datagrams.
    agent.register(&mut fleet, ";expires=0", "");
    agent.transport = "udp";
    agent.register(&mut fleet, "", "");
    fleet.close(&agent);
    for (body, by) in [(tool_call(1, "echo"), "SIP/2.0/UDP "), (large, "SIP/2.0/TCP ")] {
        alice.page(&mut fleet, "MESSAGE", &sam(), MCP, &body);
        let request = fleet.take(&agent);
        assert!(value(&request, HeaderId::Via).starts_with(by), "{}", text(&request));
        assert_eq!(request.body(), body.as_bytes());
    }
    // Nobody takes the connection: that is the reason.
    fleet.unreachable(0);
    assert_eq!(alice.status(&mut fleet), 513);
}
