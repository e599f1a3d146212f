use super::*;
use crate::plan::delta::wanted;
use crate::testing::{
    agent, broken_policy, config_map, domain, domain_policy, edge, index, key, owned_domain, policy, secret, serve,
    tls_edge,
};
use crds::v1alpha1::Reason;
use proptest::prelude::*;

fn told(index: &Index, name: &str) -> Vec<String> {
    let edge = ObjectKey::new("system", name);
    wanted(index, &edge).iter().map(|(key, item)| format!("{key} {}", item.version)).collect()
}

#[test]
fn a_secret_is_kept_only_while_somebody_names_it() {
    let token = key(Kind::Secret, "token");
    let mut index = index([edge("e", 1), domain("d0", 1)]);
    assert_eq!(index.apply(secret("token", 1, "token", "s3cret")), Ok(Applied::NotNamed));
    assert!(index.content(&token).is_none() && index.fetches().next().is_none());

    index.apply(agent("a", 1, "d0", Some("token"))).unwrap();
    assert_eq!(index.fetches().collect::<Vec<_>>(), [&token]);
    assert!(!index.is_complete(), "what is named was not looked for yet");
    assert_eq!(index.apply(secret("token", 1, "token", "s3cret")), Ok(Applied::Changed));
    assert!(index.is_complete() && index.content(&token).is_some());
    assert_eq!(index.references().referrers(&token).collect::<Vec<_>>(), [&key(Kind::McpAgent, "a")]);

    index.apply(agent("a", 2, "d0", None)).unwrap();
    assert!(index.content(&token).is_none(), "nobody names it any more");
    assert!(!format!("{index:?}").contains("s3cret"));
}

#[test]
fn an_edge_is_told_what_it_needs_and_nothing_else() {
    let all = [
        edge("e", 1),
        domain("d0", 1),
        domain("d1", 1),
        agent("a", 3, "d0", Some("token")),
        policy("p", 1, "a"),
        policy("stray", 1, "nobody"),
        secret("token", 1, "token", "t"),
        secret("other", 1, "token", "t"),
        config_map("stray", 1),
    ];
    let index = index(all);
    let told = told(&index, "e");
    let kinds: Vec<_> = told.iter().map(|line| line.split(" sha256").next().unwrap()).collect();
    assert_eq!(
        kinds,
        [
            "Secret acme/token",
            "SipDomain d0 SipDomain--d0/1",
            "SipEdge system/e SipEdge-system-e/1",
            "McpCapabilityPolicy acme/p McpCapabilityPolicy-acme-p/1",
            "McpAgent acme/a McpAgent-acme-a/3",
        ]
    );
    assert!(super::super::plan::delta::wanted(&index, &ObjectKey::new("system", "other")).is_empty());
}

#[test]
fn what_was_broken_later_fails_closed_in_its_own_scope_and_heals() {
    let all = [edge("e", 1), domain("d0", 1), agent("a", 1, "d0", Some("token")), agent("b", 1, "d0", None)];
    let mut index = index(all.into_iter().chain([secret("token", 1, "token", "t")]));
    let agents = |index: &Index| index.view().snapshot(index, &ObjectKey::new("system", "e")).agents.len();
    assert_eq!(agents(&index), 2);

    index.delete(&key(Kind::Secret, "token"), None);
    assert_eq!(agents(&index), 1, "the agent without its credential is closed, the other goes on");
    let verdict = &index.view().verdicts_of(&key(Kind::McpAgent, "a"))[0];
    assert_eq!((verdict.reason, &*verdict.field), (Reason::SecretNotFound, "spec.backend.mcpHttp.credentialRef"));
    index.apply(secret("token", 2, "token", "t")).unwrap();
    assert_eq!(agents(&index), 2);

    index.apply(broken_policy("p", 1, "b")).unwrap();
    assert_eq!(agents(&index), 1, "nobody can tell what a refused policy would have denied");
    index.apply(policy("p", 2, "b")).unwrap();
    assert_eq!(agents(&index), 2);

    let unreadable =
        |targets| Object::Unreadable(key(Kind::McpCapabilityPolicy, "p"), Unreadable { error: "?".into(), targets });
    index.apply(unreadable(None)).unwrap();
    assert_eq!(agents(&index), 0, "it may have been for any agent of its namespace");
    index.apply(unreadable(Some(vec![(TargetKind::McpAgent, "a".into())]))).unwrap();
    assert_eq!(agents(&index), 1);
    index.delete(&key(Kind::McpCapabilityPolicy, "p"), None);
    assert_eq!(agents(&index), 2);
}

