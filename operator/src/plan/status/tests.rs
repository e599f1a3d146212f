use super::*;
use crate::index::Object;
use crate::key::Kind;
use crate::plan::fleet::{Edge, Fleet};
use crate::testing::{
    self, agent as an_agent, broken_policy, domain as a_domain, edge as an_edge, index, key, policy as a_policy,
};
use crds::manifest::ObjectKey;
use crds::v1alpha1::{McpAgentStatus, SipEdgeStatus};
use edge_api::control::{
    self, AgentReport, DrainReport, Hello, Outcome as Word, Registration, Report, Result as Answer, Results,
    StoreHealth, ToolList, ToolReport,
};
use k8s_openapi::jiff::Timestamp;

fn at(second: i64) -> Time {
    Time(Timestamp::from_second(second).unwrap())
}

fn e() -> ObjectKey {
    ObjectKey::new("system", "e")
}

fn a() -> ObjectKey {
    ObjectKey::new("acme", "a")
}

fn world() -> Index {
    index([an_edge("e", 1), a_domain("d0", 1), an_agent("a", 7, "d0", None), a_policy("p", 1, "a")])
}

/// A fleet of three pods, of which these are connected.
fn fleets(index: &Index, wants: &mut Wants, connected: usize) -> Fleets {
    wants.update(index);
    let mut fleet = Fleet { desired: 3, replicas: 3, ready: 3, ..Fleet::default() };
    for number in 0..connected {
        let mut edge = Edge::default();
        edge.session.hello(&Hello::default()).unwrap();
        edge.session.want(wants.of(&e()).unwrap().clone(), true);
        fleet.edges.insert(format!("edge-{number}"), edge);
    }
    Fleets::from([(e(), fleet)])
}

/// The edge takes everything, but the agent only as it says.
fn answer(edge: &mut Edge, outcome: Word, message: &str) {
    while let Some(delta) = edge.session.poll(0) {
        let mut results = Results { nonce: delta.nonce, items: Vec::new() };
        for upsert in delta.upserts {
            let about_agent = upsert.key == Some(key(Kind::McpAgent, "a").to_message());
            let outcome = if about_agent { outcome } else { Word::Applied };
            let (field_path, message) = match outcome {
                Word::Rejected => ("spec.backend.mcpHttp.tls".to_owned(), message.to_owned()),
                _ => Default::default(),
            };
            results.items.push(Answer {
                key: upsert.key,
                version: upsert.version,
                outcome: outcome.into(),
                field_path,
                message,
            });
        }
        edge.session.results(&results).unwrap();
    }
}

fn registered(fleets: &mut Fleets) {
    for edge in fleets.values_mut().flat_map(|fleet| fleet.edges.values_mut()) {
        let mut report = AgentReport {
            agent: Some(key(Kind::McpAgent, "a").to_message()),
            bindings: 2,
            next_expiry: Some(1_800_000_000),
            sessions: 50,
            tools: Some(ToolList { tools: vec![ToolReport { name: "t".into(), ..ToolReport::default() }] }),
            ..AgentReport::default()
        };
        report.set_registration(Registration::Registered);
        edge.report(Report { agents: vec![report], sessions: 50, ..Report::default() });
    }
}

/// type, status, reason of every condition.
fn short(conditions: &[Condition]) -> Vec<String> {
    conditions.iter().map(|c| format!("{} {} {}", c.type_, c.status, c.reason)).collect()
}

fn message<'a>(status: &'a McpAgentStatus, type_: &str) -> &'a str {
    &status.conditions.iter().find(|condition| condition.type_ == type_).unwrap().message
}

macro_rules! scene {
    ($index:expr, $wants:expr, $fleets:expr, $second:expr) => {
        &Scene { index: &$index, wants: &$wants, fleets: &$fleets, now: &at($second), counters_due: true }
    };
}

