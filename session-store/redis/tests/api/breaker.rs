//! A store that is slow, stopped, or that may not write: refused at once, followed by health, and in use again by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use session_store::op::{StoreError, StoreOp, StoreReply};
use session_store_redis::{BreakerState, HealthWatch, RedisConfig, RedisStore, Topology};
use store_contract::Subject;
use store_contract::samples::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::full::OnOne;
use super::proxy::{Fate, count, proxy};
use super::server::{Program, Server};
use super::subject::{RUNTIME, patient, sealer};

/// With the deadline of the design.
fn strict(address: String) -> RedisStore {
    let mut config = RedisConfig::new(Topology::Single { address }, "t:");
    config.heartbeat_timeout = Duration::from_secs(10);
    RUNTIME.block_on(RedisStore::connect(config, sealer(1))).expect("the store")
}

/// With one that a busy machine keeps and a test can wait for five times.
fn connect(address: String) -> RedisStore {
    let mut config = patient(Topology::Single { address });
    config.response_timeout = Duration::from_secs(2);
    RUNTIME.block_on(RedisStore::connect(config, sealer(1))).expect("the store")
}

/// Waits until health is so.
pub fn until(health: &mut HealthWatch, wanted: impl Fn(BreakerState) -> bool) -> Vec<BreakerState> {
    let waiting = async {
        let mut seen = vec![health.current().state];
        while !wanted(*seen.last().expect("one")) {
            seen.push(health.changed().await.state);
        }
        seen
    };
    RUNTIME.block_on(async { tokio::time::timeout(Duration::from_secs(120), waiting).await }).expect("in time")
}

/// Operations until the circuit opens.
fn push_until_open(s: &mut OnOne<'_>, health: &HealthWatch) {
    let end = Instant::now() + Duration::from_secs(120);
    while health.current().state != BreakerState::Open {
        let _ = s.run(read(1));
        assert!(Instant::now() < end, "{:?}", health.current());
    }
}

fn is_refused_at_once(s: &mut OnOne<'_>) {
    let started = Instant::now();
    for _ in 0..50 {
        assert_eq!(s.run(read(1)), Err(StoreError::Unavailable));
    }
    assert!(started.elapsed() < Duration::from_secs(2), "fifty deadlines would be 7.5 s");
}

