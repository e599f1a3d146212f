//! The same random operations on a store and on the memory store: every reply is the same.
//!
//! What cannot be the same, and why: the order of bindings, adopted items and exported records (a hash has none; they are compared
//! sorted), and moments of the store's clock and what is left of a lease (the reference reads the subject's clock a moment before or
//! after it; two seconds are allowed). Slices of an adoption and limits of a search choose among equals: both are generated wider than
//! what is there, and cases of their own look at the counts.

use proptest::test_runner::{Config, TestCaseError, TestRunner};
use session_store::memory::{Capacity, MemoryStore};
use session_store::op::StoreReply;
use session_store::record::PodState;

use crate::Subject;
use crate::operations::{STEP_MS, Step, steps};
use crate::samples::sorted;

/// Ends are generated so far from everything that happens ([`crate::operations`]); a subject whose clock goes by itself may use up so much
/// of that. What comes later on a machine that is slower is not compared.
const MOST_DRIFT_MS: u64 = STEP_MS / 2 - 4_000;

/// Times that are derived from a clock may be so far apart, and by what the operation took.
pub const TOLERANCE_MS: u64 = 2_000;

/// Runs `cases` sequences of up to `most` random operations on a new subject each and on the memory store. At the end all time passes,
/// and no name may be left.
///
/// # Panics
/// Where a reply differs, with the shortest sequence that was found.
pub fn differential<S: Subject>(cases: u32, most: usize, make: impl Fn() -> S) {
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 512, ..Config::default() };
    let outcome = TestRunner::new(config).run(&steps(most), |steps| compare(&mut make(), &steps));
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

/// Runs the steps on the subject and on a memory store by the subject's clock.
///
/// # Errors
/// The first reply that differs, or names that are left.
pub fn compare(subject: &mut dyn Subject, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut reference = MemoryStore::new(Capacity::default());
    let (begin, mut passed) = (subject.now(), 0);
    for (i, step) in steps.iter().enumerate() {
        if step.pass_ms > 0 {
            subject.pass(step.pass_ms);
            passed += step.pass_ms;
        }
        let now = subject.now();
        let operation = step.operation(now);
        let theirs = subject.run(operation.clone()).map(sorted);
        let after = subject.now();
        if after.saturating_sub(begin + passed) > MOST_DRIFT_MS {
            break;
        }
        let tolerance = TOLERANCE_MS + after.saturating_sub(now);
        let ours = reference.execute(now, operation.clone()).map(sorted);
        let is_same = match (&theirs, &ours) {
            (Ok(theirs), Ok(ours)) => same(theirs, ours, tolerance),
            (theirs, ours) => theirs == ours,
        };
        if !is_same {
            let text = format!("operation {i}, {operation:#?}\nsubject: {theirs:#?}\nreference: {ours:#?}");
            return Err(TestCaseError::fail(text));
        }
    }
    subject.pass(session_store::op::EPOCH_MS * 2);
    match subject.left() {
        0 => Ok(()),
        left => Err(TestCaseError::fail(format!("{left} names are left after everything ended"))),
    }
}

/// Whether two sorted replies say the same, as far as clocks go.
fn same(a: &StoreReply, b: &StoreReply, tolerance: u64) -> bool {
    match (a, b) {
        (
            StoreReply::Epoch { owner, generation, pods, now_ms },
            StoreReply::Epoch { owner: o, generation: g, pods: p, now_ms: n },
        ) => (owner, generation) == (o, g) && near(*now_ms, *n, tolerance) && same_pods(pods, p, tolerance),
        (StoreReply::Pods { generation, pods, now_ms }, StoreReply::Pods { generation: g, pods: p, now_ms: n }) => {
            generation == g && near(*now_ms, *n, tolerance) && same_pods(pods, p, tolerance)
        }
        _ => a == b,
    }
}

fn same_pods(a: &[PodState], b: &[PodState], tolerance: u64) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| {
            near(a.lease_left_ms, b.lease_left_ms, tolerance)
                && (a.lease_left_ms == 0) == (b.lease_left_ms == 0)
                && (a.owner, &a.address, a.draining) == (b.owner, &b.address, b.draining)
        })
}

fn near(a: u64, b: u64, tolerance: u64) -> bool {
    a.abs_diff(b) <= tolerance
}
