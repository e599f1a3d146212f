//! The life of the process: start, reload on change, drain on a signal.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crds::manifest::{Loaded, ObjectKey, Problem, Snapshot};
use edge_core::config::Config;
use edge_core::lease::Membership;
use edge_core::state::Shard;
use session_store_file::StoreFile;
use session_store_redis::RedisConfig;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use crate::admin::{self, Admin};
use crate::args::{AdminAddress, Args, EXIT_FAILURE, EXIT_USAGE};
use crate::audit::Audit;
use crate::backend::{BackendConfig, Backends, ConfigureError};
use crate::clock::Clock;
use crate::config_build::keys::{MADE, Made};
use crate::config_build::store::Wanted;
use crate::config_build::{self, Builder, Built};
use crate::control::Event;
use crate::control::report::Reporter;
use crate::counters::Counters;
use crate::dns::Dns;
use crate::drain::{self, Goals};
use crate::driver::ingress::{Control, Shards, queues};
use crate::driver::{self, Parts};
use crate::identity::EdgeId;
use crate::manifests::{NoEdge, POLL, choose_edge, lines};
use crate::mesh::Mesh;
use crate::mesh::tls::MeshCertificates;
use crate::metrics::Metrics;
use crate::net::Net;
use crate::net::listener;
use crate::node::{self, End, NodeHandle, NodeParts};
use crate::source::Source;
use crate::status::Status;
use crate::store::{LAST_RETRY, Opened, Opening, RETRY, Store, StoreState};
use crate::telemetry::{self, Exporter};

/// For a heartbeat of the others to be answered.
const HEARD: Duration = Duration::from_millis(250);
/// So long the start may take before the operator is told what it waits for.
const SLOW: Duration = Duration::from_secs(5);
/// Between two attempts to start, or to listen, with what an operator gave.
const AGAIN: Duration = Duration::from_secs(5);

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
    source: Source,
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
    /// Every listener was open once.
    ready: bool,
    /// A listener could not be opened: it is tried again then.
    listen_again: Option<Instant>,
}

/// A configuration that everything but the cores has.
struct Applied {
    /// For the cores.
    config: Arc<Config>,
    listener_problems: Vec<String>,
    /// All problems, as `/status` shows them.
    told: Vec<String>,
    /// Those that were found after the manifests were read, but of listeners.
    refused: Vec<Problem>,
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
    // An operator that orders a drain ends the process itself, when the drain is over.
    let mut ordered = loop {
        tokio::select! {
            () = signals.next() => break None,
            ended = node::ended(&mut end) => if let End::Duplicate(message) = ended {
                return Err(Refused::failure(format!("--edge-id {}: {message}", process.id)));
            },
            _ = hangup.recv() => {
                if let Err(error) = process.parts.audit.reopen() {
                    tracing::error!(%error, "--audit: the file cannot be opened again; the old one goes on");
                }
                process.reload().await;
            }
            event = process.source.next() => match event {
                Event::Changed => process.reload().await,
                Event::Drain(drain) if drain.cancel => {}
                Event::Drain(drain) => break Some(drain),
            },
            _ = poll.tick() => {
                process.look_at_certificates();
                let is_due = |again: Option<Instant>| again.is_some_and(|at| at <= Instant::now());
                if process.unnumbered || is_due(process.store_again) || is_due(process.listen_again) {
                    process.reload().await;
                }
            }
        }
    };
    match &ordered {
        None => tracing::info!("draining; a second signal ends at once"),
        Some(drain) => tracing::info!(reason = drain.reason, "draining, as the operator wants"),
    }
    let mut goals = process.goals;
    if let Some(drain) = &ordered {
        let most = Duration::from_secs(drain.deadline_s.into());
        goals = Goals { settle: goals.settle.min(most), work: goals.work.min(most.saturating_sub(goals.settle)) };
    }
    let (parts, status, node) = (process.parts.clone(), process.status.clone(), process.node.clone());
    let mut draining = tokio::spawn(async move { drain::drain(&parts, &status, &node, goals, &mut drained).await });
    let mut over = false;
    let code = loop {
        tokio::select! {
            left = &mut draining, if !over => {
                over = true;
                match left {
                    Ok(0) => {}
                    Ok(left) => tracing::warn!(shards = left, "the drain time is over and not everything had ended"),
                    Err(error) => tracing::error!(%error, "the drain did not end as it should"),
                }
                process.status.end();
                tracing::info!("drained");
                if ordered.is_none() {
                    break ExitCode::SUCCESS;
                }
            }
            () = signals.next() => {
                if over {
                    break ExitCode::SUCCESS;
                }
                if ordered.take().is_none() {
                    tracing::warn!("ended before the drain was done");
                    break ExitCode::from(128 + 15);
                }
            }
            // Calls that end in their own time still follow the policies.
            event = process.source.next(), if process.source.is_operator() => match event {
                Event::Changed => process.reload().await,
                Event::Drain(drain) if drain.cancel => {
                    tracing::warn!("the operator takes the drain back, which cannot be done: what ends here comes again elsewhere");
                }
                Event::Drain(_) => {}
            },
        }
    };
    process.source.finish().await;
    if let Some(exporter) = exporter {
        exporter.finish().await;
    }
    Ok(code)
}

