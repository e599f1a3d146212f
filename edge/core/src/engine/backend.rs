//! What a backend's answers bring.

use bytes::Bytes;
use mcp_sip::era::Era;
use mcp_sip::errors::{Code, RpcError};
use mcp_sip::exchange::{Belongs, DropReason, Exchange as Named, ExchangeId, Rejected, Side};
use mcp_sip::jsonrpc::{Bounds, Envelope, Kind, ListOf, error_response};

use super::Engine;
use super::about::outcome_of;
use super::access::Access;
use super::answer::failure;
use super::deliver::Writes;
use super::exchange::{MAX_NOTES, Resumed, Stage};
use super::pending::{Call, Purpose};
use super::types::{Ctx, EngineOut};
use crate::audit::Outcome;
use crate::effect::BackendAction;
use crate::input::{BackendEvent, BackendFailure, BackendId};
use session_store::key::SessionKey;

impl Engine {
    /// One event of a call. An id that is not known any more is that of a call that was given up.
    pub fn backend(&mut self, ctx: &mut Ctx<'_>, id: BackendId, event: BackendEvent) {
        let is_final = event.is_final();
        match self.calls.get_mut(&id) {
            None => return,
            Some(Call::Exchange(no)) => {
                let no = *no;
                self.exchange_event(ctx, no, event);
            }
            Some(Call::Stream(key)) => {
                let key = *key;
                self.stream_event(ctx, key, event);
            }
            Some(Call::Implicit { session, id: request, backend_session }) => {
                if let BackendEvent::Head { session: Some(given), .. } = &event {
                    *backend_session = Some(given.clone());
                }
                let (key, request, backend_session) = (*session, request.clone(), backend_session.clone());
                self.implicit_event(ctx, id, key, &request, backend_session, &event);
            }
            Some(Call::Initialized(key)) => {
                let key = *key;
                self.initialized_event(ctx, key, &event);
            }
            Some(Call::Post(key)) => {
                let key = *key;
                self.post_event(ctx, key, &event);
            }
            Some(Call::Tools { agent, version, traceparent }) => {
                let (agent, version, traceparent) = (agent.clone(), version.clone(), traceparent.clone());
                self.tools_event(ctx, id, &agent, &version, &traceparent, &event);
            }
            Some(Call::Farewell(no)) => {
                let no = *no;
                if is_final {
                    self.farewell_step(ctx, no);
                }
            }
            Some(Call::Spent) => {}
        }
        if is_final {
            self.calls.remove(&id);
            self.timers.clear(super::timers::Timer::Call(id));
        }
    }

    /// A call of our own that nobody said the end of.
    pub(super) fn call_alarm(&mut self, ctx: &mut Ctx<'_>, id: BackendId) {
        if self.calls.contains_key(&id) {
            self.backend(ctx, id, BackendEvent::Failed(BackendFailure::Deadline));
            self.out.push_back(EngineOut::CancelBackend { id });
        }
    }

    fn exchange_event(&mut self, ctx: &mut Ctx<'_>, no: u64, event: BackendEvent) {
        let Some(exchange) = self.exchanges.get_mut(&no) else { return };
        match event {
            BackendEvent::Head { session, .. } => {
                if exchange.is_initialize() {
                    exchange.backend_session = session;
                }
            }
            BackendEvent::Message { body, event_id } => {
                self.exchange_message(ctx, no, &body);
                self.learn(ctx, no, Some(&body), event_id);
            }
            BackendEvent::Position { event_id } => self.learn(ctx, no, None, Some(event_id)),
            BackendEvent::Done => self.failed(ctx, no, BackendFailure::Interrupted),
            BackendEvent::Failed(failure) => self.failed(ctx, no, failure),
        }
    }

