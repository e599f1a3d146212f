//! Any edge serves anything: what comes to another edge than the one that began.

use edge_core::input::{ConnId, FlowKey, Input, Transport};
use session_store::op::{StoreError, StoreOp};
use sip_proto::message::HeaderId;

use crate::calls::{ECHO, both};
use crate::driver::*;
use crate::fleet::Fleet;

/// A call of alice over UDP to the first edge, without its ACK.
pub fn invited(fleet: &mut Fleet) -> Ua {
    let flow = udp(5062);
    fleet.on(0, |world| {
        let mut alice = Ua::new(world, "alice", &flow, ECHO);
        let (headers, body) = both();
        let response = alice.ask(world, "INVITE", &headers, &body);
        alice.established(&response);
        alice
    })
}

/// The same with its ACK.
pub fn called(fleet: &mut Fleet) -> Ua {
    let mut alice = invited(fleet);
    fleet.on(0, |world| alice.send(world, "ACK", "", ""));
    alice
}

/// A call over TLS on this connection of that edge.
pub fn called_by_tls(fleet: &mut Fleet, edge: usize, conn: u64) -> Ua {
    fleet.on(edge, |world| {
        let flow = stream(Transport::Tls, conn, &["sip:alice@acme.example"]);
        let mut alice = Ua::new(world, "alice", &flow, ECHO);
        let (headers, body) = both();
        alice.call(world, &headers, &body);
        alice
    })
}

#[test]
fn an_ack_at_another_edge_stops_the_2xx_of_the_owner() {
    let mut fleet = Fleet::new(3);
    let mut alice = invited(&mut fleet);
    fleet.advance(600);
    assert_eq!(fleet.said(0), ["200"]);
    fleet.on(1, |world| alice.send(world, "ACK", "", ""));
    fleet.advance(70_000);
    fleet.assert_silent();
    assert_eq!(fleet.edges[0].world.core.stats().dialogs, 1);
}

#[test]
fn an_ack_that_the_mesh_loses_is_in_the_record_and_no_bye_follows() {
    let mut fleet = Fleet::new(2);
    let mut alice = invited(&mut fleet);
    fleet.mesh_is_cut = true;
    fleet.on(1, |world| alice.send(world, "ACK", "", ""));
    fleet.advance(70_000);
    let said = fleet.said(0);
    assert!(said.iter().all(|s| s == "200"), "copies of the 2xx, and no BYE: {said:?}");
    assert_eq!(fleet.edges[0].world.core.stats().dialogs, 1);
    fleet.advance(70_000);
    fleet.assert_silent();
}

#[test]
fn in_dialog_requests_at_any_edge_and_their_retransmission_gets_the_same_bytes_anywhere() {
    let mut fleet = Fleet::new(3);
    let mut alice = called(&mut fleet);
    let flow = alice.flow.clone();
    let built = fleet.alone(1, |world| alice.build(world, "INFO", "", ""));
    let first = fleet.on(1, |world| {
        world.arrive(&flow, built.clone());
        world.response()
    });
    assert_eq!(first.status(), Some(200));
    for edge in [2, 0] {
        let again = fleet.on(edge, |world| {
            world.arrive(&flow, built.clone());
            world.response()
        });
        assert_eq!(again.bytes(), first.bytes());
    }
    // A BYE at the third edge ends it at its owner, too, who runs no timer of it any more.
    let bye = fleet.on(2, |world| alice.ask(world, "BYE", "", ""));
    assert_eq!(bye.status(), Some(200));
    assert_eq!(fleet.edges[0].world.core.stats().dialogs, 0);
    let late = fleet.on(1, |world| alice.ask(world, "INFO", "", ""));
    assert_eq!(late.status(), Some(481));
    assert_eq!(fleet.edges[1].world.core.stats().dialogs, 0);
    fleet.advance(4_000_000);
    fleet.assert_silent();
}

