//! A rolling restart under load: each edge in turn gets SIGTERM, drains, and starts again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::Fallible;
use crate::run::Journal;
use crate::tally::Tally;
use crate::ua::{Call, Dialog, Fate, Tool, Ua, lock};
use crate::world::World;

/// A call that takes longer has failed (after fail-over).
const LIMIT: Duration = Duration::from_secs(4);
/// Load before the first restart, between two, and after the last.
const BETWEEN: Duration = Duration::from_secs(3);
const DRAIN: Duration = Duration::from_secs(40);
/// Calls at one time; a machine that cannot keep up shows failed calls, not a growing heap.
const OPEN: usize = 2000;

/// Calls per second on all clients in turn while the edges restart one after another.
pub async fn run(world: &mut World, journal: &Journal<'_>, tally: &mut Tally) -> Fallible<()> {
    for ua in &world.clients {
        ua.register(None).await.map_err(|error| format!("{}: {error}", ua.user()))?;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let made = Arc::<AtomicU64>::default();
    let failures = Arc::<Mutex<Vec<String>>>::default();
    let times = Arc::<Mutex<Vec<Duration>>>::default();
    let load = {
        let (stop, failures, times, made) = (stop.clone(), failures.clone(), times.clone(), made.clone());
        let clients = world.clients.clone();
        let gap = Duration::from_secs(1) / u32::from(journal.args.rate);
        tokio::spawn(async move {
            let open = Arc::new(Semaphore::new(OPEN));
            let mut calls = JoinSet::new();
            let mut tick = tokio::time::interval(gap);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
            for ua in clients.iter().cycle() {
                tick.tick().await;
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let Ok(place) = open.clone().acquire_owned().await else { break };
                let (ua, failures, times, made) = (ua.clone(), failures.clone(), times.clone(), made.clone());
                calls.spawn(async move {
                    let start = Instant::now();
                    let done = call(&ua).await;
                    made.fetch_add(1, Ordering::Relaxed);
                    match done {
                        Ok(()) if start.elapsed() <= LIMIT => lock(&times).push(start.elapsed()),
                        Ok(()) => lock(&failures).push(format!(
                            "{} {:?}: complete after {:.1} s",
                            ua.user(),
                            ua.transport(),
                            start.elapsed().as_secs_f64()
                        )),
                        Err(error) => lock(&failures).push(format!("{} {:?}: {error}", ua.user(), ua.transport())),
                    }
                    drop(place);
                });
                while calls.try_join_next().is_some() {}
            }
            while calls.join_next().await.is_some() {}
        })
    };
    tokio::time::sleep(BETWEEN).await;
    for place in 0..world.edges.len() {
        let edge = &mut world.edges[place];
        journal.say(&format!("SIGTERM to {}", edge.name));
        edge.signal("TERM");
        let status = edge.wait(DRAIN).await?;
        if !status.contains("exit status: 0") {
            tally.lose(format!("{} drained and ended with {status}", edge.name));
        }
        edge.up().await?;
        tokio::time::sleep(BETWEEN).await;
    }
    stop.store(true, Ordering::Relaxed);
    journal.say("waiting for the last calls");
    load.await.map_err(|error| error.to_string())?;
    tally.acknowledged += made.load(Ordering::Relaxed);
    tally.recovery = std::mem::take(&mut lock(&times));
    for failure in std::mem::take(&mut *lock(&failures)) {
        tally.failed_calls += 1;
        tally.note(format!("failed: {failure}"));
    }
    let executions = world.executions();
    for call in world.clients.iter().flat_map(Ua::calls) {
        let ran = executions.get(&call.id).copied().unwrap_or(0);
        if ran > 1 {
            tally.doubles += u64::from(ran - 1);
            tally.note(format!("ran {ran} times: {} in dialog {}", call.id, call.dialog.call_id));
        }
        match call.fate() {
            Some(Fate::Answered) => tally.answered += 1,
            Some(Fate::Retryable) => tally.retryable += 1,
            Some(Fate::Refused(_)) => tally.refused += 1,
            Some(Fate::Cancelled) => tally.cancelled += 1,
            Some(Fate::Wrong(why)) => tally.lose(why),
            None if call.is_accepted() => {
                tally.silent += 1;
                tally.note(format!("silent: {} in dialog {}, ran {ran} times", call.id, call.dialog.call_id));
            }
            None => tally.refused += 1,
        }
    }
    Ok(())
}

/// INVITE, a payment and its answer, BYE. A retryable error is tried again, as it asks for.
async fn call(ua: &Ua) -> Fallible<()> {
    let dialog = ua.invite().await?;
    let paid = pay(ua, &dialog).await;
    // Also where it failed: whoever gives a call up hangs up.
    let ended = ua.bye(&dialog).await;
    if let (Err((Some(call), _)), Ok(())) = (&paid, &ended) {
        call.cancelled();
    }
    paid.map_err(|(_, why)| why).and(ended)
}

async fn pay(ua: &Ua, dialog: &Arc<Dialog>) -> Result<(), (Option<Arc<Call>>, String)> {
    let end = Instant::now() + 2 * LIMIT;
    loop {
        let call = ua.call(dialog, Tool::Pay, Duration::ZERO);
        while call.is_open() && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        match call.fate() {
            Some(Fate::Answered) => return Ok(()),
            // Nobody but us hangs up.
            Some(Fate::Retryable | Fate::Cancelled) => {}
            Some(Fate::Refused(why) | Fate::Wrong(why)) => return Err((None, why)),
            None => {
                let why = format!("no answer to the payment {}", call.id);
                return Err((Some(call), why));
            }
        }
    }
}
