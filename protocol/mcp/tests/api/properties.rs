use std::str::FromStr;

use bytes::Bytes;
use mcp_sip::envelope::{Conversation, Negotiation, Role, Step};
use mcp_sip::era::Annotations;
use mcp_sip::exchange::{Channel, Exchange, ExchangeId, McpExchange, Party, Relation};
use mcp_sip::feature_caps::{CapStyle, FeatureTags};
use mcp_sip::headers::{Capabilities, Capability, Mode, Parameter, Select, ToolRef};
use mcp_sip::jsonrpc::{Body, Bounds, Envelope, Kind, ListOf, Mirror, RawId};
use mcp_sip::policy::{Glob, IdentityGlob};
use proptest::prelude::*;
use serde_json::{Value, json};

fn bytes_like_headers() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        r#"[ -~]{0,120}"#.prop_map(String::into_bytes),
        r#"(ver|tools|schemas|role|policy|rel|x|session|"|=|;|,|@| |a|1|\.|\\|\r\n |urn:x){0,40}"#
            .prop_map(String::into_bytes),
    ]
}

fn bytes_like_json() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        r#"(\{|\}|\[|\]|:|,|"|"jsonrpc":"2.0"|"id":|"method":|"params":|"result":|"error":|"_meta":|"name":|1|null|true|\\u00|\\|-|e| ){0,60}"#
            .prop_map(String::into_bytes),
    ]
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::hash_map(".{0,8}", inner, 0..6).prop_map(Value::from_iter),
        ]
    })
}

fn raw_id() -> impl Strategy<Value = RawId> {
    prop_oneof![any::<i64>().prop_map(RawId::number), ".{0,30}".prop_map(|text| RawId::string(&text).unwrap())]
}

fn pattern() -> impl Strategy<Value = String> {
    "[ab]{0,2}(\\*[ab]{1,2}){0,3}\\*?".prop_filter("not empty", |pattern| !pattern.is_empty())
}

fn token() -> impl Strategy<Value = String> {
    "[A-Za-z0-9.!%*_+`'~-]{1,12}"
}

fn tool() -> impl Strategy<Value = ToolRef> {
    (token(), proptest::option::of("[0-9]{1,4}")).prop_map(|(name, version)| ToolRef { name, version })
}

fn schema() -> impl Strategy<Value = String> {
    prop_oneof![token(), "urn:[a-z:0-9]{1,12}", "https://[a-z./?=;]{1,12}"]
}

