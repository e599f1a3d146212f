//! One tool call of a client: an exchange (draft binding 5.3), and what became of it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mcp_sip::exchange::{Exchange, ExchangeId, Relation};
use mcp_sip::headers::McpExchange;
use serde_json::Value;

use super::Dialog;
use super::lock;
use crate::place;

/// The tools of the ledger agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tool {
    Pay,
    Slow,
    Lookup,
}

impl Tool {
    pub fn name(self) -> &'static str {
        match self {
            Tool::Pay => "pay",
            Tool::Slow => "slow",
            Tool::Lookup => "lookup",
        }
    }

    /// Declared as safe to repeat.
    pub fn is_safe(self) -> bool {
        self == Tool::Lookup
    }
}

/// What became of an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The tool's result.
    Answered,
    /// -31001 or -31004: the caller knows, and may try again.
    Retryable,
    /// The request was refused by a SIP response: nothing was accepted.
    Refused(String),
    /// Its caller hung up before an answer came, and the BYE was acknowledged: it is cancelled (draft binding 5.6).
    Cancelled,
    /// Another JSON-RPC error, or a result that is not the tool's.
    Wrong(String),
}

#[derive(Debug, Default)]
struct Course {
    /// When the first copy went out that no edge refused.
    begun: Option<Instant>,
    /// Edges refused every copy so far.
    is_not_taken: bool,
    accepted: Option<Instant>,
    fate: Option<(Fate, Instant)>,
}

/// One exchange.
#[derive(Debug)]
pub struct Call {
    pub exchange: ExchangeId,
    pub tool: Tool,
    /// The argument `id`: its name in the ledger.
    pub id: String,
    /// How long the tool takes.
    pub takes: Duration,
    pub dialog: Arc<Dialog>,
    /// INFO or MESSAGE.
    pub method: &'static str,
    pub body: Bytes,
    pub sent: Instant,
    /// The connection on which the request was last sent.
    pub link: AtomicU64,
    sending: AtomicBool,
    course: Mutex<Course>,
}

impl Call {
    pub fn new(dialog: Arc<Dialog>, tool: Tool, takes: Duration) -> Call {
        let id = place::token(20);
        let exchange = ExchangeId::from_random(&place::random::<16>());
        let rpc = u32::from_le_bytes(place::random());
        let body = serde_json::json!({
            "jsonrpc": "2.0", "id": rpc, "method": "tools/call",
            "params": {
                "name": tool.name(),
                "arguments": { "id": id, "seconds": takes.as_secs_f64() },
                "_meta": {
                    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                    "io.modelcontextprotocol/clientCapabilities": {},
                    "progressToken": rpc,
                },
            },
        });
        let method = if rpc.is_multiple_of(2) { "INFO" } else { "MESSAGE" };
        Call {
            exchange,
            tool,
            id,
            takes,
            dialog,
            method,
            body: Bytes::from(body.to_string()),
            sent: Instant::now(),
            link: AtomicU64::new(0),
            sending: AtomicBool::new(false),
            course: Mutex::default(),
        }
    }

    pub fn header(&self) -> String {
        McpExchange::new(Exchange::Id(self.exchange), Relation::Caller).to_string()
    }

    /// A copy goes out.
    pub fn begins(&self) {
        let mut course = lock(&self.course);
        course.begun.get_or_insert_with(Instant::now);
    }

    /// An edge did not take it, and no other one can have: whoever is sent away comes back when it was told to (`Retry-After`), and the
    /// exchange begins then.
    pub fn not_taken(&self) {
        let mut course = lock(&self.course);
        if course.accepted.is_none() {
            (course.begun, course.is_not_taken) = (None, true);
        }
    }

    /// When it was sent to whoever took it. `None`: it was sent away, and comes again, or gives up, when its time has come.
    pub fn begun(&self) -> Option<Instant> {
        let course = lock(&self.course);
        match course.is_not_taken {
            true => course.begun,
            false => Some(self.sent),
        }
    }

    /// A 2xx came: from now on silence is a fault.
    pub fn accepted(&self) {
        lock(&self.course).accepted.get_or_insert_with(Instant::now);
    }

    pub fn is_accepted(&self) -> bool {
        lock(&self.course).accepted.is_some()
    }

    /// A SIP response refused it. Without effect once something accepted or answered it.
    pub fn refused(&self, why: String) {
        let mut course = lock(&self.course);
        if course.accepted.is_none() && course.fate.is_none() {
            course.fate = Some((Fate::Refused(why), Instant::now()));
        }
    }

    /// The caller's BYE was acknowledged. Without effect on an exchange that has its fate.
    pub fn cancelled(&self) {
        lock(&self.course).fate.get_or_insert_with(|| (Fate::Cancelled, Instant::now()));
    }

    /// Its request goes out, or has its response.
    pub fn sends(&self, now: bool) {
        self.sending.store(now, Ordering::Relaxed);
    }

    pub fn is_being_sent(&self) -> bool {
        self.sending.load(Ordering::Relaxed)
    }

    /// A JSON-RPC message of this exchange came.
    pub fn message(&self, message: &Value) {
        if message.get("method").is_some() {
            return;
        }
        let fate = match message.get("error") {
            Some(error) => match error["code"].as_i64() {
                Some(-31001 | -31004) => Fate::Retryable,
                _ => Fate::Wrong(error.to_string()),
            },
            None => {
                let text = message["result"]["content"][0]["text"].as_str().unwrap_or_default();
                match text == format!("{} {}", self.tool.name(), self.id) {
                    true => Fate::Answered,
                    false => Fate::Wrong(message.to_string()),
                }
            }
        };
        let mut course = lock(&self.course);
        course.fate.get_or_insert((fate, Instant::now()));
    }

    pub fn fate(&self) -> Option<Fate> {
        lock(&self.course).fate.as_ref().map(|(fate, _)| fate.clone())
    }

    /// Nothing is known of it yet.
    pub fn is_open(&self) -> bool {
        lock(&self.course).fate.is_none()
    }

    /// How long the caller did not know.
    pub fn took(&self) -> Option<Duration> {
        lock(&self.course).fate.as_ref().map(|(_, at)| at.duration_since(self.sent))
    }
}
