//! What is stored and cannot be read is refused with the reason, never guessed.

use redis::Commands;
use session_store::op::{StoreError, StoreOp, StoreReply};
use session_store_redis::{RedisStore, Topology};
use store_contract::Subject;
use store_contract::samples::*;

use super::full::OnOne;
use super::subject::{Kind, RUNTIME, Redis, patient, sealer};

const KEY: &str = "t:d:{7}:1:01010101010101010101010101010101";

fn unreadable(s: &mut Redis, what: &str) {
    match s.run(read(1)) {
        Err(StoreError::Unreadable { reason }) => assert!(reason.contains(what), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn sec_15_values_are_sealed_and_names_tell_nothing() {
    let mut s = Redis::take(Kind::Redis);
    with_dialog(&mut s, 1);
    run(&mut s, opening(open(exchange(1, 1), A, 1, false)));
    let mut admin = s.servers()[0].admin();
    let keys: Vec<String> = admin.keys("*").expect("KEYS");
    assert!(keys.len() > 3, "{keys:?}");
    for key in keys {
        assert!(key.starts_with("t:") && !key.contains("alice") && !key.contains("example"), "{key}");
        let kind: String = redis::cmd("TYPE").arg(&key).query(&mut admin).expect("TYPE");
        if kind == "hash" {
            let fields: Vec<(Vec<u8>, Vec<u8>)> = admin.hgetall(&key).expect("HGETALL");
            for (name, value) in fields {
                let has = |text: &str| value.windows(text.len()).any(|window| window == text.as_bytes());
                assert!(
                    !has("alice") && !has("example") && !has("SIP/2.0"),
                    "{key} {}",
                    String::from_utf8_lossy(&name)
                );
            }
        }
    }
}

#[test]
fn another_layout_is_refused() {
    let mut s = Redis::take(Kind::Redis);
    with_dialog(&mut s, 1);
    let _: () = s.servers()[0].admin().hset(KEY, "v", "2").expect("HSET");
    unreadable(&mut s, "LAYOUT dialog 2");
    assert!(matches!(s.run(begin(1, 5, "MESSAGE")), Err(StoreError::Unreadable { .. })));
    let _: () = s.servers()[0].admin().hset(KEY, "v", "1").expect("HSET");
    assert!(matches!(s.run(read(1)), Ok(StoreReply::Dialog { .. })), "nothing was changed");
}

#[test]
fn a_record_of_an_unknown_version_is_refused() {
    let mut s = Redis::take(Kind::Redis);
    with_dialog(&mut s, 1);
    let name = session_store::name::EntryName::Dialog(dialog(1)).to_bytes();
    let newer = sealer(1).seal(1, "dialog.record", &name, b"\x09whatever comes then");
    let _: () = s.servers()[0].admin().hset(KEY, "r", newer).expect("HSET");
    unreadable(&mut s, "version 9");
}

#[test]
fn sec_15_without_the_key_nothing_is_read() {
    let mut s = Redis::take(Kind::Redis);
    with_dialog(&mut s, 1);
    s.store().set_sealer(sealer(2));
    unreadable(&mut s, "sealed with key 1");
    s.store().set_sealer(sealer(1));
    assert!(matches!(s.run(read(1)), Ok(StoreReply::Dialog { .. })));
}

#[test]
fn a_truncated_record_is_refused() {
    let mut s = Redis::take(Kind::Redis);
    with_dialog(&mut s, 1);
    let mut admin = s.servers()[0].admin();
    let whole: Vec<u8> = admin.hget(KEY, "r").expect("HGET");
    for length in [1, 5, whole.len() - 1] {
        let _: () = admin.hset(KEY, "r", &whole[..length]).expect("HSET");
        unreadable(&mut s, if length < 18 { "truncated" } else { "does not open" });
    }
    let _: () = admin.hset(KEY, "r", "").expect("HSET");
    unreadable(&mut s, "truncated");
}

#[test]
fn a_record_that_was_moved_to_another_name_does_not_open() {
    let mut s = Redis::take(Kind::Redis);
    with_dialog(&mut s, 1);
    with_dialog(&mut s, 2);
    let mut admin = s.servers()[0].admin();
    let other: Vec<u8> = admin.hget(KEY.replace("01", "02"), "r").expect("HGET");
    let _: () = admin.hset(KEY, "r", other).expect("HSET");
    unreadable(&mut s, "does not open");
}

#[test]
fn one_thing_that_cannot_be_read_keeps_nobody_from_the_rest() {
    let mut s = Redis::take(Kind::Redis);
    with_dialog(&mut s, 1);
    with_dialog(&mut s, 2);
    let _: () = s.servers()[0].admin().hset(KEY, "r", "x").expect("HSET");
    let adopt = StoreOp::Adopt { slot: SLOT, from: A, by: B, limit: 10, lease_ms: 1_000 };
    match s.run(adopt) {
        Ok(StoreReply::Adopted { items, more: false }) => assert_eq!(items.len(), 1),
        other => panic!("{other:?}"),
    }
}

#[test]
fn names_of_one_call_in_two_slots_are_refused() {
    let mut s = Redis::take(Kind::Redis);
    with_dialog(&mut s, 1);
    let mut elsewhere = open(exchange(1, 1), A, 1, false);
    elsewhere.key.session.slot = 8;
    let op = StoreOp::Begin {
        dialog: dialog(1),
        by: alice(),
        flow: None,
        cseq: 9,
        method: "MESSAGE".into(),
        nonce: None,
        exchange: Some(Box::new(elsewhere)),
    };
    assert!(matches!(s.run(op), Err(StoreError::Unreadable { .. })));
}

#[test]
fn a_nonce_of_the_library_that_took_rising_counts_only_takes_none_below_it() {
    let mut s = Redis::take(Kind::Redis);
    let key = format!("t:n:{{1:{}}}", "01".repeat(16));
    let _: () = s.servers()[0].admin().set(&key, format!("5:{}", "06".repeat(16))).expect("SET");
    let mut take = |count, request| run(&mut s, StoreOp::UseNonce(nonce(1, count, request)));
    assert_eq!(take(5, 6), StoreReply::Done, "the same request");
    assert_eq!(take(4, 5), StoreReply::NonceReplayed, "nobody knows");
    assert_eq!(take(7, 7), StoreReply::Done);
    assert_eq!(take(6, 8), StoreReply::Done, "overtaken since");
    assert_eq!(take(5, 9), StoreReply::NonceReplayed);
}

#[test]
fn the_window_of_a_nonce_is_every_edges() {
    for kind in [Kind::Redis, Kind::Cluster] {
        let mut s = Redis::take(kind);
        let address = s.servers()[0].address();
        let topology = match kind {
            Kind::Cluster => Topology::Cluster { addresses: vec![address] },
            _ => Topology::Single { address },
        };
        let other = RUNTIME.block_on(RedisStore::connect(patient(topology), sealer(1))).expect("the store");
        let mut here = |count, request| run(&mut s, StoreOp::UseNonce(nonce(1, count, request)));
        let there = |count, request| run(&mut OnOne(&other), StoreOp::UseNonce(nonce(1, count, request)));
        assert_eq!(here(3, 3), StoreReply::Done);
        assert_eq!(there(2, 2), StoreReply::Done, "overtaken, on its way to another edge");
        assert_eq!(here(2, 2), StoreReply::Done, "its retransmission");
        assert_eq!(here(2, 9), StoreReply::NonceReplayed);
        assert_eq!(there(3, 9), StoreReply::NonceReplayed);
        assert_eq!(here(1, 1), StoreReply::Done);
        assert_eq!(there(1, 9), StoreReply::NonceReplayed);
    }
}
