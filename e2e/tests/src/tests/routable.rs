//! From `apply` to an answer of the agent on every edge of a fleet.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt, stream};
use kube::ResourceExt;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::Fallible;
use crate::ensure;
use crate::harness::cluster::{SYSTEM, World, said};
use crate::harness::figures::{bearable, ms, percentile, times, with};
use crate::harness::install::OPERATORS;
use crate::harness::reach::{Way, http};
use crate::harness::space::{Security, Space};
use crate::manifests::{Fleet, agent};
use crate::runner::Outcome;
use crate::sip::Lost;
use crate::sip::phone::Phone;
use crate::tests::operators::EDGE_HEALTH;

const EDGES: u32 = 3;
const PORT: u16 = 5060;
/// p99 with a thousand agents.
pub const GOAL: Duration = Duration::from_secs(1);
/// Agents that are measured one by one.
const MEASURED: usize = 100;
/// Objects that are written at one time, where nothing is measured.
const AT_ONCE: usize = 16;
/// Between two questions to one edge.
const PAUSE: Duration = Duration::from_millis(10);
/// So long an agent may take; ten times its goal is a failure in any case.
const LIMIT: Duration = Duration::from_secs(30);
/// All of a fleet's agents, and nothing but the one that changed.
const DELTA_OCTETS: u64 = 16 * 1024;

/// One caller for each edge: what one edge answers says nothing of the others.
pub async fn phones(space: &Space<'_>) -> Fallible<Vec<Arc<Phone>>> {
    let mut phones = Vec::new();
    for pod in space.edge_pods().await? {
        let way = Way::to_pod(space.world, &pod, PORT).await?;
        phones.push(Arc::new(Phone::new(vec![way], None, &space.domain(), false)));
    }
    Ok(phones)
}

/// When this edge has passed on an answer of the agent's tool. Until it knows the address it refuses.
async fn answers(phone: &Phone, uri: &str) -> Fallible<Instant> {
    let end = Instant::now() + LIMIT;
    loop {
        match phone.page(uri, "echo", &json!({"text": "here"}), LIMIT).await {
            Ok(answer) if answer["content"][0]["text"] == "here" => return Ok(Instant::now()),
            Ok(answer) => return Err(format!("{uri} said {answer}")),
            Err(lost) if Instant::now() >= end => return Err(format!("{uri}: {lost}")),
            Err(Lost::Refused(..) | Lost::Rpc(..) | Lost::Edge(_) | Lost::Silence(_)) => sleep(PAUSE).await,
        }
    }
}

/// Writes an agent, and says how long it took until every edge passed on its answer; `apply` itself counts.
pub async fn one(space: &Space<'_>, phones: &[Arc<Phone>], user: &str) -> Fallible<Duration> {
    let (object, uri) = (agent(space, user), format!("sip:{user}@{}", space.domain()));
    let begin = Instant::now();
    space.world.create(&space.name, &object).await?;
    let all = futures_util::future::try_join_all(phones.iter().map(|phone| answers(phone, &uri))).await?;
    Ok(all.into_iter().max().map_or(Duration::ZERO, |last| last.duration_since(begin)))
}

/// [`MEASURED`] agents one after another.
async fn measured(space: &Space<'_>, phones: &[Arc<Phone>], prefix: &str) -> Fallible<Vec<Duration>> {
    let mut found = Vec::new();
    for number in 0..MEASURED {
        found.push(one(space, phones, &format!("{prefix}-{number}")).await?);
    }
    Ok(found)
}

