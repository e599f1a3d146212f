//! Manifests → configuration, without sockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use crds::manifest::{ObjectKey, parse};
use crds::v1alpha1::{AdvertiseFrom, ServiceRef};
use edge::config_build::keys::{MADE, Made};
use edge::config_build::{Builder, Built};
use edge_core::config::{
    Advertise, AgentBackend, CapabilitySource, Config, DrainStrategy, OnFailover, OnOutage, ToolEffect, Ttl,
};
use edge_core::input::Transport;

use crate::certificates::{Authority, Pair};
use crate::support::{DOMAIN, edge};

static NUMBERS: AtomicU16 = AtomicU16::new(1);

const AGENTS: &str = "\
apiVersion: sipmcp.dev/v1alpha1
kind: McpAgent
metadata: {name: echo}
spec:
  address: {user: Echo, domainRef: {name: demo}}
  backend:
    mcpHttp: {url: \"https://127.0.0.1:3900/mcp\", revisions: [\"2025-11-25\"], tls: {caBundleRef: {name: ca}}, credentialRef: {name: token}}
  capabilities:
    source: Intersect
    tools: [{name: echo, version: 3, effect: ReadOnly}, {name: drop}]
    schemas: [\"urn:acme:invoice:1\", plain]
    disclosure: All
  session: {idleTimeout: 2m, maxDuration: 1h, maxConcurrent: 3}
  inFlight: {timeoutSeconds: 7, default: FailRetryable, tools: [{name: echo, onFailover: Replay}]}
---
apiVersion: sipmcp.dev/v1alpha1
kind: McpAgent
metadata: {name: phone}
spec:
  address: {user: alice, domainRef: {name: demo}}
  backend: {sipContact: {authentication: Digest}}
  capabilities: {source: Declared}
  registration: {profile: Pool, expiresSeconds: 600}
---
apiVersion: sipmcp.dev/v1alpha1
kind: McpCapabilityPolicy
metadata: {name: quiet}
spec:
  targetRefs: [{kind: McpAgent, name: echo}]
  rules: [{name: all, from: [{anonymous: {}}], action: Allow, audit: None}]
---
apiVersion: v1
kind: Secret
metadata: {name: token}
stringData: {token: \"s3cret\\n\"}
";

fn bundle(authority: &Authority) -> String {
    let pem: String = authority.pem().trim().lines().map(|line| format!("    {line}\n")).collect();
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: ca}}\ndata:\n  ca.crt: |\n{pem}")
}

fn builder() -> Builder {
    Builder::new(ObjectKey::new("default", "demo"), Made::new(&[7; MADE]), false)
}

#[track_caller]
fn build(builder: &mut Builder, documents: &[&str]) -> Built {
    let loaded = parse(documents.iter().enumerate().map(|(i, text)| (format!("{i}.yaml"), text.as_bytes())));
    assert_eq!(loaded.problems, [], "of the reader");
    for domain in builder.unnumbered(&loaded.objects) {
        // The store's part: each number once.
        let tenant = NUMBERS.fetch_add(1, Ordering::Relaxed);
        builder.numbered(domain, tenant);
    }
    builder.build(&loaded.objects).expect("the edge is there")
}

#[test]
fn everything_that_the_manifests_say_reaches_the_core_and_the_backends() {
    let edge = edge("{name: udp, protocol: UDP, port: 5060, address: 127.0.0.1}").replace(
        "  insecure: true\n",
        "  insecure: true\n  limits: {sessionsPerPod: 5, inFlightPerSession: 6, sipBodyBytes: 2048, messageBytes: 4096}\n",
    );
    let domain = DOMAIN.replace("  domain: demo.example\n", "  domain: demo.example\n  quota: {maxSessions: 9}\n");
    assert_ne!(domain, DOMAIN);
    let built = build(&mut builder(), &[&edge, &domain, AGENTS, &bundle(&Authority::new())]);
    assert_eq!(built.problems, []);
    let config = &built.config;
    assert_eq!((config.epoch, config.edge.name.as_str()), (1, "default/demo"));
    assert_eq!(config.edge.advertise, Advertise::Static(Some([127, 0, 0, 1].into())));
    let limits = &config.edge.limits;
    assert_eq!(
        (limits.sessions_per_pod, limits.in_flight_per_session, limits.sip_body_bytes, limits.message_bytes),
        (5, 6, 2048, 4096)
    );
    let drain = &config.edge.drain;
    assert_eq!((drain.in_flight_seconds, drain.dialog_seconds, drain.strategy), (5, 2, DrainStrategy::Handover));
    assert_eq!(built.listeners[0].address, "127.0.0.1:5060".parse().unwrap());

    let domain = &config.domains["demo.example"];
    assert_eq!(domain.allow_plain, [Transport::Udp, Transport::Tcp, Transport::Ws]);
    assert_eq!(domain.policies.len(), 1);
    assert_eq!((domain.max_sessions, domain.max_payload_bytes), (Some(9), Some(1_048_576)));
    let digest = domain.digest.as_ref().unwrap();
    assert_eq!((digest.realm.as_str(), &digest.algorithms[..]), ("demo.example", &["SHA-256".to_owned()][..]));
    assert_eq!(
        digest.users["alice"]["SHA-256"].as_str(),
        "4b9a9ba7085b0b293f760a403b669be8a0d84b3094a885ce6d5990e015055708"
    );

    // The user part keeps its case.
    let echo = &config.agents[&("demo.example".to_owned(), "Echo".to_owned())];
    assert_eq!(echo.key, "default/echo");
    assert_eq!(echo.backend, AgentBackend::McpHttp { revisions: vec!["2025-11-25".to_owned()] });
    assert_eq!((echo.timeout_ms, echo.policies.len(), echo.capabilities.disclose_all), (7000, 1, true));
    assert_eq!(echo.capabilities.source, CapabilitySource::Intersect);
    assert_eq!(echo.session.idle_timeout_ms, Some(120_000));
    assert_eq!((echo.session.max_concurrent, echo.session.max_duration_ms), (Some(3), Some(3_600_000)));
    let on_failover = |tool: &str| echo.on_failover.of(tool);
    assert_eq!((on_failover("echo"), on_failover("drop")), (OnFailover::Replay, OnFailover::FailRetryable));
    assert_eq!((echo.capabilities.tools[0].version, echo.capabilities.tools[0].effect), (3, ToolEffect::ReadOnly));
    assert_eq!(echo.capabilities.tools[1].effect, ToolEffect::Destructive);
    assert_eq!(echo.capabilities.schemas, ["urn:acme:invoice:1", "plain"]);
    let phone = &config.agents[&("demo.example".to_owned(), "alice".to_owned())];
    assert!(phone.backend.is_sip_contact());
    let profile = phone.registration;
    assert_eq!((profile.min, profile.max, profile.default, profile.jitter), (300, 900, 600, true));

    let backend = &built.backends["default/echo"];
    assert_eq!((built.backends.len(), backend.url.as_str()), (1, "https://127.0.0.1:3900/mcp"));
    assert!(backend.ca_bundle.is_some() && backend.bearer.is_some());
    assert_eq!(backend.limits.message_bytes, 4096);
    assert!(built.unaudited.contains("default/quiet/all"));
}

#[test]
fn what_a_domain_and_a_store_say_reaches_the_core_and_their_defaults_where_they_say_nothing() {
    const STORE: &str = "apiVersion: sipmcp.dev/v1alpha1\nkind: SessionStore\nmetadata: {name: main}\nspec:\n  embedded: {memory: {}}\n";
    let edge = edge("{name: udp, protocol: UDP, port: 5060, address: 127.0.0.1}") + "  sessionStoreRef: {name: main}\n";
    let said = "  optionTags: [acme-mcp]\n  quota: {toolCallsPerSecond: 12, maxPayloadBytes: 2048}\n  \
                outage: {refreshRegistrations: true}\n  dataProtection: {retention: 2h}\n";
    let full = DOMAIN.replace("  domain: demo.example\n", &format!("  domain: demo.example\n{said}"));
    let store = STORE.to_owned() + "  ttl: {idle: 10m, absolute: 2h}\n  onOutage: RejectAll\n";
    let told = |domain: &str, store: &str| {
        let built = build(&mut builder(), &[&edge, domain, store]);
        assert_eq!(built.problems, []);
        let Config { domains, ttl, on_outage, .. } = built.config;
        (domains["demo.example"].clone(), (ttl.idle_ms, ttl.absolute_ms), on_outage)
    };
    let (domain, ttl, on_outage) = told(&full, &store);
    assert_eq!(domain.option_tags, ["acme-mcp"]);
    assert_eq!((domain.tool_calls_per_second, domain.max_payload_bytes), (Some(12), Some(2048)));
    assert!(domain.refresh_in_outage);
    assert_eq!(domain.retention_ms, 2 * 60 * 60 * 1000);
    assert_eq!((ttl, on_outage), ((10 * 60_000, 2 * 60 * 60_000), OnOutage::RejectAll));

    let (domain, ttl, on_outage) = told(DOMAIN, STORE);
    assert!(domain.option_tags.is_empty() && !domain.refresh_in_outage);
    assert_eq!((domain.tool_calls_per_second, domain.max_sessions), (None, None));
    assert_eq!(ttl, (Ttl::default().idle_ms, Ttl::default().absolute_ms));
    assert_eq!(on_outage, OnOutage::KeepExisting);
}

#[test]
fn a_tenant_keeps_its_number_and_nobody_else_gets_it() {
    let other = DOMAIN
        .replace("name: demo}", "name: aaa}")
        .replace("demo.example", "aaa.example")
        .replace("demo-users", "aaa-users");
    let other =
        other.replace("name: demo}]", "name: aaa}]").replace("metadata: {name: everybody}", "metadata: {name: all}");
    let edge = edge("{name: udp, protocol: UDP, port: 5060}");
    let mut builder = builder();
    let number = |built: &Built, domain: &str| built.config.domains[domain].tenant;
    let first = build(&mut builder, &[&edge, DOMAIN]);
    let both = build(&mut builder, &[&edge, &other, DOMAIN]);
    assert_eq!(number(&first, "demo.example"), number(&both, "demo.example"));
    assert_ne!(number(&both, "aaa.example"), number(&both, "demo.example"));
    let gone = build(&mut builder, &[&edge, &other]);
    let back = build(&mut builder, &[&edge, DOMAIN]);
    assert_eq!(number(&gone, "aaa.example"), number(&both, "aaa.example"));
    assert_eq!(number(&back, "demo.example"), number(&first, "demo.example"));
    assert_eq!(back.config.epoch, 4);
}

#[test]
fn token_keys_come_from_the_secret_and_the_current_one_seals() {
    let edge = edge("{name: udp, protocol: UDP, port: 5060}");
    let secret =
        |data: &str| format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: demo-keys}}\nstringData: {data}\n");
    let (a, b) = ("0a".repeat(64), "0b".repeat(64));
    let kids = |built: &Built| built.config.token_keys.iter().map(|key| (key.kid, key.siv[0])).collect::<Vec<_>>();
    let mut builder = builder();
    assert_eq!(kids(&build(&mut builder, &[&edge, DOMAIN])), [(0, 7)], "made for this process");
    let both = secret(&format!("{{\"3\": \"{a}\", \"4\": \"{b}\"}}"));
    assert_eq!(kids(&build(&mut builder, &[&edge, DOMAIN, &both])), [(4, 11), (3, 10)]);
    // A new key is accepted everywhere before it is used anywhere.
    let not_yet = secret(&format!("{{\"3\": \"{a}\", \"4\": \"{b}\", current: \"3\"}}"));
    assert_eq!(kids(&build(&mut builder, &[&edge, DOMAIN, &not_yet])), [(3, 10), (4, 11)]);
    for wrong in [
        "{\"3\": \"short\"}".to_owned(),
        format!("{{\"300\": \"{a}\"}}"),
        format!("{{\"3\": \"{a}\", current: \"9\"}}"),
        format!("{{\"1\": \"{a}\", \"2\": \"{a}\", \"3\": \"{a}\"}}"),
    ] {
        let built = build(&mut builder, &[&edge, DOMAIN, &secret(&wrong)]);
        assert_eq!(kids(&built), [(3, 10), (4, 11)], "the last good ones stay");
        let problem = built.problems[0].to_string();
        assert!(problem.starts_with("2.yaml:"), "{problem}");
        assert!(wrong.contains("\"1\"") || problem.starts_with("2.yaml:4: stringData."), "{problem}");
        assert!(!problem.contains("0a0a"), "{problem}");
    }
}

