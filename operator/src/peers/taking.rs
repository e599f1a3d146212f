//! What another replica tells of its edges, brought into the fleets.

use super::contract::{self, EdgeState, Left, Word};
use super::{MAX_EDGES, MAX_ENTRIES, identity};
use crate::board::State;
use crate::identity::Identity;
use crate::key::Key;
use crate::plan::delta::{Breach, Fact, MAX_HELD, Outcome, Progress, Session, Verdict};
use crate::plan::fleet::{Attachment, Edge, Fleets};
use edge_api::control::{self, AgentReport, Report};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Octets of a field path, and of a message.
const MAX_FIELD: usize = 1024;
const MAX_TEXT: usize = 4096;

/// What a replica said breaks the contract.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    #[error("a message that names no edge")]
    Nameless,
    #[error("a message about {0}, of which nothing was told before")]
    Unknown(String),
    #[error("a message about {0} in the middle of another edge")]
    Mixed(String),
    #[error("more than there may be: {0}")]
    Many(&'static str),
    #[error(transparent)]
    Breach(#[from] Breach),
}

impl Wrong {
    /// A limit is broken, not an order.
    #[must_use]
    pub fn is_limit(&self) -> bool {
        !matches!(self, Wrong::Nameless | Wrong::Unknown(_) | Wrong::Mixed(_))
    }
}

/// One stream of another replica.
#[derive(Debug)]
pub struct Taking {
    replica: Arc<str>,
    /// Its number here.
    mirror: u64,
    partial: Option<Partial>,
}

/// What came of an edge by now.
#[derive(Debug)]
struct Partial {
    edge: Identity,
    whole: bool,
    facts: BTreeMap<Key, Option<Fact>>,
    agents: Vec<AgentReport>,
}

/// What changed of one edge, all of it.
#[derive(Debug)]
pub struct Change {
    edge: Identity,
    attachment: Attachment,
    epoch: u64,
    attached_ms: u64,
    whole: bool,
    facts: BTreeMap<Key, Option<Fact>>,
    progress: Progress,
    report: Report,
}

impl Taking {
    #[must_use]
    pub fn new(replica: Arc<str>, mirror: u64) -> Self {
        Taking { replica, mirror, partial: None }
    }

    /// Takes a message. `None`: more of that edge follows.
    ///
    /// # Errors
    /// The contract is broken.
    pub fn edge(&mut self, message: EdgeState) -> Result<Option<Change>, Wrong> {
        let EdgeState { pod, number, epoch, attached_ms, whole, facts, initial_done, settled, report, more } = message;
        let edge = identity(pod.as_ref()).ok_or(Wrong::Nameless)?;
        let mut report = report.unwrap_or_default();
        if facts.len() > MAX_ENTRIES || report.agents.len() > MAX_ENTRIES {
            return Err(Wrong::Many("entries of one message"));
        }
        let mut partial = match self.partial.take() {
            None => Partial { edge, whole, facts: BTreeMap::new(), agents: Vec::new() },
            Some(partial) if partial.edge == edge => partial,
            Some(_) => return Err(Wrong::Mixed(edge.to_string())),
        };
        partial.facts.extend(facts.into_iter().filter_map(fact));
        partial.agents.append(&mut report.agents);
        if partial.facts.len() > 2 * MAX_HELD || partial.agents.len() > 2 * MAX_HELD {
            return Err(Wrong::Many("entries of one edge"));
        }
        if more {
            self.partial = Some(partial);
            return Ok(None);
        }
        let Partial { edge, whole, facts, agents } = partial;
        report.agents = agents;
        let attachment = Attachment::There { replica: self.replica.clone(), mirror: self.mirror, number };
        let progress = Progress { initial_done, settled };
        Ok(Some(Change { edge, attachment, epoch, attached_ms, whole, facts, progress, report }))
    }

    /// A stream of an edge ended. True: something changed.
    ///
    /// # Errors
    /// It names no edge.
    pub fn left(&self, fleets: &mut Fleets, message: &Left) -> Result<bool, Wrong> {
        let edge = identity(message.pod.as_ref()).ok_or(Wrong::Nameless)?;
        let Some(fleet) = fleets.get_mut(&edge.edge) else { return Ok(false) };
        let (replica, mirror) = (self.replica.clone(), self.mirror);
        let over = Attachment::There { replica, mirror, number: message.number };
        Ok(fleet.detach(|pod, attachment| pod == edge.pod && *attachment == over))
    }

    /// Everything was told: what an earlier stream of the same replica told and this one did not is over. True: something changed.
    pub fn told(&self, fleets: &mut Fleets) -> bool {
        detach(fleets, |replica, mirror| *replica == *self.replica && mirror != self.mirror)
    }

    /// This stream is over, and with it what it told. True: something changed.
    pub fn over(&self, fleets: &mut Fleets) -> bool {
        detach(fleets, |_, mirror| mirror == self.mirror)
    }
}

fn detach(fleets: &mut Fleets, over: impl Fn(&str, u64) -> bool) -> bool {
    let over = |_: &str, attachment: &Attachment| match attachment {
        Attachment::Here { .. } => false,
        Attachment::There { replica, mirror, .. } => over(replica, *mirror),
    };
    fleets.values_mut().map(|fleet| fleet.detach(over)).fold(false, |any, one| any | one)
}

impl Change {
    /// Brings it into the fleets. `now_ms`: of this process's clock. True: something else than a counter changed.
    ///
    /// # Errors
    /// The contract is broken.
    pub fn apply(self, state: &mut State, now_ms: i64) -> Result<bool, Wrong> {
        let Change {
            edge: Identity { edge: name, pod },
            attachment,
            epoch,
            attached_ms,
            whole,
            facts,
            progress,
            report,
        } = self;
        if !whole {
            let fleet = state.fleets.get_mut(&name);
            let known = fleet.and_then(|fleet| fleet.attached(&pod, &attachment)).ok_or(Wrong::Unknown(pod))?;
            let mut told = !facts.is_empty() || known.session.progress() != progress;
            known.session.learn(facts, progress)?;
            told |= known.mirror(report);
            return Ok(told);
        }
        let streams = state.fleets.values().flat_map(|fleet| fleet.streams());
        if streams.filter(|(_, edge)| edge.attachment.replica() == attachment.replica()).count() >= MAX_EDGES {
            return Err(Wrong::Many("edges of one replica"));
        }
        let mut session = Session::mirrored();
        if let Some(wanted) = state.wants.of(&name) {
            session.want(wanted.clone(), state.wants.is_complete());
        }
        session.learn(facts, progress)?;
        let since_ms = now_ms.saturating_sub(i64::try_from(attached_ms).unwrap_or(i64::MAX));
        let mut known = Edge { attachment, since_ms, epoch, session, ..Edge::default() };
        known.mirror(report);
        state.fleets.entry(name).or_default().attach(&pod, known);
        Ok(true)
    }
}

/// What is of a later release is left out.
fn fact(message: contract::Fact) -> Option<(Key, Option<Fact>)> {
    let contract::Fact { key, held, word } = message;
    let key = key.as_ref().and_then(Key::from_message)?;
    let fact = (!held.is_empty()).then(|| Fact { held: held.as_str().into(), verdict: word.map(verdict) });
    Some((key, fact))
}

fn verdict(mut word: Word) -> Verdict {
    let outcome = match word.outcome() {
        control::Outcome::Applied => Outcome::Applied,
        control::Outcome::AppliedWithWarning => Outcome::Warned,
        control::Outcome::Rejected | control::Outcome::Unspecified => Outcome::Rejected,
    };
    cut(&mut word.field_path, MAX_FIELD);
    cut(&mut word.message, MAX_TEXT);
    Verdict { version: word.version.as_str().into(), outcome, field: word.field_path, message: word.message }
}

fn cut(text: &mut String, most: usize) {
    let end = (0..=most.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.truncate(end);
}

#[cfg(test)]
mod tests;
