//! The HTTP mirrors of a message (MCP 2026-07-28, SEP-2243): `MCP-Protocol-Version`, `Mcp-Method`, `Mcp-Name` and, for
//! arguments whose schema has `x-mcp-header`, `Mcp-Param-*`. Built from the body alone, so a mirror never contradicts it.

use serde_json::{Map, Value};

use super::Era;
use crate::jsonrpc::{Envelope, Kind};

/// Annotated arguments of one tool, and how deep they may lie. More is no schema that a person wrote.
const MAX_ANNOTATIONS: usize = 64;
const MAX_DEPTH: usize = 32;

/// The `x-mcp-header` annotations of one tool's input schema, ready to be applied to its calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Annotations {
    /// Path of property names, and the header's name behind `Mcp-Param-`.
    fields: Vec<(Vec<String>, String)>,
}

/// Why no mirrors can be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MirrorError {
    /// The schema's annotations break the rules of SEP-2243: the tool cannot be called over HTTP.
    #[error("x-mcp-header: {0}")]
    Annotation(String),
    /// The schema is no JSON object.
    #[error("the input schema is not an object")]
    Schema,
    /// The method cannot stand in a header field.
    #[error("the method cannot be mirrored in a header field")]
    Method,
}

impl Annotations {
    /// From the raw `inputSchema` of a `tools/list` entry.
    ///
    /// # Errors
    /// Not an object; an annotation that is no token, is there twice, or sits on what is no string, integer or boolean
    /// or is not reached through `properties` alone.
    pub fn from_schema(schema: &[u8]) -> Result<Annotations, MirrorError> {
        let schema: Map<String, Value> = serde_json::from_slice(schema).map_err(|_| MirrorError::Schema)?;
        let bad = |text: &str| Err(MirrorError::Annotation(text.to_owned()));
        let mut annotations = Annotations::default();
        // Schemas to look at: path, schema, and whether it is reached through `properties` alone. No recursion.
        let mut open: Vec<(Vec<String>, &Map<String, Value>, bool)> = vec![(Vec::new(), &schema, true)];
        while let Some((path, schema, on_chain)) = open.pop() {
            if path.len() > MAX_DEPTH {
                return bad("nested too deep");
            }
            if let Some(header) = schema.get("x-mcp-header") {
                if path.is_empty() || !on_chain {
                    return bad("allowed only on a property reached through `properties`");
                }
                annotations.add(&path, schema, header)?;
            }
            for (keyword, value) in schema {
                push_subschemas(&mut open, &path, keyword, value, on_chain);
            }
        }
        annotations.fields.sort();
        Ok(annotations)
    }

    fn add(&mut self, path: &[String], schema: &Map<String, Value>, header: &Value) -> Result<(), MirrorError> {
        let bad = |text: String| Err(MirrorError::Annotation(text));
        let property = path.join(".");
        let Some(header) = header.as_str().filter(|header| !header.is_empty() && header.bytes().all(is_tchar)) else {
            return bad(format!("{property}: not an HTTP token"));
        };
        if !matches!(schema.get("type").and_then(Value::as_str), Some("string" | "integer" | "boolean")) {
            return bad(format!("{property}: only strings, integers and booleans can be mirrored"));
        }
        if self.fields.iter().any(|(_, other)| other.eq_ignore_ascii_case(header)) {
            return bad(format!("{property}: {header} is there twice"));
        }
        if self.fields.len() == MAX_ANNOTATIONS {
            return bad(format!("more than {MAX_ANNOTATIONS}"));
        }
        self.fields.push((path.to_vec(), header.to_owned()));
        Ok(())
    }

    /// Whether nothing of this tool is mirrored.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// The `Mcp-Param-*` fields of one call, from its raw `params.arguments`. What is absent, null or no primitive has
    /// none.
    #[must_use]
    pub fn fields(&self, arguments: &[u8]) -> Vec<(String, String)> {
        let mut headers = Vec::new();
        if self.fields.is_empty() {
            return headers;
        }
        let Ok(arguments) = serde_json::from_slice::<Value>(arguments) else { return headers };
        for (path, header) in &self.fields {
            let value = path.iter().try_fold(&arguments, |value, key| value.get(key));
            let text = match value {
                Some(Value::String(text)) => text.clone(),
                Some(Value::Bool(flag)) => flag.to_string(),
                Some(Value::Number(number)) => number.to_string(),
                Some(Value::Null | Value::Array(_) | Value::Object(_)) | None => continue,
            };
            headers.push((format!("Mcp-Param-{header}"), encoded(&text)));
        }
        headers
    }
}

