use mcp_sip::feature_caps::{CapStyle, FeatureTags};
use mcp_sip::headers::ToolRef;
use mcp_sip::option_tag::{OptionTagError, OptionTags};

fn tags() -> OptionTags {
    OptionTags::new(["acme-mcp"]).unwrap()
}

#[test]
fn neg_1_all_tags_are_accepted_and_listed() {
    assert_eq!(tags().supported().collect::<Vec<_>>(), ["mcp", "x-mcp", "acme-mcp"]);
    for tag in ["mcp", "x-mcp", "acme-mcp", "X-MCP", " mcp "] {
        assert!(tags().is_mcp(tag), "{tag}");
    }
    assert!(!tags().is_mcp("mcpx"));
    assert!(!OptionTags::default().is_mcp("acme-mcp"));
}

#[test]
fn neg_1_require_takes_the_tag_that_the_peer_listed() {
    let tags = tags();
    assert_eq!(tags.to_require(["timer", "mcp", "x-mcp"]), "mcp");
    assert_eq!(tags.to_require(["x-mcp", "mcp"]), "x-mcp");
    assert_eq!(tags.to_require(["ACME-mcp"]), "ACME-mcp");
    assert_eq!(tags.to_require(["timer", "replaces"]), "x-mcp", "an unknown peer");
    let switched = tags.with_tag_for_unknown_peer("mcp").unwrap();
    assert_eq!(switched.to_require([]), "mcp");
}

#[test]
fn neg_2_unsupported_names_the_tags_of_require() {
    assert_eq!(tags().all_in(["100rel", "x-mcp", "mcp"]), ["x-mcp", "mcp"]);
    assert_eq!(tags().first_in(["100rel", "x-mcp"]), Some("x-mcp"));
    assert_eq!(tags().first_in(["100rel"]), None);
}

#[test]
fn neg_1_a_configured_tag_must_be_a_token() {
    assert_eq!(OptionTags::new(["a b"]), Err(OptionTagError::NotAToken("a b".into())));
    assert_eq!(OptionTags::new([""]), Err(OptionTagError::NotAToken(String::new())));
    assert_eq!(OptionTags::new((0..9).map(|i| format!("t{i}"))), Err(OptionTagError::TooMany));
    assert!(OptionTags::new(["MCP", "mcp"]).is_ok(), "what is there already is not counted again");
}

fn contact(parameters: &[(&str, Option<&str>)]) -> FeatureTags {
    FeatureTags::from_parameters(parameters.iter().copied()).unwrap()
}

#[test]
fn reg_1_feature_tags_of_the_draft_are_understood() {
    let tags = contact(&[
        ("expires", Some("3600")),
        ("+mcp", None),
        ("+mcp.ver", Some("\"1.0,2026-07-28\"")),
        ("+mcp.cap", Some("\"summarize@1,sql.query@2,urn:ex:doc:1\"")),
    ]);
    assert!(tags.mcp);
    assert_eq!(tags.versions, ["1.0", "2026-07-28"]);
    assert_eq!(tags.mcp_versions().collect::<Vec<_>>(), ["2026-07-28"]);
    assert_eq!(tags.tools, [ToolRef::versioned("summarize", 1), ToolRef::versioned("sql.query", 2)]);
    assert_eq!(tags.schemas, ["urn:ex:doc:1"]);
    assert!(tags.offers(&ToolRef::new("summarize")) && !tags.offers(&ToolRef::versioned("summarize", 2)));
}

#[test]
fn reg_1_feature_tags_are_read_in_every_spelling() {
    assert!(contact(&[("+MCP.Cap", Some("\"<a@1,b>\""))]).offers(&ToolRef::versioned("a", 1)));
    assert_eq!(contact(&[("+mcp.cap", Some("\"<a@1>, <urn:x:1>,\""))]).schemas, ["urn:x:1"]);
    assert!(contact(&[("+mcp.ver", Some("\"2025-11-25\""))]).mcp);
    assert_eq!(contact(&[("+mcpx", None), ("+mc", None), ("mcp", None)]), FeatureTags::default());
    let long = format!("\"{}\"", "a,".repeat(129));
    assert!(FeatureTags::from_parameters([("+mcp.cap", Some(long.as_str()))]).is_err());
}

#[test]
fn reg_1_feature_tags_print_what_they_read() {
    for style in [CapStyle::Draft, CapStyle::Rfc3840] {
        let tags = FeatureTags {
            mcp: true,
            versions: vec!["1.0".into(), "2025-11-25".into()],
            tools: vec![ToolRef::versioned("a", 1)],
            schemas: vec!["urn:x:1".into()],
        };
        let text = tags.to_feature_caps(style);
        let parameters = text.split(';').skip(1).map(|p| match p.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (p, None),
        });
        assert_eq!(FeatureTags::from_parameters(parameters).unwrap(), tags, "{text}");
    }
    assert_eq!(FeatureTags::default().to_parameters(CapStyle::Draft), "");
}
