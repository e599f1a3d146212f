//! An object as the API server sends it, of a type or not: one that does not fit its type never stops a watch.

use crds::manifest::unknown_fields;
use crds::v1alpha1::{TargetKind, targets_of};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::borrow::Cow;

/// An object, or what could be read of it. The like of `kube`'s `DeserializeGuard`, which keeps less.
#[derive(Clone, Debug)]
pub enum Read<K> {
    Whole(Box<K>),
    Broken(Box<Broken>),
}

/// What could be read of an object that does not fit its type.
#[derive(Clone, Debug)]
pub struct Broken {
    pub error: String,
    pub metadata: ObjectMeta,
    /// `spec.targetRefs`, where it has one that can be read to its end.
    pub targets: Option<Vec<(TargetKind, String)>>,
}

impl<'de, K: DeserializeOwned + Resource<DynamicType = ()>> Deserialize<'de> for Read<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let whole = Value::deserialize(deserializer)?;
        let error = match (later_fields::<K>(&whole), K::deserialize(&whole)) {
            (None, Ok(object)) => return Ok(Read::Whole(Box::new(object))),
            (Some(fields), Ok(_)) => fields,
            (_, Err(error)) => error.to_string(),
        };
        let metadata = whole.get("metadata").unwrap_or(&Value::Null);
        let metadata = ObjectMeta::deserialize(metadata).map_err(D::Error::custom)?;
        Ok(Read::Broken(Box::new(Broken { error, metadata, targets: targets_of(&whole) })))
    }
}

/// Of a policy: its fields that only a later release knows. One may be a restriction, and edges are not told what is dropped here.
fn later_fields<K: Resource<DynamicType = ()>>(object: &Value) -> Option<String> {
    let kind = K::kind(&());
    if kind != "McpCapabilityPolicy" {
        return None;
    }
    let fields = unknown_fields(&kind, object);
    (!fields.is_empty()).then(|| format!("{}: not known to this release of the operator", fields.join(", ")))
}

impl<K: Resource> Resource for Read<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(of: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(of)
    }

    fn group(of: &Self::DynamicType) -> Cow<'_, str> {
        K::group(of)
    }

    fn version(of: &Self::DynamicType) -> Cow<'_, str> {
        K::version(of)
    }

    fn plural(of: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(of)
    }

    fn meta(&self) -> &ObjectMeta {
        match self {
            Read::Whole(object) => object.meta(),
            Read::Broken(broken) => &broken.metadata,
        }
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Read::Whole(object) => object.meta_mut(),
            Read::Broken(broken) => &mut broken.metadata,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crds::v1alpha1::McpCapabilityPolicy;
    use serde_json::json;

    fn read(spec: Value) -> Read<McpCapabilityPolicy> {
        let metadata = json!({"name": "p", "namespace": "acme", "uid": "u"});
        let object = json!({"apiVersion": "sipmcp.dev/v1alpha1", "kind": "McpCapabilityPolicy", "metadata": metadata, "spec": spec});
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn a_broken_policy_says_for_whom_it_is_where_that_can_be_read() {
        let target = json!({"group": "sipmcp.dev", "kind": "McpAgent", "name": "a"});
        assert!(matches!(read(json!({"targetRefs": [target], "rules": []})), Read::Whole(_)));
        let Read::Broken(broken) = read(json!({"targetRefs": [target], "rules": "all"})) else {
            panic!("it is broken")
        };
        assert_eq!(broken.metadata.name.as_deref(), Some("p"));
        assert_eq!(broken.targets, Some(vec![(TargetKind::McpAgent, "a".to_owned())]));
        let Read::Broken(broken) = read(json!({"targetRefs": [target, {"kind": "Other"}], "rules": "all"})) else {
            panic!("it is broken")
        };
        assert_eq!(broken.targets, None, "who cannot read all of it closes everything that it may be for");
    }

    #[test]
    fn sec_6_a_policy_with_a_field_of_a_later_release_is_broken() {
        let target = json!({"group": "sipmcp.dev", "kind": "McpAgent", "name": "a"});
        let rule = json!({"name": "r", "action": "Allow", "fromFuture": 1});
        let Read::Broken(broken) = read(json!({"targetRefs": [target], "rules": [rule]})) else {
            panic!("its restriction would be dropped")
        };
        assert!(broken.error.starts_with("spec.rules[0].fromFuture"), "{}", broken.error);
        assert_eq!(broken.targets, Some(vec![(TargetKind::McpAgent, "a".to_owned())]));
    }
}
