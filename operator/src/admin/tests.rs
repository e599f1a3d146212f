use super::*;
use crate::key::{Key, Kind};
use crate::plan::fleet::{Edge, Fleet};
use crate::plan::running::{INSTANCE, Thing};
use crate::queries::Asks;
use crate::serve::streams::AskError;
use crate::testing::{agent, domain, edge, index};
use bytes::Bytes;
use crds::admin::{Sessions, Why};
use crds::manifest::ObjectKey;
use edge_api::control::{
    self, Answer, DrainReport, DrainState, EraseAnswer, ExportAnswer, SessionRow, SessionsAnswer, WhyAnswer, answer,
};
use http_body_util::BodyExt;
use k8s_openapi::api::authentication::v1::UserInfo;
use serde_json::{Value, json};
use std::sync::Mutex;
use zeroize::Zeroizing;

/// Tokens are names; a right is `VERB RESOURCE/SUB NAME NAMESPACE`.
#[derive(Default)]
struct Rights {
    rights: Vec<(&'static str, String)>,
}

#[tonic::async_trait]
impl Access for Rights {
    async fn who(&self, token: &str) -> Result<Person, Refused> {
        if !self.rights.iter().any(|(user, _)| *user == token) {
            return Err(Refused::Unknown("the token is not good".into()));
        }
        Ok(Person { user: UserInfo { username: Some(token.to_owned()), ..UserInfo::default() } })
    }

