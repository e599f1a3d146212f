//! An operator's port for edges on loopback, with objects that a watch would deliver, and edges that are the real client.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use crds::manifest::{Loaded, ObjectKey};
use edge::control::cache::Cache;
use edge::control::report::Reporter;
use edge::control::{Event, Operator as Client, Settings};
use edge::status::Status;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use operator::authority::{Authority, unix_now};
use operator::board::Board;
use operator::index::Object;
use operator::key::{Key, Kind};
use operator::peers::mirror::Mirror;
use operator::peers::reach::{Address, Reach};
use operator::plan::running::Thing;
use operator::plan::workload::selector;
use operator::serve::enrol::{Bearer, Pod, Refused, Tokens};
use operator::serve::{Clock, run_with};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Long enough for a busy machine; nothing here proves a time.
pub const PATIENCE: Duration = Duration::from_secs(30);
pub const NAME: &str = "sipmcp-operator.system.svc";
pub const GOOD: &str = "a good token";

/// Tokens and pods that the API server would know.
#[derive(Default)]
pub struct Known {
    pub tokens: Mutex<BTreeMap<String, Result<Bearer, Refused>>>,
    pub pods: Mutex<BTreeMap<String, Pod>>,
}

#[tonic::async_trait]
impl Tokens for Known {
    async fn review(&self, token: &str) -> Result<Bearer, Refused> {
        let known = self.tokens.lock().unwrap().get(token).cloned();
        known.unwrap_or_else(|| Err(Refused::Token("the token is not good, or it has expired".into())))
    }

    async fn pod(&self, namespace: &str, name: &str) -> Result<Option<Pod>, Refused> {
        Ok(self.pods.lock().unwrap().get(&format!("{namespace}/{name}")).cloned())
    }
}

pub fn bearer(pod: &str) -> Bearer {
    Bearer { namespace: "system".into(), account: "e".into(), pod: pod.into(), uid: format!("uid-{pod}") }
}

/// Where the replicas of an operator are, by what would stand in the Lease.
#[derive(Default)]
pub struct Places {
    known: Mutex<BTreeMap<String, SocketAddr>>,
}

#[tonic::async_trait]
impl Reach for Places {
    async fn address(&self, holder: &str) -> Result<Address, String> {
        let edges = self.known.lock().unwrap().get(holder).copied();
        edges.map(|edges| Address { edges, admin: edges }).ok_or_else(|| format!("{holder} is not there"))
    }
}

/// One replica of an operator. It holds the Lease where nothing else is said.
pub struct Replica {
    pub name: String,
    pub address: SocketAddr,
    /// Whether it holds the Lease.
    pub held: watch::Sender<bool>,
    /// Another one that does.
    pub other: watch::Sender<Option<String>>,
    pub board: Arc<Board>,
    pub known: Arc<Known>,
    /// Milliseconds that its clock is ahead.
    pub ahead: Arc<AtomicU64>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
    mirror: JoinHandle<()>,
}

impl Replica {
    pub async fn start(authority: &Arc<Authority>) -> Replica {
        Replica::start_at(authority, "127.0.0.1:0".parse().unwrap()).await
    }

    pub async fn start_at(authority: &Arc<Authority>, address: SocketAddr) -> Replica {
        Replica::start_among(authority, "op", address, &Arc::default()).await
    }

    /// One of several.
    pub async fn start_among(
        authority: &Arc<Authority>,
        name: &str,
        address: SocketAddr,
        places: &Arc<Places>,
    ) -> Replica {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (board, known, ahead) = (Arc::<Board>::default(), Arc::<Known>::default(), Arc::new(AtomicU64::new(0)));
        for pod in ["e-0", "e-1"] {
            known.tokens.lock().unwrap().insert(format!("{GOOD} of {pod}"), Ok(bearer(pod)));
            let labels = selector(&edge_key());
            let pod_there = Pod { uid: format!("uid-{pod}"), account: "e".into(), labels };
            known.pods.lock().unwrap().insert(format!("system/{pod}"), pod_there);
        }
        let real = Clock::default();
        let (mono, more) = (real.mono_ms.clone(), ahead.clone());
        let clock = Clock {
            mono_ms: Arc::new(move || mono() + more.load(Ordering::SeqCst)),
            tick: Duration::from_millis(50),
            grace: Duration::from_millis(300),
            ..real
        };
        places.known.lock().unwrap().insert(name.to_owned(), address);
        let (held, holds) = watch::channel(true);
        let (other, holder) = watch::channel(None);
        let mirror = Mirror {
            board: board.clone(),
            authority: authority.clone(),
            replica: format!("system/{name}"),
            reach: places.clone(),
            clock: clock.clone(),
        };
        let mirror = tokio::spawn(mirror.run(holder, std::future::pending()));
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = (board.clone(), authority.clone(), known.clone());
        let task = tokio::spawn(async move {
            let (board, authority, known) = serving;
            let ends = async {
                let _ = stopped.await;
            };
            run_with(listener, board, authority, known, holds, clock, ends).await.unwrap();
        });
        let (name, stop) = (name.to_owned(), Some(stop));
        Replica { name, address, held, other, board, known, ahead, stop, task, mirror }
    }

