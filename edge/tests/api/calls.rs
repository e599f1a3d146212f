//! A tool call from a socket to a real MCP server and back.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};

use tokio::runtime::Runtime;

use crate::certificates::{Authority, tls_client};
use crate::fleet::{self, udp};
use crate::support::{Edge, Manifests, PATIENCE, answered, free_port, read_message, request};

/// The echo agent, and the manifest of its address `sip:echo@demo.example`.
pub struct Echo {
    _runtime: Runtime,
    url: String,
}

impl Echo {
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let agent = runtime
            .block_on(echo_agent::Agent::start(SocketAddr::from(([127, 0, 0, 1], 0)), echo_agent::Options::default()))
            .unwrap();
        let url = agent.url();
        // Served until the runtime ends.
        std::mem::forget(agent);
        Echo { _runtime: runtime, url }
    }

    pub fn manifest(&self) -> String {
        format!(
            "apiVersion: sipmcp.dev/v1alpha1\nkind: McpAgent\nmetadata: {{name: echo}}\nspec:\n  \
             address: {{user: echo, domainRef: {{name: demo}}}}\n  backend: {{mcpHttp: {{url: {}}}}}\n  \
             capabilities: {{source: Discovered, tools: [{{name: echo, effect: ReadOnly}}]}}\n",
            self.url
        )
    }
}

