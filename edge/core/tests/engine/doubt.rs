//! The write that opened an exchange was executed, and its edge never heard so: it answered 503 and forgot. The repetition is answered 200,
//! so it is served: by whoever finds out that nobody else does, and once.

use std::sync::Arc;

use edge_core::engine::{DeliveryOutcome, Inbound, Leg, Ticket, Verdict, Written};
use serde_json::Value;
use session_store::key::ExchangeKey;
use session_store::op::{CloseExchange, StoreError, StoreOp, StoreReply};
use sip_proto::time::Mono;

use super::rig::*;

fn edge() -> Rig {
    Rig::new(config(vec![agent("modern", &[MODERN]), agent("legacy", &[LEGACY])], default_rules()))
}

/// Judged; its write is the test's.
fn write(rig: &mut Rig, leg: &Arc<Leg>, body: &Value) -> (Ticket, ExchangeKey, StoreOp) {
    let inbound = Inbound {
        leg: leg.clone(),
        exchange: Some(header(X)),
        body: body.to_string().into(),
        transaction: [1; 16],
        received: rig.now,
    };
    let verdict = rig.ctx(|engine, ctx| engine.judge(ctx, inbound));
    let Verdict::Write { ticket, open: Some(open), .. } = verdict else { panic!("{verdict:?}") };
    (ticket, open.key, StoreOp::OpenExchange { open, nonce: None })
}

fn redeem(rig: &mut Rig, ticket: Ticket, outcome: Result<Written, StoreError>) -> u16 {
    let answer = rig.ctx(|engine, ctx| engine.written(ctx, ticket, outcome));
    rig.drain();
    answer.status
}

/// The store has it, and the edge has not heard so.
fn lose_the_reply(rig: &mut Rig, leg: &Arc<Leg>, body: &Value) -> ExchangeKey {
    let (ticket, key, operation) = write(rig, leg, body);
    rig.run(operation).unwrap();
    assert_eq!(redeem(rig, ticket, Err(StoreError::Unavailable)), 503);
    key
}

/// The forward is answered, and the answer delivered.
fn is_answered(rig: &mut Rig) {
    let (id, _) = rig.one_call();
    rig.answer(id, &result(7, "done"));
    assert_eq!(rig.new_deliveries().into_iter().map(|(_, body)| body).collect::<Vec<_>>(), [result(7, "done")]);
}

fn holds(rig: &mut Rig, key: ExchangeKey) -> Option<bool> {
    rig.ctx(|engine, ctx| engine.holds(ctx, key))
}

fn told(rig: &mut Rig, by: session_store::record::Owner, key: ExchangeKey, held: bool) {
    rig.ctx(|engine, ctx| engine.told(ctx, key, by, held));
    rig.drain();
}

#[test]
fn what_the_edge_itself_has_not_heard_of_is_run_when_it_is_repeated() {
    for in_dialog in [true, false] {
        let mut rig = edge();
        let leg = if in_dialog { rig.dialog("modern") } else { rig.out_of_dialog("modern", "alice") };
        let body = call(7, "deploy");
        let key = lose_the_reply(&mut rig, &leg, &body);
        assert!(rig.calls.is_empty());
        assert_eq!(rig.send(&leg, Some(X), &body), 200);
        assert_eq!(holds(&mut rig, key), Some(true));
        // Once.
        assert_eq!(rig.send(&leg, Some(X), &body), 200);
        is_answered(&mut rig);
        rig.pass(60_000);
        assert!(rig.new_calls().is_empty() && rig.new_deliveries().is_empty());
        assert_eq!(rig.engine.stats().taken_over, 1);
        assert_eq!(rig.audits.len(), 1);
        rig.assert_empty();
    }
}

