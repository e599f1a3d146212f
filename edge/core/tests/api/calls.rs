//! INVITE, ACK, BYE, CANCEL, and the negotiation in them.

use edge_core::audit::AuditKind;
use sip_proto::message::HeaderId;

use crate::driver::*;

pub const ECHO: &str = "sip:echo@acme.example";
pub const SDP: &str = "v=0\r\no=- 1 1 IN IP4 198.51.100.7\r\ns=-\r\nc=IN IP4 198.51.100.7\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n\
                       m=message 2855 TCP/TLS/MSRP *\r\na=accept-types:application/mcp+json\r\n";
pub const OFFER: &str = r#"{"mcp_version":"1.0","type":"offer","conversation":"11111111-2222-4333-8444-555555555555","payload":{"role":"caller","tools":["echo@1","none@1"],"schemas":[]}}"#;
pub const SUPPORTED: &str =
    "Supported: mcp, timer\r\nRecv-Info: mcp\r\nAllow: INVITE, ACK, BYE, CANCEL, UPDATE, INFO, MESSAGE\r\n";

pub fn both() -> (String, String) {
    let body = format!(
        "--b\r\nContent-Type: application/sdp\r\n\r\n{SDP}\r\n--b\r\nContent-Type: application/mcp+json\r\n\
         Content-Disposition: session;handling=optional\r\n\r\n{OFFER}\r\n--b--\r\n"
    );
    (format!("{SUPPORTED}Content-Type: multipart/mixed;boundary=b\r\n"), body)
}

/// A call of alice over TLS with her certificate.
pub fn tls_call(world: &mut World) -> (Ua, sip_proto::message::Message) {
    let flow = stream(edge_core::input::Transport::Tls, 1, &["sip:alice@acme.example"]);
    let mut alice = Ua::new(world, "alice", &flow, ECHO);
    let (headers, body) = both();
    let response = alice.call(world, &headers, &body);
    (alice, response)
}

#[test]
fn neg_14_sdp_and_envelope_travel_as_multipart_in_either_order() {
    for swapped in [false, true] {
        let mut world = World::new(config());
        let flow = udp(5062);
        let mut alice = Ua::new(&mut world, "alice", &flow, ECHO);
        let (headers, mut body) = both();
        if swapped {
            let parts: Vec<&str> = body.split("--b").collect();
            body = format!("--b{}--b{}--b--\r\n", parts[2], parts[1]);
        }
        let response = alice.call(&mut world, &headers, &body);
        let content = response.content_type().unwrap();
        assert!(content.is("multipart/mixed"), "{}", text(&response));
        let multipart = sip_proto::multipart::Multipart::parse(content, &response.body()).unwrap();
        let sdp = String::from_utf8(multipart.find("application/sdp").unwrap().body().to_vec()).unwrap();
        assert!(sdp.contains("m=audio 0 RTP/AVP 0") && sdp.contains("m=message 0 TCP/TLS/MSRP *"), "{sdp}");
        let envelope = multipart.find("application/mcp+json").unwrap();
        assert_eq!(envelope.handling(), sip_proto::header::Handling::Optional);
        let answer: serde_json::Value = serde_json::from_slice(&envelope.body()).unwrap();
        assert_eq!(answer["type"], "answer");
        assert_eq!(answer["conversation"], "11111111-2222-4333-8444-555555555555");
        assert_eq!(answer["payload"]["role"], "callee");
        assert_eq!(answer["payload"]["tools"], serde_json::json!(["echo@1"]));
    }
}

#[test]
fn a_live_call_is_listed_with_who_where_and_since_when_and_nothing_that_was_said() {
    let mut world = World::new(config());
    let (mut alice, _) = tls_call(&mut world);
    let asked = |after| edge_core::sessions::Asked {
        domain: "acme.example".into(),
        agent: Some("default/echo".into()),
        after,
        limit: 10,
    };
    let began = world.now.wall;
    world.advance(40_000);
    let listed = world.core.sessions(world.now, &asked(None));
    let [row] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!((&*row.agent, &*row.caller, row.transport), ("default/echo", "sip:alice@acme.example", "TLS"));
    assert_eq!(row.conversation, "11111111-2222-4333-8444-555555555555");
    assert_eq!((row.begun, row.in_flight), (began, 0));
    assert!(world.core.sessions(world.now, &asked(Some(row.id))).is_empty(), "nothing behind the last one");
    let other = edge_core::sessions::Asked { agent: Some("default/none".into()), ..asked(None) };
    assert!(world.core.sessions(world.now, &other).is_empty());
    assert!(world.core.sessions(world.now, &edge_core::sessions::Asked { limit: 0, ..asked(None) }).is_empty());
    alice.ask(&mut world, "BYE", "", "");
    assert!(world.core.sessions(world.now, &asked(None)).is_empty());
}

#[test]
fn neg_3_the_200_carries_the_tag_and_the_answer() {
    let mut world = World::new(config());
    let (mut alice, response) = tls_call(&mut world);
    for tag in ["mcp", "x-mcp", "timer"] {
        assert!(response.list_has(HeaderId::Supported, tag), "{}", text(&response));
    }
    assert!(response.list_has(HeaderId::RecvInfo, "mcp"));
    assert_eq!(header(&response, HeaderId::SessionExpires), "1800;refresher=uac");
    assert!(response.list_has(HeaderId::Require, "timer"));
    assert!(header(&response, HeaderId::FeatureCaps).contains("+mcp"));
    assert!(header(&response, HeaderId::McpCapabilities).contains("echo@1"));
    assert!(alice.remote_target.as_ref().unwrap().contains("transport=tls"));
    assert_eq!(world.core.stats().dialogs, 1);
    // No copy of the 200 after its ACK.
    world.advance(40_000);
    world.assert_silent();
    let bye = alice.ask(&mut world, "BYE", "", "");
    assert_eq!(bye.status(), Some(200));
    assert_eq!(world.core.stats().dialogs, 0);
    let kinds: Vec<AuditKind> = world.audit.iter().map(|a| a.kind).collect();
    assert_eq!(kinds, [AuditKind::SessionStart, AuditKind::SessionEnd]);
    // Whatever comes now finds the tombstone.
    let again = alice.ask(&mut world, "BYE", "", "");
    assert!(matches!(again.status(), Some(200 | 481)), "{}", text(&again));
    world.advance(120_000);
    assert_eq!(world.counts().dialogs, 0);
    assert_eq!(world.counts().guards, 0);
    assert_eq!(world.core.stats().timers, 0);
}

