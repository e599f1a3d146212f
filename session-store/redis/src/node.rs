//! One primary: its connections by kind, its breaker, what is in flight there.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Value};
use session_store::Durability;
use tokio::sync::{Notify, Semaphore};

use crate::breaker::Breaker;
use crate::clock::StoreClock;
use crate::commit::{Commit, Keeps};
use crate::config::RedisConfig;
use crate::error::StartError;
use crate::failure::Failure;
use crate::health::{BreakerState, ShardHealth};
use crate::library;
use crate::link::{Link, Opener};
use crate::server;

/// What all nodes of a store share.
pub(crate) struct Common {
    pub config: RedisConfig,
    pub clock: StoreClock,
    /// A breaker moved, or the servers have to be looked for again.
    pub news: Notify,
    /// Ask who the primaries are.
    pub stale: AtomicBool,
    /// [`Health::replaced`](crate::Health::replaced).
    pub replaced: AtomicU64,
}

impl Common {
    /// The primaries may be others by now.
    pub fn look_again(&self) {
        self.stale.store(true, Ordering::Relaxed);
        self.news.notify_one();
    }
}

pub(crate) struct Node {
    pub address: String,
    common: Arc<Common>,
    data: Link,
    heartbeat: OnceLock<Link>,
    commit: OnceLock<Commit>,
    background: OnceLock<Background>,
    breaker: Mutex<Breaker>,
    /// Of the commit connection: a replica that is gone is no reason to refuse class `Memory`.
    commit_breaker: Mutex<Breaker>,
    attended: AtomicBool,
    /// Held by who loads the library, and how often it was loaded.
    loading: tokio::sync::Mutex<()>,
    loads: AtomicU64,
    in_flight: AtomicUsize,
    /// The connection whose server was looked at (version, policy, role).
    checked: AtomicU64,
    /// The start of the server that was used last (`run_id`).
    run: Mutex<Run>,
}

/// Connections and turns of the operations that no call waits for. A sweep through all slot labels must not stand before the calls on their
/// connection, nor take their place in the server, nor open their circuit where it is late.
struct Background {
    link: Link,
    commit: OnceLock<Commit>,
    turns: Semaphore,
    waiting: AtomicUsize,
}

/// Which start of a server an address stood for when it was used last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Run {
    /// Nobody used it yet, and it takes nobody's place.
    Unused,
    /// It takes the place of a primary that was used.
    Successor,
    Of(String),
}

/// A server that was looked at.
pub(crate) struct Looked {
    pub connection: MultiplexedConnection,
    pub run_id: String,
}

/// Counts one operation in flight while it lives.
struct InFlight<'a>(&'a AtomicUsize);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Node {
    /// With a connection whose server was looked at already.
    pub fn of(common: &Arc<Common>, address: &str, looked: Looked) -> Node {
        Self::new(common, address, Some(looked.connection), Run::Of(looked.run_id))
    }

    /// With a connection that is yet to be opened.
    pub fn unseen(common: &Arc<Common>, address: &str, run: Run) -> Node {
        Self::new(common, address, None, run)
    }

    fn new(common: &Arc<Common>, address: &str, first: Option<MultiplexedConnection>, run: Run) -> Node {
        let now = Instant::now();
        let mut breaker = Breaker::new(now);
        let checked = u64::from(first.is_some());
        if first.is_some() {
            breaker.close(now);
        }
        let mut commit_breaker = Breaker::new(now);
        commit_breaker.close(now);
        let opener = Opener::new(&common.config, address);
        Node {
            address: address.to_owned(),
            common: common.clone(),
            data: Link::new(opener, first),
            heartbeat: OnceLock::new(),
            commit: OnceLock::new(),
            background: OnceLock::new(),
            breaker: Mutex::new(breaker),
            commit_breaker: Mutex::new(commit_breaker),
            attended: AtomicBool::new(false),
            loading: tokio::sync::Mutex::new(()),
            loads: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            checked: checked.into(),
            run: Mutex::new(run),
        }
    }

    /// Opens a connection to a server and looks at it: version, policy, role, mode, library.
    ///
    /// # Errors
    /// Whatever makes it unfit.
    pub async fn look_at(config: &RedisConfig, address: &str) -> Result<Looked, StartError> {
        let mut connection = Opener::new(config, address).open().await?;
        let run_id = Self::fit(config, &mut connection, address).await?;
        Ok(Looked { connection, run_id })
    }

