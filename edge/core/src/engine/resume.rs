//! What an adopted exchange gets of its backend: the same request again, the task that was made of it, the rest of its stream, or nothing.

use bytes::Bytes;
use mcp_sip::era::{Era, mirrors};
use mcp_sip::errors::{Executed, RpcError};
use mcp_sip::jsonrpc::{Envelope, Kind, META_CLIENT_CAPABILITIES, META_PROTOCOL_VERSION, Mirror, RawId, request};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use session_store::key::SessionKey;
use session_store::op::{CloseExchange, StoreError, StoreOp, StoreReply};
use session_store::record::ExchangeNote;

use super::Engine;
use super::about::outcome_of;
use super::adopt::AGAIN_MS;
use super::answer::failure;
use super::deliver::Writes;
use super::exchange::{Exchange, Resumed, Stage};
use super::judge::reread;
use super::pending::{Call, Op, Purpose};
use super::timers::Timer;
use super::types::{Ctx, EngineOut};
use crate::audit::Outcome;
use crate::config::AgentBackend;
use crate::effect::{BackendAction, BackendCall};
use crate::input::BackendFailure;

/// The extension that tasks of 2026-07-28 are (SEP-2663).
const TASKS: &str = "io.modelcontextprotocol/tasks";

/// What can be done for an exchange whose edge is gone.
#[derive(Clone, Debug)]
pub(super) enum Plan {
    /// It was answered, and nobody knows whether the caller heard it: the answer again.
    Answer(Bytes),
    /// Declared safe: the request again, with an id of ours.
    Replay(Envelope),
    /// Ask for its task.
    Task(String),
    /// Ask for the rest of its stream, in the backend session that it ran in.
    Stream { event: String, backend_session: Option<String> },
    /// The typed error: the caller decides.
    Give,
    /// Ours from the beginning, and not forwarded: there was no lease.
    Forward,
}

impl Engine {
    /// Begins with what the plan says, or waits for the lease and for the session.
    pub(super) fn resume(&mut self, ctx: &mut Ctx<'_>, no: u64, plan: Plan) {
        let Some(exchange) = self.exchanges.get(&no) else { return };
        let key = exchange.session;
        let is_modern = exchange.era == Era::Modern;
        match plan {
            Plan::Give => {
                let error = failure(BackendFailure::Interrupted, exchange.is_safe, 0);
                self.fail(ctx, no, error);
            }
            Plan::Answer(body) => self.give_again(ctx, no, body),
            Plan::Forward => self.forward(ctx, no),
            plan if !ctx.has_lease() => {
                self.plans.insert(no, plan);
                self.timers.set(Timer::Orphan(no), ctx.now.mono.plus_millis(AGAIN_MS));
            }
            Plan::Replay(request) if is_modern => self.replay(ctx, no, &request),
            plan if self.sessions.get(&key).is_some_and(|session| session.legacy.is_some()) => {
                self.resume_in_session(ctx, no, plan);
            }
            plan => {
                self.plans.insert(no, plan);
                let ttl_ms = self.sessions.get(&key).map_or(0, |session| session.ttl_ms(ctx.config));
                self.store(ctx, StoreOp::ReadSession { session: key, ttl_ms }, Op::ResumeSession(no));
            }
        }
    }

    pub(super) fn resume_again(&mut self, ctx: &mut Ctx<'_>, no: u64) {
        if let Some(plan) = self.plans.remove(&no) {
            self.resume(ctx, no, plan);
        }
    }

    /// The legacy session of an adopted exchange was read.
    pub(super) fn resume_session(&mut self, ctx: &mut Ctx<'_>, no: u64, reply: Result<StoreReply, StoreError>) {
        let Some(plan) = self.plans.remove(&no) else { return };
        let Some(key) = self.exchanges.get(&no).map(|exchange| exchange.session) else { return };
        match reply {
            Ok(StoreReply::Session { version, record }) => self.adopt(ctx, key, Some((version, record))),
            Ok(_) => {}
            Err(_) => {
                self.plans.insert(no, plan);
                return self.timers.set(Timer::Orphan(no), ctx.now.mono.plus_millis(AGAIN_MS));
            }
        }
        if ctx.has_lease() {
            self.resume_in_session(ctx, no, plan);
        } else {
            self.resume(ctx, no, plan);
        }
    }

