//! The pieces of RFC 3261 section 25.1 that the fields are made of.

use std::fmt;

use super::{HeaderError, MAX_BYTES};

/// Whether the text is an RFC 3261 token.
#[must_use]
pub fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_token_byte)
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'!' | b'%' | b'*' | b'_' | b'+' | b'`' | b'\'' | b'~')
}

/// A generic parameter, kept as it was sent: name and value with quotes and escapes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Parameter {
    name: String,
    value: Option<String>,
}

impl Parameter {
    /// A parameter of our own.
    ///
    /// # Errors
    /// The name is no token, or the value neither a token or host nor a quoted string.
    pub fn new(name: &str, value: Option<&str>) -> Result<Parameter, HeaderError> {
        let text = match value {
            Some(value) => format!("{name}={value}"),
            None => name.to_owned(),
        };
        let mut cursor = Cursor::new(text.as_bytes())?;
        let parameter = cursor.parameter()?;
        if cursor.peek().is_some() {
            return cursor.expected("the end of the parameter");
        }
        Ok(parameter)
    }

    /// The name as sent. Names compare without regard to case.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The value as sent, quotes included.
    #[must_use]
    pub fn raw_value(&self) -> Option<&str> {
        self.value.as_deref()
    }

    /// Whether the value is a quoted string.
    #[must_use]
    pub fn is_quoted(&self) -> bool {
        self.value.as_ref().is_some_and(|value| value.starts_with('"'))
    }

    /// The value without quotes and quoted pairs.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        let value = self.value.as_ref()?;
        let Some(inside) = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')) else {
            return Some(value.clone());
        };
        let mut text = String::with_capacity(inside.len());
        let mut escaped = false;
        for c in inside.chars() {
            if c == '\\' && !escaped {
                escaped = true;
            } else {
                text.push(c);
                escaped = false;
            }
        }
        Some(text)
    }
}

impl fmt::Display for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(value) = &self.value {
            write!(f, "={value}")?;
        }
        Ok(())
    }
}

/// Whether this parameter name is already taken in an entry.
pub(super) fn check_new<'a>(mut taken: impl Iterator<Item = &'a str>, name: &str) -> Result<(), HeaderError> {
    if taken.any(|other| other.eq_ignore_ascii_case(name)) {
        Err(HeaderError::Duplicate(name.to_owned()))
    } else {
        Ok(())
    }
}

/// Walks a header value. White space (folds included) may stand before every piece.
pub(super) struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(value: &'a [u8]) -> Result<Cursor<'a>, HeaderError> {
        if value.len() > MAX_BYTES {
            return Err(HeaderError::TooLong);
        }
        let text = std::str::from_utf8(value).map_err(|_| HeaderError::NotUtf8)?;
        Ok(Cursor { text, at: 0 })
    }

    fn rest(&self) -> &'a [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or(&[])
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    pub(super) fn peek(&mut self) -> Option<u8> {
        loop {
            match self.rest() {
                [b' ' | b'\t', ..] => self.at += 1,
                [b'\r', b'\n', b' ' | b'\t', ..] => self.at += 3,
                rest => return rest.first().copied(),
            }
        }
    }

    /// Takes this byte if it is the next.
    pub(super) fn take(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        if there {
            self.at += 1;
        }
        there
    }

    pub(super) fn expected<T>(&self, expected: &'static str) -> Result<T, HeaderError> {
        Err(HeaderError::Syntax { expected, at: self.at })
    }

    pub(super) fn token(&mut self) -> Result<&'a str, HeaderError> {
        self.peek();
        let len = self.rest().iter().take_while(|b| is_token_byte(**b)).count();
        self.span(len, "a token")
    }

    /// The next `len` bytes, at least one.
    fn span(&mut self, len: usize, expected: &'static str) -> Result<&'a str, HeaderError> {
        match self.text.get(self.at..self.at + len) {
            Some(text) if len > 0 => {
                self.at += len;
                Ok(text)
            }
            _ => self.expected(expected),
        }
    }

    /// A list without quotes (lenient mode). It goes on over commas, but not into the next parameter: a comma before
    /// `name=` ends it.
    pub(super) fn loose_list(&mut self) -> Result<&'a str, HeaderError> {
        self.peek();
        let start = self.at;
        loop {
            self.peek();
            let stop =
                |b: &u8| matches!(b, b',' | b';' | b'"' | b'=') || b.is_ascii_whitespace() || b.is_ascii_control();
            self.at += self.rest().iter().take_while(|b| !stop(b)).count();
            let end = self.at;
            if !self.take(b',') || self.is_parameter_ahead() {
                self.at = end;
                return match self.text.get(start..end) {
                    Some(text) if !text.is_empty() => Ok(text),
                    _ => self.expected("a list"),
                };
            }
        }
    }

    fn is_parameter_ahead(&mut self) -> bool {
        let here = self.at;
        let ahead = self.token().is_ok() && self.take(b'=');
        self.at = here;
        ahead
    }

    /// A quoted string with its quotes.
    pub(super) fn quoted(&mut self) -> Result<&'a str, HeaderError> {
        if self.peek() != Some(b'"') {
            return self.expected("a quoted string");
        }
        let mut escaped = false;
        for (index, byte) in self.rest().iter().enumerate().skip(1) {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => return self.span(index + 1, "a quoted string"),
                // A fold inside quotes was unfolded before, or is no header value any more.
                0..=8 | 10..=31 | 127 => break,
                _ => {}
            }
        }
        self.expected("the closing quote")
    }

    /// `generic-param = token [ EQUAL gen-value ]`, `gen-value = token / host / quoted-string`.
    pub(super) fn parameter(&mut self) -> Result<Parameter, HeaderError> {
        let name = self.token()?.to_owned();
        let value = if self.take(b'=') { Some(self.generic_value()?.to_owned()) } else { None };
        Ok(Parameter { name, value })
    }

    pub(super) fn generic_value(&mut self) -> Result<&'a str, HeaderError> {
        match self.peek() {
            Some(b'"') => self.quoted(),
            Some(b'[') => {
                let inside = |b: &u8| b.is_ascii_hexdigit() || matches!(b, b'[' | b':' | b'.');
                let len = self.rest().iter().take_while(|b| inside(b)).count();
                if self.rest().get(len) != Some(&b']') {
                    return self.expected("an IPv6 reference");
                }
                self.span(len + 1, "an IPv6 reference")
            }
            _ => self.token(),
        }
    }

    /// Goes back to a position that [`Self::position`] gave.
    pub(super) fn rewind(&mut self, position: usize) {
        self.at = position;
    }
}
