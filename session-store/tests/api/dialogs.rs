//! CSeq order, replay, compare-and-set, tombstones.

use bytes::Bytes;
use session_store::memory::{Capacity, MemoryStore};
use session_store::op::{Actor, OpenOutcome, StoreError, StoreOp, StoreReply, TOMBSTONE_MS};
use session_store::record::DialogPhase;

use super::samples::*;

fn commit(cseq: u32, response: &'static [u8]) -> StoreOp {
    StoreOp::Commit { dialog: dialog(1), cseq, response: Bytes::from_static(response), record: None }
}

#[test]
fn a_request_is_claimed_once_and_its_response_is_replayed() {
    let mut s = with_dialog(1);
    assert!(matches!(run(&mut s, NOW, begin(1, 2, "MESSAGE")), StoreReply::Begun { exchange: None, .. }));
    assert_eq!(run(&mut s, NOW, begin(1, 2, "MESSAGE")), StoreReply::InProgress);
    assert_eq!(run(&mut s, NOW, commit(2, b"200")), StoreReply::Version(1));
    assert_eq!(run(&mut s, NOW, begin(1, 2, "MESSAGE")), StoreReply::Replay { response: Bytes::from_static(b"200") });
}

#[test]
fn cseq_only_rises() {
    let mut s = with_dialog(1);
    run(&mut s, NOW, begin(1, 5, "MESSAGE"));
    assert_eq!(run(&mut s, NOW, begin(1, 4, "MESSAGE")), StoreReply::OutOfOrder);
    // The answer is no longer kept; the number is not free again.
    assert_eq!(run(&mut s, NOW + TOMBSTONE_MS, begin(1, 5, "MESSAGE")), StoreReply::OutOfOrder);
    assert_eq!(run(&mut s, NOW, begin(1, 1, "MESSAGE")), StoreReply::OutOfOrder, "the INVITE's own number");
    // A writer that read an old record does not turn it back.
    let mut old = record();
    old.cseq_in = Some(1);
    let write = StoreOp::Commit {
        dialog: dialog(1),
        cseq: 5,
        response: Bytes::new(),
        record: Some((1, Box::new(old), 3_600_000)),
    };
    assert_eq!(run(&mut s, NOW, write), StoreReply::Version(2));
    assert_eq!(run(&mut s, NOW, begin(1, 3, "MESSAGE")), StoreReply::OutOfOrder);
}

#[test]
fn compare_and_set_tells_the_loser_what_is_there() {
    let mut s = with_dialog(1);
    run(&mut s, NOW, begin(1, 2, "UPDATE"));
    let mut new = record();
    new.remote_target = "sip:alice@192.0.2.9".into();
    let write = |version| StoreOp::Commit {
        dialog: dialog(1),
        cseq: 2,
        response: Bytes::new(),
        record: Some((version, Box::new(new.clone()), 3_600_000)),
    };
    assert_eq!(run(&mut s, NOW, write(1)), StoreReply::Version(2));
    let StoreReply::Conflict { version: 2, record } = run(&mut s, NOW, write(1)) else { panic!("conflict") };
    assert_eq!(record.remote_target, "sip:alice@192.0.2.9");
}

#[test]
fn bye_leaves_a_tombstone_that_replays_its_answer() {
    let mut s = with_dialog(1);
    assert!(matches!(run(&mut s, NOW, begin(1, 2, "BYE")), StoreReply::Begun { .. }));
    let bye = StoreOp::Terminate {
        dialog: dialog(1),
        by: alice(),
        cseq: 2,
        response: Bytes::from_static(b"200 BYE"),
        nonce: None,
    };
    let StoreReply::Dialog { record, .. } = run(&mut s, NOW, bye.clone()) else { panic!("what it was") };
    assert_eq!(record.phase, DialogPhase::Accepted);
    let replay = StoreReply::Replay { response: Bytes::from_static(b"200 BYE") };
    assert_eq!(run(&mut s, NOW, begin(1, 2, "BYE")), replay);
    assert_eq!(run(&mut s, NOW, bye), replay);
    assert_eq!(run(&mut s, NOW, begin(1, 3, "MESSAGE")), StoreReply::Gone);
    assert_eq!(run(&mut s, NOW, StoreOp::ReadDialog { dialog: dialog(1) }), StoreReply::Gone);
    let next = StoreOp::NextCseq { dialog: dialog(1), terminating: false, close: None, fence: None };
    assert_eq!(run(&mut s, NOW, next.clone()), StoreReply::Gone);
    assert_eq!(run(&mut s, NOW, StoreOp::Bury { dialog: dialog(1) }), StoreReply::Gone);
    assert_eq!(run(&mut s, NOW + TOMBSTONE_MS, next), StoreReply::Unknown);
    assert_eq!(s.counts().dialogs, 0);
}

