//! REGISTER.

use edge_core::config::{AgentBackend, RegistrationProfile};
use edge_core::input::Transport;
use sip_proto::message::{HeaderId, Message};

use crate::driver::*;

const REGISTRAR: &str = "sip:acme.example";

/// A REGISTER of `user` with these Contact lines, over UDP with digest.
fn register(world: &mut World, ua: &mut Ua, contacts: &str) -> Message {
    let response = register_raw(world, ua, contacts);
    if response.status() == Some(401) {
        ua.challenged(&response);
        return register_raw(world, ua, contacts);
    }
    response
}

fn register_raw(world: &mut World, ua: &mut Ua, contacts: &str) -> Message {
    let built = ua.build(world, "REGISTER", "", "");
    let contact = built.lines().find(|l| l.starts_with("Contact:")).unwrap().to_owned();
    let built = built.replacen(&format!("{contact}\r\n"), contacts, 1).replacen(
        &format!("To: <{REGISTRAR}>"),
        &format!("To: <sip:{}@{DOMAIN}>", ua.user),
        1,
    );
    let flow = ua.flow.clone();
    world.arrive(&flow, built);
    world.response()
}

fn contacts(message: &Message) -> Vec<String> {
    message.headers(HeaderId::Contact).map(|v| String::from_utf8(v.to_vec()).unwrap()).collect()
}

fn with_agent(profile: RegistrationProfile) -> World {
    let mut config = config();
    let mut agent = agent("alice", DOMAIN);
    agent.backend = AgentBackend::SipContact { by_certificate: false };
    agent.registration = profile;
    config.agents.insert((DOMAIN.into(), "alice".into()), std::sync::Arc::new(agent));
    World::new(config)
}

#[test]
fn reg_1_contact_parameters_are_returned_byte_exact() {
    let mut world = World::new(config());
    let flow = udp(5062);
    let mut alice = Ua::new(&mut world, "alice", &flow, REGISTRAR);
    let value = r#""Alice  A." <sip:alice@198.51.100.7:5062;transport=udp>;+mcp;+mcp.ver="1.0,2026-07-28";+mcp.cap="summarize@1,urn:ex:doc:1";+sip.instance="<urn:uuid:00000000-0000-1000-8000-000A95A0E128>";reg-id=1;Other=aBc"#;
    let response = register(&mut world, &mut alice, &format!("Contact: {value};expires=3600\r\n"));
    assert_eq!(response.status(), Some(200), "{}", text(&response));
    assert_eq!(contacts(&response), [format!("{value};expires=3600")]);
    // A query gives the same bytes, with the time that is left.
    world.advance(10_000);
    let response = register(&mut world, &mut alice, "");
    assert_eq!(contacts(&response), [format!("{value};expires=3590")]);
}

#[test]
fn sec_4_an_agent_that_proves_itself_by_certificate_does_not_register_by_digest() {
    let mut world = with_agent(RegistrationProfile { min: 60, max: 300, default: 120, jitter: false });
    world.reconfigure(|config| {
        let alice = config.agents.get_mut(&(DOMAIN.to_owned(), "alice".to_owned())).unwrap();
        std::sync::Arc::make_mut(alice).backend = AgentBackend::SipContact { by_certificate: true };
    });
    let contact = "Contact: <sip:alice@198.51.100.7:5062>;expires=60\r\n";
    let mut by_digest = Ua::new(&mut world, "alice", &udp(5062), REGISTRAR);
    assert_eq!(register(&mut world, &mut by_digest, contact).status(), Some(403));
    // Whoever looks after the agent is told, until it gets in.
    let refused = |world: &World| world.core.stats().refused_registrations.into_keys().collect::<Vec<_>>();
    assert_eq!(refused(&world), ["default/alice"]);
    let flow = stream(Transport::Tls, 4, &[&format!("sip:alice@{DOMAIN}")]);
    let mut by_certificate = Ua::new(&mut world, "alice", &flow, REGISTRAR);
    assert_eq!(register(&mut world, &mut by_certificate, contact).status(), Some(200));
    assert!(refused(&world).is_empty());
}

