//! Edges on one memory store with a mesh between them, and phones that speak plain SIP text.
#![allow(dead_code, reason = "each test uses its part")]

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use edge_core::config::{AgentBackend, Config};
use edge_core::effect::{DnsAnswer, DnsQuestion, Effect};
use edge_core::input::{ConnId, Flow, FlowKey, Input, Transport};
use edge_core::lease::Membership;
use edge_core::mesh::MeshMessage;
use edge_core::{EdgeState, Shard};
use session_store::memory::{Capacity, MemoryStore};
use session_store::op::{StoreOp, StoreReply};
use session_store::record::{Binding, Owner, PodState};
use sip_proto::message::{HeaderId, Message, Transportation};
use sip_proto::time::{Mono, Now, UnixMillis};

use crate::driver::{DOMAIN, To, agent, config, policy, stream, text};

pub struct Edge {
    pub core: EdgeState,
    pub owner: Owner,
    pub alive: bool,
}

pub struct Fleet {
    pub edges: Vec<Edge>,
    pub store: MemoryStore,
    pub config: Arc<Config>,
    pub now: Now,
    /// Edge, where to, what.
    pub sent: VecDeque<(usize, To, Message)>,
    pub operations: Vec<StoreOp>,
    /// Operations are kept back.
    pub holding: bool,
    held: VecDeque<(usize, edge_core::input::OpId, StoreOp)>,
    /// After all of them.
    late: Vec<(usize, edge_core::input::OpId, StoreOp)>,
    pub mesh: usize,
    /// No edge hears that another one ended a dialog of its.
    pub deaf: bool,
    next: u64,
    /// What went to an address last.
    opened: Option<u64>,
    pub audit: Vec<edge_core::audit::AuditRecord>,
}

/// The configuration of these tests: alice and bob are users, `sam`, `tess` and `uma` agents that register themselves.
pub fn bridge_config() -> Config {
    let mut config = config();
    for user in ["sam", "tess", "uma"] {
        let mut own = agent(user, DOMAIN);
        own.backend = AgentBackend::SipContact { by_certificate: false };
        config.agents.insert((DOMAIN.to_owned(), user.to_owned()), Arc::new(own));
    }
    config
}

/// Policies at one agent.
pub fn at_agent(config: &mut Config, user: &str, rules: Vec<mcp_sip::policy::RuleSpec>) {
    let agent = config.agents.get_mut(&(DOMAIN.to_owned(), user.to_owned())).unwrap();
    Arc::make_mut(agent).policies = vec![policy(user, rules)];
}

impl Fleet {
    pub fn new(count: usize) -> Fleet {
        Fleet::with(count, bridge_config())
    }

    pub fn with(count: usize, config: Config) -> Fleet {
        let config = Arc::new(config);
        let now = Now { mono: Mono(1_000_000), wall: UnixMillis(1_800_000_000_000) };
        let edges = (0..count)
            .map(|index| {
                let n = u64::try_from(index).unwrap();
                let owner = Owner { pod: n + 1, epoch: 1, boot: 900 + n };
                // As many shards as a real one would have makes no difference here: one core per edge.
                let core =
                    EdgeState::new(config.clone(), owner, Shard { index: 0, count: 1 }, [u8::try_from(n).unwrap(); 32]);
                Edge { core, owner, alive: true }
            })
            .collect();
        let mut fleet = Fleet {
            edges,
            store: MemoryStore::new(Capacity::default()),
            config,
            now,
            sent: VecDeque::new(),
            operations: Vec::new(),
            holding: false,
            held: VecDeque::new(),
            late: Vec::new(),
            mesh: 0,
            deaf: false,
            next: 0,
            opened: None,
            audit: Vec::new(),
        };
        for edge in 0..count {
            let owner = fleet.edges[edge].owner;
            let take = StoreOp::TakeEpoch {
                pod: owner.pod,
                boot: owner.boot,
                last_epoch: 0,
                address: format!("edge{edge}:9"),
                lease_ms: 3_600_000,
                generation: [1; 16],
            };
            let reply = fleet.store.execute(fleet.now.wall.0, take).unwrap();
            let StoreReply::Epoch { owner, .. } = reply else { panic!("{reply:?}") };
            fleet.edges[edge].owner = owner;
        }
        fleet.tell();
        fleet
    }

