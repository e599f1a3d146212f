//! Registrar rules, by step of RFC 3261 §10.3 and by requirement.

use proptest::prelude::*;
use sip_proto::message::{Message, Response, Transportation};
use sip_proto::registrar::{
    Binding, Change, ExpiresBounds, MAX_BINDINGS, MAX_CONTACTS, Profile, RegisterRefusal, Registered, read, register,
};
use sip_proto::time::UnixMillis;

use super::message;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

fn request(call_id: &str, cseq: u32, lines: &str) -> Message {
    message(&format!(
        "REGISTER sip:demo.example SIP/2.0\nVia: SIP/2.0/TCP h;branch=z9hG4bKx\nFrom: <sip:a@demo.example>;tag=1\n\
         To: <sip:a@demo.example>\nCall-ID: {call_id}\nCSeq: {cseq} REGISTER\n{lines}\n"
    ))
}

fn production() -> ExpiresBounds {
    Profile::Production.bounds().raising()
}

fn go(bindings: &[Binding], cseq: u32, lines: &str) -> Result<Registered, RegisterRefusal> {
    register(&request("c1", cseq, lines), bindings, &production(), NOW, 0)
}

fn contacts(registered: &Registered) -> Vec<String> {
    registered.contacts.iter().map(|value| String::from_utf8(value.clone()).unwrap()).collect()
}

#[test]
fn reg_1_contact_parameters_are_stored_and_returned_byte_exact() {
    let values = [
        (
            "\"Echo; <1>\" <sip:e@192.0.2.1:5060;transport=tcp>;+mcp;+mcp.ver=\"1.0\";\
             +mcp.cap=\"summarize@1,urn:ex:doc:1;expires=5\";q=0.5",
            "",
        ),
        ("<sip:e@192.0.2.2> ; +mcp.ver = \"2025-11-25\"", ";expires=7200;x"),
        ("sip:e@192.0.2.3", ";EXPIRES = 3600 ;a=\"\\\";expires=1\""),
    ];
    let lines: String = values.iter().map(|(value, expires)| format!("Contact: {value}{expires}\n")).collect();
    let registered = go(&[], 1, &format!("{lines}Expires: 1800\n")).unwrap();
    let expected = [
        format!("{};expires=1800", values[0].0),
        format!("{};x;expires=7200", values[1].0),
        format!("{};a=\"\\\";expires=1\";expires=3600", values[2].0),
    ];
    assert_eq!(contacts(&registered), expected);
    assert_eq!(registered.bindings[0].q, 500);
    // The same through a real 200, and in a later query with the time that is left.
    let later = NOW.plus_millis(500_500);
    let query = register(&request("c1", 2, ""), &registered.bindings, &production(), later, 0).unwrap();
    assert!(contacts(&query)[0].ends_with(";expires=1300"));
    let question = request("c1", 2, "");
    let mut ok = Response::to_request(&question, 200, None);
    for contact in &query.contacts {
        ok = ok.header(sip_proto::message::HeaderId::Contact, contact);
    }
    let ok = Message::parse(ok.build(), Transportation::Stream).unwrap();
    let first = ok.contacts().first().unwrap();
    assert_eq!(first.param("+mcp.cap").unwrap().value, Some("\"summarize@1,urn:ex:doc:1;expires=5\""));
}

