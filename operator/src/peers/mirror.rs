//! This replica's end of the stream to the holder of the Lease: its edges go up, orders and questions come down. It begins anew whenever it ends or
//! another replica becomes the holder, and rests while this one is.

use super::contract::operator_peer_client::OperatorPeerClient;
use super::contract::{self, Failure, FromReplica, ToReplica, Told, from_replica, to_replica};
use super::orders::Orders;
use super::reach::{Reach, Way};
use super::telling::Telling;
use super::{MAX_ASKS, MAX_MESSAGE, identity};
use crate::authority::Authority;
use crate::board::Board;
use crate::serve::Clock;
use crate::serve::streams::AskError;
use futures_util::stream::unfold;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

/// For TCP, TLS and HTTP/2 together, and for the answer to the call.
const CONNECT: Duration = Duration::from_secs(5);
/// Before the first try after one that failed, and the most.
const AGAIN: Duration = Duration::from_millis(200);
const AGAIN_AT_MOST: Duration = Duration::from_secs(2);
/// At most so long many changes become one, beyond the time that it takes to tell them.
const COALESCE: Duration = Duration::from_millis(5);
/// Counters change without waking anybody; and the holder has to hear something.
const BEAT: Duration = Duration::from_secs(2);
/// Messages that wait for room.
const AHEAD: usize = 4;

/// See the module.
pub struct Mirror {
    pub board: Arc<Board>,
    pub authority: Arc<Authority>,
    /// Who this replica is, `namespace/pod`.
    pub replica: String,
    pub reach: Arc<dyn Reach>,
    pub clock: Clock,
}

impl Mirror {
    /// Until `shutdown` is done. `holder`: another replica that holds the Lease, as it stands there.
    pub async fn run(self, holder: watch::Receiver<Option<String>>, shutdown: impl Future<Output = ()>) {
        tokio::select! {
            () = self.follow(holder) => {}
            () = shutdown => {}
        }
    }

    async fn follow(&self, mut holder: watch::Receiver<Option<String>>) {
        let (mut pause, mut said) = (AGAIN, String::new());
        loop {
            let Some(name) = holder.borrow_and_update().clone() else {
                if holder.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let stood = Instant::now();
            let why = tokio::select! {
                why = self.attempt(&name) => why,
                changed = holder.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
            };
            if stood.elapsed() > AGAIN_AT_MOST {
                pause = AGAIN;
                said.clear();
            }
            // The same again and again is said once.
            if said != why {
                tracing::warn!(
                    holder = name,
                    "the holder of the Lease is not told of the edges here: {why}; it is tried again"
                );
                said = why;
            }
            tokio::select! {
                () = sleep(pause) => pause = (pause * 2).min(AGAIN_AT_MOST),
                changed = holder.changed() => if changed.is_err() { return },
            }
        }
    }

    /// One stream; says why it ended.
    async fn attempt(&self, holder: &str) -> String {
        let connected = match self.connect(holder).await {
            Ok(channel) => channel,
            Err(why) => return why,
        };
        let mut client = OperatorPeerClient::new(connected)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let (out, messages) = mpsc::channel(AHEAD);
        let messages = unfold(messages, |mut rest| async move { rest.recv().await.map(|next| (next, rest)) });
        let incoming = match timeout(CONNECT, client.mirror(Request::new(messages))).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return said(&status),
            Err(_) => return "no answer in time".to_owned(),
        };
        tracing::info!(holder, "the holder of the Lease is told of the edges here");
        let orders = Mutex::new(None);
        tokio::select! {
            () = self.tell(&out, &orders) => "the stream ended".to_owned(),
            why = self.listen(incoming, &out, &orders) => why,
        }
    }

    async fn connect(&self, holder: &str) -> Result<Channel, String> {
        let address = self.reach.address(holder).await?.edges;
        let unusable = |error: crate::authority::Unusable| error.to_string();
        let key = self.authority.certify_replica(&self.replica, (self.clock.unix)()).map_err(unusable)?;
        let config = self.authority.client(Some(key), b"h2").map_err(unusable)?;
        let name = self.authority.names().into_iter().next().ok_or("this operator has no name")?;
        let endpoint = Endpoint::from_static("http://operator.invalid")
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(Duration::from_secs(4))
            .keep_alive_timeout(Duration::from_secs(3))
            .keep_alive_while_idle(true);
        let connected = timeout(CONNECT, endpoint.connect_with_connector(Way { address, name, config })).await;
        let connected = connected.map_err(|_| format!("no connection to {address} in time"))?;
        connected.map_err(|error| format!("{address}: {}", innermost(&error)))
    }

