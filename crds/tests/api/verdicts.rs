//! Rules over several objects give the word that stands in the status.

use crds::manifest::{self, ObjectKey};
use crds::v1alpha1::{ConditionType, Reason, TargetKind};
use crds::validate::references::judge;
use std::path::Path;

/// What is said of the objects of a file in `tests/invalid/`: name of the object, reason.
fn verdicts(file: &str) -> Vec<(String, Reason)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/invalid").join(file);
    let mut snapshot = manifest::load_for_cluster([path]).objects;
    judge(&mut snapshot, &[]).iter().map(|verdict| (verdict.object.key.name.clone(), verdict.reason)).collect()
}

#[test]
fn every_broken_reference_has_its_reason() {
    let found = verdicts("attachment.yaml");
    let expected = [
        ("lost", Reason::EdgeNotFound),
        ("lost", Reason::EdgeNotFound),
        ("not-there", Reason::DomainNotAllowed),
        ("nowhere-allowed", Reason::DomainNotAllowed),
        ("squatter", Reason::DomainNotAllowed),
        ("younger", Reason::QuotaExceeded),
    ];
    assert_eq!(found, expected.map(|(name, reason)| (name.to_owned(), reason)));
    let found = verdicts("references.yaml");
    for expected in [
        ("again", Reason::DomainConflict),
        ("no-secret", Reason::SecretNotFound),
        ("no-secret", Reason::ConfigMapNotFound),
        ("two", Reason::AddressConflict),
        ("three", Reason::DomainNotFound),
        ("four", Reason::SecretNotFound),
        ("five", Reason::UnsupportedValue),
        ("p", Reason::TargetNotFound),
    ] {
        assert!(found.contains(&(expected.0.to_owned(), expected.1)), "{expected:?} in {found:#?}");
    }
    let conditions = found.iter().map(|(_, reason)| reason.condition()).collect::<Vec<_>>();
    assert!(conditions.iter().all(|c| matches!(c, Some(ConditionType::Accepted | ConditionType::ResolvedRefs))));
}

