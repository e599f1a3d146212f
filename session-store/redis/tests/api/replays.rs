//! What somebody else wrote is not told before it is durable: in the classes `Replica` and `Fsync` a reply without a write of its own waits
//! like one with a write. WAIT and WAITAOF of newer servers count only what their own connection wrote.

use std::collections::BTreeMap;
use std::time::Duration;

use session_store::Durability;
use session_store::op::{BindingChange, CallState, OpenOutcome, StoreError, StoreOp, StoreReply};
use session_store_redis::{RedisStore, Topology};
use store_contract::samples::*;

use super::full::OnOne;
use super::server::{Program, Server};
use super::subject::{RUNTIME, patient, real_now_ms, sealer};

/// One edge's store.
fn edge(server: &Server, class: Durability) -> RedisStore {
    let mut config = patient(Topology::Single { address: server.address() });
    // What is waited for in vain takes two thirds of it.
    config.response_timeout = Duration::from_secs(3);
    let store = RUNTIME.block_on(RedisStore::connect(config, sealer(1))).expect("the store");
    RUNTIME.block_on(store.check_durability(class)).expect("the class can be given");
    store.set_durability(BTreeMap::from([(1, class)]));
    store
}

/// At once, each at the store beside it.
fn all<'a>(stores: impl Iterator<Item = &'a RedisStore>, ops: Vec<StoreOp>) -> Vec<Result<StoreReply, StoreError>> {
    let tasks: Vec<_> = stores
        .zip(ops)
        .map(|(store, op)| {
            let store = store.clone();
            RUNTIME.spawn(async move { store.execute(op).await })
        })
        .collect();
    tasks.into_iter().map(|task| RUNTIME.block_on(task).expect("no panic")).collect()
}

/// What the writes of [`writes`] need.
fn prepare(store: &RedisStore) {
    let mut s = OnOne(store);
    for n in [1, 2] {
        run(&mut s, open_call(n, n, A));
    }
    for n in [3, 4, 5] {
        with_dialog(&mut s, n);
    }
    run(&mut s, begin(3, 2, "UPDATE"));
    run(&mut s, opening(open(exchange(1, 1), A, 1, false)));
}

fn register(change: BindingChange) -> StoreOp {
    StoreOp::Register { aor: aor(1), change, nonce: None }
}

/// One edge's.
fn writes() -> Vec<StoreOp> {
    vec![
        answer(1, A),
        reject(2, A),
        commit(3, 2, b"200"),
        bye(4, 2),
        bury(5),
        StoreOp::CloseExchange(close(exchange(1, 1), A, Some(b"a"))),
        opening(open(exchange(2, 1), A, 1, false)),
        StoreOp::Once { key: exchange(2, 2), ttl_ms: HOUR, nonce: None },
        register(BindingChange::Update(vec![binding("sip:a@192.0.2.1", 1, real_now_ms() + HOUR)])),
        StoreOp::TenantNumber { domain: [1; 16] },
    ]
}

/// What copies of the same ask other edges, one for each.
fn copies() -> Vec<StoreOp> {
    vec![
        open_call(1, 1, B),
        open_call(2, 2, B),
        begin(3, 2, "UPDATE"),
        bye(4, 2),
        bury(5),
        opening(open(exchange(1, 1), B, 1, false)),
        opening(open(exchange(2, 1), B, 1, false)),
        StoreOp::Once { key: exchange(2, 2), ttl_ms: HOUR, nonce: None },
        register(BindingChange::Query),
        StoreOp::TenantNumber { domain: [1; 16] },
    ]
}

