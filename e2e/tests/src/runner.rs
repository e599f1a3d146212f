//! One test after another; what fails is told with the folder that says why, and everything is cleaned up, after a signal, too.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use kube::ResourceExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use crate::Fallible;
use crate::args::Args;
use crate::harness::cluster::{SYSTEM, World};
use crate::harness::dump::dump;
use crate::harness::space::Space;
use crate::tests;

/// How a test that did not fail ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    /// Why it could not be tried here.
    Skipped(String),
}

/// What a test is.
pub type Body = for<'a> fn(&'a Space<'a>) -> Pin<Box<dyn Future<Output = Fallible<Outcome>> + Send + 'a>>;

/// One test.
pub struct Test {
    pub name: &'static str,
    /// What it proves: lines of the list of what has to be shown, requirement ids.
    pub shows: &'static str,
    pub limit: Duration,
    /// Needs `--scale`, or to be named.
    pub long: bool,
    pub body: Body,
}

#[derive(Default)]
struct Counts {
    passed: usize,
    failed: Vec<&'static str>,
    skipped: usize,
}

/// Runs what the arguments name; exit code 0 without a failure.
pub async fn run(args: Args) -> ExitCode {
    let world = match World::open(args).await {
        Ok(world) => world,
        Err(why) => {
            eprintln!("e2e: {why}");
            return ExitCode::from(2);
        }
    };
    if !world.args.installed
        && let Err(why) = world.is_free().await
    {
        eprintln!("e2e: {why}");
        return ExitCode::from(2);
    }
    let mut counts = Counts::default();
    let interrupted = tokio::select! {
        () = all(&world, &mut counts) => false,
        () = stopped() => true,
    };
    if interrupted {
        eprintln!("e2e: stopped; cleaning up");
        let _ = world.operators_back().await;
        leftovers(&world).await;
    }
    if !world.args.keep
        && let Err(why) = world.uninstall().await
    {
        eprintln!("e2e: the release is not gone: {why}");
        counts.failed.push("uninstall");
    }
    for name in &counts.failed {
        println!("FAILED {name}");
    }
    println!("count: {} passed, {} failed, {} skipped", counts.passed, counts.failed.len(), counts.skipped);
    match (interrupted, counts.failed.is_empty()) {
        (true, _) => ExitCode::from(130),
        (false, true) => ExitCode::SUCCESS,
        (false, false) => ExitCode::FAILURE,
    }
}

fn chosen(args: &Args, test: &Test) -> bool {
    let named = args.filter.iter().any(|part| test.name.contains(part.as_str()));
    named || (args.filter.is_empty() && (!test.long || args.scale))
}

async fn all(world: &World, counts: &mut Counts) {
    for test in tests::ALL.iter().filter(|test| chosen(&world.args, test)) {
        let begin = Instant::now();
        let ended = one(world, test).await;
        let seconds = begin.elapsed().as_secs_f32();
        match ended {
            Ok(Outcome::Passed) => {
                counts.passed += 1;
                println!("test {} ... ok ({seconds:.1} s)", test.name);
            }
            Ok(Outcome::Skipped(why)) => {
                counts.skipped += 1;
                println!("test {} ... not run: {why}", test.name);
            }
            Err(why) => {
                counts.failed.push(test.name);
                println!("test {} ... FAILED ({seconds:.1} s)\n    {}", test.name, why.replace('\n', "\n    "));
            }
        }
    }
}

async fn one(world: &World, test: &Test) -> Fallible<Outcome> {
    let space = Space::new(world, test.name);
    let body = std::panic::AssertUnwindSafe((test.body)(&space)).catch_unwind();
    let ended = match timeout(test.limit, body).await {
        Ok(Ok(ended)) => ended,
        Ok(Err(panic)) => Err(format!("panic: {}", words(&*panic))),
        Err(_) => Err(format!("not over after {} s", test.limit.as_secs())),
    };
    let ended = match ended {
        Ok(outcome) => Ok(outcome),
        Err(why) => {
            let mut namespaces = space.namespaces();
            namespaces.push(SYSTEM.to_owned());
            let folder = dump(world, test.name, &namespaces).await;
            Err(format!("{why}\nevents, pods and logs: {}", folder.display()))
        }
    };
    let back = world.operators_back().await;
    let ended = ended.and_then(|outcome| back.map(|()| outcome));
    if world.args.keep {
        return ended;
    }
    match (ended, space.end().await) {
        (Ok(outcome), Ok(())) => Ok(outcome),
        (Ok(_), Err(left)) => Err(format!("what it made does not go: {left}")),
        (Err(why), Ok(())) => Err(why),
        (Err(why), Err(left)) => Err(format!("{why}\nand what it made does not go: {left}")),
    }
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "without words".to_owned())
}

/// Ctrl-C or SIGTERM.
async fn stopped() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// Namespaces of this run, after a test that was broken off.
async fn leftovers(world: &World) {
    if world.args.keep {
        return;
    }
    let spaces = world.api("v1", "Namespace", "");
    let Ok(list) = spaces.list(&kube::api::ListParams::default().labels("sipmcp.dev/e2e")).await else { return };
    let mut tests = BTreeMap::<String, Vec<String>>::new();
    for space in list.items {
        let test = space.labels().get("sipmcp.dev/e2e").filter(|test| test.ends_with(&format!("-{}", world.run)));
        if let Some(test) = test {
            tests.entry(test.clone()).or_default().push(space.name_any());
        }
    }
    for (test, namespaces) in tests {
        if let Err(why) = Space::found(world, &test, namespaces).end().await {
            eprintln!("e2e: {test}: {why}");
        }
    }
}
