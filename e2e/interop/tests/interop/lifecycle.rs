//! The life of the process with calls in it: reload, a second one on the same port, the end.

use std::time::Duration;

use crate::harness::PATIENCE;
use crate::harness::agents::{self, BOTH};
use crate::harness::cli::{Ran, Who, begin, sipmcp};
use crate::harness::edge::{Edge, command};
use crate::harness::manifests::Manifests;
use crate::harness::place;
use crate::harness::process::{Stream, run};
use crate::harness::raw::{Call, Client, INFO, MCP, tool_call};

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

/// One JSON-RPC message by INFO, and the next one of the edge.
#[track_caller]
fn exchange(client: &mut Client, call: &mut Call, body: &str) -> serde_json::Value {
    let taken = client.ask(call, "INFO", INFO, body);
    assert_eq!(taken.status(), 200, "{}", taken.start);
    client.incoming("INFO").json()
}

#[test]
fn an_agent_that_comes_back_is_used_again_in_the_same_dialog() {
    let port = place::wildcard_port();
    let mut echo = agents::echo_at(port);
    let manifests = Manifests::new();
    manifests.agent("echo@demo", &echo.url, BOTH, 30);
    let edge = Edge::start(manifests);
    let (mut alice, mut call) = (Client::tcp(&edge, Some("alice"), "demo.example"), Call::to(ECHO));
    alice.invite(&mut call);
    let (mut bob, mut old) = (Client::tcp(&edge, Some("bob"), "demo.example"), Call::to(ECHO));
    bob.invite_with(&mut old, r#""2025-11-25""#);
    let hello = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"raw","version":"1"}}}"#;
    let ready = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    let legacy = |id: u32| {
        format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"echo","arguments":{{"text":"legacy"}}}}}}"#
        )
    };
    let begin = |bob: &mut Client, old: &mut Call| {
        assert!(exchange(bob, old, hello)["result"]["serverInfo"].is_object());
        assert_eq!(bob.ask(old, "INFO", INFO, ready).status(), 200);
    };
    begin(&mut bob, &mut old);
    let mut id = 1;
    for round in 0..3 {
        id += 2;
        let modern = tool_call(id, "echo", r#"{"text":"modern"}"#);
        assert_eq!(exchange(&mut alice, &mut call, &modern)["result"]["content"][0]["text"], "modern", "round {round}");
        assert_eq!(
            exchange(&mut bob, &mut old, &legacy(id))["result"]["content"][0]["text"],
            "legacy",
            "round {round}"
        );
        // A new process, which knows no session of the old one.
        drop(echo);
        if round == 1 {
            let down = exchange(&mut alice, &mut call, &tool_call(id + 1, "echo", "{}"));
            assert_eq!((&down["error"]["code"], &down["error"]["data"]["executed"]), (&(-31001).into(), &"no".into()));
        }
        echo = agents::echo_at(port);
        let lost = exchange(&mut bob, &mut old, &legacy(id + 1));
        assert_eq!(
            (&lost["error"]["code"], &lost["error"]["data"]["executed"]),
            (&(-31001).into(), &"no".into()),
            "{lost}"
        );
        begin(&mut bob, &mut old);
    }
    assert_eq!(alice.ask(&mut call, "BYE", "", "").status(), 200);
    assert_eq!(bob.ask(&mut old, "BYE", "", "").status(), 200);
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
    // An edge with a UDP listener stays ready until it has drained: a node that is not ready loses its UDP flows at once.
    assert_eq!(edge.get("/readyz").0, 200);
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
