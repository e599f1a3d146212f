//! Reading one HTTP answer: what its head says, its JSON body, its events.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use edge_core::effect::BackendCall;
use edge_core::input::{BackendEvent, BackendFailure, BackendId};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};
use mcp_sip::jsonrpc::{Bounds, Envelope, Kind, RawId};
use tokio::sync::mpsc;

use super::request::SESSION;
use super::sse::Parser;

/// Longest session id that is taken from a backend.
const MAX_SESSION_BYTES: usize = 1024;

/// Why a call ends before its answer is complete.
#[derive(Debug)]
pub(super) enum Stop {
    /// The one who wants the events is gone.
    Gone,
    Failed(BackendFailure),
}

impl From<BackendFailure> for Stop {
    fn from(failure: BackendFailure) -> Self {
        Stop::Failed(failure)
    }
}

/// Where the events of one call go.
#[derive(Debug, Clone)]
pub(super) struct Sink {
    pub id: BackendId,
    pub events: mpsc::Sender<(BackendId, BackendEvent)>,
}

impl Sink {
    /// Waits while the queue is full; so a slow reader slows the backend's stream.
    pub(super) async fn send(&self, event: BackendEvent) -> Result<(), Stop> {
        self.events.send((self.id, event)).await.map_err(|_| Stop::Gone)
    }
}

/// What kind of body an answer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Events,
    Other,
}

/// The parts of an answer's head that matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub status: u16,
    pub session: Option<HeaderValue>,
    pub format: Format,
}

impl Head {
    /// # Errors
    /// `Garbage`, when the session id is not visible ASCII (2025-11-25, transports) or very long.
    pub(super) fn read(status: u16, headers: &HeaderMap) -> Result<Self, BackendFailure> {
        let session = headers.get(&SESSION).cloned();
        if let Some(session) = &session {
            let bytes = session.as_bytes();
            let is_visible = bytes.iter().all(|byte| (0x21..=0x7e).contains(byte));
            if bytes.is_empty() || bytes.len() > MAX_SESSION_BYTES || !is_visible {
                return Err(BackendFailure::Garbage);
            }
        }
        Ok(Self { status, session, format: format(headers) })
    }

    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    pub(super) fn event(&self) -> BackendEvent {
        // Checked above to be ASCII.
        let session = self.session.as_ref().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        BackendEvent::Head { status: self.status, session }
    }
}

fn format(headers: &HeaderMap) -> Format {
    // We ask for no coding, so a coded body is not for us.
    let is_coded =
        headers.get(CONTENT_ENCODING).is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"));
    let essence = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = essence.split(';').next().unwrap_or_default().trim();
    match essence {
        _ if is_coded => Format::Other,
        json if json.eq_ignore_ascii_case("application/json") => Format::Json,
        events if events.eq_ignore_ascii_case("text/event-stream") => Format::Events,
        _ => Format::Other,
    }
}

/// What an HTTP error means, whatever its body says. `None`: the body may tell more.
pub(super) fn failure_of_status(status: u16, has_session: bool) -> Option<BackendFailure> {
    match status {
        401 | 403 => Some(BackendFailure::Unauthorized),
        404 if has_session => Some(BackendFailure::SessionGone),
        _ => None,
    }
}

/// What an error in the middle of an answer means.
pub(super) fn failure_of(error: &hyper::Error) -> BackendFailure {
    // A chunked body that breaks the grammar is an I/O error of these kinds inside hyper's; a connection that ended is of
    // others.
    let io = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    let is_broken_body =
        io.is_some_and(|error| matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData));
    if error.is_parse() || is_broken_body { BackendFailure::Garbage } else { BackendFailure::Interrupted }
}

/// How messages of a backend are read: as everybody's, and an error may come without an id, because HTTP says which
/// request it answers.
pub(super) fn bounds(message_bytes: usize) -> Bounds {
    Bounds { bytes: message_bytes, error_without_id: true, ..Bounds::default() }
}

/// Reads a message that a backend sent.
pub(super) fn message(bytes: &Bytes, message_bytes: usize) -> Result<Envelope, BackendFailure> {
    Envelope::parse(bytes, &bounds(message_bytes)).map_err(|refused| {
        tracing::debug!(%refused, "a backend's message is not acceptable");
        BackendFailure::Garbage
    })
}

/// Whether `envelope` answers the request with this id.
pub(super) fn answers(envelope: &Envelope, request: &RawId) -> bool {
    match envelope.kind() {
        Kind::Response => envelope.id().as_ref() == Some(request),
        Kind::Error => envelope.id().is_none_or(|id| id == *request),
        Kind::Request | Kind::Notification => false,
    }
}

/// Reads a whole body of at most `limit` bytes.
pub(super) async fn whole(body: &mut Incoming, limit: usize) -> Result<Bytes, BackendFailure> {
    if usize::try_from(body.size_hint().lower()).map_or(true, |length| length > limit) {
        return Err(BackendFailure::TooLarge);
    }
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| failure_of(&error))?;
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + rest.len() + data.len() > limit {
            return Err(BackendFailure::TooLarge);
        }
        if first.is_empty() && rest.is_empty() {
            first = data;
            continue;
        }
        if !first.is_empty() {
            rest.extend_from_slice(&std::mem::take(&mut first));
        }
        rest.extend_from_slice(&data);
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

/// How a stream of events ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The answer to the request came.
    Answered,
    /// The stream ended or broke without it.
    Open {
        /// Whether something came that a resumption goes on from.
        progress: bool,
    },
}