#[test]
fn programmed_says_how_many_edges_have_it_and_what_the_others_say() {
    let (index, mut wants) = (world(), Wants::default());
    let mut fleets = fleets(&index, &mut wants, 3);
    let programmed = |fleets: &Fleets| {
        let status = agent(scene!(index, wants, *fleets, 1), &a()).unwrap();
        let summary = status.edges.clone().unwrap().summary;
        format!("{summary} {}: {}", short(&status.conditions)[2], message(&status, "Programmed"))
    };
    assert_eq!(programmed(&fleets), "0/3 Programmed False Pending: 0 of 3 edges at generation 7");
    let pods = &mut fleets.get_mut(&e()).unwrap().edges;
    answer(pods.get_mut("edge-0").unwrap(), Word::Applied, "");
    answer(pods.get_mut("edge-1").unwrap(), Word::Rejected, "unknown CA");
    answer(pods.get_mut("edge-2").unwrap(), Word::AppliedWithWarning, "");
    assert_eq!(
        programmed(&fleets),
        "2/3 Programmed False PartiallyProgrammed: 2 of 3 edges at generation 7; edge-1: spec.backend.mcpHttp.tls: unknown CA"
    );
    let pods = &mut fleets.get_mut(&e()).unwrap().edges;
    let item = Answer {
        key: Some(key(Kind::McpAgent, "a").to_message()),
        version: "McpAgent-acme-a/7".into(),
        outcome: Word::Applied.into(),
        ..Answer::default()
    };
    pods.get_mut("edge-1").unwrap().session.results(&Results { nonce: 0, items: vec![item] }).unwrap();
    assert!(programmed(&fleets).starts_with("3/3 Programmed True Programmed"));
    fleets.get_mut(&e()).unwrap().edges.remove("edge-2");
    assert!(
        programmed(&fleets).starts_with("2/3 Programmed False PartiallyProgrammed"),
        "a pod without a stream has nothing"
    );
    fleets.get_mut(&e()).unwrap().edges.clear();
    assert_eq!(programmed(&fleets), "0/3 Programmed False NoEdge: no edge is connected");
}

#[test]
fn one_edge_is_enough_for_ready_and_a_change_makes_it_pending_again() {
    let (mut index, mut wants) = (world(), Wants::default());
    let mut fleets = fleets(&index, &mut wants, 3);
    let ready = |index: &Index, wants: &Wants, fleets: &Fleets| {
        short(&agent(scene!(*index, *wants, *fleets, 1), &a()).unwrap().conditions).pop().unwrap()
    };
    assert_eq!(ready(&index, &wants, &fleets), "Ready False Pending");
    answer(fleets.get_mut(&e()).unwrap().edges.get_mut("edge-0").unwrap(), Word::Applied, "");
    assert_eq!(ready(&index, &wants, &fleets), "Ready False NoEdge", "programmed, and not registered");
    registered(&mut fleets);
    assert_eq!(ready(&index, &wants, &fleets), "Ready True Ready");

    index.apply(an_agent("a", 8, "d0", None)).unwrap();
    wants.update(&index);
    let status = agent(scene!(index, wants, fleets, 1), &a()).unwrap();
    assert_eq!(
        (status.observed_generation, status.edges.unwrap().programmed),
        (Some(8), 0),
        "the old generation does not count"
    );

    index.apply(broken_policy("p", 2, "a")).unwrap();
    wants.update(&index);
    let status = agent(scene!(index, wants, fleets, 1), &a()).unwrap();
    let conditions = short(&status.conditions);
    assert_eq!(conditions[0], "Accepted False InvalidPolicy");
    assert_eq!(conditions[2], "Programmed False NoEdge");
    assert_eq!(conditions[5], "Ready False InvalidPolicy");
    let refused = policy(scene!(index, wants, fleets, 1), &ObjectKey::new("acme", "p")).unwrap();
    assert_eq!(short(&refused.conditions)[..2], ["Accepted False InvalidPolicy", "ResolvedRefs Unknown Unknown"]);
}

