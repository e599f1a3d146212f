//! A Cluster: the library on every primary, slots that move, a shard that is out.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use session_store::Durability;
use session_store::op::{StoreError, StoreOp, StoreReply};
use session_store_redis::{BreakerState, RedisConfig, RedisStore, Topology};
use store_contract::Subject;
use store_contract::samples::*;

use super::full::OnOne;
use super::server::{Clock, Server, cluster};
use super::subject::{RUNTIME, patient, sealer};

fn connect(nodes: &[Server]) -> RedisStore {
    let config = patient(Topology::Cluster { addresses: vec![nodes[0].address()] });
    RUNTIME.block_on(RedisStore::connect(config, sealer(1))).expect("the store")
}

/// The hash slot of a label, and a label in each node's part.
fn slot_of(node: &Server, label: u16) -> u16 {
    let mut command = redis::cmd("CLUSTER");
    command.arg("KEYSLOT").arg(format!("{{{label}}}")).query(&mut node.admin()).expect("KEYSLOT")
}

fn call_at(label: u16, n: u8) -> StoreOp {
    let mut op = open_call(n, n, A);
    if let StoreOp::OpenCall { guard, dialog, .. } = &mut op {
        (guard.slot, dialog.slot) = (label, label);
    }
    op
}

#[test]
fn every_primary_has_the_library_and_its_share() {
    let nodes = cluster(Clock::Real);
    let store = connect(&nodes);
    let mut s = OnOne(&store);
    for label in 0..100 {
        assert_eq!(s.run(call_at(label, 1)), Ok(StoreReply::CallOpened));
    }
    for node in &nodes {
        let keys: usize = redis::cmd("DBSIZE").query(&mut node.admin()).expect("DBSIZE");
        assert!(keys > 10, "{keys} keys on {}", node.address());
    }
    assert_eq!(store.health().current().shards.len(), 3);
}

#[test]
fn a_slot_that_moves_is_followed() {
    for class in [Durability::Memory, Durability::Fsync] {
        a_slot_moves(class);
    }
}

fn a_slot_moves(class: Durability) {
    let nodes = cluster(Clock::Real);
    for (name, value) in [("appendonly", "yes"), ("appendfsync", "always")] {
        for node in &nodes {
            redis::cmd("CONFIG").arg("SET").arg(name).arg(value).exec(&mut node.admin()).expect("CONFIG SET");
        }
    }
    let store = connect(&nodes);
    RUNTIME.block_on(store.check_durability(class)).expect("the class can be given");
    store.set_durability(BTreeMap::from([(1, class)]));
    let mut s = OnOne(&store);
    let label = 7;
    assert_eq!(s.run(call_at(label, 1)), Ok(StoreReply::CallOpened));
    let slot = slot_of(&nodes[0], label);
    let ids: Vec<String> =
        nodes.iter().map(|n| redis::cmd("CLUSTER").arg("MYID").query(&mut n.admin()).expect("MYID")).collect();
    let from = usize::from(slot) * 3 / 16_384;
    let from = (0..3)
        .find(|n| usize::from(slot) >= n * 16_384 / 3 && usize::from(slot) < (n + 1) * 16_384 / 3)
        .unwrap_or(from);
    let to = (from + 1) % 3;
    let set = |node: &Server, state: &str, id: &str| {
        let mut command = redis::cmd("CLUSTER");
        command.arg("SETSLOT").arg(slot).arg(state).arg(id).exec(&mut node.admin()).expect("SETSLOT");
    };
    set(&nodes[to], "IMPORTING", &ids[from]);
    set(&nodes[from], "MIGRATING", &ids[to]);
    assert!(matches!(s.run(call_at(label, 1)), Ok(StoreReply::CallKnown { .. })), "still here");
    let mut get = redis::cmd("CLUSTER");
    let keys: Vec<String> = get.arg("GETKEYSINSLOT").arg(slot).arg(100).query(&mut nodes[from].admin()).expect("keys");
    assert!(!keys.is_empty());
    for key in keys {
        let mut command = redis::cmd("MIGRATE");
        command.arg("127.0.0.1").arg(nodes[to].port).arg(key).arg(0).arg(5_000);
        command.exec(&mut nodes[from].admin()).expect("MIGRATE");
    }
    // While it moves: the old node says where to ask.
    assert!(matches!(s.run(call_at(label, 1)), Ok(StoreReply::CallKnown { .. })), "ASK");
    for node in [&nodes[to], &nodes[from]] {
        set(node, "NODE", &ids[to]);
    }
    assert!(matches!(s.run(call_at(label, 1)), Ok(StoreReply::CallKnown { .. })), "MOVED");
    assert_eq!(s.run(call_at(label, 2)), Ok(StoreReply::CallOpened));
}

#[test]
fn an_edge_starts_while_one_shard_is_out() {
    let nodes = cluster(Clock::Real);
    let pid = nodes[2].pid();
    nodes[2].signal(&pid, "-STOP");
    let addresses = nodes.iter().map(Server::address).collect();
    let mut config = RedisConfig::new(Topology::Cluster { addresses }, "t:");
    (config.response_timeout, config.connect_timeout) = (Duration::from_secs(1), Duration::from_secs(3));
    let store = RUNTIME.block_on(RedisStore::connect(config, sealer(1))).expect("two of three");
    let open = |store: &RedisStore| {
        store.health().current().shards.iter().filter(|shard| shard.state == BreakerState::Open).count()
    };
    assert_eq!(open(&store), 1);
    let results: Vec<_> = (0..60).map(|label| OnOne(&store).run(call_at(label, 1))).collect();
    assert!(results.contains(&Ok(StoreReply::CallOpened)) && results.contains(&Err(StoreError::Unavailable)));
    nodes[2].signal(&pid, "-CONT");
    let end = Instant::now() + Duration::from_secs(60);
    while open(&store) > 0 {
        assert!(Instant::now() < end, "{:?}", store.health().current());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn one_shard_that_may_not_write_is_out_alone() {
    let nodes = cluster(Clock::Real);
    let store = connect(&nodes[1..]);
    let mut s = OnOne(&store);
    let out = 1;
    let mut set = redis::cmd("CONFIG");
    set.arg("SET").arg("min-replicas-to-write").arg(1).exec(&mut nodes[out].admin()).expect("CONFIG SET");
    let (mut there, mut elsewhere) = (0, 0);
    for label in 0..60 {
        let slot = usize::from(slot_of(&nodes[0], label));
        let is_out = slot >= out * 16_384 / 3 && slot < (out + 1) * 16_384 / 3;
        let wanted = if is_out { Err(StoreError::Unavailable) } else { Ok(StoreReply::CallOpened) };
        assert_eq!(s.run(call_at(label, 1)), wanted, "label {label}");
        *(if is_out { &mut there } else { &mut elsewhere }) += 1;
    }
    assert!(there > 5 && elsewhere > 5, "{there} {elsewhere}");
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let health = store.health().current();
        let open: Vec<_> = health.shards.iter().filter(|shard| shard.state == BreakerState::Open).collect();
        if open.len() == 1 && open[0].address == nodes[out].address() {
            assert_eq!(health.state, BreakerState::Closed, "the others are in use");
            break;
        }
        assert!(Instant::now() < end, "{health:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
