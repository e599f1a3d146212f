//! `McpAgent`: one SIP address and the MCP peer behind it.

use super::{Duration, LocalRef, McpAgentStatus};
use crate::manifest::ObjectKey;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One SIP address and the MCP peer behind it: an MCP server over HTTP, or a SIP user agent that registers itself.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "sipmcp.dev",
    version = "v1alpha1",
    kind = "McpAgent",
    namespaced,
    shortname = "mcpa",
    category = "sipmcp",
    status = "McpAgentStatus",
    derive = "PartialEq",
    doc = "One SIP address and the MCP peer behind it: an MCP server over HTTP, or a SIP user agent that registers itself.",
    printcolumn(name = "Address", type_ = "string", json_path = ".status.uri"),
    printcolumn(name = "Edge", type_ = "string", json_path = ".spec.parentRefs[*].name"),
    printcolumn(name = "Programmed", type_ = "string", json_path = ".status.edges.summary"),
    printcolumn(
        name = "Registered",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Registered")].status"#
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Tools", type_ = "integer", json_path = ".status.capabilities.effective", priority = 1),
    printcolumn(name = "Sessions", type_ = "integer", json_path = ".status.sessions.active", priority = 1),
    printcolumn(name = "Backend", type_ = "string", json_path = ".status.backend", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("self.address == oldSelf.address").message("address is immutable; make a new McpAgent"),
    validation = Rule::new("!has(self.registration) || has(self.backend.sipContact)")
        .message("registration is for backend.sipContact: an MCP server over HTTP does not register"),
    validation = Rule::new("!has(self.backend.sipContact) || self.capabilities.source != 'Discovered'")
        .message("an agent that registers itself may advertise only what is declared: use source Declared or Intersect"),
    validation = Rule::new("self.capabilities.source != 'Declared' || !has(self.inFlight.tools) || self.inFlight.tools.all(f, has(self.capabilities.tools) && self.capabilities.tools.exists(t, t.name == f.name))")
        .message("inFlight.tools names a tool that capabilities.tools does not declare"),
    validation = Rule::new("!has(self.inFlight.tools) || self.inFlight.tools.all(f, f.onFailover != 'Replay' || (has(self.capabilities.tools) && self.capabilities.tools.exists(t, t.name == f.name && t.effect in ['ReadOnly', 'Idempotent'])))")
        .message("onFailover Replay is only for a tool that is declared ReadOnly or Idempotent")
)]
pub struct McpAgentSpec {
    /// The address at which the agent answers. Immutable.
    pub address: AgentAddress,

    /// The edges at which the agent answers, at all their listeners. Absent: every SipEdge whose listeners allow the domain.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub parent_refs: Vec<ParentRef>,

    /// What answers there.
    pub backend: Backend,

    /// What the agent may offer. Every caller sees at most this, cut down further by the policies.
    pub capabilities: Capabilities,

    /// Registration class of an agent with `backend.sipContact`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registration: Option<Registration>,

    /// How long and how many conversations with this agent may be. Narrows what the store and the domain allow, never widens it.
    #[serde(default)]
    pub session: SessionLimits,

    /// Requests that wait for their answer.
    #[serde(default)]
    pub in_flight: InFlight,
}

/// An edge at which an agent answers (the shape of Gateway API's ParentReference).
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct ParentRef {
    /// Kind of the object.
    #[serde(default)]
    pub kind: ParentKind,
    /// `metadata.namespace` of the SipEdge. Absent: the agent's own namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// `metadata.name` of the SipEdge.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

impl ParentRef {
    /// Namespace and name of the SipEdge, for an agent of this namespace.
    pub fn key(&self, agent_namespace: &str) -> ObjectKey {
        ObjectKey::new(self.namespace.as_deref().unwrap_or(agent_namespace), &*self.name)
    }
}

/// Kinds at which an agent answers.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ParentKind {
    #[default]
    SipEdge,
}

