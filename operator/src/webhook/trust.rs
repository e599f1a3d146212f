//! The API server learns by which certificate it knows the webhook: `caBundle` of the ValidatingWebhookConfiguration. It is written where
//! nobody else brings the authority (cert-manager, or the values of the chart).

use crate::authority::Authority;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// A chart that is upgraded may have taken it away.
const AGAIN: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(5);
const MANAGER: &str = "sipmcp-operator";

/// Writes the authority into that object, and again where it is missing, while this replica may write. Ends with `shutdown`.
pub async fn trust(
    client: Client,
    name: String,
    authority: Arc<Authority>,
    mut may_write: watch::Receiver<bool>,
    shutdown: impl Future<Output = ()>,
) {
    let objects = Api::<ValidatingWebhookConfiguration>::all(client);
    let keep = async {
        let mut said = String::new();
        loop {
            let writes = *may_write.borrow_and_update();
            let result = if writes { write(&objects, &name, &authority).await } else { Ok(()) };
            let problem = result.err().unwrap_or_default();
            if problem != said && !problem.is_empty() {
                tracing::warn!(
                    "ValidatingWebhookConfiguration {name}: {problem}; until it is mended the webhook is not asked"
                );
            }
            let wait = if problem.is_empty() { AGAIN } else { RETRY };
            said = problem;
            // Without the task of the Lease nobody says so any more, and the process ends.
            let changed = async {
                if may_write.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = changed => {}
            }
        }
    };
    tokio::select! {
        () = keep => {}
        () = shutdown => {}
    }
}

async fn write(objects: &Api<ValidatingWebhookConfiguration>, name: &str, authority: &Authority) -> Result<(), String> {
    let there = objects.get_opt(name).await.map_err(|error| format!("cannot be read: {error}"))?;
    let there = there.ok_or_else(|| "is not there".to_owned())?;
    let Some(patch) = patch(&there, authority.pem()) else { return Ok(()) };
    let params = PatchParams::apply(MANAGER).force();
    objects.patch(name, &params, &Patch::Apply(patch)).await.map_err(|error| format!("cannot be written: {error}"))?;
    tracing::info!("ValidatingWebhookConfiguration {name} has the authority");
    Ok(())
}

/// What is to be applied, so that every webhook of the object is known by this authority (PEM). `None`: it is so.
#[must_use]
pub fn patch(there: &ValidatingWebhookConfiguration, pem: &str) -> Option<Value> {
    let webhooks = there.webhooks.as_deref().unwrap_or_default();
    let known = |bundle: &Option<ByteString>| bundle.as_ref().is_some_and(|bundle| bundle.0 == pem.as_bytes());
    if webhooks.iter().all(|webhook| known(&webhook.client_config.ca_bundle)) {
        return None;
    }
    let bundle = ByteString(pem.as_bytes().to_vec());
    let webhooks: Vec<Value> =
        webhooks.iter().map(|webhook| json!({"name": webhook.name, "clientConfig": {"caBundle": bundle}})).collect();
    Some(json!({
        "apiVersion": ValidatingWebhookConfiguration::api_version(&()),
        "kind": ValidatingWebhookConfiguration::kind(&()),
        "metadata": {"name": there.metadata.name},
        "webhooks": webhooks,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(bundles: &[Option<&str>]) -> ValidatingWebhookConfiguration {
        let webhooks: Vec<Value> = bundles
            .iter()
            .enumerate()
            .map(|(index, bundle)| {
                let bundle = bundle.map(|pem| ByteString(pem.as_bytes().to_vec()));
                json!({
                    "name": format!("w{index}.sipmcp.dev"), "sideEffects": "None", "admissionReviewVersions": ["v1"],
                    "clientConfig": {"caBundle": bundle, "service": {"name": "op", "namespace": "system"}},
                })
            })
            .collect();
        serde_json::from_value(json!({"metadata": {"name": "sipmcp"}, "webhooks": webhooks})).unwrap()
    }

    #[test]
    fn only_the_authority_is_written_and_only_where_it_is_missing() {
        assert_eq!(patch(&configuration(&[Some("pem"), Some("pem")]), "pem"), None);
        assert_eq!(patch(&configuration(&[]), "pem"), None);
        for there in [configuration(&[Some("pem"), None]), configuration(&[Some("old"), Some("pem")])] {
            let patch = patch(&there, "pem").unwrap();
            let webhooks = patch["webhooks"].as_array().unwrap();
            assert_eq!(webhooks.len(), 2);
            for webhook in webhooks {
                assert_eq!(webhook["clientConfig"], json!({"caBundle": "cGVt"}));
                assert_eq!(webhook.as_object().unwrap().len(), 2);
            }
            assert_eq!(patch["kind"], "ValidatingWebhookConfiguration");
        }
    }
}
