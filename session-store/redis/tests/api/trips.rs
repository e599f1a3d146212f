//! Synchronous round trips per operation: no more than the table of what is written when allows (P2), one row after the other.

use std::collections::BTreeMap;

use session_store::op::{BindingChange, Fence, OpenExchange, StoreOp, StoreReply};
use session_store::record::ExchangeNote;
use session_store_redis::RedisStore;
use store_contract::Subject;
use store_contract::samples::*;

use super::subject::{Kind, Redis};

/// What an operation took.
struct Step {
    row: &'static str,
    trips: u64,
    /// By the table; one more where a nonce lies in another slot.
    most: u64,
}

struct Table {
    s: Redis,
    steps: Vec<Step>,
    before: BTreeMap<&'static str, u64>,
}

fn calls(store: &RedisStore) -> BTreeMap<&'static str, u64> {
    store.round_trips().into_iter().map(|row| (row.op, row.calls)).collect()
}

fn trips(store: &RedisStore) -> u64 {
    store.round_trips().iter().map(|row| row.trips).sum()
}

impl Table {
    fn begin(kind: Kind) -> Table {
        let s = Redis::take(kind);
        let before = calls(s.store());
        Table { s, steps: Vec::new(), before }
    }

    fn step(&mut self, row: &'static str, most: u64, op: StoreOp) -> StoreReply {
        let before = trips(self.s.store());
        let reply = run(&mut self.s, op);
        let trips = trips(self.s.store()) - before;
        // What was refused says nothing about what it takes.
        let is_refused = matches!(
            reply,
            StoreReply::Unknown
                | StoreReply::Gone
                | StoreReply::Fenced
                | StoreReply::NonceReplayed
                | StoreReply::OtherPrincipal
                | StoreReply::OutOfOrder
                | StoreReply::Conflict { .. }
                | StoreReply::SessionConflict { .. }
                | StoreReply::CallCancelled
        );
        assert!(!is_refused, "{row}: {reply:?}");
        self.steps.push(Step { row, trips, most });
        reply
    }
}

