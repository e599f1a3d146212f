//! The core's messages as the contract writes them. What comes in is checked: a peer of another version may say what we do not know.

use edge_api::mesh as wire;
use edge_api::mesh::envelope::Message as Content;
use edge_core::input::{ConnId, Transport};
use edge_core::mesh::{Arrival, MeshMessage};
use mcp_sip::exchange::McpExchange;
use session_store::key::{DialogKey, ExchangeKey, GuardKey, SLOTS, SessionKey};
use session_store::record::Owner;

/// Longest Call-ID that is taken.
const MAX_CALL_ID: usize = 1024;

/// The metric's label.
pub fn kind(message: &MeshMessage) -> &'static str {
    match message {
        MeshMessage::Send { .. } => "send",
        MeshMessage::SendFailed { .. } => "send_failed",
        MeshMessage::Relay { .. } => "relay",
        MeshMessage::Cancelled { .. } => "cancelled",
        MeshMessage::Ended { .. } => "ended",
        MeshMessage::Holds { .. } => "holds",
        MeshMessage::Held { .. } => "held",
        MeshMessage::TakenBack { .. } => "taken_back",
    }
}

/// How long it is, without the contract's few octets around it.
pub fn octets(message: &MeshMessage) -> usize {
    let octets = match message {
        MeshMessage::Send { bytes, .. } | MeshMessage::Relay { bytes, .. } => bytes.len(),
        MeshMessage::TakenBack { body, .. } => body.len(),
        MeshMessage::SendFailed { .. }
        | MeshMessage::Cancelled { .. }
        | MeshMessage::Ended { .. }
        | MeshMessage::Holds { .. }
        | MeshMessage::Held { .. } => 0,
    };
    octets + message.call_id().len()
}

pub fn write(number: u64, message: MeshMessage) -> wire::Envelope {
    let (call_id, content) = match message {
        MeshMessage::Send { boot, conn, bytes, tag, call_id } => {
            (call_id, Content::Send(wire::Send { boot, connection: conn.0, octets: bytes, tag }))
        }
        MeshMessage::SendFailed { tag, call_id } => (call_id, Content::SendFailed(wire::SendFailed { tag })),
        MeshMessage::Relay { arrival, bytes, tag: _, call_id } => {
            let arrival = wire::Arrival {
                transport: transport(arrival.transport).into(),
                listener: arrival.listener.into(),
                local: arrival.local.to_string(),
                remote: arrival.remote.to_string(),
            };
            (call_id, Content::Relay(wire::Relay { arrival: Some(arrival), octets: bytes }))
        }
        MeshMessage::Cancelled { guard, tag: _, call_id } => {
            (call_id, Content::Cancelled(wire::Cancelled { guard: Some(key(guard.slot, guard.tenant, guard.hash)) }))
        }
        MeshMessage::Ended { dialog, says_bye, call_id } => {
            let dialog = Some(key(dialog.slot, dialog.tenant, dialog.id));
            (call_id, Content::Ended(wire::Ended { dialog, says_bye }))
        }
        MeshMessage::Holds { exchange: ExchangeKey { session, hash }, owner, tag, call_id } => {
            let session = Some(key(session.slot, session.tenant, session.hash));
            let Owner { pod, epoch, boot } = owner;
            let owner = Some(wire::Owner { pod, epoch, boot });
            (call_id, Content::Holds(wire::Holds { session, exchange: hash.to_vec().into(), owner, tag }))
        }
        MeshMessage::Held { tag, held, call_id } => (call_id, Content::Held(wire::Held { tag, held })),
        MeshMessage::TakenBack { session, exchange, body, call_id } => {
            let session = Some(key(session.slot, session.tenant, session.hash));
            let exchange = exchange.as_ref().map(ToString::to_string);
            (call_id, Content::TakenBack(wire::TakenBack { session, exchange, body }))
        }
    };
    wire::Envelope { number, call_id, message: Some(content) }
}

