//! The legacy session: made by `initialize`, opened in order, kept, lost, found again.

use edge_core::audit::AuditKind;
use edge_core::effect::BackendAction;
use edge_core::engine::Held;
use edge_core::input::{BackendEvent, BackendFailure};
use serde_json::{Value, json};
use session_store::memory::{Capacity, MemoryStore};
use session_store::op::{StoreOp, StoreReply};

use super::rig::*;

#[test]
fn the_session_is_stored_before_the_answer_to_initialize_leaves() {
    let mut rig = Rig::default();
    let leg = rig.dialog("legacy");
    rig.send(&leg, Some(X), &initialize_request(0));
    let (id, call) = rig.one_call();
    assert_eq!(body_of(&call), initialize_request(0));
    rig.steps.clear();
    rig.head(id, 200, Some("backend-1"));
    rig.message(id, &initialize_result(0));
    assert_eq!(rig.steps, [Step::Store("WriteSession"), Step::Audit, Step::Deliver, Step::Store("CloseExchange")]);
    let reply = rig.run(StoreOp::ReadSession { session: leg.session, ttl_ms: 0 }).unwrap();
    let StoreReply::Session { record, .. } = reply else { panic!("{reply:?}") };
    assert_eq!(record.backend_session.as_deref(), Some("backend-1"));
    assert_eq!(record.version.as_deref(), Some(LEGACY));
    assert_eq!((record.principal.as_str(), record.initialized), ("sip:alice@demo.example", false));
    assert_eq!(record.agent, "demo/legacy");
}

#[test]
fn without_the_store_there_is_no_session_and_the_backend_hears_so() {
    let mut rig = Rig::default();
    let leg = rig.dialog("legacy");
    rig.send(&leg, Some(X), &initialize_request(0));
    let (id, _) = rig.one_call();
    rig.store_is_up = false;
    rig.head(id, 200, Some("backend-1"));
    rig.message(id, &initialize_result(0));
    rig.done(id);
    rig.store_is_up = true;
    rig.pass(10_000);
    let (code, data) = {
        let all = rig.new_deliveries();
        let error = &all.last().unwrap().1["error"];
        (error["code"].as_i64(), error["data"].clone())
    };
    assert_eq!((code, data), (Some(-31004), json!({"retry": true})));
    let (end, call) = rig.one_call();
    assert_eq!((call.action, call.session.as_deref()), (BackendAction::EndSession, Some("backend-1")));
    rig.done(end);
    rig.assert_empty();
}

#[test]
fn the_stream_is_open_before_initialized_is_forwarded_and_requests_wait_for_both() {
    let mut rig = Rig::default();
    let leg = rig.dialog("legacy");
    rig.send(&leg, Some(X), &initialize_request(0));
    let (id, _) = rig.one_call();
    rig.head(id, 200, Some("backend-1"));
    rig.message(id, &initialize_result(0));
    rig.done(id);
    rig.new_deliveries();
    rig.send(&leg, Some("session;rel=caller"), &initialized());
    let (stream, call) = rig.one_call();
    assert_eq!(call.action, BackendAction::Listen { last_event_id: None });
    assert_eq!((call.session.as_deref(), call.timeout_ms), (Some("backend-1"), 0));
    // A hasty caller.
    rig.send(&leg, Some(X), &legacy_call(1, "echo"));
    rig.send(
        &leg,
        Some("session;rel=caller"),
        &json!({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}),
    );
    assert!(rig.calls.is_empty());
    rig.head(stream, 200, None);
    let (announce, call) = rig.one_call();
    assert_eq!(body_of(&call), initialized());
    rig.head(announce, 202, None);
    let calls = rig.new_calls();
    assert_eq!(calls.len(), 2);
    assert_eq!(body_of(&calls[0].1), legacy_call(1, "echo"));
    assert_eq!(body_of(&calls[1].1)["method"], "notifications/roots/list_changed");
}

