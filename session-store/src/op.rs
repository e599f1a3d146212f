//! The operations. Each is one round trip: it checks, changes and returns the new state in one reply.
//! Times are wall-clock milliseconds of the store; `ttl_ms` counts from the moment the store executes the operation.

use bytes::Bytes;

use crate::key::{
    AorKey, CapabilityKey, ConversationKey, DialogKey, ExchangeKey, GuardKey, NonceKey, SessionKey, Slot, Tenant,
};
use crate::record::{
    Binding, CallLeg, DialogRecord, ExchangeNote, JournalEntry, Owner, PeerFlow, PodState, SessionRecord,
};

/// A tombstone of a dialog or an answered INVITE lives 64·T1.
pub const TOMBSTONE_MS: u64 = 32_000;
/// So long a request in a dialog is served by whoever claimed it, milliseconds. After that it may be claimed once more, by a copy that
/// reached another edge: the first one is gone, else it would have answered ([`claim_ms`]).
pub const CLAIM_MS: u64 = 1_000;

/// How long [`StoreOp::Begin`] keeps copies of this method out: MESSAGE, INFO and OPTIONS are answered at once and may be begun again, since
/// what a MESSAGE or INFO opens has a name of its own. `None`: as long as it is remembered.
pub fn claim_ms(method: &str) -> Option<u64> {
    matches!(method, "MESSAGE" | "INFO" | "OPTIONS").then_some(CLAIM_MS)
}
/// An INVITE without a final response is kept so long that CANCEL finds it.
pub const GUARD_MS: u64 = 180_000;
/// An answer is kept so long for a repetition.
pub const ANSWER_MS: u64 = 32_000;
/// Bindings per AOR.
pub const MAX_BINDINGS: usize = 16;
/// Capabilities per binding.
pub const MAX_CAPABILITIES: usize = 64;
/// Legs that a call has opened.
pub const MAX_LEGS: usize = 64;
/// Answered exchanges of a leg that are kept for its retention; the oldest give way.
pub const MAX_KEPT_EXCHANGES: u64 = 256;
/// Octets of their answers.
pub const MAX_KEPT_ANSWERS: u64 = 4 << 20;
/// An edge is listed so long after its lease ended, so that what it owned is adopted and a flow token of it is known for dead.
pub const EDGE_LISTED_MS: u64 = 7_200_000;
/// The epoch of an edge is remembered so long after its lease ended: far longer than anything that it can still own.
pub const EPOCH_MS: u64 = 86_400_000;

/// So far below the highest count of a nonce one may still arrive: on UDP requests overtake each other.
pub const NONCE_WINDOW: u32 = 32;
/// Beside the request with the highest count, so many others (the last that came) are known when they come again.
pub const NONCE_REQUESTS: usize = 4;

/// A digest nonce count that rides on another operation. Each count is taken once, in whatever order they arrive, down to [`NONCE_WINDOW`]
/// below the highest one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NonceUse {
    pub key: NonceKey,
    pub count: u32,
    /// Keyed hash of Call-ID and CSeq: an equal count with the same request is a retransmission.
    pub request: [u8; 16],
    pub ttl_ms: u64,
}

/// What a REGISTER changes (RFC 3261 §10.3 steps 6 and 7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindingChange {
    /// A query without Contact.
    Query,
    /// `Contact: *` with Expires 0.
    RemoveAll { call_id: String, cseq: u32 },
    /// Add, refresh, or remove (those whose `expires_at` is 0). What is removed leaves Call-ID and CSeq behind for [`TOMBSTONE_MS`]: a
    /// late copy of the REGISTER that made it is stale and does not bring it back.
    Update(Vec<Binding>),
}

/// Who acts in a dialog. Another principal changes nothing and gets [`StoreReply::OtherPrincipal`], so that knowing the tags of a call
/// is not enough to move its CSeq.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// Canonical, as in the record.
    pub principal: String,
    /// Where the principal alone proves nothing (`anonymous`): the request came from here, which must be the record's source.
    pub source: Option<String>,
}