    /// Each edge hears who lives.
    pub fn tell(&mut self) {
        let pods: Vec<PodState> = self
            .edges
            .iter()
            .enumerate()
            .map(|(n, edge)| PodState {
                owner: edge.owner,
                address: format!("edge{n}:9"),
                lease_left_ms: if edge.alive { 3_600_000 } else { 0 },
                draining: false,
            })
            .collect();
        for edge in 0..self.edges.len() {
            if self.edges[edge].alive {
                let membership = Membership {
                    owner: self.edges[edge].owner,
                    valid_until: self.now.mono.plus_millis(86_400_000),
                    renewed_at: self.now.mono,
                    pods: pods.clone(),
                    generation: [1; 16],
                };
                self.input(edge, Input::Membership(Arc::new(membership)));
            }
        }
    }

    pub fn reconfigure(&mut self, change: impl FnOnce(&mut Config)) {
        let mut config = Config::clone(&self.config);
        change(&mut config);
        config.epoch += 1;
        self.config = Arc::new(config);
        for edge in 0..self.edges.len() {
            let config = self.config.clone();
            self.input(edge, Input::Configure(config));
        }
    }

    pub fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub fn input(&mut self, edge: usize, input: Input) {
        if self.edges[edge].alive {
            self.edges[edge].core.handle(self.now, input);
            self.pump(edge);
        }
    }

    fn pump(&mut self, edge: usize) {
        while let Some(effect) = self.edges[edge].core.poll_effect() {
            match effect {
                Effect::Send { flow, bytes, .. } => self.record(edge, To::Flow(flow), bytes),
                Effect::SendTo { transport, remote, bytes, tag, .. } => {
                    self.opened = Some(tag);
                    self.record(edge, To::Address(transport, remote), bytes)
                }
                Effect::Store { op, operation } if self.holding => self.held.push_back((edge, op, operation)),
                Effect::Store { op, operation } => self.execute(edge, op, operation),
                Effect::Resolve { query, question } => {
                    let answer = match question {
                        DnsQuestion::Naptr(_) => DnsAnswer::Naptr(Vec::new()),
                        DnsQuestion::Srv(_) => DnsAnswer::Srv(Vec::new()),
                        DnsQuestion::Address(_) => DnsAnswer::Address(Vec::new()),
                    };
                    self.edges[edge].core.handle(self.now, Input::Resolved { query, answer });
                }
                Effect::Mesh { to, message } => {
                    self.mesh += 1;
                    let there = self.edges.iter().position(|other| other.owner.pod == to && other.alive);
                    let from = self.edges[edge].owner.pod;
                    if self.deaf && matches!(message, MeshMessage::Ended { .. }) {
                        continue;
                    }
                    match (there, message.tag()) {
                        (Some(there), _) => self.input(there, Input::Mesh { from, message }),
                        (None, Some(tag)) => self.edges[edge].core.handle(self.now, Input::MeshFailed { to, tag }),
                        (None, None) => {}
                    }
                }
                Effect::Audit(record) => self.audit.push(record),
                _ => {}
            }
        }
    }

    fn execute(&mut self, edge: usize, op: edge_core::input::OpId, operation: StoreOp) {
        self.operations.push(operation.clone());
        let reply = self.store.execute(self.now.wall.0, operation);
        self.edges[edge].core.handle(self.now, Input::Store { op, reply });
    }

    /// Executes what was held back.
    pub fn release(&mut self) {
        self.holding = false;
        while let Some((edge, op, operation)) = self.held.pop_front().or_else(|| self.late.pop()) {
            if self.edges[edge].alive {
                self.execute(edge, op, operation);
                self.pump(edge);
            }
        }
    }

    /// Executes the first operation that was held back; others are held back.
    pub fn release_one(&mut self) {
        let (edge, op, operation) = self.held.pop_front().expect("something is held back");
        self.execute(edge, op, operation);
        self.pump(edge);
    }

    /// The first operation that was held back goes behind whatever follows.
    pub fn hold_back_first(&mut self) {
        let first = self.held.pop_front().expect("something is held back");
        self.late.push(first);
    }