/// A SIP address of record: `sip:USER@DOMAIN`.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AgentAddress {
    /// The user part of the address, without escapes (RFC 3261 section 25.1, `unreserved`).
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9_.!~*'()-]+$"))]
    pub user: String,
    /// The SipDomain that gives the host part.
    pub domain_ref: LocalRef,
}

/// What answers for an agent: exactly one of the two.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.mcpHttp) != has(self.sipContact)").message("give exactly one of mcpHttp and sipContact")
)]
pub struct Backend {
    /// An MCP server that speaks Streamable HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mcp_http: Option<McpHttp>,
    /// A SIP user agent that registers itself at the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sip_contact: Option<SipContact>,
}

/// [`Backend`] as the choice that it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum BackendKind<'a> {
    McpHttp(&'a McpHttp),
    SipContact(&'a SipContact),
}

impl Backend {
    /// The one backend; `None` when none or both are given, which validation refuses.
    pub fn kind(&self) -> Option<BackendKind<'_>> {
        match (&self.mcp_http, &self.sip_contact) {
            (Some(http), None) => Some(BackendKind::McpHttp(http)),
            (None, Some(contact)) => Some(BackendKind::SipContact(contact)),
            _ => None,
        }
    }
}

/// An MCP server over Streamable HTTP.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.url) != has(self.serviceRef)").message("give exactly one of serviceRef and url"),
    validation = Rule::new("!has(self.path) || has(self.serviceRef)").message("path is for serviceRef; a url has its own path"),
    validation = Rule::new("!has(self.tls) || !has(self.url) || self.url.startsWith('https://')").message("tls needs an https:// url")
)]
pub struct McpHttp {
    /// The Service in front of the MCP server, in the agent's namespace. With `tls` it is spoken to over HTTPS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_ref: Option<ServiceRef>,

    /// With `serviceRef`: path of the MCP endpoint. Default: `/mcp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^/[^?#\s]*$"))]
    pub path: Option<String>,

    /// The MCP endpoint, `http://` or `https://`, with its path: outside the cluster, and in manifests read from files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 2048), regex(pattern = r"^https?://[^/?#\s]+(/[^?#\s]*)?$"))]
    pub url: Option<String>,

    /// MCP revisions that the server speaks, the preferred one first.
    #[serde(default = "default_revisions")]
    #[schemars(length(min = 1, max = 2))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub revisions: Vec<McpRevision>,

    /// Trust for HTTPS. Absent: with an `https://` url the certificate authorities of the system, with `serviceRef` plain HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<BackendTls>,

    /// The Secret whose key `token` is sent as `Authorization: Bearer`. It is the edge's own credential, never the caller's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential_ref: Option<LocalRef>,
}

/// A port of a Service in the agent's namespace.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRef {
    /// `metadata.name` of the Service.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z]([a-z0-9-]*[a-z0-9])?$"))]
    pub name: String,
    /// Port number of the Service.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
}

impl McpHttp {
    /// Path of the endpoint where a Service is given without one.
    pub const DEFAULT_PATH: &'static str = "/mcp";

    /// The endpoint, for an agent of this namespace: the URL as it stands, or the Service by its name in the cluster's DNS.
    /// `None` where neither is given, which validation refuses.
    pub fn url_in(&self, namespace: &str) -> Option<String> {
        match (&self.url, &self.service_ref) {
            (Some(url), None) => Some(url.clone()),
            (None, Some(ServiceRef { name, port })) => {
                let scheme = if self.tls.is_some() { "https" } else { "http" };
                let path = self.path.as_deref().unwrap_or(Self::DEFAULT_PATH);
                Some(format!("{scheme}://{name}.{namespace}.svc:{port}{path}"))
            }
            _ => None,
        }
    }
}

/// A revision of the Model Context Protocol.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum McpRevision {
    /// The last one with `initialize` and sessions (the legacy era).
    #[serde(rename = "2025-11-25")]
    V2025_11_25,
    /// The first one without sessions (the modern era).
    #[serde(rename = "2026-07-28")]
    V2026_07_28,
}

