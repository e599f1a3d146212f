//! SIP as values: messages kept verbatim, framing, transactions, dialogs, registrar rules, digest, offer/answer.
//! Pure: no I/O, no clock, no randomness of its own; `now` and random bytes are arguments.
#![forbid(unsafe_code)]

pub mod auth;
mod chars;
pub mod dialog;
pub mod escape;
pub mod framing;
pub mod header;
pub mod identity;
pub mod limits;
pub mod message;
pub mod method;
pub mod multipart;
pub mod preferences;
pub mod registrar;
pub mod resolve;
pub mod sdp;
pub mod session_timer;
pub mod status;
pub mod time;
pub mod timer;
pub mod transaction;
pub mod uri;
