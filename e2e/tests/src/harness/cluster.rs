//! The cluster, and how objects get there.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client, Config, ResourceExt};
use serde_json::{Map, Value, json};
use tokio::sync::OnceCell;

use super::figures::Figures;
use super::token;
use crate::Fallible;
use crate::args::Args;

/// Namespace of the operator.
pub const SYSTEM: &str = "sipmcp-system";
/// Who writes here.
const MANAGER: &str = "sipmcp-e2e";
/// Kinds without a namespace, of those that are written here.
const CLUSTER_WIDE: [&str; 6] = [
    "SipDomain",
    "Namespace",
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "ValidatingWebhookConfiguration",
];

/// Everything that the tests of one run share.
pub struct World {
    pub args: Args,
    pub client: Client,
    pub config: Config,
    /// Folder with our programs, absolute.
    pub bin: PathBuf,
    /// In every name of this run.
    pub run: String,
    pub figures: Figures,
    pub installed: OnceCell<()>,
    /// Replicas that the operator had before a test took them away.
    pub away: tokio::sync::Mutex<Option<i64>>,
    /// This run has installed something.
    pub ours: std::sync::atomic::AtomicBool,
}

impl World {
    /// # Errors
    /// There is no cluster, or it does not answer.
    pub async fn open(mut args: Args) -> Fallible<World> {
        let absolute =
            |path: &PathBuf| std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()));
        (args.root, args.out, args.dumps) = (absolute(&args.root)?, absolute(&args.out)?, absolute(&args.dumps)?);
        let bin = absolute(&args.bin)?;
        let config = Config::infer().await.map_err(|error| format!("no cluster: {error}; set KUBECONFIG"))?;
        let client =
            Client::try_from(config.clone()).map_err(|error| format!("the kubeconfig cannot be used: {error}"))?;
        let version =
            client.apiserver_version().await.map_err(|error| format!("the API server does not answer: {error}"))?;
        let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await.map_err(said("list nodes"))?;
        let common = Map::from_iter([
            ("kubernetes".to_owned(), json!(version.git_version)),
            ("nodes".to_owned(), json!(nodes.items.len())),
        ]);
        let figures = Figures::new(args.out.clone(), common);
        let run = token(5);
        Ok(World {
            args,
            client,
            config,
            bin,
            run,
            figures,
            installed: OnceCell::new(),
            away: tokio::sync::Mutex::default(),
            ours: false.into(),
        })
    }

    /// The API of a kind, in this namespace or, for those without one, nowhere.
    pub fn api(&self, api_version: &str, kind: &str, namespace: &str) -> Api<DynamicObject> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        match CLUSTER_WIDE.contains(&kind) {
            true => Api::all_with(self.client.clone(), &resource),
            false => Api::namespaced_with(self.client.clone(), namespace, &resource),
        }
    }

    /// Our kinds.
    pub fn ours(&self, kind: &str, namespace: &str) -> Api<DynamicObject> {
        self.api(crds::v1alpha1::API_VERSION, kind, namespace)
    }

    pub fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.client.clone(), namespace)
    }

    fn at(&self, namespace: &str, object: &Value) -> Fallible<(Api<DynamicObject>, String)> {
        let text = |name: &str| {
            object[name].as_str().map(str::to_owned).ok_or_else(|| format!("an object without {name}: {object}"))
        };
        let name = object["metadata"]["name"].as_str().ok_or_else(|| format!("an object without a name: {object}"))?;
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or(namespace);
        Ok((self.api(&text("apiVersion")?, &text("kind")?, namespace), name.to_owned()))
    }

    /// Server-side apply.
    ///
    /// # Errors
    /// The API server does not take it.
    pub async fn apply(&self, namespace: &str, object: &Value) -> Fallible<DynamicObject> {
        let (api, name) = self.at(namespace, object)?;
        let params = PatchParams::apply(MANAGER).force();
        api.patch(&name, &params, &Patch::Apply(object))
            .await
            .map_err(said(&format!("apply {} {name}", object["kind"])))
    }

    /// What the API server would say; nothing is kept. Unknown fields are refused.
    ///
    /// # Errors
    /// It would refuse.
    pub async fn trial(&self, namespace: &str, object: &Value) -> Fallible<Result<(), kube::Error>> {
        let (api, name) = self.at(namespace, object)?;
        let params = PatchParams { dry_run: true, ..PatchParams::apply(MANAGER).force().validation_strict() };
        Ok(api.patch(&name, &params, &Patch::Apply(object)).await.map(drop))
    }

    /// A new object, in one request.
    ///
    /// # Errors
    /// The API server does not take it.
    pub async fn create(&self, namespace: &str, object: &Value) -> Fallible<DynamicObject> {
        let (api, name) = self.at(namespace, object)?;
        let typed: DynamicObject =
            serde_json::from_value(object.clone()).map_err(|error| format!("{name}: {error}"))?;
        api.create(&PostParams::default(), &typed).await.map_err(said(&format!("create {} {name}", object["kind"])))
    }

    /// Merge patch.
    ///
    /// # Errors
    /// The API server does not take it.
    pub async fn merge(&self, api: &Api<DynamicObject>, name: &str, patch: &Value) -> Fallible<DynamicObject> {
        api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.map_err(said(&format!("change {name}")))
    }

    /// Pods with these labels, without those that end.
    ///
    /// # Errors
    /// They cannot be listed.
    pub async fn pods_of(&self, namespace: &str, labels: &str) -> Fallible<Vec<Pod>> {
        let list = self.pods(namespace).list(&ListParams::default().labels(labels)).await.map_err(said("list pods"))?;
        let mut pods: Vec<Pod> =
            list.items.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect();
        pods.sort_by_key(ResourceExt::name_any);
        Ok(pods)
    }

    /// Ends a pod at once, as a node that dies does: no SIGTERM, no grace.
    ///
    /// # Errors
    /// The API server does not take it.
    pub async fn kill_pod(&self, namespace: &str, name: &str) -> Fallible<()> {
        let params = DeleteParams::default().grace_period(0);
        self.pods(namespace).delete(name, &params).await.map(drop).map_err(said(&format!("delete pod {name}")))
    }
}

