//! Which addresses offer a capability.

use std::collections::BTreeSet;

use super::MemoryStore;
use crate::key::{AorKey, CapabilityKey};
use crate::op::StoreError;
use crate::record::Binding;

fn capabilities(aor: AorKey, bindings: &[Binding]) -> BTreeSet<CapabilityKey> {
    let hashes = bindings.iter().flat_map(|binding| &binding.capabilities);
    hashes.map(|hash| CapabilityKey { tenant: aor.tenant, hash: *hash }).collect()
}

impl MemoryStore {
    /// The bindings of an address from now on; none removes it. Every change goes through here, so that the index is right.
    ///
    /// # Errors
    /// `Full`; nothing was changed.
    pub(super) fn put_bindings(&mut self, aor: AorKey, bindings: Vec<Binding>) -> Result<(), StoreError> {
        let before = self.bindings.get(&aor);
        let old = before.map(|all| capabilities(aor, all)).unwrap_or_default();
        let new = capabilities(aor, &bindings);
        if before.is_none() && !bindings.is_empty() && self.bindings.len() >= self.capacity.bindings {
            return Err(StoreError::Full { what: "bindings" });
        }
        if new.len() > old.len() && self.capable_pairs + new.len() - old.len() > self.capacity.capabilities {
            return Err(StoreError::Full { what: "capabilities" });
        }
        for gone in old.difference(&new) {
            if let Some(aors) = self.capable.get_mut(gone) {
                self.capable_pairs -= usize::from(aors.remove(&aor));
                if aors.is_empty() {
                    self.capable.remove(gone);
                }
            }
        }
        for capability in new.difference(&old) {
            self.capable_pairs += usize::from(self.capable.entry(*capability).or_default().insert(aor));
        }
        match bindings.is_empty() {
            true => self.bindings.remove(&aor),
            false => self.bindings.insert(aor, bindings),
        };
        Ok(())
    }

    pub(super) fn find_capability(&self, now_ms: u64, capability: CapabilityKey, limit: usize) -> Vec<Binding> {
        let aors = self.capable.get(&capability).into_iter().flatten();
        let bindings = aors.filter_map(|aor| self.bindings.get(aor)).flatten();
        let offers = |b: &&Binding| b.expires_at > now_ms && b.capabilities.contains(&capability.hash);
        bindings.filter(offers).take(limit).cloned().collect()
    }
}
