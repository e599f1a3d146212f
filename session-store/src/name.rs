//! The name of every kind of entry, with a stable byte form: what a store that keeps entries writes as their key.

use crate::key::{AorKey, DialogKey, ExchangeKey, GuardKey, NonceKey, SessionKey, Slot, Tenant};
use crate::op::StoreError;

/// One entry of a store. Ordered, so that the entries of a kind, and the exchanges of a session, lie together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryName {
    /// The bindings of an address of record.
    Aor(AorKey),
    /// What removed bindings of it leave behind.
    Removed(AorKey),
    Guard(GuardKey),
    Dialog(DialogKey),
    Session(SessionKey),
    Exchange(ExchangeKey),
    /// A message that was seen.
    Once(ExchangeKey),
    Nonce(NonceKey),
    /// What is kept of a leg of a conversation for its retention.
    Kept(DialogKey),
    /// One exchange of it, by its number.
    KeptExchange(DialogKey, u64),
    /// An edge: its epoch and its lease.
    Edge(u64),
    /// The tenant number of a domain.
    Domain([u8; 16]),
    /// The name of the store's content. There is one.
    Generation,
}

/// Longest byte form: kind, slot, tenant, two hashes.
pub const MAX_NAME_BYTES: usize = 1 + 2 + 2 + 16 + 16;

impl EntryName {
    /// The kind, as it stands in the byte form. Never reused for another.
    #[must_use]
    pub fn kind(&self) -> u8 {
        match self {
            EntryName::Aor(_) => 1,
            EntryName::Removed(_) => 2,
            EntryName::Guard(_) => 3,
            EntryName::Dialog(_) => 4,
            EntryName::Session(_) => 5,
            EntryName::Exchange(_) => 6,
            EntryName::Once(_) => 7,
            EntryName::Nonce(_) => 8,
            EntryName::Edge(_) => 9,
            EntryName::Domain(_) => 10,
            EntryName::Generation => 11,
            EntryName::Kept(_) => 12,
            EntryName::KeptExchange(..) => 13,
        }
    }

    /// The kind in words, for the associated data of a seal and for messages.
    #[must_use]
    pub fn kind_name(&self) -> &'static str {
        match self {
            EntryName::Aor(_) => "bindings",
            EntryName::Removed(_) => "removed bindings",
            EntryName::Guard(_) => "guard",
            EntryName::Dialog(_) => "dialog",
            EntryName::Session(_) => "session",
            EntryName::Exchange(_) => "exchange",
            EntryName::Once(_) => "message",
            EntryName::Nonce(_) => "nonce",
            EntryName::Edge(_) => "edge",
            EntryName::Domain(_) => "domain",
            EntryName::Generation => "generation",
            EntryName::Kept(_) => "kept dialog",
            EntryName::KeptExchange(..) => "kept exchange",
        }
    }

    /// Whose it is; `None` for what belongs to the store itself.
    #[must_use]
    pub fn tenant(&self) -> Option<Tenant> {
        match self {
            EntryName::Aor(key) | EntryName::Removed(key) => Some(key.tenant),
            EntryName::Guard(key) => Some(key.tenant),
            EntryName::Dialog(key) | EntryName::Kept(key) | EntryName::KeptExchange(key, _) => Some(key.tenant),
            EntryName::Session(key) => Some(key.tenant),
            EntryName::Exchange(key) | EntryName::Once(key) => Some(key.session.tenant),
            EntryName::Nonce(key) => Some(key.tenant),
            EntryName::Edge(_) | EntryName::Domain(_) | EntryName::Generation => None,
        }
    }

    /// Kind, then the parts of the key in big-endian order. Stable for ever.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(MAX_NAME_BYTES);
        out.push(self.kind());
        let mut put = |slot: Option<Slot>, tenant: Tenant, parts: &[&[u8; 16]]| {
            if let Some(slot) = slot {
                out.extend(slot.to_be_bytes());
            }
            out.extend(tenant.to_be_bytes());
            for part in parts {
                out.extend_from_slice(*part);
            }
        };
        match self {
            EntryName::Aor(key) | EntryName::Removed(key) => put(None, key.tenant, &[&key.hash]),
            EntryName::Guard(key) => put(Some(key.slot), key.tenant, &[&key.hash]),
            EntryName::Dialog(key) | EntryName::Kept(key) => put(Some(key.slot), key.tenant, &[&key.id]),
            EntryName::KeptExchange(key, number) => {
                put(Some(key.slot), key.tenant, &[&key.id]);
                out.extend(number.to_be_bytes());
            }
            EntryName::Session(key) => put(Some(key.slot), key.tenant, &[&key.hash]),
            EntryName::Exchange(key) | EntryName::Once(key) => {
                put(Some(key.session.slot), key.session.tenant, &[&key.session.hash, &key.hash]);
            }
            EntryName::Nonce(key) => put(None, key.tenant, &[&key.hash]),
            EntryName::Edge(pod) => out.extend(pod.to_be_bytes()),
            EntryName::Domain(domain) => out.extend(domain),
            EntryName::Generation => {}
        }
        out
    }

    /// Reads the byte form.
    ///
    /// # Errors
    /// `Unreadable`: no such kind, or not the length of that kind.
    pub fn from_bytes(bytes: &[u8]) -> Result<EntryName, StoreError> {
        let name = parse(bytes).filter(|name| name.to_bytes() == bytes);
        name.ok_or_else(|| StoreError::Unreadable { reason: format!("{} bytes are no name of an entry", bytes.len()) })
    }

    /// The slot label, where the kind has one.
    #[must_use]
    pub fn slot(&self) -> Option<Slot> {
        match self {
            EntryName::Guard(key) => Some(key.slot),
            EntryName::Dialog(key) | EntryName::Kept(key) | EntryName::KeptExchange(key, _) => Some(key.slot),
            EntryName::Session(key) => Some(key.slot),
            EntryName::Exchange(key) | EntryName::Once(key) => Some(key.session.slot),
            _ => None,
        }
    }
}

