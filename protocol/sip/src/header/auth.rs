//! Challenges and credentials: a scheme, then `auth-param`s between commas (RFC 3261 §20.7, §20.44, §25.1). One per header
//! line: these headers are never joined with commas.

use std::borrow::Cow;
use std::fmt;

use super::Malformed;
use super::params::unquote;
use crate::chars::{self, Cursor, LWS, TOKEN, URI, Why, text};

/// Value of Authorization or Proxy-Authorization.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Credentials<'a>(AuthValue<'a>);

/// Value of WWW-Authenticate or Proxy-Authenticate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Challenge<'a>(AuthValue<'a>);

#[derive(Clone, Copy, PartialEq, Eq)]
struct AuthValue<'a> {
    scheme: &'a [u8],
    params: &'a [u8],
}

/// One `name=value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthParam<'a> {
    /// As written; compare without regard to case.
    pub name: &'a str,
    /// As written, a quoted string with its quotes.
    pub value: &'a str,
}

impl<'a> AuthParam<'a> {
    /// The value without quotes and quoted pairs.
    #[must_use]
    pub fn text(&self) -> Cow<'a, str> {
        unquote(self.value)
    }
}

impl<'a> AuthValue<'a> {
    fn parse(value: &'a [u8]) -> Result<Self, Why> {
        let mut cursor = Cursor::new(value);
        cursor.skip_lws();
        let scheme = cursor.run(TOKEN);
        if scheme.is_empty() || !cursor.peek().is_some_and(|b| chars::is(b, LWS)) {
            return Err("no scheme");
        }
        let params = cursor.rest();
        let value = AuthValue { scheme, params };
        let mut cursor = Cursor::new(params);
        let mut count = 0;
        loop {
            let (name, _) = one(&mut cursor)?;
            // A second `nonce` or `username` would be read by one program and not by the other. The list is short.
            if value.iter().take(count).any(|p| p.name.as_bytes().eq_ignore_ascii_case(name)) {
                return Err("parameter twice");
            }
            count += 1;
            if count > MAX_PARAMS {
                return Err("too many parameters");
            }
            cursor.skip_lws();
            if cursor.at_end() {
                return Ok(value);
            }
            if !cursor.eat(b',') {
                return Err("no comma between parameters");
            }
        }
    }

    fn iter(&self) -> AuthParams<'a> {
        AuthParams(Cursor::new(self.params))
    }
}

/// Digest knows 12; a list beyond this is no honest one.
const MAX_PARAMS: usize = 32;

fn one<'a>(cursor: &mut Cursor<'a>) -> Result<(&'a [u8], &'a [u8]), Why> {
    cursor.skip_lws();
    let name = cursor.run(TOKEN);
    cursor.skip_lws();
    if name.is_empty() || !cursor.eat(b'=') {
        return Err("no parameter");
    }
    cursor.skip_lws();
    let value = if cursor.peek() == Some(b'"') {
        let quoted = cursor.quoted()?;
        if std::str::from_utf8(quoted).is_err() {
            return Err("parameter value is not UTF-8");
        }
        quoted
    } else {
        // A token; base64 and bare URIs of other schemes too. Never a comma: it ends the parameter.
        let start = cursor.position();
        while let Some(b) = cursor.peek()
            && b != b','
            && (chars::is(b, URI) || b == b'%')
        {
            cursor.seek(cursor.position() + 1);
        }
        cursor.since(start)
    };
    if value.is_empty() { Err("empty parameter value") } else { Ok((name, value)) }
}

/// Iterator over parameters.
#[derive(Clone, Debug)]
pub struct AuthParams<'a>(Cursor<'a>);

impl<'a> Iterator for AuthParams<'a> {
    type Item = AuthParam<'a>;

    fn next(&mut self) -> Option<AuthParam<'a>> {
        let (name, value) = one(&mut self.0).ok()?;
        self.0.skip_lws();
        self.0.eat(b',');
        Some(AuthParam { name: text(name), value: text(value) })
    }
}

macro_rules! view {
    ($view:ident) => {
        impl<'a> $view<'a> {
            /// Reads one header value.
            ///
            /// # Errors
            /// When there is no scheme, a parameter is broken, one is there twice, or there are more than 32.
            pub fn parse(value: &'a [u8]) -> Result<Self, Malformed> {
                AuthValue::parse(value).map($view).map_err(Malformed)
            }

            /// `Digest`, …, as written; compare without regard to case.
            #[must_use]
            pub fn scheme(&self) -> &'a str {
                text(self.0.scheme)
            }

            /// Parameters in order.
            #[must_use]
            pub fn params(&self) -> AuthParams<'a> {
                self.0.iter()
            }

            /// One parameter by name.
            #[must_use]
            pub fn get(&self, name: &str) -> Option<AuthParam<'a>> {
                self.0.iter().find(|p| p.name.eq_ignore_ascii_case(name))
            }

            /// Value of a parameter without quotes and quoted pairs.
            #[must_use]
            pub fn text(&self, name: &str) -> Option<Cow<'a, str>> {
                self.get(name).map(|p| p.text())
            }
        }

        impl fmt::Debug for $view<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // Nonces and responses do not belong into logs.
                write!(f, concat!(stringify!($view), "({})"), self.scheme())
            }
        }
    };
}

view!(Credentials);
view!(Challenge);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_parameters() {
        let c = Credentials::parse(
            b"Digest username=\"Al\\\"ice\", realm=\"a,b\" ,\r\n nonce=\"x=\",uri=\"sip:a@b\",algorithm=SHA-256,qop=auth,nc=00000001",
        )
        .unwrap();
        assert_eq!(c.scheme(), "Digest");
        assert_eq!(c.text("USERNAME").unwrap(), "Al\"ice");
        assert_eq!(c.text("realm").unwrap(), "a,b");
        assert_eq!(c.get("nc").unwrap().value, "00000001");
        assert_eq!(c.params().count(), 7);
        assert!(c.get("opaque").is_none());
        assert!(!format!("{c:?}").contains("ice"));
    }

    #[test]
    fn unknown_schemes_can_be_read() {
        let c = Credentials::parse(b"NoOneKnowsThisScheme opaque-data=here").unwrap();
        assert_eq!((c.scheme(), c.text("opaque-data").unwrap().as_ref()), ("NoOneKnowsThisScheme", "here"));
        assert_eq!(Challenge::parse(b"Bearer a=b64+/==").unwrap().text("a").unwrap(), "b64+/==");
    }

    #[test]
    fn broken_lists_are_errors() {
        for bad in [
            &b""[..],
            b"Digest",
            b"Digest ",
            b"Digest a",
            b"Digest a=",
            b"Digest a=b,",
            b"Digest a=b c=d",
            b"Digest ,a=b",
            b"Digest a=\"b",
            b"Digest a=b,,c=d",
            b"Digest a=b,A=c",
            b"Digest a=\"\xff\"",
        ] {
            assert!(Credentials::parse(bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
        let long = format!("Digest {}", (0..33).map(|i| format!("p{i}=1")).collect::<Vec<_>>().join(","));
        assert!(Challenge::parse(long.as_bytes()).is_err());
    }
}
