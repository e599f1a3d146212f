//! One run: a world, its load, one fault, and the truth afterwards.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::Fallible;
use crate::args::{Args, Fault};
use crate::certificates::Authority;
use crate::edge::Edge;
use crate::faults;
use crate::place;
use crate::process::resident;
use crate::roll;
use crate::table::Row;
use crate::tally::Tally;
use crate::ua::requests::GIVE_UP;
use crate::ua::{Call, Dialog, Fate, Tool, Ua, lock};
use crate::world::World;

/// Load before the fault, and after it.
const BEFORE: Duration = Duration::from_millis(2500);
const AFTER: Duration = Duration::from_secs(3);
/// How long one look at a dialog or a registration may take when everything runs again.
const LOOK: Duration = Duration::from_secs(12);
/// How long a short call waits for its answer before it hangs up: longer than any edge may be silent.
const PATIENCE: Duration = Duration::from_secs(12);
/// A request in a dialog that an edge answers from what it holds: done within this, its next targets included (performance.md, P14).
const FROM_MEMORY: Duration = Duration::from_secs(4);
/// The first requests after a fault are spread over no more than this, in seconds.
const FIRST_LOOKS: f64 = 3.0;
/// Looks at one time.
const LOOKS: usize = 16;

/// Says what happens, where somebody wants to know.
pub struct Journal<'a> {
    pub row: Row,
    pub run: u32,
    pub of: u32,
    pub args: &'a Args,
    pub start: Instant,
}

impl Journal<'_> {
    pub fn say(&self, what: &str) {
        let head = format!("{} {:?} {}/{}", self.row.id(), self.row.class, self.run + 1, self.of);
        if self.args.verbose {
            eprintln!("[{:6.1} s] {head}: {what}", self.start.elapsed().as_secs_f64());
        }
    }
}

/// What the load did.
#[derive(Default)]
struct Load {
    /// Dialogs whose BYE was acknowledged.
    ended: Mutex<Vec<(Ua, Arc<Dialog>)>>,
    /// Calls that were acknowledged by a 200 to their INVITE, beside the ones that stand.
    made: Mutex<u64>,
    /// From the fault (or its end) to the first 2xx, one for each dialog.
    recovery: Mutex<Vec<Duration>>,
    /// Requests in dialogs since the fault began.
    looks: Mutex<Vec<Look>>,
    notes: Mutex<Vec<String>>,
}

/// OPTIONS or BYE in a dialog.
struct Look {
    sent: Instant,
    took: Duration,
    is_ok: bool,
}

impl Load {
    fn look(&self, sent: Instant, is_ok: bool) {
        lock(&self.looks).push(Look { sent, took: sent.elapsed(), is_ok });
    }
}

/// One run of one row.
///
/// # Errors
/// The run could not be made: something did not start, or did not work before the fault.
pub async fn run(authority: &Authority, journal: &Journal<'_>) -> Fallible<Tally> {
    let Journal { row, args, run, .. } = *journal;
    journal.say("starting");
    let keeps_journal = row.fault != Fault::NoJournal;
    let mut world = World::start(args, authority, row.topology, row.class, keeps_journal).await?;
    let mut tally = Tally { runs: 1, ..Tally::default() };
    let longest = Arc::<AtomicU64>::default();
    let watch = tokio::spawn(watch_ourselves(longest.clone()));
    let done = match row.fault {
        Fault::Roll => roll::run(&mut world, journal, &mut tally).await,
        _ => with_fault(&mut world, journal, run, &mut tally).await,
    };
    watch.abort();
    tally.stalled = Duration::from_millis(longest.load(Ordering::Relaxed));
    for edge in &mut world.edges {
        if let Some(why) = edge.fell() {
            tally.lose(why);
        }
        for line in edge.panics() {
            tally.lose(line);
        }
    }
    tally.unavailable = world.counts.unavailable.load(Ordering::Relaxed);
    tally.bare = world.counts.bare.load(Ordering::Relaxed);
    tally.failovers = world.counts.failovers.load(Ordering::Relaxed);
    for stray in lock(&world.counts.strays).drain(..) {
        tally.note(stray);
    }
    let keep = args.keep && (done.is_err() || !tally.is_clean());
    if keep {
        world.store.remember().await;
        for edge in &world.edges {
            edge.remember().await;
        }
    }
    if let Some(path) = world.end(keep) {
        tally.note(format!("kept: {}", path.display()));
        if done.is_err() {
            eprintln!("\nkept: {}", path.display());
        }
    }
    done.map(|()| tally)
}

