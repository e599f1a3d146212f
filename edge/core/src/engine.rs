//! The MCP half of an edge: exchanges, legacy sessions, policy, the journal and the backend's streams.
//! It knows legs, not SIP messages; the SIP half delivers what it says and tells how that ended.
//!
//! The order of one request: [`Engine::judge`] → the SIP half writes what the verdict asks for → [`Engine::written`] → the SIP answer
//! leaves → [`Engine::poll`] hands out the forward to the backend. So nothing is forwarded that is not in the journal, and nobody hears
//! "200" for what is not there. After every call the SIP half drains `poll` to `None`.
//!
//! Every map here has a bound and somebody who empties it: an exchange ends with its answer, its cancellation, its deadline or its
//! leg; a session with its leg or, out of a dialog, when it is idle; a backend call with its last event; a delivery with its outcome.

mod about;
mod access;
mod adopt;
mod allowance;
mod answer;
mod backend;
mod close;
mod deliver;
mod doubt;
mod exchange;
mod forward;
mod judge;
mod legacy;
mod meter;
mod pending;
mod questions;
mod quota;
mod resume;
mod rewrite;
mod schemas;
mod session;
mod stats;
mod stream;
mod taken_back;
mod timers;
mod trace;
mod types;
mod written;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use session_store::key::{ExchangeKey, SessionKey};
use session_store::op::StoreOp;
use sip_proto::time::Mono;

use crate::effect::LogLevel;
use crate::input::{BackendId, OpId};
use exchange::Exchange;
use pending::{Call, Farewell, Judged, Op, Outgoing};
use schemas::Schemas;
use session::Session;
use timers::{Timer, Timers};

pub use meter::Metered;
pub use rewrite::Held;
pub(crate) use session::Use;
pub use stats::{AgentStats, EngineStats, ToolStats};
pub use types::{
    Carrier, Closing, Ctx, Delivery, DeliveryId, DeliveryOutcome, EngineOut, Ids, Inbound, Leg, LegKey, Principal,
    SipAnswer, TakeBack, Ticket, Verdict, Way, Written,
};

/// The MCP half of one `EdgeState`.
#[derive(Debug, Default)]
pub struct Engine {
    sessions: BTreeMap<SessionKey, Session>,
    exchanges: BTreeMap<u64, Exchange>,
    tickets: BTreeMap<u64, Judged>,
    calls: HashMap<BackendId, Call>,
    ops: HashMap<OpId, Op>,
    deliveries: HashMap<DeliveryId, Outgoing>,
    /// The deliveries of each leg.
    leg_deliveries: BTreeSet<(SessionKey, DeliveryId)>,
    /// Answers whose callers have no flow: how many, and their bytes.
    parked: (usize, usize),
    farewells: HashMap<u64, Farewell>,
    /// Adopted exchanges that wait for the lease or for their dialog's record.
    orphans: BTreeMap<u64, adopt::Orphan>,
    /// By exchange: what will be done for it once the lease or its session is there.
    plans: BTreeMap<u64, resume::Plan>,
    /// Repetitions of what nobody may be serving.
    doubts: BTreeMap<ExchangeKey, doubt::Doubt>,
    held: doubt::Held,
    taken_back: taken_back::TakenBack,
    quotas: quota::Quotas,
    allowances: allowance::Allowances,
    schemas: Schemas,
    timers: Timers,
    stats: stats::Counters,
    out: VecDeque<EngineOut>,
}

impl Engine {
    /// Fires what is due.
    pub fn handle_timeout(&mut self, ctx: &mut Ctx<'_>) {
        while let Some(timer) = self.timers.pop(ctx.now.mono) {
            if timer.is_continuous() && !ctx.has_lease() {
                self.timers.set(timer, ctx.now.mono.plus_millis(adopt::AGAIN_MS));
                continue;
            }
            match timer {
                Timer::Exchange(no) => self.deadline(ctx, no),
                Timer::Session(key) => self.session_alarm(ctx, key),
                Timer::Stream(key) => self.stream_alarm(ctx, key),
                Timer::Asked(key) => self.asked_alarm(ctx, key),
                Timer::Call(id) => self.call_alarm(ctx, id),
                Timer::Delivery(id) => self.send(ctx, id),
                Timer::Orphan(no) => self.orphan_alarm(ctx, no),
                Timer::Doubt(key) => self.resolve(ctx, key),
                Timer::Allowances => self.sweep_allowances(ctx),
                Timer::Relayed(number) => self.relayed_over(number),
            }
        }
    }

