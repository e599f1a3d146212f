//! The handle: operations go in from any thread, replies come out on the store's own.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use session_store::Durability;
use session_store::key::Tenant;
use session_store::memory::{Capacity, Counts};
use session_store::op::{StoreError, StoreOp, StoreReply};
use session_store::seal::Sealer;

use crate::disk::StoreFile;
use crate::error::OpenError;
use crate::worker::Worker;

/// Operations that may wait; one more is answered `Unavailable`.
pub const QUEUE: usize = 4096;

/// Takes the reply of one operation, on the thread of the store: it must not block and must not panic.
pub type Done = Box<dyn FnOnce(Result<StoreReply, StoreError>) + Send>;

/// What the thread of the store is asked for.
pub(crate) enum Job {
    Run(Box<StoreOp>, Done),
    Sealer(Arc<Sealer>),
    Durability(BTreeMap<Tenant, Durability>),
    Counts(Box<dyn FnOnce(Counts) + Send>),
}

/// Why nothing can be written at the moment; empty while all is well.
pub(crate) type Problem = Arc<Mutex<Option<String>>>;

/// A store in a file. Cheap to clone; the last one that is dropped waits until everything is in the database.
#[derive(Clone, Debug)]
pub struct FileStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
    problem: Problem,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.jobs = None;
        // A callback may hold the last handle: the thread of the store does not wait for itself.
        if let Some(thread) = self.thread.take().filter(|own| own.thread().id() != thread::current().id()) {
            let _ = thread.join();
        }
    }
}

impl FileStore {
    /// Opens the file and loads it: [`StoreFile::open`], then [`FileStore::load`].
    ///
    /// # Errors
    /// [`OpenError`]; nothing was loaded.
    pub fn open(path: &Path, capacity: Capacity, sealer: Arc<Sealer>) -> Result<FileStore, OpenError> {
        FileStore::load(StoreFile::open(path)?, capacity, sealer)
    }

    /// Loads everything that has not ended and starts the thread of the store.
    ///
    /// # Errors
    /// `Unreadable` for the first record that cannot be read (no key for it, a newer version, damaged, over the capacity): nothing is
    /// loaded then and the file stays as it was. `Io` where there is no thread to be had.
    pub fn load(file: StoreFile, capacity: Capacity, sealer: Arc<Sealer>) -> Result<FileStore, OpenError> {
        let path = file.path().to_owned();
        let problem = Problem::default();
        let worker = Worker::load(file, capacity, sealer, problem.clone())?;
        let (jobs, queue): (SyncSender<Job>, Receiver<Job>) = sync_channel(QUEUE);
        let thread = thread::Builder::new()
            .name("store-file".into())
            .spawn(move || worker.run(&queue))
            .map_err(OpenError::io(path, "served: there is no thread for it"))?;
        Ok(FileStore { inner: Arc::new(Inner { jobs: Some(jobs), thread: Some(thread), problem }) })
    }

    /// Executes an operation; `done` gets the reply once what it acknowledges is kept as its tenant's class demands. Operations are
    /// executed in the order in which one thread submits them.
    ///
    /// The errors that `done` may get: those of [`MemoryStore::execute`](session_store::memory::MemoryStore::execute); `Unavailable`
    /// (more than [`QUEUE`] wait: not executed; or the disk failed: whether it was executed is not known); `Full` where the disk is full.
    pub fn submit(&self, op: StoreOp, done: Done) {
        if let Err(Job::Run(_, done)) = self.send(Job::Run(Box::new(op), done)) {
            done(Err(StoreError::Unavailable));
        }
    }

    /// Executes an operation and waits for its reply.
    ///
    /// # Errors
    /// As [`FileStore::submit`].
    pub fn execute(&self, op: StoreOp) -> Result<StoreReply, StoreError> {
        let (sender, reply) = sync_channel(1);
        self.submit(op, Box::new(move |result| drop(sender.send(result))));
        reply.recv().unwrap_or(Err(StoreError::Unavailable))
    }

    /// The keys from now on. What older ones sealed is sealed again, a little with every batch.
    pub fn set_sealer(&self, sealer: Arc<Sealer>) {
        self.send_waiting(Job::Sealer(sealer));
    }

    /// The classes of the tenants; those that are not named have `Memory`.
    ///
    /// # Errors
    /// The tenants of class `Replica`, which a file cannot give; nothing was changed.
    pub fn set_durability(&self, classes: BTreeMap<Tenant, Durability>) -> Result<(), Vec<Tenant>> {
        let refused: Vec<Tenant> =
            classes.iter().filter(|(_, class)| **class == Durability::Replica).map(|(tenant, _)| *tenant).collect();
        if !refused.is_empty() {
            return Err(refused);
        }
        self.send_waiting(Job::Durability(classes));
        Ok(())
    }

    /// How many entries there are, told to `done` on the thread of the store. Not told where the queue is full.
    pub fn counts(&self, done: Box<dyn FnOnce(Counts) + Send>) {
        let _ = self.send(Job::Counts(done));
    }

    /// Why nothing can be written at the moment: the disk is full, or fails. `None` while all is well.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.inner.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn send(&self, job: Job) -> Result<(), Job> {
        match &self.inner.jobs {
            Some(jobs) => jobs.try_send(job).map_err(|error| match error {
                TrySendError::Full(job) | TrySendError::Disconnected(job) => job,
            }),
            None => Err(job),
        }
    }

    /// For what must not be lost and is rare.
    fn send_waiting(&self, job: Job) {
        if let Some(jobs) = &self.inner.jobs {
            let _ = jobs.send(job);
        }
    }
}
