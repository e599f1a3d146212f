//! The admin door: `/healthz`, `/readyz`, `/metrics`, `/status`, and the conversations in the store. HTTP/1.1, without credentials: bind it
//! where only operators are. What is stored of people is shown and erased on loopback or on a Unix socket only.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use edge_core::stats::Stats;
use http_body_util::Full;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, ORIGIN};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;

use crate::args::AdminAddress;
use crate::conversations;
use crate::driver::Parts;
use crate::driver::ingress::Control;
use crate::identity::EdgeId;
use crate::metrics::{Metrics, Scrape};
use crate::status::{CountsReport, Status, StoreReport};

/// Connections at one time; more wait in the backlog.
const CONNECTIONS: usize = 64;
/// For the head of a request, and for a whole connection between requests.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// For a shard's answer.
const SHARD_TIME: Duration = Duration::from_secs(1);
/// Where conversations are.
const CONVERSATIONS: &str = "/conversations/";

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// What the door shows.
#[derive(Clone)]
pub struct Admin {
    pub edge: EdgeId,
    pub status: Arc<Status>,
    pub metrics: Arc<Metrics>,
    /// There once the start is done.
    pub parts: Arc<OnceLock<Parts>>,
    /// Only this machine reaches the door.
    pub local: bool,
}

/// The open door.
pub enum Door {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Opens the door. Answers where it is, too.
///
/// # Errors
/// When the address cannot be bound: one sentence.
pub async fn bind(address: &AdminAddress) -> Result<(Door, AdminAddress), String> {
    let fail = |error: io::Error| {
        let advice = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "the port is in use by another process; choose another one, or port 0".to_owned()
            }
            io::ErrorKind::PermissionDenied => "no permission for it; choose another one".to_owned(),
            io::ErrorKind::AddrNotAvailable => "this machine has no such address".to_owned(),
            _ => error.to_string(),
        };
        format!("--admin {address}: {advice}")
    };
    match address {
        AdminAddress::Tcp(address) => {
            let listener = TcpListener::bind(address).await.map_err(fail)?;
            let bound = listener.local_addr().map_err(fail)?;
            Ok((Door::Tcp(listener), AdminAddress::Tcp(bound)))
        }
        AdminAddress::Unix(path) => Ok((Door::Unix(bind_unix(path).await.map_err(fail)?), address.clone())),
    }
}

