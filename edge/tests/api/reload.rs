//! Manifests that change under a running edge.

use std::io::Write;
use std::net::{TcpStream, UdpSocket};

use serde_json::Value;

use crate::support::{DOMAIN, Edge, Manifests, PATIENCE, answered, edge, free_port, options, read_message, request};

const AGENT: &str = "\
apiVersion: sipmcp.dev/v1alpha1
kind: McpAgent
metadata: {name: echo}
spec:
  address: {user: echo, domainRef: {name: demo}}
  backend: {mcpHttp: {url: \"http://127.0.0.1:1/mcp\"}}
  capabilities: {source: Declared, tools: [{name: echo, version: 1}]}
";

fn no_problems(status: &Value) -> bool {
    status["problems"].as_array().is_some_and(Vec::is_empty)
}

#[test]
fn a_broken_file_is_told_with_file_line_and_field_and_the_last_good_state_stays() {
    let port = free_port();
    let manifests = Manifests::new()
        .with_domain()
        .with_edge(&format!("{{name: udp, protocol: UDP, port: {port}, address: 127.0.0.1}}"));
    manifests.write("agent.yaml", AGENT);
    let mut edge = Edge::start(&manifests);
    assert_eq!(edge.status()["agents"][0]["address"], "sip:echo@demo.example");

    // An unknown field: the object as a whole stays as it was.
    manifests.write("agent.yaml", &AGENT.replace("capabilities:", "capabilites:"));
    let said = edge.wait_for("agent.yaml:7: spec.capabilites");
    assert!(said.contains("ERROR"), "{said}");
    let status = edge.status_until(|status| !no_problems(status));
    assert!(status["problems"].to_string().contains("agent.yaml:7: spec.capabilites"), "{status:#}");
    assert_eq!(status["agents"][0]["address"], "sip:echo@demo.example");
    assert!(edge.metric("sipmcp_edge_rejected_resources") > 0);

    // No YAML at all, and of the domain: everything that depends on it stays, too.
    manifests.write("agent.yaml", AGENT);
    edge.status_until(no_problems);
    manifests.write("domain.yaml", "{{{ no yaml");
    let status = edge.status_until(|status| !no_problems(status));
    assert_eq!(status["domains"][0]["domain"], "demo.example");
    assert_eq!(status["agents"][0]["address"], "sip:echo@demo.example");
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let local = socket.local_addr().unwrap();
    socket.send_to(options("UDP", local, "still").as_bytes(), ("127.0.0.1", port)).unwrap();
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).unwrap();
    assert_eq!(answered(std::str::from_utf8(&buffer[..length]).unwrap(), "still"), 200);

    // Repaired: nothing is left of the trouble. Deleted: it is gone.
    manifests.write("domain.yaml", DOMAIN);
    edge.status_until(no_problems);
    std::fs::remove_file(manifests.path().join("agent.yaml")).unwrap();
    let status = edge.status_until(|status| status["agents"].as_array().is_some_and(Vec::is_empty));
    assert!(no_problems(&status));
}

#[test]
fn listeners_come_and_go_and_their_connections_live_on() {
    let (first, second) = (free_port(), free_port());
    let one = format!("{{name: one, protocol: TCP, port: {first}, address: 127.0.0.1}}");
    let two = format!("{{name: two, protocol: UDP, port: {second}, address: 127.0.0.1}}");
    let manifests = Manifests::new().with_domain().with_edge(&one);
    let running = Edge::start(&manifests);
    let mut stream = TcpStream::connect(("127.0.0.1", first)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let local = stream.local_addr().unwrap();
    stream.write_all(options("TCP", local, "one").as_bytes()).unwrap();
    assert_eq!(answered(&read_message(&mut stream), "one"), 200);

    manifests.write("edge.yaml", &edge(&two));
    running.status_until(|status| status["listeners"][0]["name"] == "two");
    assert!(TcpStream::connect(("127.0.0.1", first)).is_err(), "closed");
    stream.write_all(options("TCP", local, "two").as_bytes()).unwrap();
    assert_eq!(answered(&read_message(&mut stream), "two"), 200);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(options("UDP", socket.local_addr().unwrap(), "three").as_bytes(), ("127.0.0.1", second)).unwrap();
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).unwrap();
    assert_eq!(answered(std::str::from_utf8(&buffer[..length]).unwrap(), "three"), 200);

    // The same port on another address: the old socket is gone before the new one is opened.
    for address in ["127.0.0.2", "127.0.0.1", "127.0.0.3", "0.0.0.0"] {
        let moved = |text: &str| text.replace("127.0.0.1", address);
        manifests.write("edge.yaml", &edge(&format!("{}\n{}", moved(&one), moved(&two))));
        let wanted = format!("{address}:{second}");
        let status = running.status_until(|status| status["listeners"].to_string().contains(&wanted));
        assert!(no_problems(&status), "{status:#}");
        assert_eq!(status["listeners"].as_array().unwrap().len(), 2);
    }

    // A port in use is a problem, and the others run.
    let held = UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = held.local_addr().unwrap().port();
    let three = format!("{{name: three, protocol: UDP, port: {taken}, address: 127.0.0.1}}");
    manifests.write("edge.yaml", &edge(&format!("{one}\n{two}\n{three}")));
    let status = running.status_until(|status| !no_problems(status));
    assert!(status["problems"][0].as_str().unwrap().contains("listener three: cannot listen on udp"), "{status:#}");
    assert_eq!(status["listeners"].as_array().unwrap().len(), 2);
    TcpStream::connect(("127.0.0.1", first)).unwrap();
}

#[test]
fn a_policy_that_changes_acts_at_once() {
    let port = free_port();
    let manifests = Manifests::new()
        .with_domain()
        .with_edge(&format!("{{name: tcp, protocol: TCP, port: {port}, address: 127.0.0.1}}"));
    manifests.write("agent.yaml", AGENT);
    let edge = Edge::start(&manifests);
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let local = stream.local_addr().unwrap();
    let mut ask = |id: &str| {
        let body = r#"{"jsonrpc":"2.0","method":"notifications/x"}"#;
        let head =
            request("MESSAGE", "sip:echo@demo.example", "TCP", local, id, "Content-Type: application/mcp+json\r\n");
        let head = head.replace("Content-Length: 0", &format!("Content-Length: {}", body.len()));
        stream.write_all((head + body).as_bytes()).unwrap();
        answered(&read_message(&mut stream), id)
    };
    let open = ask("open");
    let version = edge.status()["configVersion"].as_u64().unwrap();
    manifests.write("domain.yaml", &DOMAIN.replace("{anonymous: {}}, ", ""));
    edge.status_until(|status| status["configVersion"].as_u64().is_some_and(|now| now > version));
    // Without credentials the address is now as any other.
    assert_eq!((open, ask("closed")), (200, 401));
}

#[test]
fn sighup_reads_at_once_and_ends_nothing() {
    let port = free_port();
    let manifests = Manifests::new()
        .with_domain()
        .with_edge(&format!("{{name: udp, protocol: UDP, port: {port}, address: 127.0.0.1}}"));
    let edge = Edge::start(&manifests);
    edge.signal("-HUP");
    let status = edge.status_until(|status| status["configVersion"] == 2);
    assert_eq!(status["state"], "running");
}

const DENIES: &str = "\
apiVersion: sipmcp.dev/v1alpha1
kind: McpCapabilityPolicy
metadata: {name: denies}
spec:
  targetRefs: [{kind: McpAgent, name: echo}]
  rules:
    - {name: everybody, from: [{anonymous: {}}], action: Allow}
    - {name: nothing, from: [{anonymous: {}}], methods: [{name: tools/call, params: [drop]}], action: Deny}
";

fn agents(status: &Value) -> usize {
    status["agents"].as_array().map_or(usize::MAX, Vec::len)
}

#[test]
fn sec_6_an_agent_whose_policy_cannot_be_read_is_closed_whatever_it_was_before() {
    let port = free_port();
    let manifests = Manifests::new()
        .with_domain()
        .with_edge(&format!("{{name: udp, protocol: UDP, port: {port}, address: 127.0.0.1}}"));
    manifests.write("agent.yaml", AGENT);
    let edge = Edge::start(&manifests);
    assert_eq!(agents(&edge.status()), 1);

    // A new policy with a mistake: what it would have denied is not known, and the file of the agent is sound.
    manifests.write("policy.yaml", &DENIES.replace("action: Deny", "acton: Deny"));
    let status = edge.status_until(|status| !no_problems(status));
    assert_eq!(agents(&status), 0, "{status:#}");
    let problems = status["problems"].to_string();
    assert!(problems.contains("did you mean action?") && problems.contains("is closed"), "{problems}");

    // Mended: it answers again.
    manifests.write("policy.yaml", DENIES);
    let status = edge.status_until(no_problems);
    assert_eq!(agents(&status), 1, "{status:#}");

    // The same mistake in a policy that was good, and one in the agent as well: neither stands in an older form.
    manifests.write("policy.yaml", &DENIES.replace("action: Deny", "acton: Deny"));
    manifests.write("agent.yaml", &AGENT.replace("capabilities:", "capabilites:"));
    let status = edge.status_until(|status| status["problems"].to_string().contains("capabilites"));
    let status = if agents(&status) == 0 { status } else { edge.status_until(|status| agents(status) == 0) };
    assert!(status["problems"].to_string().contains("did you mean action?"), "{status:#}");

    manifests.write("agent.yaml", AGENT);
    manifests.write("policy.yaml", DENIES);
    let status = edge.status_until(no_problems);
    assert_eq!(agents(&status), 1, "{status:#}");
}
