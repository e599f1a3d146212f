//! The embedded backend and the reference model: one map per kind, one method per operation.

mod calls;
mod capabilities;
mod conversations;
mod dialogs;
mod edges;
mod entries;
mod exchanges;
mod expiry;
mod kept;
mod nonces;
mod owned;
mod persist;
mod registrations;
mod sessions;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::key::{
    AorKey, CapabilityKey, ConversationKey, DialogKey, ExchangeKey, GuardKey, NonceKey, SessionKey, Slot, Tenant,
};
use crate::name::EntryName;
use crate::op::{StoreError, StoreOp, StoreReply, claim_ms};
use crate::record::Binding;
use entries::{Edge, Guard, Nonce, Removed, StoredDialog, StoredExchange, StoredSession};
use kept::{Kept, KeptExchange};

/// Most entries per kind, so that a flood ends in `Full` and not in the out-of-memory killer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    pub bindings: usize,
    /// Capabilities of all bindings together.
    pub capabilities: usize,
    pub calls: usize,
    pub exchanges: usize,
    pub sessions: usize,
    pub nonces: usize,
    pub edges: usize,
    /// Legs of conversations that are kept for their retention.
    pub kept: usize,
}

impl Default for Capacity {
    fn default() -> Self {
        Capacity {
            bindings: 1_000_000,
            capabilities: 4_000_000,
            calls: 500_000,
            exchanges: 1_000_000,
            sessions: 500_000,
            nonces: 1_000_000,
            edges: 10_000,
            kept: 1_000_000,
        }
    }
}

/// The store of one process. A clone is what a replica has of it at that moment.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    capacity: Capacity,
    bindings: HashMap<AorKey, Vec<Binding>>,
    removed: HashMap<AorKey, Vec<Removed>>,
    guards: HashMap<GuardKey, Guard>,
    dialogs: HashMap<DialogKey, StoredDialog>,
    sessions: HashMap<SessionKey, StoredSession>,
    /// Ordered, so that a session's entries lie together.
    exchanges: BTreeMap<ExchangeKey, StoredExchange>,
    once: HashMap<ExchangeKey, u64>,
    nonces: HashMap<NonceKey, Nonce>,
    kept: HashMap<DialogKey, Kept>,
    /// By the number that each has in its leg. At most [`crate::op::MAX_KEPT_EXCHANGES`] for each.
    kept_exchanges: BTreeMap<(DialogKey, u64), KeptExchange>,
    /// Ordered: it is listed.
    edges: BTreeMap<u64, Edge>,
    /// Has no end: a number is never given twice. At most as many as there are numbers.
    domains: BTreeMap<[u8; 16], Tenant>,
    last_tenant: Tenant,
    generation: Option<[u8; 16]>,

    /// What follows is found again from the entries above.
    owned: BTreeMap<(Slot, u64), BTreeSet<EntryName>>,
    capable: BTreeMap<CapabilityKey, BTreeSet<AorKey>>,
    /// Pairs in `capable`.
    capable_pairs: usize,
    conversations: HashMap<ConversationKey, BTreeSet<DialogKey>>,
    kept_of: HashMap<ConversationKey, BTreeSet<DialogKey>>,
    expiry: expiry::Expiry,
    /// Names that changed since they were taken; `None` where nobody asks.
    dirty: Option<BTreeSet<EntryName>>,
}

