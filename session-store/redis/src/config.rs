//! Where the store is and how it is spoken to.

use std::time::Duration;

use zeroize::Zeroizing;

use crate::clock::EdgeClock;
use crate::error::StartError;

/// How the servers stand together. Addresses are `host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topology {
    /// One server.
    Single { address: String },
    /// One primary that sentinels watch; `master` is its name with them.
    Sentinel { addresses: Vec<String>, master: String },
    /// A Cluster; the addresses are where to ask first.
    Cluster { addresses: Vec<String> },
}

/// TLS to the servers. Server certificates are checked against these roots alone.
#[derive(Clone, PartialEq, Eq)]
pub struct TlsConfig {
    /// PEM, one or more certificates.
    pub roots: Vec<u8>,
    /// PEM of our certificate chain and its key, where the server asks for one.
    pub client: Option<(Vec<u8>, Zeroizing<Vec<u8>>)>,
}

/// All that a [`crate::RedisStore`] needs to know.
#[derive(Clone)]
pub struct RedisConfig {
    pub topology: Topology,
    /// ACL user; `None` is the server's `default`.
    pub username: Option<String>,
    pub password: Option<Zeroizing<String>>,
    /// What the sentinels ask for, where they do.
    pub sentinel_username: Option<String>,
    pub sentinel_password: Option<Zeroizing<String>>,
    pub tls: Option<TlsConfig>,
    /// Before the name of every key. No braces: they would take the place of the hash tag.
    pub key_prefix: String,
    /// Deadline of an operation.
    pub response_timeout: Duration,
    /// Deadline of a heartbeat: longer, so that a slow store does not fence every edge.
    pub heartbeat_timeout: Duration,
    pub connect_timeout: Duration,
    /// Deadline of an operation that no call waits for ([`crate::RedisStore::execute`]), its wait for a turn included.
    pub background_timeout: Duration,
    /// Operations in flight per server; more are refused as unavailable.
    pub in_flight: usize,
    /// Of those that no call waits for; more wait for their turn. One of them may keep the server busy for some milliseconds.
    pub background_in_flight: usize,
    /// Replicas that must have a write of class `Fsync` on their disk, too (WAITAOF).
    pub fsync_replicas: u8,
    /// The edge's wall clock.
    pub clock: EdgeClock,
}

impl RedisConfig {
    /// The limits of the design: 150 ms, 1.4 s for heartbeats, 1 s to connect, 4096 in flight. Work in the background: 3 s, 16 in flight.
    #[must_use]
    pub fn new(topology: Topology, key_prefix: &str) -> RedisConfig {
        RedisConfig {
            topology,
            username: None,
            password: None,
            sentinel_username: None,
            sentinel_password: None,
            tls: None,
            key_prefix: key_prefix.to_owned(),
            response_timeout: Duration::from_millis(150),
            heartbeat_timeout: Duration::from_millis(1_400),
            connect_timeout: Duration::from_secs(1),
            background_timeout: Duration::from_secs(3),
            in_flight: 4_096,
            background_in_flight: 16,
            fsync_replicas: 0,
            clock: EdgeClock::system(),
        }
    }

    /// Whether the other one leads to the same servers as the same user, in the same way.
    #[must_use]
    pub fn leads_alike(&self, other: &RedisConfig) -> bool {
        let of = |config: &RedisConfig| {
            let users = (config.username.clone(), config.sentinel_username.clone());
            let passwords = (config.password.clone(), config.sentinel_password.clone());
            (config.topology.clone(), users, passwords, config.tls.clone(), config.key_prefix.clone())
        };
        of(self) == of(other)
    }

    /// Refuses what can be seen to be wrong without a server.
    pub(crate) fn check(&self) -> Result<(), StartError> {
        if self.key_prefix.contains(['{', '}']) {
            return Err(StartError::Config(format!("the key prefix {:?} has a brace in it", self.key_prefix)));
        }
        let addresses = match &self.topology {
            Topology::Single { address } => std::slice::from_ref(address),
            Topology::Sentinel { addresses, .. } | Topology::Cluster { addresses } => addresses,
        };
        if addresses.is_empty() {
            return Err(StartError::Config("no address of a server".into()));
        }
        addresses.iter().try_for_each(|address| split_address(address).map(|_| ()))
    }
}

impl std::fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisConfig")
            .field("topology", &self.topology)
            .field("username", &self.username)
            .field("tls", &self.tls.is_some())
            .field("key_prefix", &self.key_prefix)
            .finish_non_exhaustive()
    }
}

/// `host:port`; an IPv6 address stands in brackets.
pub(crate) fn split_address(address: &str) -> Result<(String, u16), StartError> {
    let bad = || StartError::Config(format!("{address:?} is no host:port"));
    let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() {
        return Err(bad());
    }
    Ok((host.to_owned(), port.parse().map_err(|_| bad())?))
}
