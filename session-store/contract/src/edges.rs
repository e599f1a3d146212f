//! Epochs, leases, the list of edges, tenant numbers.

use session_store::op::{EDGE_LISTED_MS, StoreOp, StoreReply};
use session_store::record::{Owner, PodState};

use crate::samples::*;
use crate::{SLACK_MS, Subject};

const LEASE: u64 = 30 * SECOND;
const GENERATION: [u8; 16] = [0xaa; 16];

fn take(pod: u64, boot: u64, last_epoch: u64) -> StoreOp {
    let address = format!("192.0.2.{}:7443", pod & 0xff);
    StoreOp::TakeEpoch { pod, boot, last_epoch, address, lease_ms: LEASE, generation: GENERATION }
}

/// The life, and everybody who is listed.
fn taken(s: &mut dyn Subject, operation: StoreOp) -> (Owner, Vec<PodState>) {
    let before = s.now();
    match run(s, operation) {
        StoreReply::Epoch { owner, generation, pods, now_ms } => {
            assert_eq!(generation, GENERATION);
            assert!(now_ms.abs_diff(before) < SLACK_MS, "the store's clock");
            (owner, pods)
        }
        other => panic!("an epoch was expected: {other:?}"),
    }
}

fn beat(owner: Owner, draining: bool) -> StoreOp {
    StoreOp::Heartbeat { owner, address: "192.0.2.200:7443".into(), lease_ms: LEASE, draining }
}

fn beaten(s: &mut dyn Subject, owner: Owner) -> Vec<PodState> {
    match run(s, beat(owner, false)) {
        StoreReply::Pods { generation: GENERATION, pods, .. } => pods,
        other => panic!("the edges were expected: {other:?}"),
    }
}

pub fn an_epoch_rises_by_one(s: &mut dyn Subject) {
    assert_eq!(taken(s, take(1, 11, 0)).0, Owner { pod: 1, epoch: 1, boot: 11 });
    assert_eq!(taken(s, take(1, 12, 0)).0, Owner { pod: 1, epoch: 2, boot: 12 });
    assert_eq!(taken(s, take(2, 21, 0)).0, Owner { pod: 2, epoch: 1, boot: 21 }, "each edge counts by itself");
    let all_bits = Owner { pod: u64::MAX - 2, epoch: 1, boot: u64::MAX };
    assert_eq!(taken(s, take(all_bits.pod, all_bits.boot, 0)).0, all_bits);
    assert!(beaten(s, all_bits).iter().any(|pod| pod.owner == all_bits));
}

pub fn an_epoch_is_higher_than_the_edges_own_last(s: &mut dyn Subject) {
    assert_eq!(taken(s, take(1, 11, 40)).0.epoch, 41, "the store lost its counter");
    s.pass(LEASE + SLACK_MS);
    assert_eq!(taken(s, take(1, 12, 7)).0.epoch, 42, "the edge lost its own");
}

pub fn of_two_processes_under_one_id_the_older_takes_nothing_back(s: &mut dyn Subject) {
    let (older, _) = taken(s, take(1, 11, 0));
    let (newer, _) = taken(s, take(1, 12, 0));
    assert_eq!(newer.epoch, older.epoch + 1, "a process that starts does not wait for the end of a lease");
    assert_eq!(run(s, take(1, 11, older.epoch)), StoreReply::Fenced);
    beaten(s, newer);
    s.pass(LEASE + SLACK_MS);
    assert_eq!(taken(s, take(1, 11, older.epoch)).0.epoch, newer.epoch + 1, "the newer one is gone");
}

pub fn an_epoch_is_remembered_when_the_lease_ended(s: &mut dyn Subject) {
    taken(s, take(1, 11, 0));
    s.pass(LEASE + EDGE_LISTED_MS + SLACK_MS);
    assert_eq!(taken(s, take(1, 12, 0)).0.epoch, 2);
}

pub fn one_generation_written_once(s: &mut dyn Subject) {
    taken(s, take(1, 11, 0));
    let other = StoreOp::TakeEpoch {
        pod: 2,
        boot: 21,
        last_epoch: 0,
        address: String::new(),
        lease_ms: LEASE,
        generation: [0xbb; 16],
    };
    taken(s, other);
}

pub fn a_lease_is_renewed_and_ends(s: &mut dyn Subject) {
    let (a, pods) = taken(s, take(1, 11, 0));
    assert!(pods[0].lease_left_ms.abs_diff(LEASE) < SLACK_MS);
    for _ in 0..2 {
        s.pass(LEASE - SLACK_MS);
        assert!(beaten(s, a)[0].lease_left_ms.abs_diff(LEASE) < SLACK_MS);
    }
    let (b, _) = taken(s, take(2, 21, 0));
    s.pass(LEASE - SLACK_MS);
    beaten(s, b);
    s.pass(2 * SLACK_MS);
    let dead = beaten(s, b).into_iter().find(|pod| pod.owner == a);
    assert_eq!(dead.map(|pod| pod.lease_left_ms), Some(0));
}