#[test]
fn a_wrong_password_for_the_address_of_an_agent_is_noted_and_one_for_another_address_is_not() {
    let mut world = with_agent(RegistrationProfile { min: 60, max: 300, default: 120, jitter: false });
    for (user, noted) in [("bob", 0), ("alice", 1)] {
        let mut ua = Ua::new(&mut world, user, &udp(5062), REGISTRAR);
        let challenge = register_raw(&mut world, &mut ua, "");
        assert_eq!(world.core.stats().refused_registrations.len(), 0, "a challenge is no refusal");
        ua.challenged(&challenge);
        let built = ua.build(&mut world, "REGISTER", "", "");
        let built = built.replacen(&format!("To: <{REGISTRAR}>"), &format!("To: <sip:{user}@{DOMAIN}>"), 1);
        let at = built.find("response=\"").unwrap() + "response=\"".len();
        let other = if built.as_bytes()[at] == b'0' { "1" } else { "0" };
        let mut wrong = built;
        wrong.replace_range(at..=at, other);
        world.arrive(&udp(5062), wrong);
        assert_eq!(world.status(), 401);
        assert_eq!(world.core.stats().refused_registrations.len(), noted, "{user}");
    }
}

#[test]
fn reg_4_the_profile_bounds_what_is_granted() {
    let mut world = with_agent(RegistrationProfile { min: 60, max: 300, default: 120, jitter: false });
    let mut alice = Ua::new(&mut world, "alice", &udp(5062), REGISTRAR);
    let one = |expires: &str| format!("Contact: <sip:alice@198.51.100.7:5062>{expires}\r\n");
    let response = register(&mut world, &mut alice, &one(";expires=30"));
    assert_eq!(response.status(), Some(423));
    assert_eq!(header(&response, HeaderId::MinExpires), "60");
    for (asked, granted) in [(";expires=60", 60), (";expires=9999", 300), ("", 120)] {
        let response = register(&mut world, &mut alice, &one(asked));
        assert_eq!(response.status(), Some(200), "{}", text(&response));
        assert!(contacts(&response)[0].ends_with(&format!(";expires={granted}")), "{:?}", contacts(&response));
    }
    // A user of the domain has Production; what is too short is raised, not refused.
    let mut bob = Ua::new(&mut world, "bob", &udp(5063), REGISTRAR);
    for (asked, granted) in [(60, 1800), (2000, 2000), (100_000, 7200)] {
        let response =
            register(&mut world, &mut bob, &format!("Contact: <sip:bob@198.51.100.7:5063>;expires={asked}\r\n"));
        assert!(contacts(&response)[0].ends_with(&format!(";expires={granted}")), "{}", text(&response));
    }
}

#[test]
fn reg_5_granted_times_of_a_pool_are_spread() {
    let mut world = with_agent(RegistrationProfile { min: 300, max: 900, default: 600, jitter: true });
    let granted: std::collections::BTreeSet<String> = (0..20)
        .map(|n| {
            let mut alice = Ua::new(&mut world, "alice", &udp(5062), REGISTRAR);
            let response = register(
                &mut world,
                &mut alice,
                &format!("Contact: <sip:alice@198.51.100.7:5062;line={}>;expires=900\r\n", n % 4),
            );
            let all = contacts(&response);
            let own = all.iter().find(|c| c.contains(&format!("line={}>", n % 4))).unwrap();
            let seconds = own.rsplit_once("expires=").unwrap().1.to_owned();
            assert!((300..=900).contains(&seconds.parse::<u32>().unwrap()));
            seconds
        })
        .collect();
    assert!(granted.len() > 10, "{granted:?}");
}

