//! Whether a condition fits the tools that it is about: the arguments that it names are in a tool's `inputSchema`, and with values made
//! from that schema it gives a boolean (kubernetes §6.2). A schema that says too little about what the condition names is no misfit.

use super::evaluate::holds;
use super::{Failure, When};
use serde_json::{Map, Value, json};

/// References and schemas within one another.
const MAX_DEPTH: u8 = 16;
/// Schemas that are looked at for one object of trial values.
const MAX_SCHEMAS: u64 = 4_096;
/// Objects of trial values: each takes the next of every choice that the schema leaves (types, `enum`, `oneOf`, true and false), and of the
/// texts that the condition itself names.
const TRIALS: usize = 8;
/// Steps of one trial: there is one for each rule and tool, and what takes longer than this may still be done in time for a call.
const TRIAL_STEPS: u32 = 2_000;

/// Why a condition does not fit a tool.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// Arguments that the schema has not.
    #[error("the tool has no argument {}", .0.join(", "))]
    UnknownArguments(Vec<String>),
    /// Values as the schema asks for make it fail.
    #[error("it fails for arguments that the tool takes: {0}")]
    Fails(Failure),
}

impl When {
    /// Whether the condition fits a tool with this `inputSchema`.
    ///
    /// # Errors
    /// It does not. The text names arguments and types, never a value.
    pub fn fits(&self, input_schema: &Value) -> Result<(), Misfit> {
        let reader = |turn| Reader { root: input_schema, texts: &self.texts, turn, left: MAX_SCHEMAS };
        let unknown = self.arguments().filter(|name| !reader(0).has(input_schema, name, 0));
        let unknown: Vec<String> = unknown.map(str::to_owned).collect();
        if !unknown.is_empty() {
            return Err(Misfit::UnknownArguments(unknown));
        }
        for turn in 0..TRIALS {
            let Some(trial) = reader(turn).arguments(input_schema, self) else { continue };
            match holds(&self.root, &trial, TRIAL_STEPS) {
                Ok(_) | Err(Failure::TooMuch) => {}
                Err(failure) => return Err(Misfit::Fails(failure)),
            }
        }
        Ok(())
    }
}

/// Reads one schema, with one choice at every place where it leaves some.
struct Reader<'a> {
    root: &'a Value,
    /// What a text may be, besides another one.
    texts: &'a [String],
    turn: usize,
    /// Schemas that may still be looked at.
    left: u64,
}

impl<'a> Reader<'a> {
    /// The schemas that hold where this one does, `$ref` and `allOf` followed; of `anyOf` and `oneOf` the one whose turn it is.
    fn all(&mut self, schema: &'a Value, depth: u8) -> Vec<&'a Map<String, Value>> {
        let Some(own) = schema.as_object().filter(|_| depth < MAX_DEPTH && self.left > 0) else { return Vec::new() };
        self.left -= 1;
        let mut found = vec![own];
        let local = own.get("$ref").and_then(Value::as_str).and_then(|name| name.strip_prefix('#'));
        if let Some(target) = local.and_then(|path| self.root.pointer(path)) {
            found.extend(self.all(target, depth + 1));
        }
        for part in own.get("allOf").and_then(Value::as_array).into_iter().flatten() {
            found.extend(self.all(part, depth + 1));
        }
        for choices in ["anyOf", "oneOf"].into_iter().filter_map(|name| own.get(name)?.as_array()) {
            if let Some(chosen) = self.turn.checked_rem(choices.len()).and_then(|turn| choices.get(turn)) {
                found.extend(self.all(chosen, depth + 1));
            }
        }
        found
    }

    /// Whether the schema of the arguments has this one, in whichever choice.
    fn has(&mut self, schema: &'a Value, name: &str, depth: u8) -> bool {
        let Some(own) = schema.as_object().filter(|_| depth < MAX_DEPTH && self.left > 0) else { return false };
        self.left -= 1;
        let is_property = own.get("properties").is_some_and(|properties| properties.get(name).is_some());
        // Said on purpose: more arguments are taken, and these by their names.
        let is_open = own.contains_key("patternProperties")
            || own.get("additionalProperties").is_some_and(|more| *more != Value::Bool(false));
        if is_property || is_open {
            return true;
        }
        let local = own.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix('#'));
        let target = local.and_then(|path| self.root.pointer(path)).into_iter();
        let choices = ["allOf", "anyOf", "oneOf"].into_iter().filter_map(|name| own.get(name)?.as_array()).flatten();
        target.chain(choices).any(|part| self.has(part, name, depth + 1))
    }

