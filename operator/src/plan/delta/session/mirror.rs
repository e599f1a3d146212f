//! A session of another replica, as that one tells it: what an edge has and said, without the stream that feeds it. Asked what is programmed, it
//! answers as a session of this replica does.

use super::{Breach, Greeting, MAX_HELD, MAX_VERSION, Session, Verdict};
use crate::key::Key;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What an edge has of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// The version that it has when it has taken in everything that was sent.
    pub held: Arc<str>,
    /// Its last word.
    pub verdict: Option<Verdict>,
}

/// How far a session is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The edge was told everything that there is.
    pub initial_done: bool,
    /// It has answered everything that it was told.
    pub settled: bool,
}

impl Session {
    /// One that is told by another replica. It never has a message to send.
    #[must_use]
    pub fn mirrored() -> Session {
        Session { greeting: Greeting::Mirrored, ..Session::default() }
    }

    /// What the edge has, by key.
    pub fn facts(&self) -> impl Iterator<Item = (&Key, &Arc<str>, Option<&Verdict>)> {
        self.held.iter().map(|(key, held)| (key, held, self.verdicts.get(key)))
    }

    #[must_use]
    pub fn progress(&self) -> Progress {
        Progress { initial_done: self.initial_done, settled: self.outstanding.is_empty() }
    }

    /// Takes in what another replica tells of its session. `None`: the edge has nothing of that object any more.
    ///
    /// # Errors
    /// A limit is broken; what was taken in by then stays.
    pub fn learn(&mut self, facts: BTreeMap<Key, Option<Fact>>, progress: Progress) -> Result<(), Breach> {
        let mut result = Ok(());
        for (key, fact) in facts {
            let Some(Fact { held, verdict }) = fact else {
                self.held.remove(&key);
                self.verdicts.remove(&key);
                continue;
            };
            let long =
                held.len() > MAX_VERSION || verdict.as_ref().is_some_and(|word| word.version.len() > MAX_VERSION);
            if long {
                result = Err(Breach::LongVersion);
                break;
            }
            if self.held.len() >= MAX_HELD && !self.held.contains_key(&key) {
                result = Err(Breach::TooManyHeld);
                break;
            }
            match verdict {
                Some(verdict) => drop(self.verdicts.insert(key.clone(), verdict)),
                None => drop(self.verdicts.remove(&key)),
            }
            self.held.insert(key, held);
        }
        self.initial_done = progress.initial_done;
        // What waits there waits here under one number.
        self.outstanding = if progress.settled { BTreeMap::new() } else { [(0, 0)].into() };
        self.compare();
        result
    }
}
