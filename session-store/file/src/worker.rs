//! The thread of the store: executes, writes, then replies.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use session_store::Durability;
use session_store::key::Tenant;
use session_store::memory::{Capacity, MemoryStore};
use session_store::name::EntryName;
use session_store::op::{StoreError, StoreOp, StoreReply};
use session_store::seal::{OF_STORE, Sealer};

use crate::disk::StoreFile;
use crate::error::OpenError;
use crate::log::Entries;
use crate::store::{Done, Job, Problem};

/// Operations that share one write.
const BATCH: usize = 512;
/// Where the database fails and the log still works: the log grows up to here, then nothing is taken.
const LOG_LIMIT: u64 = 256 << 20;
/// What is not waited for reaches the disk after so long.
const SYNC_AFTER: Duration = Duration::from_secs(1);
/// After an error of the disk it is tried again at most so often.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// Entries that are sealed again with one batch.
const RESEAL: usize = 256;

pub(crate) struct Worker {
    file: StoreFile,
    store: MemoryStore,
    sealer: Arc<Sealer>,
    classes: BTreeMap<Tenant, Durability>,
    /// What the log has and the database has not. As large as the log.
    since_checkpoint: Entries,
    /// Changed in memory and not written, because the disk failed.
    unwritten: BTreeSet<EntryName>,
    /// Not known to be on the disk whatever a second wait says: only the database makes it good.
    sync_failed: bool,
    /// The length of the log at which it is worked into the database.
    checkpoint_at: u64,
    /// To be sealed again.
    reseal: VecDeque<EntryName>,
    last_sync: Instant,
    /// When the last attempt failed.
    failed: Option<Instant>,
    problem: Problem,
}

impl Worker {
    /// Loads every entry, or none.
    pub fn load(
        mut file: StoreFile,
        capacity: Capacity,
        sealer: Arc<Sealer>,
        problem: Problem,
    ) -> Result<Worker, OpenError> {
        let mut store = MemoryStore::new(capacity);
        store.track_changes();
        let mut reseal = VecDeque::new();
        file.claim(&sealer.fingerprint(OF_STORE, "store file", &[]))?;
        let loaded = file.entries(|bytes, sealed| {
            let mut restore = || -> Result<(), StoreError> {
                let name = EntryName::from_bytes(bytes)?;
                let (tenant, kind) = (name.tenant().unwrap_or(OF_STORE), kind(&name));
                store.restore(&name, &sealer.open(tenant, kind, bytes, sealed)?)?;
                if !sealer.is_current(tenant, sealed) {
                    reseal.push_back(name);
                }
                Ok(())
            };
            restore().map_err(|error| (record(bytes), error))
        })?;
        if let Err((record, error)) = loaded {
            let reason = match error {
                StoreError::Unreadable { reason } => reason,
                other => other.to_string(),
            };
            return Err(OpenError::Unreadable { path: file.path().to_owned(), record, reason });
        }
        let now = Instant::now();
        let mut worker = Worker {
            checkpoint_at: file.log_bytes,
            file,
            store,
            sealer,
            classes: BTreeMap::new(),
            since_checkpoint: Entries::new(),
            unwritten: BTreeSet::new(),
            sync_failed: false,
            reseal,
            last_sync: now,
            failed: None,
            problem,
        };
        worker.drop_what_ended();
        Ok(worker)
    }

    /// What ended while nobody was here goes at once.
    fn drop_what_ended(&mut self) {
        let now_ms = (self.file.clock)();
        loop {
            self.store.sweep(now_ms);
            let ended = self.store.take_dirty();
            if ended.is_empty() {
                return;
            }
            self.unwritten.extend(ended);
        }
    }

