//! The operator's ports with real clients at the other end.

#[path = "api/control.rs"]
mod control;
#[path = "api/harness.rs"]
mod harness;
#[path = "api/process.rs"]
mod process;
