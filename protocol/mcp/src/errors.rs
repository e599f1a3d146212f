//! The one table of codes: JSON-RPC 2.0, the MCP specification's range, ours; and what each refusal is on SIP.
//!
//! -32020 … -32099 belong to the MCP specification. Ours are -31000 … -31099, outside the range that JSON-RPC
//! reserves (-32768 … -32000).

use std::borrow::Cow;

use serde_json::{Value, json};

use crate::era::Era;

/// Every JSON-RPC code that we send or give a meaning to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(i32)]
pub enum Code {
    /// Not UTF-8, not JSON, nested too deep.
    ParseError = -32700,
    /// JSON, but not a JSON-RPC envelope that we accept.
    InvalidRequest = -32600,
    /// Unknown method.
    MethodNotFound = -32601,
    /// Parameters missing or wrong; also: no such tool, whether absent or hidden.
    InvalidParams = -32602,
    /// The other side failed in a way that has no better code.
    InternalError = -32603,
    /// Header field and body differ (MCP 2026-07-28).
    HeaderMismatch = -32020,
    /// The client lacks a capability that the server needs (MCP 2026-07-28).
    MissingClientCapability = -32021,
    /// The protocol version is not served here (MCP 2026-07-28).
    UnsupportedVersion = -32022,
    /// The executing side was lost after the forward.
    Interrupted = -31001,
    /// A quota, a rate or the in-flight limit.
    Limited = -31002,
    /// The tool is visible, this call of it is not allowed.
    Denied = -31003,
    /// The store cannot be reached.
    Unavailable = -31004,
    /// The tool drifted from its pin.
    Quarantined = -31005,
    /// The answer fits no carrier of this leg.
    TooLarge = -31006,
}

/// All rows of the table.
pub const CODES: [Code; 14] = [
    Code::ParseError,
    Code::InvalidRequest,
    Code::MethodNotFound,
    Code::InvalidParams,
    Code::InternalError,
    Code::HeaderMismatch,
    Code::MissingClientCapability,
    Code::UnsupportedVersion,
    Code::Interrupted,
    Code::Limited,
    Code::Denied,
    Code::Unavailable,
    Code::Quarantined,
    Code::TooLarge,
];

impl Code {
    /// The number on the wire.
    #[must_use]
    pub fn number(self) -> i64 {
        i64::from(self as i32)
    }

    /// The row for a number, if we know it.
    #[must_use]
    pub fn from_number(number: i64) -> Option<Code> {
        CODES.into_iter().find(|code| code.number() == number)
    }

    /// The row's short name, for metrics and audit.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Code::ParseError => "parse_error",
            Code::InvalidRequest => "invalid_request",
            Code::MethodNotFound => "method_not_found",
            Code::InvalidParams => "invalid_params",
            Code::InternalError => "internal_error",
            Code::HeaderMismatch => "header_mismatch",
            Code::MissingClientCapability => "missing_client_capability",
            Code::UnsupportedVersion => "unsupported_version",
            Code::Interrupted => "interrupted",
            Code::Limited => "limited",
            Code::Denied => "denied",
            Code::Unavailable => "unavailable",
            Code::Quarantined => "quarantined",
            Code::TooLarge => "too_large",
        }
    }

    /// The status on an HTTP leg. Where the eras differ (-32601), so does the answer.
    #[must_use]
    pub fn http_status(self, era: Era) -> u16 {
        match self {
            Code::ParseError
            | Code::InvalidRequest
            | Code::HeaderMismatch
            | Code::MissingClientCapability
            | Code::UnsupportedVersion => 400,
            Code::MethodNotFound => match era {
                Era::Modern => 404,
                Era::Legacy => 200,
            },
            Code::Limited => 429,
            Code::Unavailable => 503,
            Code::InvalidParams
            | Code::InternalError
            | Code::Interrupted
            | Code::Denied
            | Code::Quarantined
            | Code::TooLarge => 200,
        }
    }
}

/// Whether a call that was interrupted may have run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Executed {
    /// It was never forwarded.
    No,
    /// It was forwarded, and nobody can say.
    Unknown,
}

