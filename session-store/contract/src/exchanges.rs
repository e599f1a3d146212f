//! The journal.

use bytes::Bytes;
use session_store::op::{ANSWER_MS, Adopted, CloseExchange, OpenExchange, OpenOutcome, StoreOp, StoreReply};
use session_store::record::{ExchangeNote, JournalEntry, LegRecord, Owner, PeerFlow};

use crate::samples::*;
use crate::{SLACK_MS, Subject};

fn answered(answer: Option<&'static [u8]>) -> StoreReply {
    StoreReply::Exchange(OpenOutcome::RepeatAnswered { answer: answer.map(Bytes::from_static) })
}

fn in_flight(owner: Owner) -> StoreReply {
    StoreReply::Exchange(OpenOutcome::RepeatInFlight { owner })
}

fn from(flow: PeerFlow, owner: Owner, digest: u8) -> OpenExchange {
    let leg = LegRecord { flow, ..LegRecord::default() };
    OpenExchange {
        entry: JournalEntry { leg, ..entry(owner, digest, false) },
        ..open(exchange(1, 1), owner, digest, false)
    }
}

pub fn a_repetition_waits_then_gets_the_kept_answer(s: &mut dyn Subject) {
    let key = exchange(1, 1);
    assert_eq!(run(s, opening(open(key, A, 1, false))), opened());
    assert_eq!(run(s, opening(open(key, B, 1, false))), in_flight(A));
    assert_eq!(run(s, StoreOp::CloseExchange(close(key, A, Some(b"answer")))), closed());
    s.pass(ANSWER_MS - SLACK_MS);
    assert_eq!(run(s, opening(open(key, B, 1, false))), answered(Some(b"answer")));
    s.pass(2 * SLACK_MS);
    assert_eq!(run(s, opening(open(key, B, 1, false))), opened());
}

pub fn a_repetition_moves_the_return_path(s: &mut dyn Subject) {
    assert_eq!(run(s, opening(from(flow(1), A, 1))), opened());
    assert_eq!(run(s, opening(from(flow(2), B, 1))), in_flight(A));
    let StoreReply::Closed { flow: now } = run(s, StoreOp::CloseExchange(close(exchange(1, 1), A, None))) else {
        panic!("closed")
    };
    assert_eq!(now, flow(2));
}

pub fn a_repetition_in_a_dialog_moves_both(s: &mut dyn Subject) {
    with_dialog(s, 1);
    let request = |cseq, n, owner| StoreOp::Begin {
        dialog: dialog(1),
        by: alice(),
        flow: Some(flow(n)),
        cseq,
        method: "INFO".into(),
        nonce: None,
        exchange: Some(Box::new(from(flow(n), owner, 1))),
    };
    let StoreReply::Begun { exchange: Some(OpenOutcome::Opened { .. }), .. } = run(s, request(2, 1, A)) else {
        panic!("opened")
    };
    let StoreReply::Begun { exchange: Some(OpenOutcome::RepeatInFlight { owner: A }), record, .. } =
        run(s, request(3, 2, B))
    else {
        panic!("in flight at its owner")
    };
    assert_eq!(record.flow, flow(2).flow);
    let taken = adopted(s, A, B);
    let entry = taken.iter().find_map(|item| match item {
        Adopted::Exchange { entry, .. } => Some(entry),
        _ => None,
    });
    assert_eq!(entry.map(|entry| &entry.leg.flow), Some(&flow(2)));
}

pub fn another_body_moves_nothing(s: &mut dyn Subject) {
    run(s, opening(from(flow(1), A, 1)));
    assert_eq!(run(s, opening(from(flow(2), B, 2))), StoreReply::Exchange(OpenOutcome::Taken));
    let done = run(s, StoreOp::CloseExchange(close(exchange(1, 1), A, None)));
    assert_eq!(done, StoreReply::Closed { flow: flow(1) });
}

pub fn what_is_safe_to_repeat_runs_again_and_what_is_not_never_does(s: &mut dyn Subject) {
    let key = exchange(1, 1);
    run(s, opening(open(key, A, 1, true)));
    run(s, StoreOp::CloseExchange(close(key, A, None)));
    assert_eq!(run(s, opening(open(key, A, 1, true))), opened());

    let key = exchange(1, 2);
    run(s, opening(open(key, A, 1, false)));
    run(s, StoreOp::CloseExchange(close(key, A, None)));
    assert_eq!(run(s, opening(open(key, A, 1, false))), answered(None));
}

