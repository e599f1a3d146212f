//! Limits of the wire layer: clear refusals, before memory is spent.

use bytes::Bytes;
use sip_proto::framing::{FrameLimits, StreamFramer, datagram};
use sip_proto::limits::{HEAD_BYTES, LINE_BYTES};
use sip_proto::message::{Message, Transportation};

use crate::exercise;

/// A request with `lines` header lines in all.
pub fn request_with_lines(lines: usize) -> Vec<u8> {
    let mut text = "OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/TCP h;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\n\
                    To: <sip:c@d>\r\nCall-ID: 1\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n"
        .to_owned();
    for i in 6..lines {
        text += &format!("X-{i}: {i}\r\n");
    }
    (text + "\r\n").into()
}

fn with_lines(lines: &str) -> Vec<u8> {
    let mut bytes = request_with_lines(6);
    bytes.truncate(bytes.len() - 2);
    bytes.extend_from_slice(lines.as_bytes());
    bytes.extend_from_slice(b"\r\n");
    bytes
}

fn refusal(bytes: Vec<u8>) -> (u16, &'static str, bool) {
    let by_stream = exercise::frames(&bytes, 1000).into_iter().next().map(|frame| frame.unwrap_err());
    let refusal = Message::parse(bytes.into(), Transportation::Datagram).unwrap_err();
    exercise::refused(&refusal);
    let by_stream = by_stream.unwrap();
    assert_eq!((by_stream.status, by_stream.close), (refusal.status, refusal.close));
    (refusal.status, refusal.reason, refusal.close)
}

#[test]
fn sec_10_up_to_128_header_lines() {
    for lines in [6, 63, 64, 65, 66, 127, 128] {
        let message = Message::parse(request_with_lines(lines).into(), Transportation::Datagram).unwrap();
        assert_eq!(message.header_lines().count(), lines);
        for i in 6..lines {
            let name = format!("x-{i}");
            assert_eq!(message.headers_named(&name).collect::<Vec<_>>(), [i.to_string().as_bytes()]);
        }
        exercise::accepted(&message);
    }
    assert_eq!(refusal(request_with_lines(129)), (513, "Too Many Header Lines", true));
}

#[test]
fn sec_10_head_and_line_sizes() {
    let fits = format!("X-A: {}\r\n", "x".repeat(LINE_BYTES - 7));
    assert!(Message::parse(with_lines(&fits).into(), Transportation::Datagram).is_ok());
    let line = format!("X-A: {}\r\n", "x".repeat(LINE_BYTES - 6));
    assert_eq!(refusal(with_lines(&line)), (513, "Header Line Too Large", true));
    let folded = format!("X-A: {}\r\n", "x\r\n ".repeat(LINE_BYTES / 4));
    assert_eq!(refusal(with_lines(&folded)), (513, "Header Line Too Large", true));
    let filler = format!("X-A: {}\r\n", "x".repeat(8000));
    let base = with_lines("").len();
    let rest = HEAD_BYTES - base - 8 * filler.len();
    let exact = filler.repeat(8) + &format!("X-B: {}\r\n", "y".repeat(rest - 7));
    let bytes = with_lines(&exact);
    assert_eq!(bytes.len(), HEAD_BYTES);
    let message = Message::parse(bytes.clone().into(), Transportation::Datagram).unwrap();
    exercise::every_line_is_accounted_for(&message);
    assert_eq!(exercise::frames(&bytes, 4096).len(), 1);
    assert_eq!(refusal(with_lines(&(exact + "X-C: z\r\n"))), (513, "Head Too Large", true));
}

#[test]
fn sec_10_a_head_without_end_is_cut_off_at_the_limit() {
    let mut framer = StreamFramer::default();
    let mut pushed = 0;
    let fault = loop {
        framer.push(&[b'x'; 1000]);
        pushed += 1000;
        if let Some(frame) = framer.next() {
            break frame.unwrap_err();
        }
        assert!(framer.buffered() <= HEAD_BYTES);
    };
    assert_eq!((fault.refusal.status, fault.refusal.close, fault.refusal.is_request), (513, true, None));
    assert!(pushed <= HEAD_BYTES + 1000);
    assert_eq!(framer.buffered(), 0);
}

#[test]
fn sec_10_bodies_are_refused_by_their_length_not_by_their_octets() {
    let limits = FrameLimits { head: 4096, body: 1000 };
    let request = |length: usize| {
        let text = String::from_utf8(request_with_lines(6)).unwrap();
        text.replace("Content-Length: 0", &format!("Content-Length: {length}"))
    };
    let mut framer = StreamFramer::new(limits);
    framer.push(request(1001).as_bytes());
    let fault = framer.next().unwrap().unwrap_err();
    assert_eq!((fault.refusal.status, fault.refusal.close), (413, true));
    let mut framer = StreamFramer::new(limits);
    framer.push(request(1000).as_bytes());
    assert!(framer.next().is_none() && framer.is_in_message());
    framer.push(&[0; 1000]);
    assert!(framer.next().unwrap().is_ok() && !framer.is_in_message());

    let whole = |length: usize| {
        Bytes::from(request(length).into_bytes().into_iter().chain(vec![7; length]).collect::<Vec<_>>())
    };
    assert!(datagram(whole(1000), &limits).unwrap().is_some());
    assert_eq!(datagram(whole(1001), &limits).unwrap_err().status, 413);
    assert_eq!(datagram(whole(10), &FrameLimits { head: 50, body: 50 }).unwrap_err().status, 513);
    // Beyond what can be configured, whoever asks.
    let huge = whole(1024 * 1024 + 1);
    assert_eq!(Message::parse(huge, Transportation::Datagram).unwrap_err().status, 413);
    assert_eq!(datagram(Bytes::from_static(b"\r\n\r\n"), &limits), Ok(None));
    assert_eq!(datagram(Bytes::from_static(b"\0\0\0\0"), &limits), Ok(None));
    assert_eq!(datagram(Bytes::new(), &limits), Ok(None));
}

#[test]
fn sec_10_hops_routes_and_request_uri() {
    let vias = |n: usize| format!("Via: {}\r\n", vec!["SIP/2.0/TCP h;branch=z9hG4bK1"; n].join(","));
    assert!(Message::parse(with_lines(&vias(69)).into(), Transportation::Datagram).is_ok());
    assert_eq!(refusal(with_lines(&vias(70))), (483, "Too Many Hops", false));
    for name in ["Route", "Record-Route"] {
        let routes = |n: usize| format!("{name}: {}\r\n{name}: <sip:p;lr>\r\n", vec!["<sip:p;lr>"; n].join(","));
        assert!(Message::parse(with_lines(&routes(15)).into(), Transportation::Datagram).is_ok());
        assert_eq!(refusal(with_lines(&routes(16))).0, 400);
    }
    let uri = |n: usize| {
        let text = String::from_utf8(request_with_lines(6)).unwrap();
        text.replacen("sip:a@b", &format!("sip:{}@b", "a".repeat(n - 6)), 1).into_bytes()
    };
    assert!(Message::parse(uri(4096).into(), Transportation::Datagram).is_ok());
    assert_eq!(refusal(uri(4097)), (414, "Request-URI Too Long", false));
}
