//! Answers whose caller has no connection at the moment (sip.md, section 12.2).

use edge_core::input::{ConnId, Flow, Input, Transport};
use std::sync::Arc;

use crate::any_edge::called_by_tls;
use crate::driver::*;
use crate::fleet::Fleet;

fn tls(conn: u64) -> Arc<Flow> {
    stream(Transport::Tls, conn, &["sip:alice@acme.example"])
}

/// A tool's answer comes after its caller's connection is gone.
fn lost(fleet: &mut Fleet) -> Ua {
    let mut alice = called_by_tls(fleet, 0, 1);
    let (id, body) = fleet.on(0, |world| {
        assert_eq!(alice.ask(world, "INFO", MCP, &tool_call(1, "echo")).status(), Some(200));
        let (id, _, body) = world.posted();
        (id, body)
    });
    fleet.on(0, |world| world.input(Input::FlowClosed { conn: ConnId(1) }));
    fleet.on(0, |world| world.backend_answers(id, &tool_result(&id_of(&body))));
    alice
}

/// Time passes, and nobody listens at the caller's Contact.
fn pass(fleet: &mut Fleet, seconds: u64) {
    for _ in 0..seconds * 2 {
        fleet.advance(500);
        for edge in 0..fleet.edges.len() {
            let world = &mut fleet.edges[edge].world;
            let (refused, sent): (Vec<Sent>, Vec<Sent>) =
                world.sent.drain(..).partition(|sent| matches!(sent.to, To::Address(..)));
            world.sent = sent.into();
            for tag in refused.into_iter().filter_map(|sent| sent.tag) {
                fleet.on(edge, |world| world.input(Input::SendFailed { tag }));
            }
        }
    }
}

#[test]
fn xch_6_an_answer_waits_for_its_caller_who_need_not_repeat_the_request() {
    for (edge, method) in [(0, "OPTIONS"), (0, "INFO"), (1, "OPTIONS"), (1, "INFO")] {
        let mut fleet = Fleet::new(2);
        let mut alice = lost(&mut fleet);
        pass(&mut fleet, 20);
        fleet.assert_silent();
        alice.flow = tls(9);
        let flow = alice.flow.clone();
        fleet.alone(edge, |world| alice.send(world, method, "", ""));
        fleet.settle();
        pass(&mut fleet, 5);
        let sent = fleet.sent(edge);
        assert!(sent.iter().any(|sent| sent.message.status() == Some(200)), "{method}");
        let answers: Vec<&Sent> = sent.iter().filter(|sent| sent.message.is_request()).collect();
        assert_eq!(
            answers.len(),
            1,
            "{method} at {edge}: {:?}",
            sent.iter().map(|s| text(&s.message)).collect::<Vec<_>>()
        );
        assert_eq!(answers[0].to, To::Flow(flow.key.clone()));
        assert!(text(&answers[0].message).contains(r#""result""#));
        let answer = answers[0].message.clone();
        fleet.on(edge, |world| world.reply(&flow, &answer, 200, ""));
        fleet.advance(60_000);
        fleet.assert_silent();
        assert_eq!(fleet.edges[0].world.core.stats().engine.deliveries, 0);
    }
}

#[test]
fn an_answer_whose_caller_never_comes_is_given_up_when_the_journal_gives_it_up() {
    let mut fleet = Fleet::new(1);
    let mut alice = lost(&mut fleet);
    pass(&mut fleet, 60);
    assert_eq!(fleet.edges[0].world.core.stats().engine.deliveries, 0);
    // The dialog is there all the same, and nothing runs again.
    alice.flow = tls(9);
    assert_eq!(fleet.on(0, |world| alice.ask(world, "OPTIONS", "", "")).status(), Some(200));
    fleet.advance(5_000);
    fleet.assert_silent();
}

/// The caller is on a connection of the first edge; its tool was called by way of the second.
fn answered_over_the_mesh(fleet: &mut Fleet) -> (Ua, Sent) {
    let mut alice = called_by_tls(fleet, 0, 1);
    let home = std::mem::replace(&mut alice.flow, tls(9));
    let (id, body) = fleet.on(1, |world| {
        assert_eq!(alice.ask(world, "INFO", MCP, &tool_call(1, "echo")).status(), Some(200));
        let (id, _, body) = world.posted();
        (id, body)
    });
    alice.flow = home;
    assert_eq!(fleet.on(0, |world| alice.ask(world, "OPTIONS", "", "")).status(), Some(200));
    fleet.on(1, |world| world.backend_answers(id, &tool_result(&id_of(&body))));
    assert_eq!(fleet.said(1), Vec::<String>::new());
    let answer = fleet.edges[0].world.request();
    assert_eq!(answer.to, To::Flow(alice.flow.key.clone()));
    (alice, answer)
}

#[test]
fn a_connection_of_another_edge_that_leads_to_somebody_else_does_not_end_the_dialog() {
    let mut fleet = Fleet::new(2);
    let (mut alice, answer) = answered_over_the_mesh(&mut fleet);
    let flow = alice.flow.clone();
    fleet.on(0, |world| world.reply(&flow, &answer.message, 481, ""));
    fleet.assert_silent();
    fleet.advance(1_000);
    let again = fleet.edges[0].world.request();
    assert_eq!(again.message.body(), answer.message.body());
    assert!(again.message.cseq().seq > answer.message.cseq().seq);
    fleet.on(0, |world| world.reply(&flow, &again.message, 200, ""));
    assert_eq!(fleet.on(1, |world| alice.ask(world, "OPTIONS", "", "")).status(), Some(200), "the dialog lives");
    fleet.advance(60_000);
    fleet.assert_silent();
}

#[test]
fn a_peer_that_says_twice_that_it_has_no_dialog_is_believed() {
    let mut fleet = Fleet::new(2);
    let (mut alice, answer) = answered_over_the_mesh(&mut fleet);
    let flow = alice.flow.clone();
    fleet.on(0, |world| world.reply(&flow, &answer.message, 481, ""));
    fleet.advance(1_000);
    let again = fleet.edges[0].world.request();
    fleet.on(0, |world| world.reply(&flow, &again.message, 481, ""));
    let bye = fleet.edges[0].world.request();
    assert_eq!(bye.message.cseq().method.as_str(), "BYE");
    fleet.on(0, |world| world.reply(&flow, &bye.message, 481, ""));
    assert_eq!(fleet.on(1, |world| alice.ask(world, "OPTIONS", "", "")).status(), Some(481));
    fleet.advance(60_000);
    fleet.assert_silent();
}
