//! Several edges on one memory store, each with its node, and a mesh between them. Time passes for all at once.

use std::sync::Arc;

use edge_core::config::Config;
use edge_core::input::Input;
use edge_core::lease::{Lease, Membership};
use edge_core::node::{Node, NodeConfig, NodeEffect, NodeInput};
use session_store::memory::{Capacity, MemoryStore};
use session_store::op::StoreError;

use crate::driver::*;

/// One edge.
pub struct Edge {
    pub world: World,
    pub node: Node,
    pub membership: Arc<Membership>,
    /// Its process runs.
    pub alive: bool,
    /// Stopped (SIGSTOP): nothing reaches it, and it does nothing.
    pub stopped: bool,
    /// It reaches the store.
    pub has_store: bool,
    /// Operations of the node wait in vain.
    pub left: bool,
}

pub struct Fleet {
    pub edges: Vec<Edge>,
    pub store: MemoryStore,
    /// Nothing travels between edges.
    pub mesh_is_cut: bool,
    boots: u64,
}

fn store() -> MemoryStore {
    MemoryStore::new(Capacity::default())
}

impl Fleet {
    pub fn new(count: usize) -> Fleet {
        Fleet::with(count, config())
    }

    pub fn with(count: usize, config: Config) -> Fleet {
        let mut fleet = Fleet { edges: Vec::new(), store: store(), mesh_is_cut: false, boots: 0 };
        let start = World::new(config.clone()).now;
        for pod in 0..count {
            let edge = fleet.begin(u64::try_from(pod).unwrap(), config.clone(), start);
            fleet.edges.push(edge);
        }
        // Everybody has heard of everybody.
        fleet.advance(2_000);
        fleet
    }

    fn begin(&mut self, pod: u64, config: Config, now: sip_proto::time::Now) -> Edge {
        self.boots += 1;
        let lease = Lease::default();
        let address = format!("192.0.2.{pod}:7443");
        let config_of_node = NodeConfig { pod, boot: self.boots, address, lease, generation: [7; 16] };
        let seed = [u8::try_from(self.boots).unwrap(); 32];
        let mut node = Node::new(config_of_node, now, seed);
        let mut membership = None;
        while let Some(effect) = node.poll_effect() {
            match effect {
                NodeEffect::Store { op, operation } if membership.is_none() => {
                    let reply = self.store.execute(now.wall.0, operation);
                    node.handle(now, NodeInput::Store { op, reply });
                }
                NodeEffect::Membership(now) => {
                    membership = Some(now);
                    break;
                }
                _ => {}
            }
        }
        let membership = membership.unwrap();
        let mut world = World::with_store(config, membership.owner, store());
        world.now = now;
        // Numbers of different edges never meet.
        world.next = self.boots * 1_000_000;
        world.input(Input::Membership(membership.clone()));
        Edge { world, node, membership, alive: true, stopped: false, has_store: true, left: false }
    }

    /// Works with one edge, then lets everybody finish what follows.
    pub fn on<T>(&mut self, index: usize, work: impl FnOnce(&mut World) -> T) -> T {
        let value = self.alone(index, work);
        self.settle();
        value
    }

    /// Works with one edge and leaves what it says to others for later.
    pub fn alone<T>(&mut self, index: usize, work: impl FnOnce(&mut World) -> T) -> T {
        std::mem::swap(&mut self.store, &mut self.edges[index].world.store);
        let value = work(&mut self.edges[index].world);
        std::mem::swap(&mut self.store, &mut self.edges[index].world.store);
        value
    }

    /// Carries what the edges say to each other.
    pub fn settle(&mut self) {
        while let Some(from) = self.edges.iter().position(|e| e.alive && !e.stopped && !e.world.mesh.is_empty()) {
            let (to, message) = self.edges[from].world.mesh.pop_front().unwrap();
            let index = usize::try_from(to).unwrap();
            let arrives = !self.mesh_is_cut && self.edges.get(index).is_some_and(|e| e.alive && !e.stopped);
            if arrives {
                let from = u64::try_from(from).unwrap();
                self.alone(index, |world| world.input(Input::Mesh { from, message }));
            } else if let Some(tag) = message.tag() {
                self.alone(from, |world| world.input(Input::MeshFailed { to, tag }));
            }
        }
    }

