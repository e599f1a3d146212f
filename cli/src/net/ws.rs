//! SIP over WebSocket (RFC 7118): one message per WebSocket message, subprotocol `sip`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use sip_proto::framing::{FrameLimits, datagram};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message as Frame};

use super::{NetEvent, Outbox, Peer};

const LIMITS: FrameLimits = FrameLimits { head: 65_536, body: 1_114_112 };

pub async fn spawn<S>(
    peer: Peer,
    stream: S,
    host: &str,
    secure: bool,
    unwritten: &Arc<AtomicUsize>,
    events: mpsc::Sender<NetEvent>,
) -> io::Result<Outbox>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let url = format!("{}://{host}:{}/", if secure { "wss" } else { "ws" }, peer.remote.port());
    let bad = |e: tungstenite::Error| io::Error::other(format!("WebSocket: {e}"));
    let mut request = url.into_client_request().map_err(bad)?;
    request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("sip"));
    let mut config = WebSocketConfig::default();
    config.read_buffer_size = 4096;
    config.write_buffer_size = 4096;
    config.max_write_buffer_size = 2 << 20;
    config.max_message_size = Some(LIMITS.head + LIMITS.body);
    config.max_frame_size = Some(LIMITS.head + LIMITS.body);
    let (socket, _) = tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await.map_err(bad)?;
    let (mut sink, mut source) = socket.split();
    let (out, mut waiting) = Outbox::new(64, unwritten);
    let done = out.unwritten.clone();
    tokio::spawn(async move {
        while let Some(bytes) = waiting.recv().await {
            // Text where it is text, as browsers send it.
            let frame = match tungstenite::Utf8Bytes::try_from(bytes.clone()) {
                Ok(text) => Frame::Text(text),
                Err(_) => Frame::Binary(bytes),
            };
            let sent = sink.send(frame).await;
            done.fetch_sub(1, Ordering::Relaxed);
            if sent.is_err() {
                break;
            }
        }
        waiting.close();
        while waiting.try_recv().is_ok() {
            done.fetch_sub(1, Ordering::Relaxed);
        }
        let _ = sink.close().await;
    });
    tokio::spawn(async move {
        let reason = loop {
            let bytes = match source.next().await {
                Some(Ok(Frame::Text(text))) => Bytes::from(text),
                Some(Ok(Frame::Binary(bytes))) => bytes,
                Some(Ok(Frame::Close(_))) | None => break "closed by the other side".to_owned(),
                Some(Ok(_)) => continue,
                Some(Err(error)) => break error.to_string(),
            };
            let event = match datagram(bytes, &LIMITS) {
                Ok(Some(message)) => NetEvent::Message { peer, message },
                Ok(None) => continue,
                Err(refusal) => NetEvent::Garbage { peer, reason: refusal.reason.to_string() },
            };
            if events.send(event).await.is_err() {
                return;
            }
        };
        let _ = events.send(NetEvent::Closed { link: peer.link, reason }).await;
    });
    Ok(out)
}
