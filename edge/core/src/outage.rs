//! While the store is away (sip.md, section 11): nothing new is begun, what stands is served from what this edge holds, and what it changed
//! so is written down here and replayed when the store is back. A payload of MCP is never acknowledged without its write.
//!
//! The store is trusted again in this order: a renewal of the lease that was sent after it came back (it says whether the content is still
//! the same), what this edge holds where the content is gone, the journal, then new work in steps.

mod missed;
mod registrations;

use std::collections::{BTreeSet, VecDeque};

use session_store::Durability;
use session_store::key::{DialogKey, GuardKey};
use session_store::op::{StoreError, StoreOp, StoreReply};
use session_store::record::Owner;
use sip_proto::message::{HeaderId, Message};
use sip_proto::time::Mono;

use crate::answer::Answer;
use crate::config::OnOutage;
use crate::dialogs::record_ttl_ms;
use crate::effect::LogLevel;
use crate::engine::{Closing, Held};
use crate::in_dialog::{InDialog, Kind};
use crate::input::StoreHealth;
use crate::names;
use crate::router::Service;
use crate::state::EdgeState;
use crate::timers::TimerKey;
use crate::waiting::Waiting;

/// Most operations that wait for the store; above it the oldest are kept.
const MAX_JOURNAL: usize = 16_384;
/// Replays, and records written anew, at once.
const AT_ONCE: usize = 64;
/// After a failure it goes on so much later; milliseconds.
const AGAIN_MS: u64 = 500;
/// Copies of dialogs that others own are written anew so long after their owners had the occasion; milliseconds.
const COPIES_MS: u64 = 5_000;
/// After a failover each edge finds the new primary by itself, and first writes there what it runs and the primary lacks. They do so within
/// about half a second of each other; milliseconds.
const FOLLOW_MS: u64 = 2_000;
/// So long after the content was lost a dialog that is not there may still be written anew by another edge; milliseconds.
const EMPTIED_MS: u64 = 10_000;
/// A record written anew may be older than the dialog: our next CSeq must still be higher than any that the peer saw (gaps are legal).
const CSEQ_LEAP: u32 = 1_000;

/// One operation that waits.
#[derive(Clone, Debug)]
pub(crate) struct Late {
    dialog: Option<DialogKey>,
    operation: StoreOp,
}

/// Where the store and this edge stand.
#[derive(Debug, Default)]
pub(crate) struct Outage {
    health: StoreHealth,
    /// The store came back at that time, and no renewal was sent since.
    awaited: Option<Mono>,
    journal: VecDeque<Late>,
    replaying: usize,
    /// Exchanges and sessions to be written anew. They come before their dialogs: until its dialog is there, no request in it is taken
    /// anywhere, so none finds its exchange missing.
    held: VecDeque<Held>,
    holding: usize,
    /// Dialogs to be written anew.
    restore: VecDeque<DialogKey>,
    restoring: usize,
    /// Those that others own, and when.
    copies: Option<Mono>,
    emptied_until: Option<Mono>,
    /// Until then other edges write what they hold: an exchange that is not there may still come.
    settles: Option<Mono>,
    /// The same for domains of class `Memory`, after another server took over.
    follows: Option<Mono>,
    /// What is run here is written anew where it is missing; then.
    looks_after: Option<Mono>,
    recent: registrations::Recent,
    missed: missed::Missed,
    /// From the end of an outage until everything above is done.
    recovering: bool,
}

impl Outage {
    pub fn journal_len(&self) -> usize {
        self.journal.len() + self.replaying
    }
}

fn is_end(operation: &StoreOp) -> bool {
    matches!(operation, StoreOp::Bury { .. } | StoreOp::Terminate { .. })
}

impl EdgeState {
    /// Whether the store must not be asked, or cannot be believed yet.
    pub(crate) fn is_degraded(&self) -> bool {
        let outage = &self.outage;
        let restores =
            !outage.restore.is_empty() || outage.restoring > 0 || !outage.held.is_empty() || outage.holding > 0;
        outage.health == StoreHealth::Open || outage.recovering || restores
    }

