//! More operators than one, and none.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kube::ResourceExt;
use serde_json::json;

use super::faults::{AGENT, EDGES, TLS_PORT, calling, phone, restarts, world_of_calls};
use super::routable;
use crate::Fallible;
use crate::ensure;
use crate::harness::PATIENCE;
use crate::harness::cluster::{SYSTEM, World, is_ready, said};
use crate::harness::figures::{bearable, ms};
use crate::harness::install::OPERATORS;
use crate::harness::process::run;
use crate::harness::reach::{Way, exec, http, metric};
use crate::harness::space::{Security, Space};
use crate::harness::wait::{stays, until};
use crate::manifests::{Fleet, agent};
use crate::runner::Outcome;
use crate::sip::phone::Phone;

const OPERATOR_HEALTH: u16 = 8080;
pub const EDGE_HEALTH: u16 = 9091;
/// Until another replica writes: the Lease.
const TAKES_OVER: Duration = Duration::from_secs(30);
const LIMIT: Duration = Duration::from_secs(60);

/// Names of the replicas that say that they write.
async fn leaders(world: &World) -> Fallible<Vec<String>> {
    let mut found = Vec::new();
    for pod in world.pods_of(SYSTEM, OPERATORS).await?.iter().filter(|pod| is_ready(pod)) {
        // One that ends meanwhile has nothing to say.
        let Ok(text) = http(world, SYSTEM, &pod.name_any(), OPERATOR_HEALTH, "/metrics").await else { continue };
        if metric(&text, "sipmcp_operator_leader", "") == Some(1.0) {
            found.push(pod.name_any());
        }
    }
    Ok(found)
}

/// Exactly one writes: the Lease and the metrics agree.
async fn agreed(world: &World) -> Fallible<String> {
    let holder = world.writer().await?;
    let leaders = leaders(world).await?;
    ensure!(leaders == [holder.clone()], "holder {holder}, metrics {leaders:?}");
    Ok(holder)
}

pub async fn one_writer(space: &Space<'_>) -> Fallible<Outcome> {
    let world = space.world;
    world.installed().await?;
    space.begin(Security::Restricted).await?;
    space.fleet(&Fleet::of(EDGES, &[("TCP", 5060)])).await?;
    let replicas = world.pods_of(SYSTEM, OPERATORS).await?.len();
    if replicas < 2 {
        return Ok(Outcome::Skipped(format!("{replicas} replica of the operator runs")));
    }
    let first = until("one writer", PATIENCE, || agreed(world)).await?;
    stays("there is never a second writer", Duration::from_secs(5), || async {
        let leaders = leaders(world).await?;
        ensure!(leaders.len() <= 1, "{leaders:?}");
        Ok(())
    })
    .await?;
    let phones = routable::phones(space).await?;
    routable::one(space, &phones, "before").await?;
    let begin = Instant::now();
    world.kill_pod(SYSTEM, &first).await?;
    // Every replica tells its edges, whoever writes; those of the dead one come over.
    let alone = routable::one(space, &phones, "meanwhile").await?;
    // It did not let go of the Lease, so that one has to run out first.
    let second = until("another writer", TAKES_OVER * 4, || async {
        let leaders = leaders(world).await?;
        ensure!(leaders.len() <= 1, "{leaders:?} write at one time");
        let holder = agreed(world).await?;
        ensure!(holder != first, "the dead one holds the Lease");
        Ok(holder)
    })
    .await?;
    let took = begin.elapsed();
    // It writes: a new agent gets its status, from edges that came over.
    space.apply(&agent(space, AGENT)).await?;
    space.comes("McpAgent", AGENT, "Programmed", "True", None).await?;
    let whole = begin.elapsed();
    world.figures.tell(
        "writer-killed",
        json!({"new_writer_ms": ms(took), "status_again_ms": ms(whole), "routable_meanwhile_ms": ms(alone), "from": first, "to": second, "goal_ms": ms(TAKES_OVER)}),
    )?;
    world.operators_ready().await?;
    space.edges_ready(EDGES).await?;
    bearable("time without a writer (ms)", ms(took), ms(TAKES_OVER))?;
    bearable("from apply to routable without a writer (ms)", ms(alone), ms(routable::GOAL))?;
    Ok(Outcome::Passed)
}

