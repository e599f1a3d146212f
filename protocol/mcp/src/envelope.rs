//! The negotiation envelope (draft §6 form b, NEG-9): a small JSON object in INVITE, re-INVITE, their 2xx and the ACK
//! that primes the exchange of MCP messages. Required members are required; unknown ones are kept.

mod conversation;
mod parse;

use bytes::Bytes;
use serde_json::Value;

pub use conversation::{BadConversation, Conversation};

use crate::errors::SipRefusal;
use crate::headers::ToolRef;
use crate::jsonrpc::Refused;

/// Whether an envelope offers or answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// `"offer"`
    Offer,
    /// `"answer"`
    Answer,
}

/// The role of the one who sends the envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// `"caller"`
    Caller,
    /// `"callee"`
    Callee,
}

impl Role {
    /// The role of the other side.
    #[must_use]
    pub fn other(self) -> Role {
        match self {
            Role::Caller => Role::Callee,
            Role::Callee => Role::Caller,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Role::Caller => "caller",
            Role::Callee => "callee",
        }
    }
}

impl Step {
    fn as_str(self) -> &'static str {
        match self {
            Step::Offer => "offer",
            Step::Answer => "answer",
        }
    }
}

/// A member that we do not know, kept as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    name: String,
    raw: String,
}

impl Unknown {
    /// The member's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The value, raw JSON.
    #[must_use]
    pub fn raw(&self) -> &str {
        &self.raw
    }
}

/// The envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiation {
    /// `mcp_version`: the version of the binding, `1.0`.
    pub binding_version: String,
    /// `type`.
    pub step: Step,
    /// `conversation`.
    pub conversation: Conversation,
    /// `payload.role`: the sender's.
    pub role: Role,
    /// `payload.tools`.
    pub tools: Vec<ToolRef>,
    /// `payload.schemas`; absent reads as empty.
    pub schemas: Vec<String>,
    /// `payload.versions`: the MCP versions, all in an offer, one in an answer. Empty for a draft peer (5.1).
    pub versions: Vec<String>,
    unknown: Vec<Unknown>,
    payload_unknown: Vec<Unknown>,
}

/// Why an envelope was refused. SIP answers 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NegotiationError {
    /// Not UTF-8, not JSON, or over a limit.
    #[error("{0}")]
    Body(Refused),
    /// A required member is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A member is there twice.
    #[error("{0} is there twice")]
    Duplicate(String),
    /// A member has another type than it must.
    #[error("{member} is not {expected}")]
    Type {
        /// Its path.
        member: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// A member has a value that it cannot have.
    #[error("{member}: {value:?} is not acceptable")]
    Value {
        /// Its path.
        member: &'static str,
        /// The value.
        value: String,
    },
    /// More members or list items than are read.
    #[error("{0} has too many entries")]
    TooMany(&'static str),
}

impl NegotiationError {
    /// The refusal on SIP.
    #[must_use]
    pub fn sip(&self) -> SipRefusal {
        match self {
            NegotiationError::Body(refused) => refused.sip(),
            _ => SipRefusal::BadNegotiation,
        }
    }
}

impl Negotiation {
    /// An envelope of our own.
    #[must_use]
    pub fn new(step: Step, conversation: Conversation, role: Role) -> Negotiation {
        Negotiation {
            binding_version: crate::BINDING_VERSION.to_owned(),
            step,
            conversation,
            role,
            tools: Vec::new(),
            schemas: Vec::new(),
            versions: Vec::new(),
            unknown: Vec::new(),
            payload_unknown: Vec::new(),
        }
    }

    /// Reads an envelope. The size is bounded by what carries it; nesting by 64; each list by 128 items.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &Bytes) -> Result<Negotiation, NegotiationError> {
        parse::negotiation(bytes)
    }

    /// The members that we do not know, beside `payload` and in it.
    pub fn unknown(&self) -> impl Iterator<Item = &Unknown> {
        self.unknown.iter().chain(&self.payload_unknown)
    }

    /// The body to send. Unknown members that were read are written after the known ones.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let tools: Vec<String> = self.tools.iter().map(ToString::to_string).collect();
        let mut out = String::from("{");
        member(&mut out, "mcp_version", &Value::from(self.binding_version.as_str()).to_string());
        member(&mut out, "type", &Value::from(self.step.as_str()).to_string());
        member(&mut out, "conversation", &Value::from(self.conversation.as_str()).to_string());
        let mut payload = String::from("{");
        member(&mut payload, "role", &Value::from(self.role.as_str()).to_string());
        member(&mut payload, "tools", &Value::from(tools).to_string());
        member(&mut payload, "schemas", &Value::from(self.schemas.as_slice()).to_string());
        if !self.versions.is_empty() {
            member(&mut payload, "versions", &Value::from(self.versions.as_slice()).to_string());
        }
        for Unknown { name, raw } in &self.payload_unknown {
            member(&mut payload, name, raw);
        }
        payload.push('}');
        member(&mut out, "payload", &payload);
        for Unknown { name, raw } in &self.unknown {
            member(&mut out, name, raw);
        }
        out.push('}');
        Bytes::from(out)
    }
}

fn member(out: &mut String, name: &str, raw: &str) {
    if !out.ends_with('{') {
        out.push(',');
    }
    out.push_str(&Value::from(name).to_string());
    out.push(':');
    out.push_str(raw);
}
