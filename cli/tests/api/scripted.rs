//! RFC 3263 §4.3, and what overtakes: toward peers that do exactly this.

use serde_json::json;

use super::support::{Scripted, sipmcp};

fn call(proxies: &str, more: &[&str]) -> super::support::Running {
    let mut args = vec!["call", "sip:echo@demo.example", "--tool", "echo", "--arg", "text=hi", "--era", "modern"];
    args.extend(["--transport", "udp", "--proxy", proxies, "--json", "--trace", "--timeout", "30"]);
    args.extend(more);
    sipmcp(args)
}

fn text(json: &serde_json::Value) -> &str {
    json["result"]["content"][0]["text"].as_str().unwrap_or_default()
}

#[test]
fn a_503_and_a_silent_edge_are_left_for_the_next_one() {
    let refuses = Scripted::start(Box::new(|sip| vec![sip.answer("503 Service Unavailable", "Retry-After: 5\r\n")]));
    let silent = Scripted::start(Box::new(|_| Vec::new()));
    let works = Scripted::start(Box::new(|sip| sip.tool_answer("works", "hi")));
    let ran = call(&[refuses.uri(), silent.uri(), works.uri()].join(","), &[]).end();
    assert_eq!((ran.code, text(&ran.json)), (0, "hi"), "{}", ran.err);

    let first = |edge: &Scripted| edge.seen.lock().unwrap()[0].clone();
    let [a, b, c] = [first(&refuses), first(&silent), first(&works)];
    assert!(a.cseq() < b.cseq() && b.cseq() < c.cseq(), "a fresh CSeq each time");
    assert_eq!((a.header("MCP-Exchange"), a.json()), (c.header("MCP-Exchange"), c.json()), "the same exchange and id");
    assert_eq!(a.header("Call-ID"), c.header("Call-ID"));
    // The ladder says who refused, who was silent and who answered.
    for part in [
        format!("{} answers 503 to MESSAGE; another edge is tried", refuses.address),
        format!("{} says nothing to MESSAGE in 2 s; another edge is tried", silent.address),
        format!("UDP/{}", works.address),
    ] {
        assert!(ran.err.contains(&part), "{part}\n{}", ran.err);
    }
}

#[test]
fn when_every_edge_refuses_the_refusal_is_the_answer() {
    let start = || Scripted::start(Box::new(|sip| vec![sip.answer("503 Service Unavailable", "")]));
    let (a, b) = (start(), start());
    let ran = call(&[a.uri(), b.uri()].join(","), &[]).end();
    assert_eq!((ran.code, ran.json["code"].as_i64()), (3, Some(503)), "{}", ran.err);
    assert_eq!((a.methods().len(), b.methods().len()), (1, 1), "each was asked once");
    let alone = start();
    assert_eq!(call(&alone.uri(), &[]).end().code, 3);
}

#[test]
fn other_refusals_are_not_carried_to_the_next_edge() {
    let refuses = Scripted::start(Box::new(|sip| vec![sip.answer("404 Not Found", "")]));
    let works = Scripted::start(Box::new(|sip| sip.tool_answer("works", "hi")));
    let ran = call(&[refuses.uri(), works.uri()].join(","), &[]).end();
    assert_eq!((ran.code, ran.json["code"].as_i64()), (3, Some(404)), "{}", ran.err);
    assert!(works.methods().is_empty());
}

#[test]
fn the_retryable_error_is_printed_with_what_it_means() {
    let edge = Scripted::start(Box::new(|sip| {
        let error = json!({"code": -31001, "message": "the edge that served this request ended", "data": {"executed": "unknown"}});
        let body = json!({"jsonrpc": "2.0", "id": sip.json()["id"], "error": error});
        vec![sip.answer("200 OK", ""), sip.message_back("dead", 1, &body)]
    }));
    let ran = call(&edge.uri(), &[]).end();
    assert_eq!((ran.code, ran.json["code"].as_i64()), (5, Some(-31001)));
    assert!(ran.err.contains("the answer was lost; data.executed says whether the tool may have run"), "{}", ran.err);
}

/// Answers what an INVITE dialog needs; `info`: what it does with the n-th INFO.
fn dialog(name: &'static str, info: impl Fn(usize, &super::support::Sip) -> Vec<String> + Send + 'static) -> Scripted {
    let mut infos = 0;
    Scripted::start(Box::new(move |sip| match &*sip.method() {
        "INVITE" => vec![sip.answer("200 OK", &format!("Contact: <sip:{name}@127.0.0.1>\r\nSupported: mcp\r\n"))],
        "ACK" => Vec::new(),
        "INFO" => {
            infos += 1;
            info(infos, sip)
        }
        _ => vec![sip.answer("200 OK", "")],
    }))
}

#[test]
fn an_info_that_was_overtaken_goes_again_with_a_fresh_cseq_and_the_same_exchange() {
    let edge = dialog("edge", |n, sip| match n {
        1 | 2 => vec![sip.answer("500 CSeq Out Of Order", "")],
        _ => sip.tool_answer("edge", "hi"),
    });
    let ran = call(&edge.uri(), &["--via", "info"]).end();
    assert_eq!((ran.code, text(&ran.json)), (0, "hi"), "{}", ran.err);
    let infos: Vec<_> = edge.seen.lock().unwrap().iter().filter(|sip| sip.method() == "INFO").cloned().collect();
    assert_eq!(infos.len(), 3);
    assert!(infos.windows(2).all(|pair| pair[0].cseq() < pair[1].cseq()));
    assert!(
        infos
            .iter()
            .all(|sip| sip.header("MCP-Exchange") == infos[0].header("MCP-Exchange") && sip.json() == infos[0].json())
    );

    let never = dialog("never", |_, sip| vec![sip.answer("500 CSeq Out Of Order", "")]);
    let ran = call(&never.uri(), &["--via", "info"]).end();
    assert_eq!((ran.code, ran.json["code"].as_i64()), (3, Some(500)), "{}", ran.err);
    let methods = never.methods();
    assert_eq!(methods.iter().filter(|method| *method == "INFO").count(), 4, "bounded: {methods:?}");
}

#[test]
fn a_request_in_a_dialog_goes_to_the_next_edge_when_the_one_does_not_answer() {
    // The first edge takes the call and then says nothing; the second knows the dialog.
    let dies = dialog("fleet", |_, _| Vec::new());
    let lives = dialog("fleet", |_, sip| sip.tool_answer("lives", "from the second"));
    let ran = call(&[dies.uri(), lives.uri()].join(","), &["--via", "info"]).end();
    assert_eq!((ran.code, text(&ran.json)), (0, "from the second"), "{}", ran.err);
    assert_eq!(dies.methods(), ["INVITE", "ACK", "INFO"]);
    assert_eq!(lives.methods(), ["INFO", "BYE"], "the call ends at the edge that lives");
}
