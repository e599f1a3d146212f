use bytes::Bytes;
use mcp_sip::envelope::{Conversation, Negotiation, NegotiationError, Role, Step};
use mcp_sip::headers::{Capabilities, Mode, Select, ToolRef};
use mcp_sip::jsonrpc::{Body, Bounds, Envelope, Fault};
use mcp_sip::negotiation::{BadAnswer, NothingInCommon, Permitted, Tools, agree, answer, check_header, select};

const OFFER: &str = r#"{ "mcp_version": "1.0", "type": "offer", "conversation": "9d9c1b10-3a9d-4c2b-9a2b-1c2dfe4f9d1c",
  "payload": { "role": "caller", "tools": ["summarize@1", "sql.query@2"], "schemas": ["urn:ex:doc:1"] } }"#;

fn parse(text: &str) -> Result<Negotiation, NegotiationError> {
    Negotiation::parse(&Bytes::copy_from_slice(text.as_bytes()))
}

fn offer() -> Negotiation {
    parse(OFFER).unwrap()
}

fn permitted<'a>(tools: &'a [ToolRef], schemas: &'a [String]) -> Permitted<'a> {
    Permitted { tools: Tools::Listed(tools), schemas, versions: &["2026-07-28", "2025-11-25"] }
}

#[test]
fn neg_9_the_envelope_of_the_draft() {
    let offer = offer();
    assert_eq!(offer.binding_version, "1.0");
    assert_eq!((offer.step, offer.role), (Step::Offer, Role::Caller));
    assert_eq!(offer.conversation.as_str(), "9d9c1b10-3a9d-4c2b-9a2b-1c2dfe4f9d1c");
    assert_eq!(offer.tools, [ToolRef::versioned("summarize", 1), ToolRef::versioned("sql.query", 2)]);
    assert_eq!(offer.schemas, ["urn:ex:doc:1"]);
    assert!(offer.versions.is_empty(), "a draft peer");
    assert_eq!(Negotiation::parse(&offer.to_bytes()), Ok(offer));
}

