//! One shard: a core on its own thread, fed by bounded queues, its effects done in order.

pub mod ingress;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use edge_core::config::Config;
use edge_core::effect::{Effect, LogLevel};
use edge_core::input::{BackendEvent, BackendId, FlowKey, Input, OpId, Transport};
use edge_core::lease::Membership;
use edge_core::state::{EdgeState, Shard};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep_until;

use crate::args::EXIT_FAILURE;
use crate::audit::Audit;
use crate::backend::Backends;
use crate::clock::Clock;
use crate::counters::Counters;
use crate::dns::Dns;
use crate::mesh::Mesh;
use crate::metrics::Metrics;
use crate::net::Net;
use crate::net::outbox::Tag;
use crate::net::udp::{self, Receiver, UdpPort};
use crate::store::{AtOnce, Reply, Store, StoreState};
use crate::telemetry::Spans;
use ingress::{Arrived, Control, STALE, ShardQueues, Shards, is_new_work, unavailable};

/// Messages handled before the sockets and timers get their turn.
const PER_TURN: usize = 128;
/// Answers of backends that wait for one shard.
const BACKEND_EVENTS: usize = 1024;
/// Replies of a store that answers later. More wait in their tasks, of which there are as many as the core allows operations.
const STORE_REPLIES: usize = 1024;
/// A core chooses ids up to 2^48; above them stands the shard, so that they are unique in the process.
const ID_BITS: u32 = 48;

/// What all shards share.
#[derive(Clone)]
pub struct Parts {
    pub clock: Clock,
    pub net: Arc<Net>,
    pub shards: Shards,
    pub store: Store,
    /// Whether the store can be used, as it changes.
    pub health: watch::Receiver<StoreState>,
    /// What the node knows of the fleet, as it changes.
    pub membership: watch::Receiver<Option<Arc<Membership>>>,
    pub mesh: Mesh,
    pub backends: Backends,
    /// `None` where the system names no DNS server: every question fails.
    pub dns: Option<Dns>,
    pub audit: Arc<Audit>,
    pub metrics: Arc<Metrics>,
    pub spans: Spans,
    pub counters: Arc<Counters>,
    /// A shard says here that it has drained.
    pub drained: mpsc::Sender<u16>,
    /// DNS runs there.
    pub runtime: tokio::runtime::Handle,
}

/// Starts a shard's thread. It runs as long as the process. `first` is what the node knows of the fleet at this moment.
///
/// # Errors
/// When the system gives no thread or no runtime.
pub fn start(
    shard: Shard,
    config: Arc<Config>,
    first: Arc<Membership>,
    seed: [u8; 32],
    queues: ShardQueues,
    parts: Parts,
) -> std::io::Result<thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name(format!("shard-{}", shard.index)).spawn(move || {
        let _end = EndsTheProcess;
        let mut driver = Driver::new(shard, EdgeState::new(config, first.owner, shard, seed), parts);
        runtime.block_on(async {
            driver.handle(Input::Membership(first));
            driver.run(queues).await;
        });
    })
}

/// A shard that panicked has lost its calls, and whoever hashes to it would wait in vain: the process ends, so that whoever watches it
/// starts it again.
struct EndsTheProcess;

impl Drop for EndsTheProcess {
    fn drop(&mut self) {
        if thread::panicking() {
            tracing::error!("a shard failed; the process ends");
            std::process::exit(EXIT_FAILURE.into());
        }
    }
}

struct Port {
    out: UdpPort,
    receiver: JoinHandle<()>,
}

struct Driver {
    index: u16,
    core: EdgeState,
    parts: Parts,
    /// By listener.
    udp: BTreeMap<u16, Port>,
    /// Replies that are there at once; handled before anything else comes in.
    now: VecDeque<Input>,
    /// Backend calls that may still say something.
    calls: HashSet<BackendId>,
    events: mpsc::Sender<(BackendId, BackendEvent)>,
    events_out: mpsc::Receiver<(BackendId, BackendEvent)>,
    stored: mpsc::Sender<(OpId, Reply)>,
    stored_out: mpsc::Receiver<(OpId, Reply)>,
}

impl Driver {
    fn new(shard: Shard, core: EdgeState, parts: Parts) -> Self {
        let (events, events_out) = mpsc::channel(BACKEND_EVENTS);
        let (stored, stored_out) = mpsc::channel(STORE_REPLIES);
        Driver {
            index: shard.index,
            core,
            parts,
            udp: BTreeMap::new(),
            now: VecDeque::new(),
            calls: HashSet::new(),
            events,
            events_out,
            stored,
            stored_out,
        }
    }

