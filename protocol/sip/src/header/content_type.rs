//! Content-Type and Content-Disposition (RFC 3261 §20.11, §20.15, RFC 5621).

use std::borrow::Cow;
use std::fmt;

use super::Malformed;
use super::params::{self, Params};
use crate::chars::{Cursor, TOKEN, Why, text};

/// A media type with its parameters.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ContentType<'a> {
    raw: &'a [u8],
    typ: &'a [u8],
    subtype: &'a [u8],
    params: Params<'a>,
}

impl<'a> ContentType<'a> {
    /// Reads a value.
    ///
    /// # Errors
    /// When it breaks the grammar.
    pub fn parse(value: &'a [u8]) -> Result<ContentType<'a>, Malformed> {
        take(value).map_err(Malformed)
    }

    /// As written.
    #[must_use]
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// `application`, `multipart`, …, as written; compare without regard to case.
    #[must_use]
    pub fn typ(&self) -> &'a str {
        text(self.typ)
    }

    /// `sdp`, `mixed`, …, as written; compare without regard to case.
    #[must_use]
    pub fn subtype(&self) -> &'a str {
        text(self.subtype)
    }

    /// Parameters.
    #[must_use]
    pub fn params(&self) -> Params<'a> {
        self.params
    }

    /// A parameter without quotes.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<Cow<'a, str>> {
        self.params.get(name).map(|p| p.text())
    }

    /// Whether it is `media`, written `type/subtype`, whatever the parameters.
    #[must_use]
    pub fn is(&self, media: &str) -> bool {
        media
            .split_once('/')
            .is_some_and(|(t, s)| self.typ().eq_ignore_ascii_case(t) && self.subtype().eq_ignore_ascii_case(s))
    }

    /// `multipart/*`.
    #[must_use]
    pub fn is_multipart(&self) -> bool {
        self.typ.eq_ignore_ascii_case(b"multipart")
    }
}

impl AsRef<[u8]> for ContentType<'_> {
    fn as_ref(&self) -> &[u8] {
        self.raw
    }
}

impl fmt::Debug for ContentType<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentType({})", crate::escape::escape(self.raw))
    }
}

#[inline]
pub(crate) fn take(value: &[u8]) -> Result<ContentType<'_>, Why> {
    let mut cursor = Cursor::new(value);
    let typ = cursor.run(TOKEN);
    cursor.skip_lws();
    if typ.is_empty() || !cursor.eat(b'/') {
        return Err("no media type");
    }
    cursor.skip_lws();
    let subtype = cursor.run(TOKEN);
    if subtype.is_empty() {
        return Err("no media subtype");
    }
    let params =
        params::take(&mut cursor, |_, value| if value.is_some() { Ok(()) } else { Err("parameter without value") })?;
    cursor.skip_lws();
    if !cursor.at_end() {
        return Err("octets after the media type");
    }
    Ok(ContentType { raw: value, typ, subtype, params })
}

/// What to do with a body that is not understood (RFC 5621 §8.2; RFC 3261 §20.11).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Handling {
    /// Refuse with 415. This is so when nothing is said.
    #[default]
    Required,
    /// Pass over it.
    Optional,
}

/// `session`, `render`, … with parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentDisposition<'a> {
    kind: &'a [u8],
    params: Params<'a>,
}

impl<'a> ContentDisposition<'a> {
    /// Reads a value.
    ///
    /// # Errors
    /// When it breaks the grammar.
    pub fn parse(value: &'a [u8]) -> Result<ContentDisposition<'a>, Malformed> {
        let mut cursor = Cursor::new(value);
        cursor.skip_lws();
        let kind = cursor.run(TOKEN);
        if kind.is_empty() {
            return Err(Malformed("no disposition"));
        }
        let params = params::take(&mut cursor, |_, _| Ok(())).map_err(Malformed)?;
        cursor.skip_lws();
        if !cursor.at_end() {
            return Err(Malformed("octets after the disposition"));
        }
        Ok(ContentDisposition { kind, params })
    }

    /// As written; compare without regard to case.
    #[must_use]
    pub fn kind(&self) -> &'a str {
        text(self.kind)
    }

    /// Parameters.
    #[must_use]
    pub fn params(&self) -> Params<'a> {
        self.params
    }

    /// `handling`; a value that is not known counts as required, as an absent one does.
    #[must_use]
    pub fn handling(&self) -> Handling {
        match self.params.get("handling") {
            Some(p) if p.text().eq_ignore_ascii_case("optional") => Handling::Optional,
            _ => Handling::Required,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types() {
        let t = ContentType::parse(b"multipart / Mixed ;boundary=\"a b\"; x=y").unwrap();
        assert!(t.is("Multipart/mixed") && t.is_multipart() && !t.is("multipart") && !t.is("application/sdp"));
        assert_eq!(t.param("Boundary").unwrap(), "a b");
        for bad in
            [&b""[..], b"text", b"text/", b"/plain", b"text/plain;charset", b"text/plain x", b"text/plain,text/html"]
        {
            assert!(ContentType::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn neg_14_handling_is_required_unless_it_says_optional() {
        let handling = |v: &'static str| ContentDisposition::parse(v.as_bytes()).unwrap().handling();
        assert_eq!(handling("session"), Handling::Required);
        assert_eq!(handling("session;handling=optional"), Handling::Optional);
        assert_eq!(handling("render ; Handling = \"Optional\""), Handling::Optional);
        assert_eq!(handling("render;handling=whatever"), Handling::Required);
        assert!(ContentDisposition::parse(b";handling=optional").is_err());
    }
}
