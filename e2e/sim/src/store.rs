//! The memory store behind a link that is slow, fails, and forgets answers; and the mutants: planted faults that the model must find.

use std::collections::BTreeSet;

use session_store::key::DialogKey;
use session_store::memory::{Capacity, Counts, MemoryStore};
use session_store::op::{OpenOutcome, StoreError, StoreOp, StoreReply};

use crate::model::Model;

/// A planted fault. Each lies between core and store, so the code under test is the real one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// The reply comes before the write, which a kill then loses.
    AnswerBeforeWrite,
    /// The store takes writes from somebody who is not the owner.
    UnfencedWrite,
    /// A repetition is opened again.
    DoubleExecution,
    /// CSeq out starts again at 1 with every life of a core.
    CseqReset,
    /// A dialog that ended is forgotten at once.
    MissingTombstone,
}

pub const MUTANTS: [(&str, Mutant); 5] = [
    ("answer-before-write", Mutant::AnswerBeforeWrite),
    ("unfenced-write", Mutant::UnfencedWrite),
    ("double-execution", Mutant::DoubleExecution),
    ("cseq-reset", Mutant::CseqReset),
    ("missing-tombstone", Mutant::MissingTombstone),
];

pub struct Store {
    memory: MemoryStore,
    pub mutant: Option<Mutant>,
    forgotten: BTreeSet<DialogKey>,
    resets: std::collections::BTreeMap<DialogKey, u32>,
    /// Lives of cores so far: the CSeq mutant counts from them.
    pub lives: u32,
    pub operations: u64,
}

impl Store {
    pub fn new(mutant: Option<Mutant>) -> Store {
        Store {
            memory: MemoryStore::new(Capacity::default()),
            mutant,
            forgotten: BTreeSet::new(),
            resets: std::collections::BTreeMap::new(),
            lives: 0,
            operations: 0,
        }
    }

    pub fn execute(&mut self, now_ms: u64, operation: StoreOp, model: &mut Model) -> Result<StoreReply, StoreError> {
        self.operations += 1;
        if let Some(dialog) = dialog_of(&operation)
            && self.forgotten.contains(&dialog)
        {
            return Ok(StoreReply::Unknown);
        }
        let asked = operation.clone();
        let mut reply = self.memory.execute(now_ms, operation)?;
        match (self.mutant, &asked, &mut reply) {
            (
                Some(Mutant::DoubleExecution),
                StoreOp::OpenExchange { .. } | StoreOp::Begin { .. },
                StoreReply::Exchange(outcome) | StoreReply::Begun { exchange: Some(outcome), .. },
            ) if matches!(outcome, OpenOutcome::RepeatInFlight { .. } | OpenOutcome::RepeatAnswered { .. }) => {
                *outcome = OpenOutcome::Opened { session: None };
            }
            (Some(Mutant::UnfencedWrite), StoreOp::AnswerCall { .. }, StoreReply::Fenced) => {
                reply = StoreReply::Answered { version: 2 };
            }
            (Some(Mutant::CseqReset), StoreOp::NextCseq { dialog, .. }, StoreReply::Cseq { cseq, .. }) => {
                // As if every life of a core counted for itself.
                let life = self.lives;
                let since = self.resets.entry(*dialog).or_insert(life);
                if *since != life {
                    *cseq = 1;
                }
            }
            (
                Some(Mutant::MissingTombstone),
                StoreOp::Terminate { dialog, .. } | StoreOp::Bury { dialog },
                StoreReply::Dialog { .. },
            ) => {
                self.forgotten.insert(*dialog);
            }
            _ => {}
        }
        model.stored(&asked, &reply);
        Ok(reply)
    }

    /// The reply that the mutant invents before the write, where it can.
    pub fn invented(&self, now_ms: u64, operation: &StoreOp) -> Option<StoreReply> {
        if self.mutant != Some(Mutant::AnswerBeforeWrite) {
            return None;
        }
        match operation {
            StoreOp::AnswerCall { .. } => Some(StoreReply::Answered { version: 1 }),
            StoreOp::Register { change: session_store::op::BindingChange::Update(bindings), .. } => {
                let live = bindings.iter().filter(|b| b.expires_at > now_ms).cloned().collect();
                Some(StoreReply::Bindings(live))
            }
            _ => None,
        }
    }

    pub fn counts(&mut self, now_ms: u64) -> Counts {
        // The sweep is bounded per call.
        for _ in 0..10_000 {
            self.memory.sweep(now_ms);
        }
        self.memory.counts()
    }
}

fn dialog_of(operation: &StoreOp) -> Option<DialogKey> {
    match operation {
        StoreOp::ReadDialog { dialog }
        | StoreOp::Confirm { dialog }
        | StoreOp::Begin { dialog, .. }
        | StoreOp::Commit { dialog, .. }
        | StoreOp::Terminate { dialog, .. }
        | StoreOp::NextCseq { dialog, .. }
        | StoreOp::UpdateDialog { dialog, .. }
        | StoreOp::Bury { dialog } => Some(*dialog),
        _ => None,
    }
}
