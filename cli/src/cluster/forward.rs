//! The way from here to an edge of the cluster: a local port that is forwarded to one of its pods.

use std::net::SocketAddr;

use crds::v1alpha1::{Listener, ListenerProtocol, McpAgent, SipDomain, SipEdge};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::admin::is_ready;
use super::{Cluster, holds, refused};
use crate::failure::Failure;
use crate::net::Transport;

/// Objects of one page of a list.
const PAGE: u32 = 500;
/// Objects of a kind that are looked at.
const MAX_OBJECTS: usize = 20_000;
/// Certificate authorities in the Secret of a listener's certificate.
const CA_KEY: &str = "ca.crt";
/// In this order, where none is asked for. A UDP port cannot be forwarded.
const PREFERRED: [ListenerProtocol; 4] =
    [ListenerProtocol::Tls, ListenerProtocol::Tcp, ListenerProtocol::Wss, ListenerProtocol::Ws];

/// A local port, as long as this lives.
pub struct Way {
    /// For `--proxy`.
    pub proxy: String,
    /// Who signed the edge's certificate, where its Secret says so and may be read.
    pub ca_pem: Option<Vec<u8>>,
    forwarding: JoinHandle<()>,
}

impl Drop for Way {
    fn drop(&mut self) {
        self.forwarding.abort();
    }
}

/// To a ready pod of a SipEdge that serves `user@domain`.
pub async fn open(cluster: &Cluster, user: &str, domain: &str, transport: Option<Transport>) -> Result<Way, Failure> {
    let edge = edge(cluster, user, domain).await?;
    let listener = listener(&edge, transport)?;
    let namespace = edge.namespace().unwrap_or_default();
    let pods = Api::<Pod>::namespaced(cluster.client.clone(), &namespace);
    let labels = format!("app.kubernetes.io/name=sipmcp-edge,app.kubernetes.io/instance={}", edge.name_any());
    let list = pods.list(&ListParams::default().labels(&labels).limit(PAGE)).await;
    let list = list.map_err(|error| refused(&format!("list the pods of namespace {namespace}"), &error))?;
    let pod = list.items.into_iter().find(is_ready).and_then(|pod| pod.metadata.name);
    let none = || Failure::unreachable(format!("no pod of SipEdge {namespace}/{} is ready", edge.name_any()));
    let pod = pod.ok_or_else(none)?;
    let bound = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await;
    let bound = bound.and_then(|listener| listener.local_addr().map(|address| (listener, address)));
    let (local, address) = bound.map_err(|error| Failure::unreachable(format!("no local port: {error}")))?;
    let (scheme, name) = match listener.protocol {
        ListenerProtocol::Tls => ("sips", "tls"),
        ListenerProtocol::Wss => ("sips", "wss"),
        ListenerProtocol::Ws => ("sip", "ws"),
        ListenerProtocol::Tcp | ListenerProtocol::Udp => ("sip", "tcp"),
    };
    let ca_pem = if listener.protocol.is_secure() { authorities(cluster, &namespace, listener).await } else { None };
    Ok(Way {
        proxy: format!("{scheme}:{address};transport={name}"),
        ca_pem,
        forwarding: tokio::spawn(forward(local, pods, pod, listener.port)),
    })
}

async fn forward(local: TcpListener, pods: Api<Pod>, pod: String, port: u16) {
    while let Ok((stream, _)) = local.accept().await {
        let (pods, pod) = (pods.clone(), pod.clone());
        tokio::spawn(async move {
            if let Err(error) = join(stream, &pods, &pod, port).await {
                eprintln!("sipmcp: port {port} of pod {pod} cannot be forwarded: {error}");
            }
        });
    }
}

async fn join(mut stream: TcpStream, pods: &Api<Pod>, pod: &str, port: u16) -> Result<(), String> {
    let mut forwarder = pods.portforward(pod, &[port]).await.map_err(|error| error.to_string())?;
    let mut far = forwarder.take_stream(port).ok_or("no stream")?;
    // Either side may end it at any time.
    let _ = copy_bidirectional(&mut stream, &mut far).await;
    drop(far);
    let _ = forwarder.join().await;
    Ok(())
}

