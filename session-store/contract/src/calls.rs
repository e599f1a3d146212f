//! The guard of an INVITE.

use bytes::Bytes;
use session_store::op::{CallState, GUARD_MS, StoreOp, StoreReply, TOMBSTONE_MS};
use session_store::record::{DialogPhase, Owner};

use crate::samples::*;
use crate::{SLACK_MS, Subject};

fn pending(owner: Owner) -> StoreReply {
    StoreReply::CallKnown { dialog: dialog(1), state: CallState::Pending { owner } }
}

fn adopted_call() -> StoreReply {
    StoreReply::CallAdopted { dialog: dialog(1), invite: Bytes::from_static(b"INVITE"), legs: Vec::new() }
}

pub fn a_second_invite_finds_the_first(s: &mut dyn Subject) {
    assert_eq!(run(s, open_call(1, 1, A)), StoreReply::CallOpened);
    assert_eq!(run(s, open_call(1, 2, B)), pending(A));
    assert_eq!(run(s, open_call(2, 2, B)), StoreReply::CallOpened, "another call");
}

pub fn a_call_whose_lease_ended_is_adopted_once_and_the_old_owner_is_fenced(s: &mut dyn Subject) {
    run(s, open_call(1, 1, A));
    s.pass(30 * SECOND - SLACK_MS);
    assert_eq!(run(s, open_call(1, 2, B)), pending(A));
    s.pass(2 * SLACK_MS);
    assert_eq!(run(s, open_call(1, 2, B)), adopted_call());
    assert_eq!(run(s, open_call(1, 3, C)), pending(B), "its lease is new");
    assert_eq!(run(s, answer(1, A)), StoreReply::Fenced);
    assert_eq!(run(s, reject(1, A)), StoreReply::Fenced);
    assert_eq!(run(s, answer(1, B)), StoreReply::Answered { version: 1 });
}

pub fn a_higher_epoch_of_the_same_edge_adopts_at_once(s: &mut dyn Subject) {
    run(s, open_call(1, 1, A));
    let equal = Owner { boot: 99, ..A };
    assert_eq!(run(s, open_call(1, 2, equal)), pending(A));
    let higher = Owner { epoch: 2, boot: 12, ..A };
    assert_eq!(run(s, open_call(1, 2, higher)), adopted_call());
    assert_eq!(run(s, open_call(1, 2, A)), pending(higher), "and never back");
}

pub fn the_owner_itself_does_not_adopt(s: &mut dyn Subject) {
    run(s, open_call(1, 1, A));
    s.pass(MINUTE);
    assert_eq!(run(s, open_call(1, 1, A)), pending(A));
}

pub fn cancel_before_the_answer_wins(s: &mut dyn Subject) {
    run(s, open_call(1, 1, A));
    let invite = Bytes::from_static(b"INVITE");
    let found = StoreReply::Cancelled { dialog: dialog(1), invite, owner: A, legs: Vec::new() };
    assert_eq!(run(s, cancel(1)), found);
    assert_eq!(run(s, cancel(1)), found, "a retransmission finds the same");
    assert_eq!(run(s, answer(1, A)), StoreReply::CallCancelled);
    assert_eq!(run(s, reject(1, A)), StoreReply::CallCancelled);
    let state = CallState::Cancelled;
    assert_eq!(run(s, open_call(1, 1, B)), StoreReply::CallKnown { dialog: dialog(1), state });
    assert_eq!(run(s, read(1)), StoreReply::Unknown);
}

pub fn cancel_after_the_answer_is_too_late(s: &mut dyn Subject) {
    with_dialog(s, 1);
    assert_eq!(run(s, cancel(1)), StoreReply::CancelTooLate);
    assert_eq!(run(s, cancel(9)), StoreReply::Unknown);
    run(s, open_call(2, 2, A));
    run(s, reject(2, A));
    assert_eq!(run(s, cancel(2)), StoreReply::CancelTooLate);
}

