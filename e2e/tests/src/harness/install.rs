//! The charts: installed as a person does it, and taken away again.

use std::sync::atomic::Ordering;
use std::time::Duration;

use kube::ResourceExt;
use serde_json::json;

use super::PATIENCE;
use super::cluster::{SYSTEM, World, is_ready, said};
use super::process::{Ran, run};
use super::wait::until;
use crate::Fallible;

/// The operator's pods.
pub const OPERATORS: &str = "app.kubernetes.io/name=sipmcp,app.kubernetes.io/component=operator";
/// The operator's Deployment.
pub const OPERATOR: &str = "sipmcp-operator";
const HELM: Duration = Duration::from_secs(180);

impl World {
    async fn helm(&self, arguments: &[&str]) -> Fallible<Ran> {
        run(self, "helm", arguments, HELM).await?.ok()
    }

    /// That nothing of sipmcp is there that this run would change and take away.
    ///
    /// # Errors
    /// What is there.
    pub async fn is_free(&self) -> Fallible<()> {
        let definitions = self.api("apiextensions.k8s.io/v1", "CustomResourceDefinition", "");
        let there = definitions.get_opt("mcpagents.sipmcp.dev").await.map_err(said("look for definitions"))?;
        crate::ensure!(
            there.is_none(),
            "sipmcp is installed in this cluster; --installed runs the tests with what is there"
        );
        Ok(())
    }

    /// The first command: the definitions. Done again it does nothing.
    ///
    /// # Errors
    /// helm failed.
    pub async fn install_definitions(&self) -> Fallible<Ran> {
        self.ours.store(true, Ordering::Relaxed);
        // The tests leave nothing behind, so the definitions go with their release.
        self.helm(&["upgrade", "--install", "sipmcp-crds", "charts/sipmcp-crds", "--set", "crds.keep=false"]).await
    }

    /// The second command.
    ///
    /// # Errors
    /// helm failed.
    pub async fn install_operator(&self, settings: &[&str]) -> Fallible<Ran> {
        self.ours.store(true, Ordering::Relaxed);
        let values = self.args.values.to_string_lossy().into_owned();
        let mut arguments =
            vec!["upgrade", "--install", "sipmcp", "charts/sipmcp", "-n", SYSTEM, "--create-namespace", "-f", &*values];
        settings.iter().for_each(|setting| arguments.extend(["--set", *setting]));
        self.helm(&arguments).await
    }

    /// The release as most tests want it: with the webhook, without the demo. Done once.
    ///
    /// # Errors
    /// It cannot be installed, or no operator becomes ready.
    pub async fn installed(&self) -> Fallible<()> {
        self.installed.get_or_try_init(|| self.make_installed()).await.map(drop)
    }

    async fn make_installed(&self) -> Fallible<()> {
        if !self.args.installed {
            let settings = ["webhook.enabled=true", "demo.enabled=false"];
            self.install_definitions().await?;
            self.install_operator(&settings).await?;
        }
        self.operators_ready().await?;
        // Nobody writes a policy while the webhook is not reached, and nodes learn of an endpoint a moment after it is ready.
        let nobody = json!([{"kind": "McpAgent", "name": "nobody"}]);
        let policy = json!({
            "apiVersion": crds::v1alpha1::API_VERSION, "kind": "McpCapabilityPolicy", "metadata": {"name": "probe"},
            "spec": {"targetRefs": nobody},
        });
        until("the API server to reach the webhook", PATIENCE, || async {
            match self.trial("default", &policy).await? {
                Err(kube::Error::Api(status)) if status.code == 500 => Err(status.message.clone()),
                _ => Ok(()),
            }
        })
        .await
    }

