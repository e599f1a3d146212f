//! What stands behind a name. These are also the stored form of a store that keeps entries whole: optional members are added with a
//! default and never removed ([`crate::codec`]).

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::nonces::Used;
use crate::key::{ConversationKey, DialogKey};
use crate::record::{CallLeg, DialogPhase, DialogRecord, JournalEntry, Owner, SessionRecord};

/// A binding was removed. In memory of its REGISTER for as long as a copy of that may still be under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Removed {
    /// [`crate::record::Binding::key`]; `None`: `Contact: *` removed them all.
    pub key: Option<String>,
    pub call_id: String,
    pub cseq: u32,
    pub expires_at: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Nonce {
    /// The highest that was taken, and by which request.
    pub count: u32,
    pub request: [u8; 16],
    pub expires_at: u64,
    /// Which of the [`crate::op::NONCE_WINDOW`] below it were taken; the lowest bit is the next lower one.
    #[serde(default = "super::nonces::all")]
    pub taken: u32,
    /// The last others that were taken, newest first; at most [`crate::op::NONCE_REQUESTS`].
    #[serde(default)]
    pub earlier: Vec<Used>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum GuardState {
    Pending,
    Cancelled,
    Rejected(Bytes),
    Accepted,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Guard {
    pub dialog: DialogKey,
    pub invite: Bytes,
    pub owner: Owner,
    pub lease_until: u64,
    pub state: GuardState,
    #[serde(default)]
    pub legs: Vec<CallLeg>,
    pub expires_at: u64,
    /// A copy of the INVITE was given the 2xx.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub told: bool,
}

impl Guard {
    /// Who has to end it; nobody once there is a final response.
    pub fn owned_by(&self) -> Option<u64> {
        matches!(self.state, GuardState::Pending).then_some(self.owner.pod)
    }
}

/// An in-dialog request of the peer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Request {
    /// Once there is one.
    pub response: Option<Bytes>,
    pub expires_at: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct StoredDialog {
    pub version: u64,
    pub record: DialogRecord,
    /// In-dialog requests of the last 32 s by CSeq.
    #[serde(default)]
    pub requests: BTreeMap<u32, Request>,
    #[serde(default)]
    pub conversation: Option<ConversationKey>,
    /// Nothing of it may be told any more.
    #[serde(default)]
    pub erased: bool,
    pub expires_at: u64,
}

impl StoredDialog {
    pub fn has_ended(&self) -> bool {
        self.record.phase == DialogPhase::Terminated
    }

    /// Who runs its timers.
    pub fn owned_by(&self) -> Option<u64> {
        (!self.has_ended()).then_some(self.record.owner.pod)
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct StoredExchange {
    pub entry: JournalEntry,
    pub state: ExchangeState,
    /// It came to its owner from a dead one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopted: bool,
    pub expires_at: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum ExchangeState {
    InFlight,
    /// On its way to the caller, with the answer, where it is kept; still with its owner.
    Held(Option<Bytes>),
    /// With the answer, where it is kept.
    Answered(Option<Bytes>),
}

impl StoredExchange {
    pub fn is_in_flight(&self) -> bool {
        matches!(self.state, ExchangeState::InFlight)
    }

    /// Who has to answer it, or to see that the answer arrives.
    pub fn owned_by(&self) -> Option<u64> {
        (!matches!(self.state, ExchangeState::Answered(_))).then_some(self.entry.owner.pod)
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct StoredSession {
    pub version: u64,
    pub record: SessionRecord,
    pub expires_at: u64,
}

/// An edge, in its last life.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Edge {
    pub owner: Owner,
    pub address: String,
    pub lease_until: u64,
    pub draining: bool,
}
