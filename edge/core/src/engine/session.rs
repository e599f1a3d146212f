//! What is remembered of one leg: its open requests and, in the legacy era, the session at the backend.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use mcp_sip::exchange::{Exchange, ExchangeId, McpExchange, Relation, RelationTable};
use mcp_sip::jsonrpc::RawId;
use session_store::record::SessionRecord;
use sip_proto::time::Mono;

use super::types::Leg;
use crate::config::Config;
use crate::input::BackendId;

/// The record of a session out of a dialog lives a little longer than the session may be idle, so that the engine ends it in order.
pub(super) const IDLE_GRACE_MS: u64 = 60_000;
/// In a dialog the record lives so long without being touched, and is touched so often.
pub(super) const DIALOG_TTL_MS: u64 = 2 * 60 * 60_000;
pub(super) const DIALOG_TOUCH_MS: u64 = 30 * 60_000;
/// Out of a dialog, messages that write nothing else touch the record so often.
pub(super) const TOUCH_MS: u64 = 60_000;
/// Messages of the session's own stream that are on their way at once.
pub(super) const MAX_NOTES: usize = 64;
/// Notifications and responses that wait for the session.
pub(super) const MAX_QUEUE: usize = 32;

/// One leg's MCP work.
#[derive(Debug)]
pub(super) struct Session {
    pub leg: Arc<Leg>,
    /// The relation in which the peer is the client: what is open in it. The agent's side is never a client (mcp.md 5.2).
    pub table: RelationTable,
    /// The peer knows `MCP-Exchange`.
    pub header: bool,
    /// Bytes of what is open, by its exchange in the table, and their sum: requests are kept until they are answered.
    weights: BTreeMap<ExchangeId, usize>,
    bytes: usize,
    /// Its open requests, by their exchange in the table.
    pub open: BTreeMap<ExchangeId, u64>,
    /// Judged messages whose write was not answered yet.
    pub tickets: usize,
    pub legacy: Option<Legacy>,
    /// There was a legacy session and the backend forgot it: only `initialize` helps.
    pub lost: bool,
    /// Version of the record in the store; 0: none that we know.
    pub version: u64,
    /// Writes of its record whose answer is awaited.
    pub writes: usize,
    /// Messages that wait until the record is read. `Some` while it is.
    pub loading: Option<VecDeque<Waiting>>,
    /// Questions of the server, by canonical id.
    pub asked: BTreeMap<RawId, Asked>,
    /// Messages of the session's own stream on their way.
    pub notes: usize,
    pub begun: Mono,
    pub last_used: Mono,
    pub touched: Mono,
    /// Out of a dialog: how long it may be idle, as its record was touched last; milliseconds.
    pub idle_ms: u64,
}

/// What a session is doing, for whoever lists them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Use {
    pub begun: Mono,
    pub last_used: Mono,
    /// Requests that were accepted and not answered.
    pub in_flight: usize,
}

impl Use {
    pub(super) fn of(session: &Session) -> Use {
        Use { begun: session.begun, last_used: session.last_used, in_flight: session.open.len() }
    }
}

/// A question of a legacy server.
#[derive(Debug)]
pub(super) struct Asked {
    pub id: RawId,
    /// The exchange it belongs to; `None`: the session's own stream.
    pub exchange: Option<u64>,
    pub deadline: Mono,
}

/// A notification or response that waits for the session.
#[derive(Debug)]
pub(super) struct Waiting {
    pub header: Option<McpExchange>,
    pub body: Bytes,
}

/// The session at the backend (2025-11-25 and older).
#[derive(Debug)]
pub(super) struct Legacy {
    pub record: SessionRecord,
    pub phase: Phase,
    /// Exchanges that wait for the phase `Ready`; bounded by what may be in flight.
    pub queue: VecDeque<u64>,
    /// Notifications and responses that do.
    pub notes: VecDeque<Bytes>,
    pub stream: Stream,
    pub last_event_id: Option<String>,
}

/// How far the session is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The edge's own `initialize`, for a peer whose envelope stands for it.
    Initializing,
    /// `initialize` was answered; the caller's `notifications/initialized` is due.
    Answered,
    /// It came; it is held until the server's stream is open.
    Opening {
        initialized: Bytes,
    },
    /// It is being forwarded.
    Announcing,
    Ready,
}