/// A JSON-RPC error object that we make ourselves.
#[derive(Clone, Debug, PartialEq)]
pub struct RpcError {
    /// The code on the wire.
    pub code: i64,
    /// One sentence for people.
    pub message: Cow<'static, str>,
    /// The `data` member, where the table defines one.
    pub data: Option<Value>,
}

impl std::fmt::Display for RpcError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

impl std::error::Error for RpcError {}

impl RpcError {
    /// An error of this row with a message of its own.
    #[must_use]
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> RpcError {
        RpcError { code: code.number(), message: message.into(), data: None }
    }

    fn with(code: Code, message: impl Into<Cow<'static, str>>, data: Value) -> RpcError {
        RpcError { code: code.number(), message: message.into(), data: Some(data) }
    }

    /// The row of the table, if the code is in it.
    #[must_use]
    pub fn row(&self) -> Option<Code> {
        Code::from_number(self.code)
    }

    /// -32600.
    #[must_use]
    pub fn invalid_request(message: impl Into<Cow<'static, str>>) -> RpcError {
        RpcError::new(Code::InvalidRequest, message)
    }

    /// -32601.
    #[must_use]
    pub fn method_not_found(method: &str) -> RpcError {
        RpcError::new(Code::MethodNotFound, format!("Method not found: {}", shown(method)))
    }

    /// -32602 with a reason.
    #[must_use]
    pub fn invalid_params(message: impl Into<Cow<'static, str>>) -> RpcError {
        RpcError::new(Code::InvalidParams, message)
    }

    /// -32602: a required member is missing; `member` is its path, such as `params.name`.
    #[must_use]
    pub fn missing_member(member: &str) -> RpcError {
        RpcError::with(Code::InvalidParams, format!("Missing required member {member}"), json!({ "missing": member }))
    }

    /// -32602: no such tool. The same words whether the tool does not exist or policy hides it.
    #[must_use]
    pub fn unknown_tool(name: &str) -> RpcError {
        RpcError::new(Code::InvalidParams, format!("Unknown tool: {}", shown(name)))
    }

    /// -32603.
    #[must_use]
    pub fn internal(message: impl Into<Cow<'static, str>>) -> RpcError {
        RpcError::new(Code::InternalError, message)
    }

    /// Header field and body say different things: -32020, to a legacy peer -32600.
    #[must_use]
    pub fn header_mismatch(era: Era, what: &str) -> RpcError {
        let code = match era {
            Era::Modern => Code::HeaderMismatch,
            Era::Legacy => Code::InvalidRequest,
        };
        RpcError::new(code, format!("Header and body differ: {what}"))
    }

    /// The client did not declare a capability that is needed: -32021, to a legacy peer -32602.
    #[must_use]
    pub fn missing_capability(era: Era, capability: &str) -> RpcError {
        let code = match era {
            Era::Modern => Code::MissingClientCapability,
            Era::Legacy => Code::InvalidParams,
        };
        RpcError::with(
            code,
            format!("Missing required client capability: {capability}"),
            json!({ "requiredCapabilities": { capability: {} } }),
        )
    }

    /// The version is not served here: -32022, on `initialize` (legacy) -32602; `data.supported` lists what is.
    #[must_use]
    pub fn unsupported_version(era: Era, requested: Option<&str>, supported: &[&str]) -> RpcError {
        let code = match era {
            Era::Modern => Code::UnsupportedVersion,
            Era::Legacy => Code::InvalidParams,
        };
        let data = match requested {
            Some(requested) => json!({ "supported": supported, "requested": shown(requested) }),
            None => json!({ "supported": supported }),
        };
        RpcError::with(code, "Unsupported protocol version", data)
    }

    /// -31001: the executing side was lost. `retry` says whether the same request may be sent again.
    #[must_use]
    pub fn interrupted(retry: bool, executed: Executed) -> RpcError {
        let executed = match executed {
            Executed::No => "no",
            Executed::Unknown => "unknown",
        };
        RpcError::with(Code::Interrupted, "The call was interrupted", json!({ "retry": retry, "executed": executed }))
    }

    /// -31002: a limit was reached; `what` names it (`inFlightPerSession`, a quota).
    #[must_use]
    pub fn limited(what: &str, retry_after_ms: u64) -> RpcError {
        RpcError::with(
            Code::Limited,
            format!("Limit reached: {what}"),
            json!({ "limit": what, "retryAfterMs": retry_after_ms }),
        )
    }

