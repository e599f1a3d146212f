//! Replaces (RFC 3891 §6.1): the dialog that a new INVITE takes the place of.

use super::Malformed;
use super::params::{self, Params};
use crate::chars::{Cursor, WORD, Why, text};

/// A dialog named from the side of the one who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replaces<'a> {
    call_id: &'a [u8],
    params: Params<'a>,
}

impl<'a> Replaces<'a> {
    /// Reads a value.
    ///
    /// # Errors
    /// When it breaks the grammar, or a tag is missing or there twice.
    pub fn parse(value: &'a [u8]) -> Result<Replaces<'a>, Malformed> {
        take(value).map_err(Malformed)
    }

    /// Call-ID.
    #[must_use]
    pub fn call_id(&self) -> &'a str {
        text(self.call_id)
    }

    /// `to-tag`: the local tag at the one who is asked.
    #[must_use]
    pub fn to_tag(&self) -> &'a str {
        self.params.value("to-tag").unwrap_or_default()
    }

    /// `from-tag`: the remote tag there.
    #[must_use]
    pub fn from_tag(&self) -> &'a str {
        self.params.value("from-tag").unwrap_or_default()
    }

    /// `early-only`.
    #[must_use]
    pub fn is_early_only(&self) -> bool {
        self.params.has("early-only")
    }
}

pub(crate) fn take(value: &[u8]) -> Result<Replaces<'_>, Why> {
    let mut cursor = Cursor::new(value);
    let call_id = take_call_id(&mut cursor)?;
    let (mut to_tags, mut from_tags) = (0, 0);
    let params = params::take(&mut cursor, |name, value| {
        to_tags += u8::from(name.eq_ignore_ascii_case(b"to-tag") && value.is_some());
        from_tags += u8::from(name.eq_ignore_ascii_case(b"from-tag") && value.is_some());
        if to_tags > 1 || from_tags > 1 { Err("tag twice") } else { Ok(()) }
    })?;
    cursor.skip_lws();
    if to_tags == 1 && from_tags == 1 && cursor.at_end() {
        Ok(Replaces { call_id, params })
    } else {
        Err("no dialog identifier")
    }
}

/// `word ["@" word]`.
#[inline]
pub(crate) fn take_call_id<'a>(cursor: &mut Cursor<'a>) -> Result<&'a [u8], Why> {
    let start = cursor.position();
    if cursor.run(WORD).is_empty() {
        return Err("no Call-ID");
    }
    if cursor.eat(b'@') && cursor.run(WORD).is_empty() {
        return Err("nothing after the @");
    }
    Ok(cursor.since(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dialog_identifiers() {
        let r = Replaces::parse(b"98732@sip.example.com ;from-tag=r33th4x0r\r\n ;to-tag=ff87ff;early-only").unwrap();
        assert_eq!((r.call_id(), r.to_tag(), r.from_tag()), ("98732@sip.example.com", "ff87ff", "r33th4x0r"));
        assert!(r.is_early_only());
        for bad in [
            &b"a;to-tag=1"[..],
            b";to-tag=1;from-tag=2",
            b"a;to-tag=1;to-tag=2;from-tag=3",
            b"a@;to-tag=1;from-tag=2",
            b"a b;to-tag=1;from-tag=2",
        ] {
            assert!(Replaces::parse(bad).is_err(), "{bad:?}");
        }
    }
}
