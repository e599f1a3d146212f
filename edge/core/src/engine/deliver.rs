//! Messages on their way to the caller: carriers in turn (XCH-4), the store's outages, and what happens when nothing takes a message.

use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::Bytes;
use mcp_sip::errors::{Executed, RpcError};
use mcp_sip::exchange::McpExchange;
use mcp_sip::jsonrpc::error_response;
use session_store::key::SessionKey;
use session_store::op::{ANSWER_MS, CloseExchange, OpenExchange, StoreOp};

use super::Engine;
use super::judge::body_limit;
use super::pending::{Op, Outgoing, Purpose, Tries};
use super::timers::Timer;
use super::types::{Carrier, Ctx, Delivery, DeliveryId, DeliveryOutcome, EngineOut, Leg};
use crate::effect::LogLevel;

/// So often a message is tried while the store is away: 0.5 s, 1 s, 2 s, 4 s … between, half a minute together; an answer, which is all that
/// is left of its exchange, for five minutes.
const ATTEMPTS: u32 = 10;
const ANSWER_ATTEMPTS: u32 = 76;
const FIRST_WAIT_MS: u64 = 500;
const LONGEST_WAIT_MS: u64 = 4_000;
/// When the store is back, what waited for it goes on within this time, not all at once.
pub(super) const RETURN_SPREAD_MS: u64 = 500;
/// An answer of an earlier life of this edge waits for its adoption by this one: so long between two looks, and so many of them.
const ADOPTION_WAIT_MS: u64 = 500;
const ADOPTION_TRIES: u32 = 80;
/// So often a message that was overtaken goes again, after a random wait of at most so much, times the tries.
const OVERTAKEN_TRIES: u32 = 8;
const OVERTAKEN_WAIT_MS: u64 = 40;
/// `Retry-After` of the peer is believed up to here; seconds.
const LONGEST_LATER_S: u32 = 16;
/// A peer without a flow is waited for: 0.2, 0.4, 0.8 and 1.6 s, 3 s together.
const LOST_TRIES: u32 = 4;
const LOST_FIRST_MS: u64 = 200;
/// Before a caller is looked for again whose connection led to somebody else.
const STRANGER_MS: u64 = 500;
/// An answer waits as long as the journal keeps it: it is all that is left of its exchange, and a caller whose connection moved need not
/// repeat the request. So often it is looked for, and at once when it says anything in the dialog to this edge.
const PARKED_WAIT_MS: u64 = 4_000;
/// Answers that wait so at once, and their bytes together, for one core. Above that the journal alone has them.
const MAX_PARKED: usize = 8_192;
const MAX_PARKED_BYTES: usize = 16 << 20;

/// What the store hears of a message.
#[derive(Debug, Default)]
pub(super) struct Writes {
    /// With it, before it leaves.
    pub close: Option<Box<CloseExchange>>,
    /// Once the caller has it, or never will.
    pub ends: Option<Box<CloseExchange>>,
    /// What stands there until then.
    pub journal: Option<Box<OpenExchange>>,
    /// It is what the journal says, so that anybody may say it: with a lease or without.
    pub is_stored: bool,
}

/// All deliveries of one leg, in `Engine::leg_deliveries`.
pub(super) fn deliveries_of(key: SessionKey) -> RangeInclusive<(SessionKey, DeliveryId)> {
    (key, DeliveryId(0))..=(key, DeliveryId(u64::MAX))
}

impl Purpose {
    fn attempts(&self) -> u32 {
        match self {
            Purpose::Final(_) | Purpose::TooLarge => ANSWER_ATTEMPTS,
            Purpose::Note { .. } | Purpose::Ask { .. } => ATTEMPTS,
        }
    }
}

impl Engine {
    /// Hands a message to the SIP half.
    pub(super) fn deliver(
        &mut self,
        ctx: &mut Ctx<'_>,
        leg: Arc<Leg>,
        header: Option<McpExchange>,
        body: Bytes,
        writes: Writes,
        purpose: Purpose,
    ) {
        let id = DeliveryId(ctx.ids.number());
        let limit = body_limit(ctx.config, &leg);
        // Parameters that a peer put into its header are its own.
        let header = header.map(|header| McpExchange::new(header.exchange, header.relation));
        let carrier = if leg.key.in_dialog() { leg.carrier } else { Carrier::Message };
        let bytes = body.len();
        self.leg_deliveries.insert((leg.session, id));
        let Writes { close, ends, journal, is_stored } = writes;
        self.deliveries.insert(
            id,
            Outgoing {
                leg,
                header,
                body,
                close,
                ends,
                journal,
                is_stored,
                carrier,
                is_second: false,
                tries: Tries::default(),
                parked_until: None,
                purpose,
            },
        );
        if bytes > limit {
            self.too_large(ctx, id, limit);
        } else {
            self.send(ctx, id);
        }
    }