#[test]
fn a_server_without_a_stream_or_with_a_slow_one_is_served_all_the_same() {
    // 405, a failure, and silence.
    for how in 0..3 {
        let mut rig = Rig::default();
        let leg = rig.dialog("legacy");
        rig.send(&leg, Some(X), &initialize_request(0));
        let (id, _) = rig.one_call();
        rig.answer(id, &initialize_result(0));
        rig.send(&leg, None, &initialized());
        let (stream, call) = rig.one_call();
        assert_eq!(call.session, None, "a stateless legacy server");
        match how {
            0 => {
                rig.head(stream, 405, None);
                rig.done(stream);
            }
            1 => rig.failed(stream, BackendFailure::Unreachable),
            _ => rig.pass(3_000),
        }
        let (announce, call) = rig.one_call();
        assert_eq!(body_of(&call), initialized());
        rig.done(announce);
        rig.send(&leg, Some(Y), &legacy_call(1, "echo"));
        rig.one_call();
        // A stream that failed is asked for again, one that does not exist is not.
        rig.pass(31_000);
        let again = rig.new_calls().iter().any(|(_, call)| matches!(call.action, BackendAction::Listen { .. }));
        assert_eq!(again, how == 1, "{how}");
    }
}

#[test]
fn an_error_on_initialize_makes_no_session() {
    let mut rig = Rig::default();
    let leg = rig.dialog("legacy");
    rig.send(&leg, Some(X), &initialize_request(0));
    let (id, _) = rig.one_call();
    let error = json!({"jsonrpc": "2.0", "id": 0, "error": {"code": -32602, "message": "no"}});
    rig.answer(id, &error);
    assert_eq!(rig.one_delivery().1, error);
    assert_eq!(rig.store.counts().sessions, 0);
    rig.assert_empty();
}

#[test]
fn initializing_again_ends_the_older_session() {
    let mut rig = Rig::default();
    let leg = rig.dialog("legacy");
    let stream = rig.initialize(&leg, true);
    rig.send(&leg, Some(X), &initialize_request(5));
    let (id, call) = rig.one_call();
    assert_eq!(call.session, None);
    rig.head(id, 200, Some("backend-2"));
    rig.message(id, &initialize_result(5));
    rig.done(id);
    assert_eq!(rig.one_delivery().1, initialize_result(5));
    assert_eq!(rig.cancelled, [stream]);
    let (_, call) = rig.one_call();
    assert_eq!((call.action, call.session.as_deref()), (BackendAction::EndSession, Some("backend-1")));
    assert_eq!(rig.store.counts().sessions, 1);
}

#[test]
fn a_session_that_the_backend_forgot_is_lost_until_the_caller_initializes_again() {
    let mut rig = Rig::default();
    let leg = rig.dialog("legacy");
    let stream = rig.initialize(&leg, true);
    rig.send(&leg, Some(X), &legacy_call(1, "deploy"));
    let (id, _) = rig.one_call();
    rig.head(id, 404, None);
    rig.failed(id, BackendFailure::SessionGone);
    let gone = (-31001, json!({"retry": true, "executed": "no"}));
    assert_eq!(rig.one_error(), gone);
    assert_eq!(rig.cancelled, [stream]);
    rig.send(&leg, Some(Y), &legacy_call(2, "deploy"));
    assert_eq!(rig.one_error(), gone);
    assert!(rig.calls.is_empty());
    // Another edge knows it too.
    let mut other = rig.other_edge();
    other.send(&leg, Some(X), &legacy_call(3, "deploy"));
    assert_eq!(other.one_error(), gone);
    other.initialize(&leg, true);
    other.send(&leg, Some(Y), &legacy_call(4, "deploy"));
    other.one_call();
}

