//! Which status is written next, and when: one entry per object, whatever happens to it. Pure: `now` is milliseconds of a clock that never goes
//! back.
//!
//! The first status of an object and every change of a condition are due at once; anything else [`EVERY_MS`] after the last write.

use crate::key::Key;
use crate::plan::status::COUNTERS_EVERY_MS;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use std::collections::{BTreeMap, BTreeSet};

/// Milliseconds between two writes of one object where no condition changed.
pub const EVERY_MS: u64 = 10_000;
/// Milliseconds after a write that failed.
pub const RETRY_MS: u64 = 5_000;
/// Objects: all that the index takes of the kinds with a status.
pub const MAX_OBJECTS: usize = 72 * 1024;

/// See the module.
#[derive(Debug, Default)]
pub struct Queue {
    /// When each object that waits is due.
    waiting: BTreeMap<Key, u64>,
    /// The same by time, but for those that are being written.
    order: BTreeSet<(u64, Key)>,
    writing: BTreeSet<Key>,
    written: BTreeMap<Key, Written>,
}

/// The last write of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Written {
    at: u64,
    /// When its counters were last among what was written.
    counters: u64,
}

/// There is no room for another object; it comes with the next look at everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

impl Queue {
    /// The status of an object is not what was written.
    ///
    /// # Errors
    /// Too many objects wait.
    pub fn push(
        &mut self,
        key: &Key,
        before: Option<&[Condition]>,
        after: &[Condition],
        now: u64,
    ) -> Result<(), NoRoom> {
        let last = self.written.get(key).map(|written| written.at);
        let due = match (before, last) {
            (Some(before), Some(last)) if same_conditions(before, after) => last + EVERY_MS,
            // Not written by this process yet, but by another one: it is in no hurry, and not for ever late.
            (Some(before), None) if same_conditions(before, after) => now + EVERY_MS,
            _ => now,
        };
        self.push_at(key, due)
    }

    fn push_at(&mut self, key: &Key, due: u64) -> Result<(), NoRoom> {
        match self.waiting.get(key) {
            Some(there) if *there <= due => return Ok(()),
            Some(there) => {
                self.order.remove(&(*there, key.clone()));
            }
            None if self.waiting.len() >= MAX_OBJECTS => return Err(NoRoom),
            None => {}
        }
        self.waiting.insert(key.clone(), due);
        if !self.writing.contains(key) {
            self.order.insert((due, key.clone()));
        }
        Ok(())
    }

    /// The next object that is due, to be written now.
    pub fn pop(&mut self, now: u64) -> Option<Key> {
        let (due, _) = self.order.first()?;
        if *due > now {
            return None;
        }
        let (_, key) = self.order.pop_first()?;
        self.waiting.remove(&key);
        self.writing.insert(key.clone());
        Some(key)
    }

    /// When the next object is due.
    #[must_use]
    pub fn next_due(&self) -> Option<u64> {
        self.order.first().map(|(due, _)| *due)
    }

    /// Whether the counters of an object may be shown anew.
    #[must_use]
    pub fn counters_due(&self, key: &Key, now: u64) -> bool {
        self.written.get(key).is_none_or(|written| now.saturating_sub(written.counters) >= COUNTERS_EVERY_MS)
    }

    /// An object that was popped is done. `counters`: they were due.
    pub fn wrote(&mut self, key: &Key, counters: bool, now: u64) {
        let before = self.written.get(key).copied();
        let counters = if counters { now } else { before.map_or(now, |before| before.counters) };
        self.written.insert(key.clone(), Written { at: now, counters });
        self.rest(key);
    }

    /// Nothing had to be written after all.
    pub fn skipped(&mut self, key: &Key) {
        self.rest(key);
    }

    /// It is tried again.
    pub fn failed(&mut self, key: &Key, now: u64) {
        self.postponed(key, now + RETRY_MS);
    }

    /// It could not be said what is to be written.
    pub fn postponed(&mut self, key: &Key, until: u64) {
        self.rest(key);
        // It was among those that wait until it was popped; where others took its room since, the next look brings it.
        let _ = self.push_at(key, until);
    }

    fn rest(&mut self, key: &Key) {
        self.writing.remove(key);
        if let Some(due) = self.waiting.get(key) {
            self.order.insert((*due, key.clone()));
        }
    }

    /// Only these objects are there.
    pub fn retain(&mut self, there: impl Fn(&Key) -> bool) {
        self.waiting.retain(|key, _| there(key));
        self.order.retain(|(_, key)| there(key));
        self.written.retain(|key, _| there(key));
    }

