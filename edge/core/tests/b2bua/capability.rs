//! Agents that are found by what they offer.

use crate::driver::{DOMAIN, allow, deny, text};
use crate::fleet::*;
use mcp_sip::policy::{MethodSpec, Peer};
use sip_proto::message::HeaderId;

const ECHO: &str = ";+mcp;+mcp.cap=\"echo@1,urn:ex:doc:1\"";
const PAY: &str = ";+mcp;+mcp.cap=\"pay@1\"";
const WANTED: &str = "Accept-Contact: *;+mcp.cap=\"echo@1\";explicit;require\r\n";

fn ask(fleet: &mut Fleet, edge: usize, extra: &str) -> Phone {
    let mut alice = Phone::new(fleet, edge, "alice");
    alice.invite(fleet, &format!("sip:{DOMAIN}"), extra, &sdp("a"));
    alice
}

#[test]
fn reg_2_an_invite_to_the_domain_reaches_the_agent_that_offers_the_capability() {
    let mut fleet = Fleet::new(2);
    let mut sam = Phone::new(&mut fleet, 0, "sam");
    let mut tess = Phone::new(&mut fleet, 1, "tess");
    sam.register(&mut fleet, ECHO, "");
    tess.register(&mut fleet, PAY, "");
    for (extra, to_sam) in [
        (WANTED, true),
        ("Accept-Contact: *;+mcp.cap=\"ECHO\";require\r\n", true),
        ("Accept-Contact: *;+mcp.cap=\"pay@1\";require\r\n", false),
        ("MCP-Select: tools=\"echo@1\"\r\nSupported: mcp\r\n", true),
    ] {
        for edge in [0, 1] {
            let mut alice = ask(&mut fleet, edge, extra);
            let agent = if to_sam { &mut sam } else { &mut tess };
            let invite = fleet.take(agent);
            assert_eq!(invite.to().uri(), format!("sip:{}@{DOMAIN}", agent.user));
            agent.called(&invite);
            agent.reply(&mut fleet, &invite, 200, "", &sdp("s"));
            assert!(text(&fleet.take(agent)).starts_with("ACK "));
            let answer = alice.response(&mut fleet);
            alice.established(&answer);
            alice.send(&mut fleet, "ACK", "", "");
            fleet.assert_silent();
        }
    }
    // Nobody offers it, or only in another version; a rejected agent is none.
    for extra in [
        "Accept-Contact: *;+mcp.cap=\"nothing@1\";require\r\n",
        "Accept-Contact: *;+mcp.cap=\"echo@2\";require\r\n",
        "Accept-Contact: *;+mcp.cap=\"echo@1\";require\r\nReject-Contact: *;+mcp.cap=\"urn:ex:doc:1\"\r\n",
        "",
    ] {
        let alice = ask(&mut fleet, 0, extra);
        assert_eq!(alice.status(&mut fleet), 404, "{extra}");
    }
}

#[test]
fn reg_2_only_an_agent_that_policy_lets_this_caller_reach_is_found() {
    let mut config = bridge_config();
    at_agent(
        &mut config,
        "sam",
        vec![
            allow("all", None),
            deny("not-alice", Some(vec![Peer::SipIdentity("sip:alice@acme.example".into())]), None),
        ],
    );
    let mut fleet = Fleet::with(1, config);
    let mut sam = Phone::new(&mut fleet, 0, "sam");
    sam.register(&mut fleet, ECHO, "");
    let alice = ask(&mut fleet, 0, WANTED);
    assert_eq!(alice.status(&mut fleet), 404);
    // The other agent, who may be called, is.
    let mut tess = Phone::new(&mut fleet, 0, "tess");
    tess.register(&mut fleet, ECHO, "");
    for _ in 0..4 {
        let _alice = ask(&mut fleet, 0, WANTED);
        fleet.take(&tess);
    }
    assert!(fleet.try_take(&sam).is_none());
    // A tool that is hidden is not found either.
    fleet.reconfigure(|config| {
        let hidden = MethodSpec { name: "tools/call".into(), params: vec!["echo".into()] };
        at_agent(config, "tess", vec![allow("all", None), deny("echo", None, Some(vec![hidden]))]);
    });
    let alice = ask(&mut fleet, 0, WANTED);
    assert_eq!(alice.status(&mut fleet), 404);
}

#[test]
fn sec_5_what_is_not_declared_is_not_found_and_a_user_is_no_agent() {
    let mut fleet = Fleet::new(1);
    let mut sam = Phone::new(&mut fleet, 0, "sam");
    let mut bob = Phone::new(&mut fleet, 0, "bob");
    sam.register(&mut fleet, ";+mcp.cap=\"echo@7,steal@1\"", "");
    bob.register(&mut fleet, ECHO, "");
    for wanted in ["steal@1", "echo@7", "echo@1"] {
        let alice = ask(&mut fleet, 0, &format!("Accept-Contact: *;+mcp.cap=\"{wanted}\";require\r\n"));
        assert_eq!(alice.status(&mut fleet), 404, "{wanted}");
    }
}

#[test]
fn reg_8_a_change_of_capabilities_is_seen_by_every_edge_at_once() {
    let mut fleet = Fleet::new(2);
    let mut sam = Phone::new(&mut fleet, 0, "sam");
    let reaches = |fleet: &mut Fleet, sam: &Phone, expected: bool| {
        for edge in [1, 0] {
            let alice = ask(fleet, edge, WANTED);
            if expected {
                fleet.take(sam);
            } else {
                assert_eq!(alice.status(fleet), 404);
            }
            fleet.sent.clear();
        }
    };
    reaches(&mut fleet, &sam, false);
    sam.register(&mut fleet, ECHO, "");
    reaches(&mut fleet, &sam, true);
    sam.register(&mut fleet, PAY, "");
    reaches(&mut fleet, &sam, false);
    sam.register(&mut fleet, ECHO, "");
    reaches(&mut fleet, &sam, true);
    sam.register(&mut fleet, &format!("{ECHO};expires=0"), "");
    reaches(&mut fleet, &sam, false);
    sam.register(&mut fleet, ECHO, "");
    reaches(&mut fleet, &sam, true);
    // One that is not refreshed ends by itself.
    fleet.advance(301_000);
    reaches(&mut fleet, &sam, false);
}

#[test]
fn reg_9_a_new_agent_is_routable_and_a_failed_one_is_not_within_the_same_moment() {
    let mut fleet = Fleet::new(2);
    let mut sam = Phone::new(&mut fleet, 0, "sam");
    let instance = ";+sip.instance=\"<urn:uuid:00000000-0000-1000-8000-00000000000A>\";reg-id=1";
    sam.register(&mut fleet, instance, "Supported: outbound\r\n");
    let mut alice = Phone::new(&mut fleet, 1, "alice");
    alice.invite(&mut fleet, &format!("sip:sam@{DOMAIN}"), "", &sdp("a"));
    let invite = fleet.take(&sam);
    assert!(value(&invite, HeaderId::To).contains("sam"));
    // Its connection breaks: no time passes until a caller hears so, on whatever edge.
    fleet.close(&sam);
    for edge in [0, 1] {
        let mut alice = Phone::new(&mut fleet, edge, "alice");
        alice.invite(&mut fleet, &format!("sip:sam@{DOMAIN}"), "", &sdp("a"));
        assert_eq!(alice.status(&mut fleet), 480);
    }
}
