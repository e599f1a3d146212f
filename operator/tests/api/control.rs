//! Enrolment and the control stream, both ends over TLS on loopback.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crds::manifest::{Loaded, ObjectKey, Problem, parse};
use edge::control::Event;
use edge::control::enrol::{attached, enrol};
use edge_api::control::edge_control_client::EdgeControlClient;
use edge_api::control::{
    self, ConfigSource, Delta, DrainState, FromEdge, Hello, Outcome as Said, Result as Item, Results, ToEdge, WhyQuery,
    from_edge, query, to_edge,
};
use operator::authority::Authority;
use operator::identity::Identity;
use operator::index::Object;
use operator::key::{Key, Kind};
use operator::plan::delta::{MAX_OUTSTANDING, Outcome, UNANSWERED_MS};
use operator::plan::fleet::DrainOrder;
use operator::serve::enrol::Refused;
use operator::serve::streams::AskError;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::{Code, Request, Status, Streaming};

use crate::harness::{
    Edge, Files, GOOD, PATIENCE, Replica, agent, agent_json, authority, bearer, changed_in, domain_json, edge_json,
    edge_key, objects, policy_json, secret_json,
};

fn token() -> String {
    format!("{GOOD} of e-0")
}

fn key(kind: Kind, name: &str) -> Key {
    match kind {
        Kind::SipDomain => Key::of(kind, "", name),
        Kind::SipEdge => Key::of(kind, "system", name),
        _ => Key::of(kind, "acme", name),
    }
}

/// Waits until the edge has said yes to everything.
async fn programmed(replica: &Replica, pod: &str) {
    replica
        .until("programmed", |state| {
            state.fleets.get(&edge_key())?.edges.get(pod)?.session.is_programmed().then_some(())
        })
        .await;
}

fn agents(loaded: &Loaded) -> Vec<(String, i64)> {
    let generation = |agent: &crds::v1alpha1::McpAgent| agent.metadata.generation.unwrap_or(0);
    loaded.objects.agents.iter().map(|(key, agent)| (key.name.clone(), generation(&agent.object))).collect()
}

#[tokio::test]
async fn a_good_token_gives_a_certificate_that_names_the_pod_its_edge_and_its_id_in_the_mesh() {
    let authority = authority();
    let replica = Replica::start(&authority).await;
    replica.reset(objects(&[]));
    let files = Files::new(&authority, &token());
    let enrolled = enrol(&files.settings(replica.address, "e-0")).await.unwrap();
    let identity = Identity { edge: edge_key(), pod: "e-0".into() };
    assert_eq!(Identity::of(&enrolled.key.cert[0]), Some(identity.clone()));
    assert!(identity.uris().contains(&"spiffe://sipmcp/system/e-0".to_owned()));
    // What the mesh looks for.
    let id = edge::identity::EdgeId::new("e-0.system").unwrap();
    assert!(id.is_named(&[], &identity.uris()));
    let life = enrolled.ends_at - enrolled.renew_at;
    assert!((Duration::from_secs(11 * 3600)..=Duration::from_secs(12 * 3600)).contains(&life), "{life:?}");
}

#[tokio::test]
async fn a_foreign_an_expired_and_an_unbound_token_give_none() {
    let authority = authority();
    let replica = Replica::start(&authority).await;
    replica.reset(objects(&[]));
    {
        let mut tokens = replica.known.tokens.lock().unwrap();
        // Of a pod that is no edge, of one that is gone, of an edge that is elsewhere; and the API server that is away.
        tokens.insert("stranger".into(), Ok(bearer("web-0")));
        tokens.insert("replaced".into(), Ok(operator::serve::enrol::Bearer { uid: "older".into(), ..bearer("e-0") }));
        tokens.insert(
            "account".into(),
            Ok(operator::serve::enrol::Bearer { account: "default".into(), ..bearer("e-0") }),
        );
        tokens.insert("audience".into(), Err(Refused::Token("the token is for another audience".into())));
        tokens.insert("away".into(), Err(Refused::Unavailable("the token cannot be reviewed".into())));
    }
    for (token, code) in [
        ("expired", "Unauthenticated"),
        ("audience", "Unauthenticated"),
        ("stranger", "PermissionDenied"),
        ("replaced", "PermissionDenied"),
        ("account", "PermissionDenied"),
        ("away", "Unavailable"),
    ] {
        let files = Files::new(&authority, token);
        let why = enrol(&files.settings(replica.address, "e-0")).await.unwrap_err();
        assert!(why.contains(code), "{token}: {why}");
        assert!(!why.contains(GOOD), "{why}");
    }
    // The pod of the token is another one than this edge believes to be.
    let files = Files::new(&authority, &token());
    let why = enrol(&files.settings(replica.address, "e-1")).await.unwrap_err();
    assert!(why.contains("system/e-0"), "{why}");
    // Nobody else is believed to be the operator.
    let other = Files::new(&crate::harness::authority(), &token());
    assert!(enrol(&other.settings(replica.address, "e-0")).await.is_err());
    let mut settings = files.settings(replica.address, "e-0");
    settings.name = "another.system.svc".into();
    assert!(enrol(&settings).await.is_err());
}

