//! JSON-RPC ids and progress tokens, kept as they are written: string stays string, number stays number (5.5).

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;

use super::scan::{Scanner, Type, unescape};
use crate::exchange::base64url;

/// An id or progress token as JSON text: a string literal with its quotes, or an integer.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RawId(Bytes);

/// Why a JSON value is no id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// `null`: nothing could be correlated with it.
    #[error("the id is null")]
    Null,
    /// Neither a string nor a number.
    #[error("the id is neither a string nor a number")]
    Type,
    /// A fraction, an exponent, -0, or outside of 64 bits: it would come back changed from most peers.
    #[error("the id is a number that does not survive")]
    Number,
    /// A string that holds an escape which names no character.
    #[error("the id is a string that names no text")]
    Text,
    /// Longer than the limit.
    #[error("the id is longer than {0} bytes")]
    TooLong(usize),
}

/// Checks the text of one JSON value, already known to be well-formed, as an id.
pub(super) fn check(raw: &[u8], limit: usize) -> Result<(), IdError> {
    match raw.first() {
        Some(b'n') => return Err(IdError::Null),
        Some(b'"' | b'-' | b'0'..=b'9') => {}
        _ => return Err(IdError::Type),
    }
    if raw.len() > limit {
        return Err(IdError::TooLong(limit));
    }
    if raw.first() == Some(&b'"') {
        return unescape(raw).map(drop).ok_or(IdError::Text);
    }
    let integer = std::str::from_utf8(raw).ok().and_then(|text| text.parse::<i64>().ok());
    match integer {
        Some(0) if raw != b"0" => Err(IdError::Number),
        Some(_) => Ok(()),
        None => Err(IdError::Number),
    }
}

impl RawId {
    /// Longest id that is read from text, in bytes.
    pub const MAX: usize = 256;

    /// An id from JSON text.
    ///
    /// # Errors
    /// The text is no string and no integer of 64 bits, or too long.
    pub fn parse(raw: impl Into<Bytes>) -> Result<RawId, IdError> {
        let raw = raw.into();
        if raw.len() > RawId::MAX {
            return Err(IdError::TooLong(RawId::MAX));
        }
        if std::str::from_utf8(&raw).is_err() {
            return Err(IdError::Type);
        }
        let mut scanner = Scanner::new(&raw, 1);
        let value = scanner.value(0).map_err(|_| IdError::Type)?;
        if value.span.len() != raw.len() || matches!(value.kind, Type::Object | Type::Array) {
            return Err(IdError::Type);
        }
        check(&raw, RawId::MAX)?;
        Ok(RawId(raw))
    }

    /// A number id.
    #[must_use]
    pub fn number(number: i64) -> RawId {
        RawId(Bytes::from(number.to_string()))
    }

    /// A string id.
    ///
    /// # Errors
    /// Longer than 256 bytes as JSON.
    pub fn string(text: &str) -> Result<RawId, IdError> {
        RawId::parse(serde_json::Value::from(text).to_string())
    }

    /// An id of our own from random bytes, as a base64url string. 16 bytes are 128 bits (SEC-8 asks for 64 at least).
    #[must_use]
    pub fn from_random(random: &[u8; 16]) -> RawId {
        RawId(Bytes::from(format!("\"{}\"", base64url(random))))
    }

    /// From a span that the parser checked already.
    pub(super) fn from_checked(raw: Bytes) -> Option<RawId> {
        matches!(raw.first(), Some(b'"' | b'-' | b'0'..=b'9')).then_some(RawId(raw))
    }

    /// The JSON text.
    #[must_use]
    pub fn raw(&self) -> &Bytes {
        &self.0
    }

    /// The JSON text as `str`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // A RawId is made from checked UTF-8 only; the empty string is never seen.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// Whether it is a string.
    #[must_use]
    pub fn is_string(&self) -> bool {
        self.0.first() == Some(&b'"')
    }

    /// The text of a string id without quotes and escapes; the digits of a number.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        if self.is_string() { unescape(&self.0).unwrap_or_default() } else { Cow::Borrowed(self.as_str()) }
    }

    /// The same id in the one spelling that all spellings share: a peer that re-writes our JSON may escape a string
    /// differently. `1` and `"1"` stay different. Use it as a key, never on the wire.
    #[must_use]
    pub fn canonical(&self) -> RawId {
        if self.is_string() && self.0.contains(&b'\\') {
            RawId(Bytes::from(serde_json::Value::from(self.text()).to_string()))
        } else {
            self.clone()
        }
    }

    /// Whether both name the same id, however they are written.
    #[must_use]
    pub fn same(&self, other: &RawId) -> bool {
        self.0 == other.0 || self.canonical().0 == other.canonical().0
    }
}

impl fmt::Debug for RawId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RawId({})", self.as_str())
    }
}

impl fmt::Display for RawId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
