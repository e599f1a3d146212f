//! MCP over SIP as a client: requests, their answers, and what a server asks on the way.

mod answers;
mod dialog;
mod progress;
mod session;

use bytes::Bytes;
use sip_proto::message::Message;
use sip_proto::multipart::Multipart;

pub use answers::Answers;
pub use session::Session;

/// The bodies of a message: itself, or its parts; each with its media type in lower case.
pub fn bodies(message: &Message) -> Vec<(String, Bytes)> {
    let Some(content_type) = message.content_type() else { return Vec::new() };
    let essence = format!("{}/{}", content_type.typ(), content_type.subtype()).to_ascii_lowercase();
    if !essence.starts_with("multipart/") {
        return vec![(essence, message.body())];
    }
    match Multipart::parse(content_type, &message.body()) {
        Ok(multipart) => multipart
            .parts()
            .iter()
            .filter_map(|part| {
                let t = part.content_type()?;
                Some((format!("{}/{}", t.typ(), t.subtype()).to_ascii_lowercase(), part.body()))
            })
            .collect(),
        Err(_) => Vec::new(),
    }
}

/// The MCP body of a message, if it has one.
pub fn mcp_body(message: &Message) -> Option<Bytes> {
    bodies(message).into_iter().find(|(essence, _)| essence == mcp_sip::MEDIA_TYPE).map(|(_, body)| body)
}