#[test]
fn another_edge_finds_the_session_in_the_store_and_opens_the_stream_again() {
    let mut rig = Rig::default();
    let leg = rig.dialog("legacy");
    rig.initialize(&leg, true);
    let mut other = rig.other_edge();
    assert_eq!(other.send(&leg, Some(X), &legacy_call(1, "echo")), 200);
    let calls = other.new_calls();
    assert!(calls.iter().any(|(_, call)| matches!(call.action, BackendAction::Listen { .. })));
    let forward = calls.iter().find(|(_, call)| matches!(call.action, BackendAction::Post { .. })).unwrap();
    assert_eq!(forward.1.session.as_deref(), Some("backend-1"));

    // A notification finds it by a read.
    let mut third = other.other_edge();
    let note = json!({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"});
    third.send(&leg, Some("session;rel=caller"), &note);
    let calls = third.new_calls();
    assert!(
        calls.iter().any(|(_, call)| matches!(&call.action, BackendAction::Post { body } if *body == note.to_string()))
    );
    // Another leg has no part in it.
    let stranger = third.dialog_with("legacy", 7, Some(mcp_record()));
    third.send(&stranger, Some("session;rel=caller"), &note);
    assert!(third.new_calls().is_empty());
    assert_eq!(third.engine.stats().unmatched, 1);
}

fn posted(rig: &mut Rig) -> Vec<Value> {
    let calls = rig.new_calls();
    calls
        .iter()
        .filter(|(_, call)| matches!(call.action, BackendAction::Post { .. }))
        .map(|(_, c)| body_of(c))
        .collect()
}

/// The caller sends each message to another edge of the fleet.
#[test]
fn xch_5_answers_and_cancellations_reach_the_backend_by_any_edge() {
    let mut rig = Rig::default();
    rig.valid_until = Some(rig.now.mono.plus_millis(1_000_000));
    let leg = rig.dialog("legacy");
    rig.initialize(&leg, true);
    rig.send(&leg, Some(X), &legacy_call(1, "slow"));
    let (id, _) = rig.one_call();
    rig.message(id, &json!({"jsonrpc": "2.0", "id": "q", "method": "elicitation/create", "params": {"message": "?"}}));
    rig.new_deliveries();
    let mut other = rig.other_edge();
    other.valid_until = Some(other.now.mono.plus_millis(1_000_000));
    // The answer to what the first one asked.
    let reply = json!({"jsonrpc": "2.0", "id": "q", "result": {"action": "accept"}});
    other.send(&leg, Some(X), &reply);
    assert_eq!(posted(&mut other), std::slice::from_ref(&reply));
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}});
    other.send(&leg, Some(X), &cancel);
    assert_eq!(posted(&mut other), std::slice::from_ref(&cancel));
    // Where the exchange is this edge's own, what contradicts it is dropped (SEC-12).
    other.send(&leg, Some(Y), &legacy_call(2, "slow"));
    assert_eq!(posted(&mut other).len(), 1);
    other.send(&leg, Some(Y), &reply);
    other.send(&leg, Some(Y), &cancel);
    assert!(posted(&mut other).is_empty());
    // An edge that has not heard of the session reads it first.
    let mut third = other.other_edge();
    third.valid_until = Some(third.now.mono.plus_millis(1_000_000));
    third.send(&leg, Some(X), &cancel);
    assert_eq!(posted(&mut third), [cancel]);
    // Nobody else's session.
    let stranger = third.dialog_with("legacy", 7, Some(mcp_record()));
    third.send(&stranger, Some(X), &reply);
    assert!(posted(&mut third).is_empty());
}

#[test]
fn a_stream_that_another_edge_holds_is_asked_for_again() {
    let mut rig = Rig::default();
    let leg = rig.dialog("legacy");
    rig.initialize(&leg, true);
    let mut other = rig.other_edge();
    other.send(&leg, Some(X), &legacy_call(1, "echo"));
    let is_listen = |calls: &[(edge_core::input::BackendId, edge_core::effect::BackendCall)]| {
        calls.iter().find(|(_, call)| matches!(call.action, BackendAction::Listen { .. })).map(|(id, _)| *id)
    };
    let stream = is_listen(&other.new_calls()).expect("its stream");
    other.failed(stream, BackendFailure::Status(409));
    other.pass(10_000);
    assert_eq!(is_listen(&other.new_calls()), None);
    other.pass(21_000);
    assert!(is_listen(&other.new_calls()).is_some());
}

#[test]
fn a_record_of_another_principal_is_nobodys() {
    let mut rig = Rig::default();
    let leg = rig.dialog("legacy");
    rig.initialize(&leg, true);
    let mut other = rig.other_edge();
    // The same dialog id, and yet not the same principal: whoever got there, the session is not his.
    let mut thief = (*leg).clone();
    thief.principal = edge_core::engine::Principal::User("sip:mallory@demo.example".into());
    other.send(&thief.into(), Some(X), &legacy_call(1, "echo"));
    assert_eq!(other.one_error().0, -32602);
    assert!(other.calls.is_empty());
}

