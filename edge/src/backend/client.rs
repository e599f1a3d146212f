//! The client of one backend: Streamable HTTP of MCP 2025-11-25 (sessions, server stream, resumption) and 2026-07-28.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use edge_core::effect::{BackendAction, BackendCall};
use edge_core::input::{BackendEvent, BackendFailure, BackendId};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::{Request, Response};
use mcp_sip::jsonrpc::{Bounds, Envelope, Kind as MessageKind, RawId};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::answer::{self, Ended, Format, Head, Position, Sink, Stop};
use super::config::{BackendConfig, BackendConfigError};
use super::connect::{Body, ConnectError, Connection, Late, SendError};
use super::endpoint::Endpoint;
use super::places::{Kind, Place, Places, Stats};
use super::pool::Pool;
use super::request::{self, Template};
use super::tls;

/// How long the head of a server stream may take; it has no deadline of its own.
const STREAM_HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Where a stream named no `retry`.
const DEFAULT_RETRY: Duration = Duration::from_secs(1);
/// A stream is not resumed sooner than this, whatever `retry` says.
const MIN_RETRY: Duration = Duration::from_millis(100);
/// A server stream is asked for again at least this often, whatever `retry` and the back-off say.
const MAX_RETRY: Duration = Duration::from_secs(300);
/// What may follow the answer on its stream, and for how long it is awaited, so that the connection can be kept.
const DRAIN_BYTES: usize = 64 * 1024;
const DRAIN_TIME: Duration = Duration::from_millis(250);
/// An error answer is read this far for a JSON-RPC body.
const ERROR_BODY_BYTES: usize = 64 * 1024;

/// One agent's backend. All calls to it, from all shards, share its connections and its bounds.
pub struct Backend {
    agent: String,
    config: BackendConfig,
    endpoint: Endpoint,
    tls: Option<TlsConnector>,
    authorization: Option<HeaderValue>,
    pool: Arc<Pool>,
    places: Places,
    /// Where connections go; `None`: where the name leads.
    route: ArcSwapOption<Vec<SocketAddr>>,
    /// The address of the route at which the next connection begins.
    turn: AtomicUsize,
    late: Late,
    /// The last attempt to connect failed; the log says so once.
    is_down: AtomicBool,
}

impl Backend {
    /// Checks the configuration; connects to nothing.
    ///
    /// # Errors
    /// The first thing in `config` that cannot be used.
    pub fn new(agent: impl Into<String>, config: BackendConfig) -> Result<Self, BackendConfigError> {
        let endpoint = Endpoint::parse(&config.url)?;
        let tls = match &endpoint.server_name {
            Some(_) => Some(tls::connector(config.ca_bundle.as_deref())?),
            None => None,
        };
        let authorization = match &config.bearer {
            Some(bearer) => Some(request::authorization(bearer.expose()).ok_or(BackendConfigError::Credential)?),
            None => None,
        };
        Ok(Self {
            agent: agent.into(),
            pool: Pool::new(config.limits.idle_connections),
            places: Places::new(&config.limits),
            config,
            endpoint,
            tls,
            authorization,
            route: ArcSwapOption::empty(),
            turn: AtomicUsize::new(0),
            late: Late::default(),
            is_down: AtomicBool::new(false),
        })
    }

    pub fn config(&self) -> &BackendConfig {
        &self.config
    }

    /// From now on connections go there, also instead of the kept ones that go elsewhere; `None`: where the name leads.
    pub fn route(&self, to: Option<Vec<SocketAddr>>) {
        if self.route.load().as_deref() == to.as_ref() {
            return;
        }
        let by_name = to.is_none();
        self.route.store(to.map(Arc::new));
        if by_name {
            // Those that a route brought lead to where the name need not lead.
            self.pool.clear();
        }
    }

    /// Where connections go; `None`: where the name leads.
    pub(crate) fn route_now(&self) -> Option<Arc<Vec<SocketAddr>>> {
        self.route.load_full()
    }

