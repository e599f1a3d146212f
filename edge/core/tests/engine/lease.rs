//! A process that was stopped and goes on: what it reads then is old, and its lease may be over. It looks at that right before each forward,
//! resumption and delivery (sip.md, section 8, rule 2).

use std::sync::Arc;

use edge_core::effect::BackendAction;
use edge_core::engine::{Inbound, Leg, Ticket, Verdict, Written};
use edge_core::input::BackendEvent;
use serde_json::{Value, json};
use session_store::op::{StoreOp, StoreReply};
use session_store::record::Owner;
use sip_proto::time::Mono;

use super::rig::*;

/// How long the process is stopped; milliseconds.
const STOPPED_MS: u64 = 7_000;

fn edge() -> Rig {
    let mut rig = Rig::default();
    rig.has_dialogs = true;
    rig.valid_until = Some(rig.now.mono.plus_millis(3_500));
    rig
}

/// A call whose arguments may have to be mirrored in headers: the tool's schema is asked for first.
fn with_arguments(tool: &str) -> Value {
    modern(7, "tools/call", json!({ "name": tool, "arguments": { "a": 1 } }))
}

fn renew(rig: &mut Rig) {
    rig.valid_until = Some(rig.now.mono.plus_millis(3_600_000));
}

/// Time passes, and nothing of it is noticed.
fn stopped(rig: &mut Rig) {
    rig.now.mono = rig.now.mono.plus_millis(STOPPED_MS);
    rig.now.wall = rig.now.wall.plus_millis(STOPPED_MS);
}

/// Judged; its write is the test's.
fn write(rig: &mut Rig, leg: &Arc<Leg>, body: &Value) -> (Ticket, StoreOp) {
    let inbound = Inbound {
        leg: leg.clone(),
        exchange: Some(header(X)),
        body: body.to_string().into(),
        transaction: [1; 16],
        received: rig.now,
    };
    let verdict = rig.ctx(|engine, ctx| engine.judge(ctx, inbound));
    let Verdict::Write { ticket, open: Some(open), .. } = verdict else { panic!("{verdict:?}") };
    (ticket, StoreOp::OpenExchange { open, nonce: None })
}

/// The journal is written, the process stopped before it heard so; the status that it says when it goes on.
fn reads_an_old_reply(rig: &mut Rig, leg: &Arc<Leg>, body: &Value, meanwhile: impl FnOnce(&mut Rig)) -> u16 {
    let (ticket, operation) = write(rig, leg, body);
    let StoreReply::Exchange(outcome) = rig.run(operation).unwrap() else { panic!() };
    stopped(rig);
    meanwhile(rig);
    let answer = rig.ctx(|engine, ctx| engine.written(ctx, ticket, Ok(Written::Exchange(outcome))));
    rig.drain();
    answer.status
}

/// Answers what was forwarded; how many tool calls that were.
fn backend(rig: &mut Rig) -> usize {
    let mut count = 0;
    for (id, call) in rig.new_calls() {
        let BackendAction::Post { body } = &call.action else { continue };
        let body: Value = serde_json::from_slice(body).unwrap();
        if body["method"] == "tools/call" {
            count += 1;
            rig.answer(id, &result(body["id"].clone(), "done"));
        }
    }
    count
}

