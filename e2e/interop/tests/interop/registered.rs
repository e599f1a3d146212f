//! Calls to agents that register themselves, through an edge at which they did not: two edges, one Redis, a mesh.

use crate::harness::fleet::{Fleet, steadily};
use crate::harness::manifests::Manifests;
use crate::harness::raw::{Call, Client, INFO, MCP, Sip, tool_call};
use crate::harness::ring::{across, change, hang_up, plain, reach, sdp, shows, uri, with_mcp};

const DESK: &str = "sip:desk@demo.example";

/// Plays a scenario with a fleet in which `desk` is an agent that registers.
#[track_caller]
fn play(scenario: impl Fn(&mut Fleet)) {
    let more = |manifests: &Manifests| {
        manifests.write(
            "desk.yaml",
            "apiVersion: sipmcp.dev/v1alpha1\nkind: McpAgent\nmetadata: {name: desk}\nspec:\n  \
             address: {user: desk, domainRef: {name: demo}}\n  backend: {sipContact: {authentication: Digest}}\n  \
             capabilities: {source: Declared, tools: [{name: summarize}], schemas: [\"urn:ex:doc:1\"]}\n",
        );
    };
    steadily(more, scenario);
}

fn desk(fleet: &Fleet, edge: usize, transport: &str) -> Option<Client> {
    let edge = &fleet.edges[edge];
    Some(match transport {
        "udp" => Client::udp(edge, Some("desk"), "demo.example"),
        "tcp" => Client::tcp(edge, Some("desk"), "demo.example"),
        _ => Client::tls(edge, Some("desk"), "demo.example")?,
    })
}

fn alice(fleet: &Fleet, edge: usize, transport: &str) -> Client {
    let edge = &fleet.edges[edge];
    let mut alice = match transport {
        "udp" => Client::udp(edge, Some("alice"), "demo.example"),
        _ => Client::tcp(edge, Some("alice"), "demo.example"),
    };
    alice.known();
    alice
}

