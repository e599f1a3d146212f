//! Fields of statuses by their value, each in more than one state.

use super::*;
use crds::v1alpha1::{AncestorRef, LatencyBand, Programmed, SessionCounts, SessionStoreStatus};
use serde_json::{Value, json};

/// The object with these members in its spec.
fn with(object: Object, spec: Value) -> Object {
    macro_rules! merged {
        ($variant:path, $object:expr) => {{
            let mut object = $object;
            let mut whole = json!(object.spec);
            whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
            object.spec = serde_json::from_value(whole).unwrap();
            $variant(object)
        }};
    }
    match object {
        Object::Edge(object) => merged!(Object::Edge, object),
        Object::Store(object) => merged!(Object::Store, object),
        Object::Agent(object) => merged!(Object::Agent, object),
        Object::Policy(object) => merged!(Object::Policy, object),
        other => panic!("{other:?}"),
    }
}

fn pod<'a>(fleets: &'a mut Fleets, name: &str) -> &'a mut Edge {
    fleets.get_mut(&e()).unwrap().edges.get_mut(name).unwrap()
}

fn agent_report(sessions: u32, in_flight: u32) -> AgentReport {
    AgentReport { agent: Some(key(Kind::McpAgent, "a").to_message()), sessions, in_flight, ..AgentReport::default() }
}

#[test]
fn a_status_and_its_conditions_are_of_the_generation_that_was_judged() {
    let mut wants = Wants::default();
    for generation in [3, 4] {
        let index = index([
            an_edge("e", generation),
            testing::store("s", generation),
            a_domain("d0", generation),
            an_agent("a", generation, "d0", None),
            a_policy("p", generation, "a"),
        ]);
        let fleets = fleets(&index, &mut wants, 1);
        let scene = scene!(index, wants, fleets, 1);
        let (edge, store) = (edge(scene, &e()).unwrap(), store(scene, &ObjectKey::new("system", "s")).unwrap());
        let (domain, agent) = (domain(scene, "d0").unwrap(), agent(scene, &a()).unwrap());
        let policy = policy(scene, &ObjectKey::new("acme", "p")).unwrap();
        let of = |conditions: &[Condition]| conditions.iter().map(|c| c.observed_generation).collect::<Vec<_>>();
        let all = [
            (edge.observed_generation, of(&edge.conditions)),
            (edge.observed_generation, of(&edge.listeners[0].conditions)),
            (store.observed_generation, of(&store.conditions)),
            (domain.observed_generation, of(&domain.conditions)),
            (agent.observed_generation, of(&agent.conditions)),
            (policy.observed_generation, of(&policy.conditions)),
            (policy.observed_generation, of(&policy.ancestors[0].conditions)),
        ];
        let generation = i64::try_from(generation).unwrap();
        for (observed, conditions) in all {
            assert_eq!(observed, Some(generation));
            assert!(!conditions.is_empty() && conditions.iter().all(|of| *of == observed), "{conditions:?}");
        }
    }
}

#[test]
fn what_answers_for_an_agent_is_said_in_short() {
    let mut wants = Wants::default();
    let mut said = |backend: Value| {
        let index = index([
            an_edge("e", 1),
            a_domain("d0", 1),
            with(an_agent("a", 7, "d0", None), json!({"backend": backend})),
        ]);
        let fleets = fleets(&index, &mut wants, 1);
        agent(scene!(index, wants, fleets, 1), &a()).unwrap().backend.unwrap()
    };
    assert_eq!(said(json!({"mcpHttp": {"url": "https://mcp.example/mcp"}})), "https://mcp.example/mcp");
    assert_eq!(said(json!({"mcpHttp": {"serviceRef": {"name": "billing", "port": 8080}}})), "billing:8080");
    assert_eq!(said(json!({"sipContact": {"authentication": "Digest"}})), "sipContact");
}