#[tokio::test]
async fn what_is_no_request_for_a_certificate_is_refused() {
    let authority = authority();
    let identity = Identity { edge: edge_key(), pod: "e-0".into() };
    assert!(authority.issue(b"no PKCS #10", &identity, 0).is_err());
    let mut forged = rcgen_request();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    assert!(authority.issue(&forged, &identity, 0).is_err(), "not signed with its key");
    assert!(authority.issue(&rcgen_request(), &identity, 0).is_ok());
}

fn rcgen_request() -> Vec<u8> {
    let key = rcgen::KeyPair::generate().unwrap();
    rcgen::CertificateParams::default().serialize_request(&key).unwrap().der().to_vec()
}

/// A stream that says what the test wants.
struct Raw {
    out: mpsc::Sender<FromEdge>,
    messages: Streaming<ToEdge>,
}

impl Raw {
    async fn attach(replica: &Replica, files: &Files, pod: &str) -> Result<Raw, Status> {
        let settings = files.settings(replica.address, pod);
        let enrolled = enrol(&settings).await.unwrap();
        Raw::with(&settings, &enrolled).await
    }

    async fn with(
        settings: &edge::control::Settings,
        enrolled: &edge::control::enrol::Enrolled,
    ) -> Result<Raw, Status> {
        let channel = attached(settings, enrolled).await.map_err(Status::unavailable)?;
        let mut client = EdgeControlClient::new(channel).max_decoding_message_size(8 << 20);
        let (out, messages) = mpsc::channel(64);
        let messages =
            futures_util::stream::unfold(
                messages,
                |mut rest| async move { rest.recv().await.map(|next| (next, rest)) },
            );
        let messages = client.attach(Request::new(messages)).await?.into_inner();
        Ok(Raw { out, messages })
    }

    async fn say(&self, message: from_edge::Message) {
        self.out.send(FromEdge { message: Some(message) }).await.unwrap();
    }

    async fn hello(&self, hello: Hello) {
        self.say(from_edge::Message::Hello(hello)).await;
    }

    async fn next(&mut self) -> Result<Option<to_edge::Message>, Status> {
        let message = timeout(PATIENCE, self.messages.message()).await.expect("an answer in time")?;
        Ok(message.and_then(|message| message.message))
    }

    async fn delta(&mut self) -> Delta {
        match self.next().await.unwrap() {
            Some(to_edge::Message::Delta(delta)) => delta,
            other => panic!("no Delta: {other:?}"),
        }
    }

    /// How the stream ends.
    async fn end(mut self) -> Code {
        loop {
            match self.next().await {
                Ok(Some(_)) => {}
                Ok(None) => return Code::Ok,
                Err(status) => return status.code(),
            }
        }
    }
}

fn hello() -> Hello {
    Hello {
        edge: Some(key(Kind::SipEdge, "e").to_message()),
        edge_id: "system/e-0".into(),
        config_source: ConfigSource::None.into(),
        ..Hello::default()
    }
}

