//! `SipDomain`: a SIP domain is the tenant border.

use super::{Allowed, DEFAULT_NAMESPACE, Durability, Duration, Labels, NamespacedRef, SipDomainStatus};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A SIP domain and the tenant behind it: how its users prove who they are, which transports may carry MCP, how much it may use.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "sipmcp.dev",
    version = "v1alpha1",
    kind = "SipDomain",
    shortname = "sdom",
    category = "sipmcp",
    status = "SipDomainStatus",
    derive = "PartialEq",
    doc = "A SIP domain and the tenant behind it: how its users prove who they are, which transports may carry MCP, how much it may use.",
    printcolumn(name = "Domain", type_ = "string", json_path = ".spec.domain"),
    printcolumn(name = "Agents", type_ = "integer", json_path = ".status.agents"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#)
)]
#[x_kube(validation = Rule::new("self.domain == oldSelf.domain").message("domain is immutable; make a new SipDomain"))]
pub struct SipDomainSpec {
    /// The host part of the SIP addresses of this tenant, for example `acme.example`. Immutable; one SipDomain per domain.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*$")
    )]
    pub domain: String,

    /// The namespaces whose agents may have an address in this domain; a selector looks at the labels of the namespaces.
    #[serde(default)]
    pub allowed_namespaces: Allowed,

    /// The namespaces whose McpCapabilityPolicies may be for this domain; a policy of any other has no effect on it (`RefNotPermitted`).
    /// Who may have an agent here (`allowedNamespaces`) does not thereby decide about the agents of others. Absent: the namespaces of the
    /// Secrets and ConfigMaps that this domain names; where it names none, `default`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 16),
        inner(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub policy_namespaces: Vec<String>,

    /// SIP option tags that stand for MCP beside `mcp` and `x-mcp`, which are always accepted (draft §5.1, NEG-1).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9.!%*_+`'~-]+$")))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub option_tags: Vec<String>,

    /// How a user of the domain proves its identity. With neither digest nor certificates only anonymous callers remain.
    #[serde(default)]
    pub authentication: Authentication,

    /// Which transports without TLS may carry MCP for this domain.
    #[serde(default)]
    pub transport: TransportPolicy,

    /// How much the domain may use of each edge.
    #[serde(default)]
    pub quota: DomainQuota,

    /// What an answer to this domain's users waits for before it leaves. A class that the store cannot give is refused, never lowered.
    #[serde(default)]
    pub durability: Durability,

    /// Encryption and retention of what is stored (SEC-15, OBS-4).
    #[serde(default)]
    pub data_protection: DataProtection,

    /// What is allowed for this domain while the store is not reached.
    #[serde(default)]
    pub outage: DomainOutage,
}

/// Ways to authenticate users of a domain. Both may stand together; a verified certificate is taken before digest (SEC-4).
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Authentication {
    /// HTTP Digest (RFC 8760).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<DigestAuthentication>,
    /// TLS client certificates that name the user (subjectAltName URI `sip:user@domain`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificates: Option<ClientCertificates>,
}

/// HTTP Digest for SIP (RFC 3261 section 22, RFC 8760).
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DigestAuthentication {
    /// The realm of the challenge; part of every stored hash. Default: the domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r#"^[^"\\\r\n]+$"#))]
    pub realm: Option<String>,

    /// Offered algorithms, the preferred one first (RFC 8760 section 2.4). `MD5` is weak: list it only for phones that know nothing else.
    #[serde(default = "default_algorithms")]
    #[schemars(length(min = 1, max = 3))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub algorithms: Vec<DigestAlgorithm>,

    /// The Secret with the users. Each key of its data is a user name; the value has one line `ALGORITHM:HEX` for each algorithm, where
    /// HEX is H(user:realm:password) in hexadecimal (RFC 7616 section 3.4.2). Passwords are never stored.
    pub users_secret_ref: NamespacedRef,
}

/// A digest algorithm by its registered name (IANA HTTP Digest Algorithm Values, RFC 8760 section 2.1).
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DigestAlgorithm {
    #[serde(rename = "SHA-256")]
    Sha256,
    #[serde(rename = "SHA-512-256")]
    Sha512_256,
    #[serde(rename = "MD5")]
    Md5,
}

impl DigestAlgorithm {
    /// Every algorithm, strongest first.
    pub const ALL: [DigestAlgorithm; 3] = [DigestAlgorithm::Sha512_256, DigestAlgorithm::Sha256, DigestAlgorithm::Md5];

    /// The registered name, as it stands in a challenge and in a users Secret.
    pub fn as_str(self) -> &'static str {
        match self {
            DigestAlgorithm::Sha256 => "SHA-256",
            DigestAlgorithm::Sha512_256 => "SHA-512-256",
            DigestAlgorithm::Md5 => "MD5",
        }
    }

    /// Length of H(A1) in bytes.
    pub fn hash_len(self) -> usize {
        match self {
            DigestAlgorithm::Sha256 | DigestAlgorithm::Sha512_256 => 32,
            DigestAlgorithm::Md5 => 16,
        }
    }
}

