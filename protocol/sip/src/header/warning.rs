//! Warning (RFC 3261 §20.43): `399 edge.example "TLS is needed"`.

use std::borrow::Cow;

use super::Malformed;
use super::params::{quote, unquote};
use crate::chars::{Cursor, LWS, TOKEN, Why};

/// One warning value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning<'a> {
    /// Three digits.
    pub code: u16,
    /// Host or pseudonym of who warns.
    pub agent: &'a str,
    /// Without quotes. Octets that are no UTF-8 become U+FFFD.
    pub text: Cow<'a, str>,
}

impl<'a> Warning<'a> {
    /// Reads the first value.
    ///
    /// # Errors
    /// When it breaks the grammar.
    pub fn parse(value: &'a [u8]) -> Result<Warning<'a>, Malformed> {
        let (code, agent, text) = take(&mut Cursor::new(value)).map_err(Malformed)?;
        let agent = std::str::from_utf8(agent).map_err(|_| Malformed("agent is not UTF-8"))?;
        let text = match String::from_utf8_lossy(text) {
            Cow::Borrowed(text) => unquote(text),
            Cow::Owned(text) => Cow::Owned(unquote(&text).into_owned()),
        };
        Ok(Warning { code, agent, text })
    }
}

fn take<'a>(cursor: &mut Cursor<'a>) -> Result<(u16, &'a [u8], &'a [u8]), Why> {
    cursor.skip_lws();
    let code = match cursor.run(TOKEN) {
        [a @ b'1'..=b'9', b, c] if b.is_ascii_digit() && c.is_ascii_digit() => {
            u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0')
        }
        _ => return Err("warn-code is not three digits"),
    };
    cursor.skip_lws();
    let start = cursor.position();
    while let Some(b) = cursor.peek()
        && !crate::chars::is(b, LWS)
        && b != b'"'
        && b != b','
    {
        cursor.seek(cursor.position() + 1);
    }
    let agent = cursor.since(start);
    cursor.skip_lws();
    if agent.is_empty() || cursor.peek() != Some(b'"') {
        return Err("no warn-text");
    }
    let text = cursor.quoted()?;
    cursor.skip_lws();
    Ok((code, agent, text))
}

/// Checks all values of a line.
pub(crate) fn check(value: &[u8]) -> Result<(), Why> {
    let mut cursor = Cursor::new(value);
    loop {
        take(&mut cursor)?;
        if cursor.at_end() {
            return Ok(());
        }
        if !cursor.eat(b',') {
            return Err("octets after the warn-text");
        }
    }
}

/// Writes a value.
#[must_use]
pub fn format(code: u16, agent: &str, text: &str) -> String {
    format!("{code:03} {agent} {}", quote(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_both_ways() {
        let value = format(399, "edge.example:5060", "say \"TLS\"");
        let warning = Warning::parse(value.as_bytes()).unwrap();
        assert_eq!((warning.code, warning.agent, warning.text.as_ref()), (399, "edge.example:5060", "say \"TLS\""));
        assert!(check(b"392 192.0.2.1:5060 \"Noisy, feedback\" , 301 a \"b\"").is_ok());
        for bad in [
            &b"1812 overture \"In Progress\""[..],
            b"399 \"x\"",
            b"399 a",
            b"399 a \"x",
            b"399 a \"x\" y",
            b"",
            b"399 a \"x\",",
        ] {
            assert!(check(bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
    }
}
