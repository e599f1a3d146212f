//! What waits for somebody's answer: for the store, for a backend, for the SIP half.

use std::sync::Arc;

use bytes::Bytes;
use mcp_sip::errors::RpcError;
use mcp_sip::exchange::McpExchange;
use mcp_sip::jsonrpc::RawId;
use session_store::key::{ExchangeKey, SessionKey};
use session_store::op::{CloseExchange, OpenExchange};
use session_store::record::SessionRecord;
use sip_proto::time::Mono;

use super::about::About;
use super::exchange::Exchange;
use super::types::{Carrier, Leg};
use crate::audit::Outcome;
use crate::effect::BackendCall;

/// A judged message whose write is not answered.
#[derive(Debug)]
pub(super) struct Judged {
    pub leg: Arc<Leg>,
    pub header: Option<McpExchange>,
    pub what: What,
    /// The caller took it back, or the leg closed, before the write was answered.
    pub fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Live,
    Cancelled,
    LegClosed,
}

#[derive(Debug)]
pub(super) enum What {
    Request(Box<Exchange>),
    /// It is answered with an error; nothing runs.
    Refused(Box<Refused>),
    /// A notification or a response; read again when its turn comes.
    Other(Bytes),
    /// It matches nothing: counted already.
    Nothing,
}

#[derive(Debug)]
pub(super) struct Refused {
    pub id: RawId,
    pub error: RpcError,
    /// Policy said no; else the request was wrong.
    pub denied: bool,
    pub about: Option<About>,
}

impl Refused {
    pub(super) fn outcome(&self) -> Outcome {
        if self.denied { Outcome::Denied(self.error.code) } else { Outcome::Error(self.error.code) }
    }
}

/// A store operation of the engine's own.
#[derive(Debug)]
pub(super) enum Op {
    /// The record of a session that a message needs.
    Load(SessionKey),
    /// The record that an `initialize` made; its answer waits for it.
    Create { session: SessionKey, exchange: u64, record: Box<SessionRecord>, again: bool },
    /// The same for the edge's own `initialize`.
    CreateImplicit { session: SessionKey, record: Box<SessionRecord>, again: bool },
    /// A change of a record that nobody waits for.
    Change(SessionKey),
    /// The record is touched; where it is gone, so is what is known here.
    Touch(SessionKey),
    /// An idle session out of a dialog: whether it may end.
    EndIdle(SessionKey),
    /// What a closed leg left behind, which this engine did not know.
    LoadForEnd(SessionKey),
    /// The dialog of an adopted exchange.
    OrphanDialog(u64),
    /// The legacy session of an adopted exchange.
    ResumeSession(u64),
    /// What became known of an exchange.
    Noted(u64),
    /// An exchange in doubt, in place of its owner.
    TakeFrom(ExchangeKey),
    /// Nobody waits.
    Forget,
}

/// A backend call.
#[derive(Debug)]
pub(super) enum Call {
    /// The forward of a request.
    Exchange(u64),
    /// The server's own stream.
    Stream(SessionKey),
    /// The edge's own `initialize`.
    Implicit { session: SessionKey, id: RawId, backend_session: Option<String> },
    /// `notifications/initialized`.
    Initialized(SessionKey),
    /// A notification or response of the caller.
    Post(SessionKey),
    /// The edge's own `tools/list`, by agent.
    Tools { agent: String, version: String, traceparent: String },
    /// A cancellation before the end of a session; the DELETE waits for it.
    Farewell(u64),
    /// Answered, or given up: only its end is awaited.
    Spent,
}

/// The end of a session at the backend: first the cancellations, then the DELETE.
#[derive(Debug)]
pub(super) struct Farewell {
    pub waiting: usize,
    pub delete: BackendCall,
}

/// A message on its way to the caller.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub leg: Arc<Leg>,
    pub header: Option<McpExchange>,
    pub body: Bytes,
    /// Goes with it into the store.
    pub close: Option<Box<CloseExchange>>,
    /// The end of its exchange, written once the caller has it.
    pub ends: Option<Box<CloseExchange>>,
    /// What the journal has of its exchange, should the store lose it.
    pub journal: Option<Box<OpenExchange>>,
    /// It is what the journal says.
    pub is_stored: bool,
    pub carrier: Carrier,
    /// The other carrier was tried already.
    pub is_second: bool,
    pub tries: Tries,
    /// Its caller has no flow, and is waited for until then.
    pub parked_until: Option<Mono>,
    pub purpose: Purpose,
}

/// How often a message was tried for each reason: each has a bound of its own.
#[derive(Debug, Default)]
pub(super) struct Tries {
    /// The store did not take it.
    pub store: u32,
    /// Another request of ours overtook it.
    pub overtaken: u32,
    /// The peer had no flow.
    pub lost: u32,
    /// Somebody who does not have the dialog was reached.
    pub stranger: bool,
    /// The peer asked to wait.
    pub later: bool,
}

/// What a message is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The answer to this id.
    Final(RawId),
    /// The error in place of an answer that did not fit.
    TooLarge,
    /// Progress or a log message, of an exchange or of the session.
    Note { session: SessionKey, exchange: Option<u64> },
    /// A question of the server.
    Ask { session: SessionKey, exchange: Option<u64>, id: RawId },
}
