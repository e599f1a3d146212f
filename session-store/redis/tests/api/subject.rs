//! The store on running servers, as a subject of the contract. Servers are used again by the next case, emptied; their clocks only go
//! forward.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use session_store::Durability;
use session_store::op::{StoreError, StoreOp, StoreReply};
use session_store::seal::{SealKey, SealKeys, Sealer};
use session_store_redis::{EdgeClock, RedisConfig, RedisStore, Topology};
use store_contract::Subject;
use tokio::runtime::Runtime;

use super::server::{Clock, Program, Server, cluster};

/// All stores of this process run here.
pub static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
});

/// Keys of a test: `kid`, and one byte that makes the rest.
pub fn sealer(kid: u8) -> Arc<Sealer> {
    let key = SealKey::new(kid, [kid; 32].into());
    Arc::new(Sealer::new(SealKeys::new(vec![key]).expect("one key"), [9; 32].into()))
}

/// What servers a case runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Redis,
    /// AOF with `appendfsync always`, class `Fsync`.
    RedisFsync,
    /// WAITAOF, class `Fsync`.
    ValkeyFsync,
    Cluster,
}

struct Running {
    servers: Vec<Server>,
    store: RedisStore,
    /// How far the servers' clocks, and the edge's, are ahead of the real one.
    ahead_ms: Arc<AtomicU64>,
}

static FREE: Mutex<BTreeMap<Kind, Vec<Running>>> = Mutex::new(BTreeMap::new());

fn free() -> MutexGuard<'static, BTreeMap<Kind, Vec<Running>>> {
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn real_now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis()).expect("64 bits")
}

/// A clock that is `ahead_ms` of the real one.
pub fn clock(ahead_ms: &Arc<AtomicU64>) -> EdgeClock {
    let ahead = ahead_ms.clone();
    EdgeClock::new(move || real_now_ms() + ahead.load(Ordering::SeqCst))
}

/// Deadlines that a busy machine keeps: what is under test here is not time.
pub fn patient(topology: Topology) -> RedisConfig {
    let mut config = RedisConfig::new(topology, "t:");
    config.response_timeout = Duration::from_secs(30);
    config.heartbeat_timeout = Duration::from_secs(30);
    config.connect_timeout = Duration::from_secs(10);
    config.background_timeout = Duration::from_secs(60);
    config
}

impl Running {
    fn start(kind: Kind) -> Running {
        let aof = |fsync: &'static str| ["--appendonly", "yes", "--appendfsync", fsync];
        let servers = match kind {
            Kind::Redis => vec![Server::start_with_clock(Program::Redis, &[])],
            Kind::RedisFsync => vec![Server::start_with_clock(Program::Redis, &aof("always"))],
            Kind::ValkeyFsync => vec![Server::start_with_clock(Program::Valkey, &aof("everysec"))],
            Kind::Cluster => cluster(Clock::Set),
        };
        let address = servers[0].address();
        let topology = match kind {
            Kind::Cluster => Topology::Cluster { addresses: vec![address] },
            _ => Topology::Single { address },
        };
        let ahead_ms = Arc::new(AtomicU64::new(0));
        let mut config = patient(topology);
        config.clock = clock(&ahead_ms);
        let store = RUNTIME.block_on(RedisStore::connect(config, sealer(1))).expect("the store");
        if matches!(kind, Kind::RedisFsync | Kind::ValkeyFsync) {
            RUNTIME.block_on(store.check_durability(Durability::Fsync)).expect("the class can be given");
            store.set_durability(BTreeMap::from([(1, Durability::Fsync), (2, Durability::Fsync)]));
        }
        Running { servers, store, ahead_ms }
    }
}

/// One empty store.
pub struct Redis {
    kind: Kind,
    running: Option<Running>,
}

impl Redis {
    pub fn take(kind: Kind) -> Redis {
        let running = free().get_mut(&kind).and_then(Vec::pop);
        let running = running.unwrap_or_else(|| Running::start(kind));
        RUNTIME.block_on(running.store.settled());
        for server in &running.servers {
            redis::cmd("FLUSHALL").exec(&mut server.admin()).expect("FLUSHALL");
        }
        Redis { kind, running: Some(running) }
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("it is given back by drop only")
    }

    pub fn store(&self) -> &RedisStore {
        &self.running().store
    }

    pub fn servers(&self) -> &[Server] {
        &self.running().servers
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // After a failure nobody knows what it is in.
        if let Some(running) = self.running.take().filter(|_| !std::thread::panicking()) {
            free().entry(self.kind).or_default().push(running);
        }
    }
}

impl Subject for Redis {
    fn run(&mut self, operation: StoreOp) -> Result<StoreReply, StoreError> {
        let store = self.store();
        match operation {
            StoreOp::TakeEpoch { .. } | StoreOp::Heartbeat { .. } | StoreOp::Leave { .. } => {
                RUNTIME.block_on(store.execute_heartbeat(operation))
            }
            operation => RUNTIME.block_on(store.execute(operation)),
        }
    }

    fn now(&self) -> u64 {
        real_now_ms() + self.running().ahead_ms.load(Ordering::SeqCst)
    }

    fn pass(&mut self, ms: u64) {
        let running = self.running();
        RUNTIME.block_on(running.store.settled());
        let ahead = running.ahead_ms.fetch_add(ms, Ordering::SeqCst) + ms;
        for server in &running.servers {
            server.set_ahead(ahead);
        }
        // Until the servers have seen it.
        for server in &running.servers {
            let mut admin = server.admin();
            loop {
                let (seconds, micros): (u64, u64) = redis::cmd("TIME").query(&mut admin).expect("TIME");
                if (seconds * 1_000 + micros / 1_000).abs_diff(self.now()) < 1_000 {
                    break;
                }
            }
        }
    }

    fn left(&mut self) -> usize {
        self.servers().iter().map(Server::keys_with_an_end).sum()
    }
}
