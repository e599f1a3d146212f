//! Repetitions of an exchange that stands in flight, and whether anybody serves it. The reply to the write that opened it may have been
//! lost: then its owner answered 503, forgot it, and owns it in the store. Whoever hears the repetition finds that out and takes the
//! exchange over. It was never forwarded, because its write was never acknowledged, so it is run as fresh. The repetition was answered
//! 200 already, so from here on it is answered, or somebody else is known to serve it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use mcp_sip::errors::{Executed, RpcError};
use mcp_sip::jsonrpc::RawId;
use session_store::key::{ExchangeKey, SessionKey};
use session_store::op::{ANSWER_MS, CloseExchange, OpenExchange, OpenOutcome, StoreError, StoreOp, StoreReply};
use session_store::record::{Owner, SessionRecord};
use sip_proto::time::Mono;

use super::Engine;
use super::access::Access;
use super::adopt::{LEAST_MS, restore};
use super::deliver::{RETURN_SPREAD_MS, Writes};
use super::exchange::{Exchange, GRACE_MS};
use super::pending::{Fate, Op, Outgoing, Purpose, Refused, What};
use super::timers::Timer;
use super::types::{Ctx, EngineOut, SipAnswer};
use super::written::{OK, UNAVAILABLE};
use crate::effect::LogLevel;

/// Exchanges in doubt at once; a repetition above that is answered 503.
const MAX_DOUBTS: usize = 4_096;
/// Exchanges whose entry may stand under this process.
const MAX_HELD: usize = 65_536;
/// The first question is repeated after so long, each further one after twice the time; milliseconds.
const FIRST_MS: u64 = 1_000;
const LONGEST_MS: u64 = 8_000;
/// Who asked and heard "no" has written by then: a question waits five seconds for its answer, and a write has its own deadline.
/// Milliseconds.
const RELEASED_MS: u64 = 64_000;

/// What this process is to an exchange that the store says is its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    /// The store's word that it is, was heard here: it is served, was served, or was refused.
    Heard,
    /// Another edge was told that it may have it.
    Released,
}

/// What an adopted entry is, to the process that wrote it in an earlier life. An entry has the time at which its request arrived: one of
/// another time is a repetition, with a life of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Past {
    /// Its write had no reply: its caller was answered 503, and it ran nowhere.
    Refused { started: u64 },
    /// Its caller has its answer; only the end of the entry was not written.
    Over { started: u64 },
}

#[derive(Clone, Copy, Debug)]
struct Known {
    end: Mono,
    hold: Option<Hold>,
    past: Option<Past>,
}

/// What was heard, until the entry's end. The bound holds: for as long as something found no place everything counts as heard, so that
/// nothing is run twice.
#[derive(Debug, Default)]
pub(super) struct Held {
    keys: BTreeMap<ExchangeKey, Known>,
    ends: BTreeSet<(Mono, ExchangeKey)>,
    overflow: Option<Mono>,
}

impl Held {
    fn purge(&mut self, now: Mono) {
        while let Some(&(end, key)) = self.ends.first().filter(|(end, _)| *end <= now) {
            self.ends.remove(&(end, key));
            self.keys.remove(&key);
        }
        self.overflow = self.overflow.filter(|end| *end > now);
    }

    /// `None`: there is no room.
    fn at(&mut self, now: Mono, key: ExchangeKey, end: Mono) -> Option<&mut Known> {
        self.purge(now);
        let before = self.keys.get(&key).map(|known| known.end);
        if before.is_none() && self.keys.len() >= MAX_HELD {
            return None;
        }
        let end = before.map_or(end, |before| before.max(end));
        if let Some(before) = before {
            self.ends.remove(&(before, key));
        }
        self.ends.insert((end, key));
        let known = self.keys.entry(key).or_insert(Known { end, hold: None, past: None });
        known.end = end;
        Some(known)
    }

    /// `false`: there is no room.
    fn put(&mut self, now: Mono, key: ExchangeKey, end: Mono, hold: Hold) -> bool {
        self.at(now, key, end).map(|known| known.hold = Some(hold)).is_some()
    }

