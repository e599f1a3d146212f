//! The Admin API: what people ask the edges. HTTPS, JSON, one `POST` for each question; the questions and answers are in [`crds::admin`].
//!
//! Who asks shows a bearer token, which the API server reviews; then the API server says whether that user may do so
//! (`sipdomains/sessions`, `sipedges/drain`) in the namespace of the object. Whoever may not learns nothing, not even whether there is such an
//! object.
//!
//! Every replica answers for all edges: one that does not hold the Lease passes the question to the one that does ([`Forward`]). Where that one does
//! not answer it says what the edges know that are connected to it, and how many there are elsewhere.

mod access;
mod answers;
mod questions;

use crate::authority::Authority;
use crate::board::Board;
use crate::https::{self, Answers, Asked, Limits, Reply};
use crate::identity::Identity;
use crate::peers::forward::{Forward, PASSED};
use crate::queries::{NotAsked, Queries};
use crds::admin::{
    self as api, ConversationQuestion, DrainQuestion, Drains, Erased, Export, SessionsQuestion, WhyQuestion,
};
use edge_api::control::query::What;
use edge_api::control::{EraseQuery, ExportQuery};
use hyper::{Method, StatusCode};
use kube::Client;
use questions::Domain;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

pub use access::{Access, Action, Cluster, Person, Refused};

/// A question has at most 64 KiB of arguments, which JSON may write longer. Answers have their own time, so there is room for two rounds.
const LIMITS: Limits = Limits { connections: 64, body: 256 << 10, bodies: 4 << 20, patience: Duration::from_secs(45) };
/// Octets of a token.
const MAX_TOKEN: usize = 16 << 10;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Problem {
    status: StatusCode,
    message: String,
}

fn problem(status: StatusCode, message: impl Into<String>) -> Problem {
    Problem { status, message: message.into() }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let status = match refused {
            Refused::Unknown(_) => StatusCode::UNAUTHORIZED,
            Refused::Forbidden(_) => StatusCode::FORBIDDEN,
            Refused::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        problem(status, refused.to_string())
    }
}

impl From<NotAsked> for Problem {
    fn from(error: NotAsked) -> Self {
        let status = match error {
            NotAsked::Busy => StatusCode::TOO_MANY_REQUESTS,
            NotAsked::Many => StatusCode::UNPROCESSABLE_ENTITY,
        };
        problem(status, error.to_string())
    }
}

/// Serves people until `shutdown` is done.
pub async fn run(
    listener: TcpListener,
    board: Arc<Board>,
    queries: Arc<Queries>,
    authority: Arc<Authority>,
    client: Client,
    forward: Forward,
    shutdown: impl Future<Output = ()>,
) {
    let admin = Admin { board, queries, access: Arc::new(Cluster::new(client)), forward: Some(forward) };
    https::serve(listener, authority, LIMITS, Arc::new(admin), shutdown).await;
}

struct Admin {
    board: Arc<Board>,
    queries: Arc<Queries>,
    access: Arc<dyn Access>,
    /// To the holder of the Lease; `None`: this replica is alone.
    forward: Option<Forward>,
}

impl Answers for Admin {
    async fn answer(&self, asked: Asked) -> Reply {
        let reply = match self.route(asked).await {
            Ok(reply) => return reply,
            Err(problem) => problem,
        };
        https::error(reply.status, &reply.message)
    }
}

impl Admin {
    async fn route(&self, mut asked: Asked) -> Result<Reply, Problem> {
        let passed = asked.path.strip_prefix(PASSED).map(str::to_owned);
        let forward = self.forward.as_ref().filter(|forward| passed.is_none() && !forward.is_here());
        asked.path = passed.unwrap_or(asked.path);
        const PATHS: [&str; 5] = [api::SESSIONS, api::WHY, api::DRAIN, api::EXPORT, api::ERASE];
        if !PATHS.contains(&asked.path.as_str()) {
            return Err(problem(StatusCode::NOT_FOUND, PATHS.join(" ")));
        }
        if asked.method != Method::POST {
            return Err(problem(StatusCode::METHOD_NOT_ALLOWED, "POST only"));
        }
        if let Some(forward) = forward.filter(|_| asked.token.is_some()) {
            match forward.pass(&asked).await {
                Ok(reply) => return Ok(reply),
                Err(why) => tracing::warn!(
                    path = asked.path,
                    "the question could not be passed to the holder of the Lease: {why}"
                ),
            }
        }
        let person = self.person(&asked).await?;
        match asked.path.as_str() {
            api::SESSIONS => reply(&self.sessions(&person, &read(&asked.body)?).await?),
            api::WHY => reply(&self.why(&person, read(&asked.body)?).await?),
            api::DRAIN => reply(&self.drain(&person, &read(&asked.body)?).await?),
            api::EXPORT => reply(&self.export(&person, &read(&asked.body)?).await?),
            _ => reply(&self.erase(&person, &read(&asked.body)?).await?),
        }
    }

