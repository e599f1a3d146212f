//! Several edges: any one serves any request of either leg, and what a dead one left is finished.

use edge_core::input::{Input, StoreHealth};
use session_store::op::StoreOp;
use sip_proto::message::HeaderId;

use crate::driver::{DOMAIN, text};
use crate::fleet::*;

const INSTANCE: &str = ";+sip.instance=\"<urn:uuid:00000000-0000-1000-8000-00000000000A>\";reg-id=1";
const SUPPORTED: &str = "Supported: outbound\r\n";

#[test]
fn caller_agent_and_requests_are_each_with_another_edge() {
    let mut fleet = Fleet::new(3);
    let mut sam = Phone::new(&mut fleet, 1, "sam");
    sam.register(&mut fleet, INSTANCE, SUPPORTED);
    let mut alice = Phone::new(&mut fleet, 0, "alice");
    let (invite, _) = call(&mut fleet, &mut alice, &mut sam, "");
    assert!(fleet.mesh > 0);
    assert!(invite.call_id().len() > 20);
    // Each side speaks by the third edge, on a connection of its own there.
    let mut there = alice.moved(&mut fleet, 2);
    there.send(&mut fleet, "INFO", "Info-Package: other\r\nContent-Type: text/plain\r\n", "from alice");
    let info = fleet.take(&sam);
    assert_eq!((text(&info).starts_with("INFO "), &info.body()[..]), (true, &b"from alice"[..]));
    sam.reply(&mut fleet, &info, 200, "", "");
    assert_eq!(there.status(&mut fleet), 200);
    let mut sam_there = sam.moved(&mut fleet, 2);
    sam_there.send(&mut fleet, "MESSAGE", "Content-Type: text/plain\r\n", "from sam");
    // Alice spoke by the third edge last, so that is where she is.
    let message = fleet.take(&there);
    assert_eq!(&message.body()[..], b"from sam");
    there.reply(&mut fleet, &message, 200, "", "");
    assert_eq!(sam_there.status(&mut fleet), 200);
    // And one hangs up there.
    there.send(&mut fleet, "BYE", "", "");
    assert_eq!(there.status(&mut fleet), 200);
    let bye = fleet.take(&sam_there);
    assert!(text(&bye).starts_with("BYE "), "{}", text(&bye));
    sam_there.reply(&mut fleet, &bye, 200, "", "");
    fleet.assert_empty();
}

#[test]
fn a_cancel_at_another_edge_reaches_the_agent() {
    let mut fleet = Fleet::new(2);
    let mut sam = Phone::new(&mut fleet, 0, "sam");
    sam.register(&mut fleet, INSTANCE, SUPPORTED);
    let mut alice = Phone::new(&mut fleet, 0, "alice");
    alice.invite(&mut fleet, &format!("sip:sam@{DOMAIN}"), "", &sdp("a"));
    let invite = fleet.take(&sam);
    sam.called(&invite);
    sam.reply(&mut fleet, &invite, 180, "", "");
    assert_eq!(alice.status(&mut fleet), 180);
    let mut there = alice.moved(&mut fleet, 1);
    let cancel = there.request(&mut fleet, "CANCEL", "", "");
    let flow = there.flow.clone();
    fleet.arrive(1, &flow, cancel);
    assert_eq!(there.status(&mut fleet), 200);
    assert_eq!(alice.status(&mut fleet), 487);
    assert!(text(&fleet.take(&sam)).starts_with("CANCEL "));
}

#[test]
fn the_ack_of_a_late_offer_is_passed_on_by_another_edge_after_its_own_is_gone() {
    let mut fleet = Fleet::new(2);
    let mut sam = Phone::new(&mut fleet, 1, "sam");
    sam.register(&mut fleet, INSTANCE, SUPPORTED);
    let mut alice = Phone::new(&mut fleet, 0, "alice");
    alice.invite(&mut fleet, &format!("sip:sam@{DOMAIN}"), "", "");
    let invite = fleet.take(&sam);
    sam.called(&invite);
    sam.reply(&mut fleet, &invite, 200, "", &sdp("sam"));
    let answer = alice.response(&mut fleet);
    alice.established(&answer);
    fleet.kill(0);
    let mut there = alice.moved(&mut fleet, 1);
    there.send(&mut fleet, "ACK", "", &sdp("alice"));
    let ack = fleet.take(&sam);
    assert_eq!((text(&ack).starts_with("ACK "), ack.cseq().seq), (true, 1));
    assert_eq!(without_origin(&ack.body()), without_origin(sdp("alice").as_bytes()));
}

