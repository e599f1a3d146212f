//! Edges that speak with each other over mutual TLS.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use edge::counters::Counters;
use edge::driver::ingress::{ShardQueues, Shards, queues};
use edge::identity::EdgeId;
use edge::mesh::tls::{MeshCertificates, MeshTls};
use edge::mesh::{MAX_MESSAGE, Mesh, QUEUE, Refused};
use edge::metrics::{Metrics, Scrape};
use edge_core::input::{ConnId, Input};
use edge_core::lease::Membership;
use edge_core::mesh::MeshMessage;
use rcgen::{ExtendedKeyUsagePurpose, SanType};
use session_store::record::{Owner, PodState};
use sip_proto::time::Mono;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::certificates::{Authority, Pair, uri};
use crate::support::{Edge, Manifests, PATIENCE, free_port};

/// A certificate of an edge in the mesh.
pub fn certificate(authority: &Authority, id: &str) -> Pair {
    authority.issue(
        vec![SanType::DnsName(id.try_into().unwrap())],
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
    )
}

/// The three files of the command line.
pub fn files(folder: &Path, id: &str, pair: &Pair, authority: &Authority) -> [String; 3] {
    let write = |ending: &str, text: &str| {
        let path = folder.join(format!("{id}.{ending}"));
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    [write("crt", &pair.certificate), write("key", &pair.key), write("ca", &authority.pem())]
}

fn tls(authority: &Authority, pair: &Pair, id: &str) -> Result<MeshTls, String> {
    let folder = tempfile::tempdir().unwrap();
    let [certificate, key, ca] = files(folder.path(), id, pair, authority);
    MeshCertificates::new(&edge_id(id), certificate.as_ref(), key.as_ref(), ca.as_ref()).load()
}

fn edge_id(id: &str) -> EdgeId {
    EdgeId::new(id).unwrap()
}

/// One edge of one shard, as far as the mesh goes.
struct Peer {
    mesh: Mesh,
    queues: ShardQueues,
    metrics: Arc<Metrics>,
    address: SocketAddr,
    server: tokio::task::JoinHandle<()>,
}

impl Peer {
    /// An edge that says it is `id` and shows the certificate of `named`.
    async fn start(authority: &Authority, id: &str, named: &str) -> Peer {
        Peer::with(authority, id, named, &certificate(authority, named)).await
    }

    /// A pod of a SipEdge, as an operator certifies it.
    async fn of_fleet(authority: &Authority, id: &str, fleet: &str) -> Peer {
        let names = [format!("urn:sipmcp:edge:{id}"), format!("urn:sipmcp:sipedge:{fleet}")];
        let usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        Peer::with(authority, id, id, &authority.issue(names.iter().map(|name| uri(name)).collect(), usages)).await
    }

    async fn with(authority: &Authority, id: &str, named: &str, pair: &Pair) -> Peer {
        let tls = tls(authority, pair, named).unwrap();
        let (handle, queues) = queues();
        let metrics = Arc::<Metrics>::default();
        let shards = Shards::new(vec![handle], Arc::<Counters>::default());
        let mesh = Mesh::new(edge_id(id), Some(tls), Handle::current(), shards, metrics.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn({
            let mesh = mesh.clone();
            async move { mesh.serve(listener).await }
        });
        Peer { mesh, queues, metrics, address, server }
    }

    /// The next message, and who sent it.
    async fn next(&mut self) -> (u64, MeshMessage) {
        match timeout(PATIENCE, self.queues.wire.recv()).await.expect("a message").unwrap().input {
            Input::Mesh { from, message } => (from, message),
            other => panic!("{other:?}"),
        }
    }

    async fn failed(&mut self) -> (u64, u64) {
        match timeout(PATIENCE, self.queues.replies.recv()).await.expect("a failure").unwrap() {
            Input::MeshFailed { to, tag } => (to, tag),
            other => panic!("{other:?}"),
        }
    }

    fn says(&self, line: &str) -> bool {
        self.metrics.text(Scrape::default()).lines().any(|l| l == line)
    }
}

fn members(pods: &[(&str, SocketAddr)]) -> Membership {
    let pods = pods.iter().map(|(id, address)| PodState {
        owner: Owner { pod: edge_id(id).pod(), epoch: 1, boot: 1 },
        address: address.to_string(),
        lease_left_ms: 5000,
        draining: false,
    });
    Membership {
        owner: Owner::default(),
        valid_until: Mono(u64::MAX),
        renewed_at: Mono(0),
        pods: pods.collect(),
        generation: [0; 16],
    }
}

fn send(tag: u64, octets: usize) -> MeshMessage {
    MeshMessage::Send {
        boot: 3,
        conn: ConnId(4),
        bytes: Bytes::from(vec![b'x'; octets]),
        tag: Some(tag),
        call_id: format!("call-{}", tag % 7),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_arrive_in_their_order_with_the_name_of_who_sent_them() {
    let authority = Authority::new();
    let (mut a, mut b) = (Peer::start(&authority, "a", "a").await, Peer::start(&authority, "b", "b").await);
    let all = members(&[("a", a.address), ("b", b.address)]);
    a.mesh.membership(&all);
    b.mesh.membership(&all);
    let (pod_a, pod_b) = (edge_id("a").pod(), edge_id("b").pod());
    for tag in 0..600 {
        a.mesh.send(pod_b, send(tag, 700), 0).unwrap();
    }
    for tag in 0..600 {
        assert_eq!(b.next().await, (pod_a, send(tag, 700)));
    }
    // And back, with the longest that is carried.
    b.mesh.send(pod_a, send(1, MAX_MESSAGE - 100), 0).unwrap();
    assert_eq!(a.next().await, (pod_b, send(1, MAX_MESSAGE - 100)));
    assert_eq!(b.mesh.send(pod_a, send(1, MAX_MESSAGE), 0), Err(Refused::TooLong));
    assert_eq!(b.mesh.send(77, send(1, 1), 0), Err(Refused::UnknownPeer));
    assert!(b.says(r#"sipmcp_edge_mesh_messages_total{direction="in",kind="send",result="taken"} 600"#));
    assert!(a.queues.replies.try_recv().is_err(), "nothing failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_whose_certificate_names_another_edge_is_refused_in_both_directions() {
    let authority = Authority::new();
    let mut a = Peer::start(&authority, "a", "a").await;
    let (pod_a, pod_b) = (edge_id("a").pod(), edge_id("b").pod());
    // Who says it is b and shows the certificate of c.
    let mut liar = Peer::start(&authority, "b", "c").await;
    let all = members(&[("a", a.address), ("b", liar.address)]);
    a.mesh.membership(&all);
    liar.mesh.membership(&all);
    a.mesh.send(pod_b, send(1, 10), 0).unwrap();
    assert_eq!(a.failed().await, (pod_b, 1), "the address of b leads to c");
    liar.mesh.send(pod_a, send(2, 10), 0).unwrap();
    assert_eq!(liar.failed().await, (pod_a, 2), "c says it is b");
    // Whose certificate is of another authority.
    let mut stranger = Peer::start(&Authority::new(), "b", "b").await;
    stranger.mesh.membership(&all);
    stranger.mesh.send(pod_a, send(3, 10), 0).unwrap();
    assert_eq!(stranger.failed().await, (pod_a, 3));
    for peer in [&mut a, &mut liar, &mut stranger] {
        assert!(peer.queues.wire.try_recv().is_err(), "nothing arrived");
    }
    // Counted when the server has seen the end, which may be a moment after the client.
    let counted = async {
        while !a.says(r#"sipmcp_edge_mesh_messages_total{direction="in",kind="connection",result="refused"} 2"#) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, counted).await.expect("both refusals are counted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_of_another_sip_edge_is_refused_though_one_authority_certifies_both() {
    let authority = Authority::new();
    let mut a = Peer::of_fleet(&authority, "a", "acme/red").await;
    let pod_a = edge_id("a").pod();
    let same = Peer::of_fleet(&authority, "b", "acme/red").await;
    let mut other = Peer::of_fleet(&authority, "c", "acme/blue").await;
    let mut none = Peer::start(&authority, "d", "d").await;
    let all = members(&[("a", a.address), ("b", same.address), ("c", other.address), ("d", none.address)]);
    for peer in [&a, &same, &other, &none] {
        peer.mesh.membership(&all);
    }
    for stranger in [&mut other, &mut none] {
        stranger.mesh.send(pod_a, send(2, 10), 0).unwrap();
        assert_eq!(stranger.failed().await, (pod_a, 2));
    }
    // Nor is one reached.
    for (tag, stranger) in [(3, "c"), (4, "d")] {
        let pod = edge_id(stranger).pod();
        a.mesh.send(pod, send(tag, 10), 0).unwrap();
        assert_eq!(a.failed().await, (pod, tag));
    }
    same.mesh.send(pod_a, send(1, 10), 0).unwrap();
    assert_eq!(a.next().await, (edge_id("b").pod(), send(1, 10)));
    assert!(a.queues.wire.try_recv().is_err() && other.queues.wire.try_recv().is_err(), "nothing else arrived");
}

#[test]
fn an_edge_does_not_start_with_a_certificate_that_the_others_would_refuse() {
    let (authority, other) = (Authority::new(), Authority::new());
    let pair = certificate(&authority, "a");
    let foreign = tls(&authority, &pair, "b").unwrap_err();
    assert!(
        foreign.contains("does not name this edge; it needs the dNSName b or the URI urn:sipmcp:edge:b"),
        "{foreign}"
    );
    let unknown = tls(&other, &pair, "a").unwrap_err();
    assert!(unknown.contains("no configured certificate authority issued it"), "{unknown}");
    let mixed = Pair { certificate: pair.certificate, key: certificate(&authority, "a").key };
    assert!(tls(&authority, &mixed, "a").unwrap_err().contains("--mesh-key is not the key of the first certificate"));
    // The same by the program.
    let manifests =
        Manifests::new().with_domain().with_edge(&format!("{{name: udp, protocol: UDP, port: {}}}", free_port()));
    let [certificate, key, ca] = files(manifests.path(), "a", &certificate(&authority, "a"), &authority);
    let start = |more: &[&str]| {
        let files = ["--mesh-cert", &certificate, "--mesh-key", &key, "--mesh-ca", &ca, "--edge-id", "b"];
        Edge::spawn(&manifests, &[&files[..], more].concat()).wait()
    };
    let (status, said) = start(&["--mesh-listen", "127.0.0.1:0"]);
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("does not name this edge"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_silent_gets_no_more_than_its_queue_and_every_message_fails() {
    let authority = Authority::new();
    let mut a = Peer::start(&authority, "a", "a").await;
    // Takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pod = edge_id("b").pod();
    a.mesh.membership(&members(&[("b", silent.local_addr().unwrap())]));
    let mut queued = 0;
    let refused = loop {
        match a.mesh.send(pod, send(queued, 10), 0) {
            Ok(()) => queued += 1,
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused, Refused::Full);
    // One is in the hands of the task.
    assert!((QUEUE as u64..=QUEUE as u64 + 1).contains(&queued), "{queued}");
    for tag in 0..queued {
        assert_eq!(a.failed().await, (pod, tag));
    }
    // Nobody there at all.
    drop(silent);
    tokio::time::sleep(Duration::from_millis(300)).await;
    a.mesh.send(pod, send(9000, 10), 0).unwrap();
    assert_eq!(a.failed().await, (pod, 9000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_that_comes_back_elsewhere_is_found_again_and_new_certificates_are_used() {
    let authority = Authority::new();
    let a = Peer::start(&authority, "a", "a").await;
    let mut b = Peer::start(&authority, "b", "b").await;
    let pod = edge_id("b").pod();
    a.mesh.membership(&members(&[("b", b.address)]));
    a.mesh.send(pod, send(1, 10), 0).unwrap();
    assert_eq!(b.next().await.1, send(1, 10));
    b.server.abort();
    drop(b);
    // All certificates are renewed, by another authority.
    let authority = Authority::new();
    a.mesh.replace_tls(tls(&authority, &certificate(&authority, "a"), "a").unwrap());
    let mut b = Peer::start(&authority, "b", "b").await;
    a.mesh.membership(&members(&[("b", b.address)]));
    // The old connection may break under the first ones.
    let mut tag = 2;
    let arrived = loop {
        a.mesh.send(pod, send(tag, 10), 0).unwrap();
        if let Ok(Some(arrived)) = timeout(Duration::from_millis(500), b.queues.wire.recv()).await {
            break arrived;
        }
        tag += 1;
        assert!(tag < 60, "it is never found");
    };
    assert!(matches!(arrived.input, Input::Mesh { .. }));
}
