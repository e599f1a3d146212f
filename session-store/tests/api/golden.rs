//! The stored form stays readable: bytes of every kind of record, committed, and what neighbours of this version read of each other.
//!
//! A file is never changed. A record that gets a member gets a further file (`dialog-2.hex`, empty at first: the test says what
//! belongs there) with its value here, and the older ones are still read.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use session_store::codec::{decode, encode};
use session_store::memory::{Capacity, Counts, MemoryStore};
use session_store::name::EntryName;
use session_store::op::{BindingChange, CloseExchange, NonceUse, OpenExchange, StoreError, StoreOp, StoreReply};
use session_store::record::{
    Binding, CallLeg, DialogPhase, DialogRecord, ExchangeNote, JournalEntry, LegRecord, McpRecord, Owner, PeerFlow,
    PodState, SessionRecord, SessionTimerRecord,
};
use store_contract::memory::NOW;
use store_contract::samples::*;

macro_rules! committed {
    ($($name:literal)*) => {
        /// The committed bytes by the name of their file.
        fn golden(name: &str) -> Vec<u8> {
            let text = match name {
                $($name => include_str!(concat!("../golden/", $name, ".hex")),)*
                _ => panic!("{name} is not in the list of committed files"),
            };
            let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
            let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
            digits.chunks(2).map(byte).collect()
        }
    };
}

committed! {
    "dialog-1" "session-1" "exchange-1" "binding-1" "leg-1" "edge-1" "flow-1" "note-1"
    "entry-bindings-1" "entry-removed-1" "entry-guard-pending-1" "entry-guard-rejected-1" "entry-guard-cancelled-1"
    "entry-guard-accepted-1" "entry-guard-told-1" "entry-dialog-1" "entry-dialog-erased-1" "entry-session-1" "entry-exchange-in-flight-1"
    "entry-exchange-held-1" "entry-exchange-answered-1" "entry-message-1" "entry-nonce-1" "entry-nonce-2" "entry-edge-1"
    "entry-domain-1" "entry-generation-1" "entry-dialog-retained-1" "entry-kept-1" "entry-kept-exchange-1"
}

/// What is written now is committed.
fn assert_committed(file: &str, now: &[u8]) {
    let hex: String = now.iter().map(|b| format!("{b:02x}")).collect();
    assert!(golden(file) == now, "{file}: the form changed; commit it as a further file:\n{hex}");
}

// A MessagePack map of the codec, as its raw parts.

fn skip(bytes: &[u8], at: usize) -> usize {
    let be = |from: usize, n: usize| bytes[from..from + n].iter().fold(0usize, |all, b| all << 8 | usize::from(*b));
    let items = |mut at: usize, n: usize| {
        for _ in 0..n {
            at = skip(bytes, at);
        }
        at
    };
    match bytes[at] {
        0x00..=0x7f | 0xc0 | 0xc2 | 0xc3 | 0xe0..=0xff => at + 1,
        b @ 0x80..=0x8f => items(at + 1, 2 * usize::from(b & 15)),
        b @ 0x90..=0x9f => items(at + 1, usize::from(b & 15)),
        b @ 0xa0..=0xbf => at + 1 + usize::from(b & 31),
        0xc4 | 0xd9 => at + 2 + be(at + 1, 1),
        0xc5 | 0xda => at + 3 + be(at + 1, 2),
        0xc6 | 0xdb => at + 5 + be(at + 1, 4),
        0xcc | 0xd0 => at + 2,
        0xcd | 0xd1 => at + 3,
        0xce | 0xd2 => at + 5,
        0xcf | 0xd3 => at + 9,
        0xdc => items(at + 3, be(at + 1, 2)),
        0xde => items(at + 3, 2 * be(at + 1, 2)),
        other => panic!("{other:#x} is not written by the codec"),
    }
}

