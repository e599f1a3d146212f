//! The guard of an INVITE: merged requests, retransmissions, CANCEL, legs, and the one final response.

use bytes::Bytes;

use super::MemoryStore;
use super::entries::{Guard, GuardState, StoredDialog};
use crate::key::{ConversationKey, DialogKey, GuardKey};
use crate::op::{CallState, GUARD_MS, MAX_LEGS, StoreError, StoreReply, TOMBSTONE_MS};
use crate::record::{CallLeg, DialogPhase, DialogRecord, Owner};

/// Whether `before` is the same pod in an epoch that ended.
fn is_earlier_life(before: &Owner, now: &Owner) -> bool {
    before.pod == now.pod && before.epoch < now.epoch
}

impl MemoryStore {
    fn live_guard(&self, now_ms: u64, key: GuardKey) -> Option<&Guard> {
        self.guards.get(&key).filter(|g| g.expires_at > now_ms)
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
        let lease_until = now_ms.saturating_add(lease_ms);
        if let Some(guard) = self.live_guard(now_ms, key) {
            let dialog = guard.dialog;
            let state = match &guard.state {
                GuardState::Pending
                    if guard.owner != owner
                        && (guard.lease_until <= now_ms || is_earlier_life(&guard.owner, &owner)) =>
                {
                    return Ok(self.adopt_call(key, owner, lease_until));
                }
                GuardState::Pending => CallState::Pending { owner: guard.owner },
                GuardState::Cancelled => CallState::Cancelled,
                GuardState::Rejected(response) => CallState::Rejected { response: response.clone() },
                GuardState::Accepted => {
                    let accept_bytes = self.live_dialog(now_ms, dialog).and_then(|d| d.record.accept_bytes.clone());
                    if accept_bytes.is_some() && !guard.told {
                        self.change_guard(key, |guard| guard.told = true);
                    }
                    CallState::Accepted { accept_bytes }
                }
            };
            return Ok(StoreReply::CallKnown { dialog, state });
        }
        if self.guards.len() >= self.capacity.calls && !self.guards.contains_key(&key) {
            return Err(StoreError::Full { what: "calls" });
        }
        let expires_at = now_ms.saturating_add(GUARD_MS);
        let state = GuardState::Pending;
        let legs = Vec::new();
        self.put_guard(key, Guard { dialog, invite, owner, lease_until, state, legs, expires_at, told: false });
        Ok(StoreReply::CallOpened)
    }

    /// The call and its early dialog have another owner from now on.
    fn adopt_call(&mut self, key: GuardKey, owner: Owner, lease_until: u64) -> StoreReply {
        let adopted = self.change_guard(key, |guard| {
            guard.owner = owner;
            guard.lease_until = lease_until;
            (guard.dialog, guard.invite.clone(), guard.legs.clone())
        });
        let Some((dialog, invite, legs)) = adopted else { return StoreReply::Unknown };
        if self.dialogs.get(&dialog).is_some_and(|d| d.record.phase == DialogPhase::Early) {
            self.change_dialog(dialog, |d| d.record.owner = owner);
        }
        StoreReply::CallAdopted { dialog, invite, legs }
    }

    /// Why this owner may not write to this call, if so.
    fn refuse(&self, now_ms: u64, key: GuardKey, owner: Owner) -> Option<StoreReply> {
        let Some(guard) = self.live_guard(now_ms, key) else { return Some(StoreReply::Unknown) };
        if guard.owner != owner {
            return Some(StoreReply::Fenced);
        }
        match guard.state {
            GuardState::Pending => None,
            GuardState::Cancelled => Some(StoreReply::CallCancelled),
            GuardState::Rejected(_) | GuardState::Accepted => Some(StoreReply::Fenced),
        }
    }

    pub(super) fn place_legs(
        &mut self,
        now_ms: u64,
        key: GuardKey,
        owner: Owner,
        legs: Vec<CallLeg>,
    ) -> Result<StoreReply, StoreError> {
        if legs.len() > MAX_LEGS {
            return Err(StoreError::Full { what: "legs of a call" });
        }
        if let Some(reply) = self.refuse(now_ms, key, owner) {
            return Ok(reply);
        }
        self.change_guard(key, |guard| guard.legs = legs);
        Ok(StoreReply::Done)
    }

    pub(super) fn early_call(
        &mut self,
        now_ms: u64,
        key: GuardKey,
        owner: Owner,
        dialog: DialogKey,
        record: DialogRecord,
        ttl_ms: u64,
    ) -> Result<StoreReply, StoreError> {
        if let Some(reply) = self.refuse(now_ms, key, owner).or_else(|| self.refuse_legs(now_ms, &[dialog])) {
            return Ok(reply);
        }
        self.room_for(now_ms, &[dialog])?;
        Ok(StoreReply::Version(self.make_dialog(now_ms, dialog, owner, record, ttl_ms, None)))
    }

