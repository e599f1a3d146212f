//! What the edges read: one folder per edge, alike but for the addresses.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use sip_proto::auth::{Algorithm, a1};

use crate::Fallible;
use crate::args::Class;
use crate::certificates::Authority;
use crate::place;
use crate::redis::Store;

pub const DOMAIN: &str = "kill.example";
/// The agent that every call goes to.
pub const AGENT: &str = "sip:ledger@kill.example";
/// What the SipEdge is called.
pub const EDGE: &str = "kill";

pub const UDP: u16 = 25060;
pub const TLS: u16 = 25061;
pub const WSS: u16 = 25443;
pub const ADMIN: u16 = 25090;
pub const MESH: u16 = 25070;
/// Where the other edges reach the mesh of an edge: a proxy of ours.
pub const MESH_PROXY: u16 = 25071;

/// What all edges of one run share.
pub struct Plan<'a> {
    pub authority: &'a Authority,
    pub store: &'a Store,
    pub class: Class,
    pub users: &'a [String],
    /// The ledger agent.
    pub agent: &'a str,
}

/// Every user's password is made of the name.
pub fn password(user: &str) -> String {
    format!("secret of {user}")
}

/// The same token keys and naming key for every edge of a run.
pub struct Keys {
    token: String,
    naming: String,
}

impl Keys {
    pub fn new() -> Keys {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        Keys { token: hex(&place::random::<64>()), naming: hex(&place::random::<32>()) }
    }
}

/// Writes the folder of one edge; returns it. `store` is where this edge reaches the store.
pub fn write(
    plan: &Plan<'_>,
    keys: &Keys,
    folder: &Path,
    name: &str,
    ip: IpAddr,
    store: &[String],
) -> Fallible<PathBuf> {
    let path = folder.join(format!("manifests-{name}"));
    let put = |file: &str, text: String| {
        fs::write(path.join(file), text).map_err(|error| format!("{}: {error}", path.join(file).display()))
    };
    fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    put("edge.yaml", edge(plan.store, ip))?;
    put("domain.yaml", domain(plan))?;
    put("agent.yaml", agent(plan.agent))?;
    put("tls.yaml", tls(plan.authority))?;
    if let Some(spec) = plan.store.manifest(store) {
        put("store.yaml", spec)?;
        put(
            "keys.yaml",
            format!(
                "apiVersion: v1\nkind: Secret\nmetadata: {{name: {EDGE}-keys}}\nstringData:\n  \"1\": {}\n  naming: {}\n",
                keys.token, keys.naming
            ),
        )?;
    }
    Ok(path)
}

fn edge(store: &Store, ip: IpAddr) -> String {
    let store_ref = if store.is_shared() { "  sessionStoreRef: {name: main}\n" } else { "" };
    format!(
        "apiVersion: sipmcp.dev/v1alpha1
kind: SipEdge
metadata: {{name: {EDGE}}}
spec:
{store_ref}  network:
    advertise: {{name: sip.{DOMAIN}}}
  insecure: true
  listeners:
    - {{name: udp, protocol: UDP, port: {UDP}, address: {ip}}}
    - {{name: tcp, protocol: TCP, port: {UDP}, address: {ip}}}
    - {{name: sips, protocol: TLS, port: {TLS}, address: {ip}, tls: {{certificateRefs: [{{name: edge-tls}}], clientAuth: None}}}}
    - {{name: wss, protocol: WSS, port: {WSS}, address: {ip}, tls: {{certificateRefs: [{{name: edge-tls}}], clientAuth: None}}}}
  drain: {{settleSeconds: 1, inFlightSeconds: 10, dialogSeconds: 5}}
  limits: {{sessionsPerPod: 100000}}
"
    )
}

fn domain(plan: &Plan<'_>) -> String {
    let durability = match plan.store.is_shared() {
        true => format!("  durability: {:?}\n", plan.class),
        false => String::new(),
    };
    let mut text = format!(
        "apiVersion: sipmcp.dev/v1alpha1
kind: SipDomain
metadata: {{name: kill}}
spec:
  domain: {DOMAIN}
{durability}  authentication:
    digest: {{algorithms: [SHA-256], usersSecretRef: {{name: kill-users}}}}
  transport: {{allowPlain: [UDP, TCP]}}
---
apiVersion: sipmcp.dev/v1alpha1
kind: McpCapabilityPolicy
metadata: {{name: users}}
spec:
  targetRefs: [{{kind: SipDomain, name: kill}}]
  rules:
    - {{name: users, from: [{{sipIdentity: \"sip:*@{DOMAIN}\"}}], action: Allow}}
---
apiVersion: v1
kind: Secret
metadata: {{name: kill-users}}
stringData:
"
    );
    for user in plan.users {
        let ha1 = a1(Algorithm::Sha256, user, DOMAIN, &password(user));
        text.push_str(&format!("  {user}: SHA-256:{ha1}\n"));
    }
    text
}

/// `pay` and `slow` are declared as nothing, so they are not safe to repeat.
fn agent(url: &str) -> String {
    format!(
        "apiVersion: sipmcp.dev/v1alpha1
kind: McpAgent
metadata: {{name: ledger}}
spec:
  address: {{user: ledger, domainRef: {{name: kill}}}}
  backend: {{mcpHttp: {{url: \"{url}\", revisions: [\"2026-07-28\"]}}}}
  capabilities: {{source: Discovered, tools: [{{name: lookup, effect: Idempotent}}]}}
  inFlight: {{timeoutSeconds: 120}}
"
    )
}

fn tls(authority: &Authority) -> String {
    let block = |pem: &str| pem.trim().lines().map(|line| format!("    {line}\n")).collect::<String>();
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: edge-tls}}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
        block(&authority.edge.certificate),
        block(&authority.edge.key)
    )
}
