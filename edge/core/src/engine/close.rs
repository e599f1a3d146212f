//! The end of legs and sessions, and what a change of the configuration ends.

use bytes::Bytes;
use mcp_sip::era::Era;
use mcp_sip::errors::RpcError;
use session_store::key::SessionKey;
use session_store::op::{StoreError, StoreOp, StoreReply};
use session_store::record::SessionRecord;
use std::sync::Arc;

use super::Engine;
use super::about::address;
use super::access::Access;
use super::answer::cancellation;
use super::deliver::deliveries_of;
use super::forward::OWN_MS;
use super::pending::{Call, Farewell, Fate, Op};
use super::session::{DIALOG_TOUCH_MS, IDLE_GRACE_MS, idle_ms};
use super::timers::Timer;
use super::types::{Closing, Ctx, DeliveryId, EngineOut, Leg, LegKey};
use crate::audit::{AuditKind, AuditRecord, Outcome};
use crate::effect::{BackendAction, BackendCall};
use crate::text;

/// An idle session whose end the store did not take is tried again after so long; milliseconds.
const AGAIN_MS: u64 = 30_000;

impl Engine {
    /// A leg is gone: its plain exchanges are cancelled, its legacy session ends at the backend, its records go.
    pub fn leg_closed(&mut self, ctx: &mut Ctx<'_>, leg: &LegKey, _reason: Closing) {
        let key = leg.session();
        for judged in self.tickets.values_mut().filter(|judged| judged.leg.session == key) {
            judged.fate = Fate::LegClosed;
        }
        self.doubts_end(key);
        let gone: Vec<DeliveryId> = self.leg_deliveries.range(deliveries_of(key)).map(|(_, id)| *id).collect();
        let answered: Vec<_> = gone.into_iter().filter_map(|id| self.remove(id)?.ends).collect();
        for ends in answered {
            self.store(ctx, StoreOp::CloseExchange(*ends), Op::Forget);
        }
        if self.sessions.contains_key(&key) {
            self.end(ctx, key);
        } else {
            // Perhaps another core served it.
            self.store(ctx, StoreOp::ReadSession { session: key, ttl_ms: 0 }, Op::LoadForEnd(key));
        }
    }

    pub(super) fn loaded_for_end(&mut self, ctx: &mut Ctx<'_>, key: SessionKey, reply: Result<StoreReply, StoreError>) {
        if let Ok(StoreReply::Session { record, .. }) = reply {
            self.end_backend(ctx, &record);
            let operation = StoreOp::DropSession { session: key, if_ends_within_ms: None };
            self.store(ctx, operation, Op::Forget);
        }
    }

    /// Ends everything of a leg. Nobody hears an answer any more.
    fn end(&mut self, ctx: &mut Ctx<'_>, key: SessionKey) {
        let Some(session) = self.sessions.get(&key) else { return };
        let open: Vec<u64> = session.open.values().copied().collect();
        let leg = session.leg.clone();
        // A record that is being written or read may be there, too.
        let mut is_stored = session.version > 0 || session.writes > 0 || session.loading.is_some();
        let mut cancellations = Vec::new();
        for no in open {
            let Some(exchange) = self.exchanges.get(&no) else { continue };
            if let Some(call) = exchange.call() {
                if exchange.era == Era::Legacy && !exchange.is_initialize() {
                    cancellations.push(cancellation(exchange));
                }
                self.cancel_call(call);
            }
            let Some(exchange) = self.take(ctx, no) else { continue };
            self.tell(ctx, &exchange.about, exchange.forwarded_at(), Outcome::Cancelled);
            is_stored = true;
        }
        let legacy = self.forget(key).and_then(|session| session.legacy);
        if let Some(legacy) = legacy {
            if let Some(call) = legacy.stream_call() {
                self.cancel_call(call);
            }
            self.farewell(ctx, &legacy.record, cancellations);
            self.session_told(ctx, &leg, AuditKind::SessionEnd);
        }
        if is_stored {
            let operation = StoreOp::DropSession { session: key, if_ends_within_ms: None };
            self.store(ctx, operation, Op::Forget);
        }
    }

