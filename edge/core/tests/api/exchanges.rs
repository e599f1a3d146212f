//! Exchanges over SIP: many in flight while each side has one request open, and what is sent again.

use std::sync::Arc;

use edge_core::input::{BackendId, ConnId, Flow, Input, StoreHealth, Transport};
use session_store::op::StoreError;
use sip_proto::message::HeaderId;

use crate::calls::{ECHO, tls_call};
use crate::driver::*;
use crate::fleet::Fleet;
use crate::outage::{away, back};

fn exchange(n: usize) -> String {
    format!("MCP-Exchange: xxxxxxxxxxxxxxxxxxx{n:04};rel=caller\r\n")
}

/// 128 and 1000 calls in flight in one dialog. Neither side ever has more than one SIP request open, which is why they cannot overtake
/// each other; the results come in the order in which the tools are done.
#[test]
fn xch_6_many_calls_in_flight_and_one_sip_request_open() {
    for count in [128_usize, 1000] {
        let mut config = config();
        config.edge.limits.in_flight_per_session = count;
        let mut world = World::new(config);
        let (mut alice, _) = tls_call(&mut world);
        let flow = alice.flow.clone();
        let mut running: Vec<(BackendId, String)> = Vec::new();
        for n in 0..count {
            let headers = format!("{}{MCP}", exchange(n));
            let response = alice.ask(&mut world, "INFO", &headers, &tool_call(n as u64, "echo"));
            assert_eq!(response.status(), Some(200));
            let (id, _, body) = world.posted();
            running.push((id, body));
        }
        assert_eq!(world.core.stats().engine.exchanges, count);
        assert_eq!(world.core.stats().client_transactions, 0);
        // One more is an error in its exchange, not of the dialog.
        let headers = format!("{}{MCP}", exchange(count));
        let response = alice.ask(&mut world, "INFO", &headers, &tool_call(count as u64, "echo"));
        assert_eq!(response.status(), Some(200));
        let limited = world.request();
        assert!(text(&limited.message).contains("-31002"), "{}", text(&limited.message));
        world.reply(&flow, &limited.message, 200, "");
        let mut cseq = limited.message.cseq().seq;
        // 7 has no divisor in common with 128 or with 1000.
        for step in 0..count {
            let n = step * 7 % count;
            let (id, body) = &running[n];
            world.backend_answers(*id, &tool_result(&id_of(body)));
            let answer = world.request();
            assert_eq!(id_of(std::str::from_utf8(&answer.message.body()).unwrap()), n.to_string());
            assert_eq!(header(&answer.message, HeaderId::McpExchange), exchange(n)[14..].trim_end());
            assert!(answer.message.cseq().seq > cseq, "CSeq rises");
            cseq = answer.message.cseq().seq;
            world.reply(&flow, &answer.message, 200, "");
        }
        assert_eq!(world.core.stats().engine.exchanges, 0);
        world.assert_silent();
    }
}

/// RFC 3261 §12.2.2: another request of this dialog overtook ours on its way.
#[test]
fn xch_4_an_overtaken_answer_goes_again_with_a_fresh_cseq_and_the_same_exchange() {
    let mut world = World::new(config());
    let (mut alice, _) = tls_call(&mut world);
    let flow = alice.flow.clone();
    let headers = format!("{}{MCP}", exchange(1));
    assert_eq!(alice.ask(&mut world, "INFO", &headers, &tool_call(1, "echo")).status(), Some(200));
    let (id, _, body) = world.posted();
    world.backend_answers(id, &tool_result(&id_of(&body)));
    let mut last = world.request();
    for _ in 0..3 {
        world.reply(&flow, &last.message, 500, "");
        world.advance(400);
        let again = world.request();
        assert!(again.message.cseq().seq > last.message.cseq().seq);
        assert_eq!(again.message.cseq().method, last.message.cseq().method, "the same carrier");
        assert_eq!(again.message.body(), last.message.body());
        assert_eq!(header(&again.message, HeaderId::McpExchange), header(&last.message, HeaderId::McpExchange));
        last = again;
    }
    world.reply(&flow, &last.message, 200, "");
    world.advance(64_000);
    world.assert_silent();
    assert_eq!(world.core.stats().engine.deliveries, 0);
}

#[test]
fn a_peer_that_says_503_and_when_is_asked_then() {
    let mut world = World::new(config());
    let (mut alice, _) = tls_call(&mut world);
    let flow = alice.flow.clone();
    assert_eq!(alice.ask(&mut world, "INFO", MCP, &tool_call(1, "echo")).status(), Some(200));
    let (id, _, body) = world.posted();
    world.backend_answers(id, &tool_result(&id_of(&body)));
    let first = world.request();
    world.reply(&flow, &first.message, 503, "Retry-After: 3 (overload)\r\n");
    world.advance(2_900);
    world.assert_silent();
    world.advance(200);
    let again = world.request();
    assert_eq!(again.message.body(), first.message.body());
    world.reply(&flow, &again.message, 200, "");
    world.assert_silent();
}

