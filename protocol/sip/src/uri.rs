//! URIs (RFC 3261 §19, RFC 3966 for `tel:`): typed views into text that stays as it was written.

pub mod host;

use std::borrow::Cow;
use std::fmt;

pub use host::Host;

use crate::chars::{self, URI, URI_PARAM, USER, Why, text};

/// A URI, borrowed from where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uri<'a> {
    /// `sip:` and `sips:`
    Sip(SipUri<'a>),
    /// `tel:`
    Tel(TelUri<'a>),
    /// Any other scheme, not looked into: `urn:`, `http:`, …
    Other {
        /// As written, without the colon.
        scheme: &'a str,
        /// What stands after the colon.
        opaque: &'a str,
    },
}

/// Why a text is no URI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a URI: {0}")]
pub struct UriError(pub &'static str);

impl<'a> Uri<'a> {
    /// Reads a URI that stands alone: no brackets, no white space around it.
    ///
    /// # Errors
    /// When the scheme is none, an octet may not stand where it stands, an escape is broken, or host or port are none.
    pub fn parse(uri: &'a str) -> Result<Uri<'a>, UriError> {
        parse(uri.as_bytes()).map_err(UriError)
    }

    /// The scheme as written.
    #[must_use]
    pub fn scheme(&self) -> &'a str {
        match self {
            Uri::Sip(uri) => text(uri.scheme),
            Uri::Tel(uri) => text(uri.scheme),
            Uri::Other { scheme, .. } => scheme,
        }
    }

    /// The view of a `sip:` or `sips:` URI.
    #[must_use]
    pub fn sip(&self) -> Option<SipUri<'a>> {
        match self {
            Uri::Sip(uri) => Some(*uri),
            _ => None,
        }
    }
}

/// Length of the scheme when `bytes` begins with one and a colon (RFC 3986 §3.1).
#[inline]
fn scheme_len(bytes: &[u8]) -> Option<usize> {
    if !bytes.first()?.is_ascii_alphabetic() {
        return None;
    }
    let len = bytes.iter().position(|b| !(b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.')))?;
    (bytes[len] == b':').then_some(len)
}

/// One grammar for the message parser, which only wants to know, and for the typed view.
#[inline]
pub(crate) fn parse(bytes: &[u8]) -> Result<Uri<'_>, Why> {
    if let Some((b"sip:", rest)) = bytes.split_at_checked(4) {
        return SipUri::parse(&bytes[..3], rest, false).map(Uri::Sip);
    }
    let Some(len) = scheme_len(bytes) else { return Err("no scheme") };
    let (scheme, rest) = (&bytes[..len], &bytes[len + 1..]);
    if scheme.eq_ignore_ascii_case(b"sip") {
        SipUri::parse(scheme, rest, false).map(Uri::Sip)
    } else if scheme.eq_ignore_ascii_case(b"sips") {
        SipUri::parse(scheme, rest, true).map(Uri::Sip)
    } else if scheme.eq_ignore_ascii_case(b"tel") {
        TelUri::parse(scheme, rest).map(Uri::Tel)
    } else if rest.is_empty() {
        Err("nothing after the scheme")
    } else if !chars::all_escaped(rest, URI) {
        Err("octet that no URI may hold")
    } else {
        Ok(Uri::Other { scheme: text(scheme), opaque: text(rest) })
    }
}

/// `sip:user:password@host:port;params?headers`, each part as written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SipUri<'a> {
    scheme: &'a [u8],
    secure: bool,
    user: Option<&'a [u8]>,
    password: Option<&'a [u8]>,
    host: &'a [u8],
    port: Option<u16>,
    /// With its leading `;`, or empty.
    params: &'a [u8],
    /// Without the `?`.
    headers: Option<&'a [u8]>,
}

impl<'a> SipUri<'a> {
    #[inline]
    fn parse(scheme: &'a [u8], rest: &'a [u8], secure: bool) -> Result<SipUri<'a>, Why> {
        let (userinfo, hostport) = match rest.iter().position(|&b| b == b'@') {
            Some(at) => (Some(&rest[..at]), &rest[at + 1..]),
            None => (None, rest),
        };
        let (mut user, mut password) = (None, None);
        if let Some(info) = userinfo {
            let name = match info.iter().position(|&b| b == b':') {
                Some(colon) => {
                    let word = &info[colon + 1..];
                    // `/`, `?` and `;` may not stand in a password, but nothing is gained by refusing them.
                    if !chars::all_escaped(word, USER) {
                        return Err("octet that no password may hold");
                    }
                    password = Some(word);
                    &info[..colon]
                }
                None => info,
            };
            if name.is_empty() {
                return Err("empty user part");
            }
            if !chars::all_escaped(name, USER) {
                return Err("octet that no user part may hold");
            }
            user = Some(name);
        }
        let (host, mut tail) = take_host(hostport)?;
        let mut port = None;
        if let Some(after) = tail.strip_prefix(b":") {
            let digits = after.iter().take_while(|b| b.is_ascii_digit()).count();
            port = Some(port_number(&after[..digits])?);
            tail = &after[digits..];
        }
        let (params, headers) = match tail.first() {
            None => (&tail[..0], None),
            Some(b';' | b'?') => match tail.iter().position(|&b| b == b'?') {
                Some(mark) => (&tail[..mark], Some(&tail[mark + 1..])),
                None => (tail, None),
            },
            Some(_) => return Err("octet that no host may hold"),
        };
        if !params.is_empty() {
            if !chars::all_escaped(params, URI_PARAM) {
                return Err("octet that no URI parameter may hold");
            }
            if params.ends_with(b";") || params.windows(2).any(|pair| matches!(pair, [b';', b';'])) {
                return Err("empty URI parameter");
            }
            check_once(params)?;
        }
        if let Some(headers) = headers
            && (headers.is_empty() || !headers.iter().all(|&b| chars::is(b, URI_PARAM) || matches!(b, b'?' | b'%')))
        {
            return Err("octet that no URI header may hold");
        }
        Ok(SipUri { scheme, secure, user, password, host, port, params, headers })
    }

    /// `sips:`.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// User part as written, escapes included.
    #[must_use]
    pub fn user(&self) -> Option<&'a str> {
        self.user.map(text)
    }

    /// User part with escapes resolved. Octets that are no UTF-8 become U+FFFD.
    #[must_use]
    pub fn user_unescaped(&self) -> Option<Cow<'a, str>> {
        self.user.map(unescape)
    }

    /// Password as written.
    #[must_use]
    pub fn password(&self) -> Option<&'a str> {
        self.password.map(text)
    }

    /// Host, typed.
    #[must_use]
    pub fn host(&self) -> Host<'a> {
        Host::of(self.host)
    }

    /// Host as written, IPv6 with its brackets.
    #[must_use]
    pub fn host_str(&self) -> &'a str {
        text(self.host)
    }

    /// Port, if one is written.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// All parameters as written, with the leading `;`, or empty.
    #[must_use]
    pub fn params_str(&self) -> &'a str {
        text(self.params)
    }

    /// Parameters in order: name and value as written.
    pub fn params(&self) -> impl Iterator<Item = (&'a str, Option<&'a str>)> + use<'a> {
        split_params(self.params_str(), ';')
    }

    /// Whether the parameter is there, with or without a value.
    #[must_use]
    pub fn has_param(&self, name: &str) -> bool {
        self.params().any(|(n, _)| n.eq_ignore_ascii_case(name))
    }

    /// Value of a parameter as written; `None` also for a parameter without a value.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<&'a str> {
        self.params().find(|(n, _)| n.eq_ignore_ascii_case(name)).and_then(|(_, v)| v)
    }

    /// `transport` parameter as written: `udp`, `tcp`, `tls`, `ws`, …
    #[must_use]
    pub fn transport(&self) -> Option<&'a str> {
        self.param("transport")
    }

    /// Loose router (RFC 3261 §16.4).
    #[must_use]
    pub fn is_loose_router(&self) -> bool {
        self.has_param("lr")
    }

    /// Header part as written, without the `?`.
    #[must_use]
    pub fn headers_str(&self) -> Option<&'a str> {
        self.headers.map(text)
    }

    /// Headers of the header part: name and value, still escaped.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, Option<&'a str>)> + use<'a> {
        split_params(self.headers_str().unwrap_or(""), '&')
    }

    /// Address of record in canonical form (RFC 3261 §10.3, step 5): no parameters, no headers, no password, host in
    /// lower case, escapes resolved where they are not needed, others in upper case. Equal URIs give equal texts.
    #[must_use]
    pub fn aor(&self) -> String {
        let mut aor = String::with_capacity(self.host.len() + self.user.map_or(0, <[u8]>::len) + 8);
        aor.push_str(if self.secure { "sips:" } else { "sip:" });
        if let Some(user) = self.user {
            for (b, _) in units(user) {
                if chars::is(b, USER) {
                    aor.push(char::from(b));
                } else {
                    aor.push_str(&format!("%{b:02X}"));
                }
            }
            aor.push('@');
        }
        aor.push_str(&self.host_str().to_ascii_lowercase());
        if let Some(port) = self.port {
            aor.push_str(&format!(":{port}"));
        }
        aor
    }

    /// Whether two URIs are the same resource (RFC 3261 §19.1.4).
    #[must_use]
    pub fn equivalent(&self, other: &SipUri<'_>) -> bool {
        fn same(a: Option<&[u8]>, b: Option<&[u8]>) -> bool {
            match (a, b) {
                (None, None) => true,
                (Some(a), Some(b)) => units(a).eq(units(b)),
                _ => false,
            }
        }
        fn covers(a: &SipUri<'_>, b: &SipUri<'_>) -> bool {
            a.params().all(|(name, value)| match b.params().find(|(n, _)| same_text(n, name)) {
                Some((_, other)) => match (value, other) {
                    (Some(v), Some(o)) => same_text(v, o),
                    (None, None) => true,
                    _ => false,
                },
                // These mean something by being there; the others are ignored when only one side has them.
                None => !["user", "ttl", "method", "maddr", "transport"].iter().any(|n| n.eq_ignore_ascii_case(name)),
            })
        }
        fn headers_in(a: &SipUri<'_>, b: &SipUri<'_>) -> bool {
            a.headers().all(|(name, value)| {
                b.headers().any(|(n, v)| same_text(n, name) && same(value.map(str::as_bytes), v.map(str::as_bytes)))
            })
        }
        self.secure == other.secure
            && same(self.user, other.user)
            && same(self.password, other.password)
            && (self.host.eq_ignore_ascii_case(other.host) || self.host().is_same_address(&other.host()))
            && self.port == other.port
            && covers(self, other)
            && covers(other, self)
            && headers_in(self, other)
            && headers_in(other, self)
    }
}

