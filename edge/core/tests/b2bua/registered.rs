//! Registrations that carry flows, paths and GRUUs.

use sip_proto::message::{HeaderId, Message};

use crate::driver::{DOMAIN, text};
use crate::fleet::*;

const INSTANCE: &str = ";+sip.instance=\"<urn:uuid:00000000-0000-1000-8000-00000000000A>\"";

fn contact(message: &Message) -> String {
    String::from_utf8(message.headers(HeaderId::Contact).next().unwrap().to_vec()).unwrap()
}

fn parameter(contact: &str, name: &str) -> String {
    let at = contact.find(&format!(";{name}=\"")).unwrap_or_else(|| panic!("{contact}")) + name.len() + 3;
    contact[at..].split('"').next().unwrap().to_owned()
}

#[test]
fn rfc_5626_an_outbound_registration_is_told_so_with_its_flow_timer() {
    let mut fleet = Fleet::new(1);
    let mut sam = Phone::new(&mut fleet, 0, "sam");
    let ok = sam.register(&mut fleet, &format!("{INSTANCE};reg-id=1"), "Supported: outbound, path\r\n");
    assert_eq!((value(&ok, HeaderId::Require), value(&ok, HeaderId::FlowTimer)), ("outbound".into(), "25".into()));
    let mut plain = Phone::new(&mut fleet, 0, "sam");
    let ok = plain.register(&mut fleet, INSTANCE, "");
    assert_eq!((value(&ok, HeaderId::Require), value(&ok, HeaderId::FlowTimer)), (String::new(), String::new()));
}

#[test]
fn rfc_5626_a_first_hop_without_outbound_is_439_and_one_with_ob_is_none() {
    for (path, status) in
        [("", 439), ("Path: <sip:p.example;lr>\r\n", 439), ("Path: <sip:x.example;lr>, <sip:p.example;lr;ob>\r\n", 200)]
    {
        let mut fleet = Fleet::new(1);
        let mut sam = Phone::new(&mut fleet, 0, "sam");
        let via = "Via: SIP/2.0/TLS 192.0.2.77;branch=z9hG4bKfar\r\n";
        let extra = format!("{via}{path}Supported: outbound, path\r\n");
        sam.register_status(&mut fleet, &format!("{INSTANCE};reg-id=1"), &extra, status);
    }
}

#[test]
fn rfc_3327_a_path_is_the_route_to_the_contact() {
    let mut fleet = Fleet::new(1);
    let mut sam = Phone::new(&mut fleet, 0, "sam");
    let extra = "Via: SIP/2.0/TLS 192.0.2.77;branch=z9hG4bKfar\r\nPath: <sip:192.0.2.50:5070;transport=tcp;lr>, <sip:192.0.2.51;lr>\r\nSupported: path\r\n";
    sam.register(&mut fleet, "", extra);
    let mut alice = Phone::new(&mut fleet, 0, "alice");
    alice.invite(&mut fleet, &format!("sip:sam@{DOMAIN}"), "", &sdp("a"));
    let (_, to, invite) = fleet.sent.iter().find(|(_, _, m)| m.is_request()).unwrap().clone();
    assert!(format!("{to:?}").contains("192.0.2.50:5070"), "{to:?}");
    assert_eq!(invite.request_uri(), Some(sam.uri().as_str()));
    let routes: Vec<String> = invite.routes().map(|r| r.uri().to_owned()).collect();
    assert_eq!(routes, ["sip:192.0.2.50:5070;transport=tcp;lr", "sip:192.0.2.51;lr"]);
}

