//! Much at once, much that is garbage, and calls that are given up.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::PATIENCE;
use crate::harness::agents::{self, BOTH};
use crate::harness::cli::{self, Who, sipmcp};
use crate::harness::edge::Edge;
use crate::harness::manifests::Manifests;
use crate::harness::place;
use crate::harness::process::{Program, Stream, run};
use crate::harness::raw::{Call, Client, INFO, tool_call};

const ECHO: &str = "sip:echo@demo.example";
const ALICE: Who = Who::Digest("alice");

fn edge() -> (Edge, agents::Agent) {
    let echo = agents::echo();
    let manifests = Manifests::new();
    manifests.agent("echo@demo", &echo.url, BOTH, 60);
    (Edge::start(manifests), echo)
}

/// What the agent counted.
#[track_caller]
fn executions(edge: &Edge) -> Value {
    let ran = sipmcp(edge, "tcp", ALICE, "call", ECHO, &["--tool", "executions"]);
    serde_json::from_str(&ran.text()).unwrap_or_else(|error| panic!("{error}: {}", ran.err))
}

#[test]
fn xch_6_more_than_a_hundred_calls_in_flight_in_one_session() {
    let (edge, _echo) = edge();
    let mut alice = Client::tcp(&edge, Some("alice"), "demo.example");
    let mut call = Call::to(ECHO);
    alice.invite(&mut call);
    // The first ones are the slowest: answers come in the order in which they are ready.
    for id in 1..=128 {
        let seconds = if id <= 4 { 4.0 } else { 2.5 };
        let body = tool_call(id, "sleep", &format!(r#"{{"seconds":{seconds}}}"#));
        assert_eq!(alice.ask(&mut call, "INFO", INFO, body).status(), 200, "{id}");
    }
    let one_more = alice.ask(&mut call, "INFO", INFO, tool_call(129, "sleep", r#"{"seconds":0}"#));
    assert_eq!(one_more.status(), 200);
    let refused = alice.incoming("INFO").json();
    assert_eq!((&refused["id"], &refused["error"]["code"]), (&129.into(), &(-31002).into()), "{refused}");
    assert!(refused["error"]["data"]["retryAfterMs"].is_u64(), "{refused}");
    let mut order = Vec::new();
    while order.len() < 128 {
        let answer = alice.incoming("INFO").json();
        assert!(answer["result"].is_object(), "{answer}");
        order.push(answer["id"].as_u64().unwrap());
    }
    assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), 128);
    assert!(order[124..].iter().all(|id| *id <= 4), "{order:?}");
    assert_eq!(alice.ask(&mut call, "BYE", "", "").status(), 200);
}

#[test]
fn a_call_that_is_given_up_is_cancelled_at_the_agent() {
    let (edge, _echo) = edge();
    let counted = |what: &str, of: u64| {
        let deadline = Instant::now() + PATIENCE;
        while executions(&edge)[what]["sleep"] != of {
            assert!(Instant::now() < deadline, "{what} is not {of}: {}", executions(&edge));
            std::thread::sleep(Duration::from_millis(200));
        }
    };
    let mut given_up = 0;
    for (via, era) in [("message", "modern"), ("message", "legacy"), ("info", "modern"), ("info", "legacy")] {
        let arguments = ["--tool", "sleep", "--arg", "seconds=60", "--via", via, "--era", era, "--timeout", "1"];
        let ran = sipmcp_once(&edge, &arguments);
        assert_eq!(ran.code, 4, "{via} {era}: {} {}", ran.json, ran.err);
        assert!(ran.err.contains("--timeout"), "{}", ran.err);
        given_up += 1;
        counted("cancelled", given_up);
    }
    // BYE ends what runs in the dialog, too.
    let mut alice = Client::tcp(&edge, Some("alice"), "demo.example");
    let mut call = Call::to(ECHO);
    alice.invite(&mut call);
    assert_eq!(alice.ask(&mut call, "INFO", INFO, tool_call(1, "sleep", r#"{"seconds":60}"#)).status(), 200);
    counted("runs", given_up + 1);
    assert_eq!(alice.ask(&mut call, "BYE", "", "").status(), 200);
    edge.status_until("it ended", |status| status["counts"]["inFlight"] == 0);
    counted("cancelled", given_up + 1);
}

/// `sipmcp call` to the echo agent over TCP with a time limit of its own.
fn sipmcp_once(edge: &Edge, more: &[&str]) -> cli::Ran {
    let mut command = cli::plain();
    command.args(["call", ECHO, "--json", "--proxy", &format!("sip:{}", edge.address("tcp")), "--transport", "tcp"]);
    command.env("SIPMCP_USER", "alice").env("SIPMCP_PASSWORD", "wonderland").args(more);
    cli::ran(run("sipmcp", &command, Duration::from_secs(30)))
}

#[test]
fn sec_10_sec_18_torture_and_noise_on_every_port_leave_the_edge_in_service() {
    let (mut edge, _echo) = edge();
    let folder = place::root().join("protocol/sip/tests/rfc4475");
    let mut messages = Vec::new();
    for kind in ["valid", "invalid", "other"] {
        for entry in fs::read_dir(folder.join(kind)).unwrap() {
            messages.push(fs::read(entry.unwrap().path()).unwrap());
        }
    }
    assert_eq!(messages.len(), 49);
    // Noise that is the same in every run.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut noise = |length: usize| -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend(state.to_le_bytes());
        }
        bytes
    };
    for length in [1, 4, 100, 1400, 60_000] {
        messages.push(noise(length));
    }
    messages.push(b"\r\n\r\n".to_vec());
    messages.push(b"INVITE ".repeat(3000));
    messages.push(format!("OPTIONS sip:demo.example SIP/2.0\r\n{}", "X: y\r\n".repeat(5000)).into_bytes());
    messages.push(b"OPTIONS sip:demo.example SIP/2.0\r\nContent-Length: 99999999999\r\n\r\n".to_vec());
    messages.push(b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n".to_vec());
    messages.push(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec());
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for message in &messages {
        // Longer than a datagram can be: the system refuses it.
        let _ = socket.send_to(message, edge.address("udp"));
    }
    for transport in ["tcp", "tls", "ws", "wss"] {
        for message in &messages {
            let mut stream = TcpStream::connect(edge.address(transport)).unwrap();
            stream.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
            // Closed in the middle is an answer, too.
            let _ = stream.write_all(message);
            let _ = stream.read(&mut [0; 4096]);
        }
    }
    // Half a message, and then nothing: it holds nobody up.
    let held: Vec<TcpStream> = (0..50)
        .map(|_| {
            let mut stream = TcpStream::connect(edge.address("tcp")).unwrap();
            stream.write_all(b"OPTIONS sip:demo.example SIP/2.0\r\nVia: SIP/2.0/TCP x;branch=z9hG4bKslow\r\n").unwrap();
            stream
        })
        .collect();
    for transport in ["udp", "tcp", "tls", "wss"] {
        let ran = sipmcp(&edge, transport, ALICE, "call", ECHO, &["--tool", "echo", "--arg", "text=still here"]);
        assert_eq!(ran.text(), "still here", "{transport}: {}", ran.err);
    }
    drop(held);
    assert_eq!(edge.get("/healthz").0, 200);
    let said = edge.program.said(Stream::Err);
    assert!(!said.contains("panicked"), "{said}");
    edge.program.terminate();
    assert_eq!(edge.program.wait(PATIENCE).code(), Some(0));
}

#[test]
fn ipv6_is_served_like_ipv4() {
    if UdpSocket::bind("[::1]:0").is_err() {
        return place::skip("IPv6 on lo");
    }
    let echo = agents::echo();
    let manifests = Manifests::new();
    manifests.agent("echo@demo", &echo.url, BOTH, 30);
    let port = place::wildcard_port();
    manifests.write(
        "edge.yaml",
        &format!(
            "apiVersion: sipmcp.dev/v1alpha1\nkind: SipEdge\nmetadata: {{name: interop}}\nspec:\n  \
             network: {{advertise: {{from: Static, address: \"::1\"}}}}\n  insecure: true\n  listeners:\n    \
             - {{name: udp, protocol: UDP, port: {port}, address: \"::1\"}}\n    \
             - {{name: tcp, protocol: TCP, port: {port}, address: \"::1\"}}\n"
        ),
    );
    let mut edge = Program::start("edge", &crate::harness::edge::command(&manifests, 0));
    edge.line("ready", |line| line.contains(" ready"));
    for transport in ["udp", "tcp"] {
        for via in ["message", "info"] {
            let mut command = cli::plain();
            command.args([
                "call",
                ECHO,
                "--tool",
                "big",
                "--arg",
                "bytes=3000",
                "--json",
                "--timeout",
                "20",
                "--trace",
            ]);
            command.args(["--proxy", &format!("sip:[::1]:{port}"), "--transport", transport, "--via", via]);
            command.env("SIPMCP_USER", "alice").env("SIPMCP_PASSWORD", "wonderland");
            let ran = cli::ran(run("sipmcp", &command, Duration::from_secs(40)));
            assert_eq!(ran.text().len(), 3000, "{transport} {via}: {}", ran.err);
        }
    }
}