    /// The store said that this exchange is ours, until then at most.
    pub(super) fn heard(&mut self, now: Mono, key: ExchangeKey, end: Mono) {
        if !self.put(now, key, end, Hold::Heard) {
            self.overflow = Some(self.overflow.map_or(end, |known| known.max(end)));
        }
    }

    /// Without room it is not remembered, and the entry is served as any other.
    pub(super) fn remember(&mut self, now: Mono, key: ExchangeKey, end: Mono, past: Past) {
        if let Some(known) = self.at(now, key, end) {
            known.past = Some(past);
        }
    }

    pub(super) fn past(&self, now: Mono, key: &ExchangeKey) -> Option<Past> {
        self.keys.get(key).filter(|known| known.end > now).and_then(|known| known.past)
    }

    /// The store said that this exchange is another edge's now.
    fn lost(&mut self, key: &ExchangeKey) {
        if let Some(known) = self.keys.get_mut(key) {
            known.hold = None;
        }
    }

    fn get(&self, now: Mono, key: &ExchangeKey) -> Option<Hold> {
        let known = self.keys.get(key).filter(|known| known.end > now).and_then(|known| known.hold);
        known.or(self.overflow.filter(|end| *end > now).map(|_| Hold::Heard))
    }
}

/// One exchange whose repetition was answered 200, and which perhaps nobody serves.
#[derive(Debug)]
pub(super) struct Doubt {
    /// The repetition.
    exchange: Box<Exchange>,
    /// Whom the store named.
    owner: Owner,
    /// That one was asked, and has not answered yet.
    is_asked: bool,
    /// It ran here already: this is its answer, should nobody else have one.
    answer: Option<Bytes>,
    wait_ms: u64,
    /// Looked after until then: the exchange's deadline, or later where the store was away meanwhile.
    until: Mono,
    is_writing: bool,
    fate: Fate,
}

/// The names of a session's exchanges.
fn of_session(session: SessionKey) -> std::ops::RangeInclusive<ExchangeKey> {
    ExchangeKey { session, hash: [0; 16] }..=ExchangeKey { session, hash: [u8::MAX; 16] }
}

impl Engine {
    /// The store's word that an exchange is ours was heard: nobody need be asked about it.
    pub(super) fn heard(&mut self, ctx: &Ctx<'_>, key: ExchangeKey, end: Mono) {
        self.held.heard(ctx.now.mono, key, end);
        if self.doubts.get(&key).is_some_and(|doubt| !doubt.is_writing) {
            self.no_doubt(key);
        }
    }

    /// Its write had no reply, or came too late: its caller is answered 503.
    pub(super) fn refused(&mut self, ctx: &Ctx<'_>, exchange: &Exchange) {
        let (now, started) = (ctx.now.mono, exchange.about.received.wall.0);
        let end = exchange.latest.max(now).plus_millis(2 * GRACE_MS);
        self.held.remember(now, exchange.key, end, Past::Refused { started });
    }

    /// Its caller has its answer, or never will: what is left is the end of its entry.
    pub(super) fn over(&mut self, ctx: &Ctx<'_>, open: &OpenExchange) {
        let now = ctx.now.mono;
        let end = now.plus_millis(open.ttl_ms.max(ANSWER_MS).saturating_add(GRACE_MS));
        self.held.remember(now, open.key, end, Past::Over { started: open.entry.started });
    }

    /// Whether this process serves, or has served, an exchange that the store says is its own. `None`: a write is under way that decides
    /// it. With `false` it is given up for whoever asked.
    pub fn holds(&mut self, ctx: &Ctx<'_>, key: ExchangeKey) -> Option<bool> {
        let now = ctx.now.mono;
        match self.held.get(now, &key) {
            Some(Hold::Heard) => return Some(true),
            Some(Hold::Released) | None => {}
        }
        if self.doubts.contains_key(&key) || self.is_being_written(key) {
            return None;
        }
        Some(!self.held.put(now, key, now.plus_millis(RELEASED_MS), Hold::Released))
    }

    fn is_being_written(&self, key: ExchangeKey) -> bool {
        self.tickets.values().any(|judged| matches!(&judged.what, What::Request(exchange) if exchange.key == key))
    }