#[test]
fn rfc_5627_gruus_are_given_where_they_are_asked_for_and_lead_to_their_instance_only() {
    let mut fleet = Fleet::new(2);
    let mut sam = Phone::new(&mut fleet, 0, "sam");
    let one = format!("{INSTANCE};reg-id=1");
    assert!(!contact(&sam.register(&mut fleet, &one, "")).contains("gruu"));
    let given = contact(&sam.register(&mut fleet, &one, "Supported: gruu\r\n"));
    // What it came with stands first, byte by byte (REG-1).
    assert!(given.starts_with(&format!("<{}>{one};expires=", sam.uri())), "{given}");
    let (public, temporary) = (parameter(&given, "pub-gruu"), parameter(&given, "temp-gruu"));
    assert_eq!(public, format!("sip:sam@{DOMAIN};gr=urn:uuid:00000000-0000-1000-8000-00000000000A"));
    assert!(temporary.starts_with("sip:tgruu.") && !temporary.contains("sam"), "{temporary}");
    let mut other = Phone::new(&mut fleet, 0, "sam");
    other.register(&mut fleet, ";+sip.instance=\"<urn:uuid:00000000-0000-1000-8000-00000000000B>\"", "");
    for (edge, gruu) in [(0, &public), (1, &public), (1, &temporary)] {
        let mut alice = Phone::new(&mut fleet, edge, "alice");
        alice.invite(&mut fleet, gruu, "", &sdp("a"));
        let invite = fleet.take(&sam);
        assert_eq!(invite.request_uri(), Some(sam.uri().as_str()));
        assert!(fleet.try_take(&other).is_none());
    }
    // A changed one names nobody.
    let mut changed = temporary.clone().into_bytes();
    changed[20] = if changed[20] == b'A' { b'B' } else { b'A' };
    let mut alice = Phone::new(&mut fleet, 0, "alice");
    alice.invite(&mut fleet, std::str::from_utf8(&changed).unwrap(), "", &sdp("a"));
    assert_eq!(alice.status(&mut fleet), 404);
    // A temporary one ends with the registration that it was given to.
    let mut again = sam.moved(&mut fleet, 0);
    again.register(&mut fleet, &one, "");
    let mut alice = Phone::new(&mut fleet, 0, "alice");
    alice.invite(&mut fleet, &temporary, "", &sdp("a"));
    assert_eq!(alice.status(&mut fleet), 480);
    let mut alice = Phone::new(&mut fleet, 0, "alice");
    alice.invite(&mut fleet, &public, "", &sdp("a"));
    fleet.take(&again);
}

#[test]
fn reg_3_contact_parameters_stand_in_the_store_as_they_came() {
    let mut fleet = Fleet::new(2);
    let mut sam = Phone::new(&mut fleet, 0, "sam");
    let params = ";+mcp;+mcp.ver=\"1.0,2026-07-28\";+MCP.Cap=\"Echo@1,urn:ex:doc:1\";Other=\"a\\\"b\"";
    sam.register(&mut fleet, params, "");
    assert_eq!(fleet.bindings()[0].contact, format!("<{}>{params}", sam.uri()).into_bytes());
    // Another edge gives the same bytes.
    let mut elsewhere = sam.moved(&mut fleet, 1);
    let flow = elsewhere.flow.clone();
    elsewhere.cseq = 900;
    let query = elsewhere.request(&mut fleet, "REGISTER", "", "");
    let query = query
        .replace("REGISTER  SIP", &format!("REGISTER sip:{DOMAIN} SIP"))
        .replace("To: \r\n", &format!("To: <sip:sam@{DOMAIN}>\r\n"))
        .replace(&format!("Contact: <{}>\r\n", elsewhere.uri()), "");
    fleet.arrive(1, &flow, query);
    let ok = fleet.take(&elsewhere);
    assert_eq!(contact(&ok), format!("<{}>{params};expires=300", sam.uri()), "{}", text(&ok));
}

#[test]
fn reg_6_a_late_copy_of_an_old_register_brings_nothing_back() {
    let mut fleet = Fleet::new(2);
    let mut sam = Phone::new(&mut fleet, 0, "sam");
    sam.register(&mut fleet, "", "");
    sam.register(&mut fleet, ";expires=0", "");
    let mut copy = sam.moved(&mut fleet, 1);
    // The same Call-ID and an older CSeq, by another edge.
    copy.flow = sam.flow.clone();
    copy.cseq = 0;
    fleet.input(1, edge_core::input::Input::FlowOpened { flow: copy.flow.clone() });
    copy.register_status(&mut fleet, "", "", 500);
    let mut alice = Phone::new(&mut fleet, 0, "alice");
    alice.invite(&mut fleet, &format!("sip:sam@{DOMAIN}"), "", &sdp("a"));
    assert_eq!(alice.status(&mut fleet), 480);
}
