//! Ways to a peer: a connection of ours, one of another edge, the datagram's address.

use std::net::SocketAddr;

use session_store::key::DialogKey;
use session_store::record::{DialogRecord, PeerFlow};

use crate::arrival::{remote_of, unknown_flow};
use crate::gate::source;
use crate::input::{Flow, FlowKey};
use crate::state::EdgeState;
use crate::token::FlowToken;
use crate::transactions::Target;

/// An edge without a lease that was not reached is not tried again for so long: it is most probably dead.
const DEAF_MS: u64 = 5_000;

impl EdgeState {
    /// A flow as a record keeps it.
    pub(crate) fn peer_flow(&self, flow: &Flow) -> PeerFlow {
        PeerFlow { flow: Some(self.flow_token(flow)), source: source(flow) }
    }

    /// Whether a flow token names a connection of this process.
    pub(crate) fn is_ours(&self, token: &FlowToken) -> bool {
        (token.owner.pod, token.owner.boot) == (self.owner.pod, self.owner.boot)
    }

    /// The way that a flow token names, if its connection lives: ours, or that of another edge with a lease. A datagram's address is
    /// reached from every edge. `remote`: the peer's address, where the caller knows it.
    pub(crate) fn way_of(&self, token: &FlowToken, remote: Option<SocketAddr>) -> Option<Target> {
        let (transport, listener) = (token.transport, token.listener);
        match &token.flow {
            FlowKey::Datagram { remote, .. } => {
                Some(Target::Flow { key: token.flow.clone(), transport, listener, remote: *remote })
            }
            FlowKey::Stream(conn) if self.is_ours(token) => self.flows.get(*conn).map(|flow| Target::of_flow(flow)),
            FlowKey::Stream(conn) => {
                let (pod, boot) = (token.owner.pod, token.owner.boot);
                let other = self.membership.as_ref()?.living(pod, boot)?;
                let remote = remote.unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
                let way = Target::Peer { pod, boot, conn: *conn, transport, listener, remote };
                (!other.address.is_empty()).then_some(way)
            }
        }
    }

    /// The last resort: a connection of an edge whose lease ran out. It may be cut off from the store only, with its sockets open (sip.md,
    /// section 8, rule 3), and its peer has no other way. What is written there is said under the lease of the edge that asks for it.
    /// `None` where that edge was not reached a moment ago.
    pub(crate) fn way_past_lease(&self, peer: &PeerFlow) -> Option<Target> {
        let token = FlowToken::from_text(&self.config.token_keys, peer.flow.as_deref()?)?;
        let FlowKey::Stream(conn) = token.flow else { return None };
        let (pod, boot) = (token.owner.pod, token.owner.boot);
        let other = self.membership.as_ref()?.lapsed(pod, boot)?;
        let is_deaf = self.deaf.get(&pod).is_some_and(|since| self.now.mono < since.plus_millis(DEAF_MS));
        let remote = remote_of(&peer.source).unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
        let way = Target::Peer { pod, boot, conn, transport: token.transport, listener: token.listener, remote };
        (!is_deaf && !other.address.is_empty()).then_some(way)
    }

    /// A message did not reach that edge.
    pub(crate) fn not_reached(&mut self, pod: u64) {
        let listed = self.membership.as_ref().is_some_and(|m| m.pods.iter().any(|known| known.owner.pod == pod));
        if listed {
            let now = self.now.mono;
            self.deaf.retain(|_, since| now < since.plus_millis(DEAF_MS));
            self.deaf.insert(pod, now);
        }
    }

    /// The way that a record remembers of its peer.
    pub(crate) fn way_of_peer(&self, peer: &PeerFlow) -> Option<Target> {
        let token = FlowToken::from_text(&self.config.token_keys, peer.flow.as_deref()?)?;
        self.way_of(&token, remote_of(&peer.source))
    }

    /// The way to the peer of a dialog. The record comes with each CSeq, so it knows best where the peer was seen last, by whatever edge.
    pub(crate) fn flow_of_dialog(&self, record: &DialogRecord, dialog: DialogKey) -> Option<Target> {
        let token = record.flow.as_deref().and_then(|text| FlowToken::from_text(&self.config.token_keys, text));
        token
            .and_then(|token| self.way_of(&token, remote_of(&record.source)))
            .or_else(|| self.dialogs.get(&dialog).filter(|_| self.has_flow(dialog)).map(|l| Target::of_flow(&l.flow)))
    }

    /// The flow of a record, for an edge that has not seen it.
    pub(crate) fn flow_of_record(&self, record: &DialogRecord) -> Flow {
        let token = record.flow.as_deref().and_then(|text| FlowToken::from_text(&self.config.token_keys, text));
        match token {
            Some(token) => self.flow_of_token(&token, None, remote_of(&record.source)),
            None => unknown_flow(),
        }
    }
}