    /// Trial arguments. `None`: the schema does not say enough about one that the condition names.
    fn arguments(&mut self, schema: &'a Value, when: &When) -> Option<Value> {
        let mut arguments = Map::new();
        for (name, property) in properties(&self.all(schema, 0)) {
            if let Some(value) = self.value(property, 1) {
                arguments.insert(name.clone(), value);
            }
        }
        when.arguments().all(|name| arguments.contains_key(name)).then_some(Value::Object(arguments))
    }

    /// A value that the schema takes; `None` where it does not say what that is.
    fn value(&mut self, schema: &'a Value, depth: u8) -> Option<Value> {
        let parts = self.all(schema, depth);
        let first = |name: &str| parts.iter().find_map(|part| part.get(name));
        if let Some(value) = first("const") {
            return Some(value.clone());
        }
        if let Some(values) = first("enum").and_then(Value::as_array) {
            return self.turn.checked_rem(values.len()).and_then(|turn| values.get(turn)).cloned();
        }
        let kind = match first("type")? {
            Value::String(kind) => kind.as_str(),
            Value::Array(kinds) => kinds.get(self.turn.checked_rem(kinds.len())?)?.as_str()?,
            _ => return None,
        };
        Some(match kind {
            "null" => Value::Null,
            "boolean" => Value::Bool(self.turn.is_multiple_of(2)),
            "integer" => {
                first("minimum").filter(|least| least.is_i64() || least.is_u64()).cloned().unwrap_or_else(|| json!(1))
            }
            "number" => first("minimum").filter(|least| least.is_number()).cloned().unwrap_or_else(|| json!(1.5)),
            "string" => {
                let own =
                    self.turn.checked_rem(self.texts.len() + 1).and_then(|turn| self.texts.get(turn.checked_sub(1)?));
                json!(own.map_or("a", String::as_str))
            }
            "array" => {
                let items = parts.iter().find_map(|part| part.get("items").or_else(|| part.get("prefixItems")?.get(0)));
                let item = self.value(items?, depth + 1)?;
                let least = first("minItems").and_then(Value::as_u64).unwrap_or(1).clamp(1, 16);
                // Copies of copies are many soon.
                self.left = self.left.checked_sub(least.saturating_mul(size(&item)))?;
                Value::Array((0..least).map(|_| item.clone()).collect())
            }
            "object" => {
                let named = properties(&parts);
                if named.is_empty() {
                    return None;
                }
                let mut fields = Map::new();
                for (name, property) in named {
                    fields.insert(name.clone(), self.value(property, depth + 1)?);
                }
                Value::Object(fields)
            }
            _ => return None,
        })
    }
}

fn properties<'a>(parts: &[&'a Map<String, Value>]) -> Vec<(&'a String, &'a Value)> {
    let named = parts.iter().filter_map(|part| part.get("properties")?.as_object());
    named.flatten().collect()
}

/// Values in it, itself included.
fn size(value: &Value) -> u64 {
    let inner = match value {
        Value::Array(items) => items.iter().map(size).fold(0, u64::saturating_add),
        Value::Object(fields) => fields.values().map(size).fold(0, u64::saturating_add),
        _ => 0,
    };
    inner.saturating_add(1)
}
