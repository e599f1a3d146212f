//! N10: the store is away for a minute while calls come, dialogs stand and tools run. What the edge that owns a dialog may do without the store it
//! does; everything else is refused in words; nothing runs twice; all of it heals.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::faults::{AGENT, EDGES, TLS_PORT, phone, restarts, runs, world_of_calls};
use crate::Fallible;
use crate::ensure;
use crate::harness::PATIENCE;
use crate::harness::figures::{bearable, ms};
use crate::harness::reach::Way;
use crate::harness::space::Space;
use crate::harness::wait::until;
use crate::manifests::STORE;
use crate::runner::Outcome;
use crate::sip::Lost;
use crate::sip::link::Tls;
use crate::sip::phone::{Dialog, Phone};

const AWAY: Duration = Duration::from_secs(60);
/// Dialogs of each edge that stand the whole time.
const STANDING: usize = 4;
/// Between two signs of life of a dialog, two tool calls in it, and two callers at an edge.
const BEATS: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(1), Duration::from_millis(250)];
/// For what is answered at once, store or not.
const LIMIT: Duration = Duration::from_secs(5);
/// For a tool's answer, which may wait for the store.
const ANSWER: Duration = Duration::from_secs(120);
/// An operation that was under way when the store went is over by then, and the edges know that it is away.
const KNOWN: Duration = Duration::from_secs(3);
/// From the end of the outage until every call that an edge took has its answer: see docs/failure-modes.md.
const FATE: Duration = Duration::from_secs(12);
/// What the slow tool takes.
const TOOL_SECONDS: f64 = 1.5;
/// New calls that each edge takes one after another when all is well again.
const WELL: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// OPTIONS in a dialog.
    Alive,
    /// The tool `echo` in a dialog.
    Echo,
    /// The tool `sleep`, in flight when the store goes.
    Sleep,
    /// INVITE, and BYE where it was taken.
    Call,
}

/// One thing that a caller tried.
struct Tried {
    what: What,
    edge: usize,
    begun: Instant,
    ended: Instant,
    outcome: Result<(), Lost>,
}

#[derive(Default)]
struct Journal(Mutex<Vec<Tried>>);

impl Journal {
    fn note(&self, what: What, edge: usize, begun: Instant, outcome: Result<(), Lost>) {
        let tried = Tried { what, edge, begun, ended: Instant::now(), outcome };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(tried);
    }

    fn read<T>(&self, look: impl FnOnce(&[Tried]) -> T) -> T {
        look(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// An edge, its caller, and the dialogs that it owns.
struct Owner {
    edge: usize,
    phone: Arc<Phone>,
    dialogs: Vec<Arc<Dialog>>,
    /// The one that hangs up while the store is away.
    leaver: Dialog,
}

async fn owner(space: &Space<'_>, edge: usize, pod: &Pod, tls: &Tls, uri: &str) -> Fallible<Owner> {
    let way = Way::to_pod(space.world, pod, TLS_PORT).await?;
    let phone = Phone::new(vec![way], Some(tls.clone()), &space.domain(), true).modest();
    let mut dialogs = Vec::new();
    for _ in 0..STANDING {
        dialogs.push(Arc::new(phone.invite(uri, PATIENCE).await?));
    }
    let leaver = phone.invite(uri, PATIENCE).await?;
    Ok(Owner { edge, phone: Arc::new(phone), dialogs, leaver })
}

/// Everything that goes on until `stop`, at one edge.
fn load(owner: &Owner, uri: &str, journal: &Arc<Journal>, stop: &Arc<AtomicBool>, tasks: &mut JoinSet<()>) {
    let [alive, echo, call] = BEATS;
    let edge = owner.edge;
    for dialog in &owner.dialogs {
        let (phone, dialog, journal, stop) = (owner.phone.clone(), dialog.clone(), journal.clone(), stop.clone());
        let (talker, talk, noted, stopped) = (phone.clone(), dialog.clone(), journal.clone(), stop.clone());
        tasks.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let begun = Instant::now();
                journal.note(What::Alive, edge, begun, phone.is_alive(&dialog, LIMIT).await);
                sleep(alive).await;
            }
        });
        tasks.spawn(async move {
            let mut calls = JoinSet::new();
            while !stopped.load(Ordering::Relaxed) {
                let (phone, dialog, journal) = (talker.clone(), talk.clone(), noted.clone());
                // One that waits for its answer holds up nobody.
                calls.spawn(async move { tool(What::Echo, edge, &phone, &dialog, &journal).await });
                sleep(echo).await;
                while calls.try_join_next().is_some() {}
            }
            while calls.join_next().await.is_some() {}
        });
    }
    let (phone, uri, journal, stop) = (owner.phone.clone(), uri.to_owned(), journal.clone(), stop.clone());
    tasks.spawn(async move {
        while !stop.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let taken = phone.invite(&uri, LIMIT).await;
            let outcome = match taken {
                Ok(dialog) => phone.bye(&dialog, LIMIT).await,
                Err(lost) => Err(lost),
            };
            journal.note(What::Call, edge, begun, outcome);
            sleep(call).await;
        }
    });
}