/// A call from INVITE to BYE, both legs here, with an exchange of each kind; returns with everything of the table done once.
fn all_rows(t: &mut Table, nonce_most: u64) {
    // REGISTER.
    let mut registered = binding("sip:a@192.0.2.1", 1, t.s.now() + HOUR);
    registered.capabilities = vec![capability(1).hash, capability(2).hash];
    let change = BindingChange::Update(vec![registered]);
    let op = StoreOp::Register { aor: aor(1), change, nonce: Some(nonce(1, 1, 1)) };
    assert!(matches!(t.step("REGISTER", nonce_most, op), StoreReply::Bindings(_)));
    t.step("binding read", 1, StoreOp::ReadBindings { aor: aor(1) });
    // Who offers something is asked, then what they have bound.
    t.step("agent by capability", 2, StoreOp::FindCapability { capability: capability(1), limit: 4 });
    t.step("nonce alone", 1, StoreOp::UseNonce(nonce(9, 1, 1)));

    // INVITE to BYE.
    let mut invite = open_call(1, 1, A);
    if let StoreOp::OpenCall { nonce: carried, .. } = &mut invite {
        *carried = Some(nonce(1, 2, 2));
    }
    assert_eq!(t.step("INVITE received", nonce_most, invite), StoreReply::CallOpened);
    let legs = StoreOp::PlaceLegs { guard: guard(1), owner: A, legs: vec![leg(1)] };
    t.step("INVITE sent on the B leg", 1, legs);
    t.step("18x reliable, or with SDP or an MCP answer", 1, early(1, A));
    let answer = StoreOp::AnswerCall {
        guard: guard(1),
        owner: A,
        dialog: dialog(1),
        record: Box::new(record()),
        ttl_ms: HOUR,
        peer: Some(Box::new((dialog(2), record()))),
        conversation: Some(conversation(1)),
    };
    assert!(matches!(t.step("200 to INVITE", 1, answer), StoreReply::Answered { .. }));
    t.step("ACK", 1, StoreOp::Confirm { dialog: dialog(1) });

    let request = |cseq, n, exchange: Option<OpenExchange>| StoreOp::Begin {
        dialog: dialog(1),
        by: alice(),
        flow: Some(flow(1)),
        cseq,
        method: "MESSAGE".into(),
        nonce: Some(nonce(1, n, u8::try_from(n).expect("small"))),
        exchange: exchange.map(Box::new),
    };
    let reply = t.step("in-dialog request received", nonce_most, request(2, 3, None));
    let StoreReply::Begun { version, .. } = reply else { panic!("{reply:?}") };
    let changed = Some((version, Box::new(record()), HOUR));
    t.step(
        "its 2xx",
        1,
        StoreOp::Commit { dialog: dialog(1), cseq: 2, response: b"200".as_slice().into(), record: changed },
    );
    let exchange_opened = open(exchange(1, 1), A, 1, false);
    let reply = t.step("MCP payload received and forwarded", nonce_most, request(3, 4, Some(exchange_opened)));
    assert!(matches!(reply, StoreReply::Begun { exchange: Some(_), .. }), "{reply:?}");
    let task = ExchangeNote { task: Some("t".into()), ..ExchangeNote::default() };
    let note = StoreOp::NoteExchange { key: exchange(1, 1), owner: A, note: task };
    t.step("task id of an exchange", 1, note);
    let closing = StoreOp::NextCseq {
        dialog: dialog(1),
        terminating: false,
        close: Some(Box::new(close(exchange(1, 1), A, Some(b"a")))),
        fence: Some(Fence { owner: A, version: None }),
    };
    t.step("MCP answer to the caller, in the dialog", 1, closing);
    t.step("outgoing in-dialog request", 1, next_cseq(1, false));
    let StoreReply::Dialog { version, record: now } = t.step("dialog read", 1, read(1)) else { panic!("the dialog") };
    let refreshed = StoreOp::UpdateDialog { dialog: dialog(1), version, record: now, ttl_ms: HOUR };
    assert!(matches!(t.step("session timer refreshed", 1, refreshed), StoreReply::Version(_)));

    let out_of_dialog =
        StoreOp::OpenExchange { open: Box::new(open(exchange(3, 1), A, 1, false)), nonce: Some(nonce(1, 5, 5)) };
    assert_eq!(t.step("MCP request out of a dialog", nonce_most, out_of_dialog), opened());
    let closed_one = StoreOp::CloseExchange(close(exchange(3, 1), A, Some(b"a")));
    assert!(matches!(t.step("MCP answer to the caller", 1, closed_one), StoreReply::Closed { .. }));
    let once = StoreOp::Once { key: exchange(3, 2), ttl_ms: HOUR, nonce: Some(nonce(1, 6, 6)) };
    t.step("notification out of a dialog", nonce_most, once);
    let write =
        StoreOp::WriteSession { session: session(3), version: 0, record: Box::new(session_record()), ttl_ms: HOUR };
    t.step("session written", 1, write);
    t.step("session read", 1, StoreOp::ReadSession { session: session(3), ttl_ms: HOUR });
    t.step("session ended", 1, StoreOp::DropSession { session: session(3), if_ends_within_ms: None });

    t.step("BYE sent", 1, next_cseq(2, true));
    t.step("BYE sent and answered", 1, bury(2));
    let mut end = bye(1, 9);
    if let StoreOp::Terminate { nonce: carried, .. } = &mut end {
        *carried = Some(nonce(1, 7, 7));
    }
    t.step("BYE received", nonce_most, end);

    // Other ends of a call.
    t.step("INVITE received", 1, open_call(4, 4, A));
    assert!(matches!(t.step("CANCEL", 1, cancel(4)), StoreReply::Cancelled { .. }));
    t.step("INVITE received", 1, open_call(5, 5, A));
    t.step("final response other than 2xx", 1, reject(5, A));

    // Edges.
    let epoch = StoreOp::TakeEpoch {
        pod: A.pod,
        boot: A.boot,
        last_epoch: 0,
        address: String::new(),
        lease_ms: HOUR,
        generation: [1; 16],
    };
    let StoreReply::Epoch { owner, .. } = t.step("a life begins", 1, epoch) else { panic!("an epoch") };
    t.step("heartbeat", 1, StoreOp::Heartbeat { owner, address: String::new(), lease_ms: HOUR, draining: false });
    t.step("a life ends", 1, StoreOp::Leave { owner });
    t.step("adoption, per label", 1, adopt(A, B));
    let restore =
        StoreOp::RestoreDialog { dialog: dialog(6), record: Box::new(record()), ttl_ms: HOUR, conversation: None };
    t.step("record written anew", 1, restore);
    t.step("tenant number", 1, StoreOp::TenantNumber { domain: [1; 16] });
}

fn is_within(kind: Kind, nonce_most: u64) {
    let mut t = Table::begin(kind);
    all_rows(&mut t, nonce_most);
    for Step { row, trips, most } in &t.steps {
        assert!(trips <= most && *trips > 0, "{row}: {trips} round trips, at most {most}");
    }
    // Nothing is left out: who adds an operation says what it may cost.
    for (op, calls) in calls(t.s.store()) {
        let is_operators = ["export", "erase"].contains(&op);
        assert!(is_operators || calls > t.before[op], "{op} is in no row");
    }
}

#[test]
fn p2_every_step_of_a_call_is_one_round_trip() {
    is_within(Kind::Redis, 1);
}

#[test]
fn p2_a_durable_step_is_one_round_trip_too() {
    is_within(Kind::ValkeyFsync, 1);
}

#[test]
fn p2_in_a_cluster_a_nonce_is_one_more() {
    is_within(Kind::Cluster, 2);
}

#[test]
fn p2_a_plain_call_is_three() {
    let mut s = Redis::take(Kind::Redis);
    let before = trips(s.store());
    with_dialog(&mut s, 1);
    run(&mut s, bye(1, 2));
    assert_eq!(trips(s.store()) - before, 3);
}
