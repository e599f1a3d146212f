//! The legacy server stream and resumption, byte by byte.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use edge_core::input::{BackendEvent, BackendFailure};

use crate::harness::{Client, Conn, EVENTS, PING, PONG, Server, header, http, legacy, listen, messages, modern};

/// What each request said in `Last-Event-ID`, with its method and when it came.
type Seen = Arc<Mutex<Vec<(String, Option<String>, Instant)>>>;

/// A server whose answer to its n-th request is the n-th of these; each closes the connection. After the last: 500.
async fn script(answers: Vec<String>) -> (Server, Seen) {
    let seen = Seen::default();
    let (answers, log) = (Arc::new(answers), seen.clone());
    let server = Server::start(move |mut conn: Conn| {
        let (answers, log) = (answers.clone(), log.clone());
        async move {
            let Some((head, _)) = conn.request().await else { return };
            let method = head.split(' ').next().unwrap_or_default().to_owned();
            let number = {
                let mut log = log.lock().expect("a lock");
                log.push((method, header(&head, "last-event-id"), Instant::now()));
                log.len() - 1
            };
            let failed = http("500 Internal Server Error", "text/plain", "");
            conn.write(answers.get(number).unwrap_or(&failed)).await;
        }
    })
    .await;
    (server, seen)
}

fn ids(seen: &Seen) -> Vec<(String, Option<String>)> {
    seen.lock().expect("a lock").iter().map(|(method, id, _)| (method.clone(), id.clone())).collect()
}

fn some(method: &str, id: &str) -> (String, Option<String>) {
    (method.to_owned(), Some(id.to_owned()))
}

fn none(method: &str) -> (String, Option<String>) {
    (method.to_owned(), None)
}

const NOTE: &str = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{}}"#;

#[tokio::test]
async fn a_server_stream_goes_on_from_its_last_id_after_its_retry_time() {
    let (server, seen) = script(vec![
        format!("{EVENTS}retry: 400\nid: 5\ndata:\n\n"),
        format!("{EVENTS}id: 6\ndata: {NOTE}\n\ndata: {NOTE}\nid: 7\n\nid: 8\ndata: unfinished"),
        format!("{EVENTS}data: {NOTE}\n\n"),
        http("404 Not Found", "text/plain", "gone"),
    ])
    .await;
    let events = server.client().call(listen("s", Some("4"))).await;
    let message = |id: &str| BackendEvent::Message { body: NOTE.into(), event_id: Some(id.to_owned()) };
    assert_eq!(
        events,
        [
            BackendEvent::Head { status: 200, session: None },
            message("6"),
            message("7"),
            // A stream of its own begins without an id.
            BackendEvent::Message { body: NOTE.into(), event_id: None },
            BackendEvent::Failed(BackendFailure::SessionGone)
        ]
    );
    // The id of an unfinished event does not count: what it was to bring would be lost.
    assert_eq!(ids(&seen), [some("GET", "4"), some("GET", "5"), some("GET", "7"), some("GET", "7")]);
    let seen = seen.lock().expect("a lock");
    assert!(seen[1].2 - seen[0].2 >= Duration::from_millis(400), "retry was respected");
}

#[tokio::test]
async fn no_server_stream_is_no_failure() {
    let (server, seen) =
        script(vec!["HTTP/1.1 405 Method Not Allowed\r\nAllow: POST\r\nContent-Length: 0\r\n\r\n".to_owned()]).await;
    let events = server.client().call(listen("s", None)).await;
    assert_eq!(events, [BackendEvent::Head { status: 405, session: None }, BackendEvent::Done]);
    assert_eq!(ids(&seen), [none("GET")]);
}

#[tokio::test]
async fn attempts_are_bounded_and_start_anew_after_progress() {
    let mut config = edge::backend::BackendConfig::new("http://x/");
    config.limits.resume_attempts = 2;
    let quick = format!("{EVENTS}retry: 0\n\n");
    let (server, seen) = script(vec![
        format!("{EVENTS}retry: 0\nid: 1\n\n"),
        quick.clone(),
        format!("{EVENTS}data: {NOTE}\nid: 2\n\n"),
        quick.clone(),
        quick.clone(),
        quick,
    ])
    .await;
    config.url = server.url();
    let events = Client::with(config).call(listen("s", None)).await;
    assert_eq!(events.last(), Some(&BackendEvent::Failed(BackendFailure::Interrupted)));
    assert_eq!(messages(&events), [NOTE]);
    assert_eq!(ids(&seen), [none("GET"), some("GET", "1"), some("GET", "1"), some("GET", "2"), some("GET", "2")]);
}

#[tokio::test]
async fn a_stream_that_does_not_open_says_why() {
    for (answer, wanted) in [
        (http("401 Unauthorized", "text/plain", ""), BackendFailure::Unauthorized),
        (http("404 Not Found", "text/plain", ""), BackendFailure::SessionGone),
        (http("400 Bad Request", "text/plain", ""), BackendFailure::Status(400)),
        (http("500 Oops", "text/plain", ""), BackendFailure::Status(500)),
        (http("200 OK", "application/json", PONG), BackendFailure::Garbage),
        (http("302 Found", "text/plain", ""), BackendFailure::Status(302)),
        (format!("{EVENTS}data: no json\n\n"), BackendFailure::Garbage),
        (String::new(), BackendFailure::Interrupted),
    ] {
        let (server, seen) = script(vec![answer.clone()]).await;
        assert_eq!(server.client().failure(listen("s", None)).await, wanted, "{answer}");
        assert_eq!(ids(&seen).len(), 1, "asked once: {answer}");
    }
}

