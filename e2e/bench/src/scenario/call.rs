//! INVITE, 200, ACK, BYE, 200. The called side, where there is one, is a UA of ours behind the server.

use std::net::SocketAddr;

use sip_proto::message::Message;

use super::{Dialog, OFFER, response};
use crate::load::{Next, Work};

/// Calls to one address.
pub struct Calls {
    pub target: String,
    pub from: SocketAddr,
    /// Where our called side listens, if it is ours that answers.
    pub called: Option<SocketAddr>,
    /// Header lines of the INVITE (`Supported: mcp`, …).
    pub more: String,
    pub salt: u64,
}

/// One call.
pub struct Unit {
    dialog: Dialog,
    ended: bool,
}

impl Work for Calls {
    type Unit = Unit;

    fn start(&mut self, id: u64) -> (Unit, Vec<u8>) {
        let dialog = Dialog { id, salt: self.salt, target: self.target.clone(), cseq: 1, ..Dialog::default() };
        let more = format!("{}Content-Type: application/sdp\r\n", self.more);
        let invite = dialog.request("INVITE", 1, self.from, &more, OFFER);
        (Unit { dialog, ended: false }, invite)
    }

    fn answer(&mut self, unit: &mut Unit, message: &Message) -> Next {
        match (message.status().unwrap_or(0), unit.ended) {
            (100..=199, _) => Next::Nothing,
            (200..=299, false) if message.cseq().method.as_str() == "INVITE" => {
                unit.dialog.established(message);
                unit.ended = true;
                let ack = unit.dialog.request("ACK", 1, self.from, "", "");
                Next::Then(ack, unit.dialog.request("BYE", 2, self.from, "", ""))
            }
            (200..=299, true) if message.cseq().method.as_str() == "BYE" => Next::Done,
            (200..=299, _) => Next::Nothing,
            (status, _) => Next::Failed(status),
        }
    }

    fn request(&mut self, message: &Message) -> (Option<Vec<u8>>, Option<u64>) {
        let method = message.method().map(|m| m.as_str().to_owned()).unwrap_or_default();
        let Some(called) = self.called else { return (Some(response(message, "200 OK", "load", "", "")), None) };
        let reply = match method.as_str() {
            "ACK" => None,
            "INVITE" => {
                let more = format!("Contact: <sip:called@{called}>\r\nContent-Type: application/sdp\r\n");
                Some(response(message, "200 OK", "called", &more, OFFER))
            }
            _ => Some(response(message, "200 OK", "called", "", "")),
        };
        (reply, None)
    }

    fn told(&mut self, _: &mut Unit, _: &Message) -> Next {
        Next::Nothing
    }
}
