//! Dialogs (`functions/dialogs.lua`).

use session_store::key::DialogKey;
use session_store::op::{StoreError, StoreOp, TOMBSTONE_MS, claim_ms};
use session_store::record::{DialogRecord, PeerFlow};

use super::{Call, Encoder, Plan, same_slot};
use crate::names::{self, hex};
use crate::vault::{Field, phase_letter};

/// So many in-dialog requests are remembered for replay.
const MAX_REMEMBERED: usize = 256;

impl Encoder<'_> {
    /// Who may act in a dialog is compared without being read.
    fn principal(&self, key: &DialogKey, principal: &str) -> String {
        hex(&self.vault.sealer.fingerprint(key.tenant, "principal", &[&key.id, principal.as_bytes()]))
    }

    fn source(&self, key: &DialogKey, source: &str) -> String {
        hex(&self.vault.sealer.fingerprint(key.tenant, "source", &[&key.id, source.as_bytes()]))
    }

    /// The ten arguments of a record.
    pub(super) fn record(&self, call: Call, key: &DialogKey, record: &DialogRecord) -> Result<Call, StoreError> {
        let peer = match &record.peer {
            None => String::new(),
            Some(peer) => {
                same_slot(key.slot, peer.slot)?;
                names::dialog(peer)
            }
        };
        let flow = PeerFlow { flow: record.flow.clone(), source: record.source.clone() };
        Ok(call
            .text(phase_letter(record.phase))
            .text(record.cseq_in.map(|cseq| cseq.to_string()).unwrap_or_default())
            .text(record.cseq_out)
            .text(self.principal(key, &record.principal))
            .text(self.source(key, &record.source))
            .text(peer)
            .bytes(self.vault.seal_dialog(key, record)?)
            .bytes(self.vault.seal_some(&Field::accept(key), record.accept_bytes.as_deref()))
            .bytes(self.vault.seal_flow(&Field::dialog_flow(key), &flow)?)
            .text(record.retention_ms))
    }

    pub(super) fn dialogs(&self, op: &StoreOp) -> Result<Plan, StoreError> {
        let call = |function, key: &DialogKey| self.call(function, self.keys().dialog(key), key.slot);
        match op {
            StoreOp::ReadDialog { dialog } => Ok(Plan::only(call("read_dialog", dialog))),
            StoreOp::Confirm { dialog } => Ok(Plan::only(call("confirm", dialog))),
            StoreOp::Begin { dialog, by, flow, cseq, method, nonce, exchange } => {
                let (before, call) = self.with_nonce(call("begin", dialog), nonce.as_ref());
                let source = by.source.as_ref().map(|source| self.source(dialog, source)).unwrap_or_default();
                let call = call.text(names::dialog(dialog)).text(self.principal(dialog, &by.principal)).text(source);
                let claim = match claim_ms(method) {
                    _ if method == "BYE" => "bye".to_owned(),
                    claim => claim.map(|ms| ms.to_string()).unwrap_or_default(),
                };
                let call = call.text(cseq).text(claim);
                let call = match flow {
                    None => call.text("").text(""),
                    Some(flow) => {
                        let sealed = self.vault.seal_flow(&Field::dialog_flow(dialog), flow)?;
                        call.bytes(sealed).text(self.source(dialog, &flow.source))
                    }
                };
                let mut main = call.ttl(TOMBSTONE_MS).text(MAX_REMEMBERED).flag(exchange.is_some());
                if let Some(open) = exchange {
                    same_slot(dialog.slot, open.key.session.slot)?;
                    main = self.open(main, open)?;
                }
                Ok(Plan { before, main, beside: Vec::new() })
            }
            StoreOp::Commit { dialog, cseq, response, record } => {
                let response = self.vault.seal(&Field::response(dialog, *cseq), response);
                let call = call("commit", dialog).text(names::dialog(dialog)).text(cseq).bytes(response);
                let call = call.ttl(TOMBSTONE_MS).text(MAX_REMEMBERED).flag(record.is_some());
                Ok(Plan::only(match record {
                    None => call,
                    Some((version, record, ttl_ms)) => self.record(call.text(version).ttl(*ttl_ms), dialog, record)?,
                }))
            }
            StoreOp::UpdateDialog { dialog, version, record, ttl_ms } => {
                let call = call("update_dialog", dialog).text(names::dialog(dialog)).text(version).ttl(*ttl_ms);
                Ok(Plan::only(self.record(call, dialog, record)?))
            }
            StoreOp::Terminate { dialog, by, cseq, response, nonce } => {
                let (before, call) = self.with_nonce(call("terminate", dialog), nonce.as_ref());
                let source = by.source.as_ref().map(|source| self.source(dialog, source)).unwrap_or_default();
                let call = call.text(names::dialog(dialog)).text(self.principal(dialog, &by.principal)).text(source);
                let call = call.text(cseq).bytes(self.vault.seal(&Field::response(dialog, *cseq), response));
                Ok(Plan { before, main: call.ttl(TOMBSTONE_MS).text(MAX_REMEMBERED), beside: Vec::new() })
            }
            StoreOp::NextCseq { dialog, terminating, close, fence } => {
                let call = call("next_cseq", dialog).text(names::dialog(dialog)).flag(*terminating);
                let call = match fence {
                    None => call.text("").text(""),
                    Some(fence) => {
                        let version = fence.version.map(|version| version.to_string()).unwrap_or_default();
                        call.text(names::owner(&fence.owner)).text(version)
                    }
                };
                let call = call.flag(close.is_some());
                Ok(Plan::only(match close {
                    None => call,
                    Some(close) => {
                        same_slot(dialog.slot, close.key.session.slot)?;
                        self.close(call, close)
                    }
                }))
            }
            StoreOp::Bury { dialog } => {
                Ok(Plan::only(call("bury", dialog).text(names::dialog(dialog)).ttl(TOMBSTONE_MS)))
            }
            StoreOp::RestoreDialog { dialog, record, ttl_ms, conversation } => {
                let call = call("restore_dialog", dialog).text(names::dialog(dialog)).ttl(*ttl_ms);
                let call = call.text(names::owner(&record.owner));
                let call = call.text(conversation.as_ref().map(|c| names::name(c.tenant, &c.hash)).unwrap_or_default());
                let listed_ms = ttl_ms.saturating_add(record.retention_ms);
                let beside = conversation.as_ref().map(|c| self.list_legs(c, listed_ms, &[*dialog]));
                let main = self.record(call, dialog, record)?;
                Ok(Plan { before: None, main, beside: beside.into_iter().collect() })
            }
            _ => unreachable!("`plan` sends only operations on dialogs here"),
        }
    }
}
