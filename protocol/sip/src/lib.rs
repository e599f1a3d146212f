//! SIP as values: messages kept verbatim, framing, transactions, dialogs, registrar rules, digest, offer/answer.
//! Pure: no I/O, no clock, no randomness of its own; `now` and random bytes are arguments.
#![forbid(unsafe_code)]

pub mod auth;
pub mod sdp;
pub mod session_timer;
pub mod time;
pub mod timer;
pub mod transaction;
