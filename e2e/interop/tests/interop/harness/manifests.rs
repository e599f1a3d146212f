//! The manifests of one test: an edge on an address of its own, four domains, and the agents that the test adds.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use super::certificates::authority;
use super::place;

pub const UDP: u16 = 25060;
pub const TCP: u16 = 25060;
pub const TLS: u16 = 25061;
pub const WS: u16 = 25066;
pub const WSS: u16 = 25443;
pub const ADMIN: u16 = 25090;

/// Every user has it.
pub const PASSWORD: &str = "wonderland";

/// A folder of manifests. `demo.example` knows alice, bob and desk (SHA-256), and alice by certificate; `md5.example` knows phones that
/// can do MD5 only; `both.example` offers two algorithms; `open.example` takes callers without credentials; `secure.example` wants TLS.
pub struct Manifests {
    folder: tempfile::TempDir,
    pub ip: Ipv4Addr,
}

impl Manifests {
    pub fn new() -> Manifests {
        let manifests = Manifests { folder: tempfile::tempdir().unwrap(), ip: place::address() };
        fs::create_dir(manifests.path()).unwrap();
        manifests.write("edge.yaml", &edge(manifests.ip));
        manifests.write("domains.yaml", DOMAINS);
        manifests.write("policies.yaml", POLICIES);
        manifests.write("trust.yaml", &trust());
        manifests
    }

    /// A folder for everything else of the test.
    pub fn scratch(&self) -> &Path {
        self.folder.path()
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("manifests")
    }

    /// Writes a file as an editor does: a new one in the place of the old one.
    pub fn write(&self, name: &str, text: &str) {
        let new = self.folder.path().join(format!("{name}.new"));
        fs::write(&new, text).unwrap();
        fs::rename(&new, self.path().join(name)).unwrap();
    }

    /// A policy for one agent (`hidden@demo`): its rules as YAML.
    pub fn policy(&self, address: &str, default_action: &str, rules: &str) {
        let name = address.replace('@', "-");
        self.write(
            &format!("policy-{name}.yaml"),
            &format!(
                "apiVersion: sipmcp.dev/v1alpha1\nkind: McpCapabilityPolicy\nmetadata: {{name: {name}}}\nspec:\n  \
                 targetRefs: [{{kind: McpAgent, name: {name}}}]\n  defaultAction: {default_action}\n  rules: [{rules}]\n"
            ),
        );
    }

    /// An agent at `USER@DOMAIN` (`echo@demo`), the domain by the name of its object.
    pub fn agent(&self, address: &str, url: &str, revisions: &str, timeout_seconds: u32) {
        let (user, domain) = address.split_once('@').unwrap();
        self.write(
            &format!("agent-{user}-{domain}.yaml"),
            &format!(
                "apiVersion: sipmcp.dev/v1alpha1\nkind: McpAgent\nmetadata: {{name: {user}-{domain}}}\nspec:\n  \
                 address: {{user: {user}, domainRef: {{name: {domain}}}}}\n  \
                 backend: {{mcpHttp: {{url: \"{url}\", revisions: [{revisions}]}}}}\n  \
                 capabilities: {{source: Discovered, tools: [{{name: echo, effect: ReadOnly}}]}}\n  \
                 inFlight: {{timeoutSeconds: {timeout_seconds}}}\n"
            ),
        );
    }
}

fn edge(ip: Ipv4Addr) -> String {
    format!(
        "apiVersion: sipmcp.dev/v1alpha1
kind: SipEdge
metadata: {{name: interop}}
spec:
  network:
    advertise: {{from: Static, address: {ip}}}
  insecure: true
  listeners:
    - {{name: udp, protocol: UDP, port: {UDP}, address: {ip}}}
    - {{name: tcp, protocol: TCP, port: {TCP}, address: {ip}}}
    - {{name: ws, protocol: WS, port: {WS}, address: {ip}}}
    - {{name: sips, protocol: TLS, port: {TLS}, address: {ip}, tls: {{certificateRefs: [{{name: edge-tls}}]}}}}
    - {{name: wss, protocol: WSS, port: {WSS}, address: {ip}, tls: {{certificateRefs: [{{name: edge-tls}}]}}}}
  drain: {{settleSeconds: 0, inFlightSeconds: 10, dialogSeconds: 1}}
"
    )
}

