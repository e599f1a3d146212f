//! The legacy era (2025-11-25) against the rmcp agent: sessions, the server stream, requests of the server, resumption.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use echo_agent::{Agent, Options};
use edge_core::input::{BackendEvent, BackendFailure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Client, end_session, legacy, legacy_tool, listen, messages, until};

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"elicitation":{},"roots":{}},"clientInfo":{"name":"test","version":"1"}}}"#;
const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

async fn agent() -> Agent {
    Agent::start(([127, 0, 0, 1], 0).into(), Options::default()).await.expect("a free port")
}

/// Opens a session; returns its id.
async fn open(client: &Client) -> String {
    let events = client.call(legacy(None, INITIALIZE)).await;
    let [BackendEvent::Head { status: 200, session: Some(session) }, BackendEvent::Message { .. }, BackendEvent::Done] =
        events.as_slice()
    else {
        panic!("no session: {events:?}");
    };
    assert!(messages(&events)[0].contains(r#""protocolVersion":"2025-11-25""#));
    let initialized = client.call(legacy(Some(session), INITIALIZED)).await;
    assert_eq!(initialized, [BackendEvent::Head { status: 202, session: None }, BackendEvent::Done]);
    session.clone()
}

#[tokio::test]
async fn a_session_from_initialize_to_delete() {
    let agent = agent().await;
    let client = Client::new(&agent.url());
    let session = open(&client).await;

    let answer = client.answer(legacy_tool(&session, 1, "echo", r#"{"text":"hi"}"#)).await;
    assert!(answer.contains(r#""text":"hi""#));
    let events = client.call(legacy_tool(&session, 2, "sleep", r#"{"seconds":0.1,"steps":2}"#)).await;
    let all = messages(&events);
    assert!(all.len() == 2 && all[0].contains(r#""progressToken":"p2""#) && all[1].contains("slept"), "{all:?}");
    let with_id =
        events.iter().filter(|event| matches!(event, BackendEvent::Message { event_id: Some(_), .. })).count();
    assert_eq!(with_id, 2, "rmcp numbers its events: {events:?}");
    // Unknown method: 200 with an error in this era.
    let unknown = client.call(legacy(Some(&session), r#"{"jsonrpc":"2.0","id":3,"method":"nope/x"}"#)).await;
    assert!(matches!(unknown[0], BackendEvent::Head { status: 200, .. }) && messages(&unknown)[0].contains("-32601"));

    let ended = client.call(end_session(&session)).await;
    assert!(matches!(ended.as_slice(), [BackendEvent::Head { status: 200..300, .. }, BackendEvent::Done]), "{ended:?}");
    let gone = client.failure(legacy_tool(&session, 4, "echo", r#"{"text":"hi"}"#)).await;
    assert_eq!(gone, BackendFailure::SessionGone);
    assert_eq!(client.failure(listen(&session, None)).await, BackendFailure::SessionGone);
    assert_eq!(agent.runs("echo"), 1);
}

#[tokio::test]
async fn what_belongs_to_no_request_comes_on_the_server_stream() {
    let agent = agent().await;
    let client = Client::new(&agent.url());
    let session = open(&client).await;
    let mut stream = client.start(listen(&session, None));
    assert!(matches!(stream.next().await, BackendEvent::Head { status: 200, .. }));
    client.answer(legacy_tool(&session, 1, "log", r#"{"text":"to the log"}"#)).await;
    let message = stream.message().await;
    assert!(message.contains("notifications/message") && message.contains("to the log"), "{message}");
    assert_eq!(client.backends.stats()["acme/agent"].streams, 1);
    client.backends.cancel(stream.id);
    assert!(stream.ends_unanswered().await);
    until("the stream's place is free", || client.backends.stats()["acme/agent"].streams == 0).await;
}

#[tokio::test]
async fn xch_5_a_request_of_the_server_is_answered_by_a_post() {
    let agent = agent().await;
    let client = Client::new(&agent.url());
    let session = open(&client).await;
    for (tool, result, wanted) in [
        ("elicit", r#"{"action":"accept","content":{"name":"Ada","colour":"red"}}"#, "hello Ada, red colour"),
        ("elicit", r#"{"action":"decline"}"#, "the caller chose to decline"),
        ("roots", r#"{"roots":[{"uri":"file:///srv"}]}"#, "1 roots: file:///srv"),
    ] {
        let mut call = client.start(legacy_tool(&session, 1, tool, "{}"));
        assert!(matches!(call.next().await, BackendEvent::Head { status: 200, .. }));
        let request = call.message().await;
        let (_, id) = request.split_once(r#""id":"#).expect("an id");
        let id = id.split(',').next().expect("an id");
        let response = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#);
        let posted = client.call(legacy(Some(&session), response)).await;
        assert_eq!(posted, [BackendEvent::Head { status: 202, session: None }, BackendEvent::Done]);
        let rest = call.rest().await;
        assert!(messages(&rest).last().is_some_and(|answer| answer.contains(wanted)), "{rest:?}");
    }
}

#[tokio::test]
async fn a_dropped_call_is_no_cancellation_but_the_notification_is() {
    let agent = agent().await;
    let client = Client::new(&agent.url());
    let session = open(&client).await;
    let dropped = client.start(legacy_tool(&session, 1, "sleep", r#"{"seconds":0.3,"steps":1}"#));
    until("the tool runs", || agent.runs("sleep") == 1).await;
    client.backends.cancel(dropped.id);
    assert!(dropped.ends_unanswered().await);

    let running = client.start(legacy_tool(&session, 2, "sleep", r#"{"seconds":60,"steps":1}"#));
    until("the second runs", || agent.runs("sleep") == 2).await;
    let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2}}"#;
    let posted = client.call(legacy(Some(&session), cancel)).await;
    assert_eq!(posted.last(), Some(&BackendEvent::Done));
    until("the second was cancelled", || agent.cancelled("sleep") == 1).await;
    client.backends.cancel(running.id);
    assert_eq!(agent.cancelled("sleep"), 1, "the dropped one was not");
}

/// A TCP proxy that cuts a connection once, right after `cut_after` has passed towards the client.
async fn cutting_proxy(to: SocketAddr, cut_after: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let was_cut = Arc::new(AtomicBool::new(false));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let was_cut = was_cut.clone();
            tokio::spawn(async move {
                let server = TcpStream::connect(to).await.expect("the agent");
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                let up = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
                let mut seen = Vec::new();
                let mut chunk = [0; 4096];
                while let Ok(count @ 1..) = from_server.read(&mut chunk).await {
                    seen.extend_from_slice(&chunk[..count]);
                    if to_client.write_all(&chunk[..count]).await.is_err() {
                        break;
                    }
                    let hit = seen.windows(cut_after.len()).any(|window| window == cut_after.as_bytes());
                    if hit && !was_cut.swap(true, Ordering::SeqCst) {
                        break;
                    }
                }
                up.abort();
            });
        }
    });
    address
}

#[tokio::test]
async fn a_broken_answer_is_resumed_and_the_tool_runs_once() {
    let agent = agent().await;
    let proxy = cutting_proxy(agent.address(), "step 1 of 4").await;
    let client = Client::new(&format!("http://{proxy}/mcp"));
    let session = open(&client).await;
    let events = client.call(legacy_tool(&session, 1, "sleep", r#"{"seconds":0.8,"steps":4}"#)).await;
    assert_eq!(events.last(), Some(&BackendEvent::Done), "{events:?}");
    let heads = events.iter().filter(|event| matches!(event, BackendEvent::Head { .. })).count();
    assert_eq!(heads, 1, "a resumption is not seen: {events:?}");
    let all = messages(&events);
    for (index, wanted) in ["step 1 of 4", "step 2 of 4", "step 3 of 4", "slept 0.8 s"].into_iter().enumerate() {
        assert!(all.get(index).is_some_and(|message| message.contains(wanted)), "{wanted}: {all:?}");
    }
    assert_eq!((all.len(), agent.runs("sleep")), (4, 1));
}

#[tokio::test]
async fn a_broken_server_stream_is_resumed() {
    let agent = agent().await;
    let proxy = cutting_proxy(agent.address(), "first message").await;
    let client = Client::new(&format!("http://{proxy}/mcp"));
    let session = open(&client).await;
    let mut stream = client.start(listen(&session, None));
    assert!(matches!(stream.next().await, BackendEvent::Head { status: 200, .. }));
    client.answer(legacy_tool(&session, 1, "log", r#"{"text":"first message"}"#)).await;
    assert!(stream.message().await.contains("first message"));
    client.answer(legacy_tool(&session, 2, "log", r#"{"text":"second message"}"#)).await;
    assert!(stream.message().await.contains("second message"));
    client.backends.cancel(stream.id);
}
