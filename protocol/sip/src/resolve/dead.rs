//! Targets that failed a moment ago (RFC 3263 §4.3) are tried last.

use std::net::SocketAddr;

use crate::time::Mono;

use super::{Target, Transport};

/// More are not remembered; the one that ends first makes room.
const MAX_DEAD: usize = 1024;

/// Targets that did not answer, each until a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadList {
    entries: Vec<(SocketAddr, Transport, Mono)>,
}

impl DeadList {
    /// A target failed (transport error, timeout, 503): avoid it until `until`.
    pub fn mark(&mut self, target: &Target, now: Mono, until: Mono) {
        self.entries.retain(|&(address, transport, end)| {
            end > now && (address, transport) != (target.address, target.transport)
        });
        if self.entries.len() >= MAX_DEAD
            && let Some(at) = (0..self.entries.len()).min_by_key(|&at| self.entries[at].2)
        {
            self.entries.swap_remove(at);
        }
        if until > now {
            self.entries.push((target.address, target.transport, until));
        }
    }

    /// A target answered.
    pub fn clear(&mut self, target: &Target) {
        self.entries.retain(|&(address, transport, _)| (address, transport) != (target.address, target.transport));
    }

    /// Is it avoided at `now`?
    #[must_use]
    pub fn is_dead(&self, target: &Target, now: Mono) -> bool {
        self.entries
            .iter()
            .any(|&(address, transport, end)| end > now && (address, transport) == (target.address, target.transport))
    }

    /// The same targets, those that live first; none is dropped, for when all are dead any is better than none.
    #[must_use]
    pub fn live_first(&self, targets: &[Target], now: Mono) -> Vec<Target> {
        let (dead, live): (Vec<&Target>, Vec<&Target>) = targets.iter().partition(|target| self.is_dead(target, now));
        live.into_iter().chain(dead).cloned().collect()
    }

    /// How many are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// None is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