    fn resume_in_session(&mut self, ctx: &mut Ctx<'_>, no: u64, plan: Plan) {
        let Some(exchange) = self.exchanges.get_mut(&no) else { return };
        let legacy = self.sessions.get(&exchange.session).and_then(|session| session.legacy.as_ref());
        match (plan, legacy) {
            (Plan::Replay(request), Some(_)) => self.replay(ctx, no, &request),
            (Plan::Stream { event, backend_session }, Some(legacy))
                if backend_session == legacy.record.backend_session =>
            {
                self.listen_again(ctx, no, event);
            }
            (Plan::Task(task), legacy) => {
                exchange.era = if legacy.is_some() { Era::Legacy } else { Era::Modern };
                self.ask_for_task(ctx, no, &task);
            }
            (Plan::Replay(_) | Plan::Stream { .. } | Plan::Give | Plan::Answer(_) | Plan::Forward, _) => {
                self.resume(ctx, no, Plan::Give)
            }
        }
    }

    /// What stands in the journal; it was told to the audit log before it was written there.
    fn give_again(&mut self, ctx: &mut Ctx<'_>, no: u64, body: Bytes) {
        let Some(exchange) = self.take(ctx, no) else { return };
        let journal = Some(Box::new(self.journal(ctx, &exchange)));
        let Exchange { leg, header, id, session, key, owner, .. } = exchange;
        let ends = CloseExchange { key, owner, answer: None, is_held: false };
        let writes = Writes { ends: Some(Box::new(ends)), journal, ..Writes::default() };
        self.deliver(ctx, leg, header, body, writes, Purpose::Final(id));
        self.settle(session);
    }

    /// The same request with an id of ours: the backend may still be busy with the first one (mcp.md 5.5).
    fn replay(&mut self, ctx: &mut Ctx<'_>, no: u64, request: &Envelope) {
        let id = RawId::from_random(&ctx.random.bytes());
        let Some(exchange) = self.exchanges.get_mut(&no) else { return };
        exchange.envelope = reread(&request.with_id(&id));
        exchange.upstream = Some(id.clone());
        self.note_down(ctx, no, ExchangeNote { upstream_id: Some(id.as_str().to_owned()), ..ExchangeNote::default() });
        self.stats.replays += 1;
        self.forward(ctx, no);
    }

    /// GET with `Last-Event-ID`: the server sends what came after it.
    fn listen_again(&mut self, ctx: &mut Ctx<'_>, no: u64, event: String) {
        let Some(exchange) = self.exchanges.get_mut(&no) else { return };
        let Some(legacy) = self.sessions.get(&exchange.session).and_then(|session| session.legacy.as_ref()) else {
            return;
        };
        let id = ctx.ids.backend();
        exchange.stage = Stage::Forwarded { call: id, at: ctx.now };
        exchange.resumed = Some(Resumed::Stream);
        let call = BackendCall {
            agent: legacy.record.agent.clone(),
            action: BackendAction::Listen { last_event_id: Some(event) },
            session: legacy.record.backend_session.clone(),
            protocol_version: legacy.record.version.clone(),
            headers: Vec::new(),
            traceparent: Some(exchange.about.trace.header()),
            timeout_ms: 0,
        };
        self.stats.resumes += 1;
        self.calls.insert(id, Call::Exchange(no));
        self.out.push_back(EngineOut::Backend { id, call });
    }

    /// `tasks/get`, in the form of the era.
    fn ask_for_task(&mut self, ctx: &mut Ctx<'_>, no: u64, task: &str) {
        let id = RawId::from_random(&ctx.random.bytes());
        let Some(exchange) = self.exchanges.get_mut(&no) else { return };
        let legacy = self.sessions.get(&exchange.session).and_then(|session| session.legacy.as_ref());
        let (params, session, version) = match legacy {
            Some(legacy) => {
                (json!({ "taskId": task }), legacy.record.backend_session.clone(), legacy.record.version.clone())
            }
            None => {
                let version = modern_version(&exchange.leg.agent.backend);
                let meta = json!({
                    META_PROTOCOL_VERSION: version,
                    META_CLIENT_CAPABILITIES: { "extensions": { TASKS: {} } },
                });
                (json!({ "taskId": task, "_meta": meta }), None, Some(version.to_owned()))
            }
        };
        let Some(envelope) = reread(&request(&id, "tasks/get", Some(&params))) else { return };
        let mut headers = mirrors(&envelope, exchange.era, None, None).unwrap_or_default();
        headers.retain(|(name, _)| !name.eq_ignore_ascii_case("MCP-Protocol-Version"));
        exchange.envelope = Some(envelope);
        exchange.upstream = Some(id);
        exchange.resumed = Some(Resumed::Task);
        // A mirror that is found wrong here is not made again from a tool's schema.
        exchange.retried = true;
        self.stats.resumes += 1;
        self.post(ctx, no, session, version, headers);
    }

