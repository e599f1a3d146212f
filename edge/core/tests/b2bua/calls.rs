//! One caller, one registered agent.

use session_store::op::StoreOp;
use sip_proto::message::HeaderId;

use crate::driver::{DOMAIN, text};
use crate::fleet::*;

#[test]
fn a_call_goes_through_with_our_origin_our_tags_one_hop_less_and_who_it_is() {
    let mut fleet = Fleet::new(1);
    let mut sam = Phone::new(&mut fleet, 0, "sam");
    sam.register(&mut fleet, "", "");
    let mut alice = Phone::new(&mut fleet, 0, "alice");
    let extra = "Session-ID: 11111111222233334444555566667777;remote=00000000000000000000000000000000\r\nX-Own: kept\r\nSubject: hi\r\n\
                 P-Asserted-Identity: <sip:boss@acme.example>\r\nSupported: 100rel, timer, foo\r\n";
    alice.invite(&mut fleet, &format!("sip:sam@{DOMAIN}"), extra, &sdp("alice"));
    let invite = fleet.take(&sam);
    let placed = fleet.operations.iter().any(
        |op| matches!(op, StoreOp::PlaceLegs { legs, .. } if legs.len() == 1 && legs[0].call_id == invite.call_id()),
    );
    assert!(placed, "{:?}", fleet.operations);
    assert_eq!(invite.request_uri(), Some(sam.uri().as_str()));
    assert_eq!(value(&invite, HeaderId::MaxForwards), "69");
    assert_ne!(invite.call_id(), alice.call_id);
    assert_ne!(invite.from_tag(), Some(alice.tag.as_str()));
    assert_eq!(invite.from().uri(), format!("sip:alice@{DOMAIN}"));
    assert_eq!(value(&invite, HeaderId::PAssertedIdentity), format!("<sip:alice@{DOMAIN}>"));
    assert_eq!(
        value(&invite, HeaderId::SessionId),
        "11111111222233334444555566667777;remote=00000000000000000000000000000000"
    );
    assert_eq!(
        (value(&invite, HeaderId::Subject), value(&invite, HeaderId::Supported)),
        ("hi".into(), "foo, timer".into())
    );
    assert!(text(&invite).contains("X-Own: kept\r\n"));
    let sent = sdp("alice");
    assert_eq!(without_origin(&invite.body()), without_origin(sent.as_bytes()));
    assert!(origin(&invite.body()).contains(" 1 IN IP4 192.0.2.1"), "{}", origin(&invite.body()));
    sam.called(&invite);
    sam.reply(&mut fleet, &invite, 180, "", "");
    let ringing = alice.response(&mut fleet);
    assert_eq!(ringing.status(), Some(180));
    sam.reply(
        &mut fleet,
        &invite,
        200,
        "Session-ID: 99999999222233334444555566667777;remote=11111111222233334444555566667777\r\n",
        &sdp("sam"),
    );
    let ack = fleet.take(&sam);
    assert_eq!((ack.request_uri(), ack.cseq().seq), (Some(sam.uri().as_str()), 1), "{}", text(&ack));
    let answer = alice.response(&mut fleet);
    assert_eq!(answer.to_tag(), ringing.to_tag());
    assert_eq!(
        value(&answer, HeaderId::SessionId),
        "99999999222233334444555566667777;remote=11111111222233334444555566667777"
    );
    assert_eq!(without_origin(&answer.body()), without_origin(sdp("sam").as_bytes()));
    alice.established(&answer);
    // Without its ACK the 2xx comes again.
    fleet.advance(600);
    assert_eq!(alice.status(&mut fleet), 200);
    alice.send(&mut fleet, "ACK", "", "");
    fleet.advance(40_000);
    fleet.assert_silent();
    // A copy of the agent's 2xx gets its ACK again.
    sam.reply(&mut fleet, &invite, 200, "", &sdp("sam"));
    alice.send(&mut fleet, "BYE", "Reason: SIP;cause=200\r\n", "");
    assert_eq!(alice.status(&mut fleet), 200);
    let all: Vec<String> = std::iter::from_fn(|| fleet.try_take(&sam)).map(|m| text(&m)).collect();
    let bye = all.iter().find(|m| m.starts_with("BYE ")).unwrap_or_else(|| panic!("{all:#?}"));
    let bye =
        sip_proto::message::Message::parse(bye.clone().into(), sip_proto::message::Transportation::Stream).unwrap();
    sam.reply(&mut fleet, &bye, 200, "", "");
    fleet.assert_empty();
}