    pub fn stats(&self) -> Stats {
        Stats { idle_connections: self.pool.len(), ..self.places.stats() }
    }

    /// Does one call. Exactly one final event (`Done` or `Failed`) goes to `events`, as the last one, unless `events` is
    /// closed or this future is dropped: then the connection of the call is closed at once, which in the modern era
    /// cancels the request.
    pub async fn run(&self, id: BackendId, call: BackendCall, events: mpsc::Sender<(BackendId, BackendEvent)>) {
        let sink = Sink { id, events };
        let outcome = match Template::new(&self.endpoint, self.authorization.as_ref(), &call) {
            Ok(template) => self.act(&call, template, &sink).await,
            Err(error) => {
                tracing::error!(agent = %self.agent, %error, "a backend call cannot be sent");
                Err(BackendFailure::Unreachable.into())
            }
        };
        let last = match outcome {
            Ok(()) => BackendEvent::Done,
            Err(Stop::Failed(failure)) => BackendEvent::Failed(failure),
            Err(Stop::Gone) => return,
        };
        // A reader that is gone wants no last event either.
        let _ = sink.send(last).await;
    }

    async fn act(&self, call: &BackendCall, template: Template, sink: &Sink) -> Result<(), Stop> {
        let deadline = match call.timeout_ms {
            0 => None,
            timeout => Instant::now().checked_add(Duration::from_millis(timeout)),
        };
        match &call.action {
            BackendAction::Post { body } => self.post(call, template, body, deadline, sink).await,
            BackendAction::Listen { last_event_id } => self.listen(template, last_event_id.clone(), sink).await,
            BackendAction::EndSession => self.end_session(template, deadline, sink).await,
        }
    }

    // === POST ===

    async fn post(
        &self,
        call: &BackendCall,
        template: Template,
        body: &Bytes,
        deadline: Option<Instant>,
        sink: &Sink,
    ) -> Result<(), Stop> {
        // Our own limit does not bind what we send: the core has judged it.
        let bounds = Bounds { bytes: usize::MAX, meta_bytes: usize::MAX, ..Bounds::default() };
        let envelope = Envelope::parse(body, &bounds).map_err(|refused| {
            tracing::error!(agent = %self.agent, %refused, "a backend call is no JSON-RPC message");
            BackendFailure::Unreachable
        })?;
        let wanted = envelope.id().filter(|_| envelope.kind() == MessageKind::Request);
        let kind = if wanted.is_some() { Kind::Request } else { Kind::Post };
        // Until something was sent, a deadline that passes says so: nothing was executed.
        let place = within(deadline, BackendFailure::Overloaded, self.places.take(kind)).await?;
        let (response, connection) = self.exchange(template.post(body.clone()), deadline).await?;
        let answer = Answer { backend: self, template, is_modern: answer::is_modern(call), sink, place };
        within(deadline, BackendFailure::Deadline, answer.read(response, connection, wanted)).await
    }

    /// Sends on a kept connection or on a new one. A request that surely did not leave on a kept one goes on the next.
    async fn exchange(
        &self,
        mut request: Request<Body>,
        deadline: Option<Instant>,
    ) -> Result<(Response<Incoming>, Connection), BackendFailure> {
        loop {
            let kept = self.kept().await;
            let is_new = kept.is_none();
            let mut connection = match kept {
                Some(connection) => connection,
                None => within(deadline, BackendFailure::Unreachable, self.connect()).await?,
            };
            let sent = async { Ok::<_, BackendFailure>(connection.send(request).await) };
            match within(deadline, BackendFailure::Deadline, sent).await? {
                Ok(response) => return Ok((response, connection)),
                Err(SendError::NotSent(back)) if !is_new => request = *back,
                Err(SendError::NotSent(_)) => return Err(BackendFailure::Unreachable),
                Err(SendError::Failed(error)) => {
                    tracing::debug!(agent = %self.agent, %error, "a backend did not answer");
                    return Err(answer::failure_of(&error));
                }
            }
        }
    }

