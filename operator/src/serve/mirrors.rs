//! The holder's end of the streams of the other replicas: what their edges say comes in, orders to drain and questions go out.
//!
//! Memory of a slow replica: one message that waits for room, one in the queue, and what HTTP/2 has for it. Orders are made only when there is room
//! for them. What a replica told stays for a moment after its stream ended ([`Clock::grace`]): it connects again, or its edges go to another one.

use super::accept::Peer;
use super::attach::{outgoing, over};
use super::streams::AskError;
use super::{Clock, PATIENCE_MORE};
use crate::board::Board;
use crate::identity::Identity;
use crate::peers::contract::operator_peer_server::OperatorPeer;
use crate::peers::contract::{Answer as Part, Ask, Failure, FromReplica, ToReplica, from_replica, to_replica};
use crate::peers::orders::Orders;
use crate::peers::taking::{Taking, Wrong};
use crate::peers::{MAX_ASKS, pod};
use crate::serve::streams::PATIENCE;
use edge_api::control::query::What;
use edge_api::control::{Answer, Query};
use futures_util::Stream;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tonic::{Request, Response, Status, Streaming};

/// Replicas at one time. An upgrade has a few more than there are to be.
const MAX_REPLICAS: usize = 16;
/// Milliseconds after which a replica that says nothing is given up.
pub const SILENCE_MS: u64 = 8_000;
/// Messages of one answer; more is refused.
const MAX_PARTS: usize = 64;
/// For the last word to be read.
const FAREWELL: Duration = Duration::from_secs(5);

/// A question on its way to an edge of another replica, and who waits for the answer.
#[derive(Debug)]
struct Order {
    edge: Identity,
    what: What,
    reply: oneshot::Sender<Result<Vec<Answer>, AskError>>,
}

/// The streams of the other replicas to this one.
#[derive(Debug, Default)]
pub struct Mirrors {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    last: u64,
    by_replica: BTreeMap<Arc<str>, Link>,
    closed: bool,
}

#[derive(Debug)]
struct Link {
    number: u64,
    end: watch::Sender<Option<Status>>,
    orders: mpsc::Sender<Order>,
}

impl Mirrors {
    fn with<R>(&self, work: impl FnOnce(&mut Inner) -> R) -> R {
        // A panic under the lock leaves a whole map.
        work(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A stream begins; an earlier one of the same replica ends.
    fn enter(
        &self,
        replica: &Arc<str>,
        end: watch::Sender<Option<Status>>,
    ) -> Result<(u64, mpsc::Receiver<Order>), Status> {
        self.with(|inner| {
            if inner.closed {
                return Err(Status::unavailable("this operator ends"));
            }
            if inner.by_replica.len() >= MAX_REPLICAS && !inner.by_replica.contains_key(replica) {
                return Err(Status::resource_exhausted(format!("more than {MAX_REPLICAS} replicas")));
            }
            inner.last += 1;
            let (sender, orders) = mpsc::channel(MAX_ASKS);
            let link = Link { number: inner.last, end, orders: sender };
            if let Some(before) = inner.by_replica.insert(replica.clone(), link) {
                before.end.send_replace(Some(Status::aborted("the same replica connected again")));
            }
            Ok((inner.last, orders))
        })
    }

    fn leave(&self, replica: &Arc<str>, number: u64) {
        self.with(|inner| {
            if inner.by_replica.get(replica).is_some_and(|link| link.number == number) {
                inner.by_replica.remove(replica);
            }
        });
    }

    /// Ends all streams, and lets none in any more.
    pub fn close(&self) {
        self.with(|inner| {
            inner.closed = true;
            for link in inner.by_replica.values() {
                link.end.send_replace(Some(Status::unavailable("this operator ends")));
            }
        });
    }

    /// Asks an edge that is attached to another replica. The parts of its answer, in their order.
    ///
    /// # Errors
    /// It is not there, does not answer in time, or says that it cannot.
    pub async fn ask(&self, replica: &Arc<str>, edge: &Identity, what: What) -> Result<Vec<Answer>, AskError> {
        let orders = self.with(|inner| inner.by_replica.get(replica).map(|link| link.orders.clone()));
        let (reply, answer) = oneshot::channel();
        match orders.ok_or(AskError::NotHere)?.try_send(Order { edge: edge.clone(), what, reply }) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => return Err(AskError::Busy),
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(AskError::NotHere),
        }
        // The replica gives the edge its time; the way there and back takes some more.
        let answer = timeout(PATIENCE + PATIENCE_MORE, answer).await.map_err(|_| AskError::Late)?;
        // The stream ended meanwhile.
        answer.map_err(|_| AskError::NotHere)?
    }
}

pub(super) struct Mirroring {
    board: Arc<Board>,
    /// Whether this replica holds the Lease.
    held: watch::Receiver<bool>,
    clock: Clock,
}

impl Mirroring {
    pub fn new(board: Arc<Board>, held: watch::Receiver<bool>, clock: Clock) -> Self {
        Mirroring { board, held, clock }
    }
}

#[tonic::async_trait]
impl OperatorPeer for Mirroring {
    type MirrorStream = Pin<Box<dyn Stream<Item = Result<ToReplica, Status>> + Send>>;

