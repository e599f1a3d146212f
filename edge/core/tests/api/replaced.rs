//! Another server answers for the store than before, and lacks what was acknowledged last in class `Memory`: each edge finds it by itself,
//! and what one of them runs is not run again by one that was faster.

use edge_core::input::{BackendId, ConnId, Input, StoreHealth, Transport};
use session_store::Durability;
use sip_proto::message::HeaderId;

use crate::calls::ECHO;
use crate::driver::*;
use crate::emptied::{answers, called, headers, repeated};
use crate::fleet::Fleet;
use crate::outage::{away, back};

/// So much later the edge that runs the call is there, too.
const LATER: u64 = 1_200;

/// `pay` runs at the first edge, and the replica that takes over has not heard of it; the caller's connection is gone.
fn lost(fleet: &mut Fleet, method: &str) -> (Ua, BackendId, String) {
    let mut alice = match method {
        "MESSAGE" => fleet.on(0, |world| {
            let flow = stream(Transport::Tls, 1, &["sip:alice@acme.example"]);
            let mut alice = Ua::new(world, "alice", &flow, ECHO);
            // Its nonce is known to the replica.
            alice.ask(world, "MESSAGE", &headers().replace("0001", "0002"), &tool_call(7, "echo"));
            let (id, _, body) = world.posted();
            world.backend_answers(id, &tool_result(&id_of(&body)));
            let answer = world.request();
            world.reply(&alice.flow, &answer.message, 200, "");
            alice
        }),
        _ => called(fleet),
    };
    let replica = fleet.store.clone();
    let (id, body) = fleet.on(0, |world| {
        assert_eq!(alice.ask(world, method, &headers(), &tool_call(1, "pay")).status(), Some(200));
        let (id, _, body) = world.posted();
        world.input(Input::FlowClosed { conn: ConnId(1) });
        (id, body)
    });
    fleet.store = replica;
    (alice, id, body)
}

fn replaced(fleet: &mut Fleet, index: usize) {
    fleet.on(index, |world| world.input(Input::StoreReplaced));
}

/// Its call is answered, once, and nothing else ran.
fn ran_once(fleet: &mut Fleet, alice: &Ua, id: BackendId, body: &str, what: &str) {
    fleet.on(0, |world| world.backend_answers(id, &tool_result(&id_of(body))));
    let answers = answers(fleet, alice);
    assert!(fleet.edges.iter().all(|edge| edge.world.calls.is_empty()), "{what}: it ran again");
    assert_eq!(answers.len(), 1, "{what}: {answers:?}");
}

#[test]
fn an_edge_that_follows_first_waits_for_the_one_that_runs_the_call() {
    for method in ["INFO", "MESSAGE"] {
        let mut fleet = Fleet::new(2);
        let (mut alice, id, body) = lost(&mut fleet, method);
        for index in 0..2 {
            away(&mut fleet, index);
        }
        fleet.advance(2_000);
        replaced(&mut fleet, 1);
        back(&mut fleet, 1, StoreHealth::Recovering { percent: 100 });
        alice.flow = stream(Transport::Tls, 7, &["sip:alice@acme.example"]);
        fleet.advance(LATER / 2);
        let refusal = fleet.on(1, |world| alice.ask(world, method, &headers(), &tool_call(1, "pay")));
        assert_eq!(refusal.status(), Some(503), "{method}");
        assert!(!fleet.edges[1].world.core.stats().degraded, "{method}: for nothing else");
        let wait: u64 = header(&refusal, HeaderId::RetryAfter).parse().unwrap();
        assert!((2..=3).contains(&wait), "{method}: {wait}");
        fleet.advance(LATER / 2);
        replaced(&mut fleet, 0);
        back(&mut fleet, 0, StoreHealth::Recovering { percent: 100 });
        repeated(&mut fleet, &mut alice, 1, method);
        ran_once(&mut fleet, &alice, id, &body, method);
    }
}

/// Of several servers one was replaced: the others went on, and no outage is told.
#[test]
fn what_runs_is_written_anew_where_no_circuit_opened() {
    for method in ["INFO", "MESSAGE"] {
        let mut fleet = Fleet::new(2);
        let (mut alice, id, body) = lost(&mut fleet, method);
        replaced(&mut fleet, 1);
        replaced(&mut fleet, 0);
        let (_, refused) = repeated(&mut fleet, &mut alice, 1, method);
        assert!(refused > 0, "{method}");
        ran_once(&mut fleet, &alice, id, &body, method);
    }
}

/// In the other classes the server that takes over has all that was acknowledged; an edge alone has it itself.
#[test]
fn nobody_waits_where_nothing_can_be_missing() {
    for (class, edges, wanted) in [
        (Durability::Memory, 2, 503),
        (Durability::Replica, 2, 200),
        (Durability::Fsync, 2, 200),
        (Durability::Memory, 1, 200),
    ] {
        let mut config = config();
        for domain in config.domains.values_mut() {
            std::sync::Arc::make_mut(domain).durability = class;
        }
        let mut fleet = Fleet::with(edges, config);
        let mut alice = called(&mut fleet);
        replaced(&mut fleet, 0);
        let status = fleet.on(0, |world| alice.ask(world, "INFO", &headers(), &tool_call(1, "pay")).status());
        assert_eq!(status, Some(wanted), "{class:?}, {edges}");
        fleet.advance(2_000);
        let page = headers().replace("0001", "0003");
        let status = fleet.on(0, |world| alice.ask(world, "INFO", &page, &tool_call(2, "echo")).status());
        assert_eq!(status, Some(200), "{class:?}, {edges}: later");
    }
}
