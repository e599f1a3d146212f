//! Hosts: names, IPv4, bracketed IPv6.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::chars::{self, HOST, Why, text};

/// A host as a URI or a Via names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Host<'a> {
    /// As written; compare without regard to case.
    Name(&'a str),
    /// Dotted quad.
    V4(Ipv4Addr),
    /// In brackets on the wire.
    V6(Ipv6Addr),
}

impl<'a> Host<'a> {
    /// Reads a host; an IPv6 address with or without brackets. `None` when it is neither name nor address.
    #[must_use]
    pub fn parse(host: &'a str) -> Option<Host<'a>> {
        if let Ok(address) = host.parse::<Ipv6Addr>() {
            return Some(Host::V6(address));
        }
        let known = if host.starts_with('[') {
            ipv6(host.as_bytes()).is_some()
        } else {
            take_name(host.as_bytes()).is_ok_and(|name| name.len() == host.len())
        };
        known.then(|| Host::of(host.as_bytes()))
    }

    /// Of octets that [`take_name`] or [`ipv6`] accepted.
    pub(crate) fn of(host: &'a [u8]) -> Host<'a> {
        if let Some(address) = ipv6(host) {
            return Host::V6(address);
        }
        let host = text(host);
        match host.parse::<Ipv4Addr>() {
            Ok(address) => Host::V4(address),
            Err(_) => Host::Name(host),
        }
    }

    /// The address, if it is one.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Host::Name(_) => None,
            Host::V4(address) => Some(IpAddr::V4(*address)),
            Host::V6(address) => Some(IpAddr::V6(*address)),
        }
    }

    pub(crate) fn is_same_address(&self, other: &Host<'_>) -> bool {
        self.address().is_some_and(|a| other.address() == Some(a))
    }
}

impl fmt::Display for Host<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => f.write_str(name),
            Host::V4(address) => write!(f, "{address}"),
            Host::V6(address) => write!(f, "[{address}]"),
        }
    }
}

/// `[…]` with an IPv6 address in it.
pub(crate) fn ipv6(host: &[u8]) -> Option<Ipv6Addr> {
    let inner = host.strip_prefix(b"[")?.strip_suffix(b"]")?;
    std::str::from_utf8(inner).ok()?.parse().ok()
}

/// The name or IPv4 address at the beginning of `bytes`: no empty label, and a last label of digits only in a dotted quad
/// (RFC 3261 §25.1 `toplabel` begins with a letter; container names that begin with a digit are let through). A dot may end
/// a name.
#[inline(always)]
pub(crate) fn take_name(bytes: &[u8]) -> Result<&[u8], Why> {
    let mut label = 0;
    let mut len = bytes.len();
    for (i, &b) in bytes.iter().enumerate() {
        if b == b'.' {
            if i == label {
                return Err("empty label in a host name");
            }
            label = i + 1;
        } else if !chars::is(b, HOST) {
            len = i;
            break;
        }
    }
    let name = &bytes[..len];
    match name {
        [] => return Err("no host"),
        [b'-', ..] => return Err("not a host name"),
        _ => {}
    }
    let last = &name[label..];
    if !last.is_empty() && last.iter().all(u8::is_ascii_digit) && !is_ipv4(name) {
        return Err("not an IPv4 address");
    }
    Ok(name)
}

/// Four numbers up to 255; leading zeros, which some read as octal, are refused.
fn is_ipv4(host: &[u8]) -> bool {
    let mut parts = 0;
    for part in host.split(|&b| b == b'.') {
        parts += 1;
        let fits = match part {
            [d] => d.is_ascii_digit(),
            [b'1'..=b'9', d] => d.is_ascii_digit(),
            [b'1', d, e] => d.is_ascii_digit() && e.is_ascii_digit(),
            [b'2', b'0'..=b'4', d] => d.is_ascii_digit(),
            [b'2', b'5', b'0'..=b'5'] => true,
            _ => false,
        };
        if !fits {
            return false;
        }
    }
    parts == 4
}
