//! `McpCapabilityPolicy`: who may see and call what.
//!
//! An edge refuses a policy with a field that it does not know, and closes what the policy is for: the field may be a restriction. So a field of a
//! later release has no default in the schema, and is left out of the JSON where it is absent (`skip_serializing_if`): else an edge of the
//! release before would close every agent until it is replaced.

use super::McpCapabilityPolicyStatus;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Who may see and call what. A matching Deny of any policy wins. Then each level that has policies, the agent's and its domain's, must
/// allow: by a rule, or by `defaultAction` where all policies of the level say Allow. An agent without any policy is denied.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "sipmcp.dev",
    version = "v1alpha1",
    kind = "McpCapabilityPolicy",
    plural = "mcpcapabilitypolicies",
    namespaced,
    shortname = "mcpol",
    category = "sipmcp",
    status = "McpCapabilityPolicyStatus",
    derive = "PartialEq",
    doc = "Who may see and call what. A matching Deny wins, then a matching Allow, then defaultAction; an agent without any policy is denied.",
    printcolumn(name = "Target", type_ = "string", json_path = ".spec.targetRefs[*].name"),
    printcolumn(name = "Default", type_ = "string", json_path = ".spec.defaultAction"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Accepted")].status"#
    ),
    printcolumn(name = "Programmed", type_ = "string", json_path = ".status.edges.summary"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("self.defaultAction != 'Deny' || size(self.rules) == 0 || self.rules.exists(r, r.action == 'Allow')")
        .message("only Deny rules under defaultAction Deny change nothing: add an Allow rule or set defaultAction: Allow")
)]
pub struct McpCapabilityPolicySpec {
    /// What the policy is for: agents of its own namespace, or all agents of domains that take policies of its namespace
    /// (`SipDomain.spec.policyNamespaces`). On any other domain it has no effect, neither its Allow nor its Deny. One kind per list.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(
        validation = Rule::new("self.all(t, t.kind == self[0].kind)").message("one kind per list of targetRefs; make one policy per kind")
    )]
    pub target_refs: Vec<TargetRef>,

    /// How a policy of agents stands to the policies of their domain. Of no effect on a domain's policy.
    #[serde(default)]
    pub inheritance: PolicyInheritance,

    /// What happens where no rule matches. `Allow` is for callers with credentials; anonymous ones a rule must name.
    #[serde(default = "default_deny")]
    pub default_action: Action,

    /// The rules; their order does not matter.
    #[serde(default)]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub rules: Vec<PolicyRule>,
}

/// The object that a policy is for.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct TargetRef {
    /// API group of the object.
    #[serde(default)]
    pub group: TargetGroup,
    /// Kind of the object.
    pub kind: TargetKind,
    /// `metadata.name` of the object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// API groups that a policy can be for.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum TargetGroup {
    #[default]
    #[serde(rename = "sipmcp.dev")]
    Sipmcp,
}

/// Kinds that a policy can be for.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TargetKind {
    /// An agent in the policy's namespace.
    McpAgent,
    /// All agents of a domain that takes policies of the policy's namespace.
    SipDomain,
}

/// What a policy is for, of JSON that need not fit the type elsewhere. `None`: that cannot be read to its end, or it is nothing.
#[must_use]
pub fn targets_of(policy: &Value) -> Option<Vec<(TargetKind, String)>> {
    let target = |reference: &Value| {
        let kind = TargetKind::deserialize(reference.get("kind")?).ok()?;
        Some((kind, reference.get("name")?.as_str()?.to_owned()))
    };
    let targets = policy.get("spec")?.get("targetRefs")?.as_array()?;
    let targets: Option<Vec<_>> = targets.iter().map(target).collect();
    targets.filter(|targets| !targets.is_empty())
}

/// How an agent's policy stands to those of its domain.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PolicyInheritance {
    /// Both levels must allow.
    #[default]
    Default,
    /// The agent's policies allow by themselves. A Deny of the domain still wins.
    Override,
}

/// Allow or Deny.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Allow,
    Deny,
}

