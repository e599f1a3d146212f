//! Stores: in a file that outlives the process, and what the admin door shows of them.

use std::io::{Read, Write};
use std::net::UdpSocket;
use std::os::unix::net::UnixStream;

use crate::support::{Edge, Manifests, PATIENCE, answered, free_port, request};

/// A SessionStore in a file, and the edge that uses it.
pub fn in_file(manifests: Manifests, port: u16) -> Manifests {
    let path = manifests.path().join("state.redb");
    manifests.write(
        "store.yaml",
        &format!(
            "apiVersion: sipmcp.dev/v1alpha1\nkind: SessionStore\nmetadata: {{name: main}}\nspec:\n  embedded: {{file: {{path: {}}}}}\n",
            path.display()
        ),
    );
    let manifests = manifests.with_edge(&format!("{{name: udp, protocol: UDP, port: {port}, address: 127.0.0.1}}"));
    let edge = std::fs::read_to_string(manifests.path().join("edge.yaml")).unwrap();
    manifests.write("edge.yaml", &(edge + "  sessionStoreRef: {name: main}\n"));
    manifests
}

/// A client on UDP that can answer a digest challenge as alice.
pub struct Alice {
    pub socket: UdpSocket,
    cseq: u32,
}

impl Alice {
    pub fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Alice { socket, cseq: 0 }
    }

    /// Sends to a port and answers what comes back.
    pub fn ask(&self, port: u16, text: &str) -> String {
        self.socket.send_to(text.as_bytes(), ("127.0.0.1", port)).unwrap();
        self.receive()
    }

    pub fn receive(&self) -> String {
        let mut buffer = [0; 65_536];
        let length = self.socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    /// REGISTER with credentials; answers the 200. `more`: further header lines, a Contact for example.
    pub fn register(&mut self, port: u16, call_id: &str, more: &str) -> String {
        self.try_register(port, call_id, more).unwrap_or_else(|refused| panic!("{refused}"))
    }

    /// The same; a refusal is answered, too.
    pub fn try_register(&mut self, port: u16, call_id: &str, more: &str) -> Result<String, String> {
        let local = self.socket.local_addr().unwrap();
        let mut credentials = String::new();
        for _ in 0..2 {
            self.cseq += 1;
            let id = format!("{call_id}{}", self.cseq);
            let text = request("REGISTER", "sip:demo.example", "UDP", local, &id, &(more.to_owned() + &credentials))
                .replace(&format!("Call-ID: {id}"), &format!("Call-ID: {call_id}"))
                .replace("CSeq: 1 ", &format!("CSeq: {} ", self.cseq));
            let answer = self.ask(port, &text);
            match answered(&answer, &id) {
                200 => return Ok(answer),
                401 => credentials = credentials_for(&answer, "REGISTER", "sip:demo.example"),
                _ => return Err(answer),
            }
        }
        Err("the credentials are not accepted".to_owned())
    }
}

/// Of alice.
pub fn credentials_for(challenge: &str, method: &str, uri: &str) -> String {
    let value = challenge.lines().find_map(|line| line.strip_prefix("WWW-Authenticate: ")).expect("a challenge");
    let mut prompt = digest_auth::parse(value).unwrap();
    let context = digest_auth::AuthContext::new_with_method(
        "alice",
        "wonderland",
        uri,
        None::<&[u8]>,
        digest_auth::HttpMethod::from(method),
    );
    format!("Authorization: {}\r\n", prompt.respond(&context).unwrap())
}

#[test]
fn a_registration_outlives_the_process_with_a_store_in_a_file() {
    let port = free_port();
    let manifests = in_file(Manifests::new().with_domain(), port);
    let edge = Edge::start(&manifests);
    assert_eq!(edge.status()["store"]["kind"], "file");
    assert_eq!(edge.status()["store"]["epoch"], 1);
    let mut alice = Alice::new();
    let contact = "<sip:alice@192.0.2.7:5060>";
    let registered = alice.register(port, "first", &format!("Contact: {contact}\r\n"));
    assert!(registered.contains(contact), "{registered}");
    // While it runs nobody else may have the file.
    let (status, said) = Edge::spawn(&manifests, &[]).wait();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("is in use by another process"), "{said}");
    // kill -9.
    drop(edge);
    let edge = Edge::start(&manifests);
    assert_eq!(edge.status()["store"]["epoch"], 2, "a new life");
    let known = alice.register(port, "second", "");
    assert!(known.contains(contact), "{known}");
    let (_, metrics) = edge.get("/metrics");
    assert!(metrics.contains("sipmcp_store_round_trips_total{operation=\"register\"} 1\n"), "{metrics}");
    assert!(metrics.contains("sipmcp_edge_lease_held 1\n") && metrics.contains("sipmcp_edge_pods 1\n"), "{metrics}");
}

