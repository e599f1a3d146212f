//! The guard of an INVITE (`functions/calls.lua`).

use session_store::op::{GUARD_MS, MAX_LEGS, StoreError, StoreOp, TOMBSTONE_MS};

use super::{Call, Encoder, Plan, same_slot};
use crate::names;
use crate::vault::Field;

impl Encoder<'_> {
    pub(super) fn calls(&self, op: &StoreOp) -> Result<Plan, StoreError> {
        let keys = self.keys();
        match op {
            StoreOp::OpenCall { guard, dialog, invite, owner, lease_ms, nonce } => {
                same_slot(guard.slot, dialog.slot)?;
                let call = self.call("open_call", keys.guard(guard), guard.slot);
                let (before, call) = self.with_nonce(call, nonce.as_ref());
                let call = call.text(names::guard(guard)).text(names::dialog(dialog));
                let call = call.bytes(self.vault.seal(&Field::invite(guard), invite)).text(names::owner(owner));
                Ok(Plan { before, main: call.ttl(*lease_ms).ttl(GUARD_MS), beside: Vec::new() })
            }
            StoreOp::PlaceLegs { guard, owner, legs } => {
                if legs.len() > MAX_LEGS {
                    return Err(StoreError::Full { what: "legs of a call" });
                }
                let call = self.call("place_legs", keys.guard(guard), guard.slot);
                Ok(Plan::only(call.text(names::owner(owner)).bytes(self.vault.seal_legs(guard, legs)?)))
            }
            StoreOp::EarlyCall { guard, owner, dialog, record, ttl_ms } => {
                same_slot(guard.slot, dialog.slot)?;
                let call = self.call("early_call", keys.guard(guard), guard.slot);
                let call = call.text(names::owner(owner)).text(names::dialog(dialog)).ttl(*ttl_ms);
                Ok(Plan::only(self.record(call, dialog, record)?))
            }
            StoreOp::AnswerCall { guard, owner, dialog, record, ttl_ms, peer, conversation } => {
                same_slot(guard.slot, dialog.slot)?;
                let call = self.call("answer_call", keys.guard(guard), guard.slot);
                let call = call.text(names::guard(guard)).text(names::owner(owner)).ttl(TOMBSTONE_MS);
                let call = call.text(names::dialog(dialog)).ttl(*ttl_ms);
                let call = call.text(conversation.as_ref().map(|c| names::name(c.tenant, &c.hash)).unwrap_or_default());
                let mut call = self.record(call, dialog, record)?;
                let mut legs = vec![*dialog];
                let mut retention_ms = record.retention_ms;
                if let Some(peer) = peer {
                    let (other, record) = &**peer;
                    retention_ms = retention_ms.max(record.retention_ms);
                    same_slot(guard.slot, other.slot)?;
                    call = self.record(call.text(names::dialog(other)), other, record)?;
                    legs.push(*other);
                }
                let listed_ms = ttl_ms.saturating_add(retention_ms);
                let beside: Option<Call> = conversation.as_ref().map(|c| self.list_legs(c, listed_ms, &legs));
                Ok(Plan { before: None, main: call, beside: beside.into_iter().collect() })
            }
            StoreOp::RejectCall { guard, owner, response } => {
                let call = self.call("reject_call", keys.guard(guard), guard.slot);
                let call = call.text(names::guard(guard)).text(names::owner(owner)).ttl(TOMBSTONE_MS);
                Ok(Plan::only(call.bytes(self.vault.seal(&Field::rejection(guard), response))))
            }
            StoreOp::CancelCall { guard } => {
                let call = self.call("cancel_call", keys.guard(guard), guard.slot);
                Ok(Plan::only(call.text(names::guard(guard)).ttl(TOMBSTONE_MS)))
            }
            _ => unreachable!("`plan` sends only operations on guards here"),
        }
    }
}
