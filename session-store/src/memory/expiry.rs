//! Every entry has an end. A name stands here once, at the earliest moment that it may end; the entry itself says when it really does.

use std::collections::{BTreeSet, HashMap};

use super::MemoryStore;
use crate::key::{AorKey, DialogKey, ExchangeKey, GuardKey, NonceKey, SessionKey};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Name {
    Aor(AorKey),
    Guard(GuardKey),
    Dialog(DialogKey),
    Session(SessionKey),
    Exchange(ExchangeKey),
    Once(ExchangeKey),
    Nonce(NonceKey),
}

#[derive(Debug, Default)]
pub(super) struct Expiry {
    queue: BTreeSet<(u64, Name)>,
    /// Where each name stands in the queue: an entry that is touched often does not grow it.
    at: HashMap<Name, u64>,
}

impl Expiry {
    /// Looks at `name` at `at`, or earlier if that was said already.
    pub(super) fn add(&mut self, at: u64, name: Name) {
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

    fn pop(&mut self, now_ms: u64) -> Option<Name> {
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
                Name::Aor(key) => self.expire_bindings(now_ms, key),
                Name::Guard(key) => drop_if(&mut self.guards, key, |g| g.expires_at, now_ms),
                Name::Dialog(key) => {
                    let later = drop_if(&mut self.dialogs, key, |d| d.expires_at, now_ms);
                    if let Some(dialog) = self.dialogs.get_mut(&key) {
                        dialog.requests.retain(|_, (_, end)| *end > now_ms);
                    }
                    later
                }
                Name::Session(key) => drop_if(&mut self.sessions, key, |s| s.expires_at, now_ms),
                Name::Exchange(key) => match self.exchanges.get(&key).map(|e| e.expires_at) {
                    Some(end) if end > now_ms => Some(end),
                    _ => {
                        self.exchanges.remove(&key);
                        None
                    }
                },
                Name::Once(key) => drop_if(&mut self.once, key, |end| *end, now_ms),
                Name::Nonce(key) => drop_if(&mut self.nonces, key, |n| n.expires_at, now_ms),
            };
            if let Some(at) = later {
                self.expiry.add(at, name);
            }
        }
    }
}

/// Removes the entry if it ended; else says when it will.
fn drop_if<K: std::hash::Hash + Eq, V>(
    map: &mut std::collections::HashMap<K, V>,
    key: K,
    end: impl Fn(&V) -> u64,
    now_ms: u64,
) -> Option<u64> {
    let at = map.get(&key).map(end)?;
    if at > now_ms {
        return Some(at);
    }
    map.remove(&key);
    None
}
