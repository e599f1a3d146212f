//! What the operator's Admin API and `kubectl sipmcp` say to each other: JSON over HTTPS, one `POST` for each question, `Authorization: Bearer`.
//!
//! A question with a field that is not known is refused. An answer may have more fields than are known.
//!
//! A replica of the operator answers for all edges, as far as it can reach the one that holds the Lease, else for those that are connected to it;
//! [`Edges`] says which those were. Whoever misses some asks another replica. An error is `{"error": MESSAGE}` with the status that HTTP has for it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Audience of a token that is made for the Admin API.
pub const AUDIENCE: &str = "sipmcp-admin";
/// Port of the operator, and its name in the pod.
pub const PORT: u16 = 9444;
pub const PORT_NAME: &str = "admin";
/// Resources of `sipmcp.dev` that a user needs: `list` for [`SessionsQuestion`], `get` for [`WhyQuestion`] and [`ConversationQuestion`], `delete`
/// to erase one.
pub const SESSIONS_RESOURCE: (&str, &str) = ("sipdomains", "sessions");
/// `create`, for [`DrainQuestion`].
pub const DRAIN_RESOURCE: (&str, &str) = ("sipedges", "drain");

/// [`SessionsQuestion`] → [`Sessions`].
pub const SESSIONS: &str = "/v1/sessions";
/// [`WhyQuestion`] → [`Why`].
pub const WHY: &str = "/v1/why";
/// [`DrainQuestion`] → [`Drains`].
pub const DRAIN: &str = "/v1/drain";
/// [`ConversationQuestion`] → [`Export`].
pub const EXPORT: &str = "/v1/export";
/// [`ConversationQuestion`] → [`Erased`].
pub const ERASE: &str = "/v1/erase";

/// Sessions in one answer of one replica, at most.
pub const MAX_SESSIONS: u32 = 1000;

/// Who has answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Edges {
    /// `namespace/pod`.
    pub answered: Vec<String>,
    /// Why the others did not, by `namespace/pod`.
    pub silent: BTreeMap<String, String>,
    /// Pods of the same SipEdges that should be there and are not known to whoever answered.
    pub elsewhere: u32,
}

/// Who is connected to whom.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SessionsQuestion {
    /// Name of the SipDomain.
    pub domain: String,
    /// Only those of agents in this namespace. Without it: of all, which needs the right for all namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Only those of this agent in `namespace`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// At most so many of each edge, 1 to [`MAX_SESSIONS`]; without it as many as fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Goes on after an answer: its `pages`. Only these edges are asked.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pages: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sessions {
    pub sessions: Vec<Session>,
    /// Edges that have more. Empty: that was all.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pages: BTreeMap<String, String>,
    pub edges: Edges,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    pub id: String,
    /// `namespace/pod`.
    pub edge: String,
    /// `namespace/name`.
    pub agent: String,
    /// SIP identity.
    pub caller: String,
    pub conversation: String,
    /// Seconds since 1970-01-01T00:00:00Z.
    pub begun: i64,
    pub last_used: i64,
    pub in_flight: u32,
    /// Of the caller's leg, as in a listener's `protocol`.
    pub transport: String,
}

/// How the policies decide. Nothing is called.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WhyQuestion {
    pub namespace: String,
    pub agent: String,
    /// SIP URI; empty: anonymous.
    #[serde(default)]
    pub caller: String,
    /// MCP method, for example `tools/call`.
    pub method: String,
    /// Tool, prompt or resource; empty where the method has none.
    #[serde(default)]
    pub param: String,
    /// Of the call, at most 64 KiB as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<serde_json::Map<String, serde_json::Value>>,
}

/// More than one answer: the edges do not agree (yet).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Why {
    pub answers: Vec<Reason>,
    pub edges: Edges,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reason {
    pub allowed: bool,
    /// `namespace/policy/rule` that decided; empty: the default of the policy, or no policy at all.
    pub rule: String,
    /// `namespace/name`; empty: there is none for this agent, and nothing is allowed without one.
    pub policy: String,
    /// For people.
    pub explanation: String,
    /// Who says so, `namespace/pod`.
    pub edges: Vec<String>,
}

/// A pod takes nothing new and hands over what it has. Asked again it says how far it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DrainQuestion {
    pub namespace: String,
    /// The SipEdge.
    pub edge: String,
    pub pod: String,
    /// 1 to 86400; without it as long as the SipEdge gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_seconds: Option<u32>,
    /// The order is taken back; a pod that has begun goes on.
    #[serde(default)]
    pub cancel: bool,
    /// Nothing is ordered: how far the pod is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub look: bool,
    /// With `look`: of the pod that was ordered to drain, as the answer to the order said it. One that came under its name was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Drains {
    /// `None`, `Settling`, `Draining`, `Drained`; `Unknown` until the pod has reported; `Gone`: there is no pod of that uid any more.
    pub state: String,
    /// What is left.
    pub in_flight: u32,
    pub dialogs: u32,
    pub flows: u32,
    /// Of the pod; empty where it is not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// The order of a person stands.
    #[serde(default)]
    pub ordered: bool,
}

/// Everything that is stored about a conversation (draft section 7.5.2). Needs the right for all namespaces: the agents of a conversation may
/// be anywhere in its domain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConversationQuestion {
    /// Name of the SipDomain.
    pub domain: String,
    pub conversation: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Export {
    /// One for each SipEdge, by `namespace/name`: each may have a store of its own.
    pub documents: BTreeMap<String, serde_json::Value>,
    pub edges: Edges,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Erased {
    pub records: u64,
    /// Sessions that were ended.
    pub sessions: u64,
    pub edges: Edges,
}
