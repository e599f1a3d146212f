//! A small world around one core: the memory store, a virtual clock, and backends that the test plays. Other tests and the simulation
//! can copy it: nothing in it knows more than the public API.
#![allow(dead_code, reason = "each test uses its part of the driver")]

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use edge_core::audit::AuditRecord;
use edge_core::config::{
    Advertise, AgentBackend, AgentConfig, Capabilities, CapabilitySource, Config, DeclaredTool, DigestConfig,
    DomainConfig, DrainConfig, EdgeConfig, Limits, ListenerConfig, RegistrationProfile, TokenKey, ToolEffect,
};
use edge_core::effect::{BackendAction, BackendCall, DnsAnswer, DnsQuestion, Effect};
use edge_core::input::{BackendEvent, BackendId, ConnId, Flow, FlowKey, Input, OpId, PeerCertificate, Transport};
use edge_core::mesh::MeshMessage;
use edge_core::{EdgeState, Shard};
use mcp_sip::policy::{Action, MethodSpec, Peer, Phase, Policy, PolicySpec, RuleSpec};
use session_store::memory::{Capacity, MemoryStore};
use session_store::op::{StoreError, StoreOp};
use session_store::record::Owner;
use sip_proto::auth::{Algorithm, ClientSecret, ClientUser, DigestRequest, a1, answer};
use sip_proto::message::{HeaderId, Message, Refusal, Transportation};
use sip_proto::time::{Mono, Now, UnixMillis};
use zeroize::Zeroizing;

pub const DOMAIN: &str = "acme.example";
pub const PASSWORD: &str = "wonderland";
/// Index of each listener.
pub const UDP: u16 = 0;
pub const TCP: u16 = 1;
pub const TLS: u16 = 2;
pub const WSS: u16 = 3;

/// Bytes that left, and where to.
#[derive(Clone, Debug)]
pub struct Sent {
    pub to: To,
    pub message: Message,
    pub tag: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum To {
    Flow(FlowKey),
    Address(Transport, SocketAddr),
}

/// What happens to store operations.
#[derive(Clone, Debug, Default)]
pub enum StoreMode {
    /// Executed and answered at once.
    #[default]
    Prompt,
    /// Executed when `release` is called.
    Held,
    /// Answered with this error, not executed.
    Failing(StoreError),
}

/// One core and everything around it.
pub struct World {
    pub core: EdgeState,
    pub config: Arc<Config>,
    pub store: MemoryStore,
    pub mode: StoreMode,
    pub held: VecDeque<(OpId, StoreOp)>,
    pub now: Now,
    pub sent: VecDeque<Sent>,
    pub calls: VecDeque<(BackendId, BackendCall)>,
    pub cancelled: Vec<BackendId>,
    pub closed: Vec<ConnId>,
    pub audit: Vec<AuditRecord>,
    pub operations: Vec<StoreOp>,
    pub drained: bool,
    /// What it says to other edges.
    pub mesh: VecDeque<(u64, MeshMessage)>,
    /// What DNS has; everything else does not exist.
    pub dns: Vec<(DnsQuestion, DnsAnswer)>,
    pub asked: Vec<DnsQuestion>,
    /// Answers to faults that cannot be read themselves are kept in `broken` instead of ending the test.
    pub echoes: bool,
    pub broken: Vec<String>,
    /// The last number that was given.
    pub next: u64,
}

pub const OWNER: Owner = Owner { pod: 7, epoch: 1, boot: 99 };

impl World {
    pub fn new(config: Config) -> World {
        World::with_store(config, OWNER, MemoryStore::new(Capacity::default()))
    }

    pub fn with_store(config: Config, owner: Owner, store: MemoryStore) -> World {
        let config = Arc::new(config);
        let now = Now { mono: Mono(1_000_000), wall: UnixMillis(1_800_000_000_000) };
        let mut seed = [42; 32];
        seed[0] = u8::try_from(owner.epoch % 256).unwrap();
        let core = EdgeState::new(config.clone(), owner, Shard { index: 0, count: 1 }, seed);
        World {
            core,
            config,
            store,
            mode: StoreMode::Prompt,
            held: VecDeque::new(),
            now,
            sent: VecDeque::new(),
            calls: VecDeque::new(),
            cancelled: Vec::new(),
            closed: Vec::new(),
            audit: Vec::new(),
            operations: Vec::new(),
            drained: false,
            mesh: VecDeque::new(),
            dns: Vec::new(),
            asked: Vec::new(),
            echoes: false,
            broken: Vec::new(),
            next: 0,
        }
    }

