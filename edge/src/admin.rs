//! The admin door: `/healthz`, `/readyz`, `/metrics`, `/status`. HTTP/1.1, read-only, without credentials: bind it where only operators are.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use edge_core::stats::Stats;
use http_body_util::Full;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use crate::driver::Parts;
use crate::driver::ingress::Control;
use crate::metrics::Scrape;
use crate::status::{CountsReport, Status};

/// Connections at one time; more wait in the backlog.
const CONNECTIONS: usize = 64;
/// For the head of a request, and for a whole connection between requests.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// For a shard's answer.
const SHARD_TIME: Duration = Duration::from_secs(1);

/// What the door shows.
#[derive(Clone)]
pub struct Admin {
    pub parts: Parts,
    pub status: Arc<Status>,
}

/// Opens the door.
///
/// # Errors
/// When the address cannot be bound: one sentence.
pub async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), String> {
    let fail = |error: io::Error| {
        let advice = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "the port is in use by another process; choose another one, or port 0".to_owned()
            }
            io::ErrorKind::PermissionDenied => "no permission for this port; choose a higher one".to_owned(),
            io::ErrorKind::AddrNotAvailable => "this machine has no such address".to_owned(),
            _ => error.to_string(),
        };
        format!("--admin {address}: {advice}")
    };
    let listener = TcpListener::bind(address).await.map_err(fail)?;
    let bound = listener.local_addr().map_err(fail)?;
    Ok((listener, bound))
}

/// Serves until the process ends.
pub async fn serve(listener: TcpListener, admin: Admin) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "an admin connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let admin = admin.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let admin = admin.clone();
                async move { Ok::<_, Infallible>(admin.answer(&request).await) }
            });
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(16 * 1024);
            // A client that goes away in the middle is its own affair.
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
            drop(place);
        });
    }
}

impl Admin {
    async fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        const TEXT: &str = "text/plain; charset=utf-8";
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return reply(StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET only\n");
        }
        match request.uri().path() {
            "/healthz" => match self.stats().await.len() == self.parts.shards.handles().len() {
                true => reply(StatusCode::OK, TEXT, "ok\n"),
                false => reply(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "a shard does not answer\n"),
            },
            "/readyz" if self.status.is_draining() => reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, "draining\n"),
            "/readyz" => reply(StatusCode::OK, TEXT, "ok\n"),
            "/metrics" => {
                let text = self.parts.metrics.text(self.scrape().await);
                reply(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", text)
            }
            "/status" => match serde_json::to_vec_pretty(&self.status.report(self.counts().await)) {
                Ok(mut json) => {
                    json.push(b'\n');
                    reply(StatusCode::OK, "application/json", json)
                }
                Err(error) => reply(StatusCode::INTERNAL_SERVER_ERROR, TEXT, error.to_string()),
            },
            _ => reply(StatusCode::NOT_FOUND, TEXT, "/healthz /readyz /metrics /status\n"),
        }
    }

    /// Asks every shard; one that does not answer in time is left out.
    async fn stats(&self) -> Vec<Stats> {
        let mut asked = Vec::new();
        for shard in self.parts.shards.handles() {
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

    async fn scrape(&self) -> Scrape {
        Scrape {
            shards: self.stats().await,
            store: self.parts.store.counts(),
            connections: self.parts.net.connections().len(),
            backend_calls: self.parts.backends.in_flight(),
            refused: self.parts.counters.all().collect(),
            config_version: self.status.config_version(),
            rejected: self.status.problems(),
            draining: self.status.is_draining(),
        }
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

fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, hyper::header::HeaderValue::from_static("no-store"));
    response
}
