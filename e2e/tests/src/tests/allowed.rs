//! SEC-6: every tool call is decided by the policies of its agent and its tenant. And N9: a condition over arguments is held against the tools.

use std::time::Duration;

use serde_json::{Value, json};

use super::faults::{phone, runs, world_for};
use crate::Fallible;
use crate::ensure;
use crate::harness::PATIENCE;
use crate::harness::cluster::{condition, has, said};
use crate::harness::reach::Way;
use crate::harness::space::{Security, Space};
use crate::harness::wait::until;
use crate::manifests::{Fleet, Tenant, v1alpha1};
use crate::runner::Outcome;
use crate::sip::Lost;
use crate::sip::phone::Phone;

const PORT: u16 = 5060;
const LIMIT: Duration = Duration::from_secs(20);
/// What was decided is in force on every edge when its status says so; a caller may still be in front of it.
const AT_ONCE: Duration = Duration::from_secs(10);

fn policy(name: &str, target: (&str, &str), default: &str, rules: Value) -> Value {
    let targets = json!([{"kind": target.0, "name": target.1}]);
    v1alpha1("McpCapabilityPolicy", name, json!({"targetRefs": targets, "defaultAction": default, "rules": rules}))
}

/// A rule about tools, for every caller with credentials.
fn rule(name: &str, action: &str, tools: &[&str]) -> Value {
    json!([{"name": name, "methods": [{"name": "tools/call", "params": tools}], "action": action}])
}

/// One caller for each edge.
async fn callers(space: &Space<'_>, domain: &str) -> Fallible<Vec<Phone>> {
    let mut phones = Vec::new();
    for pod in space.edge_pods().await? {
        let way = Way::to_pod(space.world, &pod, PORT).await?;
        phones.push(Phone::new(vec![way], None, domain, true));
    }
    Ok(phones)
}

fn arguments(tool: &str) -> Value {
    match tool {
        "add" => json!({"a": 1, "b": 2}),
        "echo" => json!({"text": "hi"}),
        _ => json!({}),
    }
}

/// That every edge lets the call through.
async fn allowed(phones: &[Phone], uri: &str, tool: &str) -> Fallible<()> {
    for phone in phones {
        until(&format!("{tool} at {uri} to be allowed"), AT_ONCE, || async {
            phone.page(uri, tool, &arguments(tool), LIMIT).await.map(drop).map_err(String::from)
        })
        .await?;
    }
    Ok(())
}

