//! `SipEdge`: the edges of one fleet, where they listen and how much they take.

use super::{Allowed, Autoscaling, Disruption, Labels, LocalRef, Overlay, SipEdgeStatus, Workload, WorkloadKind};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// A fleet of SIP edges that are all alike: listeners, the address that peers are told, drain goals, limits.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "sipmcp.dev",
    version = "v1alpha1",
    kind = "SipEdge",
    namespaced,
    shortname = "sedge",
    category = "sipmcp",
    status = "SipEdgeStatus",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    derive = "PartialEq",
    doc = "A fleet of SIP edges that are all alike: listeners, the address that peers are told, drain goals, limits.",
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.ready"),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".status.replicas"),
    printcolumn(name = "Draining", type_ = "integer", json_path = ".status.draining"),
    printcolumn(name = "Sessions", type_ = "integer", json_path = ".status.sessions.active"),
    printcolumn(name = "Store", type_ = "string", json_path = ".spec.sessionStoreRef.name"),
    printcolumn(name = "Addresses", type_ = "string", json_path = ".status.addresses[*]"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("!(has(self.autoscaling) || (has(self.replicas) && self.replicas > 1) || self.workload.kind == 'DaemonSet') || has(self.sessionStoreRef)")
        .message("more than one edge needs a shared store: set sessionStoreRef"),
    validation = Rule::new("self.workload.kind != 'DaemonSet' || (!has(self.autoscaling) && !has(self.replicas))")
        .message("a DaemonSet has one edge per node: remove replicas and autoscaling"),
    validation = Rule::new("self.insecure || self.listeners.all(l, l.protocol in ['TLS', 'WSS'])")
        .message("a listener with protocol UDP, TCP or WS needs insecure: true"),
    validation = Rule::new("self.listeners.all(l, l.allowedDomains == self.listeners[0].allowedDomains)")
        .message("all listeners of an edge need the same allowedDomains: make a SipEdge of its own for listeners of other domains")
)]
pub struct SipEdgeSpec {
    /// What runs the edges in Kubernetes. Manifests from files start nothing.
    #[serde(default)]
    pub workload: Workload,

    /// Edges that run. Absent: `autoscaling.minReplicas`, else 1. With `autoscaling` it is the autoscaler's, through the scale
    /// subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: Option<u32>,

    /// Lets a HorizontalPodAutoscaler choose `replicas`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,

    /// How peers reach the edges.
    pub network: EdgeNetwork,

    /// Where the edges listen.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub listeners: Vec<Listener>,

    /// Allows listeners without TLS (UDP, TCP, WS). A domain must allow the transport as well (`SipDomain.spec.transport.allowPlain`).
    #[serde(default)]
    pub insecure: bool,

    /// The SessionStore, in the namespace of the edge. Absent: embedded, in memory; then there is one edge only. A shared store needs
    /// the Secret `<edge>-keys` with the token keys and the data key `naming`: `sipmcp keys` makes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_store_ref: Option<LocalRef>,

    /// How soon the others take over what an edge leaves.
    #[serde(default)]
    pub failover: Failover,

    /// Goals for the way down.
    #[serde(default)]
    pub drain: Drain,

    /// How much of the fleet may be taken away at one time.
    #[serde(default)]
    pub disruption: Disruption,

    /// What one edge takes before it refuses.
    #[serde(default)]
    pub limits: EdgeLimits,

    /// Merged into the pod template (strategic merge), for everything that has no field here: node selectors, tolerations, resources,
    /// sidecars. At most 64 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay: Option<Overlay>,
}

impl SipEdgeSpec {
    /// Whether a domain with these labels may be reached here. An edge does not tell its listeners apart, so all of them must allow it.
    pub fn allows_domain(&self, domain_labels: &Labels) -> bool {
        self.listeners.iter().all(|listener| listener.allowed_domains.allows(domain_labels))
    }

    /// Edges that run when nothing has scaled them yet; `None` for a DaemonSet: one per node.
    pub fn first_replicas(&self) -> Option<u32> {
        let floor = self.autoscaling.as_ref().map_or(1, |autoscaling| autoscaling.min_replicas);
        (self.workload.kind == WorkloadKind::StatefulSet).then(|| self.replicas.unwrap_or(floor))
    }
}

/// The network of an edge.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.mode != 'ClusterIP' || !has(self.advertise.from) || self.advertise.from != 'NodeExternalIP'")
        .message("nobody outside reaches mode ClusterIP, so from: NodeExternalIP would be wrong"),
    validation = Rule::new("self.mode != 'HostNetwork' || !has(self.advertise.from) || self.advertise.from != 'ServiceAddress'")
        .message("mode HostNetwork has no Service address: advertise NodeExternalIP, NodeInternalIP or a name")
)]
pub struct EdgeNetwork {
    /// How the listeners' ports become reachable in Kubernetes. Without effect in manifests from files.
    #[serde(default)]
    pub mode: NetworkMode,

    /// What the edge writes into Via, Contact and Record-Route.
    pub advertise: Advertise,
}