/// Opens an exchange in the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenExchange {
    pub key: ExchangeKey,
    pub entry: JournalEntry,
    /// Most exchanges in flight per session.
    pub limit: usize,
    /// Lifetime of the entry while unanswered: the deadline and a grace.
    pub ttl_ms: u64,
    /// Moves the idle end of the session, if there is one; 0 leaves it.
    pub session_ttl_ms: u64,
    /// This owner has never heard that the entry is its own (the reply to its write was lost), so that nobody serves it: where the same
    /// request is in flight under exactly this owner, this entry takes its place, `Opened`, and no limit counts it again. Where somebody
    /// else has it meanwhile, or it was adopted (an earlier owner may have served it), this is a repetition like any other.
    pub instead_of: Option<Owner>,
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreOp {
    /// Count a nonce where no other operation carries it.
    UseNonce(NonceUse),
    /// REGISTER.
    Register { aor: AorKey, change: BindingChange, nonce: Option<NonceUse> },
    /// Read the live bindings.
    ReadBindings { aor: AorKey },

    /// INVITE received: the guard, set if absent. An entry whose owner let its lease end, or of an earlier life of the caller's own
    /// pod (a higher epoch proves that one dead), is taken over by the caller.
    OpenCall { guard: GuardKey, dialog: DialogKey, invite: Bytes, owner: Owner, lease_ms: u64, nonce: Option<NonceUse> },
    /// The legs that we are about to open (or what became of them), before the INVITE leaves. Replaces what stood there. Done,
    /// `CallCancelled` (send nothing more), `Fenced` or `Unknown`.
    PlaceLegs { guard: GuardKey, owner: Owner, legs: Vec<CallLeg> },
    /// A provisional response that makes an early dialog (reliable, or with SDP or an MCP answer): the record, phase `Early`, before
    /// the response leaves. May come again. `Version`, `CallCancelled`, `Fenced`, `Unknown`, or `Gone` where the dialog was ended.
    EarlyCall { guard: GuardKey, owner: Owner, dialog: DialogKey, record: Box<DialogRecord>, ttl_ms: u64 },
    /// 2xx: dialog record and guard in one operation; refused when cancelled meanwhile, or when somebody else owns the guard.
    /// `peer`: the other leg's dialog, in the same step. Both become resources of `owner`. `Gone` where the early dialog was ended.
    AnswerCall {
        guard: GuardKey,
        owner: Owner,
        dialog: DialogKey,
        record: Box<DialogRecord>,
        ttl_ms: u64,
        peer: Option<Box<(DialogKey, DialogRecord)>>,
        /// Under this name the call is found by export and erasure.
        conversation: Option<ConversationKey>,
    },
    /// A final response other than 2xx. Ends the early dialog, if there is one. It also takes back an [`StoreOp::AnswerCall`] of which its
    /// owner has no reply: both dialogs end as by [`StoreOp::Bury`]. `Fenced` where the 2xx was given to a copy of the INVITE meanwhile
    /// (somebody has that dialog), or the dialog is another owner's.
    RejectCall { guard: GuardKey, owner: Owner, response: Bytes },
    /// CANCEL. Ends the early dialog, if there is one.
    CancelCall { guard: GuardKey },

    /// Read a dialog.
    ReadDialog { dialog: DialogKey },
    /// ACK: accepted → confirmed; drops the 2xx bytes.
    Confirm { dialog: DialogKey },
    /// In-dialog request: CSeq must rise; claims it (for [`claim_ms`] where the dialog has no other leg); may open an exchange in the same step (of this dialog: it has the same slot).
    /// `flow`: the peer is reached there from now on (not taken from another principal, nor from a request that is not `Begun`). It alone
    /// moves `flow` and `source` of the record; a writer's value counts only when the record is made.
    Begin {
        dialog: DialogKey,
        by: Actor,
        flow: Option<PeerFlow>,
        cseq: u32,
        method: String,
        nonce: Option<NonceUse>,
        exchange: Option<Box<OpenExchange>>,
    },
    /// Its final response, for replay; with a record: compare-and-set on `version`.
    Commit { dialog: DialogKey, cseq: u32, response: Bytes, record: Option<(u64, Box<DialogRecord>, u64)> },
    /// BYE received: the tombstone and the response to replay. The other leg, if there is one, becomes `Terminating` in the same step.
    Terminate { dialog: DialogKey, by: Actor, cseq: u32, response: Bytes, nonce: Option<NonceUse> },
    /// A request of ours in the dialog: the next CSeq. `terminating` before a BYE (the other leg becomes `Terminating`, too). May close
    /// an exchange in the same step. `fence`: a timer's action, refused where it no longer holds.
    NextCseq { dialog: DialogKey, terminating: bool, close: Option<Box<CloseExchange>>, fence: Option<Fence> },
    /// A change of ours (a session timer that was refreshed): compare-and-set on `version`.
    UpdateDialog { dialog: DialogKey, version: u64, record: Box<DialogRecord>, ttl_ms: u64 },
    /// BYE sent and answered, or the session expired: the tombstone.
    Bury { dialog: DialogKey },
    /// After the store came back empty: a record that this edge still holds, set if absent, under the owner's new epoch (the record's
    /// `owner`). `Version(1)` where it was written, `Conflict` with what is there, `Gone` where it was ended.
    RestoreDialog { dialog: DialogKey, record: Box<DialogRecord>, ttl_ms: u64, conversation: Option<ConversationKey> },

    /// A request out of a dialog, or one more in a session. A repetition of one in flight moves its return path to the new leg's flow.
    OpenExchange { open: Box<OpenExchange>, nonce: Option<NonceUse> },
    /// The answer: `Closed`, or `Unknown` where its time was over. Fenced: only the owner of the entry may close it.
    CloseExchange(CloseExchange),
    /// What became known of an exchange in flight (asynchronous: nothing waits for it). Fenced.
    NoteExchange { key: ExchangeKey, owner: Owner, note: ExchangeNote },
    /// A deduplicated message without an answer (notification, response) out of a dialog: true the first time only.
    Once { key: ExchangeKey, ttl_ms: u64, nonce: Option<NonceUse> },
    /// Read a session and move its idle end.
    ReadSession { session: SessionKey, ttl_ms: u64 },
    /// Create or change a session; compare-and-set on `version` (0 = must not exist).
    WriteSession { session: SessionKey, version: u64, record: Box<SessionRecord>, ttl_ms: u64 },
    /// End a session: the record and its journal go. With `if_ends_within_ms` only where it would end so soon by itself, else nothing
    /// changes and the reply is [`StoreReply::Session`]: somebody else moved its idle end.
    DropSession { session: SessionKey, if_ends_within_ms: Option<u64> },

    /// A new life of an edge: epoch = max(the store's counter for that pod, `last_epoch`) + 1, with a lease. `generation` names the
    /// store's content: written if there is none. `Fenced` where that pod lives under another boot in a higher epoch than `last_epoch`,
    /// and this is not the asking process's first one: two processes run under one id, and the older one takes nothing back.
    TakeEpoch { pod: u64, boot: u64, last_epoch: u64, address: String, lease_ms: u64, generation: [u8; 16] },
    /// Renews the one lease of an edge, each time for as long as it says; what was granted before is not taken back. `Fenced` where the key is gone (the lease ended) or another life has it; it is not made again.
    Heartbeat { owner: Owner, address: String, lease_ms: u64, draining: bool },
    /// A clean end: the lease ends now, and what is still owned may be adopted at once.
    Leave { owner: Owner },
    /// Takes over what `from` (this epoch, or an earlier one of that pod) owns under this slot label: pending calls, dialogs, exchanges
    /// in flight; at most `limit`. The caller has seen that the lease of `from` ended or that the same pod lives in a higher epoch.
    Adopt { slot: Slot, from: Owner, by: Owner, limit: usize, lease_ms: u64 },

    /// The tenant number of a domain (keyed hash of its name): set if absent, from a counter that begins at 1 and never goes back.
    TenantNumber { domain: [u8; 16] },
    /// Which registered agents of a tenant offer a capability: live bindings, at most `limit` of them.
    FindCapability { capability: CapabilityKey, limit: usize },
    /// What is stored of a conversation. What ended is told for as long as it is retained ([`DialogRecord::retention_ms`]), and with its
    /// dialogs the sessions and the exchanges that were answered.
    Export { conversation: ConversationKey },
    /// Removes what is stored of a conversation: dialogs (they leave a tombstone that says nothing: every request finds it `Gone`),
    /// sessions, exchanges, and what was retained of them.
    Erase { conversation: ConversationKey },
}

