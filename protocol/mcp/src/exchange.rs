//! Exchanges and relations (binding 5.2, 5.3). One channel carries two independent client-to-server relations; one
//! exchange is a JSON-RPC request with everything that belongs to it until its final answer.

mod channel;
mod table;

use std::fmt;
use std::str::FromStr;

pub use channel::{Channel, Party};
pub use table::{Belongs, DropReason, MAX_IN_FLIGHT, Rejected, RelationTable, Side};

pub use crate::headers::McpExchange;

/// Which side of the channel is the MCP client, by the draft's roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Relation {
    /// The side with the draft's role *caller* is the client.
    Caller,
    /// The side with the draft's role *callee* is the client.
    Callee,
}

impl Relation {
    /// The other relation of the channel.
    #[must_use]
    pub fn other(self) -> Relation {
        match self {
            Relation::Caller => Relation::Callee,
            Relation::Callee => Relation::Caller,
        }
    }
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Relation::Caller => "caller",
            Relation::Callee => "callee",
        })
    }
}

const MIN_ID: usize = 22;
const MAX_ID: usize = 43;

/// The name of an exchange: 22 to 43 characters of base64url, at least 128 random bits, chosen by the client of the
/// relation. It correlates; it never authorises.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExchangeId {
    len: u8,
    text: [u8; MAX_ID],
}

/// The text is no exchange id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not 22 to 43 characters of base64url")]
pub struct BadExchangeId;

impl ExchangeId {
    /// From 128 random bits.
    #[must_use]
    pub fn from_random(random: &[u8; 16]) -> ExchangeId {
        let mut id = ExchangeId { len: 0, text: [0; MAX_ID] };
        for (slot, byte) in id.text.iter_mut().zip(base64url(random).bytes()) {
            *slot = byte;
            id.len += 1;
        }
        id
    }

    /// The text on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Made from ASCII only.
        std::str::from_utf8(self.text.get(..usize::from(self.len)).unwrap_or(&[])).unwrap_or_default()
    }
}

impl FromStr for ExchangeId {
    type Err = BadExchangeId;

    fn from_str(text: &str) -> Result<ExchangeId, BadExchangeId> {
        let fits = (MIN_ID..=MAX_ID).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        if !fits {
            return Err(BadExchangeId);
        }
        let mut id = ExchangeId { len: text.len() as u8, text: [0; MAX_ID] };
        for (slot, byte) in id.text.iter_mut().zip(text.bytes()) {
            *slot = byte;
        }
        Ok(id)
    }
}

impl fmt::Display for ExchangeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ExchangeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExchangeId({})", self.as_str())
    }
}

/// What a message belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Exchange {
    /// One exchange.
    Id(ExchangeId),
    /// `session`: legacy messages that belong to no request (what HTTP would put on the GET stream).
    Session,
}

impl FromStr for Exchange {
    type Err = BadExchangeId;

    fn from_str(text: &str) -> Result<Exchange, BadExchangeId> {
        if text == "session" { Ok(Exchange::Session) } else { text.parse().map(Exchange::Id) }
    }
}

impl fmt::Display for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exchange::Id(id) => id.fmt(f),
            Exchange::Session => f.write_str("session"),
        }
    }
}

/// base64url without padding (RFC 4648 section 5).
pub(crate) fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().enumerate().fold(0u32, |word, (i, b)| word | u32::from(*b) << (16 - 8 * i));
        for i in 0..=chunk.len() {
            out.push(char::from(ALPHABET[(word >> (18 - 6 * i)) as usize & 63]));
        }
    }
    out
}
