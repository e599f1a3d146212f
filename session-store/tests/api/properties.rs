//! What holds after any sequence of operations by two owners, in any order, at any time.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;
use session_store::memory::{Capacity, Counts, MemoryStore};
use session_store::op::{BindingChange, OpenOutcome, StoreOp, StoreReply};
use session_store::record::Owner;

use super::samples::*;

fn owner(second: bool) -> Owner {
    if second { B } else { A }
}

/// Operations over so few names that they meet.
fn operation() -> impl Strategy<Value = StoreOp> {
    let n = 0u8..3;
    let cseq = 1u32..8;
    prop_oneof![
        (n.clone(), 1u32..4, 0u8..3).prop_map(|(k, count, r)| StoreOp::UseNonce(nonce(k, count, r))),
        (n.clone(), n.clone(), cseq.clone(), 0u64..5_000).prop_map(|(a, k, cseq, ttl)| StoreOp::Register {
            aor: aor(a),
            change: BindingChange::Update(vec![binding(&format!("sip:{k}@x"), cseq, NOW + ttl)]),
            nonce: None,
        }),
        (n.clone(), any::<bool>()).prop_map(|(k, o)| StoreOp::OpenCall {
            guard: guard(k),
            dialog: dialog(k),
            invite: Bytes::from_static(b"I"),
            owner: owner(o),
            lease_ms: 100,
            nonce: None,
        }),
        (n.clone(), any::<bool>(), 1u64..5_000).prop_map(|(k, o, ttl_ms)| StoreOp::AnswerCall {
            guard: guard(k),
            owner: owner(o),
            dialog: dialog(k),
            record: Box::new(record()),
            ttl_ms,
            peer: None,
            conversation: None,
        }),
        (n.clone(), any::<bool>()).prop_map(|(k, o)| StoreOp::RejectCall {
            guard: guard(k),
            owner: owner(o),
            response: Bytes::from_static(b"486"),
        }),
        n.clone().prop_map(|k| StoreOp::CancelCall { guard: guard(k) }),
        n.clone().prop_map(|k| StoreOp::Confirm { dialog: dialog(k) }),
        (n.clone(), cseq.clone(), any::<bool>(), proptest::option::of((n.clone(), any::<bool>(), 0u8..2))).prop_map(
            |(k, cseq, bye, x)| StoreOp::Begin {
                dialog: dialog(k),
                by: alice(),
                flow: None,
                cseq,
                method: if bye { "BYE".into() } else { "MESSAGE".into() },
                nonce: None,
                exchange: x.map(|(e, o, digest)| Box::new(open(exchange(k, e), owner(o), digest, false))),
            }
        ),
        (n.clone(), cseq.clone(), proptest::option::of((1u64..4, 1u64..5_000))).prop_map(|(k, cseq, write)| {
            StoreOp::Commit {
                dialog: dialog(k),
                cseq,
                response: Bytes::from_static(b"200"),
                record: write.map(|(version, ttl)| (version, Box::new(record()), ttl)),
            }
        }),
        (n.clone(), cseq).prop_map(|(k, cseq)| StoreOp::Terminate {
            dialog: dialog(k),
            by: alice(),
            cseq,
            response: Bytes::from_static(b"200"),
            nonce: None
        }),
        (n.clone(), any::<bool>(), proptest::option::of((n.clone(), any::<bool>()))).prop_map(|(k, terminating, x)| {
            StoreOp::NextCseq {
                dialog: dialog(k),
                terminating,
                close: x.map(|(e, o)| Box::new(close(exchange(k, e), owner(o), Some(b"a")))),
                fence: None,
            }
        }),
        n.clone().prop_map(|k| StoreOp::Bury { dialog: dialog(k) }),
        (n.clone(), n.clone(), any::<bool>(), 0u8..2).prop_map(|(k, e, o, digest)| StoreOp::OpenExchange {
            open: Box::new(open(exchange(k, e), owner(o), digest, false)),
            nonce: None,
        }),
        (n.clone(), n.clone(), any::<bool>()).prop_map(|(k, e, o)| StoreOp::CloseExchange(close(
            exchange(k, e),
            owner(o),
            Some(b"a")
        ))),
        (n.clone(), n.clone()).prop_map(|(k, e)| StoreOp::Once { key: exchange(k, e), ttl_ms: 700, nonce: None }),
        (n.clone(), 0u64..3, 1u64..2_000).prop_map(|(k, version, ttl_ms)| StoreOp::WriteSession {
            session: session(k),
            version,
            record: Box::new(session_record()),
            ttl_ms,
        }),
        (n.clone(), 0u64..2_000).prop_map(|(k, ttl_ms)| StoreOp::ReadSession { session: session(k), ttl_ms }),
        (n, proptest::option::of(0u64..1_000))
            .prop_map(|(k, within)| StoreOp::DropSession { session: session(k), if_ends_within_ms: within }),
    ]
}