/// What a timer's action was decided on. `Fenced` where another life owns the dialog; `Conflict` where the record changed meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    pub owner: Owner,
    pub version: Option<u64>,
}

/// Closes an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseExchange {
    pub key: ExchangeKey,
    pub owner: Owner,
    /// Kept for [`ANSWER_MS`] for a repetition; `None` where a second execution is safe, or where it was kept before.
    pub answer: Option<Bytes>,
    /// The answer is about to be sent: to everybody else the exchange is answered, but it stays with its owner, who closes it once the
    /// caller has the answer. Who adopts it gives the answer again, or runs the request again where none was kept.
    pub is_held: bool,
}

/// The reply to one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreReply {
    /// Done, nothing to tell.
    Done,
    /// The nonce count was taken before by another request, or is too far below the highest: a replay. Nothing was changed.
    NonceReplayed,
    /// Live bindings after the change.
    Bindings(Vec<Binding>),
    /// A REGISTER with an old CSeq for one of its bindings; nothing was changed.
    StaleRegister,
    /// More than [`MAX_BINDINGS`], or one with more than [`MAX_CAPABILITIES`]; nothing was changed.
    TooManyBindings,

    /// The guard is ours.
    CallOpened,
    /// The owner's lease had ended: the call is ours now, with the INVITE that it started with.
    CallAdopted { dialog: DialogKey, invite: Bytes, legs: Vec<CallLeg> },
    /// The same INVITE is known.
    CallKnown { dialog: DialogKey, state: CallState },
    /// The 2xx may leave.
    Answered { version: u64 },
    /// A CANCEL came first.
    CallCancelled,
    /// What CANCEL found.
    Cancelled { dialog: DialogKey, invite: Bytes, owner: Owner, legs: Vec<CallLeg> },
    /// CANCEL came after the final response: 200 to the CANCEL, nothing else.
    CancelTooLate,

    /// The record and its version.
    Dialog { version: u64, record: Box<DialogRecord> },
    /// The CSeq is claimed.
    Begun { version: u64, record: Box<DialogRecord>, exchange: Option<OpenOutcome> },
    /// This CSeq was answered: the same response again.
    Replay { response: Bytes },
    /// This CSeq is being served: its claim has not lapsed.
    InProgress,
    /// CSeq lower than the highest seen: 500 (RFC 3261 §12.2.2).
    OutOfOrder,
    /// The dialog ended: the tombstone.
    Gone,
    /// The dialog belongs to another principal (or, anonymous, to another flow); nothing was changed.
    OtherPrincipal,
    /// Somebody changed the record meanwhile; this is what it is now.
    Conflict { version: u64, record: Box<DialogRecord> },
    /// New version after a change.
    Version(u64),
    /// The next CSeq out, with the record.
    Cseq { cseq: u32, version: u64, record: Box<DialogRecord> },

    /// How opening an exchange ended, with the session record if there is one.
    Exchange(OpenOutcome),
    /// `Once`: whether this was the first time.
    First(bool),
    /// The session and its version.
    Session { version: u64, record: Box<SessionRecord> },
    /// `CloseExchange`: closed. Where the caller of this exchange was heard last: a repetition may have moved it.
    Closed { flow: PeerFlow },
    /// Nothing by that name.
    Unknown,
    /// Another owner has it now: drop it and stay silent.
    Fenced,
    /// Created or changed by somebody else.
    SessionConflict { version: u64, record: Box<SessionRecord> },

    /// `TakeEpoch`: this life, the store's generation, all edges by their pod, and the store's clock (wall-clock milliseconds; what an
    /// edge gives the store as a moment in time is meant by this clock).
    Epoch { owner: Owner, generation: [u8; 16], pods: Vec<PodState>, now_ms: u64 },
    /// `Heartbeat`: the same.
    Pods { generation: [u8; 16], pods: Vec<PodState>, now_ms: u64 },
    /// `Adopt`: ours now. `more`: there is more under this label.
    Adopted { items: Vec<Adopted>, more: bool },
    /// `TenantNumber`.
    Tenant(Tenant),
    /// `Export`.
    Exported(Vec<Exported>),
    /// `Erase`: how many records went.
    Erased(usize),
}

