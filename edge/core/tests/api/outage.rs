//! The store is away (sip.md, section 11), comes back, or comes back empty.

use edge_core::config::OnOutage;
use edge_core::input::{Input, StoreHealth, Transport};
use session_store::op::{StoreError, StoreOp};
use sip_proto::message::HeaderId;

use crate::any_edge::{called, called_by_tls, invited};
use crate::calls::{ECHO, both};
use crate::driver::*;
use crate::fleet::Fleet;

/// The store is away for this edge, operations and lease alike.
pub fn away(fleet: &mut Fleet, index: usize) {
    fleet.edges[index].has_store = false;
    fleet.on(index, |world| {
        world.mode = StoreMode::Failing(StoreError::Unavailable);
        world.input(Input::StoreHealth(StoreHealth::Open));
    });
}

/// It is back, and the breaker lets this much new work in.
pub fn back(fleet: &mut Fleet, index: usize, health: StoreHealth) {
    fleet.edges[index].has_store = true;
    fleet.on(index, |world| {
        world.mode = StoreMode::Prompt;
        world.input(Input::StoreHealth(health));
    });
}

#[test]
fn new_work_is_503_with_a_short_jittered_retry_after() {
    let mut fleet = Fleet::new(1);
    let mut alice = called_by_tls(&mut fleet, 0, 1);
    away(&mut fleet, 0);
    let mut waits = std::collections::BTreeSet::new();
    for method in ["INVITE", "MESSAGE", "OPTIONS", "SUBSCRIBE", "INVITE", "INVITE", "INVITE", "INVITE"] {
        let answer = fleet.on(0, |world| {
            let flow = stream(Transport::Tls, 3, &["sip:bob@acme.example"]);
            Ua::new(world, "bob", &flow, ECHO).ask(world, method, MCP, &tool_call(1, "echo"))
        });
        assert_eq!(answer.status(), Some(503), "{method}: {}", text(&answer));
        let seconds: u32 = header(&answer, HeaderId::RetryAfter).parse().unwrap();
        assert!((1..=5).contains(&seconds));
        waits.insert(seconds);
    }
    assert!(waits.len() > 1, "jittered");
    let register = fleet.on(0, |world| {
        let flow = stream(Transport::Tls, 3, &["sip:bob@acme.example"]);
        Ua::new(world, "bob", &flow, "sip:bob@acme.example").ask(world, "REGISTER", "", "")
    });
    assert_eq!(register.status(), Some(503));
    // A payload of MCP is never acknowledged without its write; what carries none is answered from here.
    let mcp = fleet.on(0, |world| alice.ask(world, "INFO", MCP, &tool_call(1, "echo")));
    assert_eq!(mcp.status(), Some(503));
    assert!(fleet.edges[0].world.calls.is_empty(), "no backend was asked");
    assert_eq!(fleet.on(0, |world| alice.ask(world, "INFO", "", "")).status(), Some(200));
    assert_eq!(fleet.on(0, |world| alice.ask(world, "OPTIONS", "", "")).status(), Some(200));
    let stats = fleet.edges[0].world.core.stats();
    assert_eq!(stats.from_cache.get("INFO"), Some(&1), "told apart from what the store knows");
    assert_eq!(stats.from_cache.get("OPTIONS"), Some(&1));
}

