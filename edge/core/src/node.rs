//! The life of one edge in its fleet: its epoch and lease, who else lives, and what the dead left (sip.md, section 8). One per process,
//! pure, with the four verbs of a core. The shell runs its store operations on a connection of their own with a deadline of their own
//! (1.4 s), hands memberships to every shard, and adopted items to the shard of their Call-ID.

use std::sync::Arc;

use session_store::op::{Adopted, StoreError, StoreOp, StoreReply};
use sip_proto::message::{Message, Transportation};
use sip_proto::time::{Mono, Now};

use crate::effect::LogLevel;
use crate::input::OpId;
use crate::lease::{Lease, Membership};

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

/// One edge in its fleet.
#[derive(Debug)]
pub struct Node {
    config: NodeConfig,
}

impl Node {
    /// A node that has no epoch yet: its first effect is to take one. `seed` comes from the operating system's generator.
    #[must_use]
    pub fn new(config: NodeConfig, now: Now, seed: [u8; 32]) -> Node {
        let _ = (now, seed);
        Node { config }
    }

    /// Something happened.
    pub fn handle(&mut self, now: Now, input: NodeInput) {
        let _ = (now, input, &self.config);
    }

    /// The time that [`Node::poll_timeout`] named has come.
    pub fn handle_timeout(&mut self, now: Now) {
        let _ = now;
    }

    /// When [`Node::handle_timeout`] wants to be called, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Mono, &'static str)> {
        None
    }

    /// The next thing to do; drain it to `None` after every `handle*`.
    pub fn poll_effect(&mut self) -> Option<NodeEffect> {
        None
    }
}