    async fn mirror(&self, request: Request<Streaming<FromReplica>>) -> Result<Response<Self::MirrorStream>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let peer = peer.ok_or_else(|| Status::internal("a connection of unknown origin"))?;
        let refused = || Status::unauthenticated("no certificate of a replica of the operator was shown");
        let replica = peer.replica.clone().ok_or_else(refused)?;
        if !*self.held.borrow() {
            return Err(not_the_holder());
        }
        let (out, messages) = mpsc::channel(1);
        let (end, ended) = watch::channel(None);
        let (number, orders) = self.board.mirrors().enter(&replica, end.clone())?;
        let mirrored = Mirrored {
            taking: Taking::new(replica.clone(), number),
            replica,
            number,
            board: self.board.clone(),
            clock: self.clock.clone(),
            out,
            asked: BTreeMap::new(),
            last_ask: 0,
        };
        let streams = Ends { messages: request.into_inner(), ended: ended.clone(), held: self.held.clone(), orders };
        tokio::spawn(mirrored.run(streams, end, peer));
        Ok(Response::new(Box::pin(outgoing(messages, ended))))
    }
}

fn not_the_holder() -> Status {
    Status::failed_precondition("this replica does not hold the Lease")
}

/// What one stream listens to.
struct Ends {
    messages: Streaming<FromReplica>,
    ended: watch::Receiver<Option<Status>>,
    held: watch::Receiver<bool>,
    orders: mpsc::Receiver<Order>,
}

/// One stream.
struct Mirrored {
    replica: Arc<str>,
    number: u64,
    taking: Taking,
    board: Arc<Board>,
    clock: Clock,
    out: mpsc::Sender<ToReplica>,
    /// Sent, by id.
    asked: BTreeMap<u64, Asked>,
    last_ask: u64,
}

/// A question without its whole answer.
struct Asked {
    reply: oneshot::Sender<Result<Vec<Answer>, AskError>>,
    parts: Vec<Answer>,
}

impl Mirrored {
    async fn run(mut self, streams: Ends, end: watch::Sender<Option<Status>>, peer: Peer) {
        tracing::info!(replica = &*self.replica, "another replica tells of its edges");
        let why = self.serve(streams).await;
        tracing::info!(replica = &*self.replica, code = ?why.code(), "it tells no more: {}", why.message());
        self.board.mirrors().leave(&self.replica, self.number);
        end.send_replace(Some(why));
        let Mirrored { taking, board, clock, out, .. } = self;
        let farewell = async {
            // It takes its last word, or it does not read.
            if timeout(FAREWELL, out.closed()).await.is_err() {
                peer.cut_off();
            }
        };
        let forget = async {
            tokio::time::sleep(clock.grace).await;
            if board.quietly(|state| taking.over(&mut state.fleets)) {
                board.change(|_| ());
            }
        };
        tokio::join!(farewell, forget);
    }

