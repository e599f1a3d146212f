//! The operations of `session-store` on an embedded database, for one edge that survives its own restart.
//!
//! [`MemoryStore`](session_store::memory::MemoryStore) executes every operation: its semantics are the one source. What an operation
//! changed is sealed and appended to a write-ahead log before the reply leaves; from time to time the log is worked into the database
//! (redb) and emptied. One thread does all of it, batch by batch, so that many operations share one write and, in class Fsync, one wait
//! for the disk.
//!
//! | class | a reply means | survives |
//! |---|---|---|
//! | `Memory` | the log is written | any kill of the process |
//! | `Fsync` | the log is on the disk | a power loss |
#![forbid(unsafe_code)]

mod disk;
mod error;
mod keys;
mod log;
mod store;
mod suspicious;
mod worker;

pub use disk::{Clock, StoreFile};
pub use error::OpenError;
pub use keys::{EdgeKeys, RANDOM_OCTETS};
pub use store::{Done, FileStore, QUEUE};
