//! The table: every transport, both eras, by MESSAGE and by INFO, against the real MCP servers. Times are milliseconds of one call of
//! the debug build, from the request to its final answer and of the whole `sipmcp` process, beside whatever else the machine does.

use std::fs;
use std::sync::Mutex;

use crate::harness::agents::{self, BOTH, LEGACY, MODERN};
use crate::harness::cli::{Who, sipmcp};
use crate::harness::edge::Edge;
use crate::harness::manifests::Manifests;
use crate::harness::place;

const ALICE: Who = Who::Digest("alice");

struct Row {
    transport: &'static str,
    agent: &'static str,
    era: &'static str,
    carrier: &'static str,
    what: &'static str,
    login: &'static str,
    call_ms: f64,
    whole_ms: f64,
}

/// One call of a tool.
#[derive(Clone, Copy)]
struct Call {
    agent: &'static str,
    era: &'static str,
    carrier: &'static str,
    what: &'static str,
    who: Who,
    arguments: &'static [&'static str],
    /// What the answer's text must contain.
    expect: &'static str,
    /// Progress notifications that must have come.
    progress: usize,
}

/// Everything over one transport.
fn matrix(transport: &'static str) {
    let folder = tempfile::tempdir().unwrap();
    let (elicit, greet) = (folder.path().join("elicit.json"), folder.path().join("greet.json"));
    fs::write(&elicit, r#"{"name":"Ada","colour":"green","check":true,"email":"ada@demo.example","integer":7}"#)
        .unwrap();
    fs::write(&greet, r#"{"name":"Ada"}"#).unwrap();

    let manifests = Manifests::new();
    let echo = agents::echo();
    manifests.agent("echo@demo", &echo.url, BOTH, 30);
    let everything = agents::everything();
    if let Some(everything) = &everything {
        manifests.agent("everything@demo", &everything.url, LEGACY, 60);
    }
    let modern = agents::modern();
    if let Some(modern) = &modern {
        manifests.agent("modern@demo", &modern.url, MODERN, 30);
    }
    let edge = Edge::start(manifests);
    let mut rows = Vec::new();
    let mut calls = Vec::new();
    let plain = Call {
        agent: "echo",
        era: "modern",
        carrier: "message",
        what: "echo",
        who: ALICE,
        arguments: &["--tool", "echo", "--arg", "text=hello"],
        expect: "hello",
        progress: 0,
    };
    let roots = &["--tool", "roots", "--root", "file:///srv/interop"];
    for era in ["legacy", "modern"] {
        for carrier in ["message", "info"] {
            let of = Call { era, carrier, ..plain };
            calls.push(of);
            calls.push(Call {
                what: "elicitation",
                arguments: &["--tool", "elicit"],
                expect: "hello Ada, green",
                ..of
            });
            calls.push(Call { what: "roots", arguments: roots, expect: "1 roots: file:///srv/interop", ..of });
            let arguments = &["--tool", "sleep", "--arg", "seconds=0.4", "--arg", "steps=4"];
            calls.push(Call { what: "progress", arguments, expect: "slept 0.4 s", progress: 3, ..of });
        }
        calls.push(Call { era, carrier: "dialog-message", ..plain });
    }
    if matches!(transport, "tls" | "wss") {
        for carrier in ["message", "info"] {
            calls.push(Call { who: Who::Certificate, carrier, ..plain });
            calls.push(Call { who: Who::Certificate, carrier, era: "legacy", ..plain });
        }
    }
    if everything.is_some() {
        let plain = Call { agent: "everything", era: "legacy", ..plain };
        for carrier in ["message", "info"] {
            let of = Call { carrier, ..plain };
            calls.push(Call { arguments: &["--tool", "echo", "--arg", "message=hello"], expect: "Echo: hello", ..of });
            let arguments = &["--tool", "trigger-elicitation-request"];
            calls.push(Call { what: "elicitation", arguments, expect: "- Name: Ada", ..of });
            let arguments = &["--tool", "get-roots-list", "--root", "file:///srv/interop"];
            calls.push(Call { what: "roots", arguments, expect: "URI: file:///srv/interop", ..of });
            let arguments = &["--tool", "trigger-long-running-operation", "--arg", "duration=1", "--arg", "steps=4"];
            calls.push(Call {
                what: "long-running, progress",
                arguments,
                expect: "operation completed",
                progress: 4,
                ..of
            });
        }
        let arguments = &["--tool", "get-sum", "--arg", "a=2", "--arg", "b=3"];
        calls.push(Call { what: "sum, era found", era: "auto", arguments, expect: "5", ..plain });
        // 200 kB of image would not fit; the tiny one is a few.
        calls.push(Call { what: "image", arguments: &["--tool", "get-tiny-image"], expect: "", ..plain });
    }
    if modern.is_some() {
        let plain = Call { agent: "modern", ..plain };
        for carrier in ["message", "info"] {
            let of = Call { carrier, ..plain };
            calls.push(of);
            calls.push(Call { what: "elicitation", arguments: &["--tool", "greet"], expect: "hello Ada", ..of });
            let arguments = &["--tool", "slow", "--arg", "seconds=0.4", "--arg", "steps=4"];
            calls.push(Call { what: "progress", arguments, expect: "took 0.4 s", progress: 3, ..of });
            let arguments = &["--tool", "region", "--arg", "name=north"];
            calls.push(Call { what: "mirrored argument", arguments, expect: "region north", ..of });
        }
        calls.push(Call {
            what: "sum, era found",
            era: "auto",
            arguments: &["--tool", "add", "--arg", "a=2", "--arg", "b=3"],
            expect: "5",
            ..plain
        });
    }
    let mut failures = Vec::new();
    for call in &calls {
        let file = if call.agent == "modern" { &greet } else { &elicit };
        let mut more = vec!["--trace", "--via", call.carrier, "--era", call.era];
        more.extend(call.arguments);
        if call.what == "elicitation" {
            more.extend(["--elicit", file.to_str().unwrap()]);
        }
        let ran = sipmcp(&edge, transport, call.who, "call", &format!("sip:{}@demo.example", call.agent), &more);
        let progress =
            ran.err.lines().filter(|line| line.contains('◀') && line.contains("notifications/progress")).count();
        let name = format!("{transport} {} {} {} {}", call.agent, call.era, call.carrier, call.what);
        if ran.code != 0 || !ran.text().contains(call.expect) {
            failures.push(format!("{name}: exit {} {}\n{}", ran.code, ran.json, ran.err));
        } else if progress < call.progress {
            failures.push(format!("{name}: {progress} progress notifications of {}\n{}", call.progress, ran.err));
        }
        rows.push(Row {
            transport,
            agent: call.agent,
            era: call.era,
            carrier: call.carrier,
            what: call.what,
            login: if call.who == Who::Certificate { "certificate" } else { "digest" },
            call_ms: ran.call_ms(),
            whole_ms: ran.took.as_secs_f64() * 1000.0,
        });
    }
    if everything.is_some() {
        // 9 kB: over UDP it comes by TCP (RFC 3261 §18.1.1).
        let ran =
            sipmcp(&edge, transport, ALICE, "tools", "sip:everything@demo.example", &["--era", "legacy", "--trace"]);
        let tools = ran.json["tools"].as_array().map_or(0, Vec::len);
        if ran.code != 0 || tools < 10 {
            failures.push(format!("{transport} tools: exit {} {}\n{}", ran.code, ran.json, ran.err));
        }
    }
    publish(rows);
    let said = edge.program.said(crate::harness::process::Stream::Err);
    for bad in ["panicked", " WARN ", "ERROR"] {
        for line in said.lines().filter(|line| line.contains(bad)) {
            failures.push(format!("{transport}: the edge said: {line}"));
        }
    }
    assert!(failures.is_empty(), "{} of {} failed:\n\n{}", failures.len(), calls.len(), failures.join("\n\n"));
}

#[test]
fn xch_1_xch_5_every_agent_and_era_over_udp() {
    matrix("udp");
}

#[test]
fn xch_1_xch_5_every_agent_and_era_over_tcp() {
    matrix("tcp");
}

#[test]
fn sec_1_sec_4_xch_5_every_agent_and_era_over_tls() {
    matrix("tls");
}

#[test]
fn sec_1_sec_4_xch_5_every_agent_and_era_over_wss() {
    matrix("wss");
}

/// Prints the rows, and writes the table of all transports that have run.
fn publish(rows: Vec<Row>) {
    static ALL: Mutex<Vec<Row>> = Mutex::new(Vec::new());
    place::say(&table(&rows));
    let mut all = ALL.lock().unwrap();
    all.extend(rows);
    all.sort_by_key(|row| ["udp", "tcp", "tls", "wss"].iter().position(|transport| *transport == row.transport));
    let folder = place::target().parent().unwrap().join("interop");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("table.md"), table(&all)).unwrap();
}

fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| transport | agent | era | carrier | what | login | call ms | whole ms |\n|---|---|---|---|---|---|---:|---:|\n",
    );
    for row in rows {
        let Row { transport, agent, era, carrier, what, login, call_ms, whole_ms } = row;
        text.push_str(&format!(
            "| {transport} | {agent} | {era} | {carrier} | {what} | {login} | {call_ms:.1} | {whole_ms:.1} |\n"
        ));
    }
    text
}
