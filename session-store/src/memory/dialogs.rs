//! Dialogs: CSeq order, replay of responses, compare-and-set, tombstones.

use bytes::Bytes;

use super::{MemoryStore, StoredDialog, expiry::Name};
use crate::key::DialogKey;
use crate::op::{Actor, CloseExchange, OpenExchange, StoreError, StoreReply, TOMBSTONE_MS};
use crate::record::{DialogPhase, DialogRecord};

/// So many in-dialog requests are remembered for replay; older ones go first.
const MAX_REMEMBERED: usize = 256;

/// Whether this is the dialog's own principal, on its own flow where the principal says nothing.
fn may_act(record: &DialogRecord, by: &Actor) -> bool {
    record.principal == by.principal && by.source.as_ref().is_none_or(|source| *source == record.source)
}

impl StoredDialog {
    /// A writer's new record. CSeq only rises, and a dialog that is being ended stays so, whatever the writer read before.
    fn replace(&mut self, now_ms: u64, mut record: DialogRecord, ttl_ms: u64) {
        record.cseq_in = record.cseq_in.max(self.record.cseq_in);
        record.cseq_out = record.cseq_out.max(self.record.cseq_out);
        if self.record.phase == DialogPhase::Terminating {
            record.phase = DialogPhase::Terminating;
        }
        self.record = record;
        self.version += 1;
        self.ttl_ms = ttl_ms;
        self.expires_at = now_ms.saturating_add(ttl_ms);
    }
}

impl MemoryStore {
    fn live_dialog(&mut self, now_ms: u64, key: DialogKey) -> Option<&mut StoredDialog> {
        self.dialogs.get_mut(&key).filter(|d| d.expires_at > now_ms)
    }

    pub(super) fn read_dialog(&mut self, now_ms: u64, key: DialogKey) -> StoreReply {
        match self.live_dialog(now_ms, key) {
            None => StoreReply::Unknown,
            Some(d) if d.record.phase == DialogPhase::Terminated => StoreReply::Gone,
            Some(d) => StoreReply::Dialog { version: d.version, record: Box::new(d.record.clone()) },
        }
    }

    pub(super) fn confirm(&mut self, now_ms: u64, key: DialogKey) -> StoreReply {
        match self.live_dialog(now_ms, key) {
            None => StoreReply::Unknown,
            Some(d) if d.record.phase == DialogPhase::Terminated => StoreReply::Gone,
            Some(d) => {
                if d.record.phase == DialogPhase::Accepted {
                    d.record.phase = DialogPhase::Confirmed;
                    d.record.accept_bytes = None;
                    d.version += 1;
                }
                StoreReply::Version(d.version)
            }
        }
    }

    pub(super) fn begin(
        &mut self,
        now_ms: u64,
        key: DialogKey,
        by: &Actor,
        cseq: u32,
        method: &str,
        exchange: Option<OpenExchange>,
    ) -> Result<StoreReply, StoreError> {
        let Some(dialog) = self.live_dialog(now_ms, key) else { return Ok(StoreReply::Unknown) };
        if !may_act(&dialog.record, by) {
            return Ok(StoreReply::OtherPrincipal);
        }
        match dialog.requests.get(&cseq) {
            Some((Some(response), _)) => return Ok(StoreReply::Replay { response: response.clone() }),
            Some((None, end)) if *end > now_ms => return Ok(StoreReply::InProgress),
            _ => {}
        }
        if dialog.record.phase == DialogPhase::Terminated {
            return Ok(StoreReply::Gone);
        }
        // An equal number is a request whose answer is no longer kept: a replay. BYE alone is claimed by its tombstone.
        if dialog.record.cseq_in.is_some_and(|highest| cseq < highest || (cseq == highest && method != "BYE")) {
            return Ok(StoreReply::OutOfOrder);
        }
        // Before the claim: where the journal is full, nothing was changed and the sender may try again.
        let exchange = match exchange {
            Some(open) => Some(self.open_exchange(now_ms, open)?),
            None => None,
        };
        let Some(dialog) = self.live_dialog(now_ms, key) else { return Ok(StoreReply::Unknown) };
        dialog.record.cseq_in = Some(cseq);
        if method != "BYE" {
            let end = now_ms.saturating_add(TOMBSTONE_MS);
            dialog.requests.insert(cseq, (None, end));
            while dialog.requests.len() > MAX_REMEMBERED {
                dialog.requests.pop_first();
            }
        }
        Ok(StoreReply::Begun { version: dialog.version, record: Box::new(dialog.record.clone()), exchange })
    }

