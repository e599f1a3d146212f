//! The store of this process: in its memory, in a file, or shared with other edges.

mod latency;
#[cfg(debug_assertions)]
mod unjournalled;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use edge_core::input::StoreHealth;
use session_store::Durability;
use session_store::key::Tenant;
use session_store::memory::{Capacity, Counts, MemoryStore};
use session_store::op::{StoreError, StoreOp, StoreReply};
use session_store::seal::Sealer;
use session_store_file::{FileStore, StoreFile};
use session_store_redis::{BreakerState, Health, HealthWatch, Keeps, RedisConfig, RedisStore, StartError};
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;

use crate::clock::unix_millis;
use crate::metrics::Metrics;
use latency::Latency;
#[cfg(debug_assertions)]
use unjournalled::Unjournalled;

/// One handle for every store. The memory store answers at once; the others later, and never block a shard: the core knows no difference,
/// a reply is an input of its own.
#[derive(Clone, Debug)]
pub struct Store {
    backend: Backend,
    metrics: Arc<Metrics>,
    latency: Arc<Latency>,
}

#[derive(Clone, Debug)]
enum Backend {
    /// Shared by the shards behind one lock. An operation takes a few microseconds and never waits for anything inside it, so a shard that
    /// finds it taken waits no longer than the others' operations take. What is stored lives as long as the process.
    Memory(Arc<Mutex<MemoryStore>>),
    /// Answers on a thread of its own.
    File(FileStore),
    /// Answers over the network.
    Redis(Arc<Shared>),
}

/// A store that other edges use, too, by the way that leads there now.
#[derive(Debug)]
struct Shared {
    redis: ArcSwap<RedisStore>,
    health: watch::Sender<StoreState>,
    /// The task that tells `health`.
    follower: Mutex<AbortHandle>,
}

impl Shared {
    fn new(redis: RedisStore) -> Shared {
        let (health, _) = watch::channel(StoreState::default());
        let follower = Mutex::new(follow(redis.health(), health.clone()));
        Shared { redis: ArcSwap::from_pointee(redis), health, follower }
    }

    /// From now on by another way. What is under way goes on by the old one.
    fn replace(&self, redis: Arc<RedisStore>) {
        let follower = follow(redis.health(), self.health.clone());
        self.redis.store(redis);
        let mut known = self.follower.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *known, follower).abort();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.follower.get_mut().unwrap_or_else(PoisonError::into_inner).abort();
    }
}

/// What the store says.
pub type Reply = Result<StoreReply, StoreError>;

/// What became of an operation at once.
#[derive(Debug)]
pub enum AtOnce {
    Answered(Reply),
    /// Not run: it is for [`Store::execute`].
    Later(StoreOp),
}

/// After the first failure to reach the store; doubled up to the last one.
pub const RETRY: Duration = Duration::from_millis(250);
pub const LAST_RETRY: Duration = Duration::from_secs(5);

/// What a process knows of its store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreState {
    pub health: StoreHealth,
    /// How often another server took the place of the one before ([`Health::replaced`]).
    pub replaced: u64,
}

/// A store that is about to be used.
pub enum Opening {
    Memory,
    /// Locked and checked.
    File(Box<StoreFile>),
    Redis(Box<RedisConfig>),
}

/// A store that answers.
#[derive(Debug)]
pub struct Opened {
    pub store: Store,
    /// Whether it can be used, as it changes.
    pub health: watch::Receiver<StoreState>,
}

impl Store {
    fn new(backend: Backend, metrics: Arc<Metrics>) -> Store {
        Store { backend, metrics, latency: Arc::default() }
    }

