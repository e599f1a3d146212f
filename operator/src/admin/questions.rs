//! From what a person asks to what is asked of which edge, and the right that it needs: pure.

use super::access::Action;
use super::{Problem, problem};
use crate::board::State;
use crate::identity::Identity;
use crate::key::{Key, Kind};
use crate::plan::fleet::{DrainOrder, Edge};
use crate::queries::holders;
use crds::admin::{
    ConversationQuestion, DRAIN_RESOURCE, DrainQuestion, Drains, MAX_SESSIONS, SESSIONS_RESOURCE, SessionsQuestion,
    WhyQuestion,
};
use crds::manifest::ObjectKey;
use edge_api::control::query::What;
use edge_api::control::{DrainReport, DrainState, SessionsQuery, WhyQuery};
use hyper::StatusCode;
use std::collections::BTreeMap;

/// Octets of a SIP URI, of a method, of a name, of an id.
const MAX_TEXT: usize = 1024;
/// Octets of a call's arguments.
const MAX_ARGUMENTS: usize = 64 << 10;
/// Octets of a page's name.
const MAX_PAGE: usize = 4096;

/// A domain, and who serves it.
#[derive(Debug, PartialEq, Eq)]
pub struct Domain {
    /// The SIP domain, lower case.
    pub name: String,
    pub holders: Vec<Identity>,
    pub elsewhere: u32,
}

/// An agent, and who serves it.
#[derive(Debug, PartialEq, Eq)]
pub struct Agent {
    /// Name of its SipDomain.
    pub domain: String,
    pub holders: Vec<Identity>,
    pub elsewhere: u32,
}

pub fn may_list(question: &SessionsQuestion) -> Action {
    let namespace = question.namespace.clone().unwrap_or_default();
    Action { verb: "list", resource: SESSIONS_RESOURCE, name: question.domain.clone(), namespace }
}

/// `domain`: of the agent; empty where there is no such agent.
pub fn may_explain(question: &WhyQuestion, domain: &str) -> Action {
    let namespace = question.namespace.clone();
    Action { verb: "get", resource: SESSIONS_RESOURCE, name: domain.to_owned(), namespace }
}

pub fn may_drain(question: &DrainQuestion) -> Action {
    let namespace = question.namespace.clone();
    Action { verb: "create", resource: DRAIN_RESOURCE, name: question.edge.clone(), namespace }
}

pub fn may_touch(question: &ConversationQuestion, verb: &'static str) -> Action {
    Action { verb, resource: SESSIONS_RESOURCE, name: question.domain.clone(), namespace: String::new() }
}

/// By the name of the SipDomain.
pub fn domain(state: &State, name: &str) -> Option<Domain> {
    let domain = state.index.domain(name)?.object.spec.domain.to_ascii_lowercase();
    let (holders, elsewhere) = holders(state, &Key::of(Kind::SipDomain, "", name));
    Some(Domain { name: domain, holders, elsewhere })
}

pub fn agent(state: &State, question: &WhyQuestion) -> Option<Agent> {
    let key = Key::of(Kind::McpAgent, &*question.namespace, &*question.agent);
    let domain = state.index.agent(&key.object)?.object.spec.address.domain_ref.name.clone();
    let (holders, elsewhere) = holders(state, &key);
    Some(Agent { domain, holders, elsewhere })
}

/// # Errors
/// It makes no sense.
pub fn sessions(
    question: &SessionsQuestion,
    domain: &str,
    holders: &[Identity],
) -> Result<BTreeMap<Identity, What>, Problem> {
    let wrong = |message: &str| Err(problem(StatusCode::BAD_REQUEST, message));
    if question.agent.is_some() && question.namespace.is_none() {
        return wrong("agent needs namespace");
    }
    if question.limit.is_some_and(|limit| !(1..=MAX_SESSIONS).contains(&limit)) {
        return wrong(&format!("limit: 1 to {MAX_SESSIONS}"));
    }
    if question.pages.values().any(|page| page.len() > MAX_PAGE) {
        return wrong("pages: as they came with the answer before");
    }
    let agent = question.namespace.as_ref().zip(question.agent.as_ref());
    let agent = agent.map(|(namespace, name)| Key::of(Kind::McpAgent, &**namespace, &**name).to_message());
    let query = |page: &str| {
        What::Sessions(SessionsQuery {
            domain: domain.to_owned(),
            agent: agent.clone(),
            limit: question.limit.unwrap_or(MAX_SESSIONS),
            page: page.to_owned(),
        })
    };
    let first = question.pages.is_empty();
    let asked = holders.iter().filter_map(|edge| match question.pages.get(&edge.id()) {
        Some(page) => Some((edge.clone(), query(page))),
        None => first.then(|| (edge.clone(), query(""))),
    });
    Ok(asked.collect())
}