    fn node_effects(&mut self, index: usize) {
        loop {
            let edge = &mut self.edges[index];
            let now = edge.world.now;
            let Some(effect) = edge.node.poll_effect() else { return };
            match effect {
                NodeEffect::Store { op, operation } => {
                    let reply = if edge.has_store {
                        self.store.execute(now.wall.0, operation)
                    } else {
                        Err(StoreError::Unavailable)
                    };
                    edge.node.handle(now, NodeInput::Store { op, reply });
                }
                NodeEffect::Membership(membership) => {
                    edge.membership = membership.clone();
                    self.alone(index, |world| world.input(Input::Membership(membership)));
                }
                NodeEffect::Adopted(items) => self.alone(index, |world| world.input(Input::Adopted(items))),
                NodeEffect::Left => edge.left = true,
                NodeEffect::Duplicate { message } => panic!("{message}"),
                NodeEffect::Log { .. } => {}
            }
        }
    }

    /// An order to the node of an edge.
    pub fn order(&mut self, index: usize, order: NodeInput) {
        let now = self.edges[index].world.now;
        self.edges[index].node.handle(now, order);
        self.node_effects(index);
    }

    /// Lets time pass for all; every deadline on the way is met.
    pub fn advance(&mut self, millis: u64) {
        let end = self.edges.first().map(|e| e.world.now.mono.plus_millis(millis));
        let Some(end) = end else { return };
        loop {
            let runs = |e: &&Edge| e.alive && !e.stopped;
            let next = self.edges.iter().filter(runs).filter_map(|e| {
                let node = e.node.poll_timeout().filter(|_| !e.left);
                [e.world.core.poll_timeout(), node].into_iter().flatten().map(|(at, _)| at).min()
            });
            let Some(at) = next.min().filter(|at| *at <= end) else { break };
            let now = self.edges[0].world.now.mono;
            self.pass(at.max(now));
            for index in 0..self.edges.len() {
                let edge = &mut self.edges[index];
                if !edge.alive || edge.stopped {
                    continue;
                }
                let now = edge.world.now;
                if !edge.left && edge.node.poll_timeout().is_some_and(|(at, _)| at <= now.mono) {
                    edge.node.handle_timeout(now);
                    self.node_effects(index);
                }
                let due = self.edges[index].world.core.poll_timeout().is_some_and(|(at, _)| at <= now.mono);
                if due {
                    self.alone(index, |world| {
                        world.core.handle_timeout(now);
                        world.pump();
                    });
                }
            }
            self.settle();
        }
        self.pass(end);
    }

    fn pass(&mut self, at: sip_proto::time::Mono) {
        for edge in &mut self.edges {
            edge.world.set(at);
        }
    }

    /// SIGKILL: everything that it had is gone, its connections, too.
    pub fn kill(&mut self, index: usize) {
        self.edges[index].alive = false;
        self.edges[index].world.sent.clear();
        self.edges[index].world.mesh.clear();
    }

    /// The same edge again, as a new process.
    pub fn restart(&mut self, index: usize) {
        let config = Config::clone(&self.edges[index].world.config);
        let now = self.edges[index].world.now;
        self.edges[index] = self.begin(u64::try_from(index).unwrap(), config, now);
        self.node_effects(index);
    }

    /// The store came back empty.
    pub fn empty_the_store(&mut self) {
        self.store = store();
    }

    /// What an edge has sent and nobody has looked at.
    pub fn sent(&mut self, index: usize) -> Vec<Sent> {
        self.edges[index].world.sent.drain(..).collect()
    }

    /// Methods and statuses that an edge has sent.
    pub fn said(&mut self, index: usize) -> Vec<String> {
        let name = |sent: Sent| match sent.message.status() {
            Some(status) => status.to_string(),
            None => sent.message.cseq().method.as_str().to_owned(),
        };
        self.sent(index).into_iter().map(name).collect()
    }

    pub fn assert_silent(&self) {
        self.edges.iter().filter(|e| e.alive).for_each(|e| e.world.assert_silent());
    }
}
