//! What an edge wants done. Plain comparable values; the shell does them in order.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use session_store::op::StoreOp;

use crate::audit::{AuditRecord, Span};
use crate::input::{BackendId, ConnId, FlowKey, OpId, QueryId, Transport};
use crate::mesh::MeshMessage;

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send on a flow that exists. With a `tag`, a failure comes back as `Input::SendFailed`.
    Send { flow: FlowKey, bytes: Bytes, tag: Option<u64> },
    /// Send to an address: over UDP from the listener's socket, else on a connection to that address (re-used, or opened).
    /// The connection's messages come in as those of a flow of ours.
    SendTo {
        transport: Transport,
        listener: u16,
        remote: SocketAddr,
        server_name: Option<String>,
        bytes: Bytes,
        tag: u64,
    },
    /// Run a store operation; its reply comes back as `Input::Store`.
    Store { op: OpId, operation: StoreOp },
    /// Call a backend; answers come back as `Input::Backend`.
    Backend { id: BackendId, call: BackendCall },
    /// Drop a backend call: its response stream is closed. Nothing more comes for this id.
    CancelBackend { id: BackendId },
    /// Say this to another edge (its pod number); where its message has a tag, a failure comes back as `Input::MeshFailed`.
    Mesh { to: u64, message: MeshMessage },
    /// Ask DNS; the answer comes back as `Input::Resolved`.
    Resolve { query: QueryId, question: DnsQuestion },
    /// Close a stream connection after what was sent on it has left.
    Close { conn: ConnId },
    /// Write an audit record before any later effect is done.
    Audit(AuditRecord),
    /// A finished span, for the trace exporter.
    Span(Span),
    /// A line for the log. Never holds a payload, an argument or a credential; peer text is escaped already.
    Log { level: LogLevel, message: String },
    /// Nothing is in flight any more (after `Input::Drain`).
    Drained,
}

/// How loud a log line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

/// One HTTP call to the MCP backend of an agent. The shell knows the agent's URL, TLS and credential by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendCall {
    /// `AgentConfig::key` (namespace/name).
    pub agent: String,
    pub action: BackendAction,
    /// Legacy: the backend's `Mcp-Session-Id`.
    pub session: Option<String>,
    /// `MCP-Protocol-Version`; absent on a legacy `initialize`.
    pub protocol_version: Option<String>,
    /// Further header fields (`Mcp-Method`, `Mcp-Name`, `Mcp-Param-*`), computed from the body.
    pub headers: Vec<(String, String)>,
    /// W3C trace context of the exchange.
    pub traceparent: Option<String>,
    /// Milliseconds until the call fails with `Deadline`; for `Listen` there is none (0).
    pub timeout_ms: u64,
}

/// What to do at the backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendAction {
    /// POST one JSON-RPC message (request, notification or response), byte-exact.
    Post { body: Bytes },
    /// GET: the legacy server's stream. `Head` comes when it is open; a 405 is a `Head` with that status and `Done`.
    Listen { last_event_id: Option<String> },
    /// DELETE: end the legacy session.
    EndSession,
}

/// A DNS question (RFC 3263). Names are absolute, without the final dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsQuestion {
    Naptr(String),
    Srv(String),
    Address(String),
}

/// A DNS answer. An empty list means that the name or type does not exist; `Failed` that nobody answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsAnswer {
    Naptr(Vec<Naptr>),
    Srv(Vec<Srv>),
    Address(Vec<IpAddr>),
    Failed,
}

/// One NAPTR record (RFC 3403); only the `s` and `a` flags matter to SIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Naptr {
    pub order: u16,
    pub preference: u16,
    pub flags: String,
    pub service: String,
    pub replacement: String,
}

/// One SRV record (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Srv {
    pub priority: u16,
    pub weight: u16,
    pub port: u16,
    pub target: String,
}
