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

/// Connections at one time, handshakes included.
const CONNECTIONS: usize = 4096;
const HANDSHAKE: Duration = Duration::from_secs(5);

pub async fn accept(
    listener: TcpListener,
    authority: Arc<Authority>,
    clock: Clock,
    accepted: mpsc::Sender<io::Result<Accepted>>,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
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
        tokio::spawn(async move {
            match timeout(HANDSHAKE, handshake(stream, &authority, &clock, place)).await {
                // Nobody takes it when the process ends.
                Ok(Ok(connection)) => drop(accepted.send(Ok(connection)).await),
                Ok(Err(error)) => tracing::warn!(%address, %error, "a connection of an edge or a replica was refused"),
                Err(_) => tracing::debug!(%address, "no TLS handshake in time"),
            }
        });
    }
}

async fn handshake(
    stream: TcpStream,
    authority: &Authority,
    clock: &Clock,
    place: OwnedSemaphorePermit,
) -> io::Result<Accepted> {
    stream.set_nodelay(true)?;
    let config = authority.server((clock.unix)()).map_err(io::Error::other)?;
    let stream = TlsAcceptor::from(config).accept(stream).await?;
    // The handshake has proved the chain and the key.
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let edge = shown.and_then(Identity::of).map(Arc::new);
    let replica = shown.and_then(replica_of).map(Arc::from);
    let (cut, mut cuts) = watch::channel(false);
    let cut_off = Box::pin(async move {
        if cuts.wait_for(|cut| *cut).await.is_err() {
            std::future::pending::<()>().await;
        }
    });
    Ok(Accepted { stream, peer: Peer { edge, replica, cut: Arc::new(cut) }, cut_off, _place: place })
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
