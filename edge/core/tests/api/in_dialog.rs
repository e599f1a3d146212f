//! MESSAGE, INFO, UPDATE, re-INVITE in a dialog, and what the edge sends in one.

use edge_core::input::Transport;
use sip_proto::message::HeaderId;

use crate::calls::{SUPPORTED, both, tls_call};
use crate::driver::*;

/// A call and its first tool call, by this method.
fn tool_over(world: &mut World, alice: &mut Ua, method: &str, headers: &str) -> Sent {
    let response = alice.ask(world, method, &format!("{headers}{MCP}"), &tool_call(7, "echo"));
    assert_eq!(response.status(), Some(200), "{}", text(&response));
    let (id, _, body) = world.posted();
    world.backend_answers(id, &tool_result(&id_of(&body)));
    world.request()
}

#[test]
fn xch_1_info_with_the_package_and_message_carry_mcp_in_a_dialog() {
    for (method, headers) in
        [("INFO", "Info-Package: mcp\r\nContent-Disposition: Info-Package\r\n"), ("INFO", ""), ("MESSAGE", "")]
    {
        let mut world = World::new(config());
        let (mut alice, _) = tls_call(&mut world);
        let answer = tool_over(&mut world, &mut alice, method, headers);
        assert_eq!(answer.message.cseq().method.as_str(), method);
        assert_eq!(answer.message.call_id(), alice.call_id);
        assert_eq!(answer.message.to_tag(), Some(alice.from_tag.as_str()));
        assert_eq!(answer.message.from_tag(), alice.to_tag.as_deref());
        if method == "INFO" {
            assert_eq!(header(&answer.message, HeaderId::InfoPackage), "mcp");
        }
        let flow = alice.flow.clone();
        world.reply(&flow, &answer.message, 200, "");
        let first = answer.message.cseq().seq;
        let second = tool_over(&mut world, &mut alice, method, headers);
        assert_eq!(second.message.cseq().seq, first + 1);
    }
}

#[test]
fn xch_2_another_media_type_is_415_with_accept_and_leaves_the_dialog() {
    let mut world = World::new(config());
    let (mut alice, _) = tls_call(&mut world);
    for method in ["MESSAGE", "INFO"] {
        let response = alice.ask(&mut world, method, "Content-Type: text/plain\r\n", "hello");
        assert_eq!(response.status(), Some(415));
        assert!(header(&response, HeaderId::Accept).contains("application/mcp+json"));
    }
    assert_eq!(world.core.stats().dialogs, 1);
    tool_over(&mut world, &mut alice, "INFO", "");
}

#[test]
fn an_unknown_info_package_is_469() {
    let mut world = World::new(config());
    let (mut alice, _) = tls_call(&mut world);
    let response = alice.ask(&mut world, "INFO", &format!("Info-Package: other\r\n{MCP}"), &tool_call(1, "echo"));
    assert_eq!(response.status(), Some(469));
    assert_eq!(header(&response, HeaderId::RecvInfo), "mcp");
}

#[test]
fn xch_4_a_refused_carrier_leaves_the_dialog_and_the_next_one_is_tried_with_the_same_bytes() {
    for status in [415, 405, 501, 489] {
        let mut world = World::new(config());
        let (mut alice, _) = tls_call(&mut world);
        let first = tool_over(&mut world, &mut alice, "INFO", "Info-Package: mcp\r\n");
        assert_eq!(first.message.cseq().method.as_str(), "INFO");
        let flow = alice.flow.clone();
        world.reply(&flow, &first.message, status, "");
        let second = world.request();
        assert_eq!(second.message.cseq().method.as_str(), "MESSAGE");
        assert_eq!(second.message.body(), first.message.body());
        assert_eq!(header(&second.message, HeaderId::McpExchange), header(&first.message, HeaderId::McpExchange));
        world.reply(&flow, &second.message, 200, "");
        assert_eq!(world.core.stats().dialogs, 1);
        assert_eq!(alice.ask(&mut world, "BYE", "", "").status(), Some(200));
    }
}