/// The server's own stream (GET).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Closed,
    Opening(BackendId),
    Open(BackendId),
    /// The server has none.
    Unsupported,
}

impl Legacy {
    pub(super) fn new(record: SessionRecord, phase: Phase) -> Legacy {
        Legacy {
            record,
            phase,
            queue: VecDeque::new(),
            notes: VecDeque::new(),
            stream: Stream::Closed,
            last_event_id: None,
        }
    }

    /// Whether what the caller sends may go to the backend now.
    pub(super) fn takes_requests(&self) -> bool {
        matches!(self.phase, Phase::Answered | Phase::Ready)
    }

    pub(super) fn stream_call(&self) -> Option<BackendId> {
        match self.stream {
            Stream::Opening(call) | Stream::Open(call) => Some(call),
            Stream::Closed | Stream::Unsupported => None,
        }
    }
}

impl Session {
    /// `limit`: requests in flight, each way.
    pub(super) fn new(leg: Arc<Leg>, limit: usize, now: Mono) -> Session {
        Session {
            table: RelationTable::new(client_of(&leg), None, limit),
            leg,
            header: false,
            weights: BTreeMap::new(),
            bytes: 0,
            open: BTreeMap::new(),
            tickets: 0,
            legacy: None,
            lost: false,
            version: 0,
            writes: 0,
            loading: None,
            asked: BTreeMap::new(),
            notes: 0,
            begun: now,
            last_used: now,
            touched: now,
            idle_ms: 0,
        }
    }

    /// Whether a request of that size may be opened beside the others. One is always allowed.
    pub(super) fn has_room(&self, bytes: usize, limit: usize) -> bool {
        self.bytes == 0 || self.bytes.saturating_add(bytes) <= limit
    }

    /// A request was placed in the table.
    pub(super) fn placed(&mut self, slot: ExchangeId, bytes: usize) {
        self.bytes += bytes;
        self.weights.insert(slot, bytes);
    }

    /// It leaves the table.
    pub(super) fn leaves(&mut self, slot: ExchangeId) {
        self.table.close(slot);
        self.bytes -= self.weights.remove(&slot).unwrap_or(0);
    }

    /// Whether there is nothing to remember.
    pub(super) fn is_empty(&self) -> bool {
        self.legacy.is_none() && !self.lost && !self.is_busy()
    }

    /// Whether something is going on.
    pub(super) fn is_busy(&self) -> bool {
        let waits = self.tickets > 0 || self.writes > 0 || self.loading.is_some();
        waits || !self.open.is_empty() || !self.asked.is_empty()
    }

    /// The header of what belongs to no request.
    pub(super) fn session_header(&self) -> Option<McpExchange> {
        self.header.then(|| McpExchange::new(Exchange::Session, self.table.relation()))
    }

    pub(super) fn ttl_ms(&self, config: &Config) -> u64 {
        ttl_ms(&self.leg, config)
    }
}

/// How long a session record lives without being touched.
pub(super) fn ttl_ms(leg: &Leg, config: &Config) -> u64 {
    if leg.key.in_dialog() { DIALOG_TTL_MS } else { idle_ms(leg, config).saturating_add(IDLE_GRACE_MS) }
}

/// How long a session out of a dialog may be without a message: what the store says, or less where its agent says so; milliseconds.
pub(super) fn idle_ms(leg: &Leg, config: &Config) -> u64 {
    let now = config.agents.get(&(leg.agent.domain.clone(), leg.agent.user.clone()));
    let narrower = now.unwrap_or(&leg.agent).session.idle_timeout_ms;
    narrower.map_or(config.ttl.idle_ms, |idle_ms| idle_ms.min(config.ttl.idle_ms))
}

/// The relation in which the peer is the client: that of its role.
pub(super) fn client_of(leg: &Leg) -> Relation {
    match leg.mcp.as_ref().map(|mcp| mcp.peer_role.as_str()) {
        Some("callee") => Relation::Callee,
        _ => Relation::Caller,
    }
}
