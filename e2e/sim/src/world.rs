//! One run: edges, callers, a network that loses, repeats and reorders, a store that is slow and fails, a mesh, a virtual clock, and kills.

mod faults;
mod finish;
mod link;
mod network;
mod process;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use edge_core::input::{BackendEvent, BackendId, ConnId, OpId, PeerCertificate, StoreHealth};
use edge_core::mesh::MeshMessage;
use session_store::key::ExchangeKey;
use session_store::op::{Adopted, StoreError, StoreOp, StoreReply};
use sip_proto::time::{Mono, Now, UnixMillis};

use crate::caller::Caller;
use crate::model::Model;
use crate::rng::Rng;
use crate::setup::DOMAIN;
use crate::store::{Mutant, Store};
use faults::Arrow;
use process::Process;

const EDGES: usize = 3;
/// Wall clock at the start, milliseconds.
pub const EPOCH_MS: u64 = 1_800_000_000_000;
/// Long after the last time to live (a binding: two hours; a dialog: Session-Expires × 1.5).
const SILENCE_MS: u64 = 4 * 3_600_000;
/// From here on nothing is lost, slow or killed, so that everything can end.
pub const CALM_FROM_MS: u64 = 120_000;
/// A run that does not come to rest is a violation, not an endless loop. (Heartbeats go on for the whole silence.)
const MAX_EVENTS: u64 = 2_000_000;

/// Arrows of the write-ahead table at which an edge may die.
pub use faults::ARROWS;

/// What a seed did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub calls: u64,
    pub exchanges: u64,
    pub answers: u64,
    /// Answers that are the typed retryable error.
    pub retryable: u64,
    pub given_up: u64,
    pub requests: u64,
    pub faults: u64,
    pub kills: u64,
    pub adopted: u64,
    pub store_operations: u64,
    pub executions: u64,
    /// Requests that were served after a BYE whose tombstone an outage held up.
    pub from_cache: u64,
    /// Kills at an arrow of the write-ahead table: operation, and whether the write was done.
    pub arrows: BTreeMap<(&'static str, bool), u64>,
    /// Calls between two phones that were answered.
    pub bridged: u64,
    /// Exchanges of callers that broke with their only connection when they might not repeat any more.
    pub no_way_back: u64,
    /// Refused calls that did not hear of it, because the edge that said so died.
    pub unheard: u64,
    /// Processes that ended because a write of their predecessor, long under way, took an epoch after theirs.
    pub haunted: u64,
    pub violations: Vec<String>,
}

impl Report {
    /// Both together.
    pub fn add(&mut self, other: Report) {
        self.calls += other.calls;
        self.exchanges += other.exchanges;
        self.answers += other.answers;
        self.retryable += other.retryable;
        self.given_up += other.given_up;
        self.requests += other.requests;
        self.faults += other.faults;
        self.kills += other.kills;
        self.adopted += other.adopted;
        self.store_operations += other.store_operations;
        self.executions += other.executions;
        self.from_cache += other.from_cache;
        self.bridged += other.bridged;
        self.no_way_back += other.no_way_back;
        self.unheard += other.unheard;
        self.haunted += other.haunted;
        for (arrow, count) in other.arrows {
            *self.arrows.entry(arrow).or_default() += count;
        }
        self.violations.extend(other.violations);
    }
}

/// Which of an edge's two connections to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Core,
    Node,
}

#[derive(Debug)]
enum Event {
    ToEdge {
        edge: usize,
        from: SocketAddr,
        bytes: Bytes,
    },
    StreamToEdge {
        edge: usize,
        life: u32,
        conn: ConnId,
        bytes: Bytes,
    },
    ToCaller {
        caller: usize,
        from: usize,
        bytes: Bytes,
        conn: Option<(u32, ConnId)>,
    },
    /// A caller's own connection broke.
    Lost {
        caller: usize,
        conn: (usize, u32, ConnId),
    },
    StoreDo {
        edge: usize,
        life: u32,
        link: Link,
        op: OpId,
        operation: StoreOp,
        back: u64,
        lose_reply: bool,
    },
    StoreReply {
        edge: usize,
        life: u32,
        link: Link,
        op: OpId,
        reply: Result<StoreReply, StoreError>,
        /// The store's life, and the operation's number there.
        written: Option<(u32, usize)>,
    },
    Mesh {
        from: usize,
        to: usize,
        life: u32,
        message: MeshMessage,
    },
    MeshFailed {
        edge: usize,
        life: u32,
        to: u64,
        tag: u64,
    },
    Health {
        edge: usize,
        life: u32,
        health: StoreHealth,
    },
    Backend {
        edge: usize,
        life: u32,
        id: BackendId,
        events: VecDeque<(u64, BackendEvent)>,
    },
    Timer {
        edge: usize,
        life: u32,
    },
    Caller {
        caller: usize,
    },
    Fault(faults::Fault),
    Start {
        edge: usize,
    },
}

