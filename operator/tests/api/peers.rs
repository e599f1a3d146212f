//! Two replicas of an operator and edges at either of them, over TLS on loopback.

use std::sync::Arc;
use std::time::Duration;

use crds::manifest::Loaded;
use edge::control::Event;
use edge::control::enrol::enrol;
use edge_api::control::edge_control_client::EdgeControlClient;
use edge_api::control::{DrainState, FromEdge, WhyQuery, query};
use operator::authority::{Authority, unix_now};
use operator::board::State;
use operator::identity::Identity;
use operator::key::{Key, Kind};
use operator::peers::contract::operator_peer_client::OperatorPeerClient;
use operator::peers::contract::{EdgeState, FromReplica, ToReplica, Told, from_replica};
use operator::peers::reach::Way;
use operator::plan::fleet::{Attachment, DrainOrder, unknown};
use operator::queries::Asks;
use operator::serve::streams::AskError;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_rustls::rustls::sign::CertifiedKey;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};

use crate::harness::{Edge, Files, GOOD, NAME, PATIENCE, Places, Replica, agent, authority, edge_key, objects};

/// Replicas that know the same; the first one holds the Lease.
async fn replicas(authority: &Arc<Authority>, names: &[&str]) -> Vec<Replica> {
    let places = Arc::<Places>::default();
    let mut replicas = Vec::new();
    for name in names {
        let replica = Replica::start_among(authority, name, "127.0.0.1:0".parse().unwrap(), &places).await;
        replica.reset(objects(&[("a", 1)]));
        replicas.push(replica);
    }
    replicas.iter().for_each(|replica| replica.follows(&replicas[0]));
    replicas
}

async fn attach(replica: &Replica, files: &Files, pod: &str) -> Edge {
    let mut settings = files.settings(replica.address, pod);
    settings.token = files.path(&format!("token of {pod}"));
    std::fs::write(&settings.token, format!("{GOOD} of {pod}")).unwrap();
    let mut edge = Edge::start(settings);
    edge.until("an agent", |loaded| loaded.objects.agents.len() == 1).await;
    edge
}

fn e0() -> Identity {
    Identity { edge: edge_key(), pod: "e-0".into() }
}

fn known<'a>(state: &'a State, pod: &str) -> Option<&'a operator::plan::fleet::Edge> {
    state.fleets.get(&edge_key())?.edges.get(pod)
}

fn is_second(loaded: &Loaded) -> bool {
    loaded.objects.agents.values().all(|agent| agent.object.metadata.generation == Some(2))
}

/// Waits until a replica knows that this edge has everything, at this replica.
async fn programmed(at: &Replica, pod: &str, attached_to: Option<&str>) {
    at.until("programmed", |state| {
        let edge = known(state, pod)?;
        let replica = edge.attachment.replica().map(|replica| &**replica);
        (edge.session.is_programmed() && replica == attached_to).then_some(())
    })
    .await;
}

#[tokio::test]
async fn n7_the_holder_knows_what_an_edge_at_another_replica_has_and_reports() {
    let authority = authority();
    let replicas = replicas(&authority, &["a", "b"]).await;
    let [a, b] = &replicas[..] else { unreachable!() };
    let files = Files::new(&authority, GOOD);
    let mut edge = attach(b, &files, "e-0").await;
    programmed(b, "e-0", None).await;
    programmed(a, "e-0", Some("system/b")).await;
    assert_eq!(a.board.quietly(|state| unknown(&state.fleets)), 0);
    // A new generation: at the holder it counts as programmed when the edge said so, at its replica.
    let new = |state: &mut State| {
        let verdict = known(state, "e-0")?.session.verdict(&Key::of(Kind::McpAgent, "acme", "a"))?;
        (&*verdict.version == "uid-a/2").then_some(())
    };
    a.apply(agent("a", 2));
    a.until("it is not programmed any more", |state| (!known(state, "e-0")?.session.is_programmed()).then_some(()))
        .await;
    b.apply(agent("a", 2));
    edge.until("the second generation", is_second).await;
    a.until("its word", new).await;
    programmed(a, "e-0", Some("system/b")).await;
    // What it reports, too.
    let drains = |wanted: DrainState| {
        move |state: &mut State| (known(state, "e-0")?.drain.as_ref()?.state() == wanted).then_some(())
    };
    a.until("it serves", drains(DrainState::None)).await;
    edge.status.drain();
    a.until("it drains", drains(DrainState::Draining)).await;
    // It goes.
    drop(edge);
    a.until("it is gone", |state| known(state, "e-0").is_none().then_some(())).await;
}