pub fn one_final_response_only(s: &mut dyn Subject) {
    run(s, open_call(1, 1, A));
    assert_eq!(run(s, reject(1, B)), StoreReply::Fenced);
    assert_eq!(run(s, reject(1, A)), StoreReply::Done);
    assert_eq!(run(s, answer(1, A)), StoreReply::Fenced);
    assert_eq!(run(s, reject(1, A)), StoreReply::Fenced);
    let state = CallState::Rejected { response: Bytes::from_static(b"486") };
    assert_eq!(run(s, open_call(1, 2, B)), StoreReply::CallKnown { dialog: dialog(1), state });
    s.pass(TOMBSTONE_MS + SLACK_MS);
    assert_eq!(run(s, open_call(1, 2, B)), StoreReply::CallOpened);
}

pub fn an_accepted_invite_that_comes_again_gets_the_2xx_until_its_ack(s: &mut dyn Subject) {
    with_dialog(s, 1);
    let again = |accept_bytes| StoreReply::CallKnown { dialog: dialog(1), state: CallState::Accepted { accept_bytes } };
    assert_eq!(run(s, open_call(1, 2, B)), again(record().accept_bytes));
    run(s, StoreOp::Confirm { dialog: dialog(1) });
    assert_eq!(run(s, open_call(1, 2, B)), again(None));
    s.pass(TOMBSTONE_MS + SLACK_MS);
    assert_eq!(run(s, open_call(1, 2, B)), StoreReply::CallOpened);
}

pub fn an_answer_that_nobody_was_given_is_taken_back(s: &mut dyn Subject) {
    with_dialog(s, 1);
    assert_eq!(run(s, reject(1, B)), StoreReply::Fenced, "not the owner");
    assert_eq!(run(s, reject(1, A)), StoreReply::Done);
    assert_eq!(run(s, read(1)), StoreReply::Gone);
    let state = CallState::Rejected { response: Bytes::from_static(b"486") };
    assert_eq!(run(s, open_call(1, 2, B)), StoreReply::CallKnown { dialog: dialog(1), state });
    assert_eq!(run(s, answer(1, A)), StoreReply::Fenced);
    // Both legs of a call.
    with_two_legs(s, 2, 3);
    assert_eq!(run(s, reject(2, A)), StoreReply::Done);
    assert_eq!(run(s, read(2)), StoreReply::Gone);
    assert_eq!(phase_of(s, 3), DialogPhase::Terminating);
}

pub fn an_answer_that_somebody_has_stays(s: &mut dyn Subject) {
    // A copy of the INVITE reached another edge.
    with_dialog(s, 1);
    assert!(matches!(run(s, open_call(1, 2, B)), StoreReply::CallKnown { .. }));
    assert_eq!(run(s, reject(1, A)), StoreReply::Fenced);
    assert_eq!(dialog_of(s, 1).1.accept_bytes, record().accept_bytes);
    // It was acknowledged, or ended.
    with_dialog(s, 2);
    run(s, StoreOp::Confirm { dialog: dialog(2) });
    assert_eq!(run(s, reject(2, A)), StoreReply::Fenced);
    with_dialog(s, 3);
    run(s, bye(3, 2));
    assert_eq!(run(s, reject(3, A)), StoreReply::Fenced);
    // Another edge took the dialog over.
    with_dialog(s, 4);
    run(s, adopt(A, B));
    assert_eq!(run(s, reject(4, A)), StoreReply::Fenced);
    for n in [1, 2, 4] {
        dialog_of(s, n);
    }
}

pub fn a_pending_guard_ends_so_that_its_name_is_free(s: &mut dyn Subject) {
    run(s, open_call(1, 1, A));
    s.pass(GUARD_MS - SLACK_MS);
    assert_eq!(run(s, open_call(1, 1, A)), pending(A));
    s.pass(2 * SLACK_MS);
    assert_eq!(run(s, reject(1, A)), StoreReply::Unknown);
    assert_eq!(run(s, answer(1, A)), StoreReply::Unknown);
    assert_eq!(run(s, cancel(1)), StoreReply::Unknown);
    assert_eq!(run(s, open_call(1, 2, B)), StoreReply::CallOpened);
}

pub fn the_2xx_belongs_to_the_owner_of_the_call(s: &mut dyn Subject) {
    run(s, open_call(1, 1, B));
    assert_eq!(run(s, answer(1, A)), StoreReply::Fenced);
    assert_eq!(run(s, answer(1, B)), StoreReply::Answered { version: 1 });
    assert_eq!(dialog_of(s, 1).1.owner, B, "whatever the record said");
}
