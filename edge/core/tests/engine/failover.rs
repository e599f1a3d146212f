//! An edge dies at each arrow of an exchange, and another one on the same store takes over: one execution of what is not declared safe, one
//! outcome for the caller, never silence (mcp.md, section 9).

use std::sync::Arc;

use edge_core::config::{Config, DeclaredTool, ToolEffect};
use edge_core::effect::{BackendAction, BackendCall};
use edge_core::engine::{DeliveryOutcome, Inbound, Leg, Verdict, Written};
use edge_core::input::{BackendEvent, BackendFailure, BackendId};
use serde_json::{Value, json};
use session_store::op::{StoreOp, StoreReply};
use sip_proto::time::Mono;

use super::rig::*;

/// `echo` reads, `set` is idempotent, `deploy` is neither.
pub(super) fn tools() -> Config {
    let mut agents = Vec::new();
    for (user, revisions) in [("both", &[MODERN, LEGACY][..]), ("modern", &[MODERN]), ("legacy", &[LEGACY])] {
        let mut agent = agent(user, revisions);
        agent.capabilities.tools.push(DeclaredTool { name: "set".into(), version: 1, effect: ToolEffect::Idempotent });
        agents.push(agent);
    }
    let mut rules = default_rules();
    rules[0] = allow("tools", vec![method("tools/call", &["echo", "set", "deploy"])], &[]);
    config(agents, rules)
}

fn edge() -> Rig {
    let mut rig = Rig::new(tools());
    rig.has_dialogs = true;
    rig
}

/// Where the edge dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arrow {
    /// The journal write is under way and does not arrive.
    BeforeJournal,
    /// It is written; the edge does not hear so.
    BeforeJournalReply,
    /// It heard so; the forward did not leave.
    BeforeForward,
    /// The backend runs it, or ran it.
    BeforeAnswer,
    /// The answer is here; its write is under way and does not arrive.
    BeforeAnswerWritten,
    /// It is written; it was not sent.
    BeforeSent,
    /// It was sent; whether it arrived nobody knows.
    BeforeDelivered,
    /// The caller said 200; that the exchange is over is not written.
    AfterDelivered,
}

const ARROWS: [Arrow; 8] = [
    Arrow::BeforeJournal,
    Arrow::BeforeJournalReply,
    Arrow::BeforeForward,
    Arrow::BeforeAnswer,
    Arrow::BeforeAnswerWritten,
    Arrow::BeforeSent,
    Arrow::BeforeDelivered,
    Arrow::AfterDelivered,
];

/// What became of one request.
#[derive(Debug, Default)]
struct Fate {
    executions: usize,
    /// What the caller got, repeated ones included.
    answers: Vec<Value>,
    /// The SIP status, where one left.
    status: Option<u16>,
    /// What the new owner found.
    adopted: usize,
}

/// Runs every tool call that was forwarded, and answers it.
fn backend(rig: &mut Rig, fate: &mut Fate) {
    for (id, call) in rig.new_calls() {
        let BackendAction::Post { body } = &call.action else { continue };
        let body: Value = serde_json::from_slice(body).unwrap();
        if body["method"] == "tools/call" {
            fate.executions += 1;
            rig.answer(id, &result(body["id"].clone(), "done"));
        }
    }
}

