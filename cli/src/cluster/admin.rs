//! The operator's Admin API, by a forwarded port of its pods. Each of them answers for all edges; where one knows only some, the next is asked.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crds::admin::{Edges, PORT, PORT_NAME};
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::Api;
use kube::api::ListParams;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, version};
use zeroize::Zeroizing;

use super::args::OperatorArgs;
use super::{Cluster, refused, token};
use crate::failure::{Exit, Failure};

/// ConfigMap with the certificate of the operator's authority, and its key.
const AUTHORITY: &str = "sipmcp-operator-ca";
const AUTHORITY_KEY: &str = "ca.crt";
/// The operator's pods.
const SELECTOR: &str = "app.kubernetes.io/name=sipmcp,app.kubernetes.io/component=operator";
/// Replicas that are asked.
const MAX_REPLICAS: u32 = 16;
/// For a whole question; the operator gives itself less.
const PATIENCE: Duration = Duration::from_secs(100);
/// Octets of an answer.
const MAX_ANSWER: usize = 64 << 20;

/// The operator's replicas.
pub struct Admin {
    cluster: Cluster,
    namespace: String,
    /// Name and port of each pod.
    pods: Vec<(String, u16)>,
    /// Who asks.
    account: Option<(String, String)>,
    token: Zeroizing<String>,
    /// Then another one is had.
    renew_at: Instant,
    tls: Arc<ClientConfig>,
}

/// What the replicas said.
pub struct Said<T> {
    /// By the name of the pod.
    pub answers: Vec<(String, T)>,
    /// Of those that did not answer.
    pub failures: Vec<(String, Failure)>,
}

impl Admin {
    pub async fn open(args: &OperatorArgs) -> Result<Admin, Failure> {
        let cluster = Cluster::open(&args.cluster).await?;
        let namespace = args.cluster.operator_namespace.clone();
        let tls = tls(&authority(&cluster, &namespace, args).await?)?;
        let pods = pods(&cluster, &namespace).await?;
        let account = args.service_account.clone();
        let token = token::token(&cluster, account.as_ref()).await?;
        let renew_at = Instant::now() + token::LIFE / 2;
        Ok(Admin { cluster, namespace, pods, account, token, renew_at, tls })
    }

    /// For whoever asks again and again: another token, long before the one that is shown ends.
    ///
    /// # Errors
    /// There is none.
    pub async fn renew(&mut self) -> Result<(), Failure> {
        if Instant::now() >= self.renew_at {
            self.token = token::token(&self.cluster, self.account.as_ref()).await?;
            self.renew_at = Instant::now() + token::LIFE / 2;
        }
        Ok(())
    }

    /// The replicas that there are now.
    ///
    /// # Errors
    /// None is ready; those of before are kept.
    pub async fn find_again(&mut self) -> Result<(), Failure> {
        self.pods = pods(&self.cluster, &self.namespace).await?;
        Ok(())
    }

    /// Of the objects.
    pub fn namespace(&self) -> &str {
        &self.cluster.namespace
    }

