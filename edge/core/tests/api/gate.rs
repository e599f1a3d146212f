//! The order of refusals, and who is let in.

use edge_core::input::Transport;
use mcp_sip::policy::{MethodSpec, Peer};
use sip_proto::message::{HeaderId, Message};

use crate::calls::{ECHO, OFFER, SDP, both, tls_call};
use crate::driver::*;

const TLS_ALICE: &[&str] = &["sip:alice@acme.example"];

fn invite(world: &mut World, ua: &mut Ua, extra: &str) -> Message {
    let (headers, body) = both();
    ua.ask(world, "INVITE", &format!("{extra}{headers}"), &body)
}

/// One try of alice at an address, by INVITE, over this flow.
fn try_invite(world: &mut World, flow: &std::sync::Arc<edge_core::input::Flow>, target: &str, extra: &str) -> Message {
    let mut alice = Ua::new(world, "alice", flow, target);
    invite(world, &mut alice, extra)
}

#[test]
fn sec_1_a_plain_transport_is_403_with_warning_399_unless_the_domain_allows_it() {
    let mut config = config();
    change_domain(&mut config, |d| d.allow_plain.clear());
    let mut world = World::new(config);
    for (flow, method) in [(udp(5062), "INVITE"), (udp(5062), "MESSAGE"), (stream(Transport::Tcp, 1, &[]), "REGISTER")]
    {
        let mut alice = Ua::new(&mut world, "alice", &flow, "sip:echo@acme.example");
        let response = alice.ask(&mut world, method, MCP, &tool_call(1, "echo"));
        assert_eq!(response.status(), Some(403), "{method}");
        assert!(header(&response, HeaderId::Warning).starts_with("399 "), "{}", text(&response));
        assert_ne!(response.reason(), Some(&b"Forbidden"[..]));
    }
    let tls = stream(Transport::Tls, 2, &[]);
    let mut alice = Ua::new(&mut world, "alice", &tls, "sip:echo@acme.example");
    alice.send(&mut world, "INVITE", "", "");
    assert_eq!(world.status(), 401);
}

#[test]
fn an_agent_with_all_its_sessions_is_486_and_nobody_else_is() {
    let mut config = config();
    change_agent(&mut config, |agent| agent.session.max_concurrent = Some(1));
    let other = agent("other", DOMAIN);
    config.agents.insert((DOMAIN.to_owned(), "other".to_owned()), std::sync::Arc::new(other));
    let mut world = World::new(config);
    let (mut first, _) = tls_call(&mut world);
    let flow = udp(5070);
    let mut bob = Ua::new(&mut world, "bob", &flow, ECHO);
    let busy = invite(&mut world, &mut bob, "");
    assert_eq!(busy.status(), Some(486));
    assert!(!header(&busy, HeaderId::RetryAfter).is_empty(), "{}", text(&busy));
    assert_eq!(world.core.stats().limited.get("maxConcurrent"), Some(&1));
    bob.ack_refusal(&mut world, &busy);
    assert_eq!(try_invite(&mut world, &udp(5071), "sip:other@acme.example", "").status(), Some(200));
    // What stands goes on, and its end makes room.
    assert_eq!(first.ask(&mut world, "BYE", "", "").status(), Some(200));
    assert_eq!(try_invite(&mut world, &udp(5072), ECHO, "").status(), Some(200));
}

#[test]
fn calls_that_are_being_opened_count_for_their_agent() {
    let mut config = config();
    change_agent(&mut config, |agent| agent.session.max_concurrent = Some(1));
    let mut world = World::new(config);
    let (headers, body) = both();
    world.mode = StoreMode::Held;
    for (conn, status) in [(1, None), (2, Some(486))] {
        let flow = stream(Transport::Tls, conn, TLS_ALICE);
        world.input(edge_core::input::Input::FlowOpened { flow: flow.clone() });
        let mut alice = Ua::new(&mut world, "alice", &flow, ECHO);
        alice.send(&mut world, "INVITE", &headers, &body);
        assert_eq!(world.sent.pop_front().and_then(|sent| sent.message.status()), status, "{conn}");
    }
    while world.release() {}
    assert_eq!(world.status(), 200);
}

