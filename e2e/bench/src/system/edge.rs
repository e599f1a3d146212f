//! Our edge: one process, its manifests written for the run.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use sip_proto::auth::{Algorithm, a1};

use super::{Program, beside, free_port, wait_for_sip};
use crate::scenario::register::PASSWORD;

/// Where its state lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Store {
    Memory,
    Redis(SocketAddr),
}

/// How it is configured.
pub struct Setup<'a> {
    pub store: Store,
    /// URL of the MCP server of `echo@bench.example`.
    pub backend: &'a str,
    /// So many users (`u0` …) may register.
    pub users: usize,
    /// Class of the domain, as the manifest names it.
    pub durability: &'static str,
}

impl Setup<'_> {
    pub fn new(store: Store, backend: &str) -> Setup<'_> {
        Setup { store, backend, users: 0, durability: "Memory" }
    }
}

pub struct Edge {
    pub program: Program,
    pub address: SocketAddr,
}

impl Edge {
    /// # Errors
    /// When it cannot be started or does not answer.
    pub fn start(setup: &Setup<'_>, folder: &Path) -> io::Result<Edge> {
        let address: SocketAddr = ([127, 0, 0, 1], free_port()?).into();
        let admin: SocketAddr = ([127, 0, 0, 1], free_port()?).into();
        let manifests = folder.join("manifests");
        fs::create_dir_all(&manifests)?;
        fs::write(manifests.join("bench.yaml"), objects(setup, address))?;
        let mut command = Command::new(beside("sipmcp-edge"));
        command.arg("--manifests").arg(&manifests).args(["--admin", &admin.to_string(), "--shards", "1"]);
        command.args(["--log-level", "warn"]).env("SIPMCP_AUDIT", folder.join("audit.log"));
        let program = Program::start("sipmcp-edge", &mut command, &folder.join("edge.log"))?;
        wait_for_sip(address).map_err(|error| {
            let log = fs::read_to_string(folder.join("edge.log")).unwrap_or_default();
            io::Error::new(
                error.kind(),
                format!("{error}; the edge said:\n{}", log.lines().take(20).collect::<Vec<_>>().join("\n")),
            )
        })?;
        Ok(Edge { program, address })
    }
}

fn objects(setup: &Setup<'_>, address: SocketAddr) -> String {
    let Setup { store, backend, users, durability } = setup;
    let (ip, port) = (address.ip(), address.port());
    let (reference, stored) = match store {
        Store::Memory => (String::new(), String::new()),
        Store::Redis(redis) => (
            "  sessionStoreRef: {name: bench}\n".to_owned(),
            format!(
                "---\napiVersion: sipmcp.dev/v1alpha1\nkind: SessionStore\nmetadata: {{name: bench}}\nspec:\n  \
                 redis: {{topology: Single, addresses: [\"{redis}\"]}}\n---\napiVersion: v1\nkind: Secret\n\
                 metadata: {{name: bench-keys}}\nstringData:\n  \"1\": \"{}\"\n  current: \"1\"\n  naming: \"{}\"\n",
                "5c".repeat(64),
                "a7".repeat(32)
            ),
        ),
    };
    let known: String = (0..*users)
        .map(|n| format!("  u{n}: SHA-256:{}\n", a1(Algorithm::Sha256, &format!("u{n}"), "bench.example", PASSWORD)))
        .collect();
    let digest = match users {
        0 => String::new(),
        _ => "  authentication:\n    digest: {algorithms: [SHA-256], usersSecretRef: {name: bench-users}}\n".to_owned(),
    };
    let secret = match users {
        0 => String::new(),
        _ => format!("---\napiVersion: v1\nkind: Secret\nmetadata: {{name: bench-users}}\nstringData:\n{known}"),
    };
    // Who shows no credentials may call declared addresses only: the first user is one.
    let phone = match users {
        0 => "",
        _ => {
            "---\napiVersion: sipmcp.dev/v1alpha1\nkind: McpAgent\nmetadata: {name: u0}\nspec:\n  \
             address: {user: u0, domainRef: {name: bench}}\n  backend: {sipContact: {authentication: Digest}}\n  \
             capabilities: {source: Declared}\n"
        }
    };
    format!(
        "apiVersion: sipmcp.dev/v1alpha1
kind: SipEdge
metadata: {{name: bench}}
spec:
  network:
    advertise: {{from: Static, address: {ip}}}
  insecure: true
{reference}  listeners:
    - {{name: udp, protocol: UDP, port: {port}, address: {ip}}}
  limits: {{sessionsPerPod: 100000}}
  drain: {{settleSeconds: 0, inFlightSeconds: 1, dialogSeconds: 0}}
{stored}---
apiVersion: sipmcp.dev/v1alpha1
kind: SipDomain
metadata: {{name: bench}}
spec:
  domain: bench.example
  durability: {durability}
{digest}  transport: {{allowPlain: [UDP]}}
{secret}---
apiVersion: sipmcp.dev/v1alpha1
kind: McpCapabilityPolicy
metadata: {{name: everybody}}
spec:
  targetRefs: [{{kind: SipDomain, name: bench}}]
  rules:
    - {{name: everybody, from: [{{anonymous: {{}}}}, {{sipIdentity: \"sip:*@bench.example\"}}], action: Allow, audit: None}}
---
apiVersion: sipmcp.dev/v1alpha1
kind: McpAgent
metadata: {{name: echo}}
spec:
  address: {{user: echo, domainRef: {{name: bench}}}}
  backend: {{mcpHttp: {{url: \"{backend}\", revisions: [\"2026-07-28\"]}}}}
  capabilities: {{source: Discovered, tools: [{{name: echo, effect: ReadOnly}}]}}
{phone}"
    )
}
