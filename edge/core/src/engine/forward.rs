//! From an exchange to a call of its agent's backend.

use bytes::Bytes;
use mcp_sip::era::{Era, mirrors};
use mcp_sip::errors::RpcError;
use mcp_sip::jsonrpc::{RawId, request};
use serde_json::{Map, Value, json};
use session_store::key::SessionKey;

use super::Engine;
use super::adopt::AGAIN_MS;
use super::exchange::Stage;
use super::judge::reread;
use super::pending::Call;
use super::resume::Plan;
use super::schemas::{Known, Next};
use super::timers::Timer;
use super::types::{Ctx, EngineOut};
use crate::effect::{BackendAction, BackendCall};
use crate::input::{BackendEvent, BackendId};

/// Time of a call of the edge's own: notifications, responses, `tools/list`, the end of a session; milliseconds.
pub(super) const OWN_MS: u64 = 10_000;
/// The shell's limit lies behind the engine's own deadline; milliseconds.
const BEHIND_MS: u64 = 1_000;

impl Engine {
    /// Forwards an exchange, or lets it wait for what it needs first.
    pub(super) fn forward(&mut self, ctx: &mut Ctx<'_>, no: u64) {
        let Some(exchange) = self.exchanges.get(&no) else { return };
        // Somebody else may have it by now, or is about to: it is looked at again once there is a lease, and the journal has the last word.
        if !ctx.has_lease() || exchange.owner != ctx.owner {
            self.plans.insert(no, Plan::Forward);
            return self.timers.set(Timer::Orphan(no), ctx.now.mono.plus_millis(AGAIN_MS));
        }
        let Some(envelope) = exchange.envelope.clone() else { return };
        let agent = exchange.about.agent_key().to_owned();
        match exchange.era {
            Era::Modern => match self.schemas.of(ctx.now.mono, &agent, &envelope, no) {
                Known::Yes(annotations) => match mirrors(&envelope, Era::Modern, None, annotations) {
                    Ok(mut headers) => {
                        // It has a place of its own in a call.
                        headers.retain(|(name, _)| !name.eq_ignore_ascii_case("MCP-Protocol-Version"));
                        let version = exchange.version.clone();
                        self.post(ctx, no, None, version, headers);
                    }
                    // Such a method no HTTP server has.
                    Err(_) => {
                        let error = RpcError::method_not_found(&exchange.about.method);
                        self.fail(ctx, no, error);
                    }
                },
                Known::Ask => {
                    let traceparent = exchange.about.trace.header();
                    let version = exchange.version.clone().unwrap_or_default();
                    let id = self.ask_for_tools(ctx, &agent, &version, &traceparent, None);
                    self.schemas.asking(&agent, id, no);
                }
                Known::Wait => {}
            },
            Era::Legacy if exchange.is_initialize() => self.post(ctx, no, None, None, Vec::new()),
            Era::Legacy => {
                let Some(legacy) = self.sessions.get_mut(&exchange.session).and_then(|s| s.legacy.as_mut()) else {
                    return;
                };
                if legacy.takes_requests() {
                    let (session, version) = (legacy.record.backend_session.clone(), legacy.record.version.clone());
                    self.post(ctx, no, session, version, Vec::new());
                } else {
                    legacy.queue.push_back(no);
                }
            }
        }
    }

    pub(super) fn post(
        &mut self,
        ctx: &mut Ctx<'_>,
        no: u64,
        session: Option<String>,
        protocol_version: Option<String>,
        headers: Vec<(String, String)>,
    ) {
        let Some(exchange) = self.exchanges.get_mut(&no) else { return };
        // A call whose mirrors are found wrong is sent again; any other is sent once.
        let is_kept = exchange.era == Era::Modern && exchange.about.is_tool_call() && !exchange.retried;
        let envelope = if is_kept { exchange.envelope.clone() } else { exchange.envelope.take() };
        let Some(envelope) = envelope else { return };
        let id = ctx.ids.backend();
        exchange.stage = Stage::Forwarded { call: id, at: ctx.now };
        let call = BackendCall {
            agent: exchange.about.agent_key().to_owned(),
            action: BackendAction::Post { body: envelope.bytes().clone() },
            session,
            protocol_version,
            headers,
            traceparent: Some(exchange.about.trace.header()),
            timeout_ms: exchange.latest.millis_since(ctx.now.mono).saturating_add(BEHIND_MS),
        };
        self.calls.insert(id, Call::Exchange(no));
        self.out.push_back(EngineOut::Backend { id, call });
    }