#[test]
fn a_tenant_with_all_its_sessions_is_480_with_a_time_and_another_tenant_is_not() {
    const BETA: &str = "beta.example";
    let mut config = config();
    change_domain(&mut config, |domain| domain.max_sessions = Some(2));
    config.domains.insert(BETA.to_owned(), std::sync::Arc::new(domain(BETA, 2)));
    for (user, domain) in [("other", DOMAIN), ("echo", BETA)] {
        config.agents.insert((domain.to_owned(), user.to_owned()), std::sync::Arc::new(agent(user, domain)));
    }
    let mut world = World::new(config);
    let (mut first, _) = tls_call(&mut world);
    // All agents of the domain together.
    assert_eq!(try_invite(&mut world, &udp(5070), "sip:other@acme.example", "").status(), Some(200));
    let flow = udp(5071);
    let mut bob = Ua::new(&mut world, "bob", &flow, ECHO);
    let refused = invite(&mut world, &mut bob, "");
    assert_eq!(refused.status(), Some(480), "{}", text(&refused));
    assert!(!header(&refused, HeaderId::RetryAfter).is_empty(), "{}", text(&refused));
    assert_eq!(world.core.stats().limited.get("sessions"), Some(&1));
    bob.ack_refusal(&mut world, &refused);
    let beta = stream(Transport::Tls, 5, &["sip:alice@beta.example"]);
    assert_eq!(try_invite(&mut world, &beta, "sip:echo@beta.example", "").status(), Some(200));
    // What stands goes on, and its end makes room.
    assert_eq!(first.ask(&mut world, "BYE", "", "").status(), Some(200));
    assert_eq!(try_invite(&mut world, &udp(5072), ECHO, "").status(), Some(200));
    // A new number counts at once.
    assert_eq!(try_invite(&mut world, &udp(5073), ECHO, "").status(), Some(480));
    world.reconfigure(|config| change_domain(config, |domain| domain.max_sessions = Some(3)));
    assert_eq!(try_invite(&mut world, &udp(5074), ECHO, "").status(), Some(200));
}

#[test]
fn the_cores_of_an_edge_share_the_sessions_of_a_tenant_and_calls_that_are_being_opened_count() {
    for (quota, fit) in [(1, 1), (4, 2)] {
        let mut config = config();
        change_domain(&mut config, |domain| domain.max_sessions = Some(quota));
        let mut world = World::new(config);
        let shard = edge_core::Shard { index: 0, count: 2 };
        world.core = edge_core::EdgeState::new(world.config.clone(), OWNER, shard, [42; 32]);
        let (headers, body) = both();
        world.mode = StoreMode::Held;
        for number in 1..=fit + 1 {
            let flow = stream(Transport::Tls, number, TLS_ALICE);
            world.input(edge_core::input::Input::FlowOpened { flow: flow.clone() });
            let mut alice = Ua::new(&mut world, "alice", &flow, ECHO);
            alice.send(&mut world, "INVITE", &headers, &body);
            let refused = world.sent.pop_front().and_then(|sent| sent.message.status());
            assert_eq!(refused, (number > fit).then_some(480), "{number} of {quota}");
        }
        while world.release() {}
        for _ in 0..fit {
            assert_eq!(world.status(), 200);
        }
    }
}

#[test]
fn refusals_1_the_transport_is_refused_before_credentials_are_asked_for() {
    let mut config = config();
    change_domain(&mut config, |d| d.allow_plain = vec![Transport::Tcp]);
    let mut world = World::new(config);
    let mut nobody = Ua::new(&mut world, "alice", &udp(5062), "sip:nobody@acme.example");
    nobody.send(&mut world, "INVITE", "", "");
    assert_eq!(world.status(), 403);
}

#[test]
fn refusals_2_without_credentials_every_address_is_401_alike() {
    let mut world = World::new(config());
    let answers: Vec<String> = ["sip:echo@acme.example", "sip:nobody@acme.example", "sip:bob@acme.example"]
        .into_iter()
        .map(|target| {
            let mut alice = Ua::new(&mut world, "alice", &udp(5062), target);
            alice.send(&mut world, "MESSAGE", MCP, &tool_call(1, "echo"));
            let response = world.response();
            assert_eq!(response.status(), Some(401));
            // Alike but for what the request itself says.
            let lines =
                text(&response).lines().map(|l| l.split(':').next().unwrap_or_default().to_owned()).collect::<Vec<_>>();
            lines.join("|")
        })
        .collect();
    assert!(answers.iter().all(|a| *a == answers[0]), "{answers:#?}");
    assert!(world.operations.is_empty());
}

