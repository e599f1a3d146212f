//! One OPTIONS by UDP or TCP, and where the edge saw it come from.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use sip_proto::framing::{FrameLimits, datagram};
use sip_proto::message::build::Request;
use sip_proto::message::{HeaderId, Message, Transportation};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::Fallible;
use crate::harness::token;

/// Between two copies of a datagram.
const AGAIN: Duration = Duration::from_millis(500);
const COPIES: usize = 8;

/// What an edge says to an OPTIONS.
#[derive(Debug)]
pub struct Seen {
    pub response: Message,
    /// Our address on this machine.
    pub ours: IpAddr,
    /// Our address as the edge saw it (RFC 3261 §18.2.1).
    pub received: Option<IpAddr>,
}

/// The host in Via is nobody's, so the edge has to say where it came from.
fn options(transport: &str, domain: &str) -> Bytes {
    let uri = format!("sip:{domain}");
    Request::new("OPTIONS", &uri)
        .via(format!("SIP/2.0/{transport} e2e.invalid;branch=z9hG4bK{};rport", token(24)))
        .header(HeaderId::MaxForwards, "70")
        .header(HeaderId::From, format!("<sip:e2e@{domain}>;tag={}", token(16)))
        .header(HeaderId::To, format!("<{uri}>"))
        .header(HeaderId::CallId, token(24))
        .header(HeaderId::CSeq, "1 OPTIONS")
        .build()
}

fn seen(response: Message, ours: IpAddr) -> Seen {
    let via =
        response.headers(HeaderId::Via).next().map(|via| String::from_utf8_lossy(via).into_owned()).unwrap_or_default();
    let received = via.split(';').find_map(|part| part.trim().strip_prefix("received=").map(str::to_owned));
    let received = received.and_then(|text| text.trim_matches(['[', ']']).parse().ok());
    Seen { response, ours, received }
}

/// # Errors
/// Nobody answers.
pub async fn udp(remote: SocketAddr, domain: &str) -> Fallible<Seen> {
    let socket = UdpSocket::bind(("0.0.0.0", 0)).await.map_err(|error| error.to_string())?;
    socket.connect(remote).await.map_err(|error| format!("{remote}: {error}"))?;
    let ours = socket.local_addr().map_err(|error| error.to_string())?.ip();
    let request = options("UDP", domain);
    let mut buffer = vec![0; 65_535];
    for _ in 0..COPIES {
        // A port that nobody listens on shows up here; the next copy decides.
        let _ = socket.send(&request).await;
        if let Ok(Ok(length)) = timeout(AGAIN, socket.recv(&mut buffer)).await
            && let Ok(Some(message)) = datagram(Bytes::copy_from_slice(&buffer[..length]), &FrameLimits::default())
            && !message.is_request()
        {
            return Ok(seen(message, ours));
        }
    }
    Err(format!("{remote} does not answer by UDP"))
}

/// # Errors
/// Nobody answers.
pub async fn tcp(remote: SocketAddr, domain: &str) -> Fallible<Seen> {
    let exchange = async {
        let mut stream = TcpStream::connect(remote).await.map_err(|error| error.to_string())?;
        let ours = stream.local_addr().map_err(|error| error.to_string())?.ip();
        stream.write_all(&options("TCP", domain)).await.map_err(|error| error.to_string())?;
        let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
        while !text.windows(4).any(|end| end == b"\r\n\r\n") {
            match stream.read(&mut buffer).await.map_err(|error| error.to_string())? {
                0 => return Err("the connection ended".to_owned()),
                length => text.extend_from_slice(&buffer[..length]),
            }
        }
        let message = Message::parse(Bytes::from(text), Transportation::Datagram);
        Ok(seen(message.map_err(|refusal| format!("no SIP: {refusal:?}"))?, ours))
    };
    let ended = timeout(AGAIN * 8, exchange).await;
    ended.map_err(|_| format!("{remote} does not answer by TCP"))?.map_err(|why| format!("{remote}: {why}"))
}
