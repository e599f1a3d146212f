//! Servers that answer wrongly, slowly, or not at all: each way has its own failure, within its time.

use std::time::{Duration, Instant};

use edge::backend::BackendConfig;
use edge_core::effect::BackendAction;
use edge_core::input::{BackendEvent, BackendFailure};
use tokio::io::AsyncReadExt;

use crate::harness::{
    Client, EVENTS, PING, PONG, Server, end_session, header, http, legacy, listen, messages, modern, text, until,
};

/// How a ping fails against a server that answers the first request with these bytes and closes.
async fn failure(answer: impl Into<Vec<u8>>) -> BackendFailure {
    let server = Server::answering_once(answer).await;
    let failure = server.client().failure(modern("ping", None, PING)).await;
    assert_eq!(server.requests(), 1, "never sent twice");
    failure
}

#[tokio::test]
async fn answers_that_are_no_mcp() {
    let mut wrong_session = EVENTS.replace("Connection", "Mcp-Session-Id: a b\r\nConnection");
    wrong_session.push_str(PONG);
    let coded = http("200 OK", "application/json", PONG).replace("\r\n\r\n", "\r\nContent-Encoding: gzip\r\n\r\n");
    for (what, answer) in [
        ("a web page", http("200 OK", "text/html", "<html></html>")),
        ("no content type", format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{PONG}", PONG.len())),
        ("broken JSON", http("200 OK", "application/json", r#"{"jsonrpc":"2.0","id":1,"result":"#)),
        ("a batch", http("200 OK", "application/json", &format!("[{PONG}]"))),
        ("another id", http("200 OK", "application/json", r#"{"jsonrpc":"2.0","id":2,"result":{}}"#)),
        ("no answer but a notification", http("200 OK", "application/json", r#"{"jsonrpc":"2.0","method":"x"}"#)),
        (
            "result and error",
            http(
                "200 OK",
                "application/json",
                r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":""}}"#,
            ),
        ),
        ("nothing", http("200 OK", "application/json", "")),
        ("202 to a request", "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n".to_owned()),
        ("204 to a request", "HTTP/1.1 204 No Content\r\n\r\n".to_owned()),
        ("an event that is no JSON", format!("{EVENTS}data: hello\n\n")),
        ("a coded body", coded),
        ("a session id with a space", wrong_session),
        ("no HTTP", "220 mail.example ESMTP\r\n".to_owned()),
        ("an SSH server", "SSH-2.0-OpenSSH_9.2\r\n".to_owned()),
        (
            "a wrong chunk size",
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_owned(),
        ),
        ("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}".to_owned()),
    ] {
        assert_eq!(failure(answer).await, BackendFailure::Garbage, "{what}");
    }
}

#[tokio::test]
async fn answers_that_end_too_early() {
    for (what, answer) in [
        ("before the head", String::new()),
        ("in the head", "HTTP/1.1 200 OK\r\nContent-Ty".to_owned()),
        (
            "in the body",
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"json".to_owned(),
        ),
        (
            "in a chunk",
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{".to_owned(),
        ),
        ("between events", format!("{EVENTS}data: {{\"jsonrpc\":\"2.0\",\"method\":\"x\"}}\n\n")),
        ("in an event", format!("{EVENTS}data: {PONG}\n")),
        // Resumption is of the legacy era.
        ("after an id", format!("{EVENTS}id: 1\ndata:\n\n")),
    ] {
        assert_eq!(failure(answer).await, BackendFailure::Interrupted, "{what}");
    }
}

#[tokio::test]
async fn statuses() {
    let html = |status: &str| http(status, "text/html", "no");
    let json = |status: &str, body: &str| http(status, "application/json", body);
    for (answer, wanted) in [
        (html("401 Unauthorized"), BackendFailure::Unauthorized),
        (
            json("403 Forbidden", r#"{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":""}}"#),
            BackendFailure::Unauthorized,
        ),
        (html("404 Not Found"), BackendFailure::Status(404)),
        (html("405 Method Not Allowed"), BackendFailure::Status(405)),
        (html("429 Too Many Requests"), BackendFailure::Status(429)),
        (html("500 Internal Server Error"), BackendFailure::Status(500)),
        (html("503 Service Unavailable"), BackendFailure::Status(503)),
        (json("400 Bad Request", r#"{"detail":"no"}"#), BackendFailure::Status(400)),
        (json("400 Bad Request", PONG), BackendFailure::Status(400)),
        (
            json("502 Bad Gateway", r#"{"jsonrpc":"2.0","id":2,"error":{"code":-1,"message":""}}"#),
            BackendFailure::Status(502),
        ),
        ("HTTP/1.1 999 \r\nContent-Length: 0\r\n\r\n".to_owned(), BackendFailure::Status(999)),
    ] {
        // A 400 with a *result* for our id is no sane answer, but it is the answer: the body decides.
        let got = server_says(&answer).await;
        if answer.contains(PONG) {
            assert_eq!(got.last(), Some(&BackendEvent::Done), "{answer}");
        } else {
            assert_eq!(got.last(), Some(&BackendEvent::Failed(wanted)), "{answer}");
        }
        assert!(matches!(got.first(), Some(BackendEvent::Head { .. })), "{answer}");
    }
}

async fn server_says(answer: &str) -> Vec<BackendEvent> {
    Server::answering_once(answer).await.client().call(modern("ping", None, PING)).await
}

#[tokio::test]
async fn an_error_body_is_the_answer_with_or_without_an_id() {
    for id in [r#""id":1,"#, r#""id":null,"#, ""] {
        let body = format!(r#"{{"jsonrpc":"2.0",{id}"error":{{"code":-32000,"message":"Server not initialized"}}}}"#);
        let events = server_says(&http("400 Bad Request", "application/json; charset=utf-8", &body)).await;
        assert_eq!(messages(&events), [body]);
        assert_eq!(events.last(), Some(&BackendEvent::Done));
    }
}

#[tokio::test]
async fn a_lost_session_is_known_whatever_the_body_says() {
    let body = r#"{"jsonrpc":"2.0","error":{"code":-32001,"message":"Session not found"},"id":null}"#;
    let server = Server::answering(http("404 Not Found", "application/json", body)).await;
    let client = server.client();
    assert_eq!(client.failure(legacy(Some("s"), PING)).await, BackendFailure::SessionGone);
    let notification = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    assert_eq!(client.failure(legacy(Some("s"), notification)).await, BackendFailure::SessionGone);
    // Ending what is gone is no failure.
    assert_eq!(client.call(end_session("s")).await.last(), Some(&BackendEvent::Done));
}

#[tokio::test]
async fn no_redirect_is_followed() {
    let elsewhere = Server::answering(http("200 OK", "application/json", PONG)).await;
    let answer =
        format!("HTTP/1.1 307 Temporary Redirect\r\nLocation: {}\r\nContent-Length: 0\r\n\r\n", elsewhere.url());
    assert_eq!(failure(answer).await, BackendFailure::Status(307));
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn bodies_pass_byte_exact_both_ways() {
    let odd_answer = "{ \"result\" : {\"a\":1.0e+2,\"\\u0061\":null,\"ünknown\":[ ]}, \"id\": 1 ,\"jsonrpc\":\"2.0\", \"x-extra\":{} }\n";
    let server = Server::start(move |mut conn| async move {
        let (head, body) = conn.request().await.expect("a request");
        assert_eq!(header(&head, "content-type").as_deref(), Some("application/json"));
        assert_eq!(header(&head, "mcp-protocol-version").as_deref(), Some("2026-07-28"));
        assert_eq!(
            header(&head, "traceparent").as_deref(),
            Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
        );
        assert_eq!(header(&head, "authorization").as_deref(), Some("Bearer s3cret"));
        let is_same = body
            == "{ \"id\":1,\"method\" :\"x/é\",\"params\":{\"b\":1.10,\"a\":\"\\/\"},\"jsonrpc\":\"2.0\"}".as_bytes();
        let answer = if is_same { odd_answer } else { "{}" };
        conn.write(http("200 OK", "application/json", answer)).await;
    })
    .await;
    let mut config = BackendConfig::new(server.url());
    config.bearer = Some(edge::backend::Bearer::new("s3cret"));
    let mut call =
        modern("x", None, "{ \"id\":1,\"method\" :\"x/é\",\"params\":{\"b\":1.10,\"a\":\"\\/\"},\"jsonrpc\":\"2.0\"}");
    call.traceparent = Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned());
    assert_eq!(Client::with(config).answer(call).await, odd_answer);
}

#[tokio::test]
async fn a_deadline_holds_in_every_phase() {
    let silent = Server::start(|mut conn| async move { conn.closed().await }).await;
    let head_only = Server::start(|mut conn| async move {
        conn.request().await;
        conn.write("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{").await;
        conn.closed().await;
    })
    .await;
    // One byte at a time never ends, and never is silent.
    let dripping = Server::start(|mut conn| async move {
        conn.request().await;
        conn.write(EVENTS).await;
        for _ in 0..1000 {
            conn.write(":\n").await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    for server in [&silent, &head_only, &dripping] {
        let mut call = modern("ping", None, PING);
        call.timeout_ms = 200;
        let start = Instant::now();
        assert_eq!(server.client().failure(call).await, BackendFailure::Deadline);
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}

#[tokio::test]
async fn a_deadline_before_anything_was_sent_says_so() {
    // A listener whose queue is full does not accept; the connect of the client hangs.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let any: std::net::SocketAddr = ([127, 0, 0, 1], 0).into();
    socket.bind(&any.into()).expect("a free port");
    socket.listen(0).expect("listen");
    let address = socket.local_addr().expect("an address").as_socket().expect("an IP address");
    let mut fillers = Vec::new();
    for _ in 0..4 {
        if let Ok(Ok(stream)) =
            tokio::time::timeout(Duration::from_millis(200), tokio::net::TcpStream::connect(address)).await
        {
            fillers.push(stream);
        }
    }
    let mut call = modern("ping", None, PING);
    call.timeout_ms = 300;
    assert_eq!(Client::new(&format!("http://{address}/mcp")).failure(call).await, BackendFailure::Unreachable);
}

#[tokio::test]
async fn nobody_there_and_no_such_name() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let closed = Client::new(&format!("http://{address}/mcp"));
    assert_eq!(closed.call(modern("ping", None, PING)).await, [BackendEvent::Failed(BackendFailure::Unreachable)]);
    let nowhere = Client::new("http://no-such-host.invalid/mcp");
    assert_eq!(nowhere.failure(modern("ping", None, PING)).await, BackendFailure::Unreachable);
    let mut other_agent = modern("ping", None, PING);
    other_agent.agent = "acme/unknown".to_owned();
    assert_eq!(closed.call(other_agent).await, [BackendEvent::Failed(BackendFailure::Unreachable)]);
    assert_eq!(closed.failure(listen("s", None)).await, BackendFailure::Unreachable);
}

#[tokio::test]
async fn what_cannot_be_sent_is_not_sent() {
    let server = Server::answering(http("200 OK", "application/json", PONG)).await;
    let client = server.client();
    let mut injected = modern("ping", None, PING);
    injected.headers.push(("Mcp-Name".to_owned(), "a\r\nX-Evil: 1".to_owned()));
    assert_eq!(client.failure(injected).await, BackendFailure::Unreachable);
    assert_eq!(client.failure(modern("ping", None, "no json")).await, BackendFailure::Unreachable);
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn sec_10_endless_headers_bodies_and_events_are_cut() {
    async fn endless(start: &'static str, more: &'static [u8]) -> (BackendFailure, u64) {
        let (sent, written) = tokio::sync::oneshot::channel();
        let sent = std::sync::Mutex::new(Some(sent));
        let server = Server::start(move |mut conn| {
            let sent = sent.lock().expect("a lock").take();
            async move {
                conn.request().await;
                conn.write(start).await;
                let mut bytes = 0u64;
                while tokio::io::AsyncWriteExt::write_all(&mut conn.stream, more).await.is_ok() {
                    bytes += more.len() as u64;
                }
                let _ = sent.map(|sent| sent.send(bytes));
            }
        })
        .await;
        let mut config = BackendConfig::new(server.url());
        config.limits.message_bytes = 64 * 1024;
        let failure = Client::with(config).failure(modern("ping", None, PING)).await;
        let bytes = tokio::time::timeout(Duration::from_secs(10), written).await.expect("in time").expect("a count");
        (failure, bytes)
    }
    let line: &[u8] = &[b'x'; 4096];
    // What the sockets buffer comes on top of what the client takes.
    const MOST: u64 = 16 * 1024 * 1024;
    for (what, start, more, wanted) in [
        ("fields", "HTTP/1.1 200 OK\r\n", b"X-Filler: 0123456789\r\n".as_slice(), BackendFailure::Garbage),
        ("one field", "HTTP/1.1 200 OK\r\nX: ", line, BackendFailure::Garbage),
        ("a status line", "HTTP/1.1 200 ", line, BackendFailure::Garbage),
        ("a body", "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n", line, BackendFailure::TooLarge),
        ("a line", EVENTS, line, BackendFailure::TooLarge),
        ("an event", EVENTS, b"data: xxxxxxxxxxxxxxxxxxxxxxxxx\n", BackendFailure::TooLarge),
    ] {
        let (failure, bytes) = endless(start, more).await;
        assert_eq!(failure, wanted, "{what}");
        assert!(bytes < MOST, "{what}: {bytes}");
    }
    // A length over the limit is refused before the body is read.
    assert_eq!(
        failure("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1048577\r\n\r\n").await,
        BackendFailure::TooLarge
    );
}

#[tokio::test]
async fn comments_without_end_take_no_memory_and_do_not_hide_the_answer() {
    let server = Server::start(|mut conn| async move {
        conn.request().await;
        conn.write(EVENTS).await;
        let comments = ": keep-alive\n\n".repeat(1000);
        for _ in 0..300 {
            conn.write(&comments).await;
        }
        conn.write(format!("event: ping\ndata: x\n\ndata: {PONG}\n\n")).await;
        conn.closed().await;
    })
    .await;
    assert_eq!(server.client().answer(modern("ping", None, PING)).await, PONG);
}

#[tokio::test]
async fn a_slow_reader_slows_the_server_down() {
    let server = Server::start(|mut conn| async move {
        conn.request().await;
        conn.write(EVENTS).await;
        for number in 0..500 {
            let filler = "f".repeat(10_000);
            conn.write(format!(
                "data: {{\"jsonrpc\":\"2.0\",\"method\":\"x\",\"params\":{{\"n\":{number},\"f\":\"{filler}\"}}}}\n\n"
            ))
            .await;
        }
        conn.write(format!("data: {PONG}\n\n")).await;
        conn.closed().await;
    })
    .await;
    let running = server.client().start(modern("ping", None, PING));
    tokio::time::sleep(Duration::from_millis(200)).await;
    let events = running.rest().await;
    let all = messages(&events);
    assert_eq!(all.len(), 501);
    for (number, message) in all[..500].iter().enumerate() {
        assert!(message.contains(&format!(r#""n":{number},"#)));
    }
    assert_eq!(all[500], PONG);
}

#[tokio::test]
async fn cancelling_closes_the_connection_in_every_phase() {
    for head in ["", EVENTS] {
        let (closed, is_closed) = tokio::sync::oneshot::channel();
        let closed = std::sync::Mutex::new(Some(closed));
        let server = Server::start(move |mut conn| {
            let closed = closed.lock().expect("a lock").take();
            async move {
                conn.request().await;
                conn.write(head).await;
                let mut rest = [0; 16];
                let end = conn.stream.read(&mut rest).await;
                let _ = closed.map(|closed| closed.send(matches!(end, Ok(0) | Err(_))));
            }
        })
        .await;
        let client = server.client();
        let running = client.start(modern("ping", None, PING));
        until("the request arrived", || server.requests() == 1).await;
        client.backends.cancel(running.id);
        client.backends.cancel(running.id);
        let is_closed = tokio::time::timeout(Duration::from_secs(5), is_closed).await.expect("in time");
        assert!(is_closed.expect("an end"));
    }
}

#[tokio::test]
async fn a_reader_that_is_gone_ends_the_call() {
    let server = Server::start(|mut conn| async move {
        conn.request().await;
        conn.write(EVENTS).await;
        while tokio::io::AsyncWriteExt::write_all(&mut conn.stream, b"data: {\"jsonrpc\":\"2.0\",\"method\":\"x\"}\n\n")
            .await
            .is_ok()
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    let client = server.client();
    let running = client.start(modern("ping", None, PING));
    until("the request arrived", || server.requests() == 1).await;
    drop(running);
    until("the call has ended", || client.backends.in_flight() == 0).await;
}

#[tokio::test]
async fn a_post_without_id_wants_no_body() {
    for answer in [
        "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
        http("200 OK", "text/plain", "ok"),
        http("200 OK", "application/json", "{}"),
    ] {
        let server = Server::answering(answer.clone()).await;
        let client = server.client();
        let notification = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        for _ in 0..2 {
            let events = client.call(legacy(Some("s"), notification)).await;
            assert!(
                matches!(events.as_slice(), [BackendEvent::Head { .. }, BackendEvent::Done]),
                "{answer}: {events:?}"
            );
        }
    }
    let refused = Server::answering(http(
        "400 Bad Request",
        "application/json",
        r#"{"jsonrpc":"2.0","id":null,"error":{"code":-1,"message":""}}"#,
    ))
    .await;
    let notification = r#"{"jsonrpc":"2.0","method":"x"}"#;
    assert_eq!(refused.client().failure(legacy(None, notification)).await, BackendFailure::Status(400));
    // Messages that come anyway are handed on.
    let stream = Server::answering_once(format!("{EVENTS}data: {{\"jsonrpc\":\"2.0\",\"method\":\"y\"}}\n\n")).await;
    let events = stream.client().call(legacy(None, notification)).await;
    assert_eq!(messages(&events), [r#"{"jsonrpc":"2.0","method":"y"}"#]);
    assert_eq!(events.last(), Some(&BackendEvent::Done));
}

#[tokio::test]
async fn interim_answers_are_skipped() {
    let interim = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
    let server = Server::answering(format!("{interim}{interim}{}", http("200 OK", "application/json", PONG))).await;
    assert_eq!(server.client().answer(modern("ping", None, PING)).await, PONG);
}

#[tokio::test]
async fn the_body_of_a_call_is_what_arrives() {
    let server = Server::start(|mut conn| async move {
        let (_, body) = conn.request().await.expect("a request");
        let length = body.len();
        conn.write(http(
            "200 OK",
            "application/json",
            &format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"length":{length}}}}}"#),
        ))
        .await;
    })
    .await;
    let filler = "x".repeat(1_000_000);
    let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":{{"filler":"{filler}"}}}}"#);
    let length = body.len();
    let answer = server.client().answer(modern("x", None, body)).await;
    assert!(answer.contains(&format!(r#""length":{length}"#)), "{answer}");
    let call = modern("ping", None, PING);
    let BackendAction::Post { body } = &call.action else { panic!("a POST") };
    assert_eq!(text(body), PING);
}
