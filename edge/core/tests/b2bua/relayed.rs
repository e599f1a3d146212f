//! Requests from leg to leg.

use session_store::memory::{Capacity, MemoryStore};
use sip_proto::message::HeaderId;

use crate::driver::text;
use crate::fleet::*;

fn stand() -> (Fleet, Phone, Phone) {
    let mut fleet = Fleet::new(1);
    let mut sam = Phone::new(&mut fleet, 0, "sam");
    sam.register(&mut fleet, "", "");
    let mut alice = Phone::new(&mut fleet, 0, "alice");
    call(&mut fleet, &mut alice, &mut sam, "");
    (fleet, alice, sam)
}

/// One changes the session, the other one agrees.
fn change(
    fleet: &mut Fleet,
    by: &mut Phone,
    other: &mut Phone,
    method: &str,
    offer: &str,
    answer: &str,
) -> (String, String) {
    by.send(fleet, method, "Allow: UPDATE\r\n", offer);
    let request = fleet.take(other);
    assert!(text(&request).starts_with(&format!("{method} ")), "{}", text(&request));
    other.reply(fleet, &request, 200, "", answer);
    let response = by.response(fleet);
    assert_eq!(response.status(), Some(200), "{}", text(&response));
    assert_eq!(without_origin(&request.body()), without_origin(offer.as_bytes()));
    assert_eq!(without_origin(&response.body()), without_origin(answer.as_bytes()));
    if method == "INVITE" {
        assert!(fleet.try_take(other).is_none(), "its ACK waits");
        by.send(fleet, "ACK", "", "");
        assert!(text(&fleet.take(other)).starts_with("ACK "));
    }
    (origin(&request.body()), origin(&response.body()))
}

#[test]
fn a_change_of_the_session_passes_in_both_directions_and_versions_only_rise_with_it() {
    let (mut fleet, mut alice, mut sam) = stand();
    let version = |origin: &str| origin.split(' ').nth(2).unwrap().parse::<u64>().unwrap();
    let (a1, s1) =
        change(&mut fleet, &mut alice, &mut sam, "INVITE", &sdp("alice").replace("4000", "4002"), &sdp("callee"));
    assert_eq!((version(&a1), version(&s1)), (2, 1));
    // The same again is the same description.
    let (a2, _) =
        change(&mut fleet, &mut alice, &mut sam, "UPDATE", &sdp("alice").replace("4000", "4002"), &sdp("callee"));
    assert_eq!(a2, a1);
    let (s3, a3) = change(
        &mut fleet,
        &mut sam,
        &mut alice,
        "INVITE",
        &sdp("sam").replace("4000", "4444"),
        &sdp("alice").replace("4000", "4002"),
    );
    assert_eq!((version(&s3), a3), (2, a1));
    let (s4, _) =
        change(&mut fleet, &mut sam, &mut alice, "UPDATE", &sdp("sam").replace("4000", "4446"), &sdp("alice"));
    assert_eq!(version(&s4), 3);
    fleet.assert_silent();
}

#[test]
fn a_re_invite_without_an_offer_gets_one_and_its_ack_answers_it() {
    let (mut fleet, mut alice, sam) = stand();
    alice.send(&mut fleet, "INVITE", "", "");
    let request = fleet.take(&sam);
    assert!(request.body().is_empty());
    sam.reply(&mut fleet, &request, 200, "", &sdp("callee"));
    assert_eq!(without_origin(&alice.response(&mut fleet).body()), without_origin(sdp("callee").as_bytes()));
    // Its 2xx comes again, and so does ours, until the ACK.
    sam.reply(&mut fleet, &request, 200, "", &sdp("callee"));
    assert_eq!(alice.status(&mut fleet), 200);
    alice.send(&mut fleet, "ACK", "", &sdp("alice").replace("4000", "4008"));
    let ack = fleet.take(&sam);
    assert_eq!(without_origin(&ack.body()), without_origin(sdp("alice").replace("4000", "4008").as_bytes()));
    assert_eq!(ack.cseq().seq, request.cseq().seq);
}

#[test]
fn rfc_3261_14_when_both_change_both_hear_491_and_who_changes_twice_500() {
    let (mut fleet, mut alice, mut sam) = stand();
    alice.send(&mut fleet, "INVITE", "", &sdp("a2"));
    let request = fleet.take(&sam);
    sam.send(&mut fleet, "INVITE", "", &sdp("s2"));
    assert_eq!(sam.status(&mut fleet), 491);
    alice.send(&mut fleet, "UPDATE", "", &sdp("a3"));
    let refused = alice.response(&mut fleet);
    assert_eq!(refused.status(), Some(500));
    assert!(!value(&refused, HeaderId::RetryAfter).is_empty());
    // The agent sees the glare, too.
    sam.reply(&mut fleet, &request, 491, "", "");
    assert!(text(&fleet.take(&sam)).starts_with("ACK "));
    assert_eq!(alice.status(&mut fleet), 491);
    // After it either may try again.
    let offer = sdp("s3");
    change(&mut fleet, &mut sam, &mut alice, "INVITE", &offer, &sdp("a4"));
}

