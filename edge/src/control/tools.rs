//! The tools of the agents' backends, for an operator: it says of a policy's condition what it misses in a tool's schema, and of an agent what
//! it declares and its backend does not have.
//!
//! Asked for as any client would, a few backends at a time, once and then as long as the list says that it may be believed. Nothing of it
//! decides a call.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use edge_api::control::{ToolList, ToolReport};
use edge_core::config::{AgentBackend, Config};
use edge_core::effect::{BackendAction, BackendCall};
use edge_core::input::{BackendEvent, BackendId};
use mcp_sip::jsonrpc::{self, META_CLIENT_CAPABILITIES, META_PROTOCOL_VERSION, RawId};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval};

use super::report::Reporter;
use crate::backend::{Backend, Backends};

/// Tools of one agent, octets of a name and of a schema, as the contract has it.
const MAX_TOOLS: usize = 256;
const MAX_NAME: usize = 128;
const MAX_SCHEMA: usize = 64 << 10;
/// Octets of the schemas of one agent, and of what is kept of all; a schema beyond stays out, then the list.
const MAX_AGENT: usize = 512 << 10;
const MAX_TOTAL: usize = 8 << 20;
/// Pages of one list.
const MAX_PAGES: u8 = 16;
/// Between two looks at who is due, and backends that are asked at one time.
const LOOK: Duration = Duration::from_secs(1);
const AT_ONCE: usize = 16;
/// For one page.
const TIME_MS: u64 = 10_000;
/// How long a list is believed that does not say so itself, and the bounds of what one may say.
const DEFAULT_TTL: Duration = Duration::from_secs(300);
const MIN_TTL: Duration = Duration::from_secs(60);
const MAX_TTL: Duration = Duration::from_secs(3600);
/// After a list that could not be had: doubled each time, at most [`DEFAULT_TTL`].
const RETRY: Duration = Duration::from_secs(5);
/// The last revision with a session.
const LEGACY: &str = "2025-11-25";

/// See the module. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tools(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    /// By `AgentConfig::key`; only agents that the configuration has.
    agents: BTreeMap<String, Entry>,
    /// Octets of all lists.
    octets: usize,
}

#[derive(Debug, Default)]
struct Entry {
    list: Option<Arc<ToolList>>,
    /// Who was asked; another one is asked at once.
    of: Weak<Backend>,
    at: Option<Arc<Vec<std::net::SocketAddr>>>,
    due: Option<Instant>,
    failures: u32,
    asking: bool,
}

impl Entry {
    /// Another backend than the one that was asked, or one whose Service leads to other pods, which may have other tools.
    fn moved(&self, backend: &Arc<Backend>) -> bool {
        !std::ptr::eq(self.of.as_ptr(), Arc::as_ptr(backend)) || self.at != backend.route_now()
    }
}

/// One backend to be asked.
struct Due {
    agent: String,
    revisions: Vec<String>,
    backend: Arc<Backend>,
}

/// A list as it came, and how long it may be believed.
type Listed = (ToolList, Duration);

