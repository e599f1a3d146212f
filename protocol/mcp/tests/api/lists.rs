use mcp_sip::jsonrpc::{ListError, ListOf};

use crate::message;

fn list(result: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"result":{result}}}"#)
}

#[test]
fn sec_6_a_filtered_list_is_private() {
    let text =
        list(r#"{"tools":[ {"name":"a","x":1.0} , {"name":"b"},{"name":"c"}],"cacheScope":"public","nextCursor":"n"}"#);
    let filtered = message(text.as_str()).filter_list(ListOf::Tools, |name| name != "b").unwrap();
    assert_eq!((filtered.kept, filtered.removed), (2, 1));
    let expected = list(r#"{"tools":[{"name":"a","x":1.0},{"name":"c"}],"cacheScope":"private","nextCursor":"n"}"#);
    assert_eq!(filtered.bytes, expected);
    let text = list(r#"{"tools":[{"name":"a"}]}"#);
    let filtered = message(text.as_str()).filter_list(ListOf::Tools, |_| false).unwrap();
    assert_eq!(filtered.bytes, list(r#"{"tools":[],"cacheScope":"private"}"#));
    let text = list(r#"{"cacheScope":"public","tools":[{"name":"a"}]}"#);
    let filtered = message(text.as_str()).filter_list(ListOf::Tools, |_| false).unwrap();
    assert_eq!(filtered.bytes, list(r#"{"cacheScope":"private","tools":[]}"#));
}

#[test]
fn sec_14_an_unfiltered_list_is_the_same_bytes() {
    let text = list(r#"{ "tools" : [ {"name":"a"} , {"name":"b"} ], "cacheScope":"public" }"#);
    let envelope = message(text.as_str());
    let filtered = envelope.filter_list(ListOf::Tools, |_| true).unwrap();
    assert_eq!(filtered.removed, 0);
    assert_eq!(filtered.bytes.as_ptr(), envelope.bytes().as_ptr(), "not even a copy");
}

#[test]
fn sec_6_what_cannot_be_judged_is_not_shown() {
    let text = list(
        r#"{"tools":[{"name":"a","name":"b"},{"name":"a","Name":"b"},{"title":"a"},{"name":1},7,{"n\u0061me":"\u0061"}]}"#,
    );
    let mut asked = Vec::new();
    let filtered = message(text.as_str())
        .filter_list(ListOf::Tools, |name| {
            asked.push(name.to_owned());
            true
        })
        .unwrap();
    assert_eq!(asked, ["a"], "escapes are seen through");
    assert_eq!(filtered.bytes, list(r#"{"tools":[{"n\u0061me":"\u0061"}],"cacheScope":"private"}"#));
}

#[test]
fn sec_6_a_list_that_two_readers_would_read_apart_is_refused() {
    let error = |result: &str| message(list(result)).filter_list(ListOf::Tools, |_| true).unwrap_err();
    assert_eq!(error(r#"{"tools":[],"tools":[]}"#), ListError::Duplicate);
    assert_eq!(error(r#"{"tools":[],"Tools":[]}"#), ListError::Duplicate);
    assert_eq!(error(r#"{"tools":[],"cacheScope":"a","cacheScope":"b"}"#), ListError::Duplicate);
    assert_eq!(error(r#"{"tools":{}}"#), ListError::NoList);
    assert_eq!(error("{}"), ListError::NoList);
    assert_eq!(error("[]"), ListError::NoResult);
    let request = message(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#);
    assert_eq!(request.filter_list(ListOf::Tools, |_| true).unwrap_err(), ListError::NoResult);
}

#[test]
fn every_list_has_its_method_member_and_name() {
    for (method, list_of, result) in [
        ("tools/list", ListOf::Tools, r#"{"tools":[{"name":"x"}]}"#),
        ("prompts/list", ListOf::Prompts, r#"{"prompts":[{"name":"x"}]}"#),
        ("resources/list", ListOf::Resources, r#"{"resources":[{"uri":"x","name":"y"}]}"#),
        ("resources/templates/list", ListOf::ResourceTemplates, r#"{"resourceTemplates":[{"uriTemplate":"x"}]}"#),
    ] {
        assert_eq!(ListOf::of_method(method), Some(list_of));
        let envelope = message(list(result));
        assert_eq!(envelope.list_names(list_of).unwrap(), ["x"]);
        assert!(envelope.list_entry(list_of, "x").unwrap().unwrap().starts_with(b"{"));
        assert_eq!(envelope.list_entry(list_of, "z").unwrap(), None);
    }
    assert_eq!(ListOf::of_method("tools/call"), None);
}
