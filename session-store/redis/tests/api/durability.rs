//! Durability classes: refused where they cannot be given, reached before anything is acknowledged where they can.

use std::collections::BTreeMap;
use std::time::Duration;

use session_store::Durability;
use session_store::op::{StoreError, StoreReply};
use session_store_redis::{BreakerState, RedisStore, StartError, Topology};
use store_contract::Subject;
use store_contract::samples::*;

use super::breaker::until;
use super::full::OnOne;
use super::server::{Program, Server};
use super::subject::{RUNTIME, patient, sealer};

fn store(server: &Server) -> RedisStore {
    let mut config = patient(Topology::Single { address: server.address() });
    // Where a replica is gone it is waited for in vain.
    config.response_timeout = Duration::from_secs(6);
    RUNTIME.block_on(RedisStore::connect(config, sealer(1))).expect("the store")
}

fn check(store: &RedisStore, class: Durability) -> Result<(), String> {
    match RUNTIME.block_on(store.check_durability(class)) {
        Ok(()) => Ok(()),
        Err(StartError::Durability { class: said, reason }) if said == class => Err(reason),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_class_that_cannot_be_given_is_refused_with_what_is_missing() {
    let plain = Server::start(Program::Redis, &[]);
    let on_plain = store(&plain);
    assert_eq!(check(&on_plain, Durability::Memory), Ok(()));
    assert!(check(&on_plain, Durability::Replica).unwrap_err().contains("min-replicas-to-write 1"));
    assert!(check(&on_plain, Durability::Fsync).unwrap_err().contains("appendonly yes"));

    let everysec = Server::start(Program::Redis, &["--appendonly", "yes"]);
    let reason = check(&store(&everysec), Durability::Fsync).unwrap_err();
    assert!(reason.contains("everysec") && reason.contains("appendfsync always"), "{reason}");
    let always = Server::start(Program::Redis, &["--appendonly", "yes", "--appendfsync", "always"]);
    assert_eq!(check(&store(&always), Durability::Fsync), Ok(()));

    let valkey = Server::start(Program::Valkey, &["--appendonly", "yes"]);
    assert_eq!(check(&store(&valkey), Durability::Fsync), Ok(()), "WAITAOF");
    let valkey = Server::start(Program::Valkey, &[]);
    assert!(check(&store(&valkey), Durability::Fsync).is_err());
}

#[test]
fn class_replica_waits_for_the_replica_and_class_memory_does_not() {
    let primary = Server::start(Program::Redis, &[]);
    let replica = Server::start_replica(&primary);
    let store = store(&primary);
    assert_eq!(check(&store, Durability::Replica), Ok(()));
    store.set_durability(BTreeMap::from([(1, Durability::Replica)]));
    let mut s = OnOne(&store);
    assert_eq!(s.run(open_call(1, 1, A)), Ok(StoreReply::CallOpened));
    let there: usize = redis::cmd("DBSIZE").query(&mut replica.admin()).expect("DBSIZE");
    assert!(there > 0, "acknowledged, so the replica has it");

    // A replica that hears nothing: the write is made and not acknowledged.
    let pid = replica.pid();
    replica.signal(&pid, "-STOP");
    assert_eq!(s.run(open_call(2, 2, A)), Err(StoreError::Unavailable));
    let mut other_tenant = open_call(3, 3, A);
    if let session_store::op::StoreOp::OpenCall { guard, dialog, .. } = &mut other_tenant {
        (guard.tenant, dialog.tenant) = (2, 2);
    }
    assert_eq!(s.run(other_tenant), Ok(StoreReply::CallOpened), "class Memory has no replica to wait for");
    replica.signal(&pid, "-CONT");
    assert_eq!(s.run(open_call(4, 4, A)), Ok(StoreReply::CallOpened));
    assert!(matches!(s.run(open_call(2, 2, A)), Ok(StoreReply::CallKnown { .. })), "it was made, nobody knew");
}

#[test]
fn a_replica_that_is_gone_opens_the_circuit_of_that_class_alone() {
    let primary = Server::start(Program::Redis, &[]);
    let replica = Server::start_replica(&primary);
    let store = store(&primary);
    store.set_durability(BTreeMap::from([(1, Durability::Replica)]));
    let mut s = OnOne(&store);
    assert_eq!(s.run(open_call(1, 1, A)), Ok(StoreReply::CallOpened));
    drop(replica);
    // Ten at once share one wait.
    for round in 1..=3 {
        let ten: Vec<_> = (round * 10..(round + 1) * 10)
            .map(|n| {
                let store = store.clone();
                RUNTIME.spawn(async move { store.execute(open_call(n, n, A)).await })
            })
            .collect();
        for one in ten {
            assert_eq!(RUNTIME.block_on(one).expect("no panic"), Err(StoreError::Unavailable));
        }
    }
    let mut health = store.health();
    until(&mut health, |state| state == BreakerState::Open);
    let reason = store.health().current().reason.unwrap_or_default();
    assert!(reason.contains("replica"), "{reason}");
    assert!(matches!(s.run(read(9)), Ok(StoreReply::Unknown)), "what needs no replica goes on");
    let _replica = Server::start_replica(&primary);
    until(&mut health, |state| state == BreakerState::Closed);
    assert_eq!(s.run(open_call(2, 2, A)), Ok(StoreReply::CallOpened));
}

#[test]
fn many_calls_share_one_wait() {
    let primary = Server::start(Program::Redis, &[]);
    let _replica = Server::start_replica(&primary);
    let store = store(&primary);
    store.set_durability(BTreeMap::from([(1, Durability::Replica)]));
    let tasks: Vec<_> = (0..=255u8)
        .map(|n| {
            let store = store.clone();
            RUNTIME.spawn(async move { store.execute(open_call(n, n, A)).await })
        })
        .collect();
    for task in tasks {
        assert_eq!(RUNTIME.block_on(task).expect("no panic"), Ok(StoreReply::CallOpened));
    }
    let stats: String = redis::cmd("INFO").arg("commandstats").query(&mut primary.admin()).expect("INFO");
    let calls = |name: &str| -> u64 {
        let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{name}:calls=")));
        line.and_then(|line| line.split(',').next()?.parse().ok()).unwrap_or(0)
    };
    assert!(calls("wait") >= 2, "no batch is larger than 128: {stats}");
    assert!(calls("wait") * 4 <= 256, "{} waits for 256 calls", calls("wait"));
}

#[test]
fn fsync_survives_a_server_that_is_killed() {
    for (program, fsync) in [(Program::Redis, "always"), (Program::Valkey, "everysec")] {
        let options = ["--appendonly", "yes", "--appendfsync", fsync];
        let server = Server::start(program, &options);
        let store = store(&server);
        store.set_durability(BTreeMap::from([(1, Durability::Fsync)]));
        let mut s = OnOne(&store);
        for n in 0..20 {
            with_dialog(&mut s, n);
        }
        let port = server.port;
        let left = server.kill();
        let server = Server::start_in(program, port, &options, left);
        let again = self::store(&server);
        let mut s = OnOne(&again);
        for n in 0..20 {
            assert!(matches!(s.run(read(n)), Ok(StoreReply::Dialog { .. })), "{program:?}: dialog {n}");
        }
    }
}
