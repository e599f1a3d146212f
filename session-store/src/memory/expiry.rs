//! Every entry has an end. A name may stand here several times; the entry itself says when it really ends.

use std::collections::BTreeSet;

use super::MemoryStore;
use crate::key::{AorKey, DialogKey, ExchangeKey, GuardKey, NonceKey, SessionKey};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
pub(super) struct Expiry(BTreeSet<(u64, Name)>);

impl Expiry {
    pub(super) fn add(&mut self, at: u64, name: Name) {
        self.0.insert((at, name));
    }
}

/// At most so many ends are looked at per operation, so that no operation pays for all the others.
const SWEEP: usize = 64;

impl MemoryStore {
    /// Removes what has ended, a bounded number per call. Reads check the end themselves, so a late sweep is never seen.
    pub fn sweep(&mut self, now_ms: u64) {
        for _ in 0..SWEEP {
            match self.expiry.0.first() {
                Some(&(at, _)) if at <= now_ms => {}
                _ => return,
            }
            let Some((_, name)) = self.expiry.0.pop_first() else { return };
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
