//! A store that keeps the entries elsewhere: what changed is told, and the content comes back as it was.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use session_store::memory::{Capacity, Counts, MemoryStore};
use session_store::name::EntryName;
use session_store::op::{EPOCH_MS, StoreError, StoreOp, StoreReply};
use store_contract::Subject;
use store_contract::memory::{Memory, NOW};
use store_contract::operations::steps;
use store_contract::samples::*;

/// What a file would hold.
type Kept = BTreeMap<Vec<u8>, Bytes>;

fn keep(store: &mut MemoryStore, kept: &mut Kept) {
    for name in store.take_dirty() {
        match store.entry_bytes(&name).unwrap() {
            Some(bytes) => kept.insert(name.to_bytes(), bytes),
            None => kept.remove(&name.to_bytes()),
        };
    }
}

fn back(kept: &Kept) -> MemoryStore {
    let mut store = MemoryStore::new(Capacity::default());
    store.track_changes();
    for (name, bytes) in kept {
        store.restore(&EntryName::from_bytes(name).unwrap(), bytes).unwrap();
    }
    store
}

#[test]
fn nobody_asks_nothing_is_remembered() {
    let mut s = Memory::new();
    with_dialog(&mut s, 1);
    assert_eq!(s.store.take_dirty(), []);
}

#[test]
fn a_reading_operation_changes_nothing() {
    let mut s = Memory::new();
    with_dialog(&mut s, 1);
    s.store.track_changes();
    for operation in [read(1), read(2), next_cseq(2, false), cancel(1), StoreOp::ReadBindings { aor: aor(1) }] {
        run(&mut s, operation);
    }
    assert_eq!(s.store.take_dirty(), []);
    run(&mut s, next_cseq(1, false));
    assert_eq!(s.store.take_dirty(), [EntryName::Dialog(dialog(1))]);
}

#[test]
fn obs_4_what_was_erased_is_in_no_byte() {
    let mut s = Memory::new();
    s.store.track_changes();
    with_two_legs(&mut s, 1, 2);
    run(&mut s, begin(1, 2, "MESSAGE"));
    run(&mut s, commit(1, 2, b"200 to alice"));
    run(&mut s, opening(open(exchange(1, 1), A, 1, false)));
    run(&mut s, StoreOp::Erase { conversation: conversation(1) });
    let mut kept = Kept::new();
    keep(&mut s.store, &mut kept);
    assert_eq!(kept.len(), 3, "the guard of the call, and two tombstones");
    for (name, bytes) in kept {
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains("alice") && !text.contains("192.0.2"), "{name:?}: {text}");
    }
}

#[test]
fn one_tenant_number_for_two_domains_is_refused() {
    let mut s = Memory::new();
    s.store.track_changes();
    run(&mut s, StoreOp::TenantNumber { domain: [1; 16] });
    let mut kept = Kept::new();
    keep(&mut s.store, &mut kept);
    let number = kept[&EntryName::Domain([1; 16]).to_bytes()].clone();
    let mut other = back(&kept);
    let twice = other.restore(&EntryName::Domain([2; 16]), &number);
    assert!(matches!(twice, Err(StoreError::Unreadable { reason }) if reason.contains("two domains")));
    assert_eq!(other.execute(NOW, StoreOp::TenantNumber { domain: [3; 16] }), Ok(StoreReply::Tenant(2)));
}

#[test]
fn bytes_that_are_no_entry_are_refused() {
    let mut store = MemoryStore::new(Capacity::default());
    for name in [EntryName::Dialog(dialog(1)), EntryName::Edge(1), EntryName::Generation, EntryName::Aor(aor(1))] {
        for bytes in [&b""[..], b"\x02\x80", b"\x01", b"\x01\xc1garbage"] {
            assert!(matches!(store.restore(&name, bytes), Err(StoreError::Unreadable { .. })), "{name:?} {bytes:?}");
        }
    }
    assert_eq!(store.counts(), MemoryStore::new(Capacity::default()).counts());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Restarted at any time, the store answers as the one that went on; and what ended is forgotten in both places.
    #[test]
    fn a_restarted_store_goes_on_where_it_was(before in steps(40), after in steps(40)) {
        let mut first = Memory::new();
        first.store.track_changes();
        let mut kept = Kept::new();
        for step in before {
            first.pass(step.pass_ms);
            let operation = step.operation(first.now_ms);
            let _ = first.run(operation);
            keep(&mut first.store, &mut kept);
        }
        let mut second = Memory { store: back(&kept), now_ms: first.now_ms };
        prop_assert_eq!(second.store.names(), first.store.names());
        // What was removed meanwhile still waits for its end in the first.
        prop_assert_eq!(Counts { ends: 0, ..second.swept() }, Counts { ends: 0, ..first.swept() });
        for step in after {
            first.pass(step.pass_ms);
            second.pass(step.pass_ms);
            let operation = step.operation(first.now_ms);
            prop_assert_eq!(first.run(operation.clone()), second.run(operation));
            keep(&mut second.store, &mut kept);
        }
        second.pass(2 * EPOCH_MS);
        second.swept();
        keep(&mut second.store, &mut kept);
        let left: Vec<EntryName> = kept.keys().map(|name| EntryName::from_bytes(name).unwrap()).collect();
        let has_no_end = |name: &EntryName| matches!(name, EntryName::Domain(_) | EntryName::Generation);
        prop_assert!(left.iter().all(has_no_end), "{left:?}");
    }
}