    /// Serves until every handle is gone; then everything is in the database.
    pub fn run(mut self, queue: &Receiver<Job>) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let wait = if self.has_work() { RETRY_AFTER } else { SYNC_AFTER };
            match queue.recv_timeout(wait) {
                Ok(job) => self.take(job, &mut batch),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            while batch.len() < BATCH {
                let Ok(job) = queue.try_recv() else { break };
                self.take(job, &mut batch);
            }
            self.serve(&mut batch);
        }
        let _ = self.write(false);
        if let Err(reason) = self.checkpoint() {
            tracing::error!(path = %self.file.path().display(), reason, "the store file was not brought up to date; its log has the rest");
        }
    }

    fn has_work(&self) -> bool {
        !self.unwritten.is_empty() || !self.reseal.is_empty() || self.sync_failed
    }

    fn take(&mut self, job: Job, batch: &mut Vec<(StoreOp, Done)>) {
        match job {
            Job::Run(op, done) => batch.push((*op, done)),
            Job::Sealer(sealer) => {
                self.sealer = sealer;
                self.reseal = self.store.names().into_iter().collect();
            }
            Job::Durability(classes) => self.classes = classes,
            Job::Counts(done) => done(self.store.counts()),
        }
    }

    /// Executes a batch, writes what it changed, replies.
    fn serve(&mut self, batch: &mut Vec<(StoreOp, Done)>) {
        // After an error nothing is executed before the disk takes what it refused: memory does not run away from it.
        if self.failed.is_some()
            && let Err(error) = self.recover()
        {
            batch.drain(..).for_each(|(_, done)| done(Err(error.clone())));
            return;
        }
        let now_ms = (self.file.clock)();
        self.store.sweep(now_ms);
        self.unwritten.extend(self.store.take_dirty());
        let again = self.reseal.len().min(RESEAL);
        self.unwritten.extend(self.reseal.drain(..again));

        let replies: Vec<_> = batch.drain(..).map(|(op, done)| (self.store.execute(now_ms, op), done)).collect();
        let changed = self.store.take_dirty();
        let wait = changed.iter().any(|name| self.must_wait(name));
        self.unwritten.extend(changed);
        match self.write(wait) {
            Ok(()) => replies.into_iter().for_each(|(reply, done)| done(reply)),
            Err(error) => replies.into_iter().for_each(|(_, done)| done(Err(error.clone()))),
        }
        if self.failed.is_none() && self.file.log.len() >= self.checkpoint_at {
            let done = self.checkpoint();
            self.note(done.err());
        }
    }

    /// Tenant numbers are never given twice, whatever happens to the power.
    fn must_wait(&self, name: &EntryName) -> bool {
        match name {
            EntryName::Domain(_) | EntryName::Generation => true,
            name => name.tenant().and_then(|tenant| self.classes.get(&tenant)) == Some(&Durability::Fsync),
        }
    }

    /// Appends what changed to the log; on the disk when it returns, where `wait`.
    fn write(&mut self, wait: bool) -> Result<(), StoreError> {
        if !self.unwritten.is_empty() {
            let entries = self.sealed()?;
            let number = self.file.batch + 1;
            if let Err(error) = self.file.log.append(number, &entries) {
                return Err(self.fail("the log cannot be written", &error));
            }
            self.file.batch = number;
            self.unwritten.clear();
            self.since_checkpoint.extend(entries);
        }
        if wait || (self.file.log.is_unsynced() && self.last_sync.elapsed() >= SYNC_AFTER) {
            if let Err(error) = self.file.log.sync() {
                self.sync_failed = true;
                return Err(self.fail("the log does not reach the disk", &error));
            }
            self.last_sync = Instant::now();
        }
        Ok(())
    }

    fn sealed(&self) -> Result<Entries, StoreError> {
        let seal = |name: &EntryName| -> Result<(Vec<u8>, Option<Bytes>), StoreError> {
            let bytes = name.to_bytes();
            let value = self.store.entry_bytes(name)?.map(|plain| {
                Bytes::from(self.sealer.seal(name.tenant().unwrap_or(OF_STORE), kind(name), &bytes, &plain))
            });
            Ok((bytes, value))
        };
        self.unwritten.iter().map(seal).collect()
    }

    fn fail(&mut self, what: &str, error: &io::Error) -> StoreError {
        self.failed = Some(Instant::now());
        self.note(Some(format!("{what}: {error}")));
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                StoreError::Full { what: "disk" }
            }
            _ => StoreError::Unavailable,
        }
    }

    /// Tries again what failed, not too often.
    fn recover(&mut self) -> Result<(), StoreError> {
        let unavailable = Err(StoreError::Unavailable);
        if self.failed.is_some_and(|at| at.elapsed() < RETRY_AFTER) {
            return unavailable;
        }
        self.failed = None;
        if self.file.log.len() >= LOG_LIMIT || self.sync_failed {
            if let Err(reason) = self.checkpoint() {
                self.failed = Some(Instant::now());
                self.note(Some(reason));
                return unavailable;
            }
            self.sync_failed = false;
        }
        self.write(true)?;
        self.note(None);
        Ok(())
    }

    /// Works the log into the database.
    fn checkpoint(&mut self) -> Result<(), String> {
        if self.since_checkpoint.is_empty() {
            return Ok(());
        }
        match self.file.checkpoint(&self.since_checkpoint) {
            Ok(()) => {
                self.since_checkpoint.clear();
                self.checkpoint_at = self.file.log_bytes;
                Ok(())
            }
            Err(reason) => {
                // The log goes on alone for a while; at its limit nothing is taken any more.
                self.checkpoint_at = self.file.log.len() + self.file.log_bytes;
                if self.file.log.len() >= LOG_LIMIT {
                    self.failed = Some(Instant::now());
                }
                Err(reason)
            }
        }
    }

    /// Says a problem once when it comes, and once when it is over.
    fn note(&self, problem: Option<String>) {
        let mut now = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.file.path().display();
        match (&*now, &problem) {
            (None, Some(reason)) => tracing::error!(%path, reason, "the store file cannot be written"),
            (Some(_), None) => tracing::info!(%path, "the store file is written again"),
            _ => {}
        }
        *now = problem;
    }
}

