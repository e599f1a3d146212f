//! One run: cores, callers, a network that loses, repeats and reorders, a store that is slow and fails, a virtual clock, and kills.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use edge_core::effect::Effect;
use edge_core::input::{BackendEvent, BackendId, ConnId, Flow, FlowKey, Input, PeerCertificate, Transport};
use edge_core::{EdgeState, Shard};
use session_store::op::{StoreError, StoreOp, StoreReply};
use session_store::record::Owner;
use sip_proto::framing::{FrameLimits, datagram};
use sip_proto::time::{Mono, Now, UnixMillis};

use crate::caller::{Caller, Out};
use crate::model::Model;
use crate::rng::Rng;
use crate::setup::{DOMAIN, caller_address, config, core_address};
use crate::store::{Mutant, Store};

const CORES: usize = 2;
/// Wall clock at the start, milliseconds.
const EPOCH_MS: u64 = 1_800_000_000_000;
/// Long after the last time to live (a binding: two hours; a dialog: Session-Expires × 1.5).
const SILENCE_MS: u64 = 4 * 3_600_000;
/// A run that does not come to rest is a violation, not an endless loop.
const MAX_EVENTS: u64 = 400_000;

/// What a seed did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub calls: u64,
    pub exchanges: u64,
    pub answers: u64,
    pub given_up: u64,
    pub requests: u64,
    pub faults: u64,
    pub kills: u64,
    pub store_operations: u64,
    pub executions: u64,
    pub violations: Vec<String>,
}

#[derive(Debug)]
enum Event {
    ToCore { core: usize, from: SocketAddr, bytes: Bytes },
    StreamToCore { core: usize, life: u32, conn: ConnId, bytes: Bytes },
    ToCaller { caller: usize, from: usize, bytes: Bytes, conn: Option<(u32, ConnId)> },
    StoreDo { core: usize, life: u32, op: edge_core::input::OpId, operation: StoreOp, back: u64, lose_reply: bool },
    StoreReply { core: usize, life: u32, op: edge_core::input::OpId, reply: Result<StoreReply, StoreError> },
    Backend { core: usize, life: u32, id: BackendId, events: VecDeque<(u64, BackendEvent)> },
    Core { core: usize, life: u32 },
    Caller { caller: usize },
    Kill { core: usize },
    Restart { core: usize },
    Stop { core: usize, until: u64 },
}

struct Core {
    state: Option<EdgeState>,
    life: u32,
    epoch: u64,
    /// SIGSTOP: what arrives waits until then.
    stopped_until: u64,
    waiting: Vec<Event>,
    timer: u64,
    conns: BTreeMap<ConnId, usize>,
    next_conn: u64,
    cancelled: BTreeSet<BackendId>,
}

struct World {
    now: u64,
    sequence: u64,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Event>,
    cores: Vec<Core>,
    callers: Vec<Caller>,
    certificates: Vec<Arc<PeerCertificate>>,
    store: Store,
    model: Model,
    rng: Rng,
    report: Report,
    /// Loss, duplication, kills stop here, so that everything can end.
    calm_from: u64,
    kills_on: bool,
    trace: bool,
}

/// Runs one seed; with `trace` every message, write, kill and stop is a line on standard output.
pub fn run(seed: u64, mutant: Option<Mutant>, trace: bool) -> Report {
    let mut rng = Rng::new(seed);
    let callers = 2 + rng.below(5) as usize;
    let callers: Vec<Caller> = (0..callers).map(|i| Caller::new(i, &mut rng)).collect();
    let certificates = callers
        .iter()
        .map(|c| Arc::new(PeerCertificate { uris: vec![c.aor()], dns: Vec::new(), domains: vec![DOMAIN.into()] }))
        .collect();
    let cores = (0..CORES)
        .map(|_| Core {
            state: None,
            life: 0,
            epoch: 0,
            stopped_until: 0,
            waiting: Vec::new(),
            timer: u64::MAX,
            conns: BTreeMap::new(),
            next_conn: 1,
            cancelled: BTreeSet::new(),
        })
        .collect();
    let mut world = World {
        now: 0,
        sequence: 0,
        queue: BinaryHeap::new(),
        events: BTreeMap::new(),
        cores,
        callers,
        certificates,
        store: Store::new(mutant),
        model: Model::default(),
        rng,
        report: Report::default(),
        calm_from: 120_000,
        kills_on: true,
        trace,
    };
    for core in 0..CORES {
        world.start_core(core);
    }
    for caller in 0..world.callers.len() {
        let at = world.rng.range(1, 3_000);
        world.callers[caller].next_step = at;
        world.at(at, Event::Caller { caller });
    }
    for _ in 0..world.rng.below(4) {
        let (at, core) = (world.rng.range(500, 60_000), world.rng.below(CORES as u64) as usize);
        world.at(at, Event::Kill { core });
    }
    if world.rng.chance(300) {
        let (at, core) = (world.rng.range(500, 30_000), world.rng.below(CORES as u64) as usize);
        let until = at + world.rng.range(1_000, 20_000);
        world.at(at, Event::Stop { core, until });
    }
    world.play();
    world.finish();
    world.report
}

