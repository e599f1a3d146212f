//! XCH-4: a carrier that fails leaves the leg alone; the next one gets the same message.

use edge_core::engine::{Carrier, DeliveryOutcome};
use serde_json::json;

use super::rig::*;

#[test]
fn xch_4_a_refused_carrier_is_followed_by_the_other_with_the_same_exchange_and_bytes() {
    for status in [415, 501, 405, 502] {
        let mut rig = Rig::default();
        let leg = rig.dialog("both");
        rig.send(&leg, Some(X), &call(1, "deploy"));
        let (id, _) = rig.one_call();
        rig.delivers = false;
        rig.answer(id, &result(1, "x"));
        let first = rig.deliveries.remove(0);
        assert_eq!(first.carrier, Carrier::Message);
        assert!(first.close.is_some());
        rig.outcome(&first, DeliveryOutcome::Refused { status });
        let second = rig.deliveries.remove(0);
        assert_eq!(second.carrier, Carrier::Info);
        assert_eq!((&second.body, &second.exchange, second.id), (&first.body, &first.exchange, first.id));
        assert!(second.close.is_none(), "the journal was closed with the first");
        rig.outcome(&second, DeliveryOutcome::Delivered);
        assert!(rig.deliveries.is_empty());
        rig.assert_empty();
        // The leg lives.
        rig.send(&leg, Some(Y), &call(2, "echo"));
        rig.one_call();
    }
}

/// RFC 3261 §12.2.2: requests of ours that overtake each other get 500.
#[test]
fn xch_4_an_overtaken_message_goes_again_with_the_same_exchange_and_bytes_and_not_for_ever() {
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    rig.send(&leg, Some(X), &call(1, "deploy"));
    let (id, _) = rig.one_call();
    rig.delivers = false;
    rig.answer(id, &result(1, "x"));
    let first = rig.deliveries.remove(0);
    let mut carriers = vec![first.carrier];
    let mut last = first.clone();
    for _ in 0..100 {
        rig.outcome(&last, DeliveryOutcome::Refused { status: 500 });
        rig.pass(1_000);
        let Some(next) = rig.deliveries.pop() else { break };
        assert!(rig.deliveries.is_empty(), "one at a time");
        assert_eq!((&next.body, &next.exchange, next.id), (&first.body, &first.exchange, first.id));
        assert!(next.close.is_none(), "the journal was closed with the first");
        carriers.push(next.carrier);
        last = next;
    }
    assert_eq!(carriers.len(), 10, "eight more of the one carrier, then the other");
    assert!(carriers[..9].iter().all(|c| *c == Carrier::Message) && carriers[9] == Carrier::Info);
    rig.assert_empty();
}

#[test]
fn a_peer_that_asks_to_wait_is_believed_once() {
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    rig.send(&leg, Some(X), &call(1, "deploy"));
    let (id, _) = rig.one_call();
    rig.delivers = false;
    rig.answer(id, &result(1, "x"));
    let first = rig.deliveries.remove(0);
    rig.outcome(&first, DeliveryOutcome::Later { status: 503, after_s: 2 });
    rig.pass(1_900);
    assert!(rig.deliveries.is_empty());
    rig.pass(200);
    let again = rig.deliveries.remove(0);
    assert_eq!((again.carrier, &again.body), (first.carrier, &first.body));
    rig.outcome(&again, DeliveryOutcome::Later { status: 503, after_s: 2 });
    assert_eq!(rig.deliveries.remove(0).carrier, Carrier::Info, "the other carrier, at once");
}

#[test]
fn a_peer_without_a_flow_is_waited_for() {
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    rig.send(&leg, Some(X), &call(1, "deploy"));
    let (id, _) = rig.one_call();
    rig.delivers = false;
    rig.answer(id, &result(1, "x"));
    let began = rig.now.mono;
    let mut tries = 0;
    while let Some(delivery) = rig.deliveries.pop() {
        tries += 1;
        assert!(delivery.close.is_some() == (tries == 1), "the journal is not asked twice");
        rig.outcome(&delivery, DeliveryOutcome::FlowLost);
        rig.pass(4_000);
    }
    let waited_ms = rig.now.mono.millis_since(began);
    assert!((32_000..60_000).contains(&waited_ms), "as long as the journal keeps it: {waited_ms}");
    assert!((10..16).contains(&tries), "{tries}");
    assert_eq!(rig.engine.stats().undelivered, 1);
    rig.assert_empty();
}

