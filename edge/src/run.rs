//! The life of the process: start, reload on change, drain on a signal.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crds::manifest::{Loaded, Problem, Snapshot};
use edge_core::config::Config;
use edge_core::lease::Membership;
use edge_core::state::Shard;
use session_store_file::StoreFile;
use session_store_redis::RedisConfig;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::admin::{self, Admin};
use crate::args::{Args, EXIT_FAILURE, EXIT_USAGE};
use crate::audit::Audit;
use crate::backend::{BackendConfig, Backends, ConfigureError};
use crate::clock::Clock;
use crate::config_build::keys::{MADE, Made};
use crate::config_build::store::Wanted;
use crate::config_build::{self, Builder, Built};
use crate::counters::Counters;
use crate::dns::Dns;
use crate::drain::{self, Goals};
use crate::driver::ingress::{Control, Shards, queues};
use crate::driver::{self, Parts};
use crate::identity::EdgeId;
use crate::manifests::{Manifests, NoEdge, POLL, choose_edge, lines};
use crate::mesh::Mesh;
use crate::mesh::tls::MeshCertificates;
use crate::metrics::Metrics;
use crate::net::Net;
use crate::net::listener;
use crate::node::{self, End, NodeHandle, NodeParts};
use crate::status::Status;
use crate::store::{LAST_RETRY, Opened, Opening, RETRY, Store};
use crate::telemetry::{self, Exporter};

/// For a heartbeat of the others to be answered.
const HEARD: Duration = Duration::from_millis(250);

/// Why the process cannot start: lines for standard error, and the exit code.
#[derive(Debug)]
pub struct Refused {
    pub lines: Vec<String>,
    pub code: u8,
}

impl Refused {
    fn failure(line: impl Display) -> Self {
        Refused { lines: vec![line.to_string()], code: EXIT_FAILURE }
    }

    fn usage(line: impl Display) -> Self {
        Refused { lines: vec![line.to_string()], code: EXIT_USAGE }
    }
}

/// The test switch that leaves the journal out (`store/unjournalled.rs`) is no part of a release: whoever sets it must not believe that it
/// works.
fn check_test_switches() -> Result<(), Refused> {
    const NO_JOURNAL: &str = "SIPMCP_TEST_NO_JOURNAL";
    match std::env::var_os(NO_JOURNAL) {
        Some(_) if !cfg!(debug_assertions) => Err(Refused::usage(format!(
            "{NO_JOURNAL} is set: only a build with debug assertions leaves the journal out"
        ))),
        _ => Ok(()),
    }
}

/// Runs the edge until a signal ends it.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    let result = telemetry::init_log(args.log_format, &args.log_level).map_err(Refused::usage).and_then(|()| {
        check_test_switches()?;
        let threads = usize::from(args.shard_count()).clamp(1, 8);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("io")
            .enable_all()
            .build()
            .map_err(|error| Refused::failure(format!("no threads: {error}")))?;
        let result = runtime.block_on(live(args, runtime.handle().clone()));
        // Shards and connections end with the process.
        runtime.shutdown_background();
        result
    });
    match result {
        Ok(code) => code,
        Err(refused) => {
            for line in refused.lines {
                eprintln!("sipmcp-edge: {line}");
            }
            ExitCode::from(refused.code)
        }
    }
}

/// Everything that a reload works with.
struct Process {
    id: EdgeId,
    manifests: Manifests,
    builder: Builder,
    parts: Parts,
    status: Arc<Status>,
    backends: BTreeMap<String, BackendConfig>,
    goals: Goals,
    mesh: Option<MeshCertificates>,
    node: NodeHandle,
    /// How the store of this process is reached, where it is shared.
    redis: Option<RedisConfig>,
    /// Another way to the store could not be taken: it is tried again then.
    store_again: Option<Instant>,
    /// Domains wait for their number: the manifests are read again.
    unnumbered: bool,
}

/// A configuration that everything but the cores has.
struct Applied {
    /// For the cores.
    config: Arc<Config>,
    listener_problems: Vec<String>,
    /// All problems, as `/status` shows them.
    told: Vec<String>,
}

/// What [`start`] made.
struct Started {
    process: Process,
    exporter: Option<Exporter>,
    drained: mpsc::Receiver<u16>,
}