    /// Objects that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

fn same_conditions(before: &[Condition], after: &[Condition]) -> bool {
    let states = |all: &[Condition]| {
        all.iter().map(|condition| (condition.type_.clone(), condition.status.clone())).collect::<BTreeMap<_, _>>()
    };
    states(before) == states(after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Kind;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;
    use proptest::prelude::*;

    fn key(name: &str) -> Key {
        Key::of(Kind::McpAgent, "acme", name)
    }

    fn conditions(ready: bool) -> Vec<Condition> {
        vec![Condition {
            type_: "Ready".into(),
            status: if ready { "True" } else { "False" }.into(),
            reason: "R".into(),
            message: String::new(),
            observed_generation: None,
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
        }]
    }

    #[test]
    fn the_first_status_and_every_change_of_a_condition_are_due_at_once_and_the_rest_waits() {
        let mut queue = Queue::default();
        let (no, yes) = (conditions(false), conditions(true));
        queue.push(&key("a"), None, &no, 1000).unwrap();
        assert_eq!(queue.pop(1000), Some(key("a")));
        queue.wrote(&key("a"), true, 1010);
        queue.push(&key("a"), Some(&no), &no, 1020).unwrap();
        assert_eq!((queue.pop(1010 + EVERY_MS - 1), queue.next_due()), (None, Some(1010 + EVERY_MS)));
        queue.push(&key("a"), Some(&no), &yes, 1030).unwrap();
        assert_eq!(queue.len(), 1, "one entry per object");
        assert_eq!(queue.pop(1030), Some(key("a")));
        queue.wrote(&key("a"), false, 1040);
        assert!(!queue.counters_due(&key("a"), 1010 + COUNTERS_EVERY_MS - 1));
        assert!(queue.counters_due(&key("a"), 1010 + COUNTERS_EVERY_MS));
    }

    #[test]
    fn what_another_replica_wrote_is_in_no_hurry() {
        let mut queue = Queue::default();
        queue.push(&key("a"), Some(&conditions(true)), &conditions(true), 5).unwrap();
        assert_eq!(queue.next_due(), Some(5 + EVERY_MS));
    }

    #[test]
    fn what_changes_while_it_is_written_is_written_again_and_never_twice_at_one_time() {
        let mut queue = Queue::default();
        queue.push(&key("a"), None, &conditions(false), 0).unwrap();
        queue.pop(0).unwrap();
        queue.push(&key("a"), Some(&conditions(false)), &conditions(true), 1).unwrap();
        assert_eq!(queue.pop(1), None);
        queue.wrote(&key("a"), true, 2);
        assert_eq!(queue.pop(2), Some(key("a")));
        queue.failed(&key("a"), 3);
        assert_eq!((queue.pop(4), queue.pop(3 + RETRY_MS)), (None, Some(key("a"))));
        queue.skipped(&key("a"));
        assert!(queue.is_empty());
    }

    proptest! {
        /// One object is never written twice at one time, without a change of a condition never more than once in its time, and nothing that
        /// changed is forgotten.
        #[test]
        fn coalescing(steps in proptest::collection::vec((0_u64..3_000, 0_usize..3, any::<bool>()), 1..200)) {
            let mut queue = Queue::default();
            let (mut now, mut writing) = (0, BTreeSet::new());
            let mut shown = BTreeMap::<Key, Vec<Condition>>::new();
            let mut wanted = BTreeMap::<Key, Vec<Condition>>::new();
            let mut last = BTreeMap::<Key, u64>::new();
            for (pause, name, ready) in steps {
                now += pause;
                let object = key(&name.to_string());
                let status = conditions(ready);
                queue.push(&object, shown.get(&object).map(Vec::as_slice), &status, now).unwrap();
                wanted.insert(object, status);
                while let Some(popped) = queue.pop(now) {
                    prop_assert!(writing.insert(popped.clone()));
                    let urgent = shown.get(&popped).is_none_or(|shown| !same_conditions(shown, &wanted[&popped]));
                    prop_assert!(urgent || last.get(&popped).is_none_or(|last| now - last >= EVERY_MS));
                }
                for done in std::mem::take(&mut writing) {
                    shown.insert(done.clone(), wanted[&done].clone());
                    last.insert(done.clone(), now);
                    queue.wrote(&done, true, now);
                }
            }
            while let Some(popped) = queue.pop(now + EVERY_MS) {
                shown.insert(popped.clone(), wanted[&popped].clone());
            }
            prop_assert_eq!(shown, wanted);
        }
    }
}
