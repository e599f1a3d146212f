//! The life of one edge in its fleet: its epoch and lease, who else lives, and what the dead left (sip.md, section 8). One per process,
//! pure, with the four verbs of a core. The shell runs its store operations on a connection of their own with a deadline of their own
//! (1.4 s), hands memberships to every shard, and adopted items to the shard of their Call-ID.

mod sweep;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use session_store::key::Slot;
use session_store::op::{Adopted, StoreError, StoreOp, StoreReply};
use session_store::record::{Owner, PodState};
use sip_proto::message::{Message, Transportation};
use sip_proto::time::{Mono, Now};

use crate::effect::LogLevel;
use crate::input::OpId;
use crate::lease::{Lease, Membership};
use crate::random::Random;
use sweep::Sweeps;

/// What a node is.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Number of this edge: no other of the fleet has it.
    pub pod: u64,
    /// Random, once per process.
    pub boot: u64,
    /// Where the others reach its mesh (`host:port`); empty where it has none.
    pub address: String,
    pub lease: Lease,
    /// Random: names the store's content where it has no name yet.
    pub generation: [u8; 16],
}

/// Everything that reaches a node.
#[derive(Clone, Debug)]
pub enum NodeInput {
    /// A store operation was answered.
    Store { op: OpId, reply: Result<StoreReply, StoreError> },
    /// No new work comes here any more: the others are told.
    Drain,
    /// The shards have drained: the lease ends.
    Leave,
    /// How long the lease lasts from the next renewal on; what was granted before is not taken back.
    Lease(Lease),
}

/// What a node wants done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeEffect {
    /// Run a store operation; its reply comes back as [`NodeInput::Store`].
    Store {
        op: OpId,
        operation: StoreOp,
    },
    /// For every shard, as `Input::Membership`.
    Membership(Arc<Membership>),
    /// For the shards ([`call_id_of`]), as `Input::Adopted`.
    Adopted(Vec<Adopted>),
    /// Another process lives under this id: this one must end, with this message.
    Duplicate {
        message: String,
    },
    /// The lease was given back, or could not be: the process may end.
    Left,
    Log {
        level: LogLevel,
        message: String,
    },
}

/// The Call-ID that tells the shard of an adopted item. `None`: it cannot be read.
#[must_use]
pub fn call_id_of(item: &Adopted) -> Option<String> {
    match item {
        Adopted::Dialog { record, .. } => Some(record.call_id.clone()),
        Adopted::Exchange { entry, .. } => Some(entry.leg.call_id.clone()),
        Adopted::Call { invite, .. } => {
            let invite = Message::parse(invite.clone(), Transportation::Stream).ok()?;
            Some(invite.call_id().to_owned())
        }
    }
}

/// What a store operation was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// `sent` is when it was handed out: the lease counts from there, whenever the reply comes.
    Epoch {
        sent: Mono,
        lease: Lease,
    },
    Heartbeat {
        sent: Mono,
        lease: Lease,
    },
    /// One slot label of what `from` left, claimed by `by`.
    Adopt {
        slot: Slot,
        from: Owner,
        by: Owner,
    },
    Leave,
}

/// Where a node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// An epoch is being taken, or will be at `next`.
    Joining,
    /// There is an epoch and a lease.
    Member,
    /// The lease is being given back.
    Leaving,
    /// Nothing more is done.
    Over,
}

/// After a failure an epoch or a heartbeat is tried again so soon.
const RETRY_MS: u64 = 250;

/// One edge in its fleet.
#[derive(Debug)]
pub struct Node {
    config: NodeConfig,
    random: Random,
    stage: Stage,
    /// The last epoch that this process had; 0 before the first.
    last_epoch: u64,
    draining: bool,
    membership: Option<Arc<Membership>>,
    /// When the next epoch or heartbeat is asked for; `None` while one is under way.
    next: Option<Mono>,
    sweeps: Sweeps,
    /// The reply to a claim was lost: whether it was executed is not known, and a second one does not tell.
    /// Since when it is to be found out.
    doubt: Option<Mono>,
    /// How often that was done in a row: each time it waits longer, because a new epoch is not cheap.
    doubts: u32,
    last_op: u64,
    asked: BTreeMap<OpId, Asked>,
    out: VecDeque<NodeEffect>,
}

impl Node {
    /// A node that has no epoch yet: its first effect is to take one. `seed` comes from the operating system's generator.
    #[must_use]
    pub fn new(config: NodeConfig, now: Now, seed: [u8; 32]) -> Node {
        let mut node = Node {
            config,
            random: Random::new(seed),
            stage: Stage::Joining,
            last_epoch: 0,
            draining: false,
            membership: None,
            next: None,
            sweeps: Sweeps::default(),
            doubt: None,
            doubts: 0,
            last_op: 0,
            asked: BTreeMap::new(),
            out: VecDeque::new(),
        };
        node.take_epoch(now.mono);
        node
    }

