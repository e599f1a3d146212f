//! `name-addr / addr-spec` with header parameters: From, To, Contact, Route, Record-Route, Path, Service-Route, Refer-To,
//! Referred-By, P-Asserted-Identity (RFC 3261 §20.10, §20.20, §20.34).

use std::borrow::Cow;
use std::fmt;

use super::Malformed;
use super::params::{self, Param, Params};
use crate::chars::{self, Cursor, LWS, TOKEN, Why, text, trim};
use crate::uri::{self, Uri};

/// One address with its display name and parameters, as written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct NameAddr<'a> {
    raw: &'a [u8],
    display: &'a [u8],
    uri: &'a [u8],
    params: Params<'a>,
}

impl<'a> NameAddr<'a> {
    /// Reads one value.
    ///
    /// # Errors
    /// When quotes, brackets, the URI or a parameter are broken, or a second value follows.
    pub fn parse(value: &'a [u8]) -> Result<NameAddr<'a>, Malformed> {
        let mut cursor = Cursor::new(value);
        let addr = take(&mut cursor, |_, _| Ok(())).map_err(Malformed)?;
        if cursor.at_end() { Ok(addr) } else { Err(Malformed("octets after the address")) }
    }

    /// The whole value as written.
    #[must_use]
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// Display name as written, a quoted string with its quotes. May be in no known encoding.
    #[must_use]
    pub fn display_raw(&self) -> Option<&'a [u8]> {
        (!self.display.is_empty()).then_some(self.display)
    }

    /// Display name without quotes and quoted pairs. Octets that are no UTF-8 become U+FFFD.
    #[must_use]
    pub fn display_name(&self) -> Option<Cow<'a, str>> {
        self.display_raw().map(|raw| match String::from_utf8_lossy(raw) {
            Cow::Borrowed(name) => params::unquote(name),
            Cow::Owned(name) => Cow::Owned(params::unquote(&name).into_owned()),
        })
    }

    /// The URI as written, without brackets.
    #[must_use]
    pub fn uri(&self) -> &'a str {
        text(self.uri)
    }

    /// The URI, typed.
    #[must_use]
    pub fn typed_uri(&self) -> Uri<'a> {
        // Invariant: `take` accepted it with this very function.
        uri::parse(self.uri).expect("the URI was checked when the address was parsed")
    }

    /// Header parameters.
    #[must_use]
    pub fn params(&self) -> Params<'a> {
        self.params
    }

    /// One header parameter by name.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<Param<'a>> {
        self.params.get(name)
    }

    /// `tag` of From and To.
    #[must_use]
    pub fn tag(&self) -> Option<&'a str> {
        self.params.value("tag")
    }

    /// `expires` of a Contact, seconds.
    #[must_use]
    pub fn expires(&self) -> Option<u32> {
        self.params.value("expires").and_then(|v| v.parse().ok())
    }

    /// `q` of a Contact in thousandths, 0 to 1000.
    #[must_use]
    pub fn q(&self) -> Option<u16> {
        self.params.value("q").and_then(|v| qvalue(v.as_bytes()))
    }
}

impl fmt::Debug for NameAddr<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NameAddr({})", crate::escape::escape(self.raw))
    }
}

/// `0(.ddd)` or `1(.000)` in thousandths (RFC 3261 §25.1 `qvalue`).
fn qvalue(value: &[u8]) -> Option<u16> {
    let (whole, decimals) = match value {
        [whole] => (whole, &value[..0]),
        [whole, b'.', decimals @ ..] if decimals.len() <= 3 => (whole, decimals),
        _ => return None,
    };
    let mut thousandths = match whole {
        b'0' => 0,
        b'1' => 1000,
        _ => return None,
    };
    let mut unit = 100;
    for d in decimals {
        if !d.is_ascii_digit() {
            return None;
        }
        thousandths += unit * u16::from(d - b'0');
        unit /= 10;
    }
    (thousandths <= 1000).then_some(thousandths)
}

/// One value from here on; stops before the comma or at the end. `seen` is asked about each header parameter.
#[inline]
pub(crate) fn take<'a>(
    cursor: &mut Cursor<'a>,
    seen: impl FnMut(&'a [u8], Option<&'a [u8]>) -> Result<(), Why>,
) -> Result<NameAddr<'a>, Why> {
    cursor.skip_lws();
    let start = cursor.position();
    let mut display = cursor.since(start);
    let uri = match cursor.peek() {
        Some(b'<') => bracketed(cursor)?,
        Some(b'"') => {
            display = cursor.quoted()?;
            cursor.skip_lws();
            if cursor.peek() != Some(b'<') {
                return Err("no address after the display name");
            }
            bracketed(cursor)?
        }
        Some(_) => match unquoted_display(cursor) {
            Some(name) => {
                display = name;
                bracketed(cursor)?
            }
            None => bare(cursor)?,
        },
        None => return Err("empty address"),
    };
    uri::parse(uri)?;
    let params = params::take(cursor, seen)?;
    let raw = trim(cursor.since(start));
    cursor.skip_lws();
    if cursor.at_end() || cursor.peek() == Some(b',') {
        Ok(NameAddr { raw, display, uri, params })
    } else {
        Err("octets after the address")
    }
}