    async fn fit(
        config: &RedisConfig,
        connection: &mut MultiplexedConnection,
        address: &str,
    ) -> Result<String, StartError> {
        let asking = async {
            let facts = server::facts(connection, address).await?;
            facts.check(address)?;
            if !facts.is_primary {
                return Err(StartError::Replica { address: address.to_owned() });
            }
            let wants_cluster = matches!(config.topology, crate::Topology::Cluster { .. });
            if wants_cluster != facts.is_cluster {
                let wanted = if wants_cluster { "no Cluster node" } else { "a node of a Cluster" };
                return Err(StartError::OtherMode { address: address.to_owned(), wanted });
            }
            server::ensure_library(connection, address).await?;
            Ok(facts.run_id)
        };
        let late = StartError::Unreachable { address: address.to_owned(), reason: "no answer in time".into() };
        tokio::time::timeout(config.connect_timeout * 2, asking).await.unwrap_or(Err(late))
    }

    /// Whether its circuit is open, or what was sent last was not answered.
    pub fn is_failing(&self) -> bool {
        self.breaker.lock().is_ok_and(|breaker| breaker.is_failing())
    }

    /// The worse of the two breakers.
    pub fn health(&self) -> ShardHealth {
        let of = |breaker: &Mutex<Breaker>| {
            breaker.lock().map_or((BreakerState::Open, None), |b| (b.state(), b.reason().map(str::to_owned)))
        };
        let (data, commit) = (of(&self.breaker), of(&self.commit_breaker));
        let (state, reason) = if rank(commit.0) < rank(data.0) { commit } else { data };
        ShardHealth { address: self.address.clone(), state, reason }
    }

    /// Executes one function call.
    pub async fn call(&self, command: &Arc<Cmd>, class: Durability, deadline: Instant) -> Result<Value, Failure> {
        if !self.admits(class) {
            return Err(Failure::NotSent);
        }
        if self.in_flight.fetch_add(1, Ordering::Relaxed) >= self.common.config.in_flight {
            self.in_flight.fetch_sub(1, Ordering::Relaxed);
            return Err(Failure::NotSent);
        }
        let _one = InFlight(&self.in_flight);
        let result = match class {
            Durability::Memory => self.send(&self.data, command, deadline).await,
            class => self.commit().call(command.clone(), false, class, deadline).await,
        };
        self.judge(&result, class);
        result
    }

