//! UDP listeners: one socket per shard on the same port, batches in and out.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;

use bytes::Bytes;
use edge_core::input::{Flow, FlowKey, Transport};
use sip_proto::framing;
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::Net;
use super::mmsg::{self, ReceiveBatch};
use crate::counters::Counters;
use crate::driver::ingress::Shards;

/// A UDP payload has 65 507 bytes at most over IPv4, 65 527 over IPv6.
const SLOT: usize = 65_535;
/// Datagrams that wait for a full socket.
const MAX_QUEUED: usize = 4096;
/// Batches per turn: as many as to see that a shard's queue grows, few enough to let the shard work.
const BATCHES: usize = 16;

/// A datagram that could not be sent: the tag of who wants to know.
pub type Failed = u64;

/// The sending half of one shard's socket.
#[derive(Debug)]
pub struct UdpPort {
    socket: Arc<UdpSocket>,
    queue: VecDeque<(SocketAddr, Bytes, Option<u64>)>,
}

impl UdpPort {
    #[must_use]
    pub fn new(socket: Arc<UdpSocket>) -> Self {
        UdpPort { socket, queue: VecDeque::new() }
    }

    /// Puts a datagram into the next batch. Answers its tag when there is no room.
    pub fn queue(&mut self, remote: SocketAddr, bytes: Bytes, tag: Option<u64>, counters: &Counters) -> Option<Failed> {
        if self.queue.len() >= MAX_QUEUED {
            counters.udp_send.one();
            return tag;
        }
        self.queue.push_back((remote, bytes, tag));
        None
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Sends what the socket takes. Answers the tags of what cannot be sent at all.
    pub fn flush(&mut self) -> Vec<Failed> {
        let mut failed = Vec::new();
        while !self.queue.is_empty() {
            let sent = self.socket.try_io(Interest::WRITABLE, || {
                mmsg::send(self.socket.as_fd(), self.queue.iter().map(|(remote, bytes, _)| (remote, bytes)))
            });
            match sent {
                Ok(sent) => drop(self.queue.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // The error belongs to the first datagram: too long, no route, refused by a firewall.
                    if let Some((remote, bytes, tag)) = self.queue.pop_front() {
                        tracing::debug!(%remote, bytes = bytes.len(), %error, "a datagram could not be sent");
                        failed.extend(tag);
                    }
                }
            }
        }
        failed
    }

    /// Waits until the socket may take more.
    pub async fn writable(&self) {
        // An error shows again, and with its reason, at the next flush.
        let _ = self.socket.writable().await;
    }
}

/// What a receiver works with.
pub struct Receiver {
    pub listener: u16,
    pub local: SocketAddr,
    pub shards: Shards,
    pub net: Arc<Net>,
    pub counters: Arc<Counters>,
}

/// Receives until the task is aborted.
pub async fn receive(socket: Arc<UdpSocket>, receiver: Receiver) {
    let mut batch = ReceiveBatch::new(SLOT);
    let mut answers: Vec<(SocketAddr, Bytes)> = Vec::new();
    loop {
        if let Err(error) = socket.readable().await {
            tracing::error!(listener = receiver.listener, %error, "a UDP socket failed");
            return;
        }
        for _ in 0..BATCHES {
            let received = socket.try_io(Interest::READABLE, || {
                batch.receive(socket.as_fd(), |datagram| {
                    if datagram.truncated {
                        receiver.counters.udp_truncated.one();
                    } else if let Some(answer) = receiver.take(datagram.source, datagram.payload) {
                        answers.push((datagram.source, answer));
                    }
                })
            });
            for (remote, answer) in answers.drain(..) {
                // A refusal of new work: best effort, its sender sends again.
                let _ = socket.try_send_to(&answer, remote);
            }
            match received {
                Ok(count) if count == mmsg::BATCH => {}
                // ICMP errors of earlier sends arrive here, too; they end nothing.
                Ok(_) | Err(_) => break,
            }
        }
        tokio::task::yield_now().await;
    }
}

impl Receiver {
    fn take(&self, source: SocketAddr, payload: &[u8]) -> Option<Bytes> {
        let flow = || {
            Arc::new(Flow {
                key: FlowKey::Datagram { listener: self.listener, remote: source },
                transport: Transport::Udp,
                listener: self.listener,
                local: self.local,
                remote: source,
                certificate: None,
            })
        };
        match framing::datagram(Bytes::copy_from_slice(payload), &self.net.limits()) {
            Ok(Some(message)) => self.shards.offer(&flow(), message),
            // A keep-alive over UDP is a STUN request (RFC 5626 §4.4.2); a bare CRLF asks for nothing.
            Ok(None) => None,
            Err(refusal) => {
                self.shards.offer_fault(&flow(), refusal);
                None
            }
        }
    }
}
