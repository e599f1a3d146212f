//! Legal SIP on which other parsers fail: each row of the table of probes is a test.

use bytes::Bytes;
use sip_proto::framing::{Frame, Ping};
use sip_proto::header::Contacts;
use sip_proto::message::{Edit, HeaderId, Message, Response, Transportation, unfold};
use sip_proto::method::Method;
use sip_proto::multipart::Multipart;
use sip_proto::uri::{Host, Uri};

use crate::exercise;

/// A request with these lines in the place of (or beside) the usual ones.
fn request(start: &str, extra: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{start} SIP/2.0\r\n").into_bytes();
    let method = start.split(' ').next().unwrap();
    let has = |name: &str| {
        extra.split(|&b| b == b'\n').any(|l| l.to_ascii_lowercase().starts_with(name.to_ascii_lowercase().as_bytes()))
    };
    for (name, compact, value) in [
        ("Via", "v", "SIP/2.0/UDP pc33.atlanta.example;branch=z9hG4bK776asdhds".to_owned()),
        ("From", "f", "Alice <sip:alice@atlanta.example>;tag=1928301774".to_owned()),
        ("To", "t", "Bob <sip:bob@biloxi.example>".to_owned()),
        ("Call-ID", "i", "a84b4c76e66710@pc33.atlanta.example".to_owned()),
        ("CSeq", "CSeq", format!("314159 {method}")),
        ("Max-Forwards", "Max-Forwards", "70".to_owned()),
        ("Content-Length", "l", "0".to_owned()),
    ] {
        let is_there = [name, compact].iter().any(|n| has(&format!("{n}:")) || has(&format!("{n} ")));
        if !is_there {
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
    }
    bytes.extend_from_slice(extra);
    if memchr::memmem::find(extra, b"\r\n\r\n").is_none() {
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

fn accept(start: &str, extra: &[u8]) -> Message {
    let bytes = request(start, extra);
    let shown = String::from_utf8_lossy(&bytes).into_owned();
    let message = Message::parse(bytes.into(), Transportation::Datagram).unwrap_or_else(|e| panic!("{e:?}: {shown}"));
    exercise::accepted(&message);
    message
}

fn refuse(start: &str, extra: &[u8]) -> (u16, &'static str) {
    let refusal = Message::parse(request(start, extra).into(), Transportation::Datagram).unwrap_err();
    exercise::refused(&refusal);
    (refusal.status, refusal.reason)
}

const INVITE: &str = "INVITE sip:bob@biloxi.example";

#[test]
fn probe_folded_header_line() {
    let message = accept(INVITE, b"Subject: I know you're there,\r\n pick up the phone\r\n \t and answer!\r\n");
    assert_eq!(
        unfold(message.header(HeaderId::Subject).unwrap()),
        &b"I know you're there, pick up the phone and answer!"[..]
    );
}

#[test]
fn probe_space_before_the_colon() {
    let message = accept(INVITE, b"Subject  \t: lunch\r\nX-Odd :1\r\n");
    assert_eq!(message.header(HeaderId::Subject), Some(&b"lunch"[..]));
    assert_eq!(message.headers_named("x-odd").next(), Some(&b"1"[..]));
}

#[test]
fn probe_folded_content_length() {
    let frames = exercise::frames(&request(INVITE, b"Content-Length:\r\n\t5\r\n\r\nhello"), 1);
    let [Ok(Frame::Message(message))] = &frames[..] else { panic!("{frames:?}") };
    assert_eq!(message.body(), "hello");
}

#[test]
fn probe_crlf_before_the_start_line() {
    let mut bytes = b"\r\n\r\n\r\n".to_vec();
    bytes.extend_from_slice(&request(INVITE, b""));
    let message = Message::parse(bytes.clone().into(), Transportation::Datagram).unwrap();
    assert_eq!(message.method(), Some(Method::Invite));
    let frames = exercise::frames(&bytes, bytes.len());
    let [Ok(Frame::KeepAlive(Ping::Ping)), Ok(Frame::KeepAlive(Ping::Pong)), Ok(Frame::Message(_))] = frames[..] else {
        panic!("{frames:?}")
    };
}

#[test]
fn probe_ipv6_in_request_uri_and_via() {
    let message = accept(
        "REGISTER sip:[2001:db8::10]",
        b"Via: SIP/2.0/UDP [2001:db8::9:1]:6050;received=[2001:db8::9:255];branch=z9hG4bKas3-111\r\n\
          Contact: <sip:user@[2001:db8::1]>\r\n",
    );
    let uri = Uri::parse(message.request_uri().unwrap()).unwrap().sip().unwrap();
    assert_eq!(uri.host(), Host::V6("2001:db8::10".parse().unwrap()));
    assert_eq!(message.top_via().host(), Host::V6("2001:db8::9:1".parse().unwrap()));
    assert_eq!(message.top_via().port(), Some(6050));
    // RFC 5118 §4.10: a port inside the brackets, or an address without them, is none.
    assert_eq!(refuse("OPTIONS sip:user@2001:db8::10", b""), (400, "Malformed Request-URI"));
    assert_eq!(refuse("OPTIONS sip:user@[2001:db8::10:5070", b""), (400, "Malformed Request-URI"));
    assert_eq!(refuse("OPTIONS sip:h", b"Via: SIP/2.0/UDP 2001:db8::9:1;branch=z9hG4bK1\r\n"), (400, "Malformed Via"));
}

#[test]
fn probe_semicolon_in_the_user_part() {
    let message = accept("OPTIONS sip:user;par=u%40example.net@example.com", b"");
    let uri = Uri::parse(message.request_uri().unwrap()).unwrap().sip().unwrap();
    assert_eq!((uri.user(), uri.host_str()), (Some("user;par=u%40example.net"), "example.com"));
}

#[test]
fn probe_tel_and_urn_request_uris_reach_who_answers_416() {
    for uri in ["tel:+12015550123", "urn:service:sos", "http://example.com/x"] {
        let message = accept(&format!("INVITE {uri}"), b"");
        assert_eq!(message.request_uri(), Some(uri));
        assert!(Uri::parse(uri).unwrap().sip().is_none());
    }
}

#[test]
fn probe_compact_forms() {
    let message = accept(
        INVITE,
        b"v: SIP/2.0/TCP h;branch=z9hG4bKx\r\nf: <sip:a@b>;tag=1\r\nt: <sip:c@d>\r\ni: call-1\r\nm: <sip:a@h>\r\n\
          k: 100rel\r\nc: text/plain\r\ns: hi\r\nx: 1800\r\nl: 4\r\n\r\nbody",
    );
    assert_eq!((message.top_via().host_str(), message.from_tag(), message.call_id()), ("h", Some("1"), "call-1"));
    assert_eq!(message.to().uri(), "sip:c@d");
    assert_eq!(message.contacts().first().unwrap().uri(), "sip:a@h");
    assert!(message.list_has(HeaderId::Supported, "100rel") && message.content_type().unwrap().is("text/plain"));
    assert_eq!(message.session_expires().unwrap().interval, 1800);
    assert_eq!(message.body(), "body");
    assert_eq!(message.header_lines().next().unwrap().name, "CSeq");
}

#[test]
fn probe_extension_method() {
    let message = accept("FROBNICATE.2 sip:bob@biloxi.example", b"");
    assert_eq!(message.method(), Some(Method::Extension("FROBNICATE.2")));
    let answer = Message::parse(Response::to_request(&message, 501, None).build(), Transportation::Stream).unwrap();
    assert_eq!(answer.cseq().method, Method::Extension("FROBNICATE.2"));
}

#[test]
fn reg_1_probe_contact_parameters_stay_byte_exact() {
    let value = "\"A\" <sip:a@192.0.2.9;transport=ws>;+mcp;+mcp.ver=\"2025-11-25\";+mcp.cap=\"summarize@1,urn:ex:doc:1\";\
                 +sip.instance=\"<urn:uuid:00000000-0000-1000-8000-000A95A0E128>\";reg-id=1";
    let message = accept("REGISTER sip:biloxi.example", format!("Contact: {value}\r\n").as_bytes());
    let contact = message.contacts().first().unwrap();
    assert_eq!(contact.raw(), value.as_bytes());
    assert_eq!(contact.param("+mcp.ver").unwrap().value, Some("\"2025-11-25\""));
    assert_eq!(contact.param("+MCP.cap").unwrap().text(), "summarize@1,urn:ex:doc:1");
    assert_eq!(contact.param("+sip.instance").unwrap().text(), "<urn:uuid:00000000-0000-1000-8000-000A95A0E128>");
}

#[test]
fn probe_several_values_in_one_line() {
    let message = accept(
        "REGISTER sip:biloxi.example",
        b"Contact: \"a, b\" <sip:a,b@h>;x=\",\" , sip:c@d;expires=5,<sip:e@f>\r\nContact: <sip:g@h>\r\n\
          Via: SIP/2.0/UDP one;branch=z9hG4bK1, SIP/2.0/TCP two;branch=z9hG4bK2\r\nVia: SIP/2.0/TLS three;branch=z9hG4bK3\r\n",
    );
    let contacts: Vec<_> = message.contacts().iter().map(|c| c.uri()).collect();
    assert_eq!(contacts, ["sip:a,b@h", "sip:c@d", "sip:e@f", "sip:g@h"]);
    assert_eq!(message.vias().map(|v| v.host_str()).collect::<Vec<_>>(), ["one", "two", "three"]);
}

#[test]
fn probe_contact_star() {
    let message = accept("REGISTER sip:biloxi.example", b"Contact: *\r\nExpires: 0\r\n");
    assert!(matches!(message.contacts(), Contacts::Star));
    assert_eq!(message.expires(), Some(0));
    assert!(accept(INVITE, b"").contacts().is_empty());
    let both = refuse("REGISTER sip:biloxi.example", b"Contact: *\r\nContact: <sip:a@b>\r\n");
    assert_eq!(both, (400, "Contact * Beside Others"));
    assert_eq!(refuse("REGISTER sip:biloxi.example", b"Contact: *, <sip:a@b>\r\n"), (400, "Malformed Contact"));
}

#[test]
fn probe_space_before_the_semicolon_of_a_via() {
    let message = accept(INVITE, b"Via: SIP/2.0/UDP pc33.atlanta.example:5061 ;branch=z9hG4bKx\r\n");
    assert_eq!(message.top_via().branch(), Some("z9hG4bKx"));
}

#[test]
fn probe_addr_spec_form_of_from() {
    let message = accept(INVITE, b"From: sip:a@e;tag=T\r\n");
    assert_eq!((message.from().uri(), message.from_tag()), ("sip:a@e", Some("T")));
}

#[test]
fn probe_latin_1_octet_loses_no_header() {
    let message = accept(
        INVITE,
        b"Subject: caf\xe9\r\nFrom: \"Jos\xe9\" <sip:jose@e>;tag=1\r\nX-Any: \xff\xfe\r\nRequire: 100rel\r\nRoute: <sip:p;lr>\r\n\
          Content-Length: 2\r\n\r\nok",
    );
    assert!(message.list_has(HeaderId::Require, "100rel"));
    assert_eq!(message.routes().count(), 1);
    assert_eq!(message.body(), "ok");
    assert_eq!(message.header(HeaderId::Subject), Some(&b"caf\xe9"[..]));
    // Where text has structure, octets in no known encoding refuse the message; they never make a line vanish.
    assert_eq!(refuse(INVITE, b"Require: caf\xe9\r\n").0, 400);
    assert_eq!(refuse(INVITE, b"MCP-Select: tools=\"\xe9\"\r\n"), (400, "Header Is Not UTF-8"));
}

#[test]
fn probe_escaped_uris_and_max_forwards_pass_unchanged() {
    let uri = "sip:sips%3Auser%40example.com@example.net;x=%3A?";
    assert_eq!(refuse(&format!("INVITE {uri}"), b"").0, 400);
    let uri = "sip:sips%3Auser%40example.com@example.net;x=%3A;transport=TCP;lr;foo";
    let message = accept(&format!("INVITE {uri}"), b"Max-Forwards: 0068\r\n");
    let copy = Edit::new(&message).push_via(&b"SIP/2.0/TCP p;branch=z9hG4bKp"[..]).build();
    assert!(copy.starts_with(format!("INVITE {uri} SIP/2.0\r\n").as_bytes()));
    assert!(memchr::memmem::find(&copy, b"\r\nMax-Forwards: 0068\r\n").is_some());
}

#[test]
fn probe_reason_phrase_passes_unchanged() {
    let text =
        b"SIP/2.0 200 =  Alles klar, J\xc3\xb6rg\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\n\
                 To: <sip:c@d>;tag=2\r\nCall-ID: 1\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n";
    let message = Message::parse(Bytes::from_static(text), Transportation::Datagram).unwrap();
    assert_eq!(message.reason(), Some("=  Alles klar, Jörg".as_bytes()));
    assert_eq!(Edit::new(&message).build(), &text[..]);
}

#[test]
fn probe_binary_multipart_body_passes_unchanged() {
    let binary: Vec<u8> = (0..=255).collect();
    let mut body = b"--b\r\nContent-Type: application/octet-stream\r\n\r\n".to_vec();
    body.extend_from_slice(&binary);
    body.extend_from_slice(b"\r\n--b--\r\n");
    let mut extra =
        format!("Content-Type: multipart/mixed;boundary=b\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    extra.extend_from_slice(&body);
    let message = accept(INVITE, &extra);
    let copy = Edit::new(&message).max_forwards(69).push_via(&b"SIP/2.0/TCP p;branch=z9hG4bKp"[..]).build();
    let copy = Message::parse(copy, Transportation::Stream).unwrap();
    assert_eq!(copy.body(), body);
    let multipart = Multipart::parse(copy.content_type().unwrap(), &copy.body()).unwrap();
    assert_eq!(multipart.parts()[0].body(), binary);
}

#[test]
fn probe_new_via_stands_on_top() {
    let message =
        accept(INVITE, b"Subject: first\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\nv: SIP/2.0/UDP b;branch=z9hG4bK2\r\n");
    let copy = Edit::new(&message).push_via(&b"SIP/2.0/TCP new;branch=z9hG4bK3"[..]).build();
    let copy = Message::parse(copy, Transportation::Stream).unwrap();
    assert_eq!(copy.vias().map(|v| v.host_str()).collect::<Vec<_>>(), ["new", "a", "b"]);
    let back = Edit::new(&copy).remove_first_value(HeaderId::Via).build();
    assert_eq!(back, *message.bytes());
}

#[test]
fn neg_13_unknown_headers_and_parameters_are_carried_through() {
    let extra = b"X-Unknown-1 : a ;;,, b\r\nFrom: <sip:a@b;uparam=1>;tag=1;hparam=\"x y\"\r\nx-unknown-1: second\r\nP-Weird: \xff\r\n";
    let message = accept(INVITE, extra);
    let copy = Edit::new(&message).push_via(&b"SIP/2.0/TCP p;branch=z9hG4bKp"[..]).max_forwards(1).build();
    for line in extra.split_inclusive(|&b| b == b'\n') {
        assert!(memchr::memmem::find(&copy, line).is_some());
    }
    assert_eq!(message.headers_named("X-UNKNOWN-1").collect::<Vec<_>>(), [&b"a ;;,, b"[..], b"second"]);
}

#[test]
fn control_octets_are_refused_but_in_quoted_pairs() {
    assert_eq!(refuse(INVITE, b"Subject: a\0b\r\n"), (400, "Control Character"));
    assert_eq!(refuse(INVITE, b"Subject: a\x1b[31m\r\n"), (400, "Control Character"));
    assert_eq!(refuse(INVITE, b"Subject: \\\0\r\n"), (400, "Control Character"));
    assert_eq!(refuse(INVITE, b"From: \"a\0b\" <sip:a@b>;tag=1\r\n"), (400, "Control Character"));
    assert_eq!(refuse(INVITE, b"Subject: a\rb\r\n"), (400, "Bare Carriage Return"));
    assert_eq!(refuse(INVITE, b"Subject: a\nb\r\n"), (400, "Bare Line Feed"));
    assert_eq!(refuse(INVITE, b"Sub\rject: a\r\n"), (400, "Broken Header Line"));
    accept(INVITE, b"From: \"a\\\0b\" <sip:a@b>;tag=1\r\nSubject: tab\there\r\n");
}

#[test]
fn what_may_stand_once_stands_once() {
    for (line, reason) in [
        ("From: <sip:x@y>;tag=2", "From Twice"),
        ("t: <sip:x@y>", "To Twice"),
        ("i: other", "Call-ID Twice"),
        ("CSEQ: 1 INVITE", "CSeq Twice"),
        ("Max-Forwards: 3", "Max-Forwards Twice"),
        ("Content-Type: a/b\r\nc: c/d", "Content-Type Twice"),
        ("Expires: 1\r\nExpires: 1", "Expires Twice"),
        ("x: 90\r\nSession-Expires: 1800", "Header Twice That May Be There Once"),
    ] {
        let mut bytes = request(INVITE, b"");
        bytes.truncate(bytes.len() - 2);
        bytes.extend_from_slice(format!("{line}\r\n\r\n").as_bytes());
        let refusal = Message::parse(bytes.into(), Transportation::Datagram).unwrap_err();
        assert_eq!((refusal.status, refusal.reason), (400, reason), "{line}");
    }
}

#[test]
fn values_with_a_grammar_are_checked() {
    for bad in [
        "Max-Forwards: 256",
        "Max-Forwards: x",
        "Expires: 4294967296",
        "CSeq: 2147483648 INVITE",
        "Call-ID: a b",
        "Call-ID: a@b@c",
        "Call-ID:",
        "From: <sip:a@b>;tag=1, <sip:c@d>;tag=2",
        "To: ",
        "Route: <sip:a>,",
        "Record-Route: sip:a?b",
        "Path: \"x",
        "Require: a b",
        "Proxy-Require: a,,b",
        "Content-Type: text",
        "Date: today",
        "Retry-After: soon",
        "Warning: 1 a",
        "Session-Expires: 90;refresher=x",
        "Min-SE: -1",
        "RAck: 1 2",
        "Replaces: a;to-tag=1",
        "Refer-To: ",
        "Contact: <sip:a@b>;q=2",
        "Contact: <sip:a@b",
        "Min-Expires: x",
        "Via: SIP/2.0/UDP h;branch",
        "P-Asserted-Identity: x",
    ] {
        let (status, reason) = refuse(INVITE, format!("{bad}\r\n").as_bytes());
        assert_eq!(status, 400, "{bad}");
        let name = bad.split(':').next().unwrap();
        assert_eq!(reason, format!("Malformed {name}"), "{bad}");
    }
    let message = accept(INVITE, b"Supported:\r\nSubject:\r\nAllow: INVITE,, ACK ,\r\n");
    assert_eq!(message.list_values(HeaderId::Allow).collect::<Vec<_>>(), ["INVITE", "ACK"]);
}

#[test]
fn start_lines() {
    for (start, expected) in [
        ("INVITE", (400, "Malformed Request Line")),
        ("IN VITE sip:a@b", (400, "Malformed Request-URI")),
        ("INVITE\tsip:a@b", (400, "Malformed Request Line")),
        ("INV@ITE sip:a@b", (400, "Malformed Request Line")),
        (" INVITE sip:a@b", (400, "Malformed Request Line")),
        ("INVITE sip:a@b;x=\"y\"", (400, "Malformed Request-URI")),
        ("INVITE sip:a@b:99999", (400, "Malformed Request-URI")),
        ("INVITE b", (400, "Malformed Request-URI")),
    ] {
        assert_eq!(refuse(start, b"").1, expected.1, "{start:?}");
    }
    let lower = request("OPTIONS sip:a@b", b"");
    let lower = String::from_utf8(lower).unwrap().replacen(" SIP/2.0", " sip/2.0", 1);
    assert!(Message::parse(lower.into(), Transportation::Datagram).is_ok());
    for status in ["099", "700", "20", "2000", "abc", "200x", "-20"] {
        let text = format!(
            "SIP/2.0 {status} OK\r\nVia: SIP/2.0/UDP h\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:c@d>\r\nCall-ID: 1\r\nCSeq: 1 A\r\n\r\n"
        );
        let refusal = Message::parse(text.into(), Transportation::Datagram).unwrap_err();
        assert_eq!(
            (refusal.reason, refusal.is_request, refusal.answer("t")),
            ("Malformed Status Line", Some(false), None)
        );
    }
}
