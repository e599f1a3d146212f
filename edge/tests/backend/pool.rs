//! Kept connections, and how much may be under way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use edge::backend::{BackendConfig, BackendConfigError, Bearer};
use edge_core::input::{BackendEvent, BackendFailure};
use tokio::sync::Notify;

use crate::harness::{Client, EVENTS, PING, PONG, Server, http, legacy, listen, modern, until};

const NOTIFICATION: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

#[tokio::test]
async fn a_connection_serves_many_calls() {
    let json = Server::answering(http("200 OK", "application/json", PONG)).await;
    let event = format!("data: {PONG}\n\n");
    let chunked = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{event}\r\n0\r\n\r\n",
        event.len()
    );
    let events = Server::answering(chunked).await;
    for server in [json, events] {
        let client = server.client();
        for _ in 0..20 {
            assert_eq!(client.answer(modern("ping", None, PING)).await, PONG);
            until("the connection is kept", || client.backends.stats()["acme/agent"].idle_connections == 1).await;
        }
        assert_eq!((server.connections(), server.requests()), (1, 20));
    }
}

#[tokio::test]
async fn a_kept_connection_that_the_server_closed_is_not_used() {
    let server = Server::answering_once(http("200 OK", "application/json", PONG)).await;
    let client = server.client();
    for _ in 0..5 {
        assert_eq!(client.answer(modern("ping", None, PING)).await, PONG);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!((server.connections(), server.requests()), (5, 5));
}

#[tokio::test]
async fn a_request_that_may_have_arrived_is_never_sent_again() {
    // The second request on each connection is read, and the connection closed.
    let server = Server::start(|mut conn| async move {
        if conn.request().await.is_some() {
            conn.write(http("200 OK", "application/json", PONG)).await;
            conn.request().await;
        }
    })
    .await;
    let client = server.client();
    assert_eq!(client.answer(modern("ping", None, PING)).await, PONG);
    assert_eq!(client.failure(modern("ping", None, PING)).await, BackendFailure::Interrupted);
    assert_eq!((server.connections(), server.requests()), (1, 2));
}

#[tokio::test]
async fn idle_connections_are_bounded_and_closed_in_time() {
    let gate = Arc::new(Notify::new());
    let open = gate.clone();
    let server = Server::start(move |mut conn| {
        let gate = open.clone();
        async move {
            conn.request().await;
            gate.notified().await;
            conn.write(http("200 OK", "application/json", PONG)).await;
            conn.closed().await;
        }
    })
    .await;
    let mut config = BackendConfig::new(server.url());
    config.limits.idle_connections = 3;
    let client = Client::with(config);
    let running: Vec<_> = (0..8).map(|_| client.start(modern("ping", None, PING))).collect();
    until("all requests arrived", || server.requests() == 8).await;
    gate.notify_waiters();
    for running in running {
        assert_eq!(running.rest().await.last(), Some(&BackendEvent::Done));
    }
    assert_eq!(client.backends.stats()["acme/agent"].idle_connections, 3);
    until("idle connections are closed", || client.backends.stats()["acme/agent"].idle_connections == 0).await;
}

#[tokio::test]
async fn over_the_bounds_is_overloaded_and_responses_do_not_wait_behind_requests() {
    let server = Server::start(|mut conn| async move {
        while let Some((_, body)) = conn.request().await {
            if body == PING.as_bytes() {
                conn.closed().await;
            } else {
                conn.write("HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n").await;
            }
        }
    })
    .await;
    let mut config = BackendConfig::new(server.url());
    config.limits.requests = 2;
    config.limits.waiting = 1;
    config.limits.streams = 1;
    let client = Client::with(config);
    let first = client.start(modern("ping", None, PING));
    let second = client.start(modern("ping", None, PING));
    until("two are under way", || server.requests() == 2).await;
    let mut third = modern("ping", None, PING);
    third.timeout_ms = 400;
    let third = client.start(third);
    until("one waits", || client.backends.stats()["acme/agent"].waiting == 1).await;
    assert_eq!(client.call(modern("ping", None, PING)).await, [BackendEvent::Failed(BackendFailure::Overloaded)]);
    // What the waiting requests may wait for gets through.
    let posted = client.call(legacy(Some("s"), NOTIFICATION)).await;
    assert_eq!(posted.last(), Some(&BackendEvent::Done));
    // Waited until its deadline, never sent.
    assert_eq!(third.rest().await, [BackendEvent::Failed(BackendFailure::Overloaded)]);
    assert_eq!(server.requests(), 3);
    client.backends.cancel(first.id);
    client.backends.cancel(second.id);
    until("the places are free", || client.backends.stats()["acme/agent"].requests == 0).await;
}

#[tokio::test]
async fn streams_have_their_own_bound() {
    let server = Server::start(|mut conn| async move {
        conn.request().await;
        conn.write(EVENTS).await;
        conn.closed().await;
    })
    .await;
    let mut config = BackendConfig::new(server.url());
    config.limits.streams = 1;
    let client = Client::with(config);
    let mut stream = client.start(listen("s", None));
    assert!(matches!(stream.next().await, BackendEvent::Head { status: 200, .. }));
    assert_eq!(client.call(listen("t", None)).await, [BackendEvent::Failed(BackendFailure::Overloaded)]);
    client.backends.cancel(stream.id);
}

#[tokio::test]
async fn a_new_configuration_keeps_what_did_not_change_and_refuses_what_is_wrong() {
    let old = Server::answering(http("200 OK", "application/json", PONG)).await;
    let new = Server::answering(http("200 OK", "application/json", PONG)).await;
    let client = old.client();
    client.answer(modern("ping", None, PING)).await;
    let agents = |config: BackendConfig| BTreeMap::from([("acme/agent".to_owned(), config)]);

    client.backends.configure(agents(BackendConfig::new(old.url()))).expect("the same");
    client.answer(modern("ping", None, PING)).await;
    assert_eq!(old.connections(), 1, "the connection was kept");

    let mut wrong = agents(BackendConfig::new("ftp://x/"));
    let mut no_credential = BackendConfig::new("http://x/");
    no_credential.bearer = Some(Bearer::new(" \n"));
    wrong.insert("acme/other".to_owned(), no_credential);
    let errors = client.backends.configure(wrong).expect_err("refused").0;
    assert!(matches!(errors["acme/agent"], BackendConfigError::Url(_)));
    assert_eq!(errors["acme/other"], BackendConfigError::Credential);
    client.answer(modern("ping", None, PING)).await;

    client.backends.configure(agents(BackendConfig::new(new.url()))).expect("another");
    client.answer(modern("ping", None, PING)).await;
    assert_eq!((old.requests(), new.requests()), (3, 1));
    client.backends.configure(BTreeMap::new()).expect("none");
    assert_eq!(client.failure(modern("ping", None, PING)).await, BackendFailure::Unreachable);
}

#[tokio::test]
async fn reg_9_connections_go_where_the_service_is_ready() {
    let pong = || http("200 OK", "application/json", PONG);
    let (first, second) = (Server::answering(pong()).await, Server::answering(pong()).await);
    // No resolver knows this name.
    let url = "http://billing-mcp.acme.invalid:8080/mcp";
    let client = Client::new(url);
    let route = |to: &[&Server]| {
        let to = to.iter().map(|server| server.address).collect();
        client.backends.route(BTreeMap::from([("acme/agent".to_owned(), to)]));
    };
    let ping = || modern("ping", None, PING);
    assert_eq!(client.failure(ping()).await, BackendFailure::Unreachable);
    route(&[&first]);
    assert_eq!(client.answer(ping()).await, PONG);
    // The connection that is kept leads to what is not ready any more.
    until("it is kept", || client.backends.stats()["acme/agent"].idle_connections == 1).await;
    route(&[&second]);
    assert_eq!(client.answer(ping()).await, PONG);
    assert_eq!((first.requests(), second.requests()), (1, 1));
    route(&[]);
    assert_eq!(client.failure(ping()).await, BackendFailure::Unreachable);
    // One that is configured later begins with its route, and a route that nobody gives leads to the name.
    route(&[&first]);
    let mut other = BackendConfig::new(url);
    other.limits.requests = 7;
    client.backends.configure(BTreeMap::from([("acme/agent".to_owned(), other)])).expect("a good configuration");
    assert_eq!(client.answer(ping()).await, PONG);
    assert_eq!(first.requests(), 2);
    client.backends.route(BTreeMap::new());
    assert_eq!(client.failure(ping()).await, BackendFailure::Unreachable);
}

/// Takes no connection and refuses none: its queue is full.
async fn silent() -> (std::net::SocketAddr, Vec<Box<dyn Send>>) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut held: Vec<Box<dyn Send>> = vec![Box::new(socket)];
    loop {
        match tokio::time::timeout(Duration::from_millis(200), tokio::net::TcpStream::connect(address)).await {
            Ok(stream) => held.push(Box::new(stream.unwrap())),
            Err(_) => return (address, held),
        }
    }
}

#[tokio::test]
async fn an_endpoint_that_is_silent_does_not_use_up_the_time_of_the_others() {
    let server = Server::answering_once(http("200 OK", "application/json", PONG)).await;
    let good = server.url().parse::<hyper::Uri>().unwrap().authority().unwrap().as_str().parse().unwrap();
    let (silent, _held) = silent().await;
    let mut config = BackendConfig::new("http://backend.invalid/mcp");
    config.limits.connect_timeout = Duration::from_secs(2);
    let client = Client::with(config);
    // Each connection begins with the next of the route.
    client.backends.route(BTreeMap::from([("acme/agent".to_owned(), vec![silent, silent, silent, good])]));
    for _ in 0..4 {
        assert_eq!(client.answer(modern("ping", None, PING)).await, PONG);
    }
    client.backends.route(BTreeMap::from([("acme/agent".to_owned(), vec![silent])]));
    assert_eq!(client.failure(modern("ping", None, PING)).await, BackendFailure::Unreachable);
}
