//! One engine with its store and a clock; the test is the SIP half and the backend.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use edge_core::audit::{AuditRecord, Span};
use edge_core::config::{
    Advertise, AgentBackend, AgentConfig, Capabilities, CapabilitySource, Config, DeclaredTool, DomainConfig,
    DrainConfig, EdgeConfig, Limits, RegistrationProfile, TokenKey, ToolEffect,
};
use edge_core::effect::{BackendAction, BackendCall};
use edge_core::engine::{
    Carrier, Closing, Ctx, Delivery, DeliveryOutcome, Engine, EngineOut, Ids, Inbound, Leg, LegKey, Principal,
    TakeBack, Verdict, Way, Written,
};
use edge_core::input::{BackendEvent, BackendFailure, BackendId, OpId};
use edge_core::random::Random;
use mcp_sip::exchange::McpExchange;
use mcp_sip::policy::{Action, MethodSpec, Peer, Phase, Policy, PolicySpec, RuleSpec};
use serde_json::{Value, json};
use session_store::key::{DialogKey, ExchangeKey, SessionKey};
use session_store::memory::{Capacity, MemoryStore};
use session_store::op::{Adopted, StoreError, StoreOp, StoreReply};
use session_store::record::{DialogPhase, DialogRecord, McpRecord, Owner};
use sip_proto::time::{Mono, Now, UnixMillis};
use zeroize::Zeroizing;

pub const MODERN: &str = "2026-07-28";
pub const LEGACY: &str = "2025-11-25";
/// Two names for exchanges.
pub const X: &str = "xxxxxxxxxxxxxxxxxxxxxx";
pub const Y: &str = "yyyyyyyyyyyyyyyyyyyyyy";
/// What an agent's request may take; milliseconds.
pub const TIMEOUT_MS: u64 = 20_000;

/// What happened, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// The write that a verdict asked for.
    Written,
    /// A store operation of the engine's own.
    Store(&'static str),
    Forward(BackendId),
    CancelBackend(BackendId),
    Audit,
    Deliver,
}

pub struct Rig {
    pub engine: Engine,
    pub config: Arc<Config>,
    pub store: MemoryStore,
    pub store_is_up: bool,
    /// Operations of the engine wait for `release` instead of being answered at once.
    pub holds_ops: bool,
    held: VecDeque<(OpId, StoreOp)>,
    initializations: u32,
    pub now: Now,
    random: Random,
    ids: Ids,
    pub owner: Owner,
    pub valid_until: Option<Mono>,
    /// The dialogs are in the store, as the SIP half has them there.
    pub has_dialogs: bool,
    transactions: u32,
    /// Whether deliveries succeed by themselves.
    pub delivers: bool,
    pub steps: Vec<Step>,
    pub calls: Vec<(BackendId, BackendCall)>,
    pub cancelled: Vec<BackendId>,
    pub deliveries: Vec<Delivery>,
    pub audits: Vec<AuditRecord>,
    pub spans: Vec<Span>,
    pub logs: Vec<String>,
    /// Who was asked whether it holds an exchange.
    pub asked: Vec<(Owner, ExchangeKey)>,
    /// What the other edges are to hear of.
    pub taken_back: Vec<TakeBack>,
}

pub fn method(name: &str, params: &[&str]) -> MethodSpec {
    MethodSpec { name: name.into(), params: params.iter().map(|p| (*p).to_owned()).collect() }
}

pub fn allow(name: &str, methods: Vec<MethodSpec>, phases: &[Phase]) -> RuleSpec {
    RuleSpec {
        name: name.into(),
        from: Some(vec![Peer::SipIdentity("sip:*@demo.example".into()), Peer::Anonymous]),
        methods: Some(methods),
        phases: phases.to_vec(),
        action: Action::Allow,
        when: None,
        limits: None,
    }
}

pub fn policy(rules: Vec<RuleSpec>) -> Arc<Policy> {
    let spec = PolicySpec { name: "demo/main".into(), rules, ..PolicySpec::default() };
    Arc::new(Policy::compile(&spec).expect("the policy of the tests"))
}

/// `echo`, `add` and `deploy` may be called, `shown` may be seen, `secret` neither.
pub fn default_rules() -> Vec<RuleSpec> {
    vec![
        allow("tools", vec![method("tools/call", &["echo", "add", "deploy", "slow"])], &[]),
        allow("window", vec![method("tools/call", &["shown"])], &[Phase::List]),
        allow(
            "rest",
            vec![
                method("prompts/get", &["greet"]),
                method("resources/read", &["file:///open/*"]),
                method("logging/setLevel", &[]),
                method("subscriptions/listen", &[]),
                method("sampling/*", &[]),
            ],
            &[],
        ),
    ]
}

