//! Every file in `tests/invalid/` has exactly the problems that it says it has, each at its line.
//!
//! `#! FIELD: PART OF THE MESSAGE` at the end of a line, as often as needed; `#!cel` where the CEL rules of the schema refuse it too.

use super::cel;
use crds::manifest;
use std::fs;
use std::path::{Path, PathBuf};

#[derive(Debug)]
struct Expected {
    line: u32,
    cel: bool,
    field: String,
    message: String,
}

fn expectations(text: &str) -> Vec<Expected> {
    let mut all = Vec::new();
    for (line, text) in (1..).zip(text.lines()).filter(|(_, text)| !text.starts_with('#')) {
        for mark in text.split(" #!").skip(1) {
            let (cel, mark) = mark.strip_prefix("cel ").map_or((false, mark), |rest| (true, rest));
            let (field, message) = mark.trim().split_once(':').expect("FIELD: message");
            all.push(Expected { line, cel, field: field.to_owned(), message: message.trim().to_owned() });
        }
    }
    all
}

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/invalid");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn obs_6_bad_manifests_are_refused_with_file_line_and_field() {
    for file in files() {
        let text = fs::read_to_string(&file).unwrap();
        let mut expected = expectations(&text);
        assert!(!expected.is_empty(), "{}", file.display());
        for problem in manifest::load([&file]).problems {
            assert_eq!(problem.file, file);
            let found = expected.iter().position(|expected| {
                (expected.line, &expected.field) == (problem.line, &problem.field)
                    && problem.message.contains(&expected.message)
            });
            match found {
                Some(index) => drop(expected.remove(index)),
                None => panic!("not expected: {problem}\nstill expected: {expected:#?}"),
            }
        }
        assert!(expected.is_empty(), "{}: not found: {expected:#?}", file.display());
    }
}

