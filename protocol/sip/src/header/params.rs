//! `*( SEMI generic-param )` (RFC 3261 §25.1).

use std::borrow::Cow;
use std::fmt;

use super::Malformed;
use crate::chars::{Cursor, TOKEN, VALUE, Why, text};

/// Parameters of a header value, as written.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Params<'a>(&'a [u8]);

/// One parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param<'a> {
    /// As written; compare without regard to case.
    pub name: &'a str,
    /// As written, a quoted string with its quotes. `None`: no `=`.
    pub value: Option<&'a str>,
}

impl<'a> Param<'a> {
    /// The value without quotes and quoted pairs; empty when there is none.
    #[must_use]
    pub fn text(&self) -> Cow<'a, str> {
        self.value.map_or(Cow::Borrowed(""), unquote)
    }
}

impl<'a> Params<'a> {
    /// Reads parameters that stand alone; they begin with `;`, or there are none.
    ///
    /// # Errors
    /// When a name or a value breaks the grammar, or something follows.
    pub fn parse(params: &'a [u8]) -> Result<Params<'a>, Malformed> {
        let mut cursor = Cursor::new(params);
        let params = take(&mut cursor, |_, _| Ok(())).map_err(Malformed)?;
        if cursor.at_end() { Ok(params) } else { Err(Malformed("octets after the parameters")) }
    }

    /// As written, with the leading `;`, or empty.
    #[must_use]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    /// In order.
    #[must_use]
    pub fn iter(&self) -> Iter<'a> {
        Iter(Cursor::new(self.0))
    }

    /// The parameter of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Param<'a>> {
        self.iter().find(|p| p.name.eq_ignore_ascii_case(name))
    }

    /// Whether it is there, with or without a value.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Its value as written; `None` also for a parameter without a value.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&'a str> {
        self.get(name).and_then(|p| p.value)
    }
}

impl<'a> IntoIterator for Params<'a> {
    type Item = Param<'a>;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl fmt::Debug for Params<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Iterator over [`Params`].
#[derive(Clone, Debug)]
pub struct Iter<'a>(Cursor<'a>);

impl<'a> Iterator for Iter<'a> {
    type Item = Param<'a>;

    fn next(&mut self) -> Option<Param<'a>> {
        // Checked before, so an error cannot be; the end and an error look alike here.
        let (name, value) = one(&mut self.0).ok().flatten()?;
        Some(Param { name: text(name), value: value.map(text) })
    }
}

/// Name and value, as written.
type Pair<'a> = (&'a [u8], Option<&'a [u8]>);

/// One `; name [= value]` if a semicolon is next.
#[inline(always)]
fn one<'a>(cursor: &mut Cursor<'a>) -> Result<Option<Pair<'a>>, Why> {
    let before = cursor.position();
    cursor.skip_lws();
    if !cursor.eat(b';') {
        cursor.seek(before);
        return Ok(None);
    }
    cursor.skip_lws();
    let name = cursor.run(TOKEN);
    if name.is_empty() {
        return Err("empty parameter");
    }
    let after_name = cursor.position();
    cursor.skip_lws();
    if !cursor.eat(b'=') {
        cursor.seek(after_name);
        return Ok(Some((name, None)));
    }
    cursor.skip_lws();
    let value = value(cursor)?;
    Ok(Some((name, Some(value))))
}

/// A token, a host, or a quoted string that is UTF-8.
#[inline(always)]
pub(crate) fn value<'a>(cursor: &mut Cursor<'a>) -> Result<&'a [u8], Why> {
    if cursor.peek() == Some(b'"') {
        let quoted = cursor.quoted()?;
        if !quoted.is_ascii() && std::str::from_utf8(quoted).is_err() {
            return Err("parameter value is not UTF-8");
        }
        return Ok(quoted);
    }
    let value = cursor.run(VALUE);
    if value.is_empty() { Err("empty parameter value") } else { Ok(value) }
}

/// All parameters from here on; `seen` is asked about each. White space behind the last one is left.
#[inline]
pub(crate) fn take<'a>(
    cursor: &mut Cursor<'a>,
    mut seen: impl FnMut(&'a [u8], Option<&'a [u8]>) -> Result<(), Why>,
) -> Result<Params<'a>, Why> {
    cursor.skip_lws();
    let start = cursor.position();
    while let Some((name, value)) = one(cursor)? {
        seen(name, value)?;
    }
    Ok(Params(cursor.since(start)))
}

/// Text of a token or of a quoted string: quotes off, quoted pairs resolved, folds turned into one space.
#[must_use]
pub fn unquote(value: &str) -> Cow<'_, str> {
    let Some(inner) = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')) else {
        return Cow::Borrowed(value);
    };
    if !inner.contains(['\\', '\r', '\n']) {
        return Cow::Borrowed(inner);
    }
    let mut out = String::with_capacity(inner.len());
    let mut chars = inner.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.extend(chars.next()),
            '\r' | '\n' => {
                while chars.next_if(|c| matches!(c, '\r' | '\n' | ' ' | '\t')).is_some() {}
                out.push(' ');
            }
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// A quoted string whose content is `text`; CR, LF and NUL become spaces.
#[must_use]
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_ascii_control() && c != '\t' => out.push(' '),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_stay_byte_exact() {
        let raw = b";a ; b=\"x;\\\"y\" ;\r\n c = [::1];+mcp.cap=\"echo@1,urn:x:1\"";
        let params = Params::parse(raw).unwrap();
        assert_eq!(params.as_bytes(), raw);
        let all: Vec<_> = params.iter().map(|p| (p.name, p.value)).collect();
        assert_eq!(
            all,
            [("a", None), ("b", Some("\"x;\\\"y\"")), ("c", Some("[::1]")), ("+mcp.cap", Some("\"echo@1,urn:x:1\""))]
        );
        assert_eq!(params.get("B").unwrap().text(), "x;\"y");
        assert!(params.has("A") && params.value("A").is_none() && !params.has("d"));
    }

    #[test]
    fn broken_parameters_are_errors() {
        for bad in [&b";"[..], b";;", b";a=", b";a=\"x", b";a=\"\xff\"", b";a=b c", b"a", b";=b", b";a=@"] {
            assert!(Params::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn quoting_and_back() {
        for text in ["", "plain", "a \"b\" \\c", "ü"] {
            assert_eq!(unquote(&quote(text)), text);
        }
        assert_eq!(quote("a\r\nb\0"), "\"a  b \"");
        assert_eq!(unquote("\"a\r\n  b\""), "a b");
    }
}