fn tool(name: &str, effect: ToolEffect) -> DeclaredTool {
    DeclaredTool { name: name.into(), version: 1, effect }
}

pub fn agent(user: &str, revisions: &[&str]) -> AgentConfig {
    AgentConfig {
        key: format!("demo/{user}"),
        user: user.into(),
        domain: "demo.example".into(),
        backend: AgentBackend::McpHttp { revisions: revisions.iter().map(|r| (*r).to_owned()).collect() },
        capabilities: Capabilities {
            source: CapabilitySource::Discovered,
            tools: vec![tool("echo", ToolEffect::ReadOnly), tool("deploy", ToolEffect::Destructive)],
            schemas: Vec::new(),
            disclose_all: false,
        },
        registration: RegistrationProfile { min: 60, max: 3600, default: 3600, jitter: false },
        policies: Vec::new(),
        timeout_ms: TIMEOUT_MS,
        on_failover: edge_core::config::Failovers::default(),
        session: edge_core::config::SessionLimits::default(),
    }
}

pub fn config(agents: Vec<AgentConfig>, rules: Vec<RuleSpec>) -> Config {
    let domain = DomainConfig {
        domain: "demo.example".into(),
        tenant: 1,
        option_tags: Vec::new(),
        digest: None,
        client_certificates: true,
        allow_plain: Vec::new(),
        max_sessions: None,
        tool_calls_per_second: None,
        max_payload_bytes: None,
        policies: vec![policy(rules)],
        lenient_headers: false,
        retention_ms: 0,
        refresh_in_outage: false,
        durability: session_store::Durability::Memory,
    };
    let agents = agents.into_iter().map(|a| ((a.domain.clone(), a.user.clone()), Arc::new(a))).collect();
    Config {
        epoch: 1,
        edge: EdgeConfig {
            name: "demo/edge".into(),
            advertise: Advertise::Static(None),
            limits: Limits { in_flight_per_session: 4, ..Limits::default() },
            drain: DrainConfig::default(),
        },
        listeners: Vec::new(),
        domains: BTreeMap::from([("demo.example".to_owned(), Arc::new(domain))]),
        agents,
        token_keys: vec![TokenKey { kid: 1, siv: Zeroizing::new([1; 32]), mac: Zeroizing::new([2; 32]) }],
        naming_key: Zeroizing::new([3; 32]),
        on_outage: edge_core::config::OnOutage::default(),
        ttl: edge_core::config::Ttl::default(),
    }
}

impl Default for Rig {
    /// Agents `both`, `modern` and `legacy`.
    fn default() -> Rig {
        let agents = vec![agent("both", &[MODERN, LEGACY]), agent("modern", &[MODERN]), agent("legacy", &[LEGACY])];
        Rig::new(config(agents, default_rules()))
    }
}

impl Rig {
    pub fn new(config: Config) -> Rig {
        Rig {
            engine: Engine::default(),
            config: Arc::new(config),
            store: MemoryStore::new(Capacity::default()),
            store_is_up: true,
            holds_ops: false,
            held: VecDeque::new(),
            initializations: 0,
            now: Now { mono: Mono(1_000_000), wall: UnixMillis(1_800_000_000_000) },
            random: Random::new([7; 32]),
            ids: Ids::default(),
            owner: Owner { pod: 1, epoch: 1, boot: 1 },
            valid_until: None,
            has_dialogs: false,
            transactions: 0,
            delivers: true,
            steps: Vec::new(),
            calls: Vec::new(),
            cancelled: Vec::new(),
            deliveries: Vec::new(),
            audits: Vec::new(),
            spans: Vec::new(),
            logs: Vec::new(),
            asked: Vec::new(),
            taken_back: Vec::new(),
        }
    }

    /// Another edge on the same store.
    pub fn other_edge(self) -> Rig {
        let mut other = Rig::new((*self.config).clone());
        other.store = self.store;
        other.has_dialogs = self.has_dialogs;
        other.now = self.now;
        other.owner = Owner { pod: self.owner.pod + 1, epoch: 1, boot: self.owner.pod + 1 };
        other.random = Random::new([u8::try_from(other.owner.pod).unwrap_or(u8::MAX); 32]);
        other.transactions = self.transactions + 100;
        other
    }

