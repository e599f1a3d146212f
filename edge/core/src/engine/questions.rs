//! What a legacy server asks (sampling, elicitation, roots): to the caller and back (XCH-5). A question belongs to the call that it came
//! in, or to the session; its answer goes back there, or the edge answers in the caller's place.

use mcp_sip::errors::{Executed, RpcError};
use mcp_sip::exchange::{ExchangeId, Side};
use mcp_sip::jsonrpc::{Envelope, RawId, error_response};
use session_store::key::SessionKey;

use super::Engine;
use super::deliver::Writes;
use super::exchange::ASK_MS;
use super::judge::reread;
use super::pending::Purpose;
use super::session::{Asked, Session};
use super::timers::Timer;
use super::types::Ctx;

impl Engine {
    /// A request of the server: to the caller, in the exchange that it came in, or as `session`. Only to the client whose
    /// session it is (security.md 9).
    pub(super) fn ask(&mut self, ctx: &mut Ctx<'_>, key: SessionKey, exchange: Option<u64>, envelope: &Envelope) {
        let (Some(id), Some(session)) = (envelope.id(), self.sessions.get_mut(&key)) else { return };
        // The same question again, after the stream was resumed.
        if session.asked.contains_key(&id.canonical()) {
            self.stats.unmatched += 1;
            return;
        }
        let deadline = ctx.now.mono.plus_millis(ASK_MS);
        session.asked.insert(id.canonical(), Asked { id: id.clone(), exchange, deadline });
        if session.asked.len() == 1 {
            self.timers.set(Timer::Asked(key), deadline);
        }
        let (mut leg, mut header) = (session.leg.clone(), session.session_header());
        if let Some(no) = exchange
            && let Some(exchange) = self.exchanges.get_mut(&no)
        {
            exchange.stop_clock(ctx.now.mono);
            (leg, header) = (exchange.leg.clone(), exchange.header.clone());
            self.timers.set(Timer::Exchange(no), exchange.latest);
        }
        self.deliver(
            ctx,
            leg,
            header,
            envelope.bytes().clone(),
            Writes::default(),
            Purpose::Ask { session: key, exchange, id },
        );
    }

    /// The server takes a question back.
    pub(super) fn withdrawn(&mut self, ctx: &mut Ctx<'_>, key: SessionKey, envelope: &Envelope) {
        let Some(asked) = envelope.request_id().and_then(|id| self.settled(ctx, key, &id)) else {
            self.stats.unmatched += 1;
            return;
        };
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let (mut leg, mut header) = (session.leg.clone(), session.session_header());
        match asked.exchange.and_then(|no| self.exchanges.get_mut(&no)) {
            Some(exchange) => {
                exchange.notes += 1;
                (leg, header) = (exchange.leg.clone(), exchange.header.clone());
            }
            None => session.notes += 1,
        }
        let purpose = Purpose::Note { session: key, exchange: asked.exchange };
        self.deliver(ctx, leg, header, envelope.bytes().clone(), Writes::default(), purpose);
    }

    /// The caller owes answers for too long: the server hears that there will be none.
    pub(super) fn asked_alarm(&mut self, ctx: &mut Ctx<'_>, key: SessionKey) {
        let Some(session) = self.sessions.get(&key) else { return };
        let now = ctx.now.mono;
        let late: Vec<RawId> =
            session.asked.values().filter(|asked| asked.deadline <= now).map(|asked| asked.id.clone()).collect();
        for id in late {
            self.settled(ctx, key, &id);
            self.answer_for_caller(ctx, key, &id, &RpcError::interrupted(false, Executed::Unknown));
        }
        let next = self.sessions.get(&key).and_then(|s| s.asked.values().map(|asked| asked.deadline).min());
        if let Some(at) = next {
            self.timers.set(Timer::Asked(key), at);
        }
    }

    /// The caller answers a question of the server; the table has found which.
    pub(super) fn response(&mut self, ctx: &mut Ctx<'_>, key: SessionKey, envelope: &Envelope) {
        let Some(id) = envelope.id() else { return };
        self.settled(ctx, key, &id);
        self.post_or_queue(ctx, key, envelope.bytes().clone());
    }

    /// A question is no longer open.
    pub(super) fn settled(&mut self, ctx: &Ctx<'_>, key: SessionKey, id: &RawId) -> Option<Asked> {
        let session = self.sessions.get_mut(&key)?;
        let asked = session.asked.remove(&id.canonical())?;
        close_nested(session, id);
        if let Some(no) = asked.exchange
            && let Some(exchange) = self.exchanges.get_mut(&no)
        {
            exchange.start_clock(ctx.now.mono);
            let at = if exchange.owed > 0 { exchange.latest } else { exchange.deadline };
            self.timers.set(Timer::Exchange(no), at);
        }
        Some(asked)
    }
}

/// Takes a question out of the table, whoever answered it.
fn close_nested(session: &mut Session, id: &RawId) {
    let answer = error_response(Some(id), &RpcError::internal("closed"));
    if let Some(answer) = reread(&answer) {
        // Where it was answered already, the table says so, which is as good.
        let _ = session.table.admit(Side::Client, None, &answer, ExchangeId::from_random(&[0; 16]));
    }
}

pub(super) fn close_all_nested(session: &mut Session) {
    for (_, asked) in std::mem::take(&mut session.asked) {
        close_nested(session, &asked.id);
    }
}
