//! `kill -9` at any moment: what was acknowledged is there.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::Child;

use session_store::Durability;
use session_store::memory::Capacity;
use session_store_file::{FileStore, StoreFile};

use super::support::{CHILD, FSYNC, MEMORY, child, open, sealer, seen, tenant_number};

/// The other process: eight threads that write and tell what was acknowledged.
#[test]
fn writer() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    // A short log, so that kills hit the database's transactions, too.
    let file = StoreFile::open(Path::new(&path)).unwrap().with_log_bytes(32 << 10);
    let store = FileStore::load(file, Capacity::default(), sealer()).unwrap();
    store.set_durability(BTreeMap::from([(FSYNC, Durability::Fsync)])).unwrap();
    let begin: u64 = tenant_number(&store, 1).into();
    assert_eq!(begin, 1);
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            let store = &store;
            scope.spawn(move || {
                let tenant = if thread % 2 == 0 { FSYNC } else { MEMORY };
                for number in (thread..).step_by(8) {
                    if !seen(store, tenant, number) {
                        // One write per line, so that a kill cuts no line that counts.
                        std::io::stdout().write_all(format!("\ntold {tenant} {number}\n").as_bytes()).unwrap();
                    }
                }
            });
        }
    });
}

fn kill_after(mut process: Child, mut lines: impl Iterator<Item = String>, count: usize) -> Vec<(u16, u64)> {
    let mut told: Vec<String> = lines.by_ref().take(count).collect();
    process.kill().unwrap();
    process.wait().unwrap();
    // What it had said before it died.
    told.extend(lines);
    told.iter()
        .filter_map(|line| {
            let (tenant, number) = line.split_once(' ')?;
            Some((tenant.parse().ok()?, number.parse().ok()?))
        })
        .collect()
}

#[test]
fn nothing_acknowledged_is_lost_when_the_process_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.store");
    let mut all = Vec::new();
    for (round, count) in [1, 300, 500, 700, 1100, 1300, 1700, 1900, 5000].into_iter().enumerate() {
        let (process, lines) = child("api::kill::writer", &path, "");
        let told = kill_after(process, lines, count);
        assert!(told.len() >= count, "round {round}: {} of {count}", told.len());
        all.extend(told);

        let store = open(&path).unwrap();
        for (tenant, number) in &all {
            assert!(seen(&store, *tenant, *number), "round {round}: {tenant} {number} was acknowledged and is lost");
        }
        assert_eq!((tenant_number(&store, 1), tenant_number(&store, 2)), (1, 2));
    }
}

#[test]
fn a_second_process_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.store");
    let (mut process, mut lines) = child("api::kill::writer", &path, "");
    lines.next().unwrap();
    let error = open(&path).unwrap_err().to_string();
    process.kill().unwrap();
    process.wait().unwrap();
    let expected =
        format!("{}: is in use by another process; a store file belongs to one edge at a time", path.display());
    assert!(error.starts_with(&expected), "{error}");
    open(&path).unwrap();
}
