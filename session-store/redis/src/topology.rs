//! Which server is asked for a key: found from the sentinels or the Cluster's slot map, and again when that moved.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::task::JoinSet;

use crate::config::{RedisConfig, Topology};
use crate::error::StartError;
use crate::health::BreakerState;
use crate::link::Opener;
use crate::node::{Common, Node, Run};
use crate::server;
use crate::slot::{SLOTS, hash_slot};

/// The primaries of this moment.
pub(crate) struct Map {
    pub nodes: Vec<Arc<Node>>,
    /// Slot → place in `nodes`; empty where there is one node for all.
    slots: Vec<Option<u16>>,
}

impl Map {
    /// Who has the key.
    pub fn node(&self, key: &str) -> Option<&Arc<Node>> {
        if self.slots.is_empty() {
            return self.nodes.first();
        }
        let at = self.slots.get(usize::from(hash_slot(key))).copied().flatten()?;
        self.nodes.get(usize::from(at))
    }

    pub fn by_address(&self, address: &str) -> Option<&Arc<Node>> {
        self.nodes.iter().find(|node| node.address == address)
    }
}

/// Address of a primary → slots from … to.
type Primaries = BTreeMap<String, Vec<(u16, u16)>>;

/// Finds the primaries and looks at each. One of several that cannot be reached is out for now, no more.
///
/// # Errors
/// The first that makes a start impossible.
pub(crate) async fn first(common: &Arc<Common>) -> Result<Map, StartError> {
    let primaries = find(&common.config, &[]).await?;
    let mut nodes = Vec::new();
    let mut out = None;
    for address in primaries.keys() {
        let looked = async {
            let node = Node::of(common, address, Node::look_at(&common.config, address).await?);
            // Learns the clock before the first record is written.
            node.learn_clock().await?;
            Ok(node)
        };
        match looked.await {
            Ok(node) => nodes.push(Arc::new(node)),
            Err(error @ StartError::Unreachable { .. }) => {
                nodes.push(Arc::new(Node::unseen(common, address, Run::Unused)));
                out = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    match out {
        Some(error) if nodes.iter().all(|node| node.health().state == BreakerState::Open) => Err(error),
        _ => Ok(Map { slots: slots(&common.config, &primaries), nodes }),
    }
}

/// Asks again. Nodes that are still primaries stay as they are. `None`: nothing moved.
///
/// # Errors
/// Nobody knows at the moment.
pub(crate) async fn again(common: &Arc<Common>, known: &Map) -> Result<Option<Map>, StartError> {
    let addresses: Vec<String> = known.nodes.iter().map(|node| node.address.clone()).collect();
    let primaries = find(&common.config, &addresses).await?;
    let slots = slots(&common.config, &primaries);
    if slots == known.slots && addresses.iter().eq(primaries.keys()) {
        return Ok(None);
    }
    // One that is added takes its slots from others, with what is in them; one that comes while another goes may have less.
    let is_succession = addresses.iter().any(|known| !primaries.contains_key(known));
    let run = if is_succession { Run::Successor } else { Run::Unused };
    let node = |address: &String| {
        known.by_address(address).cloned().unwrap_or_else(|| Arc::new(Node::unseen(common, address, run.clone())))
    };
    Ok(Some(Map { nodes: primaries.keys().map(node).collect(), slots }))
}

fn slots(config: &RedisConfig, primaries: &Primaries) -> Vec<Option<u16>> {
    if !matches!(config.topology, Topology::Cluster { .. }) {
        return Vec::new();
    }
    let mut slots = vec![None; SLOTS];
    for (at, ranges) in primaries.values().enumerate() {
        for (from, to) in ranges {
            for slot in slots.iter_mut().take(usize::from(*to) + 1).skip(usize::from(*from)) {
                *slot = u16::try_from(at).ok();
            }
        }
    }
    slots
}

async fn find(config: &RedisConfig, known: &[String]) -> Result<Primaries, StartError> {
    match &config.topology {
        Topology::Single { address } => Ok(BTreeMap::from([(address.clone(), Vec::new())])),
        Topology::Sentinel { addresses, master } => {
            let primary = ask_sentinels(config, addresses, master).await?;
            Ok(BTreeMap::from([(primary, Vec::new())]))
        }
        Topology::Cluster { addresses } => {
            let mut asked: Vec<String> = known.iter().chain(addresses).cloned().collect();
            asked.dedup();
            let mut answers = ask(config, asked, |config, address| async move { ask_node(&config, &address).await });
            let mut why = None;
            while let Some(answer) = answers.join_next().await {
                match answer {
                    Ok((_, Ok(primaries))) => return Ok(primaries),
                    // What makes a start impossible is not hidden behind another node's silence.
                    Ok((_, Err(error))) if !matches!(error, StartError::Unreachable { .. }) => return Err(error),
                    Ok((_, Err(error))) => why = Some(error),
                    Err(_) => {}
                }
            }
            Err(why.unwrap_or_else(|| StartError::Config("no address of a server".into())))
        }
    }
}

/// Asks all at once: one that says nothing holds up nobody.
fn ask<T, F>(
    config: &RedisConfig,
    addresses: Vec<String>,
    one: impl Fn(RedisConfig, String) -> F,
) -> JoinSet<(String, Result<T, StartError>)>
where
    T: Send + 'static,
    F: Future<Output = Result<T, StartError>> + Send + 'static,
{
    let mut set = JoinSet::new();
    for address in addresses {
        let asking = one(config.clone(), address.clone());
        set.spawn(async move { (address, asking.await) });
    }
    set
}

/// After the first sentinel, the others have so long: one that was cut off, or has not heard of the failover yet, names the old primary.
const OTHERS: Duration = Duration::from_millis(100);

/// What one sentinel says: the configuration with the highest epoch holds (a failover makes a new one, with the votes of most sentinels;
/// the others take it over within seconds).
struct Named {
    epoch: u64,
    primary: String,
}

/// Whether the sentinels name this server, asked once it was connected. The one that was primary before, and was started again after
/// another one was promoted, takes itself for one for seconds, until it is told: what is written there then is lost, and what it does not
/// have is missing to whoever asks there.
///
/// # Errors
/// They name another one, or none of them answers.
pub(crate) async fn still_named(config: &RedisConfig, address: &str) -> Result<(), StartError> {
    let Topology::Sentinel { addresses, master } = &config.topology else { return Ok(()) };
    let primary = ask_sentinels(config, addresses, master).await?;
    match primary == address {
        true => Ok(()),
        false => Err(StartError::NotNamed { address: address.to_owned(), primary }),
    }
}

async fn ask_sentinels(config: &RedisConfig, addresses: &[String], master: &str) -> Result<String, StartError> {
    let mut answers = ask(config, addresses.to_vec(), |config, address| {
        let master = master.to_owned();
        async move { ask_sentinel(&config, &address, &master).await }
    });
    let mut named: Vec<Named> = Vec::new();
    let mut reason = String::from("none answers");
    let mut until = None;
    loop {
        let next = match until {
            None => answers.join_next().await,
            Some(end) => tokio::time::timeout_at(end, answers.join_next()).await.unwrap_or(None),
        };
        match next {
            None => break,
            Some(Ok((_, Ok(Some(said))))) => {
                named.push(said);
                until = until.or(Some(tokio::time::Instant::now() + OTHERS));
            }
            Some(Ok((address, Ok(None)))) => reason = format!("{address} does not know it"),
            Some(Ok((_, Err(error @ (StartError::Refused { .. } | StartError::NotAllowed { .. }))))) => {
                return Err(error);
            }
            Some(Ok((_, Err(error)))) => reason = error.to_string(),
            Some(Err(_)) => {}
        }
    }
    newest(named).ok_or_else(|| StartError::NoMaster { master: master.to_owned(), reason })
}

/// The primary of the highest epoch; of several, what most say.
fn newest(named: Vec<Named>) -> Option<String> {
    let highest = named.iter().map(|said| said.epoch).max()?;
    let mut votes: BTreeMap<String, usize> = BTreeMap::new();
    for said in named.into_iter().filter(|said| said.epoch == highest) {
        *votes.entry(said.primary).or_default() += 1;
    }
    votes.into_iter().max_by_key(|(_, votes)| *votes).map(|(primary, _)| primary)
}

async fn ask_sentinel(config: &RedisConfig, address: &str, master: &str) -> Result<Option<Named>, StartError> {
    let asking = async {
        let mut connection = Opener::sentinel(config, address).open().await?;
        // The epoch first: an address that is newer than its epoch is no harm. Whoever may not ask for it has only the votes.
        let mut command = redis::cmd("SENTINEL");
        command.arg("MASTER").arg(master);
        let fields: Result<BTreeMap<String, String>, _> = command.query_async(&mut connection).await;
        let epoch = fields.ok().and_then(|fields| fields.get("config-epoch")?.parse().ok()).unwrap_or(0);
        let mut command = redis::cmd("SENTINEL");
        command.arg("GET-MASTER-ADDR-BY-NAME").arg(master);
        let found: Option<(String, u16)> =
            command.query_async(&mut connection).await.map_err(|e| server::start_error(address, &e))?;
        Ok(found.map(|(host, port)| Named { epoch, primary: join(&host, port) }))
    };
    let late = StartError::Unreachable { address: address.to_owned(), reason: "no answer in time".into() };
    tokio::time::timeout(config.connect_timeout * 2, asking).await.unwrap_or(Err(late))
}

async fn ask_node(config: &RedisConfig, address: &str) -> Result<Primaries, StartError> {
    let asking = async {
        let mut connection = Opener::new(config, address).open().await?;
        let facts = server::facts(&mut connection, address).await?;
        facts.check(address)?;
        if !facts.is_cluster {
            return Err(StartError::OtherMode { address: address.to_owned(), wanted: "no Cluster node" });
        }
        cluster_slots(&mut connection, address).await
    };
    let late = StartError::Unreachable { address: address.to_owned(), reason: "no answer in time".into() };
    tokio::time::timeout(config.connect_timeout * 2, asking).await.unwrap_or(Err(late))
}

async fn cluster_slots(connection: &mut MultiplexedConnection, asked: &str) -> Result<Primaries, StartError> {
    let reply: Value =
        redis::cmd("CLUSTER").arg("SLOTS").query_async(connection).await.map_err(|e| server::start_error(asked, &e))?;
    let unreachable = |reason: &str| StartError::Unreachable { address: asked.to_owned(), reason: reason.to_owned() };
    let primaries = parse_slots(&reply, asked).ok_or_else(|| unreachable("its slot map cannot be read"))?;
    if primaries.is_empty() {
        return Err(unreachable("the Cluster has no slots yet"));
    }
    Ok(primaries)
}

/// `[[from, to, [host, port, …], replicas …], …]`. A node that does not know its own host leaves it empty.
fn parse_slots(reply: &Value, asked: &str) -> Option<Primaries> {
    let Value::Array(ranges) = reply else { return None };
    let mut primaries = Primaries::new();
    for range in ranges {
        let Value::Array(parts) = range else { return None };
        let [Value::Int(from), Value::Int(to), Value::Array(primary), ..] = parts.as_slice() else { return None };
        let host = match primary.first()? {
            Value::BulkString(host) => String::from_utf8(host.clone()).ok()?,
            Value::SimpleString(host) => host.clone(),
            Value::Nil => String::new(),
            _ => return None,
        };
        let Value::Int(port) = primary.get(1)? else { return None };
        let host = if host.is_empty() { asked.rsplit_once(':')?.0.to_owned() } else { host };
        let address = join(&host, u16::try_from(*port).ok()?);
        let range = (u16::try_from(*from).ok()?, u16::try_from(*to).ok()?);
        primaries.entry(address).or_default().push(range);
    }
    Some(primaries)
}

fn join(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_failover_holds_and_votes_decide_between_equals() {
        let said = |epoch, primary: &str| Named { epoch, primary: primary.to_owned() };
        assert_eq!(newest(Vec::new()), None);
        assert_eq!(newest(vec![said(1, "old"), said(2, "new"), said(1, "old")]).as_deref(), Some("new"));
        assert_eq!(newest(vec![said(0, "b"), said(0, "a"), said(0, "b")]).as_deref(), Some("b"));
    }

    #[test]
    fn a_slot_map_is_read() {
        let text = |s: &str| Value::BulkString(s.as_bytes().to_vec());
        let range = |from, to, host: &str, port| {
            Value::Array(vec![Value::Int(from), Value::Int(to), Value::Array(vec![text(host), Value::Int(port)])])
        };
        let map = Value::Array(vec![
            range(0, 99, "10.0.0.1", 6379),
            range(100, 200, "", 6380),
            range(300, 300, "10.0.0.1", 6379),
        ]);
        let primaries = parse_slots(&map, "h:1").unwrap();
        assert_eq!(primaries["10.0.0.1:6379"], [(0, 99), (300, 300)]);
        assert_eq!(primaries["h:6380"], [(100, 200)]);
        assert_eq!(parse_slots(&Value::Okay, "h:1"), None);
    }
}
