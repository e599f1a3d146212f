//! One request of the caller, from its journal entry to its final answer.

use bytes::Bytes;
use mcp_sip::era::Era;
use mcp_sip::exchange::{ExchangeId, McpExchange};
use mcp_sip::jsonrpc::{Envelope, RawId};
use session_store::key::{ExchangeKey, SessionKey};
use session_store::record::{ExchangeNote, Owner};
use sip_proto::time::{Mono, Now};
use std::sync::Arc;

use super::about::About;
use super::allowance::Places;
use super::meter::Limited;
use super::types::Leg;
use crate::input::BackendId;

/// A call in which the caller is asked something may take so much longer; milliseconds.
pub(super) const ASK_MS: u64 = 10 * 60_000;
/// `subscriptions/listen` in a dialog; milliseconds.
pub(super) const LISTEN_MS: u64 = 60 * 60_000;
/// The journal keeps an entry so much longer than the exchange lives; milliseconds.
pub(super) const GRACE_MS: u64 = 32_000;
/// Progress and log messages of one exchange that are on their way at once.
pub(super) const MAX_NOTES: usize = 64;

#[derive(Debug)]
pub(super) struct Exchange {
    pub session: SessionKey,
    pub leg: Arc<Leg>,
    pub header: Option<McpExchange>,
    /// Its place in the session's table. `None`: the same request was open there when this one came.
    pub slot: Option<ExchangeId>,
    pub key: ExchangeKey,
    pub digest: [u8; 32],
    pub id: RawId,
    pub era: Era,
    /// Modern: what the request says. Legacy: the session knows.
    pub version: Option<String>,
    /// Whether an edge may run it again.
    pub repeatable: bool,
    /// Whether a second execution is safe, by declaration: what the caller is told of a call that failed.
    pub is_safe: bool,
    pub about: About,
    /// The request. Gone once it cannot be needed any more.
    pub envelope: Option<Envelope>,
    pub stage: Stage,
    pub deadline: Mono,
    /// The deadline never moves behind this.
    pub latest: Mono,
    /// Questions of the server that the caller has not answered, and since when: that time is not the tool's.
    pub owed: usize,
    pub owed_since: Mono,
    /// Messages of this exchange on their way to the caller, beside the answer.
    pub notes: usize,
    /// The mirrors were found wrong once already.
    pub retried: bool,
    /// `initialize`: the backend's `Mcp-Session-Id`.
    pub backend_session: Option<String>,
    /// Another edge, or an earlier life of this one, opened it.
    pub is_adopted: bool,
    /// It was judged on another negotiated set than the store has.
    pub is_reconsidered: bool,
    /// It came where there is no lease, or no store: only the journal's answer to it may be said.
    pub opens_nothing: bool,
    /// It was counted, or is one too many.
    pub is_metered: bool,
    /// It is one too many, and is not opened. The journal is asked all the same: a repetition of what was taken is not refused.
    pub limited: Option<Limited>,
    /// Of the rules that count how many wait for their answer; free again when it is gone.
    pub places: Places,
    /// The life of this edge that the journal knows as its owner.
    pub owner: Owner,
    /// The id that the backend was given, where it is not the caller's.
    pub upstream: Option<RawId>,
    /// An adopted exchange that is not replayed: what is being done instead.
    pub resumed: Option<Resumed>,
    pub noted: Noted,
}

/// What an edge that adopted an exchange asks the backend for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resumed {
    /// The rest of the SSE stream that was to bring the answer (legacy).
    Stream,
    /// The task that the backend made of the request.
    Task,
}

/// What became known while the exchange ran and another edge would need: written without anybody waiting for it, one write at a time, so
/// that a fast stream costs one write per round trip.
#[derive(Debug, Default)]
pub(super) struct Noted {
    /// Everything so far.
    pub known: ExchangeNote,
    /// What is not written.
    pub next: ExchangeNote,
    pub is_writing: bool,
}

/// Where an exchange stands.
#[derive(Debug)]
pub(super) enum Stage {
    /// It waits for a tool's schema or for its session.
    Waiting,
    Forwarded {
        call: BackendId,
        at: Now,
    },
    /// `initialize` was answered; the session record is being written.
    Holding {
        answer: Bytes,
        at: Now,
    },
}

impl Exchange {
    pub(super) fn is_initialize(&self) -> bool {
        self.era == Era::Legacy && self.about.method == "initialize"
    }

    pub(super) fn call(&self) -> Option<BackendId> {
        match self.stage {
            Stage::Forwarded { call, .. } => Some(call),
            Stage::Waiting | Stage::Holding { .. } => None,
        }
    }

    /// Whether another edge may simply send it again: then nothing of what happens meanwhile matters.
    pub(super) fn is_noteworthy(&self) -> bool {
        !self.repeatable && !self.is_initialize()
    }

    pub(super) fn forwarded_at(&self) -> Option<Now> {
        match self.stage {
            Stage::Forwarded { at, .. } | Stage::Holding { at, .. } => Some(at),
            Stage::Waiting => None,
        }
    }

    /// The caller owes an answer now: the clock stands.
    pub(super) fn stop_clock(&mut self, now: Mono) {
        if self.owed == 0 {
            self.owed_since = now;
        }
        self.owed += 1;
    }

    /// The caller gave one; with the last one the clock goes on.
    pub(super) fn start_clock(&mut self, now: Mono) {
        self.owed = self.owed.saturating_sub(1);
        if self.owed == 0 {
            let waited = now.millis_since(self.owed_since);
            self.deadline = self.deadline.plus_millis(waited).min(self.latest);
        }
    }
}
