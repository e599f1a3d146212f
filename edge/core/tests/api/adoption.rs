//! An edge dies: what it left goes on elsewhere; and an edge that was stopped or cut off does nothing that somebody else does now.

use edge_core::config::{DrainConfig, DrainStrategy};
use edge_core::input::{ConnId, FlowKey, Input, Transport};
use edge_core::node::NodeInput;
use session_store::op::{StoreError, StoreOp};
use sip_proto::message::HeaderId;

use crate::any_edge::{called, invited};
use crate::calls::{ECHO, both};
use crate::driver::*;
use crate::fleet::Fleet;

/// Until the lease of a dead edge is over and its remains are claimed.
const ADOPTION_MS: u64 = 8_000;

#[test]
fn a_2xx_without_its_ack_is_repeated_by_the_adopter_until_the_ack() {
    let mut fleet = Fleet::new(2);
    let mut alice = invited(&mut fleet);
    fleet.kill(0);
    fleet.advance(ADOPTION_MS);
    let said = fleet.said(1);
    assert!(!said.is_empty() && said.iter().all(|s| s == "200"), "{said:?}");
    fleet.on(1, |world| alice.send(world, "ACK", "", ""));
    fleet.advance(70_000);
    fleet.assert_silent();
    assert_eq!(fleet.on(1, |world| alice.ask(world, "BYE", "", "")).status(), Some(200));
    assert_eq!(fleet.edges[1].world.core.stats().dialogs, 0);
}

#[test]
fn a_2xx_that_nobody_acknowledges_ends_with_a_bye_of_the_adopter() {
    let mut fleet = Fleet::new(2);
    let alice = invited(&mut fleet);
    fleet.kill(0);
    fleet.advance(ADOPTION_MS + 33_000);
    let sent = fleet.sent(1);
    let byes: Vec<_> = sent.iter().filter(|s| s.message.is_request()).collect();
    assert!(!byes.is_empty());
    assert!(byes.iter().all(|s| s.message.cseq() == byes[0].message.cseq()), "one BYE and its copies");
    fleet.on(1, |world| world.reply(&alice.flow, &byes[0].message, 200, ""));
    fleet.advance(70_000);
    fleet.assert_silent();
    assert_eq!(fleet.edges[1].world.core.stats().dialogs, 0);
}

/// RFC 3261 §14.2, §13.3.1.4: that of a re-INVITE, too.
#[test]
fn a_2xx_to_a_re_invite_without_its_ack_is_repeated_by_the_adopter_until_the_ack() {
    for acknowledged in [true, false] {
        let mut fleet = Fleet::new(2);
        let mut alice = called(&mut fleet);
        let (headers, body) = both();
        let first = fleet.on(0, |world| alice.ask(world, "INVITE", &headers, &body));
        assert_eq!(first.status(), Some(200));
        fleet.kill(0);
        fleet.advance(ADOPTION_MS);
        let sent = fleet.sent(1);
        assert!(!sent.is_empty() && sent.iter().all(|s| s.message.bytes() == first.bytes()), "{sent:?}");
        if acknowledged {
            fleet.on(1, |world| alice.send(world, "ACK", "", ""));
            fleet.advance(70_000);
            fleet.assert_silent();
            assert_eq!(fleet.on(1, |world| alice.ask(world, "BYE", "", "")).status(), Some(200));
        } else {
            fleet.advance(40_000);
            assert!(fleet.said(1).contains(&"BYE".to_owned()));
        }
        assert_eq!(fleet.edges[1].world.core.stats().dialogs, 0);
    }
}

#[test]
fn a_re_invite_that_was_acknowledged_is_not_repeated_by_the_adopter() {
    let mut fleet = Fleet::new(2);
    let mut alice = called(&mut fleet);
    let (headers, body) = both();
    for (invited, acknowledged) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        assert_eq!(fleet.on(invited, |world| alice.ask(world, "INVITE", &headers, &body)).status(), Some(200));
        fleet.on(acknowledged, |world| alice.send(world, "ACK", "", ""));
    }
    fleet.advance(600);
    fleet.said(0);
    fleet.kill(0);
    fleet.advance(70_000);
    assert_eq!(fleet.said(1), Vec::<String>::new());
    assert_eq!(fleet.on(1, |world| alice.ask(world, "BYE", "", "")).status(), Some(200));
}

