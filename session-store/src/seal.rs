//! Sealed values: what leaves the process can be read with the tenant's key only, and only under the name that it was written for
//! (SEC-15).
//!
//! Shape: one byte format, one byte `kid`, then AES-SIV (RFC 5297) with the kind, the tenant and the name as associated data. A value
//! that is moved to another name, kind or tenant does not open. Deterministic: the same value under the same name has the same bytes,
//! so that a write that changes nothing is no change; who sees the bytes sees that, and no more. Removing the key of a tenant makes
//! its values unreadable.

use std::collections::BTreeMap;

use aes_siv::KeyInit;
use aes_siv::siv::Aes128Siv;
use zeroize::Zeroizing;

use crate::hash::keyed_hash;
use crate::key::Tenant;
use crate::name::EntryName;
use crate::op::StoreError;

/// Under this number stands what belongs to no tenant: edges, domains. Numbers of tenants begin at 1.
pub const OF_STORE: Tenant = 0;
/// The format that this code writes.
const FORMAT: u8 = 1;
/// So many keys of a tenant are live at once: one that seals, the others until nothing is left that they sealed.
pub const MAX_KEYS: usize = 4;
/// What a seal adds to a value: format, kid, the synthetic IV.
pub const OVERHEAD: usize = 1 + 1 + 16;

/// One key, with the number by which sealed values name it.
#[derive(Clone)]
pub struct SealKey {
    kid: u8,
    /// AES-SIV-256 (two AES-128 keys).
    siv: Zeroizing<[u8; 32]>,
}

impl std::fmt::Debug for SealKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

impl SealKey {
    /// A key of 32 random bytes. `kid`: never used again for another key of this tenant.
    #[must_use]
    pub fn new(kid: u8, siv: Zeroizing<[u8; 32]>) -> SealKey {
        SealKey { kid, siv }
    }

    /// The number by which sealed values name it.
    #[must_use]
    pub fn kid(&self) -> u8 {
        self.kid
    }
}

/// The keys of a tenant: the first one seals, all open. A new key is put second everywhere before it is put first anywhere.
#[derive(Clone, Debug)]
pub struct SealKeys(Vec<SealKey>);

/// These cannot be the keys of a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    #[error("no key to seal with")]
    None,
    #[error("{0} keys, at most {MAX_KEYS} are live at once")]
    TooMany(usize),
    #[error("two keys with the id {0}")]
    SameId(u8),
}

impl SealKeys {
    /// The keys in their order.
    ///
    /// # Errors
    /// None, more than [`MAX_KEYS`], or two with one `kid`.
    pub fn new(keys: Vec<SealKey>) -> Result<SealKeys, KeysError> {
        if keys.is_empty() {
            return Err(KeysError::None);
        }
        if keys.len() > MAX_KEYS {
            return Err(KeysError::TooMany(keys.len()));
        }
        for (i, key) in keys.iter().enumerate() {
            if keys[..i].iter().any(|other| other.kid == key.kid) {
                return Err(KeysError::SameId(key.kid));
            }
        }
        Ok(SealKeys(keys))
    }

    fn first(&self) -> &SealKey {
        self.0.first().unwrap_or_else(|| unreachable!("there is no empty list of keys: `new` refuses it"))
    }
}

/// Seals and opens for all tenants. Replaced as a whole when keys change.
#[derive(Clone)]
pub struct Sealer {
    /// For tenants without keys of their own, and for what belongs to none.
    default: SealKeys,
    tenants: BTreeMap<Tenant, SealKeys>,
    /// Does not rotate: names and fingerprints are compared for as long as what they name lives.
    naming: Zeroizing<[u8; 32]>,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer").field("default", &self.default).field("tenants", &self.tenants).finish_non_exhaustive()
    }
}

impl Sealer {
    /// `naming`: the key of names and fingerprints, which does not rotate.
    #[must_use]
    pub fn new(default: SealKeys, naming: Zeroizing<[u8; 32]>) -> Sealer {
        Sealer { default, tenants: BTreeMap::new(), naming }
    }

    /// A tenant with keys of its own (`SipDomain.spec.dataProtection`).
    #[must_use]
    pub fn with_tenant(mut self, tenant: Tenant, keys: SealKeys) -> Sealer {
        self.tenants.insert(tenant, keys);
        self
    }

