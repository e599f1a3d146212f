//! The stream of one edge: what it should hold goes out, what it says comes in.
//!
//! Memory of a slow edge: one message that waits for room, one in the queue, and what HTTP/2 has for it. What its session wants to say next is
//! made only when there is room for it. An edge that does not answer or does not read in time is dropped with its connection.

use super::Clock;
use super::accept::Peer;
use super::streams::{Entered, MAX_QUERIES, Order};
use crate::board::Board;
use crate::identity::Identity;
use crate::key::{Key, Kind};
use crate::plan::delta::{Breach, MAX_ENTRIES, Session, UNANSWERED_MS};
use crate::plan::fleet::{Attachment, DrainOrder, Edge, MAX_REPORTED};
use edge_api::control::edge_control_server::EdgeControl;
use edge_api::control::{Answer, Drain, FromEdge, Hello, Query, ToEdge, from_edge, to_edge};
use futures_util::Stream;
use futures_util::stream::unfold;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tonic::{Request, Response, Status, Streaming};

/// For the whole of Hello.
const GREETING: Duration = Duration::from_secs(10);
/// For the last word to be read.
const FAREWELL: Duration = Duration::from_secs(5);
/// Messages of one answer to a query; more is refused.
const MAX_PARTS: usize = 64;

pub(super) struct Control {
    board: Arc<Board>,
    /// Changes when sessions may have something new to say.
    told: watch::Receiver<u64>,
    clock: Clock,
}

impl Control {
    pub fn new(board: Arc<Board>, told: watch::Receiver<u64>, clock: Clock) -> Self {
        Control { board, told, clock }
    }
}

#[tonic::async_trait]
impl EdgeControl for Control {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<ToEdge, Status>> + Send>>;

    async fn attach(&self, request: Request<Streaming<FromEdge>>) -> Result<Response<Self::AttachStream>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let peer = peer.ok_or_else(|| Status::internal("a connection of unknown origin"))?;
        let identity = peer.edge.as_deref().cloned();
        let refused = || Status::unauthenticated("no certificate of an edge was shown; enrol first");
        let identity = identity.ok_or_else(refused)?;
        let (out, messages) = mpsc::channel(1);
        let (end, ended) = watch::channel(None);
        let attached = Attached {
            identity,
            board: self.board.clone(),
            clock: self.clock.clone(),
            out,
            number: 0,
            drain: None,
            queries: BTreeMap::new(),
            last_query: 0,
        };
        tokio::spawn(attached.run(request.into_inner(), self.told.clone(), end, ended.clone(), peer));
        Ok(Response::new(Box::pin(outgoing(messages, ended))))
    }
}

/// What is sent: messages, and the end before anything that still waits.
pub(super) fn outgoing<T: Send + 'static>(
    messages: mpsc::Receiver<T>,
    ended: watch::Receiver<Option<Status>>,
) -> impl Stream<Item = Result<T, Status>> + Send {
    unfold(Some((messages, ended)), |state| async move {
        let (mut messages, mut ended) = state?;
        let status = tokio::select! {
            biased;
            status = over(&mut ended) => Some(status),
            message = messages.recv() => match message {
                Some(message) => return Some((Ok(message), Some((messages, ended)))),
                None => None,
            },
        };
        Some((Err(status.unwrap_or_else(|| Status::unavailable("the stream ended"))), None))
    })
}

/// Waits until a stream is to end.
pub(super) async fn over(ended: &mut watch::Receiver<Option<Status>>) -> Status {
    match ended.wait_for(Option::is_some).await {
        Ok(status) => status.clone().unwrap_or_else(|| Status::unavailable("the stream ended")),
        Err(_) => Status::unavailable("the stream ended"),
    }
}

/// One stream.
struct Attached {
    identity: Identity,
    board: Arc<Board>,
    clock: Clock,
    out: mpsc::Sender<ToEdge>,
    /// Among the streams of this process.
    number: u64,
    /// The order that the edge knows.
    drain: Option<DrainOrder>,
    /// Sent, by id.
    queries: BTreeMap<u64, Asked>,
    last_query: u64,
}

/// A query without its whole answer.
struct Asked {
    reply: oneshot::Sender<Vec<Answer>>,
    parts: Vec<Answer>,
}

