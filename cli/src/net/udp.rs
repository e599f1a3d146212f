//! The UDP socket: one datagram, one message.

use std::sync::Arc;

use bytes::Bytes;
use sip_proto::framing::{FrameLimits, datagram};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use super::{NetEvent, Peer};

pub fn spawn(peer: Peer, socket: Arc<UdpSocket>, events: mpsc::Sender<NetEvent>) {
    tokio::spawn(async move {
        let limits = FrameLimits::default();
        let mut buffer = vec![0u8; 65_536];
        loop {
            let (length, remote) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                // A port-unreachable of an earlier datagram shows up here; the transaction's timer decides.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => continue,
                Err(error) => {
                    let _ = events.send(NetEvent::Closed { link: peer.link, reason: error.to_string() }).await;
                    return;
                }
            };
            let peer = Peer { remote, ..peer };
            let event = match datagram(Bytes::copy_from_slice(&buffer[..length]), &limits) {
                Ok(Some(message)) => NetEvent::Message { peer, message },
                Ok(None) => continue,
                Err(refusal) => NetEvent::Garbage { peer, reason: refusal.reason.to_string() },
            };
            if events.send(event).await.is_err() {
                return;
            }
        }
    });
}
