//! Requests that we sent.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use sip_proto::dialog::ack_failure;
use sip_proto::message::Message;
use sip_proto::timer::TimerValues;
use sip_proto::transaction::{Action, Cause, ClientInvite, ClientNonInvite, ToUser, TransactionKey};

use super::reliability;
use crate::effect::Effect;
use crate::engine::Closing;
use crate::input::{ConnId, Flow, FlowKey, Transport};
use crate::mesh::MeshMessage;
use crate::purpose::{Outcome, Purpose};
use crate::state::EdgeState;
use crate::timers::TimerKey;
use crate::token::BranchToken;

/// Most client transactions of one core; above it a delivery fails as unreachable.
const MAX_CLIENT: usize = 65_536;

/// So long an INVITE of ours may ring.
pub(crate) const RING_MS: u64 = 170_000;

/// A BYE that did not reach the edge which was to send it goes there again so soon; milliseconds.
const BYE_AGAIN_MS: u64 = 1_000;

/// Where a request of ours goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// On a flow that exists.
    Flow { key: FlowKey, transport: Transport, listener: u16, remote: SocketAddr },
    /// On a stream connection of another edge. An address of zeroes: where its peer is is not known here.
    Peer { pod: u64, boot: u64, conn: ConnId, transport: Transport, listener: u16, remote: SocketAddr },
    /// To an address: over UDP, or on a connection to it.
    Address { transport: Transport, listener: u16, remote: SocketAddr, server_name: Option<String> },
}

impl Target {
    pub fn of_flow(flow: &Flow) -> Target {
        Target::Flow { key: flow.key.clone(), transport: flow.transport, listener: flow.listener, remote: flow.remote }
    }

    pub fn transport(&self) -> Transport {
        match self {
            Target::Flow { transport, .. } | Target::Peer { transport, .. } | Target::Address { transport, .. } => {
                *transport
            }
        }
    }

    pub fn listener(&self) -> u16 {
        match self {
            Target::Flow { listener, .. } | Target::Peer { listener, .. } | Target::Address { listener, .. } => {
                *listener
            }
        }
    }

    pub fn remote(&self) -> SocketAddr {
        match self {
            Target::Flow { remote, .. } | Target::Peer { remote, .. } | Target::Address { remote, .. } => *remote,
        }
    }

    /// A flow that exists, here or elsewhere.
    pub fn is_flow(&self) -> bool {
        matches!(self, Target::Flow { .. } | Target::Peer { .. })
    }
}

#[derive(Debug)]
enum ClientMachine {
    Invite(ClientInvite),
    Other(ClientNonInvite),
}

#[derive(Debug)]
struct ClientEntry {
    key: TransactionKey,
    machine: ClientMachine,
    target: Target,
    /// Responses come from there.
    peer: IpAddr,
    /// What the request was for; taken by its final outcome.
    purpose: Option<Purpose>,
    /// INVITE: the request, from which the ACK to a non-2xx is made, and the ACK to a 2xx once it was made.
    invite: Option<Message>,
    ack: Option<Bytes>,
    /// INVITE: To tag of its first 2xx.
    accepted: Option<String>,
}

/// The client transactions. The number of an entry is the tag of its sends, too.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    entries: BTreeMap<u64, ClientEntry>,
    by_key: HashMap<TransactionKey, u64>,
    /// Entries with a purpose.
    open: usize,
}

impl Clients {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Those that wait for their outcome; the others only absorb copies of it (Timers D, K, M).
    pub fn open(&self) -> usize {
        self.open
    }

    fn insert(&mut self, id: u64, entry: ClientEntry) {
        self.open += usize::from(entry.purpose.is_some());
        self.by_key.insert(entry.key.clone(), id);
        self.entries.insert(id, entry);
    }

    fn take_purpose(&mut self, id: u64) -> Option<Purpose> {
        let purpose = self.entries.get_mut(&id)?.purpose.take()?;
        self.open -= 1;
        Some(purpose)
    }

    /// The transaction of a response, if we have it.
    fn of_response(&self, branch: &str, method: &str) -> Option<u64> {
        self.by_key.get(&TransactionKey::client(branch, method)).copied()
    }

    /// Removes an entry; answers what still waited for it.
    fn remove(&mut self, id: u64) -> Option<Purpose> {
        let purpose = self.take_purpose(id);
        if let Some(entry) = self.entries.remove(&id) {
            self.by_key.remove(&entry.key);
        }
        purpose
    }
}