/// An exchange of the journal as the trace names it.
fn exchange_name(key: ExchangeKey, what: Option<&str>) -> String {
    let name: String = key.hash.iter().take(3).map(|byte| format!("{byte:02x}")).collect();
    format!(" x{name} {}", what.unwrap_or_default())
}

struct World {
    now: u64,
    sequence: u64,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Box<Event>>,
    edges: Vec<Process>,
    callers: Vec<Caller>,
    certificates: Vec<Arc<PeerCertificate>>,
    /// The connection of a caller that uses streams: edge, its life, number.
    own_conn: BTreeMap<usize, (usize, u32, ConnId)>,
    store: Store,
    store_life: u32,
    /// Nobody reaches the store until then.
    store_down_until: u64,
    /// Every answer of the store takes 750 ms longer until then.
    store_slow_until: u64,
    /// Two edges that do not hear each other, until then.
    apart: BTreeMap<(usize, usize), u64>,
    arrow: Option<Arrow>,
    /// Edges whose pod has its epoch by a write of a dead process, and until when that one has the lease.
    ghosts: BTreeMap<usize, u64>,
    model: Model,
    rng: Rng,
    report: Report,
    trace: bool,
}

/// Runs one seed; with `trace` every message, write, kill and stop is a line on standard output.
pub fn run(seed: u64, mutant: Option<Mutant>, trace: bool) -> Report {
    let mut rng = Rng::new(seed);
    let count = 2 + rng.below(5) as usize;
    // Few calls are cancelled by themselves.
    let cancels = faults::arrow_of(seed) == "cancel_call";
    let phone = (rng.chance(700) || cancels).then_some(count);
    let mut callers: Vec<Caller> = (0..count).map(|i| Caller::new(i, phone.is_some(), &mut rng)).collect();
    callers.iter_mut().filter(|_| cancels).for_each(Caller::begins_with_a_cancel);
    callers.extend(phone.map(|index| Caller::phone(index, &mut rng)));
    let certificates = callers
        .iter()
        .map(|c| Arc::new(PeerCertificate { uris: vec![c.aor()], dns: Vec::new(), domains: vec![DOMAIN.into()] }))
        .collect();
    let mut world = World {
        now: 0,
        sequence: 0,
        queue: BinaryHeap::new(),
        events: BTreeMap::new(),
        edges: (0..EDGES).map(|_| Process::default()).collect(),
        callers,
        certificates,
        own_conn: BTreeMap::new(),
        store: Store::new(mutant),
        store_life: 0,
        store_down_until: 0,
        store_slow_until: 0,
        apart: BTreeMap::new(),
        arrow: None,
        ghosts: BTreeMap::new(),
        model: Model::default(),
        rng,
        report: Report::default(),
        trace,
    };
    for edge in 0..EDGES {
        world.start(edge);
    }
    for caller in 0..world.callers.len() {
        let at = if phone == Some(caller) { 20 } else { world.rng.range(100, 3_000) };
        world.callers[caller].next_step = at;
        world.at(at, Event::Caller { caller });
    }
    world.plan_faults(seed);
    world.play();
    world.finish();
    world.report
}

