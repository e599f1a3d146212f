//! Bad input from outside: a clear refusal, and nothing lost.

use std::fs;

use serde_json::Value;

use crate::harness::agents::{self, BOTH, LEGACY, MODERN};
use crate::harness::backend::{Backend, Fault, nobody};
use crate::harness::cli::{Who, sipmcp};
use crate::harness::edge::Edge;
use crate::harness::manifests::Manifests;
use crate::harness::raw::{Call, Client, INFO, MCP, Sip, offer, tool_call};

const ECHO: &str = "sip:echo@demo.example";

/// An edge with the echo agent at demo.example.
fn edge() -> (Edge, agents::Agent) {
    let echo = agents::echo();
    let manifests = Manifests::new();
    manifests.agent("echo@demo", &echo.url, BOTH, 30);
    (Edge::start(manifests), echo)
}

/// A tool call by INFO, and the answer of the edge in the dialog.
#[track_caller]
fn call_tool(client: &mut Client, call: &mut Call, id: u32, tool: &str, arguments: &str) -> Value {
    let taken = client.ask(call, "INFO", INFO, tool_call(id, tool, arguments));
    assert_eq!(taken.status(), 200, "{}", taken.start);
    client.incoming("INFO").json()
}

/// Still there: it takes a tool call, and then BYE.
#[track_caller]
fn alive_then_bye(client: &mut Client, call: &mut Call) {
    let answer = call_tool(client, call, 99, "echo", r#"{"text":"still here"}"#);
    assert_eq!(answer["result"]["content"][0]["text"], "still here", "{answer}");
    assert_eq!(client.ask(call, "BYE", "", "").status(), 200);
}

#[test]
fn neg_11_xch_2_sec_10_bodies_that_are_wrong_out_of_a_dialog() {
    let (edge, _echo) = edge();
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    let large =
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"x":"{}"}}}}"#, "x".repeat(70_000));
    let envelope = r#"{"mcp_version":"1.0","type":"offer","conversation":"11111111-2222-4333-8444-555555555555","payload":{"role":"caller","tools":[],"schemas":[]}}"#;
    let latin: &[u8] = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"t\xe9\"}";
    let cases: [(&str, &[u8], u16); 9] = [
        ("Content-Type: text/plain\r\n", b"hello", 415),
        ("", b"{}", 415),
        (MCP, b"{\"jsonrpc\":\"2.0\",", 400),
        (MCP, latin, 400),
        (MCP, b"{\"jsonrpc\":\"2.0\",\"id\":1,\"id\":2,\"method\":\"ping\"}", 400),
        (MCP, b"[{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}]", 400),
        (MCP, deep.as_bytes(), 400),
        // NEG-9: outside session set-up.
        (MCP, envelope.as_bytes(), 400),
        (MCP, large.as_bytes(), 413),
    ];
    for (headers, body, status) in cases {
        // 413 may close the connection: each case has its own.
        let mut alice = Client::tcp(&edge, Some("alice"), "demo.example");
        let mut call = Call::to(ECHO);
        // So that the credentials are there already.
        assert_eq!(alice.ask(&mut call, "MESSAGE", MCP, tool_call(1, "echo", r#"{"text":"first"}"#)).status(), 200);
        alice.incoming("MESSAGE");
        let refused = alice.ask(&mut call, "MESSAGE", headers, body);
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        assert_eq!(refused.status(), status, "{headers:?} {shown}: {}", refused.start);
        assert!(!refused.reason().is_empty(), "{}", refused.start);
        if status == 415 {
            assert!(refused.header("Accept").contains("application/mcp+json"), "{:?}", refused.all("Accept"));
        }
    }
}

#[test]
fn neg_9_neg_11_xch_4_bodies_that_are_wrong_in_a_dialog_leave_it() {
    let (edge, _echo) = edge();
    let mut alice = Client::tcp(&edge, Some("alice"), "demo.example");
    let mut call = Call::to(ECHO);
    alice.invite(&mut call);
    let envelope = r#"{"mcp_version":"1.0","type":"offer","conversation":"11111111-2222-4333-8444-555555555555","payload":{"role":"caller","tools":[],"schemas":[]}}"#;
    for (method, headers, body, status) in [
        ("INFO", "Content-Type: text/plain\r\n", "hello", 415),
        ("MESSAGE", "Content-Type: text/plain\r\n", "hello", 415),
        ("INFO", INFO, "{", 400),
        ("MESSAGE", MCP, "{", 400),
        ("INFO", INFO, envelope, 400),
        ("INFO", "Info-Package: other\r\nContent-Type: application/mcp+json\r\n", "{}", 469),
        ("REFER", "Refer-To: <sip:bob@demo.example>\r\n", "", 405),
        ("FROBNICATE", "", "", 501),
        ("UPDATE", "MCP-Select: tools=\"echo@\"\r\n", "", 400),
    ] {
        let refused = alice.ask(&mut call, method, headers, body);
        assert_eq!(refused.status(), status, "{method} {headers:?} {body}: {}", refused.start);
    }
    alive_then_bye(&mut alice, &mut call);
    // And after the end it is nobody's.
    let mut late = call.clone();
    assert_eq!(alice.ask(&mut late, "INFO", INFO, tool_call(1, "echo", "{}")).status(), 481);
}

/// A response without what differs from one request to the next.
fn essence(response: &Sip) -> String {
    let text = String::from_utf8_lossy(&response.raw).into_owned();
    let own = ["via:", "from:", "to:", "call-id:", "cseq:", "session-id:", "www-authenticate:"];
    let kept = text.lines().filter(|line| !own.iter().any(|name| line.to_ascii_lowercase().starts_with(name)));
    kept.collect::<Vec<_>>().join("\n")
}

#[test]
fn sec_18_addresses_cannot_be_probed() {
    let echo = agents::echo();
    let manifests = Manifests::new();
    manifests.agent("echo@demo", &echo.url, BOTH, 30);
    manifests.agent("hidden@demo", &echo.url, BOTH, 30);
    manifests.policy(
        "hidden@demo",
        "Deny",
        r#"{name: bob, from: [{sipIdentity: "sip:bob@demo.example"}], action: Allow}"#,
    );
    let edge = Edge::start(manifests);
    let body = tool_call(1, "echo", r#"{"text":"hello"}"#);
    // Without credentials: 401 for every address alike.
    let mut nobody = Client::tcp(&edge, None, "demo.example");
    for method in ["MESSAGE", "INVITE", "REFER", "FROBNICATE", "BYE"] {
        let mut answers = Vec::new();
        for user in ["echo", "hidden", "alice", "unknown"] {
            let mut call = Call::to(&format!("sip:{user}@demo.example"));
            let refused = nobody.ask(&mut call, method, &format!("Contact: <sip:x@127.0.0.1>\r\n{MCP}"), &body);
            assert_eq!(refused.status(), 401, "{method} {user}");
            answers.push(essence(&refused));
        }
        answers.dedup();
        assert_eq!(answers.len(), 1, "{method}: {answers:#?}");
    }
    // With credentials: 404 for an unknown address and one that is not for her, alike.
    let mut alice = Client::tcp(&edge, Some("alice"), "demo.example");
    for method in ["MESSAGE", "INVITE", "OPTIONS"] {
        let mut answers = Vec::new();
        for user in ["hidden", "unknown"] {
            let mut call = Call::to(&format!("sip:{user}@demo.example"));
            // OPTIONS is not challenged; credentials come with the first of the others.
            let refused = alice.ask(&mut call, method, &format!("Contact: <sip:x@127.0.0.1>\r\n{MCP}"), &body);
            assert_eq!(refused.status(), 404, "{method} {user}: {}", refused.start);
            answers.push(essence(&refused));
        }
        assert_eq!(answers[0], answers[1], "{method}");
    }
    // For bob it is there.
    let ran = sipmcp(
        &edge,
        "tcp",
        Who::Digest("bob"),
        "call",
        "sip:hidden@demo.example",
        &["--tool", "echo", "--arg", "text=hi"],
    );
    assert_eq!(ran.text(), "hi", "{}", ran.err);
    let ran = sipmcp(&edge, "tcp", Who::Digest("alice"), "call", "sip:hidden@demo.example", &["--tool", "echo"]);
    assert_eq!((ran.code, ran.json["code"].as_i64()), (3, Some(404)), "{}", ran.err);
}

#[test]
fn sec_1_a_tenant_that_demands_tls_is_not_served_in_plain() {
    let echo = agents::echo();
    let manifests = Manifests::new();
    manifests.agent("echo@secure", &echo.url, BOTH, 30);
    let edge = Edge::start(manifests);
    let address = "sip:echo@secure.example";
    for mut client in
        [Client::udp(&edge, Some("alice"), "secure.example"), Client::tcp(&edge, Some("alice"), "secure.example")]
    {
        let mut call = Call::to(address);
        let refused = client.ask(&mut call, "MESSAGE", MCP, tool_call(1, "echo", "{}"));
        assert_eq!(refused.status(), 403, "{}", refused.start);
        assert!(refused.header("Warning").starts_with("399 "), "{:?}", refused.all("Warning"));
        assert_ne!(refused.reason(), "Forbidden", "the phrase says why");
        let mut call = Call::to(address);
        let (headers, body) = offer(&client);
        assert_eq!(client.ask(&mut call, "INVITE", &headers, body).status(), 403);
    }
    let call = ["--tool", "echo", "--arg", "text=safe"];
    let refused = sipmcp(&edge, "udp", Who::Digest("alice"), "call", address, &call);
    assert_eq!(refused.code, 3);
    assert!(refused.err.contains("403") && refused.err.contains("--transport tls"), "{}", refused.err);
    for transport in ["tls", "wss"] {
        let ran = sipmcp(&edge, transport, Who::Digest("alice"), "call", address, &call);
        assert_eq!(ran.text(), "safe", "{}", ran.err);
    }
}

#[test]
fn neg_2_neg_4_an_address_without_mcp_is_420_or_488() {
    let echo = agents::echo();
    let manifests = Manifests::new();
    manifests.agent("voice@demo", &echo.url, BOTH, 30);
    manifests.policy("voice@demo", "Allow", "{name: nobody, action: Deny}");
    let edge = Edge::start(manifests);
    let address = "sip:voice@demo.example";
    let mut alice = Client::tcp(&edge, Some("alice"), "demo.example");
    let (headers, body) = offer(&alice);
    for (require, status) in [("Require: mcp\r\n", 420), ("Require: x-mcp\r\n", 420), ("", 488)] {
        let mut call = Call::to(address);
        let refused = alice.ask(&mut call, "INVITE", &format!("{headers}{require}"), &body);
        assert_eq!(refused.status(), status, "{require:?}: {}", refused.start);
        if status == 420 {
            assert!(require.contains(refused.header("Unsupported")), "{:?}", refused.all("Unsupported"));
        } else {
            assert!(refused.header("Warning").starts_with("304 "), "{:?}", refused.all("Warning"));
        }
    }
    // A tag that nobody knows.
    let mut call = Call::to(address);
    let refused = alice.ask(&mut call, "INVITE", &format!("{headers}Require: x-unheard-of\r\n"), &body);
    assert_eq!((refused.status(), refused.header("Unsupported")), (420, "x-unheard-of"));
    // The CLI says what to do, and without --require it hears the truth.
    let arguments = ["--tool", "echo", "--via", "info"];
    let ran = sipmcp(&edge, "tcp", Who::Digest("alice"), "call", address, &arguments);
    assert_eq!(ran.code, 3);
    assert!(ran.err.contains("420 Bad Extension") && ran.err.contains("retry with --no-require"), "{}", ran.err);
    let ran =
        sipmcp(&edge, "tcp", Who::Digest("alice"), "call", address, &[&arguments[..], &["--no-require"]].concat());
    assert_eq!((ran.code, ran.json["code"].as_i64()), (3, Some(488)), "{}", ran.err);
}

#[test]
fn dialogs_that_are_not_there_merged_requests_and_loops() {
    let (edge, _echo) = edge();
    let mut alice = Client::udp(&edge, Some("alice"), "demo.example");
    let mut call = Call::to(ECHO);
    assert_eq!(alice.ask(&mut call, "MESSAGE", MCP, tool_call(1, "count", "{}")).status(), 200);
    assert_eq!(alice.incoming("MESSAGE").json()["result"]["content"][0]["text"], "1");
    // The same request by another way: 482, and the tool does not run again. A copy by the same way: the same answer.
    let bytes = alice.build(&mut call, "MESSAGE", MCP, tool_call(2, "count", "{}"));
    alice.send(&bytes);
    let first = alice.response(&call, "MESSAGE");
    assert_eq!(first.status(), 200);
    assert_eq!(alice.incoming("MESSAGE").json()["result"]["content"][0]["text"], "2");
    alice.send(&bytes);
    assert_eq!(alice.response(&call, "MESSAGE").raw, first.raw);
    let merged = String::from_utf8(bytes).unwrap().replace(&call.branch, &format!("{}z", call.branch));
    call.branch.push('z');
    alice.send(merged.as_bytes());
    assert_eq!(alice.response(&call, "MESSAGE").status(), 482);
    let mut next = Call::to(ECHO);
    assert_eq!(alice.ask(&mut next, "MESSAGE", MCP, tool_call(3, "count", "{}")).status(), 200);
    assert_eq!(alice.incoming("MESSAGE").json()["result"]["content"][0]["text"], "3");
    // A call that is not there.
    for method in ["BYE", "INFO", "UPDATE", "INVITE"] {
        let mut stray = Call { to_tag: Some("madeup".to_owned()), ..Call::to(ECHO) };
        let (headers, body) =
            if method == "INVITE" { offer(&alice) } else { (INFO.to_owned(), tool_call(1, "echo", "{}")) };
        assert_eq!(alice.ask(&mut stray, method, &headers, &body).status(), 481, "{method}");
    }
    let mut stray = Call { cseq: 7, branch: "z9hG4bKmadeup".to_owned(), ..Call::to(ECHO) };
    assert_eq!(alice.ask(&mut stray, "CANCEL", "", "").status(), 481);
}

#[test]
fn an_invite_over_udp_is_served_once_however_often_it_comes() {
    let (edge, _echo) = edge();
    let mut alice = Client::udp(&edge, Some("alice"), "demo.example");
    let mut call = Call::to(ECHO);
    let (headers, body) = offer(&alice);
    let challenge = alice.ask_once(&mut call, "INVITE", &headers, &body);
    alice.challenge(&challenge);
    let invite = alice.build(&mut call, "INVITE", &headers, &body);
    alice.send(&invite);
    alice.send(&invite);
    let accepted = alice.response(&call, "INVITE");
    assert_eq!(accepted.status(), 200, "{}", accepted.start);
    // Nobody acknowledges: the same bytes again (RFC 3261 §13.3.1.4).
    assert_eq!(alice.response(&call, "INVITE").raw, accepted.raw);
    alice.established(&mut call, &accepted);
    assert_eq!(edge.status_until("one dialog", |status| status["counts"]["dialogs"] == 1)["counts"]["dialogs"], 1);
    // INFO twice: one answer to both, one run of the tool.
    let info = alice.build(&mut call, "INFO", INFO, tool_call(1, "count", "{}"));
    alice.send(&info);
    let taken = alice.response(&call, "INFO");
    assert_eq!(taken.status(), 200);
    let first = alice.incoming("INFO").json()["result"]["content"][0]["text"].clone();
    alice.send(&info);
    assert_eq!(alice.response(&call, "INFO").raw, taken.raw);
    let second = call_tool(&mut alice, &mut call, 2, "executions", "{}");
    let runs: Value = serde_json::from_str(second["result"]["content"][0]["text"].as_str().unwrap()).unwrap();
    assert_eq!(runs["runs"]["count"].to_string(), first.as_str().unwrap(), "{runs}");
    let bye = alice.ask(&mut call, "BYE", "", "");
    assert_eq!(bye.status(), 200);
    edge.status_until("no dialog", |status| status["counts"]["dialogs"] == 0);
}

#[test]
fn an_id_that_is_in_flight_is_refused_and_the_first_request_is_answered() {
    let (edge, _echo) = edge();
    for mut alice in
        [Client::udp(&edge, Some("alice"), "demo.example"), Client::tcp(&edge, Some("alice"), "demo.example")]
    {
        let mut call = Call::to(ECHO);
        alice.invite(&mut call);
        let slow = tool_call(5, "sleep", r#"{"seconds":0.5}"#);
        assert_eq!(alice.ask(&mut call, "INFO", INFO, slow).status(), 200);
        let refused = call_tool(&mut alice, &mut call, 5, "echo", r#"{"text":"too soon"}"#);
        assert_eq!((&refused["id"], &refused["error"]["code"]), (&5.into(), &(-32600).into()), "{refused}");
        let first = alice.incoming("INFO").json();
        assert_eq!(first["result"]["content"][0]["text"], "slept 0.5 s in 1 steps", "{first}");
        let next = call_tool(&mut alice, &mut call, 5, "echo", r#"{"text":"now"}"#);
        assert_eq!(next["result"]["content"][0]["text"], "now", "{next}");
        alive_then_bye(&mut alice, &mut call);
    }
}

#[test]
fn xch_4_an_answer_that_fits_no_carrier_is_an_error_that_says_so() {
    let (edge, _echo) = edge();
    for transport in ["udp", "tcp", "tls", "wss"] {
        for via in ["message", "info"] {
            let call = |bytes: &str| {
                let bytes = format!("bytes={bytes}");
                let arguments = ["--tool", "big", "--arg", &bytes, "--via", via, "--era", "modern"];
                sipmcp(&edge, transport, Who::Digest("alice"), "call", ECHO, &arguments)
            };
            // 60 kB: over UDP it comes by TCP.
            let ran = call("60000");
            assert_eq!(ran.text().len(), 60_000, "{transport} {via}: {}", ran.err);
            let ran = call("100000");
            assert_eq!((ran.code, ran.json["code"].as_i64()), (5, Some(-31006)), "{transport} {via}: {}", ran.err);
            // More than the edge reads of a backend.
            let ran = call("3000000");
            assert_eq!((ran.code, ran.json["code"].as_i64()), (5, Some(-31006)), "{transport} {via}: {}", ran.err);
        }
    }
}

#[test]
fn neg_12_a_backend_that_fails_is_a_json_rpc_error_and_the_dialog_stays() {
    let faults =
        [Fault::NotJson, Fault::NotRpc, Fault::NotHttp, Fault::Page, Fault::Cut, Fault::CutStream, Fault::Silent];
    let backends: Vec<Backend> = faults.iter().map(|fault| Backend::start(*fault)).collect();
    let manifests = Manifests::new();
    for (number, backend) in backends.iter().enumerate() {
        manifests.agent(&format!("faulty{number}@demo"), &backend.url, MODERN, 2);
        manifests.agent(&format!("faulty{number}-legacy@demo"), &backend.url, LEGACY, 2);
    }
    manifests.agent("down@demo", &nobody(), BOTH, 2);
    let echo = agents::echo();
    manifests.agent("echo@demo", &echo.url, BOTH, 30);
    let edge = Edge::start(manifests);
    let mut alice = Client::tcp(&edge, Some("alice"), "demo.example");
    let mut users = vec![("down".to_owned(), "no")];
    users.extend((0..faults.len()).map(|number| (format!("faulty{number}"), "unknown")));
    for (user, executed) in &users {
        let mut call = Call::to(&format!("sip:{user}@demo.example"));
        alice.invite(&mut call);
        for id in [1, 2] {
            let answer = call_tool(&mut alice, &mut call, id, "anything", "{}");
            assert_eq!((&answer["id"], &answer["error"]["code"]), (&id.into(), &(-31001).into()), "{user}: {answer}");
            assert_eq!(answer["error"]["data"]["executed"], *executed, "{user}: {answer}");
        }
        assert_eq!(alice.ask(&mut call, "OPTIONS", "", "").status(), 200, "{user}: the dialog is gone");
        assert_eq!(alice.ask(&mut call, "BYE", "", "").status(), 200);
    }
    for (number, fault) in faults.iter().enumerate() {
        let address = format!("sip:faulty{number}-legacy@demo.example");
        let ran = sipmcp(&edge, "tcp", Who::Digest("alice"), "call", &address, &["--tool", "x", "--era", "legacy"]);
        assert_eq!((ran.code, ran.json["code"].as_i64()), (5, Some(-31001)), "{fault:?}: {}", ran.err);
    }
    // The others were never touched.
    let ran = sipmcp(&edge, "tcp", Who::Digest("alice"), "call", ECHO, &["--tool", "echo", "--arg", "text=fine"]);
    assert_eq!(ran.text(), "fine", "{}", ran.err);
    // The wrong era is told, not guessed.
    let ran = sipmcp(
        &edge,
        "tcp",
        Who::Digest("alice"),
        "call",
        "sip:faulty0@demo.example",
        &["--tool", "x", "--era", "legacy"],
    );
    assert_eq!(ran.code, 5, "{}", ran.err);
}

#[test]
fn the_command_line_says_what_is_wrong() {
    let (edge, _echo) = edge();
    let alice = Who::Digest("alice");
    let scratch = edge.manifests.scratch().to_owned();
    fs::write(scratch.join("list.json"), "[1]").unwrap();
    let list = scratch.join("list.json");
    /// Transport, who, whom, arguments, exit code, words of the message.
    type Case<'a> = (&'a str, Who, &'a str, &'a [&'a str], i32, &'a str);
    let cases: [Case; 10] = [
        ("tcp", Who::Nobody, ECHO, &["--tool", "echo"], 3, "401"),
        ("tcp", alice, "sip:unknown@demo.example", &["--tool", "echo"], 3, "404"),
        ("tcp", alice, "sip:echo@elsewhere.example", &["--tool", "echo"], 3, "404"),
        ("tcp", alice, ECHO, &["--tool", "no-such-tool"], 5, "-32602"),
        ("tcp", alice, ECHO, &["--tool", "fail"], 1, "said that it failed"),
        ("tcp", alice, ECHO, &["--tool", "elicit", "--era", "modern"], 5, "--elicit FILE"),
        ("tcp", alice, ECHO, &["--tool", "echo", "--arg", "text"], 2, "NAME=VALUE"),
        ("tcp", alice, ECHO, &["--tool", "elicit", "--elicit", list.to_str().unwrap()], 2, "a JSON object is expected"),
        ("tls", Who::Nobody, "sip:echo@elsewhere.example", &["--tool", "echo"], 4, "RFC 5922"),
        ("tcp", Who::Digest("mallory"), ECHO, &["--tool", "echo"], 3, "401"),
    ];
    for (transport, who, uri, more, code, says) in cases {
        let ran = sipmcp(&edge, transport, who, "call", uri, more);
        assert_eq!(ran.code, code, "{uri} {more:?}: {} {}", ran.json, ran.err);
        let lines: Vec<&str> = ran.err.lines().filter(|line| line.starts_with("sipmcp: ")).collect();
        assert!(lines.len() == 1 && lines[0].contains(says), "{uri} {more:?}: {}", ran.err);
    }
    // Nobody there.
    let mut gone = crate::harness::cli::plain();
    gone.args(["call", ECHO, "--tool", "echo", "--proxy", &format!("sip:{}:1", edge.ip()), "--transport", "tcp"]);
    let ended = crate::harness::process::run("sipmcp", &gone, crate::harness::PATIENCE);
    assert_eq!(ended.code, Some(4));
    assert!(ended.err.contains("connection refused") && ended.err.contains("is the edge running?"), "{}", ended.err);
    // The second edge of the list takes the call (RFC 3263 §4.3).
    let mut second = crate::harness::cli::plain();
    let list = format!("sip:{}:1,sip:{}", edge.ip(), edge.address("tcp"));
    second.args(["call", ECHO, "--tool", "echo", "--arg", "text=second", "--proxy", &list, "--transport", "tcp"]);
    second.env("SIPMCP_USER", "alice").env("SIPMCP_PASSWORD", "wonderland");
    let ended = crate::harness::process::run("sipmcp", &second, crate::harness::PATIENCE);
    assert_eq!(ended.out.trim(), "second", "{}", ended.err);
}
