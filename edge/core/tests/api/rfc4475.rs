//! The 49 messages of RFC 4475 through the core: what their README says in the column "our answer". The domains of the messages are
//! configured and agents stand at the addresses; requests come on a flow whose client certificate names the From user (for REGISTER the
//! AOR in To), `regaut01` on one without; then all again without a certificate: 401 once they parse, except OPTIONS.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use edge_core::config::Config;
use edge_core::input::{ConnId, Flow, FlowKey, PeerCertificate, Transport};
use sip_proto::framing;
use sip_proto::message::{HeaderId, Message, Transportation};

use crate::driver::*;

/// File, what the core answers with a certificate, and without one. `None`: nothing.
const ANSWERS: [(&str, Option<u16>, Option<u16>); 49] = [
    // A To tag that names no dialog of ours.
    ("valid/wsinv", Some(481), Some(401)),
    // 488 of an INVITE: no MCP in it, and every media line would be refused.
    ("valid/intmeth", Some(501), Some(401)),
    ("valid/esc01", Some(488), Some(401)),
    ("valid/escnull", Some(200), Some(401)),
    ("valid/esc02", Some(501), Some(401)),
    ("valid/lwsdisp", Some(200), Some(200)),
    ("valid/longreq", Some(488), Some(401)),
    ("valid/dblreq", Some(200), Some(401)),
    ("valid/semiuri", Some(200), Some(200)),
    ("valid/transports", Some(200), Some(200)),
    // A multipart of text and binary is no MCP message.
    ("valid/mpart01", Some(415), Some(401)),
    ("valid/unreason", None, None),
    ("valid/noreason", None, None),
    ("invalid/badinv01", Some(400), Some(400)),
    ("invalid/clerr", Some(400), Some(400)),
    ("invalid/ncl", Some(400), Some(400)),
    ("invalid/scalar02", Some(400), Some(400)),
    ("invalid/scalarlg", None, None),
    ("invalid/quotbal", Some(400), Some(400)),
    ("invalid/ltgtruri", Some(400), Some(400)),
    ("invalid/lwsruri", Some(400), Some(400)),
    ("invalid/lwsstart", Some(400), Some(400)),
    ("invalid/trws", Some(400), Some(400)),
    ("invalid/escruri", Some(400), Some(400)),
    ("invalid/baddate", Some(400), Some(400)),
    ("invalid/regbadct", Some(400), Some(400)),
    ("invalid/badaspec", Some(400), Some(400)),
    ("invalid/baddn", Some(400), Some(400)),
    ("invalid/badvers", Some(505), Some(505)),
    ("invalid/mismatch01", Some(400), Some(400)),
    ("invalid/mismatch02", Some(400), Some(400)),
    ("invalid/bigcode", None, None),
    ("other/badbranch", Some(200), Some(200)),
    ("other/insuf", Some(400), Some(400)),
    ("other/unkscm", Some(416), Some(416)),
    ("other/novelsc", Some(416), Some(416)),
    ("other/unksm2", Some(400), Some(401)),
    ("other/bext01", Some(420), Some(200)),
    ("other/invut", Some(415), Some(401)),
    ("other/regaut01", Some(401), Some(401)),
    ("other/multi01", Some(400), Some(400)),
    ("other/mcl01", Some(400), Some(400)),
    ("other/bcast", None, None),
    ("other/zeromf", Some(200), Some(200)),
    ("other/cparam01", Some(200), Some(401)),
    ("other/cparam02", Some(200), Some(401)),
    ("other/regescrt", Some(200), Some(401)),
    ("other/sdp01", Some(406), Some(401)),
    ("other/inv2543", Some(488), Some(401)),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../protocol/sip/tests/rfc4475")
}

fn host(uri: &str) -> Option<String> {
    sip_proto::uri::Uri::parse(uri).ok()?.sip().map(|uri| uri.host_str().to_ascii_lowercase())
}

/// Domains and agents of every message that parses.
fn all_domains(messages: &[(String, Vec<u8>)]) -> Config {
    let mut config = config();
    let mut domains = BTreeMap::new();
    let mut agents = BTreeMap::new();
    for (_, bytes) in messages {
        let Ok(message) = Message::parse(bytes.clone().into(), Transportation::Datagram) else { continue };
        let uris = [message.request_uri(), Some(message.to().uri()), Some(message.from().uri())];
        for name in uris.into_iter().flatten().filter_map(host) {
            let tenant = u16::try_from(domains.len() + 10).unwrap();
            domains.entry(name.clone()).or_insert_with(|| Arc::new(domain(&name, tenant)));
        }
        let uri = message.request_uri().and_then(|u| sip_proto::uri::Uri::parse(u).ok()).and_then(|u| u.sip());
        if let Some((uri, user)) = uri.and_then(|uri| Some((uri, uri.user_unescaped()?.into_owned())))
            && message.cseq().method.as_str() != "REGISTER"
        {
            let domain = uri.host_str().to_ascii_lowercase();
            agents.insert((domain.clone(), user.clone()), Arc::new(agent(&user, &domain)));
        }
    }
    config.domains = domains;
    config.agents = agents;
    config
}

/// A TLS connection with a certificate of the message's user, or without.
fn flow(bytes: &[u8], certified: bool) -> Arc<Flow> {
    let message = Message::parse(bytes.to_vec().into(), Transportation::Datagram).ok();
    let certificate = message.filter(|_| certified).map(|message| {
        let register = message.cseq().method.as_str() == "REGISTER";
        let user = if register { message.to().uri().to_owned() } else { message.from().uri().to_owned() };
        let asked = message.request_uri().and_then(host);
        let domains = host(&user).into_iter().chain(asked).collect();
        Arc::new(PeerCertificate { uris: vec![user], dns: Vec::new(), domains })
    });
    Arc::new(Flow {
        key: FlowKey::Stream(ConnId(1)),
        transport: Transport::Tls,
        listener: TLS,
        local: "192.0.2.1:5061".parse().unwrap(),
        remote: "198.51.100.7:40001".parse().unwrap(),
        certificate,
    })
}