    /// The store said that this request is in flight already, under that owner.
    pub(super) fn doubt(&mut self, ctx: &mut Ctx<'_>, mut exchange: Exchange, owner: Owner) -> SipAnswer {
        let key = exchange.key;
        match self.held.get(ctx.now.mono, &key) {
            Some(Hold::Heard) => return OK,
            // Another edge is about to take it, and answers the next repetition.
            Some(Hold::Released) if owner == ctx.owner => return UNAVAILABLE,
            Some(Hold::Released) | None => {}
        }
        // The place that it had in its session's table goes back.
        exchange.slot = None;
        if let Some(known) = self.doubts.get_mut(&key) {
            known.exchange.leg = exchange.leg;
            known.exchange.header = exchange.header;
            return OK;
        }
        if self.doubts.len() >= MAX_DOUBTS {
            self.stats.dropped += 1;
            return UNAVAILABLE;
        }
        self.begin_doubt(ctx, exchange, owner, None);
        OK
    }

    fn begin_doubt(&mut self, ctx: &mut Ctx<'_>, exchange: Exchange, owner: Owner, answer: Option<Bytes>) {
        let key = exchange.key;
        let (until, exchange) = (exchange.deadline, Box::new(exchange));
        let (is_asked, is_writing, wait_ms, fate) = (false, false, FIRST_MS, Fate::Live);
        let doubt = Doubt { exchange, owner, is_asked, answer, wait_ms, until, is_writing, fate };
        self.doubts.insert(key, doubt);
        self.resolve(ctx, key);
    }

    /// An answer may not leave, because its exchange is another edge's. Of what is safe to run again no answer is kept, so a repetition that
    /// came elsewhere, while this answer's own write had no reply, was a new request there; and the reply to that one may have been lost,
    /// too. Then that edge said 503 and forgot it, and nobody would answer. Its owner is asked as with any repetition; where it does not
    /// know of it, this answer leaves after all.
    pub(super) fn answered_in_doubt(&mut self, ctx: &mut Ctx<'_>, outgoing: Outgoing) {
        let Outgoing { leg, header, body, ends, journal, .. } = outgoing;
        let is_ours = ends.is_some_and(|ends| ends.owner == ctx.owner);
        let Some(open) = journal.filter(|open| is_ours && open.entry.repeatable) else { return };
        let key = open.key;
        if self.doubts.contains_key(&key) || self.doubts.len() >= MAX_DOUBTS {
            return;
        }
        let Some((mut exchange, _)) = restore(ctx, key, &open.entry, None) else { return };
        exchange.about.leg = leg.clone();
        exchange.leg = leg;
        exchange.header = header;
        self.held.lost(&key);
        // Who has it, that write tells.
        self.begin_doubt(ctx, exchange, ctx.owner, Some(body));
    }

    /// It is ours again, and was answered: the same answer.
    fn answer_again(&mut self, ctx: &mut Ctx<'_>, exchange: Exchange, body: Bytes) {
        self.heard_in_full(ctx, &exchange);
        let ends = CloseExchange { key: exchange.key, owner: exchange.owner, answer: None, is_held: false };
        let held = CloseExchange { answer: Some(body.clone()), is_held: true, ..ends.clone() };
        let journal = Some(Box::new(self.journal(ctx, &exchange)));
        let Exchange { leg, header, id, .. } = exchange;
        let (close, ends) = (Some(Box::new(held)), Some(Box::new(ends)));
        self.deliver(ctx, leg, header, body, Writes { close, ends, journal, ..Writes::default() }, Purpose::Final(id));
    }

