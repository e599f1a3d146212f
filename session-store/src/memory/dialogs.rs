//! Dialogs: CSeq order, replay of responses, compare-and-set, fences, tombstones.

use bytes::Bytes;

use super::MemoryStore;
use super::entries::{Request, StoredDialog};
use crate::key::{ConversationKey, DialogKey};
use crate::op::{Actor, CloseExchange, Fence, OpenExchange, StoreError, StoreReply, TOMBSTONE_MS};
use crate::record::{DialogPhase, DialogRecord, PeerFlow};

/// So many in-dialog requests are remembered for replay; older ones go first.
const MAX_REMEMBERED: usize = 256;

/// An in-dialog request of the peer.
pub(super) struct InDialog {
    pub by: Actor,
    pub flow: Option<PeerFlow>,
    pub cseq: u32,
    pub is_bye: bool,
    pub claim_ms: Option<u64>,
}

/// Whether this is the dialog's own principal, on its own flow where the principal says nothing.
fn may_act(record: &DialogRecord, by: &Actor) -> bool {
    record.principal == by.principal && by.source.as_ref().is_none_or(|source| *source == record.source)
}

impl StoredDialog {
    /// A writer's new record. CSeq only rises, a dialog that is being ended stays so, owner and flow are the store's, whatever the
    /// writer read before.
    pub fn replace(&mut self, now_ms: u64, mut record: DialogRecord, ttl_ms: u64) {
        let known = &mut self.record;
        record.cseq_in = record.cseq_in.max(known.cseq_in);
        record.cseq_out = record.cseq_out.max(known.cseq_out);
        if known.phase == DialogPhase::Terminating {
            record.phase = DialogPhase::Terminating;
        }
        record.owner = known.owner;
        record.flow = known.flow.take();
        record.source = std::mem::take(&mut known.source);
        self.record = record;
        self.version += 1;
        self.expires_at = now_ms.saturating_add(ttl_ms);
    }

    /// What is remembered of a request.
    fn seen(&self, now_ms: u64, cseq: u32) -> Option<&Request> {
        self.requests.get(&cseq).filter(|request| request.expires_at > now_ms)
    }

    /// Whether a request was claimed so long ago and has no answer.
    fn has_lapsed(&self, now_ms: u64, cseq: u32, claim_ms: u64) -> bool {
        let request = self.seen(now_ms, cseq).filter(|request| request.response.is_none());
        request
            .is_some_and(|request| request.expires_at.saturating_sub(TOMBSTONE_MS).saturating_add(claim_ms) <= now_ms)
    }

    fn remember(&mut self, now_ms: u64, cseq: u32, response: Option<Bytes>) {
        while self.requests.first_key_value().is_some_and(|(_, oldest)| oldest.expires_at <= now_ms) {
            self.requests.pop_first();
        }
        self.requests.insert(cseq, Request { response, expires_at: now_ms.saturating_add(TOMBSTONE_MS) });
        while self.requests.len() > MAX_REMEMBERED {
            self.requests.pop_first();
        }
    }

    fn told(&self) -> (u64, Box<DialogRecord>) {
        (self.version, Box::new(self.record.clone()))
    }

    fn conflict(&self) -> StoreReply {
        let (version, record) = self.told();
        StoreReply::Conflict { version, record }
    }
}

impl MemoryStore {
    pub(super) fn live_dialog(&self, now_ms: u64, key: DialogKey) -> Option<&StoredDialog> {
        self.dialogs.get(&key).filter(|d| d.expires_at > now_ms)
    }

    /// The dialog, if it can still be changed; else the reply.
    fn open_dialog(&self, now_ms: u64, key: DialogKey) -> Result<&StoredDialog, StoreReply> {
        match self.live_dialog(now_ms, key) {
            None => Err(StoreReply::Unknown),
            Some(dialog) if dialog.has_ended() => Err(StoreReply::Gone),
            Some(dialog) => Ok(dialog),
        }
    }

    pub(super) fn read_dialog(&mut self, now_ms: u64, key: DialogKey) -> StoreReply {
        match self.open_dialog(now_ms, key) {
            Err(reply) => reply,
            Ok(dialog) => {
                let (version, record) = dialog.told();
                StoreReply::Dialog { version, record }
            }
        }
    }

    pub(super) fn confirm(&mut self, now_ms: u64, key: DialogKey) -> StoreReply {
        let version = match self.open_dialog(now_ms, key) {
            Err(reply) => return reply,
            Ok(dialog) if dialog.record.phase != DialogPhase::Accepted => dialog.version,
            Ok(_) => {
                let changed = self.change_dialog(key, |dialog| {
                    dialog.record.phase = DialogPhase::Confirmed;
                    dialog.record.accept_bytes = None;
                    dialog.version += 1;
                    dialog.version
                });
                changed.unwrap_or(0)
            }
        };
        StoreReply::Version(version)
    }