    /// Puts a delivery out, for the first time or again. Without a lease somebody else may be saying the same: what belongs to a running
    /// exchange is not said then, a question waits, and so does an answer, as it does while the store is away.
    pub(super) fn send(&mut self, ctx: &mut Ctx<'_>, id: DeliveryId) {
        let Some(outgoing) = self.deliveries.get(&id) else { return };
        match &outgoing.ends {
            Some(ends) if ends.owner != ctx.owner => return self.delivered(ctx, id, DeliveryOutcome::Fenced),
            Some(_) if !ctx.has_lease() => return self.delivered(ctx, id, DeliveryOutcome::StoreUnavailable),
            None if !ctx.has_lease() && matches!(outgoing.purpose, Purpose::Note { .. }) => {
                self.stats.dropped += 1;
                self.remove(id);
                return;
            }
            None if !ctx.has_lease() && matches!(outgoing.purpose, Purpose::Ask { .. }) => {
                return self.timers.set(Timer::Delivery(id), ctx.now.mono.plus_millis(FIRST_WAIT_MS));
            }
            _ => {}
        }
        self.out.push_back(EngineOut::Deliver(Delivery {
            id,
            leg: outgoing.leg.clone(),
            carrier: outgoing.carrier,
            exchange: outgoing.header.clone(),
            body: outgoing.body.clone(),
            close: outgoing.close.clone(),
            avoid: None,
            met_stranger: outgoing.tries.stranger,
            is_stored: outgoing.is_stored,
        }));
    }

    /// The SIP half says how a delivery ended.
    pub fn delivered(&mut self, ctx: &mut Ctx<'_>, id: DeliveryId, outcome: DeliveryOutcome) {
        let Some(outgoing) = self.deliveries.get_mut(&id) else { return };
        match outcome {
            DeliveryOutcome::Delivered => {
                if let Some(outgoing) = self.remove(id) {
                    if let Some(journal) = &outgoing.journal {
                        self.over(ctx, journal);
                    }
                    self.ended(ctx, outgoing.ends);
                }
            }
            // A later request of ours in the dialog overtook it (RFC 3261 §12.2.2): with a CSeq that is the highest again it is the same
            // message, as its exchange and id say.
            DeliveryOutcome::Refused { status: 500 }
                if outgoing.leg.key.in_dialog() && outgoing.tries.overtaken < OVERTAKEN_TRIES =>
            {
                outgoing.tries.overtaken += 1;
                let wait_ms = ctx.random.below(u64::from(outgoing.tries.overtaken) * OVERTAKEN_WAIT_MS);
                self.send_later(ctx, id, 1 + wait_ms);
            }
            // The peer says when: once it is believed.
            DeliveryOutcome::Later { after_s, .. } if !outgoing.tries.later => {
                outgoing.tries.later = true;
                self.send_later(ctx, id, u64::from(after_s.clamp(1, LONGEST_LATER_S)) * 1_000);
            }
            // 408 and 481 end the dialog (RFC 5057); any other refusal is one of this carrier.
            DeliveryOutcome::Refused { status } | DeliveryOutcome::Later { status, .. }
                if outgoing.leg.key.in_dialog() && !outgoing.is_second && !matches!(status, 408 | 481) =>
            {
                outgoing.is_second = true;
                outgoing.close = None;
                outgoing.carrier = match outgoing.carrier {
                    Carrier::Message => Carrier::Info,
                    Carrier::Info => Carrier::Message,
                };
                self.send(ctx, id);
            }
            // The record knows by now where the caller is.
            DeliveryOutcome::Stranger => {
                outgoing.tries.stranger = true;
                self.send_later(ctx, id, STRANGER_MS);
            }
            // The peer may be opening another connection, to whichever edge.
            DeliveryOutcome::FlowLost if outgoing.tries.lost < LOST_TRIES => {
                let wait_ms = LOST_FIRST_MS << outgoing.tries.lost;
                outgoing.tries.lost += 1;
                self.send_later(ctx, id, wait_ms);
            }
            DeliveryOutcome::StoreUnavailable if outgoing.tries.store + 1 < outgoing.purpose.attempts() => {
                let wait_ms = (FIRST_WAIT_MS << outgoing.tries.store.min(8)).min(LONGEST_WAIT_MS);
                outgoing.tries.store += 1;
                // It may be long before its caller has it. Whoever repeats the request meanwhile gets this answer and not another run, whatever
                // is declared safe: else an outage multiplies the work.
                if let Some(close) = &mut outgoing.close {
                    close.answer.get_or_insert_with(|| outgoing.body.clone());
                }
                self.timers.set(Timer::Delivery(id), ctx.now.mono.plus_millis(wait_ms));
            }
            DeliveryOutcome::TooLarge { limit } => self.too_large(ctx, id, limit),
            DeliveryOutcome::Refused { .. }
            | DeliveryOutcome::Later { .. }
            | DeliveryOutcome::Unreachable
            | DeliveryOutcome::StoreUnavailable => self.undelivered(ctx, id),
            DeliveryOutcome::FlowLost => {
                if !self.park(ctx, id) {
                    self.undelivered(ctx, id);
                }
            }
            // It was opened in an earlier life of this edge, whose remains this one has not adopted yet.
            DeliveryOutcome::Fenced
                if outgoing.ends.as_ref().is_some_and(|ends| ends.owner != ctx.owner)
                    && outgoing.tries.store + 1 < ADOPTION_TRIES =>
            {
                outgoing.tries.store += 1;
                self.timers.set(Timer::Delivery(id), ctx.now.mono.plus_millis(ADOPTION_WAIT_MS));
            }
            // Somebody else answers this exchange now.
            DeliveryOutcome::Fenced => {
                self.stats.fenced += 1;
                if let Some(outgoing) = self.remove(id) {
                    self.answered_in_doubt(ctx, outgoing);
                }
            }
        }
    }