    /// Ends a session at the backend.
    pub(super) fn end_backend(&mut self, ctx: &mut Ctx<'_>, record: &SessionRecord) {
        self.farewell(ctx, record, Vec::new());
    }

    /// First what must be heard while the session is there, then DELETE.
    fn farewell(&mut self, ctx: &mut Ctx<'_>, record: &SessionRecord, cancellations: Vec<Bytes>) {
        let call = |action| BackendCall {
            agent: record.agent.clone(),
            action,
            session: record.backend_session.clone(),
            protocol_version: record.version.clone(),
            headers: Vec::new(),
            traceparent: None,
            timeout_ms: OWN_MS,
        };
        // Without an id there is nothing to delete.
        let has_session = record.backend_session.is_some();
        if cancellations.is_empty() {
            if has_session {
                self.own_call(ctx, Call::Spent, call(BackendAction::EndSession));
            }
            return;
        }
        let no = ctx.ids.number();
        if has_session {
            let delete = call(BackendAction::EndSession);
            self.farewells.insert(no, Farewell { waiting: cancellations.len(), delete });
        }
        for body in cancellations {
            self.own_call(ctx, Call::Farewell(no), call(BackendAction::Post { body }));
        }
    }

    /// One of the last messages arrived, or never will.
    pub(super) fn farewell_step(&mut self, ctx: &mut Ctx<'_>, no: u64) {
        let Some(farewell) = self.farewells.get_mut(&no) else { return };
        farewell.waiting = farewell.waiting.saturating_sub(1);
        if farewell.waiting == 0
            && let Some(farewell) = self.farewells.remove(&no)
        {
            self.own_call(ctx, Call::Spent, farewell.delete);
        }
    }

    /// In a dialog the record is kept alive; out of one an idle session ends.
    pub(super) fn session_alarm(&mut self, ctx: &mut Ctx<'_>, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let now = ctx.now.mono;
        if session.leg.key.in_dialog() {
            session.touched = now;
            let ttl_ms = session.ttl_ms(ctx.config);
            self.timers.set(Timer::Session(key), now.plus_millis(DIALOG_TOUCH_MS));
            self.store(ctx, StoreOp::ReadSession { session: key, ttl_ms }, Op::Touch(key));
            return;
        }
        let idle_ms = idle_ms(&session.leg, ctx.config);
        let idle_at = if session.is_busy() { now.plus_millis(idle_ms) } else { session.last_used.plus_millis(idle_ms) };
        if idle_at > now {
            self.timers.set(Timer::Session(key), idle_at);
        } else {
            // Another edge may serve it; the record knows.
            let operation = StoreOp::DropSession { session: key, if_ends_within_ms: Some(IDLE_GRACE_MS) };
            self.timers.set(Timer::Session(key), now.plus_millis(AGAIN_MS));
            self.store(ctx, operation, Op::EndIdle(key));
        }
    }

