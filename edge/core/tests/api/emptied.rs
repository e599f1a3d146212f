//! The store came back empty while exchanges were in flight: what is not declared safe runs once, and its caller hears one answer.

use edge_core::input::{BackendId, ConnId, Input, StoreHealth, Transport};
use edge_core::node::NodeInput;
use session_store::op::StoreOp;
use sip_proto::message::HeaderId;

use crate::calls::{ECHO, both};
use crate::driver::*;
use crate::fleet::Fleet;
use crate::outage::{away, back};

const EXCHANGE: &str = "MCP-Exchange: xxxxxxxxxxxxxxxxxxx0001;rel=caller\r\n";

pub fn headers() -> String {
    format!("{EXCHANGE}{MCP}")
}

/// A call of alice in which she may use `pay`.
pub fn called(fleet: &mut Fleet) -> Ua {
    fleet.on(0, |world| {
        let flow = stream(Transport::Tls, 1, &["sip:alice@acme.example"]);
        let mut alice = Ua::new(world, "alice", &flow, ECHO);
        let (headers, body) = both();
        alice.call(world, &headers, &body.replace("none@1", "pay@1"));
        alice
    })
}

/// What the outage costs: both edges lose the store, and it comes back empty.
fn emptied(fleet: &mut Fleet) {
    for index in 0..2 {
        away(fleet, index);
    }
    fleet.advance(4_000);
    fleet.empty_the_store();
    for index in 0..2 {
        back(fleet, index, StoreHealth::Recovering { percent: 100 });
    }
}

/// `pay` is running at the first edge; the caller's connection is gone.
fn running(fleet: &mut Fleet, method: &str) -> (Ua, BackendId, String) {
    let mut alice = match method {
        "MESSAGE" => fleet.on(0, |world| {
            let flow = stream(Transport::Tls, 1, &["sip:alice@acme.example"]);
            Ua::new(world, "alice", &flow, ECHO)
        }),
        _ => called(fleet),
    };
    let (id, body) = fleet.on(0, |world| {
        assert_eq!(alice.ask(world, method, &headers(), &tool_call(1, "pay")).status(), Some(200));
        let (id, _, body) = world.posted();
        world.input(Input::FlowClosed { conn: ConnId(1) });
        (id, body)
    });
    (alice, id, body)
}

/// Takes what the edges say to the peer, which says 200 to all of it: the answers to the exchange.
fn hear(fleet: &mut Fleet, alice: &Ua, answers: &mut Vec<String>) {
    for index in 0..fleet.edges.len() {
        for sent in fleet.sent(index).into_iter().filter(|sent| sent.message.is_request()) {
            assert_eq!(header(&sent.message, HeaderId::McpExchange), EXCHANGE[14..].trim_end());
            answers.push(String::from_utf8(sent.message.body().to_vec()).unwrap());
            fleet.on(index, |world| world.reply(&alice.flow, &sent.message, 200, ""));
        }
    }
}

/// Repeats until it is taken, on a new connection; what was answered until then, and how often it was not taken.
pub fn repeated(fleet: &mut Fleet, alice: &mut Ua, at: usize, method: &str) -> (Vec<String>, usize) {
    alice.flow = stream(Transport::Tls, 7, &["sip:alice@acme.example"]);
    let (mut answers, mut refused) = (Vec::new(), 0);
    loop {
        hear(fleet, alice, &mut answers);
        let status = fleet.on(at, |world| alice.ask(world, method, &headers(), &tool_call(1, "pay")).status());
        if status == Some(200) {
            return (answers, refused);
        }
        assert_eq!(status, Some(503));
        refused += 1;
        assert!(refused < 40, "it is taken in the end");
        fleet.advance(500);
    }
}

/// What is answered from now on.
pub fn answers(fleet: &mut Fleet, alice: &Ua) -> Vec<String> {
    let mut answers = Vec::new();
    for _ in 0..100 {
        hear(fleet, alice, &mut answers);
        fleet.advance(500);
    }
    answers
}