#[test]
fn the_hash_of_the_tools_changes_with_their_names_and_schemas_and_with_nothing_else() {
    let (index, mut wants) = (world(), Wants::default());
    let mut fleets = fleets(&index, &mut wants, 2);
    for edge in fleets.get_mut(&e()).unwrap().edges.values_mut() {
        answer(edge, Word::Applied, "");
    }
    let mut hash = |pod_name: &str, tools: &[(&str, &str, &str)]| {
        let tool = |(name, schema, quarantined): &(&str, &str, &str)| ToolReport {
            name: (*name).to_owned(),
            input_schema: (*schema).to_owned().into(),
            quarantined: (*quarantined).to_owned(),
        };
        let list = ToolList { tools: tools.iter().map(tool).collect() };
        let report = AgentReport { tools: Some(list), ..agent_report(0, 0) };
        pod(&mut fleets, pod_name).report(Report { agents: vec![report], ..Report::default() });
        agent(scene!(index, wants, fleets, 1), &a()).unwrap().capabilities.unwrap().hash.unwrap()
    };
    let pay = ("pay", r#"{"type":"object"}"#, "");
    let one = hash("edge-0", &[pay]);
    // Length and octets of the name, length and octets of the schema.
    assert_eq!(one, "sha256:06b84b910aca519c4706cc513cea68e750a62431809faad586d14c591be43e82");
    assert_eq!(hash("edge-1", &[pay]), one, "whoever lists it");
    let refund = ("refund", "{}", "");
    let two = hash("edge-0", &[refund, pay]);
    assert_ne!(two, one);
    assert_eq!(hash("edge-0", &[pay, refund]), two, "in whatever order");
    assert_eq!(hash("edge-0", &[pay, ("refund", "{}", "too deep")]), one, "what is not offered is not in it");
    let changed = ("pay", r#"{"type":"object","required":["amount"]}"#, "");
    hash("edge-1", &[changed]);
    assert_ne!(hash("edge-0", &[changed]), one);
    hash("edge-1", &[("paid", pay.1, "")]);
    assert_ne!(hash("edge-0", &[("paid", pay.1, "")]), one);
}

#[test]
fn requests_that_wait_are_counted_over_all_edges() {
    let (index, mut wants) = (world(), Wants::default());
    let mut fleets = fleets(&index, &mut wants, 2);
    for edge in fleets.get_mut(&e()).unwrap().edges.values_mut() {
        answer(edge, Word::Applied, "");
    }
    assert_eq!(agent(scene!(index, wants, fleets, 1), &a()).unwrap().sessions, None, "nobody has said anything");
    for (first, second) in [((5, 3), (2, 4)), ((0, 0), (2, 1)), ((0, 0), (0, 0))] {
        for (name, (sessions, in_flight)) in [("edge-0", first), ("edge-1", second)] {
            let agents = vec![agent_report(sessions, in_flight)];
            // What is of no agent waits at the edge, too.
            let report = Report { agents, sessions: sessions + 10, in_flight: in_flight + 1, ..Report::default() };
            pod(&mut fleets, name).report(report);
        }
        let scene = scene!(index, wants, fleets, 1);
        let (sessions, waiting) = (first.0 + second.0, first.1 + second.1);
        let of_agent = SessionCounts { active: sessions, in_flight: waiting };
        assert_eq!(agent(scene, &a()).unwrap().sessions, Some(of_agent));
        let of_edges = SessionCounts { active: sessions + 20, in_flight: waiting + 2 };
        assert_eq!(edge(scene, &e()).unwrap().sessions, Some(of_edges));
    }
}

#[test]
fn how_many_edges_have_a_domain_a_policy_and_everything_is_counted() {
    let (index, mut wants) = (world(), Wants::default());
    let mut fleets = fleets(&index, &mut wants, 2);
    let counted = |fleets: &Fleets| {
        let scene = scene!(index, wants, *fleets, 1);
        let edges = edge(scene, &e()).unwrap().edges.unwrap();
        let domain = domain(scene, "d0").unwrap().edges.unwrap();
        let policy = policy(scene, &ObjectKey::new("acme", "p")).unwrap().edges.unwrap();
        (domain, policy, (edges.connected, edges.programmed))
    };
    let of =
        |programmed: u32, desired: u32| Programmed { desired, programmed, summary: format!("{programmed}/{desired}") };
    assert_eq!(counted(&fleets), (of(0, 3), of(0, 3), (2, 0)));
    // It refuses the agent, which the domain and the policy are not.
    answer(pod(&mut fleets, "edge-0"), Word::Rejected, "unknown CA");
    let (of_domain, of_policy, _) = counted(&fleets);
    assert_eq!((of_domain, of_policy), (of(1, 3), of(1, 3)));
    answer(pod(&mut fleets, "edge-1"), Word::Applied, "");
    assert_eq!(counted(&fleets).0, of(2, 3));
    assert!(counted(&fleets).2.1 >= 1);
    fleets.get_mut(&e()).unwrap().desired = 2;
    assert_eq!(counted(&fleets).1, of(2, 2));
    fleets.get_mut(&e()).unwrap().edges.remove("edge-0");
    let (of_domain, of_policy, of_edges) = counted(&fleets);
    assert_eq!((of_domain, of_policy, of_edges), (of(1, 2), of(1, 2), (1, 1)));
}

#[test]
fn what_runs_stands_in_the_status_of_its_edge() {
    let (index, wants) = (world(), Wants::default());
    for (replicas, ready, pods, addresses) in [(3, 2, "app=edge", vec!["sip.example"]), (0, 0, "app=other", vec![])] {
        let fleet = Fleet {
            desired: 7,
            replicas,
            ready,
            selector: Some(pods.to_owned()),
            addresses: addresses.iter().map(|address| (*address).to_owned()).collect(),
            ..Fleet::default()
        };
        let fleets = Fleets::from([(e(), fleet)]);
        let status = edge(scene!(index, wants, fleets, 1), &e()).unwrap();
        assert_eq!((status.replicas, status.ready, status.selector.as_deref()), (replicas, ready, Some(pods)));
        assert_eq!(status.addresses, addresses);
    }
}

#[test]
fn each_target_of_a_policy_is_named_with_who_wrote_of_it() {
    let mut wants = Wants::default();
    let ancestors = |targets: Value, wants: &mut Wants| {
        let index = index([
            an_edge("e", 1),
            testing::owned_domain("d0", 1, &["acme"]),
            an_agent("a", 7, "d0", None),
            with(a_policy("p", 1, "a"), json!({"targetRefs": targets})),
        ]);
        let fleets = fleets(&index, wants, 1);
        policy(scene!(index, *wants, fleets, 1), &ObjectKey::new("acme", "p")).unwrap().ancestors
    };
    let of = |kind: &str, namespace: Option<&str>, name: &str| AncestorRef {
        group: "sipmcp.dev".to_owned(),
        kind: kind.to_owned(),
        namespace: namespace.map(str::to_owned),
        name: name.to_owned(),
    };
    let agents =
        json!([{"kind": "McpAgent", "name": "a"}, {"group": "sipmcp.dev", "kind": "McpAgent", "name": "gone"}]);
    let written = ancestors(agents, &mut wants);
    let refs: Vec<_> = written.iter().map(|ancestor| ancestor.ancestor_ref.clone()).collect();
    assert_eq!(refs, [of("McpAgent", Some("acme"), "a"), of("McpAgent", Some("acme"), "gone")]);
    let domains = ancestors(json!([{"kind": "SipDomain", "name": "d0"}]), &mut wants);
    assert_eq!(domains[0].ancestor_ref, of("SipDomain", None, "d0"));
    let writers: Vec<_> = written.iter().chain(&domains).map(|ancestor| &*ancestor.controller_name).collect();
    assert_eq!(writers, ["sipmcp.dev/operator"; 3]);
}

#[test]
fn what_kind_of_store_it_is_is_said_in_one_word() {
    let mut wants = Wants::default();
    let redis = |topology: &str, more: Value| {
        let mut redis = json!({"topology": topology, "addresses": ["redis:6379"]});
        redis.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"redis": redis})
    };
    for (word, spec) in [
        ("Single", redis("Single", json!({}))),
        ("Sentinel", redis("Sentinel", json!({"masterName": "main"}))),
        ("Cluster", redis("Cluster", json!({}))),
        ("Memory", json!({"redis": null, "embedded": {"memory": {}}})),
        ("File", json!({"redis": null, "embedded": {"file": {"path": "/var/lib/sipmcp/state"}}})),
    ] {
        let index = index([an_edge("e", 1), with(testing::store("s", 1), spec)]);
        let fleets = fleets(&index, &mut wants, 1);
        let status = store(scene!(index, wants, fleets, 1), &ObjectKey::new("system", "s")).unwrap();
        assert_eq!(status.topology.as_deref(), Some(word));
    }
}

