//! A stopped and resumed edge over SIP: the store's replies of before are read after its lease (sip.md, section 8, rule 2).

use edge_core::input::Transport;

use crate::any_edge::{called_by_tls, invited};
use crate::calls::ECHO;
use crate::driver::*;
use crate::fleet::Fleet;

/// What an edge is stopped for: longer than its lease.
const STOPPED_MS: u64 = 7_000;

/// The edge asks the store and is stopped; the store does what it was asked; the edge goes on and reads the reply first of all.
fn stops(fleet: &mut Fleet, edge: usize, work: impl FnOnce(&mut World)) {
    fleet.alone(edge, |world| {
        world.mode = StoreMode::Held;
        work(world);
        world.sent.clear();
    });
    let replies: Vec<_> = fleet.alone(edge, |world| {
        let now = world.now.wall.0;
        std::mem::take(&mut world.held)
            .into_iter()
            .map(|(op, operation)| (op, world.store.execute(now, operation)))
            .collect()
    });
    assert!(!replies.is_empty(), "it asked nothing");
    fleet.edges[edge].stopped = true;
    fleet.advance(STOPPED_MS);
    fleet.edges[edge].stopped = false;
    fleet.alone(edge, |world| {
        world.mode = StoreMode::Prompt;
        for (op, reply) in replies {
            world.input(edge_core::input::Input::Store { op, reply });
        }
    });
}

#[test]
fn sec_8_a_tool_call_whose_journal_was_written_before_the_stop_is_not_forwarded() {
    for in_dialog in [true, false] {
        for edges in [1, 2] {
            let mut fleet = Fleet::new(edges);
            let mut alice = if in_dialog {
                called_by_tls(&mut fleet, 0, 1)
            } else {
                let flow = stream(Transport::Tls, 1, &["sip:alice@acme.example"]);
                fleet.on(0, |world| Ua::new(world, "alice", &flow, ECHO))
            };
            let method = if in_dialog { "INFO" } else { "MESSAGE" };
            // Declared safe, so that its adopter runs it.
            stops(&mut fleet, 0, |world| alice.send(world, method, MCP, &tool_call(1, "echo")));
            assert!(fleet.edges[0].world.calls.is_empty(), "forwarded without a lease");
            assert_eq!(fleet.said(0), ["503"]);
            if edges == 2 {
                assert_eq!(fleet.edges[1].world.calls.len(), 1, "it was adopted, and runs once");
                fleet.advance(30_000);
                assert!(fleet.edges[0].world.calls.is_empty());
                assert_eq!(fleet.edges[1].world.calls.len(), 1);
            }
        }
    }
}

#[test]
fn sec_8_an_answer_is_not_delivered_by_an_edge_that_was_stopped_before_it_left() {
    let mut fleet = Fleet::new(2);
    let mut alice = called_by_tls(&mut fleet, 0, 1);
    let id = fleet.on(0, |world| {
        assert_eq!(alice.ask(world, "INFO", MCP, &tool_call(1, "echo")).status(), Some(200));
        world.posted().0
    });
    stops(&mut fleet, 0, |world| world.backend_answers(id, &tool_result("1")));
    assert_eq!(fleet.said(0), Vec::<String>::new(), "its adopter says it");
    assert_eq!(fleet.edges[1].world.calls.len(), 1, "its adopter has it: declared safe, so that it runs again");
    // What it has to say in the end goes over the connection that its caller has to the first one.
    fleet.advance(30_000);
    let said = fleet.sent(0);
    assert!(said.iter().all(|sent| text(&sent.message).contains("-31001")), "{said:?}");
}

#[test]
fn without_a_lease_no_tool_call_is_taken_and_what_the_call_needs_is() {
    let mut fleet = Fleet::new(1);
    let mut alice = called_by_tls(&mut fleet, 0, 1);
    let exchange = "MCP-Exchange: xxxxxxxxxxxxxxxxxxxxxx;rel=caller\r\n";
    let headers = format!("{exchange}{MCP}");
    fleet.edges[0].has_store = false;
    fleet.advance(4_000);
    fleet.alone(0, |world| {
        assert_eq!(alice.ask(world, "INFO", &headers, &tool_call(1, "echo")).status(), Some(503));
        assert!(world.calls.is_empty());
        assert_eq!(alice.ask(world, "INFO", "", "").status(), Some(200));
    });
    // With the lease the same exchange is a new request: it ran nowhere.
    fleet.edges[0].has_store = true;
    fleet.advance(4_000);
    fleet.alone(0, |world| {
        assert_eq!(alice.ask(world, "INFO", &headers, &tool_call(1, "echo")).status(), Some(200));
        world.posted();
        assert!(world.calls.is_empty());
        assert_eq!(alice.ask(world, "BYE", "", "").status(), Some(200));
    });
}

