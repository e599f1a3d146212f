//! Small records with everything that a case does not care about filled in.

use bytes::Bytes;
use session_store::key::{
    AorKey, CapabilityKey, ConversationKey, DialogKey, ExchangeKey, GuardKey, NonceKey, SessionKey,
};
use session_store::op::{Actor, Adopted, CloseExchange, NonceUse, OpenExchange, OpenOutcome, StoreOp, StoreReply};
use session_store::record::{
    Binding, CallLeg, DialogPhase, DialogRecord, JournalEntry, LegRecord, Owner, PeerFlow, SessionRecord,
};

use crate::Subject;

pub const A: Owner = Owner { pod: 1, epoch: 1, boot: 11 };
pub const B: Owner = Owner { pod: 2, epoch: 1, boot: 22 };
/// A pod is a hash, a boot is random: both have all 64 bits.
pub const C: Owner = Owner { pod: u64::MAX - 2, epoch: 3, boot: u64::MAX };

pub const SECOND: u64 = 1_000;
pub const MINUTE: u64 = 60 * SECOND;
pub const HOUR: u64 = 60 * MINUTE;
pub const SLOT: u16 = 7;

pub fn guard(n: u8) -> GuardKey {
    GuardKey { slot: SLOT, tenant: 1, hash: [n; 16] }
}

pub fn dialog(n: u8) -> DialogKey {
    DialogKey { slot: SLOT, tenant: 1, id: [n; 16] }
}

pub fn aor(n: u8) -> AorKey {
    AorKey { tenant: 1, hash: [n; 16] }
}

pub fn session(n: u8) -> SessionKey {
    SessionKey { slot: SLOT, tenant: 1, hash: [n; 16] }
}

pub fn exchange(s: u8, n: u8) -> ExchangeKey {
    ExchangeKey { session: session(s), hash: [n; 16] }
}

pub fn conversation(n: u8) -> ConversationKey {
    ConversationKey { tenant: 1, hash: [n; 16] }
}

pub fn capability(n: u8) -> CapabilityKey {
    CapabilityKey { tenant: 1, hash: [n; 16] }
}

pub fn nonce(n: u8, count: u32, request: u8) -> NonceUse {
    NonceUse { key: NonceKey { tenant: 1, hash: [n; 16] }, count, request: [request; 16], ttl_ms: 5 * MINUTE }
}

pub fn alice() -> Actor {
    Actor { principal: "sip:alice@demo.example".into(), source: None }
}

pub fn flow(n: u8) -> PeerFlow {
    PeerFlow { flow: Some(format!("flow-{n}")), source: format!("tls:0:192.0.2.{n}:5061") }
}

/// `expires_at`: wall-clock milliseconds of the store.
pub fn binding(key: &str, cseq: u32, expires_at: u64) -> Binding {
    Binding {
        key: key.into(),
        uri: key.into(),
        contact: format!("<{key}>;+mcp").into_bytes(),
        expires_at,
        call_id: "reg-1".into(),
        cseq,
        flow: None,
        path: Vec::new(),
        aor: "sip:agent@demo.example".into(),
        capabilities: Vec::new(),
    }
}

pub fn record() -> DialogRecord {
    DialogRecord {
        phase: DialogPhase::Accepted,
        call_id: "c1@example".into(),
        local_tag: "l".into(),
        remote_tag: "r".into(),
        local_uri: "sip:echo@demo.example".into(),
        remote_uri: "sip:alice@demo.example".into(),
        remote_target: "sip:alice@192.0.2.1".into(),
        route_set: Vec::new(),
        secure: false,
        cseq_in: Some(1),
        cseq_out: 0,
        principal: "sip:alice@demo.example".into(),
        agent_user: "echo".into(),
        domain: "demo.example".into(),
        flow: None,
        local_sdp: Some(Bytes::from_static(b"v=0\r\n")),
        remote_sdp: None,
        sdp_version: 1,
        session_timer: None,
        mcp: None,
        accept_bytes: Some(Bytes::from_static(b"SIP/2.0 200 OK")),
        session_id: None,
        policy_epoch: 1,
        created_at: 1_800_000_000_000,
        source: "udp:0:192.0.2.1:5060".into(),
        owner: A,
        peer: None,
        we_called: false,
        retention_ms: 0,
        extra: Default::default(),
    }
}