/// How many entries there are, per kind: for metrics and leak tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub aors: usize,
    /// Addresses whose removed bindings are remembered.
    pub removed: usize,
    pub guards: usize,
    pub dialogs: usize,
    pub sessions: usize,
    pub exchanges: usize,
    pub once: usize,
    pub nonces: usize,
    pub edges: usize,
    /// Tenant numbers. They have no end.
    pub domains: usize,
    /// What some edge owns.
    pub owned: usize,
    /// Capabilities, each with each address that offers it.
    pub capabilities: usize,
    pub conversations: usize,
    /// Legs of conversations that are kept for their retention.
    pub kept: usize,
    /// Their exchanges.
    pub kept_exchanges: usize,
    /// Names that wait for their end.
    pub ends: usize,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new(capacity: Capacity) -> Self {
        MemoryStore { capacity, ..Self::default() }
    }

    /// Executes one operation at `now_ms` (wall-clock milliseconds of the store).
    ///
    /// # Errors
    /// `Full` when a limit of [`Capacity`] is reached.
    pub fn execute(&mut self, now_ms: u64, operation: StoreOp) -> Result<StoreReply, StoreError> {
        self.sweep(now_ms);
        match operation {
            StoreOp::UseNonce(nonce) => self.with_nonce(now_ms, Some(nonce), |_| Ok(StoreReply::Done)),
            StoreOp::Register { aor, change, nonce } => {
                self.with_nonce(now_ms, nonce, |store| store.register(now_ms, aor, change))
            }
            StoreOp::ReadBindings { aor } => Ok(StoreReply::Bindings(self.live_bindings(now_ms, aor))),
            StoreOp::FindCapability { capability, limit } => {
                Ok(StoreReply::Bindings(self.find_capability(now_ms, capability, limit)))
            }

            StoreOp::OpenCall { guard, dialog, invite, owner, lease_ms, nonce } => {
                self.with_nonce(now_ms, nonce, |store| store.open_call(now_ms, guard, dialog, invite, owner, lease_ms))
            }
            StoreOp::PlaceLegs { guard, owner, legs } => self.place_legs(now_ms, guard, owner, legs),
            StoreOp::EarlyCall { guard, owner, dialog, record, ttl_ms } => {
                self.early_call(now_ms, guard, owner, dialog, *record, ttl_ms)
            }
            StoreOp::AnswerCall { guard, owner, dialog, record, ttl_ms, peer, conversation } => {
                let mut legs = vec![(dialog, *record)];
                legs.extend(peer.map(|peer| *peer));
                self.answer_call(now_ms, guard, owner, legs, ttl_ms, conversation)
            }
            StoreOp::RejectCall { guard, owner, response } => Ok(self.reject_call(now_ms, guard, owner, response)),
            StoreOp::CancelCall { guard } => Ok(self.cancel_call(now_ms, guard)),

            StoreOp::ReadDialog { dialog } => Ok(self.read_dialog(now_ms, dialog)),
            StoreOp::Confirm { dialog } => Ok(self.confirm(now_ms, dialog)),
            StoreOp::Begin { dialog, by, flow, cseq, method, nonce, exchange } => {
                self.with_nonce(now_ms, nonce, |store| {
                    let request =
                        dialogs::InDialog { by, flow, cseq, is_bye: method == "BYE", claim_ms: claim_ms(&method) };
                    store.begin(now_ms, dialog, request, exchange.map(|e| *e))
                })
            }
            StoreOp::Commit { dialog, cseq, response, record } => {
                Ok(self.commit(now_ms, dialog, cseq, response, record))
            }
            StoreOp::Terminate { dialog, by, cseq, response, nonce } => {
                self.with_nonce(now_ms, nonce, |store| Ok(store.terminate(now_ms, dialog, &by, cseq, response)))
            }
            StoreOp::NextCseq { dialog, terminating, close, fence } => {
                Ok(self.next_cseq(now_ms, dialog, terminating, close.map(|c| *c), fence))
            }
            StoreOp::UpdateDialog { dialog, version, record, ttl_ms } => {
                Ok(self.update_dialog(now_ms, dialog, version, *record, ttl_ms))
            }
            StoreOp::Bury { dialog } => Ok(self.bury(now_ms, dialog)),
            StoreOp::RestoreDialog { dialog, record, ttl_ms, conversation } => {
                self.restore_dialog(now_ms, dialog, *record, ttl_ms, conversation)
            }

            StoreOp::OpenExchange { open, nonce } => {
                self.with_nonce(now_ms, nonce, |store| store.open_exchange(now_ms, *open).map(StoreReply::Exchange))
            }
            StoreOp::CloseExchange(close) => Ok(self.close_exchange(now_ms, close)),
            StoreOp::NoteExchange { key, owner, note } => Ok(self.note_exchange(now_ms, key, owner, note)),
            StoreOp::Once { key, ttl_ms, nonce } => {
                self.with_nonce(now_ms, nonce, |store| store.once(now_ms, key, ttl_ms))
            }
            StoreOp::ReadSession { session, ttl_ms } => Ok(self.read_session(now_ms, session, ttl_ms)),
            StoreOp::WriteSession { session, version, record, ttl_ms } => {
                self.write_session(now_ms, session, version, *record, ttl_ms)
            }
            StoreOp::DropSession { session, if_ends_within_ms } => {
                Ok(self.drop_session(now_ms, session, if_ends_within_ms))
            }

            StoreOp::TakeEpoch { pod, boot, last_epoch, address, lease_ms, generation } => {
                let life = edges::Life { pod, boot, last_epoch, address, lease_ms };
                self.take_epoch(now_ms, life, generation)
            }
            StoreOp::Heartbeat { owner, address, lease_ms, draining } => {
                Ok(self.heartbeat(now_ms, owner, address, lease_ms, draining))
            }
            StoreOp::Leave { owner } => Ok(self.leave(now_ms, owner)),
            StoreOp::Adopt { slot, from, by, limit, lease_ms } => {
                Ok(self.adopt(now_ms, slot, from, by, limit, lease_ms))
            }
            StoreOp::TenantNumber { domain } => self.tenant_number(domain),
            StoreOp::Export { conversation } => Ok(StoreReply::Exported(self.export(now_ms, conversation))),
            StoreOp::Erase { conversation } => Ok(StoreReply::Erased(self.erase(now_ms, conversation))),
        }
    }

    /// How many entries there are.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            aors: self.bindings.len(),
            removed: self.removed.len(),
            guards: self.guards.len(),
            dialogs: self.dialogs.len(),
            sessions: self.sessions.len(),
            exchanges: self.exchanges.len(),
            once: self.once.len(),
            nonces: self.nonces.len(),
            edges: self.edges.len(),
            domains: self.domains.len(),
            owned: self.owned.values().map(BTreeSet::len).sum(),
            capabilities: self.capable_pairs,
            conversations: self.conversations.len(),
            kept: self.kept.len(),
            kept_exchanges: self.kept_exchanges.len(),
            ends: self.expiry.len(),
        }
    }

    /// An entry changed, or went.
    fn changed(&mut self, name: EntryName) {
        if let Some(dirty) = &mut self.dirty {
            dirty.insert(name);
        }
    }

    /// An entry changed, and this is when it ends.
    fn ends(&mut self, name: EntryName, at: u64) {
        self.expiry.add(at, name);
        self.changed(name);
    }
}
