//! For a store that keeps the entries elsewhere, too: what changed, an entry as bytes, an entry from bytes.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::MemoryStore;
use super::entries::{Edge, Guard, Nonce, Removed, StoredDialog, StoredExchange, StoredSession};
use super::kept::{Kept, KeptExchange};
use crate::codec::{decode, encode};
use crate::key::Tenant;
use crate::name::EntryName;
use crate::op::StoreError;
use crate::record::Binding;

/// An entry that is one value with an end.
#[derive(Serialize, Deserialize)]
struct Seen {
    expires_at: u64,
}

#[derive(Serialize, Deserialize)]
struct Domain {
    tenant: Tenant,
}

#[derive(Serialize, Deserialize)]
struct Generation {
    generation: [u8; 16],
}

#[derive(Serialize, Deserialize)]
struct Aor {
    bindings: Vec<Binding>,
}

#[derive(Serialize, Deserialize)]
struct RemovedBindings {
    removed: Vec<Removed>,
}

impl MemoryStore {
    /// From now on the store remembers which entries change, until [`MemoryStore::take_dirty`] takes their names.
    pub fn track_changes(&mut self) {
        self.dirty.get_or_insert_default();
    }

    /// The names of the entries that were made, changed or removed since the last time; in their order, each once. Without
    /// [`MemoryStore::track_changes`] there are none.
    pub fn take_dirty(&mut self) -> Vec<EntryName> {
        self.dirty.as_mut().map(std::mem::take).unwrap_or_default().into_iter().collect()
    }

    /// The entry as it is now, in the stored form of [`crate::codec`]; `None`: there is none by that name, or none any more.
    ///
    /// # Errors
    /// An entry that cannot be written (none of ours).
    pub fn entry_bytes(&self, name: &EntryName) -> Result<Option<Bytes>, StoreError> {
        fn of<T: Serialize>(entry: Option<T>) -> Result<Option<Bytes>, StoreError> {
            entry.map(|entry| encode(&entry)).transpose()
        }
        match name {
            EntryName::Aor(key) => of(self.bindings.get(key).map(|all| Aor { bindings: all.clone() })),
            EntryName::Removed(key) => of(self.removed.get(key).map(|all| RemovedBindings { removed: all.clone() })),
            EntryName::Guard(key) => of(self.guards.get(key)),
            EntryName::Dialog(key) => of(self.dialogs.get(key)),
            EntryName::Session(key) => of(self.sessions.get(key)),
            EntryName::Exchange(key) => of(self.exchanges.get(key)),
            EntryName::Once(key) => of(self.once.get(key).map(|end| Seen { expires_at: *end })),
            EntryName::Nonce(key) => of(self.nonces.get(key)),
            EntryName::Edge(pod) => of(self.edges.get(pod)),
            EntryName::Kept(key) => of(self.kept.get(key)),
            EntryName::KeptExchange(key, number) => of(self.kept_exchanges.get(&(*key, *number))),
            EntryName::Domain(domain) => of(self.domains.get(domain).map(|tenant| Domain { tenant: *tenant })),
            EntryName::Generation => of(self.generation.map(|generation| Generation { generation })),
        }
    }

    /// Puts an entry back that was written before; in any order. What has ended meanwhile goes with the next sweep.
    ///
    /// # Errors
    /// `Unreadable`: a newer version, damaged bytes, or a tenant number that was given to two domains. `Full`: it does not fit.
    pub fn restore(&mut self, name: &EntryName, bytes: &[u8]) -> Result<(), StoreError> {
        fn of<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StoreError> {
            decode(bytes)
        }
        match *name {
            EntryName::Aor(key) => {
                let Aor { bindings } = of(bytes)?;
                let end = bindings.iter().map(|b| b.expires_at).min();
                self.put_bindings(key, bindings)?;
                if let Some(end) = end {
                    self.expiry.add(end, *name);
                }
            }
            EntryName::Removed(key) => {
                let RemovedBindings { removed } = of(bytes)?;
                if let Some(end) = removed.iter().map(|r| r.expires_at).max() {
                    self.removed.insert(key, removed);
                    self.expiry.add(end, *name);
                }
            }
            EntryName::Guard(key) => self.put_guard(key, of::<Guard>(bytes)?),
            EntryName::Dialog(key) => self.put_dialog(key, of::<StoredDialog>(bytes)?),
            EntryName::Session(key) => {
                let session: StoredSession = of(bytes)?;
                self.expiry.add(session.expires_at, *name);
                self.sessions.insert(key, session);
            }
            EntryName::Exchange(key) => self.put_exchange(key, of::<StoredExchange>(bytes)?),
            EntryName::Once(key) => {
                let Seen { expires_at } = of(bytes)?;
                self.expiry.add(expires_at, *name);
                self.once.insert(key, expires_at);
            }
            EntryName::Nonce(key) => {
                let nonce: Nonce = of(bytes)?;
                self.expiry.add(nonce.expires_at, *name);
                self.nonces.insert(key, nonce);
            }
            EntryName::Edge(pod) => {
                let edge: Edge = of(bytes)?;
                self.expiry.add(edge.expires_at(), *name);
                self.edges.insert(pod, edge);
            }
            EntryName::Kept(key) => self.put_kept(key, of::<Kept>(bytes)?),
            EntryName::KeptExchange(key, number) => {
                // Its leg says when it ends; one whose leg is not there goes with the first sweep.
                self.kept_exchanges.insert((key, number), of::<KeptExchange>(bytes)?);
                self.expiry.add(0, *name);
            }
            EntryName::Domain(domain) => self.restore_domain(domain, of::<Domain>(bytes)?.tenant)?,
            EntryName::Generation => self.generation = Some(of::<Generation>(bytes)?.generation),
        }
        // What was read is no change.
        if let Some(dirty) = &mut self.dirty {
            dirty.remove(name);
        }
        Ok(())
    }

    fn restore_domain(&mut self, domain: [u8; 16], tenant: Tenant) -> Result<(), StoreError> {
        if self.domains.iter().any(|(other, number)| *number == tenant && *other != domain) {
            return Err(StoreError::Unreadable { reason: format!("tenant number {tenant} was given to two domains") });
        }
        self.domains.insert(domain, tenant);
        self.last_tenant = self.last_tenant.max(tenant);
        Ok(())
    }

    /// Every name that has an entry, in their order.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the order of the maps is lost in the set")]
    pub fn names(&self) -> BTreeSet<EntryName> {
        let mut out = BTreeSet::new();
        out.extend(self.bindings.keys().map(|key| EntryName::Aor(*key)));
        out.extend(self.removed.keys().map(|key| EntryName::Removed(*key)));
        out.extend(self.guards.keys().map(|key| EntryName::Guard(*key)));
        out.extend(self.dialogs.keys().map(|key| EntryName::Dialog(*key)));
        out.extend(self.sessions.keys().map(|key| EntryName::Session(*key)));
        out.extend(self.exchanges.keys().map(|key| EntryName::Exchange(*key)));
        out.extend(self.once.keys().map(|key| EntryName::Once(*key)));
        out.extend(self.nonces.keys().map(|key| EntryName::Nonce(*key)));
        out.extend(self.kept.keys().map(|key| EntryName::Kept(*key)));
        out.extend(self.kept_exchanges.keys().map(|(key, number)| EntryName::KeptExchange(*key, *number)));
        out.extend(self.edges.keys().map(|pod| EntryName::Edge(*pod)));
        out.extend(self.domains.keys().map(|domain| EntryName::Domain(*domain)));
        out.extend(self.generation.map(|_| EntryName::Generation));
        out
    }
}
