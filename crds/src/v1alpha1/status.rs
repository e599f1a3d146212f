//! What the operator tells of each kind. Counters are shown roughly: exact numbers are metrics.

use super::condition::conditions_schema;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Status of an `McpAgent`.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct McpAgentStatus {
    /// The `metadata.generation` that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 999_999_999_999_999_i64))]
    pub observed_generation: Option<i64>,

    /// The agent's SIP address, for example `sip:billing@acme.example`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub uri: Option<String>,

    /// What answers there, in short: the Service and port, the URL, or `sipContact`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2200))]
    pub backend: Option<String>,

    /// Accepted, ResolvedRefs, Programmed, Registered, ToolsVerified, Ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,

    /// How many edges have applied this generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edges: Option<Programmed>,

    /// What callers can be offered at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<EffectiveCapabilities>,

    /// Bindings of the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registration: Option<RegistrationStatus>,

    /// Sessions of this agent, over all edges.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<SessionCounts>,
}

/// Edges that should have an object, and those that have it.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Programmed {
    /// Edges that should have it.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100_000))]
    pub desired: u32,

    /// Edges that have applied the generation of this status.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100_000))]
    pub programmed: u32,

    /// Both in one text, `programmed/desired`, for `kubectl get`.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub summary: String,
}

impl Programmed {
    /// With its summary.
    pub fn new(programmed: u32, desired: u32) -> Self {
        Programmed { desired, programmed, summary: format!("{programmed}/{desired}") }
    }
}

/// The tools that an agent offers at most.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct EffectiveCapabilities {
    /// Tools that can be offered: declared, discovered or both, as `capabilities.source` says.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100_000))]
    pub effective: u32,

    /// `sha256:` and the hash over their names and schemas; changes when one of them does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 71))]
    pub hash: Option<String>,
}

/// Bindings of an agent's address.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RegistrationStatus {
    /// Bindings that stand.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub bindings: u32,

    /// When the first of them ends if it is not refreshed (RFC 3339, UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub next_expiry: Option<String>,
}

/// Sessions and what waits in them. Changes at most every 30 s, and only past a tenth or to and from zero.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SessionCounts {
    /// Sessions that stand.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub active: u32,

    /// Requests that wait for their answer.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub in_flight: u32,
}

/// Status of a `SipEdge`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SipEdgeStatus {
    /// The `metadata.generation` that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 999_999_999_999_999_i64))]
    pub observed_generation: Option<i64>,

    /// Accepted, ResolvedRefs, Programmed, Ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,

    /// Where peers reach the edges: the advertised name, or addresses with their ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 261)))]
    pub addresses: Vec<String>,

    /// Pods that exist; the `scale` subresource reads it.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100_000))]
    pub replicas: u32,

    /// Label selector of the pods, for the HorizontalPodAutoscaler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub selector: Option<String>,

    /// Pods that are ready.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100_000))]
    pub ready: u32,

    /// Pods that drain.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100_000))]
    pub draining: u32,

    /// What stands at each listener.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub listeners: Vec<ListenerStatus>,

    /// Edges and the control stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edges: Option<ConnectedEdges>,

    /// Sessions of the fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<SessionCounts>,
}

/// Status of one listener.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ListenerStatus {
    /// Name of the listener.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,

    /// Agents that can be reached through it.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub attached_agents: u32,

    /// Accepted, ResolvedRefs, Programmed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
}

/// Edges and the control stream.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ConnectedEdges {
    /// Edges with a stream to an operator.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100_000))]
    pub connected: u32,

    /// Those of them that have applied everything.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100_000))]
    pub programmed: u32,
}

/// Status of a `SipDomain`.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SipDomainStatus {
    /// The `metadata.generation` that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 999_999_999_999_999_i64))]
    pub observed_generation: Option<i64>,

    /// Accepted, ResolvedRefs, Programmed, Ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,

    /// Agents with an address in the domain.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub agents: u32,

    /// The number of the tenant inside tokens. Given once and never to another domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65_535))]
    pub tenant_number: Option<u16>,

    /// How many edges have applied this generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edges: Option<Programmed>,
}

/// Status of an `McpCapabilityPolicy` (GEP-713).
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct McpCapabilityPolicyStatus {
    /// The `metadata.generation` that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 999_999_999_999_999_i64))]
    pub observed_generation: Option<i64>,

    /// Accepted, ResolvedRefs, Programmed: the policy as a whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,

    /// The same for each object that the policy is for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub ancestors: Vec<PolicyAncestor>,

    /// How many edges have applied this generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edges: Option<Programmed>,
}

/// A policy as it stands with one of its targets.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PolicyAncestor {
    /// The target.
    pub ancestor_ref: AncestorRef,

    /// Who wrote this: `sipmcp.dev/operator`.
    #[schemars(length(min = 1, max = 253))]
    pub controller_name: String,

    /// Accepted, ResolvedRefs, Programmed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
}

/// A target of a policy.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct AncestorRef {
    /// API group of the object.
    #[schemars(length(min = 1, max = 253))]
    pub group: String,
    /// Kind of the object.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// `metadata.namespace` of the object; absent for a SipDomain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// `metadata.name` of the object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Status of a `SessionStore`: what the edges report; the operator never connects to a store.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SessionStoreStatus {
    /// The `metadata.generation` that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 999_999_999_999_999_i64))]
    pub observed_generation: Option<i64>,

    /// Accepted, ResolvedRefs, Reachable, Durable, EvictionSafe.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,

    /// Kind of store, in short: `Single`, `Sentinel`, `Cluster`, `Memory` or `File`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub topology: Option<String>,

    /// How long the store takes to answer an edge, as a band that changes seldom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<LatencyBand>,
}

/// Milliseconds from a request to its answer, median over the edges: one of the bands 0-1, 1-2, 2-5, 5-10, 10-25, 25-50, 50-100, 100-250,
/// 250-1000, 1000 and more.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LatencyBand {
    /// At least so many milliseconds.
    #[schemars(range(min = 0, max = 60_000))]
    pub from: u32,
    /// Less than so many; absent in the last band.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 60_000))]
    pub below: Option<u32>,
}

impl LatencyBand {
    /// Ends of the bands in milliseconds.
    const ENDS: [u32; 9] = [1, 2, 5, 10, 25, 50, 100, 250, 1000];

    /// The band of a measured latency.
    pub fn of(ms: u32) -> Self {
        let next = Self::ENDS.iter().position(|end| ms < *end);
        match next {
            Some(index) => {
                LatencyBand { from: index.checked_sub(1).map_or(0, |i| Self::ENDS[i]), below: Some(Self::ENDS[index]) }
            }
            None => LatencyBand { from: Self::ENDS[Self::ENDS.len() - 1], below: None },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_falls_into_exactly_one_band() {
        for (ms, from, below) in
            [(0, 0, Some(1)), (1, 1, Some(2)), (7, 5, Some(10)), (999, 250, Some(1000)), (1000, 1000, None)]
        {
            assert_eq!(LatencyBand::of(ms), LatencyBand { from, below }, "{ms}");
        }
    }
}