#[tokio::test]
async fn without_the_right_certificate_nobody_attaches_and_nobody_is_another_edge() {
    let authority = authority();
    let replica = Replica::start(&authority).await;
    replica.reset(objects(&[("a", 1)]));
    let files = Files::new(&authority, &token());
    let settings = files.settings(replica.address, "e-0");
    let enrolled = enrol(&settings).await.unwrap();

    // A certificate of a foreign authority, which says the same.
    let foreign = crate::harness::authority();
    let stranger = issued(&foreign, enrolled.trust.clone());
    let refused = Raw::with(&settings, &stranger).await;
    let refused = match refused {
        Err(_) => true,
        Ok(raw) => {
            raw.hello(hello()).await;
            raw.end().await != Code::Ok
        }
    };
    assert!(refused, "a foreign authority");
    // The operator's own certificate is of the right authority and names no edge.
    let server = authority.certify(&["e-0.system".to_owned()], operator::authority::unix_now()).unwrap();
    let nobody = edge::control::enrol::Enrolled {
        key: Arc::new(server),
        trust: enrolled.trust.clone(),
        renew_at: enrolled.renew_at,
        ends_at: enrolled.ends_at,
    };
    let refused = Raw::with(&settings, &nobody).await;
    assert!(refused.is_err(), "a certificate without an edge");

    for wrong in [
        Hello { edge: Some(key(Kind::SipEdge, "other").to_message()), ..hello() },
        Hello { edge: None, ..hello() },
        Hello { edge_id: "system/e-1".into(), ..hello() },
    ] {
        let raw = Raw::with(&settings, &enrolled).await.unwrap();
        raw.hello(wrong).await;
        assert_eq!(raw.end().await, Code::PermissionDenied);
    }
    let raw = Raw::with(&settings, &enrolled).await.unwrap();
    raw.say(from_edge::Message::Results(Results::default())).await;
    assert_eq!(raw.end().await, Code::FailedPrecondition, "Hello comes first");
    assert!(replica.board.quietly(|state| state.fleets.values().all(|fleet| fleet.edges.is_empty())));
}

/// A certificate for e-0 of whichever authority.
fn issued(authority: &Authority, trust: Arc<edge::net::verify::Trust>) -> edge::control::enrol::Enrolled {
    let key = rcgen::KeyPair::generate().unwrap();
    let request = rcgen::CertificateParams::default().serialize_request(&key).unwrap().der().to_vec();
    let identity = Identity { edge: edge_key(), pod: "e-0".into() };
    let chain = authority.issue(&request, &identity, operator::authority::unix_now()).unwrap().chain;
    let key = tokio_rustls::rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let key = tokio_rustls::rustls::sign::CertifiedKey::from_der(chain, key, &operator::authority::provider()).unwrap();
    let end = tokio::time::Instant::now() + Duration::from_secs(3600);
    edge::control::enrol::Enrolled { key: Arc::new(key), trust, renew_at: end, ends_at: end }
}

#[tokio::test]
async fn what_an_operator_gives_is_what_files_would_have_given() {
    let authority = authority();
    let replica = Replica::start(&authority).await;
    replica.reset(objects(&[("a", 1), ("b", 1)]));
    let files = Files::new(&authority, &token());
    let mut edge = Edge::start(files.settings(replica.address, "e-0"));
    let loaded = edge.until("two agents", |loaded| loaded.objects.agents.len() == 2).await;
    assert_eq!(loaded.problems, []);
    programmed(&replica, "e-0").await;

    let texts = [
        edge_json(1),
        domain_json(),
        agent_json("a", 1),
        agent_json("b", 1),
        policy_json("p-a", "a"),
        policy_json("p-b", "b"),
        secret_json(),
    ];
    let read = parse(texts.iter().enumerate().map(|(at, text)| (format!("{at}.yaml"), text.to_string())));
    assert_eq!(read.problems, []);
    let (given, read) = (loaded.objects, read.objects);
    // An edge has no use for who made an object, and when it changed.
    macro_rules! same {
        ($($kind:ident),*) => {$(
            let specs = |objects: &crds::manifest::Snapshot| {
                objects.$kind.iter().map(|(key, object)| (key.clone(), object.spec.clone())).collect::<Vec<_>>()
            };
            assert_eq!(specs(&given), specs(&read));
        )*};
    }
    same!(edges, domains, agents, policies, stores);
    let token = ObjectKey::new("acme", "token");
    assert_eq!(*given.secrets[&token].object, *read.secrets[&token].object);
    assert!(given.secrets.contains_key(&ObjectKey::new("system", "e-keys")));
    assert_eq!(edge.client.tenants(), [("d.example".to_owned(), 7)].into());
    let build = |objects: &crds::manifest::Snapshot| {
        use edge::config_build::{Builder, keys};
        let mut builder = Builder::new(edge_key(), keys::Made::new(&[7; keys::MADE]), false);
        builder.numbered("d.example".into(), 7);
        let built = builder.build(objects).unwrap();
        assert_eq!(built.problems, []);
        format!("{:?} {:?} {:?}", built.config.domains, built.config.agents, built.backends.keys().collect::<Vec<_>>())
    };
    assert_eq!(build(&given), build(&read));

    // One agent changes, one goes: only that is said, and it comes out so.
    replica.apply(agent("a", 2));
    replica.board.change(|state| state.index.delete(&key(Kind::McpAgent, "b"), None));
    let loaded = edge.until("one agent", |loaded| agents(loaded) == [("a".to_owned(), 2)]).await;
    assert!(!loaded.objects.policies.contains_key(&ObjectKey::new("acme", "p-b")));
    programmed(&replica, "e-0").await;
    assert_eq!(edge.client.watch().standing().source, "operator");
}

