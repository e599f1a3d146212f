//! The memory store as a subject, with a clock that only moves when it is told to. It is the reference of the others.

use session_store::memory::{Capacity, Counts, MemoryStore};
use session_store::op::{StoreError, StoreOp, StoreReply};

use crate::Subject;

/// A memory store and its time.
#[derive(Debug)]
pub struct Memory {
    pub store: MemoryStore,
    pub now_ms: u64,
}

/// Where the clock begins.
pub const NOW: u64 = 1_800_000_000_000;

impl Memory {
    /// Empty, at [`NOW`].
    #[must_use]
    pub fn new() -> Memory {
        Memory { store: MemoryStore::new(Capacity::default()), now_ms: NOW }
    }

    /// What is there once everything that ended was removed.
    pub fn swept(&mut self) -> Counts {
        loop {
            let before = self.store.counts();
            self.store.sweep(self.now_ms);
            if self.store.counts() == before {
                return before;
            }
        }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Memory::new()
    }
}

impl Subject for Memory {
    fn run(&mut self, operation: StoreOp) -> Result<StoreReply, StoreError> {
        self.store.execute(self.now_ms, operation)
    }

    fn now(&self) -> u64 {
        self.now_ms
    }

    fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
    }

    fn left(&mut self) -> usize {
        let c = self.swept();
        let names = c.aors + c.removed + c.guards + c.dialogs + c.sessions + c.exchanges + c.once + c.nonces + c.edges;
        names + c.owned + c.capabilities + c.conversations + c.ends
    }
}
