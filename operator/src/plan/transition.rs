//! What is worth an Event: a condition that changed, and only then.

use crds::v1alpha1::{ConditionType, Reason};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

/// One Event to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub warning: bool,
    /// The reason of the condition.
    pub reason: String,
    /// For people.
    pub text: String,
}

/// Reasons that everything has for a moment when it is new.
const PASSING: [Reason; 5] = [Reason::Pending, Reason::NoEdge, Reason::NoPod, Reason::NotDiscovered, Reason::Unknown];

/// Reasons of Programmed that say how many edges there are, and nothing of the object.
const OF_THE_FLEET: [Reason; 3] = [Reason::Pending, Reason::NoEdge, Reason::PartiallyProgrammed];

/// What to tell of a status that follows another one. `fleet`: it is that of a SipEdge. An edge that comes or goes is told of there, and
/// not with each of ten thousand agents.
#[must_use]
pub fn notes(before: &[Condition], after: &[Condition], fleet: bool) -> Vec<Note> {
    let counts = |condition: &Condition| {
        condition.type_ == ConditionType::Programmed.as_str()
            && OF_THE_FLEET.iter().any(|reason| reason.as_str() == condition.reason)
    };
    let told = |now: &Condition| {
        let before = before.iter().find(|old| old.type_ == now.type_);
        let only_counts = counts(now) || (now.status == "True" && before.is_some_and(counts));
        if only_counts && !fleet { None } else { note(before, now) }
    };
    after.iter().filter_map(told).collect()
}

fn note(before: Option<&Condition>, now: &Condition) -> Option<Note> {
    let is_ready = now.type_ == ConditionType::Ready.as_str();
    let was = before.map(|before| &*before.status);
    match &*now.status {
        "True" => {
            // Of what is new only that it works.
            let told = if is_ready { was != Some("True") } else { was == Some("False") };
            told.then(|| Note { warning: false, reason: now.reason.clone(), text: text(now) })
        }
        // Ready says again what another condition says.
        "False" if !is_ready => {
            let passing = PASSING.iter().any(|reason| reason.as_str() == now.reason);
            let other = before.is_none_or(|before| before.status != now.status || before.reason != now.reason);
            let told = was == Some("True") || (!passing && other);
            told.then(|| Note { warning: true, reason: now.reason.clone(), text: text(now) })
        }
        _ => None,
    }
}

fn text(condition: &Condition) -> String {
    match &*condition.message {
        "" => condition.type_.clone(),
        message => format!("{}: {message}", condition.type_),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;

    fn condition(type_: &str, status: &str, reason: &str) -> Condition {
        Condition {
            type_: type_.into(),
            status: status.into(),
            reason: reason.into(),
            message: String::new(),
            observed_generation: None,
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
        }
    }

    fn told(before: &[(&str, &str, &str)], after: &[(&str, &str, &str)]) -> Vec<String> {
        let all = |all: &[(&str, &str, &str)]| all.iter().map(|c| condition(c.0, c.1, c.2)).collect::<Vec<_>>();
        let line = |note: Note| format!("{}{}: {}", if note.warning { "!" } else { "" }, note.reason, note.text);
        notes(&all(before), &all(after), true).into_iter().map(line).collect()
    }

    #[test]
    fn what_is_new_tells_that_it_works_or_why_it_never_will() {
        let pending =
            [("Accepted", "True", "Accepted"), ("Programmed", "False", "Pending"), ("Ready", "False", "Pending")];
        assert!(told(&[], &pending).is_empty());
        let ready =
            [("Accepted", "True", "Accepted"), ("Programmed", "True", "Programmed"), ("Ready", "True", "Ready")];
        assert_eq!(told(&pending, &ready), ["Programmed: Programmed", "Ready: Ready"]);
        assert!(told(&ready, &ready).is_empty());
        assert_eq!(told(&[], &[("Accepted", "False", "InvalidSpec")]), ["!InvalidSpec: Accepted"]);
    }

    #[test]
    fn an_edge_that_comes_or_goes_is_told_of_once_and_not_with_each_agent() {
        let all = |reason: &str, status: &str| vec![condition("Programmed", status, reason)];
        let (yes, no) = (all("Programmed", "True"), all("PartiallyProgrammed", "False"));
        assert!(notes(&yes, &no, false).is_empty() && notes(&no, &yes, false).is_empty());
        assert_eq!((notes(&yes, &no, true).len(), notes(&no, &yes, true).len()), (1, 1));
        let rejected = all("Rejected", "False");
        assert_eq!((notes(&no, &rejected, false).len(), notes(&rejected, &yes, false).len()), (1, 1));
    }

    #[test]
    fn what_worked_and_does_not_is_told_with_each_new_reason() {
        let at = |reason| [("Programmed", "False", reason), ("Ready", "False", reason)];
        let ready = [("Programmed", "True", "Programmed"), ("Ready", "True", "Ready")];
        assert_eq!(told(&ready, &at("NoEdge")), ["!NoEdge: Programmed"]);
        assert_eq!(told(&at("NoEdge"), &at("Rejected")), ["!Rejected: Programmed"]);
        assert!(told(&at("Rejected"), &at("Rejected")).is_empty());
        assert!(told(&at("Rejected"), &at("Pending")).is_empty());
    }
}