/// A socket file that nobody listens on is of a process that ended.
async fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let left_over = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket())
        && UnixStream::connect(path).await.is_err();
    if left_over {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves until the process ends.
pub async fn serve(door: Door, admin: Admin) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let accepted = match &door {
            Door::Tcp(listener) => listener.accept().await.map(|(stream, _)| {
                tokio::spawn(answer_all(stream, admin.clone(), place));
            }),
            Door::Unix(listener) => listener.accept().await.map(|(stream, _)| {
                tokio::spawn(answer_all(stream, admin.clone(), place));
            }),
        };
        if let Err(error) = accepted {
            tracing::warn!(%error, "an admin connection could not be accepted");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn answer_all(stream: impl AsyncRead + AsyncWrite + Unpin + Send, admin: Admin, place: OwnedSemaphorePermit) {
    let service = service_fn(|request| {
        let admin = admin.clone();
        async move { Ok::<_, Infallible>(admin.answer(&request).await) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(16 * 1024);
    // A client that goes away in the middle is its own affair.
    let _ = http.serve_connection(TokioIo::new(stream), service).await;
    drop(place);
}

impl Admin {
    async fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        if let Some(name) = path.strip_prefix(CONVERSATIONS) {
            return self.conversation(request, name).await;
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return reply(StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET only\n");
        }
        match path {
            "/healthz" if self.lives().await => reply(StatusCode::OK, TEXT, "ok\n"),
            "/healthz" => reply(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "a shard does not answer\n"),
            "/readyz" => match self.status.readiness() {
                Ok(()) => reply(StatusCode::OK, TEXT, "ok\n"),
                Err(reason) => reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, reason + "\n"),
            },
            "/metrics" => {
                let text = self.metrics.text(self.scrape().await);
                reply(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", text)
            }
            "/status" => json(&self.status.report(self.edge.as_str(), self.store(), self.counts().await)),
            _ => reply(
                StatusCode::NOT_FOUND,
                TEXT,
                "/healthz /readyz /metrics /status /conversations/UUID?domain=NAME\n",
            ),
        }
    }

    /// Export and erasure (OBS-4).
    async fn conversation<B>(&self, request: &Request<B>, name: &str) -> Response<Full<Bytes>> {
        if !self.local {
            let why = "conversations are shown and erased where --admin is a loopback address or a Unix socket only\n";
            return reply(StatusCode::FORBIDDEN, TEXT, why);
        }
        if request.headers().contains_key(ORIGIN) {
            return reply(StatusCode::FORBIDDEN, TEXT, "not for pages of a browser\n");
        }
        let (Some(parts), Some(config)) = (self.parts.get(), self.status.config()) else {
            return reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, "starting\n");
        };
        let domain = request.uri().query().and_then(|query| query.strip_prefix("domain="));
        let tenants = match conversations::tenants(&config, domain) {
            Ok(tenants) => tenants,
            Err(reason) => return reply(StatusCode::NOT_FOUND, TEXT, reason + "\n"),
        };
        let result = match *request.method() {
            Method::GET => conversations::export(&parts.store, &config, &tenants, name).await,
            Method::DELETE => conversations::erase(&parts.store, &config, &tenants, name).await,
            _ => {
                let mut refused = reply(StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET or DELETE\n");
                refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, DELETE"));
                return refused;
            }
        };
        match result {
            Ok(Some(found)) => json(&found),
            Ok(None) => reply(StatusCode::NOT_FOUND, TEXT, "nothing is stored of such a conversation\n"),
            Err(conversations::Failure::NoUuid) => {
                reply(StatusCode::BAD_REQUEST, TEXT, "a conversation is named by its UUID\n")
            }
            Err(conversations::Failure::Store(error)) => {
                reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{error}\n"))
            }
        }
    }

    /// Whether every shard answers; before there are shards, whether anybody does.
    async fn lives(&self) -> bool {
        match self.parts.get() {
            Some(parts) => stats(parts).await.len() == parts.shards.handles().len(),
            None => true,
        }
    }

    async fn scrape(&self) -> Scrape {
        let common = Scrape {
            config_version: self.status.config_version(),
            rejected: self.status.problems(),
            draining: self.status.is_draining(),
            ready: self.status.readiness().is_ok(),
            control: self.status.control(),
            ..Scrape::default()
        };
        let Some(parts) = self.parts.get() else { return common };
        let membership = parts.membership.borrow().clone();
        Scrape {
            shards: stats(parts).await,
            store: parts.store.counts().await.unwrap_or_default(),
            round_trips: parts.store.round_trips(),
            connections: parts.net.connections().len(),
            backend_calls: parts.backends.in_flight(),
            refused: parts.counters.all().collect(),
            health: parts.health.borrow().health,
            epoch: membership.as_ref().map_or(0, |membership| membership.owner.epoch),
            lease_held: membership.as_ref().is_some_and(|membership| membership.holds(parts.clock.now().mono)),
            pods: membership.map_or(0, |m| m.pods.iter().filter(|pod| pod.lease_left_ms > 0).count()),
            ..common
        }
    }

    fn store(&self) -> Option<StoreReport> {
        let parts = self.parts.get()?;
        let membership = parts.membership.borrow().clone()?;
        let held = membership.holds(parts.clock.now().mono);
        let report = StoreReport::new(parts.store.kind(), parts.health.borrow().health, &membership, held);
        Some(StoreReport { reason: parts.store.trouble(), ..report })
    }

    async fn counts(&self) -> CountsReport {
        let scrape = self.scrape().await;
        CountsReport {
            shards: scrape.shards.len(),
            connections: scrape.connections,
            dialogs: scrape.sum(|stats| stats.dialogs),
            sessions: scrape.store.sessions,
            in_flight: scrape.sum(|stats| stats.engine.exchanges),
            registrations: scrape.store.aors,
            backend_calls: scrape.backend_calls,
        }
    }
}

/// Asks every shard; one that does not answer in time is left out.
pub(crate) async fn stats(parts: &Parts) -> Vec<Stats> {
    let mut asked = Vec::new();
    for shard in parts.shards.handles() {
        let (answer, stats) = oneshot::channel();
        let sent = timeout(SHARD_TIME, shard.control.send(Control::Stats(answer))).await;
        if matches!(sent, Ok(Ok(()))) {
            asked.push(stats);
        }
    }
    let mut all = Vec::new();
    for stats in asked {
        if let Ok(Ok(stats)) = timeout(SHARD_TIME, stats).await {
            all.push(stats);
        }
    }
    all
}

fn json(value: &impl serde::Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec_pretty(value) {
        Ok(mut json) => {
            json.push(b'\n');
            reply(StatusCode::OK, JSON, json)
        }
        Err(error) => reply(StatusCode::INTERNAL_SERVER_ERROR, TEXT, error.to_string()),
    }
}

fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