    /// A kept connection, but for those to where nothing is ready any more.
    async fn kept(&self) -> Option<Connection> {
        loop {
            let connection = self.pool.take().await?;
            if self.route.load().as_ref().is_none_or(|route| route.contains(&connection.peer())) {
                return Some(connection);
            }
        }
    }

    async fn connect(&self) -> Result<Connection, BackendFailure> {
        let route = self.route.load_full().map(|route| {
            let mut route = route.to_vec();
            let first = self.turn.fetch_add(1, Ordering::Relaxed).checked_rem(route.len()).unwrap_or(0);
            route.rotate_left(first);
            route
        });
        let limit = self.config.limits.connect_timeout;
        let opened = Connection::open(&self.endpoint, route, &self.late, self.tls.as_ref(), limit).await;
        self.note_health(opened.as_ref().err());
        opened.map_err(|_| BackendFailure::Unreachable)
    }

    /// Logs a change of state, not each call.
    fn note_health(&self, error: Option<&ConnectError>) {
        let was_down = self.is_down.swap(error.is_some(), Ordering::Relaxed);
        match error {
            Some(error) if !was_down => {
                tracing::warn!(agent = %self.agent, url = %self.config.url, %error, "backend unreachable");
            }
            None if was_down => tracing::info!(agent = %self.agent, "backend reachable again"),
            Some(_) | None => {}
        }
    }

    /// Keeps the connection for a next call once the rest of the answer is out of the way. Its place is taken until then,
    /// so that there are never more connections in use than places.
    fn recycle(&self, connection: Connection, mut body: Incoming, place: Place) {
        let pool = self.pool.clone();
        tokio::spawn(async move {
            let drained = tokio::time::timeout(DRAIN_TIME, async {
                let mut left = DRAIN_BYTES;
                while let Some(frame) = body.frame().await {
                    let bytes = frame.ok()?.into_data().map_or(0, |data| data.len());
                    left = left.checked_sub(bytes)?;
                }
                Some(())
            });
            if drained.await == Ok(Some(())) {
                pool.put(connection);
            }
            drop(place);
        });
    }

    // === GET ===

    /// The legacy server's stream: asked for again when it ends or breaks, from where it was.
    async fn listen(&self, template: Template, last_id: Option<String>, sink: &Sink) -> Result<(), Stop> {
        let _place = self.places.take(Kind::Stream).await?;
        let mut position = Position::after(last_id);
        let mut failed_attempts = 0;
        let mut was_open = false;
        loop {
            match self.open_stream(&template, position.last_id.as_deref()).await {
                Ok((head, mut body, _connection)) => {
                    if !was_open || head.status == 405 {
                        sink.send(head.event()).await?;
                    }
                    if head.status == 405 {
                        return Ok(());
                    }
                    was_open = true;
                    let limit = self.config.limits.message_bytes;
                    match answer::relay(&mut body, sink, None, limit, &mut position).await? {
                        Ended::Open { progress: true } => failed_attempts = 0,
                        Ended::Open { progress: false } | Ended::Answered => {}
                    }
                }
                Err(Refusal::Final(failure)) => return Err(failure.into()),
                Err(Refusal::Passing(failure)) if !was_open => return Err(failure.into()),
                Err(Refusal::Passing(_)) => {}
            }
            failed_attempts += 1;
            if failed_attempts > self.config.limits.resume_attempts {
                return Err(BackendFailure::Interrupted.into());
            }
            tokio::time::sleep(pause(position.retry, failed_attempts)).await;
        }
    }

