//! Pods that are deleted, killed, and a store that goes: what callers see of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kube::ResourceExt;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::Fallible;
use crate::ensure;
use crate::harness::PATIENCE;
use crate::harness::cluster::{is_ready, said};
use crate::harness::figures::{bearable, ms, percentile, times, with};
use crate::harness::reach::Way;
use crate::harness::space::{Security, Space};
use crate::harness::wait::until;
use crate::manifests::{Fleet, agent};
use crate::runner::Outcome;
use crate::sip::Lost;
use crate::sip::link::Tls;
use crate::sip::phone::Phone;

pub const EDGES: u32 = 3;
pub const TLS_PORT: u16 = 5061;
pub const AGENT: &str = "echo";
/// Forced deletions of N1.
const DELETIONS: usize = 20;
/// Calls in flight at each of them.
const IN_FLIGHT: usize = 6;
/// What such a call takes when nothing happens.
const TOOL_SECONDS: f64 = 1.5;
/// From the death of its edge to its answer or typed error, beyond the tool's own time: the lease and a second.
const FATE: Duration = Duration::from_secs(6);
const LIMIT: Duration = Duration::from_secs(60);

/// A fleet behind TLS with one agent for callers with a name, and its certificate authority.
pub async fn world_of_calls(space: &Space<'_>, more: Value) -> Fallible<Tls> {
    world_for(space, more, false).await
}

/// The same, for callers without a name, too, if `anonymous`.
pub async fn world_for(space: &Space<'_>, more: Value, anonymous: bool) -> Fallible<Tls> {
    space.world.installed().await?;
    space.begin(Security::Restricted).await?;
    let authority = space.authority().await?;
    let mut fleet = Fleet::of(EDGES, &[("TLS", TLS_PORT)]);
    fleet.more = more;
    fleet.anonymous = anonymous;
    space.fleet(&fleet).await?;
    space.apply(&agent(space, AGENT)).await?;
    space.comes("McpAgent", AGENT, "Programmed", "True", None).await?;
    Ok(Tls { config: authority.client_config()?, domain: space.domain() })
}

/// A caller with every edge of the fleet as it stands. A pod that comes again has a new address, so callers are made for the fleet of the moment.
pub async fn phone(space: &Space<'_>, tls: &Tls) -> Fallible<Phone> {
    let mut ways = Vec::new();
    for pod in space.edge_pods().await?.iter().filter(|pod| is_ready(pod)) {
        ways.push(Way::to_pod(space.world, pod, TLS_PORT).await?);
    }
    Ok(Phone::new(ways, Some(tls.clone()), &space.domain(), true))
}

/// How often a tool of the agent has run.
pub async fn runs(phone: &Phone, uri: &str, tool: &str) -> Fallible<u64> {
    let answer = phone.page(uri, "executions", &json!({}), LIMIT).await?;
    let structured = answer["structuredContent"]["runs"][tool].as_u64();
    let text = answer["content"][0]["text"].as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
    Ok(structured.or_else(|| text.and_then(|value| value["runs"][tool].as_u64())).unwrap_or(0))
}

pub async fn deleted_pod(space: &Space<'_>) -> Fallible<Outcome> {
    let tls = world_of_calls(space, json!({})).await?;
    let (phone, uri) = (phone(space, &tls).await?, format!("sip:{AGENT}@{}", space.domain()));
    phone.page(&uri, "echo", &json!({"text": "before"}), LIMIT).await?;
    let pods = space.edge_pods().await?;
    let (name, old) = (pods[0].name_any(), pods[0].metadata.uid.clone());
    let begin = Instant::now();
    space.world.kill_pod(&space.name, &name).await?;
    // The others answer at once.
    let answered = phone.page(&uri, "echo", &json!({"text": "after"}), LIMIT).await;
    let answered = answered.map(|_| begin.elapsed()).map_err(|lost| format!("after {name} was deleted: {lost}"))?;
    until("the pod to come again", PATIENCE, || async {
        let pod = space.world.pods(&space.name).get(&name).await.map_err(said("read it"))?;
        ensure!(pod.metadata.uid != old && is_ready(&pod), "it is not there yet");
        Ok(())
    })
    .await?;
    let ready = begin.elapsed();
    space.edges_ready(EDGES).await?;
    let connected = begin.elapsed();
    // The new one got its configuration and the old one's state.
    let way =
        Way::to_pod(space.world, &space.world.pods(&space.name).get(&name).await.map_err(said("read it"))?, TLS_PORT)
            .await?;
    let alone = Phone::new(vec![way], Some(tls), &space.domain(), true);
    alone.page(&uri, "echo", &json!({"text": "anew"}), LIMIT).await?;
    space.world.figures.tell(
        "pod-deleted",
        json!({"next_answer_ms": ms(answered), "pod_ready_ms": ms(ready), "fleet_ready_ms": ms(connected)}),
    )?;
    Ok(Outcome::Passed)
}

