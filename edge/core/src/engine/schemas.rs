//! The schemas behind the HTTP mirrors of a modern call (`Mcp-Param-*`, SEP-2243). The edge is the HTTP client here, so it must know
//! which arguments a tool's schema marks with `x-mcp-header`: a bounded cache of `tools/list`, by agent.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use mcp_sip::era::Annotations;
use mcp_sip::jsonrpc::Envelope;
use serde::Deserialize;
use serde_json::value::RawValue;
use sip_proto::time::Mono;

use crate::input::BackendId;

/// Tools with annotations per agent; pages of one list.
const MAX_TOOLS: usize = 1024;
const MAX_PAGES: u32 = 16;
/// How long a list is believed that does not say so itself, and the longest that one may ask for; milliseconds.
const DEFAULT_TTL_MS: u64 = 5 * 60_000;
const MAX_TTL_MS: u64 = 60 * 60_000;
/// Only mirrors are made of it, and wrong ones are found and made again: what should not be kept at all is kept so long.
const MIN_TTL_MS: u64 = 60_000;
/// After a list that could not be had.
const RETRY_MS: u64 = 10_000;

type Tools = HashMap<String, Annotations>;

#[derive(Debug, Default)]
struct Agent {
    /// Only tools that mirror something.
    tools: Tools,
    /// Every tool of the list, where it was read to its end.
    names: Option<BTreeSet<String>>,
    fresh_until: Mono,
    asking: Option<Asking>,
}

/// A list that is being fetched.
#[derive(Debug)]
struct Asking {
    call: BackendId,
    page: u32,
    tools: Tools,
    names: BTreeSet<String>,
    ttl_ms: u64,
    /// Exchanges that wait for it; their number is bounded by what may be in flight.
    waiting: Vec<u64>,
}

/// What is known for a call.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Known<'a> {
    Yes(Option<&'a Annotations>),
    /// Somebody must ask for the list.
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
pub(super) struct Schemas {
    agents: HashMap<String, Agent>,
}

/// The members of a `tools/list` result that matter here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct List<'a> {
    #[serde(borrow, default)]
    tools: Vec<Tool<'a>>,
    ttl_ms: Option<u64>,
    next_cursor: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Tool<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    input_schema: Option<&'a RawValue>,
}