#[test]
fn the_agent_hangs_up_and_a_plain_call_costs_as_many_round_trips_as_it_may() {
    let mut fleet = Fleet::new(1);
    let mut sam = Phone::new(&mut fleet, 0, "sam");
    sam.register(&mut fleet, "", "");
    let mut alice = Phone::new(&mut fleet, 0, "alice");
    fleet.operations.clear();
    call(&mut fleet, &mut alice, &mut sam, "");
    let names: Vec<String> = fleet.operations.iter().map(name).collect();
    // The guard and the bindings go at once; sip.md, section 7.
    assert_eq!(names, ["OpenCall", "ReadBindings", "PlaceLegs", "AnswerCall", "Confirm"]);
    sam.send(&mut fleet, "BYE", "", "");
    assert_eq!(sam.status(&mut fleet), 200);
    let bye = fleet.take(&alice);
    assert!(text(&bye).starts_with("BYE "), "{}", text(&bye));
    assert_eq!(bye.to_tag(), Some(alice.tag.as_str()));
    alice.reply(&mut fleet, &bye, 200, "", "");
    let names: Vec<String> = fleet.operations[names.len()..].iter().map(name).collect();
    assert_eq!(names, ["Terminate", "NextCseq", "Bury"]);
    fleet.assert_empty();
}

fn name(operation: &StoreOp) -> String {
    format!("{operation:?}").split([' ', '{', '(']).next().unwrap().to_owned()
}

#[test]
fn without_a_hop_left_483_without_a_registration_480_and_unknown_404() {
    let mut fleet = Fleet::new(1);
    let mut alice = Phone::new(&mut fleet, 0, "alice");
    alice.invite(&mut fleet, &format!("sip:sam@{DOMAIN}"), "Max-Forwards: 0\r\n", &sdp("a"));
    assert_eq!(alice.status(&mut fleet), 483);
    for (user, status) in [("sam", 480), ("bob", 480), ("nobody", 404)] {
        let mut alice = Phone::new(&mut fleet, 0, "alice");
        alice.invite(&mut fleet, &format!("sip:{user}@{DOMAIN}"), "", &sdp("a"));
        assert_eq!(alice.status(&mut fleet), status, "{user}");
    }
    let mut alice = Phone::new(&mut fleet, 0, "alice");
    alice.invite(&mut fleet, &format!("sip:sam@{DOMAIN}"), "Require: 100rel\r\n", &sdp("a"));
    let refused = alice.response(&mut fleet);
    assert_eq!((refused.status(), value(&refused, HeaderId::Unsupported)), (Some(420), "100rel".into()));
}

#[test]
fn a_call_to_a_registered_agent_is_one_session_of_its_domain() {
    let mut config = bridge_config();
    crate::driver::change_domain(&mut config, |domain| domain.max_sessions = Some(2));
    let mut fleet = Fleet::with(1, config);
    let mut sam = Phone::new(&mut fleet, 0, "sam");
    sam.register(&mut fleet, "", "");
    // Two legs each, and the second one fits all the same.
    for user in ["alice", "bob"] {
        let mut caller = Phone::new(&mut fleet, 0, user);
        call(&mut fleet, &mut caller, &mut sam, "");
    }
    let mut alice = Phone::new(&mut fleet, 0, "alice");
    alice.invite(&mut fleet, &format!("sip:sam@{DOMAIN}"), "", &sdp("a"));
    let refused = alice.response(&mut fleet);
    assert_eq!(refused.status(), Some(480), "{}", text(&refused));
    assert!(!value(&refused, HeaderId::RetryAfter).is_empty(), "{}", text(&refused));
}