#[test]
fn bye_ack_and_cancel_go_on_and_are_replayed_journal_first() {
    let mut fleet = Fleet::new(2);
    let mut alice = called(&mut fleet);
    let mut acked = fleet.on(0, |world| {
        let flow = stream(Transport::Tls, 7, &["sip:alice@acme.example"]);
        let mut ua = Ua::new(world, "alice", &flow, ECHO);
        let (headers, body) = both();
        let response = ua.ask(world, "INVITE", &headers, &body);
        ua.established(&response);
        ua
    });
    away(&mut fleet, 0);
    away(&mut fleet, 1);
    fleet.on(0, |world| acked.send(world, "ACK", "", ""));
    fleet.advance(3_000);
    assert_eq!(fleet.said(0), Vec::<String>::new(), "the ACK is heard without the store");
    assert_eq!(fleet.on(0, |world| alice.ask(world, "BYE", "", "")).status(), Some(200));
    assert_eq!(fleet.edges[0].world.core.stats().dialogs, 1);
    assert_eq!(fleet.edges[0].world.core.stats().outage_journal, 2);
    fleet.advance(57_000);
    assert_eq!(fleet.said(0), Vec::<String>::new());
    fleet.edges[0].world.operations.clear();
    back(&mut fleet, 0, StoreHealth::Recovering { percent: 100 });
    back(&mut fleet, 1, StoreHealth::Recovering { percent: 100 });
    fleet.advance(3_000);
    let stats = fleet.edges[0].world.core.stats();
    assert!(!stats.degraded && stats.outage_journal == 0, "{stats:?}");
    let first: Vec<&StoreOp> = fleet.edges[0].world.operations.iter().take(2).collect();
    assert!(matches!(first[..], [StoreOp::Confirm { .. }, StoreOp::Bury { .. }]), "{first:?}");
    // Anywhere: the one is over, the other one stands.
    assert_eq!(fleet.on(1, |world| alice.ask(world, "INFO", "", "")).status(), Some(481));
    acked.flow = stream(Transport::Tls, 8, &["sip:alice@acme.example"]);
    assert_eq!(fleet.on(1, |world| acked.ask(world, "INFO", "", "")).status(), Some(200));
    fleet.advance(100_000);
    assert_eq!(fleet.said(0), Vec::<String>::new());
    assert!(!fleet.said(1).contains(&"BYE".to_owned()), "the record knows of the ACK");
}

#[test]
fn bye_wins_over_what_was_noted_before() {
    let mut fleet = Fleet::new(1);
    let mut alice = called(&mut fleet);
    away(&mut fleet, 0);
    assert_eq!(fleet.on(0, |world| alice.ask(world, "INFO", "", "")).status(), Some(200));
    assert_eq!(fleet.on(0, |world| alice.ask(world, "BYE", "", "")).status(), Some(200));
    assert_eq!(fleet.edges[0].world.core.stats().outage_journal, 1);
}

#[test]
fn a_bye_of_a_dialog_that_is_not_held_here_is_taken_and_judged_later() {
    let mut fleet = Fleet::new(2);
    let mut alice = called(&mut fleet);
    away(&mut fleet, 1);
    assert_eq!(fleet.on(1, |world| alice.ask(world, "BYE", "", "")).status(), Some(200));
    back(&mut fleet, 1, StoreHealth::Closed);
    fleet.advance(3_000);
    assert_eq!(fleet.on(0, |world| alice.ask(world, "INFO", "", "")).status(), Some(481));
    // Somebody else's BYE ends nothing.
    let mut bobs = called(&mut fleet);
    away(&mut fleet, 1);
    let mut thief = bobs.clone();
    thief.flow = stream(Transport::Tls, 9, &["sip:bob@acme.example"]);
    fleet.on(1, |world| thief.ask(world, "BYE", "", ""));
    back(&mut fleet, 1, StoreHealth::Closed);
    fleet.advance(3_000);
    assert_eq!(fleet.on(0, |world| bobs.ask(world, "INFO", "", "")).status(), Some(200));
}

#[test]
fn a_bye_that_was_overtaken_before_it_was_written_ends_the_dialog_all_the_same() {
    let mut fleet = Fleet::new(2);
    let mut alice = called(&mut fleet);
    away(&mut fleet, 1);
    assert_eq!(fleet.on(1, |world| alice.ask(world, "BYE", "", "")).status(), Some(200));
    assert_eq!(fleet.on(0, |world| alice.ask(world, "INFO", "", "")).status(), Some(200));
    back(&mut fleet, 1, StoreHealth::Closed);
    fleet.advance(3_000);
    assert_eq!(fleet.on(0, |world| alice.ask(world, "INFO", "", "")).status(), Some(481));
}

#[test]
fn another_principal_gets_nothing_from_the_cache() {
    let mut fleet = Fleet::new(1);
    let alice = called(&mut fleet);
    away(&mut fleet, 0);
    let mut thief = alice.clone();
    thief.flow = stream(Transport::Tls, 9, &["sip:bob@acme.example"]);
    for method in ["BYE", "INFO"] {
        assert_eq!(fleet.on(0, |world| thief.ask(world, method, "", "")).status(), Some(403));
    }
    assert_eq!(fleet.edges[0].world.core.stats().dialogs, 1);
}

