//! Questions of people to edges: each goes to all edges that may know, and the answers are collected.
//!
//! Each stream has a short queue of questions and a time for each ([`crate::serve::streams`]). An edge at another replica is asked through that one
//! ([`crate::serve::mirrors`]). Here is what bounds them together: questions at
//! one time, edges of one question.

use crate::board::{Board, State};
use crate::identity::Identity;
use crate::key::Key;
use crate::plan::fleet::{Attachment, whereabouts};
use crate::serve::streams::AskError;
use crds::manifest::ObjectKey;
use edge_api::control::Answer;
use edge_api::control::query::What;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Questions at one time; who comes later is turned away.
pub const AT_ONCE: usize = 16;
/// Edges that one question goes to.
pub const MAX_EDGES: usize = 256;

/// What came back, by edge.
pub type Answers = BTreeMap<Identity, Result<Vec<Answer>, AskError>>;

/// Why nobody was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAsked {
    #[error("{AT_ONCE} questions are being answered already; try again")]
    Busy,
    #[error("more than {MAX_EDGES} edges; ask for less")]
    Many,
}

/// Who brings a question to an edge.
#[tonic::async_trait]
pub trait Asks: Send + Sync + 'static {
    /// The parts of its answer, in their order. Ends by itself in a bounded time.
    async fn ask(&self, edge: &Identity, what: What) -> Result<Vec<Answer>, AskError>;
}

#[tonic::async_trait]
impl Asks for Board {
    async fn ask(&self, edge: &Identity, what: What) -> Result<Vec<Answer>, AskError> {
        match self.quietly(|state| whereabouts(&state.fleets, edge)) {
            None => Err(AskError::NotHere),
            Some(Attachment::Here { .. }) => self.streams().ask(edge, what).await,
            Some(Attachment::There { replica, .. }) => self.mirrors().ask(&replica, edge, what).await,
        }
    }
}

/// See the module.
pub struct Queries {
    edges: Arc<dyn Asks>,
    places: Semaphore,
}

impl fmt::Debug for Queries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Queries")
    }
}

impl Queries {
    /// To the edges that are connected to this replica, and through the others to theirs where they tell of them.
    #[must_use]
    pub fn new(board: Arc<Board>) -> Self {
        Queries::to(board)
    }

    /// To others, for tests.
    #[must_use]
    pub fn to(edges: Arc<dyn Asks>) -> Self {
        Queries { edges, places: Semaphore::new(AT_ONCE) }
    }

    /// Asks all of these edges at once.
    ///
    /// # Errors
    /// It is too much.
    pub async fn ask(&self, questions: BTreeMap<Identity, What>) -> Result<Answers, NotAsked> {
        if questions.len() > MAX_EDGES {
            return Err(NotAsked::Many);
        }
        let _place = self.places.try_acquire().map_err(|_| NotAsked::Busy)?;
        let asked = questions.into_iter().map(|(edge, what)| async move {
            let answer = self.edges.ask(&edge, what).await;
            (edge, answer)
        });
        Ok(asked.collect::<FuturesUnordered<_>>().collect::<Vec<_>>().await.into_iter().collect())
    }
}

/// The edges that are known to be connected and should hold an object, and how many more there should be.
#[must_use]
pub fn holders(state: &State, object: &Key) -> (Vec<Identity>, u32) {
    let (mut here, mut elsewhere) = (Vec::new(), 0);
    for (edge, fleet) in &state.fleets {
        if !state.wants.of(edge).is_some_and(|wanted| wanted.contains_key(object)) {
            continue;
        }
        here.extend(fleet.edges.keys().map(|pod| Identity { edge: edge.clone(), pod: pod.clone() }));
        elsewhere += fleet.desired.saturating_sub(u32::try_from(fleet.edges.len()).unwrap_or(u32::MAX));
    }
    (here, elsewhere)
}

/// The edges of each SipEdge.
#[must_use]
pub fn by_fleet(edges: &[Identity]) -> BTreeMap<ObjectKey, Vec<Identity>> {
    let mut fleets = BTreeMap::<ObjectKey, Vec<Identity>>::new();
    for edge in edges {
        fleets.entry(edge.edge.clone()).or_default().push(edge.clone());
    }
    fleets
}

#[cfg(test)]
mod tests {
    use super::*;
    use edge_api::control::{EraseAnswer, EraseQuery, answer};
    use tokio::sync::Notify;

    fn edge(pod: &str) -> Identity {
        Identity { edge: ObjectKey::new("system", "e0"), pod: pod.to_owned() }
    }

    fn what() -> What {
        What::Erase(EraseQuery::default())
    }

    /// Answers for `e0-0`, waits for `e0-1`, has no other.
    #[derive(Default)]
    struct Three {
        go: Notify,
    }

    #[tonic::async_trait]
    impl Asks for Three {
        async fn ask(&self, edge: &Identity, _: What) -> Result<Vec<Answer>, AskError> {
            match edge.pod.as_str() {
                "e0-0" => {
                    let what = Some(answer::What::Erase(EraseAnswer { records: 1, sessions: 0 }));
                    Ok(vec![Answer { what, ..Answer::default() }])
                }
                "e0-1" => {
                    self.go.notified().await;
                    Err(AskError::Late)
                }
                _ => Err(AskError::NotHere),
            }
        }
    }

    #[tokio::test]
    async fn every_edge_is_asked_and_one_that_is_silent_does_not_take_the_answers_of_others() {
        let edges = Arc::new(Three::default());
        let queries = Queries::to(edges.clone());
        edges.go.notify_one();
        let questions = ["e0-0", "e0-1", "e0-2"].map(|pod| (edge(pod), what()));
        let answers = queries.ask(questions.into()).await.unwrap();
        assert_eq!(answers[&edge("e0-0")].as_ref().unwrap().len(), 1);
        assert_eq!(answers[&edge("e0-1")], Err(AskError::Late));
        assert_eq!(answers[&edge("e0-2")], Err(AskError::NotHere));
    }

    #[tokio::test]
    async fn what_is_too_much_is_turned_away_and_room_comes_back() {
        let edges = Arc::new(Three::default());
        let queries = Arc::new(Queries::to(edges.clone()));
        let many = (0..=MAX_EDGES).map(|number| (edge(&format!("p{number}")), what())).collect();
        assert_eq!(queries.ask(many).await.unwrap_err(), NotAsked::Many);
        let one = || {
            let queries = queries.clone();
            async move { queries.ask([(edge("e0-1"), what())].into()).await }
        };
        let waiting: Vec<_> = (0..AT_ONCE).map(|_| tokio::spawn(one())).collect();
        while queries.places.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(one().await.unwrap_err(), NotAsked::Busy);
        for _ in 0..AT_ONCE {
            edges.go.notify_one();
            tokio::task::yield_now().await;
        }
        for asked in waiting {
            asked.await.unwrap().unwrap();
        }
        edges.go.notify_one();
        assert!(one().await.is_ok());
    }
}
