//! One document: which kind it is, its envelope, its typed object.

use super::node::{Entry, Node, SyntaxError, Value, abbreviated, child};
use super::snapshot::{ObjectKey, Origin};
use super::structure::{Checker, Fault, distance, unknown_field};
use super::{Destination, Problem};
use crate::core_v1::{ConfigMap, Secret, SecretBytes};
use crate::schema;
use crate::v1alpha1::{
    API_VERSION, McpAgent, McpCapabilityPolicy, SessionStore, SipDomain, SipEdge, TargetKind, default_namespace,
    targets_of,
};
use crate::validate::{self, Finding};
use k8s_openapi::ByteString;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::path::Path;

/// A document with a readable name and kind.
pub(crate) struct Document {
    pub key: ObjectKey,
    /// False where name or namespace are not readable, so that `key` says nothing.
    pub named: bool,
    pub origin: Origin,
    /// `None` where there are faults.
    pub object: Option<Object>,
    /// Lines count in the document's text.
    pub faults: Vec<Fault>,
    /// For a policy: what it selects, as far as it can be read. `Some(None)`: that cannot be read.
    pub policy_targets: Option<Option<Vec<(TargetKind, String)>>>,
}

pub(crate) enum Object {
    Domain(SipDomain),
    Edge(SipEdge),
    Agent(McpAgent),
    Policy(McpCapabilityPolicy),
    Store(SessionStore),
    Secret(Secret),
    ConfigMap(ConfigMap),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    SipDomain,
    SipEdge,
    McpAgent,
    McpCapabilityPolicy,
    SessionStore,
    Secret,
    ConfigMap,
}

impl Kind {
    const ALL: [Kind; 7] = [
        Kind::SipDomain,
        Kind::SipEdge,
        Kind::McpAgent,
        Kind::McpCapabilityPolicy,
        Kind::SessionStore,
        Kind::Secret,
        Kind::ConfigMap,
    ];

    fn name(self) -> &'static str {
        match self {
            Kind::SipDomain => "SipDomain",
            Kind::SipEdge => "SipEdge",
            Kind::McpAgent => "McpAgent",
            Kind::McpCapabilityPolicy => "McpCapabilityPolicy",
            Kind::SessionStore => "SessionStore",
            Kind::Secret => "Secret",
            Kind::ConfigMap => "ConfigMap",
        }
    }

    fn api_version(self) -> &'static str {
        if self.is_core() { "v1" } else { API_VERSION }
    }

    fn is_core(self) -> bool {
        matches!(self, Kind::Secret | Kind::ConfigMap)
    }

    fn is_namespaced(self) -> bool {
        self != Kind::SipDomain
    }

    /// Fields of the document's top level.
    fn fields(self) -> &'static [&'static str] {
        match self {
            Kind::Secret => &["apiVersion", "kind", "metadata", "type", "data", "stringData", "immutable"],
            Kind::ConfigMap => &["apiVersion", "kind", "metadata", "data", "immutable"],
            // `kubectl get -o yaml` prints the status too; nothing here reads it.
            _ => &["apiVersion", "kind", "metadata", "spec", "status"],
        }
    }
}

/// Fields of `metadata` that a manifest or the output of `kubectl get -o yaml` may carry.
const METADATA_FIELDS: [&str; 12] = [
    "name",
    "namespace",
    "labels",
    "annotations",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "managedFields",
    "ownerReferences",
    "finalizers",
    "generateName",
];

