//! What comes from the edges: responses to our requests, and requests of theirs.

use std::sync::Arc;
use std::time::Instant;

use mcp_sip::exchange::Exchange;
use mcp_sip::headers::McpExchange;
use serde_json::Value;
use sip_proto::dialog::CSeqCheck;
use sip_proto::message::build::Response;
use sip_proto::message::{HeaderId, Message};

use super::link::Back;
use super::{Counts, Dialog, REMEMBERED, Ua, lock};

impl Ua {
    pub(super) async fn on_message(&self, back: Back, message: Message) {
        if matches!(back, Back::Stream(_)) {
            lock(&self.0.state).heard = Some(Instant::now());
        }
        if message.is_request() {
            self.on_request(back, message).await;
        } else {
            self.on_response(message).await;
        }
    }

    async fn on_response(&self, message: Message) {
        let cseq = message.cseq();
        let method = cseq.method.as_str().to_owned();
        let Some(branch) = message.top_via().branch().map(str::to_owned) else { return };
        let key = format!("{branch} {method}");
        let (waiting, dialog) = {
            let state = lock(&self.0.state);
            let waiting = state.waiting.get(&key).map(|waiting| waiting.responses.clone());
            (waiting, state.dialogs.get(message.call_id()).cloned())
        };
        let accepted = method == "INVITE" && message.status().is_some_and(|status| (200..300).contains(&status));
        match (waiting, dialog) {
            // The ACK was lost, or the edge that had it is gone: once more (RFC 3261 §13.2.2.4).
            (_, Some(dialog)) if accepted && dialog.owns(message.from_tag(), message.to_tag()) => {
                self.acknowledge(&dialog).await;
            }
            (Some(waiting), _) => {
                // Only provisional responses can fill it; the final one is waited for in order.
                let _ = waiting.try_send(message);
            }
            (None, _) => {}
        }
    }

    async fn on_request(&self, back: Back, message: Message) {
        let Some(method) = message.method().map(|method| method.as_str().to_owned()) else { return };
        if method == "ACK" {
            return;
        }
        let branch = message.top_via().branch().map(|branch| format!("{branch} {method}"));
        let known = branch.as_ref().and_then(|branch| {
            let state = lock(&self.0.state);
            state.answered.iter().find(|(known, _)| known == branch).map(|(_, bytes)| bytes.clone())
        });
        let bytes = match known {
            Some(bytes) => bytes,
            None => {
                let bytes = self.respond(&message, &method);
                if let Some(branch) = branch {
                    let mut state = lock(&self.0.state);
                    if state.answered.len() >= REMEMBERED {
                        state.answered.pop_front();
                    }
                    state.answered.push_back((branch, bytes.clone()));
                }
                bytes
            }
        };
        match (back, &self.0.udp) {
            (Back::Udp(remote), Some((socket, _))) => {
                let _ = socket.send_to(&bytes, remote).await;
            }
            (Back::Stream(out), _) => {
                let _ = out.send(bytes).await;
            }
            (Back::Udp(_), None) => {}
        }
    }

    fn respond(&self, message: &Message, method: &str) -> bytes::Bytes {
        let dialog = lock(&self.0.state).dialogs.get(message.call_id()).cloned();
        let dialog = dialog.filter(|dialog| dialog.owns(message.to_tag(), message.from_tag()));
        let plain = |status| Response::to_request(message, status, None).to_tag(&self.0.register_tag);
        let Some(dialog) = dialog else {
            return match (method, message.to_tag()) {
                ("OPTIONS", None) => plain(200).build(),
                (_, Some(tag)) => {
                    self.stray(message, method, tag);
                    plain(481).build()
                }
                _ => plain(405).header_named("Allow", "OPTIONS").build(),
            };
        };
        if dialog.on_request(message) != CSeqCheck::Next {
            Counts::add(&self.0.counts.stale);
            // RFC 3261 §12.2.2: whoever sent it sends it again with the next number.
            return plain(500).build();
        }
        self.in_dialog(message, method, &dialog)
    }

    /// It came to the wrong client, or the edge takes the dialog for another one.
    fn stray(&self, message: &Message, method: &str, tag: &str) {
        let mut strays = lock(&self.0.counts.strays);
        if strays.len() < 8 {
            let known = lock(&self.0.state).dialogs.get(message.call_id()).map(|dialog| dialog.local_tag.clone());
            strays.push(format!(
                "{} {:?} got {method} {} in dialog {} to tag {tag} (its own: {known:?}) from tag {:?}, Via {}",
                self.user(),
                self.transport(),
                message.request_uri().unwrap_or_default(),
                message.call_id(),
                message.from_tag(),
                message.headers(HeaderId::Via).next().map(String::from_utf8_lossy).unwrap_or_default(),
            ));
        }
    }

    fn in_dialog(&self, message: &Message, method: &str, dialog: &Arc<Dialog>) -> bytes::Bytes {
        let plain = |status| Response::to_request(message, status, None);
        match method {
            "INFO" | "MESSAGE" => {
                let json = serde_json::from_slice::<Value>(&message.body());
                let header = message.header(HeaderId::McpExchange).and_then(|value| McpExchange::parse(value).ok());
                if let (Ok(json), Some(McpExchange { exchange: Exchange::Id(id), .. })) = (&json, &header) {
                    let call = lock(&self.0.state).calls.get(id.as_str()).cloned();
                    if let Some(call) = call {
                        if !call.is_open() && json.get("method").is_none() {
                            Counts::add(&self.0.counts.again);
                        }
                        call.message(json);
                    }
                }
                plain(200).build()
            }
            "BYE" => {
                let why = message.headers_named("Reason").next().map(|why| String::from_utf8_lossy(why).into_owned());
                dialog.end(format!("BYE{}", why.map(|why| format!(" ({why})")).unwrap_or_default()));
                plain(200).build()
            }
            "OPTIONS" => plain(200).build(),
            "UPDATE" => {
                let contact = lock(&dialog.state).local_uri.clone();
                let mut response = plain(200).header(HeaderId::Contact, format!("<{contact}>"));
                if let Some(expires) = message.header(HeaderId::SessionExpires) {
                    response = response.header(HeaderId::SessionExpires, expires).header_named("Require", "timer");
                }
                response.build()
            }
            _ => plain(488).build(),
        }
    }
}
