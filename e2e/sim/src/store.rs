//! The memory store as a primary with a replica, and the mutants: planted faults that the model must find.
//!
//! A write is acknowledged when the replica has it (class `Replica`). When the primary dies, what it had not acknowledged is lost, or is
//! not: both happen.

use std::collections::BTreeSet;

use session_store::key::DialogKey;
use session_store::memory::{Capacity, Counts, MemoryStore};
use session_store::op::{Adopted, BindingChange, OpenOutcome, StoreError, StoreOp, StoreReply};
use session_store::record::PeerFlow;

use crate::model::Model;
use crate::rng::Rng;

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
    /// The store takes a close of an exchange from somebody who does not own it any more.
    UnfencedClose,
    /// An edge takes over what a living one owns.
    EagerAdoption,
    /// An adopted exchange is dropped: its caller hears nothing.
    SilentAdoption,
    /// The journal entry of an exchange is gone when its owner dies.
    NoJournal,
    /// An adopted INVITE is dropped: its caller hears nothing.
    SilentCalls,
    /// An adopted dialog is dropped: nobody has its timers.
    LostDialogs,
    /// An epoch is given a second time.
    EpochAgain,
    /// A binding outlives its time.
    EndlessBinding,
    /// The end of a dialog is answered and not written.
    DeafToBye,
    /// A copy of an INVITE counts as a new one.
    ForgottenGuard,
}

pub const MUTANTS: [(&str, Mutant); 15] = [
    ("answer-before-write", Mutant::AnswerBeforeWrite),
    ("unfenced-write", Mutant::UnfencedWrite),
    ("double-execution", Mutant::DoubleExecution),
    ("cseq-reset", Mutant::CseqReset),
    ("missing-tombstone", Mutant::MissingTombstone),
    ("unfenced-close", Mutant::UnfencedClose),
    ("eager-adoption", Mutant::EagerAdoption),
    ("silent-adoption", Mutant::SilentAdoption),
    ("no-journal", Mutant::NoJournal),
    ("silent-calls", Mutant::SilentCalls),
    ("lost-dialogs", Mutant::LostDialogs),
    ("epoch-again", Mutant::EpochAgain),
    ("endless-binding", Mutant::EndlessBinding),
    ("deaf-to-bye", Mutant::DeafToBye),
    ("forgotten-guard", Mutant::ForgottenGuard),
];

