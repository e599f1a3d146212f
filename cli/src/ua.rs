//! The user agent: client and server transactions over one peer, driven by [`Ua::next`].

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::time::Instant;

use bytes::Bytes;
use sip_proto::dialog::request::ack_failure;
use sip_proto::message::build::{Request, Response};
use sip_proto::message::{Message, Transportation};
use sip_proto::time::Mono;
use sip_proto::timer::TimerValues;
use sip_proto::transaction::{
    Action, Cause, ClientInvite, ClientNonInvite, Reliability, ServerInvite, ServerNonInvite, ToUser, TransactionKey,
};

use crate::ladder::Ladder;
use crate::net::{LinkId, Net, NetEvent, Peer, Transport};

/// Larger requests do not go by UDP (RFC 3261 §18.1.1).
pub const UDP_LIMIT: usize = 1300;
/// Requests of the peer that wait for us, and responses remembered for their retransmissions.
const MAX_SERVER_TRANSACTIONS: usize = 4096;

/// A client transaction of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Txn(u64);

/// What happens.
#[derive(Debug)]
pub enum UaEvent {
    /// A response to a request of ours, provisional ones too.
    Response { txn: Txn, message: Message },
    /// No final response will come.
    Failed { txn: Txn, reason: String },
    /// A request of the peer; answer it with [`Ua::respond`].
    Request(Incoming),
    /// A connection to an edge ended.
    Lost { link: LinkId, reason: String },
}

/// A request of the peer, and the way back.
#[derive(Clone, Debug)]
pub struct Incoming {
    pub message: Message,
    peer: Peer,
    key: TransactionKey,
}

enum Machine {
    Invite(ClientInvite),
    Other(ClientNonInvite),
}

struct Client {
    txn: Txn,
    machine: Machine,
    peer: Peer,
    request: Bytes,
    done: bool,
}

enum Server {
    Invite(ServerInvite),
    Other(ServerNonInvite),
}

/// One UA toward one edge (or outbound proxy).
pub struct Ua {
    pub net: Net,
    /// Where requests go.
    pub peer: Peer,
    pub ladder: Ladder,
    start: Instant,
    clients: BTreeMap<TransactionKey, Client>,
    servers: BTreeMap<TransactionKey, (Server, Peer)>,
    events: VecDeque<UaEvent>,
    next_txn: u64,
    /// User part of our Contact.
    user: String,
    /// A TCP connection beside UDP, for large requests.
    large: Option<Peer>,
    last_request: Bytes,
}

impl Ua {
    pub fn new(net: Net, peer: Peer, user: &str, ladder: Ladder) -> Ua {
        Ua {
            net,
            peer,
            ladder,
            start: Instant::now(),
            clients: BTreeMap::new(),
            servers: BTreeMap::new(),
            events: VecDeque::new(),
            next_txn: 1,
            user: user.to_owned(),
            large: None,
            last_request: Bytes::new(),
        }
    }