#[test]
fn what_the_far_end_refuses_is_refused_here_and_a_481_ends_both() {
    let (mut fleet, mut alice, sam) = stand();
    alice.send(&mut fleet, "INFO", "Info-Package: dtmf\r\nContent-Type: application/dtmf-relay\r\n", "Signal=1");
    let info = fleet.take(&sam);
    assert_eq!(value(&info, HeaderId::InfoPackage), "dtmf");
    sam.reply(&mut fleet, &info, 469, "Recv-Info: other\r\n", "");
    let refused = alice.response(&mut fleet);
    assert_eq!((refused.status(), value(&refused, HeaderId::RecvInfo)), (Some(469), "other".into()));
    alice.send(&mut fleet, "OPTIONS", "", "");
    let options = fleet.take(&sam);
    sam.reply(&mut fleet, &options, 200, "Accept: text/plain\r\n", "");
    assert_eq!(value(&alice.response(&mut fleet), HeaderId::Accept), "text/plain");
    alice.send(&mut fleet, "REFER", "Refer-To: <sip:x@y.example>\r\n", "");
    assert_eq!(alice.status(&mut fleet), 405);
    alice.send(&mut fleet, "INFO", "Max-Forwards: 0\r\nContent-Type: text/plain\r\n", "x");
    assert_eq!(alice.status(&mut fleet), 483);
    alice.send(&mut fleet, "INFO", "Content-Type: text/plain\r\n", "x");
    let info = fleet.take(&sam);
    assert_eq!(value(&info, HeaderId::MaxForwards), "69");
    sam.reply(&mut fleet, &info, 481, "", "");
    assert_eq!(alice.status(&mut fleet), 481);
    assert!(text(&fleet.take(&sam)).starts_with("BYE "));
    assert!(text(&fleet.take(&alice)).starts_with("BYE "));
}

#[test]
fn a_copy_of_an_answered_request_gets_the_same_answer_and_an_older_one_500() {
    let (mut fleet, mut alice, sam) = stand();
    let first = alice.request(&mut fleet, "INFO", "Content-Type: text/plain\r\n", "x");
    let flow = alice.flow.clone();
    fleet.arrive(0, &flow, first.clone());
    let info = fleet.take(&sam);
    sam.reply(&mut fleet, &info, 200, "", "");
    let answer = alice.response(&mut fleet);
    fleet.advance(40);
    fleet.arrive(0, &flow, first);
    assert_eq!(text(&alice.response(&mut fleet)), text(&answer));
    assert!(fleet.try_take(&sam).is_none());
    alice.cseq -= 2;
    alice.send(&mut fleet, "INFO", "Content-Type: text/plain\r\n", "old");
    assert_eq!(alice.status(&mut fleet), 500);
}

#[test]
fn nobody_else_speaks_in_the_dialog() {
    let (mut fleet, alice, sam) = stand();
    let mut bob = Phone::new(&mut fleet, 0, "bob");
    let flow = bob.flow.clone();
    bob = Phone { flow, user: "bob".into(), ..alice.clone() };
    bob.send(&mut fleet, "INFO", "Content-Type: text/plain\r\n", "x");
    assert_eq!(bob.status(&mut fleet), 403);
    bob.send(&mut fleet, "BYE", "", "");
    assert_eq!(bob.status(&mut fleet), 403);
    // Nor does the agent's side with the caller's tag.
    let mut mixed = Phone { tag: sam.tag.clone(), ..alice.clone() };
    mixed.flow = sam.flow.clone();
    mixed.send(&mut fleet, "INFO", "Content-Type: text/plain\r\n", "x");
    assert_eq!(mixed.status(&mut fleet), 403);
    assert!(fleet.try_take(&sam).is_none());
}

/// The store came back empty and no renewal has said so yet: the dialog is not gone, and is written anew soon.
#[test]
fn a_request_between_legs_that_the_store_lost_is_503_and_ends_nothing() {
    let mut fleet = Fleet::new(2);
    let mut sam = Phone::new(&mut fleet, 0, "sam");
    sam.register(&mut fleet, "", "");
    let mut alice = Phone::new(&mut fleet, 0, "alice");
    call(&mut fleet, &mut alice, &mut sam, "");
    let kept = std::mem::replace(&mut fleet.store, MemoryStore::new(Capacity::default()));
    alice.send(&mut fleet, "INFO", "Info-Package: other\r\nContent-Type: text/plain\r\n", "lost");
    assert_eq!(alice.status(&mut fleet), 503);
    fleet.store = kept;
    alice.send(&mut fleet, "INFO", "Info-Package: other\r\nContent-Type: text/plain\r\n", "back");
    let info = fleet.take(&sam);
    assert_eq!(&info.body()[..], b"back");
    sam.reply(&mut fleet, &info, 200, "", "");
    assert_eq!(alice.status(&mut fleet), 200);
}