    async fn may(&self, person: &Person, action: &Action) -> Result<(), Refused> {
        let Action { verb, resource: (resource, sub), name, namespace } = action;
        let wanted = format!("{verb} {resource}/{sub} {name} {namespace}");
        let has = self.rights.iter().any(|(user, right)| *user == person.name() && *right == wanted);
        has.then_some(()).ok_or_else(|| Refused::Forbidden(format!("may not {action}")))
    }
}

/// Edges that answer the same, but for one.
#[derive(Default)]
struct Scripted {
    silent: Option<&'static str>,
    asked: Mutex<Vec<(String, What)>>,
}

#[tonic::async_trait]
impl Asks for Scripted {
    async fn ask(&self, edge: &Identity, what: What) -> Result<Vec<Answer>, AskError> {
        self.asked.lock().unwrap().push((edge.id(), what.clone()));
        if self.silent == Some(&*edge.pod) {
            return Err(AskError::Late);
        }
        let part = |what| Answer { what: Some(what), ..Answer::default() };
        Ok(match what {
            What::Sessions(_) => {
                let row = |namespace: &str, id: &str| SessionRow {
                    id: id.to_owned(),
                    agent: Some(control::Key {
                        namespace: namespace.into(),
                        name: "a0".into(),
                        ..control::Key::default()
                    }),
                    ..SessionRow::default()
                };
                let page = |rows, next_page: &str| {
                    part(answer::What::Sessions(SessionsAnswer { sessions: rows, next_page: next_page.to_owned() }))
                };
                vec![page(vec![row("acme", "s1"), row("other", "s2")], ""), page(vec![row("acme", "s3")], "more")]
            }
            What::Why(_) => {
                let allowed = edge.pod == "e0-0";
                vec![part(answer::What::Why(WhyAnswer { allowed, rule: "acme/p/r".into(), ..WhyAnswer::default() }))]
            }
            What::Export(_) => [&b"{\"a\":"[..], b"1}"]
                .map(|json| part(answer::What::Export(ExportAnswer { json: Bytes::from_static(json) })))
                .into(),
            What::Erase(_) => vec![part(answer::What::Erase(EraseAnswer { records: 2, sessions: 1 }))],
        })
    }
}

/// SipEdge `e0` with three pods wanted and two connected.
fn board() -> Arc<Board> {
    let board = Board::default();
    board.change(|state| {
        state.index = index([edge("e0", 1), domain("d0", 1), agent("a0", 1, "d0", None)]);
        state.wants.update(&state.index);
        let edges = ["e0-0", "e0-1"].map(|pod| (pod.to_owned(), Edge::default())).into();
        let fleet = Fleet { desired: 3, edges, ..Fleet::default() };
        state.fleets.insert(ObjectKey::new("system", "e0"), fleet);
        let labels = json!({INSTANCE: "e0"});
        let pod = json!({"metadata": {"name": "e0-1", "namespace": "system", "uid": "uid-1", "labels": labels}});
        state.running.apply(&Thing::Pod(serde_json::from_value(pod).unwrap()));
        assert!(state.wants.of(&ObjectKey::new("system", "e0")).unwrap().contains_key(&Key::of(
            Kind::SipDomain,
            "",
            "d0"
        )));
    });
    Arc::new(board)
}

struct Bench {
    admin: Admin,
    edges: Arc<Scripted>,
}

fn bench(rights: &[(&'static str, &str)], silent: Option<&'static str>) -> Bench {
    let edges = Arc::new(Scripted { silent, ..Scripted::default() });
    let rights = rights.iter().map(|(user, right)| (*user, (*right).to_owned())).collect();
    let queries = Arc::new(Queries::to(edges.clone()));
    Bench { admin: Admin { board: board(), queries, access: Arc::new(Rights { rights }), forward: None }, edges }
}

impl Bench {
    async fn post(&self, user: &str, path: &str, question: Value) -> (StatusCode, Value) {
        let asked = Asked {
            method: Method::POST,
            path: path.to_owned(),
            token: (!user.is_empty()).then(|| Zeroizing::new(user.to_owned())),
            body: question.to_string().into(),
        };
        let reply = self.admin.answer(asked).await;
        let status = reply.status();
        let body = reply.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }
}

#[tokio::test]
async fn sec_6_sessions_are_shown_only_in_the_namespace_for_which_the_right_was_given() {
    let bench = bench(&[("alice", "list sipdomains/sessions d0 acme"), ("root", "list sipdomains/sessions d0 ")], None);
    let (status, answer) = bench.post("alice", api::SESSIONS, json!({"domain": "d0", "namespace": "acme"})).await;
    let sessions: Sessions = serde_json::from_value(answer).unwrap();
    assert_eq!(status, StatusCode::OK);
    assert_eq!(sessions.sessions.iter().map(|row| &*row.id).collect::<Vec<_>>(), ["s1", "s3", "s1", "s3"]);
    assert_eq!(sessions.edges.answered, ["system/e0-0", "system/e0-1"]);
    assert_eq!((sessions.edges.elsewhere, sessions.pages.len()), (1, 2));
    for (user, question) in [
        ("alice", json!({"domain": "d0"})),
        ("alice", json!({"domain": "d0", "namespace": "other"})),
        ("alice", json!({"domain": "d1", "namespace": "acme"})),
    ] {
        assert_eq!(bench.post(user, api::SESSIONS, question).await.0, StatusCode::FORBIDDEN);
    }
    let (status, answer) = bench.post("root", api::SESSIONS, json!({"domain": "d0"})).await;
    assert_eq!((status, answer["sessions"].as_array().unwrap().len()), (StatusCode::OK, 6));
    // The page of one edge is asked of that edge alone.
    bench.edges.asked.lock().unwrap().clear();
    let next = json!({"domain": "d0", "namespace": "acme", "pages": {"system/e0-1": "more"}});
    assert_eq!(bench.post("alice", api::SESSIONS, next).await.0, StatusCode::OK);
    let asked = bench.edges.asked.lock().unwrap();
    let [(edge, What::Sessions(query))] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!((&**edge, &*query.page, &*query.domain), ("system/e0-1", "more", "d0.example"));
}

#[tokio::test]
async fn sec_6_who_is_nobody_or_may_not_learns_nothing() {
    let bench = bench(&[("alice", "nothing")], None);
    let why = |agent: &str| json!({"namespace": "acme", "agent": agent, "method": "tools/call", "param": "echo"});
    assert_eq!(bench.post("", api::WHY, why("a0")).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(bench.post("mallory", api::WHY, why("a0")).await.0, StatusCode::UNAUTHORIZED);
    // There or not: the same answer.
    for agent in ["a0", "a9"] {
        assert_eq!(bench.post("alice", api::WHY, why(agent)).await.0, StatusCode::FORBIDDEN);
    }
    for path in [api::EXPORT, api::ERASE] {
        let question = json!({"domain": "d0", "conversation": "c1"});
        assert_eq!(bench.post("alice", path, question).await.0, StatusCode::FORBIDDEN);
    }
    let question = json!({"namespace": "system", "edge": "e0", "pod": "e0-0"});
    assert_eq!(bench.post("alice", api::DRAIN, question).await.0, StatusCode::FORBIDDEN);
    assert!(bench.edges.asked.lock().unwrap().is_empty());
    assert!(bench.admin.board.quietly(|state| state.fleets.values().all(|fleet| fleet.drains.is_empty())));
}

#[tokio::test]
async fn edges_that_do_not_agree_are_named_and_one_that_is_silent_too() {
    let bench =
        bench(&[("alice", "get sipdomains/sessions d0 acme"), ("alice", "get sipdomains/sessions  acme")], None);
    let question =
        json!({"namespace": "acme", "agent": "a0", "method": "tools/call", "param": "echo", "arguments": {"a": 1}});
    let (status, answer) = bench.post("alice", api::WHY, question.clone()).await;
    let why: Why = serde_json::from_value(answer).unwrap();
    assert_eq!(status, StatusCode::OK);
    let said: Vec<_> = why.answers.iter().map(|reason| (reason.allowed, &*reason.edges[0])).collect();
    assert_eq!(said, [(false, "system/e0-1"), (true, "system/e0-0")]);
    {
        let asked = bench.edges.asked.lock().unwrap();
        let What::Why(query) = &asked[0].1 else { panic!("{asked:?}") };
        assert_eq!((&*query.arguments, &*query.param), (&br#"{"a":1}"#[..], "echo"));
    }
    let missing = json!({"namespace": "acme", "agent": "a9", "method": "tools/call"});
    assert_eq!(bench.post("alice", api::WHY, missing).await.0, StatusCode::NOT_FOUND);
    let silent = self::bench(&[("alice", "get sipdomains/sessions d0 acme")], Some("e0-1"));
    let (_, answer) = silent.post("alice", api::WHY, question).await;
    let why: Why = serde_json::from_value(answer).unwrap();
    assert_eq!((why.answers.len(), why.edges.silent.len()), (1, 1));
}

#[tokio::test]
async fn a_conversation_is_exported_from_one_edge_of_a_store_and_erased_on_all() {
    let rights = [("root", "get sipdomains/sessions d0 "), ("root", "delete sipdomains/sessions d0 ")];
    let question = json!({"domain": "d0", "conversation": "c1"});
    let first = bench(&rights, None);
    let (status, answer) = first.post("root", api::EXPORT, question.clone()).await;
    let export: Export = serde_json::from_value(answer).unwrap();
    assert_eq!((status, &export.documents["system/e0"]), (StatusCode::OK, &json!({"a": 1})));
    assert_eq!(first.edges.asked.lock().unwrap().len(), 1);
    // The first one does not answer: the next one has the same store.
    let second = bench(&rights, Some("e0-0"));
    let (_, answer) = second.post("root", api::EXPORT, question.clone()).await;
    let export: Export = serde_json::from_value(answer).unwrap();
    assert_eq!((export.documents.len(), &*export.edges.answered[0]), (1, "system/e0-1"));
    let (_, answer) = first.post("root", api::ERASE, question).await;
    let erased: Erased = serde_json::from_value(answer).unwrap();
    assert_eq!((erased.records, erased.sessions), (4, 2));
    let none = json!({"domain": "d0", "conversation": ""});
    assert_eq!(first.post("root", api::ERASE, none).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_drain_is_an_order_that_stays_until_it_is_taken_back() {
    let bench = bench(&[("alice", "create sipedges/drain e0 system")], None);
    let fleet = ObjectKey::new("system", "e0");
    let order = || bench.admin.board.quietly(|state| state.fleets[&fleet].drains.get("e0-1").cloned());
    let question = json!({"namespace": "system", "edge": "e0", "pod": "e0-1"});
    let (status, answer) = bench.post("alice", api::DRAIN, question.clone()).await;
    assert_eq!((status, &answer["state"]), (StatusCode::OK, &json!("Unknown")));
    let given = order().unwrap();
    assert!(given.reason.contains("alice") && given.deadline_s >= 1);
    bench.admin.board.change(|state| {
        let edge = state.fleets.get_mut(&fleet).unwrap().edges.get_mut("e0-1").unwrap();
        edge.drain = Some(DrainReport { state: DrainState::Draining.into(), dialogs: 4, ..DrainReport::default() });
    });
    let (_, answer) = bench.post("alice", api::DRAIN, question).await;
    assert_eq!((&answer["state"], &answer["dialogs"]), (&json!("Draining"), &json!(4)));
    assert_eq!(order(), Some(given));
    let cancel = json!({"namespace": "system", "edge": "e0", "pod": "e0-1", "cancel": true});
    assert_eq!(bench.post("alice", api::DRAIN, cancel).await.0, StatusCode::OK);
    assert_eq!(order(), None);
    assert!(bench.admin.board.quietly(|state| state.fleets[&fleet].by_hand.is_empty()));
    let gone = json!({"namespace": "system", "edge": "e0", "pod": "e0-7"});
    assert_eq!(bench.post("alice", api::DRAIN, gone).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn who_looks_how_far_a_drain_is_orders_nothing_and_knows_the_pod_from_its_successor() {
    let bench = bench(&[("alice", "create sipedges/drain e0 system")], None);
    let fleet = ObjectKey::new("system", "e0");
    let by_hand = || bench.admin.board.quietly(|state| state.fleets[&fleet].by_hand.clone());
    let asked = |more: Value| {
        let mut question = json!({"namespace": "system", "edge": "e0", "pod": "e0-1"});
        question.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        question
    };
    let look = asked(json!({"look": true, "uid": "uid-1"}));
    let (status, answer) = bench.post("alice", api::DRAIN, look.clone()).await;
    assert_eq!((status, &answer["ordered"]), (StatusCode::OK, &json!(false)));
    assert!(by_hand().is_empty());
    let (_, answer) = bench.post("alice", api::DRAIN, asked(json!({}))).await;
    assert_eq!((&answer["uid"], &answer["ordered"]), (&json!("uid-1"), &json!(true)));
    let (_, answer) = bench.post("alice", api::DRAIN, look.clone()).await;
    assert_eq!((&answer["state"], &answer["ordered"]), (&json!("Unknown"), &json!(true)));
    // Somebody else takes the order back while the first one looks.
    bench.post("alice", api::DRAIN, asked(json!({"cancel": true}))).await;
    let (_, answer) = bench.post("alice", api::DRAIN, look.clone()).await;
    assert_eq!(answer["ordered"], json!(false));
    assert!(by_hand().is_empty());
    // Its stream is cut for a moment: the pod is there all the same.
    bench.admin.board.change(|state| state.fleets.get_mut(&fleet).unwrap().edges.remove("e0-1"));
    let (status, answer) = bench.post("alice", api::DRAIN, look).await;
    assert_eq!((status, &answer["state"]), (StatusCode::OK, &json!("Unknown")));
    // Another one under its name.
    let (status, answer) = bench.post("alice", api::DRAIN, asked(json!({"look": true, "uid": "uid-0"}))).await;
    assert_eq!((status, &answer["state"]), (StatusCode::OK, &json!("Gone")));
    let (status, _) = bench.post("alice", api::DRAIN, asked(json!({"look": true, "cancel": true}))).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(by_hand().is_empty());
}

#[tokio::test]
async fn nonsense_is_refused_with_what_is_wrong() {
    let rights = [("root", "list sipdomains/sessions d0 "), ("root", "get sipdomains/sessions d0 acme")];
    let bench = bench(&rights, None);
    for (path, question) in [
        (api::SESSIONS, json!({"domain": "d0", "agent": "a0"})),
        (api::SESSIONS, json!({"domain": "d0", "limit": 0})),
        (api::SESSIONS, json!({"domain": "d0", "limit": 1001})),
        (api::SESSIONS, json!({"domain": "d0", "colour": "red"})),
        (api::SESSIONS, json!([])),
        (api::WHY, json!({"namespace": "acme", "agent": "a0", "method": ""})),
        (api::WHY, json!({"namespace": "acme", "agent": "a0", "method": "m".repeat(2000)})),
        (api::WHY, json!({"namespace": "acme", "agent": "a0", "method": "m", "arguments": {"a": "x".repeat(65_537)}})),
    ] {
        let (status, answer) = bench.post("root", path, question.clone()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{question}");
        assert!(answer["error"].as_str().is_some_and(|error| !error.is_empty()));
    }
    assert_eq!(bench.post("root", "/v1/nothing", json!({})).await.0, StatusCode::NOT_FOUND);
    assert!(bench.edges.asked.lock().unwrap().is_empty());
}
