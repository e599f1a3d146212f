//! The transaction tables and what ties the machines of `sip_proto::transaction` to flows, timers and the rest of the core.
//! Every entry has a deadline of its own (Timers F, H, J, K, L …), so both tables empty themselves.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use session_store::key::GuardKey;
use sip_proto::dialog::ack_failure;
use sip_proto::header::Via;
use sip_proto::message::Message;
use sip_proto::time::Mono;
use sip_proto::timer::TimerValues;
use sip_proto::transaction::key::Rfc2543Facts;
use sip_proto::transaction::{
    Action, Cause, ClientInvite, ClientNonInvite, Reliability, ServerInvite, ServerNonInvite, ToUser, TransactionKey,
};

use crate::effect::Effect;
use crate::input::{ConnId, Flow, FlowKey, Transport};
use crate::purpose::{Outcome, Purpose};
use crate::state::EdgeState;
use crate::timers::TimerKey;
use crate::token::BranchToken;

/// Most server transactions of one core; above it new work gets 503.
pub(crate) const MAX_SERVER: usize = 131_072;
/// Most client transactions of one core; above it a delivery fails as unreachable.
pub(crate) const MAX_CLIENT: usize = 65_536;

/// Where responses to a request go (RFC 3261 §18.2.2, RFC 3581).
#[derive(Clone, Debug)]
pub(crate) struct ReplyTo {
    flow: FlowKey,
    transport: Transport,
    listener: u16,
    /// Where a connection is opened when the request's own is gone.
    fallback: SocketAddr,
}

impl ReplyTo {
    pub fn new(flow: &Flow, via: &Via<'_>) -> ReplyTo {
        let sent_by = SocketAddr::new(flow.remote.ip(), via.port().unwrap_or(default_port(flow.transport)));
        let key = match &flow.key {
            // `maddr` is not honoured: it would let a request point our answers at anybody.
            FlowKey::Datagram { listener, .. } if via.rport().is_none() => {
                FlowKey::Datagram { listener: *listener, remote: sent_by }
            }
            key => key.clone(),
        };
        ReplyTo { flow: key, transport: flow.transport, listener: flow.listener, fallback: sent_by }
    }
}

/// The port that a URI or Via without one means.
pub(crate) fn default_port(transport: Transport) -> u16 {
    match transport {
        Transport::Udp | Transport::Tcp => 5060,
        Transport::Tls => 5061,
        Transport::Ws => 80,
        Transport::Wss => 443,
    }
}

/// Whether lost packets come again by themselves.
pub(crate) fn reliability(transport: Transport) -> Reliability {
    if transport == Transport::Udp { Reliability::Unreliable } else { Reliability::Reliable }
}

#[derive(Debug)]
pub(crate) enum ServerMachine {
    Invite(ServerInvite),
    Other(ServerNonInvite),
}

impl ServerMachine {
    fn poll_timeout(&self) -> Option<Mono> {
        match self {
            ServerMachine::Invite(m) => m.poll_timeout(),
            ServerMachine::Other(m) => m.poll_timeout(),
        }
    }
}

/// What an INVITE without a final response still needs.
#[derive(Debug)]
pub(crate) struct InviteProgress {
    pub guard: GuardKey,
    /// The guard is written: a 100 may leave.
    pub opened: bool,
    /// A 100 is due.
    pub trying_due: bool,
}

#[derive(Debug)]
pub(crate) struct ServerEntry {
    key: TransactionKey,
    /// Call-ID, From tag, CSeq and method, hashed: what a merged request has in common with this one.
    merged: [u8; 16],
    machine: ServerMachine,
    reply_to: ReplyTo,
    /// The flow that brought the request.
    pub flow: Arc<Flow>,
    /// The request, until its final response.
    pub message: Option<Message>,
    pub invite: Option<InviteProgress>,
}

impl ServerEntry {
    /// An INVITE without a final response.
    pub fn is_proceeding_invite(&self) -> bool {
        matches!(&self.machine, ServerMachine::Invite(m) if m.is_proceeding())
    }
}

/// The server transactions.
#[derive(Debug, Default)]
pub(crate) struct Servers {
    last: u64,
    entries: HashMap<u64, ServerEntry>,
    by_key: HashMap<TransactionKey, u64>,
    merged: HashMap<[u8; 16], u64>,
}