fn default_algorithms() -> Vec<DigestAlgorithm> {
    vec![DigestAlgorithm::Sha256]
}

/// Trust for client certificates of users.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ClientCertificates {
    /// The ConfigMap whose key `ca.crt` holds the certificate authorities, PEM.
    pub ca_bundle_ref: NamespacedRef,
}

/// Transport policy of a domain.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TransportPolicy {
    /// Transports without TLS that may carry MCP. Empty: TLS and WSS only (draft §7.2.1, SEC-1). The edge needs `insecure: true` too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub allow_plain: Vec<PlainTransport>,
}

/// A transport without TLS.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PlainTransport {
    #[serde(rename = "UDP")]
    Udp,
    #[serde(rename = "TCP")]
    Tcp,
    #[serde(rename = "WS")]
    Ws,
}

/// Quota of a domain, counted by each edge for itself.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DomainQuota {
    /// Agents with an address in the domain; the youngest beyond it are refused (`QuotaExceeded`). Absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_agents: Option<u32>,

    /// Tool calls a second in one edge, averaged over ten seconds; its cores have equal shares. One more is answered with JSON-RPC error
    /// -31002. Absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub tool_calls_per_second: Option<u32>,

    /// Sessions at one time in one edge, calls that are being set up included; its cores have equal shares. One more is answered 480 with
    /// Retry-After. Absent: only the edge's `sessionsPerPod` limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_sessions: Option<u32>,

    /// Bytes of one MCP message; a larger one is answered 413 (draft §7.2.3, SEC-10).
    #[serde(default = "default_max_payload_bytes")]
    #[schemars(range(min = 1024, max = 1_048_576))]
    pub max_payload_bytes: u32,
}

impl Default for DomainQuota {
    fn default() -> Self {
        DomainQuota {
            max_agents: None,
            tool_calls_per_second: None,
            max_sessions: None,
            max_payload_bytes: default_max_payload_bytes(),
        }
    }
}

fn default_max_payload_bytes() -> u32 {
    1_048_576
}

/// Encryption and retention of what is stored of a domain.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DataProtection {
    /// The Secret with the keys that seal this domain's records. Each key of its data is a key id, 0 to 255; the value has 32 or 64
    /// octets, raw or in hexadecimal digits. At most two; `current` names the one that seals, else the higher id does. Absent: a key
    /// of the edges' own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_secret_ref: Option<NamespacedRef>,

    /// How long the records of a conversation stay readable for export after its end: what was negotiated, its session, the last 256
    /// answered exchanges. For example `24h`; at most a year (`8784h`). `0s`: they go with the conversation. Erasure takes them at any
    /// time. Counts for conversations that begin from now on; each takes room in the store until then.
    #[serde(default = "default_retention")]
    pub retention: Duration,
}

impl Default for DataProtection {
    fn default() -> Self {
        DataProtection { key_secret_ref: None, retention: default_retention() }
    }
}

fn default_retention() -> Duration {
    Duration::new("0s")
}

/// What is allowed for a domain while the store is not reached.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DomainOutage {
    /// A REGISTER that refreshes a binding which this edge served recently gets 200 with 30 to 60 s, unstored. Else 503.
    #[serde(default)]
    pub refresh_registrations: bool,
}

impl SipDomain {
    /// The object's labels, at which the listeners' `allowedDomains` look.
    pub fn labels(&self) -> &Labels {
        static NONE: Labels = Labels::new();
        self.metadata.labels.as_ref().unwrap_or(&NONE)
    }
}

impl SipDomainSpec {
    /// The realm of the domain's digest challenges: the given one, else the domain; `None` without digest.
    pub fn digest_realm(&self) -> Option<&str> {
        self.authentication.digest.as_ref().map(|d| d.realm.as_deref().unwrap_or(&self.domain))
    }

    /// The namespaces whose policies may be for the domain: the given ones; else those where what the domain names stands, because whoever
    /// writes there says who its users are; else the one that an absent namespace means.
    pub fn policy_owners(&self) -> BTreeSet<&str> {
        if !self.policy_namespaces.is_empty() {
            return self.policy_namespaces.iter().map(String::as_str).collect();
        }
        let authentication = &self.authentication;
        let users = authentication.digest.iter().map(|digest| &digest.users_secret_ref);
        let bundle = authentication.client_certificates.iter().map(|certificates| &certificates.ca_bundle_ref);
        let named = users.chain(bundle).chain(&self.data_protection.key_secret_ref);
        let mut owners: BTreeSet<&str> = named.map(|reference| &*reference.namespace).collect();
        if owners.is_empty() {
            owners.insert(DEFAULT_NAMESPACE);
        }
        owners
    }

    /// Whether policies of a namespace may be for the domain.
    pub fn takes_policies_of(&self, namespace: &str) -> bool {
        self.policy_owners().contains(namespace)
    }
}
