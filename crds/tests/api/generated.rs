//! `generated/` and `docs/crds.md` are what the types say.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use std::path::Path;

#[test]
fn the_committed_definitions_are_the_generated_ones() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = here.join("generated");
    let chart = here.join("../charts/sipmcp-crds/templates");
    let mut names = Vec::new();
    for crd in crds::schema::all() {
        let name = format!("{}.yaml", crd.spec.names.plural);
        let committed = |folder: &Path| std::fs::read_to_string(folder.join(&name)).unwrap_or_default();
        let advice = format!("{name}: run `cargo run -p crds --bin crdgen`");
        assert_eq!(committed(&folder), crds::schema::to_yaml(crd).unwrap(), "{advice}");
        assert_eq!(committed(&chart), crds::schema::to_template(crd).unwrap(), "chart sipmcp-crds, {advice}");
        names.push(name);
    }
    let document = std::fs::read_to_string(here.join("../docs/crds.md")).unwrap_or_default();
    let written = crds::schema::reference::markdown();
    let other = written.lines().zip(document.lines()).find(|(written, there)| written != there);
    assert!(document == written, "docs/crds.md: run `cargo run -p crds --bin crdgen`; {other:#?}");
    names.sort();
    for folder in [folder, chart] {
        let files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut found: Vec<_> = files.filter(|file| file.ends_with(".yaml")).collect();
        found.sort();
        assert_eq!(found, names, "a file that no type stands for: {}", folder.display());
    }
}

/// Calls `look` with every schema below, its path first.
pub(super) fn walk(
    schema: &'static JSONSchemaProps,
    path: &str,
    look: &mut impl FnMut(&str, &'static JSONSchemaProps),
) {
    look(path, schema);
    for (name, schema) in schema.properties.iter().flatten() {
        walk(schema, &format!("{path}.{name}"), look);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        walk(items, &format!("{path}[]"), look);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &schema.additional_properties {
        walk(values, &format!("{path}{{}}"), look);
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
            // Without a description: items that are plain strings, which their list or map describes.
            assert!(schema.description.is_some() || path.ends_with(['[', ']', '}']), "{path} has no description");
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
    assert!(rules >= 42, "{rules}");
}

/// The schema at a JSONPath of the form `.a.b[*].c` or `.a[?(@.x=="y")].c`.
fn at(schema: &'static JSONSchemaProps, path: &str) -> Option<&'static JSONSchemaProps> {
    path.trim_start_matches('.').split_inclusive([']', '.']).try_fold(schema, |schema, part| {
        let (name, item) =
            part.trim_end_matches('.').split_once('[').map_or((part.trim_end_matches('.'), false), |(n, _)| (n, true));
        let schema = if name.is_empty() { schema } else { schema.properties.as_ref()?.get(name)? };
        match (&schema.items, item) {
            (Some(JSONSchemaPropsOrArray::Schema(items)), true) => Some(&**items),
            (_, true) => None,
            _ => Some(schema),
        }
    })
}

#[test]
fn columns_and_scale_name_fields_that_are_there() {
    for crd in crds::schema::all() {
        let kind = &*crd.spec.names.kind;
        let version = &crd.spec.versions[0];
        let root = crds::schema::of_kind(kind).unwrap();
        let columns = version.additional_printer_columns.iter().flatten();
        let scale = version.subresources.as_ref().and_then(|s| s.scale.as_ref());
        assert_eq!(scale.is_some(), kind == "SipEdge");
        assert!(version.subresources.as_ref().is_some_and(|s| s.status.is_some()), "{kind} has no status");
        let of_scale = scale.into_iter().flat_map(|s| {
            [Some(&s.spec_replicas_path), Some(&s.status_replicas_path), s.label_selector_path.as_ref()]
                .into_iter()
                .flatten()
        });
        for path in
            columns.map(|column| &column.json_path).chain(of_scale).filter(|path| !path.starts_with(".metadata"))
        {
            // The filter holds dots of its own.
            let plain = path.replace("?(@.type==", "").replace(")]", "]");
            assert!(at(root, &plain).is_some(), "{kind}: no field at {path}");
        }
    }
}
