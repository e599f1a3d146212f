//! How it goes on this edge, as an operator is told.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use edge_api::control::{
    self, AgentReport, DrainReport, DrainState, Kind, Registration, Report, StoreHealth, StoreState, ToolList,
};
use edge_core::config::{AgentConfig, Config};
use edge_core::input;
use edge_core::names;
use edge_core::stats::Stats;
use session_store::op::{StoreOp, StoreReply};
use session_store_redis::Keeps;
use sip_proto::time::Mono;
use tokio::time::timeout;

use super::held::Key;
use super::tools::{self, Tools};
use crate::admin::stats;
use crate::driver::Parts;
use crate::status::Status;

/// Agents in one report, as the contract has it.
const MAX_AGENTS: usize = 1024;
/// Addresses whose bindings are read for one report; the others have their turn in the next ones.
const READS: usize = 64;
/// Who was refused and does not come again is forgotten then.
const REFUSED_MS: u64 = 10 * 60_000;
/// Octets of lists of tools in one report; the others have their turn in the next ones. One list is smaller.
const TOOLS: usize = 1 << 20;
/// Between two looks at the settings of a shared store.
const KEEPS_EVERY_MS: u64 = 30_000;
/// For all of these reads.
const READING: Duration = Duration::from_secs(2);

/// Who knows how it goes.
#[derive(Clone)]
pub struct Reporter {
    /// There once the start is done.
    pub parts: Arc<OnceLock<Parts>>,
    pub status: Arc<Status>,
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reporter")
    }
}

/// What an operator was told on one stream, and what was found out for it on this one and those before.
#[derive(Debug, Default)]
pub struct Reported {
    pub drain: DrainState,
    agents: BTreeMap<String, AgentReport>,
    /// The lists of tools that it has.
    tools: BTreeMap<String, Arc<ToolList>>,
    /// What the store said of the addresses that users register.
    bindings: BTreeMap<String, Bindings>,
    /// The addresses that were read once, or could not be.
    tried: BTreeSet<String>,
    /// The address after which the next reads begin.
    read_last: String,
    /// What the store keeps, and when it was asked last.
    keeps: Option<Keeps>,
    kept_at: Option<Mono>,
}

