use mcp_sip::exchange::{Exchange, McpExchange, Relation};
use mcp_sip::headers::{Capabilities, HeaderError, Mode, Parameter, Select, ToolRef};

fn capabilities(text: &str, mode: Mode) -> Result<Capabilities, HeaderError> {
    Capabilities::parse(text.as_bytes(), mode)
}

fn select(text: &str, mode: Mode) -> Result<Select, HeaderError> {
    Select::parse(text.as_bytes(), mode)
}

#[test]
fn neg_7_capabilities_of_the_draft() {
    let header = capabilities(
        "ver=1.0;\r\n tools=\"summarize@1,sql.query@2\";\r\n schemas=\"urn:ex:doc:1,urn:ex:customer:3\"",
        Mode::Strict,
    )
    .unwrap();
    let [entry] = header.entries.as_slice() else { panic!("one entry") };
    assert_eq!(entry.ver(), Some("1.0"));
    assert_eq!(entry.tools(), [ToolRef::versioned("summarize", 1), ToolRef::versioned("sql.query", 2)]);
    assert_eq!(entry.schemas(), ["urn:ex:doc:1", "urn:ex:customer:3"]);
    assert_eq!(header.versions().count(), 0, "a draft peer lists no date token");
}

#[test]
fn neg_7_every_entry_and_every_line_counts() {
    let lines: [&[u8]; 2] = [b"ver=1.0;tools=\"a@1\", ver=2026-07-28", b"ver=2025-11-25"];
    let header = Capabilities::parse_lines(lines, Mode::Strict).unwrap();
    assert_eq!(header.entries.len(), 3);
    assert_eq!(header.versions().collect::<Vec<_>>(), ["2026-07-28", "2025-11-25"]);
    assert_eq!(header.to_string(), "ver=1.0;tools=\"a@1\",ver=2026-07-28,ver=2025-11-25");
    assert_eq!(
        Capabilities::of(vec![ToolRef::versioned("a", 1)], vec![], &["2026-07-28", "2025-11-25"]).to_string(),
        header.to_string()
    );
}

#[test]
fn neg_7_generic_parameters_keep_order_and_bytes() {
    let text = "x=1;ver=1.0;Foo=\"a \\\" , ; b\";tools=\"a\";flag;host=[2001:db8::1]";
    let header = capabilities(text, Mode::Strict).unwrap();
    assert_eq!(header.to_string(), text);
    let generic: Vec<_> = header.entries[0].generic().collect();
    assert_eq!(generic.iter().map(|p| p.name()).collect::<Vec<_>>(), ["x", "Foo", "flag", "host"]);
    assert_eq!(generic[1].raw_value(), Some("\"a \\\" , ; b\""));
    assert_eq!(generic[1].text().as_deref(), Some("a \" , ; b"));
    assert_eq!(generic[2].raw_value(), None);
}

#[test]
fn neg_7_strict_refuses_what_the_abnf_does_not_have() {
    for text in [
        "tools=\"a@1.0\"",
        "tools=a@1",
        "tools=\"a@\"",
        "tools=\"@1\"",
        "tools=\"\"",
        "tools=\"a,,b\"",
        "tools=\"a b\"",
        "tools=\"a/b\"",
        "ver=\"1.0\"",
        "ver",
        "ver=1.0;",
        "ver=1.0,",
        ",ver=1.0",
        "ver=1.0 tools=\"a\"",
        "schemas=\"urn:\"",
        "schemas=\"a b\"",
        "schemas=\"<urn:x>\"",
        "tools=\"a\\\"\"",
        "tools=\"a",
        "=1",
        "x=\"\u{1}\"",
    ] {
        assert!(capabilities(text, Mode::Strict).is_err(), "{text}");
    }
    assert_eq!(capabilities("", Mode::Strict), Err(HeaderError::Syntax { expected: "a token", at: 0 }));
}

#[test]
fn neg_7_lenient_reads_what_peers_send() {
    for text in [
        "ver=1.0;tools=\"a@1.0,b\"",
        "ver=\"1.0\";tools=\"a@1.0,b\"",
        "ver=1.0;tools=a@1.0,b",
        "ver=1.0 ; tools = \" a@1.0 , b \"",
        "ver=1.0;tools=a@1.0,b;",
        ";ver=1.0;;tools=\"a@1.0,,b,\"",
    ] {
        let header = capabilities(text, Mode::Lenient).unwrap_or_else(|e| panic!("{e}: {text}"));
        let tools: Vec<_> = header.tools().cloned().collect();
        assert_eq!(tools, [ToolRef::versioned("a", "1.0"), ToolRef::new("b")], "{text}");
        assert_eq!(header.entries[0].ver(), Some("1.0"), "{text}");
    }
    let header = capabilities("tools=a@1,b,ver=2025-11-25", Mode::Lenient).unwrap();
    assert_eq!((header.tools().count(), header.versions().count()), (2, 1));
    for text in ["", ";", "tools=", "tools=\"a@x\"", "tools=\"a", "ver=1 0"] {
        assert!(capabilities(text, Mode::Lenient).is_err(), "{text}");
    }
}

#[test]
fn neg_7_a_parameter_stands_once_in_an_entry() {
    for text in ["ver=1.0;VER=2.0", "tools=\"a\";tools=\"b\"", "x=1;X=2"] {
        assert!(matches!(capabilities(text, Mode::Lenient), Err(HeaderError::Duplicate(_))), "{text}");
    }
    assert!(capabilities("x=1,x=2", Mode::Strict).is_ok(), "two entries");
}

