//! UDP, TCP, TLS and WSS through what Kubernetes puts in front of pods: what callers are told, and where edges see them come from.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::faults::AGENT;
use crate::Fallible;
use crate::certificates::Authority;
use crate::ensure;
use crate::harness::PATIENCE;
use crate::harness::cluster::said;
use crate::harness::process::run;
use crate::harness::reach::{Way, reaches};
use crate::harness::space::{Security, Space};
use crate::harness::wait::until;
use crate::manifests::{EDGE, Fleet, USER, agent};
use crate::runner::Outcome;
use crate::sip::link::Tls;
use crate::sip::phone::Phone;
use crate::sip::probe;

/// Ports of the pods. On the host network they are the node's own, so no usual ones.
const LISTENERS: [(&str, u16); 4] = [("UDP", 15_060), ("TCP", 15_060), ("TLS", 15_061), ("WSS", 15_443)];
const LIMIT: Duration = Duration::from_secs(30);

/// What is expected of a way in.
struct Way4<'a> {
    host: IpAddr,
    /// By transport.
    ports: [(&'static str, u16); 4],
    /// What the edge writes into Contact.
    advertised: String,
    authority: &'a Authority,
}

async fn begin(space: &Space<'_>, network: Value, replicas: u32, security: Security) -> Fallible<Authority> {
    space.world.installed().await?;
    space.begin(security).await?;
    let authority = space.authority().await?;
    let mut fleet = Fleet::of(replicas, &LISTENERS);
    fleet.network = network;
    space.fleet(&fleet).await?;
    space.apply(&agent(space, AGENT)).await?;
    space.comes("McpAgent", AGENT, "Programmed", "True", None).await?;
    Ok(authority)
}

/// Calls by each transport, a dialog, and the address that is told in it.
async fn works(space: &Space<'_>, way: &Way4<'_>) -> Fallible<()> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let ca = folder.path().join("ca.crt");
    std::fs::write(&ca, &way.authority.pem).map_err(|error| error.to_string())?;
    let (ca, uri) = (ca.to_string_lossy().into_owned(), format!("sip:{AGENT}@{}", space.domain()));
    for (transport, port) in way.ports {
        let (name, proxy) = (transport.to_lowercase(), format!("sip:{}", SocketAddr::new(way.host, port)));
        let text = format!("text=by {name}");
        let arguments = [
            "call",
            &*uri,
            "--tool",
            "echo",
            "--arg",
            &*text,
            "--transport",
            &*name,
            "--proxy",
            &*proxy,
            "--ca",
            &*ca,
            // Whose address a datagram does not prove.
            "--user",
            USER.0,
            "--password",
            USER.1,
            "--json",
        ];
        // kube-proxy writes its rules a moment after the endpoints are there.
        let ran = until(&format!("a call by {transport}"), PATIENCE, || async {
            run(space.world, "sipmcp", &arguments, LIMIT).await?.ok()
        })
        .await?;
        ensure!(ran.text() == format!("by {name}"), "by {transport} the agent said {}", ran.out);
    }
    let port = way.ports[2].1;
    let tls = Tls { config: way.authority.client_config()?, domain: space.domain() };
    let phone = Phone::new(vec![Way::Direct(SocketAddr::new(way.host, port))], Some(tls), &space.domain(), true);
    let dialog = phone.invite(&uri, LIMIT).await.map_err(|lost| format!("INVITE by TLS: {lost}"))?;
    let answer = phone.call(&dialog, "echo", &json!({"text": "in a dialog"}), LIMIT).await?;
    ensure!(answer["content"][0]["text"] == "in a dialog", "{answer}");
    phone.bye(&dialog, LIMIT).await?;
    let contact = dialog.contact.clone().unwrap_or_default();
    ensure!(contact == way.advertised, "Contact says {contact:?}, it should say {:?}", way.advertised);
    let edge = space.world.ours("SipEdge", &space.name).get(EDGE).await.map_err(said("read the SipEdge"))?;
    let told = edge.data["status"]["addresses"].to_string();
    ensure!(told.contains(&way.advertised), "status.addresses has no {}: {told}", way.advertised);
    Ok(())
}