impl Schemas {
    /// The annotations of the tool that this request calls, or that they must be fetched first.
    pub(super) fn of(&mut self, now: Mono, agent: &str, envelope: &Envelope, exchange: u64) -> Known<'_> {
        let has_arguments = envelope.arguments().is_some_and(|raw| raw.first() == Some(&b'{') && raw.contains(&b':'));
        let Some(tool) = envelope.tool().filter(|_| has_arguments) else { return Known::Yes(None) };
        let entry = self.agents.entry(agent.to_owned()).or_default();
        match &mut entry.asking {
            _ if entry.fresh_until > now => Known::Yes(entry.tools.get(&*tool)),
            Some(asking) => {
                asking.waiting.push(exchange);
                Known::Wait
            }
            None => Known::Ask,
        }
    }

    /// Whether the agent surely has no such tool: its list is fresh, and the name is not in it.
    pub(super) fn lacks(&self, now: Mono, agent: &str, tool: &str) -> bool {
        let fresh = self.agents.get(agent).filter(|entry| entry.fresh_until > now);
        fresh.and_then(|entry| entry.names.as_ref()).is_some_and(|names| !names.contains(tool))
    }

    /// `call` asks for the first page, for `exchange`.
    pub(super) fn asking(&mut self, agent: &str, call: BackendId, exchange: u64) {
        let entry = self.agents.entry(agent.to_owned()).or_default();
        let (tools, names) = (Tools::new(), BTreeSet::new());
        entry.asking = Some(Asking { call, page: 1, tools, names, ttl_ms: MAX_TTL_MS, waiting: vec![exchange] });
    }

    /// A page came.
    pub(super) fn page(&mut self, now: Mono, agent: &str, envelope: &Envelope) -> Next {
        let Some(entry) = self.agents.get_mut(agent) else { return Next::Ready(Vec::new()) };
        let Some(asking) = &mut entry.asking else { return Next::Ready(Vec::new()) };
        let result = envelope.result();
        let Some(list) = result.as_ref().and_then(|raw| serde_json::from_slice::<List<'_>>(raw).ok()) else {
            return self.failed(now, agent);
        };
        for tool in list.tools {
            // One more than may be: the list is not known to its end then.
            if asking.names.len() <= MAX_TOOLS {
                asking.names.insert(tool.name.clone().into_owned());
            }
            let schema = tool.input_schema.map(RawValue::get).filter(|raw| raw.contains("x-mcp-header"));
            // A tool whose annotations break the rules mirrors nothing; its server says what it thinks of that.
            let Some(Ok(annotations)) = schema.map(|raw| Annotations::from_schema(raw.as_bytes())) else { continue };
            if annotations != Annotations::default() && asking.tools.len() < MAX_TOOLS {
                asking.tools.insert(tool.name.into_owned(), annotations);
            }
        }
        asking.ttl_ms = asking.ttl_ms.min(list.ttl_ms.unwrap_or(DEFAULT_TTL_MS));
        let is_whole = list.next_cursor.is_none();
        match list.next_cursor {
            Some(cursor) if asking.page < MAX_PAGES => {
                asking.page += 1;
                Next::Page(cursor)
            }
            _ => {
                let Some(asking) = entry.asking.take() else { return Next::Ready(Vec::new()) };
                entry.tools = asking.tools;
                entry.names = Some(asking.names).filter(|names| is_whole && names.len() <= MAX_TOOLS);
                entry.fresh_until = now.plus_millis(asking.ttl_ms.max(MIN_TTL_MS));
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
        entry.names = None;
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use mcp_sip::jsonrpc::Bounds;
    use serde_json::{Value, json};

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
        }}}, {"name": "echo", "inputSchema": {"type": "object"}}, {"name": "odd"}], "ttlMs": 120_000});
        if let Some(cursor) = cursor {
            result["nextCursor"] = cursor.into();
        }
        read(json!({"jsonrpc": "2.0", "id": "x", "result": result}))
    }

    const T: Mono = Mono(1_000_000);

    #[test]
    fn the_schema_is_fetched_before_the_first_call_with_arguments() {
        let mut schemas = Schemas::default();
        assert_eq!(schemas.of(T, "a", &call("deploy", json!({})), 1), Known::Yes(None));
        let with = call("deploy", json!({"region": "eu"}));
        assert_eq!(schemas.of(T, "a", &with, 1), Known::Ask);
        schemas.asking("a", BackendId(9), 1);
        assert_eq!(schemas.of(T, "a", &with, 2), Known::Wait);
        assert_eq!(schemas.page(T, "a", &list(Some("p2"))), Next::Page("p2".into()));
        assert_eq!(schemas.page(T, "a", &list(None)), Next::Ready(vec![1, 2]));
        assert!(matches!(schemas.of(T, "a", &with, 3), Known::Yes(Some(_))));
        assert_eq!(schemas.of(T, "a", &call("echo", json!({"text": "x"})), 3), Known::Yes(None));
        assert_eq!(schemas.of(T.plus_millis(120_000), "a", &with, 3), Known::Ask, "not longer than ttlMs");
    }

    #[test]
    fn a_list_that_cannot_be_had_delays_nobody_twice() {
        let mut schemas = Schemas::default();
        let with = call("deploy", json!({"region": "eu"}));
        assert_eq!(schemas.of(T, "a", &with, 1), Known::Ask);
        schemas.asking("a", BackendId(9), 1);
        assert_eq!(schemas.failed(T, "a"), Next::Ready(vec![1]));
        assert_eq!(schemas.of(T, "a", &with, 2), Known::Yes(None));
        assert_eq!(schemas.of(T.plus_millis(RETRY_MS), "a", &with, 3), Known::Ask);
    }

    #[test]
    fn pages_end() {
        let mut schemas = Schemas::default();
        schemas.asking("a", BackendId(9), 1);
        let pages = (0..100).take_while(|_| matches!(schemas.page(T, "a", &list(Some("more"))), Next::Page(_))).count();
        assert_eq!(pages, MAX_PAGES as usize - 1);
    }
}
