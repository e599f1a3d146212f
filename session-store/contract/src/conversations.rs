//! Export and erasure by conversation (OBS-4).

use bytes::Bytes;
use session_store::op::{CloseExchange, Exported, MAX_KEPT_ANSWERS, StoreOp, StoreReply, TOMBSTONE_MS};
use session_store::record::{DialogPhase, DialogRecord};

use crate::samples::*;
use crate::{SLACK_MS, Subject};

fn export(s: &mut dyn Subject, n: u8) -> Vec<Exported> {
    match run(s, StoreOp::Export { conversation: conversation(n) }) {
        StoreReply::Exported(records) => records,
        other => panic!("records were expected: {other:?}"),
    }
}

fn erase(n: u8) -> StoreOp {
    StoreOp::Erase { conversation: conversation(n) }
}

fn write_session(n: u8) -> StoreOp {
    StoreOp::WriteSession { session: session(n), version: 0, record: Box::new(session_record()), ttl_ms: HOUR }
}

/// Two legs, a session, an exchange in flight and an answered one, and requests that were answered.
fn converse(s: &mut dyn Subject) {
    with_two_legs(s, 1, 2);
    run(s, write_session(1));
    run(s, begin(1, 2, "MESSAGE"));
    run(s, commit(1, 2, b"200"));
    run(s, opening(open(exchange(1, 1), A, 1, false)));
    run(s, opening(open(exchange(1, 2), A, 2, false)));
    run(s, StoreOp::CloseExchange(close(exchange(1, 2), A, Some(b"answer"))));
}

pub fn obs_4_everything_of_a_conversation_is_told(s: &mut dyn Subject) {
    converse(s);
    let told = export(s, 1);
    let (caller, callee) = (dialog_of(s, 1).1, dialog_of(s, 2).1);
    let answer = Some(Bytes::from_static(b"answer"));
    for expected in [
        Exported::Dialog(Box::new(caller)),
        Exported::Dialog(Box::new(callee)),
        Exported::Session(Box::new(session_record())),
        Exported::Exchange { entry: Box::new(entry(A, 1, false)), answer: None },
        Exported::Exchange { entry: Box::new(entry(A, 2, false)), answer },
    ] {
        assert!(told.contains(&expected), "{expected:?} is missing in {told:?}");
    }
    assert_eq!(told.len(), 5);
}

pub fn obs_4_erasing_leaves_nothing_but_a_silent_tombstone(s: &mut dyn Subject) {
    converse(s);
    assert_eq!(run(s, erase(1)), StoreReply::Erased(5));
    assert_eq!(export(s, 1), []);
    assert_eq!(run(s, erase(1)), StoreReply::Erased(0));
    for n in [1, 2] {
        // Even the answers that were kept for a retransmission are gone.
        for operation in [
            begin(n, 2, "MESSAGE"),
            begin(n, 9, "MESSAGE"),
            bye(n, 9),
            read(n),
            next_cseq(n, false),
            bury(n),
            commit(n, 2, b"200"),
        ] {
            assert_eq!(run(s, operation.clone()), StoreReply::Gone, "{operation:?}");
        }
    }
    assert_eq!(run(s, StoreOp::ReadSession { session: session(1), ttl_ms: 0 }), StoreReply::Unknown);
    assert_eq!(run(s, StoreOp::CloseExchange(close(exchange(1, 1), A, None))), StoreReply::Unknown);
    assert_eq!(adopted(s, A, B), []);
    s.pass(TOMBSTONE_MS + SLACK_MS);
    assert_eq!(run(s, read(1)), StoreReply::Unknown);
}

pub fn obs_4_a_conversation_of_two_legs_is_one(s: &mut dyn Subject) {
    with_two_legs(s, 1, 2);
    assert_eq!(export(s, 1).len(), 2);
    run(s, bury(1));
    assert_eq!(export(s, 1).len(), 1, "an ended dialog is not told");
    assert_eq!(run(s, erase(1)), StoreReply::Erased(1));
    assert_eq!(run(s, read(2)), StoreReply::Gone);
}