#[tokio::test]
async fn an_order_to_drain_reaches_an_edge_wherever_it_is_attached() {
    let authority = authority();
    let replicas = replicas(&authority, &["a", "b"]).await;
    let [a, b] = &replicas[..] else { unreachable!() };
    let files = Files::new(&authority, GOOD);
    let mut edge = attach(b, &files, "e-0").await;
    programmed(a, "e-0", Some("system/b")).await;
    a.board.change(|state| {
        let fleet = state.fleets.get_mut(&edge_key()).unwrap();
        fleet.drains.insert("e-0".into(), DrainOrder { deadline_s: 60, reason: "ordered by alice".into() });
        fleet.by_hand.insert("e-0".into(), "uid-e-0".into());
    });
    let ordered = loop {
        if let Event::Drain(drain) = edge.next().await {
            break drain;
        }
    };
    assert_eq!((ordered.deadline_s, &*ordered.reason, ordered.cancel), (60, "ordered by alice", false));
    // The order outlives the holder: whoever follows knows it, and whose it was.
    let by_hand = b.board.quietly(|state| state.fleets[&edge_key()].by_hand.get("e-0").cloned());
    assert_eq!(by_hand.as_deref(), Some("uid-e-0"));
    a.board.change(|state| {
        let fleet = state.fleets.get_mut(&edge_key()).unwrap();
        fleet.drains.clear();
        fleet.by_hand.clear();
    });
    while !matches!(edge.next().await, Event::Drain(drain) if drain.cancel) {}
    assert!(b.board.quietly(|state| state.fleets[&edge_key()].by_hand.is_empty()));
}

#[tokio::test]
async fn a_question_at_the_holder_is_answered_by_an_edge_of_another_replica() {
    let authority = authority();
    let replicas = replicas(&authority, &["a", "b"]).await;
    let [a, b] = &replicas[..] else { unreachable!() };
    let files = Files::new(&authority, GOOD);
    let why = || query::What::Why(WhyQuery { caller: "sip:alice@d.example".into(), ..WhyQuery::default() });
    assert_eq!(a.board.ask(&e0(), why()).await, Err(AskError::NotHere));
    let edge = attach(b, &files, "e-0").await;
    programmed(a, "e-0", Some("system/b")).await;
    // Nothing runs on it yet, and it says so.
    assert_eq!(a.board.ask(&e0(), why()).await, Err(AskError::Refused("this edge starts".into())));
    // Gone from its replica, and the holder has not heard of it yet: it is said there.
    b.board.streams().close();
    drop(edge);
    assert_eq!(a.board.ask(&e0(), why()).await, Err(AskError::NotHere));
}

#[tokio::test]
async fn n7_the_holder_dies_and_its_follower_has_every_edge_whose_streams_went_on() {
    let authority = authority();
    let mut replicas = replicas(&authority, &["a", "b", "c"]).await;
    let files = Files::new(&authority, GOOD);
    let mut first = attach(&replicas[1], &files, "e-0").await;
    let _second = attach(&replicas[2], &files, "e-1").await;
    programmed(&replicas[0], "e-0", Some("system/b")).await;
    programmed(&replicas[0], "e-1", Some("system/c")).await;
    let attachment = |replica: &Replica, pod: &str| {
        replica.board.quietly(|state| known(state, pod).map(|edge| edge.attachment.clone()))
    };
    let before = (attachment(&replicas[1], "e-0"), attachment(&replicas[2], "e-1"));
    assert!(matches!(before, (Some(Attachment::Here { .. }), Some(Attachment::Here { .. }))));
    drop(replicas.remove(0));
    // While nobody holds the Lease edges are told what is new.
    replicas.iter().for_each(|replica| replica.apply(agent("a", 2)));
    first.until("the second generation", is_second).await;
    let [b, c] = &replicas[..] else { unreachable!() };
    b.follows(b);
    c.follows(b);
    b.until("the edge of the third replica", |state| known(state, "e-1").map(drop)).await;
    assert_eq!(b.board.quietly(|state| unknown(&state.fleets)), 0);
    assert_eq!((attachment(b, "e-0"), attachment(c, "e-1")), before, "no stream of an edge broke");
    assert_eq!(attachment(b, "e-1").and_then(|of| of.replica().cloned()).as_deref(), Some("system/c"));
}

#[tokio::test]
async fn a_replica_that_dies_takes_its_edges_with_it_after_a_moment_and_they_come_to_another_one() {
    let authority = authority();
    let mut replicas = replicas(&authority, &["a", "b"]).await;
    let files = Files::new(&authority, GOOD);
    let edge = attach(&replicas[1], &files, "e-0").await;
    let a = replicas.remove(0);
    programmed(&a, "e-0", Some("system/b")).await;
    drop(replicas);
    drop(edge);
    a.until("it is gone", |state| known(state, "e-0").is_none().then_some(())).await;
    // It is known by its stream here, also while another replica believes that it has one.
    let _edge = attach(&a, &files, "e-0").await;
    programmed(&a, "e-0", None).await;
}

#[tokio::test]
async fn an_edge_that_goes_over_counts_where_it_came_last() {
    let authority = authority();
    let replicas = replicas(&authority, &["a", "b", "c"]).await;
    let [a, b, c] = &replicas[..] else { unreachable!() };
    let files = Files::new(&authority, GOOD);
    let _first = attach(b, &files, "e-0").await;
    programmed(a, "e-0", Some("system/b")).await;
    // Its stream to b ends without a word, which b has not noticed.
    let second = attach(a, &files, "e-0").await;
    programmed(a, "e-0", None).await;
    let third = attach(c, &files, "e-0").await;
    programmed(a, "e-0", Some("system/c")).await;
    assert_eq!(a.board.quietly(|state| state.fleets[&edge_key()].edges.len()), 1);
    drop(third);
    programmed(a, "e-0", None).await;
    drop(second);
    programmed(a, "e-0", Some("system/b")).await;
}