#[test]
fn a_certificate_that_cannot_be_used_keeps_the_last_good_one() {
    let edge = edge(
        "{name: sips, protocol: TLS, port: 5061, tls: {certificateRefs: [{name: edge-tls}], minVersion: \"1.3\"}}",
    );
    let authority = Authority::new();
    let (one, two) = (authority.server("demo.example"), authority.server("demo.example"));
    let mixed = Pair { certificate: two.certificate.clone(), key: one.key.clone() };
    let shown = |built: &Built| built.listeners[0].tls.as_ref().unwrap().keys[0].cert[0].to_vec();
    let mut fresh = builder();
    let built = build(&mut fresh, &[&edge, DOMAIN, &mixed.secret("edge-tls")]);
    assert!(built.listeners.is_empty(), "never good: no listener without a certificate");
    assert_eq!(built.listener_problems.len(), 1);

    let mut builder = builder();
    let good = build(&mut builder, &[&edge, DOMAIN, &one.secret("edge-tls")]);
    let still = build(&mut builder, &[&edge, DOMAIN, &mixed.secret("edge-tls")]);
    assert_eq!(shown(&still), shown(&good));
    let problem = still.listener_problems[0].to_string();
    assert!(problem.starts_with("0.yaml:"), "{problem}");
    assert!(problem.contains("tls.key is not the key of the first certificate in tls.crt"), "{problem}");
    assert_ne!(shown(&build(&mut builder, &[&edge, DOMAIN, &two.secret("edge-tls")])), shown(&good));
}

