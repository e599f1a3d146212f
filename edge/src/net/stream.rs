//! One stream connection from its first byte to its last: framing, limits before the first message, keep-alive, the bounded way out.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use edge_core::input::Flow;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use sip_proto::framing::{self, Frame, FrameLimits, Ping, StreamFramer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{sleep_until, timeout, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{self, Message as WsMessage, Utf8Bytes};

use super::io::{Io, read_chunk};
use super::outbox::{Item, MAX_AGE, Next, Outbox};
use crate::counters::Counters;
use crate::driver::ingress::Shards;

/// Time until the first whole message, and for every later one from its first byte to its last.
const MESSAGE_TIME: Duration = Duration::from_secs(10);
/// A connection that we opened and on which nothing came for so long is closed.
const OUTGOING_IDLE: Duration = Duration::from_secs(120);
/// For the peer to see our end and close its side.
const LINGER: Duration = Duration::from_secs(2);
/// The answer to a double CRLF (RFC 5626 §4.4.1).
const PONG: Bytes = Bytes::from_static(b"\r\n");

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The peer closed it, or the network did.
    Peer,
    /// We closed it after the last answer.
    Us,
    /// The peer does not read.
    SlowReader,
    /// No whole message in time.
    Silent,
}

/// What a connection works with.
pub struct Context<'a> {
    pub flow: &'a Arc<Flow>,
    pub outbox: &'a Outbox,
    pub shards: &'a Shards,
    pub limits: FrameLimits,
    pub counters: &'a Counters,
    /// We connected: the peer has nothing to prove first, but silence ends the connection.
    pub opened_by_us: bool,
}

/// Serves a plain or TLS connection until it ends.
pub async fn serve(io: Io, context: &Context<'_>) -> Ended {
    let (mut reader, mut writer) = tokio::io::split(io);
    let read = receive(&mut reader, context);
    let write = transmit(&mut writer, context.outbox);
    both(read, write, context).await
}

/// Serves a WebSocket connection until it ends (RFC 7118: one SIP message per WebSocket message).
pub async fn serve_websocket(socket: WebSocketStream<Io>, context: &Context<'_>) -> Ended {
    let (mut sink, mut stream) = socket.split();
    let read = receive_websocket(&mut stream, context);
    let write = transmit_websocket(&mut sink, context.outbox);
    both(read, write, context).await
}

/// Runs both directions until one ends. When the peer ended, what is queued still gets its time. When we ended, what the peer still
/// sends is read and dropped for a moment: closing with unread octets resets the connection, and the last answer could be lost.
async fn both(read: impl Future<Output = Ended>, write: impl Future<Output = Ended>, context: &Context<'_>) -> Ended {
    tokio::pin!(read, write);
    let ended = tokio::select! {
        ended = &mut write => {
            if ended == Ended::Us {
                let _ = timeout(LINGER, read).await;
            }
            return ended;
        }
        ended = &mut read => ended,
    };
    if ended == Ended::Silent {
        context.counters.pre_auth.one();
        return ended;
    }
    context.outbox.finish();
    // The writer ends by itself: each item has its deadline.
    write.await;
    ended
}

async fn receive<R: AsyncRead + Unpin>(io: &mut R, context: &Context<'_>) -> Ended {
    let mut framer = StreamFramer::new(context.limits);
    // Whether a first whole message came.
    let mut greeted = context.opened_by_us;
    let mut since = Instant::now();
    loop {
        let pending = framer.is_in_message();
        let chunk = read_chunk(io, |bytes| framer.push(bytes));
        let read = if pending || !greeted {
            match timeout_at((since + MESSAGE_TIME).into(), chunk).await {
                Ok(read) => read,
                Err(_) => return Ended::Silent,
            }
        } else if context.opened_by_us {
            match timeout(OUTGOING_IDLE, chunk).await {
                Ok(read) => read,
                Err(_) => return Ended::Us,
            }
        } else {
            chunk.await
        };
        match read {
            Ok(0) | Err(_) => return Ended::Peer,
            Ok(_) if !context.outbox.is_open() => return after_fault(io).await,
            Ok(_) if greeted && !pending => since = Instant::now(),
            Ok(_) => {}
        }
        loop {
            match framer.next() {
                Some(Ok(Frame::Message(message))) => {
                    greeted = true;
                    since = Instant::now();
                    if let Some(unavailable) = context.shards.deliver(context.flow, message).await {
                        let _ = context.outbox.push(unavailable, None);
                    }
                }
                Some(Ok(Frame::KeepAlive(Ping::Ping))) => {
                    let _ = context.outbox.push(PONG, None);
                }
                Some(Ok(Frame::KeepAlive(Ping::Pong))) => {}
                Some(Err(fault)) => {
                    let close = fault.refusal.close;
                    context.shards.deliver_fault(context.flow, fault.refusal).await;
                    if close {
                        return after_fault(io).await;
                    }
                    // The message was bad, its end is known: the next one can be read, and has its time.
                    since = Instant::now();
                }
                None => break,
            }
        }
    }
}

