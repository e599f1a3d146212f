//! Via (RFC 3261 §20.42, RFC 3581).

use std::fmt;
use std::net::IpAddr;

use super::Malformed;
use super::params::{self, Param, Params};
use crate::chars::{Cursor, HOST, TOKEN, Why, text, trim};
use crate::uri::{self, Host};

/// Magic cookie of a branch made by RFC 3261 rules.
pub const MAGIC_COOKIE: &str = "z9hG4bK";

/// One Via value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Via<'a> {
    raw: &'a [u8],
    transport: &'a [u8],
    host: &'a [u8],
    port: Option<u16>,
    params: Params<'a>,
}

impl<'a> Via<'a> {
    /// Reads one value.
    ///
    /// # Errors
    /// When it breaks the grammar, or a second value follows.
    pub fn parse(value: &'a [u8]) -> Result<Via<'a>, Malformed> {
        let mut cursor = Cursor::new(value);
        let via = take(&mut cursor).map_err(Malformed)?;
        if cursor.at_end() { Ok(via) } else { Err(Malformed("octets after the Via value")) }
    }

    /// The whole value as written.
    #[must_use]
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// Transport as written: `UDP`, `TCP`, `TLS`, `WS`, `WSS`, …
    #[must_use]
    pub fn transport(&self) -> &'a str {
        text(self.transport)
    }

    /// Host of sent-by.
    #[must_use]
    pub fn host(&self) -> Host<'a> {
        Host::of(self.host)
    }

    /// Host of sent-by as written, IPv6 with its brackets.
    #[must_use]
    pub fn host_str(&self) -> &'a str {
        text(self.host)
    }

    /// Port of sent-by, if one is written.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Parameters.
    #[must_use]
    pub fn params(&self) -> Params<'a> {
        self.params
    }

    /// Branch as written. A branch of the magic cookie alone identifies nothing: see [`Via::has_rfc3261_branch`].
    #[must_use]
    pub fn branch(&self) -> Option<&'a str> {
        self.params.value("branch")
    }

    /// Whether the branch begins with the magic cookie and goes on (RFC 4475 §3.2.1 goes without).
    #[must_use]
    pub fn has_rfc3261_branch(&self) -> bool {
        self.branch().is_some_and(|b| {
            b.len() > MAGIC_COOKIE.len()
                && b.get(..MAGIC_COOKIE.len()).is_some_and(|head| head.eq_ignore_ascii_case(MAGIC_COOKIE))
        })
    }

    /// Address that the server before us saw (RFC 3261 §18.2.1).
    #[must_use]
    pub fn received(&self) -> Option<IpAddr> {
        let value = self.params.value("received")?;
        value.trim_start_matches('[').trim_end_matches(']').parse().ok()
    }

    /// `rport` (RFC 3581): absent, asked for (`Some(None)`), or filled in.
    #[must_use]
    pub fn rport(&self) -> Option<Option<u16>> {
        self.params.get("rport").map(|p| p.value.and_then(|v| v.parse().ok()))
    }

    /// `maddr` (RFC 3261 §18.1.1).
    #[must_use]
    pub fn maddr(&self) -> Option<Host<'a>> {
        self.params.value("maddr").and_then(Host::parse)
    }

    /// `ttl` of a multicast request.
    #[must_use]
    pub fn ttl(&self) -> Option<u8> {
        self.params.value("ttl").and_then(|v| v.parse().ok())
    }

    /// `alias` (RFC 5923).
    #[must_use]
    pub fn alias(&self) -> bool {
        self.params.has("alias")
    }

    /// One parameter by name.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<Param<'a>> {
        self.params.get(name)
    }
}

impl fmt::Debug for Via<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Via({})", crate::escape::escape(self.raw))
    }
}

/// One value from here on; stops before the comma or at the end.
#[inline]
pub(crate) fn take<'a>(cursor: &mut Cursor<'a>) -> Result<Via<'a>, Why> {
    cursor.skip_lws();
    let start = cursor.position();
    if !cursor.eat_all(b"SIP/2.0/") {
        for _ in 0..2 {
            if cursor.run(TOKEN).is_empty() {
                return Err("no protocol");
            }
            cursor.skip_lws();
            if !cursor.eat(b'/') {
                return Err("no protocol");
            }
            cursor.skip_lws();
        }
    }
    let transport = cursor.run(TOKEN);
    let before = cursor.position();
    cursor.skip_lws();
    if transport.is_empty() || cursor.position() == before {
        return Err("no transport");
    }
    let host = host(cursor)?;
    let mut port = None;
    let after_host = cursor.position();
    cursor.skip_lws();
    if cursor.eat(b':') {
        cursor.skip_lws();
        // HOST has the digits; what else it has, the number refuses.
        port = Some(uri::port_number(cursor.run(HOST))?);
    } else {
        cursor.seek(after_host);
    }
    let mut branch = false;
    let params = params::take(cursor, |name, value| {
        if name.len() == 6 && name.eq_ignore_ascii_case(b"branch") {
            if branch || value.is_none() {
                return Err("branch twice or without value");
            }
            branch = true;
        }
        Ok(())
    })?;
    let raw = trim(cursor.since(start));
    cursor.skip_lws();
    if cursor.at_end() || cursor.peek() == Some(b',') {
        Ok(Via { raw, transport, host, port, params })
    } else {
        Err("octet that no Via may hold")
    }
}