/// Something continuous that another edge left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Adopted {
    /// An INVITE without a final response.
    Call { guard: GuardKey, dialog: DialogKey, invite: Bytes, legs: Vec<CallLeg> },
    /// A dialog: its 2xx without ACK (phase `Accepted`), its session timer, its BYE (phase `Terminating`).
    Dialog { dialog: DialogKey, version: u64, record: Box<DialogRecord> },
    /// An exchange in flight.
    Exchange { key: ExchangeKey, entry: Box<JournalEntry> },
}

/// One record of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exported {
    Dialog(Box<DialogRecord>),
    Session(Box<SessionRecord>),
    Exchange { entry: Box<JournalEntry>, answer: Option<Bytes> },
}

/// How opening an exchange ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenOutcome {
    /// It is ours: forward it. The session record, if one exists.
    Opened { session: Option<(u64, Box<SessionRecord>)> },
    /// The same request is in flight here or elsewhere.
    RepeatInFlight { owner: Owner },
    /// The same request was answered.
    RepeatAnswered { answer: Option<Bytes> },
    /// The same name is in flight with another body. Nothing was changed.
    Taken,
    /// In-flight limit of the session.
    Full,
}

/// Where a known call stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallState {
    /// No final response yet; that owner serves it.
    Pending { owner: Owner },
    /// Cancelled: 487.
    Cancelled,
    /// Rejected with this response.
    Rejected { response: Bytes },
    /// Accepted: the dialog record has the 2xx until its ACK.
    Accepted { accept_bytes: Option<Bytes> },
}

/// The store could not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Not reachable, or not in time. Whether it was executed is not known.
    #[error("the store did not answer in time")]
    Unavailable,
    /// At its limit.
    #[error("the store is full ({what})")]
    Full { what: &'static str },
    /// A record of a newer version, or damaged: refused, never guessed.
    #[error("a stored record cannot be read: {reason}")]
    Unreadable { reason: String },
}
