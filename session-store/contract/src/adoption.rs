//! What a dead edge left is taken over: pending calls, dialogs, exchanges in flight.

use std::collections::BTreeSet;

use session_store::key::{DialogKey, GuardKey};
use session_store::op::{Adopted, Fence, StoreOp, StoreReply, TOMBSTONE_MS};
use session_store::record::{DialogPhase, Owner};

use crate::samples::*;
use crate::{SLACK_MS, Subject};

/// A call that is pending (1), a dialog (2), an exchange in flight, all of this owner.
fn leave_behind(s: &mut dyn Subject, owner: Owner) {
    run(s, open_call(1, 1, owner));
    run(s, open_call(2, 2, owner));
    run(s, answer(2, owner));
    run(s, opening(open(exchange(2, 1), owner, 1, false)));
}

pub fn calls_dialogs_and_exchanges_are_taken_over(s: &mut dyn Subject) {
    leave_behind(s, A);
    let expected = [
        Adopted::Call {
            guard: guard(1),
            dialog: dialog(1),
            invite: bytes::Bytes::from_static(b"INVITE"),
            legs: Vec::new(),
        },
        Adopted::Dialog {
            dialog: dialog(2),
            version: 1,
            record: Box::new(session_store::record::DialogRecord { owner: B, ..record() }),
        },
        Adopted::Exchange { key: exchange(2, 1), entry: Box::new(entry(B, 1, false)) },
    ];
    assert_eq!(adopted(s, A, B), expected);
    assert_eq!(dialog_of(s, 2), (1, session_store::record::DialogRecord { owner: B, ..record() }));
}

pub fn what_has_ended_is_nobodys(s: &mut dyn Subject) {
    leave_behind(s, A);
    run(s, cancel(1));
    run(s, bury(2));
    run(s, StoreOp::CloseExchange(close(exchange(2, 1), A, Some(b"a"))));
    assert_eq!(adopted(s, A, B), []);
    run(s, open_call(3, 3, A));
    run(s, opening(open(exchange(3, 1), A, 1, false)));
    run(s, open_call(4, 4, A));
    run(s, reject(4, A));
    s.pass(4 * MINUTE);
    assert_eq!(adopted(s, A, B), [], "nobody came in time");
}

pub fn an_earlier_life_is_adopted_and_a_later_one_is_not(s: &mut dyn Subject) {
    let at = |epoch, boot| Owner { pod: 1, epoch, boot };
    run(s, open_call(1, 1, at(3, 30)));
    run(s, open_call(2, 2, at(5, 50)));
    run(s, open_call(3, 3, at(7, 70)));
    assert_eq!(adopted(s, at(5, 50), B).len(), 2);
    // The same edge takes over what its earlier lives left, and not what it owns itself.
    run(s, open_call(4, 4, at(6, 60)));
    assert_eq!(adopted(s, at(6, 60), at(7, 70)).len(), 1);
    assert_eq!(adopted(s, at(7, 70), at(7, 70)), []);
    assert_eq!(adopted(s, at(7, 70), B).len(), 2);
}

pub fn an_equal_epoch_with_another_boot_is_adopted(s: &mut dyn Subject) {
    let lost = Owner { pod: 1, epoch: 4, boot: 40 };
    let now = Owner { pod: 1, epoch: 4, boot: 41 };
    run(s, open_call(1, 1, lost));
    run(s, open_call(2, 2, now));
    assert_eq!(adopted(s, lost, now).len(), 1, "the store lost the write of the first");
    assert_eq!(adopted(s, lost, B).len(), 2);
}

pub fn slice_by_slice(s: &mut dyn Subject) {
    for n in 1..=7 {
        run(s, open_call(n, n, A));
    }
    let mut seen = BTreeSet::new();
    loop {
        let slice = StoreOp::Adopt { slot: SLOT, from: A, by: B, limit: 3, lease_ms: MINUTE };
        let StoreReply::Adopted { items, more } = run(s, slice) else { panic!("adopted") };
        assert!(items.len() <= 3 && (items.len() == 3 || !more), "{items:?}");
        for item in items {
            assert!(seen.insert(adopted_name(&item)), "twice: {item:?}");
        }
        if !more {
            break;
        }
    }
    assert_eq!(seen.len(), 7);
}

