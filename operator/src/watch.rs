//! What the API server says, brought to the board: one loop per kind, which begins again by itself after every interruption.

mod backends;
mod gather;
mod named;
mod ours;
mod read;
mod running;
mod tenants;
#[cfg(test)]
mod testing;

use crate::run::Context;
use futures_util::future::BoxFuture;
use futures_util::stream::{abortable, select_all};
use futures_util::{FutureExt, StreamExt};
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
/// Who may not list a kind that is optional tries again after this time.
const FORBIDDEN: Duration = Duration::from_secs(30);
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
    /// Who may not list it goes on without, and tries again after this time. Nothing of such a kind is ever turned away.
    optional: Option<Duration>,
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
        Watch { name, sources, config: config(), optional: None }
    }

    fn everywhere(name: &'static str, client: Client) -> Self {
        Watch { name, sources: vec![(None, Api::all(client))], config: config(), optional: None }
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
    let begin = |at: usize, after: Duration| {
        let (api, config) = (watch.sources[at].1.clone(), watch.config.clone());
        let events = async move {
            sleep(after).await;
            watcher(api, config).default_backoff()
        };
        let (events, end) = abortable(events.into_stream().flatten().map(move |event| (at, event)));
        (events.boxed(), end)
    };
    loop {
        let (streams, mut ends): (Vec<_>, Vec<_>) =
            (0..watch.sources.len()).map(|at| begin(at, Duration::ZERO)).unzip();
        let mut events = select_all(streams);
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
            let step = match event {
                Ok(event) => {
                    if !matches!(event, watcher::Event::Init) && std::mem::take(&mut failing[at]) {
                        tracing::info!(kind = name, "the watch goes on");
                    }
                    gather.take(at, event)
                }
                Err(error) => {
                    context.metrics.watch_failed(name);
                    if !std::mem::replace(&mut failing[at], true) {
                        tracing::warn!(kind = name, %error, "{}", awaited(&error));
                    }
                    match watch.optional.filter(|_| is_forbidden(&error)) {
                        Some(pause) => {
                            // From the beginning: what happened meanwhile is in the list that comes first.
                            let (again, end) = begin(at, pause);
                            std::mem::replace(&mut ends[at], end).abort();
                            events.push(again);
                            gather.forbid(at)
                        }
                        None => Step::Nothing,
                    }
                }
            };
            if matches!(step, Step::Nothing) {
                continue;
            }
            let reset = matches!(step, Step::Reset(_));
            let short = take(watch.namespace(at), step);
            for at in gather.forbidden().filter(|_| reset) {
                take(watch.namespace(at), Step::Forbidden);
            }
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

#[cfg(test)]
mod tests {
    use super::testing::{ApiServer, until};
    use super::*;
    use k8s_openapi::api::core::v1::Service;
    use serde_json::json;
    use std::sync::{Arc, Mutex};

    fn path(namespace: &str) -> String {
        format!("/api/v1/namespaces/{namespace}/services")
    }

    fn service(namespace: &str, name: &str) -> serde_json::Value {
        json!({"metadata": {"name": name, "namespace": namespace, "uid": name, "resourceVersion": "1"}, "spec": {}})
    }

    #[tokio::test]
    async fn a_namespace_that_may_not_be_listed_stops_no_other_one_and_is_tried_again() {
        let api = ApiServer::start().await;
        api.list(&path("a"), &[service("a", "one")]);
        api.forbid(&path("b"));
        let context = api.context(&["--watch-namespaces", "a,b"]);
        let optional = Some(Duration::from_millis(20));
        let watch = Watch { optional, ..Watch::<Service>::namespaced("Service", &context) };
        let steps = Arc::<Mutex<Vec<String>>>::default();
        let said = steps.clone();
        let take = move |namespace: Option<&str>, step: Step<Service>| {
            let names = |list: Vec<Service>| list.iter().map(ResourceExt::name_any).collect::<Vec<_>>().join(" ");
            let text = match step {
                Step::Reset(list) => format!("all: {}", names(list)),
                Step::Again(_, list) => format!("{}: {}", namespace.unwrap(), names(list)),
                Step::Forbidden => format!("not {}", namespace.unwrap()),
                Step::Apply(one) => format!("also {}", one.name_any()),
                Step::Delete(_) | Step::Nothing => panic!("nothing of the kind is said"),
            };
            said.lock().unwrap().push(text);
            false
        };
        tokio::spawn(follow(context, watch, take));
        let steps = || steps.lock().unwrap().clone();
        until("the first one is known", || steps().contains(&"all: one".to_owned())).await;
        until("the other one is tried again", || steps().iter().filter(|step| *step == "not b").count() > 3).await;
        let after = steps().into_iter().skip_while(|step| step != "all: one").nth(1);
        assert_eq!(after.as_deref(), Some("not b"), "it has no part in the first list");
        api.event(&path("a"), "ADDED", &service("a", "two"));
        until("the first one goes on", || steps().contains(&"also two".to_owned())).await;
        api.list(&path("b"), &[service("b", "three")]);
        until("the other one is known", || steps().contains(&"b: three".to_owned())).await;
    }
}
