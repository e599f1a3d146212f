//! What follows from the index: pure functions and machines.

pub mod delta;
pub mod fleet;
pub mod rollout;
pub mod status;
pub mod workload;
