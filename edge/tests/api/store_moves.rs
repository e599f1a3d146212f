//! The way to a shared store, and how it changes under a running edge: its address, its password, whom it trusts.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use edge::store::{Opening, Store};
use rcgen::{ExtendedKeyUsagePurpose, SanType};
use session_store::op::StoreOp;
use session_store::seal::{SealKey, SealKeys, Sealer};
use session_store_redis::{Keeps, RedisConfig, Topology};

use crate::certificates::{Authority, Pair};
use crate::fleet::{Redis, member, store, udp};
use crate::stores::Alice;
use crate::support::{Edge, Manifests, PATIENCE, free_port};

/// Another address of a server; counts the connections.
fn forward(to: u16) -> (u16, Arc<AtomicUsize>) {
    forward_after(to, Duration::ZERO)
}

/// The same; what the server says is so long on its way.
fn forward_after(to: u16, delay: Duration) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    let pipe = |mut from: TcpStream, mut into: TcpStream, delay: Duration| {
        std::thread::spawn(move || {
            let mut buffer = [0; 65_536];
            while let Ok(length @ 1..) = from.read(&mut buffer) {
                std::thread::sleep(delay);
                if into.write_all(&buffer[..length]).is_err() {
                    break;
                }
            }
            let _ = into.shutdown(Shutdown::Both);
        });
    };
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            counted.fetch_add(1, Ordering::SeqCst);
            let server = TcpStream::connect(("127.0.0.1", to)).unwrap();
            pipe(client.try_clone().unwrap(), server.try_clone().unwrap(), Duration::ZERO);
            pipe(server, client, delay);
        }
    });
    (port, connections)
}

/// Sends commands to a Redis, one a line, as the user of that password.
fn command(port: u16, password: Option<&str>, line: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let auth = password.map(|password| format!("AUTH {password}\r\n")).unwrap_or_default();
    stream.write_all(format!("{auth}{line}\r\nQUIT\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

fn secret(manifests: &Manifests, password: &str) {
    let text =
        format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: redis}}\nstringData: {{password: {password}}}\n");
    manifests.write("secret.yaml", &text);
}

fn problems(status: &serde_json::Value) -> String {
    status["problems"].to_string()
}

#[test]
fn a_new_password_is_taken_and_a_wrong_one_refused_while_the_old_connections_go_on() {
    let redis = Redis::start(&["--requirepass", "one"]);
    let port = free_port();
    let manifests = member(redis.port, &udp(port));
    manifests.write("store.yaml", &store(redis.port, ", authSecretRef: {name: redis}"));
    secret(&manifests, "one");
    let edge = Edge::start_with(&manifests, &["--edge-id", "edge-0"]);
    let mut alice = Alice::new();
    alice.register(port, "register", "Contact: <sip:alice@192.0.2.7>\r\n");

    secret(&manifests, "wrong");
    let status = edge.status_until(|status| problems(status).contains("does not accept the user or the password"));
    assert!(
        problems(&status).contains("store.yaml") && problems(&status).contains("goes on with the store"),
        "{status:#}"
    );
    assert!(alice.register(port, "query-1", "").contains("192.0.2.7"));

    // The server's password changes, then the Secret.
    assert!(command(redis.port, Some("one"), "CONFIG SET requirepass two").contains("+OK"));
    secret(&manifests, "two");
    edge.status_until(|status| status["problems"].as_array().is_some_and(Vec::is_empty));
    // No connection of before is left, and none can come back with the old one.
    assert!(command(redis.port, Some("two"), "CLIENT KILL TYPE normal SKIPME yes").contains(':'));
    let deadline = std::time::Instant::now() + PATIENCE;
    let known = loop {
        match alice.try_register(port, "query-2", "") {
            Ok(known) => break known,
            Err(refused) => assert!(std::time::Instant::now() < deadline, "{refused}"),
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    };
    assert!(known.contains("192.0.2.7"), "{known}");
    assert_eq!(edge.status()["store"]["epoch"], 1, "the same life");
}

#[test]
fn a_new_address_is_taken_and_one_that_leads_nowhere_refused() {
    let redis = Redis::start(&[]);
    let (elsewhere, connections) = forward(redis.port);
    let port = free_port();
    let manifests = member(redis.port, &udp(port));
    let edge = Edge::start_with(&manifests, &["--edge-id", "edge-0"]);
    let mut alice = Alice::new();
    alice.register(port, "register", "Contact: <sip:alice@192.0.2.7>\r\n");

    manifests.write("store.yaml", &store(free_port(), ""));
    let status = edge.status_until(|status| problems(status).contains("cannot be reached"));
    assert!(problems(&status).contains("goes on with the store"), "{status:#}");
    // Another store, empty or not: edges that read of it at different times would not see each other.
    let others = Redis::start(&[]);
    manifests.write("store.yaml", &store(others.port, ""));
    edge.status_until(|status| problems(status).contains("leads to another store"));
    assert!(alice.register(port, "query-1", "").contains("192.0.2.7"));

    manifests.write("store.yaml", &store(elsewhere, ""));
    let status = edge.status_until(|status| status["problems"].as_array().is_some_and(Vec::is_empty));
    assert_eq!(status["store"]["epoch"], 1, "the same life");
    assert!(connections.load(Ordering::SeqCst) > 0);
    assert!(alice.register(port, "query-2", "").contains("192.0.2.7"));
    // Another prefix is another store.
    manifests.write("store.yaml", &store(elsewhere, "").replace("\"test:\"", "\"other:\""));
    edge.status_until(|status| problems(status).contains("leads to another store"));
    assert!(alice.register(port, "query-3", "").contains("192.0.2.7"));
}

/// A Redis with a TLS port, too; that one, and who vouches for its certificate as `localhost`.
fn over_tls() -> (Redis, u16, Authority) {
    let authority = Authority::new();
    let name = SanType::DnsName("localhost".try_into().unwrap());
    let Pair { certificate, key } = authority.issue(vec![name], vec![ExtendedKeyUsagePurpose::ServerAuth]);
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (ca, certificate, key) =
        (file("ca.pem", &authority.pem()), file("certificate.pem", &certificate), file("key.pem", &key));
    let port = free_port();
    // Its files are read before it listens.
    let redis = Redis::start(&[
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &ca,
        "--tls-auth-clients",
        "no",
    ]);
    (redis, port, authority)
}

fn trust(manifests: &Manifests, authority: &Authority) {
    let pem: String = authority.pem().trim().lines().map(|line| format!("    {line}\n")).collect();
    let map = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: redis-ca}}\ndata:\n  ca.crt: |\n{pem}");
    manifests.write("redis-ca.yaml", &map);
}

