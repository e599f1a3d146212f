//! `kubectl sipmcp check`: what works, one line for each thing, and what to do about the rest. In the manner of `linkerd check`.

use crds::v1alpha1::{McpAgent, McpCapabilityPolicy, SessionStore, SipDomain, SipEdge};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::ListParams;
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;
use sip_proto::escape::escape;

use super::args::CheckArgs;
use super::{Cluster, forward, refused, text};
use crate::failure::{Exit, Failure};

const LEASE: &str = "sipmcp-operator-write";
const OPERATORS: &str = "app.kubernetes.io/name=sipmcp,app.kubernetes.io/component=operator";

/// Generation that was judged, and the conditions.
type Status = (Option<i64>, Vec<Condition>);

/// All kinds of ours have these two.
macro_rules! status {
    ($object:expr) => {
        $object.status.as_ref().map(|status| (status.observed_generation, status.conditions.clone()))
    };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Good,
    /// It may be on its way.
    Open,
    Bad,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    mark: Mark,
    what: String,
    /// What is wrong and what to do.
    why: String,
}

fn line(mark: Mark, what: impl Into<String>, why: impl Into<String>) -> Line {
    Line { mark, what: what.into(), why: why.into() }
}

pub async fn run(args: CheckArgs) -> Result<(), Failure> {
    if !args.files.is_empty() {
        return crate::commands::check::report(&crds::manifest::load_for_cluster(&args.files), args.json);
    }
    let cluster = Cluster::open(&args.cluster).await?;
    let mut lines = vec![server(&cluster).await?];
    lines.extend(operator(&cluster, &args.cluster.operator_namespace).await);
    let namespace = args.cluster.namespace.as_deref();
    objects::<SipDomain>(Api::all(cluster.client.clone()), "SipDomains", |o| status!(o), &mut lines).await;
    namespaced::<SessionStore>(&cluster, namespace, "SessionStores", |o| status!(o), &mut lines).await;
    namespaced::<SipEdge>(&cluster, namespace, "SipEdges", |o| status!(o), &mut lines).await;
    namespaced::<McpAgent>(&cluster, namespace, "McpAgents", |o| status!(o), &mut lines).await;
    namespaced::<McpCapabilityPolicy>(&cluster, namespace, "McpCapabilityPolicies", |o| status!(o), &mut lines).await;
    for line in &lines {
        show(line, args.json);
    }
    let bad = lines.iter().filter(|line| line.mark == Mark::Bad).count();
    if bad > 0 {
        let message = format!("{bad} problem{} found", if bad == 1 { "" } else { "s" });
        return Err(Failure { exit: Exit::Usage, message, code: None });
    }
    Ok(())
}

fn show(line: &Line, as_json: bool) {
    let Line { mark, what, why } = line;
    if as_json {
        let state = match mark {
            Mark::Good => "ok",
            Mark::Open => "pending",
            Mark::Bad => "failed",
        };
        return println!("{}", json!({ "check": what, "state": state, "message": why }));
    }
    let sign = match mark {
        Mark::Good => "√",
        Mark::Open => "‼",
        Mark::Bad => "×",
    };
    let text = if why.is_empty() { what.clone() } else { format!("{what}: {why}") };
    println!("{sign} {}", escape(text.as_bytes()));
}

async fn server(cluster: &Cluster) -> Result<Line, Failure> {
    let version = cluster.client.apiserver_version().await.map_err(|error| refused("ask the API server", &error))?;
    Ok(line(Mark::Good, format!("the API server answers ({})", version.git_version), ""))
}

async fn operator(cluster: &Cluster, namespace: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    let what = format!("operator in namespace {namespace}");
    let pods = Api::<Pod>::namespaced(cluster.client.clone(), namespace);
    match pods.list(&ListParams::default().labels(OPERATORS).limit(100)).await {
        Err(error) => lines.push(line(Mark::Bad, what, refused("list its pods", &error).message)),
        Ok(list) => {
            let ready = list.items.iter().filter(|pod| super::admin::is_ready(pod)).count();
            let (mark, why) = match (ready, list.items.len()) {
                (_, 0) => {
                    (Mark::Bad, "is not installed there; another one is named by --operator-namespace".to_owned())
                }
                (0, pods) => (Mark::Bad, format!("none of {pods} pods is ready; see their logs")),
                (ready, pods) if ready < pods => (Mark::Open, format!("{ready} of {pods} pods are ready")),
                (ready, _) => (Mark::Good, format!("{ready} ready")),
            };
            lines.push(line(mark, what, why));
        }
    }
    let leases = Api::<Lease>::namespaced(cluster.client.clone(), namespace);
    lines.push(match leases.get_opt(LEASE).await {
        Err(error) => line(Mark::Open, format!("Lease {LEASE}"), refused("read it", &error).message),
        Ok(lease) => held(lease.as_ref(), text::now()),
    });
    lines
}

