//! Octet classes of the SIP grammar (RFC 3261 §25.1) and the cursor that every header parser walks with.
//!
//! Parsers work on octets that the head scan has checked already: every line ends with CRLF, a CRLF inside a value is a
//! fold, a control octet stands only behind the backslash of a quoted pair. So CR and LF count as white space here.

/// `token`.
pub(crate) const TOKEN: u8 = 1;
/// Linear white space, folds included.
pub(crate) const LWS: u8 = 2;
/// `word`, of which a Call-ID is made.
pub(crate) const WORD: u8 = 4;
/// What a user part or a password may hold besides escapes.
pub(crate) const USER: u8 = 8;
/// Host names and IPv4 addresses; `_` is let through, container names have it.
pub(crate) const HOST: u8 = 16;
/// URI parameters with their `;` and `=`, besides escapes.
pub(crate) const URI_PARAM: u8 = 32;
/// Whatever a URI may hold at all, besides escapes.
pub(crate) const URI: u8 = 64;
/// An unquoted parameter value: a token or a host (IPv6 brackets and colons).
pub(crate) const VALUE: u8 = 128;

const fn is_one_of(b: u8, set: &[u8]) -> bool {
    let mut i = 0;
    while i < set.len() {
        if set[i] == b {
            return true;
        }
        i += 1;
    }
    false
}

const fn class_of(b: u8) -> u8 {
    let alnum = b.is_ascii_alphanumeric();
    let unreserved = alnum || is_one_of(b, b"-_.!~*'()");
    let mut class = 0;
    if alnum || is_one_of(b, b"-.!%*_+`'~") {
        class |= TOKEN | WORD | VALUE;
    }
    if is_one_of(b, b" \t\r\n") {
        class |= LWS;
    }
    if is_one_of(b, b"()<>:\\\"/[]?{}") {
        class |= WORD;
    }
    if unreserved || is_one_of(b, b"&=+$,;?/") {
        class |= USER;
    }
    if alnum || is_one_of(b, b"-._") {
        class |= HOST;
    }
    if unreserved || is_one_of(b, b"[]/:&+$;=") {
        class |= URI_PARAM;
    }
    if b > 0x20 && b < 0x7f && !is_one_of(b, b"<>\"\\^{}|`%") {
        class |= URI;
    }
    if is_one_of(b, b"[]:") {
        class |= VALUE;
    }
    class
}

static CLASSES: [u8; 256] = {
    let mut table = [0; 256];
    let mut b = 0;
    while b < 256 {
        table[b] = class_of(b as u8);
        b += 1;
    }
    table
};

/// Whether `b` belongs to one of the classes in `class`.
#[inline(always)]
pub(crate) fn is(b: u8, class: u8) -> bool {
    CLASSES[b as usize] & class != 0
}

/// Whether every octet belongs to `class`. True for nothing at all.
#[inline]
pub(crate) fn all(bytes: &[u8], class: u8) -> bool {
    bytes.iter().all(|&b| is(b, class))
}

/// A non-empty `token`.
#[inline]
pub(crate) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && all(bytes, TOKEN)
}

/// Every octet belongs to `class` or begins an escape: `%` and two hexadecimal digits.
#[inline]
pub(crate) fn all_escaped(bytes: &[u8], class: u8) -> bool {
    bytes.iter().all(|&b| is(b, class)) || (bytes.contains(&b'%') && all_or_escapes(bytes, class))
}

#[cold]
fn all_or_escapes(bytes: &[u8], class: u8) -> bool {
    let mut rest = bytes;
    loop {
        rest = match rest {
            [] => return true,
            [b'%', high, low, rest @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => rest,
            [b'%', ..] => return false,
            [b, rest @ ..] if is(*b, class) => rest,
            _ => return false,
        };
    }
}

/// Text of octets that were checked to be ASCII, or UTF-8 in a quoted string, when the value was parsed.
#[inline]
pub(crate) fn text(bytes: &[u8]) -> &str {
    // Invariant: callers pass slices of values whose parser accepted only ASCII classes and quoted strings that are UTF-8.
    std::str::from_utf8(bytes).expect("the value was checked to be UTF-8 when it was parsed")
}

/// Without white space and folds at both ends.
#[inline]
pub(crate) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = bytes
        && is(*first, LWS)
    {
        bytes = rest;
    }
    while let [rest @ .., last] = bytes
        && is(*last, LWS)
    {
        bytes = rest;
    }
    bytes
}

