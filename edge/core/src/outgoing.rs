//! Requests of ours: what stands in their Via and Contact, and how they are put together.

use std::net::{IpAddr, SocketAddr};

use crate::config::Advertise;
use crate::input::Transport;
use crate::state::{BESIDE, EdgeState, call_hash, shard_of};
use crate::text;

/// A request of ours never goes further.
pub(crate) const MAX_FORWARDS: &str = "70";

/// As a Via names it.
pub(crate) fn via_name(transport: Transport) -> &'static str {
    match transport {
        Transport::Udp => "UDP",
        Transport::Tcp => "TCP",
        Transport::Tls => "TLS",
        Transport::Ws => "WS",
        Transport::Wss => "WSS",
    }
}

/// As a URI parameter names it (RFC 3261 §19.1.1, RFC 7118 §5.2).
pub(crate) fn uri_name(transport: Transport) -> &'static str {
    match transport {
        Transport::Udp => "udp",
        Transport::Tcp => "tcp",
        Transport::Tls => "tls",
        Transport::Ws | Transport::Wss => "ws",
    }
}

/// An address as a host part has it.
pub(crate) fn host_text(ip: IpAddr) -> String {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

impl EdgeState {
    /// Host (and port, where no name is advertised) that peers reach us by on a listener; `local` is the flow's own address, for a
    /// listener that is bound to every address.
    pub(crate) fn advertised(&self, listener: u16, local: Option<SocketAddr>) -> String {
        let bound = self.config.listeners.get(usize::from(listener)).map(|l| l.address).or(local);
        match &self.config.edge.advertise {
            Advertise::Name(name) => name.clone(),
            Advertise::Static(ip) => {
                let port = bound.map_or(0, |a| a.port());
                let specific = |ip: &IpAddr| !ip.is_unspecified();
                let ip = ip.or_else(|| bound.map(|a| a.ip()).filter(specific)).or(local.map(|a| a.ip()));
                let ip = ip.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
                format!("{}:{port}", host_text(ip))
            }
        }
    }

    /// The host alone, for SDP and Call-IDs.
    pub(crate) fn advertised_host(&self, listener: u16, local: Option<SocketAddr>) -> String {
        let all = self.advertised(listener, local);
        match all.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host.to_owned(),
            _ => all,
        }
    }

    /// Our Via value.
    pub(crate) fn via(&self, transport: Transport, listener: u16, branch: &str) -> String {
        let rport = if transport == Transport::Udp { ";rport" } else { "" };
        format!("SIP/2.0/{} {};branch={branch}{rport}", via_name(transport), self.advertised(listener, None))
    }

    /// A Call-ID that this shard serves.
    pub(crate) fn new_call_id(&mut self) -> String {
        loop {
            let call_id = text::base32(&self.random.bytes::<16>());
            if shard_of(&call_id, self.shard.count) == self.shard.index {
                return call_id;
            }
        }
    }

    /// A Call-ID for a further leg: on every edge it is with the shard of the other one.
    pub(crate) fn call_id_beside(&mut self, other: &str) -> String {
        format!("{}{BESIDE}{:08x}", text::base32(&self.random.bytes::<16>()), call_hash(other))
    }

    /// A tag of 128 random bits.
    pub(crate) fn new_tag(&mut self) -> String {
        text::base32(&self.random.bytes::<16>())
    }
}
