//! Digest nonce counts (RFC 7616 §3.4): a count is used once; the same request may come again.

use session_store::op::{BindingChange, StoreOp, StoreReply};

use crate::samples::*;
use crate::{SLACK_MS, Subject};

fn use_nonce(count: u32, request: u8) -> StoreOp {
    StoreOp::UseNonce(nonce(1, count, request))
}

pub fn a_count_only_rises_and_a_retransmission_is_no_replay(s: &mut dyn Subject) {
    assert_eq!(run(s, use_nonce(1, 1)), StoreReply::Done);
    assert_eq!(run(s, use_nonce(1, 1)), StoreReply::Done, "the same request again");
    assert_eq!(run(s, use_nonce(1, 2)), StoreReply::NonceReplayed);
    assert_eq!(run(s, use_nonce(5, 2)), StoreReply::Done);
    assert_eq!(run(s, use_nonce(4, 3)), StoreReply::NonceReplayed);
    assert_eq!(run(s, StoreOp::UseNonce(nonce(2, 1, 2))), StoreReply::Done, "another nonce");
}

pub fn a_nonce_ends(s: &mut dyn Subject) {
    run(s, use_nonce(5, 2));
    s.pass(5 * MINUTE + SLACK_MS);
    assert_eq!(run(s, use_nonce(1, 9)), StoreReply::Done, "the nonce itself has ended long ago");
}

pub fn a_replay_changes_nothing(s: &mut dyn Subject) {
    with_dialog(s, 1);
    run(s, use_nonce(3, 1));
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
