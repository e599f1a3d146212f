//! Bindings and who offers what (`functions/registrations.lua`).

use session_store::key::{AorKey, CapabilityKey};
use session_store::op::{BindingChange, MAX_BINDINGS, MAX_CAPABILITIES, StoreError, StoreOp, TOMBSTONE_MS};
use session_store::record::Binding;

use super::{Call, Encoder, Plan};
use crate::names::hex;

/// Removed bindings of an address that are remembered.
const MAX_REMOVED: usize = 2 * MAX_BINDINGS;

impl Encoder<'_> {
    fn call_id(&self, aor: &AorKey, call_id: &str) -> String {
        hex(&self.vault.sealer.fingerprint(aor.tenant, "call-id", &[&aor.hash, call_id.as_bytes()]))
    }

    fn identity(&self, aor: &AorKey, key: &str) -> String {
        hex(&self.vault.sealer.fingerprint(aor.tenant, "binding", &[&aor.hash, key.as_bytes()]))
    }

    pub(super) fn registrations(&self, op: &StoreOp) -> Result<Plan, StoreError> {
        match op {
            StoreOp::ReadBindings { aor } => Ok(Plan::only(self.read_bindings(aor))),
            StoreOp::Register { aor, change, nonce } => {
                let call = self.tagged("register", self.keys().aor(aor));
                let (before, call) = self.with_nonce(call, nonce.as_ref());
                let kind = match change {
                    BindingChange::Query => "q",
                    BindingChange::RemoveAll { .. } => "a",
                    BindingChange::Update(_) => "u",
                };
                let mut main =
                    call.text(kind).text(MAX_BINDINGS).text(MAX_CAPABILITIES).ttl(TOMBSTONE_MS).text(MAX_REMOVED);
                let mut beside = Vec::new();
                match change {
                    BindingChange::Query => {}
                    BindingChange::RemoveAll { call_id, cseq } => {
                        main = main.text(self.call_id(aor, call_id)).text(cseq)
                    }
                    BindingChange::Update(bindings) => {
                        for binding in bindings {
                            main = main
                                .text(self.identity(aor, &binding.key))
                                .text(self.vault.clock.to_store(binding.expires_at))
                                .text(binding.cseq)
                                .text(self.call_id(aor, &binding.call_id))
                                .text(binding.capabilities.len())
                                .bytes(self.vault.seal_binding(aor, binding)?);
                        }
                        beside = self.offers(aor, bindings);
                    }
                }
                Ok(Plan { before, main, beside })
            }
            _ => unreachable!("`plan` sends only operations on bindings here"),
        }
    }

    pub fn read_bindings(&self, aor: &AorKey) -> Call {
        self.tagged("read_bindings", self.keys().aor(aor))
    }

    /// The index of each capability names the address, whether the REGISTER is let in or not: it may name too many.
    fn offers(&self, aor: &AorKey, bindings: &[Binding]) -> Vec<Call> {
        let offering = bindings.iter().filter(|b| b.expires_at > 0 && b.capabilities.len() <= MAX_CAPABILITIES);
        let mut ends = std::collections::BTreeMap::new();
        for binding in offering {
            for hash in &binding.capabilities {
                let end = ends.entry(*hash).or_insert(0);
                *end = binding.expires_at.max(*end);
            }
        }
        let offer = |(hash, end): ([u8; 16], u64)| {
            let capability = CapabilityKey { tenant: aor.tenant, hash };
            let call = self.tagged("offer", self.keys().capability(&capability));
            call.text(hex(&aor.hash)).text(self.vault.clock.to_store(end))
        };
        ends.into_iter().map(offer).collect()
    }

    /// A page of the addresses that may offer a capability.
    pub fn offered(&self, capability: &CapabilityKey, skip: usize, limit: usize) -> Call {
        self.tagged("offered", self.keys().capability(capability)).text(skip).text(limit)
    }
}