#[test]
fn an_overtaken_cseq_is_500_at_any_edge() {
    let mut fleet = Fleet::new(2);
    let mut alice = called_by_tls(&mut fleet, 0, 1);
    let flow = alice.flow.clone();
    let early = fleet.alone(0, |world| alice.build(world, "INFO", "", ""));
    assert_eq!(fleet.on(1, |world| alice.ask(world, "INFO", "", "")).status(), Some(200));
    let late = fleet.on(0, |world| {
        world.arrive(&flow, early);
        world.response()
    });
    assert_eq!(late.status(), Some(500));
}

#[test]
fn sec_8_an_overtaken_info_on_udp_is_500_and_its_credentials_are_not_stale() {
    let mut fleet = Fleet::new(2);
    let mut alice = called(&mut fleet);
    let flow = alice.flow.clone();
    // One nonce, counts in the order in which the requests were made; the later one is faster.
    let first = fleet.alone(0, |world| alice.build(world, "INFO", "", ""));
    let second = fleet.alone(0, |world| alice.build(world, "INFO", "", ""));
    let count = |request: &str| request.split("nc=").nth(1).map(|rest| rest[..8].to_owned()).expect("a digest");
    assert!(count(&first) < count(&second));
    let answer = |fleet: &mut Fleet, edge, request: &str| {
        let answer = fleet.on(edge, |world| {
            world.arrive(&flow, request.to_owned());
            world.response()
        });
        (answer.status(), header(&answer, HeaderId::WwwAuthenticate))
    };
    assert_eq!(answer(&mut fleet, 1, &second).0, Some(200));
    // RFC 3261 section 12.2.2, at either edge, and its retransmission.
    for edge in [0, 1] {
        assert_eq!(answer(&mut fleet, edge, &first), (Some(500), String::new()), "edge {edge}");
    }
    // The same credentials with another request are a replay wherever they come.
    let replayed = second.replacen(&alice.branch, "z9hG4bKagain", 1);
    let replayed = replayed.replacen(&format!("CSeq: {}", alice.cseq), &format!("CSeq: {}", alice.cseq + 1), 1);
    let (status, challenge) = answer(&mut fleet, 0, &replayed);
    assert_eq!(status, Some(401));
    assert!(challenge.contains("stale=true"), "{challenge}");
}

/// An INVITE at the first edge, which has said 503, because the reply to the write of its 2xx was lost. What takes that write back still
/// waits. Gives the INVITE.
fn answered_into_the_void(fleet: &mut Fleet) -> (Ua, String) {
    let flow = udp(5062);
    let (headers, body) = both();
    let (alice, invite) = fleet.alone(0, |world| {
        let mut alice = Ua::new(world, "alice", &flow, ECHO);
        alice.send(world, "INVITE", &headers, &body);
        let response = world.response();
        alice.ack_refusal(world, &response);
        alice.challenged(&response);
        world.mode = StoreMode::Held;
        let invite = alice.build(world, "INVITE", &headers, &body);
        world.arrive(&flow, invite.clone());
        assert!(world.release(), "the guard");
        let (op, operation) = world.held.pop_front().expect("the 2xx");
        assert!(matches!(operation, StoreOp::AnswerCall { .. }), "{operation:?}");
        world.store.execute(world.now.wall.0, operation).expect("written");
        world.input(Input::Store { op, reply: Err(StoreError::Unavailable) });
        (alice, invite)
    });
    assert_eq!(fleet.said(0), ["503"]);
    (alice, invite)
}

#[test]
fn a_2xx_that_another_edge_gave_is_not_taken_back() {
    let mut fleet = Fleet::new(2);
    let (mut alice, invite) = answered_into_the_void(&mut fleet);
    let flow = alice.flow.clone();
    let answer = fleet.on(1, |world| {
        world.arrive(&flow, invite);
        world.response()
    });
    alice.established(&answer);
    fleet.on(1, |world| alice.send(world, "ACK", "", ""));
    fleet.on(0, |world| {
        world.mode = StoreMode::Prompt;
        while world.release() {}
    });
    for edge in [0, 1] {
        assert_eq!(fleet.on(edge, |world| alice.ask(world, "INFO", "", "")).status(), Some(200), "edge {edge}");
    }
    assert_eq!(fleet.on(0, |world| alice.ask(world, "BYE", "", "")).status(), Some(200));
}

