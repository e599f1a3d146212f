//! `EdgeState`: input → state → effects. Pure: no I/O, no clock, no randomness of its own.
//! Contract: after every `handle*` the shell drains `poll_effect` to `None` before the next input.
#![forbid(unsafe_code)]

pub mod audit;
pub mod config;
pub mod effect;
pub mod engine;
pub mod input;
pub mod lease;
pub mod mesh;
pub mod names;
pub mod node;
pub mod random;
pub mod sessions;
pub mod state;
pub mod stats;
pub mod text;
pub mod token;

mod answer;
mod arrival;
mod b2bua;
mod call;
mod carrier;
mod dialogs;
mod drain;
mod fleet;
mod flows;
mod gate;
mod gruu;
mod in_dialog;
mod locate;
mod negotiate;
mod options;
mod outage;
mod outgoing;
mod page;
mod purpose;
mod refresh;
mod registrations;
mod request;
mod router;
mod routes;
mod session_id;
mod timers;
mod transactions;
mod waiting;
mod ways;

pub use state::{EdgeState, Shard, shard_of};
pub use stats::Stats;
