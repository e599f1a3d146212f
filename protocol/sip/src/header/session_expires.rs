//! Session-Expires and Min-SE (RFC 4028 §4, §5).

use super::Malformed;
use super::params::{self, Params};
use crate::chars::{Cursor, TOKEN, Why, number};

/// Who refreshes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresher {
    /// The UAC of the request that carries it.
    Uac,
    /// Its UAS.
    Uas,
}

/// A session interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionExpires<'a> {
    /// Seconds.
    pub interval: u32,
    /// `None`: not said.
    pub refresher: Option<Refresher>,
    /// All parameters.
    pub params: Params<'a>,
}

impl<'a> SessionExpires<'a> {
    /// Reads a value.
    ///
    /// # Errors
    /// When the interval is no number of seconds, or the refresher is neither `uac` nor `uas`.
    pub fn parse(value: &'a [u8]) -> Result<SessionExpires<'a>, Malformed> {
        take(value).map_err(Malformed)
    }
}

/// Seconds and parameters, as in Session-Expires, Min-SE.
pub(crate) fn seconds(value: &[u8]) -> Result<(u32, Params<'_>), Why> {
    let mut cursor = Cursor::new(value);
    let seconds = number(cursor.run(TOKEN), u64::from(u32::MAX)).and_then(|n| u32::try_from(n).ok());
    let params = params::take(&mut cursor, |_, _| Ok(()))?;
    cursor.skip_lws();
    match seconds {
        Some(seconds) if cursor.at_end() => Ok((seconds, params)),
        _ => Err("not a number of seconds"),
    }
}

pub(crate) fn take(value: &[u8]) -> Result<SessionExpires<'_>, Why> {
    let (interval, params) = seconds(value)?;
    let refresher = match params.value("refresher") {
        None if params.has("refresher") => return Err("unknown refresher"),
        None => None,
        Some(who) if who.eq_ignore_ascii_case("uac") => Some(Refresher::Uac),
        Some(who) if who.eq_ignore_ascii_case("uas") => Some(Refresher::Uas),
        Some(_) => return Err("unknown refresher"),
    };
    Ok(SessionExpires { interval, refresher, params })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_and_refreshers() {
        let s = SessionExpires::parse(b"1800 ; refresher = UAS;x").unwrap();
        assert_eq!((s.interval, s.refresher), (1800, Some(Refresher::Uas)));
        assert_eq!(SessionExpires::parse(b"90").unwrap().refresher, None);
        for bad in [&b""[..], b"-1", b"4294967296", b"90;refresher=me", b"90;refresher", b"90 x", b"x"] {
            assert!(SessionExpires::parse(bad).is_err(), "{bad:?}");
        }
    }
}