    /// Opens or resumes a legacy stream; a head with status 405 says that there is none.
    async fn open_stream(
        &self,
        template: &Template,
        last_id: Option<&str>,
    ) -> Result<(Head, Incoming, Connection), Refusal> {
        let head_deadline = Instant::now() + STREAM_HEAD_TIMEOUT;
        let (response, connection) =
            self.exchange(template.get(last_id), Some(head_deadline)).await.map_err(|failure| match failure {
                BackendFailure::Garbage => Refusal::Final(failure),
                _ => Refusal::Passing(failure),
            })?;
        let head = Head::read(response.status().as_u16(), response.headers()).map_err(Refusal::Final)?;
        if let Some(failure) = answer::failure_of_status(head.status, template.has_session()) {
            return Err(Refusal::Final(failure));
        }
        match head.status {
            405 => Ok((head, response.into_body(), connection)),
            200 if head.format == Format::Events => Ok((head, response.into_body(), connection)),
            200..300 => Err(Refusal::Final(BackendFailure::Garbage)),
            429 | 500.. => Err(Refusal::Passing(BackendFailure::Status(head.status))),
            status => Err(Refusal::Final(BackendFailure::Status(status))),
        }
    }

    // === DELETE ===

    async fn end_session(&self, template: Template, deadline: Option<Instant>, sink: &Sink) -> Result<(), Stop> {
        let place = within(deadline, BackendFailure::Overloaded, self.places.take(Kind::Post)).await?;
        let (response, connection) = self.exchange(template.delete(), deadline).await?;
        let head = Head::read(response.status().as_u16(), response.headers())?;
        within(deadline, BackendFailure::Deadline, sink.send(head.event())).await?;
        match head.status {
            // 404: it was gone already; 405: the server lets no client end a session.
            200..300 | 404 | 405 => {
                self.recycle(connection, response.into_body(), place);
                Ok(())
            }
            401 | 403 => Err(BackendFailure::Unauthorized.into()),
            status => Err(BackendFailure::Status(status).into()),
        }
    }
}

/// Why a stream did not open.
enum Refusal {
    /// Asking again would get the same.
    Final(BackendFailure),
    /// The server may be restarting.
    Passing(BackendFailure),
}

/// The answer to a POST that has just begun.
struct Answer<'a> {
    backend: &'a Backend,
    template: Template,
    is_modern: bool,
    sink: &'a Sink,
    place: Place,
}

