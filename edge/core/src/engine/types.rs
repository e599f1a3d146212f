//! What the two halves of the core say to each other.

use std::sync::Arc;

use bytes::Bytes;
use mcp_sip::exchange::McpExchange;
use session_store::key::{DialogKey, ExchangeKey, SessionKey};
use session_store::op::{CloseExchange, OpenExchange, OpenOutcome, StoreOp};
use session_store::record::{McpRecord, Owner, PeerFlow};
use sip_proto::time::{Mono, Now};

use crate::audit::{AuditRecord, Span};
use crate::config::{AgentConfig, Config, DomainConfig};
use crate::effect::{BackendCall, LogLevel};
use crate::input::{BackendId, OpId, QueryId};
use crate::random::Random;

/// What every call of the engine may use. Made by `EdgeState` for one call.
pub struct Ctx<'a> {
    pub now: Now,
    pub config: &'a Arc<Config>,
    pub owner: Owner,
    pub random: &'a mut Random,
    pub ids: &'a mut Ids,
    /// Until when this life may act by itself (sip.md, section 8, rule 2); `None`: there is no lease, this edge is alone with its store.
    pub valid_until: Option<Mono>,
    /// How many cores share the work of this edge, and so what a tenant may use of it.
    pub cores: u16,
}

impl Ctx<'_> {
    /// Whether there may be other edges.
    #[must_use]
    pub fn is_in_fleet(&self) -> bool {
        self.valid_until.is_some()
    }

    /// Whether work that another edge could take over may go on now.
    #[must_use]
    pub fn has_lease(&self) -> bool {
        self.valid_until.is_none_or(|until| self.now.mono < until)
    }
}

/// Numbers that both halves take from one counter, so that a reply finds its half.
#[derive(Debug, Default)]
pub struct Ids {
    last: u64,
}

impl Ids {
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// A store operation.
    pub fn op(&mut self) -> OpId {
        OpId(self.next())
    }

    /// A backend call.
    pub fn backend(&mut self) -> BackendId {
        BackendId(self.next())
    }

    /// A DNS question.
    pub fn query(&mut self) -> QueryId {
        QueryId(self.next())
    }

    /// Whatever else wants a number of its own (a send tag, a delivery).
    pub fn number(&mut self) -> u64 {
        self.next()
    }
}

/// Which leg a message came on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LegKey {
    /// A SIP dialog.
    Dialog(DialogKey),
    /// MESSAGE out of a dialog: tenant, principal, agent, Call-ID, From tag (mcp.md 5.4).
    OutOfDialog(SessionKey),
}

impl LegKey {
    /// The name of the leg's MCP work in the store. A dialog's has the dialog's own id.
    #[must_use]
    pub fn session(&self) -> SessionKey {
        match self {
            LegKey::Dialog(dialog) => SessionKey { slot: dialog.slot, tenant: dialog.tenant, hash: dialog.id },
            LegKey::OutOfDialog(session) => *session,
        }
    }

    /// Whether it is a dialog.
    #[must_use]
    pub fn in_dialog(&self) -> bool {
        matches!(self, LegKey::Dialog(_))
    }
}

/// Who the peer is, as the gate verified it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Principal {
    /// Canonical URI, `sip:alice@acme.example`.
    User(String),
    Anonymous,
}

impl Principal {
    /// The canonical URI, or `anonymous`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Principal::User(uri) => uri,
            Principal::Anonymous => "anonymous",
        }
    }
}

/// How an MCP body travels below MSRP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Carrier {
    Message,
    /// In a dialog only.
    Info,
}

impl Carrier {
    /// As the journal writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Carrier::Message => "message",
            Carrier::Info => "info",
        }
    }
}

/// A leg as the SIP half knows it.
#[derive(Clone, Debug)]
pub struct Leg {
    pub key: LegKey,
    /// Always `key.session()`.
    pub session: SessionKey,
    pub domain: Arc<DomainConfig>,
    pub agent: Arc<AgentConfig>,
    pub principal: Principal,
    pub call_id: String,
    /// What the dialog negotiated; `None` out of a dialog.
    pub mcp: Option<McpRecord>,
    /// What the peer used last.
    pub carrier: Carrier,
    /// The peer is reached by plain UDP.
    pub plain_datagram: bool,
    /// Out of a dialog: how the peer is reached. A dialog's record knows.
    pub way: Way,
}

/// How a caller out of a dialog is reached, as the journal keeps it for an edge that has never heard of that caller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// What the caller calls itself, and us: From and To of its request.
    pub caller_uri: String,
    pub agent_uri: String,
    /// Where it was heard last; without a source where that address is not proven to be the caller's.
    pub flow: PeerFlow,
}

