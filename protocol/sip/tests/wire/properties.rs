//! Properties: nothing is lost, nothing that we write is unreadable, pieces do not matter.

use bytes::Bytes;
use proptest::prelude::*;
use sip_proto::escape::escape;
use sip_proto::header::Params;
use sip_proto::header::params::{quote, unquote};
use sip_proto::message::{Edit, HeaderId, Message, Request, Transportation, split_list};
use sip_proto::multipart::{Multipart, MultipartBuilder};
use sip_proto::uri::Uri;

use crate::exercise;

const TOKEN: &str = "[A-Za-z0-9.!%*_+`'~-]{1,12}";

/// A header line that may be odd but is legal for an unknown header.
fn odd_line() -> impl Strategy<Value = Vec<u8>> {
    let value = prop::collection::vec(
        prop_oneof![
            8 => any::<u8>().prop_filter("no line ends, no control octets", |b| *b >= 0x20 && *b != 0x7f).prop_map(|b| vec![b]),
            1 => Just(b"\r\n ".to_vec()),
            1 => Just(b"\r\n\t".to_vec()),
        ],
        0..40,
    );
    ("X-[A-Za-z0-9.!*_+-]{1,10}", "[ \t]{0,2}", value).prop_map(|(name, space, value)| {
        let mut line = format!("{name}{space}:").into_bytes();
        line.extend(value.concat());
        line.extend_from_slice(b"\r\n");
        line
    })
}

fn core_lines() -> impl Strategy<Value = Vec<Vec<u8>>> {
    (TOKEN, TOKEN, TOKEN, 0..1u32 << 31, 0..=255u8).prop_map(|(branch, tag, call_id, cseq, hops)| {
        [
            format!("Via: SIP/2.0/TCP h.example:5060;branch=z9hG4bK{branch}"),
            format!("f :<sip:a@b>\r\n ;tag={tag}"),
            "To: sip:c@d".to_owned(),
            format!("i:{call_id}@h"),
            format!("CSeq: {cseq}\r\n OPTIONS"),
            format!("MAX-forwards : {hops}"),
        ]
        .map(|line| (line + "\r\n").into_bytes())
        .to_vec()
    })
}

fn message() -> impl Strategy<Value = Vec<u8>> {
    (core_lines(), prop::collection::vec(odd_line(), 0..70), prop::collection::vec(any::<u8>(), 0..80)).prop_flat_map(
        |(mut lines, odd, body)| {
            lines.extend(odd);
            lines.push(format!("Content-Length: {}\r\n", body.len()).into_bytes());
            Just(lines).prop_shuffle().prop_map(move |lines| {
                let mut bytes = b"OPTIONS sip:bob@biloxi.example SIP/2.0\r\n".to_vec();
                bytes.extend(lines.concat());
                bytes.extend_from_slice(b"\r\n");
                bytes.extend_from_slice(&body);
                bytes
            })
        },
    )
}