    /// `holder` has the Lease now, and this replica knows it.
    pub fn follows(&self, holder: &Replica) {
        let here = self.name == holder.name;
        self.held.send_replace(here);
        self.other.send_replace((!here).then(|| holder.name.clone()));
    }

    /// The API server has these objects, and no others.
    pub fn reset(&self, objects: Vec<Object>) {
        self.board.change(|state| {
            for kind in Kind::ALL {
                let of_kind = objects.iter().filter(|object| object.key().kind == kind).cloned().collect();
                state.index.reset(kind, of_kind).unwrap();
            }
            state.index.number("d.example", 7);
            state.index.numbers_are_known();
            let fetches: Vec<Key> = state.index.fetches().cloned().collect();
            for key in fetches {
                match objects.iter().find(|object| object.key() == key) {
                    Some(object) => {
                        state.index.apply(object.clone()).unwrap();
                    }
                    None => {
                        state.index.delete(&key, None);
                    }
                }
            }
        });
    }

    pub fn apply(&self, object: Object) {
        self.board.change(|state| state.index.apply(object).unwrap());
    }

    /// The ingress Service of the SipEdge has this address.
    pub fn service(&self, address: &str) {
        let labels = operator::plan::workload::selector(&edge_key());
        let service = json!({
            "metadata": {"name": edge_key().name, "namespace": edge_key().namespace, "uid": "service", "resourceVersion": "1", "labels": labels},
            "spec": {"clusterIP": address},
        });
        let service = Thing::Service(serde_json::from_value(service).unwrap());
        self.board.change(|state| state.running.apply(&service));
    }