fn tells_what_was_written(n: usize, reply: &StoreReply) -> bool {
    match n {
        0 => matches!(reply, StoreReply::CallKnown { state: CallState::Accepted { accept_bytes: Some(_) }, .. }),
        1 => matches!(reply, StoreReply::CallKnown { state: CallState::Rejected { .. }, .. }),
        2 | 3 => matches!(reply, StoreReply::Replay { .. }),
        4 => *reply == StoreReply::Gone,
        5 => matches!(reply, StoreReply::Exchange(OpenOutcome::RepeatAnswered { answer: Some(_) })),
        6 => matches!(reply, StoreReply::Exchange(OpenOutcome::RepeatInFlight { .. })),
        7 => *reply == StoreReply::First(false),
        8 => matches!(reply, StoreReply::Bindings(bindings) if bindings.len() == 1),
        _ => matches!(reply, StoreReply::Tenant(_)),
    }
}

/// `late` keeps what the class waits for away, `in_time` brings it back.
fn nothing_is_told_early(server: &Server, class: Durability, late: impl FnOnce(), in_time: impl FnOnce()) {
    let a = edge(server, class);
    prepare(&a);
    // One for each copy: what shares a batch with a write waits with it.
    let others: Vec<_> = copies().iter().map(|_| edge(server, class)).collect();
    for (n, other) in (100..).zip(&others) {
        // It has written and waited before.
        run(&mut OnOne(other), open_call(n, n, B));
    }
    late();
    for (n, result) in all(std::iter::repeat(&a), writes()).iter().enumerate() {
        assert_eq!(*result, Err(StoreError::Unavailable), "write {n}");
    }
    let told = all(others.iter(), copies());
    in_time();
    for (n, result) in told.iter().enumerate() {
        assert_eq!(*result, Err(StoreError::Unavailable), "copy {n} was told what is not durable");
    }
    for (n, result) in all(others.iter(), copies()).iter().enumerate() {
        let reply = result.as_ref().expect("durable now");
        assert!(tells_what_was_written(n, reply), "copy {n}: {reply:?}");
    }
}

#[test]
fn in_class_replica_nothing_is_told_that_no_replica_has() {
    for program in [Program::Redis, Program::Valkey] {
        let primary = Server::start(program, &[]);
        let replica = Server::start_replica_of(program, &primary);
        let pid = replica.pid();
        let (late, in_time) = (|| replica.signal(&pid, "-STOP"), || replica.signal(&pid, "-CONT"));
        nothing_is_told_early(&primary, Durability::Replica, late, in_time);
    }
}

#[test]
fn in_class_fsync_nothing_is_told_that_is_not_on_disk() {
    // A disk that is never synced is as late as one can be. (Redis 7.0 syncs before each reply or has not the class.)
    let server = Server::start(Program::Valkey, &["--appendonly", "yes", "--appendfsync", "everysec"]);
    let sync = |how: &str| {
        redis::cmd("CONFIG").arg("SET").arg("appendfsync").arg(how).exec(&mut server.admin()).expect("CONFIG SET");
    };
    nothing_is_told_early(&server, Durability::Fsync, || sync("no"), || sync("everysec"));
}

#[test]
fn class_memory_writes_nothing_for_what_it_is_told() {
    let server = Server::start(Program::Redis, &[]);
    let changes = || -> u64 {
        let info: String = redis::cmd("INFO").arg("persistence").query(&mut server.admin()).expect("INFO");
        let line = info.lines().find_map(|line| line.strip_prefix("rdb_changes_since_last_save:"));
        line.and_then(|line| line.trim().parse().ok()).expect("a number")
    };
    let (a, b) = (edge(&server, Durability::Memory), edge(&server, Durability::Memory));
    prepare(&a);
    for result in all(std::iter::repeat(&a), writes()) {
        result.expect("written");
    }
    let before = changes();
    for (n, op) in copies().into_iter().enumerate() {
        let reply = run(&mut OnOne(&b), op);
        assert!(tells_what_was_written(n, &reply), "copy {n}: {reply:?}");
    }
    // The guard notes that its 2xx was given, the repeated exchange in flight moved its return path; nothing else is a change.
    assert_eq!(changes() - before, 2);
}
