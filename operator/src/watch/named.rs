//! Secrets and ConfigMaps that something names: each is got once, and again when its metadata change.
//!
//! Watched are the metadata of all of them, two watches per namespace that keep nothing; a watch for each name would be thousands, and a Secret
//! that nobody names never comes here. One that the operator may not read is tried again: meanwhile it stays as it was read last, and counts as one
//! that is not there where it never was.

use super::{Step, Task, Watch, follow};
use crate::board::State;
use crate::index::{Object, key_of};
use crate::key::{Key, Kind};
use crate::run::Context;
use futures_util::{FutureExt, StreamExt, stream};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, PartialObjectMeta};
use kube::{Client, Error, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

/// Requests at one time.
const AT_ONCE: usize = 8;
/// Objects of one round: between two rounds edges are told what came.
const ROUND: usize = 256;
/// For one request.
const GET_TIME: Duration = Duration::from_secs(8);
/// After a round in which requests failed.
const RETRY: Duration = Duration::from_secs(2);
/// What the operator may not read is tried again after this time.
const FORBIDDEN: Duration = Duration::from_secs(60);

/// What has to be got again, and what is on its way.
#[derive(Clone, Default)]
struct Stale {
    keys: Arc<Mutex<Keys>>,
    wake: Arc<Notify>,
}

#[derive(Default)]
struct Keys {
    /// At most what is named, and of that the index keeps a limit.
    stale: BTreeSet<Key>,
    /// Was asked for and not answered yet. True: it was deleted since, so what the answer shows may be over. At most a round.
    asked: BTreeMap<Key, bool>,
}

impl Stale {
    fn keys(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, keys: impl IntoIterator<Item = Key>) {
        self.keys().stale.extend(keys);
        self.wake.notify_one();
    }

    fn take(&self, most: usize) -> BTreeSet<Key> {
        let stale = &mut self.keys().stale;
        let rest = stale.iter().nth(most).cloned().map(|first| stale.split_off(&first)).unwrap_or_default();
        std::mem::replace(stale, rest)
    }

    /// These are asked for now.
    fn ask(&self, keys: &BTreeSet<Key>) {
        self.keys().asked = keys.iter().map(|key| (key.clone(), false)).collect();
    }

    fn deleted(&self, key: &Key) {
        if let Some(deleted) = self.keys().asked.get_mut(key) {
            *deleted = true;
        }
    }

    /// There is an answer. False: it is older than the end of the object, so it is asked for again.
    fn is_answered(&self, key: &Key) -> bool {
        let deleted = self.keys().asked.remove(key).unwrap_or(false);
        if deleted {
            self.add([key.clone()]);
        }
        !deleted
    }
}

pub(super) fn tasks(context: &Context) -> Vec<Task> {
    let stale = Stale::default();
    vec![
        watch::<Secret>(context, "the watch of Secrets", Kind::Secret, &stale),
        watch::<ConfigMap>(context, "the watch of ConfigMaps", Kind::ConfigMap, &stale),
        ("the reader of Secrets and ConfigMaps", fetch(context.clone(), stale).boxed()),
    ]
}

fn watch<K>(context: &Context, name: &'static str, kind: Kind, stale: &Stale) -> Task
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let watch = Watch::<PartialObjectMeta<K>>::namespaced(kind.as_str(), context);
    let (board, stale) = (context.board.clone(), stale.clone());
    let take = move |namespace: Option<&str>, step: Step<PartialObjectMeta<K>>| {
        match step {
            Step::Nothing | Step::Forbidden => {}
            Step::Apply(object) => {
                let key = Key::new(kind, key_of(object.meta()));
                if board.quietly(|state| state.index.references().is_named(&key)) {
                    stale.add([key]);
                }
            }
            Step::Delete(object) => {
                let key = Key::new(kind, key_of(object.meta()));
                let uid = object.uid();
                // Together: no answer comes in between.
                let deleted = board.quietly(|state| {
                    stale.deleted(&key);
                    state.index.references().is_named(&key).then(|| state.index.delete(&key, uid.as_deref()))
                });
                if deleted.is_some() {
                    board.change(|_| ());
                }
            }
            // Whatever happened in between: everything that is named is looked at again.
            Step::Reset(_) | Step::Again(..) => {
                stale.add(board.quietly(|state| named(state, kind, namespace)));
            }
        }
        false
    };
    (name, follow(context.clone(), watch, take).boxed())
}

/// What is named and was looked for already.
fn named(state: &State, kind: Kind, namespace: Option<&str>) -> Vec<Key> {
    let here = |key: &&Key| namespace.is_none_or(|namespace| key.object.namespace == namespace);
    state.index.references().named(kind).filter(here).cloned().collect()
}

/// Gets what the index asks for, and what became stale, until shutdown.
async fn fetch(context: Context, stale: Stale) {
    let mut revisions = context.board.revisions();
    let mut shutdown = context.shutdown.clone();
    // When what may not be read is tried again.
    let mut forbidden = BTreeMap::<Key, Instant>::new();
    loop {
        let mut keys = stale.take(ROUND);
        let asked: Vec<Key> = context
            .board
            .quietly(|state| state.index.fetches().take(ROUND.saturating_sub(keys.len())).cloned().collect());
        keys.extend(asked);
        let now = Instant::now();
        let due: Vec<Key> = forbidden.iter().filter(|(_, at)| **at <= now).map(|(key, _)| key.clone()).collect();
        for key in due {
            forbidden.remove(&key);
            if context.board.quietly(|state| state.index.references().is_named(&key)) {
                keys.insert(key);
            }
        }
        if keys.is_empty() {
            let next = forbidden.values().min().copied().unwrap_or(now + FORBIDDEN);
            tokio::select! {
                changed = revisions.changed() => if changed.is_err() { return },
                () = stale.wake.notified() => {}
                () = sleep_until(next) => {}
                () = shutdown.requested() => return,
            }
            continue;
        }
        stale.ask(&keys);
        let gets = keys.into_iter().map(|key| {
            let client = context.client.clone();
            async move {
                let got = timeout(GET_TIME, get(client, &key)).await;
                (key, got.unwrap_or_else(|_| Err(Error::Service("no answer in time".into()))))
            }
        });
        let mut gets = stream::iter(gets).buffer_unordered(AT_ONCE);
        let mut failed = None;
        loop {
            let (key, got) = tokio::select! {
                next = gets.next() => match next {
                    Some(next) => next,
                    None => break,
                },
                () = shutdown.requested() => return,
            };
            match got {
                Ok(Some(object)) => {
                    let taken = context
                        .board
                        .change(|state| stale.is_answered(&key).then(|| state.index.apply(object)).transpose());
                    if let Err(full) = taken {
                        context.metrics.refused(key.kind.as_str());
                        tracing::warn!(kind = key.kind.as_str(), "{key} is not taken: {full}");
                    }
                }
                Ok(None) => {
                    context.board.change(|state| state.index.delete(&key, None));
                }
                Err(Error::Api(status)) if status.is_forbidden() => {
                    let held = context.board.change(|state| {
                        let held = state.index.content(&key).is_some();
                        if !held {
                            state.index.delete(&key, None);
                        }
                        held
                    });
                    let goes_on = if held { "what was read of it last stays in use" } else { "it counts as missing" };
                    tracing::warn!("{key} may not be read by the operator: {goes_on}");
                    forbidden.insert(key, Instant::now() + FORBIDDEN);
                }
                Err(error) => {
                    context.metrics.watch_failed(key.kind.as_str());
                    failed = Some((key.clone(), error));
                    stale.add([key]);
                }
            }
        }
        if let Some((key, error)) = failed {
            tracing::warn!(%error, "{key} cannot be read; it is tried again");
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = shutdown.requested() => return,
            }
        }
    }
}