#[test]
fn a_2xx_that_nobody_was_given_is_taken_back() {
    let mut fleet = Fleet::new(2);
    let (alice, invite) = answered_into_the_void(&mut fleet);
    fleet.on(0, |world| {
        world.mode = StoreMode::Prompt;
        while world.release() {}
    });
    let answer = fleet.on(1, |world| {
        world.arrive(&alice.flow, invite);
        world.response()
    });
    assert_eq!(answer.status(), Some(503), "the same for every copy");
    fleet.advance(70_000);
    let counts = fleet.store.counts();
    assert_eq!((counts.guards, counts.dialogs), (0, 0));
}

/// An INVITE at the first edge whose answer waits for the store; then a CANCEL at the second.
fn cancelled_elsewhere(cut: bool) -> (Fleet, Vec<String>, Vec<String>) {
    let mut fleet = Fleet::new(2);
    let flow = udp(5062);
    let mut alice = fleet.on(0, |world| {
        let mut alice = Ua::new(world, "alice", &flow, ECHO);
        let (headers, body) = both();
        alice.send(world, "INVITE", &headers, &body);
        let challenge = world.response();
        alice.ack_refusal(world, &challenge);
        alice.challenged(&challenge);
        world.mode = StoreMode::Held;
        alice.send(world, "INVITE", &headers, &body);
        assert!(world.release(), "the guard");
        world.assert_silent();
        alice
    });
    fleet.mesh_is_cut = cut;
    // From any connection: the guard is what it must fit.
    alice.flow = udp(5099);
    let invite_branch = alice.branch.clone();
    fleet.on(1, |world| alice.send(world, "CANCEL", "", ""));
    assert_eq!(alice.branch, invite_branch);
    fleet.on(0, |world| {
        world.mode = StoreMode::Prompt;
        while world.release() {}
    });
    let said = (fleet.said(0), fleet.said(1));
    (fleet, said.0, said.1)
}

#[test]
fn a_cancel_at_another_edge_reaches_the_invite_over_the_mesh() {
    let (fleet, owner, other) = cancelled_elsewhere(false);
    assert_eq!((owner, other), (vec!["487".to_owned()], vec!["200".to_owned()]));
    assert_eq!(fleet.edges[0].world.core.stats().dialogs, 0);
}

#[test]
fn a_cancel_whose_owner_is_not_reached_is_answered_here_for_the_invite() {
    let (fleet, owner, other) = cancelled_elsewhere(true);
    assert_eq!(other, ["200", "487"]);
    // The owner finds the guard cancelled when it wants to answer.
    assert_eq!(owner, ["487"]);
    assert_eq!(fleet.edges[0].world.core.stats().dialogs, 0);
}

#[test]
fn the_ack_of_a_refusal_finds_the_edge_that_refused() {
    let mut fleet = Fleet::new(2);
    let flow = udp(5062);
    let (mut alice, refusal) = fleet.on(0, |world| {
        let mut alice = Ua::new(world, "alice", &flow, "sip:nobody@acme.example");
        let (headers, body) = both();
        alice.send(world, "INVITE", &headers, &body);
        let challenge = world.response();
        alice.ack_refusal(world, &challenge);
        alice.challenged(&challenge);
        alice.target = ECHO.to_owned();
        alice.send(world, "INVITE", &format!("Require: nothing\r\n{headers}"), &body);
        (alice, world.response())
    });
    let status = refusal.status().unwrap();
    assert!(status >= 400, "{}", text(&refusal));
    fleet.on(1, |world| alice.ack_refusal(world, &refusal));
    assert_eq!(fleet.edges[1].world.core.stats().dropped.get("stray ACK"), None);
    fleet.advance(40_000);
    fleet.assert_silent();
}

