//! Taking over what a dead life left: every slot label once, in random order, so that the survivors share the work; a few at a time, in
//! slices. A claim is idempotent: what somebody else took is not there any more.

use std::collections::{BTreeMap, BTreeSet};

use session_store::key::{SLOTS, Slot};
use session_store::op::{StoreError, StoreOp, StoreReply};
use session_store::record::{Owner, PodState};
use sip_proto::time::Mono;

use super::{Asked, Node, NodeEffect, RETRY_MS, Stage};
use crate::effect::LogLevel;
use crate::random::Random;

/// Claims at once.
const CLAIMS: usize = 64;
/// Resources per claim.
const SLICE: usize = 500;
/// Lease of an adopted INVITE; milliseconds.
const LEASE_MS: u64 = session_store::op::GUARD_MS;
/// Between two new epochs that are taken for claims in doubt: doubling, and no longer than that; milliseconds.
const DOUBT_MS: u64 = 2_000;
const LONGEST_DOUBT_MS: u64 = 60_000;
/// A life is looked through again so long after it was: a write of it may have been under way.
const AGAIN_MS: [u64; 2] = [5_000, 30_000];

/// One life that is over.
#[derive(Debug)]
struct Sweep {
    from: Owner,
    /// Labels that nobody claimed here yet; the last one is next.
    left: Vec<Slot>,
    open: BTreeSet<Slot>,
    /// Not before then.
    at: Option<Mono>,
    round: usize,
    taken: usize,
}

impl Sweep {
    fn is_running(&self) -> bool {
        !self.left.is_empty() || !self.open.is_empty()
    }
}

/// All of them, by pod: an entry stays as long as that pod is listed and dead, so that it is not begun anew with every heartbeat.
#[derive(Debug, Default)]
pub(super) struct Sweeps {
    by_pod: BTreeMap<u64, Sweep>,
}

fn shuffled(random: &mut Random) -> Vec<Slot> {
    let mut labels: Vec<Slot> = (0..SLOTS).collect();
    for last in (1..labels.len()).rev() {
        let other = usize::try_from(random.below(last as u64 + 1)).unwrap_or(last);
        labels.swap(last, other);
    }
    labels
}

impl Sweeps {
    /// Begins (at once, or then), unless that life (or a later one of that pod) was begun already.
    pub(super) fn begin(&mut self, from: Owner, at: Option<Mono>, random: &mut Random) -> bool {
        if self
            .by_pod
            .get(&from.pod)
            .is_some_and(|sweep| (sweep.from.epoch, sweep.from.boot) >= (from.epoch, from.boot))
        {
            return false;
        }
        let left = shuffled(random);
        let sweep = Sweep { from, left, open: BTreeSet::new(), at, round: 0, taken: 0 };
        self.by_pod.insert(from.pod, sweep);
        true
    }

    pub(super) fn next(&self) -> Option<Mono> {
        self.by_pod.values().filter_map(|sweep| sweep.at).min()
    }

    pub(super) fn running(&self) -> usize {
        self.by_pod.values().filter(|sweep| sweep.is_running()).count()
    }

    fn open(&self) -> usize {
        self.by_pod.values().map(|sweep| sweep.open.len()).sum()
    }
}

impl Node {
    /// Begins to take over what the dead left, and forgets those who are back.
    /// Not before `at`.
    pub(super) fn look_for_dead(&mut self, pods: &[PodState], own: Owner, at: Option<Mono>) {
        let listed: BTreeMap<u64, &PodState> = pods.iter().map(|pod| (pod.owner.pod, pod)).collect();
        self.sweeps.by_pod.retain(|pod, sweep| {
            // Whoever lives again, in a higher epoch, takes over what is its own.
            *pod == own.pod
                || listed.get(pod).is_some_and(|p| p.lease_left_ms == 0 && p.owner.epoch <= sweep.from.epoch)
        });
        for pod in pods.iter().filter(|pod| pod.owner.pod != own.pod && pod.lease_left_ms == 0) {
            if self.sweeps.begin(pod.owner, at, &mut self.random) {
                self.log(LogLevel::Warn, format!("edge {} is gone (epoch {})", pod.owner.pod, pod.owner.epoch));
            }
        }
    }