pub(super) fn write(rig: &mut Rig, leg: &Arc<Leg>, body: &Value) -> (edge_core::engine::Ticket, StoreOp) {
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

/// One request; the edge dies there; the heir serves until nothing more happens.
fn dies_at(arrow: Arrow, in_dialog: bool, tool: &str) -> (Fate, Rig, Arc<Leg>) {
    let mut rig = edge();
    let mut fate = Fate::default();
    let leg = if in_dialog { rig.dialog("modern") } else { rig.out_of_dialog("modern", "alice") };
    if in_dialog {
        rig.stored_dialog(&leg);
    }
    let body = call(7, tool);
    rig.delivers = false;
    let (ticket, operation) = write(&mut rig, &leg, &body);
    let dead = 'life: {
        if arrow == Arrow::BeforeJournal {
            break 'life rig;
        }
        let StoreReply::Exchange(outcome) = rig.run(operation).unwrap() else { panic!() };
        if arrow == Arrow::BeforeJournalReply {
            break 'life rig;
        }
        let answer = rig.ctx(|engine, ctx| engine.written(ctx, ticket, Ok(Written::Exchange(outcome))));
        fate.status = Some(answer.status);
        rig.drain();
        if arrow == Arrow::BeforeForward {
            break 'life rig;
        }
        if arrow == Arrow::BeforeAnswer {
            let (_, call) = rig.one_call();
            assert_eq!(body_of(&call), body, "the caller's id is kept where nobody else uses the connection");
            fate.executions += 1;
            break 'life rig;
        }
        backend(&mut rig, &mut fate);
        let delivery = rig.deliveries.remove(0);
        if arrow == Arrow::BeforeAnswerWritten {
            break 'life rig;
        }
        let close = delivery.close.clone().expect("the answer is written before it leaves");
        rig.run(StoreOp::CloseExchange(*close)).unwrap();
        if arrow == Arrow::BeforeSent {
            break 'life rig;
        }
        fate.answers.push(serde_json::from_slice(&delivery.body).unwrap());
        if arrow == Arrow::BeforeDelivered {
            break 'life rig;
        }
        rig.holds_ops = true;
        rig.outcome(&delivery, DeliveryOutcome::Delivered);
        rig
    };
    let (mut heir, adopted) = dead.die();
    fate.adopted = adopted;
    heir.delivers = true;
    backend(&mut heir, &mut fate);
    heir.pass(60_000);
    fate.answers.extend(heir.new_deliveries().into_iter().map(|(_, body)| body));
    heir.assert_empty();
    (fate, heir, leg)
}

fn is_interrupted(answer: &Value) -> bool {
    answer["error"]["code"] == -31001
}

#[test]
fn whatever_is_not_declared_safe_runs_once_and_its_fate_is_told() {
    for in_dialog in [true, false] {
        for arrow in ARROWS {
            let (fate, ..) = dies_at(arrow, in_dialog, "deploy");
            let what = format!("{arrow:?} in a dialog: {in_dialog}: {fate:?}");
            assert!(fate.executions <= 1, "{what}");
            for answer in &fate.answers {
                assert_eq!(answer["id"], 7, "{what}");
            }
            match arrow {
                // Nothing was acknowledged: the caller sends it again.
                Arrow::BeforeJournal => {
                    assert_eq!((fate.status, fate.adopted, fate.answers.len()), (None, 0, 0), "{what}")
                }
                Arrow::BeforeJournalReply | Arrow::BeforeForward | Arrow::BeforeAnswer | Arrow::BeforeAnswerWritten => {
                    assert_eq!(fate.answers.len(), 1, "{what}");
                    assert!(is_interrupted(&fate.answers[0]), "{what}");
                    let data = &fate.answers[0]["error"]["data"];
                    assert_eq!(data, &json!({"retry": false, "executed": "unknown"}), "{what}");
                }
                // The same answer, once more where it may have been lost.
                Arrow::BeforeSent | Arrow::BeforeDelivered | Arrow::AfterDelivered => {
                    let count = if arrow == Arrow::BeforeSent { 1 } else { 2 };
                    assert_eq!(fate.answers, vec![result(7, "done"); count], "{what}");
                    assert_eq!(fate.executions, 1, "{what}");
                }
            }
        }
    }
}

#[test]
fn what_is_declared_safe_is_answered_after_every_death() {
    for in_dialog in [true, false] {
        for tool in ["echo", "set"] {
            for arrow in ARROWS {
                let (fate, ..) = dies_at(arrow, in_dialog, tool);
                let what = format!("{tool} {arrow:?} in a dialog: {in_dialog}: {fate:?}");
                if arrow == Arrow::BeforeJournal {
                    assert_eq!((fate.executions, fate.answers.len()), (0, 0), "{what}");
                    continue;
                }
                assert!((1..=2).contains(&fate.executions), "{what}");
                assert!(!fate.answers.is_empty(), "{what}");
                assert!(fate.answers.iter().all(|answer| *answer == result(7, "done")), "{what}");
            }
        }
    }
}

