//! A dialog as its caller sees it.

use std::sync::Mutex;
use std::time::Instant;

use sip_proto::dialog::{CSeqCheck, DialogState};
use sip_proto::message::Message;

use super::lock;

/// One dialog.
#[derive(Debug)]
pub struct Dialog {
    pub call_id: String,
    pub local_tag: String,
    pub state: Mutex<DialogState>,
    /// Held by the one SIP request that is open in this dialog.
    pub gate: tokio::sync::Mutex<()>,
    /// Why the edge ended it, and when.
    ended: Mutex<Option<(String, Instant)>>,
}

impl Dialog {
    pub fn new(state: DialogState) -> Dialog {
        Dialog {
            call_id: state.call_id.clone(),
            local_tag: state.local_tag.clone(),
            state: Mutex::new(state),
            gate: tokio::sync::Mutex::default(),
            ended: Mutex::default(),
        }
    }

    /// Whether a request or response with these tags is of this dialog.
    pub fn owns(&self, local: Option<&str>, remote: Option<&str>) -> bool {
        local == Some(self.local_tag.as_str()) && remote == Some(lock(&self.state).remote_tag.as_str())
    }

    /// How the number of a request stands.
    pub fn on_request(&self, request: &Message) -> CSeqCheck {
        lock(&self.state).on_request(request)
    }

    /// The edge hung up.
    pub fn end(&self, why: String) {
        lock(&self.ended).get_or_insert((why, Instant::now()));
    }

    pub fn ended(&self) -> Option<String> {
        lock(&self.ended).as_ref().map(|(why, _)| why.clone())
    }
}
