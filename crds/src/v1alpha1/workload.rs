//! What runs the edges of a `SipEdge` in Kubernetes.

use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::borrow::Cow;

/// What runs the edges.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// Kind of the workload. The name of its pod is the id of an edge.
    #[serde(default)]
    pub kind: WorkloadKind,
}

/// Kinds of workloads.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WorkloadKind {
    /// `replicas` edges with stable names.
    #[default]
    StatefulSet,
    /// One edge on each node.
    DaemonSet,
}

/// What a HorizontalPodAutoscaler may do.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.minReplicas <= self.maxReplicas").message("minReplicas must not be greater than maxReplicas")
)]
pub struct Autoscaling {
    /// Fewest edges.
    #[schemars(range(min = 1, max = 1000))]
    pub min_replicas: u32,
    /// Most edges.
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: u32,
    /// What is aimed at.
    pub target: AutoscalingTarget,
}

/// What the autoscaler aims at.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AutoscalingTarget {
    /// Sessions at one time in one edge, on average over the fleet (metric `sipmcp_sessions`).
    #[schemars(range(min = 1, max = 1_000_000))]
    pub active_sessions_per_pod: u32,
}

/// How much of the fleet may be taken away at one time.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Disruption {
    /// Edges that may be away at one time (PodDisruptionBudget).
    #[serde(default = "default_max_unavailable")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_unavailable: u32,

    /// Who may evict an edge.
    #[serde(default)]
    pub safe_to_evict: SafeToEvict,
}

impl Default for Disruption {
    fn default() -> Self {
        Disruption { max_unavailable: default_max_unavailable(), safe_to_evict: SafeToEvict::default() }
    }
}

fn default_max_unavailable() -> u32 {
    1
}

/// Who may evict an edge (Agones `eviction.safe`).
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SafeToEvict {
    /// Node drains and the cluster autoscaler.
    #[default]
    Always,
    /// Node drains only.
    OnUpgrade,
    /// Nobody: the PodDisruptionBudget allows none.
    Never,
}

/// A piece of a pod template that is merged into the edges' one.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(transparent)]
pub struct Overlay(pub Map<String, Value>);

impl Overlay {
    /// Bytes of its JSON.
    pub const MAX_BYTES: usize = 64 * 1024;
}

impl JsonSchema for Overlay {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Overlay".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "object", "maxProperties": 64, "x-kubernetes-preserve-unknown-fields": true})
    }
}
