//! What holds after any sequence of operations, in any order, at any time.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use session_store::key::ExchangeKey;
use session_store::memory::{Capacity, Counts, MemoryStore};
use session_store::op::{ANSWER_MS, Adopted, EPOCH_MS, OpenOutcome, StoreOp, StoreReply, claim_ms};
use session_store::record::Owner;
use store_contract::Subject;
use store_contract::memory::{Memory, NOW};
use store_contract::operations::steps;
use store_contract::samples::*;

/// An exchange that has an owner.
struct Known {
    owner: Owner,
    end: u64,
    is_held: bool,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn after_the_last_ttl_no_key_remains(steps in steps(100)) {
        let mut s = Memory::new();
        for step in steps {
            s.pass(step.pass_ms);
            let operation = step.operation(s.now_ms);
            run(&mut s, operation);
            let c = s.store.counts();
            let names = c.aors + c.removed + c.guards + c.dialogs + c.sessions + c.exchanges + c.once + c.nonces + c.edges;
            prop_assert!(c.ends >= names, "every entry waits for its end: {c:?}");
            prop_assert!(c.owned <= c.guards + c.dialogs + c.exchanges, "only what is there is owned: {c:?}");
        }
        s.pass(2 * EPOCH_MS);
        let left = s.swept();
        prop_assert_eq!(left, Counts { domains: left.domains, ..Counts::default() });
    }

    #[test]
    fn cseq_only_rises_and_a_number_runs_once(steps in steps(120)) {
        let mut s = Memory::new();
        with_dialog(&mut s, 0);
        let (mut highest, mut out) = (1, 0);
        // When the highest one was claimed, while nobody has answered it.
        let mut claimed = None;
        for step in steps {
            s.pass(step.pass_ms);
            let asked = step.operation(s.now_ms);
            let reply = run(&mut s, asked.clone());
            if matches!((&asked, &reply), (StoreOp::Commit { cseq, .. }, StoreReply::Version(_)) if *cseq == highest) {
                claimed = None;
            }
            match (asked, reply) {
                // A dialog that is made anew under the same id (the generator does that) starts again.
                (StoreOp::AnswerCall { dialog: d, record, .. }, StoreReply::Answered { version: 1 }) if d == dialog(0) => {
                    (highest, out) = (record.cseq_in.unwrap_or(0), record.cseq_out);
                }
                (StoreOp::EarlyCall { dialog: d, record, .. } | StoreOp::RestoreDialog { dialog: d, record, .. }, StoreReply::Version(1))
                    if d == dialog(0) =>
                {
                    (highest, out) = (record.cseq_in.unwrap_or(0), record.cseq_out);
                }
                // A writer may raise them.
                (StoreOp::AnswerCall { dialog: d, record, .. }, StoreReply::Answered { .. })
                | (StoreOp::EarlyCall { dialog: d, record, .. }, StoreReply::Version(_))
                | (StoreOp::UpdateDialog { dialog: d, record, .. }, StoreReply::Version(_))
                | (StoreOp::Commit { dialog: d, record: Some((_, record, _)), .. }, StoreReply::Version(_))
                    if d == dialog(0) =>
                {
                    (highest, out) = (highest.max(record.cseq_in.unwrap_or(0)), out.max(record.cseq_out));
                }
                (StoreOp::Begin { dialog: d, cseq, method, .. }, StoreReply::Begun { .. }) if d == dialog(0) => {
                    let lapsed = |at: u64| claim_ms(&method).is_some_and(|ms| at + ms <= s.now_ms);
                    let again = cseq == highest && (method == "BYE" || claimed.is_some_and(lapsed));
                    prop_assert!(cseq > highest || again, "{cseq} after {highest}");
                    highest = cseq;
                    claimed = Some(s.now_ms);
                }
                (StoreOp::Terminate { dialog: d, cseq, .. }, StoreReply::Dialog { .. }) if d == dialog(0) => {
                    prop_assert!(cseq >= highest);
                    highest = cseq;
                }
                (StoreOp::NextCseq { dialog: d, .. }, StoreReply::Cseq { cseq, .. }) if d == dialog(0) => {
                    prop_assert!(cseq > out, "{cseq} after {out}");
                    out = cseq;
                }
                _ => {}
            }
        }
    }