#[test]
fn a_repetition_after_the_takeover_gets_what_was_decided() {
    for tool in ["deploy", "echo"] {
        for arrow in [Arrow::BeforeForward, Arrow::BeforeAnswer, Arrow::BeforeAnswerWritten, Arrow::BeforeSent] {
            let (mut fate, mut heir, leg) = dies_at(arrow, true, tool);
            // `dies_at` let a minute pass: the journal has forgotten. So once more, at once.
            assert_eq!(heir.send(&leg, Some(X), &call(7, tool)), 200);
            backend(&mut heir, &mut fate);
            let first = heir.one_delivery().1;
            let (mut third, adopted) = heir.die();
            assert_eq!(adopted, 0, "{tool} {arrow:?}");
            let before = fate.executions;
            assert_eq!(third.send(&leg, Some(X), &call(7, tool)), 200);
            backend(&mut third, &mut fate);
            assert_eq!(third.one_delivery().1, first);
            assert_eq!(fate.executions - before, usize::from(tool == "echo"), "what is safe may run again");
        }
    }
}

#[test]
fn a_caller_who_repeats_at_the_heir_hears_the_same_error_and_nothing_runs() {
    let mut rig = edge();
    let leg = rig.dialog("modern");
    rig.stored_dialog(&leg);
    rig.send(&leg, Some(X), &call(7, "deploy"));
    rig.one_call();
    // Before the takeover: it is in flight, whoever asks.
    let dead = rig.owner;
    let mut heir = rig.other_edge();
    assert_eq!(heir.send(&leg, Some(X), &call(7, "deploy")), 200);
    assert!(heir.deliveries.is_empty() && heir.calls.is_empty());
    heir.pass(5_500);
    assert_eq!(heir.adopt(dead), 1);
    let error = heir.one_delivery().1;
    assert!(is_interrupted(&error));
    assert_eq!(heir.send(&leg, Some(X), &call(7, "deploy")), 200);
    assert_eq!(heir.one_delivery().1, error);
    assert!(heir.calls.is_empty());
    heir.assert_empty();
}

#[test]
fn sec_8_a_replay_has_an_id_of_ours_and_the_journal_knows_both() {
    let mut rig = edge();
    let leg = rig.dialog("modern");
    rig.stored_dialog(&leg);
    rig.send(&leg, Some(X), &call("mine", "echo"));
    rig.one_call();
    let (mut heir, adopted) = rig.die();
    assert_eq!(adopted, 1);
    let (id, call) = heir.one_call();
    let sent = body_of(&call);
    let upstream = sent["id"].as_str().expect("a string of ours").to_owned();
    assert!(upstream != "mine" && upstream.len() >= 22, "128 random bits: {upstream}");
    assert_eq!(sent["params"], super::rig::call("mine", "echo")["params"]);
    let dead = heir.owner;
    // Its own id never reaches the caller.
    heir.message(
        id,
        &json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": 1}}),
    );
    heir.message(id, &result(upstream.clone(), "x"));
    let seen = heir.new_deliveries();
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert_eq!((seen[1].0.as_deref(), &seen[1].1), (Some(&*format!("{X};rel=caller")), &result("mine", "x")));
    // The next heir finds nothing.
    let mut next = heir.other_edge();
    assert_eq!(next.adopt(dead), 0);
}

#[test]
fn sec_8_the_journal_knows_both_ids_and_a_second_death_is_survived() {
    let mut rig = edge();
    let leg = rig.dialog("modern");
    rig.stored_dialog(&leg);
    rig.send(&leg, Some(X), &call(7, "echo"));
    let (heir, _) = rig.die();
    let mut seen = None;
    let dead = heir.owner;
    let mut third = heir.other_edge();
    let operation = StoreOp::Adopt { slot: 3, from: dead, by: third.owner, limit: 9, lease_ms: 1 };
    if let Ok(StoreReply::Adopted { items, .. }) = third.run(operation) {
        for item in items {
            if let session_store::op::Adopted::Exchange { key, entry } = item {
                seen.clone_from(&entry.upstream_id);
                assert_eq!(entry.id, "7");
                third.ctx(|engine, ctx| engine.adopted(ctx, key, entry, None));
                third.drain();
            }
        }
    }
    let noted = seen.expect("noted with the replay");
    let (id, call) = third.one_call();
    assert_ne!(body_of(&call)["id"].to_string(), noted, "each replay has an id of its own");
    let upstream = body_of(&call)["id"].clone();
    third.answer(id, &result(upstream, "x"));
    assert_eq!(third.one_delivery().1, result(7, "x"));
    third.assert_empty();
}

