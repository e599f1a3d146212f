//! Names in the store that more than one part must make alike. All hashes in them use the naming key, which never changes: token keys
//! rotate, names do not.

use session_store::key::{AorKey, ConversationKey};

use crate::b2bua::address;
use crate::config::AgentConfig;
use crate::random::keyed_hash;

/// The address of an agent, for its bindings.
#[must_use]
pub fn agent(naming_key: &[u8], tenant: u16, agent: &AgentConfig) -> AorKey {
    aor(naming_key, tenant, &address(agent))
}

/// An address of record in its canonical form.
#[must_use]
pub fn aor(naming_key: &[u8], tenant: u16, aor: &str) -> AorKey {
    AorKey { tenant, hash: keyed_hash(naming_key, "aor", &[aor.as_bytes()]) }
}

/// A conversation of a tenant, by its UUID (in any case): what export and erasure look for.
#[must_use]
pub fn conversation(naming_key: &[u8], tenant: u16, uuid: &str) -> ConversationKey {
    ConversationKey { tenant, hash: keyed_hash(naming_key, "conversation", &[uuid.to_ascii_lowercase().as_bytes()]) }
}

/// A domain, for its tenant number.
#[must_use]
pub fn domain(naming_key: &[u8], domain: &str) -> [u8; 16] {
    keyed_hash(naming_key, "domain", &[domain.to_ascii_lowercase().as_bytes()])
}