/// That no edge does, and each says so.
async fn denied(phones: &[Phone], uri: &str, tool: &str) -> Fallible<()> {
    for phone in phones {
        until(&format!("{tool} at {uri} to be denied"), AT_ONCE, || async {
            match phone.page(uri, tool, &arguments(tool), LIMIT).await {
                Err(Lost::Refused(400..=499, _)) => Ok(()),
                Err(Lost::Rpc(..)) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await?;
    }
    Ok(())
}

/// What is allowed at one agent is denied at another one of the same tenant, and at another tenant; nothing is allowed without a rule; a Deny of
/// the domain wins. What was denied never got to the backend.
pub async fn sec_6_a_rule_counts_for_its_agent_and_tenant(space: &Space<'_>) -> Fallible<Outcome> {
    space.world.installed().await?;
    space.begin(Security::Restricted).await?;
    let (mine, other) = (Tenant::new(space, false), Tenant::other(space, false));
    for tenant in [&mine, &other] {
        // Without the policy that allows everything.
        space.apply_all(&tenant.objects(space)[..2]).await?;
    }
    for (tenant, user) in [(&mine, "first"), (&mine, "second"), (&other, "third")] {
        space.apply(&tenant.agent(space, user)).await?;
    }
    let tools = ["echo", "add", "executions"];
    space.apply(&policy("first-callers", ("McpAgent", "first"), "Deny", rule("some", "Allow", &tools))).await?;
    space.edges(&Fleet::of(2, &[("TCP", PORT)])).await?;
    for user in ["first", "second", "third"] {
        space.comes("McpAgent", user, "Programmed", "True", None).await?;
    }
    let (callers, strangers) = (callers(space, &mine.domain).await?, callers(space, &other.domain).await?);
    let (first, second, third) = (mine.uri("first"), mine.uri("second"), other.uri("third"));
    let comes = async |name: &str| space.comes("McpCapabilityPolicy", name, "Programmed", "True", None).await;
    comes("first-callers").await?;
    allowed(&callers, &first, "echo").await?;
    allowed(&callers, &first, "add").await?;
    let before = [runs(&callers[0], &first, "echo").await?, runs(&callers[0], &first, "add").await?];
    denied(&callers, &first, "count").await?;
    for tool in ["echo", "add", "count"] {
        denied(&callers, &second, tool).await?;
        denied(&strangers, &third, tool).await?;
        // A user of another tenant, whatever is allowed to the users of this one.
        denied(&strangers, &first, tool).await?;
        denied(&callers, &third, tool).await?;
    }
    // The domain has its word beside the agent's, and its Deny is the last one.
    let domain = space.own(mine.name);
    space.apply(&policy("no-sums", ("SipDomain", &domain), "Allow", rule("no-sums", "Deny", &["add"]))).await?;
    comes("no-sums").await?;
    for uri in [&first, &second] {
        denied(&callers, uri, "add").await?;
    }
    let after = [runs(&callers[0], &first, "echo").await?, runs(&callers[0], &first, "add").await?];
    ensure!(before == after, "what was denied ran: {before:?}, {after:?}");
    ensure!(runs(&callers[0], &first, "count").await? == 0, "a tool that nobody may call ran");
    allowed(&callers, &first, "echo").await?;
    // Where the agent has no policy, that of its domain decides alone.
    allowed(&callers, &second, "echo").await?;
    // The other tenant decides for itself.
    space.apply(&policy("third-callers", ("McpAgent", "third"), "Deny", rule("some", "Allow", &["add"]))).await?;
    comes("third-callers").await?;
    allowed(&strangers, &third, "add").await?;
    denied(&strangers, &third, "echo").await?;
    denied(&callers, &second, "add").await?;
    Ok(Outcome::Passed)
}

/// A policy about the sums of the agent.
fn sums(when: &str) -> Value {
    let rules = json!([
        {"name": "rest", "methods": [{"name": "tools/call", "params": ["echo"]}], "action": "Allow"},
        {
            "name": "small", "methods": [{"name": "tools/call", "params": ["add"]}], "phases": ["Call"], "action": "Allow",
            "when": when,
        },
    ]);
    policy("sums", ("McpAgent", super::faults::AGENT), "Deny", rules)
}

/// A condition that does not fit what the tool takes, as its edges reported it, says so with its field, and lets nobody through; mended it works.
pub async fn conditions(space: &Space<'_>) -> Fallible<Outcome> {
    let tls = world_for(space, json!({}), false).await?;
    let (phone, uri) = (phone(space, &tls).await?, format!("sip:{}@{}", super::faults::AGENT, space.domain()));
    let policies = space.world.ours("McpCapabilityPolicy", &space.name);
    let add = async |a: f64| phone.page(&uri, "add", &json!({"a": a, "b": 1}), LIMIT).await;
    let stands = async |status: &'static str, reason: Option<&'static str>, words: &str| {
        until(&format!("ResolvedRefs={status} with {words:?}"), PATIENCE, || async {
            let policy = policies.get("sums").await.map_err(said("read the policy"))?;
            has(&policy, "ResolvedRefs", status, reason)?;
            let (_, _, message) = condition(&policy, "ResolvedRefs").unwrap_or_default();
            ensure!(message.contains(words), "it says {message:?}");
            Ok(())
        })
        .await
    };
    for (when, words) in [
        // The tool has a and b.
        ("args.amount <= 100.0", "no argument amount"),
        // A number is no answer.
        ("args.a", "fails for arguments that the tool takes"),
    ] {
        space.apply(&sums(when)).await?;
        stands("False", Some("UnknownArgument"), "spec.rules[1].when").await?;
        stands("False", Some("UnknownArgument"), words).await?;
        until("nobody to be let through", AT_ONCE, || async {
            match add(1.0).await {
                Err(Lost::Refused(400..=499, _) | Lost::Rpc(..)) => Ok(()),
                other => Err(format!("{when}: {other:?}")),
            }
        })
        .await?;
        // The other rule of the same policy works.
        phone
            .page(&uri, "echo", &json!({"text": "hi"}), LIMIT)
            .await
            .map_err(|lost| format!("{when}, echo: {lost}"))?;
        space.apply(&sums("args.a <= 100.0")).await?;
        stands("True", None, "").await?;
        until("a small sum", AT_ONCE, || async { add(100.0).await.map(drop).map_err(String::from) }).await?;
        ensure!(matches!(add(101.0).await, Err(Lost::Refused(..) | Lost::Rpc(..))), "a large sum was let through");
    }
    Ok(Outcome::Passed)
}
