//! The machines and rules of the crate from outside: transactions, digest, dialogs, registrar, offer/answer, location.
#[path = "machines/auth.rs"]
mod auth;
#[path = "machines/resolve.rs"]
mod resolve;
#[path = "machines/sdp.rs"]
mod sdp;
#[path = "machines/transaction_figures.rs"]
mod transaction_figures;
#[path = "machines/transaction_model.rs"]
mod transaction_model;
