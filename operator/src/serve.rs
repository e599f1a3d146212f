//! The port where edges enrol and attach, and where the other replicas tell the holder of the Lease of theirs: TLS first, on which a client shows a
//! certificate or none, then gRPC.

mod accept;
mod attach;
pub mod enrol;
pub mod mirrors;
pub mod streams;

use crate::authority::{Authority, unix_now};
use crate::board::{Board, State};
use crate::index::Reach;
use crate::key::Kind;
use crate::peers;
use crate::peers::contract::operator_peer_server::OperatorPeerServer;
use edge_api::control::edge_control_server::EdgeControlServer;
use edge_api::control::edge_enrolment_server::EdgeEnrolmentServer;
use enrol::{Cluster, Enrolment, Tokens};
use futures_util::stream::unfold;
use kube::Client;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tonic::transport::Server;

/// Octets of one message, both ways, as the contract has it.
pub const MAX_MESSAGE: usize = 4 << 20;
/// Streams of one connection; an edge needs two: it enrols anew while it is attached.
const STREAMS: u32 = 4;
/// At most so long many changes become one, beyond the time that it takes to look at everything.
const COALESCE: Duration = Duration::from_millis(10);
/// Milliseconds, of [`Clock::grace`].
const GRACE_MS: u64 = 4_000;
// Status tells the truth within 15 s (N7).
const _: () = assert!(mirrors::SILENCE_MS + GRACE_MS < 15_000);
/// For an answer to come from another replica, beyond what its edge has for it.
const PATIENCE_MORE: Duration = Duration::from_secs(3);
/// For streams to hear that this replica ends.
const FAREWELL: Duration = Duration::from_secs(2);

/// The clock of the streams and of the certificates, so that a test can move it.
#[derive(Clone)]
pub struct Clock {
    /// Milliseconds from any beginning; never goes back.
    pub mono_ms: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Seconds since 1970-01-01T00:00:00Z.
    pub unix: Arc<dyn Fn() -> i64 + Send + Sync>,
    /// How often a stream looks whether its edge answers.
    pub tick: Duration,
    /// For how long the edges of another replica count as attached after its stream ended: it connects again, or they come
    /// to another one.
    pub grace: Duration,
}

impl Default for Clock {
    fn default() -> Self {
        let begin = Instant::now();
        Clock {
            mono_ms: Arc::new(move || u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX)),
            unix: Arc::new(unix_now),
            tick: Duration::from_secs(1),
            grace: Duration::from_millis(GRACE_MS),
        }
    }
}

/// Serves edges until `shutdown` is done. `held`: whether this replica holds the Lease.
///
/// # Errors
/// The port takes no more connections.
pub async fn run(
    listener: TcpListener,
    board: Arc<Board>,
    authority: Arc<Authority>,
    client: Client,
    held: watch::Receiver<bool>,
    clock: Clock,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    run_with(listener, board, authority, Arc::new(Cluster::new(client)), held, clock, shutdown).await
}

/// As [`run`], with whoever knows the tokens.
///
/// # Errors
/// As [`run`].
pub async fn run_with(
    listener: TcpListener,
    board: Arc<Board>,
    authority: Arc<Authority>,
    tokens: Arc<dyn Tokens>,
    held: watch::Receiver<bool>,
    clock: Clock,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let (told, tellings) = watch::channel(0);
    let teller = tokio::spawn(tell(board.clone(), told));
    let (accepted, arriving) = mpsc::channel(16);
    let acceptor =
        tokio::spawn(accept::accept(listener, authority.clone(), clock.clone(), accept::Limits::default(), accepted));
    let arriving = unfold(arriving, |mut arriving| async move { arriving.recv().await.map(|next| (next, arriving)) });
    let enrolment = Enrolment::new(tokens, authority, board.clone(), clock.clone());
    let mirroring = mirrors::Mirroring::new(board.clone(), held, clock.clone());
    let control = attach::Control::new(board.clone(), tellings, clock);
    let accepting = acceptor.abort_handle();
    let ending = async {
        shutdown.await;
        accepting.abort();
        board.streams().close();
        board.mirrors().close();
    };
    let serving = Server::builder()
        .max_concurrent_streams(STREAMS)
        // An edge that is cut off is known to be so within 15 s, at the holder of the Lease, too.
        .http2_keepalive_interval(Some(Duration::from_secs(8)))
        .http2_keepalive_timeout(Some(Duration::from_secs(5)))
        .add_service(EdgeEnrolmentServer::new(enrolment).max_decoding_message_size(64 << 10))
        .add_service(
            EdgeControlServer::new(control)
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
        )
        .add_service(
            OperatorPeerServer::new(mirroring)
                .max_decoding_message_size(peers::MAX_MESSAGE)
                .max_encoding_message_size(peers::MAX_MESSAGE),
        );
    let (over, ended) = watch::channel(false);
    let served = async {
        let mut said = ended.clone();
        let signal = async {
            // The sender lives until after this.
            let _ = said.wait_for(|over| *over).await;
        };
        serving.serve_with_incoming_shutdown(arriving, signal).await.map_err(io::Error::other)
    };
    tokio::pin!(served, ending);
    let result = tokio::select! {
        result = &mut served => result,
        () = &mut ending => {
            over.send_replace(true);
            // Whoever does not read its farewell is not waited for.
            tokio::time::timeout(FAREWELL, &mut served).await.unwrap_or(Ok(()))
        }
    };
    acceptor.abort();
    teller.abort();
    // The port is free when this returns.
    let _ = acceptor.await;
    result
}

/// Brings what changed in the index to the sessions of all edges, once for many changes, and then wakes their streams.
async fn tell(board: Arc<Board>, told: watch::Sender<u64>) {
    let mut revisions = board.revisions();
    let mut known = None;
    loop {
        revisions.borrow_and_update();
        let begin = Instant::now();
        // With many agents it takes tens of milliseconds, which no other task has to wait for.
        let looking = board.clone();
        match tokio::task::spawn_blocking(move || looking.quietly(|state| update(state, known))).await {
            Ok(now) => known = Some(now),
            Err(error) => tracing::error!(%error, "what the edges should hold could not be found out"),
        }
        told.send_modify(|count| *count = count.wrapping_add(1));
        tokio::time::sleep(begin.elapsed().max(COALESCE)).await;
        if revisions.changed().await.is_err() {
            return;
        }
    }
}

/// `known`: the index as it was when this was last done, and whether it knew everything.
fn update(state: &mut State, known: Option<(u64, bool)>) -> (u64, bool) {
    let edges = state.index.keys(Kind::SipEdge).into_iter().filter_map(|key| {
        let object = &state.index.edge(&key.object)?.object;
        Some((key.object.clone(), state.running.reach(&key.object, object)))
    });
    let reach = edges.filter(|(_, reach)| *reach != Reach::default()).collect();
    state.index.reach(reach);
    let now = (state.index.revision(), state.index.is_complete());
    if known == Some(now) {
        return now;
    }
    let touched = state.wants.update(&state.index);
    let all = known.is_none_or(|(_, complete)| complete != now.1);
    for (edge, fleet) in &mut state.fleets {
        // The edges of a SipEdge that is gone keep what they have: their pods go with it.
        let Some(wanted) = state.wants.of(edge).filter(|_| all || touched.contains(edge)) else { continue };
        for edge in fleet.streams_mut() {
            edge.session.want(wanted.clone(), now.1);
        }
    }
    now
}
