//! `generated/` is what the types say.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{JSONSchemaProps, JSONSchemaPropsOrArray};
use std::path::Path;

#[test]
fn the_committed_definitions_are_the_generated_ones() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("generated");
    let mut names = Vec::new();
    for crd in crds::schema::all() {
        let name = format!("{}.yaml", crd.spec.names.plural);
        let committed = std::fs::read_to_string(folder.join(&name)).unwrap_or_default();
        assert_eq!(committed, crds::schema::to_yaml(crd).unwrap(), "{name}: run `cargo run -p crds --bin crdgen`");
        names.push(name);
    }
    let mut found: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    names.sort();
    assert_eq!(found, names, "a file that no type stands for");
}

/// Calls `look` with every schema below, its path first.
fn walk(schema: &'static JSONSchemaProps, path: &str, look: &mut impl FnMut(&str, &'static JSONSchemaProps)) {
    look(path, schema);
    for (name, schema) in schema.properties.iter().flatten() {
        walk(schema, &format!("{path}.{name}"), look);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        walk(items, &format!("{path}[]"), look);
    }
}

#[test]
fn every_field_is_bounded_and_described() {
    for crd in crds::schema::all() {
        let kind = &*crd.spec.names.kind;
        walk(crds::schema::of_kind(kind).unwrap(), kind, &mut |path, schema| {
            match schema.type_.as_deref().unwrap() {
                "string" => assert!(schema.enum_.is_some() || schema.max_length.is_some(), "{path} has no maxLength"),
                "array" => assert!(schema.max_items.is_some(), "{path} has no maxItems"),
                "integer" => assert!(schema.minimum.is_some() && schema.maximum.is_some(), "{path} has no bounds"),
                _ => {}
            }
            // Without a description: items that are plain strings, which their list describes.
            assert!(schema.description.is_some() || path.ends_with("[]"), "{path} has no description");
            if let Some(pattern) = &schema.pattern {
                regex_lite::Regex::new(pattern).unwrap_or_else(|error| panic!("{path}: {error}"));
            }
        });
    }
}

#[test]
fn the_cel_rules_are_cheap_and_have_a_message() {
    let mut rules = 0;
    for crd in crds::schema::all() {
        let kind = &*crd.spec.names.kind;
        walk(crds::schema::of_kind(kind).unwrap(), kind, &mut |path, schema| {
            let json = serde_json::to_value(schema).unwrap();
            let compiled = kube_cel::compile_schema(&json);
            for rule in schema.x_kubernetes_validations.iter().flatten() {
                let warnings = kube_cel::estimate_rule_cost(&rule.rule, &compiled);
                assert!(warnings.is_empty(), "{path}: {warnings:?}");
                assert!(rule.message.is_some(), "{path}: {} has no message", rule.rule);
                rules += 1;
            }
        });
    }
    assert!(rules >= 24, "{rules}");
}