/// How the ports of the pods become reachable.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NetworkMode {
    /// The pods use the node's network; one edge per node.
    HostNetwork,
    /// A Service of type LoadBalancer, `externalTrafficPolicy: Local`.
    LoadBalancer,
    /// A Service of type NodePort, `externalTrafficPolicy: Local`.
    NodePort,
    /// A Service inside the cluster.
    #[default]
    ClusterIP,
}

/// The host part of every URI that the edge writes: a service or SRV name without a port, or (no DNS: a laptop, tests) a fixed address,
/// with the port and transport of the listener.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.name) != has(self.from)").message("give exactly one of name and from"),
    validation = Rule::new("(has(self.from) && self.from == 'Static') == has(self.address)")
        .message("from: Static needs address, and address needs from: Static")
)]
pub struct Advertise {
    /// A name that resolves (RFC 3263: NAPTR, SRV, A, AAAA) to every edge, for example `sip.acme.example`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*$")
    )]
    pub name: Option<String>,

    /// Where the address comes from when there is no name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<AdvertiseFrom>,

    /// With `from: Static`: the IPv4 or IPv6 address, without brackets and port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 45))]
    pub address: Option<String>,
}

/// Source of an advertised address.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdvertiseFrom {
    /// `address` as it stands.
    Static,
    /// The ExternalIP of the node on which the edge runs.
    NodeExternalIP,
    /// The InternalIP of the node on which the edge runs.
    NodeInternalIP,
    /// The address of the ingress Service: of its load balancer, else its ClusterIP.
    ServiceAddress,
}

impl AdvertiseFrom {
    /// The name as it stands in a manifest.
    pub fn as_str(self) -> &'static str {
        match self {
            AdvertiseFrom::Static => "Static",
            AdvertiseFrom::NodeExternalIP => "NodeExternalIP",
            AdvertiseFrom::NodeInternalIP => "NodeInternalIP",
            AdvertiseFrom::ServiceAddress => "ServiceAddress",
        }
    }
}

/// One socket that the edge opens.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(self.protocol in ['TLS', 'WSS']) == has(self.tls)")
        .message("TLS and WSS need tls; UDP, TCP and WS must not have it")
)]
pub struct Listener {
    /// Name of the listener, unique in the edge.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))]
    pub name: String,

    /// UDP, TCP and WS need `insecure: true`. WS and WSS are SIP over WebSocket (RFC 7118).
    pub protocol: ListenerProtocol,

    /// Port number.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,

    /// The local IPv4 or IPv6 address to bind. Absent: all addresses of the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 45))]
    pub address: Option<String>,

    /// Certificate and client authentication; for TLS and WSS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,

    /// The domains that may be reached here; a selector looks at the labels of the SipDomains. The same at all listeners of an edge.
    #[serde(default)]
    pub allowed_domains: Allowed,
}

impl Listener {
    /// The address to bind: the given one, else `0.0.0.0`.
    /// `None` when `address` is no IP address; a validated object never answers that.
    pub fn bind_address(&self) -> Option<IpAddr> {
        match &self.address {
            Some(a) => a.parse().ok(),
            None => Some(IpAddr::from([0, 0, 0, 0])),
        }
    }
}

/// What a listener speaks.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "UPPERCASE")]
pub enum ListenerProtocol {
    Udp,
    Tcp,
    Tls,
    Ws,
    Wss,
}

impl ListenerProtocol {
    /// True for TLS and WSS.
    pub fn is_secure(self) -> bool {
        matches!(self, ListenerProtocol::Tls | ListenerProtocol::Wss)
    }

    /// The name as it stands in a manifest.
    pub fn as_str(self) -> &'static str {
        match self {
            ListenerProtocol::Udp => "UDP",
            ListenerProtocol::Tcp => "TCP",
            ListenerProtocol::Tls => "TLS",
            ListenerProtocol::Ws => "WS",
            ListenerProtocol::Wss => "WSS",
        }
    }
}

/// TLS of a listener.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ListenerTls {
    /// Secrets of type `kubernetes.io/tls` (`tls.crt`, `tls.key`, PEM). With more than one, the server name of the client chooses.
    #[schemars(length(min = 1, max = 8))]
    pub certificate_refs: Vec<LocalRef>,

    /// The lowest TLS version; always with forward secrecy (SEC-1).
    #[serde(default)]
    pub min_version: TlsVersion,

    /// Whether the client is asked for a certificate. `Optional`: asked, and a caller without one may use digest.
    #[serde(default)]
    pub client_auth: ClientAuth,
}

/// A TLS version.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    #[default]
    #[serde(rename = "1.2")]
    V1_2,
    #[serde(rename = "1.3")]
    V1_3,
}

/// Client certificates on a listener.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// Not asked for.
    None,
    /// Asked for, not demanded.
    #[default]
    Optional,
    /// No handshake without one.
    Required,
}

