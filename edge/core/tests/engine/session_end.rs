//! The end of a leg empties everything that belonged to it.

use edge_core::audit::Outcome;
use edge_core::effect::BackendAction;
use edge_core::engine::{Inbound, Verdict, Written};
use serde_json::json;
use session_store::op::{StoreOp, StoreReply};

use super::rig::*;

#[test]
fn bye_cancels_modern_exchanges_by_closing_their_streams() {
    let mut rig = Rig::default();
    let leg = rig.dialog("modern");
    let other = rig.dialog_with("modern", 2, Some(mcp_record()));
    rig.send(&leg, Some(X), &call(1, "slow"));
    let (id, _) = rig.one_call();
    rig.send(&other, Some(X), &call(1, "slow"));
    let (stays, _) = rig.one_call();
    rig.close(&leg);
    assert_eq!(rig.cancelled, [id]);
    assert!(rig.deliveries.is_empty() && rig.calls.is_empty());
    assert_eq!(rig.audits.last().unwrap().outcome, Outcome::Cancelled);
    rig.answer(id, &result(1, "late"));
    assert!(rig.deliveries.is_empty());
    rig.answer(stays, &result(1, "mine"));
    assert_eq!(rig.one_delivery().1, result(1, "mine"));
    rig.assert_empty();
    rig.pass(60_000);
    assert_eq!(rig.store.counts().exchanges, 1, "only the other leg's kept answer");
}

#[test]
fn bye_ends_the_legacy_session_cancellations_first_then_delete() {
    let mut rig = Rig::default();
    let leg = rig.dialog("legacy");
    let stream = rig.initialize(&leg, true);
    rig.send(&leg, Some(X), &legacy_call(1, "slow"));
    let (one, _) = rig.one_call();
    rig.send(&leg, Some(Y), &legacy_call("two", "slow"));
    let (two, _) = rig.one_call();
    rig.close(&leg);
    assert_eq!(rig.cancelled, [one, two, stream]);
    let calls = rig.new_calls();
    let ids: Vec<_> = calls.iter().map(|(_, call)| body_of(call)["params"]["requestId"].clone()).collect();
    assert_eq!(ids, [json!(1), json!("two")]);
    rig.done(calls[0].0);
    assert!(rig.calls.is_empty(), "not before the other is heard");
    rig.failed(calls[1].0, edge_core::input::BackendFailure::Unreachable);
    let (end, call) = rig.one_call();
    assert_eq!((call.action, call.session.as_deref()), (BackendAction::EndSession, Some("backend-1")));
    rig.done(end);
    assert_eq!((rig.store.counts().sessions, rig.store.counts().exchanges), (0, 0));
    rig.assert_empty();
}

#[test]
fn bye_at_an_edge_that_never_saw_the_session_ends_it_too() {
    let mut rig = Rig::default();
    let leg = rig.dialog("legacy");
    rig.initialize(&leg, true);
    let mut other = rig.other_edge();
    other.close(&leg);
    let (end, call) = other.one_call();
    assert_eq!((call.action, call.session.as_deref()), (BackendAction::EndSession, Some("backend-1")));
    other.done(end);
    assert_eq!(other.store.counts().sessions, 0);
    other.assert_empty();
    // A leg without any MCP work.
    let plain = other.dialog_with("legacy", 9, None);
    other.close(&plain);
    assert!(other.calls.is_empty());
    other.assert_empty();
}

#[test]
fn a_write_that_is_answered_after_the_end_opens_nothing() {
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    let inbound = |body: String| Inbound {
        leg: leg.clone(),
        exchange: Some(header(X)),
        body: body.into(),
        transaction: [1; 16],
        received: edge_core_now(&rig),
    };
    let request = inbound(call(1, "deploy").to_string());
    let Verdict::Write { ticket, open: Some(open), .. } = rig.ctx(|engine, ctx| engine.judge(ctx, request)) else {
        panic!("a write")
    };
    rig.close(&leg);
    let Ok(StoreReply::Exchange(outcome)) = rig.run(StoreOp::OpenExchange { open, nonce: None }) else { panic!() };
    let answer = rig.ctx(|engine, ctx| engine.written(ctx, ticket, Ok(Written::Exchange(outcome))));
    rig.drain();
    assert_eq!(answer.status, 481);
    assert!(rig.calls.is_empty() && rig.deliveries.is_empty());
    rig.assert_empty();
}

fn edge_core_now(rig: &Rig) -> sip_proto::time::Now {
    rig.now
}

#[test]
fn a_leg_that_closes_while_its_session_opens_leaves_nothing_behind() {
    // At every moment of the opening.
    for stop in 0..6 {
        let mut rig = Rig::default();
        let leg = rig.dialog("legacy");
        rig.send(&leg, Some(X), &initialize_request(0));
        let mut open = vec![rig.one_call().0];
        if stop > 0 {
            rig.head(open[0], 200, Some("backend-1"));
        }
        if stop > 1 {
            rig.message(open[0], &initialize_result(0));
        }
        if stop > 2 {
            rig.send(&leg, None, &initialized());
            open.push(rig.one_call().0);
        }
        if stop > 3 {
            rig.send(&leg, Some(Y), &legacy_call(1, "slow"));
        }
        if stop > 4 {
            rig.head(open[1], 200, None);
            open.push(rig.one_call().0);
        }
        rig.new_deliveries();
        rig.close(&leg);
        for id in open {
            rig.done(id);
        }
        for _ in 0..3 {
            for (id, _) in rig.new_calls() {
                rig.done(id);
            }
        }
        assert!(rig.deliveries.is_empty(), "{stop}");
        assert_eq!((rig.store.counts().sessions, rig.store.counts().exchanges), (0, 0), "{stop}");
        rig.assert_empty();
    }
}

#[test]
fn a_session_that_is_idle_here_and_used_elsewhere_lives() {
    let mut rig = Rig::default();
    let leg = rig.out_of_dialog("legacy", "alice");
    let stream = rig.initialize(&leg, true);
    // Four minutes later another edge serves it.
    let elsewhere = StoreOp::ReadSession { session: leg.session, ttl_ms: 360_000 };
    rig.pass(240_000);
    rig.run(elsewhere).unwrap();
    rig.pass(61_000);
    assert_eq!(rig.cancelled, [stream], "the stream is the other edge's now");
    assert!(rig.calls.is_empty(), "nothing ends at the backend");
    assert_eq!(rig.store.counts().sessions, 1);
    rig.assert_empty();
    // The next message that comes here finds it.
    assert_eq!(rig.send(&leg, Some(X), &legacy_call(1, "echo")), 200);
    assert_eq!(rig.new_calls().len(), 2);
}

#[test]
fn a_leg_that_closed_elsewhere_is_forgotten_here() {
    let mut rig = Rig::default();
    let leg = rig.dialog("legacy");
    let stream = rig.initialize(&leg, true);
    rig.run(StoreOp::DropSession { session: leg.session, if_ends_within_ms: None }).unwrap();
    rig.pass(31 * 60_000);
    assert_eq!(rig.cancelled, [stream]);
    rig.assert_empty();
}

#[test]
fn an_idle_session_ends_once_the_store_is_there_again() {
    let mut rig = Rig::default();
    let leg = rig.out_of_dialog("legacy", "alice");
    rig.initialize(&leg, true);
    rig.store_is_up = false;
    rig.pass(310_000);
    assert!(rig.calls.is_empty());
    rig.store_is_up = true;
    rig.pass(31_000);
    let (end, call) = rig.one_call();
    assert_eq!(call.action, BackendAction::EndSession);
    rig.done(end);
    rig.assert_empty();
}