/// A stream to a replica that says what the test wants.
struct Raw {
    out: mpsc::Sender<FromReplica>,
    messages: Streaming<ToReplica>,
}

impl Raw {
    async fn channel(authority: &Authority, to: &Replica, key: Option<CertifiedKey>) -> Result<Channel, String> {
        let config = authority.client(key, b"h2").unwrap();
        let way = Way { address: to.address, name: NAME.to_owned(), config };
        let endpoint = Endpoint::from_static("http://operator.invalid");
        endpoint.connect_with_connector(way).await.map_err(|error| error.to_string())
    }

    async fn mirror(authority: &Authority, to: &Replica, key: Option<CertifiedKey>) -> Result<Raw, Status> {
        let channel = Raw::channel(authority, to, key).await.map_err(Status::unavailable)?;
        let (out, messages) = mpsc::channel(8);
        let messages =
            futures_util::stream::unfold(
                messages,
                |mut rest| async move { rest.recv().await.map(|next| (next, rest)) },
            );
        let messages = OperatorPeerClient::new(channel).mirror(Request::new(messages)).await?.into_inner();
        Ok(Raw { out, messages })
    }

    async fn say(&self, message: from_replica::Message) {
        self.out.send(FromReplica { message: Some(message) }).await.unwrap();
    }

    async fn end(mut self) -> Code {
        loop {
            match timeout(PATIENCE, self.messages.message()).await.expect("an answer in time") {
                Ok(Some(_)) => {}
                Ok(None) => return Code::Ok,
                Err(status) => return status.code(),
            }
        }
    }
}

#[tokio::test]
async fn sec_6_no_edge_is_taken_for_a_replica_and_no_replica_for_an_edge() {
    let authority = authority();
    let replicas = replicas(&authority, &["a", "b"]).await;
    let [a, b] = &replicas[..] else { unreachable!() };
    let files = Files::new(&authority, &format!("{GOOD} of e-0"));
    let replica = || authority.certify_replica("system/z", unix_now()).unwrap();
    let refused = |result: Result<Raw, Status>| result.map(|_| ()).unwrap_err().code();

    let enrolled = enrol(&files.settings(a.address, "e-0")).await.unwrap();
    let edge = CertifiedKey::clone(&enrolled.key);
    assert_eq!(refused(Raw::mirror(&authority, a, Some(edge)).await), Code::Unauthenticated);
    assert_eq!(refused(Raw::mirror(&authority, a, None).await), Code::Unauthenticated);
    let server = authority.certify(&[NAME.to_owned()], unix_now()).unwrap();
    assert!(Raw::mirror(&authority, a, Some(server)).await.is_err(), "a server's certificate is for servers");
    let foreign = crate::harness::authority();
    let stranger = foreign.certify_replica("system/z", unix_now()).unwrap();
    assert!(Raw::mirror(&authority, a, Some(stranger)).await.is_err(), "of another authority");
    // Whoever does not hold the Lease takes nobody's word.
    assert_eq!(refused(Raw::mirror(&authority, b, Some(replica())).await), Code::FailedPrecondition);
    assert!(Raw::mirror(&authority, a, Some(replica())).await.is_ok());

    let channel = Raw::channel(&authority, a, Some(replica())).await.unwrap();
    let messages = futures_util::stream::pending::<FromEdge>();
    let attached = EdgeControlClient::new(channel).attach(Request::new(messages)).await;
    assert_eq!(attached.map(|_| ()).unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_replica_that_breaks_the_contract_is_dropped_and_one_stream_of_each_counts() {
    let authority = authority();
    let replicas = replicas(&authority, &["a"]).await;
    let [a] = &replicas[..] else { unreachable!() };
    let raw = async || {
        let key = authority.certify_replica("system/z", unix_now()).unwrap();
        Raw::mirror(&authority, a, Some(key)).await.unwrap()
    };
    let first = raw().await;
    first.say(from_replica::Message::Edge(EdgeState::default())).await;
    assert_eq!(first.end().await, Code::FailedPrecondition, "it names no edge");
    let second = raw().await;
    second.say(from_replica::Message::Told(Told {})).await;
    let third = raw().await;
    assert_eq!(second.end().await, Code::Aborted);
    // Nothing is said for a long time.
    a.ahead.store(operator::serve::mirrors::SILENCE_MS, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(third.end().await, Code::DeadlineExceeded);
    // The Lease goes to another one.
    let fourth = raw().await;
    sleep(Duration::from_millis(10)).await;
    a.held.send_replace(false);
    assert_eq!(fourth.end().await, Code::Unavailable);
}