    pub(super) fn commit(
        &mut self,
        now_ms: u64,
        key: DialogKey,
        cseq: u32,
        response: Bytes,
        record: Option<(u64, Box<DialogRecord>, u64)>,
    ) -> StoreReply {
        let Some(dialog) = self.live_dialog(now_ms, key) else { return StoreReply::Unknown };
        if dialog.record.phase == DialogPhase::Terminated {
            return StoreReply::Gone;
        }
        let mut moved = None;
        if let Some((version, record, ttl_ms)) = record {
            if version != dialog.version {
                return StoreReply::Conflict { version: dialog.version, record: Box::new(dialog.record.clone()) };
            }
            dialog.replace(now_ms, *record, ttl_ms);
            moved = Some(dialog.expires_at);
        }
        dialog.requests.insert(cseq, (Some(response), now_ms.saturating_add(TOMBSTONE_MS)));
        let version = dialog.version;
        if let Some(end) = moved {
            self.expiry.add(end, Name::Dialog(key));
        }
        StoreReply::Version(version)
    }

    pub(super) fn update_dialog(
        &mut self,
        now_ms: u64,
        key: DialogKey,
        version: u64,
        record: DialogRecord,
        ttl_ms: u64,
    ) -> StoreReply {
        let Some(dialog) = self.live_dialog(now_ms, key) else { return StoreReply::Unknown };
        if dialog.record.phase == DialogPhase::Terminated {
            return StoreReply::Gone;
        }
        if version != dialog.version {
            return StoreReply::Conflict { version: dialog.version, record: Box::new(dialog.record.clone()) };
        }
        dialog.replace(now_ms, record, ttl_ms);
        let (version, end) = (dialog.version, dialog.expires_at);
        self.expiry.add(end, Name::Dialog(key));
        StoreReply::Version(version)
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
        if !may_act(&dialog.record, by) {
            return StoreReply::OtherPrincipal;
        }
        if let Some((Some(response), _)) = dialog.requests.get(&cseq) {
            return StoreReply::Replay { response: response.clone() };
        }
        if dialog.record.phase == DialogPhase::Terminated {
            return StoreReply::Gone;
        }
        if dialog.record.cseq_in.is_some_and(|highest| cseq < highest) {
            return StoreReply::OutOfOrder;
        }
        dialog.record.cseq_in = Some(cseq);
        dialog.requests.insert(cseq, (Some(response), now_ms.saturating_add(TOMBSTONE_MS)));
        let (version, record) = self.tombstone(now_ms, key);
        StoreReply::Dialog { version, record }
    }

    pub(super) fn bury(&mut self, now_ms: u64, key: DialogKey) -> StoreReply {
        match self.live_dialog(now_ms, key) {
            None => StoreReply::Unknown,
            Some(d) if d.record.phase == DialogPhase::Terminated => StoreReply::Gone,
            Some(_) => {
                let (version, record) = self.tombstone(now_ms, key);
                StoreReply::Dialog { version, record }
            }
        }
    }

    /// Turns a live dialog into its tombstone and returns what it was.
    fn tombstone(&mut self, now_ms: u64, key: DialogKey) -> (u64, Box<DialogRecord>) {
        let end = now_ms.saturating_add(TOMBSTONE_MS);
        self.expiry.add(end, Name::Dialog(key));
        let dialog = self.dialogs.get_mut(&key).unwrap_or_else(|| unreachable!("the caller has just looked it up"));
        let was = Box::new(dialog.record.clone());
        dialog.record.phase = DialogPhase::Terminated;
        dialog.record.local_sdp = None;
        dialog.record.remote_sdp = None;
        dialog.record.accept_bytes = None;
        dialog.version += 1;
        dialog.expires_at = end;
        (dialog.version, was)
    }

    pub(super) fn next_cseq(
        &mut self,
        now_ms: u64,
        key: DialogKey,
        terminating: bool,
        close: Option<CloseExchange>,
    ) -> StoreReply {
        if let Some(close) = close
            && self.close_exchange(now_ms, close) == StoreReply::Fenced
        {
            return StoreReply::Fenced;
        }
        let Some(dialog) = self.live_dialog(now_ms, key) else { return StoreReply::Unknown };
        if dialog.record.phase == DialogPhase::Terminated {
            return StoreReply::Gone;
        }
        dialog.record.cseq_out = dialog.record.cseq_out.saturating_add(1);
        if terminating {
            dialog.record.phase = DialogPhase::Terminating;
        }
        // No new version: a request of ours is no change that another writer must see first.
        StoreReply::Cseq {
            cseq: dialog.record.cseq_out,
            version: dialog.version,
            record: Box::new(dialog.record.clone()),
        }
    }
}