    /// Until it ends; says why.
    async fn serve(&mut self, streams: Ends) -> Status {
        let Ends { mut messages, mut ended, mut held, mut orders } = streams;
        let mut tick = tokio::time::interval(self.clock.tick);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut revisions = self.board.revisions();
        let out = self.out.clone();
        let mut heard = (self.clock.mono_ms)();
        let mut sent: Option<Orders> = None;
        let mut staged: Option<ToReplica> = None;
        loop {
            if staged.is_none() {
                revisions.borrow_and_update();
                let stand = self.board.quietly(|state| Orders::of(&state.fleets));
                if sent.as_ref() != Some(&stand) {
                    staged = Some(ToReplica { message: Some(to_replica::Message::Orders(stand.to_message())) });
                    sent = Some(stand);
                }
            }
            tokio::select! {
                status = over(&mut ended) => return status,
                _ = held.wait_for(|held| !held) => return Status::unavailable("this replica holds the Lease no longer"),
                message = messages.message() => {
                    heard = (self.clock.mono_ms)();
                    let result = match message {
                        Ok(Some(FromReplica { message: Some(message) })) => self.take(message),
                        // Of a later release. Nobody waits for an answer to it.
                        Ok(Some(FromReplica { message: None })) => Ok(()),
                        Ok(None) => Err(Status::cancelled("the replica ended the stream")),
                        Err(status) => Err(status),
                    };
                    if let Err(status) = result {
                        return status;
                    }
                }
                room = out.reserve(), if staged.is_some() => match (room, staged.take()) {
                    (Ok(room), Some(message)) => room.send(message),
                    _ => return Status::cancelled("the replica is gone"),
                },
                Ok(()) = revisions.changed(), if staged.is_none() => {}
                Some(order) = orders.recv(), if staged.is_none() && self.asked.len() < MAX_ASKS => {
                    staged = Some(self.ask(order));
                }
                _ = tick.tick() => {
                    self.asked.retain(|_, asked| !asked.reply.is_closed());
                    if (self.clock.mono_ms)().saturating_sub(heard) >= SILENCE_MS {
                        return Status::deadline_exceeded("nothing was said for too long");
                    }
                }
            }
        }
    }

    fn ask(&mut self, order: Order) -> ToReplica {
        let Order { edge, what, reply } = order;
        self.last_ask += 1;
        self.asked.insert(self.last_ask, Asked { reply, parts: Vec::new() });
        let query = Query { id: 0, what: Some(what) };
        let ask = Ask { id: self.last_ask, pod: Some(pod(&edge)), query: Some(query) };
        ToReplica { message: Some(to_replica::Message::Ask(ask)) }
    }

    /// Takes what the replica says.
    fn take(&mut self, message: from_replica::Message) -> Result<(), Status> {
        let changed = match message {
            from_replica::Message::Edge(message) => {
                let now = i64::try_from((self.clock.mono_ms)()).unwrap_or(i64::MAX);
                let change = self.taking.edge(message).map_err(|wrong| refusal(&wrong))?;
                let apply = |change: crate::peers::taking::Change| self.board.quietly(|state| change.apply(state, now));
                change.map_or(Ok(false), apply).map_err(|wrong| refusal(&wrong))?
            }
            from_replica::Message::Left(message) => {
                let left = self.board.quietly(|state| self.taking.left(&mut state.fleets, &message));
                left.map_err(|wrong| refusal(&wrong))?
            }
            from_replica::Message::Told(_) => self.board.quietly(|state| self.taking.told(&mut state.fleets)),
            from_replica::Message::Answer(part) => {
                self.answer(part);
                false
            }
        };
        if changed {
            self.board.change(|_| ());
        }
        Ok(())
    }

    fn answer(&mut self, part: Part) {
        let failure = part.failure();
        let Part { id, part, more, message, .. } = part;
        // Whoever asked may have given up.
        let Some(asked) = self.asked.get_mut(&id) else { return };
        let result = match (failure, part) {
            (Failure::Unspecified, Some(part)) => {
                asked.parts.push(part);
                if more && asked.parts.len() < MAX_PARTS {
                    return;
                }
                if more { Err(AskError::Refused("its answer is too long".to_owned())) } else { Ok(()) }
            }
            (Failure::Busy, _) => Err(AskError::Busy),
            (Failure::Late, _) => Err(AskError::Late),
            (Failure::Refused, _) => Err(AskError::Refused(message.chars().take(1024).collect())),
            (Failure::NotHere | Failure::Unspecified, _) => Err(AskError::NotHere),
        };
        if let Some(Asked { reply, parts }) = self.asked.remove(&id) {
            let _ = reply.send(result.map(|()| parts));
        }
    }
}

fn refusal(wrong: &Wrong) -> Status {
    if wrong.is_limit() {
        Status::resource_exhausted(wrong.to_string())
    } else {
        Status::failed_precondition(wrong.to_string())
    }
}