pub fn early_record() -> DialogRecord {
    DialogRecord { phase: DialogPhase::Early, accept_bytes: None, ..record() }
}

pub fn leg(n: u8) -> CallLeg {
    CallLeg {
        dialog: dialog(n),
        call_id: format!("leg-{n}"),
        local_tag: format!("tag-{n}"),
        cseq: 1,
        target: format!("sip:agent-{n}@192.0.2.7"),
        route_set: vec!["<sip:edge.example;lr>".into()],
        branch: format!("z9hG4bK{n}"),
        flow: None,
        source: "udp:0:192.0.2.7:5060".into(),
        failed: false,
    }
}

pub fn entry(owner: Owner, digest: u8, repeatable: bool) -> JournalEntry {
    JournalEntry {
        exchange: None,
        id: "1".into(),
        method: "tools/call".into(),
        tool: Some("echo".into()),
        repeatable,
        digest: [digest; 32],
        deadline: 1_800_000_060_000,
        started: 1_800_000_000_000,
        owner,
        leg: LegRecord::default(),
        request: repeatable.then(|| Bytes::from_static(b"{}")),
        upstream_id: None,
        backend_session: None,
        event_id: None,
        task: None,
        answer: None,
    }
}

pub fn open(key: ExchangeKey, owner: Owner, digest: u8, repeatable: bool) -> OpenExchange {
    OpenExchange {
        key,
        entry: entry(owner, digest, repeatable),
        limit: 4,
        ttl_ms: MINUTE,
        session_ttl_ms: 0,
        instead_of: None,
    }
}

pub fn close(key: ExchangeKey, owner: Owner, answer: Option<&'static [u8]>) -> CloseExchange {
    CloseExchange { key, owner, answer: answer.map(Bytes::from_static), is_held: false }
}

pub fn session_record() -> SessionRecord {
    SessionRecord {
        principal: "sip:alice@demo.example".into(),
        agent: "demo/echo".into(),
        version: Some("2025-11-25".into()),
        backend_session: Some("b-1".into()),
        ..SessionRecord::default()
    }
}

/// Executes an operation that the store has room for. Lists without an order come sorted.
pub fn run(s: &mut dyn Subject, operation: StoreOp) -> StoreReply {
    match s.run(operation) {
        Ok(reply) => sorted(reply),
        Err(error) => panic!("the store refused: {error}"),
    }
}

/// The reply with those lists sorted whose order nobody promises.
pub fn sorted(mut reply: StoreReply) -> StoreReply {
    match &mut reply {
        StoreReply::Bindings(bindings) => bindings.sort_by(|a, b| (&a.aor, &a.key).cmp(&(&b.aor, &b.key))),
        StoreReply::Adopted { items, .. } => items.sort_by_key(adopted_name),
        StoreReply::Epoch { pods, .. } | StoreReply::Pods { pods, .. } => pods.sort_by_key(|pod| pod.owner),
        StoreReply::Exported(records) => records.sort_by_key(|record| format!("{record:?}")),
        _ => {}
    }
    reply
}

/// By kind and name.
pub fn adopted_name(item: &Adopted) -> session_store::name::EntryName {
    use session_store::name::EntryName;
    match item {
        Adopted::Call { guard, .. } => EntryName::Guard(*guard),
        Adopted::Dialog { dialog, .. } => EntryName::Dialog(*dialog),
        Adopted::Exchange { key, .. } => EntryName::Exchange(*key),
    }
}

pub fn open_call(n: u8, d: u8, owner: Owner) -> StoreOp {
    StoreOp::OpenCall {
        guard: guard(n),
        dialog: dialog(d),
        invite: Bytes::from_static(b"INVITE"),
        owner,
        lease_ms: 30 * SECOND,
        nonce: None,
    }
}

pub fn answer_with(n: u8, owner: Owner, record: DialogRecord) -> StoreOp {
    StoreOp::AnswerCall {
        guard: guard(n),
        owner,
        dialog: dialog(n),
        record: Box::new(record),
        ttl_ms: HOUR,
        peer: None,
        conversation: None,
    }
}

pub fn answer(n: u8, owner: Owner) -> StoreOp {
    answer_with(n, owner, record())
}

pub fn early(n: u8, owner: Owner) -> StoreOp {
    StoreOp::EarlyCall { guard: guard(n), owner, dialog: dialog(n), record: Box::new(early_record()), ttl_ms: HOUR }
}

