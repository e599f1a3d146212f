//! Synchronous round trips per operation, as the table of what is written when allows.

use std::collections::BTreeMap;

use session_store::op::{BindingChange, Fence, StoreOp, StoreReply};
use session_store_redis::RedisStore;
use store_contract::Subject;
use store_contract::samples::*;

use super::subject::{Kind, Redis};

fn trips(store: &RedisStore) -> BTreeMap<&'static str, (u64, u64)> {
    store.round_trips().into_iter().map(|row| (row.op, (row.calls, row.trips))).collect()
}

/// A call with all that rides on it.
fn a_call(s: &mut Redis) {
    let mut registered = binding("sip:a@192.0.2.1", 1, s.now() + HOUR);
    registered.capabilities = vec![capability(1).hash, capability(2).hash];
    let change = BindingChange::Update(vec![registered]);
    run(s, StoreOp::Register { aor: aor(1), change, nonce: Some(nonce(1, 1, 1)) });
    let mut invite = open_call(1, 1, A);
    if let StoreOp::OpenCall { nonce: carried, .. } = &mut invite {
        *carried = Some(nonce(1, 2, 2));
    }
    run(s, invite);
    run(s, StoreOp::PlaceLegs { guard: guard(1), owner: A, legs: vec![leg(1)] });
    run(s, early(1, A));
    run(
        s,
        StoreOp::AnswerCall {
            guard: guard(1),
            owner: A,
            dialog: dialog(1),
            record: Box::new(record()),
            ttl_ms: HOUR,
            peer: Some(Box::new((dialog(2), record()))),
            conversation: Some(conversation(1)),
        },
    );
    run(s, StoreOp::Confirm { dialog: dialog(1) });
    let exchange_opened = open(exchange(1, 1), A, 1, false);
    let begun = StoreOp::Begin {
        dialog: dialog(1),
        by: alice(),
        flow: Some(flow(1)),
        cseq: 2,
        method: "MESSAGE".into(),
        nonce: Some(nonce(1, 3, 3)),
        exchange: Some(Box::new(exchange_opened)),
    };
    let StoreReply::Begun { version, .. } = run(s, begun) else { panic!("begun") };
    let changed = Some((version, Box::new(record()), HOUR));
    run(s, StoreOp::Commit { dialog: dialog(1), cseq: 2, response: b"200".as_slice().into(), record: changed });
    run(
        s,
        StoreOp::NextCseq {
            dialog: dialog(1),
            terminating: false,
            close: Some(Box::new(close(exchange(1, 1), A, Some(b"a")))),
            fence: Some(Fence { owner: A, version: None }),
        },
    );
    run(s, bye(1, 3));
    run(s, cancel(1));
    run(s, StoreOp::ReadBindings { aor: aor(1) });
    run(s, StoreOp::FindCapability { capability: capability(1), limit: 4 });
}

#[test]
fn every_step_of_a_call_is_one_round_trip() {
    let mut s = Redis::take(Kind::Redis);
    let before = trips(s.store());
    a_call(&mut s);
    for (op, (calls, count)) in trips(s.store()) {
        let (old_calls, old_count) = before[op];
        let (calls, count) = (calls - old_calls, count - old_count);
        // Who offers something is asked, then what they have bound.
        let most = if op == "find_capability" { 2 } else { 1 };
        assert!(count <= calls * most, "{op}: {count} round trips in {calls} calls");
    }
}

#[test]
fn in_a_cluster_a_nonce_is_one_more() {
    let mut s = Redis::take(Kind::Cluster);
    let before = trips(s.store());
    a_call(&mut s);
    for (op, (calls, count)) in trips(s.store()) {
        let (old_calls, old_count) = before[op];
        let (calls, count) = (calls - old_calls, count - old_count);
        let most = if ["find_capability", "register", "open_call", "begin", "terminate"].contains(&op) { 2 } else { 1 };
        assert!(count <= calls * most, "{op}: {count} round trips in {calls} calls");
    }
}