/// The parts; what follows them is not looked at.
fn parse(bytes: &[u8]) -> Option<EntryName> {
    let (kind, rest) = bytes.split_first()?;
    let mut rest = rest;
    match kind {
        1 | 2 | 8 => {
            let (tenant, hash) = (u16::from_be_bytes(take(&mut rest)?), take(&mut rest)?);
            Some(match kind {
                1 => EntryName::Aor(AorKey { tenant, hash }),
                2 => EntryName::Removed(AorKey { tenant, hash }),
                _ => EntryName::Nonce(NonceKey { tenant, hash }),
            })
        }
        3..=7 => {
            let slot = u16::from_be_bytes(take(&mut rest)?);
            let tenant = u16::from_be_bytes(take(&mut rest)?);
            let hash = take(&mut rest)?;
            let session = SessionKey { slot, tenant, hash };
            Some(match kind {
                3 => EntryName::Guard(GuardKey { slot, tenant, hash }),
                4 => EntryName::Dialog(DialogKey { slot, tenant, id: hash }),
                5 => EntryName::Session(session),
                6 => EntryName::Exchange(ExchangeKey { session, hash: take(&mut rest)? }),
                _ => EntryName::Once(ExchangeKey { session, hash: take(&mut rest)? }),
            })
        }
        9 => Some(EntryName::Edge(u64::from_be_bytes(take(&mut rest)?))),
        10 => Some(EntryName::Domain(take(&mut rest)?)),
        11 => Some(EntryName::Generation),
        12 | 13 => {
            let (slot, tenant) = (u16::from_be_bytes(take(&mut rest)?), u16::from_be_bytes(take(&mut rest)?));
            let key = DialogKey { slot, tenant, id: take(&mut rest)? };
            Some(match kind {
                12 => EntryName::Kept(key),
                _ => EntryName::KeptExchange(key, u64::from_be_bytes(take(&mut rest)?)),
            })
        }
        _ => None,
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

impl DialogKey {
    /// The name of the MCP work of this dialog.
    #[must_use]
    pub fn session(&self) -> SessionKey {
        SessionKey { slot: self.slot, tenant: self.tenant, hash: self.id }
    }
}

impl SessionKey {
    /// The names of all exchanges of the session lie between these two.
    pub(crate) fn exchanges(&self) -> std::ops::RangeInclusive<ExchangeKey> {
        let exchange = |hash| ExchangeKey { session: *self, hash };
        exchange([0; 16])..=exchange([0xff; 16])
    }
}