#[tokio::test]
async fn an_id_without_a_message_is_told_and_that_of_an_unfinished_event_is_not() {
    let (server, _) = script(vec![
        format!("{EVENTS}id: a/0\nretry: 0\ndata:\n\nid: a/1\ndata: unfin"),
        format!("{EVENTS}id: a/1\ndata: {NOTE}\n\nid: a/2\ndata: {PONG}\n\n"),
    ])
    .await;
    let running = server.client().start(legacy(Some("s"), PING));
    assert_eq!(running.positions().await, ["a/0"]);
}

#[tokio::test]
async fn sep_1699_an_answer_that_the_server_closed_is_polled_for() {
    let (server, seen) = script(vec![
        format!("{EVENTS}id: a/0\nretry: 100\ndata:\n\n"),
        format!("{EVENTS}id: a/1\ndata: {NOTE}\n\n"),
        http("503 Service Unavailable", "text/plain", ""),
        format!("{EVENTS}id: a/2\ndata: {PONG}\n\n"),
    ])
    .await;
    let events = server.client().call(legacy(Some("s"), PING)).await;
    assert_eq!(messages(&events), [NOTE, PONG]);
    assert_eq!(events.last(), Some(&BackendEvent::Done));
    assert_eq!(ids(&seen), [none("POST"), some("GET", "a/0"), some("GET", "a/1"), some("GET", "a/1")]);
}

#[tokio::test]
async fn an_event_that_a_resumed_stream_repeats_is_handed_on_once() {
    let one = format!("retry: 0\n\nid: 1\ndata: {NOTE}\n\n");
    let (server, _) = script(vec![
        format!("{EVENTS}{one}"),
        EVENTS.to_owned(),
        format!("{EVENTS}{one}id: 2\ndata: {NOTE}\n\nid: 2\ndata: {PONG}\n\n"),
    ])
    .await;
    let events = server.client().call(legacy(Some("s"), PING)).await;
    assert_eq!(messages(&events), [NOTE, NOTE, PONG]);
    // A priming event's id is no message's: what follows it under the same id was not handed on yet.
    let (server, _) =
        script(vec![format!("{EVENTS}retry: 0\nid: 1\n\n"), format!("{EVENTS}id: 1\ndata: {PONG}\n\n")]).await;
    assert_eq!(messages(&server.client().call(legacy(Some("s"), PING)).await), [PONG]);
}

#[tokio::test]
async fn what_cannot_be_resumed_is_interrupted_and_not_sent_again() {
    let no_id = format!("{EVENTS}data: {NOTE}\n\n");
    let with_id = format!("{EVENTS}retry: 0\nid: 1\n\n");
    let no_get = "HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n".to_owned();
    for (what, answers, requests) in [
        ("no id", vec![no_id.clone()], 1),
        ("no GET", vec![with_id.clone(), no_get], 2),
        ("an unknown id", vec![with_id.clone(), http("400 Bad Request", "text/plain", "")], 2),
        ("never again", vec![with_id.clone()], 6),
    ] {
        let (server, seen) = script(answers).await;
        let mut call = legacy(Some("s"), PING);
        call.timeout_ms = 0;
        assert_eq!(server.client().failure(call).await, BackendFailure::Interrupted, "{what}");
        let ids = ids(&seen);
        assert_eq!(ids.len(), requests, "{what}");
        assert_eq!(ids.iter().filter(|(method, _)| method == "POST").count(), 1, "{what}");
    }
    let (server, seen) = script(vec![with_id.clone(), http("404 Not Found", "text/plain", "")]).await;
    assert_eq!(server.client().failure(legacy(Some("s"), PING)).await, BackendFailure::SessionGone);
    assert_eq!(ids(&seen).len(), 2);
    // In the modern era nothing is resumed.
    let (server, seen) = script(vec![with_id]).await;
    assert_eq!(server.client().failure(modern("ping", None, PING)).await, BackendFailure::Interrupted);
    assert_eq!(ids(&seen).len(), 1);
}

#[tokio::test]
async fn a_resumption_counts_against_the_deadline() {
    let (server, _) = script(vec![format!("{EVENTS}retry: 60000\nid: 1\n\n")]).await;
    let mut call = legacy(Some("s"), PING);
    call.timeout_ms = 300;
    assert_eq!(server.client().failure(call).await, BackendFailure::Deadline);
}

#[tokio::test]
async fn the_session_of_initialize_is_named_when_its_answer_is_resumed() {
    let sessions = Arc::new(Mutex::new(Vec::new()));
    let log = sessions.clone();
    let server = Server::start(move |mut conn| {
        let log = log.clone();
        async move {
            let Some((head, _)) = conn.request().await else { return };
            log.lock().expect("a lock").push(header(&head, "mcp-session-id"));
            let first = EVENTS.replace("Connection", "Mcp-Session-Id: new-1\r\nConnection");
            match conn.number {
                0 => conn.write(format!("{first}retry: 0\nid: 1\n\n")).await,
                _ => conn.write(format!("{EVENTS}data: {PONG}\n\n")).await,
            }
        }
    })
    .await;
    let events = server.client().call(legacy(None, PING)).await;
    assert_eq!(events.first(), Some(&BackendEvent::Head { status: 200, session: Some("new-1".to_owned()) }));
    assert_eq!(messages(&events), [PONG]);
    assert_eq!(*sessions.lock().expect("a lock"), [None, Some("new-1".to_owned())]);
}
