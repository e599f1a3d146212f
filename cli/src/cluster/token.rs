//! The token that the operator is shown.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crds::admin::AUDIENCE;
use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper::{Request, Response};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::api::PostParams;
use kube::client::{Body, ConfigExt};
use tower::{BoxError, Layer, ServiceExt, service_fn};
use zeroize::Zeroizing;

use super::{Cluster, refused};
use crate::failure::Failure;

/// The shortest that the API server gives.
pub const LIFE: Duration = Duration::from_secs(600);

/// Of the ServiceAccount, where one is named; else what the kubeconfig shows to the API server.
pub async fn token(cluster: &Cluster, account: Option<&(String, String)>) -> Result<Zeroizing<String>, Failure> {
    if let Some((namespace, name)) = account {
        return made(cluster, namespace, name).await;
    }
    let shown = shown(cluster).await?;
    let shown = shown.as_ref().and_then(bearer);
    shown.ok_or_else(|| {
        Failure::usage(
            "the kubeconfig has no bearer token for this user, and the operator takes no client certificate; give \
             --service-account NAMESPACE/NAME, and a token is made for it",
        )
    })
}

async fn made(cluster: &Cluster, namespace: &str, name: &str) -> Result<Zeroizing<String>, Failure> {
    let accounts = Api::<ServiceAccount>::namespaced(cluster.client.clone(), namespace);
    let spec = TokenRequestSpec {
        audiences: Some(vec![AUDIENCE.to_owned()]),
        expiration_seconds: i64::try_from(LIFE.as_secs()).ok(),
        ..TokenRequestSpec::default()
    };
    let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
    let answer = accounts.create_token_request(name, &PostParams::default(), &request).await;
    let doing = format!("make a token for ServiceAccount {namespace}/{name}");
    let status = answer.map_err(|error| refused(&doing, &error))?.status;
    let token = status.and_then(|status| status.token);
    let token = token.ok_or_else(|| Failure::unreachable(format!("cannot {doing}: the answer is empty")))?;
    Ok(Zeroizing::new(token))
}

/// `Authorization` of a request to the API server: a token, also one that a plugin of the kubeconfig or a file gives, or a password.
async fn shown(cluster: &Cluster) -> Result<Option<HeaderValue>, Failure> {
    let cannot = |error: &dyn std::fmt::Display| Failure::usage(format!("the kubeconfig gives no token: {error}"));
    let Some(layer) = cluster.config.auth_layer().map_err(|error| cannot(&error))? else { return Ok(None) };
    let seen: Arc<Mutex<Option<HeaderValue>>> = Arc::default();
    let see = seen.clone();
    let service = layer.layer(service_fn(move |request: Request<Body>| {
        let header = request.headers().get(AUTHORIZATION).cloned();
        *see.lock().unwrap_or_else(PoisonError::into_inner) = header;
        async { Ok::<_, BoxError>(Response::new(())) }
    }));
    service.oneshot(Request::new(Body::empty())).await.map_err(|error| cannot(&error))?;
    Ok(seen.lock().unwrap_or_else(PoisonError::into_inner).take())
}

fn bearer(header: &HeaderValue) -> Option<Zeroizing<String>> {
    let (scheme, token) = header.to_str().ok()?.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| Zeroizing::new(token.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_no_token() {
        let read = |text| bearer(&HeaderValue::from_static(text)).map(|token| token.to_string());
        assert_eq!(read("Bearer abc").as_deref(), Some("abc"));
        assert_eq!((read("Basic YTpi"), read("Bearer ")), (None, None));
    }
}