#[test]
fn an_edge_that_was_refused_is_told_of_itself_so_that_it_can_say_why_and_of_its_agents() {
    let index = index([tls_edge("e", 1, "missing"), domain("d0", 1), agent("a", 1, "d0", None)]);
    let told = told(&index, "e");
    assert!(told.contains(&"SipEdge system/e SipEdge-system-e/1".to_owned()), "{told:?}");
    // Whoever is connected is served: a certificate that went is no reason to let go of an agent.
    assert!(told.contains(&"McpAgent acme/a McpAgent-acme-a/1".to_owned()), "{told:?}");
}

#[test]
fn a_domain_without_its_number_waits() {
    let mut index = index([edge("e", 1), domain("d9", 1), agent("a", 1, "d9", None)]);
    assert_eq!(told(&index, "e").len(), 1);
    index.number("D9.example", 3);
    index.number("d9.example", 4);
    let wanted = wanted(&index, &ObjectKey::new("system", "e"));
    assert_eq!(wanted[&key(Kind::SipDomain, "d9")].tenant, Some(3), "a number never changes");
    assert!(wanted.contains_key(&key(Kind::McpAgent, "a")));
}

#[test]
fn what_is_older_than_what_is_there_changes_nothing() {
    let mut index = index([edge("e", 5)]);
    assert_eq!(index.apply(edge("e", 4)), Ok(Applied::Unchanged));
    assert_eq!(index.apply(edge("e", 5)), Ok(Applied::Unchanged));
    assert_eq!(index.delete(&key(Kind::SipEdge, "e"), Some("another uid")), Applied::Unchanged);
    assert_eq!(told(&index, "e"), ["SipEdge system/e SipEdge-system-e/5"]);
    assert_eq!(index.delete(&key(Kind::SipEdge, "e"), Some("SipEdge-system-e")), Applied::Changed);
    assert!(told(&index, "e").is_empty());
}

#[test]
fn there_is_a_limit_and_room_again_after_a_delete() {
    let mut index = Index::default();
    for number in 0..MAX_EDGES.objects {
        index.apply(edge(&format!("e{number}"), 1)).unwrap();
    }
    assert_eq!(index.apply(edge("more", 1)), Err(Full::Objects(MAX_EDGES.objects)));
    assert!(index.is_short(Kind::SipEdge));
    index.apply(edge("e0", 2)).expect("what is there may change");
    index.delete(&key(Kind::SipEdge, "e0"), None);
    index.apply(edge("more", 1)).unwrap();
    index.reset(Kind::SipEdge, vec![edge("e1", 1)]).unwrap();
    assert!(!index.is_short(Kind::SipEdge));
    assert_eq!(index.keys(Kind::SipEdge).len(), 1);
    let large = secret("large", 1, "token", &"x".repeat(MAX_OBJECT_BYTES));
    index.apply(domain("d0", 1)).unwrap();
    index.apply(agent("a", 1, "d0", Some("large"))).unwrap();
    assert!(matches!(index.apply(large), Err(Full::Object(_))));
}

#[test]
fn reg_9_an_edge_is_told_where_a_backend_answers_and_nobody_of_other_services() {
    let Object::Agent(mut by_service) = agent("a", 1, "d0", None) else { panic!("an agent") };
    let http = by_service.spec.backend.mcp_http.as_mut().unwrap();
    http.url = None;
    http.service_ref = serde_json::from_value(serde_json::json!({"name": "billing", "port": 80})).unwrap();
    let mut index = index([edge("e", 1), domain("d0", 1), Object::Agent(by_service)]);
    let endpoints = |name: &str, address: &str| {
        Object::Endpoints(ObjectKey::new("acme", name), [(80, [address.parse().unwrap()].into())].into())
    };
    assert_eq!(index.apply(endpoints("other", "10.0.0.9:1")), Ok(Applied::Unchanged));
    assert_eq!(index.apply(endpoints("billing", "10.0.0.1:8080")), Ok(Applied::Changed));
    let wanted = wanted(&index, &ObjectKey::new("system", "e"));
    let json: serde_json::Value = serde_json::from_slice(&wanted[&key(Kind::Endpoints, "billing")].json).unwrap();
    assert_eq!(json, serde_json::json!({"ports": [{"port": 80, "addresses": ["10.0.0.1:8080"]}]}));
    assert!(!wanted.contains_key(&key(Kind::Endpoints, "other")));
    assert_eq!(index.delete(&key(Kind::Endpoints, "other"), None), Applied::Unchanged);
    assert_eq!(index.delete(&key(Kind::Endpoints, "billing"), None), Applied::Changed);
}