/// Forwards bytes to a server, each chunk of an answer so much later.
fn slow_proxy(to: u16) -> (String, Arc<AtomicU64>) {
    let delay_ms = Arc::new(AtomicU64::new(0));
    let listener = RUNTIME.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let delay = delay_ms.clone();
    RUNTIME.spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let delay = delay.clone();
            tokio::spawn(async move {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else { return };
                let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                    (client.into_split(), server.into_split());
                tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
                let (later, mut due) = tokio::sync::mpsc::channel::<(tokio::time::Instant, Vec<u8>)>(65_536);
                tokio::spawn(async move {
                    while let Some((at, bytes)) = due.recv().await {
                        tokio::time::sleep_until(at).await;
                        if to_client.write_all(&bytes).await.is_err() {
                            return;
                        }
                    }
                });
                let mut chunk = vec![0; 65_536];
                while let Ok(n) = from_server.read(&mut chunk).await {
                    let at = tokio::time::Instant::now() + Duration::from_millis(delay.load(Ordering::SeqCst));
                    if n == 0 || later.send((at, chunk[..n].to_vec())).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, delay_ms)
}

#[test]
fn p14_750_ms_open_the_circuit_and_the_heartbeat_goes_on() {
    let server = Server::start(Program::Redis, &[]);
    let (address, delay) = slow_proxy(server.port);
    with_dialog(&mut OnOne(&connect(server.address())), 1);
    let store = strict(address);
    let mut s = OnOne(&store);
    let epoch = StoreOp::TakeEpoch {
        pod: 1,
        boot: 1,
        last_epoch: 0,
        address: String::new(),
        lease_ms: 60_000,
        generation: [1; 16],
    };
    let Ok(StoreReply::Epoch { owner, .. }) = RUNTIME.block_on(store.execute_heartbeat(epoch)) else { panic!("epoch") };
    delay.store(750, Ordering::SeqCst);
    let mut health = store.health();
    push_until_open(&mut s, &health);
    is_refused_at_once(&mut s);
    // A slow store does not fence the edge.
    let heartbeat = StoreOp::Heartbeat { owner, address: String::new(), lease_ms: 60_000, draining: false };
    let renewed = RUNTIME.block_on(store.execute_heartbeat(heartbeat));
    assert!(matches!(renewed, Ok(StoreReply::Pods { .. })), "{renewed:?}");
    // A flood meanwhile costs nothing.
    let flood: Vec<_> = (0..10_000)
        .map(|_| {
            let store = store.clone();
            RUNTIME.spawn(async move { store.execute(read(1)).await })
        })
        .collect();
    for one in flood {
        assert_eq!(RUNTIME.block_on(one).expect("no panic"), Err(StoreError::Unavailable));
    }
    delay.store(0, Ordering::SeqCst);
    let seen = until(&mut health, |state| state == BreakerState::Closed);
    for step in [10, 50] {
        assert!(seen.contains(&BreakerState::Recovering { percent: step }), "{seen:?}");
    }
    // A busy machine may miss the deadline now and then.
    let end = Instant::now() + Duration::from_secs(60);
    while !matches!(s.run(read(1)), Ok(StoreReply::Dialog { .. })) {
        assert!(Instant::now() < end, "{:?}", health.current());
    }
}

#[test]
fn no_more_is_in_flight_than_the_limit() {
    let server = Server::start(Program::Redis, &[]);
    let (address, delay) = slow_proxy(server.port);
    let mut config = RedisConfig::new(Topology::Single { address }, "t:");
    (config.in_flight, config.response_timeout) = (8, Duration::from_secs(20));
    let store = RUNTIME.block_on(RedisStore::connect(config, sealer(1))).expect("the store");
    delay.store(2_000, Ordering::SeqCst);
    let tasks: Vec<_> = (0..100)
        .map(|_| {
            let store = store.clone();
            RUNTIME.spawn(async move { store.execute(read(1)).await })
        })
        .collect();
    let results: Vec<_> = tasks.into_iter().map(|task| RUNTIME.block_on(task).expect("no panic")).collect();
    let refused = results.iter().filter(|result| **result == Err(StoreError::Unavailable)).count();
    assert_eq!(refused, 92);
    assert_eq!(results.iter().filter(|result| **result == Ok(StoreReply::Unknown)).count(), 8);
}

#[test]
fn a_stopped_server_opens_the_circuit_and_a_resumed_one_closes_it() {
    let server = Server::start(Program::Redis, &[]);
    let store = connect(server.address());
    let mut s = OnOne(&store);
    with_dialog(&mut s, 1);
    let pid = server.pid();
    server.signal(&pid, "-STOP");
    let mut health = store.health();
    push_until_open(&mut s, &health);
    is_refused_at_once(&mut s);
    server.signal(&pid, "-CONT");
    until(&mut health, |state| state == BreakerState::Closed);
    assert_eq!(health.current().replaced, 0, "it is the same one");
    assert!(matches!(s.run(read(1)), Ok(StoreReply::Dialog { .. })));
}

#[test]
fn a_killed_server_is_used_again_when_it_is_back() {
    let server = Server::start(Program::Redis, &[]);
    let store = connect(server.address());
    let mut s = OnOne(&store);
    with_dialog(&mut s, 1);
    let port = server.port;
    drop(server.kill());
    let mut health = store.health();
    push_until_open(&mut s, &health);
    is_refused_at_once(&mut s);
    // Empty, without the library.
    let _server = Server::start_at(Program::Redis, port, &[]);
    until(&mut health, |state| state == BreakerState::Closed);
    assert_eq!(health.current().replaced, 1, "it may lack what it had said last");
    assert_eq!(s.run(read(1)), Ok(StoreReply::Unknown));
    with_dialog(&mut s, 1);
}

#[test]
fn something_else_on_the_port_is_named_in_health() {
    let server = Server::start(Program::Redis, &[]);
    let store = connect(server.address());
    let mut s = OnOne(&store);
    let port = server.port;
    drop(server.kill());
    let listener = RUNTIME.block_on(TcpListener::bind(("127.0.0.1", port))).expect("the port is free now");
    RUNTIME.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").await;
        }
    });
    let health = store.health();
    push_until_open(&mut s, &health);
    let end = Instant::now() + Duration::from_secs(60);
    while !health.current().reason.is_some_and(|reason| reason.contains("neither Redis nor Valkey")) {
        assert!(Instant::now() < end, "{:?}", health.current());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn noreplicas_opens_the_circuit_at_once() {
    let server = Server::start(Program::Redis, &[]);
    let store = connect(server.address());
    let mut s = OnOne(&store);
    with_dialog(&mut s, 1);
    let set = |value: u8| {
        let mut command = redis::cmd("CONFIG");
        command.arg("SET").arg("min-replicas-to-write").arg(value).exec(&mut server.admin()).expect("CONFIG SET");
    };
    set(1);
    assert_eq!(s.run(open_call(2, 2, A)), Err(StoreError::Unavailable));
    let mut health = store.health();
    until(&mut health, |state| state == BreakerState::Open);
    assert!(health.current().reason.is_some_and(|reason| reason.contains("NOREPLICAS")), "{:?}", health.current());
    is_refused_at_once(&mut s);
    set(0);
    until(&mut health, |state| state == BreakerState::Closed);
    assert_eq!(s.run(open_call(2, 2, A)), Ok(StoreReply::CallOpened));
}

#[test]
fn a_library_that_was_flushed_is_loaded_again() {
    let server = Server::start(Program::Redis, &[]);
    let config = patient(Topology::Single { address: server.address() });
    let store = RUNTIME.block_on(RedisStore::connect(config, sealer(1))).expect("the store");
    let mut s = OnOne(&store);
    with_dialog(&mut s, 1);
    redis::cmd("FUNCTION").arg("FLUSH").exec(&mut server.admin()).expect("FUNCTION FLUSH");
    assert!(matches!(s.run(read(1)), Ok(StoreReply::Dialog { .. })), "nobody notices");
    redis::cmd("FUNCTION").arg("FLUSH").exec(&mut server.admin()).expect("FUNCTION FLUSH");
    let many: Vec<_> = (0..200)
        .map(|_| {
            let store = store.clone();
            RUNTIME.spawn(async move { store.execute(read(1)).await })
        })
        .collect();
    for one in many {
        assert!(
            matches!(RUNTIME.block_on(one).expect("no panic"), Ok(StoreReply::Dialog { .. })),
            "nor do many at once"
        );
    }
    let stats: String = redis::cmd("INFO").arg("commandstats").query(&mut server.admin()).expect("INFO");
    let loads = stats.lines().find_map(|line| line.strip_prefix("cmdstat_function|load:calls="));
    let loads = loads.and_then(|line| line.split(',').next()?.parse::<u64>().ok());
    assert_eq!(loads, Some(3), "at the start, for the first, and once for the many");
    redis::cmd("FUNCTION").arg("FLUSH").exec(&mut server.admin()).expect("FUNCTION FLUSH");
    let epoch = StoreOp::TakeEpoch {
        pod: 1,
        boot: 1,
        last_epoch: 0,
        address: String::new(),
        lease_ms: 60_000,
        generation: [1; 16],
    };
    assert!(matches!(RUNTIME.block_on(store.execute_heartbeat(epoch)), Ok(StoreReply::Epoch { .. })));
}

#[test]
fn a_password_that_was_changed_is_named_and_the_old_one_works_again() {
    let server = Server::start(Program::Redis, &[]);
    let mut admin = server.admin();
    let mut set = |password: &str| {
        redis::cmd("CONFIG").arg("SET").arg("requirepass").arg(password).exec(&mut admin).expect("CONFIG SET");
        let mut kill = redis::cmd("CLIENT");
        kill.arg("KILL").arg("TYPE").arg("normal").arg("SKIPME").arg("yes").exec(&mut admin).expect("KILL");
    };
    set("first");
    let mut config = patient(Topology::Single { address: server.address() });
    (config.password, config.response_timeout) = (Some("first".to_owned().into()), Duration::from_secs(2));
    let store = RUNTIME.block_on(RedisStore::connect(config, sealer(1))).expect("the store");
    let mut s = OnOne(&store);
    with_dialog(&mut s, 1);
    set("second");
    let mut health = store.health();
    push_until_open(&mut s, &health);
    let named = async {
        while !health.current().reason.is_some_and(|reason| reason.contains("does not accept the user or the password"))
        {
            health.changed().await;
        }
    };
    let named = RUNTIME.block_on(async { tokio::time::timeout(Duration::from_secs(60), named).await });
    assert!(named.is_ok(), "{:?}", health.current());
    assert!(!format!("{:?}", health.current()).contains("first"), "it is told to nobody");
    is_refused_at_once(&mut s);
    set("first");
    until(&mut health, |state| state == BreakerState::Closed);
    assert!(matches!(s.run(read(1)), Ok(StoreReply::Dialog { .. })));
}

/// For a while each new connection meets this fate when it is looked at. No operation is sent meanwhile, so nothing else notices.
fn is_used_again_after(fate: Fate) {
    let server = Server::start(Program::Redis, &[]);
    let (is_out, looks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let address = {
        let (is_out, looks) = (is_out.clone(), looks.clone());
        proxy(server.port, move |bytes| {
            if !is_out.load(Ordering::SeqCst) {
                return Fate::Goes;
            }
            if count(bytes, b"$4\r\nINFO\r\n") > 0 {
                looks.fetch_add(1, Ordering::SeqCst);
                return fate;
            }
            // What was open before goes first.
            if count(bytes, b"FCALL") > 0 { Fate::Closes } else { Fate::Goes }
        })
    };
    let mut config = patient(Topology::Single { address });
    (config.connect_timeout, config.response_timeout) = (Duration::from_secs(3), Duration::from_secs(5));
    let store = RUNTIME.block_on(RedisStore::connect(config, sealer(1))).expect("the store");
    let mut s = OnOne(&store);
    with_dialog(&mut s, 1);
    is_out.store(true, Ordering::SeqCst);
    let mut health = store.health();
    push_until_open(&mut s, &health);
    let (before, end) = (looks.load(Ordering::SeqCst), Instant::now() + Duration::from_secs(120));
    while looks.load(Ordering::SeqCst) < before + 3 {
        assert!(Instant::now() < end, "it holds on to {:?}", health.current());
        std::thread::sleep(Duration::from_millis(20));
    }
    is_out.store(false, Ordering::SeqCst);
    until(&mut health, |state| state == BreakerState::Closed);
    assert!(matches!(s.run(read(1)), Ok(StoreReply::Dialog { .. })));
}

#[test]
fn a_connection_that_closes_before_it_was_looked_at_is_replaced() {
    is_used_again_after(Fate::Closes);
}

#[test]
fn a_connection_that_falls_silent_before_it_was_looked_at_is_replaced() {
    is_used_again_after(Fate::Silent);
}

#[test]
fn a_user_that_lost_its_rights_is_named() {
    let server = Server::start(Program::Redis, &[]);
    let store = connect(server.address());
    let mut s = OnOne(&store);
    with_dialog(&mut s, 1);
    let mut admin = server.admin();
    let mut set = |rule: &str| {
        redis::cmd("ACL").arg("SETUSER").arg("default").arg(rule).exec(&mut admin).expect("ACL SETUSER");
    };
    set("-fcall");
    assert_eq!(s.run(read(1)), Err(StoreError::Unavailable));
    let mut health = store.health();
    until(&mut health, |state| state == BreakerState::Open);
    assert!(health.current().reason.is_some_and(|reason| reason.contains("NOPERM")), "{:?}", health.current());
    set("+fcall");
    until(&mut health, |state| state == BreakerState::Closed);
    assert!(matches!(s.run(read(1)), Ok(StoreReply::Dialog { .. })));
}

#[test]
fn eviction_that_is_switched_on_later_is_seen_at_the_next_connection() {
    let server = Server::start(Program::Redis, &[]);
    let store = connect(server.address());
    let mut admin = server.admin();
    redis::cmd("CONFIG").arg("SET").arg("maxmemory-policy").arg("allkeys-lru").exec(&mut admin).expect("CONFIG SET");
    redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").arg("SKIPME").arg("yes").exec(&mut admin).expect("KILL");
    let mut s = OnOne(&store);
    let health = store.health();
    push_until_open(&mut s, &health);
    let end = Instant::now() + Duration::from_secs(60);
    while !health.current().reason.is_some_and(|reason| reason.contains("allkeys-lru")) {
        assert!(Instant::now() < end, "{:?}", health.current());
        std::thread::sleep(Duration::from_millis(20));
    }
}
