//! A request on its way through the core.

use std::sync::Arc;

use sip_proto::message::Message;
use sip_proto::time::Now;

use crate::input::Flow;

/// One request with where it came from and how it is answered.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub message: Message,
    pub flow: Arc<Flow>,
    pub received: Now,
    /// Its server transaction; `None` while (or because) it is answered statelessly (RFC 3261 §8.2.7).
    pub server: Option<u64>,
    /// The To tag of our answers where the request has none: a keyed hash, so that every answer to it has the same one.
    pub tag: String,
    /// Keyed hash of Call-ID, From tag and CSeq.
    pub transaction: [u8; 16],
}

impl Request {
    pub fn method(&self) -> &str {
        self.message.cseq().method.as_str()
    }
}