#[test]
fn sec_16_a_revoked_callers_exchange_fails_when_it_is_resumed() {
    for tool in ["echo", "deploy"] {
        let mut rig = edge();
        let leg = rig.dialog("modern");
        rig.stored_dialog(&leg);
        rig.send(&leg, Some(X), &call(7, tool));
        rig.one_call();
        let dead = rig.owner;
        let mut heir = rig.other_edge();
        let mut rules = default_rules();
        rules[0] = allow("tools", vec![method("tools/call", &["other"])], &[]);
        let mut revoked = tools();
        let base = config(Vec::new(), rules);
        revoked.domains = base.domains;
        heir.configure(revoked);
        assert_eq!(heir.adopt(dead), 1);
        assert_eq!(heir.one_error().0, -31003);
        assert!(heir.calls.is_empty());
        heir.assert_empty();
    }
}

#[test]
fn what_is_not_declared_safe_any_more_is_not_replayed() {
    let mut rig = edge();
    let leg = rig.dialog("modern");
    rig.stored_dialog(&leg);
    rig.send(&leg, Some(X), &call(7, "set"));
    rig.one_call();
    let dead = rig.owner;
    let mut heir = rig.other_edge();
    let mut changed = tools();
    for agent in changed.agents.values_mut() {
        let mut new = (**agent).clone();
        new.capabilities.tools.retain(|tool| tool.name != "set");
        *agent = Arc::new(new);
    }
    heir.configure(changed);
    assert_eq!(heir.adopt(dead), 1);
    assert_eq!(heir.one_error().0, -31001);
    assert!(heir.calls.is_empty());
    heir.assert_empty();
}

#[test]
fn an_agent_that_left_the_configuration_is_no_reason_for_silence() {
    let mut rig = edge();
    let leg = rig.out_of_dialog("modern", "alice");
    rig.send(&leg, Some(X), &call(7, "deploy"));
    let dead = rig.owner;
    let mut heir = rig.other_edge();
    let mut without = tools();
    without.agents.retain(|(_, user), _| user != "modern");
    heir.configure(without);
    assert_eq!(heir.adopt(dead), 1);
    assert_eq!(heir.one_error().0, -31003);
    heir.assert_empty();
}

#[test]
fn the_request_lies_in_the_journal_only_where_it_may_be_sent_again() {
    for (body, is_kept) in [
        (call(1, "echo"), true),
        (call(1, "set"), true),
        (call(1, "deploy"), false),
        (modern(1, "prompts/get", json!({"name": "greet"})), true),
        (modern(1, "resources/read", json!({"uri": "file:///open/a"})), true),
    ] {
        let mut rig = edge();
        let leg = rig.dialog("modern");
        let (ticket, operation) = write(&mut rig, &leg, &body);
        let StoreOp::OpenExchange { open, .. } = operation else { panic!() };
        let kept = open.entry.request.as_ref().map(|bytes| serde_json::from_slice::<Value>(bytes).unwrap());
        assert_eq!(kept, is_kept.then_some(body.clone()), "{body}");
        let entry = &open.entry.leg;
        assert_eq!((&*entry.domain, &*entry.agent_user, &*entry.carrier), ("demo.example", "modern", "message"));
        assert_eq!((&*entry.principal, entry.dialog.is_some()), ("sip:alice@demo.example", true));
        rig.engine.abandon(ticket);
        rig.assert_empty();
    }
}

// --- resumed ---

/// A legacy session in which `deploy` runs; its stream and the call.
pub(super) fn legacy_deploy(rig: &mut Rig, leg: &Arc<Leg>) -> BackendId {
    rig.stored_dialog(leg);
    rig.initialize(leg, true);
    rig.send(leg, Some(X), &legacy_call(7, "deploy"));
    let (id, call) = rig.one_call();
    assert_eq!(call.session.as_deref(), Some("backend-1"));
    rig.head(id, 200, None);
    id
}

pub(super) fn event(rig: &mut Rig, id: BackendId, body: &Value, event: &str) {
    rig.event(id, BackendEvent::Message { body: body.to_string().into(), event_id: Some(event.into()) });
}