impl Tools {
    /// What is known of an agent. The same `Arc` is the same list.
    #[must_use]
    pub fn of(&self, agent: &str) -> Option<Arc<ToolList>> {
        self.known().agents.get(agent)?.list.clone()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Each change under the lock leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The backends that are to be asked now, at most so many; they count as being asked from here on.
    fn due(&self, config: &Config, backends: &Backends, now: Instant, most: usize) -> Vec<Due> {
        let mut known = self.known();
        let Known { agents, octets } = &mut *known;
        let here: BTreeMap<&str, &AgentBackend> =
            config.agents.values().map(|agent| (&*agent.key, &agent.backend)).collect();
        agents.retain(|key, entry| {
            let stays = here.get(&**key).is_some_and(|backend| !backend.is_sip_contact());
            if !stays {
                *octets -= entry.list.as_deref().map_or(0, size);
            }
            stays
        });
        // Who has waited longest is asked first, so that many agents do not keep the last ones waiting for ever.
        let mut due = BTreeSet::new();
        for (key, backend) in &here {
            let entry = agents.get(*key);
            if backend.is_sip_contact() || entry.is_some_and(|entry| entry.asking) {
                continue;
            }
            let Some(backend) = backends.of(key) else { continue };
            let since = match entry {
                None => None,
                Some(entry) if entry.moved(&backend) => None,
                Some(Entry { due: Some(due), .. }) if *due > now => continue,
                Some(entry) => entry.due,
            };
            due.insert((since, *key));
            if due.len() > most {
                due.pop_last();
            }
        }
        let begin = |(_, key): (Option<Instant>, &str)| {
            let Some(AgentBackend::McpHttp { revisions }) = here.get(key) else { return None };
            let backend = backends.of(key)?;
            let entry = agents.entry(key.to_owned()).or_default();
            (entry.of, entry.at, entry.asking) = (Arc::downgrade(&backend), backend.route_now(), true);
            Some(Due { agent: key.to_owned(), revisions: revisions.clone(), backend })
        };
        due.into_iter().filter_map(begin).collect()
    }

    /// What became of the question. `None`: the list could not be had, and what is known of it stays.
    fn took(&self, agent: &str, listed: Option<Listed>, now: Instant) {
        let mut known = self.known();
        let Known { agents, octets } = &mut *known;
        let Some(entry) = agents.get_mut(agent) else { return };
        entry.asking = false;
        let Some((mut list, ttl)) = listed else {
            let pause = RETRY.saturating_mul(1 << entry.failures.min(6)).min(DEFAULT_TTL);
            entry.failures = entry.failures.saturating_add(1);
            entry.due = Some(now + pause);
            return;
        };
        entry.failures = 0;
        entry.due = Some(now + ttl);
        if entry.list.as_deref() == Some(&list) {
            return;
        }
        *octets -= entry.list.take().as_deref().map_or(0, size);
        if *octets + size(&list) > MAX_TOTAL {
            list.tools.iter_mut().for_each(|tool| tool.input_schema = Bytes::new());
        }
        if *octets + size(&list) <= MAX_TOTAL {
            *octets += size(&list);
            entry.list = Some(Arc::new(list));
        }
    }
}

/// Octets of a list.
pub(super) fn size(list: &ToolList) -> usize {
    list.tools.iter().map(|tool| tool.name.len() + tool.input_schema.len() + 16).sum()
}

/// Asks until it is dropped.
pub(super) async fn discover(tools: Tools, reporter: Reporter) {
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut asking = JoinSet::<()>::new();
    loop {
        tokio::select! {
            _ = look.tick() => {}
            Some(_) = asking.join_next() => continue,
        }
        let (Some(parts), Some(config)) = (reporter.parts.get(), reporter.status.config()) else { continue };
        let room = AT_ONCE.saturating_sub(asking.len());
        for Due { agent, revisions, backend } in tools.due(&config, &parts.backends, Instant::now(), room) {
            let tools = tools.clone();
            asking.spawn(async move {
                let listed = ask(&backend, &agent, &revisions).await;
                tools.took(&agent, listed, Instant::now());
            });
        }
    }
}

/// In the first revision in which the backend answers.
async fn ask(backend: &Backend, agent: &str, revisions: &[String]) -> Option<Listed> {
    for revision in revisions {
        let listed = match &**revision {
            LEGACY => legacy(backend, agent).await,
            modern => pages(backend, agent, modern, None).await,
        };
        if listed.is_some() {
            return listed;
        }
    }
    None
}

/// Within a session of its own.
async fn legacy(backend: &Backend, agent: &str) -> Option<Listed> {
    let params = json!({"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": client()});
    let mut begin = post(agent, jsonrpc::request(&id(0), "initialize", Some(&params)));
    begin.protocol_version = None;
    let (session, answer) = said(backend, begin).await;
    answer?;
    let within =
        |body| BackendCall { session: session.clone(), protocol_version: Some(LEGACY.to_owned()), ..post(agent, body) };
    said(backend, within(jsonrpc::notification("notifications/initialized", None))).await;
    let listed = pages(backend, agent, LEGACY, session.as_deref()).await;
    if session.is_some() {
        said(backend, BackendCall { action: BackendAction::EndSession, ..within(Bytes::new()) }).await;
    }
    listed
}

async fn pages(backend: &Backend, agent: &str, revision: &str, session: Option<&str>) -> Option<Listed> {
    let (mut tools, mut ttl) = (BTreeMap::new(), MAX_TTL);
    let mut cursor = None::<String>;
    for page in 1..=MAX_PAGES {
        let mut params = json!({});
        if revision != LEGACY {
            params["_meta"] = json!({
                META_PROTOCOL_VERSION: revision, META_CLIENT_CAPABILITIES: {}, "io.modelcontextprotocol/clientInfo": client(),
            });
        }
        if let Some(cursor) = cursor.take() {
            params["cursor"] = cursor.into();
        }
        let mut call = post(agent, jsonrpc::request(&id(page), "tools/list", Some(&params)));
        call.protocol_version = Some(revision.to_owned());
        call.session = session.map(str::to_owned);
        if revision != LEGACY {
            call.headers.push(("Mcp-Method".to_owned(), "tools/list".to_owned()));
        }
        let (_, answer) = said(backend, call).await;
        let answer = answer?;
        let list = read(&answer)?;
        ttl = ttl.min(list.ttl_ms.map_or(DEFAULT_TTL, Duration::from_millis));
        for tool in list.tools {
            if (1..=MAX_NAME).contains(&tool.name.len()) && (tools.len() < MAX_TOOLS || tools.contains_key(&*tool.name))
            {
                let schema = tool.input_schema.map(RawValue::get).filter(|schema| schema.len() <= MAX_SCHEMA);
                tools.insert(tool.name.into_owned(), schema.unwrap_or_default().to_owned());
            }
        }
        match list.next_cursor {
            Some(next) if tools.len() < MAX_TOOLS => cursor = Some(next),
            _ => break,
        }
    }
    let mut room = MAX_AGENT;
    let tools = tools.into_iter().map(|(name, schema)| {
        let schema = if schema.len() <= room { schema } else { String::new() };
        room -= schema.len();
        ToolReport { name, input_schema: schema.into_bytes().into(), quarantined: String::new() }
    });
    Some((ToolList { tools: tools.collect() }, ttl.clamp(MIN_TTL, MAX_TTL)))
}

/// The members of an answer to `tools/list` that matter here.
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    result: List<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct List<'a> {
    #[serde(borrow)]
    tools: Vec<Tool<'a>>,
    ttl_ms: Option<u64>,
    next_cursor: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Tool<'a> {
    #[serde(borrow)]
    name: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    input_schema: Option<&'a RawValue>,
}