#[test]
fn a_cancel_reaches_the_agent_after_its_provisional_answer_and_not_before() {
    let mut fleet = Fleet::new(1);
    let mut sam = Phone::new(&mut fleet, 0, "sam");
    sam.register(&mut fleet, "", "");
    let mut alice = Phone::new(&mut fleet, 0, "alice");
    alice.invite(&mut fleet, &format!("sip:sam@{DOMAIN}"), "", &sdp("a"));
    let invite = fleet.take(&sam);
    alice.send(&mut fleet, "CANCEL", "", "");
    let mut statuses = vec![alice.status(&mut fleet), alice.status(&mut fleet)];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 487]);
    assert!(fleet.try_take(&sam).is_none());
    sam.called(&invite);
    sam.reply(&mut fleet, &invite, 180, "", "");
    let cancel = fleet.take(&sam);
    assert!(text(&cancel).starts_with("CANCEL "), "{}", text(&cancel));
    assert_eq!((cancel.top_via().branch(), cancel.cseq().seq), (invite.top_via().branch(), invite.cseq().seq));
    sam.reply(&mut fleet, &cancel, 200, "", "");
    sam.reply(&mut fleet, &invite, 487, "", "");
    assert!(text(&fleet.take(&sam)).starts_with("ACK "));
    fleet.assert_empty();
}

#[test]
fn an_answer_that_crosses_the_cancel_is_acknowledged_and_ended() {
    let mut fleet = Fleet::new(1);
    let mut sam = Phone::new(&mut fleet, 0, "sam");
    sam.register(&mut fleet, "", "");
    let mut alice = Phone::new(&mut fleet, 0, "alice");
    alice.invite(&mut fleet, &format!("sip:sam@{DOMAIN}"), "", &sdp("a"));
    let invite = fleet.take(&sam);
    alice.send(&mut fleet, "CANCEL", "", "");
    alice.status(&mut fleet);
    alice.status(&mut fleet);
    sam.called(&invite);
    sam.reply(&mut fleet, &invite, 200, "", &sdp("s"));
    assert!(text(&fleet.take(&sam)).starts_with("ACK "));
    let bye = fleet.take(&sam);
    assert!(text(&bye).starts_with("BYE "));
    sam.reply(&mut fleet, &bye, 200, "", "");
    fleet.assert_empty();
}

#[test]
fn an_offer_in_the_2xx_is_answered_by_the_callers_ack() {
    let mut fleet = Fleet::new(1);
    let mut sam = Phone::new(&mut fleet, 0, "sam");
    sam.register(&mut fleet, "", "");
    let mut alice = Phone::new(&mut fleet, 0, "alice");
    alice.invite(&mut fleet, &format!("sip:sam@{DOMAIN}"), "", "");
    let invite = fleet.take(&sam);
    assert!(invite.body().is_empty());
    sam.called(&invite);
    sam.reply(&mut fleet, &invite, 200, "", &sdp("sam"));
    let answer = alice.response(&mut fleet);
    assert_eq!(without_origin(&answer.body()), without_origin(sdp("sam").as_bytes()));
    assert!(fleet.try_take(&sam).is_none(), "its ACK waits for the caller's");
    alice.established(&answer);
    alice.send(&mut fleet, "ACK", "", &sdp("alice"));
    let ack = fleet.take(&sam);
    assert!(text(&ack).starts_with("ACK "));
    assert_eq!(without_origin(&ack.body()), without_origin(sdp("alice").as_bytes()));
    assert!(origin(&ack.body()).contains("192.0.2.1"));
    // A copy of the 2xx gets the same ACK.
    sam.reply(&mut fleet, &invite, 200, "", &sdp("sam"));
    assert_eq!(fleet.take(&sam).body(), ack.body());
}

#[test]
fn early_media_is_written_before_it_leaves_and_the_answer_keeps_its_origin() {
    let mut fleet = Fleet::new(1);
    let mut sam = Phone::new(&mut fleet, 0, "sam");
    sam.register(&mut fleet, "", "");
    let mut alice = Phone::new(&mut fleet, 0, "alice");
    alice.invite(&mut fleet, &format!("sip:sam@{DOMAIN}"), "", &sdp("a"));
    let invite = fleet.take(&sam);
    sam.called(&invite);
    fleet.holding = true;
    sam.reply(&mut fleet, &invite, 183, "", &sdp("s"));
    assert!(fleet.try_take(&alice).is_none());
    fleet.release();
    let early = alice.response(&mut fleet);
    assert_eq!(early.status(), Some(183));
    sam.reply(&mut fleet, &invite, 200, "", &sdp("s"));
    let answer = alice.response(&mut fleet);
    assert_eq!((answer.to_tag(), answer.body()), (early.to_tag(), early.body()));
}

