//! What an edge does, seen from outside: messages in, effects out, the memory store beside it. One binary, one module per subject;
//! test names carry the requirement IDs of `docs/conformance.md`.

#[path = "api/driver.rs"]
mod driver;

#[path = "api/adoption.rs"]
mod adoption;
#[path = "api/any_edge.rs"]
mod any_edge;
#[path = "api/calls.rs"]
mod calls;
#[path = "api/carriers.rs"]
mod carriers;
#[path = "api/emptied.rs"]
mod emptied;
#[path = "api/exchanges.rs"]
mod exchanges;
#[path = "api/fleet.rs"]
mod fleet;
#[path = "api/gate.rs"]
mod gate;
#[path = "api/in_dialog.rs"]
mod in_dialog;
#[path = "api/lease.rs"]
mod lease;
#[path = "api/matrix.rs"]
mod matrix;
#[path = "api/negotiation.rs"]
mod negotiation;
#[path = "api/node.rs"]
mod node;
#[path = "api/options.rs"]
mod options;
#[path = "api/outage.rs"]
mod outage;
#[path = "api/page.rs"]
mod page;
#[path = "api/parked.rs"]
mod parked;
#[path = "api/registrations.rs"]
mod registrations;
#[path = "api/replaced.rs"]
mod replaced;
#[path = "api/rfc4475.rs"]
mod rfc4475;
#[path = "api/rotation.rs"]
mod rotation;
#[path = "api/taken_back.rs"]
mod taken_back;