/// The members by name, each with the bytes of its value.
fn members(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let (count, mut at) = match bytes[1] {
        b @ 0x80..=0x8f => (usize::from(b & 15), 2),
        0xde => (usize::from(u16::from_be_bytes([bytes[2], bytes[3]])), 4),
        other => panic!("{other:#x} begins no map"),
    };
    let mut out = Vec::new();
    for _ in 0..count {
        let value = skip(bytes, at);
        let end = skip(bytes, value);
        let name =
            String::from_utf8(bytes[at..value].iter().copied().skip_while(|b| *b >= 0xa0 || *b < 0x20).collect());
        out.push((name.unwrap(), bytes[value..end].to_vec()));
        at = end;
    }
    assert_eq!(at, bytes.len());
    out
}

fn of_members(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut out = vec![1, 0xde];
    out.extend(u16::try_from(members.len()).unwrap().to_be_bytes());
    for (name, value) in members {
        out.extend([0xd9, u8::try_from(name.len()).unwrap()]);
        out.extend(name.bytes());
        out.extend(value);
    }
    out
}

fn dialog_value() -> DialogRecord {
    DialogRecord {
        phase: DialogPhase::Confirmed,
        call_id: "c1@example".into(),
        local_tag: "l".into(),
        remote_tag: "r".into(),
        local_uri: "sip:echo@demo.example".into(),
        remote_uri: "sip:alice@demo.example".into(),
        remote_target: "sip:alice@192.0.2.1;transport=tcp".into(),
        route_set: vec!["<sip:p.example;lr>".into()],
        secure: true,
        cseq_in: Some(4_000_000_000),
        cseq_out: 70_000,
        principal: "sip:alice@demo.example".into(),
        agent_user: "echo".into(),
        domain: "demo.example".into(),
        flow: Some("flow".into()),
        local_sdp: Some(Bytes::from_static(b"v=0\r\n\xff")),
        remote_sdp: Some(Bytes::from_static(b"v=0\r\n")),
        sdp_version: 3,
        session_timer: Some(SessionTimerRecord { interval_s: 1_800, we_refresh: true, expires_at: NOW }),
        mcp: Some(McpRecord {
            option_tag: "mcp".into(),
            conversation: "0b1e".into(),
            envelope: true,
            tools: Some(vec!["echo@1".into()]),
            schemas: vec!["urn:x".into()],
            versions: vec!["2025-11-25".into()],
            peer_role: "caller".into(),
            info_package: true,
        }),
        accept_bytes: Some(Bytes::from_static(b"SIP/2.0 200 OK\r\n")),
        session_id: Some("a1".into()),
        policy_epoch: 9,
        created_at: NOW,
        source: "tls:1:192.0.2.1:5061".into(),
        owner: C,
        peer: Some(dialog(2)),
        we_called: true,
        retention_ms: 0,
        extra: BTreeMap::from([("k".into(), "v".into())]),
    }
}

fn session_value() -> SessionRecord {
    SessionRecord {
        principal: "sip:alice@demo.example".into(),
        agent: "demo/echo".into(),
        version: Some("2025-11-25".into()),
        backend_session: Some("b-1".into()),
        initialized: true,
        call_id: "c1@example".into(),
        extra: BTreeMap::from([("k".into(), "v".into())]),
    }
}

fn journal_value() -> JournalEntry {
    JournalEntry {
        exchange: Some("x1".into()),
        id: "\"7\"".into(),
        method: "tools/call".into(),
        tool: Some("pay".into()),
        repeatable: true,
        digest: [0xd1; 32],
        deadline: NOW + 60_000,
        started: NOW,
        owner: C,
        leg: LegRecord {
            dialog: Some(dialog(1)),
            principal: "sip:alice@demo.example".into(),
            agent_user: "echo".into(),
            domain: "demo.example".into(),
            call_id: "c1@example".into(),
            carrier: "info".into(),
            caller_uri: "sip:alice@demo.example".into(),
            agent_uri: "sip:echo@demo.example".into(),
            flow: flow(1),
        },
        request: Some(Bytes::from_static(b"{\"jsonrpc\":\"2.0\"}")),
        upstream_id: Some("9".into()),
        backend_session: Some("b".into()),
        event_id: Some("e".into()),
        task: Some("t".into()),
        answer: Some(Bytes::from_static(b"{}")),
    }
}