#[test]
fn security_another_principal_is_403_and_moves_nothing() {
    let mut world = World::new(config());
    let (mut alice, _) = tls_call(&mut world);
    let mallory_flow = stream(Transport::Tls, 2, &["sip:bob@acme.example"]);
    let mut mallory = alice.clone();
    mallory.flow = mallory_flow;
    mallory.cseq = 1_000_000;
    for method in ["MESSAGE", "INFO", "UPDATE", "BYE"] {
        let response = mallory.ask(&mut world, method, MCP, &tool_call(1, "echo"));
        assert_eq!(response.status(), Some(403), "{method}: {}", text(&response));
    }
    assert!(world.calls.is_empty());
    // The true caller's CSeq is still the highest.
    tool_over(&mut world, &mut alice, "INFO", "");
    // Without credentials it is a challenge, before any store operation.
    let before = world.operations.len();
    mallory.flow = stream(Transport::Tcp, 3, &[]);
    mallory.send(&mut world, "BYE", "", "");
    assert_eq!(world.status(), 401);
    assert_eq!(world.operations.len(), before);
}

#[test]
fn a_bad_seal_is_481_without_touching_the_store() {
    let mut world = World::new(config());
    let (mut alice, _) = tls_call(&mut world);
    let tag = alice.to_tag.clone().unwrap();
    let flipped = if tag.starts_with('a') { tag.replacen('a', "b", 1) } else { format!("a{}", &tag[1..]) };
    let before = world.operations.len();
    for forged in [flipped.as_str(), "x", "2222"] {
        alice.to_tag = Some(forged.to_owned());
        for method in ["BYE", "INFO", "INVITE", "UPDATE"] {
            alice.send(&mut world, method, "", "");
            assert_eq!(world.status(), 481);
        }
        alice.send(&mut world, "ACK", "", "");
        world.assert_silent();
    }
    assert_eq!(world.operations.len(), before);
    assert_eq!(world.core.stats().dialogs, 1);
    // Tags compare without regard to case.
    alice.to_tag = Some(tag.to_ascii_uppercase());
    assert_eq!(alice.ask(&mut world, "BYE", "", "").status(), Some(200));
}

#[test]
fn an_old_cseq_is_500_and_a_copy_is_replayed_by_another_transaction() {
    let mut world = World::new(config());
    let (mut alice, _) = tls_call(&mut world);
    tool_over(&mut world, &mut alice, "INFO", "");
    let cseq = alice.cseq;
    alice.cseq = 0;
    alice.send(&mut world, "INFO", MCP, &tool_call(8, "echo"));
    assert!(matches!(world.status(), 500), "an old number");
    // The same CSeq again, by a new branch (another edge would see it so): the stored answer, no second effect.
    alice.cseq = cseq - 1;
    alice.send(&mut world, "INFO", MCP, &tool_call(7, "echo"));
    assert_eq!(world.status(), 200);
    assert!(world.calls.is_empty());
}

#[test]
fn session_timer_the_edge_refreshes_by_update_and_hangs_up_on_expiry() {
    let mut world = World::new(config());
    let flow = stream(Transport::Tls, 1, &["sip:alice@acme.example"]);
    let mut alice = Ua::new(&mut world, "alice", &flow, crate::calls::ECHO);
    let (_, body) = both();
    // No timer support: the edge inserts 1800 s and refreshes.
    let headers = "Supported: mcp\r\nAllow: INVITE, ACK, BYE, UPDATE\r\nContent-Type: multipart/mixed;boundary=b\r\n";
    let response = alice.call(&mut world, headers, &body);
    assert_eq!(header(&response, HeaderId::SessionExpires), "1800;refresher=uas");
    assert!(!response.list_has(HeaderId::Require, "timer"));
    world.advance(899_000);
    world.assert_silent();
    world.advance(2_000);
    let update = world.request();
    assert_eq!(update.message.cseq().method.as_str(), "UPDATE");
    assert_eq!(header(&update.message, HeaderId::SessionExpires), "1800;refresher=uac");
    world.reply(&flow, &update.message, 200, "Session-Expires: 1800;refresher=uac\r\n");
    world.advance(899_000);
    world.assert_silent();
    world.advance(2_000);
    let update = world.request();
    // Refused as such: the other method.
    world.reply(&flow, &update.message, 405, "");
    let invite = world.request();
    assert_eq!(invite.message.cseq().method.as_str(), "INVITE");
    assert!(text(&invite.message).contains("m=audio 0"));
    world.reply(
        &flow,
        &invite.message,
        200,
        "Contact: <sip:alice@198.51.100.7>\r\nSession-Expires: 1800;refresher=uac\r\n",
    );
    let ack = world.request();
    assert_eq!(ack.message.cseq().method.as_str(), "ACK");
    // The peer is gone: no answer to the next refresh ends it.
    world.advance(902_000);
    let invite = world.request();
    assert_eq!(invite.message.cseq().method.as_str(), "INVITE");
    world.advance(33_000);
    let bye = world.request();
    assert_eq!(bye.message.cseq().method.as_str(), "BYE");
    world.advance(64_000);
    assert_eq!(world.core.stats().dialogs, 0);
    assert_eq!(world.core.stats().timers, 0);
}

