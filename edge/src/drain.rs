//! The way down: new work is refused at once, what is in flight gets its time, then connections are closed without a storm.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::timeout_at;

use crate::driver::Parts;
use crate::driver::ingress::Control;
use crate::net::Net;
use crate::node::NodeHandle;
use crate::status::Status;

/// How long each phase may take.
#[derive(Clone, Copy, Debug)]
pub struct Goals {
    /// Load balancers learn that we take no new work. Nothing ends before it.
    pub settle: Duration,
    /// Requests in flight, then dialogs: the cores work through both.
    pub work: Duration,
}

/// For the answers to the BYEs that the cores send when the time of the dialogs is over.
const FAREWELL: Duration = Duration::from_secs(3);
/// Up to so many connections are closed at once; more of them at 5 % per second, so that the clients do not all come back together.
const AT_ONCE: usize = 100;
/// Between two steps: half of it to one and a half times.
const STEP: Duration = Duration::from_millis(200);
/// 20 s for all.
const STEPS: usize = 100;

/// Drains. Answers how many shards still had work when the time was over.
pub async fn drain(
    parts: &Parts,
    status: &Status,
    node: &NodeHandle,
    goals: Goals,
    drained: &mut mpsc::Receiver<u16>,
) -> usize {
    status.drain();
    node.drain().await;
    let begin = Instant::now();
    let settled = begin + goals.settle;
    let deadline = settled + goals.work + FAREWELL;
    parts.shards.order_all(|| Control::Drain).await;
    let mut working = parts.shards.handles().len();
    while working > 0 {
        match timeout_at(deadline.into(), drained.recv()).await {
            Ok(Some(_)) => working -= 1,
            Ok(None) | Err(_) => break,
        }
    }
    tokio::time::sleep_until(settled.into()).await;
    status.drained();
    parts.net.close_listeners().await;
    close_connections(&parts.net, deadline).await;
    // Last: what still came on the connections is ours until here. Whoever lives takes over at once, without waiting for a lease to end.
    node.leave().await;
    working
}

async fn close_connections(net: &Net, deadline: Instant) {
    let mut all = net.connections().all();
    shuffle(&mut all);
    let step = if all.len() <= AT_ONCE { all.len().max(1) } else { all.len().div_ceil(STEPS) };
    for some in all.chunks(step) {
        for connection in some {
            connection.outbox.finish();
        }
        if all.len() > step && Instant::now() < deadline {
            tokio::time::sleep(STEP / 2 + STEP * u32::from(random_octet()) / 255).await;
        }
    }
    // What was queued leaves within a moment, or its peer does not read.
    let gone = async {
        while !net.connections().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(1), gone).await;
}

/// In no order that clients share: those of one network do not all come back at once.
fn shuffle<T>(items: &mut [T]) {
    for last in (1..items.len()).rev() {
        let mut octets = [0; 8];
        if getrandom::fill(&mut octets).is_err() {
            return;
        }
        // The remainder is below `last + 1`, a usize.
        items.swap(last, (u64::from_be_bytes(octets) % (last as u64 + 1)) as usize);
    }
}

fn random_octet() -> u8 {
    let mut octet = [128];
    // Without random numbers the steps are alike.
    let _ = getrandom::fill(&mut octet);
    octet[0]
}