    /// The state of the task: its result, or the task itself, which is an answer to the request, too.
    pub(super) fn task_answered(&mut self, ctx: &mut Ctx<'_>, no: u64, envelope: &Envelope) {
        let Some(exchange) = self.exchanges.get(&no) else { return };
        let answer = task_answer(&exchange.id, exchange.era, envelope);
        match answer {
            Some(body) => {
                let outcome = reread(&body).map_or(Outcome::Ok, |answer| outcome_of(&answer, true));
                self.conclude(ctx, no, Some(body), outcome);
            }
            // It is gone, or was cancelled: whatever it did is done.
            None => self.fail(ctx, no, RpcError::interrupted(false, Executed::Unknown)),
        }
    }

    // --- ids ---

    /// A message of the backend, as the caller knows its exchange: with the caller's id in place of ours.
    pub(super) fn downstream(&self, no: u64, envelope: Envelope) -> Envelope {
        let Some((id, upstream)) =
            self.exchanges.get(&no).and_then(|exchange| Some((&exchange.id, exchange.upstream.as_ref()?)))
        else {
            return envelope;
        };
        let is_ours = |given: Option<RawId>| given.is_some_and(|given| given.same(upstream));
        let mut changes = Vec::new();
        match envelope.kind() {
            Kind::Response | Kind::Error if is_ours(envelope.id()) => changes.push((Mirror::Id, id)),
            Kind::Notification if is_ours(envelope.request_id()) => changes.push((Mirror::RequestId, id)),
            _ => {}
        }
        if is_ours(envelope.meta_subscription_id()) {
            changes.push((Mirror::SubscriptionId, id));
        }
        if changes.is_empty() {
            return envelope;
        }
        reread(&envelope.rewritten(&changes)).unwrap_or(envelope)
    }

    /// The same for what comes on the session's own stream: an answer to one of its open requests.
    pub(super) fn downstream_of_session(&self, key: SessionKey, envelope: Envelope) -> Envelope {
        let (Some(given), Some(session)) = (envelope.id(), self.sessions.get(&key)) else { return envelope };
        if envelope.kind() == Kind::Request {
            return envelope;
        }
        let is_it = |no: &&u64| {
            let upstream = self.exchanges.get(*no).and_then(|exchange| exchange.upstream.as_ref());
            upstream.is_some_and(|upstream| upstream.same(&given))
        };
        match session.open.values().find(is_it) {
            Some(no) => self.downstream(*no, envelope),
            None => envelope,
        }
    }

    // --- what another edge would need ---

    /// Keeps in the journal what became known. Nothing waits for it; while one note is being written the next ones become one.
    pub(super) fn note_down(&mut self, ctx: &mut Ctx<'_>, no: u64, note: ExchangeNote) {
        let Some(exchange) = self.exchanges.get_mut(&no) else { return };
        let known = &mut exchange.noted.known;
        known.event_id = note.event_id.clone().or(known.event_id.take());
        known.task = note.task.clone().or(known.task.take());
        known.upstream_id = note.upstream_id.clone().or(known.upstream_id.take());
        known.backend_session = note.backend_session.clone().or(known.backend_session.take());
        let next = &mut exchange.noted.next;
        next.event_id = note.event_id.or(next.event_id.take());
        next.task = note.task.or(next.task.take());
        next.upstream_id = note.upstream_id.or(next.upstream_id.take());
        next.backend_session = note.backend_session.or(next.backend_session.take());
        if exchange.noted.is_writing || *next == ExchangeNote::default() {
            return;
        }
        exchange.noted.is_writing = true;
        let note = std::mem::take(next);
        let operation = StoreOp::NoteExchange { key: exchange.key, owner: exchange.owner, note };
        self.store(ctx, operation, Op::Noted(no));
    }

    pub(super) fn note_written(&mut self, ctx: &mut Ctx<'_>, no: u64, reply: &Result<StoreReply, StoreError>) {
        let Some(exchange) = self.exchanges.get_mut(&no) else { return };
        exchange.noted.is_writing = false;
        // Unless it is about to be adopted by this edge's next life.
        if *reply == Ok(StoreReply::Fenced) && exchange.owner == ctx.owner {
            return self.fenced(ctx, no);
        }
        self.note_down(ctx, no, ExchangeNote::default());
    }