#[test]
fn another_edge_asks_the_owner_and_runs_it_only_where_that_does_not_hold_it() {
    for held in [true, false] {
        let mut first = edge();
        let leg = first.out_of_dialog("modern", "alice");
        let body = call(7, "deploy");
        let key = if held {
            let (ticket, key, operation) = write(&mut first, &leg, &body);
            let StoreReply::Exchange(outcome) = first.run(operation).unwrap() else { panic!() };
            assert_eq!(redeem(&mut first, ticket, Ok(Written::Exchange(outcome))), 200);
            key
        } else {
            lose_the_reply(&mut first, &leg, &body)
        };
        let owner = first.owner;
        assert_eq!(holds(&mut first, key), Some(held));
        let mut other = first.other_edge();
        assert_eq!(other.send(&leg, Some(X), &body), 200);
        assert_eq!(other.asked, [(owner, key)]);
        assert!(other.calls.is_empty(), "before it knows nothing runs");
        // No answer came: it is asked again.
        other.pass(1_000);
        assert_eq!(other.asked.len(), 2);
        told(&mut other, owner, key, held);
        if held {
            other.pass(60_000);
            assert!(other.calls.is_empty());
        } else {
            is_answered(&mut other);
        }
        // An answer that comes twice changes nothing.
        told(&mut other, owner, key, false);
        assert!(other.new_calls().is_empty());
        other.assert_empty();
    }
}

/// It may be a life that is over, whose next one ended what it adopted.
#[test]
fn xch_6_where_the_owner_says_nothing_the_store_is_asked_who_has_it() {
    let mut first = edge();
    let leg = first.out_of_dialog("modern", "alice");
    let body = call(7, "echo");
    let key = lose_the_reply(&mut first, &leg, &body);
    let owner = first.owner;
    let mut other = first.other_edge();
    assert_eq!(other.send(&leg, Some(X), &body), 200);
    assert_eq!(other.asked, [(owner, key)]);
    other.pass(1_000);
    assert!(other.calls.is_empty(), "the owner has it still, and may live");
    other.run(StoreOp::CloseExchange(CloseExchange { key, owner, answer: None, is_held: false })).unwrap();
    other.pass(10_000);
    is_answered(&mut other);
    other.assert_empty();
}

#[test]
fn what_was_given_up_for_another_edge_is_not_run_by_its_owner() {
    let mut first = edge();
    let leg = first.out_of_dialog("modern", "alice");
    let body = call(7, "deploy");
    let key = lose_the_reply(&mut first, &leg, &body);
    assert_eq!(holds(&mut first, key), Some(false));
    // The other one has not written yet.
    assert_eq!(first.send(&leg, Some(X), &body), 503);
    assert_eq!(holds(&mut first, key), Some(false));
    assert!(first.calls.is_empty());
    first.assert_empty();
}

#[test]
fn a_write_that_is_under_way_decides() {
    let mut rig = edge();
    let leg = rig.out_of_dialog("modern", "alice");
    let body = call(7, "deploy");
    let (ticket, key, operation) = write(&mut rig, &leg, &body);
    rig.run(operation).unwrap();
    assert_eq!(rig.send(&leg, Some(X), &body), 200);
    assert_eq!(holds(&mut rig, key), None);
    assert!(rig.calls.is_empty());
    assert_eq!(redeem(&mut rig, ticket, Err(StoreError::Unavailable)), 503);
    rig.pass(1_000);
    is_answered(&mut rig);
    rig.pass(60_000);
    rig.assert_empty();
}

#[test]
fn a_taking_over_without_a_reply_is_tried_again_and_runs_once() {
    let mut first = edge();
    let leg = first.out_of_dialog("modern", "alice");
    let body = call(7, "deploy");
    let key = lose_the_reply(&mut first, &leg, &body);
    let owner = first.owner;
    let mut other = first.other_edge();
    assert_eq!(other.send(&leg, Some(X), &body), 200);
    other.store_is_up = false;
    told(&mut other, owner, key, false);
    assert_eq!(holds(&mut other, key), None, "its own write decides");
    other.store_is_up = true;
    other.pass(1_000);
    told(&mut other, owner, key, false);
    is_answered(&mut other);
    other.pass(60_000);
    other.assert_empty();
}