#[test]
fn an_edge_that_vanishes_goes_on_and_one_that_never_was_is_none() {
    let edge = edge("{name: udp, protocol: UDP, port: 5060}");
    let mut builder = builder();
    assert!(builder.build(&parse([("0.yaml", DOMAIN)]).objects).is_none());
    build(&mut builder, &[&edge, DOMAIN]);
    let built = builder.build(&parse([("0.yaml", DOMAIN)]).objects).unwrap();
    assert_eq!(built.listeners.len(), 1);
    assert!(built.problems[0].message.contains("goes on as it was"));
}

/// From an operator: what files may not say.
fn advertised(builder: &mut Builder, from: AdvertiseFrom) -> Built {
    let text = edge("{name: udp, protocol: UDP, port: 5060, address: 127.0.0.1}");
    let mut objects = parse([("0.yaml", &*text), ("1.yaml", DOMAIN)]).objects;
    let sourced = objects.edges.get_mut(&ObjectKey::new("default", "demo")).unwrap();
    let advertise = &mut Arc::make_mut(&mut sourced.object).spec.network.advertise;
    (advertise.from, advertise.address) = (Some(from), None);
    builder.build(&objects).unwrap()
}

#[test]
fn an_address_that_nobody_told_is_not_taken_for_the_bound_one() {
    for from in [AdvertiseFrom::NodeExternalIP, AdvertiseFrom::NodeInternalIP, AdvertiseFrom::ServiceAddress] {
        let mut builder = builder();
        let refused = advertised(&mut builder, from);
        let [problem] = &refused.listener_problems[..] else { panic!("{:?}", refused.listener_problems) };
        let problem = problem.to_string();
        assert!(problem.contains("spec.network.advertise.from") && problem.contains(from.as_str()), "{problem}");
        // With a good one before it that one stays.
        let good = edge("{name: udp, protocol: UDP, port: 5060, address: 127.0.0.1}");
        let before = build(&mut builder, &[&good, DOMAIN]).config.edge.advertise;
        let after = advertised(&mut builder, from);
        assert_eq!(after.config.edge.advertise, before);
        assert_eq!((after.listener_problems.len(), after.problems.len()), (0, 1));
    }
}

