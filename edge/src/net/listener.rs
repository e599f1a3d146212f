//! A listener's life: opened, its certificate changed, closed. And each connection from `accept` to its end.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use edge_core::config::ListenerConfig;
use edge_core::input::{Flow, FlowKey, Input, PeerCertificate, Transport};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};
use tokio_rustls::{TlsAcceptor, TlsStream};

use super::Net;
use super::bind::{self, AddressLock, BindError};
use super::connection::{Connection, Place, Target};
use super::io::Io;
use super::outbox::Outbox;
use super::stream::{Context, Ended, serve, serve_websocket};
use super::tls::{Current, ListenerTls};
use crate::driver::ingress::Control;

/// TLS and WebSocket handshakes together.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// How long sent bytes may stay unacknowledged before the system gives a connection up (RFC 5482).
const USER_TIMEOUT: Duration = Duration::from_secs(8);
/// Pause after `accept` failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listener as the manifest wants it.
#[derive(Debug)]
pub struct Wanted {
    pub name: String,
    pub transport: Transport,
    pub address: SocketAddr,
    pub tls: Option<ListenerTls>,
}

/// A listener that was opened in the life of this process.
#[derive(Debug)]
pub struct Listening {
    index: u16,
    name: String,
    transport: Transport,
    /// As the manifest wrote it; port 0 asks for a free one.
    wanted: SocketAddr,
    bound: SocketAddr,
    tls: Option<Current>,
    open: AtomicBool,
    running: Mutex<Running>,
}

#[derive(Debug, Default)]
struct Running {
    accept: Option<JoinHandle<()>>,
    lock: Option<AddressLock>,
}

impl Listening {
    /// Opens the sockets.
    pub(super) async fn open(net: &Arc<Net>, index: u16, wanted: &Wanted) -> Result<Arc<Listening>, String> {
        let tls = match &wanted.tls {
            Some(tls) => Some(
                Current::new(tls)
                    .map_err(|error| format!("listener {}: TLS cannot be set up: {error}", wanted.name))?,
            ),
            None => None,
        };
        let sockets = Sockets::bind(net, wanted, wanted.address)?;
        let listening = Arc::new(Listening {
            index,
            name: wanted.name.clone(),
            transport: wanted.transport,
            wanted: wanted.address,
            bound: sockets.address(),
            tls,
            open: AtomicBool::new(false),
            running: Mutex::default(),
        });
        listening.start(net, sockets).await;
        Ok(listening)
    }

    /// Whether this is the listener that is wanted: the same name on the same socket address.
    pub(super) fn is(&self, wanted: &Wanted) -> bool {
        self.name == wanted.name && self.transport == wanted.transport && self.wanted == wanted.address
    }

    /// Takes a new certificate, and opens again what was closed.
    pub(super) async fn change(self: &Arc<Self>, net: &Arc<Net>, wanted: &Wanted) -> Result<(), String> {
        if let (Some(current), Some(tls)) = (&self.tls, &wanted.tls) {
            current.replace(tls).map_err(|error| format!("listener {}: TLS cannot be set up: {error}", self.name))?;
        }
        if !self.is_open() {
            let sockets = Sockets::bind(net, wanted, self.bound)?;
            self.start(net, sockets).await;
        }
        Ok(())
    }

