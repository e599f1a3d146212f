//! MESSAGE out of a dialog.

use sip_proto::message::HeaderId;

use crate::driver::*;

const ECHO: &str = "sip:echo@acme.example";

#[test]
fn xch_1_message_out_of_a_dialog_over_udp_with_digest_is_answered_by_a_message() {
    let mut world = World::new(config());
    let flow = udp(5062);
    let mut alice = Ua::new(&mut world, "alice", &flow, ECHO);
    let response = alice.ask(&mut world, "MESSAGE", MCP, &tool_call(1, "echo"));
    assert_eq!(response.status(), Some(200), "{}", text(&response));
    assert!(response.body().is_empty());
    assert!(response.contacts().iter().next().is_none());
    let (id, call, body) = world.posted();
    assert_eq!(call.agent, "default/echo");
    assert!(body.contains("tools/call"));
    world.backend_answers(id, &tool_result(&id_of(&body)));
    let answer = world.request();
    assert_eq!(answer.to, To::Flow(flow.key.clone()));
    assert_eq!(answer.message.cseq().method.as_str(), "MESSAGE");
    assert_eq!(answer.message.request_uri(), Some("sip:alice@acme.example"));
    assert_eq!(header(&answer.message, HeaderId::ContentType), "application/mcp+json");
    assert_eq!(header(&answer.message, HeaderId::InReplyTo), alice.call_id);
    let answered: serde_json::Value = serde_json::from_slice(&answer.message.body()).unwrap();
    assert_eq!(answered["id"], 1);
    assert_eq!(answered["result"]["content"][0]["text"], "hi");
    world.reply(&flow, &answer.message, 200, "");
    world.advance(64_000);
    world.assert_silent();
    assert_eq!(world.core.stats().client_transactions, 0);
    assert_eq!(world.core.stats().server_transactions, 0);
}