#[test]
fn without_a_lease_nothing_is_taken_and_a_leg_that_ends_leaves_no_doubt() {
    let mut rig = edge();
    let leg = rig.out_of_dialog("modern", "alice");
    let body = call(7, "deploy");
    lose_the_reply(&mut rig, &leg, &body);
    // The lease ends while the repetition is written.
    let (ticket, _, operation) = write(&mut rig, &leg, &body);
    rig.valid_until = Some(Mono(0));
    let Ok(StoreReply::Exchange(outcome)) = rig.run(operation) else { panic!("in flight") };
    assert_eq!(redeem(&mut rig, ticket, Ok(Written::Exchange(outcome))), 200);
    assert!(rig.calls.is_empty());
    rig.close(&leg);
    rig.valid_until = None;
    rig.pass(60_000);
    assert!(rig.calls.is_empty());
    rig.assert_empty();
}

#[test]
fn xch_6_what_was_opened_when_the_lease_ended_is_not_forwarded_and_its_adopter_tells_its_caller() {
    let mut rig = edge();
    let leg = rig.dialog("modern");
    rig.stored_dialog(&leg);
    let body = call(7, "deploy");
    let (ticket, _, operation) = write(&mut rig, &leg, &body);
    let Ok(StoreReply::Exchange(outcome)) = rig.run(operation) else { panic!("opened") };
    // It stood still before it read the reply.
    rig.valid_until = Some(Mono(0));
    assert_eq!(redeem(&mut rig, ticket, Ok(Written::Exchange(outcome))), 503);
    // And nothing is begun in a life that has ended.
    assert_eq!(rig.send(&leg, Some(X), &body), 503);
    assert!(rig.calls.is_empty());
    rig.assert_empty();
    let dead = rig.owner;
    let mut heir = rig.other_edge();
    assert_eq!(heir.adopt(dead), 1);
    assert_eq!(heir.one_error().0, -31001);
    assert!(heir.calls.is_empty());
    heir.pass(60_000);
    heir.assert_empty();
}

#[test]
fn a_legacy_request_whose_session_is_gone_is_answered_all_the_same() {
    let mut rig = edge();
    let leg = rig.out_of_dialog("legacy", "alice");
    let body = legacy_call(7, "deploy");
    lose_the_reply(&mut rig, &leg, &body);
    assert_eq!(rig.send(&leg, Some(X), &body), 200);
    let answers = rig.new_deliveries();
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!(answers[0].1["error"]["code"], -31001);
    rig.pass(3_600_000);
    rig.assert_empty();
}

#[test]
fn what_was_answered_503_is_not_run_by_the_next_life_of_its_edge() {
    for in_dialog in [true, false] {
        let mut rig = edge();
        let leg = if in_dialog { rig.dialog("modern") } else { rig.out_of_dialog("modern", "alice") };
        if in_dialog {
            rig.stored_dialog(&leg);
        }
        let body = call(7, "echo");
        let key = lose_the_reply(&mut rig, &leg, &body);
        // The store was away so long that the lease ended, and each new epoch adopts what the last one left.
        for _ in 0..3 {
            let before = rig.owner;
            rig.owner.epoch += 1;
            rig.adopt(before);
            rig.pass(1_000);
        }
        assert!(rig.new_calls().is_empty() && rig.new_deliveries().is_empty(), "nobody waits for it");
        assert_ne!(holds(&mut rig, key), Some(true));
        // A repetition is a new request, at whichever edge.
        let mut other = rig.other_edge();
        assert_eq!(other.send(&leg, Some(X), &body), 200);
        is_answered(&mut other);
        other.assert_empty();
    }
}

#[test]
fn what_its_caller_has_the_answer_to_is_not_run_again_because_its_end_was_not_written() {
    for tool in ["echo", "deploy"] {
        let mut rig = edge();
        rig.has_dialogs = true;
        let leg = rig.dialog("modern");
        rig.stored_dialog(&leg);
        rig.delivers = false;
        assert_eq!(rig.send(&leg, Some(X), &call(7, tool)), 200);
        let (id, _) = rig.one_call();
        rig.answer(id, &result(7, "done"));
        let delivery = rig.deliveries.remove(0);
        rig.run(StoreOp::CloseExchange(*delivery.close.clone().unwrap())).unwrap();
        // The caller says 200, and the store is away.
        rig.store_is_up = false;
        rig.outcome(&delivery, DeliveryOutcome::Delivered);
        rig.store_is_up = true;
        for adopted in [1, 0, 0] {
            let before = rig.owner;
            rig.owner.epoch += 1;
            assert_eq!(rig.adopt(before), adopted, "{tool}");
            rig.pass(1_000);
        }
        assert!(rig.new_calls().is_empty() && rig.new_deliveries().is_empty(), "{tool}");
        rig.assert_empty();
        // What was kept is given to a repetition.
        rig.delivers = true;
        if tool == "deploy" {
            assert_eq!(rig.send(&leg, Some(X), &call(7, tool)), 200);
            assert_eq!(rig.one_delivery().1, result(7, "done"));
            assert!(rig.new_calls().is_empty());
        }
    }
}

