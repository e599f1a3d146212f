//! Audit records and spans: who did what, by which rule, with which outcome. Never a payload, an argument or a credential (SEC-11).

use sip_proto::time::UnixMillis;

/// One record per tool call, refused call, session start and end (OBS-1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRecord {
    pub at: UnixMillis,
    pub kind: AuditKind,
    /// The `SipDomain`'s domain.
    pub domain: String,
    /// The verified principal (`sip:alice@acme.example`), or `anonymous`.
    pub principal: String,
    /// `sip:billing@acme.example`.
    pub agent: String,
    /// MCP method, where there is one.
    pub method: Option<String>,
    /// Tool, prompt or resource name; escaped, at most 256 bytes.
    pub tool: Option<String>,
    /// `policy/rule` that decided, or `default`.
    pub rule: String,
    pub outcome: Outcome,
    /// SIP Call-ID, escaped.
    pub call_id: String,
    /// MCP-Exchange value, where there is one.
    pub exchange: Option<String>,
    /// Conversation UUID, where there is one.
    pub conversation: Option<String>,
    /// From the request's arrival to its answer.
    pub duration_us: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditKind {
    ToolCall,
    McpRequest,
    SessionStart,
    SessionEnd,
    Registration,
    Refusal,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A result without `isError`.
    Ok,
    /// A result with `isError: true`.
    ToolError,
    /// A JSON-RPC error with this code.
    Error(i64),
    /// Refused by policy or authentication before anything ran; the SIP status or JSON-RPC code.
    Denied(i64),
    Cancelled,
}

/// On which side of a request a span stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// What a caller asked of us.
    Server,
    /// What we asked of a backend.
    Client,
}

/// A finished span (OpenTelemetry).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub name: String,
    pub trace_id: [u8; 16],
    pub span_id: [u8; 8],
    pub parent: Option<[u8; 8]>,
    pub kind: SpanKind,
    pub start: UnixMillis,
    pub end: UnixMillis,
    /// Names of the GenAI and MCP semantic conventions; values without payloads.
    pub attributes: Vec<(&'static str, String)>,
    pub error: bool,
}
