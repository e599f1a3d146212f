//! One lease per edge, judged by the store's clock, and what it allows (sip.md, section 8).
//!
//! An edge stops by itself before anybody may take over: a lease of 5 s is renewed every 1.5 s, and 3.5 s after the last renewal was
//! *sent*, by the monotonic clock, nothing continuous is done any more. That is asked right before each such action, so that a process that
//! was stopped and resumed does nothing by mistake.

use session_store::record::{Owner, PodState};
use sip_proto::time::Mono;

/// How long a lease lasts, and what follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Milliseconds.
    pub ms: u64,
}

impl Default for Lease {
    fn default() -> Self {
        Lease { ms: 5_000 }
    }
}

impl Lease {
    /// `SipEdge.spec.failover.leaseSeconds`.
    #[must_use]
    pub fn of_seconds(seconds: u32) -> Lease {
        Lease { ms: u64::from(seconds) * 1_000 }
    }

    /// Between two renewals.
    #[must_use]
    pub fn heartbeat_ms(self) -> u64 {
        self.ms * 3 / 10
    }

    /// A renewal that is not answered within this time has failed: soon enough for another one before the silence.
    #[must_use]
    pub fn answer_ms(self) -> u64 {
        self.ms * 28 / 100
    }

    /// From the sending of a renewal to the silence, unless another one succeeds.
    #[must_use]
    pub fn fence_ms(self) -> u64 {
        self.ms * 7 / 10
    }
}

/// What an edge knows of its own life and of the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    pub owner: Owner,
    /// Nothing continuous is done at this time or later.
    pub valid_until: Mono,
    /// When the renewal was sent that `valid_until` comes from.
    pub renewed_at: Mono,
    /// All edges that the store knows, this one included.
    pub pods: Vec<PodState>,
    /// Names the content of the store: another value is another, empty store.
    pub generation: [u8; 16],
}

impl Membership {
    /// Whether the lease still allows something continuous.
    #[must_use]
    pub fn holds(&self, now: Mono) -> bool {
        now < self.valid_until
    }

    /// Whether the store knows of no other edge.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.pods.iter().all(|pod| pod.owner.pod == self.owner.pod)
    }

    /// That life of that pod, if it is not over by the store's word.
    #[must_use]
    pub fn living(&self, pod: u64, boot: u64) -> Option<&PodState> {
        self.pods.iter().find(|p| p.owner.pod == pod && p.owner.boot == boot && p.lease_left_ms > 0)
    }

    /// That life of that pod, if nothing is known of its end but that its lease ran out: cut off from the store, or dead.
    #[must_use]
    pub fn lapsed(&self, pod: u64, boot: u64) -> Option<&PodState> {
        self.pods.iter().find(|p| p.owner.pod == pod && p.owner.boot == boot && p.lease_left_ms == 0)
    }

    /// That pod, in whatever life.
    #[must_use]
    pub fn living_pod(&self, pod: u64) -> Option<&PodState> {
        self.pods.iter().find(|p| p.owner.pod == pod && p.lease_left_ms > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_comes_before_the_lease_ends_and_after_a_missed_renewal() {
        for ms in [3_000, 5_000, 30_000] {
            let lease = Lease { ms };
            assert!(2 * lease.heartbeat_ms() < lease.fence_ms(), "one renewal may be lost");
            assert!(2 * lease.answer_ms() < lease.fence_ms(), "and one may be answered too late");
            assert!(lease.fence_ms() < lease.ms);
        }
        let default = Lease::default();
        assert_eq!((default.heartbeat_ms(), default.answer_ms(), default.fence_ms()), (1_500, 1_400, 3_500));
    }
}