    /// Something happened.
    pub fn handle(&mut self, now: Now, input: NodeInput) {
        match input {
            NodeInput::Store { op, reply } => {
                if let Some(asked) = self.asked.remove(&op) {
                    self.replied(now.mono, asked, reply);
                }
            }
            NodeInput::Drain => {
                self.draining = true;
                // The others hear of it now, not with the next renewal.
                if self.stage == Stage::Member && self.next.is_some() {
                    self.heartbeat(now.mono);
                }
            }
            NodeInput::Leave => self.leave(),
            NodeInput::Lease(lease) => self.config.lease = lease,
        }
        self.claim(now.mono);
    }

    /// The time that [`Node::poll_timeout`] named has come. Late is fine.
    pub fn handle_timeout(&mut self, now: Now) {
        if self.next.is_some_and(|at| at <= now.mono) {
            match self.stage {
                Stage::Joining => self.take_epoch(now.mono),
                Stage::Member => self.heartbeat(now.mono),
                Stage::Leaving | Stage::Over => self.next = None,
            }
        }
        self.claim(now.mono);
    }

    /// When [`Node::handle_timeout`] wants to be called, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Mono, &'static str)> {
        let renewal = self.next.map(|at| (at, "lease"));
        // Without a lease there is nothing to be done about what others left.
        let sweep = self.sweeps.next().filter(|_| self.stage == Stage::Member).map(|at| (at, "adoption"));
        let doubt =
            self.doubt.filter(|_| self.stage == Stage::Member && self.may_resolve()).map(|at| (at, "claims in doubt"));
        [renewal, sweep, doubt].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// The next thing to do; drain it to `None` after every `handle*`.
    pub fn poll_effect(&mut self) -> Option<NodeEffect> {
        self.out.pop_front()
    }

    /// What was given out last.
    #[must_use]
    pub fn membership(&self) -> Option<&Arc<Membership>> {
        self.membership.as_ref()
    }

    /// Lives whose remains are still being taken over.
    #[must_use]
    pub fn adopting(&self) -> usize {
        self.sweeps.running()
    }

    fn ask(&mut self, asked: Asked, operation: StoreOp) {
        self.last_op += 1;
        let op = OpId(self.last_op);
        self.asked.insert(op, asked);
        self.out.push_back(NodeEffect::Store { op, operation });
    }

    fn log(&mut self, level: LogLevel, message: String) {
        self.out.push_back(NodeEffect::Log { level, message });
    }

    fn take_epoch(&mut self, now: Mono) {
        self.next = None;
        let generation = if self.last_epoch == 0 { self.config.generation } else { self.random.bytes() };
        let operation = StoreOp::TakeEpoch {
            pod: self.config.pod,
            boot: self.config.boot,
            last_epoch: self.last_epoch,
            address: self.config.address.clone(),
            lease_ms: self.config.lease.ms,
            generation,
        };
        self.ask(Asked::Epoch { sent: now, lease: self.config.lease }, operation);
    }

    fn heartbeat(&mut self, now: Mono) {
        let Some(membership) = &self.membership else { return };
        self.next = None;
        let lease = self.config.lease;
        let operation = StoreOp::Heartbeat {
            owner: membership.owner,
            address: self.config.address.clone(),
            lease_ms: lease.ms,
            draining: self.draining,
        };
        self.ask(Asked::Heartbeat { sent: now, lease }, operation);
    }

    fn leave(&mut self) {
        match (self.stage, self.membership.as_ref().map(|m| m.owner)) {
            (Stage::Leaving | Stage::Over, _) => {}
            (Stage::Member, Some(owner)) => {
                self.stop();
                self.stage = Stage::Leaving;
                self.ask(Asked::Leave, StoreOp::Leave { owner });
            }
            _ => self.left(),
        }
    }

    fn left(&mut self) {
        self.stage = Stage::Over;
        self.next = None;
        self.out.push_back(NodeEffect::Left);
    }

    /// Nothing continuous from now on: the shards hear it, and nothing more is adopted.
    fn stop(&mut self) {
        self.next = None;
        self.sweeps = Sweeps::default();
        if let Some(membership) = &self.membership {
            let stopped = Membership { valid_until: Mono(0), ..Membership::clone(membership) };
            self.tell(stopped);
        }
    }

