//! Sentinel: the primary dies, its replica takes over, and the store follows.

use std::time::{Duration, Instant};

use session_store::op::StoreReply;
use session_store_redis::{BreakerState, RedisStore, StartError, Topology};
use store_contract::Subject;
use store_contract::samples::*;

use super::full::OnOne;
use super::server::{Program, Server};
use super::subject::{RUNTIME, patient, sealer};

fn sentinels(primary: &Server) -> Vec<Server> {
    let sentinel = |_| {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("sentinel.conf");
        let text = format!(
            "sentinel monitor calls 127.0.0.1 {} 2\nsentinel down-after-milliseconds calls 2000\n\
             sentinel failover-timeout calls 5000\n",
            primary.port
        );
        std::fs::write(&file, text).expect("a configuration");
        Server::start_sentinel(directory)
    };
    (0..3).map(sentinel).collect()
}

#[test]
fn a_failover_is_followed() {
    let primary = Server::start(Program::Redis, &[]);
    let replica = Server::start_replica(&primary);
    let sentinels = sentinels(&primary);
    let end = Instant::now() + Duration::from_secs(60);
    for sentinel in &sentinels {
        // Until it knows the others and the replica.
        loop {
            let info: String = redis::cmd("INFO").arg("sentinel").query(&mut sentinel.admin()).expect("INFO");
            if info.contains("slaves=1,sentinels=3") {
                break;
            }
            assert!(Instant::now() < end, "{info}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    let addresses: Vec<String> = sentinels.iter().map(Server::address).collect();
    let config = patient(Topology::Sentinel { addresses: addresses.clone(), master: "calls".into() });
    let store = RUNTIME.block_on(RedisStore::connect(config, sealer(1))).expect("the store");
    let mut s = OnOne(&store);
    with_dialog(&mut s, 1);
    assert_eq!(store.health().current().shards[0].address, primary.address());
    replica.catch_up(&primary);

    drop(primary.kill());
    let mut health = store.health();
    let moved = async {
        loop {
            let now = health.changed().await;
            let followed = now.shards[0].address == replica.address();
            // Whoever sees it in use knows already that it is another one.
            assert!(!followed || now.state == BreakerState::Open || now.replaced == 1, "{now:?}");
            if now.state == BreakerState::Closed && followed {
                return;
            }
        }
    };
    RUNTIME.block_on(async { tokio::time::timeout(Duration::from_secs(180), moved).await }).expect("it follows");
    assert!(matches!(s.run(read(1)), Ok(StoreReply::Dialog { .. })), "what the replica had is there");
    assert!(matches!(s.run(bye(1, 5)), Ok(StoreReply::Dialog { .. })), "and it takes writes");
}

/// What was primary is started again, empty, after another one was promoted: it takes itself for a primary until it is told.
#[test]
fn a_primary_that_comes_back_after_it_was_replaced_is_not_used() {
    let old = Server::start(Program::Redis, &[]);
    let new = Server::start(Program::Redis, &[]);
    let sentinels = sentinels(&old);
    let addresses: Vec<String> = sentinels.iter().map(Server::address).collect();
    let config = patient(Topology::Sentinel { addresses, master: "calls".into() });
    let store = RUNTIME.block_on(RedisStore::connect(config, sealer(1))).expect("the store");
    let mut s = OnOne(&store);
    with_dialog(&mut s, 1);

    let port = old.port;
    drop(old.kill());
    for sentinel in &sentinels {
        let mut admin = sentinel.admin();
        let () = redis::cmd("SENTINEL").arg("REMOVE").arg("calls").query(&mut admin).expect("REMOVE");
        let mut monitor = redis::cmd("SENTINEL");
        monitor.arg("MONITOR").arg("calls").arg("127.0.0.1").arg(new.port).arg(2);
        let () = monitor.query(&mut admin).expect("MONITOR");
    }
    let old = Server::start_at(Program::Redis, port, &[]);
    let end = Instant::now() + Duration::from_secs(60);
    while store.health().current().shards[0].address != new.address() {
        // Whether it is taken is not what is asked here.
        let _ = s.run(read(1));
        assert!(Instant::now() < end, "the other one is never used");
        std::thread::sleep(Duration::from_millis(10));
    }
    let loaded: Vec<redis::Value> =
        redis::cmd("FUNCTION").arg("LIST").query(&mut old.admin()).expect("the functions of the old one");
    assert!(loaded.is_empty(), "it was used: {loaded:?}");
    let commands: String = redis::cmd("INFO").arg("commandstats").query(&mut old.admin()).expect("INFO");
    assert!(!commands.contains("cmdstat_fcall"), "it was used: {commands}");
}

#[test]
fn a_name_that_no_sentinel_knows_is_said() {
    let primary = Server::start(Program::Redis, &[]);
    let addresses: Vec<String> = sentinels(&primary).iter().map(Server::address).collect();
    let config = patient(Topology::Sentinel { addresses, master: "others".into() });
    let error = RUNTIME.block_on(RedisStore::connect(config, sealer(1))).expect_err("no such primary");
    assert!(matches!(&error, StartError::NoMaster { master, .. } if master == "others"), "{error}");
}