impl StoreFile {
    /// The tenant numbers in the file, by the keyed hash of the domain: what a tenant's own keys are found by before its records are
    /// read. They are sealed with the keys that belong to no tenant.
    ///
    /// # Errors
    /// `Unreadable` for one that these keys do not open.
    pub fn tenants(&self, sealer: &Sealer) -> Result<BTreeMap<[u8; 16], Tenant>, OpenError> {
        let mut store = MemoryStore::new(Capacity::default());
        let mut domains = Vec::new();
        let read = self.entries(|bytes, sealed| {
            let mut restore = || -> Result<(), StoreError> {
                let name = EntryName::from_bytes(bytes)?;
                if let EntryName::Domain(domain) = name {
                    store.restore(&name, &sealer.open(OF_STORE, kind(&name), bytes, sealed)?)?;
                    domains.push(domain);
                }
                Ok(())
            };
            restore().map_err(|error| (record(bytes), error))
        })?;
        read.map_err(|(record, error)| OpenError::Unreadable {
            path: self.path().to_owned(),
            record,
            reason: error.to_string(),
        })?;
        // Each of them is known, so it is told and not given.
        let number = |domain: [u8; 16]| match store.execute(0, StoreOp::TenantNumber { domain }) {
            Ok(StoreReply::Tenant(tenant)) => Some((domain, tenant)),
            _ => None,
        };
        Ok(domains.into_iter().filter_map(number).collect())
    }
}

/// The kind of an entry, as it stands in the associated data of its seal. Stable for ever.
fn kind(name: &EntryName) -> &'static str {
    match name {
        EntryName::Aor(_) => "bindings",
        EntryName::Removed(_) => "removed bindings",
        EntryName::Guard(_) => "guard",
        EntryName::Dialog(_) => "dialog",
        EntryName::Kept(_) => "kept dialog",
        EntryName::KeptExchange(..) => "kept exchange",
        EntryName::Session(_) => "session",
        EntryName::Exchange(_) => "exchange",
        EntryName::Once(_) => "once",
        EntryName::Nonce(_) => "nonce",
        EntryName::Edge(_) => "edge",
        EntryName::Domain(_) => "domain",
        EntryName::Generation => "generation",
    }
}

/// A record's name for a message: no personal data is in it.
fn record(bytes: &[u8]) -> String {
    bytes.iter().take(40).map(|byte| format!("{byte:02x}")).collect()
}
