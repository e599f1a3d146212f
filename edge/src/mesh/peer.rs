//! The way to one peer: a connection while there is something to say, one stream on it, a receipt for each message.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edge_api::mesh::mesh_client::MeshClient;
use edge_api::mesh::{Envelope, Receipt};
use edge_core::input::Input;
use edge_core::mesh::MeshMessage;
use tokio::sync::mpsc;
use tokio::time::{sleep_until, timeout, timeout_at};
use tokio_rustls::rustls::pki_types::ServerName;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Streaming};

use super::{DEADLINE, MAX_MESSAGE, Shared, wire};
use crate::grpc::{Way, reason, secure};

/// Request metadata: who calls.
pub const EDGE: &str = "sipmcp-edge";
/// Messages on their way without a receipt.
const WINDOW: usize = 256;
/// A connection without anything to say is closed.
const IDLE: Duration = Duration::from_secs(60);
/// For TCP, TLS and HTTP/2 together.
const CONNECT: Duration = Duration::from_secs(1);
/// After the first failed connection; doubled up to the last one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(2);

/// A message that waits.
#[derive(Debug)]
pub struct Parcel {
    message: MeshMessage,
    shard: u16,
    deadline: Instant,
}

impl Parcel {
    pub fn new(message: MeshMessage, shard: u16) -> Self {
        Parcel { message, shard, deadline: Instant::now() + DEADLINE }
    }
}

/// What is to be told when a parcel does not arrive.
struct Sent {
    number: u64,
    kind: &'static str,
    tag: Option<u64>,
    shard: u16,
    deadline: Instant,
}

impl Sent {
    fn new(number: u64, parcel: &Parcel) -> Self {
        let Parcel { message, shard, deadline } = parcel;
        Sent { number, kind: wire::kind(message), tag: message.tag(), shard: *shard, deadline: *deadline }
    }
}

/// Serves one peer until nothing was to be said for a while.
pub async fn run(to: u64, mut queue: mpsc::Receiver<Parcel>, shared: Arc<Shared>) {
    let mut pause = FIRST_PAUSE;
    let mut left = None;
    loop {
        let first = match left.take() {
            Some(left) => left,
            None => match timeout(IDLE, queue.recv()).await {
                Ok(Some(first)) => first,
                Ok(None) | Err(_) => break,
            },
        };
        match connect(to, &shared, first.deadline).await {
            Ok((client, address)) => {
                pause = FIRST_PAUSE;
                match carry(client, &address, first, to, &mut queue, &shared).await {
                    Ending::Idle => {}
                    Ending::Moved(parcel) => left = Some(parcel),
                    Ending::Broken(reason) => {
                        tracing::warn!(pod = %hex(to), reason, "the connection to another edge broke");
                    }
                }
            }
            Err(reason) => {
                tracing::warn!(pod = %hex(to), reason, "another edge cannot be reached");
                shared.failed(to, Sent::new(0, &first)).await;
                // What comes in the meantime fails at once: its sender has other ways.
                let until = Instant::now() + pause;
                pause = (pause * 2).min(LAST_PAUSE);
                while let Ok(Some(parcel)) = timeout_at(until.into(), queue.recv()).await {
                    shared.failed(to, Sent::new(0, &parcel)).await;
                }
            }
        }
    }
    queue.close();
    while let Some(parcel) = queue.recv().await {
        shared.failed(to, Sent::new(0, &parcel)).await;
    }
}

/// Why a stream ended.
enum Ending {
    /// Nothing was to be said for a while.
    Idle,
    /// The edge is elsewhere now; this was not sent.
    Moved(Parcel),
    Broken(String),
}

fn hex(pod: u64) -> String {
    format!("{pod:016x}")
}

impl Shared {
    async fn failed(&self, to: u64, sent: Sent) {
        self.metrics.mesh_message("out", sent.kind, "failed");
        if let Some(tag) = sent.tag {
            self.shards.reply(sent.shard, Input::MeshFailed { to, tag }).await;
        }
    }
}