    /// Executes the first operation that was held back, and its reply is lost.
    pub fn lose_reply(&mut self) {
        let (edge, op, operation) = self.held.pop_front().expect("something is held back");
        self.store.execute(self.now.wall.0, operation).unwrap();
        let reply = Err(session_store::op::StoreError::Unavailable);
        self.input(edge, Input::Store { op, reply });
    }

    /// The first operation that was held back is not executed.
    pub fn fail_first(&mut self) {
        let (edge, op, _) = self.held.pop_front().expect("something is held back");
        let reply = Err(session_store::op::StoreError::Unavailable);
        self.input(edge, Input::Store { op, reply });
    }

    fn record(&mut self, edge: usize, to: To, bytes: Bytes) {
        let message = Message::parse(bytes.clone(), Transportation::Stream)
            .unwrap_or_else(|e| panic!("we sent what we would not read: {e:?}\n{}", String::from_utf8_lossy(&bytes)));
        self.sent.push_back((edge, to, message));
    }

    pub fn advance(&mut self, millis: u64) {
        let end = self.now.mono.plus_millis(millis);
        loop {
            let due = self
                .edges
                .iter()
                .enumerate()
                .filter(|(_, edge)| edge.alive)
                .filter_map(|(n, edge)| Some((edge.core.poll_timeout()?.0, n)))
                .filter(|(at, _)| *at <= end)
                .min();
            let Some((at, edge)) = due else { break };
            self.set(at.max(self.now.mono));
            self.edges[edge].core.handle_timeout(self.now);
            self.pump(edge);
        }
        self.set(end);
    }

    fn set(&mut self, mono: Mono) {
        self.now.wall = self.now.wall.plus_millis(mono.0 / 1000 - self.now.mono.0 / 1000);
        self.now.mono = mono;
    }

    pub fn arrive(&mut self, edge: usize, flow: &Arc<Flow>, bytes: impl Into<Bytes>) {
        let message = Message::parse(bytes.into(), Transportation::Stream).unwrap();
        self.input(edge, Input::Message { flow: flow.clone(), message });
    }

    /// Closes a stream.
    pub fn close(&mut self, phone: &Phone) {
        let FlowKey::Stream(conn) = phone.flow.key else { panic!("no stream") };
        self.input(phone.edge, Input::FlowClosed { conn });
    }

    /// What went to an address last found nobody there.
    pub fn unreachable(&mut self, edge: usize) {
        let tag = self.opened.take().expect("something went to an address");
        self.input(edge, Input::SendFailed { tag });
    }

    /// An edge is gone, without a word.
    pub fn kill(&mut self, edge: usize) {
        self.edges[edge].alive = false;
        self.held.retain(|(of, ..)| *of != edge);
        self.tell();
    }

    /// A process goes on under a new epoch, and takes over what it had.
    pub fn reborn(&mut self, edge: usize) {
        let before = self.edges[edge].owner;
        let take = StoreOp::TakeEpoch {
            pod: before.pod,
            boot: before.boot,
            last_epoch: before.epoch,
            address: format!("edge{edge}:9"),
            lease_ms: 3_600_000,
            generation: [1; 16],
        };
        let reply = self.store.execute(self.now.wall.0, take).unwrap();
        let StoreReply::Epoch { owner, .. } = reply else { panic!("{reply:?}") };
        self.edges[edge].owner = owner;
        self.tell();
        self.adopt_of(before, edge);
    }

    /// What the dead edge owned goes to another one.
    pub fn adopt(&mut self, from: usize, by: usize) {
        self.adopt_of(self.edges[from].owner, by);
    }

    fn adopt_of(&mut self, from: Owner, by: usize) {
        let owner = self.edges[by].owner;
        let mut items = Vec::new();
        for slot in 0..session_store::key::SLOTS {
            let operation = StoreOp::Adopt { slot, from, by: owner, limit: 500, lease_ms: 10_000 };
            match self.store.execute(self.now.wall.0, operation).unwrap() {
                StoreReply::Adopted { items: some, .. } => items.extend(some),
                other => panic!("{other:?}"),
            }
        }
        self.input(by, Input::Adopted(items));
    }