/// A call with MCP and descriptions that stands; both dialogs.
#[track_caller]
fn call(alice: &mut Client, desk: &mut Client, address: &str) -> (Call, Call) {
    let mut call = Call::to(address);
    let (headers, body) = with_mcp(alice, "alice", "offer", "caller");
    let invite = reach(alice, &mut call, desk, "INVITE", &headers, &body);
    let text = String::from_utf8_lossy(&invite.body).into_owned();
    assert!(shows(&invite, "alice") && text.contains(r#""type":"offer""#), "{text}");
    desk.respond(&invite, "180 Ringing", &format!("Contact: {}\r\n", desk.contact()), "");
    alice.until("180", |message| message.status() == 180);
    let (headers, body) = with_mcp(desk, "desk", "answer", "callee");
    desk.respond(&invite, "200 OK", &headers, &body);
    let response = alice.response(&call, "INVITE");
    let text = String::from_utf8_lossy(&response.body).into_owned();
    assert_eq!(response.status(), 200, "{}", response.start);
    assert!(shows(&response, "desk") && text.contains(r#""type":"answer""#), "{text}");
    alice.established(&mut call, &response);
    desk.rings("ACK");
    (call, Call::answered(&invite))
}

const EXCHANGE: &str = "MCP-Exchange: AAAAAAAAAAAAAAAAAAAAAA;rel=caller\r\n";
const RESULT: &str = r#"{"jsonrpc":"2.0","id":7,"result":{"content":[]}}"#;

/// A tool call of the caller to the agent and the agent's answer, byte for byte.
#[track_caller]
fn exchange(alice: &mut Client, out: &mut Call, desk: &mut Client, back: &mut Call, method: &str, kind: &str) {
    let asked = tool_call(7, "echo", r#"{"text":"hello"}"#);
    let request = across(alice, out, desk, method, &format!("{EXCHANGE}{kind}"), &asked);
    assert_eq!(String::from_utf8_lossy(&request.body), asked);
    assert_eq!(request.header("MCP-Exchange"), "AAAAAAAAAAAAAAAAAAAAAA;rel=caller");
    let answer = across(desk, back, alice, method, &format!("{EXCHANGE}{kind}"), RESULT);
    assert_eq!(String::from_utf8_lossy(&answer.body), RESULT);
}

#[track_caller]
fn assert_over(fleet: &Fleet) {
    for edge in &fleet.edges {
        edge.status_until("no dialog is left", |status| status["counts"]["dialogs"] == 0);
    }
}

#[test]
fn reg_9_a_call_to_an_agent_at_another_edge_both_ways() {
    play(both_ways);
}

fn both_ways(fleet: &mut Fleet) {
    for (transport, callers) in [("udp", "tcp"), ("tls", "udp")] {
        let Some(mut desk) = desk(fleet, 0, transport) else { return };
        desk.register("", "");
        let mut alice = alice(fleet, 1, callers);
        let (mut out, mut back) = call(&mut alice, &mut desk, DESK);
        change(&mut alice, &mut out, &mut desk, "hers");
        change(&mut desk, &mut back, &mut alice, "its");
        exchange(&mut alice, &mut out, &mut desk, &mut back, "INFO", INFO);
        exchange(&mut alice, &mut out, &mut desk, &mut back, "MESSAGE", MCP);
        match transport {
            "udp" => hang_up(&mut alice, &mut out, &mut desk),
            _ => hang_up(&mut desk, &mut back, &mut alice),
        }
        assert_over(fleet);
        // Gone, so that the next one rings alone.
        desk.register(";expires=0", "");
    }
}

/// An INVITE with a description that rings at its first target; nobody waits for its end.
#[track_caller]
fn ring(alice: &mut Client, desk: &mut Client, address: &str, headers: &str) -> (Call, Sip) {
    let mut call = Call::to(address);
    let lines = format!("{headers}{}", plain(alice));
    let body = sdp(alice, "alice");
    let invite = reach(alice, &mut call, desk, "INVITE", &lines, &body);
    (call, invite)
}

/// The answer of a target with its description, down to the ACK.
#[track_caller]
fn pick_up(alice: &mut Client, out: &mut Call, desk: &mut Client, invite: &Sip, label: &str) {
    let (headers, body) = (plain(desk), sdp(desk, label));
    desk.respond(invite, "200 OK", &headers, &body);
    let answer = alice.response(out, "INVITE");
    assert!(shows(&answer, label), "{}", answer.start);
    alice.established(out, &answer);
    desk.rings("ACK");
}

#[test]
fn a_call_is_cancelled_forked_refused_and_goes_to_the_next() {
    play(targets);
}

fn targets(fleet: &mut Fleet) {
    let mut alice = alice(fleet, 1, "tcp");
    let (Some(mut first), Some(mut second)) = (desk(fleet, 0, "udp"), desk(fleet, 0, "tls")) else { return };
    first.register("", "");
    // Nobody picks up: both ends are told.
    let (mut out, invite) = ring(&mut alice, &mut first, DESK, "");
    first.reply(&invite, "180 Ringing");
    alice.until("180", |message| message.status() == 180);
    alice.cancel(&mut out);
    let cancelled = first.incoming("CANCEL");
    assert_eq!(cancelled.header("Call-ID"), invite.header("Call-ID"));
    first.reply(&invite, "487 Request Terminated");
    first.rings("ACK");
    alice.declined(&mut out, 487);
    // Two ring, the first to answer wins, the other one is told to stop.
    let instance = ";+sip.instance=\"<urn:uuid:00000000-0000-4000-8000-000000000002>\"";
    second.register(instance, "");
    let (mut out, here) = ring(&mut alice, &mut first, DESK, "");
    let there = second.rings("INVITE");
    assert_ne!(here.header("Call-ID"), there.header("Call-ID"));
    first.reply(&here, "180 Ringing");
    second.reply(&there, "180 Ringing");
    pick_up(&mut alice, &mut out, &mut second, &there, "second");
    first.incoming("CANCEL");
    first.reply(&here, "487 Request Terminated");
    first.rings("ACK");
    hang_up(&mut alice, &mut out, &mut second);
    // The one that is preferred is busy, the next one takes it.
    first.register(";q=0.9", "");
    second.register(&format!("{instance};q=0.2"), "");
    let (mut out, invite) = ring(&mut alice, &mut first, DESK, "");
    first.reply(&invite, "486 Busy Here");
    first.rings("ACK");
    let invite = second.rings("INVITE");
    pick_up(&mut alice, &mut out, &mut second, &invite, "next");
    hang_up(&mut second, &mut Call::answered(&invite), &mut alice);
    assert_over(fleet);
}

#[test]
fn reg_2_reg_3_reg_8_capabilities_and_gruus_lead_to_an_agent_at_another_edge() {
    play(found);
}

fn found(fleet: &mut Fleet) {
    let Some(mut desk) = desk(fleet, 0, "udp") else { return };
    let mut alice = alice(fleet, 1, "tcp");
    let own = ";+sip.instance=\"<urn:uuid:00000000-0000-4000-8000-000000000003>\"";
    let offers = ";+mcp;+mcp.ver=\"1.0\";+mcp.cap=\"summarize@1,urn:ex:doc:1\"";
    let wanted = "Accept-Contact: *;+mcp.cap=\"summarize@1\";require;explicit\r\n";
    // From the moment of its 200 it is found, at the other edge, too.
    let granted = desk.register(&format!("{own}{offers}"), "Supported: gruu\r\n");
    assert!(granted.header("Contact").contains(offers), "{}", granted.header("Contact"));
    let (mut out, invite) = ring(&mut alice, &mut desk, "sip:demo.example", wanted);
    assert_eq!(uri(invite.header("To")), DESK);
    // In the dialog it is its GRUU.
    let gruu = granted.header("Contact").split("pub-gruu=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    let body = sdp(&desk, "desk");
    desk.respond(&invite, "200 OK", &format!("Contact: <{gruu}>\r\nContent-Type: application/sdp\r\n"), &body);
    let answer = alice.response(&out, "INVITE");
    assert_eq!(answer.status(), 200, "{}", answer.start);
    alice.established(&mut out, &answer);
    desk.rings("ACK");
    across(&mut alice, &mut out, &mut desk, "INFO", "Content-Type: text/plain\r\n", "one");
    hang_up(&mut alice, &mut out, &mut desk);
    // Called by it.
    let (mut out, invite) = ring(&mut alice, &mut desk, gruu, "");
    desk.reply(&invite, "603 Decline");
    desk.rings("ACK");
    alice.declined(&mut out, 603);
    // What it no longer offers it is not called for.
    desk.register(&format!("{own};+mcp"), "");
    alice.is_declined("sip:demo.example", wanted, 404);
}

#[test]
fn a_call_goes_on_when_the_edge_that_set_it_up_is_killed() {
    play(killed);
}

fn killed(fleet: &mut Fleet) {
    // One agent beyond the edge that stays, one that had registered at the edge that dies.
    let (Some(mut stays), Some(mut moves)) = (desk(fleet, 0, "tls"), desk(fleet, 1, "udp")) else { return };
    let (mut alice, mut bob) = (alice(fleet, 1, "udp"), alice(fleet, 1, "udp"));
    stays.register("", "");
    let (mut out, mut back) = call(&mut alice, &mut stays, DESK);
    stays.register(";expires=0", "");
    moves.register("", "");
    let (mut other, mut other_back) = call(&mut bob, &mut moves, DESK);
    fleet.edges[1].program.kill();
    for client in [&mut alice, &mut bob, &mut moves] {
        client.towards(&fleet.edges[0]);
    }
    for (caller, out, agent, back) in
        [(&mut alice, &mut out, &mut stays, &mut back), (&mut bob, &mut other, &mut moves, &mut other_back)]
    {
        exchange(caller, out, agent, back, "INFO", INFO);
        change(agent, back, caller, "after");
    }
    hang_up(&mut alice, &mut out, &mut stays);
    hang_up(&mut moves, &mut other_back, &mut bob);
    fleet.edges[0].status_until("nothing is left", |status| status["counts"]["dialogs"] == 0);
}

#[test]
fn xch_1_a_message_out_of_a_dialog_reaches_an_agent_at_another_edge_and_its_answer_comes_back() {
    play(paged);
}

fn paged(fleet: &mut Fleet) {
    for (transport, callers) in [("udp", "tcp"), ("tls", "udp")] {
        let Some(mut desk) = desk(fleet, 0, transport) else { return };
        let mut alice = alice(fleet, 1, callers);
        desk.register("", "");
        // Its answer is a message of its own, and finds her where she registered.
        alice.register("", "");
        let asked = tool_call(7, "echo", r#"{"text":"hello"}"#);
        let (mut to_desk, mut to_alice) = (Call::to(DESK), Call::to("sip:alice@demo.example"));
        let headers = format!("{EXCHANGE}{MCP}");
        let request = across(&mut alice, &mut to_desk, &mut desk, "MESSAGE", &headers, &asked);
        assert_eq!(String::from_utf8_lossy(&request.body), asked);
        assert_eq!(request.header("MCP-Exchange"), "AAAAAAAAAAAAAAAAAAAAAA;rel=caller");
        let answer = across(&mut desk, &mut to_alice, &mut alice, "MESSAGE", &headers, RESULT);
        assert_eq!(String::from_utf8_lossy(&answer.body), RESULT);
        across(&mut alice, &mut Call::to(DESK), &mut desk, "OPTIONS", "", "");
        desk.register(";expires=0", "");
        alice.register(";expires=0", "");
    }
}