/// The edge sees this machine's own address, by UDP and by TCP.
async fn source_is_kept(space: &Space<'_>, way: &Way4<'_>) -> Fallible<()> {
    for (transport, port) in &way.ports[..2] {
        let remote = SocketAddr::new(way.host, *port);
        let seen = match *transport {
            "UDP" => probe::udp(remote, &space.domain()).await?,
            _ => probe::tcp(remote, &space.domain()).await?,
        };
        ensure!(
            seen.received == Some(seen.ours),
            "by {transport} the edge saw {:?}, and we are {}: {:?}",
            seen.received,
            seen.ours,
            seen.response.status()
        );
    }
    Ok(())
}

pub async fn cluster_ip(space: &Space<'_>) -> Fallible<Outcome> {
    let authority =
        begin(space, json!({"mode": "ClusterIP", "advertise": {"from": "ServiceAddress"}}), 2, Security::Restricted)
            .await?;
    let ip = space.cluster_ip(EDGE).await?;
    let host: IpAddr = ip.parse().map_err(|_| format!("the Service's address is {ip}"))?;
    if !reaches(SocketAddr::new(host, LISTENERS[1].1)).await {
        return Ok(Outcome::Skipped(format!("this machine has no way to the ClusterIP {ip}")));
    }
    works(space, &Way4 { host, ports: LISTENERS, advertised: ip, authority: &authority }).await?;
    Ok(Outcome::Passed)
}

/// The address that the pod's node has among the nodes.
async fn node_of(space: &Space<'_>, pod: &Pod) -> Fallible<IpAddr> {
    let name = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.node_name.clone())
        .ok_or_else(|| format!("{} has no node", pod.name_any()))?;
    let node = Api::<Node>::all(space.world.client.clone()).get(&name).await.map_err(said("read the node"))?;
    let addresses = node.status.and_then(|status| status.addresses).unwrap_or_default();
    let internal =
        addresses.iter().find(|address| address.type_ == "InternalIP").and_then(|address| address.address.parse().ok());
    internal.ok_or_else(|| format!("node {name} has no InternalIP"))
}

pub async fn node_port(space: &Space<'_>) -> Fallible<Outcome> {
    let network = json!({"mode": "NodePort", "advertise": {"from": "NodeInternalIP"}});
    let authority = begin(space, network, 1, Security::Restricted).await?;
    let service = space.world.api("v1", "Service", &space.name).get(EDGE).await.map_err(said("read the Service"))?;
    ensure!(service.data["spec"]["externalTrafficPolicy"] == "Local", "the Service does not keep the source address");
    let given = service.data["spec"]["ports"].as_array().cloned().unwrap_or_default();
    let mut ports = LISTENERS;
    for (transport, port) in &mut ports {
        let name = transport.to_lowercase();
        let found = given.iter().find(|port| port["name"] == name.as_str()).and_then(|port| port["nodePort"].as_u64());
        *port =
            found.and_then(|port| u16::try_from(port).ok()).ok_or_else(|| format!("no node port for {transport}"))?;
    }
    let pods = space.edge_pods().await?;
    let host = node_of(space, &pods[0]).await?;
    let tcp = SocketAddr::new(host, ports[1].1);
    if until("the node port", Duration::from_secs(20), || async {
        if reaches(tcp).await { Ok(()) } else { Err(format!("{tcp}")) }
    })
    .await
    .is_err()
    {
        return Ok(Outcome::Skipped(format!("this machine has no way to the node {host}")));
    }
    let way = Way4 { host, ports, advertised: host.to_string(), authority: &authority };
    works(space, &way).await?;
    source_is_kept(space, &way).await?;
    Ok(Outcome::Passed)
}

pub async fn host_network(space: &Space<'_>) -> Fallible<Outcome> {
    let network = json!({"mode": "HostNetwork", "advertise": {"from": "NodeInternalIP"}});
    let authority = begin(space, network, 1, Security::Privileged).await?;
    let pods = space.edge_pods().await?;
    let host = node_of(space, &pods[0]).await?;
    if !reaches(SocketAddr::new(host, LISTENERS[1].1)).await {
        return Ok(Outcome::Skipped(format!("this machine has no way to the node {host}")));
    }
    let services = space.world.api("v1", "Service", &space.name);
    let ingress = services.get_opt(EDGE).await.map_err(said("read Services"))?;
    ensure!(ingress.is_none(), "there is a Service in front of the host network");
    let way = Way4 { host, ports: LISTENERS, advertised: host.to_string(), authority: &authority };
    works(space, &way).await?;
    source_is_kept(space, &way).await?;
    Ok(Outcome::Passed)
}