pub fn labels_and_edges_do_not_meet(s: &mut dyn Subject) {
    run(s, open_call(1, 1, A));
    let elsewhere = StoreOp::OpenCall {
        guard: GuardKey { slot: 1023, ..guard(2) },
        dialog: DialogKey { slot: 1023, ..dialog(2) },
        invite: bytes::Bytes::new(),
        owner: A,
        lease_ms: MINUTE,
        nonce: None,
    };
    run(s, elsewhere);
    assert_eq!(adopted(s, C, B), []);
    assert_eq!(adopted(s, A, B).len(), 1);
    let there = StoreOp::Adopt { slot: 1023, from: A, by: B, limit: 500, lease_ms: MINUTE };
    assert!(matches!(run(s, there), StoreReply::Adopted { items, more: false } if items.len() == 1));
}

pub fn the_old_owner_is_fenced_everywhere(s: &mut dyn Subject) {
    leave_behind(s, A);
    adopted(s, A, B);
    let fence = Some(Fence { owner: A, version: None });
    let note = StoreOp::NoteExchange { key: exchange(2, 1), owner: A, note: Default::default() };
    for operation in [
        answer(1, A),
        reject(1, A),
        early(1, A),
        StoreOp::PlaceLegs { guard: guard(1), owner: A, legs: vec![] },
        StoreOp::NextCseq { dialog: dialog(2), terminating: true, close: None, fence },
        StoreOp::NextCseq {
            dialog: dialog(2),
            terminating: true,
            close: Some(Box::new(close(exchange(2, 1), A, None))),
            fence: None,
        },
        StoreOp::CloseExchange(close(exchange(2, 1), A, None)),
        note,
    ] {
        assert_eq!(run(s, operation.clone()), StoreReply::Fenced, "{operation:?}");
    }
    assert_eq!(phase_of(s, 2), DialogPhase::Accepted);
    assert_eq!(run(s, StoreOp::CloseExchange(close(exchange(2, 1), B, Some(b"a")))), closed());
    assert_eq!(run(s, answer(1, B)), StoreReply::Answered { version: 1 });
    let fence = Some(Fence { owner: B, version: Some(1) });
    let ours = StoreOp::NextCseq { dialog: dialog(2), terminating: false, close: None, fence };
    assert!(matches!(run(s, ours), StoreReply::Cseq { cseq: 1, .. }), "adoption is no new version");
}

pub fn what_was_adopted_can_be_adopted_again(s: &mut dyn Subject) {
    leave_behind(s, A);
    assert_eq!(adopted(s, A, B).len(), 3);
    s.pass(20 * SECOND);
    assert_eq!(adopted(s, B, C).len(), 3);
    assert_eq!(dialog_of(s, 2).1.owner, C);
    // The call has a new lease: nobody takes it over while that runs.
    s.pass(20 * SECOND);
    assert!(matches!(run(s, open_call(1, 1, A)), StoreReply::CallKnown { .. }));
    s.pass(10 * SECOND + SLACK_MS);
    assert!(matches!(run(s, open_call(1, 1, A)), StoreReply::CallAdopted { .. }));
    let again = adopted(s, A, B);
    assert_eq!(again.len(), 1, "{again:?}");
}

pub fn nothing_is_adopted_twice(s: &mut dyn Subject) {
    leave_behind(s, A);
    adopted(s, A, B);
    assert_eq!(adopted(s, A, C), []);
    run(s, bye(2, 2));
    s.pass(TOMBSTONE_MS + SLACK_MS);
    assert_eq!(adopted(s, B, C).len(), 2, "the call and the exchange");
}