    /// What waits for the store need not wait any longer.
    pub fn store_is_back(&mut self, ctx: &mut Ctx<'_>) {
        let waits = |id: &DeliveryId| {
            self.timers.is_set(Timer::Delivery(*id))
                && self.deliveries.get(id).is_some_and(|outgoing| outgoing.tries.store > 0)
        };
        let waiting: Vec<DeliveryId> = self.leg_deliveries.iter().map(|(_, id)| *id).filter(waits).collect();
        for id in waiting {
            if let Some(outgoing) = self.deliveries.get_mut(&id) {
                outgoing.tries.store = 0;
            }
            let at = ctx.now.mono.plus_millis(ctx.random.below(RETURN_SPREAD_MS));
            self.timers.set(Timer::Delivery(id), at);
        }
        self.doubts_again(ctx);
    }

    /// The caller of an answer cannot be reached for now. `false`: it is not waited for, or not any more.
    fn park(&mut self, ctx: &Ctx<'_>, id: DeliveryId) -> bool {
        let now = ctx.now.mono;
        let Some(outgoing) = self.deliveries.get_mut(&id).filter(|outgoing| outgoing.leg.key.in_dialog()) else {
            return false;
        };
        let is_answer = matches!(outgoing.purpose, Purpose::Final(_) | Purpose::TooLarge);
        let waits = match outgoing.parked_until {
            Some(until) => now < until,
            None => {
                let (count, bytes) = self.parked;
                let has_room = count < MAX_PARKED && bytes + outgoing.body.len() <= MAX_PARKED_BYTES;
                if is_answer && has_room {
                    outgoing.parked_until = Some(now.plus_millis(ANSWER_MS));
                    self.parked = (count + 1, bytes + outgoing.body.len());
                }
                is_answer && has_room
            }
        };
        if waits {
            self.send_later(ctx, id, PARKED_WAIT_MS);
        }
        waits
    }

    /// The caller said something in this dialog, so it has a flow.
    pub fn caller_is_here(&mut self, ctx: &mut Ctx<'_>, session: SessionKey) {
        if self.parked.0 == 0 {
            return;
        }
        let of_leg = self.leg_deliveries.range(deliveries_of(session)).map(|(_, id)| *id);
        let waits = |id: &DeliveryId| {
            self.timers.is_set(Timer::Delivery(*id))
                && self.deliveries.get(id).is_some_and(|outgoing| outgoing.parked_until.is_some())
        };
        let parked: Vec<DeliveryId> = of_leg.filter(waits).collect();
        for id in parked {
            self.timers.clear(Timer::Delivery(id));
            self.send(ctx, id);
        }
    }

