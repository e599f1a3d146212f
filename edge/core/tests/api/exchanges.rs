//! Exchanges over SIP: many in flight while each side has one request open, and what is sent again.

use edge_core::input::BackendId;
use sip_proto::message::HeaderId;

use crate::calls::tls_call;
use crate::driver::*;

fn exchange(n: usize) -> String {
    format!("MCP-Exchange: xxxxxxxxxxxxxxxxxxx{n:04};rel=caller\r\n")
}

/// 128 and 1000 calls in flight in one dialog. Neither side ever has more than one SIP request open, which is why they cannot overtake
/// each other; the results come in the order in which the tools are done.
#[test]
fn xch_6_many_calls_in_flight_and_one_sip_request_open() {
    for count in [128_usize, 1000] {
        let mut config = config();
        config.edge.limits.in_flight_per_session = count;
        let mut world = World::new(config);
        let (mut alice, _) = tls_call(&mut world);
        let flow = alice.flow.clone();
        let mut running: Vec<(BackendId, String)> = Vec::new();
        for n in 0..count {
            let headers = format!("{}{MCP}", exchange(n));
            let response = alice.ask(&mut world, "INFO", &headers, &tool_call(n as u64, "echo"));
            assert_eq!(response.status(), Some(200));
            let (id, _, body) = world.posted();
            running.push((id, body));
        }
        assert_eq!(world.core.stats().engine.exchanges, count);
        assert_eq!(world.core.stats().client_transactions, 0);
        // One more is an error in its exchange, not of the dialog.
        let headers = format!("{}{MCP}", exchange(count));
        let response = alice.ask(&mut world, "INFO", &headers, &tool_call(count as u64, "echo"));
        assert_eq!(response.status(), Some(200));
        let limited = world.request();
        assert!(text(&limited.message).contains("-31002"), "{}", text(&limited.message));
        world.reply(&flow, &limited.message, 200, "");
        let mut cseq = limited.message.cseq().seq;
        // 7 has no divisor in common with 128 or with 1000.
        for step in 0..count {
            let n = step * 7 % count;
            let (id, body) = &running[n];
            world.backend_answers(*id, &tool_result(&id_of(body)));
            let answer = world.request();
            assert_eq!(id_of(&String::from_utf8(answer.message.body().to_vec()).unwrap()), n.to_string());
            assert_eq!(header(&answer.message, HeaderId::McpExchange), exchange(n)[14..].trim_end());
            assert!(answer.message.cseq().seq > cseq, "CSeq rises");
            cseq = answer.message.cseq().seq;
            world.reply(&flow, &answer.message, 200, "");
        }
        assert_eq!(world.core.stats().engine.exchanges, 0);
        world.assert_silent();
    }
}

/// RFC 3261 §12.2.2: another request of this dialog overtook ours on its way.
#[test]
fn xch_4_an_overtaken_answer_goes_again_with_a_fresh_cseq_and_the_same_exchange() {
    let mut world = World::new(config());
    let (mut alice, _) = tls_call(&mut world);
    let flow = alice.flow.clone();
    let headers = format!("{}{MCP}", exchange(1));
    assert_eq!(alice.ask(&mut world, "INFO", &headers, &tool_call(1, "echo")).status(), Some(200));
    let (id, _, body) = world.posted();
    world.backend_answers(id, &tool_result(&id_of(&body)));
    let mut last = world.request();
    for _ in 0..3 {
        world.reply(&flow, &last.message, 500, "");
        world.advance(400);
        let again = world.request();
        assert!(again.message.cseq().seq > last.message.cseq().seq);
        assert_eq!(again.message.cseq().method, last.message.cseq().method, "the same carrier");
        assert_eq!(again.message.body(), last.message.body());
        assert_eq!(header(&again.message, HeaderId::McpExchange), header(&last.message, HeaderId::McpExchange));
        last = again;
    }
    world.reply(&flow, &last.message, 200, "");
    world.advance(64_000);
    world.assert_silent();
    assert_eq!(world.core.stats().engine.deliveries, 0);
}

#[test]
fn a_peer_that_says_503_and_when_is_asked_then() {
    let mut world = World::new(config());
    let (mut alice, _) = tls_call(&mut world);
    let flow = alice.flow.clone();
    assert_eq!(alice.ask(&mut world, "INFO", MCP, &tool_call(1, "echo")).status(), Some(200));
    let (id, _, body) = world.posted();
    world.backend_answers(id, &tool_result(&id_of(&body)));
    let first = world.request();
    world.reply(&flow, &first.message, 503, "Retry-After: 3 (overload)\r\n");
    world.advance(2_900);
    world.assert_silent();
    world.advance(200);
    let again = world.request();
    assert_eq!(again.message.body(), first.message.body());
    world.reply(&flow, &again.message, 200, "");
    world.assert_silent();
}