fn push_subschemas<'a>(
    open: &mut Vec<(Vec<String>, &'a Map<String, Value>, bool)>,
    path: &[String],
    keyword: &str,
    value: &'a Value,
    on_chain: bool,
) {
    let mut push = |name: &str, schema: &'a Value, on_chain: bool| {
        if let Value::Object(schema) = schema {
            let mut path = path.to_vec();
            path.push(name.to_owned());
            open.push((path, schema, on_chain));
        }
    };
    match (keyword, value) {
        // Instance data, not subschemas.
        ("default" | "const" | "enum" | "examples" | "x-mcp-header", _) => {}
        ("properties", Value::Object(map)) => map.iter().for_each(|(name, schema)| push(name, schema, on_chain)),
        ("$defs" | "definitions" | "dependentSchemas" | "patternProperties", Value::Object(map)) => {
            map.iter().for_each(|(name, schema)| push(name, schema, false));
        }
        (_, Value::Array(items)) => items.iter().for_each(|schema| push(keyword, schema, false)),
        (_, schema) => push(keyword, schema, false),
    }
}

/// The header fields of one message to an HTTP backend. `version` is what a legacy relation agreed on; a modern message
/// carries its own. A message of a legacy relation has no mirrors but the version.
///
/// # Errors
/// The method cannot stand in a header field.
pub fn mirrors(
    message: &Envelope,
    era: Era,
    version: Option<&str>,
    annotations: Option<&Annotations>,
) -> Result<Vec<(String, String)>, MirrorError> {
    let mut headers = Vec::new();
    let own = message.meta_protocol_version();
    let version = match era {
        Era::Modern => own.as_deref().or(version),
        Era::Legacy if message.is_initialize() => None,
        Era::Legacy => version,
    };
    if let Some(version) = version {
        headers.push(("MCP-Protocol-Version".to_owned(), encoded(version)));
    }
    let (Era::Modern, Some(method)) = (era, message.method()) else { return Ok(headers) };
    if method.is_empty() || needs_base64(method) {
        return Err(MirrorError::Method);
    }
    headers.push(("Mcp-Method".to_owned(), method.to_owned()));
    if message.kind() != Kind::Request {
        return Ok(headers);
    }
    if let Some(subject) = message.subject().filter(|_| method != "tasks/result") {
        headers.push(("Mcp-Name".to_owned(), encoded(&subject)));
    }
    if let (Some(annotations), Some(arguments), "tools/call") = (annotations, message.arguments(), method) {
        headers.extend(annotations.fields(&arguments));
    }
    Ok(headers)
}

fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

const PREFIX: &str = "=?base64?";
const SUFFIX: &str = "?=";

fn needs_base64(value: &str) -> bool {
    let edge = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let bytes = value.as_bytes();
    edge(bytes.first())
        || edge(bytes.last())
        || bytes.iter().any(|b| !(0x20..=0x7e).contains(b))
        || value.starts_with(PREFIX) && value.ends_with(SUFFIX)
}

/// A value as it may stand in a header field: itself, or wrapped in base64 (SEP-2243).
fn encoded(value: &str) -> String {
    if needs_base64(value) { format!("{PREFIX}{}{SUFFIX}", base64(value.as_bytes())) } else { value.to_owned() }
}

/// base64 with padding (RFC 4648 section 4).
fn base64(bytes: &[u8]) -> String {
    let mut text: String = crate::exchange::base64url(bytes)
        .chars()
        .map(|c| match c {
            '-' => '+',
            '_' => '/',
            c => c,
        })
        .collect();
    while !text.len().is_multiple_of(4) {
        text.push('=');
    }
    text
}
