//! Whether the store can be used, for who has to refuse work in time.

use tokio::sync::watch;

/// Where a circuit breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// In use.
    Closed,
    /// Operations are answered `Unavailable` at once.
    Open,
    /// It answers again; so much of new work should be let in.
    Recovering { percent: u8 },
}

/// One primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardHealth {
    pub address: String,
    pub state: BreakerState,
    /// Why it is not closed.
    pub reason: Option<String>,
}

/// The store as a whole. One primary of several that is out does not open it: operations on its slots fail, the others go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    pub state: BreakerState,
    pub reason: Option<String>,
    pub shards: Vec<ShardHealth>,
    /// How often a primary took the place of another one, or was started again, since the start: each time writes that were answered
    /// (class `Memory`) may be missing. It rises before the first operation is sent there.
    pub replaced: u64,
}

impl Health {
    /// `replaced`: read after the shards.
    pub(crate) fn of(shards: Vec<ShardHealth>, replaced: u64) -> Health {
        let best = shards.iter().max_by_key(|shard| crate::node::rank(shard.state));
        let state = best.map_or(BreakerState::Open, |shard| shard.state);
        let reason = shards.iter().find_map(|shard| shard.reason.as_ref().map(|r| format!("{}: {r}", shard.address)));
        Health { state, reason, shards, replaced }
    }
}

/// Health, now and when it changes.
#[derive(Clone)]
pub struct HealthWatch(pub(crate) watch::Receiver<Health>);

impl HealthWatch {
    /// As it is now.
    #[must_use]
    pub fn current(&self) -> Health {
        self.0.borrow().clone()
    }

    /// Waits for the next change and gives it. Never returns once the store is dropped.
    pub async fn changed(&mut self) -> Health {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.0.borrow_and_update().clone()
    }
}
