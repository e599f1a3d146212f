//! Which pod is drained and deleted next: ordered rollout and ordered scale-down.
//!
//! A StatefulSet with `OnDelete` never replaces a pod by itself (its own order would not wait for a drain). One step
//! at a time: [`next`] looks at what is there and says the one thing that is to be done now. Done twice it does no harm, so an operator that
//! ended in between goes on where it was.

use std::collections::BTreeMap;

/// What is there of the workload of one SipEdge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// `spec.replicas` of the SipEdge; `None`: it was never set.
    pub wanted: Option<u32>,
    /// What `spec.replicas` begins with: `minReplicas` with autoscaling, else 1.
    pub first: u32,
    /// `spec.replicas` of the StatefulSet; `None`: there is none yet.
    pub replicas: Option<u32>,
    /// Revision that pods should have (`status.updateRevision`).
    pub revision: String,
    /// By ordinal.
    pub pods: BTreeMap<u32, Pod>,
}

/// One pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    pub uid: String,
    /// Label `controller-revision-hash`.
    pub revision: String,
    pub ready: bool,
    /// `metadata.deletionTimestamp` is there.
    pub ending: bool,
    /// What its edge last reported.
    pub drain: Drain,
    /// It was asked to drain longer ago than its grace time, so it is not waited for.
    pub overdue: bool,
    /// A person asked it to drain: it stays so until that person, a rollout or a scale-down ends it.
    pub by_hand: bool,
}

/// Where the drain of a pod stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Drain {
    /// It was not asked, or it was and nothing is known of it.
    #[default]
    No,
    Going,
    Done,
}

/// The one thing to be done now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write `spec.replicas` of the SipEdge: once, where nobody set it. From then on it belongs to whoever scales.
    SetWanted(u32),
    /// Make the StatefulSet with so many pods, or give it more. Never fewer: that is [`Action::Shrink`].
    Grow(u32),
    /// Ask this pod to drain.
    Drain {
        ordinal: u32,
    },
    /// Its drain is over: delete the pod with this uid; it comes again with the new revision.
    Delete {
        ordinal: u32,
        uid: String,
    },
    /// The last pod is drained: lower `spec.replicas` of the StatefulSet by one.
    Shrink(u32),
    /// Take back a drain that nobody wants any more.
    Resume {
        ordinal: u32,
    },
    /// Something is on its way: look again when it changed.
    Wait,
    Nothing,
}

/// The next step.
#[must_use]
pub fn next(observed: &Observed) -> Action {
    let Some(wanted) = observed.wanted else { return Action::SetWanted(observed.first) };
    let Some(replicas) = observed.replicas else { return Action::Grow(wanted) };
    if replicas < wanted {
        return Action::Grow(wanted);
    }
    // A pod beyond the replicas is ending already; until it is gone nothing else is taken away.
    if observed.pods.iter().any(|(ordinal, pod)| pod.ending || *ordinal >= replicas) {
        return Action::Wait;
    }
    if replicas > wanted {
        let last = replicas - 1;
        return match observed.pods.get(&last) {
            // Nothing runs there, so nothing has to be handed over.
            None => Action::Shrink(last),
            Some(pod) if gone(pod) => Action::Shrink(last),
            Some(pod) if pod.drain == Drain::Going => Action::Wait,
            // Another one drains: first that one comes back or goes.
            Some(_) if draining(observed).any(|ordinal| ordinal != last && !observed.pods[&ordinal].by_hand) => {
                settle(observed, last)
            }
            Some(_) => Action::Drain { ordinal: last },
        };
    }
    let old = observed.pods.iter().rev().filter(|(_, pod)| pod.revision != observed.revision);
    let mut old = old.map(|(ordinal, _)| *ordinal);
    // Who began is finished first, whatever the order.
    let begun = draining(observed).find(|ordinal| observed.pods[ordinal].revision != observed.revision);
    let Some(ordinal) = begun.or_else(|| old.next()) else { return settle(observed, u32::MAX) };
    let pod = &observed.pods[&ordinal];
    if gone(pod) {
        return Action::Delete { ordinal, uid: pod.uid.clone() };
    }
    if pod.drain == Drain::Going {
        return Action::Wait;
    }
    // One at a time: all the others serve before the next one goes. A pod that does not get ready by itself may be the reason for the
    // rollout, so one of the old revision is replaced at once.
    let others_serve = (0..replicas)
        .filter(|other| *other != ordinal)
        .all(|other| observed.pods.get(&other).is_some_and(|pod| pod.ready && pod.drain == Drain::No));
    match (pod.ready, others_serve) {
        (false, _) => Action::Delete { ordinal, uid: pod.uid.clone() },
        (true, true) => Action::Drain { ordinal },
        (true, false) => match observed.pods.iter().find(|(_, pod)| !pod.ready && pod.revision != observed.revision) {
            Some((ordinal, pod)) => Action::Delete { ordinal: *ordinal, uid: pod.uid.clone() },
            None => Action::Wait,
        },
    }
}