async fn tool(what: What, edge: usize, phone: &Phone, dialog: &Dialog, journal: &Journal) {
    let (name, arguments) = match what {
        What::Sleep => ("sleep", json!({"seconds": TOOL_SECONDS})),
        _ => ("echo", json!({"text": "hi"})),
    };
    let begun = Instant::now();
    let outcome = phone.call(dialog, name, &arguments, ANSWER).await.map(drop);
    journal.note(what, edge, begun, outcome);
}

/// Takes the store's only pod away at once, or brings one again, with nothing in it.
async fn replicas(space: &Space<'_>, count: u32) -> Fallible<()> {
    let deployments = space.world.api("apps/v1", "Deployment", &space.name);
    space.world.merge(&deployments, "redis", &json!({"spec": {"replicas": count}})).await?;
    if count == 0 {
        for pod in space.world.pods_of(&space.name, "app=redis").await? {
            // One that is gone by itself meanwhile is gone.
            let params = DeleteParams::default().grace_period(0);
            let _ = space.world.pods(&space.name).delete(&pod.name_any(), &params).await;
        }
        return Ok(());
    }
    space.running("redis").await
}

pub async fn a_minute(space: &Space<'_>) -> Fallible<Outcome> {
    let tls = world_of_calls(space, json!({})).await?;
    let uri = format!("sip:{AGENT}@{}", space.domain());
    let mut owners = Vec::new();
    for (edge, pod) in space.edge_pods().await?.iter().enumerate() {
        owners.push(owner(space, edge, pod, &tls, &uri).await?);
    }
    let before = restarts(space).await?;
    let (journal, stop, mut tasks) = (Arc::new(Journal::default()), Arc::new(AtomicBool::new(false)), JoinSet::new());
    for owner in &owners {
        load(owner, &uri, &journal, &stop, &mut tasks);
    }
    // Every edge has taken calls.
    until("calls before the outage", PATIENCE, || async { well(&journal, None) }).await?;
    for owner in &owners {
        for dialog in &owner.dialogs {
            let (edge, phone, dialog, journal) = (owner.edge, owner.phone.clone(), dialog.clone(), journal.clone());
            tasks.spawn(async move { tool(What::Sleep, edge, &phone, &dialog, &journal).await });
        }
    }
    // All of them are in the tool.
    sleep(Duration::from_secs_f64(TOOL_SECONDS / 2.0)).await;
    let gone = Instant::now();
    replicas(space, 0).await?;
    let taken_away = gone.elapsed();
    space.comes("SessionStore", STORE, "Reachable", "False", None).await?;
    let told = gone.elapsed();
    for owner in &owners {
        let ended = owner.phone.bye(&owner.leaver, LIMIT).await;
        ended.map_err(|lost| format!("BYE to edge {} while the store is away: {lost}", owner.edge))?;
    }
    sleep(AWAY.saturating_sub(gone.elapsed())).await;
    let now = restarts(space).await?;
    ensure!(now == before, "restarts were {before:?} and are {now:?}");
    replicas(space, 1).await?;
    let back = Instant::now();
    until("calls to be taken again", PATIENCE, || async { well(&journal, Some(back)) }).await?;
    space.comes("SessionStore", STORE, "Reachable", "True", None).await?;
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|error| error.to_string())?;
    }
    let anew = phone(space, &tls).await?;
    let (echoes, sleeps) = (runs(&anew, &uri, "echo").await?, runs(&anew, &uri, "sleep").await?);
    let dropped = afterwards(&owners, &anew).await;
    let window = Window { away: gone + taken_away + KNOWN, back };
    let (mut figure, wrong, fate) = journal.read(|tried| judge(tried, &window, [echoes, sleeps]));
    figure["away_ms"] = json!(ms(back.duration_since(gone)));
    figure["told_ms"] = json!(ms(told));
    figure["dialogs"] = json!(owners.len() * STANDING);
    figure["dialogs_dropped"] = json!(dropped.len());
    space.world.figures.tell("store-outage-60s", figure)?;
    let all: Vec<String> = wrong.into_iter().chain(dropped).collect();
    ensure!(all.is_empty(), "{} things went wrong:\n{}", all.len(), all[..all.len().min(20)].join("\n"));
    bearable("the fate of a call after the store is back (ms)", ms(fate), ms(FATE))?;
    Ok(Outcome::Passed)
}

