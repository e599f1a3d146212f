//! [`EdgeState`]: one core, serving one shard of the calls. Four verbs: `handle`, `handle_timeout`, `poll_timeout`, `poll_effect`.
//!
//! The SIP half lives in `impl EdgeState` blocks beside each table (transactions, registrations, calls, …); the MCP half is the
//! [`Engine`](crate::engine::Engine). A store operation is an effect; what goes on when its reply comes is a value in `waiting`.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use session_store::key::DialogKey;
use session_store::op::{StoreError, StoreOp, StoreReply};
use session_store::record::Owner;
use sip_proto::time::{Mono, Now};

use crate::b2bua::Bridges;
use crate::config::Config;
use crate::dialogs::LocalDialog;
use crate::drain::Drain;
use crate::effect::{Effect, LogLevel};
use crate::engine::{Ctx, Engine, EngineOut, Ids};
use crate::fleet::Meshed;
use crate::flows::Flows;
use crate::input::{Input, OpId};
use crate::lease::Membership;
use crate::locate::LookUps;
use crate::outage::Outage;
use crate::random::Random;
use crate::routes::Routes;
use crate::stats::Stats;
use crate::timers::{TimerKey, Timers};
use crate::transactions::{Clients, Servers};
use crate::waiting::Waiting;

/// Most store operations of one core without a reply; above it new work gets 503.
pub(crate) const MAX_WAITING: usize = 16_384;

/// Which part of the calls a core serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    pub index: u16,
    /// At least 1.
    pub count: u16,
}

/// Which shard serves a message: all messages of one call have its Call-ID, CANCEL, ACK and the responses to our requests included.
#[must_use]
pub fn shard_of(call_id: &str, count: u16) -> u16 {
    // A Call-ID of ours for a further leg says beside which one it belongs, so that both are with one shard on every edge, however many
    // shards it has.
    if let Some(folded) = beside(call_id) {
        return u16::try_from(u64::from(folded) % u64::from(count.max(1))).unwrap_or(0);
    }
    u16::try_from(u64::from(call_hash(call_id)) % u64::from(count.max(1))).unwrap_or(0)
}

/// What a Call-ID of ours ends with: the hash of the one that it stands beside.
pub(crate) const BESIDE: &str = ".b2b";

/// The hash in a Call-ID of ours for a further leg.
fn beside(call_id: &str) -> Option<u32> {
    let (_, hash) = call_id.rsplit_once(BESIDE)?;
    (hash.len() == 8).then(|| u32::from_str_radix(hash, 16).ok()).flatten()
}

/// The hash of a Call-ID that names its shard.
pub(crate) fn call_hash(call_id: &str) -> u32 {
    if let Some(folded) = beside(call_id) {
        return folded;
    }
    // FNV-1a: the same on every edge and in every version; a peer that makes its Call-IDs collide slows only one shard down, which is
    // bounded by that shard's own limits.
    let hash = call_id
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    u32::try_from((hash >> 32) ^ (hash & 0xffff_ffff)).unwrap_or(0)
}

/// One core.
pub struct EdgeState {
    pub(crate) config: Arc<Config>,
    pub(crate) owner: Owner,
    pub(crate) shard: Shard,
    pub(crate) now: Now,
    pub(crate) random: Random,
    pub(crate) ids: Ids,
    pub(crate) engine: Engine,
    pub(crate) timers: Timers,
    pub(crate) servers: Servers,
    pub(crate) clients: Clients,
    pub(crate) dialogs: BTreeMap<DialogKey, LocalDialog>,
    /// Those of them that somebody else owns.
    pub(crate) foreign: BTreeSet<DialogKey>,
    /// What the node said last; `None`: this edge is alone with its store.
    pub(crate) membership: Option<Arc<Membership>>,
    /// Messages to other edges of which a failure would matter.
    pub(crate) meshed: BTreeMap<u64, Meshed>,
    /// Edges that were not reached over the mesh, and when; at most one entry for each that the store knows.
    pub(crate) deaf: BTreeMap<u64, Mono>,
    pub(crate) outage: Outage,
    /// Tombstones that the store did not take yet, with the tries so far.
    pub(crate) burials: BTreeMap<DialogKey, u32>,
    /// INVITEs between their guard and their record.
    pub(crate) opening: usize,
    /// Second, and how many callers without credentials were told in it that we live.
    pub(crate) liveness: (u64, u32),
    pub(crate) flows: Flows,
    pub(crate) routes: Routes,
    pub(crate) lookups: LookUps,
    pub(crate) bridges: Bridges,
    pub(crate) drain: Drain,
    pub(crate) stats: Stats,
    waiting: HashMap<OpId, Waiting>,
    out: VecDeque<Effect>,
}

