use mcp_sip::era::{Annotations, Era, MirrorError, mirrors};

use crate::message;

fn headers(text: &str, era: Era, version: Option<&str>, annotations: Option<&Annotations>) -> Vec<(String, String)> {
    mirrors(&message(text), era, version, annotations).unwrap()
}

fn pairs(headers: &[(String, String)]) -> Vec<(&str, &str)> {
    headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

const SCHEMA: &str = r#"{"type":"object","properties":{
    "region":{"type":"string","x-mcp-header":"Region"},
    "count":{"type":"integer","x-mcp-header":"Count"},
    "where":{"type":"object","properties":{"fast":{"type":"boolean","x-mcp-header":"Fast"}}},
    "text":{"type":"string","default":{"x-mcp-header":"not a schema"}}}}"#;

fn call(arguments: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools\/call","params":{{"name":"q","arguments":{arguments},"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}}}}"#
    )
}

#[test]
fn sec_12_mirrors_come_from_the_body() {
    let annotations = Annotations::from_schema(SCHEMA.as_bytes()).unwrap();
    let text = call(r#"{"region":"eu","count":7,"where":{"fast":true},"text":"x"}"#);
    let mut found = headers(&text, Era::Modern, None, Some(&annotations));
    found[3..].sort();
    assert_eq!(
        pairs(&found),
        [
            ("MCP-Protocol-Version", "2026-07-28"),
            ("Mcp-Method", "tools/call"),
            ("Mcp-Name", "q"),
            ("Mcp-Param-Count", "7"),
            ("Mcp-Param-Fast", "true"),
            ("Mcp-Param-Region", "eu"),
        ]
    );
    assert!(!annotations.is_empty() && Annotations::from_schema(b"{}").unwrap().is_empty());
    let absent = headers(&call(r#"{"region":null,"count":[1]}"#), Era::Modern, None, Some(&annotations));
    assert_eq!(absent.len(), 3, "what is absent or no primitive is not mirrored");
}

#[test]
fn mirrors_that_cannot_stand_in_a_header_are_wrapped() {
    let annotations = Annotations::from_schema(SCHEMA.as_bytes()).unwrap();
    for (value, header) in [
        ("plain text", "plain text"),
        ("é", "=?base64?w6k=?="),
        (" a", "=?base64?IGE=?="),
        ("a\\nb", "=?base64?YQpi?="),
        ("=?base64?x?=", "=?base64?PT9iYXNlNjQ/eD89?="),
        ("", ""),
    ] {
        let found = headers(&call(&format!(r#"{{"region":"{value}"}}"#)), Era::Modern, None, Some(&annotations));
        assert_eq!(found.last().unwrap().1, header, "{value}");
    }
}

#[test]
fn mirrors_name_what_the_method_acts_on() {
    let name = |method: &str, member: &str| {
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{"{member}":"x"}}}}"#);
        headers(&text, Era::Modern, Some("2026-07-28"), None).into_iter().find(|(n, _)| n == "Mcp-Name").map(|(_, v)| v)
    };
    for (method, member) in
        [("tools/call", "name"), ("prompts/get", "name"), ("resources/read", "uri"), ("tasks/get", "taskId")]
    {
        assert_eq!(name(method, member).as_deref(), Some("x"), "{method}");
    }
    assert_eq!(name("tools/list", "name"), None);
}

#[test]
fn legacy_messages_have_the_version_alone() {
    let init = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25"}}"#;
    assert!(headers(init, Era::Legacy, Some("2025-11-25"), None).is_empty());
    let call = r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"a"}}"#;
    assert_eq!(pairs(&headers(call, Era::Legacy, Some("2025-11-25"), None)), [("MCP-Protocol-Version", "2025-11-25")]);
    let answer = r#"{"jsonrpc":"2.0","id":2,"result":{}}"#;
    assert_eq!(headers(answer, Era::Legacy, Some("2025-06-18"), None).len(), 1);
}

#[test]
fn mirrors_refuse_a_method_that_no_header_holds() {
    let text = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"a\\r\\nX: 1\"}";
    assert_eq!(mirrors(&message(text), Era::Modern, None, None), Err(MirrorError::Method));
}

#[test]
fn mirrors_refuse_annotations_that_break_the_rules() {
    for schema in [
        r#"{"x-mcp-header":"A"}"#,
        r#"{"properties":{"a":{"type":"string","x-mcp-header":""}}}"#,
        r#"{"properties":{"a":{"type":"string","x-mcp-header":1}}}"#,
        r#"{"properties":{"a":{"type":"string","x-mcp-header":"a b"}}}"#,
        r#"{"properties":{"a":{"type":"number","x-mcp-header":"A"}}}"#,
        r#"{"properties":{"a":{"x-mcp-header":"A"}}}"#,
        r#"{"properties":{"a":{"type":"array","items":{"type":"string","x-mcp-header":"A"}}}}"#,
        r#"{"anyOf":[{"properties":{"a":{"type":"string","x-mcp-header":"A"}}}]}"#,
        r#"{"properties":{"a":{"type":"string","x-mcp-header":"A"},"b":{"type":"string","x-mcp-header":"a"}}}"#,
    ] {
        assert!(matches!(Annotations::from_schema(schema.as_bytes()), Err(MirrorError::Annotation(_))), "{schema}");
    }
    assert_eq!(Annotations::from_schema(b"[]"), Err(MirrorError::Schema));
    let deep = format!("{}{}", r#"{"properties":{"a":"#.repeat(40), "1}}".repeat(40).replacen("1}}", "{}}}", 1));
    assert!(Annotations::from_schema(deep.replace('1', "").as_bytes()).is_err());
}