async fn connect(to: u64, shared: &Arc<Shared>, deadline: Instant) -> Result<(MeshClient<Channel>, String), String> {
    let address = shared.addresses.load().get(&to).cloned().ok_or("it is not there any more")?;
    let endpoint = Endpoint::from_static("http://edge.invalid")
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(DEADLINE)
        .keep_alive_timeout(DEADLINE);
    let (known, place) = (shared.clone(), address.clone());
    let way = Way(move || {
        let (shared, address) = (known.clone(), place.clone());
        async move {
            let tls = shared.tls.load_full().ok_or(io::ErrorKind::Unsupported)?;
            let config = tls.client(to).map_err(io::Error::other)?;
            // Not sent and not looked at: the verifier knows whom we want.
            let name = ServerName::try_from("edge.invalid").map_err(io::Error::other)?;
            secure(&address, name, config).await
        }
    });
    let connecting = timeout_at(deadline.into(), endpoint.connect_with_connector(way));
    let channel = connecting.await.map_err(|_| "no answer in time".to_owned())?.map_err(|error| reason(&error))?;
    let client = MeshClient::new(channel).max_decoding_message_size(1024).max_encoding_message_size(MAX_MESSAGE + 4096);
    Ok((client, address))
}

/// Sends `first` and what is queued.
async fn carry(
    mut client: MeshClient<Channel>,
    address: &str,
    first: Parcel,
    to: u64,
    queue: &mut mpsc::Receiver<Parcel>,
    shared: &Shared,
) -> Ending {
    let (envelopes, out) = mpsc::channel::<Envelope>(16);
    let out = futures_util::stream::unfold(out, |mut out| async move { out.recv().await.map(|next| (next, out)) });
    let mut request = Request::new(out);
    // An id has characters of header values only.
    if let Ok(me) = shared.me.as_str().parse() {
        request.metadata_mut().insert(EDGE, me);
    }
    let mut receipts = match timeout_at(first.deadline.into(), client.carry(request)).await {
        Ok(Ok(response)) => response.into_inner(),
        failed => {
            shared.failed(to, Sent::new(0, &first)).await;
            return Ending::Broken(failed.map_or_else(|_| "no answer in time".into(), |r| refusal(r.err())));
        }
    };
    let mut open = VecDeque::<Sent>::new();
    let moved = || shared.addresses.load().get(&to).map(String::as_str) != Some(address);
    let ending = exchange(first, &envelopes, &mut receipts, queue, &mut open, shared, moved).await;
    for sent in open {
        shared.failed(to, sent).await;
    }
    ending
}

fn refusal(status: Option<tonic::Status>) -> String {
    status.map_or_else(|| "the stream ended".into(), |status| format!("{:?}: {}", status.code(), status.message()))
}

async fn exchange(
    first: Parcel,
    envelopes: &mpsc::Sender<Envelope>,
    receipts: &mut Streaming<Receipt>,
    queue: &mut mpsc::Receiver<Parcel>,
    open: &mut VecDeque<Sent>,
    shared: &Shared,
    moved: impl Fn() -> bool,
) -> Ending {
    let mut number = 0;
    let mut staged = Some(first);
    let mut idle = Instant::now() + IDLE;
    loop {
        let overdue = open.front().map_or(idle, |sent| sent.deadline);
        tokio::select! {
            biased;
            receipt = receipts.message() => match receipt {
                Ok(Some(Receipt { number })) if open.front().is_some_and(|sent| sent.number == number) => {
                    if let Some(sent) = open.pop_front() {
                        shared.metrics.mesh_message("out", sent.kind, "taken");
                    }
                }
                ended => {
                    // What was not sent yet fails with what was.
                    open.extend(staged.as_ref().map(|parcel| Sent::new(0, parcel)));
                    return Ending::Broken(match ended {
                        Ok(Some(_)) => "a receipt for nothing that was sent".into(),
                        ended => refusal(ended.err()),
                    });
                }
            },
            () = sleep_until(overdue.into()) => {
                if open.is_empty() && staged.is_none() {
                    return Ending::Idle;
                }
                open.extend(staged.as_ref().map(|parcel| Sent::new(0, parcel)));
                return Ending::Broken("no receipt in time".into());
            }
            permit = envelopes.reserve(), if staged.is_some() => {
                let Some(parcel) = staged.take() else { continue };
                let sent = Sent::new(number + 1, &parcel);
                let Ok(permit) = permit else {
                    open.push_back(sent);
                    return Ending::Broken(refusal(None));
                };
                number += 1;
                open.push_back(sent);
                permit.send(wire::write(number, parcel.message));
                idle = Instant::now() + IDLE;
            }
            parcel = queue.recv(), if staged.is_none() && open.len() < WINDOW => match parcel {
                Some(parcel) if moved() => return Ending::Moved(parcel),
                Some(parcel) => staged = Some(parcel),
                // The process ends.
                None => return Ending::Idle,
            },
        }
    }
}