    /// When [`Self::handle_timeout`] wants to be called next, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Mono, &'static str)> {
        self.timers.next()
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<EngineOut> {
        self.out.pop_front()
    }

    /// What a leg uses of the engine.
    pub(crate) fn use_of(&self, session: SessionKey) -> Option<Use> {
        self.sessions.get(&session).map(Use::of)
    }

    /// The legs with something open or a legacy session.
    pub(crate) fn uses(&self) -> impl Iterator<Item = (&Leg, Use)> {
        let live = self.sessions.values().filter(|session| session.legacy.is_some() || session.is_busy());
        live.map(|session| (&*session.leg, Use::of(session)))
    }

    /// Requests that were accepted and not answered: for drain.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.exchanges.len() + self.tickets.len() + self.orphans.len() + self.doubts.len()
    }

    /// Counters and gauges.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        let mut stats = self.stats.read();
        for session in self.sessions.values().filter(|session| session.legacy.is_some() || session.is_busy()) {
            let agent = stats.agents.entry(session.leg.agent.key.clone()).or_default();
            agent.sessions += 1;
            agent.in_flight += session.open.len();
        }
        EngineStats {
            exchanges: self.exchanges.len(),
            sessions: self.sessions.len(),
            backend_calls: self.calls.len(),
            // The index may not outlive what it points to.
            deliveries: self.deliveries.len().max(self.leg_deliveries.len()),
            waiting: self.tickets.len()
                + self.ops.len()
                + self.farewells.len()
                + self.orphans.len()
                + self.plans.len()
                + self.doubts.len(),
            timers: self.timers.len(),
            allowances: self.allowances.len(),
            ..stats
        }
    }

    /// A store operation of the engine's own was answered. `false`: it is not ours.
    pub fn store_reply(
        &mut self,
        ctx: &mut Ctx<'_>,
        op: OpId,
        reply: Result<session_store::op::StoreReply, session_store::op::StoreError>,
    ) -> bool {
        let Some(waiting) = self.ops.remove(&op) else { return false };
        match waiting {
            Op::Load(session) => self.loaded(ctx, session, reply),
            Op::Create { session, exchange, record, again } => {
                self.created(ctx, session, exchange, record, again, reply);
            }
            Op::CreateImplicit { session, record, again } => self.created_implicit(ctx, session, record, again, reply),
            Op::Change(session) => self.changed(session, &reply),
            Op::Touch(session) => self.touched(session, &reply),
            Op::EndIdle(session) => self.idle_ended(ctx, session, &reply),
            Op::LoadForEnd(session) => self.loaded_for_end(ctx, session, reply),
            Op::OrphanDialog(no) => self.orphan_dialog(ctx, no, reply),
            Op::ResumeSession(no) => self.resume_session(ctx, no, reply),
            Op::Noted(no) => self.note_written(ctx, no, &reply),
            Op::TakeFrom(key) => self.taken_from(ctx, key, reply),
            Op::Forget => {}
        }
        true
    }

    fn store(&mut self, ctx: &mut Ctx<'_>, operation: StoreOp, waiting: Op) {
        let op = ctx.ids.op();
        self.ops.insert(op, waiting);
        self.out.push_back(EngineOut::Store { op, operation });
    }

    fn log(&mut self, level: LogLevel, message: String) {
        self.out.push_back(EngineOut::Log { level, message });
    }

    /// Forgets a session that holds nothing any more.
    fn settle(&mut self, key: SessionKey) {
        if self.sessions.get(&key).is_some_and(Session::is_empty) {
            self.forget(key);
        }
    }

    fn forget(&mut self, key: SessionKey) -> Option<Session> {
        for timer in [Timer::Session(key), Timer::Stream(key), Timer::Asked(key)] {
            self.timers.clear(timer);
        }
        self.sessions.remove(&key)
    }
}
