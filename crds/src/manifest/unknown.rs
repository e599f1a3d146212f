//! Fields of an object that its schema here does not have: those of a later release.

use super::node::child;
use crate::schema;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use serde_json::Value;

/// So many are named.
const MAX_NAMED: usize = 16;

/// The paths of all fields under `spec` that the schema of the kind does not have, for example `spec.rules[0].from`; the first 16. What else may
/// be wrong with the object is not looked at. Of a kind that is not ours: none.
#[must_use]
pub fn unknown_fields(kind: &str, object: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let schema = schema::of_kind(kind).and_then(|schema| schema.properties.as_ref()?.get("spec"));
    if let (Some(schema), Some(spec)) = (schema, object.get("spec")) {
        walk(schema, spec, "spec", &mut found);
    }
    found
}

/// No deeper than the schema.
fn walk(schema: &JSONSchemaProps, value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) if schema.x_kubernetes_preserve_unknown_fields != Some(true) => {
            let values = match &schema.additional_properties {
                Some(JSONSchemaPropsOrBool::Schema(values)) => Some(&**values),
                _ => None,
            };
            for (name, value) in fields {
                if found.len() >= MAX_NAMED {
                    return;
                }
                match schema.properties.as_ref().and_then(|known| known.get(name)).or(values) {
                    Some(schema) => walk(schema, value, &child(path, name), found),
                    None => found.push(child(path, name)),
                }
            }
        }
        Value::Array(items) => {
            if let Some(JSONSchemaPropsOrArray::Schema(schema)) = &schema.items {
                for (index, item) in items.iter().enumerate() {
                    walk(schema, item, &format!("{path}[{index}]"), found);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_field_of_a_later_release_is_named_wherever_it_stands_and_a_free_form_has_none() {
        let rule = json!({"name": "a", "action": "Allow", "from": [{"anonymous": {"in": 1}}], "later": {"deep": 1}});
        let policy =
            json!({"spec": {"targetRefs": [{"kind": "McpAgent", "name": "a"}], "rules": [rule], "more": null}});
        let mut found = unknown_fields("McpCapabilityPolicy", &policy);
        found.sort();
        assert_eq!(found, ["spec.more", "spec.rules[0].from[0].anonymous.in", "spec.rules[0].later"]);
        assert!(unknown_fields("Secret", &policy).is_empty());
        let edge = json!({"spec": {"overlay": {"spec": {"anything": {"at": "all"}}}}});
        assert_eq!(unknown_fields("SipEdge", &edge), [""; 0]);
        let many: serde_json::Map<_, _> = (0..1000).map(|n| (format!("f{n}"), Value::Null)).collect();
        assert_eq!(unknown_fields("McpAgent", &json!({ "spec": many })).len(), MAX_NAMED);
    }
}