    /// A call of the engine's own, with an alarm in case that nobody tells how it ended.
    pub(super) fn own_call(&mut self, ctx: &mut Ctx<'_>, waiting: Call, call: BackendCall) -> BackendId {
        let id = ctx.ids.backend();
        self.timers.set(Timer::Call(id), ctx.now.mono.plus_millis(call.timeout_ms.saturating_add(BEHIND_MS)));
        self.calls.insert(id, waiting);
        self.out.push_back(EngineOut::Backend { id, call });
        id
    }

    /// A call within a legacy session.
    pub(super) fn post_session(&mut self, ctx: &mut Ctx<'_>, key: SessionKey, action: BackendAction, waiting: Call) {
        let Some(legacy) = self.sessions.get(&key).and_then(|session| session.legacy.as_ref()) else { return };
        let call = BackendCall {
            agent: legacy.record.agent.clone(),
            action,
            session: legacy.record.backend_session.clone(),
            protocol_version: legacy.record.version.clone(),
            headers: Vec::new(),
            traceparent: None,
            timeout_ms: OWN_MS,
        };
        self.own_call(ctx, waiting, call);
    }

    // --- the tool schemas, for the mirrors ---

    fn ask_for_tools(
        &mut self,
        ctx: &mut Ctx<'_>,
        agent: &str,
        version: &str,
        traceparent: &str,
        cursor: Option<String>,
    ) -> BackendId {
        let id = RawId::from_random(&ctx.random.bytes());
        let mut params = Map::new();
        params.insert(
            "_meta".into(),
            json!({
                mcp_sip::jsonrpc::META_PROTOCOL_VERSION: version,
                mcp_sip::jsonrpc::META_CLIENT_CAPABILITIES: {},
                "io.modelcontextprotocol/clientInfo": { "name": "sipmcp-edge", "version": env!("CARGO_PKG_VERSION") },
            }),
        );
        if let Some(cursor) = cursor {
            params.insert("cursor".into(), cursor.into());
        }
        let body: Bytes = request(&id, "tools/list", Some(&Value::Object(params)));
        let call = BackendCall {
            agent: agent.to_owned(),
            action: BackendAction::Post { body },
            session: None,
            protocol_version: Some(version.to_owned()),
            headers: vec![("Mcp-Method".into(), "tools/list".into())],
            traceparent: Some(traceparent.to_owned()),
            timeout_ms: OWN_MS,
        };
        let waiting =
            Call::Tools { agent: agent.to_owned(), version: version.to_owned(), traceparent: traceparent.to_owned() };
        self.own_call(ctx, waiting, call)
    }

    pub(super) fn tools_event(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: BackendId,
        agent: &str,
        version: &str,
        traceparent: &str,
        event: &BackendEvent,
    ) {
        let next = match event {
            BackendEvent::Head { .. } | BackendEvent::Position { .. } => return,
            BackendEvent::Message { body, .. } => match reread(body) {
                // Whatever else a server sends on that stream is not for the edge.
                Some(envelope) if envelope.method().is_some() => return,
                Some(envelope) => self.schemas.page(ctx.now.mono, agent, &envelope),
                None => self.schemas.failed(ctx.now.mono, agent),
            },
            BackendEvent::Done | BackendEvent::Failed(_) => self.schemas.failed(ctx.now.mono, agent),
        };
        self.spend(ctx, id);
        match next {
            Next::Page(cursor) => {
                let call = self.ask_for_tools(ctx, agent, version, traceparent, Some(cursor));
                self.schemas.moved(agent, call);
            }
            Next::Ready(waiting) => {
                for no in waiting {
                    self.forward(ctx, no);
                }
            }
        }
    }
}