    /// Whether everything else is done, so that what is in doubt may be found out.
    pub(super) fn may_resolve(&self) -> bool {
        self.sweeps.running() == 0 && self.next.is_some()
    }

    /// Claims as much as may be claimed now. The lease is asked for each claim.
    pub(super) fn claim(&mut self, now: Mono) {
        let Some(membership) = self.membership.clone() else { return };
        if self.stage != Stage::Member || !membership.holds(now) {
            // The next renewal asks again.
            self.sweeps.by_pod.values_mut().filter_map(|sweep| sweep.at.as_mut()).for_each(|at| {
                *at = (*at).max(now.plus_millis(RETRY_MS));
            });
            self.doubt = self.doubt.map(|at| at.max(now.plus_millis(RETRY_MS)));
            return;
        }
        let random = &mut self.random;
        for sweep in self.sweeps.by_pod.values_mut() {
            if sweep.at.is_some_and(|at| at <= now) {
                sweep.at = None;
                if !sweep.is_running() {
                    sweep.round += 1;
                    sweep.left = shuffled(random);
                }
            }
        }
        let mut room = CLAIMS.saturating_sub(self.sweeps.open());
        let mut claims = Vec::new();
        for sweep in self.sweeps.by_pod.values_mut().filter(|sweep| sweep.at.is_none()) {
            while room > 0
                && let Some(slot) = sweep.left.pop()
            {
                sweep.open.insert(slot);
                claims.push((slot, sweep.from));
                room -= 1;
            }
        }
        if claims.is_empty() && self.may_resolve() && self.doubt.is_some_and(|at| at <= now) {
            // What a lost reply brought is ours without our knowledge. Under a new epoch it is found among our own remains.
            self.doubt = None;
            self.doubts += 1;
            self.log(LogLevel::Warn, "claims without an answer: a new epoch finds what they took".to_owned());
            return self.take_epoch(now);
        }
        for (slot, from) in claims {
            let by = membership.owner;
            let operation = StoreOp::Adopt { slot, from, by, limit: SLICE, lease_ms: LEASE_MS };
            self.ask(Asked::Adopt { slot, from, by }, operation);
        }
    }

    pub(super) fn adopted(
        &mut self,
        now: Mono,
        slot: Slot,
        from: Owner,
        by: Owner,
        reply: Result<StoreReply, StoreError>,
    ) {
        if self.membership.as_ref().is_none_or(|m| m.owner != by) {
            // Claimed in an earlier life: this one finds it as its own remains.
            return;
        }
        let sweep = self.sweeps.by_pod.get_mut(&from.pod).filter(|sweep| sweep.from == from);
        let mut ended = None;
        match reply {
            Ok(StoreReply::Adopted { items, more }) => {
                if let Some(sweep) = sweep {
                    sweep.open.remove(&slot);
                    sweep.taken += items.len();
                    if more {
                        sweep.left.push(slot);
                    } else if !sweep.is_running() {
                        sweep.at = AGAIN_MS.get(sweep.round).map(|ms| now.plus_millis(*ms));
                        ended = Some((sweep.taken, sweep.round));
                        sweep.taken = 0;
                    }
                }
                if ended.is_some() && self.doubt.is_none() && self.sweeps.running() == 0 {
                    self.doubts = 0;
                }
                if !items.is_empty() {
                    self.out.push_back(NodeEffect::Adopted(items));
                }
            }
            Ok(StoreReply::Fenced) => return self.fenced(now),
            Ok(_) | Err(_) => {
                if let Some(sweep) = sweep {
                    sweep.open.remove(&slot);
                    sweep.left.push(slot);
                    sweep.at = Some(now.plus_millis(RETRY_MS));
                }
                let wait =
                    if self.doubts == 0 { 0 } else { (DOUBT_MS << (self.doubts - 1).min(8)).min(LONGEST_DOUBT_MS) };
                self.doubt.get_or_insert(now.plus_millis(wait));
            }
        }
        if let Some((taken, round)) = ended
            && (taken > 0 || round == 0)
        {
            self.log(LogLevel::Info, format!("taken over from edge {} (epoch {}): {taken}", from.pod, from.epoch));
        }
    }
}