    /// Also across adoptions: an owner that was replaced answers nothing. What is held is answered to everybody but its owner.
    #[test]
    fn an_exchange_has_one_owner_who_alone_answers_it(steps in steps(120)) {
        let mut s = Memory::new();
        let mut open_by: BTreeMap<ExchangeKey, Known> = BTreeMap::new();
        for step in steps {
            s.pass(step.pass_ms);
            let now = s.now_ms;
            let asked = step.operation(now);
            let reply = run(&mut s, asked.clone());
            open_by.retain(|_, known| known.end > now);
            let outcome = match &reply {
                StoreReply::Exchange(outcome) | StoreReply::Begun { exchange: Some(outcome), .. } => Some(outcome),
                _ => None,
            };
            match (&asked, &reply) {
                (StoreOp::Adopt { by, .. }, StoreReply::Adopted { items, .. }) => {
                    for item in items {
                        if let Adopted::Exchange { key, .. } = item {
                            let known = open_by.get_mut(key);
                            prop_assert!(known.is_some(), "what was answered is nobody's");
                            known.unwrap().owner = *by;
                        }
                    }
                }
                (StoreOp::OpenExchange { open, .. } | StoreOp::Begin { exchange: Some(open), .. }, _) => match outcome {
                    Some(OpenOutcome::Opened { .. }) => {
                        let known = Known { owner: open.entry.owner, end: now + open.ttl_ms, is_held: false };
                        let before = open_by.insert(open.key, known);
                        let may = |before: Known| before.is_held || open.instead_of == Some(before.owner);
                        prop_assert!(before.is_none_or(may), "opened twice");
                    }
                    Some(OpenOutcome::RepeatInFlight { owner }) => {
                        let known = open_by.get(&open.key);
                        prop_assert!(known.is_some_and(|known| known.owner == *owner && !known.is_held));
                    }
                    _ => {}
                },
                (StoreOp::DropSession { session, .. }, StoreReply::Unknown | StoreReply::Done) => {
                    open_by.retain(|key, _| key.session != *session);
                }
                (StoreOp::Erase { .. }, _) => {
                    // What went is found out by asking: nobody can write to it.
                    let all: Vec<_> = open_by.iter().map(|(key, known)| (*key, known.owner)).collect();
                    for (key, owner) in all {
                        let note = StoreOp::NoteExchange { key, owner, note: Default::default() };
                        if run(&mut s, note) == StoreReply::Unknown {
                            open_by.remove(&key);
                        }
                    }
                }
                _ => {}
            }
            let close = match asked {
                StoreOp::CloseExchange(close) => Some((close, matches!(reply, StoreReply::Closed { .. }))),
                // Closed on the way, whatever became of the number, unless a fence held it back.
                StoreOp::NextCseq { close: Some(close), .. } => {
                    let was_tried = !matches!(reply, StoreReply::Fenced | StoreReply::Conflict { .. });
                    let is_owner = open_by.get(&close.key).is_some_and(|known| known.owner == close.owner);
                    Some((*close, was_tried && is_owner))
                }
                _ => None,
            };
            if let Some((close, true)) = close {
                let known = open_by.get_mut(&close.key);
                prop_assert!(known.as_ref().is_some_and(|known| known.owner == close.owner), "closed by another");
                if let (true, Some(known)) = (close.is_held, known) {
                    known.is_held = true;
                    known.end = known.end.max(now + ANSWER_MS);
                } else {
                    open_by.remove(&close.key);
                }
            }
        }
    }

    #[test]
    fn no_kind_grows_beyond_its_capacity(steps in steps(100)) {
        let capacity =
            Capacity { bindings: 2, capabilities: 2, calls: 2, exchanges: 2, sessions: 2, nonces: 2, edges: 2, kept: 2 };
        let mut s = MemoryStore::new(capacity);
        let mut seen = BTreeSet::new();
        for step in steps {
            let _ = s.execute(NOW, step.operation(NOW));
            let c = s.counts();
            seen.extend([c.aors, c.removed, c.guards, c.dialogs, c.sessions, c.exchanges, c.once, c.nonces, c.edges, c.capabilities]);
        }
        prop_assert!(seen.iter().all(|n| *n <= 2));
    }
}
