//! CSeq order, replay, compare-and-set, fences, tombstones.

use bytes::Bytes;
use session_store::op::{Actor, CLAIM_MS, Fence, OpenOutcome, StoreOp, StoreReply, TOMBSTONE_MS};
use session_store::record::{DialogPhase, DialogRecord, Owner, PeerFlow};

use crate::samples::*;
use crate::{SLACK_MS, Subject};

fn write(cseq: u32, version: u64, record: DialogRecord) -> StoreOp {
    let record = Some((version, Box::new(record), HOUR));
    StoreOp::Commit { dialog: dialog(1), cseq, response: Bytes::from_static(b"200"), record }
}

fn update(version: u64, record: DialogRecord, ttl_ms: u64) -> StoreOp {
    StoreOp::UpdateDialog { dialog: dialog(1), version, record: Box::new(record), ttl_ms }
}

pub fn a_request_is_claimed_once_and_its_response_is_replayed(s: &mut dyn Subject) {
    with_dialog(s, 1);
    assert!(matches!(run(s, begin(1, 2, "UPDATE")), StoreReply::Begun { exchange: None, .. }));
    assert_eq!(run(s, begin(1, 2, "UPDATE")), StoreReply::InProgress);
    assert_eq!(run(s, commit(1, 2, b"200")), StoreReply::Version(1));
    assert_eq!(run(s, begin(1, 2, "UPDATE")), StoreReply::Replay { response: Bytes::from_static(b"200") });
}

pub fn a_claim_that_nobody_answers_lapses(s: &mut dyn Subject) {
    with_dialog(s, 1);
    // A re-INVITE or UPDATE may wait for a person, and changes the dialog: its copies wait as long as it is remembered.
    run(s, begin(1, 2, "UPDATE"));
    s.pass(CLAIM_MS + SLACK_MS);
    assert_eq!(run(s, begin(1, 2, "UPDATE")), StoreReply::InProgress);
    // Who claimed these died.
    for (cseq, method) in [(3, "MESSAGE"), (4, "INFO"), (5, "OPTIONS")] {
        run(s, begin(1, cseq, method));
        s.pass(CLAIM_MS + SLACK_MS);
        assert!(matches!(run(s, begin(1, cseq, method)), StoreReply::Begun { .. }), "{method}");
        run(s, commit(1, cseq, b"200"));
        assert_eq!(run(s, begin(1, cseq, method)), StoreReply::Replay { response: Bytes::from_static(b"200") });
    }
    // Others went on meanwhile: it comes again with a number of its own.
    run(s, begin(1, 6, "MESSAGE"));
    run(s, begin(1, 7, "MESSAGE"));
    s.pass(CLAIM_MS + SLACK_MS);
    assert_eq!(run(s, begin(1, 6, "MESSAGE")), StoreReply::OutOfOrder);
}

pub fn a_claim_in_a_call_of_two_legs_lasts(s: &mut dyn Subject) {
    let two = DialogRecord { peer: Some(dialog(2)), ..record() };
    run(s, StoreOp::RestoreDialog { dialog: dialog(1), record: Box::new(two), ttl_ms: HOUR, conversation: None });
    run(s, begin(1, 2, "MESSAGE"));
    s.pass(CLAIM_MS + SLACK_MS);
    assert_eq!(run(s, begin(1, 2, "MESSAGE")), StoreReply::InProgress, "the other leg has time");
}

pub fn cseq_only_rises(s: &mut dyn Subject) {
    with_dialog(s, 1);
    run(s, begin(1, 5, "MESSAGE"));
    assert_eq!(run(s, begin(1, 4, "MESSAGE")), StoreReply::OutOfOrder);
    assert_eq!(run(s, begin(1, 1, "MESSAGE")), StoreReply::OutOfOrder, "the INVITE's own number");
    assert_eq!(run(s, bye(1, 4)), StoreReply::OutOfOrder);
    // A writer that read an old record does not turn it back.
    assert_eq!(run(s, write(5, 1, record())), StoreReply::Version(2));
    assert_eq!(run(s, begin(1, 3, "MESSAGE")), StoreReply::OutOfOrder);
    assert_eq!(dialog_of(s, 1).1.cseq_in, Some(5));
}

