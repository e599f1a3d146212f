//! What names a dialog: Call-ID and both tags (RFC 3261 §12).

use crate::message::Message;

/// The identity of a dialog, as our side sees it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DialogId {
    /// Call-ID, compared byte by byte (§20.8).
    pub call_id: String,
    /// Our tag.
    pub local_tag: String,
    /// The peer's tag; empty when it has none.
    pub remote_tag: String,
}

impl DialogId {
    /// The dialog that a received message belongs to: for a request our tag is in To, for a response in From. `None`
    /// when it carries no tag of ours, so is in no dialog.
    #[must_use]
    pub fn of_received(message: &Message) -> Option<DialogId> {
        let (local, remote) = if message.is_request() {
            (message.to_tag(), message.from_tag())
        } else {
            (message.from_tag(), message.to_tag())
        };
        Some(DialogId {
            call_id: message.call_id().to_owned(),
            local_tag: local?.to_owned(),
            remote_tag: remote.unwrap_or_default().to_owned(),
        })
    }
}