async fn live(args: &Args, runtime: Handle) -> Result<ExitCode, Refused> {
    let no_signals = |error| Refused::failure(format!("no signals: {error}"));
    let mut signals = Signals::new().map_err(no_signals)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(no_signals)?;
    let Started { mut process, exporter, mut drained } = tokio::select! {
        started = start(args, runtime) => started?,
        () = signals.next() => {
            tracing::info!("ended before it was ready");
            return Ok(ExitCode::SUCCESS);
        }
    };
    let mut end = process.node.end();
    let mut poll = tokio::time::interval(POLL);
    poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = signals.next() => break,
            ended = node::ended(&mut end) => if let End::Duplicate(message) = ended {
                return Err(Refused::failure(format!("--edge-id {}: {message}", process.id)));
            },
            _ = hangup.recv() => {
                if let Err(error) = process.parts.audit.reopen() {
                    tracing::error!(%error, "--audit: the file cannot be opened again; the old one goes on");
                }
                process.reload().await;
            }
            _ = poll.tick() => {
                process.look_at_certificates();
                let is_due = process.store_again.is_some_and(|at| at <= Instant::now());
                if process.manifests.look() || process.unnumbered || is_due {
                    process.reload().await;
                }
            }
        }
    }
    tracing::info!("draining; a second signal ends at once");
    let code = tokio::select! {
        left = drain::drain(&process.parts, &process.status, &process.node, process.goals, &mut drained) => {
            if left > 0 {
                tracing::warn!(shards = left, "the drain time is over and not everything had ended");
            }
            tracing::info!("drained");
            ExitCode::SUCCESS
        }
        () = signals.next() => {
            tracing::warn!("ended before the drain was done");
            ExitCode::from(128 + 15)
        }
    };
    if let Some(exporter) = exporter {
        exporter.finish().await;
    }
    Ok(code)
}