#[test]
fn copies_of_a_request_whose_answer_waits_for_the_store_do_not_run() {
    let mut rig = edge();
    rig.has_dialogs = true;
    let leg = rig.dialog("modern");
    rig.stored_dialog(&leg);
    rig.delivers = false;
    assert_eq!(rig.send(&leg, Some(X), &call(7, "echo")), 200);
    let (id, _) = rig.one_call();
    rig.answer(id, &result(7, "done"));
    // Each try is executed by the store, and its reply is lost.
    for _ in 0..4 {
        let delivery = rig.deliveries.pop().expect("tried again");
        rig.run(StoreOp::CloseExchange(*delivery.close.clone().unwrap())).unwrap();
        rig.outcome(&delivery, DeliveryOutcome::StoreUnavailable);
        for _ in 0..3 {
            // Its own edge has the answer.
            assert_eq!(rig.send(&leg, Some(X), &call(7, "echo")), 200);
            assert!(rig.new_calls().is_empty());
        }
        rig.pass(4_000);
    }
    let mut other = edge();
    other.owner.pod = 2;
    other.takes_the_store_from(&mut rig);
    assert_eq!(other.send(&leg, Some(X), &call(7, "echo")), 200);
    assert!(other.new_calls().is_empty(), "another edge finds it in the journal");
    assert_eq!(other.one_delivery().1, result(7, "done"));
}

#[test]
fn xch_6_an_answer_that_another_edge_took_the_exchange_of_and_forgot_leaves_after_all() {
    for in_dialog in [true, false] {
        for held in [true, false] {
            let mut rig = edge();
            rig.has_dialogs = in_dialog;
            let leg = if in_dialog { rig.dialog("modern") } else { rig.out_of_dialog("modern", "alice") };
            if in_dialog {
                rig.stored_dialog(&leg);
            }
            let body = call(7, "echo");
            rig.delivers = false;
            assert_eq!(rig.send(&leg, Some(X), &body), 200);
            let (id, _) = rig.one_call();
            rig.answer(id, &result(7, "done"));
            // Executed, and the reply is lost.
            let delivery = rig.deliveries.pop().expect("the answer");
            rig.run(StoreOp::CloseExchange(*delivery.close.clone().unwrap())).unwrap();
            rig.outcome(&delivery, DeliveryOutcome::StoreUnavailable);
            // No answer is kept, so a copy at another edge is a new request there.
            let mut other = edge();
            other.owner.pod = 2;
            other.takes_the_store_from(&mut rig);
            let key = if held {
                let (ticket, key, operation) = write(&mut other, &leg, &body);
                let StoreReply::Exchange(outcome) = other.run(operation).unwrap() else { panic!() };
                assert_eq!(redeem(&mut other, ticket, Ok(Written::Exchange(outcome))), 200);
                key
            } else {
                lose_the_reply(&mut other, &leg, &body)
            };
            rig.takes_the_store_from(&mut other);
            rig.delivers = true;
            rig.pass(600);
            rig.pass(1_000);
            assert_eq!(rig.asked, [(other.owner, key)]);
            assert_eq!(holds(&mut other, key), Some(held));
            rig.new_deliveries();
            told(&mut rig, other.owner, key, held);
            let said: Vec<_> = rig.new_deliveries().into_iter().map(|(_, body)| body).collect();
            assert_eq!(said, if held { vec![] } else { vec![result(7, "done")] });
            rig.pass(60_000);
            assert!(rig.new_calls().is_empty() && rig.new_deliveries().is_empty(), "it ran once");
            rig.assert_empty();
        }
    }
}
