//! The end of an exchange. Whatever ends it passes through [`Engine::conclude`], which removes it first: so there is one final answer.

use bytes::Bytes;
use mcp_sip::era::Era;
use mcp_sip::errors::{Code, Executed, RpcError};
use mcp_sip::jsonrpc::{Mirror, error_response, notification};
use serde_json::{Value, json};
use session_store::op::{CloseExchange, StoreOp};
use sip_proto::time::Now;

use super::Engine;
use super::about::About;
use super::deliver::Writes;
use super::exchange::{Exchange, Resumed};
use super::judge::{body_limit, reread};
use super::pending::{Call, Op, Purpose};
use super::timers::Timer;
use super::types::{Ctx, EngineOut};
use crate::audit::Outcome;
use crate::effect::BackendAction;
use crate::input::{BackendFailure, BackendId};

/// An answered call is over soon; if not, its stream is closed. Milliseconds.
const SPENT_MS: u64 = 30_000;

impl Engine {
    /// Ends an exchange: audit record, then the answer with its journal entry. Without a body the caller hears nothing.
    pub(super) fn conclude(&mut self, ctx: &mut Ctx<'_>, no: u64, body: Option<Bytes>, outcome: Outcome) {
        let Some(exchange) = self.take(ctx, no) else { return };
        let forwarded = exchange.forwarded_at();
        let limit = body_limit(ctx.config, &exchange.leg);
        let (body, outcome) = match body {
            Some(body) if body.len() > limit => {
                let error = RpcError::too_large(body.len(), limit);
                (Some(error_response(Some(&exchange.id), &error)), Outcome::Error(error.code))
            }
            body => (body, outcome),
        };
        self.tell(ctx, &exchange.about, forwarded, outcome);
        let key = exchange.session;
        // Where a second execution is not safe a repetition gets what is kept (sip.md 7); after a takeover, too, so that a caller who repeats
        // at that moment hears what was decided.
        let is_kept = !exchange.repeatable || exchange.is_adopted;
        let end = CloseExchange { key: exchange.key, owner: exchange.owner, answer: None, is_held: false };
        match body {
            Some(body) => {
                let journal = Some(Box::new(self.journal(ctx, &exchange)));
                let held = CloseExchange { answer: is_kept.then(|| body.clone()), is_held: true, ..end.clone() };
                let Exchange { leg, header, id, .. } = exchange;
                let (close, ends) = (Some(Box::new(held)), Some(Box::new(end)));
                let written = Writes { close, ends, journal, ..Writes::default() };
                self.deliver(ctx, leg, header, body, written, Purpose::Final(id));
            }
            None => self.store(ctx, StoreOp::CloseExchange(end), Op::Forget),
        }
        self.settle(key);
    }

    /// Ends an exchange with an error of ours.
    pub(super) fn fail(&mut self, ctx: &mut Ctx<'_>, no: u64, error: RpcError) {
        let Some(exchange) = self.exchanges.get(&no) else { return };
        let body = error_response(Some(&exchange.id), &error);
        let is_denial = error.row() == Some(Code::Denied);
        let outcome = if is_denial { Outcome::Denied(error.code) } else { Outcome::Error(error.code) };
        self.conclude(ctx, no, Some(body), outcome);
    }

    /// Takes an exchange out of every table. Its backend call, if there is one, is awaited no more.
    pub(super) fn take(&mut self, ctx: &Ctx<'_>, no: u64) -> Option<Exchange> {
        let exchange = self.exchanges.remove(&no)?;
        self.timers.clear(Timer::Exchange(no));
        if self.plans.remove(&no).is_some() || exchange.is_adopted {
            self.timers.clear(Timer::Orphan(no));
        }
        if let Some(session) = self.sessions.get_mut(&exchange.session) {
            if let Some(slot) = exchange.slot {
                session.open.remove(&slot);
                session.leaves(slot);
            }
            session.asked.retain(|_, asked| asked.exchange != Some(no));
            session.last_used = ctx.now.mono;
        }
        match (exchange.call(), exchange.resumed) {
            // A stream that is asked for again would be opened anew for ever.
            (Some(call), Some(Resumed::Stream)) => self.cancel_call(call),
            (Some(call), _) => self.spend(ctx, call),
            (None, _) => {}
        }
        Some(exchange)
    }

    /// Of this call only the end is awaited.
    pub(super) fn spend(&mut self, ctx: &Ctx<'_>, call: BackendId) {
        if let Some(waiting) = self.calls.get_mut(&call) {
            *waiting = Call::Spent;
            self.timers.set(Timer::Call(call), ctx.now.mono.plus_millis(SPENT_MS));
        }
    }

