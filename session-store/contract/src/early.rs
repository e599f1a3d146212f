//! Early dialogs: written before a provisional response that needs one.

use bytes::Bytes;
use session_store::op::{StoreReply, TOMBSTONE_MS};
use session_store::record::{DialogPhase, DialogRecord, Owner};

use crate::samples::*;
use crate::{SLACK_MS, Subject};

fn opened_early(s: &mut dyn Subject) {
    assert_eq!(run(s, open_call(1, 1, A)), StoreReply::CallOpened);
    assert_eq!(run(s, early(1, A)), StoreReply::Version(1));
}

pub fn an_early_dialog_becomes_the_answered_one(s: &mut dyn Subject) {
    opened_early(s);
    assert_eq!(phase_of(s, 1), DialogPhase::Early);
    assert_eq!(run(s, answer(1, A)), StoreReply::Answered { version: 2 });
    assert_eq!(phase_of(s, 1), DialogPhase::Accepted);
}

pub fn it_may_be_written_again(s: &mut dyn Subject) {
    opened_early(s);
    assert_eq!(run(s, early(1, A)), StoreReply::Version(2));
}

pub fn what_was_claimed_in_it_stays_claimed(s: &mut dyn Subject) {
    opened_early(s);
    assert!(matches!(run(s, begin_from(1, 4, "PRACK", Some(flow(3)))), StoreReply::Begun { version: 1, .. }));
    assert_eq!(run(s, commit(1, 4, b"200 PRACK")), StoreReply::Version(1));
    assert!(matches!(run(s, next_cseq(1, false)), StoreReply::Cseq { cseq: 1, .. }));
    assert_eq!(run(s, answer(1, A)), StoreReply::Answered { version: 2 });
    let replayed = StoreReply::Replay { response: Bytes::from_static(b"200 PRACK") };
    assert_eq!(run(s, begin(1, 4, "PRACK")), replayed);
    let (_, record) = dialog_of(s, 1);
    assert_eq!((record.cseq_in, record.cseq_out), (Some(4), 1));
    assert_eq!((record.flow, record.source), (flow(3).flow, flow(3).source), "where it was seen last");
}

pub fn only_the_owner_writes_it(s: &mut dyn Subject) {
    assert_eq!(run(s, early(1, A)), StoreReply::Unknown, "there is no such call");
    run(s, open_call(1, 1, B));
    assert_eq!(run(s, early(1, A)), StoreReply::Fenced);
    assert_eq!(run(s, early(1, B)), StoreReply::Version(1));
    assert_eq!(dialog_of(s, 1).1.owner, B);
    run(s, cancel(1));
    assert_eq!(run(s, early(1, B)), StoreReply::CallCancelled);
    with_dialog(s, 2);
    assert_eq!(run(s, early(2, A)), StoreReply::Fenced, "it was answered");
}

pub fn it_ends_with_the_call_that_came_to_nothing(s: &mut dyn Subject) {
    for (n, ended) in [(1, reject(1, A)), (2, cancel(2))] {
        run(s, open_call(n, n, A));
        run(s, early(n, A));
        run(s, ended);
        assert_eq!(run(s, read(n)), StoreReply::Gone);
    }
    assert_eq!(adopted(s, A, B), []);
    s.pass(TOMBSTONE_MS + SLACK_MS);
    assert_eq!(run(s, read(1)), StoreReply::Unknown);
}

pub fn a_call_is_not_answered_over_an_ended_dialog(s: &mut dyn Subject) {
    opened_early(s);
    assert!(matches!(run(s, bye(1, 4)), StoreReply::Dialog { .. }));
    assert_eq!(run(s, early(1, A)), StoreReply::Gone);
    assert_eq!(run(s, answer(1, A)), StoreReply::Gone);
    assert_eq!(run(s, reject(1, A)), StoreReply::Done, "the call itself is still to be ended");
}

pub fn it_moves_with_its_call(s: &mut dyn Subject) {
    opened_early(s);
    s.pass(30 * SECOND + SLACK_MS);
    assert!(matches!(run(s, open_call(1, 9, B)), StoreReply::CallAdopted { .. }));
    assert_eq!(dialog_of(s, 1).1.owner, B);
    let answered = DialogRecord { owner: Owner::default(), ..record() };
    assert_eq!(run(s, answer_with(1, B, answered)), StoreReply::Answered { version: 2 });
    assert_eq!(dialog_of(s, 1).1.owner, B);
}
