//! The write was answered: now the SIP answer may leave, and what follows from the message may begin.

use bytes::Bytes;
use mcp_sip::era::Era;
use mcp_sip::errors::{Executed, RpcError};
use mcp_sip::exchange::{Belongs, DropReason, Exchange as Named, ExchangeId, McpExchange, Rejected, Side};
use mcp_sip::jsonrpc::{Envelope, Kind, META_PROTOCOL_VERSION, error_response};
use session_store::op::{OpenOutcome, StoreError, StoreOp};
use session_store::record::SessionRecord;
use std::sync::Arc;

use super::Engine;
use super::access::{Access, Refusal};
use super::deliver::{Writes, deliveries_of};
use super::exchange::{Exchange, GRACE_MS};
use super::judge::{missing_meta, reread, serves_legacy};
use super::pending::{Fate, Judged, Op, Outgoing, Purpose, Refused, What};
use super::session::{MAX_QUEUE, Session, Waiting, client_of};
use super::timers::Timer;
use super::types::{Ctx, Leg, SipAnswer, Ticket, Written};
use crate::audit::Outcome;
use crate::effect::LogLevel;

pub(super) const OK: SipAnswer = SipAnswer { status: 200, phrase: "OK", retry_after: None };
pub(super) const UNAVAILABLE: SipAnswer =
    SipAnswer { status: 503, phrase: "Service Unavailable", retry_after: Some(2) };
const GONE: SipAnswer = SipAnswer { status: 481, phrase: "Call/Transaction Does Not Exist", retry_after: None };
const BROKEN: SipAnswer = SipAnswer { status: 500, phrase: "Server Internal Error", retry_after: None };

impl Engine {
    /// Says which SIP answer leaves now: 200, 481 for an unknown legacy session, 503 when the store did not take it.
    pub fn written(&mut self, ctx: &mut Ctx<'_>, ticket: Ticket, outcome: Result<Written, StoreError>) -> SipAnswer {
        let Some(judged) = self.redeem(&ticket) else { return BROKEN };
        let session = judged.leg.session;
        let slot = slot_of(&judged.what);
        let answer = match (judged.what, outcome) {
            (What::Request(exchange), Err(_)) => {
                if judged.fate == Fate::Live && !exchange.opens_nothing {
                    self.refused(ctx, &exchange);
                }
                UNAVAILABLE
            }
            (_, Err(_)) => UNAVAILABLE,
            (What::Request(exchange), Ok(Written::Exchange(outcome))) => {
                self.opened(ctx, *exchange, judged.fate, outcome)
            }
            (_, Ok(Written::First(false))) => OK,
            (What::Refused(refused), Ok(Written::Claimed | Written::First(true))) => {
                self.refuse(ctx, &judged.leg, judged.header, &refused);
                OK
            }
            (What::Other(_), Ok(Written::Claimed | Written::First(true))) if !ctx.has_lease() => UNAVAILABLE,
            (What::Other(body), Ok(Written::Claimed | Written::First(true))) => {
                if judged.fate == Fate::Live {
                    self.other(ctx, &judged.leg, judged.header, body);
                }
                OK
            }
            (What::Nothing, Ok(Written::Claimed | Written::First(true))) => OK,
            (_, Ok(_)) => {
                self.log(LogLevel::Error, "a message was answered by the store with what it did not ask".into());
                BROKEN
            }
        };
        // A request that opened nothing leaves its place.
        let is_open = slot.is_some_and(|slot| self.sessions.get(&session).is_some_and(|s| s.open.contains_key(&slot)));
        self.give_back(session, slot.filter(|_| !is_open));
        answer
    }

