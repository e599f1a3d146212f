//! HTTPS for the API server and for people: HTTP/1.1 on TLS with a certificate of the operator's authority.
//!
//! Bounded: connections, octets of a body, octets of all bodies together, and the time for each step. A request without a length is refused.

use crate::authority::{Authority, Unusable, provider, unix_now};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::server::{NoServerSessionStorage, ResolvesServerCert};
use tokio_rustls::rustls::sign::SingleCertAndKey;
use tokio_rustls::rustls::version::TLS13;
use zeroize::Zeroizing;

const HANDSHAKE: Duration = Duration::from_secs(5);
/// For the head of a request, and between requests.
const HEAD_TIME: Duration = Duration::from_secs(30);
/// Octets of the head of a request: a token may have 16 KiB.
const MAX_HEAD: usize = 32 << 10;
/// For requests that are on their way when the server ends.
const FAREWELL: Duration = Duration::from_secs(5);
/// Of a certificate, seconds; it is made anew after half of it.
const LIFE: i64 = crate::authority::LIFE;

/// What one server takes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// At one time, handshakes included; more wait in the backlog.
    pub connections: usize,
    /// Octets of one body.
    pub body: usize,
    /// Octets of all bodies that are being read or answered.
    pub bodies: usize,
    /// For the body to come, and then for the answer to be made.
    pub patience: Duration,
}

/// A request that was read.
#[derive(Debug)]
pub struct Asked {
    pub method: Method,
    pub path: String,
    /// Of `Authorization: Bearer TOKEN`.
    pub token: Option<Zeroizing<String>>,
    pub body: Bytes,
}

/// An answer that was made.
pub type Reply = Response<Full<Bytes>>;

/// Who answers requests.
pub trait Answers: Send + Sync + 'static {
    /// Has as much time as the server's limits say.
    fn answer(&self, asked: Asked) -> impl Future<Output = Reply> + Send;
}

/// A JSON body.
pub fn json<T: Serialize>(status: StatusCode, value: &T) -> Reply {
    let body = serde_json::to_vec(value);
    let status = if body.is_ok() { status } else { StatusCode::INTERNAL_SERVER_ERROR };
    let mut reply = Response::new(Full::new(body.unwrap_or_default().into()));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}

/// `{"error": MESSAGE}`.
pub fn error(status: StatusCode, message: &str) -> Reply {
    json(status, &serde_json::json!({ "error": message }))
}

/// Serves until `shutdown` is done.
pub async fn serve<A: Answers>(
    listener: TcpListener,
    authority: Arc<Authority>,
    limits: Limits,
    answers: Arc<A>,
    shutdown: impl Future<Output = ()>,
) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let server = Arc::new(Server {
        certificate: Certificate { authority, made: Mutex::default() },
        limits,
        budget: Semaphore::new(limits.bodies.div_ceil(1024)),
        answers,
    });
    let (close, closing) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let next = async {
            // The semaphore is never closed.
            let place = places.clone().acquire_owned().await.ok();
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            next = next => next,
            () = &mut shutdown => break,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, address)) => {
                let (server, closing) = (server.clone(), closing.clone());
                connections.spawn(async move {
                    server.connection(stream, address, closing).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    close.send_replace(true);
    let _ = timeout(FAREWELL, async { while connections.join_next().await.is_some() {} }).await;
}

struct Server<A> {
    certificate: Certificate,
    limits: Limits,
    /// KiB of bodies.
    budget: Semaphore,
    answers: Arc<A>,
}

impl<A: Answers> Server<A> {
    async fn connection(&self, stream: TcpStream, address: SocketAddr, mut closing: watch::Receiver<bool>) {
        let config = match self.certificate.config(unix_now()) {
            Ok(config) => config,
            Err(error) => return tracing::error!(%error, "no certificate can be made for this server"),
        };
        let stream = match timeout(HANDSHAKE, TlsAcceptor::from(config).accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%address, %error, "no TLS handshake"),
            Err(_) => return tracing::debug!(%address, "no TLS handshake in time"),
        };
        let service = service_fn(|request| async move { Ok::<_, Infallible>(self.answer(request).await) });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(MAX_HEAD);
        let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
        let closed = async {
            // The sender lives as long as the server.
            let _ = closing.wait_for(|closing| *closing).await;
        };
        // A client that goes away in the middle is its own affair.
        tokio::select! {
            _ = connection.as_mut() => return,
            () = closed => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    }

    async fn answer(&self, request: Request<Incoming>) -> Reply {
        let (parts, body) = request.into_parts();
        let length = match length(&parts.headers, &parts.method) {
            Ok(length) if length <= self.limits.body => length,
            Ok(_) => {
                let message = format!("at most {} octets", self.limits.body);
                return error(StatusCode::PAYLOAD_TOO_LARGE, &message);
            }
            Err(status) => return error(status, "a body needs a Content-Length"),
        };
        let late = || error(StatusCode::SERVICE_UNAVAILABLE, "not in time; try again");
        // No body is larger than 4 TiB.
        let room = self.budget.acquire_many(u32::try_from(length.div_ceil(1024)).unwrap_or(u32::MAX));
        // The semaphore is never closed.
        let Ok(Ok(_room)) = timeout(self.limits.patience, room).await else { return late() };
        let body = match timeout(self.limits.patience, Limited::new(body, length).collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(_)) => return error(StatusCode::BAD_REQUEST, "the body is not as long as it says"),
            Err(_) => return error(StatusCode::REQUEST_TIMEOUT, "the body does not come"),
        };
        let token = token(&parts.headers);
        let asked = Asked { method: parts.method, path: parts.uri.path().to_owned(), token, body };
        timeout(self.limits.patience, self.answers.answer(asked)).await.unwrap_or_else(|_| late())
    }
}

/// The body's octets, as announced.
fn length(headers: &HeaderMap, method: &Method) -> Result<usize, StatusCode> {
    match headers.get(CONTENT_LENGTH) {
        Some(length) => length.to_str().ok().and_then(|length| length.parse().ok()).ok_or(StatusCode::BAD_REQUEST),
        None if *method == Method::GET || *method == Method::HEAD => Ok(0),
        None => Err(StatusCode::LENGTH_REQUIRED),
    }
}

/// RFC 6750 section 2.1.
fn token(headers: &HeaderMap) -> Option<Zeroizing<String>> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| Zeroizing::new(token.to_owned()))
}

/// The server's certificate, in memory only.
struct Certificate {
    authority: Arc<Authority>,
    made: Mutex<Option<Made>>,
}

struct Made {
    names: Vec<String>,
    at: i64,
    config: Arc<ServerConfig>,
}

impl Certificate {
    /// For one handshake.
    fn config(&self, now: i64) -> Result<Arc<ServerConfig>, Unusable> {
        let names = self.authority.names();
        // A panic under the lock leaves a whole value.
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Made { config, .. }) =
            made.as_ref().filter(|made| made.names == names && (0..LIFE / 2).contains(&(now - made.at)))
        {
            return Ok(config.clone());
        }
        let key = self.authority.certify(&names, now)?;
        let resolver: Arc<dyn ResolvesServerCert> = Arc::new(SingleCertAndKey::from(key));
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| Unusable::Serving(error.to_string()))?
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let config = Arc::new(config);
        *made = Some(Made { names, at: now, config: config.clone() });
        Ok(config)
    }
}

#[cfg(test)]
mod tests;
