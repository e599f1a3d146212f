//! Several real edges on one real Redis: any edge serves any request, and what a dead one left is taken over.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::calls::{Echo, tool_call};
use crate::certificates::{Authority, tls_client};
use crate::mesh::{certificate, files};
use crate::stores::{Alice, credentials_for};
use crate::support::{Edge, Manifests, PATIENCE, answered, free_port, read_message, request};

/// Where the server is, or a name on the path.
const SERVER: &str = "redis-server";

/// A `redis-server` of a test. Killed when dropped.
pub struct Redis {
    child: Child,
    pub port: u16,
    _folder: tempfile::TempDir,
}

impl Redis {
    pub fn start(more: &[&str]) -> Redis {
        Redis::start_on(free_port(), more)
    }

    pub fn start_on(port: u16, more: &[&str]) -> Redis {
        let folder = tempfile::tempdir().unwrap();
        let child = Command::new(SERVER)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--daemonize", "no"])
            .args(["--dir", folder.path().to_str().unwrap()])
            .args(more)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is installed (scripts/install.sh)");
        let redis = Redis { child, port, _folder: folder };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "redis-server does not listen");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        redis
    }

    pub fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap().success());
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn store(port: u16, more: &str) -> String {
    format!(
        "apiVersion: sipmcp.dev/v1alpha1\nkind: SessionStore\nmetadata: {{name: main}}\nspec:\n  \
         redis: {{addresses: [\"127.0.0.1:{port}\"], keyPrefix: \"test:\"{more}}}\n"
    )
}

pub fn keys(token: &[(u8, &str)]) -> String {
    let token: String = token.iter().map(|(kid, octet)| format!("  \"{kid}\": \"{}\"\n", octet.repeat(64))).collect();
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: demo-keys}}\nstringData:\n{token}  naming: \"{}\"\n",
        "0c".repeat(32)
    )
}

/// The manifests of one edge of a fleet.
pub fn member(redis: u16, listeners: &str) -> Manifests {
    let manifests = Manifests::new().with_domain().with_edge(listeners);
    let edge = std::fs::read_to_string(manifests.path().join("edge.yaml")).unwrap();
    manifests.write("edge.yaml", &(edge + "  sessionStoreRef: {name: main}\n"));
    manifests.write("store.yaml", &store(redis, ""));
    manifests.write("keys.yaml", &keys(&[(1, "0a")]));
    manifests
}

pub fn udp(port: u16) -> String {
    format!("{{name: udp, protocol: UDP, port: {port}, address: 127.0.0.1}}")
}

/// An edge with a UDP listener, and its port.
pub struct Member {
    pub edge: Edge,
    pub port: u16,
    pub manifests: Manifests,
}

impl Member {
    pub fn start(redis: &Redis, id: &str, echo: Option<&Echo>) -> Member {
        Member::settling(redis, id, echo, 0)
    }

    /// One that drains for so many seconds at least before it lets go of anything.
    fn settling(redis: &Redis, id: &str, echo: Option<&Echo>, seconds: u32) -> Member {
        let port = free_port();
        let manifests = member(redis.port, &udp(port));
        let edge = std::fs::read_to_string(manifests.path().join("edge.yaml")).unwrap();
        manifests.write("edge.yaml", &edge.replace("settleSeconds: 0", &format!("settleSeconds: {seconds}")));
        if let Some(echo) = echo {
            manifests.write("agent.yaml", &echo.manifest());
        }
        let edge = Edge::start_with(&manifests, &["--edge-id", id]);
        Member { edge, port, manifests }
    }

    /// Waits until it sees so many edges that live.
    pub fn sees(&self, pods: usize) -> serde_json::Value {
        let living = |status: &serde_json::Value| {
            let pods = status["store"]["pods"].as_array().unwrap();
            pods.iter().filter(|pod| pod["leaseLeftMs"].as_u64() > Some(0)).count()
        };
        self.edge.status_until(|status| living(status) == pods)
    }
}

/// A caller on UDP without credentials.
pub struct Caller {
    socket: UdpSocket,
    local: SocketAddr,
    call_id: String,
    to_tag: String,
    cseq: u32,
    invite: String,
}