pub fn each_renewal_brings_its_own_lease_and_takes_nothing_back(s: &mut dyn Subject) {
    let (a, _) = taken(s, take(1, 11, 0));
    let renew = |s: &mut dyn Subject, lease_ms| {
        let beat = StoreOp::Heartbeat { owner: a, address: String::new(), lease_ms, draining: false };
        match run(s, beat) {
            StoreReply::Pods { pods, .. } => pods[0].lease_left_ms,
            other => panic!("{other:?}"),
        }
    };
    assert!(renew(s, 3 * LEASE).abs_diff(3 * LEASE) < SLACK_MS, "longer from now on");
    assert!(renew(s, LEASE).abs_diff(3 * LEASE) < SLACK_MS, "granted is granted");
    s.pass(3 * LEASE - SLACK_MS);
    assert!(renew(s, LEASE).abs_diff(LEASE) < SLACK_MS, "and then shorter");
}

pub fn a_lease_that_ended_is_not_made_again(s: &mut dyn Subject) {
    let (a, _) = taken(s, take(1, 11, 0));
    s.pass(LEASE + SLACK_MS);
    assert_eq!(run(s, beat(a, false)), StoreReply::Fenced);
    let (again, _) = taken(s, take(1, 11, a.epoch));
    assert_eq!(again.epoch, 2);
    assert_eq!(run(s, beat(a, false)), StoreReply::Fenced, "the old life stays ended");
    beaten(s, again);
    assert_eq!(run(s, beat(B, false)), StoreReply::Fenced, "one that never was");
}

pub fn another_life_fences_the_first(s: &mut dyn Subject) {
    let (first, _) = taken(s, take(1, 11, 0));
    let (second, _) = taken(s, take(1, 12, 0));
    assert_eq!(run(s, beat(first, false)), StoreReply::Fenced, "two under one id");
    assert_eq!(run(s, beat(Owner { boot: 13, ..second }, false)), StoreReply::Fenced, "an equal epoch, another boot");
    assert_eq!(run(s, StoreOp::Leave { owner: first }), StoreReply::Fenced);
    beaten(s, second);
}

pub fn leaving_ends_the_lease_at_once(s: &mut dyn Subject) {
    let (a, _) = taken(s, take(1, 11, 0));
    let (b, _) = taken(s, take(2, 21, 0));
    assert_eq!(run(s, StoreOp::Leave { owner: a }), StoreReply::Done);
    let left = beaten(s, b).into_iter().find(|pod| pod.owner == a);
    assert_eq!(left.map(|pod| pod.lease_left_ms), Some(0));
    assert_eq!(run(s, beat(a, false)), StoreReply::Fenced);
    assert_eq!(run(s, StoreOp::Leave { owner: C }), StoreReply::Fenced, "one that never was");
}

pub fn every_edge_is_listed_with_what_it_says(s: &mut dyn Subject) {
    let (a, _) = taken(s, take(1, 11, 0));
    let (b, pods) = taken(s, take(2, 21, 0));
    let told = |pods: &[PodState]| -> Vec<(Owner, String, bool)> {
        pods.iter().map(|pod| (pod.owner, pod.address.clone(), pod.draining)).collect()
    };
    assert_eq!(told(&pods), [(a, "192.0.2.1:7443".into(), false), (b, "192.0.2.2:7443".into(), false)]);
    assert!(matches!(run(s, beat(a, true)), StoreReply::Pods { .. }));
    let now = beaten(s, b);
    assert_eq!(told(&now), [(a, "192.0.2.200:7443".into(), true), (b, "192.0.2.200:7443".into(), false)]);
}

pub fn a_dead_edge_is_listed_for_two_hours(s: &mut dyn Subject) {
    let (a, _) = taken(s, take(1, 11, 0));
    s.pass(LEASE + EDGE_LISTED_MS - SLACK_MS);
    let (_, pods) = taken(s, take(2, 21, 0));
    assert!(pods.iter().any(|pod| pod.owner == a && pod.lease_left_ms == 0));
    s.pass(2 * SLACK_MS);
    let (_, pods) = taken(s, take(2, 22, 0));
    assert!(pods.iter().all(|pod| pod.owner.pod == 2));
}

pub fn a_tenant_number_is_given_once(s: &mut dyn Subject) {
    let number = |domain: u8| StoreOp::TenantNumber { domain: [domain; 16] };
    assert_eq!(run(s, number(1)), StoreReply::Tenant(1));
    assert_eq!(run(s, number(2)), StoreReply::Tenant(2));
    assert_eq!(run(s, number(1)), StoreReply::Tenant(1));
    s.pass(40 * 24 * HOUR);
    assert_eq!(run(s, number(3)), StoreReply::Tenant(3));
    assert_eq!(run(s, number(2)), StoreReply::Tenant(2), "it has no end");
}
