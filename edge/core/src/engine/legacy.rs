//! The legacy session (2025-11-25 and older): `initialize` makes it, the backend's `Mcp-Session-Id` is kept with it.
//! What the server asks in it is in `questions.rs`.

use bytes::Bytes;
use mcp_sip::era::Era;
use mcp_sip::errors::{Executed, RpcError};
use mcp_sip::jsonrpc::{Envelope, Kind, RawId, notification, request};
use serde_json::json;
use session_store::key::SessionKey;
use session_store::op::{StoreError, StoreOp, StoreReply};
use session_store::record::SessionRecord;

use super::Engine;
use super::answer::failure;
use super::exchange::Stage;
use super::forward::OWN_MS;
use super::judge::reread;
use super::pending::{Call, Op};
use super::questions::close_all_nested;
use super::session::{DIALOG_TOUCH_MS, Legacy, MAX_QUEUE, Phase, TOUCH_MS, idle_ms};
use super::stream::LEASE_MS;
use super::timers::Timer;
use super::types::Ctx;
use crate::audit::{AuditKind, Outcome};
use crate::config::AgentBackend;
use crate::effect::{BackendAction, BackendCall, LogLevel};
use crate::input::{BackendEvent, BackendFailure, BackendId};

/// In `SessionRecord::extra`: the backend forgot the session; only `initialize` helps.
const LOST: &str = "lost";

type Reply = Result<StoreReply, StoreError>;

impl Engine {
    // --- what the store knows ---

    /// Takes over what the store says of a session, if it is newer than what is known here.
    pub(super) fn adopt(&mut self, ctx: &mut Ctx<'_>, key: SessionKey, stored: Option<(u64, Box<SessionRecord>)>) {
        let (Some((version, record)), Some(session)) = (stored, self.sessions.get_mut(&key)) else { return };
        let is_theirs = record.principal == session.leg.principal.as_str() && record.agent == session.leg.agent.key;
        if !is_theirs || version <= session.version {
            return;
        }
        session.version = version;
        session.lost = record.extra.contains_key(LOST);
        let phase = if record.initialized { Phase::Ready } else { Phase::Answered };
        match &mut session.legacy {
            Some(legacy) if !session.lost && legacy.record.backend_session == record.backend_session => {
                legacy.record = *record;
                if phase == Phase::Ready && legacy.phase == Phase::Answered {
                    legacy.phase = phase;
                }
                return;
            }
            known => {
                let old = known.take();
                if !session.lost {
                    session.legacy = Some(Legacy::new(*record, phase));
                    session.table.set_era(Era::Legacy);
                }
                if let Some(call) = old.and_then(|old| old.stream_call()) {
                    self.cancel_call(call);
                }
            }
        }
        self.wind_alarm(ctx, key);
        if self.phase_is(key, &Phase::Ready) {
            self.open_stream(ctx, key);
        }
    }

    fn phase_is(&self, key: SessionKey, phase: &Phase) -> bool {
        self.sessions.get(&key).and_then(|session| session.legacy.as_ref()).is_some_and(|legacy| legacy.phase == *phase)
    }

    pub(super) fn wind_alarm(&mut self, ctx: &Ctx<'_>, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        session.idle_ms = idle_ms(&session.leg, ctx.config);
        let after = if session.leg.key.in_dialog() { DIALOG_TOUCH_MS } else { session.idle_ms };
        self.timers.set(Timer::Session(key), ctx.now.mono.plus_millis(after));
    }

    /// The record that some messages waited for was read.
    pub(super) fn loaded(&mut self, ctx: &mut Ctx<'_>, key: SessionKey, reply: Reply) {
        if let Ok(StoreReply::Session { version, record }) = reply {
            self.adopt(ctx, key, Some((version, record)));
        }
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let waiting = session.loading.take().unwrap_or_default();
        let leg = session.leg.clone();
        if session.legacy.is_some() {
            for message in waiting {
                self.other(ctx, &leg, message.header, message.body);
            }
        } else {
            self.stats.unmatched += waiting.len() as u64;
        }
        self.settle(key);
    }

