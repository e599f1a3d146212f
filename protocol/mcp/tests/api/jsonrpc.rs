use bytes::Bytes;
use mcp_sip::errors::RpcError;
use mcp_sip::jsonrpc::{
    Bounds, Envelope, Fault, IdError, Kind, Mirror, RawId, error_response, notification, request, response,
};
use serde_json::json;

use crate::message;

fn fault(text: &str) -> Fault {
    fault_in(text, &Bounds::default())
}

fn fault_in(text: &str, bounds: &Bounds) -> Fault {
    match Envelope::parse(&Bytes::copy_from_slice(text.as_bytes()), bounds) {
        Ok(_) => panic!("accepted: {text}"),
        Err(refused) => refused.fault,
    }
}

/// `text` with `MEMBERS` between the version and the closing brace.
fn with(members: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0",{members}}}"#)
}

#[test]
fn neg_10_the_four_kinds() {
    for (text, kind) in [
        (r#""id":1,"method":"tools/list""#, Kind::Request),
        (r#""method":"notifications/initialized""#, Kind::Notification),
        (r#""id":"a","result":{}"#, Kind::Response),
        (r#""id":-7,"result":null"#, Kind::Response),
        (r#""id":1,"error":{"code":-32601,"message":"no"}"#, Kind::Error),
    ] {
        let text = with(text);
        let envelope = message(text.as_str());
        assert_eq!(envelope.kind(), kind);
        assert_eq!(envelope.bytes(), text.as_bytes(), "the bytes as they came");
    }
}

#[test]
fn neg_10_the_message_of_the_draft() {
    let text = r#"{ "jsonrpc": "2.0", "id": 101, "method": "tools/call", "params": {"name":"summarize","arguments": {"text":"..."}} }"#;
    let envelope = message(text);
    assert_eq!(envelope.id().unwrap().as_str(), "101");
    assert_eq!(envelope.method(), Some("tools/call"));
    assert_eq!(envelope.tool().as_deref(), Some("summarize"));
    assert_eq!(envelope.params().unwrap(), r#"{"name":"summarize","arguments": {"text":"..."}}"#);
    assert_eq!(envelope.arguments().unwrap(), r#"{"text":"..."}"#);
}

#[test]
fn neg_10_a_modern_request_shows_what_is_needed() {
    let envelope = message(with(
        r#""id":1,"method":"resources/read","params":{"uri":"file:///a?b=1","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"roots":{}},"progressToken":"p","traceparent":"00-ab-cd-01"}}"#,
    ));
    assert_eq!(envelope.uri().as_deref(), Some("file:///a?b=1"));
    assert_eq!(envelope.subject(), envelope.uri());
    assert_eq!(envelope.meta_protocol_version().as_deref(), Some("2026-07-28"));
    assert_eq!(envelope.meta_client_capabilities().unwrap(), r#"{"roots":{}}"#);
    assert_eq!(envelope.meta_progress_token().unwrap().as_str(), "\"p\"");
    assert_eq!(envelope.traceparent().as_deref(), Some("00-ab-cd-01"));
    assert_eq!(envelope.tool(), None, "no tools/call");
}

#[test]
fn neg_10_answers_show_what_is_needed() {
    let done = message(with(r#""id":1,"result":{"resultType":"input_required","protocolVersion":"2025-06-18"}"#));
    assert_eq!(done.result_type().as_deref(), Some("input_required"));
    assert_eq!(done.result_protocol_version().as_deref(), Some("2025-06-18"));
    let failed = message(with(r#""id":1,"error":{"code":-31003,"message":"no\u0021","data":[1]}"#));
    assert_eq!((failed.error_code(), failed.error_message().as_deref()), (Some(-31003), Some("no!")));
    assert_eq!(failed.error_data().unwrap(), "[1]");
    assert_eq!(done.error_code(), None);
}

#[test]
fn neg_10_unknown_members_and_methods_survive() {
    let text =
        with(r#""id":1,"x":{"jsonrpc":1},"method":"acme/do","params":{"deep":[{"name":1}],"y":1e400},"z":"\ud800""#);
    assert_eq!(message(text.as_str()).bytes(), text.as_bytes());
}

#[test]
fn neg_11_escapes_are_seen_through() {
    // What policy judges must be what the backend reads.
    let envelope =
        message(r#"{"jsonrpc":"\u0032.0","id":1,"\u006dethod":"tools\/call","params":{"n\u0061me":"\u0065cho"}}"#);
    assert_eq!(envelope.method(), Some("tools/call"));
    assert_eq!(envelope.tool().as_deref(), Some("echo"));
    assert_eq!(fault(&with(r#""id":1,"method":"a","m\u0065thod":"b""#)), Fault::Duplicate("method"));
    assert_eq!(fault(&with(r#""id":1,"method":"a","params":{"name":"a","n\u0061me":"b"}"#)), Fault::Duplicate("name"));
    assert_eq!(fault(&with(r#""id":1,"method":"\ud800""#)), Fault::Method);
    assert_eq!(fault(&with(r#""id":1,"method":"a","\udc00":1"#)), Fault::MemberName);
}

#[test]
fn sec_10_duplicate_members_are_refused() {
    for (text, member) in [
        (r#""id":1,"method":"a","id":2"#, "id"),
        (r#""id":1,"method":"a","method":"b""#, "method"),
        (r#""id":1,"method":"a","params":{},"params":{}"#, "params"),
        (r#""id":1,"result":{},"result":{}"#, "result"),
        (r#""id":1,"method":"a","jsonrpc":"2.0""#, "jsonrpc"),
        (r#""id":1,"method":"tools/call","params":{"name":"a","name":"b"}"#, "name"),
        (r#""id":1,"method":"resources/read","params":{"uri":"a","uri":"b"}"#, "uri"),
        (r#""id":1,"method":"a","params":{"_meta":{},"_meta":{}}"#, "_meta"),
        (r#""id":1,"result":{"resultType":"a","resultType":"b"}"#, "resultType"),
        (r#""id":1,"error":{"code":1,"message":"a","code":2}"#, "code"),
    ] {
        assert_eq!(fault(&with(text)), Fault::Duplicate(member), "{text}");
    }
    assert_eq!(fault(&with(r#""id":1,"method":"a","x":1,"x":1"#)), Fault::DuplicateOther);
    let meta = r#""id":1,"method":"a","params":{"_meta":{"progressToken":1,"progressToken":2}}"#;
    assert_eq!(fault(&with(meta)), Fault::Duplicate("progressToken"));
}

#[test]
fn sec_10_a_member_in_another_letter_case_beside_it_is_a_duplicate() {
    // encoding/json of Go would take the last of them.
    assert_eq!(fault(&with(r#""id":1,"method":"tools/list","Method":"tools/call""#)), Fault::Duplicate("method"));
    let params = r#""id":1,"method":"tools/call","params":{"name":"echo","NAME":"rm"}"#;
    assert_eq!(fault(&with(params)), Fault::Duplicate("name"));
    // It folds as Unicode does, too.
    let long_s = r#""id":1,"method":"tools/call","params":{"name":"echo"},"param\u017f":{"name":"rm"}"#;
    assert_eq!(fault(&with(long_s)), Fault::Duplicate("params"));
    let inner = r#""id":1,"method":"tools/call","params":{"name":"echo","arguments":{},"ARGUMENTſ":{}}"#;
    assert_eq!(fault(&with(inner)), Fault::Duplicate("arguments"));
    assert!(message(with(r#""id":1,"method":"x","params":{"name":"a"},"paramſs":{}"#)).name().is_some());
    assert_eq!(message(with(r#""id":1,"method":"x","params":{"Name":"a"}"#)).name(), None, "alone it is unknown");
}

#[test]
fn sec_10_ids() {
    let id = |raw: &str| with(&format!(r#""id":{raw},"method":"a""#));
    for raw in ["1", "\"1\"", "0", "-1", "9223372036854775807", "\"\"", "\"\\u00e9\"", "\"é\""] {
        assert_eq!(message(id(raw)).id().unwrap().as_str(), raw, "kept as it is written");
    }
    assert_eq!(fault(&id("null")), Fault::Id(IdError::Null));
    for raw in ["true", "{}", "[1]"] {
        assert_eq!(fault(&id(raw)), Fault::Id(IdError::Type), "{raw}");
    }
    for raw in ["1.5", "1.0", "1e3", "-0", "9223372036854775808", "18446744073709551616"] {
        assert_eq!(fault(&id(raw)), Fault::Id(IdError::Number), "{raw}");
    }
    assert_eq!(fault(&id("\"\\udc00\"")), Fault::Id(IdError::Text));
    let long = |n: usize| format!("\"{}\"", "x".repeat(n - 2));
    assert_eq!(message(id(&long(256))).id().unwrap().raw().len(), 256);
    assert_eq!(fault(&id(&long(257))), Fault::Id(IdError::TooLong(256)));
}

#[test]
fn sec_10_ids_keep_their_type() {
    let number = RawId::number(1);
    let string = RawId::string("1").unwrap();
    assert!(!number.same(&string) && number != string);
    let escaped = RawId::parse("\"\\u0061\"").unwrap();
    let plain = RawId::string("a").unwrap();
    assert_ne!(escaped, plain);
    assert!(escaped.same(&plain), "the same id in another spelling");
    assert_eq!(escaped.canonical(), plain);
    assert_eq!((escaped.text().as_ref(), number.text().as_ref()), ("a", "1"));
    for bad in ["", "a", "1 ", " 1", "\"", "null", "1,2", "{}", "01", "\u{0}"] {
        assert!(RawId::parse(bad).is_err(), "{bad}");
    }
    assert!(RawId::parse(Bytes::from_static(b"\"\xff\"")).is_err());
    assert!(RawId::string(&"x".repeat(255)).is_err());
}

#[test]
fn sec_8_ids_of_our_own_come_from_random_bytes() {
    assert_eq!(RawId::from_random(&[0; 16]).as_str(), "\"AAAAAAAAAAAAAAAAAAAAAA\"");
    assert_ne!(RawId::from_random(&[1; 16]), RawId::from_random(&[2; 16]));
}

#[test]
fn sec_10_envelopes_that_contradict_themselves() {
    assert_eq!(fault(&with(r#""id":1,"result":{},"error":{"code":1,"message":"a"}"#)), Fault::ResultAndError);
    assert_eq!(fault(&with(r#""id":1"#)), Fault::Nothing);
    assert_eq!(fault(&with(r#""id":1,"method":"a","result":{}"#)), Fault::RequestAndResponse);
    assert_eq!(fault(&with(r#""result":{}"#)), Fault::NoId);
    assert_eq!(fault(&with(r#""error":{"code":1,"message":"a"}"#)), Fault::NoId);
    assert_eq!(fault(&with(r#""id":1,"method":7"#)), Fault::Method);
    for error in [
        "{}",
        "1",
        r#"{"code":1}"#,
        r#"{"message":"a"}"#,
        r#"{"code":1.5,"message":"a"}"#,
        r#"{"code":"1","message":"a"}"#,
        r#"{"code":1,"message":1}"#,
    ] {
        assert_eq!(fault(&with(&format!(r#""id":1,"error":{error}"#))), Fault::ErrorObject, "{error}");
    }
    for params in ["[]", "null", "1"] {
        assert_eq!(fault(&with(&format!(r#""id":1,"method":"a","params":{params}"#))), Fault::Params);
        assert_eq!(fault(&with(&format!(r#""id":1,"method":"a","params":{{"_meta":{params}}}"#))), Fault::Meta);
    }
    assert_eq!(fault(r#"{"id":1,"method":"a"}"#), Fault::Version);
    assert_eq!(fault(r#"{"jsonrpc":2.0,"id":1,"method":"a"}"#), Fault::Version);
    assert_eq!(fault(r#"[{"jsonrpc":"2.0","id":1,"method":"a"}]"#), Fault::Batch);
    assert_eq!(fault("\"a\""), Fault::NotAnObject);
    let others = (0..33).map(|i| format!(r#","x{i}":1"#)).collect::<String>();
    assert_eq!(fault(&with(&format!(r#""id":1,"method":"a"{others}"#))), Fault::TooManyMembers);
}

#[test]
fn sec_10_a_backend_may_err_without_an_id() {
    let bounds = Bounds { error_without_id: true, ..Bounds::default() };
    let parse = |text: String| Envelope::parse(&Bytes::from(text), &bounds);
    for members in [r#""id":null,"error":{"code":-32600,"message":"a"}"#, r#""error":{"code":-32600,"message":"a"}"#] {
        let envelope = parse(with(members)).unwrap();
        assert_eq!((envelope.kind(), envelope.id()), (Kind::Error, None));
    }
    assert!(parse(with(r#""id":null,"result":{}"#)).is_err());
    assert!(parse(with(r#""id":null,"method":"a""#)).is_err());
}

#[test]
fn neg_11_broken_json_is_the_graver_fault() {
    // A duplicate first, then no JSON: the text is no JSON.
    assert!(matches!(fault(r#"{"jsonrpc":"2.0","id":1,"id":2,"method":}"#), Fault::NotJson(_)));
}

#[test]
fn neg_11_the_grammar_of_json() {
    for text in [
        "",
        " ",
        "{",
        "}",
        "{}x",
        "{} {}",
        "{,}",
        r#"{"a"}"#,
        r#"{"a":}"#,
        r#"{"a":1,}"#,
        r#"{a:1}"#,
        r#"{'a':1}"#,
        r#"{"a":01}"#,
        r#"{"a":+1}"#,
        r#"{"a":.5}"#,
        r#"{"a":1.}"#,
        r#"{"a":1e}"#,
        r#"{"a":-}"#,
        r#"{"a":tru}"#,
        r#"{"a":truee}"#,
        r#"{"a":NaN}"#,
        r#"{"a":"\x"}"#,
        r#"{"a":"\u12g4"}"#,
        r#"{"a":"\u12"#,
        "{\"a\":\"\n\"}",
        "{\"a\":\"\t\"}",
        r#"{"a":[1,]}"#,
        r#"{"a":[1 2]}"#,
        r#"{"a":[}"#,
        r#"{"a":[1}"#,
        r#"{"a":{"b":1]}"#,
        "\u{feff}{}",
        r#"{"a":1}//"#,
        "{\"a\":\u{a0}1}",
        r#"{"a" 1}"#,
        r#"{"a":[[]}"#,
        "[1,2",
        "nul",
    ] {
        assert!(matches!(fault(text), Fault::NotJson(_)), "{text}");
    }
    for value in [
        "0",
        "-0.5e+10",
        "[]",
        "{}",
        "[[],{},[{}]]",
        r#""\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00""#,
        "true",
        "false",
        "null",
    ] {
        message(with(&format!("\"id\":1 ,\n\t\"method\" : \"a\"\r, \"x\":{value}")));
    }
}

#[test]
fn neg_11_utf8_is_checked_everywhere() {
    let text = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"a\",\"params\":{\"x\":\"\xc3\x28\"}}";
    let refused = Envelope::parse(&Bytes::from_static(text), &Bounds::default()).unwrap_err();
    assert_eq!(refused.fault, Fault::NotUtf8(52));
}

#[test]
fn sec_10_nesting_is_64_at_most() {
    let nested =
        |n: usize| with(&format!(r#""id":1,"method":"a","params":{{"x":{}{}}}"#, "[".repeat(n), "]".repeat(n)));
    message(nested(62));
    assert!(matches!(fault(&nested(63)), Fault::TooDeep(_)));
    let mixed = |n: usize| with(&format!(r#""id":1,"result":{}1{}"#, r#"{"a":["#.repeat(n), "]}".repeat(n)));
    message(mixed(31));
    assert!(matches!(fault(&mixed(32)), Fault::TooDeep(_)));
    // A million brackets cost no stack.
    assert!(matches!(fault(&"[".repeat(1_000_000)), Fault::TooDeep(64)));
    let shallow = Bounds { depth: 2, ..Bounds::default() };
    assert!(matches!(fault_in(&with(r#""id":1,"method":"a","params":{"a":{}}"#), &shallow), Fault::TooDeep(_)));
    let endless = Bounds { depth: 1000, ..Bounds::default() };
    assert!(matches!(fault_in(&nested(63), &endless), Fault::TooDeep(_)), "64 is also the most");
}

#[test]
fn sec_10_size_is_1_mib_by_default() {
    let text = |n: usize| {
        let frame = with(r#""id":1,"result":"""#);
        with(&format!(r#""id":1,"result":"{}""#, "x".repeat(n - frame.len())))
    };
    message(text(1 << 20));
    assert!(matches!(fault(&text((1 << 20) + 1)), Fault::TooLarge { .. }));
}

#[test]
fn sec_10_tokens_are_ids_too() {
    let bad = r#""method":"notifications/cancelled","params":{"requestId":null}"#;
    assert!(matches!(fault(&with(bad)), Fault::Token { member: "params.requestId", error: IdError::Null }));
    let bad = r#""method":"notifications/progress","params":{"progressToken":1.5,"progress":1}"#;
    assert!(matches!(fault(&with(bad)), Fault::Token { member: "params.progressToken", .. }));
    let bad = r#""id":1,"method":"a","params":{"_meta":{"progressToken":{}}}"#;
    assert!(matches!(fault(&with(bad)), Fault::Token { .. }));
    // In another method these names are the peer's own.
    let own = message(with(r#""id":1,"method":"acme/x","params":{"requestId":{"a":1},"progressToken":[]}"#));
    assert_eq!((own.request_id(), own.progress_token()), (None, None));
}

#[test]
fn ids_are_rewritten_and_nothing_else() {
    let new = RawId::from_random(&[9; 16]);
    let text = r#"{ "params" : {"x": 1.50 , "_meta":{"progressToken":"p"}}, "id" :7, "jsonrpc":"2.0","method":"a" }"#;
    let envelope = message(text);
    assert_eq!(envelope.with_id(&new), text.replace(":7", &format!(":{new}")));
    let both = envelope.rewritten(&[(Mirror::Id, &new), (Mirror::MetaProgressToken, &RawId::number(5))]);
    assert_eq!(both, text.replace(":7", &format!(":{new}")).replace("\"p\"", "5"));
    assert_eq!(envelope.rewritten(&[(Mirror::RequestId, &new)]), text, "a place that is not there");
    let twice = envelope.rewritten(&[(Mirror::Id, &new), (Mirror::Id, &RawId::number(1))]);
    assert_eq!(twice, envelope.with_id(&new), "the first change counts");
}

#[test]
fn every_mirror_of_an_id_is_rewritten() {
    let new = RawId::string("n").unwrap();
    for (text, mirror) in [
        (r#""method":"notifications/cancelled","params":{"requestId":OLD,"reason":"x"}"#, Mirror::RequestId),
        (r#""method":"notifications/progress","params":{"progressToken":OLD,"progress":1}"#, Mirror::ProgressToken),
        (r#""id":1,"method":"a","params":{"_meta":{"progressToken":OLD}}"#, Mirror::MetaProgressToken),
        (
            r#""method":"notifications/x","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":OLD}}"#,
            Mirror::SubscriptionId,
        ),
        (r#""id":OLD,"result":{}"#, Mirror::Id),
    ] {
        let envelope = message(with(&text.replace("OLD", "\"old\"")));
        assert_eq!(envelope.rewritten(&[(mirror, &new)]), with(&text.replace("OLD", "\"n\"")));
    }
}

#[test]
fn built_messages_parse() {
    let id = RawId::parse("\"\\u0061\"").unwrap();
    let failed = error_response(Some(&id), &RpcError::too_large(2, 1));
    let envelope = message(String::from_utf8(failed.to_vec()).unwrap());
    assert_eq!(envelope.id().as_ref(), Some(&id), "the id as it was asked");
    assert_eq!(envelope.error_code(), Some(-31006));
    let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    let asked = message(text(request(&id, "a\"b", Some(&json!({"x": 1})))));
    assert_eq!((asked.kind(), asked.method()), (Kind::Request, Some("a\"b")));
    assert_eq!(message(text(request(&id, "ping", None))).params(), None);
    assert_eq!(message(text(notification("n", Some(&json!({}))))).kind(), Kind::Notification);
    assert_eq!(message(text(notification("n", None))).kind(), Kind::Notification);
    assert_eq!(message(text(response(&id, &json!({"a": 1})))).result().unwrap(), r#"{"a":1}"#);
    assert!(text(error_response(None, &RpcError::internal("x"))).contains("\"id\":null"));
}
