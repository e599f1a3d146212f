//! One stream to one edge: from what it holds to what it should hold.
//!
//! A machine without time and without a socket. The caller feeds it what the edge says ([`Session::hello`], [`Session::results`]) and what
//! should be there ([`Session::want`]), and takes messages from it ([`Session::poll`]) as long as there are any.
//!
//! What it promises: at most [`MAX_OUTSTANDING`] Deltas wait for their results; an object that changes meanwhile travels once, in its newest
//! version, and needs no memory for the versions between; nothing is taken away before the edge has everything; no generation goes back.

mod mirror;

use super::{Item, Wanted};
use crate::key::{Key, Kind};
use edge_api::control::{self, Delta, Hello, Results, Upsert};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use mirror::{Fact, Progress};

/// Bytes of objects in one Delta; one object that is larger travels alone.
pub const MAX_DELTA_BYTES: usize = 1 << 20;
/// Objects in one Delta, and removals.
pub const MAX_ENTRIES: usize = 4096;
/// Deltas without their results.
pub const MAX_OUTSTANDING: usize = 8;
/// Objects that an edge may say it holds.
pub const MAX_HELD: usize = 131_072;
/// Milliseconds after which an edge that does not answer is given up.
pub const UNANSWERED_MS: u64 = 30_000;
/// Octets of a version.
const MAX_VERSION: usize = 96;
/// Octets of a field path, and of a message; what is longer is cut.
const MAX_FIELD: usize = 1024;
const MAX_MESSAGE: usize = 4096;

/// The edge broke the contract: the stream ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Breach {
    #[error("the first message must be Hello")]
    BeforeHello,
    #[error("Hello came a second time")]
    SecondHello,
    #[error("more than {MAX_HELD} objects are said to be held")]
    TooManyHeld,
    #[error("more than {MAX_ENTRIES} results in one message")]
    TooManyResults,
    #[error("results for nonce {0}, which waits for none")]
    UnknownNonce(u64),
    #[error("a version has more than {MAX_VERSION} octets")]
    LongVersion,
}

/// What became of an object on this edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    Applied,
    Warned,
    Rejected,
}