    /// Closes the sockets. Connections that were accepted live on.
    pub(super) async fn stop(&self, net: &Net) {
        if !self.open.swap(false, Ordering::AcqRel) {
            return;
        }
        let Running { accept, lock } =
            std::mem::take(&mut *self.running.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(accept) = accept {
            accept.abort();
            // Ends at once, and only then the port is free.
            let _ = accept.await;
        }
        if self.transport == Transport::Udp {
            for shard in net.shards.handles() {
                let (done, closed) = oneshot::channel();
                let _ = shard.control.send(Control::RemoveUdp { listener: self.index, done }).await;
                let _ = closed.await;
            }
        }
        drop(lock);
        tracing::info!(listener = %self.name, address = %self.bound, "closed");
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    pub(super) fn config(&self) -> ListenerConfig {
        ListenerConfig { name: self.name.clone(), transport: self.transport, address: self.bound }
    }

    pub(super) fn tls(&self) -> Option<&Current> {
        self.tls.as_ref()
    }

    pub(super) fn bound(&self) -> SocketAddr {
        self.bound
    }

    async fn start(self: &Arc<Self>, net: &Arc<Net>, sockets: Sockets) {
        let mut started = Running::default();
        match sockets {
            Sockets::Udp(sockets) => {
                tracing::debug!(listener = %self.name, bytes = sockets.receive_buffer, "receive buffer granted");
                for (shard, socket) in net.shards.handles().iter().zip(sockets.sockets) {
                    let add = Control::AddUdp { listener: self.index, address: self.bound, socket };
                    // Fails only when the shard has ended, and with it the process.
                    let _ = shard.control.send(add).await;
                }
                started.lock = Some(sockets.lock);
            }
            Sockets::Tcp(_, listener) => {
                started.accept = Some(net.runtime.spawn(accept(net.clone(), self.clone(), listener)));
            }
        }
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = started;
        self.open.store(true, Ordering::Release);
        tracing::info!("listening {} {}", name(self.transport), self.bound);
    }
}

enum Sockets {
    Udp(bind::UdpSockets),
    Tcp(SocketAddr, TcpListener),
}

impl Sockets {
    fn bind(net: &Net, wanted: &Wanted, address: SocketAddr) -> Result<Sockets, String> {
        let fail = |source: io::Error| {
            let protocol = name(wanted.transport);
            BindError { protocol, address, listener: wanted.name.clone(), source }.to_string()
        };
        if wanted.transport == Transport::Udp {
            return bind::udp(address, net.shards.handles().len() as u16).map(Sockets::Udp).map_err(fail);
        }
        let listener = bind::tcp(address).map_err(fail)?;
        let bound = listener.local_addr().map_err(fail)?;
        let _entered = net.runtime.enter();
        Ok(Sockets::Tcp(bound, TcpListener::from_std(listener).map_err(fail)?))
    }

    fn address(&self) -> SocketAddr {
        match self {
            Sockets::Udp(sockets) => sockets.address,
            Sockets::Tcp(address, _) => *address,
        }
    }
}

/// `udp`, `tcp`, `tls`, `ws`, `wss`.
#[must_use]
pub fn name(transport: Transport) -> &'static str {
    match transport {
        Transport::Udp => "udp",
        Transport::Tcp => "tcp",
        Transport::Tls => "tls",
        Transport::Ws => "ws",
        Transport::Wss => "wss",
    }
}

async fn accept(net: Arc<Net>, listening: Arc<Listening>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((tcp, remote)) => {
                // Without a place the connection is closed at once; the table counted it.
                if let Some(place) = net.connections.admit(remote.ip()) {
                    tokio::spawn(accepted(net.clone(), listening.clone(), tcp, remote, place));
                }
            }
            Err(error) => {
                // A peer that went away again is nothing; out of descriptors or memory is, and must not spin.
                if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) {
                    tracing::warn!(listener = %listening.name, %error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn accepted(net: Arc<Net>, listening: Arc<Listening>, tcp: TcpStream, remote: SocketAddr, mut place: Place) {
    set_options(&tcp);
    let limits = net.limits();
    let handshake = async {
        let local = tcp.local_addr().unwrap_or(listening.bound);
        let (io, chain, certificate) = secure(&listening, tcp).await?;
        let socket = match listening.transport {
            Transport::Ws | Transport::Wss => {
                let origins = net.origins.load().as_ref().clone();
                let socket = super::upgrade::accept(io, limits, origins).await;
                Socket::Web(Box::new(socket.map_err(|error| error.to_string())?))
            }
            Transport::Udp | Transport::Tcp | Transport::Tls => Socket::Bytes(io),
        };
        Ok::<_, String>((socket, local, chain, certificate))
    };
    let (socket, local, chain, certificate) = match timeout(HANDSHAKE_TIME, handshake).await {
        Ok(Ok(ready)) => ready,
        Ok(Err(reason)) => {
            net.counters.handshakes.one();
            tracing::debug!(listener = %listening.name, %remote, reason, "a handshake failed");
            return;
        }
        Err(_) => {
            net.counters.handshakes.one();
            tracing::debug!(listener = %listening.name, %remote, "a handshake took too long");
            return;
        }
    };
    place.handshake_done();
    let id = net.connections.id();
    let flow = Arc::new(Flow {
        key: FlowKey::Stream(id),
        transport: listening.transport,
        listener: listening.index,
        local,
        remote,
        certificate: certificate.map(Arc::new),
    });
    // A browser is no server: nobody connects to it. The others may be reached on this connection by their address.
    let target = matches!(listening.transport, Transport::Tcp | Transport::Tls).then_some(Target {
        transport: listening.transport,
        remote,
        server_name: None,
    });
    run(&net, Ready { flow, outbox: Arc::default(), chain, socket, target, opened_by_us: false }).await;
    drop(place);
}

/// A connection that is ready for SIP.
pub(super) enum Socket {
    Bytes(Io),
    Web(Box<tokio_tungstenite::WebSocketStream<Io>>),
}

/// A connection after its handshakes.
pub(super) struct Ready {
    pub flow: Arc<Flow>,
    pub outbox: Arc<Outbox>,
    pub chain: Vec<CertificateDer<'static>>,
    pub socket: Socket,
    pub target: Option<Target>,
    pub opened_by_us: bool,
}

/// Serves a ready connection to its end, and tells the shards of both.
pub(super) async fn run(net: &Arc<Net>, ready: Ready) {
    let Ready { flow, outbox, chain, socket, target, opened_by_us } = ready;
    let connection = Arc::new(Connection { flow: flow.clone(), outbox: outbox.clone(), chain });
    let registered = Registered { net: net.clone(), connection: connection.clone(), target: target.clone() };
    net.connections.insert(connection, target);
    net.shards.tell_all(|| Input::FlowOpened { flow: flow.clone() }).await;
    let context = Context {
        flow: &flow,
        outbox: &outbox,
        shards: &net.shards,
        limits: net.limits(),
        counters: &net.counters,
        opened_by_us,
    };
    let ended = match socket {
        Socket::Bytes(io) => serve(io, &context).await,
        Socket::Web(socket) => serve_websocket(*socket, &context).await,
    };
    drop(registered);
    tracing::debug!(remote = %flow.remote, ?ended, "a connection ended");
    if ended == Ended::SlowReader {
        tracing::info!(remote = %flow.remote, transport = name(flow.transport), "closed: the peer does not read");
    }
}

/// A connection in the table. However its task ends, it is taken out and the shards hear of it.
struct Registered {
    net: Arc<Net>,
    connection: Arc<Connection>,
    target: Option<Target>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let unsent = self.net.connections.remove(&self.connection, self.target.as_ref());
        let FlowKey::Stream(conn) = self.connection.flow.key else { return };
        let net = self.net.clone();
        self.net.runtime.spawn(async move {
            net.send_failed(unsent).await;
            net.shards.tell_all(|| Input::FlowClosed { conn }).await;
        });
    }
}

type Secured = (Io, Vec<CertificateDer<'static>>, Option<PeerCertificate>);

/// The TLS handshake, where the listener has TLS, and who the client is by its certificate.
async fn secure(listening: &Listening, tcp: TcpStream) -> Result<Secured, String> {
    let Some(current) = &listening.tls else { return Ok((Io::Plain(tcp), Vec::new(), None)) };
    let (server, trust) = (current.server(), current.trust());
    let tls = TlsAcceptor::from(server).accept(tcp).await.map_err(|error| error.to_string())?;
    let chain: Vec<CertificateDer<'static>> =
        tls.get_ref().1.peer_certificates().unwrap_or_default().iter().map(|c| c.clone().into_owned()).collect();
    let certificate = if chain.is_empty() {
        None
    } else {
        match trust.identify(&chain, UnixTime::now()) {
            Ok(certificate) => Some(certificate),
            Err(reason) => {
                tracing::info!(listener = %listening.name, %reason, "a client certificate counts as none");
                None
            }
        }
    };
    // An unverified chain is of no further use.
    let chain = if certificate.is_some() { chain } else { Vec::new() };
    Ok((Io::Tls(Box::new(TlsStream::Server(tls))), chain, certificate))
}

/// Small messages leave at once; a peer that vanished is noticed. A system that refuses an option still serves.
pub(super) fn set_options(tcp: &TcpStream) {
    let _ = tcp.set_nodelay(true);
    let socket = SockRef::from(tcp);
    let _ = socket.set_tcp_user_timeout(Some(USER_TIMEOUT));
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(10));
    let _ = socket.set_tcp_keepalive(&keepalive);
}