#[test]
fn reg_6_de_registration_takes_effect_at_once() {
    let mut world = World::new(config());
    let mut alice = Ua::new(&mut world, "alice", &udp(5062), REGISTRAR);
    let two = "Contact: <sip:alice@198.51.100.7:5062>;expires=3600, <sip:alice@198.51.100.8>;expires=3600\r\n";
    assert_eq!(contacts(&register(&mut world, &mut alice, two)).len(), 2);
    let response = register(&mut world, &mut alice, "Contact: <sip:alice@198.51.100.7:5062>;expires=0\r\n");
    assert_eq!(contacts(&response), ["<sip:alice@198.51.100.8>;expires=3600"]);
    let response = register(&mut world, &mut alice, "Contact: *\r\nExpires: 0\r\n");
    assert_eq!((response.status(), contacts(&response).len()), (Some(200), 0));
    assert_eq!(world.counts().aors, 0);
    assert_eq!(register(&mut world, &mut alice, "Contact: *\r\n").status(), Some(400));
}

#[test]
fn only_its_user_registers_an_address_and_nobody_a_declared_agent() {
    let mut world = World::new(config());
    let flow = stream(Transport::Tls, 1, &["sip:alice@acme.example"]);
    let contact = "Contact: <sip:x@198.51.100.7>\r\n";
    let mut alice = Ua::new(&mut world, "alice", &flow, REGISTRAR);
    assert_eq!(register(&mut world, &mut alice, contact).status(), Some(200));
    alice.user = "bob".into();
    assert_eq!(register(&mut world, &mut alice, contact).status(), Some(403));
    let flow = stream(Transport::Tls, 2, &["sip:echo@acme.example"]);
    let mut echo = Ua::new(&mut world, "echo", &flow, REGISTRAR);
    assert_eq!(register(&mut world, &mut echo, contact).status(), Some(403));
    // Without anything that could authenticate, 403 instead of a challenge that leads nowhere.
    world.reconfigure(|config| {
        change_domain(config, |d| {
            d.digest = None;
            d.client_certificates = false;
        })
    });
    let mut alice = Ua::new(&mut world, "alice", &udp(5062), REGISTRAR);
    assert_eq!(register(&mut world, &mut alice, contact).status(), Some(403));
}

#[test]
fn a_path_is_stored_and_returned_and_an_unknown_extension_is_420() {
    let mut world = World::new(config());
    let mut alice = Ua::new(&mut world, "alice", &udp(5062), REGISTRAR);
    let response = register(
        &mut world,
        &mut alice,
        "Contact: <sip:alice@198.51.100.7>\r\nPath: <sip:p1.example;lr>, <sip:p2.example;lr>\r\nSupported: path\r\n",
    );
    assert_eq!(response.status(), Some(200));
    let paths: Vec<&str> = response.paths().map(|p| p.uri()).collect();
    assert_eq!(paths, ["sip:p1.example;lr", "sip:p2.example;lr"]);
    let response = register(&mut world, &mut alice, "Contact: <sip:alice@198.51.100.7>\r\nRequire: foo\r\n");
    assert_eq!((response.status(), header(&response, HeaderId::Unsupported)), (Some(420), "foo".to_owned()));
}

#[test]
fn calls_to_who_registered_are_480_and_483_without_a_hop_left() {
    let mut world = with_agent(RegistrationProfile { min: 60, max: 300, default: 120, jitter: false });
    let flow = stream(Transport::Tls, 1, &["sip:bob@acme.example"]);
    for target in ["sip:alice@acme.example", "sip:bob@acme.example"] {
        let mut bob = Ua::new(&mut world, "bob", &flow, target);
        assert_eq!(bob.ask(&mut world, "INVITE", "", "").status(), Some(480), "{target}");
        let built = bob.build(&mut world, "INVITE", "", "").replacen("Max-Forwards: 70", "Max-Forwards: 0", 1);
        world.arrive(&flow, built);
        assert_eq!(world.status(), 483);
    }
}