#[test]
fn a_draft_peers_envelope_stands_for_initialize() {
    let mut rig = Rig::default();
    let mut record = mcp_record();
    record.envelope = true;
    let leg = rig.dialog_with("legacy", 1, Some(record));
    rig.send(&leg, None, &legacy_call(1, "echo"));
    rig.send(&leg, None, &legacy_call(2, "echo"));
    let (id, call) = rig.one_call();
    let body = body_of(&call);
    assert_eq!(
        (body["method"].as_str(), body["params"]["protocolVersion"].as_str()),
        (Some("initialize"), Some(LEGACY))
    );
    assert_eq!((call.session, call.protocol_version), (None, None));
    rig.head(id, 200, Some("backend-9"));
    rig.message(
        id,
        &json!({"jsonrpc": "2.0", "id": body["id"], "result": {"protocolVersion": "2025-06-18", "capabilities": {}}}),
    );
    rig.done(id);
    let (stream, _) = rig.one_call();
    rig.head(stream, 200, None);
    let (announce, call) = rig.one_call();
    assert_eq!(body_of(&call)["method"], "notifications/initialized");
    rig.done(announce);
    let calls = rig.new_calls();
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[0].1.session.as_deref(), Some("backend-9"));
    assert_eq!(calls[0].1.protocol_version.as_deref(), Some("2025-06-18"));
    assert!(rig.deliveries.is_empty(), "the caller hears nothing of it");
    for (n, (id, _)) in calls.into_iter().enumerate() {
        rig.answer(id, &result(n + 1, "x"));
    }
    assert_eq!(rig.new_deliveries().len(), 2);
}

#[test]
fn where_that_initialize_fails_the_waiting_requests_hear_so() {
    let failures: [fn(&mut Rig, edge_core::input::BackendId); 4] = [
        |rig, id| rig.failed(id, BackendFailure::Unreachable),
        |rig, id| rig.answer(id, &json!({"jsonrpc": "2.0", "id": "x", "result": {}})),
        |rig, id| rig.done(id),
        |rig, _| rig.pass(12_000),
    ];
    for fail in failures {
        let mut rig = Rig::default();
        let mut record = mcp_record();
        record.envelope = true;
        let leg = rig.dialog_with("legacy", 1, Some(record));
        rig.send(&leg, None, &legacy_call(1, "deploy"));
        let (id, _) = rig.one_call();
        fail(&mut rig, id);
        assert_eq!(rig.one_error().0, -31001);
        rig.done(id);
        rig.assert_empty();
    }
}

#[test]
fn out_of_a_dialog_five_idle_minutes_end_the_session() {
    let mut rig = Rig::default();
    let leg = rig.out_of_dialog("legacy", "alice");
    let stream = rig.initialize(&leg, true);
    assert_eq!(rig.audits.iter().filter(|a| a.kind == AuditKind::SessionStart).count(), 1);
    rig.pass(299_000);
    rig.send(&leg, Some(X), &legacy_call(1, "echo"));
    let (id, _) = rig.one_call();
    rig.answer(id, &result(1, "x"));
    rig.pass(299_000);
    assert_eq!(rig.store.counts().sessions, 1);
    rig.pass(2_000);
    assert_eq!(rig.cancelled, [stream]);
    let (end, call) = rig.one_call();
    assert_eq!((call.action, call.session.as_deref()), (BackendAction::EndSession, Some("backend-1")));
    rig.done(end);
    assert_eq!(rig.store.counts().sessions, 0);
    assert_eq!(rig.audits.iter().filter(|a| a.kind == AuditKind::SessionEnd).count(), 1);
    rig.assert_empty();
    assert_eq!(rig.send(&leg, Some(Y), &legacy_call(2, "echo")), 481);
}

#[test]
fn the_store_says_how_long_a_session_may_be_idle() {
    let mut rig = Rig::default();
    let config = edge_core::config::Config::clone(&rig.config);
    let ttl = edge_core::config::Ttl { idle_ms: 20 * 60_000, ..config.ttl };
    rig.configure(edge_core::config::Config { ttl, ..config });
    let leg = rig.out_of_dialog("legacy", "alice");
    let stream = rig.initialize(&leg, true);
    rig.pass(1_199_000);
    assert_eq!((rig.store.counts().sessions, rig.cancelled.len()), (1, 0));
    rig.pass(2_000);
    assert_eq!((rig.store.counts().sessions, &rig.cancelled[..]), (0, &[stream][..]));
}

