//! Bindings (RFC 3261 §10.3 steps 6 to 8).

use session_store::memory::{Capacity, MemoryStore};
use session_store::op::{BindingChange, MAX_BINDINGS, StoreError, StoreOp, StoreReply};
use session_store::record::Binding;

use super::samples::*;

fn register(change: BindingChange) -> StoreOp {
    StoreOp::Register { aor: aor(1), change, nonce: None }
}

fn update(bindings: &[Binding]) -> StoreOp {
    register(BindingChange::Update(bindings.to_vec()))
}

const HOUR: u64 = 3_600_000;

#[test]
fn reg_1_contact_bytes_come_back_unchanged() {
    let mut s = store();
    let mut one = binding("sip:a@192.0.2.1", 1, NOW + HOUR);
    one.contact = b"\"A\" <sip:a@192.0.2.1>;+mcp;+mcp.ver=\"1.0\";+mcp.cap=\"t@1,urn:x\";odd=\xff".to_vec();
    run(&mut s, NOW, update(std::slice::from_ref(&one)));
    assert_eq!(run(&mut s, NOW, StoreOp::ReadBindings { aor: aor(1) }), StoreReply::Bindings(vec![one]));
}

#[test]
fn refresh_replaces_remove_removes_query_changes_nothing() {
    let mut s = store();
    let one = binding("sip:a@192.0.2.1", 1, NOW + HOUR);
    let two = binding("sip:a@192.0.2.2", 2, NOW + HOUR);
    run(&mut s, NOW, update(&[one.clone(), two.clone()]));
    let newer = binding("sip:a@192.0.2.1", 3, NOW + 2 * HOUR);
    assert_eq!(
        run(&mut s, NOW, update(std::slice::from_ref(&newer))),
        StoreReply::Bindings(vec![newer.clone(), two.clone()])
    );
    assert_eq!(run(&mut s, NOW, register(BindingChange::Query)), StoreReply::Bindings(vec![newer.clone(), two]));
    let gone = binding("sip:a@192.0.2.2", 4, 0);
    assert_eq!(run(&mut s, NOW, update(&[gone])), StoreReply::Bindings(vec![newer]));
}

#[test]
fn an_old_cseq_of_the_same_call_changes_nothing_at_all() {
    let mut s = store();
    let one = binding("sip:a@192.0.2.1", 5, NOW + HOUR);
    run(&mut s, NOW, update(std::slice::from_ref(&one)));
    let other = binding("sip:a@192.0.2.2", 4, NOW + HOUR);
    let stale = binding("sip:a@192.0.2.1", 4, NOW + HOUR);
    assert_eq!(run(&mut s, NOW, update(&[other, stale])), StoreReply::StaleRegister);
    let star = BindingChange::RemoveAll { call_id: "reg-1".into(), cseq: 4 };
    assert_eq!(run(&mut s, NOW, register(star)), StoreReply::StaleRegister);
    assert_eq!(run(&mut s, NOW, register(BindingChange::Query)), StoreReply::Bindings(vec![one.clone()]));
    // The same request again is no change of order.
    assert_eq!(run(&mut s, NOW, update(std::slice::from_ref(&one))), StoreReply::Bindings(vec![one]));
}

#[test]
fn reg_6_star_removes_everything_at_once() {
    let mut s = store();
    run(&mut s, NOW, update(&[binding("sip:a@192.0.2.1", 1, NOW + HOUR), binding("sip:a@192.0.2.2", 1, NOW + HOUR)]));
    let star = BindingChange::RemoveAll { call_id: "reg-1".into(), cseq: 2 };
    assert_eq!(run(&mut s, NOW, register(star)), StoreReply::Bindings(vec![]));
    assert_eq!(s.counts().aors, 0);
}

#[test]
fn each_binding_ends_by_itself() {
    let mut s = store();
    let short = binding("sip:a@192.0.2.1", 1, NOW + 1_000);
    let long = binding("sip:a@192.0.2.2", 1, NOW + 2_000);
    run(&mut s, NOW, update(&[short, long.clone()]));
    assert_eq!(run(&mut s, NOW + 1_000, StoreOp::ReadBindings { aor: aor(1) }), StoreReply::Bindings(vec![long]));
    assert_eq!(run(&mut s, NOW + 2_000, StoreOp::ReadBindings { aor: aor(1) }), StoreReply::Bindings(vec![]));
    assert_eq!(s.counts().aors, 0);
}

#[test]
fn too_many_bindings_change_nothing() {
    let mut s = store();
    let all: Vec<Binding> = (0..MAX_BINDINGS).map(|n| binding(&format!("sip:a@192.0.2.{n}"), 1, NOW + HOUR)).collect();
    run(&mut s, NOW, update(&all));
    assert_eq!(run(&mut s, NOW, update(&[binding("sip:a@198.51.100.1", 1, NOW + HOUR)])), StoreReply::TooManyBindings);
    assert_eq!(run(&mut s, NOW, register(BindingChange::Query)), StoreReply::Bindings(all));
}

#[test]
fn a_full_registrar_still_refreshes() {
    let mut s = MemoryStore::new(Capacity { bindings: 1, ..Capacity::default() });
    let one = [binding("sip:a@192.0.2.1", 1, NOW + HOUR)];
    run(&mut s, NOW, update(&one));
    let other = StoreOp::Register { aor: aor(2), change: BindingChange::Update(one.to_vec()), nonce: None };
    assert_eq!(s.execute(NOW, other), Err(StoreError::Full { what: "bindings" }));
    assert_eq!(run(&mut s, NOW, update(&one)), StoreReply::Bindings(one.to_vec()));
}
