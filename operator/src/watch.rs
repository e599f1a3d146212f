//! What the API server says, brought to the board: one loop per kind, which begins again by itself after every interruption.

mod backends;
mod gather;
mod named;
mod ours;
mod read;
mod running;
mod tenants;

use crate::run::Context;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::select_all;
use k8s_openapi::NamespaceResourceScope;
use kube::api::Api;
use kube::runtime::watcher::Config;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Error, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

pub use gather::{Gather, Step};
pub use read::{Broken, Read};

/// A kind of which something was turned away is listed again after this time.
const RELIST: Duration = Duration::from_secs(60);
/// A watch is asked for anew after so many seconds; one whose connection died in silence is noticed 5 s later.
const WATCH_SECONDS: u32 = 60;
/// Between two tries where something ended that never ends.
const PAUSE: Duration = Duration::from_secs(1);

type Task = (&'static str, BoxFuture<'static, ()>);

/// All loops.
pub fn tasks(context: &Context) -> Vec<Task> {
    let tasks = [
        ours::tasks(context),
        named::tasks(context),
        backends::tasks(context),
        running::tasks(context),
        tenants::tasks(context),
    ];
    tasks.into_iter().flatten().collect()
}

/// A kind of object, and where it is looked for.
struct Watch<T> {
    /// Of the kind, for logs and metrics.
    name: &'static str,
    /// With the namespace of each; `None`: all of them, or the kind stands in no namespace.
    sources: Vec<(Option<String>, Api<T>)>,
    config: Config,
    /// Who may not list it goes on as if there were none.
    optional: bool,
}

impl<T: Resource<DynamicType = ()>> Watch<T> {
    /// In the namespaces that are watched.
    fn namespaced(name: &'static str, context: &Context) -> Self
    where
        T: Resource<Scope = NamespaceResourceScope>,
    {
        let client = || context.client.clone();
        let names = context.args.namespaces();
        let sources = if names.is_empty() {
            vec![(None, Api::all(client()))]
        } else {
            names.into_iter().map(|name| (Some(name.clone()), Api::namespaced(client(), &name))).collect()
        };
        Watch { name, sources, config: config(), optional: false }
    }

    fn everywhere(name: &'static str, client: Client) -> Self {
        Watch { name, sources: vec![(None, Api::all(client))], config: config(), optional: false }
    }

    fn labelled(self, labels: &str) -> Self {
        Watch { config: self.config.labels(labels), ..self }
    }

    /// The namespace of a watch, by its number; `None`: it is for all.
    fn namespace(&self, at: usize) -> Option<&str> {
        self.sources.get(at).and_then(|(namespace, _)| namespace.as_deref())
    }
}

/// Runs the watches of one kind until shutdown. `take` gets every step, with the namespace where it speaks for one, and says whether the
/// kind has to be listed again later because something was turned away.
async fn follow<T>(context: Context, watch: Watch<T>, mut take: impl FnMut(Option<&str>, Step<T>) -> bool + Send)
where
    T: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let mut shutdown = context.shutdown.clone();
    let name = watch.name;
    let same = |a: &T, b: &T| (a.namespace(), a.name_any()) == (b.namespace(), b.name_any());
    loop {
        let stream = |(at, (_, api)): (usize, &(Option<String>, Api<T>))| {
            watcher(api.clone(), watch.config.clone()).default_backoff().map(move |event| (at, event)).boxed()
        };
        let mut events = select_all(watch.sources.iter().enumerate().map(stream));
        let mut gather = Gather::new(watch.sources.len(), same);
        let mut failing = vec![false; watch.sources.len()];
        let mut relist = None::<Instant>;
        loop {
            let due = async {
                match relist {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let next = tokio::select! {
                next = events.next() => next,
                () = due => break,
                () = shutdown.requested() => return,
            };
            let Some((at, event)) = next else {
                sleep(PAUSE).await;
                break;
            };
            let event = match event {
                Ok(event) => event,
                Err(error) => {
                    context.metrics.watch_failed(name);
                    if watch.optional && is_forbidden(&error) {
                        take(watch.namespace(at), Step::Forbidden);
                    }
                    if !std::mem::replace(&mut failing[at], true) {
                        tracing::warn!(kind = name, %error, "{}", awaited(&error));
                    }
                    continue;
                }
            };
            if !matches!(event, watcher::Event::Init) && std::mem::take(&mut failing[at]) {
                tracing::info!(kind = name, "the watch goes on");
            }
            let step = gather.take(at, event);
            if matches!(step, Step::Nothing) {
                continue;
            }
            let short = take(watch.namespace(at), step);
            relist = short.then(|| relist.unwrap_or_else(|| Instant::now() + RELIST));
        }
    }
}

fn config() -> Config {
    Config::default().timeout(WATCH_SECONDS)
}

fn status_of(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::InitialListFailed(Error::Api(status))
        | watcher::Error::WatchStartFailed(Error::Api(status))
        | watcher::Error::WatchFailed(Error::Api(status)) => Some(status.code),
        watcher::Error::WatchError(status) => Some(status.code),
        _ => None,
    }
}

fn is_forbidden(error: &watcher::Error) -> bool {
    status_of(error) == Some(403)
}

/// For people: what is awaited.
fn awaited(error: &watcher::Error) -> &'static str {
    match status_of(error) {
        Some(403) => "the ServiceAccount of the operator may not list and watch this kind; waiting for its rights",
        Some(404) => "the API server does not know this kind; waiting for its definition (chart sipmcp-crds)",
        _ => "the watch was interrupted; it is tried again, what is known stays in use",
    }
}