    /// Executes one function call that no call waits for: in its turn, of which there are few, on connections of its own. Its turn comes
    /// within half of the time that is left, while the breakers admit anything, or it is not sent. That it is late says nothing to a
    /// breaker; that the server says it cannot, does.
    pub async fn call_background(
        &self,
        command: &Arc<Cmd>,
        class: Durability,
        deadline: Instant,
    ) -> Result<Value, Failure> {
        let config = &self.common.config;
        let background = self.background.get_or_init(|| Background {
            link: Link::new(Opener::new(config, &self.address), None),
            commit: OnceLock::new(),
            turns: Semaphore::new(config.background_in_flight.max(1)),
            waiting: AtomicUsize::new(0),
        });
        if background.waiting.fetch_add(1, Ordering::Relaxed) >= config.in_flight {
            background.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(Failure::NotSent);
        }
        let _one = InFlight(&background.waiting);
        let turn = async {
            loop {
                while !self.admits(class) {
                    tokio::time::sleep(LOOK_FOR_A_TURN).await;
                }
                let turn = background.turns.acquire().await;
                if self.admits(class) {
                    return turn;
                }
            }
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(Ok(_turn)) = tokio::time::timeout(left / 2, turn).await else { return Err(Failure::NotSent) };
        let result = match class {
            Durability::Memory => {
                let opened = tokio::time::timeout_at(deadline.into(), background.link.opened()).await;
                let Ok((number, _)) = opened else { return Err(Failure::NotSent) };
                let result = self.send(&background.link, command, deadline).await;
                if result == Err(Failure::Late) {
                    // It may be a connection that nothing will ever come through again.
                    background.link.broke(number);
                }
                result
            }
            class => {
                let new = || Commit::new(config, &self.address, config.background_timeout / 2);
                background.commit.get_or_init(new).call(command.clone(), false, class, deadline).await
            }
        };
        if matches!(result, Err(Failure::Cannot(_) | Failure::ReadOnly)) {
            self.judge(&result, class);
        }
        result
    }

    fn admits(&self, class: Durability) -> bool {
        let admits = |breaker: &Mutex<Breaker>| breaker.lock().is_ok_and(|breaker| breaker.admits());
        admits(&self.breaker) && (class == Durability::Memory || admits(&self.commit_breaker))
    }

    /// The same after ASKING, for a slot that is moving here.
    pub async fn call_asking(
        &self,
        command: &Arc<Cmd>,
        class: Durability,
        deadline: Instant,
    ) -> Result<Value, Failure> {
        if class != Durability::Memory {
            return self.commit().call(command.clone(), true, class, deadline).await;
        }
        let Some((number, mut connection)) = self.data.get() else { return Err(Failure::NotSent) };
        let mut pipeline = redis::pipe();
        pipeline.cmd("ASKING").add_command(command.as_ref().clone()).ignore_errors();
        let sending = connection.send_packed_commands(&pipeline, 0, 2);
        match tokio::time::timeout_at(deadline.into(), sending).await {
            Err(_) => Err(Failure::Late),
            Ok(Err(error)) => Err(self.closed(&self.data, number, &error)),
            Ok(Ok(mut values)) => of_value(values.pop().unwrap_or(Value::Nil)),
        }
    }

    /// A heartbeat: on a connection of its own, whatever the breaker says, with its own deadline.
    pub async fn call_heartbeat(&self, command: &Cmd, deadline: Instant) -> Result<Value, Failure> {
        let config = &self.common.config;
        let link = self.heartbeat.get_or_init(|| Link::new(Opener::new(config, &self.address), None));
        if tokio::time::timeout_at(deadline.into(), link.opened()).await.is_err() {
            let reason = link.error().map_or_else(|| "no connection in time".into(), |error| error.to_string());
            return Err(Failure::Closed(reason));
        }
        let number = link.get().map_or(0, |(number, _)| number);
        let result = self.send(link, command, deadline).await;
        if result == Err(Failure::Late) {
            // It may be a connection that nothing will ever come through again.
            link.broke(number);
        }
        result
    }

    async fn send(&self, link: &Link, command: &Cmd, deadline: Instant) -> Result<Value, Failure> {
        let Some((number, mut connection)) = link.get() else {
            let reason = link.error().map_or_else(|| "no connection".into(), |error| error.to_string());
            return Err(Failure::Closed(reason));
        };
        match tokio::time::timeout_at(deadline.into(), connection.send_packed_command(command)).await {
            Err(_) => Err(Failure::Late),
            Ok(Ok(value)) => of_value(value),
            Ok(Err(error)) => Err(self.closed(link, number, &error)),
        }
    }

    /// What the error means; a connection that is of no use any more is opened again.
    fn closed(&self, link: &Link, number: u64, error: &redis::RedisError) -> Failure {
        let failure = Failure::of_error(error);
        if matches!(failure, Failure::Closed(_)) {
            link.broke(number);
            self.common.look_again();
        }
        failure
    }

    /// The breaker learns of what became of an operation.
    fn judge(&self, result: &Result<Value, Failure>, class: Durability) {
        let now = Instant::now();
        // What the server says of itself holds for both connections.
        let of_server = matches!(result, Err(Failure::Cannot(_) | Failure::ReadOnly));
        let is_commit = class != Durability::Memory && !of_server;
        let Ok(mut breaker) = (if is_commit { &self.commit_breaker } else { &self.breaker }).lock() else { return };
        let opened = match result {
            Err(Failure::NotSent) => return,
            Err(Failure::Late) if is_commit => breaker.failure(now, "a replica, or the disk, was not in time"),
            Err(Failure::Late) => breaker.failure(now, "no answer in time"),
            Err(Failure::Closed(reason) | Failure::NotDurable(reason)) => breaker.failure(now, reason),
            Err(Failure::Cannot(reason)) => breaker.open(now, reason),
            Err(Failure::ReadOnly) => breaker.open(now, NO_PRIMARY),
            Ok(_)
            | Err(Failure::Full | Failure::Unreadable(_) | Failure::NoFunction | Failure::Moved | Failure::Ask(_)) => {
                breaker.success();
                return;
            }
        };
        let reason = breaker.reason().unwrap_or_default().to_owned();
        drop(breaker);
        if matches!(result, Err(Failure::ReadOnly | Failure::Closed(_))) {
            self.common.look_again();
        }
        if opened {
            tracing::warn!(address = self.address, reason, "the store: circuit open");
            // What is still unanswered on this connection would lie there until it is; a new one begins with nothing.
            if let (false, Err(Failure::Late), Some((number, _))) = (is_commit, result, self.data.get()) {
                self.data.broke(number);
            }
            self.common.look_again();
        }
    }

    /// Asks for the server's time.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn learn_clock(&self) -> Result<(), StartError> {
        let unreachable = |reason| StartError::Unreachable { address: self.address.clone(), reason };
        // Nobody's call waits for a start: a server that is slow now has as long as the connection had.
        self.probe(self.common.config.connect_timeout).await.map_err(|(_, reason)| unreachable(reason))
    }

