//! One MCP client session over a caller: eras, exchanges, what the server asks, and the final answer.

use std::time::Duration;

use bytes::Bytes;
use mcp_sip::exchange::{Exchange, ExchangeId, Relation};
use mcp_sip::headers::McpExchange;
use serde_json::{Map, Value, json};
use sip_proto::message::{HeaderId, Message};

use super::dialog::Dialog;
use super::progress::Progress;
use super::{Answers, mcp_body};
use crate::args::{Connection, EraChoice, McpOptions, Via};
use crate::caller::Caller;
use crate::failure::Failure;
use crate::ua::{Incoming, UaEvent};

const MODERN: &str = "2026-07-28";
const LEGACY: &str = "2025-11-25";
/// Rounds of `input_required` until we stop.
const MAX_ROUNDS: usize = 16;
/// So often an in-dialog message is sent again that overtook another one on its way.
const OVERTAKEN: usize = 3;

/// A final answer and how long it took.
#[derive(Debug)]
pub struct Outcome {
    pub result: Value,
    pub took: Duration,
}

/// An open session.
pub struct Session {
    caller: Caller,
    answers: Answers,
    progress: Progress,
    dialog: Option<Dialog>,
    era: EraChoice,
    /// Legacy: `initialize` was answered.
    initialized: bool,
    next_id: u64,
    notices: bool,
}

impl Session {
    /// Connects; with `--via info` or `dialog-message` it also sends the INVITE.
    pub async fn open(
        uri: &str,
        connection: &Connection,
        options: &McpOptions,
        tool: Option<&str>,
    ) -> Result<Session, Failure> {
        let mut caller = Caller::connect(uri, connection).await?;
        let answers = Answers::new(options)?;
        let mut era = options.era;
        let dialog = match options.via {
            Via::Message => None,
            via => {
                let invited = Dialog::invite(&mut caller, options, tool, via == Via::Info).await;
                if invited.is_err() {
                    // The ACK of the refusal is still on its way.
                    caller.ua.net.flush().await;
                }
                let (dialog, version) = invited?;
                if era == EraChoice::Auto {
                    match version.as_deref().and_then(mcp_sip::era::Era::of_version) {
                        Some(mcp_sip::era::Era::Legacy) => era = EraChoice::Legacy,
                        Some(mcp_sip::era::Era::Modern) => era = EraChoice::Modern,
                        None => {}
                    }
                }
                Some(dialog)
            }
        };
        let progress = Progress::new(!connection.trace && !connection.json);
        let notices = !connection.json;
        Ok(Session { caller, answers, progress, dialog, era, initialized: false, next_id: 1, notices })
    }

    /// One request to its final answer; finds the era first where it is not known.
    pub async fn request(&mut self, method: &str, params: Map<String, Value>) -> Result<Outcome, Failure> {
        let start = std::time::Instant::now();
        let result = match self.era {
            EraChoice::Modern => self.modern(method, params).await,
            EraChoice::Legacy => self.legacy(method, params).await,
            EraChoice::Auto => match self.modern(method, params.clone()).await {
                Err(failure) if failure.code == Some(-32022) => {
                    self.era = EraChoice::Legacy;
                    self.legacy(method, params).await
                }
                other => {
                    self.era = EraChoice::Modern;
                    other
                }
            },
        };
        self.progress.clear();
        Ok(Outcome { result: result?, took: start.elapsed() })
    }

    async fn modern(&mut self, method: &str, mut params: Map<String, Value>) -> Result<Value, Failure> {
        for _ in 0..MAX_ROUNDS {
            let mut sent = params.clone();
            sent.insert(
                "_meta".into(),
                json!({
                    "io.modelcontextprotocol/protocolVersion": MODERN,
                    "io.modelcontextprotocol/clientCapabilities": self.answers.capabilities(),
                    "io.modelcontextprotocol/clientInfo": { "name": "sipmcp", "version": env!("CARGO_PKG_VERSION") },
                    "progressToken": self.next_id,
                }),
            );
            let result = self.exchange(method, Value::Object(sent)).await?;
            if result.get("resultType").and_then(Value::as_str) != Some("input_required") {
                return Ok(result);
            }
            // MRTR: the same method again, with the answers and the state as it came.
            let mut inputs = Map::new();
            let empty = Map::new();
            for (key, asked) in result.get("inputRequests").and_then(Value::as_object).unwrap_or(&empty) {
                let asked_method = asked.get("method").and_then(Value::as_str).unwrap_or_default();
                self.progress.clear();
                let given = self.answers.answer(asked_method, asked.get("params").unwrap_or(&Value::Null));
                let given = given.map_err(|error| Failure::rpc(&error))?;
                inputs.insert(key.clone(), given);
            }
            params.insert("inputResponses".into(), Value::Object(inputs));
            if let Some(state) = result.get("requestState") {
                params.insert("requestState".into(), state.clone());
            }
        }
        Err(Failure::unreachable(format!("the agent asked for input {MAX_ROUNDS} times")))
    }

