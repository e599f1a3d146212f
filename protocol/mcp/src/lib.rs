//! MCP over SIP as values: the header fields, option tags and negotiation envelope of
//! draft-howe-sipcore-mcp-extension-00, the raw JSON-RPC envelope, eras, exchanges and the capability policy.
//!
//! Pure: no I/O, no clock, no randomness of its own; random bytes are arguments. Bodies are never re-made: an
//! [`jsonrpc::Envelope`] keeps the bytes as they came and knows where the few members lie that policy and
//! correlation need. Every parser is bounded and returns a typed error; none recurses on what a peer sends.
#![forbid(unsafe_code)]

pub mod envelope;
pub mod era;
pub mod errors;
pub mod exchange;
pub mod feature_caps;
pub mod headers;
pub mod jsonrpc;
pub mod negotiation;
pub mod option_tag;
pub mod policy;

/// The media type of every MCP body (draft §6).
pub const MEDIA_TYPE: &str = "application/mcp+json";

/// The Info Package that carries MCP in INFO (RFC 6086).
pub const INFO_PACKAGE: &str = "mcp";

/// The version of this binding, as the draft's `ver`, `+mcp.ver` and `mcp_version` fields carry it.
pub const BINDING_VERSION: &str = "1.0";