    pub(super) fn idle_ended(&mut self, ctx: &mut Ctx<'_>, key: SessionKey, reply: &Result<StoreReply, StoreError>) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        match reply {
            Ok(StoreReply::Done) if session.is_busy() => {
                // It was used in the same moment after all: the record comes back.
                session.version = 0;
                if let Some(legacy) = &session.legacy {
                    let record = legacy.record.clone();
                    self.write_record(ctx, key, record, Op::Change(key));
                }
            }
            Ok(StoreReply::Done) => {
                session.version = 0;
                self.end(ctx, key);
            }
            Ok(_) if session.is_busy() => {}
            // In use elsewhere, or ended there: nothing is left to do here.
            Ok(_) => self.drop_quietly(key),
            // The alarm is set: once more.
            Err(_) => {}
        }
    }

    pub(super) fn touched(&mut self, key: SessionKey, reply: &Result<StoreReply, StoreError>) {
        let is_idle = self.sessions.get(&key).is_some_and(|session| !session.is_busy());
        // The leg closed at another edge.
        if is_idle && *reply == Ok(StoreReply::Unknown) {
            self.drop_quietly(key);
        }
    }

    /// Forgets a session that lives, or ended, at another edge.
    fn drop_quietly(&mut self, key: SessionKey) {
        let legacy = self.forget(key).and_then(|session| session.legacy);
        if let Some(call) = legacy.and_then(|legacy| legacy.stream_call()) {
            self.cancel_call(call);
        }
    }

    /// The start or end of a session out of a dialog; a dialog's own are told by the SIP half.
    pub(super) fn session_told(&mut self, ctx: &Ctx<'_>, leg: &Arc<Leg>, kind: AuditKind) {
        if leg.key.in_dialog() {
            return;
        }
        self.out.push_back(EngineOut::Audit(AuditRecord {
            at: ctx.now.wall,
            kind,
            domain: leg.domain.domain.clone(),
            principal: leg.principal.as_str().to_owned(),
            agent: address(leg),
            method: None,
            tool: None,
            rule: "default".into(),
            outcome: Outcome::Ok,
            call_id: text::shown(&leg.call_id),
            exchange: None,
            conversation: None,
            duration_us: None,
        }));
    }

    /// New configuration: what is no longer allowed ends now, in the middle of a call too (SEC-16).
    pub fn configure(&mut self, ctx: &mut Ctx<'_>) {
        self.stats.configure(ctx.config);
        self.quotas.configure(ctx.config);
        let calls = self.schemas.configure(|key| ctx.config.agents.values().any(|agent| agent.key == key));
        for call in calls {
            self.cancel_call(call);
        }
        let mut revoked = Vec::new();
        for (no, exchange) in &self.exchanges {
            let about = &exchange.about;
            let still = Access::of(ctx.config, &exchange.leg).is_some_and(|access| {
                access.still_allows(&about.method, about.subject.as_deref(), &access.arguments_of(exchange))
            });
            if !still {
                revoked.push(*no);
            }
        }
        for no in revoked {
            let Some(exchange) = self.exchanges.get(&no) else { continue };
            let what = exchange.about.subject.clone().unwrap_or_else(|| exchange.about.method.clone());
            self.stop(ctx, no, None);
            self.fail(ctx, no, RpcError::denied(&what));
        }
        let mut hidden = Vec::new();
        for (key, session) in &self.sessions {
            let sees = Access::of(ctx.config, &session.leg).is_some_and(|access| access.is_visible());
            if session.legacy.is_some() && !sees {
                hidden.push(*key);
            }
        }
        for key in hidden {
            let record = self.sessions.get(&key).and_then(|s| s.legacy.as_ref()).map(|legacy| legacy.record.clone());
            self.lose(ctx, key);
            if let Some(record) = record {
                self.end_backend(ctx, &record);
            }
        }
        self.idle_times(ctx);
    }

    /// Sessions out of a dialog whose idle time changed: it is counted from now on, here and in their records, so that the alarm finds the
    /// record as it left it.
    fn idle_times(&mut self, ctx: &mut Ctx<'_>) {
        let mut changed = Vec::new();
        for (key, session) in &mut self.sessions {
            let (before_ms, now_ms) = (session.idle_ms, idle_ms(&session.leg, ctx.config));
            let Some(legacy) = session.legacy.as_ref().filter(|_| !session.leg.key.in_dialog()) else { continue };
            if before_ms == now_ms {
                continue;
            }
            // A touch only prolongs; what is not stored yet is stored with the new time.
            let rewrite = (now_ms < before_ms && session.version > 0).then(|| legacy.record.clone());
            (session.idle_ms, session.last_used, session.touched) = (now_ms, ctx.now.mono, ctx.now.mono);
            changed.push((*key, rewrite));
        }
        for (key, rewrite) in changed {
            self.wind_alarm(ctx, key);
            match rewrite {
                Some(record) => self.write_record(ctx, key, record, Op::Change(key)),
                None => {
                    let ttl_ms = self.sessions.get(&key).map_or(0, |session| session.ttl_ms(ctx.config));
                    self.store(ctx, StoreOp::ReadSession { session: key, ttl_ms }, Op::Touch(key));
                }
            }
        }
    }
}