    /// Does what can be done now to find out, and looks again later.
    pub(super) fn resolve(&mut self, ctx: &mut Ctx<'_>, key: ExchangeKey) {
        let is_heard = self.held.get(ctx.now.mono, &key) == Some(Hold::Heard);
        let waits = self.is_being_written(key);
        let Some(doubt) = self.doubts.get_mut(&key).filter(|doubt| !doubt.is_writing) else { return };
        if is_heard {
            return self.no_doubt(key);
        }
        let now = ctx.now.mono;
        // Only the store can tell, and it does not: the clock stands, for as long as an entry of it may be there.
        if !ctx.has_lease() {
            let end = doubt.exchange.latest.max(doubt.exchange.deadline).plus_millis(2 * GRACE_MS);
            doubt.until = doubt.until.max(now.plus_millis(2 * LONGEST_MS).min(end));
        }
        let until = doubt.until;
        if now >= until {
            self.stats.unresolved += 1;
            return self.no_doubt(key);
        }
        let at = now.plus_millis(doubt.wait_ms).min(until);
        doubt.wait_ms = doubt.wait_ms.saturating_mul(2).min(LONGEST_MS);
        let owner = doubt.owner;
        let call_id = doubt.exchange.leg.call_id.clone();
        // It says nothing: it may be a life that is over, whose entry another one has adopted, or ended. Every second time the store is
        // asked; where it has no entry any more, what is safe to run again is ours, and nothing else is.
        let is_lookup = doubt.is_asked && doubt.exchange.repeatable;
        doubt.is_asked = !doubt.is_asked;
        self.timers.set(Timer::Doubt(key), at);
        if waits {
            // Its write may be the one that opens it.
        } else if owner == ctx.owner {
            self.take_from(ctx, key, Some(owner));
        } else if is_lookup {
            self.take_from(ctx, key, None);
        } else {
            self.out.push_back(EngineOut::Ask { owner, exchange: key, call_id });
        }
    }

    /// The store is used again: what only it can tell is asked soon.
    pub(super) fn doubts_again(&mut self, ctx: &mut Ctx<'_>) {
        for (key, doubt) in self.doubts.iter_mut().filter(|(_, doubt)| !doubt.is_writing) {
            doubt.wait_ms = FIRST_MS;
            let at = ctx.now.mono.plus_millis(ctx.random.below(RETURN_SPREAD_MS));
            self.timers.set(Timer::Doubt(*key), at);
        }
    }

    /// The owner of an exchange in doubt was asked, and said whether it holds it.
    pub fn told(&mut self, ctx: &mut Ctx<'_>, key: ExchangeKey, owner: Owner, holds: bool) {
        let is_about = self.doubts.get(&key).is_some_and(|doubt| doubt.owner == owner && !doubt.is_writing);
        if !is_about {
            return;
        }
        if holds {
            self.no_doubt(key)
        } else if !self.is_being_written(key) {
            self.take_from(ctx, key, Some(owner))
        }
    }

    fn no_doubt(&mut self, key: ExchangeKey) {
        self.timers.clear(Timer::Doubt(key));
        self.doubts.remove(&key);
    }

    /// In place of an owner that does not know of it, if nobody else was first; without one: if nobody has it.
    fn take_from(&mut self, ctx: &mut Ctx<'_>, key: ExchangeKey, owner: Option<Owner>) {
        // Without a lease it would be another edge's to adopt. It is looked at again.
        if !ctx.has_lease() {
            return;
        }
        let Some(doubt) = self.doubts.get_mut(&key) else { return };
        let exchange = &mut doubt.exchange;
        exchange.owner = ctx.owner;
        // If it is ours it shall run, however long the store was away.
        exchange.deadline = exchange.deadline.max(ctx.now.mono.plus_millis(LEAST_MS));
        exchange.latest = exchange.latest.max(exchange.deadline);
        doubt.is_writing = true;
        let Some(doubt) = self.doubts.get(&key) else { return };
        let mut open = self.journal(ctx, &doubt.exchange);
        open.instead_of = owner;
        self.store(ctx, StoreOp::OpenExchange { open: Box::new(open), nonce: None }, Op::TakeFrom(key));
    }