/// A modern `tools/call`.
pub fn tool_call(tool: &str, arguments: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{{"name":"{tool}","arguments":{arguments},"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{{"name":"test","version":"1"}},"io.modelcontextprotocol/clientCapabilities":{{}}}}}}}}"#
    )
}

/// A MESSAGE to the echo agent.
pub fn message(transport: &str, local: SocketAddr, id: &str, cseq: u32, more: &str, body: &str) -> String {
    let contact = format!("Contact: <sip:alice@{local};transport={}>\r\n", transport.to_ascii_lowercase());
    let more = format!("{contact}{more}Content-Type: application/mcp+json\r\n");
    let head = request("MESSAGE", "sip:echo@demo.example", transport, local, id, &more);
    let head = head
        .replace("CSeq: 1 ", &format!("CSeq: {cseq} "))
        .replace(&format!("branch=z9hG4bK{id}"), &format!("branch=z9hG4bK{id}{cseq}"))
        .replace("Content-Length: 0", &format!("Content-Length: {}", body.len()));
    head + body
}

/// 200 to a request of the edge.
fn accept(request: &str) -> String {
    let copied = |name: &str| -> String {
        request.lines().filter(|line| line.starts_with(name)).map(|line| format!("{line}\r\n")).collect()
    };
    format!(
        "SIP/2.0 200 OK\r\n{}{}{}{}{}Content-Length: 0\r\n\r\n",
        copied("Via:"),
        copied("From:"),
        copied("To:").replace("\r\n", ";tag=client\r\n"),
        copied("Call-ID:"),
        copied("CSeq:")
    )
}

fn body(message: &str) -> serde_json::Value {
    serde_json::from_str(message.split_once("\r\n\r\n").unwrap().1).unwrap()
}

/// Calls the tool on a stream as anonymous: 200 to the MESSAGE, then the answer in a MESSAGE of its own.
fn call_on_stream(stream: &mut (impl Read + Write), transport: &str, local: SocketAddr) {
    let text = message(transport, local, "call", 1, "", &tool_call("echo", r#"{"text":"hi"}"#));
    stream.write_all(text.as_bytes()).unwrap();
    assert_eq!(answered(&read_message(stream), "call"), 200);
    let answer = read_message(stream);
    assert!(answer.starts_with("MESSAGE sip:"), "{answer}");
    assert_eq!(body(&answer)["result"]["content"][0]["text"], "hi", "{answer}");
    assert_eq!(body(&answer)["id"], 7);
    stream.write_all(accept(&answer).as_bytes()).unwrap();
}

#[test]
fn a_tool_of_a_real_mcp_server_answers_over_tcp_and_tls_and_leaves_its_audit_record() {
    let (tcp, tls) = (free_port(), free_port());
    let echo = Echo::start();
    let authority = Authority::new();
    let manifests = Manifests::new().with_domain();
    manifests.write("agent.yaml", &echo.manifest());
    manifests.write("tls.yaml", &authority.server("demo.example").secret("edge-tls"));
    let manifests = manifests.with_edge(&format!(
        "{{name: tcp, protocol: TCP, port: {tcp}, address: 127.0.0.1}}\n\
         {{name: sips, protocol: TLS, port: {tls}, address: 127.0.0.1, tls: {{certificateRefs: [{{name: edge-tls}}]}}}}"
    ));
    let audit = manifests.path().join("audit.jsonl");
    let edge = Edge::start_with(&manifests, &["--audit", audit.to_str().unwrap()]);

    let mut stream = TcpStream::connect(("127.0.0.1", tcp)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let local = stream.local_addr().unwrap();
    call_on_stream(&mut stream, "TCP", local);
    let mut stream = tls_client(&authority, tls, None, &[&tokio_rustls::rustls::version::TLS13]);
    let local = stream.sock.local_addr().unwrap();
    call_on_stream(&mut stream, "TLS", local);

    let written = std::fs::read_to_string(&audit).unwrap();
    let records: Vec<serde_json::Value> = written.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let calls: Vec<_> = records.iter().filter(|record| record["audit"] == "tool_call").collect();
    assert_eq!(calls.len(), 2, "{written}");
    assert_eq!(calls[0]["agent"], "sip:echo@demo.example");
    assert_eq!((&calls[0]["tool"], &calls[0]["outcome"]), (&"echo".into(), &"ok".into()));
    assert_eq!(calls[0]["principal"], "anonymous");
    assert!(!written.contains("\"hi\""), "sec_11: no payload: {written}");
    let counter = "sipmcp_edge_tool_calls_total{agent=\"sip:echo@demo.example\",tool=\"echo\",result=\"ok\"}";
    assert_eq!(edge.metric(counter), 2);
}

/// A UDP user agent of alice.
struct Caller {
    socket: UdpSocket,
}

impl Caller {
    fn new(edge: u16) -> Self {
        let socket = UdpSocket::bind(("127.0.0.1", free_port())).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect(("127.0.0.1", edge)).unwrap();
        Caller { socket }
    }

    fn receive(&self) -> String {
        let mut buffer = vec![0; 65_536];
        let length = self.socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    /// Sends a tool call, answers the challenge, and waits for the 200.
    fn call(&self, id: &str, tool: &str, arguments: &str) {
        let local = self.socket.local_addr().unwrap();
        let text = tool_call(tool, arguments);
        self.socket.send(message("UDP", local, id, 1, "", &text).as_bytes()).unwrap();
        let challenge = self.receive();
        assert_eq!(answered(&challenge, id), 401);
        let value = challenge.lines().find_map(|line| line.strip_prefix("WWW-Authenticate: ")).unwrap();
        let context = digest_auth::AuthContext::new_with_method(
            "alice",
            "wonderland",
            "sip:echo@demo.example",
            None::<&[u8]>,
            digest_auth::HttpMethod::from("MESSAGE"),
        );
        let answer = digest_auth::parse(value).unwrap().respond(&context).unwrap();
        let credentials = format!("Authorization: {}\r\n", answer.to_header_string());
        self.socket.send(message("UDP", local, id, 2, &credentials, &text).as_bytes()).unwrap();
        assert_eq!(answered(&self.receive(), id), 200);
    }
}

#[test]
fn over_udp_a_digest_user_gets_the_answer_and_a_large_one_comes_by_tcp_to_the_same_port() {
    let port = free_port();
    let echo = Echo::start();
    let manifests = Manifests::new().with_domain();
    manifests.write("agent.yaml", &echo.manifest());
    let _edge = Edge::with(manifests.with_edge(&format!(
        "{{name: udp, protocol: UDP, port: {port}, address: 127.0.0.1}}\n{{name: tcp, protocol: TCP, port: {port}, address: 127.0.0.1}}"
    )));
    let caller = Caller::new(port);
    let large = TcpListener::bind(caller.socket.local_addr().unwrap()).unwrap();
    caller.call("small", "echo", r#"{"text":"hi"}"#);
    let answer = caller.receive();
    assert_eq!(body(&answer)["result"]["content"][0]["text"], "hi", "{answer}");
    caller.socket.send(accept(&answer).as_bytes()).unwrap();

    caller.call("large", "big", r#"{"bytes":5000}"#);
    let (mut stream, _) = large.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let answer = read_message(&mut stream);
    assert!(answer.starts_with("MESSAGE sip:"), "{answer}");
    assert_eq!(body(&answer)["result"]["content"][0]["text"].as_str().unwrap().len(), 5000);
    stream.write_all(accept(&answer).as_bytes()).unwrap();
}

#[test]
fn neg_3_a_caller_is_answered_those_of_its_schemas_that_the_manifest_declares() {
    let port = free_port();
    let echo = Echo::start();
    let with = |schemas: &str| echo.manifest().replace("capabilities: {", &format!("capabilities: {{{schemas}"));
    let manifests = Manifests::new().with_domain().with_edge(&udp(port));
    manifests.write("agent.yaml", &with("schemas: [\"urn:acme:invoice:1\", plain], "));
    let edge = Edge::start(&manifests);
    let schemas = |call_id: &str| {
        let accepted =
            fleet::Caller::new(call_id).offer(port, r#"["urn:acme:order:1", "plain", "urn:acme:invoice:1"]"#);
        body(&accepted)["payload"]["schemas"].clone()
    };
    assert_eq!(schemas("both"), serde_json::json!(["plain", "urn:acme:invoice:1"]));
    manifests.write("agent.yaml", &with("schemas: [\"urn:acme:order:1\"], "));
    edge.status_until(|status| status["configVersion"] == 2);
    assert_eq!(schemas("changed"), serde_json::json!(["urn:acme:order:1"]));
    manifests.write("agent.yaml", &echo.manifest());
    edge.status_until(|status| status["configVersion"] == 3);
    assert_eq!(schemas("none"), serde_json::json!([]));
}