#[tokio::test]
async fn nothing_is_let_go_of_before_everything_was_said() {
    let authority = authority();
    let files = Files::new(&authority, &token());
    let replica = Replica::start(&authority).await;
    replica.reset(objects(&[("a", 1), ("b", 1)]));
    let address = replica.address;
    let mut edge = Edge::start(files.settings(address, "e-0"));
    edge.until("two agents", |loaded| loaded.objects.agents.len() == 2).await;
    programmed(&replica, "e-0").await;
    replica.stop().await;

    // A replica that has not listed everything yet knows nothing of b, and says of a what is new.
    let replica = Replica::start_at(&authority, address).await;
    let some = objects(&[("a", 2)]);
    replica.board.change(|state| {
        for kind in [Kind::Namespace, Kind::SipEdge, Kind::SipDomain, Kind::McpAgent, Kind::McpCapabilityPolicy] {
            let of_kind = some.iter().filter(|object| object.key().kind == kind).cloned().collect();
            state.index.reset(kind, of_kind).unwrap();
        }
        state.index.number("d.example", 7);
        state.index.numbers_are_known();
        for object in some.iter().filter(|object| object.key().kind == Kind::Secret) {
            state.index.apply(object.clone()).unwrap();
        }
        assert!(!state.index.is_complete());
    });
    let loaded = edge.until("a is new", |loaded| agents(loaded).contains(&("a".to_owned(), 2))).await;
    assert_eq!(agents(&loaded), [("a".to_owned(), 2), ("b".to_owned(), 1)]);
    replica.reset(objects(&[("a", 2)]));
    edge.until("b is gone", |loaded| agents(loaded) == [("a".to_owned(), 2)]).await;
    programmed(&replica, "e-0").await;
}

/// The edge's own half of that: what says otherwise is not believed.
#[test]
fn an_edge_takes_no_removal_before_everything_was_said() {
    use edge::control::held::Held;
    let upsert = |name: &str, version: &str| control::Upsert {
        key: Some(key(Kind::McpAgent, name).to_message()),
        version: version.into(),
        json: agent_json(name, 1).to_string().into(),
        tenant: None,
    };
    let mut held = Held::default();
    let all = Delta { upserts: vec![upsert("a", "u/1"), upsert("b", "u/1")], initial_done: true, ..Delta::default() };
    held.take(all);
    held.begin();
    let removals = vec![key(Kind::McpAgent, "a").to_message(), key(Kind::McpAgent, "b").to_message()];
    held.take(Delta { removals, ..Delta::default() });
    assert_eq!(held.versions().len(), 2);
    // What is given again stays; the other one goes with the end.
    held.take(Delta { upserts: vec![upsert("b", "u/2")], ..Delta::default() });
    held.take(Delta { initial_done: true, ..Delta::default() });
    let left: Vec<String> = held.versions().into_iter().map(|object| object.version).collect();
    assert_eq!(left, ["u/2"]);
}

#[tokio::test]
async fn an_edge_is_told_where_its_service_is_reached_and_when_that_changes() {
    let authority = authority();
    let replica = Replica::start(&authority).await;
    let mut by_service = edge_json(1);
    by_service["spec"]["network"]["advertise"] = serde_json::json!({"from": "ServiceAddress"});
    let mut objects = objects(&[("a", 1)]);
    objects.retain(|object| object.key().kind != Kind::SipEdge);
    objects.push(Object::Edge(serde_json::from_value(by_service).unwrap()));
    replica.reset(objects);
    let files = Files::new(&authority, &token());
    let mut edge = Edge::start(files.settings(replica.address, "e-0"));
    let loaded = edge.until("an edge", |loaded| loaded.objects.edges.len() == 1).await;
    assert_eq!(loaded.objects.reach, None);
    for address in ["10.96.0.9", "192.0.2.9"] {
        replica.service(address);
        edge.until(address, |loaded| loaded.objects.reach.as_deref() == Some(address)).await;
        programmed(&replica, "e-0").await;
    }
}

