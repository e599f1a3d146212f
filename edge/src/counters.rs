//! What the shell counts: everything that a limit of ours refused, by the limit's name. Shown on `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident = $label:literal),+ $(,)?) => {
        /// One counter per bounded queue or limit.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[$doc])* pub $name: Counter,)+
        }

        impl Counters {
            /// Label and value of each.
            pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$(($label, self.$name.get())),+].into_iter()
            }
        }
    };
}

/// A number that only rises.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub fn one(&self) {
        self.add(1);
    }

    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

counters! {
    /// Datagrams that found a shard's queue full.
    shard_full = "shard",
    /// New work answered with 503 because a shard's queue was long.
    shed = "shed",
    /// Datagrams that found a UDP socket's send queue full.
    udp_send = "udp_send",
    /// Datagrams longer than the receive slot.
    udp_truncated = "udp_truncated",
    /// Connections closed because the peer did not read.
    slow_reader = "stream_write",
    /// Connections refused by the limit per source.
    source_connections = "source_connections",
    /// Handshakes refused by the limit per source.
    source_handshakes = "source_handshakes",
    /// Connections refused by the limit of the process.
    connections = "connections",
    /// Connections closed because no whole message came in time.
    pre_auth = "pre_auth",
    /// Handshakes that failed or took too long.
    handshakes = "handshakes",
    /// Outgoing connections refused by their limit.
    outgoing = "outgoing",
    /// Backend calls refused because too many run.
    backend_calls = "backend_calls",
    /// DNS questions refused because too many run.
    dns = "dns",
    /// Spans that found the exporter's queue full.
    spans = "spans",
}
