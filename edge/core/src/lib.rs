//! `EdgeState`: input → state → effects. Pure: no I/O, no clock, no randomness of its own.
//! Contract: after every `handle*` the shell drains `poll_effect` to `None` before the next input.
#![forbid(unsafe_code)]

pub mod audit;
pub mod config;
pub mod effect;
pub mod engine;
pub mod input;
pub mod random;
pub mod text;