/// `None`: it is no list.
fn read(answer: &Bytes) -> Option<List<'_>> {
    serde_json::from_slice::<Answer<'_>>(answer).ok().map(|answer| answer.result)
}

fn client() -> Value {
    json!({"name": "sipmcp-edge", "version": env!("CARGO_PKG_VERSION")})
}

/// Unique within a session, which is all that an id must be.
fn id(number: u8) -> RawId {
    RawId::number(number.into())
}

fn post(agent: &str, body: Bytes) -> BackendCall {
    BackendCall {
        agent: agent.to_owned(),
        action: BackendAction::Post { body },
        session: None,
        protocol_version: None,
        headers: Vec::new(),
        traceparent: None,
        timeout_ms: TIME_MS,
    }
}

/// The session that the answer names, and the answer; `None`: there is none, or it is an error.
async fn said(backend: &Backend, call: BackendCall) -> (Option<String>, Option<Bytes>) {
    #[derive(Deserialize)]
    struct Response<'a> {
        #[serde(borrow)]
        result: Option<&'a RawValue>,
    }
    let (events, mut said) = mpsc::channel(8);
    let run = backend.run(BackendId(0), call, events);
    let (mut session, mut answer) = (None, None);
    let read = async {
        while let Some((_, event)) = said.recv().await {
            match event {
                BackendEvent::Head { session: named, .. } => session = named,
                // Whatever else a server says on that stream is for nobody.
                BackendEvent::Message { body, .. } => {
                    let is_answer =
                        serde_json::from_slice::<Response<'_>>(&body).is_ok_and(|read| read.result.is_some());
                    if is_answer {
                        answer = Some(body);
                    }
                }
                BackendEvent::Position { .. } | BackendEvent::Done | BackendEvent::Failed(_) => {}
            }
        }
    };
    tokio::join!(run, read);
    (session, answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(tools: usize, octets: usize) -> ToolList {
        let tool = |number| ToolReport {
            name: format!("tool-{number:04}"),
            input_schema: vec![b' '; octets].into(),
            quarantined: String::new(),
        };
        ToolList { tools: (0..tools).map(tool).collect() }
    }

    fn known(agents: usize) -> Tools {
        let tools = Tools::default();
        tools.known().agents.extend((0..agents).map(|number| (number.to_string(), Entry::default())));
        tools
    }

    #[test]
    fn the_same_list_is_not_told_again_and_one_that_cannot_be_had_takes_nothing_away() {
        let (tools, now) = (known(1), Instant::now());
        assert!(tools.of("0").is_none());
        tools.took("0", None, now);
        assert!(tools.of("0").is_none());
        tools.took("0", Some((list(2, 10), MIN_TTL)), now);
        let first = tools.of("0").unwrap();
        tools.took("0", Some((list(2, 10), MIN_TTL)), now);
        tools.took("0", None, now);
        assert!(Arc::ptr_eq(&first, &tools.of("0").unwrap()));
        tools.took("0", Some((list(3, 10), MIN_TTL)), now);
        assert_eq!(tools.of("0").unwrap().tools.len(), 3);
        tools.took("stranger", Some((list(1, 1), MIN_TTL)), now);
        assert!(tools.of("stranger").is_none(), "an agent that went meanwhile");
    }

    #[test]
    fn all_lists_together_are_bounded_schemas_go_first() {
        let (tools, now) = (known(40), Instant::now());
        for agent in 0..40 {
            tools.took(&agent.to_string(), Some((list(8, MAX_SCHEMA), MIN_TTL)), now);
            assert!(tools.known().octets <= MAX_TOTAL);
        }
        let has_schemas = |agent: usize| !tools.of(&agent.to_string()).unwrap().tools[0].input_schema.is_empty();
        assert!(has_schemas(0) && !has_schemas(39));
        assert_eq!(tools.of("39").unwrap().tools.len(), 8);
        // What one gives back another one has.
        tools.took("0", Some((list(1, 1), MIN_TTL)), now);
        tools.took("39", Some((list(7, MAX_SCHEMA), MIN_TTL)), now);
        assert!(has_schemas(39));
    }

    #[test]
    fn a_list_is_read_and_anything_else_is_none() {
        let read_names = |text: &'static str| {
            let answer = Bytes::from_static(text.as_bytes());
            read(&answer).map(|list| list.tools.iter().map(|tool| tool.name.to_string()).collect::<Vec<_>>())
        };
        let tools = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"a\u0062","inputSchema":{}},{"name":"c"}],"ttlMs":5}}"#;
        assert_eq!(read_names(tools).unwrap(), ["ab", "c"]);
        for wrong in ["", "[]", r#"{"result":{}}"#, r#"{"error":{"code":1}}"#, r#"{"result":{"tools":7}}"#] {
            assert!(read_names(wrong).is_none(), "{wrong}");
        }
    }
}
