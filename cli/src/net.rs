//! Where SIP bytes go and come from: one UDP socket, a TCP listener beside it, and connections. Every event reaches one bounded queue.

mod stream;
mod tls;
mod udp;
mod ws;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use sip_proto::message::Message;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;

pub use tls::{TlsFiles, client_config};

/// Messages that wait for us, over all links; a peer that sends faster waits in its own connection.
const QUEUE: usize = 256;
/// How long a connection may take until it can be used.
const CONNECT: Duration = Duration::from_secs(10);

/// How SIP travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Transport {
    Udp,
    Tcp,
    Tls,
    Wss,
    /// WebSocket without TLS, for listeners behind something that ends TLS.
    Ws,
}

impl Transport {
    /// As in a Via (RFC 3261 §20.42, RFC 7118 §5.2).
    pub fn via(self) -> &'static str {
        match self {
            Transport::Udp => "UDP",
            Transport::Tcp => "TCP",
            Transport::Tls => "TLS",
            Transport::Wss => "WSS",
            Transport::Ws => "WS",
        }
    }

    /// As in a `transport` parameter.
    pub fn parameter(self) -> &'static str {
        match self {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
            Transport::Tls => "tls",
            // RFC 7118 §5.2: `transport=ws` for both.
            Transport::Wss | Transport::Ws => "ws",
        }
    }

    pub fn is_reliable(self) -> bool {
        self != Transport::Udp
    }
}

/// One socket or connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(u64);

/// Where to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub link: LinkId,
    pub transport: Transport,
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

/// What the network says.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly every event is a message")]
pub enum NetEvent {
    Message {
        peer: Peer,
        message: Message,
    },
    /// What came is no SIP; on a connection it is the last event.
    Garbage {
        peer: Peer,
        reason: String,
    },
    /// A connection that somebody opened to us.
    Opened {
        peer: Peer,
        out: Outbox,
    },
    Closed {
        link: LinkId,
        reason: String,
    },
}

enum Out {
    Udp(Arc<UdpSocket>),
    Stream(Outbox),
}

/// What waits to be written on a connection, and a count of it over all connections, so that the program does not end before it.
#[derive(Clone, Debug)]
pub struct Outbox {
    queue: mpsc::Sender<Bytes>,
    unwritten: Arc<AtomicUsize>,
}

impl Outbox {
    fn new(capacity: usize, unwritten: &Arc<AtomicUsize>) -> (Outbox, mpsc::Receiver<Bytes>) {
        let (queue, waiting) = mpsc::channel(capacity);
        (Outbox { queue, unwritten: unwritten.clone() }, waiting)
    }

    async fn send(&self, bytes: Bytes) -> io::Result<()> {
        self.unwritten.fetch_add(1, Ordering::Relaxed);
        self.queue.send(bytes).await.map_err(|_| {
            self.written();
            io::ErrorKind::BrokenPipe.into()
        })
    }

    /// A full queue may lose it.
    fn try_send(&self, bytes: Bytes) {
        self.unwritten.fetch_add(1, Ordering::Relaxed);
        if self.queue.try_send(bytes).is_err() {
            self.written();
        }
    }

