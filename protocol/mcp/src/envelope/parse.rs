//! From bytes to [`Negotiation`].

use std::borrow::Cow;

use bytes::Bytes;

use super::{Negotiation, NegotiationError, Role, Step, Unknown};
use crate::headers::{HeaderError, MAX_ENTRIES, Mode, ToolRef, is_schema};
use crate::jsonrpc::scan::{Broken, MAX_DEPTH, Scanner, Type, Value, unescape};
use crate::jsonrpc::{Fault, Refused};

/// Unknown members of one object.
const MAX_UNKNOWN: usize = 32;

impl From<Broken> for NegotiationError {
    fn from(broken: Broken) -> Self {
        NegotiationError::Body(Refused::from(broken))
    }
}

type Found<'a> = Vec<(String, Value, &'a [u8])>;

/// All members of an object, each once.
fn members<'a>(object: &'a [u8], of: &'static str) -> Result<Found<'a>, NegotiationError> {
    let mut scanner = Scanner::new(object, MAX_DEPTH);
    if scanner.peek() != Some(b'{') {
        scanner.value(0)?;
        return Err(NegotiationError::Type { member: of, expected: "an object" });
    }
    scanner.enter(b'{', 1)?;
    let mut found: Found<'a> = Vec::new();
    let mut duplicate = None;
    let mut first = true;
    while let Some(key) = scanner.key(&mut first)? {
        let value = scanner.value(1)?;
        let name = unescape(key.span.of(object)).map(Cow::into_owned);
        let Some(name) = name else {
            return Err(NegotiationError::Type { member: of, expected: "an object with readable names" });
        };
        if found.iter().any(|(seen, ..)| *seen == name) {
            duplicate = Some(name);
        } else if found.len() == MAX_UNKNOWN + 8 {
            return Err(NegotiationError::TooMany(of));
        } else {
            found.push((name, value, value.span.of(object)));
        }
    }
    scanner.finish()?;
    duplicate.map_or(Ok(found), |name| Err(NegotiationError::Duplicate(name)))
}

fn take<'a>(found: &mut Found<'a>, name: &str) -> Option<(Value, &'a [u8])> {
    let index = found.iter().position(|(member, ..)| member == name)?;
    let (_, value, raw) = found.remove(index);
    Some((value, raw))
}

fn text(found: &mut Found<'_>, name: &str, member: &'static str) -> Result<String, NegotiationError> {
    let (_, raw) = take(found, name).ok_or(NegotiationError::Missing(member))?;
    string(raw).ok_or(NegotiationError::Type { member, expected: "a string" })
}

fn string(raw: &[u8]) -> Option<String> {
    if raw.first() == Some(&b'"') { unescape(raw).map(Cow::into_owned) } else { None }
}

/// The strings of an array.
fn strings(raw: &[u8], member: &'static str) -> Result<Vec<String>, NegotiationError> {
    let expected = "a list of strings";
    let mut scanner = Scanner::new(raw, MAX_DEPTH);
    if scanner.peek() != Some(b'[') {
        return Err(NegotiationError::Type { member, expected });
    }
    scanner.enter(b'[', 1)?;
    let (mut items, mut first) = (Vec::new(), true);
    while scanner.element(&mut first)? {
        let value = scanner.value(1)?;
        if items.len() == MAX_ENTRIES {
            return Err(NegotiationError::TooMany(member));
        }
        let item = if value.kind == Type::String { string(value.span.of(raw)) } else { None };
        items.push(item.ok_or(NegotiationError::Type { member, expected })?);
    }
    Ok(items)
}

fn optional_strings(
    found: &mut Found<'_>,
    name: &str,
    member: &'static str,
    fits: impl Fn(&str) -> bool,
) -> Result<Vec<String>, NegotiationError> {
    let Some((_, raw)) = take(found, name) else { return Ok(Vec::new()) };
    let items = strings(raw, member)?;
    match items.iter().find(|item| !fits(item)) {
        Some(bad) => Err(NegotiationError::Value { member, value: bad.clone() }),
        None => Ok(items),
    }
}

fn kept(found: Found<'_>, of: &'static str) -> Result<Vec<Unknown>, NegotiationError> {
    if found.len() > MAX_UNKNOWN {
        return Err(NegotiationError::TooMany(of));
    }
    let unknown = |(name, _, raw): (String, Value, &[u8])| Unknown {
        name,
        raw: String::from_utf8_lossy(raw).into_owned(), // checked UTF-8
    };
    Ok(found.into_iter().map(unknown).collect())
}

pub(super) fn negotiation(bytes: &Bytes) -> Result<Negotiation, NegotiationError> {
    if u32::try_from(bytes.len()).is_err() {
        let fault = Fault::TooLarge { bytes: bytes.len(), limit: u32::MAX as usize };
        return Err(NegotiationError::Body(Refused { fault, id: None }));
    }
    if let Err(error) = std::str::from_utf8(bytes) {
        return Err(NegotiationError::Body(Refused { fault: Fault::NotUtf8(error.valid_up_to()), id: None }));
    }
    let mut outer = members(bytes, "the envelope")?;
    let binding_version = text(&mut outer, "mcp_version", "mcp_version")?;
    if !is_binding_version(&binding_version) {
        return Err(NegotiationError::Value { member: "mcp_version", value: binding_version });
    }
    let step = match text(&mut outer, "type", "type")?.as_str() {
        "offer" => Step::Offer,
        "answer" => Step::Answer,
        other => return Err(NegotiationError::Value { member: "type", value: other.to_owned() }),
    };
    let conversation = text(&mut outer, "conversation", "conversation")?;
    let conversation =
        conversation.parse().map_err(|_| NegotiationError::Value { member: "conversation", value: conversation })?;
    let (_, payload) = take(&mut outer, "payload").ok_or(NegotiationError::Missing("payload"))?;
    let mut payload = members(payload, "payload")?;
    let role = match text(&mut payload, "role", "payload.role")?.as_str() {
        "caller" => Role::Caller,
        "callee" => Role::Callee,
        other => return Err(NegotiationError::Value { member: "payload.role", value: other.to_owned() }),
    };
    let (_, tools) = take(&mut payload, "tools").ok_or(NegotiationError::Missing("payload.tools"))?;
    let tools = strings(tools, "payload.tools")?.iter().map(|tool| tool_ref(tool)).collect::<Result<_, _>>()?;
    let schemas = optional_strings(&mut payload, "schemas", "payload.schemas", is_schema)?;
    let versions = optional_strings(&mut payload, "versions", "payload.versions", |v| {
        v.len() <= 32 && crate::headers::is_token(v)
    })?;
    Ok(Negotiation {
        binding_version,
        step,
        conversation,
        role,
        tools,
        schemas,
        versions,
        unknown: kept(outer, "the envelope")?,
        payload_unknown: kept(payload, "payload")?,
    })
}

fn tool_ref(text: &str) -> Result<ToolRef, NegotiationError> {
    ToolRef::parse(text, Mode::Lenient).map_err(|error| match error {
        HeaderError::Value { value, .. } => NegotiationError::Value { member: "payload.tools", value },
        _ => NegotiationError::Value { member: "payload.tools", value: text.to_owned() },
    })
}

/// `1.0`, and what a later minor version of the binding calls itself.
fn is_binding_version(version: &str) -> bool {
    version
        .strip_prefix("1.")
        .is_some_and(|minor| !minor.is_empty() && minor.len() <= 4 && minor.bytes().all(|b| b.is_ascii_digit()))
}