#[test]
#[allow(clippy::disallowed_methods, reason = "the vectors are files; only the test reads them")]
fn rfc4475_answers() {
    let mut messages = Vec::new();
    for kind in ["valid", "invalid", "other"] {
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(folder().join(kind)).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        for path in files {
            let name = format!("{kind}/{}", path.file_stem().unwrap().to_str().unwrap());
            messages.push((name, std::fs::read(path).unwrap()));
        }
    }
    assert_eq!(messages.len(), 49);
    let mut seen = 0;
    let mut wrong = Vec::new();
    for (name, bytes) in &messages {
        let (_, with, without) =
            ANSWERS.iter().find(|(n, ..)| n == name).unwrap_or_else(|| panic!("{name} has no expectation"));
        for (certified, expected) in [(true, with), (false, without)] {
            let certified = certified && name != "other/regaut01";
            let mut config = all_domains(&messages);
            if bytes.starts_with(b"REGISTER") {
                // A declared agent does not register; these are users.
                config.agents.clear();
            }
            let mut world = World::new(config);
            world.echoes = true;
            let flow = flow(bytes, certified);
            // As datagrams: the octets after Content-Length and a missing Content-Length are part of what is tested.
            match framing::datagram(bytes.clone().into(), &framing::FrameLimits::default()) {
                Ok(Some(message)) => {
                    world.input(edge_core::input::Input::Message { flow: flow.clone(), message });
                }
                Ok(None) => panic!("{name} is no keep-alive"),
                Err(refusal) => world.fault(&flow, refusal),
            }
            let answer = world.sent.iter().map(|s| s.message.clone()).find(|m| m.status() != Some(100));
            let echoed = world.broken.first().map(|text| text["SIP/2.0 ".len()..][..3].parse().unwrap());
            let status = answer.as_ref().and_then(Message::status).or(echoed);
            if status != *expected {
                wrong.push(format!("{name}, certificate {certified}: {status:?}, expected {expected:?}"));
            } else if let Some(answer) = answer {
                details(name, certified, &answer);
            }
            seen += 1;
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    assert_eq!(seen, 98);
}

/// What the answers say beside their status.
fn details(name: &str, certified: bool, answer: &Message) {
    match (name, certified) {
        ("other/bext01", true) => {
            assert_eq!(header(answer, HeaderId::Unsupported), "nothingSupportsThis, nothingSupportsThisEither");
        }
        ("other/invut" | "valid/mpart01", true) => assert!(answer.has(HeaderId::Accept)),
        ("other/regaut01", _) => assert_eq!(answer.headers(HeaderId::WwwAuthenticate).count(), 2),
        ("other/cparam01", true) => assert!(text(answer).contains("sip:+19725552222@gw1.example.net;unknownparam")),
        ("other/cparam02", true) => assert!(text(answer).contains("<sip:+19725552222@gw1.example.net;unknownparam>")),
        ("other/regescrt", true) => {
            assert!(text(answer).contains("<sip:user@example.com?Route=%3Csip:sip.example.com%3E>"))
        }
        _ => {}
    }
}

/// Any octets in any of the messages: an answer or none, never a panic; and nothing that piles up.
#[test]
#[allow(clippy::disallowed_methods, reason = "the vectors are files; only the test reads them")]
fn rfc4475_50_000_mutations_through_the_core() {
    let mut messages = Vec::new();
    for kind in ["valid", "invalid", "other"] {
        for entry in std::fs::read_dir(folder().join(kind)).unwrap() {
            let path = entry.unwrap().path();
            messages.push((path.display().to_string(), std::fs::read(path).unwrap()));
        }
    }
    messages.sort();
    let mut world = World::new(all_domains(&messages));
    world.echoes = true;
    let flows: Vec<_> = messages.iter().map(|(_, bytes)| [flow(bytes, true), flow(bytes, false)]).collect();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 11).unwrap() % below
    };
    for n in 0..50_000 {
        let which = random(messages.len());
        let mut bytes = messages[which].1.clone();
        for _ in 0..=random(3) {
            if bytes.is_empty() {
                break;
            }
            let at = random(bytes.len());
            match random(5) {
                0 => bytes[at] = u8::try_from(random(256)).unwrap(),
                1 => {
                    bytes.remove(at);
                }
                2 => bytes.insert(at, b"\r\n\t ;,:<>\"@%=*\0\xff0a"[random(18)]),
                3 => bytes.truncate(at.max(1)),
                _ => {
                    let end = (at + random(40)).min(bytes.len());
                    let piece = bytes[at..end].to_vec();
                    bytes.splice(at..at, piece);
                }
            }
        }
        let flow = &flows[which][random(2)];
        match framing::datagram(bytes.into(), &framing::FrameLimits::default()) {
            Ok(Some(message)) => world.input(edge_core::input::Input::Message { flow: flow.clone(), message }),
            Ok(None) => {}
            Err(refusal) => world.fault(flow, refusal),
        }
        world.sent.clear();
        world.calls.clear();
        world.audit.clear();
        world.broken.clear();
        world.operations.clear();
        if n % 100 == 0 {
            world.advance(1000);
        }
    }
    world.advance(3 * 3600 * 1000);
    let stats = world.core.stats();
    assert_eq!((stats.dialogs, stats.server_transactions, stats.timers), (0, 0, 0), "{stats:?}");
}