impl fmt::Debug for SipUri<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // No password: Debug ends in logs.
        f.write_str(if self.secure { "sips:" } else { "sip:" })?;
        if let Some(user) = self.user() {
            write!(f, "{user}@")?;
        }
        f.write_str(self.host_str())?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        f.write_str(self.params_str())
    }
}

#[inline]
pub(crate) fn port_number(digits: &[u8]) -> Result<u16, Why> {
    chars::number(digits, 65535).and_then(|n| u16::try_from(n).ok()).ok_or("port out of range")
}

/// The host at the beginning of `bytes`, brackets included, and what follows it.
#[inline]
pub(crate) fn take_host(bytes: &[u8]) -> Result<(&[u8], &[u8]), Why> {
    if bytes.first() == Some(&b'[') {
        let close = memchr::memchr(b']', bytes).ok_or("unclosed IPv6 address")?;
        let (host, rest) = bytes.split_at(close + 1);
        return host::ipv6(host).map(|_| (host, rest)).ok_or("not an IPv6 address");
    }
    let host = host::take_name(bytes)?;
    Ok((host, &bytes[host.len()..]))
}

/// `tel:` (RFC 3966).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TelUri<'a> {
    scheme: &'a [u8],
    number: &'a [u8],
    params: &'a [u8],
}