pub fn another_body_by_the_same_name_is_taken_in_flight_and_new_afterwards(s: &mut dyn Subject) {
    let key = exchange(1, 1);
    run(s, opening(open(key, A, 1, false)));
    assert_eq!(run(s, opening(open(key, A, 2, false))), StoreReply::Exchange(OpenOutcome::Taken));
    run(s, StoreOp::CloseExchange(close(key, A, Some(b"one"))));
    assert_eq!(run(s, opening(open(key, B, 2, false))), opened());
    assert_eq!(run(s, opening(open(key, A, 2, false))), in_flight(B));
}

pub fn only_the_owner_closes_and_only_once(s: &mut dyn Subject) {
    let key = exchange(1, 1);
    assert_eq!(run(s, StoreOp::CloseExchange(close(key, A, None))), StoreReply::Unknown);
    run(s, opening(open(key, A, 1, false)));
    for other in [B, Owner { epoch: 2, ..A }, Owner { boot: 12, ..A }] {
        assert_eq!(run(s, StoreOp::CloseExchange(close(key, other, Some(b"b")))), StoreReply::Fenced);
    }
    assert_eq!(run(s, StoreOp::CloseExchange(close(key, A, Some(b"a")))), closed());
    assert_eq!(run(s, StoreOp::CloseExchange(close(key, A, Some(b"c")))), StoreReply::Unknown);
    assert_eq!(run(s, opening(open(key, A, 1, false))), answered(Some(b"a")));
}

pub fn the_in_flight_limit_counts_what_is_unanswered_in_this_session(s: &mut dyn Subject) {
    for n in 0..4 {
        assert_eq!(run(s, opening(open(exchange(1, n), A, 1, false))), opened());
    }
    assert_eq!(run(s, opening(open(exchange(1, 9), A, 1, false))), StoreReply::Exchange(OpenOutcome::Full));
    assert_eq!(run(s, opening(open(exchange(1, 0), A, 1, false))), in_flight(A), "a repetition is no further one");
    assert_eq!(run(s, opening(open(exchange(2, 9), A, 1, false))), opened(), "another session");
    run(s, StoreOp::CloseExchange(close(exchange(1, 0), A, None)));
    assert_eq!(run(s, opening(open(exchange(1, 9), A, 1, false))), opened());
    s.pass(MINUTE + SLACK_MS);
    assert_eq!(run(s, opening(open(exchange(1, 10), A, 1, false))), opened(), "the old ones ended");
}

pub fn once_is_true_once(s: &mut dyn Subject) {
    let once = || StoreOp::Once { key: exchange(1, 1), ttl_ms: 32 * SECOND, nonce: None };
    assert_eq!(run(s, once()), StoreReply::First(true));
    s.pass(32 * SECOND - SLACK_MS);
    assert_eq!(run(s, once()), StoreReply::First(false));
    s.pass(2 * SLACK_MS);
    assert_eq!(run(s, once()), StoreReply::First(true));
    assert_eq!(
        run(s, opening(open(exchange(1, 1), A, 1, false))),
        opened(),
        "an exchange of that name is another thing"
    );
}

pub fn what_is_noted_is_found_by_the_adopter(s: &mut dyn Subject) {
    let key = exchange(1, 1);
    run(s, opening(open(key, A, 1, true)));
    let note = |note| StoreOp::NoteExchange { key, owner: A, note };
    let first = ExchangeNote { event_id: Some("e1".into()), upstream_id: Some("7".into()), ..ExchangeNote::default() };
    assert_eq!(run(s, note(first)), StoreReply::Done);
    let second = ExchangeNote { event_id: Some("e2".into()), task: Some("t".into()), ..ExchangeNote::default() };
    assert_eq!(run(s, note(second)), StoreReply::Done);
    let third = ExchangeNote { backend_session: Some("b".into()), ..ExchangeNote::default() };
    assert_eq!(run(s, note(third)), StoreReply::Done);
    let known = JournalEntry {
        owner: B,
        event_id: Some("e2".into()),
        task: Some("t".into()),
        upstream_id: Some("7".into()),
        backend_session: Some("b".into()),
        ..entry(A, 1, true)
    };
    assert_eq!(adopted(s, A, B), [Adopted::Exchange { key, entry: Box::new(known) }]);
}

pub fn only_the_owner_notes_and_only_in_flight(s: &mut dyn Subject) {
    let key = exchange(1, 1);
    let note = |owner| StoreOp::NoteExchange { key, owner, note: ExchangeNote::default() };
    assert_eq!(run(s, note(A)), StoreReply::Unknown);
    run(s, opening(open(key, A, 1, false)));
    assert_eq!(run(s, note(B)), StoreReply::Fenced);
    run(s, StoreOp::CloseExchange(close(key, A, None)));
    assert_eq!(run(s, note(A)), StoreReply::Unknown);
}

