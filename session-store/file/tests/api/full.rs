//! A disk that takes nothing more: a limit on the size of files, which the process ignores the signal of.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use session_store::op::StoreError;

use super::support::{CHILD, MEMORY, child, once, open, seen};

/// The other process: writes until it cannot, says so, goes on when it can again.
#[test]
fn writer() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let store = open(Path::new(&path)).unwrap();
    let mut number = 0;
    let error = loop {
        match store.execute(once(MEMORY, number)) {
            Ok(_) => number += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error, StoreError::Full { what: "disk" });
    assert!(store.problem().unwrap().contains("File too large"), "{:?}", store.problem());
    assert!(store.execute(once(MEMORY, 1 << 40)).is_err());
    println!("\ntold {} {number}", std::process::id());

    let end = Instant::now() + Duration::from_secs(60);
    while store.execute(once(MEMORY, 1 << 41)).is_err() {
        assert!(Instant::now() < end, "it never went on");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(store.problem(), None);
    println!("\ntold {} again", std::process::id());
}

#[test]
fn a_full_disk_is_an_error_and_is_over_when_there_is_space_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.store");
    drop(open(&path).unwrap());
    // Room for the database as it is (units of 1024 octets), some for the log.
    let room = std::fs::metadata(&path).unwrap().len() / 1024 + 64;
    let (mut process, mut lines) = child("api::full::writer", &path, &format!("trap '' XFSZ; ulimit -S -f {room};"));
    let told = lines.next().expect("the disk is full at some time");
    let (id, written) = told.split_once(' ').unwrap();
    let raised = Command::new("prlimit").args(["--pid", id, "--fsize=unlimited"]).status().unwrap();
    assert!(raised.success());
    assert_eq!(lines.next(), Some(format!("{id} again")));
    assert!(process.wait().unwrap().success());
    let store = open(&path).unwrap();
    let written: u64 = written.parse().unwrap();
    assert!(written > 100 && (0..written).all(|number| seen(&store, MEMORY, number)));
    assert!(seen(&store, MEMORY, 1 << 41));
}
