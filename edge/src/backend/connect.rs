//! One connection to a backend: resolve, connect, TLS, HTTP/1.1.

mod race;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::endpoint::Endpoint;
pub(super) use race::Late;

pub(super) type Body = Full<Bytes>;

/// All header fields of an answer together; the number of fields is hyper's 100.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// A server stream may be silent for hours; this notices a peer that is gone without a word.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// Why there is no connection. Nothing was sent, so nothing was executed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("resolve: {0}")]
    Resolve(#[source] io::Error),
    #[error("the name has no address")]
    NoAddress,
    #[error("nothing is ready behind its Service")]
    NothingReady,
    #[error("connect: {0}")]
    Connect(#[source] io::Error),
    #[error("TLS: {0}")]
    Tls(#[source] io::Error),
    #[error("HTTP: {0}")]
    Http(#[source] hyper::Error),
    #[error("no connection within {0:?}")]
    Timeout(Duration),
}

/// An open connection. Dropping it closes the socket at once, also in the middle of an answer: in the modern era that
/// is how a request is cancelled.
pub(super) struct Connection {
    peer: SocketAddr,
    sender: SendRequest<Body>,
    task: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Why no answer came.
pub(super) enum SendError {
    /// The connection was closed before any byte of the request left; here it is back.
    NotSent(Box<Request<Body>>),
    /// The request may have arrived.
    Failed(hyper::Error),
}

impl Connection {
    /// Connects to the first address that answers: of the route, or of the name.
    pub(super) async fn open(
        endpoint: &Endpoint,
        route: Option<Vec<SocketAddr>>,
        late: &Late,
        tls: Option<&TlsConnector>,
        timeout: Duration,
    ) -> Result<Self, ConnectError> {
        tokio::time::timeout(timeout, Self::dial(endpoint, route, late, tls))
            .await
            .unwrap_or(Err(ConnectError::Timeout(timeout)))
    }

    async fn dial(
        endpoint: &Endpoint,
        route: Option<Vec<SocketAddr>>,
        late: &Late,
        tls: Option<&TlsConnector>,
    ) -> Result<Self, ConnectError> {
        let (addresses, none) = match route {
            Some(route) => (route, ConnectError::NothingReady),
            None => {
                let found = tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port)).await;
                (found.map_err(ConnectError::Resolve)?.collect(), ConnectError::NoAddress)
            }
        };
        match race::first(addresses, late).await {
            Ok((stream, address)) => Self::handshake(stream, address, endpoint, tls).await,
            Err(error) => Err(error.map_or(none, ConnectError::Connect)),
        }
    }

    async fn handshake(
        stream: TcpStream,
        peer: SocketAddr,
        endpoint: &Endpoint,
        tls: Option<&TlsConnector>,
    ) -> Result<Self, ConnectError> {
        stream.set_nodelay(true).map_err(ConnectError::Connect)?;
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE_AFTER)
            .with_interval(KEEPALIVE_EVERY)
            .with_retries(KEEPALIVE_PROBES);
        SockRef::from(&stream).set_tcp_keepalive(&keepalive).map_err(ConnectError::Connect)?;
        match (&endpoint.server_name, tls) {
            (Some(name), Some(tls)) => {
                let stream = tls.connect(name.clone(), stream).await.map_err(ConnectError::Tls)?;
                Self::http(stream, peer).await
            }
            (Some(_), None) => Err(ConnectError::Tls(io::Error::other("https without a TLS configuration"))),
            (None, _) => Self::http(stream, peer).await,
        }
    }

    async fn http(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        peer: SocketAddr,
    ) -> Result<Self, ConnectError> {
        let (sender, connection) = http1::Builder::new()
            .max_header_size(MAX_HEAD_BYTES)
            .max_buf_size(2 * MAX_HEAD_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(ConnectError::Http)?;
        // An error of the connection reaches whoever waits for an answer on it; without one it does not matter.
        let task = tokio::spawn(async move { drop(connection.await) });
        Ok(Self { peer, sender, task })
    }

    pub(super) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Whether the server has closed it.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Waits until the last answer is out of the way and a request can be sent; `false` when the connection is closed.
    pub(super) async fn is_ready(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    pub(super) async fn send(&mut self, request: Request<Body>) -> Result<Response<Incoming>, SendError> {
        self.sender.try_send_request(request).await.map_err(|mut error| match error.take_message() {
            Some(request) => SendError::NotSent(Box::new(request)),
            None => SendError::Failed(error.into_error()),
        })
    }
}