    /// Whether one more piece of new work is taken.
    fn admits(&mut self) -> bool {
        match self.outage.health {
            _ if self.is_degraded() => false,
            StoreHealth::Recovering { percent } => self.random.below(100) < u64::from(percent),
            StoreHealth::Closed | StoreHealth::Open => true,
        }
    }

    /// Until when another edge may hold the exchange that a request is the repetition of, and has not written it anew yet. In the other
    /// classes a server that takes over has all that was acknowledged.
    pub(crate) fn settles_until(&self, class: Durability) -> Option<Mono> {
        let follows = self.outage.follows.filter(|_| class == Durability::Memory);
        self.outage.settles.max(follows).filter(|until| self.now.mono < *until)
    }

    /// The answer meanwhile. When that ends is known, so nobody is sent away for longer; not all at once, either.
    pub(crate) fn settles(&mut self, until: Mono) -> Answer {
        let seconds = until.millis_since(self.now.mono).div_ceil(1_000).max(1) + self.random.below(2);
        self.stats.limit("outage");
        let phrase = if self.outage.settles.is_some_and(|emptied| until <= emptied) {
            "Store Was Emptied"
        } else {
            "Store Was Replaced"
        };
        Answer::new(503).phrase(phrase).header(HeaderId::RetryAfter, seconds.to_string())
    }

    /// The answer to a request out of a dialog that is not taken now.
    pub(crate) fn refuse_new(&mut self, message: &Message) -> Option<Answer> {
        let service = Service::of(&message.cseq().method);
        let settles = (service == Service::Message).then(|| self.page_settles_until(message)).flatten();
        let taken = match service {
            _ if let Some(until) = settles => return Some(self.settles(until)),
            Service::Invite | Service::Message => self.admits(),
            // The registrar has a rule of its own.
            Service::Register if self.config.on_outage == OnOutage::KeepExisting => true,
            _ => !self.is_degraded(),
        };
        if taken {
            return None;
        }
        self.stats.limit("outage");
        Some(self.unavailable("Store Unavailable"))
    }

    /// The breaker of the store moved.
    pub(crate) fn store_health(&mut self, health: StoreHealth) {
        let before = std::mem::replace(&mut self.outage.health, health);
        match (before == StoreHealth::Open, health == StoreHealth::Open) {
            (false, true) => {
                let on_outage = self.config.on_outage;
                self.log(LogLevel::Error, format!("the store is away: {on_outage:?}, {} sessions", self.dialogs.len()));
                self.outage.awaited = None;
            }
            (true, false) => {
                self.look_after_exchanges();
                let (waiting, held) = (self.outage.journal_len(), self.outage.held.len());
                let message =
                    format!("the store is back: {waiting} operations are replayed, {held} exchanges are looked after");
                self.log(LogLevel::Info, message);
                self.outage.recovering = true;
                self.outage.awaited = self.membership.is_some().then_some(self.now.mono);
                self.recover();
            }
            _ => {}
        }
    }

    /// A replica that took over, or a file that was not written to the end, lacks the latest writes, and says so to nobody. What runs here is
    /// written again where it is missing, so that a repetition does not run it a second time.
    fn look_after_exchanges(&mut self) {
        self.outage.looks_after = None;
        let waiting: BTreeSet<Held> = self.outage.held.iter().copied().collect();
        let in_flight = self.engine.held(self.owner).into_iter().filter(|held| matches!(held, Held::Exchange { .. }));
        self.outage.held.extend(in_flight.filter(|held| !waiting.contains(held)));
    }

    /// Another server answers than before.
    pub(crate) fn store_was_replaced(&mut self) {
        let now = self.now.mono;
        if !self.membership.as_ref().is_none_or(|membership| membership.is_alone()) {
            self.outage.follows = Some(now.plus_millis(FOLLOW_MS));
        }
        // One of several servers, maybe: the others went on, so no end of an outage will be told. It takes operations after its next probe.
        if self.outage.health != StoreHealth::Open {
            self.outage.looks_after = Some(now.plus_millis(AGAIN_MS));
        }
        self.wake_for_known();
    }

