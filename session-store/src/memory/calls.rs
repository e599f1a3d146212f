//! The guard of an INVITE: merged requests, retransmissions, CANCEL, and the one final response.

use bytes::Bytes;

use super::{Guard, GuardState, MemoryStore, StoredDialog, expiry::Name};
use crate::key::{DialogKey, GuardKey};
use crate::op::{CallState, GUARD_MS, StoreError, StoreReply, TOMBSTONE_MS};
use crate::record::{DialogRecord, Owner};

/// Whether `before` is the same pod in an epoch that ended.
fn is_earlier_life(before: &Owner, now: &Owner) -> bool {
    before.pod == now.pod && before.epoch < now.epoch
}

impl MemoryStore {
    fn live_guard(&mut self, now_ms: u64, key: GuardKey) -> Option<&mut Guard> {
        self.guards.get_mut(&key).filter(|g| g.expires_at > now_ms)
    }

    pub(super) fn open_call(
        &mut self,
        now_ms: u64,
        key: GuardKey,
        dialog: DialogKey,
        invite: Bytes,
        owner: Owner,
        lease_ms: u64,
    ) -> Result<StoreReply, StoreError> {
        let accept_bytes =
            |store: &Self, dialog| store.dialogs.get(&dialog).and_then(|d| d.record.accept_bytes.clone());
        if let Some(guard) = self.live_guard(now_ms, key) {
            let dialog = guard.dialog;
            let state = match &guard.state {
                GuardState::Pending
                    if guard.owner != owner
                        && (guard.lease_until <= now_ms || is_earlier_life(&guard.owner, &owner)) =>
                {
                    guard.owner = owner;
                    guard.lease_until = now_ms.saturating_add(lease_ms);
                    return Ok(StoreReply::CallAdopted { dialog, invite: guard.invite.clone(), legs: Vec::new() });
                }
                GuardState::Pending => CallState::Pending { owner: guard.owner },
                GuardState::Cancelled => CallState::Cancelled,
                GuardState::Rejected(response) => CallState::Rejected { response: response.clone() },
                GuardState::Accepted => CallState::Accepted { accept_bytes: accept_bytes(self, dialog) },
            };
            return Ok(StoreReply::CallKnown { dialog, state });
        }
        if self.guards.len() >= self.capacity.calls {
            return Err(StoreError::Full { what: "calls" });
        }
        let expires_at = now_ms.saturating_add(GUARD_MS);
        self.expiry.add(expires_at, Name::Guard(key));
        let lease_until = now_ms.saturating_add(lease_ms);
        self.guards.insert(key, Guard { dialog, invite, owner, lease_until, state: GuardState::Pending, expires_at });
        Ok(StoreReply::CallOpened)
    }

    pub(super) fn answer_call(
        &mut self,
        now_ms: u64,
        key: GuardKey,
        owner: Owner,
        dialog: DialogKey,
        record: DialogRecord,
        ttl_ms: u64,
    ) -> Result<StoreReply, StoreError> {
        if self.dialogs.len() >= self.capacity.calls {
            return Err(StoreError::Full { what: "dialogs" });
        }
        let Some(guard) = self.live_guard(now_ms, key) else { return Ok(StoreReply::Unknown) };
        if guard.owner != owner {
            return Ok(StoreReply::Fenced);
        }
        match guard.state {
            GuardState::Pending => {}
            GuardState::Cancelled => return Ok(StoreReply::CallCancelled),
            GuardState::Rejected(_) | GuardState::Accepted => return Ok(StoreReply::Fenced),
        }
        guard.state = GuardState::Accepted;
        guard.invite = Bytes::new();
        guard.expires_at = now_ms.saturating_add(TOMBSTONE_MS);
        let guard_end = guard.expires_at;
        self.expiry.add(guard_end, Name::Guard(key));
        let expires_at = now_ms.saturating_add(ttl_ms);
        self.expiry.add(expires_at, Name::Dialog(dialog));
        let requests = std::collections::BTreeMap::new();
        self.dialogs.insert(dialog, StoredDialog { version: 1, record, requests, expires_at, ttl_ms });
        Ok(StoreReply::Answered { version: 1 })
    }

    pub(super) fn reject_call(&mut self, now_ms: u64, key: GuardKey, owner: Owner, response: Bytes) -> StoreReply {
        let Some(guard) = self.live_guard(now_ms, key) else { return StoreReply::Unknown };
        if guard.owner != owner {
            return StoreReply::Fenced;
        }
        match guard.state {
            GuardState::Pending => guard.state = GuardState::Rejected(response),
            GuardState::Cancelled => return StoreReply::CallCancelled,
            GuardState::Rejected(_) | GuardState::Accepted => return StoreReply::Fenced,
        }
        guard.invite = Bytes::new();
        guard.expires_at = now_ms.saturating_add(TOMBSTONE_MS);
        let end = guard.expires_at;
        self.expiry.add(end, Name::Guard(key));
        StoreReply::Done
    }

    pub(super) fn cancel_call(&mut self, now_ms: u64, key: GuardKey) -> StoreReply {
        let Some(guard) = self.live_guard(now_ms, key) else { return StoreReply::Unknown };
        match guard.state {
            GuardState::Pending | GuardState::Cancelled => {}
            GuardState::Rejected(_) | GuardState::Accepted => return StoreReply::CancelTooLate,
        }
        guard.state = GuardState::Cancelled;
        guard.expires_at = now_ms.saturating_add(TOMBSTONE_MS);
        let reply = StoreReply::Cancelled {
            dialog: guard.dialog,
            invite: guard.invite.clone(),
            owner: guard.owner,
            legs: Vec::new(),
        };
        let end = guard.expires_at;
        self.expiry.add(end, Name::Guard(key));
        reply
    }
}
