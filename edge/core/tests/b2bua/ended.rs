//! RFC 3261 §15: a callee's side says no BYE before the ACK of its 2xx, or before the wait for it is over (64·T1). Between two legs that is
//! our side of the caller's dialog, and the far end may hang up before the caller's ACK is here.

use sip_proto::message::Message;

use crate::driver::{DOMAIN, text};
use crate::fleet::*;

const INSTANCE: &str = ";+sip.instance=\"<urn:uuid:00000000-0000-1000-8000-00000000000A>\";reg-id=1";
const SUPPORTED: &str = "Supported: outbound\r\n";

/// Alice at the first edge, Sam at the last one. He accepted, and hangs up at `there` while her ACK is still out.
fn hung_up_early(fleet: &mut Fleet, there: usize) -> (Phone, Phone) {
    let last = fleet.edges.len() - 1;
    let mut sam = Phone::new(fleet, last, "sam");
    sam.register(fleet, INSTANCE, SUPPORTED);
    let mut alice = Phone::new(fleet, 0, "alice");
    alice.invite(fleet, &format!("sip:sam@{DOMAIN}"), "", &sdp("a"));
    let invite = fleet.take(&sam);
    sam.called(&invite);
    sam.reply(fleet, &invite, 200, "", &sdp("sam"));
    assert!(text(&fleet.take(&sam)).starts_with("ACK "));
    let answer = alice.response(fleet);
    alice.established(&answer);
    let mut by = if there == last { sam.clone() } else { sam.moved(fleet, there) };
    by.send(fleet, "BYE", "", "");
    assert_eq!(by.status(fleet), 200);
    (alice, sam)
}

fn is_bye(message: &Message) -> bool {
    text(message).starts_with("BYE ")
}

/// Her ACK ends it, and with it everything.
fn acknowledged(fleet: &mut Fleet, alice: &mut Phone) {
    assert!(fleet.try_take(alice).is_none(), "no BYE before the ACK");
    alice.send(fleet, "ACK", "", "");
    let bye = fleet.take(alice);
    assert!(is_bye(&bye), "{}", text(&bye));
    alice.reply(fleet, &bye, 200, "", "");
    fleet.assert_silent();
    fleet.assert_empty();
}

#[test]
fn rfc_3261_section_15_bye_waits_for_the_ack_and_the_2xx_is_repeated_meanwhile() {
    let mut fleet = Fleet::new(1);
    let (mut alice, _) = hung_up_early(&mut fleet, 0);
    fleet.advance(600);
    assert_eq!(alice.status(&mut fleet), 200, "the first 2xx may be lost");
    acknowledged(&mut fleet, &mut alice);
}

#[test]
fn rfc_3261_section_15_without_an_ack_bye_follows_after_64_t1() {
    let mut fleet = Fleet::new(1);
    let (alice, _) = hung_up_early(&mut fleet, 0);
    fleet.advance(31_900);
    while let Some(message) = fleet.try_take(&alice) {
        assert_eq!(message.status(), Some(200), "{}", text(&message));
    }
    fleet.advance(200);
    let bye = fleet.take(&alice);
    assert!(is_bye(&bye));
    alice.reply(&mut fleet, &bye, 200, "", "");
    fleet.advance(60_000);
    fleet.assert_silent();
    fleet.assert_empty();
}

#[test]
fn whoever_repeats_the_2xx_says_bye_where_another_edge_heard_of_the_end() {
    let mut fleet = Fleet::new(3);
    let (mut alice, _) = hung_up_early(&mut fleet, 1);
    fleet.advance(600);
    assert_eq!(alice.status(&mut fleet), 200);
    acknowledged(&mut fleet, &mut alice);
    // And where her ACK is heard by a third one.
    let mut fleet = Fleet::new(3);
    let (alice, _) = hung_up_early(&mut fleet, 1);
    let mut there = alice.moved(&mut fleet, 2);
    there.send(&mut fleet, "ACK", "", "");
    let bye = fleet.take(&alice);
    assert!(is_bye(&bye));
    alice.reply(&mut fleet, &bye, 200, "", "");
    fleet.advance(60_000);
    fleet.assert_silent();
}

