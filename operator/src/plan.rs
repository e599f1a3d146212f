//! What follows from the index: pure functions and machines.

pub mod backends;
pub mod delta;
pub mod finalizer;
pub mod fleet;
pub mod rollout;
pub mod running;
pub mod status;
pub mod tenants;
pub mod transition;
pub mod workload;