impl Attached {
    async fn run(
        mut self,
        mut messages: Streaming<FromEdge>,
        mut told: watch::Receiver<u64>,
        end: watch::Sender<Option<Status>>,
        mut ended: watch::Receiver<Option<Status>>,
        peer: Peer,
    ) {
        let why = match timeout(GREETING, self.greet(&mut messages, &end)).await {
            Ok(Ok(entered)) => {
                self.number = entered.number;
                tracing::info!(edge = %self.identity, "attached");
                let why = self.serve(&mut messages, &mut told, &mut ended, entered.orders).await;
                self.leave();
                why
            }
            Ok(Err(why)) => why,
            Err(_) => Status::deadline_exceeded("no Hello in time"),
        };
        tracing::info!(edge = %self.identity, code = ?why.code(), "detached: {}", why.message());
        end.send_replace(Some(why));
        // It takes its last word, or it does not read.
        if timeout(FAREWELL, self.out.closed()).await.is_err() {
            peer.cut_off();
        }
    }

    async fn greet(
        &mut self,
        messages: &mut Streaming<FromEdge>,
        end: &watch::Sender<Option<Status>>,
    ) -> Result<Entered, Status> {
        let mut session = Session::default();
        let mut first = None;
        loop {
            let Some(from_edge::Message::Hello(hello)) = message(messages).await? else {
                return Err(breach(&Breach::BeforeHello));
            };
            if hello.held.len() > MAX_ENTRIES {
                return Err(Status::resource_exhausted(format!("more than {MAX_ENTRIES} objects in one Hello")));
            }
            let whole = session.hello(&hello).map_err(|error| breach(&error))?;
            let first = first.get_or_insert(Hello { held: Vec::new(), ..hello });
            if whole {
                break self.enter(first, session, end);
            }
        }
    }

    /// From now on the edge counts as connected.
    fn enter(
        &self,
        hello: &Hello,
        mut session: Session,
        end: &watch::Sender<Option<Status>>,
    ) -> Result<Entered, Status> {
        let Identity { edge, pod } = &self.identity;
        let named = hello.edge.as_ref().and_then(Key::from_message);
        if named != Some(Key::new(Kind::SipEdge, edge.clone())) || hello.edge_id != self.identity.id() {
            return Err(Status::permission_denied(format!(
                "the certificate is of {} of SipEdge {edge}, and Hello names another edge",
                self.identity
            )));
        }
        self.board.change(|state| {
            let fleet = state.fleets.entry(edge.clone()).or_default();
            // A process that has no epoch yet is a new one: whatever lived before it is gone.
            let before = fleet.edges.get(pod).map_or(0, |before| before.epoch);
            if hello.epoch != 0 && hello.epoch < before {
                return Err(Status::aborted("a later life of the same edge is attached"));
            }
            let entered = self.board.streams().enter(&self.identity, end.clone());
            let entered = entered.ok_or_else(|| Status::unavailable("this operator ends"))?;
            if let Some(wanted) = state.wants.of(edge) {
                session.want(wanted.clone(), state.wants.is_complete());
            }
            let attachment = Attachment::Here { number: entered.number };
            let since_ms = i64::try_from((self.clock.mono_ms)()).unwrap_or(i64::MAX);
            fleet.attach(pod, Edge { attachment, since_ms, epoch: hello.epoch, session, ..Edge::default() });
            Ok(entered)
        })
    }

    fn leave(&self) {
        let Identity { edge, pod } = &self.identity;
        self.board.streams().leave(&self.identity, self.number);
        self.board.change(|state| {
            let Some(fleet) = state.fleets.get_mut(edge) else { return };
            let ours = Attachment::Here { number: self.number };
            fleet.detach(|of, attachment| of == pod && *attachment == ours);
        });
    }

    /// Until it ends; says why.
    async fn serve(
        &mut self,
        messages: &mut Streaming<FromEdge>,
        told: &mut watch::Receiver<u64>,
        ended: &mut watch::Receiver<Option<Status>>,
        mut orders: mpsc::Receiver<Order>,
    ) -> Status {
        let mut tick = tokio::time::interval(self.clock.tick);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let out = self.out.clone();
        // What waits for room, and since when.
        let mut staged: Option<(ToEdge, u64)> = None;
        loop {
            let now = (self.clock.mono_ms)();
            if staged.is_none() {
                staged = self.next(now).map(|message| (message, now));
            }
            tokio::select! {
                status = over(ended) => return status,
                message = message(messages) => {
                    let result = message.and_then(|message| match message {
                        Some(message) => self.take(message),
                        None => Err(Status::cancelled("the edge ended the stream")),
                    });
                    if let Err(status) = result {
                        return status;
                    }
                }
                room = out.reserve(), if staged.is_some() => match (room, staged.take()) {
                    (Ok(room), Some((message, _))) => room.send(message),
                    _ => return Status::cancelled("the edge is gone"),
                },
                Ok(()) = told.changed() => {}
                Some(order) = orders.recv(), if staged.is_none() && self.queries.len() < MAX_QUERIES => {
                    self.queries.retain(|_, asked| !asked.reply.is_closed());
                    self.last_query += 1;
                    let query = Query { id: self.last_query, what: Some(order.what) };
                    self.queries.insert(self.last_query, Asked { reply: order.reply, parts: Vec::new() });
                    staged = Some((ToEdge { message: Some(to_edge::Message::Query(query)) }, now));
                }
                _ = tick.tick() => {
                    let now = (self.clock.mono_ms)();
                    self.queries.retain(|_, asked| !asked.reply.is_closed());
                    let stuck = staged.as_ref().is_some_and(|(_, since)| now.saturating_sub(*since) >= UNANSWERED_MS);
                    match self.edge(|edge| edge.session.is_overdue(now)) {
                        None => return replaced(),
                        Some(overdue) if overdue || stuck => {
                            return Status::resource_exhausted("the edge does not acknowledge what it is sent");
                        }
                        Some(_) => {}
                    }
                }
            }
        }
    }

