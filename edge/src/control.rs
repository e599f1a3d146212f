//! The control stream, as the edge sees it: it enrols at an operator, holds what it is given, says what became of each object and how it goes.
//! Whatever happens to the stream, what is held goes on.

mod answers;
pub mod cache;
pub mod endpoints;
pub mod enrol;
pub mod held;
pub mod ledger;
mod link;
pub mod report;
mod tools;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crds::manifest::{Loaded, ObjectKey, Problem, Snapshot};
use edge_api::control::{ConfigSource, Drain, Kind, Outcome};
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::manifests::keep_last_good;
use crate::mesh::tls::MeshTls;
use cache::Cache;
use endpoints::Endpoints;
use enrol::Enrolled;
use held::{Held, Judged, Key};
use ledger::{Ledger, Verdicts, Word};
use report::Reporter;
use tools::Tools;

/// So long an operator has to say everything before the file is used that an earlier process kept.
pub const COLD_START: Duration = Duration::from_secs(3);
/// Between two writes of that file, at least; with much to write, so that it is a tenth of the time.
const KEEP_EVERY: Duration = Duration::from_millis(500);
/// Between two attempts that fail: doubled from [`KEEP_EVERY`] up to this.
const KEEP_AGAIN: Duration = Duration::from_secs(30);
/// For the last write, when the process ends.
const KEEP_LAST: Duration = Duration::from_secs(5);

/// How an operator is reached, and who this edge is.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Host and port.
    pub operator: String,
    /// The name in the operator's certificate.
    pub name: String,
    /// PEM of the operator's authority; read anew for each connection.
    pub authority: PathBuf,
    /// The pod's token; read anew for each enrolment.
    pub token: PathBuf,
    pub cache: Option<Cache>,
    pub edge: ObjectKey,
    /// Name of the pod. Its namespace is that of `edge`.
    pub pod: String,
    /// Between two reports.
    pub report_every: Duration,
    /// See [`COLD_START`].
    pub cold_start: Duration,
}

impl Settings {
    /// `namespace/pod`.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}/{}", self.edge.namespace, self.pod)
    }
}

/// What the task of the stream and the process share.
#[derive(Debug)]
struct Shared {
    settings: Settings,
    reporter: Reporter,
    /// Of the agents' backends.
    tools: Tools,
    state: Mutex<State>,
    /// New objects came.
    changed: watch::Sender<u64>,
    /// There are results to be sent.
    said: watch::Sender<u64>,
    enrolled: watch::Sender<Option<Arc<Enrolled>>>,
    /// The last order to drain, or to stop it.
    drain: watch::Sender<Option<Drain>>,
    /// Held while the file is written.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    held: Held,
    ledger: Ledger,
    /// An operator has said everything, in this life of the process.
    complete: bool,
    source: Option<ConfigSource>,
    connected: bool,
    /// Why there is no stream.
    trouble: String,
    /// What was held is in use.
    in_use: bool,
    /// What is held is to be kept.
    keep: bool,
    /// Why it is not; empty: it is, or nothing is to be kept.
    not_kept: String,
    /// Octets of all Deltas.
    received: u64,
}

impl Shared {
    fn with<R>(&self, work: impl FnOnce(&mut State) -> R) -> R {
        // A panic under the lock ended its task; the values are whole between two calls.
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn wake(sender: &watch::Sender<u64>) {
    sender.send_modify(|count| *count = count.wrapping_add(1));
}

/// How the control stream stands, for `/status` and `/metrics`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// `none`, `operator` or `file`.
    pub source: &'static str,
    pub connected: bool,
    /// Why there is no stream; empty: there is one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub trouble: String,
    pub held: usize,
    pub rejected: usize,
    /// Octets of configuration that came on control streams in this life of the process.
    pub received_octets: u64,
    /// Why the file that a restart without an operator needs is not as it should be; empty: it is, or there is to be none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub not_kept: String,
}

/// Answers how the control stream stands.
#[derive(Clone)]
pub struct Watch(Arc<Shared>);

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}

impl Watch {
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.0.with(|state| Standing {
            source: match state.source {
                Some(ConfigSource::Operator) => "operator",
                Some(ConfigSource::File) => "file",
                _ => "none",
            },
            connected: state.connected,
            trouble: if state.connected { String::new() } else { state.trouble.clone() },
            held: state.held.keys().count(),
            rejected: state.ledger.rejected(),
            received_octets: state.received,
            not_kept: state.not_kept.clone(),
        })
    }
}

/// What comes next.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Something else was given than was read last.
    Changed,
    /// An operator wants this edge to drain, or no longer.
    Drain(Drain),
}

