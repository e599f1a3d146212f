//! The CEL rules of the schema, run as the API server runs them.

use crds::schema;
use crds::v1alpha1::{McpAgent, McpCapabilityPolicy, SessionStore, SipDomain, SipEdge};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// What the CEL rules say of a document; `None` for one that is no object of ours or does not fit its types.
pub(super) fn errors(document: &str) -> Option<Vec<String>> {
    let value: Value = serde_saphyr::from_str(document).ok()?;
    let kind = value.get("kind")?.as_str()?.to_owned();
    let value = match &*kind {
        "SipDomain" => defaulted::<SipDomain>(value),
        "SipEdge" => defaulted::<SipEdge>(value),
        "McpAgent" => defaulted::<McpAgent>(value),
        "McpCapabilityPolicy" => defaulted::<McpCapabilityPolicy>(value),
        "SessionStore" => defaulted::<SessionStore>(value),
        _ => None,
    }?;
    Some(run(&kind, &value, None))
}

/// The object as the server stores it, with the defaults of the schema.
fn defaulted<T: Serialize + DeserializeOwned>(value: Value) -> Option<Value> {
    serde_json::to_value(serde_json::from_value::<T>(value).ok()?).ok()
}

fn run(kind: &str, new: &Value, old: Option<&Value>) -> Vec<String> {
    let schema = serde_json::to_value(schema::of_kind(kind).unwrap()).unwrap();
    match kube_cel::Validator::new().validate(&schema, new, old) {
        Ok(()) => Vec::new(),
        Err(errors) => vec![errors.to_string()],
    }
}

#[test]
fn the_examples_pass_the_cel_rules() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    for folder in ["", "tls", "shared", "file", "kubernetes"].map(|folder| examples.join(folder)) {
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        for file in files.filter(|file| file.is_file()) {
            for document in fs::read_to_string(&file).unwrap().split("\n---\n") {
                assert_eq!(errors(document).unwrap_or_default(), [""; 0], "{}", file.display());
            }
        }
    }
}

#[test]
fn addresses_and_domains_are_immutable() {
    let domain =
        |name: &str| json!({"apiVersion": "sipmcp.dev/v1alpha1", "kind": "SipDomain", "spec": {"domain": name}});
    assert!(run("SipDomain", &domain("a"), Some(&domain("a"))).is_empty());
    assert!(run("SipDomain", &domain("b"), Some(&domain("a")))[0].contains("domain is immutable"));
    let agent = |user: &str| {
        json!({"spec": {"address": {"user": user, "domainRef": {"name": "d"}}, "backend": {"mcpHttp": {"url": "http://a/"}},
            "capabilities": {"source": "Declared"}, "inFlight": {}}})
    };
    assert!(run("McpAgent", &agent("a"), Some(&agent("a"))).is_empty());
    assert!(run("McpAgent", &agent("b"), Some(&agent("a")))[0].contains("address is immutable"));
    let store = |prefix: &str| {
        json!({"spec": {"redis": {"topology": "Single", "addresses": ["a:1"], "keyPrefix": prefix},
        "ttl": {"idle": "5m", "absolute": "24h"}}})
    };
    assert!(run("SessionStore", &store("a:"), Some(&store("a:"))).is_empty());
    assert!(run("SessionStore", &store("b:"), Some(&store("a:")))[0].contains("keyPrefix is immutable"));
}