/// Edges serve what they have; one whose container restarts reads it from its file; and when an operator is there again all is as before.
pub async fn without(space: &Space<'_>) -> Fallible<Outcome> {
    let world = space.world;
    let tls = world_of_calls(space, json!({})).await?;
    let uri = format!("sip:{AGENT}@{}", space.domain());
    let phone = Arc::new(phone(space, &tls).await?);
    let stop = Arc::new(AtomicBool::new(false));
    let mut load = tokio::task::JoinSet::new();
    load.spawn(calling(phone.clone(), uri.clone(), stop.clone()));
    world.operators_away().await?;
    let restarted = alone(space, &uri, &tls).await?;
    stop.store(true, Ordering::Relaxed);
    world.operators_back().await?;
    let ended = load.join_next().await.ok_or("no caller")?;
    let (made, wrong) = ended.map_err(|error| error.to_string())?;
    world.operators_ready().await?;
    space.edges_ready(EDGES).await?;
    space.comes("McpAgent", AGENT, "Ready", "True", None).await?;
    // What was written meanwhile arrives.
    space.comes("McpAgent", "late", "Programmed", "True", None).await?;
    world.figures.tell(
        "without-operator",
        json!({"calls": made, "failed": wrong.len(), "restart_from_file_ms": ms(restarted)}),
    )?;
    ensure!(
        made > 0 && wrong.is_empty(),
        "{} of {made} calls failed without an operator: {:?}",
        wrong.len(),
        wrong.first()
    );
    Ok(Outcome::Passed)
}

async fn alone(space: &Space<'_>, uri: &str, tls: &crate::sip::link::Tls) -> Fallible<Duration> {
    let world = space.world;
    until("the operator to be gone", PATIENCE, || async {
        let left = world.pods_of(SYSTEM, OPERATORS).await?;
        ensure!(left.is_empty(), "{} pods are there", left.len());
        Ok(())
    })
    .await?;
    space.apply(&agent(space, "late")).await?;
    let name = space.edge_pods().await?[0].name_any();
    let before = restarts(space).await?;
    let begin = Instant::now();
    // SIGTERM to its first process: it drains and ends, and the kubelet starts the container again with the same volume.
    exec(world, &space.name, &name, "edge", &["sh", "-c", "kill 1"]).await?;
    until("the edge to start again", PATIENCE, || async {
        let now = restarts(space).await?;
        let pod = world.pods(&space.name).get(&name).await.map_err(said("read the pod"))?;
        ensure!(now != before && is_ready(&pod), "{now:?}, ready {}", is_ready(&pod));
        Ok(())
    })
    .await?;
    let took = begin.elapsed();
    let text = http(world, &space.name, &name, EDGE_HEALTH, "/metrics").await?;
    let connected = metric(&text, "sipmcp_edge_stream_connected", "");
    ensure!(connected == Some(0.0), "stream_connected is {connected:?} without an operator");
    let pod = world.pods(&space.name).get(&name).await.map_err(said("read the pod"))?;
    let way = Way::to_pod(world, &pod, TLS_PORT).await?;
    let only = Phone::new(vec![way], Some(tls.clone()), &space.domain(), true);
    let said = only.page(uri, "echo", &json!({"text": "from a file"}), LIMIT).await;
    said.map_err(|lost| format!("the edge that started without an operator: {lost}"))?;
    // `check` says what is missing, and does not hang.
    let checked = run(world, "kubectl", &["sipmcp", "check", "-n", &space.name], Duration::from_secs(60)).await?;
    ensure!(checked.code == 2, "without an operator: {}", checked.told());
    Ok(took)
}
