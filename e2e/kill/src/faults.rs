//! What is done to whom, and how it is undone.

use std::time::{Duration, Instant};

use crate::Fallible;
use crate::args::{Args, Fault, Topology};
use crate::proxy::Weather;
use crate::run::Journal;
use crate::world::World;

/// `SipEdge.spec.failover.leaseSeconds`, which the manifests leave at its default.
pub const LEASE: Duration = Duration::from_secs(5);
/// Longer than a lease: what was owned is adopted by then.
const BEYOND_LEASE: Duration = Duration::from_millis(7500);
/// What is added to the lease and a second: a client whose connection stays and is mute gives it up after four seconds, and machines are busy.
const SLACK: Duration = Duration::from_secs(3);
/// The same after the store was away: a probe every two seconds finds it, it is let in by steps of a second, and an answer that waited for it
/// is tried every four seconds.
const AFTER_OUTAGE: Duration = Duration::from_secs(6);
/// What a slow store adds to a round trip: half of it each way.
const SLOW: Duration = Duration::from_millis(750);

impl Fault {
    /// Takes a minute in the long form.
    pub fn is_outage(self) -> bool {
        matches!(self, Fault::StoreStop | Fault::StoreSlow)
    }

    /// The store itself is away: what became of an exchange is counted from the end of the fault. Of an edge that is away the others
    /// know after a lease, whether it comes back or not: there it is counted from the beginning.
    pub fn hits_the_store(self) -> bool {
        matches!(self, Fault::Primary | Fault::StoreStop | Fault::StoreAof | Fault::StoreEmpty | Fault::StoreSlow)
    }

    /// When every exchange must have its fate, after the fault (or its end) or after its own time: within a lease and a second (XCH-6), and
    /// what a busy machine adds; after the store was away, within what is said here.
    pub fn limit(self) -> Duration {
        LEASE + Duration::from_secs(1) + if self.hits_the_store() { AFTER_OUTAGE } else { SLACK }
    }

    /// Its recovery is told from the end of the fault, by new work; else from the beginning, by requests in dialogs.
    pub fn ends_before_recovery(self) -> bool {
        matches!(
            self,
            Fault::Primary
                | Fault::StoreStop
                | Fault::StoreAof
                | Fault::StoreEmpty
                | Fault::StoreSlow
                | Fault::CutStore
        )
    }
}

/// What was struck.
pub struct Struck {
    edge: usize,
    primary: usize,
    primaries: usize,
    /// When, or when the last of several was.
    pub at: Instant,
}

/// Begins the fault. `run` decides which edge it hits.
pub async fn strike(world: &mut World, fault: Fault, run: u32) -> Fallible<Struck> {
    let edge = usize::try_from(run).unwrap_or(0) % world.edges.len();
    let (mut primary, mut primaries) = (0, 1);
    match fault {
        Fault::None | Fault::Roll => {}
        Fault::Edge | Fault::Each | Fault::NoJournal => world.edges[edge].kill(),
        Fault::Zombie => world.edges[edge].signal("STOP"),
        Fault::Primary => {
            let all = world.store.primaries().await;
            primaries = all.len();
            primary =
                *all.get(usize::try_from(run).unwrap_or(0) % primaries.max(1)).ok_or("the store has no primary")?;
            world.store.kill(primary);
        }
        Fault::StoreStop => world.store.signal(0, "STOP"),
        Fault::StoreAof | Fault::StoreEmpty => world.store.kill(0),
        Fault::StoreSlow => weather(world, None, Weather { delay: SLOW / 2, cut: false })?,
        Fault::CutStore => weather(world, Some(edge), Weather { cut: true, ..Weather::default() })?,
        Fault::CutMesh => {
            let proxy = world.edges[edge].mesh.as_ref().ok_or("there is no mesh")?;
            proxy.set(Weather { cut: true, ..Weather::default() });
        }
    }
    Ok(Struck { edge, primary, primaries, at: Instant::now() })
}

fn weather(world: &World, only: Option<usize>, weather: Weather) -> Fallible<()> {
    for (place, edge) in world.edges.iter().enumerate() {
        if only.is_none_or(|only| only == place) {
            edge.store.as_ref().ok_or("no proxy stands before this store")?.set(weather);
        }
    }
    Ok(())
}

/// How long the store is away in the faults that are told so.
pub fn outage(args: &Args) -> Duration {
    Duration::from_secs(if args.quick { 10 } else { 60 })
}

/// Lets the fault last, and ends it. Edges that were killed run again when this returns.
pub async fn mend(
    world: &mut World,
    fault: Fault,
    struck: &mut Struck,
    run: u32,
    args: &Args,
    journal: &Journal<'_>,
) -> Fallible<Duration> {
    let outage = outage(args);
    let mut without_replicas = Duration::ZERO;
    match fault {
        Fault::None | Fault::Roll => tokio::time::sleep(Duration::from_secs(2)).await,
        Fault::Edge | Fault::NoJournal => {
            // Two stories: adopted by the others, or by the edge itself in a higher epoch.
            let away = if run.is_multiple_of(2) { BEYOND_LEASE } else { Duration::from_millis(500) };
            tokio::time::sleep(away).await;
            world.edges[struck.edge].up().await?;
        }
        Fault::Each => {
            for turn in 0..world.edges.len() {
                let edge = (struck.edge + turn) % world.edges.len();
                if turn > 0 {
                    journal.say(&format!("kill -9 of {}", world.edges[edge].name));
                    world.edges[edge].kill();
                    struck.at = Instant::now();
                }
                let away = if (turn + usize::try_from(run).unwrap_or(0)).is_multiple_of(2) { 1000 } else { 6500 };
                tokio::time::sleep(Duration::from_millis(away)).await;
                world.edges[edge].up().await?;
                // The next one dies when this one holds its lease again.
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
        }
        Fault::Zombie => {
            tokio::time::sleep(BEYOND_LEASE).await;
            world.edges[struck.edge].signal("CONT");
        }
        Fault::Primary => {
            let new = world.store.promoted(struck.primary, struck.primaries).await?;
            journal.say(&format!("a replica is primary after {:.1} s", struck.at.elapsed().as_secs_f64()));
            let promoted = Instant::now();
            // A second in which a new primary without a replica may refuse writes, before the old one comes back.
            tokio::time::sleep(Duration::from_secs(1)).await;
            world.store.up(struck.primary).await?;
            while world.store.lacks_replicas().await && promoted.elapsed() < Duration::from_secs(30) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            if world.store.topology == Topology::Cluster {
                without_replicas = promoted.elapsed();
            }
            let _ = new;
        }
        Fault::StoreStop => {
            tokio::time::sleep(outage).await;
            world.store.signal(0, "CONT");
        }
        Fault::StoreAof => {
            tokio::time::sleep(Duration::from_secs(2)).await;
            world.store.up(0).await?;
        }
        Fault::StoreEmpty => {
            tokio::time::sleep(Duration::from_secs(2)).await;
            world.store.empty(0)?;
            world.store.up(0).await?;
        }
        Fault::StoreSlow => {
            tokio::time::sleep(outage).await;
            weather(world, None, Weather::default())?;
        }
        Fault::CutStore => {
            tokio::time::sleep(BEYOND_LEASE).await;
            weather(world, Some(struck.edge), Weather::default())?;
        }
        Fault::CutMesh => {
            tokio::time::sleep(BEYOND_LEASE).await;
            if let Some(proxy) = &world.edges[struck.edge].mesh {
                proxy.set(Weather::default());
            }
        }
    }
    Ok(without_replicas)
}