proptest! {
    #[test]
    fn legal_messages_are_accepted_and_every_line_is_accounted_for(bytes in message()) {
        let parsed = Message::parse(bytes.clone().into(), Transportation::Stream);
        let parsed = parsed.map_err(|refusal| TestCaseError::fail(format!("{refusal:?}")))?;
        exercise::accepted(&parsed);
        prop_assert_eq!(&parsed.bytes()[..], &bytes[..]);
    }

    #[test]
    fn pieces_do_not_matter(first in message(), second in message(), piece in 1..400usize) {
        let stream = [first.clone(), second.clone()].concat();
        let messages: Vec<_> = exercise::frames(&stream, piece).into_iter().map(|frame| match frame {
            Ok(sip_proto::framing::Frame::Message(message)) => message.bytes().to_vec(),
            other => panic!("{other:?}"),
        }).collect();
        prop_assert_eq!(messages, [first, second]);
    }

    #[test]
    fn accepted_after_damage_means_nothing_was_lost(mut bytes in message(), at in any::<prop::sample::Index>(), with in any::<Vec<u8>>()) {
        let at = at.index(bytes.len());
        bytes.splice(at..at, with.into_iter().take(5));
        exercise::octets(&bytes, 11);
    }

    #[test]
    fn noise_is_refused(noise in prop::collection::vec(any::<u8>(), 0..300), piece in 1..50usize) {
        exercise::octets(&noise, piece);
    }

    #[test]
    fn what_the_builder_writes_can_be_read(
        method in any::<String>(), uri in "(sip|tel|x):\\PC{1,20}", subject in any::<Vec<u8>>(), name in "X-\\PC{0,12}",
        value in any::<String>(), content_type in "[a-z]{1,8}/[a-z+]{1,8}", body in any::<Vec<u8>>(),
    ) {
        let request = Request::new(&method, "sip:a@b")
            .via("SIP/2.0/TCP h;branch=z9hG4bK1")
            .header(HeaderId::From, "<sip:a@b>;tag=1")
            .header(HeaderId::To, "<sip:c@d>")
            .header(HeaderId::CallId, "1")
            .header(HeaderId::CSeq, format!("1 {}", token(&method)))
            .header(HeaderId::Subject, &subject)
            .header_named(&name, &value)
            .body(&content_type, body.clone())
            .build();
        let message = Message::parse(request, Transportation::Stream).map_err(|e| TestCaseError::fail(format!("{e:?}")))?;
        prop_assert_eq!(message.body(), body);
        prop_assert_eq!(message.header_lines().count(), 9);
        prop_assert!(message.content_type().unwrap().is(&content_type));
        let subject = clean(&subject);
        prop_assert_eq!(message.header(HeaderId::Subject).unwrap(), trimmed(&subject));
        exercise::accepted(&message);
        // A URI from outside stays one word of the request line.
        let line = Request::new("A", &uri).build();
        let line = line.split(|&b| b == b'\r').next().unwrap().to_vec();
        prop_assert_eq!(line.iter().filter(|&&b| b == b' ').count(), 2);
    }

    #[test]
    fn what_edits_write_can_be_read(
        bytes in message(), via in TOKEN, hops in any::<u8>(), text in any::<Vec<u8>>(), name in any::<String>(),
        body in prop::option::of(any::<Vec<u8>>()), which in 0..6u8,
    ) {
        let original = Message::parse(bytes.into(), Transportation::Stream).map_err(|e| TestCaseError::fail(format!("{e:?}")))?;
        let mut edit = Edit::new(&original)
            .push_via(format!("SIP/2.0/TLS e;branch=z9hG4bK{via}").into_bytes())
            .append_named(&name, text.clone());
        edit = match which {
            0 => edit.max_forwards(hops),
            1 => edit.body(body.clone().map(|b| ("x/y", Bytes::from(b)))),
            2 => edit.remove_first_value(HeaderId::Via),
            3 => edit.replace(HeaderId::Subject, text.clone()),
            4 => edit.push_front(HeaderId::Server, text.clone()).remove_named("X-A"),
            _ => edit.replace(HeaderId::CallId, &b"new"[..]),
        };
        let result = Message::parse(edit.build(), Transportation::Stream);
        // A name from outside may be that of a header with a grammar, or of one that may be there once.
        if HeaderId::of(name.as_bytes()) == HeaderId::Other && original.header_lines().count() < 126 {
            let copy = result.map_err(|e| TestCaseError::fail(format!("{e:?}")))?;
            exercise::accepted(&copy);
            prop_assert_eq!(copy.top_via().branch().map(str::to_owned), Some(format!("z9hG4bK{via}")));
        }
    }

    #[test]
    fn multipart_comes_back(parts in prop::collection::vec(any::<Vec<u8>>(), 1..=16), noise in any::<Vec<u8>>()) {
        let builder = parts.iter().fold(MultipartBuilder::mixed(), |b, part| b.part("application/octet-stream", part.clone()));
        let (content_type, body) = builder.build();
        let parsed = Multipart::parse(&content_type, &body).map_err(|e| TestCaseError::fail(e.to_string()))?;
        let back: Vec<Vec<u8>> = parsed.parts().iter().map(|part| part.body().to_vec()).collect();
        prop_assert_eq!(back, parts);
        let _ = Multipart::parse("multipart/mixed;boundary=b", &Bytes::from(noise));
    }

    #[test]
    fn escaped_text_is_one_visible_line(text in any::<Vec<u8>>(), chars in any::<String>()) {
        for shown in [escape(&text).to_string(), escape(&chars).to_string()] {
            prop_assert!(!shown.chars().any(char::is_control));
            let deceptive = shown.contains(['\u{202e}', '\u{200b}', '\u{2028}', '\u{feff}']);
            prop_assert!(!deceptive);
        }
    }

    #[test]
    fn quoted_text_comes_back(text in "[^\\p{Cc}]{0,40}", params in any::<Vec<u8>>()) {
        let quoted = quote(&text);
        let param = format!(";p={quoted}");
        prop_assert_eq!(unquote(&quoted), text.as_str());
        prop_assert_eq!(Params::parse(param.as_bytes()).unwrap().get("P").unwrap().text(), text.as_str());
        let _ = Params::parse(&params);
        let _ = split_list(&params).count();
    }

    #[test]
    fn uris_keep_their_text(uri in "(sip|SIPS|tel|urn):[!-~]{0,30}") {
        if let Ok(Uri::Sip(sip)) = Uri::parse(&uri) {
            let mut text = format!("{}:", Uri::Sip(sip).scheme());
            if let Some(user) = sip.user() {
                text += user;
                if let Some(password) = sip.password() {
                    text += &format!(":{password}");
                }
                text += "@";
            }
            text += sip.host_str();
            let port = &uri[text.len()..];
            let port_len = if port.starts_with(':') { port.find([';', '?']).unwrap_or(port.len()) } else { 0 };
            prop_assert_eq!(sip.port().is_some(), port_len > 0);
            text += &port[..port_len];
            text += sip.params_str();
            if let Some(headers) = sip.headers_str() {
                text += &format!("?{headers}");
            }
            prop_assert_eq!(&text, &uri);
            prop_assert!(sip.equivalent(&sip));
            let aor = sip.aor();
            let again = Uri::parse(&aor).unwrap().sip().unwrap().aor();
            prop_assert_eq!(again, aor);
        }
    }
}

/// As the builder writes a method.
fn token(method: &str) -> String {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&b);
    let text: String = method.bytes().map(|b| if is_token(b) { char::from(b) } else { '-' }).collect();
    if text.is_empty() { "-".to_owned() } else { text }
}

/// As the builder writes a value.
fn clean(value: &[u8]) -> Vec<u8> {
    value.iter().map(|&b| if (b < 0x20 && b != b'\t') || b == 0x7f { b' ' } else { b }).collect()
}

fn trimmed(value: &[u8]) -> &[u8] {
    let is_space = |b: &u8| b" \t".contains(b);
    let start = value.iter().position(|b| !is_space(b)).unwrap_or(value.len());
    let end = value.iter().rposition(|b| !is_space(b)).map_or(start, |i| i + 1);
    &value[start..end]
}
