//! Real edges with a shared store: the one that serves the call is killed while the tool runs.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    SanType,
};

use super::support::{PATIENCE, Ran, sipmcp};

/// Tells the process below what it is; one argument per line.
const EDGE: &str = "SIPMCP_TEST_EDGE_ARGUMENTS";

/// An edge, in a process of its own: this test program again.
#[test]
fn edge_process() {
    let Ok(arguments) = std::env::var(EDGE) else { return };
    let _ = tokio_rustls::rustls::crypto::aws_lc_rs::default_provider().install_default();
    let _ = edge::run::run(&edge::args::Args::parse_from(std::iter::once("sipmcp-edge").chain(arguments.lines())));
}

/// Killed when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    loop {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A certificate authority and the certificate of the domain that it issued: the CA's PEM, then the Secret of the listeners.
fn certificates() -> (String, String) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI("sip:demo.example".try_into().unwrap())];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let block = |pem: &str| pem.lines().map(|line| format!("    {line}\n")).collect::<String>();
    let secret = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: edge-tls}}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
        block(&certificate.pem()),
        block(&key.serialize_pem())
    );
    (issuer.pem(), secret)
}

/// Two edges, one Redis, and the echo agent.
struct Fleet {
    folder: tempfile::TempDir,
    _redis: Process,
    edges: Vec<(Option<Process>, [u16; 3])>,
    agent: echo_agent::Agent,
    _runtime: tokio::runtime::Runtime,
}

impl Fleet {
    fn start(tool: &str) -> Fleet {
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let agent = runtime.block_on(echo_agent::Agent::start(listen, echo_agent::Options::default())).unwrap();
        let port = free_port();
        let program =
            ["/usr/bin/redis-server", "/usr/local/bin/redis-server"].into_iter().find(|p| Path::new(p).exists());
        let redis = Command::new(program.expect("redis-server is missing; run scripts/install.sh redis"))
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--maxmemory-policy", "noeviction", "--dir"])
            .arg(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let redis = Process(redis);
        until("Redis does not listen", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        let made = sipmcp(["keys", "--edge", "demo"]).end();
        let mut fleet = Fleet { folder, _redis: redis, edges: Vec::new(), agent, _runtime: runtime };
        let (ca, secret) = certificates();
        fs::write(fleet.folder.path().join("ca.pem"), ca).unwrap();
        let common = [
            ("tls.yaml", secret),
            ("keys.yaml", made.out),
            (
                "store.yaml",
                format!(
                    "apiVersion: sipmcp.dev/v1alpha1\nkind: SessionStore\nmetadata: {{name: main}}\nspec:\n  \
                     redis: {{addresses: [\"127.0.0.1:{port}\"]}}\n"
                ),
            ),
            ("domain.yaml", DOMAIN.to_owned()),
            (
                "agent.yaml",
                format!(
                    "apiVersion: sipmcp.dev/v1alpha1\nkind: McpAgent\nmetadata: {{name: echo}}\nspec:\n  \
                     address: {{user: echo, domainRef: {{name: demo}}}}\n  backend: {{mcpHttp: {{url: \"{}\"}}}}\n  \
                     capabilities: {{source: Discovered, tools: [{tool}]}}\n",
                    fleet.agent.url()
                ),
            ),
        ];
        for id in ["one", "two"] {
            let path = fleet.folder.path().join(id);
            fs::create_dir(&path).unwrap();
            for (name, text) in &common {
                fs::write(path.join(name), text).unwrap();
            }
            let ports = [free_port(), free_port(), free_port()];
            fs::write(path.join("edge.yaml"), edge_manifest(ports)).unwrap();
            let process = fleet.edge(id, &path, ports[0]);
            fleet.edges.push((Some(process), ports));
        }
        fleet
    }

    fn edge(&self, id: &str, manifests: &Path, port: u16) -> Process {
        let log: PathBuf = self.folder.path().join(format!("{id}.log"));
        let arguments =
            format!("--manifests\n{}\n--edge-id\n{id}\n--admin\n127.0.0.1:0\n--shards\n2", manifests.display());
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "api::edges::edge_process", "--nocapture"])
            .env(EDGE, arguments)
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let process = Process(child);
        let said = || fs::read_to_string(&log).unwrap_or_default();
        let end = Instant::now() + PATIENCE;
        while !(said().contains("ready") && TcpStream::connect(("127.0.0.1", port)).is_ok()) {
            assert!(Instant::now() < end, "edge {id} does not start:\n{}", said());
            thread::sleep(Duration::from_millis(50));
        }
        process
    }