#[tokio::test]
async fn a_refused_object_has_its_own_result_and_the_others_apply() {
    let authority = authority();
    let replica = Replica::start(&authority).await;
    replica.reset(objects(&[("a", 1), ("b", 1)]));
    let files = Files::new(&authority, &token());
    let mut edge = Edge::start(files.settings(replica.address, "e-0"));
    let loaded = edge.until("two agents", |loaded| loaded.objects.agents.len() == 2).await;
    programmed(&replica, "e-0").await;
    // What was made of b cannot be used: its backend's authority, as the client of backends says it.
    let wrong = Problem {
        file: "McpAgent acme/b".into(),
        line: 0,
        field: "spec.backend.mcpHttp".into(),
        message: "unknown CA".into(),
    };
    edge.client.applied(std::slice::from_ref(&wrong), &[]);
    let verdict = |name: &'static str| {
        move |state: &mut operator::board::State| {
            let session = &state.fleets.get(&edge_key())?.edges.get("e-0")?.session;
            session.verdict(&key(Kind::McpAgent, name)).cloned()
        }
    };
    let rejected = move |state: &mut operator::board::State| {
        verdict("b")(state).filter(|verdict| verdict.outcome == Outcome::Rejected)
    };
    let said = replica.until("b is refused", rejected).await;
    assert_eq!((&*said.field, &*said.message), ("spec.backend.mcpHttp", "unknown CA"));
    let other = replica.until("a", verdict("a")).await;
    assert_eq!(other.outcome, Outcome::Applied);
    // It heals without another version.
    edge.client.applied(&[], &[]);
    programmed(&replica, "e-0").await;
    drop(loaded);

    // An object that cannot be read at all, as an edge of another release would find it: its last good form stays.
    let mut edge = edge;
    let broken = control::Upsert {
        key: Some(key(Kind::McpAgent, "a").to_message()),
        version: "uid-a/2".into(),
        json: r#"{"metadata": {"name": "a", "namespace": "acme"}, "spec": {"address": 7}}"#.into(),
        tenant: None,
    };
    let mut held = edge::control::held::Held::default();
    held.take(Delta { upserts: vec![broken], initial_done: true, ..Delta::default() });
    let judged = held.judge();
    assert_eq!((judged.objects.agents.len(), judged.problems.len()), (0, 1));
    assert!(judged.problems[0].to_string().starts_with("McpAgent acme/a: spec"), "{}", judged.problems[0]);
    let still = edge.client.read();
    assert_eq!(still.objects.agents.len(), 2);
}

/// A policy that an edge cannot read closes the agents that it may be for, in whatever form they were before.
#[test]
fn an_unreadable_policy_closes_its_agents() {
    use edge::control::held::Held;
    let upsert = |kind, name: &str, json: String| control::Upsert {
        key: Some(key(kind, name).to_message()),
        version: "u/1".into(),
        json: json.into(),
        tenant: Some(7),
    };
    let mut held = Held::default();
    let mut good = vec![
        upsert(Kind::SipEdge, "e", edge_json(1).to_string()),
        upsert(Kind::SipDomain, "d", domain_json().to_string()),
        upsert(Kind::McpAgent, "a", agent_json("a", 1).to_string()),
    ];
    let secret = serde_json::json!({"metadata": {"name": "token", "namespace": "acme"}, "data": {"token": "czNjcmV0"}});
    good.push(upsert(Kind::Secret, "token", secret.to_string()));
    held.take(Delta { upserts: good, initial_done: true, ..Delta::default() });
    assert_eq!(held.judge().objects.agents.len(), 1);
    let metadata = serde_json::json!({"metadata": {"name": "p", "namespace": "acme"}, "spec": 1});
    held.take(Delta {
        upserts: vec![upsert(Kind::McpCapabilityPolicy, "p", metadata.to_string())],
        ..Delta::default()
    });
    let judged = held.judge();
    assert_eq!((judged.objects.agents.len(), judged.refused.len(), judged.problems.len()), (0, 1, 2));
}

/// The same where the agent has another fault as well, for which its last good form would stand.
#[tokio::test]
async fn sec_6_agents_without_their_secret_are_let_go_of_and_an_unreadable_policy_keeps_one_closed() {
    let authority = authority();
    let replica = Replica::start(&authority).await;
    replica.reset(objects(&[("a", 1), ("b", 1)]));
    let files = Files::new(&authority, &token());
    let mut edge = Edge::start(files.settings(replica.address, "e-0"));
    edge.until("two agents", |loaded| loaded.objects.agents.len() == 2).await;

    // Both agents name a Secret that is gone; of one the policy cannot be used either.
    let mut policy = policy_json("p-a", "a");
    policy["metadata"]["generation"] = 2.into();
    policy["spec"]["rules"][0]["from"][0] = serde_json::json!({});
    let mut objects = objects(&[("a", 1), ("b", 1)]);
    let secret = Key::of(Kind::Secret, "acme", "token");
    let at = objects.iter().position(|object| object.key() == secret).unwrap();
    let secret = objects.remove(at);
    objects.retain(|object| object.key() != Key::of(Kind::McpCapabilityPolicy, "acme", "p-a"));
    objects.push(Object::Policy(serde_json::from_value(policy).unwrap()));
    replica.reset(objects);
    edge.until("no agent is left", |loaded| loaded.objects.agents.is_empty()).await;

    replica.apply(secret);
    let loaded = edge.until("one is whole again", |loaded| !loaded.objects.agents.is_empty()).await;
    assert_eq!(agents(&loaded), [("b".to_owned(), 1)], "{:?}", loaded.problems);
}