#[test]
fn a_response_at_another_edge_goes_to_the_transaction_that_waits() {
    let mut fleet = Fleet::new(2);
    let alice = invited(&mut fleet);
    // No ACK: a BYE of the owner. Its answer arrives at the other edge.
    fleet.advance(33_000);
    let sent = fleet.sent(0);
    let bye = sent.iter().find(|s| s.message.is_request()).unwrap().message.clone();
    assert_eq!(bye.cseq().method.as_str(), "BYE");
    let flow = alice.flow.clone();
    fleet.on(1, |world| world.reply(&flow, &bye, 200, ""));
    fleet.advance(70_000);
    assert_eq!(fleet.said(0), Vec::<String>::new(), "it hears the answer, so it repeats nothing");
    assert_eq!(fleet.edges[0].world.core.stats().responses.get(&200), Some(&1));
    fleet.kill(0);
    let dropped = fleet.on(1, |world| {
        world.reply(&flow, &bye, 200, "");
        world.core.stats().dropped.clone()
    });
    assert!(dropped.is_empty() || dropped.contains_key("response for another life"), "{dropped:?}");
    fleet.advance(8_000);
    let dropped = fleet.on(1, |world| {
        world.reply(&flow, &bye, 200, "");
        world.core.stats().dropped.clone()
    });
    assert_eq!(dropped.get("response for another life"), Some(&1), "{dropped:?}");
}

