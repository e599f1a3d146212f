//! What stays readable of a conversation after its end, where its domain wants that ([`DialogRecord::retention_ms`]).
//!
//! A copy lies beside each such dialog from its beginning, so that it is there however the dialog ends, by the end of its time too. Nothing
//! but export and erasure reads it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::MemoryStore;
use crate::key::{ConversationKey, DialogKey, ExchangeKey, SessionKey};
use crate::name::EntryName;
use crate::op::{Exported, MAX_KEPT_ANSWERS, MAX_KEPT_EXCHANGES, StoreError};
use crate::record::{DialogPhase, DialogRecord, JournalEntry, SessionRecord};

/// One leg of a conversation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    pub conversation: ConversationKey,
    /// As it was last, ended.
    pub record: DialogRecord,
    pub session: Option<SessionRecord>,
    /// Number of the oldest exchange that is kept, and of the next one.
    pub first: u64,
    pub next: u64,
    /// Octets of their answers.
    pub octets: u64,
    pub expires_at: u64,
}

/// An exchange that was answered. It goes with its leg.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct KeptExchange {
    pub entry: JournalEntry,
    pub answer: Option<Bytes>,
}

impl KeptExchange {
    fn octets(&self) -> u64 {
        self.answer.as_ref().map_or(0, |answer| answer.len() as u64)
    }
}

/// The dialog that a session belongs to, where it belongs to one.
fn dialog_of(session: SessionKey) -> DialogKey {
    DialogKey { slot: session.slot, tenant: session.tenant, id: session.hash }
}

impl MemoryStore {
    pub(super) fn live_kept(&self, now_ms: u64, key: DialogKey) -> Option<&Kept> {
        self.kept.get(&key).filter(|kept| kept.expires_at > now_ms)
    }

    /// Whether so many more legs can be kept.
    pub(super) fn room_to_keep(&self, legs: usize) -> Result<(), StoreError> {
        if legs > 0 && self.kept.len() + legs > self.capacity.kept {
            return Err(StoreError::Full { what: "kept conversations" });
        }
        Ok(())
    }

    /// The copy of a dialog that is there, of this very conversation: the same name may have had another one before.
    fn kept_mut(&mut self, now_ms: u64, key: DialogKey) -> Option<&mut Kept> {
        let conversation = self.live_dialog(now_ms, key)?.conversation?;
        self.kept.get_mut(&key).filter(|kept| kept.expires_at > now_ms && kept.conversation == conversation)
    }

    /// A dialog was made, or changed: the copy follows, where there is to be one.
    pub(super) fn keep_dialog(&mut self, now_ms: u64, key: DialogKey, is_new: bool) {
        let Some(dialog) = self.live_dialog(now_ms, key) else { return };
        let (Some(conversation), retention_ms @ 1..) = (dialog.conversation, dialog.record.retention_ms) else {
            return;
        };
        let record = ended(&dialog.record);
        let expires_at = dialog.expires_at.saturating_add(retention_ms);
        if !is_new && let Some(kept) = self.kept_mut(now_ms, key) {
            kept.record = record;
            kept.expires_at = expires_at;
            self.ends(EntryName::Kept(key), expires_at);
            return;
        }
        self.forget_kept(key);
        let session = self.live_session(now_ms, key.session()).map(|session| session.record.clone());
        self.put_kept(key, Kept { conversation, record, session, first: 0, next: 0, octets: 0, expires_at });
    }

    /// The dialog ended: from here on its copy has its time.
    pub(super) fn keep_ended(&mut self, now_ms: u64, key: DialogKey, was: &DialogRecord) {
        let Some(kept) = self.kept_mut(now_ms, key) else { return };
        kept.expires_at = now_ms.saturating_add(kept.record.retention_ms);
        kept.record = ended(was);
        let end = kept.expires_at;
        self.ends(EntryName::Kept(key), end);
    }

    pub(super) fn keep_session(&mut self, now_ms: u64, session: SessionKey, record: &SessionRecord) {
        let key = dialog_of(session);
        if let Some(kept) = self.kept_mut(now_ms, key) {
            kept.session = Some(record.clone());
            self.changed(EntryName::Kept(key));
        }
    }

    /// An exchange was answered. The oldest ones give way.
    pub(super) fn keep_exchange(&mut self, now_ms: u64, key: ExchangeKey, entry: JournalEntry, answer: Option<Bytes>) {
        let leg = dialog_of(key.session);
        let exchange = KeptExchange { entry, answer };
        let Some(kept) = self.kept_mut(now_ms, leg) else { return };
        let number = kept.next;
        kept.next += 1;
        kept.octets += exchange.octets();
        let (mut first, next, mut octets) = (kept.first, kept.next, kept.octets);
        self.kept_exchanges.insert((leg, number), exchange);
        self.changed(EntryName::KeptExchange(leg, number));
        while next - first > MAX_KEPT_EXCHANGES || (octets > MAX_KEPT_ANSWERS && first < next) {
            let gone = self.kept_exchanges.remove(&(leg, first));
            octets -= gone.map_or(0, |gone| gone.octets()).min(octets);
            self.changed(EntryName::KeptExchange(leg, first));
            first += 1;
        }
        if let Some(kept) = self.kept_mut(now_ms, leg) {
            (kept.first, kept.octets) = (first, octets);
        }
        self.changed(EntryName::Kept(leg));
    }

    pub(super) fn kept_exchanges(&self, key: DialogKey) -> impl Iterator<Item = Exported> + '_ {
        self.kept_exchanges.range((key, 0)..=(key, u64::MAX)).map(|(_, exchange)| Exported::Exchange {
            entry: Box::new(exchange.entry.clone()),
            answer: exchange.answer.clone(),
        })
    }

    pub(super) fn put_kept(&mut self, key: DialogKey, kept: Kept) {
        let end = kept.expires_at;
        self.kept_of.entry(kept.conversation).or_default().insert(key);
        self.kept.insert(key, kept);
        self.ends(EntryName::Kept(key), end);
    }

    /// The copy and its exchanges.
    pub(super) fn forget_kept(&mut self, key: DialogKey) {
        let numbers: Vec<u64> =
            self.kept_exchanges.range((key, 0)..=(key, u64::MAX)).map(|((_, number), _)| *number).collect();
        for number in numbers {
            self.kept_exchanges.remove(&(key, number));
            self.changed(EntryName::KeptExchange(key, number));
        }
        let Some(kept) = self.kept.remove(&key) else { return };
        if let Some(legs) = self.kept_of.get_mut(&kept.conversation) {
            legs.remove(&key);
            if legs.is_empty() {
                self.kept_of.remove(&kept.conversation);
            }
        }
        self.changed(EntryName::Kept(key));
    }
}

/// As it is told when it is over.
fn ended(record: &DialogRecord) -> DialogRecord {
    DialogRecord { phase: DialogPhase::Terminated, accept_bytes: None, ..record.clone() }
}
