//! One edge process: a core, its node, and the breaker of its store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use edge_core::effect::Effect;
use edge_core::input::{BackendId, ConnId, FlowKey, Input, StoreHealth, Transport};
use edge_core::lease::Lease;
use edge_core::node::{Node, NodeConfig, NodeEffect, NodeInput};
use edge_core::{EdgeState, Shard};
use session_store::record::Owner;
use sip_proto::framing::{FrameLimits, datagram};

use super::{Event, Link, World};
use crate::setup::config;

/// A reply of the store may be under way so long as a node waits for it.
const WAY_MS: u64 = 1_400;

/// A place where an edge runs; now and then one does.
#[derive(Default)]
pub struct Process {
    pub state: Option<EdgeState>,
    pub node: Option<Node>,
    /// Rises with every start and every end: what belongs to an earlier life is void.
    pub life: u32,
    /// It has its first epoch: the sockets are open.
    pub joined: bool,
    /// SIGSTOP: what arrives waits until then.
    pub stopped_until: u64,
    /// It does not reach the store until then.
    pub cut_until: u64,
    pub health: StoreHealth,
    /// Store operations in a row that nobody answered.
    pub unanswered: u32,
    pub timer: Option<u64>,
    pub conns: BTreeMap<ConnId, usize>,
    pub next_conn: u64,
    pub cancelled: BTreeSet<BackendId>,
}

impl World {
    pub(super) fn start(&mut self, index: usize) {
        self.store.lives += 1;
        let (seed, node_seed) = (self.rng.bytes::<32>(), self.rng.bytes::<32>());
        let (boot, generation) = (self.rng.next(), self.rng.bytes::<16>());
        let now = self.clock();
        let pod = index as u64 + 1;
        let edge = &mut self.edges[index];
        if edge.state.is_some() {
            return;
        }
        edge.life += 1;
        let node = NodeConfig { pod, boot, address: format!("10.0.0.{pod}:7000"), lease: Lease::default(), generation };
        edge.node = Some(Node::new(node, now, node_seed));
        let owner = Owner { pod, epoch: 0, boot };
        edge.state = Some(EdgeState::new(config(index), owner, Shard { index: 0, count: 1 }, seed));
        edge.joined = false;
        edge.timer = None;
        edge.health = StoreHealth::Closed;
        edge.unanswered = 0;
        edge.conns.clear();
        edge.next_conn = 1;
        edge.cancelled.clear();
        edge.stopped_until = 0;
        self.effects(index);
    }

    pub(super) fn kill(&mut self, index: usize) {
        let edge = &mut self.edges[index];
        if edge.state.take().is_none() {
            return;
        }
        edge.node = None;
        self.model.died(index);
        let life = edge.life;
        edge.life += 1;
        edge.stopped_until = 0;
        self.report.kills += 1;
        let back = self.now + self.rng.range(200, 15_000);
        self.at(back, Event::Start { edge: index });
        let lost: Vec<_> = self
            .own_conn
            .iter()
            .filter(|(_, conn)| conn.0 == index && conn.1 == life)
            .map(|(caller, conn)| (*caller, *conn))
            .collect();
        for (caller, conn) in lost {
            // The kernel resets what the process had open.
            let at = self.now + 1;
            self.at(at, Event::Lost { caller, conn });
        }
    }

    pub(super) fn input(&mut self, edge: usize, input: Input) {
        let now = self.clock();
        if let Some(state) = &mut self.edges[edge].state {
            state.handle(now, input);
        }
        self.effects(edge);
    }

    pub(super) fn input_of(&mut self, edge: usize, life: u32, input: Input) {
        if self.edges[edge].life == life {
            self.input(edge, input);
        }
    }

    pub(super) fn node_input(&mut self, edge: usize, input: NodeInput) {
        let now = self.clock();
        if let Some(node) = &mut self.edges[edge].node {
            node.handle(now, input);
        }
        self.effects(edge);
    }

    pub(super) fn timer(&mut self, edge: usize, life: u32) {
        if self.edges[edge].life != life || self.edges[edge].timer.is_none_or(|at| at > self.now) {
            return;
        }
        self.edges[edge].timer = None;
        let now = self.clock();
        let process = &mut self.edges[edge];
        if let Some(node) = &mut process.node
            && node.poll_timeout().is_some_and(|(at, _)| at <= now.mono)
        {
            node.handle_timeout(now);
        }
        if let Some(state) = &mut process.state
            && state.poll_timeout().is_some_and(|(at, _)| at <= now.mono)
        {
            state.handle_timeout(now);
        }
        self.effects(edge);
    }

    pub(super) fn effects(&mut self, edge: usize) {
        loop {
            if let Some(effect) = self.edges[edge].node.as_mut().and_then(Node::poll_effect) {
                self.node_effect(edge, effect);
            } else if let Some(effect) = self.edges[edge].state.as_mut().and_then(EdgeState::poll_effect) {
                self.effect(edge, effect);
            } else {
                break;
            }
        }
        let process = &self.edges[edge];
        let due = [
            process.node.as_ref().and_then(Node::poll_timeout),
            process.state.as_ref().and_then(EdgeState::poll_timeout),
        ];
        let due = due.into_iter().flatten().map(|(at, _)| at.0.div_ceil(1000)).min();
        if let Some(at) = due.map(|at| at.max(self.now))
            && process.timer.is_none_or(|known| at < known)
        {
            let life = process.life;
            self.edges[edge].timer = Some(at);
            self.at(at, Event::Timer { edge, life });
        }
    }

