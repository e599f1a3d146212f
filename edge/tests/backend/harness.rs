//! Calls, their events, and a raw TCP server whose every byte the test decides.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use edge::backend::{BackendConfig, Backends};
use edge_core::effect::{BackendAction, BackendCall};
use edge_core::input::{BackendEvent, BackendFailure, BackendId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

pub const MODERN: &str = "2026-07-28";
pub const LEGACY: &str = "2025-11-25";
/// No test waits longer for one event.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// `_meta` of a modern request, without the outer braces.
pub const META: &str = r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{},"roots":{}},"io.modelcontextprotocol/clientInfo":{"name":"test","version":"1"}"#;

/// All calls of a test go to one agent.
pub struct Client {
    pub backends: Backends,
    next: AtomicU64,
}

/// A call under way.
pub struct Running {
    pub id: BackendId,
    events: mpsc::Receiver<(BackendId, BackendEvent)>,
    positions: Vec<String>,
}

impl Client {
    pub fn new(url: &str) -> Self {
        Self::with(BackendConfig::new(url))
    }

    pub fn with(config: BackendConfig) -> Self {
        let backends = Backends::new(Handle::current());
        backends.configure(BTreeMap::from([("acme/agent".to_owned(), config)])).expect("a good configuration");
        Self { backends, next: AtomicU64::new(1) }
    }

    pub fn start(&self, call: BackendCall) -> Running {
        let id = BackendId(self.next.fetch_add(1, Ordering::Relaxed));
        let (sender, events) = mpsc::channel(4);
        self.backends.start(id, call, sender);
        Running { id, events, positions: Vec::new() }
    }

    /// All events of a call.
    pub async fn call(&self, call: BackendCall) -> Vec<BackendEvent> {
        self.start(call).rest().await
    }

    /// The message of a call that brings a head, one message and the end.
    pub async fn answer(&self, call: BackendCall) -> String {
        let events = self.call(call).await;
        match events.as_slice() {
            [BackendEvent::Head { .. }, BackendEvent::Message { body, .. }, BackendEvent::Done] => text(body),
            other => panic!("not one answer: {other:?}"),
        }
    }

    /// How a call fails.
    pub async fn failure(&self, call: BackendCall) -> BackendFailure {
        let events = self.call(call).await;
        match events.last() {
            Some(BackendEvent::Failed(failure)) => *failure,
            other => panic!("no failure: {other:?}"),
        }
    }
}

impl Running {
    /// The next event that says something: where a stream may be resumed is noted by the way.
    pub async fn next(&mut self) -> BackendEvent {
        loop {
            let event = tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("an event in time");
            let (id, event) = event.expect("a last event before the end");
            assert_eq!(id, self.id);
            match event {
                BackendEvent::Position { event_id } => self.positions.push(event_id),
                event => return event,
            }
        }
    }

    /// The ids without a message of a whole call.
    pub async fn positions(mut self) -> Vec<String> {
        while !self.next().await.is_final() {}
        self.positions
    }

    /// The next message's text.
    pub async fn message(&mut self) -> String {
        match self.next().await {
            BackendEvent::Message { body, .. } => text(&body),
            other => panic!("no message: {other:?}"),
        }
    }

    /// Everything up to the last event, and that nothing follows it.
    pub async fn rest(mut self) -> Vec<BackendEvent> {
        let mut all = Vec::new();
        loop {
            let event = self.next().await;
            let is_final = event.is_final();
            all.push(event);
            if is_final {
                let more = tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("the end in time");
                assert_eq!(more, None, "after the last event");
                return all;
            }
        }
    }

    /// Whether the queue ends without a last event: what a cancelled call does.
    pub async fn ends_unanswered(mut self) -> bool {
        while let Some((_, event)) = tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("the end in time")
        {
            if event.is_final() {
                return false;
            }
        }
        true
    }
}

pub fn text(body: &Bytes) -> String {
    String::from_utf8(body.to_vec()).expect("text")
}

/// The messages among events.
pub fn messages(events: &[BackendEvent]) -> Vec<String> {
    events
        .iter()
        .filter_map(|event| match event {
            BackendEvent::Message { body, .. } => Some(text(body)),
            BackendEvent::Head { .. }
            | BackendEvent::Position { .. }
            | BackendEvent::Done
            | BackendEvent::Failed(_) => None,
        })
        .collect()
}

fn bare(action: BackendAction) -> BackendCall {
    BackendCall {
        agent: "acme/agent".to_owned(),
        action,
        session: None,
        protocol_version: None,
        headers: Vec::new(),
        traceparent: None,
        timeout_ms: 15_000,
    }
}