#[test]
fn sec_10_header_limits() {
    let entries = |n: usize| vec!["ver=1"; n].join(",");
    assert!(capabilities(&entries(128), Mode::Strict).is_ok());
    assert_eq!(capabilities(&entries(129), Mode::Strict), Err(HeaderError::TooMany));
    let tools = |n: usize| format!("tools=\"{}\"", vec!["a"; n].join(","));
    assert!(capabilities(&tools(128), Mode::Strict).is_ok());
    assert_eq!(capabilities(&tools(129), Mode::Strict), Err(HeaderError::TooMany));
    let long = format!("x={}", "a".repeat(4095));
    assert_eq!(capabilities(&long, Mode::Strict), Err(HeaderError::TooLong));
    assert!(capabilities(&long[..4096], Mode::Strict).is_ok());
    let half = &long.as_bytes()[..2049];
    assert_eq!(Capabilities::parse_lines([half, half], Mode::Strict), Err(HeaderError::TooLong), "all lines together");
    assert_eq!(Capabilities::parse(b"x=\xff", Mode::Lenient), Err(HeaderError::NotUtf8));
    assert_eq!(Select::parse(&[b'a'; 4097], Mode::Strict), Err(HeaderError::TooLong));
}

#[test]
fn neg_8_select_of_the_draft() {
    let header = select("tools=\"summarize@1\"; role=\"assistant\"; policy=\"safe\"", Mode::Strict).unwrap();
    assert_eq!(header.tools.as_deref(), Some(&[ToolRef::versioned("summarize", 1)][..]));
    assert_eq!((header.role.as_deref(), header.policy.as_deref()), (Some("assistant"), Some("safe")));
    assert_eq!(header.to_string(), "tools=\"summarize@1\";role=\"assistant\";policy=\"safe\"");
    let abnf = select("tools=\"summarize@1\",role=\"assistant\",policy=\"safe\"", Mode::Strict).unwrap();
    assert_eq!(abnf, header, "the comma list of the ABNF");
}

#[test]
fn neg_8_select_keeps_generic_parameters() {
    let header = select("role=\"a\";x=\"1;2\";y", Mode::Strict).unwrap();
    assert_eq!(header.generic.iter().map(Parameter::to_string).collect::<Vec<_>>(), ["x=\"1;2\"", "y"]);
    assert_eq!(header.to_string(), "role=\"a\";x=\"1;2\";y");
}

#[test]
fn neg_8_select_strict_and_lenient() {
    for text in ["x=1", "role=assistant", "role=\"a b\"", "tools=\"a@1.0\"", "role=\"a\";x,policy=\"b\"", "", "role"] {
        assert!(select(text, Mode::Strict).is_err(), "{text}");
    }
    for text in ["role=assistant", "tools=a@1.0,b;role=x", "tools=a,b,role=x", "x=1,role=y", ";role=\"x\";", "x=1"] {
        assert!(select(text, Mode::Lenient).is_ok(), "{text}");
    }
    let loose = select("tools=a@1.0,b,role=x", Mode::Lenient).unwrap();
    assert_eq!(loose.tools.unwrap().len(), 2);
    assert_eq!(loose.role.as_deref(), Some("x"));
    assert!(matches!(select("role=\"a\";Role=\"b\"", Mode::Lenient), Err(HeaderError::Duplicate(_))));
    assert_eq!(select(" ", Mode::Lenient), Err(HeaderError::Empty));
    assert_eq!(select(";", Mode::Lenient), Err(HeaderError::Empty));
}

#[test]
fn d7_versions_compare_as_numbers() {
    let tool = |text: &str| ToolRef::parse(text, Mode::Lenient).unwrap();
    assert!(tool("a@1").fits(&tool("a@1.0")) && tool("a@01").fits(&tool("a@1")) && tool("a").fits(&tool("a@7")));
    assert!(!tool("a@1").fits(&tool("a@2")) && !tool("a@1").fits(&tool("b@1")) && !tool("a@1.1").fits(&tool("a@1")));
    assert!(tool("a@0").fits(&tool("a@0.0")) && !tool("a@10").fits(&tool("a@1")));
    assert!(ToolRef::parse(&"x".repeat(129), Mode::Lenient).is_err());
}

#[test]
fn exchange_header_is_read_and_printed() {
    let id = "AAAAAAAAAAAAAAAAAAAAAA";
    let header = McpExchange::parse(format!("{id};rel=caller;x=\"1\"").as_bytes()).unwrap();
    assert_eq!(header.exchange, id.parse::<Exchange>().unwrap());
    assert_eq!(header.relation, Relation::Caller);
    assert_eq!(header.to_string(), format!("{id};rel=caller;x=\"1\""));
    let session = McpExchange::parse(b" session ; REL = Callee ").unwrap();
    assert_eq!(session, McpExchange::new(Exchange::Session, Relation::Callee));
    assert_eq!(session.to_string(), "session;rel=callee");
}

#[test]
fn exchange_header_refuses_what_is_not_its_grammar() {
    let id = "AAAAAAAAAAAAAAAAAAAAAA";
    assert_eq!(McpExchange::parse(id.as_bytes()), Err(HeaderError::Missing("rel")));
    for text in [
        String::new(),
        format!("{};rel=caller", "A".repeat(21)),
        format!("{};rel=caller", "A".repeat(44)),
        format!("{};rel=caller", "A+".repeat(11)),
        "Session;rel=caller".to_owned(),
        format!("{id};rel=both"),
        format!("{id};rel"),
        format!("{id};rel=caller;rel=callee"),
        format!("{id};rel=caller x"),
        format!("{id},{id};rel=caller"),
    ] {
        assert!(McpExchange::parse(text.as_bytes()).is_err(), "{text}");
    }
    assert!(McpExchange::parse(format!("{};rel=caller", "A".repeat(43)).as_bytes()).is_ok());
}