/// What is there once the manifests say which edge this is and its store answers.
struct Prepared {
    loaded: Loaded,
    edge: ObjectKey,
    builder: Builder,
    store: Store,
    health: watch::Receiver<StoreState>,
    redis: Option<RedisConfig>,
}

async fn prepare(
    args: &Args,
    loaded: Loaded,
    tenants: BTreeMap<String, u16>,
    status: &Status,
    metrics: Arc<Metrics>,
) -> Result<Prepared, Refused> {
    let Loaded { objects, problems, .. } = &loaded;
    let edge = choose_edge(objects, args.edge.as_deref(), &args.manifests).map_err(|error| match error {
        // An object was refused, perhaps the one: to add another one is no help.
        NoEdge::None(_) if problems.iter().any(|problem| problem.line > 0) => Refused {
            lines: lines(problems).into_iter().chain(["no SipEdge is left; mend what is said above".into()]).collect(),
            code: EXIT_USAGE,
        },
        error => {
            let mut refused = Refused::usage(error);
            refused.lines.splice(0..0, lines(problems));
            refused
        }
    })?;
    if args.operator.is_none() && objects.domains.is_empty() && !problems.is_empty() {
        return Err(Refused { lines: lines(problems), code: EXIT_USAGE });
    }
    let wanted = Wanted::of(objects, &edge).map_err(Refused::failure)?;
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
    builder.check_keys(objects).map_err(Refused::failure)?;

    // From here on /status tells what the start waits for.
    status.wait_for(format!("the store ({})", wanted.name()));
    let redis = match &wanted {
        Wanted::Redis(config) => Some((**config).clone()),
        Wanted::Memory | Wanted::File(_) => None,
    };
    // An operator numbers the domains; a store would give numbers that others have there.
    let numbers = args.operator.is_none();
    let opening = match (wanted, file) {
        (_, Some(file)) => {
            if numbers {
                builder.numbers_of(&file, objects).map_err(Refused::failure)?;
            }
            Opening::File(Box::new(file))
        }
        (Wanted::Redis(config), None) => Opening::Redis(config),
        (Wanted::Memory | Wanted::File(_), None) => Opening::Memory,
    };
    tenants.into_iter().for_each(|(domain, tenant)| builder.numbered(domain, tenant));
    let sealer = builder.sealer(objects).map_err(Refused::failure)?;
    let Opened { store, health } = Store::open(opening, sealer, metrics).await.map_err(Refused::failure)?;
    if numbers {
        number(&store, &mut builder, objects).await;
    }
    builder.secure(&store, objects).await.map_err(Refused::failure)?;
    Ok(Prepared { loaded, edge, builder, store, health, redis })
}

/// Prepares with what the source gives, as often as it takes where somebody mends it from afar.
async fn prepared(
    args: &Args,
    source: &mut Source,
    status: &Status,
    metrics: &Arc<Metrics>,
) -> Result<Prepared, Refused> {
    status.wait_for(source.awaits());
    loop {
        tokio::select! {
            () = source.first() => break,
            () = sleep(Duration::from_secs(1)) => status.wait_for(source.awaits()),
        }
    }
    loop {
        let loaded = source.read();
        let mut preparing = pin!(prepare(args, loaded, source.tenants(), status, metrics.clone()));
        let mut slow = pin!(sleep(SLOW));
        let mut told = false;
        let result = loop {
            tokio::select! {
                result = &mut preparing => break Some(result),
                () = source.changed(), if source.is_operator() => break None,
                () = &mut slow, if source.is_operator() && !told => {
                    told = true;
                    source.waits(&format!("waits for {}", status.waiting().unwrap_or_default()));
                }
            }
        };
        let refused = match result {
            Some(Err(refused)) if source.is_operator() => refused,
            Some(result) => return result,
            None => continue,
        };
        let reason = refused.lines.join("; ");
        tracing::error!("cannot start yet: {reason}");
        source.waits(&reason);
        status.wait_for(format!("a configuration that can be used: {reason}"));
        tokio::select! {
            () = source.changed() => {}
            () = sleep(AGAIN) => {}
        }
    }
}

