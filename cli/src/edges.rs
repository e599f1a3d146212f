//! The edges that may carry a call, and the way to the one that does (RFC 3263 §4.3).

use crate::caller::explain;
use crate::failure::Failure;
use crate::net::{Net, Peer, TlsFiles, Transport};
use crate::target::Candidate;

/// Edges in the order in which they are tried.
pub struct Edges {
    all: Vec<Candidate>,
    tls: TlsFiles,
    /// The one in use.
    current: usize,
    /// UDP sockets need not be opened twice: one reaches every edge of its family.
    socket: Option<Peer>,
}

impl Edges {
    pub fn new(all: Vec<Candidate>, tls: TlsFiles) -> Edges {
        Edges { all, tls, current: 0, socket: None }
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// The first that can be reached.
    pub async fn first(&mut self, net: &mut Net) -> Result<Peer, Failure> {
        self.reach(net, 0).await
    }

    /// The next one that can be reached; the one in use comes last, by a connection of its own.
    pub async fn another(&mut self, net: &mut Net, old: &Peer) -> Result<Peer, Failure> {
        if self.socket.is_some_and(|socket| socket.link == old.link) && !net.is_open(old.link) {
            self.socket = None;
        }
        self.reach(net, self.current + 1).await
    }

    async fn reach(&mut self, net: &mut Net, begin: usize) -> Result<Peer, Failure> {
        let mut failures = Vec::new();
        for place in 0..self.all.len() {
            let index = (begin + place) % self.all.len();
            let candidate = self.all[index].clone();
            match self.open(net, &candidate).await? {
                Ok(peer) => {
                    self.current = index;
                    return Ok(peer);
                }
                Err(error) => failures.push(format!("{candidate}: {}", explain(&error))),
            }
        }
        Err(Failure::unreachable(format!("no edge could be reached: {}", failures.join("; "))))
    }

    /// A link to the edge; the outer error is one that another edge does not change.
    async fn open(&mut self, net: &mut Net, edge: &Candidate) -> Result<std::io::Result<Peer>, Failure> {
        let config = match edge.transport {
            Transport::Udp => {
                if let Some(socket) = self.socket.filter(|socket| same_network(socket, edge)) {
                    return Ok(Ok(Peer { remote: edge.address, ..socket }));
                }
                let opened = net.udp(edge.address).await;
                self.socket = opened.as_ref().ok().copied();
                return Ok(opened);
            }
            Transport::Tls | Transport::Wss => Some(crate::net::client_config(&self.tls).map_err(Failure::usage)?),
            Transport::Tcp | Transport::Ws => None,
        };
        Ok(net.connect(edge.transport, edge.address, &edge.host, &edge.name, config).await)
    }
}

/// The socket's address is one by which that edge reaches us, as far as we can tell.
fn same_network(socket: &Peer, edge: &Candidate) -> bool {
    let (old, new) = (socket.remote.ip(), edge.address.ip());
    old.is_ipv4() == new.is_ipv4() && old.is_loopback() == new.is_loopback()
}
