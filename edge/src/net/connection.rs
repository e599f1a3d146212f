//! The table of stream connections: who is connected, how many per source, and where an answer for one goes.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytes::Bytes;
use edge_core::input::{ConnId, Flow, Transport};
use tokio_rustls::rustls::pki_types::CertificateDer;

use super::outbox::{Outbox, Refused, Tag};
use crate::counters::Counters;

/// Connections of one source address (IPv6: of one /64 network).
pub const PER_SOURCE: u32 = 256;
/// Handshakes in progress of one source.
pub const HANDSHAKES_PER_SOURCE: u32 = 64;
/// Connections of the process, in both directions.
pub const TOTAL: u32 = 65_536;

/// A connection that is there.
#[derive(Debug)]
pub struct Connection {
    pub flow: Arc<Flow>,
    pub outbox: Arc<Outbox>,
    /// The client's certificates as it showed them, so that they can be judged again when the trust changes.
    pub chain: Vec<CertificateDer<'static>>,
}

/// Where a connection that we may use again leads to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    pub transport: Transport,
    pub remote: SocketAddr,
    /// The name that the server was asked for (TLS). Another name needs another connection.
    pub server_name: Option<String>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Source {
    connections: u32,
    handshakes: u32,
}

/// All connections of the process.
#[derive(Debug)]
pub struct Connections {
    next: AtomicU64,
    by_id: RwLock<HashMap<ConnId, Arc<Connection>>>,
    by_target: Mutex<HashMap<Target, Arc<Outbox>>>,
    sources: Mutex<Sources>,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Sources {
    total: u32,
    by_address: HashMap<IpAddr, Source>,
}

/// A place among the connections; given back when dropped.
#[derive(Debug)]
pub struct Place {
    table: Arc<Connections>,
    source: IpAddr,
    handshake: bool,
}

impl Connections {
    #[must_use]
    pub fn new(counters: Arc<Counters>) -> Self {
        Connections {
            next: AtomicU64::new(1),
            by_id: RwLock::default(),
            by_target: Mutex::default(),
            sources: Mutex::default(),
            counters,
        }
    }