#[test]
fn neg_9_unknown_members_are_kept() {
    let text = r#"{"mcp_version":"1.0","x":{"a":[1,2.50]},"type":"answer","conversation":"9D9C1B10-3a9d-4c2b-9a2b-1c2dfe4f9d1c","payload":{"y":null,"role":"callee","tools":[],"versions":["2025-11-25"]}}"#;
    let envelope = parse(text).unwrap();
    let unknown: Vec<_> = envelope.unknown().map(|u| (u.name(), u.raw())).collect();
    assert_eq!(unknown, [("x", r#"{"a":[1,2.50]}"#), ("y", "null")]);
    assert_eq!(Negotiation::parse(&envelope.to_bytes()), Ok(envelope));
}

#[test]
fn neg_9_required_members_are_required() {
    for member in ["mcp_version", "type", "conversation", "payload", "payload.role", "payload.tools"] {
        let key = member.rsplit('.').next().unwrap();
        let text = OFFER.replace(&format!("\"{key}\""), "\"other\"");
        assert_eq!(parse(&text), Err(NegotiationError::Missing(member)), "{member}");
    }
}

#[test]
fn neg_9_wrong_values_are_refused_with_400() {
    for (from, to) in [
        ("\"1.0\"", "\"2.0\""),
        ("\"1.0\"", "1.0"),
        ("\"offer\"", "\"Offer\""),
        ("\"caller\"", "\"human\""),
        ("9d9c1b10-", "9d9c1b1-"),
        ("9d9c1b10-", "zd9c1b10-"),
        ("\"summarize@1\"", "1"),
        ("\"summarize@1\"", "\"\""),
        ("\"summarize@1\"", "\"a b\""),
        ("[\"urn:ex:doc:1\"]", "\"urn:ex:doc:1\""),
        ("urn:ex:doc:1", "a b"),
        ("\"type\"", "\"type\":\"offer\",\"type\""),
        ("\"role\"", "\"role\":\"callee\",\"role\""),
        ("\"schemas\"", "\"versions\":[\"a b\"],\"schemas\""),
        ("{ \"role\"", "[{ \"role\""),
        ("} }", "} } x"),
    ] {
        let text = OFFER.replacen(from, to, 1);
        assert_ne!(text, OFFER);
        let error = parse(&text).expect_err(&text);
        assert_eq!(error.sip().status(), 400, "{text}");
    }
    for payload in ["[]", "1", "null"] {
        let text = format!(
            r#"{{"mcp_version":"1.0","type":"offer","conversation":"9d9c1b10-3a9d-4c2b-9a2b-1c2dfe4f9d1c","payload":{payload}}}"#
        );
        assert!(matches!(parse(&text), Err(NegotiationError::Type { member: "payload", .. })), "{text}");
    }
    assert!(matches!(parse("[]"), Err(NegotiationError::Type { .. })));
    assert!(parse("").is_err());
    let many = OFFER.replace("\"sql.query@2\"", &vec!["\"a\""; 128].join(","));
    assert_eq!(parse(&many), Err(NegotiationError::TooMany("payload.tools")));
}

#[test]
fn neg_9_neg_10_the_two_forms_are_told_apart() {
    let bounds = Bounds::default();
    let body = |text: &str| Body::parse(&Bytes::copy_from_slice(text.as_bytes()), &bounds);
    assert!(matches!(body(OFFER), Ok(Body::Negotiation(_))));
    assert!(matches!(body(r#"{"jsonrpc":"2.0","method":"ping","id":1}"#), Ok(Body::Message(_))));
    let both = body(r#"{"jsonrpc":"2.0","method":"ping","id":1,"mcp_version":"1.0"}"#);
    assert_eq!(both.unwrap_err().fault, Fault::TwoForms);
    // Where only a message is allowed, the envelope is an error with a phrase of its own.
    let refused = Envelope::parse(&Bytes::from_static(OFFER.as_bytes()), &bounds).unwrap_err();
    assert_eq!(refused.fault, Fault::NegotiationEnvelope);
    assert_eq!(refused.sip().status(), 400);
    assert_eq!(refused.sip().phrase(), "MCP Negotiation Envelope Not Allowed Here");
}

#[test]
fn neg_3_the_answer_confirms_or_reduces() {
    let tools = [ToolRef::versioned("summarize", "1.0"), ToolRef::versioned("other", 1)];
    let schemas = ["urn:ex:doc:1".to_owned()];
    let answer = answer(&offer(), &permitted(&tools, &schemas)).unwrap();
    assert_eq!((answer.step, answer.role), (Step::Answer, Role::Callee));
    assert_eq!(answer.conversation, offer().conversation);
    assert_eq!(answer.tools, [ToolRef::versioned("summarize", 1)], "as it was offered");
    assert_eq!(answer.schemas, schemas);
    assert!(answer.versions.is_empty(), "a draft peer lists no versions and gets none");
    let agreed = agree(&offer(), &answer).unwrap();
    assert_eq!((agreed.tools.len(), agreed.version), (1, None));
}

#[test]
fn neg_3_one_version_is_answered_by_our_preference() {
    let mut offer = offer();
    offer.versions = vec!["2025-11-25".into(), "2026-07-28".into(), "2099-01-01".into()];
    let tools = [ToolRef::new("summarize")];
    let answered = answer(&offer, &permitted(&tools, &[])).unwrap();
    assert_eq!(answered.versions, ["2026-07-28"]);
    assert_eq!(agree(&offer, &answered).unwrap().version.as_deref(), Some("2026-07-28"));
    offer.versions = vec!["2099-01-01".into()];
    assert_eq!(answer(&offer, &permitted(&tools, &[])), Err(NothingInCommon::Versions));
}

#[test]
fn neg_3_an_offer_without_a_list_asks_for_everything() {
    let mut open = offer();
    open.tools.clear();
    open.schemas.clear();
    let tools = [ToolRef::new("a"), ToolRef::new("b")];
    assert_eq!(answer(&open, &permitted(&tools, &[])).unwrap().tools, tools);
}

#[test]
fn neg_3_undeclared_tools_are_judged_by_policy() {
    let only_sql = |name: &str| name.starts_with("sql.");
    let permitted = Permitted { tools: Tools::Unlisted(&only_sql), schemas: &[], versions: &[] };
    assert_eq!(answer(&offer(), &permitted).unwrap().tools, [ToolRef::versioned("sql.query", 2)]);
}

#[test]
fn neg_12_nothing_in_common_is_488() {
    let tools = [ToolRef::versioned("summarize", 2)];
    assert_eq!(answer(&offer(), &permitted(&tools, &[])), Err(NothingInCommon::Capabilities));
    assert_eq!(mcp_sip::errors::SipRefusal::NothingInCommon.status(), 488);
}

#[test]
fn neg_3_a_wrong_answer_is_noticed() {
    let good = answer(&offer(), &permitted(&[ToolRef::new("summarize")], &[])).unwrap();
    let wrong = |change: &dyn Fn(&mut Negotiation)| {
        let mut answer = good.clone();
        change(&mut answer);
        agree(&offer(), &answer).unwrap_err()
    };
    assert_eq!(wrong(&|a| a.step = Step::Offer), BadAnswer::NotAnAnswer);
    assert_eq!(wrong(&|a| a.role = Role::Caller), BadAnswer::Role);
    assert_eq!(wrong(&|a| a.conversation = Conversation::from_random(&[7; 16])), BadAnswer::Conversation);
    assert_eq!(wrong(&|a| a.tools.push(ToolRef::new("x"))), BadAnswer::NotOffered("x".into()));
    assert_eq!(wrong(&|a| a.schemas.push("urn:x".into())), BadAnswer::NotOffered("urn:x".into()));
    assert_eq!(wrong(&|a| a.versions.push("2025-11-25".into())), BadAnswer::Versions);
}

#[test]
fn neg_8_select_narrows_the_active_set() {
    let active = [ToolRef::versioned("summarize", 1), ToolRef::versioned("sql.query", 2)];
    let header = |text: &str| Select::parse(text.as_bytes(), Mode::Strict).unwrap();
    let chosen = select(Tools::Listed(&active), &header("tools=\"sql.query,nothing\"")).unwrap();
    assert_eq!(chosen, Some(vec![ToolRef::new("sql.query")]));
    assert_eq!(select(Tools::Listed(&active), &header("role=\"assistant\"")), Ok(None));
    assert_eq!(
        select(Tools::Listed(&active), &header("tools=\"nothing\"")),
        Err(NothingInCommon::Capabilities),
        "never more than what is active"
    );
}

#[test]
fn sec_12_a_header_that_contradicts_the_envelope_is_refused() {
    let header = |text: &str| Capabilities::parse(text.as_bytes(), Mode::Strict).unwrap();
    let body = offer();
    for fine in ["ver=1.0", "tools=\"summarize@1\"", "tools=\"summarize\";schemas=\"urn:ex:doc:1\"", "ver=2026-07-28"] {
        assert_eq!(check_header(&header(fine), &body), Ok(()), "{fine}");
    }
    for bad in ["tools=\"admin@1\"", "tools=\"summarize@9\"", "schemas=\"urn:ex:secret:1\""] {
        assert!(check_header(&header(bad), &body).is_err(), "{bad}");
    }
    let mut modern = offer();
    modern.versions = vec!["2026-07-28".into()];
    assert!(check_header(&header("ver=1.0,ver=2025-11-25"), &modern).is_err());
}

#[test]
fn conversation_is_a_uuid() {
    let random = Conversation::from_random(&[0xff; 16]);
    assert_eq!(random.as_str(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    assert_eq!(random.as_str().to_uppercase().parse::<Conversation>().unwrap(), random);
    assert!("ffffffff-ffff-4fff-bfffffffffff-ffff".parse::<Conversation>().is_err());
}
