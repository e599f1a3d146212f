//! The crate from outside: one binary for all integration tests.

#[path = "api/envelope.rs"]
mod envelope;
#[path = "api/eras.rs"]
mod eras;
#[path = "api/errors.rs"]
mod errors;
#[path = "api/exchanges.rs"]
mod exchanges;
#[path = "api/headers.rs"]
mod headers;
#[path = "api/jsonrpc.rs"]
mod jsonrpc;
#[path = "api/lists.rs"]
mod lists;
#[path = "api/mirrors.rs"]
mod mirrors;
#[path = "api/policy.rs"]
mod policy;
#[path = "api/properties.rs"]
mod properties;
#[path = "api/tags.rs"]
mod tags;
#[path = "api/when.rs"]
mod when;

use bytes::Bytes;
use mcp_sip::exchange::ExchangeId;
use mcp_sip::jsonrpc::{Bounds, Envelope};

/// A message that must parse.
pub fn message(text: impl Into<String>) -> Envelope {
    let text = text.into();
    Envelope::parse(&Bytes::from(text.clone()), &Bounds::default()).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// A different exchange for every number.
pub fn exchange(number: u8) -> ExchangeId {
    ExchangeId::from_random(&[number; 16])
}