    pub(super) fn changed(&mut self, key: SessionKey, reply: &Reply) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        session.writes = session.writes.saturating_sub(1);
        if let Ok(StoreReply::Version(version)) = reply {
            session.version = session.version.max(*version);
        }
        self.settle(key);
    }

    /// Moves the idle end of the record, where no journal entry did that.
    pub(super) fn touch(&mut self, ctx: &mut Ctx<'_>, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        if ctx.now.mono.millis_since(session.touched) < TOUCH_MS {
            return;
        }
        session.touched = ctx.now.mono;
        let ttl_ms = session.ttl_ms(ctx.config);
        self.store(ctx, StoreOp::ReadSession { session: key, ttl_ms }, Op::Touch(key));
    }

    pub(super) fn write_record(&mut self, ctx: &mut Ctx<'_>, key: SessionKey, record: SessionRecord, waiting: Op) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        session.writes += 1;
        let (version, ttl_ms) = (session.version, session.ttl_ms(ctx.config));
        self.store(ctx, StoreOp::WriteSession { session: key, version, record: Box::new(record), ttl_ms }, waiting);
    }

    // --- initialize ---

    /// The backend accepted the caller's `initialize`: the session is stored before the answer leaves.
    pub(super) fn initialize_answered(&mut self, ctx: &mut Ctx<'_>, no: u64, envelope: Envelope) {
        let Some(exchange) = self.exchanges.get_mut(&no) else { return };
        let (Some(version), Stage::Forwarded { call, at }) = (envelope.result_protocol_version(), &exchange.stage)
        else {
            let error = failure(BackendFailure::Garbage, false, 0);
            return self.fail(ctx, no, error);
        };
        let (key, call, at) = (exchange.session, *call, *at);
        let record = SessionRecord {
            principal: exchange.leg.principal.as_str().to_owned(),
            agent: exchange.about.agent_key().to_owned(),
            version: Some(version.into_owned()),
            backend_session: exchange.backend_session.take(),
            initialized: false,
            call_id: exchange.leg.call_id.clone(),
            extra: Default::default(),
        };
        exchange.stage = Stage::Holding { answer: envelope.bytes().clone(), at };
        self.spend(ctx, call);
        let waiting = Op::Create { session: key, exchange: no, record: Box::new(record.clone()), again: false };
        self.write_record(ctx, key, record, waiting);
    }

    pub(super) fn created(
        &mut self,
        ctx: &mut Ctx<'_>,
        key: SessionKey,
        no: u64,
        record: Box<SessionRecord>,
        again: bool,
        reply: Reply,
    ) {
        let version = match self.version_of(key, &reply, again) {
            Wrote::Version(version) if !self.exchanges.contains_key(&no) => {
                return self.uncreate(ctx, key, version, &record);
            }
            Wrote::Version(version) => version,
            Wrote::Again => {
                let waiting = Op::Create { session: key, exchange: no, record: record.clone(), again: true };
                return self.write_record(ctx, key, *record, waiting);
            }
            Wrote::No => {
                self.end_backend(ctx, &record);
                self.fail(ctx, no, RpcError::unavailable());
                return self.settle(key);
            }
        };
        let Some(exchange) = self.exchanges.get_mut(&no) else { return };
        let Stage::Holding { answer, .. } = &exchange.stage else { return };
        let (body, leg) = (answer.clone(), exchange.leg.clone());
        if let Some(session) = self.sessions.get_mut(&key) {
            session.version = version;
            session.lost = false;
            let old = session.legacy.replace(Legacy::new(*record, Phase::Answered));
            close_all_nested(session);
            session.table.set_era(Era::Legacy);
            if let Some(old) = old {
                if let Some(call) = old.stream_call() {
                    self.cancel_call(call);
                }
                self.end_backend(ctx, &old.record);
                for queued in old.queue {
                    self.fail(ctx, queued, RpcError::interrupted(true, Executed::No));
                }
            }
        }
        self.wind_alarm(ctx, key);
        self.session_told(ctx, &leg, AuditKind::SessionStart);
        self.conclude(ctx, no, Some(body), Outcome::Ok);
    }

    /// Nobody waits for the new session any more: what was there before is there again.
    fn uncreate(&mut self, ctx: &mut Ctx<'_>, key: SessionKey, version: u64, record: &SessionRecord) {
        self.end_backend(ctx, record);
        let Some(session) = self.sessions.get_mut(&key) else { return };
        session.version = version;
        let before = match &session.legacy {
            Some(legacy) => legacy.record.clone(),
            None => {
                session.lost = true;
                lost(record)
            }
        };
        self.write_record(ctx, key, before, Op::Change(key));
        self.wind_alarm(ctx, key);
    }

    fn version_of(&mut self, key: SessionKey, reply: &Reply, again: bool) -> Wrote {
        let Some(session) = self.sessions.get_mut(&key) else { return Wrote::No };
        session.writes = session.writes.saturating_sub(1);
        match reply {
            Ok(StoreReply::Version(version)) => Wrote::Version(*version),
            // An older session of this leg: the new one takes its place.
            Ok(StoreReply::SessionConflict { version, .. }) if !again => {
                session.version = *version;
                Wrote::Again
            }
            Ok(StoreReply::Unknown) if !again => {
                session.version = 0;
                Wrote::Again
            }
            _ => Wrote::No,
        }
    }

    /// A draft peer whose envelope stands for `initialize` (mcp.md 5.1): the edge initializes in its place.
    pub(super) fn initialize_for(&mut self, ctx: &mut Ctx<'_>, no: u64) {
        let Some(exchange) = self.exchanges.get(&no) else { return };
        let (key, leg, agent) = (exchange.session, exchange.leg.clone(), exchange.about.agent_key().to_owned());
        let traceparent = exchange.about.trace.header();
        let AgentBackend::McpHttp { revisions } = &leg.agent.backend else { return };
        let version = revisions.iter().find(|version| Era::of_version(version) == Some(Era::Legacy));
        let version = version.map_or(mcp_sip::era::LEGACY[0], String::as_str);
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let record = SessionRecord {
            principal: leg.principal.as_str().to_owned(),
            agent: agent.clone(),
            version: Some(version.to_owned()),
            call_id: leg.call_id.clone(),
            ..SessionRecord::default()
        };
        let mut legacy = Legacy::new(record, Phase::Initializing);
        legacy.queue.push_back(no);
        session.legacy = Some(legacy);
        session.table.set_era(Era::Legacy);
        let id = RawId::from_random(&ctx.random.bytes());
        let params = json!({
            "protocolVersion": version,
            "capabilities": {},
            "clientInfo": { "name": "sipmcp-edge", "version": env!("CARGO_PKG_VERSION") },
        });
        let call = BackendCall {
            agent,
            action: BackendAction::Post { body: request(&id, "initialize", Some(&params)) },
            session: None,
            protocol_version: None,
            headers: Vec::new(),
            traceparent: Some(traceparent),
            timeout_ms: OWN_MS,
        };
        self.wind_alarm(ctx, key);
        self.own_call(ctx, Call::Implicit { session: key, id, backend_session: None }, call);
    }

    pub(super) fn implicit_event(
        &mut self,
        ctx: &mut Ctx<'_>,
        call: BackendId,
        key: SessionKey,
        id: &RawId,
        backend_session: Option<String>,
        event: &BackendEvent,
    ) {
        let how = match event {
            BackendEvent::Head { .. } | BackendEvent::Position { .. } => return,
            BackendEvent::Message { body, .. } => {
                let envelope = reread(body);
                let version = envelope
                    .as_ref()
                    .filter(|e| e.kind() == Kind::Response && e.id().is_some_and(|given| given.same(id)))
                    .and_then(Envelope::result_protocol_version);
                match (version, &envelope) {
                    (Some(version), _) => {
                        let version = version.into_owned();
                        self.spend(ctx, call);
                        return self.implicit_answered(ctx, key, version, backend_session);
                    }
                    (None, Some(envelope)) if envelope.method().is_some() => return,
                    _ => BackendFailure::Garbage,
                }
            }
            BackendEvent::Done => BackendFailure::Interrupted,
            BackendEvent::Failed(failure) => *failure,
        };
        self.spend(ctx, call);
        self.opening_failed(ctx, key, &failure(how, true, 0));
    }

    fn implicit_answered(
        &mut self,
        ctx: &mut Ctx<'_>,
        key: SessionKey,
        version: String,
        backend_session: Option<String>,
    ) {
        let legacy = self.sessions.get(&key).and_then(|session| session.legacy.as_ref());
        let Some(legacy) = legacy.filter(|legacy| legacy.phase == Phase::Initializing) else { return };
        let record = SessionRecord { version: Some(version), backend_session, ..legacy.record.clone() };
        let waiting = Op::CreateImplicit { session: key, record: Box::new(record.clone()), again: false };
        self.write_record(ctx, key, record, waiting);
    }

    pub(super) fn created_implicit(
        &mut self,
        ctx: &mut Ctx<'_>,
        key: SessionKey,
        record: Box<SessionRecord>,
        again: bool,
        reply: Reply,
    ) {
        let wrote = self.version_of(key, &reply, again);
        match wrote {
            Wrote::Version(version) if !self.phase_is(key, &Phase::Initializing) => {
                self.uncreate(ctx, key, version, &record);
            }
            _ if !self.phase_is(key, &Phase::Initializing) => self.end_backend(ctx, &record),
            Wrote::Version(version) => {
                if let Some(session) = self.sessions.get_mut(&key)
                    && let Some(legacy) = &mut session.legacy
                {
                    session.version = version;
                    legacy.record = *record;
                    legacy.phase = Phase::Opening { initialized: notification("notifications/initialized", None) };
                }
                self.open_stream(ctx, key);
            }
            Wrote::Again => {
                let waiting = Op::CreateImplicit { session: key, record: record.clone(), again: true };
                self.write_record(ctx, key, *record, waiting);
            }
            Wrote::No => {
                self.end_backend(ctx, &record);
                self.opening_failed(ctx, key, &RpcError::unavailable());
            }
        }
    }

    /// The edge's own `initialize` led nowhere: whoever waited for it hears so.
    fn opening_failed(&mut self, ctx: &mut Ctx<'_>, key: SessionKey, error: &RpcError) {
        if !self.phase_is(key, &Phase::Initializing) {
            return;
        }
        let Some(legacy) = self.sessions.get_mut(&key).and_then(|session| session.legacy.take()) else { return };
        self.stats.dropped += legacy.notes.len() as u64;
        self.stats.backend_failed(ctx.config, &legacy.record.agent);
        for no in legacy.queue {
            self.fail(ctx, no, error.clone());
        }
        self.settle(key);
    }

    // --- what the caller sends beside requests ---

    pub(super) fn notification(&mut self, ctx: &mut Ctx<'_>, key: SessionKey, envelope: &Envelope) {
        let Some(legacy) = self.sessions.get_mut(&key).and_then(|session| session.legacy.as_mut()) else { return };
        if envelope.method() == Some("notifications/initialized") && legacy.phase != Phase::Ready {
            // The first one counts. It waits until the server's stream is open: some ask for roots there, right away.
            if legacy.phase == Phase::Answered {
                legacy.phase = Phase::Opening { initialized: envelope.bytes().clone() };
                self.open_stream(ctx, key);
            }
            return;
        }
        self.post_or_queue(ctx, key, envelope.bytes().clone());
    }

    pub(super) fn post_or_queue(&mut self, ctx: &mut Ctx<'_>, key: SessionKey, body: Bytes) {
        let Some(legacy) = self.sessions.get_mut(&key).and_then(|session| session.legacy.as_mut()) else { return };
        if legacy.takes_requests() {
            self.post_session(ctx, key, BackendAction::Post { body }, Call::Post(key));
        } else if legacy.notes.len() < MAX_QUEUE {
            legacy.notes.push_back(body);
        } else {
            self.stats.dropped += 1;
        }
    }

    // --- opening, in order ---

    /// The stream is open, or will not be: now the server may hear that the caller is ready.
    pub(super) fn announce(&mut self, ctx: &mut Ctx<'_>, key: SessionKey) {
        let Some(legacy) = self.sessions.get_mut(&key).and_then(|session| session.legacy.as_mut()) else { return };
        let Phase::Opening { initialized } = &legacy.phase else { return };
        if !ctx.has_lease() {
            return self.timers.set(Timer::Stream(key), ctx.now.mono.plus_millis(LEASE_MS));
        }
        let body = initialized.clone();
        legacy.phase = Phase::Announcing;
        self.post_session(ctx, key, BackendAction::Post { body }, Call::Initialized(key));
    }

    pub(super) fn initialized_event(&mut self, ctx: &mut Ctx<'_>, key: SessionKey, event: &BackendEvent) {
        match event {
            BackendEvent::Failed(BackendFailure::SessionGone) => self.lose(ctx, key),
            BackendEvent::Message { body, .. } => self.session_message(ctx, key, body),
            BackendEvent::Position { .. } => {}
            BackendEvent::Head { .. } | BackendEvent::Done | BackendEvent::Failed(_) => self.ready(ctx, key),
        }
    }

    /// What waited goes on, in order. Where the backend did not hear the notification, each request meets that itself.
    fn ready(&mut self, ctx: &mut Ctx<'_>, key: SessionKey) {
        let Some(legacy) = self.sessions.get_mut(&key).and_then(|session| session.legacy.as_mut()) else { return };
        if legacy.phase != Phase::Announcing {
            return;
        }
        legacy.phase = Phase::Ready;
        legacy.record.initialized = true;
        let (queue, notes) = (std::mem::take(&mut legacy.queue), std::mem::take(&mut legacy.notes));
        let record = legacy.record.clone();
        self.write_record(ctx, key, record, Op::Change(key));
        for no in queue {
            self.forward(ctx, no);
        }
        for body in notes {
            self.post_or_queue(ctx, key, body);
        }
    }

    /// The backend forgot the session: the caller must initialize again. What waited surely did not run.
    pub(super) fn lose(&mut self, ctx: &mut Ctx<'_>, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let Some(legacy) = session.legacy.take() else { return };
        session.lost = true;
        close_all_nested(session);
        let record = lost(&legacy.record);
        self.timers.clear(Timer::Asked(key));
        self.timers.clear(Timer::Stream(key));
        if let Some(call) = legacy.stream_call() {
            self.cancel_call(call);
        }
        self.log(LogLevel::Info, format!("the backend of {} forgot a session", legacy.record.agent));
        self.write_record(ctx, key, record, Op::Change(key));
        self.stats.dropped += legacy.notes.len() as u64;
        for no in legacy.queue {
            self.fail(ctx, no, RpcError::interrupted(true, Executed::No));
        }
    }
}

/// The record of a session that is no more.
fn lost(record: &SessionRecord) -> SessionRecord {
    let mut record = SessionRecord { backend_session: None, initialized: false, ..record.clone() };
    record.extra.insert(LOST.into(), String::new());
    record
}

/// How a write of a session record ended.
enum Wrote {
    Version(u64),
    Again,
    No,
}
