//! What can happen to an edge.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use session_store::op::{Adopted, StoreError, StoreReply};
use sip_proto::message::{Message, Refusal};

use crate::config::Config;
use crate::lease::Membership;
use crate::mesh::MeshMessage;

/// One number per stream connection, given by the shell, never given twice in one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// One store operation in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

/// One call to an MCP backend; chosen by the core, unique per process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendId(pub u64);

/// One DNS question in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueryId(pub u64);

/// How SIP travels on a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    Udp,
    Tcp,
    Tls,
    Ws,
    Wss,
}

/// Where bytes came from and where an answer goes. Never used to decide who the peer is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FlowKey {
    /// A UDP listener's socket (index into `Config::listeners`) and the peer's address.
    Datagram { listener: u16, remote: SocketAddr },
    /// A stream connection.
    Stream(ConnId),
}

/// A flow with what the shell knows of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    pub key: FlowKey,
    pub transport: Transport,
    /// Index into `Config::listeners`; for a connection that we opened: the listener it stands for.
    pub listener: u16,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// The verified client certificate's names; `None` where no certificate was shown or none verified.
    pub certificate: Option<Arc<PeerCertificate>>,
}

/// The names in a client certificate whose chain was verified by the shell against the CA bundles of `domains`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    /// subjectAltName URIs, as they stand in the certificate.
    pub uris: Vec<String>,
    /// subjectAltName dNSNames.
    pub dns: Vec<String>,
    /// The `SipDomain`s (their `domain` field) whose CA bundle verifies this chain.
    pub domains: Vec<String>,
}

/// Everything that reaches a core.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "an input is handed over once; a box would be an allocation per message")]
pub enum Input {
    /// A whole message, framed by the shell with `sip_proto::framing`.
    Message { flow: Arc<Flow>, message: Message },
    /// Bytes that the framer refused. The core answers what can be answered; on a stream it then closes the flow.
    Fault { flow: Arc<Flow>, refusal: Refusal },
    /// A stream connection is there (accepted, or opened for an `Effect::SendTo`).
    FlowOpened { flow: Arc<Flow> },
    /// A stream connection ended, or could not be opened.
    FlowClosed { conn: ConnId },
    /// An `Effect::SendTo` or `Effect::Send` with a `tag` could not be sent.
    SendFailed { tag: u64 },
    /// A store operation was answered.
    Store { op: OpId, reply: Result<StoreReply, StoreError> },
    /// A backend said something. Several per call; `is_final` ones end it.
    Backend { id: BackendId, event: BackendEvent },
    /// DNS answered (RFC 3263 look-ups).
    Resolved { query: QueryId, answer: crate::effect::DnsAnswer },
    /// New validated configuration; takes effect at once, running sessions included.
    Configure(Arc<Config>),
    /// What the node knows of the fleet, and until when this edge may act by itself. Comes before everything else where several edges
    /// share a store; a core that was never told is alone with a store of its own process.
    Membership(Arc<Membership>),
    /// Continuous things that another edge, or an earlier life of this one, left; they are ours now. Each for the shard of its Call-ID.
    Adopted(Vec<Adopted>),
    /// Another edge said something; `from` is its pod.
    Mesh { from: u64, message: MeshMessage },
    /// An `Effect::Mesh` whose message has a tag could not be delivered.
    MeshFailed { to: u64, tag: u64 },
    /// Whether the store can be used (sip.md, section 11).
    StoreHealth(StoreHealth),
    /// Another server answers for the store than before, or the same one after a start: it may lack what it had acknowledged last in class
    /// `Memory`. Comes before anything that it says.
    StoreReplaced,
    /// Stop taking new work; `Effect::Drained` follows when nothing is in flight.
    Drain,
}

/// The circuit breaker of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoreHealth {
    /// The store is used.
    #[default]
    Closed,
    /// The store is not asked: sip.md, section 11, decides.
    Open,
    /// The store is back: everything that belongs to what stands is served, and so many of a hundred new requests.
    Recovering { percent: u8 },
}

/// What a backend's HTTP answer brings. The bodies are raw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendEvent {
    /// The status line and the headers that matter arrived (also for 202 and for errors without a JSON-RPC body).
    Head { status: u16, session: Option<String> },
    /// One JSON-RPC message: the JSON body, or one SSE event's data. `event_id` is the SSE id.
    Message { body: Bytes, event_id: Option<String> },
    /// An SSE id without a message (2025-11-25 begins a stream so): the stream may be resumed there.
    Position { event_id: String },
    /// The answer is complete: nothing more will come on this call.
    Done,
    /// The call failed; nothing more will come.
    Failed(BackendFailure),
}

impl BackendEvent {
    /// Whether this is the call's last event.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, BackendEvent::Done | BackendEvent::Failed(_))
    }
}

/// Why a backend call failed, and whether the request may have been executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendFailure {
    /// No connection, so surely not executed.
    Unreachable,
    /// The deadline passed.
    Deadline,
    /// The connection closed before the answer was complete.
    Interrupted,
    /// The answer is no HTTP or no MCP (wrong content type, broken JSON, over a limit).
    Garbage,
    /// Over `messageBytes`.
    TooLarge,
    /// HTTP 404 on a request with a session id: the backend forgot the session.
    SessionGone,
    /// HTTP 401 or 403: our credential is not accepted.
    Unauthorized,
    /// Another HTTP error status without a JSON-RPC body.
    Status(u16),
    /// Too many calls wait for this backend; surely not executed.
    Overloaded,
}
