//! RSeq and RAck (RFC 3262 §7).

use super::Malformed;
use super::cseq::{self, CSeq};
use crate::chars::{Cursor, TOKEN, Why, number, text};
use crate::method::Method;

/// `RAck: 776656 1 INVITE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RAck<'a> {
    /// The RSeq that is acknowledged.
    pub response: u32,
    /// CSeq of the request that was answered.
    pub cseq: CSeq<'a>,
}

impl<'a> RAck<'a> {
    /// Reads a value.
    ///
    /// # Errors
    /// When it breaks the grammar or a number is out of range.
    pub fn parse(value: &'a [u8]) -> Result<RAck<'a>, Malformed> {
        take(value).map_err(Malformed)
    }
}

pub(crate) fn take(value: &[u8]) -> Result<RAck<'_>, Why> {
    let mut cursor = Cursor::new(value);
    let response = number(cursor.run(TOKEN), u64::from(u32::MAX))
        .and_then(|n| u32::try_from(n).ok())
        .ok_or("number out of range")?;
    cursor.skip_lws();
    let (seq, method) = cseq::take(cursor.rest())?;
    Ok(RAck { response, cseq: CSeq { seq, method: Method::new(text(method)) } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_parts() {
        let rack = RAck::parse(b"776656 1 INVITE").unwrap();
        assert_eq!((rack.response, rack.cseq.seq, rack.cseq.method), (776_656, 1, Method::Invite));
        assert!(RAck::parse(b"776656 INVITE").is_err() && RAck::parse(b"").is_err());
    }
}
