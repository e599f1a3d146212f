//! From what edges answer to what a person reads: pure.

use crate::identity::Identity;
use crate::queries::Answers;
use crate::serve::streams::AskError;
use crds::admin::{Edges, Erased, Export, Reason, Session, Sessions, SessionsQuestion, Why};
use edge_api::control::{Answer, SessionRow, answer};
use std::collections::BTreeMap;

/// Octets of an export of one edge; the stream allows no more parts.
const MAX_DOCUMENT: usize = 64 << 20;
/// Why an answer counts as none.
const FOREIGN: &str = "the edge answered something else; is it of another release?";

/// Sorts answers from silence.
fn sort(answers: Answers, edges: &mut Edges) -> Vec<(Identity, Vec<Answer>)> {
    let mut sorted = Vec::new();
    for (edge, answer) in answers {
        match answer {
            Ok(parts) => sorted.push((edge, parts)),
            Err(error) => silent(&edge, &error, edges),
        }
    }
    sorted
}

fn silent(edge: &Identity, why: &AskError, edges: &mut Edges) {
    edges.silent.insert(edge.id(), why.to_string());
}

/// Rows of other namespaces than the one that was asked for are nobody's business: the right was for that one.
pub fn sessions(answers: Answers, question: &SessionsQuestion, elsewhere: u32) -> Sessions {
    let mut all = Sessions { edges: Edges { elsewhere, ..Edges::default() }, ..Sessions::default() };
    for (edge, parts) in sort(answers, &mut all.edges) {
        let mut understood = false;
        for part in parts {
            let Some(answer::What::Sessions(part)) = part.what else { continue };
            understood = true;
            let rows = part.sessions.into_iter().filter_map(|row| session(row, &edge, question));
            all.sessions.extend(rows);
            if !part.next_page.is_empty() {
                all.pages.insert(edge.id(), part.next_page);
            }
        }
        answered(&edge, understood, &mut all.edges);
    }
    all
}

fn session(row: SessionRow, edge: &Identity, question: &SessionsQuestion) -> Option<Session> {
    let SessionRow { id, agent, caller, conversation, begun, last_used, in_flight, transport } = row;
    let agent = agent.unwrap_or_default();
    let namespace = question.namespace.as_ref().is_none_or(|namespace| agent.namespace == *namespace);
    let name = question.agent.as_ref().is_none_or(|name| agent.name == *name);
    (namespace && name).then(|| Session {
        id,
        edge: edge.id(),
        agent: format!("{}/{}", agent.namespace, agent.name),
        caller,
        conversation,
        begun,
        last_used,
        in_flight,
        transport,
    })
}

fn answered(edge: &Identity, understood: bool, edges: &mut Edges) {
    if understood {
        edges.answered.push(edge.id());
    } else {
        edges.silent.insert(edge.id(), FOREIGN.to_owned());
    }
}

/// Equal answers are one.
pub fn why(answers: Answers, elsewhere: u32) -> Why {
    let mut all = Why { edges: Edges { elsewhere, ..Edges::default() }, ..Why::default() };
    let mut by_answer = BTreeMap::<Reason, Vec<String>>::new();
    for (edge, parts) in sort(answers, &mut all.edges) {
        let said = parts.into_iter().find_map(|part| match part.what {
            Some(answer::What::Why(why)) => Some(why),
            _ => None,
        });
        answered(&edge, said.is_some(), &mut all.edges);
        if let Some(why) = said {
            let reason = Reason {
                allowed: why.allowed,
                rule: why.rule,
                policy: why.policy,
                explanation: why.explanation,
                edges: Vec::new(),
            };
            by_answer.entry(reason).or_default().push(edge.id());
        }
    }
    all.answers = by_answer.into_iter().map(|(reason, edges)| Reason { edges, ..reason }).collect();
    all
}

/// Adds the documents of some edges, one for each SipEdge.
pub fn export(answers: Answers, export: &mut Export) {
    for (edge, parts) in sort(answers, &mut export.edges) {
        let mut json = Vec::new();
        for part in parts {
            if let Some(answer::What::Export(part)) = part.what
                && json.len() + part.json.len() <= MAX_DOCUMENT
            {
                json.extend_from_slice(&part.json);
            }
        }
        let document = serde_json::from_slice(&json).ok();
        answered(&edge, document.is_some(), &mut export.edges);
        if let Some(document) = document {
            export.documents.insert(edge.edge.to_string(), document);
        }
    }
}

pub fn erase(answers: Answers, elsewhere: u32) -> Erased {
    let mut erased = Erased { edges: Edges { elsewhere, ..Edges::default() }, ..Erased::default() };
    for (edge, parts) in sort(answers, &mut erased.edges) {
        let mut understood = false;
        for part in parts {
            let Some(answer::What::Erase(part)) = part.what else { continue };
            understood = true;
            erased.records += u64::from(part.records);
            erased.sessions += u64::from(part.sessions);
        }
        answered(&edge, understood, &mut erased.edges);
    }
    erased
}