async fn start(args: &Args, runtime: Handle) -> Result<Started, Refused> {
    let status = Arc::<Status>::default();
    let running = Arc::<OnceLock<Parts>>::default();
    let reporter = Reporter { parts: running.clone(), status: status.clone() };
    let (mut source, id) = Source::of(args, &reporter).map_err(Refused::usage)?;
    let audit = match &args.audit {
        Some(path) => Audit::file(path)
            .map_err(|error| Refused::failure(format!("--audit {}: cannot be written: {error}", path.display())))?,
        None => Audit::stdout(),
    };
    let counters = Arc::<Counters>::default();
    let metrics = Arc::<Metrics>::default();
    let count = args.shard_count();
    let (handles, queues): (Vec<_>, Vec<_>) = (0..count).map(|_| queues()).unzip();
    let shards = Shards::new(handles, counters.clone());
    let clock = Clock::default();

    let certificates = match (&args.mesh_cert, &args.mesh_key, &args.mesh_ca) {
        (Some(certificate), Some(key), Some(authority)) => {
            Some(MeshCertificates::new(&id, certificate, key, authority))
        }
        // The command line wants all of them with --mesh-listen, or an operator, and none without.
        _ => None,
    };
    let tls = certificates.as_ref().map(MeshCertificates::load).transpose().map_err(Refused::failure)?;
    let (door, door_address) = admin::bind(&args.admin).await.map_err(Refused::failure)?;
    let health_door = match args.health {
        Some(address) => Some(admin::bind(&AdminAddress::Tcp(address)).await.map_err(Refused::failure)?),
        None => None,
    };
    let (mesh_listener, mesh_address) = bind_mesh(args).await?;
    tracing::info!("listening http {door_address} (admin)");
    let admin = Admin {
        edge: id.clone(),
        status: status.clone(),
        metrics: metrics.clone(),
        parts: running.clone(),
        local: door_address.is_local(),
    };
    if let Some((door, address)) = health_door {
        tracing::info!("listening http {address} (health)");
        tokio::spawn(admin::serve(door, Admin { local: false, ..admin.clone() }));
    }
    tokio::spawn(admin::serve(door, admin));

    let Prepared { loaded, edge, mut builder, store, health, redis } =
        prepared(args, &mut source, &status, &metrics).await?;
    let Loaded { objects, problems, .. } = loaded;
    let exporter = match &args.otlp_endpoint {
        Some(endpoint) => Some(telemetry::export_to(endpoint, &edge.to_string()).map_err(Refused::usage)?),
        None => None,
    };
    let tls = match source.new_certificate() {
        Some(issued) => Some(issued.map_err(Refused::failure)?),
        None => tls,
    };
    let mesh = Mesh::new(id.clone(), tls, runtime.clone(), shards.clone(), metrics.clone());
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
    // Who is mended from afar does not end for a certificate that is not there yet.
    let strict = !source.is_operator();
    let mut silent = lines(&built.listener_problems);
    if strict && !silent.is_empty() {
        return Err(Refused { lines: silent, code: EXIT_FAILURE });
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
        source,
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
        ready: false,
        listen_again: None,
    };
    let Applied { config, listener_problems, told, refused } = process.apply(&objects, built, &problems).await;
    silent.extend(listener_problems.iter().cloned());
    if strict && !silent.is_empty() {
        return Err(Refused { lines: silent, code: EXIT_FAILURE });
    }
    process.source.applied(&refused, &listener_problems);
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
    process.listened(&silent);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        edge = %edge,
        id = %id,
        store = process.parts.store.kind(),
        epoch = first.owner.epoch,
        shards = count,
        domains = config.domains.len(),
        agents = config.agents.len(),
        "{}",
        if process.ready { "ready" } else { "started, without every listener" }
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
        let Loaded { objects, problems, .. } = self.source.read();
        self.source.tenants().into_iter().for_each(|(domain, tenant)| self.builder.numbered(domain, tenant));
        let other_way = self.reach_store(&objects).await;
        self.unnumbered = match self.source.is_operator() {
            // A store would give numbers that others have there.
            true => false,
            false => self.builder.number(&self.parts.store, &objects).await.is_err_and(|error| {
                tracing::warn!(%error, "the domains have no numbers from the store yet");
                true
            }),
        };
        // It was there at the start, and stays.
        let Some(mut built) = self.builder.build(&objects) else { return };
        let mut silent = lines(&built.listener_problems);
        built.problems.extend(other_way);
        if let Err(problem) = self.builder.secure(&self.parts.store, &objects).await {
            built.problems.push(problem);
        }
        tell(&problems);
        tell(&built.problems);
        let trust = built.trust.clone();
        self.node.lease(built.lease).await;
        let Applied { config, listener_problems, told, refused } = self.apply(&objects, built, &problems).await;
        for problem in &listener_problems {
            tracing::error!("{problem}");
        }
        self.parts.shards.order_all(|| Control::Configure(config.clone())).await;
        self.source.applied(&refused, &listener_problems);
        silent.extend(listener_problems);
        self.listened(&silent);
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

    /// Ready means that every listener was open once. Where an operator gives the configuration, what could not be opened is tried again.
    fn listened(&mut self, problems: &[String]) {
        self.listen_again = None;
        if problems.is_empty() {
            self.ready = true;
            self.status.ready();
        } else if self.source.is_operator() {
            self.listen_again = Some(Instant::now() + AGAIN);
            if !self.ready {
                self.status.wait_for(format!("its listeners: {}", problems.join("; ")));
            }
        }
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
        let changed = match self.source.new_certificate() {
            None => self.mesh.as_mut().and_then(MeshCertificates::changed),
            issued => issued,
        };
        match changed {
            Some(Ok(tls)) => {
                tracing::info!("mesh: new certificates");
                self.parts.mesh.replace_tls(tls);
            }
            Some(Err(error)) => tracing::error!("{error}; the last good ones stay"),
            None => {}
        }
    }

    /// Gives everything but the cores its part of a configuration.
    async fn apply(&mut self, objects: &Snapshot, built: Built, problems: &[Problem]) -> Applied {
        let Built { mut config, listeners, backends, unaudited, settle_seconds, problems: more, .. } = built;
        let mut told = lines(problems);
        told.extend(lines(&more));
        let domains: Arc<[String]> = config.domains.keys().cloned().collect();
        self.parts.net.configure(config.edge.limits.sip_body_bytes, domains);
        let listener_problems = self.listen(&listeners).await;
        config.listeners = self.parts.net.listeners();
        // First: a new backend begins with its route.
        self.parts.backends.route(self.source.routes(objects));
        let backend_problems = self.backends(backends);
        tell(&backend_problems);
        self.parts.metrics.configure(&config);
        self.parts.audit.configure(unaudited);
        let drain = &config.edge.drain;
        self.goals = Goals {
            settle: Duration::from_secs(settle_seconds),
            work: Duration::from_secs(drain.in_flight_seconds + drain.dialog_seconds),
        };
        told.extend(listener_problems.iter().cloned());
        told.extend(lines(&backend_problems));
        let mut refused = more;
        refused.extend(backend_problems);
        Applied { config: Arc::new(config), listener_problems, told, refused }
    }

    async fn listen(&self, wanted: &[listener::Wanted]) -> Vec<String> {
        // What was closed for the drain stays closed.
        if self.status.is_draining() {
            return Vec::new();
        }
        self.parts.net.apply(wanted).await.into_iter().map(|problem| problem.message).collect()
    }

    /// A backend that cannot be used keeps its last good form, or is left out: its calls fail as unreachable.
    fn backends(&mut self, mut wanted: BTreeMap<String, BackendConfig>) -> Vec<Problem> {
        let mut problems = Vec::new();
        while let Err(ConfigureError(errors)) = self.parts.backends.configure(wanted.clone()) {
            for (agent, error) in errors {
                problems.push(Problem {
                    file: format!("McpAgent {agent}").into(),
                    line: 0,
                    field: "spec.backend.mcpHttp".to_owned(),
                    message: error.to_string(),
                });
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
