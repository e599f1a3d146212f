//! `McpAgent.spec.inFlight`: what becomes of a call whose edge is lost.

use std::sync::Arc;

use edge_core::config::{Config, Failovers, OnFailover};
use serde_json::{Value, json};
use session_store::op::StoreOp;

use super::failover::{event, legacy_deploy, log, of_heir, tools, write};
use super::rig::*;

/// The same agents, whose calls in flight have that fate; `tool` is named by itself, the others go by the default.
fn with_failover(default: OnFailover, tool: Option<(&str, OnFailover)>) -> Config {
    let mut config = tools();
    for agent in config.agents.values_mut() {
        let tools = tool.iter().map(|(name, fate)| ((*name).to_owned(), *fate)).collect();
        let mut new = (**agent).clone();
        new.on_failover = Failovers { default, tools };
        *agent = Arc::new(new);
    }
    config
}

/// A call of `echo`, which is declared safe, dies with its edge: what the heir runs, and what it tells.
fn dies_with(config: Config) -> (usize, Option<(i64, Value)>) {
    let mut rig = Rig::new(config);
    rig.has_dialogs = true;
    let leg = rig.dialog("modern");
    rig.stored_dialog(&leg);
    rig.send(&leg, Some(X), &call(7, "echo"));
    rig.one_call();
    let (mut heir, adopted) = rig.die();
    assert_eq!(adopted, 1);
    let runs = heir.new_calls().len();
    (runs, (runs == 0).then(|| heir.one_error()))
}

#[test]
fn what_is_safe_and_fails_retryable_runs_once_and_its_caller_may_try_again() {
    let told = Some((-31001, json!({"retry": true, "executed": "unknown"})));
    assert_eq!(dies_with(tools()), (1, None), "Replay is the default");
    assert_eq!(dies_with(with_failover(OnFailover::FailRetryable, None)), (0, told.clone()));
    let named = |default, fate| dies_with(with_failover(default, Some(("echo", fate))));
    assert_eq!(named(OnFailover::Replay, OnFailover::FailRetryable), (0, told.clone()), "a tool by itself");
    assert_eq!(named(OnFailover::FailRetryable, OnFailover::Replay), (1, None), "and the other way round");
    assert_eq!(named(OnFailover::Replay, OnFailover::TaskOnly), (0, told), "a call without a task fails");
}

#[test]
fn what_fails_retryable_is_not_in_the_journal_and_a_repetition_gets_what_is_kept() {
    let mut rig = Rig::new(with_failover(OnFailover::FailRetryable, None));
    rig.has_dialogs = true;
    let leg = rig.dialog("modern");
    rig.stored_dialog(&leg);
    let (ticket, operation) = write(&mut rig, &leg, &call(1, "echo"));
    let StoreOp::OpenExchange { open, .. } = operation else { panic!() };
    assert_eq!((open.entry.repeatable, open.entry.request), (false, None));
    rig.engine.abandon(ticket);
    // A method that is no tool call runs again all the same.
    let (ticket, operation) = write(&mut rig, &leg, &modern(1, "prompts/get", json!({"name": "greet"})));
    let StoreOp::OpenExchange { open, .. } = operation else { panic!() };
    assert!(open.entry.repeatable);
    rig.engine.abandon(ticket);

    rig.send(&leg, Some(X), &call(7, "echo"));
    let (id, _) = rig.one_call();
    rig.answer(id, &result(7, "done"));
    assert_eq!(rig.one_delivery().1, result(7, "done"));
    rig.send(&leg, Some(X), &call(7, "echo"));
    assert_eq!(rig.one_delivery().1, result(7, "done"));
    assert!(rig.new_calls().is_empty(), "nothing runs a second time");
}

#[test]
fn a_stream_is_not_asked_for_where_only_a_task_may_go_on() {
    let mut rig = Rig::new(with_failover(OnFailover::TaskOnly, None));
    rig.has_dialogs = true;
    let leg = rig.dialog("legacy");
    let id = legacy_deploy(&mut rig, &leg);
    event(&mut rig, id, &log("step"), "e0");
    rig.new_deliveries();
    let (mut heir, adopted) = rig.die();
    assert_eq!(adopted, 1);
    assert_eq!(of_heir(&mut heir), None);
    assert_eq!(heir.one_error(), (-31001, json!({"retry": false, "executed": "unknown"})));
}
