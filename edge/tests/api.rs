//! The edge through its real sockets, its real files and its signals.

#[path = "api/support.rs"]
mod support;

#[path = "api/building.rs"]
mod building;
#[path = "api/calls.rs"]
mod calls;
#[path = "api/certificates.rs"]
mod certificates;
#[path = "api/conversations.rs"]
mod conversations;
#[path = "api/fleet.rs"]
mod fleet;
#[path = "api/leases.rs"]
mod leases;
#[path = "api/limits.rs"]
mod limits;
#[path = "api/mesh.rs"]
mod mesh;
#[path = "api/names.rs"]
mod names;
#[path = "api/process.rs"]
mod process;
#[path = "api/reload.rs"]
mod reload;
#[path = "api/store_moves.rs"]
mod store_moves;
#[path = "api/stores.rs"]
mod stores;
#[path = "api/traces.rs"]
mod traces;
#[path = "api/transports.rs"]
mod transports;
