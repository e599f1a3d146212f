//! The modern era (2026-07-28) against the rmcp agent.

use std::collections::BTreeSet;

use echo_agent::{Agent, Options};
use edge::backend::BackendConfig;
use edge_core::input::{BackendEvent, BackendFailure};

use crate::harness::{Client, META, messages, modern, modern_tool, until};

async fn agent() -> Agent {
    Agent::start(([127, 0, 0, 1], 0).into(), Options::default()).await.expect("a free port")
}

#[tokio::test]
async fn discover_and_a_call_as_events_and_as_json() {
    for json_response in [false, true] {
        let agent = Agent::start(([127, 0, 0, 1], 0).into(), Options { json_response }).await.expect("a free port");
        let client = Client::new(&agent.url());
        let body =
            format!(r#"{{"jsonrpc":"2.0","id":"d","method":"server/discover","params":{{"_meta":{{{META}}}}}}}"#);
        let discovered = client.answer(modern("server/discover", None, body)).await;
        assert!(discovered.contains(r#""supportedVersions":["#) && discovered.contains("2026-07-28"), "{discovered}");
        let echoed = client.answer(modern_tool(7, "echo", r#"{"text":"hi"}"#)).await;
        assert!(echoed.starts_with(r#"{"jsonrpc":"2.0","id":7,"result":{"#) && echoed.contains(r#""text":"hi""#));
        assert_eq!(agent.runs("echo"), 1);
        agent.stop().await;
    }
}

#[tokio::test]
async fn progress_and_log_messages_come_on_the_stream_of_their_call() {
    let agent = agent().await;
    let client = Client::new(&agent.url());
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"sleep","arguments":{{"seconds":0.2,"steps":3}},"_meta":{{{META},"progressToken":"p"}}}}}}"#
    );
    let events = client.call(modern("tools/call", Some("sleep"), body)).await;
    assert!(matches!(events.first(), Some(BackendEvent::Head { status: 200, session: None })), "{events:?}");
    assert_eq!(events.last(), Some(&BackendEvent::Done));
    let messages = messages(&events);
    assert_eq!(messages.len(), 3, "{messages:?}");
    assert!(messages[0].contains("notifications/progress") && messages[0].contains("step 1 of 3"));
    assert!(messages[1].contains("step 2 of 3"));
    assert!(messages[2].contains("slept 0.2 s in 3 steps"));
}

#[tokio::test]
async fn input_required_and_the_second_round() {
    let agent = agent().await;
    let client = Client::new(&agent.url());
    let asked = client.answer(modern_tool(1, "elicit", "{}")).await;
    assert!(asked.contains(r#""resultType":"input_required""#) && asked.contains("elicitation/create"), "{asked}");
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{{"name":"elicit","arguments":{{}},"requestState":"echo-agent/form/1","inputResponses":{{"answer":{{"action":"accept","content":{{"name":"Ada"}}}}}},"_meta":{{{META}}}}}}}"#
    );
    let greeted = client.answer(modern("tools/call", Some("elicit"), body)).await;
    assert!(greeted.contains("hello Ada"), "{greeted}");
}

#[tokio::test]
async fn cancelling_closes_the_stream_and_stops_the_tool() {
    let agent = agent().await;
    let client = Client::new(&agent.url());
    let running = client.start(modern_tool(1, "sleep", r#"{"seconds":60,"steps":1}"#));
    until("the tool runs", || agent.runs("sleep") == 1).await;
    client.backends.cancel(running.id);
    assert!(running.ends_unanswered().await);
    until("the tool was cancelled", || agent.cancelled("sleep") == 1).await;
    assert_eq!(client.backends.in_flight(), 0);
}

#[tokio::test]
async fn errors_with_a_json_rpc_body_are_answers_whatever_the_status() {
    let agent = agent().await;
    let client = Client::new(&agent.url());

    let unknown = modern(
        "nope/x",
        None,
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"nope/x","params":{{"_meta":{{{META}}}}}}}"#),
    );
    let events = client.call(unknown).await;
    assert_eq!(events.first(), Some(&BackendEvent::Head { status: 404, session: None }));
    assert!(messages(&events)[0].contains("-32601"), "{events:?}");
    assert_eq!(events.last(), Some(&BackendEvent::Done));

    let mut mismatch = modern_tool(2, "echo", r#"{"text":"hi"}"#);
    mismatch.headers[1].1 = "add".to_owned();
    let events = client.call(mismatch).await;
    assert_eq!(events.first(), Some(&BackendEvent::Head { status: 400, session: None }));
    assert!(messages(&events)[0].contains("-32020"), "{events:?}");
    assert_eq!(agent.runs("echo"), 0);
}

#[tokio::test]
async fn many_calls_at_once_each_run_once() {
    let agent = agent().await;
    let mut config = BackendConfig::new(agent.url());
    config.limits.requests = 16;
    let client = Client::with(config);
    let running: Vec<_> = (0..200).map(|id| client.start(modern_tool(id, "count", "{}"))).collect();
    let mut numbers = BTreeSet::new();
    for (id, running) in running.into_iter().enumerate() {
        let events = running.rest().await;
        let answer = messages(&events).pop().unwrap_or_else(|| panic!("an answer: {events:?}"));
        assert!(answer.contains(&format!(r#""id":{id},"#)), "{answer}");
        let (_, number) = answer.split_once(r#""text":""#).expect("a number");
        assert!(numbers.insert(number.split('"').next().map(str::to_owned)));
    }
    assert_eq!((numbers.len(), agent.runs("count")), (200, 200));
    assert_eq!(client.backends.in_flight(), 0);
    let stats = || client.backends.stats()["acme/agent"];
    until("all places are free", || stats().requests == 0 && stats().waiting == 0).await;
    assert!(stats().idle_connections <= 16, "{:?}", stats());
}

#[tokio::test]
async fn sec_10_a_large_answer_fits_or_is_refused() {
    for json_response in [false, true] {
        let agent = Agent::start(([127, 0, 0, 1], 0).into(), Options { json_response }).await.expect("a free port");
        let mut config = BackendConfig::new(agent.url());
        config.limits.message_bytes = 300_000;
        let client = Client::with(config);
        let fits = client.answer(modern_tool(1, "big", r#"{"bytes":299000}"#)).await;
        assert!(fits.len() > 299_000);
        let over = modern_tool(2, "big", r#"{"bytes":300000}"#);
        assert_eq!(client.failure(over).await, BackendFailure::TooLarge, "json: {json_response}");
        let after = client.answer(modern_tool(3, "echo", r#"{"text":"on"}"#)).await;
        assert!(after.contains("on"));
    }
}
