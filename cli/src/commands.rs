//! The subcommands, one file each.

pub mod call;
pub mod check;
pub mod keys;
pub mod register;
pub mod tools;
