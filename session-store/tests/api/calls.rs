//! The guard of an INVITE.

use bytes::Bytes;
use session_store::op::{CallState, GUARD_MS, StoreOp, StoreReply, TOMBSTONE_MS};
use session_store::record::Owner;

use super::samples::*;

fn open_call(owner: Owner, d: u8) -> StoreOp {
    StoreOp::OpenCall {
        guard: guard(1),
        dialog: dialog(d),
        invite: Bytes::from_static(b"INVITE"),
        owner,
        lease_ms: 3_000,
        nonce: None,
    }
}

fn answer(owner: Owner) -> StoreOp {
    StoreOp::AnswerCall {
        guard: guard(1),
        owner,
        dialog: dialog(1),
        record: Box::new(record()),
        ttl_ms: 3_600_000,
        peer: None,
        conversation: None,
    }
}

fn reject(owner: Owner) -> StoreOp {
    StoreOp::RejectCall { guard: guard(1), owner, response: Bytes::from_static(b"486") }
}

#[test]
fn a_second_invite_finds_the_first() {
    let mut s = store();
    assert_eq!(run(&mut s, NOW, open_call(A, 1)), StoreReply::CallOpened);
    assert_eq!(
        run(&mut s, NOW, open_call(B, 2)),
        StoreReply::CallKnown { dialog: dialog(1), state: CallState::Pending { owner: A } }
    );
}

#[test]
fn a_call_whose_lease_ended_is_adopted_once_and_the_old_owner_is_fenced() {
    let mut s = store();
    run(&mut s, NOW, open_call(A, 1));
    let invite = Bytes::from_static(b"INVITE");
    assert_eq!(
        run(&mut s, NOW + 3_000, open_call(B, 2)),
        StoreReply::CallAdopted { dialog: dialog(1), invite, legs: Vec::new() }
    );
    assert_eq!(run(&mut s, NOW + 3_001, answer(A)), StoreReply::Fenced);
    assert_eq!(run(&mut s, NOW + 3_001, reject(A)), StoreReply::Fenced);
    assert_eq!(run(&mut s, NOW + 3_002, answer(B)), StoreReply::Answered { version: 1 });
}

#[test]
fn the_owner_itself_does_not_adopt() {
    let mut s = store();
    run(&mut s, NOW, open_call(A, 1));
    assert_eq!(
        run(&mut s, NOW + 5_000, open_call(A, 1)),
        StoreReply::CallKnown { dialog: dialog(1), state: CallState::Pending { owner: A } }
    );
}

#[test]
fn cancel_before_the_answer_wins_and_after_it_is_too_late() {
    let mut s = store();
    run(&mut s, NOW, open_call(A, 1));
    let found = run(&mut s, NOW, StoreOp::CancelCall { guard: guard(1) });
    assert_eq!(
        found,
        StoreReply::Cancelled { dialog: dialog(1), invite: Bytes::from_static(b"INVITE"), owner: A, legs: Vec::new() }
    );
    assert_eq!(run(&mut s, NOW, answer(A)), StoreReply::CallCancelled);
    assert_eq!(run(&mut s, NOW, reject(A)), StoreReply::CallCancelled);
    assert_eq!(s.counts().dialogs, 0);

    let mut s = with_dialog(1);
    assert_eq!(run(&mut s, NOW, StoreOp::CancelCall { guard: guard(1) }), StoreReply::CancelTooLate);
    assert_eq!(run(&mut s, NOW, StoreOp::CancelCall { guard: guard(9) }), StoreReply::Unknown);
}

#[test]
fn one_final_response_only() {
    let mut s = store();
    run(&mut s, NOW, open_call(A, 1));
    assert_eq!(run(&mut s, NOW, reject(A)), StoreReply::Done);
    assert_eq!(run(&mut s, NOW, answer(A)), StoreReply::Fenced);
    assert_eq!(run(&mut s, NOW, reject(A)), StoreReply::Fenced);
    let state = CallState::Rejected { response: Bytes::from_static(b"486") };
    assert_eq!(run(&mut s, NOW, open_call(B, 2)), StoreReply::CallKnown { dialog: dialog(1), state });
}

#[test]
fn an_accepted_invite_that_comes_again_gets_the_2xx_until_its_ack() {
    let mut s = with_dialog(1);
    let again = |accept_bytes| StoreReply::CallKnown { dialog: dialog(1), state: CallState::Accepted { accept_bytes } };
    assert_eq!(run(&mut s, NOW, open_call(B, 2)), again(Some(Bytes::from_static(b"SIP/2.0 200 OK"))));
    run(&mut s, NOW, StoreOp::Confirm { dialog: dialog(1) });
    assert_eq!(run(&mut s, NOW, open_call(B, 2)), again(None));
    assert_eq!(run(&mut s, NOW + TOMBSTONE_MS, open_call(B, 2)), StoreReply::CallOpened);
}

#[test]
fn a_pending_guard_ends_so_that_its_name_is_free() {
    let mut s = store();
    run(&mut s, NOW, open_call(A, 1));
    assert_eq!(run(&mut s, NOW + GUARD_MS, reject(A)), StoreReply::Unknown);
    assert_eq!(s.counts().guards, 0);
}
