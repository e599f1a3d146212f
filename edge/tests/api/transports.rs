//! An OPTIONS and a REGISTER over every transport, through the real core.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};

use crate::certificates::{Authority, tls_client};
use crate::support::{Edge, Manifests, PATIENCE, answered, free_port, options, read_message, register};

/// Sends on a stream and reads the answers.
fn over_stream(stream: &mut (impl Read + Write), transport: &str, local: std::net::SocketAddr) {
    stream.write_all(options(transport, local, "o1").as_bytes()).unwrap();
    assert_eq!(answered(&read_message(stream), "o1"), 200);
    stream.write_all(register(transport, local, "r1").as_bytes()).unwrap();
    assert_eq!(answered(&read_message(stream), "r1"), 401);
    // Two in one write, the second in two pieces.
    let two = options(transport, local, "o2") + &options(transport, local, "o3");
    let (head, tail) = two.as_bytes().split_at(two.len() - 40);
    stream.write_all(head).unwrap();
    stream.flush().unwrap();
    stream.write_all(tail).unwrap();
    // Different calls may be served by different cores: their answers come in any order.
    let answers = [read_message(stream), read_message(stream)];
    let (second, third) = if answers[0].contains("z9hG4bKo2") { (0, 1) } else { (1, 0) };
    assert_eq!(answered(&answers[second], "o2"), 200);
    assert_eq!(answered(&answers[third], "o3"), 200);
}

#[test]
fn udp_answers_options_and_challenges_a_registration() {
    let port = free_port();
    let listener = format!("{{name: udp, protocol: UDP, port: {port}, address: 127.0.0.1}}");
    let edge = Edge::with(Manifests::new().with_domain().with_edge(&listener));
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(("127.0.0.1", port)).unwrap();
    let local = socket.local_addr().unwrap();
    let mut buffer = [0; 65_536];
    let mut exchange = |text: &str| {
        socket.send(text.as_bytes()).unwrap();
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    let answer = exchange(&options("UDP", local, "u1"));
    assert_eq!(answered(&answer, "u1"), 200);
    assert!(answer.contains(&format!("rport={}", local.port())), "{answer}");
    assert_eq!(answered(&exchange(&register("UDP", local, "u2")), "u2"), 401);
    // Many calls: both shards and both sockets serve.
    for number in 0..64 {
        let id = format!("many{number}x");
        assert_eq!(answered(&exchange(&options("UDP", local, &id)), &id), 200);
    }
    // Rubbish ends nothing.
    socket.send(b"\r\n\r\n").unwrap();
    socket.send(&[0xff; 1200]).unwrap();
    assert_eq!(answered(&exchange(&options("UDP", local, "u3")), "u3"), 200);
    drop(edge);
}

#[test]
fn udp_works_over_ipv6() {
    let port = free_port();
    let listener = format!("{{name: udp, protocol: UDP, port: {port}, address: \"::1\"}}");
    let _edge = Edge::with(Manifests::new().with_domain().with_edge(&listener));
    let socket = UdpSocket::bind("[::1]:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(options("UDP", socket.local_addr().unwrap(), "v6").as_bytes(), ("::1", port)).unwrap();
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).unwrap();
    assert_eq!(answered(std::str::from_utf8(&buffer[..length]).unwrap(), "v6"), 200);
}

#[test]
fn tcp_answers_and_keeps_alive() {
    let port = free_port();
    let listener = format!("{{name: tcp, protocol: TCP, port: {port}, address: 127.0.0.1}}");
    let edge = Edge::with(Manifests::new().with_domain().with_edge(&listener));
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let local = stream.local_addr().unwrap();
    over_stream(&mut stream, "TCP", local);
    // RFC 5626 §4.4.1: CRLFCRLF is answered with CRLF.
    stream.write_all(b"\r\n\r\n").unwrap();
    let mut pong = [0; 2];
    stream.read_exact(&mut pong).unwrap();
    assert_eq!(&pong, b"\r\n");
    assert_eq!(edge.status()["counts"]["connections"], 1);
    drop(stream);
    edge.status_until(|status| status["counts"]["connections"] == 0);
}

#[test]
fn tls_answers_with_and_without_a_client_certificate() {
    let port = free_port();
    let authority = Authority::new();
    let manifests = Manifests::new().with_domain();
    manifests.write("tls.yaml", &authority.server("demo.example").secret("edge-tls"));
    let listener = format!(
        "{{name: sips, protocol: TLS, port: {port}, address: 127.0.0.1, tls: {{certificateRefs: [{{name: edge-tls}}]}}}}"
    );
    let _edge = Edge::with(manifests.with_edge(&listener));
    for versions in [&[&tokio_rustls::rustls::version::TLS12][..], &[&tokio_rustls::rustls::version::TLS13]] {
        let mut stream = tls_client(&authority, port, None, versions);
        let local = stream.sock.local_addr().unwrap();
        over_stream(&mut stream, "TLS", local);
    }
    // A certificate of an authority that nobody here knows counts as none.
    let stranger = Authority::new().user("sip:alice@demo.example");
    let mut stream = tls_client(&authority, port, Some(&stranger), &[&tokio_rustls::rustls::version::TLS13]);
    let local = stream.sock.local_addr().unwrap();
    over_stream(&mut stream, "TLS", local);
}

#[test]
fn wss_and_ws_answer_with_the_subprotocol_sip() {
    let (wss, ws) = (free_port(), free_port());
    let authority = Authority::new();
    let manifests = Manifests::new().with_domain();
    manifests.write("tls.yaml", &authority.server("demo.example").secret("edge-tls"));
    let edge = Edge::with(manifests.with_edge(&format!(
        "{{name: wss, protocol: WSS, port: {wss}, address: 127.0.0.1, tls: {{certificateRefs: [{{name: edge-tls}}]}}}}\n\
         {{name: ws, protocol: WS, port: {ws}, address: 127.0.0.1}}"
    )));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let tcp = tokio::net::TcpStream::connect(("127.0.0.1", wss)).await.unwrap();
        let tls = tokio_rustls::TlsConnector::from(authority.client(None, &[&tokio_rustls::rustls::version::TLS13]));
        let tls = tls.connect("demo.example".try_into().unwrap(), tcp).await.unwrap();
        websocket::talk(tls, "WSS", &[("Sec-WebSocket-Protocol", "sip")]).await.unwrap();

        let plain = async || tokio::net::TcpStream::connect(("127.0.0.1", ws)).await.unwrap();
        websocket::talk(plain().await, "WS", &[("Sec-WebSocket-Protocol", "chat, sip")]).await.unwrap();
        let browser = [("Sec-WebSocket-Protocol", "sip"), ("Origin", "https://phone.demo.example")];
        websocket::talk(plain().await, "WS", &browser).await.unwrap();
        assert_eq!(websocket::talk(plain().await, "WS", &[]).await, Err(400));
        let foreign = [("Sec-WebSocket-Protocol", "sip"), ("Origin", "https://evil.example")];
        assert_eq!(websocket::talk(plain().await, "WS", &foreign).await, Err(403));
    });
    edge.counted("sipmcp_edge_queue_dropped_total{queue=\"handshakes\"}", 2);
}