    /// The next message for a phone; those for others stay.
    pub fn take(&mut self, phone: &Phone) -> Message {
        self.try_take(phone).unwrap_or_else(|| {
            let all: Vec<String> = self.sent.iter().map(|(e, to, m)| format!("edge {e} {to:?}\n{}", text(m))).collect();
            panic!("nothing for {}: {all:#?}", phone.user)
        })
    }

    pub fn try_take(&mut self, phone: &Phone) -> Option<Message> {
        let at = self.sent.iter().position(|(edge, to, _)| phone.is_at(*edge, to))?;
        self.sent.remove(at).map(|(_, _, message)| message)
    }

    pub fn assert_silent(&self) {
        let all: Vec<String> = self.sent.iter().map(|(e, to, m)| format!("edge {e} {to:?}\n{}", text(m))).collect();
        assert!(all.is_empty(), "{all:#?}");
    }

    pub fn bindings(&mut self) -> Vec<Binding> {
        let mut out = Vec::new();
        for operation in self.operations.clone() {
            if let StoreOp::Register { aor, .. } = operation
                && let Ok(StoreReply::Bindings(some)) =
                    self.store.execute(self.now.wall.0, StoreOp::ReadBindings { aor })
            {
                for binding in some {
                    if !out.contains(&binding) {
                        out.push(binding);
                    }
                }
            }
        }
        out
    }

    /// Nothing is left anywhere, after every time to live.
    pub fn assert_empty(&mut self) {
        for _ in 0..4 {
            self.advance(2_000_000);
            self.tell();
        }
        self.sent.clear();
        let dialog = session_store::key::DialogKey { slot: 0, tenant: 0, id: [0; 16] };
        self.store.execute(self.now.wall.0, StoreOp::ReadDialog { dialog }).unwrap();
        let counts = self.store.counts();
        assert_eq!((counts.dialogs, counts.guards, counts.aors, counts.owned), (0, 0, 0, 0), "{counts:?}");
        for (n, edge) in self.edges.iter().enumerate().filter(|(_, edge)| edge.alive) {
            let stats = edge.core.stats();
            assert_eq!(
                (stats.dialogs, stats.bridges, stats.client_transactions, stats.server_transactions),
                (0, 0, 0, 0),
                "edge {n}: {stats:?}"
            );
        }
    }
}

/// A UA on one connection, with what a UA knows of its dialog.
#[derive(Clone, Debug)]
pub struct Phone {
    pub user: String,
    pub edge: usize,
    pub flow: Arc<Flow>,
    pub call_id: String,
    pub tag: String,
    pub peer_tag: String,
    pub from: String,
    pub to: String,
    pub target: String,
    pub cseq: u32,
    pub branch: String,
    /// Of its Contact.
    pub transport: &'static str,
}

impl Phone {
    /// On a TLS connection whose certificate names the user.
    pub fn new(fleet: &mut Fleet, edge: usize, user: &str) -> Phone {
        let n = fleet.number();
        let flow = stream(Transport::Tls, n, &[&format!("sip:{user}@{DOMAIN}")]);
        fleet.input(edge, Input::FlowOpened { flow: flow.clone() });
        Phone {
            user: user.to_owned(),
            edge,
            flow,
            call_id: format!("call-{n}@ua.example"),
            tag: format!("t{n}"),
            peer_tag: String::new(),
            from: format!("<sip:{user}@{DOMAIN}>"),
            to: String::new(),
            target: String::new(),
            cseq: 0,
            branch: String::new(),
            transport: "tls",
        }
    }

    pub fn conn(&self) -> ConnId {
        match self.flow.key {
            FlowKey::Stream(conn) => conn,
            FlowKey::Datagram { .. } => panic!("no stream"),
        }
    }

    fn is_at(&self, edge: usize, to: &To) -> bool {
        match to {
            To::Flow(key) => *key == self.flow.key && (edge == self.edge || matches!(key, FlowKey::Datagram { .. })),
            To::Address(_, remote) => *remote == self.flow.remote,
        }
    }

    pub fn uri(&self) -> String {
        format!("sip:{}@{};transport={}", self.user, self.flow.remote, self.transport)
    }