    pub(super) fn begin(
        &mut self,
        now_ms: u64,
        key: DialogKey,
        request: InDialog,
        exchange: Option<OpenExchange>,
    ) -> Result<StoreReply, StoreError> {
        let InDialog { by, flow, cseq, is_bye, claim_ms } = request;
        let Some(dialog) = self.live_dialog(now_ms, key) else { return Ok(StoreReply::Unknown) };
        let lapsed = claim_ms.is_some_and(|ms| dialog.record.peer.is_none() && dialog.has_lapsed(now_ms, cseq, ms));
        match refuse_request(dialog, now_ms, &by, cseq) {
            None => {}
            Some(StoreReply::InProgress) if lapsed => {}
            Some(reply) => return Ok(reply),
        }
        // An equal number is a request whose answer is no longer kept: a replay. BYE alone is claimed by its tombstone.
        let may_be_equal = is_bye || lapsed;
        if dialog.record.cseq_in.is_some_and(|highest| cseq < highest || (cseq == highest && !may_be_equal)) {
            return Ok(StoreReply::OutOfOrder);
        }
        // Before the claim: where the journal is full, nothing was changed and the sender may try again.
        let exchange = match exchange {
            Some(open) => Some(self.open_exchange(now_ms, open)?),
            None => None,
        };
        let begun = self.change_dialog(key, |dialog| {
            dialog.record.cseq_in = Some(cseq);
            if let Some(flow) = flow {
                dialog.record.flow = flow.flow;
                dialog.record.source = flow.source;
            }
            if !is_bye {
                dialog.remember(now_ms, cseq, None);
            }
            dialog.told()
        });
        let Some((version, record)) = begun else { return Ok(StoreReply::Unknown) };
        Ok(StoreReply::Begun { version, record, exchange })
    }

    pub(super) fn commit(
        &mut self,
        now_ms: u64,
        key: DialogKey,
        cseq: u32,
        response: Bytes,
        record: Option<(u64, Box<DialogRecord>, u64)>,
    ) -> StoreReply {
        match (self.open_dialog(now_ms, key), &record) {
            (Err(reply), _) => return reply,
            (Ok(dialog), Some((version, ..))) if *version != dialog.version => return dialog.conflict(),
            _ => {}
        }
        let is_changed = record.is_some();
        let version = self.change_dialog(key, |dialog| {
            if let Some((_, record, ttl_ms)) = record {
                dialog.replace(now_ms, *record, ttl_ms);
            }
            dialog.remember(now_ms, cseq, Some(response));
            dialog.version
        });
        if is_changed {
            self.keep_dialog(now_ms, key, false);
        }
        StoreReply::Version(version.unwrap_or(0))
    }

    pub(super) fn update_dialog(
        &mut self,
        now_ms: u64,
        key: DialogKey,
        version: u64,
        record: DialogRecord,
        ttl_ms: u64,
    ) -> StoreReply {
        match self.open_dialog(now_ms, key) {
            Err(reply) => return reply,
            Ok(dialog) if version != dialog.version => return dialog.conflict(),
            Ok(_) => {}
        }
        let version = self.change_dialog(key, |dialog| {
            dialog.replace(now_ms, record, ttl_ms);
            dialog.version
        });
        self.keep_dialog(now_ms, key, false);
        StoreReply::Version(version.unwrap_or(0))
    }

    pub(super) fn terminate(
        &mut self,
        now_ms: u64,
        key: DialogKey,
        by: &Actor,
        cseq: u32,
        response: Bytes,
    ) -> StoreReply {
        let Some(dialog) = self.live_dialog(now_ms, key) else { return StoreReply::Unknown };
        match refuse_request(dialog, now_ms, by, cseq) {
            // Claimed by another method, and its answer will be dropped: BYE wins over everything.
            None | Some(StoreReply::InProgress) => {}
            Some(reply) => return reply,
        }
        if dialog.record.cseq_in.is_some_and(|highest| cseq < highest) {
            return StoreReply::OutOfOrder;
        }
        self.change_dialog(key, |dialog| {
            dialog.record.cseq_in = Some(cseq);
            dialog.remember(now_ms, cseq, Some(response));
        });
        let Some((version, record)) = self.end_dialog(now_ms, key) else { return StoreReply::Unknown };
        StoreReply::Dialog { version, record }
    }

