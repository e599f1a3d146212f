//! Every example is valid and does what its comments say.

use crds::core_v1::users::parse_users;
use crds::manifest::{self, ObjectKey, Snapshot};
use crds::policy::{compile, misfits};
use crds::v1alpha1::{DigestAlgorithm, Durability, ListenerProtocol, OnFailover, OnOutage, StoreKind, TargetKind};
use mcp_sip::policy::{Arguments, Policies, Policy, Principal, Request};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

fn loaded() -> Snapshot {
    let loaded = manifest::load([examples()]);
    assert_eq!(loaded.problems, []);
    loaded.objects
}

#[test]
fn the_examples_load_without_a_problem() {
    let objects = loaded();
    assert_eq!(objects.domains["demo"].spec.domain, "demo.example");
    assert_eq!(objects.edges.len(), 1);
    assert_eq!(objects.agents.len(), 2);
    let echo = &objects.agents[&ObjectKey::new("default", "echo")];
    assert_eq!(echo.spec.backend.mcp_http.as_ref().unwrap().url.as_deref(), Some("http://127.0.0.1:3900/mcp"));
    assert_eq!(echo.spec.in_flight.timeout_seconds, 60);
    assert_eq!(echo.origin.place(), format!("{}:2", examples().join("agents.yaml").display()));
    assert_eq!(echo.origin.line_of("spec.backend.mcpHttp.url"), 10);
    assert_eq!(echo.origin.line_of("spec.backend.mcpHttp.credentialRef.name"), 9, "the nearest that is written");
}

#[test]
fn sec_4_the_user_of_the_examples_has_the_password_of_its_comment() {
    let objects = loaded();
    let users = parse_users(&objects.secrets[&ObjectKey::new("default", "demo-users")]);
    let realm = objects.domains["demo"].spec.digest_realm().unwrap();
    let ha1 = Sha256::digest(format!("alice:{realm}:wonderland"));
    assert_eq!(users["alice"][&DigestAlgorithm::Sha256].as_bytes(), &ha1[..]);
}

#[test]
fn the_policy_of_the_examples_lets_anybody_call_all_but_one_tool() {
    let objects = loaded();
    let domain: Vec<Arc<Policy>> = objects
        .policies_for(TargetKind::SipDomain, &ObjectKey::new("", "demo"))
        .map(|(key, policy)| Arc::new(compile(key, &policy.spec).unwrap()))
        .collect();
    let policies = Policies { agent: &[], domain: &domain };
    let alice = Principal::User("sip:alice@demo.example");
    for (principal, tool, allowed) in [
        (Principal::Anonymous, "echo", true),
        (Principal::Anonymous, "get-env", false),
        (alice, "echo", true),
        (alice, "get-env", true),
        (Principal::User("sip:alice@elsewhere.example"), "echo", false),
    ] {
        assert_eq!(policies.evaluate(&Request::call(principal, tool)).allowed, allowed, "{principal:?} {tool}");
    }
    assert!(policies.evaluate(&Request::method(Principal::Anonymous, "tools/list", None, Arguments::Unknown)).allowed);
    assert!(policies.anonymous_allowed());
}

#[test]
fn the_tls_example_needs_its_secret() {
    let mut files =
        ["domain.yaml", "agents.yaml", "policies.yaml", "tls/edge.yaml"].map(|f| examples().join(f)).to_vec();
    let without = manifest::load(&files);
    assert!(without.objects.edges.is_empty());
    assert_eq!(without.problems.len(), 2, "{:#?}", without.problems);
    let expected = "spec.listeners[2].tls.certificateRefs[0]: Secret default/demo-tls is not there or was refused; \
        add it to the manifests or correct the name";
    assert!(without.problems[0].to_string().ends_with(expected), "{}", without.problems[0]);

    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret.yaml");
    fs::write(
        &secret,
        "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nmetadata: {name: demo-tls, creationTimestamp: null}\nstringData:\n  \
            tls.crt: '-----BEGIN CERTIFICATE-----'\n  tls.key: '-----BEGIN PRIVATE KEY-----'\n",
    )
    .unwrap();
    files.push(secret);
    let with = manifest::load(&files);
    assert_eq!(with.problems, []);
    let listeners = &with.objects.edges[&ObjectKey::new("default", "demo")].spec.listeners;
    assert_eq!(listeners.iter().filter(|listener| listener.protocol.is_secure()).count(), 2);
    assert_eq!(listeners[3].protocol, ListenerProtocol::Wss);
}