fn binding_value() -> Binding {
    Binding {
        key: "k".into(),
        uri: "sip:a@192.0.2.1".into(),
        contact: b"<sip:a@192.0.2.1>;+mcp;odd=\xff".to_vec(),
        expires_at: NOW + HOUR,
        call_id: "reg-1".into(),
        cseq: 7,
        flow: Some("flow".into()),
        path: vec!["<sip:p.example;lr>".into()],
        aor: "sip:agent@demo.example".into(),
        capabilities: vec![[0xca; 16]],
    }
}

fn leg_value() -> CallLeg {
    CallLeg { failed: true, flow: Some("flow".into()), ..leg(3) }
}

fn edge_value() -> PodState {
    PodState { owner: C, address: "192.0.2.9:7443".into(), lease_left_ms: 5_000, draining: true }
}

/// What is committed is read, and what is written now is committed. Members of a later version are skipped. Without the members that
/// came later (`added`) the record has their defaults.
fn neighbours<T>(file: &str, value: &T, added: &[&str], before: &T)
where
    T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let now = encode(value).unwrap();
    let committed = golden(file);
    assert_eq!(&decode::<T>(&committed).unwrap(), value, "{file}");
    assert_committed(file, &now);

    let all = members(&committed);
    let mut later = all.clone();
    later.insert(all.len() / 2, ("of_the_next_version".into(), b"\x82\xa1a\x91\xc4\x01\xff\xa1b\xc0".to_vec()));
    assert_eq!(&decode::<T>(&of_members(&later)).unwrap(), value, "{file} by a later version");

    let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
    for name in added {
        assert!(names.contains(name), "{file} has no member {name}: {names:?}");
    }
    let earlier: Vec<_> = all.into_iter().filter(|(name, _)| !added.contains(&name.as_str())).collect();
    assert_eq!(&decode::<T>(&of_members(&earlier)).unwrap(), before, "{file} by an earlier version");
}

#[test]
fn every_record_is_read_by_its_neighbours() {
    let value = dialog_value();
    let before = DialogRecord { owner: Owner::default(), peer: None, we_called: false, ..value.clone() };
    neighbours("dialog-1", &value, &["owner", "peer", "we_called"], &before);

    neighbours("session-1", &session_value(), &[], &session_value());

    let value = journal_value();
    let before = JournalEntry {
        leg: LegRecord::default(),
        request: None,
        upstream_id: None,
        backend_session: None,
        event_id: None,
        task: None,
        answer: None,
        ..value.clone()
    };
    let added = ["leg", "request", "upstream_id", "backend_session", "event_id", "task", "answer"];
    neighbours("exchange-1", &value, &added, &before);

    let value = binding_value();
    let before = Binding { aor: String::new(), capabilities: vec![], ..value.clone() };
    neighbours("binding-1", &value, &["aor", "capabilities"], &before);

    neighbours("leg-1", &leg_value(), &[], &leg_value());
    neighbours("edge-1", &edge_value(), &[], &edge_value());
    let value = PeerFlow { flow: Some("f".into()), source: "s".into() };
    neighbours("flow-1", &value, &[], &value);
    let value = ExchangeNote {
        event_id: Some("e".into()),
        task: Some("t".into()),
        upstream_id: Some("u".into()),
        backend_session: Some("b".into()),
    };
    neighbours("note-1", &value, &[], &value);
}

#[test]
fn a_newer_version_of_any_record_is_refused_never_guessed() {
    for file in ["dialog-1", "session-1", "exchange-1", "binding-1", "leg-1", "edge-1"] {
        let mut bytes = golden(file);
        bytes[0] = 2;
        let Err(StoreError::Unreadable { reason }) = decode::<DialogRecord>(&bytes) else { panic!("{file} was read") };
        assert_eq!(reason, "record version 2, this program reads 1");
    }
}

