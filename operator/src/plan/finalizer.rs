//! Objects that are being deleted: what is still to be done before they may go.
//!
//! An McpAgent stays until the edges have taken its registration back (REG-6), at most [`DEREGISTER_SECONDS`]. A SipDomain, a SessionStore and
//! a SipEdge stay while something refers to them. The annotation [`FORCE`] lets go of any of them at once.

use crate::board::State;
use crate::key::{Key, Kind};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Finalizer of an McpAgent.
pub const DEREGISTER: &str = "sipmcp.dev/deregister";
/// Finalizer of what others refer to.
pub const IN_USE: &str = "sipmcp.dev/in-use";
/// Annotation, `"true"`: it may go whatever stands against it.
pub const FORCE: &str = "sipmcp.dev/force-delete";
/// Seconds from the deletion of an McpAgent after which edges that did not answer are not waited for.
pub const DEREGISTER_SECONDS: i64 = 30;
/// Referrers that are named in a message.
const NAMED: usize = 3;

/// An object that is being deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaving {
    pub uid: String,
    /// `metadata.deletionTimestamp`, seconds since 1970-01-01T00:00:00Z.
    pub since: i64,
    pub forced: bool,
    /// It has a finalizer of ours.
    pub held: bool,
}

/// Whether it may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Take our finalizer away.
    Go,
    /// For people: what is waited for.
    Wait(String),
    /// It has no finalizer of ours.
    NotOurs,
}

/// The finalizer that an object of this kind gets.
#[must_use]
pub fn of_kind(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::McpAgent => Some(DEREGISTER),
        Kind::SipDomain | Kind::SessionStore | Kind::SipEdge => Some(IN_USE),
        Kind::McpCapabilityPolicy | Kind::Secret | Kind::ConfigMap | Kind::Namespace | Kind::Endpoints => None,
    }
}

impl Leaving {
    /// `None`: the object is not being deleted.
    #[must_use]
    pub fn of(meta: &ObjectMeta) -> Option<Self> {
        let since = meta.deletion_timestamp.as_ref()?.0.as_second();
        let ours = |finalizer: &String| matches!(finalizer.as_str(), DEREGISTER | IN_USE);
        Some(Leaving {
            uid: meta.uid.clone().unwrap_or_default(),
            since,
            forced: meta.annotations.as_ref().is_some_and(|a| a.get(FORCE).is_some_and(|value| value == "true")),
            held: meta.finalizers.iter().flatten().any(ours),
        })
    }
}

/// Whether an object that is being deleted may go. `now`: seconds since 1970-01-01T00:00:00Z.
#[must_use]
pub fn judge(state: &State, key: &Key, leaving: &Leaving, now: i64) -> Verdict {
    if !leaving.held {
        return Verdict::NotOurs;
    }
    if leaving.forced {
        return Verdict::Go;
    }
    match key.kind {
        Kind::McpAgent => {
            let holding =
                |(pod, edge): (&String, &super::fleet::Edge)| (!edge.session.let_go_of(key)).then(|| pod.clone());
            let edges: Vec<String> = state.fleets.values().flat_map(|fleet| &fleet.edges).filter_map(holding).collect();
            if edges.is_empty() || now.saturating_sub(leaving.since) >= DEREGISTER_SECONDS {
                Verdict::Go
            } else {
                Verdict::Wait(format!("its registration is being taken back by {}", some(&edges)))
            }
        }
        _ => {
            let stays = |referrer: &&Key| !state.leaving.contains_key(*referrer) || referrer.kind == Kind::SipEdge;
            let referrers: Vec<String> = state.index.holders(key).filter(stays).map(Key::to_string).collect();
            if referrers.is_empty() {
                Verdict::Go
            } else {
                Verdict::Wait(format!("is referred to by {}", some(&referrers)))
            }
        }
    }
}

fn some(names: &[String]) -> String {
    let more = names.len().saturating_sub(NAMED);
    let mut text = names[..names.len().min(NAMED)].join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::fleet::{Edge, Fleet};
    use crate::testing::{agent, domain, edge, index, key, policy};
    use crds::manifest::ObjectKey;
    use edge_api::control::{Hello, Outcome, Result as Answer, Results};

    fn leaving(forced: bool) -> Leaving {
        Leaving { uid: "u".into(), since: 1000, forced, held: true }
    }

    fn answer(edge: &mut Edge) {
        while let Some(delta) = edge.session.poll(0) {
            let item = |upsert: edge_api::control::Upsert| Answer {
                key: upsert.key,
                version: upsert.version,
                outcome: Outcome::Applied.into(),
                ..Answer::default()
            };
            let items = delta.upserts.into_iter().map(item).collect();
            edge.session.results(&Results { nonce: delta.nonce, items }).unwrap();
        }
    }

    #[test]
    fn reg_6_an_agent_stays_until_the_edges_have_let_go_of_it_and_not_for_ever() {
        let mut state =
            State { index: index([edge("e", 1), domain("d0", 1), agent("a", 1, "d0", None)]), ..State::default() };
        let name = ObjectKey::new("system", "e");
        state.wants.update(&state.index);
        let mut connected = Edge::default();
        connected.session.hello(&Hello::default()).unwrap();
        connected.session.want(state.wants.of(&name).unwrap().clone(), true);
        answer(&mut connected);
        state.fleets.insert(name.clone(), Fleet { edges: [("e-0".to_owned(), connected)].into(), ..Fleet::default() });
        let agent = key(Kind::McpAgent, "a");
        state.index.delete(&agent, None);
        let verdict = |state: &State, now| judge(state, &agent, &leaving(false), now);
        assert_eq!(verdict(&state, 1001), Verdict::Wait("its registration is being taken back by e-0".into()));
        assert_eq!(verdict(&state, 1000 + DEREGISTER_SECONDS), Verdict::Go);
        assert_eq!(judge(&state, &agent, &leaving(true), 1001), Verdict::Go);
        state.wants.update(&state.index);
        let wanted = state.wants.of(&name).unwrap().clone();
        let edge = state.fleets.get_mut(&name).unwrap().edges.get_mut("e-0").unwrap();
        edge.session.want(wanted, true);
        let delta = edge.session.poll(0).unwrap();
        assert!(matches!(verdict(&state, 1001), Verdict::Wait(_)), "it was told and has not answered");
        let edge = state.fleets.get_mut(&name).unwrap().edges.get_mut("e-0").unwrap();
        edge.session.results(&Results { nonce: delta.nonce, items: Vec::new() }).unwrap();
        assert_eq!(verdict(&state, 1001), Verdict::Go);
    }

    #[test]
    fn what_is_referred_to_stays() {
        let mut state = State {
            index: index([domain("d0", 1), agent("a", 1, "d0", None), policy("p", 1, "a")]),
            ..State::default()
        };
        let domain = key(Kind::SipDomain, "d0");
        let verdict = |state: &State| judge(state, &domain, &leaving(false), 1001);
        assert_eq!(verdict(&state), Verdict::Wait("is referred to by McpAgent acme/a".into()));
        state.index.delete(&key(Kind::McpAgent, "a"), None);
        assert_eq!(verdict(&state), Verdict::Go);
        assert_eq!(judge(&state, &domain, &Leaving { held: false, ..leaving(true) }, 1001), Verdict::NotOurs);
    }
}