#[test]
fn the_others_load() {
    let load =
        |name: &str| manifest::load([Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/invalid").join(name)]).objects;
    let names =
        |objects: &manifest::Snapshot| objects.config_maps.keys().map(|key| key.to_string()).collect::<Vec<_>>();
    assert_eq!(names(&load("syntax.yaml")), ["default/after", "default/between"]);
    assert_eq!(names(&load("envelope.yaml")), ["default/same", "other/same"]);

    let objects = load("references.yaml");
    assert_eq!(objects.domains.keys().collect::<Vec<_>>(), ["first", "good"]);
    assert_eq!(objects.agents.keys().map(|key| &*key.name).collect::<Vec<_>>(), ["one"]);
    assert_eq!(objects.policies.len(), 2, "a policy holds for the targets that are there");
    assert!(objects.edges.is_empty());

    let agents = load("closed.yaml").agents;
    assert_eq!(agents.keys().map(|key| &*key.name).collect::<Vec<_>>(), ["free"]);
}

#[test]
fn the_cel_rules_and_the_rust_rules_agree() {
    for file in files() {
        let text = fs::read_to_string(&file).unwrap();
        let mut line = 1;
        for document in text.split("\n---\n") {
            let expected: Vec<_> = expectations(document);
            // Types and bounds are the schema's own matter, and CEL runs only when they hold.
            if let Some(errors) = cel::errors(document) {
                let refused = expected.iter().any(|expected| expected.cel);
                assert_eq!(!errors.is_empty(), refused, "{}:{line}: CEL says {errors:?}", file.display());
            } else {
                assert!(!expected.iter().any(|expected| expected.cel), "{}:{line}: CEL never ran", file.display());
            }
            line += document.lines().count() + 1;
        }
    }
}

#[test]
fn every_cel_rule_has_an_example_that_breaks_it() {
    let documents: Vec<String> = files().iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let said: Vec<String> =
        documents.iter().flat_map(|text| text.split("\n---\n")).filter_map(cel::errors).flatten().collect();
    let mut without = Vec::new();
    for crd in crds::schema::all() {
        let kind = &*crd.spec.names.kind;
        super::generated::walk(crds::schema::of_kind(kind).unwrap(), kind, &mut |path, schema| {
            // Rules over the object as it was have a test of their own.
            for rule in schema.x_kubernetes_validations.iter().flatten().filter(|rule| !rule.rule.contains("oldSelf")) {
                let message = rule.message.as_deref().unwrap_or_default();
                if !said.iter().any(|said| said.contains(message)) {
                    without.push(format!("{path}: {message}"));
                }
            }
        });
    }
    assert!(without.is_empty(), "{without:#?}");
}

#[test]
fn a_policy_for_objects_of_another_group_is_refused_and_is_for_nobody_else() {
    let load = |group: &str| {
        let text = format!(
            "apiVersion: sipmcp.dev/v1alpha1\nkind: SipDomain\nmetadata: {{name: d}}\nspec: {{domain: d.example}}\n---\n\
             apiVersion: sipmcp.dev/v1alpha1\nkind: McpAgent\nmetadata: {{name: a}}\nspec:\n  address: {{user: a, domainRef: {{name: d}}}}\n  \
             backend: {{mcpHttp: {{url: 'http://a/'}}}}\n  capabilities: {{}}\n---\n\
             apiVersion: sipmcp.dev/v1alpha1\nkind: McpCapabilityPolicy\nmetadata: {{name: p}}\nspec:\n  \
             targetRefs: [{{{group}kind: McpAgent, name: a}}]\n  defaultAction: Allow\n"
        );
        let loaded = manifest::parse([("m.yaml", text.as_bytes())]);
        let said: Vec<_> =
            loaded.problems.iter().map(|problem| (problem.field.clone(), problem.message.clone())).collect();
        (loaded.objects.policies.len(), loaded.objects.agents.len(), said)
    };
    for own in ["", "group: sipmcp.dev, "] {
        assert_eq!(load(own), (1, 1, Vec::new()), "{own}");
    }
    for other in ["gateway.networking.k8s.io", "SIPMCP.DEV", "''"] {
        let (policies, agents, said) = load(&format!("group: {other}, "));
        // An agent of ours of that name: whoever wrote the policy may have meant it.
        assert_eq!((policies, agents), (0, 0), "{other}");
        let is_it = |(field, message): &(String, String)| {
            field == "spec.targetRefs[0].group" && message.contains("allowed: sipmcp.dev")
        };
        assert!(said.iter().any(is_it), "{other}: {said:?}");
    }
    // And so says the API server.
    let schema = serde_json::to_value(crds::schema::of_kind("McpCapabilityPolicy").unwrap()).unwrap();
    let group = &schema["properties"]["spec"]["properties"]["targetRefs"]["items"]["properties"]["group"];
    assert_eq!(
        (&group["enum"], &group["default"]),
        (&serde_json::json!(["sipmcp.dev"]), &serde_json::json!("sipmcp.dev"))
    );
}

#[test]
fn a_policy_that_cannot_be_read_at_all_closes_every_agent() {
    let agent = "apiVersion: sipmcp.dev/v1alpha1\nkind: SipDomain\nmetadata: {name: d}\nspec: {domain: d.example}\n---\n\
        apiVersion: sipmcp.dev/v1alpha1\nkind: McpAgent\nmetadata: {name: a}\nspec:\n  address: {user: a, domainRef: {name: d}}\n  \
        backend: {mcpHttp: {url: 'http://a/'}}\n  capabilities: {}\n---\n";
    let agents =
        |rest: &[u8]| manifest::parse([("m.yaml", agent.as_bytes()), ("rest.yaml", rest)]).objects.agents.len();
    let head = "apiVersion: sipmcp.dev/v1alpha1\nkind: McpCapabilityPolicy\nmetadata: ";
    let spec = "\nspec: {targetRefs: [{kind: McpAgent, name: other}], defaultAction: Allow}\n";
    assert_eq!(agents(b"# kind: a comment about an McpCapabilityPolicy\n"), 1);
    assert_eq!(agents(format!("{head}{{name: p}}{spec}").as_bytes()), 1, "for somebody else");
    for unreadable in [
        format!("{head}{{name: p}}{spec}  broken: [").into_bytes(),
        format!("{head}{{name: [p}}{spec}").into_bytes(),
        b"kind: McpCapabilityPolicies\n".to_vec(),
        b"{\"kind\": \"McpCapabilityPolicy\"".to_vec(),
        [b"kind: McpCapabilityPolicy\n", &b"\xff"[..]].concat(),
        format!("{head}{{name: p}}\n{}", "#".repeat(manifest::MAX_FILE_BYTES)).into_bytes(),
    ] {
        assert_eq!(agents(&unreadable), 0, "{:?}", String::from_utf8_lossy(&unreadable[..unreadable.len().min(200)]));
    }
    let version = format!("{head}{{name: p}}{spec}").replace("v1alpha1", "v1");
    assert_eq!(agents(version.as_bytes()), 1, "its target is readable and is another");
}