    async fn legacy(&mut self, method: &str, mut params: Map<String, Value>) -> Result<Value, Failure> {
        if !self.initialized {
            let hello = json!({
                "protocolVersion": LEGACY,
                "capabilities": self.answers.capabilities(),
                "clientInfo": { "name": "sipmcp", "version": env!("CARGO_PKG_VERSION") },
            });
            self.exchange("initialize", hello).await?;
            self.initialized = true;
            let note = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
            self.send(&McpExchange::new(Exchange::Session, Relation::Caller), &note).await?;
        }
        params.insert("_meta".into(), json!({ "progressToken": self.next_id }));
        self.exchange(method, Value::Object(params)).await
    }

    /// One JSON-RPC request and everything that belongs to it, until its final answer. Where the connection breaks, the request goes
    /// to another edge with the same exchange and id: that edge knows it, and the answer comes back here.
    async fn exchange(&mut self, method: &str, params: Value) -> Result<Value, Failure> {
        let id = self.next_id;
        self.next_id += 1;
        let exchange = ExchangeId::from_random(&crate::random::bytes::<16>());
        let header = McpExchange::new(Exchange::Id(exchange), Relation::Caller);
        let body = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        self.send(&header, &body).await?;
        let mut sent_after = self.caller.moves();
        let deadline = tokio::time::Instant::now() + self.caller.timeout;
        loop {
            while sent_after != self.caller.moves() {
                sent_after = self.caller.moves();
                self.send(&header, &body).await?;
            }
            let event = match tokio::time::timeout_at(deadline, self.caller.next()).await {
                Ok(event) => event,
                Err(_) => {
                    let cancel = json!({
                        "jsonrpc": "2.0", "method": "notifications/cancelled",
                        "params": { "requestId": id, "reason": "timeout" },
                    });
                    let _ = self.send(&header, &cancel).await;
                    return Err(Failure::unreachable(format!(
                        "no answer to {method} in {} s; a longer time is given with --timeout",
                        self.caller.timeout.as_secs()
                    )));
                }
            };
            match event {
                UaEvent::Request(incoming) => {
                    if let Some((header, json)) = self.accept(&incoming).await?
                        && let Some(answer) = self.on_message(header, json, id).await?
                    {
                        return answer.map_err(|error| Failure::rpc(&error));
                    }
                }
                UaEvent::Lost { link, reason } => {
                    self.progress.clear();
                    self.caller.on_lost(link, &reason).await?;
                }
                UaEvent::Response { .. } | UaEvent::Failed { .. } => {}
            }
        }
    }

    /// Answers a SIP request; returns its MCP message if it has one that is for us.
    async fn accept(&mut self, incoming: &Incoming) -> Result<Option<(Option<McpExchange>, Value)>, Failure> {
        let message = &incoming.message;
        let method = message.method().map(|m| m.as_str().to_owned()).unwrap_or_default();
        let in_dialog = self.dialog.as_ref().is_some_and(|d| d.owns(message));
        if message.to_tag().is_some() && !in_dialog && message.to_tag() != Some(&self.caller.from_tag) {
            self.caller.respond(incoming, 481).await;
            return Ok(None);
        }
        match method.as_str() {
            "MESSAGE" | "INFO" => {}
            "BYE" if in_dialog => {
                self.caller.respond(incoming, 200).await;
                self.dialog = None;
                let why = message.headers_named("Reason").next().map(|r| format!(": {}", sip_proto::escape::escape(r)));
                return Err(Failure::unreachable(format!("the agent hung up{}", why.unwrap_or_default())));
            }
            "UPDATE" | "INVITE" if in_dialog => {
                if let Some(dialog) = self.dialog.as_mut() {
                    dialog.refresh(&mut self.caller, incoming).await;
                }
                return Ok(None);
            }
            "OPTIONS" => {
                self.caller.respond(incoming, 200).await;
                return Ok(None);
            }
            _ => {
                self.caller.respond(incoming, 405).await;
                return Ok(None);
            }
        }
        let json = mcp_body(message).and_then(|body| serde_json::from_slice::<Value>(&body).ok());
        let status = if json.is_some() { 200 } else { 415 };
        self.caller.respond(incoming, status).await;
        let header = message.header(HeaderId::McpExchange).and_then(|v| McpExchange::parse(v).ok());
        Ok(json.map(|json| (header, json)))
    }

