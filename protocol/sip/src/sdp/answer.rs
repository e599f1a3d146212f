//! Answers that take no media: every stream of the offer is refused in its place (RFC 3264 §6).

use bytes::Bytes;
use sdp_types::{Media, Session};

use super::{SdpError, SdpOrigin, parse, write};

/// The answer of an agent without media: every `m=` line of the offer with port 0, in the same order, with its media
/// type, proto and formats.
///
/// # Errors
/// The offer is no SDP or beyond the limits.
pub fn answer_without_media(offer: &[u8], origin: &SdpOrigin) -> Result<Bytes, SdpError> {
    let offer = parse(offer)?;
    Ok(write(&answer_rejecting(&offer, origin)))
}

/// The same as a typed description, for an answer that fills in some of the lines.
#[must_use]
pub fn answer_rejecting(offer: &Session, origin: &SdpOrigin) -> Session {
    let mut answer = Session::new(origin.line(), "-");
    answer.connection = Some(origin.connection());
    // The time of an answer is that of its offer (RFC 3264 §6).
    answer.times.clone_from(&offer.times);
    answer.medias = offer.medias.iter().map(rejected).collect();
    answer
}

fn rejected(offered: &Media) -> Media {
    Media {
        media: offered.media.clone(),
        port: 0,
        num_ports: None,
        proto: offered.proto.clone(),
        fmt: offered.fmt.clone(),
        media_title: None,
        connections: Vec::new(),
        bandwidths: Vec::new(),
        key: None,
        // The name of the line, so that a peer which groups its lines finds it (RFC 5888 §9).
        attributes: offered.attributes.iter().filter(|a| a.attribute == "mid").cloned().collect(),
    }
}