mod websocket {
    use futures_util::{SinkExt, StreamExt};
    use tokio::io::{AsyncRead, AsyncWrite};
    use tokio_tungstenite::client_async;
    use tokio_tungstenite::tungstenite::client::IntoClientRequest;
    use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
    use tokio_tungstenite::tungstenite::{Error, Message};

    use crate::support::{answered, options, register};

    /// One OPTIONS and one REGISTER; `Err` with the HTTP status of a refused upgrade.
    pub async fn talk<S>(stream: S, transport: &str, headers: &[(&'static str, &str)]) -> Result<(), u16>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut request = "ws://demo.example/".into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(
                HeaderName::from_static(&name.to_ascii_lowercase().leak()[..]),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        let (mut socket, response) = match client_async(request, stream).await {
            Ok(connected) => connected,
            Err(Error::Http(response)) => return Err(response.status().as_u16()),
            Err(other) => panic!("{other}"),
        };
        assert_eq!(response.headers()["sec-websocket-protocol"], "sip");
        // RFC 7118 §5: a browser has no address of its own to write.
        let local = "192.0.2.1:9".parse().unwrap();
        for (text, id, status) in
            [(options(transport, local, "w1"), "w1", 200), (register(transport, local, "w2"), "w2", 401)]
        {
            socket.send(Message::text(text)).await.unwrap();
            let answer = socket.next().await.unwrap().unwrap();
            assert!(answer.is_text());
            assert_eq!(answered(answer.to_text().unwrap(), id), status);
        }
        socket.send(Message::binary(options(transport, local, "w3").into_bytes())).await.unwrap();
        assert_eq!(answered(socket.next().await.unwrap().unwrap().to_text().unwrap(), "w3"), 200);
        socket.close(None).await.unwrap();
        Ok(())
    }
}