fn tls(conn: u64) -> Arc<Flow> {
    stream(Transport::Tls, conn, &["sip:alice@acme.example"])
}

/// A MESSAGE out of a dialog at the first edge; the caller's connection breaks, and the same exchange comes to the second one.
fn moved(fleet: &mut Fleet) -> (Ua, BackendId, String) {
    let headers = format!("{}{MCP}", exchange(1));
    let (mut alice, id, body) = fleet.on(0, |world| {
        let mut alice = Ua::new(world, "alice", &tls(1), ECHO);
        assert_eq!(alice.ask(world, "MESSAGE", &headers, &tool_call(1, "echo")).status(), Some(200));
        let (id, _, body) = world.posted();
        world.input(Input::FlowClosed { conn: ConnId(1) });
        (alice, id, body)
    });
    alice.flow = tls(2);
    fleet.on(1, |world| {
        assert_eq!(alice.ask(world, "MESSAGE", &headers, &tool_call(1, "echo")).status(), Some(200));
        assert!(world.calls.is_empty(), "it runs at the first one");
    });
    (alice, id, body)
}

#[test]
fn a_repetition_out_of_a_dialog_moves_the_way_back_to_another_edge() {
    let mut fleet = Fleet::new(2);
    let (alice, id, body) = moved(&mut fleet);
    fleet.on(0, |world| world.backend_answers(id, &tool_result(&id_of(&body))));
    assert_eq!(fleet.said(0), Vec::<String>::new());
    let answer = fleet.edges[1].world.request();
    assert_eq!(answer.to, To::Flow(alice.flow.key.clone()));
    assert_eq!(header(&answer.message, HeaderId::InReplyTo), alice.call_id);
    assert!(text(&answer.message).contains(r#""result""#));
    fleet.on(1, |world| world.reply(&alice.flow, &answer.message, 200, ""));
    fleet.advance(40_000);
    fleet.assert_silent();
}

/// A MESSAGE out of a dialog at the first edge; the caller's connection breaks, and the second edge, which is without its store, refuses the
/// same exchange. The caller says nothing more.
fn refused_in_an_outage(fleet: &mut Fleet, tool: &str) -> (Ua, BackendId, String) {
    let headers = format!("{}{MCP}", exchange(1));
    let (mut alice, id, body) = fleet.on(0, |world| {
        let mut alice = Ua::new(world, "alice", &tls(1), ECHO);
        assert_eq!(alice.ask(world, "MESSAGE", &headers, &tool_call(1, tool)).status(), Some(200));
        let (id, _, body) = world.posted();
        world.input(Input::FlowClosed { conn: ConnId(1) });
        (alice, id, body)
    });
    alice.flow = tls(2);
    away(fleet, 1);
    fleet.on(1, |world| {
        world.input(Input::FlowOpened { flow: alice.flow.clone() });
        for _ in 0..2 {
            assert_eq!(alice.ask(world, "MESSAGE", &headers, &tool_call(1, tool)).status(), Some(503));
        }
    });
    (alice, id, body)
}

/// The only request that the second edge sent, on that connection.
fn answered_at(fleet: &mut Fleet, alice: &Ua) {
    let answers: Vec<Sent> = fleet.sent(1).into_iter().filter(|sent| sent.message.is_request()).collect();
    let [answer] = answers.as_slice() else { panic!("{answers:?}") };
    assert_eq!(answer.to, To::Flow(alice.flow.key.clone()));
    assert!(text(&answer.message).contains(r#""result""#));
    fleet.on(1, |world| world.reply(&alice.flow, &answer.message, 200, ""));
    fleet.advance(40_000);
    fleet.assert_silent();
    assert!(fleet.edges[1].world.calls.is_empty(), "nothing runs there");
}

#[test]
fn xch_6_a_repetition_that_an_outage_refused_moves_the_way_back_when_the_store_is_there_again() {
    let mut fleet = Fleet::new(2);
    let (alice, id, body) = refused_in_an_outage(&mut fleet, "pay");
    back(&mut fleet, 1, StoreHealth::Closed);
    fleet.advance(9_000);
    fleet.assert_silent();
    fleet.on(0, |world| world.backend_answers(id, &tool_result(&id_of(&body))));
    answered_at(&mut fleet, &alice);
}

#[test]
fn xch_6_an_answer_that_found_no_way_reaches_a_caller_whose_repetition_an_outage_refused() {
    for tool in ["pay", "echo"] {
        let mut fleet = Fleet::new(2);
        let (alice, id, body) = refused_in_an_outage(&mut fleet, tool);
        fleet.on(0, |world| world.backend_answers(id, &tool_result(&id_of(&body))));
        assert!(fleet.sent(0).iter().all(|sent| !sent.message.is_request()));
        back(&mut fleet, 1, StoreHealth::Closed);
        fleet.advance(9_000);
        answered_at(&mut fleet, &alice);
    }
}

#[test]
fn a_request_that_an_outage_refused_and_nobody_accepted_is_not_run_afterwards() {
    let mut fleet = Fleet::new(1);
    away(&mut fleet, 0);
    let headers = format!("{}{MCP}", exchange(1));
    fleet.on(0, |world| {
        let mut alice = Ua::new(world, "alice", &tls(2), ECHO);
        assert_eq!(alice.ask(world, "MESSAGE", &headers, &tool_call(1, "echo")).status(), Some(503));
    });
    back(&mut fleet, 0, StoreHealth::Closed);
    fleet.advance(60_000);
    fleet.assert_silent();
    assert!(fleet.edges[0].world.calls.is_empty());
    assert_eq!(fleet.edges[0].world.core.stats().engine.sessions, 0);
}

#[test]
fn out_of_a_dialog_the_adopter_runs_what_is_safe_again_and_answers_where_the_caller_is() {
    let mut fleet = Fleet::new(2);
    let (alice, ..) = moved(&mut fleet);
    fleet.kill(0);
    fleet.advance(8_000);
    let (id, body) = fleet.on(1, |world| {
        let (id, _, body) = world.posted();
        (id, body)
    });
    assert_ne!(id_of(&body), "1", "an id of ours");
    fleet.on(1, |world| world.backend_answers(id, &tool_result(&id_of(&body))));
    let answer = fleet.sent(1).into_iter().find(|sent| sent.message.is_request()).expect("never silence");
    assert_eq!(answer.to, To::Flow(alice.flow.key.clone()));
    assert_eq!(id_of(std::str::from_utf8(&answer.message.body()).unwrap()), "1");
    assert_eq!(header(&answer.message, HeaderId::McpExchange), exchange(1)[14..].trim_end());
    assert_eq!(header(&answer.message, HeaderId::InReplyTo), alice.call_id);
}

/// The reply to the write of the first try was lost, so its edge answered 503 and forgot it; the repetition is accepted by another edge, which
/// does not reach the first one, and then the store goes away for longer than the exchange may take.
#[test]
fn xch_6_a_repetition_that_waits_for_the_stores_word_outlives_an_outage() {
    let mut fleet = Fleet::new(2);
    let mut alice = fleet.on(0, |world| {
        let mut alice = Ua::new(world, "alice", &tls(1), ECHO);
        let known = format!("{}{MCP}", exchange(2));
        assert_eq!(alice.ask(world, "MESSAGE", &known, &tool_call(2, "echo")).status(), Some(200));
        let (id, _, body) = world.posted();
        world.backend_answers(id, &tool_result(&id_of(&body)));
        let answer = world.request();
        world.reply(&alice.flow, &answer.message, 200, "");
        alice
    });
    let headers = format!("{}{MCP}", exchange(1));
    fleet.on(0, |world| {
        world.mode = StoreMode::Held;
        alice.send(world, "MESSAGE", &headers, &tool_call(1, "echo"));
        let (op, operation) = world.held.pop_front().expect("it is being written");
        world.store.execute(world.now.wall.0, operation).expect("it is written");
        world.mode = StoreMode::Prompt;
        world.input(Input::Store { op, reply: Err(StoreError::Unavailable) });
        assert_eq!(world.response().status(), Some(503));
        world.input(Input::FlowClosed { conn: ConnId(1) });
    });
    fleet.mesh_is_cut = true;
    alice.flow = tls(2);
    fleet.on(1, |world| {
        assert_eq!(alice.ask(world, "MESSAGE", &headers, &tool_call(1, "echo")).status(), Some(200));
    });
    for index in 0..2 {
        away(&mut fleet, index);
    }
    fleet.advance(60_000);
    fleet.mesh_is_cut = false;
    for index in 0..2 {
        back(&mut fleet, index, StoreHealth::Closed);
    }
    fleet.advance(4_000);
    assert!(fleet.edges[0].world.calls.is_empty(), "its caller was told that nothing was taken");
    let (id, _, body) = fleet.edges[1].world.posted();
    fleet.on(1, |world| world.backend_answers(id, &tool_result(&id_of(&body))));
    answered_at(&mut fleet, &alice);
}