#[test]
fn reg_4_each_class_has_its_bounds() {
    for (profile, min, max) in [
        (Profile::Ephemeral, 60, 300),
        (Profile::Production, 1800, 7200),
        (Profile::Pool, 300, 900),
        (Profile::Federated, 600, 1800),
    ] {
        let bounds = ExpiresBounds { jitter_percent: 0, ..profile.bounds() };
        let go = |expires: u32| {
            register(&request("c", 1, &format!("Contact: <sip:e@h>;expires={expires}\n")), &[], &bounds, NOW, 0)
        };
        assert_eq!(go(min - 1), Err(RegisterRefusal::TooBrief { min_expires: min }));
        let left = |expires| (go(expires).unwrap().bindings[0].expires_at.0 - NOW.0) / 1000;
        assert_eq!((left(min), left(max), left(max + 1)), (min.into(), max.into(), max.into()), "{profile:?}");
        assert_eq!(left(u32::MAX), u64::from(max));
        let raised =
            register(&request("c", 1, "Contact: <sip:e@h>;expires=1\n"), &[], &bounds.raising(), NOW, 0).unwrap();
        assert_eq!((raised.bindings[0].expires_at.0 - NOW.0) / 1000, u64::from(min));
        let silent = register(&request("c", 1, "Contact: <sip:e@h>\n"), &[], &bounds, NOW, 0).unwrap();
        assert_eq!((silent.bindings[0].expires_at.0 - NOW.0) / 1000, u64::from(bounds.default));
    }
    assert_eq!(RegisterRefusal::TooBrief { min_expires: 60 }.status(), 423);
}

#[test]
fn reg_4_an_hour_is_never_too_brief() {
    let long = ExpiresBounds { min: 7200, max: 9000, default: 8000, raise: false, jitter_percent: 0 };
    assert!(long.grant(Some(3599), 0).is_err());
    assert_eq!(long.grant(Some(3600), 0), Ok(7200), "RFC 3261 §10.3 allows 423 below an hour only");
}

#[test]
fn reg_5_pool_members_get_spread_expiries() {
    let bounds = Profile::Pool.bounds();
    for asked in [300, 600, 900] {
        let granted: std::collections::BTreeSet<u32> =
            (0..500).map(|random| bounds.grant(Some(asked), random * 7919).unwrap()).collect();
        assert!(granted.len() > 50, "{asked}: {} values", granted.len());
        assert!(granted.iter().all(|seconds| (300..=900).contains(seconds)));
    }
    assert_eq!(bounds.grant(Some(0), 12345), Ok(0));
}

#[test]
fn reg_6_removal_takes_effect_at_once() {
    let bound = go(&[], 1, "Contact: <sip:a@h>, <sip:b@h>\n").unwrap();
    assert_eq!(bound.bindings.len(), 2);
    let less = go(&bound.bindings, 2, "Contact: <sip:a@h>;expires=0\n").unwrap();
    assert_eq!(less.bindings.iter().map(|b| b.uri.as_str()).collect::<Vec<_>>(), ["sip:b@h"]);
    let none = go(&less.bindings, 3, "Contact: <sip:b@h>\nExpires: 0\n").unwrap();
    assert!(none.bindings.is_empty() && none.contacts.is_empty());
    let all = go(&bound.bindings, 2, "Contact: *\nExpires: 0\n").unwrap();
    assert!(all.bindings.is_empty());
    // The same again, as a retransmission, is the same answer.
    assert_eq!(go(&all.bindings, 2, "Contact: *\nExpires: 0\n"), Ok(all));
}

#[test]
fn star_needs_expires_0_and_stands_alone() {
    for lines in ["Contact: *\n", "Contact: *\nExpires: 60\n"] {
        assert_eq!(go(&[], 1, lines).unwrap_err().status(), 400, "{lines}");
    }
}

#[test]
fn older_requests_of_a_call_id_change_nothing() {
    let bound = go(&[], 5, "Contact: <sip:a@h>\n").unwrap().bindings;
    assert_eq!(go(&bound, 4, "Contact: <sip:b@h>, <sip:a@h>;expires=0\n"), Err(RegisterRefusal::OutOfOrder));
    assert_eq!(go(&bound, 4, "Contact: *\nExpires: 0\n"), Err(RegisterRefusal::OutOfOrder));
    assert_eq!(RegisterRefusal::OutOfOrder.status(), 500);
    assert!(go(&bound, 4, "Contact: <sip:b@h>\n").is_ok(), "another binding has its own order");
    let other_call = request("c2", 1, "Contact: <sip:a@h>;expires=0\n");
    assert!(register(&other_call, &bound, &production(), NOW, 0).unwrap().bindings.is_empty(), "a restarted UA");
    // The very request again: the same bindings.
    assert_eq!(go(&bound, 5, "Contact: <sip:a@h>\n").unwrap().bindings, bound);
}

