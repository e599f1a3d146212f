//! An INVITE as the guard keeps it: with how it arrived and who sent it, so that another edge can finish it. Both stand in a line of ours
//! behind the start line; what the sender wrote under that name comes after it and is not read.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use sip_proto::message::{Message, Transportation};

use crate::engine::Principal;
use crate::gate::Caller;
use crate::input::{ConnId, Flow, FlowKey, Transport};
use crate::request::Request;
use crate::state::EdgeState;
use crate::token::FlowToken;

const NAME: &str = "P-Sipmcp-Arrival: ";

/// An INVITE that another edge, or an earlier life of this one, took in.
#[derive(Debug)]
pub(crate) struct Restored {
    pub message: Message,
    pub flow: Arc<Flow>,
    pub principal: Principal,
    pub proven: bool,
}

/// A stream that is of another process, and so of no number here.
pub(crate) const NO_CONN: ConnId = ConnId(u64::MAX);

impl EdgeState {
    /// The bytes for the guard.
    pub(crate) fn invite_to_store(&self, request: &Request, caller: &Caller) -> Bytes {
        let flow = &request.flow;
        let token = self.flow_token(flow);
        let proven = u8::from(caller.proven);
        let line = format!("{NAME}{token} {} {} {proven} {}\r\n", flow.local, flow.remote, caller.principal.as_str());
        let bytes = request.message.bytes();
        let at = bytes.windows(2).position(|two| two == b"\r\n").map_or(bytes.len(), |at| at + 2);
        let mut out = Vec::with_capacity(bytes.len() + line.len());
        out.extend_from_slice(&bytes[..at]);
        out.extend_from_slice(line.as_bytes());
        out.extend_from_slice(&bytes[at..]);
        out.into()
    }

    /// Reads them again. `None`: they are not of this form, or their flow was sealed with a key that is gone.
    pub(crate) fn restored_invite(&self, stored: &[u8]) -> Option<Restored> {
        let start = stored.windows(2).position(|two| two == b"\r\n")? + 2;
        let rest = stored[start..].strip_prefix(NAME.as_bytes())?;
        let end = rest.windows(2).position(|two| two == b"\r\n")?;
        let facts = std::str::from_utf8(&rest[..end]).ok()?;
        let [token, local, remote, proven, principal] = facts.split(' ').collect::<Vec<_>>().try_into().ok()?;
        let message = [&stored[..start], &rest[end + 2..]].concat();
        let message = Message::parse(message.into(), Transportation::Stream).ok()?;
        let token = FlowToken::from_text(&self.config.token_keys, token)?;
        let flow = self.flow_of_token(&token, local.parse().ok(), remote.parse().ok());
        let principal = match principal {
            "anonymous" => Principal::Anonymous,
            user => Principal::User(user.to_owned()),
        };
        Some(Restored { message, flow: Arc::new(flow), principal, proven: proven == "1" })
    }

    /// The sealed token of a flow of this process.
    pub(crate) fn flow_token(&self, flow: &Flow) -> String {
        let (transport, listener) = (flow.transport, flow.listener);
        FlowToken { owner: self.owner, transport, listener, flow: flow.key.clone() }.text(&self.config.token_keys)
    }

    /// The flow that a token names: our own connection if it lives; a stream of another process keeps its facts, but no connection.
    pub(crate) fn flow_of_token(
        &self,
        token: &FlowToken,
        local: Option<SocketAddr>,
        remote: Option<SocketAddr>,
    ) -> Flow {
        let ours = (token.owner.pod, token.owner.boot) == (self.owner.pod, self.owner.boot);
        if let (true, FlowKey::Stream(conn)) = (ours, &token.flow)
            && let Some(flow) = self.flows.get(*conn)
        {
            return Flow::clone(flow);
        }
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let bound = self.config.listeners.get(usize::from(token.listener)).map(|listener| listener.address);
        let (key, remote) = match &token.flow {
            FlowKey::Datagram { remote, .. } => (token.flow.clone(), *remote),
            FlowKey::Stream(_) => (FlowKey::Stream(NO_CONN), remote.unwrap_or(nowhere)),
        };
        let local = local.or(bound).unwrap_or(nowhere);
        Flow { key, transport: token.transport, listener: token.listener, local, remote, certificate: None }
    }
}

/// The peer's address in a record's `source` (`udp/listener/address`, `conn/number/address`).
pub(crate) fn remote_of(source: &str) -> Option<SocketAddr> {
    source.splitn(3, '/').nth(2)?.parse().ok()
}

/// A flow of which nothing is known.
pub(crate) fn unknown_flow() -> Flow {
    let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let key = FlowKey::Stream(NO_CONN);
    Flow { key, transport: Transport::Tls, listener: 0, local: nowhere, remote: nowhere, certificate: None }
}
