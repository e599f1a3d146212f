//! A call with a number of MCP exchanges in it: request, 200, the answer as a request of the server's side, 200. One SIP request of ours
//! is open at a time.

use std::net::SocketAddr;

use sip_proto::message::Message;

use super::{Dialog, OFFER, response};
use crate::load::{Next, Work, number};

/// How MCP travels in the dialog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    Message,
    Info,
}

/// Calls with exchanges.
pub struct Exchanges {
    target: String,
    from: SocketAddr,
    per_call: u32,
    carrier: Carrier,
    salt: u64,
    completed: u64,
}

impl Exchanges {
    /// `per_call` calls of the tool `echo` in each call to `target`.
    pub fn new(target: String, from: SocketAddr, per_call: u32, carrier: Carrier) -> Exchanges {
        Exchanges { target, from, per_call, carrier, salt: std::process::id().into(), completed: 0 }
    }
}

/// One call.
pub struct Unit {
    dialog: Dialog,
    /// Exchanges that were answered.
    answered: u32,
    stage: Stage,
}

#[derive(PartialEq)]
enum Stage {
    Calling,
    /// The request is out; whether its 200 and its answer came.
    Asking {
        accepted: bool,
        answered: bool,
    },
    Ending,
}

impl Exchanges {
    fn ask(&self, unit: &mut Unit) -> Vec<u8> {
        unit.dialog.cseq += 1;
        unit.stage = Stage::Asking { accepted: false, answered: false };
        let body = format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":{},\"method\":\"tools/call\",\"params\":{{\"name\":\"echo\",\
             \"arguments\":{{\"message\":\"hello\"}},\"_meta\":{{\"io.modelcontextprotocol/protocolVersion\":\"2026-07-28\",\
             \"io.modelcontextprotocol/clientInfo\":{{\"name\":\"bench\",\"version\":\"1\"}},\
             \"io.modelcontextprotocol/clientCapabilities\":{{}}}}}}}}",
            unit.answered + 1
        );
        let (method, more) = match self.carrier {
            Carrier::Message => ("MESSAGE", "Content-Type: application/mcp+json\r\n"),
            Carrier::Info => (
                "INFO",
                "Info-Package: mcp\r\nContent-Disposition: Info-Package\r\nContent-Type: application/mcp+json\r\n",
            ),
        };
        unit.dialog.request(method, unit.dialog.cseq, self.from, more, &body)
    }

    fn go_on(&mut self, unit: &mut Unit) -> Next {
        if unit.stage != (Stage::Asking { accepted: true, answered: true }) {
            return Next::Nothing;
        }
        unit.answered += 1;
        self.completed += 1;
        if unit.answered < self.per_call {
            return Next::Request(self.ask(unit));
        }
        unit.stage = Stage::Ending;
        unit.dialog.cseq += 1;
        Next::Request(unit.dialog.request("BYE", unit.dialog.cseq, self.from, "", ""))
    }
}

impl Work for Exchanges {
    type Unit = Unit;

    fn completed(&self) -> Option<u64> {
        Some(self.completed)
    }

    fn start(&mut self, id: u64) -> Option<(Unit, Vec<u8>)> {
        let dialog = Dialog { id, salt: self.salt, target: self.target.clone(), cseq: 1, ..Dialog::default() };
        let more = "Supported: mcp\r\nRecv-Info: mcp\r\nContent-Type: application/sdp\r\n";
        let invite = dialog.request("INVITE", 1, self.from, more, OFFER);
        Some((Unit { dialog, answered: 0, stage: Stage::Calling }, invite))
    }

    fn answer(&mut self, unit: &mut Unit, message: &Message) -> Next {
        let status = message.status().unwrap_or(0);
        let cseq = message.cseq();
        match (status, &mut unit.stage) {
            (100..=199, _) => Next::Nothing,
            (200..=299, Stage::Calling) if cseq.method.as_str() == "INVITE" => {
                unit.dialog.established(message);
                let ack = unit.dialog.request("ACK", 1, self.from, "", "");
                let ask = self.ask(unit);
                Next::Then(ack, ask)
            }
            (200..=299, Stage::Asking { accepted, .. })
                if matches!(cseq.method.as_str(), "INFO" | "MESSAGE") && cseq.seq == unit.dialog.cseq =>
            {
                *accepted = true;
                self.go_on(unit)
            }
            (200..=299, Stage::Ending) if cseq.method.as_str() == "BYE" => Next::Done,
            (200..=299, _) => Next::Nothing,
            (status, _) => Next::Failed(status),
        }
    }

    fn request(&mut self, message: &Message) -> (Option<Vec<u8>>, Option<u64>) {
        (Some(response(message, "200 OK", "load", "", "")), number(message.call_id()))
    }

    fn told(&mut self, unit: &mut Unit, message: &Message) -> Next {
        let wanted = format!("\"id\":{}", unit.answered + 1);
        let body = message.body();
        let text = String::from_utf8_lossy(&body);
        let is_answer = text.contains(&wanted) && (text.contains("\"result\"") || text.contains("\"error\""));
        match &mut unit.stage {
            Stage::Asking { answered, .. } if is_answer => {
                if text.contains("\"error\"") {
                    return Next::Failed(0);
                }
                *answered = true;
                self.go_on(unit)
            }
            _ => Next::Nothing,
        }
    }
}