/// `<URI>`; no white space inside (RFC 4475 §3.1.2.14).
#[inline]
fn bracketed<'a>(cursor: &mut Cursor<'a>) -> Result<&'a [u8], Why> {
    cursor.eat(b'<');
    let start = cursor.position();
    let len = memchr::memchr(b'>', cursor.rest()).ok_or("unclosed bracket")?;
    cursor.seek(start + len);
    let uri = cursor.since(start);
    cursor.eat(b'>');
    Ok(uri)
}

/// A display name of tokens, when a `<` follows it; else the cursor stays. Octets beyond ASCII are let through: old
/// phones write names in Latin-1, and nothing structural hides in them.
#[inline]
fn unquoted_display<'a>(cursor: &mut Cursor<'a>) -> Option<&'a [u8]> {
    let start = cursor.position();
    while let Some(b) = cursor.peek() {
        if b == b'<' {
            return Some(trim(cursor.since(start)));
        }
        if !chars::is(b, TOKEN | LWS) && b < 0x80 {
            break;
        }
        cursor.seek(cursor.position() + 1);
    }
    cursor.seek(start);
    None
}

/// An `addr-spec` without brackets: ends at `;`, `,` or white space, so parameters belong to the header; a `?` must not
/// stand in it (RFC 3261 §20.10).
#[inline]
fn bare<'a>(cursor: &mut Cursor<'a>) -> Result<&'a [u8], Why> {
    let start = cursor.position();
    while let Some(b) = cursor.peek() {
        match b {
            b';' | b',' => break,
            b'?' => return Err("a URI with a question mark needs brackets"),
            b if chars::is(b, LWS) => break,
            _ => cursor.seek(cursor.position() + 1),
        }
    }
    Ok(cursor.since(start))
}

/// Checks for From and To: one value, at most one tag, which has a value.
#[inline]
pub(crate) fn check_single(value: &[u8]) -> Result<(), Why> {
    let mut cursor = Cursor::new(value);
    let mut tag = false;
    take(&mut cursor, |name, value| {
        if name.len() == 3 && name.eq_ignore_ascii_case(b"tag") {
            if tag || !value.is_some_and(chars::is_token) {
                return Err("tag twice or without value");
            }
            tag = true;
        }
        Ok(())
    })?;
    if cursor.at_end() { Ok(()) } else { Err("more than one address") }
}

/// Checks a comma list of addresses and counts them; for Contact also `expires` and `q` (RFC 4475 §3.1.2.4).
#[inline]
pub(crate) fn check_list(value: &[u8], contact: bool) -> Result<usize, Why> {
    let mut cursor = Cursor::new(value);
    let mut count = 0;
    loop {
        let (mut expires, mut q) = (false, false);
        take(&mut cursor, |name, value| {
            if !contact {
                return Ok(());
            }
            if name.len() == 7 && name.eq_ignore_ascii_case(b"expires") {
                if expires || value.and_then(|v| chars::number(v, u64::from(u32::MAX))).is_none() {
                    return Err("expires twice or out of range");
                }
                expires = true;
            } else if name.len() == 1 && name.eq_ignore_ascii_case(b"q") {
                if q || value.and_then(qvalue).is_none() {
                    return Err("q twice or out of range");
                }
                q = true;
            }
            Ok(())
        })?;
        count += 1;
        if !cursor.eat(b',') {
            return Ok(count);
        }
    }
}

/// What the Contact lines of a message say.
#[derive(Clone, Debug)]
pub enum Contacts<'a> {
    /// `Contact: *` and nothing else.
    Star,
    /// Every value of every line in order; nothing when there is no Contact.
    List(ContactList<'a>),
}

impl<'a> Contacts<'a> {
    /// `Contact: *`.
    #[must_use]
    pub fn is_star(&self) -> bool {
        matches!(self, Contacts::Star)
    }

    /// The values; none for `*`.
    #[must_use]
    pub fn iter(&self) -> ContactList<'a> {
        match self {
            Contacts::Star => ContactList::default(),
            Contacts::List(list) => list.clone(),
        }
    }

    /// The first value.
    #[must_use]
    pub fn first(&self) -> Option<NameAddr<'a>> {
        self.iter().next()
    }

    /// Neither `*` nor any value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.is_star() && self.first().is_none()
    }
}

/// The values of all Contact lines.
pub type ContactList<'a> = NameAddrs<'a>;

/// Values of all lines of one header; asked only of lines that were checked.
#[derive(Clone, Debug, Default)]
pub struct NameAddrs<'a> {
    pub(crate) lines: crate::message::Lines<'a>,
    pub(crate) line: Option<Cursor<'a>>,
}

