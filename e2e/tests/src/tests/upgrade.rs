//! A fleet that is exchanged under load, drained, and made smaller.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt, stream};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::faults::{AGENT, EDGES, TLS_PORT, phone, world_of_calls};
use crate::Fallible;
use crate::ensure;
use crate::harness::PATIENCE;
use crate::harness::cluster::said;
use crate::harness::figures::{ms, times, with};
use crate::harness::reach::{Way, reaches};
use crate::harness::space::Space;
use crate::harness::wait::{until, until_every};
use crate::manifests::EDGE;
use crate::runner::Outcome;
use crate::sip::Lost;
use crate::sip::link::Tls;
use crate::sip::phone::{Dialog, Phone};

const RATE: u32 = 50;
/// Callers with a connection of their own.
const CALLERS: usize = 12;
/// Dialogs that stand the whole time.
const STANDING: usize = 500;
/// Of those, requests at one time.
const AT_ONCE: usize = 8;
/// A call that takes longer, fail-over included, has failed.
const LIMIT: Duration = Duration::from_secs(4);
/// Calls at one time; a machine that cannot keep up shows failed calls, not a growing heap.
const OPEN: usize = 400;
/// N2, for the whole fleet.
const GOAL: Duration = Duration::from_secs(120);

#[derive(Default)]
struct Tally {
    made: AtomicUsize,
    failed: Mutex<Vec<String>>,
    times: Mutex<Vec<Duration>>,
}

/// INVITE, a tool call and its answer, BYE.
async fn call(phone: &Phone, uri: &str) -> Result<(), Lost> {
    let dialog = phone.invite(uri, LIMIT).await?;
    let answer = phone.call(&dialog, "echo", &json!({"text": "hi"}), LIMIT).await;
    // Also where it failed: whoever gives a call up hangs up.
    let ended = phone.bye(&dialog, LIMIT).await;
    answer.and(ended)
}

/// A caller knows the fleet of the moment: pods that come again have new addresses.
struct Callers {
    phones: Mutex<Vec<Arc<Phone>>>,
}

impl Callers {
    fn get(&self, number: usize) -> Option<Arc<Phone>> {
        let phones = self.phones.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        phones.get(number % phones.len().max(1)).cloned()
    }

    fn set(&self, phones: Vec<Arc<Phone>>) {
        *self.phones.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = phones;
    }
}

/// Callers of the Service, as callers are: a new connection goes to an edge that is ready. Where this machine has no way there, of the pods.
async fn phones(space: &Space<'_>, tls: &Tls) -> Fallible<Vec<Arc<Phone>>> {
    let ip = space.cluster_ip(EDGE).await?;
    let ip: IpAddr = ip.parse().map_err(|_| format!("the Service's address is {ip}"))?;
    let service = SocketAddr::new(ip, TLS_PORT);
    let direct = reaches(service).await;
    let mut phones = Vec::new();
    for _ in 0..CALLERS {
        let phone = match direct {
            true => {
                let ways = vec![Way::Direct(service); EDGES as usize];
                Phone::new(ways, Some(tls.clone()), &space.domain(), true)
            }
            false => phone(space, tls).await?,
        };
        phones.push(Arc::new(phone));
    }
    Ok(phones)
}