/// Far beyond every lifetime above.
const END: u64 = NOW + 365 * 86_400_000;

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn after_the_last_ttl_no_key_remains(ops in proptest::collection::vec((operation(), 0u64..2_000), 1..80)) {
        let mut s = store();
        let mut now = NOW;
        for (operation, wait) in ops {
            now += wait;
            run(&mut s, now, operation);
            let c = s.counts();
            let names = c.aors + c.guards + c.dialogs + c.sessions + c.exchanges + c.once + c.nonces;
            prop_assert!(c.ends >= names, "every entry waits for its end: {c:?}");
        }
        prop_assert_eq!(swept(&mut s, END), Counts::default());
    }

    #[test]
    fn cseq_only_rises_and_a_number_runs_once(ops in proptest::collection::vec((operation(), 0u64..300), 1..120)) {
        let mut s = with_dialog(0);
        let (mut now, mut highest, mut out) = (NOW, 1, 0);
        for (operation, wait) in ops {
            now += wait;
            let asked = operation.clone();
            match (asked, run(&mut s, now, operation)) {
                // A dialog that was answered anew under the same id (the generator does that) starts again.
                (StoreOp::AnswerCall { dialog: d, .. }, StoreReply::Answered { .. }) if d == dialog(0) => (highest, out) = (1, 0),
                (StoreOp::Begin { dialog: d, cseq, method, .. }, StoreReply::Begun { .. }) if d == dialog(0) => {
                    prop_assert!(cseq > highest || (cseq == highest && method == "BYE"), "{cseq} after {highest}");
                    highest = cseq;
                }
                (StoreOp::Terminate { dialog: d, cseq, .. }, StoreReply::Dialog { .. }) if d == dialog(0) => {
                    prop_assert!(cseq >= highest);
                    highest = cseq;
                }
                (StoreOp::NextCseq { dialog: d, .. }, StoreReply::Cseq { cseq, .. }) if d == dialog(0) => {
                    prop_assert!(cseq > out, "{cseq} after {out}");
                    out = cseq;
                }
                _ => {}
            }
        }
    }

    #[test]
    fn an_exchange_has_one_owner_who_alone_answers_it(ops in proptest::collection::vec((operation(), 0u64..50), 1..120)) {
        let mut s = with_dialog(0);
        let mut open_by: BTreeMap<_, Owner> = BTreeMap::new();
        let mut now = NOW;
        for (operation, wait) in ops {
            now += wait;
            let asked = operation.clone();
            let reply = run(&mut s, now, operation);
            let outcome = match &reply {
                StoreReply::Exchange(outcome) | StoreReply::Begun { exchange: Some(outcome), .. } => Some(outcome),
                _ => None,
            };
            match asked {
                StoreOp::OpenExchange { open, .. } | StoreOp::Begin { exchange: Some(open), .. } => match outcome {
                    Some(OpenOutcome::Opened { .. }) => {
                        prop_assert!(open_by.insert(open.key, open.entry.owner).is_none(), "opened twice");
                    }
                    Some(OpenOutcome::RepeatInFlight { owner }) => prop_assert_eq!(open_by.get(&open.key), Some(owner)),
                    _ => {}
                },
                StoreOp::CloseExchange(close) => match reply {
                    StoreReply::Closed { .. } => prop_assert_eq!(open_by.remove(&close.key), Some(close.owner)),
                    StoreReply::Fenced => prop_assert_ne!(open_by.get(&close.key), Some(&close.owner)),
                    _ => {}
                },
                // Closed on the way, whatever became of the number.
                StoreOp::NextCseq { close: Some(close), .. } if open_by.get(&close.key) == Some(&close.owner) => {
                    prop_assert_ne!(&reply, &StoreReply::Fenced);
                    open_by.remove(&close.key);
                }
                StoreOp::DropSession { session, .. } if !matches!(reply, StoreReply::Session { .. }) => open_by.retain(|key, _| key.session != session),
                _ => {}
            }
        }
    }

    #[test]
    fn no_kind_grows_beyond_its_capacity(ops in proptest::collection::vec(operation(), 1..100)) {
        let capacity =
            Capacity { bindings: 2, capabilities: 2, calls: 2, exchanges: 2, sessions: 2, nonces: 2, edges: 2 };
        let mut s = MemoryStore::new(capacity);
        let mut seen = BTreeSet::new();
        for operation in ops {
            let _ = s.execute(NOW, operation);
            let c = s.counts();
            seen.insert(c.aors.max(c.guards).max(c.dialogs).max(c.sessions).max(c.exchanges).max(c.once).max(c.nonces));
        }
        prop_assert!(seen.iter().all(|n| *n <= 2));
    }
}