/// A POST as a modern client sends it, with the mirrors that belong to the body.
pub fn modern(method: &str, name: Option<&str>, body: impl Into<String>) -> BackendCall {
    let mut call = bare(BackendAction::Post { body: Bytes::from(body.into()) });
    call.protocol_version = Some(MODERN.to_owned());
    call.headers.push(("Mcp-Method".to_owned(), method.to_owned()));
    call.headers.extend(name.map(|name| ("Mcp-Name".to_owned(), name.to_owned())));
    call
}

/// A modern `tools/call`.
pub fn modern_tool(id: u64, tool: &str, arguments: &str) -> BackendCall {
    modern(
        "tools/call",
        Some(tool),
        format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{tool}","arguments":{arguments},"_meta":{{{META}}}}}}}"#
        ),
    )
}

/// A POST in a legacy session.
pub fn legacy(session: Option<&str>, body: impl Into<String>) -> BackendCall {
    let mut call = bare(BackendAction::Post { body: Bytes::from(body.into()) });
    call.session = session.map(str::to_owned);
    call.protocol_version = session.map(|_| LEGACY.to_owned());
    call
}

/// A legacy `tools/call`, with a progress token.
pub fn legacy_tool(session: &str, id: u64, tool: &str, arguments: &str) -> BackendCall {
    legacy(
        Some(session),
        format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{tool}","arguments":{arguments},"_meta":{{"progressToken":"p{id}"}}}}}}"#
        ),
    )
}

/// GET: the server stream of a legacy session.
pub fn listen(session: &str, last_event_id: Option<&str>) -> BackendCall {
    let mut call = bare(BackendAction::Listen { last_event_id: last_event_id.map(str::to_owned) });
    call.session = Some(session.to_owned());
    call.protocol_version = Some(LEGACY.to_owned());
    call.timeout_ms = 0;
    call
}

/// DELETE.
pub fn end_session(session: &str) -> BackendCall {
    let mut call = bare(BackendAction::EndSession);
    call.session = Some(session.to_owned());
    call.protocol_version = Some(LEGACY.to_owned());
    call
}

/// A request for the raw server: id 1, method `ping`.
pub const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
/// Its answer.
pub const PONG: &str = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;

/// A TCP server; what it does with each connection is the test's.
pub struct Server {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

/// One connection to [`Server`].
pub struct Conn {
    pub stream: TcpStream,
    /// Which connection this is, from 0.
    pub number: usize,
    buffer: Vec<u8>,
    requests: Arc<AtomicUsize>,
}

impl Server {
    pub async fn start<F, W>(work: F) -> Self
    where
        F: Fn(Conn) -> W + Send + Sync + 'static,
        W: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (connections, requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (count, seen) = (connections.clone(), requests.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(work(Conn { stream, number, buffer: Vec::new(), requests: seen.clone() }));
            }
        });
        Self { address, connections, requests }
    }

    /// Answers every request with these bytes and keeps the connection open.
    pub async fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer: Arc<Vec<u8>> = Arc::new(answer.into());
        Self::start(move |mut conn| {
            let answer = answer.clone();
            async move {
                while conn.request().await.is_some() {
                    conn.write(&answer[..]).await;
                }
            }
        })
        .await
    }

    /// Answers the first request of each connection with these bytes, then closes it.
    pub async fn answering_once(answer: impl Into<Vec<u8>>) -> Self {
        let answer: Arc<Vec<u8>> = Arc::new(answer.into());
        Self::start(move |mut conn| {
            let answer = answer.clone();
            async move {
                if conn.request().await.is_some() {
                    conn.write(&answer[..]).await;
                }
            }
        })
        .await
    }

    pub fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    pub fn client(&self) -> Client {
        Client::new(&self.url())
    }

    /// Connections that were accepted.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Whole requests that arrived.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Conn {
    /// The next request, head and body as they came; `None` at the end of the connection.
    pub async fn request(&mut self) -> Option<(String, Vec<u8>)> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = String::from_utf8(self.buffer[..end].to_vec()).expect("an ASCII head");
                let length = header(&head, "content-length").map_or(0, |value| value.parse().expect("a length"));
                let total: usize = end + 4 + length;
                if self.buffer.len() >= total {
                    let body = self.buffer[end + 4..total].to_vec();
                    self.buffer.drain(..total);
                    self.requests.fetch_add(1, Ordering::SeqCst);
                    return Some((head, body));
                }
            }
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk).await {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
            }
        }
    }

    /// Errors are not the test's: the client may have gone, which is often the point.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    /// Waits until the client closes.
    pub async fn closed(&mut self) {
        while self.request().await.is_some() {}
    }
}

/// The value of a header field in a head as it came.
pub fn header(head: &str, name: &str) -> Option<String> {
    head.lines().skip(1).find_map(|line| {
        let (field, value) = line.split_once(':')?;
        field.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}

/// An answer with a length.
pub fn http(status: &str, content_type: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// The head of an event stream that lasts until the connection closes.
pub const EVENTS: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";

/// Waits until `condition` holds.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(tokio::time::Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
