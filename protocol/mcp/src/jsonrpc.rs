//! The raw JSON-RPC 2.0 envelope (NEG-10, SEC-10, security §15): the bytes as they came, and where the few members
//! lie that policy and correlation look at. Nothing here re-makes a body; a message that is changed (its id, a
//! filtered list) differs in those bytes only.

mod build;
mod id;
mod list;
mod parse;
mod refused;
mod rewrite;
pub(crate) mod scan;

use std::borrow::Cow;

use bytes::Bytes;

pub use build::{error_response, notification, request, response};
pub use id::{IdError, RawId};
pub use list::{Filtered, ListError, ListOf};
pub use refused::{Answer, Fault, Refused};
pub use rewrite::Mirror;
use scan::{Span, unescape};

/// The `_meta` key of the protocol version (MCP 2026-07-28).
pub const META_PROTOCOL_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
/// The `_meta` key of the client's capabilities (MCP 2026-07-28).
pub const META_CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
/// The `_meta` key of the client's name and version (MCP 2026-07-28).
pub const META_CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
/// The `_meta` key that ties a notification to its `subscriptions/listen` request (MCP 2026-07-28).
pub const META_SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";

/// The limits of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of the whole message. 1 MiB unless configured (SEC-10).
    pub bytes: usize,
    /// Nesting of objects and arrays, the envelope included. 64, which is also the most that can be set.
    pub depth: u32,
    /// Bytes of an id or progress token as it is written. 256.
    pub id_bytes: usize,
    /// Bytes of `params._meta`. 8 KiB.
    pub meta_bytes: usize,
    /// Whether an *error* may come with `id: null` or without an id. JSON-RPC 2.0 section 5 allows it where the
    /// request could not be read; a backend's HTTP answer may do so, a SIP peer may not.
    pub error_without_id: bool,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            bytes: 1024 * 1024,
            depth: scan::MAX_DEPTH,
            id_bytes: 256,
            meta_bytes: 8 * 1024,
            error_without_id: false,
        }
    }
}

/// The four kinds of JSON-RPC messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `method` and `id`.
    Request,
    /// `method` without `id`.
    Notification,
    /// `result`.
    Response,
    /// `error`.
    Error,
}

/// One JSON-RPC message: bytes, and where things lie in them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Envelope {
    bytes: Bytes,
    kind: Kind,
    /// Only where the method was written with escapes; else the text lies in `bytes`.
    method_unescaped: Option<Box<str>>,
    error_code: i64,
    at: Members,
}

/// Where the members lie that we look at. A `None` is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Members {
    pub id: Option<Span>,
    pub method: Option<Span>,
    pub params: Option<Span>,
    pub result: Option<Span>,
    pub error: Option<Span>,
    // params
    pub name: Option<Span>,
    pub uri: Option<Span>,
    pub task_id: Option<Span>,
    pub arguments: Option<Span>,
    pub protocol_version: Option<Span>,
    pub request_id: Option<Span>,
    pub progress_token: Option<Span>,
    pub meta: Option<Span>,
    // params._meta
    pub meta_version: Option<Span>,
    pub meta_capabilities: Option<Span>,
    pub meta_progress_token: Option<Span>,
    pub meta_subscription: Option<Span>,
    pub meta_traceparent: Option<Span>,
    // result
    pub result_type: Option<Span>,
    pub result_version: Option<Span>,
    // error
    pub error_code: Option<Span>,
    pub error_message: Option<Span>,
    pub error_data: Option<Span>,
}

impl PartialEq for Envelope {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Envelope {}

/// What an MCP body is: a message, or the draft's negotiation envelope (draft §6).
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "lives for a moment; a box would cost every message an allocation")]
pub enum Body {
    /// A native JSON-RPC message (form a).
    Message(Envelope),
    /// The negotiation envelope (form b), not yet read: see [`crate::envelope::Negotiation::parse`].
    Negotiation(Bytes),
}

impl Body {
    /// Tells the two forms apart and reads the native one. A JSON object with `mcp_version` and without `jsonrpc` is
    /// a negotiation envelope; whether it is allowed where it came is for the caller to say (NEG-9).
    ///
    /// # Errors
    /// As [`Envelope::parse`].
    pub fn parse(bytes: &Bytes, bounds: &Bounds) -> Result<Body, Refused> {
        parse::body(bytes, bounds)
    }
}

impl Envelope {
    /// Reads one message. Checks UTF-8, the whole grammar, nesting, size, the envelope's members and their
    /// duplicates, ids and the size of `_meta`; looks no further into `params`, `result` and `error`.
    ///
    /// # Errors
    /// What is wrong, and how to answer it: [`Refused::answer`].
    pub fn parse(bytes: &Bytes, bounds: &Bounds) -> Result<Envelope, Refused> {
        match parse::body(bytes, bounds)? {
            Body::Message(envelope) => Ok(envelope),
            Body::Negotiation(_) => Err(Refused::new(Fault::NegotiationEnvelope)),
        }
    }

    /// Request, notification, response or error.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The message, byte-exact.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The id as it is written. `None` for notifications, and for errors without one where
    /// [`Bounds::error_without_id`] allowed that.
    #[must_use]
    pub fn id(&self) -> Option<RawId> {
        self.raw_id(self.at.id)
    }

    /// The method of a request or notification.
    #[must_use]
    pub fn method(&self) -> Option<&str> {
        if let Some(text) = &self.method_unescaped {
            return Some(text);
        }
        let literal = self.at.method?.of(&self.bytes);
        std::str::from_utf8(literal.get(1..literal.len().checked_sub(1)?)?).ok()
    }