    /// The timer of all this: then, if not earlier.
    fn wake_at(&mut self, at: Mono) {
        self.timers.arm_earlier(TimerKey::Outage, at);
    }

    /// Wakes for what is due at a known time.
    fn wake_for_known(&mut self) {
        let Outage { copies, follows, looks_after, .. } = self.outage;
        let known = [copies, follows, looks_after].into_iter().flatten();
        if let Some(next) = known.filter(|at| *at > self.now.mono).min() {
            self.wake_at(next);
        }
    }

    /// [`Self::settles_until`] for a MESSAGE out of a dialog, by the domain that it is for.
    fn page_settles_until(&self, message: &Message) -> Option<Mono> {
        // Nearly always: nobody looks for the domain.
        self.settles_until(Durability::Memory)?;
        let class = self.addressed(message).map_or(Durability::Fsync, |(domain, _)| domain.durability);
        self.settles_until(class)
    }

    /// A renewal of the lease was sent at that time, and the store took it.
    pub(crate) fn store_was_seen(&mut self, renewed_at: Mono) {
        if self.outage.awaited.is_some_and(|at| renewed_at >= at) && self.may_act() {
            self.outage.awaited = None;
        }
        self.recover();
    }

    /// The store lost its content: what is held here is written anew, under our new epoch.
    pub(crate) fn store_was_emptied(&mut self, before: Owner, was_alone: bool) {
        let now = self.now.mono;
        self.outage.settles = (!was_alone).then(|| now.plus_millis(COPIES_MS));
        let mine = |owner: &Owner| (owner.pod, owner.boot) == (before.pod, before.boot);
        self.outage.held = self.engine.held(before).into();
        self.outage.restore = self.dialogs.iter().filter(|(_, l)| mine(&l.record.owner)).map(|(d, _)| *d).collect();
        self.outage.copies = Some(now.plus_millis(COPIES_MS));
        self.outage.emptied_until = Some(now.plus_millis(EMPTIED_MS));
        self.wake_at(now.plus_millis(COPIES_MS));
        let (sessions, exchanges) = (self.outage.restore.len(), self.outage.held.len());
        self.log(LogLevel::Warn, format!("{sessions} sessions and {exchanges} of their exchanges are written anew"));
    }

    /// Whether a dialog that the store does not have may come back: then it is not gone yet.
    pub(crate) fn may_come_back(&mut self, dialog: DialogKey) -> bool {
        let now = self.now.mono;
        if self.outage.emptied_until.is_some_and(|until| now < until) {
            return true;
        }
        // Held here: the next renewal tells whether the store is still the one that it was.
        let Some(membership) = &self.membership else { return false };
        let renewed_at = membership.renewed_at;
        let Some(local) = self.dialogs.get_mut(&dialog) else { return false };
        let missed = *local.missed_at.get_or_insert(now);
        if renewed_at > missed {
            return false;
        }
        local.again_after(now, 2 * AGAIN_MS);
        self.arm_dialog(dialog);
        true
    }

    pub(crate) fn outage_timeout(&mut self) {
        if self.outage.copies.is_some_and(|at| at <= self.now.mono) {
            self.outage.copies = None;
            let copies: Vec<DialogKey> = self.foreign.iter().copied().collect();
            self.outage.restore.extend(copies);
        }
        if self.outage.looks_after.is_some_and(|at| at <= self.now.mono) {
            self.look_after_exchanges();
        }
        self.wake_for_known();
        self.recover();
    }