pub fn reject(n: u8, owner: Owner) -> StoreOp {
    StoreOp::RejectCall { guard: guard(n), owner, response: Bytes::from_static(b"486") }
}

pub fn cancel(n: u8) -> StoreOp {
    StoreOp::CancelCall { guard: guard(n) }
}

/// The dialog `n`, answered by [`A`] with a lifetime of one hour.
pub fn with_dialog(s: &mut dyn Subject, n: u8) {
    assert_eq!(run(s, open_call(n, n, A)), StoreReply::CallOpened);
    assert_eq!(run(s, answer(n, A)), StoreReply::Answered { version: 1 });
}

/// The dialogs `n` and `m`, the two legs of one call, answered by [`A`] under the conversation `n`.
pub fn with_two_legs(s: &mut dyn Subject, n: u8, m: u8) {
    with_two_legs_of(s, n, m, record());
}

/// The same, both legs alike.
pub fn with_two_legs_of(s: &mut dyn Subject, n: u8, m: u8, record: DialogRecord) {
    assert_eq!(run(s, open_call(n, n, A)), StoreReply::CallOpened);
    let caller = DialogRecord { peer: Some(dialog(m)), ..record.clone() };
    let callee = DialogRecord { peer: Some(dialog(n)), we_called: true, phase: DialogPhase::Confirmed, ..record };
    let answered = StoreOp::AnswerCall {
        guard: guard(n),
        owner: A,
        dialog: dialog(n),
        record: Box::new(caller),
        ttl_ms: HOUR,
        peer: Some(Box::new((dialog(m), callee))),
        conversation: Some(conversation(n)),
    };
    assert_eq!(run(s, answered), StoreReply::Answered { version: 1 });
}

pub fn begin(n: u8, cseq: u32, method: &str) -> StoreOp {
    begin_from(n, cseq, method, None)
}

pub fn begin_from(n: u8, cseq: u32, method: &str, flow: Option<PeerFlow>) -> StoreOp {
    StoreOp::Begin { dialog: dialog(n), by: alice(), flow, cseq, method: method.into(), nonce: None, exchange: None }
}

pub fn commit(n: u8, cseq: u32, response: &'static [u8]) -> StoreOp {
    StoreOp::Commit { dialog: dialog(n), cseq, response: Bytes::from_static(response), record: None }
}

pub fn bye(n: u8, cseq: u32) -> StoreOp {
    StoreOp::Terminate { dialog: dialog(n), by: alice(), cseq, response: Bytes::from_static(b"200 BYE"), nonce: None }
}

pub fn next_cseq(n: u8, terminating: bool) -> StoreOp {
    StoreOp::NextCseq { dialog: dialog(n), terminating, close: None, fence: None }
}

pub fn read(n: u8) -> StoreOp {
    StoreOp::ReadDialog { dialog: dialog(n) }
}

pub fn bury(n: u8) -> StoreOp {
    StoreOp::Bury { dialog: dialog(n) }
}

pub fn adopt(from: Owner, by: Owner) -> StoreOp {
    StoreOp::Adopt { slot: SLOT, from, by, limit: 500, lease_ms: 30 * SECOND }
}

pub fn opening(open: OpenExchange) -> StoreOp {
    StoreOp::OpenExchange { open: Box::new(open), nonce: None }
}

pub fn opened() -> StoreReply {
    StoreReply::Exchange(OpenOutcome::Opened { session: None })
}

pub fn closed() -> StoreReply {
    StoreReply::Closed { flow: PeerFlow::default() }
}

/// The live record and its version.
pub fn dialog_of(s: &mut dyn Subject, n: u8) -> (u64, DialogRecord) {
    match run(s, read(n)) {
        StoreReply::Dialog { version, record } => (version, *record),
        other => panic!("a live dialog was expected: {other:?}"),
    }
}

pub fn phase_of(s: &mut dyn Subject, n: u8) -> DialogPhase {
    dialog_of(s, n).1.phase
}

/// What `from` has left under the label, taken by `by`.
pub fn adopted(s: &mut dyn Subject, from: Owner, by: Owner) -> Vec<Adopted> {
    match run(s, adopt(from, by)) {
        StoreReply::Adopted { items, more: false } => items,
        other => panic!("everything in one slice was expected: {other:?}"),
    }
}