#[test]
fn session_timer_a_peer_that_does_not_refresh_gets_a_bye_and_one_that_does_stays() {
    let mut world = World::new(config());
    let (mut alice, _) = tls_call(&mut world);
    world.advance(1_000_000);
    let response = alice.ask(&mut world, "UPDATE", &format!("{SUPPORTED}Session-Expires: 90;refresher=uac\r\n"), "");
    assert_eq!(response.status(), Some(200));
    assert_eq!(header(&response, HeaderId::SessionExpires), "90;refresher=uac");
    world.advance(59_000);
    world.assert_silent();
    world.advance(2_000);
    assert_eq!(world.request().message.cseq().method.as_str(), "BYE");
    let small = Ua::new(&mut world, "alice", &alice.flow, crate::calls::ECHO);
    let mut small = small;
    let (headers, body) = both();
    let response = small.ask(&mut world, "INVITE", &format!("{headers}Session-Expires: 60\r\n"), &body);
    assert_eq!(response.status(), Some(422));
    assert_eq!(header(&response, HeaderId::MinSe), "90");
}

#[test]
fn a_dialog_ends_at_its_longest_duration_however_often_it_is_refreshed() {
    let mut config = config();
    config.ttl = edge_core::config::Ttl { absolute_ms: 1_500_000, ..Default::default() };
    let mut world = World::new(config);
    let (mut alice, _) = tls_call(&mut world);
    world.advance(1_000_000);
    let refreshed = alice.ask(&mut world, "UPDATE", &format!("{SUPPORTED}Session-Expires: 1800;refresher=uac\r\n"), "");
    assert_eq!(refreshed.status(), Some(200));
    world.advance(499_000);
    world.assert_silent();
    world.advance(2_000);
    let bye = world.request();
    assert_eq!(bye.message.cseq().method.as_str(), "BYE");
    assert!(text(&bye.message).contains("Longest duration reached"), "{}", text(&bye.message));
    world.reply(&alice.flow, &bye.message, 200, "");
    assert_eq!(world.core.stats().dialogs, 0);
}

#[test]
fn an_agent_narrows_how_long_its_dialogs_last_and_a_change_of_it_counts_at_once() {
    let lasts = |store_ms, agent_ms: Option<u64>| {
        let mut config = config();
        config.ttl = edge_core::config::Ttl { absolute_ms: store_ms, ..Default::default() };
        change_agent(&mut config, |agent| agent.session.max_duration_ms = agent_ms);
        let mut world = World::new(config);
        let (alice, _) = tls_call(&mut world);
        (world, alice)
    };
    for (store_ms, agent_ms) in [(1_500_000, Some(600_000)), (600_000, Some(1_500_000)), (600_000, None)] {
        let (mut world, alice) = lasts(store_ms, agent_ms);
        world.advance(599_000);
        world.assert_silent();
        world.advance(2_000);
        let bye = world.request();
        assert!(text(&bye.message).contains("Longest duration reached"), "{}", text(&bye.message));
        world.reply(&alice.flow, &bye.message, 200, "");
        assert_eq!(world.core.stats().dialogs, 0);
    }
    let (mut world, _) = lasts(1_500_000, None);
    world.advance(300_000);
    world.reconfigure(|config| change_agent(config, |agent| agent.session.max_duration_ms = Some(60_000)));
    world.advance(100);
    assert_eq!(world.request().message.cseq().method.as_str(), "BYE");
}

#[test]
fn obs_4_the_record_says_how_long_its_domain_retains_it() {
    let mut config = config();
    for domain in config.domains.values_mut() {
        std::sync::Arc::make_mut(domain).retention_ms = 3_600_000;
    }
    let mut world = World::new(config);
    tls_call(&mut world);
    assert_eq!(world.store.counts().kept, 1);
}