pub fn obs_4_conversations_do_not_meet(s: &mut dyn Subject) {
    with_two_legs(s, 1, 2);
    with_two_legs(s, 3, 4);
    with_dialog(s, 5);
    run(s, opening(open(exchange(3, 1), A, 1, false)));
    assert_eq!(run(s, erase(1)), StoreReply::Erased(2));
    assert_eq!(export(s, 3).len(), 3);
    assert!(matches!(run(s, read(5)), StoreReply::Dialog { .. }));
    let theirs = session_store::key::ConversationKey { tenant: 2, ..conversation(3) };
    assert_eq!(run(s, StoreOp::Erase { conversation: theirs }), StoreReply::Erased(0));
}

pub fn obs_4_a_restored_dialog_is_found(s: &mut dyn Subject) {
    let restored = StoreOp::RestoreDialog {
        dialog: dialog(1),
        record: Box::new(record()),
        ttl_ms: HOUR,
        conversation: Some(conversation(1)),
    };
    run(s, restored);
    assert_eq!(export(s, 1).len(), 1);
    // A writer's change does not take it out.
    let update = StoreOp::UpdateDialog { dialog: dialog(1), version: 1, record: Box::new(record()), ttl_ms: 3 * HOUR };
    assert_eq!(run(s, update), StoreReply::Version(2));
    s.pass(2 * HOUR);
    assert_eq!(export(s, 1).len(), 1, "it is found for as long as it lives");
    assert_eq!(run(s, erase(1)), StoreReply::Erased(1));
}

pub fn obs_4_an_unknown_conversation_is_empty(s: &mut dyn Subject) {
    assert_eq!(export(s, 1), []);
    assert_eq!(run(s, erase(1)), StoreReply::Erased(0));
}

/// Two legs whose records stay readable for an hour after their end, and what [`converse`] brings.
fn converse_retained(s: &mut dyn Subject) {
    with_two_legs_of(s, 1, 2, DialogRecord { retention_ms: HOUR, ..record() });
    run(s, write_session(1));
    run(s, opening(open(exchange(1, 1), A, 1, false)));
    run(s, opening(open(exchange(1, 2), A, 2, false)));
    run(s, StoreOp::CloseExchange(close(exchange(1, 2), A, Some(b"answer"))));
}

fn kinds(told: &[Exported]) -> (usize, usize, usize) {
    let count = |kind: fn(&Exported) -> bool| told.iter().filter(|record| kind(record)).count();
    (
        count(|record| matches!(record, Exported::Dialog(_))),
        count(|record| matches!(record, Exported::Session(_))),
        count(|record| matches!(record, Exported::Exchange { .. })),
    )
}

pub fn obs_4_what_is_retained_is_told_after_the_end_and_then_is_gone(s: &mut dyn Subject) {
    converse_retained(s);
    assert_eq!(kinds(&export(s, 1)), (2, 1, 2));
    // An answer is told for as long as the conversation, not only until nobody repeats the request.
    s.pass(MINUTE + SLACK_MS);
    assert_eq!(kinds(&export(s, 1)), (2, 1, 1), "what was in flight ended by its own time");
    run(s, bye(1, 2));
    run(s, bury(2));
    run(s, StoreOp::DropSession { session: session(1), if_ends_within_ms: None });
    s.pass(TOMBSTONE_MS + SLACK_MS);
    assert_eq!(run(s, read(1)), StoreReply::Unknown, "calls see nothing of it");
    let told = export(s, 1);
    assert_eq!(kinds(&told), (2, 1, 1));
    let answer = Some(Bytes::from_static(b"answer"));
    assert!(told.contains(&Exported::Exchange { entry: Box::new(entry(A, 2, false)), answer }), "{told:?}");
    assert!(told.contains(&Exported::Session(Box::new(session_record()))), "{told:?}");
    for told in &told {
        if let Exported::Dialog(dialog) = told {
            assert_eq!((dialog.phase, &dialog.accept_bytes), (DialogPhase::Terminated, &None));
            assert_eq!(dialog.call_id, record().call_id);
        }
    }
    s.pass(HOUR - TOMBSTONE_MS - 3 * SLACK_MS);
    assert_eq!(kinds(&export(s, 1)), (2, 1, 1));
    s.pass(3 * SLACK_MS);
    assert_eq!(export(s, 1), []);
    s.pass(2 * HOUR);
    assert_eq!(s.left(), 0);
}