    /// A new connection to another edge, with the same dialog.
    pub fn moved(&self, fleet: &mut Fleet, edge: usize) -> Phone {
        let fresh = Phone::new(fleet, edge, &self.user);
        Phone { edge, flow: fresh.flow, ..self.clone() }
    }

    /// REGISTER; `params` of the Contact, further header lines. Returns the 200.
    pub fn register(&mut self, fleet: &mut Fleet, params: &str, extra: &str) -> Message {
        self.register_status(fleet, params, extra, 200)
    }

    pub fn register_status(&mut self, fleet: &mut Fleet, params: &str, extra: &str, status: u16) -> Message {
        let n = fleet.number();
        self.cseq += 1;
        let message = format!(
            "REGISTER sip:{DOMAIN} SIP/2.0\r\nVia: SIP/2.0/TLS {remote};branch=z9hG4bKr{n}\r\nMax-Forwards: 70\r\n\
             From: <sip:{user}@{DOMAIN}>;tag=r{n}\r\nTo: <sip:{user}@{DOMAIN}>\r\nCall-ID: reg-{conn}\r\nCSeq: {cseq} REGISTER\r\n\
             Contact: <{uri}>{params}\r\n{extra}Content-Length: 0\r\n\r\n",
            remote = self.flow.remote,
            user = self.user,
            conn = self.conn().0,
            cseq = self.cseq,
            uri = self.uri(),
        );
        let (edge, flow) = (self.edge, self.flow.clone());
        fleet.arrive(edge, &flow, message);
        let response = fleet.take(self);
        assert_eq!(response.status(), Some(status), "{}", text(&response));
        response
    }

    /// Calls somebody.
    pub fn invite(&mut self, fleet: &mut Fleet, uri: &str, extra: &str, body: &str) {
        self.target = uri.to_owned();
        self.to = format!("<{uri}>");
        let edge = self.edge;
        self.send_at(fleet, edge, "INVITE", extra, body);
    }

    /// A request out of a dialog.
    pub fn page(&mut self, fleet: &mut Fleet, method: &str, uri: &str, extra: &str, body: &str) {
        self.target = uri.to_owned();
        self.to = format!("<{uri}>");
        self.peer_tag.clear();
        self.send(fleet, method, extra, body);
    }

    pub fn send(&mut self, fleet: &mut Fleet, method: &str, extra: &str, body: &str) {
        let edge = self.edge;
        self.send_at(fleet, edge, method, extra, body);
    }

    /// A request in the dialog, by whatever edge: with the connection that this phone has there.
    pub fn send_at(&mut self, fleet: &mut Fleet, edge: usize, method: &str, extra: &str, body: &str) {
        let text = self.request(fleet, method, extra, body);
        let flow = self.flow.clone();
        fleet.arrive(edge, &flow, text);
    }

    pub fn request(&mut self, fleet: &mut Fleet, method: &str, extra: &str, body: &str) -> String {
        if !matches!(method, "ACK" | "CANCEL") {
            self.cseq += 1;
        }
        if method != "CANCEL" || self.branch.is_empty() {
            self.branch = format!("z9hG4bK{}", fleet.number());
        }
        let to = if self.peer_tag.is_empty() { self.to.clone() } else { format!("{};tag={}", self.to, self.peer_tag) };
        let content = if body.is_empty() || extra.contains("Content-Type") {
            String::new()
        } else {
            "Content-Type: application/sdp\r\n".to_owned()
        };
        let hops = if extra.contains("Max-Forwards") { "" } else { "Max-Forwards: 70\r\n" };
        format!(
            "{method} {target} SIP/2.0\r\nVia: SIP/2.0/TLS {remote};branch={branch}\r\n{hops}From: {from};tag={tag}\r\n\
             To: {to}\r\nCall-ID: {call_id}\r\nCSeq: {cseq} {method}\r\nContact: <{uri}>\r\n{extra}{content}\
             Content-Length: {length}\r\n\r\n{body}",
            target = self.target,
            remote = self.flow.remote,
            branch = self.branch,
            from = self.from,
            tag = self.tag,
            call_id = self.call_id,
            cseq = self.cseq,
            uri = self.uri(),
            length = body.len(),
        )
    }