#[test]
fn an_ack_at_another_edge_of_a_dead_owner_is_enough() {
    let mut fleet = Fleet::new(2);
    let mut alice = invited(&mut fleet);
    fleet.kill(0);
    fleet.on(1, |world| alice.send(world, "ACK", "", ""));
    fleet.advance(6_000);
    let mut repeated = fleet.said(1);
    // Until its lease ended, the mesh said that it is not there.
    repeated.dedup();
    assert!(repeated.is_empty(), "{repeated:?}");
    fleet.advance(70_000);
    fleet.assert_silent();
    assert_eq!(fleet.edges[1].world.core.stats().adopted.get("dialog"), Some(&1));
}

#[test]
fn a_session_timer_goes_on_at_the_adopter() {
    let mut fleet = Fleet::new(3);
    let flow = udp(5062);
    fleet.on(0, |world| {
        let mut alice = Ua::new(world, "alice", &flow, ECHO);
        let (headers, body) = both();
        let headers = headers.replace("Supported: mcp, timer", "Supported: mcp");
        alice.call(world, &headers, &body)
    });
    fleet.kill(0);
    fleet.advance(899_000);
    fleet.assert_silent();
    fleet.advance(2_000);
    let (first, second) = (fleet.sent(1), fleet.sent(2));
    assert!(first.is_empty() != second.is_empty(), "one of them, and only one");
    let update = first.into_iter().chain(second).next().unwrap();
    assert_eq!(update.message.cseq().method.as_str(), "INVITE", "what the peer allows was not written down");
}

#[test]
fn a_bye_of_a_dead_edge_is_sent_again_with_a_higher_cseq() {
    let mut fleet = Fleet::new(2);
    let alice = invited(&mut fleet);
    fleet.advance(33_000);
    let first = fleet.sent(0).into_iter().find(|s| s.message.is_request()).unwrap().message;
    assert_eq!(first.cseq().method.as_str(), "BYE");
    fleet.kill(0);
    fleet.advance(ADOPTION_MS);
    let again = fleet.sent(1).into_iter().find(|s| s.message.is_request()).unwrap().message;
    assert_eq!(again.cseq().method.as_str(), "BYE");
    assert!(again.cseq().seq > first.cseq().seq);
    // The peer had heard the first one.
    fleet.on(1, |world| world.reply(&alice.flow, &again, 481, ""));
    fleet.advance(70_000);
    fleet.assert_silent();
    assert_eq!(fleet.edges[1].world.core.stats().dialogs, 0);
}

/// The first write of the adopter has no answer: it asks again, and nothing is buried that was not said (sip.md, section 7).
#[test]
fn a_bye_that_the_adopter_owes_is_said_when_the_store_answers_again() {
    let mut fleet = Fleet::new(2);
    let alice = invited(&mut fleet);
    fleet.advance(33_000);
    assert!(fleet.said(0).contains(&"BYE".to_owned()));
    fleet.kill(0);
    fleet.on(1, |world| world.mode = StoreMode::Failing(StoreError::Unavailable));
    fleet.advance(ADOPTION_MS);
    assert_eq!(fleet.edges[1].world.core.stats().adopted.get("dialog"), Some(&1));
    assert_eq!(fleet.said(1), Vec::<String>::new());
    fleet.on(1, |world| world.mode = StoreMode::Prompt);
    fleet.advance(1_000);
    let sent = fleet.sent(1);
    let bye = sent.first().expect("a BYE").message.clone();
    assert_eq!(bye.cseq().method.as_str(), "BYE");
    fleet.on(1, |world| world.reply(&alice.flow, &bye, 200, ""));
    fleet.advance(70_000);
    fleet.assert_silent();
    assert_eq!(fleet.edges[1].world.core.stats().dialogs, 0);
}

/// An INVITE over UDP whose edge was killed after its guard was written.
fn unanswered(fleet: &mut Fleet) -> Ua {
    let alice = unanswered_by(fleet);
    fleet.kill(0);
    alice
}