#[test]
fn how_long_a_store_takes_is_the_median_of_the_edges_that_measured_it() {
    let (mut index, mut wants) = (index([an_edge("e", 1), testing::store("s", 1)]), Wants::default());
    let mut fleets = fleets(&index, &mut wants, 3);
    let mut band = |index: &Index, measured: [(u32, control::StoreState); 3]| {
        for (number, (latency_us, state)) in measured.into_iter().enumerate() {
            let mut health = StoreHealth { latency_us, ..StoreHealth::default() };
            health.store = Some(key(Kind::SessionStore, "s").to_message());
            health.set_state(state);
            pod(&mut fleets, &format!("edge-{number}")).report(Report { store: Some(health), ..Report::default() });
        }
        store(scene!(*index, wants, fleets, 1), &ObjectKey::new("system", "s")).unwrap()
    };
    let (good, bad) = (control::StoreState::Reachable, control::StoreState::ConnectFailed);
    let is = |from, below| Some(LatencyBand { from, below });
    let mut shown = |measured| band(&index, measured).latency_ms;
    assert_eq!(shown([(900, good), (1500, good), (90_000, good)]), is(1, Some(2)));
    assert_eq!(shown([(12_000, good), (90_000, good), (90_000, good)]), is(50, Some(100)));
    assert_eq!(
        shown([(2_000_000, good), (1, bad), (1, bad)]),
        is(1000, None),
        "who cannot reach it has measured nothing"
    );
    assert_eq!(shown([(0, good), (0, good), (7_000, good)]), is(5, Some(10)), "nor has who says 0");
    assert_eq!(shown([(0, good), (0, good), (0, good)]), None);
    // What was shown stays a little beyond its ends.
    let all = |us| [(us, good), (us, good), (us, good)];
    let Object::Store(mut object) = testing::store("s", 1) else { panic!("a store") };
    object.metadata.resource_version = Some("2".into());
    object.status = Some(band(&index, all(5_000)));
    index.apply(Object::Store(object)).unwrap();
    let mut shown = |us| band(&index, all(us)).latency_ms;
    assert_eq!([shown(4_499), shown(11_001)], [is(2, Some(5)), is(10, Some(25))]);
    for us in [4_600, 11_000] {
        // The rest of the status is not there, so that there is something to write.
        let Object::Store(mut object) = testing::store("s", 2) else { panic!("a store") };
        object.status = Some(SessionStoreStatus { latency_ms: is(5, Some(10)), ..SessionStoreStatus::default() });
        index.apply(Object::Store(object)).unwrap();
        assert_eq!(band(&index, all(us)).latency_ms, is(5, Some(10)), "{us}");
    }
}

