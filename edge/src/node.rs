//! The node of this process: its epoch and lease, and what it takes over, on a task of its own. Its operations have their own deadline,
//! so that a slow store does not end every lease.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use edge_core::effect::LogLevel;
use edge_core::input::{Input, OpId};
use edge_core::lease::{Lease, Membership};
use edge_core::node::{Node, NodeConfig, NodeEffect, NodeInput, call_id_of};
use session_store::op::{Adopted, StoreError, StoreOp, StoreReply};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep_until, timeout};

use crate::clock::Clock;
use crate::driver::ingress::Shards;
use crate::mesh::Mesh;
use crate::metrics::Metrics;
use crate::store::Store;

/// Orders of the process, and replies of the store, that wait.
const QUEUE: usize = 64;
/// Batches of adopted items on their way to the shards.
const ADOPTED: usize = 1024;
/// For the end of the lease on the way down.
const FAREWELL: Duration = Duration::from_secs(2);

/// What a node works with.
pub struct NodeParts {
    pub clock: Clock,
    pub store: Store,
    pub shards: Shards,
    pub mesh: Mesh,
    pub metrics: Arc<Metrics>,
}

/// How the process speaks with its node.
#[derive(Clone, Debug)]
pub struct NodeHandle {
    orders: mpsc::Sender<NodeInput>,
    membership: watch::Receiver<Option<Arc<Membership>>>,
    end: watch::Receiver<Option<End>>,
}

/// How a node ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Its lease was given back.
    Left,
    /// Another process lives under this id.
    Duplicate(String),
}

impl NodeHandle {
    /// What the node knows of the fleet, as it changes; `None` before the first epoch.
    #[must_use]
    pub fn membership(&self) -> watch::Receiver<Option<Arc<Membership>>> {
        self.membership.clone()
    }

    /// How it ends.
    #[must_use]
    pub fn end(&self) -> watch::Receiver<Option<End>> {
        self.end.clone()
    }

    /// The others hear that no new work comes here.
    pub async fn drain(&self) {
        let _ = self.orders.send(NodeInput::Drain).await;
    }

    /// How long the lease lasts from the next renewal on.
    pub async fn lease(&self, lease: Lease) {
        let _ = self.orders.send(NodeInput::Lease(lease)).await;
    }

    /// Gives the lease back: what is still owned may be adopted at once.
    pub async fn leave(&self) {
        let _ = self.orders.send(NodeInput::Leave).await;
        let mut end = self.end.clone();
        if timeout(FAREWELL, end.wait_for(Option::is_some)).await.is_err() {
            tracing::warn!("the lease was not given back in time; the others adopt when it ends");
        }
    }
}

/// Waits for the end of a node.
pub async fn ended(end: &mut watch::Receiver<Option<End>>) -> End {
    match end.wait_for(Option::is_some).await {
        Ok(end) => end.clone().unwrap_or(End::Left),
        // Its task ends with the process.
        Err(_) => std::future::pending().await,
    }
}

/// Starts the node.
///
/// # Errors
/// When the system gives no random octets.
pub fn start(pod: u64, address: String, lease: Lease, parts: NodeParts) -> Result<NodeHandle, getrandom::Error> {
    let (mut boot, mut generation, mut seed) = ([0; 8], [0; 16], [0; 32]);
    getrandom::fill(&mut boot)?;
    getrandom::fill(&mut generation)?;
    getrandom::fill(&mut seed)?;
    let config = NodeConfig { pod, boot: u64::from_be_bytes(boot), address, lease, generation };
    let (orders, inputs) = mpsc::channel(QUEUE);
    let (membership_in, membership) = watch::channel(None);
    let (end_in, end) = watch::channel(None);
    let node = Node::new(config, parts.clock.now(), seed);
    let (adopted, adopting) = mpsc::channel(ADOPTED);
    tokio::spawn(deliver(adopting, parts.shards.clone(), parts.metrics.clone()));
    let task = Task { node, parts, membership: membership_in, end: end_in, adopted };
    tokio::spawn(task.run(inputs));
    Ok(NodeHandle { orders, membership, end })
}