impl Caller {
    pub fn new(call_id: &str) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let local = socket.local_addr().unwrap();
        Caller { socket, local, call_id: call_id.into(), to_tag: String::new(), cseq: 0, invite: String::new() }
    }

    pub fn send(&self, port: u16, text: &str) {
        self.socket.send_to(text.as_bytes(), ("127.0.0.1", port)).unwrap();
    }

    pub fn receive(&self) -> String {
        let mut buffer = [0; 65_536];
        let length = self.socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    /// The final response to a request; what else arrives in between is given to `other`.
    pub fn final_response(&self, method: &str) -> String {
        loop {
            let message = self.receive();
            let cseq = format!("CSeq: {} {method}", self.cseq);
            if message.starts_with("SIP/2.0 ") && !message.starts_with("SIP/2.0 1") && message.contains(&cseq) {
                return message;
            }
        }
    }

    pub fn text(&mut self, method: &str, more: &str, body: &str) -> String {
        if method != "ACK" {
            self.cseq += 1;
        }
        let Caller { local, call_id, to_tag, cseq, .. } = self;
        let tag = if to_tag.is_empty() { String::new() } else { format!(";tag={to_tag}") };
        format!(
            "{method} sip:echo@demo.example SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch=z9hG4bK{call_id}{cseq}{method};rport\r\n\
             Max-Forwards: 70\r\nFrom: <sip:bob@demo.example>;tag=b\r\nTo: <sip:echo@demo.example>{tag}\r\nCall-ID: {call_id}\r\n\
             CSeq: {cseq} {method}\r\nContact: <sip:bob@{local}>\r\nSupported: mcp, timer\r\nRecv-Info: mcp\r\n\
             Allow: INVITE, ACK, BYE, CANCEL, UPDATE, INFO, MESSAGE\r\n{more}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    pub fn invite(&mut self, port: u16) -> String {
        self.offer(port, "[]")
    }

    /// INVITE with an offer of the tool echo and these schemas, a JSON array; answers the 200.
    pub fn offer(&mut self, port: u16, schemas: &str) -> String {
        let offer = r#"{"mcp_version":"1.0","type":"offer","conversation":"11111111-2222-4333-8444-555555555555","payload":{"role":"caller","tools":["echo@1"],"schemas":SCHEMAS}}"#;
        let offer = offer.replace("SCHEMAS", schemas);
        self.invite = self.text("INVITE", "Content-Type: application/mcp+json\r\n", &offer);
        self.send(port, &self.invite.clone());
        let response = self.final_response("INVITE");
        assert!(response.starts_with("SIP/2.0 200"), "{response}");
        let to = response.lines().find(|line| line.starts_with("To:")).unwrap();
        self.to_tag = to.split("tag=").nth(1).unwrap().to_owned();
        response
    }

    pub fn ack(&mut self, port: u16) {
        let ack = self.text("ACK", "", "");
        self.send(port, &ack);
    }

    /// The INFO with the answer to a tool call.
    pub fn answered_by_info(&self, port: u16) -> String {
        loop {
            let message = self.receive();
            if message.starts_with("INFO ") {
                self.send(port, &accept(&message, ""));
                return message;
            }
        }
    }

    pub fn ask(&mut self, port: u16, method: &str, more: &str, body: &str) -> String {
        let text = self.text(method, more, body);
        self.send(port, &text);
        self.final_response(method)
    }
}

/// 200 to a request of an edge.
fn accept(request: &str, more: &str) -> String {
    let copied = |name: &str| -> String {
        request.lines().filter(|line| line.starts_with(name)).map(|line| format!("{line}\r\n")).collect()
    };
    let to = copied("To:");
    let to = if to.contains("tag=") { to } else { to.replace("\r\n", ";tag=client\r\n") };
    let (via, from, call_id, cseq) = (copied("Via:"), copied("From:"), copied("Call-ID:"), copied("CSeq:"));
    format!("SIP/2.0 200 OK\r\n{via}{from}{to}{call_id}{cseq}{more}Content-Length: 0\r\n\r\n")
}

#[test]
fn reg_2_a_registration_at_one_edge_is_seen_by_the_others_at_once() {
    let redis = Redis::start(&[]);
    let (a, b) = (Member::start(&redis, "edge-0", None), Member::start(&redis, "edge-1", None));
    let status = b.sees(2);
    assert_eq!((&status["store"]["kind"], &status["store"]["breaker"]), (&"redis".into(), &"closed".into()));
    assert_eq!((&status["edgeId"], &status["store"]["leaseHeld"]), (&"edge-1".into(), &true.into()));
    let mut alice = Alice::new();
    let contact = "<sip:alice@192.0.2.7:5060>";
    alice.register(a.port, "register", &format!("Contact: {contact}\r\n"));
    let known = alice.register(b.port, "query", "");
    assert!(known.contains(contact), "{known}");
    // One round trip each; the challenge cost none.
    let (_, metrics) = a.edge.get("/metrics");
    assert!(metrics.contains("sipmcp_store_round_trips_total{operation=\"register\"} 1\n"), "{metrics}");
}

#[test]
fn a_call_that_began_at_one_edge_goes_on_at_another() {
    let redis = Redis::start(&[]);
    let echo = Echo::start();
    let (a, b) = (Member::start(&redis, "edge-0", Some(&echo)), Member::start(&redis, "edge-1", Some(&echo)));
    let mut bob = Caller::new("roams");
    bob.invite(a.port);
    // The ACK at the other edge ends the copies of the 200 as well.
    bob.ack(b.port);
    let info = "Info-Package: mcp\r\nContent-Type: application/mcp+json\r\nContent-Disposition: Info-Package\r\n";
    let answer = bob.ask(b.port, "INFO", info, &tool_call("echo", r#"{"text":"hi"}"#));
    assert!(answer.starts_with("SIP/2.0 200"), "{answer}");
    let result = bob.answered_by_info(b.port);
    assert!(result.contains("\"text\":\"hi\""), "{result}");
    // What the store has of it, by its conversation (OBS-4).
    let path = "/conversations/11111111-2222-4333-8444-555555555555";
    let (status, shown) = a.edge.get(path);
    assert_eq!(status, 200, "{shown}");
    assert!(shown.contains("\"dialog\"") && shown.contains("roams"), "{shown}");
    let ended = bob.ask(b.port, "BYE", "", "");
    assert!(ended.starts_with("SIP/2.0 200"), "{ended}");
}

#[test]
fn what_a_killed_edge_owned_is_taken_over() {
    let redis = Redis::start(&[]);
    let echo = Echo::start();
    let (a, b) = (Member::start(&redis, "edge-0", Some(&echo)), Member::start(&redis, "edge-1", Some(&echo)));
    b.sees(2);
    let mut bob = Caller::new("left");
    let accepted = bob.invite(a.port);
    // kill -9, and its 2xx has no ACK yet.
    drop(a);
    b.sees(1);
    b.edge.counted("sipmcp_edge_adopted_total{kind=\"dialog\"}", 1);
    let copy = bob.final_response("INVITE");
    assert_eq!(copy, accepted, "the stored 2xx, byte for byte");
    bob.ack(b.port);
    let ended = bob.ask(b.port, "BYE", "", "");
    assert!(ended.starts_with("SIP/2.0 200"), "{ended}");
    // Back under its id: another epoch.
    let again = Member::start(&redis, "edge-0", Some(&echo));
    assert_eq!(again.edge.status()["store"]["epoch"], 2);
    assert_eq!(b.edge.status()["store"]["epoch"], 1);
}

#[test]
fn what_is_wrong_with_the_store_ends_the_start_with_one_sentence() {
    let expect = |manifests: &Manifests, text: &str| {
        let (status, said) = Edge::spawn(manifests, &["--edge-id", "edge-0"]).wait();
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(
            said.lines().any(|line| line.starts_with("sipmcp-edge: ") && line.contains(text)),
            "{text:?} in\n{said}"
        );
    };
    // No Redis: a web server.
    let web = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = web.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in web.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut buffer = [0; 512];
            let _ = stream.read(&mut buffer);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        }
    });
    expect(&member(port, &udp(free_port())), "is neither Redis nor Valkey");

    // A password, none given and a wrong one.
    let locked = Redis::start(&["--requirepass", "right"]);
    let manifests = member(locked.port, &udp(free_port()));
    expect(&manifests, "does not accept the user or the password");
    let secret = |password: &str| {
        format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: redis}}\nstringData: {{password: {password}}}\n")
    };
    manifests.write("store.yaml", &store(locked.port, ", authSecretRef: {name: redis}"));
    manifests.write("secret.yaml", &secret("wrong"));
    expect(&manifests, "does not accept the user or the password");
    manifests.write("secret.yaml", &secret("right"));
    drop(Edge::start_with(&manifests, &["--edge-id", "edge-0"]));

    // It would drop live calls.
    let evicting = Redis::start(&["--maxmemory-policy", "allkeys-lru"]);
    expect(&member(evicting.port, &udp(free_port())), "maxmemory-policy is allkeys-lru, it must be noeviction");

    // A class that it cannot give.
    let plain = Redis::start(&[]);
    let manifests = member(plain.port, &udp(free_port()));
    let domain =
        crate::support::DOMAIN.replace("  domain: demo.example\n", "  domain: demo.example\n  durability: Fsync\n");
    manifests.write("domain.yaml", &domain);
    expect(&manifests, "spec.durability: the store cannot give durability class Fsync");

    // No keys, or not all: with the command that makes them.
    let manifests = member(plain.port, &udp(free_port()));
    let refused = |text: &str| {
        let (status, said) = Edge::spawn(&manifests, &["--edge-id", "edge-0"]).wait();
        assert_eq!(status.code(), Some(2), "{said}");
        assert!(said.contains(text) && said.contains("`sipmcp keys --edge demo --namespace default"), "{said}");
    };
    std::fs::remove_file(manifests.path().join("keys.yaml")).unwrap();
    refused("every edge needs the same keys: Secret default/demo-keys is not there");
    let without = keys(&[(1, "0a")]).replace("naming:", "\"2\":").replace(&"0c".repeat(32), &"0c".repeat(64));
    manifests.write("keys.yaml", &without);
    refused("has no key naming");
}

