//! Sealed values (SEC-15): the tenant's key and the right name, or nothing.

use proptest::prelude::*;
use session_store::op::StoreError;
use session_store::seal::{KeysError, OVERHEAD, SealKey, SealKeys, Sealer};
use zeroize::Zeroizing;

fn key(kid: u8, byte: u8) -> SealKey {
    SealKey::new(kid, Zeroizing::new([byte; 32]))
}

fn keys(all: &[(u8, u8)]) -> SealKeys {
    SealKeys::new(all.iter().map(|(kid, byte)| key(*kid, *byte)).collect()).unwrap()
}

fn sealer() -> Sealer {
    Sealer::new(keys(&[(1, 0x11)]), Zeroizing::new([9; 32])).with_tenant(7, keys(&[(1, 0x77)]))
}

fn reason(result: Result<Vec<u8>, StoreError>) -> String {
    match result {
        Err(StoreError::Unreadable { reason }) => reason,
        other => panic!("opened: {other:?}"),
    }
}

#[test]
fn sec_15_a_rotation_loses_nothing_and_a_removed_key_ends_it() {
    let naming = || Zeroizing::new([9; 32]);
    let before = Sealer::new(keys(&[(1, 0x11)]), naming());
    let announced = Sealer::new(keys(&[(1, 0x11), (2, 0x22)]), naming());
    let switched = Sealer::new(keys(&[(2, 0x22), (1, 0x11)]), naming());
    let after = Sealer::new(keys(&[(2, 0x22)]), naming());

    let old = before.seal(3, "dialog", b"n", b"value");
    assert_eq!(announced.seal(3, "dialog", b"n", b"value"), old, "the new key is accepted before it is used");
    let new = switched.seal(3, "dialog", b"n", b"value");
    for reader in [&announced, &switched] {
        assert_eq!(reader.open(3, "dialog", b"n", &old).unwrap(), b"value");
        assert_eq!(reader.open(3, "dialog", b"n", &new).unwrap(), b"value");
    }
    assert!(!switched.is_current(3, &old) && switched.is_current(3, &new));
    assert_eq!((Sealer::kid(&old), Sealer::kid(&new)), (Some(1), Some(2)));
    assert!(reason(after.open(3, "dialog", b"n", &old)).contains("key 1, which is not among the live ones"));
    assert!(reason(before.open(3, "dialog", b"n", &new)).contains("key 2"));
    assert_eq!(
        before.fingerprint(3, "principal", &[b"alice"]),
        after.fingerprint(3, "principal", &[b"alice"]),
        "what is compared does not rotate"
    );
}

#[test]
fn sec_15_a_tenants_own_key_opens_nobody_elses_values() {
    let sealed = sealer().seal(7, "dialog", b"n", b"value");
    let without = Sealer::new(keys(&[(1, 0x11)]), Zeroizing::new([9; 32]));
    assert!(reason(without.open(7, "dialog", b"n", &sealed)).contains("does not open with key 1"));
    assert!(reason(sealer().open(8, "dialog", b"n", &sealed)).contains("tenant 8"));
}

#[test]
fn keys_that_cannot_be_told_apart_are_refused() {
    assert_eq!(SealKeys::new(vec![]).unwrap_err(), KeysError::None);
    assert_eq!(SealKeys::new(vec![key(1, 1), key(1, 2)]).unwrap_err(), KeysError::SameId(1));
    let many = (0..5).map(|kid| key(kid, kid)).collect();
    assert_eq!(SealKeys::new(many).unwrap_err(), KeysError::TooMany(5));
}

#[test]
fn no_key_is_ever_printed() {
    let printed = format!("{:?} {:?}", sealer(), key(5, 0xab));
    assert!(!printed.contains("119") && !printed.contains("171") && !printed.contains("17,"), "{printed}");
}

#[test]
fn a_newer_format_is_refused_never_guessed() {
    let mut sealed = sealer().seal(1, "dialog", b"n", b"value");
    sealed[0] = 2;
    assert!(reason(sealer().open(1, "dialog", b"n", &sealed)).contains("seal format 2"));
}

const KINDS: [&str; 3] = ["dialog", "dialog.flow", "exchange"];

proptest! {
    #[test]
    fn opens_where_it_was_sealed_and_nowhere_else(
        tenants in (0u16..9, 0u16..9), kinds in (0usize..3, 0usize..3),
        names in ("[ab]{0,3}", "[ab]{0,3}"), plain in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let s = sealer();
        let sealed = s.seal(tenants.0, KINDS[kinds.0], names.0.as_bytes(), &plain);
        prop_assert_eq!(sealed.len(), plain.len() + OVERHEAD);
        let opened = s.open(tenants.1, KINDS[kinds.1], names.1.as_bytes(), &sealed);
        if tenants.0 == tenants.1 && kinds.0 == kinds.1 && names.0 == names.1 {
            prop_assert_eq!(opened.unwrap(), plain);
        } else {
            let is_unreadable = matches!(opened, Err(StoreError::Unreadable { .. }));
            prop_assert!(is_unreadable);
        }
    }

    #[test]
    fn truncated_or_damaged_never_opens(plain in proptest::collection::vec(any::<u8>(), 0..64), at in any::<prop::sample::Index>(), flip in 1u8..) {
        let s = sealer();
        let sealed = s.seal(1, "dialog", b"n", &plain);
        let cut = at.index(sealed.len());
        prop_assert!(s.open(1, "dialog", b"n", &sealed[..cut]).is_err());
        let mut damaged = sealed.clone();
        damaged[cut] ^= flip;
        prop_assert!(s.open(1, "dialog", b"n", &damaged).is_err());
    }

    #[test]
    fn any_bytes_are_an_error_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        prop_assert!(sealer().open(1, "dialog", b"n", &bytes).is_err());
    }

    #[test]
    fn fingerprints_keep_tenants_kinds_and_parts_apart(a in "[ab]{0,3}", b in "[ab]{0,3}", c in "[ab]{0,3}", d in "[ab]{0,3}") {
        let s = sealer();
        let of = |x: &str, y: &str| s.fingerprint(1, "p", &[x.as_bytes(), y.as_bytes()]);
        prop_assert_eq!(of(&a, &b) == of(&c, &d), (&a, &b) == (&c, &d));
        prop_assert_ne!(s.fingerprint(1, "p", &[a.as_bytes()]), s.fingerprint(2, "p", &[a.as_bytes()]));
        prop_assert_ne!(s.fingerprint(1, "p", &[a.as_bytes()]), s.fingerprint(1, "q", &[a.as_bytes()]));
    }
}
