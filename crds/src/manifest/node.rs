//! YAML as a tree that knows its lines, with bounds against hostile input.

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number};
use serde_saphyr::Spanned;
use std::fmt;

/// Nesting of one document. The deepest path of a kind has nine steps.
const MAX_DEPTH: usize = 32;
/// Scalars, lists and maps of one document, aliases expanded.
const MAX_NODES: usize = 100_000;

/// A YAML node and the line where it begins, counted from 1 in its document's text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub line: u32,
    pub value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Number(Number),
    String(String),
    List(Vec<Node>),
    /// In the order of the text; keys are unique.
    Map(Vec<Entry>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub key: String,
    /// Line of the key.
    pub line: u32,
    pub node: Node,
}

/// Why a text is no YAML document, and the line in the text (0: unknown).
#[derive(Debug)]
pub(crate) struct SyntaxError {
    pub line: u32,
    pub message: String,
}

impl Node {
    /// Parses one document. A text with nothing but comments is `Null`.
    pub fn parse(text: &str) -> Result<Node, SyntaxError> {
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! {
                max_documents: 1,
                max_depth: MAX_DEPTH,
                flow_nesting_limit: MAX_DEPTH,
                max_nodes: MAX_NODES,
                max_events: 2 * MAX_NODES,
                max_aliases: 1000,
                max_anchors: 1000,
                max_recorded_anchor_events: MAX_NODES,
                max_recorded_anchor_bytes: 4 << 20,
                max_total_scalar_bytes: 4 << 20,
                max_merge_keys: 100,
            },
            alias_limits: serde_saphyr::alias_limits! {
                max_total_replayed_events: MAX_NODES,
                max_replay_stack_depth: 16,
                max_alias_expansions_per_anchor: 1000,
            },
            strict_booleans: true,
            reject_unsupported_tags: true,
            with_snippet: false,
        };
        serde_saphyr::from_str_with_options(text, options).map_err(|error| {
            let line = error.location().map_or(0, |location| u32::try_from(location.line()).unwrap_or(0));
            let rendered = error.render_with_formatter(&serde_saphyr::UserMessageFormatter);
            // The location is said once, by the problem.
            let message = rendered.lines().next().unwrap_or_default();
            let message = message.split(" at line ").next().unwrap_or(message);
            SyntaxError { line, message: message.trim_end_matches(['.', ':', ',']).to_owned() }
        })
    }

    /// The value of a key, if this is a map that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.node)
    }

    /// The entry of a key, if this is a map that has it.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    /// The entries of a map; empty for everything else.
    pub fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The items of a list; empty for everything else.
    pub fn items(&self) -> &[Node] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    /// The text of a string; `None` for everything else.
    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// What stands here, in words.
    pub fn describe(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Bool(value) => value.to_string(),
            Value::Number(value) => value.to_string(),
            Value::String(value) => format!("{:?}", abbreviated(value)),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a map".to_owned(),
        }
    }

    /// The same without lines.
    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Number(value) => value.clone().into(),
            Value::String(value) => value.clone().into(),
            Value::List(items) => items.iter().map(Node::to_json).collect(),
            Value::Map(entries) => {
                entries.iter().map(|entry| (entry.key.clone(), entry.node.to_json())).collect::<Map<_, _>>().into()
            }
        }
    }

    /// The line of every field below, by path.
    pub fn lines(&self, offset: u32) -> std::collections::BTreeMap<String, u32> {
        fn walk(node: &Node, path: &str, offset: u32, lines: &mut std::collections::BTreeMap<String, u32>) {
            for entry in node.entries() {
                let path = child(path, &entry.key);
                lines.insert(path.clone(), entry.line + offset);
                walk(&entry.node, &path, offset, lines);
            }
            for (index, item) in node.items().iter().enumerate() {
                let path = format!("{path}[{index}]");
                lines.insert(path.clone(), item.line + offset);
                walk(item, &path, offset, lines);
            }
        }
        let mut lines = Default::default();
        walk(self, "", offset, &mut lines);
        lines
    }
}

/// The path of a field in the object at `path`.
pub(crate) fn child(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// At most 64 characters of a text, for messages.
pub(crate) fn abbreviated(text: &str) -> String {
    match text.char_indices().nth(64) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Node { line: u32::try_from(spanned.referenced.line()).unwrap_or(u32::MAX), value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number that is not finite"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_bytes<E: Error>(self, _: &[u8]) -> Result<Value, E> {
        Err(E::custom("the tag !!binary is not read; use data in a Secret"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut entries: Vec<Entry> = Vec::new();
        while let Some((key, node)) = access.next_entry::<Spanned<String>, Node>()? {
            let line = u32::try_from(key.referenced.line()).unwrap_or(u32::MAX);
            entries.push(Entry { key: key.value, line, node });
        }
        Ok(Value::Map(entries))
    }
}
