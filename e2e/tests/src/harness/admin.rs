//! The operator's Admin API, asked as a ServiceAccount of the cluster: for what `kubectl sipmcp` has no command.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use kube::Api;
use kube::api::PostParams;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use super::cluster::{SYSTEM, World, is_ready, said};
use super::install::{OPERATOR, OPERATORS};
use super::reach::Way;
use crate::Fallible;
use crate::certificates::trusting;

const LIMIT: Duration = Duration::from_secs(60);

/// A bearer token of a ServiceAccount; without an audience one for the API server.
///
/// # Errors
/// The API server does not make it.
pub async fn token(world: &World, namespace: &str, account: &str, audience: Option<&str>) -> Fallible<String> {
    let accounts = Api::<ServiceAccount>::namespaced(world.client.clone(), namespace);
    let audiences = audience.map(|audience| vec![audience.to_owned()]);
    let spec = TokenRequestSpec { expiration_seconds: Some(600), audiences, ..TokenRequestSpec::default() };
    let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
    let answer =
        accounts.create_token_request(account, &PostParams::default(), &request).await.map_err(said("make a token"))?;
    answer.status.and_then(|status| status.token).ok_or_else(|| "a TokenRequest without a token".to_owned())
}

/// See the module.
pub struct Admin<'a> {
    world: &'a World,
    token: String,
    tls: Arc<ClientConfig>,
}

impl Admin<'_> {
    /// # Errors
    /// There is no token, or no authority to trust.
    pub async fn open<'a>(world: &'a World, namespace: &str, account: &str) -> Fallible<Admin<'a>> {
        let maps = Api::<ConfigMap>::namespaced(world.client.clone(), SYSTEM);
        let map = maps.get("sipmcp-operator-ca").await.map_err(said("read the operator's authority"))?;
        let pem = map.data.and_then(|mut data| data.remove("ca.crt")).ok_or("the operator's authority is empty")?;
        let token = token(world, namespace, account, Some(crds::admin::AUDIENCE)).await?;
        Ok(Admin { world, token, tls: trusting(&pem)? })
    }

    /// The status and the body of the answer.
    ///
    /// # Errors
    /// Nobody answers.
    pub async fn ask(&self, path: &str, question: &Value) -> Fallible<(u16, Value)> {
        let asked = timeout(LIMIT, self.post(path, &question.to_string())).await;
        asked.map_err(|_| format!("no answer to {path}"))?.map_err(|why| format!("{path}: {why}"))
    }

    async fn post(&self, path: &str, body: &str) -> Fallible<(u16, Value)> {
        let pods = self.world.pods_of(SYSTEM, OPERATORS).await?;
        let pod = pods.iter().find(|pod| is_ready(pod)).ok_or("no operator is ready")?;
        let (stream, _) = Way::to_pod(self.world, pod, crds::admin::PORT).await?.connect().await?;
        let host = format!("{OPERATOR}.{SYSTEM}.svc");
        let name = ServerName::try_from(host.clone()).map_err(|error| error.to_string())?;
        let mut stream = TlsConnector::from(self.tls.clone()).connect(name, stream).await.map_err(|e| e.to_string())?;
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n",
            self.token,
            body.len()
        );
        stream.write_all((head + body).as_bytes()).await.map_err(|error| error.to_string())?;
        stream.flush().await.map_err(|error| error.to_string())?;
        let mut octets = Vec::new();
        // Where it is cut short the JSON says so.
        let _ = stream.read_to_end(&mut octets).await;
        let text = String::from_utf8_lossy(&octets);
        let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| format!("no HTTP: {text:?}"))?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| format!("no status: {head:?}"))?;
        let value = serde_json::from_str(body).map_err(|error| format!("{status}, {error}: {body:?}"))?;
        Ok((status, value))
    }
}
