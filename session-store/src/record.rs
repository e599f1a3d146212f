//! The records, as the current code sees them. Their stored form is versioned: [`crate::codec`].

use bytes::Bytes;
use serde::{Deserialize, Serialize};

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
    /// Further members, for what a module wants to remember with the dialog: name → value.
    pub extra: std::collections::BTreeMap<String, String>,
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
    pub owner: Owner,
}
