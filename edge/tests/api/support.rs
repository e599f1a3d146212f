//! A real `sipmcp-edge` process with manifests of its own, and clients that know nothing of our code.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// Long enough for a busy machine; nothing here proves a time.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A directory with manifests.
pub struct Manifests {
    pub folder: tempfile::TempDir,
}

impl Manifests {
    pub fn new() -> Self {
        Manifests { folder: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file as an editor does: a new file in the place of the old one.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        let new = self.path().join(format!(".{name}.new"));
        fs::write(&new, text).unwrap();
        fs::rename(&new, &path).unwrap();
        path
    }

    /// The domain `demo.example` with the digest user alice (password wonderland), and everybody allowed.
    pub fn with_domain(self) -> Self {
        self.write("domain.yaml", DOMAIN);
        self
    }

    pub fn with_edge(self, listeners: &str) -> Self {
        self.write("edge.yaml", &edge(listeners));
        self
    }
}

pub const DOMAIN: &str = "\
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
    - {name: everybody, from: [{anonymous: {}}, {sipIdentity: \"sip:*@demo.example\"}], action: Allow}
";

/// A SipEdge with these listeners, one per line.
pub fn edge(listeners: &str) -> String {
    let listeners: String = listeners.lines().map(|line| format!("    - {}\n", line.trim())).collect();
    format!(
        "apiVersion: sipmcp.dev/v1alpha1\nkind: SipEdge\nmetadata: {{name: demo}}\nspec:\n  network:\n    \
         advertise: {{from: Static, address: 127.0.0.1}}\n  insecure: true\n  listeners:\n{listeners}  \
         drain: {{settleSeconds: 0, inFlightSeconds: 5, dialogSeconds: 2}}\n"
    )
}

/// A port that nobody uses, for UDP and TCP.
pub fn free_port() -> u16 {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = tcp.local_addr().unwrap().port();
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A running edge. Killed when dropped.
pub struct Edge {
    child: Child,
    lines: Receiver<String>,
    pub seen: Vec<String>,
    pub admin: SocketAddr,
    _folder: Option<Manifests>,
}

impl Edge {
    /// Starts an edge whose manifests nobody changes.
    pub fn with(manifests: Manifests) -> Edge {
        let mut edge = Edge::start(&manifests);
        edge._folder = Some(manifests);
        edge
    }

    /// Starts an edge and waits until it is ready.
    pub fn start(manifests: &Manifests) -> Edge {
        Edge::start_with(manifests, &[])
    }

    /// As [`Edge::start`], with more arguments.
    pub fn start_with(manifests: &Manifests, more: &[&str]) -> Edge {
        let mut edge = Edge::spawn(manifests, more);
        let line = edge.wait_for("listening http ");
        let address = line.split("listening http ").nth(1).unwrap().split(' ').next().unwrap();
        edge.admin = address.parse().unwrap();
        edge.wait_for("ready");
        edge
    }

    /// Starts an edge that may refuse.
    pub fn spawn(manifests: &Manifests, more: &[&str]) -> Edge {
        Edge::spawn_without_admin(manifests, &[&["--admin", "127.0.0.1:0"], more].concat())
    }

    /// As [`Edge::spawn`], with the admin door where `more` says.
    pub fn spawn_without_admin(manifests: &Manifests, more: &[&str]) -> Edge {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sipmcp-edge"))
            .arg("--manifests")
            .arg(manifests.path())
            .args(["--shards", "2"])
            .args(more)
            .env("NO_COLOR", "1")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = child.stderr.take().unwrap();
        let (sender, lines) = sync_channel(10_000);
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Edge { child, lines, seen: Vec::new(), admin: SocketAddr::from(([0, 0, 0, 0], 0)), _folder: None }
    }

    /// Waits for a line on standard error.
    pub fn wait_for(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("no line with {text:?} on standard error:\n{}", self.seen.join("\n"))
                }
            }
        }
    }

    /// Waits until the process has ended; answers its status and everything on standard error.
    pub fn wait(mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "the process goes on:\n{}", self.seen.join("\n"));
            thread::sleep(Duration::from_millis(20));
        };
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.seen.push(line);
        }
        (status, self.seen.join("\n"))
    }

    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Status code and body of an admin page.
    pub fn get(&self, path: &str) -> (u16, String) {
        self.ask("GET", path)
    }

    pub fn ask(&self, method: &str, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    pub fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.get("/status").1).unwrap()
    }

    /// Waits until `/status` is as wanted.
    pub fn status_until(&self, wanted: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            if wanted(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "/status never became as wanted: {status:#}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// A counter or gauge of `/metrics`; 0 where it is not.
    pub fn metric(&self, name: &str) -> u64 {
        let (_, text) = self.get("/metrics");
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0)
    }
}

impl Edge {
    /// Waits until a counter of `/metrics` is there; what it counts happens before it is counted.
    pub fn counted(&self, name: &str, value: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.metric(name) != value {
            assert!(Instant::now() < deadline, "{name} is {} and not {value}", self.metric(name));
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            while let Ok(line) = self.lines.try_recv() {
                self.seen.push(line);
            }
            eprintln!("--- the edge said:\n{}", self.seen.join("\n"));
        }
    }
}

/// A request without a body.
pub fn request(method: &str, uri: &str, transport: &str, local: SocketAddr, id: &str, more: &str) -> String {
    format!(
        "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/{transport} {local};branch=z9hG4bK{id};rport\r\nMax-Forwards: 70\r\n\
         From: <sip:alice@demo.example>;tag={id}\r\nTo: <{to}>\r\nCall-ID: {id}\r\nCSeq: 1 {method}\r\n{more}Content-Length: 0\r\n\r\n",
        to = if method == "REGISTER" { "sip:alice@demo.example" } else { uri },
    )
}

pub fn options(transport: &str, local: SocketAddr, id: &str) -> String {
    request("OPTIONS", "sip:demo.example", transport, local, id, "")
}

pub fn register(transport: &str, local: SocketAddr, id: &str) -> String {
    request("REGISTER", "sip:demo.example", transport, local, id, &format!("Contact: <sip:alice@{local}>\r\n"))
}

/// Reads one SIP message with `Content-Length` from a stream.
pub fn read_message(stream: &mut impl Read) -> String {
    let mut message = Vec::new();
    let mut octet = [0];
    while !message.ends_with(b"\r\n\r\n") {
        assert_eq!(stream.read(&mut octet).expect("an answer in time"), 1, "closed after {:?}", text(&message));
        // A keep-alive answer may stand before it.
        if !(message.is_empty() && matches!(octet[0], b'\r' | b'\n')) {
            message.push(octet[0]);
        }
    }
    let head = text(&message);
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:").map(|v| v.trim().parse().unwrap()))
        .unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    message.extend(body);
    text(&message)
}

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

/// Status of an answer, after checking that it belongs to the request.
#[track_caller]
pub fn answered(answer: &str, id: &str) -> u16 {
    assert!(answer.starts_with("SIP/2.0 "), "{answer}");
    assert!(answer.contains(&format!("z9hG4bK{id}")), "{answer}");
    answer[8..11].parse().unwrap()
}
