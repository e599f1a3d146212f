//! Connections that we open: answers whose connection is gone, and what is too large for UDP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use edge_core::input::{Flow, FlowKey, Transport};
use tokio::net::TcpSocket;
use tokio::time::timeout;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsConnector, TlsStream};

use super::Net;
use super::connection::{Place, Target};
use super::io::Io;
use super::listener::{Ready, Socket, run, set_options};
use super::outbox::{Outbox, Refused, Tag};

/// To connect and shake hands. Below the 32 s of a transaction, so that the next target still gets its turn (RFC 3263 §4.3).
const CONNECT_TIME: Duration = Duration::from_secs(4);

pub(super) fn send_to(
    net: &Arc<Net>,
    transport: Transport,
    listener: u16,
    remote: SocketAddr,
    server_name: Option<String>,
    bytes: Bytes,
    tag: Tag,
) -> Result<(), Refused> {
    let target = Target { transport, remote, server_name };
    let (outbox, opened) = net.connections.toward(&target);
    if !opened {
        return outbox.push(bytes, Some(tag));
    }
    let pushed = outbox.push(bytes, Some(tag));
    let Some(place) = net.connections.admit(remote.ip()).filter(|_| pushed.is_ok()) else {
        net.counters.outgoing.one();
        net.connections.forget(Some(&target), &outbox);
        outbox.close();
        return Err(Refused::Closed);
    };
    net.runtime.spawn(connect(net.clone(), target, listener, outbox, place));
    Ok(())
}

async fn connect(net: Arc<Net>, target: Target, listener: u16, outbox: Arc<Outbox>, mut place: Place) {
    match timeout(CONNECT_TIME, establish(&net, &target, listener)).await {
        Ok(Ok((io, local))) => {
            place.handshake_done();
            let flow = Arc::new(Flow {
                key: FlowKey::Stream(net.connections.id()),
                transport: target.transport,
                listener,
                local,
                remote: target.remote,
                // The peer was the server; its certificate says whom we reached, not who asks us for something.
                certificate: None,
            });
            let socket = Socket::Bytes(io);
            let ready = Ready { flow, outbox, chain: Vec::new(), socket, target: Some(target), opened_by_us: true };
            run(&net, ready).await;
            return;
        }
        Ok(Err(reason)) => tracing::debug!(remote = %target.remote, reason, "a connection could not be opened"),
        Err(_) => tracing::debug!(remote = %target.remote, "a connection could not be opened in time"),
    }
    net.connections.forget(Some(&target), &outbox);
    net.send_failed(outbox.close()).await;
}

async fn establish(net: &Net, target: &Target, listener: u16) -> Result<(Io, SocketAddr), String> {
    let slot = net.slot(listener);
    let text = |error: std::io::Error| error.to_string();
    let socket = if target.remote.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(text)?;
    // From the address that the listener stands for, with a port of the system's choice.
    if let Some(local) = slot.as_ref().map(|slot| slot.bound().ip())
        && local.is_ipv4() == target.remote.is_ipv4()
        && !local.is_unspecified()
    {
        socket.bind(SocketAddr::new(local, 0)).map_err(text)?;
    }
    let tcp = socket.connect(target.remote).await.map_err(text)?;
    set_options(&tcp);
    let local = tcp.local_addr().map_err(text)?;
    match target.transport {
        Transport::Tcp => Ok((Io::Plain(tcp), local)),
        Transport::Tls => {
            let name = target.server_name.clone().ok_or("no name to check the server's certificate against")?;
            let name = ServerName::try_from(name).map_err(|_| "the server's name is no DNS name")?;
            let config = net.client_tls(slot.as_deref()).ok_or("no listener of this edge has TLS")?;
            let tls = TlsConnector::from(config).connect(name, tcp).await.map_err(text)?;
            Ok((Io::Tls(Box::new(TlsStream::Client(tls))), local))
        }
        // RFC 7118 §5: a WebSocket client is reached over its own connection only.
        Transport::Ws | Transport::Wss => Err("a WebSocket peer cannot be connected to".to_owned()),
        Transport::Udp => Err("UDP has no connections".to_owned()),
    }
}
