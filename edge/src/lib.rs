//! The shell of the edge: sockets, TLS, HTTP backends, admin. One core per shard.

pub mod backend;
