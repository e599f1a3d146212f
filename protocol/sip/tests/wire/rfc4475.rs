//! RFC 4475: the 49 torture messages, one test each, and 50 000 mutations of them.

use std::collections::BTreeSet;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use sip_proto::framing::{Frame, FrameLimits, datagram};
use sip_proto::message::{Edit, HeaderId, Message, Transportation};
use sip_proto::method::Method;
use sip_proto::multipart::Multipart;

use crate::exercise;

const SUMS: &str = include_str!("../rfc4475/SHA256SUMS");

struct Torture {
    name: &'static str,
    bytes: &'static [u8],
}

/// What the scan has to do.
enum Expected {
    /// Accepted; written again without loss.
    Accept,
    /// A request that is refused with this status, and the reason. `true`: on a stream the connection is closed.
    Refuse(u16, &'static str, bool),
    /// A response that is refused: there is nobody to answer.
    Drop(&'static str),
}

use Expected::{Accept, Drop, Refuse};

macro_rules! torture {
    ($( $folder:ident { $( $name:ident $expected:expr; )* } )*) => {
        const ALL: &[Torture] = &[$($(
            Torture {
                name: concat!(stringify!($folder), "/", stringify!($name), ".dat"),
                bytes: include_bytes!(concat!("../rfc4475/", stringify!($folder), "/", stringify!($name), ".dat")),
            },
        )*)*];

        $( mod $folder { $(
            #[test]
            fn $name() {
                use super::*;
                let path = concat!(stringify!($folder), "/", stringify!($name), ".dat");
                let message = ALL.iter().find(|m| m.name == path).unwrap();
                message.check(&$expected);
            }
        )* } )*
    };
}

torture! {
    valid {
        dblreq Accept;
        esc01 Accept;
        esc02 Accept;
        escnull Accept;
        intmeth Accept;
        longreq Accept;
        lwsdisp Accept;
        mpart01 Accept;
        noreason Accept;
        semiuri Accept;
        transports Accept;
        unreason Accept;
        wsinv Accept;
    }
    invalid {
        badaspec Refuse(400, "Malformed To", false);
        baddate Refuse(400, "Malformed Date", false);
        baddn Refuse(400, "Malformed From", false);
        badinv01 Refuse(400, "Malformed Via", false);
        badvers Refuse(505, "Version Not Supported", true);
        bigcode Drop("Malformed Status Line");
        clerr Refuse(400, "Body Shorter Than Content-Length", true);
        escruri Refuse(400, "Headers in the Request-URI", false);
        ltgtruri Refuse(400, "Malformed Request-URI", false);
        lwsruri Refuse(400, "Malformed Request-URI", false);
        lwsstart Refuse(400, "Malformed Request-URI", false);
        mismatch01 Refuse(400, "CSeq Method Is Not the Method", false);
        mismatch02 Refuse(400, "CSeq Method Is Not the Method", false);
        ncl Refuse(400, "Malformed Content-Length", true);
        quotbal Refuse(400, "Malformed To", false);
        regbadct Refuse(400, "Malformed Contact", false);
        scalar02 Refuse(400, "Malformed CSeq", false);
        scalarlg Drop("Malformed CSeq");
        trws Refuse(400, "Malformed Request Line", false);
    }
    other {
        badbranch Accept;
        bcast Accept;
        bext01 Accept;
        cparam01 Accept;
        cparam02 Accept;
        insuf Refuse(400, "Missing From", false);
        inv2543 Accept;
        invut Accept;
        mcl01 Refuse(400, "Content-Length Twice", true);
        multi01 Refuse(400, "From Twice", false);
        novelsc Accept;
        regaut01 Accept;
        regescrt Accept;
        sdp01 Accept;
        unkscm Accept;
        unksm2 Accept;
        zeromf Accept;
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn parse(bytes: &[u8]) -> Result<Message, sip_proto::message::Refusal> {
    Message::parse(Bytes::copy_from_slice(bytes), Transportation::Datagram)
}

fn accepted(path: &str) -> Message {
    let torture = ALL.iter().find(|m| m.name == path).unwrap();
    parse(torture.bytes).unwrap_or_else(|refusal| panic!("{path} was refused: {refusal:?}"))
}

impl Torture {
    fn check(&self, expected: &Expected) {
        let sum = format!("{}  {}", hex(&Sha256::digest(self.bytes)), self.name);
        assert!(SUMS.lines().any(|line| line == sum), "{} is not the octets of the RFC", self.name);
        match expected {
            Accept => self.check_accepted(),
            Refuse(status, reason, close) => self.check_refused(*status, reason, *close),
            Drop(reason) => {
                let refusal = parse(self.bytes).unwrap_err();
                assert_eq!((refusal.is_request, refusal.reason), (Some(false), *reason));
                assert_eq!(refusal.answer("t"), None);
                exercise::refused(&refusal);
            }
        }
        self.check_cut_anywhere();
    }

    fn check_accepted(&self) {
        let message = accepted(self.name);
        exercise::accepted(&message);
        // Byte-exact on rewrite; a Content-Length is added where the datagram did without.
        let copy = Edit::new(&message).build();
        if message.has(HeaderId::ContentLength) {
            assert_eq!(copy, *message.bytes(), "{} changed on its way through", self.name);
            assert_eq!(&self.bytes[..copy.len()], &copy[..]);
        } else {
            let again = Message::parse(copy, Transportation::Stream).unwrap();
            assert_eq!(again.body(), message.body());
            assert_eq!(again.header_lines().count(), message.header_lines().count() + 1);
        }
        let by_datagram = datagram(Bytes::from_static(self.bytes), &FrameLimits::default()).unwrap();
        assert_eq!(by_datagram, Some(message.clone()));
        // The same on a stream, one octet at a time.
        let frames = exercise::frames(self.bytes, 1);
        let first = frames.into_iter().find(|frame| !matches!(frame, Ok(Frame::KeepAlive(_)))).unwrap();
        if message.has(HeaderId::ContentLength) {
            assert_eq!(first.unwrap(), Frame::Message(message));
        } else {
            assert_eq!(first.unwrap_err().reason, "Missing Content-Length");
        }
    }

    fn check_refused(&self, status: u16, reason: &str, close: bool) {
        let refusal = parse(self.bytes).unwrap_err();
        assert_eq!((refusal.status, refusal.reason, refusal.close), (status, reason, close), "{}", self.name);
        assert_eq!(refusal.is_request, Some(true));
        // What is needed for an answer was found, where it is there at all.
        assert_eq!(refusal.via.len(), 1);
        let found = [&refusal.from, &refusal.to, &refusal.call_id].iter().filter(|value| value.is_some()).count();
        assert_eq!(found, if self.name == "other/insuf.dat" { 0 } else { 3 });
        let answer = refusal.answer("totag").unwrap();
        assert!(answer.starts_with(format!("SIP/2.0 {status} {reason}\r\nVia: SIP/").as_bytes()));
        exercise::refused(&refusal);
        // On a stream the same refusal, or waiting for what is missing.
        let fault = exercise::frames(self.bytes, 1).into_iter().next();
        if self.name == "invalid/clerr.dat" {
            assert_eq!(fault, None);
        } else {
            let fault = fault.unwrap().unwrap_err();
            assert_eq!((fault.status, fault.reason, fault.close), (status, reason, close));
        }
    }

    /// No entry point panics, wherever the message ends.
    fn check_cut_anywhere(&self) {
        for end in 0..=self.bytes.len() {
            let cut = Bytes::from_static(&self.bytes[..end]);
            for mode in [Transportation::Datagram, Transportation::Stream] {
                match Message::parse(cut.clone(), mode) {
                    Ok(message) => exercise::every_line_is_accounted_for(&message),
                    Err(refusal) => exercise::refused(&refusal),
                }
            }
            if let Err(refusal) = datagram(cut, &FrameLimits::default()) {
                exercise::refused(&refusal);
            }
        }
        for piece in [1, 2, 3, 7, 64] {
            exercise::frames(self.bytes, piece);
        }
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the folder itself is what is tested")]
fn every_file_of_the_folder_has_an_expectation() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/rfc4475");
    let mut files = BTreeSet::new();
    for folder in ["valid", "invalid", "other"] {
        for entry in std::fs::read_dir(format!("{root}/{folder}")).unwrap() {
            files.insert(format!("{folder}/{}", entry.unwrap().file_name().into_string().unwrap()));
        }
    }
    let expected: BTreeSet<String> = ALL.iter().map(|m| m.name.to_owned()).collect();
    assert_eq!(files, expected);
    assert_eq!(ALL.len(), 49);
    assert_eq!(SUMS.lines().count(), 49);
}

#[test]
fn baddn_without_its_empty_line_is_an_incomplete_head() {
    let whole = ALL.iter().find(|m| m.name == "invalid/baddn.dat").unwrap().bytes;
    assert_eq!(whole.len(), 333);
    let refusal = parse(&whole[..331]).unwrap_err();
    assert_eq!((refusal.status, refusal.reason), (400, "Incomplete Head"));
    assert_eq!(exercise::frames(&whole[..331], 331), []);
}

#[test]
fn wsinv_says_what_it_says() {
    let message = accepted("valid/wsinv.dat");
    assert_eq!(message.method(), Some(Method::Invite));
    assert_eq!(message.request_uri(), Some("sip:vivekg@chair-dnrc.example.com;unknownparam"));
    assert_eq!((message.to_tag(), message.from_tag()), (Some("1918181833n"), Some("98asjd8")));
    assert_eq!(message.from().display_name().unwrap(), "J Rosenberg \\\"");
    assert_eq!((message.max_forwards(), message.cseq().seq), (Some(68), 9));
    let vias: Vec<_> = message.vias().map(|v| (v.transport(), v.host_str(), v.branch().unwrap())).collect();
    let expected = [
        ("UDP", "192.0.2.2", "390skdjuw"),
        ("TCP", "spindle.example.com", "z9hG4bK9ikj8"),
        ("UDP", "192.168.255.111", "z9hG4bK30239"),
    ];
    assert_eq!(vias, expected);
    let contact = message.contacts().first().unwrap();
    assert_eq!(contact.display_name().unwrap(), "Quoted string \"\"");
    assert_eq!((contact.q(), contact.param("newparam").unwrap().value), (Some(330), Some("newvalue")));
    assert_eq!(
        message.routes().next().unwrap().uri(),
        "sip:services.example.com;lr;unknownwith=value;unknown-no-value"
    );
    assert_eq!(message.header(HeaderId::Subject), Some(&b""[..]));
    assert_eq!(message.headers_named("UNKNOWNHEADERWITHUNUSUALVALUE").next(), Some(&b";;,,;;,;"[..]));
    assert_eq!(message.body().len(), 150);
}

#[test]
fn intmeth_says_what_it_says() {
    let message = accepted("valid/intmeth.dat");
    assert_eq!(message.method(), Some(Method::Extension("!interesting-Method0123456789_*+`.%indeed'~")));
    assert_eq!(message.to().display_name().unwrap(), "BEL:\x07 NUL:\0 DEL:\x7f");
    assert_eq!(message.from().param("fromparam''~+*_!.-%").unwrap().text(), "работающий");
    assert_eq!(message.from_tag(), Some("_token~1'+`*%!-."));
    assert_eq!(message.call_id(), "intmeth.word%ZK-!.*_+'@word`~)(><:\\/\"][?}{");
    assert_eq!(message.max_forwards(), Some(255));
    let name = "extensionHeader-!.%*+_`'~";
    assert_eq!(message.headers_named(name).next(), Some("\u{feff}大停電".as_bytes()));
}

#[test]
fn others_say_what_they_say() {
    assert_eq!(accepted("valid/esc02.dat").method(), Some(Method::Extension("RE%47IST%45R")));
    assert_eq!(accepted("valid/esc02.dat").contacts().iter().count(), 2);
    let uris: Vec<_> = accepted("valid/escnull.dat").contacts().iter().map(|c| c.uri().to_owned()).collect();
    assert_eq!(uris, ["sip:%00@host5.example.com", "sip:%00%00@host5.example.com"]);
    assert_eq!(accepted("valid/longreq.dat").vias().count(), 34);
    assert_eq!(accepted("valid/dblreq.dat").body(), "");
    assert_eq!(accepted("valid/dblreq.dat").bytes().len(), 300);
    assert_eq!(accepted("valid/unreason.dat").reason().unwrap().len(), 74);
    assert_eq!(accepted("valid/noreason.dat").reason(), Some(&b""[..]));
    assert_eq!(accepted("valid/lwsdisp.dat").from().display_name().unwrap(), "caller");
    let transports = accepted("valid/transports.dat");
    assert_eq!(transports.vias().map(|v| v.transport()).collect::<Vec<_>>(), ["UDP", "SCTP", "TLS", "UNKNOWN", "TCP"]);
    assert!(!accepted("other/badbranch.dat").top_via().has_rfc3261_branch());
    assert_eq!(accepted("other/inv2543.dat").body().len(), 105);
    assert_eq!(accepted("other/inv2543.dat").from_tag(), None);
    assert_eq!(accepted("other/unkscm.dat").request_uri(), Some("nobodyKnowsThisScheme:totallyopaquecontent"));
    assert_eq!(accepted("other/unksm2.dat").to().uri(), "isbn:2983792873");
    assert_eq!(accepted("other/bext01.dat").list_values(HeaderId::Require).count(), 2);
    let contact = accepted("other/regescrt.dat");
    assert_eq!(contact.contacts().first().unwrap().uri(), "sip:user@example.com?Route=%3Csip:sip.example.com%3E");
}

#[test]
fn mpart01_keeps_its_binary_part() {
    let message = accepted("valid/mpart01.dat");
    let body = message.body();
    assert_eq!(body.len(), 553);
    let multipart = Multipart::parse(message.content_type().unwrap(), &body).unwrap();
    let [text, signature] = multipart.parts() else { panic!("two parts") };
    assert_eq!(text.body(), "Hello");
    assert_eq!(signature.header("content-transfer-encoding"), Some(&b"binary"[..]));
    let start = body.windows(4).position(|w| w == b"\x30\x82\x01\x52").unwrap();
    let end = body.len() - "\r\n--7a9cbec02ceef655--\r\n".len();
    assert_eq!(signature.body(), body.slice(start..end));
}

/// Deterministic, so that a failure repeats.
struct Xorshift(u64);

impl Xorshift {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n.max(1) as u64) as usize
    }
}

#[test]
fn mutations_50_000_without_a_panic() {
    const SPICE: &[&[u8]] = &[
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b" ",
        b"\t",
        b"\"",
        b"\\",
        b"<",
        b">",
        b";",
        b",",
        b":",
        b"@",
        b"?",
        b"=",
        b"%",
        b"%00",
        b"[",
        b"]",
        b"\xff",
        b"\xc3\xa9",
        b"\r\n ",
        b"\r\n\r\n",
        b"Content-Length: 0\r\n",
        b"l : 9\r\n",
        b"Via: ",
        b"SIP/2.0",
        b"*",
        b"4294967296",
    ];
    let mut random = Xorshift(0x2545_f491_4f6c_dd1d);
    let mut accepted = 0;
    for round in 0..50_000 {
        let mut bytes = ALL[random.below(ALL.len())].bytes.to_vec();
        for _ in 0..=random.below(3) {
            let at = random.below(bytes.len());
            match random.below(6) {
                0 => bytes[at] = random.below(256) as u8,
                1 => {
                    bytes.remove(at);
                }
                2 | 3 => {
                    let spice = SPICE[random.below(SPICE.len())];
                    bytes.splice(at..at, spice.iter().copied());
                }
                4 => {
                    let end = (at + random.below(40)).min(bytes.len());
                    bytes.drain(at..end);
                }
                _ => {
                    let end = (at + random.below(200)).min(bytes.len());
                    let copy = bytes[at..end].to_vec();
                    let to = random.below(bytes.len());
                    bytes.splice(to..to, copy);
                }
            }
            if bytes.is_empty() {
                bytes.push(b'x');
            }
        }
        match parse(&bytes) {
            Ok(message) => {
                accepted += 1;
                if round % 4 == 0 {
                    exercise::accepted(&message);
                }
            }
            Err(refusal) => exercise::refused(&refusal),
        }
        if round % 8 == 0 {
            exercise::octets(&bytes, 1 + round % 97);
        }
    }
    // The mutations are mild enough that both sides of the parser are tried.
    assert!((4_000..45_000).contains(&accepted), "{accepted} of 50000 accepted");
}
