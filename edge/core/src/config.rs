//! Validated configuration. Whoever builds a `Config` has checked it: the core only looks things up.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use mcp_sip::policy::Policy;
use session_store::Durability;
use zeroize::Zeroizing;

use crate::input::Transport;

/// Everything that an edge knows of the world. Replaced as a whole.
#[derive(Clone)]
pub struct Config {
    /// Rises with every change; part of what a session remembers of its policy.
    pub epoch: u64,
    pub edge: EdgeConfig,
    pub listeners: Vec<ListenerConfig>,
    /// By `DomainConfig::domain`, lower case.
    pub domains: BTreeMap<String, Arc<DomainConfig>>,
    /// By address: lower-case domain, then user part (case-sensitive, unescaped form).
    pub agents: BTreeMap<(String, String), Arc<AgentConfig>>,
    /// Two live keys at most, the first one seals.
    pub token_keys: Vec<TokenKey>,
    /// HMAC-SHA-256: slot labels and all hashes in key names of the store. It never changes: token keys rotate, names do not.
    pub naming_key: Zeroizing<[u8; 32]>,
    /// What happens to new work while the store is away (`SessionStore.spec.onOutage`).
    pub on_outage: OnOutage,
    pub ttl: Ttl,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("epoch", &self.epoch)
            .field("edge", &self.edge)
            .field("listeners", &self.listeners)
            .field("domains", &self.domains)
            .field("agents", &self.agents)
            .field("token_keys", &self.token_keys)
            .field("on_outage", &self.on_outage)
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}

/// `SessionStore.spec.ttl`: how long a conversation may last, whatever its ends do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ttl {
    /// A session out of a dialog ends after so long without a message (mcp.md 5.4).
    pub idle_ms: u64,
    /// A dialog ends so long after its beginning.
    pub absolute_ms: u64,
}

impl Default for Ttl {
    fn default() -> Self {
        Ttl { idle_ms: 5 * 60_000, absolute_ms: 24 * 60 * 60_000 }
    }
}

/// `SessionStore.spec.onOutage`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnOutage {
    /// What stands is served from what this edge holds; new work gets 503.
    #[default]
    KeepExisting,
    /// 503 to every request but ACK, CANCEL, BYE.
    RejectAll,
}

/// One key set for tokens and nonces.
#[derive(Clone)]
pub struct TokenKey {
    pub kid: u8,
    /// AES-SIV-256 (two AES-128 keys).
    pub siv: Zeroizing<[u8; 32]>,
    /// HMAC-SHA-256: nonces, stateless tags.
    pub mac: Zeroizing<[u8; 32]>,
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// `SipEdge`.
#[derive(Clone, Debug)]
pub struct EdgeConfig {
    /// namespace/name.
    pub name: String,
    pub advertise: Advertise,
    pub limits: Limits,
    pub drain: DrainConfig,
}

/// What stands in the host part of the URIs that we write (Contact, Via sent-by, Record-Route).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advertise {
    /// A service or SRV name, written without a port.
    Name(String),
    /// Each listener's own address and port (laptop, tests, no DNS); an address overrides the bound one.
    Static(Option<std::net::IpAddr>),
}

/// `SipEdge.spec.limits`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    pub sessions_per_pod: usize,
    pub in_flight_per_session: usize,
    pub sip_body_bytes: usize,
    pub message_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { sessions_per_pod: 1000, in_flight_per_session: 128, sip_body_bytes: 65_536, message_bytes: 1_048_576 }
    }
}

/// `SipEdge.spec.drain`, in seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainConfig {
    pub in_flight_seconds: u64,
    pub dialog_seconds: u64,
    pub strategy: DrainStrategy,
}

impl Default for DrainConfig {
    fn default() -> Self {
        DrainConfig { in_flight_seconds: 30, dialog_seconds: 20, strategy: DrainStrategy::default() }
    }
}

/// `SipEdge.spec.drain.strategy`: what becomes of the dialogs once the calls in flight have ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DrainStrategy {
    /// Another edge takes them over; where there is none, they end with BYE.
    #[default]
    Handover,
    /// They may end by themselves until `dialog_seconds` are over; what is left is handed over.
    WaitForEnd,
    /// They end with BYE, whoever else is there.
    Terminate,
}

/// `SipEdge.spec.listeners[]`, bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerConfig {
    pub name: String,
    pub transport: Transport,
    /// The bound address (the port is never 0 here).
    pub address: SocketAddr,
}