impl EdgeState {
    /// A branch for a request of ours, and its sealed random.
    pub(crate) fn new_branch(&mut self) -> String {
        let token = BranchToken { pod: self.owner.pod, epoch: self.owner.epoch, random: self.random.bytes() };
        token.branch(&self.config.token_keys)
    }

    /// Sends a request of ours with a transaction. `Err` gives the purpose back: at the limit.
    pub(crate) fn send_request(
        &mut self,
        method: &str,
        branch: &str,
        bytes: Bytes,
        target: Target,
        purpose: Purpose,
    ) -> Result<(), Purpose> {
        if self.clients.len() >= MAX_CLIENT {
            self.stats.limit("clientTransactions");
            return Err(purpose);
        }
        let key = TransactionKey::client(branch, method);
        let id = self.ids.number();
        let (now, values, reliability) = (self.now.mono, TimerValues::default(), reliability(target.transport()));
        let mut actions = Vec::new();
        let (machine, invite) = if method == "INVITE" {
            let invite = Message::parse(bytes.clone(), sip_proto::message::Transportation::Stream).ok();
            (ClientMachine::Invite(ClientInvite::new(now, bytes, reliability, values, &mut actions)), invite)
        } else {
            (ClientMachine::Other(ClientNonInvite::new(now, bytes, reliability, values, &mut actions)), None)
        };
        let peer = target.remote().ip();
        let entry =
            ClientEntry { key, machine, target, peer, purpose: Some(purpose), invite, ack: None, accepted: None };
        self.clients.insert(id, entry);
        self.client_actions(id, actions, None);
        Ok(())
    }

    /// A response came. Not ours, or not from the peer: dropped and counted. One of another edge goes there; `relayed`: it comes from
    /// one.
    pub(crate) fn on_response(&mut self, flow: &Flow, message: &Message, relayed: bool) {
        let via = message.top_via();
        let Some(branch) = via.branch() else { return self.stats.drop_one("stray response") };
        let Some(token) = BranchToken::from_branch(&self.config.token_keys, branch) else {
            return self.stats.drop_one("stray response");
        };
        let Some(id) = self.clients.of_response(branch, message.cseq().method.as_str()) else {
            return self.response_elsewhere(flow, message, &token, relayed);
        };
        let Some(entry) = self.clients.entries.get_mut(&id) else { return };
        // Where a connection of another edge leads is not always known here; its branch is 128 random bits.
        if entry.peer != flow.remote.ip() && !entry.peer.is_unspecified() {
            return self.stats.drop_one("response from another address");
        }
        let Some(status) = message.status() else { return };
        *self.stats.responses.entry(status).or_default() += 1;
        let now = self.now.mono;
        let mut actions = Vec::new();
        match &mut entry.machine {
            ClientMachine::Other(m) => m.on_response(now, status, &mut actions),
            ClientMachine::Invite(m) => {
                let is_2xx = (200..300).contains(&status);
                // Another branch of the peer's side accepted, too: it is another dialog (RFC 3261 §13.2.2.4).
                let to_tag = message.to_tag().unwrap_or_default();
                if is_2xx && entry.purpose.is_none() && entry.accepted.as_ref().is_some_and(|tag| tag != to_tag) {
                    let target = entry.target.clone();
                    return self.acknowledge_and_end(
                        message,
                        &target,
                        "SIP;cause=487;text=\"Call completed elsewhere\"",
                    );
                }
                let repeated = is_2xx && entry.purpose.is_none() && entry.ack.is_none();
                if is_2xx && entry.accepted.is_none() {
                    entry.accepted = Some(to_tag.to_owned());
                }
                let again = is_2xx.then(|| entry.ack.clone()).flatten();
                let invite = entry.invite.clone();
                let ack = || invite.and_then(|invite| ack_failure(&invite, message)).unwrap_or_default();
                m.on_response(now, status, ack, &mut actions);
                if let Some(ack) = again {
                    let target = entry.target.clone();
                    self.send_to_target(&target, ack, None);
                }
                if repeated {
                    self.owed_again(id);
                }
            }
        }
        self.client_actions(id, actions, Some(message));
    }

    /// No transaction here has it: that of another edge, of one that is gone, or none any more.
    fn response_elsewhere(&mut self, flow: &Flow, message: &Message, token: &BranchToken, relayed: bool) {
        let others = token.pod != self.owner.pod;
        if others && !relayed && self.membership.as_ref().is_some_and(|m| m.living_pod(token.pod).is_some()) {
            return self.relay(token.pod, flow, message, None);
        }
        if self.bridge_response(flow, message) {
            return;
        }
        let ours = token.epoch == self.owner.epoch && !others;
        self.stats.drop_one(if ours { "response without a transaction" } else { "response for another life" });
    }