#[tokio::test]
async fn reg_9_an_edge_is_told_where_the_service_of_a_backend_is_ready() {
    let authority = authority();
    let replica = Replica::start(&authority).await;
    let mut by_service = agent_json("a", 1);
    by_service["spec"]["backend"] = serde_json::json!({"mcpHttp": {"serviceRef": {"name": "billing", "port": 80}}});
    let ready = |addresses: &[&str]| {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Object::Endpoints(ObjectKey::new("acme", "billing"), [(80, addresses)].into())
    };
    let mut objects = objects(&[]);
    objects.push(Object::Agent(serde_json::from_value(by_service).unwrap()));
    objects.push(ready(&["10.0.0.1:8080"]));
    replica.reset(objects);
    let files = Files::new(&authority, &token());
    let mut edge = Edge::start(files.settings(replica.address, "e-0"));
    let loaded = edge.until("an agent", |loaded| loaded.objects.agents.len() == 1).await;
    assert_eq!(loaded.problems, []);
    let route = |edge: &Edge| edge::control::endpoints::routes(&loaded.objects, &edge.client.endpoints());
    let to = |address: &str| [("acme/a".to_owned(), vec![address.parse().unwrap()])].into();
    assert_eq!(route(&edge), to("10.0.0.1:8080"));
    replica.apply(ready(&["[fd00::2]:8080"]));
    while route(&edge) != to("[fd00::2]:8080") {
        edge.next().await;
        edge.client.read();
        edge.client.applied(&[], &[]);
    }
    // Nothing is ready, which is no reason to look for it elsewhere.
    replica.apply(ready(&[]));
    while route(&edge) != [("acme/a".to_owned(), Vec::new())].into() {
        edge.next().await;
        edge.client.read();
        edge.client.applied(&[], &[]);
    }
    programmed(&replica, "e-0").await;
}

#[tokio::test]
async fn after_a_reconnect_only_what_changed_travels() {
    let authority = authority();
    let files = Files::new(&authority, &token());
    let replica = Replica::start(&authority).await;
    replica.reset(objects(&[("a", 1), ("b", 1)]));
    let mut raw = Raw::attach(&replica, &files, "e-0").await.unwrap();
    raw.hello(hello()).await;
    let first = raw.delta().await;
    assert!(first.initial_done && first.upserts.len() == 8, "{:?}", first.upserts.len());
    drop(raw);

    replica.apply(agent("b", 2));
    let held =
        |upsert: &control::Upsert| control::Versioned { key: upsert.key.clone(), version: upsert.version.clone() };
    let mut raw = Raw::attach(&replica, &files, "e-0").await.unwrap();
    let (front, back) = first.upserts.split_at(3);
    raw.hello(Hello { held: front.iter().map(held).collect(), more: true, ..hello() }).await;
    raw.hello(Hello { held: back.iter().map(held).collect(), ..Hello::default() }).await;
    // Everything may be said before the change is: then it travels by itself.
    let (mut versions, mut done) = (Vec::new(), false);
    while versions.is_empty() {
        let delta = raw.delta().await;
        versions.extend(delta.upserts.into_iter().map(|upsert| upsert.version));
        done |= delta.initial_done;
        assert_eq!(delta.removals, []);
    }
    assert_eq!((versions, done), (vec!["uid-b/2".to_owned()], true));

    // The same with the real client, whose operator goes away and comes back.
    drop(raw);
    let address = replica.address;
    let mut edge = Edge::start(files.settings(address, "e-0"));
    edge.until("two agents", |loaded| loaded.objects.agents.len() == 2).await;
    programmed(&replica, "e-0").await;
    replica.stop().await;
    let replica = Replica::start_at(&authority, address).await;
    replica.reset(objects(&[("a", 1), ("b", 3)]));
    edge.until("b is new", |loaded| agents(loaded).contains(&("b".to_owned(), 3))).await;
    programmed(&replica, "e-0").await;
}