    fn commit(&self) -> &Commit {
        self.commit.get_or_init(|| Commit::new(&self.common.config, &self.address, self.common.config.response_timeout))
    }

    /// How often the library was loaded so far.
    pub fn loads(&self) -> u64 {
        self.loads.load(Ordering::Acquire)
    }

    /// Loads the library that was flushed under us. All that is in flight finds it gone, and one loads it for all: `before` is how often it
    /// had been loaded when the caller sent what found it gone.
    pub async fn load_library(&self, before: u64, deadline: Instant) -> Result<(), Failure> {
        let Some((number, mut connection)) = self.data.get() else { return Err(Failure::NotSent) };
        let loading = async {
            let _one = self.loading.lock().await;
            if self.loads() != before {
                return Ok(());
            }
            let loaded = server::ensure_library(&mut connection, &self.address).await;
            self.loads.fetch_add(u64::from(loaded.is_ok()), Ordering::Release);
            loaded
        };
        match tokio::time::timeout_at(deadline.into(), loading).await {
            Err(_) => Err(Failure::Late),
            Ok(Ok(())) => Ok(()),
            Ok(Err(StartError::Unreachable { reason, .. })) => {
                self.data.broke(number);
                Err(Failure::Closed(reason))
            }
            Ok(Err(error)) => Err(Failure::Unreadable(error.to_string())),
        }
    }

    /// Looks after the breakers, in a task of its own, if none is at it yet.
    pub fn attend(self: &Arc<Node>) {
        if self.attended.swap(true, Ordering::AcqRel) {
            return;
        }
        let now = Instant::now();
        let is_due = |breaker: &Mutex<Breaker>| {
            breaker.lock().is_ok_and(|mut breaker| {
                breaker.tick(now);
                breaker.probe_due(now)
            })
        };
        let (data, commit) = (is_due(&self.breaker), is_due(&self.commit_breaker));
        if !data && !commit {
            self.attended.store(false, Ordering::Release);
            return;
        }
        let node = self.clone();
        tokio::spawn(async move {
            if data {
                node.learn(&node.breaker, node.probe(node.common.config.response_timeout).await);
            }
            if commit && let Some(used) = node.commit.get() {
                let limit = node.common.config.response_timeout;
                let probed = used.probe(limit).await.map_err(|reason| (false, reason));
                node.learn(&node.commit_breaker, probed);
            }
            node.attended.store(false, Ordering::Release);
            node.common.news.notify_one();
        });
    }

    /// A breaker learns of a probe; with `true` beside the reason it opens at once.
    fn learn(&self, breaker: &Mutex<Breaker>, outcome: Result<(), (bool, String)>) {
        let now = Instant::now();
        let Ok(mut breaker) = breaker.lock() else { return };
        let before = breaker.state();
        match outcome {
            Ok(()) => breaker.probed(now),
            Err((at_once, reason)) if at_once || before == BreakerState::Open => {
                breaker.open(now, &reason);
            }
            Err((_, reason)) => {
                breaker.failure(now, &reason);
            }
        }
        if before != breaker.state() {
            tracing::info!(address = self.address, state = ?breaker.state(), reason = breaker.reason(), "the store: circuit");
        }
    }

