//! The store.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, RwLock};
use std::time::Instant;

use redis::Value;
use session_store::Durability;
use session_store::key::{AorKey, CapabilityKey, ConversationKey, DialogKey, ExchangeKey, Tenant};
use session_store::op::{Exported, StoreError, StoreOp, StoreReply};
use session_store::seal::Sealer;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use crate::clock::StoreClock;
use crate::commit::Keeps;
use crate::config::{RedisConfig, Topology};
use crate::decode::{Decoder, Row};
use crate::encode::{self, Call, Encoder};
use crate::error::StartError;
use crate::failure::Failure;
use crate::health::{Health, HealthWatch};
use crate::node::{Common, Node};
use crate::topology::{self, Map};
use crate::trips::{OpTrips, Trips, op_name};
use crate::vault::Vault;
use crate::{keeper, names};

/// So often a call follows a slot that moved.
const REDIRECTS: usize = 3;
/// Addresses of an index that are read at once.
const PAGE: usize = 64;

/// Whose time an operation takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    /// Somebody's call waits.
    Call,
    /// Nobody's.
    Background,
}

/// A store on Redis or Valkey. Clones share connections.
#[derive(Clone)]
pub struct RedisStore(Arc<Inner>);

struct Inner {
    common: Arc<Common>,
    map: Arc<RwLock<Arc<Map>>>,
    sealer: RwLock<Arc<Sealer>>,
    durability: RwLock<BTreeMap<Tenant, Durability>>,
    trips: Trips,
    health: watch::Receiver<Health>,
    /// Calls under way that nobody waits for.
    unattended: watch::Sender<usize>,
    keeper: AbortHandle,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl std::fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisStore").field("config", &self.0.common.config).finish_non_exhaustive()
    }
}

impl RedisStore {
    /// Finds the primaries and looks at each: greeting, password, version, eviction policy, function library (loaded where it is
    /// missing). Needs a tokio runtime: connections are kept by tasks of its own, which end with the last clone.
    ///
    /// # Errors
    /// The first reason why the store cannot be used, in bounded time.
    pub async fn connect(config: RedisConfig, sealer: Arc<Sealer>) -> Result<RedisStore, StartError> {
        config.check()?;
        let clock = StoreClock::new(config.clock.clone());
        let common = Arc::new(Common {
            config,
            clock,
            news: Notify::new(),
            stale: AtomicBool::new(false),
            replaced: AtomicU64::new(0),
        });
        let map = topology::first(&common).await?;
        let shards = map.nodes.iter().map(|node| node.health()).collect();
        let (seen, health) = watch::channel(Health::of(shards, 0));
        let map = Arc::new(RwLock::new(Arc::new(map)));
        let keeper = tokio::spawn(keeper::keep(common.clone(), Arc::downgrade(&map), seen)).abort_handle();
        Ok(RedisStore(Arc::new(Inner {
            common,
            map,
            sealer: RwLock::new(sealer),
            durability: RwLock::new(BTreeMap::new()),
            trips: Trips::new(),
            health,
            unattended: watch::Sender::new(0),
            keeper,
        })))
    }

    /// Other keys from now on.
    pub fn set_sealer(&self, sealer: Arc<Sealer>) {
        if let Ok(mut held) = self.0.sealer.write() {
            *held = sealer;
        }
    }

    /// What an acknowledgement means, per tenant; who is not named has class `Memory`. Check the classes first
    /// ([`RedisStore::check_durability`]).
    pub fn set_durability(&self, classes: BTreeMap<Tenant, Durability>) {
        if let Ok(mut held) = self.0.durability.write() {
            *held = classes;
        }
    }

    /// Whether every primary can give the class.
    ///
    /// # Errors
    /// `Durability` with what is missing, or whatever keeps the server from saying.
    pub async fn check_durability(&self, class: Durability) -> Result<(), StartError> {
        let limit = self.0.common.config.connect_timeout * 2;
        for node in &self.map().nodes {
            node.gives(class, limit).await?;
        }
        Ok(())
    }

    /// What every primary keeps when its process ends, as their settings say now.
    ///
    /// # Errors
    /// Whatever keeps one of them from saying.
    pub async fn keeps(&self) -> Result<Keeps, StartError> {
        let limit = self.0.common.config.connect_timeout * 2;
        let mut least = Keeps::EveryWrite;
        for node in &self.map().nodes {
            least = least.min(node.keeps(limit).await?);
        }
        Ok(least)
    }

    /// State of the circuit breakers.
    #[must_use]
    pub fn health(&self) -> HealthWatch {
        HealthWatch(self.0.health.clone())
    }

    /// Synchronous round trips since the start, per operation.
    #[must_use]
    pub fn round_trips(&self) -> Vec<OpTrips> {
        self.0.trips.rows()
    }