    async fn person(&self, asked: &Asked) -> Result<Person, Problem> {
        let token = asked.token.as_ref().filter(|token| token.len() <= MAX_TOKEN);
        let token = token.ok_or_else(|| problem(StatusCode::UNAUTHORIZED, "a bearer token is needed"))?;
        Ok(self.access.who(token).await?)
    }

    /// Whether the person may do that. Every answer stands in the log.
    async fn may(&self, person: &Person, action: &Action) -> Result<(), Problem> {
        let result = self.access.may(person, action).await;
        let user = person.name();
        match &result {
            Ok(()) => tracing::info!(user, "allowed: {action}"),
            Err(why) => tracing::warn!(user, "not allowed: {action}: {why}"),
        }
        Ok(result?)
    }

    async fn sessions(&self, person: &Person, question: &SessionsQuestion) -> Result<api::Sessions, Problem> {
        self.may(person, &questions::may_list(question)).await?;
        let Domain { name, holders, elsewhere } = self.domain(&question.domain)?;
        let asked = questions::sessions(question, &name, &holders)?;
        let answers = self.queries.ask(asked).await?;
        Ok(answers::sessions(answers, question, elsewhere))
    }

    async fn why(&self, person: &Person, question: WhyQuestion) -> Result<api::Why, Problem> {
        let known = self.board.quietly(|state| questions::agent(state, &question));
        let domain = known.as_ref().map_or("", |agent| &agent.domain);
        self.may(person, &questions::may_explain(&question, domain)).await?;
        let missing = || {
            problem(StatusCode::NOT_FOUND, format!("McpAgent {}/{} is not there", question.namespace, question.agent))
        };
        let agent = known.ok_or_else(missing)?;
        let what = questions::why(&question)?;
        let asked = agent.holders.into_iter().map(|edge| (edge, What::Why(what.clone()))).collect();
        Ok(answers::why(self.queries.ask(asked).await?, agent.elsewhere))
    }

    async fn drain(&self, person: &Person, question: &DrainQuestion) -> Result<Drains, Problem> {
        self.may(person, &questions::may_drain(question)).await?;
        // An order of another replica would be gone with the next word of the holder.
        if self.forward.as_ref().is_some_and(|forward| !forward.is_here()) {
            return Err(problem(StatusCode::SERVICE_UNAVAILABLE, "no replica that holds the Lease answers; try again"));
        }
        self.board.change(|state| questions::drain(state, question, person.name()))
    }

    async fn export(&self, person: &Person, question: &ConversationQuestion) -> Result<Export, Problem> {
        self.may(person, &questions::may_touch(question, "get")).await?;
        let Domain { name, holders, elsewhere } = self.domain(&question.domain)?;
        let what = ExportQuery { domain: name, conversation: questions::conversation(question)? };
        // Edges with one store have one document; the next is asked where the first one does not answer.
        let mut waiting = crate::queries::by_fleet(&holders);
        let mut export = Export::default();
        for _ in 0..2 {
            let next = waiting.values_mut().filter_map(|edges| (!edges.is_empty()).then(|| edges.remove(0)));
            let asked: BTreeMap<Identity, What> = next.map(|edge| (edge, What::Export(what.clone()))).collect();
            if asked.is_empty() {
                break;
            }
            answers::export(self.queries.ask(asked).await?, &mut export);
            waiting.retain(|fleet, _| !export.documents.contains_key(&fleet.to_string()));
        }
        export.edges.elsewhere = elsewhere;
        Ok(export)
    }

    async fn erase(&self, person: &Person, question: &ConversationQuestion) -> Result<Erased, Problem> {
        self.may(person, &questions::may_touch(question, "delete")).await?;
        let Domain { name, holders, elsewhere } = self.domain(&question.domain)?;
        let what = EraseQuery { domain: name, conversation: questions::conversation(question)? };
        // Its sessions may be anywhere.
        let asked = holders.into_iter().map(|edge| (edge, What::Erase(what.clone()))).collect();
        Ok(answers::erase(self.queries.ask(asked).await?, elsewhere))
    }

    fn domain(&self, name: &str) -> Result<Domain, Problem> {
        let found = self.board.quietly(|state| questions::domain(state, name));
        found.ok_or_else(|| problem(StatusCode::NOT_FOUND, format!("SipDomain {name:?} is not there")))
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| problem(StatusCode::BAD_REQUEST, error.to_string()))
}

fn reply<T: Serialize>(value: &T) -> Result<Reply, Problem> {
    Ok(https::json(StatusCode::OK, value))
}

#[cfg(test)]
mod tests;
