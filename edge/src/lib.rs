//! The shell of the edge: sockets, TLS, HTTP backends, admin. One core per shard.

pub mod admin;
pub mod args;
pub mod audit;
pub mod backend;
mod clock;
pub mod config_build;
pub mod control;
mod conversations;
pub mod counters;
pub mod dns;
pub mod drain;
pub mod driver;
mod grpc;
pub mod identity;
pub mod manifests;
pub mod mesh;
pub mod metrics;
pub mod net;
mod node;
pub mod run;
pub mod source;
pub mod status;
pub mod store;
pub mod telemetry;
