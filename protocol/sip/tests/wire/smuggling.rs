//! One message stays one message: there is one Content-Length, and whoever is unsure about it is refused and cut off.

use sip_proto::framing::{Frame, FrameLimits, Ping, StreamFramer};
use sip_proto::message::HeaderId;
use sip_proto::method::Method;

use crate::exercise;

/// What an attacker wants to be read as a message of its own.
fn bye() -> String {
    "BYE sip:victim@biloxi.example SIP/2.0\r\nVia: SIP/2.0/TCP evil.example;branch=z9hG4bKevil\r\n\
     From: <sip:a@b>;tag=1\r\nTo: <sip:c@d>;tag=2\r\nCall-ID: victim\r\nCSeq: 2 BYE\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
        .to_owned()
}

fn message(lengths: &str, body: &str) -> String {
    format!(
        "MESSAGE sip:bob@biloxi.example SIP/2.0\r\nVia: SIP/2.0/TCP pc.example;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\n\
         To: <sip:c@d>\r\nCall-ID: call\r\nCSeq: 1 MESSAGE\r\nMax-Forwards: 70\r\n{lengths}\r\n{body}"
    )
}

/// The frames, the same in whatever pieces the stream comes.
fn frames_at_every_split(stream: &[u8]) -> Vec<Result<Frame, (u16, &'static str, bool)>> {
    let plain = |frames: Vec<Result<Frame, sip_proto::message::Refusal>>| -> Vec<_> {
        frames
            .into_iter()
            .filter(|frame| !matches!(frame, Ok(Frame::KeepAlive(_))))
            .map(|frame| frame.map_err(|refusal| (refusal.status, refusal.reason, refusal.close)))
            .collect()
    };
    let whole = plain(exercise::frames(stream, stream.len()));
    for at in 0..=stream.len() {
        let mut framer = StreamFramer::new(FrameLimits::default());
        let mut frames = Vec::new();
        for chunk in [&stream[..at], &stream[at..]] {
            framer.push(chunk);
            while let Some(frame) = framer.next() {
                frames.push(frame.map_err(|fault| fault.refusal));
            }
        }
        assert_eq!(plain(frames), whole, "split at {at}");
    }
    assert_eq!(plain(exercise::frames(stream, 1)), whole, "octet by octet");
    whole
}

#[test]
fn sec_10_space_before_the_colon_of_content_length_is_read() {
    let body = bye();
    for header in [
        "Content-Length : {}",
        "Content-Length\t:{}",
        "l : {}",
        "content-length:\r\n {}",
        "L:{} ",
        "Content-Length:\r\n\t{}\r\n ",
    ] {
        let line = format!("{}\r\n", header.replace("{}", &body.len().to_string()));
        let stream = message(&line, &body) + &message("Content-Length: 0\r\n", "");
        let frames = frames_at_every_split(stream.as_bytes());
        let [Ok(Frame::Message(first)), Ok(Frame::Message(second))] = &frames[..] else {
            panic!("{header}: {frames:?}")
        };
        assert_eq!(first.body(), body.as_bytes(), "{header}");
        assert_eq!(second.method(), Some(Method::Message));
    }
}

#[test]
fn sec_10_two_content_lengths_close_the_connection() {
    let body = bye();
    let n = body.len();
    for lines in [
        format!("Content-Length : {n}\r\nContent-Length: 0\r\n"),
        format!("Content-Length: 0\r\nContent-Length : {n}\r\n"),
        format!("Content-Length: {n}\r\nContent-Length: {n}\r\n"),
        format!("Content-Length: 0\r\nl: {n}\r\n"),
        format!("l: {n}\r\nCONTENT-LENGTH: 0\r\n"),
        format!("Content-Length: 0\r\nX: y\r\nContent-Length:\r\n {n}\r\n"),
    ] {
        let stream = message(&lines, &body) + &bye();
        let frames = frames_at_every_split(stream.as_bytes());
        assert_eq!(frames, [Err((400, "Content-Length Twice", true))], "{lines}");
    }
}

#[test]
fn sec_10_missing_or_broken_content_length_closes_the_connection() {
    let missing = message("", &bye());
    assert_eq!(frames_at_every_split(missing.as_bytes()), [Err((400, "Missing Content-Length", true))]);
    for value in [
        "",
        "-1",
        "+5",
        "5 5",
        "0x5",
        "5,5",
        "5;q=1",
        "\u{665}",
        "4294967296",
        "99999999999999999999",
        "5\r\n 5",
        "\"5\"",
        "5.",
    ] {
        let stream = message(&format!("Content-Length: {value}\r\n"), &bye());
        let frames = frames_at_every_split(stream.as_bytes());
        assert_eq!(frames, [Err((400, "Malformed Content-Length", true))], "{value:?}");
    }
    // What looks like the header and is none does not count as it.
    for line in [
        "Content-Length;x: 5",
        "Content Length: 5",
        " Content-Length: 5",
        "Content-Length",
        ": 5",
        "Content-Length\r\n: 5",
        "Content-Length\0: 5",
    ] {
        let stream = message(&format!("{line}\r\n"), &bye());
        let frames = frames_at_every_split(stream.as_bytes());
        assert!(matches!(frames[..], [Err((400, _, true))]), "{line:?}: {frames:?}");
    }
}