#[test]
fn what_a_store_in_memory_holds_ends_with_its_process() {
    let port = free_port();
    let manifests = in_file(Manifests::new().with_domain(), port);
    manifests.write(
        "store.yaml",
        "apiVersion: sipmcp.dev/v1alpha1\nkind: SessionStore\nmetadata: {name: main}\nspec:\n  embedded: {memory: {}}\n",
    );
    let edge = Edge::start(&manifests);
    assert_eq!(edge.status()["store"]["kind"], "memory");
    let mut alice = Alice::new();
    let contact = "<sip:alice@192.0.2.7:5060>";
    alice.register(port, "first", &format!("Contact: {contact}\r\n"));
    assert!(alice.register(port, "second", "").contains(contact));
    drop(edge);
    let _edge = Edge::start(&manifests);
    let known = alice.register(port, "third", "");
    assert!(!known.contains(contact), "{known}");
}

#[test]
fn sec_15_records_are_read_with_the_keys_of_their_domain_only() {
    let port = free_port();
    let manifests = in_file(Manifests::new(), port);
    let domain = crate::support::DOMAIN.replace(
        "  domain: demo.example\n",
        "  domain: demo.example\n  dataProtection: {keySecretRef: {name: state}}\n  durability: Fsync\n",
    );
    manifests.write("domain.yaml", &domain);
    let key = |data: &str| {
        manifests.write(
            "state.yaml",
            &format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: state}}\nstringData: {data}\n"),
        );
    };
    let (old, new) = ("01".repeat(32), "02".repeat(32));
    key(&format!("{{\"1\": \"{old}\"}}"));
    let edge = Edge::start(&manifests);
    let mut alice = Alice::new();
    alice.register(port, "first", "Contact: <sip:alice@192.0.2.7>\r\n");
    drop(edge);
    let file = std::fs::read(manifests.path().join("state.redb.log")).unwrap();
    assert!(!file.windows(9).any(|octets| octets == b"192.0.2.7"), "sealed on the disk");
    // Both keys live: the new one seals from now on.
    key(&format!("{{\"1\": \"{old}\", \"2\": \"{new}\"}}"));
    let edge = Edge::start(&manifests);
    assert!(alice.register(port, "second", "").contains("192.0.2.7"));
    drop(edge);
    // Without the keys nothing can be read, and it is said.
    key(&format!("{{\"3\": \"{}\"}}", "03".repeat(32)));
    let (status, said) = Edge::spawn(&manifests, &[]).wait();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("cannot be read") && said.contains("give the keys that it was sealed with"), "{said}");
}

#[test]
fn obs_4_conversations_are_shown_on_this_machine_only() {
    let port = free_port();
    let manifests = Manifests::new()
        .with_domain()
        .with_edge(&format!("{{name: udp, protocol: UDP, port: {port}, address: 127.0.0.1}}"));
    let local = Edge::start(&manifests);
    let nobodys = "/conversations/6ba7b810-9dad-11d1-80b4-00c04fd430c8";
    assert_eq!(local.get(nobodys), (404, "nothing is stored of such a conversation\n".to_owned()));
    assert_eq!(local.get("/conversations/x").0, 400);
    assert_eq!(local.get(&format!("{nobodys}?domain=other.example")).0, 404);
    drop(local);

    // Everybody reaches this one.
    let mut open = Edge::spawn_without_admin(&manifests, &["--admin", "0.0.0.0:0"]);
    let line = open.wait_for("listening http 0.0.0.0:");
    let port = line.split("0.0.0.0:").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    open.admin = ([127, 0, 0, 1], port).into();
    open.wait_for("ready");
    let (status, why) = open.get(nobodys);
    assert_eq!(status, 403);
    assert!(why.contains("loopback address or a Unix socket only"), "{why}");
    assert_eq!(open.get("/readyz").0, 200);
    drop(open);

    // A Unix socket, left over by a process that was killed.
    let path = manifests.path().join("admin.sock");
    let address = format!("unix:{}", path.display());
    drop({
        let mut first = Edge::spawn_without_admin(&manifests, &["--admin", &address]);
        first.wait_for("ready");
        first
    });
    let mut again = Edge::spawn_without_admin(&manifests, &["--admin", &address]);
    again.wait_for("ready");
    let ask = |text: &str| {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let erase = |more: &str| ask(&format!("DELETE {nobodys} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}\r\n"));
    assert!(erase("").starts_with("HTTP/1.1 404 "), "{}", erase(""));
    assert!(erase("Origin: https://evil.example\r\n").starts_with("HTTP/1.1 403 "));
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}