    /// The same for a message whose SIP answer has left already, because it came in an INVITE: what a SIP answer would have said now, is an
    /// error in the exchange. It goes out whatever the journal has: a repetition takes its place.
    pub fn written_late(&mut self, ctx: &mut Ctx<'_>, ticket: Ticket, outcome: Result<Written, StoreError>) {
        let judged = self.tickets.get(&ticket.0).filter(|judged| judged.fate == Fate::Live);
        let known = judged.and_then(|judged| match &judged.what {
            What::Request(exchange) => {
                let error = RpcError::interrupted(true, Executed::No);
                let about = Some(exchange.about.clone());
                let refused = Refused { id: exchange.id.clone(), error, denied: false, about };
                let journal = Some(Box::new(self.journal(ctx, exchange)));
                Some((judged.leg.clone(), judged.header.clone(), refused, journal))
            }
            What::Refused(refused) => {
                let Refused { id, error, denied, about } = &**refused;
                let refused = Refused { id: id.clone(), error: error.clone(), denied: *denied, about: about.clone() };
                Some((judged.leg.clone(), judged.header.clone(), refused, None))
            }
            What::Other(_) | What::Nothing => None,
        });
        if self.written(ctx, ticket, outcome) != OK
            && let Some((leg, header, refused, journal)) = known
        {
            self.refuse_with(ctx, &leg, header, &refused, Writes { journal, ..Writes::default() });
        }
    }

    /// The request runs after all: that it did not is not said any more.
    fn supersede(&mut self, exchange: &Exchange) {
        let is_it = |outgoing: &Outgoing| {
            let is_refusal = outgoing.journal.as_ref().is_some_and(|open| open.key == exchange.key);
            is_refusal && outgoing.ends.is_none()
        };
        let of_leg = self.leg_deliveries.range(deliveries_of(exchange.session)).map(|(_, id)| *id);
        let over: Vec<_> = of_leg.filter(|id| self.deliveries.get(id).is_some_and(is_it)).collect();
        for id in over {
            self.remove(id);
        }
    }

    /// The message will not be written: the dialog is gone, its CSeq is old, or it is a replay.
    pub fn abandon(&mut self, ticket: Ticket) {
        if let Some(judged) = self.redeem(&ticket) {
            self.give_back(judged.leg.session, slot_of(&judged.what));
        }
    }

    fn redeem(&mut self, ticket: &Ticket) -> Option<Judged> {
        let judged = self.tickets.remove(&ticket.0)?;
        if let (What::Request(_), Some(session)) = (&judged.what, self.sessions.get_mut(&judged.leg.session)) {
            session.tickets = session.tickets.saturating_sub(1);
        }
        Some(judged)
    }

    pub(super) fn opened(
        &mut self,
        ctx: &mut Ctx<'_>,
        mut exchange: Exchange,
        fate: Fate,
        outcome: OpenOutcome,
    ) -> SipAnswer {
        let key = exchange.session;
        let opens_nothing = exchange.opens_nothing;
        let is_repetition = matches!(outcome, OpenOutcome::RepeatAnswered { .. } | OpenOutcome::RepeatInFlight { .. });
        if opens_nothing && !is_repetition {
            return UNAVAILABLE;
        }
        let error = match outcome {
            OpenOutcome::Opened { .. } if self.is_served(&exchange) => return OK,
            OpenOutcome::Opened { session } => match self.meter_repetition(ctx, &mut exchange) {
                Err(limited) if fate == Fate::Live && ctx.has_lease() => {
                    self.heard_in_full(ctx, &exchange);
                    self.close_entry(ctx, &exchange);
                    self.refused_by(limited)
                }
                // It does not run, and is closed in its own way.
                Err(_) | Ok(()) => return self.begin(ctx, exchange, fate, session),
            },
            OpenOutcome::RepeatInFlight { owner } => {
                // The answer goes where the caller was heard last.
                let session = self.sessions.get(&key);
                let slot = session.and_then(|session| session.table.exchange_of(&exchange.id));
                let open = slot.and_then(|slot| session.and_then(|session| session.open.get(&slot))).copied();
                if let Some(known) = open.and_then(|no| self.exchanges.get_mut(&no))
                    && known.key == exchange.key
                {
                    known.leg = exchange.leg;
                    return if opens_nothing { UNAVAILABLE } else { OK };
                }
                if opens_nothing {
                    return UNAVAILABLE;
                }
                return if fate == Fate::Live { self.doubt(ctx, exchange, owner) } else { OK };
            }
            OpenOutcome::RepeatAnswered { answer } => {
                if let Some(body) = answer {
                    let Exchange { leg, header, id, .. } = exchange;
                    let writes = Writes { is_stored: true, ..Writes::default() };
                    self.deliver(ctx, leg, header, body, writes, Purpose::Final(id));
                }
                return OK;
            }
            OpenOutcome::Taken if exchange.header.is_some() => {
                RpcError::header_mismatch(exchange.era, "the exchange is that of another open request")
            }
            OpenOutcome::Taken => RpcError::invalid_request("The id is that of another open request"),
            OpenOutcome::Full => match exchange.limited {
                Some(limited) => self.refused_by(limited),
                None => RpcError::limited("inFlightPerSession", 1_000),
            },
        };
        let Exchange { leg, header, id, about, .. } = exchange;
        self.refuse(ctx, &leg, header, &Refused { id, error, denied: false, about: Some(about) });
        OK
    }

