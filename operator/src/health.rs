//! The door for probes and for Prometheus: `/healthz`, `/readyz`, `/metrics`. It tells of no object and of no session.

use crate::board::Board;
use crate::lease::Pen;
use crate::metrics::Metrics;
use crate::run::Shutdown;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections at one time; more wait in the backlog.
const CONNECTIONS: usize = 64;
/// For the head of a request, and between requests.
const HEAD_TIME: Duration = Duration::from_secs(10);

const TEXT: &str = "text/plain; charset=utf-8";
const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the door shows.
#[derive(Clone)]
pub struct Door {
    pub board: Arc<Board>,
    pub metrics: Arc<Metrics>,
    pub pen: Pen,
    /// Everything was listed once. It stays: what an edge was told is good while the API server is away, too.
    ready: Arc<AtomicBool>,
}

impl Door {
    #[must_use]
    pub fn new(board: Arc<Board>, metrics: Arc<Metrics>, pen: Pen) -> Self {
        Door { board, metrics, pen, ready: Arc::default() }
    }

    /// Serves until shutdown.
    pub async fn serve(self, listener: TcpListener, mut shutdown: Shutdown) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            // The semaphore is never closed.
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = shutdown.requested() => return,
            };
            match accepted {
                Ok((stream, _)) => drop(tokio::spawn(self.clone().answer_all(stream, place))),
                Err(error) => {
                    tracing::warn!(%error, "a connection for probes could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn answer_all(self, stream: TcpStream, place: OwnedSemaphorePermit) {
        let service = service_fn(|request| {
            let answer = self.answer(&request);
            async move { Ok::<_, Infallible>(answer) }
        });
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(16 * 1024);
        // A client that goes away in the middle is its own affair.
        let _ = http.serve_connection(TokioIo::new(stream), service).await;
        drop(place);
    }

    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return reply(StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET only\n");
        }
        match request.uri().path() {
            "/healthz" => reply(StatusCode::OK, TEXT, "ok\n"),
            "/readyz" => match self.readiness() {
                Ok(()) => reply(StatusCode::OK, TEXT, "ok\n"),
                Err(reason) => reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, reason),
            },
            "/metrics" => reply(StatusCode::OK, METRICS, self.metrics.text(&self.board, self.pen.writes())),
            _ => reply(StatusCode::NOT_FOUND, TEXT, "/healthz /readyz /metrics\n"),
        }
    }

    /// Ready once everything was listed.
    ///
    /// # Errors
    /// What is awaited.
    fn readiness(&self) -> Result<(), String> {
        if self.ready.load(Ordering::Relaxed) {
            return Ok(());
        }
        let awaited = self.board.quietly(|state| state.index.awaited());
        if awaited.is_empty() {
            self.ready.store(true, Ordering::Relaxed);
            return Ok(());
        }
        let kinds: Vec<_> = awaited.into_iter().map(crate::key::Kind::as_str).collect();
        Err(format!("waiting for the API server to list: {}\n", kinds.join(", ")))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::index;

    #[test]
    fn ready_is_who_has_listed_everything_and_stays_so() {
        let (_grant, _settled, pen) = crate::lease::pen();
        let door = Door::new(Arc::default(), Arc::default(), pen);
        let at = |path: &str| door.answer(&Request::get(path).body(()).unwrap()).status();
        assert_eq!((at("/healthz"), at("/readyz")), (StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE));
        assert!(door.readiness().unwrap_err().contains("Namespace, SipEdge, SessionStore"));
        door.board.change(|state| state.index = index([]));
        assert_eq!(at("/readyz"), StatusCode::OK);
        door.board.change(|state| state.index = crate::index::Index::default());
        assert_eq!(at("/readyz"), StatusCode::OK);
        assert_eq!((at("/metrics"), at("/")), (StatusCode::OK, StatusCode::NOT_FOUND));
        assert_eq!(door.answer(&Request::post("/healthz").body(()).unwrap()).status(), StatusCode::METHOD_NOT_ALLOWED);
    }
}
