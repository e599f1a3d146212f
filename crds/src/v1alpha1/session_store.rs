//! `SessionStore`: where the edges keep what a call must not lose.

use super::{Duration, LocalRef, SessionStoreStatus};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The store of a fleet of edges: Redis or Valkey for any number of edges, or embedded in the one edge that there is.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "sipmcp.dev",
    version = "v1alpha1",
    kind = "SessionStore",
    namespaced,
    shortname = "sstore",
    category = "sipmcp",
    status = "SessionStoreStatus",
    derive = "PartialEq",
    doc = "The store of a fleet of edges: Redis or Valkey for any number of edges, or embedded in the one edge that there is.",
    printcolumn(name = "Topology", type_ = "string", json_path = ".status.topology"),
    printcolumn(
        name = "Reachable",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Reachable")].status"#
    ),
    printcolumn(name = "Durable", type_ = "string", json_path = r#".status.conditions[?(@.type=="Durable")].status"#),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("has(self.redis) != has(self.embedded)").message("give exactly one of redis and embedded"),
    validation = Rule::new("!has(self.redis) || !has(oldSelf.redis) || self.redis.keyPrefix == oldSelf.redis.keyPrefix")
        .message("keyPrefix is immutable; make a new SessionStore")
)]
pub struct SessionStoreSpec {
    /// Redis (7.0 or newer) or Valkey, shared by any number of edges.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis: Option<RedisStore>,

    /// Inside the edge: one edge only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedded: Option<EmbeddedStore>,

    /// How long a conversation may last, whatever its ends do.
    #[serde(default)]
    pub ttl: StoreTtl,

    /// What an edge does with requests while it does not reach the store. A request that must be stored is never acknowledged without it.
    #[serde(default)]
    pub on_outage: OnOutage,
}

/// Redis or Valkey.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(self.topology == 'Sentinel') == has(self.masterName)")
        .message("topology Sentinel needs masterName, and masterName needs topology Sentinel"),
    validation = Rule::new("self.topology != 'Single' || size(self.addresses) == 1").message("topology Single has exactly one address"),
    validation = Rule::new("self.keyPrefix.endsWith(':')").message("keyPrefix must end with a colon")
)]
pub struct RedisStore {
    /// How the servers stand together.
    #[serde(default)]
    pub topology: RedisTopology,

    /// `host:port`, IPv6 in brackets. Single: the server. Sentinel: the sentinels. Cluster: some nodes; the others are learned.
    #[schemars(
        length(min = 1, max = 32),
        inner(
            length(min = 3, max = 260),
            regex(pattern = r"^([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$")
        )
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub addresses: Vec<String>,

    /// With Sentinel: the name under which the sentinels watch the primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9._-]+$"))]
    pub master_name: Option<String>,

    /// The Secret with `password` and, for an ACL user, `username`. Used for the servers and, with Sentinel, for the sentinels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_secret_ref: Option<LocalRef>,

    /// TLS to the servers. Absent: plain TCP, for a network of your own only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<StoreTls>,

    /// Begins the name of every key, so that several fleets may share a server. Immutable; ends with a colon.
    #[serde(default = "default_key_prefix")]
    #[schemars(length(min = 2, max = 64), regex(pattern = r"^[A-Za-z0-9_.:-]+$"))]
    pub key_prefix: String,
}

/// How Redis servers stand together.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RedisTopology {
    /// One primary, at a fixed address.
    #[default]
    Single,
    /// Sentinels name the primary of the moment.
    Sentinel,
    /// Redis Cluster; all keys of one call are in one slot.
    Cluster,
}

fn default_key_prefix() -> String {
    "sipmcp:".to_owned()
}

/// TLS toward the store.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct StoreTls {
    /// The ConfigMap whose key `ca.crt` holds the certificate authorities, PEM.
    pub ca_bundle_ref: LocalRef,
}

/// A store inside the one edge that uses it: exactly one of the two.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.memory) != has(self.file)").message("give exactly one of memory and file"))]
pub struct EmbeddedStore {
    /// In the memory of the edge: lost when it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryEmbedded>,
    /// In a file: survives a restart of the edge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileEmbedded>,
}

/// The store in memory; written `memory: {}`.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryEmbedded {}

/// The store in a file.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct FileEmbedded {
    /// The file, absolute. It is made where it is missing, its directory is not. One process at a time.
    #[schemars(length(min = 2, max = 1024), regex(pattern = r"^/[^\x00\r\n]*[^/\x00\r\n]$"))]
    pub path: String,
}

/// How long a conversation may last, whatever its ends do.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("duration(self.idle) <= duration(self.absolute)").message("idle must not be longer than absolute"))]
pub struct StoreTtl {
    /// A session out of a dialog ends after so long without a message. At least a minute. (A dialog without a sign of life ends by its
    /// session timer, RFC 4028.)
    #[serde(default = "default_idle")]
    pub idle: Duration,
    /// A dialog is ended with BYE so long after its beginning, however often it is refreshed. At least a minute.
    #[serde(default = "default_absolute")]
    pub absolute: Duration,
}

impl Default for StoreTtl {
    fn default() -> Self {
        StoreTtl { idle: default_idle(), absolute: default_absolute() }
    }
}

fn default_idle() -> Duration {
    Duration::new("5m")
}

fn default_absolute() -> Duration {
    Duration::new("24h")
}

/// What an edge does while it does not reach the store.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnOutage {
    /// Calls that stand go on from what the edge remembers; new ones get 503.
    #[default]
    KeepExisting,
    /// 503 to everything except ACK, CANCEL, BYE and responses.
    RejectAll,
}

/// What an answer waits for (`SipDomain.spec.durability`).
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// The store applied it. Survives any number of edges, not the store's own death.
    #[default]
    Memory,
    /// One replica has it, too.
    Replica,
    /// It is on a disk.
    Fsync,
}

impl Durability {
    /// The name as it stands in a manifest.
    pub fn as_str(self) -> &'static str {
        match self {
            Durability::Memory => "Memory",
            Durability::Replica => "Replica",
            Durability::Fsync => "Fsync",
        }
    }
}

/// [`SessionStoreSpec`] as the choice that it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum StoreKind<'a> {
    Redis(&'a RedisStore),
    File(&'a FileEmbedded),
    Memory,
}

impl StoreKind<'_> {
    /// True where more than one edge may use it.
    pub fn is_shared(self) -> bool {
        matches!(self, StoreKind::Redis(_))
    }

    /// Whether this kind of store can give the class. What the servers of a Redis are configured for is seen when the edge connects.
    pub fn can_give(self, class: Durability) -> bool {
        match self {
            StoreKind::Redis(_) => true,
            StoreKind::File(_) => class != Durability::Replica,
            StoreKind::Memory => class == Durability::Memory,
        }
    }
}

impl SessionStoreSpec {
    /// The one store; `None` when none or several are given, which validation refuses.
    pub fn kind(&self) -> Option<StoreKind<'_>> {
        match (&self.redis, &self.embedded) {
            (Some(redis), None) => Some(StoreKind::Redis(redis)),
            (None, Some(EmbeddedStore { memory: None, file: Some(file) })) => Some(StoreKind::File(file)),
            (None, Some(EmbeddedStore { memory: Some(_), file: None })) => Some(StoreKind::Memory),
            _ => None,
        }
    }
}
