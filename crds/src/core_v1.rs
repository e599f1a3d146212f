//! The two core kinds that manifests may carry: `Secret` and `ConfigMap` (`apiVersion: v1`).

pub mod keys;
pub mod users;

use k8s_openapi::api::core::v1 as core;
use std::collections::BTreeMap;
use std::fmt;
use zeroize::Zeroizing;

/// A `v1` Secret. `data` holds the decoded bytes of `data` and `stringData` (`stringData` wins, as in the API server).
#[derive(Clone, Debug, PartialEq)]
pub struct Secret {
    pub name: String,
    pub namespace: String,
    /// `Opaque` when the manifest names none.
    pub type_: String,
    pub data: BTreeMap<String, SecretBytes>,
}

impl Secret {
    /// `type` of a Secret with `tls.crt` and `tls.key`.
    pub const TYPE_TLS: &'static str = "kubernetes.io/tls";

    /// From the JSON of the API. `None`: it is none; a reason could hold a part of a value.
    pub fn from_json(json: &[u8]) -> Option<Self> {
        let read: core::Secret = serde_json::from_slice(json).ok()?;
        let data = read.data.unwrap_or_default().into_iter();
        Some(Secret {
            name: read.metadata.name?,
            namespace: read.metadata.namespace?,
            type_: read.type_.unwrap_or_else(|| "Opaque".to_owned()),
            // The values move; none is copied.
            data: data.map(|(key, value)| (key, SecretBytes::new(value.0))).collect(),
        })
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.data.get(key).map(SecretBytes::as_bytes)
    }
}

/// Bytes that are wiped when dropped and never printed.
#[derive(Clone, PartialEq)]
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    pub fn new(bytes: Vec<u8>) -> Self {
        SecretBytes(Zeroizing::new(bytes))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} bytes]", self.0.len())
    }
}

/// A `v1` ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigMap {
    pub name: String,
    pub namespace: String,
    pub data: BTreeMap<String, String>,
}

impl ConfigMap {
    /// From the JSON of the API.
    ///
    /// # Errors
    /// It is none.
    pub fn from_json(json: &[u8]) -> Result<Self, String> {
        let read: core::ConfigMap = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let (Some(name), Some(namespace)) = (read.metadata.name, read.metadata.namespace) else {
            return Err("has no name".to_owned());
        };
        Ok(ConfigMap { name, namespace, data: read.data.unwrap_or_default() })
    }
}
