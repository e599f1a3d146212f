//! The legacy server's own stream (HTTP GET): what comes on it belongs to the session, not to a request.

use bytes::Bytes;
use mcp_sip::exchange::{Belongs, Exchange as Named, Rejected};
use mcp_sip::jsonrpc::{Bounds, Envelope, Kind};
use session_store::key::SessionKey;

use super::Engine;
use super::deliver::Writes;
use super::pending::{Call, Purpose};
use super::session::{MAX_NOTES, Phase, Stream};
use super::timers::Timer;
use super::types::{Ctx, EngineOut};
use crate::effect::{BackendAction, BackendCall};
use crate::input::{BackendEvent, BackendFailure};

/// The caller's `notifications/initialized` waits no longer than this for the stream; milliseconds.
const OPEN_MS: u64 = 3_000;
/// A stream that broke is asked for again after so long, once the shell's own attempts are over; milliseconds.
const AGAIN_MS: u64 = 30_000;
/// Without a lease it is looked at again so soon; milliseconds.
pub(super) const LEASE_MS: u64 = 500;

impl Engine {
    /// Opens the stream; what waits for it goes on with its head.
    pub(super) fn open_stream(&mut self, ctx: &mut Ctx<'_>, key: SessionKey) {
        let Some(legacy) = self.sessions.get_mut(&key).and_then(|session| session.legacy.as_mut()) else { return };
        match legacy.stream {
            Stream::Closed => {}
            Stream::Opening(_) => return,
            Stream::Open(_) | Stream::Unsupported => return self.announce(ctx, key),
        }
        if !ctx.has_lease() {
            return self.timers.set(Timer::Stream(key), ctx.now.mono.plus_millis(LEASE_MS));
        }
        let id = ctx.ids.backend();
        legacy.stream = Stream::Opening(id);
        let call = BackendCall {
            agent: legacy.record.agent.clone(),
            action: BackendAction::Listen { last_event_id: legacy.last_event_id.clone() },
            session: legacy.record.backend_session.clone(),
            protocol_version: legacy.record.version.clone(),
            headers: Vec::new(),
            traceparent: None,
            timeout_ms: 0,
        };
        self.timers.set(Timer::Stream(key), ctx.now.mono.plus_millis(OPEN_MS));
        self.calls.insert(id, Call::Stream(key));
        self.out.push_back(EngineOut::Backend { id, call });
    }

    pub(super) fn stream_event(&mut self, ctx: &mut Ctx<'_>, key: SessionKey, event: BackendEvent) {
        let Some(legacy) = self.sessions.get_mut(&key).and_then(|session| session.legacy.as_mut()) else { return };
        match event {
            BackendEvent::Head { status, .. } => {
                legacy.stream = match legacy.stream {
                    Stream::Opening(call) if (200..300).contains(&status) => Stream::Open(call),
                    Stream::Opening(_) => Stream::Unsupported,
                    other => other,
                };
                self.timers.clear(Timer::Stream(key));
                self.announce(ctx, key);
            }
            BackendEvent::Message { body, event_id } => {
                legacy.last_event_id = event_id.or(legacy.last_event_id.take());
                self.session_message(ctx, key, &body);
            }
            BackendEvent::Position { event_id } => legacy.last_event_id = Some(event_id),
            BackendEvent::Failed(BackendFailure::SessionGone) => self.lose(ctx, key),
            BackendEvent::Done | BackendEvent::Failed(_) => {
                // 409: another edge has the one stream that the server gives to a session; it may end.
                let is_lasting = matches!(
                    event,
                    BackendEvent::Failed(
                        BackendFailure::Garbage
                        | BackendFailure::Unauthorized
                        | BackendFailure::Status(400..=408 | 410..=499),
                    )
                );
                if legacy.stream != Stream::Unsupported {
                    legacy.stream = if is_lasting { Stream::Unsupported } else { Stream::Closed };
                }
                let again = legacy.stream == Stream::Closed;
                self.announce(ctx, key);
                if again {
                    self.timers.set(Timer::Stream(key), ctx.now.mono.plus_millis(AGAIN_MS));
                }
            }
        }
    }

    pub(super) fn stream_alarm(&mut self, ctx: &mut Ctx<'_>, key: SessionKey) {
        let Some(legacy) = self.sessions.get(&key).and_then(|session| session.legacy.as_ref()) else { return };
        match (&legacy.phase, legacy.stream) {
            (Phase::Opening { .. }, Stream::Opening(_) | Stream::Open(_) | Stream::Unsupported) => {
                self.announce(ctx, key);
            }
            (_, Stream::Closed) => self.open_stream(ctx, key),
            (_, Stream::Opening(_) | Stream::Open(_) | Stream::Unsupported) => {}
        }
    }

    /// A message of the server that belongs to no request of the caller.
    pub(super) fn session_message(&mut self, ctx: &mut Ctx<'_>, key: SessionKey, body: &Bytes) {
        let bounds = Bounds { bytes: ctx.config.edge.limits.message_bytes, ..Bounds::default() };
        let Ok(envelope) = Envelope::parse(body, &bounds) else {
            self.stats.dropped += 1;
            return;
        };
        let envelope = self.downstream_of_session(key, envelope);
        // Some servers send progress of a request here: its token says which.
        match self.admit_server(ctx, key, None, &envelope) {
            Ok(Belongs::Within(Named::Id(slot))) => {
                let no = self.sessions.get(&key).and_then(|session| session.open.get(&slot)).copied();
                if let Some(no) = no {
                    self.note(ctx, no, &envelope);
                }
            }
            Ok(Belongs::Within(Named::Session)) if envelope.kind() == Kind::Request => {
                self.ask(ctx, key, None, &envelope);
            }
            Ok(Belongs::Within(Named::Session)) => self.session_note(ctx, key, &envelope),
            Ok(Belongs::CancelledNested(_)) => self.withdrawn(ctx, key, &envelope),
            // The answer to an open request: its own stream broke, and this is where the server sends it.
            Ok(Belongs::Answered(slot)) => {
                let no = self.sessions.get(&key).and_then(|session| session.open.get(&slot)).copied();
                if let Some(no) = no {
                    self.answered(ctx, no, envelope);
                }
            }
            Err(Rejected::Refuse(error)) => self.refuse_server(ctx, key, &envelope, &error),
            Ok(Belongs::Opened(_) | Belongs::Repeated(_) | Belongs::Cancelled(_)) | Err(Rejected::Drop(_)) => {
                self.stats.unmatched += 1;
            }
        }
    }

    fn session_note(&mut self, ctx: &mut Ctx<'_>, key: SessionKey, envelope: &Envelope) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        if session.notes >= MAX_NOTES {
            self.stats.dropped += 1;
            return;
        }
        session.notes += 1;
        let (leg, header) = (session.leg.clone(), session.session_header());
        let purpose = Purpose::Note { session: key, exchange: None };
        self.deliver(ctx, leg, header, envelope.bytes().clone(), Writes::default(), purpose);
    }
}
