//! Which object: kind, namespace and name.

use crds::manifest::ObjectKey;
use edge_api::control;
use std::fmt;

/// Kinds of objects that the operator knows and an edge may receive. In this order they travel: what is referred to comes before
/// what refers to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Secret,
    ConfigMap,
    Namespace,
    /// Ready endpoints of a Service, under the name of the Service.
    Endpoints,
    SessionStore,
    SipDomain,
    SipEdge,
    McpCapabilityPolicy,
    McpAgent,
}

impl Kind {
    pub const ALL: [Kind; 9] = [
        Kind::Secret,
        Kind::ConfigMap,
        Kind::Namespace,
        Kind::Endpoints,
        Kind::SessionStore,
        Kind::SipDomain,
        Kind::SipEdge,
        Kind::McpCapabilityPolicy,
        Kind::McpAgent,
    ];

    /// `kind` as it stands in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Secret => "Secret",
            Kind::ConfigMap => "ConfigMap",
            Kind::Namespace => "Namespace",
            Kind::Endpoints => "Endpoints",
            Kind::SessionStore => "SessionStore",
            Kind::SipDomain => "SipDomain",
            Kind::SipEdge => "SipEdge",
            Kind::McpCapabilityPolicy => "McpCapabilityPolicy",
            Kind::McpAgent => "McpAgent",
        }
    }

    /// True for the kinds of `sipmcp.dev`.
    #[must_use]
    pub fn is_ours(self) -> bool {
        !matches!(self, Kind::Secret | Kind::ConfigMap | Kind::Namespace | Kind::Endpoints)
    }
}

impl From<Kind> for control::Kind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Secret => control::Kind::Secret,
            Kind::ConfigMap => control::Kind::ConfigMap,
            Kind::Namespace => control::Kind::Namespace,
            Kind::Endpoints => control::Kind::Endpoints,
            Kind::SessionStore => control::Kind::SessionStore,
            Kind::SipDomain => control::Kind::SipDomain,
            Kind::SipEdge => control::Kind::SipEdge,
            Kind::McpCapabilityPolicy => control::Kind::McpCapabilityPolicy,
            Kind::McpAgent => control::Kind::McpAgent,
        }
    }
}

/// An object. The namespace of a cluster-scoped one is empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub kind: Kind,
    pub object: ObjectKey,
}

impl Key {
    #[must_use]
    pub fn new(kind: Kind, object: ObjectKey) -> Self {
        Key { kind, object }
    }

    pub fn of(kind: Kind, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Key { kind, object: ObjectKey::new(namespace, name) }
    }

    /// As it travels.
    #[must_use]
    pub fn to_message(&self) -> control::Key {
        control::Key {
            kind: control::Kind::from(self.kind).into(),
            namespace: self.object.namespace.clone(),
            name: self.object.name.clone(),
        }
    }

    /// `None`: a kind that is not known here, a name that is empty or longer than the API allows.
    #[must_use]
    pub fn from_message(message: &control::Key) -> Option<Self> {
        let kind = Kind::ALL.into_iter().find(|kind| i32::from(control::Kind::from(*kind)) == message.kind)?;
        let fits = message.namespace.len() <= 63 && (1..=253).contains(&message.name.len());
        fits.then(|| Key::of(kind, &*message.namespace, &*message.name))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.object.namespace {
            "" => write!(f, "{} {}", self.kind.as_str(), self.object.name),
            _ => write!(f, "{} {}", self.kind.as_str(), self.object),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_comes_back_as_it_went_and_nonsense_does_not() {
        for kind in Kind::ALL {
            let key = Key::of(kind, "acme", "billing");
            assert_eq!(Key::from_message(&key.to_message()), Some(key));
        }
        let good = Key::of(Kind::Secret, "acme", "token").to_message();
        assert_eq!(Key::from_message(&control::Key { kind: 0, ..good.clone() }), None);
        assert_eq!(Key::from_message(&control::Key { kind: 77, ..good.clone() }), None);
        assert_eq!(Key::from_message(&control::Key { name: String::new(), ..good.clone() }), None);
        assert_eq!(Key::from_message(&control::Key { namespace: "n".repeat(64), ..good }), None);
    }
}