    /// A number that no other has.
    pub fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub fn input(&mut self, input: Input) {
        self.core.handle(self.now, input);
        self.pump();
    }

    /// Does what the core wants, until it wants nothing more.
    pub fn pump(&mut self) {
        while let Some(effect) = self.core.poll_effect() {
            match effect {
                Effect::Send { flow, bytes, tag } => self.record(To::Flow(flow), bytes, tag),
                Effect::SendTo { transport, remote, bytes, tag, .. } => {
                    self.record(To::Address(transport, remote), bytes, Some(tag));
                }
                Effect::Store { op, operation } => match &self.mode {
                    StoreMode::Prompt => self.execute(op, operation),
                    StoreMode::Held => self.held.push_back((op, operation)),
                    StoreMode::Failing(error) => {
                        let reply = Err(error.clone());
                        self.core.handle(self.now, Input::Store { op, reply });
                    }
                },
                Effect::Backend { id, call } => self.calls.push_back((id, call)),
                Effect::CancelBackend { id } => self.cancelled.push(id),
                Effect::Resolve { query, question } => {
                    let known = self.dns.iter().find(|(asked, _)| *asked == question).map(|(_, answer)| answer.clone());
                    let answer = known.unwrap_or(match question {
                        DnsQuestion::Naptr(_) => DnsAnswer::Naptr(Vec::new()),
                        DnsQuestion::Srv(_) => DnsAnswer::Srv(Vec::new()),
                        DnsQuestion::Address(_) => DnsAnswer::Address(Vec::new()),
                    });
                    self.asked.push(question);
                    self.core.handle(self.now, Input::Resolved { query, answer });
                }
                Effect::Close { conn } => self.closed.push(conn),
                Effect::Audit(record) => self.audit.push(record),
                Effect::Span(_) | Effect::Log { .. } => {}
                Effect::Drained => self.drained = true,
                Effect::Mesh { to, message } => self.mesh.push_back((to, message)),
            }
        }
    }

    fn execute(&mut self, op: OpId, operation: StoreOp) {
        self.operations.push(operation.clone());
        let reply = self.store.execute(self.now.wall.0, operation);
        self.core.handle(self.now, Input::Store { op, reply });
    }

    /// Executes one held operation; `false`: there was none.
    pub fn release(&mut self) -> bool {
        let Some((op, operation)) = self.held.pop_front() else { return false };
        self.execute(op, operation);
        self.pump();
        true
    }

    fn record(&mut self, to: To, bytes: Bytes, tag: Option<u64>) {
        match Message::parse(bytes.clone(), Transportation::Stream) {
            Ok(message) => self.sent.push_back(Sent { to, message, tag }),
            // The answer to what is broken says back what was broken.
            Err(_) if self.echoes => self.broken.push(String::from_utf8_lossy(&bytes).into_owned()),
            Err(e) => panic!("we sent what we would not read: {e:?}\n{}", String::from_utf8_lossy(&bytes)),
        }
    }

    /// Lets time pass; every deadline on the way is met.
    pub fn advance(&mut self, millis: u64) {
        let end = self.now.mono.plus_millis(millis);
        while let Some((at, _)) = self.core.poll_timeout().filter(|(at, _)| *at <= end) {
            self.set(at.max(self.now.mono));
            self.core.handle_timeout(self.now);
            self.pump();
        }
        self.set(end);
    }

    pub fn set(&mut self, mono: Mono) {
        self.now.wall = self.now.wall.plus_millis(mono.0 / 1000 - self.now.mono.0 / 1000);
        self.now.mono = mono;
    }

    /// The next message that was sent.
    pub fn take(&mut self) -> Sent {
        self.sent.pop_front().expect("nothing was sent")
    }

    /// The next message, which must be a response.
    pub fn response(&mut self) -> Message {
        let sent = self.take();
        assert!(!sent.message.is_request(), "{}", text(&sent.message));
        sent.message
    }

    /// The next response that is no 100.
    pub fn status(&mut self) -> u16 {
        loop {
            let status = self.response().status().unwrap();
            if status != 100 {
                return status;
            }
        }
    }

