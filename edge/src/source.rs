//! Where the configuration comes from: files, or an operator. Both give the same [`Loaded`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use crds::manifest::{Loaded, ObjectKey, Problem, Snapshot};
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::args::Args;
use crate::control::cache::Cache;
use crate::control::endpoints::routes;
use crate::control::report::Reporter;
use crate::control::{COLD_START, Event, Operator, Settings};
use crate::identity::EdgeId;
use crate::manifests::{Manifests, POLL};
use crate::mesh::tls::MeshTls;

/// Between two reports, as the contract has it at least.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub enum Source {
    Files { manifests: Box<Manifests>, poll: Interval },
    Operator(Box<Operator>),
}

impl Source {
    /// The one that the arguments name, and the id of this edge. The command line gives one of both.
    ///
    /// # Errors
    /// One sentence: an argument that cannot be used.
    pub fn of(args: &Args, reporter: &Reporter) -> Result<(Self, EdgeId), String> {
        let (Some(operator), Some(name), Some(authority), Some(token)) =
            (&args.operator, &args.operator_name, &args.operator_ca, &args.token)
        else {
            let mut poll = interval(POLL);
            poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let id = match &args.edge_id {
                Some(id) => id.clone(),
                None => {
                    EdgeId::of_host().map_err(|error| format!("--edge-id is needed, the host name is none: {error}"))?
                }
            };
            return Ok((Source::Files { manifests: Box::new(Manifests::new(args.manifests.clone())), poll }, id));
        };
        let edge = args.edge.as_deref().and_then(|edge| edge.split_once('/'));
        let edge = edge.filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty());
        let (namespace, edge) = edge.ok_or("--edge is needed with --operator, as namespace/name")?;
        let edge = ObjectKey::new(namespace, edge);
        let pod = match &args.pod_name {
            Some(pod) => pod.clone(),
            None => EdgeId::of_host()
                .map_err(|error| format!("--pod-name is needed, the host name is none: {error}"))?
                .to_string(),
        };
        // Pods of two namespaces may have one name, and the mesh of both trusts one authority.
        let id = EdgeId::new(&format!("{pod}.{namespace}")).map_err(|error| format!("--pod-name {pod}: {error}"))?;
        let cache = args.config_cache.clone().zip(args.config_cache_keys.clone());
        let settings = Settings {
            operator: operator.clone(),
            name: name.clone(),
            authority: authority.clone(),
            token: token.clone(),
            cache: cache.map(|(file, keys)| Cache { file, keys, edge: edge.clone() }),
            edge,
            pod,
            report_every: REPORT_EVERY,
            cold_start: COLD_START,
        };
        let operator = Operator::start(settings, reporter.clone());
        reporter.status.controlled(operator.watch());
        Ok((Source::Operator(Box::new(operator)), id))
    }

    /// True where somebody mends from afar what is wrong: the process waits, and does not end.
    #[must_use]
    pub fn is_operator(&self) -> bool {
        matches!(self, Source::Operator(_))
    }

    /// What is waited for before there is a configuration.
    #[must_use]
    pub fn awaits(&self) -> String {
        match self {
            Source::Files { .. } => "the manifests".to_owned(),
            Source::Operator(operator) => operator.awaits(),
        }
    }

    /// Waits until there is a configuration.
    pub async fn first(&mut self) {
        if let Source::Operator(operator) = self {
            operator.first().await;
        }
    }

    /// Everything, as it is now.
    pub fn read(&mut self) -> Loaded {
        match self {
            Source::Files { manifests, .. } => manifests.read(),
            Source::Operator(operator) => operator.read(),
        }
    }

    /// Waits until [`Source::read`] is due. May be dropped and asked again.
    pub async fn changed(&mut self) {
        match self {
            Source::Files { manifests, poll, .. } => loop {
                poll.tick().await;
                if manifests.look() {
                    return;
                }
            },
            Source::Operator(operator) => operator.changed().await,
        }
    }

    /// Numbers of tenants that are given with the configuration, by domain.
    #[must_use]
    pub fn tenants(&self) -> BTreeMap<String, u16> {
        match self {
            Source::Files { .. } => BTreeMap::new(),
            Source::Operator(operator) => operator.tenants(),
        }
    }

    /// Where connections to the backends of agents go, by agent; the others are looked up by their names.
    #[must_use]
    pub fn routes(&self, objects: &Snapshot) -> BTreeMap<String, Vec<SocketAddr>> {
        match self {
            Source::Files { .. } => BTreeMap::new(),
            Source::Operator(operator) => routes(objects, &operator.endpoints()),
        }
    }

    /// What was read last is in use but for these problems, and what the listeners say.
    pub fn applied(&mut self, problems: &[Problem], listeners: &[String]) {
        if let Source::Operator(operator) = self {
            operator.applied(problems, listeners);
        }
    }

    /// What was read last is not in use yet.
    pub fn waits(&mut self, reason: &str) {
        if let Source::Operator(operator) = self {
            operator.waits(reason);
        }
    }

    /// The process ends.
    pub async fn finish(&self) {
        if let Source::Operator(operator) = self {
            operator.finish().await;
        }
    }

    /// The certificate of this edge in the mesh, where a new one came with the control stream.
    pub fn new_certificate(&mut self) -> Option<Result<MeshTls, String>> {
        match self {
            Source::Files { .. } => None,
            Source::Operator(operator) => operator.new_certificate(),
        }
    }

    /// Waits for what comes next. May be dropped and asked again.
    pub async fn next(&mut self) -> Event {
        match self {
            Source::Files { .. } => {
                self.changed().await;
                Event::Changed
            }
            Source::Operator(operator) => operator.next().await,
        }
    }
}