pub fn an_exchange_begins_with_a_request_in_a_dialog(s: &mut dyn Subject) {
    with_dialog(s, 1);
    let request = |cseq, n, digest| StoreOp::Begin {
        dialog: dialog(1),
        by: alice(),
        flow: None,
        cseq,
        // Its claim does not lapse.
        method: "UPDATE".into(),
        nonce: None,
        exchange: Some(Box::new(OpenExchange { limit: 1, ..open(exchange(1, n), A, digest, false) })),
    };
    let outcome = |reply| match reply {
        StoreReply::Begun { exchange, .. } => exchange,
        other => panic!("begun: {other:?}"),
    };
    assert_eq!(outcome(run(s, request(2, 1, 1))), Some(OpenOutcome::Opened { session: None }));
    assert_eq!(outcome(run(s, request(3, 1, 1))), Some(OpenOutcome::RepeatInFlight { owner: A }));
    assert_eq!(outcome(run(s, request(4, 1, 2))), Some(OpenOutcome::Taken));
    assert_eq!(outcome(run(s, request(5, 2, 2))), Some(OpenOutcome::Full));
    assert_eq!(run(s, request(1, 3, 3)), StoreReply::OutOfOrder, "and nothing is opened");
    assert_eq!(run(s, request(5, 3, 3)), StoreReply::InProgress);
    run(s, StoreOp::CloseExchange(close(exchange(1, 1), A, Some(b"a"))));
    let answer = Some(Bytes::from_static(b"a"));
    assert_eq!(outcome(run(s, request(6, 1, 1))), Some(OpenOutcome::RepeatAnswered { answer }));
}

pub fn an_answer_on_its_way_is_given_to_a_repetition_and_to_who_adopts_it(s: &mut dyn Subject) {
    let key = exchange(1, 1);
    run(s, opening(open(key, A, 1, false)));
    let held = CloseExchange { is_held: true, ..close(key, A, Some(b"answer")) };
    assert_eq!(run(s, StoreOp::CloseExchange(CloseExchange { owner: B, ..held.clone() })), StoreReply::Fenced);
    assert_eq!(run(s, StoreOp::CloseExchange(held)), closed());
    let again = StoreReply::Exchange(OpenOutcome::RepeatAnswered { answer: Some(Bytes::from_static(b"answer")) });
    assert_eq!(run(s, opening(open(key, B, 1, false))), again);
    // Another body by the same name finds no room: what is refused changes nothing.
    assert_eq!(run(s, opening(open(exchange(1, 2), B, 1, false))), opened());
    let another = OpenExchange { limit: 1, ..open(key, B, 2, false) };
    assert_eq!(run(s, opening(another)), StoreReply::Exchange(OpenOutcome::Full));
    // Its edge dies before the caller has it.
    let adopt = StoreOp::Adopt { slot: key.session.slot, from: A, by: B, limit: 10, lease_ms: 1 };
    let StoreReply::Adopted { items, more: false } = run(s, adopt.clone()) else { panic!("adopted") };
    let [Adopted::Exchange { key: adopted, entry }] = &items[..] else { panic!("one exchange: {items:?}") };
    assert_eq!((*adopted, entry.owner, entry.answer.as_deref()), (key, B, Some(&b"answer"[..])));
    assert_eq!(run(s, StoreOp::CloseExchange(close(key, A, None))), StoreReply::Fenced);
    // The caller has it: nobody's any more, and still there for a repetition.
    assert_eq!(run(s, StoreOp::CloseExchange(close(key, B, None))), closed());
    assert_eq!(run(s, opening(open(key, B, 1, false))), again);
    assert_eq!(run(s, adopt), StoreReply::Adopted { items: Vec::new(), more: false });
    s.pass(ANSWER_MS + SLACK_MS);
    assert_eq!(run(s, opening(open(key, B, 1, false))), opened());
}