#[test]
fn an_edge_waits_for_its_store_and_is_not_ready_before() {
    let port = free_port();
    let manifests = member(port, &udp(free_port()));
    let mut edge = Edge::spawn(&manifests, &["--edge-id", "edge-0"]);
    let line = edge.wait_for("listening http ");
    edge.admin = line.split("listening http ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    edge.wait_for("cannot be reached");
    assert_eq!(edge.get("/healthz").0, 200);
    let (status, why) = edge.get("/readyz");
    assert_eq!((status, why), (503, format!("starting: waiting for the store (Redis at 127.0.0.1:{port})\n")));
    assert_eq!(edge.status()["state"], "starting");
    let redis = Redis::start_on(port, &[]);
    edge.wait_for("ready");
    assert_eq!(edge.get("/readyz").0, 200);
    // It stops answering for a while: new work is refused meanwhile, and everything goes on by itself.
    redis.signal("-STOP");
    edge.status_until(|status| status["store"]["breaker"] == "open");
    assert!(edge.status()["store"]["reason"].is_string());
    edge.counted("sipmcp_edge_store_breaker_open", 1);
    assert_eq!(edge.get("/readyz").0, 200, "what stands is served");
    redis.signal("-CONT");
    edge.status_until(|status| status["store"]["breaker"] == "closed" && status["store"]["leaseHeld"] == true);
}

#[test]
fn keys_rotate_while_calls_go_on_and_the_key_of_names_stays() {
    let redis = Redis::start(&[]);
    let echo = Echo::start();
    let (a, b) = (Member::start(&redis, "edge-0", Some(&echo)), Member::start(&redis, "edge-1", Some(&echo)));
    let mut bob = Caller::new("old-key");
    bob.invite(a.port);
    bob.ack(a.port);
    // The new key is accepted everywhere before it is used anywhere; then it is used.
    let rotate = |member: &Member, secret: &str| {
        let version = member.edge.status()["configVersion"].as_u64();
        member.manifests.write("keys.yaml", secret);
        member.edge.status_until(|status| status["configVersion"].as_u64() > version);
    };
    let both = keys(&[(1, "0a"), (2, "0b")]);
    for current in ["1", "2"] {
        for member in [&a, &b] {
            rotate(member, &both.replace("  naming:", &format!("  current: \"{current}\"\n  naming:")));
        }
    }
    let mut carol = Caller::new("new-key");
    carol.invite(b.port);
    carol.ack(b.port);
    assert_ne!(bob.to_tag, carol.to_tag);
    for caller in [&mut bob, &mut carol] {
        let ended = caller.ask(a.port, "BYE", "", "");
        assert!(ended.starts_with("SIP/2.0 200"), "{ended}");
    }
    // Another key of names would lose everything: it is refused, and nothing changes.
    rotate(&a, &both.replace(&"0c".repeat(32), &"0d".repeat(32)));
    let status = a.edge.status();
    assert!(status["problems"].to_string().contains("the key of the names in the store must not change"), "{status:#}");
    let mut alice = Alice::new();
    alice.register(a.port, "register", "Contact: <sip:alice@192.0.2.7>\r\n");
    assert!(alice.register(b.port, "query", "").contains("192.0.2.7"));
}

#[test]
fn of_two_edges_with_one_id_one_ends_and_says_why() {
    let redis = Redis::start(&[]);
    let first = Member::start(&redis, "edge-0", None);
    let second = Member::start(&redis, "edge-0", None);
    assert_eq!(second.edge.status()["store"]["epoch"], 2);
    let (status, said) = first.edge.wait();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(
        said.contains("sipmcp-edge: --edge-id edge-0: another process runs as edge")
            && said.contains("needs an id of its own"),
        "{said}"
    );
    second.sees(1);
    assert_eq!(second.edge.get("/readyz").0, 200);
}

#[test]
fn a_call_reaches_an_agent_whose_connection_is_at_another_edge() {
    let redis = Redis::start(&[]);
    let authority = Authority::new();
    let mesh = |manifests: &Manifests, id: &str| {
        let [certificate, key, ca] = files(manifests.path(), id, &certificate(&authority, id), &authority);
        let args = ["--edge-id", id, "--mesh-listen", "127.0.0.1:0", "--mesh-cert", &certificate, "--mesh-key", &key];
        args.into_iter().chain(["--mesh-ca", &ca]).map(str::to_owned).collect::<Vec<_>>()
    };
    let start = |listeners: &str, id: &str| {
        let manifests = member(redis.port, listeners);
        manifests.write("tls.yaml", &authority.server("demo.example").secret("edge-tls"));
        let args = mesh(&manifests, id);
        let edge = Edge::start_with(&manifests, &args.iter().map(String::as_str).collect::<Vec<_>>());
        (edge, manifests)
    };
    let (tls, plain) = (free_port(), free_port());
    let sips = format!(
        "{{name: sips, protocol: TLS, port: {tls}, address: 127.0.0.1, tls: {{certificateRefs: [{{name: edge-tls}}]}}}}"
    );
    let (a, _a) = start(&sips, "edge-0");
    let (b, _b) = start(&udp(plain), "edge-1");
    // Alice is an agent: her capabilities come with her registration.
    let mut alice = tls_client(&authority, tls, None, &[&tokio_rustls::rustls::version::TLS13]);
    let local = alice.sock.local_addr().unwrap();
    let contact = format!(
        "Contact: <sip:alice@{local};transport=tls;ob>;+sip.instance=\"<urn:uuid:00000000-0000-4000-8000-000000000001>\";reg-id=1\r\n\
         Supported: outbound, path, gruu\r\n"
    );
    let mut credentials = String::new();
    for cseq in 1..=2 {
        let text = request(
            "REGISTER",
            "sip:demo.example",
            "TLS",
            local,
            &format!("reg{cseq}"),
            &(contact.clone() + &credentials),
        )
        .replace(&format!("Call-ID: reg{cseq}"), "Call-ID: reg")
        .replace("CSeq: 1 ", &format!("CSeq: {cseq} "));
        alice.write_all(text.as_bytes()).unwrap();
        let answer = read_message(&mut alice);
        match answered(&answer, &format!("reg{cseq}")) {
            401 if cseq == 1 => credentials = credentials_for(&answer, "REGISTER", "sip:demo.example"),
            200 => {}
            _ => panic!("{answer}"),
        }
    }
    // Bob calls her at the other edge.
    let mut bob = Caller::new("bridge");
    let sdp = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n";
    let invite = |bob: &mut Caller, more: &str| {
        let text = bob.text("INVITE", &format!("{more}Content-Type: application/sdp\r\n"), sdp);
        text.replace("sip:echo@", "sip:alice@").replace("sip:bob@demo", "sip:alice@demo")
    };
    let first = invite(&mut bob, "");
    bob.send(plain, &first);
    let challenge = bob.final_response("INVITE");
    assert!(challenge.starts_with("SIP/2.0 401"), "{challenge}");
    let authorization = credentials_for(&challenge, "INVITE", "sip:alice@demo.example");
    let second = invite(&mut bob, &authorization);
    bob.send(plain, &second);
    let asked = loop {
        let message = read_message(&mut alice);
        if message.starts_with("INVITE ") {
            break message;
        }
    };
    assert!(asked.contains("m=audio"), "{asked}");
    let answer = format!("Contact: <sip:alice@{local};transport=tls>\r\nContent-Type: application/sdp\r\n");
    let accepted = accept(&asked, &answer)
        .replace("Content-Length: 0\r\n\r\n", &format!("Content-Length: {}\r\n\r\n{sdp}", sdp.len()));
    alice.write_all(accepted.as_bytes()).unwrap();
    let response = bob.final_response("INVITE");
    assert!(response.starts_with("SIP/2.0 200"), "{response}");
    let (_, metrics) = b.get("/metrics");
    let sent = "sipmcp_edge_mesh_messages_total{direction=\"out\",kind=\"send\",result=\"taken\"} ";
    assert!(metrics.contains(sent), "{metrics}");
    assert!(
        a.get("/metrics").1.contains("direction=\"out\",kind=\"relay\""),
        "the 200 went back to the edge of its transaction"
    );
}

#[test]
fn a_domain_that_comes_while_the_store_is_away_waits_for_its_number() {
    let redis = Redis::start(&[]);
    let a = Member::start(&redis, "edge-0", None);
    redis.signal("-STOP");
    let other = crate::support::DOMAIN.replace("demo.example", "other.example").replace("name: demo", "name: other");
    let other = other.replace("name: everybody", "name: others").replace("[UDP, TCP, WS]", "[UDP]");
    a.manifests.write("other.yaml", &other);
    let status = a.edge.status_until(|status| !status["problems"].as_array().unwrap().is_empty());
    assert!(status["problems"].to_string().contains("waits for its number in the store"), "{status:#}");
    assert_eq!(status["domains"].as_array().unwrap().len(), 1);
    redis.signal("-CONT");
    let status = a.edge.status_until(|status| status["domains"].as_array().unwrap().len() == 2);
    assert_eq!(status["problems"], serde_json::json!([]));
    // Another store under a running process is told and not taken.
    let elsewhere = Redis::start(&[]);
    a.manifests.write("store.yaml", &store(elsewhere.port, ""));
    let status = a.edge.status_until(|status| !status["problems"].as_array().unwrap().is_empty());
    assert!(status["problems"].to_string().contains("restart it"), "{status:#}");
}

#[test]
fn one_of_three_drains_and_the_others_have_its_calls_at_once() {
    let redis = Redis::start(&[]);
    let echo = Echo::start();
    // Long enough for the others to look.
    let all = ["edge-0", "edge-1", "edge-2"].map(|id| Member::settling(&redis, id, Some(&echo), 4));
    all[0].sees(3);
    let mut callers = ["one", "two", "three"].map(Caller::new);
    for caller in &mut callers {
        caller.invite(all[0].port);
        caller.ack(all[1].port);
    }
    let [mut first, second, third] = all;
    first.edge.signal("-TERM");
    second
        .edge
        .status_until(|status| status["store"]["pods"].as_array().unwrap().iter().any(|pod| pod["draining"] == true));
    first.edge.wait_for("drained");
    let (status, said) = first.edge.wait();
    assert_eq!(status.code(), Some(0), "{said}");
    third.sees(2);
    for (caller, port) in callers.iter_mut().zip([second.port, third.port, second.port]) {
        let ended = caller.ask(port, "BYE", "", "");
        assert!(ended.starts_with("SIP/2.0 200"), "handed over, not hung up: {ended}");
    }
}