async fn start(args: &Args, runtime: Handle) -> Result<Started, Refused> {
    let id = match &args.edge_id {
        Some(id) => id.clone(),
        None => EdgeId::of_host()
            .map_err(|error| Refused::usage(format!("--edge-id is needed, the host name is none: {error}")))?,
    };
    let mut manifests = Manifests::new(args.manifests.clone());
    let Loaded { objects, problems } = manifests.read();
    let edge = choose_edge(&objects, args.edge.as_deref(), &args.manifests).map_err(|error| match error {
        // An object was refused, perhaps the one: to add another one is no help.
        NoEdge::None(_) if problems.iter().any(|problem| problem.line > 0) => Refused {
            lines: lines(&problems).into_iter().chain(["no SipEdge is left; mend what is said above".into()]).collect(),
            code: EXIT_USAGE,
        },
        error => {
            let mut refused = Refused::usage(error);
            refused.lines.splice(0..0, lines(&problems));
            refused
        }
    })?;
    if objects.domains.is_empty() && !problems.is_empty() {
        return Err(Refused { lines: lines(&problems), code: EXIT_USAGE });
    }
    let wanted = Wanted::of(&objects, &edge).map_err(Refused::failure)?;
    let mut random = [0; MADE];
    fill(&mut random)?;
    let (made, file) = match &wanted {
        Wanted::File(path) => {
            let mut file = StoreFile::open(path).map_err(Refused::failure)?;
            (Made::of_file(&file.make_keys(&random).map_err(Refused::failure)?), Some(file))
        }
        _ => (Made::new(&random), None),
    };
    let mut builder = Builder::new(edge.clone(), made, wanted.is_shared());
    builder.check_keys(&objects).map_err(Refused::failure)?;

    let audit = match &args.audit {
        Some(path) => Audit::file(path)
            .map_err(|error| Refused::failure(format!("--audit {}: cannot be written: {error}", path.display())))?,
        None => Audit::stdout(),
    };
    let exporter = match &args.otlp_endpoint {
        Some(endpoint) => Some(telemetry::export_to(endpoint, &edge.to_string()).map_err(Refused::usage)?),
        None => None,
    };
    let counters = Arc::<Counters>::default();
    let metrics = Arc::<Metrics>::default();
    let status = Arc::<Status>::default();
    let count = args.shard_count();
    let (handles, queues): (Vec<_>, Vec<_>) = (0..count).map(|_| queues()).unzip();
    let shards = Shards::new(handles, counters.clone());
    let clock = Clock::default();

    let certificates = match (&args.mesh_cert, &args.mesh_key, &args.mesh_ca) {
        (Some(certificate), Some(key), Some(authority)) => {
            Some(MeshCertificates::new(&id, certificate, key, authority))
        }
        // The command line wants all of them with --mesh-listen, and none without.
        _ => None,
    };
    let tls = certificates.as_ref().map(MeshCertificates::load).transpose().map_err(Refused::failure)?;
    let mesh = Mesh::new(id.clone(), tls, runtime.clone(), shards.clone(), metrics.clone());
    let (door, door_address) = admin::bind(&args.admin).await.map_err(Refused::failure)?;
    let (mesh_listener, mesh_address) = bind_mesh(args).await?;
    let running = Arc::<OnceLock<Parts>>::default();
    tracing::info!("listening http {door_address} (admin)");
    let admin = Admin {
        edge: id.clone(),
        status: status.clone(),
        metrics: metrics.clone(),
        parts: running.clone(),
        local: door_address.is_local(),
    };
    tokio::spawn(admin::serve(door, admin));

    // From here on /status tells what the start waits for.
    status.wait_for(format!("the store ({})", wanted.name()));
    let redis = match &wanted {
        Wanted::Redis(config) => Some((**config).clone()),
        Wanted::Memory | Wanted::File(_) => None,
    };
    let opening = match (wanted, file) {
        (_, Some(file)) => {
            builder.numbers_of(&file, &objects).map_err(Refused::failure)?;
            Opening::File(Box::new(file))
        }
        (Wanted::Redis(config), None) => Opening::Redis(config),
        (Wanted::Memory | Wanted::File(_), None) => Opening::Memory,
    };
    let sealer = builder.sealer(&objects).map_err(Refused::failure)?;
    let opened = Store::open(opening, sealer, metrics.clone()).await.map_err(Refused::failure)?;
    let Opened { store, health } = opened;
    number(&store, &mut builder, &objects).await;
    builder.secure(&store, &objects).await.map_err(Refused::failure)?;
    let node_parts =
        NodeParts { clock, store: store.clone(), shards: shards.clone(), mesh: mesh.clone(), metrics: metrics.clone() };
    let lease = config_build::lease(&objects, &edge);
    let node = node::start(id.pod(), mesh_address.unwrap_or_default(), lease, node_parts)
        .map_err(|error| Refused::failure(format!("the system gives no random octets: {error}")))?;
    status.wait_for("an epoch from the store".to_owned());
    let first = first_membership(&node).await?;
    if let Some(listener) = mesh_listener {
        let serving = mesh.clone();
        tokio::spawn(async move { serving.serve(listener).await });
        if mesh.has_peers() {
            // They learn of this life with their next heartbeat, and only then bring its responses and connections here.
            status.wait_for("the other edges to know this one".to_owned());
            tokio::time::sleep(next_heartbeats(&first) + HEARD).await;
        }
    }

    let Some(built) = builder.build(&objects) else {
        return Err(Refused::usage(format!("no SipEdge {edge} in the manifests")));
    };
    if !built.listener_problems.is_empty() {
        return Err(Refused { lines: lines(&built.listener_problems), code: EXIT_FAILURE });
    }
    tell(&problems);
    tell(&built.problems);
    let net = Net::new(runtime.clone(), shards.clone(), counters.clone(), built.config.edge.limits.sip_body_bytes);
    let (drained_in, drained) = mpsc::channel(usize::from(count));
    let parts = Parts {
        clock,
        net,
        shards,
        store,
        health,
        membership: node.membership(),
        mesh,
        backends: Backends::new(runtime.clone()),
        dns: Dns::from_system(counters.clone())
            .inspect_err(|error| tracing::warn!(%error, "no DNS: names of peers cannot be resolved"))
            .ok(),
        audit: Arc::new(audit),
        metrics,
        spans: exporter.as_ref().map(|exporter| exporter.spans.clone()).unwrap_or_default(),
        counters,
        drained: drained_in,
        runtime,
    };
    let mut process = Process {
        id: id.clone(),
        manifests,
        builder,
        parts,
        status,
        backends: BTreeMap::new(),
        node,
        redis,
        store_again: None,
        goals: Goals { settle: Duration::ZERO, work: Duration::ZERO },
        mesh: certificates,
        unnumbered: false,
    };
    let Applied { config, listener_problems, told } = process.apply(built, &problems).await;
    if !listener_problems.is_empty() {
        return Err(Refused { lines: listener_problems, code: EXIT_FAILURE });
    }
    process.status.configured(&config, &process.parts.net.open_listeners(), told);

    for (index, queues) in queues.into_iter().enumerate() {
        let mut seed = [0; 32];
        fill(&mut seed)?;
        let shard = Shard { index: index as u16, count };
        driver::start(shard, config.clone(), first.clone(), seed, queues, process.parts.clone())
            .map_err(|error| Refused::failure(format!("no thread for a shard: {error}")))?;
    }
    // Nobody else sets it.
    let _ = running.set(process.parts.clone());
    process.status.ready();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        edge = %edge,
        id = %id,
        store = process.parts.store.kind(),
        epoch = first.owner.epoch,
        shards = count,
        domains = config.domains.len(),
        agents = config.agents.len(),
        "ready"
    );
    Ok(Started { process, exporter, drained })
}

