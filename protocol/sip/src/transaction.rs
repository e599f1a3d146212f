//! The four transaction machines of RFC 3261 §17 with RFC 6026 (Accepted), RFC 4320 and RFC 4321, as values:
//! `(event, now) → actions`. A machine holds no socket, task or message; it keeps only the bytes that it must repeat.
//!
//! Contract of every machine
//! - A constructor or `on_*` call appends to `out` what must be done, in order. Nothing else has an effect.
//! - Call `handle_timeout` when `poll_timeout` is reached (late is fine: a missed retransmission is made once, not often).
//! - **Drain invariant:** once [`Action::Terminated`] was given the machine runs no timer, gives no further action and
//!   can be dropped. Every machine ends by itself, with one exception: an INVITE in Proceeding waits for
//!   the other side (Timer C and the caller's patience belong to the TU).
//! - A request or response that reached the TU once is given to it as [`ToUser`]; the TU has the message already at hand,
//!   so only what the machine decided is said.

pub mod client_invite;
pub mod client_other;
pub mod key;
pub mod server_invite;
pub mod server_other;

use bytes::Bytes;

pub use client_invite::ClientInvite;
pub use client_other::ClientNonInvite;
pub use key::TransactionKey;
pub use server_invite::ServerInvite;
pub use server_other::ServerNonInvite;

/// Does the transport repeat lost packets by itself?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reliability {
    /// UDP: the machine retransmits and waits for late copies.
    Unreliable,
    /// TCP, TLS, WebSocket: it does neither.
    Reliable,
}

/// What a machine wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send these bytes to where the transaction's messages go.
    Send(Bytes),
    /// Tell the transaction user.
    ToUser(ToUser),
    /// The transaction is over; drop it. Always the last action of a machine, and given once.
    Terminated(Cause),
}

/// What the transaction user is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToUser {
    /// Client: the response that was just handed in is new; handle it.
    Response(u16),
    /// Client INVITE: a provisional response is there, so the CANCEL that was asked for may be sent now (RFC 3261 §9.1).
    CancelNow,
    /// Server: no answer yet, and a 100 is due. The TU answers with `on_response(100)` as soon as it may.
    TryingDue,
    /// Server INVITE: an ACK for a 2xx came on this transaction (an RFC 2543 client, or one that reuses the branch).
    Ack,
    /// The transport could not send. A server transaction stays as it is (RFC 6026 §8.7); a client one ends, except
    /// an INVITE that has a provisional response.
    TransportError,
}

/// Why a transaction is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It ran its course.
    Normal,
    /// No response came (Timers B, F; a cancelled INVITE: treat as 487), no ACK came (Timer H), or the TU gave none.
    Timeout,
    /// Nothing can be sent (client transactions): treat as 503.
    TransportError,
}