#[test]
fn sec_6_a_policy_for_which_there_is_no_room_closes_what_it_selects() {
    let all = [edge("e", 1), domain("d0", 1), agent("a", 1, "d0", None), agent("b", 1, "d0", None)];
    let mut index = index(all);
    let agents = |index: &Index| {
        let told = index.view().snapshot(index, &ObjectKey::new("system", "e")).agents;
        told.keys().map(|key| key.name.clone()).collect::<Vec<_>>()
    };
    let Object::Policy(mut large) = policy("p", 1, "b") else { panic!("a policy") };
    large.spec.rules[0].name = "r".repeat(MAX_OBJECT_BYTES);
    assert!(matches!(index.apply(Object::Policy(large)), Err(Full::Object(_))));
    assert!(index.is_short(Kind::McpCapabilityPolicy), "it is listed again");
    assert_eq!(agents(&index), ["a"]);
    index.apply(policy("p", 2, "b")).unwrap();
    assert_eq!(agents(&index), ["a", "b"]);
    // One that is gone closes nothing any more.
    let Object::Policy(mut large) = policy("p", 3, "b") else { panic!("a policy") };
    large.spec.rules[0].name = "r".repeat(MAX_OBJECT_BYTES);
    assert!(index.apply(Object::Policy(large)).is_err());
    index.reset(Kind::McpCapabilityPolicy, Vec::new()).unwrap();
    assert_eq!((agents(&index).len(), index.is_short(Kind::McpCapabilityPolicy)), (2, false));
}

