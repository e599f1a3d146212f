//! The edges themselves: epochs, one lease each, the store's generation, tenant numbers.

use super::MemoryStore;
use super::entries::Edge;
use crate::key::Tenant;
use crate::name::EntryName;
use crate::op::{EDGE_LISTED_MS, EPOCH_MS, StoreError, StoreReply};
use crate::record::{Owner, PodState};

/// An edge that begins.
pub(super) struct Life {
    pub pod: u64,
    pub boot: u64,
    pub last_epoch: u64,
    pub address: String,
    pub lease_ms: u64,
}

impl Edge {
    /// Its epoch is forgotten then.
    pub fn expires_at(&self) -> u64 {
        self.lease_until.saturating_add(EPOCH_MS)
    }
}

impl MemoryStore {
    pub(super) fn take_epoch(
        &mut self,
        now_ms: u64,
        life: Life,
        generation: [u8; 16],
    ) -> Result<StoreReply, StoreError> {
        let Life { pod, boot, last_epoch, address, lease_ms } = life;
        let known = self.edges.get(&pod);
        let other =
            |edge: &&Edge| edge.owner.boot != boot && edge.owner.epoch > last_epoch && edge.lease_until > now_ms;
        if last_epoch > 0 && known.filter(other).is_some() {
            return Ok(StoreReply::Fenced);
        }
        if known.is_none() && self.edges.len() >= self.capacity.edges {
            return Err(StoreError::Full { what: "edges" });
        }
        let counter = known.filter(|edge| edge.expires_at() > now_ms).map_or(0, |edge| edge.owner.epoch);
        let owner = Owner { pod, epoch: counter.max(last_epoch).saturating_add(1), boot };
        self.put_edge(Edge { owner, address, lease_until: now_ms.saturating_add(lease_ms), draining: false });
        let generation = match self.generation {
            Some(generation) => generation,
            None => {
                self.generation = Some(generation);
                self.changed(EntryName::Generation);
                generation
            }
        };
        Ok(StoreReply::Epoch { owner, generation, pods: self.pods(now_ms), now_ms })
    }

    fn put_edge(&mut self, edge: Edge) {
        let (pod, end) = (edge.owner.pod, edge.expires_at());
        self.edges.insert(pod, edge);
        self.ends(EntryName::Edge(pod), end);
    }

    /// By pod; without those whose lease ended long ago.
    fn pods(&self, now_ms: u64) -> Vec<PodState> {
        let listed = self.edges.values().filter(|edge| edge.lease_until.saturating_add(EDGE_LISTED_MS) > now_ms);
        let state = |edge: &Edge| PodState {
            owner: edge.owner,
            address: edge.address.clone(),
            lease_left_ms: edge.lease_until.saturating_sub(now_ms),
            draining: edge.draining,
        };
        listed.map(state).collect()
    }

    pub(super) fn heartbeat(
        &mut self,
        now_ms: u64,
        owner: Owner,
        address: String,
        lease_ms: u64,
        draining: bool,
    ) -> StoreReply {
        let living = self.edges.get(&owner.pod).filter(|edge| edge.owner == owner && edge.lease_until > now_ms);
        let (Some(granted), Some(generation)) = (living.map(|edge| edge.lease_until), self.generation) else {
            return StoreReply::Fenced;
        };
        // What was granted is not taken back, whatever the order in which renewals arrive.
        let lease_until = now_ms.saturating_add(lease_ms).max(granted);
        self.put_edge(Edge { owner, address, lease_until, draining });
        StoreReply::Pods { generation, pods: self.pods(now_ms), now_ms }
    }

    pub(super) fn leave(&mut self, now_ms: u64, owner: Owner) -> StoreReply {
        let Some(edge) = self.edges.get(&owner.pod).filter(|edge| edge.owner == owner).cloned() else {
            return StoreReply::Fenced;
        };
        self.put_edge(Edge { lease_until: edge.lease_until.min(now_ms), ..edge });
        StoreReply::Done
    }

    pub(super) fn tenant_number(&mut self, domain: [u8; 16]) -> Result<StoreReply, StoreError> {
        if let Some(tenant) = self.domains.get(&domain) {
            return Ok(StoreReply::Tenant(*tenant));
        }
        let tenant: Tenant = self.last_tenant.checked_add(1).ok_or(StoreError::Full { what: "tenant numbers" })?;
        self.last_tenant = tenant;
        self.domains.insert(domain, tenant);
        self.changed(EntryName::Domain(domain));
        Ok(StoreReply::Tenant(tenant))
    }
}
