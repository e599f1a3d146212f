//! The bodies of an INVITE or re-INVITE: SDP, and the MCP envelope or one native message; alone, or together in a multipart (NEG-14).

use bytes::Bytes;
use sip_proto::header::Handling;
use sip_proto::message::{HeaderId, Message};
use sip_proto::multipart::Multipart;

use crate::answer::{ACCEPT, Answer};
use crate::page::MCP_JSON;

/// What an INVITE carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bodies {
    pub sdp: Option<Bytes>,
    pub mcp: Option<Bytes>,
    /// There was no body at all.
    pub empty: bool,
    /// It came as a multipart.
    pub multipart: bool,
}

impl Bodies {
    /// Reads them. A part that is not known and must be understood: 415 (RFC 5621 §8.2); a part twice, or a multipart that cannot be
    /// taken apart: 400.
    pub fn read(message: &Message) -> Result<Bodies, Answer> {
        let body = message.body();
        if body.is_empty() {
            return Ok(Bodies { empty: true, ..Bodies::default() });
        }
        if message.has(HeaderId::ContentEncoding) {
            return Err(Answer::unsupported_media(ACCEPT).header(HeaderId::AcceptEncoding, "identity"));
        }
        let Some(content) = message.content_type() else {
            return Err(Answer::new(400).phrase("Body Without Content-Type"));
        };
        let mut bodies = Bodies::default();
        if !content.is_multipart() {
            let handling = message.content_disposition().map_or(Handling::Required, |d| d.handling());
            bodies.take(content.is("application/sdp"), content.is(MCP_JSON), handling, body)?;
            return Ok(bodies);
        }
        let multipart = Multipart::parse(content, &body)
            .map_err(|error| Answer::new(400).phrase(&format!("Bad Multipart Body: {error}")))?;
        bodies.multipart = true;
        for part in multipart.leaves() {
            let (sdp, mcp) = part.content_type().map_or((false, false), |t| (t.is("application/sdp"), t.is(MCP_JSON)));
            bodies.take(sdp, mcp, part.handling(), part.body())?;
        }
        Ok(bodies)
    }

    fn take(&mut self, sdp: bool, mcp: bool, handling: Handling, body: Bytes) -> Result<(), Answer> {
        let slot = match (sdp, mcp) {
            (true, _) => &mut self.sdp,
            (_, true) => &mut self.mcp,
            _ if handling == Handling::Optional => return Ok(()),
            _ => return Err(Answer::unsupported_media(ACCEPT)),
        };
        match slot.replace(body) {
            None => Ok(()),
            Some(_) => Err(Answer::new(400).phrase("Two Bodies Of One Type")),
        }
    }
}