#[test]
fn the_shared_example_needs_the_keys_that_its_comment_makes() {
    let mut files =
        ["domain.yaml", "agents.yaml", "policies.yaml", "shared/edge.yaml"].map(|f| examples().join(f)).to_vec();
    let without = manifest::load(&files);
    assert!(without.objects.edges.is_empty());
    assert_eq!(without.problems.len(), 1, "{:#?}", without.problems);
    let expected = "make it with `sipmcp keys --edge demo --namespace default`";
    assert!(without.problems[0].message.ends_with(expected), "{}", without.problems[0]);

    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys.yaml");
    let (token, naming) = ("5a".repeat(64), "a5".repeat(32));
    let text = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: demo-keys}}\nstringData: {{'0': {token:?}, naming: {naming:?}, current: '0'}}\n"
    );
    fs::write(&keys, text).unwrap();
    files.push(keys);
    let with = manifest::load(&files);
    assert_eq!(with.problems, []);
    let key = ObjectKey::new("default", "demo");
    let store = with.objects.store_of(&key, &with.objects.edges[&key]).unwrap();
    let StoreKind::Redis(redis) = store.spec.kind().unwrap() else { panic!("{:?}", store.spec) };
    assert_eq!((&*redis.key_prefix, &*redis.addresses), ("sipmcp:", &["127.0.0.1:6379".to_owned()][..]));
    assert_eq!(store.spec.on_outage, OnOutage::KeepExisting);
    assert_eq!((store.spec.ttl.idle.seconds(), store.spec.ttl.absolute.seconds()), (Some(300), Some(86_400)));
}

#[test]
fn the_file_example_can_give_fsync_and_needs_no_keys() {
    let files = ["domain.yaml", "agents.yaml", "policies.yaml", "file/edge.yaml"].map(|f| examples().join(f));
    let loaded = manifest::load(files);
    assert_eq!(loaded.problems, []);
    let kind = loaded.objects.stores[&ObjectKey::new("default", "local")].spec.kind().unwrap();
    assert!(matches!(kind, StoreKind::File(file) if file.path == "/var/lib/sipmcp/demo.redb"), "{kind:?}");
    assert!(kind.can_give(Durability::Fsync) && !kind.can_give(Durability::Replica) && !kind.is_shared());
    let domain = &loaded.objects.domains["demo"].spec;
    assert_eq!((domain.durability, domain.data_protection.retention.seconds()), (Durability::Memory, Some(0)));
}

#[test]
fn the_examples_for_a_cluster_are_valid_there_and_refused_from_files() {
    let folder = examples().join("kubernetes");
    let loaded = manifest::load_for_cluster([&folder]);
    assert_eq!(loaded.problems, []);
    let agent = &loaded.objects.agents[&ObjectKey::new("acme", "billing")];
    let url = agent.spec.backend.mcp_http.as_ref().unwrap().url_in("acme");
    assert_eq!(url.as_deref(), Some("https://billing-mcp.acme.svc:8080/mcp"));
    assert_eq!(agent.spec.in_flight.on_failover("refund.create"), OnFailover::TaskOnly);
    assert_eq!(agent.spec.in_flight.on_failover("another"), OnFailover::FailRetryable);
    let edge = |name: &str| &loaded.objects.edges[&ObjectKey::new("sipmcp-system", name)].spec;
    assert_eq!(["edge", "inner", "nodes"].map(|name| edge(name).drain.grace_seconds()), [60, 640, 40]);
    assert_eq!(["edge", "inner", "nodes"].map(|name| edge(name).first_replicas()), [Some(3), Some(3), None]);
    let served = |edge: &str| {
        let key = ObjectKey::new("sipmcp-system", edge);
        let edge = &loaded.objects.edges[&key];
        loaded.objects.serves(&key, edge, &ObjectKey::new("acme", "billing"), agent)
    };
    assert!(served("edge"));
    assert!(!served("inner"), "parentRefs does not name it");

    let from_files = manifest::load([&folder]).problems;
    for field in ["spec.backend.mcpHttp.serviceRef", "spec.network.advertise.from", "spec.allowedNamespaces.selector"] {
        assert!(from_files.iter().any(|problem| problem.field == field), "{field}: {from_files:#?}");
    }
}

#[test]
fn a_condition_is_held_against_the_tools_that_edges_report() {
    let objects =
        manifest::parse([("tenant.yaml", fs::read(examples().join("kubernetes/tenant.yaml")).unwrap())]).objects;
    let key = ObjectKey::new("acme", "billing-callers");
    let policy = compile(&key, &objects.policies[&key].spec).unwrap();
    let place = objects.policies[&key].spec.rules.iter().position(|rule| rule.when.is_some()).unwrap();
    let found = |amount: &str, region: &str| {
        let properties = serde_json::json!({"amount": {"type": amount}, region: {"type": "string"}});
        let schema = serde_json::json!({"type": "object", "properties": properties});
        let found = misfits(&policy, &[("refund.create", &schema), ("crm.lookup", &serde_json::json!({}))]);
        found.into_iter().map(|finding| (finding.field, finding.message)).collect::<Vec<_>>()
    };
    assert_eq!(found("number", "region"), []);
    let field = || format!("spec.rules[{place}].when");
    let missing = "for tool refund.create: the tool has no argument region".to_owned();
    assert_eq!(found("number", "land"), [(field(), missing)]);
    let wrong = found("string", "region");
    let [(at, message)] = &wrong[..] else { panic!("{wrong:?}") };
    assert!(*at == field() && message.contains("fails for arguments that the tool takes"), "{message}");
}