impl EdgeState {
    /// A core. `seed` comes from the operating system's generator, once per life and shard; `owner` is the same for all shards.
    #[must_use]
    pub fn new(config: Arc<Config>, owner: Owner, shard: Shard, seed: [u8; 32]) -> EdgeState {
        EdgeState {
            config,
            owner,
            shard,
            now: Now::default(),
            random: Random::new(seed),
            ids: Ids::default(),
            engine: Engine::default(),
            timers: Timers::default(),
            servers: Servers::default(),
            clients: Clients::default(),
            dialogs: BTreeMap::new(),
            foreign: BTreeSet::new(),
            membership: None,
            meshed: BTreeMap::new(),
            deaf: BTreeMap::new(),
            outage: Outage::default(),
            burials: BTreeMap::new(),
            opening: 0,
            liveness: (0, 0),
            flows: Flows::default(),
            routes: Routes::default(),
            lookups: LookUps::default(),
            bridges: Bridges::default(),
            drain: Drain::default(),
            stats: Stats::default(),
            waiting: HashMap::new(),
            out: VecDeque::new(),
        }
    }

    /// Something happened.
    pub fn handle(&mut self, now: Now, input: Input) {
        self.now = now;
        match input {
            Input::Message { flow, message } => self.on_message(flow, message),
            Input::Fault { flow, refusal } => self.on_fault(&flow, &refusal),
            Input::FlowOpened { flow } => self.flows.opened(&flow),
            Input::FlowClosed { conn } => self.flow_closed(conn),
            Input::SendFailed { tag } => self.tagged_send_failed(tag),
            Input::Store { op, reply } => self.on_store(op, reply),
            Input::Backend { id, event } => self.with_engine(|engine, ctx| engine.backend(ctx, id, event)),
            Input::Resolved { query, answer } => self.on_resolved(query, answer),
            Input::Configure(config) => self.configure(config),
            Input::Membership(membership) => self.membership(membership),
            Input::Adopted(items) => self.adopt(items),
            Input::Mesh { from, message } => self.on_mesh(from, message),
            Input::MeshFailed { to, tag } => self.mesh_failed(to, tag),
            Input::StoreHealth(health) => self.store_health(health),
            Input::StoreReplaced => self.store_was_replaced(),
            Input::Drain => self.start_drain(),
        }
        self.settle();
    }

    /// The time that [`EdgeState::poll_timeout`] named has come. Late is fine.
    pub fn handle_timeout(&mut self, now: Now) {
        self.now = now;
        while let Some(key) = self.timers.take_due(now.mono) {
            match key {
                TimerKey::Server(id) => self.server_timeout(id),
                TimerKey::Client(id) => self.client_timeout(id),
                TimerKey::Dialog(dialog) => self.dialog_timeout(dialog),
                TimerKey::ByeAgain(id) => self.bye_again(id),
                TimerKey::Meshed(number) => drop(self.meshed.remove(&number)),
                TimerKey::Outage => self.outage_timeout(),
                TimerKey::Burial(dialog) => self.bury(dialog),
                TimerKey::Route(leg) => self.routes.expire(&leg, now.mono, &mut self.timers),
                TimerKey::Bridge(id) => self.bridge_timeout(id),
                TimerKey::Drain => self.drain_timeout(),
            }
        }
        if self.engine.poll_timeout().is_some_and(|(at, _)| at <= now.mono) {
            self.with_engine(Engine::handle_timeout);
        }
        self.settle();
    }