pub(super) fn log(text: &str) -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": text}})
}

/// The calls of an heir: the session's own stream, and what it does for the exchange.
pub(super) fn of_heir(heir: &mut Rig) -> Option<(BackendId, BackendCall)> {
    let mut calls = heir.new_calls();
    let own = BackendAction::Listen { last_event_id: None };
    calls.retain(|(_, call)| call.action != own);
    assert!(calls.len() <= 1, "{calls:?}");
    calls.pop()
}

#[test]
fn a_legacy_call_goes_on_from_the_last_event_that_was_seen() {
    let mut rig = edge();
    let leg = rig.dialog("legacy");
    let id = legacy_deploy(&mut rig, &leg);
    rig.holds_ops = true;
    for n in 0..5 {
        event(&mut rig, id, &log("step"), &format!("e{n}"));
    }
    // One note at a time, whatever the speed of the stream; the last one is written in the end.
    let mut notes = 0;
    while rig.release() {
        notes += 1;
    }
    assert_eq!(notes, 2);
    let (mut heir, adopted) = rig.die();
    assert_eq!(adopted, 1);
    let (resumed, call) = of_heir(&mut heir).expect("it asks for the rest");
    assert_eq!(call.action, BackendAction::Listen { last_event_id: Some("e4".into()) });
    assert_eq!((call.session.as_deref(), call.protocol_version.as_deref()), (Some("backend-1"), Some(LEGACY)));
    heir.head(resumed, 200, None);
    event(&mut heir, resumed, &log("more"), "e5");
    event(&mut heir, resumed, &result(7, "done"), "e6");
    let seen = heir.new_deliveries();
    assert_eq!(seen.iter().map(|(_, body)| body.clone()).collect::<Vec<_>>(), [log("more"), result(7, "done")]);
    assert!(heir.cancelled.contains(&resumed), "nobody asks for that stream again");
    assert_eq!(heir.engine.stats().resumes, 1);
    // The stored answer for a repetition.
    heir.send(&leg, Some(X), &legacy_call(7, "deploy"));
    assert_eq!(heir.one_delivery().1, result(7, "done"));
}

/// A quiet tool: all that its stream brought is where it may be resumed.
#[test]
fn a_legacy_call_goes_on_from_the_id_that_its_stream_began_with() {
    let mut rig = edge();
    let leg = rig.dialog("legacy");
    let id = legacy_deploy(&mut rig, &leg);
    rig.event(id, BackendEvent::Position { event_id: "0/0".into() });
    let (mut heir, adopted) = rig.die();
    assert_eq!(adopted, 1);
    let (resumed, call) = of_heir(&mut heir).expect("it asks for the rest");
    assert_eq!(call.action, BackendAction::Listen { last_event_id: Some("0/0".into()) });
    heir.head(resumed, 200, None);
    heir.message(resumed, &result(7, "done"));
    assert_eq!(heir.one_delivery().1, result(7, "done"));
}

#[test]
fn a_server_that_cannot_resume_ends_in_the_typed_error() {
    type End = fn(&mut Rig, BackendId);
    let ends: [End; 3] = [
        |heir, id| {
            heir.head(id, 405, None);
            heir.done(id);
        },
        |heir, id| heir.failed(id, BackendFailure::Interrupted),
        |heir, id| heir.failed(id, BackendFailure::SessionGone),
    ];
    for end in ends {
        let mut rig = edge();
        let leg = rig.dialog("legacy");
        let id = legacy_deploy(&mut rig, &leg);
        event(&mut rig, id, &log("step"), "e0");
        rig.new_deliveries();
        let (mut heir, _) = rig.die();
        let (resumed, _) = of_heir(&mut heir).expect("it asks for the rest");
        end(&mut heir, resumed);
        assert_eq!(heir.one_error().0, -31001);
        assert_eq!(heir.engine.stats().exchanges, 0);
    }
}

