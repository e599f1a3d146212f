//! The stored form.

use proptest::prelude::*;
use session_store::codec::{VERSION, decode, encode};
use session_store::op::StoreError;
use session_store::record::{DialogRecord, JournalEntry, SessionRecord};

use store_contract::samples::*;

#[test]
fn records_come_back_as_they_were() {
    let bytes = encode(&record()).unwrap();
    assert_eq!(bytes[0], VERSION);
    assert_eq!(decode::<DialogRecord>(&bytes).unwrap(), record());
    let bytes = encode(&session_record()).unwrap();
    assert_eq!(decode::<SessionRecord>(&bytes).unwrap(), session_record());
    let bytes = encode(&entry(A, 3, true)).unwrap();
    assert_eq!(decode::<JournalEntry>(&bytes).unwrap(), entry(A, 3, true));
}

#[test]
fn a_newer_version_is_refused_never_guessed() {
    let mut bytes = encode(&session_record()).unwrap().to_vec();
    bytes[0] = VERSION + 1;
    assert!(matches!(decode::<SessionRecord>(&bytes), Err(StoreError::Unreadable { .. })));
    assert!(matches!(decode::<SessionRecord>(&[]), Err(StoreError::Unreadable { .. })));
}

proptest! {
    #[test]
    fn damaged_bytes_are_an_error_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode::<DialogRecord>(&bytes);
        let _ = decode::<SessionRecord>(&bytes);
    }
}