#[test]
fn a_refresh_of_what_was_served_here_is_200_for_a_short_time_where_the_domain_allows_it() {
    let registered = |fleet: &mut Fleet| {
        let flow = stream(Transport::Tls, 3, &["sip:bob@acme.example"]);
        fleet.on(0, |world| {
            let mut bob = Ua::new(world, "bob", &flow, "sip:bob@acme.example");
            let answer = bob.ask(world, "REGISTER", "", "");
            assert_eq!(answer.status(), Some(200), "{}", text(&answer));
            bob
        })
    };
    let mut refused = Fleet::new(1);
    let mut bob = registered(&mut refused);
    away(&mut refused, 0);
    assert_eq!(refused.on(0, |world| bob.ask(world, "REGISTER", "", "")).status(), Some(503));

    let mut config = config();
    change_domain(&mut config, |domain| domain.refresh_in_outage = true);
    let mut fleet = Fleet::with(1, config);
    let mut bob = registered(&mut fleet);
    away(&mut fleet, 0);
    let answer = fleet.on(0, |world| bob.ask(world, "REGISTER", "", ""));
    assert_eq!(answer.status(), Some(200), "{}", text(&answer));
    let contact = header(&answer, HeaderId::Contact);
    let seconds: u64 = contact.rsplit_once("expires=").unwrap().1.parse().unwrap();
    assert!((30..=60).contains(&seconds), "{contact}");
    assert_eq!(fleet.edges[0].world.core.stats().from_cache.get("REGISTER"), Some(&1));
    // A new contact, a removal, or somebody who was not here needs the store.
    let removal = fleet.on(0, |world| bob.ask(world, "REGISTER", "Expires: 0\r\n", ""));
    assert_eq!(removal.status(), Some(503));
    let flow = stream(Transport::Tls, 4, &["sip:alice@acme.example"]);
    let stranger =
        fleet.on(0, |world| Ua::new(world, "alice", &flow, "sip:alice@acme.example").ask(world, "REGISTER", "", ""));
    assert_eq!(stranger.status(), Some(503));
}

#[test]
fn reject_all_takes_bye_and_nothing_else() {
    let mut config = config();
    config.on_outage = OnOutage::RejectAll;
    let mut fleet = Fleet::with(1, config);
    let mut alice = called(&mut fleet);
    away(&mut fleet, 0);
    assert_eq!(fleet.on(0, |world| alice.ask(world, "INFO", "", "")).status(), Some(503));
    assert_eq!(fleet.on(0, |world| alice.ask(world, "OPTIONS", "", "")).status(), Some(503));
    assert_eq!(fleet.on(0, |world| alice.ask(world, "BYE", "", "")).status(), Some(200));
}

#[test]
fn timers_stop_3_5_seconds_after_the_last_renewal_and_go_on_after_the_outage() {
    let mut fleet = Fleet::new(1);
    let mut alice = invited(&mut fleet);
    away(&mut fleet, 0);
    fleet.advance(4_000);
    assert!(!fleet.said(0).is_empty(), "they ran on for a while");
    fleet.advance(60_000);
    assert_eq!(fleet.said(0), Vec::<String>::new());
    back(&mut fleet, 0, StoreHealth::Closed);
    fleet.advance(3_000);
    assert!(fleet.said(0).iter().any(|s| s == "200" || s == "BYE"));
    fleet.on(0, |world| alice.send(world, "ACK", "", ""));
}

#[test]
fn after_an_outage_new_work_comes_back_in_steps() {
    let mut fleet = Fleet::new(1);
    away(&mut fleet, 0);
    back(&mut fleet, 0, StoreHealth::Recovering { percent: 0 });
    fleet.advance(2_000);
    let invite = |fleet: &mut Fleet, conn: u64| {
        fleet.on(0, |world| {
            let flow = stream(Transport::Tls, conn, &["sip:bob@acme.example"]);
            let (headers, body) = both();
            Ua::new(world, "bob", &flow, ECHO).ask(world, "INVITE", &headers, &body).status()
        })
    };
    assert_eq!(invite(&mut fleet, 20), Some(503));
    // Liveness says what is true: this server is back.
    let options = fleet.on(0, |world| {
        let flow = stream(Transport::Tls, 3, &["sip:bob@acme.example"]);
        Ua::new(world, "bob", &flow, ECHO).ask(world, "OPTIONS", "", "").status()
    });
    assert_eq!(options, Some(200));
    fleet.on(0, |world| world.input(Input::StoreHealth(StoreHealth::Recovering { percent: 50 })));
    let taken = (30..130).filter(|conn| invite(&mut fleet, *conn) == Some(200)).count();
    assert!((25..=75).contains(&taken), "{taken}");
    fleet.on(0, |world| world.input(Input::StoreHealth(StoreHealth::Closed)));
    assert_eq!(invite(&mut fleet, 200), Some(200));
}

