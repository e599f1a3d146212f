//! The arguments of a call, as conditions see them. What one parser reads so and another one otherwise is not read at all: members that are
//! there twice, also in another case (some parsers do not tell `Region` from `region`).

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::collections::BTreeSet;

use super::when::{Failure, When};
use crate::jsonrpc::Envelope;

/// What is known of the arguments of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arguments<'a> {
    /// Nothing, because nothing is called yet (negotiation, lists), or nothing is left of it. An Allow rule with a condition may match, a Deny
    /// rule with one does not.
    Unknown,
    /// They are there, and no two parsers need agree about them: no condition has an answer.
    Unreadable,
    /// These; an empty object where the call has none.
    Known(&'a Value),
}

impl Arguments<'_> {
    /// What a condition says. `None`: it cannot be asked.
    pub(super) fn hold(&self, when: &When) -> Option<Result<bool, Failure>> {
        let args = match self {
            Arguments::Unknown => return None,
            Arguments::Unreadable => return Some(Err(Failure::Missing("the arguments".to_owned()))),
            Arguments::Known(args) => args,
        };
        // What it names is there in another case only: who serves the call may take it for the same.
        let is_doubtful = |name: &str| {
            let members = args.as_object().into_iter().flat_map(Map::keys);
            members.into_iter().any(|member| member != name && folded(member) == folded(name))
        };
        if let Some(name) = when.arguments().find(|name| is_doubtful(name)) {
            return Some(Err(Failure::Missing(name.to_owned())));
        }
        Some(when.holds(args))
    }
}

/// [`Arguments`] that are kept for as long as a call is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallArguments {
    /// [`Arguments::Unknown`].
    Unknown,
    /// [`Arguments::Unreadable`].
    Unreadable,
    /// [`Arguments::Known`].
    Known(Value),
}

impl CallArguments {
    /// Of a request or notification.
    #[must_use]
    pub fn of(call: &Envelope) -> CallArguments {
        CallArguments::read(call).unwrap_or(CallArguments::Unreadable)
    }

    /// `None`: not every parser need read the same there.
    fn read(call: &Envelope) -> Option<CallArguments> {
        let nothing = || CallArguments::Known(Value::Object(Map::new()));
        let around = names(call.bytes())?;
        let Some(params) = call.params() else { return (!around.contains("params")).then(nothing) };
        let params = names(&params)?;
        let Some(raw) = call.arguments() else { return (!params.contains("arguments")).then(nothing) };
        let Plain(value) = serde_json::from_slice(&raw).ok()?;
        Some(CallArguments::Known(value))
    }

    /// As a question to the policy has them.
    #[must_use]
    pub fn known(&self) -> Arguments<'_> {
        match self {
            CallArguments::Unknown => Arguments::Unknown,
            CallArguments::Unreadable => Arguments::Unreadable,
            CallArguments::Known(value) => Arguments::Known(value),
        }
    }
}

/// What parsers take for the same name that do not look at case. Both ways, because some know that `ſ` and `K` (Kelvin) are letters of ASCII.
fn folded(name: &str) -> String {
    name.to_uppercase().to_lowercase()
}

/// The names of an object's members, folded. `None`: it is no object, or has one of them twice.
fn names(raw: &[u8]) -> Option<BTreeSet<String>> {
    serde_json::from_slice(raw).ok().map(|Names(names)| names)
}

struct Names(BTreeSet<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Names, D::Error> {
        from.deserialize_map(NameReader).map(Names)
    }
}

struct NameReader;

impl<'de> Visitor<'de> for NameReader {
    type Value = BTreeSet<String>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<BTreeSet<String>, A::Error> {
        let mut names = BTreeSet::new();
        while let Some((name, IgnoredAny)) = from.next_entry::<String, IgnoredAny>()? {
            if !names.insert(folded(&name)) {
                return Err(A::Error::custom("a member is there twice"));
            }
        }
        Ok(names)
    }
}

/// A value that has one reading.
struct Plain(Value);

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Plain, D::Error> {
        from.deserialize_any(Reader).map(Plain)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("no number of JSON"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Plain(value)) = from.next_element()? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        let mut names = BTreeSet::new();
        while let Some((name, Plain(value))) = from.next_entry::<String, Plain>()? {
            if !names.insert(folded(&name)) {
                return Err(A::Error::custom("a member is there twice"));
            }
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }
}