/// The last word of this edge about one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The version that it is about.
    pub version: Arc<str>,
    pub outcome: Outcome,
    /// Empty where the whole object is meant.
    pub field: String,
    pub message: String,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Session {
    greeting: Greeting,
    /// What the edge holds when it has taken in everything that was sent.
    held: BTreeMap<Key, Arc<str>>,
    wanted: Arc<Wanted>,
    /// New or changed, to be sent.
    upserts: BTreeSet<Key>,
    /// Held and not wanted.
    removals: BTreeSet<Key>,
    /// The index knows everything, so `wanted` is all that there is.
    complete: bool,
    initial_done: bool,
    nonce: u64,
    /// Nonce → when it was sent.
    outstanding: BTreeMap<u64, u64>,
    verdicts: BTreeMap<Key, Verdict>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Greeting {
    #[default]
    Awaited,
    /// Further Hellos follow.
    Half,
    Done,
    /// Another replica speaks with the edge.
    Mirrored,
}

impl Session {
    /// The edge says what it holds. True: that was all of it.
    ///
    /// # Errors
    /// The contract is broken.
    pub fn hello(&mut self, hello: &Hello) -> Result<bool, Breach> {
        if matches!(self.greeting, Greeting::Done | Greeting::Mirrored) {
            return Err(Breach::SecondHello);
        }
        if self.held.len() + hello.held.len() > MAX_HELD {
            return Err(Breach::TooManyHeld);
        }
        for object in &hello.held {
            if object.version.len() > MAX_VERSION {
                return Err(Breach::LongVersion);
            }
            // A kind of a later release is none of ours: the operator that brought it takes it away.
            let Some(key) = object.key.as_ref().and_then(Key::from_message) else { continue };
            let version: Arc<str> = object.version.as_str().into();
            let applied = Verdict {
                version: version.clone(),
                outcome: Outcome::Applied,
                field: String::new(),
                message: String::new(),
            };
            self.verdicts.insert(key.clone(), applied);
            self.held.insert(key, version);
        }
        self.greeting = if hello.more { Greeting::Half } else { Greeting::Done };
        self.compare();
        Ok(!hello.more)
    }

    /// What the edge should hold. `complete`: that is all there is, as far as the API server tells; once it was, it stays.
    pub fn want(&mut self, wanted: Arc<Wanted>, complete: bool) {
        self.wanted = wanted;
        self.complete |= complete;
        self.compare();
    }

    fn compare(&mut self) {
        let Session { held, wanted, .. } = self;
        let stale = |key: &Key, item: &Item| match held.get(key) {
            None => true,
            Some(version) => **version != *item.version && !is_behind(key.kind, &item.version, version),
        };
        self.upserts = wanted.iter().filter(|(key, item)| stale(key, item)).map(|(key, _)| key.clone()).collect();
        self.removals = held.keys().filter(|key| !wanted.contains_key(key)).cloned().collect();
    }

    /// The next message. `None`: nothing is to be said now, or the edge has to answer first.
    pub fn poll(&mut self, now_ms: u64) -> Option<Delta> {
        if self.greeting != Greeting::Done || self.outstanding.len() >= MAX_OUTSTANDING {
            return None;
        }
        let mut delta = Delta::default();
        let mut bytes = 0;
        while delta.upserts.len() < MAX_ENTRIES
            && let Some(key) = self.upserts.pop_first()
        {
            let Some(item) = self.wanted.get(&key).cloned() else { continue };
            if bytes > 0 && bytes + item.json.len() > MAX_DELTA_BYTES {
                self.upserts.insert(key);
                break;
            }
            bytes += item.json.len();
            self.held.insert(key.clone(), item.version.clone());
            delta.upserts.push(Upsert {
                key: Some(key.to_message()),
                version: item.version.to_string(),
                json: item.json,
                tenant: item.tenant.map(u32::from),
            });
        }
        let everything = self.upserts.is_empty();
        if self.complete && !self.initial_done && everything {
            delta.initial_done = true;
            self.initial_done = true;
        }
        if self.initial_done && everything {
            // What refers to others goes before what is referred to.
            while delta.removals.len() < MAX_ENTRIES
                && let Some(key) = self.removals.pop_last()
            {
                self.held.remove(&key);
                self.verdicts.remove(&key);
                delta.removals.push(key.to_message());
            }
        }
        if delta.upserts.is_empty() && delta.removals.is_empty() && !delta.initial_done {
            return None;
        }
        self.nonce += 1;
        delta.nonce = self.nonce;
        self.outstanding.insert(self.nonce, now_ms);
        Some(delta)
    }

    /// The edge says what became of objects. Returns those about which its last word changed.
    ///
    /// # Errors
    /// The contract is broken.
    pub fn results(&mut self, results: &Results) -> Result<BTreeSet<Key>, Breach> {
        if self.greeting != Greeting::Done {
            return Err(Breach::BeforeHello);
        }
        if results.items.len() > MAX_ENTRIES {
            return Err(Breach::TooManyResults);
        }
        if results.nonce != 0 && self.outstanding.remove(&results.nonce).is_none() {
            return Err(Breach::UnknownNonce(results.nonce));
        }
        let mut changed = BTreeSet::new();
        for item in &results.items {
            let Some(key) = item.key.as_ref().and_then(Key::from_message) else { continue };
            // A word about what was replaced or taken away since is no word about what is there.
            let Some(version) = self.held.get(&key).filter(|version| ***version == *item.version) else { continue };
            let outcome = match item.outcome() {
                control::Outcome::Applied => Outcome::Applied,
                control::Outcome::AppliedWithWarning => Outcome::Warned,
                // What an edge cannot say clearly is not applied.
                control::Outcome::Rejected | control::Outcome::Unspecified => Outcome::Rejected,
            };
            let verdict = Verdict {
                version: version.clone(),
                outcome,
                field: cut(&item.field_path, MAX_FIELD),
                message: cut(&item.message, MAX_MESSAGE),
            };
            if self.verdicts.get(&key) != Some(&verdict) {
                self.verdicts.insert(key.clone(), verdict);
                changed.insert(key);
            }
        }
        Ok(changed)
    }

    /// The last word of the edge about an object. `None`: it has not answered yet, or does not hold it.
    #[must_use]
    pub fn verdict(&self, key: &Key) -> Option<&Verdict> {
        self.verdicts.get(key)
    }

    /// True where the edge does not hold the object and has answered everything that it was told, a removal of it included.
    #[must_use]
    pub fn let_go_of(&self, key: &Key) -> bool {
        !self.held.contains_key(key) && self.outstanding.is_empty()
    }

    /// True where the edge has said yes to everything that it should hold, in these versions.
    #[must_use]
    pub fn is_programmed(&self) -> bool {
        let applied = |(key, item): (&Key, &Item)| {
            self.verdicts.get(key).is_some_and(|verdict| {
                verdict.version == item.version && matches!(verdict.outcome, Outcome::Applied | Outcome::Warned)
            })
        };
        let sent = self.upserts.is_empty() && self.removals.is_empty() && self.outstanding.is_empty();
        self.initial_done && sent && self.wanted.iter().all(applied)
    }

    /// True where a Delta has waited too long for its results.
    #[must_use]
    pub fn is_overdue(&self, now_ms: u64) -> bool {
        self.outstanding.first_key_value().is_some_and(|(_, sent)| now_ms.saturating_sub(*sent) >= UNANSWERED_MS)
    }
}

/// True where `new` is an earlier generation of the object that `held` is: this replica of the operator has not seen what another one sent.
fn is_behind(kind: Kind, new: &str, held: &str) -> bool {
    fn parts(version: &str) -> Option<(&str, i64)> {
        let mut parts = version.split('/');
        Some((parts.next()?, parts.next()?.parse().ok()?))
    }
    let (true, Some((new_uid, new)), Some((held_uid, held))) = (kind.is_ours(), parts(new), parts(held)) else {
        return false;
    };
    new_uid == held_uid && new < held
}

fn cut(text: &str, most: usize) -> String {
    let end = (0..=most.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text[..end].to_owned()
}
