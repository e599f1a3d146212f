//! The MCP server behind the agent: runs tools, counts what it ran, and fails in every way that a server can.

use std::collections::VecDeque;

use bytes::Bytes;
use edge_core::effect::{BackendAction, BackendCall};
use edge_core::input::{BackendEvent, BackendFailure};
use serde_json::{Value, json};

use crate::model::Model;
use crate::rng::Rng;

/// What a call brings, with the milliseconds until each event.
pub fn call(call: &BackendCall, rng: &mut Rng, model: &mut Model) -> VecDeque<(u64, BackendEvent)> {
    let BackendAction::Post { body } = &call.action else {
        return VecDeque::from([(5, BackendEvent::Done)]);
    };
    let delay = rng.range(1, 150);
    let request: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let fate = rng.below(100);
    if fate < 4 {
        return VecDeque::from([(delay, BackendEvent::Failed(BackendFailure::Unreachable))]);
    }
    let id = request.get("id").cloned();
    let Some(id) = id else {
        return VecDeque::from([(delay, BackendEvent::Head { status: 202, session: None }), (1, BackendEvent::Done)]);
    };
    if request.pointer("/params/name").and_then(Value::as_str) == Some("pay")
        && let Some(token) = request.pointer("/params/arguments/token").and_then(Value::as_str)
    {
        model.executed(token);
    }
    // Executed, and then lost.
    if fate < 7 {
        return VecDeque::from([(delay, BackendEvent::Failed(BackendFailure::Interrupted))]);
    }
    if fate < 9 {
        return VecDeque::from([(crate::setup::TIMEOUT_MS, BackendEvent::Failed(BackendFailure::Deadline))]);
    }
    let slow = if fate < 14 { rng.range(2_000, 15_000) } else { 0 };
    let token = request.pointer("/params/arguments/token").cloned().unwrap_or(Value::Null);
    let answer = json!({
        "jsonrpc": "2.0", "id": id,
        "result": { "resultType": "complete", "content": [{ "type": "text", "text": token }] },
    });
    VecDeque::from([
        (delay, BackendEvent::Head { status: 200, session: None }),
        (slow, BackendEvent::Message { body: Bytes::from(answer.to_string()), event_id: None }),
        (1, BackendEvent::Done),
    ])
}
