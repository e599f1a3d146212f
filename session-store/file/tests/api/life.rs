//! Restart, keys, classes, permissions.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use session_store::Durability;
use session_store::memory::Capacity;
use session_store::op::StoreError;
use session_store_file::{EdgeKeys, FileStore, OpenError, QUEUE, RANDOM_OCTETS, StoreFile};

use super::support::{FSYNC, MEMORY, once, open, sealer, sealer_of, seen, tenant_number};

#[test]
fn a_restart_finds_what_was_stored_and_tenant_numbers_never_go_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.store");
    let store = open(&path).unwrap();
    assert_eq!((tenant_number(&store, 1), tenant_number(&store, 2)), (1, 2));
    assert!(!seen(&store, MEMORY, 1));
    drop(store);
    let store = open(&path).unwrap();
    assert!(seen(&store, MEMORY, 1) && !seen(&store, MEMORY, 2));
    assert_eq!((tenant_number(&store, 2), tenant_number(&store, 3), tenant_number(&store, 1)), (2, 3, 1));
}

#[test]
fn many_operations_pass_through_log_and_database() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.store");
    let store = open(&path).unwrap();
    let (sender, replies) = sync_channel(QUEUE);
    const COUNT: u64 = 60_000;
    for chunk in 0..COUNT / 1000 {
        for number in chunk * 1000..(chunk + 1) * 1000 {
            let sender = sender.clone();
            store.submit(once(MEMORY, number), Box::new(move |reply| sender.send(reply.is_ok()).unwrap()));
        }
        assert!((0..1000).all(|_| replies.recv().unwrap()));
    }
    drop(store);
    assert!(
        std::fs::metadata(folder.path().join("edge.store.log")).unwrap().len() < 100,
        "the log is empty at the end"
    );
    let store = open(&path).unwrap();
    let (sender, counts) = sync_channel(1);
    store.counts(Box::new(move |counts| sender.send(counts).unwrap()));
    assert_eq!(counts.recv().unwrap().once, COUNT as usize);
    assert!((0..COUNT).step_by(997).all(|number| seen(&store, MEMORY, number)));
}

#[test]
fn what_ended_meanwhile_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.store");
    let store = open(&path).unwrap();
    let mut short = once(MEMORY, 1);
    if let session_store::op::StoreOp::Once { ttl_ms, .. } = &mut short {
        *ttl_ms = 1;
    }
    store.execute(short).unwrap();
    seen(&store, MEMORY, 2);
    drop(store);
    std::thread::sleep(Duration::from_millis(20));
    let store = open(&path).unwrap();
    let (sender, counts) = sync_channel(1);
    store.counts(Box::new(move |counts| sender.send(counts).unwrap()));
    assert_eq!(counts.recv().unwrap().once, 1);
}

#[test]
fn the_edge_makes_its_keys_once_and_the_file_is_private() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.store");
    let mut file = StoreFile::open(&path).unwrap();
    assert_eq!(file.keys().unwrap(), None);
    let made = file.make_keys(&[3; RANDOM_OCTETS]).unwrap();
    assert_eq!(made, EdgeKeys::from_random(&[3; RANDOM_OCTETS]));
    assert!(!format!("{made:?}").contains("3, 3"));
    assert_eq!(file.make_keys(&[4; RANDOM_OCTETS]).unwrap(), made, "there are keys already");
    drop(FileStore::load(file, Capacity::default(), sealer()).unwrap());
    assert_eq!(StoreFile::open(&path).unwrap().keys().unwrap(), Some(made));
    for name in ["edge.store", "edge.store.log"] {
        let path = folder.path().join(name);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    }
    drop(StoreFile::open(&path).unwrap());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn sec_15_keys_rotate_and_what_was_sealed_before_moves_to_the_new_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.store");
    let reopen = |keys: &[(u8, u8)]| FileStore::open(&path, Capacity::default(), sealer_of(keys, 9));
    let store = reopen(&[(1, 11)]).unwrap();
    assert!((0..1000).all(|number| !seen(&store, MEMORY, number)));
    // The running store gets the new key, and an edge that restarts in between has both.
    store.set_sealer(sealer_of(&[(2, 22), (1, 11)], 9));
    for number in 2000..2010 {
        seen(&store, MEMORY, number);
    }
    drop(store);
    let only_new = reopen(&[(2, 22)]).unwrap();
    assert!((0..1000).chain(2000..2010).all(|number| seen(&only_new, MEMORY, number)));
    drop(only_new);
    let error = reopen(&[(1, 11)]).unwrap_err();
    assert!(matches!(&error, OpenError::Unreadable { reason, .. } if reason.contains("sealed with key 2")), "{error}");
}

#[test]
fn a_class_that_a_file_cannot_give_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("edge.store")).unwrap();
    let classes = BTreeMap::from([(1, Durability::Fsync), (2, Durability::Replica), (3, Durability::Memory)]);
    assert_eq!(store.set_durability(classes), Err(vec![2]));
}

#[test]
fn a_full_queue_is_unavailable_and_nothing_is_lost_without_a_reply() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("edge.store")).unwrap();
    store.set_durability(BTreeMap::from([(FSYNC, Durability::Fsync)])).unwrap();
    // The thread of the store stands still in this reply.
    let (go, wait) = sync_channel::<()>(0);
    let (entered, inside) = sync_channel::<()>(0);
    let stop = Box::new(move |_| {
        entered.send(()).unwrap();
        wait.recv().unwrap();
    });
    store.submit(once(FSYNC, 0), stop);
    inside.recv().unwrap();
    let (sender, replies) = sync_channel(2 * QUEUE);
    for number in 0..QUEUE as u64 + 10 {
        let sender = sender.clone();
        store.submit(once(FSYNC, 1 + number), Box::new(move |reply| sender.send(reply).unwrap()));
    }
    drop(sender);
    go.send(()).unwrap();
    let replies: Vec<_> = replies.iter().collect();
    assert_eq!(replies.len(), QUEUE + 10);
    assert_eq!(replies.iter().filter(|reply| **reply == Err(StoreError::Unavailable)).count(), 10);
}