impl Servers {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn find(&self, key: &TransactionKey) -> Option<u64> {
        self.by_key.get(key).copied()
    }

    pub fn get_mut(&mut self, id: u64) -> Option<&mut ServerEntry> {
        self.entries.get_mut(&id)
    }

    pub fn get(&self, id: u64) -> Option<&ServerEntry> {
        self.entries.get(&id)
    }

    /// Whether the same request is being served under another branch (RFC 3261 §8.2.2.2).
    pub fn is_merged(&self, merged: &[u8; 16]) -> bool {
        self.merged.contains_key(merged)
    }

    fn remove(&mut self, id: u64) {
        if let Some(entry) = self.entries.remove(&id) {
            self.by_key.remove(&entry.key);
            if self.merged.get(&entry.merged) == Some(&id) {
                self.merged.remove(&entry.merged);
            }
        }
    }
}

/// The key of a request that we received.
pub(crate) fn server_key(message: &Message) -> TransactionKey {
    let via = message.top_via();
    let method = message.cseq().method;
    let sent_by = match via.port() {
        Some(port) => format!("{}:{port}", via.host_str()),
        None => via.host_str().to_owned(),
    };
    let rfc3261 = via.branch().and_then(|branch| TransactionKey::server(branch, &sent_by, method.as_str()));
    rfc3261.unwrap_or_else(|| {
        let facts = Rfc2543Facts {
            request_uri: message.request_uri().unwrap_or_default(),
            call_id: message.call_id(),
            from_tag: message.from_tag().unwrap_or_default(),
            to_tag: message.to_tag().unwrap_or_default(),
            cseq: message.cseq().seq,
            top_via: std::str::from_utf8(via.raw()).unwrap_or_default(),
        };
        TransactionKey::server_rfc2543(method.as_str(), &facts)
    })
}

/// Where a request of ours goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// On a flow that exists.
    Flow { key: FlowKey, transport: Transport, listener: u16, remote: SocketAddr },
    /// To an address: over UDP, or on a connection to it.
    Address { transport: Transport, listener: u16, remote: SocketAddr, server_name: Option<String> },
}

impl Target {
    pub fn of_flow(flow: &Flow) -> Target {
        Target::Flow { key: flow.key.clone(), transport: flow.transport, listener: flow.listener, remote: flow.remote }
    }

    pub fn transport(&self) -> Transport {
        match self {
            Target::Flow { transport, .. } | Target::Address { transport, .. } => *transport,
        }
    }

    pub fn listener(&self) -> u16 {
        match self {
            Target::Flow { listener, .. } | Target::Address { listener, .. } => *listener,
        }
    }

    pub fn remote(&self) -> SocketAddr {
        match self {
            Target::Flow { remote, .. } | Target::Address { remote, .. } => *remote,
        }
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
}

/// The client transactions. The number of an entry is the tag of its sends, too.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    entries: BTreeMap<u64, ClientEntry>,
    by_key: HashMap<TransactionKey, u64>,
}

impl Clients {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    fn remove(&mut self, id: u64) -> Option<ClientEntry> {
        let entry = self.entries.remove(&id)?;
        self.by_key.remove(&entry.key);
        Some(entry)
    }
}

impl EdgeState {
    /// Opens a server transaction for a request that matched none. `None`: at the limit.
    pub(crate) fn open_server(&mut self, flow: &Arc<Flow>, message: &Message, merged: [u8; 16]) -> Option<u64> {
        if self.servers.len() >= MAX_SERVER {
            return None;
        }
        let key = server_key(message);
        let values = TimerValues::default();
        let reliability = reliability(flow.transport);
        let machine = if message.cseq().method.as_str() == "INVITE" {
            ServerMachine::Invite(ServerInvite::new(self.now.mono, reliability, values))
        } else {
            ServerMachine::Other(ServerNonInvite::new(self.now.mono, reliability, values))
        };
        self.servers.last += 1;
        let id = self.servers.last;
        self.timers.arm(TimerKey::Server(id), machine.poll_timeout());
        self.servers.by_key.insert(key.clone(), id);
        self.servers.merged.insert(merged, id);
        let reply_to = ReplyTo::new(flow, &message.top_via());
        let entry = ServerEntry {
            key,
            merged,
            machine,
            reply_to,
            flow: flow.clone(),
            message: Some(message.clone()),
            invite: None,
        };
        self.servers.entries.insert(id, entry);
        Some(id)
    }

