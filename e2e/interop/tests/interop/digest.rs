//! Digest and registration against a client that shares no code with ours: `digest_auth` computes, a plain socket sends.

use crate::harness::edge::Edge;
use crate::harness::manifests::Manifests;
use crate::harness::raw::{Call, Client, Sip};

fn register(client: &mut Client, call: &mut Call, contact: &str) -> Sip {
    client.ask(call, "REGISTER", contact, "")
}

/// A REGISTER goes to the domain, for the address in To.
fn registration(address: &str) -> Call {
    let (_, domain) = address.split_once('@').unwrap();
    Call { target: format!("sip:{domain}"), ..Call::to(address) }
}

#[test]
fn sec_4_sha_256_by_an_independent_client_with_a_rising_count() {
    let edge = Edge::start(Manifests::new());
    for mut client in
        [Client::udp(&edge, Some("alice"), "demo.example"), Client::tcp(&edge, Some("alice"), "demo.example")]
    {
        let mut call = registration("sip:alice@demo.example");
        let contact = format!("Contact: {}\r\n", client.contact());
        let first = client.ask_once(&mut call, "REGISTER", &contact, "");
        assert_eq!(first.status(), 401);
        let challenge = first.header("WWW-Authenticate");
        for part in ["Digest ", "realm=\"demo.example\"", "algorithm=SHA-256", "qop=\"auth\"", "nonce=\""] {
            assert!(challenge.contains(part), "{challenge}");
        }
        assert_eq!(first.all("WWW-Authenticate").len(), 1, "MD5 is not offered");
        client.challenge(&first);
        // One nonce, three requests: nc 1, 2, 3.
        for _ in 0..3 {
            assert_eq!(client.ask_once(&mut call, "REGISTER", &contact, "").status(), 200);
        }
        // The same credentials again, in another request: the count does not rise.
        let bytes = client.build(&mut call, "REGISTER", &contact, "");
        client.send(&bytes);
        assert_eq!(client.response(&call, "REGISTER").status(), 200);
        let text = String::from_utf8(bytes).unwrap();
        let (before, after) = (call.branch.clone(), format!("{}r", call.branch));
        let replayed = text
            .replace(&before, &after)
            .replace(&format!("CSeq: {} ", call.cseq), &format!("CSeq: {} ", call.cseq + 1));
        call.branch = after;
        call.cseq += 1;
        client.send(replayed.as_bytes());
        let refused = client.response(&call, "REGISTER");
        assert_eq!(refused.status(), 401, "a replay was taken");
    }
}

#[test]
fn sec_4_wrong_secrets_and_unknown_users_are_refused_alike() {
    let edge = Edge::start(Manifests::new());
    let mut answers = Vec::new();
    for (user, password) in [("alice", "wrong"), ("mallory", "wonderland")] {
        let mut client = Client::tcp(&edge, Some(user), "demo.example");
        client.password = password;
        let mut call = registration("sip:alice@demo.example");
        let contact = format!("Contact: {}\r\n", client.contact());
        let refused = register(&mut client, &mut call, &contact);
        assert_eq!(refused.status(), 401);
        assert!(!refused.header("WWW-Authenticate").contains("stale=true"));
        answers.push((refused.start.clone(), refused.all("WWW-Authenticate").len()));
    }
    assert_eq!(answers[0], answers[1]);
    // Her own credentials, another's address.
    let mut client = Client::tcp(&edge, Some("alice"), "demo.example");
    let mut call = registration("sip:bob@demo.example");
    let contact = format!("Contact: {}\r\n", client.contact());
    assert_eq!(register(&mut client, &mut call, &contact).status(), 403);
}

#[test]
fn sec_4_several_challenges_come_strongest_first_and_each_is_accepted() {
    let edge = Edge::start(Manifests::new());
    for wanted in ["SHA-512-256", "SHA-256"] {
        let mut client = Client::tcp(&edge, Some("alice"), "both.example");
        let mut call = registration("sip:alice@both.example");
        let contact = format!("Contact: {}\r\n", client.contact());
        let mut first = client.ask_once(&mut call, "REGISTER", &contact, "");
        let offered: Vec<&str> = first.all("WWW-Authenticate");
        assert_eq!(offered.len(), 2);
        assert!(
            offered[0].contains("algorithm=SHA-512-256") && offered[1].contains("algorithm=SHA-256"),
            "{offered:?}"
        );
        first.keep("WWW-Authenticate", |value| value.contains(&format!("algorithm={wanted}")));
        client.challenge(&first);
        let granted = client.ask_once(&mut call, "REGISTER", &contact, "");
        assert_eq!(granted.status(), 200, "{wanted}: {:?}", client.challenged);
    }
}

