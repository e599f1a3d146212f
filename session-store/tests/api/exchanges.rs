//! The journal.

use bytes::Bytes;
use session_store::memory::{Capacity, MemoryStore};
use session_store::op::{ANSWER_MS, OpenExchange, OpenOutcome, StoreError, StoreOp, StoreReply};
use session_store::record::{PeerFlow, SessionRecord};

use super::samples::*;

fn opening(open: OpenExchange) -> StoreOp {
    StoreOp::OpenExchange { open: Box::new(open), nonce: None }
}

fn opened() -> StoreReply {
    StoreReply::Exchange(OpenOutcome::Opened { session: None })
}

fn closed() -> StoreReply {
    StoreReply::Closed { flow: PeerFlow::default() }
}

#[test]
fn a_repetition_waits_then_gets_the_kept_answer() {
    let mut s = store();
    let key = exchange(1, 1);
    assert_eq!(run(&mut s, NOW, opening(open(key, A, 1, false))), opened());
    assert_eq!(
        run(&mut s, NOW, opening(open(key, B, 1, false))),
        StoreReply::Exchange(OpenOutcome::RepeatInFlight { owner: A })
    );
    assert_eq!(run(&mut s, NOW, StoreOp::CloseExchange(close(key, A, Some(b"answer")))), closed());
    let kept = StoreReply::Exchange(OpenOutcome::RepeatAnswered { answer: Some(Bytes::from_static(b"answer")) });
    assert_eq!(run(&mut s, NOW + ANSWER_MS - 1, opening(open(key, B, 1, false))), kept);
    assert_eq!(run(&mut s, NOW + ANSWER_MS, opening(open(key, B, 1, false))), opened());
}

#[test]
fn what_is_safe_to_repeat_runs_again_and_what_is_not_never_does() {
    let mut s = store();
    let key = exchange(1, 1);
    run(&mut s, NOW, opening(open(key, A, 1, true)));
    run(&mut s, NOW, StoreOp::CloseExchange(close(key, A, None)));
    assert_eq!(run(&mut s, NOW, opening(open(key, A, 1, true))), opened());

    let key = exchange(1, 2);
    run(&mut s, NOW, opening(open(key, A, 1, false)));
    run(&mut s, NOW, StoreOp::CloseExchange(close(key, A, None)));
    let silent = StoreReply::Exchange(OpenOutcome::RepeatAnswered { answer: None });
    assert_eq!(run(&mut s, NOW, opening(open(key, A, 1, false))), silent);
}

#[test]
fn another_body_by_the_same_name_is_taken_in_flight_and_new_afterwards() {
    let mut s = store();
    let key = exchange(1, 1);
    run(&mut s, NOW, opening(open(key, A, 1, false)));
    assert_eq!(run(&mut s, NOW, opening(open(key, A, 2, false))), StoreReply::Exchange(OpenOutcome::Taken));
    run(&mut s, NOW, StoreOp::CloseExchange(close(key, A, Some(b"one"))));
    assert_eq!(run(&mut s, NOW, opening(open(key, A, 2, false))), opened());
}

#[test]
fn only_the_owner_closes_and_only_once() {
    let mut s = store();
    let key = exchange(1, 1);
    assert_eq!(run(&mut s, NOW, StoreOp::CloseExchange(close(key, A, None))), StoreReply::Unknown);
    run(&mut s, NOW, opening(open(key, A, 1, false)));
    assert_eq!(run(&mut s, NOW, StoreOp::CloseExchange(close(key, B, Some(b"b")))), StoreReply::Fenced);
    assert_eq!(run(&mut s, NOW, StoreOp::CloseExchange(close(key, A, Some(b"a")))), closed());
    assert_eq!(run(&mut s, NOW, StoreOp::CloseExchange(close(key, A, Some(b"c")))), StoreReply::Unknown);
}

#[test]
fn the_in_flight_limit_counts_what_is_unanswered_in_this_session() {
    let mut s = store();
    for n in 0..4 {
        assert_eq!(run(&mut s, NOW, opening(open(exchange(1, n), A, 1, false))), opened());
    }
    assert_eq!(run(&mut s, NOW, opening(open(exchange(1, 9), A, 1, false))), StoreReply::Exchange(OpenOutcome::Full));
    assert_eq!(run(&mut s, NOW, opening(open(exchange(2, 9), A, 1, false))), opened(), "another session");
    run(&mut s, NOW, StoreOp::CloseExchange(close(exchange(1, 0), A, None)));
    assert_eq!(run(&mut s, NOW, opening(open(exchange(1, 9), A, 1, false))), opened());
    assert_eq!(run(&mut s, NOW + 60_000, opening(open(exchange(1, 10), A, 1, false))), opened(), "the old ones ended");
}

#[test]
fn a_full_store_says_so_and_keeps_what_it_has() {
    let mut s = MemoryStore::new(Capacity { exchanges: 1, sessions: 1, ..Capacity::default() });
    assert_eq!(run(&mut s, NOW, opening(open(exchange(1, 1), A, 1, false))), opened());
    let full = Err(StoreError::Full { what: "exchanges" });
    assert_eq!(s.execute(NOW, opening(open(exchange(1, 2), A, 1, false))), full);
    assert_eq!(run(&mut s, NOW, StoreOp::CloseExchange(close(exchange(1, 1), A, None))), closed());
    let write = |n, version| StoreOp::WriteSession {
        session: session(n),
        version,
        record: Box::new(SessionRecord::default()),
        ttl_ms: 1_000,
    };
    assert_eq!(run(&mut s, NOW, write(1, 0)), StoreReply::Version(1));
    assert_eq!(s.execute(NOW, write(2, 0)), Err(StoreError::Full { what: "sessions" }));
    assert_eq!(run(&mut s, NOW, write(1, 1)), StoreReply::Version(2));
}

#[test]
fn once_is_true_once() {
    let mut s = store();
    let once = || StoreOp::Once { key: exchange(1, 1), ttl_ms: 32_000, nonce: None };
    assert_eq!(run(&mut s, NOW, once()), StoreReply::First(true));
    assert_eq!(run(&mut s, NOW + 31_999, once()), StoreReply::First(false));
    assert_eq!(run(&mut s, NOW + 32_000, once()), StoreReply::First(true));
}