type Answered = (OpId, Result<StoreReply, StoreError>);

struct Task {
    node: Node,
    parts: NodeParts,
    membership: watch::Sender<Option<Arc<Membership>>>,
    end: watch::Sender<Option<End>>,
    adopted: mpsc::Sender<Vec<Adopted>>,
}

impl Task {
    async fn run(mut self, mut inputs: mpsc::Receiver<NodeInput>) {
        let (answers, mut answered) = mpsc::channel(QUEUE);
        loop {
            while let Some(effect) = self.node.poll_effect() {
                if !self.perform(effect, &answers).await {
                    return;
                }
            }
            let deadline = self.node.poll_timeout().map(|(at, _)| self.parts.clock.instant(at));
            tokio::select! {
                biased;
                input = inputs.recv() => match input {
                    Some(input) => self.node.handle(self.parts.clock.now(), input),
                    None => return,
                },
                // A sender is held here, so there is always one.
                Some((op, reply)) = answered.recv() => {
                    self.node.handle(self.parts.clock.now(), NodeInput::Store { op, reply });
                }
                () = async { sleep_until(deadline.unwrap_or_else(std::time::Instant::now).into()).await }, if deadline.is_some() => {
                    self.node.handle_timeout(self.parts.clock.now());
                }
            }
        }
    }

    /// False: the node has ended.
    async fn perform(&mut self, effect: NodeEffect, answers: &mpsc::Sender<Answered>) -> bool {
        match effect {
            NodeEffect::Store { op, operation } => {
                let (store, answers) = (self.parts.store.clone(), answers.clone());
                tokio::spawn(async move {
                    let lease = matches!(
                        operation,
                        StoreOp::TakeEpoch { .. } | StoreOp::Heartbeat { .. } | StoreOp::Leave { .. }
                    );
                    let reply = match lease {
                        true => store.execute_heartbeat(operation).await,
                        false => store.execute(operation).await,
                    };
                    let _ = answers.send((op, reply)).await;
                });
            }
            NodeEffect::Membership(membership) => {
                self.parts.mesh.membership(&membership);
                self.membership.send_replace(Some(membership));
            }
            NodeEffect::Adopted(items) => drop(self.adopted.send(items).await),
            NodeEffect::Duplicate { message } => {
                self.end.send_replace(Some(End::Duplicate(message)));
                return false;
            }
            NodeEffect::Left => {
                self.end.send_replace(Some(End::Left));
                return false;
            }
            NodeEffect::Log { level, message } => match level {
                LogLevel::Debug => tracing::debug!("{message}"),
                LogLevel::Info => tracing::info!("{message}"),
                LogLevel::Warn => tracing::warn!("{message}"),
                LogLevel::Error => tracing::error!("{message}"),
            },
        }
        true
    }
}

/// Takes adopted items to the shards of their calls. A shard that is busy holds them up, and never the lease.
async fn deliver(mut adopting: mpsc::Receiver<Vec<Adopted>>, shards: Shards, metrics: Arc<Metrics>) {
    while let Some(items) = adopting.recv().await {
        let mut by_shard = BTreeMap::<u16, Vec<Adopted>>::new();
        for item in items {
            metrics.adopted(kind(&item), 1);
            match call_id_of(&item) {
                Some(call_id) => by_shard.entry(shards.index_of(&call_id)).or_default().push(item),
                None => tracing::error!("an adopted call cannot be read; it is left to its caller"),
            }
        }
        for (shard, items) in by_shard {
            shards.reply(shard, Input::Adopted(items)).await;
        }
    }
}

fn kind(item: &Adopted) -> &'static str {
    match item {
        Adopted::Call { .. } => "call",
        Adopted::Dialog { .. } => "dialog",
        Adopted::Exchange { .. } => "exchange",
    }
}
