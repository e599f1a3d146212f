//! Names of what is stored. No personal data: addresses, Call-IDs and principals appear as keyed hashes only.

use serde::{Deserialize, Serialize};

/// The tenant number of a `SipDomain`; given once, never given twice.
pub type Tenant = u16;

/// A slot label, 0 … 1023: all keys of one call share it (one hash slot of a Redis Cluster).
pub type Slot = u16;

/// How many slot labels there are.
pub const SLOTS: u16 = 1024;

/// A dialog by our 128-bit id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DialogKey {
    pub slot: Slot,
    pub tenant: Tenant,
    pub id: [u8; 16],
}

/// A merged-request guard: keyed hash of Call-ID, From tag and CSeq number of an INVITE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GuardKey {
    pub slot: Slot,
    pub tenant: Tenant,
    pub hash: [u8; 16],
}

/// An address of record: keyed hash of its canonical form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AorKey {
    pub tenant: Tenant,
    pub hash: [u8; 16],
}

/// The MCP work of one leg: a dialog, or out of a dialog (tenant, principal, agent, Call-ID, From tag).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionKey {
    pub slot: Slot,
    pub tenant: Tenant,
    pub hash: [u8; 16],
}

/// One exchange of a session: keyed hash of principal, exchange and raw id, or of Call-ID, From tag and CSeq.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ExchangeKey {
    pub session: SessionKey,
    pub hash: [u8; 16],
}

/// A digest nonce in use by one user: keyed hash of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NonceKey {
    pub tenant: Tenant,
    pub hash: [u8; 16],
}

/// A conversation of a tenant: keyed hash of its UUID. Export and erasure find what belongs to it by this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ConversationKey {
    pub tenant: Tenant,
    pub hash: [u8; 16],
}

/// A capability that registered agents of a tenant offer: keyed hash of `name@version` (lower case).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CapabilityKey {
    pub tenant: Tenant,
    pub hash: [u8; 16],
}