    /// The next message, which must be a request of ours.
    pub fn request(&mut self) -> Sent {
        let sent = self.take();
        assert!(sent.message.is_request(), "{}", text(&sent.message));
        sent
    }

    pub fn assert_silent(&self) {
        let texts: Vec<String> = self.sent.iter().map(|s| text(&s.message)).collect();
        assert!(texts.is_empty(), "sent: {texts:#?}");
    }

    /// The next POST to a backend: its number and its body. The edge's own `tools/list`, by which it learns the schemas, is answered on
    /// the way.
    pub fn posted(&mut self) -> (BackendId, BackendCall, String) {
        loop {
            let (id, call) = self.calls.pop_front().expect("no backend was called");
            if let BackendAction::Post { body } = &call.action {
                let body = String::from_utf8(body.to_vec()).unwrap();
                if !body.contains(r#""method":"tools/list""#) {
                    return (id, call, body);
                }
                let tools = r#"[{"name":"echo","inputSchema":{"type":"object"}},{"name":"pay","inputSchema":{"type":"object"}}]"#;
                let list = r#"{"jsonrpc":"2.0","id":ID,"result":{"resultType":"complete","tools":TOOLS}}"#;
                self.backend_answers(id, &list.replace("ID", &id_of(&body)).replace("TOOLS", tools));
            }
        }
    }

    /// The backend answers one JSON-RPC message and is done.
    pub fn backend_answers(&mut self, id: BackendId, body: &str) {
        self.input(Input::Backend { id, event: BackendEvent::Head { status: 200, session: None } });
        let body = Bytes::copy_from_slice(body.as_bytes());
        self.input(Input::Backend { id, event: BackendEvent::Message { body, event_id: None } });
        self.input(Input::Backend { id, event: BackendEvent::Done });
    }

    /// What the store holds after what has expired is gone (it sweeps when it is used).
    pub fn counts(&mut self) -> session_store::memory::Counts {
        let dialog = session_store::key::DialogKey { slot: 0, tenant: 0, id: [0; 16] };
        self.store.execute(self.now.wall.0, StoreOp::ReadDialog { dialog }).unwrap();
        self.store.counts()
    }

    /// Bytes arrive on a flow.
    pub fn arrive(&mut self, flow: &Arc<Flow>, bytes: impl Into<Bytes>) {
        let mode = if flow.transport == Transport::Udp { Transportation::Datagram } else { Transportation::Stream };
        let input = match Message::parse(bytes.into(), mode) {
            Ok(message) => Input::Message { flow: flow.clone(), message },
            Err(refusal) => Input::Fault { flow: flow.clone(), refusal },
        };
        self.input(input);
    }

    pub fn fault(&mut self, flow: &Arc<Flow>, refusal: Refusal) {
        self.input(Input::Fault { flow: flow.clone(), refusal });
    }

