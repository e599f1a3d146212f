//! Where the holder of the Lease is: its identity there begins with the name of its pod, and the pod has an address.

use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::Api;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tonic::codegen::{Service, http::Uri};

/// For the API server.
const PATIENCE: Duration = Duration::from_secs(5);

/// The ports of a replica that others use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Where it serves edges and other replicas.
    pub edges: SocketAddr,
    /// Its Admin API.
    pub admin: SocketAddr,
}

/// Who knows where a replica is.
#[tonic::async_trait]
pub trait Reach: Send + Sync + 'static {
    /// `holder`: as it stands in the Lease.
    ///
    /// # Errors
    /// One sentence.
    async fn address(&self, holder: &str) -> Result<Address, String>;
}

/// By the API server: replicas are pods of one Deployment, with the same ports.
pub struct Pods {
    pub client: Client,
    pub namespace: String,
    pub edges: u16,
    pub admin: u16,
}

#[tonic::async_trait]
impl Reach for Pods {
    async fn address(&self, holder: &str) -> Result<Address, String> {
        let name = pod_of(holder);
        let pods = Api::<Pod>::namespaced(self.client.clone(), &self.namespace);
        let pod = timeout(PATIENCE, pods.get_opt(name)).await;
        let pod = pod.map_err(|_| "the API server does not answer".to_owned())?;
        let pod = pod.map_err(|error| format!("pod {name} cannot be read: {error}"))?;
        let pod = pod.ok_or_else(|| format!("pod {name} is not there"))?;
        let ip = pod.status.and_then(|status| status.pod_ip).and_then(|ip| ip.parse::<IpAddr>().ok());
        let ip = ip.ok_or_else(|| format!("pod {name} has no address"))?;
        Ok(Address { edges: SocketAddr::new(ip, self.edges), admin: SocketAddr::new(ip, self.admin) })
    }
}

/// An identity is the name of the pod, `_`, and what tells its processes apart. No name has `_` in it.
fn pod_of(holder: &str) -> &str {
    holder.split_once('_').map_or(holder, |(pod, _)| pod)
}

/// TCP, then TLS. `name`: of the operator.
///
/// # Errors
/// What the system says of the connection, and TLS of the other side.
pub async fn connect(address: SocketAddr, name: String, config: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(name).map_err(io::Error::other)?;
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    TlsConnector::from(config).connect(name, stream).await
}

/// The same for tonic: the address of the endpoint means nothing to it.
#[derive(Clone)]
pub struct Way {
    pub address: SocketAddr,
    pub name: String,
    pub config: Arc<ClientConfig>,
}

type Secure = TokioIo<TlsStream<TcpStream>>;

impl Service<Uri> for Way {
    type Response = Secure;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Secure>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Way { address, name, config } = self.clone();
        Box::pin(async move { connect(address, name, config).await.map(TokioIo::new) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pod_of_a_holder_is_what_stands_before_its_process() {
        assert_eq!(pod_of("sipmcp-operator-5d9c-x2_00ff"), "sipmcp-operator-5d9c-x2");
        assert_eq!(pod_of("op_17_1700000000"), "op");
        assert_eq!(pod_of("somebody"), "somebody");
    }
}
