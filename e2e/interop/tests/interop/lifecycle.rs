//! The life of the process with calls in it: reload, a second one on the same port, the end.

use std::time::Duration;

use crate::harness::PATIENCE;
use crate::harness::agents::{self, BOTH};
use crate::harness::cli::{Ran, Who, begin, sipmcp};
use crate::harness::edge::{Edge, command};
use crate::harness::manifests::Manifests;
use crate::harness::process::{Stream, run};
use crate::harness::raw::{Call, Client, MCP, tool_call};

const ECHO: &str = "sip:echo@demo.example";
const ALICE: Who = Who::Digest("alice");

fn edge() -> (Edge, agents::Agent) {
    let echo = agents::echo();
    let manifests = Manifests::new();
    manifests.agent("echo@demo", &echo.url, BOTH, 30);
    (Edge::start(manifests), echo)
}

#[track_caller]
fn hello(edge: &Edge, uri: &str) -> Ran {
    sipmcp(edge, "tcp", ALICE, "call", uri, &["--tool", "echo", "--arg", "text=hello"])
}

#[test]
fn obs_6_a_broken_manifest_is_told_and_the_last_good_state_stays() {
    let (edge, echo) = edge();
    let mut alice = Client::tcp(&edge, Some("alice"), "demo.example");
    let mut call = Call::to(ECHO);
    alice.invite(&mut call);
    // An unknown field in the agent's own file, and a policy that refers to nothing.
    edge.manifests.write(
        "agent-echo-demo.yaml",
        "apiVersion: sipmcp.dev/v1alpha1\nkind: McpAgent\nmetadata: {name: echo-demo}\nspec:\n  adress: {user: echo}\n",
    );
    let status =
        edge.status_until("the problem", |status| status["problems"].as_array().is_some_and(|p| !p.is_empty()));
    let problems = status["problems"].to_string();
    assert!(problems.contains("agent-echo-demo.yaml:5: spec.adress"), "{problems}");
    assert!(edge.program.said(Stream::Err).contains("agent-echo-demo.yaml:5: spec.adress"));
    assert_eq!(hello(&edge, ECHO).text(), "hello");
    // YAML that is none.
    edge.manifests.write("more.yaml", "kind: [\n");
    edge.status_until("two files", |status| status["problems"].to_string().contains("more.yaml"));
    assert_eq!(hello(&edge, ECHO).text(), "hello");
    // A good file beside the broken ones is taken.
    edge.manifests.agent("second@demo", &echo.url, BOTH, 30);
    edge.status_until("the second agent", |status| status["agents"].to_string().contains("sip:second@demo.example"));
    assert_eq!(hello(&edge, "sip:second@demo.example").text(), "hello");
    // Mended.
    edge.manifests.agent("echo@demo", &echo.url, BOTH, 30);
    edge.manifests.write("more.yaml", "");
    edge.status_until("no problem", |status| status["problems"].as_array().is_some_and(Vec::is_empty));
    assert_eq!(hello(&edge, ECHO).text(), "hello");
    // The call of before is still one.
    assert_eq!(alice.ask(&mut call, "OPTIONS", "", "").status(), 200);
    assert_eq!(alice.ask(&mut call, "BYE", "", "").status(), 200);
    // `sipmcp check` says the same.
    edge.manifests.write("more.yaml", "kind: [\n");
    let mut check = crate::harness::cli::plain();
    check.arg("check").arg(edge.manifests.path());
    let ended = run("sipmcp", &check, PATIENCE);
    assert_eq!(ended.code, Some(2));
    assert!(ended.out.contains("more.yaml:"), "{}", ended.out);
}

#[test]
fn a_port_in_use_is_one_line_that_says_which_and_what_to_do() {
    let (edge, _echo) = edge();
    let mut second = command(&edge.manifests, 0);
    second.args(["--log-level", "error"]);
    let ended = run("second edge", &second, PATIENCE);
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    let lines: Vec<&str> = ended.err.lines().filter(|line| line.contains("cannot listen on udp")).collect();
    assert_eq!(lines.len(), 1, "{}", ended.err);
    assert!(lines[0].contains(&edge.address("udp").to_string()) && lines[0].contains("in use"), "{}", lines[0]);
    assert_eq!(hello(&edge, ECHO).text(), "hello");
}

#[test]
fn sigterm_lets_calls_end_and_takes_no_new_ones() {
    let (mut edge, _echo) = edge();
    let mut alice = Client::tcp(&edge, Some("alice"), "demo.example");
    let mut call = Call::to(ECHO);
    alice.invite(&mut call);
    // A tool that runs, by the CLI in a dialog of its own.
    let arguments = ["--tool", "sleep", "--arg", "seconds=2", "--arg", "steps=4", "--via", "info", "--trace"];
    let mut running = begin(&edge, "tcp", ALICE, "call", ECHO, &arguments);
    running.line("progress", |line| line.contains("notifications/progress"));
    edge.program.terminate();
    for shard in ["shard=0", "shard=1"] {
        edge.program.line("that it drains", |line| line.contains("draining: ") && line.contains(shard));
    }
    // New work is refused, over a connection of before.
    let mut new = Call::to(ECHO);
    let refused = alice.ask(&mut new, "MESSAGE", MCP, tool_call(1, "echo", "{}"));
    assert_eq!(refused.status(), 503, "{}", refused.start);
    assert!(!refused.header("Retry-After").is_empty());
    assert_eq!(edge.get("/readyz").0, 503);
    // What was in flight ends well.
    let ended = running.wait(PATIENCE);
    assert_eq!(ended.code(), Some(0), "{}", running.said(Stream::Err));
    assert!(running.said(Stream::Out).contains("slept 2 s"));
    // Then the dialog that is left is hung up.
    let bye = alice.incoming("BYE");
    assert!(bye.header("Reason").contains("Draining"), "{:?}", bye.all("Reason"));
    let status = edge.program.wait(Duration::from_secs(30));
    assert_eq!(status.code(), Some(0), "{}", edge.program.said(Stream::Err));
    assert!(edge.program.said(Stream::Err).contains("drained"));
    // One audit record per tool call, and nothing of what was said.
    let audit = edge.audit();
    let calls: Vec<_> = audit.iter().filter(|record| record["audit"] == "tool_call").collect();
    assert_eq!(calls.len(), 1, "{audit:#?}");
    assert_eq!((&calls[0]["tool"], &calls[0]["outcome"]), (&"sleep".into(), &"ok".into()));
    assert!(!edge.program.said(Stream::Out).contains("slept"));
}