fn parameter() -> impl Strategy<Value = Parameter> {
    let value = prop_oneof![token(), r#""([ -!#-\[\]-~é]|\\")*""#];
    ("x-[a-z]{1,8}", proptest::option::of(value))
        .prop_map(|(name, value)| Parameter::new(&name, value.as_deref()).unwrap())
}

fn capability() -> impl Strategy<Value = Capability> {
    let lists = (proptest::collection::vec(tool(), 0..5), proptest::collection::vec(schema(), 0..5));
    (token(), lists, proptest::collection::vec(parameter(), 0..4)).prop_map(|(ver, (tools, schemas), parameters)| {
        let known = Capability::default().with_ver(ver).with_tools(tools).with_schemas(schemas);
        parameters.into_iter().fold(known, Capability::with_parameter)
    })
}

fn exchange_header() -> impl Strategy<Value = McpExchange> {
    let exchange = prop_oneof![
        any::<[u8; 16]>().prop_map(|random| Exchange::Id(ExchangeId::from_random(&random))),
        "[A-Za-z0-9_-]{22,43}".prop_map(|text| Exchange::from_str(&text).unwrap()),
        Just(Exchange::Session),
    ];
    (exchange, any::<bool>(), proptest::option::of(parameter())).prop_map(|(exchange, caller, parameter)| {
        let relation = if caller { Relation::Caller } else { Relation::Callee };
        let mut header = McpExchange::new(exchange, relation);
        header.generic.extend(parameter);
        header
    })
}

fn every_accessor(envelope: &Envelope) {
    let _ = (envelope.id(), envelope.method(), envelope.params(), envelope.result(), envelope.error());
    let _ = (envelope.error_code(), envelope.error_message(), envelope.error_data(), envelope.tool());
    let _ = (envelope.subject(), envelope.arguments(), envelope.meta(), envelope.meta_protocol_version());
    let _ = (envelope.meta_client_capabilities(), envelope.meta_progress_token(), envelope.traceparent());
    let _ = (envelope.request_id(), envelope.progress_token(), envelope.result_type(), envelope.meta_subscription_id());
    let _ = envelope.filter_list(ListOf::Tools, |_| false);
    let id = RawId::number(1);
    let _ = envelope.rewritten(&[(Mirror::Id, &id), (Mirror::RequestId, &id), (Mirror::ProgressToken, &id)]);
}

proptest! {
    #[test]
    fn sec_10_header_parsers_never_panic(text in bytes_like_headers()) {
        for mode in [Mode::Strict, Mode::Lenient] {
            let _ = Capabilities::parse(&text, mode);
            let _ = Select::parse(&text, mode);
        }
        let _ = McpExchange::parse(&text);
        let text = String::from_utf8_lossy(&text);
        let _ = FeatureTags::from_parameters([("+mcp.cap", Some(&*text)), ("+mcp.ver", Some(&*text)), (&*text, None)]);
        let _ = (Glob::name(&text), Glob::uri(&text), IdentityGlob::new(&text));
        let _ = IdentityGlob::new("sip:*@*").unwrap().matches(&text);
    }

    #[test]
    fn sec_10_body_parsers_never_panic(text in bytes_like_json()) {
        let text = Bytes::from(text);
        let bounds = Bounds { error_without_id: true, ..Bounds::default() };
        if let Ok(Body::Message(envelope)) = Body::parse(&text, &bounds) {
            every_accessor(&envelope);
        }
        let _ = Negotiation::parse(&text);
        let _ = RawId::parse(text.clone());
        let _ = Annotations::from_schema(&text);
    }

    #[test]
    fn sec_10_a_message_with_one_byte_changed_never_panics(at in 0usize..400, byte: u8) {
        let mut text = br#"{"jsonrpc":"2.0","id":"a\u0062","method":"tools/call","params":{"name":"x","arguments":{"a":[1,2.5e3,{"b":null}]},"_meta":{"progressToken":7,"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"roots":{}}}}}"#.to_vec();
        let len = text.len();
        text[at % len] = byte;
        let text = Bytes::from(text);
        let ours = Envelope::parse(&text, &Bounds::default());
        // What we take for JSON is JSON for others, and the reverse.
        let theirs = serde_json::from_slice::<Box<serde_json::value::RawValue>>(&text);
        match &ours {
            Ok(envelope) => {
                every_accessor(envelope);
                prop_assert!(theirs.is_ok());
            }
            Err(refused) => {
                let syntax = refused.code() == Some(mcp_sip::errors::Code::ParseError);
                prop_assert_eq!(syntax, theirs.is_err());
            }
        }
    }

    #[test]
    fn neg_11_our_grammar_is_the_grammar(text in bytes_like_json()) {
        let theirs = serde_json::from_slice::<Box<serde_json::value::RawValue>>(&text).is_ok()
            && std::str::from_utf8(&text).is_ok();
        let ours = match Body::parse(&Bytes::from(text), &Bounds::default()) {
            Ok(_) => true,
            Err(refused) => refused.code() != Some(mcp_sip::errors::Code::ParseError),
        };
        prop_assert_eq!(ours, theirs);
    }

    #[test]
    fn neg_10_any_params_travel_byte_exact(id in raw_id(), extra in json_value(), pretty: bool) {
        let mut value = json!({"jsonrpc": "2.0", "method": "acme/x", "params": {"x": extra}});
        value["id"] = serde_json::from_str(id.as_str()).unwrap();
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
        let envelope = Envelope::parse(&Bytes::from(text.clone()), &Bounds::default()).unwrap();
        prop_assert_eq!(envelope.bytes(), text.as_bytes());
        prop_assert!(envelope.id().unwrap().same(&id));
        if !pretty {
            prop_assert_eq!(envelope.params().unwrap(), value["params"].to_string());
        }
    }

    #[test]
    fn xch_id_rewriting_leaves_the_rest_byte_exact(old in raw_id(), new in raw_id(), extra in json_value(), pretty: bool) {
        let raw = |id: &RawId| serde_json::from_str::<Value>(id.as_str()).unwrap();
        let value = |id: &RawId| json!({
            "jsonrpc": "2.0", "id": raw(id), "method": "tools/call",
            "params": {"x": extra, "_meta": {"progressToken": raw(id)}, "z": 1},
        });
        let text = |id| if pretty { serde_json::to_string_pretty(&value(id)) } else { serde_json::to_string(&value(id)) }.unwrap();
        let envelope = Envelope::parse(&Bytes::from(text(&old)), &Bounds::default()).unwrap();
        let rewritten = envelope.rewritten(&[(Mirror::MetaProgressToken, &new), (Mirror::Id, &new)]);
        prop_assert_eq!(&rewritten, &text(&new));
        // And back.
        let again = Envelope::parse(&rewritten, &Bounds::default()).unwrap();
        prop_assert_eq!(again.rewritten(&[(Mirror::Id, &old), (Mirror::MetaProgressToken, &old)]), text(&old));
    }

    #[test]
    fn neg_7_capabilities_print_what_they_read(entries in proptest::collection::vec(capability(), 1..4)) {
        let header = Capabilities { entries };
        let text = header.to_string();
        if text.len() <= 4096 {
            prop_assert_eq!(Capabilities::parse(text.as_bytes(), Mode::Strict), Ok(header.clone()), "{}", text);
            prop_assert_eq!(Capabilities::parse(text.as_bytes(), Mode::Lenient), Ok(header), "{}", text);
        }
    }

    #[test]
    fn neg_7_what_is_strict_is_lenient_too(text in bytes_like_headers()) {
        if let Ok(strict) = Capabilities::parse(&text, Mode::Strict) {
            prop_assert_eq!(Capabilities::parse(&text, Mode::Lenient), Ok(strict));
        }
        if let Ok(lenient) = Capabilities::parse(&text, Mode::Lenient) {
            prop_assert_eq!(Capabilities::parse(lenient.to_string().as_bytes(), Mode::Lenient), Ok(lenient));
        }
        if let Ok(strict) = Select::parse(&text, Mode::Strict) {
            prop_assert_eq!(Select::parse(&text, Mode::Lenient), Ok(strict));
        }
    }

    #[test]
    fn neg_8_select_prints_what_it_reads(
        tools in proptest::option::of(proptest::collection::vec(tool(), 1..5)),
        role in token(), policy in proptest::option::of(token()), generic in proptest::option::of(parameter()),
    ) {
        let header = Select { tools, role: Some(role), policy, generic: generic.into_iter().collect() };
        let text = header.to_string();
        prop_assert_eq!(Select::parse(text.as_bytes(), Mode::Strict), Ok(header.clone()), "{}", text);
        prop_assert_eq!(Select::parse(text.as_bytes(), Mode::Lenient), Ok(header), "{}", text);
    }

    #[test]
    fn xch_exchange_header_prints_what_it_reads(header in exchange_header()) {
        prop_assert_eq!(McpExchange::parse(header.to_string().as_bytes()), Ok(header));
    }

    #[test]
    fn neg_9_envelopes_print_what_they_read(
        random: [u8; 16], offer: bool, caller: bool, tools in proptest::collection::vec(tool(), 0..5),
        schemas in proptest::collection::vec(schema(), 0..5), unknown in json_value(),
    ) {
        let step = if offer { Step::Offer } else { Step::Answer };
        let role = if caller { Role::Caller } else { Role::Callee };
        let mut envelope = Negotiation::new(step, Conversation::from_random(&random), role);
        envelope.tools = tools;
        envelope.schemas = schemas;
        let text = String::from_utf8(envelope.to_bytes().to_vec()).unwrap();
        let with_unknown = text.replacen("\"type\"", &format!("\"a b\":{unknown},\"type\""), 1);
        let read = Negotiation::parse(&Bytes::from(with_unknown)).unwrap();
        prop_assert_eq!(read.unknown().next().unwrap().raw(), unknown.to_string());
        prop_assert_eq!(Negotiation::parse(&read.to_bytes()), Ok(read));
        prop_assert_eq!(Negotiation::parse(&Bytes::from(text)), Ok(envelope));
    }

    #[test]
    fn reg_1_feature_tags_round_trip(tools in proptest::collection::vec(tool(), 0..5), rfc3840: bool) {
        let tags = FeatureTags { mcp: true, versions: vec!["1.0".into()], tools, schemas: vec![] };
        let style = if rfc3840 { CapStyle::Rfc3840 } else { CapStyle::Draft };
        let text = tags.to_parameters(style);
        let parameters = text.split(';').skip(1).map(|p| p.split_once('=').map_or((p, None), |(n, v)| (n, Some(v))));
        prop_assert_eq!(FeatureTags::from_parameters(parameters), Ok(tags));
    }

    /// Whatever the header fields say, the body that goes on is the body that came, and what policy judges is in it.
    #[test]
    fn sec_12_header_changes_never_change_the_json(
        headers in proptest::collection::vec(bytes_like_headers(), 3), valid in exchange_header(), use_valid: bool, extra in json_value(),
    ) {
        let text = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "echo", "arguments": extra}}).to_string();
        let envelope = Envelope::parse(&Bytes::from(text.clone()), &Bounds::default()).unwrap();
        let _ = Capabilities::parse(&headers[0], Mode::Lenient);
        let _ = Select::parse(&headers[1], Mode::Lenient);
        let header = if use_valid { Some(valid) } else { McpExchange::parse(&headers[2]).ok() };
        let mut channel = Channel::default();
        let fresh = ExchangeId::from_random(&[1; 16]);
        let _ = channel.admit(Party::Caller, header.as_ref(), &envelope, fresh);
        prop_assert_eq!(envelope.bytes(), text.as_bytes());
        prop_assert_eq!((envelope.kind(), envelope.tool().unwrap().into_owned()), (Kind::Request, "echo".to_owned()));
    }

    #[test]
    fn globs_agree_with_their_meaning(pattern in pattern(), text in "[ab]{0,10}") {
        fn naive(pattern: &[u8], text: &[u8]) -> bool {
            match pattern {
                [] => text.is_empty(),
                [b'*', rest @ ..] => (0..=text.len()).any(|n| naive(rest, &text[n..])),
                [byte, rest @ ..] => text.first() == Some(byte) && naive(rest, &text[1..]),
            }
        }
        prop_assert_eq!(Glob::name(&pattern).unwrap().matches(&text), naive(pattern.as_bytes(), text.as_bytes()));
    }

    #[test]
    fn glob_covering_is_sound(wide in pattern(), narrow in pattern(), text in "[ab]{0,8}") {
        let (wide, narrow) = (Glob::name(&wide).unwrap(), Glob::name(&narrow).unwrap());
        if wide.covers(&narrow) && narrow.matches(&text) {
            prop_assert!(wide.matches(&text));
        }
    }
}