    /// Waits until what everybody sees is as wanted.
    pub async fn until<R>(&self, what: &str, mut seen: impl FnMut(&mut operator::board::State) -> Option<R>) -> R {
        let waiting = async {
            loop {
                if let Some(value) = self.board.quietly(&mut seen) {
                    return value;
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("never: {what}"))
    }

    pub async fn stop(mut self) {
        self.mirror.abort();
        if let Some(stop) = self.stop.take() {
            // Whoever waited for it may have ended before.
            let _ = stop.send(());
        }
        timeout(PATIENCE, &mut self.task).await.unwrap().unwrap();
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.task.abort();
        self.mirror.abort();
    }
}

pub fn authority() -> Arc<Authority> {
    let (certificate, key) = Authority::make(unix_now()).unwrap();
    Arc::new(Authority::read(&certificate, &key, vec![NAME.to_owned()]).unwrap())
}

/// The files of a pod.
pub struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    pub fn new(authority: &Authority, token: &str) -> Files {
        let files = Files { folder: tempfile::tempdir().unwrap() };
        std::fs::write(files.path("ca.crt"), authority.pem()).unwrap();
        std::fs::write(files.path("token"), token).unwrap();
        std::fs::create_dir(files.path("keys")).unwrap();
        files.write_key(7);
        files
    }

    pub fn write_key(&self, octet: u8) {
        std::fs::write(self.path("keys").join("0"), [octet; 64]).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn cache(&self) -> Cache {
        Cache { file: self.path("configuration"), keys: self.path("keys"), edge: edge_key() }
    }

    pub fn settings(&self, operator: SocketAddr, pod: &str) -> Settings {
        Settings {
            operator: operator.to_string(),
            name: NAME.to_owned(),
            authority: self.path("ca.crt"),
            token: self.path("token"),
            cache: None,
            edge: edge_key(),
            pod: pod.to_owned(),
            report_every: Duration::from_millis(100),
            cold_start: Duration::from_millis(300),
        }
    }
}

/// An edge's client. What it reads counts as applied.
pub struct Edge {
    pub client: Client,
    pub status: Arc<Status>,
}

impl Edge {
    pub fn start(settings: Settings) -> Edge {
        let status = Arc::<Status>::default();
        let reporter = Reporter { parts: Arc::new(OnceLock::new()), status: status.clone() };
        Edge { client: Client::start(settings, reporter), status }
    }

    /// Reads, applies, and waits for more, until what was read is as wanted.
    pub async fn until(&mut self, what: &str, wanted: impl Fn(&Loaded) -> bool) -> Loaded {
        let waiting = async {
            self.client.first().await;
            loop {
                let loaded = self.client.read();
                self.client.applied(&[], &[]);
                if wanted(&loaded) {
                    return loaded;
                }
                self.client.changed().await;
            }
        };
        timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("never: {what}"))
    }

    pub async fn next(&mut self) -> Event {
        timeout(PATIENCE, self.client.next()).await.expect("something comes")
    }
}

pub fn edge_key() -> ObjectKey {
    ObjectKey::new("system", "e")
}

fn parse<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn meta(namespace: &str, name: &str, generation: u64) -> Value {
    let mut meta = json!({
        "name": name, "uid": format!("uid-{name}"), "generation": generation, "resourceVersion": generation.to_string(),
        "creationTimestamp": "2026-11-20T12:00:00Z",
    });
    if !namespace.is_empty() {
        meta["namespace"] = namespace.into();
    }
    meta
}

fn custom(kind: &str, namespace: &str, name: &str, generation: u64, spec: Value) -> Value {
    json!({"apiVersion": "sipmcp.dev/v1alpha1", "kind": kind, "metadata": meta(namespace, name, generation), "spec": spec})
}

/// As a file would have them.
pub fn edge_json(generation: u64) -> Value {
    let listeners = json!([{"name": "tcp", "protocol": "TCP", "port": 5060}]);
    let spec = json!({"network": {"advertise": {"name": "sip.example"}}, "listeners": listeners, "insecure": true});
    custom("SipEdge", "system", "e", generation, spec)
}

pub fn domain_json() -> Value {
    custom("SipDomain", "", "d", 1, json!({"domain": "d.example"}))
}

pub fn agent_json(name: &str, generation: u64) -> Value {
    let http = json!({"url": format!("http://{name}.acme.svc:8080/mcp"), "credentialRef": {"name": "token"}});
    let spec = json!({
        "address": {"user": name, "domainRef": {"name": "d"}}, "backend": {"mcpHttp": http},
        "capabilities": {"source": "Discovered"}, "inFlight": {"timeoutSeconds": generation},
    });
    custom("McpAgent", "acme", name, generation, spec)
}

pub fn policy_json(name: &str, agent: &str) -> Value {
    let spec = json!({
        "targetRefs": [{"group": "sipmcp.dev", "kind": "McpAgent", "name": agent}],
        "rules": [{"name": "all", "from": [{"anonymous": {}}], "action": "Allow"}],
    });
    custom("McpCapabilityPolicy", "acme", name, 1, spec)
}

pub fn secret_json() -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "token", "namespace": "acme"}, "stringData": {"token": "s3cret"}})
}

pub fn edge(generation: u64) -> Object {
    Object::Edge(parse(edge_json(generation)))
}

pub fn agent(name: &str, generation: u64) -> Object {
    Object::Agent(parse(agent_json(name, generation)))
}

/// The edge, its domain, its keys, a token for backends, and these agents with a policy each.
pub fn objects(agents: &[(&str, u64)]) -> Vec<Object> {
    let secret = |namespace: &str, name: &str, key: &str, value: &[u8]| {
        let metadata: ObjectMeta = parse(meta(namespace, name, 1));
        let data = [(key.to_owned(), ByteString(value.to_vec()))].into();
        Object::Secret(core::Secret { metadata, data: Some(data), ..core::Secret::default() })
    };
    let mut objects = vec![
        edge(1),
        Object::Domain(parse(domain_json())),
        secret("acme", "token", "token", b"s3cret"),
        secret("system", "e-keys", "0", &[9; 64]),
    ];
    for (name, generation) in agents {
        objects.push(agent(name, *generation));
        objects.push(Object::Policy(parse(policy_json(&format!("p-{name}"), name))));
    }
    objects
}

pub fn changed_in(path: &Path, at: usize) {
    let mut octets = std::fs::read(path).unwrap();
    octets[at] ^= 1;
    std::fs::write(path, octets).unwrap();
}