/// `None`: it is not what the contract says, or of a version that knows more than we do.
pub fn read(envelope: wire::Envelope) -> Option<MeshMessage> {
    let call_id = envelope.call_id;
    if call_id.is_empty() || call_id.len() > MAX_CALL_ID {
        return None;
    }
    Some(match envelope.message? {
        Content::Send(wire::Send { boot, connection, octets, tag }) => {
            MeshMessage::Send { boot, conn: ConnId(connection), bytes: octets, tag, call_id }
        }
        Content::SendFailed(wire::SendFailed { tag }) => MeshMessage::SendFailed { tag, call_id },
        Content::Relay(wire::Relay { arrival, octets }) => {
            let arrival = arrival?;
            let arrival = Arrival {
                transport: match arrival.transport() {
                    wire::Transport::Unspecified => return None,
                    wire::Transport::Udp => Transport::Udp,
                    wire::Transport::Tcp => Transport::Tcp,
                    wire::Transport::Tls => Transport::Tls,
                    wire::Transport::Ws => Transport::Ws,
                    wire::Transport::Wss => Transport::Wss,
                },
                listener: arrival.listener.try_into().ok()?,
                local: arrival.local.parse().ok()?,
                remote: arrival.remote.parse().ok()?,
            };
            MeshMessage::Relay { arrival, bytes: octets, tag: None, call_id }
        }
        Content::Cancelled(wire::Cancelled { guard }) => {
            let (slot, tenant, hash) = parts(&guard?)?;
            MeshMessage::Cancelled { guard: GuardKey { slot, tenant, hash }, tag: None, call_id }
        }
        Content::Ended(wire::Ended { dialog, says_bye }) => {
            let (slot, tenant, id) = parts(&dialog?)?;
            MeshMessage::Ended { dialog: DialogKey { slot, tenant, id }, says_bye, call_id }
        }
        Content::Holds(wire::Holds { session, exchange, owner, tag }) => {
            let (slot, tenant, hash) = parts(&session?)?;
            let session = SessionKey { slot, tenant, hash };
            let exchange = ExchangeKey { session, hash: exchange.as_ref().try_into().ok()? };
            let wire::Owner { pod, epoch, boot } = owner?;
            MeshMessage::Holds { exchange, owner: Owner { pod, epoch, boot }, tag, call_id }
        }
        Content::Held(wire::Held { tag, held }) => MeshMessage::Held { tag, held, call_id },
        Content::TakenBack(wire::TakenBack { session, exchange, body }) => {
            let (slot, tenant, hash) = parts(&session?)?;
            let exchange = match exchange {
                Some(text) => Some(McpExchange::parse(text.as_bytes()).ok()?),
                None => None,
            };
            MeshMessage::TakenBack { session: SessionKey { slot, tenant, hash }, exchange, body, call_id }
        }
    })
}

fn transport(transport: Transport) -> wire::Transport {
    match transport {
        Transport::Udp => wire::Transport::Udp,
        Transport::Tcp => wire::Transport::Tcp,
        Transport::Tls => wire::Transport::Tls,
        Transport::Ws => wire::Transport::Ws,
        Transport::Wss => wire::Transport::Wss,
    }
}

fn key(slot: u16, tenant: u16, id: [u8; 16]) -> wire::Key {
    wire::Key { slot: slot.into(), tenant: tenant.into(), id: id.to_vec().into() }
}

