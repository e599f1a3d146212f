//! Peers that do not read, do not speak, speak too slowly or come too often: their connection ends, and nobody else notices.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::certificates::Authority;
use crate::support::{Edge, Manifests, PATIENCE, answered, free_port, read_message, register};

fn tcp_edge() -> (Edge, u16) {
    let port = free_port();
    let listener = format!("{{name: tcp, protocol: TCP, port: {port}, address: 127.0.0.1}}");
    (Edge::with(Manifests::new().with_domain().with_edge(&listener)), port)
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Reads until the peer has closed.
fn closed(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 65_536];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
        }
    }
}

#[test]
fn a_peer_that_does_not_read_is_closed_and_blocks_nobody() {
    let (edge, port) = tcp_edge();
    let mut wedge = connect(port);
    // Small windows, so that the edge has to queue soon.
    socket2::SockRef::from(&wedge).set_recv_buffer_size(4096).unwrap();
    let local = wedge.local_addr().unwrap();
    let mut writer = wedge.try_clone().unwrap();
    writer.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    // Never reads an answer, and sends as long as anybody takes it.
    let flood = thread::spawn(move || {
        let until = Instant::now() + PATIENCE;
        let mut number = 0;
        while Instant::now() < until {
            number += 1;
            match writer.write_all(register("TCP", local, &format!("wedge{number}")).as_bytes()) {
                Err(error) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return true,
                Ok(()) | Err(_) => {}
            }
        }
        false
    });
    // Meanwhile others are served.
    let mut other = connect(port);
    let other_local = other.local_addr().unwrap();
    for number in 0..20 {
        let id = format!("other{number}x");
        other.write_all(register("TCP", other_local, &id).as_bytes()).unwrap();
        answered(&read_message(&mut other), &id);
    }
    assert!(flood.join().unwrap(), "the edge never closed the connection");
    assert!(closed(&mut wedge));
    edge.status_until(|status| status["counts"]["connections"] == 1);
    other.write_all(register("TCP", other_local, "after").as_bytes()).unwrap();
    answered(&read_message(&mut other), "after");
}

#[test]
fn half_open_handshakes_and_silent_connections_are_closed() {
    let (tls, tcp, ws) = (free_port(), free_port(), free_port());
    let authority = Authority::new();
    let manifests = Manifests::new().with_domain();
    manifests.write("tls.yaml", &authority.server("demo.example").secret("edge-tls"));
    let edge = Edge::with(manifests.with_edge(&format!(
        "{{name: sips, protocol: TLS, port: {tls}, address: 127.0.0.1, tls: {{certificateRefs: [{{name: edge-tls}}]}}}}\n\
         {{name: tcp, protocol: TCP, port: {tcp}, address: 127.0.0.1}}\n\
         {{name: ws, protocol: WS, port: {ws}, address: 127.0.0.1}}"
    )));
    let mut silent = connect(tls);
    // The beginning of a ClientHello.
    let mut half = connect(tls);
    half.write_all(&[0x16, 3, 1, 2, 0]).unwrap();
    let mut upgrade = connect(ws);
    upgrade.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n").unwrap();
    let mut nothing = connect(tcp);
    // Pings alone do not count as a first message; nor does one that never ends.
    let mut pings = connect(tcp);
    pings.write_all(b"\r\n\r\n").unwrap();
    let mut slow = connect(tcp);
    slow.write_all(b"OPTIONS sip:demo.example SIP/2.0\r\nVia: ").unwrap();
    for stream in [&mut silent, &mut half, &mut upgrade, &mut nothing, &mut pings, &mut slow] {
        assert!(closed(stream));
    }
    edge.status_until(|status| status["counts"]["connections"] == 0);
    edge.counted("sipmcp_edge_queue_dropped_total{queue=\"handshakes\"}", 3);
    edge.counted("sipmcp_edge_queue_dropped_total{queue=\"pre_auth\"}", 3);
}

#[test]
fn a_first_message_beyond_every_limit_is_refused_and_closed() {
    let (_edge, port) = tcp_edge();
    // A head that never ends.
    let mut stream = connect(port);
    let mut head = b"OPTIONS sip:demo.example SIP/2.0\r\n".to_vec();
    head.resize(200_000, b'x');
    // The edge may close before it took everything.
    let _ = stream.write_all(&head);
    assert!(closed(&mut stream));
    // A body that is too large: the head is answered, the body is not waited for.
    let mut stream = connect(port);
    let text =
        register("TCP", stream.local_addr().unwrap(), "large").replace("Content-Length: 0", "Content-Length: 70000");
    stream.write_all(text.as_bytes()).unwrap();
    assert_eq!(answered(&read_message(&mut stream), "large"), 413);
    // Also where the body is on its way already: the answer is not lost with the rest.
    let mut stream = connect(port);
    let head =
        register("TCP", stream.local_addr().unwrap(), "sent").replace("Content-Length: 0", "Content-Length: 9000000");
    stream.write_all(head.as_bytes()).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let body = thread::spawn(move || (0..100).all(|_| writer.write_all(&[b'x'; 10_000]).is_ok()));
    assert_eq!(answered(&read_message(&mut stream), "sent"), 413);
    assert!(closed(&mut stream));
    body.join().unwrap();
}

#[test]
fn one_source_has_256_connections_at_most() {
    let (edge, port) = tcp_edge();
    let mut streams: Vec<TcpStream> = Vec::new();
    // Each speaks, so that none is closed for its silence.
    for number in 0..256 {
        let mut stream = connect(port);
        let id = format!("c{number}x");
        stream.write_all(register("TCP", stream.local_addr().unwrap(), &id).as_bytes()).unwrap();
        answered(&read_message(&mut stream), &id);
        streams.push(stream);
    }
    assert!(closed(&mut connect(port)), "one more");
    edge.counted("sipmcp_edge_queue_dropped_total{queue=\"source_connections\"}", 1);
    // Another source is another matter.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 2], 0)).into()).unwrap();
    socket.connect(&SocketAddr::from(([127, 0, 0, 1], port)).into()).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(register("TCP", stream.local_addr().unwrap(), "second").as_bytes()).unwrap();
    answered(&read_message(&mut stream), "second");
    // A place that was given back can be taken.
    drop(streams.pop());
    edge.status_until(|status| status["counts"]["connections"] == 256);
    let mut stream = connect(port);
    stream.write_all(register("TCP", stream.local_addr().unwrap(), "again").as_bytes()).unwrap();
    answered(&read_message(&mut stream), "again");
}
