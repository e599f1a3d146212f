//! Ways from here into the cluster: straight to a pod where the machine has a route, else through a forwarded port; HTTP through the API server.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::AttachParams;
use kube::{Api, ResourceExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::cluster::{World, said};
use crate::Fallible;

const CONNECT: Duration = Duration::from_secs(3);
/// For a command in a pod.
const COMMAND: Duration = Duration::from_secs(30);

/// A stream of octets.
pub trait Octets: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Octets for T {}

/// How a TCP port is reached.
#[derive(Clone)]
pub enum Way {
    Direct(SocketAddr),
    /// Through the API server; the pod sees a connection of its own host.
    Forwarded {
        pods: Box<Api<Pod>>,
        pod: String,
        port: u16,
    },
}

impl Way {
    /// To a port of a pod.
    ///
    /// # Errors
    /// The pod has no address.
    pub async fn to_pod(world: &World, pod: &Pod, port: u16) -> Fallible<Way> {
        let name = pod.name_any();
        let ip = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
        let ip: IpAddr = ip.and_then(|ip| ip.parse().ok()).ok_or_else(|| format!("pod {name} has no address"))?;
        let address = SocketAddr::new(ip, port);
        if reaches(address).await {
            return Ok(Way::Direct(address));
        }
        let namespace = pod.namespace().unwrap_or_default();
        Ok(Way::Forwarded { pods: Box::new(world.pods(&namespace)), pod: name, port })
    }

    /// A connection, and our address on it as the other side knows it, where that is known.
    ///
    /// # Errors
    /// Nobody listens there, or it takes too long.
    pub async fn connect(&self) -> Fallible<(Box<dyn Octets>, Option<SocketAddr>)> {
        match self {
            Way::Direct(address) => {
                let stream = timeout(CONNECT, TcpStream::connect(address)).await;
                let stream = stream.map_err(|_| format!("{address} does not answer"))?;
                let stream = stream.map_err(|error| format!("{address}: {error}"))?;
                stream.set_nodelay(true).map_err(|error| error.to_string())?;
                let local = stream.local_addr().ok();
                Ok((Box::new(stream), local))
            }
            Way::Forwarded { pods, pod, port } => {
                let mut forwarder = pods.portforward(pod, &[*port]).await.map_err(said("forward a port"))?;
                let stream = forwarder.take_stream(*port).ok_or("a forwarded port without a stream")?;
                // It ends with the stream.
                tokio::spawn(async move { forwarder.join().await.map_err(drop) });
                Ok((Box::new(stream), None))
            }
        }
    }
}

/// Whether this machine has a way there, and somebody listens.
pub async fn reaches(address: SocketAddr) -> bool {
    matches!(timeout(CONNECT, TcpStream::connect(address)).await, Ok(Ok(_)))
}

/// The text at a path of a pod's plain HTTP port, for example `/metrics`.
///
/// # Errors
/// There is none.
pub async fn http(world: &World, namespace: &str, pod: &str, port: u16, path: &str) -> Fallible<String> {
    let uri = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy{path}");
    let request = http::Request::get(&uri).body(Vec::new()).map_err(|error| error.to_string())?;
    world.client.request_text(request).await.map_err(said(&format!("read {path} of pod {pod}")))
}

/// One number out of OpenMetrics text: the sum of all samples with this name (and, in `label`, this text).
pub fn metric(text: &str, name: &str, label: &str) -> Option<f64> {
    let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let (series, rest) = line.rsplit_once("} ").map_or_else(|| line.split_once(' '), Some)?;
        let (is, labels) = series.split_once('{').unwrap_or((series, ""));
        let value = rest.split_whitespace().next()?.parse::<f64>().ok()?;
        (is == name && labels.contains(label)).then_some(value)
    });
    samples.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

/// What a command in a container prints, both streams. The images for tests hold a shell.
///
/// # Errors
/// It cannot be run, or says nothing within its time.
pub async fn exec(world: &World, namespace: &str, pod: &str, container: &str, command: &[&str]) -> Fallible<String> {
    let params = AttachParams::default().container(container).stdin(false).stdout(true).stderr(true);
    let run = async {
        let mut process = world.pods(namespace).exec(pod, command.iter().copied(), &params).await;
        let process = process.as_mut().map_err(|error| format!("cannot run {command:?} in pod {pod}: {error}"))?;
        let (mut out, mut err) = (String::new(), String::new());
        let (stdout, stderr) = (process.stdout(), process.stderr());
        let read_out = async {
            if let Some(mut stream) = stdout {
                let _ = stream.read_to_string(&mut out).await;
            }
        };
        let read_err = async {
            if let Some(mut stream) = stderr {
                let _ = stream.read_to_string(&mut err).await;
            }
        };
        tokio::join!(read_out, read_err);
        Ok(out + &err)
    };
    timeout(COMMAND, run).await.map_err(|_| format!("{command:?} in pod {pod} did not end"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_in_metrics() {
        let text = "# HELP x\nsipmcp_x 3\nsipmcp_y_total{kind=\"a b\"} 1 17.5\nsipmcp_y_total{kind=\"c\"} 2.5\n# EOF\n";
        assert_eq!(metric(text, "sipmcp_x", ""), Some(3.0));
        assert_eq!(metric(text, "sipmcp_y_total", ""), Some(3.5));
        assert_eq!(metric(text, "sipmcp_y_total", "kind=\"a b\""), Some(1.0));
        assert_eq!(metric(text, "sipmcp", ""), None);
    }
}