    /// Remembers the ACK of a 2xx to an INVITE of ours, for copies of that 2xx, and sends it.
    pub(crate) fn acknowledge(&mut self, id: u64, ack: Bytes) {
        let Some(entry) = self.clients.entries.get_mut(&id) else { return };
        entry.ack = Some(ack.clone());
        let target = entry.target.clone();
        self.send_to_target(&target, ack, None);
    }

    /// The number of a request of ours that waits, by its branch.
    pub(crate) fn client_of_branch(&self, branch: &str) -> Option<u64> {
        self.clients.of_response(branch, "INVITE")
    }

    /// Where a request of ours went.
    pub(crate) fn client_target(&self, id: u64) -> Option<Target> {
        self.clients.entries.get(&id).map(|entry| entry.target.clone())
    }

    /// Cancels an INVITE of ours: now, or as soon as a provisional answer is there (RFC 3261 §9.1).
    pub(crate) fn cancel_client(&mut self, id: u64) {
        let now = self.now.mono;
        let Some(entry) = self.clients.entries.get_mut(&id) else { return };
        let mut actions = Vec::new();
        if let ClientMachine::Invite(m) = &mut entry.machine {
            m.cancel(now, &mut actions);
        }
        self.client_actions(id, actions, None);
    }

    fn send_cancel(&mut self, id: u64, target: &Target) {
        let invite = self.clients.entries.get(&id).and_then(|entry| entry.invite.clone());
        let Some(bytes) = invite.as_ref().and_then(|invite| sip_proto::dialog::cancel(invite, None)) else { return };
        let branch =
            invite.as_ref().and_then(|invite| invite.top_via().branch().map(str::to_owned)).unwrap_or_default();
        if self.send_request("CANCEL", &branch, bytes, target.clone(), Purpose::Nothing).is_err() {
            self.stats.drop_one("CANCEL above the limit");
        }
    }

    /// A provisional answer, for who passes it on. From now on only the user's patience ends an INVITE (Timer C, RFC 3261 §16.8).
    fn client_progress(&mut self, id: u64, message: &Message) {
        let is_invite = self.clients.entries.get(&id).is_some_and(|entry| entry.invite.is_some());
        if is_invite {
            self.timers.arm(TimerKey::Bridge(id), Some(self.now.mono.plus_millis(RING_MS)));
        }
        match self.clients.entries.get(&id).and_then(|entry| entry.purpose.as_ref()) {
            Some(Purpose::Leg { call, index }) => {
                let (call, index) = (*call, *index);
                self.leg_progress(call, index, message);
            }
            Some(Purpose::Relay(relay)) => {
                let (request, domain) = EdgeState::relay_facts(relay);
                self.relay_progress(&request, &domain.domain, message);
            }
            _ => {}
        }
    }

    pub(crate) fn client_timeout(&mut self, id: u64) {
        let now = self.now.mono;
        let Some(entry) = self.clients.entries.get_mut(&id) else { return };
        let mut actions = Vec::new();
        match &mut entry.machine {
            ClientMachine::Invite(m) => m.handle_timeout(now, &mut actions),
            ClientMachine::Other(m) => m.handle_timeout(now, &mut actions),
        }
        self.client_actions(id, actions, None);
    }

    /// Transport and listener of a request of ours.
    pub(crate) fn client_way(&self, id: u64) -> Option<(Transport, u16)> {
        self.clients.entries.get(&id).map(|entry| (entry.target.transport(), entry.target.listener()))
    }

    /// A connection is gone: what waits for an answer on it waits no longer, and the dialogs that nothing else vouches for end with it.
    pub(crate) fn flow_closed(&mut self, conn: ConnId) {
        for dialog in self.flows.closed(conn) {
            self.end_dialog(dialog, Closing::Expired);
            self.bury(dialog);
        }
        self.mesh_flow_closed(conn);
        let on_it = |entry: &ClientEntry| {
            entry.purpose.is_some()
                && matches!(&entry.target, Target::Flow { key: FlowKey::Stream(id), .. } if *id == conn)
        };
        let lost: Vec<u64> = self.clients.entries.iter().filter(|(_, e)| on_it(e)).map(|(id, _)| *id).collect();
        for id in lost {
            self.send_failed(id);
        }
    }