    async fn run(mut self, mut queues: ShardQueues) {
        let mut arrived = Vec::with_capacity(PER_TURN);
        let mut replies = Vec::with_capacity(PER_TURN);
        let mut events = Vec::with_capacity(PER_TURN);
        let mut stored = Vec::with_capacity(PER_TURN);
        let (mut membership, mut health) = (self.parts.membership.clone(), self.parts.health.clone());
        // What was there before this clone counts as seen; it may be newer than what the core was started with.
        membership.mark_changed();
        health.mark_changed();
        let mut replaced = health.borrow().replaced;
        loop {
            let deadline = self.core.poll_timeout().map(|(at, _)| self.parts.clock.instant(at));
            let blocked: Option<u16> = self.udp.iter().find(|(_, port)| !port.out.is_empty()).map(|(index, _)| *index);
            tokio::select! {
                biased;
                order = queues.control.recv() => match order {
                    Some(order) => self.obey(order),
                    None => return,
                },
                // Before everything that was decided on it. Their senders end with the process.
                Ok(()) = membership.changed() => {
                    let now = membership.borrow_and_update().clone();
                    now.into_iter().for_each(|now| self.handle(Input::Membership(now)));
                }
                Ok(()) = health.changed() => {
                    let now = *health.borrow_and_update();
                    if now.replaced != std::mem::replace(&mut replaced, now.replaced) {
                        self.handle(Input::StoreReplaced);
                    }
                    self.handle(Input::StoreHealth(now.health));
                }
                () = async { sleep_until(deadline.unwrap_or_else(Instant::now).into()).await }, if deadline.is_some() => {
                    self.core.handle_timeout(self.parts.clock.now());
                    self.settle();
                }
                _ = queues.replies.recv_many(&mut replies, PER_TURN) => {
                    replies.drain(..).for_each(|input| self.handle(input));
                }
                _ = self.stored_out.recv_many(&mut stored, PER_TURN) => {
                    stored.drain(..).for_each(|(op, reply)| self.handle(Input::Store { op, reply }));
                }
                _ = self.events_out.recv_many(&mut events, PER_TURN) => {
                    events.drain(..).for_each(|(id, event)| self.backend_said(id, event));
                }
                () = async { if let Some(port) = blocked.and_then(|index| self.udp.get(&index)) { port.out.writable().await } },
                    if blocked.is_some() => {}
                _ = queues.wire.recv_many(&mut arrived, PER_TURN) => {
                    arrived.drain(..).for_each(|arrived| self.arrive(arrived));
                }
            }
            self.flush();
            // The receivers of the UDP sockets are tasks of this thread.
            tokio::task::yield_now().await;
        }
    }

    fn obey(&mut self, order: Control) {
        match order {
            Control::Configure(config) => self.handle(Input::Configure(config)),
            Control::Drain => self.handle(Input::Drain),
            // Whoever asked may have given up.
            Control::Stats(answer) => drop(answer.send(self.core.stats())),
            Control::Sessions { asked, answer } => {
                drop(answer.send(self.core.sessions(self.parts.clock.now(), &asked)));
            }
            Control::RemoveUdp { listener, done } => {
                if let Some(Port { out, receiver }) = self.udp.remove(&listener) {
                    receiver.abort();
                    // The receiver holds the socket, too; it is gone when its task has ended.
                    tokio::spawn(async move {
                        drop(out);
                        let _ = receiver.await;
                        drop(done);
                    });
                }
            }
            Control::AddUdp { listener, address, socket } => match UdpSocket::from_std(socket) {
                Ok(socket) => {
                    let socket = Arc::new(socket);
                    let receiver = Receiver {
                        listener,
                        local: address,
                        shards: self.parts.shards.clone(),
                        net: self.parts.net.clone(),
                        counters: self.parts.counters.clone(),
                    };
                    let task = tokio::spawn(udp::receive(socket.clone(), receiver));
                    self.udp.insert(listener, Port { out: UdpPort::new(socket), receiver: task });
                }
                Err(error) => tracing::error!(%address, %error, "a UDP socket could not be used"),
            },
        }
    }

    fn arrive(&mut self, Arrived { input, at }: Arrived) {
        if let Input::Message { flow, message } = &input
            && at.elapsed() > STALE
            && message.is_request()
            && is_new_work(message)
        {
            self.parts.counters.shed.one();
            let bytes = unavailable(message, flow.remote);
            let flow = flow.key.clone();
            return self.perform(Effect::Send { flow, bytes, tag: None });
        }
        self.handle(input);
    }

    fn backend_said(&mut self, id: BackendId, event: BackendEvent) {
        let id = BackendId(id.0 & ((1 << ID_BITS) - 1));
        // What a cancelled call still had in the queue is of no use.
        let known = if event.is_final() { self.calls.remove(&id) } else { self.calls.contains(&id) };
        if known {
            self.handle(Input::Backend { id, event });
        }
    }

