//! The records, as the current code sees them. Their stored form is versioned: [`crate::codec`].

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::key::DialogKey;

/// Who writes: a process and its life. A higher epoch of the same pod fences the lower one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Owner {
    pub pod: u64,
    pub epoch: u64,
    /// Random per life, so that an equal epoch after a lost write is told apart.
    pub boot: u64,
}

/// One registered contact (RFC 3261 §10, RFC 5626).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// Identity of the binding: `+sip.instance` and `reg-id` where both are there, else the contact URI.
    pub key: String,
    /// The contact URI alone, for comparison and routing.
    pub uri: String,
    /// The Contact value as it arrived, without `expires`: parameters and their bytes are returned unchanged (REG-1).
    pub contact: Vec<u8>,
    /// Wall-clock milliseconds.
    pub expires_at: u64,
    pub call_id: String,
    pub cseq: u32,
    /// Sealed flow token of the connection that registered it, if any.
    pub flow: Option<String>,
    /// Path values (RFC 3327), in order.
    pub path: Vec<String>,
    /// The address of record, so that who is found by capability can be called by name.
    #[serde(default)]
    pub aor: String,
    /// Keyed hashes of what the contact offers in `+mcp.cap` (see [`crate::key::CapabilityKey`]).
    #[serde(default)]
    pub capabilities: Vec<[u8; 16]>,
}

/// An edge as the store sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodState {
    pub owner: Owner,
    /// Where its mesh listens (`host:port`); empty where it has none.
    pub address: String,
    /// Milliseconds that its lease still runs, by the store's clock; 0 = it ended, and what it owned may be adopted.
    pub lease_left_ms: u64,
    /// It takes no new work.
    pub draining: bool,
}

/// A further leg of a call: one that we opened towards a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallLeg {
    pub dialog: DialogKey,
    pub call_id: String,
    pub local_tag: String,
    pub cseq: u32,
    /// Request-URI, once a target was chosen.
    pub target: String,
    pub route_set: Vec<String>,
    /// Via branch of the INVITE.
    pub branch: String,
    /// Sealed flow token or address where it was sent.
    pub flow: Option<String>,
    pub source: String,
    /// A final response that is no 2xx came for it.
    pub failed: bool,
}

/// How the peer was reached last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerFlow {
    /// Sealed flow token.
    pub flow: Option<String>,
    /// Transport, listener and address (as `DialogRecord::source`).
    pub source: String,
}

/// Where a dialog stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DialogPhase {
    Early,
    /// 2xx sent, ACK not seen.
    Accepted,
    Confirmed,
    /// BYE sent, or about to be.
    Terminating,
    /// The tombstone.
    Terminated,
}

/// One SIP dialog of a call, seen from our side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DialogRecord {
    pub phase: DialogPhase,
    pub call_id: String,
    pub local_tag: String,
    pub remote_tag: String,
    pub local_uri: String,
    pub remote_uri: String,
    pub remote_target: String,
    pub route_set: Vec<String>,
    pub secure: bool,
    pub cseq_in: Option<u32>,
    pub cseq_out: u32,
    /// Canonical principal (`sip:alice@acme.example`, `anonymous`); the only one who may act in this dialog.
    pub principal: String,
    /// Address of the agent: user part and domain.
    pub agent_user: String,
    pub domain: String,
    /// Sealed flow token of the connection that brought the INVITE.
    pub flow: Option<String>,
    pub local_sdp: Option<Bytes>,
    pub remote_sdp: Option<Bytes>,
    /// `o=` session version of our last SDP.
    pub sdp_version: u64,
    pub session_timer: Option<SessionTimerRecord>,
    /// What was negotiated for MCP; `None` is a plain SIP session.
    pub mcp: Option<McpRecord>,
    /// The 2xx to the INVITE until its ACK.
    pub accept_bytes: Option<Bytes>,
    /// Session-ID (RFC 7989) of the remote side, if it sent one.
    pub session_id: Option<String>,
    /// Configuration epoch under which it was authorised.
    pub policy_epoch: u64,
    /// Wall-clock milliseconds.
    pub created_at: u64,
    /// The transport, listener and address to reach the caller where no flow and no route says more.
    pub source: String,
    /// Who runs its timers. The store's word: a writer's value counts only when the record is made.
    #[serde(default)]
    pub owner: Owner,
    /// The other leg of the call, where we stand between two. It has the same slot.
    #[serde(default)]
    pub peer: Option<DialogKey>,
    /// We sent the INVITE.
    #[serde(default)]
    pub we_called: bool,
    /// So long after its end the conversation stays readable for export: the dialog, its session, the exchanges that were answered.
    /// 0: it goes with its tombstone. Counts with a conversation only, and from the moment on in which it was written first.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retention_ms: u64,
    /// Further members, for what a module wants to remember with the dialog: name → value.
    pub extra: std::collections::BTreeMap<String, String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Session timer (RFC 4028).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionTimerRecord {
    pub interval_s: u32,
    pub we_refresh: bool,
    /// Wall-clock milliseconds of the end without a refresh.
    pub expires_at: u64,
}