/// An INVITE over UDP whose guard is written; the record with the 2xx is held.
fn unanswered_by(fleet: &mut Fleet) -> Ua {
    let flow = udp(5062);
    fleet.on(0, |world| {
        let mut alice = Ua::new(world, "alice", &flow, ECHO);
        let (headers, body) = both();
        alice.send(world, "INVITE", &headers, &body);
        let challenge = world.response();
        alice.ack_refusal(world, &challenge);
        alice.challenged(&challenge);
        world.mode = StoreMode::Held;
        alice.send(world, "INVITE", &headers, &body);
        assert!(world.release(), "the guard");
        alice
    })
}

#[test]
fn an_invite_without_an_answer_is_finished_by_the_adopter() {
    let mut fleet = Fleet::new(2);
    let mut alice = unanswered(&mut fleet);
    fleet.advance(ADOPTION_MS);
    let sent = fleet.sent(1);
    let answer = sent.iter().find(|s| s.message.status() == Some(200)).expect("an answer");
    assert_eq!(answer.to, To::Flow(alice.flow.key.clone()), "to the source, as if it came now");
    alice.established(&answer.message);
    fleet.on(1, |world| alice.send(world, "ACK", "", ""));
    assert_eq!(fleet.on(1, |world| alice.ask(world, "INFO", "", "")).status(), Some(200));
    fleet.advance(70_000);
    fleet.assert_silent();
}

/// The write of the first try was lost; its caller has the 2xx of the second one when that is known.
#[test]
fn an_invite_that_its_own_edge_adopts_is_not_refused_by_its_first_try() {
    let mut fleet = Fleet::new(1);
    let mut alice = unanswered_by(&mut fleet);
    let (lost, operation) = fleet.edges[0].world.held.pop_front().expect("the 2xx is being written");
    assert!(matches!(operation, StoreOp::AnswerCall { .. }), "{operation:?}");
    fleet.edges[0].world.mode = StoreMode::Prompt;
    fleet.edges[0].has_store = false;
    fleet.advance(8_000);
    fleet.edges[0].has_store = true;
    fleet.advance(6_000);
    assert!(fleet.edges[0].membership.owner.epoch > 1);
    let answer = fleet.sent(0).into_iter().find(|s| s.message.status() == Some(200)).expect("an answer");
    alice.established(&answer.message);
    fleet.on(0, |world| alice.send(world, "ACK", "", ""));
    fleet.on(0, |world| world.input(Input::Store { op: lost, reply: Err(StoreError::Unavailable) }));
    assert_eq!(fleet.on(0, |world| alice.ask(world, "INFO", "", "")).status(), Some(200));
    let operations = &fleet.edges[0].world.operations;
    assert!(!operations.iter().any(|op| matches!(op, StoreOp::RejectCall { .. })), "{operations:?}");
}

#[test]
fn a_cancel_of_an_invite_whose_edge_died_is_200_and_487_here() {
    let mut fleet = Fleet::new(2);
    let mut alice = unanswered(&mut fleet);
    fleet.on(1, |world| alice.send(world, "CANCEL", "", ""));
    assert_eq!(fleet.said(1), ["200", "487"]);
    fleet.advance(ADOPTION_MS + 70_000);
    fleet.assert_silent();
    assert_eq!(fleet.edges[1].world.core.stats().dialogs, 0);
}

#[test]
fn an_invite_again_at_another_edge_after_the_death_gets_its_answer_once() {
    let mut fleet = Fleet::new(2);
    let mut alice = unanswered(&mut fleet);
    fleet.advance(ADOPTION_MS);
    let first = fleet.sent(1).into_iter().find(|s| s.message.status() == Some(200)).unwrap().message;
    alice.established(&first);
    assert_eq!(fleet.edges[1].world.core.stats().dialogs, 1);
    fleet.on(1, |world| alice.send(world, "ACK", "", ""));
    assert_eq!(fleet.on(1, |world| alice.ask(world, "BYE", "", "")).status(), Some(200));
    fleet.advance(200_000);
    let counts = fleet.on(1, World::counts);
    assert_eq!((counts.dialogs, counts.guards), (0, 0));
}