#[test]
fn sec_6_a_policy_of_another_tenant_has_no_effect_on_a_domain() {
    let all = [
        edge("e", 1),
        owned_domain("d0", 1, &["acme"]),
        agent("a", 1, "d0", None),
        domain_policy("evil", "shut", 1, &["d0"]),
        domain_policy("acme", "ours", 1, &["d0"]),
    ];
    let mut index = index(all);
    let policies = |index: &Index| {
        let told = index.view().snapshot(index, &ObjectKey::new("system", "e"));
        assert_eq!(told.agents.len(), 1);
        told.policies.keys().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(policies(&index), ["acme/ours"]);
    let shut = Key::of(Kind::McpCapabilityPolicy, "evil", "shut");
    let verdict = &index.view().verdicts_of(&shut)[0];
    assert_eq!((verdict.reason, &*verdict.field), (Reason::RefNotPermitted, "spec.targetRefs[0]"));
    // Nor by being refused, nor by holding the domain when it is to go.
    let Object::Policy(mut broken) = domain_policy("evil", "shut", 2, &["d0"]) else { panic!("a policy") };
    broken.spec.default_action = crds::v1alpha1::Action::Deny;
    index.apply(Object::Policy(broken)).unwrap();
    assert_eq!(policies(&index), ["acme/ours"]);
    let held_by = |index: &Index| index.holders(&key(Kind::SipDomain, "d0")).map(Key::to_string).collect::<Vec<_>>();
    assert_eq!(held_by(&index), ["McpCapabilityPolicy acme/ours", "McpAgent acme/a"]);
    // The domain may change its mind, both ways.
    index.apply(domain_policy("evil", "shut", 3, &["d0"])).unwrap();
    index.apply(owned_domain("d0", 2, &["acme", "evil"])).unwrap();
    assert_eq!(policies(&index), ["acme/ours", "evil/shut"]);
    assert!(index.view().verdicts_of(&shut).is_empty());
    index.apply(owned_domain("d0", 3, &["evil"])).unwrap();
    assert_eq!(policies(&index), ["evil/shut"]);
}

#[test]
fn a_list_of_one_namespace_takes_nothing_away_from_another() {
    let mut index = index([edge("e", 1), domain("d0", 1), agent("a", 1, "d0", None), agent("b", 1, "d0", None)]);
    let revision = index.revision();
    index.reset_namespace(Kind::McpAgent, "elsewhere", Vec::new()).unwrap();
    assert_eq!((index.keys(Kind::McpAgent).len(), index.revision()), (2, revision));
    index.reset_namespace(Kind::McpAgent, "acme", vec![agent("b", 1, "d0", None)]).unwrap();
    assert_eq!(index.keys(Kind::McpAgent), [key(Kind::McpAgent, "b")].into());
    assert!(index.revision() != revision && index.awaited().is_empty());
    assert_eq!(Index::default().awaited().len(), 7);
}

fn names(index: &Index, edge: &str) -> Vec<String> {
    let told = index.view().snapshot(index, &ObjectKey::new("system", edge)).agents;
    told.keys().map(|key| key.name.clone()).collect()
}

#[test]
fn what_is_newly_named_is_looked_for_before_the_new_version_takes_effect() {
    let first = [edge("e", 1), domain("d0", 1), agent("a", 1, "d0", Some("s1")), secret("s1", 1, "token", "old")];
    let mut index = index(first);
    let version = |index: &Index| told(index, "e").into_iter().find(|line| line.contains("McpAgent"));
    let old = version(&index);
    assert!(old.is_some());

    index.apply(agent("a", 2, "d0", Some("s2"))).unwrap();
    assert_eq!(version(&index), old, "nobody knows yet whether s2 is there");
    assert_eq!(index.fetches().collect::<Vec<_>>(), [&key(Kind::Secret, "s2")]);
    assert!(index.content(&key(Kind::Secret, "s1")).is_some(), "the version before needs it");
    // What comes from a list that was older changes nothing, and a later version waits in its place.
    index.apply(agent("a", 1, "d0", Some("s1"))).unwrap();
    index.apply(agent("a", 3, "d0", Some("s2"))).unwrap();
    assert_eq!(version(&index), old);
    index.apply(secret("s2", 1, "token", "new")).unwrap();
    assert_eq!(version(&index).as_deref(), Some("McpAgent acme/a McpAgent-acme-a/3"));
    assert!(index.content(&key(Kind::Secret, "s1")).is_none() && index.is_complete());

    // It is not there: now that is known.
    index.apply(agent("a", 4, "d0", Some("s3"))).unwrap();
    assert_eq!(names(&index, "e"), ["a"]);
    index.delete(&key(Kind::Secret, "s3"), None);
    assert_eq!(names(&index, "e"), [""; 0]);
    let verdict = &index.view().verdicts_of(&key(Kind::McpAgent, "a"))[0];
    assert_eq!(
        (verdict.reason, index.agent(&key(Kind::McpAgent, "a").object).unwrap().generation),
        (Reason::SecretNotFound, 4)
    );
    // Who changed his mind names nothing of it any more.
    index.apply(secret("s3", 1, "token", "x")).unwrap();
    index.apply(agent("a", 5, "d0", Some("s4"))).unwrap();
    let Object::Agent(mut back) = agent("a", 4, "d0", Some("s3")) else { panic!("an agent") };
    back.metadata.resource_version = Some("6".into());
    index.apply(Object::Agent(back)).unwrap();
    assert!(index.fetches().next().is_none() && !index.references().is_named(&key(Kind::Secret, "s4")));
    assert_eq!(names(&index, "e"), ["a"]);
    // Neither what is gone nor what cannot be read waits any more.
    index.apply(agent("a", 7, "d0", Some("s4"))).unwrap();
    let unread = Unreadable { error: "?".into(), targets: None };
    index.apply(Object::Unreadable(key(Kind::McpAgent, "a"), unread)).unwrap();
    assert!(index.waiting.is_empty() && index.why_unreadable(&key(Kind::McpAgent, "a")).is_some());
    assert_eq!(names(&index, "e"), [""; 0]);
    index.apply(agent("a", 8, "d0", Some("s3"))).unwrap();
    index.delete(&key(Kind::Secret, "s3"), None);
    index.apply(secret("s3", 1, "token", "x")).unwrap();
    index.apply(agent("a", 9, "d0", Some("s4"))).unwrap();
    index.delete(&key(Kind::McpAgent, "a"), None);
    assert!(index.fetches().next().is_none() && index.waiting.is_empty());
    index.delete(&key(Kind::Secret, "s4"), None);
    assert!(index.agent(&key(Kind::McpAgent, "a").object).is_none());
}

#[test]
fn sec_6_a_policy_closes_at_once_what_waits_for_a_secret() {
    let mut index = index([edge("e", 1), domain("d0", 1), agent("a", 1, "d0", None)]);
    index.apply(agent("a", 2, "d0", Some("s2"))).unwrap();
    assert_eq!(names(&index, "e"), ["a"]);
    index.apply(broken_policy("p", 1, "a")).unwrap();
    assert_eq!(names(&index, "e"), [""; 0]);
}

#[test]
fn a_sip_edge_that_breaks_takes_no_agent_from_its_edges() {
    let mut index = index([edge("e", 1), domain("d0", 1), agent("a", 1, "d0", None)]);
    let Object::Edge(mut broken) = edge("e", 2) else { panic!("an edge") };
    let twice = broken.spec.listeners[0].clone();
    broken.spec.listeners.push(crds::v1alpha1::Listener { name: "again".into(), ..twice });
    index.apply(Object::Edge(broken)).unwrap();
    assert!(!index.edge(&ObjectKey::new("system", "e")).unwrap().findings.is_empty());
    assert_eq!(names(&index, "e"), ["a"]);
    assert!(
        told(&index, "e").contains(&"SipEdge system/e SipEdge-system-e/2".to_owned()),
        "so that it can say why not"
    );
    assert!(index.view().objects.edges.is_empty(), "it does not stand");
    // Nor one that this operator cannot read, as after a roll back.
    let unread = Unreadable { error: "?".into(), targets: None };
    index.apply(Object::Unreadable(key(Kind::SipEdge, "e"), unread.clone())).unwrap();
    assert_eq!(names(&index, "e"), ["a"]);

    // Where it was never read nobody knows what its edges should hold, and the others keep the agents that name it, too.
    let Object::Agent(mut both) = agent("a", 1, "d0", None) else { panic!("an agent") };
    both.spec.parent_refs = serde_json::from_value(serde_json::json!([
        {"kind": "SipEdge", "namespace": "system", "name": "e"},
        {"kind": "SipEdge", "namespace": "system", "name": "f"},
    ]))
    .unwrap();
    let all = [edge("f", 1), domain("d0", 1), Object::Agent(both), Object::Unreadable(key(Kind::SipEdge, "e"), unread)];
    let index = super::super::testing::index(all);
    assert_eq!(names(&index, "f"), ["a"]);
    let mut wants = crate::plan::delta::Wants::default();
    wants.update(&index);
    assert!(wants.of(&ObjectKey::new("system", "e")).is_none());
    assert!(wants.of(&ObjectKey::new("system", "f")).is_some());
}

#[test]
fn nothing_is_complete_before_the_numbers_of_the_tenants_were_read() {
    let mut index = Index::default();
    for kind in Kind::ALL {
        index.reset(kind, if kind == Kind::SipDomain { vec![domain("d0", 1)] } else { Vec::new() }).unwrap();
    }
    assert!(!index.is_complete(), "a domain that an edge holds would be taken away");
    index.numbers_are_known();
    assert!(index.is_complete(), "one that never had a number waits for it");
    let Object::Domain(mut had) = domain("d0", 2) else { panic!("a domain") };
    had.status = Some(crds::v1alpha1::SipDomainStatus { tenant_number: Some(3), ..Default::default() });
    index.apply(Object::Domain(had)).unwrap();
    assert!(!index.is_complete(), "its status says that it had one, which was lost and will be given again");
    index.number("d0.example", 3);
    assert!(index.is_complete());
}

#[test]
fn a_sip_edge_whose_store_cannot_give_the_class_does_not_serve_the_domain_and_nobody_else_minds() {
    let Object::Domain(mut fsync) = domain("d0", 1) else { panic!("a domain") };
    fsync.spec.durability = crds::v1alpha1::Durability::Fsync;
    let Object::Edge(mut shared) = edge("redis", 1) else { panic!("an edge") };
    shared.spec.session_store_ref = serde_json::from_value(serde_json::json!({"name": "s"})).unwrap();
    let keys = Object::Secret({
        let Object::Secret(mut keys) = secret("redis-keys", 1, "x", "x") else { panic!("a secret") };
        keys.metadata.namespace = Some("system".into());
        keys
    });
    let all = [
        Object::Edge(shared),
        edge("memory", 1),
        crate::testing::store("s", 1),
        keys,
        Object::Domain(fsync),
        agent("a", 1, "d0", None),
    ];
    let mut index = index(all);
    assert_eq!((names(&index, "redis"), names(&index, "memory").len()), (vec!["a".to_owned()], 0));
    assert!(index.view().verdicts_of(&key(Kind::SipDomain, "d0")).is_empty());
    let verdict = &index.view().verdicts_of(&key(Kind::SipEdge, "memory"))[0];
    assert_eq!((verdict.reason, verdict.stands), (Reason::DurabilityNotAvailable, true));
    // With it alone the domain cannot be had.
    index.delete(&key(Kind::SipEdge, "redis"), None);
    let verdict = &index.view().verdicts_of(&key(Kind::SipDomain, "d0"))[0];
    assert_eq!((verdict.reason, &*verdict.field), (Reason::DurabilityNotAvailable, "spec.durability"));
}

#[test]
fn an_edge_that_goes_takes_an_agent_from_itself_only() {
    let Object::Agent(mut both) = agent("a", 1, "d0", None) else { panic!("an agent") };
    both.spec.parent_refs = serde_json::from_value(serde_json::json!([
        {"kind": "SipEdge", "namespace": "system", "name": "e"},
        {"kind": "SipEdge", "namespace": "system", "name": "f"},
    ]))
    .unwrap();
    let mut index = index([edge("e", 1), edge("f", 1), domain("d0", 1), Object::Agent(both)]);
    index.delete(&key(Kind::SipEdge, "f"), None);
    assert_eq!(names(&index, "e"), ["a"]);
    let verdict = &index.view().verdicts_of(&key(Kind::McpAgent, "a"))[0];
    assert_eq!((verdict.reason, &*verdict.field, verdict.stands), (Reason::EdgeNotFound, "spec.parentRefs[1]", true));
    index.delete(&key(Kind::SipEdge, "e"), None);
    assert!(index.view().objects.agents.is_empty());
}

/// The API server of a test: the last form of each object.
type Cluster = BTreeMap<Key, Object>;

#[derive(Clone, Debug)]
enum Step {
    Apply(usize, u8),
    Delete(usize),
    Reset(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..NAMES, any::<u8>()).prop_map(|(name, form)| Step::Apply(name, form)),
        2 => (0..NAMES).prop_map(Step::Delete),
        1 => (0..Kind::ALL.len()).prop_map(Step::Reset),
    ]
}