#[test]
fn sec_6_a_policy_decides_about_a_domain_only_from_a_namespace_that_the_domain_names() {
    let found = verdicts("foreign.yaml");
    assert_eq!(found, ["meddler", "meddler", "meddler"].map(|name| (name.to_owned(), Reason::RefNotPermitted)));
    assert_eq!(Reason::RefNotPermitted.condition(), Some(ConditionType::ResolvedRefs));

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/invalid/foreign.yaml");
    let loaded = manifest::load([path]);
    let of = |domain: &str| {
        let target = ObjectKey::new("", domain);
        let policies = loaded.objects.policies_for(TargetKind::SipDomain, &target);
        policies.map(|(key, _)| key.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(of("owned"), ["acme/owner"], "named");
    assert_eq!(of("by-reference"), ["acme/owner"], "where its Secret stands");
    assert_eq!(of("without"), ["default/by-default"], "where an absent namespace stands");
    assert!(loaded.refused.iter().any(|policy| policy.key.as_ref().is_some_and(|key| key.name == "broken")));
    let agents: Vec<_> = loaded.objects.agents.keys().map(ToString::to_string).collect();
    assert_eq!(agents, ["acme/billing", "other/guest"], "a refused policy closes no more than it could have denied");
}

#[test]
fn the_older_one_wins_by_creation_timestamp_then_name() {
    let agent = |name: &str, created: &str| {
        format!(
            "apiVersion: sipmcp.dev/v1alpha1\nkind: McpAgent\nmetadata: {{name: {name}{created}}}\nspec:\n  \
             address: {{user: a, domainRef: {{name: d}}}}\n  backend: {{mcpHttp: {{url: 'http://a/'}}}}\n  capabilities: {{}}\n---\n"
        )
    };
    let domain =
        "apiVersion: sipmcp.dev/v1alpha1\nkind: SipDomain\nmetadata: {name: d}\nspec: {domain: d.example}\n---\n";
    let stands = |agents: &[(&str, &str)]| {
        let text = domain.to_owned() + &agents.iter().map(|(name, created)| agent(name, created)).collect::<String>();
        let objects = manifest::parse([("m.yaml", text.as_bytes())]).objects;
        objects.agents.into_keys().map(|key| key.name).collect::<Vec<_>>()
    };
    let (older, younger) =
        (", creationTimestamp: '2026-01-01T00:00:00Z'", ", creationTimestamp: '2026-01-01T00:00:01Z'");
    assert_eq!(stands(&[("a", younger), ("b", older)]), ["b"]);
    assert_eq!(stands(&[("b", older), ("a", older)]), ["a"], "the same second: by name");
    assert_eq!(stands(&[("b", ""), ("a", "")]), ["b"], "from files: the first that is read");
}

#[test]
fn an_edge_does_not_judge_again_what_lies_outside_its_own_selection() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/invalid/attachment.yaml");
    let mut snapshot = manifest::load_for_cluster([path]).objects;
    snapshot.chosen = true;
    snapshot.agents.retain(|key, _| ["squatter", "younger", "older", "lost"].contains(&&*key.name));
    let found: Vec<_> =
        judge(&mut snapshot, &[]).iter().map(|v| (v.object.key.name.clone(), v.field.clone())).collect();
    assert_eq!(found, []);
    assert_eq!(snapshot.agents.len(), 4);
}

#[test]
fn a_domain_finds_what_it_names_in_the_namespace_that_it_names() {
    let domain = |namespace: &str| {
        format!(
            "apiVersion: sipmcp.dev/v1alpha1\nkind: SipDomain\nmetadata: {{name: d}}\nspec:\n  domain: d.example\n  authentication:\n    \
             digest: {{usersSecretRef: {{name: users{namespace}}}}}\n    clientCertificates: {{caBundleRef: {{name: ca{namespace}}}}}\n  \
             dataProtection: {{keySecretRef: {{name: state{namespace}}}}}\n---\n"
        )
    };
    let hash = "a".repeat(64);
    let named = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: users, namespace: acme}}\nstringData: {{alice: 'SHA-256:{hash}'}}\n---\n\
         apiVersion: v1\nkind: Secret\nmetadata: {{name: state, namespace: acme}}\nstringData: {{'0': '{hash}'}}\n---\n\
         apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: ca, namespace: acme}}\ndata: {{ca.crt: '-----BEGIN CERTIFICATE-----'}}\n"
    );
    let lost = |namespace: &str| {
        let found = manifest::parse([("m.yaml", format!("{}{named}", domain(namespace)))]).problems;
        found.into_iter().map(|problem| problem.field).collect::<Vec<_>>()
    };
    assert_eq!(lost(", namespace: acme"), [""; 0]);
    let all = [
        "spec.authentication.clientCertificates.caBundleRef",
        "spec.authentication.digest.usersSecretRef",
        "spec.dataProtection.keySecretRef",
    ];
    for elsewhere in ["", ", namespace: other"] {
        let mut lost = lost(elsewhere);
        lost.sort();
        assert_eq!(lost, all, "{elsewhere:?}");
    }
}

#[test]
fn a_realm_of_its_own_stands_in_the_place_of_the_domain() {
    let realm = |own: &str| {
        let text = format!(
            "apiVersion: sipmcp.dev/v1alpha1\nkind: SipDomain\nmetadata: {{name: d}}\nspec:\n  domain: d.example\n  \
             authentication: {{digest: {{usersSecretRef: {{name: users}}{own}}}}}\n---\n\
             apiVersion: v1\nkind: Secret\nmetadata: {{name: users}}\nstringData: {{alice: 'SHA-256:{}'}}\n",
            "a".repeat(64)
        );
        let loaded = manifest::parse([("m.yaml", text)]);
        assert_eq!(loaded.problems, []);
        loaded.objects.domains["d"].spec.digest_realm().unwrap().to_owned()
    };
    assert_eq!(realm(""), "d.example");
    assert_eq!(realm(", realm: 'Acme phones'"), "Acme phones");
}
