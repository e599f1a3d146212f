//! One object as the index keeps it.

use bytes::Bytes;
use crds::manifest::ObjectKey;
use crds::validate::Finding;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use zeroize::Zeroizing;

/// One object, what is wrong with it by itself, and its form on the control stream.
#[derive(Debug)]
pub struct Entry<T> {
    pub object: Arc<T>,
    pub uid: String,
    /// `None` where the API server gave none that is a number.
    pub resource_version: Option<u64>,
    /// `metadata.generation`; 0 where there is none.
    pub generation: i64,
    pub content: Content,
    /// Rules of its kind that it breaks: it is left out of every snapshot.
    pub findings: Vec<Finding>,
}

/// An object as it travels. Cheap to clone; wiped when the last clone is dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    pub version: Arc<str>,
    pub json: Bytes,
}

/// Namespace and name of an object of the API.
#[must_use]
pub fn key_of(meta: &ObjectMeta) -> ObjectKey {
    ObjectKey::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}

/// An object of `sipmcp.dev`: `{apiVersion, kind, metadata, spec}`, version `uid/generation`. Of the labels only those of a SipDomain mean
/// something to an edge (`allowedDomains`); they do not raise the generation, so the version names them too.
pub(super) fn custom<S: Serialize>(kind: &str, meta: &ObjectMeta, labelled: bool, spec: &S) -> Content {
    let uid = meta.uid.as_deref().unwrap_or_default();
    let mut version = format!("{uid}/{}", meta.generation.unwrap_or_default());
    let mut metadata = json!({
        "name": meta.name, "uid": meta.uid, "generation": meta.generation, "creationTimestamp": meta.creation_timestamp,
    });
    if let Some(namespace) = &meta.namespace {
        metadata["namespace"] = json!(namespace);
    }
    if let Some(labels) = meta.labels.as_ref().filter(|labels| labelled && !labels.is_empty()) {
        metadata["labels"] = json!(labels);
        let digest = Sha256::digest(json!(labels).to_string());
        let _ = write!(version, "/{}", hex(&digest[..8]));
    }
    let json = json!({"apiVersion": crds::v1alpha1::API_VERSION, "kind": kind, "metadata": metadata, "spec": spec});
    Content { version: version.into(), json: json.to_string().into() }
}

/// Addresses that only the cluster knows, beside a SipEdge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reach {
    /// Of the ingress Service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Of the nodes, by pod.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub pods: BTreeMap<String, String>,
}

