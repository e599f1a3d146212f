//! Stream connections: TCP and TLS, framed by Content-Length.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use sip_proto::framing::{Frame, FrameLimits, StreamFramer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::{LinkId, NetEvent, Outbox, Peer, Transport};

/// Messages that wait to be written.
const OUT_QUEUE: usize = 64;
/// A message larger than the default is an answer that we asked for.
const LIMITS: FrameLimits = FrameLimits { head: 65_536, body: 1_114_112 };

pub fn spawn<S>(peer: Peer, stream: S, unwritten: &Arc<AtomicUsize>, events: mpsc::Sender<NetEvent>) -> Outbox
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (out, mut waiting) = Outbox::new(OUT_QUEUE, unwritten);
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (pong, done) = (out.clone(), out.clone().unwritten);
    tokio::spawn(async move {
        while let Some(bytes) = waiting.recv().await {
            let written = tokio::time::timeout(Duration::from_secs(10), async {
                writer.write_all(&bytes).await?;
                writer.flush().await
            });
            let written = written.await;
            done.fetch_sub(1, Ordering::Relaxed);
            if !matches!(written, Ok(Ok(()))) {
                break;
            }
        }
        // What nobody will write any more is not waited for.
        waiting.close();
        while waiting.try_recv().is_ok() {
            done.fetch_sub(1, Ordering::Relaxed);
        }
        let _ = writer.shutdown().await;
    });
    tokio::spawn(async move {
        let mut framer = StreamFramer::new(LIMITS);
        let mut buffer = vec![0u8; 16_384];
        let reason = loop {
            match reader.read(&mut buffer).await {
                Ok(0) => break "closed by the other side".to_owned(),
                Ok(length) => framer.push(&buffer[..length]),
                Err(error) => break error.to_string(),
            }
            let mut fault = None;
            while let Some(frame) = framer.next() {
                let event = match frame {
                    Ok(Frame::Message(message)) => NetEvent::Message { peer, message },
                    Ok(Frame::KeepAlive(_)) => {
                        // RFC 5626 §4.4.1: a ping is answered with one CRLF; a full queue may skip it.
                        pong.try_send(Bytes::from_static(b"\r\n"));
                        continue;
                    }
                    Err(bad) => {
                        fault = Some(bad.refusal.reason.to_string());
                        break;
                    }
                };
                if events.send(event).await.is_err() {
                    return;
                }
            }
            if let Some(reason) = fault {
                let _ = events.send(NetEvent::Garbage { peer, reason: reason.clone() }).await;
                break reason;
            }
        };
        let _ = events.send(NetEvent::Closed { link: peer.link, reason }).await;
    });
    out
}

/// Accepts what comes to our own port: answers that were too large for UDP.
pub fn spawn_listener(listener: TcpListener, unwritten: &Arc<AtomicUsize>, events: mpsc::Sender<NetEvent>) {
    let unwritten = unwritten.clone();
    static NEXT: AtomicU64 = AtomicU64::new(2);
    tokio::spawn(async move {
        let Ok(local) = listener.local_addr() else { return };
        while let Ok((tcp, remote)) = listener.accept().await {
            let _ = tcp.set_nodelay(true);
            let link = LinkId(NEXT.fetch_add(2, Ordering::Relaxed));
            let peer = Peer { link, transport: Transport::Tcp, local, remote };
            let (ready, go) = tokio::sync::oneshot::channel::<()>();
            let inner = events.clone();
            // The link is announced before its first message.
            let (gate, mut gated) = mpsc::channel(16);
            let out = spawn(peer, tcp, &unwritten, gate);
            if events.send(NetEvent::Opened { peer, out }).await.is_err() {
                return;
            }
            let _ = ready.send(());
            tokio::spawn(async move {
                let _ = go.await;
                while let Some(event) = gated.recv().await {
                    if inner.send(event).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
}