    /// The same again. What goes with it was written: the journal is not asked twice.
    fn send_later(&mut self, ctx: &Ctx<'_>, id: DeliveryId, wait_ms: u64) {
        if let Some(outgoing) = self.deliveries.get_mut(&id) {
            outgoing.close = None;
        }
        self.timers.set(Timer::Delivery(id), ctx.now.mono.plus_millis(wait_ms));
    }

    /// The caller has the answer, or never will: the exchange is over. Nobody waits for that.
    fn ended(&mut self, ctx: &mut Ctx<'_>, ends: Option<Box<CloseExchange>>) {
        if let Some(ends) = ends {
            self.store(ctx, StoreOp::CloseExchange(*ends), Op::Forget);
        }
    }

    /// Nothing is truncated: the caller hears that the answer does not fit, the server that its question does not (mcp.md 5.4).
    fn too_large(&mut self, ctx: &mut Ctx<'_>, id: DeliveryId, limit: usize) {
        let Some(outgoing) = self.remove(id) else { return };
        let error = RpcError::too_large(outgoing.body.len(), limit);
        match outgoing.purpose {
            Purpose::Final(request) => {
                let body = error_response(Some(&request), &error);
                let Outgoing { close, ends, journal, is_stored, .. } = outgoing;
                // What is kept is what the caller hears.
                let held = close.map(|close| {
                    Box::new(CloseExchange { answer: close.answer.as_ref().map(|_| body.clone()), ..*close })
                });
                let writes = Writes { close: held, ends, journal, is_stored };
                self.deliver(ctx, outgoing.leg, outgoing.header, body, writes, Purpose::TooLarge);
            }
            Purpose::Ask { session, id: question, .. } => {
                if self.settled(ctx, session, &question).is_some() {
                    self.answer_for_caller(ctx, session, &question, &error);
                }
            }
            Purpose::TooLarge => {
                self.stats.undelivered += 1;
                self.ended(ctx, outgoing.ends);
            }
            Purpose::Note { .. } => self.stats.dropped += 1,
        }
    }

    fn undelivered(&mut self, ctx: &mut Ctx<'_>, id: DeliveryId) {
        let Some(outgoing) = self.remove(id) else { return };
        self.stats.undelivered += 1;
        match outgoing.purpose {
            // The journal has the answer for a repetition.
            Purpose::Final(_) | Purpose::TooLarge => {
                let message = format!("an answer of {} reached no carrier of its caller", outgoing.leg.agent.key);
                self.log(LogLevel::Warn, message);
                // Its caller may still turn up: then it gets this one, and nothing runs for it again.
                let (mut ends, body) = (outgoing.ends, outgoing.body);
                if let Some(ends) = &mut ends {
                    ends.answer.get_or_insert(body);
                }
                self.ended(ctx, ends);
            }
            // The tool must not wait for somebody who cannot be asked.
            Purpose::Ask { session, id: question, .. } => {
                if self.settled(ctx, session, &question).is_some() {
                    let error = RpcError::interrupted(false, Executed::No);
                    self.answer_for_caller(ctx, session, &question, &error);
                }
            }
            Purpose::Note { .. } => {}
        }
    }

    pub(super) fn remove(&mut self, id: DeliveryId) -> Option<Outgoing> {
        let outgoing = self.deliveries.remove(&id)?;
        self.leg_deliveries.remove(&(outgoing.leg.session, id));
        self.timers.clear(Timer::Delivery(id));
        if outgoing.parked_until.is_some() {
            let (count, bytes) = self.parked;
            self.parked = (count.saturating_sub(1), bytes.saturating_sub(outgoing.body.len()));
        }
        if let Purpose::Note { session, exchange } = &outgoing.purpose {
            let notes = match exchange {
                Some(no) => self.exchanges.get_mut(no).map(|exchange| &mut exchange.notes),
                None => self.sessions.get_mut(session).map(|session| &mut session.notes),
            };
            if let Some(notes) = notes {
                *notes = notes.saturating_sub(1);
            }
        }
        Some(outgoing)
    }
}
