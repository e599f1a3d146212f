//! What belongs to a conversation: its dialogs, their sessions, the exchanges of those.

use std::collections::BTreeMap;

use super::MemoryStore;
use super::entries::ExchangeState;
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

    fn dialogs_of(&self, now_ms: u64, key: ConversationKey) -> Vec<DialogKey> {
        let dialogs = self.conversations.get(&key).into_iter().flatten().copied();
        dialogs.filter(|dialog| self.live_dialog(now_ms, *dialog).is_some()).collect()
    }

    pub(super) fn export(&self, now_ms: u64, key: ConversationKey) -> Vec<Exported> {
        let dialogs = self.dialogs_of(now_ms, key);
        let mut out = Vec::new();
        for dialog in &dialogs {
            let open = self.live_dialog(now_ms, *dialog).filter(|d| !d.has_ended());
            out.extend(open.map(|d| Exported::Dialog(Box::new(d.record.clone()))));
        }
        for dialog in &dialogs {
            let session = self.live_session(now_ms, dialog.session());
            out.extend(session.map(|s| Exported::Session(Box::new(s.record.clone()))));
        }
        for dialog in &dialogs {
            let exchanges = self.exchanges.range(dialog.session().exchanges()).filter(|(_, e)| e.expires_at > now_ms);
            out.extend(exchanges.map(|(_, exchange)| Exported::Exchange {
                entry: Box::new(exchange.entry.clone()),
                answer: match &exchange.state {
                    ExchangeState::InFlight => None,
                    ExchangeState::Held(answer) | ExchangeState::Answered(answer) => answer.clone(),
                },
            }));
        }
        out
    }

    pub(super) fn erase(&mut self, now_ms: u64, key: ConversationKey) -> usize {
        let mut gone = 0;
        for dialog in self.dialogs_of(now_ms, key) {
            // What ended and only waits for the sweep is not counted, but goes, too.
            let live = self.exchanges.range(dialog.session().exchanges()).filter(|(_, e)| e.expires_at > now_ms);
            gone += live.count() + usize::from(self.live_session(now_ms, dialog.session()).is_some());
            self.forget_session(dialog.session());
            let was_open = self.change_dialog(dialog, |stored| {
                let was_open = !stored.has_ended();
                if was_open {
                    stored.expires_at = now_ms.saturating_add(TOMBSTONE_MS);
                    stored.version += 1;
                }
                stored.record = blank();
                stored.requests = BTreeMap::new();
                stored.conversation = None;
                stored.erased = true;
                was_open
            });
            gone += usize::from(was_open == Some(true));
        }
        gone
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
        extra: BTreeMap::new(),
    }
}
