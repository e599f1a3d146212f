//! What an operator's user asks of this edge.

use std::sync::Arc;
use std::time::Duration;

use edge_api::control::query::What;
use edge_api::control::{
    Answer, EraseAnswer, ExportAnswer, Query, SessionRow, SessionsAnswer, SessionsQuery, WhyAnswer, WhyQuery, answer,
};
use edge_core::config::Config;
use edge_core::sessions::{Asked, LiveSession};
use mcp_sip::policy::{Arguments, Decision, Policies, Principal, Request};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::report::{Reporter, message};
use crate::conversations::{self, Failure};
use crate::driver::Parts;
use crate::driver::ingress::Control;

/// Sessions of one answer, as the contract has it, and of a part of it.
const MAX_SESSIONS: usize = 1000;
const SESSIONS_PER_PART: usize = 250;
/// For the answer of a core.
const SHARD_TIME: Duration = Duration::from_secs(2);
/// Octets of a part of an export, as the contract has it.
const PART: usize = 1 << 20;
/// Octets of one whole answer.
const MAX_ANSWER: usize = 48 << 20;

/// Every query has an answer, in as many parts as it needs.
pub async fn answer(reporter: &Reporter, query: Query) -> Vec<Answer> {
    let id = query.id;
    let parts = match about(reporter, query).await {
        Ok(parts) => parts,
        Err(why) => vec![answer::What::Error(why)],
    };
    let last = parts.len().saturating_sub(1);
    let answer = |(at, what)| Answer { query_id: id, more: at < last, what: Some(what) };
    parts.into_iter().enumerate().map(answer).collect()
}

async fn about(reporter: &Reporter, query: Query) -> Result<Vec<answer::What>, String> {
    let starts = || "this edge starts".to_owned();
    let parts = reporter.parts.get().ok_or_else(starts)?;
    let config = reporter.status.config().ok_or_else(starts)?;
    let told = |failure: Failure| match failure {
        Failure::NoUuid => "a conversation is named by its UUID".to_owned(),
        Failure::Store(error) => error.to_string(),
    };
    match query.what {
        Some(What::Why(asked)) => Ok(vec![answer::What::Why(why(&config, &asked)?)]),
        Some(What::Export(asked)) => {
            let tenants = conversations::tenants(&config, Some(&asked.domain))?;
            let found =
                conversations::export(&parts.store, &config, &tenants, &asked.conversation).await.map_err(told)?;
            let found = found.ok_or_else(|| "nothing is stored of such a conversation".to_owned())?;
            let json = found.to_string();
            if json.len() > MAX_ANSWER {
                return Err(format!("it has {} octets, which is more than an answer may have", json.len()));
            }
            let json = bytes::Bytes::from(json);
            let part = |at: usize| json.slice(at..json.len().min(at + PART));
            Ok((0..json.len()).step_by(PART).map(|at| answer::What::Export(ExportAnswer { json: part(at) })).collect())
        }
        Some(What::Erase(asked)) => {
            let tenants = conversations::tenants(&config, Some(&asked.domain))?;
            let erased =
                conversations::erase(&parts.store, &config, &tenants, &asked.conversation).await.map_err(told)?;
            let records = erased.as_ref().and_then(|erased| erased["erased"].as_u64()).unwrap_or(0);
            let records = u32::try_from(records).unwrap_or(u32::MAX);
            Ok(vec![answer::What::Erase(EraseAnswer { records, sessions: 0 })])
        }
        Some(What::Sessions(asked)) => Ok(sessions(parts, &asked).await?),
        None => Err("a question of a later release".to_owned()),
    }
}