/// The one that serves the agent. Where several may, the agent itself says which.
async fn edge(cluster: &Cluster, user: &str, domain: &str) -> Result<SipEdge, Failure> {
    let domains = Api::<SipDomain>::all(cluster.client.clone());
    let owner = find(&domains, "SipDomains", |object| object.spec.domain.eq_ignore_ascii_case(domain)).await?;
    let owner = owner.ok_or_else(|| Failure::usage(format!("no SipDomain of this cluster has the domain {domain}")))?;
    let allows = |edge: &SipEdge| {
        edge.spec.allows_domain(owner.labels())
            && edge.status.as_ref().is_some_and(|status| holds(&status.conditions, "Ready"))
    };
    let mut edges = all(&Api::<SipEdge>::all(cluster.client.clone()), "SipEdges").await?;
    edges.retain(allows);
    if edges.len() > 1 {
        let agents = Api::<McpAgent>::all(cluster.client.clone());
        let name = owner.name_any();
        let is = |agent: &McpAgent| agent.spec.address.user == user && agent.spec.address.domain_ref.name == name;
        if let Some(agent) = find(&agents, "McpAgents", is).await?
            && !agent.spec.parent_refs.is_empty()
        {
            let namespace = agent.namespace().unwrap_or_default();
            let parents: Vec<_> = agent.spec.parent_refs.iter().map(|parent| parent.key(&namespace)).collect();
            edges.retain(|edge| {
                parents
                    .iter()
                    .any(|key| Some(&*key.namespace) == edge.namespace().as_deref() && key.name == edge.name_any())
            });
        }
    }
    let none = || Failure::unreachable(format!("no SipEdge that is ready serves {domain}; see `kubectl sipmcp check`"));
    edges.into_iter().next().ok_or_else(none)
}

fn listener(edge: &SipEdge, transport: Option<Transport>) -> Result<&Listener, Failure> {
    let wanted: Vec<ListenerProtocol> = match transport {
        None => PREFERRED.to_vec(),
        Some(Transport::Tcp) => vec![ListenerProtocol::Tcp],
        Some(Transport::Tls) => vec![ListenerProtocol::Tls],
        Some(Transport::Ws) => vec![ListenerProtocol::Ws],
        Some(Transport::Wss) => vec![ListenerProtocol::Wss],
        Some(Transport::Udp) => {
            return Err(Failure::usage("a UDP port cannot be forwarded; use --transport tls or tcp"));
        }
    };
    let with = |protocol: &ListenerProtocol| edge.spec.listeners.iter().find(|listener| listener.protocol == *protocol);
    wanted.iter().find_map(with).ok_or_else(|| {
        Failure::usage(format!("SipEdge {} has no listener for this transport that can be forwarded", edge.name_any()))
    })
}

/// Of all certificates of the listener. Whoever may not read them uses `--ca`, or the authorities of this system.
async fn authorities(cluster: &Cluster, namespace: &str, listener: &Listener) -> Option<Vec<u8>> {
    let secrets = Api::<Secret>::namespaced(cluster.client.clone(), namespace);
    let mut pem = Vec::new();
    for reference in &listener.tls.as_ref()?.certificate_refs {
        let Ok(Some(secret)) = secrets.get_opt(&reference.name).await else { continue };
        for (key, value) in secret.data.unwrap_or_default() {
            if key == CA_KEY {
                pem.extend_from_slice(&value.0);
                pem.push(b'\n');
            } else {
                // The key of the certificate came with it.
                drop(zeroize::Zeroizing::new(value.0));
            }
        }
    }
    (!pem.is_empty()).then_some(pem)
}

/// Every object of a kind.
pub async fn all<K>(api: &Api<K>, plural: &str) -> Result<Vec<K>, Failure>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    let mut found = Vec::new();
    each(api, plural, |object| {
        found.push(object);
        true
    })
    .await?;
    Ok(found)
}

/// The first object that fits.
async fn find<K>(api: &Api<K>, plural: &str, fits: impl Fn(&K) -> bool) -> Result<Option<K>, Failure>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    let mut found = None;
    each(api, plural, |object| {
        if fits(&object) {
            found = Some(object);
        }
        found.is_none()
    })
    .await?;
    Ok(found)
}

/// Page by page, as long as `more` says so.
async fn each<K>(api: &Api<K>, plural: &str, mut more: impl FnMut(K) -> bool) -> Result<(), Failure>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    let mut params = ListParams::default().limit(PAGE);
    let mut seen = 0;
    loop {
        let list = api.list(&params).await.map_err(|error| refused(&format!("list {plural}"), &error))?;
        for object in list.items {
            seen += 1;
            if !more(object) {
                return Ok(());
            }
        }
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) if seen < MAX_OBJECTS => params = params.continue_token(&token),
            Some(_) => return Err(Failure::usage(format!("there are more than {MAX_OBJECTS} {plural}"))),
            None => return Ok(()),
        }
    }
}
