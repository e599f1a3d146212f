//! Sockets: listeners, connections, and the way to an address that nobody connected from yet.

pub mod bind;
pub mod connection;
mod io;
pub mod listener;
mod mmsg;
pub mod outbox;
mod outgoing;
mod stream;
pub mod tls;
pub mod udp;
pub mod upgrade;
pub mod verify;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use bytes::Bytes;
use edge_core::config::ListenerConfig;
use edge_core::input::{ConnId, Input, Transport};
use sip_proto::framing::FrameLimits;
use tokio::runtime::Handle;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::UnixTime;

use crate::counters::Counters;
use crate::driver::ingress::Shards;
use connection::Connections;
use listener::{Listening, Wanted};
use outbox::Tag;
use upgrade::OriginRule;
use verify::Trust;

/// Listeners that one process may have had in its life. A listener that is gone keeps its number: flows of its time carry it.
const MAX_SLOTS: usize = 256;

/// Everything about sockets that the process shares.
#[derive(Debug)]
pub struct Net {
    runtime: Handle,
    shards: Shards,
    connections: Arc<Connections>,
    counters: Arc<Counters>,
    body_limit: AtomicUsize,
    origins: ArcSwap<OriginRule>,
    slots: Mutex<Vec<Arc<Listening>>>,
}

/// A listener that could not be opened or changed; one sentence.
#[derive(Debug)]
pub struct ListenerProblem {
    pub listener: String,
    pub message: String,
}

impl Net {
    #[must_use]
    pub fn new(runtime: Handle, shards: Shards, counters: Arc<Counters>, body_limit: usize) -> Arc<Self> {
        Arc::new(Net {
            runtime,
            shards,
            connections: Arc::new(Connections::new(counters.clone())),
            counters,
            body_limit: AtomicUsize::new(body_limit),
            origins: ArcSwap::default(),
            slots: Mutex::default(),
        })
    }

    #[must_use]
    pub fn connections(&self) -> &Arc<Connections> {
        &self.connections
    }

    /// What the framers take from now on; connections keep the limit that they began with.
    pub fn limits(&self) -> FrameLimits {
        FrameLimits { body: self.body_limit.load(Ordering::Relaxed), ..FrameLimits::default() }
    }

    /// New limits and domains.
    pub fn configure(&self, body_limit: usize, domains: Arc<[String]>) {
        self.body_limit.store(body_limit, Ordering::Relaxed);
        self.origins.store(Arc::new(OriginRule { domains }));
    }

    /// Opens, changes and closes listeners until they are the wanted ones. What cannot be done is told and the rest goes on.
    /// Connections of a closed listener live on.
    pub async fn apply(self: &Arc<Self>, wanted: &[Wanted]) -> Vec<ListenerProblem> {
        let mut problems = Vec::new();
        let mut slots = self.slots();
        for slot in slots.iter().filter(|slot| !wanted.iter().any(|wanted| slot.is(wanted))) {
            slot.stop(self).await;
        }
        for wanted in wanted {
            let known = slots.iter().find(|slot| slot.is(wanted)).cloned();
            let result = match known {
                Some(slot) => slot.change(self, wanted).await,
                None if slots.len() >= MAX_SLOTS => Err(format!(
                    "listener {}: this process has had {MAX_SLOTS} listeners; restart it to add more",
                    wanted.name
                )),
                None => match Listening::open(self, slots.len() as u16, wanted).await {
                    Ok(listening) => {
                        slots.push(listening);
                        Ok(())
                    }
                    Err(message) => Err(message),
                },
            };
            if let Err(message) = result {
                problems.push(ListenerProblem { listener: wanted.name.clone(), message });
            }
        }
        *self.slots.lock().unwrap_or_else(PoisonError::into_inner) = slots;
        problems
    }

    /// The listeners as the core knows them: the index is the number that flows carry.
    #[must_use]
    pub fn listeners(&self) -> Vec<ListenerConfig> {
        self.slots().iter().map(|slot| slot.config()).collect()
    }

    /// The listeners that are open.
    #[must_use]
    pub fn open_listeners(&self) -> Vec<ListenerConfig> {
        self.slots().iter().filter(|slot| slot.is_open()).map(|slot| slot.config()).collect()
    }

    /// Closes all listeners: nobody new comes in.
    pub async fn close_listeners(&self) {
        for slot in self.slots() {
            slot.stop(self).await;
        }
    }

    fn slots(&self) -> Vec<Arc<Listening>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn slot(&self, index: u16) -> Option<Arc<Listening>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).get(usize::from(index)).cloned()
    }

    /// TLS of a connection that we open, with the certificate of the listener that it stands for, or of the first one that has TLS.
    fn client_tls(&self, slot: Option<&Listening>) -> Option<Arc<ClientConfig>> {
        let own = slot.and_then(|slot| Some(slot.tls()?.client()));
        own.or_else(|| self.slots().iter().filter(|slot| slot.is_open()).find_map(|slot| Some(slot.tls()?.client())))
    }

    /// Queues bytes on a connection; a tagged failure comes back to the shard that asked.
    pub fn send(&self, conn: ConnId, bytes: Bytes, tag: Option<Tag>) -> Result<(), outbox::Refused> {
        self.connections.send(conn, bytes, tag)
    }

    /// Sends to an address over a stream, on a connection that is there or on a new one.
    pub fn send_to(
        self: &Arc<Self>,
        transport: Transport,
        listener: u16,
        remote: SocketAddr,
        server_name: Option<String>,
        bytes: Bytes,
        tag: Tag,
    ) -> Result<(), outbox::Refused> {
        outgoing::send_to(self, transport, listener, remote, server_name, bytes, tag)
    }

    /// Tells the shards that asked that something of theirs did not leave.
    async fn send_failed(&self, tags: Vec<Tag>) {
        for Tag { shard, tag } in tags {
            self.shards.reply(shard, Input::SendFailed { tag }).await;
        }
    }

    /// The trust changed: connections whose client certificate says something else now are closed. Others are never touched.
    pub fn judge_again(&self, trust: &Trust) -> usize {
        let now = UnixTime::now();
        let mut closed = 0;
        for connection in self.connections.all() {
            let Some(known) = &connection.flow.certificate else { continue };
            let still = trust.identify(&connection.chain, now).is_ok_and(|certificate| certificate == **known);
            if !still {
                connection.outbox.finish();
                closed += 1;
            }
        }
        closed
    }
}