/// That the last calls at every edge were taken, of those since then.
fn well(journal: &Journal, since: Option<Instant>) -> Fallible<()> {
    journal.read(|tried| {
        for edge in 0..EDGES as usize {
            let of = |one: &&Tried| one.what == What::Call && one.edge == edge;
            let last: Vec<&Tried> = tried.iter().rev().filter(of).take(WELL).collect();
            let fresh = last.iter().all(|one| one.outcome.is_ok() && since.is_none_or(|since| one.begun > since));
            ensure!(last.len() == WELL && fresh, "edge {edge} does not take every call");
        }
        Ok(())
    })
}

/// What is wrong with the dialogs when all is over: those that stood work at any edge, those that hung up are gone.
async fn afterwards(owners: &[Owner], anew: &Phone) -> Vec<String> {
    let mut wrong = Vec::new();
    for owner in owners {
        for (number, dialog) in owner.dialogs.iter().enumerate() {
            let answer = anew.call(dialog, "echo", &json!({"text": "after"}), LIMIT * 4).await;
            if let Err(lost) = answer {
                wrong.push(format!("dialog {number} of edge {} after the outage: {lost}", owner.edge));
            }
        }
        match anew.is_alive(&owner.leaver, LIMIT * 4).await {
            Err(Lost::Refused(481, _)) => {}
            other => wrong.push(format!("the dialog that edge {} was told to end: {other:?}", owner.edge)),
        }
    }
    wrong
}

/// When the store was away for sure.
struct Window {
    away: Instant,
    back: Instant,
}

/// What came of everything that was tried: figures, what must not be, and how long after the outage the last tool's answer came.
fn judge(tried: &[Tried], window: &Window, ran: [u64; 2]) -> (Value, Vec<String>, Duration) {
    let (mut wrong, mut fate, mut healed, mut refused_last) =
        (Vec::new(), Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let mut count = std::collections::BTreeMap::<&str, u64>::new();
    let mut first_good = std::collections::BTreeMap::<usize, Instant>::new();
    let mut executed = [0, 0];
    for one in tried {
        let inside = one.begun > window.away && one.ended < window.back;
        let kind = match (&one.outcome, one.what) {
            (Ok(()), What::Alive) => "options_answered",
            // Until the edge knows that the store is away.
            (Err(lost), What::Alive) if lost.says_when() && one.begun < window.away => "options_503",
            (Ok(()), What::Call) if inside => "calls_taken_without_the_store",
            (Ok(()), What::Call) => "calls_taken",
            (Ok(()), What::Echo | What::Sleep) if inside => "tools_answered_without_the_store",
            (Ok(()), What::Echo | What::Sleep) => "tools_answered",
            (Err(lost), What::Call) if lost.says_when() => "calls_503",
            (Err(lost), What::Echo | What::Sleep) if lost.says_when() => "tools_503",
            (Err(lost), What::Echo | What::Sleep) if lost.is_typed() => "tools_retryable",
            (Err(Lost::Silence(_)), _) => "silent",
            (Err(_), _) => "wrong",
        };
        *count.entry(kind).or_default() += 1;
        if matches!(kind, "silent" | "wrong") || kind.ends_with("without_the_store") {
            let at = one.begun.saturating_duration_since(window.away).as_secs_f32();
            wrong.push(format!(
                "{:?} at edge {}, {at:.1} s after the store went: {:?}",
                one.what, one.edge, one.outcome
            ));
        }
        if kind.starts_with("tools_") && kind != "tools_503" {
            executed[usize::from(one.what == What::Sleep)] += 1;
            fate = fate.max(one.ended.saturating_duration_since(window.back.max(one.begun)));
        }
        if one.what == What::Call && one.begun > window.back {
            match kind {
                "calls_taken" => drop(first_good.entry(one.edge).or_insert(one.ended)),
                _ => refused_last = refused_last.max(one.ended.duration_since(window.back)),
            }
        }
    }
    for at in first_good.values() {
        healed = healed.max(at.duration_since(window.back));
    }
    for (tool, (ran, may)) in ["echo", "sleep"].iter().zip(ran.into_iter().zip(executed)) {
        if ran > may {
            wrong.push(format!("{tool} ran {ran} times for {may} calls that an edge took"));
        }
    }
    let doubles: u64 = ran.iter().zip(executed).map(|(ran, may)| ran.saturating_sub(may)).sum();
    for shown in [
        "silent",
        "wrong",
        "options_503",
        "calls_taken_without_the_store",
        "tools_answered_without_the_store",
        "tools_retryable",
    ] {
        count.entry(shown).or_default();
    }
    let mut figure = json!({
        "executions": ran.iter().sum::<u64>(), "double_executions": doubles, "first_call_taken_ms": ms(healed),
        "last_call_refused_ms": ms(refused_last), "last_answer_ms": ms(fate), "goal_ms": ms(FATE),
    });
    for (kind, number) in count {
        figure[kind] = json!(number);
    }
    (figure, wrong, fate)
}
