//! What the status of each object is: from the index, and from what the edges of all SipEdges said.
//!
//! A function returns the whole new status, or `None` where nothing has to be written. `now` moves `lastTransitionTime`, and only where the
//! status of that condition changed.

mod agent;
mod count;
mod fleet;
mod scope;

use crate::index::Index;
use crate::key::Key;
use crate::plan::delta::{Outcome, Wants};
use crate::plan::fleet::Fleets;
use crds::v1alpha1::{ConditionType, Programmed, Reason};
use crds::validate::{Finding, Verdict};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

pub use agent::agent;
pub use count::counts;
pub use fleet::{edge, store};
pub use scope::{domain, policy};

/// Everything that a status is made of.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    pub index: &'a Index,
    pub wants: &'a Wants,
    pub fleets: &'a Fleets,
    pub now: &'a Time,
    /// Counters of this object were not written for [`COUNTERS_EVERY_MS`].
    pub counters_due: bool,
}

/// Milliseconds between two writes of an object's counters.
pub const COUNTERS_EVERY_MS: u64 = 30_000;
/// Edges that are named in a message; more would be more than anybody reads.
const NAMED_EDGES: usize = 3;

/// What holds of an object, before it is compared with what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    type_: ConditionType,
    status: Status,
    reason: Reason,
    message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    True,
    False,
    Unknown,
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Status::True => "True",
            Status::False => "False",
            Status::Unknown => "Unknown",
        }
    }
}

impl Said {
    fn yes(type_: ConditionType) -> Self {
        Said { type_, status: Status::True, reason: type_.good(), message: String::new() }
    }

    fn no(type_: ConditionType, reason: Reason, message: impl Into<String>) -> Self {
        Said { type_, status: Status::False, reason, message: message.into() }
    }

    fn unknown(type_: ConditionType, reason: Reason, message: impl Into<String>) -> Self {
        Said { type_, status: Status::Unknown, reason, message: message.into() }
    }

    fn holds(&self) -> bool {
        self.status == Status::True
    }
}

/// Conditions for a status: the time of one whose status is what it was stays.
fn written(said: Vec<Said>, before: &[Condition], generation: i64, now: &Time) -> Vec<Condition> {
    let condition = |Said { type_, status, reason, message }: Said| {
        let old = crds::v1alpha1::condition::condition(before, type_).filter(|old| old.status == status.as_str());
        Condition {
            type_: type_.as_str().to_owned(),
            status: status.as_str().to_owned(),
            reason: reason.as_str().to_owned(),
            message,
            observed_generation: Some(generation),
            last_transition_time: old.map_or_else(|| now.clone(), |old| old.last_transition_time.clone()),
        }
    };
    said.into_iter().map(condition).collect()
}

/// Accepted and ResolvedRefs: what the rules say.
fn judged(index: &Index, key: &Key, findings: &[Finding], of_findings: Reason) -> [Said; 2] {
    judged_at(index, key, findings, of_findings, |_| true)
}

/// The same for a part of an object: the fields that concern it.
fn judged_at(
    index: &Index,
    key: &Key,
    findings: &[Finding],
    of_findings: Reason,
    concerns: impl Fn(&str) -> bool,
) -> [Said; 2] {
    use ConditionType::{Accepted, ResolvedRefs};
    if let Some(why) = index.why_unreadable(key) {
        let refused = Said::no(Accepted, of_findings, format!("cannot be read: {}", why.error));
        return [refused, Said::unknown(ResolvedRefs, Reason::Unknown, "is looked at once the object is accepted")];
    }
    if !findings.is_empty() {
        let mut concerning = findings.iter().filter(|finding| concerns(&finding.field));
        let accepted = match concerning.next() {
            None => Said::yes(Accepted),
            Some(Finding { field, message }) => {
                Said::no(Accepted, of_findings, with_field(field, message, 1 + concerning.count()))
            }
        };
        return [accepted, Said::unknown(ResolvedRefs, Reason::Unknown, "is looked at once the object is accepted")];
    }
    let verdicts = index.view().verdicts_of(key);
    let one = |type_| {
        let mut of_type = verdicts.iter().filter(|verdict| verdict.condition() == type_ && concerns(&verdict.field));
        match of_type.next() {
            None => Said::yes(type_),
            Some(Verdict { reason, field, message, .. }) => {
                Said::no(type_, *reason, with_field(field, message, 1 + of_type.count()))
            }
        }
    };
    [one(Accepted), one(ResolvedRefs)]
}

fn with_field(field: &str, message: &str, of: usize) -> String {
    let more = if of > 1 { format!(" (and {} more)", of - 1) } else { String::new() };
    if field.is_empty() { format!("{message}{more}") } else { format!("{field}: {message}{more}") }
}

/// Programmed: every edge that should have the object has applied the version that stands.
fn programmed(scene: &Scene<'_>, key: &Key, generation: i64) -> (Said, Programmed) {
    use ConditionType::Programmed as Type;
    let (mut desired, mut applied, mut connected) = (0, 0, 0);
    let mut refused = Vec::new();
    for (name, fleet) in scene.fleets {
        let Some(item) = scene.wants.of(name).and_then(|wanted| wanted.get(key)) else { continue };
        let streams = u32::try_from(fleet.edges.len()).unwrap_or(u32::MAX);
        desired += fleet.desired.max(streams);
        connected += streams;
        for (pod, edge) in &fleet.edges {
            let Some(verdict) = edge.session.verdict(key).filter(|verdict| verdict.version == item.version) else {
                continue;
            };
            match verdict.outcome {
                Outcome::Applied | Outcome::Warned => applied += 1,
                Outcome::Rejected => {
                    refused.push(format!("{pod}: {}", with_field(&verdict.field, &verdict.message, 1)))
                }
            }
        }
    }
    let counted = Programmed::new(applied, desired);
    let mut message = format!("{applied} of {desired} edges at generation {generation}");
    let unnamed = refused.len().saturating_sub(NAMED_EDGES);
    for edge in refused.iter().take(NAMED_EDGES) {
        message.push_str("; ");
        message.push_str(edge);
    }
    if unnamed > 0 {
        message.push_str(&format!("; and {unnamed} more"));
    }
    let said = if desired == 0 {
        Said::no(Type, Reason::NoEdge, "no edge serves it")
    } else if applied == desired {
        Said { message, ..Said::yes(Type) }
    } else if connected == 0 {
        Said::no(Type, Reason::NoEdge, "no edge is connected")
    } else if refused.len() as u64 == u64::from(desired) {
        Said::no(Type, Reason::Rejected, message)
    } else if applied > 0 {
        Said::no(Type, Reason::PartiallyProgrammed, message)
    } else {
        Said::no(Type, Reason::Pending, message)
    };
    (said, counted)
}

/// Ready: `True` where everything that it needs holds, else for the first reason why not.
fn ready<'a>(needs: impl IntoIterator<Item = &'a Said>) -> Said {
    match needs.into_iter().find(|said| !said.holds()) {
        None => Said::yes(ConditionType::Ready),
        Some(said) => Said { type_: ConditionType::Ready, ..said.clone() },
    }
}

/// What is to be written: nothing where it is there already.
fn changed<T: PartialEq>(before: Option<&T>, status: T) -> Option<T> {
    (before != Some(&status)).then_some(status)
}

#[cfg(test)]
mod tests;
