//! The transaction tables and what ties the machines of `sip_proto::transaction` to flows, timers and the rest of the core.
//! Every entry has a deadline of its own (Timers F, H, J, K, L …), so both tables empty themselves.

mod client;
mod server;

use std::net::SocketAddr;

use sip_proto::header::Via;
use sip_proto::transaction::Reliability;

use crate::input::{Flow, FlowKey, Transport};

pub(crate) use client::{Clients, RING_MS, Target};
pub(crate) use server::{InviteProgress, Servers, server_key};

/// Where responses to a request go (RFC 3261 §18.2.2, RFC 3581).
#[derive(Clone, Debug)]
pub(crate) struct ReplyTo {
    flow: FlowKey,
    transport: Transport,
    listener: u16,
    /// Where a connection is opened when the request's own is gone.
    fallback: SocketAddr,
}

impl ReplyTo {
    pub fn new(flow: &Flow, via: &Via<'_>) -> ReplyTo {
        let sent_by = SocketAddr::new(flow.remote.ip(), via.port().unwrap_or(default_port(flow.transport)));
        let key = match &flow.key {
            // `maddr` is not honoured: it would let a request point our answers at anybody.
            FlowKey::Datagram { listener, .. } if via.rport().is_none() => {
                FlowKey::Datagram { listener: *listener, remote: sent_by }
            }
            key => key.clone(),
        };
        ReplyTo { flow: key, transport: flow.transport, listener: flow.listener, fallback: sent_by }
    }
}

impl ReplyTo {
    /// Whether a connection can be opened where its own is gone.
    pub fn can_open(&self) -> bool {
        let known = !self.fallback.ip().is_unspecified();
        known && !matches!(self.transport, Transport::Ws | Transport::Wss)
    }
}

/// The port that a URI or Via without one means.
pub(crate) fn default_port(transport: Transport) -> u16 {
    match transport {
        Transport::Udp | Transport::Tcp => 5060,
        Transport::Tls => 5061,
        Transport::Ws => 80,
        Transport::Wss => 443,
    }
}

/// Whether lost packets come again by themselves.
pub(crate) fn reliability(transport: Transport) -> Reliability {
    if transport == Transport::Udp { Reliability::Unreliable } else { Reliability::Reliable }
}
