//! Spans reach an OTLP collector over gRPC: one trace from the SIP request to the backend call, without payloads.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, sync_channel};

use bytes::{Bytes, BytesMut};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::net::TcpListener;

use crate::calls::{Echo, message, tool_call};
use crate::support::{Edge, Manifests, PATIENCE, answered, free_port, read_message};

/// A gRPC collector of the smallest kind: it takes every unary call and hands the request on.
fn collector() -> (SocketAddr, Receiver<ExportTraceServiceRequest>) {
    let (exports, received) = sync_channel(100);
    let (ready, address) = sync_channel(1);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            ready.send(listener.local_addr().unwrap()).unwrap();
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let exports = exports.clone();
                tokio::spawn(async move {
                    let mut connection = h2::server::handshake(tcp).await.unwrap();
                    while let Some(Ok((request, mut respond))) = connection.accept().await {
                        let exports = exports.clone();
                        tokio::spawn(async move {
                            let mut body = request.into_body();
                            let mut octets = BytesMut::new();
                            while let Some(Ok(chunk)) = body.data().await {
                                octets.extend_from_slice(&chunk);
                                let _ = body.flow_control().release_capacity(chunk.len());
                            }
                            // A gRPC message: one octet of flags, four of length.
                            let _ = exports.send(ExportTraceServiceRequest::decode(&octets[5..]).unwrap());
                            let head = h2_response(&[("content-type", "application/grpc")]);
                            let mut stream = respond.send_response(head, false).unwrap();
                            stream.send_data(Bytes::from_static(&[0, 0, 0, 0, 0]), false).unwrap();
                            let mut trailers = hyper::HeaderMap::new();
                            trailers.insert("grpc-status", hyper::header::HeaderValue::from_static("0"));
                            stream.send_trailers(trailers).unwrap();
                        });
                    }
                });
            }
        });
    });
    (address.recv().unwrap(), received)
}

fn h2_response(headers: &[(&'static str, &'static str)]) -> hyper::Response<()> {
    let mut response = hyper::Response::new(());
    for (name, value) in headers {
        response.headers_mut().insert(*name, hyper::header::HeaderValue::from_static(value));
    }
    response
}

#[test]
fn one_trace_leads_from_the_sip_request_to_the_tool() {
    let port = free_port();
    let (collector, exports) = collector();
    let echo = Echo::start();
    let manifests = Manifests::new().with_domain();
    manifests.write("agent.yaml", &echo.manifest());
    let manifests = manifests.with_edge(&format!("{{name: tcp, protocol: TCP, port: {port}, address: 127.0.0.1}}"));
    let edge = Edge::start_with(&manifests, &["--otlp-endpoint", &format!("http://{collector}")]);
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let local = stream.local_addr().unwrap();
    let text = message("TCP", local, "traced", 1, "", &tool_call("echo", r#"{"text":"private"}"#));
    stream.write_all(text.as_bytes()).unwrap();
    assert_eq!(answered(&read_message(&mut stream), "traced"), 200);
    read_message(&mut stream);

    let mut spans: Vec<Span> = Vec::new();
    while spans.len() < 2 {
        let export = exports.recv_timeout(PATIENCE).expect("spans reach the collector");
        assert!(!format!("{export:?}").contains("private"), "sec_11: no payload in a span");
        for resource in export.resource_spans {
            let attributes = format!("{:?}", resource.resource);
            assert!(attributes.contains("sipmcp-edge") && attributes.contains("default/demo"), "{attributes}");
            spans.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
    }
    let server = spans.iter().find(|span| span.kind == 2).expect("a server span");
    let client = spans.iter().find(|span| span.kind == 3).expect("a client span");
    assert_eq!(server.name, "tools/call echo");
    assert_eq!((&client.trace_id, &client.parent_span_id), (&server.trace_id, &server.span_id));
    assert!(server.attributes.iter().any(|attribute| attribute.key == "gen_ai.tool.name"));

    // What waits at the end is sent before the process ends.
    let text = message("TCP", local, "last", 1, "", &tool_call("echo", "{}"));
    stream.write_all(text.as_bytes()).unwrap();
    assert_eq!(answered(&read_message(&mut stream), "last"), 200);
    let answer = read_message(&mut stream);
    assert!(answer.starts_with("MESSAGE"), "{answer}");
    edge.signal("-TERM");
    assert!(exports.recv_timeout(PATIENCE).is_ok());
    assert_eq!(edge.wait().0.code(), Some(0));
}