#[test]
fn what_is_wrong_with_one_listener_is_said_at_that_one() {
    let mut wants = Wants::default();
    let listeners = json!([
        {"name": "tcp", "protocol": "TCP", "port": 5060},
        {"name": "tls", "protocol": "TLS", "port": 5061, "tls": {"certificateRefs": [{"name": "certificate"}]}},
    ]);
    let mut index = index([with(an_edge("e", 1), json!({"listeners": listeners})), a_domain("d0", 1)]);
    let mut fleets = fleets(&index, &mut wants, 3);
    let said = |index: &Index, wants: &Wants, fleets: &Fleets, second: i64| {
        let status = edge(scene!(*index, *wants, *fleets, second), &e()).unwrap();
        (status.listeners.iter().map(|listener| short(&listener.conditions)).collect::<Vec<_>>(), status)
    };
    let good = "ResolvedRefs True ResolvedRefs";
    let (conditions, status) = said(&index, &wants, &fleets, 1);
    let pending = "Programmed False Pending";
    assert_eq!(conditions[0], ["Accepted True Accepted", good, pending]);
    assert_eq!(conditions[1], ["Accepted True Accepted", "ResolvedRefs False SecretNotFound", pending]);
    let message = &status.listeners[1].conditions[1].message;
    assert!(message.starts_with("spec.listeners[1].tls.certificateRefs[0]: Secret system/certificate"), "{message}");

    let certificate: k8s_openapi::api::core::v1::Secret = serde_json::from_value(json!({
        "metadata": {"name": "certificate", "namespace": "system", "uid": "u", "resourceVersion": "1"}, "type": "kubernetes.io/tls",
    }))
    .unwrap();
    let pem = |text: &str| k8s_openapi::ByteString(text.as_bytes().to_vec());
    let data = [("tls.crt", "-----BEGIN CERTIFICATE-----"), ("tls.key", "-----BEGIN PRIVATE KEY-----")];
    let data = data.into_iter().map(|(name, text)| (name.to_owned(), pem(text))).collect();
    let certificate = k8s_openapi::api::core::v1::Secret { data: Some(data), ..certificate };
    // As it was written before, so that times are kept.
    let Object::Edge(mut object) = with(an_edge("e", 1), json!({"listeners": listeners})) else { panic!("an edge") };
    object.metadata.resource_version = Some("2".into());
    object.status = Some(status);
    index.apply(Object::Edge(object)).unwrap();
    index.apply(Object::Secret(certificate)).unwrap();
    wants.update(&index);
    for edge in fleets.get_mut(&e()).unwrap().edges.values_mut() {
        edge.session.want(wants.of(&e()).unwrap().clone(), true);
        answer(edge, Word::Applied, "");
    }
    let (conditions, status) = said(&index, &wants, &fleets, 2);
    let programmed = "Programmed True Programmed";
    assert_eq!(
        conditions,
        [["Accepted True Accepted", good, programmed], ["Accepted True Accepted", good, programmed]]
    );
    let times: Vec<_> = status.listeners[1].conditions.iter().map(|c| c.last_transition_time.clone()).collect();
    assert_eq!(times, [at(1), at(2), at(2)]);

    // What the schema takes and the rules refuse.
    let twice = json!({"listeners": [listeners[0], {"name": "again", "protocol": "TCP", "port": 5060}]});
    index.apply(with(an_edge("e", 3), twice)).unwrap();
    wants.update(&index);
    let (conditions, status) = said(&index, &wants, &fleets, 3);
    let whole = short(&status.conditions);
    assert_eq!(whole[0], "Accepted False InvalidSpec", "{:?}", status.conditions[0].message);
    assert!(conditions.iter().any(|of| of[0] == whole[0]), "{conditions:?}");
}