    /// Executes one operation within the response timeout.
    ///
    /// `Adopt`, `RestoreDialog`, `Export` and `Erase` are nobody's call: they wait for one of few turns per server
    /// ([`RedisConfig::background_in_flight`]), have a longer deadline ([`RedisConfig::background_timeout`]; `Export` and `Erase` for each
    /// part), go through connections of their own, and open no circuit where they are late. While one is open they are not sent.
    ///
    /// # Errors
    /// `Unavailable`: not reachable, not in time, the circuit is open, or not as durable as the tenant's class asks; whether it was
    /// executed is not known. `Full`: the server's memory. `Unreadable`: what is stored cannot be read.
    pub async fn execute(&self, op: StoreOp) -> Result<StoreReply, StoreError> {
        let lane = if encode::is_background(&op) { Lane::Background } else { Lane::Call };
        let deadline = self.deadline(lane);
        let mut trips = 0;
        let result = match &op {
            StoreOp::FindCapability { capability, limit } => {
                self.find_capability(capability, *limit, deadline, &mut trips).await
            }
            StoreOp::Export { conversation } => self.export(conversation, &mut trips).await,
            StoreOp::Erase { conversation } => self.erase(conversation, &mut trips).await,
            op => self.run(op, lane, deadline, &mut trips).await,
        };
        self.0.trips.count(op_name(&op), trips);
        result
    }

    /// Executes an operation of the edge's lease on a connection of its own, with a longer deadline (1.4 s) and whatever the breaker
    /// says: a slow store does not fence every edge.
    ///
    /// # Errors
    /// As [`RedisStore::execute`].
    pub async fn execute_heartbeat(&self, op: StoreOp) -> Result<StoreReply, StoreError> {
        let deadline = Instant::now() + self.0.common.config.heartbeat_timeout;
        let call = self.encoder().plan(&op)?.main;
        let command = call.command(Durability::Memory);
        let mut last = Failure::NotSent;
        for _ in 0..REDIRECTS {
            let Some(node) = self.map().node(call.routed_by()).cloned() else { break };
            self.0.trips.count(op_name(&op), 1);
            let loads = node.loads();
            last = match node.call_heartbeat(&command, deadline).await {
                Ok(value) => return self.decoder().reply(&op, value),
                Err(Failure::NoFunction) => match node.load_library(loads, deadline).await {
                    Ok(()) => continue,
                    Err(failure) => failure,
                },
                Err(failure @ (Failure::Moved | Failure::ReadOnly | Failure::Closed(_))) => {
                    self.0.common.look_again();
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    failure
                }
                Err(failure) => failure,
            };
            if !matches!(last, Failure::Moved | Failure::ReadOnly) {
                break;
            }
        }
        Err(last.into_store_error())
    }

    fn map(&self) -> Arc<Map> {
        match self.0.map.read() {
            Ok(map) => map.clone(),
            Err(poisoned) => poisoned.into_inner().clone(),
        }
    }