pub struct Store {
    memory: MemoryStore,
    /// Every operation since the content began, with its time and whether its reply was given: a primary that takes over has these.
    log: Vec<(u64, StoreOp, bool)>,
    pub mutant: Option<Mutant>,
    /// False when nothing fails any more: the log is not needed then.
    pub may_fail_over: bool,
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
            log: Vec::new(),
            mutant,
            may_fail_over: true,
            forgotten: BTreeSet::new(),
            resets: std::collections::BTreeMap::new(),
            lives: 0,
            operations: 0,
        }
    }

    pub fn execute(
        &mut self,
        now_ms: u64,
        operation: StoreOp,
        model: &mut Model,
        rng: &mut Rng,
    ) -> Result<StoreReply, StoreError> {
        self.operations += 1;
        if let Some(dialog) = dialog_of(&operation)
            && self.forgotten.contains(&dialog)
        {
            return Ok(StoreReply::Unknown);
        }
        let asked = operation.clone();
        if self.may_fail_over {
            self.log.push((now_ms, operation.clone(), false));
        }
        let mut reply = match self.instead(now_ms, operation.clone())? {
            Some(reply) => reply,
            None => self.memory.execute(now_ms, operation)?,
        };
        match (self.mutant, &asked, &mut reply) {
            (
                Some(Mutant::DoubleExecution),
                StoreOp::OpenExchange { .. } | StoreOp::Begin { .. },
                StoreReply::Exchange(outcome) | StoreReply::Begun { exchange: Some(outcome), .. },
            ) if matches!(outcome, OpenOutcome::RepeatInFlight { .. } | OpenOutcome::RepeatAnswered { .. }) => {
                *outcome = OpenOutcome::Opened { session: None };
            }
            (
                Some(Mutant::UnfencedWrite | Mutant::ForgottenGuard),
                StoreOp::AnswerCall { .. },
                StoreReply::Fenced | StoreReply::Unknown,
            ) => {
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
            (Some(Mutant::UnfencedClose), StoreOp::CloseExchange(_), StoreReply::Fenced) => {
                reply = StoreReply::Closed { flow: PeerFlow::default() };
            }
            (Some(Mutant::EagerAdoption), StoreOp::Heartbeat { owner, .. }, StoreReply::Pods { pods, .. })
                if rng.chance(20) =>
            {
                for pod in pods.iter_mut().filter(|pod| pod.owner != *owner) {
                    pod.lease_left_ms = 0;
                }
            }
            (Some(Mutant::ForgottenGuard), StoreOp::OpenCall { .. }, StoreReply::CallKnown { .. }) => {
                reply = StoreReply::CallOpened;
            }
            (Some(Mutant::EpochAgain), StoreOp::TakeEpoch { .. }, StoreReply::Epoch { owner, .. }) => {
                owner.epoch = owner.epoch.saturating_sub(1).max(1);
            }
            (Some(Mutant::SilentCalls), StoreOp::Adopt { .. }, StoreReply::Adopted { items, .. }) => {
                items.retain(|item| !matches!(item, Adopted::Call { .. }));
            }
            (Some(Mutant::LostDialogs), StoreOp::Adopt { .. }, StoreReply::Adopted { items, .. }) => {
                items.retain(|item| !matches!(item, Adopted::Dialog { .. }));
            }
            (Some(Mutant::SilentAdoption), StoreOp::Adopt { .. }, StoreReply::Adopted { items, .. }) => {
                items.retain(|item| !matches!(item, Adopted::Exchange { .. }));
            }
            (Some(Mutant::NoJournal), StoreOp::Adopt { .. }, StoreReply::Adopted { items, .. }) => {
                let gone: Vec<_> = items
                    .iter()
                    .filter_map(|item| match item {
                        Adopted::Exchange { key, .. } => Some(*key),
                        Adopted::Call { .. } | Adopted::Dialog { .. } => None,
                    })
                    .collect();
                items.retain(|item| !matches!(item, Adopted::Exchange { .. }));
                for key in gone {
                    drop(
                        self.memory
                            .execute(now_ms, StoreOp::DropSession { session: key.session, if_ends_within_ms: None }),
                    );
                }
            }
            _ => {}
        }
        model.stored(now_ms, &asked, &reply);
        Ok(reply)
    }

    /// What a mutant does in the place of an operation.
    fn instead(&mut self, now_ms: u64, operation: StoreOp) -> Result<Option<StoreReply>, StoreError> {
        match (self.mutant, operation) {
            (Some(Mutant::DeafToBye), StoreOp::Terminate { dialog, .. }) => {
                self.memory.execute(now_ms, StoreOp::ReadDialog { dialog }).map(Some)
            }
            (
                Some(Mutant::EndlessBinding),
                StoreOp::Register { aor, change: BindingChange::Update(mut bindings), nonce },
            ) => {
                for binding in bindings.iter_mut().filter(|binding| binding.expires_at > now_ms) {
                    binding.expires_at += 86_400_000;
                }
                let change = BindingChange::Update(bindings);
                self.memory.execute(now_ms, StoreOp::Register { aor, change, nonce }).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The number of the operation that was executed last: [`Store::acknowledged`] wants it.
    pub fn last(&self) -> usize {
        self.log.len()
    }

    /// The reply to that operation was given: the replica has it, and all before it.
    pub fn acknowledged(&mut self, number: usize) {
        if let Some(entry) = number.checked_sub(1).and_then(|at| self.log.get_mut(at)) {
            entry.2 = true;
        }
    }

    /// The primary dies, the replica takes over: what was not acknowledged is lost from the first such write on that `keeps` says no to.
    pub fn fail_over(&mut self, mut keeps: impl FnMut() -> bool) -> usize {
        let last = self.log.iter().rposition(|(_, _, acknowledged)| *acknowledged).map_or(0, |at| at + 1);
        let mut length = last;
        while length < self.log.len() && keeps() {
            length += 1;
        }
        let lost = self.log.len() - length;
        self.log.truncate(length);
        self.memory = MemoryStore::new(Capacity::default());
        for (at, operation, _) in self.log.clone() {
            // What it answered was answered then.
            drop(self.memory.execute(at, operation));
        }
        lost
    }

    /// The store comes back empty.
    pub fn wipe(&mut self) {
        self.log.clear();
        self.memory = MemoryStore::new(Capacity::default());
    }

    /// The reply that the mutant invents before the write, where it can.
    pub fn invented(&self, now_ms: u64, operation: &StoreOp) -> Option<StoreReply> {
        if self.mutant != Some(Mutant::AnswerBeforeWrite) {
            return None;
        }
        match operation {
            StoreOp::AnswerCall { .. } => Some(StoreReply::Answered { version: 1 }),
            StoreOp::Register { change: BindingChange::Update(bindings), .. } => {
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
