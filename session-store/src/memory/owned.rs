//! Who owns what, per slot label: found when an edge died.

use super::MemoryStore;
use super::entries::{ExchangeState, Guard, StoredDialog, StoredExchange};
use crate::key::{DialogKey, ExchangeKey, GuardKey, Slot};
use crate::name::EntryName;
use crate::op::{Adopted, StoreReply};
use crate::record::Owner;

/// The pod under which an entry is listed now.
type Pod = Option<u64>;

impl MemoryStore {
    /// Every change of a guard, dialog or exchange goes through the methods here, so that the list is right.
    pub(super) fn put_guard(&mut self, key: GuardKey, guard: Guard) {
        self.remove_guard(key);
        let (now, end) = (guard.owned_by(), guard.expires_at);
        self.guards.insert(key, guard);
        self.relist(key.slot, EntryName::Guard(key), None, now);
        self.ends(EntryName::Guard(key), end);
    }

    pub(super) fn change_guard<R>(&mut self, key: GuardKey, change: impl FnOnce(&mut Guard) -> R) -> Option<R> {
        let guard = self.guards.get_mut(&key)?;
        let before = guard.owned_by();
        let result = change(guard);
        let (now, end) = (guard.owned_by(), guard.expires_at);
        self.relist(key.slot, EntryName::Guard(key), before, now);
        self.ends(EntryName::Guard(key), end);
        Some(result)
    }

    pub(super) fn remove_guard(&mut self, key: GuardKey) {
        if let Some(before) = self.guards.remove(&key) {
            self.relist(key.slot, EntryName::Guard(key), before.owned_by(), None);
            self.changed(EntryName::Guard(key));
        }
    }

    pub(super) fn put_dialog(&mut self, key: DialogKey, dialog: StoredDialog) {
        self.remove_dialog(key);
        let (now, end, conversation) = (dialog.owned_by(), dialog.expires_at, dialog.conversation);
        self.dialogs.insert(key, dialog);
        self.relist_conversation(key, None, conversation);
        self.relist(key.slot, EntryName::Dialog(key), None, now);
        self.ends(EntryName::Dialog(key), end);
    }

    pub(super) fn change_dialog<R>(
        &mut self,
        key: DialogKey,
        change: impl FnOnce(&mut StoredDialog) -> R,
    ) -> Option<R> {
        let dialog = self.dialogs.get_mut(&key)?;
        let (before, conversation_before) = (dialog.owned_by(), dialog.conversation);
        let result = change(dialog);
        let (now, end, conversation) = (dialog.owned_by(), dialog.expires_at, dialog.conversation);
        self.relist_conversation(key, conversation_before, conversation);
        self.relist(key.slot, EntryName::Dialog(key), before, now);
        self.ends(EntryName::Dialog(key), end);
        Some(result)
    }

    pub(super) fn remove_dialog(&mut self, key: DialogKey) {
        if let Some(before) = self.dialogs.remove(&key) {
            self.relist_conversation(key, before.conversation, None);
            self.relist(key.slot, EntryName::Dialog(key), before.owned_by(), None);
            self.changed(EntryName::Dialog(key));
        }
    }

    pub(super) fn put_exchange(&mut self, key: ExchangeKey, exchange: StoredExchange) {
        self.remove_exchange(key);
        let (now, end) = (exchange.owned_by(), exchange.expires_at);
        self.exchanges.insert(key, exchange);
        self.relist(key.session.slot, EntryName::Exchange(key), None, now);
        self.ends(EntryName::Exchange(key), end);
    }

    pub(super) fn change_exchange<R>(
        &mut self,
        key: ExchangeKey,
        change: impl FnOnce(&mut StoredExchange) -> R,
    ) -> Option<R> {
        let exchange = self.exchanges.get_mut(&key)?;
        let before = exchange.owned_by();
        let result = change(exchange);
        let (now, end) = (exchange.owned_by(), exchange.expires_at);
        self.relist(key.session.slot, EntryName::Exchange(key), before, now);
        self.ends(EntryName::Exchange(key), end);
        Some(result)
    }

    pub(super) fn remove_exchange(&mut self, key: ExchangeKey) {
        if let Some(before) = self.exchanges.remove(&key) {
            self.relist(key.session.slot, EntryName::Exchange(key), before.owned_by(), None);
            self.changed(EntryName::Exchange(key));
        }
    }

    fn relist(&mut self, slot: Slot, name: EntryName, before: Pod, now: Pod) {
        if before == now {
            return;
        }
        if let Some(pod) = before
            && let Some(names) = self.owned.get_mut(&(slot, pod))
        {
            names.remove(&name);
            if names.is_empty() {
                self.owned.remove(&(slot, pod));
            }
        }
        if let Some(pod) = now {
            self.owned.entry((slot, pod)).or_default().insert(name);
        }
    }

    /// Takes over what `from`, or an earlier life of that pod, owns under this label.
    pub(super) fn adopt(
        &mut self,
        now_ms: u64,
        slot: Slot,
        from: Owner,
        by: Owner,
        limit: usize,
        lease_ms: u64,
    ) -> StoreReply {
        let names: Vec<EntryName> = self.owned.get(&(slot, from.pod)).into_iter().flatten().copied().collect();
        // An equal epoch with another boot is a life of which the store lost the last write: it is adopted, too.
        let is_theirs = |owner: &Owner| owner.pod == from.pod && owner.epoch <= from.epoch && *owner != by;
        let mut items = Vec::new();
        for name in names {
            let Some((owner, end)) = self.owner_of(name) else { continue };
            if end <= now_ms || !is_theirs(&owner) {
                continue;
            }
            if items.len() >= limit {
                return StoreReply::Adopted { items, more: true };
            }
            items.extend(self.take_over(name, by, now_ms.saturating_add(lease_ms)));
        }
        StoreReply::Adopted { items, more: false }
    }

    /// The owner and the end of an entry that can have one.
    fn owner_of(&self, name: EntryName) -> Option<(Owner, u64)> {
        match name {
            EntryName::Guard(key) => self.guards.get(&key).map(|g| (g.owner, g.expires_at)),
            EntryName::Dialog(key) => self.dialogs.get(&key).map(|d| (d.record.owner, d.expires_at)),
            EntryName::Exchange(key) => self.exchanges.get(&key).map(|e| (e.entry.owner, e.expires_at)),
            _ => None,
        }
    }

    fn take_over(&mut self, name: EntryName, by: Owner, lease_until: u64) -> Option<Adopted> {
        match name {
            EntryName::Guard(key) => self.change_guard(key, |guard| {
                guard.owner = by;
                guard.lease_until = lease_until;
                let (dialog, invite, legs) = (guard.dialog, guard.invite.clone(), guard.legs.clone());
                Adopted::Call { guard: key, dialog, invite, legs }
            }),
            EntryName::Dialog(key) => self.change_dialog(key, |dialog| {
                dialog.record.owner = by;
                Adopted::Dialog { dialog: key, version: dialog.version, record: Box::new(dialog.record.clone()) }
            }),
            EntryName::Exchange(key) => self.change_exchange(key, |exchange| {
                exchange.entry.owner = by;
                exchange.adopted = true;
                let mut entry = Box::new(exchange.entry.clone());
                if let ExchangeState::Held(answer) = &exchange.state {
                    entry.answer.clone_from(answer);
                }
                Adopted::Exchange { key, entry }
            }),
            _ => None,
        }
    }
}