/// One entry of each kind, in each of its states.
fn entries() -> (MemoryStore, Vec<(&'static str, EntryName)>) {
    let mut store = MemoryStore::new(Capacity::default());
    let mut run = |operation| store.execute(NOW, operation).unwrap();
    let change = BindingChange::Update(vec![binding_value()]);
    run(StoreOp::Register { aor: aor(1), change, nonce: None });
    let gone = Binding { cseq: 8, expires_at: 0, ..binding_value() };
    for change in [BindingChange::Update(vec![binding_value()]), BindingChange::Update(vec![gone])] {
        run(StoreOp::Register { aor: aor(2), change, nonce: None });
    }
    for n in 1..=4 {
        run(open_call(n, n, C));
        run(StoreOp::PlaceLegs { guard: guard(n), owner: C, legs: vec![leg_value()] });
    }
    run(reject(2, C));
    run(cancel(3));
    run(StoreOp::AnswerCall {
        guard: guard(4),
        owner: C,
        dialog: dialog(4),
        record: Box::new(dialog_value()),
        ttl_ms: HOUR,
        peer: None,
        conversation: Some(conversation(4)),
    });
    run(StoreOp::Commit { dialog: dialog(4), cseq: 9, response: Bytes::from_static(b"200"), record: None });
    run(StoreOp::RestoreDialog {
        dialog: dialog(5),
        record: Box::new(dialog_value()),
        ttl_ms: HOUR,
        conversation: Some(conversation(5)),
    });
    run(StoreOp::Erase { conversation: conversation(5) });
    run(StoreOp::RestoreDialog {
        dialog: dialog(6),
        record: Box::new(DialogRecord { retention_ms: 86_400_000, ..dialog_value() }),
        ttl_ms: HOUR,
        conversation: Some(conversation(6)),
    });
    run(StoreOp::WriteSession { session: session(6), version: 0, record: Box::new(session_value()), ttl_ms: HOUR });
    run(StoreOp::WriteSession { session: session(1), version: 0, record: Box::new(session_value()), ttl_ms: HOUR });
    for (s, n) in [(1, 1), (1, 2), (1, 4), (6, 1)] {
        let open = OpenExchange {
            key: exchange(s, n),
            entry: journal_value(),
            limit: 4,
            ttl_ms: HOUR,
            session_ttl_ms: 0,
            instead_of: None,
        };
        run(StoreOp::OpenExchange { open: Box::new(open), nonce: None });
    }
    let close = CloseExchange { key: exchange(1, 2), owner: C, answer: Some(Bytes::from_static(b"a")), is_held: false };
    run(StoreOp::CloseExchange(close.clone()));
    run(StoreOp::CloseExchange(CloseExchange { key: exchange(6, 1), ..close.clone() }));
    run(StoreOp::DropSession { session: session(6), if_ends_within_ms: None });
    run(StoreOp::CloseExchange(CloseExchange { key: exchange(1, 4), is_held: true, ..close }));
    run(StoreOp::Once { key: exchange(1, 3), ttl_ms: HOUR, nonce: None });
    for (count, request) in [(3, 4), (5, 6), (4, 5)] {
        run(StoreOp::UseNonce(NonceUse { ttl_ms: HOUR, ..nonce(1, count, request) }));
    }
    run(StoreOp::TakeEpoch {
        pod: C.pod,
        boot: C.boot,
        last_epoch: 2,
        address: "192.0.2.9:7443".into(),
        lease_ms: 5_000,
        generation: [0x9e; 16],
    });
    run(StoreOp::TenantNumber { domain: [0xdd; 16] });
    let names = vec![
        ("entry-bindings-1", EntryName::Aor(aor(1))),
        ("entry-removed-1", EntryName::Removed(aor(2))),
        ("entry-guard-pending-1", EntryName::Guard(guard(1))),
        ("entry-guard-rejected-1", EntryName::Guard(guard(2))),
        ("entry-guard-cancelled-1", EntryName::Guard(guard(3))),
        ("entry-guard-accepted-1", EntryName::Guard(guard(4))),
        ("entry-dialog-1", EntryName::Dialog(dialog(4))),
        ("entry-dialog-erased-1", EntryName::Dialog(dialog(5))),
        ("entry-dialog-retained-1", EntryName::Dialog(dialog(6))),
        ("entry-kept-1", EntryName::Kept(dialog(6))),
        ("entry-kept-exchange-1", EntryName::KeptExchange(dialog(6), 0)),
        ("entry-session-1", EntryName::Session(session(1))),
        ("entry-exchange-in-flight-1", EntryName::Exchange(exchange(1, 1))),
        ("entry-exchange-held-1", EntryName::Exchange(exchange(1, 4))),
        ("entry-exchange-answered-1", EntryName::Exchange(exchange(1, 2))),
        ("entry-message-1", EntryName::Once(exchange(1, 3))),
        ("entry-nonce-2", EntryName::Nonce(nonce(1, 5, 6).key)),
        ("entry-edge-1", EntryName::Edge(C.pod)),
        ("entry-domain-1", EntryName::Domain([0xdd; 16])),
        ("entry-generation-1", EntryName::Generation),
    ];
    (store, names)
}

#[test]
fn every_entry_of_a_file_is_read_by_its_neighbours() {
    let (store, names) = entries();
    assert_eq!(store.names().len(), names.len(), "one of each: {:?}", store.names());
    let mut other = MemoryStore::new(Capacity::default());
    for (file, name) in &names {
        let now = store.entry_bytes(name).unwrap().unwrap_or_else(|| panic!("{file} is not there"));
        assert_committed(file, &now);
        let committed = golden(file);
        let mut later = members(&committed);
        later.push(("of_the_next_version".into(), vec![0xc0]));
        other.restore(name, &of_members(&later)).unwrap_or_else(|e| panic!("{file} by a later version: {e}"));
        other.restore(name, &committed).unwrap();
        assert_eq!(other.entry_bytes(name).unwrap().as_deref(), Some(&committed[..]), "{file} comes back as it was");
    }
    // What was removed meanwhile still waits for its end in the first.
    assert_eq!(Counts { ends: 0, ..other.counts() }, Counts { ends: 0, ..store.counts() });
}

#[test]
fn an_entry_without_the_members_that_came_later_is_read() {
    let (store, _) = entries();
    for (name, added) in [
        (EntryName::Guard(guard(1)), &["legs"][..]),
        (EntryName::Dialog(dialog(4)), &["requests", "conversation", "erased"][..]),
        (EntryName::Nonce(nonce(1, 5, 6).key), &["taken", "earlier"][..]),
    ] {
        let bytes = store.entry_bytes(&name).unwrap().unwrap();
        let all = members(&bytes);
        let earlier: Vec<_> = all.iter().filter(|(member, _)| !added.contains(&member.as_str())).cloned().collect();
        assert_eq!(earlier.len() + added.len(), all.len());
        MemoryStore::new(Capacity::default()).restore(&name, &of_members(&earlier)).unwrap();
    }
}

#[test]
fn a_nonce_of_the_version_that_took_rising_counts_only_takes_none_below_it() {
    let mut store = MemoryStore::new(Capacity::default());
    store.restore(&EntryName::Nonce(nonce(1, 5, 6).key), &golden("entry-nonce-1")).unwrap();
    let mut take = |count, request| store.execute(NOW, StoreOp::UseNonce(nonce(1, count, request))).unwrap();
    assert_eq!(take(5, 6), StoreReply::Done, "the same request");
    assert_eq!(take(4, 5), StoreReply::NonceReplayed, "nobody knows");
    assert_eq!(take(7, 7), StoreReply::Done);
    assert_eq!(take(6, 8), StoreReply::Done, "overtaken since");
    assert_eq!(take(5, 9), StoreReply::NonceReplayed);
}

#[test]
fn a_guard_whose_2xx_a_copy_was_given_is_read() {
    let mut store = MemoryStore::new(Capacity::default());
    for op in [open_call(1, 1, C), answer(1, C), open_call(1, 1, B)] {
        store.execute(NOW, op).unwrap();
    }
    let name = EntryName::Guard(guard(1));
    let now = store.entry_bytes(&name).unwrap().unwrap();
    assert_committed("entry-guard-told-1", &now);
    store.restore(&name, &golden("entry-guard-told-1")).unwrap();
    assert_eq!(store.execute(NOW, reject(1, C)).unwrap(), StoreReply::Fenced);
    let untold: Vec<_> = members(&now).into_iter().filter(|(member, _)| member != "told").collect();
    store.restore(&name, &of_members(&untold)).unwrap();
    assert_eq!(store.execute(NOW, reject(1, C)).unwrap(), StoreReply::Done, "an earlier version does not say");
}
