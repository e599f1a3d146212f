//! The byte form of names: what stands in a file, for ever.

use proptest::prelude::*;
use session_store::key::{AorKey, DialogKey, ExchangeKey, GuardKey, NonceKey, SessionKey};
use session_store::name::{EntryName, MAX_NAME_BYTES};

fn name() -> impl Strategy<Value = EntryName> {
    let hash = any::<[u8; 16]>();
    (0u16..1024, any::<u16>(), hash, any::<[u8; 16]>(), any::<u64>(), 0u8..13).prop_map(
        |(slot, tenant, a, b, pod, kind)| {
            let session = SessionKey { slot, tenant, hash: a };
            match kind {
                0 => EntryName::Aor(AorKey { tenant, hash: a }),
                1 => EntryName::Removed(AorKey { tenant, hash: a }),
                2 => EntryName::Guard(GuardKey { slot, tenant, hash: a }),
                3 => EntryName::Dialog(DialogKey { slot, tenant, id: a }),
                4 => EntryName::Session(session),
                5 => EntryName::Exchange(ExchangeKey { session, hash: b }),
                6 => EntryName::Once(ExchangeKey { session, hash: b }),
                7 => EntryName::Nonce(NonceKey { tenant, hash: a }),
                8 => EntryName::Edge(pod),
                9 => EntryName::Domain(a),
                10 => EntryName::Kept(DialogKey { slot, tenant, id: a }),
                11 => EntryName::KeptExchange(DialogKey { slot, tenant, id: a }, pod),
                _ => EntryName::Generation,
            }
        },
    )
}

#[test]
fn the_bytes_of_each_kind_are_what_they_always_were() {
    let hex = |name: EntryName| name.to_bytes().iter().map(|b| format!("{b:02x}")).collect::<String>();
    let (a, b) = ("aa".repeat(16), "bb".repeat(16));
    let session = SessionKey { slot: 0x3ff, tenant: 0x0102, hash: [0xaa; 16] };
    let exchange = ExchangeKey { session, hash: [0xbb; 16] };
    let aor = AorKey { tenant: 0x0102, hash: [0xaa; 16] };
    assert_eq!(hex(EntryName::Aor(aor)), format!("010102{a}"));
    assert_eq!(hex(EntryName::Removed(aor)), format!("020102{a}"));
    assert_eq!(hex(EntryName::Guard(GuardKey { slot: 7, tenant: 1, hash: [0xaa; 16] })), format!("0300070001{a}"));
    assert_eq!(hex(EntryName::Dialog(DialogKey { slot: 7, tenant: 1, id: [0xaa; 16] })), format!("0400070001{a}"));
    assert_eq!(hex(EntryName::Session(session)), format!("0503ff0102{a}"));
    assert_eq!(hex(EntryName::Exchange(exchange)), format!("0603ff0102{a}{b}"));
    assert_eq!(hex(EntryName::Once(exchange)), format!("0703ff0102{a}{b}"));
    assert_eq!(hex(EntryName::Nonce(NonceKey { tenant: 1, hash: [0xaa; 16] })), format!("080001{a}"));
    assert_eq!(hex(EntryName::Edge(0x0102_0304_0506_0708)), "090102030405060708");
    assert_eq!(hex(EntryName::Domain([0xbb; 16])), format!("0a{b}"));
    assert_eq!(hex(EntryName::Generation), "0b");
}

proptest! {
    #[test]
    fn a_name_comes_back_from_its_bytes_and_from_no_others(name in name(), junk in proptest::collection::vec(any::<u8>(), 0..40)) {
        let bytes = name.to_bytes();
        prop_assert!(bytes.len() <= MAX_NAME_BYTES);
        prop_assert_eq!(EntryName::from_bytes(&bytes).unwrap(), name);
        prop_assert!(EntryName::from_bytes(&bytes[..bytes.len() - 1]).is_err());
        let longer = [bytes, vec![0]].concat();
        prop_assert!(EntryName::from_bytes(&longer).is_err());
        if let Ok(read) = EntryName::from_bytes(&junk) {
            prop_assert_eq!(read.to_bytes(), junk);
        }
    }
}
