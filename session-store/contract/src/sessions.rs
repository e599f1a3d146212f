//! Legacy sessions.

use session_store::op::{OpenOutcome, StoreOp, StoreReply};

use crate::samples::*;
use crate::{SLACK_MS, Subject};

fn write(version: u64, ttl_ms: u64) -> StoreOp {
    StoreOp::WriteSession { session: session(1), version, record: Box::new(session_record()), ttl_ms }
}

fn read(ttl_ms: u64) -> StoreOp {
    StoreOp::ReadSession { session: session(1), ttl_ms }
}

fn drop_session(if_ends_within_ms: Option<u64>) -> StoreOp {
    StoreOp::DropSession { session: session(1), if_ends_within_ms }
}

pub fn compare_and_set(s: &mut dyn Subject) {
    assert_eq!(run(s, write(1, MINUTE)), StoreReply::Unknown, "there is nothing to change");
    assert_eq!(run(s, write(0, MINUTE)), StoreReply::Version(1));
    let conflict = StoreReply::SessionConflict { version: 1, record: Box::new(session_record()) };
    assert_eq!(run(s, write(0, MINUTE)), conflict);
    assert_eq!(run(s, write(1, MINUTE)), StoreReply::Version(2));
    assert_eq!(run(s, read(0)), StoreReply::Session { version: 2, record: Box::new(session_record()) });
}

pub fn reading_moves_the_idle_end_and_never_back(s: &mut dyn Subject) {
    run(s, write(0, 20 * SECOND));
    s.pass(20 * SECOND - SLACK_MS);
    assert!(matches!(run(s, read(40 * SECOND)), StoreReply::Session { version: 1, .. }));
    assert!(matches!(run(s, read(0)), StoreReply::Session { .. }));
    assert!(matches!(run(s, read(SECOND)), StoreReply::Session { .. }));
    s.pass(40 * SECOND - SLACK_MS);
    assert!(matches!(run(s, read(0)), StoreReply::Session { .. }));
    s.pass(2 * SLACK_MS);
    assert_eq!(run(s, read(MINUTE)), StoreReply::Unknown);
}

pub fn an_exchange_brings_the_session_and_moves_its_end(s: &mut dyn Subject) {
    run(s, write(0, 20 * SECOND));
    let mut request = open(exchange(1, 1), A, 1, false);
    request.session_ttl_ms = MINUTE;
    let StoreReply::Exchange(OpenOutcome::Opened { session: Some((1, record)) }) = run(s, opening(request)) else {
        panic!("opened with its session")
    };
    assert_eq!(*record, session_record());
    s.pass(MINUTE - SLACK_MS);
    assert!(matches!(run(s, read(0)), StoreReply::Session { .. }));
    s.pass(2 * SLACK_MS);
    assert_eq!(run(s, read(0)), StoreReply::Unknown);
}

pub fn an_idle_session_is_dropped_only_while_nobody_moves_its_end(s: &mut dyn Subject) {
    run(s, write(0, 20 * SECOND));
    assert!(matches!(run(s, drop_session(Some(15 * SECOND))), StoreReply::Session { version: 1, .. }));
    run(s, read(40 * SECOND));
    assert!(matches!(run(s, drop_session(Some(25 * SECOND))), StoreReply::Session { .. }));
    assert_eq!(run(s, drop_session(Some(45 * SECOND))), StoreReply::Done);
    assert_eq!(run(s, drop_session(Some(45 * SECOND))), StoreReply::Unknown);
}

pub fn dropping_takes_the_journal_along_and_nothing_else(s: &mut dyn Subject) {
    run(s, write(0, MINUTE));
    for key in [exchange(1, 1), exchange(1, 2), exchange(2, 1)] {
        run(s, opening(open(key, A, 1, false)));
    }
    assert_eq!(run(s, drop_session(None)), StoreReply::Done);
    assert_eq!(run(s, drop_session(None)), StoreReply::Unknown);
    for key in [exchange(1, 1), exchange(1, 2)] {
        assert_eq!(run(s, StoreOp::CloseExchange(close(key, A, None))), StoreReply::Unknown);
    }
    assert_eq!(adopted(s, A, B).len(), 1, "of what went, nothing is left to adopt");
    assert_eq!(run(s, StoreOp::CloseExchange(close(exchange(2, 1), B, None))), closed());
}
