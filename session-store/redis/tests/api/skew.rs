//! Edges whose clocks are half a minute apart mean the same moments.

use session_store::op::{BindingChange, StoreOp, StoreReply};
use session_store::record::{Binding, SessionTimerRecord};
use session_store_redis::{EdgeClock, RedisStore, Topology};
use store_contract::samples::*;

use super::full::OnOne;
use super::server::{Program, Server};
use super::subject::{RUNTIME, patient, real_now_ms, sealer};

fn store(server: &Server, skew_ms: i64) -> RedisStore {
    let mut config = patient(Topology::Single { address: server.address() });
    config.clock = EdgeClock::new(move || real_now_ms().saturating_add_signed(skew_ms));
    RUNTIME.block_on(RedisStore::connect(config, sealer(1))).expect("the store")
}

fn near(a: u64, b: u64) -> bool {
    a.abs_diff(b) < 2_000
}

#[test]
fn thirty_seconds_between_two_edges_change_nothing() {
    let server = Server::start(Program::Redis, &[]);
    let (early, late) = (store(&server, -30_000), store(&server, 30_000));
    let (mut early_edge, mut late_edge) = (OnOne(&early), OnOne(&late));
    let now = real_now_ms();
    let (early_now, late_now) = (now - 30_000, now + 30_000);

    // A binding of 20 s, by each edge's own clock: it lives at both, and ends for both at the same moment.
    let bound = |uri: &str, end| binding(uri, 1, end);
    let change = BindingChange::Update(vec![bound("sip:a@192.0.2.1", early_now + 20_000)]);
    run(&mut early_edge, StoreOp::Register { aor: aor(1), change, nonce: None });
    let change = BindingChange::Update(vec![bound("sip:a@192.0.2.2", late_now + 20_000)]);
    let seen = |reply: StoreReply| -> Vec<Binding> {
        let StoreReply::Bindings(all) = reply else { panic!("{reply:?}") };
        all
    };
    let at_late = seen(run(&mut late_edge, StoreOp::Register { aor: aor(1), change, nonce: None }));
    assert_eq!(at_late.len(), 2);
    assert!(at_late.iter().all(|b| near(b.expires_at, late_now + 20_000)), "{at_late:?}");
    let at_early = seen(run(&mut early_edge, StoreOp::ReadBindings { aor: aor(1) }));
    assert_eq!(at_early.len(), 2);
    assert!(at_early.iter().all(|b| near(b.expires_at, early_now + 20_000)), "{at_early:?}");

    // The same in a dialog's record and in a journal entry.
    with_dialog(&mut early_edge, 1);
    let mut changed = record();
    changed.created_at = early_now;
    changed.session_timer =
        Some(SessionTimerRecord { interval_s: 90, we_refresh: true, expires_at: early_now + 90_000 });
    let version = match run(&mut early_edge, read(1)) {
        StoreReply::Dialog { version, .. } => version,
        other => panic!("{other:?}"),
    };
    let update = StoreOp::UpdateDialog { dialog: dialog(1), version, record: Box::new(changed), ttl_ms: HOUR };
    run(&mut early_edge, update);
    let StoreReply::Dialog { record, .. } = run(&mut late_edge, read(1)) else { panic!("the dialog") };
    let timer = record.session_timer.expect("a timer");
    assert!(near(timer.expires_at, late_now + 90_000) && near(record.created_at, late_now), "{record:?}");

    // What one edge wrote it reads back unchanged.
    let StoreReply::Dialog { record, .. } = run(&mut early_edge, read(1)) else { panic!("the dialog") };
    assert_eq!(record.created_at, early_now);

    // A lease is the store's: nobody's clock ends it early.
    let edge = |pod| StoreOp::TakeEpoch {
        pod,
        boot: 1,
        last_epoch: 0,
        address: String::new(),
        lease_ms: 10_000,
        generation: [1; 16],
    };
    RUNTIME.block_on(early.execute_heartbeat(edge(1))).expect("an epoch");
    let StoreReply::Epoch { pods, now_ms, .. } = RUNTIME.block_on(late.execute_heartbeat(edge(2))).expect("an epoch")
    else {
        panic!("an epoch")
    };
    assert!(pods.iter().all(|pod| pod.lease_left_ms > 5_000), "{pods:?}");
    assert!(near(now_ms, late_now), "in the edge's own terms");
}
