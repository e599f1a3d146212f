//! Legacy sessions.

use session_store::op::{OpenOutcome, StoreOp, StoreReply};

use super::samples::*;

fn write(version: u64, ttl_ms: u64) -> StoreOp {
    StoreOp::WriteSession { session: session(1), version, record: Box::new(session_record()), ttl_ms }
}

fn read(ttl_ms: u64) -> StoreOp {
    StoreOp::ReadSession { session: session(1), ttl_ms }
}

#[test]
fn compare_and_set() {
    let mut s = store();
    assert_eq!(run(&mut s, NOW, write(1, 1_000)), StoreReply::Unknown, "there is nothing to change");
    assert_eq!(run(&mut s, NOW, write(0, 1_000)), StoreReply::Version(1));
    let conflict = StoreReply::SessionConflict { version: 1, record: Box::new(session_record()) };
    assert_eq!(run(&mut s, NOW, write(0, 1_000)), conflict);
    assert_eq!(run(&mut s, NOW, write(1, 1_000)), StoreReply::Version(2));
}

#[test]
fn reading_moves_the_idle_end_and_never_back() {
    let mut s = store();
    run(&mut s, NOW, write(0, 1_000));
    assert!(matches!(run(&mut s, NOW + 999, read(1_000)), StoreReply::Session { version: 1, .. }));
    assert!(matches!(run(&mut s, NOW + 1_998, read(0)), StoreReply::Session { .. }));
    assert_eq!(run(&mut s, NOW + 1_999, read(1_000)), StoreReply::Unknown);
}

#[test]
fn an_exchange_brings_the_session_and_moves_its_end() {
    let mut s = store();
    run(&mut s, NOW, write(0, 1_000));
    let mut request = open(exchange(1, 1), A, 1, false);
    request.session_ttl_ms = 5_000;
    let StoreReply::Exchange(OpenOutcome::Opened { session: Some((1, record)) }) =
        run(&mut s, NOW + 500, StoreOp::OpenExchange { open: Box::new(request), nonce: None })
    else {
        panic!("opened with its session")
    };
    assert_eq!(*record, session_record());
    assert!(matches!(run(&mut s, NOW + 5_499, read(0)), StoreReply::Session { .. }));
    assert_eq!(run(&mut s, NOW + 5_500, read(0)), StoreReply::Unknown);
}

fn drop_session(if_ends_within_ms: Option<u64>) -> StoreOp {
    StoreOp::DropSession { session: session(1), if_ends_within_ms }
}

#[test]
fn an_idle_session_is_dropped_only_while_nobody_moves_its_end() {
    let mut s = store();
    run(&mut s, NOW, write(0, 1_000));
    assert!(matches!(run(&mut s, NOW, drop_session(Some(999))), StoreReply::Session { version: 1, .. }));
    run(&mut s, NOW + 500, read(1_000));
    assert!(matches!(run(&mut s, NOW + 900, drop_session(Some(100))), StoreReply::Session { .. }));
    assert_eq!(run(&mut s, NOW + 1_400, drop_session(Some(100))), StoreReply::Done);
    assert_eq!(run(&mut s, NOW + 1_400, drop_session(Some(100))), StoreReply::Unknown);
}

#[test]
fn dropping_takes_the_journal_along_and_nothing_else() {
    let mut s = store();
    run(&mut s, NOW, write(0, 1_000));
    for key in [exchange(1, 1), exchange(1, 2), exchange(2, 1)] {
        run(&mut s, NOW, StoreOp::OpenExchange { open: Box::new(open(key, A, 1, false)), nonce: None });
    }
    assert_eq!(run(&mut s, NOW, drop_session(None)), StoreReply::Done);
    assert_eq!((s.counts().sessions, s.counts().exchanges), (0, 1));
    assert_eq!(run(&mut s, NOW, drop_session(None)), StoreReply::Unknown);
}