/// Waits for the numbers of all domains.
async fn number(store: &Store, builder: &mut Builder, objects: &Snapshot) {
    let mut pause = RETRY;
    while let Err(error) = builder.number(store, objects).await {
        tracing::warn!(%error, "the domains have no numbers from the store yet");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_RETRY);
    }
}

async fn first_membership(node: &NodeHandle) -> Result<Arc<Membership>, Refused> {
    let (mut membership, mut end) = (node.membership(), node.end());
    tokio::select! {
        first = membership.wait_for(Option::is_some) => {
            let first = first.ok().and_then(|first| first.clone());
            first.ok_or_else(|| Refused::failure("the task of the lease ended"))
        }
        ended = node::ended(&mut end) => Err(match ended {
            End::Duplicate(message) => Refused::failure(message),
            End::Left => Refused::failure("the lease ended before it began"),
        }),
    }
}

/// Within this time every other edge renews its lease, however long that is: it does so when 0.7 of it is left, which is no less than 0.7
/// of what is left now.
fn next_heartbeats(membership: &Membership) -> Duration {
    let others = membership.pods.iter().filter(|pod| pod.owner.pod != membership.owner.pod);
    Duration::from_millis(others.map(|pod| pod.lease_left_ms * 3 / 10).max().unwrap_or(0))
}

async fn bind_mesh(args: &Args) -> Result<(Option<TcpListener>, Option<String>), Refused> {
    let Some(address) = args.mesh_listen else { return Ok((None, None)) };
    let fail = |error: std::io::Error| Refused::failure(format!("--mesh-listen {address}: {error}"));
    let listener = TcpListener::bind(address).await.map_err(fail)?;
    let bound = listener.local_addr().map_err(fail)?;
    let told = match &args.mesh_advertise {
        Some(told) => told.clone(),
        None if bound.ip().is_unspecified() => {
            let why = format!(
                "--mesh-listen {address} is every address of this machine: say with --mesh-advertise which one the others use"
            );
            return Err(Refused::usage(why));
        }
        None => bound.to_string(),
    };
    tracing::info!("listening mesh {bound}");
    Ok((Some(listener), Some(told)))
}