    /// Answers a request of ours.
    pub fn reply(&mut self, flow: &Arc<Flow>, request: &Message, status: u16, headers: &str) {
        let response = sip_proto::message::Response::to_request(request, status, None).to_tag("peer").build();
        let text = String::from_utf8(response.to_vec()).unwrap();
        let text = text.replacen("Content-Length:", &format!("{headers}Content-Length:"), 1);
        self.arrive(flow, text);
    }
}

/// A message as text.
pub fn text(message: &Message) -> String {
    String::from_utf8_lossy(message.bytes()).into_owned()
}

/// A header of a message as text; empty when it is not there.
pub fn header(message: &Message, id: HeaderId) -> String {
    message.header_str(id).unwrap_or_default().to_owned()
}

/// Everything that the world has; tests change what they need.
pub fn config() -> Config {
    let domain = domain(DOMAIN, 1);
    let agent = agent("echo", DOMAIN);
    Config {
        epoch: 1,
        edge: EdgeConfig {
            name: "default/edge".into(),
            advertise: Advertise::Static(None),
            limits: Limits::default(),
            drain: DrainConfig::default(),
        },
        listeners: [Transport::Udp, Transport::Tcp, Transport::Tls, Transport::Wss]
            .into_iter()
            .enumerate()
            .map(|(i, transport)| ListenerConfig {
                name: format!("{transport:?}"),
                transport,
                address: SocketAddr::from((
                    [192, 0, 2, 1],
                    if i < 2 { 5060 } else { 5059 + u16::try_from(i).unwrap() },
                )),
            })
            .collect(),
        domains: BTreeMap::from([(DOMAIN.to_owned(), Arc::new(domain))]),
        agents: BTreeMap::from([((DOMAIN.to_owned(), "echo".to_owned()), Arc::new(agent))]),
        token_keys: vec![token_key(1)],
        naming_key: Zeroizing::new([3; 32]),
        on_outage: edge_core::config::OnOutage::default(),
        ttl: edge_core::config::Ttl::default(),
    }
}

pub fn token_key(kid: u8) -> TokenKey {
    TokenKey { kid, siv: Zeroizing::new([kid; 32]), mac: Zeroizing::new([kid ^ 0xff; 32]) }
}

/// A domain with the users alice and bob, which allows plain transports.
pub fn domain(name: &str, tenant: u16) -> DomainConfig {
    let user = |user: &str| {
        let secret =
            |algorithm: Algorithm| (algorithm.as_str().to_owned(), Zeroizing::new(a1(algorithm, user, name, PASSWORD)));
        (user.to_owned(), BTreeMap::from([secret(Algorithm::Sha256), secret(Algorithm::Sha512_256)]))
    };
    DomainConfig {
        domain: name.to_owned(),
        tenant,
        option_tags: Vec::new(),
        digest: Some(DigestConfig {
            realm: name.to_owned(),
            algorithms: vec!["SHA-512-256".into(), "SHA-256".into()],
            users: Arc::new(BTreeMap::from([user("alice"), user("bob")])),
        }),
        client_certificates: true,
        allow_plain: vec![Transport::Udp, Transport::Tcp],
        max_sessions: None,
        tool_calls_per_second: None,
        max_payload_bytes: None,
        policies: vec![policy("domain", vec![allow("all", None)])],
        lenient_headers: false,
        retention_ms: 0,
        refresh_in_outage: false,
        durability: session_store::Durability::Memory,
    }
}

/// An agent of the modern era with two declared tools.
pub fn agent(user: &str, domain: &str) -> AgentConfig {
    let tool = |name: &str, effect| DeclaredTool { name: name.into(), version: 1, effect };
    AgentConfig {
        key: format!("default/{user}"),
        user: user.to_owned(),
        domain: domain.to_owned(),
        backend: AgentBackend::McpHttp { revisions: vec!["2026-07-28".into()] },
        capabilities: Capabilities {
            source: CapabilitySource::Declared,
            tools: vec![tool("echo", ToolEffect::Idempotent), tool("pay", ToolEffect::Destructive)],
            schemas: Vec::new(),
            disclose_all: false,
        },
        registration: RegistrationProfile { min: 60, max: 300, default: 300, jitter: false },
        policies: Vec::new(),
        timeout_ms: 10_000,
        on_failover: edge_core::config::Failovers::default(),
        session: edge_core::config::SessionLimits::default(),
    }
}

pub fn policy(name: &str, rules: Vec<RuleSpec>) -> Arc<Policy> {
    let spec = PolicySpec { name: format!("default/{name}"), rules, ..PolicySpec::default() };
    Arc::new(Policy::compile(&spec).unwrap_or_else(|e| panic!("{e:?}")))
}

/// An Allow rule for everything; `None`: every authenticated caller.
pub fn allow(name: &str, from: Option<Vec<Peer>>) -> RuleSpec {
    RuleSpec {
        name: name.into(),
        from,
        methods: None,
        phases: Vec::new(),
        action: Action::Allow,
        when: None,
        limits: None,
    }
}

pub fn deny(name: &str, from: Option<Vec<Peer>>, methods: Option<Vec<MethodSpec>>) -> RuleSpec {
    RuleSpec {
        name: name.into(),
        from,
        methods,
        phases: Vec::<Phase>::new(),
        action: Action::Deny,
        when: None,
        limits: None,
    }
}

impl World {
    /// Changes the configuration of a running core.
    pub fn reconfigure(&mut self, change: impl FnOnce(&mut Config)) {
        let mut config = Config::clone(&self.config);
        change(&mut config);
        config.epoch += 1;
        self.config = Arc::new(config);
        let config = self.config.clone();
        self.input(Input::Configure(config));
    }
}

/// Changes the domain of a configuration.
pub fn change_domain(config: &mut Config, change: impl FnOnce(&mut DomainConfig)) {
    let domain = config.domains.get_mut(DOMAIN).unwrap();
    change(Arc::make_mut(domain));
}

/// Changes the agent echo of a configuration.
pub fn change_agent(config: &mut Config, change: impl FnOnce(&mut AgentConfig)) {
    let agent = config.agents.get_mut(&(DOMAIN.to_owned(), "echo".to_owned())).unwrap();
    change(Arc::make_mut(agent));
}

/// A datagram peer.
pub fn udp(port: u16) -> Arc<Flow> {
    let remote = SocketAddr::from(([198, 51, 100, 7], port));
    Arc::new(Flow {
        key: FlowKey::Datagram { listener: UDP, remote },
        transport: Transport::Udp,
        listener: UDP,
        local: SocketAddr::from(([192, 0, 2, 1], 5060)),
        remote,
        certificate: None,
    })
}

/// A stream peer, with a certificate for these URIs or none.
pub fn stream(transport: Transport, conn: u64, uris: &[&str]) -> Arc<Flow> {
    let listener = match transport {
        Transport::Udp => UDP,
        Transport::Tcp => TCP,
        Transport::Tls => TLS,
        Transport::Ws | Transport::Wss => WSS,
    };
    let certificate = (!uris.is_empty()).then(|| {
        let host = |uri: &str| uri.rsplit_once('@').map_or_else(|| uri.to_owned(), |(_, host)| host.to_owned());
        Arc::new(PeerCertificate {
            uris: uris.iter().map(|u| (*u).to_owned()).collect(),
            dns: Vec::new(),
            domains: uris.iter().map(|u| host(u)).collect(),
        })
    });
    Arc::new(Flow {
        key: FlowKey::Stream(ConnId(conn)),
        transport,
        listener,
        local: SocketAddr::from(([192, 0, 2, 1], 5060)),
        remote: SocketAddr::from(([198, 51, 100, 7], 40_000 + u16::try_from(conn % 1000).unwrap())),
        certificate,
    })
}

/// A caller: it knows what a UA knows of its call.
#[derive(Clone, Debug)]
pub struct Ua {
    pub user: String,
    pub flow: Arc<Flow>,
    pub call_id: String,
    pub from_tag: String,
    pub to_tag: Option<String>,
    pub target: String,
    pub remote_target: Option<String>,
    pub cseq: u32,
    /// The last challenge, and how often its nonce was used.
    challenge: Vec<Vec<u8>>,
    nc: u32,
    /// The branch of the last request.
    pub branch: String,
}

impl Ua {
    pub fn new(world: &mut World, user: &str, flow: &Arc<Flow>, target: &str) -> Ua {
        let n = world.number();
        Ua {
            user: user.to_owned(),
            flow: flow.clone(),
            call_id: format!("call-{n}@ua.example"),
            from_tag: format!("ua{n}"),
            to_tag: None,
            target: target.to_owned(),
            remote_target: None,
            cseq: 0,
            challenge: Vec::new(),
            nc: 0,
            branch: String::new(),
        }
    }

