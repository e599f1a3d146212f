//! How SIP bytes leave and come: a UDP socket (with a TCP listener beside it), or one TLS or WebSocket connection.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use sip_proto::framing::{Frame, FrameLimits, StreamFramer, datagram};
use sip_proto::message::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Message as WsFrame, Utf8Bytes};

use super::Transport;
use crate::Fallible;
use crate::manifests::DOMAIN;

/// Messages that wait to be written, and events that wait for the agent.
pub const QUEUE: usize = 512;
const CONNECT: Duration = Duration::from_secs(3);
const LIMITS: FrameLimits = FrameLimits { head: 65_536, body: 1_114_112 };

/// Where an answer to a message goes.
#[derive(Clone, Debug)]
pub enum Back {
    /// A datagram to where it came from.
    Udp(SocketAddr),
    /// The connection that it came on.
    Stream(mpsc::Sender<Bytes>),
}

/// What the network says.
#[derive(Debug)]
pub enum Event {
    Message {
        back: Back,
        message: Box<Message>,
    },
    /// The connection with this number is gone.
    Closed(u64),
}

/// An open connection.
#[derive(Clone, Debug)]
pub struct Link {
    /// Rises with every connection of one agent.
    pub number: u64,
    /// Which edge it leads to.
    pub edge: usize,
    pub local: SocketAddr,
    pub out: mpsc::Sender<Bytes>,
    /// Ends its tasks.
    close: Arc<tokio::sync::Notify>,
}

impl Link {
    pub fn close(&self) {
        self.close.notify_one();
    }
}

/// A UDP socket and, on the same port, what is too large for a datagram (RFC 3261 §18.1.1).
pub async fn udp(ip: IpAddr, events: mpsc::Sender<Event>) -> Fallible<(Arc<UdpSocket>, [AbortHandle; 2])> {
    let mut last = String::new();
    for _ in 0..16 {
        let socket = UdpSocket::bind((ip, 0)).await.map_err(|error| error.to_string())?;
        let local = socket.local_addr().map_err(|error| error.to_string())?;
        match TcpListener::bind(local).await {
            Ok(listener) => {
                let socket = Arc::new(socket);
                let tasks = [
                    tokio::spawn(datagrams(socket.clone(), events.clone())).abort_handle(),
                    tokio::spawn(accept(listener, events)).abort_handle(),
                ];
                return Ok((socket, tasks));
            }
            Err(error) => last = error.to_string(),
        }
    }
    Err(format!("no port is free for UDP and TCP together: {last}"))
}

async fn datagrams(socket: Arc<UdpSocket>, events: mpsc::Sender<Event>) {
    let mut buffer = vec![0; 65_536];
    loop {
        // A port that nobody listens on any more shows up here; the retransmission decides.
        let Ok((length, remote)) = socket.recv_from(&mut buffer).await else { continue };
        if let Ok(Some(message)) = datagram(Bytes::copy_from_slice(&buffer[..length]), &LIMITS)
            && events.send(Event::Message { back: Back::Udp(remote), message: Box::new(message) }).await.is_err()
        {
            return;
        }
    }
}

async fn accept(listener: TcpListener, events: mpsc::Sender<Event>) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let (out, waiting) = mpsc::channel(QUEUE);
        // Number 0 belongs to no link: its end means nothing.
        let close = Arc::default();
        tokio::spawn(stream_task(stream, 0, out, waiting, events.clone(), close));
    }
}