/// What a leg negotiated for MCP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct McpRecord {
    /// The option tag that the peer listed.
    pub option_tag: String,
    /// Conversation UUID.
    pub conversation: String,
    /// Whether an envelope was negotiated (a native peer has none).
    pub envelope: bool,
    /// `name@version`, what this leg may see and call after negotiation and `MCP-Select`; `None` = all that policy permits.
    pub tools: Option<Vec<String>>,
    pub schemas: Vec<String>,
    /// MCP versions that both sides listed; empty for a draft peer.
    pub versions: Vec<String>,
    /// The peer's role in the draft's words: `caller` or `callee`.
    pub peer_role: String,
    /// Whether the peer listed the INFO package `mcp` in Recv-Info.
    pub info_package: bool,
}

/// The legacy session or the era of a leg (`initialize` opened it, or its first modern request).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    pub principal: String,
    /// namespace/name of the agent.
    pub agent: String,
    /// The MCP version of the caller's relation; legacy or modern follows from it.
    pub version: Option<String>,
    /// The backend's `Mcp-Session-Id`.
    pub backend_session: Option<String>,
    pub initialized: bool,
    /// Call-ID of the SIP dialog or of the out-of-dialog session.
    pub call_id: String,
    /// Further members: name → value.
    pub extra: std::collections::BTreeMap<String, String>,
}

/// One exchange in flight, or answered a short while ago.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalEntry {
    /// `MCP-Exchange` value, if the peer sent one.
    pub exchange: Option<String>,
    /// The caller's JSON-RPC id, raw.
    pub id: String,
    pub method: String,
    pub tool: Option<String>,
    /// Whether a second execution is safe by declaration.
    pub repeatable: bool,
    /// SHA-256 over the body: a repetition has the same one.
    pub digest: [u8; 32],
    /// Wall-clock milliseconds.
    pub deadline: u64,
    pub started: u64,
    /// The store's word once the entry stands.
    pub owner: Owner,
    /// Where the answer goes: enough for another edge to give it.
    #[serde(default)]
    pub leg: LegRecord,
    /// The request, byte for byte; kept only where it may be replayed.
    #[serde(default)]
    pub request: Option<Bytes>,
    /// The id that the backend was given, where it is not the caller's.
    #[serde(default)]
    pub upstream_id: Option<String>,
    /// The backend's `Mcp-Session-Id` at the time of the request.
    #[serde(default)]
    pub backend_session: Option<String>,
    /// Id of the last SSE event of the answer's stream: the backend may offer to resume there.
    #[serde(default)]
    pub event_id: Option<String>,
    /// Id of the task that the backend made of the request.
    #[serde(default)]
    pub task: Option<String>,
    /// The answer that was on its way when the exchange was adopted ([`crate::op::CloseExchange::is_held`]): the store's word.
    #[serde(default)]
    pub answer: Option<Bytes>,
}

/// The leg of an exchange, for an edge that has never seen it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegRecord {
    /// `None`: out of a dialog.
    pub dialog: Option<DialogKey>,
    pub principal: String,
    pub agent_user: String,
    pub domain: String,
    pub call_id: String,
    /// How answers are carried: `info` or `message`.
    pub carrier: String,
    /// Out of a dialog: the caller's URI (From) and ours (To), for the MESSAGE that answers.
    pub caller_uri: String,
    pub agent_uri: String,
    /// The flow that the caller used last for this exchange; a repetition moves it.
    pub flow: PeerFlow,
}

/// What became known of an exchange while it ran.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExchangeNote {
    pub event_id: Option<String>,
    pub task: Option<String>,
    pub upstream_id: Option<String>,
    pub backend_session: Option<String>,
}