#[test]
fn sec_8_a_bye_of_the_session_timer_is_not_sent_by_an_edge_that_was_stopped() {
    let mut fleet = Fleet::new(2);
    let _alice = invited(&mut fleet);
    // No ACK comes: BYE is due after 64·T1.
    fleet.advance(31_900);
    fleet.said(0);
    stops(&mut fleet, 0, |world| world.advance(1_000));
    assert_eq!(fleet.said(0), Vec::<String>::new());
    fleet.advance(20_000);
    let said: Vec<String> = (0..2).flat_map(|edge| fleet.said(edge)).collect();
    assert!(said.contains(&"BYE".to_owned()), "somebody ends it: {said:?}");
    fleet.advance(4_000_000);
    assert_eq!(fleet.edges.iter().map(|edge| edge.world.core.stats().dialogs).sum::<usize>(), 0);
}

/// What the journal says of an answered request is said by any edge; a new request is another edge's.
#[test]
fn sec_8_without_a_lease_a_repetition_gets_the_stored_answer_and_nothing_else_is_taken() {
    for in_dialog in [false, true] {
        let mut fleet = Fleet::new(2);
        let named = |n: u8| format!("MCP-Exchange: xxxxxxxxxxxxxxxxxxxxx{n};rel=caller\r\n{MCP}");
        let flow = stream(Transport::Tls, 1, &["sip:alice@acme.example"]);
        let method = if in_dialog { "INFO" } else { "MESSAGE" };
        let mut alice = match in_dialog {
            true => fleet.on(0, |world| {
                let mut alice = Ua::new(world, "alice", &flow, ECHO);
                alice.call(world, &format!("{}{MCP}", crate::calls::SUPPORTED), &tool_call(1, "echo"));
                let (id, _, body) = world.posted();
                world.backend_answers(id, &tool_result(&id_of(&body)));
                let answer = world.request();
                world.reply(&flow, &answer.message, 200, "");
                alice
            }),
            false => fleet.on(0, |world| Ua::new(world, "alice", &flow, ECHO)),
        };
        fleet.on(0, |world| {
            assert_eq!(alice.ask(world, method, &named(1), &tool_call(7, "pay")).status(), Some(200));
            let (id, _, body) = world.posted();
            world.backend_answers(id, &tool_result(&id_of(&body)));
            let answer = world.request();
            world.reply(&flow, &answer.message, 200, "");
        });
        // The node of the second edge is cut off from the store, its core is not.
        fleet.edges[1].has_store = false;
        fleet.advance(4_000);
        alice.flow = stream(Transport::Tls, 9, &["sip:alice@acme.example"]);
        let flow = alice.flow.clone();
        fleet.on(1, |world| {
            assert_eq!(alice.ask(world, method, &named(1), &tool_call(7, "pay")).status(), Some(200));
            let answer = world.request();
            assert_eq!(answer.to, To::Flow(flow.key.clone()));
            assert!(text(&answer.message).contains(r#""result""#), "{}", text(&answer.message));
            world.reply(&flow, &answer.message, 200, "");
            for (n, tool) in [(2, "pay"), (3, "echo")] {
                let status = alice.ask(world, method, &named(n), &tool_call(7 + u64::from(n), tool)).status();
                assert_eq!(status, Some(503), "{tool}");
            }
            assert!(world.calls.is_empty());
        });
        // What was refused is in nobody's way.
        fleet.on(0, |world| {
            assert_eq!(alice.ask(world, method, &named(2), &tool_call(9, "pay")).status(), Some(200));
            assert_eq!(id_of(&world.posted().2), "9");
        });
    }
}