impl<'a> TelUri<'a> {
    fn parse(scheme: &'a [u8], rest: &'a [u8]) -> Result<TelUri<'a>, Why> {
        let end = rest.iter().position(|&b| b == b';').unwrap_or(rest.len());
        let (number, params) = rest.split_at(end);
        let digits = number.strip_prefix(b"+").unwrap_or(number);
        let global = digits.len() < number.len();
        let is_digit = |b: &u8| b.is_ascii_digit() || (!global && (b.is_ascii_hexdigit() || matches!(b, b'*' | b'#')));
        if !digits.iter().any(is_digit) || !digits.iter().all(|b| is_digit(b) || matches!(b, b'-' | b'.' | b'(' | b')'))
        {
            return Err("not a telephone number");
        }
        if !chars::all_escaped(params, URI_PARAM) {
            return Err("octet that no URI parameter may hold");
        }
        Ok(TelUri { scheme, number, params })
    }

    /// The number as written, with visual separators.
    #[must_use]
    pub fn number(&self) -> &'a str {
        text(self.number)
    }

    /// A global number (begins with `+`).
    #[must_use]
    pub fn is_global(&self) -> bool {
        self.number.first() == Some(&b'+')
    }

    /// Parameters in order.
    pub fn params(&self) -> impl Iterator<Item = (&'a str, Option<&'a str>)> + use<'a> {
        split_params(text(self.params), ';')
    }
}

