//! Session descriptions (RFC 8866) and offer/answer (RFC 3264) over `sdp-types`. Parsed in INVITE, UPDATE, PRACK, ACK and their
//! responses only; what a description means is asked through [`media`], what may follow what is [`OfferAnswer`]'s.
//!
//! A description can hold keys (`a=crypto`): never log one.

pub mod answer;
pub mod media;
pub mod offer_answer;
pub mod origin;

use bytes::Bytes;
use sdp_types::{AddrType, NetType, Session};

pub use answer::{answer_rejecting, answer_without_media};
pub use media::{Direction, MediaLine, Setup, media_lines};
pub use offer_answer::{OfferAnswer, OfferAnswerError};
pub use origin::with_origin;

/// More lines than this are refused with 488.
pub const MAX_LINES: usize = 512;
/// More `m=` lines than this are refused with 488.
pub const MAX_MEDIA: usize = 8;

/// Why a description cannot be used: answer 488 (Warning 399 with the text), or 400 when it is no SDP at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SdpError {
    /// More than 512 lines.
    #[error("more than {MAX_LINES} lines")]
    TooManyLines,
    /// More than 8 `m=` lines.
    #[error("more than {MAX_MEDIA} media lines")]
    TooManyMedia,
    /// No SDP.
    #[error("malformed: {0}")]
    Malformed(String),
    /// A line that every description must have is missing.
    #[error("no {0}= line")]
    Missing(char),
}

/// Who we are in the `o=` and `c=` lines that we write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SdpOrigin {
    /// Numeric session id: one per dialog, it never changes in it.
    pub session_id: u64,
    /// Rises by one whenever the description changes (RFC 3264 §8).
    pub version: u64,
    /// An IP address or a name.
    pub address: String,
}

impl SdpOrigin {
    fn addr_type(&self) -> AddrType {
        if self.address.parse::<std::net::Ipv6Addr>().is_ok() { AddrType::Ip6 } else { AddrType::Ip4 }
    }

    pub(crate) fn line(&self) -> sdp_types::Origin {
        let mut origin =
            sdp_types::Origin::new(self.session_id, self.version, NetType::In, self.addr_type(), &self.address);
        origin.set_username("-");
        origin
    }

    pub(crate) fn connection(&self) -> sdp_types::Connection {
        sdp_types::Connection::new(NetType::In, self.addr_type(), &self.address)
    }
}

/// Parses a description within the limits.
///
/// # Errors
/// See [`SdpError`].
pub fn parse(bytes: &[u8]) -> Result<Session, SdpError> {
    let (mut lines, mut media, mut origin) = (0, 0, false);
    for line in bytes.split(|&b| b == b'\n') {
        lines += usize::from(!line.is_empty() && line != b"\r");
        media += usize::from(line.starts_with(b"m="));
        origin |= line.starts_with(b"o=");
    }
    if lines > MAX_LINES {
        return Err(SdpError::TooManyLines);
    }
    if media > MAX_MEDIA {
        return Err(SdpError::TooManyMedia);
    }
    let session = Session::parse(bytes).map_err(|error| SdpError::Malformed(error.to_string()))?;
    if !origin {
        return Err(SdpError::Missing('o'));
    }
    Ok(session)
}

/// Writes a description with CRLF line ends. What [`parse`] read from a well-formed description comes out byte-identical.
#[must_use]
pub fn write(session: &Session) -> Bytes {
    let mut out = Vec::with_capacity(512);
    // Writing into a Vec cannot fail; an empty description would be refused by every peer.
    match session.write(&mut out) {
        Ok(()) => Bytes::from(out),
        Err(_) => Bytes::new(),
    }
}
