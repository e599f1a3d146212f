//! The header fields of the binding: `MCP-Capabilities` (draft §5.2, NEG-7), `MCP-Select` (draft §5.3, NEG-8) and
//! `MCP-Exchange` (binding 5.3). Strict ABNF and a lenient mode (D7); both return typed errors.
//!
//! A header field steers routing. It never decides what a body means (SEC-12).

mod capabilities;
mod exchange;
mod grammar;
mod select;
mod tool;

pub use capabilities::{Capabilities, Capability};
pub use exchange::McpExchange;
pub use grammar::{Parameter, is_token};
pub use select::Select;
pub use tool::ToolRef;
pub(crate) use tool::is_schema;

/// Name of the capabilities header field.
pub const MCP_CAPABILITIES: &str = "MCP-Capabilities";
/// Name of the selection header field.
pub const MCP_SELECT: &str = "MCP-Select";
/// Name of the exchange header field.
pub const MCP_EXCHANGE: &str = "MCP-Exchange";

/// The most bytes of one field's values together that are read.
pub const MAX_BYTES: usize = 4096;
/// The most entries of a field, and the most items of each list in it.
pub const MAX_ENTRIES: usize = 128;

/// How close to the ABNF a value must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// The draft's ABNF.
    Strict,
    /// What peers send (D7): `@1.0`, lists without quotes, `;` and `,` in each other's place, white space in lists,
    /// empty list items.
    Lenient,
}

/// Why a header value was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// More than [`MAX_BYTES`].
    #[error("more than {MAX_BYTES} bytes")]
    TooLong,
    /// More than [`MAX_ENTRIES`].
    #[error("more than {MAX_ENTRIES} entries")]
    TooMany,
    /// Not UTF-8.
    #[error("not UTF-8")]
    NotUtf8,
    /// Nothing there.
    #[error("empty")]
    Empty,
    /// Something else than what the ABNF has here.
    #[error("{expected} expected at byte {at}")]
    Syntax {
        /// What the grammar has here.
        expected: &'static str,
        /// Offset in the value.
        at: usize,
    },
    /// The parameter is there twice in one entry (RFC 3261 section 7.3.1).
    #[error("parameter {0} is there twice")]
    Duplicate(String),
    /// The value of a parameter is not what the ABNF has for it.
    #[error("bad value of {parameter}: {value:?}")]
    Value {
        /// The parameter.
        parameter: &'static str,
        /// The value, as sent.
        value: String,
    },
    /// A parameter that must be there is missing.
    #[error("parameter {0} is missing")]
    Missing(&'static str),
}