    fn now(&self) -> Mono {
        Mono(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// Our Contact URI on this link.
    pub fn contact(&self) -> String {
        match self.peer.transport {
            // RFC 7118 §5: a browser-like client cannot be reached but on its connection.
            Transport::Ws | Transport::Wss => {
                format!("sip:{}@{}.invalid;transport=ws", self.user, self.peer.local.port())
            }
            Transport::Udp => format!("sip:{}@{}", self.user, self.peer.local),
            other => format!("sip:{}@{};transport={}", self.user, self.peer.local, other.parameter()),
        }
    }

    /// Sends the request that `request` makes for a Via value, and starts the transaction.
    pub async fn send_request(&mut self, method: &str, request: impl Fn(&str) -> Request) -> io::Result<Txn> {
        let branch = format!("z9hG4bK{}", crate::random::token(16));
        let build = |peer: &Peer| {
            let sent_by = match peer.transport {
                Transport::Ws | Transport::Wss => format!("{}.invalid", peer.local.port()),
                _ => peer.local.to_string(),
            };
            request(&format!("SIP/2.0/{} {sent_by};branch={branch};rport", peer.transport.via())).build()
        };
        let mut peer = self.peer;
        let mut bytes = build(&peer);
        if peer.transport == Transport::Udp && bytes.len() > UDP_LIMIT {
            peer = self.large_peer().await?;
            bytes = build(&peer);
        }
        let txn = Txn(self.next_txn);
        self.next_txn += 1;
        self.ladder.sent(&bytes, &peer);
        self.last_request = bytes.clone();
        if method == "ACK" {
            self.net.send(&peer, bytes).await?;
            return Ok(txn);
        }
        let reliability = if peer.transport.is_reliable() { Reliability::Reliable } else { Reliability::Unreliable };
        let (now, values, mut out) = (self.now(), TimerValues::default(), Vec::new());
        let machine = match method {
            "INVITE" => Machine::Invite(ClientInvite::new(now, bytes.clone(), reliability, values, &mut out)),
            _ => Machine::Other(ClientNonInvite::new(now, bytes.clone(), reliability, values, &mut out)),
        };
        let key = TransactionKey::client(&branch, method);
        self.clients.insert(key.clone(), Client { txn, machine, peer, request: bytes, done: false });
        self.perform_client(&key, out, None).await;
        Ok(txn)
    }

    /// Goes on with another edge. What is under way with the one before is given up.
    pub fn move_to(&mut self, peer: Peer) {
        self.peer = peer;
        self.large = None;
    }

    /// Sends this request no more, and takes no response to it.
    pub fn forget(&mut self, txn: Txn) {
        self.clients.retain(|_, client| client.txn != txn);
    }

    async fn large_peer(&mut self) -> io::Result<Peer> {
        if let Some(peer) = self.large {
            return Ok(peer);
        }
        let host = self.peer.remote.ip().to_string();
        let peer = self.net.connect(Transport::Tcp, self.peer.remote, &host, &host, None).await?;
        self.large = Some(peer);
        Ok(peer)
    }

    /// Sends the response and remembers it for retransmissions of the request.
    pub async fn respond(&mut self, incoming: &Incoming, response: Response<'_>) {
        let bytes = response.build();
        let status =
            Message::parse(bytes.clone(), Transportation::Datagram).ok().and_then(|m| m.status()).unwrap_or(500);
        self.ladder.sent(&bytes, &incoming.peer);
        let now = self.now();
        let mut out = Vec::new();
        if let Some((server, _)) = self.servers.get_mut(&incoming.key) {
            match server {
                Server::Invite(machine) => machine.on_response(now, status, bytes, &mut out),
                Server::Other(machine) => {
                    machine.on_response(now, status, bytes, &mut out);
                }
            }
        }
        self.perform_server(&incoming.key, out).await;
    }

    /// Waits for the next event. Retransmissions and timers are done meanwhile.
    pub async fn next(&mut self) -> UaEvent {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            let deadline = self.next_deadline();
            let wait = async {
                match deadline {
                    Some(at) => {
                        let now = Mono(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX));
                        tokio::time::sleep(std::time::Duration::from_micros(at.0.saturating_sub(now.0))).await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = wait => self.fire_timers().await,
                event = self.net.next() => self.on_net(event).await,
            }
        }
    }

    fn next_deadline(&self) -> Option<Mono> {
        let clients = self.clients.values().filter_map(|c| match &c.machine {
            Machine::Invite(m) => m.poll_timeout(),
            Machine::Other(m) => m.poll_timeout(),
        });
        let servers = self.servers.values().filter_map(|(s, _)| match s {
            Server::Invite(m) => m.poll_timeout(),
            Server::Other(m) => m.poll_timeout(),
        });
        clients.chain(servers).min()
    }

    async fn fire_timers(&mut self) {
        let now = self.now();
        let keys: Vec<TransactionKey> = self.clients.keys().cloned().collect();
        for key in keys {
            let mut out = Vec::new();
            if let Some(client) = self.clients.get_mut(&key) {
                match &mut client.machine {
                    Machine::Invite(m) => m.handle_timeout(now, &mut out),
                    Machine::Other(m) => m.handle_timeout(now, &mut out),
                }
            }
            self.perform_client(&key, out, None).await;
        }
        let keys: Vec<TransactionKey> = self.servers.keys().cloned().collect();
        for key in keys {
            let mut out = Vec::new();
            if let Some((server, _)) = self.servers.get_mut(&key) {
                match server {
                    Server::Invite(m) => m.handle_timeout(now, &mut out),
                    Server::Other(m) => m.handle_timeout(now, &mut out),
                }
            }
            self.perform_server(&key, out).await;
        }
    }

    async fn on_net(&mut self, event: NetEvent) {
        match event {
            NetEvent::Message { peer, message } => {
                self.ladder.received(&message, &peer);
                if message.is_request() {
                    self.on_request(peer, message).await
                } else {
                    self.on_response(message).await
                }
            }
            NetEvent::Garbage { peer, reason } => self.ladder.note(&format!("{}: not SIP: {reason}", peer.remote)),
            NetEvent::Closed { link, reason } if link == self.peer.link => {
                let keys: Vec<TransactionKey> = self.clients.keys().cloned().collect();
                for key in keys {
                    let mut out = Vec::new();
                    if let Some(client) = self.clients.get_mut(&key) {
                        let now = Mono(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX));
                        match &mut client.machine {
                            Machine::Invite(m) => m.on_transport_error(now, &mut out),
                            Machine::Other(m) => m.on_transport_error(now, &mut out),
                        }
                    }
                    self.perform_client(&key, out, None).await;
                }
                self.events.push_back(UaEvent::Lost { link, reason });
            }
            NetEvent::Closed { link, .. } => {
                if self.large.is_some_and(|p| p.link == link) {
                    self.large = None;
                }
            }
            NetEvent::Opened { .. } => {}
        }
    }

    async fn on_response(&mut self, message: Message) {
        let (Some(status), Some(branch)) = (message.status(), message.top_via().branch().map(str::to_owned)) else {
            return;
        };
        let key = TransactionKey::client(&branch, message.cseq().method.as_str());
        let now = self.now();
        let mut out = Vec::new();
        let Some(client) = self.clients.get_mut(&key) else {
            self.ladder.note("a response to no request of ours: dropped");
            return;
        };
        match &mut client.machine {
            Machine::Invite(m) => {
                let request = client.request.clone();
                let ack = || {
                    let invite = Message::parse(request, Transportation::Datagram).ok();
                    invite.and_then(|invite| ack_failure(&invite, &message)).unwrap_or_default()
                };
                m.on_response(now, status, ack, &mut out);
            }
            Machine::Other(m) => m.on_response(now, status, &mut out),
        }
        self.perform_client(&key, out, Some(message)).await;
    }

    async fn on_request(&mut self, peer: Peer, message: Message) {
        let via = message.top_via();
        let sent_by = via.port().map_or_else(|| via.host_str().to_owned(), |port| format!("{}:{port}", via.host_str()));
        let method = message.method().map(|m| m.as_str().to_owned()).unwrap_or_default();
        let Some(key) = via.branch().and_then(|b| TransactionKey::server(b, &sent_by, &method)) else {
            return;
        };
        let now = self.now();
        let mut out = Vec::new();
        let full = self.servers.len() >= MAX_SERVER_TRANSACTIONS;
        match self.servers.get_mut(&key) {
            Some((Server::Invite(m), _)) if method == "ACK" => m.on_ack(now, &mut out),
            Some((Server::Invite(m), _)) => m.on_request(now, &mut out),
            Some((Server::Other(m), _)) => m.on_request(now, &mut out),
            // The ACK of a 2xx has a branch of its own and needs nothing from us.
            None if method == "ACK" => return,
            None if full => return,
            None => {
                let reliability =
                    if peer.transport.is_reliable() { Reliability::Reliable } else { Reliability::Unreliable };
                let values = TimerValues::default();
                let machine = match method.as_str() {
                    "INVITE" => Server::Invite(ServerInvite::new(now, reliability, values)),
                    _ => Server::Other(ServerNonInvite::new(now, reliability, values)),
                };
                self.servers.insert(key.clone(), (machine, peer));
                self.events.push_back(UaEvent::Request(Incoming { message, peer, key: key.clone() }));
            }
        }
        self.perform_server(&key, out).await;
    }

    async fn perform_client(&mut self, key: &TransactionKey, actions: Vec<Action>, response: Option<Message>) {
        for action in actions {
            let Some(client) = self.clients.get_mut(key) else { return };
            let (txn, peer) = (client.txn, client.peer);
            match action {
                Action::Send(bytes) => {
                    if let Err(error) = self.net.send(&peer, bytes).await {
                        self.fail(key, format!("{} cannot be reached: {error}", peer.remote));
                        return;
                    }
                }
                Action::ToUser(ToUser::Response(status)) => {
                    if let Some(message) = response.clone() {
                        client.done |= status >= 200;
                        self.events.push_back(UaEvent::Response { txn, message });
                    }
                }
                Action::ToUser(ToUser::TransportError) => {
                    self.fail(key, format!("the connection to {} is gone", peer.remote));
                }
                Action::ToUser(_) => {}
                Action::Terminated(cause) => {
                    match cause {
                        Cause::Timeout => self.fail(key, format!("no answer from {} in 32 s", peer.remote)),
                        Cause::TransportError => self.fail(key, format!("the connection to {} is gone", peer.remote)),
                        Cause::Normal => {}
                    }
                    self.clients.remove(key);
                }
            }
        }
    }

    fn fail(&mut self, key: &TransactionKey, reason: String) {
        if let Some(client) = self.clients.get_mut(key)
            && !client.done
        {
            client.done = true;
            let txn = client.txn;
            self.events.push_back(UaEvent::Failed { txn, reason });
        }
    }

    async fn perform_server(&mut self, key: &TransactionKey, actions: Vec<Action>) {
        for action in actions {
            let Some((_, peer)) = self.servers.get(key) else { return };
            let peer = *peer;
            match action {
                Action::Send(bytes) => {
                    let _ = self.net.send(&peer, bytes).await;
                }
                Action::Terminated(_) => {
                    self.servers.remove(key);
                }
                Action::ToUser(_) => {}
            }
        }
    }

    /// The request that was sent last.
    pub fn last_request(&self) -> Option<Message> {
        Message::parse(self.last_request.clone(), Transportation::Datagram).ok()
    }
}
