//! How what the edge says reaches the caller, and what happens where it does not.

use bytes::Bytes;
use edge_core::config::AgentBackend;
use edge_core::effect::BackendAction;
use edge_core::input::{BackendEvent, ConnId, Input, Transport};
use session_store::op::{StoreError, StoreOp, StoreReply};
use sip_proto::message::HeaderId;

use crate::calls::{ECHO, SUPPORTED, both, tls_call};
use crate::driver::*;

/// A result that does not fit a datagram.
fn large_result(id: &str) -> String {
    tool_result(id).replace("hi", &"x".repeat(2000))
}

#[test]
fn xch_1_an_answer_over_1300_bytes_goes_by_tcp_and_is_31006_where_that_fails() {
    for works in [true, false] {
        let mut world = World::new(config());
        let flow = udp(5062);
        let mut alice = Ua::new(&mut world, "alice", &flow, ECHO);
        assert_eq!(alice.ask(&mut world, "MESSAGE", MCP, &tool_call(1, "echo")).status(), Some(200));
        let (id, _, body) = world.posted();
        world.backend_answers(id, &large_result(&id_of(&body)));
        let large = world.request();
        assert_eq!(large.to, To::Address(Transport::Tcp, flow.remote));
        assert!(large.message.top_via().transport() == "TCP" && large.message.bytes().len() > 1300);
        if works {
            let tcp = stream(Transport::Tcp, 5, &[]);
            world.reply(&tcp, &large.message, 200, "");
            world.advance(64_000);
            world.assert_silent();
            continue;
        }
        world.input(Input::SendFailed { tag: large.tag.unwrap() });
        let error = world.request();
        assert_eq!(error.to, To::Flow(flow.key.clone()));
        let value: serde_json::Value = serde_json::from_slice(&error.message.body()).unwrap();
        assert_eq!((value["id"].clone(), value["error"]["code"].clone()), (1.into(), (-31006).into()), "{value}");
    }
}

#[test]
fn a_lost_message_comes_again_and_its_answer_ends_it() {
    let mut world = World::new(config());
    let flow = udp(5062);
    let mut alice = Ua::new(&mut world, "alice", &flow, ECHO);
    assert_eq!(alice.ask(&mut world, "MESSAGE", MCP, &tool_call(1, "echo")).status(), Some(200));
    let (id, _, body) = world.posted();
    world.backend_answers(id, &tool_result(&id_of(&body)));
    let first = world.request();
    world.advance(500);
    let again = world.request();
    assert_eq!(again.message, first.message);
    // A stray answer changes nothing; from another address neither.
    let forged = text(&first.message).replace("z9hG4bK", "z9hG4bKx");
    let forged = sip_proto::message::Message::parse(forged.into(), sip_proto::message::Transportation::Stream).unwrap();
    world.reply(&flow, &forged, 200, "");
    let mut elsewhere = edge_core::input::Flow::clone(&flow);
    elsewhere.remote = "203.0.113.9:5060".parse().unwrap();
    world.reply(&std::sync::Arc::new(elsewhere), &first.message, 200, "");
    world.advance(1000);
    assert_eq!(world.request().message, first.message);
    let dropped = world.core.stats().dropped;
    assert_eq!((dropped["stray response"], dropped["response from another address"]), (1, 1));
    world.reply(&flow, &first.message, 200, "");
    world.advance(64_000);
    world.assert_silent();
}

#[test]
fn a_closed_stream_leads_to_the_registered_contact() {
    let mut world = World::new(config());
    let tls = stream(Transport::Tls, 1, &["sip:alice@acme.example"]);
    let other = stream(Transport::Tls, 2, &["sip:alice@acme.example"]);
    let mut registered = Ua::new(&mut world, "alice", &other, "sip:acme.example");
    let built = registered.build(&mut world, "REGISTER", "", "").replacen(
        "To: <sip:acme.example>",
        "To: <sip:alice@acme.example>",
        1,
    );
    world.arrive(&other, built);
    assert_eq!(world.status(), 200);
    let mut alice = Ua::new(&mut world, "alice", &tls, ECHO);
    assert_eq!(alice.ask(&mut world, "MESSAGE", MCP, &tool_call(1, "echo")).status(), Some(200));
    let (id, _, body) = world.posted();
    world.input(Input::FlowClosed { conn: ConnId(1) });
    world.backend_answers(id, &tool_result(&id_of(&body)));
    let answer = world.request();
    assert_eq!(answer.to, To::Flow(other.key.clone()));
    assert!(answer.message.request_uri().unwrap().starts_with("sip:alice@198.51.100.7"));
    // Nobody registered: nothing is sent, nothing is kept.
    let mut world = World::new(config());
    let mut alice = Ua::new(&mut world, "alice", &tls, ECHO);
    assert_eq!(alice.ask(&mut world, "MESSAGE", MCP, &tool_call(1, "echo")).status(), Some(200));
    let (id, _, body) = world.posted();
    world.input(Input::FlowClosed { conn: ConnId(1) });
    world.backend_answers(id, &tool_result(&id_of(&body)));
    world.advance(60_000);
    world.assert_silent();
    assert_eq!(world.core.stats().engine.deliveries, 0);
}

