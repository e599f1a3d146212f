//! A whole edge, from its arguments to a caller's answer, whose configuration comes from an operator.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use crds::manifest::ObjectKey;
use edge::args::Args;
use edge_api::control::query::What;
use edge_api::control::{Answer, DrainState, SessionsQuery, answer};
use operator::identity::Identity;
use operator::index::Object;
use operator::plan::fleet::DrainOrder;
use operator::queries::Asks;
use operator::serve::streams::AskError;
use serde_json::{Value, json};

use crate::harness::{
    Files, GOOD, NAME, PATIENCE, Replica, agent_json, authority, domain_json, edge_json, edge_key, objects, policy_json,
};

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// One message with `Content-Length`, SIP or HTTP: its head and its body.
fn read_message(stream: &mut TcpStream) -> (String, String) {
    let mut head = Vec::new();
    let mut octet = [0];
    while !head.ends_with(b"\r\n\r\n") {
        assert_eq!(stream.read(&mut octet).expect("a message in time"), 1, "closed after {head:?}");
        if !(head.is_empty() && matches!(octet[0], b'\r' | b'\n')) {
            head.push(octet[0]);
        }
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().unwrap())
    });
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).unwrap();
    (head, String::from_utf8(body).unwrap())
}

/// An MCP server with two tools. Says what it was asked. It answers a call of `hold` when it is told to.
fn backend() -> (SocketAddr, mpsc::Receiver<(String, Value)>, mpsc::SyncSender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (asked, questions) = mpsc::sync_channel(64);
    let (go, gate) = mpsc::sync_channel(1);
    let gate = Arc::new(Mutex::new(gate));
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let (asked, gate) = (asked.clone(), gate.clone());
            thread::spawn(move || {
                let (head, body) = read_message(&mut stream);
                let question: Value = serde_json::from_str(&body).unwrap();
                let result = match question["method"].as_str().unwrap() {
                    "tools/call" => json!({"content": [{"type": "text", "text": "hi"}], "resultType": "complete"}),
                    "tools/list" => {
                        json!({"tools": [{"name": "hold"}, {"name": "echo", "inputSchema": {"type": "object"}}]})
                    }
                    _ => json!({}),
                };
                let answer = json!({"jsonrpc": "2.0", "id": question["id"], "result": result}).to_string();
                let holds = question["params"]["name"] == "hold";
                asked.send((head, question)).unwrap();
                if holds {
                    gate.lock().unwrap().recv().unwrap();
                }
                let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n";
                write!(stream, "{head}Content-Length: {}\r\n\r\n{answer}", answer.len()).unwrap();
            });
        }
    });
    (address, questions, go)
}

/// Status and body of a GET; `None`: nobody listens.
fn get(port: u16, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
}

