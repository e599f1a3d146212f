//! What every store must do: on a store that runs, and on one that is closed and opened again between the operations.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;

use session_store::key::DialogKey;
use session_store::memory::{Capacity, Counts};
use session_store::op::{StoreError, StoreOp, StoreReply};
use session_store_file::{FileStore, StoreFile};
use store_contract::Subject;
use store_contract::memory::NOW;

use super::support::sealer;

struct File {
    folder: tempfile::TempDir,
    store: Option<FileStore>,
    now: Arc<AtomicU64>,
    reopens: bool,
}

impl File {
    fn new(reopens: bool) -> File {
        let folder = tempfile::tempdir().unwrap();
        let mut file = File { folder, store: None, now: Arc::new(AtomicU64::new(NOW)), reopens };
        file.reopen();
        file
    }

    fn reopen(&mut self) {
        self.store = None;
        let now = self.now.clone();
        let file = StoreFile::open(&self.folder.path().join("edge.store")).unwrap();
        let file = file.with_clock(Arc::new(move || now.load(Ordering::SeqCst)));
        self.store = Some(FileStore::load(file, Capacity::default(), sealer()).unwrap());
    }

    fn store(&self) -> &FileStore {
        self.store.as_ref().unwrap()
    }

    fn counts(&self) -> Counts {
        // An operation sweeps.
        self.store().execute(StoreOp::ReadDialog { dialog: DialogKey { slot: 0, tenant: 0, id: [0; 16] } }).unwrap();
        let (sender, counts) = sync_channel(1);
        self.store().counts(Box::new(move |counts| sender.send(counts).unwrap()));
        counts.recv().unwrap()
    }
}

impl Subject for File {
    fn run(&mut self, operation: StoreOp) -> Result<StoreReply, StoreError> {
        if self.reopens {
            self.reopen();
        }
        self.store().execute(operation)
    }

    fn now(&self) -> u64 {
        self.now.load(Ordering::SeqCst)
    }

    fn pass(&mut self, ms: u64) {
        self.now.fetch_add(ms, Ordering::SeqCst);
    }

    fn left(&mut self) -> usize {
        let mut before = self.counts();
        let c = loop {
            let now = self.counts();
            if now == before {
                break now;
            }
            before = now;
        };
        let names = c.aors + c.removed + c.guards + c.dialogs + c.sessions + c.exchanges + c.once + c.nonces + c.edges;
        names + c.owned + c.capabilities + c.conversations + c.ends
    }
}

mod running {
    use super::*;
    store_contract::suite!(|| File::new(false));
}

mod reopened {
    use super::*;
    store_contract::suite!(|| File::new(true));
}

#[test]
fn the_file_and_the_memory_store_answer_alike_and_so_does_a_file_that_is_opened_again() {
    store_contract::differential::differential(40, 80, || File::new(false));
    store_contract::differential::differential(8, 40, || File::new(true));
}