    /// The request as text. `extra` are whole header lines with their ends.
    pub fn build(&mut self, world: &mut World, method: &str, extra: &str, body: &str) -> String {
        if (method != "ACK" && method != "CANCEL") || self.branch.is_empty() {
            self.cseq += 1;
            self.branch = format!("z9hG4bKua{}", world.number());
        }
        let branch = if method == "ACK" && self.to_tag.is_some() {
            format!("z9hG4bKack{}", world.number())
        } else {
            self.branch.clone()
        };
        let (via, scheme) = match self.flow.transport {
            Transport::Udp => ("UDP", "udp"),
            Transport::Tcp => ("TCP", "tcp"),
            Transport::Tls => ("TLS", "tls"),
            Transport::Ws => ("WS", "ws"),
            Transport::Wss => ("WSS", "ws"),
        };
        let uri = self.remote_target.clone().unwrap_or_else(|| self.target.clone());
        let to = match &self.to_tag {
            Some(tag) => format!("<{}>;tag={tag}", self.target),
            None => format!("<{}>", self.target),
        };
        let auth = self.authorization(method, &uri, body);
        let remote = self.flow.remote;
        format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/{via} {remote};branch={branch};rport\r\nMax-Forwards: 70\r\n\
             From: <sip:{user}@{DOMAIN}>;tag={from}\r\nTo: {to}\r\nCall-ID: {call_id}\r\nCSeq: {cseq} {method}\r\n\
             {contact}{auth}{extra}Content-Length: {length}\r\n\r\n{body}",
            user = self.user,
            from = self.from_tag,
            call_id = self.call_id,
            cseq = self.cseq,
            contact = if method == "MESSAGE" || method == "CANCEL" {
                String::new()
            } else {
                format!("Contact: <sip:{}@{remote};transport={scheme}>\r\n", self.user)
            },
            length = body.len(),
        )
    }