#[test]
fn a_store_over_tls_is_trusted_by_its_bundle_alone_and_a_wrong_one_is_one_sentence() {
    let (_redis, tls, authority) = over_tls();
    let stranger = Authority::new();
    let port = free_port();
    let manifests = member(tls, &udp(port));
    let text = store(tls, ", tls: {caBundleRef: {name: redis-ca}}").replace("127.0.0.1", "localhost");
    manifests.write("store.yaml", &text);
    trust(&manifests, &stranger);
    let mut waits = Edge::spawn(&manifests, &["--edge-id", "edge-0"]);
    let said = waits.wait_for("cannot be reached");
    assert!(said.contains(&format!("the store at localhost:{tls} cannot be reached: ")), "{said}");
    assert!(said.contains("certificate") && said.contains("nothing is served before it answers"), "{said}");
    drop(waits);

    trust(&manifests, &authority);
    let edge = Edge::start_with(&manifests, &["--edge-id", "edge-0"]);
    let mut alice = Alice::new();
    alice.register(port, "register", "Contact: <sip:alice@192.0.2.7>\r\n");
    // A wrong bundle is refused while the connections that stand go on.
    trust(&manifests, &stranger);
    let status = edge.status_until(|status| problems(status).contains("cannot be reached"));
    assert!(
        problems(&status).contains("certificate") && problems(&status).contains("goes on with the store"),
        "{status:#}"
    );
    assert!(alice.register(port, "query", "").contains("192.0.2.7"));
    trust(&manifests, &authority);
    edge.status_until(|status| status["problems"].as_array().is_some_and(Vec::is_empty));
}

#[test]
fn how_long_a_shared_store_takes_to_answer_is_measured() {
    const DELAY: Duration = Duration::from_millis(20);
    let redis = Redis::start(&[]);
    let (far, _) = forward_after(redis.port, DELAY);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let open = |opening: Opening| {
        let keys = SealKeys::new(vec![SealKey::new(1, [7; 32].into())]).unwrap();
        runtime.block_on(Store::open(opening, Sealer::new(keys, [9; 32].into()), Arc::default())).unwrap().store
    };
    let at = |port: u16| {
        Opening::Redis(Box::new(RedisConfig::new(Topology::Single { address: format!("127.0.0.1:{port}") }, "test:")))
    };
    let measured = |store: &Store| {
        runtime.block_on(store.execute(StoreOp::TenantNumber { domain: [1; 16] })).unwrap();
        store.latency()
    };
    let (store, slow, own) = (open(at(redis.port)), open(at(far)), open(Opening::Memory));
    assert_eq!(store.latency(), None, "nobody has asked it anything");
    assert!(measured(&store).is_some_and(|us| us > 0));
    assert!(u128::from(measured(&slow).unwrap()) >= DELAY.as_micros());
    assert_eq!(measured(&own), None, "its own memory takes no time");
}

#[test]
fn what_a_shared_store_keeps_is_what_its_settings_say_now() {
    let redis = Redis::start(&[]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let keys = SealKeys::new(vec![SealKey::new(1, [7; 32].into())]).unwrap();
    let sealer = Sealer::new(keys, [9; 32].into());
    let address = format!("127.0.0.1:{}", redis.port);
    let opening = Opening::Redis(Box::new(RedisConfig::new(Topology::Single { address }, "test:")));
    let store = runtime.block_on(Store::open(opening, sealer, Arc::default())).unwrap().store;
    let keeps = || runtime.block_on(store.keeps());
    assert_eq!(keeps(), Some(Keeps::Nothing));
    let set = |what: &str| assert!(command(redis.port, None, &format!("CONFIG SET {what}")).contains("+OK"), "{what}");
    set("save \"60 1\"");
    assert_eq!(keeps(), Some(Keeps::Mostly));
    set("appendonly yes");
    set("appendfsync always");
    assert_eq!(keeps(), Some(Keeps::EveryWrite));
    set("save \"\"");
    set("appendfsync no");
    let without_waiting = [Some(Keeps::Mostly), Some(Keeps::EveryWrite)];
    assert!(
        without_waiting.contains(&keeps()),
        "a file is written, and whether a write can wait is a matter of the version"
    );
    set("appendonly no");
    assert_eq!(keeps(), Some(Keeps::Nothing));
    drop(redis);
    assert_eq!(keeps(), None, "nobody says");
}
