//! The embedded backend and the reference model: one map per kind, one method per operation.

mod calls;
mod dialogs;
mod exchanges;
mod expiry;
mod registrations;

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use crate::key::{AorKey, DialogKey, ExchangeKey, GuardKey, NonceKey, SessionKey};
use crate::op::{NonceUse, StoreError, StoreOp, StoreReply};
use crate::record::{Binding, DialogRecord, JournalEntry, Owner, SessionRecord};

/// Most entries per kind, so that a flood ends in `Full` and not in the out-of-memory killer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    pub bindings: usize,
    pub calls: usize,
    pub exchanges: usize,
    pub sessions: usize,
    pub nonces: usize,
}

impl Default for Capacity {
    fn default() -> Self {
        Capacity { bindings: 1_000_000, calls: 500_000, exchanges: 1_000_000, sessions: 500_000, nonces: 1_000_000 }
    }
}

#[derive(Clone, Debug)]
struct NonceState {
    count: u32,
    request: [u8; 16],
    expires_at: u64,
}

#[derive(Clone, Debug)]
enum GuardState {
    Pending,
    Cancelled,
    Rejected(Bytes),
    Accepted,
}

#[derive(Clone, Debug)]
struct Guard {
    dialog: DialogKey,
    invite: Bytes,
    owner: Owner,
    lease_until: u64,
    state: GuardState,
    expires_at: u64,
}

#[derive(Clone, Debug)]
struct StoredDialog {
    version: u64,
    record: DialogRecord,
    /// In-dialog requests of the last 32 s: CSeq → response once there is one, and the end of the entry.
    requests: BTreeMap<u32, (Option<Bytes>, u64)>,
    expires_at: u64,
    ttl_ms: u64,
}

#[derive(Clone, Debug)]
struct StoredExchange {
    entry: JournalEntry,
    /// `None` while in flight; the inner one is the answer, where it is kept.
    answer: Option<Option<Bytes>>,
    expires_at: u64,
}

#[derive(Clone, Debug)]
struct StoredSession {
    version: u64,
    record: SessionRecord,
    expires_at: u64,
}

/// The store of one process.
#[derive(Debug, Default)]
pub struct MemoryStore {
    capacity: Capacity,
    bindings: HashMap<AorKey, Vec<Binding>>,
    guards: HashMap<GuardKey, Guard>,
    dialogs: HashMap<DialogKey, StoredDialog>,
    sessions: HashMap<SessionKey, StoredSession>,
    /// Ordered, so that a session's entries lie together.
    exchanges: BTreeMap<ExchangeKey, StoredExchange>,
    once: HashMap<ExchangeKey, u64>,
    nonces: HashMap<NonceKey, NonceState>,
    expiry: expiry::Expiry,
}

/// How many entries there are, per kind: for metrics and leak tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub aors: usize,
    pub guards: usize,
    pub dialogs: usize,
    pub sessions: usize,
    pub exchanges: usize,
    pub once: usize,
    pub nonces: usize,
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
            StoreOp::OpenCall { guard, dialog, invite, owner, lease_ms, nonce } => {
                self.with_nonce(now_ms, nonce, |store| store.open_call(now_ms, guard, dialog, invite, owner, lease_ms))
            }
            StoreOp::AnswerCall { guard, owner, dialog, record, ttl_ms, .. } => {
                self.answer_call(now_ms, guard, owner, dialog, *record, ttl_ms)
            }
            StoreOp::RejectCall { guard, owner, response } => Ok(self.reject_call(now_ms, guard, owner, response)),
            StoreOp::CancelCall { guard } => Ok(self.cancel_call(now_ms, guard)),
            StoreOp::ReadDialog { dialog } => Ok(self.read_dialog(now_ms, dialog)),
            StoreOp::Confirm { dialog } => Ok(self.confirm(now_ms, dialog)),
            StoreOp::Begin { dialog, by, cseq, method, nonce, exchange, flow: _ } => {
                self.with_nonce(now_ms, nonce, |store| {
                    store.begin(now_ms, dialog, &by, cseq, &method, exchange.map(|e| *e))
                })
            }
            StoreOp::Commit { dialog, cseq, response, record } => {
                Ok(self.commit(now_ms, dialog, cseq, response, record))
            }
            StoreOp::Terminate { dialog, by, cseq, response, nonce } => {
                self.with_nonce(now_ms, nonce, |store| Ok(store.terminate(now_ms, dialog, &by, cseq, response)))
            }
            StoreOp::NextCseq { dialog, terminating, close, fence: _ } => {
                Ok(self.next_cseq(now_ms, dialog, terminating, close.map(|c| *c)))
            }
            StoreOp::UpdateDialog { dialog, version, record, ttl_ms } => {
                Ok(self.update_dialog(now_ms, dialog, version, *record, ttl_ms))
            }
            StoreOp::Bury { dialog } => Ok(self.bury(now_ms, dialog)),
            StoreOp::OpenExchange { open, nonce } => {
                self.with_nonce(now_ms, nonce, |store| store.open_exchange(now_ms, *open).map(StoreReply::Exchange))
            }
            StoreOp::CloseExchange(close) => Ok(self.close_exchange(now_ms, close)),
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
            _ => Err(StoreError::Unavailable),
        }
    }

    /// How many entries there are.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            aors: self.bindings.len(),
            guards: self.guards.len(),
            dialogs: self.dialogs.len(),
            sessions: self.sessions.len(),
            exchanges: self.exchanges.len(),
            once: self.once.len(),
            nonces: self.nonces.len(),
            ends: self.expiry.len(),
        }
    }

    /// Checks and counts the nonce, then runs the operation; a replay changes nothing.
    fn with_nonce(
        &mut self,
        now_ms: u64,
        nonce: Option<NonceUse>,
        then: impl FnOnce(&mut Self) -> Result<StoreReply, StoreError>,
    ) -> Result<StoreReply, StoreError> {
        if let Some(nonce) = nonce {
            match self.nonces.get(&nonce.key) {
                Some(seen) if seen.expires_at > now_ms => {
                    let again = nonce.count == seen.count && nonce.request == seen.request;
                    if nonce.count <= seen.count && !again {
                        return Ok(StoreReply::NonceReplayed);
                    }
                }
                _ if self.nonces.len() >= self.capacity.nonces => return Err(StoreError::Full { what: "nonces" }),
                _ => {}
            }
            let expires_at = now_ms.saturating_add(nonce.ttl_ms);
            self.expiry.add(expires_at, expiry::Name::Nonce(nonce.key));
            self.nonces.insert(nonce.key, NonceState { count: nonce.count, request: nonce.request, expires_at });
        }
        then(self)
    }
}