#[test]
fn an_address_that_an_operator_told_is_what_the_edge_writes() {
    let text = edge("{name: udp, protocol: UDP, port: 5060, address: 127.0.0.1}");
    for (told, is) in [
        ("192.0.2.9", Advertise::Static(Some([192, 0, 2, 9].into()))),
        ("LB.example", Advertise::Name("lb.example".to_owned())),
    ] {
        let mut objects = parse([("0.yaml", &*text), ("1.yaml", DOMAIN)]).objects;
        objects.reach = Some(told.to_owned());
        let sourced = objects.edges.get_mut(&ObjectKey::new("default", "demo")).unwrap();
        let advertise = &mut Arc::make_mut(&mut sourced.object).spec.network.advertise;
        (advertise.from, advertise.address) = (Some(AdvertiseFrom::ServiceAddress), None);
        let built = builder().build(&objects).unwrap();
        assert_eq!((built.config.edge.advertise, built.listener_problems), (is, vec![]));
    }
}

#[test]
fn a_service_is_asked_at_its_port_and_path_and_by_https_where_it_is_trusted() {
    let edge = edge("{name: udp, protocol: UDP, port: 5060, address: 127.0.0.1}");
    let bundle = bundle(&Authority::new());
    for (path, trusted, url) in [
        (None, false, "http://billing.default.svc:8080/mcp"),
        (Some("/v2/tools"), false, "http://billing.default.svc:8080/v2/tools"),
        (Some("/"), true, "https://billing.default.svc:8080/"),
    ] {
        // From an operator: what files may not say.
        let mut objects =
            parse([("0.yaml", &*edge), ("1.yaml", DOMAIN), ("2.yaml", AGENTS), ("3.yaml", &bundle)]).objects;
        let agent = objects.agents.get_mut(&ObjectKey::new("default", "echo")).unwrap();
        let http = Arc::make_mut(&mut agent.object).spec.backend.mcp_http.as_mut().unwrap();
        (http.url, http.path) = (None, path.map(str::to_owned));
        http.service_ref = Some(ServiceRef { name: "billing".into(), port: 8080 });
        http.tls = http.tls.take().filter(|_| trusted);
        let mut builder = builder();
        builder.numbered("demo.example".to_owned(), 1);
        let built = builder.build(&objects).unwrap();
        assert_eq!(built.problems, []);
        assert_eq!(built.backends["default/echo"].url, url);
    }
}