    fn keys(&self, tenant: Tenant) -> &SealKeys {
        self.tenants.get(&tenant).unwrap_or(&self.default)
    }

    /// Seals a value that stands under `name` as its `kind`.
    #[must_use]
    pub fn seal(&self, tenant: Tenant, kind: &str, name: &[u8], plain: &[u8]) -> Vec<u8> {
        let key = self.keys(tenant).first();
        let prefix = [FORMAT, key.kid];
        let headers: [&[u8]; 5] = [b"sipmcp store", &prefix, &tenant.to_be_bytes(), kind.as_bytes(), name];
        let Ok(sealed) = Aes128Siv::new((&*key.siv).into()).encrypt(headers, plain) else {
            unreachable!("AES-SIV encrypts every content below 2^39 bytes with fewer than 127 headers (RFC 5297 §2.6)")
        };
        let mut out = Vec::with_capacity(OVERHEAD + plain.len());
        out.extend(prefix);
        out.extend(sealed);
        out
    }

    /// Opens what [`Sealer::seal`] made for this tenant, kind and name.
    ///
    /// # Errors
    /// `Unreadable`, with the reason: truncated, a newer format, a `kid` that is not live, or bytes that do not open (sealed by another
    /// key of the same id, moved here from another name, or damaged).
    pub fn open(&self, tenant: Tenant, kind: &str, name: &[u8], bytes: &[u8]) -> Result<Vec<u8>, StoreError> {
        let unreadable =
            |reason: String| StoreError::Unreadable { reason: format!("{kind} of tenant {tenant}: {reason}") };
        let (Some((prefix @ [format, kid], sealed)), true) = (bytes.split_first_chunk::<2>(), bytes.len() >= OVERHEAD)
        else {
            return Err(unreadable(format!("{} bytes, truncated", bytes.len())));
        };
        if *format != FORMAT {
            return Err(unreadable(format!("seal format {format}, this program reads {FORMAT}")));
        }
        let Some(key) = self.keys(tenant).0.iter().find(|key| key.kid == *kid) else {
            return Err(unreadable(format!("sealed with key {kid}, which is not among the live ones")));
        };
        let headers: [&[u8]; 5] = [b"sipmcp store", prefix, &tenant.to_be_bytes(), kind.as_bytes(), name];
        let plain = Aes128Siv::new((&*key.siv).into()).decrypt(headers, sealed);
        plain.map_err(|_| unreadable(format!("does not open with key {kid}: damaged, moved, or another key's")))
    }

    /// Seals a whole entry under its own name.
    #[must_use]
    pub fn seal_entry(&self, name: &EntryName, plain: &[u8]) -> Vec<u8> {
        self.seal(name.tenant().unwrap_or(OF_STORE), name.kind_name(), &name.to_bytes(), plain)
    }

    /// Opens what [`Sealer::seal_entry`] made for this name.
    ///
    /// # Errors
    /// As [`Sealer::open`].
    pub fn open_entry(&self, name: &EntryName, bytes: &[u8]) -> Result<Vec<u8>, StoreError> {
        self.open(name.tenant().unwrap_or(OF_STORE), name.kind_name(), &name.to_bytes(), bytes)
    }

    /// The `kid` with which a value was sealed, if it has the shape of one: for what counts the values that an old key still holds.
    #[must_use]
    pub fn kid(bytes: &[u8]) -> Option<u8> {
        match bytes {
            [FORMAT, kid, ..] if bytes.len() >= OVERHEAD => Some(*kid),
            _ => None,
        }
    }

    /// Whether a value was sealed with the key that seals now; if not, the next write moves it.
    #[must_use]
    pub fn is_current(&self, tenant: Tenant, bytes: &[u8]) -> bool {
        Sealer::kid(bytes) == Some(self.keys(tenant).first().kid)
    }

    /// What a store compares without reading it (a principal, a Call-ID, a digest): a keyed hash. The same after a key rotation.
    #[must_use]
    pub fn fingerprint(&self, tenant: Tenant, kind: &str, parts: &[&[u8]]) -> [u8; 16] {
        let tenant = tenant.to_be_bytes();
        let mut all: Vec<&[u8]> = Vec::with_capacity(2 + parts.len());
        all.extend([kind.as_bytes(), &tenant]);
        all.extend(parts);
        keyed_hash(&*self.naming, "fingerprint", &all)
    }
}
