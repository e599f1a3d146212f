//! Bindings (RFC 3261 §10.3 steps 6 to 8).

use session_store::key::AorKey;
use session_store::op::{BindingChange, MAX_BINDINGS, MAX_CAPABILITIES, StoreOp, StoreReply, TOMBSTONE_MS};
use session_store::record::Binding;

use crate::samples::*;
use crate::{SLACK_MS, Subject};

fn register(change: BindingChange) -> StoreOp {
    StoreOp::Register { aor: aor(1), change, nonce: None }
}

fn update(bindings: &[Binding]) -> StoreOp {
    register(BindingChange::Update(bindings.to_vec()))
}

fn star(call_id: &str, cseq: u32) -> StoreOp {
    register(BindingChange::RemoveAll { call_id: call_id.into(), cseq })
}

fn of_call(call_id: &str, binding: Binding) -> Binding {
    Binding { call_id: call_id.into(), ..binding }
}

const ONE: &str = "sip:a@192.0.2.1";
const TWO: &str = "sip:a@192.0.2.2";

pub fn reg_1_contact_bytes_come_back_unchanged(s: &mut dyn Subject) {
    let mut one = binding(ONE, 1, s.now() + HOUR);
    one.contact = b"\"A\" <sip:a@192.0.2.1>;+mcp;+mcp.ver=\"1.0\";+mcp.cap=\"t@1,urn:x\";odd=\xff".to_vec();
    one.path = vec!["<sip:p1.example;lr>".into(), "<sip:p2.example;lr>".into()];
    one.flow = Some("sealed".into());
    run(s, update(std::slice::from_ref(&one)));
    assert_eq!(run(s, StoreOp::ReadBindings { aor: aor(1) }), StoreReply::Bindings(vec![one]));
}

pub fn refresh_replaces_remove_removes_query_changes_nothing(s: &mut dyn Subject) {
    let end = s.now() + HOUR;
    let (one, two) = (binding(ONE, 1, end), binding(TWO, 2, end));
    run(s, update(&[one, two.clone()]));
    let newer = binding(ONE, 3, end + HOUR);
    let both = StoreReply::Bindings(vec![newer.clone(), two]);
    assert_eq!(run(s, update(std::slice::from_ref(&newer))), both);
    assert_eq!(run(s, register(BindingChange::Query)), both);
    assert_eq!(run(s, update(&[binding(TWO, 4, 0)])), StoreReply::Bindings(vec![newer]));
}

pub fn an_old_cseq_of_the_same_call_changes_nothing_at_all(s: &mut dyn Subject) {
    let end = s.now() + HOUR;
    let one = binding(ONE, 5, end);
    run(s, update(std::slice::from_ref(&one)));
    let (other, stale) = (binding(TWO, 4, end), binding(ONE, 4, end));
    assert_eq!(run(s, update(&[other, stale])), StoreReply::StaleRegister);
    assert_eq!(run(s, star("reg-1", 4)), StoreReply::StaleRegister);
    assert_eq!(run(s, register(BindingChange::Query)), StoreReply::Bindings(vec![one.clone()]));
    // The same request again is no change of order.
    assert_eq!(run(s, update(std::slice::from_ref(&one))), StoreReply::Bindings(vec![one]));
}

pub fn reg_6_star_removes_everything_at_once(s: &mut dyn Subject) {
    let end = s.now() + HOUR;
    run(s, update(&[binding(ONE, 1, end), binding(TWO, 1, end)]));
    assert_eq!(run(s, star("reg-1", 2)), StoreReply::Bindings(vec![]));
    assert_eq!(run(s, StoreOp::ReadBindings { aor: aor(1) }), StoreReply::Bindings(vec![]));
}

pub fn reg_6_a_late_register_does_not_bring_a_removed_binding_back(s: &mut dyn Subject) {
    let end = s.now() + HOUR;
    run(s, update(&[binding(ONE, 1, end)]));
    assert_eq!(run(s, update(&[binding(ONE, 2, 0)])), StoreReply::Bindings(vec![]));
    assert_eq!(run(s, update(&[binding(ONE, 1, end)])), StoreReply::StaleRegister, "a late copy");
    s.pass(TOMBSTONE_MS - SLACK_MS);
    assert_eq!(run(s, update(&[binding(ONE, 1, end)])), StoreReply::StaleRegister, "as long as one can be under way");
    let again = binding(ONE, 3, end);
    assert_eq!(run(s, update(std::slice::from_ref(&again))), StoreReply::Bindings(vec![again]), "a new one is no copy");
}

