//! The streams of this replica, so that somebody else can end one or ask its edge.

use crate::identity::Identity;
use edge_api::control::query::What;
use edge_api::control::{Answer, answer};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tonic::Status;

/// Queries of one stream without their answers, those that wait to be sent included.
pub const MAX_QUERIES: usize = 8;
/// For an answer.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Why an edge does not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    #[error("the edge has no stream to this operator")]
    NotHere,
    #[error("the edge is asked {MAX_QUERIES} things already; try again")]
    Busy,
    #[error("the edge did not answer in time")]
    Late,
    #[error("the edge says: {0}")]
    Refused(String),
}

/// A question on its way, and who waits for the answer.
#[derive(Debug)]
pub(super) struct Order {
    pub what: What,
    pub reply: oneshot::Sender<Vec<Answer>>,
}

/// The outer end of one stream.
#[derive(Debug)]
struct Stream {
    number: u64,
    end: watch::Sender<Option<Status>>,
    orders: mpsc::Sender<Order>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Streams {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    last: u64,
    by_edge: BTreeMap<Identity, Stream>,
    closed: bool,
}

/// A stream that was entered: its number, and what is wanted of it.
#[derive(Debug)]
pub(super) struct Entered {
    pub number: u64,
    pub orders: mpsc::Receiver<Order>,
}

impl Streams {
    fn with<R>(&self, work: impl FnOnce(&mut Inner) -> R) -> R {
        // A panic under the lock leaves a whole map.
        work(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A stream begins; an earlier one of the same edge ends. `None`: this replica ends.
    pub(super) fn enter(&self, identity: &Identity, end: watch::Sender<Option<Status>>) -> Option<Entered> {
        self.with(|inner| {
            if inner.closed {
                return None;
            }
            inner.last += 1;
            let (orders_in, orders) = mpsc::channel(MAX_QUERIES);
            let stream = Stream { number: inner.last, end, orders: orders_in };
            if let Some(before) = inner.by_edge.insert(identity.clone(), stream) {
                before.end.send_replace(Some(Status::aborted("the same edge connected again")));
            }
            Some(Entered { number: inner.last, orders })
        })
    }

    /// A stream ended. One that took its place stays.
    pub(super) fn leave(&self, identity: &Identity, number: u64) {
        self.with(|inner| {
            if inner.by_edge.get(identity).is_some_and(|stream| stream.number == number) {
                inner.by_edge.remove(identity);
            }
        });
    }

    /// Ends all streams, and lets none in any more: the edges go to another replica.
    pub fn close(&self) {
        self.with(|inner| {
            inner.closed = true;
            for stream in inner.by_edge.values() {
                stream.end.send_replace(Some(Status::unavailable("this operator ends")));
            }
        });
    }

    /// Asks an edge. The parts of its answer, in their order.
    ///
    /// # Errors
    /// It is not here, does not answer in time, or says that it cannot.
    pub async fn ask(&self, identity: &Identity, what: What) -> Result<Vec<Answer>, AskError> {
        let orders = self.with(|inner| inner.by_edge.get(identity).map(|stream| stream.orders.clone()));
        let (reply, answer) = oneshot::channel();
        match orders.ok_or(AskError::NotHere)?.try_send(Order { what, reply }) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => return Err(AskError::Busy),
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(AskError::NotHere),
        }
        let parts = tokio::time::timeout(PATIENCE, answer).await.map_err(|_| AskError::Late)?;
        // The stream ended meanwhile.
        let parts = parts.map_err(|_| AskError::NotHere)?;
        let error = parts.iter().find_map(|part| match &part.what {
            Some(answer::What::Error(why)) => Some(why.clone()),
            _ => None,
        });
        error.map_or(Ok(parts), |why| Err(AskError::Refused(why)))
    }
}