#[test]
fn nothing_is_written_where_nothing_changed_and_a_time_moves_only_with_its_status() {
    let (mut index, mut wants) = (world(), Wants::default());
    let mut fleets = fleets(&index, &mut wants, 1);
    answer(fleets.get_mut(&e()).unwrap().edges.get_mut("edge-0").unwrap(), Word::Applied, "");
    registered(&mut fleets);
    let first = agent(scene!(index, wants, fleets, 100), &a()).unwrap();
    assert_eq!(first.uri.as_deref(), Some("sip:a@d0.example"));
    let registration = first.registration.clone().unwrap();
    assert_eq!((registration.bindings, registration.next_expiry.as_deref()), (2, Some("2027-01-15T08:00:00Z")));
    assert_eq!(first.capabilities.clone().unwrap().effective, 1);
    let with_status = |status: &McpAgentStatus| match an_agent("a", 7, "d0", None) {
        Object::Agent(mut object) => {
            object.status = Some(status.clone());
            object.metadata.resource_version = Some("8".into());
            Object::Agent(object)
        }
        other => other,
    };
    index.apply(with_status(&first)).unwrap();
    assert_eq!(agent(scene!(index, wants, fleets, 200), &a()), None);

    let edge = fleets.get_mut(&e()).unwrap().edges.get_mut("edge-0").unwrap();
    edge.agents.get_mut(&a()).unwrap().sessions = 55;
    assert_eq!(agent(scene!(index, wants, fleets, 200), &a()), None, "within a tenth");
    let edge = fleets.get_mut(&e()).unwrap().edges.get_mut("edge-0").unwrap();
    edge.agents.get_mut(&a()).unwrap().registration = Registration::Expired;
    let second = agent(scene!(index, wants, fleets, 300), &a()).unwrap();
    let times =
        |status: &McpAgentStatus| status.conditions.iter().map(|c| c.last_transition_time.clone()).collect::<Vec<_>>();
    assert_eq!(short(&second.conditions)[3], "Registered False Expired");
    assert_eq!(times(&second), [at(100), at(100), at(100), at(300), at(100), at(300)]);
}

#[test]
fn a_policy_has_a_word_for_each_of_its_targets() {
    let (mut index, mut wants) = (world(), Wants::default());
    let mut fleets = fleets(&index, &mut wants, 3);
    for edge in fleets.get_mut(&e()).unwrap().edges.values_mut() {
        answer(edge, Word::Applied, "");
    }
    let status = |index: &Index, wants: &Wants, fleets: &Fleets| {
        let status = policy(scene!(*index, *wants, *fleets, 1), &ObjectKey::new("acme", "p")).unwrap();
        (short(&status.conditions), short(&status.ancestors[0].conditions))
    };
    let good = ["Accepted True Accepted", "ResolvedRefs True ResolvedRefs", "Programmed True Programmed"]
        .map(str::to_owned)
        .to_vec();
    assert_eq!(status(&index, &wants, &fleets), (good.clone(), good));
    index.delete(&key(Kind::McpAgent, "a"), None);
    wants.update(&index);
    let (whole, ancestor) = status(&index, &wants, &fleets);
    assert_eq!(ancestor, ["Accepted True Accepted", "ResolvedRefs False TargetNotFound", "Programmed False NoEdge"]);
    assert_eq!(whole, ancestor);
}

#[test]
fn a_policy_that_may_not_be_for_a_domain_says_so_at_that_target_alone() {
    let mut wants = Wants::default();
    let index = index([
        an_edge("e", 1),
        testing::owned_domain("d0", 1, &["acme"]),
        testing::owned_domain("d1", 1, &["evil"]),
        an_agent("a", 7, "d0", None),
        an_agent("b", 1, "d1", None),
        testing::domain_policy("evil", "shut", 1, &["d0", "d1"]),
    ]);
    let mut fleets = fleets(&index, &mut wants, 3);
    for edge in fleets.get_mut(&e()).unwrap().edges.values_mut() {
        answer(edge, Word::Applied, "");
    }
    let status = policy(scene!(index, wants, fleets, 1), &ObjectKey::new("evil", "shut")).unwrap();
    assert_eq!(
        short(&status.conditions),
        ["Accepted True Accepted", "ResolvedRefs False RefNotPermitted", "Programmed True Programmed"]
    );
    let message = &status.conditions[1].message;
    assert!(message.starts_with("spec.targetRefs[0]: SipDomain \"d0\"") && message.contains("\"evil\""), "{message}");
    assert_eq!(
        short(&status.ancestors[0].conditions)[1..],
        ["ResolvedRefs False RefNotPermitted", "Programmed False NoEdge"]
    );
    assert_eq!(
        short(&status.ancestors[1].conditions)[1..],
        ["ResolvedRefs True ResolvedRefs", "Programmed True Programmed"]
    );
}

