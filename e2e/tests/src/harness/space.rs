//! A namespace of one test, and everything that the test has outside of it.

use std::sync::Mutex;
use std::time::Duration;

use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::cluster::{World, said};
use super::wait::until;
use crate::Fallible;

/// Label of everything of a run that has no namespace.
const LABEL: &str = "sipmcp.dev/e2e";
/// Until a namespace is gone by itself. An agent stays at most 30 s when its edges do not answer.
const GOES: Duration = Duration::from_secs(90);
/// In the order in which they can go.
const KINDS: [&str; 4] = ["McpAgent", "McpCapabilityPolicy", "SipEdge", "SessionStore"];

/// What the pods of a namespace may do (Pod Security Admission).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    Restricted,
    /// Host network.
    Privileged,
}

/// The namespaces of one test.
pub struct Space<'a> {
    pub world: &'a World,
    /// The first one.
    pub name: String,
    test: String,
    namespaces: Mutex<Vec<String>>,
}

impl<'a> Space<'a> {
    /// `test`: in its names.
    pub fn new(world: &'a World, test: &str) -> Space<'a> {
        let short: String = test.chars().take(24).map(|c| if c == '_' { '-' } else { c }).collect();
        let test = format!("e2e-{}-{}", short.trim_end_matches('-'), world.run);
        Space { world, name: test.clone(), test, namespaces: Mutex::default() }
    }

    /// One that a test before left behind. `test`: as its label says.
    pub fn found(world: &'a World, test: &str, namespaces: Vec<String>) -> Space<'a> {
        Space { world, name: test.to_owned(), test: test.to_owned(), namespaces: Mutex::new(namespaces) }
    }

    /// The first namespace.
    ///
    /// # Errors
    /// It cannot be made.
    pub async fn begin(&self, security: Security) -> Fallible<()> {
        self.make(&self.name, security).await
    }

    /// One more.
    ///
    /// # Errors
    /// It cannot be made.
    pub async fn more(&self, suffix: &str) -> Fallible<String> {
        let name = format!("{}-{suffix}", self.test);
        self.make(&name, Security::Restricted).await?;
        Ok(name)
    }

    async fn make(&self, name: &str, security: Security) -> Fallible<()> {
        // Known before it is there: what is broken off in between is cleaned up, too.
        self.namespaces.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(name.to_owned());
        let level = if security == Security::Restricted { "restricted" } else { "privileged" };
        let labels = json!({LABEL: self.test, "pod-security.kubernetes.io/enforce": level});
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        self.world.apply("", &object).await?;
        // A pod cannot be made before it.
        let accounts = self.world.api("v1", "ServiceAccount", name);
        until("the ServiceAccount default", super::PATIENCE, || async {
            accounts.get("default").await.map(drop).map_err(|error| error.to_string())
        })
        .await
    }

    pub fn namespaces(&self) -> Vec<String> {
        self.namespaces.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// A name without a namespace, this test's own.
    pub fn own(&self, name: &str) -> String {
        format!("{}-{name}", self.test)
    }

    /// Its SIP domain.
    pub fn domain(&self) -> String {
        format!("{}.example", self.test)
    }

    /// Labels that [`Space::end`] finds.
    pub fn labels(&self) -> Value {
        json!({LABEL: self.test})
    }

    /// # Errors
    /// The API server does not take it.
    pub async fn apply(&self, object: &Value) -> Fallible<()> {
        self.world.apply(&self.name, object).await.map(drop)
    }

    /// # Errors
    /// The API server does not take one of them.
    pub async fn apply_all(&self, objects: &[Value]) -> Fallible<()> {
        for object in objects {
            self.apply(object).await?;
        }
        Ok(())
    }

    /// Removes everything of the test, and sees it gone.
    ///
    /// # Errors
    /// Something stays.
    pub async fn end(&self) -> Fallible<()> {
        let namespaces = self.namespaces();
        let (all, mine) = (ListParams::default(), ListParams::default().labels(&format!("{LABEL}={}", self.test)));
        let params = DeleteParams::background();
        for kind in KINDS {
            for namespace in &namespaces {
                // Where the definitions are not installed there is nothing.
                let _ = self.world.ours(kind, namespace).delete_collection(&params, &all).await;
            }
        }
        let _ = self.world.ours("SipDomain", "").delete_collection(&params, &mine).await;
        for kind in ["ClusterRoleBinding", "ClusterRole"] {
            let _ = self.world.api("rbac.authorization.k8s.io/v1", kind, "").delete_collection(&params, &mine).await;
        }
        for namespace in &namespaces {
            let _ = self.world.api("v1", "Namespace", "").delete(namespace, &params).await;
        }
        let gone = self.gone(&namespaces, &mine, GOES).await;
        if gone.is_err() {
            // What holds them is told as a failure of the test; the cluster is left clean all the same.
            self.force(&namespaces).await;
            self.gone(&namespaces, &mine, GOES).await?;
        }
        gone
    }

    async fn gone(&self, namespaces: &[String], mine: &ListParams, limit: Duration) -> Fallible<()> {
        let spaces = self.world.api("v1", "Namespace", "");
        until("everything of the test to be gone", limit, || async {
            for name in namespaces {
                let there = spaces.get_opt(name).await.map_err(said("read namespaces"))?;
                if let Some(there) = there {
                    let why = there.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
                    let why: Vec<&str> =
                        why.iter().filter(|c| c["status"] == "True").filter_map(|c| c["message"].as_str()).collect();
                    return Err(format!("namespace {name} is there: {}", why.join("; ")));
                }
            }
            match self.world.ours("SipDomain", "").list(mine).await {
                Ok(list) => match list.items.first() {
                    Some(domain) => Err(format!("SipDomain {} is there", domain.name_any())),
                    None => Ok(()),
                },
                Err(_) => Ok(()),
            }
        })
        .await
    }

    async fn force(&self, namespaces: &[String]) {
        let patch = json!({"metadata": {"annotations": {"sipmcp.dev/force-delete": "true"}, "finalizers": null}});
        let params = PatchParams::default();
        for kind in [&KINDS[..], &["SipDomain"]].concat() {
            for namespace in namespaces {
                let api: Api<_> = self.world.ours(kind, namespace);
                let Ok(list) = api.list(&ListParams::default()).await else { continue };
                let leaving = list.items.iter().filter(|object| object.metadata.deletion_timestamp.is_some());
                for object in leaving {
                    let _ = api.patch(&object.name_any(), &params, &Patch::Merge(&patch)).await;
                }
            }
        }
    }
}