    fn exchange_message(&mut self, ctx: &mut Ctx<'_>, no: u64, body: &Bytes) {
        let Some(exchange) = self.exchanges.get(&no) else { return };
        // After the answer nothing more belongs to the exchange.
        let Some(call) = exchange.call() else {
            self.stats.unmatched += 1;
            return;
        };
        let limit = ctx.config.edge.limits.message_bytes;
        let bounds = Bounds { bytes: limit, error_without_id: true, ..Bounds::default() };
        let Ok(envelope) = Envelope::parse(body, &bounds) else {
            let failure = if body.len() > limit { BackendFailure::TooLarge } else { BackendFailure::Garbage };
            self.cancel_call(call);
            return self.failed(ctx, no, failure);
        };
        let envelope = self.downstream(no, envelope);
        let Some(exchange) = self.exchanges.get(&no) else { return };
        // HTTP says which request an error without an id answers.
        let is_anonymous_error = envelope.kind() == Kind::Error && envelope.id().is_none();
        if is_anonymous_error || self.has_wrong_mirrors(no, &envelope) {
            return self.answered(ctx, no, envelope);
        }
        let exchange_named = exchange.slot.map(Named::Id);
        let (key, era) = (exchange.session, exchange.era);
        match self.admit_server(ctx, key, exchange_named, &envelope) {
            Ok(Belongs::Answered(_)) => self.answered(ctx, no, envelope),
            Ok(Belongs::Within(_)) if envelope.kind() == Kind::Request => self.ask(ctx, key, Some(no), &envelope),
            Ok(Belongs::Within(_)) => self.note(ctx, no, &envelope),
            Ok(Belongs::CancelledNested(_)) => self.withdrawn(ctx, key, &envelope),
            // The server ends a listen stream.
            Ok(Belongs::Cancelled(_)) => {
                self.note(ctx, no, &envelope);
                self.conclude(ctx, no, None, Outcome::Cancelled);
            }
            Err(Rejected::Refuse(error)) if era == Era::Legacy => self.refuse_server(ctx, key, &envelope, &error),
            // An answer to somebody else's request; progress that nobody asked for; a request of a modern server.
            Ok(Belongs::Opened(_) | Belongs::Repeated(_)) | Err(_) => self.stats.unmatched += 1,
        }
    }

    /// Places a message of the server in the session's table.
    pub(super) fn admit_server(
        &mut self,
        ctx: &mut Ctx<'_>,
        key: SessionKey,
        exchange: Option<Named>,
        envelope: &Envelope,
    ) -> Result<Belongs, Rejected> {
        let fresh = ExchangeId::from_random(&ctx.random.bytes());
        let session = self.sessions.get_mut(&key).ok_or(Rejected::Drop(DropReason::Unknown))?;
        session.table.admit(Side::Server, exchange, envelope, fresh)
    }

    fn has_wrong_mirrors(&self, no: u64, envelope: &Envelope) -> bool {
        envelope.error_code() == Some(Code::HeaderMismatch.number())
            && self.exchanges.get(&no).is_some_and(|exchange| exchange.envelope.is_some() && !exchange.retried)
    }

    /// Progress and log messages go to the caller in the exchange that they came in.
    pub(super) fn note(&mut self, ctx: &mut Ctx<'_>, no: u64, envelope: &Envelope) {
        let Some(exchange) = self.exchanges.get_mut(&no) else { return };
        if exchange.notes >= MAX_NOTES {
            self.stats.dropped += 1;
            return;
        }
        exchange.notes += 1;
        let (leg, header, session) = (exchange.leg.clone(), exchange.header.clone(), exchange.session);
        let purpose = Purpose::Note { session, exchange: Some(no) };
        self.deliver(ctx, leg, header, envelope.bytes().clone(), Writes::default(), purpose);
    }

    /// The final answer.
    pub(super) fn answered(&mut self, ctx: &mut Ctx<'_>, no: u64, envelope: Envelope) {
        let is_wrong = self.has_wrong_mirrors(no, &envelope);
        let Some(exchange) = self.exchanges.get_mut(&no) else { return };
        if exchange.resumed == Some(Resumed::Task) {
            return self.task_answered(ctx, no, &envelope);
        }
        if is_wrong {
            // The tool's schema changed behind our cache. The server refused before it ran anything.
            exchange.retried = true;
            let agent = exchange.about.agent_key().to_owned();
            if let Some(call) = exchange.call() {
                exchange.stage = Stage::Waiting;
                self.spend(ctx, call);
            }
            self.schemas.forget(&agent);
            return self.forward(ctx, no);
        }
        if exchange.is_initialize() && envelope.kind() == Kind::Response {
            return self.initialize_answered(ctx, no, envelope);
        }
        if let Some(tool) = exchange.about.subject.as_deref().filter(|_| exchange.about.is_tool_call())
            && outcome_of(&envelope, true) != Outcome::Ok
            && self.schemas.lacks(ctx.now.mono, exchange.about.agent_key(), tool)
        {
            // In the words that a hidden one gets, so that nothing tells them apart.
            let error = RpcError::unknown_tool(tool);
            return self.fail(ctx, no, error);
        }
        let list = ListOf::of_method(&exchange.about.method);
        match (list, envelope.kind()) {
            (Some(list), Kind::Response) => self.list_answered(ctx, no, list, &envelope),
            _ => {
                let outcome = outcome_of(&envelope, exchange.about.is_tool_call());
                let body = body_for(&exchange.id, &envelope);
                self.conclude(ctx, no, Some(body), outcome);
            }
        }
    }

