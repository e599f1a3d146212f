//! Every field of every kind has a test of its effect: `effects.yaml`. A field without one does not enter the schema.

use super::generated::walk;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Where the tests are, from the root of the repository.
const PLACES: [&str; 6] = ["crds", "edge", "operator", "protocol/mcp", "session-store", "e2e"];

/// Paths of all fields that have no fields below them. A list of conditions is one: its shape is Kubernetes' own.
fn fields() -> BTreeSet<String> {
    let mut fields = BTreeSet::new();
    for crd in crds::schema::all() {
        let kind = &*crd.spec.names.kind;
        walk(crds::schema::of_kind(kind).unwrap(), kind, &mut |path, schema| {
            let inside = path.contains(".conditions[]");
            if !inside && !path.ends_with(['[', ']', '}']) && (path.ends_with(".conditions") || !has_fields(schema)) {
                fields.insert(path.to_owned());
            }
        });
    }
    fields
}

fn has_fields(schema: &JSONSchemaProps) -> bool {
    let below = match (&schema.items, &schema.additional_properties) {
        (Some(JSONSchemaPropsOrArray::Schema(inner)), _) | (_, Some(JSONSchemaPropsOrBool::Schema(inner))) => {
            has_fields(inner)
        }
        _ => false,
    };
    below || schema.properties.as_ref().is_some_and(|properties| !properties.is_empty())
}

fn list() -> BTreeMap<String, String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/effects.yaml");
    serde_saphyr::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

#[test]
fn every_field_has_a_test_of_its_effect() {
    let (fields, list) = (fields(), list());
    let listed: BTreeSet<String> = list.keys().cloned().collect();
    let missing: Vec<_> = fields.difference(&listed).collect();
    assert!(missing.is_empty(), "tests/effects.yaml says nothing of these fields; name their tests: {missing:#?}");
    let gone: Vec<_> = listed.difference(&fields).collect();
    assert!(gone.is_empty(), "tests/effects.yaml has fields that the schema has not: {gone:#?}");

    let tests = tests();
    let wrong: Vec<_> = list.iter().filter(|(_, said)| !names_tests(said, &tests)).collect();
    assert!(wrong.is_empty(), "no test of this name; a field needs one, a reason is none: {wrong:#?}");
}

/// One name at least, and each of a test.
fn names_tests(said: &str, tests: &BTreeSet<String>) -> bool {
    said.split(", ").all(|name| tests.contains(name))
}

/// Names of all tests.
fn tests() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut tests = BTreeSet::new();
    for place in PLACES {
        let before = tests.len();
        read(&root.join(place), &mut tests);
        assert!(tests.len() > before, "{place} has no tests");
    }
    tests
}

fn read(folder: &Path, tests: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if !path.ends_with("target") && !path.is_symlink() {
                read(&path, tests);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            tests.extend(names(&fs::read_to_string(&path).unwrap()));
        }
    }
}

/// Names of the functions of a source that are tests: `fn` after `#[test]` or `#[tokio::test…]`, other attributes between them.
fn names(source: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut marked = false;
    for line in source.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            marked = true;
        } else if let Some((_, after)) = line.split_once("fn ").filter(|_| marked) {
            names.extend(after.split(['(', '<']).next().map(str::to_owned));
            marked = false;
        }
    }
    names
}

#[test]
fn a_field_and_a_test_are_found_as_they_are_written() {
    let fields = fields();
    for field in
        ["McpCapabilityPolicy.spec.rules[].from[].anonymous", "SipEdge.spec.overlay", "SipEdge.spec.listeners[].port"]
    {
        assert!(fields.contains(field), "{field}");
    }
    for none in ["SipEdge.spec.listeners", "SipEdge.status.conditions[].type", "SipEdge.spec.listeners[].tls"] {
        assert!(!fields.contains(none), "{none}");
    }
    let source = "#[test]\nfn one() {}\nfn no_test() {}\n  #[tokio::test(flavor = \"multi_thread\")]\n#[cfg(unix)]\n  async fn two() {}\n";
    let tests: BTreeSet<String> = names(source).into_iter().collect();
    assert_eq!(tests, ["one", "two"].map(str::to_owned).into());
    assert!(names_tests("one", &tests) && names_tests("two, one", &tests));
    for none in ["", "none: it needs none", "none", "no_test", "one, no_test", "one, "] {
        assert!(!names_tests(none, &tests), "{none:?}");
    }
}
