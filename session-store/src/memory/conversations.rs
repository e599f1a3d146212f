//! What belongs to a conversation: its dialogs, their sessions, the exchanges of those.

use std::collections::{BTreeMap, BTreeSet};

use super::MemoryStore;
use super::entries::{ExchangeState, StoredDialog};
use super::kept::Kept;
use crate::key::{ConversationKey, DialogKey};
use crate::op::{Exported, TOMBSTONE_MS};
use crate::record::{DialogPhase, DialogRecord, Owner};

impl MemoryStore {
    pub(super) fn relist_conversation(
        &mut self,
        dialog: DialogKey,
        before: Option<ConversationKey>,
        now: Option<ConversationKey>,
    ) {
        if before == now {
            return;
        }
        if let Some(key) = before
            && let Some(dialogs) = self.conversations.get_mut(&key)
        {
            dialogs.remove(&dialog);
            if dialogs.is_empty() {
                self.conversations.remove(&key);
            }
        }
        if let Some(key) = now {
            self.conversations.entry(key).or_default().insert(dialog);
        }
    }

    /// Its legs that live, ended or are kept.
    fn legs_of(&self, now_ms: u64, key: ConversationKey) -> Vec<Leg<'_>> {
        let dialogs = self.conversations.get(&key).into_iter().flatten();
        let names: BTreeSet<DialogKey> = dialogs.chain(self.kept_of.get(&key).into_iter().flatten()).copied().collect();
        let leg = |name: DialogKey| {
            let live = self.live_dialog(now_ms, name);
            let dialog = live.filter(|dialog| dialog.conversation == Some(key));
            let kept = self.live_kept(now_ms, name).filter(|kept| kept.conversation == key);
            // By the same name there may be another conversation now: its session and its journal are not ours.
            Leg { name, dialog, kept, has_session: dialog.is_some() || live.is_none() }
        };
        let legs = names.into_iter().map(leg);
        legs.filter(|leg| leg.dialog.is_some() || leg.kept.is_some()).collect()
    }

    fn told_session(&self, now_ms: u64, leg: &Leg<'_>) -> Option<Exported> {
        let live = self.live_session(now_ms, leg.name.session()).filter(|_| leg.has_session);
        let record = live.map(|session| &session.record).or_else(|| leg.kept?.session.as_ref())?;
        Some(Exported::Session(Box::new(record.clone())))
    }

    fn told_exchanges(&self, now_ms: u64, leg: &Leg<'_>) -> Vec<Exported> {
        let journal = self.exchanges.range(leg.name.session().exchanges());
        let journal = journal.filter(|(_, exchange)| leg.has_session && exchange.expires_at > now_ms);
        let mut told = Vec::new();
        for (_, exchange) in journal {
            let answer = match &exchange.state {
                // It stands among what is kept.
                ExchangeState::Answered(_) if leg.kept.is_some() => continue,
                ExchangeState::InFlight => None,
                ExchangeState::Held(answer) | ExchangeState::Answered(answer) => answer.clone(),
            };
            told.push(Exported::Exchange { entry: Box::new(exchange.entry.clone()), answer });
        }
        if leg.kept.is_some() {
            told.extend(self.kept_exchanges(leg.name));
        }
        told
    }

    pub(super) fn export(&self, now_ms: u64, key: ConversationKey) -> Vec<Exported> {
        let legs = self.legs_of(now_ms, key);
        let mut out: Vec<Exported> = legs.iter().filter_map(Leg::told).collect();
        out.extend(legs.iter().filter_map(|leg| self.told_session(now_ms, leg)));
        out.extend(legs.iter().flat_map(|leg| self.told_exchanges(now_ms, leg)));
        out
    }

    /// As many as [`MemoryStore::export`] tells.
    pub(super) fn erase(&mut self, now_ms: u64, key: ConversationKey) -> usize {
        let gone = self.export(now_ms, key).len();
        let legs = self.legs_of(now_ms, key).into_iter();
        let legs: Vec<_> =
            legs.map(|leg| (leg.name, leg.dialog.is_some(), leg.kept.is_some(), leg.has_session)).collect();
        for (leg, is_dialog, is_kept, has_session) in legs {
            if has_session {
                self.forget_session(leg.session());
            }
            if is_kept {
                self.forget_kept(leg);
            }
            if is_dialog {
                self.change_dialog(leg, |stored| stored.erase(now_ms));
            }
        }
        gone
    }
}

/// One leg of a conversation.
struct Leg<'a> {
    name: DialogKey,
    dialog: Option<&'a StoredDialog>,
    kept: Option<&'a Kept>,
    /// The session and the journal by its name are its own.
    has_session: bool,
}

impl Leg<'_> {
    fn told(&self) -> Option<Exported> {
        let open = self.dialog.filter(|dialog| !dialog.has_ended()).map(|dialog| &dialog.record);
        let record = open.or_else(|| self.kept.map(|kept| &kept.record))?;
        Some(Exported::Dialog(Box::new(record.clone())))
    }
}

impl StoredDialog {
    /// Nothing of it may be told any more; every request finds it ended.
    fn erase(&mut self, now_ms: u64) {
        if !self.has_ended() {
            self.expires_at = now_ms.saturating_add(TOMBSTONE_MS);
            self.version += 1;
        }
        self.record = blank();
        self.requests = BTreeMap::new();
        self.conversation = None;
        self.erased = true;
    }
}

/// What a record says of which nothing may be told.
fn blank() -> DialogRecord {
    DialogRecord {
        phase: DialogPhase::Terminated,
        call_id: String::new(),
        local_tag: String::new(),
        remote_tag: String::new(),
        local_uri: String::new(),
        remote_uri: String::new(),
        remote_target: String::new(),
        route_set: Vec::new(),
        secure: false,
        cseq_in: None,
        cseq_out: 0,
        principal: String::new(),
        agent_user: String::new(),
        domain: String::new(),
        flow: None,
        local_sdp: None,
        remote_sdp: None,
        sdp_version: 0,
        session_timer: None,
        mcp: None,
        accept_bytes: None,
        session_id: None,
        policy_epoch: 0,
        created_at: 0,
        source: String::new(),
        owner: Owner::default(),
        peer: None,
        we_called: false,
        retention_ms: 0,
        extra: BTreeMap::new(),
    }
}