    /// Whether the server takes writes, what its clock says, and, on a new connection, whether it is fit.
    async fn probe(&self, limit: Duration) -> Result<(), (bool, String)> {
        let config = &self.common.config;
        let later = |reason: String| (false, reason);
        let Some((number, mut connection)) = self.data.get() else {
            return Err(later(self.data.error().map_or_else(|| "no connection".into(), |error| error.to_string())));
        };
        if self.checked.load(Ordering::Relaxed) != number {
            let run_id = Self::fit(config, &mut connection, &self.address).await.map_err(|error| {
                match error {
                    StartError::Replica { .. } => self.common.look_again(),
                    // It closed, or nothing comes through it: no operation is sent while the circuit is open, so nobody else would notice.
                    StartError::Unreachable { .. } | StartError::NotRedis { .. } => self.data.broke(number),
                    _ => {}
                }
                (true, error.to_string())
            })?;
            // Before anything is sent to it again.
            self.runs_as(run_id);
            self.checked.store(number, Ordering::Relaxed);
        }
        let mut command = redis::cmd("FCALL");
        command.arg(library::function("probe", false)).arg(0);
        let before = self.loads();
        let (asked, started) = (self.common.clock.edge.now_ms(), Instant::now());
        match self.send(&self.data, &command, started + limit).await {
            Ok(value) => {
                if let Some(time) = time_of(&value) {
                    self.common.clock.sample(time, asked, started, Instant::now());
                }
                Ok(())
            }
            Err(Failure::NoFunction) => {
                let loaded = self.load_library(before, Instant::now() + config.connect_timeout).await;
                loaded.map_err(|failure| later(format!("{failure:?}")))
            }
            Err(Failure::ReadOnly) => {
                self.common.look_again();
                Err((true, NO_PRIMARY.into()))
            }
            Err(Failure::Cannot(reason)) => Err((true, reason)),
            Err(Failure::Closed(reason) | Failure::Unreadable(reason)) => Err(later(reason)),
            Err(_) => {
                if self.breaker.lock().is_ok_and(|breaker| !breaker.admits()) {
                    self.data.broke(number);
                }
                Err(later("no answer in time".into()))
            }
        }
    }

    /// A server that is not the one that was used here lacks what that one had not written or sent on.
    fn runs_as(&self, run_id: String) {
        let Ok(mut run) = self.run.lock() else { return };
        let now = Run::Of(run_id);
        let before = std::mem::replace(&mut *run, now.clone());
        if before != Run::Unused && before != now {
            tracing::warn!(address = self.address, "the store: another server answers than before");
            self.common.replaced.fetch_add(1, Ordering::Release);
        }
    }

    /// Whether the class can be given here.
    pub async fn gives(&self, class: Durability, deadline: Duration) -> Result<(), StartError> {
        let asking = async {
            let mut connection = self.data.opened().await.1;
            crate::commit::class_is_given(&self.common.config, &mut connection, &self.address, class).await
        };
        tokio::time::timeout(deadline, asking).await.unwrap_or_else(|_| Err(self.late()))
    }

    /// What it keeps, by its settings.
    pub async fn keeps(&self, deadline: Duration) -> Result<Keeps, StartError> {
        let asking = async {
            let mut connection = self.data.opened().await.1;
            crate::commit::keeps(&self.common.config, &mut connection, &self.address).await
        };
        tokio::time::timeout(deadline, asking).await.unwrap_or_else(|_| Err(self.late()))
    }

    fn late(&self) -> StartError {
        StartError::Unreachable { address: self.address.clone(), reason: "no answer in time".into() }
    }
}

/// How often an operation whose turn has come looks whether the circuit is closed again.
const LOOK_FOR_A_TURN: Duration = Duration::from_millis(20);

const NO_PRIMARY: &str = "READONLY: it is no primary any more";

/// The worse, the lower.
pub(crate) fn rank(state: BreakerState) -> u8 {
    match state {
        BreakerState::Closed => 101,
        BreakerState::Recovering { percent } => percent,
        BreakerState::Open => 0,
    }
}

/// A reply of a function, or what kept it from running.
pub(crate) fn of_value(value: Value) -> Result<Value, Failure> {
    match value {
        Value::ServerError(error) => Err(Failure::of_server(&error)),
        value => Ok(value),
    }
}

fn time_of(value: &Value) -> Option<u64> {
    let Value::Array(parts) = value else { return None };
    match parts.get(1)? {
        Value::BulkString(text) => std::str::from_utf8(text).ok()?.parse().ok(),
        _ => None,
    }
}