    /// `params`, raw.
    #[must_use]
    pub fn params(&self) -> Option<Bytes> {
        self.slice(self.at.params)
    }

    /// `result`, raw.
    #[must_use]
    pub fn result(&self) -> Option<Bytes> {
        self.slice(self.at.result)
    }

    /// The `error` object, raw.
    #[must_use]
    pub fn error(&self) -> Option<Bytes> {
        self.slice(self.at.error)
    }

    /// `error.code`.
    #[must_use]
    pub fn error_code(&self) -> Option<i64> {
        self.at.error.map(|_| self.error_code)
    }

    /// `error.message`.
    #[must_use]
    pub fn error_message(&self) -> Option<Cow<'_, str>> {
        self.text(self.at.error_message)
    }

    /// `error.data`, raw.
    #[must_use]
    pub fn error_data(&self) -> Option<Bytes> {
        self.slice(self.at.error_data)
    }

    /// `params.name`: the tool of `tools/call`, the prompt of `prompts/get`.
    #[must_use]
    pub fn name(&self) -> Option<Cow<'_, str>> {
        self.text(self.at.name)
    }

    /// The tool, if this is a `tools/call` with a name that is a string.
    #[must_use]
    pub fn tool(&self) -> Option<Cow<'_, str>> {
        if self.method() == Some("tools/call") { self.name() } else { None }
    }

    /// `params.uri`: the resource of `resources/read`, `subscribe`, `unsubscribe`.
    #[must_use]
    pub fn uri(&self) -> Option<Cow<'_, str>> {
        self.text(self.at.uri)
    }

    /// What the method acts on: the tool or prompt name, the resource's URI, the task's id. Policy judges it and the
    /// HTTP mirror `Mcp-Name` carries it (MCP 2026-07-28, SEP-2243).
    #[must_use]
    pub fn subject(&self) -> Option<Cow<'_, str>> {
        match self.method()? {
            "tools/call" | "prompts/get" => self.name(),
            "resources/read" | "resources/subscribe" | "resources/unsubscribe" => self.uri(),
            "tasks/get" | "tasks/update" | "tasks/cancel" | "tasks/result" => self.text(self.at.task_id),
            _ => None,
        }
    }

    /// `params.arguments`, raw.
    #[must_use]
    pub fn arguments(&self) -> Option<Bytes> {
        self.slice(self.at.arguments)
    }

    /// `params._meta`, raw.
    #[must_use]
    pub fn meta(&self) -> Option<Bytes> {
        self.slice(self.at.meta)
    }

    /// The protocol version of a modern message, from `params._meta`.
    #[must_use]
    pub fn meta_protocol_version(&self) -> Option<Cow<'_, str>> {
        self.text(self.at.meta_version)
    }

    /// The client's capabilities of a modern request, raw, from `params._meta`. Only an object counts.
    #[must_use]
    pub fn meta_client_capabilities(&self) -> Option<Bytes> {
        self.slice(self.at.meta_capabilities).filter(|raw| raw.first() == Some(&b'{'))
    }

    /// The token under which a request asks for progress: `params._meta.progressToken`.
    #[must_use]
    pub fn meta_progress_token(&self) -> Option<RawId> {
        self.raw_id(self.at.meta_progress_token)
    }

    /// The id of the `subscriptions/listen` request that a notification belongs to, from `params._meta`.
    #[must_use]
    pub fn meta_subscription_id(&self) -> Option<RawId> {
        self.raw_id(self.at.meta_subscription)
    }

    /// The W3C trace context of the message: `params._meta.traceparent` (SEP-414).
    #[must_use]
    pub fn traceparent(&self) -> Option<Cow<'_, str>> {
        self.text(self.at.meta_traceparent)
    }

    /// `params.requestId` of `notifications/cancelled`.
    #[must_use]
    pub fn request_id(&self) -> Option<RawId> {
        self.raw_id(self.at.request_id.filter(|_| self.method() == Some("notifications/cancelled")))
    }

    /// `params.progressToken` of `notifications/progress`.
    #[must_use]
    pub fn progress_token(&self) -> Option<RawId> {
        self.raw_id(self.at.progress_token.filter(|_| self.method() == Some("notifications/progress")))
    }

    /// `params.protocolVersion` of `initialize`.
    #[must_use]
    pub fn initialize_version(&self) -> Option<Cow<'_, str>> {
        if self.method() == Some("initialize") { self.text(self.at.protocol_version) } else { None }
    }

    /// `result.resultType`; a modern result without one is `complete`.
    #[must_use]
    pub fn result_type(&self) -> Option<Cow<'_, str>> {
        self.text(self.at.result_type)
    }

    /// `result.protocolVersion`: what an `initialize` agreed on.
    #[must_use]
    pub fn result_protocol_version(&self) -> Option<Cow<'_, str>> {
        self.text(self.at.result_version)
    }

    /// Whether this is a request or notification of a client that opens a legacy session.
    #[must_use]
    pub fn is_initialize(&self) -> bool {
        self.kind == Kind::Request && self.method() == Some("initialize")
    }

    fn slice(&self, span: Option<Span>) -> Option<Bytes> {
        span.map(|span| self.bytes.slice(span.range()))
    }

    fn text(&self, span: Option<Span>) -> Option<Cow<'_, str>> {
        let literal = span?.of(&self.bytes);
        if literal.first() == Some(&b'"') { unescape(literal) } else { None }
    }

    fn raw_id(&self, span: Option<Span>) -> Option<RawId> {
        RawId::from_checked(self.slice(span)?)
    }
}