#[test]
fn an_agent_is_at_the_edges_that_its_parent_refs_name_and_that_allow_its_domain() {
    let agent = |parents: &str| {
        format!(
            "apiVersion: sipmcp.dev/v1alpha1\nkind: McpAgent\nmetadata: {{name: echo}}\nspec:\n  address: {{user: echo, domainRef: {{name: demo}}}}\n  \
             parentRefs: {parents}\n  backend: {{mcpHttp: {{url: 'http://127.0.0.1:1/mcp'}}}}\n  capabilities: {{}}\n"
        )
    };
    let listener = |allowed: &str| {
        edge(&format!("{{name: udp, protocol: UDP, port: 5060, address: 127.0.0.1, allowedDomains: {allowed}}}"))
    };
    let all = listener("{from: All}");
    let gold = listener("{from: Selector, selector: {matchLabels: {tier: gold}}}");
    let other = all.replace("{name: demo}", "{name: other}");
    let labelled =
        DOMAIN.replace("{name: demo}\nspec:\n  domain", "{name: demo, labels: {tier: gold}}\nspec:\n  domain");
    assert_ne!(labelled, DOMAIN);
    let served = |edges: &[&str], domain: &str, parents: &str| {
        let agent = agent(parents);
        let documents: Vec<&str> = edges.iter().copied().chain([domain, &*agent]).collect();
        let built = build(&mut builder(), &documents);
        assert_eq!(built.problems, []);
        built.config.agents.len()
    };
    assert_eq!(served(&[&all], DOMAIN, "[]"), 1);
    assert_eq!(served(&[&all], DOMAIN, "[{name: demo}]"), 1);
    assert_eq!(served(&[&all, &other], DOMAIN, "[{name: other}]"), 0, "another edge");
    assert_eq!(served(&[&gold, &other], DOMAIN, "[]"), 0, "this edge does not allow the domain");
    assert_eq!(served(&[&gold, &other], &labelled, "[]"), 1);
}

#[test]
fn sec_6_a_policy_of_another_namespace_decides_nothing_about_a_domain() {
    let edge = edge("{name: udp, protocol: UDP, port: 5060, address: 127.0.0.1}");
    let foreign = |namespace: &str| {
        format!(
            "apiVersion: sipmcp.dev/v1alpha1\nkind: McpCapabilityPolicy\nmetadata: {{name: meddler, namespace: {namespace}}}\nspec:\n  \
             targetRefs: [{{kind: SipDomain, name: demo}}]\n  defaultAction: Allow\n  rules: [{{name: shut, action: Deny}}]\n"
        )
    };
    let policies = |domain: &str, namespace: &str| {
        let text = foreign(namespace);
        let loaded = parse([("edge.yaml", &*edge), ("domain.yaml", domain), ("policy.yaml", &*text)]);
        let mut builder = builder();
        builder.numbered("demo.example".to_owned(), 1);
        let built = builder.build(&loaded.objects).unwrap();
        let policies = built.config.domains["demo.example"].policies.iter().map(|policy| policy.name().to_owned());
        (policies.collect::<Vec<_>>(), loaded.problems)
    };
    // The Secret of the domain's users stands in `default`.
    let (in_force, problems) = policies(DOMAIN, "elsewhere");
    assert_eq!(in_force, ["default/everybody"]);
    let [problem] = &problems[..] else { panic!("{problems:?}") };
    let problem = problem.to_string();
    assert!(problem.starts_with("policy.yaml:5: spec.targetRefs[0]: SipDomain \"demo\""), "{problem}");
    let owned = DOMAIN.replace("  domain: demo.example\n", "  domain: demo.example\n  policyNamespaces: [elsewhere]\n");
    assert_ne!(owned, DOMAIN);
    assert_eq!(policies(&owned, "elsewhere").0, ["elsewhere/meddler"], "and the policy of `default` not any more");
}
