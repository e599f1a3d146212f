//! Requests, responses and edited copies: what is written is what is meant.

use std::net::SocketAddr;

use bytes::Bytes;
use sip_proto::message::{Edit, HeaderId, Message, Request, Response, Transportation};

fn parse(bytes: Bytes) -> Message {
    let shown = String::from_utf8_lossy(&bytes).into_owned();
    Message::parse(bytes, Transportation::Stream).unwrap_or_else(|e| panic!("{e:?}: {shown}"))
}

fn invite() -> Message {
    let request = Request::new("INVITE", "sip:bob@biloxi.example;transport=tcp")
        .via("SIP/2.0/UDP pc33.atlanta.example:5066;branch=z9hG4bK1;rport;x=\"a,b\", SIP/2.0/TCP two;branch=z9hG4bK2")
        .header(HeaderId::From, "\"Alice\" <sip:alice@atlanta.example>;tag=88")
        .header(HeaderId::To, "<sip:bob@biloxi.example>")
        .header(HeaderId::CallId, "call-1@atlanta.example")
        .header(HeaderId::CSeq, "7 INVITE")
        .header(HeaderId::MaxForwards, "70")
        .header(HeaderId::Route, "<sip:p1;lr>, \"P, 2\" <sip:p2;lr>")
        .header(HeaderId::RecordRoute, "<sip:r1;lr>")
        .header(HeaderId::Timestamp, "54")
        .header_named("X-Custom", "1")
        .header_named("X-Custom", "2")
        .body("application/sdp", "v=0\r\n");
    parse(request.build())
}

#[test]
fn requests_have_what_was_put_in() {
    let message = invite();
    assert_eq!(message.request_uri(), Some("sip:bob@biloxi.example;transport=tcp"));
    assert_eq!(message.vias().count(), 2);
    assert_eq!(message.headers_named("x-custom").count(), 2);
    assert_eq!(message.body(), "v=0\r\n");
    assert_eq!(message.header(HeaderId::ContentLength), Some(&b"5"[..]));
    let empty = Request::new("OPTIONS", "sip:h").header(HeaderId::ContentLength, "9").header_named("l", "8").build();
    assert_eq!(empty, "OPTIONS sip:h SIP/2.0\r\nContent-Length: 0\r\n\r\n");
}

#[test]
fn nothing_that_is_put_in_becomes_a_line() {
    let request = Request::new("INV ITE\r\n", "sip:a@b\r\nX: y")
        .header(HeaderId::Subject, "a\r\nVia: evil\0")
        .header_named("X\r\nY", b"\r\n\r\nBYE")
        .body("text/plain\r\nX: y", "body")
        .build();
    let expected = "INV-ITE-- sip:a@b%0D%0AX:%20y SIP/2.0\r\nSubject: a  Via: evil \r\nX--Y:     BYE\r\n\
                    Content-Type: text/plain  X: y\r\nContent-Length: 4\r\n\r\nbody";
    assert_eq!(request, expected);
    let invite = invite();
    let response = Response::to_request(&invite, 7, Some("a\r\nb")).to_tag("x\r\ny;z").build();
    let response = parse(response);
    assert_eq!((response.status(), response.reason()), (Some(500), Some(&b"a  b"[..])));
    assert_eq!(response.to_tag(), Some("x--y-z"));
}

#[test]
fn responses_carry_the_dialog_and_the_way_back() {
    let invite = invite();
    let source: SocketAddr = "192.0.2.7:40000".parse().unwrap();
    let ok = Response::to_request(&invite, 200, None)
        .received(source)
        .to_tag("t2")
        .copy(HeaderId::RecordRoute)
        .header(HeaderId::Contact, "<sip:bob@h>")
        .body("application/sdp", "v=1\r\n")
        .build();
    let text = String::from_utf8(ok.to_vec()).unwrap();
    let expected = "SIP/2.0 200 OK\r\n\
        Via: SIP/2.0/UDP pc33.atlanta.example:5066;branch=z9hG4bK1;rport=40000;x=\"a,b\";received=192.0.2.7, SIP/2.0/TCP two;branch=z9hG4bK2\r\n\
        From: \"Alice\" <sip:alice@atlanta.example>;tag=88\r\nTo: <sip:bob@biloxi.example>;tag=t2\r\nCall-ID: call-1@atlanta.example\r\n\
        CSeq: 7 INVITE\r\nRecord-Route: <sip:r1;lr>\r\nContact: <sip:bob@h>\r\nContent-Type: application/sdp\r\nContent-Length: 5\r\n\r\nv=1\r\n";
    assert_eq!(text, expected);
    let trying = parse(Response::to_request(&invite, 100, None).build());
    assert_eq!(trying.header(HeaderId::Timestamp), Some(&b"54"[..]));
    assert_eq!(trying.to_tag(), None);
    // A To that has a tag keeps it.
    let in_dialog = parse(Edit::new(&invite).replace(HeaderId::To, &b"<sip:bob@biloxi.example>;tag=old"[..]).build());
    assert_eq!(parse(Response::to_request(&in_dialog, 200, None).to_tag("new").build()).to_tag(), Some("old"));
    assert_eq!(
        parse(Response::to_request(&invite, 486, Some("Nobody Home")).build()).reason(),
        Some(&b"Nobody Home"[..])
    );
}

