//! Every entry has an end. A name stands here once, at the earliest moment that it may end; the entry itself says when it really does.

use std::collections::{BTreeSet, HashMap};

use super::MemoryStore;
use crate::name::EntryName;

#[derive(Clone, Debug, Default)]
pub(super) struct Expiry {
    queue: BTreeSet<(u64, EntryName)>,
    /// Where each name stands in the queue: an entry that is touched often does not grow it.
    at: HashMap<EntryName, u64>,
}

impl Expiry {
    /// Looks at `name` at `at`, or earlier if that was said already.
    pub(super) fn add(&mut self, at: u64, name: EntryName) {
        match self.at.get(&name) {
            Some(&known) if known <= at => return,
            Some(&known) => {
                self.queue.remove(&(known, name));
            }
            None => {}
        }
        self.queue.insert((at, name));
        self.at.insert(name, at);
    }

    fn pop(&mut self, now_ms: u64) -> Option<EntryName> {
        let &(at, name) = self.queue.first()?;
        if at > now_ms {
            return None;
        }
        self.queue.pop_first();
        self.at.remove(&name);
        Some(name)
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }
}

/// At most so many ends are looked at per operation, so that no operation pays for all the others.
const SWEEP: usize = 64;

impl MemoryStore {
    /// Removes what has ended, a bounded number per call. Reads check the end themselves, so a late sweep is never seen.
    pub fn sweep(&mut self, now_ms: u64) {
        for _ in 0..SWEEP {
            let Some(name) = self.expiry.pop(now_ms) else { return };
            let later = match name {
                EntryName::Aor(key) => self.expire_bindings(now_ms, key),
                EntryName::Removed(key) => self.expire_removed(now_ms, key),
                _ => self.end_of(name).filter(|end| *end > now_ms),
            };
            match later {
                Some(at) => self.expiry.add(at, name),
                None => self.remove(name),
            }
        }
    }

    /// When an entry ends; `None` where there is none, or none that ends.
    fn end_of(&self, name: EntryName) -> Option<u64> {
        match name {
            EntryName::Guard(key) => self.guards.get(&key).map(|g| g.expires_at),
            EntryName::Dialog(key) => self.dialogs.get(&key).map(|d| d.expires_at),
            EntryName::Session(key) => self.sessions.get(&key).map(|s| s.expires_at),
            EntryName::Exchange(key) => self.exchanges.get(&key).map(|e| e.expires_at),
            EntryName::Once(key) => self.once.get(&key).copied(),
            EntryName::Nonce(key) => self.nonces.get(&key).map(|n| n.expires_at),
            EntryName::Edge(pod) => self.edges.get(&pod).map(|edge| edge.expires_at()),
            EntryName::Kept(key) | EntryName::KeptExchange(key, _) => self.kept.get(&key).map(|kept| kept.expires_at),
            EntryName::Aor(_) | EntryName::Removed(_) | EntryName::Domain(_) | EntryName::Generation => None,
        }
    }

    /// An entry that has ended.
    fn remove(&mut self, name: EntryName) {
        let was_there = match name {
            EntryName::Guard(key) => return self.remove_guard(key),
            EntryName::Dialog(key) => return self.remove_dialog(key),
            EntryName::Exchange(key) => return self.remove_exchange(key),
            EntryName::Kept(key) => return self.forget_kept(key),
            EntryName::KeptExchange(key, number) => self.kept_exchanges.remove(&(key, number)).is_some(),
            EntryName::Session(key) => self.sessions.remove(&key).is_some(),
            EntryName::Once(key) => self.once.remove(&key).is_some(),
            EntryName::Nonce(key) => self.nonces.remove(&key).is_some(),
            EntryName::Edge(pod) => self.edges.remove(&pod).is_some(),
            EntryName::Aor(_) | EntryName::Removed(_) | EntryName::Domain(_) | EntryName::Generation => false,
        };
        if was_there {
            self.changed(name);
        }
    }
}
