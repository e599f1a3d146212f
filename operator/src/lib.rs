//! The operator: what stands in the API becomes what runs and what each edge is told, and what the edges say becomes status.
//!
//! Two pure halves, values in and values out, without a clock, a socket or a client:
//! - [`index`]: the objects of the cluster by kind, who refers to whom, and the rules over all of them;
//! - [`plan`]: what each edge should hold and the next message of its stream ([`plan::delta`]), what the status of each object is
//!   ([`plan::status`]), what should run for a SipEdge and what is done next ([`plan::workload`]).
#![forbid(unsafe_code)]

pub mod index;
pub mod key;
pub mod plan;

#[cfg(test)]
mod testing;
