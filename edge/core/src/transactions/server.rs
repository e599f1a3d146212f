//! Requests that we received.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use session_store::key::GuardKey;
use sip_proto::message::Message;
use sip_proto::time::Mono;
use sip_proto::timer::TimerValues;
use sip_proto::transaction::key::Rfc2543Facts;
use sip_proto::transaction::{Action, ServerInvite, ServerNonInvite, ToUser, TransactionKey};

use super::{ReplyTo, reliability};
use crate::effect::Effect;
use crate::input::{Flow, FlowKey};
use crate::state::EdgeState;
use crate::timers::TimerKey;

/// Most server transactions of one core; above it new work gets 503.
const MAX_SERVER: usize = 131_072;

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
    /// How often its serving began: again where this process adopts what a former epoch of its own left.
    pub attempt: u32,
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
    /// INVITEs without a final response.
    by_guard: HashMap<GuardKey, u64>,
}

impl Servers {
    /// The INVITE that this guard is of, while it has no final response.
    pub fn of_guard(&self, guard: &GuardKey) -> Option<u64> {
        self.by_guard.get(guard).copied()
    }

    /// What an INVITE needs until its final response.
    pub fn set_invite(&mut self, id: u64, progress: InviteProgress) {
        if let Some(entry) = self.entries.get_mut(&id) {
            self.by_guard.insert(progress.guard, id);
            entry.invite = Some(progress);
        }
    }

    /// It is served anew: replies to what an earlier attempt wrote decide nothing any more.
    pub fn begin_again(&mut self, id: u64) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.attempt = entry.attempt.saturating_add(1);
        }
    }

    /// Which attempt serves it now.
    pub fn attempt(&self, id: Option<u64>) -> u32 {
        id.and_then(|id| self.entries.get(&id)).map_or(0, |entry| entry.attempt)
    }

    fn forget_invite(&mut self, id: u64) {
        if let Some(progress) = self.entries.get_mut(&id).and_then(|entry| entry.invite.take())
            && self.by_guard.get(&progress.guard) == Some(&id)
        {
            self.by_guard.remove(&progress.guard);
        }
    }

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
        self.forget_invite(id);
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
            attempt: 0,
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
            self.servers.forget_invite(id);
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
        } else if !to.can_open() {
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
}
