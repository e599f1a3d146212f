//! Typed views of header values. Each borrows the value and keeps it as it was written; `raw` gives it back byte-exact.

pub mod auth;
pub mod content_type;
pub mod cseq;
pub mod date;
pub mod name_addr;
pub mod params;
pub mod rack;
pub mod reason;
pub mod replaces;
pub mod retry_after;
pub mod session_expires;
pub mod via;
pub mod warning;

pub use auth::{AuthParam, Challenge, Credentials};
pub use content_type::{ContentDisposition, ContentType, Handling};
pub use cseq::CSeq;
pub use name_addr::{ContactList, Contacts, NameAddr, NameAddrs};
pub use params::{Param, Params};
pub use rack::RAck;
pub use reason::Reason;
pub use replaces::Replaces;
pub use retry_after::RetryAfter;
pub use session_expires::{Refresher, SessionExpires};
pub use via::{Via, Vias};
pub use warning::Warning;

/// A header value that does not follow its grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);
