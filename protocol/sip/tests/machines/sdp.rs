//! SDP: byte-identical round trips, the answer that takes no media, limits, and the order of offers and answers.

use bytes::Bytes;
use proptest::prelude::*;
use sip_proto::sdp::{
    Direction, MAX_LINES, OfferAnswer, OfferAnswerError, SdpError, SdpOrigin, Setup, answer_rejecting,
    answer_without_media, media_lines, parse, write,
};

const AUDIO: &str = "v=0\r\no=alice 2890844526 2890844526 IN IP4 host.atlanta.example\r\ns=-\r\n\
    c=IN IP4 192.0.2.1\r\nt=0 0\r\nm=audio 49170 RTP/AVP 0 8 97\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\n\
    a=rtpmap:97 iLBC/8000\r\na=sendrecv\r\n";

const AUDIO_AND_MSRP: &str = "v=0\r\no=- 1 7 IN IP6 2001:db8::1\r\ns= \r\nc=IN IP6 2001:db8::1\r\n\
    t=2873397496 2873404696\r\na=group:BUNDLE 0\r\na=inactive\r\nm=audio 49170/2 RTP/SAVP 0 101\r\na=mid:0\r\n\
    a=rtpmap:0 PCMU/8000\r\na=fmtp:101 0-16\r\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:abc|2^20|1:32\r\n\
    a=x-unknown:kept  as it is \r\na=sendonly\r\nm=message 9 TCP/TLS/MSRP *\r\nc=IN IP4 192.0.2.9\r\na=mid:1\r\n\
    a=path:msrps://r.example:9/r;tcp msrps://e.example:2855/s1;tcp\r\na=accept-types:application/mcp+json text/plain\r\n\
    a=setup:actpass\r\n";

fn origin() -> SdpOrigin {
    SdpOrigin { session_id: 42, version: 1, address: "edge.example".into() }
}

#[test]
fn descriptions_come_out_byte_identical() {
    for text in [AUDIO, AUDIO_AND_MSRP] {
        assert_eq!(write(&parse(text.as_bytes()).unwrap()), text);
    }
}

#[test]
fn an_answer_without_media_refuses_every_line_in_its_place() {
    let answer = answer_without_media(AUDIO_AND_MSRP.as_bytes(), &origin()).unwrap();
    assert_eq!(
        std::str::from_utf8(&answer).unwrap(),
        "v=0\r\no=- 42 1 IN IP4 edge.example\r\ns=-\r\nc=IN IP4 edge.example\r\nt=2873397496 2873404696\r\n\
         m=audio 0 RTP/SAVP 0 101\r\na=mid:0\r\nm=message 0 TCP/TLS/MSRP *\r\na=mid:1\r\n"
    );
    let v6 = SdpOrigin { address: "2001:db8::5".into(), ..origin() };
    let answer = answer_without_media(AUDIO.as_bytes(), &v6).unwrap();
    assert!(answer.starts_with(b"v=0\r\no=- 42 1 IN IP6 2001:db8::5\r\n"));
}

#[test]
fn sec_10_limits_are_512_lines_and_8_media() {
    let with = |attributes: usize, media: usize| {
        let mut text = String::from("v=0\r\no=- 1 1 IN IP4 h\r\ns=-\r\nt=0 0\r\n");
        (0..media).for_each(|_| text.push_str("m=audio 9 RTP/AVP 0\r\n"));
        (0..attributes).for_each(|_| text.push_str("a=x\r\n"));
        answer_without_media(text.as_bytes(), &origin())
    };
    assert!(with(MAX_LINES - 12, 8).is_ok());
    assert_eq!(with(MAX_LINES - 11, 8), Err(SdpError::TooManyLines));
    assert_eq!(with(0, 9), Err(SdpError::TooManyMedia));
    assert!(matches!(answer_without_media(b"hello", &origin()), Err(SdpError::Malformed(_))));
    assert!(matches!(answer_without_media(b"", &origin()), Err(SdpError::Malformed(_))));
    assert_eq!(answer_without_media(b"v=0\r\ns=-\r\nt=0 0\r\n", &origin()), Err(SdpError::Missing('o')));
}

