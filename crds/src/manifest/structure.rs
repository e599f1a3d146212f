//! An object against its schema, as the API server would judge it, but with every unknown field refused instead of pruned.

use super::node::{Node, Value, abbreviated, child};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use regex_lite::Regex;
use std::collections::BTreeMap;

/// What is wrong at a field. The line counts from 1 in the document's text.
#[derive(Debug, PartialEq)]
pub(crate) struct Fault {
    pub line: u32,
    pub field: String,
    pub message: String,
}

/// Checks nodes against schemas; keeps the compiled patterns.
#[derive(Default)]
pub(crate) struct Checker {
    patterns: BTreeMap<&'static str, Option<Regex>>,
}

impl Checker {
    /// Adds to `faults` everything in which `node`, the field at `path`, is not what `schema` says. `line` is that of the field's name:
    /// there a missing field inside is missed.
    pub fn check(
        &mut self,
        schema: &'static JSONSchemaProps,
        node: &Node,
        line: u32,
        path: &str,
        faults: &mut Vec<Fault>,
    ) {
        let mut fault = |message: String| faults.push(Fault { line: node.line, field: path.to_owned(), message });
        let wanted = schema.type_.as_deref().unwrap_or("object");
        match (wanted, &node.value) {
            ("object", Value::Map(_)) => self.check_object(schema, node, line, path, faults),
            ("array", Value::List(items)) => {
                let count = items.len() as i64;
                if schema.min_items.is_some_and(|min| count < min) {
                    fault("is an empty list; give at least one item".to_owned());
                }
                if let Some(max) = schema.max_items.filter(|max| count > *max) {
                    fault(format!("has {count} items; at most {max} are allowed"));
                    return; // The items of an oversized list are not worth a message each.
                }
                check_unique(schema, items, path, faults);
                if let Some(JSONSchemaPropsOrArray::Schema(item_schema)) = &schema.items {
                    for (index, item) in items.iter().enumerate() {
                        self.check(item_schema, item, item.line, &format!("{path}[{index}]"), faults);
                    }
                }
            }
            ("string", Value::String(text)) => {
                if let Some(message) = self.check_string(schema, text) {
                    fault(message);
                }
            }
            ("string", Value::Number(_) | Value::Bool(_)) => {
                fault(format!("must be a string and is {}; put it in quotes", node.describe()));
            }
            ("integer", Value::Number(number)) => {
                let (min, max) = (schema.minimum.unwrap_or(f64::MIN), schema.maximum.unwrap_or(f64::MAX));
                match number.as_f64().filter(|value| value.fract() == 0.0 && (number.is_i64() || number.is_u64())) {
                    Some(value) if value < min || value > max => {
                        fault(format!("is {number}; allowed is {min} to {max}"))
                    }
                    Some(_) => {}
                    None => fault(format!("must be a whole number and is {number}")),
                }
            }
            ("boolean", Value::Bool(_)) => {}
            _ => fault(format!("must be {} and is {}", described_type(schema), node.describe())),
        }
    }

    fn check_object(
        &mut self,
        schema: &'static JSONSchemaProps,
        node: &Node,
        line: u32,
        path: &str,
        faults: &mut Vec<Fault>,
    ) {
        let count = node.entries().len() as i64;
        if let Some(max) = schema.max_properties.filter(|max| count > *max) {
            let message = format!("has {count} fields; at most {max} are allowed");
            faults.push(Fault { line: node.line, field: path.to_owned(), message });
            return;
        }
        if schema.x_kubernetes_preserve_unknown_fields == Some(true) {
            return;
        }
        let values = match &schema.additional_properties {
            Some(JSONSchemaPropsOrBool::Schema(values)) => Some(&**values),
            _ => None,
        };
        let known = || schema.properties.iter().flat_map(|properties| properties.keys()).map(String::as_str);
        for entry in node.entries() {
            let path = child(path, &entry.key);
            match schema.properties.as_ref().and_then(|properties| properties.get(&entry.key)).or(values) {
                Some(schema) => self.check(schema, &entry.node, entry.line, &path, faults),
                None => {
                    let message = unknown_field(&entry.key, known());
                    faults.push(Fault { line: entry.line, field: path, message });
                }
            }
        }
        for required in schema.required.iter().flatten().filter(|name| node.get(name).is_none()) {
            let message = "is missing".to_owned() + &allowed_values(schema, required);
            faults.push(Fault { line, field: child(path, required), message });
        }
    }