/// The same agents; a session with one of them may be idle so long.
fn idle_for(rig: &mut Rig, idle_timeout_ms: Option<u64>) {
    let mut config = edge_core::config::Config::clone(&rig.config);
    for agent in config.agents.values_mut() {
        std::sync::Arc::make_mut(agent).session.idle_timeout_ms = idle_timeout_ms;
    }
    rig.configure(config);
}

#[test]
fn an_agent_narrows_how_long_a_session_may_be_idle_and_never_widens_it() {
    // The store allows 5 minutes.
    for (agent_ms, idle_ms) in [(Some(60_000), 60_000), (Some(30 * 60_000), 300_000), (None, 300_000)] {
        let mut rig = Rig::default();
        idle_for(&mut rig, agent_ms);
        let leg = rig.out_of_dialog("legacy", "alice");
        let stream = rig.initialize(&leg, true);
        rig.pass(idle_ms - 1_000);
        assert_eq!((rig.store.counts().sessions, rig.cancelled.len()), (1, 0), "{agent_ms:?}");
        rig.pass(2_000);
        assert_eq!(rig.cancelled, [stream], "{agent_ms:?}");
        let (_, call) = rig.one_call();
        assert_eq!(call.action, BackendAction::EndSession);
        assert_eq!(rig.store.counts().sessions, 0);
    }
    // In a dialog it is the dialog that ends.
    let mut rig = Rig::default();
    idle_for(&mut rig, Some(60_000));
    let leg = rig.dialog("legacy");
    rig.initialize(&leg, true);
    rig.pass(600_000);
    assert_eq!((rig.store.counts().sessions, rig.cancelled.len()), (1, 0));
}

#[test]
fn a_new_idle_time_is_counted_from_its_beginning_for_the_sessions_that_stand() {
    let mut rig = Rig::default();
    let leg = rig.out_of_dialog("legacy", "alice");
    let stream = rig.initialize(&leg, true);
    rig.pass(200_000);
    idle_for(&mut rig, Some(60_000));
    rig.pass(59_000);
    assert_eq!((rig.store.counts().sessions, rig.cancelled.len()), (1, 0));
    rig.pass(2_000);
    assert_eq!(rig.cancelled, [stream]);
    let (_, call) = rig.one_call();
    assert_eq!(call.action, BackendAction::EndSession);
    assert_eq!(rig.store.counts().sessions, 0);
}

#[test]
fn notifications_keep_a_session_alive_in_the_store_too() {
    let mut rig = Rig::default();
    let leg = rig.out_of_dialog("legacy", "alice");
    rig.initialize(&leg, true);
    let note = json!({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"});
    for _ in 0..6 {
        rig.pass(200_000);
        rig.send(&leg, Some("session;rel=caller"), &note);
    }
    let mut other = rig.other_edge();
    assert_eq!(other.send(&leg, Some(X), &legacy_call(1, "echo")), 200);
}

#[test]
fn in_a_dialog_a_session_lives_as_long_as_the_dialog() {
    let mut rig = Rig::default();
    let leg = rig.dialog("legacy");
    rig.initialize(&leg, true);
    rig.pass(6 * 60 * 60_000);
    let mut other = rig.other_edge();
    other.send(&leg, Some(X), &legacy_call(1, "echo"));
    assert!(other.new_calls().iter().any(|(_, call)| matches!(call.action, BackendAction::Post { .. })));
}

#[test]
fn cancelling_a_legacy_request_posts_the_notification() {
    let mut rig = Rig::default();
    let leg = rig.dialog("legacy");
    rig.initialize(&leg, true);
    rig.send(&leg, Some(X), &legacy_call("a", "slow"));
    let (id, _) = rig.one_call();
    let cancel =
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "a", "reason": "why"}});
    rig.send(&leg, Some(X), &cancel);
    let (post, call) = rig.one_call();
    assert_eq!(body_of(&call), cancel);
    assert_eq!(call.session.as_deref(), Some("backend-1"));
    assert_eq!(rig.cancelled, [id]);
    assert!(rig.deliveries.is_empty());
    rig.done(post);
    assert_eq!(rig.engine.stats().exchanges, 0);
}