#[test]
fn a_dead_edges_call_ends_for_both_sides_wherever_they_go() {
    let mut fleet = Fleet::new(2);
    let mut sam = Phone::new(&mut fleet, 1, "sam");
    sam.register(&mut fleet, INSTANCE, SUPPORTED);
    let mut alice = Phone::new(&mut fleet, 0, "alice");
    call(&mut fleet, &mut alice, &mut sam, "");
    fleet.kill(0);
    fleet.adopt(0, 1);
    let mut there = alice.moved(&mut fleet, 1);
    there.send(&mut fleet, "INFO", "Content-Type: text/plain\r\n", "still here");
    let info = fleet.take(&sam);
    sam.reply(&mut fleet, &info, 200, "", "");
    assert_eq!(there.status(&mut fleet), 200);
    // The timers of both legs are the adopter's now: without a refresh both end.
    fleet.advance(3_700_000);
    let byes = fleet.sent.iter().filter(|(_, _, m)| text(m).starts_with("BYE ")).count();
    assert_eq!(byes, 2, "{:#?}", fleet.sent.iter().map(|(_, _, m)| text(m)).collect::<Vec<_>>());
}

#[test]
fn an_invite_whose_edge_dies_while_it_rings_is_answered_and_the_agent_stops_ringing() {
    let mut fleet = Fleet::new(2);
    let mut sam = Phone::new(&mut fleet, 1, "sam");
    sam.register(&mut fleet, INSTANCE, SUPPORTED);
    let mut alice = Phone::new(&mut fleet, 0, "alice");
    alice.invite(&mut fleet, &format!("sip:sam@{DOMAIN}"), "", &sdp("a"));
    let invite = fleet.take(&sam);
    sam.called(&invite);
    sam.reply(&mut fleet, &invite, 180, "", "");
    fleet.kill(0);
    fleet.sent.clear();
    fleet.adopt(0, 1);
    let cancel = fleet.take(&sam);
    assert!(text(&cancel).starts_with("CANCEL "));
    assert_eq!(cancel.top_via().branch(), invite.top_via().branch());
    // Her connection is gone with her edge; the answer goes where her Via says.
    let (_, to, answer) = fleet.sent.iter().find(|(_, _, m)| m.status().is_some_and(|s| s > 100)).cloned().unwrap();
    assert_eq!((answer.status(), value(&answer, HeaderId::CallId)), (Some(500), alice.call_id.clone()), "{to:?}");
    assert!(!value(&answer, HeaderId::RetryAfter).is_empty());
    // The agent accepted meanwhile: nobody wants it.
    sam.reply(&mut fleet, &invite, 200, "", &sdp("sam"));
    assert!(text(&fleet.take(&sam)).starts_with("ACK "));
    assert!(text(&fleet.take(&sam)).starts_with("BYE "));
}

/// RFC 3261 §12.2.1.1: one number, one request. Whether the call was written is not known to the edge that gives it up, and it is: the
/// edge that adopts it says BYE, too.
#[test]
fn a_leg_that_was_given_up_and_is_adopted_hears_no_number_twice() {
    let mut fleet = Fleet::new(2);
    let mut sam = Phone::new(&mut fleet, 1, "sam");
    sam.register(&mut fleet, INSTANCE, SUPPORTED);
    let mut alice = Phone::new(&mut fleet, 0, "alice");
    alice.invite(&mut fleet, &format!("sip:sam@{DOMAIN}"), "", &sdp("a"));
    let invite = fleet.take(&sam);
    sam.called(&invite);
    fleet.holding = true;
    sam.reply(&mut fleet, &invite, 200, "", &sdp("sam"));
    fleet.lose_reply();
    assert_eq!(alice.status(&mut fleet), 503);
    // Nor can it be taken back.
    fleet.fail_first();
    assert!(text(&fleet.take(&sam)).starts_with("ACK "));
    let given_up = fleet.take(&sam);
    assert!(text(&given_up).starts_with("BYE "));
    // What would have undone the write dies with its edge.
    fleet.kill(0);
    fleet.holding = false;
    fleet.adopt(0, 1);
    fleet.advance(33_000);
    let adopted = fleet.take(&sam);
    assert!(text(&adopted).starts_with("BYE "));
    assert_eq!(adopted.call_id(), given_up.call_id());
    assert_ne!(adopted.cseq().seq, given_up.cseq().seq);
}

