//! Files that cannot be used: refused with what to do, never half-loaded, never changed into something else.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use session_store::memory::Capacity;
use session_store_file::{FileStore, OpenError, StoreFile};

use super::support::{CHILD, MEMORY, child, open, sealer, sealer_of, seen, tenant_number};

fn filled(path: &Path) {
    let store = open(path).unwrap();
    tenant_number(&store, 1);
    assert!((0..400).all(|number| !seen(&store, MEMORY, number)));
}

fn message(path: &Path) -> String {
    open(path).unwrap_err().to_string()
}

#[test]
fn a_wrong_key_and_a_wrong_naming_key_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.store");
    filled(&path);
    let with = |keys: &[(u8, u8)], naming| {
        FileStore::open(&path, Capacity::default(), sealer_of(keys, naming)).unwrap_err().to_string()
    };
    let error = with(&[(7, 43)], 9);
    assert!(
        error.contains("does not open with key 7") && error.contains("give the keys that it was sealed with"),
        "{error}"
    );
    let error = with(&[(8, 42)], 9);
    assert!(error.contains("sealed with key 7, which is not among the live ones"), "{error}");
    let error = with(&[(7, 42)], 8);
    assert!(error.contains("made with another key `naming`"), "{error}");
    assert!(seen(&open(&path).unwrap(), MEMORY, 399), "the file stayed as it was");
}

#[test]
fn a_newer_format_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.store");
    filled(&path);
    let meta = redb::TableDefinition::<&str, &[u8]>::new("meta");
    let db = redb::Database::open(&path).unwrap();
    let transaction = db.begin_write().unwrap();
    transaction.open_table(meta).unwrap().insert("format", 2u64.to_be_bytes().as_slice()).unwrap();
    transaction.commit().unwrap();
    drop(db);
    let error = message(&path);
    assert!(error.contains("has format 2, this program knows 1; use the program that wrote it"), "{error}");

    let log = folder.path().join("edge.store.log");
    let mut bytes = fs::read(&log).unwrap();
    bytes[7] = 2;
    fs::write(&log, bytes).unwrap();
    fs::remove_file(&path).unwrap();
    let error = message(&path);
    assert!(error.contains("edge.store.log: has format 2, this program knows 1"), "{error}");
}

#[test]
fn something_else_is_no_store() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.store");
    for content in [&b"hello, this is a text"[..], b"", &[0; 10_000]] {
        fs::write(&path, content).unwrap();
        let error = open(&path).unwrap_err();
        assert!(
            matches!(error, OpenError::NotAStore { .. } | OpenError::Damaged { .. } | OpenError::Io { .. }),
            "{error}"
        );
        assert_eq!(fs::read(&path).unwrap(), content, "it was left alone");
    }
    fs::remove_file(&path).unwrap();
    drop(redb::Database::create(&path).unwrap());
    let error = message(&path);
    assert!(error.contains("is no store file"), "{error}");

    let error = message(&folder.path().join("no/such/folder/edge.store"));
    assert!(error.contains("its directory is not there; make it first"), "{error}");
    let error = message(folder.path());
    assert!(error.contains("cannot be") || error.contains("is no store file"), "{error}");
}

#[test]
fn a_log_without_its_database_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.store");
    filled(&path);
    fs::remove_file(&path).unwrap();
    let error = message(&path);
    assert!(error.contains("edge.store.log: is damaged (it continues batch"), "{error}");
}

#[test]
fn a_record_of_a_newer_version_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.store");
    filled(&path);
    let entries = redb::TableDefinition::<&[u8], &[u8]>::new("entries");
    let db = redb::Database::open(&path).unwrap();
    let transaction = db.begin_write().unwrap();
    // Generation, as version 99.
    let sealed = sealer().seal(session_store::seal::OF_STORE, "generation", &[11], &[99, 0]);
    transaction.open_table(entries).unwrap().insert([11].as_slice(), sealed.as_slice()).unwrap();
    transaction.commit().unwrap();
    drop(db);
    let error = message(&path);
    assert!(error.contains("record 0b cannot be read: record version 99"), "{error}");
}

/// Every octet of the file, one after the other: the numbers of pages are among them. In a process of its own with little memory, which
/// would end where a length from the file is believed.
#[test]
fn scan() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    // The database panics at some of these files, which `open` turns into an error; thousands of backtraces would bury everything else.
    let said = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !info.location().is_some_and(|place| place.file().contains("redb")) {
            said(info);
        }
    }));
    let path = Path::new(&path);
    let (bytes, log) = (fs::read(path).unwrap(), fs::read(path.with_extension("store.log")).unwrap());
    // Of the header every octet counts; behind it some of each page that is in use (free ones are zeros).
    let header = (0..320).flat_map(|at| [(at, 0x01), (at, 0x80)]);
    let used = (512..bytes.len()).filter(|at| bytes[*at] != 0).step_by(499).map(|at| (at, 0xff));
    for (at, flip) in header.chain(used) {
        let mut bytes = bytes.clone();
        bytes[at] ^= flip;
        fs::write(path, &bytes).unwrap();
        fs::write(path.with_extension("store.log"), &log).unwrap();
        match StoreFile::open(path) {
            Ok(_) | Err(OpenError::Damaged { .. } | OpenError::NotAStore { .. } | OpenError::Newer { .. }) => {}
            Err(other) => panic!("octet {at} changed by {flip:#x}: {other}"),
        }
    }
    println!("\ntold the end");
}

#[test]
fn no_length_in_the_file_is_believed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.store");
    filled(&path);
    let (mut process, mut lines) = child("api::damage::scan", &path, "ulimit -v 4000000;");
    assert_eq!(lines.next().as_deref(), Some("the end"));
    assert!(process.wait().unwrap().success());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever is damaged: an error, or everything as it was. Never a panic, never a part.
    #[test]
    fn a_damaged_file_is_refused_or_whole(at in any::<prop::sample::Index>(), flip in 1u8.., len in 1usize..600, cut in any::<bool>()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edge.store");
        filled(&path);
        let mut bytes = fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        if cut {
            bytes.truncate(at);
        } else {
            bytes[at..].iter_mut().take(len).for_each(|byte| *byte ^= flip);
        }
        fs::write(&path, &bytes).unwrap();
        if let Ok(store) = open(&path) {
            prop_assert!((0..400).all(|number| seen(&store, MEMORY, number)), "a part was loaded");
        }
        drop(StoreFile::open(&path));
    }
}
