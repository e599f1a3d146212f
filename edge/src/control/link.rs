//! The stream to an operator, made again whenever it ends.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use edge_api::control::edge_control_client::EdgeControlClient;
use edge_api::control::{Answer, ConfigSource, FromEdge, Hello, Kind, ToEdge, from_edge, to_edge};
use prost::Message as _;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until, timeout};
use tonic::{Code, Request, Status, Streaming};

use super::answers::answer;
use super::enrol::{Enrolled, attached, enrol};
use super::held::Key;
use super::report::Reported;
use super::{Shared, wake};
use crate::grpc::refusal;

/// Octets of one message, both ways, as the contract has it.
const MAX_MESSAGE: usize = 4 << 20;
/// Objects in one Hello, as the contract has it.
const MAX_ENTRIES: usize = 4096;
/// Queries that are being answered, as the contract has it.
const MAX_QUERIES: usize = 8;
/// After the first stream that failed; doubled up to the last one. Each is between half of it and one and a half times.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LAST_PAUSE: Duration = Duration::from_secs(10);
/// After a certificate that could not be renewed.
const RENEW_AGAIN: Duration = Duration::from_secs(60);
/// For the operator to take the stream.
const ATTACH: Duration = Duration::from_secs(10);
/// How often the drain state is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// Messages of ours that wait for the operator.
const QUEUE: usize = 8;

/// Why a stream ended.
struct Broken {
    reason: String,
    /// The certificate was not taken: a new one may be.
    stranger: bool,
    /// The operator had said everything.
    worked: bool,
}

impl From<String> for Broken {
    fn from(reason: String) -> Self {
        Broken { reason, stranger: false, worked: false }
    }
}

pub async fn run(shared: Arc<Shared>) {
    let mut pause = FIRST_PAUSE;
    let mut enrolled: Option<Arc<Enrolled>> = None;
    let mut failures = 0_u32;
    let mut reported = Reported::default();
    loop {
        let Broken { reason, stranger, worked } = attempt(&shared, &mut enrolled, &mut reported).await;
        shared.with(|state| {
            state.connected = false;
            state.trouble.clone_from(&reason);
        });
        if worked {
            (pause, failures) = (FIRST_PAUSE, 0);
        }
        failures += 1;
        // Also where TLS broke for a reason that does not say so: the authority may be another one.
        if stranger || failures.is_multiple_of(4) {
            enrolled = None;
        }
        tracing::warn!(reason, "no control stream; what is held goes on");
        sleep(jittered(pause)).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

async fn attempt(shared: &Arc<Shared>, enrolled: &mut Option<Arc<Enrolled>>, reported: &mut Reported) -> Broken {
    let known = enrolled.take().filter(|enrolled| Instant::now() < enrolled.ends_at);
    let current = match known {
        Some(known) => known,
        None => match renew(shared).await {
            Ok(new) => new,
            Err(reason) => return reason.into(),
        },
    };
    *enrolled = Some(current.clone());
    let channel = match attached(&shared.settings, &current).await {
        Ok(channel) => channel,
        Err(reason) => return reason.into(),
    };
    let mut client = EdgeControlClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE + (64 << 10))
        .max_encoding_message_size(MAX_MESSAGE);
    let (out, messages) = mpsc::channel::<FromEdge>(QUEUE);
    let messages =
        futures_util::stream::unfold(messages, |mut rest| async move { rest.recv().await.map(|next| (next, rest)) });
    let (hellos, results) = greeting(shared);
    let mut said: VecDeque<FromEdge> = hellos.into();
    said.extend(results);
    let taken = match timeout(ATTACH, client.attach(Request::new(messages))).await {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => return broken(&status, false),
        Err(_) => return "the operator does not take the stream".to_owned().into(),
    };
    reported.begin();
    let mut stream = Stream {
        shared: shared.clone(),
        out,
        said,
        reported,
        queries: Arc::new(Semaphore::new(MAX_QUERIES)),
        complete: false,
    };
    let status = stream.serve(taken, enrolled).await;
    broken(&status, stream.complete)
}

fn broken(status: &Status, worked: bool) -> Broken {
    let stranger = matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied);
    Broken { reason: refusal(status), stranger, worked }
}

async fn renew(shared: &Shared) -> Result<Arc<Enrolled>, String> {
    let enrolled = Arc::new(enrol(&shared.settings).await?);
    tracing::info!("enrolled at the operator");
    shared.enrolled.send_replace(Some(enrolled.clone()));
    Ok(enrolled)
}

/// Hello in as many messages as it needs, and what the operator must know of what is not in use.
fn greeting(shared: &Shared) -> (Vec<FromEdge>, Vec<FromEdge>) {
    let (versions, results, source) = shared.with(|state| {
        state.held.begin();
        (state.held.versions(), state.ledger.begin(), state.source.unwrap_or(ConfigSource::None))
    });
    let mut pieces: Vec<Vec<_>> = versions.chunks(MAX_ENTRIES).map(<[_]>::to_vec).collect();
    if pieces.is_empty() {
        pieces.push(Vec::new());
    }
    let last = pieces.len() - 1;
    let settings = &shared.settings;
    let hello = |(index, held): (usize, Vec<_>)| match index {
        0 => Hello {
            edge: Some(Key::new(Kind::SipEdge, settings.edge.clone()).to_message()),
            edge_id: settings.id(),
            epoch: shared.reporter.epoch(),
            build: env!("CARGO_PKG_VERSION").to_owned(),
            config_source: source.into(),
            held,
            more: index < last,
        },
        _ => Hello { held, more: index < last, ..Hello::default() },
    };
    let hellos = pieces.into_iter().enumerate().map(hello).map(from_edge::Message::Hello);
    let results = results.into_iter().map(from_edge::Message::Results);
    (hellos.map(wrapped).collect(), results.map(wrapped).collect())
}