/// The write of an answer had no reply, and a copy of the INVITE got the 2xx from another edge: the call stands, and its agent with it.
#[test]
fn an_agent_whose_call_another_edge_answered_is_not_ended() {
    let mut fleet = Fleet::new(2);
    let mut sam = Phone::new(&mut fleet, 0, "sam");
    sam.register(&mut fleet, INSTANCE, SUPPORTED);
    let mut alice = Phone::new(&mut fleet, 0, "alice");
    alice.target = format!("sip:sam@{DOMAIN}");
    alice.to = format!("<{}>", alice.target);
    let invite = alice.request(&mut fleet, "INVITE", "", &sdp("a"));
    let flow = alice.flow.clone();
    fleet.arrive(0, &flow, invite.clone());
    let called = fleet.take(&sam);
    sam.called(&called);
    fleet.holding = true;
    sam.reply(&mut fleet, &called, 200, "", &sdp("sam"));
    fleet.lose_reply();
    assert_eq!(alice.status(&mut fleet), 503);
    // What would take it back comes later than the copy.
    fleet.hold_back_first();
    let mut there = alice.moved(&mut fleet, 1);
    let flow = there.flow.clone();
    fleet.arrive(1, &flow, invite);
    fleet.release();
    let answer = there.response(&mut fleet);
    there.established(&answer);
    assert!(text(&fleet.take(&sam)).starts_with("ACK "));
    there.send(&mut fleet, "ACK", "", "");
    fleet.assert_silent();
    sam.send(&mut fleet, "BYE", "", "");
    assert_eq!(sam.status(&mut fleet), 200);
    // By the connection that the record knows.
    let bye = fleet.take(&alice);
    assert!(text(&bye).starts_with("BYE "), "{}", text(&bye));
    alice.reply(&mut fleet, &bye, 200, "", "");
    fleet.advance(60_000);
    fleet.assert_silent();
}

/// An edge that adopts its own remains begins anew: what the legs of the first try say then decides nothing any more.
#[test]
fn a_call_that_is_adopted_by_its_own_edge_is_set_up_once() {
    let mut fleet = Fleet::new(1);
    let mut sam = Phone::new(&mut fleet, 0, "sam");
    sam.register(&mut fleet, INSTANCE, SUPPORTED);
    let mut alice = Phone::new(&mut fleet, 0, "alice");
    alice.invite(&mut fleet, &format!("sip:sam@{DOMAIN}"), "", &sdp("a"));
    let first = fleet.take(&sam);
    sam.called(&first);
    sam.reply(&mut fleet, &first, 180, "", "");
    assert_eq!(alice.status(&mut fleet), 180);
    fleet.reborn(0);
    let said: Vec<_> = std::iter::from_fn(|| fleet.try_take(&sam)).collect();
    let again = said.iter().find(|m| text(m).starts_with("INVITE ")).expect("called anew").clone();
    assert!(said.iter().any(|m| text(m).starts_with("CANCEL ")), "{said:?}");
    sam.called(&again);
    sam.reply(&mut fleet, &again, 200, "", &sdp("sam"));
    let answer = alice.response(&mut fleet);
    alice.established(&answer);
    alice.send(&mut fleet, "ACK", "", "");
    sam.reply(&mut fleet, &first, 487, "", "");
    fleet.sent.clear();
    let rejected = fleet.operations.iter().any(|op| matches!(op, StoreOp::RejectCall { .. }));
    assert!(!rejected, "{:?}", fleet.operations);
    alice.send(&mut fleet, "INFO", "Content-Type: text/plain\r\n", "still here");
    assert!(text(&fleet.take(&sam)).starts_with("INFO "));
}

/// Its early dialog was adopted, too, and is no reason to forget that the 2xx waits for its ACK.
#[test]
fn rfc_3261_section_13_3_1_4_the_2xx_of_an_adopted_call_with_an_early_dialog_is_repeated() {
    let mut fleet = Fleet::new(1);
    let mut sam = Phone::new(&mut fleet, 0, "sam");
    sam.register(&mut fleet, INSTANCE, SUPPORTED);
    let mut alice = Phone::new(&mut fleet, 0, "alice");
    alice.invite(&mut fleet, &format!("sip:sam@{DOMAIN}"), "", &sdp("a"));
    let first = fleet.take(&sam);
    sam.called(&first);
    sam.reply(&mut fleet, &first, 183, "", &sdp("sam"));
    assert_eq!(alice.status(&mut fleet), 183);
    fleet.reborn(0);
    let said: Vec<_> = std::iter::from_fn(|| fleet.try_take(&sam)).collect();
    let again = said.iter().find(|m| text(m).starts_with("INVITE ")).expect("called anew").clone();
    sam.called(&again);
    sam.reply(&mut fleet, &again, 200, "", &sdp("sam"));
    let answer = alice.response(&mut fleet);
    alice.established(&answer);
    fleet.advance(600);
    assert_eq!(alice.status(&mut fleet), 200, "again, until its ACK");
    alice.send(&mut fleet, "ACK", "", "");
    fleet.sent.clear();
    fleet.advance(10_000);
    assert!(fleet.try_take(&alice).is_none());
}