#[test]
fn refusals_3_unknown_and_invisible_addresses_are_404_alike() {
    let mut config = config();
    change_domain(&mut config, |d| {
        d.policies = vec![policy("domain", vec![allow("bob", Some(vec![Peer::SipIdentity("sip:bob@*".into())]))])]
    });
    let mut world = World::new(config);
    let flow = stream(Transport::Tls, 1, TLS_ALICE);
    let shape =
        |m: &Message| (m.status(), m.reason().map(<[u8]>::to_vec), m.header_lines().map(|l| l.id).collect::<Vec<_>>());
    let invisible = try_invite(&mut world, &flow, "sip:echo@acme.example", "");
    let unknown = try_invite(&mut world, &flow, "sip:nobody@acme.example", "");
    assert_eq!(invisible.status(), Some(404));
    assert_eq!(shape(&invisible), shape(&unknown));
    assert!(world.operations.is_empty());
    // 404 comes before what the policy says about MCP.
    let flow = stream(Transport::Tls, 2, &["sip:bob@acme.example"]);
    let mut bob = Ua::new(&mut world, "bob", &flow, "sip:echo@acme.example");
    assert_eq!(invite(&mut world, &mut bob, "").status(), Some(200));
}

#[test]
fn refusals_4_a_deny_for_everybody_is_420_when_mcp_is_required_and_488_when_nothing_else_is_there() {
    let mut config = config();
    change_agent(&mut config, |a| {
        a.policies = vec![policy("agent", vec![allow("all", None), deny("no-mcp", None, None)])];
    });
    let mut world = World::new(config);
    let flow = stream(Transport::Tls, 1, TLS_ALICE);
    for tag in ["mcp", "x-mcp", "X-MCP"] {
        let response = try_invite(&mut world, &flow, "sip:echo@acme.example", &format!("Require: {tag}\r\n"));
        assert_eq!(response.status(), Some(420), "{}", text(&response));
        assert_eq!(header(&response, HeaderId::Unsupported), tag);
    }
    let response = try_invite(&mut world, &flow, "sip:echo@acme.example", "");
    assert_eq!(response.status(), Some(488));
    assert!(header(&response, HeaderId::Warning).starts_with("304 "));
    // The deny is for everybody, but who may not see the address still hears 404.
    assert_eq!(try_invite(&mut world, &flow, "sip:nobody@acme.example", "Require: mcp\r\n").status(), Some(404));
}

#[test]
fn refusals_5_a_deny_that_leaves_this_caller_nothing_is_403() {
    let mut config = config();
    let calls = Some(vec![MethodSpec { name: "tools/call".into(), params: Vec::new() }]);
    change_agent(&mut config, |a| {
        let mut some = allow("calls", None);
        some.methods.clone_from(&calls);
        let alice = Some(vec![Peer::SipIdentity("sip:alice@*".into())]);
        a.policies = vec![policy("agent", vec![some, deny("not-alice", alice, calls.clone())])];
    });
    let mut world = World::new(config);
    let flow = stream(Transport::Tls, 1, TLS_ALICE);
    // 403 also where MCP is required, and before the offer is looked at.
    for extra in ["", "Require: mcp\r\n"] {
        assert_eq!(try_invite(&mut world, &flow, "sip:echo@acme.example", extra).status(), Some(403));
    }
    let flow = stream(Transport::Tls, 2, &["sip:bob@acme.example"]);
    let mut bob = Ua::new(&mut world, "bob", &flow, "sip:echo@acme.example");
    assert_eq!(invite(&mut world, &mut bob, "").status(), Some(200));
    let refusals = world.audit.iter().filter(|a| a.rule == "default/agent/not-alice").count();
    assert_eq!(refusals, 2);
}