#[derive(Default)]
struct Fates {
    answered: usize,
    typed: usize,
    silent: Vec<String>,
    wrong: Vec<String>,
    times: Vec<Duration>,
}

impl Fates {
    fn known(&mut self, took: Duration, typed: bool) {
        *(if typed { &mut self.typed } else { &mut self.answered }) += 1;
        self.times.push(took);
    }
}

/// N1: at each deletion calls of a tool that must not run twice are in flight on every edge. Each ends with an answer or a typed error, and none
/// has run twice.
pub async fn forced_deletions(space: &Space<'_>) -> Fallible<Outcome> {
    let tls = world_of_calls(space, json!({})).await?;
    let uri = format!("sip:{AGENT}@{}", space.domain());
    let (mut fates, mut started) = (Fates::default(), 0);
    for round in 0..DELETIONS {
        space.edges_ready(EDGES).await?;
        let pods = space.edge_pods().await?;
        let victim = pods[round % pods.len()].name_any();
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..IN_FLIGHT {
            let (phone, uri) = (phone(space, &tls).await?, uri.clone());
            started += 1;
            calls.spawn(async move {
                let dialog = phone.invite(&uri, LIMIT).await?;
                let ended = phone.call(&dialog, "sleep", &json!({"seconds": TOOL_SECONDS}), LIMIT).await;
                let at = Instant::now();
                // Whoever has an answer hangs up.
                let _ = phone.bye(&dialog, Duration::from_secs(4)).await;
                phone.quit().await;
                Ok::<_, Lost>((at, ended))
            });
        }
        // All of them are in the tool.
        sleep(Duration::from_secs_f64(TOOL_SECONDS / 2.0)).await;
        let killed = Instant::now();
        space.world.kill_pod(&space.name, &victim).await?;
        while let Some(ended) = calls.join_next().await {
            let (at, fate) = ended.map_err(|error| error.to_string())??;
            let took = at.saturating_duration_since(killed);
            match fate {
                Ok(_) => fates.known(took, false),
                Err(lost) if lost.is_typed() => fates.known(took, true),
                Err(Lost::Silence(why)) => fates.silent.push(format!("round {round}, {victim}: {why}")),
                Err(lost) => fates.wrong.push(format!("round {round}, {victim}: {lost}")),
            }
        }
    }
    space.edges_ready(EDGES).await?;
    let ran = runs(&phone(space, &tls).await?, &uri, "sleep").await?;
    let doubles = ran.saturating_sub(started);
    let more = json!({
        "deletions": DELETIONS, "calls": started, "answered": fates.answered, "retryable": fates.typed, "silent": fates.silent.len(),
        "refused": fates.wrong.len(), "executions": ran, "double_executions": doubles, "goal_ms": ms(FATE),
    });
    space.world.figures.tell("forced-pod-deletions", with(times(&fates.times), more))?;
    ensure!(fates.silent.is_empty(), "{} calls ended in silence:\n{}", fates.silent.len(), fates.silent.join("\n"));
    ensure!(fates.wrong.is_empty(), "{} calls were refused:\n{}", fates.wrong.len(), fates.wrong.join("\n"));
    ensure!(doubles == 0, "the tool ran {ran} times for {started} calls");
    bearable("the fate of a call after its edge died (ms)", ms(percentile(&fates.times, 0.99)), ms(FATE))?;
    Ok(Outcome::Passed)
}

/// Restarts of every edge's container, by pod.
pub async fn restarts(space: &Space<'_>) -> Fallible<Vec<(String, i32)>> {
    let pods = space.edge_pods().await?;
    let count = |pod: &k8s_openapi::api::core::v1::Pod| {
        let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
        statuses.into_iter().flatten().map(|status| status.restart_count).sum()
    };
    Ok(pods.iter().map(|pod| (pod.name_any(), count(pod))).collect())
}

/// Calls without a pause, until `stop`: how many there were, and what went wrong.
pub async fn calling(phone: Arc<Phone>, uri: String, stop: Arc<AtomicBool>) -> (usize, Vec<String>) {
    let (mut made, mut wrong) = (0, Vec::new());
    while !stop.load(Ordering::Relaxed) {
        made += 1;
        if let Err(lost) = phone.page(&uri, "echo", &json!({"text": "still here"}), LIMIT).await {
            wrong.push(lost.to_string());
        }
        sleep(Duration::from_millis(50)).await;
    }
    (made, wrong)
}
