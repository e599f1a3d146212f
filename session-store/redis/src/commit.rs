//! The commit connection of one primary: group commit for the classes `Replica` and `Fsync`. A batch is up to [`BATCH`] calls, or what
//! came within [`GATHER`], in one pipeline with one WAIT or WAITAOF behind it, because these block their connection and wait for what
//! was written on it. Nobody of the batch is answered before.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Value};
use session_store::Durability;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use crate::config::RedisConfig;
use crate::error::StartError;
use crate::failure::Failure;
use crate::link::{Link, Opener};
use crate::node::of_value;
use crate::server;

/// Calls per batch.
const BATCH: usize = 128;
/// How long the first one waits for others.
const GATHER: Duration = Duration::from_micros(500);
/// WAIT may take all of the deadline but one part in so many.
const WAIT_PART: u32 = 3;
/// A server looks at its blocked connections ten times per second, so a WAIT that reached nothing answers so much later.
const SERVER_TICK: Duration = Duration::from_millis(150);

struct Job {
    /// `None`: a probe, which only waits as the calls of its class do.
    command: Option<Arc<Cmd>>,
    /// After ASKING: its slot is moving here.
    asking: bool,
    class: Durability,
    deadline: Instant,
    done: oneshot::Sender<Result<Value, Failure>>,
}

/// What is waited for.
#[derive(Clone, Copy)]
struct Waits {
    limit: Duration,
    fsync_replicas: u8,
}

pub(crate) struct Commit {
    jobs: mpsc::Sender<Job>,
    /// Of the last call: what a probe has to wait for.
    class: Mutex<Durability>,
    task: AbortHandle,
}

impl Commit {
    /// Calls of one connection wait as long as `limit` for their class.
    pub fn new(config: &RedisConfig, address: &str, limit: Duration) -> Commit {
        let (jobs, queue) = mpsc::channel(config.in_flight.max(1));
        let link = Link::new(Opener::new(config, address), None);
        let task =
            tokio::spawn(work(link, queue, Waits { limit, fsync_replicas: config.fsync_replicas })).abort_handle();
        Commit { jobs, class: Mutex::new(Durability::Memory), task }
    }

    pub async fn call(
        &self,
        command: Arc<Cmd>,
        asking: bool,
        class: Durability,
        deadline: Instant,
    ) -> Result<Value, Failure> {
        if let Ok(mut last) = self.class.lock() {
            *last = class;
        }
        self.submit(Some(command), asking, class, deadline).await
    }

    /// Whether what the last call waited for is reached in time.
    pub async fn probe(&self, limit: Duration) -> Result<(), String> {
        let class = self.class.lock().map_or(Durability::Memory, |class| *class);
        match self.submit(None, false, class, Instant::now() + limit).await {
            Ok(_) => Ok(()),
            Err(Failure::Closed(reason) | Failure::NotDurable(reason) | Failure::Cannot(reason)) => Err(reason),
            Err(_) => Err("a replica, or the disk, was not in time".into()),
        }
    }

    async fn submit(
        &self,
        command: Option<Arc<Cmd>>,
        asking: bool,
        class: Durability,
        deadline: Instant,
    ) -> Result<Value, Failure> {
        let (done, reply) = oneshot::channel();
        self.jobs.try_send(Job { command, asking, class, deadline, done }).map_err(|_| Failure::NotSent)?;
        match tokio::time::timeout_at(deadline.into(), reply).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Failure::Closed("the commit connection ended".into())),
            Err(_) => Err(Failure::Late),
        }
    }
}