/// Reads a document. `Ok(None)`: it is empty. An error: it has no known kind, so nothing can be said of an object.
pub(crate) fn read(
    checker: &mut Checker,
    file: &Path,
    offset: u32,
    ordinal: u32,
    text: &str,
    destination: Destination,
) -> Result<Option<Document>, Problem> {
    let problem = |line: u32, field: &str, message: String| {
        let line = offset.saturating_add(line.max(1));
        Problem { file: file.to_owned(), line, field: field.to_owned(), message }
    };
    let node = Node::parse(text).map_err(|SyntaxError { line, message }| {
        problem(line, "", format!("is not valid YAML: {message}; this document is left out"))
    })?;
    if node.value == Value::Null {
        return Ok(None);
    }
    if !matches!(node.value, Value::Map(_)) {
        let message =
            format!("a document must be a map with apiVersion, kind and metadata, and is {}", node.describe());
        return Err(problem(node.line, "", message));
    }
    let first_line = node.entries().first().map_or(node.line, |entry| entry.line);
    let at = |line: u32| if line == 0 { first_line } else { line };
    let (kind, fault) = kind_of(&node).map_err(|fault| problem(at(fault.line), &fault.field, fault.message))?;
    let mut faults = Vec::new();
    let metadata = Metadata::read(kind, &node, &mut faults);
    let named = faults.is_empty();
    let right_version = fault.is_none();
    faults.extend(fault.map(|fault| Fault { line: at(fault.line), ..fault }));
    for Entry { key, line, .. } in node.entries().iter().filter(|entry| !kind.fields().contains(&entry.key.as_str())) {
        let message = unknown_field(key, kind.fields().iter().copied());
        faults.push(Fault { line: *line, field: key.clone(), message });
    }
    // The schema of another version would say nothing.
    let spec = if kind.is_core() || !right_version { None } else { check_spec(checker, kind, &node, &mut faults) };
    let both = |mut findings: Vec<Finding>, of_files: Vec<Finding>| {
        findings.extend(of_files.into_iter().filter(|_| destination == Destination::Edge));
        findings
    };
    let policy_targets = (kind == Kind::McpCapabilityPolicy).then(|| targets_of(&node.to_json()));
    let object = match kind {
        Kind::Secret => read_secret(&node, &metadata, &mut faults).map(Object::Secret),
        Kind::ConfigMap => read_config_map(&node, &metadata, &mut faults).map(Object::ConfigMap),
        _ if !faults.is_empty() || spec.is_none() => None,
        Kind::SipDomain => {
            typed(&node, &mut faults, |o: &SipDomain| both(validate::domain(&o.spec), validate::files::domain(&o.spec)))
                .map(Object::Domain)
        }
        Kind::SipEdge => {
            typed(&node, &mut faults, |o: &SipEdge| both(validate::edge(&o.spec), validate::files::edge(&o.spec)))
                .map(Object::Edge)
        }
        Kind::McpAgent => {
            typed(&node, &mut faults, |o: &McpAgent| both(validate::agent(&o.spec), validate::files::agent(&o.spec)))
                .map(Object::Agent)
        }
        Kind::SessionStore => typed(&node, &mut faults, |o: &SessionStore| validate::store(&o.spec)).map(Object::Store),
        Kind::McpCapabilityPolicy => typed(&node, &mut faults, |o: &McpCapabilityPolicy| {
            validate::policy(&ObjectKey::new(&*metadata.namespace, &*metadata.name), &o.spec)
        })
        .map(Object::Policy),
    };
    let object = object.filter(|_| faults.is_empty());
    let line = first_line.saturating_add(offset);
    let origin = Origin { file: file.to_owned(), line, lines: node.lines(offset), ordinal };
    Ok(Some(Document {
        key: ObjectKey::new(metadata.namespace, metadata.name),
        named,
        origin,
        object,
        faults,
        policy_targets,
    }))
}