#[test]
fn an_exchange_in_flight_is_answered_by_the_adopter() {
    let mut fleet = Fleet::new(2);
    let mut alice = fleet.on(0, |world| {
        let flow = stream(Transport::Tls, 1, &["sip:alice@acme.example"]);
        let mut alice = Ua::new(world, "alice", &flow, ECHO);
        let (headers, body) = both();
        alice.call(world, &headers, &body.replace("none@1", "pay@1"));
        assert_eq!(alice.ask(world, "INFO", MCP, &tool_call(1, "pay")).status(), Some(200));
        world.posted();
        alice
    });
    fleet.kill(0);
    alice.flow = stream(Transport::Tls, 2, &["sip:alice@acme.example"]);
    fleet.on(1, |world| assert_eq!(alice.ask(world, "INFO", "", "").status(), Some(200)));
    fleet.advance(ADOPTION_MS);
    let answer = fleet.sent(1).into_iter().find(|s| s.message.is_request()).expect("an answer, never silence");
    assert!(text(&answer.message).contains("-31001"), "{}", text(&answer.message));
    assert_eq!(answer.to, To::Flow(alice.flow.key.clone()));
}

#[test]
fn a_stopped_and_resumed_owner_does_nothing() {
    let mut fleet = Fleet::new(2);
    let mut alice = invited(&mut fleet);
    fleet.edges[0].stopped = true;
    fleet.advance(ADOPTION_MS);
    assert!(!fleet.said(1).is_empty(), "the adopter repeats the 2xx");
    // The process goes on where it was: its timers are overdue, its lease is over.
    fleet.edges[0].stopped = false;
    let now = fleet.edges[0].world.now;
    fleet.on(0, |world| {
        world.core.handle_timeout(now);
        world.pump();
    });
    fleet.advance(100);
    assert_eq!(fleet.said(0), Vec::<String>::new());
    fleet.advance(60_000);
    assert_eq!(fleet.said(0), Vec::<String>::new(), "no BYE of the fenced one, who took a new epoch meanwhile");
    assert!(fleet.edges[0].membership.owner.epoch > 1);
    let said = fleet.said(1);
    assert!(said.contains(&"BYE".to_owned()), "{said:?}");
    fleet.on(0, |world| alice.send(world, "ACK", "", ""));
}

#[test]
fn an_edge_that_cannot_renew_is_silent_after_3_5_seconds_and_goes_on_when_it_can() {
    let mut fleet = Fleet::new(1);
    let mut alice = invited(&mut fleet);
    fleet.edges[0].has_store = false;
    fleet.advance(4_000);
    assert!(fleet.edges[0].world.core.stats().fenced);
    fleet.said(0);
    fleet.advance(8_000);
    assert_eq!(fleet.said(0), Vec::<String>::new(), "nothing continuous without a lease");
    fleet.edges[0].has_store = true;
    fleet.advance(6_000);
    let said = fleet.said(0);
    assert!(said.iter().any(|s| s == "200"), "under the new epoch it has adopted its own: {said:?}");
    assert_eq!(fleet.edges[0].membership.owner.epoch, 2);
    fleet.on(0, |world| alice.send(world, "ACK", "", ""));
    fleet.advance(70_000);
    fleet.assert_silent();
}

#[test]
fn an_ack_that_was_heard_and_not_written_is_not_forgotten_by_the_next_life() {
    let mut fleet = Fleet::new(1);
    let mut alice = invited(&mut fleet);
    fleet.edges[0].has_store = false;
    fleet.on(0, |world| {
        world.mode = StoreMode::Held;
        alice.send(world, "ACK", "", "");
        world.held.clear();
        world.mode = StoreMode::Prompt;
    });
    fleet.advance(8_000);
    fleet.edges[0].has_store = true;
    fleet.advance(70_000);
    assert_eq!(fleet.said(0), Vec::<String>::new());
    assert_eq!(fleet.edges[0].membership.owner.epoch, 2);
    assert_eq!(fleet.edges[0].world.core.stats().dialogs, 1);
}

#[test]
fn a_restarted_edge_goes_on_with_its_own_at_once() {
    let mut fleet = Fleet::new(2);
    let alice = invited(&mut fleet);
    fleet.kill(0);
    fleet.restart(0);
    fleet.advance(600);
    assert_eq!(fleet.said(0), ["200", "200"], "adopted, and half a second later again");
    assert_eq!(fleet.said(1), Vec::<String>::new());
    assert!(alice.to_tag.is_some());
}

