//! The mesh: what is bound to one process (a connection, a transaction, a timer) is said to that process, straight, over mutual TLS.
//!
//! One stream per peer keeps the order. Nothing waits for a peer: its queue is bounded, and what finds no room or no answer in time is
//! told to the shard as failed.

mod peer;
mod server;
pub mod tls;
mod wire;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use edge_core::lease::Membership;
use edge_core::mesh::MeshMessage;
use session_store::record::PodState;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::driver::ingress::Shards;
use crate::identity::EdgeId;
use crate::metrics::Metrics;
use peer::Parcel;
use tls::MeshTls;

/// Messages that wait for one peer.
pub const QUEUE: usize = 1024;
/// Octets of one message.
pub const MAX_MESSAGE: usize = 1 << 20;
/// From the order to the peer's receipt.
pub const DEADLINE: Duration = Duration::from_secs(2);
/// Peers at one time.
const MAX_PEERS: usize = 1024;

/// Why a message does not leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("this edge has no mesh (--mesh-listen), or no certificate for it yet")]
    NoMesh,
    #[error("no such edge lives, or it has no mesh")]
    UnknownPeer,
    #[error("too much waits for that edge")]
    Full,
    #[error("the message is longer than {MAX_MESSAGE} octets")]
    TooLong,
}

/// The way to the other edges.
#[derive(Clone, Debug)]
pub struct Mesh {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    me: EdgeId,
    /// `None`: an edge without a mesh, or one that has no certificate yet.
    tls: ArcSwapOption<MeshTls>,
    runtime: Handle,
    shards: Shards,
    metrics: Arc<Metrics>,
    /// By pod: where its mesh listens.
    addresses: ArcSwap<BTreeMap<u64, String>>,
    /// Whether another of them has its lease.
    has_peers: AtomicBool,
    peers: Mutex<BTreeMap<u64, mpsc::Sender<Parcel>>>,
}

impl Mesh {
    #[must_use]
    pub fn new(me: EdgeId, tls: Option<MeshTls>, runtime: Handle, shards: Shards, metrics: Arc<Metrics>) -> Self {
        let shared = Shared {
            me,
            tls: ArcSwapOption::new(tls.map(Arc::new)),
            runtime,
            shards,
            metrics,
            addresses: ArcSwap::default(),
            has_peers: AtomicBool::new(false),
            peers: Mutex::default(),
        };
        Mesh { shared: Arc::new(shared) }
    }

    /// Certificates changed: the next handshakes use them.
    pub fn replace_tls(&self, tls: MeshTls) {
        self.shared.tls.store(Some(Arc::new(tls)));
    }

    /// Who lives, and where.
    pub fn membership(&self, membership: &Membership) {
        let me = self.shared.me.pod();
        let lives = |pod: &PodState| pod.lease_left_ms > 0 && !pod.address.is_empty() && pod.owner.pod != me;
        self.shared.has_peers.store(membership.pods.iter().any(lives), Ordering::Relaxed);
        // Without a lease an edge may be cut off from the store only: what its connections are asked to say is for the core to decide.
        let known = membership.pods.iter().filter(|pod| !pod.address.is_empty());
        let addresses = known.map(|pod| (pod.owner.pod, pod.address.clone())).collect();
        if **self.shared.addresses.load() != addresses {
            self.shared.addresses.store(Arc::new(addresses));
        }
    }

    /// Whether another edge lives that has a mesh.
    #[must_use]
    pub fn has_peers(&self) -> bool {
        self.shared.has_peers.load(Ordering::Relaxed)
    }

    /// Queues a message for an edge. Never waits. What was queued and is not receipted in time comes back to `shard` as
    /// `Input::MeshFailed`, where the message has a tag.
    ///
    /// # Errors
    /// When it is not even queued.
    pub fn send(&self, to: u64, message: MeshMessage, shard: u16) -> Result<(), Refused> {
        let kind = wire::kind(&message);
        let result = self.queue(to, message, shard);
        if result.is_err() {
            self.shared.metrics.mesh_message("out", kind, "refused");
        }
        result
    }

    fn queue(&self, to: u64, message: MeshMessage, shard: u16) -> Result<(), Refused> {
        if self.shared.tls.load().is_none() {
            return Err(Refused::NoMesh);
        }
        if wire::octets(&message) > MAX_MESSAGE {
            return Err(Refused::TooLong);
        }
        if !self.shared.addresses.load().contains_key(&to) {
            return Err(Refused::UnknownPeer);
        }
        let mut peers = self.shared.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut parcel = Parcel::new(message, shard);
        // A task that had nothing to do has ended and left its closed queue.
        if let Some(peer) = peers.get(&to) {
            match peer.try_send(parcel) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full(_)) => return Err(Refused::Full),
                Err(TrySendError::Closed(back)) => parcel = back,
            }
        }
        peers.retain(|_, peer| !peer.is_closed());
        if peers.len() >= MAX_PEERS {
            return Err(Refused::Full);
        }
        let (sender, queue) = mpsc::channel(QUEUE);
        // An empty queue has room.
        let _ = sender.try_send(parcel);
        peers.insert(to, sender);
        self.shared.runtime.spawn(peer::run(to, queue, self.shared.clone()));
        Ok(())
    }

    /// Takes messages of other edges until the process ends.
    pub async fn serve(&self, listener: TcpListener) {
        server::serve(listener, self.shared.clone()).await;
    }
}