    /// Calls `sleep`, kills the edge that serves the call while the tool runs, and waits for what the caller is told. Beside it: how
    /// often the tool ran.
    fn call_and_kill(mut self, transport: &str, via: &str) -> (Ran, u64) {
        let place = match transport {
            "tls" => 1,
            "wss" => 2,
            _ => 0,
        };
        let proxies: Vec<_> = self.edges.iter().map(|(_, ports)| format!("sip:127.0.0.1:{}", ports[place])).collect();
        let (proxies, ca) = (proxies.join(","), self.folder.path().join("ca.pem"));
        let mut args =
            vec!["call", "sip:echo@demo.example", "--tool", "sleep", "--arg", "seconds=2", "--era", "modern"];
        args.extend(["--via", via, "--transport", transport, "--proxy", &proxies, "--json", "--trace"]);
        args.extend(["--timeout", "50", "--user", "alice", "--password", "wonderland"]);
        args.extend(["--ca", ca.to_str().unwrap()]);
        let running = sipmcp(args);
        let runs = || self.agent.runs("sleep");
        until("the tool never ran", || runs() == 1);
        // The 200 to the request, too: what was acknowledged is what counts.
        running.says("200 OK");
        thread::sleep(Duration::from_millis(200));
        // kill -9.
        drop(self.edges[0].0.take());
        let ran = running.end();
        let second = format!("{}/127.0.0.1:{}", transport.to_uppercase(), self.edges[1].1[place]);
        assert!(ran.err.contains(&second), "the ladder shows the second edge\n{}", ran.err);
        (ran, self.agent.runs("sleep"))
    }
}

const DOMAIN: &str = "\
apiVersion: sipmcp.dev/v1alpha1
kind: SipDomain
metadata: {name: demo}
spec:
  domain: demo.example
  authentication:
    digest: {algorithms: [SHA-256], usersSecretRef: {name: demo-users}}
  transport: {allowPlain: [UDP, TCP, WS]}
---
apiVersion: v1
kind: Secret
metadata: {name: demo-users}
stringData:
  alice: SHA-256:4b9a9ba7085b0b293f760a403b669be8a0d84b3094a885ce6d5990e015055708
---
apiVersion: sipmcp.dev/v1alpha1
kind: McpCapabilityPolicy
metadata: {name: everybody}
spec:
  targetRefs: [{kind: SipDomain, name: demo}]
  rules:
    - {name: everybody, from: [{sipIdentity: \"sip:*@demo.example\"}], action: Allow}
";

/// Ports for UDP and TCP, TLS, WSS.
fn edge_manifest([port, tls, wss]: [u16; 3]) -> String {
    format!(
        "apiVersion: sipmcp.dev/v1alpha1\nkind: SipEdge\nmetadata: {{name: demo}}\nspec:\n  sessionStoreRef: {{name: main}}\n  \
         network: {{advertise: {{from: Static, address: 127.0.0.1}}}}\n  insecure: true\n  listeners:\n    \
         - {{name: udp, protocol: UDP, port: {port}, address: 127.0.0.1}}\n    \
         - {{name: tcp, protocol: TCP, port: {port}, address: 127.0.0.1}}\n    \
         - {{name: tls, protocol: TLS, port: {tls}, address: 127.0.0.1, tls: {{certificateRefs: [{{name: edge-tls}}]}}}}\n    \
         - {{name: wss, protocol: WSS, port: {wss}, address: 127.0.0.1, tls: {{certificateRefs: [{{name: edge-tls}}]}}}}\n  \
         drain: {{settleSeconds: 0, inFlightSeconds: 5, dialogSeconds: 2}}\n"
    )
}

/// Where the connection breaks (all but UDP), another one is opened and every unanswered exchange sent again on it.
const CARRIERS: [(&str, &str); 5] =
    [("tcp", "message"), ("tcp", "info"), ("udp", "info"), ("tls", "info"), ("wss", "message")];

#[test]
fn an_unsafe_tool_of_a_killed_edge_ends_in_the_retryable_error_at_another_edge_and_ran_once() {
    for (transport, via) in CARRIERS {
        let (ran, runs) = Fleet::start("{name: sleep, effect: Destructive}").call_and_kill(transport, via);
        let told = (ran.code, ran.json["code"].as_i64());
        assert_eq!((told, runs), ((5, Some(-31001)), 1), "{transport} {via}\n{}\n{}", ran.out, ran.err);
    }
}

#[test]
fn a_tool_that_is_safe_to_repeat_is_answered_by_another_edge() {
    for (transport, via) in CARRIERS {
        let (ran, runs) = Fleet::start("{name: sleep, effect: ReadOnly}").call_and_kill(transport, via);
        let told = (ran.code, ran.json["ok"].as_bool());
        assert_eq!((told, runs), ((0, Some(true)), 2), "{transport} {via}\n{}\n{}", ran.out, ran.err);
    }
}