    /// The audit record, the count and the spans, in this order.
    pub(super) fn tell(&mut self, ctx: &Ctx<'_>, about: &About, forwarded: Option<Now>, outcome: Outcome) {
        self.stats.count(ctx.config, ctx.now, about, &outcome);
        let spans = about.spans(ctx.now, forwarded, &outcome);
        if let Some(record) = about.record(ctx.now, outcome) {
            self.out.push_back(EngineOut::Audit(record));
        }
        self.out.extend(spans.into_iter().map(EngineOut::Span));
    }

    /// Nobody waits for the backend's answer any more: tells it so (mcp.md 5.6). Modern: the response stream is closed. Legacy: a
    /// notification; `cancelled` is the caller's own, byte-exact.
    pub(super) fn stop(&mut self, ctx: &mut Ctx<'_>, no: u64, cancelled: Option<Bytes>) {
        let Some(exchange) = self.exchanges.get(&no) else { return };
        let (Some(call), key) = (exchange.call(), exchange.session) else { return };
        if exchange.era == Era::Legacy && !exchange.is_initialize() {
            let body = cancelled.and_then(|body| upstream_cancellation(exchange, body));
            let body = body.unwrap_or_else(|| cancellation(exchange));
            self.post_session(ctx, key, BackendAction::Post { body }, Call::Post(key));
        }
        self.cancel_call(call);
    }

    pub(super) fn cancel_call(&mut self, call: BackendId) {
        if self.calls.remove(&call).is_some() {
            self.timers.clear(Timer::Call(call));
            self.out.push_back(EngineOut::CancelBackend { id: call });
        }
    }

    /// The time of an exchange is over.
    pub(super) fn deadline(&mut self, ctx: &mut Ctx<'_>, no: u64) {
        let Some(exchange) = self.exchanges.get(&no) else { return };
        // While the caller owes an answer the clock stands, until the question's own deadline.
        let at = if exchange.owed > 0 { exchange.latest } else { exchange.deadline };
        if at > ctx.now.mono {
            self.timers.set(Timer::Exchange(no), at);
            return;
        }
        let error = if exchange.forwarded_at().is_some() {
            failure(BackendFailure::Deadline, exchange.is_safe, 0)
        } else {
            RpcError::interrupted(true, Executed::No)
        };
        self.stats.backend_failed(ctx.config, exchange.about.agent_key());
        self.stop(ctx, no, None);
        self.fail(ctx, no, error);
    }
}

/// The caller's `notifications/cancelled` with the id that the backend knows.
fn upstream_cancellation(exchange: &Exchange, body: Bytes) -> Option<Bytes> {
    match &exchange.upstream {
        None => Some(body),
        Some(upstream) => Some(reread(&body)?.rewritten(&[(Mirror::RequestId, upstream)])),
    }
}

/// `notifications/cancelled` by the edge itself.
pub(super) fn cancellation(exchange: &Exchange) -> Bytes {
    let id = exchange.upstream.as_ref().unwrap_or(&exchange.id);
    let id: Value = serde_json::from_slice(id.raw()).unwrap_or(Value::Null);
    notification("notifications/cancelled", Some(&json!({ "requestId": id, "reason": "The caller is gone" })))
}

/// What the caller hears of a backend that failed (mcp.md 5.8). `is_safe`: to run again, whatever became of it.
pub(super) fn failure(failure: BackendFailure, is_safe: bool, limit: usize) -> RpcError {
    match failure {
        BackendFailure::Unreachable | BackendFailure::SessionGone => RpcError::interrupted(true, Executed::No),
        // Our own credential: sending it again helps nobody.
        BackendFailure::Unauthorized => RpcError::interrupted(false, Executed::No),
        BackendFailure::Overloaded => RpcError::limited("backend", 1_000),
        BackendFailure::TooLarge => {
            let mut error = RpcError::too_large(0, limit);
            // How large it is nobody knows: reading stopped at the limit.
            error.data = Some(json!({ "limit": limit }));
            error
        }
        // Refused before it ran: by the server, or by something in front of it.
        BackendFailure::Status(400..=499) => RpcError::interrupted(is_safe, Executed::No),
        BackendFailure::Deadline
        | BackendFailure::Interrupted
        | BackendFailure::Garbage
        | BackendFailure::Status(_) => RpcError::interrupted(is_safe, Executed::Unknown),
    }
}
