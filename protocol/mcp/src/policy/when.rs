//! Conditions over the arguments of a call (`when`, kubernetes §3.4): a part of CEL, parsed once, evaluated on every call.
//!
//! One variable, `args`: the `arguments` of the request. Operators `! && || ?: == != < <= > >= + - * / % in []`, field selection, lists;
//! functions `has`, `size`, `startsWith`, `endsWith`, `contains`, `all`, `exists`, `exists_one`. Numbers are JSON's: `1 == 1.0`, and
//! what mixes whole numbers and others goes on with the others. Work is bounded in both steps: by the length and the depth of the source,
//! and by a budget for each evaluation.
//!
//! A condition that fails gives no answer ([`Failure`]): an Allow rule must then not match, a Deny rule must.

mod compile;
mod evaluate;
mod schema;
mod value;

pub use schema::Misfit;

use serde_json::Value;
use std::collections::BTreeSet;

/// Octets of the source.
pub const MAX_SOURCE: usize = 1024;
/// Brackets within one another, and choices (`?:`) in all.
pub const MAX_DEPTH: u16 = 24;
/// Brackets in all.
pub const MAX_BRACKETS: u16 = 64;
/// Steps of one evaluation; a step is an operation, an element that is looked at, or 32 octets of text that are compared.
pub const MAX_STEPS: u32 = 100_000;

/// A compiled condition.
#[derive(Clone, Debug)]
pub struct When {
    source: String,
    root: compile::Node,
    arguments: BTreeSet<String>,
    texts: Vec<String>,
}

/// Why a condition is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WhenError {
    /// More than [`MAX_SOURCE`] octets.
    #[error("has {0} octets; at most {MAX_SOURCE} are allowed")]
    TooLong(usize),
    /// More than [`MAX_DEPTH`] brackets within one another, so many choices, more than [`MAX_BRACKETS`], or too long a row of operators.
    #[error("is nested too deeply")]
    TooDeep,
    /// It does not parse.
    #[error("is no CEL expression: line {line}, column {column}: {message}")]
    Syntax {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// What the parser says.
        message: String,
    },
    /// A name that means nothing here.
    #[error("knows no variable {0:?}; there is args")]
    UnknownVariable(String),
    /// A function that is not there, or with another number of arguments.
    #[error(
        "knows no function {0:?} of this form; there are has, size, startsWith, endsWith, contains, all, exists, exists_one"
    )]
    UnknownFunction(String),
    /// A part of CEL that is left out.
    #[error("has {0}, which is not part of these conditions")]
    Unsupported(&'static str),
    /// It can never be true or false.
    #[error("gives no boolean")]
    NotABoolean,
}

/// Why a condition gave no answer. Never shows a value of the call (SEC-11).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// A field or an element that is not there.
    #[error("{0:?} is not there")]
    Missing(String),
    /// An operation with values that it does not know.
    #[error("{0} does not take these values")]
    Types(&'static str),
    /// A whole number beyond 64 bits, or a division by zero.
    #[error("a number is out of range")]
    Range,
    /// More than [`MAX_STEPS`].
    #[error("it takes too long")]
    TooMuch,
}

impl When {
    /// Parses a condition and checks that it names only what is there.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn new(source: &str) -> Result<When, WhenError> {
        let compile::Compiled { root, arguments, texts } = compile::compile(source)?;
        Ok(When { source: source.to_owned(), root, arguments, texts })
    }

    /// As it was written.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The arguments that it names (`args.NAME`, `has(args.NAME)`, `args["NAME"]`), in order.
    pub fn arguments(&self) -> impl Iterator<Item = &str> {
        self.arguments.iter().map(String::as_str)
    }

    /// Whether it holds for these arguments.
    ///
    /// # Errors
    /// It gives no boolean for them, or takes too long.
    pub fn holds(&self, args: &Value) -> Result<bool, Failure> {
        evaluate::holds(&self.root, args, MAX_STEPS)
    }
}
