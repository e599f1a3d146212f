//! Edges belong to the replica that writes: statuses and rollouts are made of what they say, and that is said on their streams only.
//!
//! Its pod has the label [`LABEL`], by which the Service for edges selects it. The others send edges away as long as they know of a holder; while
//! nobody knows of one, everybody serves.

use crate::run::Context;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Error, ResourceExt};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Label of the pod that writes, `"true"`.
pub const LABEL: &str = "sipmcp.dev/writer";
/// What somebody changed by hand is put right again after this time.
const AGAIN: Duration = Duration::from_secs(60);
/// For one request.
const TIME: Duration = Duration::from_secs(8);

/// Follows the Lease until shutdown.
pub async fn run(context: Context) {
    let (mut writes, mut elsewhere) = (context.pen.flag(), context.pen.elsewhere());
    let mut shutdown = context.shutdown.clone();
    let api = Api::<Pod>::namespaced(context.client.clone(), &context.args.namespace);
    let name = &context.args.name;
    let mut failing = false;
    loop {
        let (holds, away) = (*writes.borrow_and_update(), *elsewhere.borrow_and_update());
        context.board.streams().send_away(away);
        match timeout(TIME, mark(&api, name, holds)).await {
            Ok(Ok(())) => failing = false,
            Ok(Err(error)) if !std::mem::replace(&mut failing, true) => {
                tracing::warn!(%error, "the label {LABEL} cannot be kept up to date; edges find the replica that writes by trying");
            }
            Ok(Err(_)) | Err(_) => {}
        }
        tokio::select! {
            changed = writes.changed() => if changed.is_err() { break },
            changed = elsewhere.changed() => if changed.is_err() { break },
            () = sleep(AGAIN) => {}
            () = shutdown.requested() => break,
        }
    }
    // Edges go to whoever comes next; where this does not arrive, the next one takes the label away.
    let _ = timeout(Duration::from_secs(2), mark(&api, name, false)).await;
}

/// The holder has the label and nobody else; who is not the holder takes only its own away.
async fn mark(api: &Api<Pod>, name: &str, holds: bool) -> Result<(), Error> {
    let marked = api.list_metadata(&ListParams::default().labels(&format!("{LABEL}=true"))).await?;
    let marked: Vec<String> = marked.items.iter().map(ResourceExt::name_any).collect();
    for (pod, label) in changes(&marked, name, holds) {
        let patch = Patch::Merge(json!({"metadata": {"labels": {LABEL: label}}}));
        match api.patch_metadata(&pod, &PatchParams::default(), &patch).await {
            Ok(_) => {}
            // It is gone, or this is no pod.
            Err(Error::Api(status)) if status.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Pods whose label changes, and its new value.
fn changes(marked: &[String], me: &str, holds: bool) -> Vec<(String, Value)> {
    let gone = marked.iter().filter(|pod| if holds { *pod != me } else { *pod == me });
    let mut changes: Vec<_> = gone.map(|pod| (pod.clone(), Value::Null)).collect();
    if holds && !marked.iter().any(|pod| pod == me) {
        changes.push((me.to_owned(), json!("true")));
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_pod_has_the_label_and_it_is_the_one_that_writes() {
        let marked = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let told = |names: &[&str], holds| {
            let changes = changes(&marked(names), "me", holds).into_iter();
            changes.map(|(pod, label)| format!("{pod}={label}")).collect::<Vec<_>>()
        };
        assert_eq!(told(&["dead"], true), ["dead=null", "me=\"true\""]);
        assert!(told(&["me"], true).is_empty());
        assert_eq!(told(&["me", "other"], false), ["me=null"]);
        assert!(told(&["other"], false).is_empty());
    }
}