    /// The edge as everybody sees it; `None` where another stream took its place.
    fn edge<R>(&self, work: impl FnOnce(&mut Edge) -> R) -> Option<R> {
        let Identity { edge, pod } = &self.identity;
        self.board.quietly(|state| {
            Some(work(state.fleets.get_mut(edge)?.attached(pod, &Attachment::Here { number: self.number })?))
        })
    }

    /// The next thing to say.
    fn next(&mut self, now: u64) -> Option<ToEdge> {
        let Identity { edge, pod } = &self.identity;
        let wanted = self.board.quietly(|state| state.fleets.get(edge)?.drains.get(pod).cloned());
        if wanted != self.drain {
            let message = match &wanted {
                Some(DrainOrder { deadline_s, reason }) => {
                    Drain { deadline_s: (*deadline_s).clamp(1, 86_400), reason: reason.clone(), cancel: false }
                }
                None => Drain { deadline_s: 1, cancel: true, ..Drain::default() },
            };
            self.drain = wanted;
            return Some(ToEdge { message: Some(to_edge::Message::Drain(message)) });
        }
        let delta = self.edge(|edge| {
            let delta = edge.session.poll(now)?;
            edge.revision = edge.revision.wrapping_add(1);
            Some(delta)
        })??;
        Some(ToEdge { message: Some(to_edge::Message::Delta(delta)) })
    }

    /// Takes what the edge says.
    fn take(&mut self, message: from_edge::Message) -> Result<(), Status> {
        match message {
            from_edge::Message::Hello(_) => Err(breach(&Breach::SecondHello)),
            from_edge::Message::Results(results) => {
                let taken = self.edge(|edge| {
                    edge.revision = edge.revision.wrapping_add(1);
                    edge.session.results(&results)
                });
                let taken = taken.ok_or_else(replaced)?;
                taken.map_err(|error| breach(&error))?;
                // Whoever counts who has what looks again, also where the last word is the same as before.
                self.board.change(|_| ());
                Ok(())
            }
            from_edge::Message::Report(report) => {
                if report.agents.len() > MAX_REPORTED {
                    return Err(Status::resource_exhausted(format!("more than {MAX_REPORTED} agents in one Report")));
                }
                if self.edge(|edge| edge.report(report)).ok_or_else(replaced)? {
                    self.board.change(|_| ());
                }
                Ok(())
            }
            from_edge::Message::Answer(answer) => {
                self.answer(answer);
                Ok(())
            }
        }
    }

    fn answer(&mut self, answer: Answer) {
        let (id, more) = (answer.query_id, answer.more);
        // Whoever asked may have given up.
        let Some(asked) = self.queries.get_mut(&id) else { return };
        asked.parts.push(answer);
        if more {
            if asked.parts.len() >= MAX_PARTS {
                self.queries.remove(&id);
            }
        } else if let Some(asked) = self.queries.remove(&id) {
            let _ = asked.reply.send(asked.parts);
        }
    }
}

fn replaced() -> Status {
    Status::aborted("the same edge connected again")
}

/// `Ok(None)`: the edge ended the stream.
async fn message(messages: &mut Streaming<FromEdge>) -> Result<Option<from_edge::Message>, Status> {
    match messages.message().await? {
        None => Ok(None),
        Some(FromEdge { message: Some(message) }) => Ok(Some(message)),
        // Of a later release. Nobody waits for an answer to it here.
        Some(FromEdge { message: None }) => Err(Status::failed_precondition("a message that is not known here")),
    }
}

fn breach(breach: &Breach) -> Status {
    match breach {
        Breach::BeforeHello | Breach::SecondHello | Breach::UnknownNonce(_) => {
            Status::failed_precondition(breach.to_string())
        }
        Breach::TooManyHeld | Breach::TooManyResults | Breach::LongVersion => {
            Status::resource_exhausted(breach.to_string())
        }
    }
}
