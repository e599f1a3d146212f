//! Agents by what they offer (REG-2).

use session_store::key::{AorKey, CapabilityKey};
use session_store::op::{BindingChange, StoreOp, StoreReply};
use session_store::record::Binding;

use crate::samples::*;
use crate::{SLACK_MS, Subject};

fn offer(s: &mut dyn Subject, n: u8, cseq: u32, ttl_ms: u64, capabilities: &[u8]) -> Binding {
    let expires_at = if ttl_ms == 0 { 0 } else { s.now() + ttl_ms };
    let offered = Binding {
        aor: format!("sip:agent-{n}@demo.example"),
        capabilities: capabilities.iter().map(|c| capability(*c).hash).collect(),
        ..binding("sip:a@192.0.2.1", cseq, expires_at)
    };
    let change = BindingChange::Update(vec![offered.clone()]);
    let registered = run(s, StoreOp::Register { aor: aor(n), change, nonce: None });
    assert!(matches!(registered, StoreReply::Bindings(_)), "{registered:?}");
    offered
}

fn find(s: &mut dyn Subject, n: u8) -> Vec<Binding> {
    match run(s, StoreOp::FindCapability { capability: capability(n), limit: 100 }) {
        StoreReply::Bindings(found) => found,
        other => panic!("bindings were expected: {other:?}"),
    }
}

pub fn reg_2_a_capability_is_found_at_every_address_that_offers_it(s: &mut dyn Subject) {
    let one = offer(s, 1, 1, HOUR, &[5, 6]);
    let two = offer(s, 2, 1, HOUR, &[6]);
    offer(s, 3, 1, HOUR, &[]);
    assert_eq!(find(s, 5), std::slice::from_ref(&one));
    assert_eq!(find(s, 6), [one, two]);
    assert_eq!(find(s, 7), []);
}

pub fn reg_2_the_limit_holds(s: &mut dyn Subject) {
    for n in 1..=4 {
        offer(s, n, 1, HOUR, &[5]);
    }
    let StoreReply::Bindings(found) = run(s, StoreOp::FindCapability { capability: capability(5), limit: 3 }) else {
        panic!("bindings")
    };
    assert_eq!(found.len(), 3);
}

pub fn reg_2_a_refresh_without_it_and_a_removal_take_it_back(s: &mut dyn Subject) {
    offer(s, 1, 1, HOUR, &[5, 6]);
    let now = offer(s, 1, 2, HOUR, &[6]);
    assert_eq!((find(s, 5), find(s, 6)), (vec![], vec![now]));
    offer(s, 1, 3, 0, &[]);
    assert_eq!(find(s, 6), []);
    offer(s, 2, 1, HOUR, &[6]);
    let star = BindingChange::RemoveAll { call_id: "reg-1".into(), cseq: 2 };
    run(s, StoreOp::Register { aor: aor(2), change: star, nonce: None });
    assert_eq!(find(s, 6), []);
}

pub fn reg_2_it_ends_with_its_binding(s: &mut dyn Subject) {
    offer(s, 1, 1, 20 * SECOND, &[5]);
    let long = offer(s, 2, 1, HOUR, &[5]);
    s.pass(20 * SECOND + SLACK_MS);
    assert_eq!(find(s, 5), [long]);
}

pub fn reg_2_tenants_do_not_meet(s: &mut dyn Subject) {
    offer(s, 1, 1, HOUR, &[5]);
    let theirs = CapabilityKey { tenant: 2, ..capability(5) };
    assert_eq!(run(s, StoreOp::FindCapability { capability: theirs, limit: 9 }), StoreReply::Bindings(vec![]));
    let expires_at = s.now() + HOUR;
    let other = Binding { capabilities: vec![capability(5).hash], ..binding("sip:x@192.0.2.9", 1, expires_at) };
    let change = BindingChange::Update(vec![other.clone()]);
    run(s, StoreOp::Register { aor: AorKey { tenant: 2, ..aor(1) }, change, nonce: None });
    assert_eq!(run(s, StoreOp::FindCapability { capability: theirs, limit: 9 }), StoreReply::Bindings(vec![other]));
    assert_eq!(find(s, 5).len(), 1);
}
