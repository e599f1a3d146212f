//! Eras and versions (design 2, 5.1): *modern* is MCP 2026-07-28, stateless; *legacy* is 2025-11-25 and older, opened
//! by `initialize`. The era is decided per relation, by what was negotiated or by the first message.

mod detect;
mod mirror;

pub use detect::{Established, RelationEra};
pub use mirror::{Annotations, MirrorError, mirrors};

/// Which MCP a leg speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Era {
    /// 2025-11-25 and older.
    Legacy,
    /// 2026-07-28.
    Modern,
}

/// The modern versions, newest first.
pub const MODERN: [&str; 1] = ["2026-07-28"];
/// The legacy versions, newest first.
pub const LEGACY: [&str; 4] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];

impl Era {
    /// The era of a version that we know.
    #[must_use]
    pub fn of_version(version: &str) -> Option<Era> {
        if MODERN.contains(&version) {
            Some(Era::Modern)
        } else if LEGACY.contains(&version) {
            Some(Era::Legacy)
        } else {
            None
        }
    }

    /// `modern` or `legacy`: for records, metrics, logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Era::Legacy => "legacy",
            Era::Modern => "modern",
        }
    }
}

impl std::fmt::Display for Era {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether a token has the form of an MCP version: `2026-07-28`.
#[must_use]
pub fn is_date_token(token: &str) -> bool {
    let bytes = token.as_bytes();
    bytes.len() == 10
        && bytes.iter().enumerate().all(|(i, b)| if i == 4 || i == 7 { *b == b'-' } else { b.is_ascii_digit() })
}