    /// `legs`: the dialog of the call, then the other leg's, where there is one.
    pub(super) fn answer_call(
        &mut self,
        now_ms: u64,
        key: GuardKey,
        owner: Owner,
        legs: Vec<(DialogKey, DialogRecord)>,
        ttl_ms: u64,
        conversation: Option<ConversationKey>,
    ) -> Result<StoreReply, StoreError> {
        let names: Vec<DialogKey> = legs.iter().map(|(name, _)| *name).collect();
        if let Some(reply) = self.refuse(now_ms, key, owner).or_else(|| self.refuse_legs(now_ms, &names)) {
            return Ok(reply);
        }
        self.room_for(now_ms, &names)?;
        let retained = legs.iter().filter(|(_, record)| conversation.is_some() && record.retention_ms > 0);
        self.room_to_keep(retained.count())?;
        self.change_guard(key, |guard| {
            guard.state = GuardState::Accepted;
            guard.invite = Bytes::new();
            guard.legs = Vec::new();
            guard.expires_at = now_ms.saturating_add(TOMBSTONE_MS);
        });
        let mut versions = Vec::with_capacity(legs.len());
        for (name, record) in legs {
            versions.push(self.make_dialog(now_ms, name, owner, record, ttl_ms, conversation));
        }
        Ok(StoreReply::Answered { version: versions.first().copied().unwrap_or(0) })
    }

    /// A dialog is made of nothing, or of its early one.
    fn refuse_legs(&self, now_ms: u64, names: &[DialogKey]) -> Option<StoreReply> {
        names.iter().find_map(|name| match self.live_dialog(now_ms, *name)?.record.phase {
            DialogPhase::Early => None,
            DialogPhase::Terminated => Some(StoreReply::Gone),
            DialogPhase::Accepted | DialogPhase::Confirmed | DialogPhase::Terminating => Some(StoreReply::Fenced),
        })
    }

    /// Whether these dialogs, or those of them that are not there yet, still fit.
    pub(super) fn room_for(&self, now_ms: u64, names: &[DialogKey]) -> Result<(), StoreError> {
        let new = names.iter().filter(|name| self.live_dialog(now_ms, **name).is_none()).count();
        if new > 0 && self.dialogs.len() + new > self.capacity.calls {
            return Err(StoreError::Full { what: "dialogs" });
        }
        Ok(())
    }

    /// Writes a dialog that `owner` owns, over its early one if there is one. Gives the version.
    pub(super) fn make_dialog(
        &mut self,
        now_ms: u64,
        key: DialogKey,
        owner: Owner,
        mut record: DialogRecord,
        ttl_ms: u64,
        conversation: Option<ConversationKey>,
    ) -> u64 {
        if self.live_dialog(now_ms, key).is_some() {
            let version = self.change_dialog(key, |early| {
                early.replace(now_ms, record, ttl_ms);
                early.record.owner = owner;
                early.conversation = conversation;
                early.version
            });
            self.keep_dialog(now_ms, key, true);
            return version.unwrap_or(0);
        }
        record.owner = owner;
        let expires_at = now_ms.saturating_add(ttl_ms);
        let requests = std::collections::BTreeMap::new();
        let dialog = StoredDialog { version: 1, record, requests, conversation, erased: false, expires_at };
        self.put_dialog(key, dialog);
        self.keep_dialog(now_ms, key, true);
        1
    }

    /// The dialog of a call that this owner answered, while nobody was given the 2xx.
    fn untold(&self, now_ms: u64, key: GuardKey, owner: Owner) -> Option<DialogKey> {
        let guard = self.live_guard(now_ms, key).filter(|guard| guard.owner == owner && !guard.told)?;
        let GuardState::Accepted = guard.state else { return None };
        let record = &self.live_dialog(now_ms, guard.dialog)?.record;
        (record.phase == DialogPhase::Accepted && record.owner == owner).then_some(guard.dialog)
    }

    pub(super) fn reject_call(&mut self, now_ms: u64, key: GuardKey, owner: Owner, response: Bytes) -> StoreReply {
        if let Some(dialog) = self.untold(now_ms, key, owner) {
            self.end_dialog(now_ms, dialog);
        } else if let Some(reply) = self.refuse(now_ms, key, owner) {
            return reply;
        }
        let dialog = self.change_guard(key, |guard| {
            guard.state = GuardState::Rejected(response);
            guard.invite = Bytes::new();
            guard.legs = Vec::new();
            guard.expires_at = now_ms.saturating_add(TOMBSTONE_MS);
            guard.dialog
        });
        self.end_early(now_ms, dialog);
        StoreReply::Done
    }

    pub(super) fn cancel_call(&mut self, now_ms: u64, key: GuardKey) -> StoreReply {
        let Some(guard) = self.live_guard(now_ms, key) else { return StoreReply::Unknown };
        match guard.state {
            GuardState::Pending | GuardState::Cancelled => {}
            GuardState::Rejected(_) | GuardState::Accepted => return StoreReply::CancelTooLate,
        }
        let found = self.change_guard(key, |guard| {
            guard.state = GuardState::Cancelled;
            guard.expires_at = now_ms.saturating_add(TOMBSTONE_MS);
            (guard.dialog, guard.invite.clone(), guard.owner, guard.legs.clone())
        });
        let Some((dialog, invite, owner, legs)) = found else { return StoreReply::Unknown };
        self.end_early(now_ms, Some(dialog));
        StoreReply::Cancelled { dialog, invite, owner, legs }
    }

    /// The call came to nothing, and its early dialog with it.
    fn end_early(&mut self, now_ms: u64, dialog: Option<DialogKey>) {
        let Some(dialog) = dialog else { return };
        if self.live_dialog(now_ms, dialog).is_some_and(|d| d.record.phase == DialogPhase::Early) {
            self.tombstone(now_ms, dialog);
        }
    }
}