impl<'a> Iterator for NameAddrs<'a> {
    type Item = NameAddr<'a>;

    fn next(&mut self) -> Option<NameAddr<'a>> {
        loop {
            if let Some(cursor) = &mut self.line {
                if let Ok(addr) = take(cursor, |_, _| Ok(())) {
                    if !cursor.eat(b',') {
                        self.line = None;
                    }
                    return Some(addr);
                }
                self.line = None;
            }
            self.line = Some(Cursor::new(self.lines.next()?));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(value: &str) -> NameAddr<'_> {
        NameAddr::parse(value.as_bytes()).unwrap_or_else(|e| panic!("{value}: {e}"))
    }

    #[test]
    fn forms_of_an_address() {
        let a = addr("\"Bell, \\\"A\\\"\"  <sip:bell@example.com;lr> ; tag = 43 ;x");
        assert_eq!(a.display_name().unwrap(), "Bell, \"A\"");
        assert_eq!(a.uri(), "sip:bell@example.com;lr");
        assert_eq!(a.tag(), Some("43"));
        assert!(a.typed_uri().sip().unwrap().is_loose_router());
        let a = addr("token1~` token2'+_ token3*%!.- <sip:mundane@example.com>;tag=_token~1'+`*%!-.");
        assert_eq!(a.display_name().unwrap(), "token1~` token2'+_ token3*%!.-");
        assert_eq!(addr("caller<sip:caller@example.com>;tag=323").display_name().unwrap(), "caller");
        assert_eq!(addr("<sip:a@b>").display_raw(), None);
    }

    #[test]
    fn probe_addr_spec_form_keeps_the_tag_out_of_the_uri() {
        let a = addr("sip:a@e;tag=T");
        assert_eq!((a.uri(), a.tag()), ("sip:a@e", Some("T")));
        assert_eq!(addr("sip:vivekg@chair-dnrc.example.com ;   tag    = 1918181833n").tag(), Some("1918181833n"));
    }

    #[test]
    fn reg_1_contact_parameters_stay_byte_exact() {
        let value = "<sip:a@192.0.2.1:5060;transport=tcp>;+mcp;+mcp.ver=\"2025-11-25\";+mcp.cap=\"summarize@1,urn:ex:doc:1\"\
                     ;+sip.instance=\"<urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6>\";reg-id=1;expires=3600;q=0.7";
        let a = addr(value);
        assert_eq!(a.raw(), value.as_bytes());
        assert_eq!(a.param("+mcp"), Some(Param { name: "+mcp", value: None }));
        assert_eq!(a.param("+mcp.cap").unwrap().value, Some("\"summarize@1,urn:ex:doc:1\""));
        assert_eq!(a.param("+sip.instance").unwrap().text(), "<urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6>");
        assert_eq!((a.expires(), a.q()), (Some(3600), Some(700)));
        assert_eq!(check_list(value.as_bytes(), true), Ok(1));
    }

    #[test]
    fn latin_1_in_a_display_name_passes() {
        let a = NameAddr::parse(b"\"Jos\xe9\" <sip:jose@example.com>;tag=1").unwrap();
        assert_eq!(a.display_name().unwrap(), "Jos\u{fffd}");
        assert_eq!(NameAddr::parse(b"Jos\xe9 <sip:jose@example.com>").unwrap().display_raw(), Some(&b"Jos\xe9"[..]));
    }

    #[test]
    fn broken_addresses_are_errors() {
        for bad in [
            "",
            "\"Mr. J. User <sip:j.user@example.com>",
            "\"Watson, Thomas\" < sip:t.watson@example.org >",
            "<sip:a@b",
            "\"x\" sip:a@b",
            "Bell, Alexander <sip:a.g.bell@example.com>;tag=43",
            "sip:user@example.com?Route=x",
            "<sip:a@b>;;",
            "<sip:a@b>;",
            "<sip:a@b> x",
            "<>",
            "a b",
            "<<sip:a@b>>",
            "<sip:a@b>>",
            "sip:a@b;tag=",
            "sip:a@b, sip:c@d",
            "<sip:a@b>\"x\"",
        ] {
            assert!(NameAddr::parse(bad.as_bytes()).is_err(), "{bad:?} was taken for an address");
        }
        assert!(check_single(b"<sip:a@b>;tag=1;tag=2").is_err());
        assert!(check_single(b"<sip:a@b>;tag").is_err());
        assert!(check_list(b"<sip:a@b>;expires=280297596632815", true).is_err());
        assert!(check_list(b"<sip:a@b>;q=1.1", true).is_err());
        assert!(check_list(b"<sip:a@b>,", true).is_err());
        assert_eq!(check_list(b"<sip:a@b> , \"c\" <sip:c@d>;x=\",\",sip:e@f", true), Ok(3));
    }
}