const NAMES: usize = 14;

fn object(name: usize, form: u8, version: u64) -> Object {
    let odd = form % 2 == 1;
    let domain_name = if form & 2 == 0 { "d0" } else { "d1" };
    let credential = (form & 4 == 0).then_some(if form & 8 == 0 { "s0" } else { "s1" });
    match name {
        0 if odd => tls_edge("e0", version, "s0"),
        0 => edge("e0", version),
        1 => edge("e1", version),
        2 => domain("d0", version),
        3 => domain("d1", version),
        4..=7 => agent(&format!("a{}", name - 4), version, domain_name, credential),
        8 | 9 if odd => broken_policy(&format!("p{}", name - 8), version, &format!("a{}", form >> 6)),
        8 | 9 => policy(&format!("p{}", name - 8), version, &format!("a{}", form >> 6)),
        10 if odd => {
            Object::Unreadable(key(Kind::McpCapabilityPolicy, "p2"), Unreadable { error: "?".into(), targets: None })
        }
        10 => policy("p2", version, "a0"),
        11 => secret("s0", version, if odd { "token" } else { "wrong" }, &format!("v{form}")),
        12 => secret("s1", version, "token", &format!("v{form}")),
        _ => config_map("c0", version),
    }
}

fn everything(index: &Index) -> Vec<Vec<String>> {
    let kept = Kind::ALL.into_iter().flat_map(|kind| index.keys(kind)).map(|key| {
        let version = index.content(&key).map(|content| content.version.to_string());
        format!("{key} {version:?}")
    });
    vec![told(index, "e0"), told(index, "e1"), kept.collect(), vec![format!("{:?}", index.references())]]
}

proptest! {
    /// Whatever the watches say in whatever order: the end is what the final objects alone give.
    #[test]
    fn any_order_of_changes_ends_where_the_final_objects_alone_do(steps in proptest::collection::vec(step(), 0..60)) {
        let mut cluster = Cluster::new();
        let mut watched = index([]);
        for (version, step) in steps.into_iter().enumerate() {
            match step {
                Step::Apply(name, form) => {
                    let object = object(name, form, version as u64 + 1);
                    cluster.insert(object.key(), object.clone());
                    watched.apply(object).unwrap();
                }
                Step::Delete(name) => {
                    let key = object(name, 0, 1).key();
                    cluster.remove(&key);
                    watched.delete(&key, None);
                }
                Step::Reset(kind) => {
                    let kind = Kind::ALL[kind];
                    let listed = cluster.values().filter(|object| object.key().kind == kind).cloned().collect();
                    watched.reset(kind, listed).unwrap();
                }
            }
            let objects: Vec<_> = cluster.values().cloned().collect();
            serve(&mut watched, &objects);
            prop_assert!(watched.is_complete());
        }
        prop_assert_eq!(everything(&watched), everything(&index(cluster.into_values())));
    }
}