/// Digits only, and no more than `max`; leading zeros are legal.
#[inline]
pub(crate) fn number(digits: &[u8], max: u64) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    let mut value: u64 = 0;
    for &b in digits {
        if !b.is_ascii_digit() {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(u64::from(b - b'0'))?;
        if value > max {
            return None;
        }
    }
    Some(value)
}

/// Why a value could not be read, in a few words.
pub(crate) type Why = &'static str;

/// A position in a header value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    #[inline(always)]
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Cursor { bytes, at: 0 }
    }

    #[inline(always)]
    pub(crate) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    #[inline(always)]
    pub(crate) fn at_end(&self) -> bool {
        self.at >= self.bytes.len()
    }

    #[inline(always)]
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// Moves back (or forth) to a position that [`Cursor::position`] gave.
    #[inline(always)]
    pub(crate) fn seek(&mut self, at: usize) {
        self.at = at;
    }

    /// What lies between a position and here.
    #[inline(always)]
    pub(crate) fn since(&self, from: usize) -> &'a [u8] {
        &self.bytes[from..self.at]
    }

    #[inline(always)]
    pub(crate) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    /// Steps over `b` if it is next.
    #[inline(always)]
    pub(crate) fn eat(&mut self, b: u8) -> bool {
        let hit = self.peek() == Some(b);
        self.at += usize::from(hit);
        hit
    }

    /// Steps over `prefix` if it is next.
    #[inline(always)]
    pub(crate) fn eat_all(&mut self, prefix: &[u8]) -> bool {
        let hit = self.rest().starts_with(prefix);
        if hit {
            self.at += prefix.len();
        }
        hit
    }

    #[inline(always)]
    pub(crate) fn skip_lws(&mut self) {
        while let Some(b) = self.peek()
            && is(b, LWS)
        {
            self.at += 1;
        }
    }

    /// The longest run of octets of `class`; may be empty.
    #[inline(always)]
    pub(crate) fn run(&mut self, class: u8) -> &'a [u8] {
        let rest = self.rest();
        let len = rest.iter().position(|&b| !is(b, class)).unwrap_or(rest.len());
        self.at += len;
        &rest[..len]
    }

    /// A `quoted-string` with its quotes; the opening quote is next. No check of the encoding.
    #[inline]
    pub(crate) fn quoted(&mut self) -> Result<&'a [u8], Why> {
        let start = self.at;
        self.at += 1;
        loop {
            match self.peek() {
                None => return Err("unclosed quote"),
                Some(b'"') => {
                    self.at += 1;
                    return Ok(&self.bytes[start..self.at]);
                }
                Some(b'\\') => match self.bytes.get(self.at + 1) {
                    Some(0x80.. | b'\r' | b'\n') | None => return Err("broken quoted pair"),
                    Some(_) => self.at += 2,
                },
                Some(_) => self.at += 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_digits_with_a_limit() {
        assert_eq!(number(b"0068", 255), Some(68));
        assert_eq!(number(b"255", 255), Some(255));
        for bad in [&b""[..], b"256", b"-1", b"+1", b"1 ", b"36893488147419103232"] {
            assert_eq!(number(bad, 255), None, "{bad:?}");
        }
    }

    #[test]
    fn escapes_need_two_hexadecimal_digits() {
        assert!(all_escaped(b"a%20b%fF", USER));
        for bad in [&b"%"[..], b"%2", b"%zz", b"a%2"] {
            assert!(!all_escaped(bad, USER), "{bad:?}");
        }
    }

    #[test]
    fn quoted_strings_end_at_the_first_bare_quote() {
        let mut c = Cursor::new(b"\"a \\\" b\\\\\" rest");
        assert_eq!(c.quoted().unwrap(), b"\"a \\\" b\\\\\"");
        assert_eq!(c.rest(), b" rest");
        assert!(Cursor::new(b"\"open").quoted().is_err());
        assert!(Cursor::new(b"\"open\\").quoted().is_err());
        assert!(Cursor::new(b"\"a\\\r\n \"").quoted().is_err());
    }
}