fn runs_once(method: &str, at: usize, answered_meanwhile: bool) {
    let mut fleet = Fleet::new(2);
    let (mut alice, id, body) = running(&mut fleet, method);
    if answered_meanwhile {
        away(&mut fleet, 0);
        fleet.on(0, |world| world.backend_answers(id, &tool_result(&id_of(&body))));
    }
    emptied(&mut fleet);
    let (mut told, refused) = repeated(&mut fleet, &mut alice, at, method);
    assert!(refused > 0, "not before what is held was written");
    if !answered_meanwhile {
        fleet.on(0, |world| world.backend_answers(id, &tool_result(&id_of(&body))));
    }
    told.extend(answers(&mut fleet, &alice));
    for edge in &fleet.edges {
        assert!(edge.world.calls.is_empty(), "{method} at {at}: it ran again: {:?}", edge.world.calls);
    }
    assert!(!told.is_empty(), "{method} at {at}: silence");
    assert!(told.iter().all(|answer| *answer == told[0] && answer.contains(r#""result""#)), "{told:?}");
    // The journal may give what it keeps to the repetition, too: the same bytes.
    assert!(told.len() <= 1 + usize::from(answered_meanwhile), "{told:?}");
    for edge in &fleet.edges {
        let stats = edge.world.core.stats();
        assert_eq!((stats.engine.exchanges, stats.engine.deliveries, stats.degraded), (0, 0, false));
    }
}

#[test]
fn in_a_dialog_a_repetition_at_the_same_edge_finds_its_exchange() {
    runs_once("INFO", 0, false);
}

#[test]
fn in_a_dialog_a_repetition_at_another_edge_finds_its_exchange() {
    runs_once("INFO", 1, false);
}

#[test]
fn out_of_a_dialog_a_repetition_at_the_same_edge_finds_its_exchange() {
    runs_once("MESSAGE", 0, false);
}

#[test]
fn out_of_a_dialog_a_repetition_at_another_edge_finds_its_exchange() {
    runs_once("MESSAGE", 1, false);
}

#[test]
fn an_answer_that_waited_for_the_store_is_found_too() {
    for method in ["INFO", "MESSAGE"] {
        for at in [0, 1] {
            runs_once(method, at, true);
        }
    }
}

/// No breaker opened: the content went between two renewals.
#[test]
fn a_repetition_before_the_edge_has_noticed_runs_nothing() {
    for method in ["INFO", "MESSAGE"] {
        let mut fleet = Fleet::new(2);
        let (mut alice, id, body) = running(&mut fleet, method);
        fleet.empty_the_store();
        repeated(&mut fleet, &mut alice, 0, method);
        fleet.on(0, |world| world.backend_answers(id, &tool_result(&id_of(&body))));
        assert_eq!(answers(&mut fleet, &alice).len(), 1, "{method}");
        assert!(fleet.edges.iter().all(|edge| edge.world.calls.is_empty()), "{method}");
    }
}

/// The dialog is one edge's, the exchange another one's, and that one comes back later.
#[test]
fn an_exchange_that_another_edge_holds_than_the_dialog_is_waited_for() {
    let mut fleet = Fleet::new(2);
    let mut alice = called(&mut fleet);
    alice.flow = stream(Transport::Tls, 4, &["sip:alice@acme.example"]);
    let (id, body) = fleet.on(1, |world| {
        assert_eq!(alice.ask(world, "INFO", &headers(), &tool_call(1, "pay")).status(), Some(200));
        let (id, _, body) = world.posted();
        world.input(Input::FlowClosed { conn: ConnId(4) });
        (id, body)
    });
    for index in 0..2 {
        away(&mut fleet, index);
    }
    fleet.advance(4_000);
    fleet.empty_the_store();
    back(&mut fleet, 0, StoreHealth::Recovering { percent: 100 });
    fleet.advance(3_000);
    back(&mut fleet, 1, StoreHealth::Recovering { percent: 100 });
    repeated(&mut fleet, &mut alice, 0, "INFO");
    fleet.on(1, |world| world.backend_answers(id, &tool_result(&id_of(&body))));
    let answers = answers(&mut fleet, &alice);
    assert!(fleet.edges.iter().all(|edge| edge.world.calls.is_empty()), "it ran again");
    assert_eq!(answers.len(), 1);
}

/// A replica takes over that had not heard of the latest writes: the name of its content is the same, so nobody takes it for empty.
#[test]
fn a_failover_that_lost_the_latest_writes_runs_nothing_again() {
    for at in [0, 1] {
        let mut fleet = Fleet::new(2);
        let mut alice = called(&mut fleet);
        let replica = fleet.store.clone();
        let (id, body) = fleet.on(0, |world| {
            assert_eq!(alice.ask(world, "INFO", &headers(), &tool_call(1, "pay")).status(), Some(200));
            let (id, _, body) = world.posted();
            world.input(Input::FlowClosed { conn: ConnId(1) });
            (id, body)
        });
        for index in 0..2 {
            away(&mut fleet, index);
        }
        fleet.advance(2_000);
        fleet.store = replica;
        for index in 0..2 {
            back(&mut fleet, index, StoreHealth::Recovering { percent: 100 });
        }
        repeated(&mut fleet, &mut alice, at, "INFO");
        fleet.on(0, |world| world.backend_answers(id, &tool_result(&id_of(&body))));
        let answers = answers(&mut fleet, &alice);
        assert!(fleet.edges.iter().all(|edge| edge.world.calls.is_empty()), "at {at}: it ran again");
        assert_eq!(answers.len(), 1, "at {at}: {answers:?}");
    }
}

/// An exchange before its dialog, both before anything new.
#[test]
fn exchanges_are_written_anew_before_their_dialogs() {
    let mut fleet = Fleet::new(2);
    running(&mut fleet, "INFO");
    fleet.edges[0].world.operations.clear();
    emptied(&mut fleet);
    fleet.advance(3_000);
    let at = |wanted: fn(&StoreOp) -> bool| fleet.edges[0].world.operations.iter().position(wanted).unwrap();
    let exchange = at(|op| matches!(op, StoreOp::OpenExchange { .. }));
    let dialog = at(|op| matches!(op, StoreOp::RestoreDialog { .. }));
    assert!(exchange < dialog);
    // They are ours in the new life: who dies now leaves them to somebody.
    fleet.kill(0);
    fleet.advance(10_000);
    assert_eq!(fleet.edges[1].world.core.stats().adopted.get("exchange"), Some(&1));
    fleet.order(1, NodeInput::Leave);
}

/// An INVITE that takes longer than ten seconds (a callee that rings): its copy at another living edge takes nothing over.
#[test]
fn a_copy_of_a_slow_invite_is_no_takeover() {
    let mut fleet = Fleet::new(2);
    let flow = udp(5062);
    let bytes = fleet.alone(0, |world| {
        let mut alice = Ua::new(world, "alice", &flow, ECHO);
        let (headers, body) = both();
        alice.send(world, "INVITE", &headers, &body);
        let challenge = world.response();
        alice.ack_refusal(world, &challenge);
        alice.challenged(&challenge);
        world.mode = StoreMode::Held;
        let bytes = alice.build(world, "INVITE", &headers, &body);
        world.arrive(&flow, bytes.clone());
        assert!(world.release(), "the guard");
        bytes
    });
    fleet.advance(12_000);
    fleet.sent(0);
    fleet.on(1, |world| world.arrive(&flow, bytes));
    fleet.advance(1_000);
    let said = fleet.said(1);
    assert!(said.iter().all(|status| status == "100"), "{said:?}");
    fleet.on(0, |world| while world.release() {});
    assert!(fleet.said(0).contains(&"200".to_owned()));
    assert_eq!(fleet.edges[0].world.core.stats().dialogs + fleet.edges[1].world.core.stats().dialogs, 1);
}