    fn handle(&mut self, input: Input) {
        self.core.handle(self.parts.clock.now(), input);
        self.settle();
    }

    /// Does all effects, and hands the replies in that were there at once, until nothing is left.
    fn settle(&mut self) {
        loop {
            while let Some(effect) = self.core.poll_effect() {
                self.perform(effect);
            }
            match self.now.pop_front() {
                Some(input) => self.core.handle(self.parts.clock.now(), input),
                None => return,
            }
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Send { flow: FlowKey::Datagram { listener, remote }, bytes, tag } => {
                self.datagram(listener, remote, bytes, tag);
            }
            Effect::Send { flow: FlowKey::Stream(conn), bytes, tag } => {
                let told = tag.map(|tag| Tag { shard: self.index, tag });
                if self.parts.net.send(conn, bytes, told).is_err() {
                    self.failed(tag);
                }
            }
            Effect::SendTo { transport: Transport::Udp, listener, remote, bytes, tag, .. } => {
                self.datagram(listener, remote, bytes, Some(tag));
            }
            Effect::SendTo { transport, listener, remote, server_name, bytes, tag } => {
                let told = Tag { shard: self.index, tag };
                if self.parts.net.send_to(transport, listener, remote, server_name, bytes, told).is_err() {
                    self.failed(Some(tag));
                }
            }
            Effect::Store { op, operation } => self.store(op, operation),
            Effect::Backend { id, call } => {
                self.calls.insert(id);
                self.parts.backends.start(self.process_wide(id), call, self.events.clone());
            }
            Effect::CancelBackend { id } => {
                self.calls.remove(&id);
                self.parts.backends.cancel(self.process_wide(id));
            }
            Effect::Mesh { to, message } => {
                let tag = message.tag();
                if self.parts.mesh.send(to, message, self.index).is_err()
                    && let Some(tag) = tag
                {
                    self.now.push_back(Input::MeshFailed { to, tag });
                }
            }
            Effect::Resolve { query, question } => {
                let (dns, shards, shard) = (self.parts.dns.clone(), self.parts.shards.clone(), self.index);
                self.parts.runtime.spawn(async move {
                    let answer = match dns {
                        Some(dns) => dns.ask(question).await,
                        None => edge_core::effect::DnsAnswer::Failed,
                    };
                    shards.reply(shard, Input::Resolved { query, answer }).await;
                });
            }
            Effect::Close { conn } => self.parts.net.connections().finish(conn),
            Effect::Audit(record) => {
                self.parts.audit.write(&record);
                self.parts.metrics.audited(&record);
            }
            Effect::Span(span) => {
                if !self.parts.spans.send(span) {
                    self.parts.counters.spans.one();
                }
            }
            Effect::Log { level, message } => match level {
                LogLevel::Debug => tracing::debug!(shard = self.index, "{message}"),
                LogLevel::Info => tracing::info!(shard = self.index, "{message}"),
                LogLevel::Warn => tracing::warn!(shard = self.index, "{message}"),
                LogLevel::Error => tracing::error!(shard = self.index, "{message}"),
            },
            // One place per shard, and a shard says it once.
            Effect::Drained => drop(self.parts.drained.try_send(self.index)),
        }
    }

    /// A store in this process answers at once; its reply is handed in after the effects that stand before it are done. Another one
    /// answers to a task of this thread.
    fn store(&mut self, op: OpId, operation: session_store::op::StoreOp) {
        match self.parts.store.at_once(operation) {
            AtOnce::Answered(reply) => self.now.push_back(Input::Store { op, reply }),
            AtOnce::Later(operation) => {
                let (store, stored) = (self.parts.store.clone(), self.stored.clone());
                tokio::spawn(async move {
                    let reply = store.execute(operation).await;
                    // The shard has ended, and with it the process.
                    let _ = stored.send((op, reply)).await;
                });
            }
        }
    }

    fn datagram(&mut self, listener: u16, remote: std::net::SocketAddr, bytes: bytes::Bytes, tag: Option<u64>) {
        let failed = match self.udp.get_mut(&listener) {
            Some(port) => port.out.queue(remote, bytes, tag, &self.parts.counters),
            None => tag,
        };
        self.failed(failed);
    }

    fn failed(&mut self, tag: Option<u64>) {
        if let Some(tag) = tag {
            self.now.push_back(Input::SendFailed { tag });
        }
    }

    fn flush(&mut self) {
        let failed: Vec<u64> = self.udp.values_mut().flat_map(|port| port.out.flush()).collect();
        if !failed.is_empty() {
            self.now.extend(failed.into_iter().map(|tag| Input::SendFailed { tag }));
            self.settle();
        }
    }

    fn process_wide(&self, id: BackendId) -> BackendId {
        BackendId(u64::from(self.index) << ID_BITS | id.0)
    }
}
