//! SIPp plays scripted callers (`e2e/interop/sipp`). Its own checks decide; it ends with 0 only when every step came as written.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::harness::PATIENCE;
use crate::harness::agents::{self, Agent, BOTH};
use crate::harness::edge::Edge;
use crate::harness::fleet::{Fleet, steadily};
use crate::harness::manifests::Manifests;
use crate::harness::place;
use crate::harness::process::{Program, run};

/// An edge with the echo agent at md5.example and open.example.
fn edge() -> (Edge, Agent) {
    let echo = agents::echo();
    let manifests = Manifests::new();
    manifests.agent("echo@md5", &echo.url, BOTH, 30);
    manifests.agent("echo@open", &echo.url, BOTH, 30);
    (Edge::start(manifests), echo)
}

/// Plays a scenario once; answers everything that was sent and received.
#[track_caller]
fn play(edge: &Edge, transport: &str, scenario: &str, more: &[&str]) -> String {
    let Some(sipp) = place::peer("sipp") else { return String::new() };
    let folder = edge.manifests.scratch();
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("sipp");
    let name = format!("{scenario}-{transport}");
    let (messages, errors) = (folder.join(format!("{name}.messages")), folder.join(format!("{name}.errors")));
    let mut command = Command::new(sipp);
    command.current_dir(folder).env("TERM", "dumb");
    command.arg(edge.address(transport).to_string());
    command.arg("-sf").arg(files.join(format!("{scenario}.xml")));
    command.args(["-t", if transport == "udp" { "u1" } else { "t1" }, "-i", "127.0.0.1", "-m", "1", "-nostdin"]);
    command.args(["-timeout", "25", "-timeout_error", "-recv_timeout", "10000", "-default_behaviors", "none"]);
    command.arg("-trace_msg").arg("-message_file").arg(&messages);
    command.arg("-trace_err").arg("-error_file").arg(&errors);
    for option in more {
        // A second scenario is a file of ours, too.
        if option.ends_with(".xml") {
            command.arg(files.join(option))
        } else {
            command.arg(option)
        };
    }
    let ended = run("sipp", &command, Duration::from_secs(45));
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let (messages, errors) = (read(&messages), read(&errors));
    assert!(ended.code == Some(0), "SIPp {name} ended with {:?}\n{errors}\n{messages}", ended.code);
    messages
}

#[test]
fn reg_1_reg_6_sec_4_sipp_registers_with_digest_and_goes() {
    let (edge, _echo) = edge();
    for transport in ["udp", "tcp"] {
        play(&edge, transport, "register", &["-auth_uri", "md5.example"]);
    }
}

#[test]
fn sec_11_sipp_options_without_credentials_tells_nothing() {
    let (edge, _echo) = edge();
    for transport in ["udp", "tcp"] {
        play(&edge, transport, "options", &[]);
    }
}

#[test]
fn neg_3_neg_14_xch_1_sipp_calls_a_tool_in_a_dialog() {
    let (edge, _echo) = edge();
    for transport in ["udp", "tcp"] {
        play(&edge, transport, "call", &[]);
        play(&edge, transport, "reinvite", &[]);
    }
    let status = edge.status_until("no dialog is left", |status| status["counts"]["dialogs"] == 0);
    assert_eq!(status["counts"]["inFlight"], 0, "{status:#}");
}

#[test]
fn sipp_two_hundred_calls_leave_nothing_behind() {
    let (edge, _echo) = edge();
    for transport in ["udp", "tcp"] {
        // The last -m counts.
        play(&edge, transport, "call", &["-m", "100", "-r", "100"]);
    }
    let status = edge.status_until("no dialog is left", |status| status["counts"]["dialogs"] == 0);
    assert_eq!(status["counts"]["inFlight"], 0, "{status:#}");
    let count = |kind: &str| edge.audit().iter().filter(|record| record["audit"] == kind).count();
    assert_eq!((count("session_start"), count("session_end"), count("tool_call")), (200, 200, 400));
}

#[test]
fn xch_1_sec_4_sipp_message_out_of_a_dialog_is_answered_by_a_message() {
    let (edge, _echo) = edge();
    for transport in ["udp", "tcp"] {
        let messages = play(&edge, transport, "message", &["-auth_uri", "echo@md5.example", "-oocsf", "answer.xml"]);
        if messages.is_empty() {
            return;
        }
        let answer = messages.split("message received").find(|m| m.contains("MESSAGE sip:sipp@")).unwrap_or_default();
        assert!(answer.contains("paged by SIPp") && answer.contains("\"page\""), "{transport}: {messages}");
        assert!(answer.contains("In-Reply-To:"), "{answer}");
    }
}

#[test]
fn sipp_cancel_and_late_ack_leave_the_call_as_they_must() {
    let (edge, _echo) = edge();
    play(&edge, "udp", "late-ack", &[]);
    for transport in ["udp", "tcp"] {
        play(&edge, transport, "cancel", &[]);
    }
}

#[test]
fn sipp_what_is_not_served_is_405_501_or_481() {
    let (edge, _echo) = edge();
    for transport in ["udp", "tcp"] {
        play(&edge, transport, "wrong", &[]);
    }
}

/// A caller and a phone that are SIPp both, the phone registered at one edge, the caller at the other one.
#[test]
fn reg_9_sipp_calls_sipp_through_another_edge_than_it_registered_at() {
    fn call(fleet: &mut Fleet) {
        let Some(sipp) = place::peer("sipp") else { return };
        let port = place::wildcard_port().to_string();
        let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("sipp");
        play(&fleet.edges[0], "udp", "agent-register", &["-p", &port, "-auth_uri", "md5.example"]);
        let mut phone = Command::new(sipp);
        phone
            .current_dir(fleet.edges[0].manifests.scratch())
            .env("TERM", "dumb")
            .arg("-sf")
            .arg(files.join("agent.xml"));
        phone.args(["-i", "127.0.0.1", "-p", &port, "-m", "1", "-nostdin", "-timeout", "60", "-timeout_error"]);
        let mut phone = Program::start("phone", &phone);
        // What comes before it listens is sent again.
        play(&fleet.edges[1], "udp", "caller", &[]);
        let ended = phone.wait(PATIENCE);
        assert_eq!(ended.code(), Some(0));
    }
    let more = |manifests: &Manifests| {
        manifests.write(
            "phone.yaml",
            "apiVersion: sipmcp.dev/v1alpha1\nkind: McpAgent\nmetadata: {name: baresip-md5}\nspec:\n  \
             address: {user: baresip, domainRef: {name: md5}}\n  backend: {sipContact: {authentication: Digest}}\n  \
             capabilities: {source: Declared, tools: [{name: answer}]}\n",
        );
        // Its requests in a dialog carry no credentials (see caller.xml), so anybody may call here.
        manifests.write(
            "policies.yaml",
            "apiVersion: sipmcp.dev/v1alpha1\nkind: McpCapabilityPolicy\nmetadata: {name: anybody}\nspec:\n  \
             targetRefs: [{kind: SipDomain, name: md5}]\n  \
             rules: [{name: anybody, from: [{sipIdentity: \"sip:*@md5.example\"}, {anonymous: {}}], action: Allow}]\n",
        );
    };
    steadily(more, call);
}
