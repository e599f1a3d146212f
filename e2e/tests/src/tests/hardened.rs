//! What a pod of ours could do if somebody got into it: nothing.

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::faults::world_of_calls;
use super::rights::as_token;
use crate::Fallible;
use crate::ensure;
use crate::harness::cluster::{SYSTEM, World, said};
use crate::harness::install::OPERATORS;
use crate::harness::reach::exec;
use crate::harness::space::Space;
use crate::runner::Outcome;

const TOKEN: &str = "/var/run/sipmcp/token/token";
const AUDIENCE: &str = "sipmcp-edge";

/// What the specification of a pod says.
fn specified(pod: &Pod) -> Fallible<()> {
    let name = pod.name_any();
    let spec = serde_json::to_value(pod.spec.as_ref()).map_err(|error| error.to_string())?;
    ensure!(spec["securityContext"]["runAsNonRoot"] == true, "{name} may run as root");
    ensure!(spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault", "{name} has no seccomp profile");
    for flag in ["hostNetwork", "hostPID", "hostIPC"] {
        ensure!(spec[flag] != true, "{name} has {flag}");
    }
    for container in spec["containers"].as_array().into_iter().flatten() {
        let context = &container["securityContext"];
        let holds = context["readOnlyRootFilesystem"] == true
            && context["allowPrivilegeEscalation"] == false
            && context["capabilities"]["drop"] == json!(["ALL"])
            && context["capabilities"]["add"].is_null()
            && context["privileged"] != true;
        ensure!(holds, "{name}: {context}");
    }
    for volume in spec["volumes"].as_array().into_iter().flatten() {
        ensure!(volume["hostPath"].is_null(), "{name} has a folder of its node: {volume}");
    }
    Ok(())
}

/// What the kernel says of its first process.
async fn runs(world: &World, pod: &Pod, container: &str) -> Fallible<()> {
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    let script = "cat /proc/1/status; touch /usr/x 2>&1; ls /var/run/secrets/kubernetes.io/serviceaccount 2>&1; true";
    let said = exec(world, &namespace, &name, container, &["sh", "-c", script]).await?;
    let value = |field: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
        line.trim_start_matches(':').split_whitespace().next().unwrap_or_default().to_owned()
    };
    ensure!(value("Uid") == "65532", "{name} runs as {}", value("Uid"));
    ensure!(
        value("CapEff").chars().all(|c| c == '0') && !value("CapEff").is_empty(),
        "{name} has capabilities {}",
        value("CapEff")
    );
    ensure!(value("NoNewPrivs") == "1", "{name} may get more privileges");
    ensure!(value("Seccomp") == "2", "{name} has no seccomp filter");
    ensure!(said.contains("Read-only file system"), "{name} can write to its root: {said}");
    Ok(())
}

async fn review(world: &World, token: &str, audiences: Option<&str>) -> Fallible<bool> {
    let audiences = audiences.map(|audience| vec![audience.to_owned()]);
    let review = TokenReview { spec: TokenReviewSpec { token: token.to_owned(), audiences }, ..TokenReview::default() };
    let answer = Api::<TokenReview>::all(world.client.clone()).create(&PostParams::default(), &review).await;
    let status = answer.map_err(said("review a token"))?.status.unwrap_or_default();
    Ok(status.authenticated == Some(true))
}

pub async fn pods(space: &Space<'_>) -> Fallible<Outcome> {
    let world = space.world;
    // The namespace enforces the profile `restricted`, so that the pods are there says something already.
    world_of_calls(space, json!({})).await?;
    let edges = space.edge_pods().await?;
    let operators = world.pods_of(SYSTEM, OPERATORS).await?;
    ensure!(!edges.is_empty() && !operators.is_empty(), "no pods");
    for pod in edges.iter().chain(&operators) {
        specified(pod)?;
    }
    for pod in &operators {
        runs(world, pod, "operator").await?;
    }
    for pod in &edges {
        runs(world, pod, "edge").await?;
        edge(world, pod).await?;
    }
    Ok(Outcome::Passed)
}

/// The one token in an edge is for the operator; the API server does not know its bearer.
async fn edge(world: &World, pod: &Pod) -> Fallible<()> {
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    let spec = serde_json::to_value(pod.spec.as_ref()).map_err(|error| error.to_string())?;
    ensure!(spec["automountServiceAccountToken"] == false, "{name} gets a token of the API server");
    let sources = |volume: &Value| volume["projected"]["sources"].as_array().cloned().unwrap_or_default();
    let volumes = spec["volumes"].as_array().cloned().unwrap_or_default();
    let audiences: Vec<String> = volumes
        .iter()
        .flat_map(sources)
        .filter_map(|source| source["serviceAccountToken"]["audience"].as_str().map(str::to_owned))
        .collect();
    ensure!(audiences == [AUDIENCE], "{name} has tokens for {audiences:?}");
    let token = exec(world, &namespace, &name, "edge", &["cat", TOKEN]).await?;
    let token = token.trim();
    ensure!(review(world, token, Some(AUDIENCE)).await?, "{name}: its token is not good for the operator");
    ensure!(!review(world, token, None).await?, "{name}: its token is good for the API server");
    let pods = Api::<Pod>::namespaced(as_token(world, token)?, &namespace);
    match pods.get(&name).await {
        Err(kube::Error::Api(status)) if status.code == 401 => Ok(()),
        other => Err(format!("{name}: with its token the API server says {other:?}")),
    }
}