pub fn obs_4_a_dialog_that_just_ran_out_is_retained_as_well(s: &mut dyn Subject) {
    with_two_legs_of(s, 1, 2, DialogRecord { retention_ms: HOUR, ..record() });
    // A refresh moves both ends.
    let refreshed = DialogRecord { retention_ms: HOUR, remote_target: "sip:moved@192.0.2.9".into(), ..record() };
    let update = StoreOp::UpdateDialog { dialog: dialog(1), version: 1, record: Box::new(refreshed), ttl_ms: 2 * HOUR };
    assert_eq!(run(s, update), StoreReply::Version(2));
    s.pass(2 * HOUR + SLACK_MS);
    assert_eq!(run(s, read(1)), StoreReply::Unknown);
    let told = export(s, 1);
    assert!(matches!(&told[..], [Exported::Dialog(dialog)] if dialog.remote_target.contains("moved")), "{told:?}");
    s.pass(HOUR);
    assert_eq!(export(s, 1), []);
    assert_eq!(s.left(), 0);
}

pub fn obs_4_without_retention_nothing_outlives_the_tombstone(s: &mut dyn Subject) {
    converse(s);
    run(s, bye(1, 3));
    run(s, bury(2));
    run(s, StoreOp::DropSession { session: session(1), if_ends_within_ms: None });
    assert_eq!(export(s, 1), []);
    s.pass(2 * HOUR);
    assert_eq!(s.left(), 0);
}

pub fn obs_4_what_is_retained_is_erased_before_and_after_the_end(s: &mut dyn Subject) {
    converse_retained(s);
    assert_eq!(run(s, erase(1)), StoreReply::Erased(5));
    assert_eq!(export(s, 1), []);
    // An exchange that is answered later brings nothing back.
    assert_eq!(run(s, StoreOp::CloseExchange(close(exchange(1, 1), A, Some(b"late")))), StoreReply::Unknown);
    assert_eq!(export(s, 1), []);
    with_two_legs_of(s, 3, 4, DialogRecord { retention_ms: HOUR, ..record() });
    run(s, bye(3, 2));
    run(s, bury(4));
    s.pass(TOMBSTONE_MS + SLACK_MS);
    assert_eq!(export(s, 3).len(), 2);
    assert_eq!(run(s, erase(3)), StoreReply::Erased(2));
    assert_eq!(export(s, 3), []);
    s.pass(3 * HOUR);
    assert_eq!(s.left(), 0);
}

pub fn obs_4_the_oldest_answers_give_way(s: &mut dyn Subject) {
    with_two_legs_of(s, 1, 2, DialogRecord { retention_ms: HOUR, ..record() });
    // Three of them are more than there is room for.
    let answer = Bytes::from(vec![b'a'; usize::try_from(MAX_KEPT_ANSWERS / 5 * 2).expect("a length")]);
    for n in 0..3 {
        run(s, opening(open(exchange(1, n), A, n, false)));
        let close = CloseExchange { answer: Some(answer.clone()), ..close(exchange(1, n), A, None) };
        run(s, StoreOp::CloseExchange(close));
    }
    let mut digests: Vec<u8> = Vec::new();
    for told in export(s, 1) {
        if let Exported::Exchange { entry, .. } = told {
            digests.push(entry.digest[0]);
        }
    }
    digests.sort_unstable();
    assert_eq!(digests, [1, 2]);
}
