//! The HTTP mirrors of a modern request (MCP 2026-07-28, SEP-2243): `Mcp-Method`, `Mcp-Name`, and `Mcp-Param-*` for the arguments
//! whose schema says `x-mcp-header`. The edge is the HTTP client here, so it must know the schemas: a bounded cache of `tools/list`.

use std::collections::HashMap;

use bytes::Bytes;
use mcp_sip::jsonrpc::Envelope;
use serde_json::Value;
use sip_proto::time::Mono;

use crate::input::BackendId;

/// Tools with header parameters per agent; header parameters per tool; nesting of their objects; pages of one list.
const MAX_TOOLS: usize = 1024;
const MAX_PARAMS: usize = 16;
const MAX_DEPTH: usize = 8;
const MAX_PAGES: u32 = 16;
/// How long a list is believed that does not say so itself, and the longest that one may ask for; milliseconds.
const DEFAULT_TTL_MS: u64 = 5 * 60_000;
const MAX_TTL_MS: u64 = 60 * 60_000;
/// After a list that could not be had.
const RETRY_MS: u64 = 10_000;

/// An argument that is mirrored.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Param {
    path: Vec<String>,
    header: String,
}

#[derive(Debug, Default)]
struct Agent {
    /// Only tools that mirror something.
    tools: HashMap<String, Vec<Param>>,
    fresh_until: Mono,
    asking: Option<Asking>,
}

/// A list that is being fetched.
#[derive(Debug)]
struct Asking {
    call: BackendId,
    page: u32,
    tools: HashMap<String, Vec<Param>>,
    ttl_ms: u64,
    /// Exchanges that wait for it; their number is bounded by what may be in flight.
    waiting: Vec<u64>,
}

/// What is known for a call.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Known {
    Yes(Vec<(String, String)>),
    /// Somebody must ask for the list; the exchange is noted.
    Ask,
    /// It is being asked for; the exchange is noted.
    Wait,
}

/// What to do after a page.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Ask for the next page with this cursor.
    Page(String),
    /// These exchanges may go on.
    Ready(Vec<u64>),
}

/// By `AgentConfig::key`.
#[derive(Debug, Default)]
pub(super) struct Mirrors {
    agents: HashMap<String, Agent>,
}

impl Mirrors {
    /// The header fields of a request, or that the schema of its tool must be fetched first.
    pub(super) fn of(&mut self, now: Mono, agent: &str, envelope: &Envelope, exchange: u64) -> Known {
        let mut fields = plain(envelope);
        let Some(arguments) = envelope.tool().and(envelope.arguments()).filter(|raw| has_members(raw)) else {
            return Known::Yes(fields);
        };
        let entry = self.agents.entry(agent.to_owned()).or_default();
        if entry.fresh_until <= now {
            return match &mut entry.asking {
                Some(asking) => {
                    asking.waiting.push(exchange);
                    Known::Wait
                }
                None => Known::Ask,
            };
        }
        if let Some(params) = envelope.tool().and_then(|tool| entry.tools.get(&*tool)) {
            fields.extend(mirrored(params, &arguments));
        }
        Known::Yes(fields)
    }

    /// `call` asks for the first page, for `exchange`.
    pub(super) fn asking(&mut self, agent: &str, call: BackendId, exchange: u64) {
        let entry = self.agents.entry(agent.to_owned()).or_default();
        entry.asking =
            Some(Asking { call, page: 1, tools: HashMap::new(), ttl_ms: MAX_TTL_MS, waiting: vec![exchange] });
    }

    /// A page came.
    pub(super) fn page(&mut self, now: Mono, agent: &str, envelope: &Envelope) -> Next {
        let Some(entry) = self.agents.get_mut(agent) else { return Next::Ready(Vec::new()) };
        let Some(asking) = &mut entry.asking else { return Next::Ready(Vec::new()) };
        let Some(list) = envelope.result().and_then(|raw| serde_json::from_slice::<Value>(&raw).ok()) else {
            return self.failed(now, agent);
        };
        for tool in list.get("tools").and_then(Value::as_array).into_iter().flatten() {
            let (Some(name), Some(schema)) = (tool.get("name").and_then(Value::as_str), tool.get("inputSchema")) else {
                continue;
            };
            let params = params_of(schema);
            if !params.is_empty() && asking.tools.len() < MAX_TOOLS {
                asking.tools.insert(name.to_owned(), params);
            }
        }
        let ttl_ms = list.get("ttlMs").and_then(Value::as_u64).unwrap_or(DEFAULT_TTL_MS);
        asking.ttl_ms = asking.ttl_ms.min(ttl_ms);
        match list.get("nextCursor").and_then(Value::as_str) {
            Some(cursor) if asking.page < MAX_PAGES => {
                asking.page += 1;
                Next::Page(cursor.to_owned())
            }
            _ => {
                let Some(asking) = entry.asking.take() else { return Next::Ready(Vec::new()) };
                entry.tools = asking.tools;
                // What waits is served from this list even where it may not be kept at all.
                entry.fresh_until = now.plus_millis(asking.ttl_ms.max(1));
                Next::Ready(asking.waiting)
            }
        }
    }