    /// When [`EdgeState::handle_timeout`] wants to be called, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Mono, &'static str)> {
        [self.timers.next(), self.engine.poll_timeout()].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// The next thing to do; drain it to `None` after every `handle*`.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.out.pop_front()
    }

    /// Gauges and counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let engine = self.engine.stats();
        let mut limited = self.stats.limited.clone();
        for (name, count) in &engine.limited {
            *limited.entry(name).or_default() += count;
        }
        Stats {
            dialogs: self.dialogs.len(),
            server_transactions: self.servers.len(),
            client_transactions: self.clients.len(),
            store_operations: self.waiting.len(),
            flows: self.flows.len(),
            routes: self.routes.len(),
            lookups: self.lookups.len(),
            bridges: self.bridges.len(),
            timers: self.timers.len(),
            copies: self.foreign.len(),
            mesh_messages: self.meshed.len(),
            outage_journal: self.outage.journal_len(),
            degraded: self.is_degraded(),
            fenced: !self.may_act(),
            draining: self.drain.is_on(),
            limited,
            engine,
            ..self.stats.clone()
        }
    }

    pub(crate) fn emit(&mut self, effect: Effect) {
        self.out.push_back(effect);
    }

    pub(crate) fn log(&mut self, level: LogLevel, message: impl Into<String>) {
        self.emit(Effect::Log { level, message: message.into() });
    }

    /// Runs a store operation; its reply goes on with `then`.
    pub(crate) fn store(&mut self, operation: StoreOp, then: Waiting) {
        let op = self.ids.op();
        self.waiting.insert(op, then);
        self.emit(Effect::Store { op, operation });
    }

    /// Whether new work that needs the store can be taken.
    pub(crate) fn has_room(&self) -> bool {
        self.waiting.len() < MAX_WAITING
    }

    /// Calls to this agent between their INVITE and their record.
    #[expect(clippy::disallowed_methods, reason = "a number has no order")]
    pub(crate) fn opening_with(&self, agent: &str) -> usize {
        let is_it = |waiting: &&Waiting| matches!(waiting, Waiting::OpenCall(call) | Waiting::AnswerCall(call) if call.agent.key == agent);
        self.waiting.values().filter(is_it).count()
    }

    /// The same for all agents of this domain.
    #[expect(clippy::disallowed_methods, reason = "a number has no order")]
    pub(crate) fn opening_in(&self, domain: &str) -> usize {
        let is_it = |waiting: &&Waiting| matches!(waiting, Waiting::OpenCall(call) | Waiting::AnswerCall(call) if call.caller.domain.domain == domain);
        self.waiting.values().filter(is_it).count()
    }

    pub(crate) fn waiting_len(&self) -> usize {
        self.waiting.len()
    }

    fn on_store(&mut self, op: OpId, reply: Result<StoreReply, StoreError>) {
        if let Err(error) = &reply {
            self.stats.store_failures += 1;
            self.log(LogLevel::Warn, format!("store: {error}"));
        }
        match self.waiting.remove(&op) {
            Some(waiting) => self.resume(waiting, reply),
            None => {
                let mut mine = false;
                self.with_engine(|engine, ctx| mine = engine.store_reply(ctx, op, reply));
                if !mine {
                    self.stats.drop_one("store reply without a request");
                }
            }
        }
    }

    /// Calls the engine with its context.
    pub(crate) fn with_engine<T>(&mut self, call: impl FnOnce(&mut Engine, &mut Ctx<'_>) -> T) -> T {
        let mut ctx = Ctx {
            now: self.now,
            config: &self.config,
            owner: self.owner,
            random: &mut self.random,
            ids: &mut self.ids,
            valid_until: self.membership.as_ref().map(|membership| membership.valid_until),
            cores: self.shard.count,
        };
        call(&mut self.engine, &mut ctx)
    }

    fn configure(&mut self, config: Arc<Config>) {
        self.config = config;
        self.with_engine(Engine::configure);
        self.read_policy_again();
    }

    /// Passes on what the engine wants, until it wants nothing more.
    pub(crate) fn settle(&mut self) {
        while let Some(out) = self.engine.poll() {
            match out {
                EngineOut::Store { op, operation } => self.emit(Effect::Store { op, operation }),
                EngineOut::Backend { id, call } => self.emit(Effect::Backend { id, call }),
                EngineOut::CancelBackend { id } => self.emit(Effect::CancelBackend { id }),
                EngineOut::Deliver(delivery) => self.deliver(delivery),
                EngineOut::Ask { owner, exchange, call_id } => self.ask_who_holds(owner, exchange, call_id),
                EngineOut::TakeBack(taken) => self.take_back_elsewhere(&taken),
                EngineOut::Audit(record) => self.emit(Effect::Audit(record)),
                EngineOut::Span(span) => self.emit(Effect::Span(span)),
                EngineOut::Log { level, message } => self.emit(Effect::Log { level, message }),
            }
        }
        self.check_drained();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_stable_and_used_alike() {
        assert_eq!(shard_of("abc@example", 1), 0);
        assert_eq!(shard_of("abc@example", 0), 0);
        let mut seen = [0u32; 4];
        for n in 0..4000 {
            seen[usize::from(shard_of(&format!("call-{n}"), 4))] += 1;
        }
        assert!(seen.iter().all(|n| (800..1200).contains(n)), "{seen:?}");
    }
}
