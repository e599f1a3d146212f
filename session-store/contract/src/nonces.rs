//! Digest nonce counts (RFC 7616 §3.4): each is taken once, in whatever order they arrive; the same request may come again.

use session_store::op::{BindingChange, StoreOp, StoreReply};

use crate::samples::*;
use crate::{SLACK_MS, Subject};

fn use_nonce(count: u32, request: u8) -> StoreOp {
    StoreOp::UseNonce(nonce(1, count, request))
}

pub fn a_count_is_taken_once_and_a_retransmission_is_no_replay(s: &mut dyn Subject) {
    assert_eq!(run(s, use_nonce(1, 1)), StoreReply::Done);
    assert_eq!(run(s, use_nonce(1, 1)), StoreReply::Done, "the same request again");
    assert_eq!(run(s, use_nonce(1, 2)), StoreReply::NonceReplayed);
    assert_eq!(run(s, use_nonce(5, 2)), StoreReply::Done);
    assert_eq!(run(s, use_nonce(5, 3)), StoreReply::NonceReplayed);
    assert_eq!(run(s, use_nonce(1, 2)), StoreReply::NonceReplayed, "long ago is no other thing");
    assert_eq!(run(s, StoreOp::UseNonce(nonce(2, 1, 2))), StoreReply::Done, "another nonce");
}

pub fn sec_8_counts_that_overtake_each_other_are_each_taken_once(s: &mut dyn Subject) {
    // On UDP: the first that arrives is not the first that was sent.
    for (count, request) in [(3, 3), (2, 2), (1, 1), (7, 7), (5, 5)] {
        assert_eq!(run(s, use_nonce(count, request)), StoreReply::Done, "{count}");
        assert_eq!(run(s, use_nonce(count, request)), StoreReply::Done, "{count}, its retransmission");
        assert_eq!(run(s, use_nonce(count, 99)), StoreReply::NonceReplayed, "{count}, with another request");
    }
    for count in [1, 2, 3, 5, 7] {
        assert_eq!(run(s, use_nonce(count, 99)), StoreReply::NonceReplayed, "{count}, still");
    }
    // The order of arrival is no order of retransmissions either.
    for count in [2, 7, 1, 3, 5] {
        assert_eq!(run(s, use_nonce(count, u8::try_from(count).expect("small"))), StoreReply::Done, "{count}, again");
    }
    assert_eq!(run(s, use_nonce(6, 7)), StoreReply::Done, "what was never taken may be");
    assert_eq!(run(s, use_nonce(4, 4)), StoreReply::Done);
}

pub fn a_count_far_below_the_highest_is_refused(s: &mut dyn Subject) {
    assert_eq!(run(s, use_nonce(100, 1)), StoreReply::Done);
    assert_eq!(run(s, use_nonce(67, 2)), StoreReply::NonceReplayed, "33 below");
    assert_eq!(run(s, use_nonce(68, 3)), StoreReply::Done, "32 below");
    assert_eq!(run(s, use_nonce(101, 4)), StoreReply::Done);
    assert_eq!(run(s, use_nonce(68, 3)), StoreReply::NonceReplayed, "it left the window, its retransmission with it");
    assert_eq!(run(s, use_nonce(69, 5)), StoreReply::Done);
    // The window moves as a whole: what was taken in it stays taken.
    assert_eq!(run(s, use_nonce(133, 6)), StoreReply::Done);
    assert_eq!(run(s, use_nonce(101, 9)), StoreReply::NonceReplayed, "32 below, taken");
    assert_eq!(run(s, use_nonce(102, 7)), StoreReply::Done);
    assert_eq!(run(s, use_nonce(132, 8)), StoreReply::Done);
    // Far ahead nothing of it is left.
    assert_eq!(run(s, use_nonce(u32::MAX, 10)), StoreReply::Done);
    assert_eq!(run(s, use_nonce(133, 6)), StoreReply::NonceReplayed);
    assert_eq!(run(s, use_nonce(u32::MAX - 32, 11)), StoreReply::Done);
    assert_eq!(run(s, use_nonce(u32::MAX - 33, 12)), StoreReply::NonceReplayed);
}

pub fn the_last_requests_may_come_again(s: &mut dyn Subject) {
    for count in 1..=6 {
        run(s, use_nonce(count, u8::try_from(count).expect("small")));
    }
    for count in 2..=6 {
        assert_eq!(run(s, use_nonce(count, u8::try_from(count).expect("small"))), StoreReply::Done, "{count}");
    }
    assert_eq!(run(s, use_nonce(1, 1)), StoreReply::NonceReplayed, "the last five are known");
}

pub fn a_nonce_ends(s: &mut dyn Subject) {
    run(s, use_nonce(5, 2));
    s.pass(5 * MINUTE + SLACK_MS);
    assert_eq!(run(s, use_nonce(1, 9)), StoreReply::Done, "the nonce itself has ended long ago");
}

pub fn a_replay_changes_nothing(s: &mut dyn Subject) {
    with_dialog(s, 1);
    for count in 1..=3 {
        run(s, use_nonce(count, 1));
    }
    let again = |count| Some(nonce(1, count, 2));
    let change = BindingChange::Update(vec![binding("sip:a@192.0.2.1", 1, s.now() + HOUR)]);
    for operation in [
        StoreOp::Register { aor: aor(1), change, nonce: again(3) },
        StoreOp::OpenCall {
            guard: guard(5),
            dialog: dialog(5),
            invite: bytes::Bytes::new(),
            owner: A,
            lease_ms: MINUTE,
            nonce: again(3),
        },
        StoreOp::Begin {
            dialog: dialog(1),
            by: alice(),
            flow: Some(flow(9)),
            cseq: 2,
            method: "MESSAGE".into(),
            nonce: again(2),
            exchange: Some(Box::new(open(exchange(1, 1), A, 1, false))),
        },
        StoreOp::Terminate { dialog: dialog(1), by: alice(), cseq: 2, response: bytes::Bytes::new(), nonce: again(3) },
        StoreOp::OpenExchange { open: Box::new(open(exchange(2, 1), A, 1, false)), nonce: again(1) },
        StoreOp::Once { key: exchange(2, 2), ttl_ms: MINUTE, nonce: Some(nonce(1, 3, 7)) },
    ] {
        assert_eq!(run(s, operation), StoreReply::NonceReplayed);
    }
    assert_eq!(run(s, StoreOp::ReadBindings { aor: aor(1) }), StoreReply::Bindings(vec![]));
    assert_eq!(run(s, open_call(5, 5, A)), StoreReply::CallOpened);
    assert_eq!(run(s, opening(open(exchange(1, 1), A, 1, false))), opened());
    assert_eq!(run(s, opening(open(exchange(2, 1), A, 1, false))), opened());
    let once = StoreOp::Once { key: exchange(2, 2), ttl_ms: MINUTE, nonce: None };
    assert_eq!(run(s, once), StoreReply::First(true));
    assert_eq!(dialog_of(s, 1).1.flow, None);
    assert!(matches!(run(s, begin(1, 2, "MESSAGE")), StoreReply::Begun { .. }));
}
