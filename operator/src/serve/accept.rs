//! Connections: TCP, TLS, and whose certificate was shown.

use super::Clock;
use crate::authority::Authority;
use crate::identity::{Identity, replica_of};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

const HANDSHAKE: Duration = Duration::from_secs(5);

/// What the port takes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at one time, handshakes included.
    pub connections: usize,
    /// Of them those that show no certificate: they can only enrol.
    pub strangers: usize,
    /// For all that such a connection is there for.
    pub enrolment: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { connections: 4096, strangers: 256, enrolment: Duration::from_secs(30) }
    }
}

pub async fn accept(
    listener: TcpListener,
    authority: Arc<Authority>,
    clock: Clock,
    limits: Limits,
    accepted: mpsc::Sender<io::Result<Accepted>>,
) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let strangers = Strangers { places: Arc::new(Semaphore::new(limits.strangers)), time: limits.enrolment };
    loop {
        // The semaphore is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (stream, address) = match listener.accept().await {
            Ok(arrived) => arrived,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (authority, clock, accepted) = (authority.clone(), clock.clone(), accepted.clone());
        let strangers = strangers.clone();
        tokio::spawn(async move {
            match timeout(HANDSHAKE, handshake(stream, &authority, &clock, place, strangers)).await {
                // Nobody takes it when the process ends.
                Ok(Ok(connection)) => drop(accepted.send(Ok(connection)).await),
                Ok(Err(error)) => tracing::warn!(%address, %error, "a connection of an edge or a replica was refused"),
                Err(_) => tracing::debug!(%address, "no TLS handshake in time"),
            }
        });
    }
}

/// Who shows no certificate: anybody who reaches the port can be one.
#[derive(Clone)]
struct Strangers {
    places: Arc<Semaphore>,
    /// For one connection.
    time: Duration,
}

async fn handshake(
    stream: TcpStream,
    authority: &Authority,
    clock: &Clock,
    place: OwnedSemaphorePermit,
    strangers: Strangers,
) -> io::Result<Accepted> {
    stream.set_nodelay(true)?;
    let config = authority.server((clock.unix)()).map_err(io::Error::other)?;
    let stream = TlsAcceptor::from(config).accept(stream).await?;
    // The handshake has proved the chain and the key.
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let edge = shown.and_then(Identity::of).map(Arc::new);
    let replica = shown.and_then(replica_of).map(Arc::from);
    let Strangers { places, time } = strangers;
    let share = if edge.is_none() && replica.is_none() {
        let full = |_| io::Error::other("it shows no certificate, and there are as many of those as may be");
        Some(places.try_acquire_owned().map_err(full)?)
    } else {
        None
    };
    let time = share.as_ref().map(|_| time);
    let (cut, mut cuts) = watch::channel(false);
    let cut_off = Box::pin(async move {
        let cut = async {
            if cuts.wait_for(|cut| *cut).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        match time {
            // Over or cut off: both end it.
            Some(time) => drop(timeout(time, cut).await),
            None => cut.await,
        }
    });
    let peer = Peer { edge, replica, cut: Arc::new(cut) };
    Ok(Accepted { stream, peer, cut_off, _place: place, _share: share })
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// `None`: it showed no certificate of an edge.
    pub edge: Option<Arc<Identity>>,
    /// `namespace/pod`. `None`: it showed no certificate of a replica of the operator.
    pub replica: Option<Arc<str>>,
    cut: Arc<watch::Sender<bool>>,
}

impl Peer {
    /// Ends the connection with everything that waits in it: for one who does not read.
    pub fn cut_off(&self) {
        self.cut.send_replace(true);
    }

    fn is_cut(&self) -> bool {
        *self.cut.borrow()
    }
}

pub struct Accepted {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    cut_off: Pin<Box<dyn Future<Output = ()> + Send>>,
    _place: OwnedSemaphorePermit,
    /// Of one who showed no certificate.
    _share: Option<OwnedSemaphorePermit>,
}

impl Accepted {
    /// An error once the connection was cut off; else whoever asks is woken when it is.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        // Not together: the future looks at the flag, too.
        let cut = self.peer.is_cut();
        if cut || self.cut_off.as_mut().poll(cx).is_ready() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }
}

impl Connected for Accepted {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Accepted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        if self.peer.is_cut() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_write(cx, octets)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::unix_now;
    use std::net::SocketAddr;
    use tokio::io::AsyncReadExt;
    use tokio::task::JoinHandle;
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client;
    use tokio_rustls::rustls::pki_types::ServerName;
    use tokio_rustls::rustls::sign::CertifiedKey;

    const NAME: &str = "operator.system.svc";
    /// Long enough for a busy machine; nothing here proves a time.
    const PATIENCE: Duration = Duration::from_secs(30);

    /// The port, whose connections wait in a channel.
    struct Port {
        authority: Arc<Authority>,
        address: SocketAddr,
        arriving: mpsc::Receiver<io::Result<Accepted>>,
        task: JoinHandle<()>,
    }

    impl Port {
        async fn open(limits: Limits) -> Port {
            let (certificate, key) = Authority::make(unix_now()).unwrap();
            let authority = Arc::new(Authority::read(&certificate, &key, vec![NAME.to_owned()]).unwrap());
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let (accepted, arriving) = mpsc::channel(16);
            let task = tokio::spawn(accept(listener, authority.clone(), Clock::default(), limits, accepted));
            Port { authority, address, arriving, task }
        }

        async fn connect(&self, key: Option<CertifiedKey>) -> client::TlsStream<TcpStream> {
            let connector = TlsConnector::from(self.authority.client(key, b"h2").unwrap());
            let stream = TcpStream::connect(self.address).await.unwrap();
            let connected = connector.connect(ServerName::try_from(NAME).unwrap(), stream);
            timeout(PATIENCE, connected).await.expect("there is a place for it").unwrap()
        }

        async fn next(&mut self) -> Accepted {
            timeout(PATIENCE, self.arriving.recv()).await.expect("one arrives").unwrap().unwrap()
        }
    }

    impl Drop for Port {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    #[tokio::test]
    async fn sec_6_who_shows_no_certificate_keeps_nobody_out_who_does() {
        let mut port = Port::open(Limits { connections: 4, strangers: 2, enrolment: Duration::from_secs(3600) }).await;
        let mut strangers = Vec::new();
        for _ in 0..4 {
            strangers.push(port.connect(None).await);
        }
        let held = [port.next().await, port.next().await];
        assert!(held.iter().all(|held| held.peer.edge.is_none() && held.peer.replica.is_none()));
        let known = port.authority.certify_replica("system/op-1", unix_now()).unwrap();
        let _known = port.connect(Some(known)).await;
        assert_eq!(port.next().await.peer.replica.as_deref(), Some("system/op-1"));
        // One that ends makes room for the next.
        drop(held);
        strangers.push(port.connect(None).await);
        assert!(port.next().await.peer.replica.is_none());
    }

    #[tokio::test]
    async fn sec_6_who_shows_no_certificate_has_time_to_enrol_and_no_more() {
        let mut port = Port::open(Limits { enrolment: Duration::from_millis(50), ..Limits::default() }).await;
        let known = port.authority.certify_replica("system/op-1", unix_now()).unwrap();
        let _open = (port.connect(None).await, port.next().await);
        let (_stranger, mut there) = (port.connect(None).await, port.next().await);
        let read = timeout(PATIENCE, there.read_u8()).await.expect("it is cut off");
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        let (_known, mut there) = (port.connect(Some(known)).await, port.next().await);
        assert!(timeout(Duration::from_millis(200), there.read_u8()).await.is_err(), "it stays");
    }
}