#[test]
fn refusals_6_nothing_in_common_with_the_offer_is_488() {
    let mut world = World::new(config());
    let flow = stream(Transport::Tls, 1, TLS_ALICE);
    let mut alice = Ua::new(&mut world, "alice", &flow, "sip:echo@acme.example");
    let body = OFFER.replace("echo@1", "other@1");
    let response = alice.ask(&mut world, "INVITE", &format!("Supported: mcp\r\n{MCP}"), &body);
    assert_eq!(response.status(), Some(488), "{}", text(&response));
    let versions = OFFER.replace(r#""schemas":[]"#, r#""schemas":[],"versions":["2099-01-01"]"#);
    let response = alice.ask(&mut world, "INVITE", &format!("Supported: mcp\r\n{MCP}"), &versions);
    assert_eq!(response.status(), Some(488), "{}", text(&response));
    assert_eq!(world.core.stats().dialogs, 0);
}

#[test]
fn neg_2_an_unknown_extension_is_420_and_so_is_mcp_where_there_is_none() {
    let mut world = World::new(config());
    let flow = stream(Transport::Tls, 1, TLS_ALICE);
    let response = try_invite(&mut world, &flow, "sip:echo@acme.example", "Require: mcp, 100rel, foo\r\n");
    assert_eq!(response.status(), Some(420));
    assert_eq!(header(&response, HeaderId::Unsupported), "100rel, foo");
}

#[test]
fn neg_4_a_rejected_mcp_leaves_a_declared_agent_nothing_and_answers_488_with_warning_304() {
    let mut world = World::new(config());
    let flow = stream(Transport::Tls, 1, TLS_ALICE);
    let mut alice = Ua::new(&mut world, "alice", &flow, "sip:echo@acme.example");
    let response = alice.ask(&mut world, "INVITE", "Content-Type: application/sdp\r\n", SDP);
    assert_eq!(response.status(), Some(488));
    assert!(header(&response, HeaderId::Warning).starts_with("304 "), "{}", text(&response));
    assert!(!response.list_has(HeaderId::Supported, "mcp"));
    // A part that must be understood and is not: 415.
    let body = "--b\r\nContent-Type: application/other\r\n\r\nx\r\n--b--\r\n";
    let response =
        alice.ask(&mut world, "INVITE", "Supported: mcp\r\nContent-Type: multipart/mixed;boundary=b\r\n", body);
    assert_eq!(response.status(), Some(415));
    assert!(header(&response, HeaderId::Accept).contains("application/mcp+json"));
    let optional = "--b\r\nContent-Type: application/other\r\nContent-Disposition: session;handling=optional\r\n\r\nx\r\n--b--\r\n";
    let response =
        alice.ask(&mut world, "INVITE", "Supported: mcp\r\nContent-Type: multipart/mixed;boundary=b\r\n", optional);
    assert_eq!(response.status(), Some(200), "{}", text(&response));
}

#[test]
fn neg_1_every_tag_of_the_domain_is_accepted_and_listed() {
    let mut config = config();
    change_domain(&mut config, |d| d.option_tags = vec!["mcp-acme".into()]);
    let mut world = World::new(config);
    let flow = stream(Transport::Tls, 1, TLS_ALICE);
    for tag in ["mcp", "x-mcp", "mcp-acme"] {
        for field in ["Require", "Supported"] {
            let mut alice = Ua::new(&mut world, "alice", &flow, "sip:echo@acme.example");
            let response =
                alice.ask(&mut world, "INVITE", &format!("{field}: {tag}\r\nContent-Type: application/sdp\r\n"), SDP);
            assert_eq!(response.status(), Some(200), "{}", text(&response));
            for listed in ["mcp", "x-mcp", "mcp-acme"] {
                assert!(response.list_has(HeaderId::Supported, listed));
            }
        }
    }
}

#[test]
fn sec_4_digest_offers_the_strongest_first_refuses_what_is_wrong_and_counts_nonces() {
    let mut world = World::new(config());
    let flow = udp(5062);
    let mut alice = Ua::new(&mut world, "alice", &flow, "sip:echo@acme.example");
    alice.send(&mut world, "MESSAGE", MCP, &tool_call(1, "echo"));
    let challenge = world.response();
    let values: Vec<String> =
        challenge.headers(HeaderId::WwwAuthenticate).map(|v| String::from_utf8(v.to_vec()).unwrap()).collect();
    assert_eq!(values.len(), 2);
    assert!(values[0].contains("SHA-512-256") && values[1].contains("SHA-256"), "{values:?}");
    assert!(values.iter().all(|v| !v.contains("MD5") && v.contains(r#"qop="auth""#)));
    alice.challenged(&challenge);
    let first = alice.build(&mut world, "MESSAGE", MCP, &tool_call(1, "echo"));
    world.arrive(&flow, first.clone());
    assert_eq!(world.status(), 200);
    // The same credentials with another request: the count did not rise.
    let replayed = first.replacen(&alice.branch, "z9hG4bKagain", 1).replacen("CSeq: 2", "CSeq: 3", 1);
    world.arrive(&flow, replayed);
    let response = world.response();
    assert_eq!(response.status(), Some(401));
    assert!(header(&response, HeaderId::WwwAuthenticate).contains("stale=true"));
    // A wrong password and an unknown user look alike.
    for user in ["alice", "nobody"] {
        let mut other = alice.clone();
        other.user = user.to_owned();
        let wrong = other.build(&mut world, "MESSAGE", MCP, &tool_call(1, "echo"));
        let wrong = wrong.replacen("response=\"", "response=\"0", 1);
        let at = wrong.find("response=\"0").unwrap();
        let mut wrong = wrong;
        let end = wrong[at + 10..].find('"').unwrap() + at + 10;
        wrong.remove(end - 1);
        world.arrive(&flow, wrong);
        let response = world.response();
        assert_eq!(response.status(), Some(401));
        assert!(!header(&response, HeaderId::WwwAuthenticate).contains("stale"));
    }
    assert_eq!(world.core.stats().failed_authentications, 3);
    // Five minutes later the nonce is stale, and says so.
    world.advance(301_000);
    world.sent.clear();
    alice.send(&mut world, "MESSAGE", MCP, &tool_call(1, "echo"));
    assert!(header(&world.response(), HeaderId::WwwAuthenticate).contains("stale=true"));
}

#[test]
fn sec_4_a_credential_of_one_tenant_opens_no_other_and_md5_only_where_it_is_allowed() {
    let mut config = config();
    let other = domain("beta.example", 2);
    config.domains.insert("beta.example".into(), std::sync::Arc::new(other));
    let mut world = World::new(config);
    let flow = udp(5062);
    let mut alice = Ua::new(&mut world, "alice", &flow, "sip:echo@acme.example");
    assert_eq!(alice.ask(&mut world, "MESSAGE", MCP, &tool_call(1, "echo")).status(), Some(200));
    alice.target = "sip:echo@beta.example".into();
    alice.send(&mut world, "MESSAGE", MCP, &tool_call(1, "echo"));
    let response = world.response();
    assert_eq!(response.status(), Some(401));
    assert!(header(&response, HeaderId::WwwAuthenticate).contains(r#"realm="beta.example""#));
}

#[test]
fn security_a_certificate_counts_only_where_the_domains_own_ca_vouches_for_it() {
    let mut world = World::new(config());
    // Verified by another tenant's CA, whatever name it holds.
    let mut flow = edge_core::input::Flow::clone(&stream(Transport::Tls, 1, TLS_ALICE));
    let certificate = std::sync::Arc::make_mut(flow.certificate.as_mut().unwrap());
    certificate.domains = vec!["beta.example".into()];
    let mut alice = Ua::new(&mut world, "alice", &std::sync::Arc::new(flow), "sip:echo@acme.example");
    alice.send(&mut world, "MESSAGE", MCP, &tool_call(1, "echo"));
    assert_eq!(world.status(), 401);
    world.reconfigure(|config| change_domain(config, |d| d.client_certificates = false));
    let flow = stream(Transport::Tls, 2, TLS_ALICE);
    let mut alice = Ua::new(&mut world, "alice", &flow, "sip:echo@acme.example");
    alice.send(&mut world, "MESSAGE", MCP, &tool_call(1, "echo"));
    assert_eq!(world.status(), 401);
}

#[test]
fn security_credentials_that_were_used_elsewhere_open_no_connection() {
    let mut world = World::new(config());
    let udp = udp(5062);
    let mut alice = Ua::new(&mut world, "alice", &udp, "sip:echo@acme.example");
    alice.send(&mut world, "MESSAGE", MCP, &tool_call(1, "echo"));
    let challenge = world.response();
    alice.challenged(&challenge);
    let captured = alice.build(&mut world, "MESSAGE", MCP, &tool_call(1, "echo"));
    world.arrive(&udp, captured.clone());
    assert_eq!(world.status(), 200);
    let tls = stream(Transport::Tls, 3, &[]);
    let replayed = captured.replacen("SIP/2.0/UDP", "SIP/2.0/TLS", 1).replacen(&alice.call_id, "other-call", 1);
    let replayed = replayed.replacen(&alice.branch, "z9hG4bKreplayed", 1);
    world.arrive(&tls, replayed);
    assert_eq!(world.status(), 401);
    let mut mallory = Ua::new(&mut world, "alice", &tls, "sip:echo@acme.example");
    mallory.send(&mut world, "MESSAGE", MCP, &tool_call(1, "pay"));
    assert_eq!(world.status(), 401);
}

#[test]
fn security_tls_is_asked_once_per_connection_and_other_connections_again() {
    let mut world = World::new(config());
    let flow = stream(Transport::Tls, 1, &[]);
    let mut alice = Ua::new(&mut world, "alice", &flow, "sip:echo@acme.example");
    assert_eq!(alice.ask(&mut world, "MESSAGE", MCP, &tool_call(1, "echo")).status(), Some(200));
    let mut again = Ua::new(&mut world, "alice", &flow, "sip:echo@acme.example");
    again.send(&mut world, "MESSAGE", MCP, &tool_call(1, "echo"));
    assert_eq!(world.status(), 200);
    world.input(edge_core::input::Input::FlowClosed { conn: edge_core::input::ConnId(1) });
    again.send(&mut world, "MESSAGE", MCP, &tool_call(1, "echo"));
    assert_eq!(world.status(), 401);
    let tcp = stream(Transport::Tcp, 3, &[]);
    let mut plain = Ua::new(&mut world, "alice", &tcp, "sip:echo@acme.example");
    assert_eq!(plain.ask(&mut world, "MESSAGE", MCP, &tool_call(1, "echo")).status(), Some(200));
    let mut plain = Ua::new(&mut world, "alice", &tcp, "sip:echo@acme.example");
    plain.send(&mut world, "MESSAGE", MCP, &tool_call(1, "echo"));
    assert_eq!(world.status(), 401, "a plain connection proves nothing about the next request");
}

#[test]
fn anonymous_callers_get_what_a_rule_names_for_them_and_no_reflection_over_udp() {
    let mut config = config();
    change_agent(&mut config, |a| {
        a.policies = vec![policy("open", vec![allow("anybody", Some(vec![Peer::Anonymous]))])]
    });
    change_domain(&mut config, |d| d.policies.clear());
    let mut world = World::new(config);
    // A stream proves its address.
    let tcp = stream(Transport::Tcp, 1, &[]);
    let mut nobody = Ua::new(&mut world, "nobody", &tcp, "sip:echo@acme.example");
    nobody.send(&mut world, "MESSAGE", MCP, &tool_call(1, "echo"));
    assert_eq!(world.status(), 200);
    // A datagram does not: no request is run whose answer would go to an unproven address.
    let udp = udp(5062);
    let mut nobody = Ua::new(&mut world, "nobody", &udp, "sip:echo@acme.example");
    nobody.send(&mut world, "MESSAGE", MCP, &tool_call(1, "echo"));
    assert_eq!(world.status(), 401);
    // In a dialog it has proven it by its ACK.
    let (headers, body) = both();
    let response = nobody.ask(&mut world, "INVITE", &headers, &body);
    nobody.established(&response);
    nobody.send(&mut world, "ACK", "", "");
    nobody.send(&mut world, "INFO", MCP, &tool_call(1, "echo"));
    assert_eq!(world.status(), 200);
    // From another address it is somebody else.
    let mut other = nobody.clone();
    other.flow = crate::driver::udp(6000);
    other.send(&mut world, "BYE", "", "");
    assert_eq!(world.status(), 403);
    other.flow = stream(Transport::Tls, 9, TLS_ALICE);
    other.send(&mut world, "BYE", "", "");
    assert_eq!(world.status(), 403);
    // The other address is still 401.
    let mut elsewhere = Ua::new(&mut world, "nobody", &tcp, "sip:other@acme.example");
    elsewhere.send(&mut world, "MESSAGE", MCP, &tool_call(1, "echo"));
    assert_eq!(world.status(), 401);
    // A dialog that nobody knows is no question of credentials where none are needed.
    for (address, status) in [("sip:echo@acme.example", 481), ("sip:other@acme.example", 401)] {
        let mut lost = Ua::new(&mut world, "nobody", &tcp, address);
        lost.to_tag = Some("abcdefghijklmnop".to_owned());
        lost.send(&mut world, "BYE", "", "");
        assert_eq!(world.status(), status, "{address}");
    }
}