#[inline]
fn host<'a>(cursor: &mut Cursor<'a>) -> Result<&'a [u8], Why> {
    let (host, _) = uri::take_host(cursor.rest())?;
    cursor.seek(cursor.position() + host.len());
    Ok(host)
}

/// All values of one line; asked only of lines that were checked.
#[derive(Clone, Debug)]
pub struct Vias<'a>(Cursor<'a>);

impl<'a> Vias<'a> {
    pub(crate) fn of(line: &'a [u8]) -> Vias<'a> {
        Vias(Cursor::new(line))
    }
}

impl<'a> Iterator for Vias<'a> {
    type Item = Via<'a>;

    fn next(&mut self) -> Option<Via<'a>> {
        let via = take(&mut self.0).ok()?;
        self.0.eat(b',');
        Some(via)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_as_they_come() {
        let via = Via::parse(b"SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKabc;rport;received=10.0.0.1").unwrap();
        assert_eq!((via.transport(), via.host_str(), via.port()), ("UDP", "192.0.2.1", Some(5060)));
        assert_eq!(via.branch(), Some("z9hG4bKabc"));
        assert!(via.has_rfc3261_branch());
        assert_eq!(via.rport(), Some(None));
        assert_eq!(via.received(), Some("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn probe_space_before_the_semicolon_keeps_the_branch() {
        let via = Via::parse(b"SIP/2.0/UDP pc.example.com:5061 ;branch=z9hG4bKx").unwrap();
        assert_eq!((via.port(), via.branch()), (Some(5061), Some("z9hG4bKx")));
    }

    #[test]
    fn probe_ipv6_sent_by() {
        let via = Via::parse(b"SIP/2.0/TLS [2001:db8::9:1]:5061;received=2001:db8::9:255;rport=8080;branch=z9hG4bKas3")
            .unwrap();
        assert_eq!(via.host(), Host::V6("2001:db8::9:1".parse().unwrap()));
        assert_eq!(via.received(), Some("2001:db8::9:255".parse().unwrap()));
        assert_eq!(via.rport(), Some(Some(8080)));
        let bracketed = Via::parse(b"SIP/2.0/UDP [::1];received=[2001:db8::1]").unwrap();
        assert_eq!(bracketed.received(), Some("2001:db8::1".parse().unwrap()));
    }

    #[test]
    fn white_space_where_the_grammar_has_it() {
        let via =
            Via::parse(b"SIP  / 2.0  / TCP     spindle.example.com : 5070  ;\r\n  branch  =   z9hG4bK9ikj8  ").unwrap();
        assert_eq!(
            (via.host_str(), via.port(), via.branch()),
            ("spindle.example.com", Some(5070), Some("z9hG4bK9ikj8"))
        );
        assert!(!Via::parse(b"SIP/2.0/UDP h;branch=z9hG4bK").unwrap().has_rfc3261_branch());
        assert!(!Via::parse(b"SIP/2.0/UDP h").unwrap().has_rfc3261_branch());
    }

    #[test]
    fn broken_values_are_errors() {
        for bad in [
            &b""[..],
            b"SIP/2.0/UDP",
            b"SIP/2.0/UDP ",
            b"SIP/2.0 UDP h",
            b"SIP/2.0/UDP h;;",
            b"SIP/2.0/UDP h;,",
            b"SIP/2.0/UDP h:",
            b"SIP/2.0/UDP h:70000",
            b"SIP/2.0/UDP h:5060x",
            b"SIP/2.0/UDP h:1:2",
            b"SIP/2.0/UDP ::1",
            b"SIP/2.0/UDP h h",
            b"SIP/2.0/UDPh",
            b"SIP/2.0/UDP h;branch=a;branch=b",
            b"SIP/2.0/UDP h;branch",
            b"SIP/2.0/UDP h,",
            b"SIP/2.0/UDP [::1",
            b"SIP/2.0/UDP a/b",
        ] {
            assert!(Via::parse(bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
    }
}