/// `None`: there is no such object.
async fn get(client: Client, key: &Key) -> Result<Option<Object>, Error> {
    let (namespace, name) = (&*key.object.namespace, &*key.object.name);
    if namespace.is_empty() || name.is_empty() {
        return Ok(None);
    }
    match key.kind {
        Kind::Secret => {
            let secret = Api::<Secret>::namespaced(client, namespace).get_opt(name).await?;
            Ok(secret.map(Object::Secret))
        }
        Kind::ConfigMap => {
            let map = Api::<ConfigMap>::namespaced(client, namespace).get_opt(name).await?;
            Ok(map.map(Object::ConfigMap))
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{agent, domain, index, secret};
    use crate::watch::testing::{ApiServer, until};
    use serde_json::{Value, json};

    const SECRETS: &str = "/api/v1/secrets";
    const TOKEN: &str = "/api/v1/namespaces/acme/secrets/token";
    const OTHER: &str = "/api/v1/namespaces/acme/secrets/other";

    fn as_json(name: &str, version: u64) -> Value {
        let Object::Secret(object) = secret(name, version, "token", &format!("of version {version}")) else {
            panic!("a Secret")
        };
        json!(object)
    }

    fn key(name: &str) -> Key {
        Key::of(Kind::Secret, "acme", name)
    }

    /// The version of a Secret that is held, as edges are told of it.
    fn held(context: &Context, name: &str) -> Option<String> {
        context.board.quietly(|state| Some(state.index.content(&key(name))?.version.to_string()))
    }

    fn names(context: &Context, agent_name: &str, secret: &str) {
        context.board.change(|state| state.index.apply(agent(agent_name, 1, "d0", Some(secret)))).unwrap();
    }

    /// A context where Secret `token` is named and held, in the second of two versions, and everything here runs.
    async fn running(api: &ApiServer) -> Context {
        api.list(SECRETS, &[as_json("token", 2)]);
        api.list("/api/v1/configmaps", &[]);
        api.answer(TOKEN, 200, as_json("token", 2));
        let context = api.context(&[]);
        let first = index([domain("d0", 1), agent("a", 1, "d0", Some("token")), secret("token", 1, "token", "first")]);
        context.board.change(|state| state.index = first);
        let before = held(&context, "token");
        assert!(before.is_some());
        for (_, task) in tasks(&context) {
            tokio::spawn(task);
        }
        until("it is got again", || held(&context, "token") != before).await;
        context
    }

    /// Returns when the answers to everything that was asked for before were taken in.
    async fn one_more_is_read(api: &ApiServer, context: &Context) {
        api.answer(OTHER, 200, as_json("other", 1));
        names(context, "b", "other");
        until("another one is read", || held(context, "other").is_some()).await;
    }

    #[tokio::test]
    async fn sec_6_a_secret_that_was_deleted_while_it_was_read_is_not_used() {
        let api = ApiServer::start().await;
        let context = running(&api).await;
        let release = api.hold(TOKEN);
        api.answer(TOKEN, 200, as_json("token", 3));
        api.event(SECRETS, "MODIFIED", &as_json("token", 3));
        until("it is asked for", || api.is_asked(TOKEN)).await;
        api.answer(
            TOKEN,
            404,
            json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}),
        );
        api.event(SECRETS, "DELETED", &as_json("token", 3));
        until("it is let go of", || held(&context, "token").is_none()).await;
        release.send(()).unwrap();
        one_more_is_read(&api, &context).await;
        assert_eq!(held(&context, "token"), None, "the answer is older than the end of it");
    }

    #[tokio::test]
    async fn what_may_not_be_read_any_more_stays_as_it_was_and_what_never_was_counts_as_missing() {
        let api = ApiServer::start().await;
        let context = running(&api).await;
        let before = held(&context, "token");
        let (release, asked) = (api.hold(TOKEN), || api.is_asked(TOKEN));
        api.forbid(TOKEN);
        api.forbid("/api/v1/namespaces/acme/secrets/closed");
        api.event(SECRETS, "MODIFIED", &as_json("token", 3));
        until("it is asked for", asked).await;
        names(&context, "c", "closed");
        release.send(()).unwrap();
        one_more_is_read(&api, &context).await;
        assert_eq!((held(&context, "token"), held(&context, "closed")), (before, None));
        until("nothing is awaited", || context.board.quietly(|state| state.index.is_complete())).await;
    }

    #[test]
    fn a_round_is_bounded_and_the_rest_stays() {
        let stale = Stale::default();
        stale.add((0..5).map(|number| Key::of(Kind::Secret, "acme", format!("s{number}"))));
        assert_eq!(stale.take(3).len(), 3);
        assert_eq!(stale.take(3).len(), 2);
        assert!(stale.take(3).is_empty());
    }

    #[test]
    fn only_what_is_named_is_looked_at_again() {
        let state = State { index: index([domain("d0", 1), agent("a", 1, "d0", Some("token"))]), ..State::default() };
        assert_eq!(named(&state, Kind::Secret, None), [Key::of(Kind::Secret, "acme", "token")]);
        assert!(named(&state, Kind::Secret, Some("elsewhere")).is_empty());
        assert!(named(&state, Kind::ConfigMap, None).is_empty());
    }
}