    /// The next response; 100 is passed over.
    pub fn response(&self, fleet: &mut Fleet) -> Message {
        loop {
            let message = fleet.take(self);
            assert!(!message.is_request(), "{}", text(&message));
            if message.status() != Some(100) {
                return message;
            }
        }
    }

    pub fn status(&self, fleet: &mut Fleet) -> u16 {
        self.response(fleet).status().unwrap()
    }

    /// The 2xx made the dialog.
    pub fn established(&mut self, response: &Message) {
        assert_eq!(response.status(), Some(200), "{}", text(response));
        self.peer_tag = response.to_tag().unwrap().to_owned();
        self.target = response.contacts().first().unwrap().uri().to_owned();
    }

    /// An INVITE came: this phone is the UAS of its dialog.
    pub fn called(&mut self, invite: &Message) {
        assert_eq!(invite.method().map(|m| m.as_str().to_owned()).as_deref(), Some("INVITE"), "{}", text(invite));
        self.call_id = invite.call_id().to_owned();
        self.peer_tag = invite.from_tag().unwrap().to_owned();
        self.from = format!("<{}>", invite.to().uri());
        self.to = format!("<{}>", invite.from().uri());
        self.target = invite.contacts().first().unwrap().uri().to_owned();
        self.cseq = 100;
    }

    /// Answers a request.
    pub fn reply(&self, fleet: &mut Fleet, request: &Message, status: u16, extra: &str, body: &str) {
        let edge = self.edge;
        self.reply_at(fleet, edge, request, status, extra, body);
    }

    pub fn reply_at(&self, fleet: &mut Fleet, edge: usize, request: &Message, status: u16, extra: &str, body: &str) {
        let response = sip_proto::message::Response::to_request(request, status, None).to_tag(&self.tag).build();
        let mut text = String::from_utf8(response.to_vec()).unwrap();
        let content = if body.is_empty() || extra.contains("Content-Type") {
            String::new()
        } else {
            "Content-Type: application/sdp\r\n".to_owned()
        };
        let contact = if extra.contains("Contact:") { String::new() } else { format!("Contact: <{}>\r\n", self.uri()) };
        let at = text.find("Content-Length").unwrap();
        text.truncate(at);
        text.push_str(&format!("{contact}{extra}{content}Content-Length: {}\r\n\r\n{body}", body.len()));
        let flow = self.flow.clone();
        fleet.arrive(edge, &flow, text);
    }
}

pub fn sdp(who: &str) -> String {
    format!(
        "v=0\r\no={who} 1 1 IN IP4 198.51.100.7\r\ns=-\r\nc=IN IP4 198.51.100.7\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n"
    )
}

/// All but the `o=` line.
pub fn without_origin(sdp: &[u8]) -> String {
    String::from_utf8(sdp.to_vec())
        .unwrap()
        .lines()
        .filter(|line| !line.starts_with("o="))
        .collect::<Vec<_>>()
        .join("\n")
}

pub fn origin(sdp: &[u8]) -> String {
    String::from_utf8(sdp.to_vec()).unwrap().lines().find(|line| line.starts_with("o=")).unwrap().to_owned()
}

/// A call that stands: the caller and the agent.
pub fn call(fleet: &mut Fleet, caller: &mut Phone, callee: &mut Phone, extra: &str) -> (Message, Message) {
    let uri = format!("sip:{}@{DOMAIN}", callee.user);
    caller.invite(fleet, &uri, extra, &sdp("caller"));
    let invite = fleet.take(callee);
    callee.called(&invite);
    callee.reply(fleet, &invite, 200, "Allow: INVITE, ACK, BYE, UPDATE\r\n", &sdp("callee"));
    let ack = fleet.take(callee);
    assert!(text(&ack).starts_with("ACK "), "{}", text(&ack));
    let answer = caller.response(fleet);
    caller.established(&answer);
    caller.send(fleet, "ACK", "", "");
    (invite, answer)
}

pub fn value(message: &Message, id: HeaderId) -> String {
    message.header_str(id).unwrap_or_default().to_owned()
}
