//! ACK (RFC 3261 §13.3.1.4): of a 2xx by the sealed tag of its dialog, of a refusal by that of the edge that refused. It cannot be challenged,
//! and nobody else was told these tags, so it is taken from any connection. Whoever repeats the 2xx has to hear of it.

use session_store::key::DialogKey;
use session_store::op::{StoreError, StoreOp, StoreReply};

use crate::request::Request;
use crate::state::EdgeState;
use crate::token::{DialogToken, RefusalToken};
use crate::waiting::Waiting;

impl EdgeState {
    /// `relayed`: another edge took it in for us.
    pub(crate) fn on_ack(&mut self, request: &Request, relayed: bool) {
        let Some(tag) = request.message.to_tag() else { return self.stats.drop_one("stray ACK") };
        let Some(token) = DialogToken::from_tag(&self.config.token_keys, tag) else {
            return self.refusal_acknowledged(request, relayed);
        };
        if token.bridged {
            return self.bridge_ack(request, token, relayed);
        }
        let dialog = token.key;
        match self.dialogs.get(&dialog) {
            Some(_) if relayed || self.owns(dialog) => self.ack_here(request, dialog),
            Some(local) => {
                let owner = local.record.owner.pod;
                self.ack_for(request, dialog, owner);
            }
            None if relayed => self.confirm(dialog),
            None if self.is_degraded() || !self.has_room() => self.confirm(dialog),
            None => {
                let waiting = Waiting::Ack(Box::new(request.clone()), dialog);
                self.store(StoreOp::ReadDialog { dialog }, waiting);
            }
        }
    }

    /// The record of a dialog that this edge does not have: whose 2xx is it?
    pub(crate) fn ack_read(&mut self, request: &Request, dialog: DialogKey, reply: Result<StoreReply, StoreError>) {
        match reply {
            Ok(StoreReply::Dialog { record, .. }) if record.accept_bytes.is_some() => {
                self.ack_for(request, dialog, record.owner.pod);
            }
            Ok(_) => {}
            Err(_) => self.confirm(dialog),
        }
    }

    fn ack_here(&mut self, request: &Request, dialog: DialogKey) {
        // A copy of an ACK changes nothing.
        let news = self.dialogs.get(&dialog).is_some_and(|local| local.accept.is_some());
        self.acknowledged(dialog);
        self.late_answer(dialog, request);
        if news {
            self.confirm(dialog);
        }
    }

    /// To the edge that repeats the 2xx; without it the record learns it here, so that nobody begins again.
    fn ack_for(&mut self, request: &Request, dialog: DialogKey, owner: u64) {
        let others = owner != self.owner.pod && self.lives(owner);
        if others {
            self.relay(owner, &request.flow, &request.message, Some(crate::fleet::Meshed::Ack(dialog)));
        } else {
            self.acknowledged(dialog);
            self.confirm(dialog);
        }
    }

    /// accepted → confirmed; nothing waits for it.
    pub(crate) fn confirm(&mut self, dialog: DialogKey) {
        if self.is_degraded() {
            return self.later("ACK", dialog, StoreOp::Confirm { dialog });
        }
        if self.has_room() {
            self.store(StoreOp::Confirm { dialog }, Waiting::Confirm(dialog));
        }
    }

    pub(crate) fn confirmed(&mut self, dialog: DialogKey, reply: Result<StoreReply, StoreError>) {
        match reply {
            Ok(StoreReply::Version(version)) => {
                if let Some(local) = self.dialogs.get_mut(&dialog) {
                    local.version = version;
                }
            }
            Err(_) => self.later("ACK", dialog, StoreOp::Confirm { dialog }),
            Ok(_) => {}
        }
    }

    /// No transaction here was acknowledged: another edge refused that INVITE.
    fn refusal_acknowledged(&mut self, request: &Request, relayed: bool) {
        let tag = request.message.to_tag().unwrap_or_default();
        match RefusalToken::from_tag(&self.config.token_keys, tag) {
            Some(token) if !relayed && token.pod != self.owner.pod && self.lives(token.pod) => {
                self.relay(token.pod, &request.flow, &request.message, None);
            }
            _ => self.stats.drop_one("stray ACK"),
        }
    }
}