    /// Opens the wanted store. One that is not there yet is waited for.
    ///
    /// # Errors
    /// One sentence: what is wrong with the configuration or with what answers; waiting would not help.
    pub async fn open(opening: Opening, sealer: Sealer, metrics: Arc<Metrics>) -> Result<Opened, String> {
        let (_, healthy) = watch::channel(StoreState::default());
        match opening {
            Opening::Memory => {
                let memory = Arc::new(Mutex::new(MemoryStore::new(Capacity::default())));
                Ok(Opened { store: Store::new(Backend::Memory(memory), metrics), health: healthy })
            }
            Opening::File(file) => {
                let file = FileStore::load(*file, Capacity::default(), Arc::new(sealer));
                let file = file.map_err(|error| error.to_string())?;
                Ok(Opened { store: Store::new(Backend::File(file), metrics), health: healthy })
            }
            Opening::Redis(config) => {
                let redis = connect(*config, Arc::new(sealer)).await.map_err(|error| error.to_string())?;
                let shared = Shared::new(redis);
                let health = shared.health.subscribe();
                Ok(Opened { store: Store::new(Backend::Redis(Arc::new(shared)), metrics), health })
            }
        }
    }

    /// Another way to a shared store, opened and looked at, for [`Store::replace`].
    ///
    /// # Errors
    /// One sentence: why it cannot be used, or not now.
    pub async fn by_another_way(&self, config: RedisConfig, sealer: Sealer) -> Result<Store, String> {
        let redis = RedisStore::connect(config, Arc::new(sealer)).await.map_err(|error| error.to_string())?;
        Ok(Store::new(Backend::Redis(Arc::new(Shared::new(redis))), self.metrics.clone()))
    }

    /// Everybody who has this handle uses the other store from now on. Only a shared store has another way.
    pub fn replace(&self, other: &Store) {
        if let (Backend::Redis(shared), Backend::Redis(other)) = (&self.backend, &other.backend) {
            shared.replace(other.redis.load_full());
        }
    }

    /// New keys for what is stored from now on, and for reading.
    pub fn set_sealer(&self, sealer: Sealer) {
        match &self.backend {
            // Nothing leaves the process.
            Backend::Memory(_) => drop(sealer),
            Backend::File(file) => file.set_sealer(Arc::new(sealer)),
            Backend::Redis(shared) => shared.redis.load().set_sealer(Arc::new(sealer)),
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
            Backend::Redis(shared) => {
                let redis = shared.redis.load_full();
                let higher: BTreeSet<Durability> =
                    classes.values().copied().filter(|class| *class != Durability::Memory).collect();
                for class in higher {
                    redis.check_durability(class).await.map_err(|error| error.to_string())?;
                }
                redis.set_durability(classes);
            }
        }
        Ok(())
    }

    /// What is left when the process that holds it all began again. `None`: a shared store does not say now.
    pub async fn keeps(&self) -> Option<Keeps> {
        match &self.backend {
            Backend::Memory(_) => Some(Keeps::Nothing),
            Backend::File(_) => Some(Keeps::EveryWrite),
            Backend::Redis(shared) => shared.redis.load_full().keeps().await.ok(),
        }
    }