#[test]
fn reg_1_capabilities_come_back_byte_for_byte_and_reg_6_leave_at_once() {
    let edge = Edge::start(Manifests::new());
    let mut client = Client::tcp(&edge, Some("alice"), "demo.example");
    let mut call = registration("sip:alice@demo.example");
    let parameters = ";+mcp;+mcp.ver=\"1.0,2026-07-28,2025-11-25\";+mcp.cap=\"summarize@1, urn:ex:doc:1\";+x.odd=\"a\\\"b;c,d\";\
                      +sip.instance=\"<urn:uuid:00000000-0000-4000-8000-000000000001>\";reg-id=1";
    let uri = format!("<sip:alice@{};transport=tcp;odd=%3A>", client.local);
    let granted = register(&mut client, &mut call, &format!("Contact: {uri}{parameters};expires=3600\r\n"));
    assert_eq!(granted.status(), 200);
    let contact = granted.header("Contact").to_owned();
    let kept = parameters.strip_suffix(";reg-id=1").unwrap();
    assert!(contact.starts_with(&format!("{uri}{kept}")), "sent {uri}{parameters}\ngot  {contact}");
    assert!(contact.contains(";expires="), "{contact}");
    // Shown again to a query, on another connection.
    let mut other = Client::tcp(&edge, Some("alice"), "demo.example");
    let mut query = registration("sip:alice@demo.example");
    let shown = register(&mut other, &mut query, "");
    assert!(shown.header("Contact").starts_with(&format!("{uri}{kept}")), "{}", shown.header("Contact"));
    // Gone at once.
    let gone = register(&mut client, &mut call, "Contact: *\r\nExpires: 0\r\n");
    assert_eq!((gone.status(), gone.all("Contact").len()), (200, 0));
    let mut query = registration("sip:alice@demo.example");
    assert_eq!(register(&mut other, &mut query, "").all("Contact").len(), 0);
}

#[test]
fn reg_4_reg_5_a_pool_member_gets_times_of_its_class_that_differ() {
    let manifests = Manifests::new();
    manifests.write(
        "desk.yaml",
        "apiVersion: sipmcp.dev/v1alpha1\nkind: McpAgent\nmetadata: {name: desk}\nspec:\n  \
         address: {user: desk, domainRef: {name: demo}}\n  backend: {sipContact: {authentication: Digest}}\n  \
         capabilities: {source: Declared, tools: [{name: answer}]}\n  registration: {profile: Pool}\n",
    );
    let edge = Edge::start(manifests);
    let mut client = Client::tcp(&edge, Some("desk"), "demo.example");
    let mut call = registration("sip:desk@demo.example");
    let contact = format!("Contact: {}\r\n", client.contact());
    let brief = register(&mut client, &mut call, &format!("{contact}Expires: 60\r\n"));
    assert_eq!((brief.status(), brief.header("Min-Expires")), (423, "300"));
    let mut granted = Vec::new();
    for _ in 0..12 {
        let answer = register(&mut client, &mut call, &format!("{contact}Expires: 900\r\n"));
        assert_eq!(answer.status(), 200, "{}", answer.start);
        let value = answer.header("Contact").split(";expires=").nth(1).unwrap().split(';').next().unwrap().to_owned();
        granted.push(value.parse::<u32>().unwrap());
    }
    assert!(granted.iter().all(|seconds| (300..=900).contains(seconds)), "{granted:?}");
    granted.sort_unstable();
    granted.dedup();
    assert!(granted.len() > 1, "no jitter: {granted:?}");
    // A call to it rings there, and its answer comes back.
    let mut alice = Client::tcp(&edge, Some("alice"), "demo.example");
    let mut query = registration("sip:alice@demo.example");
    assert_eq!(register(&mut alice, &mut query, "").status(), 200);
    let mut call = Call::to("sip:desk@demo.example");
    let invite = alice.build(&mut call, "INVITE", "Contact: <sip:alice@127.0.0.1>\r\n", "");
    alice.send(&invite);
    let ringing = client.until("an INVITE", |message| message.method() == "INVITE");
    client.reply(&ringing, "486 Busy Here");
    assert_eq!(alice.response(&call, "INVITE").status(), 486);
}
