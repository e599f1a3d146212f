//! `sipmcp-edge` and `sipmcp` as processes, against peers that nobody here wrote. Each test has an edge of its own, on a loopback
//! address of its own, and kills what it started. Names carry the requirement IDs of `docs/conformance.md`.

mod bad_input;
mod baresip;
mod digest;
mod dissect;
mod harness;
mod lifecycle;
mod load;
mod names;
mod registered;
mod sipp;
mod table;