impl McpRevision {
    /// The revision as MCP writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            McpRevision::V2025_11_25 => "2025-11-25",
            McpRevision::V2026_07_28 => "2026-07-28",
        }
    }
}

fn default_revisions() -> Vec<McpRevision> {
    vec![McpRevision::V2026_07_28, McpRevision::V2025_11_25]
}

/// TLS toward a backend.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BackendTls {
    /// The ConfigMap whose key `ca.crt` holds the certificate authorities, PEM.
    pub ca_bundle_ref: LocalRef,
}

/// A SIP user agent that registers itself (RFC 3261 section 10).
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SipContact {
    /// How it proves that the address is its own. The domain must offer this.
    pub authentication: ContactAuthentication,
}

/// Authentication of a registering agent.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContactAuthentication {
    /// The digest user with the name of the address's user part.
    Digest,
    /// A TLS client certificate that names the address.
    ClientCertificate,
}

/// What an agent may offer.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Capabilities {
    /// Where the list of tools comes from.
    #[serde(default)]
    pub source: CapabilitySource,

    /// Declared tools.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub tools: Vec<Tool>,

    /// Schemas that the agent understands: tokens or absolute URIs (draft §5.2).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 256), regex(pattern = r#"^[^\s",;]+$"#)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub schemas: Vec<String>,

    /// What headers and OPTIONS show of it (draft §7.5.1, SEC-11).
    #[serde(default)]
    pub disclosure: Disclosure,
}

/// Source of an agent's tools.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CapabilitySource {
    /// `tools` as they stand; nothing else can be called.
    #[default]
    Declared,
    /// What the backend lists. `tools` only adds versions and effects to what is listed.
    Discovered,
    /// Declared and listed.
    Intersect,
}

/// A tool by its MCP name.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Tool {
    /// The tool's name in MCP.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9_.-]+$"))]
    pub name: String,
    /// The number after `@` in MCP-Capabilities and in the negotiation envelope (draft §5.2).
    #[serde(default = "default_tool_version")]
    #[schemars(range(min = 0, max = 999_999_999))]
    pub version: u32,
    /// What a call does to the world; decides whether a call may be repeated after a failure.
    #[serde(default)]
    pub effect: ToolEffect,
}

fn default_tool_version() -> u32 {
    1
}

/// Effect of a tool.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ToolEffect {
    /// Changes nothing.
    ReadOnly,
    /// A second call with the same arguments changes nothing more.
    Idempotent,
    /// Everything that is not safe to repeat.
    #[default]
    Destructive,
}

/// What an agent discloses before a call is allowed.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Disclosure {
    /// What the policies let this caller list.
    #[default]
    PermittedOnly,
    /// All tools of the agent, to every caller that may see the address.
    All,
}

/// Registration class (draft §1.4.4, REG-4).
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.expiresSeconds) || self.profile != 'Ephemeral' || (self.expiresSeconds >= 60 && self.expiresSeconds <= 300)")
        .message("profile Ephemeral takes expiresSeconds from 60 to 300"),
    validation = Rule::new("!has(self.expiresSeconds) || self.profile != 'Production' || (self.expiresSeconds >= 1800 && self.expiresSeconds <= 7200)")
        .message("profile Production takes expiresSeconds from 1800 to 7200"),
    validation = Rule::new("!has(self.expiresSeconds) || self.profile != 'Pool' || (self.expiresSeconds >= 300 && self.expiresSeconds <= 900)")
        .message("profile Pool takes expiresSeconds from 300 to 900"),
    validation = Rule::new("!has(self.expiresSeconds) || self.profile != 'Federated' || (self.expiresSeconds >= 600 && self.expiresSeconds <= 1800)")
        .message("profile Federated takes expiresSeconds from 600 to 1800")
)]
pub struct Registration {
    /// The class of the agent; gives the range of granted expiries.
    #[serde(default)]
    pub profile: RegistrationProfile,
    /// Seconds granted to a REGISTER that asks for no time. Absent: the lowest of the profile's range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 60, max = 7200))]
    pub expires_seconds: Option<u32>,
}

