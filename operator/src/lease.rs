//! The Lease under which one replica of the operator writes to the API server: `sipmcp-operator-write`. All of them watch and serve.
//!
//! The decisions are in [`claim`]; here they meet the API server and the clock. Who holds the Lease has a [`Pen`] that writes, as soon as it knows
//! what the other replicas know ([`settle`]).

pub mod claim;
pub mod settle;

use self::claim::{Act, Claim, LEASE_MS, LOOK_MS, Seen, WRITE_MS};
use crate::run::{Ended, Shutdown};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use kube::{Client, Error};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedRwLockReadGuard, RwLock, watch};
use tokio::time::{Instant, sleep_until, timeout};

/// Name of the Lease, in the operator's namespace.
pub const NAME: &str = "sipmcp-operator-write";

/// Whether this replica may write to the API server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pen {
    until: watch::Receiver<Option<Instant>>,
    flag: watch::Receiver<bool>,
    settled: watch::Receiver<bool>,
    other: watch::Receiver<Option<String>>,
    /// Read by every write on its way; whoever lets go of the Lease waits for all of them.
    strokes: Arc<RwLock<()>>,
}

/// A write on its way: as long as it is there, the Lease is not let go of.
#[derive(Debug)]
pub struct Stroke {
    _strokes: OwnedRwLockReadGuard<()>,
}

