//! Binding 5.2 and 5.3: both relations, with the header field and without.

use mcp_sip::era::Era;
use mcp_sip::exchange::{
    Belongs, Channel, DropReason, Exchange, ExchangeId, McpExchange, Party, Rejected, Relation, RelationTable, Side,
};
use mcp_sip::jsonrpc::{Envelope, RawId};

use crate::{exchange, message};

fn req(id: &str, method: &str) -> Envelope {
    message(format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}"}}"#))
}

fn req_with_token(id: &str, token: &str) -> Envelope {
    message(format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"a","_meta":{{"progressToken":{token}}}}}}}"#
    ))
}

fn result(id: &str) -> Envelope {
    message(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#))
}

fn note(method: &str, params: &str) -> Envelope {
    message(format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{params}}}"#))
}

fn progress(token: &str) -> Envelope {
    note("notifications/progress", &format!(r#"{{"progressToken":{token},"progress":1}}"#))
}

fn cancelled(id: &str) -> Envelope {
    note("notifications/cancelled", &format!(r#"{{"requestId":{id}}}"#))
}

fn log() -> Envelope {
    note("notifications/message", r#"{"level":"info","data":"x"}"#)
}

fn table(era: Era) -> RelationTable {
    RelationTable::new(Relation::Caller, Some(era), 128)
}

/// A message with the header of exchange `n`.
fn named(table: &mut RelationTable, from: Side, n: u8, message: &Envelope) -> Result<Belongs, Rejected> {
    table.admit(from, Some(Exchange::Id(exchange(n))), message, exchange(255))
}

fn bare(table: &mut RelationTable, from: Side, fresh: u8, message: &Envelope) -> Result<Belongs, Rejected> {
    table.admit(from, None, message, exchange(fresh))
}

fn within(n: u8) -> Result<Belongs, Rejected> {
    Ok(Belongs::Within(Exchange::Id(exchange(n))))
}

fn dropped(reason: DropReason) -> Result<Belongs, Rejected> {
    Err(Rejected::Drop(reason))
}

fn refusal_code(outcome: Result<Belongs, Rejected>) -> i64 {
    match outcome {
        Err(Rejected::Refuse(error)) => error.code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn xch_exchange_ids_have_128_random_bits() {
    let id = ExchangeId::from_random(&[0xfb; 16]);
    assert_eq!(id.as_str(), "-_v7-_v7-_v7-_v7-_v7-w");
    assert_eq!(id.as_str().parse::<ExchangeId>(), Ok(id));
    assert_eq!(format!("{id:?}"), "ExchangeId(-_v7-_v7-_v7-_v7-_v7-w)");
}

#[test]
fn xch_one_exchange_from_request_to_answer() {
    let mut table = table(Era::Legacy);
    assert_eq!(named(&mut table, Side::Client, 1, &req_with_token("7", "\"t\"")), Ok(Belongs::Opened(exchange(1))));
    assert_eq!(table.exchange_of(&RawId::number(7)), Some(exchange(1)));
    assert_eq!(table.id_of(exchange(1)).unwrap().as_str(), "7");
    assert_eq!(named(&mut table, Side::Server, 1, &progress("\"t\"")), within(1));
    assert_eq!(named(&mut table, Side::Server, 1, &log()), within(1));
    assert_eq!(named(&mut table, Side::Server, 1, &req("0", "elicitation/create")), within(1));
    assert_eq!(named(&mut table, Side::Client, 1, &result("0")), within(1));
    assert_eq!(named(&mut table, Side::Server, 1, &result("7")), Ok(Belongs::Answered(exchange(1))));
    assert_eq!((table.in_flight(), table.nested_in_flight()), (0, 0));
    assert_eq!(named(&mut table, Side::Server, 1, &log()), dropped(DropReason::Unknown), "nothing after the answer");
    assert_eq!(named(&mut table, Side::Server, 1, &result("7")), dropped(DropReason::Unknown), "no second answer");
}

#[test]
fn xch_session_is_for_what_belongs_to_no_request() {
    let mut table = table(Era::Legacy);
    let mut session = |from, message: &Envelope| table.admit(from, Some(Exchange::Session), message, exchange(9));
    let fine = Ok(Belongs::Within(Exchange::Session));
    assert_eq!(session(Side::Client, &note("notifications/initialized", "{}")), fine);
    assert_eq!(session(Side::Server, &note("notifications/tools/list_changed", "{}")), fine);
    assert_eq!(session(Side::Server, &req("1", "roots/list")), fine);
    assert_eq!(session(Side::Client, &result("1")), fine);
    assert_eq!(refusal_code(session(Side::Client, &req("1", "tools/list"))), -32600);
}

#[test]
fn xch_without_the_header_ids_and_tokens_tell() {
    let mut table = table(Era::Legacy);
    assert_eq!(bare(&mut table, Side::Client, 1, &req_with_token("1", "10")), Ok(Belongs::Opened(exchange(1))));
    assert_eq!(bare(&mut table, Side::Client, 2, &req_with_token("\"1\"", "\"10\"")), Ok(Belongs::Opened(exchange(2))));
    assert_eq!(bare(&mut table, Side::Server, 9, &progress("10")), within(1));
    assert_eq!(bare(&mut table, Side::Server, 9, &progress("\"10\"")), within(2), "string and number differ");
    assert_eq!(bare(&mut table, Side::Server, 9, &progress("\"\\u0031\\u0030\"")), within(2), "spelling does not");
    assert_eq!(bare(&mut table, Side::Server, 9, &log()), Ok(Belongs::Within(Exchange::Session)));
    assert_eq!(bare(&mut table, Side::Server, 9, &progress("11")), dropped(DropReason::Unknown));
    assert_eq!(bare(&mut table, Side::Client, 9, &cancelled("1")), Ok(Belongs::Cancelled(exchange(1))));
    assert_eq!(bare(&mut table, Side::Server, 9, &result("1")), dropped(DropReason::Unknown), "too late");
    assert_eq!(bare(&mut table, Side::Server, 9, &result("\"1\"")), Ok(Belongs::Answered(exchange(2))));
}

#[test]
fn xch_without_the_header_what_is_ambiguous_is_dropped() {
    let mut table = table(Era::Legacy);
    for n in 1..=2 {
        bare(&mut table, Side::Client, n, &req_with_token(&n.to_string(), "\"same\"")).unwrap();
    }
    assert_eq!(bare(&mut table, Side::Server, 9, &progress("\"same\"")), dropped(DropReason::Ambiguous));
    assert_eq!(named(&mut table, Side::Server, 2, &progress("\"same\"")), within(2), "with the header it is not");
}

#[test]
fn sec_12_a_contradiction_is_refused_or_dropped() {
    for (era, code) in [(Era::Modern, -32020), (Era::Legacy, -32600)] {
        let mut table = table(era);
        named(&mut table, Side::Client, 1, &req_with_token("1", "\"t\"")).unwrap();
        named(&mut table, Side::Client, 2, &req("2", "tools/list")).unwrap();
        assert_eq!(
            refusal_code(named(&mut table, Side::Client, 1, &req("3", "tools/list"))),
            code,
            "another's exchange"
        );
        assert_eq!(named(&mut table, Side::Server, 2, &result("1")), dropped(DropReason::Contradiction));
        assert_eq!(named(&mut table, Side::Server, 2, &progress("\"t\"")), dropped(DropReason::Contradiction));
        assert_eq!(named(&mut table, Side::Client, 2, &cancelled("1")), dropped(DropReason::Contradiction));
        let session = table.admit(Side::Server, Some(Exchange::Session), &result("1"), exchange(9));
        assert_eq!(session, dropped(DropReason::Contradiction));
        assert_eq!(table.in_flight(), 2, "nothing changed");
    }
    let mut table = table(Era::Legacy);
    assert_eq!(refusal_code(named(&mut table, Side::Server, 5, &req("1", "ping"))), -32600, "in no open exchange");
}

#[test]
fn xch_a_repetition_is_recognised() {
    let mut table = table(Era::Modern);
    named(&mut table, Side::Client, 1, &req("1", "tools/list")).unwrap();
    assert_eq!(named(&mut table, Side::Client, 1, &req("1", "tools/list")), Ok(Belongs::Repeated(exchange(1))));
    assert_eq!(bare(&mut table, Side::Client, 7, &req("1", "tools/list")), Ok(Belongs::Repeated(exchange(1))));
    assert_eq!(refusal_code(named(&mut table, Side::Client, 2, &req("1", "tools/list"))), -32600, "the id is in use");
    assert_eq!(table.in_flight(), 1);
}

#[test]
fn xch_6_in_flight_is_bounded_at_128() {
    let mut table = table(Era::Legacy);
    for n in 0..128u8 {
        named(&mut table, Side::Client, n, &req(&n.to_string(), "tools/list")).unwrap();
    }
    assert_eq!(refusal_code(named(&mut table, Side::Client, 200, &req("200", "tools/list"))), -31002);
    assert_eq!(named(&mut table, Side::Server, 50, &result("50")), Ok(Belongs::Answered(exchange(50))), "any order");
    assert!(named(&mut table, Side::Client, 200, &req("200", "tools/list")).is_ok());
    for n in 0..128 {
        bare(&mut table, Side::Server, 255, &req(&n.to_string(), "ping")).unwrap();
    }
    assert_eq!(refusal_code(bare(&mut table, Side::Server, 255, &req("999", "ping"))), -31002);
    assert_eq!(table.clear().len(), 128);
    assert_eq!((table.in_flight(), table.nested_in_flight()), (0, 0));
}

#[test]
fn xch_a_modern_server_sends_no_requests() {
    let mut table = table(Era::Modern);
    named(&mut table, Side::Client, 1, &req("1", "tools/call")).unwrap();
    assert_eq!(refusal_code(named(&mut table, Side::Server, 1, &req("5", "elicitation/create"))), -32600);
}

#[test]
fn xch_listen_streams() {
    let mut table = table(Era::Modern);
    named(&mut table, Side::Client, 1, &req("\"l\"", "subscriptions/listen")).unwrap();
    named(&mut table, Side::Client, 2, &req("2", "tools/list")).unwrap();
    let changed =
        note("notifications/tools/list_changed", r#"{"_meta":{"io.modelcontextprotocol/subscriptionId":"l"}}"#);
    assert_eq!(bare(&mut table, Side::Server, 9, &changed), within(1));
    assert_eq!(named(&mut table, Side::Server, 1, &changed), within(1));
    assert_eq!(named(&mut table, Side::Server, 2, &changed), dropped(DropReason::Contradiction));
    assert_eq!(bare(&mut table, Side::Server, 9, &cancelled("2")), dropped(DropReason::Unknown), "not its request");
    assert_eq!(bare(&mut table, Side::Server, 9, &cancelled("\"l\"")), Ok(Belongs::Cancelled(exchange(1))));
}

#[test]
fn xch_closing_an_exchange_takes_its_nested_requests() {
    let mut table = table(Era::Legacy);
    named(&mut table, Side::Client, 1, &req("1", "tools/call")).unwrap();
    named(&mut table, Side::Server, 1, &req("0", "sampling/createMessage")).unwrap();
    assert_eq!(
        named(&mut table, Side::Server, 1, &cancelled("0")),
        Ok(Belongs::CancelledNested(Exchange::Id(exchange(1))))
    );
    named(&mut table, Side::Server, 1, &req("0", "sampling/createMessage")).unwrap();
    assert!(table.close(exchange(1)) && !table.close(exchange(1)));
    assert_eq!(table.nested_in_flight(), 0);
    assert_eq!(named(&mut table, Side::Client, 1, &result("0")), dropped(DropReason::Unknown));
}

fn legacy_channel() -> Channel {
    let mut channel = Channel::default();
    channel.relation_mut(Relation::Caller).set_era(Era::Legacy);
    channel
}

#[test]
fn xch_5_either_side_may_call() {
    let mut channel = legacy_channel();
    channel.relation_mut(Relation::Callee).set_era(Era::Legacy);
    // The same id in both relations: ids are per sender.
    let header = |n, relation| McpExchange::new(Exchange::Id(exchange(n)), relation);
    let from_caller = header(1, Relation::Caller);
    let from_callee = header(2, Relation::Callee);
    let call = req("1", "tools/call");
    let opened = channel.admit(Party::Caller, Some(&from_caller), &call, exchange(9));
    assert_eq!(opened, Ok((Relation::Caller, Belongs::Opened(exchange(1)))));
    let opened = channel.admit(Party::Callee, Some(&from_callee), &call, exchange(9));
    assert_eq!(opened, Ok((Relation::Callee, Belongs::Opened(exchange(2)))));
    // Answers without the header: each is for the one who asked.
    let answered = channel.admit(Party::Caller, None, &result("1"), exchange(9));
    assert_eq!(answered, Ok((Relation::Callee, Belongs::Answered(exchange(2)))));
    let answered = channel.admit(Party::Callee, None, &result("1"), exchange(9));
    assert_eq!(answered, Ok((Relation::Caller, Belongs::Answered(exchange(1)))));
}

#[test]
fn xch_5_relations_without_the_header() {
    let mut channel = legacy_channel();
    let mut place = |sender, n, message: &Envelope| channel.admit(sender, None, message, exchange(n));
    assert_eq!(
        place(Party::Caller, 1, &req_with_token("1", "1")),
        Ok((Relation::Caller, Belongs::Opened(exchange(1))))
    );
    let session = Ok((Relation::Caller, Belongs::Within(Exchange::Session)));
    for method in ["elicitation/create", "roots/list", "ping"] {
        assert_eq!(place(Party::Callee, 9, &req("1", method)), session, "{method}: the legacy server asks");
        assert_eq!(place(Party::Caller, 9, &result("1")), session);
    }
    assert_eq!(place(Party::Callee, 9, &log()), session);
    assert_eq!(place(Party::Callee, 9, &progress("1")).unwrap().1, Belongs::Within(Exchange::Id(exchange(1))));
    assert_eq!(place(Party::Caller, 9, &note("notifications/initialized", "{}")), session);
    assert_eq!(place(Party::Callee, 9, &note("acme/event", "{}")), session, "one relation is in use");
    assert_eq!(place(Party::Callee, 2, &req("5", "tools/call")), Ok((Relation::Callee, Belongs::Opened(exchange(2)))));
    assert_eq!(place(Party::Callee, 9, &cancelled("5")), Ok((Relation::Callee, Belongs::Cancelled(exchange(2)))));
    assert_eq!(place(Party::Callee, 9, &cancelled("77")), Err(Rejected::Drop(DropReason::Unknown)));
    assert_eq!(channel.dropped(), 1);
}

#[test]
fn xch_5_an_unknown_notification_in_two_relations_is_dropped() {
    let mut channel = legacy_channel();
    channel.relation_mut(Relation::Callee).set_era(Era::Legacy);
    let placed = channel.admit(Party::Callee, None, &note("acme/event", "{}"), exchange(9));
    assert_eq!(placed, Err(Rejected::Drop(DropReason::Ambiguous)));
    let header = McpExchange::new(Exchange::Session, Relation::Caller);
    assert!(channel.admit(Party::Callee, Some(&header), &note("acme/event", "{}"), exchange(9)).is_ok());
    assert_eq!(channel.dropped(), 1);
}
