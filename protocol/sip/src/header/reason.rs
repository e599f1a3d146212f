//! Reason (RFC 3326): why a request was sent. Diagnostic, so a value that cannot be read is passed over, not refused.

use std::borrow::Cow;

use super::Malformed;
use super::params::{self, Params};
use crate::chars::{Cursor, TOKEN, text};

/// One value: `SIP;cause=200;text="Call completed elsewhere"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason<'a> {
    protocol: &'a [u8],
    params: Params<'a>,
}

impl<'a> Reason<'a> {
    /// Reads one value.
    ///
    /// # Errors
    /// When it breaks the grammar.
    pub fn parse(value: &'a [u8]) -> Result<Reason<'a>, Malformed> {
        let mut cursor = Cursor::new(value);
        cursor.skip_lws();
        let protocol = cursor.run(TOKEN);
        let params = params::take(&mut cursor, |_, _| Ok(())).map_err(Malformed)?;
        cursor.skip_lws();
        if protocol.is_empty() || !cursor.at_end() {
            return Err(Malformed("not a reason"));
        }
        Ok(Reason { protocol, params })
    }

    /// `SIP`, `Q.850`, …, as written.
    #[must_use]
    pub fn protocol(&self) -> &'a str {
        text(self.protocol)
    }

    /// `cause`: a status code, a Q.850 cause.
    #[must_use]
    pub fn cause(&self) -> Option<u16> {
        self.params.value("cause").and_then(|v| v.parse().ok())
    }

    /// `text` without quotes.
    #[must_use]
    pub fn text(&self) -> Option<Cow<'a, str>> {
        self.params.get("text").map(|p| p.text())
    }

    /// All parameters.
    #[must_use]
    pub fn params(&self) -> Params<'a> {
        self.params
    }
}

/// Writes a value.
#[must_use]
pub fn format(protocol: &str, cause: u16, text: &str) -> String {
    format!("{protocol};cause={cause};text={}", params::quote(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_both_ways() {
        let value = format("SIP", 480, "pod \"a\" drained");
        let reason = Reason::parse(value.as_bytes()).unwrap();
        assert_eq!((reason.protocol(), reason.cause()), ("SIP", Some(480)));
        assert_eq!(reason.text().unwrap(), "pod \"a\" drained");
        assert_eq!(Reason::parse(b"Q.850 ;cause=16").unwrap().cause(), Some(16));
        assert!(Reason::parse(b";cause=16").is_err() && Reason::parse(b"SIP cause=16").is_err());
    }
}