async fn until<R>(what: &str, mut look: impl FnMut() -> Option<R>) -> R {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = look() {
            return value;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A SipEdge with this port, a domain that takes plain TCP, and an agent whose backend is a Service.
fn given(sip: u16, backend: SocketAddr) -> Vec<Object> {
    let mut edge = edge_json(1);
    edge["spec"]["listeners"] = json!([{"name": "tcp", "protocol": "TCP", "port": sip, "address": "127.0.0.1"}]);
    edge["spec"]["drain"] = json!({"settleSeconds": 0, "inFlightSeconds": 1, "dialogSeconds": 1});
    let mut domain = domain_json();
    domain["spec"]["transport"] = json!({"allowPlain": ["TCP"]});
    let mut agent = agent_json("a", 1);
    agent["spec"]["backend"] =
        json!({"mcpHttp": {"serviceRef": {"name": "billing", "port": 80}, "revisions": ["2026-07-28"]}});
    agent["spec"]["capabilities"] =
        json!({"source": "Declared", "tools": [{"name": "echo", "effect": "ReadOnly"}, {"name": "hold"}]});
    let mut all = objects(&[]);
    all.retain(|object| !matches!(object, Object::Edge(_) | Object::Domain(_)));
    all.push(Object::Edge(serde_json::from_value(edge).unwrap()));
    all.push(Object::Domain(serde_json::from_value(domain).unwrap()));
    all.push(Object::Agent(serde_json::from_value(agent).unwrap()));
    all.push(Object::Policy(serde_json::from_value(policy_json("p", "a")).unwrap()));
    all.push(Object::Endpoints(ObjectKey::new("acme", "billing"), [(80, [backend].into())].into()));
    all
}

fn request(method: &str, to: &str, local: SocketAddr, id: &str, more: &str, body: &str) -> String {
    format!(
        "{method} {to} SIP/2.0\r\nVia: SIP/2.0/TCP {local};branch=z9hG4bK{id};rport\r\nMax-Forwards: 70\r\n\
         From: <sip:caller@elsewhere.example>;tag={id}\r\nTo: <{to}>\r\nCall-ID: {id}\r\nCSeq: 1 {method}\r\n\
         Contact: <sip:caller@{local};transport=tcp>\r\n{more}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_serves_what_an_operator_gave_it_and_drains_when_it_is_told_to() {
    let authority = authority();
    let replica = Replica::start(&authority).await;
    let files = Files::new(&authority, &format!("{GOOD} of e-0"));
    let (sip, admin, health) = (free_port(), free_port(), free_port());
    let (operator, authority, token) =
        (format!("https://{}", replica.address), files.path("ca.crt"), files.path("token"));
    let args = Args::parse_from([
        "sipmcp-edge",
        "--operator",
        &operator,
        "--operator-name",
        NAME,
        "--operator-ca",
        authority.to_str().unwrap(),
        "--token",
        token.to_str().unwrap(),
        "--edge",
        "system/e",
        "--pod-name",
        "e-0",
        "--admin",
        &format!("127.0.0.1:{admin}"),
        "--health",
        &format!("127.0.0.1:{health}"),
        "--shards",
        "1",
    ]);
    // It ends with the test.
    thread::spawn(move || edge::run::run(&args));

    // It lives, and waits for somebody to tell it what it is.
    let waiting = |(status, body): (u16, String)| (status == 503 && body.contains("operator")).then_some(body);
    until("it waits for the operator", || waiting(get(health, "/readyz")?)).await;
    assert_eq!(get(health, "/healthz").unwrap().0, 200);
    let (service, questions, go) = backend();
    replica.reset(given(sip, service));
    until("it is ready", || (get(health, "/readyz")?.0 == 200).then_some(())).await;
    replica
        .until("everything is in use", |state| {
            state.fleets.get(&edge_key())?.edges.get("e-0")?.session.is_programmed().then_some(())
        })
        .await;

    // A caller gets its answer from where the Service is ready: no resolver knows its name.
    let call = |tool: &'static str| {
        tokio::task::spawn_blocking(move || {
            let mut stream = TcpStream::connect(("127.0.0.1", sip)).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let local = stream.local_addr().unwrap();
            let meta = json!({
                "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {},
                "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
            });
            let params = json!({"name": tool, "arguments": {}, "_meta": meta});
            let body = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}).to_string();
            let type_ = "Content-Type: application/mcp+json\r\n";
            stream.write_all(request("MESSAGE", "sip:a@d.example", local, tool, type_, &body).as_bytes()).unwrap();
            let (head, _) = read_message(&mut stream);
            assert!(head.starts_with("SIP/2.0 200"), "{head}");
            read_message(&mut stream)
        })
    };
    let (head, body) = call("echo").await.unwrap();
    assert!(head.starts_with("MESSAGE "), "{head}");
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(answer["result"]["content"][0]["text"], "hi", "{answer}");
    let (head, question) = questions.iter().find(|(_, question)| question["method"] == "tools/call").unwrap();
    assert!(head.starts_with("POST /mcp ") && head.to_lowercase().contains("host: billing.acme.svc"), "{head}");
    assert_eq!(question["params"]["name"], "echo");

    // The operator hears which tools the backend has, with their schemas.
    let tools = replica
        .until("the tools are reported", |state| {
            let edge = state.fleets.get(&edge_key())?.edges.get("e-0")?;
            edge.agents.get(&ObjectKey::new("acme", "a"))?.tools.clone()
        })
        .await;
    let tools: Vec<_> = tools.tools.iter().map(|tool| (&*tool.name, &*tool.input_schema, &*tool.quarantined)).collect();
    assert_eq!(tools, [("echo", &br#"{"type":"object"}"#[..], ""), ("hold", b"", "")]);

    // Who asks for the sessions is told of the call that waits, and of nothing that is said in it.
    let waiting = call("hold");
    let identity = Identity { edge: edge_key(), pod: "e-0".into() };
    let question = SessionsQuery { domain: "D.example".into(), limit: 10, ..SessionsQuery::default() };
    let ask = async |question: &SessionsQuery| {
        let parts = replica.board.ask(&identity, What::Sessions(question.clone())).await.expect("an answer");
        let [Answer { what: Some(answer::What::Sessions(answer)), more: false, .. }] = &parts[..] else {
            panic!("{parts:?}")
        };
        answer.clone()
    };
    let deadline = Instant::now() + PATIENCE;
    let answer = loop {
        let answer = ask(&question).await;
        if answer.sessions.len() == 1 && answer.sessions[0].in_flight == 1 {
            break answer;
        }
        assert!(Instant::now() < deadline, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let row = &answer.sessions[0];
    assert_eq!((&*row.caller, &*row.transport, &*answer.next_page), ("anonymous", "TCP", ""));
    assert_eq!(row.agent.as_ref().map(|key| format!("{}/{}", key.namespace, key.name)).as_deref(), Some("acme/a"));
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap();
    assert!((now - 600..=now).contains(&row.begun) && row.begun <= row.last_used, "{row:?}");
    let elsewhere = SessionsQuery { domain: "other.example".into(), ..question.clone() };
    assert_eq!(ask(&elsewhere).await.sessions.len(), 0);
    let behind = SessionsQuery { page: row.id.clone(), ..question.clone() };
    assert_eq!(ask(&behind).await.sessions.len(), 0);
    let nonsense = SessionsQuery { page: "nonsense".into(), ..question };
    let refused = replica.board.ask(&identity, What::Sessions(nonsense)).await;
    assert!(matches!(&refused, Err(AskError::Refused(why)) if why.contains("page")), "{refused:?}");
    go.send(()).unwrap();
    let (_, body) = waiting.await.unwrap();
    assert!(body.contains("\"hi\""), "{body}");

    // An order to drain: new work is refused, and the operator hears when nothing is left. The process stays for its pod to be deleted.
    let order = DrainOrder { deadline_s: 5, reason: "rollout".into() };
    replica.board.change(|state| state.fleets.entry(edge_key()).or_default().drains.insert("e-0".into(), order));
    replica
        .until("it is empty", |state| {
            let drain = state.fleets.get(&edge_key())?.edges.get("e-0")?.drain.as_ref()?;
            (drain.state() == DrainState::Drained).then_some(())
        })
        .await;
    let (status, body) = get(health, "/readyz").unwrap();
    assert_eq!((status, body.contains("draining")), (503, true), "{body}");
    assert_eq!(get(health, "/healthz").unwrap().0, 200);
}
