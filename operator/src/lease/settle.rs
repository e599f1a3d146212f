//! Who got the Lease waits a moment before it writes: statuses and rollouts are made of what all edges said, wherever they are attached, and that
//! has to arrive first. It has arrived when every edge that is ready is known. Whoever is not known after [`PATIENCE`] is not connected, and that
//! is said then.

use crate::board::Board;
use crate::plan::fleet::unknown;
use crate::run::Shutdown;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// For what the other replicas and the edges have to say.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Follows the Lease until shutdown: `settled` rises after `held`, and falls with it.
pub async fn run(board: Arc<Board>, held: watch::Receiver<bool>, settled: watch::Sender<bool>, mut shutdown: Shutdown) {
    tokio::select! {
        () = follow(&board, held, &settled, PATIENCE) => {}
        () = shutdown.requested() => {}
    }
    settled.send_replace(false);
}

async fn follow(board: &Board, mut held: watch::Receiver<bool>, settled: &watch::Sender<bool>, patience: Duration) {
    let mut revisions = board.revisions();
    loop {
        if held.wait_for(|held| *held).await.is_err() {
            return;
        }
        let end = Instant::now() + patience;
        loop {
            revisions.borrow_and_update();
            let (complete, unknown) = board.quietly(|state| (state.running.is_complete(), unknown(&state.fleets)));
            if complete && unknown == 0 {
                break;
            }
            if Instant::now() >= end {
                tracing::info!(unknown, complete, "not every edge is known; what is known is written");
                break;
            }
            tokio::select! {
                changed = revisions.changed() => if changed.is_err() { return },
                () = sleep_until(end) => {}
                lost = held.wait_for(|held| !held) => if lost.is_err() { return } else { break },
            }
        }
        settled.send_replace(*held.borrow());
        if held.wait_for(|held| !held).await.is_err() {
            return;
        }
        settled.send_replace(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::fleet::{Edge, Fleet};
    use crate::plan::running::Listed;
    use crds::manifest::ObjectKey;
    use tokio::time::timeout;

    /// Two pods are ready, and nobody is attached.
    fn board() -> Arc<Board> {
        let board = Board::default();
        board.change(|state| {
            for listed in [Listed::StatefulSets, Listed::DaemonSets, Listed::Pods, Listed::Services] {
                state.running.reset(listed, None, &[]);
            }
            state.fleets.insert(ObjectKey::new("system", "e"), Fleet { ready: 2, ..Fleet::default() });
        });
        Arc::new(board)
    }

    #[tokio::test]
    async fn n7_the_holder_writes_once_it_knows_every_ready_edge_and_at_the_latest_after_a_while() {
        let board = board();
        let (hold, held) = watch::channel(false);
        let (settle, mut settled) = watch::channel(false);
        let following = board.clone();
        let task = tokio::spawn(async move { follow(&following, held, &settle, Duration::from_secs(3600)).await });
        hold.send_replace(true);
        let attach = |pod: &str| {
            let edges = &board;
            edges.change(|state| {
                state.fleets.values_mut().for_each(|fleet| fleet.attach(pod, Edge::default()));
            });
        };
        attach("e-0");
        let early = timeout(Duration::from_millis(50), settled.wait_for(|settled| *settled)).await.is_ok();
        assert!(!early, "one of two is known");
        attach("e-1");
        settled.wait_for(|settled| *settled).await.unwrap();
        hold.send_replace(false);
        settled.wait_for(|settled| !*settled).await.unwrap();
        task.abort();

        // Who never comes is not waited for.
        let (_hold, held) = watch::channel(true);
        let (settle, mut settled) = watch::channel(false);
        board.change(|state| state.fleets.values_mut().for_each(|fleet| fleet.ready = 9));
        let task = tokio::spawn(async move { follow(&board, held, &settle, Duration::from_millis(20)).await });
        settled.wait_for(|settled| *settled).await.unwrap();
        task.abort();
    }
}
