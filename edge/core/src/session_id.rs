//! Session-ID (RFC 7989): one half of ours per call, made from the Call-ID, and the peer's half back to it.

use sip_proto::message::{HeaderId, Message};

use crate::random::keyed_hash;
use crate::state::EdgeState;
use crate::text;

const NIL: &str = "00000000000000000000000000000000";

/// The sender's half of the message's Session-ID. A value that is none is passed over, as the RFC says (§5).
pub(crate) fn remote(message: &Message) -> Option<String> {
    let value = message.header_str(HeaderId::SessionId)?;
    let half = value.split(';').next()?.trim();
    let is_uuid = half.len() == 32 && half.bytes().all(|b| b.is_ascii_hexdigit()) && half != NIL;
    is_uuid.then(|| half.to_ascii_lowercase())
}

impl EdgeState {
    /// Our value for a call: our half, and the peer's.
    pub(crate) fn session_id(&self, call_id: &str, remote: Option<&str>) -> String {
        let mut half = keyed_hash(self.naming_key(), "session-id", &[call_id.as_bytes()]);
        // RFC 7989 §4.1: a UUID as of RFC 4122.
        half[6] = (half[6] & 0x0f) | 0x50;
        half[8] = (half[8] & 0x3f) | 0x80;
        format!("{};remote={}", text::hex(&half), remote.unwrap_or(NIL))
    }
}