    /// The journal has it, under our name: from here on there is one answer.
    pub(super) fn begin(
        &mut self,
        ctx: &mut Ctx<'_>,
        mut exchange: Exchange,
        fate: Fate,
        session: Option<(u64, Box<SessionRecord>)>,
    ) -> SipAnswer {
        let key = exchange.session;
        // It was never forwarded, and is not now: whoever adopts what this edge owns may have it already. What is safe to run again is
        // closed, so that no adopter runs it for nobody, and a repetition is a new request. Anything else stays in flight: a repetition is
        // taken for one whose owner does not know of it (`doubt.rs`), and an adopter answers it with an error.
        if fate == Fate::Live && !ctx.has_lease() {
            self.stats.lapsed += 1;
            self.refused(ctx, &exchange);
            if exchange.repeatable {
                self.close_entry(ctx, &exchange);
            }
            return UNAVAILABLE;
        }
        self.heard_in_full(ctx, &exchange);
        if fate == Fate::LegClosed {
            self.close_entry(ctx, &exchange);
            return GONE;
        }
        let placed = self.place(ctx, &mut exchange);
        if placed != Ok(true) {
            self.close_entry(ctx, &exchange);
            if let Err(error) = placed {
                let Exchange { leg, header, id, about, .. } = exchange;
                self.refuse(ctx, &leg, header, &Refused { id, error, denied: false, about: Some(about) });
            }
            return OK;
        }
        self.supersede(&exchange);
        let no = ctx.ids.number();
        let now = ctx.now.mono;
        let entry = self.session(ctx, &exchange.leg);
        entry.open.extend(exchange.slot.map(|slot| (slot, no)));
        entry.last_used = now;
        entry.touched = now;
        let is_legacy = exchange.era == Era::Legacy;
        let refusal = exchange.is_reconsidered.then(|| refusal_of(ctx, &exchange)).flatten();
        self.timers.set(Timer::Exchange(no), exchange.deadline);
        self.exchanges.insert(no, exchange);
        if fate == Fate::Cancelled {
            self.conclude(ctx, no, None, Outcome::Cancelled);
            return OK;
        }
        if let Some(Refusal { error, denied, .. }) = refusal {
            let body = error_response(self.exchanges.get(&no).map(|exchange| &exchange.id), &error);
            let outcome = if denied { Outcome::Denied(error.code) } else { Outcome::Error(error.code) };
            self.conclude(ctx, no, Some(body), outcome);
            return OK;
        }
        self.adopt(ctx, key, session);
        if is_legacy {
            return self.legacy_request(ctx, no);
        }
        self.forward(ctx, no);
        OK
    }

    /// The entry of this exchange is known to be ours, for its whole life.
    pub(super) fn heard_in_full(&mut self, ctx: &Ctx<'_>, exchange: &Exchange) {
        // The store counts from the moment of its write.
        self.heard(ctx, exchange.key, exchange.latest.max(ctx.now.mono).plus_millis(2 * GRACE_MS));
    }

