//! How much may be under way at one backend.

use std::sync::Arc;

use edge_core::input::BackendFailure;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::config::Limits;

/// The places of one backend. Who finds none waits in order; who finds no place to wait is refused.
pub(super) struct Places {
    requests: Arc<Semaphore>,
    posts: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    waiting: Semaphore,
    limits: Limits,
}

/// One place, held.
pub(super) struct Place(#[expect(dead_code, reason = "held, not read")] OwnedSemaphorePermit);

/// What a call is, for the bound that it counts against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A JSON-RPC request: its answer may take minutes.
    Request,
    /// A notification, a response, the end of a session: answered at once.
    Post,
    /// A legacy server stream: open as long as its session.
    Stream,
}

/// How much is under way at one backend at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    pub requests: usize,
    pub posts: usize,
    pub streams: usize,
    pub waiting: usize,
    pub idle_connections: usize,
}

impl Places {
    pub(super) fn new(limits: &Limits) -> Self {
        let places = |count: usize| Semaphore::new(count.min(Semaphore::MAX_PERMITS));
        Self {
            requests: Arc::new(places(limits.requests)),
            posts: Arc::new(places(limits.posts)),
            streams: Arc::new(places(limits.streams)),
            waiting: places(limits.waiting),
            limits: limits.clone(),
        }
    }

    /// A place for a call of this kind, held until it is dropped: with it goes the right to a connection.
    pub(super) async fn take(&self, kind: Kind) -> Result<Place, BackendFailure> {
        let places = match kind {
            Kind::Request => &self.requests,
            Kind::Post => &self.posts,
            Kind::Stream => &self.streams,
        };
        if let Ok(place) = places.clone().try_acquire_owned() {
            return Ok(Place(place));
        }
        if kind == Kind::Stream {
            // A stream ends with its session: waiting for one could take hours.
            return Err(BackendFailure::Overloaded);
        }
        let _waiting = self.waiting.try_acquire().map_err(|_| BackendFailure::Overloaded)?;
        // The semaphores are never closed.
        places.clone().acquire_owned().await.map(Place).map_err(|_| BackendFailure::Overloaded)
    }

    pub(super) fn stats(&self) -> Stats {
        let used = |limit: usize, places: &Semaphore| limit.saturating_sub(places.available_permits());
        Stats {
            requests: used(self.limits.requests, &self.requests),
            posts: used(self.limits.posts, &self.posts),
            streams: used(self.limits.streams, &self.streams),
            waiting: used(self.limits.waiting, &self.waiting),
            idle_connections: 0,
        }
    }
}