/// Notes by how much a sleep of 5 ms is late: what waits here, waits in the proxies, too, and the edges take that for a slow store.
async fn watch_ourselves(longest: Arc<AtomicU64>) {
    const STEP: Duration = Duration::from_millis(5);
    loop {
        let before = Instant::now();
        tokio::time::sleep(STEP).await;
        let late = before.elapsed().saturating_sub(STEP).as_millis();
        longest.fetch_max(u64::try_from(late).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

async fn with_fault(world: &mut World, journal: &Journal<'_>, run: u32, tally: &mut Tally) -> Fallible<()> {
    let (fault, args) = (journal.row.fault, journal.args);
    let mut dialogs = settle(world, args, tally).await?;
    // Every fourth ends while the store is away.
    let leaving = match fault.is_outage() {
        true => dialogs.extract_if(.., |(_, dialog)| dialog.call_id.as_bytes()[0].is_multiple_of(4)).collect(),
        false => Vec::new(),
    };
    let load = Arc::<Load>::default();
    let (stopping, stop) = watch::channel(false);
    let mut traffic = JoinSet::new();
    for (ua, dialog) in &dialogs {
        traffic.spawn(talk(ua.clone(), dialog.clone(), args.pace, stop.clone()));
    }
    for ua in &world.clients {
        traffic.spawn(churn(ua.clone(), args.pace, stop.clone(), load.clone()));
    }
    tokio::time::sleep(BEFORE).await;
    journal.say("the fault");
    let mut struck = faults::strike(world, fault, run).await?;
    let mut pulses = JoinSet::new();
    for (ua, dialog) in &dialogs {
        pulses.spawn(pulse(
            ua.clone(),
            dialog.clone(),
            !fault.ends_before_recovery(),
            args.pace,
            stop.clone(),
            load.clone(),
        ));
    }
    for (ua, dialog) in leaving {
        let within = faults::outage(args).saturating_sub(FROM_MEMORY).mul_f64(place::fraction());
        pulses.spawn(leave(ua, dialog, within, load.clone()));
    }
    let growth = Arc::<AtomicU64>::default();
    let pids: Vec<u32> = world.edges.iter().filter_map(Edge::pid).collect();
    let weighing = tokio::spawn(weigh(pids, growth.clone()));
    tally.without_replicas = faults::mend(world, fault, &mut struck, run, args, journal).await?;
    weighing.abort();
    tally.growth = growth.load(Ordering::Relaxed);
    let over = Instant::now();
    let term = Term { fault, from: if fault.hits_the_store() { over } else { struck.at }, over };
    journal.say("the fault is over");
    if fault.ends_before_recovery() {
        for (ua, dialog) in &dialogs {
            pulses.spawn(recover(ua.clone(), dialog.clone(), over, load.clone()));
        }
    }
    tokio::time::sleep(AFTER).await;
    stopping.send_replace(true);
    journal.say("waiting for every fate");
    while traffic.join_next().await.is_some() {}
    while pulses.join_next().await.is_some() {}
    let calls: Vec<Arc<Call>> = world.clients.iter().flat_map(Ua::calls).collect();
    fates(&calls, term).await;
    if let Some(slowest) = judge(&calls, &world.executions(), term, tally) {
        journal.say(&format!("the last fate after {:.1} s: {slowest}", tally.slowest.as_secs_f64()));
    }
    journal.say("looking at every edge");
    verify(world, &dialogs, tally).await;
    let ended: Vec<(Ua, Arc<Dialog>)> = std::mem::take(&mut lock(&load.ended));
    tally.acknowledged += *lock(&load.made) + ended.len() as u64;
    bury(&ended, tally).await;
    hang_up(&dialogs, tally).await;
    tally.recovery = std::mem::take(&mut lock(&load.recovery));
    for look in lock(&load.looks).iter() {
        tally.in_dialog += 1;
        tally.in_dialog_failed += u64::from(!look.is_ok);
        if look.sent + FROM_MEMORY <= over {
            tally.while_away += 1;
            tally.from_memory += u64::from(look.is_ok && look.took <= FROM_MEMORY);
        }
    }
    for note in lock(&load.notes).drain(..) {
        tally.note(note);
    }
    Ok(())
}

/// Every client registers and makes its calls, before anything goes wrong.
async fn settle(world: &World, args: &Args, tally: &mut Tally) -> Fallible<Vec<(Ua, Arc<Dialog>)>> {
    let mut work = JoinSet::new();
    for ua in &world.clients {
        let (ua, wanted) = (ua.clone(), args.dialogs);
        work.spawn(async move {
            ua.register(None).await.map_err(|error| format!("{}: {error}", ua.user()))?;
            let mut made = Vec::new();
            for _ in 0..wanted {
                let dialog = ua.invite().await.map_err(|error| format!("{}: {error}", ua.user()))?;
                made.push((ua.clone(), dialog));
            }
            Ok::<_, String>(made)
        });
    }
    let mut dialogs = Vec::new();
    while let Some(made) = work.join_next().await {
        dialogs.extend(made.map_err(|error| error.to_string())??);
    }
    tally.acknowledged += world.clients.len() as u64 + dialogs.len() as u64;
    Ok(dialogs)
}

/// So many seconds, or until the load ends.
async fn pause(from: f64, to: f64, stop: &mut watch::Receiver<bool>) {
    let time = Duration::from_secs_f64(from + place::fraction() * (to - from));
    let _ = tokio::time::timeout(time, stop.wait_for(|is_over| *is_over)).await;
}

/// Tool calls in one dialog, four in flight at most; some safe to repeat, most not; some short, some long enough to be killed in.
async fn talk(ua: Ua, dialog: Arc<Dialog>, pace: f64, mut stop: watch::Receiver<bool>) {
    let mut open: Vec<Arc<Call>> = Vec::new();
    pause(0.0, pace, &mut stop).await;
    while !*stop.borrow() && dialog.ended().is_none() {
        open.retain(|call| call.is_open());
        if open.len() < 4 {
            let (tool, seconds) = match place::below(10) {
                0..3 => (Tool::Pay, 0.0),
                3..6 => (Tool::Pay, 1.0 + place::fraction()),
                6 => (Tool::Slow, 2.0),
                7..9 => (Tool::Lookup, 1.0),
                _ => (Tool::Lookup, 0.0),
            };
            open.push(ua.call(&dialog, tool, Duration::from_secs_f64(seconds)));
        }
        pause(0.4 * pace, 1.2 * pace, &mut stop).await;
    }
}

/// Short calls: INVITE, a payment, BYE.
async fn churn(ua: Ua, pace: f64, mut stop: watch::Receiver<bool>, load: Arc<Load>) {
    while !*stop.borrow() {
        pause(0.5 * pace, 2.0 * pace, &mut stop).await;
        match ua.invite().await {
            Ok(dialog) => {
                *lock(&load.made) += 1;
                let call = ua.call(&dialog, Tool::Pay, Duration::ZERO);
                let end = Instant::now() + PATIENCE;
                while call.is_open() && Instant::now() < end {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                match ua.bye(&dialog).await {
                    Ok(()) => {
                        // What is in flight is cancelled by it (draft binding 5.6): nobody owes an answer any more.
                        call.cancelled();
                        lock(&load.ended).push((ua.clone(), dialog));
                    }
                    Err(error) => {
                        lock(&load.notes).push(format!("{} {:?}: a short call: {error}", ua.user(), ua.transport()));
                    }
                }
            }
            // Nothing was acknowledged. An outage refuses new calls.
            Err(_) => pause(0.5, 1.0, &mut stop).await,
        }
    }
}

/// Requests in one dialog through the fault: the first one at once, or, where the pace is slow because they are many, within
/// [`FIRST_LOOKS`]: that thousands ask in the same instant is no fault of an edge. The time from the first one to its 2xx is the recovery.
async fn pulse(
    ua: Ua,
    dialog: Arc<Dialog>,
    is_measured: bool,
    pace: f64,
    mut stop: watch::Receiver<bool>,
    load: Arc<Load>,
) {
    pause(0.0, (0.1 * pace).min(FIRST_LOOKS), &mut stop).await;
    // One that fails is no recovery: it goes on from there.
    let mut began = is_measured.then(Instant::now);
    while !*stop.borrow() {
        let (sent, answer) = ua.timed(&dialog, "OPTIONS").await;
        load.look(sent, answer.is_ok() && sent.elapsed() <= GIVE_UP);
        match answer {
            Ok(()) => lock(&load.recovery).extend(began.take().map(|began| began.elapsed())),
            Err(error) => {
                let note = format!("{} {:?} in dialog {}: {error}", ua.user(), ua.transport(), dialog.call_id);
                lock(&load.notes).push(note);
            }
        }
        pause(1.5 * pace, 2.5 * pace, &mut stop).await;
    }
}

/// Hangs up while the store is away.
async fn leave(ua: Ua, dialog: Arc<Dialog>, within: Duration, load: Arc<Load>) {
    tokio::time::sleep(within).await;
    let (sent, answer) = ua.timed(&dialog, "BYE").await;
    load.look(sent, answer.is_ok() && sent.elapsed() <= GIVE_UP);
    match answer {
        Ok(()) => lock(&load.ended).push((ua, dialog)),
        Err(error) => lock(&load.notes).push(format!("{} {:?} hangs up: {error}", ua.user(), ua.transport())),
    }
}

/// By how much the memory of these processes grew at most, each from its first look, until it is stopped.
async fn weigh(pids: Vec<u32>, growth: Arc<AtomicU64>) {
    let first: Vec<Option<u64>> = pids.iter().map(|pid| resident(*pid)).collect();
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        for (pid, first) in pids.iter().zip(&first) {
            if let (Some(now), Some(first)) = (resident(*pid), *first) {
                growth.fetch_max(now.saturating_sub(first), Ordering::Relaxed);
            }
        }
    }
}

/// From the end of an outage to the first tool call that is taken and answered.
async fn recover(ua: Ua, dialog: Arc<Dialog>, over: Instant, load: Arc<Load>) {
    while over.elapsed() < Duration::from_secs(20) {
        let call = ua.call(&dialog, Tool::Lookup, Duration::ZERO);
        while call.is_open() && call.sent.elapsed() < Duration::from_secs(15) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if call.fate() == Some(Fate::Answered) {
            lock(&load.recovery).push(over.elapsed());
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    lock(&load.recovery).push(over.elapsed());
}

/// From when the time of an exchange without a fate counts.
#[derive(Clone, Copy)]
struct Term {
    fault: Fault,
    from: Instant,
    over: Instant,
}

impl Term {
    /// An answer cannot be had before the fault, nor before the tool had its time; and where edges said that they do not take the request
    /// (503, Retry-After), not before it was sent again.
    fn of(self, call: &Call) -> Instant {
        self.from.max(call.begun().unwrap_or(call.sent) + call.takes)
    }

    fn due(self, call: &Call) -> Instant {
        self.of(call) + self.fault.limit()
    }
}

/// Waits for them. One that was sent away comes again or gives up: its client does so after [`GIVE_UP`] at the latest.
async fn fates(calls: &[Arc<Call>], term: Term) {
    let due = |call: &Call| match call.begun() {
        Some(_) => term.due(call),
        None => call.sent + GIVE_UP,
    };
    while calls.iter().any(|call| call.is_open() && Instant::now() < due(call)) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Counts the fates; names the exchange whose caller waited longest.
fn judge(calls: &[Arc<Call>], executions: &BTreeMap<String, u32>, term: Term, tally: &mut Tally) -> Option<String> {
    let (over, mut slowest) = (term.over, None);
    for call in calls {
        let ran = executions.get(&call.id).copied().unwrap_or(0);
        let name = || {
            format!(
                "{} {} by {} in dialog {} (exchange {}), sent {:+.1} s from the end of the fault, ran {ran} times",
                call.tool.name(),
                call.id,
                call.method,
                call.dialog.call_id,
                call.exchange,
                call.sent.saturating_duration_since(over).as_secs_f64()
                    - over.saturating_duration_since(call.sent).as_secs_f64()
            )
        };
        tally.acknowledged += u64::from(call.is_accepted());
        if !call.tool.is_safe() && ran > 1 {
            tally.doubles += u64::from(ran - 1);
            tally.note(format!("twice: {}", name()));
        }
        let known = call.took().map(|took| call.sent + took);
        let is_told = !matches!(call.fate(), None | Some(Fate::Refused(_) | Fate::Cancelled));
        if let Some(at) = known.filter(|_| is_told) {
            let took = at.saturating_duration_since(term.of(call));
            if took > tally.slowest {
                tally.slowest = took;
                slowest = Some(format!("{:?} for {}", call.fate(), name()));
            }
        }
        match call.fate() {
            _ if is_told && known.is_some_and(|at| at > term.due(call)) => {
                tally.silent += 1;
                tally.note(format!("late: {}", name()));
            }
            Some(Fate::Answered) if ran > 1 => tally.replayed += 1,
            Some(Fate::Answered) => tally.answered += 1,
            Some(Fate::Retryable) => tally.retryable += 1,
            Some(Fate::Refused(why)) => {
                tally.refused += 1;
                if ran > 0 {
                    tally.note(format!("refused ({why}), but {}", name()));
                }
            }
            // Twelve seconds are more than a dead edge may cost.
            Some(Fate::Cancelled) if !term.fault.ends_before_recovery() => {
                tally.silent += 1;
                tally.note(format!("silent (until its caller hung up): {}", name()));
            }
            Some(Fate::Cancelled) => tally.cancelled += 1,
            Some(Fate::Wrong(why)) => tally.lose(format!("{}: {why}", name())),
            None => {
                tally.silent += 1;
                let accepted = if call.is_accepted() { "accepted" } else { "no response at all" };
                tally.note(format!("silent ({accepted}): {}", name()));
            }
        }
    }
    slowest
}

/// Every registration and every dialog, at every edge.
async fn verify(world: &World, dialogs: &[(Ua, Arc<Dialog>)], tally: &mut Tally) {
    let edges = world.edges.len();
    let looks = world.clients.iter().map(|ua| {
        let own: Vec<Arc<Dialog>> =
            dialogs.iter().filter(|(of, _)| of.user() == ua.user()).map(|(_, dialog)| dialog.clone()).collect();
        let ua = ua.clone();
        async move {
            let mut lost: BTreeMap<String, String> = BTreeMap::new();
            for dialog in own.iter().filter_map(|dialog| dialog.ended().map(|why| (dialog, why))) {
                lost.insert(format!("dialog {}", dialog.0.call_id), dialog.1);
            }
            for edge in 0..edges {
                match ua.is_registered(edge, Instant::now() + LOOK).await {
                    Ok(true) => {}
                    Ok(false) => {
                        lost.entry("registration".into()).or_insert(format!("not found at edge {}", edge + 1));
                    }
                    Err(error) => {
                        lost.entry("registration".into()).or_insert(format!("at edge {}: {error}", edge + 1));
                    }
                }
                for dialog in &own {
                    if let Err(error) = ua.is_alive(dialog, Some(edge), Instant::now() + LOOK).await {
                        let what = format!("dialog {}", dialog.call_id);
                        lost.entry(what).or_insert(format!("at edge {}: {error}", edge + 1));
                    }
                }
            }
            (ua, lost)
        }
    });
    let mut looks = stream::iter(looks).buffer_unordered(LOOKS);
    while let Some((ua, lost)) = looks.next().await {
        for (what, why) in lost {
            tally.lose(format!("lost: {what} of {} {:?}: {why}", ua.user(), ua.transport()));
        }
    }
}

/// An end that was acknowledged stays one: the youngest ones, each at a random edge.
async fn bury(ended: &[(Ua, Arc<Dialog>)], tally: &mut Tally) {
    for (ua, dialog) in ended.iter().rev().take(LOOKS) {
        let edge = place::below(ua.edges());
        match ua.is_gone(dialog, edge, Instant::now() + LOOK).await {
            Ok(true) => {}
            Ok(false) => tally.lose(format!("lost: the BYE of {} in dialog {}", ua.user(), dialog.call_id)),
            Err(error) => tally.note(format!("an ended dialog at edge {}: {error}", edge + 1)),
        }
    }
}

async fn hang_up(dialogs: &[(Ua, Arc<Dialog>)], tally: &mut Tally) {
    let ends = dialogs.iter().filter(|(_, dialog)| dialog.ended().is_none()).map(|(ua, dialog)| {
        let (ua, dialog) = (ua.clone(), dialog.clone());
        async move {
            let answer = ua.bye(&dialog).await;
            (ua, dialog, answer)
        }
    });
    let mut ends = stream::iter(ends).buffer_unordered(LOOKS);
    while let Some((ua, dialog, answer)) = ends.next().await {
        if let Err(error) = answer {
            tally.note(format!("{} {:?} in dialog {}: {error}", ua.user(), ua.transport(), dialog.call_id));
        }
    }
}
