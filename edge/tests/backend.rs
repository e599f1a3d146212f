//! The backend client against real MCP servers and against servers that misbehave.

#[path = "backend/harness.rs"]
mod harness;
#[path = "backend/legacy.rs"]
mod legacy;
#[path = "backend/misbehaving.rs"]
mod misbehaving;
#[path = "backend/modern.rs"]
mod modern;
#[path = "backend/pool.rs"]
mod pool;
#[path = "backend/streams.rs"]
mod streams;
#[path = "backend/tls.rs"]
mod tls;