    /// A repetition that the journal takes for the request (the first one is over meanwhile, or was overtaken) needs its place.
    /// `false`: the first one is being served.
    pub(super) fn place(&mut self, ctx: &mut Ctx<'_>, exchange: &mut Exchange) -> Result<bool, RpcError> {
        let (None, Some(envelope)) = (exchange.slot, &exchange.envelope) else { return Ok(true) };
        let fresh = ExchangeId::from_random(&ctx.random.bytes());
        let header = exchange.header.as_ref().map(|header| header.exchange);
        let session = self.session(ctx, &exchange.leg);
        let placed = session.table.admit(Side::Client, header, envelope, fresh);
        let is_open = |slot: &ExchangeId| session.open.contains_key(slot);
        match placed {
            Ok(Belongs::Opened(slot)) => {
                session.placed(slot, envelope.bytes().len());
                exchange.slot = Some(slot);
            }
            // Its write was answered before that of the first one, which is the repetition now.
            Ok(Belongs::Repeated(slot)) if !is_open(&slot) => {
                let key = exchange.session;
                let first = self.tickets.values_mut().find_map(|judged| match &mut judged.what {
                    What::Request(first) if first.session == key && first.slot == Some(slot) => Some(first),
                    _ => None,
                });
                if let Some(first) = first {
                    first.slot = None;
                }
                exchange.slot = Some(slot);
            }
            Err(Rejected::Refuse(error)) => return Err(error),
            Ok(_) | Err(Rejected::Drop(_)) => {}
        }
        Ok(exchange.slot.is_some())
    }

    /// A legacy request needs its session; `initialize` makes it.
    fn legacy_request(&mut self, ctx: &mut Ctx<'_>, no: u64) -> SipAnswer {
        let Some(exchange) = self.exchanges.get(&no) else { return OK };
        let key = exchange.session;
        let envelope_stands = exchange.leg.mcp.as_ref().is_some_and(|mcp| mcp.envelope);
        let in_dialog = exchange.leg.key.in_dialog();
        let is_initialize = exchange.is_initialize();
        let Some(session) = self.sessions.get(&key) else { return OK };
        if is_initialize || session.legacy.is_some() {
            self.forward(ctx, no);
        } else if session.lost {
            self.fail(ctx, no, RpcError::interrupted(true, Executed::No));
        } else if envelope_stands {
            self.initialize_for(ctx, no);
        } else if in_dialog {
            self.fail(ctx, no, missing_meta(META_PROTOCOL_VERSION));
        } else {
            let Some(exchange) = self.take(ctx, no) else { return OK };
            self.tell(ctx, &exchange.about, None, Outcome::Denied(i64::from(GONE.status)));
            self.close_entry(ctx, &exchange);
            self.settle(key);
            return GONE;
        }
        OK
    }

    pub(super) fn close_entry(&mut self, ctx: &mut Ctx<'_>, exchange: &Exchange) {
        let close =
            session_store::op::CloseExchange { key: exchange.key, owner: exchange.owner, answer: None, is_held: false };
        self.store(ctx, StoreOp::CloseExchange(close), Op::Forget);
    }

    /// Answers a request that was refused before it had an exchange.
    pub(super) fn refuse(&mut self, ctx: &mut Ctx<'_>, leg: &Arc<Leg>, header: Option<McpExchange>, refused: &Refused) {
        self.refuse_with(ctx, leg, header, refused, Writes::default());
    }

    fn refuse_with(
        &mut self,
        ctx: &mut Ctx<'_>,
        leg: &Arc<Leg>,
        header: Option<McpExchange>,
        refused: &Refused,
        writes: Writes,
    ) {
        if let Some(about) = &refused.about {
            self.tell(ctx, about, None, refused.outcome());
        }
        let body = error_response(Some(&refused.id), &refused.error);
        self.deliver(ctx, leg.clone(), header, body, writes, Purpose::Final(refused.id.clone()));
    }