#[test]
fn an_event_of_another_backend_session_is_not_asked_for() {
    let mut rig = edge();
    let leg = rig.dialog("legacy");
    let id = legacy_deploy(&mut rig, &leg);
    event(&mut rig, id, &log("step"), "e0");
    let reply = rig.run(StoreOp::ReadSession { session: leg.session, ttl_ms: 0 }).unwrap();
    let StoreReply::Session { version, mut record } = reply else { panic!("{reply:?}") };
    record.backend_session = Some("backend-2".into());
    rig.run(StoreOp::WriteSession { session: leg.session, version, record, ttl_ms: 60_000 }).unwrap();
    rig.new_deliveries();
    let (mut heir, _) = rig.die();
    assert_eq!(of_heir(&mut heir), None);
    assert_eq!(heir.one_error().0, -31001);
}

#[test]
fn a_safe_legacy_call_is_replayed_in_its_session_which_goes_on() {
    let mut rig = edge();
    let leg = rig.dialog("legacy");
    rig.stored_dialog(&leg);
    rig.initialize(&leg, true);
    rig.send(&leg, Some(X), &legacy_call(7, "echo"));
    rig.one_call();
    let (mut heir, adopted) = rig.die();
    assert_eq!(adopted, 1);
    let (id, call) = of_heir(&mut heir).expect("the request again");
    assert_eq!((call.session.as_deref(), call.protocol_version.as_deref()), (Some("backend-1"), Some(LEGACY)));
    let upstream = body_of(&call)["id"].clone();
    assert_ne!(upstream, 7, "the first one may still be running under that id");
    heir.answer(id, &result(upstream, "x"));
    assert_eq!(heir.one_delivery().1, result(7, "x"));
    // A cancellation of a replay names what the backend knows.
    heir.send(&leg, Some(Y), &legacy_call(8, "echo"));
    heir.one_call();
    let (mut third, _) = heir.die();
    let (_, call) = of_heir(&mut third).expect("the request again");
    let upstream = body_of(&call)["id"].clone();
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 8}});
    third.send(&leg, Some(Y), &cancel);
    let posted: Vec<Value> = third.new_calls().iter().map(|(_, call)| body_of(call)).collect();
    assert_eq!(
        posted,
        [json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": upstream}})]
    );
}

#[test]
fn an_exchange_goes_on_by_its_task() {
    // Modern: the task, its result, its error, or nothing any more.
    let working = json!({"taskId": "t-1", "status": "working", "createdAt": "2026-11-21T00:00:00Z", "ttlMs": 1000});
    let completed = json!({"taskId": "t-1", "status": "completed", "result": result(0, "late")["result"]});
    let failed = json!({"taskId": "t-1", "status": "failed", "error": {"code": -32603, "message": "no"}});
    let cancelled = json!({"taskId": "t-1", "status": "cancelled"});
    for (state, check) in [
        (working.clone(), {
            let mut task = working.clone();
            task["resultType"] = "task".into();
            json!({"jsonrpc": "2.0", "id": 7, "result": task})
        }),
        (completed, result(7, "late")),
        (failed, json!({"jsonrpc": "2.0", "id": 7, "error": {"code": -32603, "message": "no"}})),
        (cancelled, Value::Null),
    ] {
        let mut rig = edge();
        let leg = rig.dialog("modern");
        rig.stored_dialog(&leg);
        rig.send(&leg, Some(X), &call(7, "deploy"));
        let (id, _) = rig.one_call();
        let told = json!({"jsonrpc": "2.0", "method": "notifications/tasks", "params": {"taskId": "t-1", "status": "working"}});
        rig.message(id, &told);
        rig.new_deliveries();
        let (mut heir, _) = rig.die();
        let (id, call) = heir.one_call();
        let body = body_of(&call);
        assert_eq!((&body["method"], &body["params"]["taskId"]), (&json!("tasks/get"), &json!("t-1")));
        assert_eq!(body["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"], MODERN);
        assert!(call.headers.contains(&("Mcp-Name".into(), "t-1".into())), "{:?}", call.headers);
        heir.answer(id, &json!({"jsonrpc": "2.0", "id": body["id"], "result": state}));
        let answer = heir.one_delivery().1;
        if check.is_null() {
            assert!(is_interrupted(&answer));
        } else {
            assert_eq!(answer, check);
        }
        heir.pass(31_000);
        heir.assert_empty();
    }
    // Legacy: the task; its result is asked for by its own method.
    let mut rig = edge();
    let leg = rig.dialog("legacy");
    let id = legacy_deploy(&mut rig, &leg);
    let related = json!({"io.modelcontextprotocol/related-task": {"taskId": "t-2"}});
    let told = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": 1, "_meta": related}});
    rig.message(id, &told);
    rig.new_deliveries();
    let (mut heir, _) = rig.die();
    let (id, call) = of_heir(&mut heir).expect("it asks for the task");
    let body = body_of(&call);
    assert_eq!((&body["method"], &body["params"]), (&json!("tasks/get"), &json!({"taskId": "t-2"})));
    assert_eq!(call.session.as_deref(), Some("backend-1"));
    heir.answer(id, &json!({"jsonrpc": "2.0", "id": body["id"], "result": {"taskId": "t-2", "status": "completed"}}));
    let expected = json!({"jsonrpc": "2.0", "id": 7, "result": {"task": {"taskId": "t-2", "status": "completed"}}});
    assert_eq!(heir.one_delivery().1, expected);
}