    /// Asks one replica.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        pod: &str,
        path: &str,
        question: &impl Serialize,
    ) -> Result<T, Failure> {
        let port = self.pods.iter().find(|(name, _)| name == pod).map_or(PORT, |(_, port)| *port);
        let asked = timeout(PATIENCE, self.post(pod, port, path, question)).await;
        let late = |_| Failure::unreachable(format!("pod {pod} of the operator does not answer"));
        let (status, body) = asked.map_err(late)??;
        answer(status, &body)
    }

    /// Asks one replica after another, until there is enough.
    ///
    /// # Errors
    /// None of them answers.
    pub async fn ask_until<T: DeserializeOwned>(
        &self,
        path: &str,
        question: &impl Serialize,
        enough: impl Fn(&T) -> bool,
    ) -> Result<Said<T>, Failure> {
        let (mut answers, mut failures) = (Vec::new(), Vec::new());
        for (pod, _) in &self.pods {
            match self.ask(pod, path, question).await {
                Ok(answer) => {
                    let last = enough(&answer);
                    answers.push((pod.clone(), answer));
                    if last {
                        break;
                    }
                }
                // What one replica refuses every other one refuses.
                Err(failure) if failure.exit == Exit::Refused || failure.exit == Exit::Usage => return Err(failure),
                Err(failure) => failures.push((pod.clone(), failure)),
            }
        }
        match (answers.is_empty(), failures.is_empty()) {
            (true, false) => Err(failures.swap_remove(0).1),
            _ => Ok(Said { answers, failures }),
        }
    }

    async fn post(
        &self,
        pod: &str,
        port: u16,
        path: &str,
        question: &impl Serialize,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let lost = |error: &dyn std::fmt::Display| Failure::unreachable(format!("pod {pod} of the operator: {error}"));
        let api = Api::<Pod>::namespaced(self.cluster.client.clone(), &self.namespace);
        let mut forwarder = api.portforward(pod, &[port]).await;
        let forwarder = forwarder.as_mut();
        let forwarder = forwarder.map_err(|error| refused(&format!("forward port {port} of pod {pod}"), error))?;
        let stream = forwarder.take_stream(port).ok_or_else(|| lost(&"no stream"))?;
        let name = format!("sipmcp-operator.{}.svc", self.namespace);
        let server = ServerName::try_from(name.clone()).map_err(|error| lost(&error))?;
        let stream = TlsConnector::from(self.tls.clone()).connect(server, stream).await.map_err(|error| {
            lost(&format!(
                "{error}; is its certificate of the authority in ConfigMap {AUTHORITY}, or in --operator-ca?"
            ))
        })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| lost(&error))?;
        // It ends with the sender.
        tokio::spawn(connection);
        let body = serde_json::to_vec(question).map_err(|error| Failure::usage(error.to_string()))?;
        let mut token = HeaderValue::from_str(&Zeroizing::new(format!("Bearer {}", &*self.token)))
            .map_err(|_| Failure::usage("the token cannot be a header"))?;
        token.set_sensitive(true);
        let mut request = Request::post(path).body(Full::new(Bytes::from(body))).map_err(|error| lost(&error))?;
        let host = HeaderValue::from_str(&name).map_err(|error| lost(&error))?;
        request.headers_mut().extend([
            (HOST, host),
            (AUTHORIZATION, token),
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        ]);
        let response = sender.send_request(request).await.map_err(|error| lost(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(|error| lost(&error))?;
        Ok((status, body.to_bytes()))
    }
}

fn answer<T: DeserializeOwned>(status: StatusCode, body: &[u8]) -> Result<T, Failure> {
    if status.is_success() {
        let problem = |error| format!("the operator answered something else ({error}); is it of another release?");
        return serde_json::from_slice(body).map_err(|error| Failure::unreachable(problem(error)));
    }
    let said: Option<Value> = serde_json::from_slice(body).ok();
    let said = said.as_ref().and_then(|value| value.get("error")?.as_str()).unwrap_or("no reason given");
    let exit = match status.as_u16() {
        401 | 403 => Exit::Refused,
        400 | 405 | 413 | 422 => Exit::Usage,
        _ => Exit::Unreachable,
    };
    Err(Failure { exit, message: format!("the operator says: {said}"), code: Some(status.as_u16().into()) })
}

async fn pods(cluster: &Cluster, namespace: &str) -> Result<Vec<(String, u16)>, Failure> {
    let api = Api::<Pod>::namespaced(cluster.client.clone(), namespace);
    let list = api.list(&ListParams::default().labels(SELECTOR).limit(MAX_REPLICAS)).await;
    let list = list.map_err(|error| refused(&format!("list the pods of namespace {namespace}"), &error))?;
    let pods: Vec<(String, u16)> = list
        .items
        .iter()
        .filter(|pod| is_ready(pod))
        .filter_map(|pod| Some((pod.metadata.name.clone()?, port(pod))))
        .collect();
    if pods.is_empty() {
        return Err(Failure::unreachable(format!(
            "no pod of the operator is ready in namespace {namespace}; is it installed in another one (--operator-namespace)?"
        )));
    }
    Ok(pods)
}

/// Ready, and not about to end.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    ready && pod.metadata.deletion_timestamp.is_none()
}

fn port(pod: &Pod) -> u16 {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
    let named = ports.find(|port| port.name.as_deref() == Some(PORT_NAME));
    named.and_then(|port| u16::try_from(port.container_port).ok()).unwrap_or(PORT)
}

