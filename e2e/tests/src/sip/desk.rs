//! Where answers of the edges are waited for: one desk for all connections of a client, so an answer may come on another one than its question.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use mcp_sip::exchange::{Exchange, McpExchange};
use serde_json::Value;
use sip_proto::message::build::Response;
use sip_proto::message::{HeaderId, Message};
use tokio::sync::oneshot;

/// See the module.
#[derive(Debug, Default)]
pub struct Desk {
    /// By exchange id.
    answers: Mutex<BTreeMap<String, oneshot::Sender<Value>>>,
    /// Call-IDs of dialogs that edges ended, and why.
    ended: Mutex<BTreeMap<String, String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Plain values: a panic elsewhere leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Desk {
    /// The final answer of this exchange, when it comes.
    pub fn expect(&self, exchange: &str) -> oneshot::Receiver<Value> {
        let (sender, receiver) = oneshot::channel();
        lock(&self.answers).insert(exchange.to_owned(), sender);
        receiver
    }

    /// Nobody waits any more.
    pub fn forget(&self, exchange: &str) {
        lock(&self.answers).remove(exchange);
    }

    /// Why an edge ended this dialog.
    pub fn ended(&self, call_id: &str) -> Option<String> {
        lock(&self.ended).remove(call_id)
    }

    /// Takes a request of an edge; returns the response. `contact`: ours on this connection. ACK has none.
    pub fn take(&self, request: &Message, contact: &str) -> Option<Bytes> {
        let method = request.method().map(|method| method.as_str().to_owned()).unwrap_or_default();
        let plain = |status| Response::to_request(request, status, None).to_tag("e2e");
        Some(match method.as_str() {
            "ACK" => return None,
            "MESSAGE" | "INFO" => {
                self.message(request);
                plain(200).build()
            }
            "BYE" => {
                let why = request.headers_named("Reason").next().map(|why| String::from_utf8_lossy(why).into_owned());
                let why = format!("the edge hung up {}", why.unwrap_or_default());
                lock(&self.ended).insert(request.call_id().to_owned(), why);
                plain(200).build()
            }
            "OPTIONS" => plain(200).build(),
            "UPDATE" => {
                let mut response = plain(200).header(HeaderId::Contact, format!("<{contact}>"));
                if let Some(expires) = request.header(HeaderId::SessionExpires) {
                    response = response.header(HeaderId::SessionExpires, expires).header_named("Require", "timer");
                }
                response.build()
            }
            _ => plain(405).header_named("Allow", "ACK, BYE, INFO, MESSAGE, OPTIONS, UPDATE").build(),
        })
    }

    fn message(&self, request: &Message) {
        let json = serde_json::from_slice::<Value>(&request.body());
        let header = request.header(HeaderId::McpExchange).and_then(|value| McpExchange::parse(value).ok());
        // Notifications have a method; what ends an exchange has none.
        if let (Ok(json), Some(McpExchange { exchange: Exchange::Id(id), .. })) = (json, header)
            && json.get("method").is_none()
            && let Some(waiting) = lock(&self.answers).remove(id.as_str())
        {
            let _ = waiting.send(json);
        }
    }
}