    /// A request came again, or the ACK of its refusal.
    pub(crate) fn server_again(&mut self, id: u64, is_ack: bool) {
        self.run_server(id, |machine, now, out| match machine {
            ServerMachine::Invite(m) if is_ack => m.on_ack(now, out),
            ServerMachine::Invite(m) => m.on_request(now, out),
            ServerMachine::Other(m) => m.on_request(now, out),
        });
    }

    /// Sends a response through its transaction.
    pub(crate) fn server_answer(&mut self, id: u64, status: u16, bytes: Bytes) {
        if status >= 200
            && let Some(entry) = self.servers.get_mut(id)
        {
            entry.message = None;
            entry.invite = None;
        }
        self.run_server(id, |machine, now, out| match machine {
            ServerMachine::Invite(m) => m.on_response(now, status, bytes, out),
            ServerMachine::Other(m) => {
                m.on_response(now, status, bytes, out);
            }
        });
    }

    pub(crate) fn server_timeout(&mut self, id: u64) {
        self.run_server(id, |machine, now, out| match machine {
            ServerMachine::Invite(m) => m.handle_timeout(now, out),
            ServerMachine::Other(m) => m.handle_timeout(now, out),
        });
    }

    fn run_server(&mut self, id: u64, event: impl FnOnce(&mut ServerMachine, Mono, &mut Vec<Action>)) {
        let now = self.now.mono;
        let Some(entry) = self.servers.entries.get_mut(&id) else { return };
        let mut actions = Vec::new();
        event(&mut entry.machine, now, &mut actions);
        let mut ended = false;
        let mut trying = false;
        let reply_to = entry.reply_to.clone();
        for action in actions {
            match action {
                Action::Send(bytes) => self.send_reply(&reply_to, bytes),
                Action::ToUser(ToUser::TryingDue) => trying = true,
                // A 2xx lives in its dialog: the ACK that matters comes there, with the dialog's tag.
                Action::ToUser(_) => {}
                Action::Terminated(_) => ended = true,
            }
        }
        if ended {
            self.servers.remove(id);
            self.timers.arm(TimerKey::Server(id), None);
            return;
        }
        if let Some(entry) = self.servers.entries.get(&id) {
            self.timers.arm(TimerKey::Server(id), entry.machine.poll_timeout());
        }
        if trying {
            self.trying_due(id);
        }
    }

    /// 100, but for an INVITE not before its guard is written.
    fn trying_due(&mut self, id: u64) {
        let Some(entry) = self.servers.entries.get_mut(&id) else { return };
        if let Some(invite) = &mut entry.invite
            && !invite.opened
        {
            invite.trying_due = true;
            return;
        }
        let Some(message) = entry.message.clone() else { return };
        let flow = entry.flow.clone();
        let bytes = crate::answer::Answer::new(100).build(&message, &flow, "");
        self.server_answer(id, 100, bytes);
    }

    /// The guard of an INVITE is written.
    pub(crate) fn invite_opened(&mut self, id: u64) {
        let Some(invite) = self.servers.entries.get_mut(&id).and_then(|e| e.invite.as_mut()) else { return };
        invite.opened = true;
        if invite.trying_due {
            self.trying_due(id);
        }
    }

    /// Drops a transaction without an answer: somebody else gives it.
    pub(crate) fn forget_server(&mut self, id: Option<u64>) {
        if let Some(id) = id {
            self.servers.remove(id);
            self.timers.arm(TimerKey::Server(id), None);
        }
    }

