//! Keys, names and operations of the tests.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;

use session_store::key::{ExchangeKey, SessionKey, Tenant};
use session_store::memory::Capacity;
use session_store::op::{StoreOp, StoreReply};
use session_store::seal::{SealKey, SealKeys, Sealer};
use session_store_file::{FileStore, OpenError};

/// Begins to wait for the disk in these tests.
pub const FSYNC: Tenant = 1;
/// Has class Memory.
pub const MEMORY: Tenant = 2;

/// Keys by id, the first one seals; each key's octets are its `secret`.
pub fn sealer_of(keys: &[(u8, u8)], naming: u8) -> Arc<Sealer> {
    let keys = keys.iter().map(|(kid, secret)| SealKey::new(*kid, [*secret; 32].into())).collect();
    Arc::new(Sealer::new(SealKeys::new(keys).unwrap(), [naming; 32].into()))
}

pub fn sealer() -> Arc<Sealer> {
    sealer_of(&[(7, 42)], 9)
}

pub fn open(path: &Path) -> Result<FileStore, OpenError> {
    FileStore::open(path, Capacity::default(), sealer())
}

pub fn once(tenant: Tenant, number: u64) -> StoreOp {
    let mut hash = [0; 16];
    hash[..8].copy_from_slice(&number.to_be_bytes());
    let session = SessionKey { slot: (number % 1024) as u16, tenant, hash: [5; 16] };
    StoreOp::Once { key: ExchangeKey { session, hash }, ttl_ms: 600_000, nonce: None }
}

/// Whether a message was seen before (and it is now).
pub fn seen(store: &FileStore, tenant: Tenant, number: u64) -> bool {
    match store.execute(once(tenant, number)).unwrap() {
        StoreReply::First(first) => !first,
        other => panic!("{other:?}"),
    }
}

pub fn tenant_number(store: &FileStore, domain: u8) -> Tenant {
    match store.execute(StoreOp::TenantNumber { domain: [domain; 16] }).unwrap() {
        StoreReply::Tenant(number) => number,
        other => panic!("{other:?}"),
    }
}

/// Where the part of a test that runs in a process of its own finds its file.
pub const CHILD: &str = "STORE_FILE_TEST_PATH";

/// This test program again, with one test only; `shell`: what a shell does first.
pub fn child(test: &str, path: &Path, shell: &str) -> (Child, impl Iterator<Item = String> + use<>) {
    let program = std::env::current_exe().unwrap();
    let mut child = Command::new("bash")
        .args(["-c", &format!("{shell} exec \"$0\" \"$@\""), &program.display().to_string()])
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let out: ChildStdout = child.stdout.take().unwrap();
    let lines = BufReader::new(out).lines().map_while(Result::ok);
    (child, lines.filter_map(|line| line.split_once("told ").map(|(_, told)| told.to_owned())))
}