    /// The next steps, as many as may be under way.
    fn recover(&mut self) {
        if self.outage.health == StoreHealth::Open || self.outage.awaited.is_some() || !self.may_act() {
            return;
        }
        while self.outage.holding < AT_ONCE
            && let Some(held) = self.outage.held.pop_front()
        {
            if let Some(operation) = self.with_engine(|engine, ctx| engine.rewrite(ctx, held)) {
                self.outage.holding += 1;
                self.store(operation, Waiting::Rewrite(held));
            }
        }
        if self.outage.holding > 0 {
            return;
        }
        while self.outage.restoring < AT_ONCE
            && let Some(dialog) = self.outage.restore.pop_front()
        {
            self.restore(dialog);
        }
        if self.outage.restoring > 0 {
            return;
        }
        while self.outage.replaying < AT_ONCE
            && let Some(late) = self.outage.journal.pop_front()
        {
            self.outage.replaying += 1;
            self.store(late.operation.clone(), Waiting::Replay(Box::new(late)));
        }
        if self.outage.recovering && self.outage.replaying == 0 {
            self.outage.recovering = false;
            self.log(LogLevel::Info, "the store is used again");
            self.with_engine(|engine, ctx| engine.store_is_back(ctx));
        }
        if !self.is_degraded() && self.settles_until(Durability::Memory).is_none() {
            self.look_up_missed();
        }
    }

    /// An exchange or a session was written anew, or was not.
    pub(crate) fn rewritten(&mut self, held: Held, reply: Result<StoreReply, StoreError>) {
        self.outage.holding -= 1;
        match reply {
            Ok(reply) => {
                if let Some(next) = self.with_engine(|engine, ctx| engine.rewritten(ctx, held, &reply)) {
                    self.outage.holding += 1;
                    self.store(next, Waiting::Rewrite(held));
                    return;
                }
            }
            Err(StoreError::Unavailable) => {
                self.outage.held.push_back(held);
                return self.wake_at(self.now.mono.plus_millis(AGAIN_MS));
            }
            // It would not be taken the next time either, and the others wait.
            Err(error) => self.log(LogLevel::Error, format!("an exchange is lost with the store's content: {error}")),
        }
        self.recover();
    }

    fn restore(&mut self, dialog: DialogKey) {
        let Some(local) = self.dialogs.get_mut(&dialog) else { return };
        local.record.cseq_out = local.record.cseq_out.saturating_add(CSEQ_LEAP).min(u32::MAX >> 1);
        let mut record = local.record.clone();
        record.owner = self.owner;
        let uuid = record.mcp.as_ref().map(|mcp| mcp.conversation.clone());
        let conversation = uuid.map(|uuid| names::conversation(self.naming_key(), dialog.tenant, &uuid));
        let ttl_ms = record_ttl_ms(record.session_timer.as_ref());
        self.outage.restoring += 1;
        let operation = StoreOp::RestoreDialog { dialog, record, ttl_ms, conversation };
        self.store(operation, Waiting::Restore(dialog));
    }

    pub(crate) fn restored(&mut self, dialog: DialogKey, reply: Result<StoreReply, StoreError>) {
        self.outage.restoring -= 1;
        match reply {
            Ok(StoreReply::Version(version)) => {
                self.stats.restored += 1;
                let owner = self.owner;
                if let Some(local) = self.dialogs.get_mut(&dialog) {
                    local.version = version;
                    local.record.owner = owner;
                    local.missed_at = None;
                }
                self.settle_owner(dialog);
            }
            Ok(StoreReply::Conflict { version, record }) => self.keep(dialog, version, record),
            Ok(_) => self.end_dialog(dialog, Closing::Expired),
            Err(_) => {
                self.outage.restore.push_back(dialog);
                return self.wake_at(self.now.mono.plus_millis(AGAIN_MS));
            }
        }
        self.recover();
    }

    /// What was done without the store is written down for it.
    pub(crate) fn later(&mut self, what: &'static str, dialog: DialogKey, operation: StoreOp) {
        *self.stats.from_cache.entry(what).or_default() += 1;
        // The end of a dialog wins over everything else that was noted of it.
        let of_it = |late: &Late| late.dialog == Some(dialog);
        if self.outage.journal.iter().any(|late| of_it(late) && is_end(&late.operation)) {
            return;
        }
        if is_end(&operation) {
            self.outage.journal.retain(|late| !of_it(late));
        }
        self.note(Late { dialog: Some(dialog), operation });
    }