    pub(super) fn bury(&mut self, now_ms: u64, key: DialogKey) -> StoreReply {
        if let Err(reply) = self.open_dialog(now_ms, key) {
            return reply;
        }
        let Some((version, record)) = self.end_dialog(now_ms, key) else { return StoreReply::Unknown };
        StoreReply::Dialog { version, record }
    }

    /// The tombstone; the other leg has to be ended now. Gives the new version and what the dialog was.
    pub(super) fn end_dialog(&mut self, now_ms: u64, key: DialogKey) -> Option<(u64, Box<DialogRecord>)> {
        let (version, was) = self.tombstone(now_ms, key)?;
        self.end_peer(now_ms, was.peer);
        Some((version, was))
    }

    /// Turns a dialog into its tombstone. Gives the new version and what it was.
    pub(super) fn tombstone(&mut self, now_ms: u64, key: DialogKey) -> Option<(u64, Box<DialogRecord>)> {
        let ended = self.change_dialog(key, |dialog| {
            let was = Box::new(dialog.record.clone());
            dialog.record.phase = DialogPhase::Terminated;
            dialog.record.local_sdp = None;
            dialog.record.remote_sdp = None;
            dialog.record.accept_bytes = None;
            dialog.version += 1;
            dialog.expires_at = now_ms.saturating_add(TOMBSTONE_MS);
            (dialog.version, was)
        });
        if let Some((_, was)) = &ended {
            self.keep_ended(now_ms, key, was);
        }
        ended
    }

    /// The other leg of a call that is being ended. No new version: what a writer has read of it still holds.
    fn end_peer(&mut self, now_ms: u64, peer: Option<DialogKey>) {
        if let Some(peer) = peer
            && self.open_dialog(now_ms, peer).is_ok()
        {
            self.change_dialog(peer, |dialog| dialog.record.phase = DialogPhase::Terminating);
        }
    }

    pub(super) fn next_cseq(
        &mut self,
        now_ms: u64,
        key: DialogKey,
        terminating: bool,
        close: Option<CloseExchange>,
        fence: Option<Fence>,
    ) -> StoreReply {
        if let (Some(fence), Ok(dialog)) = (fence, self.open_dialog(now_ms, key)) {
            if dialog.record.owner != fence.owner {
                return StoreReply::Fenced;
            }
            if fence.version.is_some_and(|version| version != dialog.version) {
                return dialog.conflict();
            }
        }
        if let Some(close) = close
            && self.close_exchange(now_ms, close) == StoreReply::Fenced
        {
            return StoreReply::Fenced;
        }
        if let Err(reply) = self.open_dialog(now_ms, key) {
            return reply;
        }
        // No new version: a request of ours is no change that another writer must see first.
        let next = self.change_dialog(key, |dialog| {
            dialog.record.cseq_out = dialog.record.cseq_out.saturating_add(1);
            if terminating {
                dialog.record.phase = DialogPhase::Terminating;
            }
            dialog.told()
        });
        let Some((version, record)) = next else { return StoreReply::Unknown };
        if terminating {
            self.end_peer(now_ms, record.peer);
        }
        StoreReply::Cseq { cseq: record.cseq_out, version, record }
    }

    pub(super) fn restore_dialog(
        &mut self,
        now_ms: u64,
        key: DialogKey,
        record: DialogRecord,
        ttl_ms: u64,
        conversation: Option<ConversationKey>,
    ) -> Result<StoreReply, StoreError> {
        match self.open_dialog(now_ms, key) {
            Ok(dialog) => Ok(dialog.conflict()),
            Err(StoreReply::Gone) => Ok(StoreReply::Gone),
            Err(_) => {
                self.room_for(now_ms, &[key])?;
                self.room_to_keep(usize::from(conversation.is_some() && record.retention_ms > 0))?;
                let owner = record.owner;
                Ok(StoreReply::Version(self.make_dialog(now_ms, key, owner, record, ttl_ms, conversation)))
            }
        }
    }
}

/// What a request gets that is not let in: another principal's, one that was seen, one that comes too late.
fn refuse_request(dialog: &StoredDialog, now_ms: u64, by: &Actor, cseq: u32) -> Option<StoreReply> {
    if dialog.erased {
        return Some(StoreReply::Gone);
    }
    if !may_act(&dialog.record, by) {
        return Some(StoreReply::OtherPrincipal);
    }
    match dialog.seen(now_ms, cseq) {
        Some(Request { response: Some(response), .. }) => Some(StoreReply::Replay { response: response.clone() }),
        Some(Request { response: None, .. }) if !dialog.has_ended() => Some(StoreReply::InProgress),
        _ => dialog.has_ended().then_some(StoreReply::Gone),
    }
}