    fn tell(&mut self, membership: Membership) {
        let membership = Arc::new(membership);
        self.membership = Some(membership.clone());
        self.out.push_back(NodeEffect::Membership(membership));
    }

    fn replied(&mut self, now: Mono, asked: Asked, reply: Result<StoreReply, StoreError>) {
        match (asked, reply) {
            (Asked::Leave, _) => self.left(),
            // What comes late, after the end was decided.
            _ if matches!(self.stage, Stage::Leaving | Stage::Over) => {}
            (Asked::Epoch { sent, lease }, Ok(StoreReply::Epoch { owner, generation, pods, .. })) => {
                self.joined((sent, lease), owner, generation, pods);
            }
            (Asked::Epoch { .. }, Ok(StoreReply::Fenced)) => self.duplicate(),
            (Asked::Epoch { .. }, other) => {
                self.log(LogLevel::Warn, format!("no epoch from the store yet: {}", said(&other)));
                self.next = Some(now.plus_millis(RETRY_MS));
            }
            (Asked::Heartbeat { sent, lease }, Ok(StoreReply::Pods { generation, pods, .. })) => {
                self.renewed(now, (sent, lease), generation, pods);
            }
            (Asked::Heartbeat { .. }, Ok(StoreReply::Fenced)) => self.fenced(now),
            (Asked::Heartbeat { sent, .. }, other) => {
                self.log(LogLevel::Warn, format!("the lease was not renewed: {}", said(&other)));
                let soon = sent.plus_millis(2 * RETRY_MS).max(now.plus_millis(RETRY_MS));
                self.next = Some(soon);
            }
            (Asked::Adopt { slot, from, by }, reply) => self.adopted(now, slot, from, by, reply),
        }
    }

    /// A new life begins.
    fn joined(&mut self, (sent, lease): (Mono, Lease), owner: Owner, generation: [u8; 16], pods: Vec<PodState>) {
        self.stage = Stage::Member;
        self.last_epoch = owner.epoch;
        if self.membership.as_ref().is_some_and(|m| m.generation != generation) {
            self.log(LogLevel::Error, "the store came back empty: what is held here is written again".to_owned());
        }
        self.log(LogLevel::Info, format!("edge {} lives in epoch {}", owner.pod, owner.epoch));
        self.next = Some(sent.plus_millis(lease.heartbeat_ms()));
        self.sweeps = Sweeps::default();
        self.doubt = None;
        let valid_until = sent.plus_millis(lease.fence_ms());
        // The higher epoch proves the lower ones dead: nobody has to wait for the end of their lease.
        if owner.epoch > 1 {
            let earlier = Owner { pod: owner.pod, epoch: owner.epoch, boot: 0 };
            self.sweeps.begin(earlier, None, &mut self.random);
        }
        // Whatever ended our lease (the store was away, say) may have ended theirs: they get the time to come back by themselves.
        let again = self.membership.is_some();
        let at = again.then(|| sent.plus_millis(2 * lease.heartbeat_ms()));
        self.look_for_dead(&pods, owner, at);
        self.tell(Membership { owner, valid_until, renewed_at: sent, pods, generation });
    }

    fn renewed(&mut self, now: Mono, (sent, lease): (Mono, Lease), generation: [u8; 16], pods: Vec<PodState>) {
        let Some(membership) = self.membership.clone() else { return };
        if membership.generation != generation {
            // Another store, or an emptied one: this life is unknown there.
            return self.fenced(now);
        }
        self.next = Some(sent.plus_millis(lease.heartbeat_ms()).max(now));
        let owner = membership.owner;
        self.look_for_dead(&pods, owner, None);
        let valid_until = sent.plus_millis(lease.fence_ms()).max(membership.valid_until);
        self.tell(Membership { owner, valid_until, renewed_at: sent, pods, generation });
    }

    /// The lease ended, or somebody else has this id: stop everything, and ask for another life.
    fn fenced(&mut self, now: Mono) {
        self.log(LogLevel::Error, "the lease ended: everything continuous stops, and a new epoch is taken".to_owned());
        self.stop();
        self.stage = Stage::Joining;
        self.take_epoch(now);
    }

    /// Another process lives under our id.
    fn duplicate(&mut self) {
        self.stop();
        self.stage = Stage::Over;
        let message = format!(
            "another process runs as edge {}: each edge of a fleet needs an id of its own; this one ends",
            self.config.pod
        );
        self.log(LogLevel::Error, message.clone());
        self.out.push_back(NodeEffect::Duplicate { message });
    }
}

fn said(reply: &Result<StoreReply, StoreError>) -> String {
    match reply {
        Ok(_) => "an answer to something else".to_owned(),
        Err(error) => error.to_string(),
    }
}
