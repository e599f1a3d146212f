//! A node whose cable is pulled: the status says what is true, and everything comes back by itself.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::json;

use super::faults::{AGENT, EDGES, TLS_PORT, world_of_calls};
use crate::Fallible;
use crate::ensure;
use crate::harness::PATIENCE;
use crate::harness::cluster::{SYSTEM, condition, is_ready, said};
use crate::harness::figures::{bearable, ms};
use crate::harness::reach::Way;
use crate::harness::space::Space;
use crate::harness::wait::{until, until_every};
use crate::runner::Outcome;
use crate::sip::phone::Phone;

/// The control plane's node, which stays.
const STAYS: &str = "node1";
const GOES: &str = "node2";
/// Until the status says so.
const GOAL: Duration = Duration::from_secs(15);
const LIMIT: Duration = Duration::from_secs(20);

/// A cable that is pulled, as long as this lives.
struct Cut {
    program: PathBuf,
    prefix: String,
}

impl Cut {
    fn new(space: &Space<'_>, prefix: &str) -> Fallible<Cut> {
        let cut = Cut { program: space.world.args.root.join("scripts/cluster.sh"), prefix: prefix.to_owned() };
        cut.run("cut")?;
        Ok(cut)
    }

    fn run(&self, what: &str) -> Fallible<()> {
        let mut command = Command::new(&self.program);
        command.args([what, GOES, "--prefix", &self.prefix]).stdin(Stdio::null());
        let output = command.output().map_err(|error| format!("{}: {error}", self.program.display()))?;
        ensure!(output.status.success(), "cluster.sh {what}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        // Done again it does nothing.
        let _ = self.run("heal");
    }
}

fn node(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

/// What is not to be cut off goes to the node that stays.
async fn settle(space: &Space<'_>) -> Fallible<()> {
    let deployments = space.world.api("apps/v1", "Deployment", &space.name);
    let pinned = json!({"spec": {"template": {"spec": {"nodeSelector": {"kubernetes.io/hostname": STAYS}}}}});
    for app in ["redis", "echo"] {
        space.world.merge(&deployments, app, &pinned).await?;
        until(&format!("{app} on {STAYS}"), PATIENCE, || async {
            let pods = space.world.pods_of(&space.name, &format!("app={app}")).await?;
            ensure!(pods.len() == 1 && pods.iter().all(|pod| is_ready(pod) && node(pod) == STAYS), "not yet");
            Ok(())
        })
        .await?;
    }
    until("a writer that stays", PATIENCE, || async {
        let writer = space.world.writer().await?;
        let pod = space.world.pods(SYSTEM).get(&writer).await.map_err(said("read the writer"))?;
        if node(&pod) == GOES {
            // The other replica writes when its Lease has run out.
            space.world.kill_pod(SYSTEM, &writer).await?;
        }
        ensure!(node(&pod) == STAYS && is_ready(&pod), "{writer} is on {}", node(&pod));
        Ok(())
    })
    .await
}

pub async fn node_cut_off(space: &Space<'_>) -> Fallible<Outcome> {
    let world = space.world;
    let Some(prefix) = &world.args.cluster else {
        return Ok(Outcome::Skipped("only a cluster of scripts/cluster.sh has a cable that can be pulled".to_owned()));
    };
    let nodes =
        Api::<Node>::all(world.client.clone()).list(&ListParams::default()).await.map_err(said("list nodes"))?;
    if !nodes.items.iter().any(|node| node.name_any() == GOES) {
        return Ok(Outcome::Skipped("there is one node only".to_owned()));
    }
    let tls = world_of_calls(space, json!({})).await?;
    settle(space).await?;
    space.edges_ready(EDGES).await?;
    let pods = space.edge_pods().await?;
    let stay: Vec<&Pod> = pods.iter().filter(|pod| node(pod) == STAYS).collect();
    if stay.is_empty() || stay.len() == pods.len() {
        return Err(format!("{} of {} edges are on {STAYS}: they are not spread", stay.len(), pods.len()));
    }
    let mut ways = Vec::new();
    for pod in &stay {
        ways.push(Way::to_pod(world, pod, TLS_PORT).await?);
    }
    let phone = Phone::new(ways, Some(tls), &space.domain(), true);
    let uri = format!("sip:{AGENT}@{}", space.domain());
    let agents = world.ours("McpAgent", &space.name);
    let expected = format!("{}/{EDGES}", stay.len());

    let begin = Instant::now();
    let cut = Cut::new(space, prefix)?;
    until_every("the status to say that an edge is missing", GOAL * 10, Duration::from_millis(100), || async {
        let agent = agents.get(AGENT).await.map_err(said("read the agent"))?;
        let summary = agent.data["status"]["edges"]["summary"].as_str().unwrap_or_default();
        match condition(&agent, "Programmed") {
            Some((status, reason, _))
                if status == "False" && reason == "PartiallyProgrammed" && summary == expected =>
            {
                Ok(())
            }
            other => Err(format!("{summary}, {other:?}")),
        }
    })
    .await?;
    let told = begin.elapsed();
    let answer = phone.page(&uri, "echo", &json!({"text": "still here"}), LIMIT).await;
    answer.map_err(|lost| format!("an edge that was not cut off: {lost}"))?;
    cut.run("heal")?;
    let healed = Instant::now();
    space.edges_ready(EDGES).await?;
    space.comes("McpAgent", AGENT, "Programmed", "True", None).await?;
    world.figures.tell(
        "edge-cut-off",
        json!({"status_ms": ms(told), "healed_ms": ms(healed.elapsed()), "goal_ms": ms(GOAL), "edges": expected}),
    )?;
    world.operators_ready().await?;
    bearable("time until the status is true (ms)", ms(told), ms(GOAL))?;
    Ok(Outcome::Passed)
}