impl Drop for Commit {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn work(link: Link, mut queue: mpsc::Receiver<Job>, waits: Waits) {
    // Known per connection: whether the disk is written before each reply anyway.
    let mut always_synced: Option<(u64, bool)> = None;
    let mut batch = Vec::with_capacity(BATCH);
    while let Some(first) = queue.recv().await {
        batch.push(first);
        let end = tokio::time::Instant::now() + GATHER;
        while batch.len() < BATCH {
            match tokio::time::timeout_at(end, queue.recv()).await {
                Ok(Some(job)) => batch.push(job),
                Ok(None) | Err(_) => break,
            }
        }
        // Who has given up is not executed any more.
        let now = Instant::now();
        batch.retain(|job| job.deadline > now && !job.done.is_closed());
        let Some(deadline) = batch.iter().map(|job| job.deadline).min() else { continue };
        let Ok((number, mut connection)) = tokio::time::timeout_at(deadline.into(), link.opened()).await else {
            let reason = link.error().map_or_else(|| "no commit connection".into(), |error| error.to_string());
            finish(&mut batch, |_| Err(Failure::Closed(reason.clone())));
            continue;
        };
        let synced = match always_synced {
            _ if !batch.iter().any(|job| job.class == Durability::Fsync) => false,
            Some((known, synced)) if known == number => synced,
            // Who says nothing in time is waited for with WAITAOF, and asked again.
            _ => match tokio::time::timeout_at(deadline.into(), fsyncs_always(&mut connection)).await {
                Ok(synced) => {
                    always_synced = Some((number, synced));
                    synced
                }
                Err(_) => false,
            },
        };
        let results = commit(&mut connection, &batch, waits, synced).await;
        match results {
            Ok(results) => {
                let mut results = results.into_iter();
                finish(&mut batch, |_| results.next().unwrap_or(Err(Failure::Late)));
            }
            Err(failure) => {
                if matches!(failure, Failure::Closed(_) | Failure::Late) {
                    // A WAIT that is still under way would hold up the next batch.
                    link.broke(number);
                }
                finish(&mut batch, |_| Err(failure.clone()));
            }
        }
    }
}

fn finish(batch: &mut Vec<Job>, mut result: impl FnMut(&Job) -> Result<Value, Failure>) {
    for job in batch.drain(..) {
        let result = result(&job);
        // Who asked may have given up.
        let _ = job.done.send(result);
    }
}

async fn commit(
    connection: &mut MultiplexedConnection,
    batch: &[Job],
    waits: Waits,
    synced: bool,
) -> Result<Vec<Result<Value, Failure>>, Failure> {
    let has = |class| batch.iter().any(|job| job.class == class);
    let mut pipeline = redis::pipe();
    for job in batch {
        if job.asking {
            pipeline.cmd("ASKING");
        }
        pipeline
            .add_command(job.command.as_ref().map_or_else(|| redis::cmd("PING"), |command| command.as_ref().clone()));
    }
    let limit = (waits.limit * (WAIT_PART - 1) / WAIT_PART).as_millis().max(1);
    let limit = u64::try_from(limit).unwrap_or(u64::MAX);
    let replicated = has(Durability::Replica);
    if replicated {
        pipeline.cmd("WAIT").arg(1).arg(limit);
    }
    let wait_for_disk = has(Durability::Fsync) && !(synced && waits.fsync_replicas == 0);
    if wait_for_disk {
        pipeline.cmd("WAITAOF").arg(1).arg(waits.fsync_replicas).arg(limit);
    }
    pipeline.ignore_errors();
    let count = pipeline.len();
    let sending = connection.send_packed_commands(&pipeline, 0, count);
    let mut values = match tokio::time::timeout(waits.limit + SERVER_TICK, sending).await {
        Err(_) => return Err(Failure::Late),
        Ok(Err(error)) => return Err(Failure::of_error(&error)),
        Ok(Ok(values)) => values,
    };
    if values.len() != count {
        return Err(Failure::Closed(format!("{} replies to {count} commands", values.len())));
    }
    let on_disk = if wait_for_disk { values.pop().map_or(Err("no reply".into()), |v| disk(&v, waits)) } else { Ok(()) };
    let on_replica = if replicated { values.pop().map_or(Err("no reply".into()), |v| replica(&v)) } else { Ok(()) };
    let released = |(value, job): (Value, &Job)| {
        let value = of_value(value)?;
        let reached = match job.class {
            Durability::Memory => &Ok(()),
            Durability::Replica => &on_replica,
            Durability::Fsync => &on_disk,
        };
        reached.clone().map(|()| value).map_err(Failure::NotDurable)
    };
    let mut values = values.into_iter();
    let mut reply = |job: &Job| {
        if job.asking {
            values.next();
        }
        values.next()
    };
    Ok(batch.iter().filter_map(|job| Some((reply(job)?, job))).map(released).collect())
}

fn replica(value: &Value) -> Result<(), String> {
    match value {
        Value::Int(n) if *n >= 1 => Ok(()),
        Value::Int(_) => Err("no replica had the write in time".into()),
        other => Err(format!("WAIT: {other:?}")),
    }
}

fn disk(value: &Value, waits: Waits) -> Result<(), String> {
    let Value::Array(counts) = value else { return Err(format!("WAITAOF: {value:?}")) };
    match counts.as_slice() {
        [Value::Int(here), Value::Int(there)] if *here >= 1 && *there >= i64::from(waits.fsync_replicas) => Ok(()),
        _ => Err("the write was not on disk in time".into()),
    }
}

/// `appendonly yes` and `appendfsync always`: the disk has it before the reply leaves.
async fn fsyncs_always(connection: &mut MultiplexedConnection) -> bool {
    append_settings(connection).await.is_ok_and(|(aof, fsync)| aof && fsync == "always")
}

/// Whether there is an AOF, and how it is synced.
async fn append_settings(connection: &mut MultiplexedConnection) -> redis::RedisResult<(bool, String)> {
    let mut get = redis::cmd("CONFIG");
    get.arg("GET").arg("append*");
    let settings: std::collections::HashMap<String, String> = get.query_async(connection).await?;
    let value = |name: &str| settings.get(name).cloned().unwrap_or_default();
    Ok((value("appendonly") == "yes", value("appendfsync")))
}

/// What a server has left when its process ended and began again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Keeps {
    /// Nothing: no snapshots, no append-only file.
    Nothing,
    /// All but what came last: snapshots, or an append-only file whose writes nobody can wait for.
    Mostly,
    /// Each write that was answered with class `Fsync`.
    EveryWrite,
}