    /// A message of the server: `Some` is the final answer to our request `id`.
    async fn on_message(
        &mut self,
        header: Option<McpExchange>,
        message: Value,
        id: u64,
    ) -> Result<Option<Result<Value, Value>>, Failure> {
        let params = message.get("params").cloned().unwrap_or(Value::Null);
        match (message.get("method").and_then(Value::as_str), message.get("id")) {
            (Some(method), Some(asked)) => {
                self.progress.clear();
                let mut reply = json!({ "jsonrpc": "2.0", "id": asked });
                match self.answers.answer(method, &params) {
                    Ok(result) => reply["result"] = result,
                    Err(error) => reply["error"] = error,
                }
                let header = header.unwrap_or_else(|| McpExchange::new(Exchange::Session, Relation::Caller));
                self.send(&header, &reply).await?;
                Ok(None)
            }
            (Some("notifications/progress"), None) => {
                let done = params.get("progress").and_then(Value::as_f64).unwrap_or(0.0);
                let total = params.get("total").and_then(Value::as_f64);
                self.progress.show(done, total, params.get("message").and_then(Value::as_str).unwrap_or(""));
                Ok(None)
            }
            (Some("notifications/message"), None) if self.notices => {
                self.progress.clear();
                let level = params.get("level").and_then(Value::as_str).unwrap_or("info");
                let data = params.get("data").map(|d| d.as_str().map_or_else(|| d.to_string(), str::to_owned));
                let line = format!("[{level}] {}", data.unwrap_or_default());
                eprintln!("{}", sip_proto::escape::escape(line.as_bytes()));
                Ok(None)
            }
            (Some(_), None) => Ok(None),
            (None, Some(answered)) if answered == &json!(id) => Ok(Some(match message.get("error") {
                Some(error) => Err(error.clone()),
                None => Ok(message.get("result").cloned().unwrap_or(Value::Null)),
            })),
            (None, _) => Ok(None),
        }
    }

    /// Sends one JSON-RPC message on the carrier of this session.
    async fn send(&mut self, header: &McpExchange, body: &Value) -> Result<(), Failure> {
        let body = Bytes::from(body.to_string());
        let response: Message = match self.dialog.as_mut() {
            Some(dialog) => {
                let mut tries = 0;
                loop {
                    let response = dialog.send(&mut self.caller, header, &body).await?;
                    tries += 1;
                    // RFC 3261 §12.2.2: a later request was there before it. The same exchange and id with a fresh CSeq.
                    if response.status() != Some(500) || tries > OVERTAKEN {
                        break response;
                    }
                }
            }
            None => {
                let uri = self.caller.target.uri.clone();
                let value = header.to_string();
                let head = self.caller.head();
                self.caller
                    .transact("MESSAGE", &body, |cseq, via| {
                        head.request("MESSAGE", &uri, &uri, cseq, via)
                            .header_named("Supported", "mcp, x-mcp")
                            .header(HeaderId::Accept, mcp_sip::MEDIA_TYPE)
                            .header_named(mcp_sip::headers::MCP_EXCHANGE, &value)
                            .body(mcp_sip::MEDIA_TYPE, body.clone())
                    })
                    .await?
            }
        };
        match response.status() {
            Some(200..=299) => Ok(()),
            _ => Err(Failure::refused(&response, "MESSAGE")),
        }
    }

    /// Ends the dialog, if there is one.
    pub async fn close(mut self) -> Result<(), Failure> {
        let ended = match self.dialog.take() {
            Some(dialog) => dialog.bye(&mut self.caller).await,
            None => Ok(()),
        };
        // The answer to the edge's last request is still on its way.
        self.caller.ua.net.flush().await;
        ended
    }

    /// Ends the dialog after a failure, whose report matters more.
    pub async fn abandon(self) {
        let _ = self.close().await;
    }
}
