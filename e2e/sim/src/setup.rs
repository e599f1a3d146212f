//! The world that both cores are configured with: one domain, one declared agent, one agent that registers itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use edge_core::config::{
    Advertise, AgentBackend, AgentConfig, Capabilities, CapabilitySource, Config, DeclaredTool, DomainConfig,
    DrainConfig, EdgeConfig, Limits, ListenerConfig, RegistrationProfile, TokenKey, ToolEffect,
};
use edge_core::input::Transport;
use mcp_sip::policy::{Action, Inheritance, Peer, Policy, PolicySpec, RuleSpec};

pub const DOMAIN: &str = "sim.example";
/// The user of the agent that registers itself, and is called.
pub const PHONE: &str = "phone";
/// One exchange may take so long.
pub const TIMEOUT_MS: u64 = 20_000;

/// Where a core listens.
pub fn core_address(core: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1 + core as u8], 5060))
}

/// Where a caller lives.
pub fn caller_address(caller: usize) -> SocketAddr {
    SocketAddr::from(([10, 1, (caller >> 8) as u8, caller as u8], 5060))
}

/// The configuration of one core; the token keys are the same for all.
pub fn config(core: usize) -> Arc<Config> {
    let allow = RuleSpec {
        name: "all".into(),
        from: Some(vec![Peer::SipIdentity(format!("sip:*@{DOMAIN}"))]),
        methods: None,
        phases: Vec::new(),
        action: Action::Allow,
        when: None,
        limits: None,
    };
    let spec = PolicySpec {
        name: "default/callers".into(),
        inheritance: Inheritance::Default,
        default_action: Action::Deny,
        rules: vec![allow],
    };
    let policy = Policy::compile(&spec).unwrap_or_else(|e| panic!("the policy of the simulation: {e:?}"));
    let domain = DomainConfig {
        domain: DOMAIN.into(),
        tenant: 1,
        option_tags: Vec::new(),
        digest: None,
        client_certificates: true,
        allow_plain: vec![Transport::Udp, Transport::Tcp],
        max_sessions: None,
        tool_calls_per_second: None,
        max_payload_bytes: None,
        policies: vec![Arc::new(policy)],
        lenient_headers: true,
        retention_ms: 0,
        refresh_in_outage: false,
        durability: session_store::Durability::Replica,
    };
    let tool = |name: &str, effect| DeclaredTool { name: name.into(), version: 1, effect };
    let agent = AgentConfig {
        key: "default/agent".into(),
        user: "agent".into(),
        domain: DOMAIN.into(),
        backend: AgentBackend::McpHttp { revisions: vec!["2026-07-28".into()] },
        capabilities: Capabilities {
            source: CapabilitySource::Declared,
            tools: vec![tool("pay", ToolEffect::Destructive), tool("look", ToolEffect::ReadOnly)],
            schemas: Vec::new(),
            disclose_all: false,
        },
        registration: RegistrationProfile { min: 1800, max: 7200, default: 3600, jitter: false },
        policies: Vec::new(),
        timeout_ms: TIMEOUT_MS,
        on_failover: edge_core::config::Failovers::default(),
        session: edge_core::config::SessionLimits::default(),
    };
    let mut domains = BTreeMap::new();
    domains.insert(DOMAIN.to_owned(), Arc::new(domain));
    let phone = AgentConfig {
        key: "default/phone".into(),
        user: PHONE.into(),
        backend: AgentBackend::SipContact { by_certificate: false },
        capabilities: Capabilities::default(),
        ..agent.clone()
    };
    let mut agents = BTreeMap::new();
    agents.insert((DOMAIN.to_owned(), PHONE.to_owned()), Arc::new(phone));
    agents.insert((DOMAIN.to_owned(), "agent".to_owned()), Arc::new(agent));
    Arc::new(Config {
        epoch: 1,
        edge: EdgeConfig {
            name: "default/sim".into(),
            advertise: Advertise::Static(None),
            limits: Limits::default(),
            drain: DrainConfig::default(),
        },
        listeners: vec![ListenerConfig { name: "udp".into(), transport: Transport::Udp, address: core_address(core) }],
        domains,
        agents,
        token_keys: vec![TokenKey { kid: 1, siv: [7; 32].into(), mac: [9; 32].into() }],
        naming_key: [11; 32].into(),
        on_outage: edge_core::config::OnOutage::default(),
        ttl: edge_core::config::Ttl::default(),
    })
}