#[test]
fn an_anonymous_dialog_on_a_connection_ends_with_its_edge() {
    let mut config = config();
    change_domain(&mut config, |domain| {
        domain.policies = vec![policy("open", vec![allow("anyone", Some(vec![mcp_sip::policy::Peer::Anonymous]))])];
    });
    let mut fleet = Fleet::with(2, config);
    let flow = stream(Transport::Tls, 5, &[]);
    fleet.on(0, |world| {
        let mut ua = Ua::new(world, "stranger", &flow, ECHO);
        let (headers, body) = both();
        ua.call(world, &headers, &body)
    });
    fleet.kill(0);
    fleet.advance(ADOPTION_MS);
    assert_eq!(fleet.edges[1].world.core.stats().dialogs, 0);
    fleet.advance(40_000);
    assert_eq!(fleet.on(1, World::counts).dialogs, 0);
    fleet.assert_silent();
}

#[test]
fn a_drain_hands_over_without_a_bye_and_says_503_to_what_is_new() {
    let mut fleet = Fleet::new(2);
    let mut alice = called(&mut fleet);
    fleet.on(0, |world| world.input(Input::Drain));
    fleet.order(0, NodeInput::Drain);
    let other = udp(5070);
    let refused = fleet.on(0, |world| {
        let mut bob = Ua::new(world, "bob", &other, ECHO);
        (bob.ask(world, "OPTIONS", "", "").status(), bob.ask(world, "INVITE", "", "").status())
    });
    assert_eq!(refused, (Some(503), Some(503)));
    fleet.advance(500);
    assert!(fleet.edges[0].world.drained);
    assert_eq!(fleet.said(0), Vec::<String>::new(), "nobody is hung up");
    fleet.order(0, NodeInput::Leave);
    fleet.advance(3_000);
    assert!(fleet.edges[0].left);
    assert_eq!(fleet.edges[1].world.core.stats().adopted.get("dialog"), Some(&1));
    assert_eq!(fleet.on(1, |world| alice.ask(world, "INFO", "", "")).status(), Some(200));
    fleet.advance(4_000_000);
    assert_eq!(fleet.said(0), Vec::<String>::new(), "nothing continuous after it");
}

/// The first of two edges drains by that strategy with a call of alice.
fn drains(strategy: DrainStrategy, dialog_seconds: u64) -> (Fleet, Ua) {
    let mut config = config();
    config.edge.drain = DrainConfig { in_flight_seconds: 30, dialog_seconds, strategy };
    let mut fleet = Fleet::with(2, config);
    let alice = called(&mut fleet);
    fleet.on(0, |world| world.input(Input::Drain));
    fleet.order(0, NodeInput::Drain);
    (fleet, alice)
}

#[test]
fn a_drain_that_terminates_says_bye_though_another_edge_is_there() {
    let (mut fleet, alice) = drains(DrainStrategy::Terminate, 0);
    fleet.advance(100);
    let sent = fleet.sent(0);
    let byes: Vec<_> = sent.iter().filter(|sent| sent.message.is_request()).collect();
    let [bye] = byes[..] else { panic!("{sent:?}") };
    assert_eq!(bye.message.cseq().method.as_str(), "BYE");
    assert!(header(&bye.message, HeaderId::Reason).contains("503"), "{}", text(&bye.message));
    assert!(!fleet.edges[0].world.drained, "the peer has not answered yet");
    fleet.on(0, |world| world.reply(&alice.flow, &bye.message, 200, ""));
    fleet.advance(100);
    assert!(fleet.edges[0].world.drained);
    fleet.order(0, NodeInput::Leave);
    fleet.advance(ADOPTION_MS);
    assert_eq!(fleet.edges[1].world.core.stats().adopted.get("dialog"), None, "nothing is left to adopt");
    // Its tombstone stays for late messages.
    fleet.advance(200_000);
    assert_eq!(fleet.on(1, World::counts).dialogs, 0);
}