impl World {
    fn at(&mut self, time: u64, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse((time, self.sequence)));
        self.events.insert(self.sequence, Box::new(event));
    }

    fn clock(&self) -> Now {
        Now { mono: Mono(self.now * 1000), wall: UnixMillis(EPOCH_MS + self.now) }
    }

    fn is_calm(&self) -> bool {
        self.now >= CALM_FROM_MS
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
            self.step(*event);
        }
    }

    fn tell(&self, event: &Event) {
        let first_line = |bytes: &Bytes| {
            let text = String::from_utf8_lossy(bytes).into_owned();
            let cseq = text.lines().find(|l| l.starts_with("CSeq")).unwrap_or("").to_owned();
            let exchange = text.lines().find(|l| l.starts_with("MCP-Exchange")).unwrap_or("");
            let exchange: String = exchange.chars().skip(14).take(6).collect();
            format!("{} [{cseq}] {exchange}", text.lines().next().unwrap_or(""))
        };
        let text = match event {
            Event::ToEdge { edge, from, bytes } => format!("{from} → edge {edge}: {}", first_line(bytes)),
            Event::StreamToEdge { edge, bytes, .. } => format!("stream → edge {edge}: {}", first_line(bytes)),
            Event::ToCaller { caller, from, bytes, .. } => {
                format!("edge {from} → caller {caller}: {}", first_line(bytes))
            }
            Event::Lost { caller, .. } => format!("caller {caller} lost its connection"),
            Event::StoreDo { edge, operation: StoreOp::Heartbeat { .. }, .. } => format!("edge {edge} heartbeat"),
            Event::StoreDo { operation: StoreOp::Adopt { .. }, .. } => return,
            Event::StoreDo { edge, op, operation, .. } => {
                let name = format!("{operation:?}");
                let about = match operation {
                    StoreOp::OpenExchange { open, .. } => {
                        exchange_name(open.key, open.instead_of.map(|_| "taken over"))
                    }
                    StoreOp::CloseExchange(close) => exchange_name(close.key, close.is_held.then_some("held")),
                    _ => String::new(),
                };
                format!("edge {edge} store {} {}{about}", name.split([' ', '(']).next().unwrap_or(""), op.0)
            }
            Event::StoreReply { reply: Ok(StoreReply::Adopted { items, .. }), .. } if items.is_empty() => return,
            Event::StoreReply { edge, op, reply, .. } => {
                let text: String = format!("{reply:?}").chars().take(60).collect();
                let adopted = match reply {
                    Ok(StoreReply::Adopted { items, .. }) => items.as_slice(),
                    _ => &[],
                };
                let names = adopted.iter().filter_map(|item| match item {
                    Adopted::Exchange { key, entry } => {
                        let answered = entry.answer.as_ref().map(|_| "answered");
                        Some(exchange_name(*key, answered))
                    }
                    Adopted::Call { .. } | Adopted::Dialog { .. } => None,
                });
                format!("edge {edge} reply {} {text}{}", op.0, names.collect::<String>())
            }
            Event::Mesh { from, to, message, .. } => {
                let text: String = format!("{message:?}").chars().take(60).collect();
                format!("edge {from} → edge {to}: {text}")
            }
            Event::MeshFailed { edge, to, .. } => format!("edge {edge} did not reach pod {to}"),
            Event::Health { edge, health, .. } => format!("edge {edge} store is {health:?}"),
            Event::Start { edge } => format!("start edge {edge}"),
            Event::Fault(fault) => format!("fault: {fault:?}"),
            Event::Backend { .. } | Event::Timer { .. } | Event::Caller { .. } => return,
        };
        println!("{:>8} ms  {text}", self.now);
    }

    fn step(&mut self, event: Event) {
        if self.trace {
            self.tell(&event);
        }
        let edge = match &event {
            Event::ToEdge { edge, .. }
            | Event::StreamToEdge { edge, .. }
            | Event::StoreReply { edge, .. }
            | Event::Mesh { to: edge, .. }
            | Event::MeshFailed { edge, .. }
            | Event::Health { edge, .. }
            | Event::Backend { edge, .. }
            | Event::Timer { edge, .. } => Some(*edge),
            _ => None,
        };
        if let Some(edge) = edge
            && self.edges[edge].stopped_until > self.now
        {
            let until = self.edges[edge].stopped_until;
            self.at(until, event);
            return;
        }
        match event {
            Event::ToEdge { edge, from, bytes } => self.datagram_in(edge, from, bytes),
            Event::StreamToEdge { edge, life, conn, bytes } => self.stream_in(edge, life, conn, bytes),
            Event::ToCaller { caller, from, bytes, conn } => {
                let mut out = Vec::new();
                self.callers[caller].on_bytes(self.now, &bytes, &mut self.rng, &mut self.model, &mut out);
                self.caller_out(caller, out, Some((from, conn)));
            }
            Event::Lost { caller, conn } => {
                if self.own_conn.get(&caller) == Some(&conn) {
                    self.own_conn.remove(&caller);
                    let mut out = Vec::new();
                    self.callers[caller].on_lost(self.now, &mut self.rng, &mut out);
                    self.caller_out(caller, out, None);
                }
            }
            Event::StoreDo { edge, life, link, op, operation, back, lose_reply } => {
                self.store_do(edge, life, link, op, operation, back, lose_reply);
            }
            Event::StoreReply { edge, life, link, op, reply, written } => {
                self.store_replied(edge, life, link, op, reply, written);
            }
            Event::Mesh { from, to, life, message } => self.mesh_in(from, to, life, message),
            Event::MeshFailed { edge, life, to, tag } => {
                self.input_of(edge, life, edge_core::input::Input::MeshFailed { to, tag });
            }
            Event::Health { edge, life, health } => self.health(edge, life, health),
            Event::Backend { edge, life, id, mut events } => {
                if self.edges[edge].life != life || self.edges[edge].cancelled.contains(&id) {
                    return;
                }
                let Some((_, event)) = events.pop_front() else { return };
                if let Some((delay, _)) = events.front() {
                    let at = self.now + delay;
                    self.at(at, Event::Backend { edge, life, id, events });
                }
                self.input(edge, edge_core::input::Input::Backend { id, event });
            }
            Event::Timer { edge, life } => self.timer(edge, life),
            Event::Caller { caller } => {
                let mut out = Vec::new();
                self.callers[caller].on_timeout(self.now, &mut self.rng, &mut self.model, &mut out);
                self.caller_out(caller, out, None);
            }
            Event::Fault(fault) => self.strike(fault),
            Event::Start { edge } => self.start(edge),
        }
    }
}
