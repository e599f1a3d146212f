//! The parts of the process, how they start and how they end.

use crate::authority::Authority;
use crate::board::Board;
use crate::config::{Args, EXIT_FAILURE, EXIT_USAGE, LogFormat};
use crate::health::Door;
use crate::lease::{self, Pen};
use crate::metrics::Metrics;
use crate::peers::forward::Forward;
use crate::peers::mirror::Mirror;
use crate::peers::reach::{Pods, Reach};
use crate::queries::Queries;
use crate::serve::Clock;
use crate::{admin, serve as edges, watch, webhook, write};
use kube::{Client, Config};
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinError, JoinSet};
use tracing_subscriber::EnvFilter;

/// For the tasks to end after a signal.
const END_TIME: Duration = Duration::from_secs(12);

/// What every task gets.
#[derive(Clone)]
pub struct Context {
    pub client: Client,
    pub board: Arc<Board>,
    pub metrics: Arc<Metrics>,
    pub args: Arc<Args>,
    pub pen: Pen,
    /// The authority of the control stream, once there is one.
    pub authority: tokio::sync::watch::Receiver<Option<Arc<Authority>>>,
    /// Of the streams: ages of one are told on another.
    pub clock: Clock,
    pub shutdown: Shutdown,
}

/// The open ports.
struct Ports {
    health: TcpListener,
    edges: TcpListener,
    webhook: TcpListener,
    admin: TcpListener,
}

/// Whether the process is to end. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shutdown {
    flag: tokio::sync::watch::Receiver<bool>,
}

/// What a task waited for will never come: the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the process ends")]
pub struct Ended;

impl Shutdown {
    /// A flag that is down, and who raises it.
    #[must_use]
    pub fn new() -> (tokio::sync::watch::Sender<bool>, Self) {
        let (raise, flag) = tokio::sync::watch::channel(false);
        (raise, Shutdown { flag })
    }

    /// Returns when the process is to end.
    pub async fn requested(&mut self) {
        // Nobody is left who could raise it: the process is ending already.
        let _ = self.flag.wait_for(|raised| *raised).await;
    }

    /// The flag itself.
    #[must_use]
    pub fn flag(&self) -> tokio::sync::watch::Receiver<bool> {
        self.flag.clone()
    }
}

/// Runs the operator until a signal.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    if let Err(problem) = init_log(args.log_format, &args.log_level) {
        eprintln!("sipmcp-operator: {problem}");
        return ExitCode::from(EXIT_USAGE);
    }
    if let Err(problems) = args.check() {
        problems.iter().for_each(|problem| tracing::error!("{problem}"));
        return ExitCode::from(EXIT_USAGE);
    }
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "no threads can be started");
            return ExitCode::from(EXIT_FAILURE);
        }
    };
    let code = runtime.block_on(serve(args.clone()));
    runtime.shutdown_timeout(Duration::from_secs(1));
    ExitCode::from(code)
}

fn init_log(format: LogFormat, level: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(level).map_err(|error| format!("--log-level {level}: {error}"))?;
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour);
    let set = match format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    set.map_err(|error| format!("the log cannot be set up: {error}"))
}