#[tokio::test]
async fn an_edge_starts_with_what_it_kept_while_no_operator_answers() {
    let authority = authority();
    let files = Files::new(&authority, &token());
    let replica = Replica::start(&authority).await;
    replica.reset(objects(&[("a", 1)]));
    let address = replica.address;
    let mut settings = files.settings(address, "e-0");
    settings.cache = Some(files.cache());
    let mut edge = Edge::start(settings.clone());
    edge.until("an agent", |loaded| loaded.objects.agents.len() == 1).await;
    programmed(&replica, "e-0").await;
    let kept = async {
        while !files.path("configuration").exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, kept).await.expect("it is kept");
    let file = std::fs::read(files.path("configuration")).unwrap();
    let secret = b"czNjcmV0";
    assert!(!file.windows(secret.len()).any(|window| window == secret), "sealed");
    drop(edge);
    replica.stop().await;

    let mut edge = Edge::start(settings.clone());
    let loaded = edge.until("what was kept", |loaded| loaded.objects.agents.len() == 1).await;
    assert_eq!(loaded.problems, []);
    let standing = edge.client.watch().standing();
    assert_eq!((standing.source, standing.connected), ("file", false));
    assert!(!standing.trouble.is_empty());
    assert_eq!(edge.client.tenants(), [("d.example".to_owned(), 7)].into());
    // The operator comes back and hears what the edge holds.
    let replica = Replica::start_at(&authority, address).await;
    replica.reset(objects(&[("a", 1)]));
    programmed(&replica, "e-0").await;
    drop(edge);
    replica.stop().await;

    // Changed anywhere, sealed with other keys, or for another SipEdge: nothing of it is used.
    let good = std::fs::read(files.path("configuration")).unwrap();
    assert!(files.cache().read().unwrap().is_some());
    for at in [0, 30, 60, good.len() - 1] {
        changed_in(&files.path("configuration"), at);
        assert!(files.cache().read().is_err(), "octet {at}");
        std::fs::write(files.path("configuration"), &good).unwrap();
    }
    std::fs::write(files.path("configuration"), &good[..good.len() - 1]).unwrap();
    assert!(files.cache().read().is_err(), "shorter");
    std::fs::write(files.path("configuration"), &good).unwrap();
    let mut other = files.cache();
    other.edge = ObjectKey::new("system", "f");
    assert!(other.read().is_err(), "of another SipEdge");
    files.write_key(8);
    assert!(files.cache().read().is_err(), "other keys");
    let mut edge = Edge::start(settings);
    assert!(timeout(Duration::from_secs(1), edge.client.first()).await.is_err(), "it waits for an operator");
    assert!(edge.client.awaits().starts_with("the operator"));
}