/// Manifests from an operator. Ends its tasks when dropped.
#[derive(Debug)]
pub struct Operator {
    shared: Arc<Shared>,
    changes: watch::Receiver<u64>,
    enrolled: watch::Receiver<Option<Arc<Enrolled>>>,
    drains: watch::Receiver<Option<Drain>>,
    /// What was last good of everything.
    good: Snapshot,
    /// What was wrong with what was read last, before anything was made of it.
    read: Judged,
    /// Until then an operator is waited for where an earlier process has kept something; `None`: there is a configuration.
    cold_until: Option<Instant>,
    kept: bool,
    tasks: [AbortHandle; 3],
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Operator {
    /// Reads what an earlier process kept, and begins to connect.
    #[must_use]
    pub fn start(settings: Settings, reporter: Reporter) -> Self {
        let (mut state, mut good) = (State::default(), Snapshot::default());
        match settings.cache.as_ref().map(Cache::read) {
            Some(Ok(Some(kept))) => (state.held, good) = (kept.held, kept.good),
            Some(Err(error)) => {
                let file = settings.cache.as_ref().map(|cache| cache.file.display().to_string()).unwrap_or_default();
                tracing::error!("--config-cache {file}: {error}; it is not used");
            }
            Some(Ok(None)) | None => {}
        }
        let cold_until = Instant::now() + settings.cold_start;
        let kept = !state.held.is_empty();
        let (changed, changes) = watch::channel(0);
        let (enrolled_in, enrolled) = watch::channel(None);
        let (drain, drains) = watch::channel(None);
        let shared = Arc::new(Shared {
            settings,
            reporter,
            tools: Tools::default(),
            state: Mutex::new(state),
            changed,
            said: watch::Sender::new(0),
            enrolled: enrolled_in,
            drain,
            writing: tokio::sync::Mutex::default(),
        });
        let discover = tools::discover(shared.tools.clone(), shared.reporter.clone());
        let tasks = [
            tokio::spawn(link::run(shared.clone())).abort_handle(),
            tokio::spawn(keep(shared.clone())).abort_handle(),
            tokio::spawn(discover).abort_handle(),
        ];
        Operator {
            shared,
            changes,
            enrolled,
            drains,
            good,
            read: Judged::default(),
            cold_until: Some(cold_until),
            kept,
            tasks,
        }
    }

    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch(self.shared.clone())
    }

    /// For messages: what is waited for before there is a configuration.
    #[must_use]
    pub fn awaits(&self) -> String {
        let trouble = self.shared.with(|state| state.trouble.clone());
        let trouble = if trouble.is_empty() { trouble } else { format!(": {trouble}") };
        format!("the operator ({}){trouble}", self.shared.settings.operator)
    }

    /// Waits until there is a configuration: an operator has said everything, or nobody did in time and an earlier process kept one.
    pub async fn first(&mut self) {
        let Some(until) = self.cold_until else { return };
        let kept = self.kept;
        let mut changes = self.shared.changed.subscribe();
        loop {
            changes.borrow_and_update();
            if self.shared.with(|state| state.complete) {
                break;
            }
            // The sender lives as long as this.
            let changed = changes.changed();
            let changed = if kept { timeout_at(until, changed).await.is_ok() } else { changed.await.is_ok() };
            if !changed && !self.shared.with(|state| state.complete) {
                tracing::warn!("no operator has answered: the configuration is the one that was kept in a file");
                self.shared.with(|state| state.source = Some(ConfigSource::File));
                break;
            }
        }
        self.cold_until = None;
    }