/// How an edge lives among the others of its store.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Failover {
    /// Seconds of the lease under which an edge owns what it serves. It is renewed every 0.3 of it; after 0.7 of it without a renewal
    /// the edge falls silent by itself, and when it is over the others take over. Shorter: sooner, and more often for no reason. Each
    /// lease travels with its renewal, so edges of one store need not agree, and a change acts with the next renewal.
    #[serde(default = "default_lease_seconds")]
    #[schemars(range(min = 3, max = 30))]
    pub lease_seconds: u32,
}

impl Default for Failover {
    fn default() -> Self {
        Failover { lease_seconds: default_lease_seconds() }
    }
}

fn default_lease_seconds() -> u32 {
    5
}

/// Drain goals. After SIGTERM new work is refused at once; the three phases follow each other and add up.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.settleSeconds + self.inFlightSeconds + (has(self.dialogSeconds) ? self.dialogSeconds : self.strategy == 'WaitForEnd' ? 600 : self.strategy == 'Terminate' ? 0 : 20) <= 86400")
        .message("the three phases together may take 86400 s at most"),
    validation = Rule::new("self.strategy != 'WaitForEnd' || self.inFlightSeconds <= (has(self.dialogSeconds) ? self.dialogSeconds : 600)")
        .message("with strategy WaitForEnd dialogs may not end before the calls in them: dialogSeconds must be at least inFlightSeconds")
)]
pub struct Drain {
    /// Seconds in which load balancers learn that this edge takes no new work.
    #[serde(default = "default_settle_seconds")]
    #[schemars(range(min = 0, max = 86400))]
    pub settle_seconds: u32,
    /// Seconds in which tool calls in flight may end.
    #[serde(default = "default_in_flight_seconds")]
    #[schemars(range(min = 0, max = 86400))]
    pub in_flight_seconds: u32,
    /// Seconds for the dialogs. Absent: 20 with `Handover` (connections are closed at 5 % a second), 600 with `WaitForEnd`, 0 with
    /// `Terminate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 86400))]
    pub dialog_seconds: Option<u32>,
    /// What becomes of dialogs when calls in flight have ended.
    #[serde(default)]
    pub strategy: DrainStrategy,
}

/// What becomes of the dialogs of an edge that goes.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DrainStrategy {
    /// Another edge takes them over; with an embedded store, where there is no other, they are ended with BYE.
    #[default]
    Handover,
    /// They may go on until `dialogSeconds` are over; then they are handed over.
    WaitForEnd,
    /// They are ended with BYE.
    Terminate,
}

impl Drain {
    /// Seconds for the dialogs: as written, else as the strategy needs.
    pub fn dialog_seconds(&self) -> u32 {
        self.dialog_seconds.unwrap_or(match self.strategy {
            DrainStrategy::Handover => 20,
            DrainStrategy::WaitForEnd => 600,
            DrainStrategy::Terminate => 0,
        })
    }

    /// Seconds from the signal to the end of the last phase.
    pub fn total_seconds(&self) -> u64 {
        u64::from(self.settle_seconds) + u64::from(self.in_flight_seconds) + u64::from(self.dialog_seconds())
    }

    /// `terminationGracePeriodSeconds` of the pods: the three phases and 5 s.
    pub fn grace_seconds(&self) -> u64 {
        self.total_seconds() + 5
    }
}

impl Default for Drain {
    fn default() -> Self {
        Drain {
            settle_seconds: default_settle_seconds(),
            in_flight_seconds: default_in_flight_seconds(),
            dialog_seconds: None,
            strategy: DrainStrategy::default(),
        }
    }
}

fn default_settle_seconds() -> u32 {
    5
}

fn default_in_flight_seconds() -> u32 {
    30
}

/// Limits of one edge.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct EdgeLimits {
    /// Sessions at one time in one edge; one more is answered 503 with Retry-After.
    #[serde(default = "default_sessions_per_pod")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub sessions_per_pod: u32,
    /// MCP requests in flight in one session; one more is answered with JSON-RPC error -31002 (XCH-6 asks for 100 and more).
    #[serde(default = "default_in_flight_per_session")]
    #[schemars(range(min = 1, max = 4096))]
    pub in_flight_per_session: u32,
    /// Bytes of the body of one SIP message; a larger one is answered 413 (SEC-10).
    #[serde(default = "default_sip_body_bytes")]
    #[schemars(range(min = 1024, max = 1_048_576))]
    pub sip_body_bytes: u32,
    /// Bytes of one MCP message, on SIP and from a backend (SEC-10). A domain may ask for less (`quota.maxPayloadBytes`).
    #[serde(default = "default_message_bytes")]
    #[schemars(range(min = 1024, max = 1_048_576))]
    pub message_bytes: u32,
}

impl Default for EdgeLimits {
    fn default() -> Self {
        EdgeLimits {
            sessions_per_pod: default_sessions_per_pod(),
            in_flight_per_session: default_in_flight_per_session(),
            sip_body_bytes: default_sip_body_bytes(),
            message_bytes: default_message_bytes(),
        }
    }
}

fn default_sessions_per_pod() -> u32 {
    1000
}

fn default_in_flight_per_session() -> u32 {
    128
}

fn default_sip_body_bytes() -> u32 {
    65_536
}

fn default_message_bytes() -> u32 {
    1_048_576
}