/// After a fault that leaves the rest without meaning, and after our own end: what comes is dropped. The core answers and closes; if it
/// does not, we do.
async fn after_fault<R: AsyncRead + Unpin>(io: &mut R) -> Ended {
    let drop_all = async { while matches!(read_chunk(io, |_| {}).await, Ok(octets) if octets > 0) {} };
    match timeout(MESSAGE_TIME, drop_all).await {
        Ok(()) => Ended::Peer,
        Err(_) => Ended::Us,
    }
}

async fn transmit<W: AsyncWrite + Unpin>(io: &mut W, outbox: &Outbox) -> Ended {
    loop {
        match outbox.next() {
            Next::Write(item) => {
                let write = async {
                    io.write_all(&item.bytes).await?;
                    io.flush().await
                };
                match within(write, &item, outbox).await {
                    Written::Done => outbox.written(&item),
                    Written::Failed => return Ended::Peer,
                    Written::Late => return Ended::SlowReader,
                }
            }
            Next::Finished => {
                let _ = timeout(MAX_AGE, io.shutdown()).await;
                return Ended::Us;
            }
            Next::Overflowed => return Ended::SlowReader,
            Next::Idle => outbox.changed().await,
        }
    }
}

enum Written {
    Done,
    Failed,
    Late,
}

/// Writes one item within its time, and no longer than the queue stays within its bounds.
async fn within<E>(write: impl Future<Output = Result<(), E>>, item: &Item, outbox: &Outbox) -> Written {
    tokio::pin!(write);
    let late = sleep_until(item.deadline().into());
    tokio::pin!(late);
    loop {
        tokio::select! {
            result = &mut write => return if result.is_ok() { Written::Done } else { Written::Failed },
            () = &mut late => return Written::Late,
            () = outbox.changed() => {
                if outbox.overflowed() {
                    return Written::Late;
                }
            }
        }
    }
}

async fn receive_websocket(stream: &mut SplitStream<WebSocketStream<Io>>, context: &Context<'_>) -> Ended {
    let mut first_by = Some(Instant::now() + MESSAGE_TIME);
    loop {
        let next = match first_by {
            Some(deadline) => match timeout_at(deadline.into(), stream.next()).await {
                Ok(next) => next,
                Err(_) => return Ended::Silent,
            },
            None => stream.next().await,
        };
        let bytes = match next {
            Some(Ok(WsMessage::Text(text))) => Bytes::from(text),
            Some(Ok(WsMessage::Binary(bytes))) => bytes,
            // Answered by the library.
            Some(Ok(WsMessage::Ping(_) | WsMessage::Pong(_) | WsMessage::Frame(_))) => continue,
            Some(Ok(WsMessage::Close(_)) | Err(_)) | None => return Ended::Peer,
        };
        if !context.outbox.is_open() {
            continue;
        }
        match framing::datagram(bytes, &context.limits) {
            Ok(Some(message)) => {
                first_by = None;
                if let Some(unavailable) = context.shards.deliver(context.flow, message).await {
                    let _ = context.outbox.push(unavailable, None);
                }
            }
            Ok(None) => {
                let _ = context.outbox.push(PONG, None);
            }
            // The WebSocket frame says where the next message begins.
            Err(refusal) => context.shards.deliver_fault(context.flow, refusal).await,
        }
    }
}

async fn transmit_websocket(sink: &mut SplitSink<WebSocketStream<Io>, WsMessage>, outbox: &Outbox) -> Ended {
    loop {
        match outbox.next() {
            Next::Write(item) => match within(sink.send(websocket_message(item.bytes.clone())), &item, outbox).await {
                Written::Done => outbox.written(&item),
                Written::Failed => return Ended::Peer,
                Written::Late => return Ended::SlowReader,
            },
            Next::Finished => {
                let _ = timeout(MAX_AGE, sink.close()).await;
                return Ended::Us;
            }
            Next::Overflowed => return Ended::SlowReader,
            Next::Idle => outbox.changed().await,
        }
    }
}

/// A message that is UTF-8 travels as text, another one as binary (RFC 7118 §5).
fn websocket_message(bytes: Bytes) -> WsMessage {
    match Utf8Bytes::try_from(bytes.clone()) {
        Ok(text) => WsMessage::Text(text),
        Err(_) => WsMessage::Binary(bytes),
    }
}

/// Limits of a WebSocket: small buffers for idle flows, one SIP message at most.
#[must_use]
pub fn websocket_config(limits: FrameLimits) -> tungstenite::protocol::WebSocketConfig {
    let message = limits.head + limits.body;
    tungstenite::protocol::WebSocketConfig::default()
        .read_buffer_size(4096)
        .write_buffer_size(4096)
        .max_write_buffer_size(super::outbox::MAX_BYTES + 8192)
        .max_message_size(Some(message))
        .max_frame_size(Some(message))
}