#[test]
fn an_ack_that_was_heard_and_not_yet_written_is_an_ack() {
    let mut fleet = Fleet::new(2);
    let mut sam = Phone::new(&mut fleet, 1, "sam");
    sam.register(&mut fleet, INSTANCE, SUPPORTED);
    let mut alice = Phone::new(&mut fleet, 0, "alice");
    alice.invite(&mut fleet, &format!("sip:sam@{DOMAIN}"), "", &sdp("a"));
    let invite = fleet.take(&sam);
    sam.called(&invite);
    sam.reply(&mut fleet, &invite, 200, "", &sdp("sam"));
    assert!(text(&fleet.take(&sam)).starts_with("ACK "));
    let answer = alice.response(&mut fleet);
    alice.established(&answer);
    fleet.holding = true;
    alice.send(&mut fleet, "ACK", "", "");
    fleet.hold_back_first();
    sam.send(&mut fleet, "BYE", "", "");
    fleet.release();
    assert_eq!(sam.status(&mut fleet), 200);
    let bye = fleet.take(&alice);
    assert!(is_bye(&bye), "{}", text(&bye));
    alice.reply(&mut fleet, &bye, 200, "", "");
    fleet.advance(60_000);
    fleet.assert_silent();
    fleet.assert_empty();
}

#[test]
fn the_adopter_goes_on_with_the_2xx_and_says_bye_after_the_ack() {
    let mut fleet = Fleet::new(2);
    let (alice, _) = hung_up_early(&mut fleet, 1);
    fleet.kill(0);
    fleet.sent.clear();
    fleet.adopt(0, 1);
    // Her connection is gone with her edge: where her Via says.
    let mut there = alice.moved(&mut fleet, 1);
    let (_, _, answer) = fleet.sent.pop_front().expect("the 2xx again");
    assert_eq!(answer.status(), Some(200));
    fleet.assert_silent();
    there.send(&mut fleet, "ACK", "", "");
    let said: Vec<Message> = fleet.sent.drain(..).map(|(_, _, message)| message).collect();
    assert!(said.iter().filter(|message| is_bye(message)).count() == 1, "{said:?}");
    fleet.assert_empty();
}

#[test]
fn where_its_edge_does_not_hear_of_the_end_another_one_says_bye_in_time() {
    let mut fleet = Fleet::new(2);
    fleet.deaf = true;
    let (alice, _) = hung_up_early(&mut fleet, 1);
    let mut there = alice.clone();
    there.send(&mut fleet, "ACK", "", "");
    fleet.advance(31_000);
    fleet.assert_silent();
    fleet.advance(3_000);
    fleet.deaf = false;
    let said: Vec<Message> = fleet.sent.drain(..).map(|(_, _, message)| message).collect();
    assert!(said.iter().any(is_bye), "{said:?}");
    fleet.assert_empty();
}

#[test]
fn the_callers_own_bye_ends_the_wait() {
    let mut fleet = Fleet::new(1);
    let (mut alice, _) = hung_up_early(&mut fleet, 0);
    alice.send(&mut fleet, "BYE", "", "");
    assert_eq!(alice.status(&mut fleet), 200);
    fleet.advance(60_000);
    fleet.assert_silent();
    fleet.assert_empty();
}

/// A store that misses one operation does not cost the other leg its BYE.
#[test]
fn a_bye_whose_number_the_store_did_not_give_is_tried_again() {
    let mut fleet = Fleet::new(1);
    let mut sam = Phone::new(&mut fleet, 0, "sam");
    sam.register(&mut fleet, "", "");
    let mut alice = Phone::new(&mut fleet, 0, "alice");
    call(&mut fleet, &mut alice, &mut sam, "");
    fleet.holding = true;
    sam.send(&mut fleet, "BYE", "", "");
    fleet.release_one();
    assert_eq!(sam.status(&mut fleet), 200);
    fleet.lose_reply();
    fleet.release();
    fleet.advance(2_000);
    let bye = fleet.take(&alice);
    assert!(is_bye(&bye), "{}", text(&bye));
    alice.reply(&mut fleet, &bye, 200, "", "");
    fleet.assert_empty();
}
