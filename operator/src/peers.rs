//! The replicas of one operator among themselves. Every replica serves edges; the one that holds the Lease writes, and for that it has to know what
//! all edges said. So each other replica keeps a stream to the holder (`proto/peer.proto`) and mirrors its edges there.
//!
//! Three pure parts: [`telling`] finds what changed since it was told, [`taking`] brings it into the fleets at the other end, and [`orders`] are what
//! comes back. [`mirror`] moves them, [`reach`] finds the holder; the holder's end is [`crate::serve::mirrors`]. What people ask a replica that does
//! not hold the Lease is passed to the holder ([`forward`]).

pub mod forward;
pub mod mirror;
pub mod orders;
pub mod reach;
pub mod taking;
pub mod telling;

/// `proto/peer.proto`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated; the comments stand in the contract"
)]
#[rustfmt::skip]
#[path = "gen/sipmcp.peer.v1.rs"]
pub mod contract;

use crate::identity::Identity;
use crate::key::{Key, Kind};

/// Octets of one message, both ways, as the contract has it.
pub const MAX_MESSAGE: usize = 8 << 20;
/// Octets of entries in one message, unless one alone is larger.
pub const MAX_BYTES: usize = 1 << 20;
/// Entries of one message, and orders at one time.
pub const MAX_ENTRIES: usize = 4096;
/// Questions of one stream without their answers.
pub const MAX_ASKS: usize = 64;
/// Edges that one replica tells of.
pub const MAX_EDGES: usize = 4096;

/// As it travels.
#[must_use]
pub fn pod(identity: &Identity) -> contract::Pod {
    let edge = Key::new(Kind::SipEdge, identity.edge.clone()).to_message();
    contract::Pod { edge: Some(edge), name: identity.pod.clone() }
}

/// `None`: it names no edge.
#[must_use]
pub fn identity(pod: Option<&contract::Pod>) -> Option<Identity> {
    let pod = pod?;
    let edge = pod.edge.as_ref().and_then(Key::from_message)?;
    let fits = edge.kind == Kind::SipEdge && !edge.object.namespace.is_empty() && (1..=253).contains(&pod.name.len());
    fits.then(|| Identity { edge: edge.object, pod: pod.name.clone() })
}
