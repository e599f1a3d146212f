//! Connections that wait for a next call.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::connect::Connection;

/// How long a connection is kept without use. Below the 5 seconds after which uvicorn and Node close theirs: a request
/// that meets such a close half-way may or may not have been executed, and nobody could tell.
const IDLE_TIME: Duration = Duration::from_secs(4);
/// How long a returned connection may take to finish its last answer.
const SETTLE_TIME: Duration = Duration::from_millis(20);

struct Idle {
    connection: Connection,
    since: Instant,
}

#[derive(Default)]
struct State {
    idle: Vec<Idle>,
    reaper_runs: bool,
}

/// The idle connections of one backend, the youngest last. Full, it drops the oldest; a reaper drops what is unused, and
/// ends when nothing is left.
pub(super) struct Pool {
    limit: usize,
    state: Mutex<State>,
}

impl Pool {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, state: Mutex::default() })
    }

    /// The youngest connection that is still open, if any.
    pub(super) async fn take(&self) -> Option<Connection> {
        loop {
            let idle = self.state().idle.pop()?;
            if idle.since.elapsed() >= IDLE_TIME || idle.connection.is_closed() {
                continue;
            }
            let mut connection = idle.connection;
            if tokio::time::timeout(SETTLE_TIME, connection.is_ready()).await == Ok(true) {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection whose last answer was read to its end.
    pub(super) fn put(self: &Arc<Self>, connection: Connection) {
        if connection.is_closed() || self.limit == 0 {
            return;
        }
        let mut state = self.state();
        if state.idle.len() >= self.limit {
            state.idle.remove(0);
        }
        state.idle.push(Idle { connection, since: Instant::now() });
        if !std::mem::replace(&mut state.reaper_runs, true) {
            tokio::spawn(reap(Arc::downgrade(self)));
        }
    }

    /// Keeps none of those that wait.
    pub(super) fn clear(&self) {
        self.state().idle.clear();
    }

    /// How many connections wait.
    pub(super) fn len(&self) -> usize {
        self.state().idle.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A list of connections is whole after every statement here; a panic elsewhere cannot have broken it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn reap(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(IDLE_TIME / 4).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut state = pool.state();
        state.idle.retain(|idle| idle.since.elapsed() < IDLE_TIME && !idle.connection.is_closed());
        if state.idle.is_empty() {
            state.reaper_runs = false;
            return;
        }
    }
}