/// `SipDomain`.
#[derive(Clone, Debug)]
pub struct DomainConfig {
    /// Lower case.
    pub domain: String,
    /// The tenant number; given once, never given twice.
    pub tenant: u16,
    /// Beside `mcp` and `x-mcp`.
    pub option_tags: Vec<String>,
    pub digest: Option<DigestConfig>,
    /// Whether client certificates of a CA of this domain name its users.
    pub client_certificates: bool,
    /// Plain transports that the domain allows (SEC-1).
    pub allow_plain: Vec<Transport>,
    pub max_sessions: Option<usize>,
    /// Averaged over ten seconds.
    pub tool_calls_per_second: Option<u32>,
    pub max_payload_bytes: Option<usize>,
    /// Policies whose target is the domain.
    pub policies: Vec<Arc<Policy>>,
    /// Lenient reading of `MCP-Select` and `MCP-Capabilities` (D7).
    pub lenient_headers: bool,
    /// Milliseconds that a conversation stays readable for export after its end; 0: it goes with its tombstone.
    pub retention_ms: u64,
    /// While the store is away a REGISTER that refreshes what this edge served recently gets 200 for a short time, unstored.
    pub refresh_in_outage: bool,
    /// What an acknowledgement of the store means for what belongs to the domain.
    pub durability: Durability,
}

/// `SipDomain.spec.authentication.digest`.
#[derive(Clone)]
pub struct DigestConfig {
    pub realm: String,
    /// Strongest first: `SHA-512-256`, `SHA-256`, `MD5`.
    pub algorithms: Vec<String>,
    /// By user: by algorithm name: lower-case hex H(A1).
    pub users: Arc<BTreeMap<String, BTreeMap<String, Zeroizing<String>>>>,
}

impl std::fmt::Debug for DigestConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DigestConfig")
            .field("realm", &self.realm)
            .field("algorithms", &self.algorithms)
            .finish_non_exhaustive()
    }
}

/// `McpAgent`.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// namespace/name.
    pub key: String,
    pub user: String,
    pub domain: String,
    pub backend: AgentBackend,
    pub capabilities: Capabilities,
    pub registration: RegistrationProfile,
    /// Policies whose target is this agent.
    pub policies: Vec<Arc<Policy>>,
    /// Milliseconds that one MCP request may take.
    pub timeout_ms: u64,
    pub on_failover: Failovers,
    pub session: SessionLimits,
}

/// `McpAgent.spec.session`: what the agent narrows of what the store and the domain allow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionLimits {
    /// Sessions with the agent at one time in one edge.
    pub max_concurrent: Option<usize>,
    /// A session out of a dialog ends after so long without a message, if [`Ttl::idle_ms`] does not end it before.
    pub idle_timeout_ms: Option<u64>,
    /// A dialog ends so long after its beginning, if [`Ttl::absolute_ms`] does not end it before.
    pub max_duration_ms: Option<u64>,
}

/// `McpAgent.spec.inFlight`: what becomes of tool calls whose edge is lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failovers {
    /// For the tools that `tools` does not name.
    pub default: OnFailover,
    /// By the tool's name.
    pub tools: BTreeMap<String, OnFailover>,
}

impl Failovers {
    /// For the calls of this tool.
    #[must_use]
    pub fn of(&self, tool: &str) -> OnFailover {
        self.tools.get(tool).copied().unwrap_or(self.default)
    }
}

/// What the edge that takes over does with a tool call (mcp.md, section 9).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailover {
    /// It runs again where the tool is declared safe; else as [`OnFailover::FailRetryable`].
    #[default]
    Replay,
    /// Its task is asked for; a call without one fails.
    TaskOnly,
    /// It never runs again: what is left of it is asked for (its task, the rest of its stream), else the caller gets the typed error.
    FailRetryable,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentBackend {
    /// An MCP server over Streamable HTTP; `revisions` in order of preference. URL, TLS and credential stay in the shell.
    McpHttp { revisions: Vec<String> },
    /// A SIP UA that registers itself at this address; with `by_certificate` its TLS client certificate must name the address, a digest is
    /// not enough.
    SipContact { by_certificate: bool },
}

impl AgentBackend {
    /// Whether the agent registers itself.
    #[must_use]
    pub fn is_sip_contact(&self) -> bool {
        matches!(self, AgentBackend::SipContact { .. })
    }
}

/// `McpAgent.spec.capabilities`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    pub source: CapabilitySource,
    pub tools: Vec<DeclaredTool>,
    pub schemas: Vec<String>,
    /// `disclosure: All` shows what the caller may not call, too.
    pub disclose_all: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CapabilitySource {
    Declared,
    #[default]
    Discovered,
    Intersect,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredTool {
    pub name: String,
    pub version: u32,
    pub effect: ToolEffect,
}

/// What a second execution would do. Everything that is not declared safe is `Destructive`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ToolEffect {
    ReadOnly,
    Idempotent,
    #[default]
    Destructive,
}

/// `McpAgent.spec.registration.profile` (REG-4); seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegistrationProfile {
    pub min: u32,
    pub max: u32,
    pub default: u32,
    /// Granted values are jittered (REG-5).
    pub jitter: bool,
}