async fn serve(args: Args) -> u8 {
    let client = match client().await {
        Ok(client) => client,
        Err(problem) => {
            tracing::error!(
                "no cluster is configured: {problem}; run in a pod with a ServiceAccount, or set KUBECONFIG"
            );
            return EXIT_USAGE;
        }
    };
    let opened = (
        bind("--listen-health", args.listen_health).await,
        bind("--listen-edges", args.listen_edges).await,
        bind("--listen-webhook", args.listen_webhook).await,
        bind("--listen-admin", args.listen_admin).await,
    );
    let ports = match opened {
        (Ok(health), Ok(edges), Ok(webhook), Ok(admin)) => Ports { health, edges, webhook, admin },
        (health, edges, webhook, admin) => {
            let problems = [health, edges, webhook, admin].into_iter().filter_map(Result::err);
            problems.for_each(|problem| tracing::error!("{problem}"));
            return EXIT_FAILURE;
        }
    };
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
        tracing::error!("signals cannot be received");
        return EXIT_FAILURE;
    };
    let (raise, shutdown) = Shutdown::new();
    let (grant, settled, pen) = lease::pen();
    let (publish, authority) = tokio::sync::watch::channel(None);
    let context = Context {
        client,
        board: Arc::default(),
        metrics: Arc::default(),
        args: Arc::new(args),
        pen,
        authority,
        clock: Clock::default(),
        shutdown,
    };
    let mut tasks = Tasks::default();
    start(&mut tasks, &context, Lead { grant, settled, publish }, ports);
    tracing::info!(namespace = %context.args.namespace, name = %context.args.name, version = env!("CARGO_PKG_VERSION"), "started");
    let code = tokio::select! {
        _ = terminate.recv() => 0,
        _ = interrupt.recv() => 0,
        name = tasks.first_end() => {
            tracing::error!("{name} ended by itself: the process ends, so that another one begins anew");
            EXIT_FAILURE
        }
    };
    tracing::info!("ending");
    raise.send_replace(true);
    tasks.finish().await;
    code
}

/// What the tasks say to each other of the Lease and of the authority.
struct Lead {
    grant: lease::Grant,
    settled: tokio::sync::watch::Sender<bool>,
    publish: tokio::sync::watch::Sender<Option<Arc<Authority>>>,
}

fn start(tasks: &mut Tasks, context: &Context, lead: Lead, ports: Ports) {
    let Context { client, board, metrics, args, pen, shutdown, .. } = context.clone();
    let Lead { grant, settled, publish } = lead;
    let settling = lease::settle::run(board.clone(), pen.flag(), settled, shutdown.clone());
    tasks.spawn("the door for probes", Door::new(board, metrics, pen).serve(ports.health, shutdown.clone()));
    tasks.spawn("the port for edges", serve_edges(context.clone(), ports.edges, publish));
    tasks.spawn("the stream to the holder of the Lease", mirror(context.clone()));
    tasks.spawn("the webhook", serve_webhook(context.clone(), ports.webhook));
    tasks.spawn("the Admin API", serve_admin(context.clone(), ports.admin));
    tasks.spawn("the Lease", lease::run(client, args.namespace.clone(), identity(&args.name), grant, shutdown));
    tasks.spawn("who waits for the other replicas", settling);
    for (name, task) in watch::tasks(context) {
        tasks.spawn(name, task);
    }
    for (name, task) in write::tasks(context) {
        tasks.spawn(name, task);
    }
}

/// Waits for the authority, and serves edges then.
async fn serve_edges(
    context: Context,
    listener: TcpListener,
    publish: tokio::sync::watch::Sender<Option<Arc<Authority>>>,
) {
    let Context { client, board, args, pen, clock, mut shutdown, .. } = context;
    let authority = tokio::select! {
        authority = Authority::open(client.clone(), &args.namespace, pen.flag()) => authority,
        () = shutdown.requested() => return,
    };
    authority.answer_to(&args.service());
    publish.send_replace(Some(authority.clone()));
    if let Err(error) = edges::run(listener, board, authority, client, pen.flag(), clock, shutdown.requested()).await {
        tracing::error!(%error, "no edge can be served any more");
    }
}

/// Waits for the authority, and answers the API server then, which learns of the authority where nobody else tells it.
async fn serve_webhook(mut context: Context, listener: TcpListener) {
    let Some(authority) = issuing(&mut context).await else { return };
    let Context { client, board, args, pen, mut shutdown, .. } = context;
    let mut trusting = shutdown.clone();
    let serving = webhook::run(listener, board, authority.clone(), shutdown.requested());
    match args.webhook_configuration.clone() {
        Some(name) => {
            let trusted = webhook::trust(client, name, authority, pen.flag(), trusting.requested());
            tokio::join!(serving, trusted);
        }
        None => serving.await,
    }
}