    pub(crate) fn cancel_later(&mut self, guard: GuardKey) {
        *self.stats.from_cache.entry("CANCEL").or_default() += 1;
        self.note(Late { dialog: None, operation: StoreOp::CancelCall { guard } });
    }

    fn note(&mut self, late: Late) {
        if self.outage.journal.len() >= MAX_JOURNAL {
            return self.stats.limit("outageJournal");
        }
        self.outage.journal.push_back(late);
        if !self.is_degraded() {
            self.wake_at(self.now.mono.plus_millis(AGAIN_MS));
        }
    }

    pub(crate) fn replayed(&mut self, late: Late, reply: &Result<StoreReply, StoreError>) {
        self.outage.replaying -= 1;
        if reply.is_err() {
            self.outage.journal.push_front(late);
            return self.wake_at(self.now.mono.plus_millis(AGAIN_MS));
        }
        // A request that came after this BYE was taken elsewhere before it was written. Its peer heard 200, and was the right one: who may
        // not end this dialog is told so first.
        if let (StoreOp::Terminate { dialog, .. }, Ok(StoreReply::OutOfOrder)) = (&late.operation, reply) {
            let operation = StoreOp::Bury { dialog: *dialog };
            self.outage.journal.push_front(Late { dialog: late.dialog, operation });
        }
        self.recover();
    }

    /// A request in a dialog while the store is away: from what this edge holds, or 503.
    pub(crate) fn in_dialog_degraded(&mut self, mut pending: InDialog) -> Result<(), Answer> {
        let dialog = pending.dialog();
        let actor = pending.caller.actor(&pending.request.flow);
        let cseq = pending.request.message.cseq().seq;
        let held = self.dialogs.get(&dialog).map(|local| {
            let same = local.record.principal == actor.principal
                && actor.source.as_ref().is_none_or(|source| *source == local.record.source);
            (same, local.record.cseq_in)
        });
        match held {
            Some((false, _)) => return Err(Answer::new(403).phrase("Another Principal's Dialog")),
            Some((true, Some(highest))) if cseq < highest => {
                return Err(Answer::new(500).phrase("CSeq Out Of Order"));
            }
            _ => {}
        }
        if pending.kind == Kind::Bye {
            self.open_in_dialog(&mut pending)?;
            let answer = Answer::new(200);
            let response = answer.build(&pending.request.message, &pending.request.flow, &pending.request.tag);
            let operation = match held {
                Some(_) => StoreOp::Bury { dialog },
                // Whether it may end this dialog is seen when the store is back.
                None => StoreOp::Terminate { dialog, by: actor, cseq, response: response.clone(), nonce: None },
            };
            self.answer_bytes(&pending.request, 200, response);
            let record = self.dialogs.get(&dialog).map(|local| local.record.clone());
            self.end_dialog(dialog, Closing::Bye);
            self.later("BYE", dialog, operation);
            if let Some(record) = record {
                self.bridge_ended(dialog, &record);
            }
            return Ok(());
        }
        let plain = match pending.kind {
            Kind::Select => !pending.request.message.has(HeaderId::McpSelect),
            Kind::Options => true,
            Kind::Mcp(_) | Kind::Update | Kind::ReInvite | Kind::Bye => false,
        };
        let rises = held.is_some_and(|(_, highest)| highest.is_none_or(|highest| cseq > highest));
        if !plain || !rises || self.config.on_outage == OnOutage::RejectAll {
            self.stats.limit("outage");
            return Err(self.unavailable("Store Unavailable"));
        }
        self.open_in_dialog(&mut pending)?;
        if let Some(local) = self.dialogs.get_mut(&dialog) {
            local.record.cseq_in = Some(cseq);
        }
        let method = pending.request.method().to_owned();
        let what = if pending.kind == Kind::Options { "OPTIONS" } else { "INFO" };
        let operation = StoreOp::Begin { dialog, by: actor, flow: None, cseq, method, nonce: None, exchange: None };
        self.later(what, dialog, operation);
        self.answer(&pending.request, &Answer::new(200));
        Ok(())
    }
}