pub fn a_response_is_kept_as_long_as_it_may_be_asked_for(s: &mut dyn Subject) {
    with_dialog(s, 1);
    run(s, begin(1, 5, "UPDATE"));
    run(s, begin(1, 6, "MESSAGE"));
    run(s, commit(1, 6, b"200"));
    s.pass(TOMBSTONE_MS - SLACK_MS);
    assert_eq!(run(s, begin(1, 5, "UPDATE")), StoreReply::InProgress);
    assert_eq!(run(s, begin(1, 6, "MESSAGE")), StoreReply::Replay { response: Bytes::from_static(b"200") });
    s.pass(2 * SLACK_MS);
    // No longer kept; the number is not free again.
    assert_eq!(run(s, begin(1, 5, "UPDATE")), StoreReply::OutOfOrder);
    assert_eq!(run(s, begin(1, 6, "MESSAGE")), StoreReply::OutOfOrder);
}

pub fn compare_and_set_tells_the_loser_what_is_there(s: &mut dyn Subject) {
    with_dialog(s, 1);
    run(s, begin(1, 2, "UPDATE"));
    let new = DialogRecord { remote_target: "sip:alice@192.0.2.9".into(), ..record() };
    assert_eq!(run(s, write(2, 1, new.clone())), StoreReply::Version(2));
    for late in [write(3, 1, record()), update(1, record(), HOUR)] {
        let StoreReply::Conflict { version: 2, record } = run(s, late) else { panic!("conflict") };
        assert_eq!(record.remote_target, "sip:alice@192.0.2.9");
    }
    assert!(matches!(run(s, begin(1, 3, "MESSAGE")), StoreReply::Begun { .. }), "no response was kept of the loser");
    assert_eq!(run(s, update(2, new, HOUR)), StoreReply::Version(3));
}

pub fn bye_leaves_a_tombstone_that_replays_its_answer(s: &mut dyn Subject) {
    with_dialog(s, 1);
    assert!(matches!(run(s, begin(1, 2, "BYE")), StoreReply::Begun { .. }));
    let StoreReply::Dialog { version: 2, record } = run(s, bye(1, 2)) else { panic!("what it was") };
    assert_eq!(record.phase, DialogPhase::Accepted);
    assert!(record.local_sdp.is_some());
    let replay = StoreReply::Replay { response: Bytes::from_static(b"200 BYE") };
    assert_eq!(run(s, begin(1, 2, "BYE")), replay);
    assert_eq!(run(s, bye(1, 2)), replay);
    for operation in [
        begin(1, 3, "MESSAGE"),
        bye(1, 3),
        read(1),
        next_cseq(1, false),
        bury(1),
        commit(1, 3, b"200"),
        StoreOp::Confirm { dialog: dialog(1) },
        update(2, *record.clone(), HOUR),
    ] {
        assert_eq!(run(s, operation.clone()), StoreReply::Gone, "{operation:?}");
    }
    let mallory = Actor { principal: "sip:mallory@demo.example".into(), source: None };
    let theirs = StoreOp::Terminate { dialog: dialog(1), by: mallory, cseq: 2, response: Bytes::new(), nonce: None };
    assert_eq!(run(s, theirs), StoreReply::OtherPrincipal, "not even the answer is told to somebody else");
    s.pass(TOMBSTONE_MS + SLACK_MS);
    assert_eq!(run(s, next_cseq(1, false)), StoreReply::Unknown);
}

pub fn our_requests_count_upwards_and_close_an_exchange_on_the_way(s: &mut dyn Subject) {
    with_dialog(s, 1);
    let key = exchange(1, 1);
    assert_eq!(run(s, opening(open(key, A, 1, false))), opened());
    let next = |close| StoreOp::NextCseq { dialog: dialog(1), terminating: false, close, fence: None };
    assert!(matches!(run(s, next(None)), StoreReply::Cseq { cseq: 1, version: 1, .. }));
    let theirs = Some(Box::new(close(key, B, None)));
    assert_eq!(run(s, next(theirs)), StoreReply::Fenced, "nobody else closes it, and no number is used");
    let ours = Some(Box::new(close(key, A, Some(b"answer"))));
    assert!(matches!(run(s, next(ours.clone())), StoreReply::Cseq { cseq: 2, .. }));
    let again = run(s, opening(open(key, A, 1, false)));
    let answer = Some(Bytes::from_static(b"answer"));
    assert_eq!(again, StoreReply::Exchange(OpenOutcome::RepeatAnswered { answer }));
    assert!(matches!(run(s, next(ours)), StoreReply::Cseq { cseq: 3, .. }), "closed already: the number is given");
}

