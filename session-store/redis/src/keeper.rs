//! Looks after the primaries: probes, the breakers' steps, who is primary, and the health that others watch.

use std::sync::atomic::Ordering;
use std::sync::{Arc, RwLock, Weak};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::Topology;
use crate::health::Health;
use crate::node::Common;
use crate::topology::{self, Map};

/// How often breakers are looked at.
const TICK: Duration = Duration::from_millis(50);
/// Not oftener are sentinels or nodes asked who is primary.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// So often they are asked though nothing went wrong: an old primary that was cut off does not say so.
const ASK_ANYWAY: Duration = Duration::from_secs(2);

/// Runs until the store is dropped.
pub(crate) async fn keep(common: Arc<Common>, map: Weak<RwLock<Arc<Map>>>, health: watch::Sender<Health>) {
    let mut asked = Instant::now();
    let mut looking: Option<JoinHandle<()>> = None;
    let is_single = matches!(common.config.topology, Topology::Single { .. });
    loop {
        // Woken by what an operation saw, or by the next probe.
        let _ = tokio::time::timeout(TICK, common.news.notified()).await;
        let Some(shared) = map.upgrade() else { return };
        let now = Instant::now();
        let since = now.duration_since(asked);
        let Some(current) = shared.read().ok().map(|map| map.clone()) else { return };
        // Nothing is sent to a server whose circuit is open, and little by an edge that has little to do, so nothing would tell that another
        // one took its place.
        let is_wanted = common.stale.load(Ordering::Relaxed) || current.nodes.iter().any(|node| node.is_failing());
        let is_due = since >= ASK_ANYWAY || (is_wanted && since >= ASK_EVERY);
        if !is_single && is_due && looking.as_ref().is_none_or(JoinHandle::is_finished) {
            asked = now;
            let (common, shared) = (common.clone(), shared.clone());
            looking = Some(tokio::spawn(async move { look(&common, &shared).await }));
        }
        drop(shared);
        for node in &current.nodes {
            node.attend();
        }
        let shards = current.nodes.iter().map(|node| node.health()).collect();
        let seen = Health::of(shards, common.replaced.load(Ordering::Acquire));
        health.send_if_modified(|known| {
            let changed = *known != seen;
            *known = seen;
            changed
        });
    }
}

async fn look(common: &Arc<Common>, shared: &RwLock<Arc<Map>>) {
    let Some(known) = shared.read().ok().map(|map| map.clone()) else { return };
    // What is seen from here on asks again.
    common.stale.store(false, Ordering::Relaxed);
    match topology::again(common, &known).await {
        Ok(None) => {}
        Ok(Some(found)) => {
            let addresses: Vec<&str> = found.nodes.iter().map(|node| node.address.as_str()).collect();
            tracing::info!(primaries = ?addresses, "the store: primaries");
            if let Ok(mut map) = shared.write() {
                *map = Arc::new(found);
            }
        }
        Err(error) => {
            tracing::debug!(%error, "the store: nobody says who is primary");
            common.stale.store(true, Ordering::Relaxed);
        }
    }
}
