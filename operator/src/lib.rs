//! The operator: what stands in the API becomes what runs and what each edge is told, and what the edges say becomes status.
//!
//! Two pure halves, values in and values out, without a clock, a socket or a client:
//! - [`index`]: the objects of the cluster by kind, who refers to whom, and the rules over all of them;
//! - [`plan`]: what each edge should hold and the next message of its stream ([`plan::delta`]), and the next step of a rollout or a
//!   scale-down ([`plan::rollout`]).
//!
//! The other half has clocks and sockets: [`authority`] issues the certificates of the control stream, [`serve`] speaks with the edges.
#![forbid(unsafe_code)]

pub mod authority;
pub mod board;
pub mod identity;
pub mod index;
pub mod key;
pub mod plan;
pub mod serve;

#[cfg(test)]
mod testing;