impl Process {
    async fn reload(&mut self) {
        let Loaded { objects, problems } = self.manifests.read();
        let other_way = self.reach_store(&objects).await;
        self.unnumbered = match self.builder.number(&self.parts.store, &objects).await {
            Ok(()) => false,
            Err(error) => {
                tracing::warn!(%error, "the domains have no numbers from the store yet");
                true
            }
        };
        let Some(mut built) = self.builder.build(&objects) else { return };
        built.problems.extend(other_way);
        if let Err(problem) = self.builder.secure(&self.parts.store, &objects).await {
            built.problems.push(problem);
        }
        tell(&problems);
        tell(&built.problems);
        let trust = built.trust.clone();
        self.node.lease(built.lease).await;
        let Applied { config, listener_problems, told } = self.apply(built, &problems).await;
        for problem in listener_problems {
            tracing::error!("{problem}");
        }
        self.parts.shards.order_all(|| Control::Configure(config.clone())).await;
        // Told when every message from now on finds it.
        self.status.configured(&config, &self.parts.net.open_listeners(), told);
        let closed = self.parts.net.judge_again(&trust);
        if closed > 0 {
            tracing::info!(connections = closed, "closed: their client certificates are no longer trusted as before");
        }
        tracing::info!(
            version = config.epoch,
            domains = config.domains.len(),
            agents = config.agents.len(),
            problems = self.status.problems(),
            "configuration applied"
        );
    }

    /// Takes another way to the store, where the manifests name one and it can be used. Else everything goes on, and it is tried again.
    async fn reach_store(&mut self, objects: &Snapshot) -> Option<Problem> {
        self.store_again = None;
        let known = self.redis.as_ref()?;
        let member = self.node.membership().borrow().clone()?;
        match self.builder.another_way(objects, &self.parts.store, known, &member).await {
            Ok(None) => None,
            Ok(Some((config, other))) => {
                self.parts.store.replace(&other);
                tracing::info!("the store is reached by its new address, user or password");
                self.redis = Some(config);
                None
            }
            Err(problem) => {
                self.store_again = Some(Instant::now() + LAST_RETRY);
                Some(problem)
            }
        }
    }

    /// Takes new certificates of the mesh when their files have changed.
    fn look_at_certificates(&mut self) {
        let Some(mesh) = &mut self.mesh else { return };
        match mesh.changed() {
            Some(Ok(tls)) => {
                tracing::info!("mesh: new certificates");
                self.parts.mesh.replace_tls(tls);
            }
            Some(Err(error)) => tracing::error!("{error}; the last good ones stay"),
            None => {}
        }
    }

    /// Gives everything but the cores its part of a configuration.
    async fn apply(&mut self, built: Built, problems: &[Problem]) -> Applied {
        let Built { mut config, listeners, backends, unaudited, settle_seconds, problems: more, .. } = built;
        let mut told = lines(problems);
        told.extend(lines(&more));
        let domains: Arc<[String]> = config.domains.keys().cloned().collect();
        self.parts.net.configure(config.edge.limits.sip_body_bytes, domains);
        let listener_problems = self.listen(&listeners).await;
        config.listeners = self.parts.net.listeners();
        let backend_problems = self.backends(backends);
        for problem in &backend_problems {
            tracing::error!("{problem}");
        }
        self.parts.metrics.configure(&config);
        self.parts.audit.configure(unaudited);
        let drain = &config.edge.drain;
        self.goals = Goals {
            settle: Duration::from_secs(settle_seconds),
            work: Duration::from_secs(drain.in_flight_seconds + drain.dialog_seconds),
        };
        told.extend(listener_problems.iter().cloned());
        told.extend(backend_problems);
        Applied { config: Arc::new(config), listener_problems, told }
    }

    async fn listen(&self, wanted: &[listener::Wanted]) -> Vec<String> {
        self.parts.net.apply(wanted).await.into_iter().map(|problem| problem.message).collect()
    }

    /// A backend that cannot be used keeps its last good form, or is left out: its calls fail as unreachable.
    fn backends(&mut self, mut wanted: BTreeMap<String, BackendConfig>) -> Vec<String> {
        let mut problems = Vec::new();
        while let Err(ConfigureError(errors)) = self.parts.backends.configure(wanted.clone()) {
            for (agent, error) in errors {
                problems.push(format!("McpAgent {agent}: spec.backend.mcpHttp: {error}"));
                match self.backends.remove(&agent) {
                    Some(good) => wanted.insert(agent, good),
                    None => wanted.remove(&agent),
                };
            }
        }
        self.backends = wanted;
        problems
    }
}

fn tell(problems: &[Problem]) {
    for problem in problems {
        tracing::error!("{problem}");
    }
}

fn fill(octets: &mut [u8]) -> Result<(), Refused> {
    getrandom::fill(octets).map_err(|error| Refused::failure(format!("the system gives no random octets: {error}")))
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
