//! What is written to the API server, by the replica that holds the Lease and by no other: statuses, workloads, rollouts, the numbers of the
//! tenants, finalizers, Events.

mod events;
mod finalizers;
pub mod queue;
mod status;
mod tenants;
mod workload;

use crate::lease::Pen;
use crate::lease::claim::WRITE_MS;
use crate::metrics::Metrics;
use crate::run::{Context, Ended};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use k8s_openapi::NamespaceResourceScope;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Client, Error, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};

pub use events::Events;

/// Field manager of everything that is written.
pub const MANAGER: &str = "sipmcp-operator";
/// At most so long many changes become one.
const COALESCE: Duration = Duration::from_millis(100);

type Task = (&'static str, BoxFuture<'static, ()>);

/// All tasks that write.
pub fn tasks(context: &Context) -> Vec<Task> {
    let writer = Writer::new(context);
    let events = Events::new(context.clone(), writer.clone());
    vec![
        ("the writer of statuses", status::run(context.clone(), writer.clone(), events.clone()).boxed()),
        ("the writer of workloads", workload::run(context.clone(), writer.clone(), events.clone()).boxed()),
        ("the writer of the tenants' numbers", tenants::run(context.clone(), writer.clone()).boxed()),
        ("the writer of finalizers", finalizers::run(context.clone(), writer, events).boxed()),
    ]
}

/// The way to the API server for everything that writes: bounded in number and in time, and closed without the Lease.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    pen: Pen,
    places: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

/// Why nothing was written, or nobody knows whether it was.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("another replica holds the Lease")]
    NoLease,
    #[error("the API server did not answer in time")]
    Late,
    #[error("{0}")]
    Api(#[from] Error),
    /// There is an object of this name that is not ours.
    #[error("{0} is there already and is not of this SipEdge; rename one of them, or delete it")]
    Foreign(String),
}

impl Failure {
    fn is(&self, of: impl Fn(&kube::core::Status) -> bool) -> bool {
        matches!(self, Failure::Api(Error::Api(status)) if of(status))
    }

    fn is_not_found(&self) -> bool {
        self.is(kube::core::Status::is_not_found)
    }

    fn is_conflict(&self) -> bool {
        self.is(|status| status.is_conflict() || status.is_already_exists())
    }
}

impl Writer {
    fn new(context: &Context) -> Self {
        Writer {
            client: context.client.clone(),
            pen: context.pen.clone(),
            places: Arc::new(Semaphore::new(usize::from(context.args.workers))),
            metrics: context.metrics.clone(),
        }
    }

    /// One write.
    ///
    /// # Errors
    /// Nothing was written, or nobody knows.
    async fn write<T>(&self, kind: &str, call: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
        // The semaphore is never closed.
        let _place = self.places.acquire().await.map_err(|_| Failure::NoLease)?;
        let Some(_stroke) = self.pen.begin() else { return Err(Failure::NoLease) };
        let begin = Instant::now();
        let result = match timeout(Duration::from_millis(WRITE_MS), call).await {
            Ok(result) => result.map_err(Failure::Api),
            Err(_) => Err(Failure::Late),
        };
        self.metrics.wrote(kind, begin.elapsed(), result.is_ok());
        result
    }

    /// A question that belongs to a write.
    async fn ask<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
        timeout(Duration::from_millis(WRITE_MS), call).await.map_err(|_| Failure::Late)?.map_err(Failure::Api)
    }

    /// Server-side apply of an object that a SipEdge owns. What is there under its name and is not this SipEdge's stays as it is.
    async fn apply<K>(&self, object: &K, owner: &str) -> Result<K, Failure>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Serialize,
    {
        let (api, name) = (self.api::<K>(object.namespace().as_deref().unwrap_or_default()), object.name_any());
        let kind = K::kind(&());
        let there = self.ask(api.get_metadata_opt(&name)).await?;
        if there.is_some_and(|there| !is_owned(there.owner_references(), owner)) {
            return Err(Failure::Foreign(format!("{kind} {name}")));
        }
        let params = PatchParams::apply(MANAGER).force();
        self.write(&kind, api.patch(&name, &params, &Patch::Apply(object))).await
    }

    /// Deletes what a SipEdge owns under this name, if it is there.
    async fn remove<K>(&self, namespace: &str, name: &str, owner: &str) -> Result<(), Failure>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let api = self.api::<K>(namespace);
        match self.ask(api.get_metadata_opt(name)).await? {
            Some(there) if is_owned(there.owner_references(), owner) => {
                self.delete::<K>(namespace, name, there.uid().as_deref()).await
            }
            _ => Ok(()),
        }
    }

    /// Deletes the object with this uid; one that is gone already, or was made anew, is no failure.
    async fn delete<K>(&self, namespace: &str, name: &str, uid: Option<&str>) -> Result<(), Failure>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let api = self.api::<K>(namespace);
        let preconditions = Preconditions { uid: uid.map(str::to_owned), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
        match self.write(&K::kind(&()), api.delete(name, &params)).await {
            Ok(_) => Ok(()),
            Err(failure) if failure.is_not_found() || failure.is_conflict() => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    fn api<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self, namespace: &str) -> Api<K> {
        Api::namespaced(self.client.clone(), namespace)
    }
}

/// True where the controller of an object is the one with this uid.
fn is_owned(owners: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference], owner: &str) -> bool {
    owners.iter().any(|reference| reference.controller == Some(true) && reference.uid == owner)
}

/// When a task that follows the board looks again: after a change, once for many, and at the latest after a time. Only with the Lease.
struct Rounds {
    revisions: watch::Receiver<u64>,
    pen: Pen,
    context: Context,
    latest: Duration,
    begin: Instant,
}

impl Rounds {
    fn new(context: &Context, latest: Duration) -> Self {
        let mut revisions = context.board.revisions();
        revisions.mark_changed();
        Rounds { revisions, pen: context.pen.clone(), context: context.clone(), latest, begin: Instant::now() }
    }

    /// Returns when it is time for the next round.
    ///
    /// # Errors
    /// The process ends.
    async fn next(&mut self) -> Result<(), Ended> {
        let mut shutdown = self.context.shutdown.clone();
        // A round that took long is followed by a pause as long: the others of this process work, too.
        let pause = COALESCE.max(self.begin.elapsed().min(self.latest));
        tokio::select! {
            changed = self.revisions.changed() => changed.map_err(|_| Ended)?,
            () = sleep(self.latest) => {}
            () = shutdown.requested() => return Err(Ended),
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = shutdown.requested() => return Err(Ended),
        }
        if !self.pen.writes() {
            tokio::select! {
                granted = self.pen.granted() => granted?,
                () = shutdown.requested() => return Err(Ended),
            }
        }
        self.revisions.borrow_and_update();
        self.begin = Instant::now();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

    #[test]
    fn what_somebody_else_made_is_not_ours() {
        let owner = |uid: &str, controller| OwnerReference { uid: uid.into(), controller, ..OwnerReference::default() };
        assert!(is_owned(&[owner("x", None), owner("u", Some(true))], "u"));
        assert!(!is_owned(&[owner("u", None)], "u"));
        assert!(!is_owned(&[owner("another life of it", Some(true))], "u"));
        assert!(!is_owned(&[], "u"));
    }
}