/// Nothing is lost when it ends: it is drained, its time is over, or it never served.
fn gone(pod: &Pod) -> bool {
    pod.drain == Drain::Done || (pod.drain == Drain::Going && pod.overdue)
}

fn draining(observed: &Observed) -> impl Iterator<Item = u32> {
    observed.pods.iter().filter(|(_, pod)| pod.drain != Drain::No).map(|(ordinal, _)| *ordinal)
}

/// Pods that drain and should not: one that still can serves again, one that is empty is made anew.
fn settle(observed: &Observed, but: u32) -> Action {
    let unwanted = |ordinal: u32, pod: &Pod| ordinal != but && pod.drain != Drain::No && !pod.by_hand;
    let mut others = observed.pods.iter().filter(|(ordinal, pod)| unwanted(**ordinal, pod));
    match others.next() {
        None => Action::Nothing,
        Some((ordinal, pod)) if gone(pod) => Action::Delete { ordinal: *ordinal, uid: pod.uid.clone() },
        Some((ordinal, _)) => Action::Resume { ordinal: *ordinal },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pod(ordinal: u32, revision: &str) -> Pod {
        Pod { uid: format!("{ordinal}-{revision}"), revision: revision.into(), ready: true, ..Pod::default() }
    }

    fn serving(count: u32, wanted: u32, of: &str, revision: &str) -> Observed {
        let pods = (0..count).map(|ordinal| (ordinal, pod(ordinal, of))).collect();
        Observed { wanted: Some(wanted), first: 1, replicas: Some(count), revision: revision.into(), pods }
    }

    /// Does what it is told, as Kubernetes and the edges would, one step at a time. False: there was nothing to do.
    fn step(observed: &mut Observed, action: &Action) -> bool {
        match action {
            Action::SetWanted(wanted) => observed.wanted = Some(*wanted),
            Action::Grow(replicas) | Action::Shrink(replicas) => {
                observed.replicas = Some(*replicas);
                observed.pods.retain(|ordinal, _| ordinal < replicas);
            }
            Action::Drain { ordinal } => observed.pods.get_mut(ordinal).unwrap().drain = Drain::Going,
            Action::Resume { ordinal } => observed.pods.get_mut(ordinal).unwrap().drain = Drain::No,
            Action::Delete { ordinal, uid } => {
                assert_eq!(observed.pods[ordinal].uid, *uid);
                observed.pods.remove(ordinal);
            }
            Action::Wait => {
                let going = observed.pods.values_mut().find(|pod| pod.drain == Drain::Going);
                if let Some(pod) = going {
                    pod.drain = Drain::Done;
                } else if let Some(pod) = observed.pods.values_mut().find(|pod| !pod.ready) {
                    pod.ready = true;
                } else {
                    let missing = (0..observed.replicas.unwrap()).find(|ordinal| !observed.pods.contains_key(ordinal));
                    let Some(ordinal) = missing else { return false };
                    observed.pods.insert(ordinal, Pod { ready: false, ..pod(ordinal, &observed.revision) });
                }
            }
            Action::Nothing => return false,
        }
        true
    }

    #[test]
    fn a_scale_down_drains_the_last_pod_before_it_goes() {
        let mut observed = serving(3, 2, "r1", "r1");
        assert_eq!(next(&observed), Action::Drain { ordinal: 2 });
        observed.pods.get_mut(&2).unwrap().drain = Drain::Going;
        assert_eq!(next(&observed), Action::Wait);
        observed.pods.get_mut(&2).unwrap().overdue = true;
        assert_eq!(next(&observed), Action::Shrink(2), "not waited for beyond its time");
        observed.wanted = Some(3);
        observed.pods.get_mut(&2).unwrap().overdue = false;
        assert_eq!(next(&observed), Action::Resume { ordinal: 2 }, "scaled up again meanwhile");
    }

    #[test]
    fn replicas_are_set_once_and_only_where_nobody_did() {
        let mut observed = Observed { first: 3, revision: "r1".into(), ..Observed::default() };
        assert_eq!(next(&observed), Action::SetWanted(3));
        observed.wanted = Some(5);
        assert_eq!(next(&observed), Action::Grow(5));
    }

    #[test]
    fn a_pod_that_cannot_serve_is_replaced_without_a_drain() {
        let mut observed = serving(3, 3, "r1", "r2");
        observed.pods.get_mut(&0).unwrap().ready = false;
        assert_eq!(next(&observed), Action::Delete { ordinal: 0, uid: "0-r1".into() });
    }

    #[test]
    fn a_drain_that_a_person_ordered_stays_and_holds_up_no_scale_down() {
        let mut observed = serving(3, 3, "r1", "r1");
        let pod = observed.pods.get_mut(&1).unwrap();
        (pod.drain, pod.by_hand) = (Drain::Going, true);
        assert_eq!(next(&observed), Action::Nothing);
        observed.wanted = Some(2);
        assert_eq!(next(&observed), Action::Drain { ordinal: 2 });
        observed.wanted = Some(3);
        observed.revision = "r2".into();
        observed.pods.get_mut(&1).unwrap().drain = Drain::Done;
        assert_eq!(next(&observed), Action::Delete { ordinal: 1, uid: "1-r1".into() }, "a rollout begins with it");
    }

    proptest! {
        /// Wherever it begins and whatever is scaled on the way: it ends with the wanted pods of the new revision, and never does more than one
        /// pod drain at a time by its doing.
        #[test]
        fn it_ends_and_takes_one_pod_at_a_time(
            count in 1_u32..6, first in 0_u32..6, second in 0_u32..6, at in 0_usize..20, ready in proptest::collection::vec(any::<bool>(), 6),
        ) {
            let mut observed = serving(count, first, "r1", "r2");
            for (pod, ready) in observed.pods.values_mut().zip(ready) {
                pod.ready = ready;
            }
            for round in 0..200 {
                if round == at {
                    observed.wanted = Some(second);
                }
                let action = next(&observed);
                if let Action::Drain { ordinal } = action {
                    prop_assert!(observed.pods.iter().all(|(other, pod)| *other == ordinal || pod.drain == Drain::No));
                }
                if !step(&mut observed, &action) && round > at {
                    break;
                }
            }
            while observed.pods.len() < second as usize && step(&mut observed, &Action::Wait) {}
            prop_assert_eq!(observed.replicas, Some(second));
            prop_assert_eq!(observed.pods.keys().copied().collect::<Vec<_>>(), (0..second).collect::<Vec<_>>());
            prop_assert!(observed.pods.values().all(|pod| pod.revision == "r2" && pod.drain == Drain::No));
        }
    }
}