    /// The next page is asked for by another call.
    pub(super) fn moved(&mut self, agent: &str, call: BackendId) {
        if let Some(asking) = self.agents.get_mut(agent).and_then(|entry| entry.asking.as_mut()) {
            asking.call = call;
        }
    }

    /// The list cannot be had: go on with what is known. Where a header is missing, the server says so itself (-32020).
    pub(super) fn failed(&mut self, now: Mono, agent: &str) -> Next {
        let Some(entry) = self.agents.get_mut(agent) else { return Next::Ready(Vec::new()) };
        entry.fresh_until = now.plus_millis(RETRY_MS);
        Next::Ready(entry.asking.take().map(|asking| asking.waiting).unwrap_or_default())
    }

    /// The server found a mirror wrong: what we know is old.
    pub(super) fn forget(&mut self, agent: &str) {
        if let Some(entry) = self.agents.get_mut(agent) {
            entry.fresh_until = Mono(0);
        }
    }

    /// Keeps what belongs to these agents, and believes none of it any longer: a backend may be another one now. Gives the calls that
    /// nobody waits for any more.
    pub(super) fn configure(&mut self, keep: impl Fn(&str) -> bool) -> Vec<BackendId> {
        let mut calls = Vec::new();
        self.agents.retain(|agent, entry| {
            let stays = keep(agent);
            entry.fresh_until = Mono(0);
            if !stays {
                calls.extend(entry.asking.as_ref().map(|asking| asking.call));
            }
            stays
        });
        calls
    }
}

/// `Mcp-Method` and `Mcp-Name`.
pub(super) fn plain(envelope: &Envelope) -> Vec<(String, String)> {
    let mut fields = Vec::with_capacity(2);
    if let Some(method) = envelope.method() {
        fields.push(("Mcp-Method".to_owned(), field_value(method)));
    }
    if let Some(subject) = envelope.subject() {
        fields.push(("Mcp-Name".to_owned(), field_value(&subject)));
    }
    fields
}

fn has_members(arguments: &Bytes) -> bool {
    arguments.first() == Some(&b'{') && arguments.iter().skip(1).any(|b| *b == b':')
}

fn mirrored(params: &[Param], arguments: &[u8]) -> Vec<(String, String)> {
    let Ok(arguments) = serde_json::from_slice::<Value>(arguments) else { return Vec::new() };
    let value_of = |param: &Param| {
        let value = param.path.iter().try_fold(&arguments, |value, key| value.get(key))?;
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Bool(_) | Value::Number(_) => value.to_string(),
            Value::Null | Value::Array(_) | Value::Object(_) => return None,
        };
        Some((format!("Mcp-Param-{}", param.header), field_value(&text)))
    };
    params.iter().filter_map(value_of).collect()
}

/// The annotations that are well formed: an HTTP token on a property that is reached through `properties` alone.
fn params_of(schema: &Value) -> Vec<Param> {
    let mut found: Vec<Param> = Vec::new();
    let mut open = vec![(schema, Vec::<String>::new())];
    while let Some((object, path)) = open.pop() {
        for (name, property) in object.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let mut path = path.clone();
            path.push(name.clone());
            if let Some(header) = property.get("x-mcp-header").and_then(Value::as_str)
                && mcp_sip::headers::is_token(header)
                && found.len() < MAX_PARAMS
                && !found.iter().any(|known| known.header.eq_ignore_ascii_case(header))
            {
                found.push(Param { path: path.clone(), header: header.to_owned() });
            }
            if path.len() < MAX_DEPTH && property.get("properties").is_some() {
                open.push((property, path));
            }
        }
    }
    found
}

/// A value that an HTTP field can carry as it is, else `=?base64?…?=` (SEP-2243).
fn field_value(text: &str) -> String {
    let bytes = text.as_bytes();
    let at_edge = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let looks_wrapped = text.starts_with("=?base64?") && text.ends_with("?=");
    let is_plain = bytes.iter().all(|b| (0x20..=0x7e).contains(b)) && !at_edge(bytes.first()) && !at_edge(bytes.last());
    if is_plain && !looks_wrapped { text.to_owned() } else { format!("=?base64?{}?=", base64(bytes)) }
}

