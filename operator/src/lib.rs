//! The operator: what stands in the API becomes what runs and what each edge is told, and what the edges say becomes status.
//!
//! Two pure halves, values in and values out, without a clock, a socket or a client:
//! - [`index`]: the objects of the cluster by kind, who refers to whom, and the rules over all of them;
//! - [`plan`]: what each edge should hold and the next message of its stream ([`plan::delta`]), the status of each object, what runs for a
//!   SipEdge and the next step of a rollout or a scale-down ([`plan::rollout`]).
//!
//! The shell moves them: [`watch`] brings what the API server says to the [`board`], [`write`] brings back what follows, as long as this replica
//! holds the Lease ([`lease`]). [`authority`] issues the certificates of the control stream, [`serve`] speaks with the edges, [`peers`] with the
//! other replicas, [`webhook`] with the API server, and [`admin`] with people, for whom it asks the edges ([`queries`]).
#![forbid(unsafe_code)]

pub mod admin;
pub mod authority;
pub mod board;
pub mod config;
pub mod health;
pub mod https;
pub mod identity;
pub mod index;
pub mod key;
pub mod lease;
pub mod metrics;
pub mod peers;
pub mod plan;
pub mod queries;
pub mod run;
pub mod serve;
pub mod watch;
pub mod webhook;
pub mod write;

#[cfg(test)]
mod testing;