    fn check_string(&mut self, schema: &'static JSONSchemaProps, text: &str) -> Option<String> {
        if let Some(values) = &schema.enum_ {
            let values: Vec<&str> = values.iter().filter_map(|value| value.0.as_str()).collect();
            if values.contains(&text) {
                return None;
            }
            let close = values.iter().find(|value| value.eq_ignore_ascii_case(text));
            let hint = close.map(|value| format!("; did you mean {value}?")).unwrap_or_default();
            return Some(format!("{:?} is not allowed; allowed: {}{hint}", abbreviated(text), values.join(", ")));
        }
        let length = text.chars().count() as i64;
        if schema.min_length.is_some_and(|min| length < min) {
            return Some(format!(
                "{text:?} is too short; at least {} characters",
                schema.min_length.unwrap_or_default()
            ));
        }
        if let Some(max) = schema.max_length.filter(|max| length > *max) {
            return Some(format!("has {length} characters; at most {max} are allowed"));
        }
        let pattern = schema.pattern.as_deref()?;
        // A pattern of ours that does not compile is caught by a test; here it only checks nothing.
        let regex = self.patterns.entry(pattern).or_insert_with(|| Regex::new(pattern).ok()).as_ref()?;
        (!regex.is_match(text)).then(|| format!("{:?} has a wrong form; it must match {pattern}", abbreviated(text)))
    }
}

/// `x-kubernetes-list-type`: items of a set, and keys of a map, are unique.
fn check_unique(schema: &JSONSchemaProps, items: &[Node], path: &str, faults: &mut Vec<Fault>) {
    let keys: Vec<Option<&str>> = match (schema.x_kubernetes_list_type.as_deref(), &schema.x_kubernetes_list_map_keys) {
        (Some("set"), _) => items.iter().map(Node::as_str).collect(),
        (Some("map"), Some(names)) => match names.as_slice() {
            [name] => items.iter().map(|item| item.get(name)?.as_str()).collect(),
            _ => return,
        },
        _ => return,
    };
    let mut seen = BTreeMap::new();
    for (index, (item, key)) in items.iter().zip(keys).enumerate() {
        let Some(key) = key else { continue };
        if let Some(first) = seen.get(key) {
            let message =
                format!("{:?} stands here for the second time (first in [{first}]); remove one", abbreviated(key));
            faults.push(Fault { line: item.line, field: format!("{path}[{index}]"), message });
        } else {
            seen.insert(key, index);
        }
    }
}

fn described_type(schema: &JSONSchemaProps) -> String {
    let article = match schema.type_.as_deref() {
        Some("array") => return "a list".to_owned(),
        Some("object") | None => {
            let known: Vec<&str> =
                schema.properties.iter().flat_map(|properties| properties.keys()).map(String::as_str).collect();
            let free =
                schema.additional_properties.is_some() || schema.x_kubernetes_preserve_unknown_fields == Some(true);
            return if free {
                "a map".to_owned()
            } else if known.is_empty() {
                "an empty map, {}".to_owned()
            } else {
                format!("a map (fields: {})", known.join(", "))
            };
        }
        Some("integer") => "a whole number",
        Some("boolean") => "true or false",
        Some(_) => "a string",
    };
    article.to_owned()
}

fn allowed_values(schema: &JSONSchemaProps, field: &str) -> String {
    let schema = schema.properties.as_ref().and_then(|properties| properties.get(field));
    match schema.and_then(|schema| schema.enum_.as_ref()) {
        Some(values) => {
            let values: Vec<&str> = values.iter().filter_map(|value| value.0.as_str()).collect();
            format!("; one of {}", values.join(", "))
        }
        None => String::new(),
    }
}

/// The message for a field that nothing reads.
pub(crate) fn unknown_field<'a>(field: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.collect();
    if field == "claimName" {
        return "a PersistentVolumeClaim cannot be mounted from files; use path: with the place of the file".to_owned();
    }
    let close = known.iter().min_by_key(|name| distance(field, name)).filter(|name| distance(field, name) <= 2);
    match close {
        Some(name) => format!("unknown field; did you mean {name}?"),
        None if known.is_empty() => "unknown field; nothing stands here".to_owned(),
        None => format!("unknown field; known here: {}", known.join(", ")),
    }
}

/// Levenshtein distance without regard to case; long names are never close.
pub(crate) fn distance(a: &str, b: &str) -> usize {
    if a.len() > 64 || b.len() > 64 {
        return usize::MAX;
    }
    let b: Vec<char> = b.chars().map(|c| c.to_ascii_lowercase()).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().map(|c| c.to_ascii_lowercase()).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