#[test]
fn the_2xx_is_repeated_until_its_ack_and_then_comes_a_bye() {
    let mut world = World::new(config());
    let flow = udp(5062);
    let mut alice = Ua::new(&mut world, "alice", &flow, ECHO);
    let (headers, body) = both();
    let first = alice.ask(&mut world, "INVITE", &headers, &body);
    assert_eq!(first.status(), Some(200));
    world.advance(499);
    world.assert_silent();
    world.advance(1);
    assert_eq!(world.response().bytes(), first.bytes());
    world.advance(31_400);
    let copies: Vec<u16> = std::iter::from_fn(|| world.sent.pop_front()).map(|s| s.message.status().unwrap()).collect();
    assert_eq!(copies.len(), 9, "1, 3.5, 7.5, 11.5 … s after the first");
    world.advance(200);
    let bye = world.request();
    assert_eq!(bye.message.cseq().method.as_str(), "BYE");
    assert!(header(&bye.message, HeaderId::Reason).starts_with("SIP;cause=408"));
    world.reply(&flow, &bye.message, 200, "");
    world.advance(64_000);
    assert_eq!(world.core.stats().dialogs, 0);
    assert_eq!(world.core.stats().timers, 0);
}

#[test]
fn a_retransmitted_invite_gets_the_same_answer_and_makes_no_second_dialog() {
    let mut world = World::new(config());
    let flow = udp(5062);
    let mut alice = Ua::new(&mut world, "alice", &flow, ECHO);
    let (headers, body) = both();
    alice.send(&mut world, "INVITE", &headers, &body);
    let challenge = world.response();
    alice.challenged(&challenge);
    let invite = alice.build(&mut world, "INVITE", &headers, &body);
    world.arrive(&flow, invite.clone());
    let first = world.response();
    assert_eq!(first.status(), Some(200));
    world.arrive(&flow, invite);
    assert_eq!(world.counts().dialogs, 1);
    assert_eq!(world.core.stats().dialogs, 1);
}

#[test]
fn cancel_before_the_record_is_written_ends_the_invite_with_487() {
    let mut world = World::new(config());
    let flow = stream(edge_core::input::Transport::Tls, 1, &["sip:alice@acme.example"]);
    let mut alice = Ua::new(&mut world, "alice", &flow, ECHO);
    let (headers, body) = both();
    world.mode = StoreMode::Held;
    alice.send(&mut world, "INVITE", &headers, &body);
    // The guard is not written yet: no 100 leaves, however long it takes.
    world.advance(300);
    world.assert_silent();
    assert!(world.release());
    assert_eq!(world.response().status(), Some(100));
    // The record is under way when the CANCEL comes; it overtakes nothing, but the record sees it.
    alice.send(&mut world, "CANCEL", "", "");
    let answer_call = world.held.pop_front().unwrap();
    assert!(world.release());
    assert_eq!(world.response().status(), Some(200));
    let refused = world.response();
    assert_eq!((refused.status(), refused.cseq().method.as_str()), (Some(487), "INVITE"));
    alice.ack_refusal(&mut world, &refused);
    world.held.push_back(answer_call);
    assert!(world.release());
    while world.release() {}
    world.mode = StoreMode::Prompt;
    world.assert_silent();
    assert_eq!(world.core.stats().dialogs, 0);
    assert_eq!(world.counts().dialogs, 0);
    world.advance(200_000);
    assert_eq!(world.core.stats().timers, 0);
}

#[test]
fn cancel_of_what_nobody_knows_is_481_and_of_what_is_answered_is_200() {
    let mut world = World::new(config());
    let flow = stream(edge_core::input::Transport::Tls, 1, &["sip:alice@acme.example"]);
    let mut alice = Ua::new(&mut world, "alice", &flow, ECHO);
    alice.cseq = 1;
    alice.branch = "z9hG4bKnone".into();
    alice.send(&mut world, "CANCEL", "", "");
    assert_eq!(world.status(), 481);
    let (headers, body) = both();
    let response = alice.ask(&mut world, "INVITE", &headers, &body);
    assert_eq!(response.status(), Some(200));
    alice.send(&mut world, "CANCEL", "", "");
    assert_eq!(world.status(), 200);
    assert_eq!(world.core.stats().dialogs, 1);
}

#[test]
fn a_merged_invite_is_482() {
    let mut world = World::new(config());
    let flow = stream(edge_core::input::Transport::Tls, 1, &["sip:alice@acme.example"]);
    let mut alice = Ua::new(&mut world, "alice", &flow, ECHO);
    let (headers, body) = both();
    let invite = alice.build(&mut world, "INVITE", &headers, &body);
    world.arrive(&flow, invite.clone());
    assert_eq!(world.status(), 200);
    let other = invite.replacen(&alice.branch, "z9hG4bKother", 1);
    world.arrive(&flow, other);
    assert_eq!(world.status(), 482);
    assert_eq!(world.counts().dialogs, 1);
}
