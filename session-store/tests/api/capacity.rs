//! A flood ends in `Full`, and what is there goes on.

use bytes::Bytes;
use session_store::memory::{Capacity, MemoryStore};
use session_store::op::{BindingChange, StoreError, StoreOp, StoreReply};
use session_store::record::{Binding, SessionRecord};
use store_contract::memory::{Memory, NOW};
use store_contract::samples::*;
use store_contract::{Subject, samples};

fn with(capacity: Capacity) -> Memory {
    Memory { store: MemoryStore::new(capacity), now_ms: NOW }
}

fn full(what: &'static str) -> Result<StoreReply, StoreError> {
    Err(StoreError::Full { what })
}

fn update(n: u8, bindings: &[Binding]) -> StoreOp {
    StoreOp::Register { aor: aor(n), change: BindingChange::Update(bindings.to_vec()), nonce: None }
}

#[test]
fn a_full_registrar_still_refreshes() {
    let mut s = with(Capacity { bindings: 1, ..Capacity::default() });
    let one = [binding("sip:a@192.0.2.1", 1, NOW + HOUR)];
    run(&mut s, update(1, &one));
    assert_eq!(s.run(update(2, &one)), full("bindings"));
    assert_eq!(run(&mut s, update(1, &one)), StoreReply::Bindings(one.to_vec()));
    run(&mut s, update(1, &[binding("sip:a@192.0.2.1", 2, 0)]));
    assert_eq!(run(&mut s, update(2, &one)), StoreReply::Bindings(one.to_vec()));
    assert_eq!(s.run(update(2, &[binding("sip:a@192.0.2.1", 2, 0)])), full("removed bindings"));
    assert_eq!(samples::run(&mut s, StoreOp::ReadBindings { aor: aor(2) }), StoreReply::Bindings(one.to_vec()));
}

#[test]
fn a_full_index_changes_no_binding() {
    let mut s = with(Capacity { capabilities: 2, ..Capacity::default() });
    let offering = |cseq, offered: &[u8]| Binding {
        capabilities: offered.iter().map(|n| capability(*n).hash).collect(),
        ..binding("sip:a@192.0.2.1", cseq, NOW + HOUR)
    };
    run(&mut s, update(1, &[offering(1, &[1, 2])]));
    assert_eq!(s.run(update(2, &[offering(1, &[1])])), full("capabilities"));
    assert_eq!(run(&mut s, StoreOp::ReadBindings { aor: aor(2) }), StoreReply::Bindings(vec![]));
    run(&mut s, update(1, &[offering(2, &[2])]));
    assert!(matches!(run(&mut s, update(2, &[offering(1, &[1])])), StoreReply::Bindings(_)));
    assert_eq!(s.swept().capabilities, 2);
}

#[test]
fn a_full_journal_keeps_what_it_has_and_changes_nothing_in_a_dialog() {
    let mut s = with(Capacity { exchanges: 1, sessions: 1, ..Capacity::default() });
    with_dialog(&mut s, 1);
    assert_eq!(run(&mut s, opening(open(exchange(1, 1), A, 1, false))), opened());
    assert_eq!(s.run(opening(open(exchange(1, 2), A, 1, false))), full("exchanges"));
    let request = StoreOp::Begin {
        dialog: dialog(1),
        by: alice(),
        flow: Some(flow(1)),
        cseq: 2,
        method: "MESSAGE".into(),
        nonce: None,
        exchange: Some(Box::new(open(exchange(1, 2), A, 1, false))),
    };
    assert_eq!(s.run(request), full("exchanges"));
    assert_eq!(dialog_of(&mut s, 1).1.flow, None);
    assert!(matches!(run(&mut s, begin(1, 2, "MESSAGE")), StoreReply::Begun { .. }), "the number is still free");
    assert_eq!(run(&mut s, StoreOp::CloseExchange(close(exchange(1, 1), A, None))), closed());
    let write = |n, version| StoreOp::WriteSession {
        session: session(n),
        version,
        record: Box::new(SessionRecord::default()),
        ttl_ms: MINUTE,
    };
    assert_eq!(run(&mut s, write(1, 0)), StoreReply::Version(1));
    assert_eq!(s.run(write(2, 0)), full("sessions"));
    assert_eq!(run(&mut s, write(1, 1)), StoreReply::Version(2));
    let once = |n| StoreOp::Once { key: exchange(1, n), ttl_ms: MINUTE, nonce: None };
    assert_eq!(run(&mut s, once(1)), StoreReply::First(true));
    assert_eq!(s.run(once(2)), full("messages"));
    assert_eq!(run(&mut s, once(1)), StoreReply::First(false));
}

#[test]
fn a_call_that_does_not_fit_is_neither_opened_nor_half_answered() {
    let mut s = with(Capacity { calls: 1, ..Capacity::default() });
    run(&mut s, open_call(1, 1, A));
    assert_eq!(s.run(open_call(2, 2, A)), full("calls"));
    let two_legs = StoreOp::AnswerCall {
        guard: guard(1),
        owner: A,
        dialog: dialog(1),
        record: Box::new(record()),
        ttl_ms: HOUR,
        peer: Some(Box::new((dialog(2), record()))),
        conversation: None,
    };
    assert_eq!(s.run(two_legs), full("dialogs"));
    assert_eq!(run(&mut s, read(1)), StoreReply::Unknown);
    assert_eq!(run(&mut s, early(1, A)), StoreReply::Version(1));
    assert_eq!(run(&mut s, answer(1, A)), StoreReply::Answered { version: 2 }, "an early dialog has its place already");
}

#[test]
fn a_flood_of_nonces_or_edges_ends_in_full() {
    let mut s = with(Capacity { nonces: 2, edges: 1, ..Capacity::default() });
    for n in 0..2 {
        run(&mut s, StoreOp::UseNonce(nonce(n, 1, 1)));
    }
    assert_eq!(s.run(StoreOp::UseNonce(nonce(9, 1, 1))), full("nonces"));
    assert_eq!(run(&mut s, StoreOp::UseNonce(nonce(1, 2, 2))), StoreReply::Done);
    let take = |pod| StoreOp::TakeEpoch {
        pod,
        boot: 1,
        last_epoch: 0,
        address: String::new(),
        lease_ms: MINUTE,
        generation: [1; 16],
    };
    assert!(matches!(run(&mut s, take(1)), StoreReply::Epoch { .. }));
    assert_eq!(s.run(take(2)), full("edges"));
    assert!(matches!(run(&mut s, take(1)), StoreReply::Epoch { .. }));
}

#[test]
fn tenant_numbers_run_out_and_none_is_given_twice() {
    let mut s = Memory::new();
    for n in 1..=u16::MAX {
        let mut domain = [0; 16];
        domain[..2].copy_from_slice(&n.to_be_bytes());
        assert_eq!(s.run(StoreOp::TenantNumber { domain }), Ok(StoreReply::Tenant(n)));
    }
    assert_eq!(s.run(StoreOp::TenantNumber { domain: [9; 16] }), full("tenant numbers"));
}

#[test]
fn the_answers_of_a_dialog_are_bounded() {
    let mut s = Memory::new();
    with_dialog(&mut s, 1);
    for cseq in 2..400 {
        run(&mut s, begin(1, cseq, "MESSAGE"));
        run(&mut s, commit(1, cseq, b"200"));
    }
    assert_eq!(run(&mut s, begin(1, 399, "MESSAGE")), StoreReply::Replay { response: Bytes::from_static(b"200") });
    assert_eq!(run(&mut s, begin(1, 100, "MESSAGE")), StoreReply::OutOfOrder, "too old to be remembered");
}