#[test]
fn sec_18_contacts_and_bindings_are_bounded() {
    let list = |from: usize, to: usize| (from..to).map(|n| format!("Contact: <sip:u{n}@h>\n")).collect::<String>();
    assert_eq!(go(&[], 1, &list(0, MAX_CONTACTS + 1)), Err(RegisterRefusal::TooMany));
    let mut bound = Vec::new();
    for n in 0..MAX_BINDINGS / MAX_CONTACTS {
        let from = n * MAX_CONTACTS;
        bound = go(&bound, 1, &list(from, from + MAX_CONTACTS)).unwrap().bindings;
    }
    assert_eq!(go(&bound, 2, "Contact: <sip:more@h>\n"), Err(RegisterRefusal::TooMany));
    assert_eq!(RegisterRefusal::TooMany.status(), 403);
    assert!(go(&bound, 2, "Contact: <sip:u0@h>\n").is_ok(), "a refresh needs no room");
    assert!(go(&bound, 2, "Contact: <sip:u0@h>;expires=0, <sip:more@h>\n").is_ok(), "one goes, one comes");
    let later = NOW.plus_millis(7_200_000);
    assert_eq!(
        register(&request("c9", 1, "Contact: <sip:more@h>\n"), &bound, &production(), later, 0).unwrap().bindings.len(),
        1
    );
}

#[test]
fn a_restarted_instance_replaces_its_binding() {
    let contact = |uri: &str, id: u32| {
        format!("Contact: <{uri}>;+sip.instance=\"<urn:uuid:F81D4FAE-7dec-11d0-a765-00a0c91e6bf6>\";reg-id={id}\n")
    };
    let bound = go(&[], 1, &format!("Supported: path, outbound\n{}", contact("sip:a@10.0.0.1", 1))).unwrap();
    assert!(bound.outbound);
    let moved = register(
        &request("new", 1, &contact("sip:a@10.0.0.2:999", 1).to_lowercase()),
        &bound.bindings,
        &production(),
        NOW,
        0,
    );
    let moved = moved.unwrap();
    assert!(!moved.outbound, "not asked for");
    assert_eq!(moved.bindings.iter().map(|b| b.uri.as_str()).collect::<Vec<_>>(), ["sip:a@10.0.0.2:999"]);
    let second_flow = go(&moved.bindings, 2, &contact("sip:a@10.0.0.2:999", 2)).unwrap();
    assert_eq!(second_flow.bindings.len(), 2);
    // Without reg-id (or with a useless one) the URI counts.
    let uri =
        go(&[], 1, "Contact: <sip:a@h>;+sip.instance=\"<urn:x:1>\", <sip:b@h>;+sip.instance=\"<urn:x:1>\";reg-id=0\n");
    assert_eq!(uri.unwrap().bindings.len(), 2);
}

#[test]
fn equal_uris_are_one_binding() {
    let bound = go(&[], 1, "Contact: <sip:%61lice@H.example;transport=TCP;line=1>\n").unwrap().bindings;
    let again = go(&bound, 2, "Contact: \"A\" <SIP:alice@h.EXAMPLE;line=1;Transport=tcp>\n").unwrap().bindings;
    assert_eq!(again.len(), 1);
    for other in [
        "sip:Alice@h.example;transport=tcp;line=1",
        "sip:alice@h.example;transport=tcp;line=2",
        "sips:alice@h.example;transport=tcp;line=1",
        "sip:alice@h.example:5060;transport=tcp;line=1",
        "tel:+15551234",
    ] {
        assert_eq!(go(&bound, 2, &format!("Contact: <{other}>\n")).unwrap().bindings.len(), 2, "{other}");
    }
    assert_eq!(go(&[], 1, "Contact: <sip:a@h>, <sip:a@H>\n").unwrap_err().status(), 400);
}

