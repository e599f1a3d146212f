//! W3C trace context (level 1): one trace from the SIP request to the tool. It is never used for a decision.

use super::types::Ctx;
use crate::text;

/// Where one exchange stands in its trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trace {
    pub id: [u8; 16],
    /// The caller's span.
    pub parent: Option<[u8; 8]>,
    /// Our span, from the SIP request to the answer.
    pub server: [u8; 8],
    /// Its child: the call to the backend.
    pub client: [u8; 8],
    flags: u8,
}

const SAMPLED: u8 = 1;

impl Trace {
    /// Goes on with the caller's trace, or starts one.
    pub(super) fn new(ctx: &mut Ctx<'_>, traceparent: Option<&str>) -> Trace {
        let (server, client) = (ctx.random.bytes(), ctx.random.bytes());
        match traceparent.and_then(parse) {
            Some((id, parent, flags)) => Trace { id, parent: Some(parent), server, client, flags },
            None => Trace { id: ctx.random.bytes(), parent: None, server, client, flags: SAMPLED },
        }
    }

    /// `traceparent` for the backend.
    pub(super) fn header(&self) -> String {
        format!("00-{}-{}-{:02x}", text::hex(&self.id), text::hex(&self.client), self.flags)
    }

    pub(super) fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }
}

/// `version "-" trace-id "-" parent-id "-" flags`; a later version may have more behind it.
fn parse(value: &str) -> Option<([u8; 16], [u8; 8], u8)> {
    let mut parts = value.splitn(5, '-');
    let (version, id, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let version = hex::<1>(version)?[0];
    if version == 0xff || (version == 0 && parts.next().is_some()) {
        return None;
    }
    let (id, parent, flags) = (hex::<16>(id)?, hex::<8>(parent)?, hex::<1>(flags)?[0]);
    (id != [0; 16] && parent != [0; 8]).then_some((id, parent, flags & SAMPLED))
}

fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    // Lower case only (level 1, section 3.2.2).
    let digit = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f').then(|| char::from(b).to_digit(16)).flatten();
    if text.len() != 2 * N {
        return None;
    }
    let mut out = [0; N];
    for (slot, pair) in out.iter_mut().zip(text.as_bytes().chunks(2)) {
        *slot = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn only_what_the_recommendation_allows() {
        assert!(parse(GOOD).is_some());
        assert!(parse("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more").is_some());
        for bad in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473é-00f067aa0ba902b7-01",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