/// Many agents at once: how long the API server took, and how long until the last one answered on every edge.
async fn many(space: &Space<'_>, phones: &[Arc<Phone>], prefix: &str, count: usize) -> Fallible<(Duration, Duration)> {
    let begin = Instant::now();
    stream::iter(0..count)
        .map(|number| {
            let object = agent(space, &format!("{prefix}-{number}"));
            async move { space.world.create(&space.name, &object).await.map(drop) }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await?;
    let written = begin.elapsed();
    // Deltas arrive in order; the last ones that were written are asked.
    for number in count.saturating_sub(AT_ONCE)..count {
        let uri = format!("sip:{prefix}-{number}@{}", space.domain());
        futures_util::future::try_join_all(phones.iter().map(|phone| answers(phone, &uri))).await?;
    }
    Ok((written, begin.elapsed()))
}

/// Megabytes in use by the containers of these pods, the largest of them.
async fn megabytes(world: &World, namespace: &str, labels: &str) -> Fallible<f64> {
    let mut most: f64 = 0.0;
    for pod in world.pods_of(namespace, labels).await? {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
        let request = http::Request::get(format!("/api/v1/nodes/{node}/proxy/stats/summary")).body(Vec::new());
        let stats: Value = world
            .client
            .request(request.map_err(|error| error.to_string())?)
            .await
            .map_err(said("read a node's statistics"))?;
        let name = pod.name_any();
        let of = stats["pods"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|of| of["podRef"]["name"] == name && of["podRef"]["namespace"] == namespace);
        let octets = of.and_then(|of| of["containers"][0]["memory"]["workingSetBytes"].as_f64());
        most = most.max(octets.unwrap_or(0.0) / 1e6);
    }
    Ok((most * 10.0).round() / 10.0)
}

async fn memory(space: &Space<'_>) -> Value {
    let edges = megabytes(space.world, &space.name, "app.kubernetes.io/name=sipmcp-edge").await;
    let operators = megabytes(space.world, SYSTEM, OPERATORS).await;
    // A user who may not see nodes gets the times without it.
    json!({"edge_mb": edges.ok(), "operator_mb": operators.ok()})
}

/// Octets that the pods of the fleet have received over their network.
async fn received(space: &Space<'_>) -> Fallible<u64> {
    const METRIC: &str = "sipmcp_edge_config_received_bytes_total ";
    let mut sum = 0;
    for pod in space.edge_pods().await? {
        let text = http(space.world, &space.name, &pod.name_any(), EDGE_HEALTH, "/metrics").await?;
        let value = text.lines().find_map(|line| line.strip_prefix(METRIC)?.trim().parse::<u64>().ok());
        sum += value.ok_or_else(|| format!("no {METRIC}in {text}"))?;
    }
    Ok(sum)
}

/// Changes one agent of many, and says how much configuration the edges received for it.
async fn delta(space: &Space<'_>, user: &str) -> Fallible<(Duration, u64)> {
    let api = space.world.ours("McpAgent", &space.name);
    space.comes("McpAgent", user, "Programmed", "True", None).await?;
    let (before, begin) = (received(space).await?, Instant::now());
    space.world.merge(&api, user, &json!({"spec": {"session": {"maxConcurrent": 77}}})).await?;
    space.comes("McpAgent", user, "Programmed", "True", None).await?;
    let took = begin.elapsed();
    Ok((took, received(space).await?.saturating_sub(before)))
}

pub async fn thousand(space: &Space<'_>) -> Fallible<Outcome> {
    let world = space.world;
    world.installed().await?;
    space.begin(Security::Restricted).await?;
    space.fleet(&Fleet::of(EDGES, &[("TCP", PORT)])).await?;
    let phones = phones(space).await?;
    let few = measured(space, &phones, "few").await?;
    let goal = json!({"goal_ms": ms(GOAL), "edges": EDGES});
    world.figures.tell("apply-to-routable-100", with(times(&few), goal.clone()))?;
    let (written, converged) = many(space, &phones, "crowd", 1000 - MEASURED).await?;
    world.figures.tell(
        "converge-1000",
        json!({"written_ms": ms(written), "total_ms": ms(converged), "agents": 1000 - MEASURED}),
    )?;
    let crowd = measured(space, &phones, "more").await?;
    world.figures.tell("apply-to-routable-1000", with(with(times(&crowd), goal), memory(space).await))?;
    bearable("p99 with 100 agents (ms)", ms(percentile(&few, 0.99)), ms(GOAL))?;
    bearable("p99 with 1000 agents (ms)", ms(percentile(&crowd, 0.99)), ms(GOAL))?;
    let (took, octets) = delta(space, "crowd-500").await?;
    world.figures.tell("one-agent-changed-1000", json!({"status_ms": ms(took), "edges_received_octets": octets}))?;
    ensure!(octets < DELTA_OCTETS, "one agent of 1100 changed, and {octets} octets came to the edges");
    Ok(Outcome::Passed)
}

pub async fn scale(space: &Space<'_>) -> Fallible<Outcome> {
    let world = space.world;
    world.installed().await?;
    space.begin(Security::Restricted).await?;
    space.fleet(&Fleet::of(EDGES, &[("TCP", PORT)])).await?;
    let phones = phones(space).await?;
    let count = world.args.agents as usize;
    let (written, converged) = many(space, &phones, "crowd", count).await?;
    let whole = json!({"written_ms": ms(written), "total_ms": ms(converged), "agents": count});
    world.figures.tell(&format!("converge-{count}"), with(whole, memory(space).await))?;
    let found = measured(space, &phones, "more").await?;
    world.figures.tell(&format!("apply-to-routable-{count}"), times(&found))?;
    let (took, octets) = delta(space, "crowd-50").await?;
    world
        .figures
        .tell(&format!("one-agent-changed-{count}"), json!({"status_ms": ms(took), "edges_received_octets": octets}))?;
    ensure!(octets < DELTA_OCTETS, "one agent of {count} changed, and {octets} octets came to the edges");
    Ok(Outcome::Passed)
}