impl World {
    fn at(&mut self, time: u64, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse((time, self.sequence)));
        self.events.insert(self.sequence, event);
    }

    fn clock(&self) -> Now {
        Now { mono: Mono(self.now * 1000), wall: UnixMillis(EPOCH_MS + self.now) }
    }

    fn is_calm(&self) -> bool {
        self.now >= self.calm_from
    }

    fn start_core(&mut self, index: usize) {
        self.store.lives += 1;
        let seed = self.rng.bytes::<32>();
        let boot = self.rng.next();
        let core = &mut self.cores[index];
        core.life += 1;
        core.epoch += 1;
        let owner = Owner { pod: index as u64 + 1, epoch: core.epoch, boot };
        core.state = Some(EdgeState::new(config(index), owner, Shard { index: 0, count: 1 }, seed));
        core.timer = u64::MAX;
        core.conns.clear();
        core.cancelled.clear();
        core.stopped_until = 0;
    }

    fn kill(&mut self, index: usize) {
        let core = &mut self.cores[index];
        if core.state.take().is_none() {
            return;
        }
        core.life += 1;
        core.waiting.clear();
        core.stopped_until = 0;
        self.report.kills += 1;
        let back = self.now + self.rng.range(200, 15_000);
        self.at(back, Event::Restart { core: index });
    }

    fn play(&mut self) {
        let mut count = 0u64;
        let mut idle_until = None;
        while let Some(Reverse((time, sequence))) = self.queue.pop() {
            let Some(event) = self.events.remove(&sequence) else { continue };
            self.now = self.now.max(time);
            count += 1;
            if count > MAX_EVENTS {
                self.model.violated(format!("no rest after {MAX_EVENTS} events at {} s", self.now / 1000));
                return;
            }
            if idle_until.is_none() && self.is_calm() && self.callers.iter().all(Caller::is_done) {
                idle_until = Some(self.now + SILENCE_MS);
            }
            if idle_until.is_some_and(|end| self.now > end) {
                return;
            }
            self.step(event);
        }
    }

    fn tell(&self, event: &Event) {
        let first_line = |bytes: &Bytes| {
            let text = String::from_utf8_lossy(bytes).into_owned();
            let cseq = text.lines().find(|l| l.starts_with("CSeq")).unwrap_or("").to_owned();
            format!("{} [{cseq}]", text.lines().next().unwrap_or(""))
        };
        let text = match event {
            Event::ToCore { core, from, bytes } => format!("{from} → core {core}: {}", first_line(bytes)),
            Event::StreamToCore { core, bytes, .. } => format!("stream → core {core}: {}", first_line(bytes)),
            Event::ToCaller { caller, from, bytes, .. } => {
                format!("core {from} → caller {caller}: {}", first_line(bytes))
            }
            Event::StoreDo { core, operation, .. } => {
                let name = format!("{operation:?}");
                format!("core {core} store {}", name.split([' ', '(']).next().unwrap_or(""))
            }
            Event::StoreReply { core, reply, .. } => {
                let text: String = format!("{reply:?}").chars().take(60).collect();
                format!("core {core} reply {text}")
            }
            Event::Kill { core } => format!("kill core {core}"),
            Event::Restart { core } => format!("start core {core}"),
            Event::Stop { core, until } => format!("stop core {core} until {until}"),
            Event::Backend { .. } | Event::Core { .. } | Event::Caller { .. } => return,
        };
        println!("{:>8} ms  {text}", self.now);
    }

    fn step(&mut self, event: Event) {
        if self.trace {
            self.tell(&event);
        }
        let core = match &event {
            Event::ToCore { core, .. }
            | Event::StreamToCore { core, .. }
            | Event::StoreReply { core, .. }
            | Event::Backend { core, .. }
            | Event::Core { core, .. } => Some(*core),
            _ => None,
        };
        if let Some(core) = core
            && self.cores[core].stopped_until > self.now
        {
            let until = self.cores[core].stopped_until;
            self.at(until, event);
            return;
        }
        match event {
            Event::ToCore { core, from, bytes } => {
                let Ok(Some(message)) = datagram(bytes, &FrameLimits::default()) else { return };
                let caller = self.callers.iter().position(|c| caller_address(c.index) == from);
                let flow = Flow {
                    key: FlowKey::Datagram { listener: 0, remote: from },
                    transport: Transport::Udp,
                    listener: 0,
                    local: core_address(core),
                    remote: from,
                    certificate: caller.map(|c| self.certificates[c].clone()),
                };
                self.input(core, Input::Message { flow: Arc::new(flow), message });
            }
            Event::StreamToCore { core, life, conn, bytes } => {
                if self.cores[core].life != life {
                    return;
                }
                let Some(caller) = self.cores[core].conns.get(&conn).copied() else { return };
                let Ok(Some(message)) = datagram(bytes, &FrameLimits::default()) else { return };
                let flow = self.stream(core, caller, conn);
                self.input(core, Input::Message { flow: Arc::new(flow), message });
            }
            Event::ToCaller { caller, from, bytes, conn } => {
                let mut out = Vec::new();
                self.callers[caller].on_bytes(self.now, &bytes, &mut self.rng, &mut self.model, &mut out);
                self.caller_out(caller, out, Some((from, conn)));
            }
            Event::StoreDo { core, life, op, operation, back, lose_reply } => {
                let reply = self.store.execute(EPOCH_MS + self.now, operation, &mut self.model);
                let reply = if lose_reply { Err(StoreError::Unavailable) } else { reply };
                // The arrow between a write and what it allows: here a core may die.
                if !self.is_calm() && self.kills_on && self.rng.chance(4) && self.cores[core].life == life {
                    self.kill(core);
                    return;
                }
                self.at(self.now + back, Event::StoreReply { core, life, op, reply });
            }
            Event::StoreReply { core, life, op, reply } => {
                if self.cores[core].life == life {
                    self.input(core, Input::Store { op, reply });
                }
            }
            Event::Backend { core, life, id, mut events } => {
                if self.cores[core].life != life || self.cores[core].cancelled.contains(&id) {
                    return;
                }
                let Some((_, event)) = events.pop_front() else { return };
                if let Some((delay, _)) = events.front() {
                    let at = self.now + delay;
                    self.at(at, Event::Backend { core, life, id, events });
                }
                self.input(core, Input::Backend { id, event });
            }
            Event::Core { core, life } => {
                if self.cores[core].life == life {
                    self.cores[core].timer = u64::MAX;
                    let now = self.clock();
                    if let Some(state) = &mut self.cores[core].state {
                        state.handle_timeout(now);
                    }
                    self.effects(core);
                }
            }
            Event::Caller { caller } => {
                let mut out = Vec::new();
                self.callers[caller].on_timeout(self.now, &mut self.rng, &mut out);
                self.caller_out(caller, out, None);
            }
            Event::Kill { core } => self.kill(core),
            Event::Restart { core } => self.start_core(core),
            Event::Stop { core, until } => {
                self.report.faults += 1;
                self.cores[core].stopped_until = until;
            }
        }
    }

    fn input(&mut self, core: usize, input: Input) {
        let now = self.clock();
        if let Some(state) = &mut self.cores[core].state {
            state.handle(now, input);
        }
        self.effects(core);
    }

    fn stream(&self, core: usize, caller: usize, conn: ConnId) -> Flow {
        Flow {
            key: FlowKey::Stream(conn),
            transport: Transport::Tcp,
            listener: 0,
            local: core_address(core),
            remote: caller_address(self.callers[caller].index),
            certificate: Some(self.certificates[caller].clone()),
        }
    }

    fn effects(&mut self, core: usize) {
        let life = self.cores[core].life;
        while let Some(effect) = self.cores[core].state.as_mut().and_then(EdgeState::poll_effect) {
            match effect {
                Effect::Send { flow: FlowKey::Datagram { remote, .. }, bytes, .. } => {
                    self.note_request(&bytes);
                    self.send_to_caller(core, remote, bytes);
                }
                Effect::Send { flow: FlowKey::Stream(conn), bytes, .. } => {
                    if let Some(caller) = self.cores[core].conns.get(&conn).copied() {
                        self.note_request(&bytes);
                        let at = self.now + 2;
                        self.at(at, Event::ToCaller { caller, from: core, bytes, conn: Some((life, conn)) });
                    }
                }
                Effect::SendTo { transport: Transport::Udp, remote, bytes, .. } => {
                    self.note_request(&bytes);
                    self.send_to_caller(core, remote, bytes);
                }
                Effect::SendTo { remote, bytes, tag, .. } => {
                    let Some(caller) = self.caller_at(remote) else {
                        self.input(core, Input::SendFailed { tag });
                        continue;
                    };
                    self.note_request(&bytes);
                    let conn = ConnId(self.cores[core].next_conn);
                    self.cores[core].next_conn += 1;
                    self.cores[core].conns.insert(conn, caller);
                    let flow = Arc::new(self.stream(core, caller, conn));
                    let now = self.clock();
                    if let Some(state) = &mut self.cores[core].state {
                        state.handle(now, Input::FlowOpened { flow });
                    }
                    let at = self.now + 3;
                    self.at(at, Event::ToCaller { caller, from: core, bytes, conn: Some((life, conn)) });
                }
                Effect::Store { op, operation } => self.store_effect(core, life, op, operation),
                Effect::Backend { id, call } => {
                    let events = crate::backend::call(&call, &mut self.rng, &mut self.model);
                    if let Some((delay, _)) = events.front() {
                        let at = self.now + delay;
                        self.at(at, Event::Backend { core, life, id, events });
                    }
                }
                Effect::CancelBackend { id } => {
                    self.cores[core].cancelled.insert(id);
                }
                Effect::Close { conn } => {
                    self.cores[core].conns.remove(&conn);
                    let now = self.clock();
                    if let Some(state) = &mut self.cores[core].state {
                        state.handle(now, Input::FlowClosed { conn });
                    }
                }
                Effect::Mesh { .. } | Effect::Resolve { .. } | Effect::Audit(_) | Effect::Span(_) | Effect::Log { .. } | Effect::Drained => {}
            }
        }
        let due = self.cores[core].state.as_ref().and_then(EdgeState::poll_timeout).map(|(at, _)| at.0.div_ceil(1000));
        if let Some(at) = due
            && at < self.cores[core].timer
        {
            let at = at.max(self.now);
            self.cores[core].timer = at;
            self.at(at, Event::Core { core, life });
        }
    }

    fn store_effect(&mut self, core: usize, life: u32, op: edge_core::input::OpId, operation: StoreOp) {
        let (mut there, mut back) = (self.rng.range(0, 5), self.rng.range(0, 5));
        let mut lose_reply = false;
        if !self.is_calm() {
            let fate = self.rng.below(1000);
            if matches!(operation, StoreOp::AnswerCall { .. }) && self.rng.chance(15) {
                // The write that decides a call, later than its lease: another edge may have taken the call over.
                self.report.faults += 1;
                there = self.rng.range(10_000, 16_000);
            } else if fate < 8 {
                self.report.faults += 1;
                there = self.rng.range(100, 2_000);
            } else if fate < 16 {
                // Longer than any lease.
                self.report.faults += 1;
                there = self.rng.range(8_000, 16_000);
            } else if fate < 24 {
                self.report.faults += 1;
                back = self.rng.range(100, 2_000);
            } else if fate < 30 {
                self.report.faults += 1;
                self.model.bye_outage |= matches!(operation, StoreOp::Terminate { .. } | StoreOp::Bury { .. });
                lose_reply = true;
            } else if fate < 36 {
                self.report.faults += 1;
                self.model.bye_outage |= matches!(operation, StoreOp::Terminate { .. } | StoreOp::Bury { .. });
                let at = self.now + 150;
                self.at(at, Event::StoreReply { core, life, op, reply: Err(StoreError::Unavailable) });
                return;
            }
        }
        if let Some(reply) = self.store.invented(EPOCH_MS + self.now, &operation) {
            // The planted fault: the reply now, the write in a while, if the core still lives then.
            self.at(self.now, Event::StoreReply { core, life, op, reply: Ok(reply) });
            if self.rng.chance(200) && !self.is_calm() {
                self.kill(core);
                return;
            }
            let nowhere = edge_core::input::OpId(u64::MAX);
            let at = self.now + there;
            self.at(at, Event::StoreDo { core, life, op: nowhere, operation, back: u64::MAX / 2, lose_reply: true });
            return;
        }
        let at = self.now + there;
        self.at(at, Event::StoreDo { core, life, op, operation, back, lose_reply });
    }

    fn caller_at(&self, remote: SocketAddr) -> Option<usize> {
        self.callers.iter().position(|c| caller_address(c.index) == remote)
    }

    /// A request of an edge in a dialog, as the wire shows it.
    fn note_request(&mut self, bytes: &Bytes) {
        let Ok(Some(message)) = datagram(bytes.clone(), &FrameLimits::default()) else { return };
        if message.is_request() && message.to_tag().is_some() {
            let branch = message.top_via().branch().unwrap_or_default().to_owned();
            let cseq = message.cseq();
            self.model.request_out(message.call_id(), cseq.seq, cseq.method.as_str(), &branch);
        }
    }

    fn send_to_caller(&mut self, core: usize, remote: SocketAddr, bytes: Bytes) {
        let Some(caller) = self.caller_at(remote) else { return };
        for delay in self.fate_of_datagram() {
            let at = self.now + delay;
            self.at(at, Event::ToCaller { caller, from: core, bytes: bytes.clone(), conn: None });
        }
    }

    /// When a datagram arrives: never, once, or twice.
    fn fate_of_datagram(&mut self) -> Vec<u64> {
        if self.is_calm() {
            return vec![1];
        }
        let fate = self.rng.below(1000);
        let delay = if self.rng.chance(50) { self.rng.range(50, 1_500) } else { self.rng.range(1, 20) };
        if fate < 60 {
            self.report.faults += 1;
            Vec::new()
        } else if fate < 90 {
            self.report.faults += 1;
            vec![delay, delay + self.rng.range(1, 800)]
        } else {
            vec![delay]
        }
    }

    fn caller_out(&mut self, caller: usize, out: Vec<Out>, back: Option<(usize, Option<(u32, ConnId)>)>) {
        let from = caller_address(self.callers[caller].index);
        for one in out {
            let (core, bytes) = match (one, back) {
                (Out::Any(bytes), _) => (self.rng.below(CORES as u64) as usize, bytes),
                (Out::Back(bytes), Some((core, Some((life, conn))))) => {
                    let at = self.now + 2;
                    self.at(at, Event::StreamToCore { core, life, conn, bytes });
                    continue;
                }
                (Out::Back(bytes), Some((core, None))) => (core, bytes),
                (Out::Back(_), None) => continue,
            };
            for delay in self.fate_of_datagram() {
                let at = self.now + delay;
                self.at(at, Event::ToCore { core, from, bytes: bytes.clone() });
            }
        }
        if let Some(at) = self.callers[caller].poll_timeout() {
            let at = at.max(self.now + 1);
            self.at(at, Event::Caller { caller });
        }
    }

    /// Long after the last time to live nothing may be left: no key, no map entry, no timer.
    fn finish(&mut self) {
        let end = self.now + SILENCE_MS;
        self.now = end;
        for caller in &mut self.callers {
            caller.conclude(&mut self.model);
            let c = caller.counters;
            self.report.calls += c.calls;
            self.report.exchanges += c.exchanges;
            self.report.answers += c.answers;
            self.report.given_up += c.given_up;
            self.report.requests += c.requests;
        }
        let counts = self.store.counts(EPOCH_MS + end);
        let mut left = BTreeSet::new();
        for (name, n) in [
            ("aors", counts.aors),
            ("guards", counts.guards),
            ("dialogs", counts.dialogs),
            ("sessions", counts.sessions),
            ("exchanges", counts.exchanges),
            ("once", counts.once),
            ("nonces", counts.nonces),
        ] {
            if n > 0 {
                left.insert(format!("{n} {name}"));
            }
        }
        self.model.nothing_left("the store", &left);
        for (index, core) in self.cores.iter().enumerate() {
            let Some(state) = &core.state else { continue };
            let s = state.stats();
            let mut left = BTreeSet::new();
            for (name, n) in [
                ("dialogs", s.dialogs),
                ("server transactions", s.server_transactions),
                ("client transactions", s.client_transactions),
                ("store operations", s.store_operations),
                ("routes", s.routes),
                ("timers", s.timers),
                ("exchanges", s.engine.exchanges),
                ("sessions", s.engine.sessions),
                ("backend calls", s.engine.backend_calls),
                ("deliveries", s.engine.deliveries),
                ("waiting", s.engine.waiting),
                ("engine timers", s.engine.timers),
            ] {
                if n > 0 {
                    left.insert(format!("{n} {name}"));
                }
            }
            self.model.nothing_left(&format!("core {index}"), &left);
        }
        self.report.store_operations = self.store.operations;
        self.report.executions = self.model.executions() as u64;
        self.report.violations = std::mem::take(&mut self.model.violations);
    }
}
