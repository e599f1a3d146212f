//! What an operator's user asks of this edge.

use edge_api::control::query::What;
use edge_api::control::{Answer, EraseAnswer, ExportAnswer, Query, WhyAnswer, WhyQuery, answer};
use edge_core::config::Config;
use mcp_sip::policy::{Arguments, Decision, Policies, Principal, Request};

use super::report::Reporter;
use crate::conversations::{self, Failure};

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
        Some(What::Sessions(_)) => Err("this release cannot list the sessions of an edge".to_owned()),
        None => Err("a question of a later release".to_owned()),
    }
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