#[test]
fn sec_10_bare_line_ends_hide_nothing() {
    for lines in [
        "X: a\nContent-Length: 0\r\n",
        "X: a\rContent-Length: 0\r\n",
        "X: a\r\r\nContent-Length: 0\r\n",
        "X: a\n\nBYE sip:x SIP/2.0\r\n",
    ] {
        let stream = message(&format!("{lines}Content-Length: 5\r\n"), "hello");
        let frames = frames_at_every_split(stream.as_bytes());
        assert!(matches!(frames[..], [Err((400, _, true))]), "{lines:?}: {frames:?}");
    }
}

#[test]
fn a_bad_message_with_a_sound_length_does_not_cost_the_connection() {
    let bad = message("Content-Length: 3\r\nExpires: never\r\n", "abc");
    let stream = bad + &bye();
    let frames = frames_at_every_split(stream.as_bytes());
    let [Err((400, "Malformed Expires", false)), Ok(Frame::Message(next))] = &frames[..] else { panic!("{frames:?}") };
    assert_eq!(next.method(), Some(Method::Bye));
}

#[test]
fn after_a_closing_fault_nothing_more_comes() {
    let mut framer = StreamFramer::default();
    framer.push(message("Content-Length: x\r\n", "").as_bytes());
    assert!(framer.next().unwrap().unwrap_err().refusal.close);
    framer.push(bye().as_bytes());
    assert!(framer.next().is_none());
    assert_eq!(framer.buffered(), 0);
    assert!(!framer.is_in_message());
}

#[test]
fn keep_alives_are_answered_however_they_arrive() {
    let ping = || Ok(Frame::KeepAlive(Ping::Ping));
    let pong = || Ok(Frame::KeepAlive(Ping::Pong));
    assert_eq!(exercise::frames(b"\r\n\r\n", 4), [ping()]);
    assert_eq!(exercise::frames(b"\r\n", 2), [pong()]);
    // In halves: it might have been a pong, then it was a ping.
    assert_eq!(exercise::frames(b"\r\n\r\n", 1), [pong(), ping()]);
    assert_eq!(exercise::frames(b"\r\n\r\n\r\n\r\n", 3), [pong(), ping(), pong(), ping()]);
    let mut stream = b"\r\n\r\n".to_vec();
    stream.extend_from_slice(message("Content-Length: 0\r\n", "").as_bytes());
    stream.extend_from_slice(b"\r\n\r\n");
    let frames = exercise::frames(&stream, stream.len());
    assert!(matches!(
        &frames[..],
        [Ok(Frame::KeepAlive(Ping::Ping)), Ok(Frame::Message(_)), Ok(Frame::KeepAlive(Ping::Ping))]
    ));
}

#[test]
fn values_of_a_refused_message_cannot_break_its_answer() {
    let stream = "MESSAGE sip:bob@biloxi.example SIP/2.0\r\nVia: SIP/2.0/TCP pc.example\rX: y\nZ: w;branch=z9hG4bK1\r\n\
                  From: <sip:a@b>;tag=1\r\nTo: \"x <sip:c@d>\r\nCall-ID: c\0all\r\nCSeq: 1 MESSAGE\r\nContent-Length: 0\r\n\r\n";
    let refusal = exercise::frames(stream.as_bytes(), 7).remove(0).unwrap_err();
    exercise::refused(&refusal);
    let answer = refusal.answer("t1").unwrap();
    let text = String::from_utf8(answer.to_vec()).unwrap();
    assert!(text.contains("Call-ID: c all\r\n") && text.contains("To: \"x <sip:c@d>;tag=t1\r\n"), "{text}");
    assert!(text.contains("Via: SIP/2.0/TCP pc.example X: y\r\n"), "{text}");
    // An ACK is never answered.
    let ack = stream.replace("MESSAGE", "ACK");
    assert_eq!(exercise::frames(ack.as_bytes(), 7).remove(0).unwrap_err().answer("t1"), None);
}

#[test]
fn one_reading_for_routing_and_policy() {
    // Kamailio CVE-2020-28361: a space hid a header from the one who should have removed it.
    let stream = message(
        "P-Asserted-Identity : <sip:admin@b>\r\np-asserted-identity: <sip:admin2@b>\r\nContent-Length: 0\r\n",
        "",
    );
    let frames = frames_at_every_split(stream.as_bytes());
    let [Ok(Frame::Message(message))] = &frames[..] else { panic!("{frames:?}") };
    assert_eq!(message.asserted_identities().count(), 2);
    let stripped = sip_proto::message::Edit::new(message).remove(HeaderId::PAssertedIdentity).build();
    assert!(memchr::memmem::find(&stripped, b"admin").is_none());
}
