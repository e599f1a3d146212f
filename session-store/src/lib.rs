//! What is persisted and what that means: keys, versioned records, operations as values, the memory backend.
//! Pure: no I/O, no clock of its own (the backend's caller says what the time is; lease expiry is judged by that clock).
//!
//! Every state change is **one** [`op::StoreOp`]: it checks a version, a fence or a guard and returns what the caller needs in the
//! same reply. [`memory::MemoryStore`] is the embedded backend and the reference model of every other one.
#![forbid(unsafe_code)]

pub mod codec;
mod durability;
pub mod hash;
pub mod key;
pub mod memory;
pub mod name;
pub mod op;
pub mod record;
pub mod seal;

pub use durability::Durability;
