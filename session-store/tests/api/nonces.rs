//! Digest nonce counts (RFC 7616 §3.4): a count is used once; the same request may come again.

use session_store::memory::{Capacity, MemoryStore};
use session_store::op::{BindingChange, StoreError, StoreOp, StoreReply};

use super::samples::*;

fn use_nonce(count: u32, request: u8) -> StoreOp {
    StoreOp::UseNonce(nonce(1, count, request))
}

#[test]
fn a_count_only_rises_and_a_retransmission_is_no_replay() {
    let mut s = store();
    assert_eq!(run(&mut s, NOW, use_nonce(1, 1)), StoreReply::Done);
    assert_eq!(run(&mut s, NOW, use_nonce(1, 1)), StoreReply::Done, "the same request again");
    assert_eq!(run(&mut s, NOW, use_nonce(1, 2)), StoreReply::NonceReplayed);
    assert_eq!(run(&mut s, NOW, use_nonce(5, 2)), StoreReply::Done);
    assert_eq!(run(&mut s, NOW, use_nonce(4, 3)), StoreReply::NonceReplayed);
    assert_eq!(run(&mut s, NOW + 300_000, use_nonce(1, 9)), StoreReply::Done, "the nonce itself has ended long ago");
}

#[test]
fn a_replay_changes_nothing() {
    let mut s = with_dialog(1);
    run(&mut s, NOW, use_nonce(3, 1));
    let replayed = |operation| match operation {
        StoreOp::Register { aor, change, .. } => StoreOp::Register { aor, change, nonce: Some(nonce(1, 3, 2)) },
        StoreOp::Begin { dialog, by, flow, cseq, method, exchange, .. } => {
            StoreOp::Begin { dialog, by, flow, cseq, method, exchange, nonce: Some(nonce(1, 2, 2)) }
        }
        StoreOp::OpenExchange { open, .. } => StoreOp::OpenExchange { open, nonce: Some(nonce(1, 1, 2)) },
        StoreOp::Once { key, ttl_ms, .. } => StoreOp::Once { key, ttl_ms, nonce: Some(nonce(1, 3, 7)) },
        other => other,
    };
    let before = s.counts();
    let change = BindingChange::Update(vec![binding("sip:a@192.0.2.1", 1, NOW + 60_000)]);
    for operation in [
        StoreOp::Register { aor: aor(1), change, nonce: None },
        begin(1, 2, "MESSAGE"),
        StoreOp::OpenExchange { open: Box::new(open(exchange(1, 1), A, 1, false)), nonce: None },
        StoreOp::Once { key: exchange(1, 2), ttl_ms: 1_000, nonce: None },
    ] {
        assert_eq!(run(&mut s, NOW, replayed(operation)), StoreReply::NonceReplayed);
    }
    assert_eq!(s.counts(), before);
    assert!(matches!(run(&mut s, NOW, begin(1, 2, "MESSAGE")), StoreReply::Begun { .. }));
}

#[test]
fn a_flood_of_nonces_ends_in_full() {
    let mut s = MemoryStore::new(Capacity { nonces: 2, ..Capacity::default() });
    for n in 0..2 {
        run(&mut s, NOW, StoreOp::UseNonce(nonce(n, 1, 1)));
    }
    assert_eq!(s.execute(NOW, StoreOp::UseNonce(nonce(9, 1, 1))), Err(StoreError::Full { what: "nonces" }));
    assert_eq!(run(&mut s, NOW, StoreOp::UseNonce(nonce(1, 2, 2))), StoreReply::Done);
}