    fn authorization(&mut self, method: &str, uri: &str, body: &str) -> String {
        if self.challenge.is_empty() || method == "ACK" || method == "CANCEL" {
            return String::new();
        }
        self.nc += 1;
        let request = DigestRequest { method, uri, body: body.as_bytes() };
        let user = ClientUser {
            username: &self.user,
            realm: DOMAIN,
            secret: ClientSecret::Password(PASSWORD),
            allow_md5: false,
        };
        let value = answer(self.challenge.iter().map(Vec::as_slice), &request, &user, self.nc, "c0ffee").unwrap().value;
        format!("Authorization: {value}\r\n")
    }

    /// Takes the challenge of a 401.
    pub fn challenged(&mut self, response: &Message) {
        assert_eq!(response.status(), Some(401), "{}", text(response));
        self.challenge = response.headers(HeaderId::WwwAuthenticate).map(<[u8]>::to_vec).collect();
        assert!(!self.challenge.is_empty(), "{}", text(response));
        self.nc = 0;
    }

    /// Sends; the caller takes the answer.
    pub fn send(&mut self, world: &mut World, method: &str, extra: &str, body: &str) {
        let bytes = self.build(world, method, extra, body);
        let flow = self.flow.clone();
        world.arrive(&flow, bytes);
    }

    /// Sends, answers a challenge, and returns the final response.
    pub fn ask(&mut self, world: &mut World, method: &str, extra: &str, body: &str) -> Message {
        self.send(world, method, extra, body);
        let mut response = world.response();
        if response.status() == Some(401) && self.flow.certificate.is_none() {
            if method == "INVITE" {
                self.ack_refusal(world, &response);
            }
            self.challenged(&response);
            self.send(world, method, extra, body);
            response = world.response();
        }
        while response.status() == Some(100) {
            response = world.response();
        }
        response
    }

    /// The ACK of a final response other than 2xx.
    pub fn ack_refusal(&mut self, world: &mut World, response: &Message) {
        let tag = self.to_tag.take();
        let bytes = self.build(world, "ACK", "", "");
        let to = response.to_tag().unwrap_or_default();
        let bytes = bytes.replacen(&format!("To: <{}>", self.target), &format!("To: <{}>;tag={to}", self.target), 1);
        self.to_tag = tag;
        let flow = self.flow.clone();
        world.arrive(&flow, bytes);
    }

    /// A dialog was made by this 2xx.
    pub fn established(&mut self, response: &Message) {
        assert_eq!(response.status(), Some(200), "{}", text(response));
        self.to_tag = response.to_tag().map(str::to_owned);
        self.remote_target = response.contacts().iter().next().map(|c| c.uri().to_owned());
    }

    /// INVITE, 200, ACK.
    pub fn call(&mut self, world: &mut World, extra: &str, body: &str) -> Message {
        let response = self.ask(world, "INVITE", extra, body);
        self.established(&response);
        self.send(world, "ACK", "", "");
        response
    }
}

pub const MCP: &str = "Content-Type: application/mcp+json\r\n";

/// A modern `tools/call`.
pub fn tool_call(id: u64, tool: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{tool}","arguments":{{"text":"hi"}},"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{{}}}}}}}}"#
    )
}

/// A modern result.
pub fn tool_result(id: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"result":{{"resultType":"complete","content":[{{"type":"text","text":"hi"}}]}}}}"#
    )
}

/// The id of a JSON-RPC message, raw.
pub fn id_of(body: &str) -> String {
    let value: serde_json::Value = serde_json::from_str(body).unwrap();
    value["id"].to_string()
}