    fn written(&self) {
        self.unwritten.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All links of one UA.
pub struct Net {
    events: mpsc::Sender<NetEvent>,
    inbox: mpsc::Receiver<NetEvent>,
    links: BTreeMap<LinkId, Out>,
    unwritten: Arc<AtomicUsize>,
    next: u64,
}

impl Net {
    pub fn new() -> Net {
        let (events, inbox) = mpsc::channel(QUEUE);
        Net { events, inbox, links: BTreeMap::new(), unwritten: Arc::default(), next: 1 }
    }

    fn id(&mut self) -> LinkId {
        // Odd numbers are ours, even ones those of accepted connections.
        let id = LinkId(self.next);
        self.next += 2;
        id
    }

    /// A UDP socket toward `remote`, and a TCP listener on the same port: answers over 1300 bytes come there (RFC 3261 §18.1.1).
    pub async fn udp(&mut self, remote: SocketAddr) -> io::Result<Peer> {
        let ip = local_ip(remote)?;
        let mut last = None;
        for _ in 0..16 {
            let socket = UdpSocket::bind((ip, 0)).await?;
            let local = socket.local_addr()?;
            match TcpListener::bind(local).await {
                Ok(listener) => {
                    let socket = Arc::new(socket);
                    let link = self.id();
                    let peer = Peer { link, transport: Transport::Udp, local, remote };
                    udp::spawn(peer, socket.clone(), self.events.clone());
                    stream::spawn_listener(listener, &self.unwritten, self.events.clone());
                    self.links.insert(link, Out::Udp(socket));
                    return Ok(peer);
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| io::Error::other("no port is free for UDP and TCP together")))
    }

    /// A connection to `remote`; `name` is the SIP domain that the certificate must name.
    pub async fn connect(
        &mut self,
        transport: Transport,
        remote: SocketAddr,
        host: &str,
        name: &str,
        tls: Option<Arc<tokio_rustls::rustls::ClientConfig>>,
    ) -> io::Result<Peer> {
        let open = async {
            let tcp = TcpStream::connect(remote).await?;
            tcp.set_nodelay(true)?;
            let local = tcp.local_addr()?;
            let link = self.id();
            let peer = Peer { link, transport, local, remote };
            let unwritten = self.unwritten.clone();
            let config = || tls.clone().ok_or_else(|| io::Error::other("TLS is not configured"));
            let out = match transport {
                Transport::Udp => return Err(io::Error::other("UDP has no connections")),
                Transport::Tcp => stream::spawn(peer, tcp, &unwritten, self.events.clone()),
                Transport::Tls => {
                    let stream = tls::connect(tcp, name, config()?).await?;
                    stream::spawn(peer, stream, &unwritten, self.events.clone())
                }
                Transport::Ws => ws::spawn(peer, tcp, host, false, &unwritten, self.events.clone()).await?,
                Transport::Wss => {
                    let stream = tls::connect(tcp, name, config()?).await?;
                    ws::spawn(peer, stream, host, true, &unwritten, self.events.clone()).await?
                }
            };
            self.links.insert(link, Out::Stream(out));
            Ok(peer)
        };
        tokio::time::timeout(CONNECT, open).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    pub async fn send(&mut self, peer: &Peer, bytes: Bytes) -> io::Result<()> {
        match self.links.get(&peer.link) {
            Some(Out::Udp(socket)) => socket.send_to(&bytes, peer.remote).await.map(|_| ()),
            Some(Out::Stream(out)) => out.send(bytes).await,
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// False once a link has ended.
    pub fn is_open(&self, link: LinkId) -> bool {
        self.links.contains_key(&link)
    }

    /// Waits until everything is written, a second at most.
    pub async fn flush(&self) {
        for _ in 0..1000 {
            if self.unwritten.load(Ordering::Relaxed) == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The next message, or the end of a link.
    pub async fn next(&mut self) -> NetEvent {
        loop {
            // `events` is ours too, so the queue never closes.
            let Some(event) = self.inbox.recv().await else { continue };
            match event {
                NetEvent::Opened { peer, out } => {
                    self.links.insert(peer.link, Out::Stream(out));
                }
                NetEvent::Closed { link, reason } => {
                    self.links.remove(&link);
                    return NetEvent::Closed { link, reason };
                }
                other => return other,
            }
        }
    }
}

/// The address of ours that faces `remote`.
fn local_ip(remote: SocketAddr) -> io::Result<IpAddr> {
    let any: SocketAddr = if remote.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let probe = std::net::UdpSocket::bind(any)?;
    probe.connect(remote)?;
    Ok(probe.local_addr()?.ip())
}