    fn vault(&self) -> Vault<'_> {
        let sealer = match self.0.sealer.read() {
            Ok(sealer) => sealer.clone(),
            Err(poisoned) => poisoned.into_inner().clone(),
        };
        Vault { sealer, clock: &self.0.common.clock }
    }

    fn encoder(&self) -> Encoder<'_> {
        let config = &self.0.common.config;
        let is_cluster = matches!(config.topology, Topology::Cluster { .. });
        Encoder { vault: self.vault(), prefix: &config.key_prefix, is_cluster }
    }

    fn decoder(&self) -> Decoder<'_> {
        Decoder { vault: self.vault() }
    }

    fn class(&self, op: &StoreOp) -> Durability {
        if encode::is_light(op) {
            return Durability::Memory;
        }
        let Ok(classes) = self.0.durability.read() else { return Durability::Memory };
        match encode::tenant(op) {
            Some(tenant) => classes.get(&tenant).copied().unwrap_or_default(),
            // Epochs, tenant numbers, adopted items of many: as durable as anything here.
            None => classes.values().copied().max().unwrap_or_default(),
        }
    }

    fn deadline(&self, lane: Lane) -> Instant {
        let config = &self.0.common.config;
        Instant::now()
            + match lane {
                Lane::Call => config.response_timeout,
                Lane::Background => config.background_timeout,
            }
    }

    async fn run(
        &self,
        op: &StoreOp,
        lane: Lane,
        deadline: Instant,
        trips: &mut u64,
    ) -> Result<StoreReply, StoreError> {
        let encoder = self.encoder();
        let plan = encoder.plan(op)?;
        let class = self.class(op);
        if let Some(before) = plan.before {
            match self.send(before, lane, class, deadline, trips).await?.as_slice() {
                [Value::BulkString(tag), ..] if tag == b"done" => {}
                _ => return Ok(StoreReply::NonceReplayed),
            }
        }
        let beside: Vec<_> =
            plan.beside.into_iter().map(|call| self.send_beside(call, lane, class, deadline)).collect();
        let value = self.send(plan.main, lane, class, deadline, trips).await;
        for other in beside {
            // What is found under another name is part of what is acknowledged.
            other.await.unwrap_or(Err(StoreError::Unavailable))?;
        }
        let value = value?;
        self.keep_listed(op, &value);
        self.decoder().reply(op, Value::Array(value))
    }

    /// A dialog of a conversation lives longer now: its directory has to, too. Nothing waits for that.
    fn keep_listed(&self, op: &StoreOp, reply: &[Value]) {
        let (dialog, ttl_ms) = match op {
            StoreOp::Commit { dialog, record: Some((_, record, ttl_ms)), .. }
            | StoreOp::UpdateDialog { dialog, record, ttl_ms, .. } => {
                (dialog, ttl_ms.saturating_add(record.retention_ms))
            }
            _ => return,
        };
        let [_, _, Value::BulkString(name)] = reply else { return };
        let Ok(listed) = std::str::from_utf8(name) else { return };
        // The same form as a dialog's name.
        let Ok(DialogKey { tenant, id: hash, .. }) = names::parse_dialog(0, listed) else { return };
        let call = self.encoder().list_legs(&ConversationKey { tenant, hash }, ttl_ms, &[*dialog]);
        let deadline = Instant::now() + self.0.common.config.response_timeout;
        self.0.unattended.send_modify(|under_way| *under_way += 1);
        let store = self.clone();
        tokio::spawn(async move {
            if let Err(error) = store.send(call, Lane::Call, Durability::Memory, deadline, &mut 0).await {
                tracing::warn!(%error, "a conversation's directory was not told that its dialog lives on");
            }
            store.0.unattended.send_modify(|under_way| *under_way -= 1);
        });
    }

    /// Waits for what was sent without anybody waiting for it. It takes no longer than the response timeout.
    pub async fn settled(&self) {
        // The sender is ours: it does not close.
        let _ = self.0.unattended.subscribe().wait_for(|under_way| *under_way == 0).await;
    }

    fn send_beside(
        &self,
        call: Call,
        lane: Lane,
        class: Durability,
        deadline: Instant,
    ) -> tokio::task::JoinHandle<Result<Vec<Value>, StoreError>> {
        let store = self.clone();
        tokio::spawn(async move { store.send(call, lane, class, deadline, &mut 0).await })
    }

    /// One call, to whoever has its key.
    async fn send(
        &self,
        call: Call,
        lane: Lane,
        class: Durability,
        deadline: Instant,
        trips: &mut u64,
    ) -> Result<Vec<Value>, StoreError> {
        let command = Arc::new(call.command(class));
        let mut loaded = false;
        for _ in 0..=REDIRECTS {
            let node = self.map().node(call.routed_by()).cloned().ok_or(StoreError::Unavailable)?;
            *trips += 1;
            let loads = node.loads();
            let result = match lane {
                Lane::Call => node.call(&command, class, deadline).await,
                Lane::Background => node.call_background(&command, class, deadline).await,
            };
            let failure = match result {
                Ok(Value::Array(values)) => return Ok(values),
                Ok(other) => return Err(StoreError::Unreadable { reason: format!("{other:?} is no reply of ours") }),
                Err(failure) => failure,
            };
            match failure {
                // It was not executed: once more.
                Failure::NoFunction if !loaded => {
                    loaded = true;
                    node.load_library(loads, deadline).await.map_err(Failure::into_store_error)?;
                }
                Failure::Ask(address) => match self.map().by_address(&address) {
                    Some(other) => {
                        *trips += 1;
                        return match other.call_asking(&command, class, deadline).await {
                            Ok(Value::Array(values)) => Ok(values),
                            Ok(_) => Err(StoreError::Unavailable),
                            Err(failure) => Err(failure.into_store_error()),
                        };
                    }
                    None => {
                        self.0.common.look_again();
                        return Err(StoreError::Unavailable);
                    }
                },
                Failure::Moved => {
                    self.moved(&node, deadline).await;
                }
                other => {
                    tracing::debug!(function = call.routed_by(), failure = ?other, "the store");
                    return Err(other.into_store_error());
                }
            }
        }
        Err(StoreError::Unavailable)
    }

    /// Waits for the slot map to change, as far as there is time.
    async fn moved(&self, _from: &Arc<Node>, deadline: Instant) {
        let before = self.map();
        self.0.common.look_again();
        let changed = async {
            while Arc::ptr_eq(&before, &self.map()) {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        // Out of time: the next attempt says so.
        let _ = tokio::time::timeout_at(deadline.into(), changed).await;
    }

    async fn find_capability(
        &self,
        capability: &CapabilityKey,
        limit: usize,
        deadline: Instant,
        trips: &mut u64,
    ) -> Result<StoreReply, StoreError> {
        let mut found = Vec::new();
        let mut skip = 0;
        while found.len() < limit {
            let page = self.encoder().offered(capability, skip, PAGE);
            let mut row =
                Row::of(Value::Array(self.send(page, Lane::Call, Durability::Memory, deadline, trips).await?))?;
            row.text()?;
            let mut list = row.row()?;
            let mut aors = Vec::new();
            while !list.is_empty() {
                let hash = names::from_hex(&list.text()?).ok_or(StoreError::Unavailable)?;
                aors.push(AorKey { tenant: capability.tenant, hash });
            }
            skip += aors.len();
            let is_last = aors.len() < PAGE;
            let reading: Vec<_> = aors
                .into_iter()
                .map(|aor| {
                    (
                        aor,
                        self.send_beside(self.encoder().read_bindings(&aor), Lane::Call, Durability::Memory, deadline),
                    )
                })
                .collect();
            *trips += u64::from(!reading.is_empty());
            for (aor, reading) in reading {
                let mut row = Row::of(Value::Array(reading.await.unwrap_or(Err(StoreError::Unavailable))?))?;
                row.text()?;
                let bindings = self.decoder().bindings(&aor, row.row()?)?;
                found.extend(
                    bindings.into_iter().filter(|b| b.capabilities.contains(&capability.hash)).map(|b| (aor, b)),
                );
            }
            if is_last {
                break;
            }
        }
        found.sort_by_key(|(aor, _)| *aor);
        found.truncate(limit);
        Ok(StoreReply::Bindings(found.into_iter().map(|(_, binding)| binding).collect()))
    }

    /// The legs that a conversation may have.
    async fn legs(&self, conversation: &ConversationKey, trips: &mut u64) -> Result<Vec<DialogKey>, StoreError> {
        let call = self.encoder().legs(conversation);
        let mut row = Row::of(Value::Array(self.part(call, Durability::Memory, trips).await?))?;
        row.text()?;
        let mut list = row.row()?;
        let mut legs = Vec::new();
        while !list.is_empty() {
            legs.push(names::parse_leg(&list.text()?)?);
        }
        legs.sort_unstable();
        Ok(legs)
    }

    /// One part of an operation of many, with a deadline of its own.
    async fn part(&self, call: Call, class: Durability, trips: &mut u64) -> Result<Vec<Value>, StoreError> {
        self.send(call, Lane::Background, class, self.deadline(Lane::Background), trips).await
    }

    /// Not a call's business: it has as long as it takes, leg by leg.
    async fn export(&self, conversation: &ConversationKey, trips: &mut u64) -> Result<StoreReply, StoreError> {
        let (mut dialogs, mut sessions, mut exchanges) = (Vec::new(), Vec::new(), Vec::new());
        for leg in self.legs(conversation, trips).await? {
            let call = self.encoder().export_leg(&leg, conversation);
            let mut row = Row::of(Value::Array(self.part(call, Durability::Memory, trips).await?))?;
            if row.text()? != "leg" {
                continue;
            }
            let decoder = self.decoder();
            dialogs.extend(decoder.exported_dialog(&leg, row.row()?)?.map(Exported::Dialog));
            let session = decoder.session_record(&leg.session(), &row.bytes()?)?;
            sessions.extend(session.map(|record| Exported::Session(Box::new(record))));
            let mut list = row.row()?;
            let mut journal = Vec::new();
            while !list.is_empty() {
                let mut item = list.row()?;
                let hash = names::from_hex(&item.text()?).ok_or(StoreError::Unavailable)?;
                let key = ExchangeKey { session: leg.session(), hash };
                let (entry, answer) = decoder.entry(&key, item.row()?)?;
                journal.push((hash, Exported::Exchange { entry: Box::new(entry), answer }));
            }
            journal.sort_by_key(|(hash, _)| *hash);
            exchanges.extend(journal.into_iter().map(|(_, exchange)| exchange));
        }
        dialogs.extend(sessions);
        dialogs.extend(exchanges);
        Ok(StoreReply::Exported(dialogs))
    }

    async fn erase(&self, conversation: &ConversationKey, trips: &mut u64) -> Result<StoreReply, StoreError> {
        let class = self.class(&StoreOp::Erase { conversation: *conversation });
        let legs = self.legs(conversation, trips).await?;
        let mut gone = 0;
        for leg in &legs {
            let call = self.encoder().erase_leg(leg, conversation);
            let mut row = Row::of(Value::Array(self.part(call, class, trips).await?))?;
            row.text()?;
            gone += row.number::<usize>()?;
        }
        if !legs.is_empty() {
            let call = self.encoder().unlist_legs(conversation, &legs);
            self.part(call, class, trips).await?;
        }
        Ok(StoreReply::Erased(gone))
    }
}
