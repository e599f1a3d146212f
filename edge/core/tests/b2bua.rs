//! Calls between two legs, seen from outside: several edges on one store, callers and registered agents that the test plays. Test names
//! carry the requirement IDs of `docs/conformance.md`.

#[path = "api/driver.rs"]
mod driver;
#[path = "b2bua/fleet.rs"]
mod fleet;

#[path = "b2bua/calls.rs"]
mod calls;
#[path = "b2bua/capability.rs"]
mod capability;
#[path = "b2bua/chaos.rs"]
mod chaos;
#[path = "b2bua/edges.rs"]
mod edges;
#[path = "b2bua/ended.rs"]
mod ended;
#[path = "b2bua/forks.rs"]
mod forks;
#[path = "b2bua/mcp.rs"]
mod mcp;
#[path = "b2bua/paged.rs"]
mod paged;
#[path = "b2bua/registered.rs"]
mod registered;
#[path = "b2bua/relayed.rs"]
mod relayed;