/// Waits for the authority, and answers people then.
async fn serve_admin(mut context: Context, listener: TcpListener) {
    let Some(authority) = issuing(&mut context).await else { return };
    let forward = Forward::new(reach(&context), authority.clone(), context.pen.other(), context.pen.flag());
    let Context { client, board, mut shutdown, .. } = context;
    let queries = Arc::new(Queries::new(board.clone()));
    admin::run(listener, board, queries, authority, client, forward, shutdown.requested()).await;
}

/// Waits for the authority, and tells the holder of the Lease then what the edges here say, while another replica is that.
async fn mirror(mut context: Context) {
    let Some(authority) = issuing(&mut context).await else { return };
    let reach = reach(&context);
    let Context { board, args, pen, clock, mut shutdown, .. } = context;
    let replica = format!("{}/{}", args.namespace, args.name);
    let mirror = Mirror { board, authority, replica, reach, clock };
    mirror.run(pen.other(), shutdown.requested()).await;
}

/// How this replica finds another one.
fn reach(Context { client, args, .. }: &Context) -> Arc<dyn Reach> {
    let (client, namespace) = (client.clone(), args.namespace.clone());
    Arc::new(Pods { client, namespace, edges: args.listen_edges.port(), admin: args.listen_admin.port() })
}

/// The authority, once there is one. `None`: the process ends.
async fn issuing(context: &mut Context) -> Option<Arc<Authority>> {
    let Context { authority, shutdown, .. } = context;
    tokio::select! {
        known = authority.wait_for(Option::is_some) => known.ok()?.clone(),
        () = shutdown.requested() => None,
    }
}

/// Unique among all processes that ever were: a restarted container has its pod's name, and waits for the Lease of the one before.
fn identity(name: &str) -> String {
    let mut octets = [0; 8];
    match getrandom::fill(&mut octets) {
        Ok(()) => format!("{name}_{:016x}", u64::from_be_bytes(octets)),
        // Without random numbers the process and its start tell it from others of the same name.
        Err(_) => format!("{name}_{}_{}", std::process::id(), k8s_openapi::jiff::Timestamp::now().as_nanosecond()),
    }
}

async fn client() -> Result<Client, String> {
    let config = Config::infer().await.map_err(|error| error.to_string())?;
    Client::try_from(config).map_err(|error| error.to_string())
}

/// Opens a port.
///
/// # Errors
/// One sentence.
pub async fn bind(flag: &str, address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|error| format!("{flag} {address}: {error}"))
}

/// Tasks that live as long as the process; when one of them ends by itself, or panics, the process ends.
#[derive(Default)]
struct Tasks {
    set: JoinSet<&'static str>,
}

impl Tasks {
    fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.set.spawn(async move {
            task.await;
            name
        });
    }

    async fn first_end(&mut self) -> String {
        match self.set.join_next().await {
            Some(ended) => said(ended),
            // None was started.
            None => std::future::pending().await,
        }
    }

    async fn finish(&mut self) {
        let all = async { while self.set.join_next().await.is_some() {} };
        if tokio::time::timeout(END_TIME, all).await.is_err() {
            tracing::warn!("not everything ended in time");
        }
        self.set.abort_all();
    }
}

fn said(ended: Result<&'static str, JoinError>) -> String {
    match ended {
        Ok(name) => name.to_owned(),
        Err(error) => format!("a task ({error})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_or_panics_is_noticed() {
        let mut tasks = Tasks::default();
        tasks.spawn("one", std::future::pending());
        tasks.spawn("two", async {});
        assert_eq!(tasks.first_end().await, "two");
        tasks.spawn("three", async { panic!("on purpose") });
        assert!(tasks.first_end().await.contains("panic"));
    }

    #[tokio::test]
    async fn whoever_waits_for_the_end_hears_of_it_once_it_was_asked_for() {
        let (raise, shutdown) = Shutdown::new();
        let waiting = tokio::spawn({
            let mut shutdown = shutdown.clone();
            async move { shutdown.requested().await }
        });
        raise.send_replace(true);
        waiting.await.unwrap();
        shutdown.clone().requested().await;
        assert_ne!(identity("op"), identity("op"));
    }
}
