//! What an edge does, seen from outside: messages in, effects out, the memory store beside it. One binary, one module per subject;
//! test names carry the requirement IDs of `docs/conformance.md`.

#[path = "api/driver.rs"]
mod driver;

#[path = "api/page.rs"]
mod page;
