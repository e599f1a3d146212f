//! Retry-After (RFC 3261 §20.33): `18000;duration=3600`, `120 (I'm in a meeting)`.

use super::Malformed;
use super::params::{self, Params};
use crate::chars::{Cursor, TOKEN, Why, number};

/// When to ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryAfter<'a> {
    /// Seconds.
    pub seconds: u32,
    /// `duration` and others.
    pub params: Params<'a>,
}

impl<'a> RetryAfter<'a> {
    /// Reads a value.
    ///
    /// # Errors
    /// When it does not begin with a number of seconds, or a comment or a parameter is broken.
    pub fn parse(value: &'a [u8]) -> Result<RetryAfter<'a>, Malformed> {
        take(value).map_err(Malformed)
    }
}

pub(crate) fn take(value: &[u8]) -> Result<RetryAfter<'_>, Why> {
    let mut cursor = Cursor::new(value);
    let seconds = number(cursor.run(TOKEN), u64::from(u32::MAX))
        .and_then(|n| u32::try_from(n).ok())
        .ok_or("not a number of seconds")?;
    cursor.skip_lws();
    if cursor.peek() == Some(b'(') {
        skip_comment(&mut cursor)?;
    }
    let params = params::take(&mut cursor, |_, _| Ok(()))?;
    cursor.skip_lws();
    if cursor.at_end() { Ok(RetryAfter { seconds, params }) } else { Err("octets after the seconds") }
}

/// Comments nest; the depth is a number here, not a recursion.
fn skip_comment(cursor: &mut Cursor<'_>) -> Result<(), Why> {
    let mut depth = 0usize;
    while let Some(b) = cursor.peek() {
        cursor.seek(cursor.position() + 1);
        match b {
            b'(' => depth += 1,
            b')' => {
                depth -= 1;
                if depth == 0 {
                    return Ok(());
                }
            }
            b'\\' if !cursor.at_end() => cursor.seek(cursor.position() + 1),
            _ => {}
        }
    }
    Err("unclosed comment")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_comments_and_parameters() {
        assert_eq!(RetryAfter::parse(b"18000;duration=3600").unwrap().params.value("duration"), Some("3600"));
        assert_eq!(RetryAfter::parse(b"120 (I'm (still\\)) in a meeting) ;x").unwrap().seconds, 120);
        for bad in [&b"949302838503028349304023988"[..], b"", b"x", b"1 (", b"1 (\\", b"1 x", b"1;;"] {
            assert!(RetryAfter::parse(bad).is_err(), "{bad:?}");
        }
    }
}
