//! INVITE, 200, ACK, BYE, 200. The called side, where there is one, is a UA of ours behind the server.

use std::collections::VecDeque;
use std::net::SocketAddr;

use sip_proto::message::Message;

use super::{Dialog, OFFER, response};
use crate::load::{Next, Work};

/// Calls to one address.
pub struct Calls {
    target: String,
    from: SocketAddr,
    /// Where our called side listens, if it is ours that answers.
    called: Option<SocketAddr>,
    /// Header lines of the INVITE (`Supported: mcp`, …).
    more: String,
    salt: u64,
    /// So many calls are not ended but kept.
    hold: Option<usize>,
    started: usize,
    held: Vec<Dialog>,
}

impl Calls {
    pub fn new(target: String, from: SocketAddr, called: Option<SocketAddr>, more: &str) -> Calls {
        let salt = std::process::id().into();
        Calls { target, from, called, more: more.to_owned(), salt, hold: None, started: 0, held: Vec::new() }
    }

    /// `count` calls, which are not ended.
    pub fn held(self, count: usize) -> Calls {
        Calls { hold: Some(count), ..self }
    }

    /// The calls that are up.
    pub fn into_held(self) -> Vec<Dialog> {
        self.held
    }
}

/// One call.
pub struct Unit {
    dialog: Dialog,
    ended: bool,
}

impl Work for Calls {
    type Unit = Unit;

    fn start(&mut self, id: u64) -> Option<(Unit, Vec<u8>)> {
        if self.hold.is_some_and(|count| self.started >= count) {
            return None;
        }
        self.started += 1;
        let dialog = Dialog { id, salt: self.salt, target: self.target.clone(), cseq: 1, ..Dialog::default() };
        let more = format!("{}Content-Type: application/sdp\r\n", self.more);
        let invite = dialog.request("INVITE", 1, self.from, &more, OFFER);
        Some((Unit { dialog, ended: false }, invite))
    }

    fn answer(&mut self, unit: &mut Unit, message: &Message) -> Next {
        match (message.status().unwrap_or(0), unit.ended) {
            (100..=199, _) => Next::Nothing,
            (200..=299, false) if message.cseq().method.as_str() == "INVITE" => {
                unit.dialog.established(message);
                unit.ended = true;
                let ack = unit.dialog.request("ACK", 1, self.from, "", "");
                if self.hold.is_some() {
                    self.held.push(unit.dialog.clone());
                    return Next::Last(ack);
                }
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

/// The ends of calls that were held.
pub struct Ends {
    held: VecDeque<Dialog>,
    from: SocketAddr,
}

impl Ends {
    pub fn new(held: Vec<Dialog>, from: SocketAddr) -> Ends {
        Ends { held: held.into(), from }
    }
}

impl Work for Ends {
    /// The number of its INVITE.
    type Unit = u64;

    fn start(&mut self, _: u64) -> Option<(u64, Vec<u8>)> {
        let dialog = self.held.pop_front()?;
        Some((dialog.id, dialog.request("BYE", 2, self.from, "", "")))
    }

    fn number(&self, unit: &u64) -> Option<u64> {
        Some(*unit)
    }

    fn answer(&mut self, _: &mut u64, message: &Message) -> Next {
        match message.status().unwrap_or(0) {
            100..=199 => Next::Nothing,
            200..=299 => Next::Done,
            status => Next::Failed(status),
        }
    }

    fn request(&mut self, message: &Message) -> (Option<Vec<u8>>, Option<u64>) {
        (Some(response(message, "200 OK", "called", "", "")), None)
    }

    fn told(&mut self, _: &mut u64, _: &Message) -> Next {
        Next::Nothing
    }
}