#[test]
fn media_lines_are_typed() {
    let session = parse(AUDIO_AND_MSRP.as_bytes()).unwrap();
    let lines: Vec<_> = media_lines(&session).collect();
    let (audio, message) = (lines[0], lines[1]);
    assert_eq!((audio.kind(), audio.port(), audio.proto()), ("audio", 49170, "RTP/SAVP"));
    assert_eq!(audio.formats().collect::<Vec<_>>(), ["0", "101"]);
    assert_eq!(audio.rtpmaps().collect::<Vec<_>>(), [(0, "PCMU/8000")]);
    assert_eq!((audio.direction(), message.direction()), (Direction::SendOnly, Direction::Inactive));
    assert_eq!((audio.address(), message.address()), (Some("2001:db8::1"), Some("192.0.2.9")));
    assert_eq!((audio.setup(), message.setup()), (None, Some(Setup::ActPass)));
    assert_eq!(message.path().count(), 2);
    assert_eq!(message.accept_types().next(), Some("application/mcp+json"));
    assert!(!message.is_rejected());
}

#[test]
fn directions_answer_directions() {
    use Direction::{Inactive, RecvOnly, SendOnly, SendRecv};
    assert_eq!(SendOnly.answer(SendRecv), RecvOnly);
    assert_eq!(RecvOnly.answer(SendRecv), SendOnly);
    assert_eq!(SendOnly.answer(SendOnly), Inactive);
    assert_eq!(SendRecv.answer(RecvOnly), RecvOnly);
    assert_eq!(Inactive.answer(SendRecv), Inactive);
    assert_eq!(SendOnly.reversed(), RecvOnly);
}

#[test]
fn offers_and_answers_take_turns() {
    let offer = Bytes::from_static(AUDIO.as_bytes());
    let mut side = OfferAnswer::default();
    assert_eq!(side.on_answer(&offer), Err(OfferAnswerError::NoOffer));
    let session = side.on_offer(&offer).unwrap();
    assert_eq!(side.on_offer(&offer), Err(OfferAnswerError::Unanswered));
    assert_eq!(side.offer(session.clone(), &origin()), Err(OfferAnswerError::Unanswered));
    let answer = side.answer(answer_rejecting(&session, &origin()), &origin()).unwrap();
    assert!(answer.starts_with(b"v=0\r\no=- 42 1 "));

    // A refresh with the same offer gets the same answer with the same version.
    let session = side.on_offer(&offer).unwrap();
    assert_eq!(side.answer(answer_rejecting(&session, &origin()), &origin()).unwrap(), answer);

    // Our own offer says something else: the version rises.
    let mine = parse(AUDIO.as_bytes()).unwrap();
    let first = side.offer(mine.clone(), &origin()).unwrap();
    assert!(first.starts_with(b"v=0\r\no=- 42 2 "));
    assert_eq!(side.on_offer(&offer), Err(OfferAnswerError::Glare));
    side.roll_back();
    assert!(side.offer(mine.clone(), &origin()).unwrap().starts_with(b"v=0\r\no=- 42 3 "), "2 was seen by the peer");
    side.on_answer(&offer).unwrap();
    assert!(side.offer(mine, &origin()).unwrap().starts_with(b"v=0\r\no=- 42 3 "), "nothing changed");
}

#[test]
fn media_lines_are_never_taken_away() {
    let two = Bytes::from_static(AUDIO_AND_MSRP.as_bytes());
    let one = Bytes::from_static(AUDIO.as_bytes());
    let mut side = OfferAnswer::default();
    let session = side.on_offer(&two).unwrap();
    let short = answer_rejecting(&parse(&one).unwrap(), &origin());
    assert_eq!(side.answer(short.clone(), &origin()), Err(OfferAnswerError::MediaMismatch));
    side.answer(answer_rejecting(&session, &origin()), &origin()).unwrap();
    assert_eq!(side.on_offer(&one), Err(OfferAnswerError::MediaMismatch));
    assert_eq!(side.offer(short, &origin()), Err(OfferAnswerError::MediaMismatch));
    side.offer(session, &origin()).unwrap();
    assert_eq!(side.on_answer(&one), Err(OfferAnswerError::MediaMismatch));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_octets_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = answer_without_media(&bytes, &origin());
    }

    #[test]
    fn mutated_descriptions_are_answered_line_for_line_or_refused(
        cuts in prop::collection::vec((0usize..700, any::<u8>()), 0..6),
    ) {
        let mut bytes = AUDIO_AND_MSRP.as_bytes().to_vec();
        for (at, octet) in cuts {
            let at = at % bytes.len();
            bytes[at] = octet;
        }
        if let Ok(offer) = parse(&bytes) {
            let answer = parse(&answer_without_media(&bytes, &origin()).unwrap()).unwrap();
            prop_assert_eq!(answer.medias.len(), offer.medias.len());
            for (line, offered) in answer.medias.iter().zip(&offer.medias) {
                prop_assert_eq!((line.port, &line.media, &line.proto), (0, &offered.media, &offered.proto));
            }
        }
    }
}