/// One page, in as many parts as it needs; the last one says whether there are more.
async fn sessions(parts: &Parts, query: &SessionsQuery) -> Result<Vec<answer::What>, String> {
    let after = match &*query.page {
        "" => None,
        page => Some(read_id(page).ok_or_else(|| format!("{page:?} is no page of an answer"))?),
    };
    let limit = usize::try_from(query.limit).unwrap_or(MAX_SESSIONS).clamp(1, MAX_SESSIONS);
    let asked = Asked {
        domain: query.domain.to_ascii_lowercase(),
        agent: query.agent.as_ref().map(|key| format!("{}/{}", key.namespace, key.name)),
        after,
        // One more, by which it is known whether there are any.
        limit: limit + 1,
    };
    let asked = Arc::new(asked);
    let mut asking = Vec::new();
    for shard in parts.shards.handles() {
        let (answer, rows) = oneshot::channel();
        let order = Control::Sessions { asked: asked.clone(), answer };
        let sent = timeout(SHARD_TIME, shard.control.send(order)).await;
        asking.push(matches!(sent, Ok(Ok(()))).then_some(rows));
    }
    let mut rows = Vec::new();
    for shard in asking {
        // Half a list would be taken for the whole.
        let late = || "a core of this edge is too busy to answer; ask again".to_owned();
        let of_shard = timeout(SHARD_TIME, shard.ok_or_else(late)?).await;
        rows.extend(of_shard.ok().and_then(Result::ok).ok_or_else(late)?);
    }
    rows.sort_by_key(|row| row.id);
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next_page = rows.last().filter(|_| more).map(|row| hex(&row.id)).unwrap_or_default();
    let rows: Vec<SessionRow> = rows.into_iter().map(row).collect();
    let mut answers: Vec<SessionsAnswer> = rows
        .chunks(SESSIONS_PER_PART)
        .map(|part| SessionsAnswer { sessions: part.to_vec(), next_page: String::new() })
        .collect();
    if answers.is_empty() {
        answers.push(SessionsAnswer::default());
    }
    if let Some(last) = answers.last_mut() {
        last.next_page = next_page;
    }
    Ok(answers.into_iter().map(answer::What::Sessions).collect())
}

fn row(session: LiveSession) -> SessionRow {
    let seconds = |at: sip_proto::time::UnixMillis| i64::try_from(at.0 / 1000).unwrap_or(i64::MAX);
    SessionRow {
        id: hex(&session.id),
        agent: message(&session.agent),
        caller: session.caller,
        conversation: session.conversation,
        begun: seconds(session.begun),
        last_used: seconds(session.last_used),
        in_flight: u32::try_from(session.in_flight).unwrap_or(u32::MAX),
        transport: session.transport.to_owned(),
    }
}

fn hex(id: &[u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(*id))
}

fn read_id(text: &str) -> Option<[u8; 16]> {
    let is_hex = text.len() == 32 && text.bytes().all(|octet| octet.is_ascii_hexdigit());
    is_hex.then(|| u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)).flatten()
}

fn why(config: &Config, asked: &WhyQuery) -> Result<WhyAnswer, String> {
    let key = asked.agent.as_ref().map(|key| format!("{}/{}", key.namespace, key.name)).unwrap_or_default();
    let agent = config.agents.values().find(|agent| agent.key == key);
    let agent = agent.ok_or_else(|| format!("McpAgent {key} is not served here"))?;
    let domain = config.domains.get(&agent.domain).ok_or_else(|| format!("{} is not served here", agent.domain))?;
    let principal = match &*asked.caller {
        "" => Principal::Anonymous,
        caller => Principal::User(caller),
    };
    let subject = (!asked.param.is_empty()).then_some(&*asked.param);
    let policies = Policies { agent: &agent.policies, domain: &domain.policies };
    // Nobody asks with arguments: a rule with a condition allows where that condition holds.
    let request = Request::method(principal, &asked.method, subject, Arguments::Unknown);
    let Decision { allowed, policy, rule } = policies.evaluate(&request);
    let word = if allowed { "allowed" } else { "denied" };
    let explanation = match (policy, rule) {
        (Some(policy), Some(rule)) => format!("{word} by rule {rule:?} of policy {policy}"),
        (Some(policy), None) => format!("{word}: no rule of policy {policy} is about it, so its default holds"),
        (None, _) => "denied: no policy is for this agent, and nothing is allowed without one".to_owned(),
    };
    Ok(WhyAnswer {
        allowed,
        rule: policy.zip(rule).map(|(policy, rule)| format!("{policy}/{rule}")).unwrap_or_default(),
        policy: policy.unwrap_or_default().to_owned(),
        explanation,
    })
}