/// Words for what the API server did not do.
pub fn said(doing: &str) -> impl Fn(kube::Error) -> String {
    let doing = doing.to_owned();
    move |error| match error {
        kube::Error::Api(status) => format!("cannot {doing}: {} {}", status.code, status.message),
        other => format!("cannot {doing}: {other}"),
    }
}

/// A condition of an object of ours: status, reason and message, where it is about the object as it stands.
pub fn condition(object: &DynamicObject, type_: &str) -> Option<(String, String, String)> {
    let conditions = object.data["status"]["conditions"].as_array()?;
    let found = conditions.iter().find(|condition| condition["type"] == type_)?;
    let fresh = found["observedGeneration"].as_i64() >= object.metadata.generation;
    let text = |name: &str| found[name].as_str().unwrap_or_default().to_owned();
    fresh.then(|| (text("status"), text("reason"), text("message")))
}

/// That a condition has this status and, where it is given, this reason.
///
/// # Errors
/// What it has instead.
pub fn has(object: &DynamicObject, type_: &str, status: &str, reason: Option<&str>) -> Fallible<()> {
    let name = object.name_any();
    match condition(object, type_) {
        Some((is, why, _)) if is == status && reason.is_none_or(|reason| reason == why) => Ok(()),
        Some((is, why, message)) => Err(format!("{name}: {type_} is {is} {why}: {message}")),
        None => Err(format!("{name} has no {type_} of its generation")),
    }
}

pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(conditions: Value) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "sipmcp.dev/v1alpha1", "kind": "McpAgent", "metadata": {"name": "a", "generation": 3},
            "status": {"conditions": conditions},
        }))
        .unwrap()
    }

    #[test]
    fn a_condition_of_an_older_generation_says_nothing() {
        let of = |generation| {
            object(json!([{"type": "Ready", "status": "True", "reason": "Ready", "observedGeneration": generation}]))
        };
        assert!(has(&of(3), "Ready", "True", Some("Ready")).is_ok());
        assert!(has(&of(2), "Ready", "True", None).is_err());
        assert!(has(&of(3), "Ready", "False", None).unwrap_err().contains("is True"));
        assert!(has(&object(json!(null)), "Ready", "True", None).is_err());
    }

    #[test]
    fn plurals_are_those_of_the_definitions() {
        for crd in crds::schema::all() {
            let names = &crd.spec.names;
            let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("sipmcp.dev", "v1alpha1", &names.kind));
            assert_eq!(resource.plural, names.plural);
            let cluster_wide = crd.spec.scope == "Cluster";
            assert_eq!(CLUSTER_WIDE.contains(&&*names.kind), cluster_wide, "{}", names.kind);
        }
    }
}
