//! Objects for tests, as a watch would deliver them.

use crate::index::{Index, Object};
use crate::key::{Key, Kind};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

fn parse<T: serde::de::DeserializeOwned>(value: Value) -> Box<T> {
    Box::new(serde_json::from_value(value).expect("a valid object"))
}

/// `version`: generation and resourceVersion at once.
fn meta(kind: &str, namespace: &str, name: &str, version: u64) -> Value {
    let mut meta = json!({
        "name": name, "uid": format!("{kind}-{namespace}-{name}"), "generation": version, "resourceVersion": version.to_string(),
        "creationTimestamp": "2026-11-20T12:00:00Z",
    });
    if !namespace.is_empty() {
        meta["namespace"] = namespace.into();
    }
    meta
}

fn custom<T: serde::de::DeserializeOwned>(
    kind: &str,
    namespace: &str,
    name: &str,
    version: u64,
    spec: Value,
) -> Box<T> {
    let metadata = meta(kind, namespace, name, version);
    parse(json!({"apiVersion": "sipmcp.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}))
}

pub fn edge(name: &str, version: u64) -> Object {
    let listeners = json!([{"name": "tcp", "protocol": "TCP", "port": 5060}]);
    let network = json!({"advertise": {"name": "sip.example"}});
    Object::Edge(custom(
        "SipEdge",
        "system",
        name,
        version,
        json!({"network": network, "listeners": listeners, "insecure": true}),
    ))
}

/// An edge whose listener has the certificate of that Secret.
pub fn tls_edge(name: &str, version: u64, certificate: &str) -> Object {
    let listener =
        json!({"name": "tls", "protocol": "TLS", "port": 5061, "tls": {"certificateRefs": [{"name": certificate}]}});
    let network = json!({"advertise": {"name": "sip.example"}});
    Object::Edge(custom("SipEdge", "system", name, version, json!({"network": network, "listeners": [listener]})))
}

pub fn store(name: &str, version: u64) -> Object {
    let redis = json!({"topology": "Single", "addresses": ["redis:6379"]});
    Object::Store(custom("SessionStore", "system", name, version, json!({"redis": redis})))
}

pub fn domain(name: &str, version: u64) -> Object {
    Object::Domain(custom("SipDomain", "", name, version, json!({"domain": format!("{name}.example")})))
}

/// An agent with a credential in that Secret.
pub fn agent(name: &str, version: u64, domain: &str, credential: Option<&str>) -> Object {
    let mut http = json!({"url": format!("http://{name}.acme.svc:8080/mcp")});
    if let Some(secret) = credential {
        http["credentialRef"] = json!({"name": secret});
    }
    let spec = json!({
        "address": {"user": name, "domainRef": {"name": domain}},
        "backend": {"mcpHttp": http},
        "capabilities": {"source": "Discovered"},
    });
    Object::Agent(custom("McpAgent", "acme", name, version, spec))
}

pub fn policy(name: &str, version: u64, agent: &str) -> Object {
    let spec = json!({
        "targetRefs": [{"group": "sipmcp.dev", "kind": "McpAgent", "name": agent}],
        "rules": [{"name": "all", "from": [{"anonymous": {}}], "action": "Allow"}],
    });
    Object::Policy(custom("McpCapabilityPolicy", "acme", name, version, spec))
}

/// A policy of a namespace for domains: it denies everything.
pub fn domain_policy(namespace: &str, name: &str, version: u64, domains: &[&str]) -> Object {
    let targets: Vec<_> = domains.iter().map(|name| json!({"kind": "SipDomain", "name": name})).collect();
    let spec = json!({
        "targetRefs": targets, "defaultAction": "Allow", "rules": [{"name": "shut", "action": "Deny"}],
    });
    Object::Policy(custom("McpCapabilityPolicy", namespace, name, version, spec))
}

/// A domain that takes policies of these namespaces.
pub fn owned_domain(name: &str, version: u64, owners: &[&str]) -> Object {
    let spec = json!({"domain": format!("{name}.example"), "policyNamespaces": owners});
    Object::Domain(custom("SipDomain", "", name, version, spec))
}

/// A policy of a form that the schema takes and the rules refuse.
pub fn broken_policy(name: &str, version: u64, agent: &str) -> Object {
    let spec = json!({
        "targetRefs": [{"group": "sipmcp.dev", "kind": "McpAgent", "name": agent}],
        "defaultAction": "Deny",
        "rules": [{"name": "all", "from": [{"anonymous": {}}], "action": "Deny"}],
    });
    Object::Policy(custom("McpCapabilityPolicy", "acme", name, version, spec))
}

pub fn secret(name: &str, version: u64, key: &str, value: &str) -> Object {
    let metadata: ObjectMeta = *parse(meta("Secret", "acme", name, version));
    let data = [(key.to_owned(), ByteString(value.as_bytes().to_vec()))].into();
    Object::Secret(Secret { metadata, data: Some(data), ..Secret::default() })
}

pub fn config_map(name: &str, version: u64) -> Object {
    let metadata: ObjectMeta = *parse(meta("ConfigMap", "acme", name, version));
    Object::ConfigMap(ConfigMap {
        metadata,
        data: Some([("ca.crt".to_owned(), "x".to_owned())].into()),
        ..ConfigMap::default()
    })
}

pub fn key(kind: Kind, name: &str) -> Key {
    let namespace = match kind {
        Kind::SipDomain => "",
        Kind::SipEdge | Kind::SessionStore => "system",
        _ => "acme",
    };
    Key::of(kind, namespace, name)
}

/// An index where everything was listed.
pub fn index(objects: impl IntoIterator<Item = Object>) -> Index {
    let mut index = Index::default();
    for domain in ["d0", "d1"] {
        index.number(&format!("{domain}.example"), 7);
    }
    index.numbers_are_known();
    let objects: Vec<_> = objects.into_iter().collect();
    for kind in Kind::ALL {
        let of_kind = objects.iter().filter(|object| object.key().kind == kind).cloned().collect();
        index.reset(kind, of_kind).expect("room");
    }
    serve(&mut index, &objects);
    index
}

/// Answers the index's fetches from these objects, as the API server would.
pub fn serve(index: &mut Index, objects: &[Object]) {
    for key in index.fetches().cloned().collect::<Vec<_>>() {
        match objects.iter().find(|object| object.key() == key) {
            Some(object) => {
                index.apply(object.clone()).expect("room");
            }
            None => {
                index.delete(&key, None);
            }
        }
    }
}