/// An agent of the legacy era, initialized over `ua`.
fn legacy(world: &mut World, ua: &mut Ua, method: &str) {
    let initialize = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"roots":{}},"clientInfo":{"name":"t","version":"1"}}}"#;
    assert_eq!(ua.ask(world, method, MCP, initialize).status(), Some(200));
    let (id, _, body) = world.posted();
    world.input(Input::Backend { id, event: BackendEvent::Head { status: 200, session: Some("s1".into()) } });
    let result = format!(
        r#"{{"jsonrpc":"2.0","id":{},"result":{{"protocolVersion":"2025-11-25","capabilities":{{"tools":{{}}}},"serverInfo":{{"name":"s","version":"1"}}}}}}"#,
        id_of(&body)
    );
    world.input(Input::Backend { id, event: BackendEvent::Message { body: Bytes::from(result), event_id: None } });
    world.input(Input::Backend { id, event: BackendEvent::Done });
    let answer = world.request();
    let flow = ua.flow.clone();
    world.reply(&flow, &answer.message, 200, "");
}

#[test]
fn xch_5_a_legacy_server_asks_the_caller_in_a_dialog_and_out_of_one() {
    for in_dialog in [true, false] {
        let mut config = config();
        change_agent(&mut config, |a| a.backend = AgentBackend::McpHttp { revisions: vec!["2025-11-25".into()] });
        let mut world = World::new(config);
        let flow = stream(Transport::Tls, 1, &["sip:alice@acme.example"]);
        let mut alice = Ua::new(&mut world, "alice", &flow, ECHO);
        let method = if in_dialog { "INFO" } else { "MESSAGE" };
        if in_dialog {
            let (headers, body) = both();
            alice.call(&mut world, &headers, &body);
        }
        legacy(&mut world, &mut alice, method);
        let initialized = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        assert_eq!(alice.ask(&mut world, method, MCP, initialized).status(), Some(200));
        // The GET stream is open before the notification is forwarded.
        let (listen, call) = world.calls.pop_front().expect("no stream");
        assert!(matches!(call.action, BackendAction::Listen { .. }), "{call:?}");
        world.input(Input::Backend { id: listen, event: BackendEvent::Head { status: 200, session: None } });
        let (id, _, _) = world.posted();
        world.input(Input::Backend { id, event: BackendEvent::Head { status: 202, session: None } });
        world.input(Input::Backend { id, event: BackendEvent::Done });
        let roots = Bytes::from_static(br#"{"jsonrpc":"2.0","id":"r-1","method":"roots/list"}"#);
        world.input(Input::Backend { id: listen, event: BackendEvent::Message { body: roots, event_id: None } });
        let asked = world.request();
        assert_eq!(asked.message.cseq().method.as_str(), method);
        assert!(text(&asked.message).contains("roots/list"));
        if in_dialog {
            assert_eq!(asked.message.call_id(), alice.call_id);
        } else {
            assert_eq!(header(&asked.message, HeaderId::InReplyTo), alice.call_id);
        }
        world.reply(&flow, &asked.message, 200, "");
        // The caller answers with the id that it was asked with.
        let asked_id = id_of(std::str::from_utf8(&asked.message.body()).unwrap());
        let exchange = header(&asked.message, HeaderId::McpExchange);
        let extra = if exchange.is_empty() { MCP.to_owned() } else { format!("MCP-Exchange: {exchange}\r\n{MCP}") };
        let answer = format!(r#"{{"jsonrpc":"2.0","id":{asked_id},"result":{{"roots":[]}}}}"#);
        assert_eq!(alice.ask(&mut world, method, &extra, &answer).status(), Some(200));
        let (_, call, posted) = world.posted();
        assert!(posted.contains(r#""id":"r-1""#) && posted.contains("roots"), "{posted}");
        assert_eq!(call.session.as_deref(), Some("s1"));
    }
}

#[test]
fn a_store_that_fails_is_503_and_nothing_is_forwarded() {
    let mut world = World::new(config());
    let (mut alice, _) = tls_call(&mut world);
    let flow = alice.flow.clone();
    world.mode = StoreMode::Failing(StoreError::Unavailable);
    let retry = |response: &sip_proto::message::Message| {
        assert_eq!(response.status(), Some(503), "{}", text(response));
        assert!((1..=5).contains(&header(response, HeaderId::RetryAfter).parse::<u32>().unwrap()));
    };
    let (headers, body) = both();
    let mut other = Ua::new(&mut world, "alice", &flow, ECHO);
    let response = other.ask(&mut world, "INVITE", &headers, &body);
    retry(&response);
    other.ack_refusal(&mut world, &response);
    let mut out = Ua::new(&mut world, "alice", &flow, ECHO);
    let response = out.ask(&mut world, "MESSAGE", MCP, &tool_call(1, "echo"));
    retry(&response);
    for method in ["INFO", "MESSAGE"] {
        let response = alice.ask(&mut world, method, MCP, &tool_call(1, "echo"));
        retry(&response);
    }
    let response = alice.ask(&mut world, "UPDATE", SUPPORTED, "");
    retry(&response);
    let registrar = "sip:acme.example";
    let mut ua = Ua::new(&mut world, "alice", &flow, registrar);
    let built = ua.build(&mut world, "REGISTER", "", "").replacen(
        &format!("To: <{registrar}>"),
        "To: <sip:alice@acme.example>",
        1,
    );
    world.arrive(&flow, built);
    let response = world.response();
    retry(&response);
    assert!(world.calls.is_empty());
    // BYE wins over the outage.
    assert_eq!(alice.ask(&mut world, "BYE", "", "").status(), Some(200));
    assert_eq!(world.core.stats().dialogs, 0);
    assert!(world.core.stats().store_failures > 5);
    // The tombstone is tried until the store takes it.
    world.advance(3_000);
    world.mode = StoreMode::Prompt;
    world.advance(10_000);
    let buried = world.operations.iter().find_map(|operation| match operation {
        StoreOp::Bury { dialog } => Some(*dialog),
        _ => None,
    });
    let dialog = buried.unwrap();
    let now = world.now.wall.0;
    assert_eq!(world.store.execute(now, StoreOp::ReadDialog { dialog }), Ok(StoreReply::Gone));
}

#[test]
fn another_life_of_the_edge_serves_the_dialog_from_the_store() {
    let mut world = World::new(config());
    let (mut alice, _) = tls_call(&mut world);
    let store = std::mem::take(&mut world.store);
    let config = edge_core::config::Config::clone(&world.config);
    let now = world.now;
    let mut second = World::with_store(config, session_store::record::Owner { epoch: 2, boot: 100, ..OWNER }, store);
    second.now = now;
    // A new connection, as the old one died with the process.
    alice.flow = stream(Transport::Tls, 9, &["sip:alice@acme.example"]);
    let response = alice.ask(&mut second, "INFO", MCP, &tool_call(3, "echo"));
    assert_eq!(response.status(), Some(200), "{}", text(&response));
    let (id, _, body) = second.posted();
    second.backend_answers(id, &tool_result(&id_of(&body)));
    let answer = second.request();
    assert_eq!(answer.to, To::Flow(alice.flow.key.clone()));
    assert_eq!(answer.message.from_tag(), alice.to_tag.as_deref());
    let flow = alice.flow.clone();
    second.reply(&flow, &answer.message, 200, "");
    // Somebody else is still nobody here.
    let mut mallory = alice.clone();
    mallory.flow = stream(Transport::Tls, 10, &["sip:bob@acme.example"]);
    assert_eq!(mallory.ask(&mut second, "BYE", "", "").status(), Some(403));
    assert_eq!(alice.ask(&mut second, "BYE", "", "").status(), Some(200));
    second.advance(120_000);
    assert_eq!(second.counts().dialogs, 0);
}

#[test]
fn a_revoked_caller_is_hung_up_at_once() {
    let mut world = World::new(config());
    let (mut alice, _) = tls_call(&mut world);
    world.reconfigure(|config| {
        change_agent(config, |a| a.policies = vec![policy("agent", vec![allow("all", None), deny("none", None, None)])])
    });
    let bye = world.request();
    assert_eq!(bye.message.cseq().method.as_str(), "BYE");
    assert!(header(&bye.message, HeaderId::Reason).contains("Revoked"));
    let flow = alice.flow.clone();
    world.reply(&flow, &bye.message, 200, "");
    assert_eq!(alice.ask(&mut world, "INFO", MCP, &tool_call(1, "echo")).status(), Some(481));
    assert_eq!(world.core.stats().dialogs, 0);
}

#[test]
fn after_many_calls_every_table_is_as_at_the_start() {
    let mut world = World::new(config());
    for n in 0..100u64 {
        let flow = if n % 2 == 0 {
            udp(6000 + u16::try_from(n).unwrap())
        } else {
            stream(Transport::Tls, n, &["sip:alice@acme.example"])
        };
        let mut alice = Ua::new(&mut world, "alice", &flow, ECHO);
        let (headers, body) = both();
        if n % 5 == 4 {
            let response = alice.ask(&mut world, "MESSAGE", MCP, &tool_call(n, "echo"));
            assert_eq!(response.status(), Some(200));
            let (id, _, body) = world.posted();
            world.backend_answers(id, &tool_result(&id_of(&body)));
            let answer = world.request();
            world.reply(&flow, &answer.message, 200, "");
        } else {
            alice.call(&mut world, &headers, &body);
            let response = alice.ask(&mut world, "INFO", MCP, &tool_call(n, "echo"));
            assert_eq!(response.status(), Some(200), "{}", text(&response));
            let (id, _, body) = world.posted();
            world.backend_answers(id, &tool_result(&id_of(&body)));
            let answer = world.request();
            if n % 3 != 0 {
                world.reply(&flow, &answer.message, 200, "");
            }
            if n % 4 == 0 {
                assert_eq!(alice.ask(&mut world, "BYE", "", "").status(), Some(200));
            }
        }
        if let edge_core::input::FlowKey::Stream(conn) = flow.key {
            world.input(Input::FlowClosed { conn });
        }
        world.sent.clear();
    }
    world.advance(3 * 3600 * 1000);
    let stats = world.core.stats();
    let tables = [
        stats.dialogs,
        stats.server_transactions,
        stats.client_transactions,
        stats.store_operations,
        stats.flows,
        stats.routes,
        stats.timers,
        stats.engine.exchanges,
        stats.engine.sessions,
        stats.engine.backend_calls,
        stats.engine.deliveries,
    ];
    assert_eq!(tables, [0; 11], "{stats:?}");
    let counts = world.counts();
    assert_eq!(counts, session_store::memory::Counts::default(), "{counts:?}");
}

#[test]
fn a_peer_whose_connection_is_gone_is_found_by_its_contact_with_naptr_srv_and_addresses() {
    use edge_core::effect::{DnsAnswer, DnsQuestion, Naptr, Srv};
    let mut world = World::new(config());
    let name = "ua.example".to_owned();
    let naptr = Naptr {
        order: 1,
        preference: 1,
        flags: "s".into(),
        service: "SIP+D2T".into(),
        replacement: "_sip._tcp.ua.example".into(),
    };
    let srv = Srv { priority: 1, weight: 1, port: 5099, target: "host.ua.example".into() };
    world.dns = vec![
        (DnsQuestion::Naptr(name.clone()), DnsAnswer::Naptr(vec![naptr])),
        (DnsQuestion::Srv("_sip._tcp.ua.example".into()), DnsAnswer::Srv(vec![srv])),
        (DnsQuestion::Address("host.ua.example".into()), DnsAnswer::Address(vec!["203.0.113.5".parse().unwrap()])),
    ];
    for exists in [true, false] {
        let flow = stream(Transport::Tls, if exists { 1 } else { 2 }, &["sip:alice@acme.example"]);
        let mut alice = Ua::new(&mut world, "alice", &flow, ECHO);
        let (headers, body) = both();
        let host = if exists { "ua.example" } else { "nowhere.example" };
        let built = alice.build(&mut world, "INVITE", &headers, &body);
        let built = built.replacen(
            &format!("Contact: <sip:alice@{};transport=tls>", flow.remote),
            &format!("Contact: <sip:alice@{host}>"),
            1,
        );
        world.arrive(&flow, built);
        let response = world.response();
        alice.established(&response);
        alice.send(&mut world, "ACK", "", "");
        assert_eq!(alice.ask(&mut world, "INFO", MCP, &tool_call(1, "echo")).status(), Some(200));
        let (id, _, body) = world.posted();
        world.backend_answers(id, &tool_result(&id_of(&body)));
        let first = world.request();
        assert_eq!(first.to, To::Flow(flow.key.clone()));
        let edge_core::input::FlowKey::Stream(conn) = flow.key else { unreachable!() };
        world.input(Input::FlowClosed { conn });
        if exists {
            let second = world.request();
            assert_eq!(second.to, To::Address(Transport::Tcp, "203.0.113.5:5099".parse().unwrap()));
            assert_eq!(second.message.body(), first.message.body());
            assert!(second.message.cseq().seq > first.message.cseq().seq);
            let mut back = edge_core::input::Flow::clone(&stream(Transport::Tcp, 50, &[]));
            back.remote = "203.0.113.5:5099".parse().unwrap();
            world.reply(&std::sync::Arc::new(back), &second.message, 200, "");
        }
        world.assert_silent();
    }
    // A caller who may come back is waited for, and not for ever.
    world.advance(60_000);
    world.assert_silent();
    assert_eq!(world.core.stats().lookups, 0);
    assert_eq!(world.core.stats().engine.deliveries, 0);
}

#[test]
fn a_request_of_ours_that_comes_back_is_482_and_a_fault_on_a_stream_closes_it() {
    let mut world = World::new(config());
    let flow = stream(Transport::Tls, 1, &["sip:alice@acme.example"]);
    let mut alice = Ua::new(&mut world, "alice", &flow, ECHO);
    assert_eq!(alice.ask(&mut world, "MESSAGE", MCP, &tool_call(1, "echo")).status(), Some(200));
    let (id, _, body) = world.posted();
    world.backend_answers(id, &tool_result(&id_of(&body)));
    let ours = world.request();
    world.arrive(&flow, text(&ours.message));
    assert_eq!(world.status(), 482);
    // More hops than Max-Forwards ever allows.
    let mut bob = Ua::new(&mut world, "alice", &flow, ECHO);
    let hops = "Via: SIP/2.0/TLS h.example;branch=z9hG4bKh\r\n".repeat(70);
    let built = bob.build(&mut world, "MESSAGE", &hops, "");
    world.arrive(&flow, built);
    assert_eq!(world.status(), 483);
    world.closed.clear();
    let mut bob = Ua::new(&mut world, "alice", &flow, ECHO);
    let without = bob.build(&mut world, "MESSAGE", MCP, "").replacen("Content-Length: 0\r\n", "", 1);
    world.arrive(&flow, without);
    assert_eq!(world.status(), 400);
    assert_eq!(world.closed, [ConnId(1)]);
}

#[test]
fn a_copy_of_a_message_at_another_edge_runs_no_tool_again() {
    let mut world = World::new(config());
    let flow = stream(Transport::Tls, 1, &["sip:alice@acme.example"]);
    let mut alice = Ua::new(&mut world, "alice", &flow, ECHO);
    let message = alice.build(&mut world, "MESSAGE", MCP, &tool_call(1, "pay"));
    world.arrive(&flow, message.clone());
    assert_eq!(world.status(), 200);
    let (id, _, body) = world.posted();
    world.backend_answers(id, &tool_result(&id_of(&body)));
    let first = world.request();
    let store = std::mem::take(&mut world.store);
    let mut second = World::with_store(config(), session_store::record::Owner { epoch: 2, boot: 5, ..OWNER }, store);
    second.now = world.now;
    second.arrive(&flow, message);
    assert_eq!(second.status(), 200);
    assert!(second.calls.is_empty(), "{:?}", second.calls);
    assert_eq!(second.request().message.body(), first.message.body());
}

#[test]
fn advertised_names_are_written_without_a_port_and_old_tags_stay_valid_under_a_new_key() {
    let mut config = config();
    config.edge.advertise = edge_core::config::Advertise::Name("sip.acme.example".into());
    let mut world = World::new(config);
    let (mut alice, response) = tls_call(&mut world);
    let contact = response.contacts().iter().next().unwrap().uri().to_owned();
    assert!(contact.ends_with("@sip.acme.example;transport=tls;gr"), "{contact}");
    world.reconfigure(|config| config.token_keys.insert(0, token_key(2)));
    assert_eq!(alice.ask(&mut world, "INFO", MCP, &tool_call(1, "echo")).status(), Some(200));
    let (id, _, body) = world.posted();
    world.backend_answers(id, &tool_result(&id_of(&body)));
    let answer = world.request();
    assert_eq!(answer.message.from_tag(), alice.to_tag.as_deref());
    assert_eq!(answer.message.top_via().host_str(), "sip.acme.example");
    assert_eq!(answer.message.top_via().port(), None);
    assert_eq!(alice.ask(&mut world, "BYE", "", "").status(), Some(200));
    // Without the old key the tag names nothing any more.
    let (mut late, _) = tls_call(&mut world);
    world.reconfigure(|config| config.token_keys = vec![token_key(3)]);
    assert_eq!(late.ask(&mut world, "BYE", "", "").status(), Some(481));
}