// --- fencing ---

#[test]
fn who_finds_itself_fenced_drops_the_exchange_and_says_nothing() {
    let mut rig = edge();
    let leg = rig.dialog("legacy");
    let id = legacy_deploy(&mut rig, &leg);
    event(&mut rig, id, &log("step"), "e0");
    rig.new_deliveries();
    // It was stopped for too long; another edge has taken over.
    let (stopped, mut heir) = {
        let mut stopped = rig;
        let mut heir = Rig::new(tools());
        heir.owner = session_store::record::Owner { pod: 2, epoch: 1, boot: 2 };
        heir.has_dialogs = true;
        heir.takes_the_store_from(&mut stopped);
        (stopped, heir)
    };
    let mut stopped = stopped;
    assert_eq!(heir.adopt(stopped.owner), 1);
    let (resumed, _) = of_heir(&mut heir).expect("it asks for the rest");
    stopped.takes_the_store_from(&mut heir);
    // It learns of it by its next note, and what runs upstream is dropped without a word: the heir waits for that very call.
    event(&mut stopped, id, &log("late"), "e1");
    assert!(stopped.cancelled.contains(&id));
    assert!(stopped.new_calls().is_empty(), "no cancellation is posted");
    assert_eq!((stopped.engine.stats().fenced, stopped.engine.stats().exchanges), (1, 0));
    stopped.new_deliveries();
    stopped.message(id, &result(7, "done"));
    assert!(stopped.deliveries.is_empty());
    heir.takes_the_store_from(&mut stopped);
    heir.message(resumed, &result(7, "done"));
    assert_eq!(heir.one_delivery().1, result(7, "done"));
}

#[test]
fn an_answer_of_a_fenced_edge_is_not_sent() {
    for tool in ["echo", "deploy"] {
        let mut stopped = edge();
        let leg = stopped.dialog("modern");
        stopped.stored_dialog(&leg);
        stopped.send(&leg, Some(X), &call(7, tool));
        let (id, _) = stopped.one_call();
        let mut heir = Rig::new(tools());
        heir.owner = session_store::record::Owner { pod: 2, epoch: 1, boot: 2 };
        heir.has_dialogs = true;
        heir.takes_the_store_from(&mut stopped);
        assert_eq!(heir.adopt(stopped.owner), 1);
        stopped.takes_the_store_from(&mut heir);
        stopped.answer(id, &result(7, "late"));
        // Put out to be written, refused there: `Fenced`, and never again.
        assert_eq!(stopped.new_deliveries().len(), 1);
        stopped.pass(600_000);
        assert!(stopped.deliveries.is_empty());
        assert_eq!(stopped.engine.stats().fenced, 1);
        stopped.assert_empty();
    }
}