/// A TLS or WSS connection to one edge.
pub async fn connect(
    transport: Transport,
    number: u64,
    edge: usize,
    remote: SocketAddr,
    from: IpAddr,
    tls: Arc<ClientConfig>,
    events: mpsc::Sender<Event>,
) -> Fallible<Link> {
    let open = async {
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        let tcp: TcpStream = socket.connect(remote).await?;
        tcp.set_nodelay(true)?;
        let local = tcp.local_addr()?;
        let name = ServerName::try_from(DOMAIN).map_err(std::io::Error::other)?;
        let stream = TlsConnector::from(tls).connect(name, tcp).await?;
        let (out, waiting) = mpsc::channel(QUEUE);
        let close: Arc<tokio::sync::Notify> = Arc::default();
        let link = Link { number, edge, local, out: out.clone(), close: close.clone() };
        if transport == Transport::Wss {
            let url = format!("wss://{DOMAIN}:{}/", remote.port());
            let mut request = url.into_client_request().map_err(std::io::Error::other)?;
            request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("sip"));
            let (socket, _) = tokio_tungstenite::client_async(request, stream).await.map_err(std::io::Error::other)?;
            tokio::spawn(ws_task(socket, number, out, waiting, events, close));
        } else {
            tokio::spawn(stream_task(stream, number, out, waiting, events, close));
        }
        Ok::<_, std::io::Error>(link)
    };
    match tokio::time::timeout(CONNECT, open).await {
        Ok(Ok(link)) => Ok(link),
        Ok(Err(error)) => Err(format!("{remote}: {error}")),
        Err(_) => Err(format!("{remote}: no connection within {CONNECT:?}")),
    }
}

async fn stream_task<S>(
    stream: S,
    number: u64,
    out: mpsc::Sender<Bytes>,
    mut waiting: mpsc::Receiver<Bytes>,
    events: mpsc::Sender<Event>,
    close: Arc<tokio::sync::Notify>,
) where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (mut reader, mut writer) = tokio::io::split(stream);
    let back = out.clone();
    let read = async {
        let mut framer = StreamFramer::new(LIMITS);
        let mut buffer = vec![0; 16_384];
        while let Ok(length @ 1..) = reader.read(&mut buffer).await {
            framer.push(&buffer[..length]);
            while let Some(frame) = framer.next() {
                match frame {
                    Ok(Frame::Message(message)) => {
                        let event = Event::Message { back: Back::Stream(back.clone()), message: Box::new(message) };
                        if events.send(event).await.is_err() {
                            return;
                        }
                    }
                    // RFC 5626 §4.4.1: a ping is answered with one CRLF; a full queue may skip it.
                    Ok(Frame::KeepAlive(_)) => {
                        let _ = back.try_send(Bytes::from_static(b"\r\n"));
                    }
                    Err(_) => return,
                }
            }
        }
    };
    let write = async {
        while let Some(bytes) = waiting.recv().await {
            if writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = read => {}
        () = write => {}
        () = close.notified() => {}
    }
    if number != 0 {
        let _ = events.send(Event::Closed(number)).await;
    }
}

async fn ws_task<S>(
    socket: tokio_tungstenite::WebSocketStream<S>,
    number: u64,
    out: mpsc::Sender<Bytes>,
    mut waiting: mpsc::Receiver<Bytes>,
    events: mpsc::Sender<Event>,
    close: Arc<tokio::sync::Notify>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sink, mut source) = socket.split();
    let read = async {
        while let Some(Ok(frame)) = source.next().await {
            let bytes = match frame {
                WsFrame::Text(text) => Bytes::from(text),
                WsFrame::Binary(bytes) => bytes,
                WsFrame::Close(_) => return,
                _ => continue,
            };
            if let Ok(Some(message)) = datagram(bytes, &LIMITS) {
                let event = Event::Message { back: Back::Stream(out.clone()), message: Box::new(message) };
                if events.send(event).await.is_err() {
                    return;
                }
            }
        }
    };
    let write = async {
        while let Some(bytes) = waiting.recv().await {
            let frame = match Utf8Bytes::try_from(bytes.clone()) {
                Ok(text) => WsFrame::Text(text),
                Err(_) => WsFrame::Binary(bytes),
            };
            if sink.send(frame).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = read => {}
        () = write => {}
        () = close.notified() => {}
    }
    let _ = events.send(Event::Closed(number)).await;
}