#[test]
fn a_2xx_is_not_told_before_both_records_stand() {
    let mut fleet = Fleet::new(1);
    let mut sam = Phone::new(&mut fleet, 0, "sam");
    sam.register(&mut fleet, "", "");
    let mut alice = Phone::new(&mut fleet, 0, "alice");
    alice.invite(&mut fleet, &format!("sip:sam@{DOMAIN}"), "", &sdp("a"));
    let invite = fleet.take(&sam);
    sam.called(&invite);
    fleet.holding = true;
    sam.reply(&mut fleet, &invite, 200, "", &sdp("s"));
    fleet.assert_silent();
    fleet.release();
    assert_eq!(alice.status(&mut fleet), 200);
    let answered = fleet.operations.iter().find_map(|op| match op {
        StoreOp::AnswerCall { dialog, record, peer: Some(peer), .. } => Some((*dialog, record.clone(), peer.clone())),
        _ => None,
    });
    let (dialog, record, peer) = answered.unwrap();
    assert_eq!((record.peer, peer.1.peer), (Some(peer.0), Some(dialog)));
    assert_eq!((record.we_called, peer.1.we_called), (false, true));
    assert!(record.local_sdp.is_some() && record.remote_sdp.is_some());
    assert!(peer.1.local_sdp.is_some() && peer.1.remote_sdp.is_some());
    assert_eq!(peer.0.slot, dialog.slot);
}

#[test]
fn nobody_rings_for_ever() {
    let mut fleet = Fleet::new(1);
    let mut sam = Phone::new(&mut fleet, 0, "sam");
    sam.register(&mut fleet, "", "");
    let mut alice = Phone::new(&mut fleet, 0, "alice");
    alice.invite(&mut fleet, &format!("sip:sam@{DOMAIN}"), "", &sdp("a"));
    let invite = fleet.take(&sam);
    sam.called(&invite);
    sam.reply(&mut fleet, &invite, 180, "", "");
    assert_eq!(alice.status(&mut fleet), 180);
    fleet.advance(175_000);
    assert!(text(&fleet.take(&sam)).starts_with("CANCEL "));
    assert_eq!(alice.status(&mut fleet), 408);
    fleet.assert_empty();
}

#[test]
fn each_leg_has_its_own_session_timer() {
    let mut fleet = Fleet::new(1);
    let mut sam = Phone::new(&mut fleet, 0, "sam");
    sam.register(&mut fleet, "", "");
    let mut alice = Phone::new(&mut fleet, 0, "alice");
    let (invite, answer) = call(
        &mut fleet,
        &mut alice,
        &mut sam,
        "Supported: timer\r\nSession-Expires: 600;refresher=uac\r\nAllow: UPDATE\r\n",
    );
    assert_eq!(value(&invite, HeaderId::SessionExpires), "1800");
    assert_eq!(value(&answer, HeaderId::SessionExpires), "600;refresher=uac");
    // Alice refreshes hers, and only hers.
    fleet.advance(300_000);
    alice.send(&mut fleet, "UPDATE", "Supported: timer\r\nSession-Expires: 600;refresher=uac\r\n", "");
    assert_eq!(alice.status(&mut fleet), 200);
    fleet.assert_silent();
    // We refresh Sam's, who knows no timers.
    for _ in 0..2 {
        fleet.advance(280_000);
        alice.send(&mut fleet, "UPDATE", "Supported: timer\r\nSession-Expires: 600;refresher=uac\r\n", "");
        assert_eq!(alice.status(&mut fleet), 200);
    }
    fleet.advance(45_000);
    let update = fleet.take(&sam);
    assert!(text(&update).starts_with("UPDATE "), "{}", text(&update));
    sam.reply(&mut fleet, &update, 200, "", "");
    // Who falls silent takes the other leg along.
    fleet.advance(1_000_000);
    let all: Vec<String> = fleet.sent.iter().map(|(_, _, m)| text(m)).collect();
    assert_eq!(all.iter().filter(|m| m.starts_with("BYE ")).count(), 2, "{all:#?}");
}