pub fn terminating_refuses_nothing_until_it_is_buried(s: &mut dyn Subject) {
    with_dialog(s, 1);
    let StoreReply::Cseq { record, .. } = run(s, next_cseq(1, true)) else { panic!("cseq") };
    assert_eq!(record.phase, DialogPhase::Terminating);
    assert!(matches!(run(s, begin(1, 2, "MESSAGE")), StoreReply::Begun { .. }));
    assert!(matches!(run(s, bury(1)), StoreReply::Dialog { version: 2, .. }));
    assert_eq!(run(s, read(1)), StoreReply::Gone);
}

pub fn a_writer_does_not_take_back_that_it_terminates(s: &mut dyn Subject) {
    with_dialog(s, 1);
    run(s, next_cseq(1, true));
    assert_eq!(run(s, update(1, record(), HOUR)), StoreReply::Version(2));
    assert_eq!(phase_of(s, 1), DialogPhase::Terminating);
}

pub fn owner_and_flow_are_the_stores_word(s: &mut dyn Subject) {
    with_dialog(s, 1);
    run(s, begin_from(1, 2, "MESSAGE", Some(flow(4))));
    let old = DialogRecord { owner: B, flow: Some("old".into()), source: "udp:0:192.0.2.66:5060".into(), ..record() };
    assert_eq!(run(s, update(1, old, HOUR)), StoreReply::Version(2));
    let (_, now) = dialog_of(s, 1);
    assert_eq!((now.owner, now.flow, now.source), (A, flow(4).flow, flow(4).source));
}

pub fn confirming_drops_the_2xx(s: &mut dyn Subject) {
    with_dialog(s, 1);
    let confirm = StoreOp::Confirm { dialog: dialog(1) };
    assert_eq!(run(s, confirm.clone()), StoreReply::Version(2));
    assert_eq!(run(s, confirm), StoreReply::Version(2), "a second ACK");
    let (_, record) = dialog_of(s, 1);
    assert_eq!((record.phase, record.accept_bytes), (DialogPhase::Confirmed, None));
    let again = DialogRecord { accept_bytes: Some(Bytes::from_static(b"200 again")), ..self::record() };
    run(s, update(2, again.clone(), HOUR));
    assert_eq!(dialog_of(s, 1).1.accept_bytes, again.accept_bytes, "the 2xx to a re-INVITE");
}

pub fn unknown_dialogs_are_unknown_everywhere(s: &mut dyn Subject) {
    with_dialog(s, 2);
    for operation in [
        begin(1, 2, "MESSAGE"),
        commit(1, 2, b"200"),
        read(1),
        StoreOp::Confirm { dialog: dialog(1) },
        bury(1),
        bye(1, 2),
        next_cseq(1, false),
        update(1, record(), HOUR),
    ] {
        assert_eq!(run(s, operation), StoreReply::Unknown);
    }
}

pub fn another_principal_moves_nothing_and_an_anonymous_one_stays_on_its_flow(s: &mut dyn Subject) {
    with_dialog(s, 1);
    let act = |by: Actor| StoreOp::Begin {
        dialog: dialog(1),
        by,
        flow: Some(flow(6)),
        cseq: 9,
        method: "MESSAGE".into(),
        nonce: None,
        exchange: Some(Box::new(open(exchange(1, 1), A, 1, false))),
    };
    let mallory = Actor { principal: "sip:mallory@demo.example".into(), source: None };
    assert_eq!(run(s, act(mallory.clone())), StoreReply::OtherPrincipal);
    let elsewhere = Actor { source: Some("udp:0:198.51.100.9:5060".into()), ..alice() };
    assert_eq!(run(s, act(elsewhere)), StoreReply::OtherPrincipal);
    let bye = StoreOp::Terminate { dialog: dialog(1), by: mallory, cseq: 9, response: Bytes::new(), nonce: None };
    assert_eq!(run(s, bye), StoreReply::OtherPrincipal);
    let (_, now) = dialog_of(s, 1);
    assert_eq!((now.cseq_in, now.flow, now.source), (Some(1), None, record().source));
    let here = Actor { source: Some(record().source), ..alice() };
    let begun = run(s, act(here));
    assert!(matches!(begun, StoreReply::Begun { exchange: Some(OpenOutcome::Opened { .. }), .. }), "none was opened");
}

