//! A running `sipmcp-edge`.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::PATIENCE;
use super::manifests::{ADMIN, Manifests, TCP, TLS, UDP, WS, WSS};
use super::place;
use super::process::{Program, Stream};

pub struct Edge {
    pub program: Program,
    pub manifests: Manifests,
}

impl Edge {
    #[track_caller]
    pub fn start(manifests: Manifests) -> Edge {
        let command = command(&manifests, ADMIN);
        Edge::run("edge", manifests, &command)
    }

    /// The same by a command that knows more.
    #[track_caller]
    pub fn run(name: &str, manifests: Manifests, command: &Command) -> Edge {
        let mut program = Program::start(name, command);
        program.line("ready", |line| line.contains(" ready"));
        Edge { program, manifests }
    }

    pub fn ip(&self) -> Ipv4Addr {
        self.manifests.ip
    }

    /// Where a transport is reached (`udp`, `tcp`, `tls`, `ws`, `wss`).
    pub fn address(&self, transport: &str) -> SocketAddr {
        let port = match transport {
            "udp" => UDP,
            "tcp" => TCP,
            "tls" => TLS,
            "ws" => WS,
            "wss" => WSS,
            other => panic!("no listener for {other}"),
        };
        (self.ip(), port).into()
    }

    /// GET on the admin address.
    #[track_caller]
    pub fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect((self.ip(), ADMIN)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    #[track_caller]
    pub fn status_until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status: Value = serde_json::from_str(&self.get("/status").1).unwrap();
            if wanted(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "/status never said {what}: {status:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Its audit records.
    pub fn audit(&self) -> Vec<Value> {
        self.program.said(Stream::Out).lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

/// The command that starts an edge; port 0 takes a free one for the admin address.
pub fn command(manifests: &Manifests, admin: u16) -> Command {
    let mut command = Command::new(place::program("sipmcp-edge"));
    command.arg("--manifests").arg(manifests.path());
    command.args(["--admin", &format!("{}:{admin}", manifests.ip), "--shards", "2"]);
    for name in ["SIPMCP_MANIFESTS", "SIPMCP_EDGE", "SIPMCP_ADMIN", "SIPMCP_AUDIT", "SIPMCP_LOG", "SIPMCP_LOG_FORMAT"] {
        command.env_remove(name);
    }
    command.env("NO_COLOR", "1");
    command
}
