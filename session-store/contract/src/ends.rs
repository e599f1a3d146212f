//! Everything has an end.

use session_store::op::{BindingChange, EPOCH_MS, StoreOp, StoreReply, TOMBSTONE_MS};

use crate::samples::*;
use crate::{SLACK_MS, Subject};

pub fn after_the_last_lifetime_no_name_remains(s: &mut dyn Subject) {
    // One of each kind, in each state.
    run(s, StoreOp::UseNonce(nonce(1, 1, 1)));
    let mut offered = binding("sip:a@192.0.2.1", 1, s.now() + HOUR);
    offered.capabilities = vec![capability(1).hash, capability(2).hash];
    let change = BindingChange::Update(vec![offered, binding("sip:a@192.0.2.2", 1, s.now() + HOUR)]);
    run(s, StoreOp::Register { aor: aor(1), change, nonce: None });
    let change = BindingChange::Update(vec![binding("sip:a@192.0.2.2", 2, 0)]);
    run(s, StoreOp::Register { aor: aor(1), change, nonce: None });
    run(s, open_call(10, 10, A));
    run(s, StoreOp::PlaceLegs { guard: guard(10), owner: A, legs: vec![leg(1)] });
    run(s, open_call(11, 11, B));
    run(s, early(11, B));
    run(s, open_call(12, 12, A));
    run(s, reject(12, A));
    run(s, open_call(13, 13, A));
    run(s, cancel(13));
    with_two_legs(s, 1, 2);
    with_dialog(s, 3);
    run(s, begin(3, 2, "MESSAGE"));
    run(s, begin(1, 2, "MESSAGE"));
    run(s, commit(1, 2, b"200"));
    run(s, bye(1, 3));
    let write =
        |n| StoreOp::WriteSession { session: session(n), version: 0, record: Box::new(session_record()), ttl_ms: HOUR };
    run(s, write(1));
    run(s, write(9));
    run(s, opening(open(exchange(1, 1), A, 1, true)));
    run(s, opening(open(exchange(9, 1), A, 1, false)));
    run(s, StoreOp::CloseExchange(close(exchange(9, 1), A, Some(b"a"))));
    run(s, StoreOp::NoteExchange { key: exchange(1, 1), owner: A, note: Default::default() });
    run(s, StoreOp::Once { key: exchange(9, 2), ttl_ms: MINUTE, nonce: None });
    let edge = StoreOp::TakeEpoch {
        pod: 1,
        boot: 1,
        last_epoch: 0,
        address: String::new(),
        lease_ms: MINUTE,
        generation: [1; 16],
    };
    run(s, edge);
    run(s, StoreOp::TenantNumber { domain: [1; 16] });
    adopted(s, A, B);
    with_two_legs(s, 21, 22);
    run(s, StoreOp::Erase { conversation: conversation(21) });
    assert!(s.left() > 0);
    s.pass(EPOCH_MS + 2 * HOUR);
    assert_eq!(s.left(), 0);
}

pub fn a_tombstone_ends(s: &mut dyn Subject) {
    with_dialog(s, 1);
    run(s, bye(1, 2));
    s.pass(TOMBSTONE_MS + SLACK_MS);
    assert_eq!(run(s, read(1)), StoreReply::Unknown);
    assert_eq!(s.left(), 0);
}