    /// Tells what changed, as fast as the holder takes it. Returns when it takes no more.
    async fn tell(&self, out: &mpsc::Sender<FromReplica>, orders: &Mutex<Option<Orders>>) {
        let mut telling = Telling::default();
        let mut revisions = self.board.revisions();
        loop {
            revisions.borrow_and_update();
            let begin = Instant::now();
            self.impose(orders);
            let (left, changed) = self.board.quietly(|state| {
                let left = telling.left(&state.fleets);
                (left, telling.changed(&state.fleets))
            });
            for left in left {
                if say(out, from_replica::Message::Left(left)).await.is_err() {
                    return;
                }
            }
            for edge in changed {
                let now = i64::try_from((self.clock.mono_ms)()).unwrap_or(i64::MAX);
                let messages = self.board.quietly(|state| telling.edge(&state.fleets, &edge, now));
                for message in messages {
                    if say(out, from_replica::Message::Edge(message)).await.is_err() {
                        return;
                    }
                }
            }
            if say(out, from_replica::Message::Told(Told {})).await.is_err() {
                return;
            }
            sleep(begin.elapsed().max(COALESCE)).await;
            // The board lives as long as this.
            let _ = timeout(BEAT, revisions.changed()).await;
        }
    }

    /// What the holder ordered stands, whatever became of it here meanwhile: only the holder knows which pods are to drain.
    fn impose(&self, orders: &Mutex<Option<Orders>>) {
        // A panic under the lock leaves a whole value.
        let orders = orders.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(orders) = orders
            && self.board.quietly(|state| orders.impose(&mut state.fleets))
        {
            self.board.change(|_| ());
        }
    }

    /// Takes what the holder says until the stream ends; says why.
    async fn listen(
        &self,
        mut incoming: Streaming<ToReplica>,
        out: &mpsc::Sender<FromReplica>,
        orders: &Mutex<Option<Orders>>,
    ) -> String {
        let places = Arc::new(Semaphore::new(MAX_ASKS));
        // They end with this.
        let mut asked = JoinSet::new();
        loop {
            let message = match incoming.message().await {
                Ok(Some(message)) => message.message,
                Ok(None) => return "the holder ended the stream".to_owned(),
                Err(status) => return said(&status),
            };
            while asked.try_join_next().is_some() {}
            match message {
                Some(to_replica::Message::Orders(message)) => {
                    let Some(given) = Orders::from_message(message) else {
                        return "the holder gives more orders than there may be".to_owned();
                    };
                    *orders.lock().unwrap_or_else(PoisonError::into_inner) = Some(given);
                    self.impose(orders);
                }
                Some(to_replica::Message::Ask(ask)) => {
                    let (board, out) = (self.board.clone(), out.clone());
                    let place = places.clone().try_acquire_owned().ok();
                    asked.spawn(async move {
                        let answers = match place {
                            Some(_) => answer(&board, ask).await,
                            None => vec![failed(ask.id, AskError::Busy)],
                        };
                        for part in answers {
                            if say(&out, from_replica::Message::Answer(part)).await.is_err() {
                                return;
                            }
                        }
                    });
                }
                // Of a later release.
                None => {}
            }
        }
    }
}

/// # Errors
/// The stream is over.
async fn say(out: &mpsc::Sender<FromReplica>, message: from_replica::Message) -> Result<(), ()> {
    out.send(FromReplica { message: Some(message) }).await.map_err(|_| ())
}

/// Asks an edge of this replica.
async fn answer(board: &Board, ask: contract::Ask) -> Vec<contract::Answer> {
    let id = ask.id;
    let question = identity(ask.pod.as_ref()).zip(ask.query.and_then(|query| query.what));
    let Some((edge, what)) = question else {
        return vec![failed(id, AskError::Refused("a question that is not known here".to_owned()))];
    };
    match board.streams().ask(&edge, what).await {
        Ok(parts) => {
            let last = parts.len().saturating_sub(1);
            let part = |(at, part)| contract::Answer { id, part: Some(part), more: at < last, ..Default::default() };
            parts.into_iter().enumerate().map(part).collect()
        }
        Err(error) => vec![failed(id, error)],
    }
}

fn failed(id: u64, error: AskError) -> contract::Answer {
    let (failure, message) = match error {
        AskError::NotHere => (Failure::NotHere, String::new()),
        AskError::Busy => (Failure::Busy, String::new()),
        AskError::Late => (Failure::Late, String::new()),
        AskError::Refused(message) => (Failure::Refused, message),
    };
    contract::Answer { id, failure: failure.into(), message, ..contract::Answer::default() }
}

fn said(status: &Status) -> String {
    match status.source() {
        Some(source) => format!("{:?}: {}", status.code(), innermost(source)),
        None => format!("{:?}: {}", status.code(), status.message()),
    }
}

/// The innermost reason says most.
fn innermost(error: &dyn Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