    /// Sends response bytes where responses to that request go.
    pub(crate) fn send_reply(&mut self, to: &ReplyTo, bytes: Bytes) {
        let alive = match &to.flow {
            FlowKey::Stream(conn) => self.flows.contains(*conn),
            FlowKey::Datagram { .. } => true,
        };
        if alive {
            self.emit(Effect::Send { flow: to.flow.clone(), bytes, tag: None });
        } else if matches!(to.transport, Transport::Ws | Transport::Wss) {
            // Nobody can open a connection to a WebSocket client (RFC 7118 §5.3).
            self.stats.drop_one("response without a connection");
        } else {
            let tag = self.ids.number();
            self.emit(Effect::SendTo {
                transport: to.transport,
                listener: to.listener,
                remote: to.fallback,
                server_name: None,
                bytes,
                tag,
            });
        }
    }

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
        let entry = ClientEntry { key: key.clone(), machine, target, peer, purpose: Some(purpose), invite, ack: None };
        self.clients.entries.insert(id, entry);
        self.clients.by_key.insert(key, id);
        self.client_actions(id, actions, None);
        Ok(())
    }

    /// A response came. Not ours, or not from the peer: dropped and counted.
    pub(crate) fn on_response(&mut self, flow: &Flow, message: &Message) {
        let via = message.top_via();
        let Some(branch) = via.branch() else { return self.stats.drop_one("stray response") };
        match BranchToken::from_branch(&self.config.token_keys, branch) {
            Some(token) if token.pod == self.owner.pod && token.epoch == self.owner.epoch => {}
            Some(_) => return self.stats.drop_one("response for another life"),
            None => return self.stats.drop_one("stray response"),
        }
        let cseq = message.cseq();
        let key = TransactionKey::client(branch, cseq.method.as_str());
        let Some(id) = self.clients.by_key.get(&key).copied() else {
            return self.stats.drop_one("response without a transaction");
        };
        let Some(entry) = self.clients.entries.get_mut(&id) else { return };
        if entry.peer != flow.remote.ip() {
            return self.stats.drop_one("response from another address");
        }
        let Some(status) = message.status() else { return };
        *self.stats.responses.entry(status).or_default() += 1;
        let now = self.now.mono;
        let mut actions = Vec::new();
        match &mut entry.machine {
            ClientMachine::Other(m) => m.on_response(now, status, &mut actions),
            ClientMachine::Invite(m) => {
                let again = (200..300).contains(&status).then(|| entry.ack.clone()).flatten();
                let invite = entry.invite.clone();
                let ack = || invite.and_then(|invite| ack_failure(&invite, message)).unwrap_or_default();
                m.on_response(now, status, ack, &mut actions);
                if let Some(ack) = again {
                    let target = entry.target.clone();
                    self.send_to_target(&target, ack, None);
                }
            }
        }
        self.client_actions(id, actions, Some(message));
    }

    /// Remembers the ACK of a 2xx to an INVITE of ours, for copies of that 2xx, and sends it.
    pub(crate) fn acknowledge(&mut self, id: u64, ack: Bytes) {
        let Some(entry) = self.clients.entries.get_mut(&id) else { return };
        entry.ack = Some(ack.clone());
        let target = entry.target.clone();
        self.send_to_target(&target, ack, None);
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

    /// A connection is gone: what waits for an answer on it waits no longer.
    pub(crate) fn flow_closed(&mut self, conn: ConnId) {
        self.flows.closed(conn);
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

    fn client_actions(&mut self, id: u64, actions: Vec<Action>, message: Option<&Message>) {
        let Some(entry) = self.clients.entries.get(&id) else { return };
        let target = entry.target.clone();
        let mut ended = None;
        let mut outcome = None;
        for action in actions {
            match action {
                Action::Send(bytes) => self.send_to_target(&target, bytes, Some(id)),
                Action::ToUser(ToUser::Response(status)) if status >= 200 => outcome = message,
                Action::ToUser(_) => {}
                Action::Terminated(cause) => ended = Some(cause),
            }
        }
        if let Some(message) = outcome
            && let Some(purpose) = self.clients.entries.get_mut(&id).and_then(|e| e.purpose.take())
        {
            self.concluded(purpose, id, Outcome::Response(message));
        }
        match ended {
            Some(cause) => {
                self.timers.arm(TimerKey::Client(id), None);
                if let Some(purpose) = self.clients.remove(id).and_then(|e| e.purpose) {
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
            Target::Address { transport, listener, remote, server_name } => {
                let tag = tag.unwrap_or_else(|| self.ids.number());
                Effect::SendTo { transport, listener, remote, server_name, bytes, tag }
            }
        };
        self.emit(effect);
    }
}