/// The kind, by `kind`, and what is wrong with `apiVersion`. Line 0: the document's first.
fn kind_of(node: &Node) -> Result<(Kind, Option<Fault>), Fault> {
    let text = |field: &'static str| match node.get(field) {
        None => Err(Fault { line: 0, field: field.to_owned(), message: "is missing".to_owned() }),
        Some(node) => node.as_str().map(|text| (node.line, text)).ok_or_else(|| Fault {
            line: node.line,
            field: field.to_owned(),
            message: format!("must be a string and is {}", node.describe()),
        }),
    };
    let (line, name) = text("kind")?;
    let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.name() == name) else {
        let known = Kind::ALL.map(Kind::name);
        let close = known.iter().find(|known| distance(name, known) <= 2);
        let hint =
            close.map_or_else(|| format!("known: {}", known.join(", ")), |known| format!("did you mean {known}?"));
        return Err(Fault {
            line,
            field: "kind".to_owned(),
            message: format!("{:?} is not known here; {hint}", abbreviated(name)),
        });
    };
    let fault = match text("apiVersion") {
        Err(fault) => Some(fault),
        Ok((_, version)) if version == kind.api_version() => None,
        Ok((line, version)) => {
            let message = format!("{:?} is wrong for {name}; write {}", abbreviated(version), kind.api_version());
            Some(Fault { line, field: "apiVersion".to_owned(), message })
        }
    };
    Ok((kind, fault))
}

struct Metadata {
    name: String,
    namespace: String,
}

impl Metadata {
    fn read(kind: Kind, node: &Node, faults: &mut Vec<Fault>) -> Metadata {
        let mut metadata = Metadata { name: String::new(), namespace: default_namespace() };
        let Some(Entry { line, node, .. }) = node.entry("metadata") else {
            let line = node.entries().first().map_or(1, |entry| entry.line);
            faults.push(Fault {
                line,
                field: "metadata".to_owned(),
                message: "is missing; give at least name".to_owned(),
            });
            return metadata;
        };
        if !matches!(node.value, Value::Map(_)) {
            let message = format!("must be a map with name and is {}", node.describe());
            faults.push(Fault { line: *line, field: "metadata".to_owned(), message });
            return metadata;
        }
        match node.get("name") {
            None => {
                faults.push(Fault { line: *line, field: "metadata.name".to_owned(), message: "is missing".to_owned() })
            }
            Some(value) => match value.as_str().filter(|name| is_dns_name(name, 253)) {
                Some(name) => metadata.name = name.to_owned(),
                None => faults.push(Fault {
                    line: value.line,
                    field: "metadata.name".to_owned(),
                    message: format!("{} is no object name; use a-z, 0-9, - and . (RFC 1123)", value.describe()),
                }),
            },
        }
        for entry in node.entries() {
            let field = child("metadata", &entry.key);
            let fault = match entry.key.as_str() {
                "namespace" if !kind.is_namespaced() => {
                    Some(format!("{} belongs to no namespace; remove the field", kind.name()))
                }
                "namespace" => match entry.node.as_str().filter(|name| is_dns_name(name, 63) && !name.contains('.')) {
                    Some(namespace) => {
                        metadata.namespace = namespace.to_owned();
                        None
                    }
                    None => Some(format!("{} is no namespace; use a-z, 0-9 and - (RFC 1123)", entry.node.describe())),
                },
                "labels" | "annotations" => match &entry.node.value {
                    Value::Map(entries) if entries.iter().all(|entry| entry.node.as_str().is_some()) => None,
                    Value::Map(_) => Some("has a value that is no string; put it in quotes".to_owned()),
                    _ => Some(format!("must be a map of strings and is {}", entry.node.describe())),
                },
                key if METADATA_FIELDS.contains(&key) => None,
                key => Some(unknown_field(key, METADATA_FIELDS.into_iter().take(4))),
            };
            if let Some(message) = fault {
                faults.push(Fault { line: entry.line, field, message });
            }
        }
        metadata
    }
}

/// RFC 1123 labels, joined by dots.
fn is_dns_name(name: &str, max: usize) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    name.len() <= max
        && name.split('.').all(|label| {
            !label.is_empty() && label.chars().all(inner) && !label.starts_with('-') && !label.ends_with('-')
        })
}

