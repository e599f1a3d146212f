//! Calls between two: the legs that we open, both dialogs, and how the one ends with the other.

use bytes::Bytes;
use session_store::op::{Adopted, MAX_LEGS, StoreError, StoreOp, StoreReply};
use session_store::record::{CallLeg, DialogPhase, Owner};

use crate::samples::*;
use crate::{SLACK_MS, Subject};

fn place(owner: Owner, legs: Vec<CallLeg>) -> StoreOp {
    StoreOp::PlaceLegs { guard: guard(1), owner, legs }
}

pub fn legs_are_replaced_and_told_to_cancel_and_to_the_adopter(s: &mut dyn Subject) {
    run(s, open_call(1, 1, A));
    assert_eq!(run(s, place(A, vec![leg(2)])), StoreReply::Done);
    let legs = vec![CallLeg { failed: true, ..leg(2) }, leg(3)];
    assert_eq!(run(s, place(A, legs.clone())), StoreReply::Done);

    let invite = Bytes::from_static(b"INVITE");
    let taken = Adopted::Call { guard: guard(1), dialog: dialog(1), invite: invite.clone(), legs: legs.clone() };
    assert_eq!(adopted(s, A, B), [taken]);
    s.pass(30 * SECOND + SLACK_MS);
    let again = StoreReply::CallAdopted { dialog: dialog(1), invite: invite.clone(), legs: legs.clone() };
    assert_eq!(run(s, open_call(1, 9, C)), again);
    assert_eq!(run(s, cancel(1)), StoreReply::Cancelled { dialog: dialog(1), invite, owner: C, legs });
}

pub fn only_the_owner_places_legs(s: &mut dyn Subject) {
    assert_eq!(run(s, place(A, vec![leg(2)])), StoreReply::Unknown);
    run(s, open_call(1, 1, A));
    assert_eq!(run(s, place(B, vec![leg(2)])), StoreReply::Fenced);
    run(s, cancel(1));
    assert_eq!(run(s, place(A, vec![leg(2)])), StoreReply::CallCancelled, "send nothing more");
    assert!(matches!(run(s, cancel(1)), StoreReply::Cancelled { legs, .. } if legs.is_empty()));
    run(s, open_call(2, 2, A));
    run(s, reject(2, A));
    let late = StoreOp::PlaceLegs { guard: guard(2), owner: A, legs: vec![leg(3)] };
    assert_eq!(run(s, late), StoreReply::Fenced);
}

pub fn too_many_legs_are_refused(s: &mut dyn Subject) {
    run(s, open_call(1, 1, A));
    let refused = s.run(place(A, vec![leg(2); MAX_LEGS + 1]));
    assert_eq!(refused, Err(StoreError::Full { what: "legs of a call" }));
    assert_eq!(run(s, place(A, vec![leg(2); MAX_LEGS])), StoreReply::Done);
}

pub fn both_dialogs_are_made_in_one_step(s: &mut dyn Subject) {
    with_two_legs(s, 1, 2);
    let (caller, callee) = (dialog_of(s, 1).1, dialog_of(s, 2).1);
    assert_eq!((caller.peer, callee.peer), (Some(dialog(2)), Some(dialog(1))));
    assert_eq!((caller.owner, callee.owner), (A, A));
    assert!(callee.we_called && !caller.we_called);
}

pub fn a_leg_that_ends_takes_the_other_along(s: &mut dyn Subject) {
    with_two_legs(s, 1, 2);
    let StoreReply::Dialog { record, .. } = run(s, bye(1, 2)) else { panic!("what it was") };
    assert_eq!(record.peer, Some(dialog(2)));
    let (version, other) = dialog_of(s, 2);
    assert_eq!((version, other.phase), (1, DialogPhase::Terminating), "what was read of it still holds");
    let taken = adopted(s, A, B);
    assert!(
        matches!(&taken[..], [Adopted::Dialog { dialog: d, record, .. }]
        if *d == dialog(2) && record.phase == DialogPhase::Terminating),
        "its BYE is still to be sent: {taken:?}"
    );
}

pub fn a_bye_of_ours_takes_the_other_along(s: &mut dyn Subject) {
    with_two_legs(s, 1, 2);
    run(s, next_cseq(2, false));
    assert_eq!(phase_of(s, 1), DialogPhase::Accepted, "another request of ours does not");
    assert!(matches!(run(s, next_cseq(2, true)), StoreReply::Cseq { cseq: 2, .. }));
    assert_eq!((phase_of(s, 1), phase_of(s, 2)), (DialogPhase::Terminating, DialogPhase::Terminating));
}

pub fn burying_a_leg_takes_the_other_along(s: &mut dyn Subject) {
    with_two_legs(s, 1, 2);
    assert!(matches!(run(s, bury(2)), StoreReply::Dialog { .. }));
    assert_eq!(phase_of(s, 1), DialogPhase::Terminating);
}

pub fn an_ended_leg_stays_ended(s: &mut dyn Subject) {
    with_two_legs(s, 1, 2);
    run(s, bury(2));
    run(s, bury(1));
    assert_eq!((run(s, read(1)), run(s, read(2))), (StoreReply::Gone, StoreReply::Gone));
    with_dialog(s, 3);
    assert!(matches!(run(s, bury(3)), StoreReply::Dialog { .. }), "a call without another leg");
}
