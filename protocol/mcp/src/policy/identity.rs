//! Patterns over SIP identities. User and host are matched apart, so that a star in one never reaches into the other.

use std::borrow::Cow;
use std::fmt;

use super::glob::{Glob, GlobError};

/// A pattern such as `sip:*@acme.example`, `sip:alice@*.example`, `tel:+4930*`.
///
/// The scheme and the host compare without regard to case, the user part with (RFC 3261 section 19.1.4). `sip` and
/// `sips` name the same user. An escaped unreserved character of the user part is the character.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct IdentityGlob {
    pattern: String,
    scheme: Scheme,
    user: Option<Glob>,
    host: Option<Glob>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Scheme {
    Sip,
    Tel,
}

/// Why a pattern was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Neither `sip:`, `sips:` nor `tel:`.
    #[error("an identity starts with sip:, sips: or tel:")]
    Scheme,
    /// URI parameters or headers.
    #[error("an identity has no URI parameters or headers")]
    Parameters,
    /// `sip:*`: it would name hosts, not users.
    #[error("a pattern without a user part must name one host; write sip:*@* for every user")]
    NoUser,
    /// A part is no pattern.
    #[error("{part}: {error}")]
    Glob {
        /// `user`, `host` or `number`.
        part: &'static str,
        /// What is wrong.
        error: GlobError,
    },
}

impl IdentityGlob {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(pattern: &str) -> Result<IdentityGlob, IdentityError> {
        let (scheme, rest) = split_scheme(pattern).ok_or(IdentityError::Scheme)?;
        let glob = |part, text: &str| Glob::uri(text).map_err(|error| IdentityError::Glob { part, error });
        if rest.contains(['?', '<', '>', '"']) {
            return Err(IdentityError::Parameters);
        }
        let (user, host) = match (scheme, rest.rsplit_once('@')) {
            (Scheme::Tel, _) if rest.contains(';') => return Err(IdentityError::Parameters),
            (Scheme::Tel, _) => (Some(glob("number", rest)?), None),
            (Scheme::Sip, _) if rest.rsplit('@').next().is_some_and(|host| host.contains(';')) => {
                return Err(IdentityError::Parameters);
            }
            (Scheme::Sip, Some((user, host))) => {
                (Some(glob("user", &unescape(user))?), Some(glob("host", &host.to_ascii_lowercase())?))
            }
            (Scheme::Sip, None) if rest.contains('*') => return Err(IdentityError::NoUser),
            (Scheme::Sip, None) => (None, Some(glob("host", &rest.to_ascii_lowercase())?)),
        };
        Ok(IdentityGlob { pattern: pattern.to_owned(), scheme, user, host })
    }

    /// Whether this identity, a verified URI, matches. Parameters and headers of the URI do not count.
    #[must_use]
    pub fn matches(&self, identity: &str) -> bool {
        let Some((scheme, rest)) = split_scheme(identity) else { return false };
        if scheme != self.scheme {
            return false;
        }
        match scheme {
            Scheme::Tel => {
                let number = rest.split(';').next().unwrap_or_default();
                self.user.as_ref().is_some_and(|glob| glob.matches(number))
            }
            Scheme::Sip => {
                let (user, host) = match rest.rsplit_once('@') {
                    Some((user, host)) => (Some(user), host),
                    None => (None, rest),
                };
                let host = host.split([';', '?']).next().unwrap_or_default().to_ascii_lowercase();
                let user_fits = match (&self.user, user) {
                    (Some(glob), Some(user)) => glob.matches(&unescape(user)),
                    (None, None) => true,
                    _ => false,
                };
                user_fits && self.host.as_ref().is_some_and(|glob| glob.matches(&host))
            }
        }
    }
}

fn split_scheme(text: &str) -> Option<(Scheme, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    if scheme.eq_ignore_ascii_case("sip") || scheme.eq_ignore_ascii_case("sips") {
        Some((Scheme::Sip, rest))
    } else if scheme.eq_ignore_ascii_case("tel") {
        Some((Scheme::Tel, rest))
    } else {
        None
    }
}

/// Decodes `%41` to `A`: unreserved characters only, because a reserved one is not the same when it is escaped.
fn unescape(user: &str) -> Cow<'_, str> {
    if !user.contains('%') {
        return Cow::Borrowed(user);
    }
    let mut out = String::with_capacity(user.len());
    let mut rest = user;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let byte = after.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        // `*` stays escaped: in a pattern it would become a star.
        let unreserved = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'!' | b'~' | b'\'');
        match byte {
            Some(byte) if unreserved(byte) => out.push(char::from(byte)),
            Some(_) => {
                out.push('%');
                out.push_str(&after[..2].to_ascii_uppercase());
            }
            None => {
                out.push('%');
                rest = after;
                continue;
            }
        }
        rest = &after[2..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

impl fmt::Debug for IdentityGlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdentityGlob({})", self.pattern)
    }
}

impl fmt::Display for IdentityGlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.pattern)
    }
}