async fn load(callers: Arc<Callers>, uri: String, tally: Arc<Tally>, stop: Arc<AtomicBool>) {
    let mut tick = tokio::time::interval(Duration::from_secs(1) / RATE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let open = Arc::new(tokio::sync::Semaphore::new(OPEN));
    let mut calls = JoinSet::new();
    for number in 0.. {
        tick.tick().await;
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let Some(phone) = callers.get(number) else { break };
        let Ok(place) = open.clone().acquire_owned().await else { break };
        let (uri, tally) = (uri.clone(), tally.clone());
        calls.spawn(async move {
            let begin = Instant::now();
            let ended = call(&phone, &uri).await;
            let took = begin.elapsed();
            tally.made.fetch_add(1, Ordering::Relaxed);
            let failure = match ended {
                Ok(()) if took <= LIMIT => None,
                Ok(()) => Some(format!("complete after {:.1} s", took.as_secs_f32())),
                Err(lost) => Some(lost.to_string()),
            };
            match failure {
                None => tally.times.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(took),
                Some(why) => tally.failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(why),
            }
            drop(place);
        });
        while calls.try_join_next().is_some() {}
    }
    while calls.join_next().await.is_some() {}
}

/// P12 and N2: every edge is exchanged, one after another, while calls come and dialogs stand.
pub async fn under_load(space: &Space<'_>) -> Fallible<Outcome> {
    let tls = world_of_calls(space, json!({"drain": {"settleSeconds": 2, "inFlightSeconds": 10, "dialogSeconds": 5}}))
        .await?;
    let uri = format!("sip:{AGENT}@{}", space.domain());
    let backend =
        space.world.api("apps/v1", "Deployment", &space.name).get("echo").await.map_err(said("read the backend"))?;
    let first = phones(space, &tls).await?;
    let callers = Arc::new(Callers { phones: Mutex::new(first.clone()) });
    let standing: Vec<Arc<Dialog>> = stream::iter(0..STANDING)
        .map(|number| {
            let (phone, uri) = (first[number % first.len()].clone(), uri.clone());
            async move { phone.invite(&uri, PATIENCE).await.map(Arc::new) }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
        .map_err(|lost| format!("a dialog that is to stand: {lost}"))?;
    let (tally, stop) = (Arc::new(Tally::default()), Arc::new(AtomicBool::new(false)));
    let mut loading = JoinSet::new();
    loading.spawn(load(callers.clone(), uri, tally.clone(), stop.clone()));
    let begin = Instant::now();
    let rolled = roll(space, &tls, &callers).await;
    let took = begin.elapsed();
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = loading.join_next().await {
        ended.map_err(|error| error.to_string())?;
    }
    rolled?;
    // Whoever stood on an edge that went finds the dialog at another one.
    let now = phones(space, &tls).await?;
    let dropped: Vec<String> = stream::iter(standing.into_iter().enumerate())
        .map(|(number, dialog)| {
            let phone = now[number % now.len()].clone();
            async move { phone.is_alive(&dialog, PATIENCE).await.err().map(String::from) }
        })
        .buffer_unordered(AT_ONCE)
        .filter_map(|lost| async move { lost })
        .collect()
        .await;
    let after =
        space.world.api("apps/v1", "Deployment", &space.name).get("echo").await.map_err(said("read the backend"))?;
    let failed = tally.failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    let good = tally.times.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    let made = tally.made.load(Ordering::Relaxed);
    let moves: u64 = first.iter().map(|phone| phone.moves.load(Ordering::Relaxed)).sum();
    let more = json!({
        "calls": made, "failed": failed.len(), "rate_per_s": RATE, "dialogs": STANDING, "dialogs_dropped": dropped.len(), "moves": moves,
        "upgrade_ms": ms(took), "goal_failed": 0, "goal_upgrade_ms": ms(GOAL),
    });
    space.world.figures.tell("rolling-upgrade", with(times(&good), more))?;
    ensure!(
        made > 0 && failed.is_empty(),
        "{} of {made} calls failed:\n{}",
        failed.len(),
        failed[..failed.len().min(10)].join("\n")
    );
    ensure!(
        dropped.is_empty(),
        "{} of {STANDING} dialogs are gone:\n{}",
        dropped.len(),
        dropped[..dropped.len().min(10)].join("\n")
    );
    ensure!(after.metadata.uid == backend.metadata.uid, "the backend was made anew");
    ensure!(took < GOAL * 10, "the upgrade took {} s", took.as_secs());
    Ok(Outcome::Passed)
}

/// A new template; ends when every pod is of it and the fleet is ready. Callers learn of new pods as they come.
async fn roll(space: &Space<'_>, tls: &Tls, callers: &Callers) -> Fallible<()> {
    let old: Vec<_> = space.edge_pods().await?.into_iter().map(|pod| pod.metadata.uid).collect();
    let edges = space.world.ours("SipEdge", &space.name);
    let overlay = json!({"spec": {"overlay": {"metadata": {"annotations": {"sipmcp.dev/e2e": "next"}}}}});
    space.world.merge(&edges, EDGE, &overlay).await?;
    let known = Mutex::new(old.clone());
    until_every("the fleet to be exchanged", GOAL * 4, Duration::from_millis(500), || {
        let (known, old) = (&known, &old);
        async move {
            let pods = space.edge_pods().await?;
            // One at a time: never more than one is missing.
            let ready = pods.iter().filter(|pod| crate::harness::cluster::is_ready(pod)).count();
            let now: Vec<_> = pods.iter().map(|pod| pod.metadata.uid.clone()).collect();
            let is_known = *known.lock().unwrap_or_else(std::sync::PoisonError::into_inner) == now;
            if !is_known && ready == EDGES as usize {
                callers.set(phones(space, tls).await?);
                known.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone_from(&now);
            }
            let left = now.iter().filter(|uid| old.contains(uid)).count();
            ensure!(left == 0 && ready == EDGES as usize, "{left} old pods, {ready} ready");
            Ok(())
        }
    })
    .await?;
    space.edges_ready(EDGES).await
}

/// N11: an edge that drains says so in SIP, before it is gone.
pub async fn options_while_draining(space: &Space<'_>) -> Fallible<Outcome> {
    let tls = world_of_calls(space, json!({"drain": {"settleSeconds": 10, "inFlightSeconds": 10, "dialogSeconds": 5}}))
        .await?;
    let pod = space.edge_pods().await?.remove(0);
    let name = pod.name_any();
    let way = Way::to_pod(space.world, &pod, TLS_PORT).await?;
    let only = Phone::new(vec![way], Some(tls), &space.domain(), true);
    let uri = format!("sip:{AGENT}@{}", space.domain());
    only.options(&uri, Duration::from_secs(20)).await.map_err(|lost| format!("before the drain: {lost}"))?;
    let params = kube::api::DeleteParams::default();
    let begin = Instant::now();
    space.world.pods(&space.name).delete(&name, &params).await.map(drop).map_err(said("delete the pod"))?;
    until_every("OPTIONS to be answered with 503", Duration::from_secs(25), Duration::from_millis(50), || async {
        match only.options(&uri, Duration::from_millis(800)).await {
            Err(Lost::Refused(503, _)) => Ok(()),
            Err(lost) => Err(format!("{lost}")),
            Ok(()) => Err("200".to_owned()),
        }
    })
    .await?;
    space.world.figures.tell("options-503-after-deletion", json!({"total_ms": ms(begin.elapsed())}))?;
    space.edges_ready(EDGES).await?;
    Ok(Outcome::Passed)
}

/// Fewer edges by the subresource that an autoscaler writes: the last one is drained and goes, the others stay.
pub async fn scale(space: &Space<'_>) -> Fallible<Outcome> {
    let autoscaling = json!({"minReplicas": 2, "maxReplicas": 5, "target": {"activeSessionsPerPod": 800}});
    let tls = world_of_calls(space, json!({"autoscaling": autoscaling})).await?;
    let before = space.edge_pods().await?;
    let edges = space.world.ours("SipEdge", &space.name);
    let scale = edges.get_scale(EDGE).await.map_err(said("read the scale"))?;
    let selector = scale.status.as_ref().and_then(|status| status.selector.clone()).unwrap_or_default();
    ensure!(selector.contains(EDGE), "the scale's selector is {selector:?}");
    let hpa = space.world.api("autoscaling/v2", "HorizontalPodAutoscaler", &space.name);
    let target =
        hpa.get(EDGE).await.map_err(said("read the autoscaler"))?.data["spec"]["scaleTargetRef"]["kind"].clone();
    ensure!(target == "SipEdge", "the autoscaler scales {target}");
    let patch = Patch::Merge(json!({"spec": {"replicas": EDGES - 1}}));
    edges.patch_scale(EDGE, &PatchParams::default(), &patch).await.map_err(said("write the scale"))?;
    space.edges_ready(EDGES - 1).await?;
    let after: Vec<_> = space.edge_pods().await?.into_iter().map(|pod| (pod.name_any(), pod.metadata.uid)).collect();
    let stayed: Vec<_> = before.into_iter().take(after.len()).map(|pod| (pod.name_any(), pod.metadata.uid)).collect();
    ensure!(after == stayed, "{stayed:?} should have stayed, {after:?} are there");
    phone(space, &tls)
        .await?
        .page(&format!("sip:{AGENT}@{}", space.domain()), "echo", &json!({"text": "fewer"}), Duration::from_secs(20))
        .await?;
    // Nobody puts it back: from now on the number is the autoscaler's.
    let edge = until("the SipEdge's status", PATIENCE, || async {
        let edge = edges.get(EDGE).await.map_err(said("read it"))?;
        ensure!(edge.data["status"]["replicas"] == EDGES - 1, "{}", edge.data["status"]["replicas"]);
        Ok(edge)
    })
    .await?;
    ensure!(edge.data["spec"]["replicas"] == EDGES - 1, "replicas were put back to {}", edge.data["spec"]["replicas"]);
    Ok(Outcome::Passed)
}