    /// A send with this tag failed.
    pub(crate) fn send_failed(&mut self, tag: u64) {
        let now = self.now.mono;
        let Some(entry) = self.clients.entries.get_mut(&tag) else {
            return self.stats.drop_one("send failed");
        };
        let mut actions = Vec::new();
        match &mut entry.machine {
            ClientMachine::Invite(m) => m.on_transport_error(now, &mut actions),
            ClientMachine::Other(m) => m.on_transport_error(now, &mut actions),
        }
        self.client_actions(tag, actions, None);
    }

    /// The edge that has the connection of a request's peer was not reached. Of the peer that says nothing, and nobody repeats a BYE for
    /// us: its peer would hold the dialog for good. So it goes out again, the same bytes, until it is answered or Timer F ends it
    /// (64·T1, RFC 3261 §17.1.2.2), as on any way that loses something. Every other request has another way, or somebody who asks again.
    pub(crate) fn not_carried(&mut self, tag: u64) {
        let purpose = self.clients.entries.get(&tag).and_then(|entry| entry.purpose.as_ref());
        if !matches!(purpose, Some(Purpose::Bye { .. })) {
            return self.send_failed(tag);
        }
        self.timers.arm(TimerKey::ByeAgain(tag), Some(self.now.mono.plus_millis(BYE_AGAIN_MS)));
    }

    pub(crate) fn bye_again(&mut self, id: u64) {
        let Some(entry) = self.clients.entries.get(&id) else { return };
        if let Some(Purpose::Bye { bytes, .. }) = &entry.purpose {
            let (target, bytes) = (entry.target.clone(), bytes.clone());
            self.send_to_target(&target, bytes, Some(id));
        }
    }

    fn client_actions(&mut self, id: u64, actions: Vec<Action>, message: Option<&Message>) {
        let Some(entry) = self.clients.entries.get(&id) else { return };
        let target = entry.target.clone();
        let mut ended = None;
        let mut outcome = None;
        let mut progress = None;
        let mut cancel = false;
        for action in actions {
            match action {
                Action::Send(bytes) => self.send_to_target(&target, bytes, Some(id)),
                Action::ToUser(ToUser::Response(status)) if status >= 200 => outcome = message,
                Action::ToUser(ToUser::Response(_)) => progress = message,
                Action::ToUser(ToUser::CancelNow) => cancel = true,
                // After a provisional answer the machine itself waits on; nobody here does.
                Action::ToUser(ToUser::TransportError) => ended = Some(Cause::TransportError),
                Action::ToUser(_) => {}
                Action::Terminated(cause) => ended = Some(cause),
            }
        }
        if let Some(message) = progress {
            self.client_progress(id, message);
        }
        if cancel {
            self.send_cancel(id, &target);
        }
        if let Some(message) = outcome
            && let Some(purpose) = self.clients.take_purpose(id)
        {
            self.concluded(purpose, id, Outcome::Response(message));
        }
        match ended {
            Some(cause) => {
                self.timers.arm(TimerKey::Client(id), None);
                self.timers.arm(TimerKey::Bridge(id), None);
                self.timers.arm(TimerKey::ByeAgain(id), None);
                self.owed_no_more(id);
                if let Some(purpose) = self.clients.remove(id) {
                    let outcome = match cause {
                        Cause::TransportError => Outcome::TransportError,
                        Cause::Timeout | Cause::Normal => Outcome::Timeout,
                    };
                    self.concluded(purpose, id, outcome);
                }
            }
            None => {
                let next = self.clients.entries.get(&id).and_then(|e| match &e.machine {
                    ClientMachine::Invite(m) => m.poll_timeout(),
                    ClientMachine::Other(m) => m.poll_timeout(),
                });
                self.timers.arm(TimerKey::Client(id), next);
            }
        }
    }

    pub(crate) fn send_to_target(&mut self, target: &Target, bytes: Bytes, tag: Option<u64>) {
        let effect = match target.clone() {
            Target::Flow { key, .. } => Effect::Send { flow: key, bytes, tag },
            Target::Peer { pod, boot, conn, .. } => {
                let call_id = call_id_of(&bytes);
                Effect::Mesh { to: pod, message: MeshMessage::Send { boot, conn, bytes, tag, call_id } }
            }
            Target::Address { transport, listener, remote, server_name } => {
                let tag = tag.unwrap_or_else(|| self.ids.number());
                Effect::SendTo { transport, listener, remote, server_name, bytes, tag }
            }
        };
        self.emit(effect);
    }
}

/// The Call-ID of a message that we built.
fn call_id_of(bytes: &Bytes) -> String {
    let message = Message::parse(bytes.clone(), sip_proto::message::Transportation::Stream);
    message.map(|message| message.call_id().to_owned()).unwrap_or_default()
}