fn wrapped(message: from_edge::Message) -> FromEdge {
    FromEdge { message: Some(message) }
}

struct Stream<'a> {
    shared: Arc<Shared>,
    out: mpsc::Sender<FromEdge>,
    /// To be sent before anything else.
    said: VecDeque<FromEdge>,
    reported: &'a mut Reported,
    /// A place for each query that is being answered.
    queries: Arc<Semaphore>,
    /// The operator has said everything on this stream.
    complete: bool,
}

impl Stream<'_> {
    async fn serve(&mut self, mut messages: Streaming<ToEdge>, enrolled: &mut Option<Arc<Enrolled>>) -> Status {
        let shared = self.shared.clone();
        let mut said = shared.said.subscribe();
        let (answers_in, mut answers) = mpsc::channel::<Answer>(MAX_QUERIES);
        let begin = Instant::now();
        let mut report = interval_at(begin + LOOK, shared.settings.report_every);
        report.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut look = interval_at(begin + LOOK, LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut renew_at = enrolled.as_ref().map_or(begin, |enrolled| enrolled.renew_at);
        let out = self.out.clone();
        loop {
            if self.said.is_empty() {
                self.said.extend(shared.with(|state| state.ledger.pop()).map(from_edge::Message::Results).map(wrapped));
            }
            tokio::select! {
                biased;
                message = messages.message() => match message {
                    Ok(Some(message)) => if let Err(status) = self.take(message, &answers_in) {
                        return status;
                    },
                    Ok(None) => return Status::unavailable("the operator ended the stream"),
                    Err(status) => return status,
                },
                room = out.reserve(), if !self.said.is_empty() => match (room, self.said.pop_front()) {
                    (Ok(room), Some(message)) => room.send(message),
                    _ => return Status::unavailable("the operator is gone"),
                },
                Ok(()) = said.changed() => {}
                // The other end of the queue is held here.
                Some(answer) = answers.recv(), if self.said.len() < QUEUE => {
                    self.said.push_back(wrapped(from_edge::Message::Answer(answer)));
                }
                _ = report.tick(), if self.said.is_empty() => self.report().await,
                _ = look.tick() => {
                    if self.said.is_empty() && shared.reporter.drain_state() != self.reported.drain {
                        self.report().await;
                    }
                }
                () = sleep_until(renew_at) => match renew(&shared).await {
                    // This stream was begun with the old one, and goes on.
                    Ok(new) => {
                        renew_at = new.renew_at;
                        *enrolled = Some(new);
                    }
                    Err(reason) => {
                        tracing::warn!(reason, "the certificate is not renewed yet");
                        renew_at = Instant::now() + RENEW_AGAIN;
                    }
                },
            }
        }
    }

    async fn report(&mut self) {
        let store = self.shared.with(|state| state.held.store());
        let report = self.shared.reporter.report(self.reported, store, &self.shared.tools).await;
        self.said.push_back(wrapped(from_edge::Message::Report(report)));
    }

    fn take(&mut self, message: ToEdge, answers: &mpsc::Sender<Answer>) -> Result<(), Status> {
        match message.message {
            Some(to_edge::Message::Delta(delta)) => {
                let (nonce, done, octets) = (delta.nonce, delta.initial_done, delta.encoded_len() as u64);
                self.complete |= done;
                let changes = self.shared.with(|state| {
                    let before = state.held.changes();
                    state.received = state.received.saturating_add(octets);
                    let items = state.held.take(delta);
                    state.ledger.taken(nonce, items);
                    state.connected = true;
                    state.complete |= done;
                    if done {
                        state.source = Some(ConfigSource::Operator);
                    }
                    // Nothing has to be made of it where what is in use is what is held.
                    !(state.in_use && before == state.held.changes() && state.ledger.answer_empty())
                });
                if done {
                    tracing::info!("the operator has said everything");
                }
                wake(if changes { &self.shared.changed } else { &self.shared.said });
            }
            Some(to_edge::Message::Drain(drain)) => {
                tracing::info!(reason = drain.reason, cancel = drain.cancel, "the operator orders a drain");
                self.shared.drain.send_replace(Some(drain));
            }
            Some(to_edge::Message::Query(query)) => {
                let (reporter, answers) = (self.shared.reporter.clone(), answers.clone());
                let Ok(place) = self.queries.clone().try_acquire_owned() else {
                    return Err(Status::resource_exhausted("more queries than the contract allows"));
                };
                tokio::spawn(async move {
                    for part in answer(&reporter, query).await {
                        // The stream may have ended.
                        if answers.send(part).await.is_err() {
                            break;
                        }
                    }
                    drop(place);
                });
            }
            // Of a later release; the operator knows that we are of an earlier one by our Hello.
            None => tracing::debug!("a message of the operator that is not known here"),
        }
        Ok(())
    }
}

/// In no step that edges share.
fn jittered(pause: Duration) -> Duration {
    let mut octet = [128];
    // Without random numbers all are alike.
    let _ = getrandom::fill(&mut octet);
    pause / 2 + pause * u32::from(octet[0]) / 255
}