pub fn begin_moves_the_flow(s: &mut dyn Subject) {
    with_dialog(s, 1);
    let StoreReply::Begun { version: 1, record, .. } = run(s, begin_from(1, 2, "MESSAGE", Some(flow(4)))) else {
        panic!("begun, and no new version")
    };
    assert_eq!((&record.flow, &record.source), (&flow(4).flow, &flow(4).source));
    run(s, begin(1, 3, "MESSAGE"));
    let StoreReply::Cseq { record, .. } = run(s, next_cseq(1, false)) else { panic!("cseq") };
    assert_eq!((&record.flow, &record.source), (&flow(4).flow, &flow(4).source));
    let datagram = PeerFlow { flow: None, source: "udp:0:192.0.2.1:5062".into() };
    run(s, begin_from(1, 4, "MESSAGE", Some(datagram.clone())));
    let (_, record) = dialog_of(s, 1);
    assert_eq!((record.flow, record.source), (None, datagram.source));
    // An anonymous peer is held to where it was seen last.
    let act = |source: &str| Actor { source: Some(source.into()), ..alice() };
    let from = |by, cseq| StoreOp::Begin {
        dialog: dialog(1),
        by,
        flow: None,
        cseq,
        method: "MESSAGE".into(),
        nonce: None,
        exchange: None,
    };
    assert_eq!(run(s, from(act(&self::record().source), 5)), StoreReply::OtherPrincipal);
    assert!(matches!(run(s, from(act("udp:0:192.0.2.1:5062"), 5)), StoreReply::Begun { .. }));
}

pub fn a_repeated_request_moves_no_flow(s: &mut dyn Subject) {
    with_dialog(s, 1);
    run(s, begin_from(1, 2, "UPDATE", Some(flow(2))));
    assert_eq!(run(s, begin_from(1, 2, "UPDATE", Some(flow(3)))), StoreReply::InProgress);
    run(s, commit(1, 2, b"200"));
    assert!(matches!(run(s, begin_from(1, 2, "UPDATE", Some(flow(3)))), StoreReply::Replay { .. }));
    assert_eq!(run(s, begin_from(1, 1, "MESSAGE", Some(flow(3)))), StoreReply::OutOfOrder);
    assert_eq!(dialog_of(s, 1).1.flow, flow(2).flow);
}

pub fn a_timer_is_fenced_by_owner_and_version(s: &mut dyn Subject) {
    with_dialog(s, 1);
    let timer = |owner, version| StoreOp::NextCseq {
        dialog: dialog(1),
        terminating: true,
        close: None,
        fence: Some(Fence { owner, version }),
    };
    for other in [B, Owner { epoch: 2, ..A }, Owner { boot: 12, ..A }] {
        assert_eq!(run(s, timer(other, None)), StoreReply::Fenced);
    }
    assert!(matches!(run(s, timer(A, Some(7))), StoreReply::Conflict { version: 1, .. }));
    let (_, untouched) = dialog_of(s, 1);
    assert_eq!((untouched.phase, untouched.cseq_out), (DialogPhase::Accepted, 0));
    assert!(matches!(run(s, timer(A, Some(1))), StoreReply::Cseq { cseq: 1, version: 1, .. }));
    assert!(matches!(run(s, timer(A, None)), StoreReply::Cseq { cseq: 2, .. }));
    run(s, bury(1));
    assert_eq!(run(s, timer(B, None)), StoreReply::Gone, "there is nothing to fence any more");
}

pub fn a_fenced_request_closes_nothing(s: &mut dyn Subject) {
    with_dialog(s, 1);
    let key = exchange(1, 1);
    run(s, opening(open(key, A, 1, false)));
    let fenced = |fence| StoreOp::NextCseq {
        dialog: dialog(1),
        terminating: false,
        close: Some(Box::new(close(key, A, Some(b"a")))),
        fence: Some(fence),
    };
    assert_eq!(run(s, fenced(Fence { owner: B, version: None })), StoreReply::Fenced);
    let conflict = run(s, fenced(Fence { owner: A, version: Some(9) }));
    assert!(matches!(conflict, StoreReply::Conflict { .. }));
    assert_eq!(run(s, StoreOp::CloseExchange(close(key, A, None))), closed());
}

pub fn a_refresh_moves_the_end(s: &mut dyn Subject) {
    with_dialog(s, 1);
    assert_eq!(run(s, update(1, record(), 20 * SECOND)), StoreReply::Version(2));
    s.pass(20 * SECOND - SLACK_MS);
    assert_eq!(run(s, update(2, record(), MINUTE)), StoreReply::Version(3));
    s.pass(MINUTE - SLACK_MS);
    assert!(matches!(run(s, read(1)), StoreReply::Dialog { .. }));
    s.pass(2 * SLACK_MS);
    assert_eq!(run(s, read(1)), StoreReply::Unknown);
}
