//! Tool calls: the same exchange, id and body again while no answer came, as long as that is a repetition (binding, 5.4).

use bytes::Bytes;
use serde_json::{Value, json};
use sip_proto::message::Message;

use super::{Caller, Out, Step};
use crate::model::Model;
use crate::rng::Rng;
use crate::setup::DOMAIN;

/// So long a tool call is repeated; the slowest store and network of a run stay well inside 64·T1 then.
const REPEAT_MS: u64 = 12_000;

/// An exchange without its final answer.
#[derive(Clone, Debug)]
pub(super) struct Open {
    pub body: Bytes,
    pub in_dialog: bool,
    pub ends: u64,
    pub tries: u32,
    /// No copy leaves after this: the stored answer lives 64·T1, and what comes later is a new request (binding, 5.4).
    pub last: u64,
    /// A 200 said that somebody has taken care of it.
    pub accepted: bool,
    /// Without an answer by then, an accepted exchange was met with silence.
    pub silent_at: u64,
    /// Its connection broke, nothing else names the caller, and no copy found another connection to an edge while one might leave: no
    /// answer can find it. Out of a dialog an answer goes "on the stream that brought the request, else to its registered Contact"
    /// (binding, 5.4), and neither is there.
    pub no_way_back: bool,
}

impl Caller {
    pub(super) fn begin_tool(
        &mut self,
        now: u64,
        unsafe_tool: bool,
        in_dialog: bool,
        rng: &mut Rng,
        out: &mut Vec<Out>,
    ) {
        let exchange = rng.token(26);
        let (name, token) = (if unsafe_tool { "pay" } else { "look" }, rng.token(16));
        let body = json!({
            "jsonrpc": "2.0", "id": self.counters.exchanges + 1, "method": "tools/call",
            "params": {
                "name": name, "arguments": { "token": token },
                "_meta": {
                    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                    "io.modelcontextprotocol/clientCapabilities": {},
                },
            },
        });
        self.counters.exchanges += 1;
        let (ends, last) = (now + rng.range(2_000, 30_000), now + REPEAT_MS);
        // A connection may stand on an edge that is frozen, and out of a dialog it is the only way back to a caller without a
        // binding: who hears nothing asks once more while the answer is kept.
        let ends = if self.uses_streams && !in_dialog { ends.min(last - 1_000) } else { ends };
        let open = Open {
            body: Bytes::from(body.to_string()),
            in_dialog,
            ends,
            tries: 0,
            last,
            accepted: false,
            silent_at: u64::MAX,
            no_way_back: false,
        };
        self.open.insert(exchange.clone(), open.clone());
        self.send_tool(now, &exchange, &open, rng, out);
    }

    /// No final answer came: the same exchange, id and body again, or give up.
    pub(super) fn repeat(&mut self, now: u64, exchange: &str, rng: &mut Rng, model: &mut Model, out: &mut Vec<Out>) {
        let Some(open) = self.open.get_mut(exchange) else { return };
        open.tries += 1;
        open.ends = now + rng.range(1_000, 8_000);
        if open.tries > 3 || now >= open.last || (open.in_dialog && self.ended) {
            let is_over = open.in_dialog && self.ended;
            if open.accepted && !is_over && now < open.silent_at {
                // Nothing more is sent; its fate must come by itself.
                open.ends = open.silent_at;
                return;
            }
            if open.no_way_back {
                self.counters.no_way_back += 1;
            } else if open.accepted && !is_over {
                model.lost(format!("an accepted exchange of {} ({exchange}) was met with silence", self.user));
            }
            self.open.remove(exchange);
            self.counters.given_up += 1;
            return;
        }
        let open = open.clone();
        self.send_tool(now, exchange, &open, rng, out);
    }

    pub(super) fn send_tool(&mut self, now: u64, exchange: &str, open: &Open, rng: &mut Rng, out: &mut Vec<Out>) {
        let branch = format!("z9hG4bK{}", rng.token(16));
        let via = self.via(&branch);
        let step = Step::Tool { unsafe_tool: false, in_dialog: open.in_dialog };
        let request = if open.in_dialog {
            let Some(request) = self.dialog.as_mut().and_then(|d| d.in_dialog_request("INFO", &via)) else { return };
            request.header_named("Info-Package", "mcp")
        } else {
            let (uri, call_id) = (format!("sip:agent@{DOMAIN}"), self.page_call_id.clone());
            self.head("MESSAGE", &uri, &uri, &call_id, &branch)
        };
        let bytes = request
            .header_named("MCP-Exchange", format!("{exchange};rel=caller"))
            .body("application/mcp+json", open.body.clone())
            .build();
        let method = if open.in_dialog { "INFO" } else { "MESSAGE" };
        self.start(now, branch.clone(), bytes, method, step, out);
        if let Some(pending) = self.pending.get_mut(&branch) {
            pending.ends = pending.ends.min(open.last.max(now + 1));
            pending.exchange = Some(exchange.to_owned());
        }
    }

    pub(super) fn on_mcp(&mut self, message: &Message) {
        let Ok(body) = serde_json::from_slice::<Value>(&message.body()) else { return };
        if body.get("method").is_some() {
            return;
        }
        let exchange = message.headers_named("MCP-Exchange").next().map(|v| String::from_utf8_lossy(v).into_owned());
        let Some(exchange) = exchange.and_then(|v| v.split(';').next().map(str::to_owned)) else { return };
        if self.open.remove(&exchange).is_some() {
            self.counters.answers += 1;
            if body.pointer("/error/code") == Some(&json!(-31001)) {
                self.counters.retryable += 1;
            }
        }
        self.answers.insert(exchange, message.body());
    }
}
