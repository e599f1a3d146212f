//! Reading a message allocates nothing up to 64 header lines, and once beyond; a proxy's copy is one allocation.

use allocation_counter::measure;
use bytes::Bytes;
use sip_proto::message::{Edit, Message, Transportation};

fn allocations(work: impl FnOnce()) -> u64 {
    measure(work).count_total
}

fn request_with_lines(lines: usize) -> Vec<u8> {
    let mut text = "OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/TCP h;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\n\
                    To: <sip:c@d>\r\nCall-ID: 1\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n"
        .to_owned();
    for i in 6..lines {
        text += &format!("X-{i}: {i}\r\n");
    }
    (text + "\r\n").into()
}

fn parse_and_look(bytes: &Bytes) {
    let message = Message::parse(bytes.clone(), Transportation::Datagram).expect("a legal message");
    assert!(message.from_tag().is_some() && message.top_via().branch().is_some());
    assert_eq!(message.vias().count(), 1);
    let _ = (message.cseq(), message.call_id(), message.method(), message.max_forwards(), message.content_type());
    assert_eq!(message.body().len() + message.head_len(), bytes.len());
    drop(message.clone());
}

#[test]
fn parsing_the_invite_of_923_bytes_allocates_nothing() {
    let invite = include_bytes!("../benches/invite-923.sip");
    assert_eq!(invite.len(), 923);
    for bytes in [Bytes::from_static(invite), Bytes::from(invite.to_vec())] {
        // The first clone of a fresh buffer allocates its reference count; a received datagram has one already.
        let shared = bytes.clone();
        assert_eq!(allocations(|| parse_and_look(&bytes)), 0);
        drop(shared);
    }
}

#[test]
fn sec_10_64_header_lines_without_allocation_and_one_beyond() {
    for (lines, expected) in [(64, 0), (65, 2), (128, 2)] {
        let bytes = Bytes::from(request_with_lines(lines));
        let shared = bytes.clone();
        // One for the index, one for that of its clone.
        assert_eq!(allocations(|| parse_and_look(&bytes)), expected, "{lines} lines");
        drop(shared);
    }
}

#[test]
fn a_proxy_copy_is_one_allocation() {
    let message =
        Message::parse(Bytes::from_static(include_bytes!("../benches/invite-923.sip")), Transportation::Datagram)
            .expect("a legal message");
    let via = b"SIP/2.0/TLS edge.acme.example;branch=z9hG4bKabc";
    let mut copy = Bytes::new();
    let count = allocations(|| copy = Edit::new(&message).push_via(&via[..]).max_forwards(69).build());
    assert_eq!(count, 1);
    assert_eq!(copy.len(), 923 + "Via: \r\n".len() + via.len());
}