#[test]
fn sec_8_a_stopped_edge_that_goes_on_forwards_nothing_and_whoever_repeats_is_served_once() {
    for in_dialog in [true, false] {
        for tool in ["echo", "deploy"] {
            let mut rig = edge();
            let leg = if in_dialog { rig.dialog("modern") } else { rig.out_of_dialog("modern", "alice") };
            if in_dialog {
                rig.stored_dialog(&leg);
            }
            assert_eq!(reads_an_old_reply(&mut rig, &leg, &call(7, tool), |_| {}), 503);
            rig.pass(STOPPED_MS);
            assert!(rig.new_calls().is_empty() && rig.new_deliveries().is_empty(), "{tool}");
            rig.assert_empty();
            assert_eq!(rig.engine.stats().lapsed, 1);
            let owner = rig.owner;
            let mut other = edge();
            other.owner = Owner { pod: 2, epoch: 1, boot: 2 };
            other.takes_the_store_from(&mut rig);
            other.valid_until = None;
            assert_eq!(other.send(&leg, Some(X), &call(7, tool)), 200);
            if tool == "deploy" {
                // Its owner is asked, and has never heard of it.
                let (asked, key) = other.asked.remove(0);
                assert_eq!(asked, owner);
                assert_eq!(rig.ctx(|engine, ctx| engine.holds(ctx, key)), Some(false));
                other.ctx(|engine, ctx| engine.told(ctx, key, owner, false));
                other.drain();
            }
            assert!(other.asked.is_empty());
            assert_eq!(backend(&mut other), 1);
            assert_eq!(other.one_delivery().1, result(7, "done"));
            other.assert_empty();
        }
    }
}

#[test]
fn sec_8_what_was_adopted_meanwhile_stays_with_its_adopter() {
    for tool in ["echo", "deploy"] {
        let mut rig = edge();
        let leg = rig.dialog("modern");
        rig.stored_dialog(&leg);
        let heir = Owner { pod: 2, epoch: 1, boot: 2 };
        let dead = rig.owner;
        let status = reads_an_old_reply(&mut rig, &leg, &call(7, tool), |rig| {
            let operation = StoreOp::Adopt { slot: 3, from: dead, by: heir, limit: 9, lease_ms: 10_000 };
            let Ok(StoreReply::Adopted { items, .. }) = rig.run(operation) else { panic!() };
            assert_eq!(items.len(), 1);
        });
        assert_eq!(status, 503);
        renew(&mut rig);
        rig.pass(60_000);
        assert!(rig.new_calls().is_empty() && rig.new_deliveries().is_empty(), "{tool}");
        rig.assert_empty();
    }
}

#[test]
fn what_was_accepted_waits_for_the_lease_before_it_is_forwarded() {
    // The tool's schema is asked for first; its answer comes after the lease.
    let mut rig = edge();
    let leg = rig.dialog("modern");
    rig.stored_dialog(&leg);
    assert_eq!(rig.send(&leg, Some(X), &with_arguments("slow")), 200);
    let (id, asked) = rig.one_call();
    assert_eq!(body_of(&asked)["method"], "tools/list");
    stopped(&mut rig);
    let tools = json!({"jsonrpc": "2.0", "id": body_of(&asked)["id"], "result": {"resultType": "complete",
        "tools": [{"name": "slow", "inputSchema": {"type": "object"}}]}});
    rig.answer(id, &tools);
    rig.pass(STOPPED_MS);
    assert!(rig.new_calls().is_empty());
    // The same life has its lease again: nobody can have taken it.
    renew(&mut rig);
    rig.pass(600);
    assert_eq!(backend(&mut rig), 1);
    assert_eq!(rig.one_delivery().1, result(7, "done"));
    rig.assert_empty();
}

#[test]
fn what_was_accepted_in_an_earlier_life_waits_until_this_one_has_adopted_it() {
    for adopted in [true, false] {
        let mut rig = edge();
        let leg = rig.dialog("modern");
        rig.stored_dialog(&leg);
        assert_eq!(rig.send(&leg, Some(X), &with_arguments("slow")), 200);
        let (id, _) = rig.one_call();
        stopped(&mut rig);
        let before = rig.owner;
        if !adopted {
            let heir = Owner { pod: 2, epoch: 1, boot: 2 };
            rig.run(StoreOp::Adopt { slot: 3, from: before, by: heir, limit: 9, lease_ms: 10_000 }).unwrap();
        }
        rig.owner.epoch += 1;
        renew(&mut rig);
        rig.failed(id, edge_core::input::BackendFailure::Unreachable);
        rig.pass(2_000);
        assert!(rig.new_calls().is_empty(), "not this life's yet");
        assert_eq!(rig.adopt(before), usize::from(adopted));
        rig.pass(2 * TIMEOUT_MS);
        assert_eq!(backend(&mut rig), usize::from(adopted));
        let answers = rig.new_deliveries();
        assert_eq!(answers.len(), usize::from(adopted), "{answers:?}");
        rig.pass(60_000);
        rig.assert_empty();
    }
}

