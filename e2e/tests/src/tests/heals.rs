//! What an object refers to goes and comes back: condition, reason, event; nobody else notices.

use std::time::Duration;

use k8s_openapi::api::core::v1::Event;
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use serde_json::json;

use super::faults::{AGENT, phone, restarts, world_of_calls};
use crate::Fallible;
use crate::ensure;
use crate::harness::PATIENCE;
use crate::harness::cluster::{has, said};
use crate::harness::space::{Security, Space};
use crate::harness::wait::{stays, until};
use crate::manifests::{EDGE, Fleet, STORE, TLS, agent, tenant};
use crate::runner::Outcome;

const LIMIT: Duration = Duration::from_secs(20);

/// An event about an object of ours that names this reason.
async fn event(space: &Space<'_>, kind: &str, name: &str, reason: &str) -> Fallible<()> {
    let events = Api::<Event>::namespaced(space.world.client.clone(), &space.name);
    until(&format!("an event {reason} of {kind} {name}"), PATIENCE, || async {
        let list = events.list(&ListParams::default()).await.map_err(said("list events"))?;
        let of = |event: &&Event| {
            event.involved_object.kind.as_deref() == Some(kind) && event.involved_object.name.as_deref() == Some(name)
        };
        let about: Vec<String> =
            list.items.iter().filter(of).map(|e| format!("{:?} {:?}", e.reason, e.message)).collect();
        ensure!(about.iter().any(|text| text.contains(reason)), "there are {about:?}");
        Ok(())
    })
    .await
}

async fn delete(space: &Space<'_>, kind: &str, name: &str) -> Fallible<()> {
    let api = space.world.api("v1", kind, &space.name);
    api.delete(name, &DeleteParams::default()).await.map(drop).map_err(said(&format!("delete {kind} {name}")))
}

pub async fn lost_reference(space: &Space<'_>) -> Fallible<Outcome> {
    let tls = world_of_calls(space, json!({})).await?;
    let (phone, uri) = (phone(space, &tls).await?, format!("sip:{AGENT}@{}", space.domain()));
    let (phone, uri) = (&phone, &*uri);
    let say = |text: &'static str| async move { phone.page(uri, "echo", &json_text(text), LIMIT).await };

    // The backend of one agent; another one is as it was.
    let mut lonely = agent(space, "lonely");
    lonely["spec"]["backend"]["mcpHttp"]["serviceRef"]["name"] = json!("nowhere");
    space.apply(&lonely).await?;
    space.comes("McpAgent", "lonely", "ResolvedRefs", "False", Some("BackendNotFound")).await?;
    space.comes("McpAgent", "lonely", "Ready", "False", None).await?;
    event(space, "McpAgent", "lonely", "BackendNotFound").await?;
    say("beside it").await.map_err(|lost| format!("an agent beside one without a backend: {lost}"))?;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "nowhere"},
        "spec": {"selector": {"app": "echo"}, "ports": [{"port": 3900}]},
    });
    space.apply(&service).await?;
    space.comes("McpAgent", "lonely", "ResolvedRefs", "True", None).await?;
    space.comes("McpAgent", "lonely", "Programmed", "True", None).await?;
    let found = format!("sip:lonely@{}", space.domain());
    until("the agent to answer", PATIENCE, || async {
        phone.page(&found, "echo", &json_text("found"), LIMIT).await.map(drop).map_err(String::from)
    })
    .await?;

    // The certificate of the listeners: who is connected stays, and the edges do not fall over.
    delete(space, "Secret", TLS).await?;
    space.comes("SipEdge", EDGE, "ResolvedRefs", "False", Some("SecretNotFound")).await?;
    event(space, "SipEdge", EDGE, "SecretNotFound").await?;
    stays("connected callers are served", Duration::from_secs(3), || async {
        say("still").await.map(drop).map_err(String::from)
    })
    .await?;
    let authority = space.authority().await?;
    space.comes("SipEdge", EDGE, "ResolvedRefs", "True", None).await?;
    space.comes("SipEdge", EDGE, "Programmed", "True", None).await?;
    // The new one is in use without a restart.
    let anew = crate::sip::link::Tls { config: authority.client_config()?, domain: space.domain() };
    let other = super::faults::phone(space, &anew).await?;
    until("the new certificate to be shown", PATIENCE, || async {
        other.page(uri, "echo", &json_text("anew"), LIMIT).await.map(drop).map_err(String::from)
    })
    .await?;

    // The users of the domain: nobody gets in by a password that nobody can check.
    delete(space, "Secret", "users").await?;
    let domains = space.world.ours("SipDomain", "");
    let name = space.own("tenant");
    let stands = |status: &'static str, reason: Option<&'static str>| {
        let (domains, name) = (domains.clone(), name.clone());
        async move {
            until(&format!("ResolvedRefs={status} of the domain"), PATIENCE, || async {
                has(&domains.get(&name).await.map_err(said("read the domain"))?, "ResolvedRefs", status, reason)
            })
            .await
        }
    };
    stands("False", Some("SecretNotFound")).await?;
    space.apply_all(&tenant(space, true)).await?;
    stands("True", None).await?;
    until("calls to be taken again", PATIENCE, || async {
        other.page(uri, "echo", &json_text("healed"), LIMIT).await.map(drop).map_err(String::from)
    })
    .await?;
    Ok(Outcome::Passed)
}

/// A store that is not there yet: the edges wait for it and say so, none of them ends, and when it comes all is well.
pub async fn late_store(space: &Space<'_>) -> Fallible<Outcome> {
    space.world.installed().await?;
    space.begin(Security::Restricted).await?;
    space.store_to_be().await?;
    space.echo().await?;
    space.apply_all(&tenant(space, true)).await?;
    space.apply(&Fleet::of(2, &[("TCP", 5060)]).object()).await?;
    space.comes("SessionStore", STORE, "Reachable", "False", None).await?;
    let edges = space.world.ours("SipEdge", &space.name);
    stays("nobody is ready, and nobody falls over", Duration::from_secs(15), || async {
        let fallen: i32 = restarts(space).await?.iter().map(|(_, count)| count).sum();
        ensure!(fallen == 0, "{fallen} restarts");
        let edge = edges.get(EDGE).await.map_err(said("read the SipEdge"))?;
        ensure!(has(&edge, "Ready", "True", None).is_err(), "the SipEdge is ready without its store");
        Ok(())
    })
    .await?;
    space.store().await?;
    space.edges_ready(2).await?;
    space.comes("SessionStore", STORE, "Reachable", "True", None).await?;
    Ok(Outcome::Passed)
}

fn json_text(text: &str) -> serde_json::Value {
    json!({"text": text})
}
