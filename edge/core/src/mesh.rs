//! What edges of one fleet say to each other. Values; the shell carries them, and hands a message to the shard of its Call-ID.
//!
//! Any edge serves any request by the store. Only what is bound to one process travels here: a stream connection, a transaction, the timers
//! of a dialog. Nothing is lost with a message: what it would have said is in the store, or comes again.

use std::net::SocketAddr;

use bytes::Bytes;
use mcp_sip::exchange::McpExchange;
use session_store::key::{DialogKey, ExchangeKey, GuardKey, SessionKey};
use session_store::record::Owner;

use crate::input::{ConnId, Flow, FlowKey, Transport};

/// One message from edge to edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MeshMessage {
    /// Write on that connection of yours; `boot` is the life of the process that gave the number. With a `tag`, a failure comes back, as
    /// [`MeshMessage::SendFailed`] from there or as `Input::MeshFailed` from the mesh itself.
    Send { boot: u64, conn: ConnId, bytes: Bytes, tag: Option<u64>, call_id: String },
    /// The connection of a [`MeshMessage::Send`] is gone.
    SendFailed { tag: u64, call_id: String },
    /// A SIP message that arrived here and belongs to a transaction or a dialog of yours: a response, an ACK.
    /// (`tag` is the sender's alone and does not travel.)
    Relay { arrival: Arrival, bytes: Bytes, tag: Option<u64>, call_id: String },
    /// A CANCEL was accepted here for an INVITE of yours: its guard says so.
    /// (`tag` is the sender's alone and does not travel.)
    Cancelled { guard: GuardKey, tag: Option<u64>, call_id: String },
    /// A dialog whose timers you run was ended here: its tombstone is written, or its BYE is being said. With `says_bye` the BYE is
    /// yours: the other leg has ended, and the record knows of no ACK of your 2xx; it leaves once you have heard that ACK, or need not wait
    /// for it any more (RFC 3261 §15).
    Ended { dialog: DialogKey, says_bye: bool, call_id: String },
    /// An exchange stands in flight under `owner`, which is you: do you hold it? Whether the reply to its write was heard is in nobody's
    /// memory but yours. Answered by [`MeshMessage::Held`] with the same tag, or not at all: while a write of yours decides it, and where
    /// `owner` is another life. Who says that it does not hold it has given it up.
    Holds { exchange: ExchangeKey, owner: Owner, tag: Option<u64>, call_id: String },
    /// What became of a [`MeshMessage::Holds`].
    Held { tag: u64, held: bool, call_id: String },
    /// A `notifications/cancelled` was accepted here from whom this session belongs to, for a request that is not served here. `exchange` is
    /// its `MCP-Exchange`, `body` the notification byte by byte. Whoever serves the request ends it; whoever adopts it does not begin.
    TakenBack { session: SessionKey, exchange: Option<McpExchange>, body: Bytes, call_id: String },
}

impl MeshMessage {
    /// Which shard of the receiver it is for.
    #[must_use]
    pub fn call_id(&self) -> &str {
        match self {
            MeshMessage::Send { call_id, .. }
            | MeshMessage::SendFailed { call_id, .. }
            | MeshMessage::Relay { call_id, .. }
            | MeshMessage::Cancelled { call_id, .. }
            | MeshMessage::Ended { call_id, .. }
            | MeshMessage::Holds { call_id, .. }
            | MeshMessage::Held { call_id, .. }
            | MeshMessage::TakenBack { call_id, .. } => call_id,
        }
    }

    /// The tag under which the sender wants to hear that it could not be delivered.
    #[must_use]
    pub fn tag(&self) -> Option<u64> {
        match self {
            MeshMessage::Send { tag, .. }
            | MeshMessage::Relay { tag, .. }
            | MeshMessage::Cancelled { tag, .. }
            | MeshMessage::Holds { tag, .. } => *tag,
            MeshMessage::SendFailed { .. }
            | MeshMessage::Ended { .. }
            | MeshMessage::Held { .. }
            | MeshMessage::TakenBack { .. } => None,
        }
    }
}

/// How a relayed message came to the edge that relays it. No identity is taken from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    pub transport: Transport,
    pub listener: u16,
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

impl Arrival {
    /// Of a flow.
    #[must_use]
    pub fn of(flow: &Flow) -> Arrival {
        Arrival { transport: flow.transport, listener: flow.listener, local: flow.local, remote: flow.remote }
    }

    /// A flow for what reads one. A relayed message is never answered on it: a stream is named by a number that no connection has.
    #[must_use]
    pub fn flow(&self) -> Flow {
        let Arrival { transport, listener, local, remote } = *self;
        let key = match transport {
            Transport::Udp => FlowKey::Datagram { listener, remote },
            Transport::Tcp | Transport::Tls | Transport::Ws | Transport::Wss => FlowKey::Stream(ConnId(u64::MAX)),
        };
        Flow { key, transport, listener, local, remote, certificate: None }
    }
}