pub fn a_request_that_may_run_again_is_adopted_with_its_bytes_until_its_caller_has_the_answer(s: &mut dyn Subject) {
    let key = exchange(1, 1);
    let mut request = open(key, A, 1, true);
    request.limit = 1;
    request.entry.request = Some(Bytes::from_static(b"request"));
    run(s, opening(request.clone()));
    run(s, StoreOp::CloseExchange(CloseExchange { is_held: true, ..close(key, A, None) }));
    // It is not counted any more.
    let other = OpenExchange { key: exchange(1, 2), ..request.clone() };
    assert_eq!(run(s, opening(other.clone())), opened());
    run(s, StoreOp::CloseExchange(close(other.key, A, None)));
    let adopt = |from, by| StoreOp::Adopt { slot: key.session.slot, from, by, limit: 10, lease_ms: 1 };
    let StoreReply::Adopted { items, .. } = run(s, adopt(A, B)) else { panic!("adopted") };
    let [Adopted::Exchange { entry, .. }] = &items[..] else { panic!("one exchange: {items:?}") };
    assert_eq!((entry.request.as_deref(), &entry.answer), (Some(&b"request"[..]), &None));
    // A repetition is a new request, and its edge's from now on.
    request.entry.owner = A;
    assert_eq!(run(s, opening(request)), opened());
    assert_eq!(run(s, StoreOp::CloseExchange(close(key, B, None))), StoreReply::Fenced);
    assert_eq!(run(s, StoreOp::CloseExchange(close(key, A, None))), closed());
    assert_eq!(run(s, adopt(A, B)), StoreReply::Adopted { items: Vec::new(), more: false });
}

pub fn an_answer_on_its_way_outlives_the_deadline(s: &mut dyn Subject) {
    let key = exchange(1, 1);
    let short = || OpenExchange { ttl_ms: 10 * SECOND, ..open(key, A, 1, false) };
    run(s, opening(short()));
    run(s, StoreOp::CloseExchange(CloseExchange { is_held: true, ..close(key, A, Some(b"answer")) }));
    s.pass(ANSWER_MS - SLACK_MS);
    assert_eq!(run(s, opening(short())), answered(Some(b"answer")));
    assert_eq!(adopted(s, A, B).len(), 1);
    s.pass(2 * SLACK_MS);
    assert_eq!(adopted(s, B, A), []);
    assert_eq!(run(s, opening(short())), opened());
}

fn instead_of(owner: Owner, open: OpenExchange) -> StoreOp {
    opening(OpenExchange { instead_of: Some(owner), ..open })
}

pub fn what_its_owner_never_heard_of_is_taken_over_once(s: &mut dyn Subject) {
    let key = exchange(1, 1);
    run(s, opening(OpenExchange { limit: 1, ..from(flow(1), A, 1) }));
    // It is not one more.
    assert_eq!(run(s, instead_of(A, OpenExchange { limit: 1, ..from(flow(2), B, 1) })), opened());
    assert_eq!(run(s, instead_of(A, from(flow(3), C, 1))), in_flight(B), "somebody was first");
    assert_eq!(run(s, StoreOp::CloseExchange(close(key, A, Some(b"a")))), StoreReply::Fenced);
    // What the old owner leaves has it no more; what the new one leaves has it.
    assert_eq!(adopted(s, A, C), []);
    let taken = adopted(s, B, C);
    let [Adopted::Exchange { key: name, entry }] = &taken[..] else { panic!("one exchange: {taken:?}") };
    assert_eq!((*name, entry.owner, &entry.leg.flow), (key, C, &flow(3)));

    // The owner itself, too: it is as good as new.
    let key = exchange(1, 2);
    run(s, opening(open(key, A, 1, false)));
    assert_eq!(run(s, instead_of(A, open(key, A, 1, false))), opened());
    assert_eq!(run(s, StoreOp::CloseExchange(close(key, A, Some(b"a")))), closed());
    assert_eq!(adopted(s, A, C), []);
}

pub fn only_the_same_request_in_flight_under_that_owner_is_taken_over(s: &mut dyn Subject) {
    let key = exchange(1, 1);
    assert_eq!(run(s, instead_of(A, open(key, B, 1, false))), opened(), "nothing was there");
    for other in [A, Owner { epoch: B.epoch + 1, ..B }, Owner { boot: B.boot + 1, ..B }] {
        assert_eq!(run(s, instead_of(other, open(key, A, 1, false))), in_flight(B));
    }
    assert_eq!(run(s, instead_of(B, open(key, A, 2, false))), StoreReply::Exchange(OpenOutcome::Taken));
    run(s, StoreOp::CloseExchange(close(key, B, Some(b"a"))));
    assert_eq!(run(s, instead_of(B, open(key, A, 1, false))), answered(Some(b"a")));
}

pub fn what_was_adopted_is_not_taken_over(s: &mut dyn Subject) {
    let key = exchange(1, 1);
    run(s, opening(open(key, A, 1, false)));
    assert_eq!(adopted(s, A, B).len(), 1);
    assert_eq!(run(s, instead_of(B, open(key, C, 1, false))), in_flight(B), "its first owner may have served it");
    assert_eq!(run(s, instead_of(B, open(key, B, 1, false))), in_flight(B));
}