/// Checks `spec` against the schema of the kind.
fn check_spec<'a>(checker: &mut Checker, kind: Kind, node: &'a Node, faults: &mut Vec<Fault>) -> Option<&'a Node> {
    let schema = schema::of_kind(kind.name())?.properties.as_ref()?.get("spec")?;
    match node.entry("spec") {
        Some(entry) => {
            checker.check(schema, &entry.node, entry.line, "spec", faults);
            Some(&entry.node)
        }
        None => {
            let line = node.entries().first().map_or(1, |entry| entry.line);
            faults.push(Fault { line, field: "spec".to_owned(), message: "is missing".to_owned() });
            None
        }
    }
}

/// The typed object, if it also keeps the rules of its kind. Only for a document that fits its schema.
fn typed<T: DeserializeOwned>(node: &Node, faults: &mut Vec<Fault>, rules: impl Fn(&T) -> Vec<Finding>) -> Option<T> {
    let mut json = node.to_json();
    if let Some(fields) = json.as_object_mut() {
        fields.remove("status");
    }
    let object: T = match serde_json::from_value(json) {
        Ok(object) => object,
        Err(error) => {
            faults.push(Fault { line: node.line, field: "spec".to_owned(), message: error.to_string() });
            return None;
        }
    };
    let lines = Origin { line: node.line, lines: node.lines(0), ..Origin::default() };
    faults.extend(rules(&object).into_iter().map(|Finding { field, message }| Fault {
        line: lines.line_of(&field),
        field,
        message,
    }));
    Some(object)
}

fn read_secret(node: &Node, metadata: &Metadata, faults: &mut Vec<Fault>) -> Option<Secret> {
    let mut data = BTreeMap::new();
    for (field, decode) in [("data", true), ("stringData", false)] {
        for_each_value(node, field, faults, |key, text| {
            let bytes = if decode {
                // Never the value in the message: it is a secret.
                let ByteString(bytes) = serde_json::from_value(text.into())
                    .map_err(|_| "is not base64; encode it, or move it to stringData as plain text".to_owned())?;
                bytes
            } else {
                text.as_bytes().to_owned()
            };
            data.insert(key.to_owned(), SecretBytes::new(bytes));
            Ok(())
        });
    }
    let type_ = match node.get("type") {
        None => "Opaque".to_owned(),
        Some(value) => value.as_str().map(str::to_owned).unwrap_or_else(|| {
            let message = format!("must be a string and is {}", value.describe());
            faults.push(Fault { line: value.line, field: "type".to_owned(), message });
            String::new()
        }),
    };
    Some(Secret { name: metadata.name.clone(), namespace: metadata.namespace.clone(), type_, data })
}

fn read_config_map(node: &Node, metadata: &Metadata, faults: &mut Vec<Fault>) -> Option<ConfigMap> {
    let mut data = BTreeMap::new();
    for_each_value(node, "data", faults, |key, text| {
        data.insert(key.to_owned(), text.to_owned());
        Ok(())
    });
    Some(ConfigMap { name: metadata.name.clone(), namespace: metadata.namespace.clone(), data })
}

/// Walks over a map of strings.
fn for_each_value(
    node: &Node,
    field: &str,
    faults: &mut Vec<Fault>,
    mut take: impl FnMut(&str, &str) -> Result<(), String>,
) {
    let Some(node) = node.get(field) else { return };
    if !matches!(node.value, Value::Map(_)) {
        let message = format!("must be a map of strings and is {}", type_only(node));
        faults.push(Fault { line: node.line, field: field.to_owned(), message });
    }
    for Entry { key, line, node } in node.entries() {
        let valid = !key.is_empty()
            && key.len() <= 253
            && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        let result = match node.as_str() {
            _ if !valid => Err("is no valid key; use letters, digits, - _ and .".to_owned()),
            Some(text) => take(key, text),
            None => Err(format!("must be a string and is {}; put it in quotes", type_only(node))),
        };
        if let Err(message) = result {
            faults.push(Fault { line: *line, field: child(field, key), message });
        }
    }
}

/// [`Node::describe`] without the value, for what may be secret.
fn type_only(node: &Node) -> &'static str {
    match node.value {
        Value::Null => "empty",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::List(_) => "a list",
        Value::Map(_) => "a map",
    }
}