impl Pen {
    /// Whether this replica may write now.
    #[must_use]
    pub fn writes(&self) -> bool {
        *self.settled.borrow() && self.until.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// To be asked before every write and held until its end, at most [`WRITE_MS`]. `None`: this replica may not write.
    #[must_use]
    pub fn begin(&self) -> Option<Stroke> {
        let strokes = self.strokes.clone().try_read_owned().ok()?;
        self.writes().then_some(Stroke { _strokes: strokes })
    }

    /// Whether it holds the Lease, as a flag to wait for; it falls a moment later.
    #[must_use]
    pub fn flag(&self) -> watch::Receiver<bool> {
        self.flag.clone()
    }

    /// The identity of another replica that holds the Lease, as far as is known here.
    #[must_use]
    pub fn other(&self) -> watch::Receiver<Option<String>> {
        self.other.clone()
    }

    /// Returns when this replica may write.
    ///
    /// # Errors
    /// The task of the Lease has ended, and with it the process.
    pub async fn granted(&mut self) -> Result<(), Ended> {
        while !self.writes() {
            self.until.wait_for(|until| until.is_some_and(|until| Instant::now() < until)).await.map_err(|_| Ended)?;
            let Pen { settled, flag, .. } = self;
            tokio::select! {
                settled = settled.wait_for(|settled| *settled) => drop(settled.map_err(|_| Ended)?),
                // Lost before it was of use.
                held = flag.wait_for(|held| !held) => drop(held.map_err(|_| Ended)?),
            }
        }
        Ok(())
    }
}

/// The task's side of a [`Pen`].
#[derive(Debug)]
pub struct Grant {
    until: watch::Sender<Option<Instant>>,
    flag: watch::Sender<bool>,
    other: watch::Sender<Option<String>>,
    strokes: Arc<RwLock<()>>,
}

/// A pen that does not write yet, who grants it, and who says that this replica knows enough to write.
#[must_use]
pub fn pen() -> (Grant, watch::Sender<bool>, Pen) {
    let (sender, until) = watch::channel(None);
    let (raise, flag) = watch::channel(false);
    let (settle, settled) = watch::channel(false);
    let (name, other) = watch::channel(None);
    let strokes = Arc::new(RwLock::new(()));
    let grant = Grant { until: sender, flag: raise, other: name, strokes: strokes.clone() };
    (grant, settle, Pen { until, flag, settled, other, strokes })
}

/// Holds the Lease, or waits for it, until shutdown; then lets go of it, so that another replica needs not wait.
pub async fn run(client: Client, namespace: String, me: String, grant: Grant, mut shutdown: Shutdown) {
    let api = Api::<Lease>::namespaced(client, &namespace);
    let begin = Instant::now();
    let now = || u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
    let mut claim = Claim::new(me);
    let mut failing = false;
    loop {
        match turn(&api, &mut claim, now).await {
            Ok(()) => failing = false,
            // Another one was quicker: the next look shows who.
            Err(Error::Api(status)) if status.is_conflict() || status.is_already_exists() => {}
            Err(error) if !failing => {
                tracing::warn!(%error, lease = NAME, "the Lease cannot be looked at or written; it is tried again, and nothing is written without it");
                failing = true;
            }
            Err(_) => {}
        }
        let at = now();
        let until = claim.until().filter(|_| claim.holds(at)).map(|until| begin + Duration::from_millis(until));
        grant.tell(until, claim.me());
        let other = claim.other().map(str::to_owned);
        grant.other.send_if_modified(|known| {
            let changed = *known != other;
            *known = other;
            changed
        });
        let mut next = claim.next_look(at);
        if let Some(until) = claim.until().filter(|until| *until > at) {
            // Whoever waits for the end of the pen is woken at its end.
            next = next.min(until);
        }
        tokio::select! {
            () = sleep_until(begin + Duration::from_millis(next)) => {}
            () = shutdown.requested() => break,
        }
    }
    let held = claim.holds(now());
    grant.tell(None, claim.me());
    if held {
        // Whoever takes it writes at once: what is on its way here ends first.
        let _ = timeout(Duration::from_millis(WRITE_MS), grant.strokes.write()).await;
        let released = timeout(Duration::from_millis(LOOK_MS), release(&api, &claim, now())).await;
        match released {
            Ok(Ok(())) => tracing::info!(lease = NAME, "let go of the Lease"),
            Ok(Err(error)) => {
                tracing::warn!(%error, lease = NAME, "the Lease could not be let go of; it ends by itself")
            }
            Err(_) => tracing::warn!(lease = NAME, "the Lease could not be let go of in time; it ends by itself"),
        }
    }
}

impl Grant {
    fn tell(&self, until: Option<Instant>, me: &str) {
        let before = self.until.send_replace(until);
        self.flag.send_if_modified(|flag| std::mem::replace(flag, until.is_some()) != until.is_some());
        match (before, until) {
            (None, Some(_)) => tracing::info!(lease = NAME, %me, "this replica holds the Lease"),
            (Some(_), None) => tracing::info!(lease = NAME, %me, "this replica holds the Lease no more"),
            _ => {}
        }
    }
}

/// One look, and what follows from it. Bounded in time: an answer that comes too late would be of no use.
async fn turn(api: &Api<Lease>, claim: &mut Claim, now: impl Fn() -> u64) -> Result<(), Error> {
    let limit = Duration::from_millis(WRITE_MS / 2);
    let late = |_| Error::Service("no answer in time".into());
    let there = timeout(limit, api.get_opt(NAME)).await.map_err(late)??;
    claim.saw(there.as_ref().map(seen), now());
    let sent = now();
    let written = match claim.act(sent) {
        Act::Wait => return Ok(()),
        Act::Create => {
            let lease = record(claim.me(), None, 0, true);
            timeout(limit, api.create(&PostParams::default(), &lease)).await.map_err(late)??
        }
        Act::Replace { resource_version, transitions, taken } => {
            let mut lease = record(claim.me(), Some(resource_version), transitions, taken);
            if let (false, Some(spec), Some(there)) = (taken, &mut lease.spec, there.and_then(|there| there.spec)) {
                spec.acquire_time = there.acquire_time;
            }
            timeout(limit, api.replace(NAME, &PostParams::default(), &lease)).await.map_err(late)??
        }
    };
    claim.wrote(seen(&written), sent, now());
    Ok(())
}

async fn release(api: &Api<Lease>, claim: &Claim, now: u64) -> Result<(), Error> {
    let Act::Replace { resource_version, transitions, .. } = claim.act(now) else { return Ok(()) };
    let mut lease = record("", Some(resource_version), transitions, false);
    if let Some(spec) = &mut lease.spec {
        spec.lease_duration_seconds = Some(1);
    }
    api.replace(NAME, &PostParams::default(), &lease).await.map(drop)
}

fn seen(lease: &Lease) -> Seen {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    Seen {
        resource_version: lease.metadata.resource_version.clone().unwrap_or_default(),
        holder: spec.holder_identity.unwrap_or_default(),
        // What a Lease without a time means is ours to say.
        lease_ms: seconds.map_or(LEASE_MS, |seconds| seconds.saturating_mul(1000)),
        transitions: spec.lease_transitions.unwrap_or_default(),
    }
}

fn record(holder: &str, resource_version: Option<String>, transitions: i32, acquired: bool) -> Lease {
    let now = MicroTime(Timestamp::now());
    Lease {
        metadata: ObjectMeta { name: Some(NAME.to_owned()), resource_version, ..ObjectMeta::default() },
        spec: Some(LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: i32::try_from(LEASE_MS / 1000).ok(),
            acquire_time: acquired.then(|| now.clone()),
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_lease_is_let_go_of_when_the_last_write_has_ended_and_none_begins_then() {
        let (grant, settled, mut pen) = pen();
        assert!(pen.begin().is_none());
        grant.tell(Some(Instant::now() + Duration::from_secs(60)), "a");
        assert!(pen.begin().is_none(), "it does not know yet what the other replicas know");
        settled.send_replace(true);
        pen.granted().await.unwrap();
        let stroke = pen.begin().unwrap();
        let mut waiting = Box::pin(grant.strokes.write());
        assert!(timeout(Duration::from_millis(1), &mut waiting).await.is_err());
        assert!(pen.begin().is_none(), "who lets go of it waits already");
        drop(stroke);
        drop(waiting.await);
        assert!(pen.begin().is_some());
        grant.tell(Some(Instant::now()), "a");
        assert!(pen.begin().is_none() && !pen.writes(), "its time is over, whoever was told");
    }
}