    /// Waits until something else was given than was read last.
    pub async fn changed(&mut self) {
        if self.changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Everything that is held, as it would be read from files.
    pub fn read(&mut self) -> Loaded {
        self.changes.borrow_and_update();
        let judged = self.shared.with(|state| {
            state.ledger.apply();
            let mut judged = state.held.judge();
            judged.objects.reach = state.held.reach(&self.shared.settings.pod);
            judged
        });
        let mut loaded = Loaded {
            objects: judged.objects.clone(),
            problems: judged.problems.clone(),
            refused: judged.refused.clone(),
        };
        keep_last_good(&self.good, &mut loaded);
        self.good = loaded.objects.clone();
        loaded.problems.extend(judged.warnings.iter().cloned());
        self.read = judged;
        loaded
    }

    /// The numbers of the tenants, by domain.
    #[must_use]
    pub fn tenants(&self) -> BTreeMap<String, u16> {
        self.shared.with(|state| state.held.tenants())
    }

    /// Where the Services of backends answer, by the name of the Service.
    #[must_use]
    pub fn endpoints(&self) -> BTreeMap<ObjectKey, Endpoints> {
        self.shared.with(|state| state.held.endpoints())
    }

    /// What was read is in use but for these problems, and what the listeners say.
    pub fn applied(&mut self, problems: &[Problem], listeners: &[String]) {
        let mut words = BTreeMap::new();
        let mut add = |problem: &Problem, outcome| {
            let Some(key) = Key::of_place(&problem.file) else { return };
            // The first reason of the worst outcome.
            let word = Word { outcome, field: problem.field.clone(), message: problem.message.clone() };
            let known = words.entry(key).or_insert_with(|| word.clone());
            if known.outcome != Outcome::Rejected && outcome == Outcome::Rejected {
                *known = word;
            }
        };
        for problem in self.read.problems.iter().chain(problems) {
            add(problem, Outcome::Rejected);
        }
        for problem in &self.read.warnings {
            add(problem, Outcome::AppliedWithWarning);
        }
        if !listeners.is_empty() {
            let message = listeners.join("; ");
            let word = Word { outcome: Outcome::Rejected, field: "spec.listeners".to_owned(), message };
            words.entry(Key::new(Kind::SipEdge, self.shared.settings.edge.clone())).or_insert(word);
        }
        self.shared.with(|state| {
            let State { held, ledger, .. } = state;
            ledger.applied(held, Verdicts::Judged(words));
            state.in_use = true;
            state.keep = state.complete;
        });
        wake(&self.shared.said);
    }

    /// The process ends: what is to be kept and is not yet is written now.
    pub async fn finish(&self) {
        if timeout(KEEP_LAST, write_down(&self.shared)).await.is_err() {
            tracing::error!("the last configuration was not kept in its file in time");
        }
    }

    /// What was read is not in use yet, for this reason.
    pub fn waits(&mut self, reason: &str) {
        let reason = format!("this edge starts: {reason}");
        self.shared.with(|state| {
            let State { held, ledger, .. } = state;
            ledger.apply();
            ledger.applied(held, Verdicts::Waiting(reason));
        });
        wake(&self.shared.said);
    }

    /// The certificate of this edge, where there is a new one.
    pub fn new_certificate(&mut self) -> Option<Result<MeshTls, String>> {
        if !self.enrolled.has_changed().unwrap_or(false) {
            return None;
        }
        let enrolled = self.enrolled.borrow_and_update().clone()?;
        Some(MeshTls::new(enrolled.key.clone(), enrolled.trust.clone()).map_err(|error| error.to_string()))
    }

    /// Waits for what comes next. May be dropped and asked again.
    pub async fn next(&mut self) -> Event {
        loop {
            // The senders live as long as this.
            tokio::select! {
                Ok(()) = self.changes.changed() => return Event::Changed,
                Ok(()) = self.drains.changed() => {
                    if let Some(drain) = self.drains.borrow_and_update().clone() {
                        return Event::Drain(drain);
                    }
                }
                else => std::future::pending::<()>().await,
            }
        }
    }
}

/// Keeps what is held in the file, a moment after it was applied. What could not be written is tried again.
async fn keep(shared: Arc<Shared>) {
    if shared.settings.cache.is_none() {
        return;
    }
    let mut said = shared.said.subscribe();
    let mut pause = KEEP_EVERY;
    loop {
        let begin = Instant::now();
        match write_down(&shared).await {
            Some(true) => pause = KEEP_EVERY,
            Some(false) => pause = (pause * 2).min(KEEP_AGAIN),
            None => match said.changed().await {
                Ok(()) => continue,
                Err(_) => return,
            },
        }
        sleep(pause.max(begin.elapsed() * 9)).await;
    }
}

/// Writes the file where that is due, and says whether that was done. `None`: it is as it should be.
async fn write_down(shared: &Shared) -> Option<bool> {
    let cache = shared.settings.cache.clone()?;
    let _writing = shared.writing.lock().await;
    let kept = shared.with(|state| std::mem::take(&mut state.keep).then(|| state.held.kept()))?;
    let file = cache.file.display().to_string();
    let written = tokio::task::spawn_blocking(move || cache.write(kept)).await;
    let trouble = match written {
        Ok(Ok(())) => String::new(),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    let told = shared.with(|state| {
        state.keep |= !trouble.is_empty();
        std::mem::replace(&mut state.not_kept, trouble.clone())
    });
    if !trouble.is_empty() && trouble != told {
        tracing::error!("--config-cache {file}: {trouble}; a restart without an operator would be without it");
    } else if trouble.is_empty() && !told.is_empty() {
        tracing::info!("--config-cache {file}: the configuration is kept again");
    }
    Some(trouble.is_empty())
}

#[cfg(test)]
mod tests;
