//! The door for other edges: TLS first, then one HTTP/2 stream per peer.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use edge_api::mesh::mesh_server::{Mesh as Contract, MeshServer};
use edge_api::mesh::{Envelope, Receipt};
use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};

use super::{MAX_MESSAGE, Shared, peer, wire};
use crate::identity::EdgeId;

/// Connections at one time, handshakes included.
const CONNECTIONS: usize = 1024;
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Streams of one connection; an edge needs one.
const STREAMS: u32 = 4;

pub async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let (accepted, arriving) = mpsc::channel::<io::Result<Accepted>>(16);
    tokio::spawn(accept(listener, shared.clone(), accepted));
    let arriving = unfold(arriving, |mut arriving| async move { arriving.recv().await.map(|next| (next, arriving)) });
    let service =
        MeshServer::new(Door { shared }).max_decoding_message_size(MAX_MESSAGE + 4096).max_encoding_message_size(1024);
    let served = Server::builder()
        .max_concurrent_streams(STREAMS)
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(5)))
        .add_service(service)
        .serve_with_incoming(arriving)
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the mesh takes no more messages");
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, accepted: mpsc::Sender<io::Result<Accepted>>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (stream, address) = match listener.accept().await {
            Ok(arrived) => arrived,
            Err(error) => {
                tracing::warn!(%error, "a mesh connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (shared, accepted) = (shared.clone(), accepted.clone());
        tokio::spawn(async move {
            match timeout(HANDSHAKE, handshake(stream, &shared, place)).await {
                // Nobody takes it when the process ends.
                Ok(Ok(connection)) => drop(accepted.send(Ok(connection)).await),
                Ok(Err(error)) => {
                    shared.metrics.mesh_message("in", "connection", "refused");
                    tracing::warn!(%address, %error, "a mesh connection was refused");
                }
                Err(_) => shared.metrics.mesh_message("in", "connection", "refused"),
            }
        });
    }
}

async fn handshake(stream: TcpStream, shared: &Shared, place: OwnedSemaphorePermit) -> io::Result<Accepted> {
    stream.set_nodelay(true)?;
    let tls = shared.tls.load_full().ok_or(io::ErrorKind::Unsupported)?;
    let stream = TlsAcceptor::from(tls.server()).accept(stream).await?;
    let peers = Peers(tls.peers(stream.get_ref().1.peer_certificates().unwrap_or_default()).into());
    Ok(Accepted { stream, peers, _place: place })
}

/// The edges that the certificate of a connection names.
#[derive(Clone, Debug)]
struct Peers(Arc<[EdgeId]>);

struct Accepted {
    stream: TlsStream<TcpStream>,
    peers: Peers,
    _place: OwnedSemaphorePermit,
}

impl Connected for Accepted {
    type ConnectInfo = Peers;

    fn connect_info(&self) -> Peers {
        self.peers.clone()
    }
}

impl AsyncRead for Accepted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, octets)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

struct Door {
    shared: Arc<Shared>,
}

#[tonic::async_trait]
impl Contract for Door {
    type CarryStream = Pin<Box<dyn Stream<Item = Result<Receipt, Status>> + Send>>;

    async fn carry(&self, request: Request<Streaming<Envelope>>) -> Result<Response<Self::CarryStream>, Status> {
        let said = request.metadata().get(peer::EDGE).and_then(|id| EdgeId::new(id.to_str().ok()?).ok());
        let from = said.ok_or_else(|| Status::invalid_argument("no edge id in the request"))?;
        let peers = request.extensions().get::<Peers>().map(|peers| peers.0.clone()).unwrap_or_default();
        if !peers.contains(&from) || from == self.shared.me {
            self.shared.metrics.mesh_message("in", "connection", "refused");
            tracing::warn!(edge = %from, "refused in the mesh: its certificate names another edge, or one of another SipEdge");
            return Err(Status::permission_denied("the certificate names another edge, or one of another SipEdge"));
        }
        let taking = Taking { from: from.pod(), messages: request.into_inner(), shared: self.shared.clone() };
        // One message at a time: a shard whose queue is full stops this peer and no other.
        let receipts = unfold(taking, |mut taking| async move {
            let receipt = taking.next().await?;
            Some((receipt, taking))
        });
        Ok(Response::new(Box::pin(receipts)))
    }
}

struct Taking {
    from: u64,
    messages: Streaming<Envelope>,
    shared: Arc<Shared>,
}

impl Taking {
    async fn next(&mut self) -> Option<Result<Receipt, Status>> {
        // A stream that breaks is the peer's affair: it says everything of importance again.
        let envelope = self.messages.message().await.ok()??;
        let number = envelope.number;
        let Some(message) = wire::read(envelope) else {
            self.shared.metrics.mesh_message("in", "unknown", "refused");
            return Some(Err(Status::invalid_argument("not a message of this version")));
        };
        let kind = wire::kind(&message);
        if !self.shared.shards.deliver_mesh(self.from, message).await {
            return Some(Err(Status::unavailable("this edge ends")));
        }
        self.shared.metrics.mesh_message("in", kind, "taken");
        Some(Ok(Receipt { number }))
    }
}
