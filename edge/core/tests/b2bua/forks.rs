//! Several contacts: at once, one after the other, and what comes of it.

use sip_proto::message::Message;

use crate::driver::{DOMAIN, text};
use crate::fleet::*;

const TWO: [&str; 2] = [
    ";+sip.instance=\"<urn:uuid:00000000-0000-1000-8000-000000000001>\"",
    ";+sip.instance=\"<urn:uuid:00000000-0000-1000-8000-000000000002>\"",
];

fn outbound(instance: usize, reg: u32) -> String {
    format!("{};reg-id={reg}", TWO[instance])
}

const SUPPORTED: &str = "Supported: outbound, path\r\n";

fn alice_calls(fleet: &mut Fleet) -> Phone {
    let mut alice = Phone::new(fleet, 0, "alice");
    alice.invite(fleet, &format!("sip:sam@{DOMAIN}"), "", &sdp("a"));
    alice
}

#[test]
fn the_first_who_accepts_wins_and_the_others_are_cancelled() {
    let mut fleet = Fleet::new(1);
    let mut one = Phone::new(&mut fleet, 0, "sam");
    let mut two = Phone::new(&mut fleet, 0, "sam");
    one.register(&mut fleet, TWO[0], "");
    two.register(&mut fleet, TWO[1], "");
    let mut alice = alice_calls(&mut fleet);
    let (first, second) = (fleet.take(&one), fleet.take(&two));
    assert_ne!(first.top_via().branch(), second.top_via().branch());
    one.called(&first);
    two.called(&second);
    one.reply(&mut fleet, &first, 183, "", &sdp("one"));
    // Where several ring, their media stays here: one dialog, one answer.
    let early = alice.response(&mut fleet);
    assert_eq!((early.status(), early.body().is_empty()), (Some(183), true));
    two.reply(&mut fleet, &second, 180, "", "");
    assert_eq!(alice.response(&mut fleet).to_tag(), early.to_tag());
    two.reply(&mut fleet, &second, 200, "", &sdp("two"));
    assert!(text(&fleet.take(&two)).starts_with("ACK "));
    let cancel = fleet.take(&one);
    assert!(text(&cancel).starts_with("CANCEL "));
    let answer = alice.response(&mut fleet);
    assert_eq!(answer.to_tag(), early.to_tag());
    alice.established(&answer);
    alice.send(&mut fleet, "ACK", "", "");
    // It accepted before it heard.
    one.reply(&mut fleet, &first, 200, "", &sdp("one"));
    assert!(text(&fleet.take(&one)).starts_with("ACK "));
    let bye = fleet.take(&one);
    assert!(text(&bye).starts_with("BYE "));
    one.reply(&mut fleet, &bye, 200, "", "");
    fleet.assert_silent();
}

#[test]
fn a_second_dialog_of_one_leg_is_acknowledged_and_ended() {
    let mut fleet = Fleet::new(1);
    let mut sam = Phone::new(&mut fleet, 0, "sam");
    sam.register(&mut fleet, "", "");
    let mut alice = Phone::new(&mut fleet, 0, "alice");
    let (invite, _) = call(&mut fleet, &mut alice, &mut sam, "");
    let mut other = sam.clone();
    other.tag = "another-branch".into();
    other.reply(&mut fleet, &invite, 200, "", &sdp("x"));
    let (ack, bye) = (fleet.take(&sam), fleet.take(&sam));
    assert!(text(&ack).starts_with("ACK ") && text(&bye).starts_with("BYE "));
    assert_eq!((ack.to_tag(), bye.to_tag()), (Some("another-branch"), Some("another-branch")));
}

#[test]
fn q_decides_who_is_asked_first() {
    let mut fleet = Fleet::new(1);
    let mut one = Phone::new(&mut fleet, 0, "sam");
    let mut two = Phone::new(&mut fleet, 0, "sam");
    one.register(&mut fleet, &format!("{};q=0.3", TWO[0]), "");
    two.register(&mut fleet, &format!("{};q=0.7", TWO[1]), "");
    let alice = alice_calls(&mut fleet);
    let invite = fleet.take(&two);
    assert!(fleet.try_take(&one).is_none());
    two.called(&invite);
    two.reply(&mut fleet, &invite, 486, "", "");
    assert!(text(&fleet.take(&two)).starts_with("ACK "));
    let invite = fleet.take(&one);
    one.called(&invite);
    one.reply(&mut fleet, &invite, 480, "", "");
    // 486 was the better one of two failures.
    assert_eq!(alice.status(&mut fleet), 486);
}

