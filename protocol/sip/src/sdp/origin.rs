//! Somebody else's description under an `o=` line of ours: what a B2BUA passes on (RFC 3264 §5, §8; RFC 7092 §3.1).

use bytes::Bytes;

use super::{SdpError, SdpOrigin, parse};

/// The description with our `o=` line in the place of its own; every other byte stays.
///
/// # Errors
/// The description is no SDP or beyond the limits.
pub fn with_origin(description: &[u8], origin: &SdpOrigin) -> Result<Bytes, SdpError> {
    parse(description)?;
    let SdpOrigin { session_id, version, address } = origin;
    let bare = address.trim_start_matches('[').trim_end_matches(']');
    let kind = if bare.contains(':') { "IP6" } else { "IP4" };
    let ours = format!("o=- {session_id} {version} IN {kind} {bare}");
    let mut out = Vec::with_capacity(description.len() + 32);
    for part in description.split_inclusive(|&b| b == b'\n') {
        if part.starts_with(b"o=") {
            out.extend_from_slice(ours.as_bytes());
            let end = part.len() - part.iter().rev().take_while(|b| matches!(b, b'\r' | b'\n')).count();
            out.extend_from_slice(&part[end..]);
        } else {
            out.extend_from_slice(part);
        }
    }
    Ok(out.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_origin_changes() {
        let theirs = b"v=0\r\no=alice 1 1 IN IP4 192.0.2.9\r\ns=x\r\nc=IN IP4 192.0.2.9\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\na=o=not\r\n";
        let origin = SdpOrigin { session_id: 77, version: 3, address: "192.0.2.1".to_owned() };
        let ours = String::from_utf8(with_origin(theirs, &origin).unwrap().to_vec()).unwrap();
        let expected = String::from_utf8(theirs.to_vec())
            .unwrap()
            .replace("o=alice 1 1 IN IP4 192.0.2.9", "o=- 77 3 IN IP4 192.0.2.1");
        assert_eq!(ours, expected);
        assert!(with_origin(b"nonsense", &origin).is_err());
    }
}