#[test]
fn path_is_kept_with_the_binding() {
    let lines =
        "Contact: <sip:a@h>\nPath: <sip:p1.example;lr;ob>, <sip:p2.example;lr>\nPath: \"x\" <sip:p3.example;lr>;y\n";
    let bound = go(&[], 1, lines).unwrap().bindings;
    assert_eq!(bound[0].path, ["<sip:p1.example;lr;ob>", "<sip:p2.example;lr>", "\"x\" <sip:p3.example;lr>;y"]);
}

#[test]
fn folded_contacts_are_stored_in_one_line() {
    let bound = go(&[], 1, "Contact: <sip:a@h>\n ;+mcp;expires=3600;\n  +mcp.ver=\"1\"\n").unwrap();
    assert!(bound.contacts[0].iter().all(|b| !matches!(b, b'\r' | b'\n')));
    assert!(contacts(&bound)[0].ends_with(";expires=3600"));
}

/// Call-ID, CSeq, contacts with their `expires`, a star, `Expires`.
type AnyRegister = (u8, u32, Vec<(u8, Option<u32>)>, bool, Option<u32>);

fn any_register() -> impl Strategy<Value = AnyRegister> {
    let contact = (0u8..30, prop::option::of(prop_oneof![Just(0u32), 1u32..9000]));
    (0u8..3, 1u32..20, prop::collection::vec(contact, 0..10), any::<bool>(), prop::option::of(0u32..9000))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Any history: never more than 16 bindings, no key twice, expiries within bounds, and a refusal changes nothing
    /// (the result is a value, so the old bindings are still those that were there).
    #[test]
    fn any_history_keeps_the_invariants(history in prop::collection::vec((any_register(), 0u64..4_000_000), 0..40), random in any::<u32>()) {
        let mut bindings: Vec<Binding> = Vec::new();
        let mut now = NOW;
        let bounds = Profile::Pool.bounds();
        for ((call, cseq, list, star, expires), pause) in history {
            now = now.plus_millis(pause);
            let mut lines = String::new();
            if star && list.is_empty() {
                lines.push_str("Contact: *\n");
            }
            for (n, expires) in &list {
                let expires = expires.map(|seconds| format!(";expires={seconds}")).unwrap_or_default();
                lines.push_str(&format!("Contact: <sip:u{n}@h>{expires}\n"));
            }
            if let Some(seconds) = expires {
                lines.push_str(&format!("Expires: {seconds}\n"));
            }
            let message = request(&format!("call{call}"), cseq, &lines);
            match register(&message, &bindings, &bounds, now, random) {
                Ok(done) => {
                    prop_assert!(done.bindings.len() <= MAX_BINDINGS);
                    prop_assert_eq!(done.contacts.len(), done.bindings.len());
                    let mut keys: Vec<&str> = done.bindings.iter().map(|b| b.key.as_str()).collect();
                    keys.sort_unstable();
                    keys.dedup();
                    prop_assert_eq!(keys.len(), done.bindings.len());
                    for binding in &done.bindings {
                        prop_assert!(binding.expires_at > now && binding.expires_at.0 <= now.0 + 900_000);
                    }
                    // The change alone, applied by a store, gives the same.
                    let change = read(&message, &bounds, now, random).unwrap();
                    prop_assert_eq!(&change.clone().apply(&bindings, now).unwrap(), &done.bindings);
                    // A retransmission is idempotent.
                    prop_assert_eq!(&change.clone().apply(&done.bindings, now).unwrap(), &done.bindings);
                    let asks = matches!(change, Change::Query);
                    prop_assert_eq!(asks, list.is_empty() && !star);
                    bindings = done.bindings;
                }
                Err(refusal) => prop_assert!(matches!(refusal.status(), 400 | 403 | 423 | 500)),
            }
        }
    }
}
