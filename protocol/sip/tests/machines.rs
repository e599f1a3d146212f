//! The machines and rules of the crate from outside: transactions, digest, dialogs, registrar, offer/answer, location.
#[path = "machines/auth.rs"]
mod auth;
#[path = "machines/dialog.rs"]
mod dialog;
#[path = "machines/registrar.rs"]
mod registrar;
#[path = "machines/resolve.rs"]
mod resolve;
#[path = "machines/sdp.rs"]
mod sdp;
#[path = "machines/transaction_figures.rs"]
mod transaction_figures;
#[path = "machines/transaction_model.rs"]
mod transaction_model;

use bytes::Bytes;
use sip_proto::message::{Message, Transportation};

/// Parses a message that is written with plain line ends.
fn message(text: &str) -> Message {
    let bytes = Bytes::from(text.replace('\n', "\r\n"));
    Message::parse(bytes, Transportation::Datagram).unwrap_or_else(|refusal| panic!("{refusal:?}\n{text}"))
}