/// Looks into the settings of a server.
///
/// # Errors
/// Whatever keeps it from saying.
pub(crate) async fn keeps(
    config: &RedisConfig,
    connection: &mut MultiplexedConnection,
    address: &str,
) -> Result<Keeps, StartError> {
    match class_is_given(config, connection, address, Durability::Fsync).await {
        Ok(()) => return Ok(Keeps::EveryWrite),
        Err(StartError::Durability { .. }) => {}
        Err(error) => return Err(error),
    }
    let failed = |error| server::start_error(address, &error);
    let (aof, _) = append_settings(connection).await.map_err(failed)?;
    let mut get = redis::cmd("CONFIG");
    get.arg("GET").arg("save");
    let settings: std::collections::HashMap<String, String> = get.query_async(connection).await.map_err(failed)?;
    let snapshots = settings.get("save").is_some_and(|times| !times.is_empty());
    Ok(if aof || snapshots { Keeps::Mostly } else { Keeps::Nothing })
}

/// Whether a server can give the class.
///
/// # Errors
/// `Durability` with what is missing.
pub(crate) async fn class_is_given(
    config: &RedisConfig,
    connection: &mut MultiplexedConnection,
    address: &str,
    class: Durability,
) -> Result<(), StartError> {
    let refuse = |reason: String| Err(StartError::Durability { class, reason: format!("{address}: {reason}") });
    match class {
        Durability::Memory => Ok(()),
        Durability::Replica => {
            if server::facts(connection, address).await?.replicas == 0 {
                return refuse(
                    "no replica is connected; add one, and set min-replicas-to-write 1 and min-replicas-max-lag 2"
                        .into(),
                );
            }
            Ok(())
        }
        Durability::Fsync => {
            let facts = server::facts(connection, address).await?;
            let (aof, fsync) = append_settings(connection).await.map_err(|e| server::start_error(address, &e))?;
            if !aof {
                return refuse("appendonly is no; set appendonly yes".into());
            }
            if facts.has_waitaof() || (fsync == "always" && config.fsync_replicas == 0) {
                return Ok(());
            }
            let version = &facts.version;
            refuse(format!("appendfsync is {fsync} and version {version} has no WAITAOF; set appendfsync always"))
        }
    }
}
