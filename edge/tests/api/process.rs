//! Start, refusal, drain.

use std::io::Write;
use std::net::{TcpListener, TcpStream, UdpSocket};

use crate::certificates::{Authority, Pair};
use crate::support::{Edge, Manifests, PATIENCE, answered, free_port, options, read_message, request};

fn udp_and_tcp(port: u16) -> Manifests {
    Manifests::new().with_domain().with_edge(&format!(
        "{{name: udp, protocol: UDP, port: {port}, address: 127.0.0.1}}\n{{name: tcp, protocol: TCP, port: {port}, address: 127.0.0.1}}"
    ))
}

#[test]
fn it_says_where_it_listens_and_nothing_else_surprising() {
    let port = free_port();
    let edge = Edge::with(udp_and_tcp(port));
    let said = edge.seen.join("\n");
    assert!(said.contains(&format!("listening udp 127.0.0.1:{port}")), "{said}");
    assert!(said.contains(&format!("listening tcp 127.0.0.1:{port}")), "{said}");
    assert!(!said.contains("WARN") && !said.contains("ERROR"), "{said}");
    let status = edge.status();
    assert_eq!(status["state"], "running");
    assert_eq!(status["edge"], "default/demo");
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["listeners"][0]["address"], format!("127.0.0.1:{port}"));
    assert_eq!(status["listeners"][1]["transport"], "tcp");
    assert_eq!(status["domains"][0]["domain"], "demo.example");
    assert_eq!(status["problems"], serde_json::json!([]));
    assert_eq!(status["counts"]["shards"], 2);
    assert_eq!(edge.get("/healthz").0, 200);
    assert_eq!(edge.get("/readyz").0, 200);
    assert_eq!(edge.get("/nothing").0, 404);
    let (_, metrics) = edge.get("/metrics");
    assert!(metrics.contains("sipmcp_edge_config_version 1\n") && metrics.ends_with("# EOF\n"), "{metrics}");
}

#[test]
fn a_second_process_on_the_same_udp_port_is_refused_and_the_first_goes_on() {
    let port = free_port();
    let listener = format!("{{name: udp, protocol: UDP, port: {port}, address: 127.0.0.1}}");
    let manifests = Manifests::new().with_domain().with_edge(&listener);
    let _first = Edge::start(&manifests);
    let (status, said) = Edge::spawn(&manifests, &[]).wait();
    assert_eq!(status.code(), Some(1), "{said}");
    let expected = format!(
        "sipmcp-edge: listener udp: cannot listen on udp 127.0.0.1:{port}: the port is in use by another process"
    );
    assert!(said.lines().any(|line| line.starts_with(&expected)), "{said}");
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    // All of the traffic still reaches the first one.
    for number in 0..32 {
        let id = format!("first{number}x");
        let text = options("UDP", socket.local_addr().unwrap(), &id);
        socket.send_to(text.as_bytes(), ("127.0.0.1", port)).unwrap();
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).unwrap();
        assert_eq!(answered(std::str::from_utf8(&buffer[..length]).unwrap(), &id), 200);
    }
}

