//! The clients of the agents' backends: MCP servers over Streamable HTTP, in both eras.
//!
//! Bodies are raw both ways. A call brings [`BackendEvent`]s: `Head` when the answer begins, `Message`s, and at the end
//! exactly one of `Done` and `Failed`. A failure says whether the request may have been executed: `Unreachable` and
//! `Overloaded` mean that it was surely not.
//!
//! This is the "configured" one of the two kinds of HTTP client: its addresses come from configuration only, private ones
//! included; it follows no redirect and uses no proxy. No URL that a peer sent may ever come here.

mod answer;
mod client;
mod config;
mod connect;
mod endpoint;
mod places;
mod pool;
mod request;
mod sse;
mod tls;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use edge_core::effect::BackendCall;
use edge_core::input::{BackendEvent, BackendFailure, BackendId};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

pub use client::Backend;
pub use config::{BackendConfig, BackendConfigError, Bearer, Limits};
pub use endpoint::EndpointError;
pub use places::Stats;

/// All backends of the process, by agent, and the calls under way. Cheap to clone; every shard has one.
#[derive(Clone)]
pub struct Backends(Arc<Shared>);

struct Shared {
    runtime: Handle,
    agents: ArcSwap<BTreeMap<String, Arc<Backend>>>,
    /// Where connections go, by agent.
    routes: ArcSwap<BTreeMap<String, Vec<SocketAddr>>>,
    /// Bounded by the limits of the backends: a call over them ends at once.
    calls: Mutex<HashMap<BackendId, AbortHandle>>,
}

/// The backends that cannot be used, with the reason. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} of the backends cannot be used", .0.len())]
pub struct ConfigureError(pub BTreeMap<String, BackendConfigError>);

impl Backends {
    /// Calls run on `runtime`, not on the thread of the shard that starts them.
    pub fn new(runtime: Handle) -> Self {
        let shared =
            Shared { runtime, agents: ArcSwap::default(), routes: ArcSwap::default(), calls: Mutex::default() };
        Self(Arc::new(shared))
    }

    /// Takes the backends of a new configuration, by agent key (`BackendCall::agent`). A backend whose configuration is
    /// as before keeps its connections; calls under way go on at the backend where they began.
    ///
    /// # Errors
    /// Every backend that cannot be used; then all stay as they were.
    pub fn configure(&self, configs: BTreeMap<String, BackendConfig>) -> Result<(), ConfigureError> {
        let old = self.0.agents.load_full();
        let mut agents = BTreeMap::new();
        let mut errors = BTreeMap::new();
        for (agent, config) in configs {
            if let Some(same) = old.get(&agent).filter(|backend| *backend.config() == config) {
                agents.insert(agent, same.clone());
                continue;
            }
            match Backend::new(agent.clone(), config) {
                Ok(backend) => {
                    backend.route(self.0.routes.load().get(&agent).cloned());
                    agents.insert(agent, Arc::new(backend));
                }
                Err(error) => drop(errors.insert(agent, error)),
            }
        }
        if !errors.is_empty() {
            return Err(ConfigureError(errors));
        }
        self.0.agents.store(Arc::new(agents));
        Ok(())
    }

    /// Where connections to the backends go, by agent key; those of agents that are not here go where the name of the URL leads. A backend
    /// that is configured later begins with it. Connections to other addresses are used no more, calls under way on them go on.
    pub fn route(&self, routes: BTreeMap<String, Vec<SocketAddr>>) {
        for (agent, backend) in &**self.0.agents.load() {
            backend.route(routes.get(agent).cloned());
        }
        self.0.routes.store(Arc::new(routes));
    }

    /// Begins a call; never waits. Its events go to `events`, whose bound slows the backend down when it is full.
    pub fn start(&self, id: BackendId, call: BackendCall, events: mpsc::Sender<(BackendId, BackendEvent)>) {
        let backend = self.0.agents.load().get(&call.agent).cloned();
        let shared = self.0.clone();
        // The task removes itself at its end; it cannot get there before it is in the map, whose lock is held here.
        let mut calls = self.0.calls();
        let task = self.0.runtime.spawn(async move {
            let _entry = Entry { shared, id };
            match backend {
                Some(backend) => backend.run(id, call, events).await,
                None => {
                    tracing::warn!(agent = %call.agent, "a call to an agent without a backend");
                    // A closed queue means that nobody wants to know.
                    let _ = events.send((id, BackendEvent::Failed(BackendFailure::Unreachable))).await;
                }
            }
        });
        calls.insert(id, task.abort_handle());
    }

    /// Drops a call and closes its connection, which in the modern era cancels the request. Events that are in the queue
    /// already still come; a call that has ended, or never was, is not missed.
    pub fn cancel(&self, id: BackendId) {
        let task = self.0.calls().remove(&id);
        if let Some(task) = task {
            task.abort();
        }
    }

    /// Calls under way, over all backends.
    pub fn in_flight(&self) -> usize {
        self.0.calls().len()
    }

    /// The backend of an agent; another one after a change of its configuration.
    pub(crate) fn of(&self, agent: &str) -> Option<Arc<Backend>> {
        self.0.agents.load().get(agent).cloned()
    }

    /// What is under way at each backend, by agent.
    pub fn stats(&self) -> BTreeMap<String, Stats> {
        self.0.agents.load().iter().map(|(agent, backend)| (agent.clone(), backend.stats())).collect()
    }
}

/// The place of a call in the map, left however its task ends.
struct Entry {
    shared: Arc<Shared>,
    id: BackendId,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.shared.calls().remove(&self.id);
    }
}

impl Shared {
    fn calls(&self) -> MutexGuard<'_, HashMap<BackendId, AbortHandle>> {
        // Insert and remove leave the map whole; a panic elsewhere cannot have broken it.
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
