//! A store that came back empty: edges write what they still hold.

use session_store::op::{StoreOp, StoreReply};
use session_store::record::{DialogRecord, Owner};

use crate::Subject;
use crate::samples::*;

fn restore(record: DialogRecord) -> StoreOp {
    StoreOp::RestoreDialog { dialog: dialog(1), record: Box::new(record), ttl_ms: HOUR, conversation: None }
}

pub fn what_was_lost_is_set_if_absent(s: &mut dyn Subject) {
    let held = DialogRecord { cseq_in: Some(40), cseq_out: 17, ..record() };
    assert_eq!(run(s, restore(held.clone())), StoreReply::Version(1));
    assert_eq!(dialog_of(s, 1), (1, held));
    assert_eq!(run(s, begin(1, 40, "MESSAGE")), StoreReply::OutOfOrder);
    assert!(matches!(run(s, next_cseq(1, false)), StoreReply::Cseq { cseq: 18, .. }));
}

pub fn what_is_there_is_not_overwritten(s: &mut dyn Subject) {
    with_dialog(s, 1);
    let theirs = DialogRecord { owner: B, remote_target: "sip:elsewhere".into(), ..record() };
    let StoreReply::Conflict { version: 1, record } = run(s, restore(theirs)) else { panic!("conflict") };
    assert_eq!((record.owner, record.remote_target), (A, self::record().remote_target));
}

pub fn what_ended_is_not_brought_back(s: &mut dyn Subject) {
    with_dialog(s, 1);
    run(s, bye(1, 2));
    assert_eq!(run(s, restore(record())), StoreReply::Gone);
}

pub fn it_belongs_to_the_owner_in_the_record(s: &mut dyn Subject) {
    let reborn = Owner { epoch: 2, boot: 12, ..A };
    run(s, restore(DialogRecord { owner: reborn, ..record() }));
    assert_eq!(adopted(s, A, B), [], "an earlier life of that edge does not own it");
    assert_eq!(adopted(s, reborn, B).len(), 1);
}