/// Base64 with padding (RFC 4648 section 4).
fn base64(bytes: &[u8]) -> String {
    let mut out: String = crate::text::base64url(bytes)
        .chars()
        .map(|c| {
            if c == '-' {
                '+'
            } else if c == '_' {
                '/'
            } else {
                c
            }
        })
        .collect();
    while out.len() % 4 != 0 {
        out.push('=');
    }
    out
}

#[cfg(test)]
mod tests {
    use mcp_sip::jsonrpc::Bounds;
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> Envelope {
        Envelope::parse(&Bytes::from(value.to_string()), &Bounds::default()).unwrap()
    }

    fn call(tool: &str, arguments: Value) -> Envelope {
        read(
            json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments}}),
        )
    }

    fn list(cursor: Option<&str>) -> Envelope {
        let mut result = json!({"tools": [{"name": "deploy", "inputSchema": {"type": "object", "properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "bad": {"type": "string", "x-mcp-header": "no token"},
            "again": {"type": "string", "x-mcp-header": "region"},
            "where": {"type": "object", "properties": {"zone": {"type": "integer", "x-mcp-header": "Zone"}}},
        }}}, {"name": "echo", "inputSchema": {"type": "object"}}], "ttlMs": 1000});
        if let Some(cursor) = cursor {
            result["nextCursor"] = cursor.into();
        }
        read(json!({"jsonrpc": "2.0", "id": "x", "result": result}))
    }

    const T: Mono = Mono(1_000_000);

    #[test]
    fn the_schema_is_fetched_before_the_first_call_with_arguments() {
        let mut mirrors = Mirrors::default();
        let without = call("deploy", json!({}));
        let plain = vec![("Mcp-Method".into(), "tools/call".into()), ("Mcp-Name".into(), "deploy".into())];
        assert_eq!(mirrors.of(T, "a", &without, 1), Known::Yes(plain.clone()));
        let with = call("deploy", json!({"region": "eu", "where": {"zone": 7}, "bad": "x"}));
        assert_eq!(mirrors.of(T, "a", &with, 1), Known::Ask);
        mirrors.asking("a", BackendId(9), 1);
        assert_eq!(mirrors.of(T, "a", &with, 2), Known::Wait);
        assert_eq!(mirrors.page(T, "a", &list(Some("p2"))), Next::Page("p2".into()));
        assert_eq!(mirrors.page(T, "a", &list(None)), Next::Ready(vec![1, 2]));
        let Known::Yes(mut fields) = mirrors.of(T, "a", &with, 3) else { panic!("known") };
        fields.sort();
        let wanted = [("Mcp-Param-Region", "eu"), ("Mcp-Param-Zone", "7")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        assert_eq!(fields[2..], wanted);
        assert_eq!(mirrors.of(T.plus_millis(1000), "a", &with, 3), Known::Ask, "not longer than ttlMs");
    }

    #[test]
    fn a_list_that_cannot_be_had_delays_nobody_twice() {
        let mut mirrors = Mirrors::default();
        let with = call("deploy", json!({"region": "eu"}));
        assert_eq!(mirrors.of(T, "a", &with, 1), Known::Ask);
        mirrors.asking("a", BackendId(9), 1);
        assert_eq!(mirrors.failed(T, "a"), Next::Ready(vec![1]));
        assert!(matches!(mirrors.of(T, "a", &with, 2), Known::Yes(_)));
        assert_eq!(mirrors.of(T.plus_millis(RETRY_MS), "a", &with, 3), Known::Ask);
    }

    #[test]
    fn pages_end() {
        let mut mirrors = Mirrors::default();
        mirrors.asking("a", BackendId(9), 1);
        let pages = (0..100).take_while(|_| matches!(mirrors.page(T, "a", &list(Some("more"))), Next::Page(_))).count();
        assert_eq!(pages, MAX_PAGES as usize - 1);
    }

    #[test]
    fn values_that_http_cannot_carry_are_wrapped() {
        assert_eq!(field_value("eu-1 a"), "eu-1 a");
        assert_eq!(field_value(" a"), "=?base64?IGE=?=");
        assert_eq!(field_value("é"), "=?base64?w6k=?=");
        assert_eq!(field_value("=?base64?x?="), "=?base64?PT9iYXNlNjQ/eD89?=");
        assert_eq!(field_value(""), "");
    }
}