    /// -31003: visible, but this call is not allowed.
    #[must_use]
    pub fn denied(what: &str) -> RpcError {
        RpcError::new(Code::Denied, format!("Denied by policy: {}", shown(what)))
    }

    /// -31004: the store cannot be reached.
    #[must_use]
    pub fn unavailable() -> RpcError {
        RpcError::with(Code::Unavailable, "Temporarily unavailable", json!({ "retry": true }))
    }

    /// -31005: the tool differs from its pin.
    #[must_use]
    pub fn quarantined(tool: &str) -> RpcError {
        RpcError::new(Code::Quarantined, format!("Tool is quarantined: {}", shown(tool)))
    }

    /// -31006: the answer has `bytes` bytes and no carrier of this leg takes more than `limit`.
    #[must_use]
    pub fn too_large(bytes: usize, limit: usize) -> RpcError {
        RpcError::with(
            Code::TooLarge,
            "The answer fits no carrier of this leg",
            json!({ "bytes": bytes, "limit": limit }),
        )
    }

    /// The error object as JSON.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut object = json!({ "code": self.code, "message": self.message });
        if let (Some(data), Some(map)) = (&self.data, object.as_object_mut()) {
            map.insert("data".to_owned(), data.clone());
        }
        object
    }
}

/// Peer text in a message of ours: cut to 128 characters, control characters replaced.
fn shown(text: &str) -> String {
    text.chars().take(128).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// What refuses an MCP body or an MCP call on SIP, before an exchange is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SipRefusal {
    /// Not UTF-8, not JSON, nested too deep (NEG-11).
    NotJson,
    /// JSON, but no JSON-RPC envelope.
    NotAnEnvelope,
    /// Not a media type that we take (NEG-11): goes with `Accept`.
    MediaType,
    /// Larger than the limit of this carrier (SEC-10).
    BodyTooLarge,
    /// The negotiation envelope outside session establishment (NEG-9).
    EnvelopeNotHere,
    /// The envelope lacks or contradicts something (NEG-9), or an MCP header field does not parse.
    BadNegotiation,
    /// MCP is required and not offered for this target (NEG-2): goes with `Unsupported`.
    NotOffered,
    /// Policy leaves this caller nothing (NEG-12).
    Forbidden,
    /// Nothing in common with the offer (NEG-3, NEG-12).
    NothingInCommon,
    /// Unknown dialog, session or legacy session.
    UnknownSession,
    /// The store cannot be reached: goes with `Retry-After`.
    StoreUnavailable,
}

impl SipRefusal {
    /// The SIP status code.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            SipRefusal::NotJson
            | SipRefusal::NotAnEnvelope
            | SipRefusal::EnvelopeNotHere
            | SipRefusal::BadNegotiation => 400,
            SipRefusal::Forbidden => 403,
            SipRefusal::BodyTooLarge => 413,
            SipRefusal::MediaType => 415,
            SipRefusal::NotOffered => 420,
            SipRefusal::UnknownSession => 481,
            SipRefusal::NothingInCommon => 488,
            SipRefusal::StoreUnavailable => 503,
        }
    }

    /// The reason phrase.
    #[must_use]
    pub fn phrase(self) -> &'static str {
        match self {
            SipRefusal::NotJson => "Malformed MCP JSON",
            SipRefusal::NotAnEnvelope => "Not a JSON-RPC Message",
            SipRefusal::EnvelopeNotHere => "MCP Negotiation Envelope Not Allowed Here",
            SipRefusal::BadNegotiation => "Bad MCP Negotiation",
            SipRefusal::Forbidden => "Forbidden",
            SipRefusal::BodyTooLarge => "Request Entity Too Large",
            SipRefusal::MediaType => "Unsupported Media Type",
            SipRefusal::NotOffered => "Bad Extension",
            SipRefusal::UnknownSession => "Call/Transaction Does Not Exist",
            SipRefusal::NothingInCommon => "Not Acceptable Here",
            SipRefusal::StoreUnavailable => "Service Unavailable",
        }
    }
}