#[test]
fn what_a_condition_lacks_in_the_tools_of_an_agent_is_said_by_field() {
    let mut wants = Wants::default();
    let conditional = |kind: &str, name: &str, namespace: &str, id: &str| {
        let Object::Policy(mut object) = a_policy(id, 1, "a") else { panic!("a policy") };
        object.metadata.namespace = Some(namespace.to_owned());
        let mut spec = serde_json::json!(object.spec);
        spec["targetRefs"] = serde_json::json!([{"kind": kind, "name": name}]);
        spec["rules"] = serde_json::json!([{
            "name": "small", "methods": [{"name": "tools/call", "params": ["pay"]}], "phases": ["Call"],
            "when": "args.amount <= 100 && args.currency == 'EUR'", "action": "Allow",
        }]);
        object.spec = serde_json::from_value(spec).unwrap();
        Object::Policy(object)
    };
    let index = index([
        an_edge("e", 1),
        testing::owned_domain("d0", 1, &["acme"]),
        an_agent("a", 7, "d0", None),
        conditional("McpAgent", "a", "acme", "p"),
        conditional("SipDomain", "d0", "acme", "of-domain"),
        conditional("SipDomain", "d0", "evil", "foreign"),
    ]);
    let mut fleets = fleets(&index, &mut wants, 1);
    answer(fleets.get_mut(&e()).unwrap().edges.get_mut("edge-0").unwrap(), Word::Applied, "");
    let report = |fleets: &mut Fleets, schema: &str| {
        let tool = |name: &str, schema: &str| ToolReport {
            name: name.into(),
            input_schema: schema.to_owned().into(),
            ..ToolReport::default()
        };
        let report = AgentReport {
            agent: Some(key(Kind::McpAgent, "a").to_message()),
            tools: Some(ToolList { tools: vec![tool("other", r#"{"type":"object"}"#), tool("pay", schema)] }),
            ..AgentReport::default()
        };
        let edge = fleets.get_mut(&e()).unwrap().edges.get_mut("edge-0").unwrap();
        edge.report(Report { agents: vec![report], ..Report::default() });
    };
    let said = |fleets: &Fleets, namespace: &str, name: &str| {
        let status = policy(scene!(index, wants, *fleets, 1), &ObjectKey::new(namespace, name)).unwrap();
        let resolved = &status.conditions[1];
        assert_eq!(resolved.reason, status.ancestors[0].conditions[1].reason);
        format!("{} {}", resolved.reason, resolved.message)
    };
    assert_eq!(said(&fleets, "acme", "p"), "ResolvedRefs ", "nobody has listed the tools");
    let amount = r#"{"type":"object","properties":{"amount":{"type":"integer"}},"required":["amount"],"additionalProperties":false}"#;
    report(&mut fleets, amount);
    for name in ["p", "of-domain"] {
        let said = said(&fleets, "acme", name);
        assert!(said.starts_with("UnknownArgument spec.rules[0].when: McpAgent acme/a, for tool pay: "), "{said}");
        assert!(said.contains("currency"), "{said}");
    }
    assert!(said(&fleets, "evil", "foreign").starts_with("RefNotPermitted"), "and nothing of an agent of others");
    report(
        &mut fleets,
        r#"{"type":"object","properties":{"amount":{"type":"integer"},"currency":{"type":"string"}},"required":["amount","currency"]}"#,
    );
    assert_eq!(said(&fleets, "acme", "p"), "ResolvedRefs ", "it heals with the tool");
    // Neither stands in the way of a list that is no schema.
    report(&mut fleets, "");
    assert_eq!(said(&fleets, "acme", "of-domain"), "ResolvedRefs ");
}

#[test]
fn an_agent_whose_backend_is_not_there_is_not_ready_and_stands() {
    let mut wants = Wants::default();
    let Object::Agent(mut object) = an_agent("a", 7, "d0", None) else { panic!("an agent") };
    object.spec.backend =
        serde_json::from_value(serde_json::json!({"mcpHttp": {"serviceRef": {"name": "mcp", "port": 80}}})).unwrap();
    let mut index = index([an_edge("e", 1), a_domain("d0", 1), Object::Agent(object)]);
    index.services_known(true);
    let mut fleets = fleets(&index, &mut wants, 3);
    for edge in fleets.get_mut(&e()).unwrap().edges.values_mut() {
        answer(edge, Word::Applied, "");
    }
    registered(&mut fleets);
    let status = |index: &Index, wants: &Wants| agent(scene!(*index, *wants, fleets, 1), &a()).unwrap();
    let lost = status(&index, &wants);
    assert_eq!(
        short(&lost.conditions)[..3],
        ["Accepted True Accepted", "ResolvedRefs False BackendNotFound", "Programmed True Programmed"]
    );
    assert_eq!(short(&lost.conditions)[5], "Ready False BackendNotFound");
    let message = message(&lost, "ResolvedRefs");
    assert!(message.starts_with("spec.backend.mcpHttp.serviceRef: Service acme/mcp is not there"), "{message}");
    let ready = [(80, ["10.0.0.1:8080".parse().unwrap()].into())].into();
    index.apply(Object::Endpoints(ObjectKey::new("acme", "mcp"), ready)).unwrap();
    wants.update(&index);
    assert_eq!(short(&status(&index, &wants).conditions)[5], "Ready True Ready");
}

#[test]
fn tools_are_verified_against_what_is_declared() {
    let mut wants = Wants::default();
    let declaring = |source: &str| {
        let Object::Agent(mut object) = an_agent("a", 7, "d0", None) else { panic!("an agent") };
        object.spec.capabilities = serde_json::from_value(serde_json::json!({
            "source": source, "tools": [{"name": "pay"}, {"name": "refund"}],
        }))
        .unwrap();
        Object::Agent(object)
    };
    let mut verified = |source: &str, listed: Option<&[(&str, &str)]>| {
        let index = index([an_edge("e", 1), a_domain("d0", 1), declaring(source)]);
        let mut fleets = fleets(&index, &mut wants, 1);
        let edge = fleets.get_mut(&e()).unwrap().edges.get_mut("edge-0").unwrap();
        answer(edge, Word::Applied, "");
        let tool = |(name, quarantined): &(&str, &str)| ToolReport {
            name: (*name).to_owned(),
            quarantined: (*quarantined).to_owned(),
            ..ToolReport::default()
        };
        let report = AgentReport {
            agent: Some(key(Kind::McpAgent, "a").to_message()),
            tools: listed.map(|tools| ToolList { tools: tools.iter().map(tool).collect() }),
            ..AgentReport::default()
        };
        edge.report(Report { agents: vec![report], ..Report::default() });
        let status = agent(scene!(index, wants, fleets, 1), &a()).unwrap();
        let effective = status.capabilities.clone().map(|capabilities| capabilities.effective);
        (short(&status.conditions)[4].clone(), message(&status, "ToolsVerified").to_owned(), effective)
    };
    assert_eq!(verified("Declared", None).0, "ToolsVerified Unknown NotDiscovered");
    let all = &[("more", ""), ("pay", ""), ("refund", "")][..];
    for (source, effective) in [("Declared", 2), ("Intersect", 2), ("Discovered", 3)] {
        let (condition, message, counted) = verified(source, Some(all));
        assert_eq!((&*condition, &*message), ("ToolsVerified True Verified", ""), "{source}");
        assert_eq!(counted, Some(effective), "{source}");
    }
    for (source, effective) in [("Declared", 2), ("Intersect", 1)] {
        let (condition, message, counted) = verified(source, Some(&[("pay", "")]));
        assert_eq!((&*condition, counted), ("ToolsVerified False ToolDrift", Some(effective)), "{source}");
        assert!(
            message.starts_with("spec.capabilities.tools[1].name: the backend has no tool \"refund\""),
            "{message}"
        );
    }
    assert_eq!(verified("Discovered", Some(&[("pay", "")])).0, "ToolsVerified True Verified");
    let (condition, message, counted) = verified("Discovered", Some(&[("pay", "too deep"), ("refund", "")]));
    assert_eq!((&*condition, &*message, counted), ("ToolsVerified False ToolQuarantined", "pay: too deep", Some(1)));
}

#[test]
fn an_edge_and_a_domain_are_ready_when_what_they_need_holds() {
    let (index, mut wants) = (world(), Wants::default());
    let mut fleets = fleets(&index, &mut wants, 2);
    for edge in fleets.get_mut(&e()).unwrap().edges.values_mut() {
        answer(edge, Word::Applied, "");
    }
    registered(&mut fleets);
    let drained = DrainReport { state: control::DrainState::Settling.into(), ..DrainReport::default() };
    let edge_1 = fleets.get_mut(&e()).unwrap().edges.get_mut("edge-1").unwrap();
    edge_1.report(Report { drain: Some(drained), sessions: 50, ..Report::default() });
    let status: SipEdgeStatus = edge(scene!(index, wants, fleets, 1), &e()).unwrap();
    assert_eq!((status.draining, status.edges.unwrap().connected, status.sessions.unwrap().active), (1, 2, 100));
    assert_eq!((&*status.listeners[0].name, status.listeners[0].attached_agents), ("tcp", 1));
    assert_eq!(short(&status.conditions)[2..], ["Programmed False PartiallyProgrammed", "Ready True Ready"]);
    let status = domain(scene!(index, wants, fleets, 1), "d0").unwrap();
    assert_eq!((status.agents, status.tenant_number), (1, Some(7)));
    assert_eq!(short(&status.conditions)[3], "Ready False PartiallyProgrammed");

    fleets.get_mut(&e()).unwrap().ready = 0;
    let status = edge(scene!(index, wants, fleets, 1), &e()).unwrap();
    assert_eq!(short(&status.conditions)[3], "Ready False NoPod");
}

#[test]
fn a_store_is_what_the_edges_say_of_it() {
    let (index, mut wants) = (index([an_edge("e", 1), testing::store("s", 1)]), Wants::default());
    let mut fleets = fleets(&index, &mut wants, 3);
    let status = |fleets: &Fleets| {
        short(&store(scene!(index, wants, *fleets, 1), &ObjectKey::new("system", "s")).unwrap().conditions)[2..]
            .to_vec()
    };
    assert_eq!(
        status(&fleets),
        ["Reachable Unknown Unknown", "Durable Unknown Unknown", "EvictionSafe Unknown Unknown"]
    );
    let health = |state, policy: &str| {
        let mut health = StoreHealth {
            eviction_policy: policy.to_owned(),
            message: "why".into(),
            latency_us: 1500,
            ..StoreHealth::default()
        };
        health.store = Some(key(Kind::SessionStore, "s").to_message());
        health.set_state(state);
        health.set_durability(control::Durability::Snapshots);
        Report { store: Some(health), ..Report::default() }
    };
    for edge in fleets.get_mut(&e()).unwrap().edges.values_mut() {
        edge.report(health(control::StoreState::Reachable, "noeviction"));
    }
    assert_eq!(status(&fleets), ["Reachable True Reachable", "Durable True Durable", "EvictionSafe True EvictionSafe"]);
    let edge_0 = fleets.get_mut(&e()).unwrap().edges.get_mut("edge-0").unwrap();
    edge_0.report(health(control::StoreState::Reachable, "allkeys-lru"));
    let edge_1 = fleets.get_mut(&e()).unwrap().edges.get_mut("edge-1").unwrap();
    edge_1.report(health(control::StoreState::AuthFailed, ""));
    assert_eq!(
        status(&fleets),
        ["Reachable False AuthFailed", "Durable True Durable", "EvictionSafe False PolicyEvicts"]
    );
}

mod values;
