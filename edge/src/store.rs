//! The store of this process: in its memory, in a file, or shared with other edges.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use edge_core::input::StoreHealth;
use session_store::Durability;
use session_store::key::Tenant;
use session_store::memory::{Capacity, Counts, MemoryStore};
use session_store::op::{StoreError, StoreOp, StoreReply};
use session_store::seal::Sealer;
use session_store_file::{FileStore, StoreFile};
use tokio::sync::{oneshot, watch};

use crate::clock::unix_millis;
use crate::metrics::Metrics;

/// One handle for every store. The memory store answers at once; the others later, and never block a shard: the core knows no difference,
/// a reply is an input of its own.
#[derive(Clone, Debug)]
pub struct Store {
    backend: Backend,
    metrics: Arc<Metrics>,
}

#[derive(Clone, Debug)]
enum Backend {
    /// Shared by the shards behind one lock. An operation takes a few microseconds and never waits for anything inside it, so a shard that
    /// finds it taken waits no longer than the others' operations take. What is stored lives as long as the process.
    Memory(Arc<Mutex<MemoryStore>>),
    /// Answers on a thread of its own.
    File(FileStore),
}

/// What the store says.
pub type Reply = Result<StoreReply, StoreError>;

/// After the first failure to reach the store; doubled up to the last one.
pub const RETRY: Duration = Duration::from_millis(250);
pub const LAST_RETRY: Duration = Duration::from_secs(5);

/// A store that is about to be used.
pub enum Opening {
    Memory,
    /// Locked and checked.
    File(Box<StoreFile>),
}

/// A store that answers.
#[derive(Debug)]
pub struct Opened {
    pub store: Store,
    /// Whether it can be used, as it changes.
    pub health: watch::Receiver<StoreHealth>,
}

impl Store {
    /// Opens the wanted store. One that is not there yet is waited for.
    ///
    /// # Errors
    /// One sentence: what is wrong with the configuration or with what answers; waiting would not help.
    pub async fn open(opening: Opening, sealer: Sealer, metrics: Arc<Metrics>) -> Result<Opened, String> {
        let (_, healthy) = watch::channel(StoreHealth::Closed);
        match opening {
            Opening::Memory => {
                let memory = Arc::new(Mutex::new(MemoryStore::new(Capacity::default())));
                Ok(Opened { store: Store { backend: Backend::Memory(memory), metrics }, health: healthy })
            }
            Opening::File(file) => {
                let file = FileStore::load(*file, Capacity::default(), Arc::new(sealer));
                let file = file.map_err(|error| error.to_string())?;
                Ok(Opened { store: Store { backend: Backend::File(file), metrics }, health: healthy })
            }
        }
    }

    /// New keys for what is stored from now on, and for reading.
    pub fn set_sealer(&self, sealer: Sealer) {
        match &self.backend {
            // Nothing leaves the process.
            Backend::Memory(_) => drop(sealer),
            Backend::File(file) => file.set_sealer(Arc::new(sealer)),
        }
    }

    /// What the answers to each tenant wait for.
    ///
    /// # Errors
    /// One sentence: a class that the store cannot give.
    pub async fn set_durability(&self, classes: BTreeMap<Tenant, Durability>) -> Result<(), String> {
        match &self.backend {
            // The reader of the manifests refuses more.
            Backend::Memory(_) => drop(classes),
            Backend::File(file) => {
                let refused = file.set_durability(classes);
                refused.map_err(|_| "a store in a file has no replica; choose Memory or Fsync".to_owned())?;
            }
        }
        Ok(())
    }

    /// Why the store is not in use, where it is not.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        match &self.backend {
            Backend::Memory(_) => None,
            Backend::File(file) => file.problem(),
        }
    }

    /// Runs an operation where the store answers at once.
    ///
    /// # Errors
    /// The operation back, for [`Store::execute`], where it does not.
    pub fn at_once(&self, operation: StoreOp) -> Result<Reply, StoreOp> {
        match &self.backend {
            Backend::Memory(memory) => Ok(self.in_memory(memory, operation)),
            Backend::File(_) => Err(operation),
        }
    }

    /// Runs an operation.
    ///
    /// # Errors
    /// What the store says.
    pub async fn execute(&self, operation: StoreOp) -> Reply {
        let (name, start) = (operation_name(&operation), Instant::now());
        let reply = match &self.backend {
            Backend::Memory(memory) => return self.in_memory(memory, operation),
            Backend::File(file) => in_file(file, operation).await,
        };
        self.metrics.store_operation(name, start.elapsed(), reply.as_ref().err());
        reply
    }

    /// Runs an operation of the lease, on a connection of its own with a deadline of its own.
    ///
    /// # Errors
    /// What the store says.
    pub async fn execute_heartbeat(&self, operation: StoreOp) -> Reply {
        self.execute(operation).await
    }

    fn in_memory(&self, memory: &Mutex<MemoryStore>, operation: StoreOp) -> Reply {
        let (name, start) = (operation_name(&operation), Instant::now());
        // A panic inside an operation is a bug that ends that shard; the others see the state before or after a whole map change.
        let reply = memory.lock().unwrap_or_else(PoisonError::into_inner).execute(unix_millis(), operation);
        self.metrics.store_operation(name, start.elapsed(), reply.as_ref().err());
        reply
    }

    /// How many entries there are; `None` where counting would cost more than it tells.
    pub async fn counts(&self) -> Option<Counts> {
        match &self.backend {
            Backend::Memory(memory) => Some(memory.lock().unwrap_or_else(PoisonError::into_inner).counts()),
            Backend::File(file) => {
                let (told, counts) = oneshot::channel();
                // Whoever asked may have given up.
                file.counts(Box::new(move |counts| {
                    let _ = told.send(counts);
                }));
                counts.await.ok()
            }
        }
    }

    /// `memory`, `file` or `redis`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match &self.backend {
            Backend::Memory(_) => "memory",
            Backend::File(_) => "file",
        }
    }
}

async fn in_file(file: &FileStore, operation: StoreOp) -> Reply {
    let (told, reply) = oneshot::channel();
    file.submit(operation, Box::new(move |reply| drop(told.send(reply))));
    // Its thread ended, with whatever it had.
    reply.await.unwrap_or(Err(StoreError::Unavailable))
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