#[test]
fn a_drain_that_terminates_leaves_the_dialogs_of_others_alone() {
    let mut config = config();
    config.edge.drain = DrainConfig { in_flight_seconds: 30, dialog_seconds: 0, strategy: DrainStrategy::Terminate };
    let mut fleet = Fleet::with(2, config);
    let mut alice = called(&mut fleet);
    // The other edge serves a message of it, so it has a copy.
    assert_eq!(fleet.on(1, |world| alice.ask(world, "INFO", "", "")).status(), Some(200));
    assert_eq!(fleet.edges[1].world.core.stats().copies, 1);
    fleet.on(1, |world| world.input(Input::Drain));
    fleet.order(1, NodeInput::Drain);
    fleet.advance(500);
    assert!(fleet.edges[1].world.drained);
    assert_eq!(fleet.said(1), Vec::<String>::new());
    assert_eq!(fleet.edges[0].world.core.stats().dialogs, 1);
    assert_eq!(fleet.on(0, |world| alice.ask(world, "INFO", "", "")).status(), Some(200));
}

#[test]
fn a_drain_that_waits_for_the_end_hands_over_when_the_time_of_the_dialogs_is_over() {
    let (mut fleet, mut alice) = drains(DrainStrategy::WaitForEnd, 600);
    fleet.advance(590_000);
    assert!(!fleet.edges[0].world.drained, "the dialog may go on");
    assert_eq!(fleet.on(0, |world| alice.ask(world, "INFO", "", "")).status(), Some(200));
    fleet.advance(11_000);
    assert!(fleet.edges[0].world.drained);
    assert!(!fleet.said(0).contains(&"BYE".to_owned()));
    fleet.order(0, NodeInput::Leave);
    fleet.advance(3_000);
    assert_eq!(fleet.edges[1].world.core.stats().adopted.get("dialog"), Some(&1));
}

#[test]
fn a_timers_action_that_lost_a_race_goes_by_the_record() {
    let mut fleet = Fleet::new(1);
    let alice = invited(&mut fleet);
    // Somebody confirmed it, and this edge was not told.
    let key = fleet.alone(0, |world| {
        let made = world.operations.iter().find_map(|op| match op {
            StoreOp::AnswerCall { dialog, .. } => Some(*dialog),
            _ => None,
        });
        made.unwrap()
    });
    let now = fleet.edges[0].world.now;
    fleet.store.execute(now.wall.0, StoreOp::Confirm { dialog: key }).unwrap();
    fleet.advance(100_000);
    let said = fleet.said(0);
    assert!(said.iter().all(|s| s == "200"), "no BYE: {said:?}");
    assert_eq!(fleet.edges[0].world.core.stats().dialogs, 1);
    assert!(alice.to_tag.is_some());
}

/// An exchange out of a dialog (`in_dialog`: in one) on a connection of edge 0, which then does not reach the store any more.
fn answered_past_the_lease(in_dialog: bool, mesh_is_cut: bool) -> (Vec<Sent>, Vec<Sent>) {
    let mut fleet = Fleet::new(2);
    fleet.on(0, |world| {
        let flow = stream(Transport::Tls, 1, &["sip:alice@acme.example"]);
        world.input(Input::FlowOpened { flow: flow.clone() });
        let mut alice = Ua::new(world, "alice", &flow, ECHO);
        let (headers, body) = both();
        if in_dialog {
            alice.call(world, &headers, &body.replace("none@1", "pay@1"));
        }
        let method = if in_dialog { "INFO" } else { "MESSAGE" };
        assert_eq!(alice.ask(world, method, MCP, &tool_call(1, "pay")).status(), Some(200));
        world.posted();
    });
    fleet.edges[0].has_store = false;
    fleet.mesh_is_cut = mesh_is_cut;
    fleet.advance(ADOPTION_MS);
    (fleet.sent(0), fleet.sent(1))
}

#[test]
fn an_adopter_answers_on_the_connection_of_an_edge_that_is_cut_off_from_the_store() {
    for in_dialog in [false, true] {
        let (first, second) = answered_past_the_lease(in_dialog, false);
        let answer = first.iter().find(|s| s.message.is_request()).expect("an answer on the caller's own connection");
        assert!(text(&answer.message).contains("-31001"), "{}", text(&answer.message));
        assert_eq!(answer.to, To::Flow(FlowKey::Stream(ConnId(1))));
        assert!(second.is_empty());
    }
}

#[test]
fn an_edge_without_a_lease_that_is_not_reached_is_as_good_as_dead() {
    let (first, second) = answered_past_the_lease(true, true);
    assert!(first.is_empty());
    // The Contact is what is left.
    assert!(second.iter().any(|s| s.message.is_request() && matches!(s.to, To::Address(..))), "{second:?}");
}