#[test]
fn neg_8_select_changes_the_active_set_in_the_middle_of_a_dialog() {
    let mut world = World::new(config());
    let flow = stream(Transport::Tls, 1, &["sip:alice@acme.example"]);
    let mut alice = Ua::new(&mut world, "alice", &flow, crate::calls::ECHO);
    alice.call(&mut world, &format!("{SUPPORTED}Content-Type: application/sdp\r\n"), crate::calls::SDP);
    let response = alice.ask(&mut world, "UPDATE", "MCP-Select: tools=\"pay@1\"\r\n", "");
    assert_eq!(response.status(), Some(200), "{}", text(&response));
    assert!(response.list_has(HeaderId::Supported, "mcp") && response.list_has(HeaderId::Supported, "x-mcp"));
    let capabilities = header(&response, HeaderId::McpCapabilities);
    assert!(capabilities.contains("pay@1") && !capabilities.contains("echo"), "{capabilities}");
    // What is not selected is not there any more.
    let response = alice.ask(&mut world, "INFO", MCP, &tool_call(1, "echo"));
    assert_eq!(response.status(), Some(200));
    let error = world.request();
    let body: serde_json::Value = serde_json::from_slice(&error.message.body()).unwrap();
    assert_eq!(body["error"]["code"], -32602, "{body}");
    world.reply(&flow, &error.message, 200, "");
    // Back again, by INFO without a body; then by an unknown tool (488) and a broken value (400).
    let response = alice.ask(&mut world, "INFO", "MCP-Select: tools=\"echo@1\"\r\n", "");
    assert_eq!(response.status(), Some(200));
    tool_over(&mut world, &mut alice, "INFO", "");
    assert_eq!(alice.ask(&mut world, "UPDATE", "MCP-Select: tools=\"none@1\"\r\n", "").status(), Some(488));
    assert_eq!(alice.ask(&mut world, "UPDATE", "MCP-Select: tools=\"echo@\"\r\n", "").status(), Some(400));
}

#[test]
fn neg_9_an_envelope_is_taken_in_a_re_invite_and_nowhere_else() {
    let mut world = World::new(config());
    let (mut alice, _) = tls_call(&mut world);
    for method in ["MESSAGE", "INFO", "UPDATE"] {
        let response = alice.ask(&mut world, method, MCP, crate::calls::OFFER);
        assert_eq!(response.status(), Some(400), "{method}: {}", text(&response));
    }
    let (headers, body) = both();
    let response = alice.ask(&mut world, "INVITE", &headers, &body.replace("echo@1", "pay@1"));
    assert_eq!(response.status(), Some(200), "{}", text(&response));
    assert!(text(&response).contains(r#""tools":["pay@1"]"#), "{}", text(&response));
    alice.send(&mut world, "ACK", "", "");
    world.advance(40_000);
    world.assert_silent();
}

#[test]
fn before_the_ack_a_dialog_serves_mcp_and_no_second_invite_and_after_its_end_nothing() {
    let mut world = World::new(config());
    let flow = stream(Transport::Tls, 1, &["sip:alice@acme.example"]);
    let mut alice = Ua::new(&mut world, "alice", &flow, crate::calls::ECHO);
    let (headers, body) = both();
    let response = alice.ask(&mut world, "INVITE", &headers, &body);
    alice.established(&response);
    // Accepted, not acknowledged.
    tool_over(&mut world, &mut alice, "INFO", "");
    let invite = alice.ask(&mut world, "INVITE", &headers, &body);
    assert_eq!(invite.status(), Some(500));
    assert!((0..=10).contains(&header(&invite, HeaderId::RetryAfter).parse::<u32>().unwrap()));
    alice.ack_refusal(&mut world, &invite);
    let cseq = alice.cseq;
    alice.cseq = 1;
    alice.send(&mut world, "ACK", "", "");
    alice.cseq = cseq;
    // Confirmed.
    assert_eq!(alice.ask(&mut world, "INVITE", &headers, &body).status(), Some(200));
    alice.send(&mut world, "ACK", "", "");
    assert_eq!(alice.ask(&mut world, "BYE", "", "").status(), Some(200));
    // Terminated.
    for method in ["INVITE", "INFO", "MESSAGE", "UPDATE"] {
        let (headers, body) = match method {
            "INVITE" => both(),
            _ => (MCP.to_owned(), tool_call(1, "echo")),
        };
        assert_eq!(alice.ask(&mut world, method, &headers, &body).status(), Some(481), "{method}");
    }
    assert_eq!(world.core.stats().dialogs, 0);
}