    /// Both edges have the same store: it is with whoever acts.
    pub fn takes_the_store_from(&mut self, other: &mut Rig) {
        std::mem::swap(&mut self.store, &mut other.store);
        self.now = other.now;
    }

    /// The edge dies with what it did not do yet; after its lease another one takes over what it left. Gives how much that was.
    pub fn die(self) -> (Rig, usize) {
        let dead = self.owner;
        let mut heir = self.other_edge();
        heir.pass(5_500);
        let adopted = heir.adopt(dead);
        (heir, adopted)
    }

    pub fn adopt(&mut self, from: Owner) -> usize {
        let mut count = 0;
        for slot in [3, 4] {
            let operation = StoreOp::Adopt { slot, from, by: self.owner, limit: 500, lease_ms: 10_000 };
            let Ok(StoreReply::Adopted { items, more: false }) = self.run(operation) else { panic!("adopted") };
            for item in items {
                if let Adopted::Exchange { key, entry } = item {
                    count += 1;
                    self.ctx(|engine, ctx| engine.adopted(ctx, key, entry, None));
                }
            }
        }
        self.drain();
        count
    }

    /// The dialog of this leg as the SIP half wrote it.
    pub fn stored_dialog(&mut self, leg: &Leg) {
        let LegKey::Dialog(dialog) = leg.key else { panic!("no dialog") };
        let record = dialog_record(leg);
        let restore =
            StoreOp::RestoreDialog { dialog, record: Box::new(record), ttl_ms: 3_600_000, conversation: None };
        self.run(restore).unwrap();
    }