#[test]
fn a_new_registration_moves_the_dialog_without_a_re_invite() {
    let mut fleet = Fleet::new(2);
    let mut sam = Phone::new(&mut fleet, 0, "sam");
    sam.register(&mut fleet, INSTANCE, SUPPORTED);
    let mut alice = Phone::new(&mut fleet, 0, "alice");
    call(&mut fleet, &mut alice, &mut sam, "");
    fleet.close(&sam);
    let mut again = sam.moved(&mut fleet, 1);
    again.register(&mut fleet, INSTANCE, SUPPORTED);
    alice.send(&mut fleet, "INFO", "Content-Type: text/plain\r\n", "where are you?");
    let info = fleet.take(&again);
    assert_eq!(info.request_uri(), Some(again.uri().as_str()));
    again.reply(&mut fleet, &info, 200, "", "");
    assert_eq!(alice.status(&mut fleet), 200);
}

#[test]
fn a_request_waits_a_moment_for_its_peer_to_register_again() {
    let mut fleet = Fleet::new(1);
    let mut sam = Phone::new(&mut fleet, 0, "sam");
    sam.register(&mut fleet, INSTANCE, SUPPORTED);
    let mut alice = Phone::new(&mut fleet, 0, "alice");
    call(&mut fleet, &mut alice, &mut sam, "");
    fleet.close(&sam);
    alice.send(&mut fleet, "INFO", "Content-Type: text/plain\r\n", "one");
    fleet.advance(1_500);
    fleet.assert_silent();
    let mut again = sam.moved(&mut fleet, 0);
    again.register(&mut fleet, INSTANCE, SUPPORTED);
    fleet.advance(500);
    let info = fleet.take(&again);
    again.reply(&mut fleet, &info, 200, "", "");
    assert_eq!(alice.status(&mut fleet), 200);
    // Who stays away is out of reach after three seconds.
    fleet.close(&again);
    alice.send(&mut fleet, "INFO", "Content-Type: text/plain\r\n", "two");
    fleet.advance(2_900);
    fleet.assert_silent();
    fleet.advance(500);
    assert_eq!(alice.status(&mut fleet), 480);
    // The call is not over by that.
    let mut back = again.moved(&mut fleet, 0);
    back.register(&mut fleet, INSTANCE, SUPPORTED);
    back.send(&mut fleet, "BYE", "", "");
    assert_eq!(back.status(&mut fleet), 200);
    assert!(text(&fleet.take(&alice)).starts_with("BYE "));
}

#[test]
fn both_legs_are_with_one_shard_on_every_edge() {
    let mut fleet = Fleet::new(1);
    let mut sam = Phone::new(&mut fleet, 0, "sam");
    sam.register(&mut fleet, "", "");
    for _ in 0..50 {
        let mut alice = Phone::new(&mut fleet, 0, "alice");
        alice.invite(&mut fleet, &format!("sip:sam@{DOMAIN}"), "", &sdp("a"));
        let invite = fleet.take(&sam);
        for count in [1, 2, 3, 4, 7, 8, 16, 61] {
            assert_eq!(edge_core::shard_of(invite.call_id(), count), edge_core::shard_of(&alice.call_id, count));
        }
    }
}

#[test]
fn while_the_store_is_away_a_bye_ends_both_legs_and_nothing_else_is_taken() {
    let mut fleet = Fleet::new(1);
    let mut sam = Phone::new(&mut fleet, 0, "sam");
    sam.register(&mut fleet, INSTANCE, SUPPORTED);
    let mut alice = Phone::new(&mut fleet, 0, "alice");
    call(&mut fleet, &mut alice, &mut sam, "");
    fleet.input(0, Input::StoreHealth(StoreHealth::Open));
    let before = fleet.operations.len();
    alice.send(&mut fleet, "INFO", "Content-Type: text/plain\r\n", "x");
    assert_eq!(alice.status(&mut fleet), 503);
    let mut bob = Phone::new(&mut fleet, 0, "bob");
    bob.invite(&mut fleet, &format!("sip:sam@{DOMAIN}"), "", &sdp("b"));
    assert_eq!(bob.status(&mut fleet), 503);
    alice.send(&mut fleet, "BYE", "", "");
    assert_eq!(alice.status(&mut fleet), 200);
    let bye = fleet.take(&sam);
    assert!(text(&bye).starts_with("BYE ") && bye.cseq().seq > 1, "{}", text(&bye));
    sam.reply(&mut fleet, &bye, 200, "", "");
    let asked: Vec<String> =
        fleet.operations[before..].iter().map(|op| format!("{op:?}").chars().take(40).collect()).collect();
    assert!(asked.is_empty(), "{asked:?}");
    // It is back, and learns of it.
    fleet.input(0, Input::StoreHealth(StoreHealth::Closed));
    fleet.advance(10);
    fleet.tell();
    fleet.advance(5_000);
    fleet.assert_empty();
}