fn split_params<'a>(params: &'a str, separator: char) -> impl Iterator<Item = (&'a str, Option<&'a str>)> + use<'a> {
    params.split(separator).filter(|p| !p.is_empty()).map(|param| match param.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (param, None),
    })
}

/// The same without regard to case and to how octets are escaped.
fn same_text(a: &str, b: &str) -> bool {
    let folded = |(b, reserved): (u8, bool)| (b.to_ascii_lowercase(), reserved);
    units(a.as_bytes()).map(folded).eq(units(b.as_bytes()).map(folded))
}

/// More parameters have no honest URI, and each is compared with those before it.
const MAX_PARAMS: usize = 32;

/// No parameter twice (RFC 3261 §19.1.1): of two `transport`s one program takes the first and another the last.
fn check_once(params: &[u8]) -> Result<(), Why> {
    if !params[1..].contains(&b';') {
        return Ok(());
    }
    let params = text(params);
    for (i, (name, _)) in split_params(params, ';').enumerate() {
        if i == MAX_PARAMS {
            return Err("too many URI parameters");
        }
        if split_params(params, ';').take(i).any(|(before, _)| same_text(before, name)) {
            return Err("URI parameter twice");
        }
    }
    Ok(())
}

/// Resolves `%HH`. Octets that are no UTF-8 become U+FFFD.
#[must_use]
pub fn unescape(escaped: &[u8]) -> Cow<'_, str> {
    if !escaped.contains(&b'%') {
        return String::from_utf8_lossy(escaped);
    }
    let octets: Vec<u8> = units(escaped).map(|(b, _)| b).collect();
    Cow::Owned(String::from_utf8_lossy(&octets).into_owned())
}

/// Octets of a URI part for comparison: an escaped octet equals the octet itself, except where the octet is reserved,
/// which the flag says (RFC 3261 §19.1.4).
fn units(bytes: &[u8]) -> impl Iterator<Item = (u8, bool)> + '_ {
    let hex = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let mut i = 0;
    std::iter::from_fn(move || {
        let b = *bytes.get(i)?;
        if b == b'%'
            && let Some((high, low)) =
                bytes.get(i + 1).copied().and_then(hex).zip(bytes.get(i + 2).copied().and_then(hex))
        {
            i += 3;
            let octet = high << 4 | low;
            return Some((octet, b";/?:@&=+$,".contains(&octet)));
        }
        i += 1;
        Some((b, false))
    })
}

#[cfg(test)]
mod tests;