    fn node_effect(&mut self, edge: usize, effect: NodeEffect) {
        let now = self.clock();
        match effect {
            NodeEffect::Store { op, operation } => self.store_effect(edge, Link::Node, op, operation),
            NodeEffect::Membership(membership) => {
                self.edges[edge].joined = true;
                if let Some(state) = &mut self.edges[edge].state {
                    state.handle(now, Input::Membership(membership));
                }
            }
            NodeEffect::Adopted(items) => {
                self.report.adopted += items.len() as u64;
                if let Some(state) = &mut self.edges[edge].state {
                    state.handle(now, Input::Adopted(items));
                }
            }
            // No two processes run under one id here; only a dead one's write can look like it. The process ends, and is started again.
            NodeEffect::Duplicate { .. } if self.ghosts.get(&edge).is_some_and(|until| self.now < until + WAY_MS) => {
                self.report.haunted += 1;
                self.kill(edge);
            }
            NodeEffect::Duplicate { message } => self.model.violated(format!("edge {edge} ends: {message}")),
            NodeEffect::Left => {}
            NodeEffect::Log { message, .. } => {
                if self.trace {
                    println!("{:>8} ms  edge {edge} node: {message}", self.now);
                }
            }
        }
    }

    fn effect(&mut self, edge: usize, effect: Effect) {
        let life = self.edges[edge].life;
        match effect {
            Effect::Send { flow, bytes, tag } => {
                self.note_answer_in_outage(edge, &bytes);
                self.send(edge, flow, bytes, tag);
            }
            Effect::SendTo { transport: Transport::Udp, remote, bytes, .. } => {
                self.note_request(&bytes);
                self.send_to_caller(edge, remote, bytes);
            }
            Effect::SendTo { remote, bytes, tag, .. } => self.connect_to_caller(edge, remote, bytes, tag),
            Effect::Store { op, operation } => self.store_effect(edge, Link::Core, op, operation),
            Effect::Backend { id, call } => {
                let events = crate::backend::call(&call, &mut self.rng, &mut self.model);
                if let Some((delay, _)) = events.front() {
                    let at = self.now + delay;
                    self.at(at, Event::Backend { edge, life, id, events });
                }
            }
            Effect::CancelBackend { id } => {
                self.edges[edge].cancelled.insert(id);
            }
            Effect::Close { conn } => self.close(edge, conn),
            Effect::Mesh { to, message } => self.mesh_out(edge, to, message),
            Effect::Log { message, .. } => {
                if self.trace {
                    println!("{:>8} ms  edge {edge}: {message}", self.now);
                }
            }
            Effect::Resolve { .. } | Effect::Audit(_) | Effect::Span(_) | Effect::Drained => {}
        }
    }

    fn send(&mut self, edge: usize, flow: FlowKey, bytes: Bytes, tag: Option<u64>) {
        match flow {
            FlowKey::Datagram { remote, .. } => {
                self.note_request(&bytes);
                self.send_to_caller(edge, remote, bytes);
            }
            FlowKey::Stream(conn) => {
                if let Some(caller) = self.edges[edge].conns.get(&conn).copied() {
                    self.note_request(&bytes);
                    let (at, life) = (self.now + 2, self.edges[edge].life);
                    self.at(at, Event::ToCaller { caller, from: edge, bytes, conn: Some((life, conn)) });
                } else if let Some(tag) = tag {
                    let now = self.clock();
                    if let Some(state) = &mut self.edges[edge].state {
                        state.handle(now, Input::SendFailed { tag });
                    }
                }
            }
        }
    }

    /// An edge that does not reach the store answers a request in a dialog: allowed, from its cache, and counted apart. The store is not
    /// believed as soon as it answers again: a BYE is taken from the cache until the lease is renewed, and written then.
    fn note_answer_in_outage(&mut self, edge: usize, bytes: &Bytes) {
        let health = self.edges[edge].health;
        if health == StoreHealth::Closed && self.reaches_store(edge) {
            return;
        }
        let Ok(Some(message)) = datagram(bytes.clone(), &FrameLimits::default()) else { return };
        let is_away = health == StoreHealth::Open || !self.reaches_store(edge);
        if message.status() == Some(200) && (is_away || message.cseq().method.as_str() == "BYE") {
            let until = self.outage_is_over(edge);
            self.model.answered_in_outage(&message, edge, until);
        }
    }

    fn close(&mut self, edge: usize, conn: ConnId) {
        let life = self.edges[edge].life;
        if let Some(caller) = self.edges[edge].conns.remove(&conn) {
            let at = self.now + 2;
            self.at(at, Event::Lost { caller, conn: (edge, life, conn) });
        }
        let now = self.clock();
        if let Some(state) = &mut self.edges[edge].state {
            state.handle(now, Input::FlowClosed { conn });
        }
    }

    pub(super) fn stream(&self, edge: usize, caller: usize, conn: ConnId) -> Arc<edge_core::input::Flow> {
        Arc::new(edge_core::input::Flow {
            key: FlowKey::Stream(conn),
            transport: Transport::Tcp,
            listener: 0,
            local: crate::setup::core_address(edge),
            remote: crate::setup::caller_address(self.callers[caller].index),
            certificate: Some(self.certificates[caller].clone()),
        })
    }
}