#[test]
fn the_opening_of_a_legacy_session_waits_for_the_lease() {
    let mut rig = edge();
    let leg = rig.dialog("legacy");
    rig.stored_dialog(&leg);
    let exchange = "initialize-xxxxxxxxxxx";
    assert_eq!(rig.send(&leg, Some(exchange), &initialize_request(0)), 200);
    let (id, _) = rig.one_call();
    rig.head(id, 200, Some("backend-1"));
    rig.message(id, &initialize_result(0));
    rig.done(id);
    rig.one_delivery();
    assert_eq!(rig.send(&leg, Some("session"), &initialized()), 200);
    let (stream, _) = rig.one_call();
    stopped(&mut rig);
    // The head of the server's stream was in the queue.
    rig.head(stream, 200, None);
    rig.pass(STOPPED_MS);
    assert!(rig.new_calls().is_empty(), "notifications/initialized waits");
    // What the caller sends now is refused, so that it sends it again.
    assert_eq!(
        rig.send(&leg, Some("session"), &json!({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"})),
        503
    );
    assert!(rig.new_calls().is_empty());
    renew(&mut rig);
    rig.pass(600);
    let (id, call) = rig.one_call();
    assert_eq!(body_of(&call), initialized());
    rig.head(id, 202, None);
    rig.done(id);
    // The stream breaks while there is no lease: it is asked for once there is one.
    rig.valid_until = Some(Mono(0));
    rig.done(stream);
    rig.pass(90_000);
    assert!(rig.new_calls().is_empty());
    renew(&mut rig);
    rig.pass(600);
    let (_, call) = rig.one_call();
    assert!(matches!(call.action, BackendAction::Listen { .. }), "{call:?}");
}

#[test]
fn neither_a_question_nor_a_deadline_of_a_stopped_edge_reaches_anybody() {
    let mut rig = edge();
    renew(&mut rig);
    let leg = rig.dialog("legacy");
    rig.stored_dialog(&leg);
    rig.initialize(&leg, true);
    assert_eq!(rig.send(&leg, Some(X), &legacy_call(7, "slow")), 200);
    let (id, _) = rig.one_call();
    rig.head(id, 200, None);
    rig.valid_until = Some(rig.now.mono);
    let question = json!({"jsonrpc": "2.0", "id": "q", "method": "roots/list"});
    rig.message(id, &question);
    assert!(rig.new_deliveries().is_empty());
    // Its deadline passes: the backend is not told that nobody waits.
    rig.pass(12 * 60_000);
    assert!(rig.cancelled.is_empty(), "{:?}", rig.cancelled);
    assert!(rig.new_calls().is_empty());
    assert!(rig.new_deliveries().is_empty());
    renew(&mut rig);
    rig.pass(60_000);
    assert!(!rig.cancelled.is_empty(), "the deadline's work is done now");
    assert!(rig.new_deliveries().iter().any(|(_, body)| body["error"]["code"] == -31001), "and its caller hears so");
}

#[test]
fn a_position_in_a_stream_is_no_reason_to_act() {
    let mut rig = edge();
    let leg = rig.dialog("modern");
    rig.stored_dialog(&leg);
    assert_eq!(rig.send(&leg, Some(X), &call(7, "deploy")), 200);
    let (id, asked) = rig.one_call();
    stopped(&mut rig);
    rig.event(id, BackendEvent::Position { event_id: "1".into() });
    assert!(rig.new_calls().is_empty() && rig.new_deliveries().is_empty());
    drop(asked);
}