#[test]
fn without_a_lease_nothing_is_replayed_and_no_adopted_answer_leaves() {
    for (tool, adopts) in [("echo", true), ("deploy", true)] {
        let mut rig = edge();
        let leg = rig.dialog("modern");
        rig.stored_dialog(&leg);
        rig.send(&leg, Some(X), &call(7, tool));
        rig.one_call();
        let dead = rig.owner;
        let mut heir = rig.other_edge();
        heir.valid_until = Some(Mono(0));
        assert_eq!(heir.adopt(dead) == 1, adopts);
        heir.pass(2_000);
        assert!(heir.calls.is_empty() && heir.deliveries.is_empty(), "{tool}");
        // The lease is renewed.
        heir.valid_until = Some(heir.now.mono.plus_millis(3_500));
        heir.pass(600);
        if tool == "echo" {
            let (id, call) = heir.one_call();
            // It is lost again before the answer comes.
            heir.valid_until = Some(heir.now.mono);
            heir.answer(id, &result(body_of(&call)["id"].clone(), "x"));
            assert!(heir.deliveries.is_empty());
            heir.valid_until = Some(heir.now.mono.plus_millis(60_000));
            heir.pass(1_000);
            assert_eq!(heir.one_delivery().1, result(7, "x"));
        } else {
            assert!(is_interrupted(&heir.one_delivery().1));
        }
        heir.pass(31_000);
        heir.assert_empty();
    }
}

#[test]
fn a_new_life_of_the_same_process_goes_on_with_what_it_has() {
    for tool in ["echo", "deploy"] {
        for answered_first in [false, true] {
            let mut rig = edge();
            let leg = rig.dialog("modern");
            rig.stored_dialog(&leg);
            rig.send(&leg, Some(X), &call(7, tool));
            let (id, _) = rig.one_call();
            let before = rig.owner;
            if answered_first {
                // The store is away, and so is the lease.
                rig.store_is_up = false;
                rig.answer(id, &result(7, "once"));
                rig.pass(4_000);
                rig.store_is_up = true;
            }
            rig.new_deliveries();
            rig.owner.epoch += 1;
            assert_eq!(rig.adopt(before), 1, "{tool}");
            assert!(rig.new_calls().is_empty(), "it runs already");
            if !answered_first {
                rig.answer(id, &result(7, "once"));
            }
            rig.pass(10_000);
            let seen = rig.new_deliveries();
            assert!(!seen.is_empty() && seen.iter().all(|(_, body)| *body == result(7, "once")), "{tool} {seen:?}");
            assert_eq!(rig.engine.stats().fenced, 0);
            rig.assert_empty();
        }
    }
}

#[test]
fn an_adopted_exchange_waits_for_the_store_and_ends_with_its_dialog() {
    let mut rig = edge();
    let leg = rig.dialog("modern");
    rig.stored_dialog(&leg);
    rig.send(&leg, Some(X), &call(7, "deploy"));
    let dead = rig.owner;
    let mut heir = rig.other_edge();
    let operation = StoreOp::Adopt { slot: 3, from: dead, by: heir.owner, limit: 9, lease_ms: 1 };
    let Ok(StoreReply::Adopted { items, .. }) = heir.run(operation) else { panic!() };
    let session_store::op::Adopted::Exchange { key, entry } = items.into_iter().next().unwrap() else { panic!() };
    heir.store_is_up = false;
    heir.ctx(|engine, ctx| engine.adopted(ctx, key, entry, None));
    heir.drain();
    heir.pass(3_000);
    assert!(heir.deliveries.is_empty());
    assert_eq!(heir.engine.in_flight(), 1, "a drain waits for it");
    heir.store_is_up = true;
    // The caller hung up meanwhile.
    let edge_core::engine::LegKey::Dialog(dialog) = leg.key else { panic!() };
    heir.run(StoreOp::Bury { dialog }).unwrap();
    heir.pass(1_000);
    assert!(heir.deliveries.is_empty());
    heir.assert_empty();
}

#[test]
fn a_listen_stream_is_opened_again_and_keeps_its_name() {
    let mut rig = edge();
    let leg = rig.dialog("modern");
    rig.stored_dialog(&leg);
    rig.send(&leg, Some(X), &modern("l", "subscriptions/listen", json!({"notifications": {}})));
    rig.one_call();
    let (mut heir, _) = rig.die();
    let (id, call) = heir.one_call();
    let upstream = body_of(&call)["id"].clone();
    assert_ne!(upstream, "l");
    let about = |id: &Value| {
        json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed",
            "params": {"_meta": {"io.modelcontextprotocol/subscriptionId": id}}})
    };
    heir.message(id, &about(&upstream));
    assert_eq!(heir.one_delivery().1, about(&json!("l")));
    let end = |id: &Value| json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}});
    heir.message(id, &end(&upstream));
    assert_eq!(heir.one_delivery().1, end(&json!("l")));
    heir.done(id);
    heir.assert_empty();
}
