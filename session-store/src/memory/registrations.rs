//! Bindings: RFC 3261 §10.3 steps 6 to 8 as one atomic change.

use super::{MemoryStore, expiry::Name};
use crate::key::AorKey;
use crate::op::{BindingChange, MAX_BINDINGS, StoreError, StoreReply};
use crate::record::Binding;

impl MemoryStore {
    pub(super) fn live_bindings(&self, now_ms: u64, aor: AorKey) -> Vec<Binding> {
        self.bindings
            .get(&aor)
            .map(|all| all.iter().filter(|b| b.expires_at > now_ms).cloned().collect())
            .unwrap_or_default()
    }

    pub(super) fn register(
        &mut self,
        now_ms: u64,
        aor: AorKey,
        change: BindingChange,
    ) -> Result<StoreReply, StoreError> {
        let mut bindings = self.live_bindings(now_ms, aor);
        // Step 7: the same Call-ID needs a higher CSeq; an equal one is the same request again.
        let stale = |known: &Binding, call_id: &str, cseq: u32| known.call_id == call_id && cseq < known.cseq;
        match change {
            BindingChange::Query => return Ok(StoreReply::Bindings(bindings)),
            BindingChange::RemoveAll { call_id, cseq } => {
                if bindings.iter().any(|b| stale(b, &call_id, cseq)) {
                    return Ok(StoreReply::StaleRegister);
                }
                bindings.clear();
            }
            BindingChange::Update(changes) => {
                for new in changes {
                    let at = bindings.iter().position(|b| b.key == new.key);
                    if at.is_some_and(|i| stale(&bindings[i], &new.call_id, new.cseq)) {
                        return Ok(StoreReply::StaleRegister);
                    }
                    match (at, new.expires_at > now_ms) {
                        (Some(i), true) => bindings[i] = new,
                        (Some(i), false) => {
                            bindings.remove(i);
                        }
                        (None, true) => bindings.push(new),
                        (None, false) => {}
                    }
                }
                if bindings.len() > MAX_BINDINGS {
                    return Ok(StoreReply::TooManyBindings);
                }
            }
        }
        if bindings.is_empty() {
            self.bindings.remove(&aor);
        } else {
            if !self.bindings.contains_key(&aor) && self.bindings.len() >= self.capacity.bindings {
                return Err(StoreError::Full { what: "bindings" });
            }
            if let Some(end) = bindings.iter().map(|b| b.expires_at).max() {
                self.expiry.add(end, Name::Aor(aor));
            }
            self.bindings.insert(aor, bindings.clone());
        }
        Ok(StoreReply::Bindings(bindings))
    }

    pub(super) fn expire_bindings(&mut self, now_ms: u64, aor: AorKey) -> Option<u64> {
        let live = self.live_bindings(now_ms, aor);
        let end = live.iter().map(|b| b.expires_at).max();
        match end {
            Some(_) => self.bindings.insert(aor, live),
            None => self.bindings.remove(&aor),
        };
        end
    }
}