#[test]
fn what_cannot_be_used_at_the_start_is_one_line_and_an_exit_code() {
    // A TCP port of somebody else.
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = held.local_addr().unwrap().port();
    let taken = Manifests::new()
        .with_domain()
        .with_edge(&format!("{{name: tcp, protocol: TCP, port: {port}, address: 127.0.0.1}}"));
    let expect = |manifests: &Manifests, more: &[&str], code: i32, text: &str| {
        let (status, said) = Edge::spawn(manifests, more).wait();
        assert_eq!(status.code(), Some(code), "{said}");
        let lines: Vec<&str> = said.lines().filter(|line| line.contains(text)).collect();
        assert_eq!(lines.len(), 1, "{text:?} in\n{said}");
    };
    expect(&taken, &[], 1, "listener tcp: cannot listen on tcp");
    // An address that is not ours.
    let foreign = Manifests::new()
        .with_domain()
        .with_edge(&format!("{{name: udp, protocol: UDP, port: {}, address: 192.0.2.1}}", free_port()));
    expect(&foreign, &[], 1, "this machine has no such address");
    // A key of another certificate.
    let authority = Authority::new();
    let (one, two) = (authority.server("demo.example"), authority.server("demo.example"));
    let mixed = Manifests::new().with_domain();
    mixed.write("tls.yaml", &Pair { certificate: one.certificate, key: two.key }.secret("edge-tls"));
    let mixed = mixed.with_edge(&format!(
        "{{name: sips, protocol: TLS, port: {}, address: 127.0.0.1, tls: {{certificateRefs: [{{name: edge-tls}}]}}}}",
        free_port()
    ));
    expect(&mixed, &[], 1, "tls.key is not the key of the first certificate in tls.crt");
    // The admin door.
    let fine = udp_and_tcp(free_port());
    let (status, said) = Edge::spawn(&fine, &["--admin", &held.local_addr().unwrap().to_string()]).wait();
    assert_eq!(status.code(), Some(2), "--admin twice is a usage error: {said}");
    // Nothing usable.
    let empty = Manifests::new();
    expect(&empty, &[], 2, "no SipEdge in the manifests");
    let broken = Manifests::new();
    broken.write(
        "edge.yaml",
        "apiVersion: sipmcp.dev/v1alpha1\nkind: SipEdge\nmetadata: {name: demo}\nspec:\n  listnrs: []\n",
    );
    expect(&broken, &[], 2, "edge.yaml:5: spec.listnrs");
    expect(&broken, &[], 2, "no SipEdge is left; mend what is said above");
    expect(&fine, &["--edge", "other"], 2, "no SipEdge other in the manifests; there is: default/demo");
    expect(&fine, &["--log-level", "edge=nonsense"], 2, "--log-level");
    expect(&fine, &["--otlp-endpoint", "https://collector"], 2, "only http://");
}

#[test]
fn an_edge_without_udp_is_not_ready_as_soon_as_it_drains() {
    let manifests = Manifests::new()
        .with_domain()
        .with_edge(&format!("{{name: tcp, protocol: TCP, port: {}, address: 127.0.0.1}}", free_port()));
    let text = std::fs::read_to_string(manifests.path().join("edge.yaml")).unwrap();
    manifests.write("edge.yaml", &text.replace("settleSeconds: 0", "settleSeconds: 600"));
    let mut edge = Edge::start(&manifests);
    assert_eq!(edge.get("/readyz").0, 200);
    edge.signal("-TERM");
    edge.wait_for("draining");
    edge.status_until(|status| status["state"] == "draining");
    assert_eq!(edge.get("/readyz"), (503, "draining\n".to_owned()));
}

#[test]
fn sigterm_drains_and_ends_with_0() {
    let port = free_port();
    let mut edge = Edge::with(udp_and_tcp(port));
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let local = stream.local_addr().unwrap();
    stream.write_all(options("TCP", local, "before").as_bytes()).unwrap();
    assert_eq!(answered(&read_message(&mut stream), "before"), 200);
    edge.signal("-TERM");
    edge.wait_for("drained");
    let (status, said) = edge.wait();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(!said.contains("ERROR"), "{said}");
    // And the port is free again.
    TcpListener::bind(("127.0.0.1", port)).unwrap();
    UdpSocket::bind(("127.0.0.1", port)).unwrap();
}

#[test]
fn while_it_settles_it_is_not_ready_refuses_new_work_and_a_second_signal_ends_it() {
    let port = free_port();
    let manifests = udp_and_tcp(port);
    let text = std::fs::read_to_string(manifests.path().join("edge.yaml")).unwrap();
    manifests.write("edge.yaml", &text.replace("settleSeconds: 0", "settleSeconds: 600"));
    let mut edge = Edge::start(&manifests);
    edge.signal("-INT");
    edge.wait_for("draining");
    edge.status_until(|status| status["state"] == "draining");
    // What routes datagrams would cut calls in their setup; they are refused by 503, each by itself.
    assert_eq!(edge.get("/readyz").0, 200, "an edge with UDP is ready until it has drained");
    assert_eq!(edge.get("/healthz").0, 200);
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let local = stream.local_addr().unwrap();
    stream.write_all(options("TCP", local, "probe").as_bytes()).unwrap();
    assert_eq!(answered(&read_message(&mut stream), "probe"), 503);
    let invite =
        request("INVITE", "sip:echo@demo.example", "TCP", local, "call", &format!("Contact: <sip:a@{local}>\r\n"));
    stream.write_all(invite.as_bytes()).unwrap();
    let mut answer = read_message(&mut stream);
    if answer.starts_with("SIP/2.0 100") {
        answer = read_message(&mut stream);
    }
    assert_eq!(answered(&answer, "call"), 503);
    edge.signal("-TERM");
    let (status, said) = edge.wait();
    assert_eq!(status.code(), Some(143), "{said}");
}