#[test]
fn an_answer_goes_to_the_connection_where_the_peer_spoke_last_over_the_mesh() {
    let mut fleet = Fleet::new(2);
    let mut alice = called_by_tls(&mut fleet, 0, 1);
    // The tool runs at the first edge; the caller opens a connection to the second one, and speaks there.
    let (id, body) = fleet.on(0, |world| {
        assert_eq!(alice.ask(world, "INFO", MCP, &tool_call(1, "echo")).status(), Some(200));
        let (id, _, body) = world.posted();
        world.input(Input::FlowClosed { conn: edge_core::input::ConnId(1) });
        (id, body)
    });
    alice.flow = stream(Transport::Tls, 2, &["sip:alice@acme.example"]);
    let new_flow = alice.flow.clone();
    fleet.on(1, |world| assert_eq!(alice.ask(world, "INFO", "", "").status(), Some(200)));
    fleet.on(0, |world| world.backend_answers(id, &tool_result(&id_of(&body))));
    assert_eq!(fleet.said(0), Vec::<String>::new());
    let answer = fleet.edges[1].world.request();
    assert_eq!(answer.to, To::Flow(new_flow.key.clone()));
    assert!(text(&answer.message).contains(r#""result""#));
    fleet.on(1, |world| world.reply(&new_flow, &answer.message, 200, ""));
    fleet.advance(40_000);
    fleet.assert_silent();
    assert_eq!(fleet.edges[0].world.core.stats().engine.deliveries, 0);
}

#[test]
fn an_answer_waits_a_little_for_a_peer_without_a_connection() {
    let mut fleet = Fleet::new(2);
    let mut alice = called_by_tls(&mut fleet, 0, 1);
    let (id, body) = fleet.on(0, |world| {
        assert_eq!(alice.ask(world, "INFO", MCP, &tool_call(1, "echo")).status(), Some(200));
        let (id, _, body) = world.posted();
        world.input(Input::FlowClosed { conn: edge_core::input::ConnId(1) });
        (id, body)
    });
    fleet.on(0, |world| world.backend_answers(id, &tool_result(&id_of(&body))));
    // To its Contact first, where nobody listens.
    let tried = fleet.sent(0);
    assert!(matches!(tried[..], [Sent { to: To::Address(..), .. }]), "{tried:?}");
    fleet.on(0, |world| world.input(Input::SendFailed { tag: tried[0].tag.unwrap() }));
    fleet.advance(700);
    for again in fleet.sent(0) {
        fleet.on(0, |world| world.input(Input::SendFailed { tag: again.tag.unwrap() }));
    }
    alice.flow = stream(Transport::Tls, 2, &["sip:alice@acme.example"]);
    fleet.on(1, |world| assert_eq!(alice.ask(world, "INFO", "", "").status(), Some(200)));
    fleet.advance(2_000);
    let answer = fleet.sent(1).into_iter().find(|s| s.message.is_request()).expect("the answer");
    assert!(text(&answer.message).contains(r#""result""#));
}

#[test]
fn a_mesh_that_fails_leaves_the_contact() {
    let mut fleet = Fleet::new(2);
    let mut alice = called_by_tls(&mut fleet, 1, 2);
    // The tool was called at the first edge; the caller went back to its connection to the second one.
    let (id, body) = fleet.on(0, |world| {
        let flow = stream(Transport::Tls, 9, &["sip:alice@acme.example"]);
        let own = std::mem::replace(&mut alice.flow, flow);
        assert_eq!(alice.ask(world, "INFO", MCP, &tool_call(1, "echo")).status(), Some(200));
        alice.flow = own;
        let (id, _, body) = world.posted();
        (id, body)
    });
    fleet.on(1, |world| assert_eq!(alice.ask(world, "INFO", "", "").status(), Some(200)));
    fleet.mesh_is_cut = true;
    fleet.on(0, |world| world.backend_answers(id, &tool_result(&id_of(&body))));
    let tried = fleet.sent(0);
    assert!(tried.iter().any(|s| matches!(s.to, To::Address(..))), "{tried:?}");
}

/// RFC 3261 §13.3.1.4: no ACK came, so BYE. The edge that has the peer's connection is not reached for a while.
#[test]
fn a_bye_goes_out_again_until_the_edge_with_the_connection_is_reached() {
    let mut fleet = Fleet::new(2);
    let mut alice = fleet.on(0, |world| {
        let flow = stream(Transport::Tls, 9, &["sip:alice@acme.example"]);
        let mut alice = Ua::new(world, "alice", &flow, ECHO);
        let (headers, body) = both();
        let response = alice.ask(world, "INVITE", &headers, &body);
        alice.established(&response);
        alice.flow = stream(Transport::Tls, 2, &["sip:alice@acme.example"]);
        alice
    });
    fleet.on(1, |world| assert_eq!(alice.ask(world, "INFO", "", "").status(), Some(200)));
    fleet.mesh_is_cut = true;
    fleet.advance(40_000);
    assert_eq!(fleet.said(1), Vec::<String>::new());
    fleet.sent(0);
    fleet.mesh_is_cut = false;
    fleet.advance(2_000);
    let sent = fleet.sent(1);
    let [bye] = sent.as_slice() else { panic!("one BYE: {sent:?}") };
    assert_eq!((bye.message.cseq().method.as_str(), &bye.to), ("BYE", &To::Flow(FlowKey::Stream(ConnId(2)))));
    fleet.on(1, |world| world.reply(&alice.flow, &bye.message, 200, ""));
    let last = fleet.on(1, |world| alice.ask(world, "OPTIONS", "", ""));
    assert_eq!(last.status(), Some(481));
    fleet.advance(70_000);
    fleet.assert_silent();
    assert_eq!(fleet.edges[0].world.core.stats().client_transactions, 0);
}

/// It never is: the BYE ends with its transaction, and the dialog with it.
#[test]
fn a_bye_that_no_edge_carries_ends_after_64_t1() {
    let mut fleet = Fleet::new(2);
    let mut alice = invited(&mut fleet);
    let flow = stream(Transport::Tls, 2, &["sip:alice@acme.example"]);
    alice.flow = flow;
    fleet.on(1, |world| assert_eq!(alice.ask(world, "INFO", "", "").status(), Some(200)));
    fleet.mesh_is_cut = true;
    fleet.advance(70_000);
    fleet.sent(0);
    fleet.mesh_is_cut = false;
    fleet.advance(10_000);
    fleet.assert_silent();
    assert_eq!(fleet.edges[0].world.core.stats().client_transactions, 0);
    let last = fleet.on(1, |world| alice.ask(world, "OPTIONS", "", ""));
    assert_eq!(last.status(), Some(481));
}

#[test]
fn anonymous_dialogs_are_bound_to_their_flow_at_every_edge_and_end_with_it() {
    let mut config = config();
    change_domain(&mut config, |domain| {
        domain.policies = vec![policy("open", vec![allow("anyone", Some(vec![mcp_sip::policy::Peer::Anonymous]))])];
    });
    let mut fleet = Fleet::with(2, config);
    let flow = udp(5062);
    let mut anonymous = fleet.on(0, |world| {
        let mut ua = Ua::new(world, "stranger", &flow, ECHO);
        let (headers, body) = both();
        ua.call(world, &headers, &body);
        ua
    });
    assert_eq!(fleet.on(1, |world| anonymous.ask(world, "INFO", "", "")).status(), Some(200));
    anonymous.flow = udp(5063);
    assert_eq!(fleet.on(1, |world| anonymous.ask(world, "BYE", "", "")).status(), Some(403));
    anonymous.flow = flow;
    assert_eq!(fleet.on(1, |world| anonymous.ask(world, "BYE", "", "")).status(), Some(200));

    let tls = stream(Transport::Tls, 5, &[]);
    let mut second = fleet.on(0, |world| {
        let mut ua = Ua::new(world, "stranger", &tls, ECHO);
        let (headers, body) = both();
        ua.call(world, &headers, &body);
        ua
    });
    fleet.on(0, |world| world.input(Input::FlowClosed { conn: edge_core::input::ConnId(5) }));
    assert_eq!(fleet.edges[0].world.core.stats().dialogs, 0);
    second.flow = stream(Transport::Tls, 6, &[]);
    let late = fleet.on(1, |world| second.ask(world, "INFO", "", ""));
    assert_eq!(late.status(), Some(481), "{}", header(&late, HeaderId::Warning));
}

#[test]
fn only_the_owner_refreshes_and_a_refresh_at_another_edge_moves_its_timer() {
    let mut fleet = Fleet::new(2);
    let flow = udp(5062);
    let mut alice = fleet.on(0, |world| {
        let mut alice = Ua::new(world, "alice", &flow, ECHO);
        let (headers, body) = both();
        let headers = headers.replace("Supported: mcp, timer", "Supported: mcp");
        alice.call(world, &headers, &body);
        alice
    });
    assert_eq!(fleet.on(1, |world| alice.ask(world, "INFO", "", "")).status(), Some(200));
    fleet.advance(899_000);
    fleet.assert_silent();
    fleet.advance(2_000);
    assert_eq!(fleet.said(1), Vec::<String>::new());
    let update = fleet.sent(0).remove(0);
    assert_eq!(update.message.cseq().method.as_str(), "UPDATE");
    fleet.on(0, |world| world.reply(&flow, &update.message, 200, ""));
    // The peer refreshes at the other edge: the owner's next one is due half an interval after that.
    fleet.advance(600_000);
    let refreshed =
        fleet.on(1, |world| alice.ask(world, "UPDATE", "Supported: timer\r\nSession-Expires: 1800\r\n", ""));
    assert_eq!(refreshed.status(), Some(200), "{}", text(&refreshed));
    fleet.advance(290_000);
    assert_eq!(fleet.said(0), Vec::<String>::new(), "900 s after its own refresh it is not due any more");
    fleet.advance(1_800_000);
    let said = fleet.said(0);
    assert!(said.contains(&"UPDATE".to_owned()) || said.contains(&"BYE".to_owned()), "{said:?}");
    assert_eq!(fleet.said(1), Vec::<String>::new());
}

/// The peer is where it spoke last, whatever it said there.
#[test]
fn a_re_invite_or_update_on_a_new_connection_moves_the_way_back() {
    for method in ["INVITE", "UPDATE"] {
        for edge in [0, 1] {
            let mut fleet = Fleet::new(2);
            let mut alice = called_by_tls(&mut fleet, 0, 1);
            let (id, body) = fleet.on(0, |world| {
                assert_eq!(alice.ask(world, "INFO", MCP, &tool_call(1, "echo")).status(), Some(200));
                let (id, _, body) = world.posted();
                world.input(Input::FlowClosed { conn: edge_core::input::ConnId(1) });
                (id, body)
            });
            alice.flow = stream(Transport::Tls, 2, &["sip:alice@acme.example"]);
            fleet.on(edge, |world| {
                let (headers, body) = if method == "INVITE" { both() } else { Default::default() };
                assert_eq!(alice.ask(world, method, &headers, &body).status(), Some(200), "{method}");
                if method == "INVITE" {
                    alice.send(world, "ACK", "", "");
                }
            });
            fleet.on(0, |world| world.backend_answers(id, &tool_result(&id_of(&body))));
            let answer = fleet.sent(edge).into_iter().find(|sent| sent.message.is_request());
            let answer = answer.unwrap_or_else(|| panic!("{method} at {edge}: nothing came"));
            assert_eq!(answer.to, To::Flow(alice.flow.key.clone()));
            assert!(text(&answer.message).contains(r#""result""#));
        }
    }
}

/// What an edge said of a request: the code of its error, or that it forwarded it.
fn called_tool(fleet: &mut Fleet, edge: usize, alice: &mut Ua, tool: &str) -> Option<i64> {
    let flow = alice.flow.clone();
    fleet.on(edge, |world| assert_eq!(alice.ask(world, "INFO", MCP, &tool_call(1, tool)).status(), Some(200)));
    if !fleet.edges[edge].world.calls.is_empty() {
        let (id, request) = fleet.on(edge, |world| {
            let (id, _, body) = world.posted();
            (id, id_of(&body))
        });
        fleet.on(edge, |world| world.backend_answers(id, &tool_result(&request)));
    }
    let answer = fleet.edges[edge].world.request();
    fleet.on(edge, |world| world.reply(&flow, &answer.message, 200, ""));
    let body: serde_json::Value = serde_json::from_slice(&answer.message.body()).unwrap();
    body["error"]["code"].as_i64()
}

#[test]
fn neg_8_what_was_selected_at_another_edge_is_what_a_call_is_judged_by() {
    let mut fleet = Fleet::new(2);
    let flow = stream(Transport::Tls, 1, &["sip:alice@acme.example"]);
    let mut alice = fleet.on(0, |world| {
        let mut alice = Ua::new(world, "alice", &flow, ECHO);
        let (headers, body) = both();
        alice.call(world, &headers, &body.replace("none@1", "pay@1"));
        alice
    });
    // Both edges have a copy of the dialog.
    assert_eq!(called_tool(&mut fleet, 1, &mut alice, "echo"), None);
    for (selected, other) in [("pay", "echo"), ("echo", "pay")] {
        let select = format!("MCP-Select: tools=\"{selected}@1\"\r\n");
        assert_eq!(fleet.on(0, |world| alice.ask(world, "INFO", &select, "")).status(), Some(200));
        // First what the copy of the second edge still allows, or still denies.
        let denied_first = selected == "pay";
        for tool in if denied_first { [other, selected] } else { [selected, other] } {
            let code = called_tool(&mut fleet, 1, &mut alice, tool);
            assert_eq!(code, (tool == other).then_some(-32602), "{tool} while {selected} is selected");
        }
    }
    assert!(fleet.edges.iter().all(|edge| edge.world.core.stats().engine.exchanges == 0));
}
