//! Why the store cannot be used as it is configured.

use session_store::Durability;

/// What `connect` and `check_durability` say. Each is for an operator to read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    #[error("the configuration of the store: {0}")]
    Config(String),
    #[error("the store at {address} cannot be reached: {reason}")]
    Unreachable { address: String, reason: String },
    #[error("what answers at {address} is neither Redis nor Valkey: {got}")]
    NotRedis { address: String, got: String },
    #[error("the store at {address} is {version}; Redis 7.0 or Valkey 7.2 is the oldest that will do")]
    TooOld { address: String, version: String },
    #[error("the store at {address} does not accept the user or the password: {reason}")]
    Refused { address: String, reason: String },
    #[error("the user of the store at {address} may not do what is needed: {reason}")]
    NotAllowed { address: String, reason: String },
    #[error(
        "the store at {address} would drop live calls under memory pressure: maxmemory-policy is {policy}, it must be noeviction"
    )]
    Eviction { address: String, policy: String },
    #[error("the store at {address} is a replica; the address of its primary is needed (or its sentinels')")]
    Replica { address: String },
    #[error("the store at {address} is {wanted}")]
    OtherMode { address: String, wanted: &'static str },
    #[error("the store at {address} has another function library under the name {library}; it was not loaded by us")]
    Library { address: String, library: String },
    #[error("no sentinel knows a primary named {master:?}: {reason}")]
    NoMaster { master: String, reason: String },
    #[error("the store at {address} was the primary: its sentinels name {primary}")]
    NotNamed { address: String, primary: String },
    #[error("the store cannot give durability class {}: {reason}", class.name())]
    Durability { class: Durability, reason: String },
}
