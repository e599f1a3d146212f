//! Bindings: RFC 3261 §10.3 steps 6 to 8 as one atomic change.

use super::MemoryStore;
use super::entries::Removed;
use crate::key::AorKey;
use crate::name::EntryName;
use crate::op::{BindingChange, MAX_BINDINGS, MAX_CAPABILITIES, StoreError, StoreReply, TOMBSTONE_MS};
use crate::record::Binding;

/// Removed bindings of an address that are remembered; older ones go first.
const MAX_REMOVED: usize = 2 * MAX_BINDINGS;

/// What is known of an address, and what a REGISTER makes of it.
struct Change {
    now_ms: u64,
    bindings: Vec<Binding>,
    removed: Vec<Removed>,
    removed_before: usize,
}

impl Change {
    /// Step 7: the same Call-ID needs a higher CSeq; an equal one is the same request again.
    fn update(&mut self, new: Binding) -> Result<(), StoreReply> {
        let adds = new.expires_at > self.now_ms;
        let late = |r: &Removed| {
            r.key.as_ref().is_none_or(|key| *key == new.key)
                && r.call_id == new.call_id
                && (new.cseq < r.cseq || (new.cseq == r.cseq && adds))
        };
        if self.removed.iter().any(late) {
            return Err(StoreReply::StaleRegister);
        }
        let at = self.bindings.iter().position(|b| b.key == new.key);
        match at {
            Some(i) if self.bindings[i].call_id == new.call_id && new.cseq < self.bindings[i].cseq => {
                return Err(StoreReply::StaleRegister);
            }
            Some(i) if adds => self.bindings[i] = new,
            Some(i) => {
                let old = self.bindings.remove(i);
                if old.call_id != new.call_id {
                    self.remember(Some(old.key), old.call_id, old.cseq);
                }
                self.remember(Some(new.key), new.call_id, new.cseq);
            }
            None if adds => self.bindings.push(new),
            None => {}
        }
        Ok(())
    }

    fn remove_all(&mut self, call_id: String, cseq: u32) -> Result<(), StoreReply> {
        let newer = self.bindings.iter().any(|b| b.call_id == call_id && cseq < b.cseq)
            || self.removed.iter().any(|r| r.call_id == call_id && cseq < r.cseq);
        if newer {
            return Err(StoreReply::StaleRegister);
        }
        for old in std::mem::take(&mut self.bindings) {
            if old.call_id != call_id {
                self.remember(Some(old.key), old.call_id, old.cseq);
            }
        }
        self.remember(None, call_id, cseq);
        Ok(())
    }

    fn remember(&mut self, key: Option<String>, call_id: String, cseq: u32) {
        self.removed.retain(|r| r.key != key || r.call_id != call_id);
        let expires_at = self.now_ms.saturating_add(TOMBSTONE_MS);
        self.removed.push(Removed { key, call_id, cseq, expires_at });
        let beyond = self.removed.len().saturating_sub(MAX_REMOVED);
        self.removed.drain(..beyond);
    }
}

impl MemoryStore {
    pub(super) fn live_bindings(&self, now_ms: u64, aor: AorKey) -> Vec<Binding> {
        let all = self.bindings.get(&aor).into_iter().flatten();
        all.filter(|b| b.expires_at > now_ms).cloned().collect()
    }

    fn live_removed(&self, now_ms: u64, aor: AorKey) -> Vec<Removed> {
        let all = self.removed.get(&aor).into_iter().flatten();
        all.filter(|r| r.expires_at > now_ms).cloned().collect()
    }

    pub(super) fn register(
        &mut self,
        now_ms: u64,
        aor: AorKey,
        change: BindingChange,
    ) -> Result<StoreReply, StoreError> {
        let bindings = self.live_bindings(now_ms, aor);
        let removed = self.live_removed(now_ms, aor);
        let mut after = Change { now_ms, bindings, removed_before: removed.len(), removed };
        let refused = match change {
            BindingChange::Query => return Ok(StoreReply::Bindings(after.bindings)),
            BindingChange::RemoveAll { call_id, cseq } => after.remove_all(call_id, cseq),
            BindingChange::Update(changes) => changes.into_iter().try_for_each(|new| after.update(new)),
        };
        if let Err(reply) = refused {
            return Ok(reply);
        }
        let Change { bindings, removed, removed_before, .. } = after;
        if bindings.len() > MAX_BINDINGS || bindings.iter().any(|b| b.capabilities.len() > MAX_CAPABILITIES) {
            return Ok(StoreReply::TooManyBindings);
        }
        if removed_before == 0
            && !removed.is_empty()
            && !self.removed.contains_key(&aor)
            && self.removed.len() >= self.capacity.bindings
        {
            return Err(StoreError::Full { what: "removed bindings" });
        }
        let end = bindings.iter().map(|b| b.expires_at).min();
        self.put_bindings(aor, bindings.clone())?;
        match end {
            Some(end) => self.ends(EntryName::Aor(aor), end),
            None => self.changed(EntryName::Aor(aor)),
        }
        if let Some(end) = removed.iter().map(|r| r.expires_at).max() {
            self.removed.insert(aor, removed);
            self.ends(EntryName::Removed(aor), end);
        }
        Ok(StoreReply::Bindings(bindings))
    }

    /// Drops what ended, and says when to look again.
    pub(super) fn expire_bindings(&mut self, now_ms: u64, aor: AorKey) -> Option<u64> {
        let before = self.bindings.get(&aor)?.len();
        let live = self.live_bindings(now_ms, aor);
        let end = live.iter().map(|b| b.expires_at).min();
        if live.len() < before {
            self.changed(EntryName::Aor(aor));
            // Fewer than there were: they fit.
            let _ = self.put_bindings(aor, live);
        }
        end
    }

    pub(super) fn expire_removed(&mut self, now_ms: u64, aor: AorKey) -> Option<u64> {
        let end = self.live_removed(now_ms, aor).iter().map(|r| r.expires_at).max();
        if end.is_none() {
            self.removed.remove(&aor);
            self.changed(EntryName::Removed(aor));
        }
        end
    }
}
