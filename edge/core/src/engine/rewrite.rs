//! After the store lost its content (sip.md, section 11): what this edge serves is written anew under its new life, each name where there
//! is none, before anybody is served again. So a repetition finds its exchange, wherever it arrives, and nothing runs twice.

use session_store::key::{ExchangeKey, SessionKey};
use session_store::op::{CloseExchange, OpenExchange, OpenOutcome, StoreOp, StoreReply};
use session_store::record::Owner;

use super::Engine;
use super::deliver::deliveries_of;
use super::exchange::Exchange;
use super::types::{Ctx, DeliveryId};

/// Something that this edge holds and the store lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Held {
    /// The record of a legacy session.
    Session(SessionKey),
    /// A request that is being served, or whose answer is on its way. `no`: its number while it is served.
    Exchange { no: Option<u64>, key: ExchangeKey },
}

impl Engine {
    /// What `before`, an earlier life of this process, wrote and this engine still holds.
    #[must_use]
    pub fn held(&self, before: Owner) -> Vec<Held> {
        let mine = |owner: &Owner| (owner.pod, owner.boot) == (before.pod, before.boot);
        let sessions = self.sessions.iter().filter(|(_, session)| session.legacy.is_some() && session.version > 0);
        let served = self.exchanges.iter().filter(|(_, exchange)| mine(&exchange.owner));
        let mut held: Vec<Held> = sessions.map(|(key, _)| Held::Session(*key)).collect();
        held.extend(served.map(|(no, exchange)| Held::Exchange { no: Some(*no), key: exchange.key }));
        for (_, id) in &self.leg_deliveries {
            let Some(outgoing) = self.deliveries.get(id).filter(|outgoing| outgoing.journal.is_some()) else {
                continue;
            };
            if let Some(ends) = outgoing.ends.as_ref().filter(|ends| mine(&ends.owner)) {
                held.push(Held::Exchange { no: None, key: ends.key });
            }
        }
        held
    }

    /// How it is written; `None`: it is over.
    #[must_use]
    pub fn rewrite(&self, ctx: &Ctx<'_>, held: Held) -> Option<StoreOp> {
        let open = match held {
            Held::Session(key) => {
                let session = self.sessions.get(&key)?;
                let record = Box::new(session.legacy.as_ref()?.record.clone());
                return Some(StoreOp::WriteSession {
                    session: key,
                    version: 0,
                    record,
                    ttl_ms: session.ttl_ms(ctx.config),
                });
            }
            Held::Exchange { no, key } => match no.and_then(|no| self.exchanges.get(&no)) {
                Some(exchange) => self.journal_again(ctx, exchange),
                None => {
                    let journal = self.deliveries.get(&self.answer_of(key)?)?.journal.as_ref()?;
                    let mut open = OpenExchange::clone(journal);
                    open.entry.owner = ctx.owner;
                    open
                }
            },
        };
        Some(StoreOp::OpenExchange { open: Box::new(open), nonce: None })
    }

    /// It was written, or somebody else was faster. Gives what is to be written next.
    pub fn rewritten(&mut self, ctx: &Ctx<'_>, held: Held, reply: &StoreReply) -> Option<StoreOp> {
        let (no, key) = match (held, reply) {
            (Held::Session(key), StoreReply::Version(version) | StoreReply::SessionConflict { version, .. }) => {
                if let Some(session) = self.sessions.get_mut(&key) {
                    session.version = *version;
                }
                return None;
            }
            (Held::Exchange { no, key }, StoreReply::Exchange(OpenOutcome::Opened { .. })) => (no, key),
            // Our own first try, whose reply was lost.
            (Held::Exchange { no, key }, StoreReply::Exchange(OpenOutcome::RepeatInFlight { owner }))
                if *owner == ctx.owner =>
            {
                (no, key)
            }
            // It was begun anew, and whoever did that answers it.
            _ => return None,
        };
        if let Some(exchange) = no.and_then(|no| self.exchanges.get_mut(&no)) {
            exchange.owner = ctx.owner;
            return None;
        }
        let end = CloseExchange { key, owner: ctx.owner, answer: None, is_held: false };
        let Some(outgoing) = self.answer_of(key).and_then(|id| self.deliveries.get_mut(&id)) else {
            // It ended meanwhile, and nobody is owed an answer.
            return Some(StoreOp::CloseExchange(end));
        };
        for close in outgoing.close.iter_mut().chain(&mut outgoing.ends) {
            close.owner = ctx.owner;
        }
        let answer = Some(outgoing.body.clone());
        Some(StoreOp::CloseExchange(CloseExchange { answer, is_held: true, ..end }))
    }

    /// The delivery of the answer to an exchange.
    fn answer_of(&self, key: ExchangeKey) -> Option<DeliveryId> {
        let is_it = |id: &DeliveryId| {
            let ends = self.deliveries.get(id).and_then(|outgoing| outgoing.ends.as_ref());
            ends.is_some_and(|ends| ends.key == key)
        };
        self.leg_deliveries.range(deliveries_of(key.session)).map(|(_, id)| *id).find(is_it)
    }

    /// The journal took a request for a new one although it is being served here: the store lost its content a moment ago. What it wrote
    /// is the entry of the one that is served.
    pub(super) fn is_served(&mut self, again: &Exchange) -> bool {
        let session = self.sessions.get(&again.session);
        let open = session.into_iter().flat_map(|session| session.open.values()).copied();
        let same = |known: &Exchange| known.key == again.key && known.digest == again.digest;
        let known = open.into_iter().find(|no| self.exchanges.get(no).is_some_and(same));
        if let Some(known) = known.and_then(|no| self.exchanges.get_mut(&no)) {
            known.owner = again.owner;
            known.leg = again.leg.clone();
            return true;
        }
        let Some(outgoing) = self.answer_of(again.key).and_then(|id| self.deliveries.get_mut(&id)) else {
            return false;
        };
        // What is safe to run again does so: its answer may be lost on a connection that is gone. Not while its answer waits for the store.
        let was_sent = outgoing.tries.store == 0;
        let waits = |open: &OpenExchange| !(open.entry.repeatable && was_sent) && open.entry.digest == again.digest;
        if !outgoing.journal.as_deref().is_some_and(waits) {
            return false;
        }
        for close in outgoing.close.iter_mut().chain(&mut outgoing.ends) {
            close.owner = again.owner;
        }
        true
    }
}