#[test]
fn a_store_that_came_back_empty_gets_what_is_held_under_the_new_epoch_before_anything_new() {
    let mut fleet = Fleet::new(2);
    let mut alice = called_by_tls(&mut fleet, 0, 1);
    let mut bob = called(&mut fleet);
    let cseq = fleet.on(0, |world| {
        assert_eq!(alice.ask(world, "INFO", MCP, &tool_call(1, "echo")).status(), Some(200));
        let (id, _, body) = world.posted();
        world.backend_answers(id, &tool_result(&id_of(&body)));
        let answer = world.request();
        let flow = alice.flow.clone();
        world.reply(&flow, &answer.message, 200, "");
        answer.message.cseq().seq
    });
    for index in [0, 1] {
        away(&mut fleet, index);
    }
    fleet.advance(10_000);
    fleet.empty_the_store();
    for index in [0, 1] {
        back(&mut fleet, index, StoreHealth::Recovering { percent: 100 });
    }
    // Until the lease tells which store it is, nothing is believed.
    let early = fleet.on(0, |world| alice.ask(world, "INFO", MCP, &tool_call(2, "echo")));
    assert_eq!(early.status(), Some(503));
    fleet.advance(3_000);
    let stats = fleet.edges[0].world.core.stats();
    assert_eq!((stats.restored, stats.degraded, stats.dialogs), (2, false, 2), "{stats:?}");
    assert_eq!(fleet.edges[0].membership.owner.epoch, 2);
    // What other edges hold is there before MCP goes on.
    let early = fleet.on(0, |world| alice.ask(world, "INFO", MCP, &tool_call(2, "echo")));
    assert_eq!(early.status(), Some(503));
    fleet.advance(4_000);
    // Any edge serves them again; our next CSeq is higher than any that the peer saw.
    assert_eq!(fleet.on(1, |world| bob.ask(world, "INFO", "", "")).status(), Some(200));
    let answer = fleet.on(0, |world| {
        assert_eq!(alice.ask(world, "INFO", MCP, &tool_call(3, "echo")).status(), Some(200));
        let (id, _, body) = world.posted();
        world.backend_answers(id, &tool_result(&id_of(&body)));
        world.request()
    });
    assert!(answer.message.cseq().seq > cseq);
    assert_eq!(fleet.on(1, |world| bob.ask(world, "BYE", "", "")).status(), Some(200));
}

#[test]
fn a_dialog_that_ended_during_the_outage_is_not_written_anew() {
    let mut fleet = Fleet::new(1);
    let mut alice = called(&mut fleet);
    away(&mut fleet, 0);
    assert_eq!(fleet.on(0, |world| alice.ask(world, "BYE", "", "")).status(), Some(200));
    fleet.advance(10_000);
    fleet.empty_the_store();
    back(&mut fleet, 0, StoreHealth::Closed);
    fleet.advance(20_000);
    assert_eq!(fleet.edges[0].world.core.stats().restored, 0);
    assert_eq!(fleet.on(0, World::counts).dialogs, 0);
}

#[test]
fn a_store_that_was_emptied_between_two_renewals_costs_no_dialog_that_is_held() {
    let mut fleet = Fleet::new(1);
    let mut alice = called(&mut fleet);
    fleet.empty_the_store();
    // Before the node has noticed.
    let early = fleet.on(0, |world| alice.ask(world, "INFO", "", ""));
    assert_eq!(early.status(), Some(503), "{}", text(&early));
    fleet.advance(3_000);
    assert_eq!(fleet.on(0, |world| alice.ask(world, "INFO", "", "")).status(), Some(200));
    // What the store does not have although it is the same one is gone.
    let key = fleet.alone(0, |world| {
        world.operations.iter().find_map(|op| match op {
            StoreOp::RestoreDialog { dialog, .. } => Some(*dialog),
            _ => None,
        })
    });
    assert!(key.is_some());
}
