//! tshark, an independent dissector, reads what we send: nothing malformed, no expert error, and the bodies are JSON to it.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::agents::{self, BOTH};
use crate::harness::cli::{Who, sipmcp};
use crate::harness::edge::Edge;
use crate::harness::manifests::{Manifests, UDP};
use crate::harness::process::{Program, run};
use crate::harness::{PATIENCE, place};

/// One line per packet that the filter takes: the fields, separated by `|`.
#[track_caller]
fn packets(tshark: &Path, file: &Path, filter: &str, fields: &[&str]) -> Vec<String> {
    let mut command = Command::new(tshark);
    command.arg("-r").arg(file).args(["-Y", filter, "-T", "fields", "-E", "separator=|"]);
    for field in fields {
        command.args(["-e", field]);
    }
    command.args(["-d", &format!("udp.port=={UDP},sip"), "-d", &format!("tcp.port=={UDP},sip")]);
    command.args(["-d", "media_type==application/mcp+json,json"]);
    let ended = run("tshark -r", &command, Duration::from_secs(60));
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    ended.out.lines().map(str::to_owned).collect()
}

#[test]
fn neg_10_neg_14_xch_1_tshark_finds_nothing_wrong_in_what_we_send() {
    let Some(tshark) = place::peer("tshark").filter(|_| place::root_or_skip()) else { return };
    let echo = agents::echo();
    let manifests = Manifests::new();
    manifests.agent("echo@demo", &echo.url, BOTH, 30);
    let edge = Edge::start(manifests);
    let file = edge.manifests.scratch().join("own.pcap");

    // Its own capture program, directly: tshark would leave it behind when it is killed.
    let Some(dumpcap) = place::peer("dumpcap") else { return };
    let mut command = Command::new(dumpcap);
    command.args(["-i", "lo", "-q", "-P", "-f", &format!("host {}", edge.ip()), "-w"]).arg(&file);
    let mut capture = Program::start("dumpcap", &command);
    capture.line("that it captures", |line| line.contains("Capturing on"));
    // It says so a moment before it does.
    let probe = UdpSocket::bind("127.0.0.1:0").unwrap();
    let deadline = Instant::now() + PATIENCE;
    while std::fs::metadata(&file).map_or(0, |m| m.len()) < 60 {
        assert!(Instant::now() < deadline, "dumpcap captures nothing on lo");
        probe.send_to(b"is anybody listening?", (edge.ip(), 9)).unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }

    let alice = Who::Digest("alice");
    let mut calls = 0;
    for transport in ["udp", "tcp"] {
        for (via, era) in [("message", "modern"), ("message", "legacy"), ("info", "modern"), ("info", "legacy")] {
            let arguments = ["--tool", "echo", "--arg", "text=seen by tshark", "--via", via, "--era", era];
            let ran = sipmcp(&edge, transport, alice, "call", "sip:echo@demo.example", &arguments);
            assert_eq!(ran.text(), "seen by tshark", "{}", ran.err);
            calls += 1;
        }
        let ran = sipmcp(&edge, transport, alice, "register", "sip:alice@demo.example", &["--param", "+mcp"]);
        assert_eq!(ran.code, 0, "{}", ran.err);
    }
    // Refusals, too.
    for (transport, via) in [("udp", "message"), ("tcp", "message"), ("tcp", "info")] {
        let ran = sipmcp(&edge, transport, alice, "call", "sip:nobody@demo.example", &["--tool", "x", "--via", via]);
        assert_eq!(ran.code, 3, "{}", ran.err);
    }

    // Captured in order: when this has arrived, everything has.
    let last: &[u8] = b"that was all";
    probe.send_to(last, (edge.ip(), 9)).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !std::fs::read(&file).unwrap().windows(last.len()).any(|bytes| bytes == last) {
        assert!(Instant::now() < deadline, "the capture is not complete");
        std::thread::sleep(Duration::from_millis(50));
    }
    crate::harness::process::signal(capture.pid(), "INT");
    capture.wait(PATIENCE);

    let seen = packets(&tshark, &file, "sip", &["ip.proto", "sip.Method", "sip.Status-Code"]);
    for (protocol, name) in [("17", "UDP"), ("6", "TCP")] {
        let has = |what: &str| seen.iter().any(|line| line.starts_with(&format!("{protocol}|")) && line.contains(what));
        for what in ["INVITE", "ACK", "INFO", "BYE", "MESSAGE", "REGISTER", "|401", "|200"] {
            assert!(has(what), "no {what} over {name} in what tshark saw: {seen:?}");
        }
    }
    // Every INVITE is acknowledged, also one whose refusal ends the program.
    let of = |method: &str| {
        let filter = format!("!icmp && sip.Method == \"{method}\"");
        packets(&tshark, &file, &filter, &["sip.Call-ID", "sip.CSeq.seq"]).into_iter().collect::<BTreeSet<_>>()
    };
    let invites = of("INVITE");
    assert!(invites.len() >= 10, "{invites:?}");
    assert_eq!(invites, of("ACK"));
    let json = packets(&tshark, &file, "sip && json", &["frame.number"]);
    assert!(json.len() >= 4 * calls, "only {} packets with JSON of {calls} calls", json.len());

    let what =
        ["frame.number", "ip.src", "sip.Request-Line", "sip.Status-Line", "_ws.expert.severity", "_ws.expert.message"];
    let malformed = packets(&tshark, &file, "!icmp && _ws.malformed", &what);
    assert!(malformed.is_empty(), "malformed: {malformed:#?}");
    let wrong = packets(&tshark, &file, "sip && _ws.expert.severity == 8388608", &what);
    assert!(wrong.is_empty(), "expert errors: {wrong:#?}");
    // Warnings are about SIP, too; those of TCP (a reset, a retransmission) are the machine's.
    let warned = packets(&tshark, &file, "sip && _ws.expert.severity == 6291456", &what);
    let warned: Vec<&String> =
        warned.iter().filter(|line| !line.contains("segment") && !line.contains("TCP")).collect();
    assert!(warned.is_empty(), "expert warnings: {warned:#?}");
}