/// PEM.
async fn authority(cluster: &Cluster, operator: &str, args: &OperatorArgs) -> Result<Vec<u8>, Failure> {
    if let Some(file) = &args.operator_ca {
        return std::fs::read(file).map_err(|error| Failure::usage(format!("{}: {error}", file.display())));
    }
    let mut why = None;
    for namespace in [operator, &cluster.namespace] {
        let maps = Api::<ConfigMap>::namespaced(cluster.client.clone(), namespace);
        match maps.get_opt(AUTHORITY).await {
            Ok(Some(map)) => {
                if let Some(pem) = map.data.unwrap_or_default().remove(AUTHORITY_KEY) {
                    return Ok(pem.into_bytes());
                }
            }
            Ok(None) => {}
            Err(error) => why = Some(refused(&format!("read ConfigMap {namespace}/{AUTHORITY}"), &error)),
        }
    }
    Err(why.unwrap_or_else(|| {
        Failure::usage(format!(
            "there is no ConfigMap {AUTHORITY} in namespace {operator} or {}; give the operator's CA with --operator-ca FILE",
            cluster.namespace
        ))
    }))
}

fn tls(pem: &[u8]) -> Result<Arc<ClientConfig>, Failure> {
    let wrong = |why: String| Failure::usage(format!("the operator's CA cannot be used: {why}"));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(wrong("no certificate in it".to_owned()));
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_protocol_versions(&[&version::TLS13]).map_err(|error| wrong(error.to_string()))?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Whether a replica knew every edge that there should be.
pub fn is_whole(edges: &Edges) -> bool {
    edges.elsewhere == 0
}

/// Takes in what another replica said about the edges. An edge that answered one of them has answered.
pub fn merge(all: &mut Edges, more: &Edges) {
    let total = |edges: &Edges| edges.answered.len() + edges.silent.len() + edges.elsewhere as usize;
    let total = total(all).max(total(more));
    all.answered.extend(more.answered.iter().cloned());
    all.answered.sort();
    all.answered.dedup();
    all.silent.extend(more.silent.iter().map(|(edge, why)| (edge.clone(), why.clone())));
    let Edges { answered, silent, .. } = all;
    silent.retain(|edge, _| !answered.contains(edge));
    let known = answered.len() + silent.len();
    all.elsewhere = u32::try_from(total.saturating_sub(known)).unwrap_or(u32::MAX);
}

/// Says on standard error what is missing from an answer.
pub fn say_missing(edges: &Edges, failures: &[(String, Failure)]) {
    for (edge, why) in &edges.silent {
        eprintln!("sipmcp: edge {edge} did not answer: {why}");
    }
    for (pod, failure) in failures {
        eprintln!("sipmcp: pod {pod} of the operator did not answer: {failure}");
    }
    if edges.elsewhere > 0 {
        eprintln!(
            "sipmcp: {} more edges should be there and are connected to no operator that answered",
            edges.elsewhere
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edges(answered: &[&str], silent: &[&str], elsewhere: u32) -> Edges {
        Edges {
            answered: answered.iter().map(ToString::to_string).collect(),
            silent: silent.iter().map(|edge| ((*edge).to_owned(), "late".to_owned())).collect(),
            elsewhere,
        }
    }

    #[test]
    fn replicas_together_know_more_than_one() {
        let mut all = Edges::default();
        for said in [edges(&["n/a"], &["n/b"], 1), edges(&["n/c", "n/b"], &[], 1), edges(&[], &[], 3)] {
            merge(&mut all, &said);
        }
        assert_eq!(all, edges(&["n/a", "n/b", "n/c"], &[], 0));
        merge(&mut all, &edges(&[], &[], 4));
        assert_eq!(all.elsewhere, 1);
    }

    #[test]
    fn a_refusal_is_told_from_a_failure() {
        let exit = |status: u16, body: &str| {
            let answer = answer::<Edges>(StatusCode::from_u16(status).unwrap(), body.as_bytes());
            answer.map_err(|failure| (failure.exit, failure.message))
        };
        assert!(exit(200, "{}").is_ok());
        assert_eq!(exit(403, r#"{"error":"no"}"#).unwrap_err(), (Exit::Refused, "the operator says: no".to_owned()));
        assert_eq!(exit(503, "x").unwrap_err().0, Exit::Unreachable);
        assert_eq!(exit(400, "{}").unwrap_err().0, Exit::Usage);
        assert_eq!(exit(200, "<html>").unwrap_err().0, Exit::Unreachable);
    }
}
