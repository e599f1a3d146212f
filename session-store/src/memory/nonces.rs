//! Counts of digest nonces (RFC 7616 section 3.4). On UDP requests overtake each other, and so do their counts: each is taken once, in
//! whatever order they arrive, within a window below the highest (as RFC 4303 section 3.4.3 does it for packets).

use serde::{Deserialize, Serialize};

use super::MemoryStore;
use super::entries::Nonce;
use crate::name::EntryName;
use crate::op::{NONCE_REQUESTS, NONCE_WINDOW, NonceUse, StoreError, StoreReply};

/// Who used a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Used {
    pub count: u32,
    pub request: [u8; 16],
}

/// An entry of a version that took rising counts only says nothing of those below.
pub(super) fn all() -> u32 {
    u32::MAX
}

impl Nonce {
    fn first(used: Used, expires_at: u64) -> Nonce {
        Nonce { count: used.count, request: used.request, taken: 0, earlier: Vec::new(), expires_at }
    }

    /// Takes the count; false where it was taken by another request, or is too far below to know.
    fn take(&mut self, used: Used) -> bool {
        let highest = Used { count: self.count, request: self.request };
        if used == highest {
            return true;
        }
        if used.count > self.count {
            let ahead = used.count - self.count;
            let moved = if ahead > NONCE_WINDOW { 0 } else { u64::from(self.taken) << ahead | 1 << (ahead - 1) };
            // What was moved out of the window is gone.
            self.taken = (moved & u64::from(u32::MAX)) as u32;
            self.remember(highest);
            (self.count, self.request) = (used.count, used.request);
            return true;
        }
        let below = self.count - used.count;
        if below == 0 || below > NONCE_WINDOW {
            return false;
        }
        let bit = 1 << (below - 1);
        if self.taken & bit != 0 {
            return self.earlier.contains(&used);
        }
        self.taken |= bit;
        self.remember(used);
        true
    }

    fn remember(&mut self, used: Used) {
        self.earlier.insert(0, used);
        self.earlier.truncate(NONCE_REQUESTS);
    }
}

impl MemoryStore {
    /// Checks and counts the nonce, then runs the operation; a replay changes nothing.
    pub(super) fn with_nonce(
        &mut self,
        now_ms: u64,
        nonce: Option<NonceUse>,
        then: impl FnOnce(&mut Self) -> Result<StoreReply, StoreError>,
    ) -> Result<StoreReply, StoreError> {
        if let Some(nonce) = nonce {
            let used = Used { count: nonce.count, request: nonce.request };
            let expires_at = now_ms.saturating_add(nonce.ttl_ms);
            let is_full = self.nonces.len() >= self.capacity.nonces;
            match self.nonces.get_mut(&nonce.key) {
                Some(seen) if seen.expires_at > now_ms => {
                    if !seen.take(used) {
                        return Ok(StoreReply::NonceReplayed);
                    }
                    seen.expires_at = expires_at;
                }
                None if is_full => return Err(StoreError::Full { what: "nonces" }),
                Some(_) | None => {
                    self.nonces.insert(nonce.key, Nonce::first(used, expires_at));
                }
            }
            self.ends(EntryName::Nonce(nonce.key), expires_at);
        }
        then(self)
    }
}