fn default_deny() -> Action {
    Action::Deny
}

/// One rule: who, what, in which phase, and whether it may.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.limits) || (self.action == 'Allow' && self.phases.exists(p, p == 'Call'))")
        .message("limits are for Allow rules of phase Call"),
    validation = Rule::new("!has(self.when) || !self.phases.exists(p, p == 'List')")
        .message("when is for phase Call only; write phases [Call], and a rule of its own for List")
        .field_path(".when"),
    validation = Rule::new("!has(self.when) || (has(self.methods) && size(self.methods) > 0 && self.methods.all(m, m.name in ['tools/call', 'prompts/get']))")
        .message("when needs methods, and only tools/call and prompts/get have arguments")
        .field_path(".when")
)]
pub struct PolicyRule {
    /// Name of the rule, unique in the policy; stands in the audit record.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))]
    pub name: String,

    /// The callers. Absent: an Allow rule is for every caller with credentials, a Deny rule for everybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub from: Vec<Caller>,

    /// The MCP methods. Absent: every method, and plain calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub methods: Vec<McpMethod>,

    /// `List`: what is shown. `Call`: what may run.
    #[serde(default = "default_phases")]
    #[schemars(length(min = 1, max = 2))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub phases: Vec<Phase>,

    /// A condition over the arguments of the call, in a part of CEL, for example `args.amount <= 100`. For rules of phase Call about
    /// tools/call and prompts/get. Where it gives no answer an Allow rule does not match, and a Deny rule does. Absent: whatever they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub when: Option<String>,

    /// What happens when the rule matches.
    pub action: Action,

    /// How often and how many at once a caller may make the calls that this Allow rule is about, whichever rule lets them through; each core
    /// of each edge counts for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<RuleLimits>,

    /// What the audit trail keeps of a call that this rule decided.
    #[serde(default)]
    pub audit: Audit,
}

/// Limits of a rule, counted for each caller by each core of each edge for itself (a dialog is always with one core); at least one of the two.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.callsPerMinute) || has(self.concurrent)").message("give at least one of callsPerMinute and concurrent")
)]
pub struct RuleLimits {
    /// Calls in any 60 seconds; one more is answered with JSON-RPC error -31002. Absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub calls_per_minute: Option<u32>,
    /// Calls that wait for their answer; one more is answered with JSON-RPC error -31002. Absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub concurrent: Option<u32>,
}

/// A caller: exactly one of the fields.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.sipIdentity) != has(self.anonymous)").message("give exactly one of sipIdentity and anonymous")
)]
pub struct Caller {
    /// A verified identity: `sip:user@domain` or `tel:number`; `*` stands for any part (`sip:*@acme.example`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 5, max = 256), regex(pattern = r"^([sS][iI][pP][sS]?|[tT][eE][lL]):[^\s<>]+$"))]
    pub sip_identity: Option<String>,

    /// Whoever shows no credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anonymous: Option<Anonymous>,
}

/// Whoever shows no credentials; written `anonymous: {}`.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Anonymous {}

/// An MCP method and, for some, the names that it is called with.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.params) || size(self.params) == 0 || self.name in ['tools/call', 'prompts/get', 'resources/read']")
        .message("params only for tools/call, prompts/get and resources/read")
)]
pub struct McpMethod {
    /// The method, for example `tools/call`; `*` stands for any part (`tools/*`).
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9_$./*-]+$"))]
    pub name: String,

    /// Names of tools or prompts, or URIs of resources; `*` stands for any part (`crm.*`). Absent: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)))]
    pub params: Vec<String>,
}

/// When a rule is asked.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// What is advertised and listed.
    List,
    /// What may run.
    Call,
}

fn default_phases() -> Vec<Phase> {
    vec![Phase::List, Phase::Call]
}

/// What is kept of a call.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Audit {
    /// Nothing.
    None,
    /// Who, agent, tool, rule, outcome, ids; never a payload (SEC-11).
    #[default]
    Metadata,
}
