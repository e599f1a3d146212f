//! The journal and its sessions (`functions/exchanges.lua`, `functions/sessions.lua`).

use session_store::op::{ANSWER_MS, CloseExchange, OpenExchange, StoreError, StoreOp};

use super::{Call, Encoder, Plan};
use crate::names::{self, hex};
use crate::vault::{Field, journal};

impl Encoder<'_> {
    /// The twelve arguments of an opened exchange.
    pub(super) fn open(&self, call: Call, open: &OpenExchange) -> Result<Call, StoreError> {
        let OpenExchange { key, entry, limit, ttl_ms, session_ttl_ms, instead_of } = open;
        let digest: String = entry.digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let request = Field::journal(key, journal::REQUEST);
        Ok(call
            .text(names::session(&key.session))
            .text(hex(&key.hash))
            .text(digest)
            .flag(entry.repeatable)
            .text(names::owner(&entry.owner))
            .bytes(self.vault.seal_entry(key, entry)?)
            .bytes(self.vault.seal_flow(&Field::journal(key, journal::FLOW), &entry.leg.flow)?)
            .text(limit)
            .ttl(*ttl_ms)
            .ttl(*session_ttl_ms)
            .bytes(self.vault.seal_some(&request, entry.request.as_deref()))
            .text(instead_of.as_ref().map(names::owner).unwrap_or_default()))
    }

    /// The seven arguments of a closed one.
    pub(super) fn close(&self, call: Call, close: &CloseExchange) -> Call {
        let CloseExchange { key, owner, answer, is_held } = close;
        let sealed = self.vault.seal_some(&Field::journal(key, journal::ANSWER), answer.as_deref());
        let call = call.text(names::session(&key.session)).text(hex(&key.hash)).text(names::owner(owner));
        call.flag(answer.is_some()).bytes(sealed).ttl(ANSWER_MS).flag(*is_held)
    }

    pub(super) fn exchanges(&self, op: &StoreOp) -> Result<Plan, StoreError> {
        let keys = self.keys();
        match op {
            StoreOp::OpenExchange { open, nonce } => {
                let slot = open.key.session.slot;
                let call = self.call("open_exchange", keys.exchange(&open.key), slot);
                let (before, call) = self.with_nonce(call, nonce.as_ref());
                Ok(Plan { before, main: self.open(call, open)?, beside: Vec::new() })
            }
            StoreOp::CloseExchange(close) => {
                let call = self.call("close_exchange", keys.exchange(&close.key), close.key.session.slot);
                Ok(Plan::only(self.close(call, close)))
            }
            StoreOp::NoteExchange { key, owner, note } => {
                let mut call =
                    self.call("note_exchange", keys.exchange(key), key.session.slot).text(names::owner(owner));
                for (field, kind, noted) in [
                    ("ev", journal::EVENT, &note.event_id),
                    ("ta", journal::TASK, &note.task),
                    ("up", journal::UPSTREAM, &note.upstream_id),
                    ("bs", journal::BACKEND, &note.backend_session),
                ] {
                    if noted.is_some() {
                        let sealed = self.vault.seal_text(&Field::journal(key, kind), noted.as_ref());
                        call = call.text(field).bytes(sealed);
                    }
                }
                Ok(Plan::only(call))
            }
            StoreOp::Once { key, ttl_ms, nonce } => {
                let call = self.call("once", keys.once(key), key.session.slot);
                let (before, call) = self.with_nonce(call, nonce.as_ref());
                Ok(Plan { before, main: call.ttl((*ttl_ms).max(1)), beside: Vec::new() })
            }
            StoreOp::ReadSession { session, ttl_ms } => {
                Ok(Plan::only(self.call("read_session", keys.session(session), session.slot).ttl(*ttl_ms)))
            }
            StoreOp::WriteSession { session, version, record, ttl_ms } => {
                let call = self.call("write_session", keys.session(session), session.slot).text(version);
                Ok(Plan::only(call.bytes(self.vault.seal_session(session, record)?).ttl(*ttl_ms)))
            }
            StoreOp::DropSession { session, if_ends_within_ms } => {
                let call = self.call("drop_session", keys.session(session), session.slot);
                let within = if_ends_within_ms.map(|ms| ms.to_string()).unwrap_or_default();
                Ok(Plan::only(call.text(names::session(session)).text(within)))
            }
            _ => unreachable!("`plan` sends only operations on exchanges and sessions here"),
        }
    }
}
