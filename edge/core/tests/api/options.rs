//! OPTIONS: liveness for anybody, capabilities for who may see them.

use edge_core::input::{Input, Transport};
use sip_proto::message::HeaderId;

use crate::driver::*;

const ECHO: &str = "sip:echo@acme.example";

#[test]
fn sec_11_liveness_says_nothing_of_mcp_and_every_address_is_alike() {
    let mut world = World::new(config());
    for target in [ECHO, "sip:nobody@acme.example", "sip:192.0.2.1:5060", "sip:foreign.example", "sip:acme.example"] {
        let mut nobody = Ua::new(&mut world, "nobody", &udp(5062), target);
        let response = nobody.ask(&mut world, "OPTIONS", "", "");
        assert_eq!(response.status(), Some(200), "{target}");
        let text = text(&response).to_ascii_lowercase();
        assert!(!text.contains("mcp"), "{text}");
    }
    assert!(world.operations.is_empty());
}

#[test]
fn neg_7_an_authenticated_caller_sees_the_tools_that_policy_shows_it_and_no_others() {
    let mut config = config();
    change_agent(&mut config, |a| {
        let mut rule = allow("some", None);
        let name = "tools/call".to_owned();
        rule.methods = Some(vec![mcp_sip::policy::MethodSpec { name, params: vec!["ec*".into()] }]);
        a.policies = vec![policy("agent", vec![rule])];
    });
    let mut world = World::new(config);
    let flow = stream(Transport::Tls, 1, &["sip:alice@acme.example"]);
    let mut alice = Ua::new(&mut world, "alice", &flow, ECHO);
    let response = alice.ask(&mut world, "OPTIONS", "", "");
    assert_eq!(response.status(), Some(200));
    let capabilities = header(&response, HeaderId::McpCapabilities);
    assert_eq!(capabilities, r#"ver=1.0;tools="echo@1",ver=2026-07-28"#);
    assert!(response.list_has(HeaderId::Supported, "mcp"));
    assert!(response.list_has(HeaderId::Allow, "INFO"));
    assert!(response.list_has(HeaderId::Accept, "application/mcp+json"));
    assert_eq!(header(&response, HeaderId::FeatureCaps), r#"*;+mcp;+mcp.ver="1.0,2026-07-28""#);
    alice.target = "sip:nobody@acme.example".into();
    assert_eq!(alice.ask(&mut world, "OPTIONS", "", "").status(), Some(404));
    let response = alice.ask(&mut world, "OPTIONS", "Require: foo\r\n", "");
    assert_eq!((response.status(), header(&response, HeaderId::Unsupported)), (Some(420), "foo".to_owned()));
}

#[test]
fn neg_7_the_schemas_that_an_agent_declares_are_shown_with_its_tools() {
    let mut config = config();
    change_agent(&mut config, |agent| agent.capabilities.schemas = vec!["urn:acme:invoice:1".into()]);
    let mut world = World::new(config);
    let flow = stream(Transport::Tls, 1, &["sip:alice@acme.example"]);
    let mut alice = Ua::new(&mut world, "alice", &flow, ECHO);
    let shown = |world: &mut World, alice: &mut Ua| {
        let response = alice.ask(world, "OPTIONS", "", "");
        header(&response, HeaderId::McpCapabilities)
    };
    let value = r#"ver=1.0;tools="echo@1,pay@1";schemas="urn:acme:invoice:1",ver=2026-07-28"#;
    assert_eq!(shown(&mut world, &mut alice), value);
    world.reconfigure(|config| change_agent(config, |agent| agent.capabilities.schemas.clear()));
    assert_eq!(shown(&mut world, &mut alice), r#"ver=1.0;tools="echo@1,pay@1",ver=2026-07-28"#);
}

#[test]
fn a_digest_used_for_options_cannot_be_used_again() {
    let mut world = World::new(config());
    let flow = udp(5062);
    let mut alice = Ua::new(&mut world, "alice", &flow, ECHO);
    alice.send(&mut world, "MESSAGE", MCP, &tool_call(1, "echo"));
    let challenge = world.response();
    alice.challenged(&challenge);
    let options = alice.build(&mut world, "OPTIONS", "", "");
    world.arrive(&flow, options.clone());
    assert_eq!(world.status(), 200);
    world.arrive(&flow, options.replacen(&alice.branch, "z9hG4bKother", 1).replacen("CSeq: 2", "CSeq: 9", 1));
    assert_eq!(world.status(), 401);
}

#[test]
fn sec_18_anonymous_liveness_is_bounded() {
    let mut world = World::new(config());
    let mut answered = 0;
    for _ in 0..1000 {
        let mut nobody = Ua::new(&mut world, "nobody", &udp(5062), ECHO);
        nobody.send(&mut world, "OPTIONS", "", "");
        answered += world.sent.drain(..).count();
    }
    assert_eq!(answered, 500);
    assert_eq!(world.core.stats().limited["anonymousOptions"], 500);
    world.advance(1000);
    let mut nobody = Ua::new(&mut world, "nobody", &udp(5062), ECHO);
    nobody.send(&mut world, "OPTIONS", "", "");
    assert_eq!(world.status(), 200);
}

#[test]
fn drain_and_full_are_503_with_a_short_jittered_retry_after() {
    let mut config = config();
    config.edge.limits.sessions_per_pod = 1;
    let mut world = World::new(config);
    let flow = stream(Transport::Tls, 1, &["sip:alice@acme.example"]);
    let (headers, body) = crate::calls::both();
    let mut first = Ua::new(&mut world, "alice", &flow, ECHO);
    first.call(&mut world, &headers, &body);
    let retry = |response: &sip_proto::message::Message| {
        assert_eq!(response.status(), Some(503), "{}", text(response));
        let seconds: u32 = header(response, HeaderId::RetryAfter).parse().unwrap();
        assert!((1..=5).contains(&seconds));
        seconds
    };
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let mut alice = Ua::new(&mut world, "alice", &flow, ECHO);
        let response = alice.ask(&mut world, "INVITE", &headers, &body);
        seen.insert(retry(&response));
        alice.ack_refusal(&mut world, &response);
    }
    assert!(seen.len() > 2, "{seen:?}");
    let mut nobody = Ua::new(&mut world, "nobody", &udp(5062), "sip:192.0.2.1");
    let _ = nobody.ask(&mut world, "OPTIONS", "", "");
    // What is in a dialog goes on, and so does MESSAGE.
    assert_eq!(first.ask(&mut world, "INFO", MCP, &tool_call(1, "echo")).status(), Some(200));
    world.input(Input::Drain);
    for method in ["INVITE", "MESSAGE", "OPTIONS", "REGISTER"] {
        let mut alice = Ua::new(&mut world, "alice", &flow, ECHO);
        alice.send(&mut world, method, "", "");
        let response = world.response();
        retry(&response);
    }
    assert!(!world.drained);
    assert_eq!(first.ask(&mut world, "BYE", "", "").status(), Some(200));
    world.advance(35_000);
    assert!(world.drained, "{:?}", world.core.stats());
}

#[test]
fn drain_does_not_wait_for_copies_of_what_was_answered() {
    let mut world = World::new(config());
    let flow = udp(5062);
    let mut alice = Ua::new(&mut world, "alice", &flow, ECHO);
    assert_eq!(alice.ask(&mut world, "MESSAGE", MCP, &tool_call(1, "echo")).status(), Some(200));
    let (id, _, body) = world.posted();
    world.backend_answers(id, &tool_result(&id_of(&body)));
    let answer = world.request();
    world.input(Input::Drain);
    assert!(!world.drained, "the answer is not acknowledged");
    // Over UDP the transaction stays for T4, to absorb copies of this response (RFC 3261 §17.1.2.2).
    world.reply(&flow, &answer.message, 200, "");
    assert!(world.drained, "{:?}", world.core.stats());
}

#[test]
fn drain_hangs_up_what_does_not_end_by_itself() {
    let mut world = World::new(config());
    let flow = stream(Transport::Tls, 1, &["sip:alice@acme.example"]);
    let (headers, body) = crate::calls::both();
    let mut alice = Ua::new(&mut world, "alice", &flow, ECHO);
    alice.call(&mut world, &headers, &body);
    world.input(Input::Drain);
    world.advance(19_000);
    world.assert_silent();
    world.advance(2_000);
    let bye = world.request();
    assert_eq!(bye.message.cseq().method.as_str(), "BYE");
    assert!(header(&bye.message, HeaderId::Reason).contains("Draining"));
    assert!(!world.drained);
    world.reply(&flow, &bye.message, 200, "");
    world.advance(1);
    assert!(world.drained, "{:?}", world.core.stats());
}