impl Reported {
    /// A stream begins: the operator is told everything anew. What was found out stays, since all of it takes many reports to be read again.
    pub fn begin(&mut self) {
        let Reported { bindings, tried, read_last, .. } = std::mem::take(self);
        *self = Reported { bindings, tried, read_last, ..Reported::default() };
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Bindings {
    count: u32,
    /// Seconds since 1970-01-01T00:00:00Z.
    next_expiry: Option<i64>,
    /// There were some before.
    ended: bool,
}

impl Reporter {
    /// The life of this process in the store; 0: none was taken yet.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        let member = self.parts.get().and_then(|parts| parts.membership.borrow().clone());
        member.map_or(0, |member| member.owner.epoch)
    }

    /// Where the drain stands.
    #[must_use]
    pub fn drain_state(&self) -> DrainState {
        match (self.status.is_draining(), self.status.has_ended()) {
            (_, true) => DrainState::Drained,
            (true, false) => DrainState::Draining,
            (false, false) => DrainState::None,
        }
    }

    /// What changed since the last report of the stream.
    pub(super) async fn report(&self, reported: &mut Reported, store: Option<Key>, tools: &Tools) -> Report {
        let state = self.drain_state();
        reported.drain = state;
        let mut report =
            Report { drain: Some(DrainReport { state: state.into(), ..DrainReport::default() }), ..Report::default() };
        let Some(parts) = self.parts.get() else {
            // The start waits, mostly for the store.
            let waiting = self.status.waiting().filter(|waiting| waiting.starts_with("the store"));
            report.store = store.zip(waiting).map(|(store, waiting)| StoreHealth {
                store: Some(store.to_message()),
                state: StoreState::ConnectFailed.into(),
                message: format!("waits for {waiting}"),
                ..StoreHealth::default()
            });
            return report;
        };
        let shards = stats(parts).await;
        report.sessions = total(&shards, |stats| stats.engine.sessions);
        report.in_flight = total(&shards, |stats| stats.engine.exchanges);
        if let Some(store) = store {
            report.store = Some(health(parts, &store, reported).await);
        }
        if let Some(drain) = &mut report.drain {
            drain.in_flight = report.in_flight;
            drain.dialogs = total(&shards, |stats| stats.dialogs);
            drain.flows = count(parts.net.connections().len());
        }
        if let Some(config) = self.status.config() {
            // What is not read in time keeps what it was.
            let _ = timeout(READING, read_bindings(parts, &config, reported)).await;
            report.agents = agents(&config, &shards, reported, tools, parts.clock.now().mono);
        }
        report
    }
}

fn total(shards: &[Stats], of: impl Fn(&Stats) -> usize) -> u32 {
    count(shards.iter().map(of).sum())
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

async fn health(parts: &Parts, store: &Key, reported: &mut Reported) -> StoreHealth {
    let trouble = match parts.health.borrow().health {
        input::StoreHealth::Closed => None,
        input::StoreHealth::Open | input::StoreHealth::Recovering { .. } => {
            Some(parts.store.trouble().unwrap_or_default())
        }
    };
    let is_redis = parts.store.kind() == "redis";
    StoreHealth {
        store: Some(store.to_message()),
        state: if trouble.is_some() { StoreState::ConnectFailed } else { StoreState::Reachable }.into(),
        message: trouble.clone().unwrap_or_default(),
        latency_us: parts.store.latency().unwrap_or(0),
        // With another policy the store would not have been opened.
        eviction_policy: if is_redis { "noeviction".to_owned() } else { String::new() },
        durability: keeps(parts, trouble.is_none(), reported).await.map(|keeps| {
            match keeps {
                Keeps::EveryWrite => control::Durability::Fsync,
                Keeps::Mostly => control::Durability::Snapshots,
                Keeps::Nothing => control::Durability::Memory,
            }
            .into()
        }),
    }
}

/// What the store keeps, asked now and then; while it does not say, what it said last.
async fn keeps(parts: &Parts, answers: bool, reported: &mut Reported) -> Option<Keeps> {
    let now = parts.clock.now().mono;
    let is_due = reported.kept_at.is_none_or(|at| now.millis_since(at) >= KEEPS_EVERY_MS);
    if answers && is_due {
        reported.kept_at = Some(now);
        // What is not said in time keeps what it was.
        if let Ok(Some(keeps)) = timeout(READING, parts.store.keeps()).await {
            reported.keeps = Some(keeps);
        }
    }
    reported.keeps
}

/// Reads the bindings of some of the addresses that users register, each address in its turn.
async fn read_bindings(parts: &Parts, config: &Config, reported: &mut Reported) {
    let registering = |agent: &&Arc<AgentConfig>| agent.backend.is_sip_contact();
    let by_key: BTreeMap<&str, &Arc<AgentConfig>> =
        config.agents.values().filter(registering).map(|agent| (&*agent.key, agent)).collect();
    reported.bindings.retain(|key, _| by_key.contains_key(&**key));
    let from = reported.read_last.clone();
    let after = by_key.iter().filter(|(key, _)| ***key > *from);
    let mut turn: Vec<_> = after.chain(by_key.iter().filter(|(key, _)| ***key <= *from)).collect();
    reported.tried.retain(|key| by_key.contains_key(&**key));
    // Of those that were never read nothing is told yet. Whoever could not be read has had its turn all the same.
    turn.sort_by_key(|(key, _)| reported.tried.contains(**key));
    for (key, agent) in turn.into_iter().take(READS) {
        reported.read_last = (*key).to_owned();
        reported.tried.insert((*key).to_owned());
        let Some(domain) = config.domains.get(&agent.domain) else { continue };
        let aor = names::agent(&*config.naming_key, domain.tenant, agent);
        let Ok(StoreReply::Bindings(bindings)) = parts.store.execute(StoreOp::ReadBindings { aor }).await else {
            continue;
        };
        let known = reported.bindings.entry((*key).to_owned()).or_default();
        let first = bindings.iter().map(|binding| binding.expires_at / 1000).min();
        *known = Bindings {
            count: count(bindings.len()),
            next_expiry: first.and_then(|seconds| i64::try_from(seconds).ok()),
            ended: bindings.is_empty() && (known.ended || known.count > 0),
        };
    }
}

fn agents(config: &Config, shards: &[Stats], reported: &mut Reported, known: &Tools, now: Mono) -> Vec<AgentReport> {
    let mut changed = Vec::new();
    let mut here: BTreeMap<&str, &Arc<AgentConfig>> = BTreeMap::new();
    for agent in config.agents.values() {
        here.insert(&agent.key, agent);
    }
    let gone: Vec<String> = reported.agents.keys().filter(|key| !here.contains_key(&***key)).cloned().collect();
    for key in gone {
        if changed.len() >= MAX_AGENTS {
            return changed;
        }
        reported.agents.remove(&key);
        reported.tools.remove(&key);
        changed.push(AgentReport { agent: message(&key), gone: true, ..AgentReport::default() });
    }
    let mut room = TOOLS;
    let was_refused = |key: &str| {
        let since = shards.iter().filter_map(|stats| stats.refused_registrations.get(key)).max();
        since.is_some_and(|since| now.millis_since(*since) < REFUSED_MS)
    };
    for (key, agent) in here {
        let of = |value: fn(&edge_core::engine::AgentStats) -> usize| {
            count(shards.iter().filter_map(|stats| stats.engine.agents.get(key)).map(value).sum())
        };
        let bindings = reported.bindings.get(key).copied();
        let registers = agent.backend.is_sip_contact();
        if registers && bindings.is_none() {
            // Its turn to be read comes. Until then there is nothing to say of it: "not registered" it would be to the operator.
            continue;
        }
        let report = AgentReport {
            agent: message(key),
            bindings: bindings.map_or(0, |bindings| bindings.count),
            next_expiry: bindings.and_then(|bindings| bindings.next_expiry),
            sessions: of(|stats| stats.sessions),
            in_flight: of(|stats| stats.in_flight),
            registration: registration(registers, bindings, was_refused(key)).into(),
            ..AgentReport::default()
        };
        let is_new = |list: &Arc<ToolList>| reported.tools.get(key).is_none_or(|told| !Arc::ptr_eq(told, list));
        let list = known.of(key).filter(is_new).filter(|list| tools::size(list) <= room);
        if list.is_none() && reported.agents.get(key) == Some(&report) {
            continue;
        }
        if changed.len() >= MAX_AGENTS {
            break;
        }
        reported.agents.insert(key.to_owned(), report.clone());
        room -= list.as_deref().map_or(0, tools::size);
        changed.push(AgentReport { tools: list.as_deref().cloned(), ..report });
        reported.tools.extend(list.map(|list| (key.to_owned(), list)));
    }
    changed
}

/// For an agent with a backend the edge itself answers.
fn registration(registers: bool, bindings: Option<Bindings>, refused: bool) -> Registration {
    match (registers, bindings) {
        (false, _) => Registration::Registered,
        (true, Some(Bindings { count: 1.., .. })) => Registration::Registered,
        (true, Some(_)) if refused => Registration::AuthFailed,
        (true, Some(Bindings { ended: true, .. })) => Registration::Expired,
        (true, Some(_)) => Registration::None,
        (true, None) => Registration::Unspecified,
    }
}

/// The key of an agent as it travels.
pub(super) fn message(key: &str) -> Option<control::Key> {
    let (namespace, name) = key.split_once('/')?;
    Some(control::Key { kind: Kind::McpAgent.into(), namespace: namespace.to_owned(), name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config_build::Builder;
    use crate::config_build::keys::{MADE, Made};
    use crds::manifest::{ObjectKey, parse};

    #[test]
    fn who_tried_last_and_was_refused_is_told_while_nobody_is_registered() {
        let at = |count, ended| Some(Bindings { count, ended, next_expiry: None });
        for (bindings, refused, wanted) in [
            (at(1, false), true, Registration::Registered),
            (at(0, true), true, Registration::AuthFailed),
            (at(0, true), false, Registration::Expired),
            (at(0, false), true, Registration::AuthFailed),
            (at(0, false), false, Registration::None),
            (None, true, Registration::Unspecified),
        ] {
            assert_eq!(registration(true, bindings, refused), wanted, "{bindings:?} {refused}");
            assert_eq!(registration(false, bindings, refused), Registration::Registered);
        }
    }

    /// So many agents whose users register them.
    fn config(agents: usize) -> Config {
        let edge = ObjectKey::new("default", "e");
        let mut text = String::from(
            "apiVersion: sipmcp.dev/v1alpha1
kind: SipEdge
metadata: {name: e}
spec: {network: {advertise: {from: Static, address: 127.0.0.1}}, insecure: true, listeners: [{name: udp, protocol: UDP, port: 5060}]}
---
apiVersion: sipmcp.dev/v1alpha1
kind: SipDomain
metadata: {name: d}
spec: {domain: d.example, authentication: {digest: {usersSecretRef: {name: users, namespace: default}}}}
",
        );
        let mut users = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: users}\nstringData:\n".to_owned();
        for number in 0..agents {
            text += &format!(
                "---
apiVersion: sipmcp.dev/v1alpha1
kind: McpAgent
metadata: {{name: a{number}}}
spec:
  address: {{user: a{number}, domainRef: {{name: d}}}}
  backend: {{sipContact: {{authentication: Digest}}}}
  capabilities: {{source: Declared}}
"
            );
            users += &format!("  a{number}: \"SHA-256:{}\"\n", "ab".repeat(32));
        }
        let loaded = parse([("m.yaml", text + &users)]);
        assert_eq!(loaded.problems, []);
        let mut builder = Builder::new(edge, Made::new(&[7; MADE]), false);
        builder.numbered("d.example".into(), 1);
        builder.build(&loaded.objects).unwrap().config
    }

    #[test]
    fn a_new_stream_is_told_at_once_who_is_registered_and_nothing_of_whom_nobody_has_read() {
        let config = config(READS + 2);
        assert_eq!(config.agents.len(), READS + 2);
        let mut reported = Reported::default();
        let told = |reported: &mut Reported| {
            let all = agents(&config, &[], reported, &Tools::default(), Mono(0));
            all.iter().map(AgentReport::registration).collect::<Vec<_>>()
        };
        assert_eq!(told(&mut reported), [], "nothing was read yet");
        for agent in config.agents.values().skip(1) {
            reported.bindings.insert(agent.key.clone(), Bindings { count: 1, ..Bindings::default() });
        }
        assert_eq!(told(&mut reported), [Registration::Registered; READS + 1]);
        assert_eq!(told(&mut reported), [], "it knows");
        reported.begin();
        assert_eq!(told(&mut reported), [Registration::Registered; READS + 1], "another stream");
    }
}