/// A SipEdge as it travels, with the addresses of its edges. They raise no generation, so the version names them too.
pub(super) fn reached(edge: &Content, reach: &Reach) -> Content {
    if *reach == Reach::default() {
        return edge.clone();
    }
    let reach = json!(reach).to_string();
    let version = format!("{}/{}", edge.version, hex(&Sha256::digest(&reach)[..8]));
    let mut json = edge.json.to_vec();
    // The end of the object.
    json.pop();
    json.extend_from_slice(format!(r#","reach":{reach}}}"#).as_bytes());
    Content { version: version.into(), json: json.into() }
}

/// A Secret: `{apiVersion, kind, metadata{name, namespace}, type, data}`, the values in base64. No copy of a value stays behind.
pub(super) fn secret(secret: &crds::core_v1::Secret) -> Content {
    let head = json!({"name": secret.name, "namespace": secret.namespace}).to_string();
    let type_ = json!(secret.type_).to_string();
    let values = secret.data.iter().map(|(key, value)| key.len() * 6 + value.as_bytes().len().div_ceil(3) * 4 + 8);
    // Large enough for everything, so that no half of it is left where the buffer grew.
    let mut out = Zeroizing::new(Vec::with_capacity(values.sum::<usize>() + head.len() + type_.len() + 80));
    out.extend_from_slice(br#"{"apiVersion":"v1","kind":"Secret","metadata":"#);
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(br#","type":"#);
    out.extend_from_slice(type_.as_bytes());
    out.extend_from_slice(br#","data":{"#);
    for (index, (key, value)) in secret.data.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(json!(key).to_string().as_bytes());
        out.extend_from_slice(b":\"");
        base64(value.as_bytes(), &mut out);
        out.push(b'"');
    }
    out.extend_from_slice(b"}}");
    hashed(Bytes::from_owner(out))
}

/// A ConfigMap: `{apiVersion, kind, metadata{name, namespace}, data}`.
pub(super) fn config_map(map: &crds::core_v1::ConfigMap) -> Content {
    let metadata = json!({"name": map.name, "namespace": map.namespace});
    hashed(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": map.data}).to_string().into())
}

/// Ready endpoints: `{ports[{port, addresses[]}]}`.
pub(super) fn endpoints(endpoints: &crate::plan::backends::Endpoints) -> Content {
    let port = |(port, addresses): (&u16, &std::collections::BTreeSet<std::net::SocketAddr>)| json!({"port": port, "addresses": addresses.iter().map(ToString::to_string).collect::<Vec<_>>()});
    hashed(json!({"ports": endpoints.iter().map(port).collect::<Vec<_>>()}).to_string().into())
}

/// Content without a generation: its version is what it is.
fn hashed(json: Bytes) -> Content {
    let version = format!("sha256:{}", hex(&Sha256::digest(&json)));
    Content { version: version.into(), json }
}

fn hex(octets: &[u8]) -> String {
    octets.iter().fold(String::with_capacity(octets.len() * 2), |mut text, octet| {
        let _ = write!(text, "{octet:02x}");
        text
    })
}

/// RFC 4648 section 4, with padding, straight into the buffer.
fn base64(octets: &[u8], out: &mut Vec<u8>) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for group in octets.chunks(3) {
        let bits = group.iter().fold(0_u32, |bits, octet| bits << 8 | u32::from(*octet)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let six = bits >> (18 - 6 * place) & 63;
            out.push(if place <= group.len() { ALPHABET[six as usize] } else { b'=' });
        }
    }
}

/// The values move; none is copied.
pub(super) fn read_secret(secret: core::Secret) -> crds::core_v1::Secret {
    let key = key_of(&secret.metadata);
    let data = secret.data.unwrap_or_default().into_iter();
    crds::core_v1::Secret {
        name: key.name,
        namespace: key.namespace,
        type_: secret.type_.unwrap_or_else(|| "Opaque".to_owned()),
        data: data.map(|(name, value)| (name, crds::core_v1::SecretBytes::new(value.0))).collect(),
    }
}

pub(super) fn read_config_map(map: core::ConfigMap) -> crds::core_v1::ConfigMap {
    let key = key_of(&map.metadata);
    crds::core_v1::ConfigMap { name: key.name, namespace: key.namespace, data: map.data.unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crds::core_v1::{Secret, SecretBytes};
    use k8s_openapi::ByteString;

    #[test]
    fn a_secret_travels_as_the_api_writes_it() {
        for value in [&b""[..], b"f", b"fo", b"foo", b"foob", b"\xff\x00\xfe"] {
            let data = [("a\"key".to_owned(), value), ("other".to_owned(), b"x")];
            let data = data.into_iter().map(|(key, value)| (key, SecretBytes::new(value.to_vec()))).collect();
            let written = secret(&Secret { name: "n".into(), namespace: "ns".into(), type_: "Opaque".into(), data });
            let read: core::Secret = serde_json::from_slice(&written.json).unwrap();
            assert_eq!(read.data.unwrap()["a\"key"], ByteString(value.to_vec()));
            assert_eq!((read.type_.as_deref(), read.metadata.namespace.as_deref()), (Some("Opaque"), Some("ns")));
        }
    }

    #[test]
    fn labels_are_part_of_a_version_only_where_an_edge_reads_them() {
        let labels = |value: &str| Some([("tenant".to_owned(), value.to_owned())].into());
        let meta = |value| ObjectMeta {
            uid: Some("u".into()),
            generation: Some(3),
            labels: labels(value),
            ..Default::default()
        };
        let version = |value, labelled| custom("SipDomain", &meta(value), labelled, &()).version;
        assert_eq!(&*version("a", false), "u/3");
        assert_ne!(version("a", true), version("b", true));
        assert!(version("a", true).starts_with("u/3/"));
    }
}