fn parts(key: &wire::Key) -> Option<(u16, u16, [u8; 16])> {
    let slot = u16::try_from(key.slot).ok().filter(|slot| *slot < SLOTS)?;
    Some((slot, key.tenant.try_into().ok()?, key.id.as_ref().try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn all() -> Vec<MeshMessage> {
        let call_id = "call@demo.example".to_owned();
        let arrival = |transport, remote: &str| Arrival {
            transport,
            listener: 3,
            local: "192.0.2.1:5061".parse().unwrap(),
            remote: remote.parse().unwrap(),
        };
        vec![
            MeshMessage::Send {
                boot: u64::MAX,
                conn: ConnId(7),
                bytes: Bytes::from_static(b"INFO"),
                tag: Some(0),
                call_id: call_id.clone(),
            },
            MeshMessage::Send { boot: 1, conn: ConnId(0), bytes: Bytes::new(), tag: None, call_id: call_id.clone() },
            MeshMessage::SendFailed { tag: 9, call_id: call_id.clone() },
            MeshMessage::Relay {
                arrival: arrival(Transport::Udp, "[2001:db8::1]:5060"),
                bytes: Bytes::from_static(b"SIP/2.0 200 OK"),
                tag: None,
                call_id: call_id.clone(),
            },
            MeshMessage::Relay {
                arrival: arrival(Transport::Wss, "192.0.2.9:44000"),
                bytes: Bytes::new(),
                tag: None,
                call_id: call_id.clone(),
            },
            MeshMessage::Cancelled {
                guard: GuardKey { slot: 1023, tenant: u16::MAX, hash: [5; 16] },
                tag: None,
                call_id: call_id.clone(),
            },
            MeshMessage::Ended {
                dialog: DialogKey { slot: 0, tenant: 1, id: [6; 16] },
                says_bye: true,
                call_id: call_id.clone(),
            },
            MeshMessage::Holds {
                exchange: ExchangeKey { session: SessionKey { slot: 1, tenant: 2, hash: [3; 16] }, hash: [4; 16] },
                owner: Owner { pod: u64::MAX, epoch: 5, boot: u64::MAX - 1 },
                tag: Some(6),
                call_id: call_id.clone(),
            },
            MeshMessage::Held { tag: 7, held: true, call_id: call_id.clone() },
            MeshMessage::TakenBack {
                session: SessionKey { slot: 7, tenant: 3, hash: [9; 16] },
                exchange: McpExchange::parse(b"xxxxxxxxxxxxxxxxxxxxxx;rel=callee").ok(),
                body: Bytes::from_static(b"{}"),
                call_id: call_id.clone(),
            },
            MeshMessage::TakenBack {
                session: SessionKey { slot: 0, tenant: 0, hash: [0; 16] },
                exchange: None,
                body: Bytes::new(),
                call_id,
            },
        ]
    }

    #[test]
    fn every_message_arrives_as_it_left() {
        for message in all() {
            assert_eq!(read(write(1, message.clone())), Some(message));
        }
    }

    #[test]
    fn what_the_contract_does_not_know_is_refused() {
        let good = write(1, all().remove(5));
        assert_eq!(read(wire::Envelope { call_id: String::new(), ..good.clone() }), None);
        assert_eq!(read(wire::Envelope { call_id: "x".repeat(MAX_CALL_ID + 1), ..good.clone() }), None);
        assert_eq!(read(wire::Envelope { message: None, ..good.clone() }), None);
        let with = |key: wire::Key| {
            let message = Some(Content::Cancelled(wire::Cancelled { guard: Some(key) }));
            read(wire::Envelope { message, ..good.clone() })
        };
        assert!(with(key(1, 1, [0; 16])).is_some());
        assert_eq!(with(key(SLOTS, 1, [0; 16])), None);
        assert_eq!(with(wire::Key { tenant: 1 << 16, ..key(1, 1, [0; 16]) }), None);
        assert_eq!(with(wire::Key { id: Bytes::from_static(&[0; 15]), ..key(1, 1, [0; 16]) }), None);
        let relay = |arrival: Option<wire::Arrival>| {
            let message = Some(Content::Relay(wire::Relay { arrival, octets: Bytes::new() }));
            read(wire::Envelope { message, ..good.clone() })
        };
        let arrival = wire::Arrival {
            transport: wire::Transport::Tcp.into(),
            listener: 1,
            local: "1.2.3.4:5".into(),
            remote: "1.2.3.4:6".into(),
        };
        assert!(relay(Some(arrival.clone())).is_some());
        assert_eq!(relay(None), None);
        assert_eq!(relay(Some(wire::Arrival { transport: 99, ..arrival.clone() })), None);
        assert_eq!(relay(Some(wire::Arrival { local: "somewhere".into(), ..arrival })), None);
        let taken_back = |exchange: &str| {
            let session = Some(key(1, 1, [0; 16]));
            let taken = wire::TakenBack { session, exchange: Some(exchange.into()), body: Bytes::new() };
            read(wire::Envelope { message: Some(Content::TakenBack(taken)), ..good.clone() })
        };
        assert!(taken_back("session;rel=caller").is_some());
        assert_eq!(taken_back("somewhat"), None);
    }
}