/// # Errors
/// It makes no sense.
pub fn why(question: &WhyQuestion) -> Result<WhyQuery, Problem> {
    let wrong = |message: String| Err(problem(StatusCode::BAD_REQUEST, message));
    for (name, text) in [("caller", &question.caller), ("method", &question.method), ("param", &question.param)] {
        if text.len() > MAX_TEXT {
            return wrong(format!("{name}: at most {MAX_TEXT} octets"));
        }
    }
    if question.method.is_empty() {
        return wrong("method: for example tools/call".to_owned());
    }
    let arguments = question.arguments.as_ref().map(serde_json::to_vec);
    let arguments = match arguments.transpose() {
        Ok(arguments) => arguments.unwrap_or_default(),
        Err(error) => return wrong(format!("arguments: {error}")),
    };
    if arguments.len() > MAX_ARGUMENTS {
        return wrong(format!("arguments: at most {MAX_ARGUMENTS} octets"));
    }
    Ok(WhyQuery {
        agent: Some(Key::of(Kind::McpAgent, &*question.namespace, &*question.agent).to_message()),
        caller: question.caller.clone(),
        method: question.method.clone(),
        param: question.param.clone(),
        arguments: arguments.into(),
    })
}

/// # Errors
/// It makes no sense.
pub fn conversation(question: &ConversationQuestion) -> Result<String, Problem> {
    if question.conversation.is_empty() || question.conversation.len() > MAX_TEXT {
        return Err(problem(StatusCode::BAD_REQUEST, format!("conversation: 1 to {MAX_TEXT} octets")));
    }
    Ok(question.conversation.clone())
}

/// Gives the order, takes it back, or only looks. The pod has a stream to some replica; its answer is how far it was when it last reported.
///
/// # Errors
/// There is no such pod.
pub fn drain(state: &mut State, question: &DrainQuestion, person: &str) -> Result<Drains, Problem> {
    let key = ObjectKey::new(&question.namespace, &question.edge);
    let missing = |message: String| problem(StatusCode::NOT_FOUND, message);
    let unknown = || problem(StatusCode::SERVICE_UNAVAILABLE, "this operator does not know the pods yet; try again");
    let spec = state.index.edge(&key).map(|edge| edge.object.spec.drain.total_seconds());
    if spec.is_none() && state.index.awaited().contains(&Kind::SipEdge) {
        return Err(unknown());
    }
    if spec.is_none() && question.look {
        // Its pods go with it.
        let uid = question.uid.clone().unwrap_or_default();
        return Ok(Drains { state: "Gone".to_owned(), uid, ..Drains::default() });
    }
    let longest = spec.ok_or_else(|| missing(format!("SipEdge {key} is not there")))?;
    let longest = u32::try_from(longest.clamp(1, 86_400)).unwrap_or(86_400);
    let wrong = |message: &str| Err(problem(StatusCode::BAD_REQUEST, message));
    if question.deadline_seconds.is_some_and(|seconds| !(1..=86_400).contains(&seconds)) {
        return wrong("deadlineSeconds: 1 to 86400");
    }
    if question.look && (question.cancel || question.deadline_seconds.is_some()) {
        return wrong("look goes with neither cancel nor deadlineSeconds: it orders nothing");
    }
    let uid = state.running.uid_of(&ObjectKey::new(&question.namespace, &question.pod)).map(str::to_owned);
    let fleet = state.fleets.get_mut(&key);
    if let (true, Some(wanted)) = (question.look, &question.uid) {
        return match uid {
            Some(uid) if uid == *wanted => {
                // Not connected for the moment, perhaps: its operator went away.
                let edge = fleet.as_ref().and_then(|fleet| fleet.edges.get(&question.pod));
                let ordered = fleet.as_ref().is_some_and(|fleet| fleet.by_hand.get(&question.pod) == Some(&uid));
                let now = edge.map_or_else(|| Drains { state: "Unknown".to_owned(), ..Drains::default() }, standing);
                Ok(Drains { uid, ordered, ..now })
            }
            None if !state.running.is_complete() => Err(unknown()),
            _ => Ok(Drains { state: "Gone".to_owned(), uid: wanted.clone(), ..Drains::default() }),
        };
    }
    let none = || missing(format!("pod {:?} of SipEdge {key} is not connected to this operator", question.pod));
    let fleet = fleet.filter(|fleet| fleet.edges.contains_key(&question.pod)).ok_or_else(none)?;
    if question.cancel {
        fleet.by_hand.remove(&question.pod);
        fleet.drains.remove(&question.pod);
    } else if !question.look {
        fleet.by_hand.insert(question.pod.clone(), uid.clone().ok_or_else(unknown)?);
        // An order that was given stays: with another deadline it would begin anew.
        fleet.drains.entry(question.pod.clone()).or_insert_with(|| DrainOrder {
            deadline_s: question.deadline_seconds.unwrap_or(longest),
            reason: format!("ordered by {person}"),
        });
    }
    let ordered = fleet.by_hand.contains_key(&question.pod);
    let now = fleet.edges.get(&question.pod).map(standing).unwrap_or_default();
    Ok(Drains { uid: uid.unwrap_or_default(), ordered, ..now })
}

fn standing(edge: &Edge) -> Drains {
    let Some(report) = &edge.drain else { return Drains { state: "Unknown".to_owned(), ..Drains::default() } };
    let state = match report.state() {
        DrainState::Unspecified => "Unknown",
        DrainState::None => "None",
        DrainState::Settling => "Settling",
        DrainState::Draining => "Draining",
        DrainState::Drained => "Drained",
    };
    let DrainReport { in_flight, dialogs, flows, .. } = *report;
    Drains { state: state.to_owned(), in_flight, dialogs, flows, ..Drains::default() }
}
