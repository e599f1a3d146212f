//! MESSAGE and its 200: what a relay does with a message that is nobody's dialog.

use std::net::SocketAddr;

use sip_proto::message::Message;

use super::{Dialog, response};
use crate::load::{Next, Work};

/// About as long as a tool call without metadata.
const BODY: &str = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"echo\",\"arguments\":{\"message\":\"hello\"},\
                    \"_meta\":{\"io.modelcontextprotocol/protocolVersion\":\"2026-07-28\"}}}";

/// MESSAGEs to one address.
pub struct Pages {
    target: String,
    from: SocketAddr,
    salt: u64,
}

impl Pages {
    pub fn new(target: String, from: SocketAddr) -> Pages {
        Pages { target, from, salt: std::process::id().into() }
    }
}

impl Work for Pages {
    type Unit = ();

    fn start(&mut self, id: u64) -> Option<((), Vec<u8>)> {
        let dialog = Dialog { id, salt: self.salt, target: self.target.clone(), ..Dialog::default() };
        Some(((), dialog.request("MESSAGE", 1, self.from, "Content-Type: application/mcp+json\r\n", BODY)))
    }

    fn answer(&mut self, (): &mut (), message: &Message) -> Next {
        match message.status().unwrap_or(0) {
            100..=199 => Next::Nothing,
            200..=299 => Next::Done,
            status => Next::Failed(status),
        }
    }

    fn request(&mut self, message: &Message) -> (Option<Vec<u8>>, Option<u64>) {
        (Some(response(message, "200 OK", "called", "", "")), None)
    }

    fn told(&mut self, (): &mut (), _: &Message) -> Next {
        Next::Nothing
    }
}
