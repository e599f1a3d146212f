//! What can become of one command, and what that means for its operation.

use redis::{RedisError, ServerError};
use session_store::op::StoreError;

/// Why a command gave no reply of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The breaker is open, or too much is in flight. It was not sent.
    NotSent,
    /// No reply in time: executed or not is unknown.
    Late,
    /// The connection closed: executed or not is unknown.
    Closed(String),
    /// Executed, but not as durable as the class demands, so it counts as unknown.
    NotDurable(String),
    /// The server says that it cannot do it now, or not for this user; it did not.
    Cannot(String),
    /// It is no primary (any more).
    ReadOnly,
    /// Another node has the slot.
    Moved,
    /// Another node has it while the slot moves.
    Ask(String),
    /// The function library is not there.
    NoFunction,
    /// Out of memory.
    Full,
    /// What is stored cannot be read by this library.
    Unreadable(String),
}

impl Failure {
    /// From the text of an error reply.
    fn of_text(code: &str, text: &str) -> Failure {
        let full = || format!("{code} {text}").trim().to_owned();
        match code {
            "MOVED" => Failure::Moved,
            "ASK" => Failure::Ask(text.split_whitespace().nth(1).unwrap_or_default().to_owned()),
            "READONLY" => Failure::ReadOnly,
            "OOM" => Failure::Full,
            "NOREPLICAS" | "LOADING" | "CLUSTERDOWN" | "MASTERDOWN" | "TRYAGAIN" | "BUSY" | "MISCONF" | "UNBLOCKED"
            | "NOAUTH" | "WRONGPASS" | "NOPERM" => Failure::Cannot(full()),
            _ if full().contains("Function not found") => Failure::NoFunction,
            _ => Failure::Unreadable(full()),
        }
    }

    pub fn of_server(error: &ServerError) -> Failure {
        Failure::of_text(error.code(), error.details().unwrap_or_default())
    }

    pub fn of_error(error: &RedisError) -> Failure {
        if error.is_timeout() {
            return Failure::Late;
        }
        if error.is_io_error() || error.is_connection_dropped() || error.is_unrecoverable_error() {
            return Failure::Closed(error.to_string());
        }
        match error.code() {
            Some(code) => Failure::of_text(code, error.detail().unwrap_or_default()),
            None => Failure::Closed(error.to_string()),
        }
    }

    /// What the caller of the operation is told.
    pub fn into_store_error(self) -> StoreError {
        match self {
            Failure::Full => StoreError::Full { what: "the store's memory" },
            Failure::Unreadable(reason) => StoreError::Unreadable { reason },
            _ => StoreError::Unavailable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_told_apart() {
        assert_eq!(Failure::of_text("MOVED", "3999 127.0.0.1:6381"), Failure::Moved);
        assert_eq!(Failure::of_text("ASK", "3999 127.0.0.1:6381"), Failure::Ask("127.0.0.1:6381".into()));
        assert_eq!(Failure::of_text("ERR", "Function not found"), Failure::NoFunction);
        assert_eq!(Failure::of_text("OOM", "command not allowed"), Failure::Full);
        assert!(matches!(Failure::of_text("NOREPLICAS", "Not enough good replicas"), Failure::Cannot(_)));
        assert!(matches!(Failure::of_text("NOAUTH", "Authentication required."), Failure::Cannot(_)));
        assert!(matches!(Failure::of_text("LAYOUT", "dialog 9"), Failure::Unreadable(_)));
    }
}