#[test]
fn our_requests_count_upwards_and_close_an_exchange_on_the_way() {
    let mut s = with_dialog(1);
    let key = exchange(1, 1);
    let StoreReply::Begun { exchange: Some(OpenOutcome::Opened { session: None }), .. } = run(
        &mut s,
        NOW,
        StoreOp::Begin {
            dialog: dialog(1),
            by: alice(),
            flow: None,
            cseq: 2,
            method: "MESSAGE".into(),
            nonce: None,
            exchange: Some(Box::new(open(key, A, 1, false))),
        },
    ) else {
        panic!("opened")
    };
    let next = |close| StoreOp::NextCseq { dialog: dialog(1), terminating: false, close, fence: None };
    let StoreReply::Cseq { cseq: 1, .. } = run(&mut s, NOW, next(None)) else { panic!("first") };
    let theirs = Some(Box::new(close(key, B, None)));
    assert_eq!(run(&mut s, NOW, next(theirs)), StoreReply::Fenced, "nobody else closes it, and no number is used");
    let ours = Some(Box::new(close(key, A, Some(b"answer"))));
    let StoreReply::Cseq { cseq: 2, .. } = run(&mut s, NOW, next(ours)) else { panic!("second") };
    let again = run(&mut s, NOW, StoreOp::OpenExchange { open: Box::new(open(key, A, 1, false)), nonce: None });
    let answer = Some(Bytes::from_static(b"answer"));
    assert_eq!(again, StoreReply::Exchange(OpenOutcome::RepeatAnswered { answer }));
}

#[test]
fn terminating_refuses_nothing_until_it_is_buried() {
    let mut s = with_dialog(1);
    let bye = StoreOp::NextCseq { dialog: dialog(1), terminating: true, close: None, fence: None };
    let StoreReply::Cseq { record, .. } = run(&mut s, NOW, bye) else { panic!("cseq") };
    assert_eq!(record.phase, DialogPhase::Terminating);
    assert!(matches!(run(&mut s, NOW, StoreOp::Bury { dialog: dialog(1) }), StoreReply::Dialog { .. }));
}

#[test]
fn a_full_journal_changes_nothing_in_the_dialog() {
    let mut s = MemoryStore::new(Capacity { exchanges: 0, ..Capacity::default() });
    let call = StoreOp::OpenCall {
        guard: guard(1),
        dialog: dialog(1),
        invite: Bytes::new(),
        owner: A,
        lease_ms: 1,
        nonce: None,
    };
    run(&mut s, NOW, call);
    let record = Box::new(record());
    run(
        &mut s,
        NOW,
        StoreOp::AnswerCall {
            guard: guard(1),
            owner: A,
            dialog: dialog(1),
            record,
            ttl_ms: 60_000,
            peer: None,
            conversation: None,
        },
    );
    let request = StoreOp::Begin {
        dialog: dialog(1),
        by: alice(),
        flow: None,
        cseq: 2,
        method: "MESSAGE".into(),
        nonce: None,
        exchange: Some(Box::new(open(exchange(1, 1), A, 1, false))),
    };
    assert_eq!(s.execute(NOW, request), Err(StoreError::Full { what: "exchanges" }));
    assert!(matches!(run(&mut s, NOW, begin(1, 2, "MESSAGE")), StoreReply::Begun { .. }));
}

#[test]
fn unknown_dialogs_are_unknown_everywhere() {
    let mut s = store();
    for operation in [
        begin(1, 2, "MESSAGE"),
        commit(2, b"200"),
        StoreOp::ReadDialog { dialog: dialog(1) },
        StoreOp::Confirm { dialog: dialog(1) },
        StoreOp::Bury { dialog: dialog(1) },
        StoreOp::Terminate { dialog: dialog(1), by: alice(), cseq: 2, response: Bytes::new(), nonce: None },
        StoreOp::NextCseq { dialog: dialog(1), terminating: false, close: None, fence: None },
    ] {
        assert_eq!(run(&mut s, NOW, operation), StoreReply::Unknown);
    }
}

#[test]
fn another_principal_moves_nothing_and_an_anonymous_one_stays_on_its_flow() {
    let mut s = with_dialog(1);
    let act = |by: Actor| StoreOp::Begin {
        dialog: dialog(1),
        by,
        flow: None,
        cseq: 9,
        method: "MESSAGE".into(),
        nonce: None,
        exchange: Some(Box::new(open(exchange(1, 1), A, 1, false))),
    };
    let mallory = Actor { principal: "sip:mallory@demo.example".into(), source: None };
    assert_eq!(run(&mut s, NOW, act(mallory.clone())), StoreReply::OtherPrincipal);
    let elsewhere = Actor { source: Some("udp:0:198.51.100.9:5060".into()), ..alice() };
    assert_eq!(run(&mut s, NOW, act(elsewhere)), StoreReply::OtherPrincipal);
    let bye = StoreOp::Terminate { dialog: dialog(1), by: mallory, cseq: 9, response: Bytes::new(), nonce: None };
    assert_eq!(run(&mut s, NOW, bye), StoreReply::OtherPrincipal);
    assert_eq!(s.counts().exchanges, 0);
    let here = Actor { source: Some(record().source), ..alice() };
    assert!(matches!(run(&mut s, NOW, act(here)), StoreReply::Begun { .. }));
}