    /// A list shows what this caller may see. What policy does not change leaves byte-exact.
    fn list_answered(&mut self, ctx: &mut Ctx<'_>, no: u64, list: ListOf, envelope: &Envelope) {
        let Some(exchange) = self.exchanges.get(&no) else { return };
        let leg = exchange.leg.clone();
        let Some(access) = Access::of(ctx.config, &leg) else {
            let error = RpcError::denied(&exchange.about.method);
            return self.fail(ctx, no, error);
        };
        match envelope.filter_list(list, |entry| access.shows(list, entry)) {
            Ok(filtered) => {
                let outcome = outcome_of(envelope, false);
                self.conclude(ctx, no, Some(filtered.bytes), outcome);
            }
            // What cannot be judged is not shown.
            Err(_) => self.failed(ctx, no, BackendFailure::Garbage),
        }
    }

    fn failed(&mut self, ctx: &mut Ctx<'_>, no: u64, how: BackendFailure) {
        let Some(exchange) = self.exchanges.get(&no) else { return };
        // The answer is here; what becomes of the connection does not matter any more.
        if matches!(exchange.stage, Stage::Holding { .. }) {
            return;
        }
        let key = exchange.session;
        let error = failure(how, exchange.is_safe, ctx.config.edge.limits.message_bytes);
        let agent = exchange.about.agent_key().to_owned();
        let session_is_gone =
            how == BackendFailure::SessionGone && exchange.era == Era::Legacy && !exchange.is_initialize();
        self.stats.backend_failed(ctx.config, &agent);
        if session_is_gone {
            self.lose(ctx, key);
        }
        self.fail(ctx, no, error);
    }

    /// A notification or response of the caller was posted.
    fn post_event(&mut self, ctx: &mut Ctx<'_>, key: SessionKey, event: &BackendEvent) {
        match event {
            BackendEvent::Failed(BackendFailure::SessionGone) => self.lose(ctx, key),
            BackendEvent::Failed(_) => {
                let agent = self.sessions.get(&key).map(|session| session.leg.agent.key.clone());
                self.stats.backend_failed(ctx.config, &agent.unwrap_or_default());
            }
            // A server answers a notification with nothing; what it sends all the same belongs to the session.
            BackendEvent::Message { body, .. } => self.session_message(ctx, key, body),
            BackendEvent::Head { .. } | BackendEvent::Position { .. } | BackendEvent::Done => {}
        }
    }

    /// A request of the server that has no place: it hears so.
    pub(super) fn refuse_server(&mut self, ctx: &mut Ctx<'_>, key: SessionKey, envelope: &Envelope, error: &RpcError) {
        self.stats.dropped += 1;
        if let Some(id) = envelope.id().filter(|_| envelope.kind() == Kind::Request) {
            self.answer_for_caller(ctx, key, &id, error);
        }
    }

    /// Answers a question of the server in place of the caller.
    pub(super) fn answer_for_caller(
        &mut self,
        ctx: &mut Ctx<'_>,
        key: SessionKey,
        id: &mcp_sip::jsonrpc::RawId,
        error: &RpcError,
    ) {
        let body = error_response(Some(id), error);
        self.post_session(ctx, key, BackendAction::Post { body }, Call::Post(key));
    }
}

/// The answer with the caller's id: an HTTP server may leave it out of an error.
fn body_for(id: &mcp_sip::jsonrpc::RawId, envelope: &Envelope) -> Bytes {
    if let Some(given) = envelope.id() {
        return if given == *id { envelope.bytes().clone() } else { envelope.with_id(id) };
    }
    let error = RpcError {
        code: envelope.error_code().unwrap_or_default(),
        message: envelope.error_message().unwrap_or_default().into_owned().into(),
        data: envelope.error_data().and_then(|raw| serde_json::from_slice(&raw).ok()),
    };
    error_response(Some(id), &error)
}
