//! References from one object to another.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Names an object in the namespace of the object that refers to it.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LocalRef {
    /// `metadata.name` of the object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Names an object from a cluster-scoped one, so the namespace is part of it.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NamespacedRef {
    /// `metadata.namespace` of the object.
    #[serde(default = "default_namespace")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// `metadata.name` of the object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// The namespace that is meant where none is given.
pub const DEFAULT_NAMESPACE: &str = "default";

/// The namespace of an object that names none.
pub fn default_namespace() -> String {
    DEFAULT_NAMESPACE.to_owned()
}