    /// Why the store is not in use, where it is not.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        match &self.backend {
            Backend::Memory(_) => None,
            Backend::File(file) => file.problem(),
            Backend::Redis(shared) => shared.redis.load().health().current().reason,
        }
    }

    /// Runs an operation where the store answers at once.
    #[must_use]
    pub fn at_once(&self, operation: StoreOp) -> AtOnce {
        match &self.backend {
            Backend::Memory(memory) => AtOnce::Answered(self.in_memory(memory, operation)),
            Backend::File(_) | Backend::Redis(_) => AtOnce::Later(operation),
        }
    }

    /// Runs an operation.
    ///
    /// # Errors
    /// What the store says.
    pub async fn execute(&self, operation: StoreOp) -> Reply {
        let (name, start) = (operation_name(&operation), Instant::now());
        #[cfg(debug_assertions)]
        let (operation, opens) = match unjournalled::take(operation) {
            Unjournalled::Answered(reply) => return reply,
            Unjournalled::Run { operation, opens } => (operation, opens),
        };
        let reply = match &self.backend {
            Backend::Memory(memory) => return self.in_memory(memory, operation),
            Backend::File(file) => in_file(file, operation).await,
            Backend::Redis(shared) => shared.redis.load_full().execute(operation).await,
        };
        #[cfg(debug_assertions)]
        let reply = unjournalled::put_back(reply, opens);
        self.took(name, start, &reply);
        reply
    }

    /// Runs an operation of the lease, on a connection of its own with a deadline of its own.
    ///
    /// # Errors
    /// What the store says.
    pub async fn execute_heartbeat(&self, operation: StoreOp) -> Reply {
        let Backend::Redis(shared) = &self.backend else { return self.execute(operation).await };
        let (name, start) = (operation_name(&operation), Instant::now());
        let reply = shared.redis.load_full().execute_heartbeat(operation).await;
        self.took(name, start, &reply);
        reply
    }

    fn took(&self, name: &'static str, start: Instant, reply: &Reply) {
        let (now, took) = (Instant::now(), start.elapsed());
        // Who did not answer took no time.
        if !matches!(reply, Err(StoreError::Unavailable)) {
            self.latency.answered(now, took);
        }
        self.metrics.store_operation(name, took, reply.as_ref().err());
    }

    /// Microseconds until the store answers, at least 1: the median of the last 5 s. `None`: it never did, or is in this process.
    #[must_use]
    pub fn latency(&self) -> Option<u32> {
        self.latency.median(Instant::now())
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
            Backend::Redis(_) => None,
        }
    }

    /// Round trips that operations waited for, by operation; `None` where each is one.
    #[must_use]
    pub fn round_trips(&self) -> Option<Vec<(&'static str, u64)>> {
        match &self.backend {
            Backend::Memory(_) | Backend::File(_) => None,
            Backend::Redis(shared) => {
                Some(shared.redis.load().round_trips().iter().map(|row| (row.op, row.trips)).collect())
            }
        }
    }

    /// `memory`, `file` or `redis`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match &self.backend {
            Backend::Memory(_) => "memory",
            Backend::File(_) => "file",
            Backend::Redis(_) => "redis",
        }
    }
}

/// Connects. A store that does not answer, or whose primary is being chosen, is waited for.
async fn connect(config: RedisConfig, sealer: Arc<Sealer>) -> Result<RedisStore, StartError> {
    let mut pause = RETRY;
    loop {
        match RedisStore::connect(config.clone(), sealer.clone()).await {
            Ok(redis) => return Ok(redis),
            Err(
                error @ (StartError::Unreachable { .. } | StartError::NoMaster { .. } | StartError::Replica { .. }),
            ) => {
                tracing::warn!("{error}; it is tried again, and nothing is served before it answers");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LAST_RETRY);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Tells the breaker as the cores know it, as it is now and whenever it changes.
fn follow(mut health: HealthWatch, sender: watch::Sender<StoreState>) -> AbortHandle {
    let state = |health: &Health| match health.state {
        BreakerState::Closed => StoreHealth::Closed,
        BreakerState::Open => StoreHealth::Open,
        BreakerState::Recovering { percent } => StoreHealth::Recovering { percent },
    };
    // By another way the count begins anew; what was told is told.
    let before = sender.borrow().replaced;
    let tell = move |sender: &watch::Sender<StoreState>, now: &Health| {
        let now = StoreState { health: state(now), replaced: before + now.replaced };
        let mut moved = false;
        sender.send_if_modified(|known| {
            let known = std::mem::replace(known, now);
            moved = known.health != now.health;
            known != now
        });
        moved
    };
    tell(&sender, &health.current());
    let follower = tokio::spawn(async move {
        loop {
            let now = health.changed().await;
            match (tell(&sender, &now), now.state) {
                (false, _) => {}
                (true, BreakerState::Closed) => tracing::info!("the store is used again"),
                (true, BreakerState::Recovering { percent }) => {
                    tracing::info!(percent, "the store answers; new work is let in step by step");
                }
                (true, BreakerState::Open) => {
                    let reason = now.reason.unwrap_or_default();
                    tracing::error!(
                        reason,
                        "the store is not used: what stands is served from this edge, new work is refused"
                    );
                }
            }
        }
    });
    follower.abort_handle()
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
