//! What the tests stand on: processes with an end, addresses, certificates, manifests, agents, and a SIP client of its own.

pub mod agents;
pub mod backend;
pub mod certificates;
pub mod cli;
pub mod edge;
pub mod fleet;
pub mod manifests;
pub mod pipe;
pub mod place;
pub mod process;
pub mod raw;
pub mod ring;

use std::time::Duration;

/// How long anything may take that is not measured: a busy machine is slow, a broken program is for ever.
pub const PATIENCE: Duration = Duration::from_secs(30);