    pub(super) fn taken_from(&mut self, ctx: &mut Ctx<'_>, key: ExchangeKey, reply: Result<StoreReply, StoreError>) {
        let Some(mut doubt) = self.doubts.remove(&key) else { return };
        doubt.is_writing = false;
        match reply {
            // The lease ended meanwhile: it is ours, or its adopter's, and that is looked at again.
            Ok(StoreReply::Exchange(OpenOutcome::Opened { .. })) if doubt.fate == Fate::Live && !ctx.has_lease() => {
                doubt.owner = ctx.owner;
                self.look_again(ctx, key, doubt);
            }
            Ok(StoreReply::Exchange(OpenOutcome::Opened { session })) => {
                self.timers.clear(Timer::Doubt(key));
                self.stats.taken_over += 1;
                if let Some(body) = doubt.answer.filter(|_| doubt.fate == Fate::Live) {
                    return self.answer_again(ctx, *doubt.exchange, body);
                }
                self.serve(ctx, *doubt.exchange, doubt.fate, session);
            }
            // Nobody wants it any more.
            _ if doubt.fate != Fate::Live => self.timers.clear(Timer::Doubt(key)),
            Ok(StoreReply::Exchange(OpenOutcome::RepeatInFlight { owner })) => {
                (doubt.owner, doubt.is_asked) = (owner, false);
                self.look_again(ctx, key, doubt);
            }
            // Whether it was written is not known; it names an owner all the same.
            Err(_) => self.look_again(ctx, key, doubt),
            Ok(StoreReply::Exchange(outcome)) => {
                self.timers.clear(Timer::Doubt(key));
                let session = doubt.exchange.session;
                self.opened(ctx, *doubt.exchange, Fate::Live, outcome);
                self.settle(session);
            }
            Ok(_) => {
                self.timers.clear(Timer::Doubt(key));
                self.log(
                    LogLevel::Error,
                    "an exchange in doubt was answered by the store with what it did not ask".into(),
                );
            }
        }
    }

    fn look_again(&mut self, ctx: &Ctx<'_>, key: ExchangeKey, doubt: Doubt) {
        self.timers.set(Timer::Doubt(key), ctx.now.mono.plus_millis(FIRST_MS));
        self.doubts.insert(key, doubt);
    }

    /// It is ours now. Whatever stands in the way, its caller is told.
    fn serve(
        &mut self,
        ctx: &mut Ctx<'_>,
        mut exchange: Exchange,
        fate: Fate,
        session: Option<(u64, Box<SessionRecord>)>,
    ) {
        let (leg, header, id) = (exchange.leg.clone(), exchange.header.clone(), exchange.id.clone());
        if fate == Fate::Live {
            let (method, subject) = (exchange.about.method.as_str(), exchange.about.subject.as_deref());
            let access = Access::of(ctx.config, &leg);
            let refused = if !access
                .is_some_and(|access| access.still_allows(method, subject, &access.arguments_of(&exchange)))
            {
                Some(RpcError::denied(subject.unwrap_or(method)))
            } else {
                match self.place(ctx, &mut exchange) {
                    Ok(true) => None,
                    Ok(false) => Some(RpcError::invalid_request("The id is that of another open request")),
                    Err(error) => Some(error),
                }
            };
            if let Some(error) = refused {
                self.heard_in_full(ctx, &exchange);
                self.close_entry(ctx, &exchange);
                let refused = Refused { id, error, denied: false, about: Some(exchange.about) };
                self.refuse(ctx, &leg, header, &refused);
                return self.settle(leg.session);
            }
        }
        self.seat(ctx, &mut exchange);
        if self.begin(ctx, exchange, fate, session) != OK && fate == Fate::Live {
            // Its session is gone, and a SIP answer cannot say so any more. The audit log knows.
            let error = RpcError::interrupted(true, Executed::No);
            self.refuse(ctx, &leg, header, &Refused { id, error, denied: false, about: None });
        }
        self.settle(leg.session);
    }

    /// The leg is gone: nobody waits for an answer.
    pub(super) fn doubts_end(&mut self, session: SessionKey) {
        self.end_doubts(session, Fate::LegClosed, |_| true);
    }

    /// The caller takes back a request that was in doubt.
    pub(super) fn doubt_cancelled(&mut self, session: SessionKey, id: &RawId) {
        self.end_doubts(session, Fate::Cancelled, |exchange| exchange.id.same(id));
    }

    fn end_doubts(&mut self, session: SessionKey, fate: Fate, is_it: impl Fn(&Exchange) -> bool) {
        let mut over = Vec::new();
        for (key, doubt) in self.doubts.range_mut(of_session(session)).filter(|(_, doubt)| is_it(&doubt.exchange)) {
            if doubt.is_writing {
                // The reply ends what it opened.
                doubt.fate = fate;
            } else {
                over.push(*key);
            }
        }
        for key in over {
            self.no_doubt(key);
        }
    }
}