    /// A notification or response of the caller.
    pub(super) fn other(&mut self, ctx: &mut Ctx<'_>, leg: &Arc<Leg>, header: Option<McpExchange>, body: Bytes) {
        let Some(envelope) = reread(&body) else { return };
        let key = leg.session;
        if envelope.method() == Some("notifications/cancelled") {
            return self.cancelled(ctx, leg, header.as_ref(), &envelope);
        }
        match self.sessions.get_mut(&key) {
            Some(session) if session.legacy.is_some() => {
                session.last_used = ctx.now.mono;
                let elsewhere = ctx.is_in_fleet() && !is_open_here(session, header.as_ref());
                let belongs = admit_client(ctx, session, header.as_ref(), &envelope);
                self.touch(ctx, key);
                match (belongs, envelope.kind()) {
                    (Ok(_), Kind::Notification) => self.notification(ctx, key, &envelope),
                    (Ok(_), Kind::Response | Kind::Error) => self.response(ctx, key, &envelope),
                    // The question went out by another edge: the backend knows whose answer it is.
                    (Err(Rejected::Drop(DropReason::Unknown)), Kind::Response | Kind::Error) if elsewhere => {
                        self.post_or_queue(ctx, key, envelope.bytes().clone());
                    }
                    (Ok(_), Kind::Request) | (Err(_), _) => self.stats.unmatched += 1,
                }
            }
            // A modern leg sends nothing else; and what belonged to a lost session belongs to nothing.
            Some(session) if session.lost => self.stats.unmatched += 1,
            _ if !serves_legacy(leg) => self.stats.unmatched += 1,
            _ => self.load(ctx, leg, Waiting { header, body }),
        }
    }

    /// This core does not know the session: perhaps the store does.
    pub(super) fn load(&mut self, ctx: &mut Ctx<'_>, leg: &Arc<Leg>, waiting: Waiting) {
        let key = leg.session;
        let limit = ctx.config.edge.limits.sessions_per_pod.saturating_mul(2);
        if !self.sessions.contains_key(&key) && self.sessions.len() >= limit {
            self.stats.dropped += 1;
            return;
        }
        let session = self.session(ctx, leg);
        session.header |= waiting.header.is_some();
        if let Some(queue) = &mut session.loading {
            if queue.len() < MAX_QUEUE {
                queue.push_back(waiting);
            } else {
                self.stats.dropped += 1;
            }
            return;
        }
        session.loading = Some([waiting].into());
        let ttl_ms = session.ttl_ms(ctx.config);
        self.store(ctx, StoreOp::ReadSession { session: key, ttl_ms }, Op::Load(key));
    }
}

/// What stands in the way of a request on its leg as it is now.
fn refusal_of(ctx: &Ctx<'_>, exchange: &Exchange) -> Option<Refusal> {
    let (method, subject) = (exchange.about.method.as_str(), exchange.about.subject.as_deref());
    if exchange.header.as_ref().is_some_and(|header| header.relation != client_of(&exchange.leg)) {
        return Some(Refusal::wrong(RpcError::method_not_found(method)));
    }
    match Access::of(ctx.config, &exchange.leg) {
        Some(access) => access.judge(method, subject, &access.arguments_of(exchange)).err(),
        None => Some(Refusal::denied(method)),
    }
}

/// Whether the exchange that a header names is one of this edge's.
pub(super) fn is_open_here(session: &Session, header: Option<&McpExchange>) -> bool {
    match header.map(|header| header.exchange) {
        Some(Named::Id(slot)) => session.open.contains_key(&slot),
        Some(Named::Session) | None => false,
    }
}

/// Whether a notification or response of the client belongs to something that is open: relation, exchange and id (XCH-5, SEC-12).
pub(super) fn admit_client(
    ctx: &mut Ctx<'_>,
    session: &mut Session,
    header: Option<&McpExchange>,
    envelope: &Envelope,
) -> Result<Belongs, Rejected> {
    let fresh = ExchangeId::from_random(&ctx.random.bytes());
    session.table.admit(Side::Client, header.map(|header| header.exchange), envelope, fresh)
}

pub(super) fn slot_of(what: &What) -> Option<ExchangeId> {
    match what {
        What::Request(exchange) => exchange.slot,
        What::Refused(_) | What::Other(_) | What::Nothing => None,
    }
}