/// One MCP body that came on a leg. The media type was checked (415), the peer authenticated and the address visible to it.
#[derive(Clone, Debug)]
pub struct Inbound {
    pub leg: Arc<Leg>,
    /// `MCP-Exchange`, if the peer sent it.
    pub exchange: Option<McpExchange>,
    pub body: Bytes,
    /// Keyed hash of Call-ID, From tag and CSeq: the journal key of a peer without `MCP-Exchange`.
    pub transaction: [u8; 16],
    pub received: Now,
}

/// A judged message that waits for its write. Not `Clone`: it is redeemed once, by [`written`](super::Engine::written) or
/// [`abandon`](super::Engine::abandon).
#[derive(Debug, PartialEq, Eq)]
pub struct Ticket(pub(super) u64);

/// What happens to a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not acceptable: the SIP answer. Nothing is written.
    Refuse { status: u16, phrase: &'static str },
    /// Write this before the 200, then redeem the ticket. In a dialog: `StoreOp::Begin` with `open`. Out of one: `StoreOp::OpenExchange`
    /// for `open`, `StoreOp::Once` for `once` (never both; one of them is there).
    Write { ticket: Ticket, open: Option<Box<OpenExchange>>, once: Option<ExchangeKey> },
}

/// What the store said to that write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// `Begun.exchange`, or `StoreReply::Exchange`.
    Exchange(OpenOutcome),
    /// `StoreReply::First`.
    First(bool),
    /// In a dialog without `open`: the CSeq is claimed.
    Claimed,
}

/// The final SIP answer to the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SipAnswer {
    pub status: u16,
    pub phrase: &'static str,
    /// Seconds.
    pub retry_after: Option<u32>,
}

/// One message on its way to the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryId(pub u64);

/// Send this to the leg's peer.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub id: DeliveryId,
    pub leg: Arc<Leg>,
    /// Which carrier to try now; out of a dialog always `Message`.
    pub carrier: Carrier,
    /// `MCP-Exchange`; `None` for a peer without the header.
    pub exchange: Option<McpExchange>,
    pub body: Bytes,
    /// To be written before it leaves: rides on `NextCseq` in a dialog; out of one it is an operation of its own.
    pub close: Option<Box<CloseExchange>>,
    /// This flow was tried for it and is dead.
    pub avoid: Option<String>,
    /// It was answered [`DeliveryOutcome::Stranger`] before.
    pub met_stranger: bool,
    /// It is what the journal says, and needs no lease.
    pub is_stored: bool,
}

/// How a delivery ended. Every [`Delivery`] is answered by one of these, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryOutcome {
    /// 2xx.
    Delivered,
    /// The peer refused this carrier with that status. The engine tries the next one, with the same exchange and the same bytes (XCH-4).
    Refused { status: u16 },
    /// The same with `Retry-After`, in seconds: not now.
    Later { status: u16, after_s: u32 },
    /// In a dialog: the peer's connection is gone, and no other way is known. `close` was written.
    FlowLost,
    /// In a dialog: who was reached on a connection of another edge has no such dialog (481). `close` was written. Said once; the next 481 is
    /// [`Self::Refused`].
    Stranger,
    /// No answer, no address, or the dialog is gone. `close` was written.
    Unreachable,
    /// It does not fit what carries SIP to this peer. `close` was written, or there was none.
    TooLarge { limit: usize },
    /// The store did not take `close` (or gave no CSeq): nothing was sent. The engine tries again.
    StoreUnavailable,
    /// The exchange belongs to another owner now: nothing was sent.
    Fenced,
}

/// Why a leg closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// BYE from the peer.
    Bye,
    /// The session expired, or the peer is gone.
    Expired,
    /// We ended it.
    Local,
}

/// A request that its caller took back where it is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakeBack {
    pub session: SessionKey,
    /// The notification's `MCP-Exchange`.
    pub exchange: Option<McpExchange>,
    /// `notifications/cancelled`, byte by byte.
    pub body: Bytes,
    pub call_id: String,
}

/// What the engine wants done, in order.
#[derive(Clone, Debug)]
pub enum EngineOut {
    Store {
        op: OpId,
        operation: StoreOp,
    },
    Backend {
        id: BackendId,
        call: BackendCall,
    },
    CancelBackend {
        id: BackendId,
    },
    Deliver(Delivery),
    /// Ask that edge, if it lives, whether it holds this exchange; what it says comes by [`told`](super::Engine::told). Nothing need be said
    /// where it cannot be asked: the engine asks again.
    Ask {
        owner: Owner,
        exchange: ExchangeKey,
        call_id: String,
    },
    /// Tell the other edges that a caller took a request back which is not served here; there it goes to
    /// [`taken_back`](super::Engine::taken_back).
    TakeBack(TakeBack),
    Audit(AuditRecord),
    Span(Span),
    Log {
        level: LogLevel,
        message: String,
    },
}