    /// Somebody else answers this exchange now: not a word more of it, and its call is dropped. A legacy server is told nothing: the new
    /// owner may be waiting for that same call.
    pub(super) fn fenced(&mut self, ctx: &mut Ctx<'_>, no: u64) {
        let Some(exchange) = self.exchanges.get(&no) else { return };
        let key = exchange.session;
        if let Some(call) = exchange.call() {
            self.cancel_call(call);
        }
        self.take(ctx, no);
        self.stats.fenced += 1;
        self.settle(key);
    }

    /// The position in the answer's stream, and the task, where a message of the backend tells them.
    pub(super) fn learn(&mut self, ctx: &mut Ctx<'_>, no: u64, body: Option<&Bytes>, event_id: Option<String>) {
        let Some(exchange) = self.exchanges.get(&no).filter(|exchange| exchange.is_noteworthy()) else { return };
        let mut note = ExchangeNote::default();
        if exchange.era == Era::Legacy {
            note.event_id = event_id;
            let session = self.sessions.get(&exchange.session).and_then(|session| session.legacy.as_ref());
            note.backend_session = session
                .and_then(|legacy| legacy.record.backend_session.clone())
                .filter(|_| note.event_id.is_some() && exchange.noted.next.backend_session.is_none());
        }
        note.task = body.and_then(task_of);
        self.note_down(ctx, no, note);
    }
}

fn modern_version(backend: &AgentBackend) -> &str {
    let revisions: &[String] = match backend {
        AgentBackend::McpHttp { revisions } => revisions,
        AgentBackend::SipContact { .. } => &[],
    };
    let modern = revisions.iter().find(|version| Era::of_version(version) == Some(Era::Modern));
    modern.map_or("2026-07-28", String::as_str)
}

/// The task that a notification speaks of.
fn task_of(body: &Bytes) -> Option<String> {
    #[derive(Deserialize)]
    struct Related {
        #[serde(rename = "taskId")]
        task: String,
    }
    #[derive(Deserialize)]
    struct Meta {
        #[serde(rename = "io.modelcontextprotocol/related-task")]
        related: Option<Related>,
    }
    #[derive(Deserialize)]
    struct Params {
        #[serde(rename = "_meta")]
        meta: Option<Meta>,
        #[serde(rename = "taskId")]
        task: Option<String>,
    }
    /// No server's task id is longer; a longer one is not worth a place in the journal.
    const MAX: usize = 256;
    let envelope = reread(body)?;
    let method = envelope.method()?;
    let params = serde_json::from_slice::<Params>(&envelope.params()?).ok()?;
    let named = params.task.filter(|_| matches!(method, "notifications/tasks" | "notifications/tasks/status"));
    let related = params.meta.and_then(|meta| meta.related).map(|related| related.task);
    named.or(related).filter(|task| task.len() <= MAX)
}

/// What `tasks/get` brought, as the answer to the request that the task was made of.
fn task_answer(id: &RawId, era: Era, envelope: &Envelope) -> Option<Bytes> {
    #[derive(Deserialize)]
    struct Task<'a> {
        status: String,
        #[serde(borrow)]
        result: Option<&'a RawValue>,
        #[serde(borrow)]
        error: Option<&'a RawValue>,
    }
    let raw = envelope.result()?;
    let task = serde_json::from_slice::<Task<'_>>(&raw).ok()?;
    let answer = |member: &str, value: &str| {
        Bytes::from(format!("{{\"jsonrpc\":\"2.0\",\"id\":{},\"{member}\":{value}}}", id.as_str()))
    };
    match (era, task.status.as_str(), task.result, task.error) {
        // The caller asks for the result by `tasks/result`, whatever the state.
        (Era::Legacy, _, _, _) => {
            let mut task: Value = serde_json::from_slice(&raw).ok()?;
            task.as_object_mut()?.remove("_meta");
            Some(answer("result", &json!({ "task": task }).to_string()))
        }
        (Era::Modern, "completed", Some(result), _) => Some(answer("result", result.get())),
        (Era::Modern, "failed", _, Some(error)) => Some(answer("error", error.get())),
        (Era::Modern, "working" | "input_required", _, _) => {
            let mut task: Value = serde_json::from_slice(&raw).ok()?;
            task.as_object_mut()?.insert("resultType".into(), "task".into());
            Some(answer("result", &task.to_string()))
        }
        (Era::Modern, _, _, _) => None,
    }
}