/// What is known of a stream across its resumptions.
#[derive(Debug, Clone, Default)]
pub(super) struct Position {
    pub last_id: Option<String>,
    pub retry: Option<Duration>,
    /// The id of the last message that was handed on. Some servers (rmcp 3.9 is one) begin a resumed stream with the
    /// event that `Last-Event-ID` named, not with the one after it.
    last_message_id: Option<String>,
}

impl Position {
    /// Where a stream is that the core asks to resume; it has had the message with that id.
    pub(super) fn after(last_id: Option<String>) -> Self {
        Self { last_message_id: last_id.clone(), last_id, retry: None }
    }
}

/// Hands on the messages of an event stream, until `request` is answered or the stream ends.
pub(super) async fn relay(
    body: &mut Incoming,
    sink: &Sink,
    request: Option<&RawId>,
    message_bytes: usize,
    position: &mut Position,
) -> Result<Ended, Stop> {
    let mut parser = Parser::new(message_bytes);
    let mut progress = false;
    let mut repeated = position.last_message_id.take();
    while let Some(frame) = body.frame().await {
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) if failure_of(&error) == BackendFailure::Garbage => return Err(BackendFailure::Garbage.into()),
            Err(_) => break,
        };
        let Ok(data) = frame.into_data() else { continue };
        let mut input = &data[..];
        while let Some(event) = parser.next(&mut input).map_err(|_| BackendFailure::TooLarge)? {
            if repeated.take().is_some_and(|id| event.id.as_ref() == Some(&id)) {
                position.last_message_id = event.id;
                continue;
            }
            let envelope = message(&event.data, message_bytes)?;
            let answered = request.is_some_and(|request| answers(&envelope, request));
            progress = true;
            if event.id.is_some() {
                position.last_id.clone_from(&event.id);
                position.last_message_id.clone_from(&event.id);
            }
            sink.send(BackendEvent::Message { body: event.data, event_id: event.id }).await?;
            if answered {
                return Ok(Ended::Answered);
            }
        }
        if let Some(id) = parser.last_id()
            && position.last_id.as_deref() != Some(id)
        {
            progress = true;
            position.last_id = Some(id.to_owned());
            sink.send(BackendEvent::Position { event_id: id.to_owned() }).await?;
        }
        position.retry = parser.retry().or(position.retry);
    }
    if repeated.is_some() {
        position.last_message_id = repeated;
    }
    Ok(Ended::Open { progress })
}

/// Whether the call belongs to the modern era (2026-07-28 and newer: versions are dates, so they compare as text).
/// There a broken stream is lost; before, it may be resumed.
pub(super) fn is_modern(call: &BackendCall) -> bool {
    call.protocol_version.as_deref().is_some_and(|version| version >= "2026-07-28")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(fields: &[(&str, &str)]) -> Result<Head, BackendFailure> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let name = hyper::header::HeaderName::from_bytes(name.as_bytes()).expect("a name");
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).expect("a value"));
        }
        Head::read(200, &headers)
    }

    #[test]
    fn content_types() {
        for (value, wanted) in [
            ("application/json", Format::Json),
            ("Application/JSON; charset=utf-8", Format::Json),
            ("text/event-stream ;x=y", Format::Events),
            ("text/html", Format::Other),
            ("application/json-seq", Format::Other),
            ("", Format::Other),
            ("\u{e9}", Format::Other),
        ] {
            assert_eq!(head(&[("content-type", value)]).map(|head| head.format), Ok(wanted), "{value}");
        }
        assert_eq!(head(&[]).map(|head| head.format), Ok(Format::Other));
        let coded = [("content-type", "application/json"), ("content-encoding", "gzip")];
        assert_eq!(head(&coded).map(|head| head.format), Ok(Format::Other));
    }

    #[test]
    fn a_session_id_is_visible_ascii() {
        let event = |session: &str| head(&[("mcp-session-id", session)]).map(|head| head.event());
        let wanted = BackendEvent::Head { status: 200, session: Some("a-~1".into()) };
        assert_eq!(event("a-~1"), Ok(wanted));
        let long = "x".repeat(MAX_SESSION_BYTES + 1);
        for bad in ["", "a b", "a\tb", "\u{e9}", long.as_str()] {
            assert_eq!(event(bad), Err(BackendFailure::Garbage), "{bad:?}");
        }
    }

    #[test]
    fn what_answers_a_request() {
        let one = RawId::parse("1").expect("an id");
        let read = |text: &str| message(&Bytes::copy_from_slice(text.as_bytes()), 1000);
        for (text, wanted) in [
            (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, Ok(true)),
            (r#"{"jsonrpc":"2.0","id":"1","result":{}}"#, Ok(false)),
            (r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"x"}}"#, Ok(true)),
            (r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"x"}}"#, Ok(true)),
            (r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"x"}}"#, Ok(true)),
            (r#"{"jsonrpc":"2.0","id":2,"error":{"code":-32000,"message":"x"}}"#, Ok(false)),
            (r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, Ok(false)),
            (r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{}}"#, Ok(false)),
            (r#"[{"jsonrpc":"2.0","id":1,"result":{}}]"#, Err(BackendFailure::Garbage)),
            (r#"{"jsonrpc":"2.0","id":1,"result":{},"id":1}"#, Err(BackendFailure::Garbage)),
            (r#"{"jsonrpc":"2.0","id":1,"result":{}"#, Err(BackendFailure::Garbage)),
            ("ok", Err(BackendFailure::Garbage)),
        ] {
            assert_eq!(read(text).map(|envelope| answers(&envelope, &one)), wanted, "{text}");
        }
    }
}
