//! Why a body is no JSON-RPC message that we accept, and how that is answered (design 5.8).

use super::id::{IdError, RawId};
use crate::errors::{Code, RpcError, SipRefusal};

/// What is wrong with a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Larger than the limit.
    #[error("{bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// Size of the body.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Not UTF-8 from this offset on.
    #[error("invalid UTF-8 at byte {0}")]
    NotUtf8(usize),
    /// Not JSON at this offset; trailing bytes too.
    #[error("invalid JSON at byte {0}")]
    NotJson(usize),
    /// Nested too deep at this offset.
    #[error("nested too deep at byte {0}")]
    TooDeep(usize),
    /// An array: batches were removed in MCP 2025-06-18.
    #[error("a batch")]
    Batch,
    /// JSON, but no object.
    #[error("not an object")]
    NotAnObject,
    /// A member's name is an escape that names no character.
    #[error("a member without a readable name")]
    MemberName,
    /// A member that decides something is there twice, or once more in another letter case.
    #[error("duplicate member {0}")]
    Duplicate(&'static str),
    /// Another member of the envelope is there twice.
    #[error("duplicate member")]
    DuplicateOther,
    /// More members in the envelope than any message has.
    #[error("too many members")]
    TooManyMembers,
    /// No `jsonrpc`, or another value than "2.0".
    #[error("jsonrpc is not \"2.0\"")]
    Version,
    /// The id is not acceptable.
    #[error("{0}")]
    Id(IdError),
    /// A response without an id.
    #[error("a response without an id")]
    NoId,
    /// `method` is no string.
    #[error("method is not a string")]
    Method,
    /// `method` together with `result` or `error`.
    #[error("both a request and a response")]
    RequestAndResponse,
    /// `result` together with `error`.
    #[error("both result and error")]
    ResultAndError,
    /// No `method`, no `result`, no `error`.
    #[error("neither method nor result nor error")]
    Nothing,
    /// `error` is no object with an integer `code` and a string `message`.
    #[error("error is not an error object")]
    ErrorObject,
    /// `mcp_version` beside `jsonrpc`: it could be read as either form.
    #[error("both a JSON-RPC message and a negotiation envelope")]
    TwoForms,
    /// A negotiation envelope where only a message is allowed (NEG-9).
    #[error("a negotiation envelope")]
    NegotiationEnvelope,
    /// `params` is no object.
    #[error("params is not an object")]
    Params,
    /// `params._meta` is no object.
    #[error("params._meta is not an object")]
    Meta,
    /// `params._meta` is too large.
    #[error("params._meta has {bytes} bytes, the limit is {limit}")]
    MetaTooLarge {
        /// Size of `_meta`.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// `params.requestId`, `params.progressToken`, the same in `_meta`, or the subscription id is no id.
    #[error("{member}: {error}")]
    Token {
        /// The member.
        member: &'static str,
        /// What is wrong with it.
        error: IdError,
    },
}

/// A refused body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What is wrong.
    pub fault: Fault,
    /// The id of the request, as far as it could be read and the message is a request.
    pub id: Option<RawId>,
}

/// How a refusal is answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// By the status of the SIP (MSRP) transaction.
    Sip(SipRefusal),
    /// By a JSON-RPC error with this id; the SIP transaction is answered 200 (NEG-12).
    JsonRpc(RawId, RpcError),
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.fault.fmt(f)
    }
}

impl std::error::Error for Refused {}

impl Refused {
    pub(super) fn new(fault: Fault) -> Refused {
        Refused { fault, id: None }
    }

    /// The row of the table of codes; `None` for a body that is too large (413 has no code).
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self.fault {
            Fault::TooLarge { .. } => None,
            Fault::NotUtf8(_) | Fault::NotJson(_) | Fault::TooDeep(_) => Some(Code::ParseError),
            Fault::Params | Fault::Meta | Fault::MetaTooLarge { .. } | Fault::Token { .. } => Some(Code::InvalidParams),
            Fault::Batch
            | Fault::NotAnObject
            | Fault::MemberName
            | Fault::Duplicate(_)
            | Fault::DuplicateOther
            | Fault::TooManyMembers
            | Fault::Version
            | Fault::Id(_)
            | Fault::NoId
            | Fault::Method
            | Fault::RequestAndResponse
            | Fault::ResultAndError
            | Fault::Nothing
            | Fault::ErrorObject
            | Fault::TwoForms
            | Fault::NegotiationEnvelope => Some(Code::InvalidRequest),
        }
    }

    /// The refusal of the SIP transaction, whatever the message was.
    #[must_use]
    pub fn sip(&self) -> SipRefusal {
        match self.fault {
            Fault::TooLarge { .. } => SipRefusal::BodyTooLarge,
            Fault::NegotiationEnvelope => SipRefusal::EnvelopeNotHere,
            _ => match self.code() {
                Some(Code::ParseError) => SipRefusal::NotJson,
                _ => SipRefusal::NotAnEnvelope,
            },
        }
    }

    /// How it is answered on SIP: wrong parameters of a request inside the exchange, all else by the status.
    #[must_use]
    pub fn answer(&self) -> Answer {
        match (self.code(), &self.id) {
            (Some(Code::InvalidParams), Some(id)) => Answer::JsonRpc(id.clone(), self.rpc()),
            _ => Answer::Sip(self.sip()),
        }
    }

    /// The JSON-RPC error, for a leg where every refusal is one (HTTP).
    #[must_use]
    pub fn rpc(&self) -> RpcError {
        RpcError::new(self.code().unwrap_or(Code::InvalidRequest), self.fault.to_string())
    }
}