/// What waits for callers without a flow has a bound, in number and in bytes.
#[test]
fn answers_that_wait_for_callers_without_a_flow_are_bounded() {
    let mut all = vec![agent("modern", &[MODERN])];
    all[0].timeout_ms = 1_000_000;
    let mut config = config(all, default_rules());
    config.edge.limits.in_flight_per_session = 10_000;
    let mut rig = Rig::new(config);
    let leg = rig.dialog("modern");
    rig.delivers = false;
    let text = "x".repeat(60_000);
    let count = 400_u16;
    for n in 0..count {
        rig.send(&leg, Some(&format!("xxxxxxxxxxxxxxxxxx{n:04}")), &call(n, "deploy"));
        let (id, _) = rig.new_calls().pop().unwrap();
        rig.answer(id, &result(n, &text));
    }
    // Everybody's connection is gone for ten seconds.
    for _ in 0..5 {
        for delivery in std::mem::take(&mut rig.deliveries) {
            rig.outcome(&delivery, DeliveryOutcome::FlowLost);
        }
        rig.pass(2_000);
    }
    let stats = rig.engine.stats();
    let kept = stats.deliveries;
    assert!((200..=16 * 1024 * 1024 / 60_000).contains(&kept), "{kept}");
    assert_eq!(stats.undelivered, u64::from(count) - kept as u64);
    // What ends gives its place back.
    rig.close(&leg);
    rig.assert_empty();
}

#[test]
fn xch_4_where_no_carrier_is_left_the_answer_waits_in_the_journal() {
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    rig.send(&leg, Some(X), &call(1, "deploy"));
    let (id, _) = rig.one_call();
    rig.delivers = false;
    rig.answer(id, &result(1, "x"));
    let first = rig.deliveries.remove(0);
    rig.run(session_store::op::StoreOp::CloseExchange((**first.close.as_ref().unwrap()).clone())).unwrap();
    rig.outcome(&first, DeliveryOutcome::Refused { status: 501 });
    let second = rig.deliveries.remove(0);
    rig.outcome(&second, DeliveryOutcome::Refused { status: 501 });
    assert!(rig.deliveries.is_empty());
    assert_eq!(rig.engine.stats().undelivered, 1);
    rig.assert_empty();
    rig.delivers = true;
    rig.send(&leg, Some(X), &call(1, "deploy"));
    assert_eq!(rig.one_delivery().1, result(1, "x"));
}

#[test]
fn out_of_a_dialog_there_is_no_info() {
    let mut rig = Rig::default();
    let leg = rig.out_of_dialog("both", "alice");
    rig.send(&leg, Some(X), &call(1, "echo"));
    let (id, _) = rig.one_call();
    rig.delivers = false;
    rig.answer(id, &result(1, "x"));
    let delivery = rig.deliveries.remove(0);
    assert_eq!(delivery.carrier, Carrier::Message);
    rig.outcome(&delivery, DeliveryOutcome::Refused { status: 415 });
    assert!(rig.deliveries.is_empty());
    rig.assert_empty();
}

#[test]
fn the_carrier_that_the_peer_used_comes_first() {
    let mut rig = Rig::default();
    let mut leg = (*rig.dialog("both")).clone();
    leg.carrier = Carrier::Info;
    rig.send(&leg.into(), Some(X), &call(1, "echo"));
    let (id, _) = rig.one_call();
    rig.answer(id, &result(1, "x"));
    assert_eq!(rig.deliveries[0].carrier, Carrier::Info);
}

#[test]
fn an_answer_that_fits_no_carrier_is_an_error_and_nothing_is_truncated() {
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    // Known at once: over the body limit of SIP.
    rig.send(&leg, Some(X), &call(1, "deploy"));
    let (id, _) = rig.one_call();
    let large = result(1, &"x".repeat(70_000));
    rig.answer(id, &large);
    let bytes = large.to_string().len();
    assert_eq!(rig.one_error(), (-31006, json!({"bytes": bytes, "limit": 65_536})));
    // Known when it is sent: no way but datagrams.
    rig.send(&leg, Some(Y), &call(2, "deploy"));
    let (id, _) = rig.one_call();
    rig.delivers = false;
    let large = result(2, &"x".repeat(2_000));
    rig.answer(id, &large);
    let delivery = rig.deliveries.remove(0);
    rig.outcome(&delivery, DeliveryOutcome::TooLarge { limit: 1_300 });
    let error = rig.deliveries.remove(0);
    assert_eq!(error.exchange, delivery.exchange);
    let body: serde_json::Value = serde_json::from_slice(&error.body).unwrap();
    assert_eq!(body["error"]["data"], json!({"bytes": large.to_string().len(), "limit": 1_300}));
    assert_eq!(body["id"], 2);
    // Even the error does not fit: that is the end of it.
    rig.outcome(&error, DeliveryOutcome::TooLarge { limit: 10 });
    assert!(rig.deliveries.is_empty());
    rig.assert_empty();
}

#[test]
fn an_answer_follows_a_caller_that_came_back_on_another_flow() {
    let mut rig = Rig::default();
    let leg = rig.out_of_dialog("both", "alice");
    rig.send(&leg, Some(X), &call(1, "deploy"));
    let (id, _) = rig.one_call();
    let mut moved = (*leg).clone();
    moved.plain_datagram = true;
    rig.send(&moved.into(), Some(X), &call(1, "deploy"));
    assert!(rig.calls.is_empty());
    rig.answer(id, &result(1, "x"));
    assert!(rig.deliveries[0].leg.plain_datagram);
}