/// Agent classes of the draft with their range of expiries in seconds.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RegistrationProfile {
    /// Short-lived: 60-300.
    Ephemeral,
    /// Stable: 1800-7200 (the draft recommends up to 3600).
    #[default]
    Production,
    /// Member of a load-balanced pool: 300-900, jittered.
    Pool,
    /// From another domain: 600-1800.
    Federated,
}

impl RegistrationProfile {
    /// The range of granted expiries in seconds.
    pub fn seconds(self) -> std::ops::RangeInclusive<u32> {
        match self {
            RegistrationProfile::Ephemeral => 60..=300,
            RegistrationProfile::Production => 1800..=7200,
            RegistrationProfile::Pool => 300..=900,
            RegistrationProfile::Federated => 600..=1800,
        }
    }

    /// The name as it stands in a manifest.
    pub fn as_str(self) -> &'static str {
        match self {
            RegistrationProfile::Ephemeral => "Ephemeral",
            RegistrationProfile::Production => "Production",
            RegistrationProfile::Pool => "Pool",
            RegistrationProfile::Federated => "Federated",
        }
    }
}

/// How long and how many conversations with an agent may be.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.idleTimeout) || !has(self.maxDuration) || duration(self.idleTimeout) <= duration(self.maxDuration)")
        .message("idleTimeout must not be longer than maxDuration")
)]
pub struct SessionLimits {
    /// A session without a message for so long ends, for example `30m`; at least `1m`. Absent: `SessionStore.spec.ttl.idle`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Duration>,

    /// A session ends with BYE so long after its beginning, for example `12h`; at least `1m`. Absent: `SessionStore.spec.ttl.absolute`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_duration: Option<Duration>,

    /// Sessions with this agent at one time in one edge; its cores have equal shares, rounded up. One more is answered 486. Absent: only the
    /// edge and the domain limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_concurrent: Option<u32>,
}

/// Requests that wait for their answer.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct InFlight {
    /// Seconds from forwarding a request to its final answer; after that the caller gets a JSON-RPC error and the request is cancelled.
    #[serde(default = "default_timeout_seconds")]
    #[schemars(range(min = 1, max = 3600))]
    pub timeout_seconds: u32,

    /// What becomes of a call in flight when its edge is lost, for the tools that `tools` does not name.
    #[serde(default)]
    pub default: OnFailover,

    /// The same for single tools.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub tools: Vec<ToolInFlight>,
}

impl Default for InFlight {
    fn default() -> Self {
        InFlight { timeout_seconds: default_timeout_seconds(), default: OnFailover::default(), tools: Vec::new() }
    }
}

/// What becomes of the calls of one tool when their edge is lost.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ToolInFlight {
    /// The tool's name in MCP.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9_.-]+$"))]
    pub name: String,
    /// What becomes of its calls.
    pub on_failover: OnFailover,
}

/// What the edge that takes over does with a call whose answer was not given yet.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailover {
    /// Run again where the tool is declared ReadOnly or Idempotent; else as FailRetryable.
    #[default]
    Replay,
    /// Resume by the id of its task; a call without one fails.
    TaskOnly,
    /// A typed error; the edge never runs it a second time. It says that the caller may try again where the tool is declared ReadOnly or
    /// Idempotent.
    FailRetryable,
}

impl InFlight {
    /// What becomes of a call of this tool.
    pub fn on_failover(&self, tool: &str) -> OnFailover {
        self.tools.iter().find(|named| named.name == tool).map_or(self.default, |named| named.on_failover)
    }
}

fn default_timeout_seconds() -> u32 {
    60
}