impl Answer<'_> {
    /// `wanted`: the id of the request that was sent; `None` after a notification or response.
    async fn read(
        mut self,
        response: Response<Incoming>,
        connection: Connection,
        wanted: Option<RawId>,
    ) -> Result<(), Stop> {
        let head = Head::read(response.status().as_u16(), response.headers())?;
        let mut body = response.into_body();
        self.sink.send(head.event()).await?;
        if let Some(failure) = answer::failure_of_status(head.status, self.template.has_session()) {
            return Err(failure.into());
        }
        if !head.is_success() {
            let Some(wanted) = wanted else { return Err(BackendFailure::Status(head.status).into()) };
            return self.error(&head, &mut body, &wanted).await;
        }
        if let Some(session) = &head.session {
            self.template.set_session(session.clone());
        }
        match (wanted, head.format) {
            (wanted, Format::Events) => self.events(body, connection, wanted).await,
            (Some(wanted), Format::Json) => {
                let limit = self.backend.config.limits.message_bytes;
                let bytes = answer::whole(&mut body, limit).await?;
                if !answer::answers(&answer::message(&bytes, limit)?, &wanted) {
                    return Err(BackendFailure::Garbage.into());
                }
                self.backend.pool.put(connection);
                self.sink.send(BackendEvent::Message { body: bytes, event_id: None }).await
            }
            // A request that gets 202, or a web page, will never be answered.
            (Some(_), Format::Other) => Err(BackendFailure::Garbage.into()),
            (None, Format::Json | Format::Other) => {
                self.backend.recycle(connection, body, self.place);
                Ok(())
            }
        }
    }

    /// An error status: its body is the answer if it is a JSON-RPC one (400 and 404 in the modern era).
    async fn error(&self, head: &Head, body: &mut Incoming, wanted: &RawId) -> Result<(), Stop> {
        let status = BackendFailure::Status(head.status);
        if head.format != Format::Json {
            return Err(status.into());
        }
        let limit = self.backend.config.limits.message_bytes.min(ERROR_BODY_BYTES);
        let bytes = answer::whole(body, limit).await.map_err(|_| status)?;
        match answer::message(&bytes, limit) {
            Ok(envelope) if answer::answers(&envelope, wanted) => {
                self.sink.send(BackendEvent::Message { body: bytes, event_id: None }).await
            }
            Ok(_) | Err(_) => Err(status.into()),
        }
    }

    /// An event stream. In the legacy era one that ends before the answer is resumed from its last event (SEP-1699 lets
    /// a server close it on purpose); in the modern era it is lost.
    async fn events(self, mut body: Incoming, mut connection: Connection, wanted: Option<RawId>) -> Result<(), Stop> {
        let limits = &self.backend.config.limits;
        let mut position = Position::default();
        let mut failed_attempts = 0;
        loop {
            match answer::relay(&mut body, self.sink, wanted.as_ref(), limits.message_bytes, &mut position).await? {
                Ended::Answered => {
                    self.backend.recycle(connection, body, self.place);
                    return Ok(());
                }
                Ended::Open { .. } if wanted.is_none() => return Ok(()),
                Ended::Open { progress: true } => failed_attempts = 0,
                Ended::Open { progress: false } => {}
            }
            drop((body, connection));
            (body, connection) = self.resume(&position, &mut failed_attempts).await?;
        }
    }

    async fn resume(
        &self,
        position: &Position,
        failed_attempts: &mut u32,
    ) -> Result<(Incoming, Connection), BackendFailure> {
        let Some(last_id) = position.last_id.as_deref().filter(|_| !self.is_modern) else {
            return Err(BackendFailure::Interrupted);
        };
        loop {
            *failed_attempts += 1;
            if *failed_attempts > self.backend.config.limits.resume_attempts {
                return Err(BackendFailure::Interrupted);
            }
            tokio::time::sleep(pause(position.retry, *failed_attempts)).await;
            match self.backend.open_stream(&self.template, Some(last_id)).await {
                Ok((head, body, connection)) if head.status == 200 => return Ok((body, connection)),
                // 405: this server resumes nothing.
                Ok(_) => return Err(BackendFailure::Interrupted),
                Err(Refusal::Final(failure @ (BackendFailure::SessionGone | BackendFailure::Unauthorized))) => {
                    return Err(failure);
                }
                // The request was executed, or is still: what became of it is what counts.
                Err(Refusal::Final(_)) => return Err(BackendFailure::Interrupted),
                Err(Refusal::Passing(_)) => {}
            }
        }
    }
}

/// How long to wait before attempt number `attempt` (from 1): what the server asked for, doubled with each failure.
fn pause(retry: Option<Duration>, attempt: u32) -> Duration {
    let base = retry.unwrap_or(DEFAULT_RETRY).clamp(MIN_RETRY, MAX_RETRY);
    base.saturating_mul(1 << attempt.saturating_sub(1).min(8)).min(MAX_RETRY)
}

/// Does `work` until the deadline; after it, `late`.
async fn within<T, E: From<BackendFailure>>(
    deadline: Option<Instant>,
    late: BackendFailure,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    match deadline {
        Some(deadline) => tokio::time::timeout_at(deadline, work).await.unwrap_or_else(|_| Err(late.into())),
        None => work.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_bounded() {
        let ms = Duration::from_millis;
        assert_eq!(pause(None, 1), ms(1000));
        assert_eq!(pause(Some(ms(200)), 1), ms(200));
        assert_eq!(pause(Some(ms(200)), 3), ms(800));
        assert_eq!(pause(Some(ms(0)), 1), MIN_RETRY);
        assert_eq!(pause(Some(Duration::MAX), 1), MAX_RETRY);
        assert_eq!(pause(Some(ms(200)), u32::MAX), ms(51_200));
    }
}