    /// Every replica runs what the Deployment says, and one of them writes.
    ///
    /// # Errors
    /// Not in time.
    pub async fn operators_ready(&self) -> Fallible<()> {
        let deployments = self.api("apps/v1", "Deployment", SYSTEM);
        until("the operator to be rolled out", PATIENCE, || async {
            let object = deployments.get(OPERATOR).await.map_err(|error| error.to_string())?;
            let (spec, status) = (&object.data["spec"], &object.data["status"]);
            let number = |name: &str| status[name].as_i64().unwrap_or(0);
            let wanted = spec["replicas"].as_i64().unwrap_or(1);
            let fresh = number("observedGeneration") >= object.metadata.generation.unwrap_or(0);
            crate::ensure!(
                fresh && ["replicas", "updatedReplicas", "readyReplicas"].iter().all(|name| number(name) == wanted),
                "of {wanted}: {status}"
            );
            Ok(())
        })
        .await?;
        until("a holder of the Lease", PATIENCE, || async {
            let (holder, pods) = (self.writer().await?, self.pods_of(SYSTEM, OPERATORS).await?);
            crate::ensure!(pods.iter().any(|pod| pod.name_any() == holder && is_ready(pod)), "{holder} holds it");
            Ok(())
        })
        .await
    }

    /// Takes all operators away, at once; [`World::operators_back`] brings them back, also after a test that was broken off.
    ///
    /// # Errors
    /// The API server does not take it.
    pub async fn operators_away(&self) -> Fallible<()> {
        let deployments = self.api("apps/v1", "Deployment", SYSTEM);
        let object = deployments.get(OPERATOR).await.map_err(said("read the operator"))?;
        let replicas = object.data["spec"]["replicas"].as_i64().unwrap_or(2);
        *self.away.lock().await = Some(replicas);
        self.merge(&deployments, OPERATOR, &json!({"spec": {"replicas": 0}})).await?;
        for pod in self.pods_of(SYSTEM, OPERATORS).await? {
            // One that is gone by itself meanwhile is gone.
            let _ = self.kill_pod(SYSTEM, &pod.name_any()).await;
        }
        Ok(())
    }

    /// # Errors
    /// The API server does not take it.
    pub async fn operators_back(&self) -> Fallible<()> {
        let mut away = self.away.lock().await;
        if let Some(replicas) = *away {
            let deployments = self.api("apps/v1", "Deployment", SYSTEM);
            self.merge(&deployments, OPERATOR, &json!({"spec": {"replicas": replicas}})).await?;
            *away = None;
        }
        Ok(())
    }

    /// The pod that holds the Lease.
    ///
    /// # Errors
    /// Nobody does.
    pub async fn writer(&self) -> Fallible<String> {
        let leases = self.api("coordination.k8s.io/v1", "Lease", SYSTEM);
        let lease = leases.get("sipmcp-operator-write").await.map_err(|error| error.to_string())?;
        let holder = lease.data["spec"]["holderIdentity"].as_str().unwrap_or_default();
        crate::ensure!(!holder.is_empty(), "nobody holds the Lease");
        // `POD_HEX`: each life of a pod's container is another holder.
        Ok(holder.rsplit_once('_').map_or(holder, |(pod, _)| pod).to_owned())
    }

    /// Takes away what this run has installed. The demo goes while an operator runs that can let go of it.
    ///
    /// # Errors
    /// Something stays.
    pub async fn uninstall(&self) -> Fallible<()> {
        if !self.ours.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.install_operator(&["demo.enabled=false"]).await?;
        let left = ["McpAgent", "SipEdge", "SessionStore"];
        until("our objects to be gone", PATIENCE, || async {
            for kind in left {
                let list = self.ours(kind, SYSTEM).list(&kube::api::ListParams::default()).await;
                let list = list.map_err(|error| error.to_string())?;
                crate::ensure!(list.items.is_empty(), "{} of kind {kind} are there", list.items.len());
            }
            Ok(())
        })
        .await?;
        self.helm(&["uninstall", "sipmcp", "-n", SYSTEM, "--wait", "--ignore-not-found"]).await?;
        self.helm(&["uninstall", "sipmcp-crds", "--ignore-not-found"]).await?;
        let spaces = self.api("v1", "Namespace", "");
        spaces
            .delete(SYSTEM, &kube::api::DeleteParams::background())
            .await
            .map(drop)
            .map_err(said("delete the namespace"))
    }
}
