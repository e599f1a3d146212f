//! A server without memory: new work is refused as full, what ends something still goes.

use session_store::op::{StoreError, StoreReply};
use store_contract::Subject;
use store_contract::samples::*;

use super::server::{Program, Server};
use super::subject::{RUNTIME, patient, sealer};
use session_store_redis::{BreakerState, RedisStore, Topology};

#[test]
fn a_full_server_refuses_new_work_and_lets_old_work_end() {
    let server = Server::start(Program::Redis, &[]);
    let config = patient(Topology::Single { address: server.address() });
    let store = RUNTIME.block_on(RedisStore::connect(config, sealer(1))).expect("the store");
    let mut s = OnOne(&store);
    with_dialog(&mut s, 1);
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(1).exec(&mut server.admin()).expect("CONFIG SET");
    assert_eq!(s.run(open_call(2, 2, A)), Err(StoreError::Full { what: "the store's memory" }));
    assert!(matches!(s.run(read(1)), Ok(StoreReply::Dialog { .. })), "reading goes on");
    assert!(matches!(s.run(bye(1, 9)), Ok(StoreReply::Dialog { .. })), "a call can end");
    assert_eq!(store.health().current().state, BreakerState::Closed, "full is not out");
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(0).exec(&mut server.admin()).expect("CONFIG SET");
    assert_eq!(s.run(open_call(2, 2, A)), Ok(StoreReply::CallOpened));
}

/// A store whose time is the real one.
pub struct OnOne<'a>(pub &'a RedisStore);

impl Subject for OnOne<'_> {
    fn run(&mut self, operation: session_store::op::StoreOp) -> Result<StoreReply, StoreError> {
        RUNTIME.block_on(self.0.execute(operation))
    }

    fn now(&self) -> u64 {
        super::subject::real_now_ms()
    }

    fn pass(&mut self, ms: u64) {
        std::thread::sleep(std::time::Duration::from_millis(ms));
    }

    fn left(&mut self) -> usize {
        0
    }
}