#[test]
fn what_the_server_saw_replaces_what_the_client_says() {
    let via = |value: &str, source: &str| {
        let message = parse(Edit::new(&invite()).replace(HeaderId::Via, value.as_bytes().to_vec()).build());
        let stored = message.with_received(source.parse().unwrap());
        String::from_utf8(stored.top_via().raw().to_vec()).unwrap()
    };
    // Address as written: nothing to say.
    assert_eq!(via("SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1", "192.0.2.1:9"), "SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1");
    assert_eq!(
        via("SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1", "192.0.2.2:9"),
        "SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1;received=192.0.2.2"
    );
    // RFC 3581 §4: with rport both, even when the address fits.
    assert_eq!(
        via("SIP/2.0/UDP 192.0.2.1 ;rport; branch=z9hG4bK1", "192.0.2.1:9"),
        "SIP/2.0/UDP 192.0.2.1;rport=9;branch=z9hG4bK1;received=192.0.2.1"
    );
    // Forged values go.
    assert_eq!(
        via("SIP/2.0/UDP h;received=10.0.0.1;rport=1;branch=z9hG4bK1", "[::ffff:192.0.2.1]:9"),
        "SIP/2.0/UDP h;rport=9;branch=z9hG4bK1;received=192.0.2.1"
    );
    assert_eq!(via("SIP/2.0/UDP 192.0.2.1;received=10.0.0.1", "192.0.2.1:9"), "SIP/2.0/UDP 192.0.2.1");
    assert_eq!(
        via("SIP/2.0/UDP [2001:db8::1]:5060;branch=z9hG4bK1", "[2001:db8::2]:5060"),
        "SIP/2.0/UDP [2001:db8::1]:5060;branch=z9hG4bK1;received=2001:db8::2"
    );
}

#[test]
fn edits_touch_what_they_name() {
    let invite = invite();
    let edited = parse(
        Edit::new(&invite)
            .request_uri("sip:other@h")
            .push_via(&b"SIP/2.0/TLS edge;branch=z9hG4bKe"[..])
            .max_forwards(69)
            .remove_first_value(HeaderId::Route)
            .push_front(HeaderId::RecordRoute, &b"<sip:edge;lr>"[..])
            .remove_named("x-custom")
            .append_named("X-New", &b"n"[..])
            .append(HeaderId::Reason, &b"SIP;cause=200"[..])
            .replace(HeaderId::Timestamp, &b"55"[..])
            .replace(HeaderId::Expires, &b"60"[..])
            .build(),
    );
    assert_eq!(edited.request_uri(), Some("sip:other@h"));
    assert_eq!(edited.vias().map(|v| v.host_str()).collect::<Vec<_>>(), ["edge", "pc33.atlanta.example", "two"]);
    assert_eq!(edited.max_forwards(), Some(69));
    assert_eq!(edited.routes().map(|r| r.uri()).collect::<Vec<_>>(), ["sip:p2;lr"]);
    assert_eq!(edited.record_routes().map(|r| r.uri()).collect::<Vec<_>>(), ["sip:edge;lr", "sip:r1;lr"]);
    assert_eq!(edited.headers_named("X-Custom").count(), 0);
    assert_eq!(edited.headers_named("X-New").next(), Some(&b"n"[..]));
    assert_eq!((edited.header(HeaderId::Timestamp), edited.expires()), (Some(&b"55"[..]), Some(60)));
    assert_eq!(edited.body(), "v=0\r\n");
    // What was not named is byte-exact.
    for id in [HeaderId::From, HeaderId::To, HeaderId::CallId, HeaderId::CSeq, HeaderId::ContentType] {
        assert_eq!(edited.header(id), invite.header(id));
    }
}

#[test]
fn edits_of_lists_and_bodies() {
    let invite = invite();
    let no_route =
        parse(Edit::new(&invite).remove(HeaderId::Route).body(Some(("a/b", Bytes::from_static(b"xyz")))).build());
    assert_eq!(no_route.routes().count(), 0);
    assert!(no_route.content_type().unwrap().is("a/b"));
    assert_eq!(no_route.body(), "xyz");
    let bare = parse(Edit::new(&invite).body(None::<(&[u8], Bytes)>).build());
    assert_eq!((bare.body().len(), bare.content_type()), (0, None));
    let swapped = parse(Edit::new(&invite).replace_first_value(HeaderId::Route, &b"<sip:p0;lr>"[..]).build());
    assert_eq!(swapped.routes().map(|r| r.uri()).collect::<Vec<_>>(), ["sip:p0;lr", "sip:p2;lr"]);
    let popped = parse(Edit::new(&invite).remove_first_value(HeaderId::Via).build());
    assert_eq!(popped.vias().map(|v| v.host_str()).collect::<Vec<_>>(), ["two"]);
    let two = parse(
        Edit::new(&invite)
            .push_via(&b"SIP/2.0/TCP a;branch=z9hG4bKa"[..])
            .push_via(&b"SIP/2.0/TCP b;branch=z9hG4bKb"[..])
            .build(),
    );
    assert_eq!(two.vias().count(), 4);
    let hops =
        parse(Edit::new(&parse(Edit::new(&invite).remove(HeaderId::MaxForwards).build())).max_forwards(70).build());
    assert_eq!(hops.max_forwards(), Some(70));
    let framing =
        parse(Edit::new(&invite).remove(HeaderId::ContentLength).append_named("Content-Length", &b"0"[..]).build());
    assert_eq!(framing, invite);
    let clean = Edit::new(&invite).request_uri("sip:a b\r\n@h").append(HeaderId::Subject, &b"x\r\nVia: y"[..]).build();
    let clean = parse(clean);
    assert_eq!((clean.request_uri(), clean.vias().count()), (Some("sip:a%20b%0D%0A@h"), 2));
}