    /// A number that no other connection of this process has or had.
    pub fn id(&self) -> ConnId {
        ConnId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Takes a place for a connection from `source`, with a handshake in progress. `None`: a limit is reached.
    pub fn admit(self: &Arc<Self>, source: IpAddr) -> Option<Place> {
        let source = network(source);
        let mut sources = lock(&self.sources);
        if sources.total >= TOTAL {
            self.counters.connections.one();
            return None;
        }
        let entry = sources.by_address.entry(source).or_default();
        // An entry that was just made passes both checks, so a refusal leaves no empty entry behind.
        if entry.connections >= PER_SOURCE {
            self.counters.source_connections.one();
            return None;
        }
        if entry.handshakes >= HANDSHAKES_PER_SOURCE {
            self.counters.source_handshakes.one();
            return None;
        }
        entry.connections += 1;
        entry.handshakes += 1;
        sources.total += 1;
        Some(Place { table: self.clone(), source, handshake: true })
    }

    /// Puts a connection in. `target`: where it may be used again for.
    pub fn insert(&self, connection: Arc<Connection>, target: Option<Target>) {
        if let Some(target) = target {
            lock(&self.by_target).entry(target).or_insert_with(|| connection.outbox.clone());
        }
        let id = stream_id(&connection.flow);
        self.by_id.write().unwrap_or_else(PoisonError::into_inner).insert(id, connection);
    }

    /// Takes a connection out and ends its queue. Answers the tags of what did not leave.
    pub fn remove(&self, connection: &Connection, target: Option<&Target>) -> Vec<Tag> {
        let id = stream_id(&connection.flow);
        self.by_id.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
        self.forget(target, &connection.outbox);
        connection.outbox.close()
    }

    /// Takes a target out, if it still leads to this queue.
    pub fn forget(&self, target: Option<&Target>, outbox: &Arc<Outbox>) {
        if let Some(target) = target {
            let mut targets = lock(&self.by_target);
            if targets.get(target).is_some_and(|known| Arc::ptr_eq(known, outbox)) {
                targets.remove(target);
            }
        }
    }

    /// The queue toward a target, and whether it was made by this call: then the caller opens the connection.
    pub fn toward(&self, target: &Target) -> (Arc<Outbox>, bool) {
        let mut targets = lock(&self.by_target);
        // One that takes no more is on its way out, and takes itself out of the table only if it still stands there.
        if let Some(outbox) = targets.get(target).filter(|outbox| outbox.is_open()) {
            return (outbox.clone(), false);
        }
        let outbox = Arc::<Outbox>::default();
        targets.insert(target.clone(), outbox.clone());
        (outbox, true)
    }

    /// Queues bytes on a connection.
    ///
    /// # Errors
    /// When it is gone or does not read.
    pub fn send(&self, conn: ConnId, bytes: Bytes, tag: Option<Tag>) -> Result<(), Refused> {
        match self.get(conn) {
            Some(connection) => connection.outbox.push(bytes, tag).inspect_err(|refused| {
                if *refused == Refused::Full {
                    self.counters.slow_reader.one();
                }
            }),
            None => Err(Refused::Closed),
        }
    }

    /// Closes a connection after what is queued has left.
    pub fn finish(&self, conn: ConnId) {
        if let Some(connection) = self.get(conn) {
            connection.outbox.finish();
        }
    }

    #[must_use]
    pub fn get(&self, conn: ConnId) -> Option<Arc<Connection>> {
        self.by_id.read().unwrap_or_else(PoisonError::into_inner).get(&conn).cloned()
    }

    /// All connections of this moment.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Connection>> {
        self.by_id.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Place {
    /// The handshake is done; the connection stays.
    pub fn handshake_done(&mut self) {
        if std::mem::take(&mut self.handshake) {
            let mut sources = lock(&self.table.sources);
            if let Some(source) = sources.by_address.get_mut(&self.source) {
                source.handshakes -= 1;
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.handshake_done();
        let mut sources = lock(&self.table.sources);
        sources.total -= 1;
        if let Some(source) = sources.by_address.get_mut(&self.source) {
            source.connections -= 1;
            if source.connections == 0 {
                sources.by_address.remove(&self.source);
            }
        }
    }
}

/// What counts as one source: whoever has one IPv6 address has the whole /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

fn stream_id(flow: &Flow) -> ConnId {
    match flow.key {
        edge_core::input::FlowKey::Stream(conn) => conn,
        // Only stream connections get into this table; a number that was never given finds nothing.
        edge_core::input::FlowKey::Datagram { .. } => ConnId(0),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is complete before the guard is dropped, so a panic elsewhere leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Arc<Connections> {
        Arc::new(Connections::new(Arc::default()))
    }

    #[test]
    fn handshakes_and_connections_per_source_are_bounded_and_given_back() {
        let table = table();
        let source: IpAddr = [192, 0, 2, 1].into();
        let mut places: Vec<Place> = (0..HANDSHAKES_PER_SOURCE).map(|_| table.admit(source).unwrap()).collect();
        assert!(table.admit(source).is_none(), "one more handshake at once");
        assert!(table.admit([192, 0, 2, 2].into()).is_some(), "another source");
        places.iter_mut().for_each(Place::handshake_done);
        while places.len() < PER_SOURCE as usize {
            let mut place = table.admit(source).unwrap();
            place.handshake_done();
            places.push(place);
        }
        assert!(table.admit(source).is_none(), "one more connection");
        places.pop();
        assert!(table.admit(source).is_some());
        places.clear();
        assert!(lock(&table.sources).by_address.is_empty());
        assert_eq!(lock(&table.sources).total, 0);
    }

    #[test]
    fn an_ipv6_network_is_one_source() {
        let table = table();
        let _places: Vec<Place> = (0..HANDSHAKES_PER_SOURCE)
            .map(|i| table.admit(format!("2001:db8::{i:x}").parse().unwrap()).unwrap())
            .collect();
        assert!(table.admit("2001:db8::ffff".parse().unwrap()).is_none());
        assert!(table.admit("2001:db8:0:1::1".parse().unwrap()).is_some());
    }

    #[test]
    fn only_the_first_who_asks_for_a_target_opens_it() {
        let table = table();
        let target = Target { transport: Transport::Tcp, remote: "192.0.2.1:5060".parse().unwrap(), server_name: None };
        let (outbox, opened) = table.toward(&target);
        assert!(opened);
        let (again, opened) = table.toward(&target);
        assert!(!opened && Arc::ptr_eq(&outbox, &again));
        table.forget(Some(&target), &outbox);
        let (next, opened) = table.toward(&target);
        assert!(opened);
        // One that closes leads nowhere any more, and its end does not take its successor out.
        next.finish();
        let (last, opened) = table.toward(&target);
        assert!(opened);
        table.forget(Some(&target), &next);
        assert!(Arc::ptr_eq(&last, &table.toward(&target).0));
    }
}
