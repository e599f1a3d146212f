//! The operations of `session-store` on Redis (≥ 7) or Valkey: one node, Sentinel or Cluster.
//!
//! Every operation is one call of a Redis Function ([`library`]) on keys of one hash slot, so it is one round trip and atomic. What a
//! function decides on (versions, phases, CSeq numbers, owners, keyed hashes) lies in plain fields; the records themselves are sealed
//! per tenant. Times are those of the server's clock: what an edge gives and reads is converted at its own ([`clock`]).
#![forbid(unsafe_code)]

mod breaker;
pub mod clock;
mod commit;
mod config;
mod decode;
mod encode;
mod error;
mod failure;
mod greeting;
mod health;
mod keeper;
pub mod library;
mod link;
mod names;
mod node;
mod server;
mod slot;
mod store;
mod topology;
mod trips;
mod vault;

pub use clock::EdgeClock;
pub use commit::Keeps;
pub use config::{RedisConfig, TlsConfig, Topology};
pub use error::StartError;
pub use health::{BreakerState, Health, HealthWatch, ShardHealth};
pub use store::RedisStore;
pub use trips::OpTrips;