/// Whether somebody writes.
fn held(lease: Option<&Lease>, now: i64) -> Line {
    let what = format!("Lease {LEASE}");
    let spec = lease.and_then(|lease| lease.spec.as_ref());
    let holder = spec.and_then(|spec| spec.holder_identity.as_deref()).filter(|holder| !holder.is_empty());
    let (Some(spec), Some(holder)) = (spec, holder) else {
        return line(Mark::Bad, what, "nobody holds it, so no status is written; see the logs of the operator");
    };
    let renewed = spec.renew_time.as_ref().map_or(0, |time| time.0.as_second());
    let life = i64::from(spec.lease_duration_seconds.unwrap_or(30));
    if renewed + life < now {
        return line(Mark::Bad, what, format!("{holder} has not renewed it for {}", text::age(now - renewed)));
    }
    line(Mark::Good, what, format!("held by {holder}"))
}

async fn namespaced<K>(
    cluster: &Cluster,
    namespace: Option<&str>,
    plural: &str,
    status: impl Fn(&K) -> Option<Status>,
    lines: &mut Vec<Line>,
) where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let api = match namespace {
        Some(namespace) => Api::namespaced(cluster.client.clone(), namespace),
        None => Api::all(cluster.client.clone()),
    };
    objects(api, plural, status, lines).await;
}

async fn objects<K>(api: Api<K>, plural: &str, status: impl Fn(&K) -> Option<Status>, lines: &mut Vec<Line>)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let found = match forward::all(&api, plural).await {
        Ok(found) => found,
        Err(failure) if failure.code == Some(404) => {
            let why = "the definitions are not installed; install the chart sipmcp-crds";
            return lines.push(line(Mark::Bad, plural, why));
        }
        Err(failure) => return lines.push(line(Mark::Bad, plural, failure.message)),
    };
    let before = lines.len();
    for object in &found {
        let name = match object.namespace() {
            Some(namespace) => format!("{} {namespace}/{}", K::kind(&()), object.name_any()),
            None => format!("{} {}", K::kind(&()), object.name_any()),
        };
        let generation = object.meta().generation;
        let why = judge(generation, status(object).as_ref());
        lines.extend(why.into_iter().map(|(mark, why)| line(mark, &*name, why)));
    }
    if lines.len() == before {
        lines.push(line(Mark::Good, plural, format!("{} in order", found.len())));
    }
}

/// What of an object is not as it should be.
fn judge(generation: Option<i64>, status: Option<&Status>) -> Vec<(Mark, String)> {
    let Some((observed, conditions)) = status else {
        return vec![(Mark::Open, "has no status yet; does the operator run?".to_owned())];
    };
    if *observed < generation {
        return vec![(Mark::Open, "its last change was not judged yet".to_owned())];
    }
    let not = conditions.iter().filter(|condition| condition.status != "True");
    not.map(|condition| {
        // A store that keeps nothing is a choice; a tenant that needs more of it has a condition of its own.
        let is_bad = condition.status == "False" && condition.type_ != "Durable";
        let mark = if is_bad { Mark::Bad } else { Mark::Open };
        (mark, format!("{}={} {}: {}", condition.type_, condition.status, condition.reason, condition.message))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conditions(status: &str) -> Vec<Condition> {
        let condition = json!({
            "type": "Accepted", "status": status, "reason": "AddressConflict", "message": "taken",
            "lastTransitionTime": "2026-11-20T12:00:00Z",
        });
        vec![serde_json::from_value(condition).unwrap()]
    }

    #[test]
    fn a_status_is_believed_only_for_the_generation_that_it_is_about() {
        assert_eq!(judge(Some(2), Some(&(Some(2), conditions("True")))), []);
        let bad = judge(Some(2), Some(&(Some(2), conditions("False"))));
        assert_eq!(bad, [(Mark::Bad, "Accepted=False AddressConflict: taken".to_owned())]);
        assert_eq!(judge(Some(2), Some(&(Some(2), conditions("Unknown"))))[0].0, Mark::Open);
        assert_eq!(judge(Some(3), Some(&(Some(2), conditions("True"))))[0].0, Mark::Open);
        assert_eq!(judge(Some(1), None)[0].0, Mark::Open);
    }

    #[test]
    fn a_lease_that_nobody_renews_is_a_problem() {
        let lease = json!({
            "spec": {"holderIdentity": "op-0", "leaseDurationSeconds": 30, "renewTime": "2026-11-20T12:00:00.000000Z"},
        });
        let lease: Lease = serde_json::from_value(lease).unwrap();
        let renewed = 1_795_176_000;
        assert_eq!(held(Some(&lease), renewed + 10).mark, Mark::Good);
        assert_eq!(held(Some(&lease), renewed + 31).mark, Mark::Bad);
        assert_eq!(held(None, renewed).mark, Mark::Bad);
    }
}
