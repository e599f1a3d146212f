//! The embedded store of this process.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use session_store::memory::{Capacity, Counts, MemoryStore};
use session_store::op::{StoreError, StoreOp, StoreReply};

use crate::clock::unix_millis;
use crate::metrics::Metrics;

/// The memory store, shared by the shards behind one lock.
///
/// An operation takes a few microseconds and never waits for anything inside the lock, so a shard that finds it taken waits no longer
/// than the others' operations take. What is stored lives as long as the process. A store outside of the process answers later and
/// never blocks a shard: the core knows no difference, the reply is an input of its own.
#[derive(Clone, Debug)]
pub struct Store {
    memory: Arc<Mutex<MemoryStore>>,
    metrics: Arc<Metrics>,
}

impl Store {
    #[must_use]
    pub fn new(capacity: Capacity, metrics: Arc<Metrics>) -> Self {
        Store { memory: Arc::new(Mutex::new(MemoryStore::new(capacity))), metrics }
    }

    /// Runs one operation.
    ///
    /// # Errors
    /// What the store says.
    pub fn execute(&self, operation: StoreOp) -> Result<StoreReply, StoreError> {
        let name = operation_name(&operation);
        let start = Instant::now();
        // A panic inside an operation is a bug that ends that shard; the others see the state before or after a whole map change.
        let reply = self.memory.lock().unwrap_or_else(PoisonError::into_inner).execute(unix_millis(), operation);
        self.metrics.store_operation(name, start.elapsed());
        reply
    }

    /// How many entries there are.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).counts()
    }
}

/// The operation's name as the metric's label writes it.
fn operation_name(operation: &StoreOp) -> &'static str {
    match operation {
        StoreOp::UseNonce(_) => "use_nonce",
        StoreOp::Register { .. } => "register",
        StoreOp::ReadBindings { .. } => "read_bindings",
        StoreOp::OpenCall { .. } => "open_call",
        StoreOp::AnswerCall { .. } => "answer_call",
        StoreOp::RejectCall { .. } => "reject_call",
        StoreOp::CancelCall { .. } => "cancel_call",
        StoreOp::ReadDialog { .. } => "read_dialog",
        StoreOp::Confirm { .. } => "confirm",
        StoreOp::Begin { .. } => "begin",
        StoreOp::Commit { .. } => "commit",
        StoreOp::UpdateDialog { .. } => "update_dialog",
        StoreOp::Terminate { .. } => "terminate",
        StoreOp::NextCseq { .. } => "next_cseq",
        StoreOp::Bury { .. } => "bury",
        StoreOp::OpenExchange { .. } => "open_exchange",
        StoreOp::CloseExchange(_) => "close_exchange",
        StoreOp::Once { .. } => "once",
        StoreOp::ReadSession { .. } => "read_session",
        StoreOp::WriteSession { .. } => "write_session",
        StoreOp::DropSession { .. } => "drop_session",
        StoreOp::PlaceLegs { .. } => "place_legs",
        StoreOp::EarlyCall { .. } => "early_call",
        StoreOp::RestoreDialog { .. } => "restore_dialog",
        StoreOp::NoteExchange { .. } => "note_exchange",
        StoreOp::TakeEpoch { .. } => "take_epoch",
        StoreOp::Heartbeat { .. } => "heartbeat",
        StoreOp::Leave { .. } => "leave",
        StoreOp::Adopt { .. } => "adopt",
        StoreOp::TenantNumber { .. } => "tenant_number",
        StoreOp::FindCapability { .. } => "find_capability",
        StoreOp::Export { .. } => "export",
        StoreOp::Erase { .. } => "erase",
    }
}
