//! Small records with everything that a test does not care about filled in.

use bytes::Bytes;
use session_store::key::{AorKey, DialogKey, ExchangeKey, GuardKey, NonceKey, SessionKey};
use session_store::memory::{Capacity, Counts, MemoryStore};
use session_store::op::{Actor, CloseExchange, NonceUse, OpenExchange, StoreOp, StoreReply};
use session_store::record::{Binding, DialogPhase, DialogRecord, JournalEntry, Owner, SessionRecord};

pub const NOW: u64 = 1_800_000_000_000;
pub const A: Owner = Owner { pod: 1, epoch: 1, boot: 11 };
pub const B: Owner = Owner { pod: 2, epoch: 1, boot: 22 };

pub fn guard(n: u8) -> GuardKey {
    GuardKey { slot: 7, tenant: 1, hash: [n; 16] }
}

pub fn dialog(n: u8) -> DialogKey {
    DialogKey { slot: 7, tenant: 1, id: [n; 16] }
}

pub fn aor(n: u8) -> AorKey {
    AorKey { tenant: 1, hash: [n; 16] }
}

pub fn session(n: u8) -> SessionKey {
    SessionKey { slot: 7, tenant: 1, hash: [n; 16] }
}

pub fn exchange(s: u8, n: u8) -> ExchangeKey {
    ExchangeKey { session: session(s), hash: [n; 16] }
}

pub fn nonce(n: u8, count: u32, request: u8) -> NonceUse {
    NonceUse { key: NonceKey { tenant: 1, hash: [n; 16] }, count, request: [request; 16], ttl_ms: 300_000 }
}

pub fn alice() -> Actor {
    Actor { principal: "sip:alice@demo.example".into(), source: None }
}

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
        aor: String::new(),
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
        local_sdp: None,
        remote_sdp: None,
        sdp_version: 1,
        session_timer: None,
        mcp: None,
        accept_bytes: Some(Bytes::from_static(b"SIP/2.0 200 OK")),
        session_id: None,
        policy_epoch: 1,
        created_at: NOW,
        source: "udp:0:192.0.2.1:5060".into(),
        owner: A,
        peer: None,
        we_called: false,
        extra: Default::default(),
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
        deadline: NOW + 60_000,
        started: NOW,
        owner,
        leg: Default::default(),
        request: None,
        upstream_id: None,
        backend_session: None,
        event_id: None,
        task: None,
        answer: None,
    }
}

pub fn open(key: ExchangeKey, owner: Owner, digest: u8, repeatable: bool) -> OpenExchange {
    OpenExchange { key, entry: entry(owner, digest, repeatable), limit: 4, ttl_ms: 60_000, session_ttl_ms: 0 }
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

pub fn store() -> MemoryStore {
    MemoryStore::new(Capacity::default())
}

/// A store with the dialog `n`, answered at `NOW` with a lifetime of one hour.
pub fn with_dialog(n: u8) -> MemoryStore {
    let mut store = store();
    let opened = run(
        &mut store,
        NOW,
        StoreOp::OpenCall {
            guard: guard(n),
            dialog: dialog(n),
            invite: Bytes::from_static(b"INVITE"),
            owner: A,
            lease_ms: 3_000,
            nonce: None,
        },
    );
    assert_eq!(opened, StoreReply::CallOpened);
    let answered = run(
        &mut store,
        NOW,
        StoreOp::AnswerCall {
            guard: guard(n),
            owner: A,
            dialog: dialog(n),
            record: Box::new(record()),
            ttl_ms: 3_600_000,
            peer: None,
            conversation: None,
        },
    );
    assert_eq!(answered, StoreReply::Answered { version: 1 });
    store
}

pub fn begin(n: u8, cseq: u32, method: &str) -> StoreOp {
    StoreOp::Begin {
        dialog: dialog(n),
        by: alice(),
        flow: None,
        cseq,
        method: method.into(),
        nonce: None,
        exchange: None,
    }
}

pub fn run(store: &mut MemoryStore, now: u64, operation: StoreOp) -> StoreReply {
    store.execute(now, operation).expect("the memory store has room")
}

/// Sweeps until nothing more goes.
pub fn swept(store: &mut MemoryStore, now: u64) -> Counts {
    loop {
        let before = store.counts();
        store.sweep(now);
        if store.counts() == before {
            return before;
        }
    }
}
