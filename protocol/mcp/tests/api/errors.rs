//! Every row of the error mapping (design 5.8) that is decided in this crate.

use bytes::Bytes;
use mcp_sip::era::Era;
use mcp_sip::errors::{CODES, Code, Executed, RpcError, SipRefusal};
use mcp_sip::jsonrpc::{Answer, Bounds, Envelope, Fault};
use serde_json::json;

fn refused(text: &[u8], bounds: &Bounds) -> mcp_sip::jsonrpc::Refused {
    Envelope::parse(&Bytes::copy_from_slice(text), bounds).unwrap_err()
}

#[test]
fn neg_11_not_utf8_not_json_too_deep_are_400_with_a_phrase() {
    let deep = format!(r#"{{"jsonrpc":"2.0","method":"a","params":{}{}}}"#, "{\"a\":".repeat(64), "}".repeat(64));
    for text in [&b"{\"jsonrpc\":\"2.0\",\"method\":\"\xff\"}"[..], b"{", b"", b"nonsense", deep.as_bytes()] {
        let refused = refused(text, &Bounds::default());
        assert_eq!(refused.code(), Some(Code::ParseError));
        assert_eq!(refused.answer(), Answer::Sip(SipRefusal::NotJson));
        assert_eq!((refused.sip().status(), refused.sip().phrase()), (400, "Malformed MCP JSON"));
        assert_eq!(refused.rpc().code, -32700);
    }
}

#[test]
fn neg_12_no_envelope_is_400_and_32600() {
    for text in
        ["[]", "{}", "1", r#"{"jsonrpc":"1.0","id":1,"method":"a"}"#, r#"{"jsonrpc":"2.0","id":null,"method":"a"}"#]
    {
        let refused = refused(text.as_bytes(), &Bounds::default());
        assert_eq!(refused.code(), Some(Code::InvalidRequest), "{text}");
        assert_eq!(refused.answer(), Answer::Sip(SipRefusal::NotAnEnvelope));
        assert_eq!(refused.sip().status(), 400);
        assert_eq!(refused.rpc().code, -32600);
    }
}

#[test]
fn neg_12_sip_statuses_of_the_table() {
    for (refusal, status) in [
        (SipRefusal::NotJson, 400),
        (SipRefusal::NotAnEnvelope, 400),
        (SipRefusal::EnvelopeNotHere, 400),
        (SipRefusal::BadNegotiation, 400),
        (SipRefusal::MediaType, 415),
        (SipRefusal::BodyTooLarge, 413),
        (SipRefusal::NotOffered, 420),
        (SipRefusal::Forbidden, 403),
        (SipRefusal::NothingInCommon, 488),
        (SipRefusal::UnknownSession, 481),
        (SipRefusal::StoreUnavailable, 503),
    ] {
        assert_eq!(refusal.status(), status);
        assert!(!refusal.phrase().is_empty());
    }
}

#[test]
fn sec_10_too_large_is_413() {
    let bounds = Bounds { bytes: 10, ..Bounds::default() };
    let refused = refused(br#"{"jsonrpc":"2.0"}"#, &bounds);
    assert_eq!(refused.fault, Fault::TooLarge { bytes: 17, limit: 10 });
    assert_eq!(refused.answer(), Answer::Sip(SipRefusal::BodyTooLarge));
}

#[test]
fn sec_10_meta_over_8_kib_is_answered_inside_the_exchange() {
    let text = format!(
        r#"{{"jsonrpc":"2.0","id":"a","method":"tools/list","params":{{"_meta":{{"x":"{}"}}}}}}"#,
        "y".repeat(8192)
    );
    let Answer::JsonRpc(id, error) = refused(text.as_bytes(), &Bounds::default()).answer() else { panic!("JSON-RPC") };
    assert_eq!((id.as_str(), error.code), ("\"a\"", -32602));
    // A notification cannot be answered inside.
    let text = text.replace(r#""id":"a","#, "");
    assert_eq!(refused(text.as_bytes(), &Bounds::default()).answer(), Answer::Sip(SipRefusal::NotAnEnvelope));
}

#[test]
fn neg_12_the_table_of_codes() {
    let numbers: Vec<i64> = CODES.iter().map(|code| code.number()).collect();
    assert_eq!(
        numbers,
        [
            -32700, -32600, -32601, -32602, -32603, -32020, -32021, -32022, -31001, -31002, -31003, -31004, -31005,
            -31006
        ]
    );
    for code in CODES {
        assert_eq!(Code::from_number(code.number()), Some(code));
        let ours = (-31099..=-31000).contains(&code.number());
        let reserved = (-32768..=-32000).contains(&code.number());
        assert!(ours ^ reserved, "{code:?}");
    }
    assert_eq!(Code::from_number(-1), None);
    let names: std::collections::BTreeSet<_> = CODES.iter().map(|code| code.name()).collect();
    assert_eq!(names.len(), CODES.len());
}

#[test]
fn neg_12_data_of_our_errors() {
    let value = |error: RpcError| error.to_value();
    assert_eq!(
        value(RpcError::interrupted(true, Executed::No)),
        json!({"code": -31001, "message": "The call was interrupted", "data": {"retry": true, "executed": "no"}})
    );
    assert_eq!(
        RpcError::interrupted(false, Executed::Unknown).data,
        Some(json!({"retry": false, "executed": "unknown"}))
    );
    assert_eq!(RpcError::limited("x", 1500).data, Some(json!({"limit": "x", "retryAfterMs": 1500})));
    assert_eq!(value(RpcError::denied("t")), json!({"code": -31003, "message": "Denied by policy: t"}));
    assert_eq!(RpcError::unavailable().data, Some(json!({"retry": true})));
    assert_eq!(RpcError::quarantined("t").code, -31005);
    assert_eq!(RpcError::too_large(70000, 65536).data, Some(json!({"bytes": 70000, "limit": 65536})));
    assert_eq!(RpcError::method_not_found("x/y").code, -32601);
}

#[test]
fn neg_12_mismatches_by_era() {
    for (era, mismatch, capability, version) in
        [(Era::Modern, -32020, -32021, -32022), (Era::Legacy, -32600, -32602, -32602)]
    {
        assert_eq!(RpcError::header_mismatch(era, "x").code, mismatch);
        assert_eq!(RpcError::missing_capability(era, "roots").code, capability);
        let error = RpcError::unsupported_version(era, Some("2099-01-01"), &["2025-11-25"]);
        assert_eq!(error.code, version);
        assert_eq!(error.data, Some(json!({"supported": ["2025-11-25"], "requested": "2099-01-01"})));
    }
}

#[test]
fn neg_12_an_absent_tool_and_a_hidden_one_look_alike() {
    // One constructor, no argument but the name: nothing can tell the two apart.
    assert_eq!(RpcError::unknown_tool("x"), RpcError::unknown_tool("x"));
    assert_eq!(RpcError::unknown_tool("x").code, -32602);
}

#[test]
fn neg_12_http_statuses_of_the_table() {
    for (code, modern, legacy) in [
        (Code::ParseError, 400, 400),
        (Code::InvalidRequest, 400, 400),
        (Code::UnsupportedVersion, 400, 400),
        (Code::MethodNotFound, 404, 200),
        (Code::Denied, 200, 200),
        (Code::Limited, 429, 429),
        (Code::Unavailable, 503, 503),
    ] {
        assert_eq!((code.http_status(Era::Modern), code.http_status(Era::Legacy)), (modern, legacy));
    }
}

#[test]
fn peer_text_in_our_messages_is_cut_and_cleaned() {
    let error = RpcError::method_not_found(&format!("a\u{1b}[2J{}", "x".repeat(1000)));
    assert!(error.message.len() < 200 && !error.message.contains('\u{1b}'));
}