pub fn reg_6_a_late_register_of_another_call_does_not_either(s: &mut dyn Subject) {
    let end = s.now() + HOUR;
    let before = of_call("reg-0", binding(ONE, 7, end));
    run(s, update(std::slice::from_ref(&before)));
    assert_eq!(run(s, update(&[binding(ONE, 5, 0)])), StoreReply::Bindings(vec![]));
    assert_eq!(run(s, update(std::slice::from_ref(&before))), StoreReply::StaleRegister, "the one that made it");
    assert_eq!(run(s, update(&[binding(ONE, 4, end)])), StoreReply::StaleRegister, "one sent before the removal");
    let other = of_call("reg-2", binding(ONE, 1, end));
    assert_eq!(run(s, update(std::slice::from_ref(&other))), StoreReply::Bindings(vec![other]), "a restarted agent");
    s.pass(TOMBSTONE_MS + SLACK_MS);
    assert!(matches!(run(s, update(&[before])), StoreReply::Bindings(_)), "none can be under way any more");
}

pub fn reg_6_star_is_remembered_for_every_binding(s: &mut dyn Subject) {
    let end = s.now() + HOUR;
    let of_other = of_call("reg-0", binding(TWO, 7, end));
    run(s, update(&[binding(ONE, 1, end), of_other.clone()]));
    assert_eq!(run(s, star("reg-1", 2)), StoreReply::Bindings(vec![]));
    for late in [binding(ONE, 1, end), of_other, binding("sip:a@192.0.2.3", 1, end)] {
        assert_eq!(run(s, update(&[late])), StoreReply::StaleRegister);
    }
    assert_eq!(run(s, star("reg-1", 1)), StoreReply::StaleRegister);
}

pub fn reg_6_a_retransmitted_removal_is_no_error(s: &mut dyn Subject) {
    let end = s.now() + HOUR;
    run(s, update(&[binding(ONE, 1, end)]));
    for _ in 0..2 {
        assert_eq!(run(s, update(&[binding(ONE, 2, 0)])), StoreReply::Bindings(vec![]));
    }
    for _ in 0..2 {
        assert_eq!(run(s, star("reg-1", 3)), StoreReply::Bindings(vec![]));
    }
}

pub fn each_binding_ends_by_itself(s: &mut dyn Subject) {
    let (short, long) = (binding(ONE, 1, s.now() + 20 * SECOND), binding(TWO, 1, s.now() + 40 * SECOND));
    run(s, update(&[short, long.clone()]));
    s.pass(20 * SECOND + SLACK_MS);
    assert_eq!(run(s, StoreOp::ReadBindings { aor: aor(1) }), StoreReply::Bindings(vec![long]));
    s.pass(20 * SECOND);
    assert_eq!(run(s, StoreOp::ReadBindings { aor: aor(1) }), StoreReply::Bindings(vec![]));
}

pub fn too_many_bindings_change_nothing(s: &mut dyn Subject) {
    let end = s.now() + HOUR;
    let all: Vec<Binding> = (0..MAX_BINDINGS).map(|n| binding(&format!("sip:a@192.0.2.{n:03}"), 1, end)).collect();
    run(s, update(&all));
    assert_eq!(run(s, update(&[binding("sip:a@198.51.100.1", 1, end)])), StoreReply::TooManyBindings);
    assert_eq!(run(s, register(BindingChange::Query)), StoreReply::Bindings(all));
}

pub fn too_many_capabilities_change_nothing(s: &mut dyn Subject) {
    let mut one = binding(ONE, 1, s.now() + HOUR);
    one.capabilities = (0..=MAX_CAPABILITIES).map(|n| [u8::try_from(n).unwrap_or(u8::MAX); 16]).collect();
    assert_eq!(run(s, update(&[one])), StoreReply::TooManyBindings);
    assert_eq!(run(s, register(BindingChange::Query)), StoreReply::Bindings(vec![]));
}

pub fn addresses_do_not_meet(s: &mut dyn Subject) {
    let one = binding(ONE, 1, s.now() + HOUR);
    run(s, update(std::slice::from_ref(&one)));
    for other in [aor(2), AorKey { tenant: 2, ..aor(1) }] {
        assert_eq!(run(s, StoreOp::ReadBindings { aor: other }), StoreReply::Bindings(vec![]));
    }
}