#[tokio::test]
async fn a_slow_edge_is_dropped_and_costs_a_bounded_number_of_messages() {
    let authority = authority();
    let files = Files::new(&authority, &token());
    let replica = Replica::start(&authority).await;
    replica.reset(objects(&[("a", 1)]));
    let mut raw = Raw::attach(&replica, &files, "e-0").await.unwrap();
    raw.hello(hello()).await;
    raw.delta().await;
    for generation in 2..40 {
        replica.apply(agent("a", generation));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // It reads and says nothing: at most so many are on their way.
    let mut deltas = 1;
    while let Ok(Ok(Some(_))) = timeout(Duration::from_millis(300), raw.next()).await {
        deltas += 1;
    }
    assert!(deltas <= MAX_OUTSTANDING, "{deltas}");
    replica.ahead.store(UNANSWERED_MS, Ordering::SeqCst);
    assert_eq!(raw.end().await, Code::ResourceExhausted);
    replica.until("it is gone", |state| state.fleets.get(&edge_key())?.edges.is_empty().then_some(())).await;

    // One that does not even read what it is sent.
    let raw = Raw::attach(&replica, &files, "e-0").await.unwrap();
    raw.hello(hello()).await;
    replica
        .until("something is on its way", |state| {
            let session = &state.fleets.get(&edge_key())?.edges.get("e-0")?.session;
            session.is_overdue(u64::MAX).then_some(())
        })
        .await;
    replica.ahead.fetch_add(2 * UNANSWERED_MS, Ordering::SeqCst);
    replica.until("it is gone", |state| state.fleets.get(&edge_key())?.edges.is_empty().then_some(())).await;
    assert_ne!(raw.end().await, Code::Ok);
}

#[tokio::test]
async fn the_same_edge_has_one_stream_and_an_earlier_life_does_not_take_it() {
    let authority = authority();
    let files = Files::new(&authority, &token());
    let replica = Replica::start(&authority).await;
    replica.reset(objects(&[]));
    let mut first = Raw::attach(&replica, &files, "e-0").await.unwrap();
    first.hello(Hello { epoch: 5, ..hello() }).await;
    first.delta().await;
    let earlier = Raw::attach(&replica, &files, "e-0").await.unwrap();
    earlier.hello(Hello { epoch: 4, ..hello() }).await;
    assert_eq!(earlier.end().await, Code::Aborted);
    let mut later = Raw::attach(&replica, &files, "e-0").await.unwrap();
    later.hello(Hello { epoch: 0, ..hello() }).await;
    later.delta().await;
    assert_eq!(first.end().await, Code::Aborted);
    let epoch = replica.board.quietly(|state| state.fleets[&edge_key()].edges["e-0"].epoch);
    assert_eq!(epoch, 0, "the stream of the new process stays");
}

#[tokio::test]
async fn a_drain_is_ordered_reported_and_ordered_again_on_the_next_stream() {
    let authority = authority();
    let files = Files::new(&authority, &token());
    let replica = Replica::start(&authority).await;
    replica.reset(objects(&[]));
    let address = replica.address;
    let mut edge = Edge::start(files.settings(address, "e-0"));
    edge.until("an edge", |loaded| loaded.objects.edges.len() == 1).await;
    let order = DrainOrder { deadline_s: 60, reason: "rollout".into() };
    let drain = |replica: &Replica| {
        let order = order.clone();
        replica.board.change(|state| state.fleets.entry(edge_key()).or_default().drains.insert("e-0".into(), order));
    };
    drain(&replica);
    let ordered = loop {
        if let Event::Drain(drain) = edge.next().await {
            break drain;
        }
    };
    assert_eq!((ordered.deadline_s, &*ordered.reason, ordered.cancel), (60, "rollout", false));
    let reported = |wanted: DrainState| {
        move |state: &mut operator::board::State| {
            let drain = state.fleets.get(&edge_key())?.edges.get("e-0")?.drain.as_ref()?.state();
            (drain == wanted).then_some(())
        }
    };
    replica.until("it serves", reported(DrainState::None)).await;
    edge.status.drain();
    replica.until("it drains", reported(DrainState::Draining)).await;
    edge.status.end();
    replica.until("it is empty", reported(DrainState::Drained)).await;
    replica.stop().await;
    let replica = Replica::start_at(&authority, address).await;
    replica.reset(objects(&[]));
    drain(&replica);
    while !matches!(edge.next().await, Event::Drain(drain) if !drain.cancel) {}
    replica.board.change(|state| state.fleets.get_mut(&edge_key()).unwrap().drains.remove("e-0"));
    while !matches!(edge.next().await, Event::Drain(drain) if drain.cancel) {}
}

#[tokio::test]
async fn an_edge_is_asked_and_who_is_not_there_is_not() {
    let authority = authority();
    let files = Files::new(&authority, &token());
    let replica = Replica::start(&authority).await;
    replica.reset(objects(&[]));
    let identity = Identity { edge: edge_key(), pod: "e-0".into() };
    let why = || query::What::Why(WhyQuery { caller: "sip:alice@d.example".into(), ..WhyQuery::default() });
    assert_eq!(replica.board.streams().ask(&identity, why()).await, Err(AskError::NotHere));
    let mut edge = Edge::start(files.settings(replica.address, "e-0"));
    edge.until("an edge", |loaded| loaded.objects.edges.len() == 1).await;
    programmed(&replica, "e-0").await;
    // Nothing runs on it yet, and it says so.
    let answer = replica.board.streams().ask(&identity, why()).await;
    assert_eq!(answer, Err(AskError::Refused("this edge starts".into())));
}

#[tokio::test]
async fn a_word_about_an_unknown_nonce_ends_the_stream() {
    let authority = authority();
    let files = Files::new(&authority, &token());
    let replica = Replica::start(&authority).await;
    replica.reset(objects(&[]));
    let mut raw = Raw::attach(&replica, &files, "e-0").await.unwrap();
    raw.hello(hello()).await;
    let delta = raw.delta().await;
    let items = delta.upserts.iter().map(|upsert| Item {
        key: upsert.key.clone(),
        version: upsert.version.clone(),
        outcome: Said::Applied.into(),
        ..Item::default()
    });
    raw.say(from_edge::Message::Results(Results { nonce: delta.nonce, items: items.collect() })).await;
    programmed(&replica, "e-0").await;
    raw.say(from_edge::Message::Results(Results { nonce: 77, items: Vec::new() })).await;
    assert_eq!(raw.end().await, Code::FailedPrecondition);
}