/// HEX is H(user:realm:wonderland): `printf %s alice:demo.example:wonderland | sha256sum`.
const DOMAINS: &str = "\
apiVersion: sipmcp.dev/v1alpha1
kind: SipDomain
metadata: {name: demo}
spec:
  domain: demo.example
  authentication:
    digest: {algorithms: [SHA-256], usersSecretRef: {name: demo-users}}
    clientCertificates: {caBundleRef: {name: interop-ca}}
  transport: {allowPlain: [UDP, TCP, WS]}
---
apiVersion: v1
kind: Secret
metadata: {name: demo-users}
stringData:
  alice: SHA-256:4b9a9ba7085b0b293f760a403b669be8a0d84b3094a885ce6d5990e015055708
  desk: SHA-256:8d97c6c51aca09cb7848abad39ebba882980f7165b55e9b225e50417d2b41de8
  bob: SHA-256:2f59d050f4b5df98a56f701580dff4d34ccd912689869515f3f255519d5f9c34
---
apiVersion: sipmcp.dev/v1alpha1
kind: SipDomain
metadata: {name: md5}
spec:
  domain: md5.example
  authentication:
    digest: {algorithms: [MD5], usersSecretRef: {name: md5-users}}
  transport: {allowPlain: [UDP, TCP]}
---
apiVersion: v1
kind: Secret
metadata: {name: md5-users}
stringData:
  sipp: MD5:7a44415602f07be1a79ed4b1d3b0e5ee
  baresip: MD5:0d55652415c0e35ae89ec79da28e8b7c
---
apiVersion: sipmcp.dev/v1alpha1
kind: SipDomain
metadata: {name: open}
spec:
  domain: open.example
  transport: {allowPlain: [UDP, TCP]}
---
apiVersion: sipmcp.dev/v1alpha1
kind: SipDomain
metadata: {name: both}
spec:
  domain: both.example
  authentication:
    digest: {algorithms: [SHA-256, SHA-512-256], usersSecretRef: {name: both-users}}
  transport: {allowPlain: [UDP, TCP]}
---
apiVersion: v1
kind: Secret
metadata: {name: both-users}
stringData:
  alice: |
    SHA-256:e8ef08acb388b158fcf03ed67732a795f5f95148148b47d9b239716f9e255f3b
    SHA-512-256:c7d2f3488da1add1c2e891f80e8268c8aaa5ecd4970a921155c4d73a1be309d8
---
apiVersion: sipmcp.dev/v1alpha1
kind: SipDomain
metadata: {name: secure}
spec:
  domain: secure.example
  authentication:
    digest: {algorithms: [SHA-256], usersSecretRef: {name: secure-users}}
---
apiVersion: v1
kind: Secret
metadata: {name: secure-users}
stringData:
  alice: SHA-256:490ec17906e796b726113a6e497ed11b942bca26b2472e92205321d7ef20b090
";

const POLICIES: &str = "\
apiVersion: sipmcp.dev/v1alpha1
kind: McpCapabilityPolicy
metadata: {name: users}
spec:
  targetRefs: [{kind: SipDomain, name: demo}, {kind: SipDomain, name: md5}, {kind: SipDomain, name: both}, {kind: SipDomain, name: secure}]
  rules:
    - name: users
      from:
        - {sipIdentity: \"sip:*@demo.example\"}
        - {sipIdentity: \"sip:*@md5.example\"}
        - {sipIdentity: \"sip:*@both.example\"}
        - {sipIdentity: \"sip:*@secure.example\"}
      action: Allow
---
apiVersion: sipmcp.dev/v1alpha1
kind: McpCapabilityPolicy
metadata: {name: everybody}
spec:
  targetRefs: [{kind: SipDomain, name: open}]
  rules:
    - {name: everybody, from: [{anonymous: {}}], action: Allow}
";

fn trust() -> String {
    let authority = authority();
    let block = |pem: &str| pem.trim().lines().map(|line| format!("    {line}\n")).collect::<String>();
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: edge-tls}}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n{}  \
         tls.key: |\n{}---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: interop-ca}}\ndata:\n  ca.crt: |\n{}",
        block(&authority.edge.certificate),
        block(&authority.edge.key),
        block(&authority.pem)
    )
}
