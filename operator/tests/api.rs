//! The operator's ports with real clients at the other end.

#[path = "api/control.rs"]
mod control;
#[path = "api/generated.rs"]
mod generated;
#[path = "api/harness.rs"]
mod harness;
#[path = "api/peers.rs"]
mod peers;
#[path = "api/process.rs"]
mod process;
