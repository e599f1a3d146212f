//! `--trace`: the SIP and JSON-RPC ladder as it happens, one arrow per message, on standard error.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use sip_proto::message::{HeaderId, Message, Transportation};

use crate::net::{Peer, Transport};

/// Prints, or stays silent.
pub struct Ladder {
    on: bool,
    colour: bool,
    start: Instant,
    /// The edge at the other end of the last arrow.
    edge: Option<(Transport, SocketAddr)>,
}

const WIDTH: usize = 34;

impl Ladder {
    pub fn new(on: bool) -> Ladder {
        let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Ladder { on, colour, start: Instant::now(), edge: None }
    }

    pub fn sent(&mut self, bytes: &Bytes, peer: &Peer) {
        if self.on
            && let Ok(message) = Message::parse(bytes.clone(), Transportation::Datagram)
        {
            self.arrow(true, &message, peer);
        }
    }

    pub fn received(&mut self, message: &Message, peer: &Peer) {
        if self.on {
            self.arrow(false, message, peer);
        }
    }

    pub fn note(&mut self, text: &str) {
        if self.on {
            self.line(&format!("{:>9}  {}", self.clock(), sip_proto::escape::escape(text.as_bytes())));
        }
    }

    fn clock(&self) -> String {
        format!("{:.1} ms", self.start.elapsed().as_secs_f64() * 1000.0)
    }

    fn line(&self, text: &str) {
        let _ = writeln!(std::io::stderr().lock(), "{text}");
    }

    fn arrow(&mut self, out: bool, message: &Message, peer: &Peer) {
        // A line for each change of the edge: who fails over, and who answers instead.
        if self.edge.replace((peer.transport, peer.remote)) != Some((peer.transport, peer.remote)) {
            self.line(&format!(
                "{:>9}  {:<8}{:^width$}{}/{}",
                "",
                "sipmcp",
                "",
                peer.transport.via(),
                peer.remote,
                width = WIDTH
            ));
        }
        let label = match (message.method(), message.status()) {
            (Some(method), _) => method.as_str().to_owned(),
            (None, Some(status)) => {
                format!("{status} {}", sip_proto::escape::escape(message.reason().unwrap_or_default()))
            }
            (None, None) => String::new(),
        };
        let dashes = WIDTH.saturating_sub(label.chars().count() + 4);
        let shaft = if out {
            format!("──{label}{}▶", "─".repeat(dashes))
        } else {
            format!("◀{}{label}──", "─".repeat(dashes))
        };
        let (on, off) = match (self.colour, message.status()) {
            (false, _) => ("", ""),
            (true, Some(400..)) => ("\x1b[31m", "\x1b[0m"),
            (true, Some(_)) => ("\x1b[32m", "\x1b[0m"),
            (true, None) => ("\x1b[36m", "\x1b[0m"),
        };
        self.line(&format!("{:>9}  {:<8}{on}{shaft}{off}  {}", self.clock(), "", what(message)));
    }
}

/// What the body says, in a few words: JSON-RPC method and tool, or result; never the payload.
fn what(message: &Message) -> String {
    let mut words = Vec::new();
    for (_, body) in crate::mcp::bodies(message) {
        let Ok(json) = serde_json::from_slice::<serde_json::Value>(&body) else { continue };
        if let Some(kind) = json.get("type").and_then(|t| t.as_str())
            && json.get("mcp_version").is_some()
        {
            words.push(format!("MCP {kind}"));
        }
        if let Some(method) = json.get("method").and_then(|m| m.as_str()) {
            words.push(method.to_owned());
            if let Some(name) = json.pointer("/params/name").and_then(|n| n.as_str()) {
                words.push(name.to_owned());
            }
        } else if let Some(error) = json.get("error") {
            words.push(format!("error {}", error.get("code").cloned().unwrap_or_default()));
        } else if json.get("result").is_some() {
            words.push("result".into());
        }
        if let Some(id) = json.get("id") {
            words.push(format!("id {id}"));
        }
    }
    if let Some(exchange) = message.header(HeaderId::McpExchange) {
        let text = String::from_utf8_lossy(exchange);
        let short: String = text.split(';').next().unwrap_or_default().chars().take(8).collect();
        words.push(format!("({short})"));
    }
    sip_proto::escape::escape(words.join(" ").as_bytes()).to_string()
}
