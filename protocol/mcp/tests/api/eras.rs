//! The table of 5.1, row by row, and what a relation of one era says to the other.

use mcp_sip::era::{Era, Established, LEGACY, MODERN, RelationEra, is_date_token};
use mcp_sip::errors::RpcError;
use mcp_sip::jsonrpc::Envelope;
use serde_json::json;

use crate::message;

const CAPS: &str = r#""io.modelcontextprotocol/clientCapabilities":{}"#;

fn initialize(version: &str) -> Envelope {
    message(format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{{"protocolVersion":"{version}","capabilities":{{}},"clientInfo":{{"name":"a","version":"1"}}}}}}"#
    ))
}

fn modern(method: &str, version: &str) -> Envelope {
    message(format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{"_meta":{{"io.modelcontextprotocol/protocolVersion":"{version}",{CAPS}}}}}}}"#
    ))
}

fn plain(method: &str) -> Envelope {
    message(format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}"}}"#))
}

fn relation(served: &[&str], established: Established<'_>) -> RelationEra {
    RelationEra::new(&served.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>(), established)
}

fn both() -> RelationEra {
    relation(&["2026-07-28", "2025-11-25"], Established::default())
}

#[test]
fn era_1_initialize_is_legacy() {
    let mut relation = both();
    assert_eq!(relation.admit(&initialize("2025-06-18")), Ok(Some(Era::Legacy)));
    assert_eq!((relation.era(), relation.version()), (Some(Era::Legacy), None), "the server names the version");
    relation.agreed("2025-06-18");
    assert_eq!(relation.version(), Some("2025-06-18"));
    assert_eq!(relation.admit(&plain("tools/list")), Ok(Some(Era::Legacy)));
}

#[test]
fn era_2_a_request_with_meta_or_discover_is_modern_of_that_version() {
    for method in ["tools/list", "server/discover"] {
        let mut relation = both();
        assert_eq!(relation.admit(&modern(method, "2026-07-28")), Ok(Some(Era::Modern)));
        assert_eq!(relation.version(), Some("2026-07-28"));
    }
}

#[test]
fn era_3_after_an_envelope_a_plain_request_is_legacy() {
    let mut relation = relation(&LEGACY, Established { envelope: true, version: None });
    assert_eq!(relation.admit(&plain("tools/list")), Ok(Some(Era::Legacy)));
    assert_eq!(relation.version(), Some("2025-11-25"), "the envelope stands for initialize");
}

#[test]
fn era_4_without_an_envelope_the_missing_field_is_named() {
    let mut relation = both();
    let error = relation.admit(&plain("tools/list")).unwrap_err();
    assert_eq!(error.code, -32602);
    assert!(error.message.contains("io.modelcontextprotocol/protocolVersion"), "{error}");
    assert_eq!(relation.era(), None, "a refusal decides nothing");
    assert_eq!(relation.admit(&initialize("2025-11-25")), Ok(Some(Era::Legacy)));
}

#[test]
fn era_a_negotiated_version_decides() {
    let mut modern_leg = relation(&["2026-07-28"], Established { envelope: true, version: Some("2026-07-28") });
    assert_eq!((modern_leg.era(), modern_leg.version()), (Some(Era::Modern), Some("2026-07-28")));
    let error = modern_leg.admit(&plain("tools/list")).unwrap_err();
    assert_eq!(error.code, -32602, "the envelope stands for initialize on a legacy relation only");
    let mut legacy_leg = relation(&LEGACY, Established { envelope: true, version: Some("2025-06-18") });
    assert_eq!(legacy_leg.admit(&plain("tools/list")), Ok(Some(Era::Legacy)));
    assert_eq!(legacy_leg.version(), Some("2025-06-18"));
}

#[test]
fn era_notifications_and_answers_decide_nothing() {
    let mut relation = both();
    let text = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    assert_eq!(relation.admit(&message(text)), Ok(None));
    assert_eq!(relation.admit(&message(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#)), Ok(None));
}

#[test]
fn sec_9_required_meta_is_required() {
    let mut relation = both();
    let missing = |error: RpcError| (error.code, error.data.unwrap()["missing"].as_str().unwrap().to_owned());
    let error = relation.admit(&plain("server/discover")).unwrap_err();
    assert_eq!(missing(error), (-32602, r#"params._meta["io.modelcontextprotocol/protocolVersion"]"#.into()));
    for caps in ["", r#","io.modelcontextprotocol/clientCapabilities":null"#] {
        let error = relation
            .admit(&message(format!(
                r#"{{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{{"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28"{caps}}}}}}}"#
            )))
            .unwrap_err();
        assert_eq!(missing(error), (-32602, r#"params._meta["io.modelcontextprotocol/clientCapabilities"]"#.into()));
    }
    let error = relation.admit(&plain("initialize")).unwrap_err();
    assert_eq!(missing(error), (-32602, "params.protocolVersion".into()));
    assert_eq!(relation.era(), None);
}

#[test]
fn neg_12_an_unknown_version_gets_32022_with_what_is_served() {
    let error = both().admit(&modern("tools/list", "2099-01-01")).unwrap_err();
    assert_eq!(error.code, -32022);
    assert_eq!(error.data, Some(json!({"supported": ["2026-07-28", "2025-11-25"], "requested": "2099-01-01"})));
    // A legacy version in the modern form is no version of that form.
    assert_eq!(both().admit(&modern("tools/list", "2025-11-25")).unwrap_err().code, -32022);
}

#[test]
fn neg_12_a_caller_of_the_other_era_is_told_what_is_served() {
    let mut legacy = relation(&LEGACY, Established::default());
    let error = legacy.admit(&modern("server/discover", "2026-07-28")).unwrap_err();
    assert_eq!((error.code, error.data.unwrap()["supported"].clone()), (-32022, json!(LEGACY)));
    let mut modern_only = relation(&MODERN, Established::default());
    let error = modern_only.admit(&initialize("2025-11-25")).unwrap_err();
    assert_eq!(error.code, -32602, "an error on initialize");
    assert_eq!(error.data, Some(json!({"supported": MODERN, "requested": "2025-11-25"})));
    // The same once the relation is decided, though the server has both.
    let mut decided = both();
    decided.admit(&initialize("2025-11-25")).unwrap();
    assert_eq!(decided.admit(&modern("tools/list", "2026-07-28")).unwrap_err().code, -32022);
    let mut decided = both();
    decided.admit(&modern("tools/list", "2026-07-28")).unwrap();
    assert_eq!(decided.admit(&initialize("2025-11-25")).unwrap_err().code, -32602);
    assert_eq!(decided.admit(&plain("tools/list")).unwrap_err().code, -32602);
}

#[test]
fn era_survives_in_a_record() {
    let served = vec!["2025-11-25".to_owned()];
    let mut relation = RelationEra::restored(&served, false, Some(Era::Legacy), Some("2025-11-25"));
    assert_eq!(relation.admit(&plain("tools/list")), Ok(Some(Era::Legacy)));
    assert_eq!(relation.version(), Some("2025-11-25"));
}

#[test]
fn era_versions_and_date_tokens() {
    assert_eq!(Era::of_version("2026-07-28"), Some(Era::Modern));
    assert!(LEGACY.iter().all(|version| Era::of_version(version) == Some(Era::Legacy)));
    assert_eq!(Era::of_version("1.0"), None);
    assert!(is_date_token("2026-07-28"));
    for other in ["1.0", "2026-7-28", "2026-07-2x", "2026/07/28", ""] {
        assert!(!is_date_token(other), "{other}");
    }
}
