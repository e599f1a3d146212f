//! Every entry point on one input; shared by the tests and by the fuzz targets. Nothing here may panic, whatever comes.

use std::net::SocketAddr;

use bytes::Bytes;
use sip_proto::escape::escape;
use sip_proto::framing::{Frame, FrameLimits, StreamFramer, datagram};
use sip_proto::header::{Challenge, Credentials, Reason, Warning, date};
use sip_proto::message::headers::KNOWN;
use sip_proto::message::{Edit, HeaderId, Message, Refusal, Response, Transportation, split_list, unfold};
use sip_proto::multipart::Multipart;

/// Octets as one datagram, as one message of a stream, and through the framer in pieces of `piece` octets.
pub fn octets(input: &[u8], piece: usize) {
    let bytes = Bytes::copy_from_slice(input);
    for mode in [Transportation::Datagram, Transportation::Stream] {
        match Message::parse(bytes.clone(), mode) {
            Ok(message) => accepted(&message),
            Err(refusal) => refused(&refusal),
        }
    }
    let _ = datagram(bytes, &FrameLimits::default()).map_err(|refusal| refused(&refusal));
    for frame in frames(input, piece) {
        match frame {
            Ok(Frame::Message(message)) => {
                every_line_is_accounted_for(&message);
            }
            Ok(Frame::KeepAlive(_)) => {}
            Err(refusal) => refused(&refusal),
        }
    }
}

/// All frames of a stream that comes in pieces.
pub fn frames(input: &[u8], piece: usize) -> Vec<Result<Frame, Refusal>> {
    let mut framer = StreamFramer::default();
    let mut frames = Vec::new();
    for chunk in input.chunks(piece.max(1)) {
        framer.push(chunk);
        while let Some(frame) = framer.next() {
            frames.push(frame.map_err(|fault| fault.refusal));
        }
    }
    frames
}

/// Nothing of an accepted message is lost: start line, header lines, empty line and body are all of its octets.
pub fn every_line_is_accounted_for(message: &Message) {
    let bytes = message.bytes();
    let start_line_end = bytes.windows(2).position(|w| w == b"\r\n").expect("a start line ends") + 2;
    let mut rebuilt = bytes[..start_line_end].to_vec();
    for line in message.header_lines() {
        assert!(line.raw.starts_with(line.name.as_bytes()));
        assert!(line.raw.ends_with(b"\r\n"));
        let after_name = &line.raw[line.name.len()..];
        let colon = after_name.iter().position(|&b| b == b':').expect("a header line has a colon");
        let value = &after_name[colon + 1..];
        assert_eq!(trim(value), line.value);
        assert_eq!(HeaderId::of(line.name.as_bytes()), line.id);
        rebuilt.extend_from_slice(line.raw);
    }
    rebuilt.extend_from_slice(b"\r\n");
    assert_eq!(rebuilt.len(), message.head_len());
    rebuilt.extend_from_slice(&message.body());
    assert_eq!(&rebuilt[..], &bytes[..]);
}

fn trim(value: &[u8]) -> &[u8] {
    let is_space = |b: &u8| b" \t\r\n".contains(b);
    let start = value.iter().position(|b| !is_space(b)).unwrap_or(value.len());
    let end = value.iter().rposition(|b| !is_space(b)).map_or(start, |i| i + 1);
    &value[start..end]
}

/// Every view of a message, and every writer.
pub fn accepted(message: &Message) {
    every_line_is_accounted_for(message);
    let _ = (message.method(), message.cseq(), message.request_uri(), message.status(), message.reason());
    let _ = (message.call_id(), message.from_tag(), message.to_tag(), message.max_forwards(), message.expires());
    let _ = (message.from().display_name(), message.to().typed_uri(), message.content_disposition());
    let _ = (message.min_expires(), message.rseq(), message.rack(), message.session_expires(), message.min_se());
    let _ = (message.retry_after(), message.refer_to(), message.referred_by(), message.replaces());
    for via in message.vias() {
        let _ = (via.transport(), via.host().to_string(), via.port(), via.branch(), via.received(), via.rport());
        let _ = (via.maddr(), via.ttl(), via.alias(), via.has_rfc3261_branch());
    }
    assert_eq!(message.vias().next(), Some(message.top_via()));
    let addresses = message
        .contacts()
        .iter()
        .chain(message.routes())
        .chain(message.record_routes())
        .chain(message.paths())
        .chain(message.service_routes())
        .chain(message.asserted_identities());
    for address in addresses {
        let _ = (address.expires(), address.q(), address.display_name());
        if let Some(uri) = address.typed_uri().sip() {
            let _ = (uri.aor(), uri.user_unescaped(), uri.transport(), uri.equivalent(&uri));
        }
        for param in address.params() {
            let _ = param.text();
        }
    }
    for &id in KNOWN {
        assert_eq!(message.headers(id).count(), message.header_lines().filter(|line| line.id == id).count());
        let _ = message.list_values(id).count();
    }
    for line in message.header_lines() {
        let _ = (unfold(line.value), split_list(line.value).count(), escape(line.value).to_string());
        let _ = (Credentials::parse(line.value), Challenge::parse(line.value), Reason::parse(line.value));
        let _ = (Warning::parse(line.value), date::parse(line.value));
    }
    if let Some(content_type) = message.content_type() {
        let _ = Multipart::parse(content_type, &message.body());
    }
    assert!(!format!("{message:?}").contains(['\r', '\n', '\0']));

    // What we write is what we read.
    let copy = Edit::new(message).build();
    let copy = Message::parse(copy, Transportation::Stream).expect("an unchanged copy is a message");
    if message.has(HeaderId::ContentLength) {
        assert_eq!(&copy, message);
    }
    let source: SocketAddr = "[2001:db8::7]:5099".parse().expect("an address");
    let stored = message.with_received(source);
    assert_eq!(stored.body(), message.body());
    if message.is_request() {
        let answer = Response::to_request(message, 486, None).to_tag("t1").received(source).build();
        let answer = Message::parse(answer, Transportation::Stream).expect("an answer is a message");
        assert_eq!(answer.cseq(), message.cseq());
        assert_eq!(answer.vias().count(), message.vias().count());
        assert!(answer.to_tag().is_some());
    }
}

/// The answer to a refused message is one message, or none.
pub fn refused(refusal: &Refusal) {
    assert!((400..600).contains(&refusal.status));
    let _ = format!("{refusal:?}");
    let source: SocketAddr = "192.0.2.7:5099".parse().expect("an address");
    for answer in [refusal.answer("t1"), refusal.answer_from("t1", source)].into_iter().flatten() {
        assert_ne!(refusal.is_request, Some(false));
        // One head and nothing behind it: nothing that the peer wrote became a line of its own.
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("a head ends");
        assert_eq!(end + 4, answer.len());
        let lines = answer.split(|&b| b == b'\n').count();
        let expected = 1
            + refusal.via.len()
            + [&refusal.from, &refusal.to, &refusal.call_id, &refusal.cseq].iter().filter(|v| v.is_some()).count();
        assert_eq!(lines, expected + 3);
        assert!(!answer.contains(&0));
    }
}
