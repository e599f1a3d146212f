//! `notifications/cancelled` that comes to another edge than the one that serves the request (mcp.md 5.6).

use edge_core::input::BackendId;

use crate::any_edge::called;
use crate::driver::*;
use crate::fleet::Fleet;

const EXCHANGE: &str = "MCP-Exchange: xxxxxxxxxxxxxxxxxxxxxx;rel=caller\r\n";

fn cancelled(id: u64) -> String {
    format!(r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id}}}}}"#)
}

/// A tool runs at the first edge.
fn running(fleet: &mut Fleet, in_dialog: bool, headers: &str) -> (Ua, &'static str, BackendId, String) {
    let (mut alice, method) = match in_dialog {
        true => (called(fleet), "INFO"),
        false => (fleet.on(0, |world| Ua::new(world, "alice", &udp(5062), crate::calls::ECHO)), "MESSAGE"),
    };
    let (id, body) = fleet.on(0, |world| {
        assert_eq!(alice.ask(world, method, headers, &tool_call(1, "echo")).status(), Some(200));
        let (id, _, body) = world.posted();
        (id, body)
    });
    (alice, method, id, body)
}

#[test]
fn a_cancellation_at_another_edge_ends_the_request_where_it_is_served() {
    for (in_dialog, header) in [(true, true), (true, false), (false, true)] {
        let mut fleet = Fleet::new(3);
        let headers = if header { format!("{EXCHANGE}{MCP}") } else { MCP.to_owned() };
        let (mut alice, method, id, _) = running(&mut fleet, in_dialog, &headers);
        let status = fleet.on(1, |world| alice.ask(world, method, &headers, &cancelled(1))).status();
        assert_eq!(status, Some(200));
        assert_eq!(fleet.edges[0].world.cancelled, [id], "in a dialog: {in_dialog}, with MCP-Exchange: {header}");
        assert_eq!(fleet.edges[0].world.core.stats().engine.exchanges, 0);
        fleet.advance(60_000);
        fleet.assert_silent();
        assert!(fleet.edges.iter().all(|edge| edge.world.calls.is_empty()));
    }
}

#[test]
fn a_cancellation_of_another_exchange_ends_nothing() {
    let mut fleet = Fleet::new(2);
    let headers = format!("{EXCHANGE}{MCP}");
    let (mut alice, method, id, body) = running(&mut fleet, true, &headers);
    let other = headers.replace("xxx", "yyy");
    assert_eq!(fleet.on(1, |world| alice.ask(world, method, &other, &cancelled(1))).status(), Some(200));
    assert_eq!(fleet.on(1, |world| alice.ask(world, method, &headers, &cancelled(2))).status(), Some(200));
    assert!(fleet.edges[0].world.cancelled.is_empty());
    fleet.on(0, |world| world.backend_answers(id, &tool_result(&id_of(&body))));
    assert_eq!(fleet.said(0), ["INFO"], "its answer comes");
}

#[test]
fn what_was_taken_back_is_not_run_again_by_whoever_adopts_it() {
    for (in_dialog, receiver_dies) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut fleet = Fleet::new(3);
        let headers = format!("{EXCHANGE}{MCP}");
        let (mut alice, method, ..) = running(&mut fleet, in_dialog, &headers);
        fleet.kill(0);
        assert_eq!(fleet.on(1, |world| alice.ask(world, method, &headers, &cancelled(1))).status(), Some(200));
        if receiver_dies {
            fleet.kill(1);
        }
        fleet.advance(60_000);
        for edge in &fleet.edges[if receiver_dies { 2 } else { 1 }..] {
            assert!(edge.world.calls.is_empty(), "in a dialog: {in_dialog}: {:?}", edge.world.calls);
            edge.world.assert_silent();
            assert_eq!(edge.world.core.stats().engine.exchanges, 0);
        }
        // A later request is another one, by whatever name.
        let status = fleet.on(2, |world| alice.ask(world, method, &headers, &tool_call(1, "echo"))).status();
        assert_eq!(status, Some(200));
        assert_eq!(fleet.edges[2].world.calls.len(), 1);
    }
}
