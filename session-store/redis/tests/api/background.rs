//! What no call waits for has a budget of its own: however late it is, calls go on and no circuit opens.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use session_store::op::{StoreError, StoreOp, StoreReply};
use session_store_redis::{BreakerState, RedisConfig, RedisStore, Topology};
use store_contract::Subject;
use store_contract::samples::*;

use super::breaker::until;
use super::full::OnOne;
use super::proxy::{Fate, count, proxy};
use super::server::{Program, Server};
use super::subject::{RUNTIME, patient, sealer};

/// The answers of a connection that a sweep was asked on stay away from then on; counts what was asked.
fn proxy_that_keeps_sweeps(to: u16) -> (String, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let all = asked.clone();
    let address = proxy(to, move |bytes| {
        let sweeps = count(bytes, b"_adopt");
        all.fetch_add(sweeps, Ordering::SeqCst);
        if sweeps > 0 { Fate::Silent } else { Fate::Goes }
    });
    (address, asked)
}

fn connect(address: String, change: impl FnOnce(&mut RedisConfig)) -> RedisStore {
    let mut config = patient(Topology::Single { address });
    change(&mut config);
    RUNTIME.block_on(RedisStore::connect(config, sealer(1))).expect("the store")
}

fn adopt(slot: u16) -> StoreOp {
    StoreOp::Adopt { slot, from: A, by: B, limit: 500, lease_ms: 1_000 }
}

#[test]
fn a_sweep_that_is_late_opens_no_circuit_and_delays_no_call() {
    let server = Server::start(Program::Redis, &[]);
    let (address, asked) = proxy_that_keeps_sweeps(server.port);
    let store = connect(address, |config| config.background_timeout = Duration::from_millis(150));
    let mut s = OnOne(&store);
    with_dialog(&mut s, 1);
    let health = store.health();
    let mut slot = 0;
    while slot < 40 || asked.load(Ordering::SeqCst) < 20 {
        assert_eq!(s.run(adopt(slot)), Err(StoreError::Unavailable));
        assert_eq!(health.current().state, BreakerState::Closed, "{:?}", health.current());
        slot += 1;
        assert!(slot < 1_000, "sweeps are asked");
    }
    assert!(matches!(s.run(read(1)), Ok(StoreReply::Dialog { .. })));
}

#[test]
fn no_more_sweeps_are_in_flight_than_their_share() {
    let server = Server::start(Program::Redis, &[]);
    let (address, asked) = proxy_that_keeps_sweeps(server.port);
    let store = connect(address, |config| {
        (config.background_timeout, config.background_in_flight) = (Duration::from_secs(10), 4);
    });
    let mut s = OnOne(&store);
    let sweep: Vec<_> = (0..64)
        .map(|slot| {
            let store = store.clone();
            RUNTIME.spawn(async move { store.execute(adopt(slot)).await })
        })
        .collect();
    // Calls go on beside it.
    for n in 1..20 {
        with_dialog(&mut s, n);
    }
    for one in sweep {
        assert_eq!(RUNTIME.block_on(one).expect("no panic"), Err(StoreError::Unavailable));
    }
    assert_eq!(asked.load(Ordering::SeqCst), 4, "the others had no turn and were not sent");
    assert_eq!(store.health().current().state, BreakerState::Closed);
}

#[test]
fn a_sweep_waits_for_the_circuit_to_close() {
    let server = Server::start(Program::Redis, &[]);
    let store = connect(server.address(), |config| config.background_timeout = Duration::from_secs(120));
    let mut s = OnOne(&store);
    with_dialog(&mut s, 1);
    let set = |value: u8| {
        let mut command = redis::cmd("CONFIG");
        command.arg("SET").arg("min-replicas-to-write").arg(value).exec(&mut server.admin()).expect("CONFIG SET");
    };
    set(1);
    assert_eq!(s.run(adopt(SLOT)), Err(StoreError::Unavailable), "the server says that it cannot");
    let mut health = store.health();
    until(&mut health, |state| state == BreakerState::Open);
    let waiting = {
        let store = store.clone();
        RUNTIME.spawn(async move { store.execute(adopt(SLOT)).await })
    };
    assert_eq!(s.run(read(1)), Err(StoreError::Unavailable), "a call does not wait");
    set(0);
    match RUNTIME.block_on(waiting).expect("no panic") {
        Ok(StoreReply::Adopted { items, more: false }) => assert_eq!(items.len(), 1),
        other => panic!("{other:?}"),
    }
}
