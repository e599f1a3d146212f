//! CSeq (RFC 3261 §20.16).

use crate::chars::{self, Cursor, TOKEN, Why, text};
use crate::limits::CSEQ_MAX;
use crate::method::Method;

/// Sequence number and method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CSeq<'a> {
    /// Below 2³¹.
    pub seq: u32,
    /// The method of the request that it numbers.
    pub method: Method<'a>,
}

impl<'a> CSeq<'a> {
    /// Reads a value; `None` when it breaks the grammar or the number is out of range.
    #[must_use]
    pub fn parse(value: &'a [u8]) -> Option<CSeq<'a>> {
        let (seq, method) = take(value).ok()?;
        Some(CSeq { seq, method: Method::new(text(method)) })
    }
}

#[inline]
pub(crate) fn take(value: &[u8]) -> Result<(u32, &[u8]), Why> {
    let mut cursor = Cursor::new(value);
    let digits = cursor.run(TOKEN);
    let seq =
        chars::number(digits, u64::from(CSEQ_MAX)).and_then(|n| u32::try_from(n).ok()).ok_or("number out of range")?;
    let before = cursor.position();
    cursor.skip_lws();
    let gap = cursor.position() > before;
    let method = cursor.run(TOKEN);
    if !gap || method.is_empty() || !cursor.at_end() {
        return Err("no method");
    }
    Ok((seq, method))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_methods() {
        assert_eq!(CSeq::parse(b"0009\r\n  INVITE"), Some(CSeq { seq: 9, method: Method::Invite }));
        assert_eq!(CSeq::parse(b"2147483647 X!").map(|c| c.method), Some(Method::Extension("X!")));
        for bad in [
            &b"2147483648 INVITE"[..],
            b"36893488147419103232 REGISTER",
            b"-1 ACK",
            b"1",
            b"1INVITE",
            b"1 A B",
            b" 1 A",
            b"",
        ] {
            assert_eq!(CSeq::parse(bad), None, "{bad:?}");
        }
    }
}