    pub fn ctx<R>(&mut self, run: impl FnOnce(&mut Engine, &mut Ctx<'_>) -> R) -> R {
        let mut ctx = Ctx {
            now: self.now,
            config: &self.config,
            owner: self.owner,
            random: &mut self.random,
            ids: &mut self.ids,
            valid_until: self.valid_until,
            cores: 1,
        };
        run(&mut self.engine, &mut ctx)
    }

    // --- legs ---

    fn leg_of(&self, key: LegKey, user: &str, who: &str, mcp: Option<McpRecord>) -> Arc<Leg> {
        Arc::new(Leg {
            session: key.session(),
            key,
            domain: self.config.domains["demo.example"].clone(),
            agent: self.config.agents[&("demo.example".to_owned(), user.to_owned())].clone(),
            principal: Principal::User(format!("sip:{who}@demo.example")),
            call_id: "call-1@caller".into(),
            mcp,
            carrier: Carrier::Message,
            plain_datagram: false,
            way: Way::default(),
        })
    }

    /// A dialog of alice with this agent; a native peer without an envelope.
    pub fn dialog(&self, user: &str) -> Arc<Leg> {
        self.dialog_with(user, 1, Some(mcp_record()))
    }

    pub fn dialog_with(&self, user: &str, number: u8, mcp: Option<McpRecord>) -> Arc<Leg> {
        let key = LegKey::Dialog(DialogKey { slot: 3, tenant: 1, id: [number; 16] });
        self.leg_of(key, user, "alice", mcp)
    }

    pub fn out_of_dialog(&self, user: &str, who: &str) -> Arc<Leg> {
        let mut hash = [9; 16];
        hash[..who.len()].copy_from_slice(who.as_bytes());
        let key = LegKey::OutOfDialog(SessionKey { slot: 4, tenant: 1, hash });
        self.leg_of(key, user, who, None)
    }

    // --- the SIP half ---

    /// One message in a transaction of its own; the SIP status that it gets.
    pub fn send(&mut self, leg: &Arc<Leg>, exchange: Option<&str>, body: &Value) -> u16 {
        self.send_bytes(leg, exchange, body.to_string().into_bytes())
    }

    pub fn send_bytes(&mut self, leg: &Arc<Leg>, exchange: Option<&str>, body: impl Into<Bytes>) -> u16 {
        self.transactions += 1;
        self.send_in(leg, exchange, body, self.transactions)
    }

    /// The same with the transaction's number: the same number is a retransmission at another edge.
    pub fn send_in(&mut self, leg: &Arc<Leg>, exchange: Option<&str>, body: impl Into<Bytes>, number: u32) -> u16 {
        self.send_phrase(leg, exchange, body, number).0
    }

    pub fn send_phrase(
        &mut self,
        leg: &Arc<Leg>,
        exchange: Option<&str>,
        body: impl Into<Bytes>,
        number: u32,
    ) -> (u16, &'static str) {
        let exchange = exchange.map(header);
        let inbound = Inbound {
            leg: leg.clone(),
            exchange,
            body: body.into(),
            transaction: u128::from(number).to_be_bytes(),
            received: self.now,
        };
        match self.ctx(|engine, ctx| engine.judge(ctx, inbound)) {
            Verdict::Refuse { status, phrase } => {
                self.drain();
                (status, phrase)
            }
            Verdict::Write { ticket, open, once } => {
                assert_eq!(self.engine.poll().map(|out| format!("{out:?}")), None, "nothing leaves before the write");
                assert!(open.is_none() || once.is_none());
                let outcome = match (open, once) {
                    (Some(open), _) => self.run(StoreOp::OpenExchange { open, nonce: None }),
                    (None, Some(key)) => self.run(StoreOp::Once { key, ttl_ms: 32_000, nonce: None }),
                    (None, None) if self.store_is_up => Ok(StoreReply::Done),
                    (None, None) => Err(StoreError::Unavailable),
                };
                let outcome = outcome.map(|reply| match reply {
                    StoreReply::Exchange(outcome) => Written::Exchange(outcome),
                    StoreReply::First(first) => Written::First(first),
                    _ => Written::Claimed,
                });
                self.steps.push(Step::Written);
                let answer = self.ctx(|engine, ctx| engine.written(ctx, ticket, outcome));
                self.drain();
                (answer.status, answer.phrase)
            }
        }
    }

    pub fn run(&mut self, operation: StoreOp) -> Result<StoreReply, StoreError> {
        if self.store_is_up { self.store.execute(self.now.wall.0, operation) } else { Err(StoreError::Unavailable) }
    }

    pub fn outcome(&mut self, delivery: &Delivery, outcome: DeliveryOutcome) {
        let id = delivery.id;
        self.ctx(|engine, ctx| engine.delivered(ctx, id, outcome));
        self.drain();
    }

    pub fn close(&mut self, leg: &Leg) {
        let key = leg.key;
        self.ctx(|engine, ctx| engine.leg_closed(ctx, &key, Closing::Bye));
        self.drain();
    }

    pub fn configure(&mut self, config: Config) {
        self.config = Arc::new(config);
        self.ctx(|engine, ctx| engine.configure(ctx));
        self.drain();
    }

    /// Does what the engine wants, until it wants nothing more.
    pub fn drain(&mut self) {
        while let Some(out) = self.engine.poll() {
            match out {
                EngineOut::Store { op, operation } => {
                    self.steps.push(Step::Store(name_of(&operation)));
                    self.held.push_back((op, operation));
                    if !self.holds_ops {
                        self.answer_op();
                    }
                }
                EngineOut::Backend { id, call } => {
                    self.steps.push(Step::Forward(id));
                    self.calls.push((id, call));
                }
                EngineOut::CancelBackend { id } => {
                    self.steps.push(Step::CancelBackend(id));
                    self.cancelled.push(id);
                }
                EngineOut::Deliver(delivery) => {
                    self.steps.push(Step::Deliver);
                    self.deliveries.push(delivery.clone());
                    if self.delivers {
                        self.carry(&delivery);
                    }
                }
                EngineOut::Audit(record) => {
                    self.steps.push(Step::Audit);
                    self.audits.push(record);
                }
                EngineOut::Ask { owner, exchange, .. } => self.asked.push((owner, exchange)),
                EngineOut::TakeBack(taken) => self.taken_back.push(taken),
                EngineOut::Span(span) => self.spans.push(span),
                EngineOut::Log { message, .. } => self.logs.push(message),
            }
        }
    }

    fn answer_op(&mut self) -> bool {
        let Some((op, operation)) = self.held.pop_front() else { return false };
        let reply = self.run(operation);
        assert!(self.ctx(|engine, ctx| engine.store_reply(ctx, op, reply)));
        true
    }

    /// The oldest held operation is answered; whether there was one.
    pub fn release(&mut self) -> bool {
        let was_there = self.answer_op();
        self.drain();
        was_there
    }

    /// What the SIP half does with a delivery: first the journal, then the peer.
    pub fn carry(&mut self, delivery: &Delivery) {
        let close = delivery.close.clone();
        let written = match (delivery.leg.key, close) {
            (LegKey::Dialog(dialog), close) if self.has_dialogs => {
                self.run(StoreOp::NextCseq { dialog, terminating: false, close, fence: None })
            }
            (_, Some(close)) => self.run(StoreOp::CloseExchange(*close)),
            (_, None) => Ok(StoreReply::Done),
        };
        let outcome = match written {
            Ok(StoreReply::Fenced) => DeliveryOutcome::Fenced,
            Ok(StoreReply::Unknown | StoreReply::Gone) if self.has_dialogs => DeliveryOutcome::Unreachable,
            Ok(_) => DeliveryOutcome::Delivered,
            Err(_) => DeliveryOutcome::StoreUnavailable,
        };
        self.outcome(delivery, outcome);
    }

    /// Lets time pass, alarm by alarm.
    pub fn pass(&mut self, ms: u64) {
        let end = self.now.mono.plus_millis(ms);
        while let Some((at, _)) = self.engine.poll_timeout().filter(|(at, _)| *at <= end) {
            self.go_to(at.max(self.now.mono));
            self.ctx(|engine, ctx| engine.handle_timeout(ctx));
            self.drain();
        }
        self.go_to(end);
    }

    fn go_to(&mut self, at: Mono) {
        let ms = at.millis_since(self.now.mono);
        self.now = Now { mono: at, wall: self.now.wall.plus_millis(ms) };
    }

    // --- the backend ---

    pub fn event(&mut self, id: BackendId, event: BackendEvent) {
        self.ctx(|engine, ctx| engine.backend(ctx, id, event));
        self.drain();
    }

    pub fn head(&mut self, id: BackendId, status: u16, session: Option<&str>) {
        self.event(id, BackendEvent::Head { status, session: session.map(str::to_owned) });
    }

    pub fn message(&mut self, id: BackendId, body: &Value) {
        self.message_bytes(id, body.to_string());
    }

    pub fn message_bytes(&mut self, id: BackendId, body: impl Into<Bytes>) {
        self.event(id, BackendEvent::Message { body: body.into(), event_id: None });
    }

    pub fn done(&mut self, id: BackendId) {
        self.event(id, BackendEvent::Done);
    }

    pub fn failed(&mut self, id: BackendId, failure: BackendFailure) {
        self.event(id, BackendEvent::Failed(failure));
    }

    /// A whole JSON answer.
    pub fn answer(&mut self, id: BackendId, body: &Value) {
        self.head(id, 200, None);
        self.message(id, body);
        self.done(id);
    }

    // --- what was seen ---

    /// The calls since the last look.
    pub fn new_calls(&mut self) -> Vec<(BackendId, BackendCall)> {
        std::mem::take(&mut self.calls)
    }

    /// The only call since the last look.
    #[track_caller]
    pub fn one_call(&mut self) -> (BackendId, BackendCall) {
        let mut calls = self.new_calls();
        assert_eq!(calls.len(), 1, "{calls:#?}");
        calls.remove(0)
    }

    /// The only message to the caller since the last look.
    #[track_caller]
    pub fn one_delivery(&mut self) -> (Option<String>, Value) {
        let mut all = self.new_deliveries();
        assert_eq!(all.len(), 1, "{all:#?}");
        all.remove(0)
    }

    pub fn new_deliveries(&mut self) -> Vec<(Option<String>, Value)> {
        std::mem::take(&mut self.deliveries)
            .into_iter()
            .map(|d| (d.exchange.map(|x| x.to_string()), serde_json::from_slice(&d.body).unwrap()))
            .collect()
    }

    /// The code of the only error to the caller since the last look, and its data.
    #[track_caller]
    pub fn one_error(&mut self) -> (i64, Value) {
        let (_, body) = self.one_delivery();
        let code = body["error"]["code"].as_i64();
        (code.unwrap_or_else(|| panic!("no error: {body}")), body["error"]["data"].clone())
    }

    /// Nothing is remembered beyond what the counters say.
    #[track_caller]
    pub fn assert_empty(&self) {
        let s = self.engine.stats();
        assert_eq!(
            (s.exchanges, s.sessions, s.backend_calls, s.deliveries, s.waiting, s.timers),
            (0, 0, 0, 0, 0, 0),
            "exchanges, sessions, calls, deliveries, waiting, timers"
        );
        assert_eq!(self.engine.poll_timeout(), None);
    }

    // --- a legacy session, opened ---

    /// Opens a legacy session; its stream is open and `initialized` was heard. Gives the stream's call.
    #[track_caller]
    pub fn initialize(&mut self, leg: &Arc<Leg>, header_is_used: bool) -> BackendId {
        self.initializations += 1;
        let exchange = format!("initialize-{}-{:011}", self.owner.pod, self.initializations);
        let session = header_is_used.then_some("session");
        let exchange = header_is_used.then_some(exchange.as_str());
        assert_eq!(self.send(leg, exchange, &initialize_request(0)), 200);
        let (id, call) = self.one_call();
        assert_eq!((call.session, call.protocol_version), (None, None));
        self.head(id, 200, Some("backend-1"));
        self.message(id, &initialize_result(0));
        self.done(id);
        let (_, answer) = self.one_delivery();
        assert_eq!(answer, initialize_result(0));
        assert_eq!(self.send(leg, session, &initialized()), 200);
        let (stream, call) = self.one_call();
        assert_eq!(call.action, BackendAction::Listen { last_event_id: None });
        self.head(stream, 200, None);
        let (id, call) = self.one_call();
        assert_eq!(body_of(&call), initialized());
        self.head(id, 202, None);
        self.done(id);
        assert!(self.new_calls().is_empty());
        stream
    }
}

fn dialog_record(leg: &Leg) -> DialogRecord {
    DialogRecord {
        phase: DialogPhase::Confirmed,
        call_id: leg.call_id.clone(),
        local_tag: "local".into(),
        remote_tag: "remote".into(),
        local_uri: format!("sip:{}@demo.example", leg.agent.user),
        remote_uri: leg.principal.as_str().to_owned(),
        remote_target: "sip:alice@192.0.2.1".into(),
        route_set: Vec::new(),
        secure: false,
        cseq_in: Some(1),
        cseq_out: 0,
        principal: leg.principal.as_str().to_owned(),
        agent_user: leg.agent.user.clone(),
        domain: leg.domain.domain.clone(),
        flow: None,
        local_sdp: None,
        remote_sdp: None,
        sdp_version: 1,
        session_timer: None,
        mcp: leg.mcp.clone(),
        accept_bytes: None,
        session_id: None,
        policy_epoch: 1,
        created_at: 1_800_000_000_000,
        source: "udp/0/192.0.2.1:5060".into(),
        owner: Owner { pod: 9, epoch: 1, boot: 9 },
        peer: None,
        we_called: false,
        retention_ms: 0,
        extra: BTreeMap::new(),
    }
}

pub fn header(text: &str) -> McpExchange {
    let text = if text.contains(';') { text.to_owned() } else { format!("{text};rel=caller") };
    McpExchange::parse(text.as_bytes()).expect("an MCP-Exchange value")
}

pub fn mcp_record() -> McpRecord {
    McpRecord {
        option_tag: "mcp".into(),
        conversation: "0b6f7a9e-3c5d-4f10-9a51-6d1d2f3e4a5b".into(),
        envelope: false,
        tools: None,
        schemas: Vec::new(),
        versions: Vec::new(),
        peer_role: "caller".into(),
        info_package: true,
    }
}

/// A modern `tools/call`.
pub fn call(id: impl Into<Value>, tool: &str) -> Value {
    modern(id, "tools/call", json!({ "name": tool }))
}

pub fn modern(id: impl Into<Value>, method: &str, mut params: Value) -> Value {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    json!({ "jsonrpc": "2.0", "id": id.into(), "method": method, "params": params })
}

pub fn legacy_call(id: impl Into<Value>, tool: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": id.into(), "method": "tools/call", "params": { "name": tool } })
}

pub fn result(id: impl Into<Value>, text: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": id.into(), "result": { "content": [{ "type": "text", "text": text }] } })
}

pub fn initialize_request(id: i64) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": "initialize", "params": {
        "protocolVersion": LEGACY, "capabilities": {"roots": {}}, "clientInfo": {"name": "t", "version": "1"} } })
}

pub fn initialize_result(id: i64) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "result": {
        "protocolVersion": LEGACY, "capabilities": {"tools": {}}, "serverInfo": {"name": "s", "version": "1"} } })
}

pub fn initialized() -> Value {
    json!({ "jsonrpc": "2.0", "method": "notifications/initialized" })
}

#[track_caller]
pub fn body_of(call: &BackendCall) -> Value {
    match &call.action {
        BackendAction::Post { body } => serde_json::from_slice(body).unwrap(),
        other => panic!("no POST: {other:?}"),
    }
}

fn name_of(operation: &StoreOp) -> &'static str {
    match operation {
        StoreOp::CloseExchange(_) => "CloseExchange",
        StoreOp::ReadSession { .. } => "ReadSession",
        StoreOp::WriteSession { .. } => "WriteSession",
        StoreOp::DropSession { .. } => "DropSession",
        _ => "other",
    }
}