#[test]
fn flows_of_one_instance_are_tried_one_after_the_other() {
    let mut fleet = Fleet::new(1);
    let mut one = Phone::new(&mut fleet, 0, "sam");
    let mut two = Phone::new(&mut fleet, 0, "sam");
    one.register(&mut fleet, &outbound(0, 1), SUPPORTED);
    two.register(&mut fleet, &outbound(0, 2), SUPPORTED);
    // Both live: the first one only.
    let alice = alice_calls(&mut fleet);
    let invite = fleet.take(&one);
    assert!(fleet.try_take(&two).is_none());
    one.called(&invite);
    one.reply(&mut fleet, &invite, 430, "", "");
    assert!(text(&fleet.take(&one)).starts_with("ACK "));
    let invite = fleet.take(&two);
    two.called(&invite);
    two.reply(&mut fleet, &invite, 200, "", &sdp("s"));
    assert_eq!(alice.status(&mut fleet), 200);
    // The first connection breaks while it is asked: the second one, at once.
    fleet.sent.clear();
    let alice = alice_calls(&mut fleet);
    fleet.take(&one);
    fleet.close(&one);
    let invite = fleet.take(&two);
    two.called(&invite);
    two.reply(&mut fleet, &invite, 200, "", &sdp("s"));
    assert_eq!(alice.status(&mut fleet), 200);
    // Nothing is left of either.
    fleet.sent.clear();
    fleet.close(&two);
    let alice = alice_calls(&mut fleet);
    assert_eq!(alice.status(&mut fleet), 480);
}

fn answered_with(statuses: &[u16]) -> Message {
    let mut fleet = Fleet::new(1);
    let mut phones: Vec<Phone> = (0..statuses.len()).map(|_| Phone::new(&mut fleet, 0, "sam")).collect();
    for (n, phone) in phones.iter_mut().enumerate() {
        phone.register(&mut fleet, TWO[n], "");
    }
    let alice = alice_calls(&mut fleet);
    for (phone, status) in phones.iter_mut().zip(statuses) {
        let invite = fleet.take(phone);
        phone.called(&invite);
        phone.reply(&mut fleet, &invite, *status, "Retry-After: 9\r\n", "");
    }
    alice.response(&mut fleet)
}

#[test]
fn the_best_answer_is_passed_on_redirections_and_foreign_challenges_are_not() {
    assert_eq!(answered_with(&[486, 500]).status(), Some(486));
    assert_eq!(answered_with(&[404, 480]).status(), Some(404));
    assert_eq!(answered_with(&[603]).status(), Some(603));
    assert_eq!(answered_with(&[302]).status(), Some(480));
    assert_eq!(answered_with(&[401]).status(), Some(480));
    assert_eq!(answered_with(&[503]).status(), Some(500));
    assert!(text(&answered_with(&[486])).contains("Retry-After: 9"));
}

#[test]
fn a_6xx_ends_the_whole_call() {
    let mut fleet = Fleet::new(1);
    let mut one = Phone::new(&mut fleet, 0, "sam");
    let mut two = Phone::new(&mut fleet, 0, "sam");
    one.register(&mut fleet, TWO[0], "");
    two.register(&mut fleet, TWO[1], "");
    let alice = alice_calls(&mut fleet);
    let (first, second) = (fleet.take(&one), fleet.take(&two));
    two.called(&second);
    two.reply(&mut fleet, &second, 180, "", "");
    one.called(&first);
    one.reply(&mut fleet, &first, 603, "", "");
    assert!(text(&fleet.take(&two)).starts_with("CANCEL "));
    assert_eq!(alice.status(&mut fleet), 180);
    assert_eq!(alice.status(&mut fleet), 603);
    fleet.assert_empty();
}

#[test]
fn a_too_small_interval_is_offered_again() {
    let mut fleet = Fleet::new(1);
    let mut sam = Phone::new(&mut fleet, 0, "sam");
    sam.register(&mut fleet, "", "");
    let alice = alice_calls(&mut fleet);
    let invite = fleet.take(&sam);
    sam.called(&invite);
    sam.reply(&mut fleet, &invite, 422, "Min-SE: 3600\r\n", "");
    assert!(text(&fleet.take(&sam)).starts_with("ACK "));
    let invite = fleet.take(&sam);
    assert!(text(&invite).contains("Session-Expires: 3600"), "{}", text(&invite));
    sam.called(&invite);
    sam.reply(&mut fleet, &invite, 200, "", &sdp("s"));
    assert_eq!(alice.status(&mut fleet), 200);
}