#[test]
fn initialize_cannot_be_cancelled_by_a_client() {
    let mut rig = Rig::default();
    let leg = rig.dialog("legacy");
    rig.send(&leg, Some(X), &initialize_request(0));
    let (id, _) = rig.one_call();
    rig.send(
        &leg,
        Some(X),
        &json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 0}}),
    );
    assert!(rig.cancelled.is_empty());
    rig.answer(id, &initialize_result(0));
    assert_eq!(rig.one_delivery().1, initialize_result(0));
}

#[test]
fn a_deadline_tells_a_legacy_server_to_stop() {
    let mut rig = Rig::default();
    let leg = rig.dialog("legacy");
    rig.initialize(&leg, true);
    rig.send(&leg, Some(X), &legacy_call(1, "slow"));
    let (id, _) = rig.one_call();
    rig.pass(TIMEOUT_MS);
    let (_, call) = rig.one_call();
    assert_eq!(body_of(&call)["params"]["requestId"], 1);
    assert_eq!(rig.cancelled, [id]);
    assert_eq!(rig.one_error().0, -31001);
}

#[test]
fn too_many_messages_before_the_session_is_ready_are_dropped_and_counted() {
    let mut rig = Rig::default();
    let leg = rig.dialog("legacy");
    rig.send(&leg, Some(X), &initialize_request(0));
    let (id, _) = rig.one_call();
    rig.answer(id, &initialize_result(0));
    rig.send(&leg, None, &initialized());
    let (stream, _) = rig.one_call();
    for _ in 0..50 {
        rig.send(&leg, None, &json!({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}));
    }
    assert_eq!(rig.engine.stats().dropped, 18);
    rig.event(stream, BackendEvent::Head { status: 200, session: None });
    let (announce, _) = rig.one_call();
    rig.done(announce);
    assert_eq!(rig.new_calls().len(), 32);
}

/// The store came back empty: the record is written anew where there is none, and any edge goes on in the session.
#[test]
fn a_session_whose_record_was_lost_is_written_anew_and_goes_on_anywhere() {
    let mut rig = Rig::default();
    let leg = rig.dialog("legacy");
    rig.initialize(&leg, true);
    assert_eq!(rig.send(&leg, Some("abcdefghijklmnopqrstuv"), &legacy_call(1, "echo")), 200);
    let (id, _) = rig.one_call();
    rig.store = MemoryStore::new(Capacity::default());
    let before = rig.owner;
    rig.owner.epoch += 1;
    let held = rig.ctx(|engine, _| engine.held(before));
    assert_eq!(held.len(), 2, "{held:?}");
    for held in held.clone() {
        // Twice: the first reply may be lost.
        for _ in 0..2 {
            let operation = rig.ctx(|engine, ctx| engine.rewrite(ctx, held)).unwrap();
            let reply = rig.run(operation).unwrap();
            assert_eq!(rig.ctx(|engine, ctx| engine.rewritten(ctx, held, &reply)), None);
        }
    }
    let reply = rig.run(StoreOp::ReadSession { session: leg.session, ttl_ms: 0 }).unwrap();
    let StoreReply::Session { version: 1, record } = reply else { panic!("{reply:?}") };
    assert_eq!((record.backend_session.as_deref(), record.initialized), (Some("backend-1"), true));
    // The exchange is this life's: its answer is taken.
    rig.message(id, &result(1, "done"));
    assert_eq!(rig.one_delivery().1, result(1, "done"));
    // What is over is not written.
    for held in held {
        if let Held::Exchange { .. } = held {
            assert_eq!(rig.ctx(|engine, ctx| engine.rewrite(ctx, held)), None);
        }
    }
    let mut other = rig.other_edge();
    assert_eq!(other.send(&leg, Some("bbcdefghijklmnopqrstuv"), &legacy_call(2, "echo")), 200);
    let calls = other.new_calls();
    assert!(
        !calls.is_empty() && calls.iter().all(|(_, call)| call.session.as_deref() == Some("backend-1")),
        "{calls:?}"
    );
}
