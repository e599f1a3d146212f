//! Rewriting ids in the raw bytes (5.5): the id and its mirrors change, every other byte stays.

use bytes::Bytes;

use super::scan::Span;
use super::{Envelope, RawId};

/// A place where an id or a progress token is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mirror {
    /// The message's own `id`.
    Id,
    /// `params.requestId` of `notifications/cancelled`.
    RequestId,
    /// `params.progressToken` of `notifications/progress`.
    ProgressToken,
    /// `params._meta.progressToken` of a request.
    MetaProgressToken,
    /// `params._meta` subscription id of a notification.
    SubscriptionId,
}

impl Envelope {
    /// The message with these places rewritten. A place that the message does not have is left alone.
    #[must_use]
    pub fn rewritten(&self, changes: &[(Mirror, &RawId)]) -> Bytes {
        let mut edits: Vec<(Span, &RawId)> = Vec::with_capacity(changes.len());
        for (mirror, id) in changes {
            // Only what the accessor shows is an id; `requestId` in another method is the peer's own data.
            let place = match mirror {
                Mirror::Id => self.at.id,
                Mirror::RequestId => self.request_id().and(self.at.request_id),
                Mirror::ProgressToken => self.progress_token().and(self.at.progress_token),
                Mirror::MetaProgressToken => self.meta_progress_token().and(self.at.meta_progress_token),
                Mirror::SubscriptionId => self.meta_subscription_id().and(self.at.meta_subscription),
            };
            if let Some(span) = place
                && !edits.iter().any(|(seen, _)| *seen == span)
            {
                edits.push((span, *id));
            }
        }
        if edits.is_empty() {
            return self.bytes.clone();
        }
        edits.sort_by_key(|(span, _)| span.start());
        let grown: usize = edits.iter().map(|(_, id)| id.raw().len()).sum();
        let mut out = Vec::with_capacity(self.bytes.len() + grown);
        let mut from = 0;
        for (span, id) in edits {
            out.extend_from_slice(&self.bytes[from..span.start()]);
            out.extend_from_slice(id.raw());
            from = span.end();
        }
        out.extend_from_slice(&self.bytes[from..]);
        Bytes::from(out)
    }

    /// The message with another id.
    #[must_use]
    pub fn with_id(&self, id: &RawId) -> Bytes {
        self.rewritten(&[(Mirror::Id, id)])
    }
}
